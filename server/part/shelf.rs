//! One node's parts on disk:
//!
//! ```text
//! <snapshot store>/node-<id>/
//!     chunks/<2 hex>/<hash>            a chunk, as its zstd frame
//!     snapshots/<uuid>/manifest.json   a finished part
//!     aside/<n>                        being written; emptied when the shelf is opened
//!     owner.json                       who uses it, locked meanwhile; see `owner`
//! ```
//!
//! Nodes may use the same directory; they share nothing in it. One process uses a node's corner at
//! a time. A corner may hold parts of several histories, since a cluster that was restored goes on
//! where it was: chunks are shared by all of them, and a part is deleted only by who names its
//! history. A part is there when its manifest is: everything is written aside and renamed, and the
//! manifest comes last, when all that it names is on disk. So half a part never looks like one, and
//! what a crash leaves behind is taken away by the next `open`.
//!
//! A chunk that several parts name is stored once. It is counted by every part, every writer and
//! every reader that relies on it, and removed under the same lock that counts, when the last of
//! them lets go. Thus a delete takes no chunk away from a download or from a part being written.
//! While a manifest cannot be read, nobody knows which chunks it names, so none is removed until
//! that part is deleted.
//!
//! Durability costs one `syncfs` a part (and one every `SHELF_UNSYNCED_BYTES`, so that no single
//! one takes long), not one fsync a chunk: 1000 chunks of 30 kB took 60 ms against 390 ms on a
//! virtual disk whose flush is almost free, and every real flush saved is worth milliseconds. It
//! also covers the directories. The kernel reports write errors through `syncfs` since Linux 5.8.
//!
//! It reads no clock and starts no thread; calls block on the disk. It does not look into chunks: a
//! chunk that was damaged on disk is written anew when the same rows come again, and is otherwise
//! found by `verify` or while its part is downloaded.

mod hold;
mod owner;
pub mod left;
mod writer;

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
};

use rustix::fs::Access;

use self::owner::Lock;
pub use self::{
    hold::PartHold,
    owner::Owner,
    writer::{Finished, PartWriter},
};
use super::{
    chunk::{ChunkHash, Digest},
    manifest::{ChunkEntry, Manifest},
    seal::Recipient,
};
use crate::{
    base::{
        error::{Context as _, Error, Kind, Result},
        ids::{GroupId, Lineage, SnapshotId, SnapshotSeq},
        limits,
        locks::lock,
        space,
    },
    faults::failpoint::{Failpoint, failpoint},
};

/// A node's corner of a snapshot store.
#[derive(Debug)]
pub struct Shelf {
    home: PathBuf,
    owner: Mutex<Owner>,
    /// Shared with the shelf that takes this one's place when the store was emptied under it.
    lock: Arc<Lock>,
    asides: AtomicU64,
    state: Mutex<State>,
}

/// What is known of a finished part without reading its manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartInfo {
    pub snapshot: SnapshotId,
    pub seq: SnapshotSeq,
    pub lineage: Lineage,
    pub written_ms: u64,
    /// As it stands in the manifest's last line.
    pub digest: Digest,
    pub manifest_bytes: u64,
    pub groups: Vec<GroupId>,
    pub rows: u64,
    /// Plain bytes of its chunks.
    pub bytes: u64,
    /// Bytes of its chunks on disk, shared ones included.
    pub stored_bytes: u64,
    /// The recipients of its seal; none where it is not sealed.
    pub sealed_to: Vec<Recipient>,
}

#[derive(Debug, Default)]
struct State {
    chunks: HashMap<ChunkHash, Kept>,
    parts: BTreeMap<SnapshotId, Part>,
    /// Manifests that cannot be read, and why.
    damaged: BTreeMap<SnapshotId, Error>,
    /// Parts being written; true once they were deleted meanwhile.
    writing: BTreeMap<SnapshotId, bool>,
}

#[derive(Debug)]
struct Kept {
    entry: ChunkEntry,
    /// Parts, writers and readers that rely on it; never 0.
    count: u32,
}

#[derive(Debug)]
struct Part {
    info: PartInfo,
    chunks: Arc<[ChunkHash]>,
}

const MANIFEST: &str = "manifest.json";

