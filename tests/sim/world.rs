//! Nodes, time and the network between them, all in one thread and from one seed.
//!
//! A node is the real engine on the real store and log, over a `SimDisk`. What production does with
//! threads and sockets happens here as events in virtual time: a message arrives, a tick is due,
//! the store has done a job. A node is busy while its disk syncs; what comes meanwhile waits, as it
//! does while the node is paused. Nothing here knows what the engine should do.

mod event;
mod network;
mod raft_invariants;
mod outside;
mod process;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    panic::{self, AssertUnwindSafe},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use devicedb::{
    base::{
        clock::Random,
        error::{Error, Kind, Result},
        ids::{ClusterId, GroupId, Lineage, NodeId, Topology},
        limits,
    },
    boot::restore,
    cluster,
    data::Reply,
    engine::{
        ArrivedRows, Body, Bounds, Engine, EngineView, Finished, Input, Inspection, Job,
        RowsToSend, SnapshotNews, Token, check_rows,
    },
    entry::Identity,
    log::{Batch, Log},
    net::Whereabouts,
    store::{FORMAT, Store, transfer},
    wire,
};
use tempfile::TempDir;

pub use self::network::Network;
use self::{
    event::{Event, Planned, Speaker, What},
    outside::{Outside, Said, by_clock},
    raft_invariants::RaftInvariants,
};
use crate::disk::SimDisk;
pub use crate::history::Moment;

/// Where the first machine is; the others follow it.
const FIRST_PORT: usize = 1000;

/// raft-engine remembers the last block that a thread has read by the number of its file, whichever
/// engine it belongs to. A node has one engine; here several share a thread, so another log is read
/// whenever something else may read next.
struct Decoy(Log);

impl Decoy {
    const BYTES: usize = 4099;

    fn new(dir: &Path) -> Decoy {
        let dir = dir.join("decoy");
        std::fs::create_dir(&dir).unwrap();
        let log = Log::open(&dir, Arc::new(devicedb::base::disk::Machine)).unwrap();
        let mut batch = Batch::default();
        let data: Vec<u8> =
            (0..Decoy::BYTES as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        batch
            .append(
                GroupId(0),
                &[raft::eraftpb::Entry {
                    index: 1,
                    term: 1,
                    data: data.into(),
                    ..Default::default()
                }],
            )
            .unwrap();
        log.write(&mut batch, false).unwrap();
        Decoy(log)
    }

    fn read(&self) {
        assert_eq!(self.0.entries(GroupId(0), 1, 2, None).unwrap()[0].data.len(), Decoy::BYTES);
    }
}

/// What comes out of the world for those who use the nodes.
pub enum Outcome {
    Answer {
        token: Token,
        answer: Result<Reply>,
    },
    Snapshot {
        node: usize,
        news: SnapshotNews,
    },
    /// Whoever planned this moment.
    Alarm(u64),
}

pub struct Node {
    pub id: NodeId,
    pub dir: PathBuf,
    pub disk: SimDisk,
    running: Option<Running>,
    /// Of its process; 0 while there is none.
    pub incarnation: u64,
    /// Where it is, once it is started.
    pub port: usize,
    /// Addresses at which it is told to look for others.
    pub joins: Vec<String>,
    /// Nodes that it knows from joining, and where they were.
    known: Vec<(NodeId, String)>,
    pub paused_until: Moment,
    busy_until: Moment,
    /// Its clock runs this much faster, in thousandths.
    pub drift_permille: i64,
    /// It founds or has joined; else it has to join first.
    pub member: bool,
    /// It has run as a member.
    has_run: bool,
    /// Whether it is to be started again when it is down.
    pub restarts: bool,
    /// What of it was damaged: it may fail, and say so, at any time.
    rotten: Option<Rot>,
    work_slow: Duration,
    join_answer: Option<Token>,
}

/// Where bits were flipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rot {
    Log,
    Store,
}

