//! The alarms that are shipped, `deploy/prometheus/rules.yaml`, beside what is measured and what is
//! written of them. What they do is tested by `promtool`: `make alarms`.

use std::{collections::BTreeSet, fs, path::Path};

use super::Metrics;
use crate::base::golden;

struct Alarm {
    name: String,
    expr: String,
    lasts: String,
    severity: String,
    description: String,
}

fn read(name: &str) -> String {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/prometheus");
    fs::read_to_string(dir.join(name)).unwrap()
}

/// The file keeps to one line for each thing.
fn alarms() -> Vec<Alarm> {
    let text = read("rules.yaml");
    let rules = text.split("- alert: ").skip(1);
    let alarms = rules.map(|rule| {
        let (name, rest) = rule.split_once('\n').unwrap();
        let said = |key: &str| {
            let line = rest.lines().find_map(|line| line.trim().strip_prefix(key));
            line.unwrap_or_default().trim().trim_matches('"').to_owned()
        };
        let severity = said("labels: {severity:").trim_matches(['}', ' ']).to_owned();
        let alarm = Alarm {
            name: name.trim().to_owned(),
            expr: said("expr:"),
            lasts: said("for:"),
            severity,
            description: said("description:"),
        };
        assert!(["page", "ticket"].contains(&&*alarm.severity), "{}", alarm.name);
        assert!(!alarm.expr.is_empty() && !said("summary:").is_empty(), "{}", alarm.name);
        assert!(!alarm.description.is_empty(), "{}", alarm.name);
        alarm
    });
    alarms.collect()
}

/// `UPDATE_GOLDEN=1` writes the table between its marks.
#[test]
fn the_document_lists_every_alarm() {
    let row = |alarm: Alarm| {
        let Alarm { name, expr, lasts, severity, description } = alarm;
        let (expr, lasts) = (expr.replace('|', "\\|"), if lasts.is_empty() { "-" } else { &lasts });
        format!("| `{name}` | `{expr}` | {lasts} | {severity} | {description} |\n")
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
        assert!(named.insert(alarm.name.clone()), "{} is there twice", alarm.name);
        let quoted = format!("alertname=\"{}\"", alarm.name);
        assert!(tests.contains(&quoted), "tests.yaml does not wait for {}", alarm.name);
        let words = alarm.expr.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let asked: Vec<_> = words
            .filter(|word| word.starts_with("devicedb_") || word.starts_with("process_"))
            .collect();
        assert!(!asked.is_empty() || alarm.expr.contains("up{"), "{}: {}", alarm.name, alarm.expr);
        for name in asked {
            let whole = name.strip_suffix("_bucket").unwrap_or(name);
            let known = metrics.listing().iter().any(|metric| metric.name == whole);
            assert!(known, "{}: there is no metric {name}", alarm.name);
        }
    }
    assert!(named.len() > 20, "{named:?}");
}
