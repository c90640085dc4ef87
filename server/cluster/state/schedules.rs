//! How schedules come, change and go, and how their runs are noted: `cluster::schedule` says what
//! they are.

use super::{Effects, State};
use crate::{
    base::{
        error::{Error, Result},
        ids::{Lineage, ScheduleId, SnapshotId},
        limits,
    },
    cluster::{
        command::{Changed, Outcome},
        schedule::{Decision, Definition, Run, Schedule, Task},
        snapshots::shortened,
    },
};

impl State {
    /// One that is there and is another one is left as it is, unless it is to be replaced. A new
    /// rhythm is planned from now on.
    pub(super) fn put_schedule(
        &mut self,
        id: &ScheduleId,
        definition: &Definition,
        at_ms: u64,
        replace: bool,
        effects: &mut Effects,
    ) -> Result<Outcome> {
        definition.check()?;
        let most = limits::SCHEDULES_MAX;
        match self.schedules.get(id) {
            Some(known) if known.definition == *definition => {
                return Ok(Outcome::Done { changed: false });
            }
            Some(known) if !replace => {
                return Err(Error::conflict(format!(
                    "there is a schedule {:?} already, and it is another one ({:?}): give the new \
                     one another name, or replace that one with --replace",
                    id.as_str(),
                    known.definition.cron.as_str()
                )));
            }
            Some(known) if known.definition.task.is_backup() != definition.task.is_backup() => {
                return Err(Error::conflict(format!(
                    "schedule {:?} is there, and one that takes snapshots becomes none that \
                     verifies, nor the other way round: give the new one another name, or delete \
                     that one first",
                    id.as_str()
                )));
            }
            None if self.schedules.len() >= most => {
                return Err(Error::conflict(format!(
                    "there are {most} schedules, and no more are kept: delete one with ddbctl \
                     schedule delete"
                )));
            }
            Some(_) | None => {}
        }
        let new = || Schedule::new(id.clone(), definition.clone(), at_ms);
        let schedule = self.schedules.entry(id.clone()).or_insert_with(new);
        if schedule.definition.cron != definition.cron {
            (schedule.decided_ms, schedule.note) = (at_ms, String::new());
        }
        schedule.definition = definition.clone();
        Ok(effects.row(Changed::Schedule(id.clone())))
    }

    /// Its snapshots stay where they are.
    pub(super) fn delete_schedule(
        &mut self,
        id: &ScheduleId,
        effects: &mut Effects,
    ) -> Result<Outcome> {
        self.schedule(id)?;
        self.schedules.remove(id);
        Ok(effects.row(Changed::Schedule(id.clone())))
    }

    /// What would have been due while it was paused is not missed.
    pub(super) fn pause_schedule(
        &mut self,
        id: &ScheduleId,
        paused: bool,
        at_ms: u64,
        effects: &mut Effects,
    ) -> Result<Outcome> {
        let schedule = self.schedule_mut(id)?;
        if schedule.paused == paused {
            return Ok(Outcome::Done { changed: false });
        }
        schedule.paused = paused;
        if !paused {
            (schedule.decided_ms, schedule.note) = (at_ms, String::new());
        }
        Ok(effects.row(Changed::Schedule(id.clone())))
    }

    /// Begins a run out of turn, unless one is under way, or this one is over.
    pub(super) fn run_schedule(
        &mut self,
        id: &ScheduleId,
        run: &Run,
        effects: &mut Effects,
    ) -> Result<Outcome> {
        let schedule = self.schedule(id)?;
        if self.settings.lineage == Lineage::PENDING {
            return Err(Error::unavailable(
                "the cluster comes from a restore and has not agreed on its history yet; try again \
                 when it has",
            ));
        }
        if schedule.running.is_some() || schedule.has_ended(run.snapshot) {
            return Ok(Outcome::Done { changed: false });
        }
        self.schedule_mut(id)?.begin(*run);
        self.forget_shelved(id);
        Ok(effects.row(Changed::Schedule(id.clone())))
    }

