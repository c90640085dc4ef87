//! `devicedb.internal.v1.PeerService`.
//!
//! Over TLS a caller that is not a member learns who this node is, and may ask to join; that is
//! all. Who speaks in a stream is looked at there (`net::handshake`), who makes another call is
//! looked at here.

use std::{path::PathBuf, pin::Pin};

use tokio::sync::mpsc;
use tokio_stream::{Stream, StreamExt as _, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming};

use super::{Calls, name_of_node, place_of};
use crate::{
    base::{crew::Role, error::Error, ids::SnapshotId, limits},
    cluster::State,
    engine::driver::Handle,
    net::{self, Peers},
    proto::internal::v1::{
        DeliverRequest, DeliverResponse, DescribePartRequest, DescribePartResponse,
        FoundClusterRequest, FoundClusterResponse, GetNodeStatusRequest, GetNodeStatusResponse,
        IntroduceRequest, IntroduceResponse, JoinRequest, JoinResponse, ListPartsRequest,
        ListPartsResponse, PromiseFoundingRequest, PromiseFoundingResponse, RemovePartRequest,
        RemovePartResponse, SeedOrder, SeedPlan, SendRowsRequest, SendRowsResponse,
        StoreSnapshotRequest, StoreSnapshotResponse, UploadGroupsRequest, UploadGroupsResponse,
        VerifyRepositoryRequest, VerifyRepositoryResponse, peer_service_server::PeerService,
    },
    service::{admin::Cluster, inventory::Inventory, parts::Parts, uploads::Uploads},
    wire,
};

pub struct PeerApi {
    pub peers: Peers,
    pub handle: Handle,
    pub cluster: Cluster,
    pub parts: Parts,
    pub inventory: Inventory,
    pub uploads: Uploads,
    pub spool: PathBuf,
    /// By which this node has begun its cluster together with others, if it has.
    pub plan: Option<SeedPlan>,
    pub calls: Calls,
}

type Told = Result<UploadGroupsResponse, Status>;

#[tonic::async_trait]
impl PeerService for PeerApi {
    type DeliverStream = ReceiverStream<Result<DeliverResponse, Status>>;