impl Shelf {
    /// Whether `store` can hold shelves: `Invalid` if it is not there, no directory, or not
    /// writable. Changes nothing.
    pub fn check(store: &Path) -> Result<()> {
        let place = format!("snapshot store {}", store.display());
        match fs::metadata(store) {
            Ok(m) if m.is_dir() => {}
            Ok(_) => return Err(Error::invalid(format!("{place} is not a directory"))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(Error::invalid(format!(
                    "{place} does not exist; create the directory first"
                )));
            }
            Err(e) => return Err(e).at(place),
        }
        let allowed = rustix::fs::access(store, Access::WRITE_OK | Access::EXEC_OK);
        allowed
            .map_err(io::Error::from)
            .map_err(|e| Error::invalid(format!("{place} is not writable: {e}")).with_source(e))
    }

    /// Opens a node's corner of `store`, which must exist and be writable, and takes away what
    /// unfinished writes have left there. `Conflict` where another process uses it.
    pub fn open(store: &Path, owner: &Owner) -> Result<Arc<Shelf>> {
        Shelf::open_under(store, owner, None)
    }

    /// Opens it anew, for when it does not stand on disk any more. What still reads or writes under
    /// the old one ends with an error.
    pub fn reopen(&self, store: &Path) -> Result<Arc<Shelf>> {
        let lock = self.lock.stands().then(|| self.lock.clone());
        Shelf::open_under(store, &self.owner(), lock)
    }

    fn open_under(store: &Path, owner: &Owner, held: Option<Arc<Lock>>) -> Result<Arc<Shelf>> {
        Shelf::check(store)?;
        let place = || format!("snapshot store {}", store.display());
        let home = store.join(format!("node-{}", owner.node));
        made(&home, || make_dir(&home)).map_err(|e| e.at(place()))?;
        let lock = match held {
            Some(lock) => lock,
            None => Arc::new(Lock::take(&home, owner).map_err(|e| e.at(place()))?),
        };
        let shelf = Shelf {
            home,
            owner: Mutex::new(owner.clone()),
            lock,
            asides: AtomicU64::new(0),
            state: Mutex::default(),
        };
        shelf.prepare().map_err(|e| e.at(place()))?;
        shelf.load()?;
        Ok(Arc::new(shelf))
    }

    /// Whether its directories are still there: somebody may have emptied the store, or mounted
    /// another.
    pub fn stands_on_disk(&self) -> bool {
        self.chunks_dir().is_dir() && self.lock.stands()
    }

    pub fn owner(&self) -> Owner {
        lock(&self.owner).clone()
    }

    /// Notes the history that writes here from now on.
    pub fn set_lineage(&self, lineage: Lineage) -> Result<()> {
        let mut owner = lock(&self.owner);
        if owner.lineage == lineage {
            return Ok(());
        }
        owner.lineage = lineage;
        self.lock.note(&owner)
    }

    /// Begins the part of a snapshot. `Conflict` if it is there already or being written.
    pub fn begin(self: &Arc<Shelf>, snapshot: SnapshotId) -> Result<PartWriter> {
        let disk = File::open(&self.home).at(self.home.display())?;
        let mut state = self.state();
        if state.parts.contains_key(&snapshot) || state.damaged.contains_key(&snapshot) {
            let whose = state
                .parts
                .get(&snapshot)
                .map_or("of a lineage that cannot be read".into(), |part| {
                    format!("of lineage {}", part.info.lineage)
                });
            return Err(Error::conflict(format!(
                "a part of snapshot {snapshot}, {whose}, is already in {}: take the snapshot under \
                 another uuid, or delete that part first with ddbctl snapshot delete {snapshot} \
                 --lineage LINEAGE",
                self.home.display()
            )));
        }
        if state.writing.contains_key(&snapshot) {
            return Err(Error::conflict(format!(
                "the part of snapshot {snapshot} is being written"
            )));
        }
        state.writing.insert(snapshot, false);
        Ok(PartWriter::begin(self.clone(), snapshot, disk))
    }

    /// The finished parts, oldest first.
    pub fn list(&self) -> Vec<PartInfo> {
        let mut parts: Vec<PartInfo> =
            self.state().parts.values().map(|p| p.info.clone()).collect();
        parts.sort_by_key(|p| (p.seq, p.snapshot));
        parts
    }

    /// What is known of a finished part; `NotFound` if there is none, or one that cannot be read.
    pub fn info(&self, snapshot: SnapshotId) -> Result<PartInfo> {
        self.state()
            .parts
            .get(&snapshot)
            .map(|part| part.info.clone())
            .ok_or_else(|| no_part(snapshot))
    }

