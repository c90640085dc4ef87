//! Which nodes may talk to each other: histories never mix.
//!
//! The first message of a stream is a hello: which node speaks, to which node, of which cluster and
//! history. Nodes fresh from a restore have no lineage yet and talk only to nodes that were
//! restored from the same snapshot. If none of them has a lineage, they agree on one. If one has,
//! the others adopt it, unless that lineage has already met them: such a node has come back without
//! what it acknowledged since, and is refused.

use bytes::Bytes;

use super::common_protocol;
use crate::{
    base::{
        ids::{Lineage, NodeId},
        limits,
    },
    engine::driver::Handle,
    entry::Identity,
    faults::mutation::{Mutation, mutated},
    proto::internal::v1::Hello,
};

/// What one hello says of the histories of both sides.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The same history, or both on the way to one.
    Welcome,
    /// The other side is fresh from the restore that this side's history began with.
    Newcomer,
    /// This side is fresh from the restore that the other's history began with.
    Adopt(Lineage),
    Refuse(String),
}

/// Judges the hello of another node.
pub fn judge(ours: &Identity, hello: &Hello) -> Verdict {
    let other = NodeId(hello.node_id);
    if let Err(why) = common_protocol((hello.protocol_min, hello.protocol)) {
        return Verdict::Refuse(format!("node {other} {why}"));
    }
    if hello.to != 0 && NodeId(hello.to) != ours.node {
        return Verdict::Refuse(format!(
            "this is node {}, not node {}; its address has changed hands",
            ours.node, hello.to
        ));
    }
    if other == ours.node {
        return Verdict::Refuse(format!(
            "another process at {} claims to be node {other} too; one of them was started with \
             this node's part or store",
            hello.address
        ));
    }
    if hello.cluster_id != ours.cluster.0.as_bytes()[..] {
        return Verdict::Refuse(format!(
            "node {other} belongs to another cluster than node {} ({})",
            ours.node, ours.cluster
        ));
    }
    let same_restore =
        ours.restored_from.map_or(Bytes::new(), |id| Bytes::copy_from_slice(id.0.as_bytes()))
            == hello.restored_from;
    let theirs = Lineage(hello.lineage);
    match (ours.lineage, theirs) {
        _ if mutated(Mutation::HistoriesMixed) => Verdict::Welcome,
        (a, b) if a == b && same_restore => Verdict::Welcome,
        (Lineage::PENDING, b) if same_restore => Verdict::Adopt(b),
        (_, Lineage::PENDING) if same_restore => Verdict::Newcomer,
        _ => Verdict::Refuse(format!(
            "node {other} belongs to another history ({}) than node {} ({}): their logs must never \
             mix. Nodes restored from one snapshot belong together; a node of an older history can \
             only come back with an empty store",
            history(theirs, &hello.restored_from),
            ours.node,
            history(ours.lineage, ours.restored_from.as_ref().map_or(&[], |id| id.0.as_bytes()))
        )),
    }
}

fn history(lineage: Lineage, restored_from: &[u8]) -> String {
    match uuid::Uuid::from_slice(restored_from) {
        Ok(id) if lineage == Lineage::PENDING => format!("fresh from a restore of snapshot {id}"),
        Ok(id) => format!("lineage {lineage}, restored from snapshot {id}"),
        Err(_) => format!("lineage {lineage}"),
    }
}

/// Whether a node fresh from a restore may come into the lineage that this node is in already.
pub(super) async fn newcomer(handle: &Handle, node: NodeId, lineage: Lineage) -> Verdict {
    let known = handle
        .look(true, limits::PEER_CONNECT, move |s| {
            s.meta().node(node).is_some_and(|n| n.lineage == lineage)
        })
        .await;
    match known {
        Ok(false) => Verdict::Newcomer,
        Ok(true) => Verdict::Refuse(format!(
            "node {node} has taken part in lineage {lineage} already and comes back without what \
             it acknowledged since: its store was restored once more. Start it with the store it \
             had, or with an empty one and --join"
        )),
        Err(e) => Verdict::Refuse(format!("this node cannot tell yet: {e}")),
    }
}
