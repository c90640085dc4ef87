//! `ddbctl backup`: a whole backup of the cluster in a directory, in one line for cron.
//!
//! A backup is a directory TIME-UUID with the tar of each node that has a part. Until every byte of
//! it is verified and durable it is called TIME-UUID.partial, so half a backup never looks like
//! one. The examples of the Python and Go clients write and read the same names.
//!
//! - It says nothing when all is well, unless somebody looks on or asks for a document. Parts that
//!   are not there are warnings.
//! - Only backups of the cluster and history of the new one are counted and removed, here and in
//!   the cluster. Those of another cluster, or of the time before a restore, are left to a person.
//! - Where the new backup holds less than half of what an earlier one holds, nothing is removed: an
//!   empty cluster may have taken the place of a full one.
//! - A repository takes the parts as `stored` has it.
//! - One run at a time writes to a directory. What interrupted runs have left goes with the next
//!   run that ends well.

mod stored;

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use indicatif::HumanBytes;
use serde::Serialize;

use super::{
    args::{self, Span},
    client::Client,
    snapshot::{
        self, deletion,
        download::{self, Fetched},
        judge, wait,
    },
    term::{
        exit::{self, Failure},
        output::{Console, Look, View},
        text::counted,
    },
};
use crate::{
    base::{
        flock::Flock,
        ids::{ClusterId, Lineage, PartitionId, SnapshotId, SnapshotSeq},
    },
    part::{manifest::rfc3339, set, source::Source},
    proto::v1::{self, SnapshotStatus as Status},
};

/// What the name of a backup ends with that is not whole.
const PARTIAL: &str = ".partial";
/// An empty file in a backup that holds much less than those before it, and is right.
const ACCEPTED: &str = "accepted-smaller";
const LOCK: &str = ".lock";

/// A backup that is whole.
#[derive(Debug, Serialize)]
struct Done {
    uuid: String,
    cluster_id: String,
    lineage: String,
    directory: String,
    /// Nodes of which there is a part.
    parts: usize,
    /// What is said of nodes of which there is none.
    absent: Vec<String>,
    bytes: u64,
    rows: u64,
    /// Backups and left-overs that were removed.
    removed: Vec<String>,
    /// Directories of other clusters or histories, which are never removed.
    others: Vec<String>,
}

impl View for Done {
    fn text(&self, _: Look) -> String {
        String::new()
    }
}

impl Done {
    fn words(&self) -> String {
        let bytes = HumanBytes(self.bytes);
        let (parts, rows) = (counted(self.parts as u64, "part"), counted(self.rows, "row"));
        let removed = match self.removed.len() as u64 {
            0 => String::new(),
            count => format!("; removed {}", counted(count, "older one")),
        };
        format!("{}: {parts}, {bytes}, {rows}{removed}", self.directory)
    }
}

pub async fn run(
    args: args::BackupTo,
    client: &mut Client,
    console: &mut Console,
) -> Result<(), Failure> {
    let to = args.to.clone().unwrap_or_default();
    if !console.draws() {
        console.hush();
    }
    if stored::is_repository(&to) {
        return stored::run(&to.to_string_lossy(), args, client, console).await;
    }
    let args::BackupTo { keep, uuid, accept_smaller, wait_timeout, parallel, .. } = args;
    let _lock = locked(&to)?;
    let uuid = uuid.unwrap_or_else(|| SnapshotId(client.draw_id()));
    let (found, absent) = settled(uuid, wait_timeout, client, console).await?;
    let name = name_of(found.created_ms, uuid);
    let (aside, whole) = (to.join(format!("{name}{PARTIAL}")), to.join(&name));
    if !whole.exists() {
        make_directory(&aside)?;
        let fetched = fetched(uuid, found, &aside, parallel, client, console).await?;
        verified(&fetched, &aside)?;
        sync(&aside)?;
        fs::rename(&aside, &whole).map_err(|e| local("cannot be renamed", &aside, &e))?;
        sync(&to)?;
    }
    if accept_smaller {
        File::create(whole.join(ACCEPTED)).map_err(|e| local("cannot be written", &whole, &e))?;
    }
    let backups = Backups::of(&to, &whole)?;
    backups.compare()?;
    let removed = backups.prune(keep, client).await?;
    let done = Done {
        uuid: uuid.to_string(),
        cluster_id: backups.newest.cluster.to_string(),
        lineage: backups.newest.lineage.to_string(),
        directory: whole.display().to_string(),
        parts: backups.newest.parts,
        absent,
        bytes: backups.newest.stored,
        rows: backups.newest.rows,
        removed,
        others: backups.others.iter().map(|path| path.display().to_string()).collect(),
    };
    console.confirm(&done.words());
    console.print(&done)
}

