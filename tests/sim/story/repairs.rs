//! Disks that are lost for good, and the repair that the manual prescribes: another machine joins,
//! and an operator removes the node that is lost. Or a node is decommissioned, and another machine
//! joins when it has left.
//!
//! At most one goes at a time: the next one only when the cluster has made up for the last. It has
//! done so too when another node holds what the lost one held, though nobody has removed that one.

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
use crate::world::Moment;

const LOOK_AT_PLACES: Duration = Duration::from_millis(500);
/// Nothing else fails while places are taken.
const PLACES_TAKEN: Duration = Duration::from_secs(12);

/// One disk is lost, and the next one goes when another node has what was on it.
#[derive(Clone, Copy)]
pub(super) struct SecondLoss {
    lost: NodeId,
    next: usize,
    /// When another node must have it.
    by: Moment,
}

impl Story {
    /// Has a node's disk lost, where every group can do without it.
    pub(super) fn lose_disk(&mut self, node: usize, rng: &mut Random) {
        if !self.made_up_for() || !self.spares_any() || !self.world.nodes[node].member {
            return;
        }
        self.take_disk(node, Duration::from_millis(rng.below(3000)));
        self.world.alarm(Duration::from_millis(rng.below(3000)), REMOVALS);
    }

    /// Takes a node's disk, and has an empty machine start in its place.
    fn take_disk(&mut self, node: usize, after: Duration) {
        let lost = self.world.nodes[node].id;
        self.tell(format!("the disk of node {node} is lost, which was {lost}"));
        let dir = self.fresh_dir("machine");
        self.world.stop(node);
        self.world.replace(node, dir, None);
        self.world.start_later(node, after);
        self.lost.insert(lost);
    }

    /// Has two disks lost, and nobody remove the first before the second.
    pub(super) fn lose_two(&mut self, node: usize) {
        let ready = self.second.is_none() && self.made_up_for() && self.is_in_place();
        if !ready || !self.spares_any() || !self.world.nodes[node].member {
            return;
        }
        let next =
            (node + 1 + self.rng.below(self.plot.nodes as u64 - 1) as usize) % self.plot.nodes;
        let by = self.world.now + PLACES_TAKEN;
        self.second = Some(SecondLoss { lost: self.world.nodes[node].id, next, by });
        self.take_disk(node, Duration::from_millis(500));
        self.world.alarm(LOOK_AT_PLACES, REMOVALS);
    }

    /// The second disk goes when no group counts on the first one any more.
    fn lose_second(&mut self, second: SecondLoss) {
        let after = Duration::from_millis(self.rng.below(3000));
        let up = self.world.up();
        let counted_on = up.iter().any(|node| {
            let meta = self.world.engine(*node).expect("it is up").meta();
            meta.assignments().values().any(|nodes| nodes.contains(&second.lost))
        });
        if !counted_on && up.len() == self.plot.nodes && self.is_in_place() {
            self.second = None;
            self.take_disk(second.next, after);
        } else if self.world.now > second.by {
            self.second = None;
            self.broken.push(format!(
                "{} is lost, another node has joined, and groups still count on the lost one: {}",
                second.lost, self.restless
            ));
        }
        self.world.alarm(LOOK_AT_PLACES, REMOVALS);
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
                    None => self.operate(cluster::Command::Decommission {
                        node: leaving,
                        seen,
                        by,
                        away,
                    }),
                };
                let wait = Duration::from_secs(2);
                self.world.request(at, GroupId::META, Body::Propose(command.into()), wait);
            }
        }
        self.world.alarm(Duration::from_millis(200 + self.rng.below(300)), REMOVALS);
    }

    /// An operator removes what is lost, by whichever node, until the cluster says that it is gone.
    pub(super) fn remove_lost(&mut self) {
        self.tend_operations();
        if let Some(second) = self.second {
            return self.lose_second(second);
        }
        if let Some((node, by)) = self.leaving {
            return self.see_off(node, by);
        }
        if self.lost.is_empty() {
            return;
        }
        let up = self.world.up();
        if !up.is_empty() {
            let at = up[self.rng.below(up.len() as u64) as usize];
            let meta = self.world.engine(at).expect("it is up").meta();
            let left = |lost: &&NodeId| !meta.removed().contains_key(*lost);
            if let Some(lost) = self.lost.iter().find(left).copied() {
                let command = cluster::Command::RemoveNode {
                    node: lost,
                    removed_ms: 0,
                    seen: meta.etag(),
                    by: None,
                    away: self.world.away(),
                };
                let command = self.operate(command);
                let wait = Duration::from_secs(2);
                self.world.request(at, GroupId::META, Body::Propose(command.into()), wait);
            }
        }
        self.world.alarm(Duration::from_millis(500 + self.rng.below(1000)), REMOVALS);
    }

    /// Whether no lost node is a member of anything any more, and all groups have the voters that
    /// they should have.
    pub(super) fn made_up_for(&mut self) -> bool {
        self.check_operations();
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
        if !self.is_in_place() || !self.operations_are_over() {
            return false;
        }
        self.removed += self.lost.len() as u64;
        self.lost.clear();
        true
    }
}
