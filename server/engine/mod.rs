//! The engine of a node: all its Raft groups, their logs and rows, driven by one synchronous loop. Inputs in, messages and answers out.
//!
//! It uses no thread, socket or clock of its own: a `Host` carries out what it says, and hands it the time. In production one OS thread calls `round` with
//! what has come in since the last one; a simulator calls the same with what it likes.
//!
//! # A round
//!
//! 1. Take the inputs: messages of peers, requests, ticks, results of jobs.
//! 2. Propose what waits, one entry a group for all of it: the busier, the bigger the batch.
//! 3. Gather what raft-rs wants to send and to write. A leader's messages go out before the disk; that is safe, because its own vote counts only after.
//! 4. Write all groups' entries with one fsync.
//! 5. Send what had to wait for the disk, apply what is committed, answer.
//! 6. Answer reads whose leader has a lease, or whose round of heartbeats has come back.
//!
//! # Invariants
//!
//! - Nothing is answered OK before the entry is on disk on a majority and applied here.
//! - A group's rows and its record change together: a layer of the overlay is sealed with the record of its log index.
//! - If the log or the store fails, the round returns the error and the node stops; it does not guess.
//! - While nodes fresh from a restore have no lineage, only the meta group is alive.
//!
//! Files, in reading order: `overlay` and `storage` (a group's rows and log), `group`, `requests` and `forward` (their way to a leader and back), then the engine's duties: `apply`, `reads`, `elections`, `members`
//! (who holds a group), `marks` (the cut), `checkpoint`.

pub mod overlay;
pub mod storage;
pub mod group;
pub mod requests;
mod forward;
mod apply;
mod reads;
mod elections;
mod members;
mod marks;
mod checkpoint;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use raft::{StateRole, eraftpb::MessageType};

pub use self::checkpoint::{Bounds, Finished, Job, Stored};
pub use self::marks::{Captured, SnapshotNews};
pub use self::members::{Announced, ArrivedRows, RowsToSend};
pub use self::reads::{Look, Sight};
pub use self::requests::{Body, Token};
use self::{
    checkpoint::Checkpoints,
    group::{Asker, Group, Installing},
    marks::Marks,
    requests::{For, Requests},
    storage::GroupLog,
};
use crate::{
    clock::Chance,
    cluster::{self, Changed},
    data::{self, Reply},
    entry::{Identity, Record},
    error::Result,
    failpoint::{Failpoint, failpoint},
    ids::{GroupId, Lineage, NodeId, SiteId, Topology},
    limits,
    log::{Batch, Log},
    planted::{Mistake, planted},
    proto::internal::v1::{self as internal, PeerMessage, peer_message},
    store::{Store, View},
    wire,
};

/// What the engine makes happen, and where it has the time from.
pub trait Host {
    /// Monotonic. Asked at the beginning of a round, and again before a lease is trusted: the disk may have taken its time in between.
    fn now(&self) -> Duration;
    /// Sends a message, at the next flush at the latest; it may be lost.
    fn send(&mut self, to: NodeId, message: PeerMessage);
    /// What was sent goes out now: the engine is about to wait for the disk, or for what comes next.
    fn flush(&mut self);
    fn answer(&mut self, token: Token, answer: Result<Reply>);
    /// Starts work that ends in an `Input::Finished`, one after the other.
    fn start(&mut self, job: Job) -> Result<()>;
    /// Sends a group's rows to a node; ends in an `Input::RowsSent`.
    fn send_rows(&mut self, rows: RowsToSend);
    /// Rows that arrived will not be installed: their file may go.
    fn discard(&mut self, rows: ArrivedRows);
    fn tell(&mut self, news: News);
    /// Makes the identity durable before it returns: this node belongs to the lineage from now on.
    fn adopt(&mut self, identity: &Identity) -> Result<()>;
}

/// What others on the node want to know.
#[derive(Debug)]
pub enum News {
    /// Where nodes are, as the cluster knows it.
    Nodes(Vec<(NodeId, String)>),
    Snapshot(Box<SnapshotNews>),
    /// How long writes of a group waited for a cut.
    Held(Duration),
    /// Somebody else leads a group now, or nobody.
    Leader {
        group: GroupId,
        leader: Option<NodeId>,
    },
    /// Entries were written, and synced where they had to be.
    Logged {
        entries: usize,
        synced: bool,
        took: Duration,
    },
}

