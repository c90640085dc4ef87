//! A finished part that is read: its chunks stay in place meanwhile, whoever deletes it.

use std::{
    fs::{self, File},
    io,
    path::PathBuf,
    sync::Arc,
};

use super::Shelf;
use crate::{
    base::error::{Context as _, Error, Result},
    part::{
        chunk::{ChunkHash, Digest},
        manifest::{ChunkEntry, Manifest},
    },
};

/// Keeps a finished part's chunks in place while it is read, whoever deletes it meanwhile.
#[derive(Debug)]
pub struct PartHold {
    pub(super) shelf: Arc<Shelf>,
    pub(super) manifest: Manifest,
    pub(super) text: Vec<u8>,
    pub(super) digest: Digest,
    pub(super) counted: Arc<[ChunkHash]>,
}

impl PartHold {
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }
    /// The manifest's bytes as they are on disk.
    pub fn text(&self) -> &[u8] {
        &self.text
    }
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Looks whether every chunk has a file of the size that was written, without reading them;
    /// `Corrupt` with the first that has not, and how many more.
    pub fn look(&self) -> Result<()> {
        let mut wrong = self.manifest.chunks.iter().filter_map(|entry| self.stat(entry).err());
        let Some(first) = wrong.next() else { return Ok(()) };
        let more = wrong.count();
        let and = if more == 0 { String::new() } else { format!("; so are {more} more") };
        Err(Error::corrupt(format!("{}{and}", first.message)))
    }

    fn stat(&self, entry: &ChunkEntry) -> Result<()> {
        let path = self.shelf.chunk_path(entry.hash);
        match fs::metadata(&path) {
            Ok(found) if found.is_file() && found.len() == entry.stored_bytes => Ok(()),
            Ok(found) => Err(Error::corrupt(format!(
                "chunk {} is damaged: it has {} bytes, not the {} that were written",
                path.display(),
                found.len(),
                entry.stored_bytes
            ))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                Err(Error::corrupt(format!("chunk {} is missing", path.display())))
            }
            Err(e) => Err(e).at(path.display()),
        }
    }

    /// Opens a chunk's file, which has the size that the manifest says; `Corrupt` if it is missing
    /// or has another.
    pub fn open(&self, entry: &ChunkEntry) -> Result<(File, PathBuf)> {
        let path = self.shelf.chunk_path(entry.hash);
        let file = match File::open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(Error::corrupt(format!(
                    "{}: this chunk of snapshot {} is missing",
                    path.display(),
                    self.manifest.snapshot
                )));
            }
            open => open.at(path.display())?,
        };
        let bytes = file.metadata().at(path.display())?.len();
        if bytes != entry.stored_bytes {
            return Err(Error::corrupt(format!(
                "{}: this chunk has {bytes} bytes, not the {} that were written",
                path.display(),
                entry.stored_bytes
            )));
        }
        Ok((file, path))
    }
}

impl Drop for PartHold {
    fn drop(&mut self) {
        let _ = self.shelf.release(self.counted.iter());
    }
}
