//! Lost majorities: nodes crash under writes, all of them lose power, most are lost for good, and
//! the product's own `recover` makes a cluster of what is left.
//!
//! The oracle knows from the survivors' logs which acknowledged writes one of them has. All of
//! those have to be read afterwards, and what is left has to take writes in every group.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use devicedb::{
    base::{
        clock::Random,
        disk::Machine,
        error::Result,
        ids::{GroupId, Lineage, RequestId, SiteId, SnapshotId, Topology},
    },
    boot::recover::{self, Applied, choose::Terms, forms::Report},
    cluster,
    data::{self, Bucket, Key, Query, Read, Reply, Stamp, Step, Value, Write},
    engine::{Body, Bounds, Token},
    entry::{Action, Command},
    log::Log,
};

use crate::world::{Outcome, World};

const SITES: u64 = 4;
const WRITES: u64 = 300;
/// The number of the first write after a recovery.
const LATER: u64 = 10_000;
const UNDER_WAY: usize = 8;
const PATIENCE: Duration = Duration::from_secs(5);
/// In simulated time, for whatever has to come about.
const BOUND: Duration = Duration::from_secs(120);

struct Cluster {
    world: World,
    rng: Random,
    /// The number of the write that an answer is waited for.
    asked: BTreeMap<Token, u64>,
    acknowledged: BTreeSet<u64>,
    found: BTreeSet<u64>,
}

fn site(number: u64) -> SiteId {
    SiteId::new(format!("site{}", number % SITES)).unwrap()
}

fn key(number: u64) -> String {
    format!("key-{number:012}")
}

fn write(number: u64) -> Body {
    let step = Step {
        key: Key::new(key(number)).unwrap(),
        value: Some(Value::new(vec![7; 50]).unwrap()),
        context: None,
        stamp: Stamp::Floor(1),
    };
    let write = Write::new(site(number), Bucket::Default, vec![step]).unwrap();
    let request = Some(RequestId(u128::from(number + 1).to_be_bytes()));
    Body::Propose(Command { request, action: Action::Data(data::Command::Write(write)) })
}

fn read(number: u64) -> Body {
    let read = Read::Get { key: Key::new(key(number)).unwrap() };
    Body::Read { query: Query { site: site(number), bucket: Bucket::Default, read }, stale: false }
}

impl Cluster {
    fn new(seed: u64, size: usize) -> Cluster {
        let topology = Topology::new(64, 4).unwrap();
        // Logs keep everything, for the oracle; rows are stored now and then.
        let bounds = Bounds {
            overlay_checkpoint_bytes: 4 << 10,
            log_entries_kept: 100_000,
            ..Bounds::default()
        };
        Cluster {
            world: World::new(seed, size, 3, topology, bounds),
            rng: Random::seeded(seed),
            asked: BTreeMap::new(),
            acknowledged: BTreeSet::new(),
            found: BTreeSet::new(),
        }
    }

    fn group(&self, number: u64) -> GroupId {
        self.world.topology.group_of_site(&site(number))
    }

