//! Applied rows of one group that are not yet in the store: an ordered map in memory, in layers.
//!
//! The newest layer is open and takes what is applied. Sealing it fixes it together with the
//! group's record at that log index; a checkpoint writes sealed layers to the store, oldest first,
//! and only then are they dropped. A mark seals a layer too, and the layers behind it wait until
//! the snapshot has its view: so the store passes through exactly the state of the mark.
//!
//! - A row is looked up in the layers from the newest to the oldest, then in the store's view.
//! - Rows leave memory in the same step in which the view that holds them becomes the one that is
//!   read.

use std::{
    collections::{BTreeMap, VecDeque},
    iter::Peekable,
    ops::Range,
    sync::Arc,
};

use bytes::Bytes;

use crate::{
    base::{error::Result, ids::SnapshotSeq, limits},
    entry::Position,
    store::{Rows, View},
};

/// A row's key and what a map keeps for it, roughly.
const ROW_OVERHEAD: usize = 96;

/// What a row counts for.
fn weight(bytes: usize) -> usize {
    if bytes < limits::ROW_LARGE_BYTES { bytes } else { limits::ROW_LARGE_WEIGHT * bytes }
}

type Map = BTreeMap<Vec<u8>, Option<Bytes>>;

/// A layer that does not change any more.
#[derive(Debug)]
pub struct Sealed {
    /// Counts the layers of a group.
    pub number: u64,
    pub rows: Map,
    /// The group's record at this layer's end.
    pub record: Vec<u8>,
    pub applied: Position,
    bytes: usize,
}

impl Sealed {
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// The layers of one group.
#[derive(Debug, Default)]
pub struct Overlay {
    open: Map,
    open_bytes: usize,
    sealed: VecDeque<Arc<Sealed>>,
    sealed_ever: u64,
    /// For each snapshot that waits for its view, the layer that its mark closed: layers after it
    /// are not written before.
    held_after: BTreeMap<SnapshotSeq, u64>,
}

impl Overlay {
    pub fn set(&mut self, key: Vec<u8>, row: Option<Bytes>) {
        self.open_bytes +=
            key.len() + row.as_ref().map_or(0, |row| weight(row.len())) + ROW_OVERHEAD;
        self.open.insert(key, row);
    }

    /// Bytes in memory, counting rows that were overwritten since the layer was opened, and large
    /// ones by their weight.
    pub fn bytes(&self) -> usize {
        self.open_bytes + self.sealed.iter().map(|l| l.bytes).sum::<usize>()
    }

    /// Closes the open layer at a log index. Its number, for `hold_after`.
    pub fn seal(&mut self, record: Vec<u8>, applied: Position) -> u64 {
        self.sealed_ever += 1;
        let (rows, bytes) = (std::mem::take(&mut self.open), std::mem::take(&mut self.open_bytes));
        self.sealed.push_back(Arc::new(Sealed {
            number: self.sealed_ever,
            rows,
            record,
            applied,
            bytes,
        }));
        self.sealed_ever
    }

    /// Bytes that the open layer has taken.
    pub fn open_bytes(&self) -> usize {
        self.open_bytes
    }

    /// The number of the newest layer that was closed.
    pub fn last_sealed(&self) -> u64 {
        self.sealed_ever
    }

    pub fn hold_after(&mut self, seq: SnapshotSeq, number: u64) {
        self.held_after.insert(seq, number);
    }

    pub fn release(&mut self, seq: SnapshotSeq) {
        self.held_after.remove(&seq);
    }

    /// Whether some snapshot waits for its view of what is here.
    pub fn is_held(&self) -> bool {
        !self.held_after.is_empty()
    }

    /// What a checkpoint may write now, oldest first.
    pub fn ripe(&self) -> Vec<Arc<Sealed>> {
        let last = self.held_after.values().copied().min().unwrap_or(u64::MAX);
        self.sealed.iter().filter(|l| l.number <= last).cloned().collect()
    }

    /// Drops layers that the store holds now.
    pub fn written(&mut self, number: u64) {
        while self.sealed.front().is_some_and(|l| l.number <= number) {
            self.sealed.pop_front();
        }
    }

    /// Forgets everything: a Raft snapshot has replaced the rows.
    pub fn reset(&mut self) {
        self.open.clear();
        self.open_bytes = 0;
        self.sealed.clear();
        self.held_after.clear();
    }

    fn layers(&self) -> impl Iterator<Item = &Map> {
        std::iter::once(&self.open).chain(self.sealed.iter().rev().map(|l| &l.rows))
    }
}

/// What a group's rows are now: its layers over the store.
#[derive(Clone, Copy)]
pub struct Reader<'a> {
    pub overlay: &'a Overlay,
    pub view: &'a View,
}

impl<'a> Reader<'a> {
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        for layer in self.overlay.layers() {
            if let Some(row) = layer.get(key) {
                return Ok(row.clone());
            }
        }
        self.view.get(key)
    }

    /// Rows of a range in key order.
    pub fn range(&self, range: &Range<Vec<u8>>) -> Result<Merged<'a>> {
        let layers = self.overlay.layers().filter(|l| !l.is_empty());
        let layers = if range.start < range.end {
            layers.map(|l| l.range(range.clone()).peekable()).collect()
        } else {
            Vec::new()
        };
        Ok(Merged { layers, stored: self.view.range(range)?.peekable() })
    }
}

