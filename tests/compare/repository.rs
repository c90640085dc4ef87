//! A snapshot into a repository, beside `etcdctl snapshot save` and beside the plainest way to
//! store as many bytes in the same place.
//!
//! The repository is a directory on the disk that everything else lies on. Sizes are of keys and
//! values as a user wrote them, once. In each round both sides found new clusters, in turns.

use std::{fs, path::Path, thread, time::Duration};

use devicedb::{
    base::{
        clock::{Clock, Random},
        limits,
    },
    ctl::bench::{
        load::{Lasts, Plan},
        report::Latency,
        requests::{Field, Kind, key},
    },
    proto::v1::{Bucket, Upload, UploadStatus},
    repository::{
        root::Repository,
        store::{Directory, Store as _},
        verify::{Depth, verify},
    },
};

use crate::{
    Args, SITES, TYPICAL, VALUE_BYTES,
    harness::{Cluster, Node, Options, Port, eventually, http_get, shell},
    machine::{Machine, processor_seconds},
    subject::{Subject, Which},
    table::{median, written},
};

const NODES: usize = 3;
const BOUND: Duration = Duration::from_secs(600);

pub struct Kept {
    machine: Machine,
    keys: u64,
    rows: Vec<Row>,
}

/// What all rounds came to of one thing.
struct Row {
    what: &'static str,
    goal: Goal,
    values: Vec<f64>,
}

#[derive(Clone, Copy)]
enum Goal {
    AtLeast(f64),
    AtMost(f64),
    None,
}

pub async fn measure(args: &Args) -> Kept {
    let mut kept = Kept { machine: Machine::look(), keys: args.keys, rows: Vec::new() };
    for round in 0..args.rounds {
        eprintln!("round {}", round + 1);
        let (ours, etcd) = if round % 2 == 0 {
            let ours = kept.ours(args).await;
            (ours, etcd(args).await)
        } else {
            let etcd = etcd(args).await;
            (kept.ours(args).await, etcd)
        };
        kept.note("snapshot to a repository, MB/s", Goal::None, ours);
        kept.note("etcdctl snapshot save, MB/s", Goal::None, etcd);
        kept.note("snapshot to a repository, of etcd's", Goal::AtLeast(2.0), ours / etcd);
    }
    kept
}

/// MB a second.
async fn etcd(args: &Args) -> f64 {
    let field = Field::of("", 1, args.keys, VALUE_BYTES);
    let mut subject = Subject::start(Which::Etcd, NODES).await;
    let connections = subject.connect().await;
    subject.fill(&field, &connections).await;
    let Subject::Etcd(members) = &mut subject else { unreachable!("it was asked for") };
    let clock = Clock::start();
    members.save(&members.dir().join("snapshot.db")).await;
    megabytes(&field) / clock.now().as_secs_f64()
}

fn megabytes(field: &Field) -> f64 {
    (field.keys() * field.row_bytes()) as f64 / 1e6
}

async fn stored(cluster: &Cluster, uuid: &str) -> Upload {
    let client = cluster.client();
    client.upload_snapshot(uuid).await.unwrap();
    eventually("the snapshot is stored", BOUND, async || {
        let upload = client.snapshot(uuid).await.unwrap().upload.unwrap();
        if upload.status() == UploadStatus::Stored {
            Ok(upload)
        } else {
            Err(format!("{upload:?}"))
        }
    })
    .await
}

async fn sent_bytes(cluster: &Cluster) -> f64 {
    let mut sum = 0.0;
    for node in &cluster.nodes {
        let (_, page) = http_get(&node.endpoint(), "/metrics").await.unwrap();
        let line = page.lines().find_map(|l| l.strip_prefix("devicedb_upload_sent_bytes_total "));
        sum += line.expect("it is counted").parse::<f64>().unwrap();
    }
    sum
}

/// Nodes that begin a cluster together from a repository, not started yet. One alone founds it.
fn beginners(dir: &Path, place: &Path, size: usize) -> Vec<Node> {
    let (place, size_said) = (place.display().to_string(), size.to_string());
    let mut nodes: Vec<Node> = Vec::new();
    for nth in 0..size {
        let (name, port) = (format!("of-{size}-{nth}"), Port::claim());
        let (store, snapshots) = (dir.join(&name), dir.join(format!("{name}-snapshots")));
        fs::create_dir_all(&snapshots).unwrap();
        let (at, listen) = (store.display().to_string(), port.endpoint());
        let snapshots = snapshots.display().to_string();
        let mut args = vec!["start", "--store", &at, "--listen", &listen];
        args.extend(["--snapshot-store", &snapshots, "--restore-from", &place]);
        if size > 1 {
            args.extend(["--expect-nodes", &size_said]);
        }
        let first = nodes.first().map(Node::endpoint);
        if let Some(first) = &first {
            args.extend(["--join", first]);
        }
        let args = args.into_iter().map(str::to_owned).collect();
        nodes.push(Node::new(&name, port, dir, store, args));
    }
    nodes
}

