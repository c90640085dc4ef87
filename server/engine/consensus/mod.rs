//! One replica's part in Raft. Nothing else in the engine speaks to raft-rs.
//!
//! `Raft` has the verbs that the engine needs, in the engine's own types: what raft-rs calls a
//! `Ready` is a `Turn` here, with its duties in the order in which they have to be done. What is
//! decided around raft-rs stands elsewhere: `promise` and `elections` (who may be voted for),
//! `tenure` (whose acknowledgement counts), `reads` (when a leader is certain to lead).
//!
//! `storage` is the log as raft-rs wants to see it, `offers` are the rows that a member is sent in
//! place of entries, `entries` and `message` are what is logged and said.
//!
//! - Election time-outs come from the engine's seed; raft-rs's own generator has no say.
//! - A message, a proposal or a candidacy that raft-rs refuses is lost, which all of them may be.

pub mod offers;
pub mod entries;
mod storage;
mod message;

use std::{cell::Ref, collections::BTreeSet};

use bytes::Bytes;
use raft::{
    Config, Progress, ProgressState, RawNode, SnapshotStatus, StateRole, eraftpb::HardState,
};

use self::offers::Offers;
pub use self::{
    entries::{Change, Holds, Logged, Role},
    message::Message,
    offers::{Announced, Stored},
    storage::GroupLog,
};
use crate::{
    base::{
        clock::Random,
        error::{Error, Result},
        ids::{GroupId, NodeId},
        limits,
    },
    cluster::reconfigure::Membership,
    entry::Position,
    log::Batch,
};

/// See the module.
pub struct Raft {
    node: RawNode<GroupLog>,
    /// Term, role and leader for which `election_ticks` was drawn.
    drawn_for: (u64, StateRole, u64),
    /// Silent ticks after which this replica stands for election.
    election_ticks: usize,
    /// Commit indexes up to this entry are broadcast at once. Later ones travel with the next
    /// append or heartbeat, because no client waits for a follower to apply.
    urgent_until: u64,
}

/// What raft-rs wants done at one moment.
pub struct Turn(raft::Ready);

/// What comes of a turn that is on disk.
pub struct Advanced {
    pub messages: Vec<Message>,
    pub committed: Vec<entries::Raw>,
    /// Questions to the quorum that are answered.
    pub answered: Vec<Answered>,
}

/// A question to the quorum that is answered: what had been committed by then, or later.
pub struct Answered {
    pub question: u64,
    pub index: u64,
}

impl Turn {
    /// What may be said before the disk write: a leader's own vote counts only after it.
    pub fn take_early_messages(&mut self) -> Vec<Message> {
        self.0.take_messages().into_iter().map(Message).collect()
    }

    /// What has to wait for the disk.
    pub fn take_late_messages(&mut self) -> Vec<Message> {
        self.0.take_persisted_messages().into_iter().map(Message).collect()
    }

    /// The rows that are to replace what the replica has.
    pub fn announced(&self) -> Option<Announced> {
        let snapshot = self.0.snapshot();
        (!snapshot.is_empty()).then(|| message::announced(snapshot))
    }

    /// How many entries it brings.
    pub fn entries(&self) -> usize {
        self.0.entries().len()
    }

    pub fn must_sync(&self) -> bool {
        self.0.must_sync()
    }

    /// Whether the replica has come to another role than that of the leader.
    pub fn steps_down(&self) -> bool {
        self.0.ss().is_some_and(|state| state.raft_state != StateRole::Leader)
    }
}

