//! Backups and verifications on a schedule: schedules as operators change them and look at them,
//! and the node that runs them.
//!
//! Every node does this work, and it comes to something on the one that leads the meta group
//! (`tend`): each second it looks what has come due by its wall clock, and proposes what is decided
//! about it (`cluster::schedule`). A run that stands in a schedule's row is carried out by whoever
//! leads (`run`): its snapshot is taken, stored in the repository, and the end is noted in the row;
//! or a node that has a repository verifies it, one at a time in the cluster. A leader that dies
//! leaves the run there, and the next one goes on with it.
//!
//! # What stays on the nodes' shelves
//!
//! A snapshot that is in the repository is needed on the shelves for one thing alone: the next
//! capture writes only the chunks that no part there has. So of the snapshots that a schedule took
//! the newest one that is stored stays, and those before it are deleted as by `ddbctl snapshot
//! delete`. Of those that could not be stored the newest two stay, so that an outage of the
//! repository loses nothing of the last hours, and fills no disk. Whoever deletes a schedule keeps
//! what its runs have left.
//!
//! # What stays in the repository
//!
//! What the schedule's rules (`keep`) say, or everything where it has none. This module deletes
//! nothing there: the node that drives an upload collects right after it has stored the snapshot
//! (`uploads::retain`), by the rules as they stand then, and what it takes out is of this schedule
//! alone.

mod run;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::sync::Semaphore;

use crate::{
    base::{
        clock::Clock,
        crew::{Crew, Role},
        error::Result,
        ids::{NodeId, ScheduleId, SnapshotId},
        limits,
        locks::lock,
        metrics::{Metrics, ScheduleSeen},
    },
    cluster::{
        Command, State,
        schedule::{Decision, Definition, Run, Schedule},
    },
    service::{
        admin::Cluster,
        uploads::{Told, Uploads},
    },
};

/// The service. Cheap to clone.
#[derive(Clone)]
pub struct Schedules {
    shared: Arc<Shared>,
}

struct Shared {
    cluster: Cluster,
    uploads: Uploads,
    clock: Clock,
    metrics: Arc<Metrics>,
    crew: Crew,
    /// The runs that this node carries out, by their snapshots.
    under_way: Mutex<BTreeSet<SnapshotId>>,
    /// Turns of the runs that verify.
    turns: Semaphore,
    /// The schedules that `/metrics` shows.
    shown: Mutex<Vec<String>>,
}

/// What the node that leads has to do now.
#[derive(Default)]
struct Due {
    decisions: Vec<Decision>,
    runs: Vec<(Schedule, Run)>,
    idle: Vec<SnapshotId>,
}

impl Schedules {
    pub fn new(
        cluster: Cluster,
        uploads: Uploads,
        clock: Clock,
        metrics: Arc<Metrics>,
        crew: Crew,
    ) -> Schedules {
        let shared = Shared {
            cluster,
            uploads,
            clock,
            metrics,
            crew,
            under_way: Mutex::default(),
            turns: Semaphore::new(limits::VERIFICATIONS_AT_ONCE),
            shown: Mutex::default(),
        };
        Schedules { shared: Arc::new(shared) }
    }

    fn me(&self) -> NodeId {
        self.shared.cluster.me().identity.borrow().node
    }

    // ---- As clients see it. ----

    /// As it stands, and whether this changed anything.
    pub async fn put(
        &self,
        id: ScheduleId,
        definition: Definition,
        replace: bool,
        wait: Duration,
    ) -> Result<(Schedule, bool)> {
        let at_ms = self.shared.clock.wall_ms();
        let put = Command::PutSchedule { id: id.clone(), definition, at_ms, replace };
        let changed = self.shared.cluster.change(put, wait).await?;
        Ok((self.get(id, wait).await?, changed))
    }

    pub async fn get(&self, id: ScheduleId, wait: Duration) -> Result<Schedule> {
        self.shared.cluster.look(wait, move |s| s.schedule(&id).cloned()).await?
    }

    /// So many behind one, by name.
    pub async fn list(
        &self,
        after: Option<ScheduleId>,
        count: usize,
        wait: Duration,
    ) -> Result<Vec<Schedule>> {
        let list = move |s: &State| {
            let behind = |schedule: &&Schedule| after.as_ref().is_none_or(|at| schedule.id > *at);
            s.schedules().values().filter(behind).take(count).cloned().collect()
        };
        self.shared.cluster.look(wait, list).await
    }

    pub async fn delete(&self, id: ScheduleId, wait: Duration) -> Result<()> {
        self.shared.cluster.change(Command::DeleteSchedule(id), wait).await.map(drop)
    }

    pub async fn pause(&self, id: ScheduleId, paused: bool, wait: Duration) -> Result<Schedule> {
        let at_ms = self.shared.clock.wall_ms();
        let pause = Command::PauseSchedule { id: id.clone(), paused, at_ms };
        self.shared.cluster.change(pause, wait).await?;
        self.get(id, wait).await
    }

    /// Begins a run now, unless one is under way; whether it did.
    pub async fn run_now(&self, id: ScheduleId, wait: Duration) -> Result<(Schedule, bool)> {
        let now_ms = self.shared.clock.wall_ms();
        let of = id.clone();
        let snapshot = self.shared.cluster.look(wait, move |s| s.run_name(&of, now_ms)).await?;
        let run = Run { snapshot, planned_ms: now_ms, began_ms: now_ms, by_hand: true };
        let began =
            self.shared.cluster.change(Command::RunSchedule { id: id.clone(), run }, wait).await?;
        Ok((self.get(id, wait).await?, began))
    }

