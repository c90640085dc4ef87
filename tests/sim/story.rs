//! One seed, one story: a cluster, clients, faults and snapshots, then an end in which nothing
//! fails any more and everything has to come to rest.
//!
//! What may happen in it stands in its plot; what did is told with the end.

mod leaving;
mod operations;
mod repairs;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;
use devicedb::{
    base::{
        clock::Random,
        error::Result,
        ids::{GroupId, Lineage, NodeId, SnapshotId, Topology},
    },
    cluster::{self, reconfigure::Membership},
    data::{Place as RowPlace, Row, RowKey, Versions},
    engine::{Body, Captured, Input, SnapshotNews},
    store::keys,
    wire,
};

use crate::{
    clients::{COLUMNS, Clients, Place},
    history::{CutTimes, one_instant},
    parts::{self, Parts},
    plot::{Fault, Plot},
    world::{Moment, Network, Outcome, World},
};

const FAULTS: u64 = 1_000_000;
const SNAPSHOTS: u64 = 1_000_001;
const REMOVALS: u64 = 1_000_002;
const LAGGARD: u64 = 1_000_003;
/// Enough for one story: more seeds find more than longer ones.
pub const OPERATIONS_MAX: u64 = 6000;
/// Several times what a story needs.
const ROUNDS_MAX: u64 = 600_000;
/// How long the end may take until everything is at rest.
pub const END_MAX: Duration = Duration::from_secs(120);

/// What a story came to.
#[derive(Clone, Debug, Default)]
pub struct Ending {
    pub operations: u64,
    pub unknown: u64,
    pub faults: u64,
    pub snapshots: u64,
    pub sealed: u64,
    pub parts: u64,
    pub restores: u64,
    pub refused_parts: u64,
    /// Nodes that were lost and removed.
    pub removed: u64,
    /// Replicas that have ended.
    pub ended: u64,
    /// Leaderships that were offered and not taken.
    pub in_vain: u64,
    pub rounds: u64,
    pub messages: u64,
    pub disk_operations: u64,
    pub trace: u64,
    /// Faults and snapshots, as they came.
    pub told: Vec<String>,
    /// What was promised and not kept.
    pub broken: Vec<String>,
}

pub struct Story {
    pub plot: Plot,
    pub rng: Random,
    pub world: World,
    pub clients: Clients,
    pub parts: Parts,
    pub faults: u64,
    ending: bool,
    pub cuts: BTreeMap<SnapshotId, Cut>,
    pub restores: u64,
    /// The snapshot that was restored last.
    pub restored: Option<SnapshotId>,
    /// Parts that were damaged and not restored.
    pub refused_parts: u64,
    /// Nodes whose disk is lost and that are not made up for yet.
    lost: BTreeSet<NodeId>,
    pub removed: u64,
    laggard: Option<leaving::Laggard>,
    /// Until the next disk is lost.
    second: Option<repairs::SecondLoss>,
    /// The node that is being decommissioned, and the one that replaces it.
    leaving: Option<(usize, Option<usize>)>,
    /// What the meta group's leader heard of all groups the last time.
    heard: Option<operations::Heard>,
    /// The most that a leader was seen to have applied.
    applied: BTreeMap<(Lineage, GroupId), u64>,
    told: Vec<String>,
    /// Why it has not come to rest yet.
    restless: String,
    pub broken: Vec<String>,
}

/// A snapshot, as the nodes hold it.
#[derive(Default)]
pub struct Cut {
    called: Moment,
    pub sealed: Option<Moment>,
    /// Counters, by node.
    counters: Vec<BTreeMap<(usize, usize), u64>>,
    /// What nodes hold of a group at its mark: the mark's place, the newest dot's counter, and a
    /// digest of the rows.
    pub groups: BTreeMap<GroupId, BTreeSet<(u64, u64, u64, String)>>,
    /// The history in which it was taken is over and was checked.
    checked: bool,
}

