//! Looks at what snapshots in a repository name, and names everything that is wrong. Changes
//! nothing.
//!
//! Quick: the catalogues, each snapshot, its indexes, and that every segment is there with its
//! size. Whole: every chunk is read and opened as well, and held against its index, its partition,
//! and the order of rows within and across chunks. A share does that with the chunks whose turn it
//! is (`depth`). Problems are collected, not thrown, up to a bound; further ones are counted.
//!
//! What snapshots share is read once: the index of a group that has not changed since the snapshot
//! before, and a chunk wherever it is named. What is wrong with it is said of every snapshot that
//! has it. For that, memory holds 16 bytes for each chunk that was read, and for one snapshot of
//! each history the last keys of its chunks.
//!
//! Somebody may look on (`Watch`): they set the pace, end it, and say which errors are no findings
//! about the repository, so that a store which does not answer is never told as damage.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt,
};

use serde::{Deserialize, Serialize};

pub use super::depth::{Depth, Extent, Percent};
use super::{
    catalogue, contents,
    index::{Index, Located, Place},
    manifest::{self, Group},
    root::{Folder, Kept, Repository},
};
use crate::{
    base::{
        error::{Error, Result},
        ids::{GroupId, SnapshotId, SnapshotSeq},
        limits,
    },
    part::{
        chunk::{ChunkHash, Digest},
        manifest::{Owner, PartitionPart},
        parallel,
    },
};

/// Who looks on.
pub trait Watch: Sync {
    /// Before so many stored bytes are read. May wait; an error ends the verification.
    fn before(&self, bytes: u64) -> Result<()>;
    /// Whether an error is something to be told of the repository; otherwise it ends the
    /// verification. Those of `before` are none.
    fn is_finding(&self, e: &Error) -> bool;
}

/// Nobody looks on: all that is met is told.
struct Unwatched;

impl Watch for Unwatched {
    fn before(&self, _: u64) -> Result<()> {
        Ok(())
    }

    fn is_finding(&self, _: &Error) -> bool {
        true
    }
}

/// What a verification found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Nothing is wrong with what was looked at.
    pub sound: bool,
    #[serde(flatten)]
    pub depth: Depth,
    pub histories: Vec<Covered>,
    pub snapshots: Vec<Looked>,
    pub read: Read,
    pub problems: Vec<Problem>,
    /// How many more there are.
    pub more: u64,
}

/// A history of which snapshots were looked at, up to which.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Covered {
    pub cluster: String,
    pub lineage: String,
    /// How many, also those that cannot be read.
    pub snapshots: u64,
    pub newest_seq: u64,
}

/// What was read, each once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Read {
    pub indexes: u64,
    pub chunks: u64,
    /// Of the chunks, as they are stored.
    pub stored_bytes: u64,
}

/// A snapshot that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Looked {
    pub snapshot: String,
    pub seq: u64,
    pub sound: bool,
    pub rows: u64,
    pub chunks: usize,
    pub stored_bytes: u64,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The snapshot, or the name of what is wrong if that is none.
    pub snapshot: String,
    pub what: String,
}

impl Report {
    fn problem(&mut self, snapshot: &str, what: String) {
        if self.problems.len() < limits::PROBLEMS_MAX {
            self.problems.push(Problem { snapshot: snapshot.to_owned(), what });
        } else {
            self.more += 1;
        }
    }

    fn count(&self) -> u64 {
        self.problems.len() as u64 + self.more
    }

