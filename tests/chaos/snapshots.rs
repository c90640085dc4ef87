//! Snapshots at intervals, whatever happens meanwhile; of each that is completed, every part is
//! downloaded, verified, restored and read.
//!
//! The counters that a part's store holds are those of its node's replicas. All parts of a snapshot
//! have to agree, and together they are one instant.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use devicedb::{
    base::{
        clock::Random,
        disk::Machine,
        ids::{SiteId, Topology},
    },
    boot::restore,
    data::{Bucket, Key, Place as At, Row, RowKey},
    part::manifest::Manifest,
    proto::v1::{Snapshot, SnapshotStatus},
    store::keys,
    wire,
};
use tokio::{
    sync::{Notify, watch},
    time::{sleep, timeout},
};

use crate::{
    clients::{Place, Shared},
    harness::{Client, SOON, reason, shell},
    history::{CutTimes, one_instant},
};

const CALL: Duration = Duration::from_secs(3);
const DOWNLOAD: Duration = Duration::from_secs(15);
const AGAIN: Duration = Duration::from_millis(100);
const PAUSE_MS: u64 = 5000;
/// Faults come and go; one that keeps a snapshot open for longer than this is none of ours.
const PATIENCE: Duration = Duration::from_secs(150);

/// What became of the snapshots.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub completed: u32,
    pub failed: u32,
    /// Not even begun, as far as anyone knows.
    pub refused: u32,
    pub parts: u32,
    pub missing: u32,
    /// Of nodes that were removed before they could be downloaded.
    pub left: u32,
}

pub struct Photographer {
    pub nodes: Vec<Client>,
    pub topology: Topology,
    pub shared: Shared,
    /// Where parts are unpacked.
    pub dir: PathBuf,
    pub rng: Random,
    /// Told whenever a snapshot has begun.
    pub began: Arc<Notify>,
    pub tally: Tally,
}

impl Photographer {
    pub async fn work(mut self, stopped: watch::Receiver<bool>) -> Photographer {
        while !*stopped.borrow() {
            self.take().await;
            sleep(Duration::from_millis(self.rng.below(PAUSE_MS))).await;
        }
        self
    }

    /// Takes one, and checks what it holds. Whether it is whole: completed, with no part missing.
    pub async fn take(&mut self) -> bool {
        let called = self.shared.clock.now();
        let Some(uuid) = self.create().await else {
            self.tally.refused += 1;
            return false;
        };
        self.began.notify_one();
        let Some((snapshot, sealed)) = self.resolved(&uuid).await else {
            self.breaks(format!("snapshot {uuid} is still open after {PATIENCE:?}"));
            return false;
        };
        let completed: Vec<u64> = snapshot
            .parts
            .iter()
            .filter(|p| p.status() == SnapshotStatus::Completed)
            .map(|p| p.node_id)
            .collect();
        self.tally.missing += (snapshot.parts.len() - completed.len()) as u32;
        if let Some(sealed) = sealed {
            self.tally.completed += 1;
            let left = self.tally.left;
            match self.held(&uuid, &completed).await {
                Ok(held) => {
                    let all = self.tally.left == left;
                    self.check(&uuid, &CutTimes { called, sealed }, &held, all)
                }
                Err(e) => self.breaks(format!("snapshot {uuid}: {e}")),
            }
        } else {
            self.tally.failed += 1;
            if snapshot.reason.is_empty() {
                self.breaks(format!("a snapshot failed without a reason: {snapshot:#?}"));
            }
        }
        for _ in 0..self.nodes.len() {
            if self.any().delete_snapshot(&uuid).await.is_ok() {
                break;
            }
        }
        sealed.is_some() && completed.len() == snapshot.parts.len()
    }

    fn breaks(&self, what: String) {
        self.shared.history().broken.push(what);
    }

    fn any(&mut self) -> Client {
        let started = self.shared.started.load(Ordering::SeqCst);
        self.nodes[self.rng.below(started as u64) as usize].clone().with_deadline(CALL)
    }

    async fn create(&mut self) -> Option<String> {
        let name = Bytes::copy_from_slice(self.rng.uuid().as_bytes());
        let until = self.shared.clock.now() + PATIENCE / 5;
        while self.shared.clock.now() < until {
            match self.any().create_snapshot_named(name.clone()).await {
                Ok(snapshot) => return Some(snapshot.uuid),
                Err(status)
                    if ["INVALID", "NOT_FOUND", "CORRUPT"].contains(&reason(&status).as_str()) =>
                {
                    self.breaks(format!("a snapshot was refused: {status:?}"));
                    return None;
                }
                Err(_) => sleep(AGAIN).await,
            }
        }
        None
    }

    /// The snapshot when no part is open any more, and when somebody learned that it is sealed.
    async fn resolved(&mut self, uuid: &str) -> Option<(Snapshot, Option<Duration>)> {
        let until = self.shared.clock.now() + PATIENCE;
        let mut sealed = None;
        while self.shared.clock.now() < until {
            if let Ok(snapshot) = self.any().snapshot(uuid).await {
                if snapshot.status() == SnapshotStatus::Completed {
                    sealed = sealed.or(Some(self.shared.clock.now()));
                }
                let is_over =
                    |status| matches!(status, SnapshotStatus::Completed | SnapshotStatus::Failed);
                if is_over(snapshot.status())
                    && snapshot.parts.iter().all(|part| part.status() != SnapshotStatus::Processing)
                {
                    return Some((snapshot, sealed));
                }
            }
            sleep(AGAIN).await;
        }
        None
    }

