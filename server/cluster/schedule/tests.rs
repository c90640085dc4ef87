//! What is planned at which time, and what clocks that jump do to it.

use std::collections::BTreeSet;

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::{
    base::ids::{ClusterId, Lineage},
    cluster::{command::Command, level::Level},
};

const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
const YEAR: u64 = 365 * DAY;
/// A day in 2027, at midnight.
const THEN: u64 = 20_900 * DAY;

fn id() -> ScheduleId {
    ScheduleId::new("hourly").unwrap()
}

fn schedule(cron: &str) -> Schedule {
    let cron = cron.parse().unwrap();
    let task = Task::Backup { keep: None };
    Schedule::new(id(), Definition { cron, task, start_deadline_ms: None }, THEN)
}

fn name(planned_ms: u64) -> SnapshotId {
    SnapshotId::of_run(ClusterId(Uuid::from_u128(1)), Lineage(1), &id(), planned_ms)
}

/// A leader looks at one moment, and what it decides is noted. The run, if it begins one.
fn look(schedule: &mut Schedule, now_ms: u64, taken: &mut BTreeSet<SnapshotId>) -> Option<Run> {
    let decision = schedule.plan(now_ms, name, |id| taken.contains(&id))?;
    assert!(schedule.decide(&decision));
    assert!(!schedule.decide(&decision), "once");
    taken.extend(decision.run.map(|run| run.snapshot));
    decision.run
}

fn ends(schedule: &mut Schedule, reason: &str) {
    let run = schedule.running.expect("one is under way");
    assert!(schedule.end(run.snapshot, run.began_ms + 1, reason));
    assert!(!schedule.end(run.snapshot, run.began_ms + 2, reason), "it has ended");
}

#[test]
fn a_run_begins_when_it_is_due_and_what_comes_meanwhile_is_skipped() {
    let (mut hourly, mut taken) = (schedule("@hourly"), BTreeSet::new());
    assert_eq!(hourly.next_ms(), Some(THEN + HOUR));
    assert_eq!(look(&mut hourly, THEN + HOUR - 1, &mut taken), None);
    let run = look(&mut hourly, THEN + HOUR + 300, &mut taken).unwrap();
    assert_eq!((run.planned_ms, run.snapshot), (THEN + HOUR, name(THEN + HOUR)));
    assert_eq!(look(&mut hourly, THEN + 2 * HOUR - 1, &mut taken), None);
    assert_eq!(look(&mut hourly, THEN + 2 * HOUR, &mut taken), None);
    assert_eq!((hourly.skipped, hourly.missed), (1, 0));
    assert!(hourly.note.contains("still under way"));
    ends(&mut hourly, "the disk was full");
    assert_eq!(look(&mut hourly, THEN + 2 * HOUR + 1, &mut taken), None, "it is skipped for good");
    assert!(look(&mut hourly, THEN + 3 * HOUR, &mut taken).is_some());
    assert_eq!((hourly.failures, hourly.note.as_str()), (1, ""));
    ends(&mut hourly, "");
    assert_eq!((hourly.failures, hourly.stored.unwrap().run.planned_ms), (0, THEN + 3 * HOUR));
    assert_eq!(hourly.failed.unwrap().reason, "the disk was full");
}

#[test]
fn what_was_missed_is_made_up_for_once_if_it_is_not_too_late() {
    let (mut hourly, mut taken) = (schedule("@hourly"), BTreeSet::new());
    // Nobody led for three hours and 20 minutes.
    let run = look(&mut hourly, THEN + 3 * HOUR + 20 * MINUTE, &mut taken).unwrap();
    assert_eq!((run.planned_ms, hourly.missed), (THEN + 3 * HOUR, 2));
    ends(&mut hourly, "");
    // And for some more: half an hour is too late.
    assert_eq!(look(&mut hourly, THEN + 5 * HOUR + 31 * MINUTE, &mut taken), None);
    assert_eq!((hourly.missed, hourly.next_ms()), (4, Some(THEN + 6 * HOUR)));
    let (mut daily, half) = (schedule("@daily"), schedule("every 2m"));
    assert_eq!((daily.deadline_ms(THEN), half.deadline_ms(THEN)), (HOUR, MINUTE));
    daily.definition.start_deadline_ms = Some(5 * HOUR);
    assert!(look(&mut daily, THEN + DAY + 5 * HOUR, &mut taken).is_some());
}

