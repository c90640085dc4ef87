//! Who may be voted for when, and what shortens the time without a leader.
//!
//! raft-rs holds elections; what stands here keeps them from breaking a lease, and begins them early when that is safe.
//!
//! - Whoever follows a leader promises it a little more than its lease: it votes for nobody else before `promised_until`, also when raft-rs has forgotten the leader.
//! - A node that has restarted may have promised just before: it votes for nobody until a promise has passed (`votes_from`).
//! - When a node's last stream ends, its process may be gone. The groups that it leads need not wait for a time-out then: once the promise is over and the
//!   leader has not been heard again, it is forgotten, and its voters stand one after the other, so that they do not split the vote. A stream that broke
//!   while the leader lives costs nothing: it is heard again within its promise.
//! - Groups that were just restored have no leader and no promises. Nobody waits for a time-out: their voters stand one after the other, as soon as a group
//!   takes part.

use std::time::Duration;

use raft::{
    StateRole,
    eraftpb::{Message, MessageType},
};

use super::{Engine, group::Group};
use crate::{
    ids::{GroupId, NodeId},
    limits,
    planted::{Mistake, planted},
};

/// What raft-rs writes into vote requests of a node that was told to take over: nobody's lease stands against it.
const CAMPAIGN_TRANSFER: &[u8] = b"CampaignTransfer";

impl Engine {
    /// The last stream of a node has ended.
    pub(super) fn on_gone(&mut self, node: NodeId) {
        for group in self.groups.values_mut().filter(|g| g.raw.raft.leader_id == node.0) {
            group.suspected = Some(node);
        }
        self.take_offers_back(node);
    }

    /// Stands for election where nobody has ever been elected since the restore and it is this node's turn. It asks again on every tick, since others may not be up yet.
    fn stand_first(&mut self) {
        let (me, active) = (self.me(), self.is_active(GroupId(0)));
        for group in self.groups.values_mut().filter(|g| active || g.id.is_meta()) {
            let raft = &group.raw.raft;
            let begins = raft.leader_id == 0 && raft.term == group.raw.store().begin().term && group.installing.is_none();
            let mine = turn(group, me, None).is_some_and(|turn| raft.election_elapsed as u32 >= turn);
            if begins && mine && matches!(raft.state, StateRole::Follower | StateRole::PreCandidate) {
                let _ = group.raw.campaign();
                self.awake.insert(group.id);
            }
        }
    }

    /// Stands for election where a leader is gone and it is this node's turn.
    pub(super) fn tend_elections(&mut self) {
        if self.anew {
            self.stand_first();
        }
        let (me, now) = (self.me(), self.now);
        for group in self.groups.values_mut() {
            let Some(gone) = group.suspected else { continue };
            let turn = turn(group, me, Some(gone)).map(|turn| group.promised_until + limits::TICK * (1 + turn));
            let early = (now < turn.unwrap_or(group.promised_until) || now < self.votes_from) && !planted(Mistake::VotesAtOnce);
            if early || group.installing.is_some() {
                continue;
            }
            group.forget_suspect();
            group.suspected = None;
            if turn.is_some() && group.raw.raft.state == StateRole::Follower {
                // raft-rs refuses where this makes no sense; the time-out is still there.
                let _ = group.raw.campaign();
            }
            self.awake.insert(group.id);
        }
    }
}

impl Group {
    /// Whether raft-rs may see a message: a vote is not asked of it while it is promised to a leader. Takes note of leaders on the way.
    pub(super) fn may_take(&mut self, message: &Message, now: Duration, votes_from: Duration) -> bool {
        let leads = matches!(message.msg_type, MessageType::MsgAppend | MessageType::MsgHeartbeat | MessageType::MsgSnapshot);
        if leads && message.term >= self.term() {
            self.promised_until = now + limits::PROMISE;
            self.suspected = None;
        }
        if !matches!(message.msg_type, MessageType::MsgRequestVote | MessageType::MsgRequestPreVote) {
            return true;
        }
        let promised = (now < votes_from && !planted(Mistake::VoteLost)) || (now < self.promised_until && message.context[..] != *CAMPAIGN_TRANSFER);
        if promised && !planted(Mistake::VotesAtOnce) {
            return false;
        }
        self.forget_suspect();
        true
    }

    /// Has raft-rs forget a leader whose process may be gone and whose promise is over, so that it votes at once.
    fn forget_suspect(&mut self) {
        let raft = &mut self.raw.raft;
        if self.suspected.is_some_and(|gone| raft.leader_id == gone.0) && raft.state == StateRole::Follower {
            raft.become_follower(raft.term, 0);
        }
    }
}

/// How many ticks after the first voter this one stands; none for one that has no vote. Each group begins with another voter, so that leaders spread.
fn turn(group: &Group, me: NodeId, gone: Option<NodeId>) -> Option<u32> {
    let others: Vec<NodeId> = group.members().voters.iter().copied().filter(|n| Some(*n) != gone).collect();
    let place = others.iter().position(|n| *n == me)?;
    let turn = (place + group.id.0 as usize) % others.len();
    Some(limits::STAND_APART_TICKS * turn as u32)
}
