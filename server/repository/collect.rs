//! Takes snapshots out of a repository, by rules or by name, and deletes what nothing refers to.
//!
//! In two phases. First the next catalogue does not list what goes, makes its numbers void, and
//! says which objects nothing needs any more and from when on they may be deleted. When that time
//! has come they are deleted, and a later catalogue forgets them. Both are steps of one order
//! (`catalogue`), and the rules there are why nobody can come to rely on what is being deleted, and
//! why it harms nobody if a process deletes it that was stopped for a day in between.
//!
//! - An object goes when the number in its name is listed or void and no listed snapshot refers to
//!   it. That takes in what interrupted and lost storing has left. A number that is neither belongs
//!   to storing that is under way; it becomes void, and what was stored for it goes, when a later
//!   snapshot has been listed for `ABANDONED_AFTER`.
//! - While a listed snapshot cannot be read, nobody knows what it refers to, and nothing goes.
//! - What the rules say is `cluster::retention`'s.
//! - A history goes on in the one that has adopted it, and rules go through both as through one
//!   (`line`). Whoever is not its adopter's takes nothing out there.
//! - A clock says when grace is over and when holds end. One that is far ahead of all that it finds
//!   is not believed unless somebody says so.
//!
//! What a writer of a directory was killed over has no name yet, and is in no list (`unfinished`).
//! It goes when nobody has written to it for `ABANDONED_AFTER`; a writer that was stopped for so
//! long in the middle of an object gets an error, and stores it again.
//!
//! Whoever reads a snapshot that goes has the grace to end. After that a name is missing, and that
//! is an error that names it.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::{
    adopt::Line,
    catalogue::{self, Catalogue, Dropped, Step, number_of},
    entry::{Entry, Hold},
    index::Index,
    root::{Folder, Repository},
};
use crate::{
    base::{
        error::{Error, Result},
        ids::{SnapshotId, SnapshotSeq},
        limits,
    },
    cluster::retention::{self, Dated},
    part::manifest::{WRITTEN_MS_MAX, rfc3339},
};

pub use crate::cluster::retention::Keep;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Order {
    pub keep: Keep,
    /// The rules are for snapshots of this schedule alone; all others stay.
    pub schedule: Option<String>,
    /// These go whatever the rules say, unless somebody holds them.
    pub named: BTreeSet<SnapshotId>,
    /// How long what is dropped stays, for whoever reads it.
    pub grace_ms: u64,
    pub now_ms: u64,
    /// The history of the cluster that asks for it, where it is no operator.
    pub own: Option<Folder>,
    /// A clock that is far ahead is right.
    pub trust_clock: bool,
    /// Says what would be, and changes nothing.
    pub dry_run: bool,
}

/// What it came to, in one history.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Collected {
    #[serde(rename = "cluster_id")]
    pub cluster: String,
    pub lineage: String,
    pub dry_run: bool,
    /// Newest first.
    pub snapshots: Vec<Verdict>,
    /// Objects that went to those that are to be deleted, and their bytes.
    pub dropped: u64,
    pub dropped_bytes: u64,
    pub deleted: u64,
    pub deleted_bytes: u64,
    /// Those that are still to be deleted, and when the next may be, in milliseconds since
    /// 1970.
    pub waiting: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_ms: Option<u64>,
    /// What could not be done, and why.
    pub refused: Vec<String>,
}

/// What becomes of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    #[serde(rename = "uuid")]
    pub snapshot: String,
    pub seq: u64,
    /// Since 1970.
    pub written_ms: u64,
    pub stays: bool,
    pub reasons: Vec<String>,
}

/// Which objects listed snapshots refer to. Reads every snapshot and every index once.
#[derive(Default)]
pub struct References {
    /// By the object of the snapshot, in the folder.
    known: BTreeMap<String, BTreeSet<String>>,
    indexes: BTreeMap<(String, u64), Vec<String>>,
}

impl References {
    /// The names of all objects that a snapshot consists of, itself included, in the folder.
    pub fn of(
        &mut self,
        repository: &Repository,
        folder: Folder,
        entry: &Entry,
    ) -> Result<&BTreeSet<String>> {
        if !self.known.contains_key(&entry.object) {
            let kept = repository.kept(folder, entry)?;
            let mut names = BTreeSet::from([entry.object.clone()]);
            for held in &kept.snapshot.held {
                let place = (held.index.object.clone(), held.index.offset);
                if !self.indexes.contains_key(&place) {
                    let Index { segments, .. } = repository.index(folder, &held.index)?;
                    let segments = segments.into_iter().map(|segment| segment.name);
                    self.indexes.insert(place.clone(), segments.collect());
                }
                names.extend(self.indexes[&place].iter().cloned());
                names.insert(place.0);
            }
            self.known.insert(entry.object.clone(), names);
        }
        Ok(&self.known[&entry.object])
    }
}

