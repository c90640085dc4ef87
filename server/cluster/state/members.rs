//! Who is a member, what is assigned to whom, and what all members know.
//!
//! A node becomes a member when it joins, and stays one until it is removed, for good. Both place
//! all groups anew, on the nodes that live as far as whoever asks knows (`Away`). Whether a node
//! that is removed has the last copy of anything is not known here: whoever asks has looked, and
//! names what was seen (`Etag`).
//!
//! A node that is decommissioned leaves in three steps, so that nothing is ever short of a copy: it
//! is marked as leaving, and its groups are placed on others; the leaders of the groups bring that
//! about (`reconfigure`); and once it holds nothing any more it says so, and is removed.
//!
//! Where joins need a token, a machine that is not a member yet becomes one by a ticket alone, and
//! spends one use of its token in the same command.
//!
//! A node that proves its name by a certificate keeps that name: nobody with another one is taken
//! for it.
//!
//! A node that is removed or decommissioned may have a replacement: an empty node that takes its
//! places, all of them and no others, so that nothing else moves.

use std::collections::{BTreeMap, BTreeSet};

use super::{Effects, State};
use crate::{
    base::{
        error::{Error, Result},
        ids::{GroupId, NodeId},
        limits,
    },
    cluster::{
        access::Ticket,
        command::{Away, Changed, Etag, Event, Node, Outcome, Removed},
        level::Level,
        operations::Progress,
        placement::{self, Assignments},
        snapshots::Part,
    },
    faults::mutation::{Mutation, mutated},
};

impl State {
    /// A known node says where it is now; a new one is given its share of the groups.
    ///
    /// An address that another node has announced is taken as it comes: after a restore on other
    /// machines addresses may have changed places, and until all have announced themselves two
    /// share one. Nothing depends on it, since nodes name the id they want to reach, and another
    /// one declines.
    pub(super) fn announce_node(&mut self, node: &Node, effects: &mut Effects) -> Result<Outcome> {
        let (outcome, is_new) = self.note_node(node, None, effects)?;
        if is_new {
            self.assign(&Away::new(), effects);
        }
        Ok(outcome)
    }

    /// A node is given its share of the groups if it is new, or holds nothing.
    pub(super) fn join_node(
        &mut self,
        node: &Node,
        away: &Away,
        ticket: Option<&Ticket>,
        effects: &mut Effects,
    ) -> Result<Outcome> {
        let (outcome, is_new) = self.note_node(node, ticket, effects)?;
        let gets_share = self.is_idle(node.id) && !self.nodes[&node.id].leaving;
        if !is_new && !gets_share {
            return Ok(outcome);
        }
        let before = effects.changed.len();
        self.assign(away, effects);
        let changed = outcome.changed() || effects.changed.len() > before;
        Ok(Outcome::Done { changed })
    }

    fn note_node(
        &mut self,
        node: &Node,
        ticket: Option<&Ticket>,
        effects: &mut Effects,
    ) -> Result<(Outcome, bool)> {
        node.check()?;
        let known = self.nodes.get(&node.id);
        if known.is_none() && self.nodes.len() >= limits::NODES_MAX {
            return Err(Error::conflict(format!(
                "node {} cannot join: a cluster has at most {} nodes",
                node.id,
                limits::NODES_MAX
            )));
        }
        if let Some(removed) = self.removed.get(&node.id) {
            return Err(Error::conflict(Removed::refusal(removed.id)));
        }
        if node.level < self.settings.level {
            return Err(Error::conflict(format!(
                "node {} runs version {}, which knows levels up to {}, and this cluster is at \
                 level {}: upgrade that node",
                node.id, node.version, node.level, self.settings.level
            )));
        }
        let name = node.certificate_name.as_ref();
        if let Some(why) = known.zip(name).and_then(|(known, name)| known.misnamed(name)) {
            return Err(Error::conflict(why));
        }
        let certificate_name = known.and_then(|k| k.certificate_name.as_ref()).or(name).cloned();
        // Its capacity was given when it joined or later; a restart does not move data.
        let now = Node {
            capacity_percent: known.map_or(node.capacity_percent, |k| k.capacity_percent),
            leaving: known.is_some_and(|k| k.leaving),
            draining: known.is_some_and(|k| k.draining),
            certificate_name,
            ..node.clone()
        };
        if known == Some(&now) {
            return Ok((Outcome::Done { changed: false }, false));
        }
        if known.is_none() && self.settings.joins_need_token {
            let token = self.access.spend_join(ticket, self.settings.lineage)?;
            effects.changed.push(Changed::Token(token));
            effects.events.push(Event::AccessChanged);
        }
        let is_new = self.nodes.insert(node.id, now).is_none();
        effects.events.push(Event::NodeChanged(node.id));
        Ok((effects.row(Changed::Node(node.id)), is_new))
    }

