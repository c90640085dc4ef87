//! One group's replica on this node: its part in Raft, its rows in memory, what waits for it, and
//! what it has promised.
//!
//! Its fields are its own. `proposals` has what waits for the log and what is proposed,
//! `leadership` who leads and who may be voted for, `members` who is in the group, `contents` the
//! rows and the record. What an entry does is decided in `apply`; the round that drives all groups
//! is in the parent.
//!
//! - A command is proposed only by a leader that has applied an entry of its own term, only under
//!   the group's present lineage, and never behind a mark that is not resolved as far as this node
//!   knows.
//! - Every request gets an answer or is given back to its asker (`Asker`), also when leadership is
//!   lost.
//! - A leader that has offered its place to another has no lease for the rest of its term.
//! - The record, the log and raft-rs have the same members.
//! - While something is put in place of the rows, nothing else happens in the group.

mod proposals;
mod leadership;
mod members;
mod contents;

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use self::proposals::Proposed;
pub use self::{leadership::Followed, proposals::Waiting};
use super::{
    consensus::{GroupLog, Raft, Turn, entries::Raw},
    overlay::Overlay,
    promise::Promise,
    read_index::{Known, Reads},
    requests::Asker,
    tenure::Tenures,
};
use crate::{
    base::{
        clock::Random,
        error::Result,
        ids::{GroupId, NodeId, PartitionId},
    },
    cluster::reconfigure::{Membership, Wait},
    cut::Fence,
    data,
    entry::{Position, Record},
    log::Batch,
};

/// What is being put in place of what the replica has. Nothing else happens in the group meanwhile.
pub enum Installing {
    /// The rows of a Raft snapshot.
    Rows { turn: Box<Turn>, record: Record },
    /// Nothing: the replica ends.
    Nothing,
}