/// Collects in every history, each with those that it has adopted.
pub fn all(repository: &Repository, order: &Order) -> Result<Vec<Collected>> {
    let lines = Line::all(repository.standings()?).into_iter();
    let collected: Result<Vec<_>> = lines.map(|of| through(repository, &of, order)).collect();
    Ok(collected?.into_iter().flatten().collect())
}

/// Collects in a history and in those that it has adopted.
pub fn line(repository: &Repository, folder: Folder, order: &Order) -> Result<Vec<Collected>> {
    match Line::of(folder, repository.standings()?) {
        Some(of) => through(repository, &of, order),
        None => Ok(vec![collect(repository, folder, order)?]),
    }
}

/// The newest history first: what stays there counts for the rules in those before.
fn through(repository: &Repository, of: &Line, order: &Order) -> Result<Vec<Collected>> {
    let (mut newer, mut all) = (Vec::new(), Vec::new());
    for folder in of.0.iter().rev().map(|standing| standing.folder) {
        let collected = collect_behind(repository, folder, order, &newer)?;
        let left = repository.standing(folder)?.catalogue.snapshots;
        // A dry run leaves what would go.
        let stay = left.into_iter().filter(|entry| {
            let is_one = |one: &&Verdict| one.seq == entry.seq.0;
            collected.snapshots.iter().find(is_one).is_none_or(|one| one.stays)
        });
        newer = stay.chain(newer).collect();
        all.push(collected);
    }
    Ok(all)
}

/// Collects in one history.
pub fn collect(repository: &Repository, folder: Folder, order: &Order) -> Result<Collected> {
    collect_behind(repository, folder, order, &[])
}

/// The same in one that goes on in others, which have these snapshots, oldest first.
fn collect_behind(
    repository: &Repository,
    folder: Folder,
    order: &Order,
    newer: &[Entry],
) -> Result<Collected> {
    let within = format!("{}/", folder.name());
    let objects = repository.store.list(&folder.name())?;
    let objects: BTreeMap<String, u64> = objects
        .into_iter()
        .filter_map(|object| Some((object.name.strip_prefix(&within)?.to_owned(), object.bytes)))
        .collect();
    let mut references = References::default();
    let mut plan = |next: &mut Catalogue| {
        if let Some(adopted) = next.adopted.filter(|_| order.own == Some(folder)) {
            return Err(adopted.refusal(folder));
        }
        let mut collected = Collected {
            cluster: folder.cluster.to_string(),
            lineage: folder.lineage.to_string(),
            dry_run: order.dry_run,
            ..Collected::default()
        };
        let believed = believed(next, order, newer, &mut collected.refused);
        let going = going(next, order, newer, believed, &mut collected)?;
        let mut void = abandoned(next, &objects, believed);
        void.extend(going);
        let any_void = !void.is_empty();
        next.make_void(&void);
        let fresh = match garbage(repository, folder, next, &objects, &mut references) {
            Ok(fresh) => fresh,
            Err(e) => {
                collected.refused.push(format!(
                    "nothing is dropped, since nobody knows what a snapshot that stays refers to: \
                     {e}"
                ));
                collected.snapshots.iter_mut().filter(|one| !one.stays).for_each(|one| {
                    one.stays = true;
                    one.reasons = vec!["a snapshot that stays cannot be read".to_owned()];
                });
                return Ok(Step::Is(collected));
            }
        };
        collected.dropped = fresh.len() as u64;
        collected.dropped_bytes = fresh.iter().filter_map(|name| objects.get(name)).sum();
        if !fresh.is_empty() {
            // The clocks of several machines, the latest counts.
            let from = order.now_ms.max(latest(next, newer));
            let not_before_ms = from.saturating_add(order.grace_ms).min(WRITTEN_MS_MAX);
            next.dropped.push(Dropped { not_before_ms, objects: fresh });
        }
        let changed = any_void || collected.dropped > 0;
        Ok(if changed { Step::Becomes(collected) } else { Step::Is(collected) })
    };
    let mut collected = match order.dry_run {
        true => match plan(&mut repository.standing(folder)?.catalogue)? {
            Step::Is(would) | Step::Becomes(would) => would,
        },
        false => repository.amend(folder, plan)?,
    };
    if !order.dry_run {
        sweep(repository, folder, order, newer, &objects, &mut collected)?;
        trim(repository, folder)?;
    }
    let left = repository.standing(folder)?.catalogue.dropped;
    collected.waiting = left.iter().map(|dropped| dropped.objects.len() as u64).sum();
    collected.next_ms = left.iter().map(|dropped| dropped.not_before_ms).min();
    Ok(collected)
}

