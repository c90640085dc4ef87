//! DeviceDB and etcd side by side: the same work, from the same generator, on the same machine.
//! `make compare` runs it.
//!
//! Rounds alternate, so that what else the machine does hits both. A whole run writes its table
//! into `tests/compare/README.md` and its raw results beside it; a part of one (ONLY=..., fewer
//! rounds or keys) prints the table and keeps the results under `target/`. Nodes run in temporary
//! directories on loopback ports, and are gone afterwards, also when it fails or is interrupted.

#[allow(dead_code, unused_imports, reason = "the tests use the rest of it")]
#[path = "../cluster/harness/mod.rs"]
mod harness;

mod wire;
mod etcd;
mod subject;
mod machine;
mod table;
mod recovery;
mod repairs;
mod repository;
mod growth;
mod goals;
mod failover;
mod tls;

use std::{fs, path::Path, process::ExitCode, time::Duration};

use clap::{Parser, ValueEnum};
use devicedb::ctl::bench::{
    load::{Lasts, Plan},
    report::Latency,
    requests::{Field, Kind},
    tally::Tally,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::timeout,
};

use machine::{Machine, peak_memory_mib, processor_seconds};
use subject::{Connections, Subject, Which};
use table::{Better, ETCD, FORWARDED, MANY, ONE, Results, Sample};

const RUN_MAX: Duration = Duration::from_secs(3 * 3600);
const SIZES: [usize; 2] = [1, 3];
const CLIENTS: [usize; 4] = [1, 8, 64, 256];
/// How many clients tails, processor time and memory are shown for.
const TYPICAL: usize = 64;
const SITES: u64 = 64;
const KEYS: u64 = 100_000;
const VALUE_BYTES: usize = 100;
const WARM_UP: Duration = Duration::from_secs(1);
/// A table of fewer is no table of medians.
const ROUNDS_PUBLISHED: usize = 3;
const SNAPSHOT_KEYS_PUBLISHED: u64 = 1_000_000;
const PAGE: &str = "tests/compare/README.md";
const RAW: &str = "tests/compare/results.json";
const GROWTH: &str = "tests/compare/growth";

#[derive(Debug, Parser)]
#[command(name = "compare", about = "Measures DeviceDB and etcd side by side")]
struct Args {
    #[arg(long, default_value_t = ROUNDS_PUBLISHED)]
    rounds: usize,
    /// How long each measurement of a round lasts
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Keys in a snapshot
    #[arg(long, default_value_t = SNAPSHOT_KEYS_PUBLISHED)]
    keys: u64,
    /// Some of it; puts, gets and snapshots by default
    #[arg(long, value_delimiter = ',')]
    only: Vec<Part>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    Put,
    Get,
    Snapshot,
    /// How DeviceDB alone grows
    Growth,
    /// How long a killed leader is missed
    Failover,
    /// What DeviceDB alone shall do
    Goals,
    /// Of the goals, only the peak of memory while the largest values are written
    Memory,
    /// What TLS costs
    Tls,
    /// Snapshots into a repository
    Repository,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse_from(std::env::args().filter(|arg| arg != "--only="));
    let mut terminate =
        signal(SignalKind::terminate()).expect("this process may listen to signals");
    // Whichever way it ends, the run is dropped here, and with it its nodes and their directories.
    tokio::select! {
        ended = timeout(RUN_MAX, run_all(&args)) => match ended {
            Ok(code) => code,
            Err(_) => {
                eprintln!("it took more than {RUN_MAX:?}");
                ExitCode::FAILURE
            }
        },
        _ = tokio::signal::ctrl_c() => ExitCode::from(130),
        _ = terminate.recv() => ExitCode::from(130),
    }
}

impl Args {
    /// Whether it is one that has to be asked for.
    fn names(&self, part: Part) -> bool {
        self.only.contains(&part)
    }

    fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }

    fn is_whole(&self) -> bool {
        self.only.is_empty()
            && self.rounds >= ROUNDS_PUBLISHED
            && self.keys >= SNAPSHOT_KEYS_PUBLISHED
    }
}

