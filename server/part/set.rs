//! Checks all parts of a snapshot together. Changes nothing.
//!
//! Beyond what `verify` checks of each part: all are of one snapshot, cluster and history, with the
//! same number and shape; each is of another node; parts that hold the same group agree about its
//! mark, members and newest dot, and those that hold the same partition have equal digests; every
//! partition and the meta group are there. Sealed parts that were not opened are compared by their
//! digests only with parts of the same seal, and by their rows with all that are sealed.
//!
//! What the sound parts cover is told apart from what is wrong: a snapshot with a broken part may
//! still be whole. A part is sound if nothing is wrong with it and it belongs to the set. A restore
//! by majorities also needs, for each group, sound parts of most of its voters; groups that lack
//! them are named.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::{
    manifest::Manifest,
    seal::Identities,
    verify::{self, PartReport, Problem, Problems, SealReport},
};
use crate::base::ids::{GroupId, NodeId};

/// What parts are together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The verdict: nothing is wrong with what is here, and parts that are given together bring the
    /// cluster back. One part alone need not.
    pub sound: bool,
    /// The sound parts have every partition and the meta group.
    pub complete: bool,
    /// They are complete, and of every group's voters most have a sound part.
    pub restorable: bool,
    /// The snapshot that most parts belong to; empty if no manifest can be read.
    #[serde(rename = "uuid")]
    pub snapshot: String,
    pub parts: Vec<PartOutcome>,
    /// What is wrong between the parts.
    pub problems: Problems,
    pub partitions: u32,
    /// Partitions that at least one sound part has.
    pub partitions_covered: u32,
    /// Runs of partitions that no sound part has, from the first to the last of each.
    pub partitions_missing: Vec<(u32, u32)>,
    /// In how many sound parts every partition is at least.
    pub copies_min: u32,
    /// Sound parts that have the meta group.
    pub meta_copies: u32,
    /// Groups of which no majority of voters has a sound part that its node can be restored from:
    /// with the meta group.
    pub groups_without_majority: Vec<String>,
}

/// One part's share in the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PartOutcome {
    pub path: String,
    /// Nothing is wrong with it and it belongs to the set.
    pub sound: bool,
    /// Absent if not even its manifest can be read.
    pub part: Option<PartReport>,
    pub problems: Problems,
}

/// Checks parts and what they are together. Never fails: what cannot be read is a problem of that
/// part. Sealed parts are opened with identities, if there are any.
pub fn verify_set<P: AsRef<Path>>(paths: &[P], identities: Option<&Identities>) -> Report {
    let mut parts = Vec::new();
    let mut outcomes = Vec::new();
    for path in paths.iter().map(AsRef::as_ref) {
        let examined = verify::examine(path, identities);
        outcomes.push(PartOutcome {
            path: path.display().to_string(),
            sound: examined.problems.is_empty(),
            part: examined.report,
            problems: examined.problems,
        });
        parts.extend(examined.manifest.map(|manifest| Part {
            path: path.to_owned(),
            manifest,
            outcome: outcomes.len() - 1,
        }));
    }
    let mut between = Between::default();
    let parts = between.belonging(parts, &mut outcomes);
    parts.iter().for_each(|part| between.compare(part));
    let sound: Vec<&Manifest> =
        parts.iter().filter(|p| outcomes[p.outcome].sound).map(|p| &p.manifest).collect();
    let coverage = Coverage::of(parts.first().map(|p| &p.manifest), &sound);
    let complete =
        coverage.partitions > 0 && coverage.missing.is_empty() && coverage.meta_copies > 0;
    let restorable = complete && coverage.without_majority.is_empty();
    Report {
        sound: is_whole(&outcomes, &between.problems) && (restorable || outcomes.len() == 1),
        complete,
        restorable,
        snapshot: parts.first().map(|p| p.manifest.snapshot.to_string()).unwrap_or_default(),
        parts: outcomes,
        problems: between.problems,
        partitions: coverage.partitions,
        partitions_covered: coverage.covered,
        partitions_missing: coverage.missing,
        copies_min: coverage.copies_min,
        meta_copies: coverage.meta_copies,
        groups_without_majority: coverage.without_majority.iter().map(GroupId::to_string).collect(),
    }
}

