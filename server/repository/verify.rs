//! Looks at what snapshots in a repository name, and names everything that is wrong. Changes
//! nothing.
//!
//! Quick: the catalogues, each snapshot, its indexes, and that every segment is there with its
//! size. Whole: every chunk is read and opened as well, and held against its index, its partition,
//! and the order of rows within and across chunks. Problems are collected, not thrown, up to a
//! bound; further ones are counted.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::Serialize;

use super::{
    catalogue, contents,
    index::{Index, Located},
    manifest::{self, Group},
    root::{Folder, Kept, Repository},
};
use crate::{
    base::{
        error::Result,
        ids::{GroupId, SnapshotId},
        limits,
    },
    part::{chunk::Digest, manifest::Owner, parallel},
};

/// What a verification found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Nothing is wrong with what was looked at.
    pub sound: bool,
    /// Chunks were opened as well.
    pub whole: bool,
    pub snapshots: Vec<Looked>,
    pub problems: Vec<Problem>,
    /// How many more there are.
    pub more: u64,
}

/// A snapshot that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Looked {
    pub snapshot: String,
    pub seq: u64,
    pub sound: bool,
    pub rows: u64,
    pub chunks: usize,
    pub stored_bytes: u64,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The snapshot, or the name of what is wrong if that is none.
    pub snapshot: String,
    pub what: String,
}

impl Report {
    fn problem(&mut self, snapshot: &str, what: String) {
        if self.problems.len() < limits::PROBLEMS_MAX {
            self.problems.push(Problem { snapshot: snapshot.to_owned(), what });
        } else {
            self.more += 1;
        }
    }

    fn count(&self) -> u64 {
        self.problems.len() as u64 + self.more
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for looked in &self.snapshots {
            let Looked { snapshot, seq, sound, rows, chunks, stored_bytes } = looked;
            let verdict = match (sound, self.whole) {
                (true, true) => "sound",
                (true, false) => "all objects are there",
                (false, _) => "DAMAGED",
            };
            writeln!(
                f,
                "{snapshot}  number {seq}: {rows} rows in {chunks} chunks, {stored_bytes} bytes \
                 stored: {verdict}"
            )?;
        }
        for Problem { snapshot, what } in &self.problems {
            writeln!(f, "{snapshot}: {what}")?;
        }
        if self.more > 0 {
            writeln!(f, "and {} more problems", self.more)?;
        }
        Ok(())
    }
}

/// Looks at some snapshots, or at all.
pub fn verify(repository: &Repository, wanted: &[SnapshotId], whole: bool) -> Result<Report> {
    let mut report = Report { whole, ..Report::default() };
    let mut sizes = Sizes { repository, known: BTreeMap::new() };
    if wanted.is_empty() {
        for standing in repository.standings()? {
            for damaged in &standing.damaged {
                report.problem(&standing.folder.name(), damaged.clone());
            }
            for entry in &standing.catalogue.snapshots {
                match repository.kept(standing.folder, entry) {
                    Ok(kept) => look(&mut sizes, &kept, &mut report),
                    Err(e) => report.problem(&entry.snapshot.to_string(), e.message),
                }
            }
        }
        catalogues(repository, &mut report)?;
    }
    for id in wanted {
        match repository.find(*id) {
            Ok(kept) => look(&mut sizes, &kept, &mut report),
            Err(e) => report.problem(&id.to_string(), e.message),
        }
    }
    report.sound = report.count() == 0;
    Ok(report)
}

/// Whether catalogues are links of one chain, and list what stands there.
fn catalogues(repository: &Repository, report: &mut Report) -> Result<()> {
    // What is stored while this looks is listed in the catalogues that are read afterwards.
    let objects = repository.store.list("")?;
    let all = repository.catalogues()?;
    for (folder, numbers) in &all {
        let (first, last) = (numbers.first().copied(), numbers.last().copied());
        let (first, last) = (first.unwrap_or(1), last.unwrap_or(1));
        // Old ones are deleted, and the newest stay.
        let first = if last - first + 1 < limits::CATALOGUES_KEPT { 1 } else { first };
        let mut before: Option<Digest> = None;
        for number in first..=last {
            match repository.catalogue(*folder, number) {
                Ok(Some((catalogue, digest))) => {
                    if before.is_some() && catalogue.before != before {
                        let what = "it does not follow from the one before";
                        report.problem(&catalogue::name(*folder, number), what.into());
                    }
                    before = Some(digest);
                }
                Ok(None) => {
                    report.problem(&catalogue::name(*folder, number), "it is missing".into());
                    before = None;
                }
                // The newest was named already, if it is that.
                Err(_) if number == last => {}
                Err(e) => {
                    report.problem(&catalogue::name(*folder, number), e.message);
                    before = None;
                }
            }
        }
    }
    let standings = repository.standings()?;
    for object in objects {
        let Some((folder, relative)) = Folder::split(&object.name) else { continue };
        if !relative.starts_with("s/") {
            continue;
        }
        let standing = standings.iter().find(|standing| standing.folder == folder);
        let is_known = standing.is_some_and(|standing| standing.catalogue.knows(relative));
        if !is_known {
            report.problem(
                &object.name,
                "no catalogue lists it: its storing was interrupted, or a catalogue is missing; \
                 ddbctl repository repair lists it"
                    .into(),
            );
        }
    }
    Ok(())
}

