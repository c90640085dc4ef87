//! What a node counts and measures, in Prometheus' text format.
//!
//! Names, types and help stand here and nowhere else; the README's table is checked against them. Durations are in seconds, sizes in bytes.

use std::{sync::atomic::AtomicU64, time::Duration};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{TypedMetric, counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Metric, Registry, Unit},
};

const PREFIX: &str = "devicedb";

/// One metric as operators see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// As a query names it.
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    pub help: &'static str,
}

/// A call as it is counted.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Call {
    method: &'static str,
    code: &'static str,
}

/// A call as it is timed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Method {
    method: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    outcome: &'static str,
}

/// How this node's part of a snapshot ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartEnd {
    Completed,
    Failed,
    /// This node was away at the cut.
    Missing,
    /// The snapshot was aborted or deleted before the part was done.
    GivenUp,
}

impl PartEnd {
    const ALL: [PartEnd; 4] = [PartEnd::Completed, PartEnd::Failed, PartEnd::Missing, PartEnd::GivenUp];

    fn label(self) -> Ended {
        let outcome = match self {
            PartEnd::Completed => "completed",
            PartEnd::Failed => "failed",
            PartEnd::Missing => "missing",
            PartEnd::GivenUp => "given_up",
        };
        Ended { outcome }
    }
}

/// See the module. Shared behind an `Arc`.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    listing: Vec<Described>,
    requests: Family<Call, Counter>,
    request_seconds: Family<Method, Histogram, fn() -> Histogram>,
    round_seconds: Histogram,
    round_inputs: Histogram,
    queue_depth: Gauge,
    log_entries: Counter,
    log_sync_seconds: Histogram,
    checkpoint_seconds: Histogram,
    checkpoint_bytes: Counter,
    leader_changes: Counter,
    elections_won: Counter,
    groups_led: Gauge,
    overlay_bytes: Gauge,
    log_bytes: Gauge,
    peer_sent: Counter,
    peer_dropped: Counter,
    peer_received: Counter,
    held_seconds: Histogram,
    parts: Family<Ended, Counter>,
    capture_seconds: Histogram,
    capture_rows: Counter,
    capture_bytes: Counter,
    capture_written: Counter,
    capture_processor: Counter<f64, AtomicU64>,
    ready: Gauge,
    view_seconds: Histogram,
    view_age: Gauge,
}

/// From 50 µs to 26 s, a factor of 3.
fn seconds() -> Histogram {
    Histogram::new(std::iter::successors(Some(0.000_05), |s| Some(s * 3.0)).take(13))
}

