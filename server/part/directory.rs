//! A part as an operator has extracted it: a directory with `manifest.json` and `chunks/`.
//!
//! Nothing is believed but the manifest, and that only against its own digest. Nothing is changed.
//! Only regular files are read: a link would lead out of the directory. Other things that lie
//! beside the part are not looked at; `extra` names them.

use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use super::{
    chunk::Digest,
    manifest::{ChunkEntry, Manifest},
};
use crate::base::{
    error::{Context as _, Error, Result},
    limits,
};

/// An extracted part, read-only.
#[derive(Debug)]
pub struct PartSource {
    dir: PathBuf,
    manifest: Manifest,
    digest: Digest,
}

/// What a part says of itself, in its directory.
pub const MANIFEST: &str = "manifest.json";
const CHUNKS: &str = "chunks";
/// What a file system keeps in its own root.
const TOLERATED: &str = "lost+found";

impl PartSource {
    /// `NotFound` if the directory has no manifest, `Conflict` if a newer version wrote it,
    /// `Corrupt` if it is not what was written.
    pub fn open(dir: impl Into<PathBuf>) -> Result<PartSource> {
        let dir = dir.into();
        let text = read_regular(&dir.join(MANIFEST), limits::MANIFEST_BYTES_MAX as u64)?;
        let (manifest, digest) = Manifest::parse(&text).map_err(|e| e.at(dir.display()))?;
        Ok(PartSource { dir, manifest, digest })
    }

    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }
    pub fn digest(&self) -> Digest {
        self.digest
    }
    pub fn into_manifest(self) -> Manifest {
        self.manifest
    }

    /// A chunk's stored bytes, unchecked; at most one more than there should be.
    pub fn stored(&self, entry: &ChunkEntry) -> Result<Vec<u8>> {
        let path = self.dir.join(CHUNKS).join(entry.hash.to_string());
        match read_regular(&path, entry.stored_bytes) {
            Err(e) if e.kind == crate::base::error::Kind::NotFound => {
                Err(Error::corrupt(format!("{}: this chunk is missing", path.display())))
            }
            read => read,
        }
    }

    /// What lies in the directory and does not belong to the part, but for `lost+found`: the first
    /// of them, and how many there are.
    pub fn extra(&self) -> Result<(Vec<PathBuf>, u64)> {
        let (mut extra, mut count) = (Vec::new(), 0);
        let mut look = |dir: &Path, belongs: &dyn Fn(&str) -> bool| -> io::Result<()> {
            for entry in fs::read_dir(dir)? {
                let entry = entry?;
                if entry.file_name().to_str().is_some_and(belongs) {
                    continue;
                }
                count += 1;
                if extra.len() < limits::PROBLEMS_MAX {
                    extra.push(entry.path());
                }
            }
            Ok(())
        };
        let chunks = self.dir.join(CHUNKS);
        look(&self.dir, &|name| [MANIFEST, CHUNKS, TOLERATED].contains(&name))
            .at(self.dir.display())?;
        match look(&chunks, &|name| {
            name.parse().is_ok_and(|hash| self.manifest.position(hash).is_some())
        }) {
            // A part without rows has no chunks; one that should have some has lost them, which is
            // found chunk by chunk.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            looked => looked.at(chunks.display())?,
        }
        extra.sort();
        Ok((extra, count))
    }
}

/// Reads a file of at most so many bytes; one byte more than that shows that it has more.
fn read_regular(path: &Path, bytes_max: u64) -> Result<Vec<u8>> {
    if !fs::symlink_metadata(path).at(path.display())?.is_file() {
        return Err(Error::corrupt(format!("{} is not a regular file", path.display())));
    }
    let mut data = Vec::new();
    fs::File::open(path)
        .at(path.display())?
        .take(bytes_max.saturating_add(1))
        .read_to_end(&mut data)
        .at(path.display())?;
    Ok(data)
}
