//! What a node counts and measures, as Prometheus and all who speak its formats read it.
//!
//! One table declares every metric, `metrics!`; `docs/metrics.md` is checked against it, and the
//! alarms in `deploy/prometheus` against both. Durations are in seconds, sizes in bytes.

#[cfg(test)]
mod alarms;
#[cfg(test)]
mod dashboard;
mod labels;
mod care;
mod handshakes;
mod page;
mod process;
mod schedules;

pub use self::{
    handshakes::NoHandshake,
    labels::{Cut, PartEnd, PlainKind, Quota},
    page::Format,
    process::Process,
    schedules::ScheduleSeen,
};

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use prometheus_client::{
    encoding::text::{encode_eof, encode_registry},
    metrics::{TypedMetric, counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Metric, Registry, Unit},
};

use self::{
    labels::{
        Build, Call, Disk, Ended, Field, LOST, Method, NOT_STORED, Of, Other, SENT, STORED, Who,
        Why,
    },
    schedules::Planned,
};
use crate::base::{ids::NodeId, journal};

const PREFIX: &str = "devicedb";

/// What the engine says of this node when somebody asks.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub ready: bool,
    pub groups_led: usize,
    pub groups_without_leader: usize,
    pub groups_under_replicated: usize,
    pub overlay_bytes: usize,
    /// Of the other members.
    pub silences: Vec<(NodeId, Duration)>,
}

/// One metric as operators see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// As a query names it.
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    pub help: &'static str,
}

/// Declares every metric once: field, type, how it is registered, name and help.
macro_rules! metrics {
    ($(
        $field:ident: $kind:ty = $register:ident($name:literal, $help:literal $(, $new:expr)?);
    )+) => {
        /// See the module. Shared behind an `Arc`.
        #[derive(Debug)]
        pub struct Metrics {
            registry: Registry,
            /// Those that every program has, by names that all programs share.
            common: Registry,
            listing: Vec<Described>,
            $($field: $kind,)+
        }

        impl Default for Metrics {
            fn default() -> Metrics {
                let mut register = Register {
                    registry: Registry::with_prefix(PREFIX),
                    common: Registry::default(),
                    listing: Vec::new(),
                };
                $(let $field: $kind =
                    $register(&mut register, $name, $help, metrics!(@new $($new)?));)+
                let Register { registry, common, listing } = register;
                let metrics = Metrics { registry, common, listing, $($field,)+ };
                metrics.begin_at_zero();
                metrics
            }
        }
    };
    (@new) => { Default::default() };
    (@new $new:expr) => { $new };
}

