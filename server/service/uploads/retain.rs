//! What a schedule does not keep goes from the repository once its next snapshot is there, also
//! from the histories that the cluster has adopted: there it takes up what the schedule of that
//! name had stored.
//!
//! The node that drove the upload does it, and that it could not is said in its log: the snapshot
//! is stored all the same, and the next one tries again.

use std::collections::BTreeSet;

use super::Uploads;
use crate::{
    base::{
        crew::{self, Role},
        ids::{ScheduleId, SnapshotId},
        limits,
    },
    cluster::{State, retention::Keep, schedule::Task},
    repository::{
        collect::{self, Order},
        root::{Folder, Repository},
    },
};

/// The schedule that a snapshot is taken for, and what it keeps.
#[derive(Clone, Debug)]
pub struct Scheduled {
    pub id: ScheduleId,
    pub keep: Option<Keep>,
}

impl Scheduled {
    /// Whose run a snapshot is of, as long as that is under way.
    pub fn of(state: &State, snapshot: SnapshotId) -> Option<Scheduled> {
        let mut all = state.schedules().values();
        let schedule =
            all.find(|schedule| schedule.running.is_some_and(|run| run.snapshot == snapshot))?;
        match schedule.definition.task {
            Task::Backup { keep } => Some(Scheduled { id: schedule.id.clone(), keep }),
            Task::Verify(_) => None,
        }
    }
}

impl Uploads {
    pub(super) async fn retain(&self, repository: Repository, folder: Folder, of: &Scheduled) {
        let Some(keep) = of.keep else { return };
        let order = Order {
            keep,
            schedule: Some(of.id.as_str().to_owned()),
            named: BTreeSet::new(),
            grace_ms: limits::COLLECT_GRACE_MS,
            now_ms: self.shared.clock.wall_ms(),
            own: Some(folder),
            trust_clock: false,
            dry_run: false,
        };
        let collect = move || {
            let left = collect::unfinished(&repository, &order)?;
            Ok((collect::line(&repository, folder, &order)?, left))
        };
        let schedule = of.id.as_str();
        match crew::blocking(Role::Repository, collect).await {
            Ok((collected, left)) => {
                let snapshots = collected.iter().flat_map(|of| &of.snapshots);
                let gone = snapshots.filter(|one| !one.stays).count();
                tracing::info!(
                    schedule,
                    gone,
                    dropped_bytes = collected.iter().map(|of| of.dropped_bytes).sum::<u64>(),
                    deleted_bytes = collected.iter().map(|of| of.deleted_bytes).sum::<u64>(),
                    unfinished_bytes = left.bytes,
                    "collected what the schedule does not keep in the repository"
                );
                for refused in collected.into_iter().flat_map(|of| of.refused) {
                    tracing::warn!(schedule, refused, "something stays in the repository");
                }
            }
            Err(e) => tracing::warn!(schedule, error = %e, "nothing could be collected in the \
                                     repository; the next upload tries again"),
        }
    }
}