/// Plays a story to its end.
pub fn play(plot: Plot) -> Ending {
    let topology = Topology::new(64, 4).unwrap();
    let mut rng = Random::seeded(plot.seed);
    let world =
        World::new(rng.next_u64(), plot.nodes, plot.replication_factor, topology, plot.bounds);
    let clients = Clients::new(rng.next_u64(), plot.clients, plot.think);
    let parts = Parts::new(
        rng.next_u64(),
        (0..plot.nodes).map(|n| world.root.join(format!("shelf{n}"))).collect(),
    );
    let mut story = Story {
        plot,
        rng,
        world,
        clients,
        parts,
        faults: 0,
        ending: false,
        cuts: BTreeMap::new(),
        restores: 0,
        restored: None,
        refused_parts: 0,
        lost: BTreeSet::new(),
        removed: 0,
        laggard: None,
        second: None,
        leaving: None,
        heard: None,
        applied: BTreeMap::new(),
        told: Vec::new(),
        restless: String::new(),
        broken: Vec::new(),
    };
    story.begin();
    story.arm();
    story.middle();
    for _ in 0..story.plot.disasters {
        if story.is_whole() && story.disaster() {
            story.middle();
        }
    }
    story.end();
    story.told()
}

impl Story {
    fn begin(&mut self) {
        let sites: BTreeSet<_> = Place::all().into_iter().map(Place::site).collect();
        let mut missing: Vec<_> = sites.into_iter().collect();
        self.until("every site is there", Duration::from_secs(60), |story| {
            missing.retain(|site| {
                let there = |n: usize| {
                    story.world.engine(n).is_some_and(|e| {
                        e.meta()
                            .sites()
                            .site(site)
                            .is_some_and(|s| s.state == cluster::sites::SiteState::Present)
                    })
                };
                !there(0)
            });
            for site in missing.iter().take(1) {
                let command = cluster::Command::AddSite(site.clone());
                story.world.request(
                    0,
                    GroupId::META,
                    Body::Propose(command.into()),
                    Duration::from_secs(2),
                );
            }
            missing.is_empty()
        });
    }

    /// Clients, faults and snapshots begin.
    pub fn arm(&mut self) {
        for client in 0..self.clients.count() {
            self.world.alarm(Duration::from_millis(self.rng.below(100)), client as u64);
        }
        self.world.alarm(self.plot.faults_every, FAULTS);
        self.world.alarm(self.plot.snapshots_every, SNAPSHOTS);
    }

    fn middle(&mut self) {
        let until = self.world.now + self.plot.lasts;
        let operations =
            self.clients.history.operations + OPERATIONS_MAX / (1 + self.plot.disasters);
        while self.world.now < until
            && self.clients.history.operations < operations
            && self.is_whole()
        {
            self.step();
        }
    }

    /// No promise has been broken so far.
    pub fn is_whole(&self) -> bool {
        self.broken.is_empty()
            && self.world.broken.is_empty()
            && self.clients.broken.is_empty()
            && self.parts.broken.is_empty()
    }

    fn end(&mut self) {
        self.ending = true;
        self.clients.stopping = true;
        self.heal();
        self.until("every client has its answer", END_MAX, |story| story.clients.idle());
        self.until("lost nodes are made up for", END_MAX, |story| story.made_up_for());
        self.until("all replicas are the same", END_MAX, |story| story.replicas_agree());
    }

    fn told(mut self) -> Ending {
        self.check_history();
        let mut broken = self.broken;
        broken.append(&mut self.world.broken);
        broken.append(&mut self.clients.broken);
        broken.append(&mut self.parts.broken);
        Ending {
            operations: self.clients.history.operations,
            unknown: self.clients.history.unknown,
            faults: self.faults,
            snapshots: self.cuts.len() as u64,
            sealed: self.cuts.values().filter(|c| c.sealed.is_some()).count() as u64,
            parts: self.parts.completed,
            restores: self.restores,
            refused_parts: self.refused_parts,
            removed: self.removed,
            ended: self.world.ended,
            in_vain: self.world.in_vain,
            rounds: self.world.rounds,
            messages: self.world.messages,
            disk_operations: self.world.disk_operations(),
            trace: self.world.traced(),
            told: self.told,
            broken,
        }
    }