/// The same bytes in objects of the same size, as many at a time, by the same `create`.
fn plain_puts(dir: &Path, bytes: u64) -> Duration {
    let store = Directory::new(dir);
    let mut noise = Random::seeded(7);
    let object: Vec<u8> = (0..limits::REPOSITORY_SEGMENT_BYTES / 8)
        .flat_map(|_| noise.next_u64().to_be_bytes())
        .collect();
    let object = bytes::Bytes::from(object);
    let count = bytes.div_ceil(object.len() as u64) as usize;
    let lanes = NODES * limits::REPOSITORY_PUTS;
    let clock = Clock::start();
    thread::scope(|scope| {
        for lane in 0..lanes {
            let (store, object) = (&store, &object);
            scope.spawn(move || {
                for nth in (lane..count).step_by(lanes) {
                    store.create(&format!("plain/{nth}"), object.clone()).unwrap();
                }
            });
        }
    });
    clock.now()
}

impl Kept {
    /// MB a second, from the command to the snapshot in the repository.
    async fn ours(&mut self, args: &Args) -> f64 {
        let clock = Clock::start();
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("repository");
        let at = place.display().to_string();
        shell(&format!("ddbctl repository init {at}"), BOUND).await.exits(0);
        let extra = vec!["--repository".to_owned(), at];
        let cluster = Cluster::start(NODES, Options { extra, ..Options::product() }).await;
        let mut subject = Subject::Ours(cluster);
        let connections = subject.connect().await;
        let field = Field::of("many-", SITES, args.keys, VALUE_BYTES);
        subject.fill(&field, &connections).await;
        let Subject::Ours(cluster) = &mut subject else { unreachable!("it was asked for") };

        let began = clock.now();
        let uuid = cluster.client().complete_snapshot(BOUND).await.uuid;
        let taken = clock.now();
        let upload = stored(cluster, &uuid).await;
        let ended = clock.now();
        let sent = sent_bytes(cluster).await;
        self.note("sent, of what is new", Goal::AtMost(1.01), sent / upload.new_bytes as f64);
        let repository = Repository::open(&place).unwrap();
        let objects = repository.store.list("").unwrap();
        let lies: u64 = objects.iter().map(|object| object.bytes).sum();
        let of_one = lies as f64 / upload.bytes as f64;
        self.note("stored, of one replica's chunks", Goal::AtMost(1.02), of_one);
        let plain = plain_puts(&dir.path().join("plain"), upload.new_bytes);
        let of_plain = plain.as_secs_f64() / (ended - taken).as_secs_f64();
        self.note("upload, of the rate of plain puts", Goal::AtLeast(0.8), of_plain);

        let own = [std::process::id()];
        let before = processor_seconds(&own);
        let report = verify(&repository, &[], Depth::Whole).unwrap();
        assert!(report.sound, "{report}");
        let a_core = upload.bytes as f64 / 1e6 / (processor_seconds(&own) - before);
        self.note("verify, MB of chunks a second of a core", Goal::AtLeast(500.0), a_core);

        self.beside_puts(args, &subject, &field, &connections, &clock).await;
        drop((connections, subject));
        self.rebuilds(&place, &field, &clock).await;
        megabytes(&field) / (ended - began).as_secs_f64()
    }

