//! This node's parts of snapshots: from the view at the cut to files on the shelf, and from there to whoever downloads them.
//!
//! A capture runs on a thread of its own beside the engine. It copies rows in key order into chunks as long as the view is open, reuses the chunks of every
//! partition that has not changed since the node's newest part, lets go of the view, and puts the manifest in place only when the snapshot is known to be
//! sealed. What became of it is reported to the meta group until that takes it. A capture of a snapshot that is aborted gives its space back.

pub mod capture;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use capture::{Capture, Head, Outcome};
use tokio::sync::{mpsc, watch};

use crate::{
    clock::Clock,
    cluster::{
        self,
        snapshots::{Part, Status},
    },
    engine::{Captured, SnapshotNews},
    entry::Identity,
    error::{Error, Kind, Result},
    failpoint::{Failpoint, failpoint},
    ids::{NodeId, SnapshotId, SnapshotSeq},
    limits,
    membership::Cluster,
    metrics::{Metrics, PartEnd},
    proto::{internal::v1 as internal, v1},
    snapshot::{
        archive::{PartReader, Plan},
        manifest::Manifest,
        shelf::{PartInfo, PartWriter, Shelf},
    },
    store::View,
};

/// The service. Cheap to clone.
#[derive(Clone)]
pub struct Parts {
    shared: Arc<Shared>,
}

struct Shared {
    node: NodeId,
    snapshot_store: Option<PathBuf>,
    /// None without a snapshot store; the error when there is one that could not be used the last time it was tried.
    shelf: Mutex<Option<Result<Arc<Shelf>>>>,
    identity: watch::Receiver<Identity>,
    address: String,
    clock: Clock,
    cluster: Cluster,
    captures: Mutex<BTreeMap<SnapshotId, Arc<Capture>>>,
    /// Parts that are being accounted for.
    reporting: Mutex<BTreeSet<SnapshotId>>,
    metrics: Arc<Metrics>,
}

impl Parts {
    pub fn new(
        node: NodeId,
        snapshot_store: Option<&Path>,
        identity: watch::Receiver<Identity>,
        address: String,
        clock: Clock,
        cluster: Cluster,
        metrics: Arc<Metrics>,
    ) -> Result<Parts> {
        let shelf = snapshot_store.map(|dir| Shelf::open(dir, node));
        match &shelf {
            // The operator has named a place that cannot work, and others would be told that this node keeps parts.
            Some(Err(e)) if e.kind == Kind::Invalid => return Err(e.clone()),
            Some(Err(e)) => tracing::error!(error = %e, "the snapshot store cannot be used: this node's parts of snapshots fail until it can"),
            _ => {}
        }
        let (snapshot_store, shelf) = (snapshot_store.map(Path::to_owned), Mutex::new(shelf));
        let shared =
            Shared { node, snapshot_store, shelf, identity, address, clock, cluster, captures: Mutex::default(), reporting: Mutex::default(), metrics };
        Ok(Parts { shared: Arc::new(shared) })
    }

