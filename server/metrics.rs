//! What a node counts and measures, and whether it is ready. One `Metrics` a process, shared; every recording is an atomic or two.
//!
//! Names follow OpenMetrics: `devicedb_<subsystem>_<what>_<unit>`, counters end in `_total`. `Metrics::listing` says what there is; the README's table is
//! checked against it. Time is handed in: nothing here looks at a clock.

use std::{
    sync::{Arc, RwLock},
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{
        counter::Counter,
        family::{Family, MetricConstructor},
        gauge::Gauge,
        histogram::Histogram,
    },
    registry::{Metric, Registry, Unit},
};

const PREFIX: &str = "devicedb";

/// From the fastest round to the longest wait of a client, in seconds.
const SECONDS: [f64; 17] = [0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// How many of something came together: powers of four up to the largest round.
const COUNTS: [f64; 7] = [1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0];

/// One metric as operators see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// As a query names it.
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    pub help: &'static str,
}

/// Everything that is measured, by subsystem.
#[derive(Debug)]
pub struct Metrics {
    pub rpc: Rpc,
    pub engine: Engine,
    pub log: Log,
    pub peer: Peer,
    pub store: Store,
    pub snapshot: Snapshot,
    pub readiness: Readiness,
    registry: Registry,
    listing: Vec<Described>,
}

#[derive(Debug)]
pub struct Rpc {
    requests: Family<Answered, Counter>,
    duration: Family<Called, Histogram, Seconds>,
}

#[derive(Debug)]
pub struct Engine {
    pub round_duration: Durations,
    pub round_inputs: Counts,
    pub queue: Gauge,
    pub groups_led: Gauge,
    pub elections: Counter,
}

#[derive(Debug)]
pub struct Log {
    pub fsync_duration: Durations,
    pub entries: Counter,
    pub bytes: Gauge,
}

#[derive(Debug)]
pub struct Peer {
    pub sent: Counter,
    pub received: Counter,
    pub dropped: Counter,
}

#[derive(Debug)]
pub struct Store {
    pub overlay_bytes: Gauge,
    pub checkpoint_duration: Durations,
    pub checkpoint_bytes: Counter,
    view_age: FractionGauge,
}

#[derive(Debug)]
pub struct Snapshot {
    resolved: Family<Outcome, Counter>,
    pub hold_duration: Durations,
    pub capture_duration: Durations,
    pub capture_rows: Counter,
    pub capture_bytes: Counter,
}

/// What a duration is observed with.
#[derive(Clone, Debug)]
pub struct Durations(Histogram);

/// What a number of things is observed with.
#[derive(Clone, Debug)]
pub struct Counts(Histogram);

