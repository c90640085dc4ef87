//! A part as somebody holds it, a tar or an extracted directory, and its chunks in any order.
//!
//! The manifest is read when the part is opened. A chunk is read when it is asked for, and handed
//! out only if it is what the manifest says. In a tar a chunk lies where the manifest puts it:
//! `verify` finds a tar in which it does not. Nothing is changed.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use super::{
    chunk::{ChunkHash, Digest, Rows},
    directory::PartSource,
    manifest::{ChunkEntry, Manifest},
    tar::{PartTar, Plan},
};
use crate::base::error::{Context as _, Error, Result};

/// A part of either kind.
#[derive(Debug)]
pub enum Source {
    Tar(TarSource),
    Directory(PartSource),
}

/// A part's tar, read-only.
#[derive(Debug)]
pub struct TarSource {
    path: PathBuf,
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
        if kind.is_dir() {
            return PartSource::open(path).map(Source::Directory);
        }
        if !kind.is_file() {
            return Err(Error::invalid("it is neither a tar nor a directory"));
        }
        TarSource::open(path).map(Source::Tar)
    }

    pub fn manifest(&self) -> &Manifest {
        match self {
            Source::Tar(tar) => &tar.manifest,
            Source::Directory(source) => source.manifest(),
        }
    }

    pub fn digest(&self) -> Digest {
        match self {
            Source::Tar(tar) => tar.digest,
            Source::Directory(source) => source.digest(),
        }
    }

    pub fn into_manifest(self) -> Manifest {
        match self {
            Source::Tar(tar) => tar.manifest,
            Source::Directory(source) => source.into_manifest(),
        }
    }

    /// A chunk's stored bytes, unchecked.
    pub fn stored(&self, hash: ChunkHash) -> Result<Vec<u8>> {
        match self {
            Source::Tar(tar) => {
                let (entry, offset) = tar.place(hash)?;
                tar.stored(entry, offset).map_err(|e| e.at(tar.path.display()))
            }
            Source::Directory(source) => {
                let entry = source.manifest().entry(hash);
                let none = || Error::not_found(format!("the part has no chunk {hash}"));
                source.stored(entry.ok_or_else(none)?)
            }
        }
    }

    /// The rows of a chunk, checked against its name and the manifest. `Corrupt`, with the path, if
    /// anything about it is wrong.
    pub fn chunk(&self, hash: ChunkHash) -> Result<Rows> {
        match self {
            Source::Tar(tar) => tar.chunk(hash).map_err(|e| e.at(tar.path.display())),
            Source::Directory(source) => source.chunk(hash),
        }
    }
}

impl TarSource {
    fn open(path: &Path) -> Result<TarSource> {
        let (file, text) = PartTar::open(path)?;
        let (manifest, digest) = Manifest::parse(&text)?;
        let text_bytes = text.len() as u64;
        let offsets = Plan::of(&manifest, text_bytes).chunk_offsets();
        Ok(TarSource { path: path.to_owned(), file, manifest, digest, offsets, text_bytes })
    }

    /// All of the tar, from its first entry on.
    pub fn entries(&self) -> Result<PartTar> {
        let file = self.file.try_clone().at("the tar")?;
        PartTar::read(file, &self.manifest, self.text_bytes)
    }

    fn chunk(&self, hash: ChunkHash) -> Result<Rows> {
        let (entry, offset) = self.place(hash)?;
        entry.open(&self.stored(entry, offset)?)
    }

    /// Where a chunk lies.
    fn place(&self, hash: ChunkHash) -> Result<(&ChunkEntry, u64)> {
        let at = self.manifest.position(hash);
        let found = at.and_then(|at| self.manifest.chunks.get(at).zip(self.offsets.get(at)));
        let (entry, offset) =
            found.ok_or_else(|| Error::not_found(format!("the part has no chunk {hash}")))?;
        Ok((entry, *offset))
    }

    fn stored(&self, entry: &ChunkEntry, offset: u64) -> Result<Vec<u8>> {
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
        let Source::Tar(tar) = &source else { panic!("it is a tar") };
        bytes[tar.offsets[3] as usize + 5] ^= 1;
        fs::write(&file, &bytes).unwrap();
        let e = source.chunk(hash).unwrap_err();
        assert!(e.message.starts_with(&format!("{}: ", file.display())), "{e}");
        fs::write(&file, &bytes[..600]).unwrap();
        let e = source.chunk(hash).unwrap_err();
        assert!(e.message.contains("cannot be read at byte"), "{e}");
    }
}