/// The comparison, unless only other things were asked for; then those.
async fn run_all(args: &Args) -> ExitCode {
    let mut kept = Vec::new();
    if [Part::Put, Part::Get, Part::Snapshot].into_iter().any(|part| args.wants(part)) {
        kept.push(publish(args, &run(args).await));
    }
    if args.names(Part::Growth) {
        kept.push(publish_growth(args, &growth::measure(args).await));
    }
    if args.names(Part::Failover) {
        kept.push(publish_failover(&failover::measure().await));
    }
    if args.names(Part::Goals) {
        kept.push(publish_table(args, "goals", &goals::measure(args).await.markdown()));
    }
    if args.names(Part::Memory) {
        println!("{}", goals::measure_memory(args).await.markdown());
        kept.push(Ok("printed only: it is a row of the goals".into()));
    }
    if args.names(Part::Tls) {
        kept.push(publish_table(args, "tls", &tls::measure(args).await.markdown()));
    }
    if args.names(Part::Repository) {
        kept.push(publish_table(args, "repository", &repository::measure(args).await.markdown()));
    }
    match kept.into_iter().collect::<Result<Vec<_>, _>>() {
        Ok(places) => {
            eprintln!("results: {}", places.join(", "));
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("the results could not be kept: {e}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: &Args) -> Results {
    let machine = Machine::look();
    let mut results = Results {
        machine,
        rounds: args.rounds,
        seconds: args.seconds,
        snapshot_keys: args.keys,
        samples: Vec::new(),
        notes: Vec::new(),
    };
    if !results.machine.is_durable() {
        results.notes.push(format!(
            "The data lay in {}: nothing was durable, and durability costs nothing there.",
            results.machine.filesystem
        ));
    }
    for nodes in SIZES {
        if args.wants(Part::Put) || args.wants(Part::Get) {
            requests(args, nodes, &mut results).await;
        }
        if args.wants(Part::Snapshot) {
            recovery::measure(args, nodes, &mut results).await;
        }
    }
    results
}

/// Who is measured under a name of the table.
struct Contender<'a> {
    name: &'static str,
    subject: &'a Subject,
    field: Field,
    /// Whether leaders are asked directly, as clients of DeviceDB do.
    direct: bool,
    connections: &'a Connections,
}

async fn requests(args: &Args, nodes: usize, results: &mut Results) {
    let (ours, etcd) =
        (Subject::start(Which::Ours, nodes).await, Subject::start(Which::Etcd, nodes).await);
    let (to_ours, to_etcd) = (ours.connect().await, etcd.connect().await);
    let many = || Field::of("many-", SITES, KEYS, VALUE_BYTES);
    let mut contenders = vec![
        Contender {
            name: MANY,
            subject: &ours,
            field: many(),
            direct: true,
            connections: &to_ours,
        },
        Contender {
            name: ONE,
            subject: &ours,
            field: Field::of("one-", 1, KEYS, VALUE_BYTES),
            direct: true,
            connections: &to_ours,
        },
        Contender {
            name: ETCD,
            subject: &etcd,
            field: Field::of("", 1, KEYS, VALUE_BYTES),
            direct: false,
            connections: &to_etcd,
        },
    ];
    for contender in &contenders {
        contender.subject.fill(&contender.field, contender.connections).await;
        contender.ask(Kind::Put, TYPICAL, WARM_UP).await;
    }
    if nodes > 1 {
        contenders.push(Contender {
            name: FORWARDED,
            subject: &ours,
            field: many(),
            direct: false,
            connections: &to_ours,
        });
    }
    for round in 0..args.rounds {
        for (kind, verb) in [(Kind::Put, "put"), (Kind::Get, "get")] {
            if !args.wants(if kind == Kind::Put { Part::Put } else { Part::Get }) {
                continue;
            }
            for clients in CLIENTS {
                for turn in 0..contenders.len() {
                    let contender = &contenders[(turn + round) % contenders.len()];
                    let before = processor_seconds(&contender.subject.pids());
                    let tally =
                        contender.ask(kind, clients, Duration::from_secs(args.seconds)).await;
                    let used = processor_seconds(&contender.subject.pids()) - before;
                    note(
                        results,
                        Measured { nodes, round, verb, clients, name: contender.name, tally, used },
                    );
                }
            }
        }
    }
    // The two fields of ours lie in the same processes.
    for (subject, name) in [(&ours, MANY), (&etcd, ETCD)] {
        let most = subject.pids().into_iter().map(peak_memory_mib).fold(0.0, f64::max);
        let what = "peak memory of a node after the requests, MiB".to_string();
        results.samples.push(Sample {
            nodes,
            what,
            better: Better::Less,
            shown: true,
            subject: name,
            round: 0,
            value: most,
        });
    }
}

impl Contender<'_> {
    async fn ask(&self, kind: Kind, clients: usize, window: Duration) -> Tally {
        let plan = Plan { clients, lasts: Lasts::For(window), rate: None };
        self.subject.load(kind, plan, &self.field, self.direct, self.connections).await
    }
}

/// A measurement of one round.
struct Measured {
    nodes: usize,
    round: usize,
    verb: &'static str,
    clients: usize,
    name: &'static str,
    tally: Tally,
    /// Processor seconds of all nodes.
    used: f64,
}

fn note(results: &mut Results, measured: Measured) {
    let Measured { nodes, round, verb, clients, name, tally, used } = measured;
    let latency = Latency::of(&tally.latency());
    let rate = tally.per_second();
    eprintln!(
        "{nodes} nodes, round {}: {verb}, clients: {clients}, {name}: {rate:.0}/s, p50 {:.2} ms, \
         p99 {:.2} ms",
        round + 1,
        latency.p50,
        latency.p99
    );
    let typical = clients == TYPICAL;
    let processor_micros = used * 1e6 / tally.all.requests.max(1) as f64;
    let numbers = [
        ("a second", Better::More, true, rate),
        ("p50, ms", Better::Less, clients == 1, latency.p50),
        ("p99, ms", Better::Less, typical, latency.p99),
        ("p99.9, ms", Better::Less, false, latency.p99_9),
        ("max, ms", Better::Less, false, latency.max),
        ("processor time of all nodes for one, µs", Better::Less, typical, processor_micros),
    ];
    let many = if clients == 1 { "1 client".to_string() } else { format!("{clients} clients") };
    for (what, better, shown, value) in numbers {
        let what = format!("{verb}, {many}: {what}");
        results.samples.push(Sample { nodes, what, better, shown, subject: name, round, value });
    }
    for (kind, failures) in &tally.failures {
        let (count, round, example) = (failures.count, round + 1, &failures.example);
        results.notes.push(format!(
            "{nodes} nodes, round {round}, {verb}, {clients} clients, {name}: {count} failed, \
             {kind}: {example}"
        ));
    }
}

type Trouble = Box<dyn std::error::Error>;

/// Prints the table; a whole run's goes into the page and the raw results beside it. Where they
/// are.
fn publish(args: &Args, results: &Results) -> Result<String, Trouble> {
    let table = results.markdown();
    println!("{table}");
    let raw = serde_json::to_string_pretty(results)? + "\n";
    if !args.is_whole() {
        let folder = std::env::var("CARGO_TARGET_DIR")
            .map_or_else(|_| root().join("target"), Into::into)
            .join("compare");
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("results.json"), raw)?;
        return Ok(folder.join("results.json").display().to_string());
    }
    into_page("results", &table)?;
    fs::write(root().join(RAW), raw)?;
    Ok(format!("{PAGE}, {RAW}"))
}

