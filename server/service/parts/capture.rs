//! One capture: what has been decided about its snapshot, and the copying of frozen rows into
//! chunks for as long as they may be held.
//!
//! What is frozen lies in the store and, as far as no checkpoint had stored it, in memory. A view
//! of the store keeps it from using pages again, so that its file grows with every write; layers
//! stay in memory beside those of what is written meanwhile. Therefore a capture has an age at
//! which it fails and lets go; it fails as well when the store's disk comes to its floor of free
//! space, or a node's layers to their bound. All is looked at between chunks and partitions: a disk
//! that does not come back from one write holds all for longer. A group is let go of when its rows
//! are copied.
//!
//! Relies on the shelf for files and on its owner for the news of the snapshot. It does not know
//! the cluster.

use std::{
    ops::Range,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::sync::{oneshot, watch};

use crate::{
    base::{
        clock::{self, Clock},
        crew::{self, Role},
        error::{Error, Result},
        ids::{GroupId, PartitionId, SnapshotId, SnapshotSeq},
        limits, space,
    },
    cluster::snapshots::{Part, Status},
    engine::{
        Captured,
        overlay::{Frozen, LayerBytes},
    },
    entry::Identity,
    faults::mutation::{Mutation, mutated},
    part::{
        chunk::{self, Chunk, ChunkHash, Chunker},
        manifest::{GroupPart, Manifest, MetaPart, PartitionPart, format_of},
        seal::Sealing,
        shelf::{Finished, PartInfo, PartWriter, Shelf},
        tar::Plan,
    },
    store::keys,
};

/// What has been decided of a snapshot, as this node knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Open,
    Sealed,
    Given,
}

pub struct Capture {
    pub partitions: u32,
    done: AtomicU32,
    outcome: watch::Sender<Outcome>,
    stop: AtomicBool,
    clock: Clock,
    /// When it was given its view.
    began: Duration,
    /// Where the store lies that the view keeps from using space again.
    store: Option<PathBuf>,
    layer_bytes_max: usize,
    view_age_max: Duration,
    viewing: AtomicBool,
}

impl Capture {
    /// Begins with a view that was just opened.
    pub fn begin(partitions: u32, clock: Clock) -> Capture {
        let (done, stop, viewing) =
            (AtomicU32::new(0), AtomicBool::new(false), AtomicBool::new(true));
        let (outcome, view_age_max) = (watch::channel(Outcome::Open).0, limits::VIEW_AGE_MAX);
        let layer_bytes_max = limits::LAYER_BYTES_MAX;
        Capture {
            partitions,
            done,
            outcome,
            stop,
            clock,
            began: clock.now(),
            store: None,
            layer_bytes_max,
            view_age_max,
            viewing,
        }
    }

    /// Keeps an eye on the disk of the store that its view is of.
    pub fn of_store(self, dir: PathBuf) -> Capture {
        Capture { store: Some(dir), ..self }
    }

    pub fn decide(&self, outcome: Outcome) {
        self.outcome.send_if_modified(|now| {
            let changed = *now == Outcome::Open || outcome == Outcome::Given;
            if changed {
                *now = outcome;
            }
            changed
        });
        if outcome == Outcome::Given {
            self.stop();
        }
    }

    /// Waits until something has been decided.
    pub async fn decided(&self) -> Outcome {
        self.outcome
            .subscribe()
            .wait_for(|o| *o != Outcome::Open)
            .await
            .map_or(Outcome::Given, |o| *o)
    }

    /// What has been decided so far.
    pub fn outcome(&self) -> Outcome {
        *self.outcome.borrow()
    }

    /// Whether the snapshot was given up, so that nobody wants the part.
    pub fn is_given(&self) -> bool {
        self.outcome() == Outcome::Given
    }

    /// Nothing more is copied.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    pub fn partitions_done(&self) -> u32 {
        self.done.load(Ordering::Relaxed)
    }

    pub fn age(&self) -> Duration {
        self.clock.now().saturating_sub(self.began)
    }

    /// How long it has held its view; zero when it does not hold it any more.
    pub fn view_age(&self) -> Duration {
        if self.viewing.load(Ordering::Relaxed) { self.age() } else { Duration::ZERO }
    }

    /// Its view is closed. How long it was held.
    pub fn let_go(&self) -> Duration {
        self.viewing.store(false, Ordering::Relaxed);
        self.age()
    }

    fn check(&self, layers: Option<&LayerBytes>) -> Result<()> {
        if self.is_stopped() {
            return Err(Error::conflict("the snapshot was given up"));
        }
        if self.age() > self.view_age_max {
            return Err(Error::unavailable(format!(
                "copying rows took longer than {} s, and a view of the store may not be held for \
                 longer: see why the snapshot store is so slow, then run create again",
                self.view_age_max.as_secs()
            )));
        }
        if layers.is_some_and(|layers| layers.now() > self.layer_bytes_max) {
            return Err(Error::unavailable(format!(
                "writes came faster than rows were copied: those that wait for the store, and \
                 those that are copied from memory, came to more than {} bytes; see why the \
                 snapshot store is so slow, then run create again",
                self.layer_bytes_max
            )));
        }
        let room = self.store.as_deref().map_or(Ok(()), |dir| space::spare(dir, 0));
        room.map_err(|e| {
            Error::unavailable(format!(
                "a store cannot use space again while it is copied, and its disk is nearly full: \
                 {e}; free space there, then run create again"
            ))
        })
    }
}

