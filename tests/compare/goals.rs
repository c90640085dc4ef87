//! What DeviceDB alone shall do, and does: the goals for which there is nothing to compare it with.
//!
//! Every round founds new clusters of three nodes with the product's defaults, fills one with a million keys in a hundred sites, and takes it through
//! snapshot, download, verification, loss and restore. Sizes are of tars, as they are streamed.

use std::{path::Path, pin::pin, time::Duration};

use devicedb::{
    clock::Clock,
    ctl::bench::{
        load::{Lasts, Plan},
        report::Latency,
        requests::{Field, Kind, key},
    },
    proto::v1::{Bucket, Snapshot},
};

use crate::{
    Args, TYPICAL, VALUE_BYTES, WARM_UP,
    growth::{REST, SETTLE},
    harness::{Cluster, Options, SOON, eventually, http_get, shell},
    machine::{Machine, peak_memory_mib, processor_seconds},
    subject::{BATCH_ROWS, Subject},
    table::{Better, median, written},
};

const NODES: usize = 3;
/// One of them is a hundredth of what is there.
const SITES: u64 = 100;
const KEYS: u64 = 1_000_000;
const SCANNED: u64 = 100_000;
const MANY_GROUPS: u32 = 1024;
const WINDOW: Duration = Duration::from_secs(20);
const BOUND: Duration = Duration::from_secs(600);

/// Something that shall be reached, and what every round came to.
struct Goal {
    what: &'static str,
    better: Better,
    wanted: f64,
    values: Vec<f64>,
}

pub struct Goals {
    machine: Machine,
    goals: Vec<Goal>,
}

pub async fn measure(args: &Args) -> Goals {
    let mut goals = Goals { machine: Machine::look(), goals: Vec::new() };
    for round in 0..args.rounds {
        eprintln!("round {}", round + 1);
        goals.fresh().await;
        goals.idle().await;
        goals.disaster().await;
    }
    goals
}

impl Goals {
    fn note(&mut self, what: &'static str, better: Better, wanted: f64, value: f64) {
        eprintln!("{what}: {}", written(value));
        match self.goals.iter_mut().find(|goal| goal.what == what) {
            Some(goal) => goal.values.push(value),
            None => self.goals.push(Goal { what, better, wanted, values: vec![value] }),
        }
    }

    fn at_most(&mut self, what: &'static str, wanted: f64, value: f64) {
        self.note(what, Better::Less, wanted, value);
    }

    fn at_least(&mut self, what: &'static str, wanted: f64, value: f64) {
        self.note(what, Better::More, wanted, value);
    }

    async fn fresh(&mut self) {
        let clock = Clock::start();
        let mut cluster = Cluster::empty(Options::product());
        cluster.add().await;
        let client = cluster.client();
        eventually("a site is added", SOON, async || client.add_site("first").await).await;
        eventually("a put is acknowledged", SOON, async || client.put("first", Bucket::Default, "key", "value").await).await;
        self.at_most("start of a first node to its first put, s", 0.5, clock.now().as_secs_f64());
    }

    async fn idle(&mut self) {
        let cluster = Cluster::start(NODES, Options { groups: MANY_GROUPS, ..Options::product() }).await;
        let pids: Vec<_> = cluster.nodes.iter().map(|node| node.pid()).collect();
        let used = || pids.iter().map(|pid| processor_seconds(&[*pid])).collect::<Vec<_>>();
        tokio::time::sleep(SETTLE).await;
        let before = used();
        tokio::time::sleep(REST).await;
        let most = used().iter().zip(&before).map(|(after, before)| after - before).fold(0.0, f64::max);
        self.at_most("idle node of 1024 groups, % of a core", 2.0, most * 100.0 / REST.as_secs_f64());
        let memory = pids.iter().map(|pid| peak_memory_mib(*pid)).fold(0.0, f64::max);
        self.at_most("idle node of 1024 groups, peak memory, MiB", 200.0, memory);
    }

