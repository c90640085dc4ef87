//! Expressions against the calendar, and the laws of their instants.

use proptest::prelude::*;

use super::*;

fn cron(text: &str) -> Cron {
    text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
}

/// Milliseconds since 1970 of a date and a time of day.
fn at(year: u64, month: u64, day: u64, hour: u64, minute: u64) -> u64 {
    let is_leap = |y: u64| y.is_multiple_of(4) && (!y.is_multiple_of(100) || y.is_multiple_of(400));
    let years: u64 = (1970..year).map(|y| 365 + u64::from(is_leap(y))).sum();
    let lengths = [31, 28 + u64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let months: u64 = lengths[..month as usize - 1].iter().sum();
    (((years + months + day - 1) * 24 + hour) * 60 + minute) * 60_000
}

#[test]
fn the_next_instants_are_those_that_people_expect() {
    let new_year = at(2027, 1, 1, 0, 0);
    for (text, after, expected) in [
        ("15 * * * *", new_year, at(2027, 1, 1, 0, 15)),
        ("15 * * * *", at(2027, 1, 1, 0, 15), at(2027, 1, 1, 1, 15)),
        ("*/20 8-18 * * *", at(2027, 1, 1, 18, 40), at(2027, 1, 2, 8, 0)),
        ("0 0 31 * *", at(2027, 3, 31, 0, 0), at(2027, 5, 31, 0, 0)),
        // 2027 begins on a Friday.
        ("30 4 * * mon", new_year, at(2027, 1, 4, 4, 30)),
        ("30 4 * * 7", new_year, at(2027, 1, 3, 4, 30)),
        ("0 12 * * MON-FRI", new_year, at(2027, 1, 1, 12, 0)),
        ("0 0 13 * FRI", at(2027, 1, 8, 0, 0), at(2027, 1, 13, 0, 0)),
        ("0 0 */2 * *", at(2027, 1, 31, 0, 0), at(2027, 2, 1, 0, 0)),
        ("5,7-8,50 1 1 JUL *", new_year, at(2027, 7, 1, 1, 5)),
        ("@hourly", at(2027, 1, 1, 23, 0), at(2027, 1, 2, 0, 0)),
        ("@daily", new_year, at(2027, 1, 2, 0, 0)),
        ("@weekly", new_year, at(2027, 1, 3, 0, 0)),
        ("@monthly", new_year, at(2027, 2, 1, 0, 0)),
        ("every 15m", at(2027, 1, 1, 0, 1), at(2027, 1, 1, 0, 15)),
        ("every  6h", at(2027, 1, 1, 6, 0), at(2027, 1, 1, 12, 0)),
    ] {
        assert_eq!(cron(text).next(after), Some(expected), "{text} after {after}");
    }
}

#[test]
fn the_last_day_of_february_comes_when_there_is_one() {
    let leap = cron("0 0 29 2 *");
    assert_eq!(leap.next(at(2027, 1, 1, 0, 0)), Some(at(2028, 2, 29, 0, 0)));
    // 2100 is no leap year.
    assert_eq!(leap.next(at(2096, 2, 29, 0, 0)), Some(at(2104, 2, 29, 0, 0)));
    assert_eq!(leap.last(at(2103, 12, 31, 23, 59)), Some(at(2096, 2, 29, 0, 0)));
    assert_eq!(leap.count(at(2096, 1, 1, 0, 0), at(2104, 12, 1, 0, 0)), 2);
    assert_eq!(leap.next(LAST_MS), None, "no year has five digits");
    assert_eq!(leap.next(u64::MAX), None);
    assert_eq!(cron("every 1d").next(u64::MAX), None);
}

#[test]
fn what_never_comes_true_or_is_no_expression_is_refused_by_what_is_wrong() {
    for (text, why) in [
        ("0 0 30 2 *", "never comes true"),
        ("0 0 31 4,6,9,11 *", "never comes true"),
        ("* * * *", "4 fields"),
        ("", "1 fields"),
        ("60 * * * *", "in its minute, \"60\" is not from 0 to 59"),
        ("* 24 * * *", "in its hour"),
        ("* * 0 * *", "in its day"),
        ("* * * 13 *", "in its month"),
        ("* * * * 8", "in its weekday"),
        ("* * * FOO *", "in its month"),
        ("18-8 * * * *", "ends before it begins"),
        ("*/0 * * * *", "has no step"),
        ("5/15 * * * *", "has a step and no range"),
        ("+5 * * * *", "in its minute"),
        (", * * * *", "in its minute"),
        ("@reboot", "there are @hourly"),
        ("every 0m", "is not a time from"),
        ("every 367d", "is not a time from"),
        ("every fortnight", "is not a time from"),
        ("every 99999999999999999999d", "is not a time from"),
    ] {
        let e = text.parse::<Cron>().unwrap_err();
        assert!(e.message.contains(why), "{text:?}: {e}");
    }
    assert!("* ".repeat(200).parse::<Cron>().unwrap_err().message.contains("at most 256"));
}

fn a_field(from: u64, to: u64) -> impl Strategy<Value = String> {
    let one = prop_oneof![
        3 => Just("*".to_owned()),
        2 => (from..=to).prop_map(|n| n.to_string()),
        1 => (from..=to, from..=to).prop_map(|(a, b)| format!("{}-{}", a.min(b), a.max(b))),
        1 => (1..=to).prop_map(|step| format!("*/{step}")),
    ];
    prop::collection::vec(one, 1..3).prop_map(|parts| parts.join(","))
}

fn an_expression() -> impl Strategy<Value = String> {
    let fields = (a_field(0, 59), a_field(0, 23), a_field(1, 28), a_field(1, 12), a_field(0, 7));
    prop_oneof![
        8 => fields.prop_map(|(a, b, c, d, e)| format!("{a} {b} {c} {d} {e}")),
        1 => (1..2000u64).prop_map(|n| format!("every {n}m")),
    ]
}

proptest! {
    /// `next`, `last` and `count` say the same of the same instants, and the instants only grow.
    #[test]
    fn instants_grow_and_are_found_from_both_sides(
        text in an_expression(),
        from in at(1990, 1, 1, 0, 0)..at(2200, 1, 1, 0, 0),
    ) {
        let cron = cron(&text);
        let mut before = from;
        for nth in 1..20 {
            let next = cron.next(before).expect("there is always another one");
            prop_assert!(next > before, "{text}");
            prop_assert_eq!(cron.last(next), Some(next));
            prop_assert_eq!(cron.count(before, next), 1);
            prop_assert_eq!(cron.count(before, next - 1), 0);
            prop_assert_eq!(cron.count(next, next), 0);
            if next - from < 9 * 366 * 86_400_000 {
                prop_assert_eq!(cron.count(from, next), nth);
            }
            if nth > 1 {
                prop_assert_eq!(cron.last(next - 1), Some(before));
            }
            before = next;
        }
    }

    #[test]
    fn whatever_is_written_is_read_or_refused(text in "[0-9a-zA-Z*/,@ -]{0,40}") {
        if let Ok(cron) = text.parse::<Cron>() {
            prop_assert_eq!(cron.as_str().parse::<Cron>().unwrap(), cron);
        }
    }

    #[test]
    fn a_day_has_the_date_that_the_calendar_says(
        (year, month, day) in (1970..4000u64, 1..13u64, 1..29u64)
    ) {
        prop_assert_eq!(civil(at(year, month, day, 0, 0) / 86_400_000), (month, day));
    }
}
