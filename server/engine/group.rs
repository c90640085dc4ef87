//! One group's replica on this node: its Raft state, its rows in memory, what waits for it, and
//! what it has promised.
//!
//! It takes requests into a queue, proposes them in batches, and remembers who asked until the
//! entry is applied. What an entry does is in `apply`; who may read when is in `reads`; the round
//! that drives all groups is in the parent.
//!
//! - A command is proposed only by a leader that has applied an entry of its own term, only under
//!   the group's present lineage, and never behind a mark that is not resolved as far as this node
//!   knows.
//! - Every request gets an answer or is given back to its asker (`Asker`), also when leadership is
//!   lost.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use raft::{Config, RawNode, Ready, StateRole, eraftpb::Message};

use super::{overlay::Overlay, promise::Promise, storage::GroupLog, tenure::Tenures};
use crate::{
    base::{
        clock::Random,
        error::{Error, Result},
        ids::{GroupId, NodeId, PartitionId},
        limits,
    },
    cluster::reconfigure::{Membership, Wait},
    cut::{Fence, Open},
    data,
    entry::{Command, Entry, Position, Record},
    faults::mutation::{Mutation, mutated},
    wire,
};

/// The one that waits for the answer to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    /// A request of this node, by its number.
    Mine(u64),
    /// A request that another node forwarded, by its number there.
    Theirs(NodeId, u64),
    /// Nobody: the engine itself, which looks at the state instead.
    Nobody,
}

/// A command that is not proposed yet.
#[derive(Debug)]
pub struct Waiting {
    pub asker: Asker,
    pub command: Command,
    pub deadline: Duration,
}

/// An entry that is proposed and not applied.
#[derive(Debug)]
pub struct Proposed {
    pub at: Position,
    pub commands: Vec<Waiting>,
}

/// A read that waits until it may be answered.
#[derive(Debug)]
pub struct Read {
    pub asker: Asker,
    pub query: data::Query,
    pub deadline: Duration,
}

/// Reads that one exchange with a quorum allows.
#[derive(Debug)]
pub struct ReadRound {
    pub number: u64,
    pub sent: Duration,
    /// The commit index that the reads have to see; none until a quorum has answered.
    pub index: Option<u64>,
    pub reads: Vec<Read>,
    /// Inspections of the meta state that wait with the reads, by number.
    pub looks: Vec<u64>,
}

/// What is being put in place of what the replica has. Nothing else happens in the group meanwhile.
pub enum Installing {
    /// The rows of a Raft snapshot.
    Rows { ready: Box<Ready>, record: Record },
    /// Nothing: the replica ends.
    Nothing,
}

/// See the module.
pub struct Group {
    pub id: GroupId,
    /// raft-rs's state of this replica, and its log.
    pub raw: RawNode<GroupLog>,
    /// How far this replica has applied its log, and what the group is by then.
    pub record: Record,
    /// The record that the store has.
    pub stored: Record,
    /// Applied rows that the store does not have yet.
    pub overlay: Overlay,
    /// The state machine of a data group. The meta group has none: the engine holds its state.
    pub machine: Option<data::Machine>,
    /// What this replica knows of its marks.
    pub fence: Fence,
    /// Data partitions changed since the last layer was sealed, each with the index of the last
    /// entry that changed it.
    pub changed: std::collections::BTreeMap<PartitionId, u64>,
    /// Commands that wait to be proposed.
    pub queue: VecDeque<Waiting>,
    /// Entries that this leader has proposed and not applied.
    pub proposed: VecDeque<Proposed>,
    /// Reads that wait for the lease or for a round of heartbeats.
    pub reads: Vec<Read>,
    /// Inspections that wait as reads do, by number.
    pub looks: Vec<u64>,
    /// Rounds of heartbeats under way for reads, oldest first.
    pub rounds: VecDeque<ReadRound>,
    /// The time before which this leader answers reads alone.
    pub lease_until: Duration,
    /// The term in which leadership was last offered to another node: no lease holds in it.
    pub no_lease_in: u64,
    /// What it owes the leader that it has heard.
    pub promise: Promise,
    /// The last entry that was in the log when the process started.
    pub replay_until: u64,
    /// What is being put in place of the rows.
    pub installing: Option<Installing>,
    /// Whether this node was to give the group up and has not become a member again since.
    pub left: bool,
    /// Whether it has ended, and got no rows since.
    pub ended: bool,
    /// The last change of members that is applied here, or a later entry.
    pub changed_at: u64,
    /// Which of their stays in the group its members are in.
    pub tenures: Tenures,
    /// The last leader that this replica has heard of.
    pub leader: Option<NodeId>,
    /// When this leader last offered its leadership to another node.
    pub handed_over: Duration,
    /// What this leader waits for to come to the wanted members, and since when.
    pub waits: Option<(Wait, Duration)>,
    /// Since when the fence of a snapshot has held writes back.
    pub held_since: Option<Duration>,
    /// Commit indexes up to this entry are broadcast at once. Later ones travel with the next
    /// append or heartbeat, because no client waits for a follower to apply.
    urgent_until: u64,
    /// Term, role and leader for which `election_ticks` was drawn.
    election: (u64, StateRole, u64),
    /// Silent ticks after which this replica stands for election.
    election_ticks: usize,
}