    fn covers(&mut self, folder: Folder, seq: SnapshotSeq) {
        let (cluster, lineage) = (folder.cluster.to_string(), folder.lineage.to_string());
        let is = |one: &&mut Covered| one.cluster == cluster && one.lineage == lineage;
        match self.histories.iter_mut().find(is) {
            Some(known) => {
                known.snapshots += 1;
                known.newest_seq = known.newest_seq.max(seq.0);
            }
            None => {
                let (snapshots, newest_seq) = (1, seq.0);
                self.histories.push(Covered { cluster, lineage, snapshots, newest_seq });
            }
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for looked in &self.snapshots {
            let Looked { snapshot, seq, sound, rows, chunks, stored_bytes } = looked;
            let verdict = match (sound, self.depth) {
                (true, Depth::Whole) => "sound",
                (true, Depth::Share { .. }) => "sound as far as it was read",
                (true, Depth::Quick) => "all objects are there",
                (false, _) => "DAMAGED",
            };
            writeln!(
                f,
                "{snapshot}  number {seq}: {rows} rows in {chunks} chunks, {stored_bytes} bytes \
                 stored: {verdict}"
            )?;
        }
        if let Depth::Share { .. } = self.depth {
            let Read { chunks, stored_bytes, .. } = self.read;
            writeln!(f, "read {}: {chunks}, {stored_bytes} bytes stored", self.depth)?;
        }
        for Problem { snapshot, what } in &self.problems {
            writeln!(f, "{snapshot}: {what}")?;
        }
        if self.more > 0 {
            writeln!(f, "and {} more problems", self.more)?;
        }
        Ok(())
    }
}

/// Looks at some snapshots, or at all.
pub fn verify(repository: &Repository, wanted: &[SnapshotId], depth: Depth) -> Result<Report> {
    watched(repository, wanted, depth, &Unwatched)
}

/// The same while somebody looks on.
pub fn watched(
    repository: &Repository,
    wanted: &[SnapshotId],
    depth: Depth,
    watch: &dyn Watch,
) -> Result<Report> {
    let mut report = Report { depth, ..Report::default() };
    let sizes = Sizes { repository, known: BTreeMap::new() };
    let mut seen = Seen { sizes, groups: BTreeMap::new(), chunks: Chunks::default(), watch };
    if wanted.is_empty() {
        for standing in repository.standings()? {
            for damaged in &standing.damaged {
                report.problem(&standing.folder.name(), damaged.clone());
            }
            for entry in &standing.catalogue.snapshots {
                report.covers(standing.folder, entry.seq);
                match repository.kept(standing.folder, entry) {
                    Ok(kept) => seen.look(&kept, &mut report)?,
                    Err(e) => report.problem(&entry.snapshot.to_string(), seen.finding(e)?),
                }
            }
        }
        catalogues(repository, watch, &mut report)?;
    }
    for id in wanted {
        match repository.find(*id) {
            Ok(kept) => {
                report.covers(kept.folder, kept.snapshot.seq);
                seen.look(&kept, &mut report)?;
            }
            Err(e) => report.problem(&id.to_string(), seen.finding(e)?),
        }
    }
    report.sound = report.count() == 0;
    Ok(report)
}

/// Whether catalogues are links of one chain, and list what stands there.
fn catalogues(repository: &Repository, watch: &dyn Watch, report: &mut Report) -> Result<()> {
    // What is stored while this looks is listed in the catalogues that are read afterwards.
    let objects = repository.store.list("")?;
    let all = repository.catalogues()?;
    for (folder, numbers) in &all {
        let (first, last) = (numbers.first().copied(), numbers.last().copied());
        let (first, last) = (first.unwrap_or(1), last.unwrap_or(1));
        // Old ones are deleted, and the newest stay.
        let first = if last - first + 1 < limits::CATALOGUES_KEPT { 1 } else { first };
        let mut before: Option<Digest> = None;
        for number in first..=last {
            match repository.catalogue(*folder, number) {
                Ok(Some((catalogue, digest))) => {
                    if before.is_some() && catalogue.before != before {
                        let what = "it does not follow from the one before";
                        report.problem(&catalogue::name(*folder, number), what.into());
                    }
                    before = Some(digest);
                }
                Ok(None) => {
                    report.problem(&catalogue::name(*folder, number), "it is missing".into());
                    before = None;
                }
                Err(e) if !watch.is_finding(&e) => return Err(e),
                // The newest was named already, if it is that.
                Err(_) if number == last => {}
                Err(e) => {
                    report.problem(&catalogue::name(*folder, number), e.message);
                    before = None;
                }
            }
        }
    }
    let standings = repository.standings()?;
    for object in objects {
        let Some((folder, relative)) = Folder::split(&object.name) else { continue };
        if !relative.starts_with("s/") {
            continue;
        }
        let standing = standings.iter().find(|standing| standing.folder == folder);
        let is_known = standing.is_some_and(|standing| standing.catalogue.knows(relative));
        if !is_known {
            report.problem(
                &object.name,
                "no catalogue lists it: its storing was interrupted, or a catalogue is missing; \
                 ddbctl repository repair lists it"
                    .into(),
            );
        }
    }
    Ok(())
}

/// Sizes of objects, asked for once each.
struct Sizes<'a> {
    repository: &'a Repository,
    known: BTreeMap<String, BTreeMap<String, u64>>,
}