    fn step(&mut self) {
        self.world.step();
        while let Some(outcome) = self.world.outcomes.pop_front() {
            let Outcome::Answer { token, answer } = outcome else { continue };
            if self.world.on_join_answer(token, &answer) {
                continue;
            }
            let Some(number) = self.asked.remove(&token) else { continue };
            match answer {
                Ok(Reply::Written(_)) => {
                    self.acknowledged.insert(number);
                }
                Ok(Reply::Found(view)) if !view.versions.is_empty() => {
                    self.found.insert(number);
                }
                _ => {}
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        let until = self.world.now + time;
        while self.world.now < until {
            self.step();
        }
    }

    fn ask(&mut self, number: u64, body: Body) {
        let up = self.world.up();
        if !up.is_empty() {
            let at = up[self.rng.below(up.len() as u64) as usize];
            let token = self.world.request(at, self.group(number), body, PATIENCE);
            self.asked.insert(token, number);
        }
    }

    fn until(&mut self, what: &str, mut fact: impl FnMut(&mut Cluster) -> bool) {
        let by = self.world.now + BOUND;
        while !fact(self) {
            if self.world.now >= by {
                let nodes = 0..self.world.nodes.len();
                let seen: Vec<_> = nodes.map(|n| self.world.look(n, |s| s.unready())).collect();
                panic!("not within {BOUND:?}: {what}; {seen:?}; {:?}", self.world.broken);
            }
            self.pass(Duration::from_millis(200));
        }
    }

    /// These nodes run and know every site as present.
    fn know_sites(&self, nodes: &[usize]) -> bool {
        nodes.iter().all(|node| {
            let Some(engine) = self.world.engine(*node) else { return false };
            let state = |site: &SiteId| engine.meta().sites().site(site).map(|s| s.state);
            let mut sites = (0..SITES).map(site);
            engine.identity().lineage != Lineage::PENDING
                && sites.all(|site| state(&site) == Some(cluster::sites::SiteState::Present))
        })
    }

    /// Every group has a leader here, and the voters that it should have.
    fn is_whole(&mut self) -> bool {
        let mut whole = 0;
        for node in self.world.up() {
            let led = self.world.look(node, |sight| {
                let wanted = |group| sight.meta().wanted(group).voters.into_iter().collect();
                sight.led().filter(|(group, members)| members.voters == wanted(*group)).count()
            });
            whole += led.unwrap_or(0);
        }
        whole > self.world.topology.groups() as usize
    }

    fn add_sites(&mut self) {
        self.until("the sites are added", |this| {
            for site in (0..SITES).map(site) {
                let up = this.world.up();
                let Some(at) = up.first() else { return false };
                let add = Body::Propose(cluster::Command::AddSite(site).into());
                this.world.request(*at, GroupId::META, add, PATIENCE);
            }
            this.pass(Duration::from_secs(1));
            this.know_sites(&(0..this.world.nodes.len()).collect::<Vec<_>>())
        });
        self.until("replicas are where they should be", Cluster::is_whole);
    }

    /// Writes while nodes crash and stand still, until all lose power with writes under way. The
    /// node that was lost before that, if one was.
    fn write_until_power_fails(&mut self) -> Option<usize> {
        let mut next = 0;
        while next < WRITES {
            while self.asked.len() < UNDER_WAY && next < WRITES && !self.world.up().is_empty() {
                self.ask(next, write(next));
                next += 1;
            }
            self.step();
            let node = self.rng.below(self.world.nodes.len() as u64) as usize;
            match self.rng.below(3000) {
                0 => self.world.crash(node),
                1..=3 => {
                    let pause = Duration::from_millis(self.rng.below(2000));
                    self.world.nodes[node].paused_until = self.world.now + pause;
                }
                _ => {}
            }
        }
        let replaced = self.replace_one(next);
        self.world.all_gone();
        self.asked.clear();
        replaced
    }

    /// In half of the stories one disk is lost first and another node joins, so that groups change
    /// their members when power fails. Which node that was.
    fn replace_one(&mut self, mut next: u64) -> Option<usize> {
        if self.rng.below(2) == 0 {
            return None;
        }
        let node = self.rng.below(self.world.nodes.len() as u64) as usize;
        self.world.stop(node);
        let dir = self.world.root.join("replaced");
        self.world.replace(node, dir, None);
        self.world.start_later(node, Duration::from_millis(100));
        for _ in 0..self.rng.below(60) {
            self.ask(next, write(next));
            next += 1;
            let pause = Duration::from_millis(self.rng.below(100));
            self.pass(pause);
        }
        Some(node)
    }

    /// The acknowledged writes that a node has in its logs.
    fn held(&self, node: usize, fit: &BTreeSet<GroupId>) -> BTreeSet<u64> {
        let log = Log::open(&self.world.nodes[node].dir, Arc::new(Machine)).unwrap();
        let mut entries = BTreeMap::new();
        for group in fit {
            let found = log.find(*group).unwrap();
            if found.last_index > found.begin.index {
                let (from, to) = (found.begin.index + 1, found.last_index + 1);
                entries.insert(*group, log.entries(*group, from, to, None).unwrap());
            }
        }
        let has = |number: &u64| {
            let key = key(*number);
            entries.get(&self.group(*number)).is_some_and(|entries| {
                let holds = |data: &[u8]| data.windows(key.len()).any(|at| at == key.as_bytes());
                entries.iter().any(|entry| holds(&entry.data))
            })
        };
        self.acknowledged.iter().copied().filter(has).collect()
    }
}

/// The groups of which a store has a copy, by its report.
fn fit(report: &Report) -> BTreeSet<GroupId> {
    let fit = report.replicas.iter().filter(|replica| replica.unfit.is_none());
    fit.map(|replica| replica.group).collect()
}

/// How many writes were acknowledged, and how many of them a survivor had.
fn lose_and_recover(seed: u64) -> Result<(usize, usize)> {
    let size = 3 + (seed % 3) as usize;
    let mut cluster = Cluster::new(seed, size);
    cluster.add_sites();
    let replaced = cluster.write_until_power_fails();

    let most = (size as u64 - 1) / 2;
    let count = 1 + cluster.rng.below(most) as usize;
    let first = cluster.rng.below(size as u64) as usize;
    let nodes = (0..size).map(|nth| (first + nth) % size).filter(|node| Some(*node) != replaced);
    let left: Vec<usize> = nodes.take(count).collect();
    let dir = |cluster: &Cluster, node: usize| cluster.world.nodes[node].dir.clone();
    let mut reports = Vec::new();
    for node in &left {
        reports.push(recover::inspect(&dir(&cluster, *node))?);
    }
    let copies: BTreeSet<GroupId> = reports.iter().flat_map(fit).collect();
    let mut had = BTreeSet::new();
    for (node, report) in left.iter().zip(&reports) {
        had.extend(cluster.held(*node, &fit(report)));
    }
    let groups = cluster.world.topology.group_ids();
    let terms = Terms {
        give_up: groups.filter(|group| !copies.contains(group)).collect(),
        id: SnapshotId(Random::seeded(seed).uuid()),
        at_ms: 1,
    };
    let (plan, _) = recover::plan(&reports, &terms)?;
    for node in &left {
        assert_eq!(recover::apply(&plan, &dir(&cluster, *node), || Ok(()))?, Applied::Now);
        assert_eq!(recover::apply(&plan, &dir(&cluster, *node), || Ok(()))?, Applied::Before);
        let (dir, id) = (dir(&cluster, *node), cluster.world.nodes[*node].id);
        cluster.world.replace(*node, dir, Some(id));
        cluster.world.start_again(*node);
    }

    let lost = (0..size).filter(|node| !left.contains(node));
    for node in lost.clone() {
        // It joins as another one, when a process is started there.
        let dir = cluster.world.root.join(format!("new{node}"));
        cluster.world.replace(node, dir, None);
    }

    cluster
        .until("what is left is one cluster that knows its sites", |this| this.know_sites(&left));
    let later: BTreeSet<u64> = (LATER..LATER + SITES).collect();
    cluster.until("every group takes writes", |this| {
        for number in &later {
            this.ask(*number, write(*number));
        }
        this.pass(Duration::from_secs(1));
        this.acknowledged.is_superset(&later)
    });
    cluster.until("all that a survivor had is read", |this| {
        for number in had.difference(&this.found.clone()) {
            this.ask(*number, read(*number));
        }
        this.pass(Duration::from_secs(1));
        this.found.is_superset(&had)
    });
    lost.for_each(|node| cluster.world.start_again(node));
    cluster.until("new nodes join, and groups have their replicas", |this| {
        this.know_sites(&(0..size).collect::<Vec<_>>()) && this.is_whole()
    });
    assert_eq!(cluster.world.broken, Vec::<String>::new());
    Ok((cluster.acknowledged.len() - later.len(), had.len()))
}

#[test]
fn no_acknowledged_write_that_a_survivor_has_is_lost_with_the_majority() {
    let seeds: Vec<u64> = crate::seeds_or(0..12).collect();
    let played = crate::on_all_cores(&seeds, |seed| {
        let played = std::panic::catch_unwind(|| lose_and_recover(*seed));
        (*seed, played.map_err(drop).and_then(|played| played.map_err(|e| println!("{e}"))))
    });
    let broken: Vec<u64> =
        played.iter().filter(|(_, played)| played.is_err()).map(|(seed, _)| *seed).collect();
    assert!(broken.is_empty(), "DEVICEDB_SIM_SEEDS=N plays them again, with N of {broken:?}");
    let all = played.iter().filter_map(|(_, played)| played.ok());
    let (acknowledged, had) = all.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    println!("{had} of {acknowledged} acknowledged writes were left, and all of them are read");
    assert!(had > 0 && had < acknowledged, "nothing was tried: {had} of {acknowledged}");
}