struct Running {
    engine: Engine,
    store: Store,
    log: Log,
    jobs: VecDeque<Job>,
    finished: VecDeque<Finished>,
    working: bool,
    started: Moment,
    /// Incarnations of others that have been let in.
    met: BTreeMap<usize, u64>,
    /// Where it believes the others to be.
    whereabouts: Whereabouts,
    /// Up to which of its news each of the others has been told, by place and incarnation.
    told: BTreeMap<(usize, u64), u64>,
    /// Nodes that were not found: when they are looked for again, and how long after that.
    pauses: BTreeMap<NodeId, (Moment, Duration)>,
}

pub struct World {
    pub now: Moment,
    pub rng: Random,
    pub nodes: Vec<Node>,
    pub network: Network,
    pub topology: Topology,
    bounds: Bounds,
    pub outcomes: VecDeque<Outcome>,
    pub trace: DefaultHasher,
    /// Who waits at which node for an answer.
    tokens: BTreeMap<Token, (usize, Moment)>,
    last_token: u64,
    order: u64,
    queue: BinaryHeap<Reverse<Planned>>,
    /// Violations that the world itself sees.
    pub broken: Vec<String>,
    pub rounds: u64,
    /// Replicas that have ended.
    pub ended: u64,
    /// Leaderships that were offered and not taken.
    pub in_vain: u64,
    pub messages: u64,
    /// At the end of this step.
    power_fails: bool,
    /// A bit has rotted: one is enough for a cluster that has a replica to spare.
    pub rotted: bool,
    /// Of disks that are gone.
    disk_operations: u64,
    raft_invariants: RaftInvariants,
    decoy: Decoy,
    /// Where all files are.
    pub root: PathBuf,
    _dir: TempDir,
}

/// Where files cost no disk, if there is room for them.
fn memory() -> PathBuf {
    let shared = Path::new("/dev/shm");
    let room = rustix::fs::statvfs(shared).map_or(0, |fs| fs.f_bavail * fs.f_frsize);
    if room > 1 << 30 { shared.to_owned() } else { std::env::temp_dir() }
}

impl World {
    /// A founder and further nodes that will join it.
    pub fn new(
        seed: u64,
        size: usize,
        replication_factor: u32,
        topology: Topology,
        bounds: Bounds,
    ) -> World {
        let mut rng = Random::seeded(seed);
        let dir = TempDir::with_prefix_in("devicedb-sim-", memory()).unwrap();
        let node = |number: usize, rng: &mut Random| Node {
            id: NodeId(rng.nonzero()),
            dir: dir.path().join(format!("node{number}")),
            disk: SimDisk::new(rng.next_u64()),
            running: None,
            incarnation: 0,
            port: FIRST_PORT + number,
            joins: Vec::new(),
            known: Vec::new(),
            paused_until: Moment::ZERO,
            busy_until: Moment::ZERO,
            drift_permille: 0,
            member: number == 0,
            has_run: false,
            restarts: true,
            rotten: None,
            work_slow: Duration::ZERO,
            join_answer: None,
        };
        let nodes: Vec<Node> = (0..size).map(|number| node(number, &mut rng)).collect();
        let network = Network::whole();
        let mut world = World {
            now: Moment::ZERO,
            rng,
            nodes,
            network,
            topology,
            bounds,
            outcomes: VecDeque::new(),
            trace: DefaultHasher::new(),
            tokens: BTreeMap::new(),
            last_token: 0,
            order: 0,
            queue: BinaryHeap::new(),
            broken: Vec::new(),
            rounds: 0,
            ended: 0,
            in_vain: 0,
            messages: 0,
            power_fails: false,
            rotted: false,
            disk_operations: 0,
            raft_invariants: RaftInvariants::default(),
            decoy: Decoy::new(dir.path()),
            root: dir.path().to_owned(),
            _dir: dir,
        };
        world.found(replication_factor);
        for number in 0..size {
            std::fs::create_dir_all(world.nodes[number].dir.join("spool")).unwrap();
            world.plan_node(number, world.now, 0, Event::Start);
        }
        world
    }

