//! Disks that are lost for good, and the repair that the manual prescribes: another machine joins,
//! and an operator removes the node that is lost.
//!
//! At most one is lost at a time: the next one only when the cluster has made up for the last.

use std::time::Duration;

use devicedb::{
    base::{
        clock::Random,
        ids::{GroupId, NodeId},
    },
    cluster,
    engine::Body,
};

use super::{REMOVALS, Story};

impl Story {
    /// Has a node's disk lost, where every group can do without it.
    pub(super) fn lose_disk(&mut self, node: usize, rng: &mut Random) {
        if !self.made_up_for() || !self.spares_any() || !self.world.nodes[node].member {
            return;
        }
        let lost = self.world.nodes[node].id;
        self.tell(format!("the disk of node {node} is lost, which was {lost}"));
        let dir = self.fresh_dir("machine");
        self.world.stop(node);
        self.world.replace(node, dir, None);
        self.world.start_later(node, Duration::from_millis(rng.below(3000)));
        self.lost.insert(lost);
        self.world.alarm(Duration::from_millis(rng.below(3000)), REMOVALS);
    }

    /// An operator removes what is lost, by whichever node, until the cluster says that it is gone.
    pub(super) fn remove_lost(&mut self) {
        let Some(lost) = self.lost.iter().next().copied() else { return };
        let up = self.world.up();
        if !up.is_empty() {
            let at = up[self.rng.below(up.len() as u64) as usize];
            let meta = self.world.engine(at).expect("it is up").meta();
            if !meta.removed().contains_key(&lost) {
                let command = cluster::Command::RemoveNode {
                    node: lost,
                    removed_ms: 0,
                    seen: meta.etag(),
                    by: None,
                    away: self.world.away(),
                };
                let wait = Duration::from_secs(2);
                self.world.request(at, GroupId::META, Body::Propose(command.into()), wait);
            }
        }
        self.world.alarm(Duration::from_millis(500 + self.rng.below(1000)), REMOVALS);
    }

    /// Whether no lost node is a member of anything any more, and all groups have the voters that
    /// they should have.
    pub(super) fn made_up_for(&mut self) -> bool {
        if self.lost.is_empty() {
            return true;
        }
        let gone = |lost: &NodeId| {
            self.world.up().into_iter().any(|node| {
                let engine = self.world.engine(node).expect("it is up");
                engine.meta().removed().contains_key(lost)
            })
        };
        if !self.lost.iter().all(gone) {
            self.restless = format!("{:?} are not removed", self.lost);
            return false;
        }
        if !self.is_in_place() {
            return false;
        }
        self.removed += self.lost.len() as u64;
        self.lost.clear();
        true
    }
}