/// What the engine takes.
pub enum Input {
    Peer {
        from: NodeId,
        message: Box<PeerMessage>,
    },
    Request {
        token: Token,
        group: GroupId,
        body: Body,
        deadline: Duration,
    },
    Look(Look),
    /// Once every `limits::TICK`; never two at once to catch up, since a lease counts on the time in between.
    Tick,
    Finished(Finished),
    /// Rows for a Raft snapshot have arrived and are whole.
    RowsArrived(ArrivedRows),
    RowsSent {
        to: NodeId,
        group: GroupId,
        announced: Option<Announced>,
    },
    /// A node that has nothing to say lives.
    Heard(NodeId),
    /// The last stream of a node has ended: its process may be gone.
    Gone(NodeId),
    /// An established cluster lets this node, fresh from a restore, into its lineage.
    Adopt(Lineage),
    /// Write everything to the store now.
    Checkpoint,
    /// Hand leadership to others: the node is about to stop.
    Resign,
}

/// See the module.
pub struct Engine {
    identity: Identity,
    chance: Chance,
    now: Duration,
    log: Log,
    view: Arc<View>,
    meta: cluster::State,
    meta_changed: BTreeSet<Changed>,
    groups: BTreeMap<GroupId, Box<Group>>,
    /// Who leads a group, as another node said when it was asked.
    hints: BTreeMap<GroupId, NodeId>,
    requests: Requests,
    looks: reads::Looks,
    marks: Marks,
    checkpoints: Checkpoints,
    /// Sites that the engine is finishing.
    site_work: BTreeSet<SiteId>,
    /// Those of them that go on at the next tick.
    site_again: Vec<SiteId>,
    /// When each node was last heard.
    heard: BTreeMap<NodeId, Duration>,
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
    /// Until then votes are withheld: before the restart this node may have promised a leader not to vote.
    votes_from: Duration,
    /// See `begins_anew`.
    anew: bool,
    /// The node is about to stop and leads only until somebody else does.
    resigning: bool,
    ticks: u64,
}

