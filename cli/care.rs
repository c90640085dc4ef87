//! When a repository was last verified, and a restore of it rehearsed: for `ddbctl repository
//! status`, which reads the reports itself, and for `ddbctl backup status`, which asks a node.

use serde::Serialize;

use super::term::text::{self, counted};
use crate::{
    proto::v1,
    repository::care::{Care, Drilled, Verified},
};

/// As a node tells it.
#[derive(Debug, Default, Serialize)]
pub struct Told {
    /// Null where there is none that can be read.
    verification: Option<Verification>,
    drill: Option<Drill>,
    /// Reports that cannot be read, and why.
    unreadable_reports: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Verification {
    report: String,
    began_ms: u64,
    /// How long ago.
    age_s: u64,
    depth: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    percent: Option<u32>,
    sound: bool,
    problems: u64,
    snapshots: u64,
    snapshots_since: u64,
}

#[derive(Debug, Serialize)]
struct Drill {
    report: String,
    began_ms: u64,
    /// How long ago.
    age_s: u64,
    #[serde(rename = "uuid")]
    snapshot: String,
    passed: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    problem: String,
    rto_ms: u64,
    rpo_ms: u64,
    snapshots_since: u64,
}

impl Told {
    pub fn new(answer: &v1::ListSchedulesResponse, now_ms: u64) -> Told {
        let age_s = |began_ms: u64| now_ms.saturating_sub(began_ms) / 1000;
        let verification = answer.verification.as_ref().map(|last| {
            let depth = last.depth();
            Verification {
                report: last.report.clone(),
                began_ms: last.began_ms,
                age_s: age_s(last.began_ms),
                depth: match depth {
                    v1::VerificationDepth::Unspecified => "unknown",
                    v1::VerificationDepth::Quick => "quick",
                    v1::VerificationDepth::Share => "share",
                    v1::VerificationDepth::Whole => "whole",
                },
                percent: (depth == v1::VerificationDepth::Share).then_some(last.percent),
                sound: last.sound,
                problems: last.problems,
                snapshots: last.snapshots,
                snapshots_since: last.snapshots_since,
            }
        });
        let drill = answer.drill.as_ref().map(|last| Drill {
            report: last.report.clone(),
            began_ms: last.began_ms,
            age_s: age_s(last.began_ms),
            snapshot: last.uuid.clone(),
            passed: last.passed,
            problem: last.problem.clone(),
            rto_ms: last.rto_ms,
            rpo_ms: last.rpo_ms,
            snapshots_since: last.snapshots_since,
        });
        Told { verification, drill, unreadable_reports: answer.unreadable_reports.clone() }
    }

    /// What there is to say, each under its name. Nobody has looked where there is nothing.
    pub fn lines(&self) -> Vec<(&'static str, String)> {
        let verified = self.verification.as_ref().map_or("-".to_owned(), Verification::line);
        let rehearsed = self.drill.as_ref().map_or("-".to_owned(), Drill::line);
        let mut lines = vec![("last verified", verified), ("last drill", rehearsed)];
        let unreadable = self.unreadable_reports.iter();
        lines.extend(unreadable.map(|why| ("unreadable report", text::line(why))));
        lines
    }
}

impl Verification {
    fn line(&self) -> String {
        let (when, age) = (text::when(self.began_ms), text::span(self.age_s));
        let depth = match (self.depth, self.percent) {
            (_, Some(percent)) => format!("{percent} % of the chunks"),
            ("whole", _) => "every row".to_owned(),
            (depth, _) => depth.to_owned(),
        };
        let verdict = match self.sound {
            true => "sound".to_owned(),
            false => format!("DAMAGED ({})", counted(self.problems, "problem")),
        };
        format!(
            "{verdict}, {when}, {age} ago: {depth}, of {}; {} since",
            counted(self.snapshots, "snapshot"),
            counted(self.snapshots_since, "snapshot")
        )
    }
}

impl Drill {
    fn line(&self) -> String {
        let (when, age) = (text::when(self.began_ms), text::span(self.age_s));
        let verdict = match self.passed {
            true => "passed".to_owned(),
            false => format!("FAILED ({})", text::line(&self.problem)),
        };
        format!(
            "{verdict}, {when}, {age} ago: {:.1} s to restore snapshot {}; {} since",
            self.rto_ms as f64 / 1000.0,
            text::line(&self.snapshot),
            counted(self.snapshots_since, "snapshot")
        )
    }
}

/// The lines of `ddbctl repository status`.
pub fn told(care: &Care) -> String {
    let verified = care.verification.as_ref().map_or("-".to_owned(), verified);
    let drilled = care.drill.as_ref().map_or("-".to_owned(), drilled);
    let mut lines = format!("verified    {verified}\nlast drill  {drilled}\n");
    for why in &care.unreadable_reports {
        lines += &format!("unreadable  {}\n", text::line(why));
    }
    lines
}

fn verified(last: &Verified) -> String {
    let verdict = match last.sound {
        true => "sound".to_owned(),
        false => format!("DAMAGED ({})", counted(last.problems, "problem")),
    };
    format!(
        "{verdict} at {}, {}, of {}; {} since",
        text::when(last.began_ms),
        last.depth,
        counted(last.snapshots, "snapshot"),
        counted(last.snapshots_since, "snapshot")
    )
}

fn drilled(last: &Drilled) -> String {
    let verdict = if last.drill.passed { "passed" } else { "FAILED" };
    format!(
        "{verdict} at {}, of {}: {:.1} s to restore; {} since",
        last.drill.began,
        last.drill.snapshot,
        last.drill.rto_s,
        counted(last.snapshots_since, "snapshot")
    )
}
