//! Makes catalogues again where they are damaged or missing: of the newest one of a history that
//! can be read, and of the snapshots that stand there, are whole, and are neither listed nor void.
//!
//! What a catalogue that is gone alone had dropped is listed again, if it is still whole: nobody
//! can tell. So nothing is done by itself; an operator asks for it, and drops it again.
//!
//! Of a signed repository nothing is listed again: what no signed catalogue lists may be anybody's.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::{
    catalogue::Step,
    collect::References,
    cover::Cover,
    entry::Entry,
    root::{Folder, Repository},
};
use crate::{
    base::{
        error::{Error, Result},
        limits,
    },
    part::chunk::Digest,
};

/// What was repaired.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Repaired {
    /// Catalogues that could not be read, and why.
    pub damaged: Vec<String>,
    /// Snapshots that are listed again.
    pub listed: Vec<String>,
    /// Objects of snapshots that are not, and why.
    pub refused: Vec<String>,
}

pub fn repair(repository: &Repository) -> Result<Repaired> {
    let mut standing: BTreeMap<Folder, BTreeMap<String, u64>> = BTreeMap::new();
    for object in repository.store.list("")? {
        if let Some((folder, relative)) = Folder::split(&object.name) {
            standing.entry(folder).or_default().insert(relative.to_owned(), object.bytes);
        }
    }
    let folders: BTreeSet<Folder> =
        standing.keys().copied().chain(repository.catalogues()?.into_keys()).collect();
    let mut repaired = Repaired::default();
    for folder in folders {
        let objects = standing.remove(&folder).unwrap_or_default();
        let damaged = repository.standing(folder)?.damaged;
        let (listed, refused) = repository.amend(folder, |next| {
            let (mut listed, mut refused) = (Vec::new(), Vec::new());
            let unknown = objects.keys().filter(|name| name.starts_with("s/"));
            for name in unknown {
                if next.knows(name) {
                    continue;
                }
                let whole = match repository.signing_key()? {
                    // Nobody can tell who has stored it.
                    Some(_) => Err(Error::denied(format!(
                        "{} is not listed: no signed catalogue lists it",
                        folder.object(name)
                    ))),
                    None => entry(repository, folder, name, &objects),
                };
                match whole {
                    Ok(entry) => {
                        listed.push(entry.snapshot.to_string());
                        next.list(entry);
                    }
                    Err(e) => refused.push(e.message),
                }
            }
            Ok(match listed.is_empty() {
                true => Step::Is((listed, refused)),
                false => Step::Becomes((listed, refused)),
            })
        })?;
        repaired.damaged.extend(damaged);
        repaired.listed.extend(listed);
        repaired.refused.extend(refused);
    }
    Ok(repaired)
}

/// What a catalogue says of a snapshot all of whose objects are there.
fn entry(
    repository: &Repository,
    folder: Folder,
    object: &str,
    objects: &BTreeMap<String, u64>,
) -> Result<Entry> {
    let name = folder.object(object);
    let text = repository.store.read(&name, limits::MANIFEST_BYTES_MAX as u64)?;
    let snapshot = repository.parse_snapshot(folder, object, &text)?;
    let digest = Digest(blake3::hash(&text).into());
    let entry = Entry::of(&Cover::of(&snapshot), object, digest, snapshot.written_ms);
    let mut references = References::default();
    let needed = references.of(repository, folder, &entry)?;
    match needed.iter().find(|needed| !objects.contains_key(*needed)) {
        Some(absent) => Err(Error::corrupt(format!(
            "{name} is not listed: {} is missing",
            folder.object(absent)
        ))),
        None => Ok(entry),
    }
}