    /// The parts whose manifest cannot be read, and why. They can only be deleted; until then no
    /// chunk's space is given back.
    pub fn damaged(&self) -> Vec<(SnapshotId, Error)> {
        self.state().damaged.iter().map(|(snapshot, error)| (*snapshot, error.clone())).collect()
    }

    /// Reads a finished part's manifest.
    pub fn manifest(&self, snapshot: SnapshotId) -> Result<Manifest> {
        self.read_manifest(snapshot).map(|(manifest, _, _)| manifest)
    }

    /// Holds a finished part for reading.
    pub fn hold(self: &Arc<Shelf>, snapshot: SnapshotId) -> Result<PartHold> {
        let counted = {
            let mut state = self.state();
            if let Some(error) = state.damaged.get(&snapshot) {
                return Err(error.clone());
            }
            let part = state.parts.get(&snapshot).ok_or_else(|| no_part(snapshot))?;
            let counted = part.chunks.clone();
            for hash in counted.iter() {
                state.kept(hash).count += 1;
            }
            counted
        };
        let read = self.read_manifest(snapshot).map_err(|e| match e.kind {
            Kind::NotFound => {
                Error::corrupt(format!("{} is missing", self.manifest_path(snapshot).display()))
            }
            _ => e,
        });
        read.map(|(manifest, text, digest)| PartHold {
            shelf: self.clone(),
            manifest,
            text,
            digest,
            counted: counted.clone(),
        })
        .inspect_err(|_| drop(self.release(counted.iter())))
    }

    /// Removes a part of a history, or stops one that is being written, and gives back the space of
    /// chunks that nobody else needs. Says whether there was one. A part of another history stays;
    /// one whose manifest cannot be read goes, whosever it was.
    pub fn delete(&self, snapshot: SnapshotId, lineage: Lineage) -> Result<bool> {
        let owner = self.owner();
        let mut state = self.state();
        if let Some(deleted) = state.writing.get_mut(&snapshot).filter(|_| lineage == owner.lineage)
        {
            *deleted = true;
            return Ok(true);
        }
        let of_it = state.parts.get(&snapshot).is_some_and(|part| part.info.lineage == lineage);
        if !of_it && !state.damaged.contains_key(&snapshot) {
            return Ok(false);
        }
        self.remove_manifest(snapshot)?;
        if let Some(part) = state.parts.remove(&snapshot) {
            drop(state);
            return self.release(part.chunks.iter()).map(|()| true);
        }
        state.damaged.remove(&snapshot);
        if state.damaged.is_empty() { self.sweep(&state).map(|()| true) } else { Ok(true) }
    }

    fn prepare(&self) -> Result<()> {
        let make = || {
            for dir in [&self.chunks_dir(), &self.snapshots_dir(), &self.aside_dir()] {
                make_dir(dir)?;
            }
            failpoint(Failpoint::ShelfDirsMade);
            for entry in fs::read_dir(self.aside_dir())? {
                fs::remove_file(entry?.path())?;
                failpoint(Failpoint::ShelfAsideRemoved);
            }
            File::create(self.aside_dir().join("writable"))?;
            fs::remove_file(self.aside_dir().join("writable"))
        };
        made(&self.home, make)
    }

    fn load(&self) -> Result<()> {
        let mut state = self.state();
        for (path, name) in names(&self.snapshots_dir())? {
            let Ok(snapshot) = name.parse::<SnapshotId>() else { continue };
            if !path.join(MANIFEST).try_exists().at(path.display())? {
                // A crash came between the directory and the manifest. What else may lie there is
                // not ours to remove.
                let _ = fs::remove_dir(&path);
                failpoint(Failpoint::ShelfDirRemoved);
                continue;
            }
            match self.read_manifest(snapshot) {
                Ok((manifest, text, digest)) => state.gain(&manifest, text.len(), digest),
                Err(e) => drop(state.damaged.insert(snapshot, e)),
            }
        }
        if state.damaged.is_empty() { self.sweep(&state) } else { Ok(()) }
    }