/// Takes a snapshot, or goes on with one, until every node has a part or will have none. What is
/// said of those that have none.
async fn settled(
    uuid: SnapshotId,
    wait_timeout: Span,
    client: &mut Client,
    console: &mut Console,
) -> Result<(v1::Snapshot, Vec<String>), Failure> {
    let mut quiet = console.beside(1).remove(0);
    let (begun, warning) = snapshot::create(Some(uuid), client).await?;
    if !warning.is_empty() {
        console.warn(&warning);
    }
    console.on_interrupt(format!("go on with ddbctl backup --uuid {uuid}"));
    let (taken, absent) = wait::settled(begun, wait_timeout.0, client, &mut quiet).await?;
    judge(&taken)?;
    absent.iter().for_each(|part| console.warn(part));
    Ok((snapshot::find(uuid, client).await?.0, absent))
}

/// Fetches every part that is whole into a directory.
async fn fetched(
    uuid: SnapshotId,
    found: v1::Snapshot,
    into: &Path,
    parallel: u8,
    client: &mut Client,
    console: &mut Console,
) -> Result<Vec<Fetched>, Failure> {
    let mut quiet = console.beside(1).remove(0);
    let parts: Vec<_> =
        found.parts.into_iter().filter(|part| part.status() == Status::Completed).collect();
    let parallel = parallel.into();
    let ends = download::at_once(parallel, uuid, parts, into, true, client, &mut quiet).await;
    ends.into_iter().collect()
}

fn locked(to: &Path) -> Result<Flock, Failure> {
    make_directory(to)?;
    let path = to.join(LOCK);
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(|e| local("cannot be opened", &path, &e))?;
    Flock::try_on(file).map_err(|_| {
        Failure::new(
            exit::NOT_FOUND,
            "another backup is being written there",
            to.display().to_string(),
            "wait until it has ended",
        )
    })
}

fn make_directory(path: &Path) -> Result<(), Failure> {
    let made = DirBuilder::new().mode(0o700).recursive(true).create(path);
    made.map_err(|e| local("the directory cannot be made", path, &e))
}

fn local(what: &str, path: &Path, e: &io::Error) -> Failure {
    Failure::new(exit::FAILED, format!("{what}: {e}"), path.display().to_string(), "")
}

/// Makes names in a directory durable.
fn sync(directory: &Path) -> Result<(), Failure> {
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    synced.map_err(|e| local("cannot be made durable", directory, &e))
}

/// Every byte, and that the cluster comes back from these parts.
fn verified(fetched: &[Fetched], aside: &Path) -> Result<(), Failure> {
    let paths: Vec<&str> = fetched.iter().map(|part| part.path.as_str()).collect();
    let report = set::verify_set(&paths, None);
    if report.is_whole() && report.restorable {
        return Ok(());
    }
    let what = if report.is_whole() {
        let missing = report.groups_without_majority.join(", ");
        format!("the parts do not bring the cluster back: groups without a majority: {missing}")
    } else {
        report.wrong()
    };
    Err(Failure::new(
        exit::NOT_VERIFIED,
        format!("the backup is not whole: {what}"),
        aside.display().to_string(),
        "see ddbctl cluster health, and run it again",
    ))
}

/// The name of a backup: in a sorted list it stands in the order of time.
fn name_of(created_ms: u64, uuid: SnapshotId) -> String {
    let time: String = rfc3339(created_ms).chars().filter(|c| !"-:".contains(*c)).collect();
    let seconds = time.split_once('.').map_or(time.as_str(), |(seconds, _)| seconds);
    format!("{seconds}Z-{uuid}")
}

/// Whose backup a name is, if this program or an example gave it: nothing else is ever removed.
fn snapshot_of(name: &str) -> Option<SnapshotId> {
    let (time, uuid) = name.split_once('-')?;
    let (day, clock) = time.strip_suffix('Z')?.split_once('T')?;
    let digits =
        |text: &str, count| text.len() == count && text.bytes().all(|b| b.is_ascii_digit());
    let parsed: SnapshotId = uuid.parse().ok()?;
    (digits(day, 8) && digits(clock, 6) && parsed.to_string() == uuid).then_some(parsed)
}

/// What a backup says that it holds, by its manifests.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Summary {
    cluster: ClusterId,
    lineage: Lineage,
    seq: SnapshotSeq,
    parts: usize,
    /// Of each partition once.
    rows: u64,
    bytes: u64,
    /// Of all tars.
    stored: u64,
}

