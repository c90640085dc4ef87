//! A snapshot of groups that were sent: what makes it be there.
//!
//! Its object is stored, and the next catalogue lists it (`catalogue`): from then on it is there.
//! Of all who would list a snapshot under one number, one does. Whoever comes second looks at what
//! is listed: the same cut of the same snapshot, or somebody else's. In a history that another one
//! has adopted nothing is listed any more (`adopt`).
//!
//! Where the newest catalogue is damaged, the one that lists the snapshot takes its place, and says
//! again what is found to stand there. That is told (`Made::damaged`), and what was stored a moment
//! ago does not pass for what was there before.

use super::{
    catalogue::{Catalogue, Step},
    cover::Cover,
    entry::Entry,
    index::{Index, Place},
    manifest::{self, FORMAT, Group, PartOf, Snapshot},
    root::{Folder, Repository},
    send::{self, object_name, or_lost},
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

/// A snapshot that is listed.
#[derive(Clone, Debug)]
pub struct Made {
    pub snapshot: Snapshot,
    /// It was there before.
    pub was_there: bool,
    /// Catalogues that could not be read, and why. They were made up for.
    pub damaged: Vec<String>,
}

/// What a snapshot is made of.
pub struct Commit {
    pub repository: Repository,
    pub folder: Folder,
    pub seq: SnapshotSeq,
    pub snapshot: SnapshotId,
    pub partitions: u32,
    /// Data groups.
    pub groups: u32,
    /// The schedule that it was taken for.
    pub schedule: Option<String>,
}

impl Commit {
    /// The newest snapshot before it, if it can be read. Damage to it must not keep this one from
    /// being stored, whole then.
    pub fn base(&self, lost: &mut Vec<String>) -> Result<Option<Snapshot>> {
        let catalogue = self.repository.standing(self.folder)?.catalogue;
        let before = catalogue.snapshots.iter().rfind(|entry| entry.seq < self.seq);
        let Some(entry) = before else { return Ok(None) };
        let kept = or_lost(self.repository.kept(self.folder, entry), lost)?;
        Ok(kept.map(|kept| kept.snapshot))
    }

    /// The snapshot that is there under this number, which must be this one; none where there is
    /// none. A damaged catalogue is made up for before it counts.
    pub fn there(&self, root: &Digest) -> Result<Option<Made>> {
        let standing = self.repository.standing(self.folder)?;
        match self.listed(&standing.catalogue, root)? {
            None => Ok(None),
            Some(snapshot) if standing.damaged.is_empty() => {
                Ok(Some(Made { snapshot, was_there: true, damaged: Vec::new() }))
            }
            Some(_) => self.repository.amend(self.folder, |catalogue| {
                let there = self.listed(catalogue, root)?;
                Ok(Step::Is(there.map(|there| self.told(catalogue, there, true))))
            }),
        }
    }

    /// Notes the schedule in an entry that was found and says none.
    fn told(&self, catalogue: &mut Catalogue, snapshot: Snapshot, was_there: bool) -> Made {
        let was_found = catalogue.found.snapshots.contains(&self.seq);
        let entry = catalogue.snapshots.iter_mut().find(|entry| entry.seq == self.seq);
        if let Some(entry) = entry.filter(|entry| was_found && entry.schedule.is_none()) {
            entry.schedule.clone_from(&self.schedule);
        }
        Made { snapshot, was_there, damaged: catalogue.found.damaged.clone() }
    }

    /// `Conflict` if nothing can ever be listed under its number.
    fn listed(&self, catalogue: &Catalogue, root: &Digest) -> Result<Option<Snapshot>> {
        if let Some(adopted) = catalogue.adopted {
            return Err(adopted.refusal(self.folder));
        }
        if catalogue.is_void(self.seq) {
            return Err(Error::conflict(format!(
                "number {} of this history, snapshot {}, was dropped from the repository, or given \
                 up while it was being stored, and nothing is stored under it again: take another \
                 snapshot, or use another repository",
                self.seq, self.snapshot
            )));
        }
        let Some(entry) = catalogue.entry(self.seq) else { return Ok(None) };
        let there = self.repository.kept(self.folder, entry)?.snapshot;
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
    /// meta group last. What they were stored beside has to be listed still.
    pub fn make(
        &self,
        parts: Vec<PartOf>,
        sent: &[(Group, Index)],
        new_bytes: u64,
        base: Option<SnapshotSeq>,
    ) -> Result<Made> {
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
            schedule: self.schedule.clone(),
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
        self.list(snapshot, base)
    }

    pub(super) fn list(&self, snapshot: Snapshot, base: Option<SnapshotSeq>) -> Result<Made> {
        let text = self.repository.encoded(&snapshot)?;
        let digest = Digest(blake3::hash(&text).into());
        let object = object_name("s", self.seq, &digest);
        send::put(&self.repository, &self.folder.object(&object), text)?;
        self.repository.amend(self.folder, |catalogue| {
            let there = self.listed(catalogue, &snapshot.root)?;
            // What is found in place of a catalogue may be what was stored just now.
            let was_found = catalogue.found.snapshots.contains(&self.seq);
            let stands = catalogue.entry(self.seq).map(|entry| entry.object == object);
            let is_mine = was_found && stands == Some(true);
            if let Some(there) = there.filter(|_| !is_mine) {
                return Ok(Step::Is(self.told(catalogue, there, true)));
            }
            if let Some(base) = base.filter(|base| catalogue.entry(*base).is_none()) {
                return Err(Error::conflict(format!(
                    "snapshot number {base}, which this one was stored beside, was dropped from \
                     the repository meanwhile: store it again"
                )));
            }
            if !is_mine {
                let cover = Cover::of(&snapshot);
                catalogue.list(Entry::of(&cover, &object, digest, catalogue.written_ms));
            }
            Ok(Step::Becomes(self.told(catalogue, snapshot.clone(), false)))
        })
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