impl Sizes<'_> {
    fn of(&mut self, folder: &str, name: &str) -> Result<Option<u64>> {
        if !self.known.contains_key(folder) {
            let all = self.repository.store.list(folder)?;
            let all = all.into_iter().map(|object| (object.name, object.bytes)).collect();
            self.known.insert(folder.to_owned(), all);
        }
        Ok(self.known.get(folder).and_then(|known| known.get(name)).copied())
    }

    /// What is wrong with where the segments of an index lie: each has to be there, as large as it
    /// was made.
    fn fits(&mut self, folder: Folder, index: &Index, watch: &dyn Watch) -> Result<Vec<String>> {
        let mut faults = Vec::new();
        for segment in &index.segments {
            let name = folder.object(&segment.name);
            let fault = match self.of(&folder.name(), &name) {
                Err(e) if !watch.is_finding(&e) => return Err(e),
                Err(e) => format!("{name}: {}", e.message),
                Ok(None) => format!("{name} is missing"),
                Ok(Some(bytes)) if bytes != segment.bytes => {
                    let was = segment.bytes;
                    format!("{name} has {bytes} bytes, and was made with {was}")
                }
                Ok(Some(_)) => continue,
            };
            push(&mut faults, fault);
        }
        Ok(faults)
    }
}

/// What was looked at so far, so that it is not read again.
struct Seen<'a> {
    sizes: Sizes<'a>,
    /// Of each history's groups, as the last snapshot that was looked at has them.
    groups: BTreeMap<(Folder, GroupId), Known>,
    chunks: Chunks,
    watch: &'a dyn Watch,
}

/// What is known of a group's rows.
struct Known {
    place: Place,
    /// Without their chunks.
    partitions: Vec<PartitionPart>,
    chunks: usize,
    /// What is wrong with them.
    faults: Vec<String>,
    /// Last keys of those chunks that were opened.
    lasts: Lasts,
}

type Lasts = HashMap<ChunkHash, Vec<u8>>;

/// Chunks that were opened, by where they lie.
#[derive(Default)]
struct Chunks {
    opened: HashSet<u128>,
    /// Those of them that are damaged, and how.
    damaged: HashMap<u128, String>,
}

/// A chunk by where it lies, and by all that an index says of it: one that says something else has
/// it opened again.
fn place_of(folder: Folder, index: &Index, at: &Located) -> u128 {
    let Located { hash, rows, bytes, stored_bytes, stored_digest, offset, .. } = at;
    let mut hasher = blake3::Hasher::new();
    for number in [rows, bytes, stored_bytes, offset] {
        hasher.update(&number.to_be_bytes());
    }
    hasher.update(&hash.0);
    hasher.update(&stored_digest.0);
    hasher.update(folder.object(&index.segments[at.segment].name).as_bytes());
    hasher.update(&[0]);
    hasher.update(&at.first);
    let hash = hasher.finalize();
    let (head, _) = hash.as_bytes().split_first_chunk().expect("a hash has 32 bytes");
    u128::from_be_bytes(*head)
}

