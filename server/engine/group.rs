//! One group's replica on this node: its Raft state, its rows in memory, what waits for it, and what it has promised.
//!
//! It takes requests into a queue, proposes them in batches, and remembers who asked until the entry is applied. What an entry does is in `apply`; who may
//! read when is in `reads`; the round that drives all groups is in the parent.
//!
//! - A command is proposed only by a leader that has applied an entry of its own term, only under the group's present lineage, and never behind a mark that
//!   is not resolved as far as this node knows.
//! - Whoever asked gets an answer or is asked back (`Asker`), also when leadership is lost.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use raft::{Config, RawNode, Ready, StateRole, eraftpb::Message};

use super::{overlay::Overlay, storage::GroupLog};
use crate::{
    clock::Chance,
    cluster::walk::Membership,
    data,
    entry::{Command, Entry, Position, Record},
    error::{Error, Result},
    ids::{GroupId, NodeId, PartitionId},
    limits,
    planted::{Mistake, planted},
    snapshot::cut::{Fence, Open},
    wire,
};

/// Who waits for the answer to a request.
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
    /// The commit index they have to see; known when the quorum has answered.
    pub index: Option<u64>,
    pub reads: Vec<Read>,
    /// Looks at the meta state, by their number.
    pub looks: Vec<u64>,
}

/// A Raft snapshot that is being put in place. Nothing else happens in the group meanwhile.
pub struct Installing {
    pub ready: Ready,
    pub record: Record,
}

/// See the module.
pub struct Group {
    pub id: GroupId,
    pub raw: RawNode<GroupLog>,
    pub record: Record,
    /// The record as the store has it.
    pub stored: Record,
    pub overlay: Overlay,
    /// None for the meta group, whose state the engine holds.
    pub machine: Option<data::Machine>,
    pub fence: Fence,
    /// Data partitions changed since the last layer was sealed, and by which entry.
    pub changed: std::collections::BTreeMap<PartitionId, u64>,
    pub queue: VecDeque<Waiting>,
    pub proposed: VecDeque<Proposed>,
    pub reads: Vec<Read>,
    pub looks: Vec<u64>,
    pub rounds: VecDeque<ReadRound>,
    pub lease_until: Duration,
    /// In this term leadership was offered to another node, so that no lease can be trusted.
    pub no_lease_in: u64,
    /// Until then this replica votes for nobody else than the leader it has heard.
    pub promised_until: Duration,
    /// The leader, when its process may be gone.
    pub suspected: Option<NodeId>,
    /// Entries up to here were in the log when the process started.
    pub replay_until: u64,
    pub installing: Option<Installing>,
    /// The last leader that this replica has heard of.
    pub leader: Option<NodeId>,
    pub snapshot_sent: std::collections::BTreeMap<NodeId, Duration>,
    /// When the leader last tried to hand leadership to where it belongs.
    pub handed_over: Duration,
    pub held_since: Option<Duration>,
    /// That entries up to here are committed, followers are told at once. Of later ones they hear with the next entry or heartbeat: nobody waits for them
    /// to apply what users write.
    urgent_until: u64,
    election: (u64, StateRole, u64),
    election_ticks: usize,
}

impl Group {
    pub fn open(me: NodeId, id: GroupId, log: GroupLog, record: Record, machine: Option<data::Machine>, chance: &mut Chance) -> Result<Group> {
        let config = Config {
            id: me.0,
            applied: record.applied.index,
            election_tick: limits::ELECTION_TICKS_MIN,
            min_election_tick: limits::ELECTION_TICKS_MIN,
            max_election_tick: limits::ELECTION_TICKS_MAX,
            heartbeat_tick: limits::HEARTBEAT_TICKS,
            max_size_per_msg: limits::RAFT_MESSAGE_BYTES_MAX,
            max_inflight_msgs: limits::RAFT_INFLIGHT_MAX,
            max_committed_size_per_ready: 16 << 20,
            check_quorum: true,
            pre_vote: true,
            ..Config::default()
        };
        let replay_until = log.last().index;
        let fence = Fence::stored(record.mark);
        let silent = slog::Logger::root(slog::Discard, slog::o!());
        let raw = RawNode::new(&config, log, &silent).map_err(|e| Error::corrupt(format!("group {id}: raft refuses its own log: {e}")))?;
        let mut group = Group {
            id,
            raw,
            stored: record.clone(),
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
            promised_until: Duration::ZERO,
            suspected: None,
            replay_until,
            installing: None,
            leader: None,
            snapshot_sent: Default::default(),
            handed_over: Duration::ZERO,
            held_since: None,
            urgent_until: if id.is_meta() { u64::MAX } else { 0 },
            election: (u64::MAX, StateRole::Follower, 0),
            election_ticks: limits::ELECTION_TICKS_MAX - 1,
        };
        group.steady_election(chance);
        Ok(group)
    }