#[test]
fn while_it_is_paused_nothing_is_due_and_nothing_is_missed() {
    let mut hourly = Schedule { paused: true, ..schedule("@hourly") };
    assert_eq!((hourly.plan(THEN + DAY, name, |_| false), hourly.next_ms()), (None, None));
    let late = Schedule { paused: false, ..hourly.clone() }.plan(THEN + HOUR, name, |_| false);
    assert!(!hourly.decide(&late.unwrap()), "it was paused meanwhile");
}

#[test]
fn a_clock_that_is_a_year_off_makes_one_run_and_is_told_and_comes_back() {
    let (mut hourly, mut taken) = (schedule("@hourly"), BTreeSet::new());
    look(&mut hourly, THEN + HOUR, &mut taken).unwrap();
    ends(&mut hourly, "");
    // Ahead: one run, and what lies between is missed.
    let ahead = THEN + YEAR + 2 * HOUR;
    assert!(look(&mut hourly, ahead, &mut taken).is_some());
    ends(&mut hourly, "");
    assert_eq!((taken.len(), hourly.missed), (2, YEAR / HOUR));
    assert!(hourly.note.contains("the clock of the node that leads went ahead"), "{}", hourly.note);
    // Back where it was: the next hour is the next one, and not that of next year.
    assert_eq!(look(&mut hourly, THEN + 2 * HOUR + MINUTE, &mut taken), None);
    assert!(hourly.note.contains("364 days later than now"), "{}", hourly.note);
    assert_eq!(hourly.next_ms(), Some(THEN + 3 * HOUR));
    assert!(look(&mut hourly, THEN + 3 * HOUR, &mut taken).is_some());
    ends(&mut hourly, "");
    // Back to what was: no snapshot is taken twice.
    assert_eq!(look(&mut hourly, THEN + MINUTE, &mut taken), None);
    assert_eq!(look(&mut hourly, THEN + HOUR, &mut taken), None);
    assert!(hourly.note.contains("was there already"), "{}", hourly.note);
    assert_eq!((taken.len(), hourly.skipped), (3, 1));
}

#[test]
fn two_clocks_that_differ_a_little_plan_the_same() {
    let (mut hourly, mut taken) = (schedule("@hourly"), BTreeSet::new());
    look(&mut hourly, THEN + HOUR, &mut taken).unwrap();
    ends(&mut hourly, "");
    // The next leader is five minutes behind.
    assert_eq!(look(&mut hourly, THEN + 55 * MINUTE, &mut taken), None);
    assert_eq!((hourly.next_ms(), hourly.note.as_str()), (Some(THEN + 2 * HOUR), ""));
}

#[test]
fn the_shelves_keep_the_newest_stored_snapshot_and_two_that_are_not_stored() {
    let (mut hourly, mut taken) = (schedule("@hourly"), BTreeSet::new());
    let mut run = |hourly: &mut Schedule, hour: u64, reason: &str| {
        let run = look(hourly, THEN + hour * HOUR, &mut taken).unwrap();
        assert!(!hourly.idle().contains(&run.snapshot), "it is under way");
        ends(hourly, reason);
        run.snapshot
    };
    let first = run(&mut hourly, 1, "away");
    assert_eq!(hourly.idle(), []);
    let second = run(&mut hourly, 2, "");
    assert_eq!(hourly.idle(), [first]);
    let third = run(&mut hourly, 3, "away");
    let fourth = run(&mut hourly, 4, "away");
    assert_eq!(hourly.idle(), [first]);
    let fifth = run(&mut hourly, 5, "away");
    assert_eq!(hourly.idle(), [first, third]);
    let sixth = run(&mut hourly, 6, "");
    assert_eq!(hourly.idle(), [first, second, third, fourth, fifth]);
    hourly.into_new_history();
    assert_eq!(hourly.idle(), []);
    assert_eq!(hourly.stored.unwrap().run.snapshot, sixth);
}