    /// A node has a name from now on by which it proves who it is. The first one stays, unless an
    /// operator says so.
    pub(super) fn bind_node(
        &mut self,
        id: NodeId,
        name: &str,
        anew: bool,
        effects: &mut Effects,
    ) -> Result<Outcome> {
        let known = self.member(id)?;
        let now = Node { certificate_name: Some(name.to_owned()), ..known.clone() };
        now.check()?;
        if now == *known {
            return Ok(Outcome::Done { changed: false });
        }
        if let Some(why) = known.misnamed(name).filter(|_| !anew) {
            return Err(Error::conflict(why));
        }
        self.nodes.insert(id, now);
        Ok(effects.row(Changed::Node(id)))
    }

    /// Whether a node holds nothing.
    pub fn is_idle(&self, node: NodeId) -> bool {
        !self.assignments.values().any(|nodes| nodes.contains(&node))
    }

    /// Names the members and what is assigned to them (blake3, cut to 8 bytes).
    pub fn etag(&self) -> Etag {
        let mut hash = blake3::Hasher::new();
        for node in self.nodes.values() {
            hash.update(&node.id.0.to_be_bytes());
            hash.update(&node.capacity_percent.to_be_bytes());
            hash.update(&[u8::from(node.leaving) | u8::from(node.draining) << 1]);
        }
        for (group, nodes) in &self.assignments {
            hash.update(&group.0.to_be_bytes());
            hash.update(&(nodes.len() as u64).to_be_bytes());
            for node in nodes {
                hash.update(&node.0.to_be_bytes());
            }
        }
        let mut first = [0; 8];
        first.copy_from_slice(&hash.finalize().as_bytes()[..8]);
        Etag(u64::from_be_bytes(first))
    }

    /// Where the groups would be if a node had another share.
    pub fn assignments_with(&self, node: NodeId, percent: u32, away: &Away) -> Assignments {
        let mut nodes: Vec<Node> = self.staying().cloned().collect();
        nodes.iter_mut().filter(|n| n.id == node).for_each(|n| n.capacity_percent = percent);
        self.placed_on(nodes.iter(), &self.assignments, away)
    }

    /// Replicas that nodes would get which they do not have.
    pub fn moves_to(&self, after: &Assignments) -> usize {
        let moved = after.iter().map(|(group, nodes)| {
            let before = self.assignments.get(group).map_or(&[][..], Vec::as_slice);
            nodes.iter().filter(|node| !before.contains(node)).count()
        });
        moved.sum()
    }

    /// Where the groups would be without a node: at its replacement, if it has one.
    pub fn assignments_without(
        &self,
        node: NodeId,
        by: Option<NodeId>,
        away: &Away,
    ) -> Assignments {
        if let Some(by) = by {
            return self.assignments_by(node, by);
        }
        let others = self.staying().filter(|other| other.id != node);
        self.placed_on(others, &self.assignments, away)
    }

