//! Carries out what `promise` decides: who is asked for a vote, and who stands for election before
//! raft-rs would have it stand.
//!
//! raft-rs holds elections; what stands here keeps them from breaking a lease, and begins them
//! early when that is safe. Groups that were just restored have no leader and no promises. Nobody
//! waits for a time-out there: their voters stand one after the other, as soon as a group takes
//! part.

use super::Engine;
use crate::base::ids::{GroupId, NodeId};

impl Engine {
    /// The last stream of a node has ended.
    pub(super) fn on_gone(&mut self, node: NodeId) {
        self.groups.all_mut().for_each(|group| group.suspect(node));
        self.take_offers_back(node);
    }

    /// Stands for election where nobody has ever been elected since the restore and it is this
    /// node's turn. It asks again on every tick, since others may not be up yet.
    fn stand_first(&mut self) {
        let active = self.is_active(GroupId(0));
        for group in self.groups.all_mut().filter(|g| active || g.id().is_meta()) {
            if group.stand_first() {
                self.awake.insert(group.id());
            }
        }
    }

    /// Stands for election where a leader is gone and it is this node's turn.
    pub(super) fn tick_elections(&mut self) {
        if self.anew {
            self.stand_first();
        }
        for group in self.groups.all_mut() {
            if group.follow_suspicion(self.now, self.votes_from) {
                self.awake.insert(group.id());
            }
        }
    }

    /// A group whose only voter is this node need not wait for an election.
    pub(super) fn campaign_if_sole_voter(&mut self) {
        for group in self.groups.all_mut().filter(|group| group.is_sole_voter()) {
            group.stand();
        }
    }
}
