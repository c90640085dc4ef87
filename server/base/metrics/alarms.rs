//! The alarms that are shipped, `deploy/prometheus/rules.yaml`, beside what is measured and what is
//! written of them. What they do is tested by `promtool`: `make alarms`.

use std::{collections::BTreeSet, fs, path::Path};

use serde::Deserialize;

use super::Metrics;
use crate::base::golden;

#[derive(Deserialize)]
struct Rules {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    rules: Vec<Alarm>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Alarm {
    alert: String,
    expr: String,
    #[serde(rename = "for", default = "at_once")]
    lasts: String,
    labels: Labels,
    annotations: Annotations,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Labels {
    severity: Severity,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Severity {
    Page,
    Ticket,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Annotations {
    summary: String,
    description: String,
}

fn at_once() -> String {
    "-".to_owned()
}

fn read(name: &str) -> String {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/prometheus");
    fs::read_to_string(dir.join(name)).unwrap()
}

fn alarms() -> Vec<Alarm> {
    let rules: Rules = serde_norway::from_str(&read("rules.yaml")).unwrap();
    rules.groups.into_iter().flat_map(|group| group.rules).collect()
}

/// `UPDATE_GOLDEN=1` writes the table between its marks.
#[test]
fn the_document_lists_every_alarm() {
    let row = |Alarm { alert, expr, lasts, labels, annotations }: Alarm| {
        let severity = match labels.severity {
            Severity::Page => "page",
            Severity::Ticket => "ticket",
        };
        let (expr, means) = (expr.replace('|', "\\|"), annotations.description);
        format!("| `{alert}` | `{expr}` | {lasts} | {severity} | {means} |\n")
    };
    let rows: String = alarms().into_iter().map(row).collect();
    let head = "| alarm | fires while | for | severity | what it means |\n\
                | --- | --- | --- | --- | --- |\n";
    golden::table("docs/metrics.md", "alarms", &format!("{head}{rows}"));
}

#[test]
fn alarms_ask_for_what_is_measured_and_each_is_tested() {
    let metrics = Metrics::default();
    let tests = read("tests.yaml");
    let mut named = BTreeSet::new();
    for alarm in alarms() {
        assert!(named.insert(alarm.alert.clone()), "{} is there twice", alarm.alert);
        let quoted = format!("alertname=\"{}\"", alarm.alert);
        assert!(tests.contains(&quoted), "tests.yaml does not wait for {}", alarm.alert);
        assert!(!alarm.annotations.summary.is_empty(), "{}", alarm.alert);
        let words = alarm.expr.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let asked: Vec<_> = words
            .filter(|word| word.starts_with("devicedb_") || word.starts_with("process_"))
            .collect();
        assert!(!asked.is_empty() || alarm.expr.contains("up{"), "{}: {}", alarm.alert, alarm.expr);
        for name in asked {
            let whole = name.strip_suffix("_bucket").unwrap_or(name);
            let known = metrics.listing().iter().any(|metric| metric.name == whole);
            assert!(known, "{}: there is no metric {name}", alarm.alert);
        }
    }
    assert!(named.len() > 20, "{named:?}");
}