metrics! {
    requests: Family<Call, Counter> = counted("requests", "Requests by method and gRPC code");
    request_seconds: Family<Method, Histogram, fn() -> Histogram> = timed(
        "request_duration",
        "From a request's arrival to its answer by method, streams left out",
        Family::new_with_constructor(seconds)
    );
    round_seconds: Histogram = timed(
        "engine_round_duration",
        "One turn of the engine's loop, with its disk write",
        seconds()
    );
    round_inputs: Histogram =
        counted("engine_round_inputs", "Inputs that one turn of the loop took", inputs());
    queue_depth: Gauge = counted("engine_queue_depth", "Inputs that wait for the engine's loop");
    log_entries: Counter = counted("log_entries", "Raft log entries written");
    log_sync_seconds: Histogram =
        timed("log_sync_duration", "A write of the log that was synced to disk", seconds());
    checkpoint_seconds: Histogram =
        timed("checkpoint_duration", "Writing applied rows to the store", seconds());
    checkpoint_bytes: Counter = counted("checkpoint_bytes", "Bytes of rows written to the store");
    leader_changes: Counter =
        counted("leader_changes", "Times that a group got another leader, as this node has seen");
    elections_won: Counter =
        counted("elections_won", "Times that this node became a group's leader");
    offers_in_vain: Counter = counted(
        "leadership_offers_in_vain",
        "Times that this node offered a group's leadership to another one, which did not take \
         it in time: the group's writes waited meanwhile"
    );
    groups_led: Gauge =
        counted("groups_led", "Groups that this node leads, the meta group included");
    groups_leaderless: Gauge = counted(
        "groups_without_leader",
        "Groups of which this node has a replica and knows no leader"
    );
    groups_under: Gauge = counted(
        "groups_under_replicated",
        "Groups that this node leads and that have fewer replicas that answer than they should"
    );
    overlay_bytes: Gauge =
        counted("overlay_bytes", "Applied rows in memory that are not in the store yet");
    log_bytes: Gauge = counted("log_bytes", "Size of the Raft log on disk");
    peer_sent: Counter = counted("peer_messages_sent", "Messages handed to streams to other nodes");
    peer_dropped: Counter = counted(
        "peer_messages_dropped",
        "Messages that were lost because a queue was full or a node unknown"
    );
    peer_received: Counter = counted("peer_messages_received", "Messages taken from other nodes");
    peer_refused: Family<Field, Counter> = counted(
        "peer_messages_refused",
        "Messages of other nodes that no node that is well sends, by the field that gives \
         them away"
    );
    entries_skipped: Counter = counted(
        "log_entries_skipped",
        "Committed entries that no version can apply and that every replica passes over: \
         never but by a fault, see the log"
    );
    replicas_ended: Counter = counted(
        "replicas_ended",
        "Replicas whose rows this node has deleted, since others hold their groups now"
    );
    held_seconds: Histogram = timed(
        "snapshot_hold_duration",
        "How long a group's writes waited for a snapshot's cut",
        seconds()
    );
    parts: Family<Ended, Counter> =
        counted("snapshot_parts", "This node's parts of snapshots by how they ended");
    capture_seconds: Histogram =
        timed("capture_duration", "From the cut to this node's part in place", seconds());
    capture_rows: Counter = counted("capture_rows", "Rows in this node's parts of snapshots");
    capture_bytes: Counter =
        counted("capture_bytes", "Bytes in this node's parts before compression");
    capture_written: Counter =
        counted("capture_written_bytes", "Bytes of chunks that had to be written");
    capture_processor: Counter<f64, AtomicU64> =
        counted("capture_processor_seconds", "Processor time of captures");
    uploads: Family<Ended, Counter> = counted(
        "uploads",
        "Uploads of snapshots that this node drove, by how they ended"
    );
    upload_sent: Counter =
        counted("upload_sent_bytes", "Bytes of chunks that this node sent to the repository");
    schedule_next: Family<Planned, Gauge> = counted(
        "schedule_next_timestamp_seconds",
        "Unix time at which a schedule is due next; 0 while it is paused"
    );
    schedule_missed: Family<Planned, Counter> = counted(
        "schedule_missed",
        "Runs of a schedule that could not begin in time and were not made up for"
    );
    schedule_failures: Family<Planned, Gauge> = counted(
        "schedule_failures",
        "Runs of a schedule that failed one after the other, up to now"
    );
    repository_committed: Gauge = counted(
        "repository_last_committed_timestamp_seconds",
        "Unix time at which a schedule had the last snapshot in the repository; 0 while none has"
    );
    repository_verified: Family<Ended, Gauge> = counted(
        "repository_last_verified_timestamp_seconds",
        "Unix time at which the last verification began whose report is in the repository, by \
         what it came to; absent while this node knows of none"
    );
    repository_drilled: Family<Ended, Gauge> = counted(
        "repository_last_drill_timestamp_seconds",
        "Unix time at which the last drill began whose report is in the repository, by what it \
         came to; absent while this node knows of none"
    );
    ready: Gauge = counted("ready", "1 when every local group has caught up and can serve");
    node_silent: Family<Other, Gauge> = counted(
        "node_silent_seconds",
        "How long this node has heard nothing of another member"
    );
    view_seconds: Histogram =
        timed("snapshot_view_duration", "How long a capture held its view of the store", seconds());
    view_age: Gauge = counted(
        "snapshot_view_age_seconds",
        "How long the oldest view that a capture holds has been held; 0 when none is"
    );
    disk_free: Family<Disk, Gauge> = counted(
        "disk_free_bytes",
        "Free bytes of the disk on which the store lies, or the snapshot store"
    );
    disk_floor: Family<Disk, Gauge> = counted(
        "disk_floor_bytes",
        "Free bytes of that disk below which parts of snapshots and rows for other nodes \
         are refused"
    );
    connections: Gauge = counted("connections", "Connections that are open to this node");
    connections_cut: Family<Why, Counter> =
        counted("connections_cut", "Connections that this node has closed by itself, by why");
    accept_errors: Counter = counted("accept_errors", "Connections that could not be accepted");
    handshakes: Counter = counted("tls_handshakes", "TLS handshakes that were completed");
    handshakes_failed: Family<Why, Counter> = counted(
        "tls_handshakes_failed",
        "TLS handshakes that came to nothing, and certificates that were not believed, by why"
    );
    plain: Family<Who, Counter> = counted(
        "plain_connections",
        "Connections without TLS to a node that has certificates, by who calls"
    );
    over_quota: Family<Of, Counter> = counted(
        "client_calls_refused",
        "Calls that were refused because their client was over a limit, by limit"
    );
    audit_failed: Gauge = counted(
        "audit_failed",
        "1 while the audit log cannot be written; calls that change the cluster are refused then"
    );
    audit_lost: Counter = counted(
        "audit_lines_lost",
        "Lines of the audit log that could not be written"
    );
    reload_failed: Gauge = counted(
        "tls_reload_failed",
        "1 while the files of certificates cannot be used and the ones read before are"
    );
    certificate_ends: Gauge = counted(
        "tls_certificate_ends_seconds",
        "Unix time at which the certificate in use ends; 0 without TLS"
    );
    lines_lost: Counter = counted(
        "stderr_lines_lost",
        "Lines of the log that nobody read in time, or that could not be written"
    );
    spans: Family<Ended, Counter> = counted(
        "trace_spans",
        "Spans of traces by what became of them: the collector took them, or they were lost"
    );
    build: Family<Build, Gauge> =
        counted("build_info", "Always 1: the version of the program that runs");
    process_cpu: Counter<f64, AtomicU64> =
        common("process_cpu_seconds", "Processor time of the node, and the kernel's for it");
    process_resident: Gauge =
        common("process_resident_memory_bytes", "Memory of the node that lies in RAM");
    process_virtual: Gauge =
        common("process_virtual_memory_bytes", "Addresses that the node has taken");
    process_fds: Gauge = common("process_open_fds", "Files, sockets and pipes that are open");
    process_fds_max: Gauge = common("process_max_fds", "How many may be open at most");
    process_threads: Gauge = common("process_threads", "Threads of the node");
    process_start: Gauge =
        common("process_start_time_seconds", "Unix time at which the node's process began");
}

