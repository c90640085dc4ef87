//! A crash at a failpoint, and what must hold after it.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use devicedb::{
    base::clock::Random,
    faults::failpoint::Failpoint,
    proto::v1::{Bucket, Consistency, ScanRequest, Snapshot, SnapshotPart, SnapshotStatus},
};
use tokio::time::sleep;

use crate::harness::{Client, Cluster, Node, Options, Ran, SOON, Writer, eventually, shell};

const ABORTED: i32 = 6;
const AGAIN: Duration = Duration::from_millis(20);
/// Whoever died is not waited for.
const CALL: Duration = Duration::from_secs(2);

/// Where a process is to die, and at which pass.
#[derive(Clone, Copy, Debug)]
pub struct Crash {
    pub point: Failpoint,
    pub pass: u32,
}

impl Crash {
    fn word(self) -> String {
        format!("{}:{}", self.point.name(), self.pass)
    }

    /// Starts nodes of which the first that passes there dies while the deed is done, which is not
    /// waited for; the others are killed then. The next start is an ordinary one.
    pub async fn kills(self, nodes: &mut [Node], deed: impl Future<Output = ()>) {
        let script = r#"ulimit -c 0; DEVICEDB_FAILPOINT="$0" exec "$@""#;
        for node in nodes.iter_mut() {
            node.under = ["sh", "-c", script, &self.word()].map(str::to_string).to_vec();
            node.start();
        }
        let done_and_waiting = async {
            deed.await;
            std::future::pending().await
        };
        let what = format!("a node dies at {}", self.word());
        let dies = eventually(&what, SOON, async || {
            nodes.iter_mut().position(|node| node.ended_by_itself().is_some()).ok_or("all live")
        });
        let victim = tokio::select! { victim = dies => victim, never = done_and_waiting => never };
        for (number, node) in nodes.iter_mut().enumerate() {
            node.under.clear();
            if number != victim {
                node.kill9();
                continue;
            }
            let status = node.wait_ended().await;
            assert_eq!(
                status.signal(),
                Some(ABORTED),
                "{} did not die of {}:\n{}",
                node.name,
                self.word(),
                node.log_end()
            );
            self.is_in(&node.log());
        }
    }

    fn is_in(self, said: &str) {
        let place = format!("failpoint {}\n", self.point.name());
        assert!(
            said.contains(&place),
            "it does not say that it died at {}:\n{said}",
            self.point.name()
        );
    }

    /// A line of `ddbctl` that dies there.
    pub async fn kills_command(self, line: &str) {
        let ran =
            shell(&format!("ulimit -c 0; DEVICEDB_FAILPOINT={} exec {line}", self.word()), SOON)
                .await;
        assert_eq!(ran.code, None, "{}", ran.story());
        self.is_in(&ran.stderr);
    }
}

