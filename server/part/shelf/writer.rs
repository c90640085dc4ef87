//! Writing a part: chunks first, each aside and renamed, the manifest last.
//!
//! A writer counts on every chunk that it has written or found, so that no delete takes one from
//! under it. Dropped before it has finished, it gives back what nobody else counts on.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::Path,
    sync::Arc,
};

use super::{PartInfo, Shelf, deleted};
use crate::{
    base::{
        error::{Context as _, Error, Result},
        ids::SnapshotId,
        limits,
    },
    faults::failpoint::{Failpoint, failpoint},
    part::{
        chunk::{Chunk, ChunkHash, Digest},
        manifest::{ChunkEntry, Manifest},
    },
};

/// A part being written. Dropped before `finish`, it gives back the space of every chunk that
/// nobody else needs.
#[derive(Debug)]
pub struct PartWriter {
    shelf: Arc<Shelf>,
    snapshot: SnapshotId,
    /// The chunks it counts on; each is counted once in the shelf.
    chunks: BTreeMap<ChunkHash, ChunkEntry>,
    /// Opened before the first byte was written, so that `syncfs` reports every error since.
    disk: File,
    unsynced: u64,
    bytes_written: u64,
    /// The part is in place, and its name is nobody's to give up.
    settled: bool,
}

/// A part that was finished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    pub info: PartInfo,
    /// The manifest with its table of chunks.
    pub manifest: Manifest,
    /// Bytes of chunks that were not there before.
    pub bytes_written: u64,
}

impl PartWriter {
    /// `disk` is any file of the shelf's file system.
    pub(super) fn begin(shelf: Arc<Shelf>, snapshot: SnapshotId, disk: File) -> PartWriter {
        PartWriter {
            shelf,
            snapshot,
            chunks: BTreeMap::new(),
            disk,
            unsynced: 0,
            bytes_written: 0,
            settled: false,
        }
    }

    /// Stores a chunk and returns how many bytes that took: 0 where the same bytes were there
    /// already.
    pub fn chunk(&mut self, chunk: &Chunk) -> Result<u64> {
        self.check_wanted()?;
        if self.chunks.contains_key(&chunk.hash) {
            return Ok(0);
        }
        let counted = self.shelf.count(chunk.hash);
        if let Some(entry) = counted {
            self.chunks.insert(chunk.hash, entry);
            if self.shelf.stands(&entry) {
                return Ok(0);
            }
        }
        let bytes = chunk.data.len() as u64;
        let stored_digest = Digest(blake3::hash(&chunk.data).into());
        let entry = ChunkEntry {
            hash: chunk.hash,
            rows: chunk.rows,
            bytes: chunk.bytes,
            stored_bytes: bytes,
            stored_digest,
        };
        let aside = self.shelf.write_aside(&chunk.data)?;
        let placed = self
            .shelf
            .place(&aside, entry, counted.is_some())
            .inspect_err(|_| drop(fs::remove_file(&aside)))?;
        self.chunks.insert(chunk.hash, placed);
        self.bytes_written += bytes;
        self.unsynced += bytes;
        if self.unsynced >= limits::SHELF_UNSYNCED_BYTES {
            self.sync()?;
        }
        Ok(bytes)
    }

    /// Counts on a chunk of an earlier part without having its rows. False if it is not there,
    /// whole by its size; then the rows must be read.
    pub fn reuse(&mut self, hash: ChunkHash) -> Result<bool> {
        self.check_wanted()?;
        if self.chunks.contains_key(&hash) {
            return Ok(true);
        }
        let Some(entry) = self.shelf.count(hash) else { return Ok(false) };
        let path = self.shelf.chunk_path(hash);
        if fs::metadata(&path).is_ok_and(|m| m.is_file() && m.len() == entry.stored_bytes) {
            self.chunks.insert(hash, entry);
            return Ok(true);
        }
        self.shelf.release([hash].iter()).map(|()| false)
    }

    /// Bytes of chunks written so far.
    pub fn bytes_written(&self) -> u64 {
        self.bytes_written
    }

    /// Puts the part in place. The manifest's table of chunks is filled here, from the chunks that
    /// it names; chunks that it does not name are given back. Once this returns, the part survives
    /// a crash; if it fails, nothing of the part is left.
    pub fn finish(mut self, mut manifest: Manifest) -> Result<Finished> {
        let node = self.shelf.owner().node;
        if (manifest.snapshot, manifest.node) != (self.snapshot, node) {
            return Err(Error::invalid(format!(
                "the manifest is of snapshot {} and node {}, not {} and {node}",
                manifest.snapshot, manifest.node, self.snapshot
            )));
        }
        let mut hashes: Vec<ChunkHash> =
            manifest.lists().flat_map(|(_, chunks)| chunks).copied().collect();
        hashes.sort_unstable();
        hashes.dedup();
        manifest.chunks = hashes.iter().filter_map(|hash| self.chunks.get(hash)).copied().collect();
        let (text, digest) = manifest.encode().map_err(|e| e.at("manifest"))?;
        let aside = self.shelf.write_aside(&text)?;
        let info = self
            .sync()
            .and_then(|()| self.settle(&aside, &manifest, text.len(), digest))
            .inspect_err(|_| drop(fs::remove_file(&aside)))?;
        Ok(Finished { info, manifest, bytes_written: self.bytes_written })
    }

    /// Gives everything up, as dropping it does.
    pub fn abandon(self) {}

    /// The part appears, and takes over the counts of its chunks. All under the lock, so that a
    /// delete comes before or after.
    fn settle(
        &mut self,
        aside: &Path,
        manifest: &Manifest,
        text_bytes: usize,
        digest: Digest,
    ) -> Result<PartInfo> {
        let shelf = self.shelf.clone();
        let mut state = shelf.state();
        if state.writing.get(&self.snapshot) == Some(&true) {
            return Err(deleted(self.snapshot));
        }
        let path = shelf.manifest_path(self.snapshot);
        let dir = path.parent().expect("a manifest lies in a directory");
        let put = || {
            match fs::create_dir(dir) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
                _ => {}
            }
            failpoint(Failpoint::CaptureDirMade);
            fs::rename(aside, &path)?;
            failpoint(Failpoint::CaptureManifestRenamed);
            File::open(dir)?.sync_all()?;
            failpoint(Failpoint::CaptureDirSynced);
            File::open(shelf.snapshots_dir())?.sync_all()
        };
        if let Err(e) = put() {
            let _ = fs::remove_file(&path);
            let _ = fs::remove_dir(dir);
            return Err(e).at(path.display());
        }
        for entry in &manifest.chunks {
            self.chunks.remove(&entry.hash);
        }
        failpoint(Failpoint::CaptureInPlace);
        // From here on a delete finds the part, not its writer.
        state.writing.remove(&self.snapshot);
        self.settled = true;
        Ok(state.take_over(manifest, text_bytes, digest))
    }

    fn sync(&mut self) -> Result<()> {
        rustix::fs::syncfs(&self.disk).map_err(io::Error::from).at(self.shelf.home.display())?;
        self.unsynced = 0;
        failpoint(Failpoint::CaptureSynced);
        Ok(())
    }

    fn check_wanted(&self) -> Result<()> {
        if self.shelf.state().writing.get(&self.snapshot) == Some(&true) {
            Err(deleted(self.snapshot))
        } else {
            Ok(())
        }
    }
}

impl Drop for PartWriter {
    fn drop(&mut self) {
        if !self.settled {
            self.shelf.state().writing.remove(&self.snapshot);
        }
        // Nobody is left to be told; the next `open` removes what this could not.
        let _ = self.shelf.release(self.chunks.keys());
    }
}