    /// New clusters of one and of three nodes that begin with the newest snapshot, and a drill. The
    /// cluster that it is of is gone.
    async fn rebuilds(&mut self, place: &Path, field: &Field, clock: &Clock) {
        let dir = tempfile::tempdir().unwrap();
        let mut loads = Vec::new();
        for size in [1, NODES] {
            let mut nodes = beginners(dir.path(), place, size);
            let began = clock.now();
            nodes.iter_mut().for_each(Node::start);
            let first = nodes[0].client();
            eventually("a key is read", BOUND, async || {
                let read = first.get(&field.sites[0], Bucket::Default, key(0)).await;
                let read = read.map_err(|e| e.to_string())?;
                if read.siblings.is_empty() { Err("it is not there".to_owned()) } else { Ok(()) }
            })
            .await;
            let read = clock.now() - began;
            for node in &mut nodes {
                node.wait_ready().await;
            }
            loads.push((read, clock.now() - began));
        }
        let [(one_read, one_ready), (read, ready)] = loads[..] else { unreachable!("two sizes") };
        self.note("one new node: to the first read, s", Goal::None, one_read.as_secs_f64());
        self.note("one new node: to ready, s", Goal::None, one_ready.as_secs_f64());
        self.note("three new nodes: to the first read, s", Goal::AtMost(3.0), read.as_secs_f64());
        let of_one = ready.as_secs_f64() / one_ready.as_secs_f64();
        self.note("three new nodes: to all ready, of one's time", Goal::AtMost(1.2), of_one);

        let began = clock.now();
        let (place, scratch) = (place.display(), dir.path().join("scratch"));
        let line = format!("ddbctl repository drill {place} --scratch {}", scratch.display());
        shell(&line, BOUND).await.exits(0);
        let took = clock.now() - began;
        self.note("drill, s", Goal::AtMost(60.0), took.as_secs_f64());
    }

    /// Puts alone, and while a snapshot that was taken before is uploaded.
    async fn beside_puts(
        &mut self,
        args: &Args,
        subject: &Subject,
        field: &Field,
        connections: &crate::subject::Connections,
        clock: &Clock,
    ) {
        let Subject::Ours(cluster) = subject else { unreachable!("it was asked for") };
        let window = Duration::from_secs(args.seconds);
        let plan = || Plan { clients: TYPICAL, lasts: Lasts::For(window), rate: None };
        let put = || subject.load(Kind::Put, plan(), field, true, connections);
        let quiet = put().await;
        let uuid = cluster.client().complete_snapshot(BOUND).await.uuid;
        let began = clock.now();
        let uploading = async {
            let upload = stored(cluster, &uuid).await;
            (clock.now() - began, upload)
        };
        let (busy, (took, upload)) = tokio::join!(put(), uploading);
        let p99 = |tally: &devicedb::ctl::bench::tally::Tally| Latency::of(&tally.latency()).p99;
        eprintln!(
            "puts for {window:?} beside an upload of {} bytes that took {took:?}",
            upload.new_bytes
        );
        let of_quiet = p99(&busy) / p99(&quiet);
        self.note("put p99 while it is uploaded, of without", Goal::AtMost(1.1), of_quiet);
        let rate = busy.per_second() / quiet.per_second();
        self.note("puts a second while it is uploaded, of without", Goal::None, rate);
    }

    fn note(&mut self, what: &'static str, goal: Goal, value: f64) {
        eprintln!("{what}: {}", written(value));
        match self.rows.iter_mut().find(|row| row.what == what) {
            Some(row) => row.values.push(value),
            None => self.rows.push(Row { what, goal, values: vec![value] }),
        }
    }

    pub fn markdown(&self) -> String {
        let Machine { cores, processor, filesystem, devicedb, etcd, .. } = &self.machine;
        let mut text = format!(
            "{cores} cores ({processor}), {filesystem}; {NODES} nodes, {} keys of {VALUE_BYTES} \
             bytes; medians with the least and the most of {} rounds; DeviceDB {devicedb}, etcd \
             {etcd}.\n\n| what | goal | measured | |\n| --- | --- | --- | --- |\n",
            self.keys,
            self.rows.first().map_or(0, |row| row.values.len()),
        );
        for Row { what, goal, values } in &self.rows {
            let mut sorted = values.clone();
            sorted.sort_by(f64::total_cmp);
            let (least, middle, most) = (sorted[0], median(&sorted), sorted[sorted.len() - 1]);
            let (goal, met) = match goal {
                Goal::AtLeast(least) => (format!("≥ {least}"), Some(middle >= *least)),
                Goal::AtMost(most) => (format!("≤ {most}"), Some(middle <= *most)),
                Goal::None => (String::new(), None),
            };
            let met = met.map_or("", |met| if met { "met" } else { "not met" });
            let (middle, least, most) = (written(middle), written(least), written(most));
            text += &format!("| {what} | {goal} | {middle} ({least}–{most}) | {met} |\n");
        }
        text
    }
}
