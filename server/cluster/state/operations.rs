//! How operations begin, and how they end: `cluster::operations` says what they are.
//!
//! A command that begins one is refused as a whole where another operation of the node runs, and
//! begins none where there is nothing to change.

use super::{Effects, State};
use crate::{
    base::{
        error::{Error, Result},
        ids::{NodeId, OperationId},
        limits,
    },
    cluster::{
        command::{Away, Changed, Command, Etag, Outcome},
        operations::{Begin, Kind, Operation, Progress},
        placement::Assignments,
    },
};

impl State {
    /// Makes a change, and remembers it as an operation.
    pub(super) fn operate(
        &mut self,
        begin: &Begin,
        change: &Command,
        effects: &mut Effects,
    ) -> Result<Outcome> {
        begin.check()?;
        let (kind, node, by) = change
            .operates()
            .ok_or_else(|| Error::invalid("this is not what an operation does"))?;
        if self.operations.contains_key(&begin.id) || self.is_so(change) {
            return Ok(Outcome::Done { changed: false });
        }
        self.may_operate(change, kind, node)?;
        let before = self.assignments.clone();
        let percent_before =
            node.and_then(|node| self.node(node)).map_or(0, |node| node.capacity_percent);
        // What is refused has named no rows.
        let (moves, outcome) = (effects.changed.len(), self.carry_out(change, effects)?);
        if !outcome.changed() {
            return Ok(outcome);
        }
        let replicas = match (kind, node) {
            (Kind::Drain, _) => 0,
            (_, Some(node)) if self.node(node).is_some_and(|n| n.leaving) => held(&before, node),
            _ => gained(&before, &self.assignments),
        };
        // A share that is too small to tell moves nothing: there is nothing to wait for.
        let moves =
            effects.changed[moves..].iter().any(|row| matches!(row, Changed::Assignment(_)));
        let is_done = kind == Kind::SetCapacity && !moves;
        self.remember(
            Operation {
                id: begin.id,
                kind,
                progress: if is_done { Progress::Done } else { Progress::Running },
                node,
                by,
                began_ms: begin.began_ms,
                ended_ms: if is_done { begin.began_ms } else { 0 },
                replicas,
                percent_before: if kind == Kind::SetCapacity { percent_before } else { 0 },
                forced: begin.forced,
                gives_up: begin.gives_up.clone(),
            },
            effects,
        );
        Ok(outcome)
    }

    /// Whether a change has been made already: who asks again is not refused.
    fn is_so(&self, change: &Command) -> bool {
        match change {
            Command::RemoveNode { node, .. } => self.removed.contains_key(node),
            Command::Decommission { node, .. } => {
                self.node(*node).is_some_and(|n| n.leaving)
                    || self.removed.get(node).is_some_and(|removed| removed.decommissioned)
            }
            Command::SetCapacity { node, percent, .. } => {
                self.node(*node).is_some_and(|n| n.capacity_percent == *percent)
            }
            Command::Rebalance { away, .. } => self.assignments_placed(away) == self.assignments,
            Command::SetDraining { node, draining, .. } => {
                self.node(*node).is_some_and(|n| n.draining == *draining)
            }
            _ => false,
        }
    }

    fn may_operate(&self, change: &Command, kind: Kind, node: Option<NodeId>) -> Result<()> {
        let removes = matches!(change, Command::RemoveNode { .. });
        let same = |o: &&Operation| o.node == node && (node.is_some() || o.kind == kind);
        if let Some(other) = self.running().find(same).filter(|_| !removes) {
            let what = match node {
                Some(node) => format!("node {node} {}", other.kind.of_node()),
                None => "the groups are being rebalanced".into(),
            };
            let id = other.id;
            let or = match other.node {
                Some(_) => format!(", or take it back with ddbctl operation cancel {id}"),
                None => String::new(),
            };
            return Err(Error::conflict(format!(
                "{what} (operation {id}): wait for its end with ddbctl operation wait {id}{or}"
            )));
        }
        let running = self.running().count();
        if running >= limits::OPERATIONS_REMEMBERED {
            return Err(Error::conflict(format!(
                "{running} operations run, and no more are kept: wait until one has ended; see \
                 ddbctl operation list"
            )));
        }
        Ok(())
    }

    /// Whether the node says itself when an operation is over.
    pub fn ends_by_itself(&self, operation: &Operation) -> bool {
        match operation.kind {
            Kind::Decommission => true,
            Kind::Replace => operation.node.is_some_and(|node| self.node(node).is_some()),
            Kind::Remove | Kind::SetCapacity | Kind::Rebalance | Kind::Drain => false,
        }
    }

    pub(super) fn running(&self) -> impl Iterator<Item = &Operation> {
        self.operations.values().filter(|operation| operation.is_running())
    }

    /// The operation of a node that runs.
    pub fn running_on(&self, node: NodeId) -> Option<&Operation> {
        self.running().find(|operation| operation.node == Some(node))
    }

    fn remember(&mut self, operation: Operation, effects: &mut Effects) {
        effects.changed.push(Changed::Operation(operation.id));
        self.operations.insert(operation.id, operation);
        while self.operations.len() > limits::OPERATIONS_REMEMBERED {
            let ended = self.operations.values().filter(|operation| !operation.is_running());
            let Some(oldest) = ended.min_by_key(|o| (o.ended_ms, o.id)).map(|o| o.id) else {
                return;
            };
            self.operations.remove(&oldest);
            effects.changed.push(Changed::Operation(oldest));
        }
    }

