//! The operations that operators begin: whoever leads the meta group looks whether they have come
//! true, on what it heard some time ago, and what is said to be done is so.

use std::{collections::BTreeMap, time::Duration};

use devicedb::{
    base::ids::{GroupId, Lineage, NodeId, OperationId},
    cluster::{
        self, Etag,
        fulfilled::{self, Led},
        operations::{Begin, Kind, Progress},
    },
    engine::Body,
};

use super::Story;

/// What leaders had when one node asked, and the members and assignments that it knew before.
pub(super) struct Heard {
    by: NodeId,
    seen: Etag,
    led: Led,
}

impl Story {
    pub(super) fn operate(&mut self, change: cluster::Command) -> cluster::Command {
        let id = OperationId(self.rng.next_u64().max(1));
        let began_ms = self.world.now.as_millis() as u64;
        let begin = Begin { id, began_ms, forced: false, gives_up: Vec::new() };
        cluster::Command::Operate { begin, change: Box::new(change) }
    }

    /// The meta leader proposes the end of what has come true by what it heard the last time, and
    /// asks again.
    pub(super) fn tend_operations(&mut self) {
        self.check_operations();
        let up = self.world.up();
        let leads = |node: &usize, story: &mut Story| {
            let led =
                story.world.look(*node, |sight| sight.led().any(|(group, _)| group.is_meta()));
            led == Some(true)
        };
        let Some(leader) = up.into_iter().find(|node| leads(node, self)) else { return };
        let (by, state) = (self.world.nodes[leader].id, self.world.engine(leader).unwrap().meta());
        let (seen, heard) = (state.etag(), self.heard.take());
        let over: Vec<OperationId> = heard
            .filter(|heard| heard.by == by && heard.seen == seen)
            .into_iter()
            .flat_map(|heard| {
                let running = state.operations().values().filter(|o| o.is_running());
                let over = running.filter(move |o| fulfilled::is_over(o, state, &heard.led));
                over.map(|o| o.id).collect::<Vec<_>>()
            })
            .collect();
        let ended_ms = self.world.now.as_millis() as u64;
        for id in over {
            let finish = cluster::Command::FinishOperation { id, ended_ms, seen };
            let wait = Duration::from_secs(2);
            self.world.request(leader, GroupId::META, Body::Propose(finish.into()), wait);
        }
        let led = self.led().into_iter().map(|(group, leader)| (group, leader.0)).collect();
        self.heard = Some(Heard { by, seen, led });
    }

    /// Of each group, the leader that has applied most, and how much that is.
    fn led(&mut self) -> BTreeMap<GroupId, ((NodeId, cluster::reconfigure::Membership), u64)> {
        let mut led = BTreeMap::new();
        for node in self.world.up() {
            let id = self.world.nodes[node].id;
            let seen = self.world.look(node, move |sight| {
                let one = |(group, members): (GroupId, &cluster::reconfigure::Membership)| {
                    (group, ((id, members.clone()), sight.applied(group)))
                };
                sight.led().map(one).collect::<Vec<_>>()
            });
            for (group, one) in seen.into_iter().flatten() {
                let newer = led.get(&group).is_none_or(|(_, applied)| *applied < one.1);
                if newer {
                    led.insert(group, one);
                }
            }
        }
        led
    }

    /// Where a node is said to have gone, no group has it any more, as far as a leader says that
    /// has applied all that any leader ever had.
    pub(super) fn check_operations(&mut self) {
        let Some(lineage) = self.lineage() else { return };
        for (group, ((leader, members), applied)) in self.led() {
            let most = self.applied.entry((lineage, group)).or_default();
            let is_newest = applied >= *most;
            *most = applied.max(*most);
            // A node that has left follows the meta group until it hears of it.
            let has = |node: &NodeId| match group.is_meta() {
                true => members.voters.contains(node),
                false => members.has(*node),
            };
            let gone = |node: &NodeId| is_newest && has(node);
            let broken: Vec<String> = self
                .gone()
                .iter()
                .filter(|(_, node)| gone(node))
                .map(|(id, node)| {
                    format!("operation {id} is done, and {leader} has {node} in group {group}")
                })
                .collect();
            self.broken.extend(broken);
        }
    }

    fn lineage(&self) -> Option<Lineage> {
        let up = *self.world.up().first()?;
        Some(self.world.engine(up)?.identity().lineage)
    }

    /// Nodes that have gone, by operations that are done.
    fn gone(&self) -> Vec<(OperationId, NodeId)> {
        let engines = self.world.up().into_iter().filter_map(|node| self.world.engine(node));
        let operations = engines.flat_map(|engine| engine.meta().operations().values());
        let goes = |kind| matches!(kind, Kind::Remove | Kind::Decommission | Kind::Replace);
        let done = operations.filter(|o| o.progress == Progress::Done && goes(o.kind));
        done.filter_map(|o| Some((o.id, o.node?))).collect()
    }

    /// Whether no operation runs, by the meta group's leader.
    pub(super) fn operations_are_over(&mut self) -> bool {
        let engines = self.world.up().into_iter().filter_map(|node| self.world.engine(node));
        let newest = engines.max_by_key(|engine| engine.meta().operations().len());
        let running = newest.and_then(|engine| {
            let mut operations = engine.meta().operations().values();
            operations.find(|o| o.is_running()).map(|o| format!("operation {} runs: {o:?}", o.id))
        });
        match running {
            None => true,
            Some(running) => {
                self.restless = running;
                false
            }
        }
    }
}
