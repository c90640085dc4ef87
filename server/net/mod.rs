//! How nodes talk to each other.
//!
//! Every node keeps one stream to each other node for its own messages, and receives theirs on the
//! streams that they keep. Rows for a replica that is too far behind travel on streams of their
//! own.
//!
//! Files, in reading order: `cork` (fewer packets), `acceptor` (incoming connections),
//! `whereabouts` (where the other nodes are), `handshake` (which nodes may talk to each other),
//! `rows`, `streams`.

pub mod cork;
pub mod acceptor;
mod whereabouts;
mod handshake;
mod rows;
mod streams;

pub use handshake::{Verdict, judge};
pub use rows::receive_rows;
pub use streams::{Peers, listen};
pub use whereabouts::{Sought, Whereabouts, Word};

use std::ops::RangeInclusive;

use bytes::Bytes;
use tokio::sync::watch;
use tonic::{
    Request, Response,
    transport::{Channel, Endpoint},
};

use crate::{
    base::{
        error::{Error, Result},
        ids::NodeId,
        limits,
    },
    entry::Identity,
    proto::internal::v1::{
        FoundClusterRequest, FoundClusterResponse, Founder, GetNodeStatusRequest,
        GetNodeStatusResponse, HeardNode, Hello, IntroduceRequest, IntroduceResponse,
        ListPartsRequest, ListPartsResponse, PromiseFoundingRequest, RemovePartRequest,
        RemovePartResponse, peer_service_client::PeerServiceClient,
    },
    wire,
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

/// What the node at an address says of itself.
pub async fn status(address: impl AsRef<str>) -> Result<GetNodeStatusResponse> {
    let answer = connect(address.as_ref()).await?.get_node_status(GetNodeStatusRequest {}).await;
    Ok(answer.map_err(|s| wire::error_of(&s))?.into_inner())
}

/// The parts that lie in a node's snapshot store.
pub async fn list_parts(address: &str, request: ListPartsRequest) -> Result<ListPartsResponse> {
    let answer = connect(address).await?.list_parts(request).await;
    Ok(answer.map_err(|s| wire::error_of(&s))?.into_inner())
}

/// Asks a node to remove one of them.
pub async fn remove_part(address: &str, request: RemovePartRequest) -> Result<RemovePartResponse> {
    let answer = connect(address).await?.remove_part(request).await;
    Ok(answer.map_err(|s| wire::error_of(&s))?.into_inner())
}

/// Opens a connection to a node's peer service.
pub async fn connect(address: &str) -> Result<PeerServiceClient<Channel>> {
    let client = PeerServiceClient::new(channel(address, limits::PEER_STREAM_WINDOW).await?);
    Ok(client
        .max_decoding_message_size(limits::PEER_MESSAGE_BYTES_MAX)
        .max_encoding_message_size(limits::PEER_MESSAGE_BYTES_MAX))
}

/// Opens a connection to a node, which may send `window` bytes ahead on each of its streams.
pub async fn channel(address: &str, window: u32) -> Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|e| Error::invalid(format!("{address} is not host:port: {e}")).with_source(e))?;
    let channel = endpoint
        .connect_timeout(limits::PEER_CONNECT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(limits::PEER_KEEPALIVE);
    let channel = channel
        .keep_alive_timeout(limits::PEER_KEEPALIVE)
        .initial_stream_window_size(window)
        .initial_connection_window_size(limits::PEER_CONNECTION_WINDOW);
    let channel = tokio::time::timeout(limits::PEER_CONNECT, channel.connect())
        .await
        .map_err(|_| Error::unavailable(format!("{address} does not answer")))?;
    channel.map_err(|e| {
        Error::unavailable(format!("{address} cannot be reached: {}", root_cause(&e)))
            .with_source(e)
    })
}

/// The innermost source of an error: what a person has to know of it.
fn root_cause(e: &dyn std::error::Error) -> String {
    let mut cause = e;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// Sends a request to join to a node.
pub async fn join(
    address: &str,
    request: crate::proto::internal::v1::JoinRequest,
) -> Result<crate::proto::internal::v1::JoinResponse> {
    let mut client = connect(address).await?;
    let mut request = Request::new(request);
    request.set_timeout(limits::REQUEST_DEADLINE);
    client.join(request).await.map(Response::into_inner).map_err(|s| wire::error_of(&s).at(address))
}

/// Asks which node is at an address. The error names the address.
pub async fn introduce(address: &str) -> Result<IntroduceResponse> {
    let mut client = connect(address).await?;
    let mut request = Request::new(IntroduceRequest {});
    request.set_timeout(limits::NODE_STATUS);
    let answer = tokio::time::timeout(limits::NODE_STATUS, client.introduce(request)).await;
    let answer =
        answer.map_err(|_| Error::unavailable(format!("{address} does not say who it is")))?;
    Ok(answer.map_err(|s| wire::error_of(&s).at(address))?.into_inner())
}

/// Asks a node that waits to leave the founding to another one.
pub async fn promise(address: &str, founder: Founder, join: Vec<String>) -> Result<()> {
    let mut client = connect(address).await?;
    let mut request = Request::new(PromiseFoundingRequest { founder: Some(founder), join });
    request.set_timeout(limits::PROMISE_FOUNDING);
    let answer =
        tokio::time::timeout(limits::PROMISE_FOUNDING, client.promise_founding(request)).await;
    let answer = answer.map_err(|_| Error::unavailable(format!("{address} does not answer")))?;
    answer.map(drop).map_err(|s| wire::error_of(&s).at(address))
}

/// Asks a node that waits to found.
pub async fn found(address: &str) -> Result<FoundClusterResponse> {
    let mut client = connect(address).await?;
    let mut request = Request::new(FoundClusterRequest {});
    request.set_timeout(limits::REQUEST_DEADLINE);
    client
        .found_cluster(request)
        .await
        .map(Response::into_inner)
        .map_err(|s| wire::error_of(&s).at(address))
}