/// From 1 to 16,384, a factor of 4.
fn inputs() -> Histogram {
    Histogram::new(std::iter::successors(Some(1.0), |n| Some(n * 4.0)).take(8))
}

/// From 50 µs to 26 s, a factor of 3.
fn seconds() -> Histogram {
    Histogram::new(std::iter::successors(Some(0.000_05), |s| Some(s * 3.0)).take(13))
}

/// Registers metrics, and remembers how they are described.
struct Register {
    registry: Registry,
    common: Registry,
    listing: Vec<Described>,
}

fn counted<M: Metric + TypedMetric + Clone>(
    register: &mut Register,
    name: &str,
    help: &'static str,
    metric: M,
) -> M {
    let kind = M::TYPE.as_str();
    let total = if kind == "counter" { "_total" } else { "" };
    register.listing.push(Described { name: format!("{PREFIX}_{name}{total}"), kind, help });
    register.registry.register(name, help, metric.clone());
    metric
}

/// One that goes by the same name in every program.
fn common<M: Metric + TypedMetric + Clone>(
    register: &mut Register,
    name: &str,
    help: &'static str,
    metric: M,
) -> M {
    let kind = M::TYPE.as_str();
    let total = if kind == "counter" { "_total" } else { "" };
    register.listing.push(Described { name: format!("{name}{total}"), kind, help });
    register.common.register(name, help, metric.clone());
    metric
}