fn is_whole(parts: &[PartOutcome], between: &Problems) -> bool {
    between.is_empty() && parts.iter().all(|part| part.sound)
}

struct Part {
    path: PathBuf,
    manifest: Manifest,
    outcome: usize,
}

impl Report {
    /// The parts that nothing can be restored from.
    pub fn unsound(&self) -> Vec<&str> {
        let unsound = self.parts.iter().filter(|part| !part.sound);
        unsound.map(|part| part.path.as_str()).collect()
    }

    /// Nothing is wrong with any part, nor between them. They need not have everything.
    pub fn is_whole(&self) -> bool {
        is_whole(&self.parts, &self.problems)
    }

    /// The seals of parts that were not opened.
    pub fn unopened(&self) -> impl Iterator<Item = &SealReport> {
        let seals = self.parts.iter().filter_map(|part| part.part.as_ref()?.seal.as_ref());
        seals.filter(|seal| !seal.opened)
    }

    /// Everything that is wrong, a line each.
    pub fn wrong(&self) -> String {
        let all = self.parts.iter().map(|part| &part.problems).chain([&self.problems]);
        let told = all.filter(|problems| !problems.is_empty()).map(Problems::to_string);
        told.collect::<Vec<_>>().join("\n")
    }
}

/// What must be the same in all parts, spelled out for messages.
fn identity(m: &Manifest) -> String {
    let (partitions, groups) = (m.topology.partitions(), m.topology.groups());
    format!(
        "snapshot {} number {} of cluster {} in lineage {} with {partitions} partitions in \
         {groups} groups",
        m.snapshot, m.seq, m.cluster, m.lineage
    )
}

/// What the parts have said so far, and who said it first.
#[derive(Default)]
struct Between {
    problems: Problems,
    said: BTreeMap<String, (String, String)>,
}

impl Between {
    /// Leaves those parts that belong to the snapshot that most of them belong to, one a node.
    fn belonging(&mut self, parts: Vec<Part>, outcomes: &mut [PartOutcome]) -> Vec<Part> {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        parts.iter().for_each(|p| *counts.entry(identity(&p.manifest)).or_default() += 1);
        let most = counts.values().copied().max().unwrap_or(0);
        // Of equally many, the one that was named first.
        let common = parts
            .iter()
            .map(|p| identity(&p.manifest))
            .find(|identity| counts[identity] == most)
            .unwrap_or_default();
        let mut nodes: BTreeMap<NodeId, String> = BTreeMap::new();
        let mut belong = |part: &Part| {
            let (node, path) = (part.manifest.node, part.path.display().to_string());
            let identity = identity(&part.manifest);
            let what = if identity != common {
                format!("it is of {identity}, and most parts are of {common}")
            } else if let Some(other) = nodes.insert(node, path.clone()) {
                format!("it is of node {node}, as is {other}")
            } else {
                return true;
            };
            self.problem(path, what);
            outcomes[part.outcome].sound = false;
            false
        };
        parts.into_iter().filter(|part| belong(part)).collect()
    }

