//! The engine of a node: all its Raft groups, their logs and rows, driven by one synchronous loop.
//! Inputs go in, messages and answers come out.
//!
//! The engine has no thread, socket or clock of its own. A `Host` carries out what it says and
//! tells it the time. In production one OS thread calls `round` with the inputs that have come
//! since the last one; a simulator calls `round` with inputs of its choice.
//!
//! # A round
//!
//! 1. Take the inputs: peers' messages, requests, ticks, results of jobs.
//! 2. Propose the waiting commands, one entry a group: the busier a group, the bigger its entries.
//! 3. Gather the messages and entries of raft-rs. A leader's messages go out before its disk write;
//!    that is safe, because its own vote counts only after the write. Entries that are committed by
//!    now were on disk here before the round: apply and answer them, and the reads that may be
//!    answered, before the disk write.
//! 4. Write all groups' entries with one fsync.
//! 5. Send the messages that had to wait for the disk, apply what is committed since, answer.
//! 6. Answer the reads that a lease covers or whose round of heartbeats a quorum has answered.
//!
//! # Invariants
//!
//! - Nothing is answered OK before the entry is on disk on a majority and applied here.
//! - A group's rows and its record change together: a layer of the overlay is sealed with the
//!   record of its log index.
//! - If the log or the store fails, the round returns the error and the node stops; it does not
//!   guess.
//! - While restored nodes have no lineage yet, only the meta group is active.
//!
//! # Files, in reading order
//!
//! What one group has: `overlay` and `rows` (its applied rows), and `consensus` (its part in Raft:
//! no other file speaks to raft-rs). What decides for it and has a state of its own: `promise` (who
//! may be voted for), `tenure` (whose acknowledgement counts), `consensus::offers` (who is sent
//! rows in place of entries), `read_index` (when a read may be answered). `group` holds these
//! together and keeps its fields to itself; `groups` finds a node's groups by their numbers. What
//! decides for the node: `heard` (who is there), `captures` (which snapshots it captures),
//! `requests` (where a request goes), `admission` (what other nodes may say).
//!
//! Most of what decides is shown by stories in `tests/golden/engine/`: a line is an event, the
//! lines behind it are what follows.
//!
//! Then the engine's duties, which carry out what is decided: `inbound` (messages of other nodes),
//! `forward` (the way of a request to a leader and back), `apply`, `reads`, `elections`, `members`
//! (which nodes hold a group), `endings` (of replicas that are left over), `sites` (that come and
//! go), `marks` (the cut), `checkpoint`. `host` is the outside as the engine sees it, `survey`
//! looks at a replica that nobody runs, and `driver` has the threads of a node.

pub mod overlay;
mod rows;
mod heard;
pub mod consensus;
mod promise;
mod tenure;
pub mod captures;
pub mod requests;
pub mod read_index;
pub mod group;
mod groups;
pub(crate) mod admission;
mod inbound;
mod forward;
mod apply;
mod reads;
mod elections;
mod members;
mod endings;
mod sites;
mod marks;
mod checkpoint;
mod host;
pub mod survey;
pub mod driver;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

pub use self::apply::{check_rows, load_meta};
pub use self::checkpoint::{Bounds, Finished, Job};
pub use self::consensus::Announced;
pub use self::host::{Host, Input, News};
pub use self::marks::{Captured, SnapshotNews};
pub use self::members::{ArrivedRows, RowsToSend};
pub use self::reads::{EngineView, Inspection};
pub use self::requests::{Body, Token};
use self::{
    checkpoint::Checkpoints,
    consensus::{GroupLog, Message, Turn},
    endings::Endings,
    group::{Followed, Group},
    groups::Groups,
    heard::Heard,
    marks::Marks,
    requests::{Asker, For, Requests},
    sites::Sites,
};
use crate::{
    base::{
        clock::Random,
        error::Result,
        ids::{GroupId, Lineage, NodeId, Topology},
        limits,
    },
    cluster::{self, Changed},
    entry::{Identity, Position, Record},
    faults::{
        failpoint::{Failpoint, failpoint},
        mutation::{Mutation, mutated},
    },
    log::{Batch, Log},
    proto::internal::v1::{PeerMessage, peer_message},
    store::{Store, View},
    wire,
};