fn timed<M: Metric + Clone>(
    register: &mut Register,
    name: &str,
    help: &'static str,
    histogram: M,
) -> M {
    register.listing.push(Described {
        name: format!("{PREFIX}_{name}_seconds"),
        kind: "histogram",
        help,
    });
    register.registry.register_with_unit(name, help, Unit::Seconds, histogram.clone());
    histogram
}

impl Metrics {
    /// Shows what has never happened as 0 and not as absent: an alarm on a rise needs both.
    fn begin_at_zero(&self) {
        self.build.get_or_create(&Build { version: env!("CARGO_PKG_VERSION") }).set(1);
        PartEnd::ALL.iter().for_each(|end| drop(self.parts.get_or_create(&end.label())));
        for outcome in [STORED, NOT_STORED] {
            drop(self.uploads.get_or_create(&Ended { outcome }));
        }
        Cut::ALL.iter().for_each(|cut| drop(self.connections_cut.get_or_create(&cut.label())));
        for why in NoHandshake::ALL {
            drop(self.handshakes_failed.get_or_create(&why.label()));
        }
        for outcome in [SENT, LOST] {
            drop(self.spans.get_or_create(&Ended { outcome }));
        }
        Quota::ALL.iter().for_each(|of| drop(self.over_quota.get_or_create(&of.label())));
        PlainKind::ALL.iter().for_each(|kind| drop(self.plain.get_or_create(&kind.label())));
    }

    /// Everything, in one of the formats.
    pub fn text(&self, format: Format) -> String {
        let mut text = String::new();
        encode_registry(&mut text, &self.registry)
            .and_then(|()| encode_registry(&mut text, &self.common))
            .and_then(|()| encode_eof(&mut text))
            .expect("a string takes everything");
        format.of_open_metrics(text)
    }

    /// What there is, in the order of `text`.
    pub fn listing(&self) -> &[Described] {
        &self.listing
    }

    /// The listing as docs/metrics.md shows it.
    pub fn table(&self) -> String {
        let rows: String = self
            .listing
            .iter()
            .map(|metric| format!("| `{}` | {} | {} |\n", metric.name, metric.kind, metric.help))
            .collect();
        format!("| metric | type | what it says |\n| --- | --- | --- |\n{rows}")
    }