impl Raft {
    /// Takes part with the log that is there, applied up to an index.
    pub fn open(
        me: NodeId,
        group: GroupId,
        log: GroupLog,
        applied: u64,
        rng: &mut Random,
    ) -> Result<Raft> {
        let config = Config {
            id: me.0,
            applied,
            election_tick: limits::ELECTION_TICKS_MIN,
            min_election_tick: limits::ELECTION_TICKS_MIN,
            max_election_tick: limits::ELECTION_TICKS_MAX,
            heartbeat_tick: limits::HEARTBEAT_TICKS,
            max_size_per_msg: limits::RAFT_MESSAGE_BYTES_MAX,
            max_inflight_msgs: limits::RAFT_INFLIGHT_MAX,
            max_committed_size_per_ready: limits::APPLY_BYTES_MAX,
            check_quorum: true,
            pre_vote: true,
            ..Config::default()
        };
        let silent = slog::Logger::root(slog::Discard, slog::o!());
        let node = RawNode::new(&config, log, &silent).map_err(|e| {
            Error::corrupt(format!("group {group}: raft refuses its own log: {e}")).with_source(e)
        })?;
        let mut raft = Raft {
            node,
            drawn_for: (u64::MAX, StateRole::Follower, 0),
            election_ticks: limits::ELECTION_TICKS_MAX - 1,
            urgent_until: if group.is_meta() { u64::MAX } else { 0 },
        };
        raft.steady_election(rng);
        Ok(raft)
    }

    // ---- Who leads. ----

    pub fn me(&self) -> NodeId {
        NodeId(self.node.raft.id)
    }

    pub fn term(&self) -> u64 {
        self.node.raft.term
    }

    pub fn leads(&self) -> bool {
        self.node.raft.state == StateRole::Leader
    }

    pub fn follows(&self) -> bool {
        self.node.raft.state == StateRole::Follower
    }

    /// Whether it follows, or asks whether it might stand.
    pub fn may_stand(&self) -> bool {
        matches!(self.node.raft.state, StateRole::Follower | StateRole::PreCandidate)
    }

    /// The leader of its term, as far as it has heard.
    pub fn leader(&self) -> Option<NodeId> {
        Some(NodeId(self.node.raft.leader_id)).filter(|leader| *leader != NodeId(0))
    }

    /// Ticks since it heard the leader, or stood.
    pub fn silent_ticks(&self) -> usize {
        self.node.raft.election_elapsed
    }

    /// Stands for election. A candidate that is refused stands again at its time-out.
    pub fn stand(&mut self) {
        let _ = self.node.campaign();
    }

    /// Forgets a leader, so that it votes at once.
    pub fn forget_leader(&mut self, gone: NodeId) {
        if self.leader() == Some(gone) && self.follows() {
            let term = self.term();
            self.node.raft.become_follower(term, 0);
        }
    }

    /// Has another node elected in this one's place.
    pub fn transfer(&mut self, to: NodeId) {
        self.node.transfer_leader(to.0);
    }

    // ---- What comes in. ----

    /// `admission` has let the message in; raft-rs refuses the rest of what makes no sense.
    pub fn step(&mut self, message: Message, rng: &mut Random) {
        self.node.raft.skip_bcast_commit(self.commit() >= self.urgent_until);
        let _ = self.node.step(message.0);
        self.steady_election(rng);
    }

    /// Whether it had offered its leadership and nobody has taken it in time: it proposes again.
    pub fn tick(&mut self, rng: &mut Random) -> bool {
        let offered = self.node.raft.lead_transferee.is_some();
        self.node.tick();
        self.steady_election(rng);
        offered && self.leads() && self.node.raft.lead_transferee.is_none()
    }

    /// raft-rs draws election time-outs from a generator of its own; ours come from the seed.
    fn steady_election(&mut self, rng: &mut Random) {
        let raft = &mut self.node.raft;
        let now = (raft.term, raft.state, raft.leader_id);
        if now != self.drawn_for {
            self.drawn_for = now;
            let spread = (limits::ELECTION_TICKS_MAX - limits::ELECTION_TICKS_MIN) as u64;
            self.election_ticks = limits::ELECTION_TICKS_MIN + rng.below(spread) as usize;
        }
        raft.set_randomized_election_timeout(self.election_ticks);
    }