/// See the module.
pub struct Group {
    id: GroupId,
    raft: Raft,
    /// How far this replica has applied its log, and what the group is by then.
    record: Record,
    /// The record that the store has.
    stored: Record,
    /// Applied rows that the store does not have yet.
    overlay: Overlay,
    /// The state machine of a data group. The meta group has none: the engine holds its state.
    machine: Option<data::Machine>,
    /// What this replica knows of its marks.
    fence: Fence,
    /// Data partitions changed since the last layer was sealed, each with the index of the last
    /// entry that changed it.
    changed: BTreeMap<PartitionId, u64>,
    /// Commands that wait to be proposed.
    queue: VecDeque<Waiting>,
    /// Entries that this leader has proposed and not applied.
    proposed: VecDeque<Proposed>,
    /// Reads that wait for the lease or for a quorum.
    reads: Reads,
    /// What it owes the leader that it has heard.
    promise: Promise,
    /// The last entry that was in the log when the process started.
    replay_until: u64,
    /// What is being put in place of the rows.
    installing: Option<Installing>,
    /// Whether this node was to give the group up and has not become a member again since.
    left: bool,
    /// Whether it has ended, and got no rows since.
    ended: bool,
    /// The last change of members that is applied here, or a later entry.
    changed_at: u64,
    /// Which of their stays in the group its members are in.
    tenures: Tenures,
    /// The last leader that this replica has heard of.
    leader: Option<NodeId>,
    /// When this leader last offered its leadership to another node.
    handed_over: Option<Duration>,
    /// What this leader waits for to come to the wanted members, and since when.
    waits: Option<(Wait, Duration)>,
    /// Since when the fence of a snapshot has held writes back.
    held_since: Option<Duration>,
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
        let raft = Raft::open(me, id, log, record.applied.index, rng)?;
        Ok(Group {
            id,
            stored: record.clone(),
            changed_at: record.applied.index,
            overlay: Overlay::default(),
            machine,
            fence: Fence::stored(record.mark),
            record,
            changed: BTreeMap::new(),
            queue: VecDeque::new(),
            proposed: VecDeque::new(),
            reads: Reads::default(),
            promise: Promise::default(),
            replay_until: raft.written().index,
            raft,
            installing: None,
            left: false,
            ended: false,
            tenures: Tenures::default(),
            leader: None,
            handed_over: None,
            waits: None,
            held_since: None,
        })
    }

    pub fn id(&self) -> GroupId {
        self.id
    }

    /// Its part in Raft, to look at.
    pub fn raft(&self) -> &Raft {
        &self.raft
    }

    /// What the group is as far as this replica has applied the log.
    pub fn record(&self) -> &Record {
        &self.record
    }

    pub fn applied(&self) -> Position {
        self.record.applied
    }

    pub fn members(&self) -> &Membership {
        &self.record.members
    }

    pub fn fence(&self) -> Fence {
        self.fence
    }

    pub fn has_replica(&self) -> bool {
        self.record.applied.index > 0
    }

    /// Whether there is anything of the group here, rows or entries.
    pub fn is_something(&self) -> bool {
        self.has_replica() || self.raft.written().index > 0 || self.is_installing()
    }

    pub fn is_installing(&self) -> bool {
        self.installing.is_some()
    }

    /// Whether an entry was in the log already when the process started.
    pub fn is_replayed(&self, index: u64) -> bool {
        index <= self.replay_until
    }

    /// Whether a turn of the loop may have something to do here.
    pub fn has_work(&self) -> bool {
        self.raft.has_turn()
            || !self.queue.is_empty()
            || !self.reads.is_empty()
            || self.held_since.is_some()
            || self.offers_rows()
    }

    /// Whether leadership was offered in vain: writes have waited for it until now.
    pub fn tick(&mut self, rng: &mut Random) -> bool {
        self.raft.tick(rng)
    }

    /// What raft-rs wants done, if there is anything. None while something is being put in place.
    pub fn turn(&mut self) -> Option<Turn> {
        (!self.is_installing() && self.raft.has_turn()).then(|| self.raft.turn())
    }

    /// Takes what a turn has committed and need not wait for what it has for the disk.
    pub fn take_committed(&self, turn: &mut Turn) -> Vec<Raw> {
        self.raft.take_committed(turn)
    }

    /// Puts what a turn has for the disk into the batch, which `drain` writes where it is full.
    pub fn write(
        &mut self,
        turn: &Turn,
        batch: &mut Batch,
        drain: &mut dyn FnMut(&mut Batch) -> Result<()>,
    ) -> Result<()> {
        self.raft.write(turn, batch, drain)
    }

    // ---- Reads. ----

    pub fn reads(&self) -> &Reads {
        &self.reads
    }

    pub fn reads_mut(&mut self) -> &mut Reads {
        &mut self.reads
    }

    /// What decides on reads, and what they have to know of the replica.
    pub fn reads_with(&mut self) -> (&mut Reads, Known) {
        let known = Known {
            leads: self.leads(),
            knows_all: self.knows_all(),
            knows_leader: self.leader.is_some(),
            term: self.term(),
            applied: self.record.applied.index,
            commit: self.raft.commit(),
        };
        (&mut self.reads, known)
    }

    /// Begins a question to the quorum for the reads that wait, unless the lease covers them.
    pub fn ask_for_reads(&mut self, now: Duration, next: impl FnOnce() -> u64) {
        if self.is_installing() || !self.reads.waits_to_ask() {
            return;
        }
        let (reads, known) = self.reads_with();
        if let Some(question) = reads.ask(&known, now, next) {
            self.raft.ask_quorum(question);
        }
    }

    // ---- Everyone who waits here. ----

    /// Drops what nobody waits for any more and says who that was.
    pub fn expire(&mut self, now: Duration) -> Vec<Asker> {
        let mut gone = Vec::new();
        self.queue.retain(|waiting| {
            waiting.deadline > now || {
                gone.push(waiting.asker);
                false
            }
        });
        self.reads.expire(now, &mut gone);
        gone
    }

    /// Everyone who waits here, to be asked elsewhere.
    pub fn give_back(&mut self) -> Vec<Asker> {
        let queued = self.queue.drain(..).map(|waiting| waiting.asker);
        let proposed = self.proposed.drain(..).flat_map(|p| p.commands).map(|w| w.asker);
        let reads = self.reads.give_back();
        queued.chain(proposed).chain(reads).filter(|asker| *asker != Asker::Nobody).collect()
    }
}
