//! Checkpoints: applied rows go from memory to the store in one durable transaction, beside the
//! loop, which never waits for them.
//!
//! A checkpoint begins when there are many bytes, when they have waited for long (less long while
//! nothing comes), or when somebody needs the store to know something: a snapshot its cut, a new
//! member its rows. It seals every group's open layer with the group's record; when it is done,
//! readers move to a view that holds those rows, the layers are dropped, and logs are cut off
//! behind, but for what followers that are a little late will ask for. While rows wait, only the
//! log holds them, so how far it is synced is noted more often than that.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use super::{Engine, Host, group::Group, heard_within, overlay::Sealed, storage::Offer};
use crate::{
    base::{
        error::Result,
        ids::{GroupId, SnapshotSeq, Topology},
        limits,
    },
    entry::Record,
    faults::{
        failpoint::{Failpoint, failpoint},
        mutation::{Mutation, mutated},
    },
    log::{Batch, Log},
    store::{Store, View, keys, transfer},
    wire,
};

/// Work for the thread beside the loop, done in order.
pub enum Job {
    /// Write layers, oldest first, in one transaction; then open a view, and one more when a
    /// snapshot waits for this moment.
    Checkpoint { layers: Vec<(GroupId, Vec<Arc<Sealed>>)>, capture: Option<SnapshotSeq> },
    /// Note how far the log is synced.
    NoteExtent,
    /// Give back the space of entries that were dropped.
    Purge,
    /// Replace a group's rows by those of a file.
    Install { group: GroupId, path: PathBuf, record: Vec<u8> },
    /// Delete a group's rows, and leave a record that says where its replica has ended.
    End { group: GroupId, record: Vec<u8> },
}

impl Job {
    /// Does the work, which takes as long as the disk does.
    pub fn run(self, store: &Store, log: &Log, topology: Topology) -> Finished {
        match self {
            Job::Checkpoint { layers, capture } => {
                Finished::Checkpoint(write_layers(store, log, &layers, capture).map(Box::new))
            }
            Job::NoteExtent => Finished::ExtentNoted(log.note_extent()),
            Job::Purge => Finished::Purged(log.purge()),
            Job::Install { group, path, record } => {
                let install = || {
                    let mut commit = store.begin()?;
                    if !mutated(Mutation::RowsNotInstalled) || group.is_meta() {
                        transfer::install(&path, &mut commit, topology, group)?;
                    }
                    commit.group(group, &record)?;
                    failpoint(Failpoint::InstallWritten);
                    commit.finish()?;
                    failpoint(Failpoint::InstallCommitted);
                    store.view()
                };
                Finished::Installed { group, view: install().map(Box::new) }
            }
            Job::End { group, record } => {
                let end = || {
                    let mut commit = store.begin()?;
                    commit.clear_group(topology, group)?;
                    commit.group(group, &record)?;
                    failpoint(Failpoint::EndRowsDeleted);
                    commit.finish()?;
                    failpoint(Failpoint::EndCommitted);
                    store.view()
                };
                Finished::Installed { group, view: end().map(Box::new) }
            }
        }
    }

    /// Bytes that it writes, as far as they are known before.
    pub fn bytes(&self) -> usize {
        match self {
            Job::Checkpoint { layers, .. } => {
                layers.iter().flat_map(|(_, l)| l).map(|l| l.bytes()).sum()
            }
            Job::NoteExtent | Job::Purge | Job::Install { .. } | Job::End { .. } => 0,
        }
    }
}

fn write_layers(
    store: &Store,
    log: &Log,
    layers: &[(GroupId, Vec<Arc<Sealed>>)],
    capture: Option<SnapshotSeq>,
) -> Result<Stored> {
    if !layers.is_empty() {
        let mut commit = store.begin()?;
        for (group, layers) in layers {
            for layer in layers {
                commit.rows(layer.rows.iter().map(|(k, v)| (k.as_slice(), v.as_deref())))?;
            }
            failpoint(Failpoint::CheckpointRowsWritten);
            if let Some(last) = layers.last() {
                commit.group(*group, &last.record)?;
            }
        }
        failpoint(Failpoint::CheckpointGroupsWritten);
        commit.finish()?;
        failpoint(Failpoint::CheckpointCommitted);
        log.note_extent()?;
    }
    let capture = capture.map(|seq| store.view().map(|view| (seq, view))).transpose()?;
    if capture.is_some() {
        failpoint(Failpoint::ViewOpened);
    }
    Ok(Stored { view: store.view()?, capture })
}