    /// Appends an entry to the leader's log, and says where. Followers are told at once that an
    /// `urgent` one is committed. None when the group takes no entry now.
    pub fn propose(&mut self, entry: Vec<u8>, urgent: bool) -> Option<Position> {
        self.node.propose(Vec::new(), entry).ok()?;
        let at = Position { index: self.last_index(), term: self.term() };
        if urgent {
            self.urgent_until = self.urgent_until.max(at.index);
        }
        Some(at)
    }

    /// The entry that was just proposed, as the log holds it.
    pub fn proposed(&self) -> Option<&Bytes> {
        self.node.raft.raft_log.unstable.entries.last().map(|entry| &entry.data)
    }

    /// Dropped while leadership is on its way elsewhere; the next leader thinks of it again.
    pub fn propose_change(&mut self, change: Change) {
        let _ = self.node.propose_conf_change(Vec::new(), change.raw());
    }

    /// Asks a quorum, or the leader, what is committed. The answer names the question.
    pub fn ask_quorum(&mut self, question: u64) {
        self.node.read_index([self.me().0.to_be_bytes(), question.to_be_bytes()].concat());
    }

    // ---- A turn. ----

    pub fn has_turn(&self) -> bool {
        self.node.has_ready()
    }

    pub fn turn(&mut self) -> Turn {
        Turn(self.node.ready())
    }

    /// Takes what a turn has committed, unless some of it changes members. It was on disk here
    /// before the turn, so it waits for nothing that the turn has for the disk.
    pub fn take_committed(&self, Turn(ready): &mut Turn) -> Vec<entries::Raw> {
        if ready.committed_entries().iter().any(entries::changes_members) {
            return Vec::new();
        }
        let committed = ready.take_committed_entries();
        let (last, written) = (committed.last().map_or(0, |entry| entry.index), self.written());
        debug_assert!(last <= written.index, "entry {last} is committed and not on disk");
        committed
    }

    /// Puts what a turn has for the disk into the batch. `drain` writes a batch that is full, which
    /// needs no sync: that of what follows covers it too, and nobody is told before.
    pub fn write(
        &mut self,
        turn: &Turn,
        batch: &mut Batch,
        drain: &mut dyn FnMut(&mut Batch) -> Result<()>,
    ) -> Result<()> {
        let committed = self.commit();
        self.put(turn, batch, drain)?;
        if turn.entries() > 0 {
            // It costs nothing here, and a restart then knows of membership changes up to the
            // entries that it has acknowledged.
            self.node.mut_store().persist_commit(committed, batch)?;
        }
        Ok(())
    }

    fn put(
        &mut self,
        Turn(ready): &Turn,
        batch: &mut Batch,
        drain: &mut dyn FnMut(&mut Batch) -> Result<()>,
    ) -> Result<()> {
        let log = self.node.mut_store();
        for entries in storage::in_bytes(ready.entries(), limits::LOG_WRITE_BYTES) {
            if batch.bytes() >= limits::LOG_WRITE_BYTES {
                drain(batch)?;
            }
            log.append(entries, batch)?;
        }
        ready.hs().map_or(Ok(()), |state: &HardState| log.set_hard_state(state, batch))
    }

    /// A turn is on disk, and rows are applied up to an index, perhaps behind a Raft snapshot that
    /// has just been put in place.
    pub fn advance(&mut self, Turn(mut ready): Turn, applied: u64) -> Advanced {
        let mut committed = ready.take_committed_entries();
        let states = ready.take_read_states();
        let mut light = self.node.advance_append(ready);
        if let Some(commit) = light.commit_index() {
            self.node.mut_store().set_commit(commit);
        }
        committed.extend(light.take_committed_entries());
        self.node.advance_apply_to(applied.max(self.node.raft.raft_log.applied));
        let number = |context: &[u8]| {
            let bytes = context.get(8..16).and_then(|bytes| bytes.try_into().ok());
            bytes.map_or(0, u64::from_be_bytes)
        };
        Advanced {
            messages: light.take_messages().into_iter().map(Message).collect(),
            committed,
            answered: states
                .into_iter()
                .map(|s| Answered { question: number(&s.request_ctx), index: s.index })
                .collect(),
        }
    }

