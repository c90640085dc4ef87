//! Schedules, as commands change them, as rows keep them, and as clients see them.

use bytes::Bytes;

use super::absent;
use crate::{
    base::{
        error::{Error, Result},
        ids::{ScheduleId, SnapshotId},
    },
    cluster::{
        Command,
        extent::Extent,
        schedule::{Decision, Definition, Ended, Run, Schedule, Task},
    },
    proto::{
        internal::{v1 as internal, v1::meta_command::Action},
        v1,
    },
    repository::{
        care::{Drilled, Verified},
        verify::Depth,
    },
};

pub(super) fn put(id: &ScheduleId, definition: &Definition, at_ms: u64, replace: bool) -> Action {
    Action::PutSchedule(internal::PutSchedule {
        name: id.as_str().to_owned(),
        cron: definition.cron.to_string(),
        keep: keep_text(definition),
        start_deadline_ms: definition.start_deadline_ms.unwrap_or_default(),
        at_ms,
        replace,
        verify: verify_text(definition),
    })
}

pub(super) fn pause(id: &ScheduleId, paused: bool, at_ms: u64) -> Action {
    let name = id.as_str().to_owned();
    Action::PauseSchedule(internal::PauseSchedule { name, paused, at_ms })
}

pub(super) fn run_schedule(id: &ScheduleId, run: &Run) -> Action {
    let (name, run) = (id.as_str().to_owned(), Some(run_record(run)));
    Action::RunSchedule(internal::RunSchedule { name, run })
}

pub(super) fn decide(decision: &Decision) -> Action {
    Action::DecideRun(internal::DecideRun {
        name: decision.id.as_str().to_owned(),
        seen_ms: decision.seen_ms,
        decided_ms: decision.decided_ms,
        missed: decision.missed,
        skipped: decision.skipped,
        note: decision.note.clone(),
        run: decision.run.as_ref().map(run_record),
    })
}

pub(super) fn end(id: &ScheduleId, snapshot: SnapshotId, ended_ms: u64, reason: &str) -> Action {
    Action::EndRun(internal::EndRun {
        name: id.as_str().to_owned(),
        uuid: Bytes::copy_from_slice(snapshot.0.as_bytes()),
        ended_ms,
        reason: reason.to_owned(),
    })
}

pub(super) fn parse_put(put: internal::PutSchedule) -> Result<Command> {
    let definition = parse_definition(&put.cron, &put.keep, &put.verify, put.start_deadline_ms)?;
    let (id, at_ms, replace) = (ScheduleId::new(put.name)?, put.at_ms, put.replace);
    Ok(Command::PutSchedule { id, definition, at_ms, replace })
}

pub(super) fn parse_pause(pause: internal::PauseSchedule) -> Result<Command> {
    let internal::PauseSchedule { name, paused, at_ms } = pause;
    Ok(Command::PauseSchedule { id: ScheduleId::new(name)?, paused, at_ms })
}

pub(super) fn parse_run_schedule(run: internal::RunSchedule) -> Result<Command> {
    let record = run.run.ok_or_else(|| absent("a schedule's run"))?;
    Ok(Command::RunSchedule { id: ScheduleId::new(run.name)?, run: parse_run(&record)? })
}

pub(super) fn parse_decide(decide: internal::DecideRun) -> Result<Command> {
    Ok(Command::DecideRun(Decision {
        id: ScheduleId::new(decide.name)?,
        seen_ms: decide.seen_ms,
        decided_ms: decide.decided_ms,
        missed: decide.missed,
        skipped: decide.skipped,
        note: decide.note,
        run: decide.run.as_ref().map(parse_run).transpose()?,
    }))
}

pub(super) fn parse_end(end: internal::EndRun) -> Result<Command> {
    let (id, snapshot) = (ScheduleId::new(end.name)?, SnapshotId::from_slice(&end.uuid)?);
    Ok(Command::EndRun { id, snapshot, ended_ms: end.ended_ms, reason: end.reason })
}

/// As operators write it: an empty text and 0 for what is not said.
pub fn parse_definition(
    cron: &str,
    keep: &str,
    verify: &str,
    start_deadline_ms: u64,
) -> Result<Definition> {
    let task = match (keep, verify) {
        ("", "") => Task::Backup { keep: None },
        (keep, "") => Task::Backup { keep: Some(keep.parse()?) },
        ("", verify) => Task::Verify(verify.parse()?),
        _ => {
            return Err(Error::invalid(
                "a schedule that verifies takes no snapshots, so there are none to keep: say one \
                 of the two, and make two schedules",
            ));
        }
    };
    let start_deadline_ms = Some(start_deadline_ms).filter(|ms| *ms > 0);
    let definition = Definition { cron: cron.parse()?, task, start_deadline_ms };
    definition.check()?;
    Ok(definition)
}

fn keep_text(definition: &Definition) -> String {
    match definition.task {
        Task::Backup { keep } => keep.map_or(String::new(), |keep| keep.to_string()),
        Task::Verify(_) => String::new(),
    }
}

fn verify_text(definition: &Definition) -> String {
    match definition.task {
        Task::Backup { .. } => String::new(),
        Task::Verify(extent) => extent.to_string(),
    }
}

/// What a node is asked to verify for a run.
pub struct Verifying {
    pub run: Run,
    pub extent: Extent,
}

pub fn parse_verifying(request: &internal::VerifyRepositoryRequest) -> Result<Verifying> {
    let run = Run {
        snapshot: SnapshotId::from_slice(&request.uuid)?,
        planned_ms: request.planned_ms,
        began_ms: request.began_ms,
        by_hand: false,
    };
    Ok(Verifying { run, extent: request.extent.parse()? })
}