    pub fn until(&mut self, what: &str, bound: Duration, mut fact: impl FnMut(&mut Story) -> bool) {
        let by = self.world.now + bound;
        let mut look = self.world.now;
        while self.is_whole() {
            if self.world.now >= look {
                if fact(self) {
                    return;
                }
                look = self.world.now + Duration::from_millis(100);
            }
            if self.world.now > by {
                let waiting = self.clients.waiting().join("; ");
                let nodes: Vec<_> = (0..self.plot.nodes)
                    .map(|n| (self.world.look(n, |s| s.unready()), self.world.missing(n)))
                    .collect();
                let overdue = self.world.overdue(Duration::ZERO).join("; ");
                self.broken.push(format!(
                    "not within {bound:?}: {what}; clients: {waiting}; nodes: {nodes:?}; \
                     {overdue}; {}",
                    self.restless
                ));
            }
            self.step();
        }
    }

    pub fn step(&mut self) {
        self.world.step();
        if self.world.rounds > ROUNDS_MAX && self.broken.is_empty() {
            self.broken.push(format!(
                "{ROUNDS_MAX} turns of engines, and it is only {:?}: they keep each other busy",
                self.world.now
            ));
        }
        while let Some(outcome) = self.world.outcomes.pop_front() {
            match outcome {
                Outcome::Alarm(FAULTS) => self.fault(),
                Outcome::Alarm(SNAPSHOTS) => self.snapshot(),
                Outcome::Alarm(REMOVALS) => self.remove_lost(),
                Outcome::Alarm(LAGGARD) => self.go_on_lagging(),
                Outcome::Alarm(number) if number >= parts::ALARMS => {
                    self.parts.on_alarm(number, &mut self.world)
                }
                Outcome::Alarm(client) => self.clients.wake(client as usize, &mut self.world),
                Outcome::Answer { token, answer } => {
                    if !self.world.on_join_answer(token, &answer)
                        && !self.parts.on_answer(token, &answer, &mut self.world)
                    {
                        self.clients.on_answer(token, answer, &mut self.world);
                    }
                }
                Outcome::Snapshot { node, news } => self.on_news(node, news),
            }
        }
    }

    pub fn tell(&mut self, what: String) {
        self.told.push(format!("{:>9.3} s  {what}", self.world.now.as_secs_f64()));
    }

    // ---- Faults. ----