    async fn disaster(&mut self) {
        let clock = Clock::start();
        let subject = Subject::Ours(Cluster::start(NODES, Options::product()).await);
        let connections = subject.connect().await;
        let field = Field::of("site-", SITES, KEYS, VALUE_BYTES);
        let filled = subject.fill(&field, &connections).await;
        self.at_least("rows written in batches a second", 150_000.0, filled.all.rows as f64 / filled.took.as_secs_f64());
        self.scan(&subject, clock).await;

        let Subject::Ours(cluster) = &subject else { unreachable!("it was made as one of ours") };
        let client = cluster.client();
        let began = clock.now();
        let first = client.complete_snapshot(BOUND).await;
        self.at_most("snapshot of a million keys, s", 1.5, (clock.now() - began).as_secs_f64());

        let began = clock.now();
        let tars = cluster.download_all(&first.uuid).await;
        let mb = tars.iter().map(|tar| std::fs::metadata(tar).unwrap().len()).sum::<u64>() as f64 / 1e6;
        self.at_least("download of every part, MB/s", 1000.0, mb / (clock.now() - began).as_secs_f64());

        let began = clock.now();
        let paths: Vec<_> = tars.iter().map(|tar| tar.display().to_string()).collect();
        shell(&format!("ddbctl snapshot verify {}", paths.join(" ")), BOUND).await.exits(0);
        self.at_least("verification of every part, MB/s", 1000.0, mb / (clock.now() - began).as_secs_f64());

        let changed = Field { sites: field.sites[..1].to_vec(), ..field.clone() };
        let rows = changed.rows_a_batch(BATCH_ROWS);
        let plan = Plan { clients: 8, lasts: Lasts::Requests(changed.batches(rows)), rate: None };
        let again = subject.load(Kind::Batch { rows }, plan, &changed, true, &connections).await;
        assert_eq!(again.failed(), 0, "not all of a site was written: {:?}", again.failures);
        let began = clock.now();
        let second = client.complete_snapshot(BOUND).await;
        self.at_most("snapshot when 1 % has changed, s", 0.3, (clock.now() - began).as_secs_f64());
        self.at_most("snapshot when 1 % has changed, % of the bytes", 3.0, 100.0 * bytes_written(&second) as f64 / bytes_written(&first) as f64);

        self.snapshots_under_load(&subject, &field).await;
        self.restore(subject, &tars, &field).await;
    }

    async fn scan(&mut self, subject: &Subject, clock: Clock) {
        let field = Field::of("scanned-", 1, SCANNED, VALUE_BYTES);
        subject.fill(&field, &subject.connect().await).await;
        let Subject::Ours(cluster) = subject else { unreachable!("it was made as one of ours") };
        let answer = cluster.client().put(&field.sites[0], Bucket::Default, key(0), "who leads").await.unwrap();
        let leader = answer.leader.expect("an answer says who leads").address;
        let node = cluster.nodes.iter().find(|node| node.endpoint() == leader).expect("a node of the cluster leads");
        let client = node.client();
        let began = clock.now();
        let found = client.scan(&field.sites[0], Bucket::Default, "").await.unwrap();
        let took = clock.now() - began;
        assert_eq!(found.len() as u64, SCANNED, "a scan gives every key");
        self.at_most("scan of 100,000 keys, s", 0.1, took.as_secs_f64());
    }

