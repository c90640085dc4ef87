//! A snapshot of groups that were sent: what makes it be there.
//!
//! Of all who make the snapshot of one number, one does. Whoever comes second looks at what is
//! there: the same cut of the same snapshot, or somebody else's.

use super::{
    index::{Index, Place},
    manifest::{self, FORMAT, Group, PartOf, Snapshot},
    root::{Folder, Repository},
    send::{self, or_lost},
    store::Made,
};
use crate::{
    base::{
        error::{Error, Result},
        ids::{GroupId, SnapshotId, SnapshotSeq},
    },
    part::{
        chunk::Digest,
        manifest::{Manifest, rfc3339},
    },
};

/// What a snapshot is made of.
pub struct Commit {
    pub repository: Repository,
    pub folder: Folder,
    pub seq: SnapshotSeq,
    pub snapshot: SnapshotId,
    pub partitions: u32,
    /// Data groups.
    pub groups: u32,
}

impl Commit {
    /// The newest snapshot before it, if it can be read. Damage to it must not keep this one from
    /// being stored, whole then.
    pub fn base(&self, lost: &mut Vec<String>) -> Result<Option<Snapshot>> {
        let names = self.repository.names()?;
        let mut before =
            names.iter().filter(|(of, number)| *of == self.folder && *number < self.seq);
        let Some((_, number)) = before.next_back() else { return Ok(None) };
        Ok(or_lost(self.repository.snapshot(self.folder, *number), lost)?.flatten())
    }

    /// The snapshot that is there under this number, which must be this one; none where there is
    /// none.
    pub fn there(&self, root: &Digest) -> Result<Option<Snapshot>> {
        let Some(there) = self.repository.snapshot(self.folder, self.seq)? else {
            return Ok(None);
        };
        if (there.snapshot, &there.root) != (self.snapshot, root) {
            return Err(Error::conflict(format!(
                "number {} of this history is snapshot {} with the root {} in the repository, and \
                 {} with the root {root} here: two clusters have written one history",
                self.seq, there.snapshot, there.root, self.snapshot,
            )));
        }
        Ok(Some(there))
    }

    /// Makes the snapshot of groups whose rows and indexes are there: data groups in order, the
    /// meta group last. What stands there then, and whether it stood there before.
    pub fn make(
        &self,
        parts: Vec<PartOf>,
        sent: &[(Group, Index)],
        new_bytes: u64,
    ) -> Result<(Snapshot, bool)> {
        let roots = sent.iter().map(|(held, index)| manifest::group_root(held, &index.partitions));
        let root = manifest::root(roots);
        let indexes = || sent.iter().map(|(_, index)| index);
        let written_ms = parts.iter().map(|part| part.written_ms).max().unwrap_or_default();
        let snapshot = Snapshot {
            format: FORMAT,
            product: env!("CARGO_PKG_VERSION").into(),
            repository: self.repository.id,
            cluster: self.folder.cluster,
            lineage: self.folder.lineage,
            snapshot: self.snapshot,
            seq: self.seq,
            written: rfc3339(written_ms),
            written_ms,
            partitions: self.partitions,
            groups: self.groups,
            rows: indexes().map(Index::rows).sum(),
            bytes: indexes().map(Index::bytes).sum(),
            stored_bytes: indexes().map(Index::stored_bytes).sum(),
            new_bytes,
            root,
            parts,
            held: sent.iter().map(|(held, _)| held.clone()).collect(),
        };
        let name = self.folder.snapshot(self.seq);
        match self.repository.store.create(&name, self.repository.encoded(&snapshot)?.into())? {
            Made::Now => Ok((snapshot, false)),
            Made::Before => {
                let there = self.there(&snapshot.root)?;
                let there = there.ok_or_else(|| Error::not_found(format!("{name} has gone")))?;
                Ok((there, true))
            }
        }
    }
}

/// What a part says of itself, as far as it is not its groups' own.
pub fn part_of(manifest: &Manifest) -> PartOf {
    PartOf {
        node: manifest.node,
        address: manifest.address.clone(),
        format: manifest.format,
        product: manifest.product.clone(),
        written_ms: manifest.written_ms,
        meta: manifest.meta.is_some(),
        groups: manifest.group_ids().collect(),
    }
}

/// What stands for the rows of a group as a part has it.
pub fn root_of(part: &Manifest, group: GroupId) -> Result<Digest> {
    let partitions = send::partitions(part, group)?;
    let nowhere = Place { object: String::new(), offset: 0, bytes: 0, digest: Digest([0; 32]) };
    Ok(manifest::group_root(&send::held(part, group, nowhere)?, &partitions))
}
