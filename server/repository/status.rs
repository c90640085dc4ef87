//! What is in a repository: its histories, how much they hold, and what nothing refers to.
//!
//! An interrupted import leaves objects that no snapshot names. They harm nobody but by their
//! bytes; they are counted here, and not told apart from those of an import that is under way.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::{
    cover::Cover,
    key::SLOTS,
    root::{Folder, Repository},
};
use crate::base::{error::Result, ids::SnapshotSeq};

/// What is in a repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    pub repository: String,
    pub place: String,
    pub sealed: bool,
    /// It is sealed, and its key is not here: then nothing passes for unnamed.
    pub closed: bool,
    pub histories: Vec<History>,
    /// Bytes of all objects.
    pub bytes: u64,
    /// Objects that no snapshot names, and their bytes.
    pub unnamed: u64,
    pub unnamed_bytes: u64,
    /// Snapshots that cannot be read, and why. While there are any, nothing passes for unnamed.
    pub unreadable: Vec<String>,
}

/// What one history of one cluster has stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct History {
    pub cluster: String,
    pub lineage: String,
    pub snapshots: u64,
    /// Bytes of all chunks of all snapshots, each counted by itself.
    pub stored_bytes: u64,
    pub newest: String,
    pub newest_seq: u64,
    /// RFC 3339, UTC.
    pub newest_written: String,
}

/// Reads every snapshot and every index.
pub fn status(repository: &Repository) -> Result<Status> {
    let objects = repository.store.list("")?;
    let mut histories: BTreeMap<Folder, History> = BTreeMap::new();
    let (mut named, mut unreadable) = (BTreeSet::from([super::root::ROOT.to_owned()]), Vec::new());
    for (folder, seq) in repository.names()? {
        let name = folder.snapshot(seq);
        let read = match repository.is_closed() {
            true => repository.cover(folder, seq),
            false => names_of(repository, folder, seq, &mut named),
        };
        named.insert(name.clone());
        match read {
            Ok(None) => {}
            Err(e) => unreadable.push(format!("{name}: {}", e.message)),
            Ok(Some(cover)) => {
                let history = histories.entry(folder).or_insert_with(|| History {
                    cluster: folder.cluster.to_string(),
                    lineage: folder.lineage.to_string(),
                    snapshots: 0,
                    stored_bytes: 0,
                    newest: String::new(),
                    newest_seq: 0,
                    newest_written: String::new(),
                });
                history.snapshots += 1;
                history.stored_bytes += cover.stored_bytes;
                history.newest = cover.snapshot.to_string();
                history.newest_seq = cover.seq.0;
                history.newest_written = cover.written;
            }
        }
    }
    let unnamed: Vec<u64> = match unreadable.is_empty() && !repository.is_closed() {
        true => {
            let is_named =
                |name: &str| named.contains(name) || name.split('/').next() == Some(SLOTS);
            let left = objects.iter().filter(|object| !is_named(&object.name));
            left.map(|object| object.bytes).collect()
        }
        false => Vec::new(),
    };
    Ok(Status {
        repository: repository.id.to_string(),
        place: repository.store.place(),
        sealed: repository.is_sealed(),
        closed: repository.is_closed(),
        histories: histories.into_values().collect(),
        bytes: objects.iter().map(|object| object.bytes).sum(),
        unnamed: unnamed.len() as u64,
        unnamed_bytes: unnamed.iter().sum(),
        unreadable,
    })
}

/// A snapshot, and the names of all that it names.
fn names_of(
    repository: &Repository,
    folder: Folder,
    seq: SnapshotSeq,
    named: &mut BTreeSet<String>,
) -> Result<Option<Cover>> {
    let Some(snapshot) = repository.snapshot(folder, seq)? else { return Ok(None) };
    for held in &snapshot.held {
        let index = repository.index(folder, &held.index)?;
        named.insert(folder.object(&held.index.object));
        named.extend(index.segments.iter().map(|segment| folder.object(&segment.name)));
    }
    Ok(Some(Cover::of(&snapshot)))
}