impl Summary {
    /// None where no part says it. Of a backup that is not whole, what its parts say so far.
    fn of(backup: &Path) -> Option<Summary> {
        let mut found: Option<Summary> = None;
        let mut partitions: BTreeMap<PartitionId, (u64, u64)> = BTreeMap::new();
        for path in tars(backup) {
            let Ok(source) = Source::open(&path) else { continue };
            let stored = fs::metadata(&path).map_or(0, |file| file.len());
            let manifest = source.manifest();
            let summary = found.get_or_insert(Summary {
                cluster: manifest.cluster,
                lineage: manifest.lineage,
                seq: manifest.seq,
                parts: 0,
                rows: 0,
                bytes: 0,
                stored: 0,
            });
            summary.parts += 1;
            summary.stored += stored;
            for (_, partition) in manifest.partitions() {
                let most = partitions.entry(partition.id).or_default();
                *most = (most.0.max(partition.rows), most.1.max(partition.bytes));
            }
        }
        let summary = found.as_mut()?;
        summary.rows = partitions.values().map(|(rows, _)| rows).sum();
        summary.bytes = partitions.values().map(|(_, bytes)| bytes).sum();
        found
    }

    fn is_like(&self, other: &Summary) -> bool {
        (self.cluster, self.lineage) == (other.cluster, other.lineage)
    }

    fn held(&self) -> String {
        format!("{} of {}", counted(self.rows, "row"), counted(self.bytes, "byte"))
    }
}

/// The tars of a backup, and those of a part that has not come whole.
fn tars(backup: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(backup) else { return Vec::new() };
    let is_tar = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().contains(".tar"))
    };
    let mut paths: Vec<PathBuf> =
        entries.filter_map(|entry| Some(entry.ok()?.path())).filter(is_tar).collect();
    paths.sort();
    paths
}

/// What a directory holds.
struct Backups {
    /// The one that was just made.
    whole: PathBuf,
    newest: Summary,
    /// Those of its cluster and history, and itself, in the order in which they were taken,
    /// whatever clocks said then.
    ours: Vec<(PathBuf, SnapshotId, Summary)>,
    /// What interrupted runs have left.
    left: Vec<(PathBuf, SnapshotId)>,
    others: Vec<PathBuf>,
}

impl Backups {
    fn of(to: &Path, whole: &Path) -> Result<Backups, Failure> {
        let newest = Summary::of(whole).ok_or_else(|| {
            let place = whole.display().to_string();
            Failure::new(exit::NOT_VERIFIED, "no part of the backup can be read", place, "")
        })?;
        let entries = fs::read_dir(to).map_err(|e| local("cannot be listed", to, &e))?;
        let (mut ours, mut left, mut others) = (Vec::new(), Vec::new(), Vec::new());
        for entry in entries {
            let entry = entry.map_err(|e| local("cannot be listed", to, &e))?;
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            let partial = name.strip_suffix(PARTIAL);
            let Some(snapshot) = snapshot_of(partial.unwrap_or(&name)) else { continue };
            // A link leads to what somebody else keeps.
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let summary = Summary::of(&path);
            // What a run has left before it had a manifest is worth nothing. A whole backup that
            // cannot be read is for a person to look at.
            let is_ours = summary.as_ref().map_or(partial.is_some(), |one| one.is_like(&newest));
            match (is_ours, partial, summary) {
                (true, Some(_), _) => left.push((path, snapshot)),
                (true, None, Some(summary)) => ours.push((path, snapshot, summary)),
                _ => others.push(path),
            }
        }
        ours.sort_by_key(|(_, _, summary)| summary.seq);
        left.sort();
        others.sort();
        Ok(Backups { whole: whole.to_owned(), newest, ours, left, others })
    }

    /// Refuses to go on where the newest, or the one that was just made, holds much less than one
    /// before it.
    fn compare(&self) -> Result<(), Failure> {
        let accepted = self.ours.iter().rposition(|(path, ..)| path.join(ACCEPTED).exists());
        let counted = &self.ours[accepted.unwrap_or(0)..];
        for (at, (path, _, now)) in counted.iter().enumerate() {
            if at + 1 != counted.len() && *path != self.whole {
                continue;
            }
            let is_much_less =
                |then: &Summary| 2 * now.rows < then.rows || 2 * now.bytes < then.bytes;
            if let Some((before, _, then)) =
                counted[..at].iter().find(|(_, _, then)| is_much_less(then))
            {
                return Err(Failure::new(
                    exit::NOT_FOUND,
                    format!(
                        "the backup is whole, and nothing was removed: {} holds {}, and {} holds \
                         {}",
                        path.display(),
                        now.held(),
                        before.display(),
                        then.held()
                    ),
                    "",
                    "if that is right, run it once with --accept-smaller",
                ));
            }
        }
        Ok(())
    }

