//! One run: its snapshot is taken, stored, and the end noted; or the repository is verified, and
//! the end noted.
//!
//! Each step looks first whether it is done already, so a run can be begun again anywhere in it, by
//! this node or by the next one that leads. It is left as it stands when this node does not lead
//! any more, or when the schedule is gone.

use std::collections::BTreeMap;

use super::Schedules;
use crate::{
    base::{
        error::{Error, Kind, Result},
        ids::{NodeId, ScheduleId, SnapshotId},
        limits,
    },
    cluster::{
        Command, Node, State,
        extent::Extent,
        schedule::{Run, Schedule, Task},
    },
    faults::failpoint::{Failpoint, failpoint},
    proto::{internal::v1 as internal, v1::UploadStatus},
};

/// Why a run does not come to its good end here.
enum Halt {
    /// It is left to whoever leads now.
    Left,
    Failed(Error),
}

impl From<Error> for Halt {
    fn from(e: Error) -> Halt {
        Halt::Failed(e)
    }
}

/// What is known of a run's snapshot.
struct Known {
    is_there: bool,
    was_deleted: bool,
    /// Another snapshot is being taken.
    other: Option<SnapshotId>,
}

impl Schedules {
    pub(super) async fn run(&self, schedule: &Schedule, run: Run) {
        let id = &schedule.id;
        tracing::info!(schedule = id.as_str(), snapshot = %run.snapshot, planned_ms =
                       run.planned_ms, "a scheduled run goes on");
        let steps = match schedule.definition.task {
            Task::Backup { .. } => self.steps(id, run.snapshot).await,
            Task::Verify(extent) => self.verify(id, run, extent).await,
        };
        let ended = match steps {
            Ok(()) => Ok(()),
            Err(Halt::Failed(e)) => Err(e),
            Err(Halt::Left) => return,
        };
        let is_stored = ended.is_ok();
        if self.ends(id, run, ended).await && is_stored {
            self.stored(schedule, run);
        }
    }

    /// What the log says of a run that came to its good end.
    fn stored(&self, schedule: &Schedule, run: Run) {
        let schedule_id = schedule.id.as_str();
        match schedule.definition.task {
            Task::Backup { keep } => {
                let keep = keep.map_or("everything".to_owned(), |keep| keep.to_string());
                tracing::info!(schedule = schedule_id, snapshot = %run.snapshot, keep,
                               "a scheduled snapshot is in the repository");
            }
            Task::Verify(extent) => {
                tracing::info!(schedule = schedule_id, extent = %extent,
                               "the repository was verified, and nothing is wrong");
            }
        }
    }

    async fn steps(&self, id: &ScheduleId, snapshot: SnapshotId) -> Result<(), Halt> {
        // Without a place for it a snapshot would fill the shelves and be no backup.
        self.driver().await?;
        self.take(id, snapshot).await?;
        failpoint(Failpoint::ScheduledSnapshotTaken);
        self.store(id, snapshot).await?;
        failpoint(Failpoint::ScheduledSnapshotStored);
        Ok(())
    }

    /// Whether this run is still this node's to carry out.
    async fn is_ours(&self, id: &ScheduleId, snapshot: SnapshotId) -> Result<(), Halt> {
        let of = id.clone();
        let see = move |s: &State| {
            s.schedules()
                .get(&of)
                .and_then(|schedule| schedule.running)
                .is_some_and(|run| run.snapshot == snapshot)
        };
        match self.shared.cluster.look_as_leader(see).await {
            Ok(Some(true)) => Ok(()),
            _ => Err(Halt::Left),
        }
    }

    /// The snapshot, unless it was taken before. Others are waited for, and so is a majority.
    async fn take(&self, id: &ScheduleId, snapshot: SnapshotId) -> Result<(), Halt> {
        let clock = self.shared.clock;
        let until = clock.now() + limits::SCHEDULED_SNAPSHOT_WAIT;
        loop {
            self.is_ours(id, snapshot).await?;
            let why = match self.take_once(snapshot).await {
                Ok(None) => return Ok(()),
                Ok(Some(other)) => Error::unavailable(format!(
                    "snapshot {other} was being taken all the time, and there is one at a time"
                )),
                Err(e) if matches!(e.kind, Kind::Unavailable | Kind::Unknown | Kind::Exhausted) => {
                    e
                }
                Err(e) => return Err(e.into()),
            };
            if clock.now() >= until {
                return Err(Error::unavailable(format!("no snapshot was taken: {why}")).into());
            }
            tokio::time::sleep(limits::SCHEDULE_LOOK).await;
        }
    }

