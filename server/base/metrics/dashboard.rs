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

/// Sections, each with its panels. In a query `@` stands for the job of the nodes, and `~` for the
/// time that Grafana finds long enough for two scrapes.
const SECTIONS: &[(&str, &[Panel])] = &[
    (
        "What is wrong",
        &[
            panel(
                "Nodes that are ready",
                "none",
                &[query("sum(devicedb_ready{@})", "ready"), query("count(up{@})", "known")],
            ),
            panel(
                "Groups in trouble",
                "none",
                &[
                    query("max(devicedb_groups_without_leader{@})", "without a leader"),
                    query("sum(devicedb_groups_under_replicated{@})", "with too few replicas"),
                ],
            ),
            panel(
                "Silence of nodes",
                "s",
                &[query("min by (node) (devicedb_node_silent_seconds{@})", "node {{node}}")],
            ),
        ],
    ),
    (
        "Requests",
        &[
            panel(
                "Requests a second",
                "reqps",
                &[query("sum by (method) (rate(devicedb_requests_total{@}[~]))", "{{method}}")],
            ),
            panel(
                "Requests a second that were not answered with OK",
                "reqps",
                &[query(
                    "sum by (method, code) (rate(devicedb_requests_total{@, code!=\"OK\"}[~]))",
                    "{{method}} {{code}}",
                )],
            ),
            panel(
                "99 of 100 requests take less than",
                "s",
                &[query(
                    "histogram_quantile(0.99, \
                     sum by (method, le) (rate(devicedb_request_duration_seconds_bucket{@}[~])))",
                    "{{method}}",
                )],
            ),
            panel(
                "Requests that wait for the engine",
                "none",
                &[query("devicedb_engine_queue_depth{@}", "{{instance}}")],
            ),
            panel("Open connections", "none", &[query("devicedb_connections{@}", "{{instance}}")]),
            panel(
                "Connections and calls refused a second",
                "reqps",
                &[
                    query(
                        "sum by (why) (rate(devicedb_connections_cut_total{@}[~]))",
                        "connection, {{why}}",
                    ),
                    query(
                        "sum by (quota) (rate(devicedb_client_calls_refused_total{@}[~]))",
                        "call, {{quota}}",
                    ),
                ],
            ),
        ],
    ),
    (
        "Replication and disk",
        &[
            panel("Groups led", "none", &[query("devicedb_groups_led{@}", "{{instance}}")]),
            panel(
                "Changes of leaders a second",
                "ops",
                &[query("sum(rate(devicedb_elections_won_total{@}[~]))", "elections won")],
            ),
            panel(
                "99 of 100 writes of the log are durable within",
                "s",
                &[query(
                    "histogram_quantile(0.99, \
                     sum by (instance, le) \
                     (rate(devicedb_log_sync_duration_seconds_bucket{@}[~])))",
                    "{{instance}}",
                )],
            ),
            panel(
                "Rows in memory that the store has not taken",
                "bytes",
                &[query("devicedb_overlay_bytes{@}", "{{instance}}")],
            ),
            panel("Size of the log", "bytes", &[query("devicedb_log_bytes{@}", "{{instance}}")]),
            panel(
                "Free above the floor",
                "bytes",
                &[query(
                    "devicedb_disk_free_bytes{@} - devicedb_disk_floor_bytes{@}",
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
                    "time() - max(devicedb_repository_last_committed_timestamp_seconds{@} > 0)",
                    "since",
                )],
            ),
            panel(
                "Since the repository was verified, and a restore rehearsed",
                "s",
                &[
                    query(
                        "time() - max(devicedb_repository_last_verified_timestamp_seconds{@})",
                        "verified",
                    ),
                    query(
                        "time() - max(devicedb_repository_last_drill_timestamp_seconds{@})",
                        "rehearsed",
                    ),
                ],
            ),
            panel(
                "Runs that failed one after the other",
                "none",
                &[query("max by (schedule) (devicedb_schedule_failures{@})", "{{schedule}}")],
            ),
            panel(
                "Until a schedule is due",
                "s",
                &[query(
                    "max by (schedule) (devicedb_schedule_next_timestamp_seconds{@} > 0) - time()",
                    "{{schedule}}",
                )],
            ),
            panel(
                "Parts of snapshots in an hour",
                "none",
                &[query(
                    "sum by (outcome) (increase(devicedb_snapshot_parts_total{@}[1h]))",
                    "{{outcome}}",
                )],
            ),
            panel(
                "Bytes a second into the repository",
                "Bps",
                &[query(
                    "sum by (instance) (rate(devicedb_upload_sent_bytes_total{@}[~]))",
                    "{{instance}}",
                )],
            ),
            panel(
                "99 of 100 groups wait for a cut for less than",
                "s",
                &[query(
                    "histogram_quantile(0.99, \
                     sum by (le) (rate(devicedb_snapshot_hold_duration_seconds_bucket{@}[1h])))",
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
                &[query("rate(process_cpu_seconds_total{@}[~])", "{{instance}}")],
            ),
            panel("Memory", "bytes", &[query("process_resident_memory_bytes{@}", "{{instance}}")]),
            panel(
                "Open files, of those that may be open",
                "percentunit",
                &[query("process_open_fds{@} / process_max_fds{@}", "{{instance}}")],
            ),
        ],
    ),
];

/// The metrics that a query asks for.
fn asked(expr: &str) -> impl Iterator<Item = &str> {
    let words = expr.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("devicedb_") || word.starts_with("process_"))
}

fn written(expr: &str) -> String {
    expr.replace('@', "job=\"$job\"").replace('~', "$__rate_interval")
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
                "expr": written(query.expr),
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
            {
                "name": "datasource",
                "type": "datasource",
                "query": "prometheus",
                "label": "Data source",
            },
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
