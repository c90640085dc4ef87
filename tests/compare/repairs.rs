//! What it costs that nodes are lost, replaced, leave and come back: goals of DeviceDB alone.
//!
//! Clients write all the time, and say a write again until it is acknowledged, as programs do that
//! may not lose it. How long the slowest waited is what an outage is for them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use devicedb::{
    base::clock::Clock,
    ctl::bench::requests::{Field, key},
    proto::v1::Bucket,
};
use tokio::task::JoinSet;

use crate::{
    VALUE_BYTES,
    goals::Goals,
    harness::{Client, Cluster, Node, Options, Ran, SOON, eventually, shell},
    subject::Subject,
};

const KEYS: u64 = 100_000;
const SITES: u64 = 100;
const WRITERS: usize = 8;
/// Disks that are lost one after the other, each repaired before the next.
const LOSSES: usize = 3;
/// Puts without anything else, for the ratio.
const QUIET: Duration = Duration::from_secs(20);
const AGAIN: Duration = Duration::from_millis(20);
const KEYS_TO_RECOVER: u64 = 1_000_000;
const BOUND: Duration = Duration::from_secs(600);

impl Goals {
    pub async fn repairs(&mut self) {
        self.lost_disks().await;
        self.departure().await;
        self.lost_majority().await;
    }

    async fn lost_disks(&mut self) {
        let (mut cluster, field) = filled(3, KEYS).await;
        let (mut slowest, mut longest) = (Duration::ZERO, Duration::ZERO);
        for round in 0..LOSSES {
            let lost = round % 3;
            let others = cluster.nodes.iter().enumerate().filter(|(at, _)| *at != lost);
            let running = others.filter(|(_, node)| node.is_running());
            let clients = running.map(|(_, node)| node.client()).collect();
            let writers = Writers::start(clients, &field);
            let (id, clock) = (id_of(&cluster, lost).await, Clock::start());
            cluster.nodes[lost].kill9();
            std::fs::remove_dir_all(&cluster.nodes[lost].store).unwrap();
            cluster.ctl(&["node", "remove", &id]).await.exits(0);
            // The same machine, with an empty disk.
            join_others(&mut cluster, lost);
            cluster.nodes[lost].start();
            cluster.ctl(&["cluster", "health", "--wait", "5m"]).await.exits(0);
            longest = longest.max(clock.now());
            slowest = slowest.max(writers.stop().await.slowest);
        }
        self.at_most(
            "slowest write while a disk is lost and replaced, of 3 in turn, s",
            2.0,
            slowest.as_secs_f64(),
        );
        self.at_most(
            "from a lost disk of 100,000 keys to a healthy cluster again, s",
            30.0,
            longest.as_secs_f64(),
        );
    }

    /// One of four nodes leaves, then another while a third stands still.
    async fn departure(&mut self) {
        let (mut cluster, field) = filled(4, KEYS).await;
        let clients = || cluster.nodes[..2].iter().map(Node::client).collect::<Vec<_>>();
        let writers = Writers::start(clients(), &field);
        tokio::time::sleep(QUIET).await;
        let quiet = writers.stop().await;
        let id = id_of(&cluster, 3).await;
        let writers = Writers::start(clients(), &field);
        cluster.ctl(&["node", "decommission", &id, "--wait"]).await.exits(0);
        let under = writers.stop().await;
        self.at_most(
            "put p99 while one of four nodes gives away what it holds, of that without",
            1.5,
            under.p99().as_secs_f64() / quiet.p99().as_secs_f64(),
        );
        // It ends by itself, and another one comes in its place.
        cluster.nodes[3].wait_ended().await;
        std::fs::remove_dir_all(&cluster.nodes[3].store).unwrap();
        join_others(&mut cluster, 3);
        cluster.nodes[3].start();
        // Before it has joined, the cluster is healthy without it.
        cluster.nodes[3].wait_ready().await;
        cluster.ctl(&["cluster", "health", "--wait", "5m"]).await.exits(0);

        let (leaves, stands) = (id_of(&cluster, 3).await, id_of(&cluster, 2).await);
        cluster.ctl(&["node", "decommission", &leaves]).await.exits(0);
        cluster.nodes[2].pause().await;
        let clock = Clock::start();
        let names = format!("\"node_id\": \"{stands}\"");
        eventually("the wait is named", SOON, async || {
            let asked = ["-o", "json", "node", "decommission", &leaves, "--dry-run"];
            let seen: Ran = cluster.nodes[0].ctl(&asked).await;
            if seen.stdout.windows(names.len()).any(|words| words == names.as_bytes()) {
                Ok(())
            } else {
                Err(seen.story())
            }
        })
        .await;
        self.at_most(
            "from a cause that holds up a departure to its name, s",
            2.0,
            clock.now().as_secs_f64(),
        );
        cluster.nodes[2].resume();
    }

