//! Operations as their operators see them, and their end where nobody else sees it.
//!
//! What an operation is and when it is over stands in `cluster::operations`. Here nodes are asked
//! what they have, whoever waits is told why, and the node that leads the meta group proposes the
//! end of what has come true.

use std::{collections::BTreeMap, time::Duration};

use super::{
    Cluster,
    waits::{replicas_of, wait, waits},
};
use crate::{
    base::{
        clock::Random,
        error::{Error, Result},
        ids::{GroupId, NodeId, OperationId},
        limits,
    },
    cluster::{
        self, Node, State,
        fulfilled::{self, Led},
        level::Level,
        operations::{Begin, Kind, Operation, Progress},
        placement::Assignments,
        reconfigure::Membership,
    },
    proto::{
        internal::v1::{GetNodeStatusResponse, LedGroup},
        v1,
    },
    service::removal::{Objection, Weight},
    wire,
};

type Said = BTreeMap<NodeId, Result<GetNodeStatusResponse>>;

/// What an operation was forced over.
#[derive(Clone, Debug, Default)]
pub(super) struct Forced {
    pub forced: bool,
    pub gives_up: Vec<String>,
}

/// Which operations are listed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Listed {
    pub running: bool,
    pub node: Option<NodeId>,
    /// Those that were begun before this one, or at the same time with a smaller id.
    pub before: Option<(u64, OperationId)>,
    pub count: usize,
}

/// What the groups have, to compare operations with.
struct Picture {
    assignments: Assignments,
    said: Said,
}

impl Forced {
    pub(super) fn over(objections: &[Objection], force: bool) -> Forced {
        let forced = |o: &&Objection| force && o.weight == Weight::Refuses;
        let cut = |o: &Objection| {
            let mut bytes = 0;
            let fits = |letter: &char| {
                bytes += letter.len_utf8();
                bytes <= limits::OPERATION_TEXT_BYTES_MAX
            };
            o.text.chars().take_while(fits).collect::<String>()
        };
        let gives_up = objections.iter().filter(forced).map(cut);
        let gives_up: Vec<String> = gives_up.take(limits::OPERATION_TEXTS_MAX).collect();
        Forced { forced: !gives_up.is_empty(), gives_up }
    }
}

impl Cluster {
    /// Makes a change as an operation; where not all members know operations, without one. Whether
    /// it changed anything, and the operation that makes it.
    pub(super) async fn operate(
        &self,
        change: cluster::Command,
        forced: Forced,
        wait: Duration,
    ) -> Result<(bool, Option<OperationId>)> {
        let deadline = self.handle.clock.now() + wait;
        let left = || deadline.saturating_sub(self.handle.clock.now());
        if self.look(wait, |s| s.settings().level).await? < Level::OPERATIONS {
            return Ok((self.change(change, left()).await?, None));
        }
        let id = OperationId(Random::from_entropy().nonzero());
        let node = change.operates().and_then(|(_, node, _)| node);
        let Forced { forced, gives_up } = forced;
        let begin = Begin { id, began_ms: self.handle.clock.wall_ms(), forced, gives_up };
        let operate = cluster::Command::Operate { begin, change: Box::new(change) };
        if self.change(operate, left()).await? {
            return Ok((true, Some(id)));
        }
        let running = self.look(left(), move |s| {
            s.operations().values().find(|o| o.is_running() && o.node == node).map(|o| o.id)
        });
        Ok((false, running.await?))
    }

    /// The operation of a node that runs, or the last that did.
    pub(super) async fn operation_of(
        &self,
        node: NodeId,
        wait: Duration,
    ) -> Result<Option<OperationId>> {
        self.look(wait, move |s| {
            let of_node = s.operations().values().filter(|o| o.node == Some(node));
            of_node.max_by_key(|o| (o.is_running(), o.began_ms, o.id)).map(|o| o.id)
        })
        .await
    }

    /// An operation, and how far it is.
    pub async fn operation(&self, id: OperationId, wait: Duration) -> Result<v1::Operation> {
        let operation = self.look(wait, move |s| s.operation(id).cloned()).await??;
        let mut seen = self.told(vec![operation]).await?;
        seen.pop().ok_or_else(|| Error::unavailable("the operation was not looked at; retry"))
    }