    /// Removes every chunk that nobody relies on. The caller has the lock, so no chunk is between
    /// its rename and its count.
    fn sweep(&self, state: &State) -> Result<()> {
        for (dir, _) in names(&self.chunks_dir())? {
            for (path, name) in names(&dir)? {
                if name.parse().is_ok_and(|hash: ChunkHash| !state.chunks.contains_key(&hash)) {
                    fs::remove_file(&path).at(path.display())?;
                    failpoint(Failpoint::ShelfChunkSwept);
                }
            }
        }
        Ok(())
    }

    fn read_manifest(&self, snapshot: SnapshotId) -> Result<(Manifest, Vec<u8>, Digest)> {
        let path = self.manifest_path(snapshot);
        let text = match read_bounded(&path, limits::MANIFEST_BYTES_MAX as u64) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(no_part(snapshot)),
            read => read.at(path.display())?,
        };
        let (manifest, digest) = Manifest::parse(&text).map_err(|e| e.at(path.display()))?;
        if (manifest.snapshot, manifest.node) != (snapshot, self.owner().node) {
            let what = format!(
                "{}: it is of snapshot {} and node {}",
                path.display(),
                manifest.snapshot,
                manifest.node
            );
            return Err(Error::corrupt(what));
        }
        Ok((manifest, text, digest))
    }

    /// The removal is on disk before any chunk goes: a part whose manifest comes back after a crash
    /// must be whole.
    fn remove_manifest(&self, snapshot: SnapshotId) -> Result<()> {
        let path = self.manifest_path(snapshot);
        let dir = self.snapshots_dir().join(snapshot.to_string());
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e).at(path.display()),
            _ => {}
        }
        failpoint(Failpoint::DeleteManifestRemoved);
        File::open(&dir).and_then(|d| d.sync_all()).at(dir.display())?;
        failpoint(Failpoint::DeleteSynced);
        let _ = fs::remove_dir(&dir);
        Ok(())
    }

    /// Lets go of chunks and removes those that nobody relies on any more. The lock is taken for
    /// each, so that nobody waits for all. Goes through all of them and returns the first error;
    /// what could not be removed is, by the next `open`.
    fn release<'a>(&self, hashes: impl Iterator<Item = &'a ChunkHash>) -> Result<()> {
        let mut result = Ok(());
        for hash in hashes {
            let mut state = self.state();
            let kept = state.kept(hash);
            kept.count -= 1;
            if kept.count > 0 {
                continue;
            }
            state.chunks.remove(hash);
            if !state.damaged.is_empty() {
                continue;
            }
            let path = self.chunk_path(*hash);
            match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    result = result.and(Err(e).at(path.display()))
                }
                _ => failpoint(Failpoint::DeleteChunkRemoved),
            }
        }
        result
    }

    /// Writes bytes to a file of their own, which the caller renames. Nothing is left behind where
    /// that fails, or would leave too little of the disk free.
    fn write_aside(&self, data: &[u8]) -> Result<PathBuf> {
        space::spare(&self.home, data.len() as u64)?;
        let path = self.aside_dir().join(self.asides.fetch_add(1, Ordering::Relaxed).to_string());
        let written = File::create_new(&path).and_then(|mut file| file.write_all(data));
        if written.is_err() {
            let _ = fs::remove_file(&path);
        }
        failpoint(Failpoint::CaptureAsideWritten);
        written.at(path.display()).map(|()| path)
    }

    /// Puts a chunk in place, and counts it once more where it was not counted by the caller
    /// before. Returns the entry of the file that stands there then.
    fn place(&self, aside: &Path, entry: ChunkEntry, counted: bool) -> Result<ChunkEntry> {
        let path = self.chunk_path(entry.hash);
        let dir = path.parent().expect("a chunk lies in a directory");
        match fs::create_dir(dir) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e).at(dir.display()),
            _ => {}
        }
        let mut state = self.state();
        if let Some(kept) = state.chunks.get_mut(&entry.hash).filter(|_| !counted) {
            // Another writer was faster.
            kept.count += 1;
            let _ = fs::remove_file(aside);
            return Ok(kept.entry);
        }
        fs::rename(aside, &path).at(path.display())?;
        failpoint(Failpoint::CaptureChunkPlaced);
        state
            .chunks
            .entry(entry.hash)
            .and_modify(|kept| kept.entry = entry)
            .or_insert(Kept { entry, count: 1 });
        Ok(entry)
    }

    /// Whether a chunk's file has the very bytes that were written.
    fn stands(&self, entry: &ChunkEntry) -> bool {
        read_bounded(&self.chunk_path(entry.hash), entry.stored_bytes)
            .is_ok_and(|data| entry.check_stored(&data).is_ok())
    }

    /// Counts a chunk once more if it is there.
    fn count(&self, hash: ChunkHash) -> Option<ChunkEntry> {
        let mut state = self.state();
        let kept = state.chunks.get_mut(&hash)?;
        kept.count += 1;
        Some(kept.entry)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change under the lock is whole before anything in it can panic.
        lock(&self.state)
    }

    fn chunks_dir(&self) -> PathBuf {
        self.home.join("chunks")
    }
    fn snapshots_dir(&self) -> PathBuf {
        self.home.join("snapshots")
    }
    fn aside_dir(&self) -> PathBuf {
        self.home.join("aside")
    }
    fn manifest_path(&self, snapshot: SnapshotId) -> PathBuf {
        self.snapshots_dir().join(snapshot.to_string()).join(MANIFEST)
    }
    fn chunk_path(&self, hash: ChunkHash) -> PathBuf {
        let name = hash.to_string();
        self.chunks_dir().join(&name[..2]).join(name)
    }
}

