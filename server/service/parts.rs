//! This node's parts of snapshots: from what is frozen at the cut to files on the shelf, and from
//! there to the clients that download them.
//!
//! A capture runs on a thread of its own beside the engine. It copies rows in key order into chunks
//! and reuses the chunks of every partition that has not changed since the node's newest part. It
//! lets go of each group when its rows are copied, and puts the manifest in place only when the
//! snapshot is known to be sealed. The node reports the outcome until the meta group takes the
//! report. A capture of an aborted snapshot gives its space back.

pub mod capture;
pub mod on_shelf;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use capture::{Capture, Head, Outcome};
use on_shelf::{Looks, Removal};
use tokio::sync::{mpsc, watch};

use crate::{
    base::{
        clock::Clock,
        crew::{self, Crew, Role},
        error::{Error, Kind, Result},
        ids::{NodeId, SnapshotId, SnapshotSeq},
        limits,
        locks::lock,
        metrics::{Metrics, PartEnd},
        space,
    },
    cluster::{
        self,
        snapshots::{Part, Status},
    },
    engine::{Captured, SnapshotNews},
    entry::Identity,
    faults::failpoint::{Failpoint, failpoint},
    net::spans::Traces,
    part::{
        manifest::Manifest,
        seal::Sealing,
        shelf::{Owner, PartHold, PartWriter, Shelf},
        tar::{PartReader, Plan},
    },
    proto::{internal::v1 as internal, v1},
    service::admin::Cluster,
};

/// Opens this node's corner of the snapshot store, before the node speaks to anyone. Fails where
/// the operator has named a place that cannot work, or one that another process works in; then
/// others would be told that this node keeps parts. A disk that fails fails this node's parts, and
/// no more.
pub fn open_shelf(
    store: &Path,
    snapshot_store: &Path,
    identity: &Identity,
    address: &str,
) -> Result<Result<Arc<Shelf>>> {
    if space::shared(store, snapshot_store) {
        tracing::warn!(
            store = %store.display(),
            snapshot_store = %snapshot_store.display(),
            "store and snapshot store lie on one file system: its loss takes both, and parts of \
             snapshots fail when they would take its last room; give the snapshot store a disk of \
             its own"
        );
    }
    match Shelf::open(snapshot_store, &owner(identity, address)) {
        Err(e) if matches!(e.kind, Kind::Invalid | Kind::Conflict) => Err(e),
        Err(e) => {
            tracing::error!(error = %e, "the snapshot store cannot be used: this node's parts of \
                                         snapshots fail until it can");
            Ok(Err(e))
        }
        opened => Ok(opened),
    }
}

fn owner(identity: &Identity, address: &str) -> Owner {
    Owner {
        cluster: identity.cluster,
        lineage: identity.lineage,
        node: identity.node,
        address: address.to_owned(),
    }
}

/// The service. Cheap to clone.
#[derive(Clone)]
pub struct Parts {
    shared: Arc<Shared>,
}

/// Where a node keeps what it has.
pub struct Directories {
    pub store: PathBuf,
    /// With its shelf, or why that cannot be used yet.
    pub snapshot_store: Option<(PathBuf, Result<Arc<Shelf>>)>,
    /// What parts are sealed with; they are not without it.
    pub sealing: Option<Sealing>,
}

struct Shared {
    node: NodeId,
    store: PathBuf,
    snapshot_store: Option<PathBuf>,
    /// None without a snapshot store; the error when there is one that could not be used the last
    /// time it was tried.
    shelf: Mutex<Option<Result<Arc<Shelf>>>>,
    sealing: Option<Sealing>,
    identity: watch::Receiver<Identity>,
    address: String,
    clock: Clock,
    cluster: Cluster,
    captures: Mutex<BTreeMap<SnapshotId, Arc<Capture>>>,
    /// Parts that are being accounted for.
    reporting: Mutex<BTreeSet<SnapshotId>>,
    /// Parts that are being deleted because the cluster says so.
    deletions: Mutex<BTreeSet<SnapshotId>>,
    looks: Looks,
    metrics: Arc<Metrics>,
    crew: Crew,
    traces: Traces,
}

