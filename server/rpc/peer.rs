//! `devicedb.internal.v1.PeerService`.

use std::path::PathBuf;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::Porter;
use crate::{
    driver::Handle,
    error::Error,
    failpoint::{Failpoint, failpoint},
    ids::Lineage,
    membership::Cluster,
    parts::Parts,
    peer::{self, Peers},
    proto::internal::v1::{
        DeliverRequest, DeliverResponse, GetNodeStatusRequest, GetNodeStatusResponse, JoinRequest, JoinResponse, SendRowsRequest, SendRowsResponse,
        peer_service_server::PeerService,
    },
    wire,
};

pub struct PeerDoor {
    pub peers: Peers,
    pub handle: Handle,
    pub cluster: Cluster,
    pub parts: Parts,
    pub spool: PathBuf,
    pub porter: Porter,
}

#[tonic::async_trait]
impl PeerService for PeerDoor {
    type DeliverStream = ReceiverStream<Result<DeliverResponse, Status>>;

    async fn deliver(&self, request: Request<Streaming<DeliverRequest>>) -> Result<Response<Self::DeliverStream>, Status> {
        let (answers, stream) = mpsc::channel(4);
        tokio::spawn(peer::listen(self.peers.clone(), self.handle.clone(), request.into_inner(), answers));
        self.porter.stream("Deliver", Ok(ReceiverStream::new(stream)))
    }

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        self.porter
            .call("Join", request, |request, wait| async move {
                if request.protocol != peer::PROTOCOL {
                    return Err(Error::conflict(format!("this cluster speaks version {} of the peer protocol, not {}", peer::PROTOCOL, request.protocol)));
                }
                let node = wire::parse_node(request.node.ok_or_else(|| Error::invalid("a node that joins has to say who it is"))?)?;
                let lineage = self.cluster.look(wait, |s| s.settings().lineage).await?;
                if lineage == Lineage::PENDING {
                    return Err(Error::unavailable("the restored nodes have not agreed on a lineage yet; retry"));
                }
                failpoint(Failpoint::JoinAnnouncing);
                self.cluster.announce(crate::cluster::Node { lineage, ..node }, wait).await?;
                failpoint(Failpoint::JoinAnnounced);
                self.cluster
                    .look(wait, |s| JoinResponse {
                        settings: Some(wire::settings_record(s.settings())),
                        nodes: s.nodes().values().map(wire::node_record).collect(),
                    })
                    .await
            })
            .await
    }

    async fn send_rows(&self, request: Request<Streaming<SendRowsRequest>>) -> Result<Response<SendRowsResponse>, Status> {
        let received = peer::receive_rows(self.peers.me(), &self.handle, &self.spool, request.into_inner()).await;
        self.porter.stream("SendRows", received)
    }

    async fn get_node_status(&self, request: Request<GetNodeStatusRequest>) -> Result<Response<GetNodeStatusResponse>, Status> {
        self.porter
            .call("GetNodeStatus", request, |_, _| async move {
                let mut status = self.cluster.own_status().await?;
                status.parts = self.parts.under_way();
                Ok(status)
            })
            .await
    }
}