    pub fn leads(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    pub fn term(&self) -> u64 {
        self.raw.raft.term
    }

    /// Whether a leader has applied an entry of its own term: only then does it know everything that was acknowledged before.
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
    pub fn stirs(&self) -> bool {
        self.raw.has_ready() || !self.queue.is_empty() || self.is_asked() || self.held_since.is_some() || self.offers()
    }

    /// Whether nobody else can have been elected.
    pub fn has_lease(&self, now: Duration) -> bool {
        now < self.lease_until || (planted(Mistake::LeaseForEver) && self.lease_until > Duration::ZERO) || planted(Mistake::ReadsUnasked)
    }

    pub fn has_replica(&self) -> bool {
        self.record.applied.index > 0
    }

    pub fn members(&self) -> &Membership {
        &self.record.members
    }

    pub fn commit(&self) -> u64 {
        self.raw.raft.raft_log.committed
    }

    pub fn step(&mut self, message: Message, chance: &mut Chance) {
        self.raw.raft.skip_bcast_commit(self.commit() >= self.urgent_until);
        // raft-rs refuses what makes no sense; a message may always be lost.
        let _ = self.raw.step(message);
        self.steady_election(chance);
    }

    pub fn tick(&mut self, chance: &mut Chance) {
        self.raw.tick();
        self.steady_election(chance);
    }

    /// raft-rs draws election time-outs from a generator of its own; ours come from the seed.
    fn steady_election(&mut self, chance: &mut Chance) {
        let now = (self.raw.raft.term, self.raw.raft.state, self.raw.raft.leader_id);
        if now != self.election {
            self.election = now;
            let spread = (limits::ELECTION_TICKS_MAX - limits::ELECTION_TICKS_MIN) as u64;
            self.election_ticks = limits::ELECTION_TICKS_MIN + chance.below(spread) as usize;
        }
        self.raw.raft.set_randomized_election_timeout(self.election_ticks);
    }

    /// Proposes what waits, as far as it may. Returns whether something is held back by the fence.
    pub fn propose_waiting(&mut self, open: Open, user_allowed: bool) -> Result<bool> {
        if !self.knows_all() {
            return Ok(false);
        }
        let hold = self.fence.holds_writes(open) && !planted(Mistake::NoHold) && !planted(Mistake::SeenFromMark);
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
                if commands.len() >= limits::ENTRY_COMMANDS_MAX || bytes >= limits::ENTRY_BYTES_MAX {
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
        let (askers, entry): (Vec<_>, Vec<_>) = commands.into_iter().map(|w| ((w.asker, w.deadline), w.command)).unzip();
        let seen = if planted(Mistake::SeenFromMark) { self.fence.mark().max(open.get()) } else { open.get() };
        let entry = Entry { seen, commands: entry };
        let proposed = self.raw.propose(Vec::new(), wire::encode_entry(&entry));
        let commands = entry.commands.into_iter().zip(askers).map(|(command, (asker, deadline))| Waiting { asker, command, deadline }).collect();
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

    /// Everyone who waits here, when leadership is gone.
    pub fn give_back(&mut self) -> Vec<Asker> {
        let queued = self.queue.drain(..).map(|w| w.asker);
        let proposed = self.proposed.drain(..).flat_map(|p| p.commands).map(|w| w.asker);
        let reads = self.reads.drain(..).chain(self.rounds.drain(..).flat_map(|r| r.reads)).map(|r| r.asker);
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
        let recent = self.raw.raft.prs().iter().filter(|(_, p)| p.recent_active).map(|(id, _)| NodeId(*id));
        recent.chain([NodeId(self.raw.raft.id)]).collect()
    }

    /// How far a member's log is known to agree with the leader's.
    pub fn matched(&self, node: NodeId) -> u64 {
        self.raw.raft.prs().get(node.0).map_or(0, |p| p.matched)
    }
}