    fn fault(&mut self) {
        if self.ending {
            return;
        }
        let every = self.plot.faults_every.as_millis() as u64;
        self.world.alarm(Duration::from_millis(every / 2 + self.rng.below(every + 1)), FAULTS);
        let hung = self.world.overdue(Duration::from_secs(10));
        self.broken.extend(hung);
        let kinds: Vec<Fault> = self.plot.faults.iter().copied().collect();
        if kinds.is_empty() {
            return;
        }
        // Each draws from a source of its own, so that a story goes on much the same when some do
        // not happen.
        let mut rng = Random::seeded(self.rng.next_u64());
        let number = self.faults;
        self.faults += 1;
        let kind = kinds[rng.below(kinds.len() as u64) as usize];
        let node = rng.below(self.plot.nodes as u64) as usize;
        let on = rng.below(2) == 0;
        if self.plot.without.contains(&number) {
            return;
        }
        self.tell(format!(
            "fault {number}: {kind:?}, node {node}, {}",
            if on { "on" } else { "off" }
        ));
        let some = |rng: &mut Random, most: u64| Duration::from_millis(1 + rng.below(most));
        match kind {
            Fault::Crash => self.world.crash(node),
            Fault::CrashAll => (0..self.plot.nodes).for_each(|n| self.world.crash(n)),
            Fault::CrashBetweenWrites => self.world.nodes[node].disk.fail_in(rng.below(60)),
            Fault::Pause => {
                self.world.nodes[node].paused_until = self.world.now + some(&mut rng, 4000)
            }
            Fault::Cut => {
                let other = rng.below(self.plot.nodes as u64) as usize;
                if on {
                    self.world.network.cut.insert((node, other));
                    if rng.below(2) == 0 {
                        self.world.network.cut.insert((other, node));
                    }
                } else {
                    self.world.network.cut.clear();
                }
            }
            Fault::Isolate => {
                self.world.network.cut.clear();
                if on {
                    let others = (0..self.plot.nodes).filter(|n| *n != node);
                    self.world
                        .network
                        .cut
                        .extend(others.flat_map(|other| [(node, other), (other, node)]));
                    self.world.gone(node);
                }
            }
            Fault::Loss => self.world.network.lost_permille = if on { rng.below(200) } else { 0 },
            Fault::Doubled => {
                self.world.network.doubled_permille = if on { rng.below(300) } else { 0 }
            }
            Fault::Late => {
                self.world.network.late_permille = if on { rng.below(200) } else { 0 };
                self.world.network.late = some(&mut rng, 5000);
            }
            Fault::SlowDisk => self.world.nodes[node].disk.set_sync(if on {
                some(&mut rng, 200)
            } else {
                Duration::from_micros(500)
            }),
            Fault::FullDisk => self.world.nodes[node].disk.set_full(on),
            Fault::SlowStore => {
                let takes = if on { some(&mut rng, 3000) } else { Duration::ZERO };
                self.world.set_work_slow(node, takes);
            }
            Fault::Drift => self.world.nodes[node].drift_permille = rng.below(101) as i64 - 50,
            Fault::FalseAlarm => self.world.gone(node),
            Fault::Checkpoint => self.world.input(node, Input::Checkpoint),
            Fault::Rot => {
                if !self.world.rotted && self.spares_any() {
                    self.world.rot(node);
                }
            }
            Fault::Move => {
                self.world.crash(node);
                self.world.moves_away(node);
                let other = rng.below(self.plot.nodes as u64) as usize;
                self.world.aim(node, if on { vec![self.world.address(other)] } else { Vec::new() });
            }
            Fault::LateMarks => {
                let deadline = self.plot.bounds.cut_deadline.as_millis() as u64;
                self.world.network.marks_late = Some((node, some(&mut rng, 2 * deadline)));
            }
            Fault::CrashAtVote => self.world.network.fails_at_vote = true,
            Fault::DiskLost => self.lose_disk(node, &mut rng),
            Fault::Capacity => self.change_capacity(node, on),
            Fault::Comeback => self.leave_or_come_back(node),
            Fault::Laggard => self.let_lag(node),
            Fault::Departure => self.leave(node),
            Fault::SecondLoss => self.lose_two(node),
            Fault::StoreRot => {
                if !self.world.rotted && self.spares_any() {
                    self.world.rot_store(node);
                }
            }
        }
    }

    /// Whether every group is led, and can do without any one of its voters that are up; some may
    /// be gone for good.
    fn spares_any(&mut self) -> bool {
        let mut spared = BTreeSet::new();
        let up: BTreeSet<_> =
            self.world.up().into_iter().map(|node| self.world.nodes[node].id).collect();
        for node in self.world.up() {
            let led = self.world.look(node, |sight| {
                sight
                    .led()
                    .map(|(group, members)| (group, members.voters.clone()))
                    .collect::<Vec<_>>()
            });
            let spares =
                |voters: &BTreeSet<_>| voters.intersection(&up).count() > voters.len() / 2 + 1;
            spared.extend(
                led.into_iter()
                    .flatten()
                    .filter(|(_, voters)| spares(voters))
                    .map(|(group, _)| group),
            );
        }
        spared.len() == self.world.topology.groups() as usize + 1
    }

