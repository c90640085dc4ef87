//! When something recurs: cron expressions and `every`, in UTC.
//!
//! | text | instants |
//! | --- | --- |
//! | `MINUTE HOUR DAY MONTH WEEKDAY` | the minutes of which all five say yes |
//! | `@hourly` `@daily` `@weekly` `@monthly` | as people mean them: at the first minute |
//! | `every 15m`, in m, h or d | the multiples of that time since 1970 |
//!
//! A field is `*`, a number, a range `8-18`, either of the two with a step as in `*/15`, or several
//! of these with commas. Months and weekdays have names, `JAN` and `MON`; Sunday is 0 and 7. Where
//! both the day and the weekday are narrowed down, one of them is enough, as cron has ever had it.
//!
//! What is an instant follows from the text alone, so every node plans the same ones. There is no
//! local time: none of its days has 23 hours or 25.
//!
//! A text that never comes true, as February 30, is refused. So `next` always comes to an end
//! (`limits::CRON_DAYS_LOOKED`), and finds nothing only behind the year 9999.
//!
//! Written here and not taken from a crate: what is accepted is decided by the meta group's state
//! machine, on every node, and must be the same in every version; and those that there are read
//! more than these five fields, and want a calendar with a clock beside it.

use std::{fmt, str::FromStr};

use crate::base::{
    error::{Error, Result},
    limits,
};

const MINUTE_MS: u64 = 60_000;
const DAY_MINUTES: u64 = 24 * 60;
/// The last millisecond of the year 9999.
const LAST_MS: u64 = 253_402_300_799_999;

/// What recurs. It comes true at least once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cron {
    text: String,
    rule: Rule,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    Every { ms: u64 },
    Fields(Fields),
}

/// One bit for each minute, hour, day of a month, month and weekday.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fields {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Whether the day or the weekday is enough.
    either: bool,
}

/// What one field may hold.
struct Field {
    name: &'static str,
    from: u64,
    to: u64,
    /// The names of its numbers, from `from` on.
    names: &'static [&'static str],
}

