//! Checkpoints: applied rows go from memory to the store in one durable transaction, beside the
//! loop, which never waits for them.
//!
//! A checkpoint begins when there are many bytes, when they have waited for long (less long while
//! nothing comes), or when a new member needs the store to have its rows. A snapshot needs none: it
//! copies what its marks have frozen. A checkpoint seals every group's open layer with the group's
//! record; when it is done, readers move to a view that holds those rows, the layers are dropped,
//! and logs are cut off behind, but for what followers that are a little late will ask for. While
//! rows wait, only the log holds them, so how far it is synced is noted more often than that.

use std::{path::PathBuf, sync::Arc, time::Duration};

use super::{
    Engine, Host,
    overlay::{LayerBytes, Sealed},
};
use crate::{
    base::{
        error::Result,
        ids::{GroupId, Topology},
        limits,
    },
    entry::Record,
    faults::{
        failpoint::{Failpoint, failpoint},
        mutation::{Mutation, mutated},
    },
    log::{Batch, Log},
    store::{Store, View, transfer},
    wire,
};

/// Work for the thread beside the loop, done in order.
pub enum Job {
    /// Write layers, oldest first, in one transaction; then open a view.
    Checkpoint { layers: Vec<(GroupId, Vec<Arc<Sealed>>)> },
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
            Job::Checkpoint { layers } => {
                Finished::Checkpoint(write_layers(store, log, &layers).map(Box::new))
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
            Job::Checkpoint { layers } => {
                layers.iter().flat_map(|(_, l)| l).map(|l| l.bytes()).sum()
            }
            Job::NoteExtent | Job::Purge | Job::Install { .. } | Job::End { .. } => 0,
        }
    }
}

fn write_layers(store: &Store, log: &Log, layers: &[(GroupId, Vec<Arc<Sealed>>)]) -> Result<View> {
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
    store.view()
}

/// What became of a job. An error in it is the end of the node.
pub enum Finished {
    Checkpoint(Result<Box<View>>),
    ExtentNoted(Result<()>),
    Purged(Result<()>),
    /// What was to be put in place of a group's rows is.
    Installed {
        group: GroupId,
        view: Result<Box<View>>,
    },
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

/// What is to be written now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    Nothing,
    /// How far the log is synced.
    Extent,
    /// What was applied. `always` also where nothing but a record has changed.
    Checkpoint {
        always: bool,
    },
}

