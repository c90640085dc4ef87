//! `ddbctl restore`: which way back the parts at hand allow, step by step. Reads and verifies
//! parts, needs no cluster and changes nothing; `devicedb restore` does it.
//!
//! The verification and the choice are the server library's; here they become commands.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::{
    snapshot::{identities, listed, parts_at},
    term::{
        exit::{self, Failure},
        output::{Console, Look, View},
        text::shell_word as word,
    },
};
use crate::{
    base::ids::NodeId,
    part::{
        manifest::Manifest,
        set::{self, Report},
        source::Source,
        ways,
    },
};

/// What can be done with the parts.
#[derive(Debug, Serialize)]
struct Outlook {
    way: Way,
    #[serde(rename = "uuid")]
    snapshot: String,
    #[serde(rename = "cluster_id")]
    cluster: String,
    lineage: String,
    steps: Vec<Step>,
    given_up: GivenUp,
    /// Why there is no way; empty where there is one.
    lacking: String,
    verification: Report,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Way {
    /// Most voters of every group have a part: each part brings its own node back.
    EachPartItsNode,
    /// Every partition is in a part: one node takes them all.
    SoleSurvivor,
    None,
}

#[derive(Debug, Serialize)]
struct Step {
    what: String,
    /// Words in capitals are to be replaced.
    commands: Vec<String>,
}

#[derive(Debug, Default, Serialize)]
struct GivenUp {
    /// Nodes that do not come back, as texts.
    #[serde(rename = "node_ids")]
    nodes: Vec<String>,
    /// Data groups that begin with fewer copies than they had.
    groups_short: usize,
    groups: u32,
}

pub fn run(
    paths: &[PathBuf],
    identity: Option<&Path>,
    console: &mut Console,
) -> Result<(), Failure> {
    let paths = &parts_at(paths)?[..];
    let identities = identity.map(identities).transpose()?;
    let report = set::verify_set(paths, identities.as_ref());
    if !report.is_whole() {
        let lacking = "something is wrong with them".to_owned();
        let outlook = Outlook { lacking, ..Outlook::of(paths, &[], report) };
        console.print(&outlook)?;
        let report = &outlook.verification;
        let words = report.parts.iter().filter(|part| part.sound).map(|part| word(&part.path));
        let sound: Vec<String> = words.collect();
        let remedy = match sound.len() {
            0 => "fetch the parts again".to_owned(),
            _ => format!("see what the sound ones allow: ddbctl restore {}", sound.join(" ")),
        };
        let what = "something is wrong with the parts";
        return Err(Failure::new(exit::NOT_VERIFIED, what, listed(paths), remedy));
    }
    let opened = paths.iter().map(|path| Source::open(path)).collect::<Result<Vec<_>, _>>();
    let sources = opened.map_err(|e| {
        Failure::new(exit::NOT_VERIFIED, e.message, listed(paths), "leave the parts as they are")
    })?;
    let manifests: Vec<&Manifest> = sources.iter().map(Source::manifest).collect();
    let outlook = Outlook::of(paths, &manifests, report);
    console.print(&outlook)?;
    match outlook.way {
        Way::None => Err(Failure::new(
            exit::NOT_VERIFIED,
            "these parts do not bring the cluster back",
            listed(paths),
            outlook.lacking,
        )),
        _ => Ok(()),
    }
}

impl Outlook {
    /// `parts` are the manifests of all parts, if nothing is wrong with any.
    fn of(paths: &[PathBuf], parts: &[&Manifest], report: Report) -> Outlook {
        let (way, steps, back, lacking) = match ways::sole_survivor(parts) {
            _ if report.restorable && report.is_whole() => {
                let back = parts.iter().filter(|part| part.meta.is_some()).map(|part| part.node);
                let back: BTreeSet<NodeId> = back.collect();
                (Way::EachPartItsNode, each_its_node(paths, parts, &back), back, String::new())
            }
            Ok(choice) => {
                let back = BTreeSet::from([parts[choice.part].node]);
                (Way::SoleSurvivor, sole_survivor(paths, parts), back, String::new())
            }
            Err(lacking) => (Way::None, Vec::new(), BTreeSet::new(), lacking.to_string()),
        };
        let given_up = match way {
            Way::None => GivenUp::default(),
            _ => GivenUp {
                nodes: lost(parts, &back).iter().map(NodeId::to_string).collect(),
                groups_short: ways::short(parts, &back),
                groups: parts.first().map_or(0, |part| part.topology.groups()),
            },
        };
        let name = |of: fn(&Manifest) -> String| parts.first().map(|p| of(p)).unwrap_or_default();
        Outlook {
            way,
            snapshot: name(|part| part.snapshot.to_string()),
            cluster: name(|part| part.cluster.to_string()),
            lineage: name(|part| part.lineage.to_string()),
            steps,
            given_up,
            lacking,
            verification: report,
        }
    }