/// See the module.
pub struct Engine {
    identity: Identity,
    rng: Random,
    now: Duration,
    log: Log,
    view: Arc<View>,
    meta: cluster::State,
    meta_changed: BTreeSet<Changed>,
    groups: Groups,
    requests: Requests,
    looks: reads::Inspections,
    marks: Marks,
    checkpoints: Checkpoints,
    endings: Endings,
    sites: Sites,
    heard: Heard,
    /// Rows that have arrived for Raft snapshots that have not been announced yet.
    arrived: BTreeMap<GroupId, VecDeque<ArrivedRows>>,
    /// Groups with something to do in this round.
    awake: BTreeSet<GroupId>,
    /// Groups in which reads or looks wait.
    asked: BTreeSet<GroupId>,
    /// Groups whose leader is here and offers rows to members that lack entries.
    offering: BTreeSet<GroupId>,
    /// Messages of this node to itself.
    inbox: VecDeque<PeerMessage>,
    /// The time before which this node votes for nobody: before its restart it may have promised
    /// that to a leader.
    votes_from: Duration,
    /// Whether the store comes from a restore and has never served; see `begins_anew`.
    anew: bool,
    /// Whether the node is about to stop and leads only until other nodes do.
    resigning: bool,
    ticks: u64,
}

impl Engine {
    /// Opens every group that the store or the log knows.
    pub fn open(
        identity: Identity,
        store: &Store,
        log: Log,
        mut rng: Random,
        now: Duration,
        bounds: Bounds,
    ) -> Result<Engine> {
        let view = store.view()?;
        let mut meta = cluster::State::unknown(identity.unknown_settings());
        let mut records: BTreeMap<GroupId, Record> = BTreeMap::new();
        for (group, bytes) in view.groups()? {
            records.insert(
                group,
                wire::decode_record(&bytes)
                    .map_err(|e| e.at(format!("record of group {group}")))?,
            );
        }
        let ended: BTreeMap<GroupId, Position> = records
            .iter()
            .filter(|(_, record)| record.has_ended())
            .map(|(id, record)| (*id, record.mark_at))
            .collect();
        for group in ended.keys() {
            log.forget(*group)?;
            records.insert(*group, Record::default());
        }
        for group in log.groups() {
            records.entry(group).or_default();
        }
        if records.contains_key(&GroupId::META) {
            meta = apply::load_meta(&view, &identity)?;
        }
        let restarted = records.values().any(|r| r.applied.index > 0);
        let mut groups = Groups::default();
        for (id, record) in records {
            let machine = if id.is_meta() {
                None
            } else {
                Some(apply::load_machine(&view, identity.topology, id, record.data)?)
            };
            let group_log =
                GroupLog::open(log.clone(), id, record.applied, record.members.clone())?;
            let mut group = Group::open(identity.node, id, group_log, record, machine, &mut rng)?;
            if let Some(at) = ended.get(&id) {
                group.has_ended(*at);
            }
            groups.insert(group);
        }
        let requests = Requests::starting_at(identity.node, rng.next_u64());
        let looks = reads::Inspections::starting_at(rng.next_u64());
        let awake = groups.ids().collect();
        let votes_from = if restarted { now + limits::PROMISE } else { now };
        let mut engine = Engine {
            marks: Marks::new(&meta),
            identity,
            rng,
            now,
            log,
            view: Arc::new(view),
            meta,
            meta_changed: BTreeSet::new(),
            groups,
            requests,
            looks,
            checkpoints: Checkpoints::new(bounds),
            endings: Endings::default(),
            sites: Sites::default(),
            heard: Heard::default(),
            arrived: BTreeMap::new(),
            awake,
            asked: BTreeSet::new(),
            offering: BTreeSet::new(),
            inbox: VecDeque::new(),
            votes_from,
            anew: false,
            resigning: false,
            ticks: 0,
        };
        engine.note_departures();
        engine.campaign_if_sole_voter();
        Ok(engine)
    }

    /// The store has never been served from. If it comes from a restore, nobody was voted for,
    /// nobody was promised anything, and no group has ever had a leader.
    pub fn begins_anew(&mut self) {
        if self.identity.restored_from.is_some() && self.identity.lineage == Lineage::PENDING {
            self.votes_from = self.now;
            self.anew = true;
        }
    }

    pub fn meta(&self) -> &cluster::State {
        &self.meta
    }

    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The term that a group's replica here is in.
    pub fn term(&self, group: GroupId) -> Option<u64> {
        self.groups.get(group).map(|g| g.term())
    }

    /// The replica of a group; see `opened`.
    fn group(&mut self, id: GroupId) -> &mut Group {
        opened(&mut self.groups, id)
    }

    /// Whether this node leads the meta group and has applied everything that was acknowledged
    /// before it led.
    fn leads_meta(&self) -> bool {
        self.groups.get(GroupId::META).is_some_and(|g| g.knows_all())
    }

    fn me(&self) -> NodeId {
        self.identity.node
    }

    fn topology(&self) -> Topology {
        self.identity.topology
    }

