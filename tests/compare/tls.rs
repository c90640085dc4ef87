//! What TLS costs: the same puts on two clusters of DeviceDB. On one of them clients and nodes
//! speak TLS and nothing else, each with a certificate; on the other everybody speaks plainly.
//!
//! Both run all the time and take turns, now the one first and now the other, so that what else the
//! machine does hits both. A ratio is of two measurements that follow each other, and what is told
//! is the median of all rounds.

use std::time::Duration;

use devicedb::ctl::bench::{
    load::{Lasts, Plan},
    report::Latency,
    requests::{Field, Kind},
};

use crate::{
    Args, CLIENTS, KEYS, SITES, TYPICAL, VALUE_BYTES, WARM_UP,
    harness::{Cluster, Options},
    machine::{Machine, processor_seconds},
    subject::{Connections, Subject},
    table::{median, written},
};

const NODES: usize = 3;
/// What is wanted of puts a second and of their p99, over TLS of without.
const RATE_AT_LEAST: f64 = 0.9;
const P99_AT_MOST: f64 = 1.15;

pub struct Cost {
    machine: Machine,
    seconds: u64,
    pairs: Vec<Pair>,
}

/// One round's puts of so many clients.
struct Pair {
    clients: usize,
    plain: Measured,
    secured: Measured,
}

#[derive(Clone, Copy)]
struct Measured {
    rate: f64,
    p99_ms: f64,
    /// Of all nodes, for one put.
    processor_micros: f64,
}

struct Side {
    name: &'static str,
    subject: Subject,
    connections: Connections,
}

impl Side {
    async fn start(name: &'static str, secured: bool, field: &Field) -> Side {
        let options = Options { secured, ..Options::product() };
        let subject = Subject::Ours(Cluster::start(NODES, options).await);
        let connections = subject.connect().await;
        let side = Side { name, subject, connections };
        side.subject.fill(field, &side.connections).await;
        side.put(TYPICAL, WARM_UP, field).await;
        side
    }

    async fn put(&self, clients: usize, window: Duration, field: &Field) -> Measured {
        let plan = Plan { clients, lasts: Lasts::For(window), rate: None };
        let before = processor_seconds(&self.subject.pids());
        let tally = self.subject.load(Kind::Put, plan, field, true, &self.connections).await;
        let used = processor_seconds(&self.subject.pids()) - before;
        assert_eq!(tally.failed(), 0, "{}: puts failed: {:?}", self.name, tally.failures);
        let (rate, p99_ms) = (tally.per_second(), Latency::of(&tally.latency()).p99);
        let processor_micros = used * 1e6 / tally.all.requests.max(1) as f64;
        let name = self.name;
        eprintln!("clients: {clients}, {name}: {rate:.0}/s, p99 {p99_ms:.2} ms");
        Measured { rate, p99_ms, processor_micros }
    }
}

pub async fn measure(args: &Args) -> Cost {
    let field = Field::of("many-", SITES, KEYS, VALUE_BYTES);
    let plain = Side::start("plain", false, &field).await;
    let secured = Side::start("over TLS", true, &field).await;
    let window = Duration::from_secs(args.seconds);
    let mut cost = Cost { machine: Machine::look(), seconds: args.seconds, pairs: Vec::new() };
    for round in 0..args.rounds {
        eprintln!("round {}", round + 1);
        for clients in CLIENTS {
            let (first, second) =
                if round % 2 == 0 { (&plain, &secured) } else { (&secured, &plain) };
            let first = first.put(clients, window, &field).await;
            let second = second.put(clients, window, &field).await;
            let (plain, secured) = if round % 2 == 0 { (first, second) } else { (second, first) };
            cost.pairs.push(Pair { clients, plain, secured });
        }
    }
    cost
}

impl Cost {
    pub fn markdown(&self) -> String {
        let Machine { cores, processor, filesystem, devicedb, .. } = &self.machine;
        let rounds = self.pairs.len() / CLIENTS.len();
        let mut text = format!(
            "{cores} cores ({processor}), {filesystem}; {NODES} nodes, {rounds} rounds of {} s \
             each, medians with the least and the most; DeviceDB {devicedb}.\n\n",
            self.seconds
        );
        text += "| clients | what | goal | plain | over TLS | over TLS, of plain | |\n\
                 | --- | --- | --- | --- | --- | --- | --- |\n";
        for clients in CLIENTS {
            text += &self.row(clients, "puts a second", |m| m.rate, Some(Wanted::Most));
            text += &self.row(clients, "put p99, ms", |m| m.p99_ms, Some(Wanted::Least));
            let what = "processor time of all nodes for one put, µs";
            text += &self.row(clients, what, |m| m.processor_micros, None);
        }
        text
    }

    fn row(
        &self,
        clients: usize,
        what: &str,
        of: impl Fn(&Measured) -> f64,
        wanted: Option<Wanted>,
    ) -> String {
        let pairs = || self.pairs.iter().filter(|pair| pair.clients == clients);
        let (_, plain) = told(pairs().map(|pair| of(&pair.plain)));
        let (_, secured) = told(pairs().map(|pair| of(&pair.secured)));
        let (middle, ratio) = told(pairs().map(|pair| of(&pair.secured) / of(&pair.plain)));
        let (goal, met) = match wanted {
            Some(Wanted::Most) => (format!("≥ {RATE_AT_LEAST}"), Some(middle >= RATE_AT_LEAST)),
            Some(Wanted::Least) => (format!("≤ {P99_AT_MOST}"), Some(middle <= P99_AT_MOST)),
            None => (String::new(), None),
        };
        let met = met.map_or("", |met| if met { "met" } else { "not met" });
        format!("| {clients} | {what} | {goal} | {plain} | {secured} | {ratio} | {met} |\n")
    }
}

/// Which of its ends a goal is about.
#[derive(Clone, Copy)]
enum Wanted {
    Most,
    Least,
}

/// The median, and how it stands in a table.
fn told(values: impl Iterator<Item = f64>) -> (f64, String) {
    let mut sorted: Vec<_> = values.collect();
    sorted.sort_by(f64::total_cmp);
    let (least, middle, most) = (sorted[0], median(&sorted), sorted[sorted.len() - 1]);
    (middle, format!("{} ({}–{})", written(middle), written(least), written(most)))
}