#[test]
fn a_run_is_named_by_its_history_its_schedule_and_its_instant() {
    let cluster = |n| ClusterId(Uuid::from_u128(n));
    let other = ScheduleId::new("daily").unwrap();
    let names = [
        name(THEN),
        name(THEN + 1),
        SnapshotId::of_run(cluster(1), Lineage(1), &other, THEN),
        SnapshotId::of_run(cluster(1), Lineage(2), &id(), THEN),
        SnapshotId::of_run(cluster(2), Lineage(1), &id(), THEN),
    ];
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
    assert_eq!(name(THEN), SnapshotId::of_run(cluster(1), Lineage(1), &id(), THEN));
    assert_eq!(name(0).to_string(), "ab97b9dc-0fd5-8568-b719-71b5e89d2cb3");
}

#[test]
fn a_verification_leaves_nothing_on_shelves_and_is_not_done_twice() {
    let mut daily = schedule("@daily");
    daily.definition.task = Task::Verify("10%".parse().unwrap());
    let mut taken = BTreeSet::new();
    let run = look(&mut daily, THEN + DAY, &mut taken).unwrap();
    assert_eq!((daily.shelved.len(), daily.running), (0, Some(run)));
    ends(&mut daily, "the repository is damaged");
    assert_eq!((daily.failures, daily.idle()), (1, vec![]));
    // The clock goes back a day, and the same instant comes again.
    assert_eq!(look(&mut daily, THEN + 30 * MINUTE, &mut taken), None);
    let known = |id| taken.contains(&id);
    let again = daily.plan(THEN + DAY, name, known).unwrap();
    assert_eq!((again.run, again.skipped), (None, 1));
    assert!(again.note.contains("it was verified then already"), "{}", again.note);
}

#[test]
fn only_one_that_verifies_needs_the_newer_level() {
    let put = |task| {
        let definition = Definition { task, ..schedule("@daily").definition };
        Command::PutSchedule { id: id(), definition, at_ms: 1, replace: false }.level()
    };
    assert_eq!(put(Task::Backup { keep: None }), Level::SCHEDULES);
    assert_eq!(put(Task::Verify("quick".parse().unwrap())), Level::VERIFICATIONS);
}

/// What happens between two looks.
#[derive(Clone, Debug)]
enum Turn {
    Goes { ms: u64 },
    Jumps { to: i64 },
    Ends { well: bool },
}

fn a_turn() -> impl Strategy<Value = Turn> {
    let year = YEAR as i64;
    prop_oneof![
        8 => (1..2 * HOUR).prop_map(|ms| Turn::Goes { ms }),
        1 => (-year..=year).prop_map(|to| Turn::Jumps { to }),
        4 => any::<bool>().prop_map(|well| Turn::Ends { well }),
    ]
}

proptest! {
    /// Whatever clocks do, no instant runs twice, no run begins but at one look, and never more
    /// of them than looks; every instant that passes while the clock goes on is accounted for.
    #[test]
    fn no_clock_makes_a_double_or_a_storm(
        turns in prop::collection::vec(a_turn(), 1..80),
        cron in prop_oneof![Just("@hourly"), Just("every 10m"), Just("*/7 2-5 * * *")],
    ) {
        let (mut schedule, mut taken) = (schedule(cron), BTreeSet::new());
        let (mut now, mut runs, mut jumped) = (THEN, 0u64, false);
        for turn in turns {
            match turn {
                Turn::Goes { ms } => now += ms,
                Turn::Jumps { to } => {
                    now = now.saturating_add_signed(to);
                    jumped = true;
                }
                Turn::Ends { well } => {
                    if schedule.running.is_some() {
                        ends(&mut schedule, if well { "" } else { "away" });
                    }
                }
            }
            let before = taken.len();
            if let Some(run) = look(&mut schedule, now, &mut taken) {
                prop_assert_eq!(taken.len(), before + 1, "the same instant, twice");
                prop_assert!(run.planned_ms <= now);
                prop_assert!(now - run.planned_ms <= schedule.deadline_ms(run.planned_ms));
                runs += 1;
            }
            prop_assert_eq!(look(&mut schedule, now, &mut taken), None, "one run a look");
            // Nothing is ever planned for so late that backups stop.
            let soon = now + limits::SCHEDULE_CLOCK_BACK.as_millis() as u64 + DAY;
            prop_assert!(schedule.next_ms().unwrap() <= soon);
            if !jumped {
                let all = schedule.definition.cron.count(THEN, now);
                prop_assert_eq!(runs + schedule.missed + schedule.skipped, all);
            }
            prop_assert!(schedule.shelved.len() as u64 == runs);
        }
    }
}
