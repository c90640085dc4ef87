//! How nodes talk to each other.
//!
//! Every node keeps one stream to each other node for its own messages, and receives theirs on the
//! streams that they keep. Rows for a replica that is too far behind travel on streams of their
//! own.
//!
//! Files, in reading order: `cork` (fewer packets), `tls` (who is at the other end), `plain`
//! (who still comes without), `acceptor` (incoming connections), `dialler` (outgoing ones),
//! `whereabouts` (where the other nodes are), `handshake` (which nodes may talk to each other),
//! `rows`, `streams`. `spans` tells a collector how long all of it took.

pub mod cork;
pub mod tls;
mod plain;
pub mod acceptor;
mod dialler;
mod whereabouts;
mod handshake;
mod rows;
mod streams;
pub mod spans;

pub use dialler::Dialler;
pub use handshake::{Verdict, is_member, judge};
pub use rows::{Arrivals, receive_rows};
pub use streams::{Peers, listen};
pub use whereabouts::{Sought, Whereabouts, Word};

use std::ops::RangeInclusive;

use bytes::Bytes;
use tokio::sync::watch;

use crate::{
    base::{ids::NodeId, limits},
    entry::Identity,
    proto::internal::v1::{HeardNode, Hello, IntroduceResponse},
};

/// The versions of what nodes say to each other that this one knows. Version 1 had no levels
/// (`cluster::level`): nodes that speak it must never be members beside others.
pub const PROTOCOLS: RangeInclusive<u32> = 2..=2;

/// The newest version that both sides know: this one, and one that knows `theirs`. The minimum is
/// 0 where the other side has named only one.
pub fn common_protocol(theirs: (u32, u32)) -> Result<u32, String> {
    let (min, max) = theirs;
    let min = if min == 0 { max } else { min };
    let newest = max.min(*PROTOCOLS.end());
    if newest >= min && newest >= *PROTOCOLS.start() {
        return Ok(newest);
    }
    let named = |from: u32, to: u32| {
        if from == to { format!("version {from}") } else { format!("versions {from} to {to}") }
    };
    Err(format!(
        "knows {} of the peer protocol, and this node {}: upgrade one release at a time",
        named(min, max),
        named(*PROTOCOLS.start(), *PROTOCOLS.end())
    ))
}

/// What a stream needs to know of its own node.
#[derive(Clone)]
pub struct Me {
    pub identity: watch::Receiver<Identity>,
    pub address: String,
    /// Random, drawn when the process started.
    pub incarnation: u64,
    /// How it reaches others.
    pub dialler: Dialler,
}

impl Me {
    /// What this node says to a caller that asks who it is.
    pub fn introduction(&self) -> IntroduceResponse {
        let identity = self.identity.borrow();
        let cluster_id = Bytes::copy_from_slice(identity.cluster.0.as_bytes());
        IntroduceResponse {
            node_id: identity.node.0,
            incarnation: self.incarnation,
            cluster_id,
            waiting: None,
        }
    }

    /// What this node says of itself to another one; to 0 when it does not know to whom.
    pub fn hello(&self, to: NodeId) -> Hello {
        let identity = self.identity.borrow();
        Hello {
            protocol: *PROTOCOLS.end(),
            protocol_min: *PROTOCOLS.start(),
            node_id: identity.node.0,
            to: to.0,
            cluster_id: Bytes::copy_from_slice(identity.cluster.0.as_bytes()),
            lineage: identity.lineage.0,
            restored_from: identity
                .restored_from
                .map_or(Bytes::new(), |id| Bytes::copy_from_slice(id.0.as_bytes())),
            address: self.address.clone(),
            incarnation: self.incarnation,
        }
    }
}

/// Words about other nodes, as they are passed on.
fn heard_nodes(words: Vec<(NodeId, Word)>) -> Vec<HeardNode> {
    words
        .into_iter()
        .map(|(node, word)| HeardNode {
            node_id: node.0,
            address: word.address,
            incarnation: word.incarnation,
        })
        .collect()
}

fn words(heard: Vec<HeardNode>) -> impl Iterator<Item = (NodeId, Word)> {
    heard.into_iter().take(limits::NODES_MAX).map(|heard| {
        (NodeId(heard.node_id), Word { address: heard.address, incarnation: heard.incarnation })
    })
}

/// The speaker's own word of where it is.
fn word_of(hello: &Hello) -> Word {
    Word { address: hello.address.clone(), incarnation: hello.incarnation }
}
