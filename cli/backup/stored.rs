//! A backup of the cluster in a repository, where its nodes have none of their own to upload to.
//!
//! The parts come to this machine, are verified here, and go into the repository as `ddbctl
//! repository import` takes them, so rows that are there already are not stored again. Meanwhile
//! they lie in a directory of their own, which a run that goes on with the same snapshot finds
//! again.
//!
//! Counted and removed are only snapshots of the cluster and history of the new one that no
//! schedule has taken and nobody holds. Where the new one holds less than half of what one of them
//! holds, nothing is removed.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
};

use super::{Done, fetched, local, make_directory, settled, verified};
use crate::{
    base::{clock::Clock, error::Error, ids::SnapshotId, limits},
    ctl::{
        args::BackupTo,
        client::Client,
        place::{failed, open},
        snapshot::deletion,
        term::{
            exit::{self, Failure},
            output::Console,
            text::counted,
        },
    },
    repository::{
        collect::{self, Order},
        entry::Entry,
        import,
        root::{Folder, Repository},
    },
};

pub async fn run(
    place: &str,
    args: BackupTo,
    client: &mut Client,
    console: &mut Console,
) -> Result<(), Failure> {
    let BackupTo { key, keep, uuid, accept_smaller, wait_timeout, parallel, scratch, .. } = args;
    let repository = open(place, key)?;
    let uuid = uuid.unwrap_or_else(|| SnapshotId(client.draw_id()));
    let scratch = scratch.unwrap_or_else(env::temp_dir).join(format!("devicedb-backup-{uuid}"));
    make_directory(&scratch)?;
    let (found, absent) = settled(uuid, wait_timeout, client, console).await?;
    let parts = fetched(uuid, found, &scratch, parallel, client, console).await?;
    verified(&parts, &scratch)?;
    let tars: Vec<PathBuf> = parts.iter().map(|part| PathBuf::from(&part.path)).collect();
    let imported = import::import(&repository, &tars);
    let imported = imported.map_err(|e| failed("the backup is not stored", place, &e))?;
    for lost in imported.lost.iter().chain(&imported.damaged) {
        console.warn(lost);
    }
    fs::remove_dir_all(&scratch).map_err(|e| local("cannot be removed", &scratch, &e))?;

    let entry = repository.find_entry(uuid).map_err(|e| failed("it is not found", place, &e))?;
    let ours = counted_with(&repository, entry.0).map_err(|e| failed("no list", place, &e))?;
    compare(&ours, uuid, accept_smaller)?;
    let old: BTreeSet<SnapshotId> =
        ours[..ours.len().saturating_sub(keep)].iter().map(|entry| entry.snapshot).collect();
    let removed = take_out(&repository, place, old, client).await?;
    let done = Done {
        uuid: uuid.to_string(),
        cluster_id: imported.cluster,
        lineage: imported.lineage,
        directory: place.to_owned(),
        parts: imported.parts,
        absent,
        bytes: imported.new_bytes,
        rows: imported.rows,
        removed,
        others: Vec::new(),
    };
    console.confirm(&done.words());
    console.print(&done)
}

/// The snapshots of a history that backups have made, in the order in which they were taken.
fn counted_with(repository: &Repository, folder: Folder) -> Result<Vec<Entry>, Error> {
    let mut entries = repository.standing(folder)?.catalogue.snapshots;
    entries.retain(|entry| entry.schedule.is_none() && entry.hold.is_none());
    entries.sort_by_key(|entry| entry.seq);
    Ok(entries)
}

/// Refuses to go on where the new one holds much less than one before it.
fn compare(ours: &[Entry], new: SnapshotId, accept_smaller: bool) -> Result<(), Failure> {
    let Some(at) = ours.iter().position(|entry| entry.snapshot == new) else { return Ok(()) };
    let now = &ours[at];
    let Some(before) = ours[..at].iter().find(|then| 2 * now.rows < then.rows) else {
        return Ok(());
    };
    if accept_smaller {
        return Ok(());
    }
    let held = |entry: &Entry| counted(entry.rows, "row");
    Err(Failure::new(
        exit::NOT_FOUND,
        format!(
            "the backup is whole, and nothing was removed: {} holds {}, and {} holds {}",
            now.snapshot,
            held(now),
            before.snapshot,
            held(before)
        ),
        "",
        "if that is right, say --accept-smaller until the larger ones are gone",
    ))
}

/// Takes snapshots out of the repository and the cluster. What was taken out.
async fn take_out(
    repository: &Repository,
    place: &str,
    old: BTreeSet<SnapshotId>,
    client: &mut Client,
) -> Result<Vec<String>, Failure> {
    if old.is_empty() {
        return Ok(Vec::new());
    }
    let order = Order {
        keep: Default::default(),
        schedule: None,
        named: old.clone(),
        grace_ms: limits::BACKUP_GRACE_MS,
        now_ms: Clock::start().wall_ms(),
        own: None,
        trust_clock: false,
        dry_run: false,
    };
    let taken = collect::all(repository, &order);
    let taken = taken.map_err(|e| failed("older ones are not taken out", place, &e))?;
    if let Some(refused) = taken.iter().flat_map(|history| &history.refused).next() {
        let what = format!("the backup is whole, and not all older ones are taken out: {refused}");
        return Err(Failure::new(exit::FAILED, what, place, "see ddbctl repository collect"));
    }
    for snapshot in &old {
        match deletion::remove(*snapshot, None, client).await {
            Ok(_) => {}
            // A cluster that was restored does not delete what the one before it took.
            Err(failure) if failure.exit == exit::NOT_FOUND => {}
            Err(failure) => return Err(failure),
        }
    }
    Ok(old.iter().map(SnapshotId::to_string).collect())
}

/// Whether a place is a repository, or lies in an object store, where nothing else can be.
pub fn is_repository(to: &Path) -> bool {
    to.to_str().is_some_and(|text| text.contains("://"))
        || to.join(crate::repository::root::ROOT).exists()
}
