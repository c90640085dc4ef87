//! What DeviceDB alone shall do, and does: the goals for which there is nothing to compare it with.
//!
//! Every round founds new clusters of three nodes with the product's defaults, fills one with a
//! million keys in a hundred sites, and takes it through snapshot, download, verification, loss and
//! restore. Sizes are of tars, as they are streamed.

use std::{os::unix::fs::MetadataExt as _, path::Path, pin::pin, time::Duration};

use devicedb::{
    base::{clock::Clock, limits},
    ctl::bench::{
        load::{Lasts, Plan},
        report::Latency,
        requests::{Field, Kind, key},
    },
    proto::v1::{
        Bucket, DownloadSnapshotRequest, ScanRequest, Snapshot, kv_service_client::KvServiceClient,
        snapshot_service_client::SnapshotServiceClient,
    },
};
use tonic::transport::Endpoint;

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
/// The largest values, so many of them, by so many who write at the same time.
const LARGE_BYTES: usize = limits::VALUE_BYTES_MAX;
const LARGE_KEYS: u64 = 776;
const LARGE_WRITERS: usize = 32;
/// How long nobody writes before it is looked what they take on disk.
const SETTLED: Duration = Duration::from_secs(60);
/// Readers that do not read: a client whose window takes nothing of an answer but its beginning.
const UNREAD_SCANS: usize = 1000;
const UNREAD_DOWNLOADS: usize = 600;
const UNREAD_WINDOW: u32 = 1024;
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
        goals.large().await;
        goals.disaster().await;
        goals.repairs().await;
    }
    goals
}

