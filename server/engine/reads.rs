//! Reads and looks, from where they come in to their answers. When they may be answered is decided
//! in `read_index`.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    Engine, Host, admission, group::Group, read_index::Ripe, requests::Asker, rows::SeenRows,
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
        self.engine.groups.all().filter(|g| g.leads()).map(|g| (g.id(), g.members()))
    }
    /// What a group waits for that this node leads and that does not have the members it should.
    pub fn wait_of(&self, group: GroupId) -> Option<(Wait, Duration)> {
        self.engine.groups.get(group).and_then(|group| self.engine.wait_of(group))
    }
    /// Data groups of which something is here.
    pub fn replicas(&self) -> usize {
        self.engine.groups.all().filter(|g| !g.id().is_meta() && g.is_something()).count()
    }
    /// The groups of which this node has a replica and knows no leader: who votes in them, as far
    /// as the replica has applied the log, and how far that is.
    pub fn leaderless(&self) -> impl Iterator<Item = (GroupId, &'a BTreeSet<NodeId>, u64)> {
        let groups = self.engine.groups.all().filter(|g| g.has_replica() && g.leader().is_none());
        groups.map(|g| (g.id(), &g.members().voters, g.applied().index))
    }
    /// How far this node has applied a group's log; 0 without a replica.
    pub fn applied(&self, group: GroupId) -> u64 {
        self.engine.groups.get(group).map_or(0, |g| g.applied().index)
    }
    pub fn leader(&self, group: GroupId) -> Option<NodeId> {
        self.engine
            .groups
            .get(group)
            .and_then(|g| g.leader())
            .or_else(|| self.engine.requests.hint(group))
    }
    pub fn overlay_bytes(&self) -> usize {
        self.engine.groups.all().map(|g| g.overlay_bytes()).sum()
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
            self.engine.groups.get(id).filter(|g| g.has_replica() && !g.is_installing())
        else {
            return Ok(None);
        };
        let mut hash = blake3::Hasher::new();
        for partition in self.engine.topology().partitions_of(id) {
            let rows = group.reader(&self.engine.view);
            for row in rows.range(&keys::partition(PartitionId(partition)))? {
                let (key, row) = row?;
                hash.update(&(key.len() as u64).to_be_bytes())
                    .update(&key)
                    .update(&(row.len() as u64).to_be_bytes())
                    .update(&row);
            }
        }
        Ok(Some((group.applied(), hash.finalize())))
    }

    /// Other nodes, and for how long this one has not heard them; since it runs, or since they are
    /// members, where it never has.
    pub fn silences(&self) -> impl Iterator<Item = (NodeId, Duration)> {
        let engine = self.engine;
        let others = self.meta().nodes().keys().filter(|node| **node != engine.me());
        others.map(|node| (*node, engine.heard.silence(*node, engine.now)))
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
        let Some(meta) = engine.groups.get(GroupId::META).filter(|g| g.has_replica()) else {
            return Some("the node has not received the cluster's configuration yet".into());
        };
        if meta.leader().is_none() {
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
            g.is_installing()
                || !g.has_replica()
                || g.leader().is_none()
                || g.applied().index < g.raft().commit()
        };
        let waiting = mine.filter(|(id, _)| {
            engine
                .groups
                .get(**id)
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

    fn next_number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }
}

impl Engine {
    pub(super) fn on_inspection(&mut self, look: Inspection) {
        if !look.linearizable {
            return (look.see)(Ok(EngineView { engine: self }));
        }
        let number = self.looks.next_number();
        self.looks.waiting.insert(number, look);
        match self.groups.get_mut(GroupId::META) {
            Some(meta) => {
                meta.reads_mut().add_look(number);
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
        if let Some(meta) = self.groups.get_mut(GroupId::META) {
            let waiting = &self.looks.waiting;
            meta.reads_mut().ask_again(self.now, |number| waiting.contains_key(&number));
            if meta.reads().waits_to_ask() {
                self.awake.insert(GroupId::META);
            }
        }
    }

    /// Begins a question to the quorum for the reads that wait, unless the lease covers them.
    pub(super) fn ask_for_reads(&mut self, id: GroupId) {
        let Engine { groups, looks, now, .. } = self;
        if let Some(group) = groups.get_mut(id) {
            group.ask_for_reads(*now, || looks.next_number());
        }
    }

    /// Answers every read that may be answered now.
    pub(super) fn answer_reads(&mut self, host: &mut dyn Host) -> Result<()> {
        self.now = host.now();
        for id in std::mem::take(&mut self.asked) {
            let now = self.now;
            let group = self.group(id);
            let (waiting, known) = group.reads_with();
            let Ripe { reads, looks } = waiting.take_ripe(&known, now);
            if !waiting.is_empty() {
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
        let group = self.groups.get(id).expect("reads wait only in groups that are there");
        let rows = SeenRows(group.reader(&self.view));
        let reply: Reply = query.answer(self.topology(), &rows)?;
        self.finish(asker, id, reply, host)
    }
}
