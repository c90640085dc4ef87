//! Groups of parts, into a repository: what is new in segments, then their indexes in one object.
//!
//! What the snapshot before has is pointed at. Which of the other chunks lie in which segment
//! follows from the parts, the groups and the snapshot before, and every object is named by what is
//! in it. So whoever sends the same groups again, after a crash or in the place of another node,
//! comes to the same names, finds what is there, and sends only what is not. Nobody has to remember
//! anything. What nothing will ever point at stays behind only where the snapshot before is another
//! one the second time.
//!
//! Every chunk is opened before it is sent: a chunk that has rotted on a disk ends the sending, and
//! says so. What is there is read and compared before it is leant on: what was damaged since an
//! interruption is named, and nothing is stored over it.

use std::{
    collections::{BTreeMap, HashMap},
    io::Read as _,
};

use bytes::Bytes;

use super::{
    index::{Index, Located, Place, Segment},
    manifest::{Group, Snapshot},
    root::{Folder, Repository},
    store::{Made, found},
};
use crate::{
    base::{
        error::{Context as _, Error, Kind, Result},
        ids::{GroupId, PartitionId, SnapshotSeq},
        limits,
    },
    part::{
        chunk::{ChunkHash, Digest},
        manifest::{ChunkEntry, Manifest, PartitionPart},
        parallel,
        shelf::PartHold,
        source::Source,
    },
};

/// A part whose groups are sent.
pub trait Part: Sync {
    fn manifest(&self) -> &Manifest;
    /// A chunk's stored bytes, unchecked.
    fn stored(&self, entry: &ChunkEntry) -> Result<Vec<u8>>;
}

/// Who looks on.
pub trait Watch: Sync {
    /// Before so many bytes are sent. May wait, so that the disk and the network serve others too;
    /// an error ends the sending.
    fn before(&self, bytes: u64) -> Result<()>;
    /// So many bytes of the groups are in the repository; they were sent, or had been there.
    fn after(&self, bytes: u64);
}

/// Nobody looks on.
pub struct Unwatched;

/// Where to, and what can be pointed at there.
#[derive(Clone, Copy)]
pub struct Destination<'a> {
    pub repository: &'a Repository,
    pub folder: Folder,
    pub seq: SnapshotSeq,
    pub base: Option<&'a Snapshot>,
}

/// What was sent.
#[derive(Debug, Default)]
pub struct Sent {
    /// In the order in which they were named.
    pub groups: Vec<(Group, Index)>,
    /// Bytes of chunks that the snapshot before does not have.
    pub new_bytes: u64,
    /// What of the snapshot before cannot be read, so that its rows were stored again.
    pub lost: Vec<String>,
}

/// A group as a part has it.
struct Taken<'a> {
    group: GroupId,
    from: &'a dyn Part,
    partitions: Vec<PartitionPart>,
    /// What the snapshot before has of it.
    base: Option<(Place, Index)>,
}

/// A segment that is to be there.
struct Planned {
    name: String,
    bytes: u64,
    /// The group it is of, by its place among those that are sent.
    chunks: Vec<(usize, ChunkEntry)>,
}

/// Where a chunk was stored.
struct Stored {
    segment: Segment,
    offset: u64,
    first: Vec<u8>,
}

type Chunks = HashMap<(usize, ChunkHash), Stored>;

impl Part for Source {
    fn manifest(&self) -> &Manifest {
        Source::manifest(self)
    }
    fn stored(&self, entry: &ChunkEntry) -> Result<Vec<u8>> {
        Source::stored(self, entry)
    }
}

impl Part for PartHold {
    fn manifest(&self) -> &Manifest {
        PartHold::manifest(self)
    }
    fn stored(&self, entry: &ChunkEntry) -> Result<Vec<u8>> {
        let (mut file, path) = self.open(entry)?;
        let mut data = Vec::with_capacity(entry.stored_bytes as usize);
        file.read_to_end(&mut data).at(path.display())?;
        Ok(data)
    }
}

impl Watch for Unwatched {
    fn before(&self, _: u64) -> Result<()> {
        Ok(())
    }
    fn after(&self, _: u64) {}
}

/// Sends groups, each from the part that is named with it.
pub fn send(
    to: Destination<'_>,
    wanted: &[(GroupId, &dyn Part)],
    watch: &dyn Watch,
) -> Result<Sent> {
    let mut sent = Sent::default();
    let mut taken = Vec::with_capacity(wanted.len());
    for (group, from) in wanted {
        let partitions = partitions(from.manifest(), *group)?;
        let base = to.base_of(*group, &mut sent.lost)?;
        taken.push(Taken { group: *group, from: *from, partitions, base });
    }
    let planned = plan(to, &taken)?;
    let fresh = planned.iter().flat_map(|segment| &segment.chunks);
    sent.new_bytes = fresh.map(|(_, entry)| entry.stored_bytes).sum();
    let chunks = store(to, &taken, planned, watch)?;
    let mut frames = Vec::new();
    for (at, one) in taken.iter().enumerate() {
        let (place, index) = match &one.base {
            Some((place, base)) if base.partitions == one.partitions => {
                (place.clone(), base.clone())
            }
            _ => {
                let index = one.index(at, &chunks);
                let (frame, digest) = index.encode()?;
                let frame = match to.repository.vault()? {
                    None => frame,
                    Some(vault) => vault.seal_index(&digest, &frame),
                };
                let offset = frames.len() as u64;
                frames.extend_from_slice(&frame);
                // The object's name is known when all frames are.
                let (object, bytes) = (String::new(), frame.len() as u64);
                (Place { object, offset, bytes, digest }, index)
            }
        };
        sent.groups.push((held(one.from.manifest(), one.group, place)?, index));
    }
    if !frames.is_empty() {
        let name = to.name("i", Digest(blake3::hash(&frames).into()))?;
        to.put(&name, frames)?;
        for (group, _) in sent.groups.iter_mut().filter(|(g, _)| g.index.object.is_empty()) {
            group.index.object.clone_from(&name);
        }
    }
    Ok(sent)
}