    fn found(&mut self, replication_factor: u32) {
        let (cluster, lineage) = (ClusterId(self.rng.uuid()), Lineage(self.rng.nonzero()));
        let node = &self.nodes[0];
        std::fs::create_dir_all(&node.dir).unwrap();
        let identity = Identity {
            format: FORMAT,
            node: node.id,
            cluster,
            lineage,
            restored_from: None,
            topology: self.topology,
        };
        let settings = restore::founding_settings(&identity, replication_factor).unwrap();
        restore::found(&node.dir, &identity, settings, self.entry(0, lineage)).unwrap();
    }

    fn entry(&self, node: usize, lineage: Lineage) -> cluster::Node {
        cluster::Node {
            id: self.nodes[node].id,
            address: self.address(node),
            capacity_percent: 100,
            version: "simulated".into(),
            snapshot_store: true,
            lineage,
            level: cluster::level::Level::own(),
            leaving: false,
            draining: false,
            certificate_name: None,
        }
    }

    // ---- Time. ----

    fn plan(&mut self, at: Moment, what: What) {
        self.order += 1;
        self.queue.push(Reverse(Planned { at: at.max(self.now), order: self.order, what }));
    }

    fn plan_node(&mut self, node: usize, at: Moment, incarnation: u64, event: Event) {
        self.plan(at, What::Node { node, incarnation, event });
    }

    pub fn alarm(&mut self, after: Duration, number: u64) {
        self.plan(self.now + after, What::Alarm(number));
    }

    /// Lets the next thing happen.
    pub fn step(&mut self) {
        let Some(Reverse(Planned { at, what, .. })) = self.queue.pop() else { return };
        self.now = at;
        match what {
            What::Alarm(number) => self.outcomes.push_back(Outcome::Alarm(number)),
            What::Node { node, incarnation, event } => {
                let this = &self.nodes[node];
                if incarnation != 0 && incarnation != this.incarnation {
                    return self.dropped(event);
                }
                let free = this.paused_until.max(this.busy_until);
                if free > self.now {
                    // What has come on different connections meanwhile is taken in any order.
                    let at = free + self.below(Duration::ZERO, Duration::from_millis(1));
                    return self.plan_node(node, at, incarnation, event);
                }
                self.happen(node, event);
            }
        }
        if std::mem::take(&mut self.power_fails) {
            (0..self.nodes.len()).for_each(|node| self.crash(node));
        }
    }

    /// Nobody waits for a moment any more.
    pub fn clear_alarms(&mut self) {
        self.queue.retain(|Reverse(planned)| matches!(planned.what, What::Node { .. }));
        self.outcomes.clear();
    }

    fn dropped(&mut self, event: Event) {
        if let Event::Input(input) = event
            && let Input::Request { token, .. } = *input
        {
            self.resolve(
                token,
                Err(Error::unavailable("the node had gone before the request came")),
            );
        }
    }

    fn resolve(&mut self, token: Token, answer: Result<Reply>) {
        if self.tokens.remove(&token).is_some() {
            self.outcomes.push_back(Outcome::Answer { token, answer });
        }
    }

    fn below(&mut self, from: Duration, to: Duration) -> Duration {
        from + Duration::from_micros(self.rng.below((to - from).as_micros() as u64 + 1))
    }

    // ---- A node. ----

    pub fn is_up(&self, node: usize) -> bool {
        self.nodes[node].running.is_some()
    }

