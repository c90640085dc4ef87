//! The end of a replica that its group does not need any more: its rows are deleted, its log is cut
//! off, and its term and vote stay.
//!
//! A replica is *left over* once the meta group has assigned its group to others and the group has
//! removed it. Of the second it need not hear: who is no member is told nothing. So while it is not
//! assigned, it asks the nodes that are (`EndRequest`), and whoever leads answers (`MayEnd`), if
//!
//! - the replica is no member, by a change that the leader has applied, and
//! - most of the present voters have that change in their logs, so that what was acknowledged has
//!   its copies without this one.
//!
//! # Why that is safe
//!
//! To all others the replica that ends is one that has crashed and never comes back, which Raft
//! allows at any time; and what comes in its place is a new one.
//!
//! - It never votes, until it has rows again. Members that lag may still stand for election among
//!   those of some time ago, and its log would keep one from being elected that lacks what was
//!   acknowledged. Without the log it could not tell (`elections`).
//! - What it acknowledged counts for nothing that comes later (`tenure`), and what was said to it
//!   is not heard. The new replica begins behind the change that made its node a member again, so
//!   it has all that the old one had acknowledged before it votes (`Engine::tick_offers`).
//! - Between the answer and its arrival the node may have become a member again, and have
//!   acknowledged entries as such. It then has heard of a later term or tenure, and does not end.
//!
//! # Steps
//!
//! 1. One transaction deletes the rows, and leaves a record that has applied nothing, which says
//!    where the replica has ended. It is made beside the loop; meanwhile nothing else happens in
//!    the group, as while rows are installed.
//! 2. The log begins again at nothing, in the leader's term; a vote of that term stays. A start
//!    that finds such a record does this again.
//! 3. The replica is opened anew, and knows nothing. If the node is to hold the group again, it is
//!    sent the rows, as any that is new.
//!
//! A node that is being decommissioned departs when all of its replicas have ended, it does not
//! vote in the meta group, and it writes no part of a snapshot. It says so itself, and again until
//! the cluster knows.
//!
//! One replica ends at a time, so that checkpoints come in between. Those of the meta group do not
//! end: every node follows it. The store reuses the pages of deleted rows; its file does not become
//! shorter. A replica whose rows a cut has still to capture waits until they are.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Engine, Host, Job, News,
    consensus::GroupLog,
    group::{Group, Installing},
    message,
};
use crate::{
    base::{
        error::Result,
        ids::{GroupId, NodeId},
        limits,
    },
    cluster::{
        level::Level,
        snapshots::{Snapshot, Status},
    },
    data,
    entry::{Position, Record},
    faults::{
        failpoint::{Failpoint, failpoint},
        mutation::{Mutation, mutated},
    },
    log::Batch,
    proto::internal::v1::{EndRequest, MayEnd, peer_message},
    store::View,
    wire,
};

/// What a node has asked about its replicas that are left over.
#[derive(Debug, Default)]
pub(super) struct Endings {
    /// The last question of each group, by its number.
    asked: BTreeMap<GroupId, u64>,
    /// The group whose replica ends at this moment, and what its leader said.
    under_way: Option<(GroupId, MayEnd)>,
}

impl Engine {
    /// Whether a replica here holds something that nobody needs, as far as this node knows.
    fn is_left_over(&self, group: &Group) -> bool {
        let me = self.me();
        let assigned = self.meta.assignments().get(&group.id()).is_none_or(|n| n.contains(&me));
        group.was_left()
            && !assigned
            && !group.leads()
            && group.is_something()
            && !group.is_installing()
    }

    /// Asks whether the replicas that are left over may end.
    pub(super) fn tick_endings(&mut self, host: &mut dyn Host) {
        if self.ticks.is_multiple_of(limits::END_TICKS) {
            self.ask_to_end(host);
            if self.may_depart() {
                host.tell(News::Departs);
            }
        }
    }

    /// Whether this node is being decommissioned, and nobody needs it any more.
    fn may_depart(&self) -> bool {
        let me = self.me();
        let writes = |snapshot: &Snapshot| {
            snapshot.parts.get(&me).is_some_and(|part| part.status == Status::Processing)
        };
        let is_needed = |group: &Group| {
            if group.id().is_meta() {
                group.members().voters.contains(&me)
            } else {
                group.is_something()
            }
        };
        self.meta.node(me).is_some_and(|node| node.leaving)
            && (mutated(Mutation::DepartsEarly) || !self.groups.all().any(is_needed))
            && !self.meta.snapshots().values().any(writes)
    }