    pub(super) fn decide_run(
        &mut self,
        decision: &Decision,
        effects: &mut Effects,
    ) -> Result<Outcome> {
        let id = &decision.id;
        let note = shortened(decision.note.clone());
        if !self.schedule_mut(id)?.decide(&Decision { note, ..decision.clone() }) {
            return Ok(Outcome::Done { changed: false });
        }
        self.forget_shelved(id);
        Ok(effects.row(Changed::Schedule(id.clone())))
    }

    pub(super) fn end_run(
        &mut self,
        id: &ScheduleId,
        snapshot: SnapshotId,
        ended_ms: u64,
        reason: &str,
        effects: &mut Effects,
    ) -> Result<Outcome> {
        let reason = shortened(reason.to_owned());
        if !self.schedule_mut(id)?.end(snapshot, ended_ms, &reason) {
            return Ok(Outcome::Done { changed: false });
        }
        Ok(effects.row(Changed::Schedule(id.clone())))
    }

    /// Snapshots that the registry does not know any more lie on no shelf. The one whose run has
    /// just begun is not known yet.
    fn forget_shelved(&mut self, id: &ScheduleId) {
        let snapshots = &self.snapshots;
        let Some(schedule) = self.schedules.get_mut(id) else { return };
        let running = schedule.running.map(|run| run.snapshot);
        let is_known = |id: &SnapshotId| snapshots.values().any(|snapshot| snapshot.id == *id);
        schedule.shelved.retain(|id| Some(*id) == running || is_known(id));
    }

    pub fn schedule(&self, id: &ScheduleId) -> Result<&Schedule> {
        self.schedules.get(id).ok_or_else(|| unknown(id))
    }

    fn schedule_mut(&mut self, id: &ScheduleId) -> Result<&mut Schedule> {
        self.schedules.get_mut(id).ok_or_else(|| unknown(id))
    }

    /// What is to be decided about a schedule at this time; nothing while the history has no name,
    /// since runs are named by it.
    pub fn planned(&self, schedule: &Schedule, now_ms: u64) -> Option<Decision> {
        if self.settings.lineage == Lineage::PENDING {
            return None;
        }
        let known = |id: SnapshotId| match schedule.definition.task {
            Task::Backup { .. } => {
                self.snapshot_named(id).is_some() || self.settings.deleted.contains(&id)
            }
            Task::Verify(_) => schedule.has_ended(id),
        };
        schedule.plan(now_ms, |planned_ms| self.run_name(&schedule.id, planned_ms), known)
    }

    /// The snapshot of a schedule's instant in this history, or the name of its verification.
    pub fn run_name(&self, id: &ScheduleId, planned_ms: u64) -> SnapshotId {
        let settings = &self.settings;
        SnapshotId::of_run(settings.cluster, settings.lineage, id, planned_ms)
    }

    /// Snapshots of this history that schedules took, of which nodes need not have parts any more.
    pub fn idle_snapshots(&self) -> Vec<SnapshotId> {
        let can_go = |id: &SnapshotId| {
            self.snapshot_named(*id).is_some_and(|snapshot| {
                let of_this_history = snapshot.lineage == self.settings.lineage;
                snapshot.deleting.is_none() && !snapshot.is_open() && of_this_history
            })
        };
        self.schedules.values().flat_map(Schedule::idle).filter(can_go).collect()
    }

    pub(super) fn check_schedules(&self) -> Result<()> {
        let count = self.schedules.len();
        if count > limits::SCHEDULES_MAX {
            return Err(Error::corrupt(format!(
                "the meta group's rows contradict each other: {count} schedules"
            )));
        }
        Ok(())
    }
}

fn unknown(id: &ScheduleId) -> Error {
    Error::not_found(format!("there is no schedule {:?}; see ddbctl schedule list", id.as_str()))
}