    fn verdict(&self) -> String {
        match self.way {
            Way::EachPartItsNode => "Most voters of every group have a part: each part brings its \
                                     own node back."
                .into(),
            Way::SoleSurvivor => "Every partition is in one of these parts, but most voters of \
                                  some groups have none: one node takes the whole cluster, and \
                                  the others are given up."
                .into(),
            Way::None => format!("There is no way back from these parts: {}.", self.lacking),
        }
    }

    fn losses(&self) -> String {
        let GivenUp { nodes, groups_short, groups } = &self.given_up;
        let nodes = match (&nodes[..], self.way) {
            ([], _) => "No node is given up.".to_owned(),
            (nodes, Way::EachPartItsNode) => format!(
                "Nodes without a part do not come back: {}. They stay listed until they are \
                 removed.",
                nodes.join(", ")
            ),
            (nodes, _) => format!(
                "Given up for good: nodes {}. Neither their stores nor their parts bring them \
                 back.",
                nodes.join(", ")
            ),
        };
        let short = match groups_short {
            0 => "Every group has all its copies.".to_owned(),
            short => format!(
                "{short} of {groups} groups begin with fewer copies than they had; empty nodes \
                 that join make up for them."
            ),
        };
        format!(
            "{nodes}\n{short}\nNothing is missing that was acknowledged up to the cut; what came \
             later is."
        )
    }
}

impl View for Outlook {
    fn text(&self, _: Look) -> String {
        let report = &self.verification;
        let mut text = match report.is_whole() {
            true => report
                .parts
                .iter()
                .filter_map(|part| Some(format!("{}: sound\n", part.part.as_ref()?)))
                .collect(),
            false => format!("{report}\n"),
        };
        text += &format!("\n{}\n", self.verdict());
        if self.way == Way::None {
            return text;
        }
        text += &format!("{}\n", self.losses());
        for (nth, step) in self.steps.iter().enumerate() {
            text += &format!("\n{}. {}\n", nth + 1, step.what);
            step.commands.iter().for_each(|command| text += &format!("   {command}\n"));
        }
        text
    }
}

const STOP: &str = "Stop all nodes of the old cluster, and move their stores away.";
const START_ALONE: &str = "devicedb start --store DIR --listen ADDRESS";
const HEALTH: &str = "ddbctl cluster health --wait 10m";

fn step(what: impl Into<String>, commands: Vec<String>) -> Step {
    Step { what: what.into(), commands }
}

fn each_its_node(paths: &[PathBuf], parts: &[&Manifest], back: &BTreeSet<NodeId>) -> Vec<Step> {
    let used = paths.iter().zip(parts).filter(|(_, part)| back.contains(&part.node));
    let restore = |(path, part): (&PathBuf, &&Manifest)| {
        let path = word(&path.display().to_string());
        let key = unsealing(part.seal.is_some());
        format!("devicedb restore {path} --store DIR{key}   # becomes node {}", part.node)
    };
    let mut steps = vec![
        step(STOP, Vec::new()),
        step(
            "Restore each part into an empty directory: one part, one node.",
            used.map(restore).collect(),
        ),
        match back.len() {
            1 => step("Start its node.", vec![START_ALONE.into()]),
            count => step(
                format!(
                    "Start these {count} nodes, all with the addresses of all of them behind \
                     --join."
                ),
                vec!["devicedb start --store DIR --listen ADDRESS --join ADDRESS,...".into()],
            ),
        },
        step("Wait until the cluster is healthy.", vec![HEALTH.into()]),
    ];
    let lost = lost(parts, back);
    if !lost.is_empty() {
        let remove = lost.iter().map(|node| format!("ddbctl node remove {node}"));
        let join = "devicedb start --store EMPTY --listen ADDRESS --join ADDRESS,...".to_owned();
        steps.push(step(
            "Start an empty node for each one that has no part, and remove the old ones.",
            [join].into_iter().chain(remove).collect(),
        ));
    }
    steps
}

/// What a restore needs of those to whom a part is sealed.
fn unsealing(sealed: bool) -> &'static str {
    if sealed { " --unseal-with IDENTITY" } else { "" }
}

