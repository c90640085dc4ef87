//! Carries out what `promise` decides: who is asked for a vote, and who stands for election before
//! raft-rs would have it stand.
//!
//! raft-rs holds elections; what stands here keeps them from breaking a lease, and begins them
//! early when that is safe. Groups that were just restored have no leader and no promises. Nobody
//! waits for a time-out there: their voters stand one after the other, as soon as a group takes
//! part.

use std::time::Duration;

use raft::{
    StateRole,
    eraftpb::{Message, MessageType},
};

use super::{
    Engine,
    group::Group,
    promise::{self, Step},
};
use crate::{
    base::ids::{GroupId, NodeId},
    faults::mutation::{Mutation, mutated},
};

/// What raft-rs writes into vote requests of a node that was told to take over: nobody's lease
/// stands against it.
const CAMPAIGN_TRANSFER: &[u8] = b"CampaignTransfer";

impl Engine {
    /// The last stream of a node has ended.
    pub(super) fn on_gone(&mut self, node: NodeId) {
        for group in self.groups.values_mut().filter(|g| g.raw.raft.leader_id == node.0) {
            group.promise.suspect(node);
        }
        self.take_offers_back(node);
    }

    /// Stands for election where nobody has ever been elected since the restore and it is this
    /// node's turn. It asks again on every tick, since others may not be up yet.
    fn stand_first(&mut self) {
        let (me, active) = (self.me(), self.is_active(GroupId(0)));
        for group in self.groups.values_mut().filter(|g| active || g.id.is_meta()) {
            let raft = &group.raw.raft;
            let begins = raft.leader_id == 0
                && raft.term == group.raw.store().begin().term
                && group.installing.is_none();
            let mine =
                turn(group, me, None).is_some_and(|turn| raft.election_elapsed as u32 >= turn);
            if begins && mine && matches!(raft.state, StateRole::Follower | StateRole::PreCandidate)
            {
                let _ = group.raw.campaign();
                self.awake.insert(group.id);
            }
        }
    }

    /// Stands for election where a leader is gone and it is this node's turn.
    pub(super) fn tick_elections(&mut self) {
        if self.anew {
            self.stand_first();
        }
        let (me, now) = (self.me(), self.now);
        for group in self.groups.values_mut() {
            let Some(gone) = group.promise.suspected() else { continue };
            if group.installing.is_some() {
                continue;
            }
            let turn = turn(group, me, Some(gone));
            let step = group.promise.step(now, self.votes_from, turn);
            if step == Step::Wait {
                continue;
            }
            group.forget(gone);
            if step == Step::Stand && group.raw.raft.state == StateRole::Follower {
                // raft-rs refuses where this makes no sense; the time-out is still there.
                let _ = group.raw.campaign();
            }
            self.awake.insert(group.id);
        }
    }
}

impl Group {
    /// Whether raft-rs may see a message. A vote is not asked of it while it is promised to a
    /// leader, nor of a replica that has ended (`endings`): it would not see whose log lacks what
    /// it acknowledged. Takes note of leaders on the way.
    pub(super) fn may_take(
        &mut self,
        message: &Message,
        now: Duration,
        votes_from: Duration,
    ) -> bool {
        let leads = matches!(
            message.msg_type,
            MessageType::MsgAppend | MessageType::MsgHeartbeat | MessageType::MsgSnapshot
        );
        if leads && message.term >= self.term() {
            self.promise.hear(now);
        }
        if !matches!(message.msg_type, MessageType::MsgRequestVote | MessageType::MsgRequestPreVote)
        {
            return true;
        }
        if self.ended && !mutated(Mutation::EndedVotes) {
            return false;
        }
        let named = message.context[..] == *CAMPAIGN_TRANSFER;
        if !self.promise.lets_vote(now, votes_from, named) {
            return false;
        }
        if let Some(gone) = self.promise.suspected() {
            self.forget(gone);
        }
        true
    }

    /// Has raft-rs forget a leader whose process may be gone and whose promise is over, so that it
    /// votes at once.
    fn forget(&mut self, gone: NodeId) {
        let raft = &mut self.raw.raft;
        if raft.leader_id == gone.0 && raft.state == StateRole::Follower {
            raft.become_follower(raft.term, 0);
        }
    }
}

/// After how many ticks this node stands in a group whose leader is gone.
fn turn(group: &Group, me: NodeId, gone: Option<NodeId>) -> Option<u32> {
    let voters = group.members().voters.iter().copied().filter(|n| Some(*n) != gone);
    promise::turn(group.id.0, voters, me)
}
