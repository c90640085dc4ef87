//! A part as somebody holds it, a tar or an extracted directory, and its chunks in any order.
//!
//! The manifest is read when the part is opened. A chunk is read when it is asked for, and handed
//! out only if it is what the manifest says. In a tar a chunk lies where the manifest puts it:
//! `verify` finds a tar in which it does not. Rows of a sealed part are there once `unseal` was
//! given a recipient's identity. Nothing is changed.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    chunk::{ChunkHash, Digest, Rows},
    directory::PartSource,
    manifest::{ChunkEntry, Manifest},
    seal::{Identities, Keys},
    tar::{PartTar, Plan},
};
use crate::base::error::{Context as _, Error, Result};

/// A part of either kind.
#[derive(Debug)]
pub struct Source {
    pub(super) place: Place,
    path: PathBuf,
    keys: Option<Arc<Keys>>,
}

/// What it is read from.
#[derive(Debug)]
pub(super) enum Place {
    Tar(TarSource),
    Directory(PartSource),
}

/// A part's tar, read-only.
#[derive(Debug)]
pub(super) struct TarSource {
    file: File,
    manifest: Manifest,
    digest: Digest,
    /// Where the stored bytes of each chunk begin, in the order of the manifest's table.
    offsets: Vec<u64>,
    text_bytes: u64,
}

impl Source {
    /// Reads the manifest of a part and nothing else.
    pub fn open(path: &Path) -> Result<Source> {
        let kind = fs::metadata(path)
            .map_err(|e| Error::invalid(format!("it cannot be read: {e}")).with_source(e))?
            .file_type();
        let place = match (kind.is_dir(), kind.is_file()) {
            (true, _) => Place::Directory(PartSource::open(path)?),
            (_, true) => Place::Tar(TarSource::open(path)?),
            _ => return Err(Error::invalid("it is neither a tar nor a directory")),
        };
        Ok(Source { place, path: path.to_owned(), keys: None })
    }

    pub fn manifest(&self) -> &Manifest {
        match &self.place {
            Place::Tar(tar) => &tar.manifest,
            Place::Directory(source) => source.manifest(),
        }
    }

    pub fn digest(&self) -> Digest {
        match &self.place {
            Place::Tar(tar) => tar.digest,
            Place::Directory(source) => source.digest(),
        }
    }

    pub fn into_manifest(self) -> Manifest {
        match self.place {
            Place::Tar(tar) => tar.manifest,
            Place::Directory(source) => source.into_manifest(),
        }
    }

    /// Has the rows of a sealed part read from now on; a part that is not sealed needs nothing.
    /// `Conflict` where none of the identities opens it.
    pub fn unseal(&mut self, identities: &Identities) -> Result<()> {
        self.keys = self.manifest().seal.as_ref().map(|seal| seal.open(identities)).transpose()?;
        Ok(())
    }

    /// Whether its rows can be read: it is not sealed, or was unsealed.
    pub fn is_open(&self) -> bool {
        self.manifest().seal.is_none() || self.keys.is_some()
    }

    /// What its seal is opened with; none where there is none.
    pub fn keys(&self) -> Option<&Keys> {
        self.keys.as_deref()
    }

    /// The rows of a chunk, checked against its name and the manifest. `Corrupt`, with the path, if
    /// it is missing or anything about it is wrong; `Conflict` if the part is sealed.
    pub fn chunk(&self, hash: ChunkHash) -> Result<Rows> {
        if let Some(seal) = self.manifest().seal.as_ref().filter(|_| !self.is_open()) {
            let what = format!("{}: it is sealed to {}", self.path.display(), seal.named());
            return Err(Error::conflict(what));
        }
        let entry = self.manifest().entry(hash).ok_or_else(|| {
            Error::not_found(format!("{}: the part has no chunk {hash}", self.path.display()))
        })?;
        entry.open(&self.stored(entry)?, self.keys()).map_err(|e| e.at(self.path.display()))
    }

    /// A chunk's stored bytes, unchecked.
    pub fn stored(&self, entry: &ChunkEntry) -> Result<Vec<u8>> {
        match &self.place {
            Place::Tar(tar) => tar.stored(entry).map_err(|e| e.at(self.path.display())),
            Place::Directory(source) => source.stored(entry),
        }
    }
}

impl TarSource {
    fn open(path: &Path) -> Result<TarSource> {
        let (file, text) = PartTar::open(path)?;
        let (manifest, digest) = Manifest::parse(&text)?;
        let text_bytes = text.len() as u64;
        let offsets = Plan::of(&manifest, text_bytes).chunk_offsets();
        Ok(TarSource { file, manifest, digest, offsets, text_bytes })
    }

    /// All of the tar, from its first entry on.
    pub fn entries(&self) -> Result<PartTar> {
        let file = self.file.try_clone().at("the tar")?;
        PartTar::read(file, &self.manifest, self.text_bytes)
    }

    fn stored(&self, entry: &ChunkEntry) -> Result<Vec<u8>> {
        let at = self.manifest.position(entry.hash).and_then(|at| self.offsets.get(at));
        let offset =
            *at.ok_or_else(|| Error::not_found(format!("the part has no chunk {}", entry.hash)))?;
        let mut data = vec![0; usize::try_from(entry.stored_bytes).unwrap_or(usize::MAX)];
        let read = self.file.read_exact_at(&mut data, offset);
        read.map_err(|e| {
            let what = format!("chunk {} cannot be read at byte {offset}: {e}", entry.hash);
            Error::corrupt(what).with_source(e)
        })?;
        Ok(data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::part::sample::Sample;

    #[test]
    fn a_tar_and_a_directory_hand_out_the_same_chunks_in_any_order() {
        let dir = tempfile::tempdir().unwrap();
        let (sample, extracted) = (Sample::new(1), dir.path().join("part"));
        sample.extract(&extracted);
        let file = dir.path().join("part.tar");
        fs::write(&file, sample.tar()).unwrap();
        let [tar, directory] = [&file, &extracted].map(|path| Source::open(path).unwrap());
        assert_eq!((tar.manifest(), tar.digest()), (directory.manifest(), directory.digest()));
        assert!(tar.manifest().chunks.len() > 10);
        for entry in tar.manifest().chunks.iter().rev() {
            let rows = [&tar, &directory].map(|source| {
                let rows = source.chunk(entry.hash).unwrap();
                rows.iter().map(|(k, v)| (k.to_vec(), v.to_vec())).collect::<Vec<_>>()
            });
            assert_eq!(rows[0], rows[1]);
        }
    }

    #[test]
    fn a_chunk_of_a_tar_that_has_changed_is_not_handed_out() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("part.tar");
        fs::write(&file, Sample::new(1).tar()).unwrap();
        let source = Source::open(&file).unwrap();
        let hash = source.manifest().chunks[3].hash;
        let mut bytes = fs::read(&file).unwrap();
        let Place::Tar(tar) = &source.place else { panic!("it is a tar") };
        bytes[tar.offsets[3] as usize + 5] ^= 1;
        fs::write(&file, &bytes).unwrap();
        let e = source.chunk(hash).unwrap_err();
        assert!(e.message.starts_with(&format!("{}: ", file.display())), "{e}");
        fs::write(&file, &bytes[..600]).unwrap();
        let e = source.chunk(hash).unwrap_err();
        assert!(e.message.contains("cannot be read at byte"), "{e}");
    }
}
