//! The dashboard that is shipped, `deploy/grafana/devicedb.json`. It is written here, panel by
//! panel, and what a panel says of its metric is the metric's own help. `make alarms` asks a real
//! Prometheus server every question in it.

use std::{fs, path::Path};

use serde_json::{Value, json};

use super::Metrics;

/// Panels in a row of the dashboard, which is 24 wide.
const ROW: &[u64] = &[8, 8, 8];
const HEIGHT: u64 = 8;

struct Panel {
    title: &'static str,
    /// As Grafana calls it.
    unit: &'static str,
    queries: &'static [Query],
}

struct Query {
    expr: &'static str,
    legend: &'static str,
}

const fn panel(title: &'static str, unit: &'static str, queries: &'static [Query]) -> Panel {
    Panel { title, unit, queries }
}

const fn query(expr: &'static str, legend: &'static str) -> Query {
    Query { expr, legend }
}

/// Sections, each with its panels. `$job` is the job of the nodes, and `$__rate_interval` what
/// Grafana puts in its place: long enough for two scrapes.
const SECTIONS: &[(&str, &[Panel])] = &[
    (
        "What is wrong",
        &[
            panel(
                "Nodes that are ready",
                "none",
                &[
                    query("sum(devicedb_ready{job=\"$job\"})", "ready"),
                    query("count(up{job=\"$job\"})", "known"),
                ],
            ),
            panel(
                "Groups in trouble",
                "none",
                &[
                    query("max(devicedb_groups_without_leader{job=\"$job\"})", "without a leader"),
                    query(
                        "sum(devicedb_groups_under_replicated{job=\"$job\"})",
                        "with too few replicas",
                    ),
                ],
            ),
            panel(
                "Silence of nodes",
                "s",
                &[query(
                    "min by (node) (devicedb_node_silent_seconds{job=\"$job\"})",
                    "node {{node}}",
                )],
            ),
        ],
    ),
    (
        "Requests",
        &[
            panel(
                "Requests a second",
                "reqps",
                &[query(
                    "sum by (method) (rate(devicedb_requests_total{job=\"$job\"}[$__rate_interval]))",
                    "{{method}}",
                )],
            ),
            panel(
                "Requests a second that were not answered with OK",
                "reqps",
                &[query(
                    "sum by (method, code) (rate(devicedb_requests_total{job=\"$job\", code!=\"OK\"}[$__rate_interval]))",
                    "{{method}} {{code}}",
                )],
            ),
            panel(
                "99 of 100 requests take less than",
                "s",
                &[query(
                    "histogram_quantile(0.99, sum by (method, le) (rate(devicedb_request_duration_seconds_bucket{job=\"$job\"}[$__rate_interval])))",
                    "{{method}}",
                )],
            ),
            panel(
                "Requests that wait for the engine",
                "none",
                &[query("devicedb_engine_queue_depth{job=\"$job\"}", "{{instance}}")],
            ),
            panel(
                "Open connections",
                "none",
                &[query("devicedb_connections{job=\"$job\"}", "{{instance}}")],
            ),
            panel(
                "Connections and calls refused a second",
                "reqps",
                &[
                    query(
                        "sum by (why) (rate(devicedb_connections_cut_total{job=\"$job\"}[$__rate_interval]))",
                        "connection, {{why}}",
                    ),
                    query(
                        "sum by (quota) (rate(devicedb_client_calls_refused_total{job=\"$job\"}[$__rate_interval]))",
                        "call, {{quota}}",
                    ),
                ],
            ),
        ],
    ),
    (
        "Replication and disk",
        &[
            panel(
                "Groups led",
                "none",
                &[query("devicedb_groups_led{job=\"$job\"}", "{{instance}}")],
            ),
            panel(
                "Changes of leaders a second",
                "ops",
                &[query(
                    "sum(rate(devicedb_elections_won_total{job=\"$job\"}[$__rate_interval]))",
                    "elections won",
                )],
            ),
            panel(
                "99 of 100 writes of the log are durable within",
                "s",
                &[query(
                    "histogram_quantile(0.99, sum by (instance, le) (rate(devicedb_log_sync_duration_seconds_bucket{job=\"$job\"}[$__rate_interval])))",
                    "{{instance}}",
                )],
            ),
            panel(
                "Rows in memory that the store has not taken",
                "bytes",
                &[query("devicedb_overlay_bytes{job=\"$job\"}", "{{instance}}")],
            ),
            panel(
                "Size of the log",
                "bytes",
                &[query("devicedb_log_bytes{job=\"$job\"}", "{{instance}}")],
            ),
            panel(
                "Free above the floor",
                "bytes",
                &[query(
                    "devicedb_disk_free_bytes{job=\"$job\"} - devicedb_disk_floor_bytes{job=\"$job\"}",
                    "{{instance}} {{directory}}",
                )],
            ),
        ],
    ),
    (
        "Backups",
        &[
            panel(
                "Since the last scheduled snapshot in the repository",
                "s",
                &[query(
                    "time() - max(devicedb_repository_last_committed_timestamp_seconds{job=\"$job\"} > 0)",
                    "since",
                )],
            ),
            panel(
                "Runs that failed one after the other",
                "none",
                &[query(
                    "max by (schedule) (devicedb_schedule_failures{job=\"$job\"})",
                    "{{schedule}}",
                )],
            ),
            panel(
                "Until a schedule is due",
                "s",
                &[query(
                    "max by (schedule) (devicedb_schedule_next_timestamp_seconds{job=\"$job\"} > 0) - time()",
                    "{{schedule}}",
                )],
            ),
            panel(
                "Parts of snapshots in an hour",
                "none",
                &[query(
                    "sum by (outcome) (increase(devicedb_snapshot_parts_total{job=\"$job\"}[1h]))",
                    "{{outcome}}",
                )],
            ),
            panel(
                "Bytes a second into the repository",
                "Bps",
                &[query(
                    "sum by (instance) (rate(devicedb_upload_sent_bytes_total{job=\"$job\"}[$__rate_interval]))",
                    "{{instance}}",
                )],
            ),
            panel(
                "99 of 100 groups wait for a cut for less than",
                "s",
                &[query(
                    "histogram_quantile(0.99, sum by (le) (rate(devicedb_snapshot_hold_duration_seconds_bucket{job=\"$job\"}[1h])))",
                    "hold",
                )],
            ),
        ],
    ),
    (
        "Processes",
        &[
            panel(
                "Processor time",
                "percentunit",
                &[query(
                    "rate(process_cpu_seconds_total{job=\"$job\"}[$__rate_interval])",
                    "{{instance}}",
                )],
            ),
            panel(
                "Memory",
                "bytes",
                &[query("process_resident_memory_bytes{job=\"$job\"}", "{{instance}}")],
            ),
            panel(
                "Open files, of those that may be open",
                "percentunit",
                &[query(
                    "process_open_fds{job=\"$job\"} / process_max_fds{job=\"$job\"}",
                    "{{instance}}",
                )],
            ),
        ],
    ),
];