    pub fn applied(&mut self, index: u64) {
        self.node.advance_apply_to(index);
    }

    // ---- Members. ----

    /// Whether a change of members is under way.
    pub fn is_changing(&self) -> bool {
        self.node.raft.has_pending_conf()
    }

    /// Makes it durable that everything up to an index is committed.
    pub fn persist_commit(&mut self, index: u64, batch: &mut Batch) -> Result<()> {
        self.node.mut_store().persist_commit(index, batch)
    }

    /// Changes a member as committed, and says who the members are from now on. `Corrupt` where no
    /// version could make the change.
    pub fn change(&mut self, change: Change) -> Result<Membership> {
        let state = self.node.apply_conf_change(&change.raw()).map_err(|e| {
            Error::corrupt(format!("a membership change is refused: {e}")).with_source(e)
        })?;
        let members = storage::membership(&state);
        let log = self.node.mut_store();
        if !members.has(change.node) {
            // Rows of this stay are none of the next one's.
            log.offers_mut().take_back(change.node);
        }
        log.set_members(members.clone());
        Ok(members)
    }

    /// Voters and learners that have answered lately, this node included.
    pub fn alive(&self) -> BTreeSet<NodeId> {
        let recent =
            self.node.raft.prs().iter().filter(|(_, p)| p.recent_active).map(|(id, _)| NodeId(*id));
        recent.chain([self.me()]).collect()
    }

    /// Of a node that is no member yet this leader has heard nothing; a learner that never answers
    /// costs the group nothing.
    pub fn may_be_alive(&self, node: NodeId) -> bool {
        node == self.me()
            || self.node.raft.prs().get(node.0).is_none_or(|member| member.recent_active)
    }

    /// How far a member's log is known to agree with the leader's.
    pub fn matched(&self, node: NodeId) -> u64 {
        self.node.raft.prs().get(node.0).map_or(0, |member| member.matched)
    }

    /// How far a member knows that the group has agreed, as it has last said.
    pub fn known_committed(&self, node: NodeId) -> u64 {
        self.node.raft.prs().get(node.0).map_or(0, |member| member.committed_index)
    }

    /// How far every member that is there has the leader's log, as the leader knows; followers know
    /// of nobody who lacks anything. A member that is offered rows asks for no entries before them.
    pub fn lacked(&self, is_there: impl Fn(NodeId) -> bool) -> u64 {
        let offers = self.offers();
        let lacks = |node| node != self.me() && is_there(node) && !offers.has(node);
        let members = self.node.raft.prs().iter();
        let there = members.filter(|(node, _)| self.leads() && lacks(NodeId(**node)));
        there.map(|(_, member)| member.matched).min().unwrap_or(u64::MAX)
    }

    // ---- The log. ----

    pub fn commit(&self) -> u64 {
        self.node.raft.raft_log.committed
    }

    /// The last entry, on disk or about to be written.
    pub fn last_index(&self) -> u64 {
        self.node.raft.raft_log.last_index()
    }

    /// The last entry that is on disk or in the batch.
    pub fn written(&self) -> Position {
        self.node.store().last()
    }

    /// The entry that the log begins behind.
    pub fn begin(&self) -> Position {
        self.node.store().begin()
    }

    /// The last entry that so many bytes lie behind, as far as it is known; the beginning
    /// otherwise.
    pub fn behind(&self, bytes: u64) -> u64 {
        self.node.store().behind(bytes)
    }

    /// Drops entries up to and including `to`, which the stored rows cover.
    pub fn compact(&mut self, to: u64, batch: &mut Batch) -> Result<()> {
        self.node.mut_store().compact(to, batch)
    }