type FractionGauge = Gauge<f64, std::sync::atomic::AtomicU64>;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    rpc: &'static str,
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Called {
    rpc: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

impl Metrics {
    pub fn new() -> Arc<Metrics> {
        let mut to = Register { registry: Registry::with_prefix(PREFIX), listing: Vec::new() };
        let rpc = Rpc {
            requests: to.counters("rpc_requests", "Requests answered, by rpc and gRPC code"),
            duration: to.durations_by("rpc_duration", "From a request's arrival to its last answer, by rpc"),
        };
        let engine = Engine {
            round_duration: to.durations("engine_round_duration", "One round of the engine's loop, fsync included"),
            round_inputs: to.counts("engine_round_inputs", "Messages, requests and ticks that one round took"),
            queue: to.gauge("engine_queue", "Inputs that wait for the engine"),
            groups_led: to.gauge("engine_groups_led", "Groups that this node leads, the meta group included"),
            elections: to.counter("engine_elections", "Elections that this node stood for"),
        };
        let log = Log {
            fsync_duration: to.durations("log_fsync_duration", "Appending one round's entries of all groups, until they are on disk"),
            entries: to.counter("log_entries", "Raft log entries appended"),
            bytes: to.gauge_of("log", "Raft logs on disk", Unit::Bytes),
        };
        let peer = Peer {
            sent: to.counter("peer_messages_sent", "Messages handed to streams to other nodes"),
            received: to.counter("peer_messages_received", "Messages that came from other nodes"),
            dropped: to.counter("peer_messages_dropped", "Messages that found a queue full or no stream; Raft sends again"),
        };
        let store = Store {
            overlay_bytes: to.gauge_of("store_overlay", "Applied rows in memory that no checkpoint has written yet", Unit::Bytes),
            checkpoint_duration: to.durations("store_checkpoint_duration", "Writing the overlays to the store in one durable transaction"),
            checkpoint_bytes: to.counter_of("store_checkpoint", "Rows written by checkpoints", Unit::Bytes),
            view_age: to.fraction("store_view_age", "Age of the oldest read view that is held; the store cannot reuse pages while it is", Unit::Seconds),
        };
        let snapshot = Snapshot {
            resolved: to.counters("snapshot_parts", "This node's parts of snapshots, by outcome: completed, missing or failed"),
            hold_duration: to.durations("snapshot_hold_duration", "How long a cut held back the writes of a group that this node led"),
            capture_duration: to.durations("snapshot_capture_duration", "Writing this node's part of a snapshot"),
            capture_rows: to.counter("snapshot_capture_rows", "Rows captured into parts"),
            capture_bytes: to.counter_of("snapshot_capture", "Chunks written for parts; what an earlier snapshot had is not written again", Unit::Bytes),
        };
        let readiness = Readiness::new(to.gauge("ready", "1 when every local group has caught up and can serve, otherwise 0"));
        let Register { registry, listing } = to;
        Arc::new(Metrics { rpc, engine, log, peer, store, snapshot, readiness, registry, listing })
    }

    /// All values now, as OpenMetrics text.
    pub fn exposition(&self) -> String {
        let mut out = String::new();
        text::encode(&mut out, &self.registry).expect("writing to a string cannot fail");
        out
    }

    /// What there is, in the order of the exposition.
    pub fn listing(&self) -> &[Described] {
        &self.listing
    }

    /// The listing as the README shows it.
    pub fn table(&self) -> String {
        let rows = self.listing.iter().map(|metric| format!("| `{}` | {} | {} |\n", metric.name, metric.kind, metric.help));
        format!("| metric | type | what it says |\n| --- | --- | --- |\n{}", rows.collect::<String>())
    }
}

impl Rpc {
    /// A request was answered. The labels are names in the contract, so their number is bounded.
    pub fn answered(&self, rpc: &'static str, code: &'static str, took: Duration) {
        self.requests.get_or_create(&Answered { rpc, code }).inc();
        self.duration.get_or_create(&Called { rpc }).observe(took.as_secs_f64());
    }
}

impl Store {
    /// The age of the oldest read view; zero when none is held.
    pub fn view_age(&self, age: Duration) {
        self.view_age.set(age.as_secs_f64());
    }
}

impl Snapshot {
    /// This node's part is `completed`, `missing` or `failed`.
    pub fn resolved(&self, outcome: &'static str) {
        self.resolved.get_or_create(&Outcome { outcome }).inc();
    }
}

impl Durations {
    pub fn observe(&self, took: Duration) {
        self.0.observe(took.as_secs_f64());
    }
}

impl Counts {
    pub fn observe(&self, count: usize) {
        self.0.observe(count as f64);
    }
}

/// Whether the node can serve all it holds, and if not, what it waits for. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Readiness {
    waits_for: Arc<RwLock<Option<String>>>,
    gauge: Gauge,
}

impl Readiness {
    /// A node begins unready.
    fn new(gauge: Gauge) -> Readiness {
        Readiness { waits_for: Arc::new(RwLock::new(Some("the node starts".to_string()))), gauge }
    }

    /// Not ready: what it waits for, in words for an operator.
    pub fn waits_for(&self, what: impl Into<String>) {
        self.set(Some(what.into()));
    }

    pub fn ready(&self) {
        self.set(None);
    }

    /// None when ready, otherwise what it waits for.
    pub fn reason(&self) -> Option<String> {
        self.waits_for.read().expect("nobody panics while they hold the lock").clone()
    }

    pub fn is_ready(&self) -> bool {
        self.reason().is_none()
    }

    fn set(&self, waits_for: Option<String>) {
        let mut now = self.waits_for.write().expect("nobody panics while they hold the lock");
        self.gauge.set(i64::from(waits_for.is_none()));
        *now = waits_for;
    }
}

/// Makes histograms of durations for each label set of a family.
#[derive(Clone, Debug)]
struct Seconds;

impl MetricConstructor<Histogram> for Seconds {
    fn new_metric(&self) -> Histogram {
        Histogram::new(SECONDS)
    }
}

/// Registers metrics and remembers their description.
struct Register {
    registry: Registry,
    listing: Vec<Described>,
}

