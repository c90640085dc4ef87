//! What operators ask of the members as a whole: the end of an upgrade, and the removal of a node
//! that is lost.

use std::{collections::BTreeMap, time::Duration};

use super::Cluster;
use crate::{
    base::{
        error::{Error, Result},
        ids::{GroupId, NodeId},
        limits,
    },
    cluster::{self, Etag, Node, level::Level},
    proto::internal::v1::{GetNodeStatusResponse, LedGroup},
    service::removal::{self, Heard, Plan},
};

/// How a removal is asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct RemovalAsked {
    /// Whatever is not forbidden is done.
    pub force: bool,
    /// Nothing is done.
    pub validate_only: bool,
    /// The members and assignments that whoever asks has seen.
    pub etag: Option<Etag>,
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

    /// Removes a node that is lost, or says only what that would do. The plan, and whether the node
    /// was a member until now.
    pub async fn remove_node(
        &self,
        node: NodeId,
        asked: RemovalAsked,
        wait: Duration,
    ) -> Result<(Plan, bool)> {
        let deadline = self.handle.clock.now() + wait;
        let left = || deadline.saturating_sub(self.handle.clock.now());
        let patience = self.handle.clock.now() + limits::REMOVAL_ELECTIONS.min(wait / 2);
        let (plan, gone) = loop {
            let nodes = self.look(left(), |s| s.nodes().clone()).await?;
            let heard = heard(&self.ask_nodes(&nodes).await);
            let planned = self.look(left(), move |s| match s.removed().get(&node) {
                Some(removed) => Ok((Plan::of_nothing(removed, s.etag()), true)),
                None => removal::plan(s, &heard, node).map(|plan| (plan, false)),
            });
            let (plan, gone) = planned.await??;
            // The node may have been lost a moment ago, and its groups are electing.
            if !plan.lacks_leaders() || self.handle.clock.now() >= patience {
                break (plan, gone);
            }
            tokio::time::sleep(limits::REMOVAL_LOOK).await;
        };
        if asked.etag.is_some_and(|etag| etag != plan.etag) {
            return Err(Error::conflict(
                "nodes or their groups have changed since that etag was given; look at the plan \
                 again",
            ));
        }
        if asked.validate_only || gone {
            return Ok((plan, false));
        }
        if let Some(refusal) = plan.refusal(node, asked.force) {
            return Err(refusal);
        }
        let removed_ms = self.handle.clock.wall_ms();
        let command = cluster::Command::RemoveNode { node, removed_ms, seen: plan.etag };
        Ok((plan, self.change(command, left()).await?))
    }
}

/// Who answers, and who votes where.
fn heard(said: &BTreeMap<NodeId, Result<GetNodeStatusResponse>>) -> Heard {
    let answers = || said.iter().filter_map(|(node, said)| Some((*node, said.as_ref().ok()?)));
    let voters = |led: &LedGroup| led.voters.iter().copied().map(NodeId).collect();
    Heard {
        answering: answers().map(|(node, _)| node).collect(),
        led: answers()
            .flat_map(|(_, said)| said.led.iter().map(|led| (GroupId(led.group), voters(led))))
            .collect(),
    }
}
