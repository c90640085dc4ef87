//! How nodes talk to each other.
//!
//! Every node keeps one stream to each of the others for what it has to say to them; what they say comes on theirs. Rows for a replica that is too far behind
//! travel on streams of their own. Files: `hello` (who may speak to whom), `streams`, `rows`.

mod hello;
mod rows;
mod streams;

pub use hello::{Verdict, judge};
pub use rows::receive_rows;
pub use streams::{Peers, listen};

use bytes::Bytes;
use tokio::sync::watch;
use tonic::{
    Request, Response,
    transport::{Channel, Endpoint},
};

use crate::{
    entry::Identity,
    error::{Error, Result},
    ids::NodeId,
    limits,
    proto::internal::v1::{GetNodeStatusRequest, GetNodeStatusResponse, Hello, peer_service_client::PeerServiceClient},
    wire,
};

/// Version of what nodes say to each other.
pub const PROTOCOL: u32 = 1;

/// What a stream needs to know of its own node.
#[derive(Clone)]
pub struct Me {
    pub identity: watch::Receiver<Identity>,
    pub address: String,
    /// Random, drawn when the process started.
    pub incarnation: u64,
}

impl Me {
    fn hello(&self, to: NodeId) -> Hello {
        let identity = self.identity.borrow();
        Hello {
            protocol: PROTOCOL,
            node_id: identity.node.0,
            to: to.0,
            cluster_id: Bytes::copy_from_slice(identity.cluster.0.as_bytes()),
            lineage: identity.lineage.0,
            restored_from: identity.restored_from.map_or(Bytes::new(), |id| Bytes::copy_from_slice(id.0.as_bytes())),
            address: self.address.clone(),
            incarnation: self.incarnation,
        }
    }
}

/// What the node at an address says of itself.
pub async fn status(address: impl AsRef<str>) -> Result<GetNodeStatusResponse> {
    let answer = connect(address.as_ref()).await?.get_node_status(GetNodeStatusRequest {}).await;
    Ok(answer.map_err(|s| wire::error_of(&s))?.into_inner())
}

/// Opens a connection to a node's peer service.
pub async fn connect(address: &str) -> Result<PeerServiceClient<Channel>> {
    let client = PeerServiceClient::new(channel(address).await?);
    Ok(client.max_decoding_message_size(limits::PEER_MESSAGE_BYTES_MAX).max_encoding_message_size(limits::PEER_MESSAGE_BYTES_MAX))
}

/// Opens a connection to a node.
pub async fn channel(address: &str) -> Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|e| Error::invalid(format!("{address} is not host:port: {e}")))?;
    let channel = endpoint.connect_timeout(limits::PEER_CONNECT).tcp_nodelay(true).http2_keep_alive_interval(limits::PEER_KEEPALIVE);
    let channel = channel.keep_alive_timeout(limits::PEER_KEEPALIVE).initial_stream_window_size(4 << 20).initial_connection_window_size(8 << 20);
    let channel = tokio::time::timeout(limits::PEER_CONNECT, channel.connect()).await.map_err(|_| Error::unavailable(format!("{address} does not answer")))?;
    channel.map_err(|e| Error::unavailable(format!("{address} cannot be reached: {}", root_cause(&e))))
}

fn root_cause(e: &dyn std::error::Error) -> String {
    let mut cause = e;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// Sends a request to join to a node.
pub async fn join(address: &str, request: crate::proto::internal::v1::JoinRequest) -> Result<crate::proto::internal::v1::JoinResponse> {
    let mut client = connect(address).await?;
    let mut request = Request::new(request);
    request.set_timeout(limits::REQUEST_DEADLINE);
    client.join(request).await.map(Response::into_inner).map_err(|s| wire::error_of(&s).at(address))
}
