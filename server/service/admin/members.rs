//! What operators ask of the members as a whole: the end of an upgrade, the removal of a node that
//! is lost, the decommission of one that runs, who takes their places, and shares of the groups.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    Cluster,
    operations::Forced,
    waits::{replicas_of, waits},
};
use crate::{
    base::{
        error::{Error, Result},
        ids::{GroupId, NodeId, OperationId},
        limits,
    },
    cluster::{self, Away, Etag, Node, level::Level},
    proto::{
        internal::v1::{GetNodeStatusResponse, LedGroup},
        v1,
    },
    service::removal::{self, Heard, Objection, Plan, Room, Way},
};

/// How far a node is on its way out.
pub struct Decommission {
    pub plan: Plan,
    pub standing: Standing,
    /// Data groups of which it still has a replica.
    pub replicas_left: u32,
    pub waits: Vec<v1::Wait>,
    /// The operation that has it leave, or had.
    pub operation: Option<OperationId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Stays,
    Leaving,
    Gone,
}

/// What another capacity of a node moves.
pub struct Share {
    pub replicas_moved: usize,
    /// Whether it is another one now than before.
    pub changed: bool,
    pub objections: Vec<Objection>,
    pub operation: Option<OperationId>,
}

/// How groups are asked to move.
#[derive(Clone, Copy, Debug, Default)]
pub struct MoveAsked {
    /// Also to nodes that may have no room for them.
    pub force: bool,
    /// Nothing is done.
    pub validate_only: bool,
    /// The members and assignments that whoever asks has seen.
    pub etag: Option<Etag>,
}

/// What a rebalancing moves.
pub struct Rebalance {
    pub replicas_moved: usize,
    pub groups_changed: usize,
    pub changed: bool,
    /// Nodes whose places go to others.
    pub away: Away,
    pub etag: Etag,
    pub operation: Option<OperationId>,
    /// What speaks against it.
    pub objections: Vec<Objection>,
}

/// How a removal is asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct RemovalAsked {
    /// Whatever is not forbidden is done.
    pub force: bool,
    /// Nothing is done.
    pub validate_only: bool,
    /// The members and assignments that whoever asks has seen.
    pub etag: Option<Etag>,
    /// The node that takes its places.
    pub by: Option<NodeId>,
}

impl Cluster {
    /// Every node's record, and the level that the cluster uses.
    pub async fn versions(&self, wait: Duration) -> Result<(Level, Vec<Node>)> {
        self.look(wait, |s| (s.settings().level, s.nodes().values().cloned().collect())).await
    }

    /// Lets the cluster use what all of its nodes know. Its level, and whether that is new.
    pub async fn finalize_upgrade(&self, wait: Duration) -> Result<(Level, bool)> {
        let (_, nodes) = self.versions(wait).await?;
        let newest = nodes.iter().map(|node| node.level).max().unwrap_or(Level::FIRST);
        let raised = self.change(cluster::Command::RaiseLevel(newest), wait).await?;
        Ok((newest, raised))
    }

    /// Removes a node that is lost, or says only what that would do. The plan, whether the node was
    /// a member until now, and the operation.
    pub async fn remove_node(
        &self,
        node: NodeId,
        asked: RemovalAsked,
        wait: Duration,
    ) -> Result<(Plan, bool, Option<OperationId>)> {
        let deadline = self.handle.clock.now() + wait;
        let left = || deadline.saturating_sub(self.handle.clock.now());
        let Decommission { plan, standing, .. } =
            self.planned(node, Way::Removal, asked, deadline).await?;
        if asked.validate_only {
            return Ok((plan, false, None));
        }
        if standing == Standing::Gone {
            return Ok((plan, false, self.operation_of(node, left()).await?));
        }
        if let Some(refusal) = plan.refusal(node, Way::Removal, asked.force) {
            return Err(refusal);
        }
        let removed_ms = self.handle.clock.wall_ms();
        let command = cluster::Command::RemoveNode {
            node,
            removed_ms,
            seen: plan.etag,
            by: asked.by,
            away: plan.away.clone(),
        };
        let forced = Forced::over(&plan.objections, asked.force);
        let (removed, operation) = self.operate(command, forced, left()).await?;
        Ok((plan, removed, operation))
    }

