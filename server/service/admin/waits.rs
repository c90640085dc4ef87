//! Why groups do not come to the members that they should have, and what nodes have of them: from
//! what nodes say of themselves, as it is told to operators.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    base::{
        error::Result,
        ids::{GroupId, NodeId},
    },
    cluster::reconfigure::Wait,
    proto::{
        internal::v1::{GetNodeStatusResponse, GroupWait, LedGroup},
        v1,
    },
};

/// Data groups of which a node has a replica: as it says itself, or as their leaders say.
pub(super) fn replicas_of(
    node: NodeId,
    said: &BTreeMap<NodeId, Result<GetNodeStatusResponse>>,
) -> u32 {
    if let Some(Ok(own)) = said.get(&node) {
        return own.replicas;
    }
    let led = said.values().filter_map(|said| said.as_ref().ok()).flat_map(|said| &said.led);
    let has = |led: &&LedGroup| {
        !GroupId(led.group).is_meta()
            && led.voters.iter().chain(&led.learners).any(|n| *n == node.0)
    };
    led.filter(has).count() as u32
}

/// As nodes tell each other of it.
pub(super) fn group_wait((wait, since): (Wait, Duration)) -> GroupWait {
    let (node, reason) = match wait {
        Wait::Silent(node) => (node, v1::WaitReason::Silent),
        Wait::Behind(node) => (node, v1::WaitReason::Behind),
        Wait::Away(node) => (node, v1::WaitReason::Away),
    };
    let since_s = u32::try_from(since.as_secs()).unwrap_or(u32::MAX);
    GroupWait { node_id: node.0, reason: reason as u32, since_s }
}

/// What groups wait for, as their leaders say; and where a node does not get all of a group, as
/// that node says.
pub(super) fn waits(said: &BTreeMap<NodeId, Result<GetNodeStatusResponse>>) -> Vec<v1::Wait> {
    let led = said.values().filter_map(|said| said.as_ref().ok()).flat_map(|said| &said.led);
    let wait = |led: &LedGroup| {
        let GroupWait { node_id, reason, since_s } = led.wait?;
        let mut reason = v1::WaitReason::try_from(i32::try_from(reason).ok()?).ok()?;
        let group = GroupId(led.group);
        if reason == v1::WaitReason::Behind && said.get(&NodeId(node_id)).is_none_or(Result::is_err)
        {
            // Its leader has not missed it yet.
            reason = v1::WaitReason::Silent;
        } else if reason == v1::WaitReason::Behind {
            reason = why_behind(said.get(&NodeId(node_id)), group).unwrap_or(reason);
        }
        // The others are no leader's to say.
        let told = !matches!(
            reason,
            v1::WaitReason::Unspecified | v1::WaitReason::Alone | v1::WaitReason::NoLeader
        );
        told.then(|| self::wait(group, NodeId(node_id), reason, since_s))
    };
    let mut waits: Vec<v1::Wait> = led.filter_map(wait).collect();
    waits.sort_by_key(|wait| wait.group);
    waits
}

/// A reason to wait, in words.
pub(super) fn wait(group: GroupId, node: NodeId, reason: v1::WaitReason, since_s: u32) -> v1::Wait {
    let text = match reason {
        v1::WaitReason::Unspecified => format!("group {group} waits for node {node}"),
        v1::WaitReason::Silent => {
            format!("group {group} goes to node {node}, which does not answer")
        }
        v1::WaitReason::Behind => format!("group {group} is being copied to node {node}"),
        v1::WaitReason::Away => format!(
            "node {node} holds group {group} and does not answer: nobody gives it up meanwhile"
        ),
        v1::WaitReason::NoRoom => format!(
            "group {group} goes to node {node}, whose disk has no room for it: free some, or cancel"
        ),
        v1::WaitReason::Throttled => {
            format!("group {group} goes to node {node}, which takes others first")
        }
        v1::WaitReason::Alone => {
            format!("node {node} alone votes in group {group}: nobody else could lead it")
        }
        v1::WaitReason::NoLeader => {
            format!("group {group} has no leader: nobody changes its members meanwhile")
        }
    };
    v1::Wait { group: group.0, node_id: node.0, reason: reason as i32, text, since_s }
}

/// Why the rows of a group do not come to a node, in its own words.
fn why_behind(
    said: Option<&Result<GetNodeStatusResponse>>,
    group: GroupId,
) -> Option<v1::WaitReason> {
    let incoming = &said?.as_ref().ok()?.incoming;
    let mut of_group = incoming.iter().filter(|rows| rows.group == group.0);
    if of_group.clone().any(|rows| rows.reason == 0) {
        return None;
    }
    let reason = v1::WaitReason::try_from(i32::try_from(of_group.next()?.reason).ok()?).ok()?;
    matches!(reason, v1::WaitReason::NoRoom | v1::WaitReason::Throttled).then_some(reason)
}