impl Parts {
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        node: NodeId,
        directories: Directories,
        identity: watch::Receiver<Identity>,
        address: String,
        clock: Clock,
        cluster: Cluster,
        metrics: Arc<Metrics>,
        crew: Crew,
        traces: Traces,
    ) -> Parts {
        let Directories { store, snapshot_store, sealing } = directories;
        let (snapshot_store, shelf) =
            snapshot_store.map_or((None, None), |(dir, shelf)| (Some(dir), Some(shelf)));
        let shared = Shared {
            node,
            store,
            snapshot_store,
            shelf: Mutex::new(shelf),
            sealing,
            identity,
            address,
            clock,
            cluster,
            captures: Mutex::default(),
            reporting: Mutex::default(),
            deletions: Mutex::default(),
            looks: Looks::default(),
            metrics,
            crew,
            traces,
        };
        Parts { shared: Arc::new(shared) }
    }

    fn shelf(&self) -> Result<Arc<Shelf>> {
        match &*lock(&self.shared.shelf) {
            Some(shelf) => shelf.clone(),
            None => Err(self.no_store()),
        }
    }

    pub fn has_store(&self) -> bool {
        self.shared.snapshot_store.is_some()
    }

    fn no_store(&self) -> Error {
        Error::conflict(format!(
            "node {} has no snapshot store: start it with --snapshot-store DIR",
            self.shared.node
        ))
    }

    fn owner(&self) -> Owner {
        owner(&self.shared.identity.borrow(), &self.shared.address)
    }

    /// The shelf for a new part. A store that could not be used, or was emptied or mounted again
    /// meanwhile, is opened anew.
    fn shelf_to_write(&self) -> Result<Arc<Shelf>> {
        if let Some(dir) = &self.shared.snapshot_store {
            let opened = match self.shelf() {
                Ok(shelf) if shelf.stands_on_disk() => return Ok(shelf),
                Ok(shelf) => shelf.reopen(dir),
                Err(_) => Shelf::open(dir, &self.owner()),
            };
            *lock(&self.shared.shelf) = Some(opened);
        }
        self.shelf()
    }

    fn captures(&self) -> std::sync::MutexGuard<'_, BTreeMap<SnapshotId, Arc<Capture>>> {
        lock(&self.shared.captures)
    }

    /// How long the oldest view of the store has been held by a capture; zero when none is.
    pub fn view_age(&self) -> Duration {
        self.captures().values().map(|capture| capture.view_age()).max().unwrap_or_default()
    }

    /// Parts that are being written now, for other nodes to show.
    pub fn under_way(&self) -> Vec<internal::LocalPart> {
        let captures = self.captures();
        let local = |(id, c): (&SnapshotId, &Arc<Capture>)| internal::LocalPart {
            uuid: id.0.as_bytes().to_vec().into(),
            part: None,
            partitions_done: c.partitions_done(),
            partitions: c.partitions,
        };
        captures.iter().map(local).collect()
    }

    /// Says of this node's own part what its shelf knows better than the registry.
    pub async fn correct(&self, id: SnapshotId, part: &mut v1::SnapshotPart) {
        let info = match self.look(id).await {
            Some(Ok(info)) => info,
            Some(Err(e)) if e.kind == Kind::Corrupt => {
                part.set_status(v1::SnapshotStatus::Damaged);
                part.reason = e.message;
                return;
            }
            _ => return,
        };
        let Ok(bytes) = self.tar_bytes(id) else { return };
        let topology = self.shared.identity.borrow().topology;
        let partitions = info.groups.iter().map(|g| topology.partitions_of(*g).len() as u32).sum();
        part.set_status(v1::SnapshotStatus::Completed);
        part.reason.clear();
        (part.partitions, part.partitions_done) = (partitions, partitions);
        (part.rows, part.bytes, part.download_bytes) = (info.rows, info.bytes, bytes);
        part.manifest_digest = info.digest.to_string();
        let recipients = info.sealed_to.iter().map(ToString::to_string).collect();
        part.seal = Some(v1::PartSeal { recipients });
    }

    /// Bytes of the tar of a finished part.
    pub fn tar_bytes(&self, id: SnapshotId) -> Result<u64> {
        let hold = self.shelf()?.hold(id)?;
        Ok(Plan::of(hold.manifest(), hold.text().len() as u64).total_bytes())
    }

    /// A finished part, which stays as long as it is held.
    pub fn hold(&self, id: SnapshotId) -> Result<PartHold> {
        self.shelf()?.hold(id)
    }

    /// Reads a finished part as a tar.
    pub fn open(&self, id: SnapshotId, offset: u64) -> Result<PartReader> {
        PartReader::open(self.shelf()?.hold(id)?, offset)
    }

    /// Follows what the engine says until it says no more.
    pub async fn run(self, mut news: mpsc::Receiver<SnapshotNews>) {
        self.shared.crew.spawn(Role::Parts, self.clone().note_lineage());
        while let Some(news) = news.recv().await {
            match news {
                SnapshotNews::Captured { id, seq, groups } => self.begin(id, seq, groups),
                SnapshotNews::Sealed { id } => self.decide(id, Outcome::Sealed),
                SnapshotNews::Aborted { id } => self.decide(id, Outcome::Given),
                SnapshotNews::Unreported { id } => self.account_for(id),
                SnapshotNews::Deleted { id } => {
                    self.decide(id, Outcome::Given);
                    let this = self.clone();
                    self.shared.crew.spawn(Role::Delete, async move { this.clear_up(id).await });
                }
                SnapshotNews::Deleting { id, lineage } => self.tick_deletion(id, lineage),
            }
        }
        self.captures().values().for_each(|capture| capture.stop());
    }

    /// Says what became of a part that this process has not begun: it lies finished on the shelf,
    /// or it is missing for good.
    fn account_for(&self, id: SnapshotId) {
        if self.captures().contains_key(&id) || !self.reporting().insert(id) {
            return;
        }
        let this = self.clone();
        self.shared.crew.spawn(Role::Report, async move {
            let shelf = this.shelf();
            let part = match crew::blocking(Role::Lying, move || {
                Ok(shelf.ok().and_then(|shelf| capture::on_shelf(&shelf, id)))
            })
            .await
            {
                Ok(Some(part)) => part,
                Ok(None) => {
                    this.shared.metrics.part_ended(PartEnd::Missing);
                    Part::missing(
                        this.shared.node,
                        "the node was away or restarted while the snapshot was taken",
                    )
                }
                Err(e) => {
                    this.shared.metrics.part_ended(PartEnd::Failed);
                    this.failed(id, &e)
                }
            };
            this.report(id, part).await;
            this.reporting().remove(&id);
        });
    }

    fn reporting(&self) -> std::sync::MutexGuard<'_, BTreeSet<SnapshotId>> {
        lock(&self.shared.reporting)
    }

    fn decide(&self, id: SnapshotId, outcome: Outcome) {
        if let Some(capture) = self.captures().get(&id) {
            capture.decide(outcome);
        }
    }

    /// Deletes a part of the present history of which nobody knows any more.
    async fn clear_up(&self, id: SnapshotId) {
        match self.remove_own(id, None).await {
            Ok(Removal::Kept(_, why)) => {
                tracing::error!(snapshot = %id, why, "a part could not be deleted")
            }
            Ok(_) => {}
            Err(e) => {
                tracing::debug!(
                    snapshot = %id,
                    error = %e,
                    "there is no snapshot store to delete a part from",
                )
            }
        }
    }

    /// Keeps what the snapshot store says of its owner at what this node is: the history has no
    /// name yet when a restored node starts.
    async fn note_lineage(self) {
        let mut identity = self.shared.identity.clone();
        while identity.changed().await.is_ok() {
            let (lineage, shelf) = (identity.borrow_and_update().lineage, self.shelf());
            let Ok(shelf) = shelf else { continue };
            if let Err(e) = crew::blocking(Role::Remove, move || shelf.set_lineage(lineage)).await {
                tracing::warn!(error = %e, "the snapshot store does not know yet whose it is");
            }
        }
    }

    fn begin(&self, id: SnapshotId, seq: SnapshotSeq, groups: Vec<Captured>) {
        let topology = self.shared.identity.borrow().topology;
        let each = topology.partitions() / topology.groups();
        let partitions = groups.iter().filter(|g| !g.group.is_meta()).count() as u32 * each;
        let capture = Arc::new(
            Capture::begin(partitions, self.shared.clock).of_store(self.shared.store.clone()),
        );
        self.captures().insert(id, capture.clone());
        let (this, mut traced) = (self.clone(), self.shared.traces.of_snapshot("capture", id));
        traced.note("devicedb.partitions", i64::from(partitions));
        self.shared.crew.spawn(Role::Report, async move {
            let taken =
                crew::watched(Role::Part, this.take(id, seq, groups, capture.clone())).await;
            let part = taken.unwrap_or_else(|e| Some(this.failed(id, &e)));
            let end = match part.as_ref().map(|part| part.status) {
                None => PartEnd::GivenUp,
                Some(Status::Completed) => PartEnd::Completed,
                Some(_) => PartEnd::Failed,
            };
            this.shared.metrics.part_ended(end);
            if let Some(part) = &part {
                traced.note("devicedb.rows", part.rows as i64);
                traced.note("devicedb.bytes", part.bytes as i64);
            }
            traced.ended(match (end, &part) {
                (PartEnd::Completed, _) => Ok(()),
                (_, Some(part)) => Err(part.reason.clone()),
                (_, None) => Err("the snapshot was given up".into()),
            });
            if let Some(part) = part {
                this.report(id, part).await;
            }
            this.captures().remove(&id);
            // Given up while it was reported. From here on nobody finds the capture any more to say
            // so.
            if end == PartEnd::Completed && capture.is_given() {
                this.clear_up(id).await;
            }
        });
    }

    /// Writes a part. None when nobody wants it any more.
    async fn take(
        &self,
        id: SnapshotId,
        seq: SnapshotSeq,
        groups: Vec<Captured>,
        capture: Arc<Capture>,
    ) -> Option<Part> {
        failpoint(Failpoint::CaptureBegun);
        let (this, watched) = (self.clone(), capture.clone());
        let copied = capture::behind(move || {
            let copied = this.copy(id, seq, groups, &watched);
            this.shared.metrics.view_held(watched.let_go());
            failpoint(Failpoint::CaptureCopied);
            copied
        });
        let (copied, cost) = copied.await.unwrap_or_else(|e| (Err(e), Duration::ZERO));
        self.shared.metrics.capture_cost(cost);
        let (shelf, writer, manifest) = match copied {
            Ok(copied) => copied,
            Err(_) if capture.is_stopped() => return None,
            Err(e) => return Some(self.failed(id, &e)),
        };
        if capture.decided().await == Outcome::Given {
            // Dropping the writer gives the space back, which takes a moment.
            let _ = crew::blocking(Role::Finish, move || {
                writer.abandon();
                Ok(())
            })
            .await;
            return None;
        }
        let last = capture.clone();
        match crew::blocking(Role::Finish, move || {
            capture::put_in_place(&last, &shelf, writer, manifest)
        })
        .await
        {
            Ok(None) => None,
            Ok(Some(finished)) => {
                self.shared.metrics.captured(
                    capture.age(),
                    finished.info.rows,
                    finished.info.bytes,
                    finished.bytes_written,
                );
                let (took_ms, processor_ms) = (capture.age().as_millis(), cost.as_millis());
                let (rows, bytes, written) =
                    (finished.info.rows, finished.info.bytes, finished.bytes_written);
                tracing::info!(
                    snapshot = %id, rows, bytes, written, took_ms, processor_ms, "part completed",
                );
                Some(capture::completed(&finished))
            }
            Err(e) => Some(self.failed(id, &e)),
        }
    }

    fn failed(&self, id: SnapshotId, e: &Error) -> Part {
        let reason = match (&self.shared.snapshot_store, e.kind) {
            (Some(dir), Kind::Exhausted) => format!(
                "snapshot store {} is full: {e}; free space there or start the node with another \
                 --snapshot-store, then run create again",
                dir.display()
            ),
            _ => e.message.clone(),
        };
        tracing::error!(snapshot = %id, reason, "part failed");
        Part::failed(self.shared.node, reason)
    }

    /// Tells the meta group how a part stands until it takes the word, or knows better.
    async fn report(&self, id: SnapshotId, part: Part) {
        self.tell_cluster(id, cluster::Command::ReportPart { id, part }).await;
    }

    async fn tell_cluster(&self, id: SnapshotId, report: cluster::Command) {
        loop {
            failpoint(Failpoint::ReportSending);
            match self.shared.cluster.change(report.clone(), limits::REQUEST_DEADLINE).await {
                Ok(_) => return failpoint(Failpoint::ReportTaken),
                Err(e) if matches!(e.kind, Kind::Unavailable | Kind::Unknown | Kind::Exhausted) => {
                    tokio::time::sleep(limits::REPORT_AGAIN).await
                }
                Err(e) => {
                    return tracing::info!(
                        snapshot = %id,
                        error = %e,
                        "the cluster does not want this part any more",
                    );
                }
            }
        }
    }

    // ---- Copying, on a thread that may block. ----

    fn copy(
        &self,
        id: SnapshotId,
        seq: SnapshotSeq,
        captured: Vec<Captured>,
        capture: &Capture,
    ) -> Result<(Arc<Shelf>, PartWriter, Manifest)> {
        let shelf = self.shelf_to_write()?;
        let identity = self.shared.identity.borrow().clone();
        let head = Head {
            snapshot: id,
            seq,
            identity: &identity,
            address: &self.shared.address,
            written_ms: self.shared.clock.wall_ms(),
            sealing: self.shared.sealing.as_ref(),
        };
        let (writer, manifest) = capture::copy(&shelf, &head, captured, capture)?;
        Ok((shelf, writer, manifest))
    }
}
