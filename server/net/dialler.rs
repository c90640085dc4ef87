//! What a node asks of other nodes, each over a connection of its own: plain or TLS, as this node
//! was started.
//!
//! - Without certificates a node dials plain; where TLS is required, never.
//! - Where TLS is optional a node speaks TLS to everybody who does. To one that answers that it
//!   does not, it speaks as nodes did before: whoever can change what is sent between nodes can
//!   bring that answer about, so optional protects nobody, and is a step on the way to required.
//! - Where a node of the registry is meant, and not whoever listens at an address, the other side
//!   is asked nothing when it proves the name of another node.

use tonic::{
    Request, Response, Streaming,
    transport::{Channel, Endpoint, Error as TransportError},
};

use super::tls::{self, Fault, FaultKind, Noted, Shown, Tls, Trust};
use crate::{
    base::{
        error::{Error, Result},
        limits,
        locks::lock,
    },
    cluster::Node,
    proto::internal::v1::{
        DescribePartRequest, DescribePartResponse, FoundClusterRequest, FoundClusterResponse,
        Founder, GetNodeStatusRequest, GetNodeStatusResponse, IntroduceRequest, IntroduceResponse,
        JoinRequest, JoinResponse, ListPartsRequest, ListPartsResponse, PromiseFoundingRequest,
        RemovePartRequest, RemovePartResponse, StoreSnapshotRequest, StoreSnapshotResponse,
        UploadGroupsRequest, UploadGroupsResponse, VerifyRepositoryRequest,
        VerifyRepositoryResponse, peer_service_client::PeerServiceClient,
    },
    wire,
};

/// See the module. Cheap to clone.
#[derive(Clone, Default)]
pub struct Dialler {
    tls: Option<Tls>,
}

impl Dialler {
    pub fn new(tls: Option<Tls>) -> Dialler {
        Dialler { tls }
    }

    /// The name that this node's certificate proves to others.
    pub fn own_name(&self) -> Option<String> {
        Some(self.tls.as_ref()?.material().own.bearer().ok()?.name)
    }

    /// Opens a connection to a node's peer service.
    pub async fn connect(&self, address: &str) -> Result<PeerServiceClient<Channel>> {
        self.connect_to_named(address).await.map(|(client, _)| client)
    }

    /// Opens a connection to the peer service of a node, at the address that its entry has.
    async fn connect_to(&self, node: &Node) -> Result<PeerServiceClient<Channel>> {
        let (client, shown) = self.connect_to_named(&node.address).await?;
        is_named(node, &shown)?;
        Ok(client)
    }