impl Engine {
    /// Opens every group that the store or the log knows.
    pub fn open(identity: Identity, store: &Store, log: Log, mut chance: Chance, now: Duration, bounds: Bounds) -> Result<Engine> {
        let view = store.view()?;
        let mut meta = cluster::State::unknown(identity.unknown_settings());
        let mut records: BTreeMap<GroupId, Record> = BTreeMap::new();
        for (group, bytes) in view.groups()? {
            records.insert(group, wire::decode_record(&bytes).map_err(|e| e.at(format!("record of group {group}")))?);
        }
        for group in log.groups() {
            records.entry(group).or_default();
        }
        if records.contains_key(&GroupId::META) {
            meta = apply::load_meta(&view, &identity)?;
        }
        let restarted = records.values().any(|r| r.applied.index > 0);
        let mut groups = BTreeMap::new();
        for (id, record) in records {
            let machine = if id.is_meta() { None } else { Some(apply::load_machine(&view, identity.topology, id, record.data)?) };
            let group_log = GroupLog::open(log.clone(), id, record.applied, record.members.clone())?;
            groups.insert(id, Box::new(Group::open(identity.node, id, group_log, record, machine, &mut chance)?));
        }
        let requests = Requests::starting_at(chance.next_u64());
        let looks = reads::Looks::starting_at(chance.next_u64());
        let awake = groups.keys().copied().collect();
        let votes_from = if restarted { now + limits::PROMISE } else { now };
        let mut engine = Engine {
            marks: Marks::new(&meta),
            identity,
            chance,
            now,
            log,
            view: Arc::new(view),
            meta,
            meta_changed: BTreeSet::new(),
            groups,
            hints: BTreeMap::new(),
            requests,
            looks,
            checkpoints: Checkpoints::new(bounds),
            site_work: BTreeSet::new(),
            site_again: Vec::new(),
            heard: BTreeMap::new(),
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
        engine.stand_where_alone();
        Ok(engine)
    }

    /// The store has never been served from. If it comes from a restore, nobody was voted for, nobody was promised anything, and no group has ever had a leader.
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

    fn me(&self) -> NodeId {
        self.identity.node
    }

    fn topology(&self) -> Topology {
        self.identity.topology
    }

    /// A group whose only voter is this node need not wait for an election.
    fn stand_where_alone(&mut self) {
        let me = self.me();
        for group in self.groups.values_mut() {
            let voters = &group.record.members.voters;
            if voters.len() == 1 && voters.contains(&me) {
                // A candidate that is refused stands again at its time-out.
                let _ = group.raw.campaign();
            }
        }
    }

    /// One turn of the loop; see the module. An error is the end of the node.
    pub fn round(&mut self, inputs: impl IntoIterator<Item = Input>, host: &mut dyn Host) -> Result<()> {
        // Others read from the store as well, for a snapshot or for another node. What failed for them ends the node too.
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
        self.start_checkpoint_if_due(host)?;
        Ok(())
    }

    fn take(&mut self, input: Input, host: &mut dyn Host) -> Result<()> {
        match input {
            Input::Peer { from, message } => {
                self.heard.insert(from, self.now);
                self.on_peer(from, *message, host)?;
            }
            Input::Request { token, group, body, deadline } => self.on_request(For::Caller(token), group, body, deadline, host)?,
            Input::Look(look) => self.on_look(look),
            Input::Tick => self.on_tick(host)?,
            Input::Finished(finished) => self.on_finished(finished, host)?,
            Input::RowsArrived(rows) => self.on_rows_arrived(rows, host),
            Input::RowsSent { to, group, announced } => self.on_rows_sent(to, group, announced),
            Input::Heard(node) => drop(self.heard.insert(node, self.now)),
            Input::Gone(node) => self.on_gone(node),
            Input::Adopt(lineage) => self.adopt(lineage, host)?,
            Input::Checkpoint => self.checkpoints.wanted = true,
            Input::Resign => self.resign(),
        }
        Ok(())
    }

    /// Joins a lineage that others have agreed on.
    fn adopt(&mut self, lineage: Lineage, host: &mut dyn Host) -> Result<()> {
        if self.identity.lineage == Lineage::PENDING && lineage != Lineage::PENDING {
            self.identity.lineage = lineage;
            host.adopt(&self.identity)?;
            self.awake.extend(self.groups.keys().copied());
        }
        Ok(())
    }

    /// Whether a group takes part. Data groups do so only in a lineage, and after a restore only once the cluster knows that this node is in it: a store
    /// that is restored a second time from the same part is then refused, since it lacks what this one has acknowledged.
    fn is_active(&self, group: GroupId) -> bool {
        let lineage = self.identity.lineage;
        let known = || self.identity.restored_from.is_none() || self.meta.node(self.me()).is_some_and(|n| n.lineage == lineage);
        group.is_meta() || (lineage != Lineage::PENDING && known())
    }

    fn on_tick(&mut self, host: &mut dyn Host) -> Result<()> {
        self.ticks += 1;
        let active = self.is_active(GroupId(0));
        for group in self.groups.values_mut().filter(|g| active || g.id.is_meta()) {
            if group.installing.is_none() {
                group.tick(&mut self.chance);
                if group.stirs() {
                    self.awake.insert(group.id);
                }
            }
        }
        for asker in self.groups.values_mut().flat_map(|g| g.expire(self.now)).collect::<Vec<_>>() {
            if let Asker::Theirs(node, id) = asker {
                // The other side has a deadline of its own; this only tells it where to look next.
                self.decline(node, id, GroupId::META, host);
            }
        }
        for number in self.requests.expired(self.now) {
            if let Some(request) = self.requests.open.remove(&number) {
                self.deliver(&request.for_whom, Err(request.too_late()), host)?;
            }
        }
        self.requests.open.values_mut().for_each(|request| request.hops = 0);
        for number in self.requests.stale(self.now, self.me()) {
            self.route(number, host)?;
        }
        self.expire_looks();
        self.tend_elections();
        self.tend_members();
        self.tend_marks(host)?;
        self.tend_sites(host)?;
        Ok(())
    }

    // ---- Peers. ----

    fn on_peer(&mut self, from: NodeId, message: PeerMessage, host: &mut dyn Host) -> Result<()> {
        let id = GroupId(message.group);
        if !self.is_active(id) || !self.topology().has(id) {
            return Ok(());
        }
        match message.body {
            Some(peer_message::Body::Raft(raft)) => self.on_raft(from, id, raft)?,
            Some(peer_message::Body::Forward(forward)) => self.on_forward(from, id, forward, host)?,
            Some(peer_message::Body::ForwardReply(reply)) => self.on_forward_reply(from, id, reply, host)?,
            Some(peer_message::Body::MarkRequest(asked)) => self.on_mark_request(from, asked, host)?,
            Some(peer_message::Body::Marked(marked)) => self.on_marked(from, marked, host)?,
            Some(peer_message::Body::Release(release)) => self.on_release(release),
            None => {}
        }
        Ok(())
    }

    fn on_raft(&mut self, from: NodeId, id: GroupId, raft: internal::RaftMessage) -> Result<()> {
        let Some(message) = wire::parse_raft(raft) else { return Ok(()) };
        if message.from != from.0 || message.to != self.me().0 {
            return Ok(());
        }
        let brings_entries = message.msg_type == MessageType::MsgAppend && !message.entries.is_empty();
        if brings_entries && self.checkpoints.is_full() {
            // The store is behind; Raft sends them again.
            return Ok(());
        }
        if !self.groups.contains_key(&id) {
            self.make_room_for(id)?;
        }
        let group = self.groups.get_mut(&id).expect("room was just made for it");
        if group.installing.is_some() {
            return Ok(());
        }
        if message.msg_type == MessageType::MsgHeartbeat && message.commit > group.raw.raft.raft_log.last_index() {
            // No leader says so of a log that it knows; raft-rs would end the process.
            return Ok(());
        }
        if !group.may_take(&message, self.now, self.votes_from) {
            return Ok(());
        }
        if message.msg_type == MessageType::MsgSnapshot {
            // Its rows came first; without them it cannot be followed, and the leader sends both again.
            let name = &message.get_snapshot().data;
            if !self.arrived.get(&id).is_some_and(|arrived| arrived.iter().any(|rows| rows.name == name)) {
                return Ok(());
            }
        }
        group.step(message, &mut self.chance);
        self.awake.insert(id);
        Ok(())
    }

    /// A replica that knows nothing yet: a leader has found this node among those that should hold the group.
    fn make_room_for(&mut self, id: GroupId) -> Result<()> {
        let record = Record::default();
        let machine = if id.is_meta() { None } else { Some(data::Machine::open(self.topology(), id, record.data, [])?) };
        let log = GroupLog::open(self.log.clone(), id, record.applied, record.members.clone())?;
        let group = Group::open(self.me(), id, log, record, machine, &mut self.chance)?;
        self.groups.insert(id, Box::new(group));
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
        let mut readies = Vec::new();
        let (mut sync, mut entries) = (false, 0);
        for id in awake {
            self.propose_waiting(id, host)?;
            self.ask_for_reads(id);
            let Some(group) = self.groups.get_mut(&id) else { continue };
            if group.is_asked() {
                self.asked.insert(id);
            }
            if group.offers() {
                self.offering.insert(id);
            }
            if group.installing.is_some() || !group.raw.has_ready() {
                continue;
            }
            let mut ready = group.raw.ready();
            send_all(id, ready.take_messages(), [Failpoint::EarlySending, Failpoint::EarlySent], host);
            if !ready.snapshot().is_empty() {
                self.install(id, ready, host)?;
                continue;
            }
            entries += ready.entries().len();
            sync |= ready.must_sync();
            let committed = group.commit();
            let log = group.raw.mut_store();
            log.append(ready.entries(), &mut batch)?;
            if let Some(state) = ready.hs() {
                log.set_hard_state(state, &mut batch)?;
            }
            if !ready.entries().is_empty() {
                // It costs nothing here, and a restart then knows of membership changes up to the entries that it has acknowledged.
                log.persist_commit(committed, &mut batch)?;
            }
            readies.push((id, ready));
        }
        if !batch.is_empty() {
            host.flush();
            let began = host.now();
            failpoint(Failpoint::LogGathered);
            self.log.write(&mut batch, sync && !planted(Mistake::AckBeforeSync))?;
            failpoint(Failpoint::LogWritten);
            host.tell(News::Logged { entries, synced: sync, took: host.now() - began });
        }
        let more = !readies.is_empty();
        for (id, ready) in readies {
            self.after_write(id, ready, host)?;
        }
        Ok(more)
    }

    fn propose_waiting(&mut self, id: GroupId, host: &mut dyn Host) -> Result<()> {
        let open = self.marks.open();
        let full = self.checkpoints.is_full();
        let current = self.meta.settings().lineage;
        let Some(group) = self.groups.get_mut(&id).filter(|g| g.knows_all()) else { return Ok(()) };
        let same_lineage = group.machine.as_ref().is_none_or(|m| m.state().lineage == current) && current != Lineage::PENDING;
        let held = group.propose_waiting(open, same_lineage && !full)?;
        match (held && group.fence.holds_writes(open), group.held_since) {
            (true, None) => group.held_since = Some(self.now),
            (false, Some(since)) => {
                group.held_since = None;
                host.tell(News::Held(self.now.saturating_sub(since)));
            }
            _ => {}
        }
        Ok(())
    }

    /// What had to wait for the disk: messages, then committed entries.
    fn after_write(&mut self, id: GroupId, mut ready: raft::Ready, host: &mut dyn Host) -> Result<()> {
        let group = self.groups.get_mut(&id).expect("groups are not dropped within a round");
        send_all(id, ready.take_persisted_messages(), [Failpoint::LateSending, Failpoint::LateSent], host);
        let (role, mut committed, states) = (ready.ss().map(|s| s.raft_state), ready.take_committed_entries(), ready.take_read_states());
        let mut light = group.raw.advance_append(ready);
        send_all(id, light.take_messages(), [Failpoint::LateSending, Failpoint::LateSent], host);
        if let Some(commit) = light.commit_index() {
            group.raw.mut_store().set_commit(commit);
        }
        committed.extend(light.take_committed_entries());
        // Behind a Raft snapshot that has just been put in place.
        group.raw.advance_apply_to(group.record.applied.index.max(group.raw.raft.raft_log.applied));
        self.note_read_states(id, states);
        self.note_leader(id, role, host)?;
        self.apply(id, committed, host)?;
        if self.groups.get(&id).is_some_and(|g| g.stirs()) {
            self.awake.insert(id);
        }
        Ok(())
    }

    /// Follows who leads: a leader that is none any more gives its work back, and requests go where the new one is.
    fn note_leader(&mut self, id: GroupId, role: Option<StateRole>, host: &mut dyn Host) -> Result<()> {
        let me = self.me();
        let group = self.groups.get_mut(&id).expect("groups are not dropped within a round");
        let leader = Some(NodeId(group.raw.raft.leader_id)).filter(|l| *l != NodeId(0));
        let changed = leader != group.leader;
        group.leader = leader;
        if let Some(leader) = leader {
            self.hints.insert(id, leader);
        }
        let stepped_down = role.is_some_and(|r| r != StateRole::Leader);
        if stepped_down || (changed && leader != Some(me)) {
            group.fence.leadership_lost();
            group.lease_until = Duration::ZERO;
            group.snapshot_sent.clear();
            group.raw.mut_store().offers.get_mut().clear();
            let looks: Vec<u64> = group.rounds.iter_mut().flat_map(|r| std::mem::take(&mut r.looks)).collect();
            for asker in group.give_back() {
                match asker {
                    Asker::Theirs(node, forward) => self.decline(node, forward, id, host),
                    Asker::Mine(number) => {
                        if let Some(request) = self.requests.open.get_mut(&number) {
                            request.sent = None;
                        }
                    }
                    Asker::Nobody => {}
                }
            }
            self.groups.get_mut(&id).expect("groups are not dropped within a round").looks.extend(looks);
        }
        if changed {
            host.tell(News::Leader { group: id, leader });
            if leader.is_some() {
                let waiting = self.requests.open.iter().filter(|(_, r)| r.group == id && r.sent.is_none_or(|(to, _)| Some(to) != leader));
                for number in waiting.map(|(n, _)| *n).collect::<Vec<_>>() {
                    self.route(number, host)?;
                }
            }
            if id.is_meta() && leader != Some(me) {
                self.marks.lost_leadership();
            }
        }
        Ok(())
    }
}

fn message(group: GroupId, body: peer_message::Body) -> PeerMessage {
    PeerMessage { group: group.0, body: Some(body) }
}

/// Sends what raft-rs has to say, if it has.
fn send_all(group: GroupId, messages: Vec<raft::eraftpb::Message>, [before, after]: [Failpoint; 2], host: &mut dyn Host) {
    if messages.is_empty() {
        return;
    }
    failpoint(before);
    for sent in messages {
        host.send(NodeId(sent.to), raft_message(group, sent));
    }
    failpoint(after);
}

fn raft_message(group: GroupId, raft: raft::eraftpb::Message) -> PeerMessage {
    message(group, peer_message::Body::Raft(wire::raft(raft)))
}