    /// Operations, the newest first, and one more than asked for where there are more.
    pub async fn operations(&self, listed: Listed, wait: Duration) -> Result<Vec<v1::Operation>> {
        let found = self.look(wait, move |s| {
            let fits = |o: &&Operation| {
                (!listed.running || o.is_running())
                    && (listed.node.is_none() || o.node == listed.node)
                    && listed.before.is_none_or(|before| (o.began_ms, o.id) < before)
            };
            let mut found: Vec<Operation> = s.operations().values().filter(fits).cloned().collect();
            found.sort_by_key(|o| std::cmp::Reverse((o.began_ms, o.id)));
            found.truncate(listed.count + 1);
            found
        });
        self.told(found.await?).await
    }

    /// Waits until an operation has ended, for as long as `most`. How far it is then.
    pub async fn wait_operation(
        &self,
        id: OperationId,
        most: Duration,
        wait: Duration,
    ) -> Result<v1::Operation> {
        let clock = self.handle.clock;
        // The last look has to fit in.
        let until = clock.now()
            + most.min(limits::OPERATION_WAIT).min(wait.saturating_sub(2 * limits::NODE_STATUS));
        let left = || (until + limits::NODE_STATUS).saturating_sub(clock.now());
        let mut runs =
            self.look(left(), move |s| s.operation(id).map(Operation::is_running)).await??;
        while runs && clock.now() < until {
            tokio::time::sleep(limits::REMOVAL_LOOK).await;
            // What this node has applied: others may have no quorum for a moment.
            let look = self.handle.look(false, limits::NODE_STATUS, move |sight| {
                sight.meta().operations().get(&id).is_some_and(Operation::is_running)
            });
            runs = look.await?;
        }
        self.operation(id, wait).await
    }

    /// Takes an operation back, as far as that can be done.
    pub async fn cancel_operation(&self, id: OperationId, wait: Duration) -> Result<v1::Operation> {
        let away = self.away(wait).await?;
        let ended_ms = self.handle.clock.wall_ms();
        let cancel = cluster::Command::CancelOperation { id, ended_ms, away };
        self.change(cancel, wait).await?;
        self.operation(id, wait).await
    }

    /// Has a node give away its leaderships. Whether it was not drained before, and the operation.
    pub async fn drain(&self, node: NodeId, wait: Duration) -> Result<(bool, Option<OperationId>)> {
        let at_ms = self.handle.clock.wall_ms();
        let level = self.look(wait, |s| s.settings().level).await?;
        let change = cluster::Command::SetDraining { node, draining: true, at_ms };
        if level < Level::OPERATIONS {
            // The leader says which level it needs.
            return Ok((self.change(change, wait).await?, None));
        }
        self.operate(change, Forced::default(), wait).await
    }

    /// Has a node be as any other again. Whether it was drained.
    pub async fn undrain(&self, node: NodeId, wait: Duration) -> Result<bool> {
        let at_ms = self.handle.clock.wall_ms();
        let change = cluster::Command::SetDraining { node, draining: false, at_ms };
        self.change(change, wait).await
    }

    /// Proposes the end of operations that have come true, and what nodes are called, while this
    /// node leads the meta group.
    pub async fn tend_operations(&self) {
        loop {
            tokio::time::sleep(limits::OPERATION_LOOK).await;
            if let Err(e) = self.finish_operations().await {
                tracing::debug!(error = %e, "the end of operations was not looked at");
            }
            if let Err(e) = self.note_names().await {
                tracing::debug!(error = %e, "the names of nodes were not noted");
            }
        }
    }