fn sole_survivor(paths: &[PathBuf], parts: &[&Manifest]) -> Vec<Step> {
    let key = unsealing(parts.iter().any(|part| part.seal.is_some()));
    let words: Vec<String> = paths.iter().map(|path| word(&path.display().to_string())).collect();
    vec![
        step(STOP, Vec::new()),
        step(
            "Make one store of all parts, in an empty directory.",
            vec![format!("devicedb restore {} --store DIR --sole-survivor{key}", words.join(" "))],
        ),
        step("Start its node.", vec![START_ALONE.into()]),
        step(
            "Start empty nodes that join it, as many as shall serve.",
            vec!["devicedb start --store EMPTY --listen ADDRESS --join ADDRESS".into()],
        ),
        step("Wait until the cluster is healthy.", vec![HEALTH.into()]),
    ]
}

/// Nodes that the parts know of and that do not come back.
fn lost(parts: &[&Manifest], back: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
    ways::members(parts).difference(back).copied().collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{ctl::term::output::Format, part::sample::Sample};

    /// What is printed for parts, and what the command fails with, if it does.
    fn told(samples: &[Sample], format: Format) -> String {
        let dir = tempfile::tempdir().unwrap();
        let file = |sample: &Sample| dir.path().join(format!("{}.tar", sample.node));
        let paths: Vec<PathBuf> = samples.iter().map(file).collect();
        for (sample, path) in samples.iter().zip(&paths) {
            fs::write(path, sample.tar()).unwrap();
        }
        let (mut console, out, _) = Console::recording(format);
        let end = run(&paths, None, &mut console);
        let end = end.err().map(|e| format!("exit {}: {e}\n", e.exit)).unwrap_or_default();
        format!("{}{end}", out.text()).replace(&format!("{}/", dir.path().display()), "")
    }

    fn sample(node: u64, groups: std::ops::Range<u32>) -> Sample {
        Sample { groups: groups.collect(), rows: 5, ..Sample::new(node) }
    }

    #[test]
    fn every_set_of_parts_is_told_its_way_back_or_why_there_is_none() {
        let all = [sample(1, 0..8), sample(2, 0..8), sample(u64::MAX, 0..8)];
        let halves = [sample(1, 0..5), sample(2, 3..8)];
        let few = [sample(1, 0..5), sample(2, 3..7)];
        let strange = [sample(1, 0..8), Sample { seq: 2, ..sample(2, 0..8) }];
        let cases: [(&[Sample], &[&str]); 6] = [
            (
                &all,
                &[
                    "Most voters of every group have a part",
                    "Nodes without a part do not come back: 7.",
                    "Every group has all its copies.",
                    "devicedb restore 2.tar --store DIR   # becomes node 2",
                    "ddbctl node remove 7",
                ],
            ),
            (&all[..2], &["8 of 8 groups begin with fewer copies", "Start these 2 nodes"]),
            (
                &all[..1],
                &[
                    "Every partition is in one of these parts",
                    "Given up for good: nodes 2, 7, 18446744073709551615.",
                    "devicedb restore 1.tar --store DIR --sole-survivor",
                ],
            ),
            (&halves, &["devicedb restore 1.tar 2.tar --store DIR --sole-survivor"]),
            (
                &few,
                &[
                    "no way back from these parts: partitions 56-63 are in none of these parts.",
                    "exit 6: these parts do not bring the cluster back: 1.tar, 2.tar: ",
                ],
            ),
            (
                &strange,
                &[
                    "There is no way back from these parts: something is wrong with them.",
                    "see what the sound ones allow: ddbctl restore 1.tar",
                ],
            ),
        ];
        for (parts, says) in cases {
            let told = told(parts, Format::Table);
            says.iter().for_each(|words| assert!(told.contains(words), "{words:?} in:\n{told}"));
        }
    }

    #[test]
    fn documents_have_the_way_the_steps_and_the_verification() {
        let document = |parts: &[Sample]| {
            let text = told(parts, Format::Json);
            let whole = text.rsplit_once("}\n").unwrap().0.to_owned() + "}";
            serde_json::from_str::<serde_json::Value>(&whole).unwrap()
        };
        let one = document(&[sample(1, 0..8)]);
        assert_eq!((&one["way"], &one["lacking"]), (&"sole-survivor".into(), &"".into()));
        assert_eq!(one["given_up"]["node_ids"][2], "18446744073709551615");
        let command = "devicedb restore 1.tar --store DIR --sole-survivor";
        assert_eq!(one["steps"][1]["commands"][0], command);
        assert_eq!(one["verification"]["sound"], true);
        let none = document(&[sample(1, 1..8)]);
        assert_eq!((&none["way"], &none["steps"][0]), (&"none".into(), &serde_json::Value::Null));
        assert_eq!(none["verification"]["partitions_missing"][0], serde_json::json!([0, 7]));
    }
}