    async fn deliver(
        &self,
        request: Request<Streaming<DeliverRequest>>,
    ) -> Result<Response<Self::DeliverStream>, Status> {
        let (answers, stream) = mpsc::channel(limits::PEER_ANSWERS_QUEUED);
        let (place, name) = (place_of(&request), name_of_node(&request));
        let welcomed = move || place.iter().for_each(|place| place.vouch());
        self.calls.crew.spawn(
            Role::Listen,
            net::listen(
                self.peers.clone(),
                self.handle.clone(),
                request.into_inner(),
                answers,
                name,
                welcomed,
            ),
        );
        self.calls.stream("Deliver", Ok(ReceiverStream::new(stream)))
    }

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        let name = name_of_node(&request);
        self.calls
            .call("Join", request, |request, wait| async move {
                net::common_protocol((request.protocol_min, request.protocol))
                    .map_err(|why| Error::conflict(format!("the node that joins {why}")))?;
                let node =
                    wire::parse_node(request.node.ok_or_else(|| {
                        Error::invalid("a node that joins has to say who it is")
                    })?)?;
                if let Some(SeedOrder { snapshot, point, .. }) = request.seed {
                    let names = |plan: &&SeedPlan| plan.nodes.iter().any(|one| one.id == node.id.0);
                    if let plan @ Some(_) = self.plan.as_ref().filter(names).cloned() {
                        // It has no store, so it has never voted: it may begin late.
                        return Ok(JoinResponse { plan, ..JoinResponse::default() });
                    }
                    let snapshot = SnapshotId::from_slice(&snapshot)?;
                    let began = move |s: &State| s.settings().began_with(snapshot, &point);
                    self.cluster.look(wait, began).await??;
                }
                let proofs = (name, request.proof);
                self.cluster.take_in(node, proofs, request.incarnation, wait).await?;
                self.cluster
                    .look(wait, |s| JoinResponse {
                        settings: Some(wire::settings_record(s.settings())),
                        nodes: s.nodes().values().map(wire::node_record).collect(),
                        plan: None,
                    })
                    .await
            })
            .await
    }

    async fn send_rows(
        &self,
        request: Request<Streaming<SendRowsRequest>>,
    ) -> Result<Response<SendRowsResponse>, Status> {
        let name = name_of_node(&request);
        let received = net::receive_rows(
            self.peers.me(),
            &self.handle,
            self.cluster.arrivals(),
            &self.spool,
            request.into_inner(),
            name.as_deref(),
        )
        .await;
        self.calls.stream("SendRows", received)
    }

    async fn get_node_status(
        &self,
        request: Request<GetNodeStatusRequest>,
    ) -> Result<Response<GetNodeStatusResponse>, Status> {
        let name = name_of_node(&request);
        self.calls
            .call("GetNodeStatus", request, |_, _| async move {
                self.cluster.is_member(name.as_deref()).await?;
                let mut status = self.cluster.own_status().await?;
                status.parts = self.parts.under_way();
                status.uploads = self.uploads.driven();
                status.repository = self.uploads.repository_place().unwrap_or_default();
                let care = self.uploads.known_care();
                (status.verification, status.drill) = (care.verification, care.drill);
                Ok(status)
            })
            .await
    }

    async fn introduce(
        &self,
        request: Request<IntroduceRequest>,
    ) -> Result<Response<IntroduceResponse>, Status> {
        self.calls
            .call("Introduce", request, |_, _| async move { Ok(self.peers.me().introduction()) })
            .await
    }

    async fn promise_founding(
        &self,
        request: Request<PromiseFoundingRequest>,
    ) -> Result<Response<PromiseFoundingResponse>, Status> {
        let cluster = self.peers.me().identity.borrow().cluster;
        self.calls
            .call("PromiseFounding", request, |_, _| async move {
                Err(Error::conflict(format!("this node belongs to cluster {cluster}")))
            })
            .await
    }

    async fn found_cluster(
        &self,
        request: Request<FoundClusterRequest>,
    ) -> Result<Response<FoundClusterResponse>, Status> {
        let cluster_id = self.peers.me().introduction().cluster_id;
        self.calls
            .call("FoundCluster", request, |_, _| async move {
                Ok(FoundClusterResponse { cluster_id, created: false })
            })
            .await
    }

    async fn list_parts(
        &self,
        request: Request<ListPartsRequest>,
    ) -> Result<Response<ListPartsResponse>, Status> {
        let name = name_of_node(&request);
        self.calls
            .call("ListParts", request, |request, _| async move {
                self.cluster.is_member(name.as_deref()).await?;
                let id = if request.uuid.is_empty() {
                    None
                } else {
                    Some(SnapshotId::from_slice(&request.uuid)?)
                };
                self.inventory.list_here(id).await
            })
            .await
    }

    async fn describe_part(
        &self,
        request: Request<DescribePartRequest>,
    ) -> Result<Response<DescribePartResponse>, Status> {
        let name = name_of_node(&request);
        self.calls
            .call("DescribePart", request, |request, _| async move {
                self.cluster.is_member(name.as_deref()).await?;
                self.uploads.describe(request).await
            })
            .await
    }

    type UploadGroupsStream = Pin<Box<dyn Stream<Item = Told> + Send>>;

    async fn upload_groups(
        &self,
        request: Request<UploadGroupsRequest>,
    ) -> Result<Response<Self::UploadGroupsStream>, Status> {
        let begun = match self.cluster.is_member(name_of_node(&request).as_deref()).await {
            Ok(()) => self.uploads.store_groups(request.into_inner()).await,
            Err(e) => Err(e),
        };
        let told = begun.map(|progress| {
            let told = ReceiverStream::new(progress);
            Box::pin(told.map(|told| told.map_err(|e| wire::status_of(&e)))) as _
        });
        self.calls.stream("UploadGroups", told)
    }

    async fn store_snapshot(
        &self,
        request: Request<StoreSnapshotRequest>,
    ) -> Result<Response<StoreSnapshotResponse>, Status> {
        let name = name_of_node(&request);
        self.calls
            .call("StoreSnapshot", request, |request, wait| async move {
                self.cluster.is_member(name.as_deref()).await?;
                self.uploads.store_asked(request, wait).await
            })
            .await
    }

    async fn verify_repository(
        &self,
        request: Request<VerifyRepositoryRequest>,
    ) -> Result<Response<VerifyRepositoryResponse>, Status> {
        let name = name_of_node(&request);
        self.calls
            .call("VerifyRepository", request, |request, _| async move {
                self.cluster.is_member(name.as_deref()).await?;
                self.uploads.verify_asked(&request)
            })
            .await
    }

    async fn remove_part(
        &self,
        request: Request<RemovePartRequest>,
    ) -> Result<Response<RemovePartResponse>, Status> {
        let name = name_of_node(&request);
        self.calls
            .call("RemovePart", request, |request, _| async move {
                self.cluster.is_member(name.as_deref()).await?;
                self.inventory.remove_asked(request).await
            })
            .await
    }
}