    fn compare(&mut self, part: &Part) {
        let path = part.path.display().to_string();
        let members =
            |nodes: &[NodeId]| nodes.iter().map(NodeId::to_string).collect::<Vec<_>>().join(" ");
        for g in &part.manifest.groups {
            let mark = format!(
                "marked at {} in term {}, voters {}, learners {}",
                g.mark_index,
                g.mark_term,
                members(&g.voters),
                members(&g.learners)
            );
            self.say(&path, format!("group {}", g.group), mark);
            // Nodes of two versions of the program may each have written their own format; then a
            // restore would number dots in two ways.
            self.say(&path, format!("the newest dot of group {}", g.group), g.dots.to_string());
        }
        // Names that one seal gives say nothing of those that another gives, or none.
        let seal = part.manifest.seal.as_ref();
        let under = seal.map(|seal| format!(" under seal {}", seal.short())).unwrap_or_default();
        for (_, p) in part.manifest.partitions() {
            if seal.is_some() {
                let what = format!("of {} rows, changed last at {}", p.rows, p.data_index);
                self.say(&path, format!("sealed partition {}", p.id), what);
            }
            self.say(
                &path,
                format!("partition {}{under}", p.id),
                format!(
                    "of {} rows with digest {}, changed last at {}",
                    p.rows, p.digest, p.data_index
                ),
            );
        }
        if let Some(m) = &part.manifest.meta {
            let mark = format!(
                "marked at {} in term {}, voters {}, learners {}",
                m.mark_index,
                m.mark_term,
                members(&m.voters),
                members(&m.learners)
            );
            self.say(
                &path,
                format!("the meta group{under}"),
                format!("{mark}, of {} rows with digest {}", m.rows, m.digest),
            );
        }
    }

    fn say(&mut self, path: &str, of: String, what: String) {
        let Some((first, by)) = self.said.get(&of) else {
            self.said.insert(of, (what, path.to_owned()));
            return;
        };
        if *first != what {
            let problem = format!("{of} is {what} here, and {first} in {by}");
            self.problem(path.to_owned(), problem);
        }
    }

    fn problem(&mut self, path: String, what: String) {
        self.problems.push(Problem { path, offset: None, chunk: None, concerns: None, what });
    }
}

#[derive(Default)]
struct Coverage {
    partitions: u32,
    covered: u32,
    missing: Vec<(u32, u32)>,
    copies_min: u32,
    meta_copies: u32,
    without_majority: Vec<GroupId>,
}

impl Coverage {
    /// `any` is a part of the snapshot, whether sound or not: it says what there is to cover.
    fn of(any: Option<&Manifest>, sound: &[&Manifest]) -> Coverage {
        let Some(topology) = any.map(|m| m.topology) else { return Coverage::default() };
        let mut copies = vec![0u32; topology.partitions() as usize];
        for (_, p) in sound.iter().flat_map(|m| m.partitions()) {
            copies[p.id.0 as usize] += 1;
        }
        let mut missing: Vec<(u32, u32)> = Vec::new();
        for id in (0..topology.partitions()).filter(|id| copies[*id as usize] == 0) {
            lengthen(&mut missing, id);
        }
        let groups = topology.group_ids().chain([GroupId::META]);
        // A node whose part lacks the meta group cannot be restored from it.
        let bringing: Vec<&Manifest> = sound.iter().copied().filter(|m| m.meta.is_some()).collect();
        Coverage {
            partitions: topology.partitions(),
            covered: copies.iter().filter(|copies| **copies > 0).count() as u32,
            missing,
            copies_min: copies.iter().copied().min().unwrap_or(0),
            meta_copies: sound.iter().filter(|m| m.meta.is_some()).count() as u32,
            without_majority: groups.filter(|group| !has_majority(*group, &bringing)).collect(),
        }
    }
}

/// Adds the next id to runs of ids from the first to the last of each.
pub(super) fn lengthen(runs: &mut Vec<(u32, u32)>, id: u32) {
    match runs.last_mut() {
        Some((_, last)) if *last + 1 == id => *last = id,
        _ => runs.push((id, id)),
    }
}

pub(super) fn named(runs: &[(u32, u32)]) -> Vec<String> {
    runs.iter()
        .map(
            |(first, last)| {
                if first == last { first.to_string() } else { format!("{first}-{last}") }
            },
        )
        .collect()
}

