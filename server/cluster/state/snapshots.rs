//! The registry of snapshots: how each begins, is resolved, and is forgotten when its parts are
//! gone.

use super::{Effects, State};
use crate::{
    base::{
        error::{Error, Result},
        ids::{Lineage, NodeId, SnapshotId, SnapshotSeq},
        limits,
    },
    cluster::{
        command::{Changed, Event, Outcome},
        snapshots::{Part, Snapshot},
    },
};

impl State {
    pub(super) fn begin_snapshot(
        &mut self,
        id: SnapshotId,
        created_ms: u64,
        effects: &mut Effects,
    ) -> Result<Outcome> {
        if let Some(known) = self.snapshot_named(id) {
            if known.deleting.is_some() {
                return Err(Error::conflict(format!(
                    "snapshot {id} is being deleted; take another one under a new uuid"
                )));
            }
            return Ok(Outcome::Snapshot { snapshot: Box::new(known.clone()), changed: false });
        }
        if self.settings.deleted.contains(&id) {
            return Err(Error::conflict(format!(
                "snapshot {id} was deleted; take another one under a new uuid"
            )));
        }
        if let Some(open) = self.open_snapshot() {
            return Err(Error::conflict(format!(
                "snapshot {} is being taken; wait for it",
                open.id
            )));
        }
        if self.settings.lineage == Lineage::PENDING {
            return Err(Error::unavailable(
                "the cluster comes from a restore and has not agreed on its history yet; try again \
                 when it has",
            ));
        }
        let seq = SnapshotSeq(self.settings.begun.0 + 1);
        let snapshot = Snapshot::begin(
            id,
            seq,
            created_ms,
            self.settings.lineage,
            self.nodes.values().map(|n| (n.id, n.snapshot_store)),
        );
        self.settings.begun = seq;
        effects.changed.extend([Changed::Settings, Changed::Snapshot(seq)]);
        if snapshot.is_open() {
            effects.events.push(Event::SnapshotBegun(seq));
        } else {
            self.settings.resolved = seq;
            effects.events.push(Event::SnapshotAborted(seq));
        }
        self.snapshots.insert(seq, snapshot.clone());
        self.forget_oldest(effects);
        Ok(Outcome::Snapshot { snapshot: Box::new(snapshot), changed: true })
    }

    /// Only the record goes; what nodes keep of it stays where it is.
    pub(super) fn forget_oldest(&mut self, effects: &mut Effects) {
        while self.snapshots.len() - usize::from(self.open_snapshot().is_some())
            > limits::SNAPSHOTS_REMEMBERED
        {
            let (seq, _) = self.snapshots.pop_first().expect("there are more than are remembered");
            effects.changed.push(Changed::Snapshot(seq));
        }
    }

    /// The first outcome wins, and one of a snapshot that is not known does nothing.
    pub(super) fn resolve_snapshot(
        &mut self,
        seq: SnapshotSeq,
        resolve: impl FnOnce(&mut Snapshot) -> bool,
        event: Event,
        effects: &mut Effects,
    ) -> Outcome {
        let changed = self.snapshots.get_mut(&seq).is_some_and(resolve);
        if changed {
            self.settings.resolved = self.settings.resolved.max(seq);
            effects.changed.extend([Changed::Settings, Changed::Snapshot(seq)]);
            effects.events.push(event);
            self.forget_oldest(effects);
        }
        Outcome::Done { changed }
    }

    pub(super) fn report_part(
        &mut self,
        id: SnapshotId,
        part: &Part,
        effects: &mut Effects,
    ) -> Result<Outcome> {
        part.check(self.settings.topology)?;
        let seq = self.number_of(id)?;
        if !self.nodes.contains_key(&part.node) {
            return Err(Error::not_found(format!(
                "node {} is not part of the cluster, so it has no part of snapshot {id}",
                part.node
            )));
        }
        let changed = self.snapshots.get_mut(&seq).is_some_and(|s| s.report(part));
        if changed {
            effects.row(Changed::Snapshot(seq));
        }
        Ok(Outcome::Done { changed })
    }