/// What a part says of a group: its rows as chunks. The meta group's are those of partition 0.
pub fn partitions(manifest: &Manifest, group: GroupId) -> Result<Vec<PartitionPart>> {
    match (&manifest.meta, manifest.group(group)) {
        (Some(meta), _) if group.is_meta() => Ok(vec![PartitionPart {
            id: PartitionId(0),
            data_index: 0,
            rows: meta.rows,
            bytes: meta.bytes,
            digest: meta.digest,
            chunks: meta.chunks.clone(),
        }]),
        (_, Some(part)) => Ok(part.partitions.clone()),
        _ => Err(absent(manifest, group)),
    }
}

/// A group at its mark as a part has it, with its index at a place.
pub fn held(manifest: &Manifest, group: GroupId, index: Place) -> Result<Group> {
    match (manifest.group(group), &manifest.meta) {
        (Some(part), _) => Ok(Group {
            group,
            mark_index: part.mark_index,
            mark_term: part.mark_term,
            dots: part.dots,
            voters: part.voters.clone(),
            learners: part.learners.clone(),
            index,
        }),
        (None, Some(meta)) if group.is_meta() => Ok(Group {
            group,
            mark_index: meta.mark_index,
            mark_term: meta.mark_term,
            dots: 0,
            voters: meta.voters.clone(),
            learners: meta.learners.clone(),
            index,
        }),
        _ => Err(absent(manifest, group)),
    }
}

fn absent(manifest: &Manifest, group: GroupId) -> Error {
    Error::not_found(format!("the part of node {} has no group {group}", manifest.node))
}

/// Nothing that is damaged, missing or of a newer format is leant on.
pub fn or_lost<T>(read: Result<T>, lost: &mut Vec<String>) -> Result<Option<T>> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(e) if matches!(e.kind, Kind::Corrupt | Kind::NotFound | Kind::Conflict) => {
            lost.push(e.message);
            Ok(None)
        }
        Err(e) => Err(e),
    }
}

/// Named by its content, and by the snapshot that it is first of.
pub fn object_name(kind: &str, seq: SnapshotSeq, content: &Digest) -> String {
    let Digest(bytes) = content;
    let short = u128::from_be_bytes(bytes[..16].try_into().expect("16 of 32 bytes"));
    format!("{kind}/{:016x}-{short:032x}", seq.0)
}

fn plan(to: Destination<'_>, taken: &[Taken<'_>]) -> Result<Vec<Planned>> {
    let mut planned: Vec<Planned> = Vec::new();
    for (at, one) in taken.iter().enumerate() {
        for entry in one.fresh() {
            let bytes = entry.stored_bytes + to.repository.overhead();
            let room = |segment: &&mut Planned| {
                segment.bytes + bytes <= limits::REPOSITORY_SEGMENT_BYTES as u64
            };
            match planned.last_mut().filter(room) {
                Some(segment) => {
                    segment.bytes += bytes;
                    segment.chunks.push((at, entry));
                }
                None => {
                    let chunks = vec![(at, entry)];
                    planned.push(Planned { name: String::new(), bytes, chunks });
                }
            }
        }
    }
    for segment in &mut planned {
        let mut content = blake3::Hasher::new();
        for (_, entry) in &segment.chunks {
            content.update(&entry.stored_digest.0);
        }
        segment.name = to.name("g", Digest(content.finalize().into()))?;
    }
    Ok(planned)
}