    /// Where the nodes that answer have their repository, each place once.
    pub async fn repositories(&self) -> Result<Vec<String>> {
        let others = self.shared.cluster.repositories().await?;
        let own = self.shared.uploads.repository_place();
        let places: BTreeSet<String> = others.into_values().chain(own).collect();
        Ok(places.into_iter().collect())
    }

    /// What the reports in this node's repository say, or what nodes last knew that have one.
    pub async fn care(&self) -> Result<Told> {
        if self.shared.uploads.are_possible() {
            return Ok(self.shared.uploads.care().await);
        }
        let mut told = Told::default();
        for said in self.shared.cluster.with_repositories().await?.into_values() {
            let verified = [told.verification, said.verification].into_iter().flatten();
            told.verification = verified.max_by_key(|last| last.began_ms);
            let drilled = [told.drill, said.drill].into_iter().flatten();
            told.drill = drilled.max_by_key(|last| last.began_ms);
        }
        Ok(told)
    }

    // ---- As the node that leads sees it. ----

    /// Looks what is due, as long as the node runs.
    pub async fn tend(self) {
        loop {
            tokio::time::sleep(limits::SCHEDULE_LOOK).await;
            if let Err(e) = self.show().await {
                tracing::debug!(error = %e, "the schedules are not shown as they stand");
            }
            if let Err(e) = self.tend_once().await {
                tracing::warn!(error = %e, "what schedules have come due was not looked at; it is \
                               looked at again");
            }
        }
    }

    /// Every node shows what it has applied.
    async fn show(&self) -> Result<()> {
        let see = |s: &State| s.schedules().values().cloned().collect::<Vec<Schedule>>();
        let (all, _) = self.shared.cluster.view(true, limits::NODE_STATUS, see).await?;
        let seen = |schedule: &Schedule| ScheduleSeen {
            name: schedule.id.as_str().to_owned(),
            next_s: schedule.next_ms().unwrap_or_default() / 1000,
            missed: schedule.missed,
            failures: schedule.failures,
        };
        let seen: Vec<ScheduleSeen> = all.iter().map(seen).collect();
        let ended = |schedule: &Schedule| schedule.stored.as_ref().map(|stored| stored.ended_ms);
        let backups = all.iter().filter(|schedule| schedule.definition.task.is_backup());
        let committed_s = backups.filter_map(ended).max().unwrap_or_default() / 1000;
        let mut shown = lock(&self.shared.shown);
        self.shared.metrics.schedules(&shown, &seen, committed_s);
        *shown = seen.into_iter().map(|seen| seen.name).collect();
        Ok(())
    }

    async fn tend_once(&self) -> Result<()> {
        let now_ms = self.shared.clock.wall_ms();
        let see = move |s: &State| {
            let all = || s.schedules().values();
            let run = |schedule: &Schedule| Some((schedule.clone(), schedule.running?));
            Due {
                decisions: all().filter_map(|one| s.planned(one, now_ms)).collect(),
                runs: all().filter_map(run).collect(),
                idle: s.idle_snapshots(),
            }
        };
        let Some(due) = self.shared.cluster.look_as_leader(see).await? else { return Ok(()) };
        for (schedule, run) in due.runs {
            self.carry_out(schedule, run);
        }
        for decision in due.decisions {
            tell(&decision);
            self.shared
                .cluster
                .change(Command::DecideRun(decision), limits::REQUEST_DEADLINE)
                .await?;
        }
        for id in due.idle {
            let delete = Command::BeginDeletion { id, lineage: None };
            match self.shared.cluster.change(delete, limits::REQUEST_DEADLINE).await {
                Ok(_) => tracing::info!(snapshot = %id, "a newer snapshot is in the repository: \
                                        nodes delete their parts of this one"),
                Err(e) => tracing::warn!(snapshot = %id, error = %e, "nodes keep their parts of \
                                         this snapshot, which a schedule took; it is tried again"),
            }
        }
        Ok(())
    }

    /// Begins a run's task, unless there is one.
    fn carry_out(&self, schedule: Schedule, run: Run) {
        if !lock(&self.shared.under_way).insert(run.snapshot) {
            return;
        }
        let (this, instead) = (self.clone(), self.clone());
        let (id, left) = (schedule.id.clone(), run);
        self.shared.crew.spawn_or(
            Role::Run,
            async move {
                this.run(&schedule, run).await;
                lock(&this.shared.under_way).remove(&run.snapshot);
            },
            async move |e| {
                instead.ends(&id, left, Err(e)).await;
                lock(&instead.shared.under_way).remove(&left.snapshot);
            },
        );
    }
}

/// What is not as it should be stands in the log of the node that decides, and in the schedule.
fn tell(decision: &Decision) {
    let schedule = decision.id.as_str();
    if decision.note.is_empty() && decision.missed == 0 {
        tracing::info!(schedule, "a run is due");
        return;
    }
    let Decision { missed, skipped, note, .. } = decision;
    tracing::warn!(schedule, missed, skipped, note, "runs of this schedule did not begin");
}
