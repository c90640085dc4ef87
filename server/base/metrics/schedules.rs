//! Schedules as `/metrics` shows them: what the meta group says of each, on every node.

use std::sync::atomic::Ordering;

use prometheus_client::encoding::EncodeLabelSet;

use super::Metrics;

/// A schedule, by its name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Planned {
    schedule: String,
}

/// A schedule as it is shown: times in seconds since 1970.
#[derive(Debug)]
pub struct ScheduleSeen {
    pub name: String,
    pub next_s: u64,
    pub missed: u64,
    pub failures: u32,
}

impl Metrics {
    /// All schedules as they stand, and when the last of their snapshots was in the repository.
    /// Those that are no more are not shown any more.
    pub fn schedules(&self, before: &[String], now: &[ScheduleSeen], committed_s: u64) {
        let gone = before.iter().filter(|name| now.iter().all(|seen| seen.name != **name));
        for schedule in gone.cloned() {
            let label = Planned { schedule };
            self.schedule_next.remove(&label);
            self.schedule_missed.remove(&label);
            self.schedule_failures.remove(&label);
        }
        for ScheduleSeen { name, next_s, missed, failures } in now {
            let label = Planned { schedule: name.clone() };
            self.schedule_next.get_or_create(&label).set(*next_s as i64);
            // The count is the cluster's, and survives this process.
            let shown = self.schedule_missed.get_or_create(&label);
            shown.inner().store(*missed, Ordering::Relaxed);
            self.schedule_failures.get_or_create(&label).set(i64::from(*failures));
        }
        self.repository_committed.set(committed_s as i64);
    }
}
