//! Schedules: when the cluster takes a snapshot of itself and has it stored in the repository, or
//! has the repository verified, and what has become of that.
//!
//! A schedule is a row of the meta group, so every node knows all of them, and what has become of
//! their runs survives whoever runs them. The node that leads the meta group looks each second at
//! what is due by its wall clock (`Schedule::plan`), and decides by a command that names what it
//! has seen. So of two nodes that believe that they lead, one decides.
//!
//! Invariants:
//! - A run is named by the instant that it was planned for (`SnapshotId::of_run`), and its
//!   snapshot has that name, or the report of its verification is named by it. A leader that dies
//!   in the middle leaves the run in the row, and the next one goes on with the same snapshot or
//!   report: taking, storing and verifying can all be done again.
//! - At most one run of a schedule is under way. What is due meanwhile is skipped, and counted.
//! - Of runs that were missed the newest is made up for, once, while it is not later than the
//!   schedule's start deadline. The others are counted as missed.
//! - An instant is decided once, as long as the clock goes on: `decided_ms` is the newest one.
//!
//! Clocks are not believed much:
//! - One that jumps ahead, or a cluster that was down, makes one run at the most, however many
//!   instants lie between; they are counted as missed, and the schedule says so.
//! - Where one went ahead and comes back, what was decided last lies in the future, and nothing
//!   would be due until then. Beyond `limits::SCHEDULE_CLOCK_BACK` the schedule is planned anew
//!   from now, and says so.
//! - Where a clock goes back to instants that had their runs, their snapshots are known, or known
//!   to be deleted. They are not taken twice: such a run is skipped, and the schedule says so. Of
//!   verifications only the last ones are remembered; one that is done twice harms nothing.
//!
//! Knows no clock: whoever asks says what time it is. Takes no snapshots, verifies nothing, and
//! deletes nothing.

use crate::{
    base::{
        error::{Error, Result},
        ids::{ScheduleId, SnapshotId},
        limits,
    },
    cluster::{cron::Cron, extent::Extent, retention::Keep},
};

/// What an operator has asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    pub cron: Cron,
    pub task: Task,
    /// How late a run may begin; none for what `Schedule::deadline_ms` says.
    pub start_deadline_ms: Option<u64>,
}

/// What a run does. A schedule never changes from one kind to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// It takes a snapshot and has it stored. `keep` says how long such snapshots stay in the
    /// repository; none for as long as nobody deletes them.
    Backup { keep: Option<Keep> },
    /// It has so much of the repository verified, and the report kept there.
    Verify(Extent),
}

/// A schedule as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    pub id: ScheduleId,
    pub definition: Definition,
    /// Nothing is due, and nothing is missed.
    pub paused: bool,
    /// Milliseconds since 1970, as all times here.
    pub created_ms: u64,
    /// What was planned up to here is decided: it ran, was skipped or missed.
    pub decided_ms: u64,
    pub running: Option<Run>,
    /// The last run whose snapshot is in the repository, or whose verification found nothing wrong.
    pub stored: Option<Ended>,
    /// The last run that failed.
    pub failed: Option<Ended>,
    /// Since there is the schedule.
    pub missed: u64,
    pub skipped: u64,
    /// Since the last run that did not fail.
    pub failures: u32,
    /// What was odd when a run was decided last, in words; empty when nothing was.
    pub note: String,
    /// The snapshots of its runs that nodes may still have parts of, oldest first.
    pub shelved: Vec<SnapshotId>,
}

/// One run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Its snapshot. A verification has none, and only its name.
    pub snapshot: SnapshotId,
    /// The instant that it is named by.
    pub planned_ms: u64,
    pub began_ms: u64,
    /// Somebody asked for it out of turn.
    pub by_hand: bool,
}

/// One that is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    pub run: Run,
    pub ended_ms: u64,
    /// Why it failed; empty where it did not.
    pub reason: String,
}