    /// Has a node leave, or says only how far it is and what that would do.
    pub async fn decommission_node(
        &self,
        node: NodeId,
        asked: RemovalAsked,
        wait: Duration,
    ) -> Result<Decommission> {
        let deadline = self.handle.clock.now() + wait;
        let left = || deadline.saturating_sub(self.handle.clock.now());
        let mut seen = self.planned(node, Way::Decommission, asked, deadline).await?;
        if seen.standing != Standing::Stays {
            seen.operation = self.operation_of(node, left()).await?;
        }
        if asked.validate_only || seen.standing != Standing::Stays {
            return Ok(seen);
        }
        if let Some(refusal) = seen.plan.refusal(node, Way::Decommission, asked.force) {
            return Err(refusal);
        }
        let command = cluster::Command::Decommission {
            node,
            seen: seen.plan.etag,
            by: asked.by,
            away: seen.plan.away.clone(),
        };
        let forced = Forced::over(&seen.plan.objections, asked.force);
        seen.operation = self.operate(command, forced, left()).await?.1;
        seen.standing = Standing::Leaving;
        Ok(seen)
    }

    /// Has a node stay that is leaving. Whether it was, and the operation that is cancelled by it.
    pub async fn cancel_decommission(
        &self,
        node: NodeId,
        wait: Duration,
    ) -> Result<(bool, Option<OperationId>)> {
        let away = self.away(wait).await?;
        let leaves = self.look(wait, move |s| {
            let leaves = s.node(node).is_some_and(|node| node.leaving);
            s.running_on(node).filter(|_| leaves).map(|operation| operation.id)
        });
        let Some(id) = leaves.await? else {
            let cancel = cluster::Command::CancelDecommission { node, away };
            return Ok((self.change(cancel, wait).await?, None));
        };
        let ended_ms = self.handle.clock.wall_ms();
        let cancel = cluster::Command::CancelOperation { id, ended_ms, away };
        Ok((self.change(cancel, wait).await?, Some(id)))
    }

    /// Changes a node's share of the groups, or says only what that would move.
    pub async fn set_capacity(
        &self,
        node: NodeId,
        percent: u32,
        asked: MoveAsked,
        wait: Duration,
    ) -> Result<Share> {
        let heard = self.hear(wait).await?;
        let away = heard.away.clone();
        let planned = self.look(wait, move |s| {
            let before = s.node(node).ok_or_else(|| {
                Error::not_found(format!("there is no node {node}; see ddbctl node list"))
            })?;
            cluster::Node { capacity_percent: percent, ..before.clone() }.check()?;
            let after = s.assignments_with(node, percent, &heard.away);
            // Who asks for what is so already is not refused.
            let full = (before.capacity_percent != percent)
                .then(|| removal::no_room(s, &heard, &after))
                .flatten();
            Ok((s.moves_to(&after), full.into_iter().collect::<Vec<_>>()))
        });
        let (replicas_moved, objections) = planned.await??;
        let mut share = Share { replicas_moved, changed: false, objections, operation: None };
        if asked.validate_only {
            return Ok(share);
        }
        let what = format!("node {node} does not get a capacity of {percent} %");
        if let Some(refusal) = removal::refusal(&what, &share.objections, asked.force) {
            return Err(refusal);
        }
        let command = cluster::Command::SetCapacity { node, percent, away };
        let forced = Forced::over(&share.objections, asked.force);
        (share.changed, share.operation) = self.operate(command, forced, wait).await?;
        Ok(share)
    }

    /// What nodes say at this moment.
    async fn hear(&self, wait: Duration) -> Result<Heard> {
        let nodes = self.look(wait, |s| s.nodes().clone()).await?;
        let said = self.ask_nodes(&nodes).await;
        Ok(heard(&said, self.away(wait).await?))
    }

    /// Places all groups anew on the nodes that live, or says only what that would move.
    pub async fn rebalance(&self, asked: MoveAsked, wait: Duration) -> Result<Rebalance> {
        let heard = self.hear(wait).await?;
        let away = heard.away.clone();
        let planned = self.look(wait, move |s| {
            let after = s.assignments_placed(&heard.away);
            let changed = after.iter().filter(|(g, n)| s.assignments().get(g) != Some(n)).count();
            Rebalance {
                replicas_moved: s.moves_to(&after),
                groups_changed: changed,
                changed: false,
                away: heard.away.clone(),
                etag: s.etag(),
                objections: removal::no_room(s, &heard, &after).into_iter().collect(),
                operation: None,
            }
        });
        let mut plan = planned.await?;
        was_seen(asked.etag, plan.etag)?;
        if asked.validate_only {
            return Ok(plan);
        }
        let what = "the groups stay where they are";
        if let Some(refusal) = removal::refusal(what, &plan.objections, asked.force) {
            return Err(refusal);
        }
        let command = cluster::Command::Rebalance { seen: plan.etag, away };
        let forced = Forced::over(&plan.objections, asked.force);
        (plan.changed, plan.operation) = self.operate(command, forced, wait).await?;
        Ok(plan)
    }