    /// Nothing fails from now on. Nodes that have all moved at once may have lost each other for
    /// good: an operator tells them where one of them is, and not one whose disk is or was given
    /// up, since a machine that begins anew knows nobody either.
    pub fn heal(&mut self) {
        self.world.network = Network::whole();
        self.laggard = None;
        self.second = None;
        if self.plot.faults.contains(&Fault::Move) {
            let keeps = |node: &usize| {
                self.world.nodes[*node].member && !self.world.nodes[*node].is_rotten()
            };
            let keeps = (0..self.plot.nodes).find(keeps).expect("one disk rots at the most");
            let there = self.world.address(keeps);
            (0..self.plot.nodes).for_each(|node| self.world.aim(node, vec![there.clone()]));
        }
        for node in 0..self.plot.nodes {
            let this = &mut self.world.nodes[node];
            this.paused_until = Moment::ZERO;
            this.disk.heal();
            this.disk.set_sync(Duration::from_micros(500));
            self.world.set_work_slow(node, Duration::ZERO);
            if self.world.nodes[node].is_rotten() {
                // Whoever has to look after it gives up its disk.
                self.world.stop(node);
                let dir = self.fresh_dir("machine");
                self.world.replace(node, dir, None);
            }
            self.world.start_again(node);
        }
    }

    /// Whether every group has all its replicas at one place with the same rows.
    fn replicas_agree(&mut self) -> bool {
        let up = self.world.up();
        if up.len() < self.plot.nodes {
            self.restless = format!("only nodes {up:?} are up");
            return false;
        }
        let groups: Vec<GroupId> = self.world.topology.group_ids().collect();
        let wanted: BTreeMap<GroupId, Membership> = groups
            .iter()
            .map(|g| {
                let nodes = self
                    .world
                    .engine(0)
                    .expect("all are up")
                    .meta()
                    .assignments()
                    .get(g)
                    .cloned()
                    .unwrap_or_default();
                (
                    *g,
                    Membership {
                        voters: nodes.into_iter().collect(),
                        learners: Default::default(),
                    },
                )
            })
            .collect();
        let mut at: BTreeMap<GroupId, Vec<(usize, devicedb::entry::Position, String)>> =
            BTreeMap::new();
        for node in up {
            let id = self.world.nodes[node].id;
            for group in groups.iter().copied().filter(|g| wanted[g].voters.contains(&id)) {
                let replica =
                    self.world.look(node, move |s| s.replica(group)).and_then(Result::ok).flatten();
                let Some((applied, digest)) = replica else {
                    self.restless = format!(
                        "node {node} has no replica of group {group}, which should be on {:?}",
                        wanted[&group].voters
                    );
                    return false;
                };
                at.entry(group).or_default().push((node, applied, digest.to_string()));
            }
        }
        for (group, replicas) in at {
            let (_, place, digest) = &replicas[0];
            if replicas.iter().any(|(_, p, _)| p != place) {
                self.restless =
                    format!("replicas of group {group} are at different places: {replicas:?}");
                return false;
            }
            if replicas.iter().any(|(.., d)| d != digest) {
                self.broken
                    .push(format!("replicas of group {group} differ at one place: {replicas:?}"));
                return true;
            }
        }
        true
    }

    // ---- Snapshots. ----

    fn snapshot(&mut self) {
        if self.ending {
            return;
        }
        let every = self.plot.snapshots_every.as_millis() as u64;
        self.world.alarm(Duration::from_millis(every / 2 + self.rng.below(every + 1)), SNAPSHOTS);
        let node = self.rng.below(self.plot.nodes as u64) as usize;
        if self.rng.below(6) == 0 && !self.cuts.is_empty() {
            let ids: Vec<SnapshotId> = self.cuts.keys().copied().collect();
            let command = cluster::Command::BeginDeletion {
                id: ids[self.rng.below(ids.len() as u64) as usize],
                lineage: None,
            };
            self.world.request(
                node,
                GroupId::META,
                Body::Propose(command.into()),
                Duration::from_secs(3),
            );
        }
        let id = SnapshotId(self.rng.uuid());
        self.cuts.insert(id, Cut { called: self.world.now, ..Cut::default() });
        let command = cluster::Command::BeginSnapshot { id, created_ms: 0 };
        self.tell(format!("snapshot {id}, asked of node {node}"));
        self.world.request(
            node,
            GroupId::META,
            Body::Propose(command.into()),
            Duration::from_secs(3),
        );
    }