    /// The counters, as the parts hold them.
    async fn held(&mut self, uuid: &str, parts: &[u64]) -> Result<BTreeMap<Place, u64>, String> {
        let mut held = BTreeMap::new();
        for node in parts {
            let dir = self.dir.join(format!("{uuid}-{node}"));
            let (tar, store) = (dir.join("part.tar"), dir.join("store"));
            fs::create_dir_all(&store).unwrap();
            if !self.download(uuid, *node, &tar).await? {
                fs::remove_dir_all(&dir).unwrap();
                self.tally.left += 1;
                continue;
            }
            let line = format!(
                "ddbctl snapshot verify {0} && tar xf {0} -C {1}",
                tar.display(),
                store.display()
            );
            let ran = shell(&line, SOON).await;
            if ran.code != Some(0) {
                return Err(ran.story());
            }
            let topology = self.topology;
            let counters = tokio::task::spawn_blocking(move || counters(&store, topology))
                .await
                .map_err(|e| e.to_string())??;
            for (place, number) in counters {
                let others = *held.entry(place).or_insert(number);
                if others != number {
                    return Err(format!(
                        "the part of node {node} holds {number} of {place:?}, another holds \
                         {others}"
                    ));
                }
            }
            fs::remove_dir_all(&dir).unwrap();
            self.tally.parts += 1;
        }
        Ok(held)
    }

    /// False where the node is no member any more.
    async fn download(&mut self, uuid: &str, node: u64, tar: &Path) -> Result<bool, String> {
        let until = self.shared.clock.now() + PATIENCE;
        let mut seen = "nothing".to_string();
        while self.shared.clock.now() < until {
            match timeout(DOWNLOAD, self.any().download(uuid, node, 0)).await {
                Ok((downloaded, Ok(()))) if downloaded.trailer.is_some() => {
                    fs::write(tar, downloaded.data).unwrap();
                    return Ok(true);
                }
                Ok((_, Err(status))) if status.message().contains("the cluster has no node") => {
                    return Ok(false);
                }
                Ok((_, Ok(()))) => {
                    return Err(format!(
                        "a download of the part of node {node} ended well and without a trailer"
                    ));
                }
                Ok((_, Err(status))) => seen = format!("{status:?}"),
                Err(_) => {}
            }
            sleep(AGAIN).await;
        }
        Err(format!("the part of node {node} cannot be downloaded; last seen: {seen}"))
    }

    /// `all` says that every completed part was read: one that left with its node may have been the
    /// only one of a group.
    fn check(&self, uuid: &str, times: &CutTimes, held: &BTreeMap<Place, u64>, all: bool) {
        let history = self.shared.history();
        let missing: BTreeSet<_> =
            Place::counters().filter(|place| !held.contains_key(place)).collect();
        let instant = one_instant(
            times,
            held.iter().filter_map(|(place, number)| Some((history.counters.get(place)?, *number))),
        );
        drop(history);
        if all && !missing.is_empty() {
            self.breaks(format!("snapshot {uuid} is completed and no part holds {missing:?}"));
        }
        if let Err(e) = instant {
            self.breaks(format!(
                "snapshot {uuid} of {times:?} is not one instant: {e}; it holds {held:?}"
            ));
        }
    }
}

/// The counters that an extracted part holds once it is restored; 0 for those that were not written
/// yet.
fn counters(dir: &Path, topology: Topology) -> Result<BTreeMap<Place, u64>, String> {
    let manifest = fs::read(dir.join("manifest.json")).map_err(|e| e.to_string())?;
    let (manifest, _) = Manifest::parse(&manifest).map_err(|e| e.to_string())?;
    let partitions: BTreeSet<_> =
        manifest.partitions().map(|(_, partition)| partition.id).collect();
    restore::restore(dir, None).map_err(|e| e.to_string())?;
    let (store, _) = restore::open(dir, &Machine).map_err(|e| e.to_string())?;
    let view = store.view().map_err(|e| e.to_string())?;
    let mut held = BTreeMap::new();
    for place in Place::counters() {
        let site = SiteId::new(place.site()).map_err(|e| e.to_string())?;
        let partition = topology.partition_of(&site);
        if !partitions.contains(&partition) {
            continue;
        }
        let row = RowKey {
            partition,
            site,
            place: At::Key {
                bucket: Bucket::Default,
                key: Key::new(place.key()).map_err(|e| e.to_string())?,
            },
        };
        let number = match view.get(&keys::data(&row.encode())).map_err(|e| e.to_string())? {
            None => 0,
            Some(stored) => {
                let Row::Key(versions) =
                    wire::decode_row(&row.place, &stored).map_err(|e| e.to_string())?
                else {
                    return Err(format!("{row:?} is not the row of a key"));
                };
                let [version] = versions.versions() else {
                    return Err(format!("a counter with one writer has siblings: {versions:?}"));
                };
                let value = version.value.clone().ok_or("a counter was deleted")?.into_bytes();
                u64::from_be_bytes(value[..].try_into().map_err(|_| "a counter is no number")?)
            }
        };
        held.insert(place, number);
    }
    Ok(held)
}
