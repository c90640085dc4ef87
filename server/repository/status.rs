//! What is in a repository: its histories, how much they hold, and what nothing refers to.
//!
//! An interrupted import leaves objects that no snapshot names. They harm nobody but by their
//! bytes; they are counted here, and not told apart from those of an import that is under way.
//! `collect` deletes them.

use std::collections::BTreeSet;

use serde::Serialize;

use super::{
    care::Care,
    catalogue::{self, Standing},
    collect::References,
    key::SLOTS,
    reports,
    root::Repository,
    signature::PublicKey,
    store::Object,
    trust::VOUCHERS,
};
use crate::base::{clock::Clock, error::Result};

/// What is in a repository.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Status {
    pub repository: String,
    pub place: String,
    pub sealed: bool,
    /// It is sealed, and its key is not here: then nothing passes for unnamed.
    pub closed: bool,
    /// Who has signed that it is this repository.
    pub signed: Vec<String>,
    pub histories: Vec<History>,
    /// Bytes of all objects.
    pub bytes: u64,
    #[serde(flatten)]
    pub care: Care,
    /// Objects that are to be deleted once their grace is over, and their bytes.
    pub dropped: u64,
    pub dropped_bytes: u64,
    /// Objects that no snapshot names, and their bytes.
    pub unnamed: u64,
    pub unnamed_bytes: u64,
    /// Snapshots that cannot be read, and why. While there are any, nothing passes for unnamed.
    pub unreadable: Vec<String>,
}

/// What one history of one cluster has stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct History {
    #[serde(rename = "cluster_id")]
    pub cluster: String,
    pub lineage: String,
    pub snapshots: u64,
    /// Bytes of all chunks of all snapshots, each counted by itself.
    pub stored_bytes: u64,
    #[serde(rename = "newest_uuid")]
    pub newest: String,
    pub newest_seq: u64,
    /// Since 1970.
    pub newest_written_ms: u64,
    /// The newest catalogue, as CLUSTER/LINEAGE/N.
    pub catalogue: String,
    /// The history that it goes on in, as CLUSTER/LINEAGE, if that has adopted it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adopted_by: Option<String>,
}

/// Reads every snapshot and every index.
pub fn status(repository: &Repository) -> Result<Status> {
    let objects = repository.store.list("")?;
    let (mut histories, mut unreadable) = (Vec::new(), Vec::new());
    let mut named = BTreeSet::from([super::root::ROOT.to_owned()]);
    let mut dropped = BTreeSet::new();
    let standings = repository.standings()?;
    let care = Care::of(repository, &standings, Clock::start().wall_ms())?;
    for standing in standings {
        let mark = standing.mark();
        let Standing { folder, catalogue, damaged, .. } = standing;
        unreadable.extend(damaged);
        let mut references = References::default();
        for entry in catalogue.snapshots.iter().filter(|_| !repository.is_closed()) {
            match references.of(repository, folder, entry) {
                Ok(names) => named.extend(names.iter().map(|name| folder.object(name))),
                Err(e) => unreadable.push(format!("{}: {}", entry.snapshot, e.message)),
            }
        }
        let going = catalogue.dropped.iter().flat_map(|dropped| &dropped.objects);
        dropped.extend(going.map(|name| folder.object(name)));
        let Some(newest) = catalogue.snapshots.last() else { continue };
        histories.push(History {
            cluster: folder.cluster.to_string(),
            lineage: folder.lineage.to_string(),
            snapshots: catalogue.snapshots.len() as u64,
            stored_bytes: catalogue.snapshots.iter().map(|entry| entry.stored_bytes).sum(),
            newest: newest.snapshot.to_string(),
            newest_seq: newest.seq.0,
            newest_written_ms: newest.written_ms,
            catalogue: mark.to_string(),
            adopted_by: catalogue.adopted.map(|adopted| adopted.by().name()),
        });
    }
    let is_apart = |object: &&Object| {
        object.name.split('/').next().is_some_and(|folder| {
            [catalogue::FOLDER, SLOTS, VOUCHERS].contains(&folder)
                || reports::FOLDERS.contains(&folder)
        })
    };
    let left = objects.iter().filter(|object| !is_apart(object));
    let left = left.filter(|object| !named.contains(&object.name));
    let (going, unnamed): (Vec<&Object>, Vec<&Object>) =
        left.partition(|object| dropped.contains(&object.name));
    // Without the key nobody knows what is named.
    let all_known = unreadable.is_empty() && !repository.is_closed();
    let unnamed = if all_known { unnamed } else { Vec::new() };
    let bytes = |objects: &[&Object]| objects.iter().map(|object| object.bytes).sum();
    Ok(Status {
        repository: repository.id.to_string(),
        place: repository.store.place(),
        sealed: repository.is_sealed(),
        closed: repository.is_closed(),
        signed: repository.signers().iter().map(PublicKey::to_string).collect(),
        histories,
        bytes: objects.iter().map(|object| object.bytes).sum(),
        dropped: going.len() as u64,
        dropped_bytes: bytes(&going),
        care,
        unnamed: unnamed.len() as u64,
        unnamed_bytes: bytes(&unnamed),
        unreadable,
    })
}