fn has_majority(group: GroupId, sound: &[&Manifest]) -> bool {
    let voters_in = |m: &Manifest| match group.is_meta() {
        true => m.meta.as_ref().map(|meta| meta.voters.clone()),
        false => m.group(group).map(|g| g.voters.clone()),
    };
    let held: Vec<(NodeId, Vec<NodeId>)> =
        sound.iter().filter_map(|m| Some((m.node, voters_in(m)?))).collect();
    let Some((_, voters)) = held.first() else { return false };
    let present: BTreeSet<NodeId> =
        held.iter().map(|(node, _)| *node).filter(|node| voters.contains(node)).collect();
    present.len() > voters.len() / 2
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in &self.parts {
            match &part.part {
                Some(report) => {
                    writeln!(f, "{report}: {}", if part.sound { "sound" } else { "NOT SOUND" })?
                }
                None => writeln!(f, "{}: NOT SOUND", part.path)?,
            }
            part.problems.fmt_indented(f)?;
        }
        if !self.problems.is_empty() {
            writeln!(f, "The parts do not fit together:")?;
            self.problems.fmt_indented(f)?;
        }
        match self.partitions_missing.as_slice() {
            _ if self.partitions == 0 => {
                writeln!(f, "No manifest can be read, so nothing is known of the snapshot.")?
            }
            [] => writeln!(
                f,
                "Sound parts cover all {} partitions, each at least {} times.",
                self.partitions, self.copies_min
            )?,
            missing => writeln!(
                f,
                "Sound parts cover {} of {} partitions; missing are {}.",
                self.partitions_covered,
                self.partitions,
                named(missing).join(", ")
            )?,
        }
        if self.partitions > 0 && self.meta_copies == 0 {
            writeln!(f, "No sound part has the meta group.")?;
        }
        for part in self.parts.iter().filter(|part| {
            part.sound
                && self.meta_copies > 0
                && part.part.as_ref().is_some_and(|report| !report.meta)
        }) {
            writeln!(
                f,
                "{} lacks the meta group: its node cannot be restored, and comes back with an \
                 empty store and --join when the others are up.",
                part.path
            )?;
        }
        if !self.groups_without_majority.is_empty() {
            let mut runs: Vec<(u32, u32)> = Vec::new();
            self.groups_without_majority
                .iter()
                .filter_map(|group| group.parse().ok())
                .for_each(|id| lengthen(&mut runs, id));
            let meta = self
                .groups_without_majority
                .iter()
                .filter(|group| group.parse::<u32>().is_err())
                .cloned();
            let groups: Vec<String> = named(&runs).into_iter().chain(meta).collect();
            writeln!(
                f,
                "Groups that a majority of their voters cannot be restored for: {}.",
                groups.join(", ")
            )?;
        }
        if self.complete && !self.restorable && self.is_whole() {
            f.write_str(
                "They have everything, so that one node can take it all and give the others up: \
                 ddbctl restore says how.\n",
            )?;
        }
        if self.unopened().next().is_some() {
            f.write_str(
                "Sealed parts were not opened: their chunks are as they were stored, and what is \
                 in them is not known. The identity file of a recipient opens them.\n",
            )?;
        }
        let verdict = match (self.is_whole(), self.complete, self.restorable) {
            (true, _, true) => "The snapshot is sound, and these parts bring the cluster back.",
            (true, ..) if self.sound => {
                "The part is sound. Alone it does not bring the cluster back: verify it together \
                 with the others."
            }
            (true, true, false) => {
                "Nothing is wrong with the parts, but they DO NOT bring the cluster back: others \
                 of this snapshot are needed."
            }
            (true, false, _) => {
                "Nothing is wrong with the parts, but they DO NOT have everything: others of this \
                 snapshot are needed."
            }
            (false, _, true) if self.unsound().is_empty() => {
                "Something is wrong, but the parts still bring the cluster back."
            }
            (false, _, true) => {
                return write!(
                    f,
                    "Something is wrong, but the other parts still bring the cluster back. Leave \
                     out {}.",
                    self.unsound().join(", ")
                );
            }
            (false, true, false) => {
                "Something is wrong. The sound parts have everything, but DO NOT bring the cluster \
                 back."
            }
            (false, false, _) => "Something is wrong, and the sound parts DO NOT have everything.",
        };
        f.write_str(verdict)
    }
}

#[cfg(test)]
mod tests;
