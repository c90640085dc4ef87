//! Who is in a group: changes of members as they are committed, the next step towards the wanted
//! ones, and rows for members that lack entries.

use std::time::Duration;

use bytes::Bytes;

use super::{
    super::consensus::{Announced, Change, Role, Stored, offers::Offers},
    Group,
};
use crate::{
    base::{error::Result, ids::NodeId, limits},
    cluster::reconfigure::{self, Seen, Step, Wait},
    entry::Record,
    faults::failpoint::{Failpoint, failpoint},
    log::Batch,
};

impl Group {
    // ---- As committed. ----

    /// Puts into the batch that everything up to an index is committed.
    pub fn persist_commit(&mut self, index: u64, batch: &mut Batch) -> Result<()> {
        self.raft.persist_commit(index, batch)
    }

    /// A change of members is committed at an index. `Corrupt` where no version could make it.
    pub fn change_members(&mut self, change: Change, index: u64) -> Result<()> {
        let was_member = self.members().has(change.node);
        let members = self.raft.change(change)?;
        self.left &= change.node != self.raft.me() || change.to == Role::Nothing;
        self.changed_at = index;
        if self.leads() && !was_member && members.has(change.node) {
            self.tenures.begin(self.term(), change.node, index);
        }
        self.record.members = members;
        failpoint(Failpoint::MembersChanged);
        Ok(())
    }

    /// Whether a node has the last change of members in its log, as this leader knows.
    pub fn has_last_change(&self, node: NodeId) -> bool {
        node == self.raft.me() || self.raft.matched(node) >= self.changed_at
    }

    // ---- Towards the wanted members. ----

    /// This node is to give the group up, and hears of nothing that happens after it has left.
    pub fn leave(&mut self) {
        self.left = true;
    }

    /// Whether this node was to give the group up and has not become a member again since.
    pub fn was_left(&self) -> bool {
        self.left
    }

    /// The next step towards the wanted members, if there is one to take now. What the group waits
    /// for is remembered, and since when.
    pub fn next_step(&mut self, wanted: &reconfigure::Wanted, now: Duration) -> Option<Step> {
        let me = self.raft.me();
        let members = self.members();
        let step = self.seen(|seen| reconfigure::next_step(members, wanted, me, seen));
        // Most groups are at rest at most times.
        let waits = step.is_none() && !wanted.is_met_by(members);
        let waits = waits
            .then(|| self.seen(|seen| reconfigure::why_not(members, wanted, me, seen)))
            .flatten();
        self.waits = waits.map(|wait| match self.waits {
            Some((before, since)) if before == wait => (wait, since),
            _ => (wait, now),
        });
        step
    }

    /// What the group waits for, and for how long already.
    pub fn wait(&self, wanted: &reconfigure::Wanted, now: Duration) -> Option<(Wait, Duration)> {
        if !self.may_change_members() {
            return None;
        }
        let me = self.raft.me();
        let wait = self.seen(|seen| reconfigure::why_not(self.members(), wanted, me, seen))?;
        let since = self.waits.filter(|(before, _)| *before == wait).map_or(now, |w| w.1);
        Some((wait, now.saturating_sub(since)))
    }

    /// Whether this replica leads, and no change of members is under way.
    pub fn may_change_members(&self) -> bool {
        self.knows_all() && !self.raft.is_changing()
    }

    /// How this leader sees the members.
    fn seen<T>(&self, look: impl FnOnce(Seen<'_>) -> T) -> T {
        look(Seen {
            caught_up: &|node| self.is_caught_up(node),
            knows: &|node| self.knows_last_change(node),
            alive: &|node| self.raft.may_be_alive(node),
        })
    }

    /// Whether a member's log is nearly as long as this leader knows that the group has agreed.
    fn is_caught_up(&self, node: NodeId) -> bool {
        let matched = self.raft.matched(node);
        matched > 0 && matched + limits::CAUGHT_UP_ENTRIES > self.raft.commit()
    }

    /// Whether a member has said that it knows that the last change of members is committed. It has
    /// applied it then before it takes anything else that this leader says.
    pub(super) fn knows_last_change(&self, node: NodeId) -> bool {
        self.raft.known_committed(node) >= self.changed_at
    }

    pub fn take_step(&mut self, step: Step, now: Duration) {
        let (node, to, proposed) = match step {
            Step::AddLearner(node) => (node, Role::Learner, Failpoint::LearnerProposed),
            Step::Promote(node) => (node, Role::Voter, Failpoint::PromotionProposed),
            Step::Remove(node) => (node, Role::Nothing, Failpoint::RemovalProposed),
            Step::HandOver(node) => {
                self.hand_over(node, now);
                return;
            }
        };
        self.raft.propose_change(Change { node, to });
        failpoint(proposed);
    }

    // ---- Rows in place of entries. ----

    /// Whether some member is offered rows in place of entries.
    pub fn offers_rows(&self) -> bool {
        !self.raft.offers().is_empty()
    }

    /// How many members are being sent rows.
    pub fn rows_under_way(&self) -> usize {
        self.raft.offers().under_way()
    }

    /// Members that wait for rows, and whether those that the store has would do.
    pub fn rows_wanted(&mut self) -> Vec<(NodeId, bool)> {
        let stored = Stored {
            at: self.stored.applied,
            members: &self.stored.members,
            changed_at: self.changed_at,
            log_begins: self.raft.begin().index,
        };
        let offers = self.raft.offers_mut();
        offers.keep_members(&self.record.members);
        offers.wanted().map(|member| (member, Offers::would_do(&stored, member))).collect()
    }

    /// The stored rows are sent to a member. What is announced once they are there, and the record
    /// that they come with.
    pub fn send_rows(&mut self, to: NodeId, name: Bytes) -> (Announced, &Record) {
        let at = self.stored.applied;
        self.raft.offers_mut().send(to, at);
        (Announced { at, members: self.stored.members.clone(), name }, &self.stored)
    }

    /// Rows were sent to a member, and have arrived if they are announced. Whether anybody waited.
    pub fn rows_sent(&mut self, to: NodeId, announced: Option<Announced>, now: Duration) -> bool {
        let Some(announced) = announced else { return self.raft.offers_mut().failed(to) };
        let waited = self.raft.offers_mut().arrived(to, announced, now);
        if waited {
            self.raft.announce();
        }
        waited
    }

    /// A member's process has ended, and with it the rows that it had not put in place.
    pub fn take_offer_back(&mut self, member: NodeId) {
        self.raft.take_offer_back(member);
    }

    /// Forgets offers that have done their work, and those that have not within their time.
    pub fn review_offers(&mut self, now: Duration) {
        self.raft.review_offers(now);
    }
}