    /// Drops entries from memory that are applied, once they are many bytes: only a member that is
    /// away can still ask for them, and they are on disk.
    pub fn forget_applied(&mut self, applied: u64, is_there: impl Fn(NodeId) -> bool) {
        if self.node.store().recent_bytes() > limits::LOG_CACHE_APPLIED_BYTES {
            let lacked = self.lacked(is_there);
            self.node.mut_store().forget(applied, lacked);
        }
    }

    /// Lets the log begin behind rows that are in place, as a turn has announced them.
    pub fn begin_behind(
        &mut self,
        turn: &Turn,
        at: Position,
        members: Membership,
        batch: &mut Batch,
    ) -> Result<()> {
        self.node.mut_store().restart(at, members, batch)?;
        self.put(turn, batch, &mut |_| Ok(()))
    }

    /// Lets the log begin again at nothing, in a leader's term. The replica is opened anew then.
    pub fn end(&mut self, term: u64, batch: &mut Batch) -> Result<()> {
        self.node.mut_store().end(term, batch)
    }

    // ---- Rows in place of entries. ----

    /// The members that are offered rows.
    pub fn offers(&self) -> Ref<'_, Offers> {
        self.node.store().offers()
    }

    pub fn offers_mut(&mut self) -> &mut Offers {
        self.node.mut_store().offers_mut()
    }

    /// Has the members told now that their rows are there.
    pub fn announce(&mut self) {
        self.node.ping();
    }

    /// A member's process has ended, and with it the rows that it had not put in place.
    pub fn take_offer_back(&mut self, member: NodeId) {
        if self.offers_mut().take_back(member) {
            self.node.report_snapshot(member.0, SnapshotStatus::Failure);
        }
    }

    /// Forgets offers that have done their work, and those that have not within their time.
    pub fn review_offers(&mut self, now: std::time::Duration) {
        let matched = |progress: Option<&Progress>| progress.map_or(0, |member| member.matched);
        let failed = if self.offers().is_empty() {
            Vec::new()
        } else {
            let progress = self.node.raft.prs();
            let mut offers = self.node.store().offers_to_review();
            offers.review(now, |member| matched(progress.get(member.0)))
        };
        for member in failed {
            self.node.report_snapshot(member.0, SnapshotStatus::Failure);
        }
        let pending =
            |p: &Progress| (p.state == ProgressState::Snapshot).then_some(p.pending_snapshot);
        let passed = |p: &Progress| offers::has_passed(p.matched, pending(p));
        let waiting: Vec<u64> =
            self.node.raft.prs().iter().filter(|(_, p)| passed(p)).map(|(id, _)| *id).collect();
        for member in waiting {
            self.node.report_snapshot(member, SnapshotStatus::Finish);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{base::disk::Machine, entry::LOG_BEGIN, log::Log};

    #[test]
    fn what_a_slow_member_lacks_is_known_after_a_check_of_the_quorum() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open(dir.path(), Arc::new(Machine)).unwrap();
        let (id, [me, slow, away]) = (GroupId(0), [1, 2, 3].map(NodeId));
        let members = Membership { voters: [me, slow, away].into(), learners: [].into() };
        let log = GroupLog::open(log, id, LOG_BEGIN, members).unwrap();
        let mut raft = Raft::open(me, id, log, LOG_BEGIN.index, &mut Random::seeded(1)).unwrap();
        raft.node.raft.become_candidate();
        raft.node.raft.become_leader();
        raft.node.raft.mut_prs().get_mut(slow.0).unwrap().matched = 7;
        raft.node.raft.mut_prs().quorum_recently_active(me.0);
        let there = |node| node == slow;
        assert_eq!(raft.lacked(there), 7);
        assert_eq!(raft.lacked(|_| false), u64::MAX, "for whoever is away nothing is kept");
        raft.offers_mut().send(slow, LOG_BEGIN);
        assert_eq!(raft.lacked(there), u64::MAX, "it gets rows");
    }
}
