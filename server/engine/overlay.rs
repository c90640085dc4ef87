//! Applied rows of one group that are not yet in the store: an ordered map in memory, in layers.
//!
//! The newest layer is open and takes what is applied. Sealing it fixes it together with the
//! group's record at that log index; a checkpoint writes sealed layers to the store, oldest first,
//! and only then are they dropped. A mark seals a layer too, and freezes what there is: the layers
//! and the view that they lie over. Whoever copies it needs no checkpoint for that, and keeps none
//! waiting; it keeps the layers in memory for as long.
//!
//! - A row is looked up in the layers from the newest to the oldest, then in the store's view.
//! - Rows leave memory in the same step in which the view that holds them becomes the one that is
//!   read, unless something frozen holds them.

use std::{
    collections::{BTreeMap, VecDeque, btree_map},
    iter::Peekable,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;

use crate::{
    base::{error::Result, limits},
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

/// Bytes of a node's sealed layers that are in memory, whoever holds them.
#[derive(Clone, Debug, Default)]
pub struct LayerBytes(Arc<AtomicUsize>);

impl LayerBytes {
    pub fn now(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

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
    counted: LayerBytes,
}

impl Sealed {
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Sealed {
    fn drop(&mut self) {
        self.counted.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// The layers of one group.
#[derive(Debug, Default)]
pub struct Overlay {
    open: Map,
    open_bytes: usize,
    sealed: VecDeque<Arc<Sealed>>,
    sealed_ever: u64,
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

    /// Closes the open layer at a log index, and counts it.
    pub fn seal(&mut self, record: Vec<u8>, applied: Position, counted: &LayerBytes) {
        self.sealed_ever += 1;
        let (rows, bytes) = (std::mem::take(&mut self.open), std::mem::take(&mut self.open_bytes));
        counted.0.fetch_add(bytes, Ordering::Relaxed);
        self.sealed.push_back(Arc::new(Sealed {
            number: self.sealed_ever,
            rows,
            record,
            applied,
            bytes,
            counted: counted.clone(),
        }));
    }

    /// What is sealed, over the view that lies under it.
    pub fn freeze(&self, view: Arc<View>) -> Frozen {
        Frozen { layers: self.sealed.iter().rev().cloned().collect(), view }
    }

    /// Bytes that the open layer has taken.
    pub fn open_bytes(&self) -> usize {
        self.open_bytes
    }

    /// What a checkpoint may write now, oldest first.
    pub fn sealed(&self) -> Vec<Arc<Sealed>> {
        self.sealed.iter().cloned().collect()
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
    }

    fn layers(&self) -> impl Iterator<Item = &Map> {
        std::iter::once(&self.open).chain(self.sealed.iter().rev().map(|l| &l.rows))
    }
}

/// A group's rows as they were at one moment, whatever is applied or stored behind it. It keeps its
/// layers in memory and its view's pages on disk.
#[derive(Clone)]
pub struct Frozen {
    /// The newest first.
    layers: Vec<Arc<Sealed>>,
    view: Arc<View>,
}

impl Frozen {
    /// What counts its layers; none where it has none.
    pub fn counted(&self) -> Option<&LayerBytes> {
        self.layers.first().map(|layer| &layer.counted)
    }

    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        match self.layers.iter().find_map(|layer| layer.rows.get(key)) {
            Some(row) => Ok(row.clone()),
            None => self.view.get(key),
        }
    }

    /// Shows the rows of a range in key order, without a copy of any but the large ones.
    pub fn each(
        &self,
        range: &Range<Vec<u8>>,
        mut see: impl FnMut(&[u8], &[u8]) -> Result<()>,
    ) -> Result<()> {
        let layers = self.layers.iter().map(|layer| layer.rows.range(range.clone()).peekable());
        let mut layered = Layered(layers.collect());
        let mut next = layered.next();
        self.view.each(range, |stored, value| {
            while let Some((key, row)) = next.filter(|(key, _)| *key < stored) {
                row.map_or(Ok(()), |row| see(key, row))?;
                next = layered.next();
            }
            match next {
                Some((key, row)) if key == stored => {
                    next = layered.next();
                    row.map_or(Ok(()), |row| see(stored, row))
                }
                _ => see(stored, value),
            }
        })?;
        while let Some((key, row)) = next {
            row.map_or(Ok(()), |row| see(key, row))?;
            next = layered.next();
        }
        Ok(())
    }
}

impl std::fmt::Debug for Frozen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Frozen({} layers)", self.layers.len())
    }
}

/// The keys of some layers in order, each with its newest row; none where it was deleted.
struct Layered<'a>(Vec<Peekable<btree_map::Range<'a, Vec<u8>, Option<Bytes>>>>);

impl<'a> Iterator for Layered<'a> {
    type Item = (&'a [u8], Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        let first =
            self.0.iter_mut().filter_map(|layer| layer.peek().map(|(key, _)| *key)).min()?;
        let mut newest = None;
        for layer in &mut self.0 {
            if let Some((_, row)) = layer.next_if(|(key, _)| *key == first) {
                newest.get_or_insert(row);
            }
        }
        newest.map(|row| (first.as_slice(), row.as_deref()))
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
    layers: Vec<Peekable<btree_map::Range<'a, Vec<u8>, Option<Bytes>>>>,
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
            let counted = LayerBytes::default();
            let mut frozen = Vec::new();
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
                    3 => overlay.seal(vec![], Position::default(), &counted),
                    4 => {
                        overlay.seal(vec![], Position::default(), &counted);
                        store.begin().unwrap().finish().unwrap();
                        let view = Arc::new(store.view().unwrap());
                        frozen.push((overlay.freeze(view), model.clone()));
                    }
                    _ => {
                        let ripe = overlay.sealed();
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
            for (frozen, model) in &frozen {
                prop_assert_eq!(&all(frozen).into_iter().collect::<BTreeMap<_, _>>(), model);
                for key in 0..12 {
                    let row = frozen.get(&[b'd', key]).unwrap().map(|row| row.to_vec());
                    prop_assert_eq!(row.as_ref(), model.get(&vec![b'd', key]));
                }
            }
        }
    }

    fn row(value: &'static str) -> Option<Bytes> {
        Some(Bytes::from(value))
    }

    fn all(frozen: &Frozen) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut rows = Vec::new();
        let see = |key: &[u8], row: &[u8]| {
            rows.push((key.to_vec(), row.to_vec()));
            Ok(())
        };
        frozen.each(&(vec![b'd']..vec![b'e']), see).unwrap();
        rows
    }

    #[test]
    fn what_is_frozen_stays_while_layers_come_and_are_stored_and_its_memory_counts() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(dir.path(), &crate::base::disk::Machine, b"me").unwrap();
        store.begin().unwrap().finish().unwrap();
        let counted = LayerBytes::default();
        let mut overlay = Overlay::default();
        let seal = |overlay: &mut Overlay| overlay.seal(vec![], Position::default(), &counted);
        overlay.set(b"da".to_vec(), row("1"));
        overlay.set(b"db".to_vec(), row("1"));
        seal(&mut overlay);
        overlay.set(b"db".to_vec(), None);
        overlay.set(b"dc".to_vec(), row("2"));
        seal(&mut overlay);
        let first = overlay.freeze(Arc::new(store.view().unwrap()));
        let layers = counted.now();
        assert_eq!(layers, overlay.bytes());

        overlay.set(b"da".to_vec(), row("3"));
        seal(&mut overlay);
        let mut commit = store.begin().unwrap();
        for layer in overlay.sealed() {
            commit.rows(layer.rows.iter().map(|(k, v)| (k.as_slice(), v.as_deref()))).unwrap();
        }
        commit.finish().unwrap();
        overlay.written(overlay.sealed().last().unwrap().number);
        let second = overlay.freeze(Arc::new(store.view().unwrap()));

        let rows = |rows: &[(&str, &str)]| -> Vec<(Vec<u8>, Vec<u8>)> {
            rows.iter().map(|(k, v)| (k.as_bytes().to_vec(), v.as_bytes().to_vec())).collect()
        };
        assert_eq!(all(&first), rows(&[("da", "1"), ("dc", "2")]));
        assert_eq!(first.get(b"db").unwrap(), None);
        assert_eq!(all(&second), rows(&[("da", "3"), ("dc", "2")]));
        assert_eq!((overlay.bytes(), counted.now()), (0, layers), "the first holds its layers");
        drop(first);
        assert_eq!(counted.now(), 0);
        assert_eq!(all(&second).len(), 2);
    }
}