impl Group {
    pub fn open(
        me: NodeId,
        id: GroupId,
        log: GroupLog,
        record: Record,
        machine: Option<data::Machine>,
        rng: &mut Random,
    ) -> Result<Group> {
        let config = Config {
            id: me.0,
            applied: record.applied.index,
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
        let replay_until = log.last().index;
        let fence = Fence::stored(record.mark);
        let silent = slog::Logger::root(slog::Discard, slog::o!());
        let raw = RawNode::new(&config, log, &silent).map_err(|e| {
            Error::corrupt(format!("group {id}: raft refuses its own log: {e}")).with_source(e)
        })?;
        let mut group = Group {
            id,
            raw,
            stored: record.clone(),
            changed_at: record.applied.index,
            record,
            overlay: Overlay::default(),
            machine,
            fence,
            changed: Default::default(),
            queue: VecDeque::new(),
            proposed: VecDeque::new(),
            reads: Vec::new(),
            looks: Vec::new(),
            rounds: VecDeque::new(),
            lease_until: Duration::ZERO,
            no_lease_in: 0,
            promise: Promise::default(),
            replay_until,
            installing: None,
            left: false,
            ended: false,
            tenures: Tenures::default(),
            leader: None,
            handed_over: Duration::ZERO,
            waits: None,
            held_since: None,
            urgent_until: if id.is_meta() { u64::MAX } else { 0 },
            election: (u64::MAX, StateRole::Follower, 0),
            election_ticks: limits::ELECTION_TICKS_MAX - 1,
        };
        group.steady_election(rng);
        Ok(group)
    }

    pub fn leads(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    pub fn term(&self) -> u64 {
        self.raw.raft.term
    }

    /// Whether a leader has applied an entry of its own term: only then does it know everything
    /// that was acknowledged before.
    pub fn knows_all(&self) -> bool {
        self.leads() && self.record.applied.term == self.term()
    }

    /// Whether reads or looks wait here.
    pub fn is_asked(&self) -> bool {
        !(self.reads.is_empty() && self.looks.is_empty() && self.rounds.is_empty())
    }

    /// Whether some member is offered rows in place of entries.
    pub fn offers(&self) -> bool {
        !self.raw.store().offers.borrow().is_empty()
    }

    /// Whether a turn of the loop may have something to do here.
    pub fn has_work(&self) -> bool {
        self.raw.has_ready()
            || !self.queue.is_empty()
            || self.is_asked()
            || self.held_since.is_some()
            || self.offers()
    }

    /// Whether nobody else can have been elected.
    pub fn has_lease(&self, now: Duration) -> bool {
        now < self.lease_until
            || (mutated(Mutation::LeaseForEver) && self.lease_until > Duration::ZERO)
            || mutated(Mutation::ReadsUnasked)
    }

    pub fn has_replica(&self) -> bool {
        self.record.applied.index > 0
    }

    /// Whether there is anything of the group here, rows or entries.
    pub fn is_something(&self) -> bool {
        self.has_replica() || self.raw.store().last().index > 0 || self.installing.is_some()
    }

    pub fn members(&self) -> &Membership {
        &self.record.members
    }

    pub fn commit(&self) -> u64 {
        self.raw.raft.raft_log.committed
    }

    /// The tenure that belongs on a message of this replica.
    pub fn tenure_on(&self, message: &Message) -> u64 {
        if self.leads() {
            self.tenures.of(message.term, NodeId(message.to))
        } else {
            self.tenures.own(message.term)
        }
    }

    pub fn step(&mut self, message: Message, rng: &mut Random) {
        self.raw.raft.skip_bcast_commit(self.commit() >= self.urgent_until);
        // `admission` has let it in; raft-rs refuses the rest of what makes no sense. A message may
        // always be lost.
        let _ = self.raw.step(message);
        self.steady_election(rng);
    }

    pub fn tick(&mut self, rng: &mut Random) {
        self.raw.tick();
        self.steady_election(rng);
    }

    /// raft-rs draws election time-outs from a generator of its own; ours come from the seed.
    fn steady_election(&mut self, rng: &mut Random) {
        let now = (self.raw.raft.term, self.raw.raft.state, self.raw.raft.leader_id);
        if now != self.election {
            self.election = now;
            let spread = (limits::ELECTION_TICKS_MAX - limits::ELECTION_TICKS_MIN) as u64;
            self.election_ticks = limits::ELECTION_TICKS_MIN + rng.below(spread) as usize;
        }
        self.raw.raft.set_randomized_election_timeout(self.election_ticks);
    }

    /// Queues a command for the group's log, unless `WAITING_REQUESTS_MAX` wait already.
    pub fn enqueue(&mut self, waiting: Waiting) -> Result<()> {
        if self.queue.len() >= limits::WAITING_REQUESTS_MAX {
            return Err(Error::exhausted(format!(
                "{} writes already wait in group {}; slow down",
                self.queue.len(),
                self.id
            )));
        }
        self.queue.push_back(waiting);
        Ok(())
    }

    /// Proposes what waits, as far as it may. Returns whether something is held back by the fence.
    pub fn propose_waiting(&mut self, open: Open, user_allowed: bool) -> Result<bool> {
        if !self.knows_all() {
            return Ok(false);
        }
        let hold = self.fence.holds_writes(open)
            && !mutated(Mutation::NoHold)
            && !mutated(Mutation::SeenFromMark);
        let held = hold || !user_allowed;
        let mut kept = VecDeque::new();
        while !self.queue.is_empty() {
            let mut commands = Vec::new();
            let mut bytes = 0;
            while let Some(waiting) = self.queue.pop_front() {
                if held && waiting.command.action.is_user() {
                    kept.push_back(waiting);
                    continue;
                }
                bytes += wire::command_bytes(&waiting.command);
                commands.push(waiting);
                if commands.len() >= limits::ENTRY_COMMANDS_MAX || bytes >= limits::ENTRY_BYTES_MAX
                {
                    break;
                }
            }
            if commands.is_empty() {
                break;
            }
            if let Err(commands) = self.propose(open, commands) {
                kept.extend(commands);
                kept.append(&mut self.queue);
                break;
            }
        }
        self.queue = kept;
        Ok(held && !self.queue.is_empty())
    }

    /// Appends one entry, or gives the commands back when the group takes none now.
    pub fn propose(&mut self, open: Open, commands: Vec<Waiting>) -> Result<(), Vec<Waiting>> {
        let urgent = commands.iter().any(|waiting| !waiting.command.action.is_user());
        let (askers, entry): (Vec<_>, Vec<_>) =
            commands.into_iter().map(|w| ((w.asker, w.deadline), w.command)).unzip();
        let seen = if mutated(Mutation::SeenFromMark) {
            self.fence.mark().max(open.get())
        } else {
            open.get()
        };
        let entry = Entry { seen, commands: entry };
        let proposed = self.raw.propose(Vec::new(), wire::encode_entry(&entry));
        let mut commands = entry.commands;
        if proposed.is_ok() {
            self.share_proposed(&mut commands);
        }
        let commands = commands
            .into_iter()
            .zip(askers)
            .map(|(command, (asker, deadline))| Waiting { asker, command, deadline })
            .collect();
        match proposed {
            Ok(()) => {
                let at = Position { index: self.raw.raft.raft_log.last_index(), term: self.term() };
                if urgent {
                    self.urgent_until = self.urgent_until.max(at.index);
                }
                self.proposed.push_back(Proposed { at, commands });
                Ok(())
            }
            Err(_) => Err(commands),
        }
    }

    /// Has large commands share the bytes of the entry that was just made of them, so that the
    /// messages in which they came go.
    fn share_proposed(&self, commands: &mut [Command]) {
        let is_large =
            |command: &Command| wire::command_bytes(command) >= limits::ENTRY_SHARED_BYTES;
        if !commands.iter().any(is_large) {
            return;
        }
        let entry = self.raw.raft.raft_log.unstable.entries.last();
        if let Some(Ok(same)) = entry.map(|entry| wire::decode_entry(&entry.data)) {
            for (command, same) in commands.iter_mut().zip(same.commands) {
                debug_assert_eq!(*command, same, "an entry says what was proposed");
                if is_large(command) {
                    *command = same;
                }
            }
        }
    }

    /// Everyone who waits here, when leadership is gone.
    pub fn give_back(&mut self) -> Vec<Asker> {
        let queued = self.queue.drain(..).map(|w| w.asker);
        let proposed = self.proposed.drain(..).flat_map(|p| p.commands).map(|w| w.asker);
        let reads = self
            .reads
            .drain(..)
            .chain(self.rounds.drain(..).flat_map(|r| r.reads))
            .map(|r| r.asker);
        queued.chain(proposed).chain(reads).filter(|a| *a != Asker::Nobody).collect()
    }

    /// Drops what nobody waits for any more and says who that was.
    pub fn expire(&mut self, now: Duration) -> Vec<Asker> {
        let mut gone = Vec::new();
        self.queue.retain(|w| {
            w.deadline > now || {
                gone.push(w.asker);
                false
            }
        });
        self.reads.retain(|r| {
            r.deadline > now || {
                gone.push(r.asker);
                false
            }
        });
        for round in &mut self.rounds {
            round.reads.retain(|r| {
                r.deadline > now || {
                    gone.push(r.asker);
                    false
                }
            });
        }
        gone
    }

    /// Voters and learners that have answered lately, this node included.
    pub fn alive(&self) -> BTreeSet<NodeId> {
        let recent =
            self.raw.raft.prs().iter().filter(|(_, p)| p.recent_active).map(|(id, _)| NodeId(*id));
        recent.chain([NodeId(self.raw.raft.id)]).collect()
    }

    /// How far every member that is there has the leader's log, as the leader knows; followers know
    /// of nobody who lacks anything. One that is offered rows asks for no entries before them.
    ///
    /// raft-rs's own idea of who is active will not do: it is forgotten at every check of the
    /// quorum, and entries that are dropped then cost a member that is only slow all rows.
    pub fn lacked(&self, is_there: impl Fn(NodeId) -> bool) -> u64 {
        let offers = self.raw.store().offers.borrow();
        let lacks = |node: NodeId| is_there(node) && !offers.contains_key(&node);
        let members = self.raw.raft.prs().iter();
        let there = members.filter(|(node, _)| self.leads() && lacks(NodeId(**node)));
        there.map(|(_, member)| member.matched).min().unwrap_or(u64::MAX)
    }

    /// Drops entries from memory that are applied here, once they are many bytes: only a member
    /// that is away can still ask for them, and they are on disk.
    pub fn forget_applied(&mut self, is_there: impl Fn(NodeId) -> bool) {
        if self.raw.store().recent_bytes() > limits::LOG_CACHE_APPLIED_BYTES {
            let (applied, lacked) = (self.record.applied.index, self.lacked(is_there));
            self.raw.mut_store().forget(applied, lacked);
        }
    }

    /// Whether a command of this asker waits here.
    pub fn holds(&self, asker: Asker) -> bool {
        let proposed = self.proposed.iter().flat_map(|proposed| &proposed.commands);
        self.queue.iter().chain(proposed).any(|waiting| waiting.asker == asker)
    }

    /// Whether a member's log is nearly as long as this leader knows that the group has agreed.
    pub fn is_caught_up(&self, node: NodeId) -> bool {
        let matched = self.matched(node);
        matched > 0 && matched + limits::CAUGHT_UP_ENTRIES > self.commit()
    }

    /// Of a node that is no member yet this leader has heard nothing; a learner that never answers
    /// costs the group nothing.
    pub fn may_be_alive(&self, node: NodeId) -> bool {
        node.0 == self.raw.raft.id
            || self.raw.raft.prs().get(node.0).is_none_or(|member| member.recent_active)
    }

    /// How far a member's log is known to agree with the leader's.
    pub fn matched(&self, node: NodeId) -> u64 {
        self.raw.raft.prs().get(node.0).map_or(0, |p| p.matched)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{base::disk::Machine, engine::storage::Offer, entry::LOG_BEGIN, log::Log};

    #[test]
    fn what_a_slow_member_lacks_is_known_after_a_check_of_the_quorum() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open(dir.path(), Arc::new(Machine)).unwrap();
        let (id, [me, slow, away]) = (GroupId(0), [1, 2, 3].map(NodeId));
        let members = Membership { voters: [me, slow, away].into(), learners: [].into() };
        let record = Record { applied: LOG_BEGIN, members: members.clone(), ..Record::default() };
        let log = GroupLog::open(log, id, record.applied, members).unwrap();
        let mut group = Group::open(me, id, log, record, None, &mut Random::seeded(1)).unwrap();
        group.raw.raft.become_candidate();
        group.raw.raft.become_leader();
        let there = |node| node == slow;
        group.raw.raft.mut_prs().get_mut(slow.0).unwrap().matched = 7;
        group.raw.raft.mut_prs().quorum_recently_active(me.0);
        assert_eq!(group.lacked(there), 7);
        assert_eq!(group.lacked(|_| false), u64::MAX, "for whoever is away nothing is kept");
        group.raw.store().offers.borrow_mut().insert(slow, Offer::Wanted);
        assert_eq!(group.lacked(there), u64::MAX, "it gets rows");
    }
}