/// What every site must hold: every key that was acknowledged, and no other.
#[derive(Clone, Default)]
pub struct Books(BTreeMap<&'static str, BTreeMap<Bytes, Bytes>>);

impl Books {
    pub async fn check(&self, client: &Client) {
        for (site, wanted) in &self.0 {
            let found = client
                .scan(site, Bucket::Default, "")
                .await
                .unwrap_or_else(|e| panic!("{site} at {}: {e:?}", client.endpoint));
            let found: BTreeMap<_, _> = found.into_iter().collect();
            for (key, value) in wanted {
                let held = found.get(key);
                assert_eq!(
                    held,
                    Some(&vec![value.clone()]),
                    "{site} at {}: {key:?} was acknowledged and is not as it should be",
                    client.endpoint
                );
            }
            let more: Vec<_> = found.keys().filter(|key| !wanted.contains_key(*key)).collect();
            assert!(more.is_empty(), "{site} at {}: nobody has written {more:?}", client.endpoint);
        }
    }

    /// Whether a node has by itself all that was acknowledged.
    pub async fn lacking_stale(&self, client: &Client) -> Result<(), String> {
        for (site, wanted) in &self.0 {
            let scan = ScanRequest {
                site: (*site).into(),
                bucket: Bucket::Default.into(),
                consistency: Consistency::Stale.into(),
                ..ScanRequest::default()
            };
            let found = client.scan_request(scan).await.map_err(|e| e.to_string())?;
            let lacking = wanted.len() - found.len().min(wanted.len());
            if lacking > 0 {
                return Err(format!("{site} lacks {lacking} keys"));
            }
        }
        Ok(())
    }

    fn keys(&self) -> usize {
        self.0.values().map(BTreeMap::len).sum()
    }
}

/// A writer to each site; each writes by one node until that fails, and goes on through crashes.
pub struct Writers(Vec<(&'static str, Writer)>);

impl Writers {
    pub fn start(clients: &[Client], name: &str) -> Writers {
        let start = |(number, site): (usize, &&'static str)| {
            let mut clients: Vec<_> =
                clients.iter().map(|client| client.clone().with_deadline(CALL)).collect();
            let first = number % clients.len();
            clients.rotate_left(first);
            (*site, Writer::start(&clients, site, Bucket::Default, name))
        };
        Writers(SITES.iter().enumerate().map(start).collect())
    }

    /// Every writer is acknowledged something new.
    pub async fn go_on(&self) {
        for (_, writer) in &self.0 {
            writer.goes_on(3, SOON).await;
        }
    }

    /// What was under way is tried until it is acknowledged; so the books are exact.
    pub async fn stop(self, books: &mut Books) {
        for (site, writer) in self.0 {
            books.0.entry(site).or_default().extend(writer.stop().await.acknowledged);
        }
    }
}

/// Starts what is down. Then writes are taken, those that a crash has interrupted too, and every
/// node has all that was acknowledged and nothing else.
pub async fn recovers(cluster: &mut Cluster, interrupted: Vec<Writers>, books: &mut Books) {
    cluster.restart_all().await;
    let fresh = Writers::start(&cluster.clients(), &format!("after {} keys", books.keys()));
    for writers in interrupted.into_iter().chain([fresh]) {
        writers.go_on().await;
        writers.stop(books).await;
    }
    for client in cluster.clients() {
        books.check(&client).await;
    }
}

pub async fn add_sites(cluster: &Cluster) {
    for site in SITES {
        cluster.client().add_site(site).await.unwrap();
    }
}

/// Does something again until it is done.
pub async fn until_done<T, E>(mut deed: impl AsyncFnMut() -> Result<T, E>) -> T {
    loop {
        match deed().await {
            Ok(done) => return done,
            Err(_) => sleep(AGAIN).await,
        }
    }
}

/// Asks for a snapshot until there is one.
pub async fn ask_for_snapshot(clients: Vec<Client>, name: Bytes) {
    let mut turn = clients.iter().cycle();
    until_done(async || {
        turn.next()
            .expect("a cycle has no end")
            .clone()
            .with_deadline(CALL)
            .create_snapshot_named(name.clone())
            .await
    })
    .await;
}

/// A snapshot that was interrupted is resolved and says why it is not complete; another one is
/// complete. All parts that are said to be complete are.
pub async fn snapshots_work(cluster: &Cluster, interrupted: Option<&str>) {
    let client = cluster.client();
    if let Some(uuid) = interrupted {
        let snapshot = client.snapshot_resolved(uuid, SOON).await;
        let unexplained = |snapshot: &Snapshot| {
            snapshot.status() != SnapshotStatus::Completed && snapshot.reason.is_empty()
        };
        assert!(!unexplained(&snapshot), "it does not say why: {snapshot:#?}");
        are_sound(cluster, &snapshot).await;
    }
    are_sound(cluster, &client.complete_snapshot(SOON).await).await;
}

async fn are_sound(cluster: &Cluster, snapshot: &Snapshot) {
    let completed: Vec<_> =
        snapshot.parts.iter().filter(|part| part.status() == SnapshotStatus::Completed).collect();
    assert!(
        snapshot.status() != SnapshotStatus::Completed || !completed.is_empty(),
        "complete without a part: {snapshot:#?}"
    );
    let mut tars = Vec::new();
    for part in completed {
        let (came, outcome) = cluster.client().download(&snapshot.uuid, part.node_id, 0).await;
        outcome.unwrap_or_else(|e| {
            panic!("a part that is complete cannot be downloaded: {e:?}: {part:#?}")
        });
        let tar = cluster.dir().join(format!("{}-{}.tar", snapshot.uuid, part.node_id));
        fs::write(&tar, came.data).unwrap();
        tars.push(tar);
    }
    if tars.is_empty() {
        return;
    }
    let ran = looked_at(cluster, &tars).await;
    let sound = ran.out().lines().filter(|line| line.ends_with(": sound")).count();
    assert_eq!(sound, tars.len(), "{}", ran.story());
    // A node that came back behind the mark has no part, or one without the groups whose rows it
    // was sent. What is left may be too little for a majority, and then says so.
    let holds_all = |part: &SnapshotPart| {
        part.status() == SnapshotStatus::Completed && part.partitions == snapshot.partitions
    };
    let whole = snapshot.parts.iter().all(holds_all) && !ran.out().contains("WITHOUT the meta");
    match ran.code {
        Some(0) => {}
        Some(6) if !whole => drop(ran.says("Nothing is wrong with the parts")),
        _ => panic!("{}", ran.story()),
    }
}

/// Parts are what they were when they were written, and bring the cluster back.
pub async fn verify(cluster: &Cluster, tars: &[PathBuf]) -> Ran {
    looked_at(cluster, tars).await.exits(0)
}

async fn looked_at(cluster: &Cluster, tars: &[PathBuf]) -> Ran {
    let tars: Vec<_> = tars.iter().map(|tar| tar.display().to_string()).collect();
    let words: Vec<_> =
        ["snapshot", "verify"].into_iter().chain(tars.iter().map(String::as_str)).collect();
    cluster.ctl(&words).await
}

/// A node with sites, writes and a complete snapshot, which was killed. Every crash that needs one
/// gets a copy.
pub struct Prepared {
    cluster: Cluster,
    pub uuid: String,
    pub tar: PathBuf,
    repository: PathBuf,
    pub books: Books,
}

/// One in each of the groups.
pub const SITES: [&str; 8] = ["pier", "depot", "silo", "van", "shop", "yard", "attic", "kiosk"];

/// Two replicas, so that a second node makes the cluster whole.
fn options() -> Options {
    Options { replication_factor: 2, ..Options::default() }
}

impl Prepared {
    pub async fn make() -> Prepared {
        let mut cluster = Cluster::start(1, options()).await;
        let client = cluster.client();
        let mut books = Books::default();
        add_sites(&cluster).await;
        let writers = Writers::start(&cluster.clients(), "before");
        writers.go_on().await;
        writers.stop(&mut books).await;
        // A value that no compression makes small, so that a part has several pieces.
        let mut rng = Random::seeded(7);
        let large: Vec<u8> =
            (0..(1 << 20) / 8).flat_map(|_| rng.next_u64().to_be_bytes()).collect();
        client.put(SITES[0], Bucket::Default, "large", &large).await.unwrap();
        books.0.entry(SITES[0]).or_default().insert(Bytes::from_static(b"large"), large.into());
        let uuid = client.complete_snapshot(SOON).await.uuid;
        let tar = cluster.download_all(&uuid).await.remove(0);
        cluster.kill9_all();
        let repository = cluster.dir().join("repository");
        let into = repository.display();
        let store = format!(
            "ddbctl repository init {into} && ddbctl repository import {into} {}",
            tar.display()
        );
        shell(&store, SOON).await.exits(0);
        Prepared { cluster, uuid, tar, repository, books }
    }

    /// A node without a store that is to found a cluster of the snapshot in the repository.
    pub fn seeded(&self) -> Cluster {
        let mut cluster = Cluster::empty(options());
        let mut node = cluster.further();
        let at = node.args.iter().position(|word| word == "--found").expect("the first founds");
        let place = self.repository.display().to_string();
        node.args.splice(at..=at, ["--restore-from".to_owned(), place]);
        cluster.nodes.push(node);
        cluster
    }

    /// Three nodes, not started, that are to begin a cluster of the snapshot in the repository
    /// together; the first one founds.
    pub fn together(&self) -> Cluster {
        let mut cluster = self.seeded();
        let expected = ["--expect-nodes", "3"].map(str::to_owned);
        cluster.nodes[0].args.extend(expected.clone());
        let place = self.repository.display().to_string();
        while cluster.nodes.len() < 3 {
            let mut node = cluster.further();
            node.args.extend(["--restore-from".to_owned(), place.clone()]);
            node.args.extend(expected.clone());
            cluster.nodes.push(node);
        }
        cluster
    }

    fn snapshot_store(&self) -> &Path {
        self.cluster.nodes[0].snapshot_store.as_deref().expect("it takes snapshots")
    }

    /// A copy that is not started.
    pub async fn copy(&self) -> Cluster {
        let mut cluster = Cluster::empty(options());
        let node = cluster.further();
        let to = node.snapshot_store.as_deref().expect("as the one that is copied").display();
        let copy = format!(
            "cp -a {} {} && cp -a {}/. {to}",
            self.cluster.nodes[0].store.display(),
            node.store.display(),
            self.snapshot_store().display()
        );
        shell(&copy, SOON).await.exits(0);
        cluster.nodes.push(node);
        cluster
    }

    /// A store directory with the extracted part, beside an empty snapshot store.
    pub async fn extracted(&self) -> Cluster {
        let mut cluster = Cluster::empty(options());
        let node = cluster.further();
        shell(
            &format!("mkdir {0} && tar xf {1} -C {0}", node.store.display(), self.tar.display()),
            SOON,
        )
        .await
        .exits(0);
        cluster.nodes.push(node);
        cluster
    }
}
