//! Reports of drills: rehearsed restores, as texts in the repository under the time at which they
//! began. They are for people and for whoever watches; nothing relies on them.

use serde::{Deserialize, Serialize};

use super::root::Repository;
use crate::{
    base::{
        clock::Random,
        error::{Error, Result},
        limits,
    },
    part::manifest::rfc3339,
};

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

/// Where reports lie.
pub const FOLDER: &str = "drills";

/// Keeps a report; its name.
pub fn keep(repository: &Repository, report: &Report, began_ms: u64) -> Result<String> {
    let digits = rfc3339(began_ms).replace([':', '-', '.'], "");
    let nonce = Random::from_entropy().next_u64();
    let name = format!("{FOLDER}/{digits}-{nonce:016x}.json");
    let mut text = serde_json::to_vec_pretty(report).expect("texts and numbers are JSON");
    text.push(b'\n');
    repository.store.create(&name, text.into())?;
    Ok(name)
}

/// The report of the drill that began last, if there is one.
pub fn newest(repository: &Repository) -> Result<Option<Report>> {
    let Some(last) = repository.store.list(FOLDER)?.pop() else { return Ok(None) };
    let text = repository.store.read(&last.name, limits::DRILL_REPORT_BYTES_MAX)?;
    let report = serde_json::from_slice(&text).map_err(|e| {
        Error::corrupt(format!("{}: it is not what this program writes: {e}", last.name))
    })?;
    Ok(Some(report))
}
