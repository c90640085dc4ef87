//! A snapshot of parts that lie here, into a repository.
//!
//! The parts are verified first, down to the last byte, and refused together if anything is wrong
//! with one of them or they do not hold every partition. Then each group is taken from the first
//! part that has it. What the snapshot before in the same history holds already is pointed at; the
//! rest goes into segments.
//!
//! Import it again, whole or after an interruption, and the same snapshot stands there once: what
//! was written in vain is under names of its own that nothing refers to. If another import was
//! faster, this one deletes what it has written.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, HashMap},
    path::Path,
};

use serde::Serialize;

use super::{
    index::{Index, Located, Place, Segment},
    manifest::{FORMAT, Group, PartOf, Root, Snapshot},
    root::{Folder, Repository},
    store::{Made, Store},
};
use crate::{
    base::{
        clock::Random,
        error::{Error, Kind, Result},
        ids::{GroupId, PartitionId, SnapshotSeq},
        limits,
    },
    part::{
        chunk::{ChunkHash, Digest},
        manifest::{ChunkEntry, Manifest, PartitionPart, rfc3339},
        parallel, set,
        source::Source,
    },
};

/// What an import came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Imported {
    pub snapshot: String,
    pub seq: u64,
    pub cluster: String,
    pub lineage: String,
    /// It was there before, with the same rows.
    pub was_there: bool,
    pub parts: usize,
    pub rows: u64,
    /// Bytes of all chunks of the snapshot.
    pub stored_bytes: u64,
    /// Bytes of those that had to be stored.
    pub new_bytes: u64,
    /// Bytes of the chunks of all parts that were given.
    pub given_bytes: u64,
    pub root: Digest,
    /// What of the snapshot before cannot be read, so that its rows were stored again.
    pub lost: Vec<String>,
}

impl Imported {
    fn of(snapshot: &Snapshot, parts: &[Source], was_there: bool, lost: Vec<String>) -> Imported {
        Imported {
            snapshot: snapshot.snapshot.to_string(),
            seq: snapshot.seq.0,
            cluster: snapshot.cluster.to_string(),
            lineage: snapshot.lineage.to_string(),
            was_there,
            parts: parts.len(),
            rows: snapshot.rows,
            stored_bytes: snapshot.stored_bytes,
            new_bytes: if was_there { 0 } else { snapshot.new_bytes },
            given_bytes: parts.iter().map(|part| part.manifest().stored_bytes()).sum(),
            root: snapshot.root,
            lost,
        }
    }
}

/// Imports the parts of one snapshot.
pub fn import<P: AsRef<Path>>(repository: &Repository, paths: &[P]) -> Result<Imported> {
    refuse_at_sight(paths)?;
    let report = set::verify_set(paths, None);
    if !report.is_whole() {
        return Err(Error::corrupt(format!(
            "something is wrong with the parts, and nothing was imported:\n{}",
            report.wrong()
        )));
    }
    if !report.complete {
        return Err(Error::conflict(format!(
            "the parts hold {} of {} partitions{}: give parts of more nodes",
            report.partitions_covered,
            report.partitions,
            if report.meta_copies == 0 { " and no meta group" } else { "" }
        )));
    }
    let parts = paths.iter().map(|path| Source::open(path.as_ref()));
    let mut parts = parts.collect::<Result<Vec<Source>>>()?;
    parts.sort_by_key(|part| part.manifest().node);
    let any = parts.first().expect("no parts hold no partition").manifest();
    let folder = Folder { cluster: any.cluster, lineage: any.lineage };
    let import = Import {
        repository,
        folder,
        seq: any.seq,
        base: None,
        lost: RefCell::default(),
        parts: &parts,
    };
    let import = Import { base: import.base()?, ..import };
    import.run()
}

/// Refuses what the manifests alone tell, before anything is verified. Chunks of a sealed part have
/// names of one node's seal, so no two replicas would be equal.
fn refuse_at_sight<P: AsRef<Path>>(paths: &[P]) -> Result<()> {
    let mut snapshots = BTreeSet::new();
    for path in paths.iter().map(AsRef::as_ref) {
        // What cannot be read is named with everything else that is wrong.
        let Ok(source) = Source::open(path) else { continue };
        snapshots.insert(source.manifest().snapshot.to_string());
        if let Some(seal) = &source.manifest().seal {
            return Err(Error::conflict(format!(
                "{} is sealed to {}: unseal it first (ddbctl snapshot unseal)",
                path.display(),
                seal.named()
            )));
        }
    }
    match snapshots.len() {
        0 | 1 => Ok(()),
        several => Err(Error::invalid(format!(
            "the parts are of {several} snapshots, {}: import those of one snapshot at a time",
            snapshots.into_iter().collect::<Vec<_>>().join(" and ")
        ))),
    }
}

