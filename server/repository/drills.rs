//! What a drill, a rehearsed restore, came to.

use serde::{Deserialize, Serialize};

use super::{reports, root::Repository};
use crate::base::{error::Result, ids::SnapshotId};

/// What a drill came to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The snapshot was restored, its rows are those that went in, and the objectives were met.
    pub passed: bool,
    /// When it began: RFC 3339, UTC.
    pub began: String,
    pub snapshot: String,
    pub seq: u64,
    pub written: String,
    /// From when the snapshot was written until the drill began: what would be lost.
    pub rpo_s: f64,
    /// From the beginning until every site answered reads: what it would take.
    pub rto_s: f64,
    pub phases: Phases,
    pub sites: u64,
    pub partitions: u64,
    pub rows: u64,
    /// Plain bytes of the rows.
    pub bytes: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rpo_objective_s: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rto_objective_s: Option<f64>,
    pub problems: Vec<String>,
}

/// How long each took, in seconds; null where it was not come to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Phases {
    /// To find the snapshot.
    pub find_s: f64,
    /// From the start of the node to its first answer.
    pub first_answer_s: Option<f64>,
    /// To read of every site.
    pub sites_s: Option<f64>,
    /// To take a snapshot of what was restored, and to compare every partition.
    pub compare_s: Option<f64>,
    pub first_write_s: Option<f64>,
    /// The operator's own check.
    pub check_s: Option<f64>,
}

impl reports::Report for Report {
    const FOLDER: &'static str = reports::DRILLS;

    fn began(&self) -> &str {
        &self.began
    }

    fn flaw(&self) -> Option<&'static str> {
        if self.snapshot.parse::<SnapshotId>().is_err() {
            return Some("it names no snapshot");
        }
        if self.passed != self.problems.is_empty() {
            return Some("it says that it passed and names problems, or neither");
        }
        (self.rpo_s < 0.0 || self.rto_s < 0.0).then_some("it took less than no time")
    }

    fn told(&mut self) -> Vec<&mut String> {
        self.problems.iter_mut().collect()
    }
}

/// Keeps a report; its name.
pub fn keep(repository: &Repository, report: &Report, began_ms: u64) -> Result<String> {
    reports::keep(repository, report, began_ms)
}
