//! What requests cost in instructions, for `tests/instructions.sh`, which counts those of the
//! engine, of checkpoints and of captures while each function that is called `cost_of_…` here runs.
//! Of anything else here it counts nothing. As a test it only sees that all is answered.

use std::{collections::BTreeSet, ops::Range, time::Duration};

use devicedb::{
    base::{
        ids::{GroupId, RequestId, SiteId, SnapshotId, Topology},
        limits,
    },
    cluster,
    data::{self, Bucket, Key, Prefix, Query, Read, Reply, Scan, Stamp, Step, Value, Write},
    engine::{Body, Bounds, SnapshotNews},
    entry::{Action, Command},
};

use crate::{
    disk::CACHE_BYTES,
    parts::Parts,
    world::{Outcome, World},
};

const SEED: u64 = 1;
const NODES: usize = 3;
/// How many requests are under way at once.
const CLIENTS: usize = 32;
const REQUESTS: u64 = 640;
const BATCHES: u64 = 16;
const ROWS: u64 = 100;
const SCANS: u64 = 16;
const SNAPSHOTS: u64 = 4;
const PATIENCE: Duration = Duration::from_secs(10);

struct Cluster {
    world: World,
    parts: Parts,
    /// Which node said so of which snapshot.
    sealed: BTreeSet<(usize, SnapshotId)>,
}

fn site(number: u64) -> SiteId {
    SiteId::new(format!("site{}", number % 4)).unwrap()
}

fn write(number: u64, keys: Range<u64>) -> Body {
    let step = |key: u64| Step {
        key: Key::new(format!("key-{key:012}")).unwrap(),
        value: Some(Value::new(vec![key as u8; 100]).unwrap()),
        context: None,
        stamp: Stamp::Floor(1 << 41),
    };
    let write = Write::new(site(number), Bucket::Default, keys.map(step).collect()).unwrap();
    let request = RequestId(u128::from(number).to_be_bytes());
    Body::Propose(Command {
        request: Some(request),
        action: Action::Data(data::Command::Write(write)),
    })
}

fn read(number: u64, read: Read) -> Body {
    Body::Read { query: Query { site: site(number), bucket: Bucket::Default, read }, stale: false }
}

impl Cluster {
    fn new() -> Cluster {
        // Small, so that a phase has checkpoints.
        let bounds = Bounds { overlay_checkpoint_bytes: 64 << 10, ..Bounds::default() };
        let world = World::new(SEED, NODES, 3, Topology::new(64, 4).unwrap(), bounds);
        let shelves = (0..NODES).map(|node| world.root.join(format!("shelf{node}"))).collect();
        Cluster { world, parts: Parts::new(SEED, shelves), sealed: BTreeSet::new() }
    }

    /// Whether a node is up and knows that a site is there.
    fn knows(&self, node: usize, site: &SiteId) -> bool {
        let state = self
            .world
            .engine(node)
            .and_then(|engine| engine.meta().sites().site(site).map(|s| s.state));
        state == Some(cluster::sites::SiteState::Present)
    }