    fn shelf(&self) -> Result<Arc<Shelf>> {
        match &*self.shared.shelf.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(shelf) => shelf.clone(),
            None => Err(Error::conflict(format!("node {} has no snapshot store: start it with --snapshot-store DIR", self.shared.node))),
        }
    }

    /// The shelf for a new part. A store that could not be used, or was emptied or mounted again meanwhile, is opened anew.
    fn shelf_to_write(&self) -> Result<Arc<Shelf>> {
        if let Some(dir) = &self.shared.snapshot_store {
            let stands = self.shelf().is_ok_and(|shelf| shelf.stands_on_disk());
            if !stands {
                *self.shared.shelf.lock().unwrap_or_else(PoisonError::into_inner) = Some(Shelf::open(dir, self.shared.node));
            }
        }
        self.shelf()
    }

    fn captures(&self) -> std::sync::MutexGuard<'_, BTreeMap<SnapshotId, Arc<Capture>>> {
        self.shared.captures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A finished part on this node's shelf, of whatever history.
    pub fn finished(&self, id: SnapshotId) -> Option<PartInfo> {
        self.shelf().ok()?.list().into_iter().find(|p| p.snapshot == id)
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
    pub fn correct(&self, id: SnapshotId, part: &mut v1::SnapshotPart) {
        let (Some(info), Ok(bytes)) = (self.finished(id), self.tar_bytes(id)) else { return };
        let topology = self.shared.identity.borrow().topology;
        let partitions = info.groups.iter().map(|g| topology.partitions_of(*g).len() as u32).sum();
        part.set_status(v1::SnapshotStatus::Completed);
        part.reason.clear();
        (part.partitions, part.partitions_done) = (partitions, partitions);
        (part.rows, part.bytes, part.download_bytes) = (info.rows, info.bytes, bytes);
        part.manifest_digest = info.digest.to_string();
    }

    /// Removes this node's part, or gives it up while it is written. Whether there was one.
    pub async fn remove(&self, id: SnapshotId) -> Result<bool> {
        self.decide(id, Outcome::Given);
        let Ok(shelf) = self.shelf() else { return Ok(false) };
        tokio::task::spawn_blocking(move || shelf.delete(id)).await.map_err(|e| Error::unavailable(format!("deleting a part ended unexpectedly: {e}")))?
    }

    /// Bytes of the tar of a finished part.
    pub fn tar_bytes(&self, id: SnapshotId) -> Result<u64> {
        let hold = self.shelf()?.hold(id)?;
        Ok(Plan::of(hold.manifest(), hold.text().len() as u64).total_bytes())
    }

    /// Reads a finished part as a tar.
    pub fn open(&self, id: SnapshotId, offset: u64) -> Result<PartReader> {
        PartReader::open(self.shelf()?.hold(id)?, offset)
    }

    /// Follows what the engine says until it says no more.
    pub async fn run(self, mut news: mpsc::Receiver<SnapshotNews>) {
        while let Some(news) = news.recv().await {
            match news {
                SnapshotNews::View { id, x, view, groups, .. } => self.begin(id, x, *view, groups),
                SnapshotNews::Sealed { id } => self.decide(id, Outcome::Sealed),
                SnapshotNews::Aborted { id } => self.decide(id, Outcome::Given),
                SnapshotNews::Unreported { id } => self.account_for(id),
                SnapshotNews::Deleted { id } => {
                    self.decide(id, Outcome::Given);
                    let this = self.clone();
                    tokio::spawn(async move { this.delete(id).await });
                }
            }
        }
        self.captures().values().for_each(|capture| capture.stop());
    }

    /// Says what became of a part that this process has not begun: it lies finished on the shelf, or it is missing for good.
    fn account_for(&self, id: SnapshotId) {
        if self.captures().contains_key(&id) || !self.reporting().insert(id) {
            return;
        }
        let this = self.clone();
        tokio::spawn(async move {
            let shelf = this.shelf();
            let part = tokio::task::spawn_blocking(move || shelf.ok().and_then(|shelf| capture::lying(&shelf, id))).await.ok().flatten();
            let part = part.unwrap_or_else(|| {
                this.shared.metrics.part_ended(PartEnd::Missing);
                Part::missing(this.shared.node, "the node was away or restarted while the snapshot was taken")
            });
            this.report(id, part).await;
            this.reporting().remove(&id);
        });
    }

    fn reporting(&self) -> std::sync::MutexGuard<'_, BTreeSet<SnapshotId>> {
        self.shared.reporting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn decide(&self, id: SnapshotId, outcome: Outcome) {
        if let Some(capture) = self.captures().get(&id) {
            capture.decide(outcome);
        }
    }

    async fn delete(&self, id: SnapshotId) {
        if let Err(e) = self.remove(id).await {
            tracing::error!(snapshot = %id, error = %e, "a part could not be deleted");
        }
    }

    fn begin(&self, id: SnapshotId, x: SnapshotSeq, view: View, groups: Vec<Captured>) {
        let topology = self.shared.identity.borrow().topology;
        let each = topology.partitions() / topology.groups();
        let partitions = groups.iter().filter(|g| !g.group.is_meta()).count() as u32 * each;
        let capture = Arc::new(Capture::begin(partitions, self.shared.clock));
        self.captures().insert(id, capture.clone());
        let this = self.clone();
        tokio::spawn(async move {
            let part = this.take(id, x, view, groups, capture.clone()).await;
            let end = match part.as_ref().map(|part| part.status) {
                None => PartEnd::GivenUp,
                Some(Status::Completed) => PartEnd::Completed,
                Some(_) => PartEnd::Failed,
            };
            this.shared.metrics.part_ended(end);
            if let Some(part) = part {
                this.report(id, part).await;
            }
            this.captures().remove(&id);
            // Given up while it was reported. From here on nobody finds the capture any more to say so.
            if end == PartEnd::Completed && capture.is_given() {
                this.delete(id).await;
            }
        });
    }

    /// Writes a part. None when nobody wants it any more.
    async fn take(&self, id: SnapshotId, x: SnapshotSeq, view: View, groups: Vec<Captured>, capture: Arc<Capture>) -> Option<Part> {
        failpoint(Failpoint::CaptureBegun);
        let (this, watched) = (self.clone(), capture.clone());
        let copied = capture::behind(move || {
            let copied = this.copy(id, x, &view, groups, &watched);
            drop(view);
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
            let _ = tokio::task::spawn_blocking(move || writer.abandon()).await;
            return None;
        }
        let last = capture.clone();
        let finished = tokio::task::spawn_blocking(move || capture::put_in_place(&last, &shelf, writer, manifest)).await;
        match finished.unwrap_or_else(|e| Err(Error::unavailable(format!("the capture ended unexpectedly: {e}")))) {
            Ok(None) => None,
            Ok(Some(finished)) => {
                self.shared.metrics.captured(capture.age(), finished.info.rows, finished.info.bytes, finished.bytes_written);
                let (took_ms, processor_ms) = (capture.age().as_millis(), cost.as_millis());
                let (rows, bytes, written) = (finished.info.rows, finished.info.bytes, finished.bytes_written);
                tracing::info!(snapshot = %id, rows, bytes, written, took_ms, processor_ms, "part completed");
                Some(capture::completed(&finished))
            }
            Err(e) => Some(self.failed(id, &e)),
        }
    }

    fn failed(&self, id: SnapshotId, e: &Error) -> Part {
        let reason = match (&self.shared.snapshot_store, e.kind) {
            (Some(dir), Kind::Exhausted) => format!(
                "snapshot store {} is full: {e}; free space there or start the node with another --snapshot-store, then run create again",
                dir.display()
            ),
            _ => e.message.clone(),
        };
        tracing::error!(snapshot = %id, reason, "part failed");
        Part::failed(self.shared.node, reason)
    }

    /// Tells the meta group how a part stands until it takes the word, or knows better.
    async fn report(&self, id: SnapshotId, part: Part) {
        loop {
            failpoint(Failpoint::ReportSending);
            let reported = self.shared.cluster.change(cluster::Command::ReportPart { id, part: part.clone() }, limits::REQUEST_DEADLINE).await;
            match reported {
                Ok(_) => return failpoint(Failpoint::ReportTaken),
                Err(e) if matches!(e.kind, Kind::Unavailable | Kind::Unknown | Kind::Exhausted) => tokio::time::sleep(limits::REPORT_AGAIN).await,
                Err(e) => return tracing::info!(snapshot = %id, error = %e, "the cluster does not want this part any more"),
            }
        }
    }

    // ---- Copying, on a thread that may block. ----

    fn copy(&self, id: SnapshotId, x: SnapshotSeq, view: &View, captured: Vec<Captured>, capture: &Capture) -> Result<(Arc<Shelf>, PartWriter, Manifest)> {
        let shelf = self.shelf_to_write()?;
        let identity = self.shared.identity.borrow().clone();
        let head = Head { snapshot: id, x, identity: &identity, address: &self.shared.address, written_ms: self.shared.clock.wall_ms() };
        let (writer, manifest) = capture::copy(&shelf, &head, view, captured, capture)?;
        Ok((shelf, writer, manifest))
    }
}