/// Runs the work of a capture on a thread of its own, behind foreground work: where that wants
/// every core, the thread keeps about a tenth of one, which is the cap on what it yields. The
/// kernel adapts that share, which no pause measured here could as finely. A thread of tokio's
/// would keep the low priority. Returns the processor time that the work took beside its result.
pub async fn behind<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<(T, Duration)> {
    let (done, result) = oneshot::channel();
    let run = move || {
        // Without the right to it, the work is done at the usual priority.
        let _ = rustix::process::nice(limits::CAPTURE_NICE);
        let began = clock::busy();
        let worked = crew::caught(Role::Capture, work);
        // Whoever waited may have gone.
        let _ = done.send(worked.map(|worked| (worked, clock::busy().saturating_sub(began))));
    };
    drop(crew::thread(Role::Capture, run)?);
    result.await.expect("it is told of a panic, too")
}

/// Puts a part in place. None when the snapshot was aborted or deleted meanwhile: whether that came
/// before the part was there or after, nothing of it is left.
pub fn put_in_place(
    capture: &Capture,
    shelf: &Shelf,
    writer: PartWriter,
    manifest: Manifest,
) -> Result<Option<Finished>> {
    let (snapshot, lineage) = (manifest.snapshot, manifest.lineage);
    let finished = writer.finish(manifest);
    if !capture.is_given() {
        return finished.map(Some);
    }
    if finished.is_ok() {
        shelf.delete(snapshot, lineage)?;
    }
    Ok(None)
}

/// What a part says of itself beside its rows.
pub struct Head<'a> {
    pub snapshot: SnapshotId,
    pub seq: SnapshotSeq,
    pub identity: &'a Identity,
    pub address: &'a str,
    pub written_ms: u64,
    /// None where it is not sealed.
    pub sealing: Option<&'a Sealing>,
}

/// Copies all that is frozen of the groups that were captured into a part of its own, which is not
/// in place yet. Lets go of each group when it is copied.
pub fn copy(
    shelf: &Arc<Shelf>,
    head: &Head,
    mut captured: Vec<Captured>,
    capture: &Capture,
) -> Result<(PartWriter, Manifest)> {
    let identity = head.identity;
    let seal = head.sealing.map(|sealing| sealing.seal.clone());
    let keys = head.sealing.map(|sealing| sealing.keys.clone());
    let mut copier = Copier {
        writer: shelf.begin(head.snapshot)?,
        layers: captured.iter().find_map(|group| group.rows.counted()).cloned(),
        chunker: Chunker::new()?.sealed_with(keys),
        // Under another seal, or without one, its chunks have other names.
        previous: newest_part(shelf, identity).filter(|part| part.seal == seal),
        capture,
    };
    captured.sort_by_key(|c| c.group);
    let mut manifest = Manifest {
        format: format_of(seal.as_ref()),
        product: env!("CARGO_PKG_VERSION").into(),
        cluster: identity.cluster,
        lineage: identity.lineage,
        snapshot: head.snapshot,
        seq: head.seq,
        node: identity.node,
        address: head.address.to_owned(),
        written_ms: head.written_ms,
        topology: identity.topology,
        seal,
        meta: None,
        groups: Vec::new(),
        chunks: Vec::new(),
    };
    for group in captured {
        let (voters, learners) = (
            group.members.voters.into_iter().collect(),
            group.members.learners.into_iter().collect(),
        );
        if group.group.is_meta() {
            let Copied { rows, bytes, chunks } =
                copier.range(&group.rows, &(vec![keys::META]..vec![keys::META + 1]))?;
            let digest = chunk::digest(&chunks, rows);
            manifest.meta = Some(MetaPart {
                mark_index: group.at.index,
                mark_term: group.at.term,
                voters,
                learners,
                rows,
                bytes,
                digest,
                chunks,
            });
            continue;
        }
        let mut partitions = Vec::new();
        for partition in identity.topology.partitions_of(group.group).map(PartitionId) {
            partitions.push(copier.partition(group.group, &group.rows, partition)?);
        }
        let (mark_index, mark_term, dots) = (group.at.index, group.at.term, group.dots);
        manifest.groups.push(GroupPart {
            group: group.group,
            mark_index,
            mark_term,
            dots,
            voters,
            learners,
            partitions,
        });
    }
    Ok((copier.writer, manifest))
}

