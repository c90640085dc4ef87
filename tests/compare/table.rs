//! What was measured, round by round, and the table that it makes: medians, their spread, and a
//! ratio that says who is ahead.

use serde::Serialize;

use crate::machine::Machine;

pub const MANY: &str = "DeviceDB, 64 sites";
pub const ONE: &str = "DeviceDB, 1 site";
/// Asked at every node in turn, whoever leads.
pub const FORWARDED: &str = "DeviceDB, 64 sites, forwarded";
pub const ETCD: &str = "etcd";
const SUBJECTS: [&str; 4] = [MANY, ONE, FORWARDED, ETCD];

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    More,
    Less,
}

/// One number of one round.
#[derive(Clone, Debug, Serialize)]
pub struct Sample {
    pub nodes: usize,
    pub what: String,
    pub better: Better,
    /// Whether it is in the table; the raw results hold all.
    pub shown: bool,
    pub subject: &'static str,
    pub round: usize,
    pub value: f64,
}

/// Everything that a run says.
#[derive(Debug, Serialize)]
pub struct Results {
    pub machine: Machine,
    pub rounds: usize,
    pub seconds: u64,
    pub snapshot_keys: u64,
    pub samples: Vec<Sample>,
    /// What did not go as it should.
    pub notes: Vec<String>,
}

impl Results {
    /// The table and the facts around it, as Markdown.
    pub fn markdown(&self) -> String {
        let Machine {
            cores,
            processor,
            memory_gib,
            kernel,
            filesystem,
            sync_micros,
            devicedb,
            etcd,
        } = &self.machine;
        let mut text = format!(
            "{cores} cores ({processor}), {memory_gib} GiB of memory, Linux {kernel}, \
             {filesystem}, where a synchronised write of 4 KiB takes {sync_micros} µs. DeviceDB \
             {devicedb}, etcd {etcd}. {} rounds of {} s each; snapshots of {} keys. Medians, and \
             in brackets the least and the most.\n\n",
            self.rounds, self.seconds, self.snapshot_keys
        );
        text += &format!(
            "| nodes | what | {} | ratio |\n| --- | --- | {}--- |\n",
            SUBJECTS.join(" | "),
            "--- | ".repeat(SUBJECTS.len())
        );
        for (nodes, what, better) in self.rows() {
            let cells = SUBJECTS.map(|subject| self.cell(nodes, what, subject));
            text += &format!(
                "| {nodes} | {what} | {} | {} |\n",
                cells.join(" | "),
                self.ratio(nodes, what, better)
            );
        }
        for note in &self.notes {
            text += &format!("\n- {note}");
        }
        text
    }

    /// In the order of the first round.
    fn rows(&self) -> Vec<(usize, &str, Better)> {
        let mut rows = Vec::new();
        for sample in self.samples.iter().filter(|sample| sample.shown) {
            let row = (sample.nodes, sample.what.as_str(), sample.better);
            if !rows.contains(&row) {
                rows.push(row);
            }
        }
        rows
    }

    fn values(&self, nodes: usize, what: &str, subject: &str) -> Vec<f64> {
        let of = |sample: &&Sample| {
            sample.nodes == nodes && sample.what == what && sample.subject == subject
        };
        let mut values: Vec<_> =
            self.samples.iter().filter(of).map(|sample| sample.value).collect();
        values.sort_by(f64::total_cmp);
        values
    }

    fn cell(&self, nodes: usize, what: &str, subject: &str) -> String {
        let values = self.values(nodes, what, subject);
        match (values.first(), values.last()) {
            (Some(least), Some(most)) => {
                format!("{} ({}–{})", written(median(&values)), written(*least), written(*most))
            }
            _ => String::new(),
        }
    }

    fn ratio(&self, nodes: usize, what: &str, better: Better) -> String {
        let [ours, theirs] = [MANY, ETCD].map(|subject| self.values(nodes, what, subject));
        if ours.is_empty() || theirs.is_empty() {
            return String::new();
        }
        let ratio = median(&ours) / median(&theirs);
        format!("{:.2}", if better == Better::More { ratio } else { 1.0 / ratio })
    }
}

/// Of sorted values.
pub fn median(sorted: &[f64]) -> f64 {
    (sorted[(sorted.len() - 1) / 2] + sorted[sorted.len() / 2]) / 2.0
}

pub fn written(value: f64) -> String {
    match value {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