    pub(super) fn forget_snapshot(
        &mut self,
        id: SnapshotId,
        effects: &mut Effects,
    ) -> Result<Outcome> {
        let seq = self.deletable(id)?;
        effects.events.push(Event::SnapshotDeleted(id));
        Ok(self.forget(seq, id, effects))
    }

    /// One of an earlier history has to be named as such: the cluster that this one was restored
    /// from may live on its parts.
    pub(super) fn begin_deletion(
        &mut self,
        id: SnapshotId,
        lineage: Option<Lineage>,
        effects: &mut Effects,
    ) -> Result<Outcome> {
        let seq = self.deletable(id)?;
        let snapshot = self.snapshots.get_mut(&seq).expect("it was just found");
        if lineage.is_some_and(|named| named != snapshot.lineage) {
            return Err(Error::not_found(format!(
                "there is no snapshot {id} of lineage {}",
                lineage.unwrap_or_default()
            )));
        }
        if self.settings.lineage == Lineage::PENDING {
            return Err(Error::unavailable(
                "the cluster comes from a restore and has not agreed on its history yet; try again \
                 when it has",
            ));
        }
        if lineage.is_none() && snapshot.lineage != self.settings.lineage {
            return Err(Error::conflict(format!(
                "snapshot {id} was taken before this cluster was restored, in lineage {0}, and \
                 that cluster may live on: its parts are kept. To delete them all the same, name \
                 their lineage: --lineage {0}",
                snapshot.lineage
            )));
        }
        if !snapshot.begin_deletion(self.nodes.values().map(|n| (n.id, n.snapshot_store))) {
            return Ok(Outcome::Done { changed: false });
        }
        effects.events.push(Event::SnapshotDeleting(seq));
        effects.row(Changed::Snapshot(seq));
        Ok(self.forget_if_gone(seq, effects))
    }

    /// One of a snapshot that is not known, or of a node that is not waited for, does nothing.
    pub(super) fn report_deletion(
        &mut self,
        id: SnapshotId,
        node: NodeId,
        reason: &str,
        effects: &mut Effects,
    ) -> Outcome {
        let Some(seq) = self.snapshot_named(id).map(|s| s.seq) else {
            return Outcome::Done { changed: false };
        };
        if !self.snapshots.get_mut(&seq).is_some_and(|s| s.report_deletion(node, reason)) {
            return Outcome::Done { changed: false };
        }
        effects.row(Changed::Snapshot(seq));
        self.forget_if_gone(seq, effects)
    }

    /// Nodes that are not of the cluster any more are not waited for.
    pub(super) fn forget_if_gone(&mut self, seq: SnapshotSeq, effects: &mut Effects) -> Outcome {
        if !self.is_gone(seq) {
            return Outcome::Done { changed: true };
        }
        effects.changed.clear();
        self.forget(seq, self.snapshots[&seq].id, effects)
    }

    /// Whether no node has a part any more of a snapshot that is being deleted.
    pub(super) fn is_gone(&self, seq: SnapshotSeq) -> bool {
        let mut waited_for = self.snapshots[&seq].deleting.iter().flatten();
        !waited_for.any(|(node, _)| self.nodes.contains_key(node))
    }

    pub(super) fn forget(
        &mut self,
        seq: SnapshotSeq,
        id: SnapshotId,
        effects: &mut Effects,
    ) -> Outcome {
        self.snapshots.remove(&seq);
        let deleted = &mut self.settings.deleted;
        deleted.push(id);
        deleted.drain(..deleted.len().saturating_sub(limits::SNAPSHOTS_DELETED_REMEMBERED));
        effects.row(Changed::Settings);
        effects.row(Changed::Snapshot(seq))
    }

    pub(super) fn deletable(&self, id: SnapshotId) -> Result<SnapshotSeq> {
        let seq = self.number_of(id)?;
        if self.snapshots[&seq].is_open() {
            return Err(Error::conflict(format!(
                "snapshot {id} is being taken; wait for it, then delete it"
            )));
        }
        Ok(seq)
    }

    pub(super) fn number_of(&self, id: SnapshotId) -> Result<SnapshotSeq> {
        self.snapshot_named(id)
            .map(|s| s.seq)
            .ok_or_else(|| Error::not_found(format!("there is no snapshot {id}")))
    }
}