    /// Whether a node holds nothing and gets nothing: it may replace another one.
    pub fn is_spare(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|n| n.capacity_percent == 0 && !n.leaving)
            && self.is_idle(node)
    }

    /// Where the groups would be if they were placed now.
    pub fn assignments_placed(&self, away: &Away) -> Assignments {
        self.placed(&self.assignments, away)
    }

    fn assignments_by(&self, old: NodeId, by: NodeId) -> Assignments {
        let mut after = self.assignments.clone();
        let places = after.values_mut().flat_map(|nodes| nodes.iter_mut());
        places.filter(|node| **node == old).for_each(|node| *node = by);
        after
    }

    /// Whether a node can take the places of another one: it holds nothing, so that it gets just
    /// these.
    pub fn may_replace(&self, old: NodeId, by: NodeId) -> Result<()> {
        let leaving = self.member(by)?.leaving;
        if by != old && self.is_spare(by) {
            return Ok(());
        }
        let why = if by == old {
            "it is the node itself".into()
        } else if leaving {
            "it is leaving".into()
        } else {
            format!(
                "it has a share of the groups. Name a node that was started with --replacement, \
                 or have this one hold nothing first: ddbctl node set {by} --capacity 0"
            )
        };
        Err(Error::conflict(format!("node {by} cannot replace node {old}: {why}")))
    }

    fn replace(&mut self, old: NodeId, by: NodeId, effects: &mut Effects) -> Result<()> {
        self.may_replace(old, by)?;
        let percent = match self.member(old)?.capacity_percent {
            0 => limits::CAPACITY_PERCENT_USUAL,
            percent => percent,
        };
        self.nodes.get_mut(&by).expect("it may replace one").capacity_percent = percent;
        effects.changed.push(Changed::Node(by));
        let after = self.assignments_by(old, by);
        self.reassign(after, effects);
        Ok(())
    }

    /// What the node holds goes to others, nobody waits for its parts any more, and it never comes
    /// back. Whether its data is somewhere else is not known here: whoever asks has looked.
    pub(super) fn remove_node(
        &mut self,
        id: NodeId,
        removed_ms: u64,
        seen: Etag,
        (by, away): (Option<NodeId>, &Away),
        effects: &mut Effects,
    ) -> Result<Outcome> {
        if self.removed.contains_key(&id) {
            return Ok(Outcome::Done { changed: false });
        }
        let Some(node) = self.nodes.get(&id) else {
            return Err(Error::not_found(format!("there is no node {id}")));
        };
        if self.nodes.len() == 1 {
            return Err(Error::conflict(format!(
                "node {id} is the last one, and a cluster has at least one"
            )));
        }
        self.was_seen(seen)?;
        let address = node.address.clone();
        if let Some(by) = by {
            self.replace(id, by, effects)?;
        }
        self.take_out(Removed { id, address, removed_ms, decommissioned: false }, effects);
        if by.is_none() && !mutated(Mutation::RemovedKeepsItsPlace) {
            self.assign(away, effects);
        }
        Ok(Outcome::Done { changed: true })
    }

    /// A plan is carried out only on what it was made for.
    pub(super) fn was_seen(&self, seen: Etag) -> Result<()> {
        if seen == self.etag() {
            return Ok(());
        }
        Err(Error::conflict("nodes or their groups have changed since it was planned; ask again"))
    }

    pub(super) fn member(&self, id: NodeId) -> Result<&Node> {
        self.nodes.get(&id).ok_or_else(|| match self.removed.get(&id) {
            Some(_) => Error::conflict(format!("node {id} is no member any more")),
            None => Error::not_found(format!("there is no node {id}")),
        })
    }

    pub(super) fn decommission(
        &mut self,
        id: NodeId,
        seen: Etag,
        (by, away): (Option<NodeId>, &Away),
        effects: &mut Effects,
    ) -> Result<Outcome> {
        if self.removed.get(&id).is_some_and(|removed| removed.decommissioned)
            || self.member(id)?.leaving
        {
            return Ok(Outcome::Done { changed: false });
        }
        if self.staying().all(|node| node.id == id) {
            return Err(Error::conflict(format!(
                "node {id} is the last one that stays, and a cluster has at least one"
            )));
        }
        self.was_seen(seen)?;
        let Some(by) = by else {
            return Ok(self.change(id, |node| node.leaving = true, away, effects));
        };
        self.replace(id, by, effects)?;
        self.nodes.get_mut(&id).expect("it is a member").leaving = true;
        Ok(effects.row(Changed::Node(id)))
    }

    pub(super) fn cancel_decommission(
        &mut self,
        id: NodeId,
        away: &Away,
        effects: &mut Effects,
    ) -> Result<Outcome> {
        if !self.member(id)?.leaving {
            return Ok(Outcome::Done { changed: false });
        }
        self.end_running_on(id, Progress::Cancelled, 0, effects);
        Ok(self.change(id, |node| node.leaving = false, away, effects))
    }

    pub(super) fn set_capacity(
        &mut self,
        id: NodeId,
        percent: u32,
        away: &Away,
        effects: &mut Effects,
    ) -> Result<Outcome> {
        let now = Node { capacity_percent: percent, ..self.member(id)?.clone() };
        now.check()?;
        if now == self.nodes[&id] {
            return Ok(Outcome::Done { changed: false });
        }
        Ok(self.change(id, |node| node.capacity_percent = percent, away, effects))
    }

    fn change(
        &mut self,
        id: NodeId,
        change: impl FnOnce(&mut Node),
        away: &Away,
        effects: &mut Effects,
    ) -> Outcome {
        if let Some(node) = self.nodes.get_mut(&id) {
            change(node);
        }
        self.assign(away, effects);
        effects.row(Changed::Node(id))
    }

    pub(super) fn rebalance(
        &mut self,
        seen: Etag,
        away: &Away,
        effects: &mut Effects,
    ) -> Result<Outcome> {
        self.was_seen(seen)?;
        self.assign(away, effects);
        Ok(Outcome::Done { changed: !effects.changed.is_empty() })
    }

    /// The node has seen to it that all of its replicas are gone.
    pub(super) fn decommissioned(
        &mut self,
        id: NodeId,
        removed_ms: u64,
        effects: &mut Effects,
    ) -> Result<Outcome> {
        if self.removed.contains_key(&id) {
            return Ok(Outcome::Done { changed: false });
        }
        let node = self.member(id)?;
        if !node.leaving {
            return Err(Error::conflict(format!("node {id} is not leaving")));
        }
        let address = node.address.clone();
        self.take_out(Removed { id, address, removed_ms, decommissioned: true }, effects);
        Ok(Outcome::Done { changed: true })
    }

    fn take_out(&mut self, removed: Removed, effects: &mut Effects) {
        let id = removed.id;
        // Only a decommission comes true by this, or the replacement of a node that was leaving.
        let how = if removed.decommissioned { Progress::Done } else { Progress::Cancelled };
        self.end_running_on(id, how, removed.removed_ms, effects);
        let why = if removed.decommissioned { "the node has left" } else { "the node was removed" };
        self.removed.insert(id, removed);
        self.nodes.remove(&id);
        effects.changed.extend([Changed::Node(id), Changed::Removed(id)]);
        effects.events.push(Event::NodeRemoved(id));
        for snapshot in self.snapshots.values_mut() {
            let waits = snapshot.parts.get(&id).is_some_and(|part| !part.is_final());
            if waits && snapshot.report(&Part::missing(id, why)) {
                effects.changed.push(Changed::Snapshot(snapshot.seq));
            }
        }
        let deleting = self.snapshots.values().filter(|snapshot| snapshot.deleting.is_some());
        for seq in deleting.map(|snapshot| snapshot.seq).collect::<Vec<_>>() {
            if self.is_gone(seq) {
                self.forget(seq, self.snapshots[&seq].id, effects);
            }
        }
    }

    pub(super) fn assign(&mut self, away: &Away, effects: &mut Effects) {
        let new = self.placed(&self.assignments, away);
        self.reassign(new, effects);
    }

    fn reassign(&mut self, new: Assignments, effects: &mut Effects) {
        let before = effects.changed.len();
        let changed = new
            .iter()
            .filter(|(group, nodes)| self.assignments.get(group) != Some(nodes))
            .map(|(group, _)| Changed::Assignment(*group));
        effects.changed.extend(changed);
        if effects.changed.len() > before {
            effects.events.push(Event::AssignmentsChanged);
        }
        self.assignments = new;
    }

    pub(super) fn placed(&self, old: &Assignments, away: &Away) -> Assignments {
        self.placed_on(self.staying(), old, away)
    }

    fn staying(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values().filter(|node| !node.leaving)
    }

    pub(super) fn placed_on<'a>(
        &self,
        nodes: impl Iterator<Item = &'a Node>,
        old: &Assignments,
        away: &Away,
    ) -> Assignments {
        let capacities: BTreeMap<NodeId, u32> = nodes.map(|n| (n.id, n.capacity_percent)).collect();
        let factor = self.settings.replication_factor;
        let capacities = placement::living(capacities, away, old, factor);
        let groups = self.settings.topology.group_ids();
        let drained = self.nodes.values().filter(|node| node.draining).map(|node| node.id);
        let drained: BTreeSet<NodeId> = drained.collect();
        let new = placement::place(&capacities, old, groups, factor);
        let mut new = placement::give_nothing(&drained, &capacities, old, new);
        let voters = old.get(&GroupId::META).map_or(&[][..], Vec::as_slice);
        let mut may_vote = capacities.clone();
        may_vote.retain(|node, _| voters.contains(node) || !drained.contains(node));
        let able = if may_vote.is_empty() { &capacities } else { &may_vote };
        new.insert(GroupId::META, placement::meta_voters(able, voters));
        new
    }

    pub(super) fn raise_level(&mut self, level: Level, effects: &mut Effects) -> Result<Outcome> {
        if level <= self.settings.level {
            return Ok(Outcome::Done { changed: false });
        }
        let behind: Vec<String> = self
            .nodes
            .values()
            .filter(|node| node.level < level)
            .map(|node| format!("node {} at {} runs {}", node.id, node.address, node.version))
            .collect();
        if !behind.is_empty() {
            return Err(Error::conflict(format!(
                "not every node knows level {level}: {}; upgrade them first",
                behind.join(", ")
            )));
        }
        self.settings.level = level;
        Ok(effects.row(Changed::Settings))
    }
}
