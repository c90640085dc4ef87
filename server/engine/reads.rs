//! Reads, and who may answer them when.
//!
//! A leader that has applied an entry of its own term may answer a read from what it has applied,
//! if it is certain to be the leader still. It is certain
//! - within its lease: a quorum answered heartbeats that were sent less than `limits::LEASE` ago,
//!   and whoever answered does not vote for another until longer after (Raft thesis 6.4.1). The
//!   lease counts from the sending, on this node's monotonic clock; a leader that has offered its
//!   place to another has none for the rest of its term, since that one may be elected at once; and
//!   a node that has restarted votes only after a promise has passed (see `elections`).
//! - otherwise after a round of heartbeats begun after the read came (ReadIndex, 6.4). One round
//!   serves all reads that wait, and renews the lease.
//!
//! The meta state is on every node: a look at it asks the leader for the commit index and waits
//! until that is applied here.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use raft::ReadState;

use super::{
    Engine, Host, admission,
    apply::SeenRows,
    group::{Asker, Group, ReadRound},
    overlay::Reader,
};
use crate::{
    base::{
        error::{Error, Result},
        ids::{GroupId, NodeId, PartitionId, SnapshotSeq},
        limits,
    },
    cluster::{
        self,
        reconfigure::{Membership, Wait},
    },
    data::{Query, Reply},
    entry::{Identity, Position, Record},
    store::keys,
};

/// What a look at the engine sees.
pub struct EngineView<'a> {
    engine: &'a Engine,
}

impl<'a> EngineView<'a> {
    pub fn meta(&self) -> &'a cluster::State {
        &self.engine.meta
    }
    pub fn identity(&self) -> &'a Identity {
        &self.engine.identity
    }
    /// The groups that this node leads, and their members.
    pub fn led(&self) -> impl Iterator<Item = (GroupId, &'a Membership)> {
        self.engine.groups.values().filter(|g| g.leads()).map(|g| (g.id, g.members()))
    }
    /// What a group waits for that this node leads and that does not have the members it should.
    pub fn wait_of(&self, group: GroupId) -> Option<(Wait, Duration)> {
        self.engine.groups.get(&group).and_then(|group| self.engine.wait_of(group))
    }
    /// Data groups of which something is here.
    pub fn replicas(&self) -> usize {
        self.engine.groups.values().filter(|g| !g.id.is_meta() && g.is_something()).count()
    }
    /// The groups of which this node has a replica and knows no leader: who votes in them, as far
    /// as the replica has applied the log, and how far that is.
    pub fn leaderless(&self) -> impl Iterator<Item = (GroupId, &'a BTreeSet<NodeId>, u64)> {
        let groups = self.engine.groups.values().filter(|g| g.has_replica() && g.leader.is_none());
        groups.map(|g| (g.id, &g.members().voters, g.record.applied.index))
    }
    /// How far this node has applied a group's log; 0 without a replica.
    pub fn applied(&self, group: GroupId) -> u64 {
        self.engine.groups.get(&group).map_or(0, |g| g.record.applied.index)
    }
    pub fn leader(&self, group: GroupId) -> Option<NodeId> {
        self.engine
            .groups
            .get(&group)
            .and_then(|g| g.leader)
            .or_else(|| self.engine.hints.get(&group).copied())
    }
    pub fn overlay_bytes(&self) -> usize {
        self.engine.groups.values().map(|g| g.overlay.bytes()).sum()
    }
    pub fn open(&self) -> SnapshotSeq {
        self.engine.marks.open().get()
    }

    /// Whether a node may send rows of a group.
    pub fn may_send_rows(&self, from: NodeId, group: GroupId) -> Result<()> {
        self.engine.with_facts(from, group, admission::rows)
    }
    /// Whether rows that come with this record may be put in place.
    pub fn may_take_record(&self, from: NodeId, group: GroupId, record: &Record) -> Result<()> {
        self.engine.with_facts(from, group, |facts| admission::record(facts, record))
    }

    /// How far a data group's replica on this node is, and the blake3 of its rows there; none while
    /// it has none. Replicas at the same place have the same.
    pub fn replica(&self, id: GroupId) -> Result<Option<(Position, blake3::Hash)>> {
        let Some(group) =
            self.engine.groups.get(&id).filter(|g| g.has_replica() && g.installing.is_none())
        else {
            return Ok(None);
        };
        let mut hash = blake3::Hasher::new();
        for partition in self.engine.topology().partitions_of(id) {
            for row in (Reader { overlay: &group.overlay, view: &self.engine.view })
                .range(&keys::partition(PartitionId(partition)))?
            {
                let (key, row) = row?;
                hash.update(&(key.len() as u64).to_be_bytes())
                    .update(&key)
                    .update(&(row.len() as u64).to_be_bytes())
                    .update(&row);
            }
        }
        Ok(Some((group.record.applied, hash.finalize())))
    }

    /// Other nodes, and for how long this one has not heard them; since it runs, or since they are
    /// members, where it never has.
    pub fn silences(&self) -> impl Iterator<Item = (NodeId, Duration)> {
        let engine = self.engine;
        let others = self.meta().nodes().keys().filter(|node| **node != engine.me());
        others.map(|node| {
            let heard = engine.heard.get(node).copied().unwrap_or_default();
            (*node, engine.now.saturating_sub(heard))
        })
    }

    /// Other nodes that this one has not heard for `limits::AWAY`.
    pub fn away(&self) -> cluster::Away {
        self.silences()
            .filter(|(_, silent)| *silent >= limits::AWAY)
            .map(|(node, _)| node)
            .collect()
    }

    /// Why this node cannot serve everything it should hold; None when it can.
    pub fn unready(&self) -> Option<String> {
        let engine = self.engine;
        let Some(meta) = engine.groups.get(&GroupId::META).filter(|g| g.has_replica()) else {
            return Some("the node has not received the cluster's configuration yet".into());
        };
        if meta.leader.is_none() {
            return Some("the meta group has no leader".into());
        }
        if engine.identity.lineage == crate::base::ids::Lineage::PENDING {
            return Some(
                "the restored nodes have not agreed on a lineage yet; a majority of them has to be \
                 up"
                    .into(),
            );
        }
        let mine = engine
            .meta
            .assignments()
            .iter()
            .filter(|(g, nodes)| !g.is_meta() && nodes.contains(&engine.identity.node));
        let behind = |g: &Group| {
            g.installing.is_some()
                || !g.has_replica()
                || g.leader.is_none()
                || g.record.applied.index < g.commit()
        };
        let waiting = mine.filter(|(id, _)| {
            engine
                .groups
                .get(id)
                .is_none_or(|g| behind(g) || !g.members().voters.contains(&engine.identity.node))
        });
        match waiting.count() {
            0 => None,
            n => Some(format!("{n} groups have not caught up or have no leader")),
        }
    }
}