    /// What runs for a node comes to its end.
    pub(super) fn end_running_on(
        &mut self,
        node: NodeId,
        how: Progress,
        ended_ms: u64,
        effects: &mut Effects,
    ) {
        if let Some(id) = self.running_on(node).map(|operation| operation.id) {
            self.end(id, how, ended_ms, effects);
        }
    }

    pub(super) fn end(
        &mut self,
        id: OperationId,
        how: Progress,
        ended_ms: u64,
        effects: &mut Effects,
    ) {
        let running = self.operations.get_mut(&id).filter(|operation| operation.is_running());
        if let Some(operation) = running {
            (operation.progress, operation.ended_ms) = (how, ended_ms);
            effects.changed.push(Changed::Operation(id));
        }
    }

    pub(super) fn finish_operation(
        &mut self,
        id: OperationId,
        ended_ms: u64,
        seen: Etag,
        effects: &mut Effects,
    ) -> Result<Outcome> {
        let operation = self.operation(id)?;
        if !operation.is_running() {
            return Ok(Outcome::Done { changed: false });
        }
        if self.ends_by_itself(operation) {
            return Err(Error::conflict(format!(
                "operation {id} ends when its node says that it has left"
            )));
        }
        self.was_seen(seen)?;
        self.end(id, Progress::Done, ended_ms, effects);
        Ok(Outcome::Done { changed: true })
    }

    /// Takes an operation back, as far as that can be done.
    pub(super) fn cancel_operation(
        &mut self,
        id: OperationId,
        ended_ms: u64,
        away: &Away,
        effects: &mut Effects,
    ) -> Result<Outcome> {
        let operation = self.operation(id)?.clone();
        match operation.progress {
            Progress::Running => {}
            Progress::Cancelled => return Ok(Outcome::Done { changed: false }),
            Progress::Done => {
                return Err(Error::conflict(format!(
                    "operation {id} is done: there is nothing left to cancel"
                )));
            }
        }
        let refused = |why: String| Err(Error::conflict(format!("operation {id} goes on: {why}")));
        let Some(node) = operation.node else {
            return refused(
                "a rebalance moves groups where they should be, and there is no other place for \
                 them"
                    .into(),
            );
        };
        if self.node(node).is_none() {
            return refused(format!("node {node} is no member any more, and never will be again"));
        }
        // What takes the change back would end it too, and some of it does not know when that is.
        self.end(id, Progress::Cancelled, ended_ms, effects);
        match operation.kind {
            Kind::Decommission | Kind::Replace => {
                self.cancel_decommission(node, away, effects)?;
            }
            Kind::SetCapacity => {
                self.set_capacity(node, operation.percent_before, away, effects)?;
            }
            Kind::Drain => {
                self.set_draining(node, false, ended_ms, effects)?;
            }
            // Both were refused: of neither there is a node that is a member.
            Kind::Remove | Kind::Rebalance => {}
        }
        Ok(Outcome::Done { changed: true })
    }

    /// A node gives away its leaderships and gets none, or is as any other again.
    pub(super) fn set_draining(
        &mut self,
        id: NodeId,
        draining: bool,
        at_ms: u64,
        effects: &mut Effects,
    ) -> Result<Outcome> {
        if self.member(id)?.draining == draining {
            return Ok(Outcome::Done { changed: false });
        }
        let others = self.nodes.values().any(|node| node.id != id && !node.draining);
        if draining && !others {
            return Err(Error::conflict(format!(
                "node {id} cannot be drained: no other node is left that could lead"
            )));
        }
        self.nodes.get_mut(&id).expect("it is a member").draining = draining;
        let drains = self.running_on(id).filter(|o| o.kind == Kind::Drain).map(|o| o.id);
        if let Some(operation) = drains.filter(|_| !draining) {
            self.end(operation, Progress::Cancelled, at_ms, effects);
        }
        Ok(effects.row(Changed::Node(id)))
    }

    pub fn operation(&self, id: OperationId) -> Result<&Operation> {
        self.operations.get(&id).ok_or_else(|| {
            Error::not_found(format!(
                "there is no operation {id}, or it ended long ago: the newest {} are kept; see \
                 ddbctl operation list",
                limits::OPERATIONS_REMEMBERED
            ))
        })
    }

    pub(super) fn check_operations(&self) -> Result<()> {
        let wrong = |what: String| {
            Err(Error::corrupt(format!("the meta group's rows contradict each other: {what}")))
        };
        if self.operations.len() > limits::OPERATIONS_REMEMBERED {
            return wrong(format!("{} operations", self.operations.len()));
        }
        let mut busy = std::collections::BTreeSet::new();
        match self.running().find(|operation| !busy.insert(operation.node)) {
            Some(second) => {
                wrong(format!("operation {} runs beside another one of the same node", second.id))
            }
            None => Ok(()),
        }
    }
}

/// Data groups that are assigned to a node.
fn held(assignments: &Assignments, node: NodeId) -> u32 {
    let data = assignments.iter().filter(|(group, _)| !group.is_meta());
    data.filter(|(_, nodes)| nodes.contains(&node)).count() as u32
}

/// Replicas of data groups that nodes get which did not have them.
fn gained(before: &Assignments, after: &Assignments) -> u32 {
    let data = after.iter().filter(|(group, _)| !group.is_meta());
    data.map(|(group, nodes)| {
        let had = before.get(group).map_or(&[][..], Vec::as_slice);
        nodes.iter().filter(|node| !had.contains(node)).count() as u32
    })
    .sum()
}