impl Seen<'_> {
    /// What an error says of the repository, or the error that ends the verification.
    fn finding(&self, e: Error) -> Result<String> {
        if self.watch.is_finding(&e) { Ok(e.message) } else { Err(e) }
    }

    fn look(&mut self, kept: &Kept, report: &mut Report) -> Result<()> {
        let (snapshot, before) = (&kept.snapshot, report.count());
        let id = snapshot.snapshot.to_string();
        let (mut roots, mut chunks, mut all) = (Vec::new(), 0, true);
        // Groups share segments: one that is missing is named once.
        let mut told = BTreeSet::new();
        for held in &snapshot.held {
            let key = (kept.folder, held.group);
            if self.groups.get(&key).is_none_or(|known| known.place != held.index) {
                match self.read(kept, held, report) {
                    Ok(known) => drop(self.groups.insert(key, known)),
                    Err(e) => {
                        all = false;
                        let what = self.finding(e)?;
                        report.problem(&id, format!("{}: {what}", named(held.group)));
                        continue;
                    }
                }
            }
            let known = &self.groups[&key];
            chunks += known.chunks;
            roots.push(manifest::group_root(held, &known.partitions));
            for fault in known.faults.iter().filter(|fault| told.insert((*fault).clone())) {
                report.problem(&id, fault.clone());
            }
        }
        if all && manifest::root(roots.into_iter()) != snapshot.root {
            report.problem(&id, "its root is not that of its groups".into());
        }
        let sound = report.count() == before;
        report.snapshots.push(Looked {
            snapshot: id,
            seq: snapshot.seq.0,
            sound,
            rows: snapshot.rows,
            chunks,
            stored_bytes: snapshot.stored_bytes,
        });
        Ok(())
    }

    /// Reads the index of a group, and of its chunks those that are to be opened.
    fn read(&mut self, kept: &Kept, held: &Group, report: &mut Report) -> Result<Known> {
        self.watch.before(held.index.bytes)?;
        let index = self.sizes.repository.index(kept.folder, &held.index)?;
        report.read.indexes += 1;
        let mut faults = self.sizes.fits(kept.folder, &index, self.watch)?;
        let lasts = match report.depth {
            Depth::Quick => Lasts::new(),
            _ => self.open(kept.folder, held.group, &index, &mut faults, report)?,
        };
        let chunks = index.chunks.len();
        let mut partitions = index.partitions;
        partitions.iter_mut().for_each(|partition| partition.chunks = Vec::new());
        Ok(Known { place: held.index.clone(), partitions, chunks, faults, lasts })
    }

    /// Opens the chunks of a group whose turn it is and that were not opened before. The last keys
    /// of all that were ever opened.
    fn open(
        &mut self,
        folder: Folder,
        group: GroupId,
        index: &Index,
        faults: &mut Vec<String>,
        report: &mut Report,
    ) -> Result<Lasts> {
        let (repository, depth, read) = (self.sizes.repository, report.depth, &mut report.read);
        let watch = self.watch;
        let Chunks { opened, damaged } = &mut self.chunks;
        let known = self.groups.get(&(folder, group)).map(|known| &known.lasts);
        let wanted = index.in_order(group.is_meta()).map(|(owner, at)| {
            let place = place_of(folder, index, at);
            (owner, at, place, depth.opens(at.hash) && opened.insert(place))
        });
        let look = |(owner, at, place, is_wanted): (Owner, &Located, u128, bool)| {
            let open = || {
                watch.before(at.stored_bytes)?;
                contents::open(repository, folder, index, owner, at)
            };
            (owner, at.clone(), place, is_wanted.then(|| open().map(|opened| opened.last)))
        };
        let (mut lasts, mut before): (Lasts, Option<(Owner, Vec<u8>)>) = (Lasts::new(), None);
        parallel::in_order(wanted, look, |(owner, at, place, looked)| {
            let last = match looked {
                Some(Err(e)) if !watch.is_finding(&e) => return Err(e),
                Some(Ok(last)) => {
                    read.chunks += 1;
                    read.stored_bytes += at.stored_bytes;
                    Some(last)
                }
                Some(Err(e)) => {
                    read.chunks += 1;
                    damaged.insert(place, format!("{owner}: {}", e.message));
                    None
                }
                None => known.and_then(|known| known.get(&at.hash)).cloned(),
            };
            if let Some(fault) = damaged.get(&place) {
                push(faults, fault.clone());
            }
            if before.as_ref().is_some_and(|(of, end)| *of == owner && *end >= at.first) {
                push(faults, contents::behind(owner, &at).message);
            }
            before = last.clone().map(|last| (owner, last));
            lasts.extend(last.map(|last| (at.hash, last)));
            Ok(())
        })?;
        Ok(lasts)
    }
}

/// One more than are named is enough to know that there are more.
fn push(faults: &mut Vec<String>, fault: String) {
    if faults.len() <= limits::PROBLEMS_MAX {
        faults.push(fault);
    }
}

fn named(group: GroupId) -> String {
    if group.is_meta() { "the meta group".into() } else { format!("group {group}") }
}