type See = Box<dyn FnOnce(Result<EngineView<'_>>) + Send>;

/// A look at the engine from outside.
pub struct Inspection {
    /// Whether the inspection must see everything that was acknowledged before it, or only what
    /// this node knows.
    pub linearizable: bool,
    pub deadline: Duration,
    pub see: See,
}

/// Looks that wait for the leader's word, by number.
pub(super) struct Inspections {
    waiting: BTreeMap<u64, Inspection>,
    last: u64,
}

impl Inspections {
    /// Numbers begin anywhere, so that an answer to a question of an earlier run is not taken for
    /// one of this.
    pub fn starting_at(number: u64) -> Inspections {
        Inspections { waiting: BTreeMap::new(), last: number >> 1 }
    }
}

impl Engine {
    pub(super) fn on_inspection(&mut self, look: Inspection) {
        if !look.linearizable {
            return (look.see)(Ok(EngineView { engine: self }));
        }
        self.looks.last += 1;
        let number = self.looks.last;
        self.looks.waiting.insert(number, look);
        match self.groups.get_mut(&GroupId::META) {
            Some(meta) => {
                meta.looks.push(number);
                self.awake.insert(GroupId::META);
            }
            None => self.refuse_look(number, "this node has not joined a cluster yet; retry"),
        }
    }

    fn refuse_look(&mut self, number: u64, why: &str) {
        if let Some(look) = self.looks.waiting.remove(&number) {
            (look.see)(Err(Error::unavailable(why)));
        }
    }

    pub(super) fn expire_looks(&mut self) {
        let late =
            self.looks.waiting.iter().filter(|(_, l)| l.deadline <= self.now).map(|(n, _)| *n);
        for number in late.collect::<Vec<_>>() {
            self.refuse_look(
                number,
                "the meta group has no leader that could be reached; retry later",
            );
        }
        // A follower's question to the leader may be lost without a trace: ask again.
        if let Some(meta) = self.groups.get_mut(&GroupId::META) {
            let late = meta
                .rounds
                .iter()
                .position(|r| {
                    r.index.is_some()
                        || self.now.saturating_sub(r.sent) < limits::READ_AGAIN_TICKS * limits::TICK
                })
                .unwrap_or(meta.rounds.len());
            for round in meta.rounds.drain(..late) {
                meta.looks
                    .extend(round.looks.into_iter().filter(|n| self.looks.waiting.contains_key(n)));
                meta.reads.extend(round.reads);
            }
            if !meta.looks.is_empty() {
                self.awake.insert(GroupId::META);
            }
        }
    }

    /// Begins a round of heartbeats for the reads that wait, unless the lease covers them.
    pub(super) fn ask_for_reads(&mut self, id: GroupId) {
        let (me, now) = (self.me(), self.now);
        let Some(group) = self.groups.get_mut(&id).filter(|g| g.installing.is_none()) else {
            return;
        };
        if group.reads.is_empty() && group.looks.is_empty() {
            return;
        }
        let leased = group.knows_all() && group.has_lease(now);
        let may_ask = if group.leads() { group.knows_all() } else { group.leader.is_some() };
        if leased || !may_ask {
            return;
        }
        self.looks.last += 1;
        let number = self.looks.last;
        group.raw.read_index([me.0.to_be_bytes(), number.to_be_bytes()].concat());
        let (reads, looks) = (std::mem::take(&mut group.reads), std::mem::take(&mut group.looks));
        group.rounds.push_back(ReadRound { number, sent: now, index: None, reads, looks });
    }

    /// A quorum has answered a round, or the leader a follower's question.
    pub(super) fn note_read_states(&mut self, id: GroupId, states: Vec<ReadState>) {
        let group = self.group(id);
        for state in states {
            let number = state
                .request_ctx
                .get(8..16)
                .and_then(|b| b.try_into().ok())
                .map_or(0, u64::from_be_bytes);
            let Some(round) = group.rounds.iter_mut().find(|r| r.number == number) else {
                continue;
            };
            round.index = Some(state.index);
            let sent = round.sent;
            if group.leads() && group.no_lease_in != group.term() {
                group.lease_until = group.lease_until.max(sent + limits::LEASE);
            }
        }
    }

    /// Answers every read that may be answered now.
    pub(super) fn answer_reads(&mut self, host: &mut dyn Host) -> Result<()> {
        self.now = host.now();
        for id in std::mem::take(&mut self.asked) {
            let now = self.now;
            let group = self.group(id);
            let (mut reads, mut looks) = (Vec::new(), Vec::new());
            let applied = group.record.applied.index;
            if group.knows_all() && group.has_lease(now) && applied >= group.commit() {
                reads.append(&mut group.reads);
                looks.append(&mut group.looks);
            }
            group.rounds.retain_mut(|round| {
                let ripe = round.index.is_some_and(|index| index <= applied);
                if ripe {
                    reads.append(&mut round.reads);
                    looks.append(&mut round.looks);
                }
                !ripe
            });
            if group.is_asked() {
                self.asked.insert(id);
            }
            for read in reads {
                self.answer_read(id, read.asker, &read.query, host)?;
            }
            for number in looks {
                if let Some(look) = self.looks.waiting.remove(&number) {
                    (look.see)(Ok(EngineView { engine: self }));
                }
            }
        }
        Ok(())
    }

    pub(super) fn answer_read(
        &mut self,
        id: GroupId,
        asker: Asker,
        query: &Query,
        host: &mut dyn Host,
    ) -> Result<()> {
        let group = self.groups.get(&id).expect("reads wait only in groups that are there");
        let reply: Reply = query.answer(
            self.topology(),
            &SeenRows(Reader { overlay: &group.overlay, view: &self.view }),
        )?;
        self.finish(asker, id, reply, host)
    }
}