    fn ask_to_end(&mut self, host: &mut dyn Host) {
        self.endings.asked.clear();
        if self.meta.settings().level < Level::DEPARTURE || self.endings.under_way.is_some() {
            return;
        }
        let left_over = self.groups.all().filter(|group| self.is_left_over(group));
        for id in left_over.map(|group| group.id()).collect::<Vec<_>>() {
            let number = self.rng.next_u64();
            self.endings.asked.insert(id, number);
            for node in self.meta.assignments().get(&id).cloned().unwrap_or_default() {
                let asks = peer_message::Body::EndRequest(EndRequest { id: number });
                self.send(node, message(id, asks), host);
            }
        }
    }

    /// Another node asks whether its replica may end.
    pub(super) fn on_end_request(
        &mut self,
        from: NodeId,
        id: GroupId,
        asked: EndRequest,
        host: &mut dyn Host,
    ) {
        let Some(group) = self.groups.get(id).filter(|group| group.leads()) else { return };
        let members = group.members();
        if members.has(from) {
            return;
        }
        if !group.knows_all() || !most(&members.voters, |node| group.has_last_change(node)) {
            return;
        }
        let may = MayEnd { id: asked.id, term: group.term(), index: group.applied().index };
        self.send(from, message(id, peer_message::Body::MayEnd(may)), host);
    }

    /// The leader says that a replica here may end.
    pub(super) fn on_may_end(
        &mut self,
        id: GroupId,
        may: MayEnd,
        host: &mut dyn Host,
    ) -> Result<()> {
        if self.endings.asked.get(&id) != Some(&may.id) || self.endings.under_way.is_some() {
            return Ok(());
        }
        let Some(group) = self.groups.get(id).filter(|group| self.is_left_over(group)) else {
            return Ok(());
        };
        if group.is_back(may.term, may.index) {
            return Ok(());
        }
        failpoint(Failpoint::EndBegun);
        let waiting = self.group(id).give_back();
        self.give_back(id, waiting, host);
        self.group(id).install(Installing::Nothing);
        self.checkpoints.count_again();
        self.endings.under_way = Some((id, may));
        for rows in self.arrived.remove(&id).unwrap_or_default() {
            host.discard(rows);
        }
        let record =
            wire::encode_record(&Record::ended_at(Position { index: may.index, term: may.term }));
        host.start(Job::End { group: id, record })
    }

    /// The rows are deleted: the log goes too, and the replica knows nothing from now on.
    pub(super) fn on_ended(&mut self, id: GroupId, view: View, host: &mut dyn Host) -> Result<()> {
        self.view = std::sync::Arc::new(view);
        let (_, may) = self.endings.under_way.take().expect("one that ends was told that it may");
        let mut batch = Batch::default();
        self.group(id).end_log(may.term, &mut batch)?;
        self.log.write(&mut batch, true)?;
        failpoint(Failpoint::EndLogCut);
        let machine = data::Machine::open(self.topology(), id, data::State::default(), [])?;
        let log = GroupLog::open(self.log.clone(), id, Position::default(), Default::default())?;
        let new = Group::open(self.me(), id, log, Record::default(), Some(machine), &mut self.rng)?;
        self.group(id).begin_anew(new, Position { index: may.index, term: may.term });
        self.note_departures();
        host.tell(News::Ended { group: id });
        failpoint(Failpoint::EndNoted);
        self.ask_to_end(host);
        host.start(Job::Purge)
    }
}

/// Whether most of the present voters have the last change of members, and so all before it. Those
/// of before agreed on it: that may have been the leader and the replica that asks, and nobody who
/// stays.
fn most(voters: &BTreeSet<NodeId>, have: impl Fn(NodeId) -> bool) -> bool {
    voters.iter().filter(|voter| have(**voter)).count() * 2 > voters.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nodes 1, 2 and 3 have become 1 and 2 by an entry that only 1 and 3 have. If 3 forgot it,
    /// what those two acknowledged would be on one disk.
    #[test]
    fn a_change_that_only_the_leader_and_the_one_that_goes_have_is_not_everywhere() {
        let voters = |ids: &[u64]| ids.iter().copied().map(NodeId).collect::<BTreeSet<_>>();
        let leads = |node: NodeId| node == NodeId(1);
        assert!(!most(&voters(&[1, 2]), leads));
        assert!(!most(&voters(&[1, 2, 4]), leads));
        assert!(most(&voters(&[1, 2, 4]), |node| leads(node) || node == NodeId(4)));
        assert!(most(&voters(&[1]), leads));
    }
}