    /// One turn of the loop; see the module. An error is the end of the node.
    pub fn round(
        &mut self,
        inputs: impl IntoIterator<Item = Input>,
        host: &mut dyn Host,
    ) -> Result<()> {
        // Others read from the store as well, for a snapshot or for another node. What failed for
        // them ends the node too.
        self.view.whole()?;
        self.now = host.now();
        for input in inputs {
            self.take(input, host)?;
        }
        loop {
            while let Some(message) = self.inbox.pop_front() {
                self.on_peer(self.me(), message, host)?;
            }
            if !self.drive(host)? && self.inbox.is_empty() {
                self.advance_snapshots(host)?;
                if self.inbox.is_empty() && self.awake.is_empty() {
                    break;
                }
            }
        }
        self.answer_reads(host)?;
        host.flush();
        self.hand_over_captures(host);
        self.start_checkpoint_if_due(host)?;
        Ok(())
    }

    fn take(&mut self, input: Input, host: &mut dyn Host) -> Result<()> {
        match input {
            Input::Peer { from, message } => {
                self.note_heard(from);
                self.on_peer(from, *message, host)?;
            }
            Input::Request { token, group, body, deadline } => {
                self.on_request(For::Caller(token), group, body, deadline, host)?
            }
            Input::Inspection(look) => self.on_inspection(look),
            Input::Tick => self.on_tick(host)?,
            Input::Finished(finished) => self.on_finished(finished, host)?,
            Input::RowsArrived(rows) => self.on_rows_arrived(rows, host),
            Input::RowsSent { to, group, announced } => self.on_rows_sent(to, group, announced),
            Input::Heard(node) => self.note_heard(node),
            Input::Gone(node) => self.on_gone(node),
            Input::Adopt(lineage) => self.adopt(lineage, host)?,
            Input::Checkpoint => self.checkpoints.want(),
            Input::Resign => self.resign(),
        }
        Ok(())
    }

    /// Joins a lineage that others have agreed on.
    fn adopt(&mut self, lineage: Lineage, host: &mut dyn Host) -> Result<()> {
        if self.identity.lineage == Lineage::PENDING && lineage != Lineage::PENDING {
            self.identity.lineage = lineage;
            host.adopt(&self.identity)?;
            self.awake.extend(self.groups.ids());
        }
        Ok(())
    }

    /// Whether a group takes part. Data groups do so only in a lineage, and after a restore only
    /// once the cluster knows that this node is in it: a store that is restored a second time from
    /// the same part is then refused, since it lacks what this one has acknowledged.
    fn is_active(&self, group: GroupId) -> bool {
        let lineage = self.identity.lineage;
        let known = || {
            self.identity.restored_from.is_none()
                || self.meta.node(self.me()).is_some_and(|n| n.lineage == lineage)
        };
        group.is_meta() || (lineage != Lineage::PENDING && known())
    }

    fn on_tick(&mut self, host: &mut dyn Host) -> Result<()> {
        self.ticks += 1;
        let active = self.is_active(GroupId(0));
        for group in self.groups.all_mut().filter(|g| active || g.id().is_meta()) {
            if !group.is_installing() {
                if group.tick(&mut self.rng) {
                    host.tell(News::InVain { group: group.id() });
                }
                group.forget_applied(|node| self.heard.lately(node, self.now));
                if group.has_work() {
                    self.awake.insert(group.id());
                }
            }
        }
        for (group, asker) in self
            .groups
            .all_mut()
            .flat_map(|g| g.expire(self.now).into_iter().map(|asker| (g.id(), asker)))
            .collect::<Vec<_>>()
        {
            if let Asker::Theirs(node, id) = asker {
                // The other side has a deadline of its own; this only tells it where to look next.
                self.decline(node, id, group, host);
            }
        }
        for request in self.requests.take_expired(self.now) {
            self.deliver(&request.for_whom, Err(request.too_late()), host)?;
        }
        for number in self.requests.tick(self.now) {
            self.route(number, host)?;
        }
        self.expire_looks();
        self.tick_elections();
        self.tick_members();
        self.tick_endings(host);
        self.tick_marks(host)?;
        self.tick_sites(host)?;
        Ok(())
    }

    fn send(&mut self, to: NodeId, message: PeerMessage, host: &mut dyn Host) {
        if to == self.me() { self.inbox.push_back(message) } else { host.send(to, message) }
    }

    // ---- The heart: propose, write, send, apply. ----

