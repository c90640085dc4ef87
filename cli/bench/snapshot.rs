//! What a snapshot costs: how long one takes, and what writes notice of it.
//!
//! It sees what a client sees. Writes wait for the cut: that wait is in the longest put, and where
//! all sites wait at once in the longest time without an answer.

use std::time::Duration;

use super::{
    load::Load,
    report::{Extent, Figures, Taken, points},
    tally::Tally,
};
use crate::{
    base::{ids::SnapshotId, limits},
    ctl::{
        client::Client,
        snapshot::{self, Snapshot, deletion, wait},
        term::exit::{self, Failure},
    },
    proto::v1,
};

/// A snapshot and what was counted before it and while it was taken.
pub struct Shot {
    pub extent: Extent,
    pub before: Tally,
    pub during: Tally,
}

/// Takes a snapshot beside a load that runs, and deletes it again.
pub async fn take(load: &Load, client: &mut Client) -> Result<Shot, Failure> {
    let uuid = SnapshotId(client.draw_id());
    let before = load.split();
    let began = client.now();
    snapshot::create(Some(uuid), client).await?;
    let found = loop {
        let (found, _) = snapshot::find(uuid, client).await?;
        if !wait::under_way(&found) {
            break found;
        }
        if client.now() - began > limits::BENCH_SNAPSHOT_MAX {
            let remedy = format!("it goes on; look with ddbctl snapshot status {uuid}");
            return Err(Failure::new(
                exit::UNREACHABLE,
                format!("snapshot {uuid} is still processing"),
                "after an hour",
                remedy,
            ));
        }
        tokio::time::sleep(limits::BENCH_LOOK).await;
    };
    let took = client.now() - began;
    let during = load.split();
    deletion::remove(uuid, None, client).await?;
    snapshot::judge(&Snapshot::new(found.clone()))?;
    Ok(Shot { extent: Extent::of(&found, took), before, during })
}

impl Extent {
    fn of(snapshot: &v1::Snapshot, took: Duration) -> Extent {
        let sum = |of: fn(&v1::SnapshotPart) -> u64| snapshot.parts.iter().map(of).sum::<u64>();
        let bytes = sum(|part| part.bytes);
        let seconds = took.as_secs_f64();
        Extent {
            uuid: snapshot.uuid.clone(),
            status: snapshot::status_word(snapshot.status()),
            seconds,
            parts: snapshot
                .parts
                .iter()
                .filter(|part| part.status() == v1::SnapshotStatus::Completed)
                .count(),
            rows: sum(|part| part.rows),
            bytes,
            bytes_written: sum(|part| part.bytes_written),
            mb_per_second: bytes as f64 / 1e6 / seconds.max(f64::MIN_POSITIVE),
        }
    }
}

impl Shot {
    pub fn report(&self, setting: super::report::Setting) -> Taken {
        let mut over_time = points(&self.before, 0.0);
        over_time.extend(points(&self.during, self.before.took.as_secs_f64()));
        let (before, during) = (Figures::of(&self.before), Figures::of(&self.during));
        Taken {
            work: "snapshot",
            setting,
            snapshot: self.extent.clone(),
            before,
            during,
            over_time,
        }
    }
}