/// What became of a job. An error in it is the end of the node.
pub enum Finished {
    Checkpoint(Result<Box<Stored>>),
    ExtentNoted(Result<()>),
    Purged(Result<()>),
    /// What was to be put in place of a group's rows is.
    Installed {
        group: GroupId,
        view: Result<Box<View>>,
    },
}

/// What a checkpoint has stored.
pub struct Stored {
    pub view: View,
    pub capture: Option<(SnapshotSeq, View)>,
}

/// What may be other than the limits of the same names, for those who want things to happen sooner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    pub overlay_checkpoint_bytes: usize,
    pub overlay_bytes_max: usize,
    pub log_entries_kept: u64,
    pub cut_deadline: Duration,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds {
            overlay_checkpoint_bytes: limits::OVERLAY_CHECKPOINT_BYTES,
            overlay_bytes_max: limits::OVERLAY_BYTES_MAX,
            log_entries_kept: limits::LOG_ENTRIES_KEPT,
            cut_deadline: limits::CUT_DEADLINE,
        }
    }
}

/// Checkpoints of a node.
pub(super) struct Checkpoints {
    pub bounds: Bounds,
    /// Groups in the running one: the last layer, and the record it ends with.
    running: Option<Vec<(GroupId, u64, Record)>>,
    /// Somebody needs one.
    pub wanted: bool,
    last: Duration,
    /// When the log's extent was noted last; none while it is being noted.
    noted: Option<Duration>,
    /// Bytes of all overlays: the last count, and what was applied since.
    pub bytes: usize,
    /// The value of `bytes` when it last changed, and the time of that change.
    steady: (usize, Duration),
    /// Whether something else than applying has changed the overlays, so that they must be counted.
    pub uncounted: bool,
}

impl Checkpoints {
    pub fn new(bounds: Bounds) -> Checkpoints {
        Checkpoints {
            bounds,
            running: None,
            wanted: false,
            last: Duration::ZERO,
            noted: Some(Duration::ZERO),
            bytes: 0,
            steady: (0, Duration::ZERO),
            uncounted: true,
        }
    }

    /// Whether what waits has waited for long enough.
    fn is_old(&mut self, now: Duration) -> bool {
        if self.steady.0 != self.bytes {
            self.steady = (self.bytes, now);
        }
        let quiet = now.saturating_sub(self.steady.1) > limits::CHECKPOINT_QUIET;
        let age_max = if quiet { limits::CHECKPOINT_AGE_QUIET } else { limits::CHECKPOINT_AGE_MAX };
        self.bytes > 0 && now.saturating_sub(self.last) > age_max
    }

    /// Whether the log alone holds rows, and has not been noted for long enough.
    fn extent_is_old(&self, now: Duration) -> bool {
        self.bytes > 0
            && self.noted.is_some_and(|noted| {
                now.saturating_sub(noted.max(self.last)) > limits::EXTENT_AGE_MAX
            })
    }

    /// Whether writes have to wait for the store.
    pub fn is_full(&self) -> bool {
        self.bytes > self.bounds.overlay_bytes_max
    }
}

impl Engine {
    pub(super) fn start_checkpoint_if_due(&mut self, host: &mut dyn Host) -> Result<()> {
        self.tick_offers(host);
        let count = |groups: &BTreeMap<GroupId, Box<Group>>| {
            groups.values().map(|g| g.overlay.bytes()).sum::<usize>()
        };
        if std::mem::take(&mut self.checkpoints.uncounted) {
            self.checkpoints.bytes = count(&self.groups);
        }
        debug_assert_eq!(
            self.checkpoints.bytes,
            count(&self.groups),
            "rows came or went uncounted"
        );
        if self.checkpoints.running.is_some() {
            return Ok(());
        }
        let capture = self.capture_due();
        let old = self.checkpoints.is_old(self.now);
        if capture.is_none()
            && !self.checkpoints.wanted
            && !old
            && self.checkpoints.bytes < self.checkpoints.bounds.overlay_checkpoint_bytes
        {
            return self.note_extent_if_due(host);
        }
        let ids: Vec<GroupId> = self.groups.keys().copied().collect();
        for id in ids {
            self.seal_group(id, self.checkpoints.wanted);
        }
        let (mut layers, mut running) = (Vec::new(), Vec::new());
        for group in self.groups.values() {
            let ripe = group.overlay.ripe();
            if let Some(last) = ripe.last() {
                running.push((group.id, last.number, wire::decode_record(&last.record)?));
                layers.push((group.id, ripe));
            }
        }
        self.checkpoints.wanted = false;
        self.checkpoints.last = self.now;
        if !layers.is_empty() || capture.is_some() {
            self.checkpoints.running = Some(running);
            failpoint(Failpoint::LayersSealed);
            host.start(Job::Checkpoint { layers, capture })?;
        }
        Ok(())
    }

