//! Nodes that groups leave, and what may go wrong behind that: an operator has a node hold nothing,
//! or its share.

use std::{collections::BTreeSet, time::Duration};

use devicedb::{base::ids::GroupId, cluster, engine::Body};

use super::{LAGGARD, Story};

/// One node that lags, another one that groups leave, and the vote that comes of it.
#[derive(Clone, Copy)]
pub(super) struct Laggard {
    lags: usize,
    leaves: usize,
    /// So many replicas had ended when it began.
    ended: u64,
    step: Step,
}

#[derive(Clone, Copy, PartialEq)]
enum Step {
    /// Until replicas have ended where groups leave.
    Leaves { patience: u32 },
    /// Only the node that lags and the one that was left are up.
    Votes,
}

impl Story {
    /// An operator has a node hold nothing, or its share.
    pub(super) fn change_capacity(&mut self, node: usize, nothing: bool) {
        let up = self.world.up();
        if up.is_empty() {
            return;
        }
        let at = up[self.rng.below(up.len() as u64) as usize];
        let (node, percent) = (self.world.nodes[node].id, if nothing { 0 } else { 100 });
        let command = cluster::Command::SetCapacity { node, percent, away: self.world.away() };
        let wait = Duration::from_secs(2);
        self.world.request(at, GroupId::META, Body::Propose(command.into()), wait);
    }

    /// Groups leave a node, or come back to the one that they have left, once all of them are
    /// where they should be. What members had acknowledged comes again when they come back.
    pub(super) fn leave_or_come_back(&mut self, node: usize) {
        self.world.network.acks_again.get_or_insert_default();
        if !self.is_in_place() {
            return;
        }
        let meta = self.world.engine(0).expect("nothing else fails").meta();
        let is_empty = |node: &usize| {
            meta.node(self.world.nodes[*node].id).is_some_and(|node| node.capacity_percent == 0)
        };
        match (0..self.plot.nodes).find(is_empty) {
            Some(empty) => self.change_capacity(empty, false),
            None => self.change_capacity(node, true),
        }
    }

    /// Whether all groups have the voters that they should have.
    pub(super) fn is_in_place(&mut self) -> bool {
        let mut whole = BTreeSet::new();
        for node in self.world.up() {
            let led = self.world.look(node, |sight| {
                let wanted = |group| sight.meta().wanted(group).voters.into_iter().collect();
                let whole = sight.led().filter(|(group, members)| members.voters == wanted(*group));
                whole.map(|(group, _)| group).collect::<Vec<_>>()
            });
            whole.extend(led.into_iter().flatten());
        }
        let missing = self.world.topology.groups() as usize + 1 - whole.len();
        self.restless = format!("{missing} groups do not have the voters that they should have");
        missing == 0
    }

    /// Groups leave a node, and another one that holds some of them hears of no entry meanwhile.
    /// When replicas have ended, these two are alone: the one that lags stands for election among
    /// the members that it knows.
    pub(super) fn let_lag(&mut self, lags: usize) {
        if self.laggard.is_some() || !self.is_in_place() {
            return;
        }
        let leaves =
            (lags + 1 + self.rng.below(self.plot.nodes as u64 - 1) as usize) % self.plot.nodes;
        self.world.network.starves = Some(lags);
        let step = Step::Leaves { patience: 60 };
        self.laggard = Some(Laggard { lags, leaves, ended: self.world.ended, step });
        self.world.alarm(Duration::from_millis(500), LAGGARD);
    }

    pub(super) fn go_on_lagging(&mut self) {
        let Some(mut laggard) = self.laggard.take() else { return };
        let alone = [laggard.lags, laggard.leaves];
        match &mut laggard.step {
            Step::Leaves { patience: 0 } | Step::Votes => {
                self.tell("all are there again".into());
                self.world.network.starves = None;
                self.change_capacity(laggard.leaves, false);
                return;
            }
            Step::Leaves { .. } if self.world.ended > laggard.ended => {
                self.tell(format!("only nodes {alone:?} are left alone, and the first lags"));
                let until = self.world.now + Duration::from_secs(8);
                for node in (0..self.plot.nodes).filter(|n| !alone.contains(n)) {
                    self.world.nodes[node].paused_until = until;
                    self.world.gone(node);
                }
                laggard.step = Step::Votes;
                self.world.alarm(Duration::from_secs(8), LAGGARD);
            }
            Step::Leaves { patience } => {
                *patience -= 1;
                self.change_capacity(laggard.leaves, true);
                self.world.alarm(Duration::from_millis(500), LAGGARD);
            }
        }
        self.laggard = Some(laggard);
    }
}