    /// `code` by its name in gRPC; a stream has no duration.
    pub fn request(&self, method: &'static str, code: &'static str, took: Option<Duration>) {
        self.requests.get_or_create(&Call { method, code }).inc();
        if let Some(took) = took {
            self.request_seconds.get_or_create(&Method { method }).observe(took.as_secs_f64());
        }
    }
    /// Adds to the number of inputs that wait for the engine; negative when the engine takes some.
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
    pub fn offered_in_vain(&self) {
        self.offers_in_vain.inc();
    }
    pub fn part_ended(&self, how: PartEnd) {
        self.parts.get_or_create(&how.label()).inc();
    }
    pub fn upload_ended(&self, stored: bool) {
        let outcome = if stored { STORED } else { NOT_STORED };
        self.uploads.get_or_create(&Ended { outcome }).inc();
    }
    pub fn upload_sent(&self, bytes: u64) {
        self.upload_sent.inc_by(bytes);
    }
    pub fn peer_messages(&self, count: usize, sent: bool) {
        let counter = if sent { &self.peer_sent } else { &self.peer_dropped };
        counter.inc_by(count as u64);
    }
    pub fn peer_messages_received(&self, count: usize, taken: bool) {
        let counter = if taken { &self.peer_received } else { &self.peer_dropped };
        counter.inc_by(count as u64);
    }
    pub fn connections(&self, open: usize) {
        self.connections.set(open as i64);
    }
    pub fn connection_cut(&self, why: Cut) {
        self.connections_cut.get_or_create(&why.label()).inc();
    }
    pub fn accept_failed(&self) {
        self.accept_errors.inc();
    }
    pub fn handshake_done(&self) {
        self.handshakes.inc();
    }
    pub fn handshake_failed(&self, why: NoHandshake) {
        self.handshakes_failed.get_or_create(&why.label()).inc();
    }
    pub fn plain_connection(&self, kind: PlainKind) {
        self.plain.get_or_create(&kind.label()).inc();
    }
    pub fn over_quota(&self, quota: Quota) {
        self.over_quota.get_or_create(&quota.label()).inc();
    }
    /// `ends` is the Unix time at which the certificate ends that is in use from now on.
    pub fn certificate_in_use(&self, ends: i64) {
        self.certificate_ends.set(ends);
    }
    pub fn audit(&self, failed: bool) {
        self.audit_failed.set(i64::from(failed));
    }
    pub fn audit_lost(&self, lines: u64) {
        self.audit_lost.inc_by(lines);
    }
    pub fn spans(&self, count: u64, sent: bool) {
        let outcome = if sent { SENT } else { LOST };
        self.spans.get_or_create(&Ended { outcome }).inc_by(count);
    }
    pub fn reload(&self, failed: bool) {
        self.reload_failed.set(i64::from(failed));
    }
    /// `field` as the contract names it.
    pub fn peer_message_refused(&self, field: &'static str) {
        self.peer_refused.get_or_create(&Field { field }).inc();
    }
    pub fn entry_skipped(&self) {
        self.entries_skipped.inc();
    }
    pub fn replica_ended(&self) {
        self.replicas_ended.inc();
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
    /// What is free on the disk of a directory, and what has to be.
    pub fn disk(&self, directory: &'static str, free: u64, floor: u64) {
        self.disk_free.get_or_create(&Disk { directory }).set(free as i64);
        self.disk_floor.get_or_create(&Disk { directory }).set(floor as i64);
    }
    /// What is looked up when somebody asks.
    pub fn now(&self, seen: &Seen, log_bytes: u64, view_age: Duration) {
        self.ready.set(i64::from(seen.ready));
        self.groups_led.set(seen.groups_led as i64);
        self.groups_leaderless.set(seen.groups_without_leader as i64);
        self.groups_under.set(seen.groups_under_replicated as i64);
        self.overlay_bytes.set(seen.overlay_bytes as i64);
        self.log_bytes.set(log_bytes as i64);
        self.view_age.set(view_age.as_secs() as i64);
        self.lines_lost.inner().store(journal::lost(), Ordering::Relaxed);
        self.silent(&seen.silences);
    }
    /// What the kernel says of this process.
    pub fn process(&self, process: &Process) {
        self.process_cpu.inner().store(process.cpu_seconds.to_bits(), Ordering::Relaxed);
        self.process_resident.set(process.resident_bytes as i64);
        self.process_virtual.set(process.virtual_bytes as i64);
        self.process_fds.set(process.open_files as i64);
        self.process_fds_max.set(process.files_max as i64);
        self.process_threads.set(process.threads as i64);
        self.process_start.set(process.started_unix_s as i64);
    }
    /// The other members, and how long each has been silent. Whoever is none any more is left out.
    fn silent(&self, others: &[(NodeId, Duration)]) {
        self.node_silent.clear();
        for (node, silent) in others {
            self.node_silent.get_or_create(&Other { node: node.0 }).set(silent.as_secs() as i64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::golden;

    #[test]
    fn what_is_counted_is_shown() {
        let metrics = Metrics::default();
        metrics.request("Put", "OK", Some(Duration::from_millis(2)));
        let silences = vec![(NodeId(3), Duration::from_secs(4)), (NodeId(7), Duration::ZERO)];
        let before = Seen { silences, ..Seen::default() };
        metrics.now(&before, 20, Duration::ZERO);
        let now = Seen {
            ready: true,
            groups_led: 22,
            groups_without_leader: 3,
            groups_under_replicated: 2,
            overlay_bytes: 10,
            silences: vec![(NodeId(7), Duration::from_secs(12))],
        };
        metrics.now(&now, 20, Duration::from_secs(61));
        metrics.view_held(Duration::from_secs(3));
        metrics.part_ended(PartEnd::Failed);
        metrics.disk("store", 70, 7);
        let text = metrics.text(Format::OpenMetrics);
        assert!(text.contains("devicedb_node_silent_seconds{node=\"7\"} 12"), "{text}");
        assert!(!text.contains("{node=\"3\"}"), "{text}");
        assert!(text.contains("devicedb_requests_total{method=\"Put\",code=\"OK\"} 1"), "{text}");
        assert!(text.contains("devicedb_snapshot_view_duration_seconds_sum 3.0"), "{text}");
        assert!(
            text.contains("devicedb_request_duration_seconds_count{method=\"Put\"} 1"),
            "{text}"
        );
        assert!(text.contains("devicedb_snapshot_parts_total{outcome=\"failed\"} 1"), "{text}");
        assert!(text.contains("devicedb_snapshot_parts_total{outcome=\"completed\"} 0"), "{text}");
        assert!(text.contains("devicedb_groups_led 22"), "{text}");
        assert!(text.contains("devicedb_groups_without_leader 3"), "{text}");
        assert!(text.contains("devicedb_groups_under_replicated 2"), "{text}");
        assert!(text.contains("devicedb_disk_free_bytes{directory=\"store\"} 70"), "{text}");
        assert!(text.contains("devicedb_disk_floor_bytes{directory=\"store\"} 7"), "{text}");
        assert!(text.contains("devicedb_snapshot_view_age_seconds 61"), "{text}");
    }

    #[test]
    fn what_is_listed_is_what_is_exposed() {
        let metrics = Metrics::default();
        metrics.request("Put", "OK", Some(Duration::from_millis(2)));
        metrics.disk("store", 70, 7);
        metrics.silent(&[(NodeId(7), Duration::ZERO)]);
        metrics.peer_message_refused("RaftMessage.term");
        let name = "hourly".to_owned();
        metrics.schedules(&[], &[ScheduleSeen { name, next_s: 7, missed: 1, failures: 0 }], 5);
        metrics.looked_after(Some((5, true)), Some((6, true)));
        let exposed = |format| -> Vec<String> {
            let text = metrics.text(format);
            let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
            types.map(str::to_owned).collect()
        };
        let in_full = |metric: &Described| format!("{} {}", metric.name, metric.kind);
        let of_family = |metric: &Described| in_full(metric).replace("_total counter", " counter");
        let listed = |named: &dyn Fn(&Described) -> String| -> Vec<String> {
            metrics.listing().iter().map(named).collect()
        };
        assert_eq!(exposed(Format::OpenMetrics), listed(&of_family));
        assert_eq!(exposed(Format::Text), listed(&in_full));
    }

    /// `UPDATE_GOLDEN=1` writes the table between its marks.
    #[test]
    fn the_document_lists_every_metric() {
        golden::table("docs/metrics.md", "metrics", &Metrics::default().table());
    }

    #[test]
    fn what_the_documents_call_a_metric_is_one() {
        let metrics = Metrics::default();
        let docs = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/docs")).unwrap();
        for path in docs.map(|entry| entry.unwrap().path()) {
            let text = std::fs::read_to_string(&path).unwrap();
            for (at, _) in text.match_indices("devicedb_") {
                let rest = &text[at..];
                let ends = rest.find(|c: char| !c.is_ascii_lowercase() && c != '_');
                let name = &rest[..ends.unwrap_or(rest.len())];
                let of_histogram = ["_bucket", "_sum", "_count"];
                let whole = of_histogram.iter().find_map(|part| name.strip_suffix(part));
                let known =
                    |metric: &Described| [name, whole.unwrap_or(name)].contains(&&*metric.name);
                let is_one = metrics.listing().iter().any(known);
                assert!(is_one, "{}: there is no metric {name}", path.display());
            }
        }
    }
}