/// The newest part of the same history, for what has not changed since. One that cannot be read is
/// as good as none.
fn newest_part(shelf: &Shelf, identity: &Identity) -> Option<Manifest> {
    let newest =
        shelf.list().into_iter().filter(|p| p.lineage == identity.lineage).max_by_key(|p| p.seq)?;
    shelf.manifest(newest.snapshot).ok()
}

/// A part that was just put in place, as it is reported.
pub fn completed(finished: &Finished) -> Part {
    Part { bytes_written: finished.bytes_written, ..reported(&finished.info, &finished.manifest) }
}

/// A finished part that lies on the shelf, as it is reported; how many bytes had to be written is
/// not known any more. One that is not whole has failed.
pub fn on_shelf(shelf: &Arc<Shelf>, id: SnapshotId) -> Option<Part> {
    let info = shelf.info(id).ok()?;
    let hold = shelf.hold(id).ok()?;
    match hold.look() {
        Ok(()) => Some(reported(&info, hold.manifest())),
        Err(e) => Some(Part::failed(hold.manifest().node, e.message)),
    }
}

fn reported(info: &PartInfo, manifest: &Manifest) -> Part {
    Part {
        status: Status::Completed,
        groups: info
            .groups
            .iter()
            .copied()
            .chain(manifest.meta.iter().map(|_| GroupId::META))
            .collect(),
        rows: info.rows,
        bytes: info.bytes,
        download_bytes: Plan::of(manifest, info.manifest_bytes).total_bytes(),
        manifest_digest: Some(info.digest.0),
        ..Part::processing(manifest.node)
    }
}

/// Copies what is frozen, on a thread that may block.
struct Copier<'a> {
    writer: PartWriter,
    /// Counts the node's layers; none where no group has one.
    layers: Option<LayerBytes>,
    /// Begins anew with every range.
    chunker: Chunker,
    /// The node's newest part of the same history.
    previous: Option<Manifest>,
    capture: &'a Capture,
}

#[derive(Debug, Default)]
struct Copied {
    rows: u64,
    bytes: u64,
    chunks: Vec<ChunkHash>,
}

impl Copier<'_> {
    /// A partition that has not changed since the previous part keeps its chunks, and no row is
    /// read.
    fn partition(
        &mut self,
        group: GroupId,
        rows: &Frozen,
        id: PartitionId,
    ) -> Result<PartitionPart> {
        self.capture.check(self.layers.as_ref())?;
        let data_index = rows
            .get(&keys::partition_index(id))?
            .and_then(|b| b.as_ref().try_into().ok())
            .map_or(0, u64::from_be_bytes);
        let previous = self.previous.as_ref().filter(|m| m.group(group).is_some());
        let before = previous
            .and_then(|m| m.partition(id))
            .filter(|p| p.data_index == data_index || mutated(Mutation::StaleReuse))
            .cloned();
        let part = match before {
            Some(before) if self.reuse(&before.chunks)? => before,
            _ => {
                let Copied { rows, bytes, chunks } = self.range(rows, &keys::partition(id))?;
                PartitionPart {
                    id,
                    data_index,
                    rows,
                    bytes,
                    digest: chunk::digest(&chunks, rows),
                    chunks,
                }
            }
        };
        self.capture.done.fetch_add(1, Ordering::Relaxed);
        Ok(part)
    }

    fn reuse(&mut self, chunks: &[ChunkHash]) -> Result<bool> {
        chunks.iter().try_fold(true, |all, hash| self.writer.reuse(*hash).map(|there| all && there))
    }

    fn range(&mut self, rows: &Frozen, range: &Range<Vec<u8>>) -> Result<Copied> {
        let Copier { writer, layers, chunker, capture, .. } = self;
        let mut copied = Copied::default();
        let mut take = |chunk: Option<Chunk>| -> Result<()> {
            let Some(chunk) = chunk else { return Ok(()) };
            capture.check(layers.as_ref())?;
            writer.chunk(&chunk)?;
            copied.take(&chunk);
            Ok(())
        };
        // Without the letter of the key space: in a part there is one space only.
        rows.each(range, |key, value| take(chunker.push(&key[1..], value)?))?;
        take(chunker.finish()?)?;
        Ok(copied)
    }
}

impl Copied {
    fn take(&mut self, chunk: &Chunk) {
        self.rows += chunk.rows;
        self.bytes += chunk.bytes;
        self.chunks.push(chunk.hash);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        engine::overlay::Overlay,
        entry::Position,
        part::sample::{self, Sample},
        store::Store,
    };