impl Default for Metrics {
    fn default() -> Metrics {
        let mut register = Register { registry: Registry::with_prefix(PREFIX), listing: Vec::new() };
        let r = &mut register;
        let metrics = Metrics {
            requests: counted(r, "requests", "Requests by method and gRPC code", Family::default()),
            request_seconds: timed(
                r,
                "request_duration",
                "From a request's arrival to its answer by method, streams left out",
                Family::new_with_constructor(seconds),
            ),
            round_seconds: timed(r, "engine_round_duration", "One turn of the engine's loop, with its disk write", seconds()),
            round_inputs: {
                let inputs = Histogram::new(std::iter::successors(Some(1.0), |n| Some(n * 4.0)).take(8));
                counted(r, "engine_round_inputs", "Inputs that one turn of the loop took", inputs)
            },
            queue_depth: counted(r, "engine_queue_depth", "Inputs that wait for the engine's loop", Gauge::default()),
            log_entries: counted(r, "log_entries", "Raft log entries written", Counter::default()),
            log_sync_seconds: timed(r, "log_sync_duration", "A write of the log that was synced to disk", seconds()),
            checkpoint_seconds: timed(r, "checkpoint_duration", "Writing applied rows to the store", seconds()),
            checkpoint_bytes: counted(r, "checkpoint_bytes", "Bytes of rows written to the store", Counter::default()),
            leader_changes: counted(r, "leader_changes", "Times that a group got another leader, as this node has seen", Counter::default()),
            elections_won: counted(r, "elections_won", "Times that this node became a group's leader", Counter::default()),
            groups_led: counted(r, "groups_led", "Groups that this node leads, the meta group included", Gauge::default()),
            overlay_bytes: counted(r, "overlay_bytes", "Applied rows in memory that are not in the store yet", Gauge::default()),
            log_bytes: counted(r, "log_bytes", "Size of the Raft log on disk", Gauge::default()),
            peer_sent: counted(r, "peer_messages_sent", "Messages handed to streams to other nodes", Counter::default()),
            peer_dropped: counted(r, "peer_messages_dropped", "Messages that were lost because a queue was full or a node unknown", Counter::default()),
            peer_received: counted(r, "peer_messages_received", "Messages taken from other nodes", Counter::default()),
            held_seconds: timed(r, "snapshot_hold_duration", "How long a group's writes waited for a snapshot's cut", seconds()),
            parts: counted(r, "snapshot_parts", "This node's parts of snapshots by how they ended", Family::default()),
            capture_seconds: timed(r, "capture_duration", "From the cut to this node's part in place", seconds()),
            capture_rows: counted(r, "capture_rows", "Rows in this node's parts of snapshots", Counter::default()),
            capture_bytes: counted(r, "capture_bytes", "Bytes in this node's parts before compression", Counter::default()),
            capture_written: counted(r, "capture_written_bytes", "Bytes of chunks that had to be written", Counter::default()),
            capture_processor: counted(r, "capture_processor_seconds", "Processor time of captures", Counter::default()),
            ready: counted(r, "ready", "1 when every local group has caught up and can serve", Gauge::default()),
            view_seconds: timed(r, "snapshot_view_duration", "How long a capture held its view of the store", seconds()),
            view_age: counted(r, "snapshot_view_age_seconds", "How long the oldest view that a capture holds has been held; 0 when none is", Gauge::default()),
            registry: Registry::default(),
            listing: Vec::new(),
        };
        // What never happened is 0 and not absent: an alarm on a rise needs both.
        PartEnd::ALL.iter().for_each(|end| drop(metrics.parts.get_or_create(&end.label())));
        Metrics { registry: register.registry, listing: register.listing, ..metrics }
    }
}

/// Registers metrics, and remembers how they are described.
struct Register {
    registry: Registry,
    listing: Vec<Described>,
}

fn counted<M: Metric + TypedMetric + Clone>(register: &mut Register, name: &str, help: &'static str, metric: M) -> M {
    let kind = M::TYPE.as_str();
    let total = if kind == "counter" { "_total" } else { "" };
    register.listing.push(Described { name: format!("{PREFIX}_{name}{total}"), kind, help });
    register.registry.register(name, help, metric.clone());
    metric
}

fn timed<M: Metric + Clone>(register: &mut Register, name: &str, help: &'static str, histogram: M) -> M {
    register.listing.push(Described { name: format!("{PREFIX}_{name}_seconds"), kind: "histogram", help });
    register.registry.register_with_unit(name, help, Unit::Seconds, histogram.clone());
    histogram
}