    /// Removes all but the last so many, and what interrupted runs have left, here and in the
    /// cluster. What was removed.
    async fn prune(&self, keep: usize, client: &mut Client) -> Result<Vec<String>, Failure> {
        let old = self.ours.len().saturating_sub(keep);
        let old = self.ours[..old].iter().filter(|(path, ..)| *path != self.whole);
        let mut removed = Vec::new();
        for (path, snapshot) in old
            .map(|(path, snapshot, _)| (path, snapshot))
            .chain(self.left.iter().map(|(path, snapshot)| (path, snapshot)))
        {
            // Aside first, so that half a backup never looks like one.
            let mut aside = path.clone();
            if path.extension().is_none() {
                aside.set_extension(&PARTIAL[1..]);
                fs::rename(path, &aside).map_err(|e| local("cannot be renamed", path, &e))?;
            }
            match deletion::remove(*snapshot, None, client).await {
                Ok(_) => {}
                // A cluster that was restored does not delete what the one before it took.
                Err(failure) if failure.exit == exit::NOT_FOUND => {}
                Err(failure) => return Err(failure),
            }
            fs::remove_dir_all(&aside).map_err(|e| local("cannot be removed", &aside, &e))?;
            removed.push(path.display().to_string());
        }
        Ok(removed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "5f1c8a9e-0b1d-4a53-9a29-6d4a3f5f0c11";

    #[test]
    fn the_name_of_a_backup_is_known_again_and_nothing_else_is() {
        let uuid: SnapshotId = UUID.parse().unwrap();
        let name = name_of(1_767_225_599_999, uuid);
        assert_eq!(name, format!("20251231T235959Z-{UUID}"));
        assert_eq!(snapshot_of(&name), Some(uuid));
        let upper = UUID.to_uppercase();
        for other in [
            UUID,
            "20251231T235959Z",
            &format!("20251231T235959-{UUID}"),
            &format!("2025123T235959Z-{UUID}"),
            &format!("20251231T23595xZ-{UUID}"),
            &format!("20251231T235959Z-{upper}"),
            &format!("{name}.old"),
            "lost+found",
        ] {
            assert_eq!(snapshot_of(other), None, "{other}");
        }
    }

    fn summary(seq: u64, rows: u64) -> Summary {
        let cluster = ClusterId(uuid::Uuid::nil());
        let (bytes, stored) = (rows * 10, rows * 5);
        Summary {
            cluster,
            lineage: Lineage(1),
            seq: SnapshotSeq(seq),
            parts: 3,
            rows,
            bytes,
            stored,
        }
    }

    /// Backups with so many rows each, of which the last was just made. Those that somebody has
    /// accepted have the mark.
    fn backups(directory: &Path, rows: &[u64], accepted: &[usize]) -> Backups {
        let one = |(at, rows): (usize, &u64)| {
            let path = directory.join(at.to_string());
            fs::create_dir_all(&path).unwrap();
            if accepted.contains(&at) {
                File::create(path.join(ACCEPTED)).unwrap();
            }
            (path, UUID.parse().unwrap(), summary(at as u64, *rows))
        };
        let ours: Vec<_> = rows.iter().enumerate().map(one).collect();
        let (whole, _, newest) = ours.last().cloned().unwrap();
        Backups { whole, newest, ours, left: Vec::new(), others: Vec::new() }
    }

    #[test]
    fn much_less_than_before_is_refused_until_somebody_has_accepted_it() {
        let directory = tempfile::tempdir().unwrap();
        let dir = directory.path();
        backups(&dir.join("grows"), &[10, 20, 30], &[]).compare().unwrap();
        backups(&dir.join("half"), &[10, 20, 10], &[]).compare().unwrap();
        let failure = backups(&dir.join("less"), &[10, 21, 10], &[]).compare().unwrap_err();
        assert_eq!(failure.exit, exit::NOT_FOUND);
        assert!(failure.what.contains("holds 10 rows of 100 bytes"), "{failure}");
        assert!(failure.what.contains("holds 21 rows of 210 bytes"), "{failure}");
        backups(&dir.join("accepted"), &[10, 21, 10], &[2]).compare().unwrap();
        backups(&dir.join("afterwards"), &[10, 21, 10, 9], &[2]).compare().unwrap();
        backups(&dir.join("less again"), &[10, 21, 10, 4], &[2]).compare().unwrap_err();
    }
}
