//! Which nodes may talk to each other: histories never mix.
//!
//! The first message of a stream is a hello: which node speaks, to which node, of which cluster and
//! history. Nodes fresh from a restore have no lineage yet and talk only to nodes that were
//! restored from the same snapshot. If none of them has a lineage, they agree on one. If one has,
//! the others adopt it, unless that lineage has already met them: such a node has come back without
//! what it acknowledged since, and is refused.
//!
//! A hello says who speaks, and proves nothing. Over TLS a node's certificate proves a name, and
//! the registry says which name a node has (`cluster::Node::certificate_name`): with another one
//! it is refused, whatever side it is on. Nobody is believed to be a node that has not joined,
//! except where this node cannot know: who was away for long may find nobody whom it knows. What
//! such strangers may say is up to `engine::admission`.
//!
//! Calls outside a stream name no speaker. Whoever makes one over TLS has the name of some member,
//! or is a node of another cluster that shares the CA, and is refused.

use bytes::Bytes;

use super::common_protocol;
use crate::{
    base::{
        error::{Error, Result as Done},
        ids::{GroupId, Lineage, NodeId},
        limits,
    },
    cluster::State,
    engine::{EngineView, driver::Handle},
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

/// What the registry has for a node that says hello.
#[derive(Debug, PartialEq, Eq)]
enum Standing {
    Listed,
    Unknown,
    /// Under another name than the one that came.
    Misnamed(String),
}

fn standing(state: &State, node: NodeId, name: Option<&str>) -> Standing {
    match state.node(node) {
        Some(known) => {
            name.and_then(|name| known.misnamed(name)).map_or(Standing::Listed, Standing::Misnamed)
        }
        // Who has just joined knows nobody, and after a restore nodes announce themselves.
        None if state.nodes().is_empty() || state.settings().lineage == Lineage::PENDING => {
            Standing::Listed
        }
        None => Standing::Unknown,
    }
}

/// Whether a member has this name, or may have it: one that has proved none yet.
fn has_member(state: &State, name: &str) -> bool {
    let may = |known: &Option<String>| known.as_ref().is_none_or(|known| known == name);
    state.nodes().is_empty()
        || state.settings().lineage == Lineage::PENDING
        || state.nodes().values().any(|node| may(&node.certificate_name))
}

/// Refuses a caller whose name, proved by a node's certificate, is no member's. What this node has
/// applied may be old, so nobody is refused whom the leader knows.
pub async fn is_member(handle: &Handle, name: &str) -> Done<()> {
    let look = async |linearizable| {
        let name = name.to_owned();
        let see = move |sight: EngineView<'_>| has_member(sight.meta(), &name);
        handle.look(linearizable, limits::HELLO_LOOK, see).await
    };
    if look(false).await? {
        return Ok(());
    }
    // Without a leader nobody can say that it has not joined meanwhile.
    let led = handle.leader(GroupId::META).is_some();
    match if led { look(true).await.ok() } else { None } {
        Some(true) | None => Ok(()),
        Some(false) => Err(Error::denied(format!(
            "{name} is a node, and none of this cluster: no member has that name"
        ))),
    }
}

/// Why a node that says hello by this name is not believed to be it. What this node has applied may
/// be old, so nobody is refused whom the leader knows.
pub(super) async fn belongs(
    handle: &Handle,
    node: NodeId,
    name: Option<&str>,
) -> Result<(), String> {
    let look = async |linearizable| {
        let name = name.map(str::to_owned);
        let see = move |sight: EngineView<'_>| standing(sight.meta(), node, name.as_deref());
        handle.look(linearizable, limits::HELLO_LOOK, see).await
    };
    let here = match look(false).await {
        Ok(Standing::Listed) => return Ok(()),
        Ok(here) => here,
        // Where nothing was proved there is little to judge.
        Err(_) if name.is_none() => return Ok(()),
        Err(e) => return Err(format!("this node cannot tell yet: {e}")),
    };
    let led = if handle.leader(GroupId::META).is_some() { look(true).await.ok() } else { None };
    match (led, here) {
        (Some(Standing::Listed), _) | (None, Standing::Listed | Standing::Unknown) => Ok(()),
        (Some(Standing::Misnamed(why)), _) | (None, Standing::Misnamed(why)) => Err(why),
        (Some(Standing::Unknown), _) => Err(format!(
            "no node {node} has joined this cluster: it takes part when it is started with an \
             empty store and --join"
        )),
    }
}