/// Of the goals, only what the largest values take in memory.
pub async fn measure_memory(args: &Args) -> Goals {
    let mut goals = Goals { machine: Machine::look(), goals: Vec::new() };
    for round in 0..args.rounds {
        eprintln!("round {}", round + 1);
        goals.large_under_way().await;
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

    pub fn at_most(&mut self, what: &'static str, wanted: f64, value: f64) {
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
        eventually("a put is acknowledged", SOON, async || {
            client.put("first", Bucket::Default, "key", "value").await
        })
        .await;
        self.at_most("start of a first node to its first put, s", 0.5, clock.now().as_secs_f64());
    }

    async fn idle(&mut self) {
        let cluster =
            Cluster::start(NODES, Options { groups: MANY_GROUPS, ..Options::product() }).await;
        let pids: Vec<_> = cluster.nodes.iter().map(|node| node.pid()).collect();
        let used = || pids.iter().map(|pid| processor_seconds(&[*pid])).collect::<Vec<_>>();
        tokio::time::sleep(SETTLE).await;
        let before = used();
        tokio::time::sleep(REST).await;
        let most =
            used().iter().zip(&before).map(|(after, before)| after - before).fold(0.0, f64::max);
        self.at_most(
            "idle node of 1024 groups, % of a core",
            2.0,
            most * 100.0 / REST.as_secs_f64(),
        );
        let memory = pids.iter().map(|pid| peak_memory_mib(*pid)).fold(0.0, f64::max);
        self.at_most("idle node of 1024 groups, peak memory, MiB", 200.0, memory);
    }

    /// What the largest values take in memory while they are written, and on disk once nobody
    /// writes.
    async fn large(&mut self) {
        let (subject, field) = self.large_under_way().await;
        let Subject::Ours(cluster) = &subject else { unreachable!("it was made as one of ours") };
        tokio::time::sleep(SETTLED).await;
        let disk =
            cluster.nodes.iter().map(|node| disk_bytes(&node.store)).max().unwrap_or_default();
        self.at_most(
            "disk of a node a minute later, of 776 MiB in values of 1 MiB",
            2.5,
            disk as f64 / (field.keys() as f64 * LARGE_BYTES as f64),
        );
    }

    /// Writes the largest values, and looks what they take in memory meanwhile.
    async fn large_under_way(&mut self) -> (Subject, Field) {
        let subject = Subject::Ours(Cluster::start(NODES, Options::product()).await);
        let connections = subject.connect().await;
        let Subject::Ours(cluster) = &subject else { unreachable!("it was made as one of ours") };
        let field = Field::of("large-", 16, LARGE_KEYS, LARGE_BYTES);
        for site in &field.sites {
            cluster.client().add_site(site).await.unwrap();
        }
        let plan =
            Plan { clients: LARGE_WRITERS, lasts: Lasts::Requests(field.batches(1)), rate: None };
        let written = subject.load(Kind::Batch { rows: 1 }, plan, &field, true, &connections).await;
        assert_eq!(
            written.failed(),
            0,
            "not all large values were written: {:?}",
            written.failures
        );
        let rate = written.all.rows as f64 / written.took.as_secs_f64();
        eprintln!("values of 1 MiB a second: {}", crate::table::written(rate));
        let under_way = (LARGE_WRITERS * LARGE_BYTES) as f64 / f64::from(1 << 20);
        let memory = subject.pids().into_iter().map(peak_memory_mib).fold(0.0, f64::max);
        self.at_most(
            "peak memory of a node, of 32 MiB of writes under way",
            8.0,
            memory / under_way,
        );
        (subject, field)
    }

    async fn disaster(&mut self) {
        let clock = Clock::start();
        let subject = Subject::Ours(Cluster::start(NODES, Options::product()).await);
        let connections = subject.connect().await;
        let field = Field::of("site-", SITES, KEYS, VALUE_BYTES);
        let filled = subject.fill(&field, &connections).await;
        self.at_least(
            "rows written in batches a second",
            150_000.0,
            filled.all.rows as f64 / filled.took.as_secs_f64(),
        );
        self.scan(&subject, clock).await;

        let Subject::Ours(cluster) = &subject else { unreachable!("it was made as one of ours") };
        let client = cluster.client();
        let began = clock.now();
        let first = client.complete_snapshot(BOUND).await;
        self.at_most("snapshot of a million keys, s", 1.5, (clock.now() - began).as_secs_f64());

        let began = clock.now();
        let tars = cluster.download_all(&first.uuid).await;
        let mb =
            tars.iter().map(|tar| std::fs::metadata(tar).unwrap().len()).sum::<u64>() as f64 / 1e6;
        self.at_least(
            "download of every part, MB/s",
            1000.0,
            mb / (clock.now() - began).as_secs_f64(),
        );

        let began = clock.now();
        let paths: Vec<_> = tars.iter().map(|tar| tar.display().to_string()).collect();
        shell(&format!("ddbctl snapshot verify {}", paths.join(" ")), BOUND).await.exits(0);
        self.at_least(
            "verification of every part, MB/s",
            1000.0,
            mb / (clock.now() - began).as_secs_f64(),
        );

        let changed = Field { sites: field.sites[..1].to_vec(), ..field.clone() };
        let rows = changed.rows_a_batch(BATCH_ROWS);
        let plan = Plan { clients: 8, lasts: Lasts::Requests(changed.batches(rows)), rate: None };
        let again = subject.load(Kind::Batch { rows }, plan, &changed, true, &connections).await;
        assert_eq!(again.failed(), 0, "not all of a site was written: {:?}", again.failures);
        let began = clock.now();
        let second = client.complete_snapshot(BOUND).await;
        self.at_most("snapshot when 1 % has changed, s", 0.3, (clock.now() - began).as_secs_f64());
        self.at_most(
            "snapshot when 1 % has changed, % of the bytes",
            3.0,
            100.0 * bytes_written(&second) as f64 / bytes_written(&first) as f64,
        );

        self.snapshots_under_load(&subject, &field).await;
        self.unread(&subject, &field, &first).await;
        self.restore(subject, &tars, &field).await;
    }

    async fn scan(&mut self, subject: &Subject, clock: Clock) {
        let field = Field::of("scanned-", 1, SCANNED, VALUE_BYTES);
        subject.fill(&field, &subject.connect().await).await;
        let Subject::Ours(cluster) = subject else { unreachable!("it was made as one of ours") };
        let answer = cluster
            .client()
            .put(&field.sites[0], Bucket::Default, key(0), "who leads")
            .await
            .unwrap();
        let leader = answer.leader.expect("an answer says who leads").address;
        let node = cluster
            .nodes
            .iter()
            .find(|node| node.endpoint() == leader)
            .expect("a node of the cluster leads");
        let client = node.client();
        let began = clock.now();
        let found = client.scan(&field.sites[0], Bucket::Default, "").await.unwrap();
        let took = clock.now() - began;
        assert_eq!(found.len() as u64, SCANNED, "a scan gives every key");
        self.at_most("scan of 100,000 keys, s", 0.1, took.as_secs_f64());
    }

    /// Puts without, and while one snapshot is taken after another. Both windows are long enough
    /// for what happens without snapshots too, checkpoints.
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
        self.at_most(
            "writes held by the cut, p99 no more than, ms",
            25.0,
            held.into_iter().fold(0.0, f64::max) * 1e3,
        );
    }

    /// Puts without, and beside readers that do not read.
    async fn unread(&mut self, subject: &Subject, field: &Field, snapshot: &Snapshot) {
        let Subject::Ours(cluster) = subject else { unreachable!("it was made as one of ours") };
        let connections = subject.connect().await;
        let puts = async || {
            let plan = Plan { clients: TYPICAL, lasts: Lasts::For(WINDOW), rate: None };
            let tally = subject.load(Kind::Put, plan, field, true, &connections).await;
            assert_eq!(tally.failed(), 0, "puts failed: {:?}", tally.failures);
            Latency::of(&tally.latency()).p99
        };
        puts().await;
        let quiet = puts().await;
        let endpoint =
            Endpoint::from_shared(format!("http://{}", cluster.nodes[0].endpoint())).unwrap();
        let channel = endpoint.initial_stream_window_size(UNREAD_WINDOW).connect().await.unwrap();
        let scan = ScanRequest {
            site: field.sites[0].clone(),
            bucket: Bucket::Default.into(),
            ..ScanRequest::default()
        };
        let mut scans = Vec::new();
        for _ in 0..UNREAD_SCANS {
            scans.push(KvServiceClient::new(channel.clone()).scan(scan.clone()).await);
        }
        self.at_most(
            "put p99 beside 1000 scans that nobody reads, of that without",
            2.0,
            puts().await / quiet,
        );
        drop(scans);
        let download = DownloadSnapshotRequest {
            uuid: snapshot.uuid.clone(),
            ..DownloadSnapshotRequest::default()
        };
        let mut downloads = Vec::new();
        for _ in 0..UNREAD_DOWNLOADS {
            downloads.push(
                SnapshotServiceClient::new(channel.clone())
                    .download_snapshot(download.clone())
                    .await,
            );
        }
        self.at_most(
            "put p99 beside 600 downloads that nobody reads, of that without",
            2.0,
            puts().await / quiet,
        );
    }

    async fn restore(&mut self, subject: Subject, tars: &[impl AsRef<Path>], field: &Field) {
        let Subject::Ours(mut cluster) = subject else {
            unreachable!("it was made as one of ours")
        };
        cluster.lose_every_disk();
        let clock = Clock::start();
        for (node, tar) in cluster.nodes.iter_mut().zip(tars) {
            std::fs::create_dir(&node.store).unwrap();
            shell(&format!("tar xf {} -C {}", tar.as_ref().display(), node.store.display()), BOUND)
                .await
                .exits(0);
            node.start();
        }
        let client = cluster.client();
        let last = key(field.keys_per_site - 1);
        let values = eventually("a key is read", BOUND, async || {
            client.values(&field.sites[1], Bucket::Default, &last).await
        })
        .await;
        assert_eq!(values.len(), 1, "the key that is read was written");
        self.at_most(
            "a million keys from tars to the first read, s",
            3.0,
            clock.now().as_secs_f64(),
        );
    }

    pub fn markdown(&self) -> String {
        let Machine { cores, processor, filesystem, devicedb, .. } = &self.machine;
        let rounds = self.goals.first().map_or(0, |goal| goal.values.len());
        let mut text = format!(
            "{cores} cores ({processor}), {filesystem}; {rounds} rounds, medians with the least \
             and the most; DeviceDB {devicedb}.\n\n"
        );
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
            text += &format!(
                "| {what} | {sign} {wanted} | {} ({}–{}) | {met} |\n",
                written(middle),
                written(least),
                written(most)
            );
        }
        text
    }
}

