//! A snapshot of parts that lie here, into a repository.
//!
//! The parts are verified first, down to the last byte, and refused together if anything is wrong
//! with one of them or they do not hold every partition. Then each group is taken from the first
//! part that has it and sent (`send`), and the snapshot is made of them (`commit`).
//!
//! Import it again, whole or after an interruption, and the same snapshot stands there once.

use std::{collections::BTreeSet, path::Path};

use serde::Serialize;

use super::{
    commit::{Commit, Made, part_of, root_of},
    manifest,
    root::{Folder, Repository},
    send::{Destination, Part, Unwatched, send},
    trust::Mark,
};
use crate::{
    base::{
        error::{Error, Result},
        ids::GroupId,
    },
    part::{chunk::Digest, set, source::Source},
};

/// What an import came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Imported {
    #[serde(rename = "uuid")]
    pub snapshot: String,
    pub seq: u64,
    #[serde(rename = "cluster_id")]
    pub cluster: String,
    pub lineage: String,
    /// It was there before, with the same rows.
    pub was_there: bool,
    pub parts: usize,
    pub rows: u64,
    /// Bytes of all chunks of the snapshot.
    pub stored_bytes: u64,
    /// Bytes of those that had to be stored.
    pub new_bytes: u64,
    /// Bytes of the chunks of all parts that were given.
    pub given_bytes: u64,
    pub root: Digest,
    /// The newest catalogue of the history then, as CLUSTER/LINEAGE/N.
    pub catalogue: String,
    /// What of the snapshot before cannot be read, so that its rows were stored again.
    pub lost: Vec<String>,
    /// Catalogues that could not be read, and that this import has made up for.
    pub damaged: Vec<String>,
}

impl Imported {
    fn of(at: Mark, made: Made, parts: &[Source], lost: Vec<String>) -> Imported {
        let Made { snapshot, was_there, damaged } = made;
        Imported {
            snapshot: snapshot.snapshot.to_string(),
            seq: snapshot.seq.0,
            cluster: snapshot.cluster.to_string(),
            lineage: snapshot.lineage.to_string(),
            was_there,
            parts: parts.len(),
            rows: snapshot.rows,
            stored_bytes: snapshot.stored_bytes,
            new_bytes: if was_there { 0 } else { snapshot.new_bytes },
            given_bytes: parts.iter().map(|part| part.manifest().stored_bytes()).sum(),
            root: snapshot.root,
            catalogue: at.to_string(),
            lost,
            damaged,
        }
    }
}

/// Imports the parts of one snapshot.
pub fn import<P: AsRef<Path>>(repository: &Repository, paths: &[P]) -> Result<Imported> {
    repository.is_open_to_additions()?;
    refuse_at_sight(paths)?;
    let report = set::verify_set(paths, None);
    if !report.is_whole() {
        return Err(Error::corrupt(format!(
            "something is wrong with the parts, and nothing was imported:\n{}",
            report.wrong()
        )));
    }
    if !report.complete {
        return Err(Error::conflict(format!(
            "the parts hold {} of {} partitions{}: give parts of more nodes",
            report.partitions_covered,
            report.partitions,
            if report.meta_copies == 0 { " and no meta group" } else { "" }
        )));
    }
    let parts = paths.iter().map(|path| Source::open(path.as_ref()));
    let mut parts = parts.collect::<Result<Vec<Source>>>()?;
    parts.sort_by_key(|part| part.manifest().node);
    let any = parts.first().expect("no parts hold no partition").manifest();
    let commit = Commit {
        repository: repository.clone(),
        folder: Folder { cluster: any.cluster, lineage: any.lineage },
        seq: any.seq,
        snapshot: any.snapshot,
        partitions: any.topology.partitions(),
        groups: any.topology.groups(),
        schedule: None,
    };
    // Every group, each from the first part that has it; the meta group last.
    let groups = any.topology.group_ids().chain([GroupId::META]).map(|group| {
        let has = |part: &&Source| match group.is_meta() {
            true => part.manifest().meta.is_some(),
            false => part.manifest().group(group).is_some(),
        };
        (group, parts.iter().find(has).expect("the parts hold every group"))
    });
    let groups: Vec<(GroupId, &Source)> = groups.collect();
    let roots = groups.iter().map(|(group, part)| root_of(part.manifest(), *group));
    let root = manifest::root(roots.collect::<Result<Vec<Digest>>>()?.into_iter());
    if let Some(there) = commit.there(&root)? {
        let at = repository.standing(commit.folder)?.mark();
        return Ok(Imported::of(at, there, &parts, Vec::new()));
    }
    let mut lost = Vec::new();
    let base = commit.base(&mut lost)?;
    let to =
        Destination { repository, folder: commit.folder, seq: commit.seq, base: base.as_ref() };
    let wanted = groups.iter().map(|(group, part)| (*group, *part as &dyn Part));
    let sent = send(to, &wanted.collect::<Vec<_>>(), &Unwatched)?;
    lost.extend(sent.lost);
    let of_parts = parts.iter().map(|part| part_of(part.manifest())).collect();
    let base = base.map(|base| base.seq);
    let made = commit.make(of_parts, &sent.groups, sent.new_bytes, base)?;
    let at = repository.standing(commit.folder)?.mark();
    Ok(Imported::of(at, made, &parts, lost))
}

/// Refuses what the manifests alone tell, before anything is verified. Chunks of a sealed part have
/// names of one node's seal, so no two replicas would be equal.
fn refuse_at_sight<P: AsRef<Path>>(paths: &[P]) -> Result<()> {
    let mut snapshots = BTreeSet::new();
    for path in paths.iter().map(AsRef::as_ref) {
        // What cannot be read is named with everything else that is wrong.
        let Ok(source) = Source::open(path) else { continue };
        snapshots.insert(source.manifest().snapshot.to_string());
        if let Some(seal) = &source.manifest().seal {
            return Err(Error::conflict(format!(
                "{} is sealed to {}: unseal it first (ddbctl snapshot unseal)",
                path.display(),
                seal.named()
            )));
        }
    }
    match snapshots.len() {
        0 | 1 => Ok(()),
        several => Err(Error::invalid(format!(
            "the parts are of {several} snapshots, {}: import those of one snapshot at a time",
            snapshots.into_iter().collect::<Vec<_>>().join(" and ")
        ))),
    }
}