    async fn finish_operations(&self) -> Result<()> {
        let look = self.handle.look(false, limits::NODE_STATUS, |sight| {
            let s = sight.meta();
            let to_see = |o: &Operation| o.is_running() && !s.ends_by_itself(o);
            let leads = sight.led().any(|(group, _)| group.is_meta());
            (leads && s.operations().values().any(to_see)).then(|| (s.etag(), s.nodes().clone()))
        });
        let Some((seen, nodes)) = look.await? else { return Ok(()) };
        let led = led(&self.ask_nodes(&nodes).await);
        // What was heard is compared with the assignments of before: it is newer than these.
        let over = move |s: &State| -> Vec<OperationId> {
            let running = s.operations().values().filter(|o| o.is_running() && s.etag() == seen);
            running.filter(|o| fulfilled::is_over(o, s, &led)).map(|o| o.id).collect()
        };
        for id in self.look(limits::REQUEST_DEADLINE, over).await? {
            let ended_ms = self.handle.clock.wall_ms();
            let finish = cluster::Command::FinishOperation { id, ended_ms, seen };
            self.change(finish, limits::REQUEST_DEADLINE).await?;
        }
        Ok(())
    }

    /// Operations with how far they are. Nodes are asked only where one of them runs.
    async fn told(&self, operations: Vec<Operation>) -> Result<Vec<v1::Operation>> {
        let picture = if operations.iter().any(Operation::is_running) {
            let look = self.handle.look(false, limits::NODE_STATUS, |sight| {
                (sight.meta().nodes().clone(), sight.meta().assignments().clone())
            });
            let (nodes, assignments): (BTreeMap<NodeId, Node>, Assignments) = look.await?;
            Some(Picture { assignments, said: self.ask_nodes(&nodes).await })
        } else {
            None
        };
        Ok(operations.into_iter().map(|o| told(o, picture.as_ref())).collect())
    }
}

fn told(operation: Operation, picture: Option<&Picture>) -> v1::Operation {
    let mut told = v1::Operation {
        id: operation.id.to_string(),
        kind: wire::kind_number(operation.kind) as i32,
        state: wire::progress_number(operation.progress) as i32,
        node_id: operation.node.map_or(0, |node| node.0),
        replacement_id: operation.by.map_or(0, |by| by.0),
        began_ms: operation.began_ms,
        ended_ms: operation.ended_ms,
        replicas_total: operation.replicas,
        replicas_done: match operation.progress {
            Progress::Done => operation.replicas,
            Progress::Running | Progress::Cancelled => 0,
        },
        forced: operation.forced,
        gives_up: operation.gives_up.clone(),
        ..v1::Operation::default()
    };
    if let Some(picture) = picture.filter(|_| operation.is_running()) {
        picture.add_to(&mut told, &operation);
    }
    told
}

impl Picture {
    /// What is left, how fast it gets less, and why it waits.
    fn add_to(&self, told: &mut v1::Operation, operation: &Operation) {
        if let (Kind::Drain, Some(node)) = (operation.kind, operation.node) {
            return self.add_drain(told, node);
        }
        let led = led(&self.said);
        let gaps = fulfilled::gaps(&self.assignments, &led);
        let leaves = operation.node.filter(|node| {
            self.said.contains_key(node)
                && matches!(operation.kind, Kind::Decommission | Kind::Replace)
        });
        let left = leaves.map_or(gaps.len() as u32, |node| replicas_of(node, &self.said));
        told.replicas_done = told.replicas_total.saturating_sub(left);
        told.bytes_left = gaps.iter().map(|gap| self.bytes_left(*gap, &led)).sum();
        let rates = self.said.values().flatten().map(|said| said.incoming_bytes_per_s);
        told.bytes_per_s = rates.sum();
        let eta_s = told.bytes_left.checked_div(told.bytes_per_s).unwrap_or_default();
        told.eta_s = u32::try_from(eta_s).unwrap_or(u32::MAX);
        let mut waits = waits(&self.said);
        waits.extend(self.leaderless(&led));
        waits.extend(self.unmissed(&led, &waits));
        waits.extend(leaves.filter(|node| self.is_silent(*node)).map(has_to_leave));
        waits.sort_by_key(|wait| wait.group);
        self.add_waits(told, waits);
    }

    fn is_silent(&self, node: NodeId) -> bool {
        self.said.get(&node).is_none_or(Result::is_err)
    }