/// The latest time that a history knows of, and those that it goes on in.
fn latest(catalogue: &Catalogue, newer: &[Entry]) -> u64 {
    let all = catalogue.snapshots.iter().chain(newer);
    all.map(|entry| entry.written_ms.max(entry.listed_ms)).max().unwrap_or(0)
}

/// The time, if the clock that says it can be believed.
fn believed(
    catalogue: &Catalogue,
    order: &Order,
    newer: &[Entry],
    refused: &mut Vec<String>,
) -> Option<u64> {
    let ahead = order.now_ms.saturating_sub(latest(catalogue, newer));
    if ahead <= limits::CLOCK_AHEAD_MAX_MS || order.trust_clock || catalogue.snapshots.is_empty() {
        return Some(order.now_ms);
    }
    refused.push(format!(
        "this machine's clock, {}, is {} days ahead of all that is stored: nothing is deleted and \
         no hold ends; if it is right, say so (--trust-clock)",
        rfc3339(order.now_ms),
        ahead / 86_400_000
    ));
    None
}

fn going(
    catalogue: &Catalogue,
    order: &Order,
    newer: &[Entry],
    believed: Option<u64>,
    collected: &mut Collected,
) -> Result<BTreeSet<SnapshotSeq>> {
    let ended = |hold: &&Hold| hold.until_ms.zip(believed).is_some_and(|(end, now)| end <= now);
    let of_schedule = |entry: &&Entry| order.schedule.is_none() || entry.schedule == order.schedule;
    // Numbers of several histories say nothing of each other: places in the line do.
    let placed = (1u64..).zip(catalogue.snapshots.iter().chain(newer).filter(of_schedule));
    let dated: Vec<Dated> = placed
        .map(|(place, entry)| Dated {
            seq: SnapshotSeq(place),
            written_ms: entry.written_ms,
            hold: entry.hold.as_ref().filter(|hold| !ended(hold)).map(|hold| hold.reason.clone()),
        })
        .collect();
    let mut judged = retention::judge(&dated, &order.keep, rfc3339);
    judged.sort_by_key(|one| one.seq);
    let own = catalogue.snapshots.iter().filter(of_schedule).map(|entry| entry.seq);
    let mut judged: BTreeMap<_, _> = own.zip(judged).map(|(seq, one)| (seq, one.reasons)).collect();
    let mut going = BTreeSet::new();
    for entry in catalogue.snapshots.iter().rev() {
        let mut reasons = judged.remove(&entry.seq).unwrap_or_else(|| {
            vec![match &entry.schedule {
                Some(schedule) => format!("of schedule {schedule}"),
                None => "of no schedule".to_owned(),
            }]
        });
        if order.named.contains(&entry.snapshot) {
            if let Some(hold) = entry.hold.as_ref().filter(|hold| !ended(hold)) {
                return Err(Error::conflict(format!(
                    "snapshot {} is held: {}; end that first (ddbctl repository release)",
                    entry.snapshot, hold.reason
                )));
            }
            reasons.clear();
        }
        if reasons.is_empty() {
            going.insert(entry.seq);
        }
        collected.snapshots.push(Verdict {
            snapshot: entry.snapshot.to_string(),
            seq: entry.seq.0,
            written_ms: entry.written_ms,
            stays: !reasons.is_empty(),
            reasons,
        });
    }
    Ok(going)
}

/// Numbers that something was stored for, and that a snapshot behind them has long overtaken.
fn abandoned(
    catalogue: &Catalogue,
    objects: &BTreeMap<String, u64>,
    believed: Option<u64>,
) -> BTreeSet<SnapshotSeq> {
    let since = believed.and_then(|now| now.checked_sub(limits::ABANDONED_AFTER_MS));
    let Some(since) = since else { return BTreeSet::new() };
    // In a history that was adopted nothing will ever be listed.
    let closed = catalogue.adopted.filter(|adopted| adopted.at_ms <= since);
    let closed = closed.map(|_| SnapshotSeq(u64::MAX));
    let old = catalogue.snapshots.iter().filter(|entry| entry.listed_ms <= since);
    let overtaken = old.map(|entry| entry.seq).chain(closed).max();
    let Some(overtaken) = overtaken else { return BTreeSet::new() };
    objects
        .keys()
        .filter_map(|name| number_of(name))
        .filter(|seq| *seq < overtaken && catalogue.entry(*seq).is_none())
        .filter(|seq| !catalogue.is_void(*seq))
        .collect()
}