    fn note_extent_if_due(&mut self, host: &mut dyn Host) -> Result<()> {
        if !self.checkpoints.extent_is_old(self.now) {
            return Ok(());
        }
        self.checkpoints.noted = None;
        host.start(Job::NoteExtent)
    }

    /// Closes a group's open layer where it is now; with `always` also when only the record has
    /// changed. Its number, if a layer was closed.
    pub(super) fn seal_group(&mut self, id: GroupId, always: bool) -> Option<u64> {
        let meta_rows = if id.is_meta() { self.changed_meta_rows() } else { Vec::new() };
        self.checkpoints.uncounted = true;
        let group = self.groups.get_mut(&id)?;
        if group.installing.is_some() || !group.has_replica() {
            return None;
        }
        let rows_before = group.overlay.open_bytes();
        for (key, row) in meta_rows {
            group.overlay.set(key, row);
        }
        for (partition, index) in std::mem::take(&mut group.changed) {
            let index = bytes::Bytes::copy_from_slice(&index.to_be_bytes());
            group.overlay.set(keys::partition_index(partition), Some(index));
        }
        let remembered = group.machine.as_mut().map(|m| m.take_remembered()).unwrap_or_default();
        for (slot, remembered) in remembered {
            if mutated(Mutation::RequestsNotStored) && slot > 0 {
                continue;
            }
            group.overlay.set(keys::request(id, slot), Some(wire::encode_remembered(&remembered)));
        }
        let empty = rows_before == 0 && group.overlay.open_bytes() == 0;
        let same_members = group.record.members == group.stored.members;
        if empty && same_members && (!always || group.record == group.stored) {
            return None;
        }
        let Group { overlay, record, .. } = &mut **group;
        Some(overlay.seal(wire::encode_record(record), record.applied))
    }

    pub(super) fn on_finished(&mut self, finished: Finished, host: &mut dyn Host) -> Result<()> {
        match finished {
            Finished::Installed { group, view } => self.on_installed(group, *view?, host),
            Finished::ExtentNoted(noted) => {
                self.checkpoints.noted = Some(self.now);
                noted
            }
            Finished::Purged(purged) => purged,
            Finished::Checkpoint(stored) => {
                let stored = *stored?;
                self.view = Arc::new(stored.view);
                self.checkpoints.uncounted = true;
                for (id, number, record) in self.checkpoints.running.take().unwrap_or_default() {
                    let Some(group) = self.groups.get_mut(&id) else { continue };
                    group.overlay.written(number);
                    if record.applied >= group.stored.applied {
                        group.stored = record;
                    }
                }
                failpoint(Failpoint::CheckpointNoted);
                if let Some((seq, view)) = stored.capture {
                    self.on_view(seq, view, host);
                }
                self.compact_logs(host)
            }
        }
    }

    /// Drops entries that the store covers, but for those that a follower may still ask for: so
    /// many of them, and no more bytes than its rows are likely to have, unless a member that is
    /// there lacks them.
    fn compact_logs(&mut self, host: &mut dyn Host) -> Result<()> {
        let mut batch = Batch::default();
        let kept = self.checkpoints.bounds.log_entries_kept;
        for group in self.groups.values_mut().filter(|g| g.installing.is_none()) {
            let offered = group
                .raw
                .store()
                .offers
                .borrow()
                .values()
                .filter_map(offered_index)
                .min()
                .unwrap_or(u64::MAX);
            let covered = if mutated(Mutation::TruncatedEarly) {
                group.record.applied.index
            } else {
                group.stored.applied.index
            };
            let (by_entries, begin) =
                (covered.saturating_sub(kept), group.raw.store().begin().index);
            let lacked = group.lacked(heard_within(&self.heard, self.now));
            let by_bytes =
                group.raw.store().behind(limits::LOG_BYTES_KEPT).min(covered).min(lacked);
            let to = by_entries.max(by_bytes).min(offered);
            if to > begin + kept / 10 || to > begin && to == by_bytes {
                group.raw.mut_store().compact(to, &mut batch)?;
            }
        }
        if !batch.is_empty() {
            self.log.write(&mut batch, false)?;
        }
        host.start(Job::Purge)
    }
}

fn offered_index(offer: &Offer) -> Option<u64> {
    match offer {
        Offer::Wanted => None,
        Offer::Sending { at, .. } | Offer::Delivered { at, .. } => Some(at.index),
    }
}
