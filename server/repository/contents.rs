//! All rows of a snapshot, each chunk checked on its way: against the digest of what was stored,
//! against its name, and by the place of its rows in their partition and among their neighbours.
//!
//! To open them is to read every index, and to hold all of them together against the snapshot's
//! root. So rows that have come through here to their end are those of the cut, and no others:
//! chunks have the names that partitions' digests are made of, and these make the root.
//!
//! Memory holds the indexes, some 200 bytes a chunk, and a few chunks a core.

use std::collections::BTreeMap;

use super::{
    index::{Index, Located, Segment},
    manifest::{self, Group},
    root::{Folder, Kept, Repository},
};
use crate::{
    base::{
        error::{Error, Result},
        ids::{GroupId, PartitionId},
    },
    part::{chunk::Rows, manifest::Owner, parallel},
};

/// A snapshot whose indexes agree with its root.
pub struct Contents<'a> {
    repository: &'a Repository,
    kept: &'a Kept,
    /// One for each of the groups that are held.
    indexes: Vec<Index>,
    /// Of every object in the folder.
    sizes: BTreeMap<String, u64>,
}

impl<'a> Contents<'a> {
    pub fn open(repository: &'a Repository, kept: &'a Kept) -> Result<Contents<'a>> {
        let (mut indexes, mut roots) = (Vec::new(), Vec::new());
        let topology = kept.snapshot.topology()?;
        for held in &kept.snapshot.held {
            let index = repository.index(kept.folder, &held.index)?;
            let partitions = index.partitions.iter().map(|partition| partition.id.0);
            let whole = match held.group {
                GroupId::META => partitions.eq([0]),
                group => partitions.eq(topology.partitions_of(group)),
            };
            if !whole {
                return Err(Error::corrupt(format!(
                    "{}: the index of group {} has other partitions than the group",
                    kept.folder.object(&held.index.object),
                    held.group
                )));
            }
            roots.push(manifest::group_root(held, &index.partitions));
            indexes.push(index);
        }
        if manifest::root(roots.into_iter()) != kept.snapshot.root {
            return Err(Error::corrupt(format!(
                "{}: its root is not that of its groups",
                kept.folder.object(&kept.object)
            )));
        }
        let there = repository.store.list(&kept.folder.name())?;
        let sizes = there.into_iter().map(|object| (object.name, object.bytes)).collect();
        Ok(Contents { repository, kept, indexes, sizes })
    }

    /// Every chunk of the data groups whose partition is wanted, in the order of keys.
    pub fn chunks(
        &self,
        wanted: impl Fn(PartitionId) -> bool,
    ) -> impl Iterator<Item = (&Index, Owner, &Located)> {
        let is_wanted =
            move |owner: Owner| matches!(owner, Owner::Partition(partition) if wanted(partition));
        self.groups()
            .filter(|(held, _)| !held.group.is_meta())
            .flat_map(|(_, index)| index.in_order(false).map(move |(owner, at)| (index, owner, at)))
            .filter(move |(_, owner, _)| is_wanted(*owner))
    }

    /// Whether what wanted chunks lie in is there, as large as it was made. The first that is not
    /// is named: it is better to know before the rows of all others have been read.
    pub fn all_there(&self, wanted: impl Fn(PartitionId) -> bool) -> Result<()> {
        self.chunks(wanted)
            .try_for_each(|(index, _, at)| self.is_there(&index.segments[at.segment]))
    }

    fn is_there(&self, segment: &Segment) -> Result<()> {
        let name = self.kept.folder.object(&segment.name);
        match self.sizes.get(&name) {
            Some(bytes) if *bytes == segment.bytes => Ok(()),
            Some(bytes) => Err(Error::corrupt(format!(
                "{name} has {bytes} bytes, and was made with {}",
                segment.bytes
            ))),
            None => Err(Error::corrupt(format!("{name} is missing"))),
        }
    }

    /// The rows of the meta group.
    pub fn meta_rows(&self) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        self.meta().segments.iter().try_for_each(|segment| self.is_there(segment))?;
        let mut rows = Vec::new();
        let chunks = self.meta().in_order(true).map(|(owner, at)| (self.meta(), owner, at));
        self.each(chunks, |_, chunk| {
            rows.extend(chunk.iter().map(|(key, value)| (key.to_vec(), value.to_vec())));
            Ok(())
        })?;
        Ok(rows)
    }

    /// Hands on the rows of every wanted partition, chunk by chunk in the order of keys.
    pub fn rows(
        &self,
        wanted: impl Fn(PartitionId) -> bool,
        take: impl FnMut(&Located, &Rows) -> Result<()>,
    ) -> Result<()> {
        self.each(self.chunks(wanted), take)
    }

    fn each<'b>(
        &self,
        chunks: impl Iterator<Item = (&'b Index, Owner, &'b Located)>,
        mut take: impl FnMut(&Located, &Rows) -> Result<()>,
    ) -> Result<()> {
        let folder = self.kept.folder;
        let open = |(index, owner, at): (&'b Index, Owner, &'b Located)| {
            open(self.repository, folder, index, owner, at).map(|opened| (owner, at, opened))
        };
        let mut before: Option<(Owner, Vec<u8>)> = None;
        parallel::in_order(chunks, open, |opened| {
            let (owner, at, Opened { rows, last }) = opened?;
            if before.as_ref().is_some_and(|(of, end)| *of == owner && *end >= at.first) {
                return Err(behind(owner, at));
            }
            take(at, &rows)?;
            before = Some((owner, last));
            Ok(())
        })
    }

    fn groups(&self) -> impl Iterator<Item = (&Group, &Index)> {
        self.kept.snapshot.held.iter().zip(&self.indexes)
    }

    fn meta(&self) -> &Index {
        self.indexes.last().expect("the meta group is held last")
    }
}

/// A chunk whose rows are where they belong.
pub struct Opened {
    pub rows: Rows,
    /// Its last key.
    pub last: Vec<u8>,
}

/// Reads a chunk and checks all that can be told of it alone.
pub fn open(
    repository: &Repository,
    folder: Folder,
    index: &Index,
    owner: Owner,
    at: &Located,
) -> Result<Opened> {
    let rows = at.entry().open(&repository.chunk(folder, index, at)?, None)?;
    let (first, last) = rows.ends();
    if !owner.owns(first, last) {
        let what = format!("chunk {} holds rows of others than {owner}", at.hash);
        return Err(Error::corrupt(what));
    }
    if first != at.first {
        let what = format!("chunk {} does not begin where the index says", at.hash);
        return Err(Error::corrupt(what));
    }
    let last = last.to_vec();
    Ok(Opened { rows, last })
}

/// What is said of a chunk whose rows do not follow those of its neighbour.
pub fn behind(owner: Owner, at: &Located) -> Error {
    Error::corrupt(format!("{owner}: chunk {} does not lie behind the one before", at.hash))
}