/// Sees that all segments are there. Several are made at a time, since a store that is far away
/// takes its time for each.
fn store(
    to: Destination<'_>,
    taken: &[Taken<'_>],
    planned: Vec<Planned>,
    watch: &dyn Watch,
) -> Result<Chunks> {
    let mut stored = Chunks::new();
    let make = |planned: Planned| -> Result<(Planned, Vec<Vec<u8>>)> {
        let (mut frames, mut firsts) = (Vec::with_capacity(planned.bytes as usize), Vec::new());
        for (at, entry) in &planned.chunks {
            let frame = taken[*at].from.stored(entry)?;
            let rows = entry.open(&frame, None)?;
            let (first, _) = rows.iter().next().expect("a chunk has rows");
            firsts.push(first.to_vec());
            match to.repository.vault()? {
                None => frames.extend_from_slice(&frame),
                Some(vault) => frames.extend(vault.seal_chunk(entry.hash, &frame)),
            }
        }
        if !to.holds(&planned.name, &frames)? {
            watch.before(planned.bytes)?;
            to.put(&planned.name, frames)?;
        }
        watch.after(planned.bytes);
        Ok((planned, firsts))
    };
    parallel::on_lanes(limits::REPOSITORY_PUTS, planned.into_iter(), make, |made| {
        let (planned, firsts) = made?;
        let segment = Segment { name: planned.name, bytes: planned.bytes };
        let mut offset = 0;
        for ((at, entry), first) in planned.chunks.iter().zip(firsts) {
            let place = Stored { segment: segment.clone(), offset, first };
            stored.insert((*at, entry.hash), place);
            offset += entry.stored_bytes + to.repository.overhead();
        }
        Ok(())
    })?;
    Ok(stored)
}

impl Destination<'_> {
    fn base_of(&self, group: GroupId, lost: &mut Vec<String>) -> Result<Option<(Place, Index)>> {
        let Some(held) = self.base.and_then(|base| base.group(group)) else { return Ok(None) };
        let index = or_lost(self.repository.index(self.folder, &held.index), lost)?;
        Ok(index.map(|index| (held.index.clone(), index)))
    }

    fn name(&self, kind: &str, content: Digest) -> Result<String> {
        Ok(object_name(kind, self.seq, &self.repository.veiled(content)?))
    }

    fn put(&self, name: &str, bytes: Vec<u8>) -> Result<()> {
        put(self.repository, &self.folder.object(name), bytes)
    }

    fn holds(&self, name: &str, bytes: &[u8]) -> Result<bool> {
        holds(self.repository, &self.folder.object(name), bytes)
    }
}

/// Makes a name that has these bytes, unless it is there and has them.
pub fn put(repository: &Repository, name: &str, bytes: Vec<u8>) -> Result<()> {
    repository.is_open_to_additions()?;
    let bytes = Bytes::from(bytes);
    match repository.store.create(name, bytes.clone())? {
        Made::Now => Ok(()),
        Made::Before => match holds(repository, name, &bytes)? {
            true => Ok(()),
            false => Err(Error::unavailable(format!("{name} has just gone"))),
        },
    }
}

/// Whether a name is there; if other bytes lie under it than these, that is an error.
fn holds(repository: &Repository, name: &str, bytes: &[u8]) -> Result<bool> {
    let store = &repository.store;
    let has = match found(store.read(name, bytes.len() as u64)) {
        Ok(None) => return Ok(false),
        Ok(Some(there)) if there == bytes => return Ok(true),
        Ok(Some(there)) => format!("it has {} bytes", there.len()),
        Err(e) if e.kind == Kind::Corrupt => e.message,
        Err(e) => return Err(e),
    };
    Err(Error::corrupt(format!(
        "{name} holds other bytes than those that belong there ({has}; {} are to be stored): an \
         import or an upload that was interrupted has left it, and it was damaged. Delete it from \
         {} and say it again: then it is stored anew",
        bytes.len(),
        store.place()
    )))
}

impl Taken<'_> {
    /// The chunks that the snapshot before does not have.
    fn fresh(&self) -> impl Iterator<Item = ChunkEntry> {
        let base = self.base.as_ref().map(|(_, index)| index);
        let hashes = self.partitions.iter().flat_map(|partition| &partition.chunks);
        hashes
            .filter(move |hash| base.is_none_or(|base| base.chunk(**hash).is_none()))
            .map(|hash| *self.from.manifest().entry(*hash).expect("it was parsed"))
    }

    fn index(&self, at: usize, stored: &Chunks) -> Index {
        let mut index = Index { partitions: self.partitions.clone(), ..Index::default() };
        let mut numbers: BTreeMap<String, usize> = BTreeMap::new();
        for hash in self.partitions.iter().flat_map(|partition| &partition.chunks) {
            let (located, segment) = match stored.get(&(at, *hash)) {
                Some(Stored { segment, offset, first }) => {
                    let entry = self.from.manifest().entry(*hash).expect("it was parsed");
                    let ChunkEntry { hash, rows, bytes, stored_bytes, stored_digest } = *entry;
                    let located = Located {
                        hash,
                        rows,
                        bytes,
                        stored_bytes,
                        stored_digest,
                        segment: 0,
                        offset: *offset,
                        first: first.clone(),
                    };
                    (located, segment.clone())
                }
                None => {
                    let (_, base) = self.base.as_ref().expect("what is not new was there");
                    let located = base.chunk(*hash).expect("what is not new was there").clone();
                    let segment = base.segments[located.segment].clone();
                    (located, segment)
                }
            };
            let next = index.segments.len();
            let number = *numbers.entry(segment.name.clone()).or_insert(next);
            if number == next {
                index.segments.push(segment);
            }
            index.chunks.push(Located { segment: number, ..located });
        }
        index.chunks.sort_by_key(|chunk| chunk.hash);
        index
    }
}