    /// Puts without, and while one snapshot is taken after another. Both windows are long enough for what happens without snapshots too, checkpoints.
    async fn snapshots_under_load(&mut self, subject: &Subject, field: &Field) {
        let Subject::Ours(cluster) = subject else { unreachable!("it was made as one of ours") };
        let connections = subject.connect().await;
        let puts = async |window| {
            let plan = Plan { clients: TYPICAL, lasts: Lasts::For(window), rate: None };
            let tally = subject.load(Kind::Put, plan, field, true, &connections).await;
            assert_eq!(tally.failed(), 0, "puts failed: {:?}", tally.failures);
            Latency::of(&tally.latency()).p99
        };
        puts(WARM_UP).await;
        let quiet = puts(WINDOW).await;
        let client = cluster.client();
        let mut under = pin!(puts(WINDOW));
        let busy = loop {
            tokio::select! {
                p99 = &mut under => break p99,
                _ = client.complete_snapshot(BOUND) => {}
            }
        };
        self.at_most("put p99 during snapshots, of that without", 1.1, busy / quiet);
        let mut held = Vec::new();
        for node in &cluster.nodes {
            held.push(held_p99(&http_get(&node.endpoint(), "/metrics").await.unwrap().1));
        }
        self.at_most("writes held by the cut, p99 no more than, ms", 25.0, held.into_iter().fold(0.0, f64::max) * 1e3);
    }

    async fn restore(&mut self, subject: Subject, tars: &[impl AsRef<Path>], field: &Field) {
        let Subject::Ours(mut cluster) = subject else { unreachable!("it was made as one of ours") };
        cluster.lose_every_disk();
        let clock = Clock::start();
        for (node, tar) in cluster.nodes.iter_mut().zip(tars) {
            std::fs::create_dir(&node.store).unwrap();
            shell(&format!("tar xf {} -C {}", tar.as_ref().display(), node.store.display()), BOUND).await.exits(0);
            node.start();
        }
        let client = cluster.client();
        let last = key(field.keys_per_site - 1);
        let values = eventually("a key is read", BOUND, async || client.values(&field.sites[1], Bucket::Default, &last).await).await;
        assert_eq!(values.len(), 1, "the key that is read was written");
        self.at_most("a million keys from tars to the first read, s", 3.0, clock.now().as_secs_f64());
    }

    pub fn markdown(&self) -> String {
        let Machine { cores, processor, filesystem, devicedb, .. } = &self.machine;
        let rounds = self.goals.first().map_or(0, |goal| goal.values.len());
        let mut text = format!("{cores} cores ({processor}), {filesystem}; {rounds} rounds, medians with the least and the most; DeviceDB {devicedb}.\n\n");
        text += "| what | goal | measured | |\n| --- | --- | --- | --- |\n";
        for Goal { what, better, wanted, values } in &self.goals {
            let mut sorted = values.clone();
            sorted.sort_by(f64::total_cmp);
            let (least, middle, most) = (sorted[0], median(&sorted), sorted[sorted.len() - 1]);
            let (sign, met) = match better {
                Better::More => ("≥", middle >= *wanted),
                Better::Less => ("≤", middle <= *wanted),
            };
            let met = if met { "met" } else { "not met" };
            text += &format!("| {what} | {sign} {wanted} | {} ({}–{}) | {met} |\n", written(middle), written(least), written(most));
        }
        text
    }
}

/// What had to be written for a snapshot, over all parts.
fn bytes_written(snapshot: &Snapshot) -> u64 {
    snapshot.parts.iter().map(|part| part.bytes_written).sum()
}

/// The upper bound, in seconds, of the bucket of a node's histogram in which the 99th percentile lies.
fn held_p99(metrics: &str) -> f64 {
    const BUCKET: &str = "devicedb_snapshot_hold_duration_seconds_bucket{le=\"";
    let buckets: Vec<(f64, f64)> = metrics
        .lines()
        .filter_map(|line| line.strip_prefix(BUCKET)?.split_once("\"} "))
        .map(|(bound, count)| (bound.replace("+Inf", "inf").parse().expect("a bound is a number"), count.parse().expect("a count is a number")))
        .collect();
    let all = buckets.last().expect("a node tells how long writes were held").1;
    assert!(all > 0.0, "no write was held, so that nothing is known of it");
    buckets.iter().find(|(_, count)| *count >= 0.99 * all).expect("the last bucket holds all").0
}