/// Objects that nothing needs and nobody has dropped yet.
fn garbage(
    repository: &Repository,
    folder: Folder,
    catalogue: &Catalogue,
    objects: &BTreeMap<String, u64>,
    references: &mut References,
) -> Result<Vec<String>> {
    let dropped: BTreeSet<&String> =
        catalogue.dropped.iter().flat_map(|dropped| &dropped.objects).collect();
    let decided: Vec<&String> = objects
        .keys()
        .filter(|name| !dropped.contains(name))
        .filter(|name| {
            let number = number_of(name);
            number.is_some_and(|seq| catalogue.is_void(seq) || catalogue.entry(seq).is_some())
        })
        .collect();
    let mut needed = BTreeSet::new();
    for entry in &catalogue.snapshots {
        needed.extend(references.of(repository, folder, entry)?.iter().cloned());
    }
    Ok(decided.into_iter().filter(|name| !needed.contains(*name)).cloned().collect())
}

/// Deletes what is due.
fn sweep(
    repository: &Repository,
    folder: Folder,
    order: &Order,
    newer: &[Entry],
    sizes: &BTreeMap<String, u64>,
    collected: &mut Collected,
) -> Result<()> {
    // Once more: what is deleted is what the newest catalogue says.
    let standing = repository.standing(folder)?.catalogue;
    let Some(now_ms) = believed(&standing, order, newer, &mut Vec::new()) else { return Ok(()) };
    let due = standing.dropped.iter().filter(|dropped| dropped.not_before_ms <= now_ms);
    let due: Vec<String> = due.flat_map(|dropped| dropped.objects.clone()).collect();
    let mut gone = BTreeSet::new();
    let names: Vec<String> = due.iter().map(|name| folder.object(name)).collect();
    for (name, deleted) in due.into_iter().zip(repository.store.delete_all(&names)) {
        match deleted {
            Ok(()) => {
                collected.deleted += 1;
                collected.deleted_bytes += sizes.get(&name).copied().unwrap_or(0);
                gone.insert(name);
            }
            Err(e) if collected.refused.len() < limits::PROBLEMS_MAX => {
                collected.refused.push(format!("{name} is not deleted: {e}"));
            }
            Err(_) => {}
        }
    }
    if gone.is_empty() {
        return Ok(());
    }
    repository.amend(folder, |next| {
        for dropped in &mut next.dropped {
            dropped.objects.retain(|name| !gone.contains(name));
        }
        next.dropped.retain(|dropped| !dropped.objects.is_empty());
        Ok(Step::Becomes(()))
    })
}

/// Deletes catalogues far behind the newest.
fn trim(repository: &Repository, folder: Folder) -> Result<()> {
    let numbers = repository.catalogues()?.remove(&folder).unwrap_or_default();
    let newest = numbers.last().copied().unwrap_or(0);
    let old = numbers.into_iter().filter(|number| number + limits::CATALOGUES_KEPT <= newest);
    old.into_iter().try_for_each(|number| repository.store.delete(&catalogue::name(folder, number)))
}

/// What writers that were killed have left without a name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Unfinished {
    pub files: u64,
    pub bytes: u64,
}

/// Deletes what was begun long ago and never got its name, in the whole repository.
pub fn unfinished(repository: &Repository, order: &Order) -> Result<Unfinished> {
    let until_ms = order.now_ms.saturating_sub(limits::ABANDONED_AFTER_MS);
    let left = repository.store.unfinished(until_ms)?;
    if !order.dry_run {
        let names: Vec<String> = left.iter().map(|object| object.name.clone()).collect();
        repository.store.delete_all(&names).into_iter().collect::<Result<()>>()?;
    }
    let bytes = left.iter().map(|object| object.bytes).sum();
    Ok(Unfinished { files: left.len() as u64, bytes })
}

/// Holds a snapshot, or ends that. A hold stands in two catalogues then: damage to one does not end
/// it. That it was ended may be undone by damage, and it is ended again.
pub fn hold(repository: &Repository, id: SnapshotId, hold: Option<Hold>) -> Result<Entry> {
    let (folder, _) = repository.find_entry(id)?;
    let is_so = |catalogue: &Catalogue| {
        let entry = catalogue.snapshots.iter().find(|entry| entry.snapshot == id);
        hold.is_none() || entry.is_some_and(|entry| entry.hold == hold)
    };
    let change = |next: &mut Catalogue| {
        let entry = next.snapshots.iter_mut().find(|entry| entry.snapshot == id);
        let entry = entry
            .ok_or_else(|| Error::not_found(format!("snapshot {id} has just been dropped")))?;
        if entry.hold == hold {
            return Ok(Step::Is(entry.clone()));
        }
        entry.hold = hold.clone();
        Ok(Step::Becomes(entry.clone()))
    };
    repository.amend_twice(folder, change, is_so)
}