    fn on_news(&mut self, node: usize, news: SnapshotNews) {
        match &news {
            SnapshotNews::Sealed { id } => {
                let now = self.world.now;
                if self.cuts.get(id).is_none_or(|cut| cut.sealed.is_none()) {
                    self.tell(format!("snapshot {id} is sealed, says node {node}"));
                }
                self.cuts.entry(*id).or_default().sealed.get_or_insert(now);
            }
            SnapshotNews::Captured { id, groups, .. } => {
                let topology = self.world.topology;
                let cut = self.cuts.entry(*id).or_default();
                let seen = counters(groups, topology)
                    .and_then(|counters| Ok((counters, parts::captured(groups, topology)?)));
                let (counters, mut rows) = match seen {
                    Ok(seen) => seen,
                    Err(e) => return self.world.unreadable(node, &e),
                };
                cut.counters.push(counters);
                for group in groups.iter().filter(|g| !g.group.is_meta()) {
                    let digest = rows.remove(&group.group).expect("it was asked for");
                    cut.groups.entry(group.group).or_default().insert((
                        group.at.index,
                        group.at.term,
                        group.dots,
                        digest,
                    ));
                }
            }
            _ => {}
        }
        self.parts.on_news(node, news, &mut self.world);
    }

    /// Whether what clients and snapshots have seen of the history so far keeps the promises.
    pub fn check_history(&mut self) {
        self.broken.extend(self.clients.history.check());
        self.check_cuts();
    }

    fn check_cuts(&mut self) {
        for (id, cut) in self.cuts.iter_mut().filter(|(_, cut)| !cut.checked) {
            cut.checked = true;
            let Some(at) = cut.sealed else { continue };
            for (group, held) in cut.groups.iter().filter(|(_, held)| held.len() > 1) {
                self.broken
                    .push(format!("snapshot {id}: nodes hold group {group} differently: {held:?}"));
            }
            let times = CutTimes { called: cut.called, sealed: at };
            // Replicas agree, so all parts together are one.
            let mut together: BTreeMap<(usize, usize), u64> = BTreeMap::new();
            for held in &cut.counters {
                together.extend(held);
            }
            let counters = &self.clients.history.counters;
            let held =
                together.iter().filter_map(|(which, number)| Some((counters.get(which)?, *number)));
            if let Err(e) = one_instant(&times, held) {
                self.broken.push(format!("snapshot {id}: {e}"));
            }
        }
    }
}

fn counters(groups: &[Captured], topology: Topology) -> Result<BTreeMap<(usize, usize), u64>> {
    let mut held = BTreeMap::new();
    for (column, turn) in (0..COLUMNS).flat_map(|column| (0..3).map(move |turn| (column, turn))) {
        let place = Place::Counter(column, turn);
        let of = topology.group_of_site(&place.site());
        let Some(group) = groups.iter().find(|g| g.group == of) else { continue };
        let found = versions(|key| group.rows.get(key), topology, place)?;
        let number = found.map_or(0, |versions| {
            let value = versions
                .visible()
                .next()
                .and_then(|v| v.value.clone())
                .expect("counters are not deleted");
            u64::from_be_bytes(value.as_bytes().try_into().unwrap())
        });
        held.insert((column, turn), number);
    }
    Ok(held)
}

/// What there is of a key, where `get` looks up its row.
pub fn versions(
    get: impl FnOnce(&[u8]) -> Result<Option<Bytes>>,
    topology: Topology,
    place: Place,
) -> Result<Option<Versions>> {
    let row_place = RowPlace::Key { bucket: place.bucket(), key: place.key() };
    let row = RowKey {
        partition: topology.partition_of(&place.site()),
        site: place.site(),
        place: row_place,
    };
    let Some(stored) = get(&keys::data(&row.encode()))? else { return Ok(None) };
    let Row::Key(versions) = wire::decode_row(&row.place, &stored).unwrap() else {
        panic!("{row:?} is not the row of a key")
    };
    Ok(Some(versions))
}