struct Import<'a> {
    repository: &'a Repository,
    folder: Folder,
    seq: SnapshotSeq,
    base: Option<Snapshot>,
    lost: RefCell<Vec<String>>,
    parts: &'a [Source],
}

/// A group as a part has it.
struct Taken<'a> {
    group: GroupId,
    from: &'a Source,
    partitions: Vec<PartitionPart>,
    /// What the snapshot before has of it.
    base: Option<(Place, Index)>,
}

/// A chunk that has to be stored.
struct Fresh<'a> {
    taken: usize,
    from: &'a Source,
    entry: ChunkEntry,
}

/// Where a chunk was stored.
struct Stored {
    segment: String,
    offset: u64,
    first: Vec<u8>,
}

impl Import<'_> {
    /// The newest snapshot before that number. Damage to it must not keep the next one from being
    /// stored, whole then.
    fn base(&self) -> Result<Option<Snapshot>> {
        let names = self.repository.names()?;
        let mut before =
            names.iter().filter(|(of, number)| *of == self.folder && *number < self.seq);
        match before.next_back() {
            Some((_, number)) => {
                Ok(self.or_lost(self.repository.snapshot(self.folder, *number))?.flatten())
            }
            None => Ok(None),
        }
    }

    /// What can be read of the snapshot before. Nothing that is damaged, missing or of a newer
    /// format is leant on.
    fn or_lost<T>(&self, read: Result<T>) -> Result<Option<T>> {
        match read {
            Ok(read) => Ok(Some(read)),
            Err(e) if matches!(e.kind, Kind::Corrupt | Kind::NotFound | Kind::Conflict) => {
                self.lost.borrow_mut().push(e.message);
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    fn run(self) -> Result<Imported> {
        if let Some(there) = self.repository.snapshot(self.folder, self.seq)? {
            return self.compared(&there);
        }
        let taken = self.taken()?;
        let fresh = taken.iter().enumerate().flat_map(|(at, taken)| taken.fresh(at));
        let mut segments = Segments::new(&*self.repository.store, self.folder, self.seq);
        let stored = store(fresh.collect(), &mut segments)?;
        let new_bytes = segments.bytes.values().sum();
        let snapshot = self.snapshot(&taken, &stored, &mut segments, new_bytes)?;
        let name = self.folder.snapshot(self.seq);
        match self.repository.store.create(&name, &snapshot.encode()?)? {
            Made::Now => Ok(Imported::of(&snapshot, self.parts, false, self.lost.take())),
            Made::Before => {
                // Nothing refers to what was written here.
                segments.made.iter().try_for_each(|name| self.repository.store.delete(name))?;
                let there = self.repository.snapshot(self.folder, self.seq)?;
                self.compared(&there.ok_or_else(|| Error::not_found(format!("{name} has gone")))?)
            }
        }
    }

    /// That snapshot is there already: it must be this one.
    fn compared(&self, there: &Snapshot) -> Result<Imported> {
        let any = self.parts[0].manifest();
        let mut root = Root::default();
        for taken in self.taken()? {
            let index = Index { partitions: taken.partitions.clone(), ..Index::default() };
            root.add(&taken.held(Place::nowhere()), &index);
        }
        if there.snapshot != any.snapshot || there.root != root.digest() {
            return Err(Error::conflict(format!(
                "number {} of this history is snapshot {} with the root {} in the repository, and \
                 {} with the root {} here: two clusters have written one history",
                self.seq,
                there.snapshot,
                there.root,
                any.snapshot,
                root.digest()
            )));
        }
        Ok(Imported::of(there, self.parts, true, Vec::new()))
    }

    /// Every group, each from the first part that has it; the meta group last.
    fn taken(&self) -> Result<Vec<Taken<'_>>> {
        let any = self.parts[0].manifest();
        let mut all = Vec::new();
        for group in any.topology.group_ids().chain([GroupId::META]) {
            let has = |part: &&Source| match group.is_meta() {
                true => part.manifest().meta.is_some(),
                false => part.manifest().group(group).is_some(),
            };
            let from = self.parts.iter().find(has).expect("the parts hold every group");
            let partitions = match &from.manifest().meta {
                Some(meta) if group.is_meta() => vec![PartitionPart {
                    id: PartitionId(0),
                    data_index: 0,
                    rows: meta.rows,
                    bytes: meta.bytes,
                    digest: meta.digest,
                    chunks: meta.chunks.clone(),
                }],
                _ => from.manifest().group(group).map(|g| g.partitions.clone()).unwrap_or_default(),
            };
            let base = self.base_of(group)?;
            all.push(Taken { group, from, partitions, base });
        }
        Ok(all)
    }

    fn base_of(&self, group: GroupId) -> Result<Option<(Place, Index)>> {
        let Some(held) = self.base.as_ref().and_then(|base| base.group(group)) else {
            return Ok(None);
        };
        let index = self.or_lost(self.repository.index(self.folder, &held.index))?;
        Ok(index.map(|index| (held.index.clone(), index)))
    }

    /// Writes the indexes that are new, and says what the snapshot is.
    fn snapshot(
        &self,
        taken: &[Taken<'_>],
        stored: &HashMap<(usize, ChunkHash), Stored>,
        segments: &mut Segments<'_>,
        new_bytes: u64,
    ) -> Result<Snapshot> {
        let object = segments.named("i", None);
        let (mut frames, mut held, mut root) = (Vec::new(), Vec::new(), Root::default());
        let (mut rows, mut bytes, mut stored_bytes) = (0, 0, 0);
        for (at, one) in taken.iter().enumerate() {
            let (place, index) = match &one.base {
                Some((place, base)) if base.partitions == one.partitions => {
                    (place.clone(), base.clone())
                }
                _ => {
                    let index = one.index(at, stored, &segments.bytes);
                    let (frame, digest) = index.encode()?;
                    let offset = frames.len() as u64;
                    frames.extend_from_slice(&frame);
                    let (object, bytes) = (object.clone(), frame.len() as u64);
                    (Place { object, offset, bytes, digest }, index)
                }
            };
            rows += index.rows();
            bytes += index.bytes();
            stored_bytes += index.stored_bytes();
            let group = one.held(place);
            root.add(&group, &index);
            held.push(group);
        }
        if !frames.is_empty() {
            segments.put(&object, &frames)?;
        }
        let any = self.parts[0].manifest();
        let written_ms =
            self.parts.iter().map(|part| part.manifest().written_ms).max().unwrap_or_default();
        Ok(Snapshot {
            format: FORMAT,
            product: env!("CARGO_PKG_VERSION").into(),
            repository: self.repository.id,
            cluster: any.cluster,
            lineage: any.lineage,
            snapshot: any.snapshot,
            seq: any.seq,
            written: rfc3339(written_ms),
            written_ms,
            partitions: any.topology.partitions(),
            groups: any.topology.groups(),
            rows,
            bytes,
            stored_bytes,
            new_bytes,
            root: root.digest(),
            parts: self.parts.iter().map(|part| part_of(part.manifest())).collect(),
            held,
        })
    }
}

fn part_of(manifest: &Manifest) -> PartOf {
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

impl<'a> Taken<'a> {
    /// The chunks that the snapshot before does not have.
    fn fresh(&self, at: usize) -> Vec<Fresh<'a>> {
        let base = self.base.as_ref().map(|(_, index)| index);
        let mut fresh = Vec::new();
        for partition in &self.partitions {
            for hash in &partition.chunks {
                if base.is_none_or(|base| base.chunk(*hash).is_none()) {
                    let entry = *self.from.manifest().entry(*hash).expect("it was parsed");
                    fresh.push(Fresh { taken: at, from: self.from, entry });
                }
            }
        }
        fresh
    }

    fn held(&self, index: Place) -> Group {
        let (group, manifest) = (self.group, self.from.manifest());
        match (manifest.group(group), &manifest.meta) {
            (Some(part), _) => Group {
                group,
                mark_index: part.mark_index,
                mark_term: part.mark_term,
                dots: part.dots,
                voters: part.voters.clone(),
                learners: part.learners.clone(),
                index,
            },
            (None, Some(meta)) => Group {
                group,
                mark_index: meta.mark_index,
                mark_term: meta.mark_term,
                dots: 0,
                voters: meta.voters.clone(),
                learners: meta.learners.clone(),
                index,
            },
            (None, None) => unreachable!("a group is taken from a part that has it"),
        }
    }

    fn index(
        &self,
        at: usize,
        stored: &HashMap<(usize, ChunkHash), Stored>,
        bytes: &BTreeMap<String, u64>,
    ) -> Index {
        let mut index = Index { partitions: self.partitions.clone(), ..Index::default() };
        let mut numbers: BTreeMap<String, usize> = BTreeMap::new();
        for hash in self.partitions.iter().flat_map(|partition| &partition.chunks) {
            let (located, segment) = match stored.get(&(at, *hash)) {
                Some(Stored { segment, offset, first }) => {
                    let entry = self.from.manifest().entry(*hash).expect("it was parsed");
                    let ChunkEntry { hash, rows, bytes: plain, stored_bytes, stored_digest } =
                        *entry;
                    let located = Located {
                        hash,
                        rows,
                        bytes: plain,
                        stored_bytes,
                        stored_digest,
                        segment: 0,
                        offset: *offset,
                        first: first.clone(),
                    };
                    (located, Segment { name: segment.clone(), bytes: bytes[segment] })
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

/// Reads, checks and stores chunks; many are read at a time, and they are stored in order.
fn store(
    fresh: Vec<Fresh<'_>>,
    segments: &mut Segments<'_>,
) -> Result<HashMap<(usize, ChunkHash), Stored>> {
    let mut stored = HashMap::with_capacity(fresh.len());
    parallel::in_order(fresh.into_iter(), read, |read: Result<_>| {
        let (first, frame, fresh) = read?;
        let hash = fresh.entry.hash;
        let (segment, offset) = segments.push(&frame)?;
        stored.insert((fresh.taken, hash), Stored { segment, offset, first });
        Ok(())
    })?;
    segments.flush()?;
    Ok(stored)
}

/// The first key of a chunk, and its frame.
fn read(fresh: Fresh<'_>) -> Result<(Vec<u8>, Vec<u8>, Fresh<'_>)> {
    let frame = fresh.from.stored(&fresh.entry)?;
    let rows = fresh.entry.open(&frame, None)?;
    let (first, _) = rows.iter().next().expect("a chunk has rows");
    Ok((first.to_vec(), frame, fresh))
}

/// Makes segments, and remembers what it has made.
struct Segments<'a> {
    store: &'a dyn Store,
    folder: Folder,
    /// Begins all names of this import.
    begins: String,
    buffer: Vec<u8>,
    /// Bytes of each segment, by name; the last one has not been made yet.
    bytes: BTreeMap<String, u64>,
    made: Vec<String>,
}

impl<'a> Segments<'a> {
    fn new(store: &'a dyn Store, folder: Folder, seq: SnapshotSeq) -> Segments<'a> {
        let nonce = Random::from_entropy().next_u64();
        let begins = format!("{:016x}-{nonce:016x}", seq.0);
        let (buffer, bytes, made) = (Vec::new(), BTreeMap::new(), Vec::new());
        Segments { store, folder, begins, buffer, bytes, made }
    }

    fn named(&self, kind: &str, number: Option<usize>) -> String {
        let number = number.map_or(String::new(), |number| format!("-{number:06}"));
        format!("{kind}/{}{number}", self.begins)
    }

    /// Where the frame will lie.
    fn push(&mut self, frame: &[u8]) -> Result<(String, u64)> {
        let full = self.buffer.len() + frame.len() > limits::REPOSITORY_SEGMENT_BYTES;
        if full {
            self.flush()?;
        }
        let number = self.bytes.len() - usize::from(!self.buffer.is_empty());
        let (name, offset) = (self.named("g", Some(number)), self.buffer.len() as u64);
        self.buffer.extend_from_slice(frame);
        self.bytes.insert(name.clone(), self.buffer.len() as u64);
        Ok((name, offset))
    }

    fn flush(&mut self) -> Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let name = self.named("g", Some(self.bytes.len() - 1));
        let buffer = std::mem::take(&mut self.buffer);
        self.put(&name, &buffer)
    }

    fn put(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let name = self.folder.object(name);
        match self.store.create(&name, bytes)? {
            Made::Now => {
                self.made.push(name);
                Ok(())
            }
            Made::Before => {
                Err(Error::conflict(format!("{name} is there, and nobody else has this name")))
            }
        }
    }
}

impl Place {
    /// For whoever needs a group and not its index.
    fn nowhere() -> Place {
        Place { object: String::new(), offset: 0, bytes: 0, digest: Digest([0; 32]) }
    }
}