    /// Nodes that this one has not heard for long.
    pub(super) async fn away(&self, wait: Duration) -> Result<Away> {
        self.handle.look(false, wait, |sight| sight.away()).await
    }

    /// Says that this node has given away what it held. Told again until the cluster knows.
    pub async fn depart(&self) {
        self.peers.departs();
        let node = self.peers.me().identity.borrow().node;
        let removed_ms = self.handle.clock.wall_ms();
        let command = cluster::Command::Decommissioned { node, removed_ms };
        match self.change(command, limits::REQUEST_DEADLINE).await {
            Ok(_) => self.peers.is_out(),
            Err(e) => {
                tracing::warn!(error = %e, "the cluster does not know yet that this node has \
                given away what it held; it is told again")
            }
        }
    }

    /// What a node's way out would do, and how far it is.
    async fn planned(
        &self,
        node: NodeId,
        way: Way,
        asked: RemovalAsked,
        deadline: Duration,
    ) -> Result<Decommission> {
        let by = asked.by;
        let left = || deadline.saturating_sub(self.handle.clock.now());
        let patience = self.handle.clock.now() + limits::REMOVAL_ELECTIONS.min(left() / 2);
        let seen = loop {
            let nodes = self.look(left(), |s| s.nodes().clone()).await?;
            let said = self.ask_nodes(&nodes).await;
            let heard = heard(&said, self.away(left()).await?);
            let planned =
                self.look(left(), move |s| match (s.removed().get(&node), s.node(node)) {
                    (Some(removed), _) => Ok((Plan::of_nothing(removed, s.etag()), Standing::Gone)),
                    (None, Some(entry)) if entry.leaving => removal::plan(s, &heard, node, by, way)
                        .map(|plan| (plan, Standing::Leaving)),
                    (None, _) => {
                        removal::plan(s, &heard, node, by, way).map(|plan| (plan, Standing::Stays))
                    }
                });
            let (plan, standing) = planned.await??;
            // The node may have been lost a moment ago, and its groups are electing.
            if !plan.lacks_leaders() || self.handle.clock.now() >= patience {
                let replicas_left = replicas_of(node, &said);
                let waits = waits(&said);
                break Decommission { plan, standing, replicas_left, waits, operation: None };
            }
            tokio::time::sleep(limits::REMOVAL_LOOK).await;
        };
        was_seen(asked.etag, seen.plan.etag)?;
        Ok(seen)
    }
}

fn was_seen(named: Option<Etag>, now: Etag) -> Result<()> {
    if named.is_none_or(|named| named == now) {
        return Ok(());
    }
    Err(Error::conflict(
        "nodes or their groups have changed since that etag was given; look at the plan again",
    ))
}

fn room(said: &GetNodeStatusResponse) -> Option<Room> {
    let room = said.room?;
    Some(Room {
        replicas: said.replicas,
        held_bytes: room.held_bytes,
        spare_bytes: room.spare_bytes,
    })
}

/// Who answers, and who votes where.
fn heard(said: &BTreeMap<NodeId, Result<GetNodeStatusResponse>>, silent: Away) -> Heard {
    let answers = || said.iter().filter_map(|(node, said)| Some((*node, said.as_ref().ok()?)));
    let voters = |led: &LedGroup| led.voters.iter().copied().map(NodeId).collect();
    let answering: BTreeSet<NodeId> = answers().map(|(node, _)| node).collect();
    Heard {
        away: silent.difference(&answering).copied().collect(),
        rooms: answers().filter_map(|(node, said)| Some((node, room(said)?))).collect(),
        answering,
        led: answers()
            .flat_map(|(_, said)| said.led.iter().map(|led| (GroupId(led.group), voters(led))))
            .collect(),
    }
}