    /// Another snapshot that has to end first; none once this one has begun.
    async fn take_once(&self, snapshot: SnapshotId) -> Result<Option<SnapshotId>> {
        let see = move |s: &State| Known {
            is_there: s.snapshot_named(snapshot).is_some_and(|known| known.deleting.is_none()),
            was_deleted: s.settings().deleted.contains(&snapshot),
            other: s.open_snapshot().map(|open| open.id).filter(|open| *open != snapshot),
        };
        let known = self.shared.cluster.look(limits::REQUEST_DEADLINE, see).await?;
        match known {
            Known { is_there: true, .. } => return Ok(None),
            Known { was_deleted: true, .. } => {
                return Err(Error::conflict(
                    "somebody has deleted its snapshot while the run was under way",
                ));
            }
            Known { other: Some(other), .. } => return Ok(Some(other)),
            Known { other: None, .. } => {}
        }
        let now_ms = self.shared.clock.wall_ms();
        let taken =
            self.shared.cluster.create_snapshot(Some(snapshot), now_ms, limits::REQUEST_DEADLINE);
        match taken.await {
            Ok((_, warning)) => {
                if let Some(warning) = warning {
                    tracing::warn!(warning, "there will soon be no room for another snapshot");
                }
                Ok(None)
            }
            // Somebody else was quicker: that is seen at the next look.
            Err(e) if e.kind == Kind::Conflict => {
                let look = self.shared.cluster.look(limits::REQUEST_DEADLINE, see).await?;
                look.other.map(Some).ok_or(e)
            }
            Err(e) => Err(e),
        }
    }

    /// Has the snapshot stored, by another node if one cannot.
    async fn store(&self, id: &ScheduleId, snapshot: SnapshotId) -> Result<(), Halt> {
        let mut why = Error::unavailable("it was not begun");
        for nth in 0..limits::SCHEDULED_UPLOADS {
            if nth > 0 {
                tracing::warn!(schedule = id.as_str(), %snapshot, error = %why, "a scheduled \
                               snapshot was not stored; it is begun again");
                tokio::time::sleep(limits::SCHEDULED_UPLOAD_AGAIN).await;
            }
            self.is_ours(id, snapshot).await?;
            let tried = match self.driver().await {
                Ok(driver) => self.store_at(id, snapshot, driver).await,
                Err(e) => Err(e.into()),
            };
            match tried {
                Err(Halt::Failed(e)) => why = e,
                ended => return ended,
            }
        }
        Err(why.into())
    }

    async fn store_at(
        &self,
        id: &ScheduleId,
        snapshot: SnapshotId,
        driver: Option<Node>,
    ) -> Result<(), Halt> {
        let mut begin = true;
        loop {
            let request = internal::StoreSnapshotRequest {
                uuid: snapshot.0.as_bytes().to_vec().into(),
                node_id: driver.as_ref().map_or(self.me(), |node| node.id).0,
                lineage: self.shared.cluster.me().identity.borrow().lineage.0,
                begin,
            };
            let asked = async {
                match &driver {
                    None => {
                        self.shared.uploads.store_asked(request, limits::REQUEST_DEADLINE).await
                    }
                    Some(node) => {
                        self.shared.cluster.me().dialler.store_snapshot(node, request).await
                    }
                }
            };
            let answer = tokio::time::timeout(limits::REQUEST_DEADLINE, asked).await;
            let late = |_| Err(Error::unavailable("the node that stores it does not answer"));
            let answer = answer.unwrap_or_else(late)?;
            let status = i32::try_from(answer.status).ok();
            match status.and_then(|status| UploadStatus::try_from(status).ok()) {
                Some(UploadStatus::Running) => {}
                Some(UploadStatus::Stored) => return Ok(()),
                _ => {
                    let told = Some(answer.reason).filter(|reason| !reason.is_empty());
                    let told = told.unwrap_or_else(|| "the node that stored it has lost it".into());
                    return Err(Error::unavailable(told).into());
                }
            }
            begin = false;
            tokio::time::sleep(limits::SCHEDULE_LOOK).await;
            self.is_ours(id, snapshot).await?;
        }
    }

