//! A part under another seal, or under none: the tar that its node would have written so.
//!
//! The zstd frames stay as they are. Names of chunks, digests of partitions, the order of the table
//! and the format follow from the seal; everything else of the manifest is kept. Since all of a tar
//! follows from the manifest and the chunks, a part that was sealed on the node and is unsealed
//! here is, byte for byte, the part that the node writes without a seal.
//!
//! The part is read three times: all of it is verified, then its new manifest is made, then its
//! chunks are written in their new order. The simpler road takes the time of a verification more,
//! and holds no more of a part in memory than one does.

use std::{io::Write, path::Path};

use super::{
    chunk::{self, ChunkHash, Digest},
    manifest::{ChunkEntry, Manifest},
    parallel,
    seal::{Identities, Seal, Sealing},
    source::Source,
    tar,
    verify::{self, Problems},
};
use crate::base::error::{Error, Kind, Result};

/// A part that was verified and can be written under another seal.
pub struct Resealed<'a> {
    source: Source,
    to: Option<&'a Sealing>,
    manifest: Manifest,
    /// For each chunk of the new table, its entry in the old one.
    from: Vec<ChunkEntry>,
}

/// Why a part cannot be written under another seal.
#[derive(Debug)]
pub enum Refusal {
    /// It is not sealed.
    Plain,
    /// It is sealed already.
    Sealed(Seal),
    /// Nobody to whom it is sealed is among the identities.
    Closed(Error),
    /// Something is wrong with it.
    Unsound(Problems),
    Failed(Error),
}

impl From<Error> for Refusal {
    fn from(e: Error) -> Refusal {
        Refusal::Failed(e)
    }
}

/// A sealed part without its seal.
pub fn unsealed(
    path: &Path,
    identities: &Identities,
) -> std::result::Result<Resealed<'static>, Refusal> {
    let mut source = Source::open(path)?;
    if source.manifest().seal.is_none() {
        return Err(Refusal::Plain);
    }
    source.unseal(identities).map_err(|e| match e.kind {
        Kind::Conflict => Refusal::Closed(e),
        _ => Refusal::Failed(e),
    })?;
    verified(source, path, Some(identities), None)
}

/// A part that is not sealed, under a seal.
pub fn sealed<'a>(path: &Path, to: &'a Sealing) -> std::result::Result<Resealed<'a>, Refusal> {
    let source = Source::open(path)?;
    match source.manifest().seal.clone() {
        Some(seal) => Err(Refusal::Sealed(seal)),
        None => verified(source, path, None, Some(to)),
    }
}

fn verified<'a>(
    source: Source,
    path: &Path,
    identities: Option<&Identities>,
    to: Option<&'a Sealing>,
) -> std::result::Result<Resealed<'a>, Refusal> {
    let report = verify::verify_part(path, identities).map_err(Refusal::Unsound)?;
    if report.manifest_digest != source.digest() {
        let what = format!("{} has changed while it was read", path.display());
        return Err(Error::conflict(what).into());
    }
    Ok(Resealed::plan(source, to)?)
}

impl<'a> Resealed<'a> {
    fn plan(source: Source, to: Option<&'a Sealing>) -> Result<Resealed<'a>> {
        let old = &source.manifest().chunks;
        let mut entries: Vec<(ChunkEntry, ChunkEntry)> = Vec::new();
        parallel::in_order(
            old.iter(),
            |entry| {
                let name = source.chunk(entry.hash)?.name(to.map(|to| &*to.keys));
                let data = restored(&source, to, entry, name)?;
                let stored_digest = Digest(blake3::hash(&data).into());
                let stored_bytes = data.len() as u64;
                Ok(ChunkEntry { hash: name, stored_bytes, stored_digest, ..*entry })
            },
            |entry: Result<ChunkEntry>| {
                entries.push((entry?, old[entries.len()]));
                Ok(())
            },
        )?;
        let mut manifest = source.manifest().clone();
        manifest.chunks =
            entries.iter().map(|(new, old)| ChunkEntry { hash: old.hash, ..*new }).collect();
        let names: Vec<ChunkHash> = entries.iter().map(|(new, _)| new.hash).collect();
        manifest.rename(&names, to.map(|to| to.seal.clone()));
        entries.sort_by_key(|(new, _)| new.hash);
        let from = entries.into_iter().map(|(_, old)| old).collect();
        Ok(Resealed { source, to, manifest, from })
    }

    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Writes its tar.
    pub fn write(&self, out: &mut impl Write) -> Result<()> {
        let (text, _) = self.manifest.encode()?;
        tar::write(out, &self.manifest, &text, |put| {
            let entries = self.manifest.chunks.iter().zip(&self.from);
            parallel::in_order(
                entries,
                |(new, old)| {
                    let data = restored(&self.source, self.to, old, new.hash)?;
                    new.check_stored(&data).map(|()| data)
                },
                |data| put(data?),
            )
        })
    }
}

/// What is stored of a chunk under another seal, and name.
fn restored(
    source: &Source,
    to: Option<&Sealing>,
    old: &ChunkEntry,
    name: ChunkHash,
) -> Result<Vec<u8>> {
    let data = source.stored(old)?;
    old.check_stored(&data)?;
    let frame = chunk::frame(old.hash, &data, source.keys())?.into_owned();
    Ok(chunk::stored(name, frame, to.map(|to| &*to.keys)))
}

#[cfg(test)]
mod tests;