    /// A part that is written but for its last step, of a snapshot that is sealed.
    fn nearly_there(dir: &std::path::Path) -> (Capture, std::sync::Arc<Shelf>, PartWriter) {
        let shelf = Shelf::open(dir, &sample::owner(1)).unwrap();
        let mut writer = shelf.begin(sample::snapshot(1)).unwrap();
        Sample::new(1).fill(&mut writer);
        let capture = Capture::begin(64, Clock::start());
        capture.decide(Outcome::Sealed);
        (capture, shelf, writer)
    }

    /// Files of parts.
    fn files(dir: &std::path::Path) -> usize {
        let entries = std::fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| !path.ends_with("owner.json"));
        entries.map(|path| if path.is_dir() { files(&path) } else { 1 }).sum()
    }

    #[test]
    fn a_part_whose_snapshot_is_given_up_during_the_last_step_does_not_stay() {
        let dir = tempfile::tempdir().unwrap();
        let (capture, shelf, writer) = nearly_there(dir.path());
        // As the last step sees it when it comes back: nobody told the shelf.
        capture.decide(Outcome::Given);
        assert_eq!(put_in_place(&capture, &shelf, writer, Sample::new(1).part().0).unwrap(), None);
        assert!(shelf.list().is_empty());
        assert_eq!(files(dir.path()), 0);
    }

    #[test]
    fn a_part_that_is_deleted_during_the_last_step_has_not_failed() {
        let dir = tempfile::tempdir().unwrap();
        let (capture, shelf, writer) = nearly_there(dir.path());
        capture.decide(Outcome::Given);
        assert!(shelf.delete(sample::snapshot(1), sample::LINEAGE).unwrap());
        assert_eq!(put_in_place(&capture, &shelf, writer, Sample::new(1).part().0).unwrap(), None);
        assert_eq!(files(dir.path()), 0);
    }

    #[test]
    fn a_part_that_is_wanted_stays_and_one_that_fails_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let (capture, shelf, writer) = nearly_there(dir.path());
        // An end of the process stops copying and takes nothing back.
        capture.stop();
        let finished = put_in_place(&capture, &shelf, writer, Sample::new(1).part().0).unwrap();
        assert_eq!(shelf.list(), [finished.unwrap().info]);
        let of_another = Sample { snapshot: sample::snapshot(2), ..Sample::new(1) };
        let writer = shelf.begin(of_another.snapshot).unwrap();
        put_in_place(&capture, &shelf, writer, of_another.part().0).unwrap_err();
    }

    #[test]
    fn rows_that_are_held_for_too_long_or_take_too_much_fail_their_capture_with_the_reason() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(dir.path(), &crate::base::disk::Machine, b"me").unwrap();
        let mut commit = store.begin().unwrap();
        let (key, later) = (keys::data(b"\0\x05site\0\x01k"), keys::data(b"\0\x05site\0\x01l"));
        commit.rows([(key.as_slice(), Some(&b"v"[..]))].into_iter()).unwrap();
        commit.finish().unwrap();
        let shelf = Shelf::open(dir.path(), &sample::owner(1)).unwrap();
        let (mut overlay, counted) = (Overlay::default(), LayerBytes::default());
        overlay.set(later, Some(bytes::Bytes::from_static(b"w")));
        overlay.seal(vec![], Position::default(), &counted);
        let rows = overlay.freeze(Arc::new(store.view().unwrap()));
        for (view_age_max, layer_bytes_max, reason) in [
            (limits::VIEW_AGE_MAX, counted.now(), None),
            (Duration::ZERO, counted.now(), Some("copying rows took longer than 0 s")),
            (limits::VIEW_AGE_MAX, counted.now() - 1, Some("faster than rows were copied")),
        ] {
            let begun = Capture::begin(64, Clock::start());
            let capture = Capture { view_age_max, layer_bytes_max, ..begun };
            while capture.age() == Duration::ZERO {}
            let mut copier = Copier {
                writer: shelf.begin(sample::snapshot(1)).unwrap(),
                layers: rows.counted().cloned(),
                chunker: Chunker::new().unwrap(),
                previous: None,
                capture: &capture,
            };
            let copied = copier.partition(GroupId(0), &rows, PartitionId(5));
            let done = u32::from(reason.is_none());
            assert!(capture.view_age() > Duration::ZERO && capture.partitions_done() == done);
            match (copied, reason) {
                (Ok(part), None) => assert_eq!(part.rows, 2),
                (Err(e), Some(reason)) => assert!(e.message.contains(reason), "{e}"),
                (copied, _) => panic!("{copied:?} where {reason:?} was to come"),
            }
            assert!(capture.let_go() > Duration::ZERO);
            assert_eq!(capture.view_age(), Duration::ZERO);
        }
    }
}