    /// Has the repository verified, by another node if one cannot.
    async fn verify(&self, id: &ScheduleId, run: Run, extent: Extent) -> Result<(), Halt> {
        let _turn = self.shared.turns.acquire().await;
        let (mut tries, mut why) = (0, Error::unavailable("it was not begun"));
        while tries < limits::SCHEDULED_UPLOADS {
            self.is_ours(id, run.snapshot).await?;
            let tried = match self.driver().await {
                Ok(driver) => self.verify_at(id, run, extent, driver).await,
                Err(e) => Err(e.into()),
            };
            match tried {
                Ok(wrong) if wrong.is_empty() => return Ok(()),
                Ok(wrong) => return Err(Error::corrupt(wrong).into()),
                Err(Halt::Failed(e)) => {
                    tracing::warn!(schedule = id.as_str(), error = %e, "the repository was not \
                                   verified; it is begun again");
                    // That node still verifies for whoever led before.
                    tries += usize::from(e.kind != Kind::Exhausted);
                    why = e;
                }
                Err(left) => return Err(left),
            }
            tokio::time::sleep(limits::SCHEDULED_UPLOAD_AGAIN).await;
        }
        Err(why.into())
    }

    /// What is wrong, in words, once the report is in the repository.
    async fn verify_at(
        &self,
        id: &ScheduleId,
        run: Run,
        extent: Extent,
        driver: Option<Node>,
    ) -> Result<String, Halt> {
        let mut begin = true;
        loop {
            let request = internal::VerifyRepositoryRequest {
                uuid: run.snapshot.0.as_bytes().to_vec().into(),
                node_id: driver.as_ref().map_or(self.me(), |node| node.id).0,
                lineage: self.shared.cluster.me().identity.borrow().lineage.0,
                begin,
                extent: extent.to_string(),
                planned_ms: run.planned_ms,
                began_ms: run.began_ms,
            };
            let answer = match &driver {
                None => self.shared.uploads.verify_asked(&request),
                Some(node) => {
                    let asked = self.shared.cluster.me().dialler.verify_repository(node, request);
                    let answer = tokio::time::timeout(limits::REQUEST_DEADLINE, asked).await;
                    let late = |_| Error::unavailable("the node that verifies does not answer");
                    answer.map_err(late).flatten()
                }
            }?;
            let status = i32::try_from(answer.status).ok();
            match status.and_then(|status| UploadStatus::try_from(status).ok()) {
                Some(UploadStatus::Running) => {}
                Some(UploadStatus::Stored) => return Ok(answer.reason),
                _ => {
                    let told = Some(answer.reason).filter(|reason| !reason.is_empty());
                    let told = told.unwrap_or_else(|| "the node that verified has lost it".into());
                    return Err(Error::unavailable(told).into());
                }
            }
            begin = false;
            tokio::time::sleep(limits::SCHEDULE_LOOK).await;
            self.is_ours(id, run.snapshot).await?;
        }
    }

    /// Another node that has a repository, where this one has none.
    async fn driver(&self) -> Result<Option<Node>> {
        if self.shared.uploads.are_possible() {
            return Ok(None);
        }
        let known: BTreeMap<NodeId, String> = self.shared.cluster.repositories().await?;
        let Some(node) = known.into_keys().next() else {
            return Err(Error::conflict(
                "no node that answers has a repository: start the nodes with --repository PLACE",
            ));
        };
        let see = move |s: &State| s.node(node).cloned();
        let (listed, _) = self.shared.cluster.view(true, limits::NODE_STATUS, see).await?;
        let gone = || Error::unavailable(format!("node {node} has left the cluster"));
        Ok(Some(self.shared.cluster.where_it_is(listed.ok_or_else(gone)?)))
    }

    /// Notes the end of a run, until that is noted or left to another node. Whether it was noted
    /// here.
    pub(super) async fn ends(&self, id: &ScheduleId, run: Run, ended: Result<()>) -> bool {
        let snapshot = run.snapshot;
        if let Err(e) = &ended {
            tracing::error!(schedule = id.as_str(), %snapshot, error = %e, "a scheduled run \
                            failed");
        }
        let reason = ended.err().map_or(String::new(), |e| e.message);
        loop {
            let ended_ms = self.shared.clock.wall_ms();
            let (id, reason) = (id.clone(), reason.clone());
            let end = Command::EndRun { id: id.clone(), snapshot, ended_ms, reason };
            match self.shared.cluster.change(end, limits::REQUEST_DEADLINE).await {
                Ok(changed) => return changed,
                Err(e) if e.kind == Kind::NotFound => return false,
                Err(e) => tracing::debug!(error = %e, "the end of a run could not be noted yet"),
            }
            tokio::time::sleep(limits::SCHEDULE_LOOK).await;
            if self.is_ours(&id, snapshot).await.is_err() {
                return false;
            }
        }
    }
}