    /// Groups that are not where they should be, with a node that does not answer and that their
    /// leader has not missed yet.
    fn unmissed(&self, led: &Led, known: &[v1::Wait]) -> Vec<v1::Wait> {
        let wait = |(group, (_, members)): (&GroupId, &(NodeId, Membership))| {
            let wanted = self.assignments.get(group)?;
            let rests = members.voters.len() == wanted.len()
                && wanted.iter().all(|node| members.voters.contains(node));
            if rests || known.iter().any(|wait| wait.group == group.0) {
                return None;
            }
            let gap = wanted.iter().find(|n| !members.voters.contains(n) && self.is_silent(**n));
            let away = || members.voters.iter().find(|node| self.is_silent(**node));
            let (node, reason) = match gap {
                Some(node) => (*node, v1::WaitReason::Silent),
                None => (*away()?, v1::WaitReason::Away),
            };
            Some(self::wait(*group, node, reason, 0))
        };
        led.iter().filter_map(wait).collect()
    }

    fn leaderless<'a>(&'a self, led: &'a Led) -> impl Iterator<Item = v1::Wait> + 'a {
        let groups = self.assignments.keys().filter(|group| !led.contains_key(group));
        groups.map(|group| wait(*group, NodeId(0), v1::WaitReason::NoLeader, 0))
    }

    fn add_waits(&self, told: &mut v1::Operation, mut waits: Vec<v1::Wait>) {
        let most = limits::OPERATION_WAITS_TOLD;
        told.waits_left_out = waits.len().saturating_sub(most) as u32;
        waits.truncate(most);
        told.waits = waits;
    }

    /// What is left of a transfer; where there is none, what a replica of the leader takes on
    /// average.
    fn bytes_left(&self, (group, to): (GroupId, NodeId), led: &Led) -> u64 {
        let said = |node: &NodeId| self.said.get(node).and_then(|said| said.as_ref().ok());
        let incoming = said(&to).into_iter().flat_map(|said| &said.incoming);
        let under_way = incoming.filter(|rows| rows.group == group.0 && rows.bytes_total > 0);
        if let Some(rows) = under_way.max_by_key(|rows| rows.bytes) {
            return rows.bytes_total.saturating_sub(rows.bytes);
        }
        let leader = led.get(&group).and_then(|(leader, _)| said(leader));
        leader.map_or(0, |leader| {
            let held = leader.room.map_or(0, |room| room.held_bytes);
            held.checked_div(u64::from(leader.replicas)).unwrap_or_default()
        })
    }

    /// A drained node waits where nobody else can lead.
    fn add_drain(&self, told: &mut v1::Operation, node: NodeId) {
        let why = |led: &LedGroup| {
            let group = GroupId(led.group);
            let mut others = led.voters.iter().map(|n| NodeId(*n)).filter(|n| *n != node);
            let other = others.clone().next();
            match (other, others.find(|n| self.is_silent(*n))) {
                (None, _) => wait(group, node, v1::WaitReason::Alone, 0),
                (Some(other), None) => wait(group, other, v1::WaitReason::Behind, 0),
                (_, Some(away)) => wait(group, away, v1::WaitReason::Away, 0),
            }
        };
        let own = self.said.get(&node).and_then(|said| said.as_ref().ok());
        self.add_waits(told, own.into_iter().flat_map(|own| &own.led).map(why).collect());
    }
}

/// What a node has to do itself that is on its way out.
fn has_to_leave(node: NodeId) -> v1::Wait {
    v1::Wait {
        group: GroupId::META.0,
        node_id: node.0,
        reason: v1::WaitReason::Away as i32,
        text: format!("node {node} does not answer, and has to say itself that it has left"),
        since_s: 0,
    }
}

/// Who leads each group. Where two nodes believe that they do, nobody knows.
fn led(said: &Said) -> Led {
    let mut led: BTreeMap<GroupId, Option<(NodeId, Membership)>> = BTreeMap::new();
    for (node, said) in said.iter().filter_map(|(node, said)| Some((*node, said.as_ref().ok()?))) {
        let ids = |ids: &[u64]| ids.iter().copied().map(NodeId).collect();
        for one in &said.led {
            let members = Membership { voters: ids(&one.voters), learners: ids(&one.learners) };
            led.entry(GroupId(one.group))
                .and_modify(|known| *known = None)
                .or_insert(Some((node, members)));
        }
    }
    led.into_iter().filter_map(|(group, known)| Some((group, known?))).collect()
}