/// The rows of several layers and the store as one; for a key, the newest layer counts.
pub struct Merged<'a> {
    layers: Vec<Peekable<std::collections::btree_map::Range<'a, Vec<u8>, Option<Bytes>>>>,
    stored: Peekable<Rows>,
}

impl Merged<'_> {
    /// The next key and its newest row, deleted or not.
    fn step(&mut self) -> Option<Result<(Vec<u8>, Option<Bytes>)>> {
        let in_layers = self.layers.iter_mut().filter_map(|l| l.peek().map(|(k, _)| *k)).min();
        let stored_first = match (self.stored.peek(), in_layers) {
            (Some(Ok((stored, _))), Some(key)) => stored < key,
            (Some(_), _) => true,
            (None, Some(_)) => false,
            (None, None) => return None,
        };
        if stored_first {
            return self.stored.next().map(|row| row.map(|(k, v)| (k, Some(v))));
        }
        let key = in_layers?.clone();
        let mut newest = None;
        for layer in &mut self.layers {
            if layer.peek().is_some_and(|(k, _)| **k == key) {
                let row = layer.next().and_then(|(_, row)| row.clone());
                newest.get_or_insert(row);
            }
        }
        if self.stored.peek().is_some_and(|row| row.as_ref().is_ok_and(|(k, _)| *k == key)) {
            self.stored.next();
        }
        Some(Ok((key, newest.flatten())))
    }
}

impl Iterator for Merged<'_> {
    type Item = Result<(Vec<u8>, Bytes)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.step()? {
                Ok((key, Some(row))) => return Some(Ok((key, row))),
                Ok((_, None)) => {}
                Err(e) => return Some(Err(e)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::store::Store;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn layers_over_a_store_read_as_one_map(
            steps in proptest::collection::vec((0u8..6, 0u8..12, 0u8..4), 1..80),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let store = Store::create(dir.path(), &crate::base::disk::Machine, b"me").unwrap();
            let (mut overlay, mut model, mut view) = (Overlay::default(), BTreeMap::new(), None);
            for (what, key, value) in steps {
                let key = vec![b'd', key];
                match what {
                    0 | 1 => {
                        model.insert(key.clone(), vec![value]);
                        overlay.set(key, Some(Bytes::copy_from_slice(&[value])));
                    }
                    2 => {
                        model.remove(&key);
                        overlay.set(key, None);
                    }
                    3 => {
                        overlay.seal(vec![], Position::default());
                    }
                    4 => {
                        let n = overlay.seal(vec![], Position::default());
                        overlay.hold_after(SnapshotSeq(n), n);
                        overlay.release(SnapshotSeq(n));
                    }
                    _ => {
                        let ripe = overlay.ripe();
                        let mut commit = store.begin().unwrap();
                        for layer in &ripe {
                            commit
                                .rows(layer.rows.iter().map(|(k, v)| (k.as_slice(), v.as_deref())))
                                .unwrap();
                        }
                        commit.finish().unwrap();
                        if let Some(last) = ripe.last() {
                            overlay.written(last.number);
                        }
                        view = Some(store.view().unwrap());
                    }
                }
                let now = match view.take() {
                    Some(v) => v,
                    None => {
                        store.begin().unwrap().finish().unwrap();
                        store.view().unwrap()
                    }
                };
                let reader = Reader { overlay: &overlay, view: &now };
                let all: BTreeMap<_, _> = reader
                    .range(&(vec![b'd']..vec![b'e']))
                    .unwrap()
                    .map(|r| r.map(|(k, v)| (k, v.to_vec())).unwrap())
                    .collect();
                prop_assert_eq!(&all, &model);
                for key in 0..12 {
                    prop_assert_eq!(
                        reader.get(&[b'd', key]).unwrap().map(|v| v.to_vec()),
                        model.get(&vec![b'd', key]).cloned()
                    );
                }
            }
        }
    }

    #[test]
    fn layers_behind_a_mark_wait_for_its_view() {
        let mut overlay = Overlay::default();
        overlay.set(b"a".to_vec(), Some(Bytes::from("1")));
        let mark = overlay.seal(vec![], Position::default());
        overlay.hold_after(SnapshotSeq(1), mark);
        overlay.set(b"a".to_vec(), Some(Bytes::from("2")));
        overlay.seal(vec![], Position::default());
        assert_eq!(overlay.ripe().iter().map(|l| l.number).collect::<Vec<_>>(), [mark]);
        overlay.written(mark);
        overlay.release(SnapshotSeq(1));
        assert_eq!(overlay.ripe().len(), 1);
    }

    #[test]
    fn two_snapshots_in_a_row_hold_each_its_own_mark() {
        let mut overlay = Overlay::default();
        let marks = [1, 2].map(|seq| {
            overlay.set(b"a".to_vec(), Some(Bytes::from(vec![seq])));
            let mark = overlay.seal(vec![], Position::default());
            overlay.hold_after(SnapshotSeq(u64::from(seq)), mark);
            mark
        });
        overlay.set(b"a".to_vec(), Some(Bytes::from("3")));
        overlay.seal(vec![], Position::default());
        let ripe = |overlay: &Overlay| overlay.ripe().last().map(|l| l.number);
        assert_eq!(ripe(&overlay), Some(marks[0]), "the second mark does not loosen the first");
        overlay.written(marks[0]);
        overlay.release(SnapshotSeq(1));
        assert_eq!(
            ripe(&overlay),
            Some(marks[1]),
            "the first view does not loosen the second mark"
        );
    }
}