/// What a leader decides about the instants that have come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    pub id: ScheduleId,
    /// Of the schedule as the leader has seen it; on another one it has no effect.
    pub seen_ms: u64,
    pub decided_ms: u64,
    pub missed: u64,
    pub skipped: u64,
    pub note: String,
    pub run: Option<Run>,
}

impl Definition {
    pub fn check(&self) -> Result<()> {
        let (least, most) = (limits::START_DEADLINE_MIN, limits::START_DEADLINE_MAX);
        let range = least.as_millis() as u64..=most.as_millis() as u64;
        match self.start_deadline_ms {
            Some(ms) if !range.contains(&ms) => Err(Error::invalid(format!(
                "a start deadline is 1 s to {} days, not {ms} ms",
                most.as_secs() / 86_400
            ))),
            _ => Ok(()),
        }
    }
}

impl Task {
    pub fn is_backup(&self) -> bool {
        matches!(self, Task::Backup { .. })
    }
}

impl Schedule {
    pub fn new(id: ScheduleId, definition: Definition, created_ms: u64) -> Schedule {
        Schedule {
            id,
            definition,
            paused: false,
            created_ms,
            decided_ms: created_ms,
            running: None,
            stored: None,
            failed: None,
            missed: 0,
            skipped: 0,
            failures: 0,
            note: String::new(),
            shelved: Vec::new(),
        }
    }

    /// The instant that comes next; none while it is paused.
    pub fn next_ms(&self) -> Option<u64> {
        if self.paused { None } else { self.definition.cron.next(self.decided_ms) }
    }

    /// How late the run of an instant may begin: half of the time to the next one and at most
    /// `limits::START_DEADLINE_USUAL_MAX`, unless somebody has said it.
    pub fn deadline_ms(&self, planned_ms: u64) -> u64 {
        self.definition.start_deadline_ms.unwrap_or_else(|| {
            let most = limits::START_DEADLINE_USUAL_MAX.as_millis() as u64;
            let next = self.definition.cron.next(planned_ms).unwrap_or(u64::MAX);
            ((next - planned_ms) / 2).min(most)
        })
    }

    /// What is to be decided at this time; none where nothing has come. `name` says which snapshot
    /// is that of an instant, and `known` whether there is that one, or was.
    pub fn plan(
        &self,
        now_ms: u64,
        name: impl Fn(u64) -> SnapshotId,
        known: impl Fn(SnapshotId) -> bool,
    ) -> Option<Decision> {
        if self.paused {
            return None;
        }
        let decision = Decision {
            id: self.id.clone(),
            seen_ms: self.decided_ms,
            decided_ms: now_ms,
            missed: 0,
            skipped: 0,
            note: String::new(),
            run: None,
        };
        let ahead_ms = self.decided_ms.saturating_sub(now_ms);
        if ahead_ms > limits::SCHEDULE_CLOCK_BACK.as_millis() as u64 {
            let note = format!(
                "the clock of the node that leads went back: the last run was planned {} later \
                 than now. Runs are planned anew from now; look at the nodes' clocks",
                span(ahead_ms)
            );
            return Some(Decision { note, ..decision });
        }
        let cron = &self.definition.cron;
        let due = cron.count(self.decided_ms, now_ms);
        let planned_ms = cron.last(now_ms).filter(|_| due > 0)?;
        let decision = Decision { decided_ms: planned_ms, ..decision };
        if self.running.is_some() {
            let note = "the run before was still under way".to_owned();
            return Some(Decision { skipped: due, note, ..decision });
        }
        let missed = due - 1;
        if now_ms - planned_ms > self.deadline_ms(planned_ms) {
            return Some(Decision { missed: due, note: missed_note(due), ..decision });
        }
        let snapshot = name(planned_ms);
        if known(snapshot) {
            let what = match self.definition.task {
                Task::Backup { .. } => "its snapshot was there already, or was deleted",
                Task::Verify(_) => "it was verified then already",
            };
            let note = format!(
                "{what}: the clock of the node that leads has gone back; look at the nodes' clocks"
            );
            return Some(Decision { missed, skipped: 1, note, ..decision });
        }
        let run = Run { snapshot, planned_ms, began_ms: now_ms, by_hand: false };
        Some(Decision { missed, note: missed_note(missed), run: Some(run), ..decision })
    }