/// The metrics that a query asks for.
fn asked(expr: &str) -> impl Iterator<Item = &str> {
    let words = expr.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("devicedb_") || word.starts_with("process_"))
}

fn shown(panel: &Panel, metrics: &Metrics) -> Value {
    let mut helps = Vec::new();
    for query in panel.queries {
        for name in asked(query.expr) {
            let whole = name.strip_suffix("_bucket").unwrap_or(name);
            let found = metrics.listing().iter().find(|metric| metric.name == whole);
            let metric = found.unwrap_or_else(|| panic!("{}: no metric {name}", panel.title));
            helps.push(format!("`{}`: {}.", metric.name, metric.help));
        }
    }
    let targets: Vec<_> = panel
        .queries
        .iter()
        .zip('A'..='Z')
        .map(|(query, id)| {
            json!({
                "refId": id.to_string(),
                "expr": query.expr,
                "legendFormat": query.legend,
                "datasource": source(),
            })
        })
        .collect();
    json!({
        "type": "timeseries",
        "title": panel.title,
        "description": helps.join("\n\n"),
        "datasource": source(),
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {"tooltip": {"mode": "multi", "sort": "desc"}},
        "targets": targets,
    })
}

fn source() -> Value {
    json!({"type": "prometheus", "uid": "${datasource}"})
}

fn placed(mut panel: Value, id: u64, x: u64, y: u64, w: u64, h: u64) -> Value {
    panel["id"] = id.into();
    panel["gridPos"] = json!({"x": x, "y": y, "w": w, "h": h});
    panel
}

fn dashboard() -> Value {
    let metrics = Metrics::default();
    let (mut panels, mut y) = (Vec::new(), 0);
    for (title, section) in SECTIONS {
        let row = json!({"type": "row", "title": title, "collapsed": false, "panels": []});
        panels.push(placed(row, panels.len() as u64 + 1, 0, y, 24, 1));
        y += 1;
        for line in section.chunks(ROW.len()) {
            let mut x = 0;
            for (panel, width) in line.iter().zip(ROW) {
                let id = panels.len() as u64 + 1;
                panels.push(placed(shown(panel, &metrics), id, x, y, *width, HEIGHT));
                x += width;
            }
            y += HEIGHT;
        }
    }
    json!({
        "uid": "devicedb",
        "title": "DeviceDB",
        "tags": ["devicedb"],
        "schemaVersion": 39,
        "editable": true,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [
            {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source"},
            {
                "name": "job",
                "type": "query",
                "label": "Job",
                "datasource": source(),
                "query": "label_values(devicedb_build_info, job)",
                "refresh": 2,
            },
        ]},
        "panels": panels,
    })
}

/// `UPDATE_GOLDEN=1` writes the file.
#[test]
fn the_dashboard_that_is_shipped_is_this_one() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/grafana/devicedb.json");
    let expected = serde_json::to_string_pretty(&dashboard()).unwrap() + "\n";
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, expected).unwrap();
    } else {
        let same = fs::read_to_string(&path).unwrap() == expected;
        assert!(same, "{} is old: UPDATE_GOLDEN=1 cargo test --lib", path.display());
    }
}
