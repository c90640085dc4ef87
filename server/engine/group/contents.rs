//! What a group's replica holds: rows, the record that goes with them, and the log behind them.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    super::{
        consensus::Turn,
        overlay::{Frozen, LayerBytes, Reader, Sealed},
        rows::GroupRows,
        tenure::Tenures,
    },
    Group, Installing,
};
use crate::{
    base::{
        error::Result,
        ids::{NodeId, RequestId, SnapshotSeq},
        limits,
    },
    cut::Fence,
    data::{self, Reply},
    entry::{Position, Record},
    faults::mutation::{Mutation, mutated},
    log::Batch,
    store::{View, keys},
    wire,
};

impl Group {
    /// The rows as they are now.
    pub fn reader<'a>(&'a self, view: &'a View) -> Reader<'a> {
        Reader { overlay: &self.overlay, view }
    }

    /// Bytes of applied rows that the store does not have.
    pub fn overlay_bytes(&self) -> usize {
        self.overlay.bytes()
    }

    // ---- Applying. ----

    /// Applies a command of the entry at an index to the rows. None in the meta group.
    pub fn apply(
        &mut self,
        request: Option<RequestId>,
        command: &data::Command,
        index: u64,
        view: &View,
    ) -> Result<Option<Reply>> {
        let Group { machine, overlay, changed, record, .. } = self;
        let Some(machine) = machine else { return Ok(None) };
        let reply = machine.apply(request, command, &mut GroupRows { overlay, view })?;
        changed.extend(machine.take_touched().into_iter().map(|p| (p, index)));
        record.data = machine.state();
        Ok(Some(reply))
    }

    /// Applies a snapshot's mark at its place. Whether it is the first, so that the group is
    /// captured here.
    pub fn apply_mark(&mut self, seq: SnapshotSeq, at: Position) -> bool {
        let first = self.fence.apply_mark(seq) || mutated(Mutation::CapturedTwice);
        if first && !mutated(Mutation::MarkNotStored) {
            (self.record.mark, self.record.mark_at) = (seq, at);
        }
        first
    }

    /// The entry at a place is applied.
    pub fn advance_applied(&mut self, at: Position) {
        self.record.applied = at;
        self.raft.applied(at.index);
    }

    /// Drops entries from memory that are applied here, once they are many bytes.
    pub fn forget_applied(&mut self, is_there: impl Fn(NodeId) -> bool) {
        self.raft.forget_applied(self.record.applied.index, is_there);
    }

    // ---- To the store. ----

    /// Closes the open layer where it is now, with these rows of the meta group, and counts it;
    /// with `always` also when only the record has changed.
    pub fn seal(
        &mut self,
        meta_rows: Vec<(Vec<u8>, Option<Bytes>)>,
        always: bool,
        counted: &LayerBytes,
    ) {
        if self.is_installing() || !self.has_replica() {
            return;
        }
        let rows_before = self.overlay.open_bytes();
        for (key, row) in meta_rows {
            self.overlay.set(key, row);
        }
        for (partition, index) in std::mem::take(&mut self.changed) {
            let index = Bytes::copy_from_slice(&index.to_be_bytes());
            self.overlay.set(keys::partition_index(partition), Some(index));
        }
        let remembered = self.machine.as_mut().map(|m| m.take_remembered()).unwrap_or_default();
        for (slot, remembered) in remembered {
            if mutated(Mutation::RequestsNotStored) && slot > 0 {
                continue;
            }
            let row = Some(wire::encode_remembered(&remembered));
            self.overlay.set(keys::request(self.id, slot), row);
        }
        let empty = rows_before == 0 && self.overlay.open_bytes() == 0;
        let same_members = self.record.members == self.stored.members;
        if empty && same_members && (!always || self.record == self.stored) {
            return;
        }
        self.overlay.seal(wire::encode_record(&self.record), self.record.applied, counted);
    }

    /// What a checkpoint may write now, oldest first.
    pub fn sealed(&self) -> Vec<Arc<Sealed>> {
        self.overlay.sealed()
    }

    /// The sealed rows, over the view that lies under them.
    pub fn freeze(&self, view: Arc<View>) -> Frozen {
        self.overlay.freeze(view)
    }

    /// The store has the layers up to a number, and the record that the last of them ends with.
    pub fn written(&mut self, number: u64, record: Record) {
        self.overlay.written(number);
        if record.applied >= self.stored.applied {
            self.stored = record;
        }
    }

    /// Drops entries that the store covers, but for those that a follower may still ask for: so
    /// many of them, and no more bytes than its rows are likely to have, unless a member that is
    /// there lacks them.
    pub fn compact(
        &mut self,
        kept: u64,
        is_there: impl Fn(NodeId) -> bool,
        batch: &mut Batch,
    ) -> Result<()> {
        let offered = self.raft.offers().lowest().unwrap_or(u64::MAX);
        let covered = if mutated(Mutation::TruncatedEarly) {
            self.record.applied.index
        } else {
            self.stored.applied.index
        };
        let (by_entries, begin) = (covered.saturating_sub(kept), self.raft.begin().index);
        let lacked = self.raft.lacked(is_there);
        let by_bytes = self.raft.behind(limits::LOG_BYTES_KEPT).min(covered).min(lacked);
        let to = by_entries.max(by_bytes).min(offered);
        if to > begin + kept / 10 || to > begin && to == by_bytes {
            self.raft.compact(to, batch)?;
        }
        Ok(())
    }

    // ---- Something else in their place. ----

    /// Drops the rows in memory: something else is about to be in their place.
    pub fn install(&mut self, installing: Installing) {
        self.overlay.reset();
        self.changed.clear();
        self.installing = Some(installing);
    }

    /// What is in place now.
    pub fn take_installing(&mut self) -> Installing {
        self.installing.take().expect("only an installing group has something installed")
    }

    /// The rows of a Raft snapshot are in place: this is a member again, and its log begins behind
    /// them.
    pub fn installed(
        &mut self,
        turn: &Turn,
        record: Record,
        machine: Option<data::Machine>,
        batch: &mut Batch,
    ) -> Result<()> {
        self.machine = machine;
        (self.left, self.ended) = (false, false);
        self.changed_at = record.applied.index;
        self.fence = Fence::stored(record.mark);
        self.raft.begin_behind(turn, record.applied, record.members.clone(), batch)?;
        (self.record, self.stored) = (record.clone(), record);
        Ok(())
    }

    /// The rows are deleted: the log goes too, in the term of the leader that has allowed it.
    pub fn end_log(&mut self, term: u64, batch: &mut Batch) -> Result<()> {
        self.raft.end(term, batch)
    }

    /// The replica that comes after one that has ended. What that one has promised to a leader
    /// holds for the node.
    pub fn begin_anew(&mut self, mut new: Group, ended: Position) {
        (new.promise, new.left) = (std::mem::take(&mut self.promise), self.left);
        *self = new;
        self.has_ended(ended);
    }

    /// The replica before this one has ended, at a place of its leader's log.
    pub fn has_ended(&mut self, at: Position) {
        self.ended = true;
        self.tenures = Tenures::end(at.term, at.index);
    }

    /// Whether the leader of a term spoke to the replica before its node became a member again, by
    /// a change behind `index`.
    pub fn is_back(&self, term: u64, index: u64) -> bool {
        self.term() > term || self.tenures.own(term) > index || self.record.applied.index > index
    }
}