impl PartInfo {
    fn of(manifest: &Manifest, text_bytes: usize, digest: Digest) -> PartInfo {
        PartInfo {
            snapshot: manifest.snapshot,
            seq: manifest.seq,
            lineage: manifest.lineage,
            written_ms: manifest.written_ms,
            digest,
            manifest_bytes: text_bytes as u64,
            groups: manifest.group_ids().collect(),
            rows: manifest.rows(),
            bytes: manifest.bytes(),
            stored_bytes: manifest.stored_bytes(),
            sealed_to: manifest.seal.as_ref().map_or(Vec::new(), |seal| seal.recipients().to_vec()),
        }
    }
}

impl State {
    /// Adds a part found on disk.
    fn gain(&mut self, manifest: &Manifest, text_bytes: usize, digest: Digest) {
        for entry in &manifest.chunks {
            self.chunks.entry(entry.hash).or_insert(Kept { entry: *entry, count: 0 }).count += 1;
        }
        self.take_over(manifest, text_bytes, digest);
    }

    /// Adds a part whose chunks are counted already.
    fn take_over(&mut self, manifest: &Manifest, text_bytes: usize, digest: Digest) -> PartInfo {
        let info = PartInfo::of(manifest, text_bytes, digest);
        let chunks = manifest.chunks.iter().map(|c| c.hash).collect();
        self.parts.insert(manifest.snapshot, Part { info: info.clone(), chunks });
        info
    }

    fn kept(&mut self, hash: &ChunkHash) -> &mut Kept {
        self.chunks.get_mut(hash).expect("a chunk stays in the table while anybody counts on it")
    }
}

fn make_dir(dir: &Path) -> io::Result<()> {
    match fs::create_dir(dir) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
        _ => Ok(()),
    }
}

/// Tells a corner that cannot be written, which is for the operator to mend, from a disk that
/// fails.
fn made<T>(home: &Path, make: impl FnOnce() -> io::Result<T>) -> Result<T> {
    match make() {
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
            ) =>
        {
            Err(Error::invalid(format!("{} is not writable: {e}", home.display())).with_source(e))
        }
        made => made.at(home.display()),
    }
}

fn no_part(snapshot: SnapshotId) -> Error {
    Error::not_found(format!("this node has no part of snapshot {snapshot}"))
}

fn deleted(snapshot: SnapshotId) -> Error {
    Error::conflict(format!("snapshot {snapshot} was deleted while its part was being written"))
}

/// A directory's entries by name, sorted. What is not UTF-8 was not written here.
fn names(dir: &Path) -> Result<Vec<(PathBuf, String)>> {
    let read = || {
        let entries = fs::read_dir(dir)?.collect::<io::Result<Vec<_>>>()?;
        Ok(entries.into_iter().filter_map(|e| Some((e.path(), e.file_name().into_string().ok()?))))
    };
    let mut names: Vec<_> = read().at(dir.display())?.collect();
    names.sort();
    Ok(names)
}

/// Reads a file that should have at most so many bytes; one byte more shows that it has more.
pub(super) fn read_bounded(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut data = Vec::new();
    File::open(path)?.take(bytes_max.saturating_add(1)).read_to_end(&mut data)?;
    Ok(data)
}

#[cfg(test)]
mod tests;