fn publish_growth(args: &Args, growth: &growth::Growth) -> Result<String, Trouble> {
    let table = growth.markdown();
    println!("{table}");
    if args.rounds < ROUNDS_PUBLISHED {
        return Ok("printed only: a page is of three rounds or more".into());
    }
    let folder = root().join(GROWTH);
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("points.json"), serde_json::to_string_pretty(growth)? + "\n")?;
    into_page("growth", &table)?;
    growth.draw(&folder)?;
    Ok(format!("{PAGE}, {GROWTH}"))
}

fn publish_table(args: &Args, name: &str, table: &str) -> Result<String, Trouble> {
    println!("{table}");
    if args.rounds < ROUNDS_PUBLISHED {
        return Ok("printed only: a page is of three rounds or more".into());
    }
    into_page(name, table)?;
    Ok(PAGE.into())
}

fn publish_failover(gaps: &[f64]) -> Result<String, Trouble> {
    let line = failover::told(gaps);
    println!("{line}");
    into_page("failover", &format!("{line}\n"))?;
    Ok(PAGE.into())
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Puts a text between the marks that have its name.
fn into_page(name: &str, text: &str) -> Result<(), Trouble> {
    let (begin, end) = (format!("<!-- {name}: begin -->\n"), format!("<!-- {name}: end -->"));
    let page = fs::read_to_string(root().join(PAGE))?;
    let around =
        page.split_once(&begin).and_then(|(before, rest)| Some((before, rest.split_once(&end)?.1)));
    let (before, after) = around.ok_or_else(|| format!("{PAGE} has no place for {name}"))?;
    Ok(fs::write(root().join(PAGE), format!("{before}{begin}{text}{end}{after}"))?)
}