const MONTHS: &[&str] =
    &["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
const WEEKDAYS: &[&str] = &["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];

const FIELDS: [Field; 5] = [
    Field { name: "minute", from: 0, to: 59, names: &[] },
    Field { name: "hour", from: 0, to: 23, names: &[] },
    Field { name: "day", from: 1, to: 31, names: &[] },
    Field { name: "month", from: 1, to: 12, names: MONTHS },
    Field { name: "weekday", from: 0, to: 7, names: WEEKDAYS },
];

const NAMED: [(&str, &str); 4] = [
    ("@hourly", "0 * * * *"),
    ("@daily", "0 0 * * *"),
    ("@weekly", "0 0 * * 0"),
    ("@monthly", "0 0 1 * *"),
];

impl Cron {
    /// The first instant after another one, in milliseconds since 1970.
    pub fn next(&self, after_ms: u64) -> Option<u64> {
        let next = match self.rule {
            Rule::Every { ms } => (after_ms / ms).checked_add(1)?.checked_mul(ms)?,
            Rule::Fields(fields) => fields.next(after_ms)?,
        };
        (next <= LAST_MS).then_some(next)
    }

    /// The last instant that is not later than another one.
    pub fn last(&self, until_ms: u64) -> Option<u64> {
        let until = until_ms.min(LAST_MS);
        match self.rule {
            Rule::Every { ms } => Some(until / ms * ms),
            Rule::Fields(fields) => fields.last(until),
        }
    }

    /// How many instants there are behind one and up to another. Of a longer time than
    /// `limits::CRON_DAYS_COUNTED` only the end counts.
    pub fn count(&self, after_ms: u64, until_ms: u64) -> u64 {
        let until = until_ms.min(LAST_MS);
        let counted = limits::CRON_DAYS_COUNTED * DAY_MINUTES * MINUTE_MS;
        let after = after_ms.max(until.saturating_sub(counted));
        if after >= until {
            return 0;
        }
        match self.rule {
            Rule::Every { ms } => until / ms - after / ms,
            Rule::Fields(fields) => fields.count(after, until),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl Fields {
    fn next(&self, after_ms: u64) -> Option<u64> {
        let from = after_ms / MINUTE_MS + 1;
        let (first, mut minute) = (from / DAY_MINUTES, from % DAY_MINUTES);
        for day in first..=first.saturating_add(limits::CRON_DAYS_LOOKED) {
            if day > LAST_MS / MINUTE_MS / DAY_MINUTES {
                return None;
            }
            let found = self.minutes_of(day).find(|at| *at >= minute);
            if let Some(at) = found {
                return Some((day * DAY_MINUTES + at) * MINUTE_MS);
            }
            minute = 0;
        }
        None
    }

    fn last(&self, until_ms: u64) -> Option<u64> {
        let until = until_ms / MINUTE_MS;
        let (last, mut minute) = (until / DAY_MINUTES, until % DAY_MINUTES);
        for day in (last.saturating_sub(limits::CRON_DAYS_LOOKED)..=last).rev() {
            let found = self.minutes_of(day).take_while(|at| *at <= minute).last();
            if let Some(at) = found {
                return Some((day * DAY_MINUTES + at) * MINUTE_MS);
            }
            minute = DAY_MINUTES;
        }
        None
    }

    /// Whole days are counted, and then what of the first and of the last lies outside.
    fn count(&self, after_ms: u64, until_ms: u64) -> u64 {
        let (after, until) = (after_ms / MINUTE_MS, until_ms / MINUTE_MS);
        let (first, last) = (after / DAY_MINUTES, until / DAY_MINUTES);
        let a_day = u64::from(self.minutes.count_ones()) * u64::from(self.hours.count_ones());
        let days = (first..=last).filter(|day| self.has_day(*day)).count() as u64;
        let before = self.minutes_of(first).take_while(|at| *at <= after % DAY_MINUTES).count();
        let behind = self.minutes_of(last).filter(|at| *at > until % DAY_MINUTES).count();
        days * a_day - before as u64 - behind as u64
    }

    /// The minutes of a day, in order; none of another day than those that are meant.
    fn minutes_of(&self, day: u64) -> impl Iterator<Item = u64> {
        let Fields { minutes, hours, .. } = *self;
        let hours = if self.has_day(day) { bits(hours) } else { bits(0) };
        hours.flat_map(move |hour| bits(minutes).map(move |minute| hour * 60 + minute))
    }

    fn has_day(&self, day: u64) -> bool {
        let (month, of_month) = civil(day);
        // 1970 began on a Thursday.
        let weekday = (day + 4) % 7;
        let (by_day, by_weekday) = (has(self.days, of_month), has(self.weekdays, weekday));
        let fits = if self.either { by_day || by_weekday } else { by_day && by_weekday };
        has(self.months, month) && fits
    }
}

fn has(bits: u64, bit: u64) -> bool {
    bits >> bit & 1 == 1
}

/// The numbers of the bits that are set, in order.
fn bits(of: u64) -> impl Iterator<Item = u64> {
    (0..64).filter(move |bit| has(of, *bit))
}

/// The month and the day of it that a day since 1970 is. After Howard Hinnant, "chrono-compatible
/// low-level date algorithms".
fn civil(day: u64) -> (u64, u64) {
    let day_of_era = (day + 719_468) % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (month, day_of_year - (153 * from_march + 2) / 5 + 1)
}

impl Field {
    /// The bits of a field, and whether it narrows anything down.
    fn parse(&self, text: &str) -> std::result::Result<(u64, bool), String> {
        let mut found = 0;
        for part in text.split(',') {
            let (range, step) = match part.split_once('/') {
                None => (part, 1),
                Some((range, step)) => {
                    let step = step.parse().ok().filter(|step| (1..=self.to).contains(step));
                    let step = step.ok_or_else(|| {
                        format!("{part:?} has no step from 1 to {} behind its /", self.to)
                    })?;
                    (range, step)
                }
            };
            let (from, to) = match range.split_once('-') {
                _ if range == "*" => (self.from, self.to),
                Some((from, to)) => (self.number(from)?, self.number(to)?),
                None if part != range => {
                    return Err(format!("{part:?} has a step and no range: write {range}-{part}"));
                }
                None => (self.number(range)?, self.number(range)?),
            };
            if from > to {
                return Err(format!("{range:?} ends before it begins"));
            }
            (from..=to).step_by(step as usize).for_each(|number| found |= 1 << number);
        }
        Ok((found, !text.starts_with('*')))
    }

    fn number(&self, text: &str) -> std::result::Result<u64, String> {
        let named = self.names.iter().position(|name| name.eq_ignore_ascii_case(text));
        let number = match named {
            Some(at) => Some(self.from + at as u64),
            None if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().ok(),
            None => None,
        };
        number
            .filter(|number| (self.from..=self.to).contains(number))
            .ok_or_else(|| format!("{text:?} is not from {} to {}", self.from, self.to))
    }
}

fn fields(text: &str) -> std::result::Result<Fields, String> {
    let words: Vec<&str> = text.split(' ').collect();
    if words.len() != FIELDS.len() {
        return Err(format!(
            "it has {} fields, and a cron expression five: minute, hour, day, month, weekday",
            words.len()
        ));
    }
    let mut parsed = [(0, false); FIELDS.len()];
    for ((field, word), parsed) in FIELDS.iter().zip(words).zip(&mut parsed) {
        let found = field.parse(word);
        *parsed = found.map_err(|why| format!("in its {}, {why}", field.name))?;
    }
    let [(minutes, _), (hours, _), (days, by_day), (months, _), (weekdays, by_weekday)] = parsed;
    // Sunday has two numbers.
    let weekdays = (weekdays | weekdays >> 7 & 1) & 0x7f;
    Ok(Fields { minutes, hours, days, months, weekdays, either: by_day && by_weekday })
}

/// `15m`, in milliseconds.
fn every(text: &str) -> std::result::Result<u64, String> {
    let (least, most) = (every_min(), limits::EVERY_MAX.as_millis() as u64);
    let units = [("m", 60_000), ("h", 3_600_000), ("d", 86_400_000), ("s", 1000)];
    let found = units.iter().find_map(|(unit, ms)| {
        let digits = text.strip_suffix(unit)?;
        let digits = digits.bytes().all(|byte| byte.is_ascii_digit()).then_some(digits)?;
        digits.parse::<u64>().ok()?.checked_mul(*ms)
    });
    found
        .filter(|ms| (least..=most).contains(ms))
        .ok_or_else(|| format!("{text:?} is not a time from 1m to 366d: write every 15m"))
}

#[cfg(not(feature = "fault-injection"))]
fn every_min() -> u64 {
    limits::EVERY_MIN.as_millis() as u64
}

/// Tests do not wait for minutes.
#[cfg(feature = "fault-injection")]
fn every_min() -> u64 {
    limits::EVERY_MIN_IN_TESTS.as_millis() as u64
}

impl FromStr for Cron {
    type Err = Error;
    fn from_str(text: &str) -> Result<Cron> {
        if text.len() > limits::CRON_BYTES_MAX {
            return Err(Error::invalid(format!(
                "a cron expression has at most {} bytes, not {}",
                limits::CRON_BYTES_MAX,
                text.len()
            )));
        }
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let named = NAMED.iter().find(|(name, _)| *name == text).map(|(_, meant)| *meant);
        let rule = match text.strip_prefix("every ") {
            Some(time) => every(time).map(|ms| Rule::Every { ms }),
            None if text.starts_with('@') && named.is_none() => {
                Err("there are @hourly, @daily, @weekly and @monthly".to_owned())
            }
            None => fields(named.unwrap_or(&text)).map(Rule::Fields),
        };
        let wrong = |why: String| {
            Error::invalid(format!("{text:?} does not say when something is due: {why}"))
        };
        let cron = Cron { rule: rule.map_err(wrong)?, text: text.clone() };
        if cron.next(0).is_none() {
            return Err(Error::invalid(format!(
                "{text:?} never comes true: none of its months has a day of that number"
            )));
        }
        Ok(cron)
    }
}

impl fmt::Display for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}

#[cfg(test)]
mod tests;