    /// Two of three nodes are lost for good, and the third goes on with all that it has.
    async fn lost_majority(&mut self) {
        let (mut cluster, field) = filled(3, KEYS_TO_RECOVER).await;
        let cluster_id = cluster.client().overview().await.unwrap().cluster_id;
        cluster.kill9_all();
        let clock = Clock::start();
        let (dir, store) = (cluster.dir().display().to_string(), &cluster.nodes[0].store);
        let line = format!(
            "cd {dir} && devicedb recover inspect --store {0} > one.json && \
             devicedb recover plan one.json > plan.json && \
             devicedb recover apply plan.json --store {0} --confirm {1}",
            store.display(),
            &cluster_id[..8]
        );
        shell(&line, BOUND).await.exits(0);
        cluster.nodes[0].start();
        let client = cluster.nodes[0].client();
        let last = key(field.keys_per_site - 1);
        let values = eventually("a key is read", BOUND, async || {
            client.values(&field.sites[1], Bucket::Default, &last).await
        })
        .await;
        assert_eq!(values.len(), 1, "the key that is read was written");
        self.at_most(
            "two of three nodes lost for good, a million keys, to the first read, s",
            60.0,
            clock.now().as_secs_f64(),
        );
    }
}

async fn filled(nodes: usize, keys: u64) -> (Cluster, Field) {
    let subject = Subject::Ours(Cluster::start(nodes, Options::product()).await);
    let field = Field::of("site-", SITES, keys, VALUE_BYTES);
    subject.fill(&field, &subject.connect().await).await;
    let Subject::Ours(cluster) = subject else { unreachable!("it was made as one of ours") };
    (cluster, field)
}

async fn id_of(cluster: &Cluster, number: usize) -> String {
    let overview = cluster.client().overview().await.unwrap();
    let at = cluster.nodes[number].endpoint();
    overview.nodes.iter().find(|node| node.address == at).expect("it is a member").id.to_string()
}

/// From its next start on, a node joins by any of the others.
fn join_others(cluster: &mut Cluster, number: usize) {
    let others: Vec<String> = cluster
        .nodes
        .iter()
        .enumerate()
        .filter(|(other, _)| *other != number)
        .map(|(_, node)| node.endpoint())
        .collect();
    let args = &mut cluster.nodes[number].args;
    if let Some(at) = args.iter().position(|word| word == "--join") {
        args.drain(at..at + 2);
    }
    args.retain(|word| word != "--found");
    args.extend(["--join".to_string(), others.join(",")]);
}

/// Clients that write all the time.
struct Writers {
    stopped: Arc<AtomicBool>,
    writing: JoinSet<Vec<Duration>>,
}

/// How long every write waited.
struct Waits {
    all: Vec<Duration>,
    slowest: Duration,
}

impl Writers {
    fn start(clients: Vec<Client>, field: &Field) -> Writers {
        let stopped = Arc::new(AtomicBool::new(false));
        let mut writing = JoinSet::new();
        for number in 0..WRITERS {
            let (client, stopped) = (clients[number % clients.len()].clone(), stopped.clone());
            let client = client.with_deadline(Duration::from_millis(500));
            let sites = field.sites.clone();
            writing.spawn(async move {
                let (clock, mut waits) = (Clock::start(), Vec::new());
                while !stopped.load(Ordering::Relaxed) {
                    let site = &sites[(waits.len() * WRITERS + number) % sites.len()];
                    let (began, name) = (clock.now(), format!("w{number}-{}", waits.len() % 100));
                    while client.put(site, Bucket::Default, name.clone(), "v").await.is_err() {
                        tokio::time::sleep(AGAIN).await;
                    }
                    waits.push(clock.now() - began);
                }
                waits
            });
        }
        Writers { stopped, writing }
    }

    async fn stop(self) -> Waits {
        self.stopped.store(true, Ordering::Relaxed);
        let mut all = self.writing.join_all().await.concat();
        all.sort();
        let slowest = *all.last().expect("something was written");
        Waits { all, slowest }
    }
}

impl Waits {
    fn p99(&self) -> Duration {
        self.all[self.all.len() * 99 / 100]
    }
}