/// What a directory takes on disk.
fn disk_bytes(path: &Path) -> u64 {
    let taken = std::fs::metadata(path).map_or(0, |found| found.blocks() * 512);
    let inside = std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    taken + inside.map(|path| disk_bytes(&path)).sum::<u64>()
}

/// What had to be written for a snapshot, over all parts.
fn bytes_written(snapshot: &Snapshot) -> u64 {
    snapshot.parts.iter().map(|part| part.bytes_written).sum()
}

/// The upper bound, in seconds, of the bucket of a node's histogram in which the 99th percentile
/// lies.
fn held_p99(metrics: &str) -> f64 {
    const BUCKET: &str = "devicedb_snapshot_hold_duration_seconds_bucket{le=\"";
    let buckets: Vec<(f64, f64)> = metrics
        .lines()
        .filter_map(|line| line.strip_prefix(BUCKET)?.split_once("\"} "))
        .map(|(bound, count)| {
            (
                bound.replace("+Inf", "inf").parse().expect("a bound is a number"),
                count.parse().expect("a count is a number"),
            )
        })
        .collect();
    let all = buckets.last().expect("a node tells how long writes were held").1;
    assert!(all > 0.0, "no write was held, so that nothing is known of it");
    buckets.iter().find(|(_, count)| *count >= 0.99 * all).expect("the last bucket holds all").0
}