/// Sizes of objects, asked for once each.
struct Sizes<'a> {
    repository: &'a Repository,
    known: BTreeMap<String, BTreeMap<String, u64>>,
}

impl Sizes<'_> {
    fn of(&mut self, folder: &str, name: &str) -> Result<Option<u64>> {
        if !self.known.contains_key(folder) {
            let all = self.repository.store.list(folder)?;
            let all = all.into_iter().map(|object| (object.name, object.bytes)).collect();
            self.known.insert(folder.to_owned(), all);
        }
        Ok(self.known.get(folder).and_then(|known| known.get(name)).copied())
    }
}

fn look(sizes: &mut Sizes<'_>, kept: &Kept, report: &mut Report) {
    let (snapshot, before) = (&kept.snapshot, report.count());
    let id = snapshot.snapshot.to_string();
    let (mut roots, mut chunks, mut checked) = (Vec::new(), 0, BTreeSet::new());
    let mut all = true;
    for held in &snapshot.held {
        match sizes.repository.index(kept.folder, &held.index) {
            Err(e) => {
                all = false;
                report.problem(&id, format!("{}: {}", named(held.group), e.message));
            }
            Ok(index) => {
                chunks += index.chunks.len();
                roots.push(manifest::group_root(held, &index.partitions));
                fits(sizes, kept, &index, &mut checked, report);
                if report.whole {
                    open(sizes.repository, kept, held, &index, report);
                }
            }
        }
    }
    if all && manifest::root(roots.into_iter()) != snapshot.root {
        report.problem(&id, "its root is not that of its groups".into());
    }
    let sound = report.count() == before;
    report.snapshots.push(Looked {
        snapshot: id,
        seq: snapshot.seq.0,
        sound,
        rows: snapshot.rows,
        chunks,
        stored_bytes: snapshot.stored_bytes,
    });
}

fn named(group: GroupId) -> String {
    if group.is_meta() { "the meta group".into() } else { format!("group {group}") }
}

/// Whether every segment is there, as large as it was made.
fn fits(
    sizes: &mut Sizes<'_>,
    kept: &Kept,
    index: &Index,
    checked: &mut BTreeSet<String>,
    report: &mut Report,
) {
    let id = kept.snapshot.snapshot.to_string();
    for segment in &index.segments {
        let name = kept.folder.object(&segment.name);
        if !checked.insert(name.clone()) {
            continue;
        }
        match sizes.of(&kept.folder.name(), &name) {
            Err(e) => report.problem(&id, format!("{name}: {}", e.message)),
            Ok(None) => report.problem(&id, format!("{name} is missing")),
            Ok(Some(bytes)) if bytes != segment.bytes => {
                let was = segment.bytes;
                report.problem(&id, format!("{name} has {bytes} bytes, and was made with {was}"));
            }
            Ok(Some(_)) => {}
        }
    }
}

/// Opens every chunk of a group.
fn open(repository: &Repository, kept: &Kept, held: &Group, index: &Index, report: &mut Report) {
    let id = kept.snapshot.snapshot.to_string();
    let look = |(owner, at): (Owner, &Located)| {
        let opened = contents::open(repository, kept.folder, index, owner, at);
        (owner, at.clone(), opened.map(|opened| opened.last))
    };
    let mut before: Option<(Owner, Vec<u8>)> = None;
    let noted = parallel::in_order(index.in_order(held.group.is_meta()), look, |looked| {
        let (owner, at, last) = looked;
        let last = match last {
            Ok(last) => last,
            Err(e) => {
                report.problem(&id, format!("{owner}: {}", e.message));
                before = None;
                return Ok(());
            }
        };
        if before.as_ref().is_some_and(|(of, end)| *of == owner && *end >= at.first) {
            report.problem(&id, contents::behind(owner, &at).message);
        }
        before = Some((owner, last));
        Ok(())
    });
    noted.expect("noting what was seen does not fail");
}
