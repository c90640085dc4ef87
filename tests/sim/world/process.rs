//! A node's process: how it starts and joins, how it ends, and how another machine takes its place.

use std::{
    collections::{BTreeMap, VecDeque},
    hash::Hash as _,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use devicedb::{
    base::{
        clock::Random,
        error::{Error, Result},
        ids::{GroupId, Lineage, NodeId},
        limits,
    },
    boot::restore,
    cluster,
    data::Reply,
    engine::{Body, Engine, Input, Token},
    entry::Identity,
    log::Log,
    net::Whereabouts,
    store::{FORMAT, Store},
};

use super::{Event, Moment, Rot, Running, World};
use crate::disk::SimDisk;

const PAGE: usize = 4096;

impl World {
    pub(super) fn start(&mut self, node: usize) {
        if self.is_up(node) {
            return;
        }
        if !self.nodes[node].member {
            return self.join(node);
        }
        match self.open(node) {
            Ok((engine, store, log)) => {
                let incarnation = self.rng.nonzero();
                let address = self.address(node);
                let this = &mut self.nodes[node];
                this.incarnation = incarnation;
                this.has_run = true;
                this.join_answer = None;
                let mut whereabouts = Whereabouts::new(this.id, address);
                let listed = engine.meta().nodes().values().map(|n| (n.id, n.address.clone()));
                for (id, address) in listed.chain(this.known.iter().cloned()) {
                    whereabouts.listed(id, &address);
                }
                this.running = Some(Running {
                    engine,
                    store,
                    log,
                    jobs: VecDeque::new(),
                    finished: VecDeque::new(),
                    working: false,
                    started: self.now,
                    met: BTreeMap::new(),
                    whereabouts,
                    told: BTreeMap::new(),
                    pauses: BTreeMap::new(),
                });
                self.begin_looking(node);
                self.plan_node(node, self.now, incarnation, Event::Tick);
                self.plan_node(node, self.now, incarnation, Event::Announce);
            }
            Err(e) if self.nodes[node].may_fail() => {
                let _ = e;
                self.crash(node);
            }
            Err(e) => {
                self.broken.push(format!("node {node} does not start from its own store: {e}"))
            }
        }
    }

    fn open(&mut self, node: usize) -> Result<(Engine, Store, Log)> {
        let seed = self.rng.next_u64();
        let this = &self.nodes[node];
        let (store, identity) = restore::open(&this.dir, &this.disk)?;
        let served = store.has_served()?;
        let log = restore::open_log(&this.dir, Arc::new(this.disk.clone()), &store)?;
        let mut engine = Engine::open(
            identity,
            &store,
            log.clone(),
            Random::seeded(seed),
            Duration::ZERO,
            self.bounds,
        )?;
        if !served {
            engine.begins_anew();
        }
        Ok((engine, store, log))
    }

    /// As production does after every start: the address or the lineage may be news.
    pub(super) fn announce(&mut self, node: usize) {
        let engine = self.engine(node).expect("it is up");
        let lineage = engine.identity().lineage;
        let entry = self.entry(node, lineage);
        let meta = engine.meta();
        let known = meta.node(entry.id);
        if known.is_some_and(|known| entry.is_as_known(known)) {
            let has_share = known.is_some_and(|k| k.capacity_percent == 0 || k.leaving)
                || !meta.is_idle(entry.id);
            if has_share {
                return;
            }
            let command =
                cluster::Command::JoinNode { node: entry, away: self.away(), ticket: None };
            let wait = Duration::from_secs(2);
            self.request(node, GroupId::META, Body::Propose(command.into()), wait);
            return;
        }
        if lineage != Lineage::PENDING {
            let command = cluster::Command::AnnounceNode(entry);
            self.request(
                node,
                GroupId::META,
                Body::Propose(command.into()),
                Duration::from_secs(2),
            );
        }
        let incarnation = self.nodes[node].incarnation;
        self.plan_node(node, self.now + Duration::from_millis(300), incarnation, Event::Announce);
    }

    /// Says that a node that was leaving holds nothing any more; the engine has it said again until
    /// the cluster knows.
    pub(super) fn depart(&mut self, node: usize) {
        let command = cluster::Command::Decommissioned { node: self.nodes[node].id, removed_ms: 0 };
        self.request(node, GroupId::META, Body::Propose(command.into()), Duration::from_secs(2));
    }

    /// Asks some node to take this one in, and becomes a member once that has answered.
    fn join(&mut self, node: usize) {
        self.plan_node(node, self.now + Duration::from_millis(300), 0, Event::Start);
        let up = self.up();
        if self.nodes[node].join_answer.is_some() || up.is_empty() {
            return;
        }
        let at = up[self.rng.below(up.len() as u64) as usize];
        let lineage = self.engine(at).expect("it is up").identity().lineage;
        if lineage == Lineage::PENDING {
            return;
        }
        let command = cluster::Command::JoinNode {
            node: self.entry(node, lineage),
            away: self.away(),
            ticket: None,
        };
        let token = self.request(
            at,
            GroupId::META,
            Body::Propose(command.into()),
            limits::REQUEST_DEADLINE,
        );
        self.nodes[node].join_answer = Some(token);
    }

    /// Whether an answer was one that a joining node waits for.
    pub fn on_join_answer(&mut self, token: Token, answer: &Result<Reply>) -> bool {
        let Some(node) = self.nodes.iter().position(|n| n.join_answer == Some(token)) else {
            return false;
        };
        self.nodes[node].join_answer = None;
        let known = self.up().into_iter().find_map(|n| {
            let meta = self.engine(n)?.meta();
            let nodes: Vec<_> = meta.nodes().values().map(|n| (n.id, n.address.clone())).collect();
            (meta.settings().lineage != Lineage::PENDING
                && meta.node(self.nodes[node].id).is_some())
            .then(|| (meta.settings().clone(), nodes))
        });
        if let (Ok(Reply::Done { .. }), Some((settings, nodes))) = (answer, known) {
            let identity = Identity {
                format: FORMAT,
                node: self.nodes[node].id,
                cluster: settings.cluster,
                lineage: settings.lineage,
                restored_from: settings.restored_from,
                topology: settings.topology,
            };
            restore::join(&self.nodes[node].dir, &identity).unwrap();
            self.is_waited_for(node);
            (self.nodes[node].member, self.nodes[node].known) = (true, nodes);
        }
        true
    }

    /// Nobody who knows that a node has just joined takes it for one that is away: who joins next
    /// would be given its places.
    fn is_waited_for(&mut self, node: usize) {
        let id = self.nodes[node].id;
        for other in self.up() {
            if self.look(other, move |sight| sight.away().contains(&id)) == Some(true) {
                self.broken.push(format!("node {id} has just joined, and node {other} misses it"));
            }
        }
    }

    /// Its process ends, and nobody starts it again.
    pub fn stop(&mut self, node: usize) {
        self.nodes[node].restarts = false;
        self.crash(node);
    }

    /// Crashes a node and flips a bit of its newest log file, before what it knows to have been
    /// synced.
    pub fn rot(&mut self, node: usize) {
        self.crash(node);
        let log = self.nodes[node].dir.join("log");
        let extent = std::fs::read(log.join("extent")).unwrap_or_default();
        let noted = extent
            .get(32..)
            .and_then(|text| std::str::from_utf8(text).ok()?.split_once('\n')?.0.split_once(' '));
        let Some((name, synced)) = noted else { return };
        let Ok(mut bytes) = std::fs::read(log.join(name)) else { return };
        let synced: u64 = synced.parse().expect("a number of bytes");
        // A file that was just begun holds nothing that could rot.
        if synced == 0 {
            return;
        }
        let at = self.rng.below(synced) as usize;
        bytes[at] ^= 1 << self.rng.below(8);
        std::fs::write(log.join(name), bytes).unwrap();
        (self.nodes[node].rotten, self.rotted) = (Some(Rot::Log), true);
    }

    /// Flips a bit in one, some or all pages of a node's store: while it runs, is stopped, or is
    /// down after a crash, when it has to repair the store.
    pub fn rot_store(&mut self, node: usize) {
        match self.rng.below(4) {
            0 => self.crash(node),
            1 => {
                // What it has open is closed with its process.
                self.nodes[node].running = None;
                self.crash(node);
            }
            _ => {}
        }
        let path = Store::path_in(&self.nodes[node].dir);
        let Ok(mut bytes) = std::fs::read(&path) else { return };
        // Behind redb's header, which has checksums of its own, but not everywhere.
        let used: Vec<usize> = (2..bytes.len() / PAGE)
            .filter(|page| bytes[page * PAGE..][..PAGE].iter().any(|byte| *byte != 0))
            .collect();
        let one_in = [1, 4, 1 + used.len() as u64][self.rng.below(3) as usize];
        for page in used {
            if self.rng.below(one_in) == 0 {
                bytes[page * PAGE + self.rng.below(PAGE as u64) as usize] ^= 1 << self.rng.below(8);
            }
        }
        std::fs::write(path, bytes).unwrap();
        (self.nodes[node].rotten, self.rotted) = (Some(Rot::Store), true);
    }

    /// All processes end at once and nobody starts them again. What is on the network still
    /// arrives.
    pub fn all_gone(&mut self) {
        (0..self.nodes.len()).for_each(|node| self.stop(node));
    }

    /// The process is gone, and what its disk had not synced perhaps as well.
    pub fn crash(&mut self, node: usize) {
        let this = &mut self.nodes[node];
        this.disk.cut_off();
        let was_up = this.running.take().is_some();
        this.disk.crash();
        this.incarnation = 0;
        this.busy_until = self.now;
        this.join_answer = None;
        let lost: Vec<Token> =
            self.tokens.iter().filter(|(_, (at, _))| *at == node).map(|(t, _)| *t).collect();
        for token in lost {
            self.resolve(token, Err(Error::unknown("the node has gone")));
        }
        if was_up && self.rng.below(4) > 0 {
            self.gone(node);
        }
        if self.nodes[node].restarts {
            // Half of them at once, as a supervisor does.
            let most = if self.rng.below(2) == 0 {
                Duration::from_millis(60)
            } else {
                Duration::from_secs(4)
            };
            let at = self.now + self.below(Duration::from_millis(10), most);
            self.plan_node(node, at, 0, Event::Start);
        }
    }

    /// The others notice that its streams have ended; so they do now and then when nothing is
    /// wrong.
    pub fn gone(&mut self, node: usize) {
        let id = self.nodes[node].id;
        self.streams_ended(node);
        for other in self.up().into_iter().filter(|o| *o != node) {
            let at = self.now + self.below(Duration::from_micros(100), Duration::from_millis(20));
            let incarnation = self.nodes[other].incarnation;
            self.plan_node(other, at, incarnation, Event::Input(Box::new(Input::Gone(id))));
        }
    }

    pub fn start_again(&mut self, node: usize) {
        self.nodes[node].restarts = true;
        if !self.is_up(node) {
            self.plan_node(node, self.now, 0, Event::Start);
        }
    }

    pub fn start_later(&mut self, node: usize, after: Duration) {
        self.nodes[node].restarts = true;
        self.plan_node(node, self.now + after, 0, Event::Start);
    }

    /// Another machine stands in the place of a node that is down: with a store in `dir`, or with
    /// nothing, and then it has to join under another id.
    pub fn replace(&mut self, node: usize, dir: PathBuf, store_of: Option<NodeId>) {
        assert!(!self.is_up(node), "only a node that is down is replaced");
        std::fs::create_dir_all(dir.join("spool")).unwrap();
        self.raft_invariants.forget(node);
        self.nodes[node].disk.trace().hash(&mut self.trace);
        self.disk_operations += self.nodes[node].disk.operations();
        let disk = SimDisk::new(self.rng.next_u64());
        let id = store_of.unwrap_or_else(|| NodeId(self.rng.nonzero()));
        let this = &mut self.nodes[node];
        (this.dir, this.disk, this.member) = (dir, disk, store_of.is_some());
        this.port += if store_of.is_none() { 1000 } else { 0 };
        this.known.clear();
        this.has_run = store_of.is_some();
        this.id = id;
        this.rotten = None;
        (this.restarts, this.join_answer, this.paused_until, this.busy_until) =
            (false, None, Moment::ZERO, self.now);
    }
}