    /// Notes what a leader has decided, and says whether it had seen what stands here. What is
    /// decided is behind that, so the same is not decided twice.
    pub fn decide(&mut self, decision: &Decision) -> bool {
        let busy = self.running.is_some() && decision.run.is_some();
        let is_seen = self.decided_ms == decision.seen_ms && self.decided_ms != decision.decided_ms;
        if self.paused || busy || !is_seen {
            return false;
        }
        self.decided_ms = decision.decided_ms;
        self.missed = self.missed.saturating_add(decision.missed);
        self.skipped = self.skipped.saturating_add(decision.skipped);
        self.note = decision.note.clone();
        if let Some(run) = decision.run {
            self.begin(run);
        }
        true
    }

    /// Whether a run has ended, as far as that is remembered.
    pub fn has_ended(&self, snapshot: SnapshotId) -> bool {
        [&self.stored, &self.failed].into_iter().flatten().any(|e| e.run.snapshot == snapshot)
    }

    pub fn begin(&mut self, run: Run) {
        self.running = Some(run);
        if self.definition.task.is_backup() {
            self.shelved.push(run.snapshot);
        }
    }

    /// Notes the end of a run, and says whether it was this one that was under way.
    pub fn end(&mut self, snapshot: SnapshotId, ended_ms: u64, reason: &str) -> bool {
        let Some(run) = self.running.take_if(|run| run.snapshot == snapshot) else { return false };
        let ended = Ended { run, ended_ms, reason: reason.to_owned() };
        if reason.is_empty() {
            (self.stored, self.failures) = (Some(ended), 0);
        } else {
            (self.failed, self.failures) = (Some(ended), self.failures.saturating_add(1));
        }
        true
    }

    /// The snapshots that nodes need not have parts of any more: those before the newest one that
    /// is in the repository, which the next capture is compared with, and of those that are not
    /// there all but the newest `limits::SCHEDULED_UNSTORED_KEPT`.
    pub fn idle(&self) -> Vec<SnapshotId> {
        let running = self.running.as_ref().map(|run| run.snapshot);
        let stored = self.stored.as_ref().map(|ended| ended.run.snapshot);
        let others = self.shelved.iter().filter(|id| Some(**id) != running && Some(**id) != stored);
        let others: Vec<SnapshotId> = others.copied().collect();
        let position = |id| self.shelved.iter().position(|one| Some(*one) == id);
        let behind = position(stored).map_or(0, |at| at + 1);
        let unstored = self.shelved[behind..].iter().filter(|id| others.contains(id));
        let kept: Vec<SnapshotId> =
            unstored.rev().take(limits::SCHEDULED_UNSTORED_KEPT).copied().collect();
        others.into_iter().filter(|id| !kept.contains(id)).collect()
    }

    /// As it stands in a new history, which did not take the snapshot that is being taken, nor has
    /// anything to delete of the old one's.
    pub fn into_new_history(&mut self) {
        self.running = None;
        self.shelved.clear();
    }
}

fn missed_note(missed: u64) -> String {
    match missed {
        0..limits::SCHEDULE_MISSED_TOLD => String::new(),
        _ => format!(
            "{missed} runs were missed at one go: no node led for that long, or the clock of the \
             node that leads went ahead; look at the nodes' clocks"
        ),
    }
}

/// In the largest unit that there is at least one of.
fn span(ms: u64) -> String {
    match ms / 1000 {
        s if s >= 2 * 86_400 => format!("{} days", s / 86_400),
        s if s >= 2 * 3600 => format!("{} hours", s / 3600),
        s => format!("{} minutes", s / 60),
    }
}

#[cfg(test)]
mod tests;
