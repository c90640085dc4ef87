//! Disks that are lost for good, and the repair that the manual prescribes: another machine joins,
//! and an operator removes the node that is lost. Or a node is decommissioned, and another machine
//! joins when it has left.
//!
//! At most one goes at a time: the next one only when the cluster has made up for the last.

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

    /// Has a node leave, where all groups are where they should be.
    pub(super) fn leave(&mut self, node: usize) {
        let ready = self.leaving.is_none() && self.made_up_for() && self.is_in_place();
        if !ready || !self.world.nodes[node].member {
            return;
        }
        let leaving = self.world.nodes[node].id;
        self.tell(format!("node {node} shall leave, which is {leaving}"));
        let others = (self.plot.nodes as u64 - 1).max(1);
        let by = (node + 1 + self.rng.below(others) as usize) % self.plot.nodes;
        self.leaving = Some((node, Some(by).filter(|_| self.rng.below(2) == 0)));
        self.lost.insert(leaving);
        self.world.alarm(Duration::from_millis(1), REMOVALS);
    }

    /// Has a node leave until the cluster says that it has; then an empty machine stands there. A
    /// replacement holds nothing before.
    fn see_off(&mut self, node: usize, by: Option<usize>) {
        let by = by.map(|by| self.world.nodes[by].id);
        let leaving = self.world.nodes[node].id;
        let up = self.world.up();
        if !up.is_empty() {
            let at = up[self.rng.below(up.len() as u64) as usize];
            let meta = self.world.engine(at).expect("it is up").meta();
            if meta.removed().contains_key(&leaving) {
                self.tell(format!("node {node} has left"));
                self.leaving = None;
                let dir = self.fresh_dir("machine");
                self.world.stop(node);
                self.world.replace(node, dir, None);
                self.world.start_later(node, Duration::from_millis(self.rng.below(3000)));
                return;
            }
            if meta.node(leaving).is_some_and(|node| !node.leaving) {
                let (seen, away) = (meta.etag(), self.world.away());
                let command = match by.filter(|by| !meta.is_spare(*by)) {
                    Some(node) => cluster::Command::SetCapacity { node, percent: 0, away },
                    None => cluster::Command::Decommission { node: leaving, seen, by, away },
                };
                let wait = Duration::from_secs(2);
                self.world.request(at, GroupId::META, Body::Propose(command.into()), wait);
            }
        }
        self.world.alarm(Duration::from_millis(200 + self.rng.below(300)), REMOVALS);
    }

    /// An operator removes what is lost, by whichever node, until the cluster says that it is gone.
    pub(super) fn remove_lost(&mut self) {
        if let Some((node, by)) = self.leaving {
            return self.see_off(node, by);
        }
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
