//! The versions of one key, and what a write does to them.
//!
//! In `default` and `cloud` a write replaces the values that its writer had seen and stands beside
//! the others. In `lww` the newest timestamp stands alone.
//!
//! Tombstones. A deletion that leaves no value leaves a tombstone, so that the row stays and its
//! clock goes on telling, to relays for one, that older values are gone. A tombstone only ever
//! stands alone: beside values it would be invisible and say nothing that the clock does not say.
//! So a value put where a tombstone stands replaces it, seen or not, and a deletion beside unseen
//! values removes what it saw and adds nothing. Deleting what is deleted changes nothing.
//!
//! `lww` goes one step further: a deletion with a timestamp chosen by its writer leaves a tombstone
//! even where nothing stood. Only so is the outcome the same in whatever order chosen timestamps
//! arrive. It costs a row for each such deletion of a key that never was.

use super::{
    bucket::Conflicts,
    command::{Stamp, Step},
    key::Value,
    version::{Dot, Version, VersionVector},
};
use crate::base::{
    error::{Error, Result},
    limits,
};

/// A key's row.
///
/// - Versions are sorted by dot, and the clock covers them all. No version: the key has no row.
/// - A tombstone stands alone.
/// - At most `SIBLINGS_MAX` versions, of `SIBLINGS_BYTES_MAX` in all, and `LINEAGES_MAX` histories.
/// - The clock grows only by dots minted for this key in this history. Contexts are not merged into
///   it: a client cannot make it claim more than happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Versions {
    versions: Vec<Version>,
    clock: VersionVector,
}

/// What one step did to its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Added nothing: there was nothing to delete, or values unseen are left.
    Kept = 0,
    /// A newer value stands.
    Superseded = 1,
    /// What the step wrote stands alone.
    Sole = 2,
    /// What the step wrote stands beside values that its writer had not seen.
    Beside = 3,
}

/// The key would hold more concurrent values than it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooManySiblings;

impl Outcome {
    pub const ALL: [Outcome; 4] =
        [Outcome::Kept, Outcome::Superseded, Outcome::Sole, Outcome::Beside];

    /// Whether the step used its dot.
    pub fn minted(self) -> bool {
        matches!(self, Outcome::Sole | Outcome::Beside)
    }
}

impl Versions {
    /// As read back from a store; corrupt unless it keeps the invariants.
    pub fn from_parts(versions: Vec<Version>, clock: VersionVector) -> Result<Versions> {
        let sorted = versions.is_sorted_by(|a, b| a.dot < b.dot);
        let covered = versions.iter().all(|v| clock.covers(v.dot));
        let alone = versions.len() == 1 || versions.iter().all(|v| v.value.is_some());
        if versions.is_empty() || !sorted || !covered || !alone {
            return Err(Error::corrupt(format!(
                "a key's row is damaged: {} versions, sorted {sorted}, covered {covered}, \
                 tombstone alone {alone}",
                versions.len()
            )));
        }
        Ok(Versions { versions, clock })
    }

    pub fn versions(&self) -> &[Version] {
        &self.versions
    }
    pub fn clock(&self) -> &VersionVector {
        &self.clock
    }

    /// The values that a reader sees.
    pub fn visible(&self) -> impl Iterator<Item = &Version> {
        self.versions.iter().filter(|v| v.value.is_some())
    }

    pub fn into_visible(mut self) -> Vec<Version> {
        self.versions.retain(|v| v.value.is_some());
        self.versions
    }

    /// Whether a reader sees nothing.
    pub fn is_deleted(&self) -> bool {
        self.visible().next().is_none()
    }

    /// Bytes of all values.
    pub fn value_bytes(&self) -> usize {
        self.versions.iter().filter_map(|v| v.value.as_ref()).map(|v| v.as_bytes().len()).sum()
    }

    /// Takes one step, under `dot` if it adds a version. After a refusal the versions are not to be
    /// used any more.
    pub(super) fn take(
        &mut self,
        conflicts: Conflicts,
        step: &Step,
        dot: Dot,
    ) -> Result<Outcome, TooManySiblings> {
        match (conflicts, &step.value) {
            (Conflicts::Siblings, Some(value)) => self.put(step, value, dot),
            (Conflicts::Siblings, None) => Ok(self.delete(step, dot)),
            (Conflicts::LastWriterWins, _) => Ok(self.write_newest(step, dot)),
        }
    }

    fn put(&mut self, step: &Step, value: &Value, dot: Dot) -> Result<Outcome, TooManySiblings> {
        self.remove_seen(step);
        self.versions.retain(|v| v.value.is_some());
        self.add(Version { dot, value: Some(value.clone()), timestamp_ms: 0 });
        if self.versions.len() == 1 {
            return Ok(Outcome::Sole);
        }
        if self.versions.len() > limits::SIBLINGS_MAX
            || self.value_bytes() > limits::SIBLINGS_BYTES_MAX
        {
            return Err(TooManySiblings);
        }
        Ok(Outcome::Beside)
    }

    fn delete(&mut self, step: &Step, dot: Dot) -> Outcome {
        if self.is_deleted() {
            return Outcome::Kept;
        }
        self.remove_seen(step);
        if !self.versions.is_empty() {
            return Outcome::Kept;
        }
        self.add(Version { dot, value: None, timestamp_ms: 0 });
        Outcome::Sole
    }

    fn write_newest(&mut self, step: &Step, dot: Dot) -> Outcome {
        let stored = self.versions.first().map(|v| v.timestamp_ms);
        let timestamp_ms = match (step.stamp, stored) {
            (Stamp::Chosen(ms), Some(stored)) if ms < stored => return Outcome::Superseded,
            (Stamp::Chosen(ms), _) => ms,
            (Stamp::Floor(_), None) if step.value.is_none() => return Outcome::Kept,
            (Stamp::Floor(ms), None) => ms,
            // At the end of time the later in the log wins, as with any equal timestamps.
            (Stamp::Floor(ms), Some(stored)) => ms.max(stored.saturating_add(1)),
        };
        self.versions.clear();
        self.add(Version { dot, value: step.value.clone(), timestamp_ms });
        Outcome::Sole
    }

    fn remove_seen(&mut self, step: &Step) {
        match &step.context {
            None => self.versions.clear(),
            Some(context) => self.versions.retain(|v| !context.covers(v.dot)),
        }
    }

    fn add(&mut self, version: Version) {
        self.clock.see(version.dot);
        let at = self.versions.partition_point(|v| v.dot < version.dot);
        self.versions.insert(at, version);
        self.clock.forget(|lineage| self.versions.iter().any(|v| v.dot.lineage == lineage));
    }
}
