//! Dots, versions and version vectors: who wrote what, and who has seen it.
//!
//! The scheme is that of dotted version vectors (Preguiça, Baquero, Almeida, Fonte and Gonçalves
//! 2010), kept for all values of a key at once as in dotted version vector sets (Almeida, Baquero,
//! Gonçalves, Preguiça and Fonte 2014). Their actors are replicas; ours are histories, since a
//! group's log puts all its writes in one order.
//!
//! A group counts its dots with one counter for all its keys. A vector {lineage: n} of a key stands
//! for all dots of *that key* up to n: the counter only grows, so whoever saw the key when its
//! newest dot was n saw every smaller one too, or what replaced it. The gaps, dots of other keys,
//! hurt nobody, because vectors of different keys are never compared.

use super::key::Value;
use crate::base::{ids::Lineage, limits};

/// The name of one write of one key: unique in all histories of the cluster. `counter` begins at 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Dot {
    pub lineage: Lineage,
    pub counter: u64,
}

/// One of the concurrent values of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    pub dot: Dot,
    /// `None` is a tombstone.
    pub value: Option<Value>,
    /// Milliseconds since 1970 in `lww`, 0 in the other buckets.
    pub timestamp_ms: u64,
}

/// For each history the newest counter that was seen.
///
/// - Sorted by lineage, each at most once, no counter is 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VersionVector {
    seen: Vec<(Lineage, u64)>,
}

impl VersionVector {
    /// `None` unless the pairs keep the invariants.
    pub fn from_sorted(pairs: impl IntoIterator<Item = (Lineage, u64)>) -> Option<VersionVector> {
        let seen: Vec<_> = pairs.into_iter().collect();
        let sorted =
            seen.is_sorted_by(|a, b| a.0 < b.0) && seen.iter().all(|(_, counter)| *counter > 0);
        sorted.then_some(VersionVector { seen })
    }

    pub fn pairs(&self) -> impl ExactSizeIterator<Item = (Lineage, u64)> + '_ {
        self.seen.iter().copied()
    }

    pub fn covers(&self, dot: Dot) -> bool {
        self.find(dot.lineage).is_ok_and(|at| dot.counter <= self.seen[at].1)
    }

    /// Adds a dot, so that the vector covers it.
    pub fn see(&mut self, dot: Dot) {
        match self.find(dot.lineage) {
            Ok(at) => self.seen[at].1 = self.seen[at].1.max(dot.counter),
            Err(at) => self.seen.insert(at, (dot.lineage, dot.counter)),
        }
    }

    /// Keeps the vector within `LINEAGES_MAX` by forgetting the oldest histories first, but none
    /// that is `needed`.
    ///
    /// A restored group counts on from its mark. So of the histories that led to this one, each has
    /// higher counters than those before it: the lowest is the oldest. What a context has seen of a
    /// history that a restore cut off stands where the cut was or behind it. Forgetting errs to the
    /// side of siblings: what was seen may be taken for unseen, never the reverse; so it does no
    /// more harm where a part of format 1 was restored, whose groups begin at 1 again.
    pub(super) fn forget(&mut self, needed: impl Fn(Lineage) -> bool) {
        while self.seen.len() > limits::LINEAGES_MAX {
            let spare = self.seen.iter().enumerate().filter(|(_, (lineage, _))| !needed(*lineage));
            let Some((at, _)) = spare.min_by_key(|(_, (lineage, counter))| (*counter, *lineage))
            else {
                return;
            };
            self.seen.remove(at);
        }
    }

    fn find(&self, lineage: Lineage) -> Result<usize, usize> {
        self.seen.binary_search_by_key(&lineage, |(lineage, _)| *lineage)
    }
}