impl Register {
    fn counter(&mut self, name: &str, help: &'static str) -> Counter {
        self.add(name, "counter", help, None, Counter::default())
    }
    fn counter_of(&mut self, name: &str, help: &'static str, unit: Unit) -> Counter {
        self.add(name, "counter", help, Some(unit), Counter::default())
    }
    fn counters<L>(&mut self, name: &str, help: &'static str) -> Family<L, Counter>
    where
        Family<L, Counter>: Metric + Clone + Default,
    {
        self.add(name, "counter", help, None, Family::default())
    }
    fn gauge(&mut self, name: &str, help: &'static str) -> Gauge {
        self.add(name, "gauge", help, None, Gauge::default())
    }
    fn gauge_of(&mut self, name: &str, help: &'static str, unit: Unit) -> Gauge {
        self.add(name, "gauge", help, Some(unit), Gauge::default())
    }
    fn fraction(&mut self, name: &str, help: &'static str, unit: Unit) -> FractionGauge {
        self.add(name, "gauge", help, Some(unit), FractionGauge::default())
    }
    fn durations(&mut self, name: &str, help: &'static str) -> Durations {
        Durations(self.add(name, "histogram", help, Some(Unit::Seconds), Histogram::new(SECONDS)))
    }
    fn durations_by(&mut self, name: &str, help: &'static str) -> Family<Called, Histogram, Seconds> {
        self.add(name, "histogram", help, Some(Unit::Seconds), Family::new_with_constructor(Seconds))
    }
    fn counts(&mut self, name: &str, help: &'static str) -> Counts {
        Counts(self.add(name, "histogram", help, None, Histogram::new(COUNTS)))
    }

    fn add<M: Metric + Clone>(&mut self, name: &str, kind: &'static str, help: &'static str, unit: Option<Unit>, metric: M) -> M {
        let suffix = unit.as_ref().map_or(String::new(), |unit| format!("_{}", unit.as_str()));
        let total = if kind == "counter" { "_total" } else { "" };
        self.listing.push(Described { name: format!("{PREFIX}_{name}{suffix}{total}"), kind, help });
        match unit {
            Some(unit) => self.registry.register_with_unit(name, help, unit, metric.clone()),
            None => self.registry.register(name, help, metric.clone()),
        }
        metric
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A node that has done one of everything.
    fn busy() -> Arc<Metrics> {
        let metrics = Metrics::new();
        metrics.rpc.answered("KvService/Put", "OK", Duration::from_millis(3));
        metrics.snapshot.resolved("completed");
        metrics.store.view_age(Duration::from_millis(1500));
        metrics.engine.round_inputs.observe(7);
        metrics
    }

    #[test]
    fn the_exposition_holds_what_the_listing_says_and_nothing_else() {
        let metrics = busy();
        let exposition = metrics.exposition();
        let exposed: Vec<_> = exposition.lines().filter_map(|line| line.strip_prefix("# TYPE ")).map(str::to_string).collect();
        let listed: Vec<_> =
            metrics.listing().iter().map(|metric| format!("{} {}", metric.name.strip_suffix("_total").unwrap_or(&metric.name), metric.kind)).collect();
        assert_eq!(exposed, listed);
        for metric in metrics.listing() {
            assert!(exposition.contains(&metric.name), "no sample is named {}", metric.name);
        }
        assert!(exposition.ends_with("# EOF\n"));
    }

    #[test]
    fn values_are_exposed_with_their_labels_and_units() {
        let exposition = busy().exposition();
        for line in [
            "devicedb_rpc_requests_total{rpc=\"KvService/Put\",code=\"OK\"} 1",
            "devicedb_rpc_duration_seconds_bucket{le=\"0.005\",rpc=\"KvService/Put\"} 1",
            "devicedb_rpc_duration_seconds_bucket{le=\"0.0025\",rpc=\"KvService/Put\"} 0",
            "devicedb_store_view_age_seconds 1.5",
            "devicedb_snapshot_parts_total{outcome=\"completed\"} 1",
            "devicedb_engine_round_inputs_bucket{le=\"16.0\"} 1",
            "devicedb_ready 0",
        ] {
            assert!(exposition.lines().any(|exposed| exposed == line), "{line} is not in\n{exposition}");
        }
    }

    #[test]
    fn a_node_is_unready_until_it_says_otherwise_and_says_what_it_waits_for() {
        let metrics = Metrics::new();
        let elsewhere = metrics.readiness.clone();
        assert_eq!(metrics.readiness.reason().unwrap(), "the node starts");
        elsewhere.ready();
        assert!(metrics.readiness.is_ready());
        assert!(metrics.exposition().contains("devicedb_ready 1\n"));
        elsewhere.waits_for("group 7 has no leader");
        assert_eq!(metrics.readiness.reason().unwrap(), "group 7 has no leader");
        assert!(metrics.exposition().contains("devicedb_ready 0\n"));
    }

    /// `UPDATE_GOLDEN=1` writes the table where the marks stand.
    #[test]
    fn the_readme_lists_every_metric() {
        let (begin, end) = ("<!-- metrics: begin -->\n", "<!-- metrics: end -->");
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
        let readme = std::fs::read_to_string(path).unwrap();
        let (before, rest) = readme.split_once(begin).expect("README.md has a mark where the table of metrics begins");
        let (table, after) = rest.split_once(end).expect("README.md has a mark where the table of metrics ends");
        let expected = Metrics::new().table();
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(path, format!("{before}{begin}{expected}{end}{after}")).unwrap();
        } else {
            assert_eq!(table, expected, "the table of metrics in README.md is old: UPDATE_GOLDEN=1 cargo test --lib metrics");
        }
    }
}