impl Metrics {
    /// Everything, as Prometheus reads it.
    pub fn text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("a string takes everything");
        text
    }

    /// What there is, in the order of `text`.
    pub fn listing(&self) -> &[Described] {
        &self.listing
    }

    /// The listing as the README shows it.
    pub fn table(&self) -> String {
        let rows: String = self.listing.iter().map(|metric| format!("| `{}` | {} | {} |\n", metric.name, metric.kind, metric.help)).collect();
        format!("| metric | type | what it says |\n| --- | --- | --- |\n{rows}")
    }

    /// `code` by its name in gRPC; a stream has no duration.
    pub fn request(&self, method: &'static str, code: &'static str, took: Option<Duration>) {
        self.requests.get_or_create(&Call { method, code }).inc();
        if let Some(took) = took {
            self.request_seconds.get_or_create(&Method { method }).observe(took.as_secs_f64());
        }
    }
    /// So many more inputs wait for the engine, or fewer.
    pub fn queued(&self, more: i64) {
        self.queue_depth.inc_by(more);
    }
    pub fn round(&self, took: Duration, inputs: usize) {
        self.round_seconds.observe(took.as_secs_f64());
        self.round_inputs.observe(inputs as f64);
    }
    /// `synced` is how long the write took that reached the disk.
    pub fn logged(&self, entries: usize, synced: Option<Duration>) {
        self.log_entries.inc_by(entries as u64);
        if let Some(took) = synced {
            self.log_sync_seconds.observe(took.as_secs_f64());
        }
    }
    pub fn checkpoint(&self, took: Duration, bytes: usize) {
        self.checkpoint_seconds.observe(took.as_secs_f64());
        self.checkpoint_bytes.inc_by(bytes as u64);
    }
    pub fn leader_changed(&self, to_this_node: bool) {
        self.leader_changes.inc();
        self.elections_won.inc_by(u64::from(to_this_node));
    }
    pub fn part_ended(&self, how: PartEnd) {
        self.parts.get_or_create(&how.label()).inc();
    }
    pub fn peer_messages(&self, count: usize, sent: bool) {
        let counter = if sent { &self.peer_sent } else { &self.peer_dropped };
        counter.inc_by(count as u64);
    }
    pub fn peer_messages_received(&self, count: usize, taken: bool) {
        let counter = if taken { &self.peer_received } else { &self.peer_dropped };
        counter.inc_by(count as u64);
    }
    pub fn held(&self, time: Duration) {
        self.held_seconds.observe(time.as_secs_f64());
    }
    pub fn captured(&self, took: Duration, rows: u64, bytes: u64, written: u64) {
        self.capture_seconds.observe(took.as_secs_f64());
        self.capture_rows.inc_by(rows);
        self.capture_bytes.inc_by(bytes);
        self.capture_written.inc_by(written);
    }
    pub fn capture_cost(&self, processor: Duration) {
        self.capture_processor.inc_by(processor.as_secs_f64());
    }
    pub fn view_held(&self, time: Duration) {
        self.view_seconds.observe(time.as_secs_f64());
    }
    /// What is looked up when somebody asks.
    pub fn now(&self, ready: bool, groups_led: usize, overlay_bytes: usize, log_bytes: u64, view_age: Duration) {
        self.ready.set(i64::from(ready));
        self.groups_led.set(groups_led as i64);
        self.overlay_bytes.set(overlay_bytes as i64);
        self.log_bytes.set(log_bytes as i64);
        self.view_age.set(view_age.as_secs() as i64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_shown() {
        let metrics = Metrics::default();
        metrics.request("Put", "OK", Some(Duration::from_millis(2)));
        metrics.now(true, 22, 10, 20, Duration::from_secs(61));
        metrics.view_held(Duration::from_secs(3));
        metrics.part_ended(PartEnd::Failed);
        let text = metrics.text();
        assert!(text.contains("devicedb_requests_total{method=\"Put\",code=\"OK\"} 1"), "{text}");
        assert!(text.contains("devicedb_snapshot_view_duration_seconds_sum 3.0"), "{text}");
        assert!(text.contains("devicedb_request_duration_seconds_count{method=\"Put\"} 1"), "{text}");
        assert!(text.contains("devicedb_snapshot_parts_total{outcome=\"failed\"} 1"), "{text}");
        assert!(text.contains("devicedb_snapshot_parts_total{outcome=\"completed\"} 0"), "{text}");
        assert!(text.contains("devicedb_groups_led 22"), "{text}");
        assert!(text.contains("devicedb_snapshot_view_age_seconds 61"), "{text}");
    }

    #[test]
    fn what_is_listed_is_what_is_exposed() {
        let metrics = Metrics::default();
        metrics.request("Put", "OK", Some(Duration::from_millis(2)));
        let text = metrics.text();
        let exposed: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).map(str::to_owned).collect();
        let named = |metric: &Described| format!("{} {}", metric.name.strip_suffix("_total").unwrap_or(&metric.name), metric.kind);
        assert_eq!(exposed, metrics.listing().iter().map(named).collect::<Vec<_>>());
    }

    /// `UPDATE_GOLDEN=1` writes the table between its marks.
    #[test]
    fn the_readme_lists_every_metric() {
        let (begin, end) = ("<!-- metrics: begin -->\n", "<!-- metrics: end -->");
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
        let readme = std::fs::read_to_string(path).unwrap();
        let (before, rest) = readme.split_once(begin).expect("README.md marks where the table of metrics begins");
        let (table, after) = rest.split_once(end).expect("README.md marks where the table of metrics ends");
        let expected = Metrics::default().table();
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(path, format!("{before}{begin}{expected}{end}{after}")).unwrap();
        } else {
            assert_eq!(table, expected, "the table of metrics in README.md is old: UPDATE_GOLDEN=1 cargo test --lib metrics");
        }
    }
}