    /// Carries every group that is awake one step further. Returns whether there may be more to do.
    fn drive(&mut self, host: &mut dyn Host) -> Result<bool> {
        let awake = std::mem::take(&mut self.awake);
        if awake.is_empty() {
            return Ok(false);
        }
        let mut batch = Batch::default();
        let mut turns = Vec::new();
        let (mut sync, mut entries) = (false, 0);
        for id in awake {
            self.propose_waiting(id, host);
            self.ask_for_reads(id);
            let Some(group) = self.groups.get_mut(id) else { continue };
            if !group.reads().is_empty() {
                self.asked.insert(id);
            }
            if group.offers_rows() {
                self.offering.insert(id);
            }
            let Some(mut turn) = group.turn() else { continue };
            let early = [Failpoint::EarlySending, Failpoint::EarlySent];
            send_all(group, turn.take_early_messages(), early, host);
            if let Some(announced) = turn.announced() {
                self.install(id, turn, &announced, host)?;
                continue;
            }
            entries += turn.entries();
            sync |= turn.must_sync();
            let group = opened(&mut self.groups, id);
            // What the meta group says may bear on the turns of other groups, which are not done
            // yet.
            let committed = if id.is_meta() { Vec::new() } else { group.take_committed(&mut turn) };
            group.write(&turn, &mut batch, &mut |full| {
                // What is gathered is held in memory more than once.
                host.flush();
                self.log.write(full, false)
            })?;
            turns.push((id, turn));
            self.apply(id, committed, host)?;
        }
        if !batch.is_empty() {
            // Who waits for what is committed, or reads, does not wait for this write.
            self.answer_reads(host)?;
            host.flush();
            let began = host.now();
            failpoint(Failpoint::LogGathered);
            self.log.write(&mut batch, sync && !mutated(Mutation::AckBeforeSync))?;
            failpoint(Failpoint::LogWritten);
            host.tell(News::Logged { entries, synced: sync, took: host.now() - began });
        }
        let more = !turns.is_empty();
        for (id, turn) in turns {
            self.after_write(id, turn, host)?;
        }
        Ok(more)
    }

    fn propose_waiting(&mut self, id: GroupId, host: &mut dyn Host) {
        let (open, lineage) = (self.marks.open(), self.meta.settings().lineage);
        let has_room = !self.checkpoints.is_full();
        let Some(group) = self.groups.get_mut(id) else { return };
        let before = group.raft().last_index();
        if let Some(held) = group.propose_waiting(open, lineage, has_room, self.now) {
            host.tell(News::Held(held));
        }
        for (number, command) in group.shared_behind(before) {
            self.requests.share(number, command);
        }
    }

    /// What had to wait for the disk: messages, then committed entries.
    fn after_write(&mut self, id: GroupId, mut turn: Turn, host: &mut dyn Host) -> Result<()> {
        let group = opened(&mut self.groups, id);
        let late = [Failpoint::LateSending, Failpoint::LateSent];
        send_all(group, turn.take_late_messages(), late, host);
        let steps_down = turn.steps_down();
        let (messages, committed) = group.advance(turn);
        send_all(group, messages, late, host);
        self.follow_leader(id, steps_down, host)?;
        self.apply(id, committed, host)?;
        let Some(group) = self.groups.get_mut(id) else { return Ok(()) };
        group.forget_applied(|node| self.heard.lately(node, self.now));
        if group.has_work() {
            self.awake.insert(id);
        }
        Ok(())
    }

    /// Gives back what waited in a group, to be asked elsewhere.
    fn give_back(&mut self, id: GroupId, askers: Vec<Asker>, host: &mut dyn Host) {
        for asker in askers {
            match asker {
                Asker::Theirs(node, forward) => self.decline(node, forward, id, host),
                Asker::Mine(number) => self.requests.ask_again(number),
                Asker::Nobody => {}
            }
        }
    }

    /// Follows who leads: a leader that is none any more gives its work back, and requests go where
    /// the new one is.
    fn follow_leader(&mut self, id: GroupId, steps_down: bool, host: &mut dyn Host) -> Result<()> {
        let me = self.me();
        let Followed { leader, changed, given_back } = self.group(id).follow(steps_down);
        if leader.is_some() {
            self.requests.note_leader(id, leader);
        }
        self.give_back(id, given_back, host);
        if changed {
            host.tell(News::Leader { group: id, leader });
            let elsewhere = leader.map(|leader| self.requests.not_at(id, leader));
            for number in elsewhere.unwrap_or_default() {
                self.route(number, host)?;
            }
            if id.is_meta() && leader != Some(me) {
                self.marks.lost_leadership();
            }
        }
        Ok(())
    }
}

/// A group that this node has opened. The engine drops none, so an id that came from one of them
/// finds it.
fn opened(groups: &mut Groups, id: GroupId) -> &mut Group {
    groups.get_mut(id).expect("the engine keeps every group that it has opened")
}

fn message(group: GroupId, body: peer_message::Body) -> PeerMessage {
    PeerMessage { group: group.0, body: Some(body) }
}

/// Sends what raft-rs has to say, if it has.
fn send_all(
    group: &Group,
    messages: Vec<Message>,
    [before, after]: [Failpoint; 2],
    host: &mut dyn Host,
) {
    if messages.is_empty() {
        return;
    }
    failpoint(before);
    for sent in messages {
        let (to, tenure) = (sent.to(), group.tenure_on(&sent));
        let raft = peer_message::Body::Raft(sent.into_wire(tenure));
        host.send(to, message(group.id(), raft));
    }
    failpoint(after);
}