fn run_record(run: &Run) -> internal::RunRecord {
    internal::RunRecord {
        uuid: Bytes::copy_from_slice(run.snapshot.0.as_bytes()),
        planned_ms: run.planned_ms,
        began_ms: run.began_ms,
        by_hand: run.by_hand,
        ended_ms: 0,
        reason: String::new(),
    }
}

fn ended_record(ended: &Ended) -> internal::RunRecord {
    let Ended { run, ended_ms, reason } = ended;
    internal::RunRecord { ended_ms: *ended_ms, reason: reason.clone(), ..run_record(run) }
}

fn parse_run(record: &internal::RunRecord) -> Result<Run> {
    Ok(Run {
        snapshot: SnapshotId::from_slice(&record.uuid)?,
        planned_ms: record.planned_ms,
        began_ms: record.began_ms,
        by_hand: record.by_hand,
    })
}

fn parse_ended(record: internal::RunRecord) -> Result<Ended> {
    let run = parse_run(&record)?;
    Ok(Ended { run, ended_ms: record.ended_ms, reason: record.reason })
}

pub(super) fn schedule_record(schedule: &Schedule) -> internal::ScheduleRecord {
    internal::ScheduleRecord {
        name: schedule.id.as_str().to_owned(),
        cron: schedule.definition.cron.to_string(),
        keep: keep_text(&schedule.definition),
        start_deadline_ms: schedule.definition.start_deadline_ms.unwrap_or_default(),
        paused: schedule.paused,
        created_ms: schedule.created_ms,
        decided_ms: schedule.decided_ms,
        running: schedule.running.as_ref().map(run_record),
        stored: schedule.stored.as_ref().map(ended_record),
        failed: schedule.failed.as_ref().map(ended_record),
        missed: schedule.missed,
        skipped: schedule.skipped,
        failures: schedule.failures,
        note: schedule.note.clone(),
        shelved: schedule
            .shelved
            .iter()
            .map(|id| Bytes::copy_from_slice(id.0.as_bytes()))
            .collect(),
        verify: verify_text(&schedule.definition),
    }
}

pub(super) fn parse_schedule(record: internal::ScheduleRecord) -> Result<Schedule> {
    let internal::ScheduleRecord { cron, keep, verify, start_deadline_ms, .. } = &record;
    Ok(Schedule {
        definition: parse_definition(cron, keep, verify, *start_deadline_ms)?,
        id: ScheduleId::new(record.name)?,
        paused: record.paused,
        created_ms: record.created_ms,
        decided_ms: record.decided_ms,
        running: record.running.as_ref().map(parse_run).transpose()?,
        stored: record.stored.map(parse_ended).transpose()?,
        failed: record.failed.map(parse_ended).transpose()?,
        missed: record.missed,
        skipped: record.skipped,
        failures: record.failures,
        note: record.note,
        shelved: record
            .shelved
            .iter()
            .map(|id| SnapshotId::from_slice(id))
            .collect::<Result<_>>()?,
    })
}

/// As clients see it.
pub fn schedule(schedule: &Schedule) -> v1::Schedule {
    let shown = |record: internal::RunRecord, id: SnapshotId| v1::ScheduledRun {
        uuid: id.to_string(),
        planned_ms: record.planned_ms,
        began_ms: record.began_ms,
        ended_ms: record.ended_ms,
        reason: record.reason,
        by_hand: record.by_hand,
    };
    let ended = |ended: &Ended| shown(ended_record(ended), ended.run.snapshot);
    v1::Schedule {
        name: schedule.id.as_str().to_owned(),
        cron: schedule.definition.cron.to_string(),
        keep: keep_text(&schedule.definition),
        verify: verify_text(&schedule.definition),
        start_deadline_ms: schedule.definition.start_deadline_ms.unwrap_or_default(),
        paused: schedule.paused,
        created_ms: schedule.created_ms,
        next_ms: schedule.next_ms().unwrap_or_default(),
        running: schedule.running.as_ref().map(|run| shown(run_record(run), run.snapshot)),
        stored: schedule.stored.as_ref().map(ended),
        failed: schedule.failed.as_ref().map(ended),
        missed: schedule.missed,
        skipped: schedule.skipped,
        failures: schedule.failures,
        note: schedule.note.clone(),
    }
}

/// As clients see it.
pub fn verification(last: &Verified) -> v1::RepositoryVerification {
    let (depth, percent) = match last.depth {
        Depth::Quick => (v1::VerificationDepth::Quick, 0),
        Depth::Share { percent, .. } => (v1::VerificationDepth::Share, u8::from(percent)),
        Depth::Whole => (v1::VerificationDepth::Whole, 0),
    };
    v1::RepositoryVerification {
        report: last.report.clone(),
        began_ms: last.began_ms,
        depth: depth as i32,
        percent: u32::from(percent),
        sound: last.sound,
        problems: last.problems,
        snapshots: last.snapshots,
        snapshots_since: last.snapshots_since,
    }
}

/// As clients see it.
pub fn drill(last: &Drilled) -> v1::RepositoryDrill {
    let ms = |seconds: f64| (seconds * 1000.0) as u64;
    v1::RepositoryDrill {
        report: last.report.clone(),
        began_ms: last.began_ms,
        uuid: last.drill.snapshot.clone(),
        passed: last.drill.passed,
        problem: last.drill.problems.first().cloned().unwrap_or_default(),
        rto_ms: ms(last.drill.rto_s),
        rpo_ms: ms(last.drill.rpo_s),
        snapshots_since: last.snapshots_since,
    }
}