/// When the rows of a node go from memory to its store. Pure, but for the work that is under way.
///
/// - One checkpoint runs at a time.
/// - `bytes` counts all overlays: what is applied is added as it comes, and they are counted again
///   when something else has changed them.
pub(super) struct Checkpoints {
    bounds: Bounds,
    /// Groups in the running one: the last layer, and the record it ends with.
    running: Option<Vec<(GroupId, u64, Record)>>,
    /// Somebody needs one.
    wanted: bool,
    last: Duration,
    /// When the log's extent was noted last; none while it is being noted.
    noted: Option<Duration>,
    /// Bytes of all overlays: the last count, and what was applied since.
    bytes: usize,
    /// The value of `bytes` when it last changed, and the time of that change.
    steady: (usize, Duration),
    /// Whether something else than applying has changed the overlays, so that they must be counted.
    uncounted: bool,
    /// Counts what is sealed, for those who keep it longer than the overlays do.
    layers: LayerBytes,
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
            layers: LayerBytes::default(),
        }
    }

    /// How long a snapshot may be open.
    pub fn cut_deadline(&self) -> Duration {
        self.bounds.cut_deadline
    }

    /// Somebody needs the store to know what is applied.
    pub fn want(&mut self) {
        self.wanted = true;
    }

    /// So many bytes were applied.
    pub fn add(&mut self, bytes: usize) {
        self.bytes += bytes;
    }

    /// Something else than applying has changed the overlays.
    pub fn count_again(&mut self) {
        self.uncounted = true;
    }

    /// Bytes of all overlays, which `count` counts if that has to be done.
    fn recount(&mut self, count: impl Fn() -> usize) {
        if std::mem::take(&mut self.uncounted) {
            self.bytes = count();
        }
        debug_assert_eq!(self.bytes, count(), "rows came or went uncounted");
    }

    /// What is to be written now.
    fn due(&mut self, now: Duration) -> Due {
        if self.running.is_some() {
            return Due::Nothing;
        }
        let old = self.is_old(now);
        let large = self.bytes >= self.bounds.overlay_checkpoint_bytes;
        if self.wanted || old || large {
            return Due::Checkpoint { always: self.wanted };
        }
        if self.extent_is_old(now) {
            self.noted = None;
            return Due::Extent;
        }
        Due::Nothing
    }

    /// The layers for a checkpoint are sealed: it begins with these, or there is nothing to write.
    fn sealed(&mut self, now: Duration, running: Option<Vec<(GroupId, u64, Record)>>) {
        (self.wanted, self.last, self.running) = (false, now, running);
    }

    /// The checkpoint that ran is done. Its groups.
    fn done(&mut self) -> Vec<(GroupId, u64, Record)> {
        self.uncounted = true;
        self.running.take().unwrap_or_default()
    }

    fn extent_noted(&mut self, now: Duration) {
        self.noted = Some(now);
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
        let Engine { checkpoints, groups, .. } = self;
        checkpoints.recount(|| groups.all().map(|group| group.overlay_bytes()).sum());
        if self.checkpoints.running.is_some() {
            return Ok(());
        }
        match self.checkpoints.due(self.now) {
            Due::Nothing => Ok(()),
            Due::Extent => host.start(Job::NoteExtent),
            Due::Checkpoint { always } => self.start_checkpoint(always, host),
        }
    }

    fn start_checkpoint(&mut self, always: bool, host: &mut dyn Host) -> Result<()> {
        let ids: Vec<GroupId> = self.groups.ids().collect();
        for id in ids {
            self.seal_group(id, always);
        }
        let (mut layers, mut running) = (Vec::new(), Vec::new());
        for group in self.groups.all() {
            let sealed = group.sealed();
            if let Some(last) = sealed.last() {
                running.push((group.id(), last.number, wire::decode_record(&last.record)?));
                layers.push((group.id(), sealed));
            }
        }
        let begins = !layers.is_empty();
        self.checkpoints.sealed(self.now, begins.then_some(running));
        if begins {
            failpoint(Failpoint::LayersSealed);
            host.start(Job::Checkpoint { layers })?;
        }
        Ok(())
    }

    /// Closes a group's open layer where it is now; with `always` also when only the record has
    /// changed.
    pub(super) fn seal_group(&mut self, id: GroupId, always: bool) {
        let meta_rows = if id.is_meta() { self.changed_meta_rows() } else { Vec::new() };
        self.checkpoints.count_again();
        if let Some(group) = self.groups.get_mut(id) {
            group.seal(meta_rows, always, &self.checkpoints.layers);
        }
    }

    pub(super) fn on_finished(&mut self, finished: Finished, host: &mut dyn Host) -> Result<()> {
        match finished {
            Finished::Installed { group, view } => self.on_installed(group, *view?, host),
            Finished::ExtentNoted(noted) => {
                self.checkpoints.extent_noted(self.now);
                noted
            }
            Finished::Purged(purged) => purged,
            Finished::Checkpoint(view) => {
                self.view = Arc::new(*view?);
                for (id, number, record) in self.checkpoints.done() {
                    let Some(group) = self.groups.get_mut(id) else { continue };
                    group.written(number, record);
                }
                failpoint(Failpoint::CheckpointNoted);
                self.compact_logs(host)
            }
        }
    }

    /// Drops entries that the store covers, but for those that a follower may still ask for.
    fn compact_logs(&mut self, host: &mut dyn Host) -> Result<()> {
        let mut batch = Batch::default();
        let kept = self.checkpoints.bounds.log_entries_kept;
        for group in self.groups.all_mut().filter(|group| !group.is_installing()) {
            let is_there = |node| self.heard.lately(node, self.now);
            group.compact(kept, is_there, &mut batch)?;
        }
        if !batch.is_empty() {
            self.log.write(&mut batch, false)?;
        }
        host.start(Job::Purge)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::golden::{self, ms, number};

    const MIB: usize = limits::OVERLAY_CHECKPOINT_BYTES / 64;

    /// The checkpoints of one node, as its loop drives them.
    struct Node {
        checkpoints: Checkpoints,
        /// Bytes in memory; those of the running checkpoint go when it is done.
        bytes: usize,
        running: usize,
        now: Duration,
    }

    impl Node {
        fn new() -> Node {
            let checkpoints = Checkpoints::new(Bounds::default());
            let now = Duration::ZERO;
            Node { checkpoints, bytes: 0, running: 0, now }
        }

        fn round(&mut self) -> String {
            let bytes = self.bytes;
            self.checkpoints.recount(|| bytes);
            let full = if self.checkpoints.is_full() { "writes wait, " } else { "" };
            let does = match self.checkpoints.due(self.now) {
                Due::Nothing => "writes nothing".into(),
                Due::Extent => "notes how far the log is synced".into(),
                Due::Checkpoint { always } => {
                    self.running = self.bytes;
                    let begins = self.bytes > 0 || always;
                    self.checkpoints.sealed(self.now, begins.then(Vec::new));
                    let what = if always { " of every group" } else { "" };
                    format!("begins a checkpoint{what}")
                }
            };
            format!("{full}{does}")
        }

        fn act(&mut self, line: &str) -> String {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                ["at", now, "s"] => self.now = ms(now) * 1000,
                ["applies", mib, "MiB"] => {
                    self.bytes += number(mib) as usize * MIB;
                    self.checkpoints.add(number(mib) as usize * MIB);
                }
                ["somebody", "needs", "the", "store", ..] => self.checkpoints.want(),
                ["the", "checkpoint", "is", "done"] => {
                    self.bytes -= std::mem::take(&mut self.running);
                    drop(self.checkpoints.done());
                }
                ["the", "extent", "is", "noted"] => self.checkpoints.extent_noted(self.now),
                ["round"] => return self.round(),
                _ => panic!("{line} is no line of a story"),
            }
            String::new()
        }
    }

    #[test]
    fn checkpoints_begin_as_told() {
        golden::play("engine/checkpoints", || {
            let mut node = Node::new();
            move |line| node.act(line)
        });
    }
}