    fn step(&mut self, mut answered: impl FnMut(Result<Reply, devicedb::base::error::Error>)) {
        self.world.step();
        while let Some(outcome) = self.world.outcomes.pop_front() {
            match outcome {
                Outcome::Alarm(number) => self.parts.on_alarm(number, &mut self.world),
                Outcome::Answer { token, answer } => {
                    if !self.world.on_join_answer(token, &answer)
                        && !self.parts.on_answer(token, &answer, &mut self.world)
                    {
                        answered(answer);
                    }
                }
                Outcome::Snapshot { node, news } => {
                    if let SnapshotNews::Sealed { id } = &news {
                        self.sealed.insert((node, *id));
                    }
                    self.parts.on_news(node, news, &mut self.world);
                }
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        let until = self.world.now + time;
        while self.world.now < until {
            self.step(|_| ());
        }
    }

    /// Asks so many times, of all nodes in turn; how many got what they asked for.
    fn ask(&mut self, group: GroupId, times: u64, body: impl Fn(u64) -> Body) -> u64 {
        let (mut asked, mut under_way, mut done) = (0, 0, 0);
        while asked < times || under_way > 0 {
            while asked < times && under_way < CLIENTS {
                let group = if group.is_meta() {
                    group
                } else {
                    self.world.topology.group_of_site(&site(asked))
                };
                self.world.request(asked as usize % NODES, group, body(asked), PATIENCE);
                (asked, under_way) = (asked + 1, under_way + 1);
            }
            self.step(|answer| {
                (under_way, done) = (under_way - 1, done + u64::from(answer.is_ok()))
            });
        }
        done
    }

    fn ask_sites(&mut self, times: u64, body: impl Fn(u64) -> Body) -> u64 {
        self.ask(GroupId(1), times, body)
    }
}

/// Of nodes that join a founder, and get replicas.
#[inline(never)]
fn cost_of_founding(cluster: &mut Cluster) {
    for site in (0..4).map(site) {
        while !(0..NODES).all(|node| cluster.knows(node, &site)) {
            cluster.ask(GroupId::META, 1, |_| {
                Body::Propose(cluster::Command::AddSite(site.clone()).into())
            });
            cluster.pass(Duration::from_secs(1));
        }
    }
    cluster.pass(Duration::from_secs(10));
}

#[inline(never)]
fn cost_of_puts(cluster: &mut Cluster) -> u64 {
    cluster.ask_sites(REQUESTS, |number| write(number, number..number + 1))
}

#[inline(never)]
fn cost_of_gets(cluster: &mut Cluster) -> u64 {
    cluster.ask_sites(REQUESTS, |number| {
        read(number, Read::Get { key: Key::new(format!("key-{number:012}")).unwrap() })
    })
}

#[inline(never)]
fn cost_of_batched_rows(cluster: &mut Cluster) -> u64 {
    cluster
        .ask_sites(BATCHES, |number| write(REQUESTS + number, number * ROWS..(number + 1) * ROWS))
}

#[inline(never)]
fn cost_of_scanned_rows(cluster: &mut Cluster) -> u64 {
    cluster.ask_sites(SCANS, |number| {
        read(
            number,
            Read::Scan(Scan {
                prefix: Prefix::default(),
                after: None,
                limit: ROWS as u32,
                keys_only: false,
            }),
        )
    })
}

#[inline(never)]
fn cost_of_snapshots(cluster: &mut Cluster) -> u64 {
    for number in 0..SNAPSHOTS {
        let id = SnapshotId(uuid::Uuid::from_u128(u128::from(number) + 1));
        cluster.ask(GroupId::META, 1, |_| {
            Body::Propose(cluster::Command::BeginSnapshot { id, created_ms: 0 }.into())
        });
        cluster.pass(Duration::from_secs(2));
    }
    cluster.sealed.len() as u64
}

#[inline(never)]
fn cost_of_idling(cluster: &mut Cluster) {
    cluster.pass(Duration::from_secs(10));
}

#[test]
fn what_is_counted_is_answered() {
    // As a node keeps it.
    CACHE_BYTES.set(limits::STORE_CACHE_BYTES);
    let mut cluster = Cluster::new();
    cost_of_founding(&mut cluster);
    assert_eq!(cost_of_puts(&mut cluster), REQUESTS);
    assert_eq!(cost_of_gets(&mut cluster), REQUESTS);
    assert_eq!(cost_of_batched_rows(&mut cluster), BATCHES);
    assert_eq!(cost_of_scanned_rows(&mut cluster), SCANS);
    assert_eq!(cost_of_snapshots(&mut cluster), SNAPSHOTS * NODES as u64);
    cost_of_idling(&mut cluster);
    assert_eq!(cluster.world.broken, Vec::<String>::new());
    assert_eq!(cluster.parts.broken, Vec::<String>::new());
}