    /// Opens a connection to a node's peer service, and says which name the node has proved.
    pub async fn connect_to_named(
        &self,
        address: &str,
    ) -> Result<(PeerServiceClient<Channel>, Shown)> {
        let shown = Shown::default();
        let channel = self.channel_to(address, limits::PEER_STREAM_WINDOW, shown.clone()).await?;
        let client = PeerServiceClient::new(channel)
            .max_decoding_message_size(limits::PEER_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(limits::PEER_MESSAGE_BYTES_MAX);
        Ok((client, shown))
    }

    /// Opens a connection to a node, at the address that its entry has. It may send `window` bytes
    /// ahead on each of its streams.
    pub async fn channel(&self, node: &Node, window: u32) -> Result<Channel> {
        let shown = Shown::default();
        let channel = self.channel_to(&node.address, window, shown.clone()).await?;
        is_named(node, &shown)?;
        Ok(channel)
    }

    async fn channel_to(&self, address: &str, window: u32, shown: Shown) -> Result<Channel> {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|e| {
            Error::invalid(format!("{address} is not host:port: {e}")).with_source(e)
        })?;
        let endpoint = endpoint
            .connect_timeout(limits::PEER_CONNECT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(limits::PEER_KEEPALIVE);
        let endpoint = endpoint
            .keep_alive_timeout(limits::PEER_KEEPALIVE)
            .initial_stream_window_size(window)
            .initial_connection_window_size(limits::PEER_CONNECTION_WINDOW)
            .max_frame_size(limits::FRAME_BYTES);
        let channel = tokio::time::timeout(limits::PEER_CONNECT, self.open(&endpoint, shown))
            .await
            .map_err(|_| Error::unavailable(format!("{address} does not answer")))?;
        channel.map_err(|e| {
            Error::unavailable(format!("{address} cannot be reached: {}", root_cause(&e)))
                .with_source(e)
        })
    }

    async fn open(&self, endpoint: &Endpoint, shown: Shown) -> Result<Channel, TransportError> {
        let Some(tls) = &self.tls else { return endpoint.connect().await };
        let config = tls.material().client.clone();
        let node = Some(Noted { shown, tls: tls.clone() });
        let trust = Trust { config, name: None, node };
        match tls::connect(endpoint, trust).await {
            Err(e) if !tls.is_required() && speaks_plain(&e) => endpoint.connect().await,
            opened => opened,
        }
    }

    /// What a node says of itself.
    pub async fn status(&self, node: &Node) -> Result<GetNodeStatusResponse> {
        let answer = self.connect_to(node).await?.get_node_status(GetNodeStatusRequest {}).await;
        Ok(answer.map_err(|s| wire::error_of(&s))?.into_inner())
    }

    /// What whoever listens at an address says of itself, and the name that it has proved.
    pub async fn status_at(
        &self,
        address: &str,
    ) -> Result<(GetNodeStatusResponse, Option<String>)> {
        let (mut client, shown) = self.connect_to_named(address).await?;
        let answer = client.get_node_status(GetNodeStatusRequest {}).await;
        let name = lock(&shown).clone();
        Ok((answer.map_err(|s| wire::error_of(&s))?.into_inner(), name))
    }

    /// The parts that lie in a node's snapshot store.
    pub async fn list_parts(
        &self,
        node: &Node,
        request: ListPartsRequest,
    ) -> Result<ListPartsResponse> {
        let answer = self.connect_to(node).await?.list_parts(request).await;
        Ok(answer.map_err(|s| wire::error_of(&s))?.into_inner())
    }

    /// Asks a node to remove one of them.
    pub async fn remove_part(
        &self,
        node: &Node,
        request: RemovePartRequest,
    ) -> Result<RemovePartResponse> {
        let answer = self.connect_to(node).await?.remove_part(request).await;
        Ok(answer.map_err(|s| wire::error_of(&s))?.into_inner())
    }

    /// What a node's part of a snapshot holds.
    pub async fn describe_part(
        &self,
        node: &Node,
        request: DescribePartRequest,
    ) -> Result<DescribePartResponse> {
        let answer = self.connect_to(node).await?.describe_part(request).await;
        Ok(answer.map_err(|s| wire::error_of(&s))?.into_inner())
    }

    /// Has a node store groups of its part, and follows it.
    pub async fn upload_groups(
        &self,
        node: &Node,
        request: UploadGroupsRequest,
    ) -> Result<Streaming<UploadGroupsResponse>> {
        let answer = self.connect_to(node).await?.upload_groups(request).await;
        Ok(answer.map_err(|s| wire::error_of(&s))?.into_inner())
    }

    /// Has a node have a snapshot stored, or say how far that is.
    pub async fn store_snapshot(
        &self,
        node: &Node,
        request: StoreSnapshotRequest,
    ) -> Result<StoreSnapshotResponse> {
        let answer = self.connect_to(node).await?.store_snapshot(request).await;
        Ok(answer.map_err(|s| wire::error_of(&s))?.into_inner())
    }

    /// Has a node verify the repository, or say how far that is.
    pub async fn verify_repository(
        &self,
        node: &Node,
        request: VerifyRepositoryRequest,
    ) -> Result<VerifyRepositoryResponse> {
        let answer = self.connect_to(node).await?.verify_repository(request).await;
        Ok(answer.map_err(|s| wire::error_of(&s))?.into_inner())
    }

    /// Sends a request to join to a node.
    pub async fn join(&self, address: &str, request: JoinRequest) -> Result<JoinResponse> {
        let mut client = self.connect(address).await?;
        let mut request = Request::new(request);
        request.set_timeout(limits::REQUEST_DEADLINE);
        client
            .join(request)
            .await
            .map(Response::into_inner)
            .map_err(|s| wire::error_of(&s).at(address))
    }

    /// Asks which node is at an address. The error names the address.
    pub async fn introduce(&self, address: &str) -> Result<IntroduceResponse> {
        let mut client = self.connect(address).await?;
        let mut request = Request::new(IntroduceRequest {});
        request.set_timeout(limits::NODE_STATUS);
        let answer = tokio::time::timeout(limits::NODE_STATUS, client.introduce(request)).await;
        let answer =
            answer.map_err(|_| Error::unavailable(format!("{address} does not say who it is")))?;
        Ok(answer.map_err(|s| wire::error_of(&s).at(address))?.into_inner())
    }

    /// Asks a node that waits to leave the founding to another one.
    pub async fn promise(&self, address: &str, founder: Founder, join: Vec<String>) -> Result<()> {
        let mut client = self.connect(address).await?;
        let mut request = Request::new(PromiseFoundingRequest { founder: Some(founder), join });
        request.set_timeout(limits::PROMISE_FOUNDING);
        let answer =
            tokio::time::timeout(limits::PROMISE_FOUNDING, client.promise_founding(request)).await;
        let answer =
            answer.map_err(|_| Error::unavailable(format!("{address} does not answer")))?;
        answer.map(drop).map_err(|s| wire::error_of(&s).at(address))
    }

    /// Asks a node that waits to found.
    pub async fn found(&self, address: &str) -> Result<FoundClusterResponse> {
        let mut client = self.connect(address).await?;
        let mut request = Request::new(FoundClusterRequest {});
        request.set_timeout(limits::REQUEST_DEADLINE);
        client
            .found_cluster(request)
            .await
            .map(Response::into_inner)
            .map_err(|s| wire::error_of(&s).at(address))
    }
}

/// Refuses who has proved the name of another node than the one that is meant.
fn is_named(node: &Node, shown: &Shown) -> Result<()> {
    match lock(shown).as_deref().and_then(|name| node.misnamed(name)) {
        Some(why) => Err(Error::conflict(format!("{}: {why}", node.address))),
        None => Ok(()),
    }
}

/// Whether the other side has answered that it does not speak TLS.
fn speaks_plain(e: &TransportError) -> bool {
    Fault::behind(e).is_some_and(|fault| fault.kind == FaultKind::Plain)
}

/// The innermost source of an error: what a person has to know of it.
fn root_cause(e: &dyn std::error::Error) -> String {
    let mut cause = e;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