    pub fn up(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|n| self.is_up(*n)).collect()
    }

    /// Members that are down: what those who place groups believe of them. Who is about to start
    /// for the first time has not been silent for long.
    pub fn away(&self) -> cluster::Away {
        let up: BTreeSet<NodeId> = self.up().into_iter().map(|n| self.nodes[n].id).collect();
        let begin: BTreeSet<NodeId> =
            self.nodes.iter().filter(|node| !node.has_run).map(|node| node.id).collect();
        let engines = self.up().into_iter().filter_map(|node| self.engine(node));
        let members = engines.flat_map(|engine| engine.meta().nodes().keys().copied());
        members.filter(|node| !up.contains(node) && !begin.contains(node)).collect()
    }

    pub fn engine(&self, node: usize) -> Option<&Engine> {
        self.nodes[node].running.as_ref().map(|r| &r.engine)
    }

    fn happen(&mut self, node: usize, event: Event) {
        self.decoy.read();
        match event {
            Event::Start => self.start(node),
            _ if !self.is_up(node) => self.dropped(event),
            Event::Tick => {
                let (incarnation, drift) =
                    (self.nodes[node].incarnation, self.nodes[node].drift_permille);
                let next = Duration::from_nanos(
                    (limits::TICK.as_nanos() as i128 * 1000 / (1000 + i128::from(drift))) as u64,
                );
                self.round(node, vec![Input::Tick]);
                self.look_around(node);
                self.plan_node(node, self.now + next, incarnation, Event::Tick);
            }
            Event::Message { from, speaker, message } => {
                if self.may_speak(from, &speaker, node) {
                    self.round(node, vec![Input::Peer { from: speaker.identity.node, message }]);
                }
            }
            Event::Input(input) => self.round(node, vec![*input]),
            Event::Ship(rows) => self.ship(node, *rows),
            Event::Work => self.work(node),
            Event::Worked => {
                let finished =
                    self.nodes[node].running.as_mut().and_then(|r| r.finished.pop_front());
                self.round(node, finished.into_iter().map(Input::Finished).collect());
            }
            Event::Announce => self.announce(node),
        }
    }

    fn round(&mut self, node: usize, inputs: Vec<Input>) {
        self.rounds += 1;
        let this = &mut self.nodes[node];
        let Some(running) = &mut this.running else { return };
        this.disk.take_spent();
        let local = by_clock(self.now - running.started, this.drift_permille);
        let mut outside = Outside {
            said: Said::default(),
            disk: &this.disk,
            store: &running.store,
            local,
            drift_permille: this.drift_permille,
        };
        let registered: Vec<NodeId> = running.engine.meta().nodes().keys().copied().collect();
        let ended =
            panic::catch_unwind(AssertUnwindSafe(|| running.engine.round(inputs, &mut outside)));
        // raft-rs knows no other answer to a log that cannot be read; the process ends either way.
        let may_panic = this.disk.has_failed() || this.rotten == Some(Rot::Log);
        let ended = ended.unwrap_or_else(|panicked| {
            if may_panic {
                Err(Error::unavailable("a panic"))
            } else {
                panic::resume_unwind(panicked)
            }
        });
        let said = outside.said;
        self.ended += said.ended;
        self.in_vain += said.in_vain;
        let departs = said.departs;
        self.broken.extend(said.wrong.iter().map(|what| format!("node {node} {what}")));
        // All nodes here are well: whatever they say is let in. Only one that has just joined may
        // speak before this node has applied that it has; it is not believed, and says it again.
        let wrong = said.refused.iter().filter(|(from, _)| registered.contains(from));
        self.broken.extend(wrong.map(|(_, what)| format!("node {node} {what}")));
        this.busy_until = self.now + this.disk.take_spent();
        running.jobs.extend(said.jobs);
        let begin = !running.working && !running.jobs.is_empty();
        running.working |= begin;
        for (id, address) in said.listed {
            running.whereabouts.listed(id, &address);
        }
        let incarnation = this.incarnation;
        let done = this.busy_until;
        for (after, to, message) in said.sent {
            self.send(node, self.now + after, to, message);
        }
        for path in said.discarded {
            let _ = std::fs::remove_file(path);
        }
        match ended {
            Ok(()) => {
                if begin {
                    let slow = self.nodes[node].work_slow;
                    let at = done
                        + self.below(Duration::from_micros(200), Duration::from_millis(5))
                        + slow;
                    self.plan_node(node, at, incarnation, Event::Work);
                }
                for rows in said.rows {
                    let at = done + self.below(Duration::from_millis(1), Duration::from_millis(30));
                    self.plan_node(node, at, incarnation, Event::Ship(Box::new(rows)));
                }
                for (token, answer) in said.answers {
                    self.resolve(token, answer);
                }
                self.outcomes
                    .extend(said.news.into_iter().map(|news| Outcome::Snapshot { node, news }));
                if departs {
                    self.depart(node);
                }
            }
            Err(e) => {
                if !self.nodes[node].may_fail() {
                    self.broken.push(format!("node {node} ended by itself: {e}"));
                }
                // What it said before it failed has been said.
                for (token, answer) in said.answers {
                    self.resolve(token, answer);
                }
                self.crash(node);
            }
        }
    }

    fn work(&mut self, node: usize) {
        let topology = self.topology;
        let this = &mut self.nodes[node];
        let Some(running) = &mut this.running else { return };
        let Some(job) = running.jobs.pop_front() else {
            running.working = false;
            return;
        };
        let rows = if let Job::Install { path, .. } = &job { Some(path.clone()) } else { None };
        let spent = this.disk.spent();
        let finished = job.run(&running.store, &running.log, topology);
        let took = this.disk.spent() - spent;
        rows.map(std::fs::remove_file);
        let (incarnation, slow) = (this.incarnation, this.work_slow);
        let at = self.now + took + slow;
        running.finished.push_back(finished);
        self.plan_node(node, at, incarnation, Event::Worked);
        // The next one begins when this one has ended, so that results come in order.
        self.plan_node(node, at, incarnation, Event::Work);
    }

    /// Copies rows into a file and hands it to the other node, whole or not at all.
    fn ship(&mut self, node: usize, rows: RowsToSend) {
        let RowsToSend { to, group, name, record, view, announced } = rows;
        let incarnation = self.nodes[node].incarnation;
        let target = self.reach(node, to);
        let at = self.now + self.below(Duration::from_millis(1), Duration::from_millis(50));
        let arrives = target.filter(|t| {
            self.is_up(*t)
                && !self.network.cut.contains(&(node, *t))
                && self.rng.below(1000) >= 5 * self.network.lost_permille
        });
        let mut delivered = None;
        let sender = self.nodes[node].id;
        if let Some(target) = arrives
            && self
                .look(target, move |sight| sight.may_send_rows(sender, group))
                .is_some_and(|taken| taken.is_ok())
        {
            self.order += 1;
            let path =
                self.nodes[target].dir.join("spool").join(format!("incoming-{}.rows", self.order));
            match transfer::write(&path, &record, &view, self.topology, group) {
                Ok(_) if !self.are_taken(target, sender, group, &path) => {
                    drop(std::fs::remove_file(path))
                }
                Ok(_) => {
                    let arrived = ArrivedRows { group, name, record, path };
                    let receiver = self.nodes[target].incarnation;
                    self.plan_node(
                        target,
                        at,
                        receiver,
                        Event::Input(Box::new(Input::RowsArrived(arrived))),
                    );
                    delivered = Some(announced);
                }
                Err(e) => self.unreadable(node, &e),
            }
        }
        drop(view);
        let input = Input::RowsSent { to, group, announced: delivered };
        self.plan_node(
            node,
            at + Duration::from_millis(1),
            incarnation,
            Event::Input(Box::new(input)),
        );
    }

    /// As a node looks at rows that have come, before it hands them to its engine.
    fn are_taken(&mut self, node: usize, from: NodeId, group: GroupId, path: &Path) -> bool {
        let record = match check_rows(path, self.topology, group)
            .and_then(|record| wire::decode_record(&record))
        {
            Ok(record) => record,
            Err(e) => {
                self.broken.push(format!(
                    "node {node} cannot read the rows of group {group} that another one has sent: \
                     {e}"
                ));
                return false;
            }
        };
        self.look(node, move |sight| sight.may_take_record(from, group, &record))
            .is_some_and(|taken| taken.is_ok())
    }

    /// Hands something to a node that is up.
    pub fn input(&mut self, node: usize, input: Input) {
        let incarnation = self.nodes[node].incarnation;
        if self.is_up(node) {
            self.plan_node(node, self.now, incarnation, Event::Input(Box::new(input)));
        }
    }

    pub fn set_work_slow(&mut self, node: usize, takes: Duration) {
        self.nodes[node].work_slow = takes;
    }

    /// Somebody beside the engine could not read a node's store.
    pub fn unreadable(&mut self, node: usize, e: &Error) {
        if !self.nodes[node].may_fail_to_read(e) {
            self.broken.push(format!("node {node}: its store cannot be read: {e}"));
        }
    }

    // ---- Those who use it. ----

    /// Asks a node; an answer comes out in any case.
    pub fn request(&mut self, node: usize, group: GroupId, body: Body, wait: Duration) -> Token {
        self.last_token += 1;
        let token = Token(self.last_token);
        self.tokens.insert(token, (node, self.now + wait));
        let this = &self.nodes[node];
        match &this.running {
            None => self.resolve(token, Err(Error::unavailable("the node is down"))),
            Some(running) => {
                let local =
                    by_clock(self.now.max(this.busy_until) - running.started, this.drift_permille);
                let input = Input::Request { token, group, body, deadline: local + wait };
                let incarnation = this.incarnation;
                let at = self.now + self.below(Duration::from_micros(50), Duration::from_millis(1));
                self.plan_node(node, at, incarnation, Event::Input(Box::new(input)));
            }
        }
        token
    }

    /// Looks at a node that is up, at once.
    pub fn look<T: Send + 'static>(
        &mut self,
        node: usize,
        see: impl FnOnce(EngineView<'_>) -> T + Send + 'static,
    ) -> Option<T> {
        let (tell, told) = std::sync::mpsc::channel();
        let see = Box::new(move |sight: Result<EngineView<'_>>| drop(tell.send(sight.map(see))));
        self.round(
            node,
            vec![Input::Inspection(Inspection {
                linearizable: false,
                deadline: Duration::MAX,
                see,
            })],
        );
        told.try_recv().ok()?.ok()
    }

    /// Requests whose time has been over for long, at nodes that run: nothing may hang.
    pub fn overdue(&self, patience: Duration) -> Vec<String> {
        let late = self.tokens.iter().filter(|(_, (node, deadline))| {
            *deadline + patience < self.now
                && self.is_up(*node)
                && self.nodes[*node].paused_until + patience < self.now
        });
        late.map(|(token, (node, deadline))| {
            format!(
                "{token:?} at node {node} should have been answered by {deadline:?}; it is {:?}",
                self.now
            )
        })
        .collect()
    }

    pub fn disk_operations(&self) -> u64 {
        self.disk_operations + self.nodes.iter().map(|n| n.disk.operations()).sum::<u64>()
    }

    /// Everything that was sent and written, in one number.
    pub fn traced(&self) -> u64 {
        let mut all = self.trace.clone();
        self.nodes.iter().for_each(|n| n.disk.trace().hash(&mut all));
        all.finish()
    }
}

impl Node {
    /// Its disk has failed its process, or may do so now.
    fn may_fail(&self) -> bool {
        self.disk.has_failed() || self.is_rotten()
    }

    pub fn is_rotten(&self) -> bool {
        self.rotten.is_some()
    }

    /// Whether it need not be able to read its store: its disk has failed, or the store is damaged,
    /// and the error says so.
    pub fn may_fail_to_read(&self, e: &Error) -> bool {
        self.disk.has_failed() || self.rotten == Some(Rot::Store) && e.kind == Kind::Corrupt
    }
}
