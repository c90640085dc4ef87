//! How well a repository is looked after: when it was last verified, when a restore of it was last
//! rehearsed, and how many snapshots have come since.
//!
//! Of a history that was looked at, the snapshots with higher numbers have come since. Of any other
//! history it is those that were listed later, by the clocks of whoever did.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    catalogue::Standing,
    drills,
    reports::{self, Found, Verification},
    root::{Folder, Repository},
    verify::Depth,
};
use crate::base::{error::Result, ids::SnapshotSeq};

/// What reports say.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Care {
    /// The last verification of all snapshots whose report can be read.
    pub verification: Option<Verified>,
    /// The last drill whose report can be read.
    pub drill: Option<Drilled>,
    /// Reports that cannot be read, and why: those that are newer than what is told here.
    pub unreadable_reports: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verified {
    /// The name of the report.
    pub report: String,
    /// Since 1970.
    pub began_ms: u64,
    pub took_s: f64,
    #[serde(flatten)]
    pub depth: Depth,
    pub sound: bool,
    pub problems: u64,
    pub snapshots: u64,
    pub snapshots_since: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Drilled {
    /// The name of the report.
    pub report: String,
    #[serde(skip)]
    pub began_ms: u64,
    #[serde(flatten)]
    pub drill: drills::Report,
    pub snapshots_since: u64,
}

impl Care {
    pub fn of(repository: &Repository, standings: &[Standing], now_ms: u64) -> Result<Care> {
        let mut unreadable_reports = Vec::new();
        let verified =
            reports::newest::<Verification>(repository, now_ms, &mut unreadable_reports)?;
        let drilled =
            reports::newest::<drills::Report>(repository, now_ms, &mut unreadable_reports)?;
        Ok(Care {
            verification: verified.map(|found| Verified::new(found, standings)),
            drill: drilled.map(|found| Drilled::new(found, standings)),
            unreadable_reports,
        })
    }
}

impl Verified {
    fn new(found: Found<Verification>, standings: &[Standing]) -> Verified {
        let Found { name, began_ms, report } = found;
        let covered = report.histories.iter().filter_map(|history| {
            let folder = Folder::parse(&format!("{}/{}", history.cluster, history.lineage))?;
            Some((folder, SnapshotSeq(history.newest_seq)))
        });
        Verified {
            report: name,
            began_ms,
            took_s: report.took_s,
            depth: report.depth,
            sound: report.sound,
            problems: report.problems.len() as u64 + report.more_problems,
            snapshots: report.snapshots.len() as u64 + report.more_snapshots,
            snapshots_since: since(standings, &covered.collect(), began_ms),
        }
    }
}

impl Drilled {
    fn new(found: Found<drills::Report>, standings: &[Standing]) -> Drilled {
        let Found { name, began_ms, report: drill } = found;
        let restored = standings.iter().filter_map(|standing| {
            let mut all = standing.catalogue.snapshots.iter();
            let entry = all.find(|entry| entry.snapshot.to_string() == drill.snapshot)?;
            Some((standing.folder, entry.seq))
        });
        let snapshots_since = since(standings, &restored.collect(), began_ms);
        Drilled { report: name, began_ms, drill, snapshots_since }
    }
}

/// Snapshots behind a number, and in other histories those that were listed after a time.
fn since(standings: &[Standing], known: &BTreeMap<Folder, SnapshotSeq>, at_ms: u64) -> u64 {
    let all = standings.iter().flat_map(|standing| {
        standing.catalogue.snapshots.iter().map(move |entry| (standing.folder, entry))
    });
    let is_new = |folder: Folder, seq: SnapshotSeq, listed_ms: u64| match known.get(&folder) {
        Some(newest) => seq > *newest,
        None => listed_ms > at_ms,
    };
    all.filter(|(folder, entry)| is_new(*folder, entry.seq, entry.listed_ms)).count() as u64
}
