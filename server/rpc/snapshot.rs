//! `devicedb.v1.SnapshotService`. Any node answers for all: parts of other nodes are fetched from them.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tonic::{Request, Response, Status};

use super::{Porter, cut_page, page_size, parse_number_token};
use crate::{
    error::{Error, Result},
    failpoint::{Failpoint, failpoint},
    ids::{NodeId, SnapshotId},
    limits,
    membership::Cluster,
    parts::Parts,
    peer::Peers,
    proto::v1::{
        self, DownloadHeader, DownloadSnapshotResponse, DownloadTrailer, download_snapshot_response::Piece, snapshot_service_client::SnapshotServiceClient,
        snapshot_service_server::SnapshotService,
    },
    wire::{self, public},
};

pub struct SnapshotDoor {
    pub cluster: Cluster,
    pub parts: Parts,
    pub peers: Peers,
    pub me: NodeId,
    pub porter: Porter,
}

impl SnapshotDoor {
    /// A snapshot as the registry has it, with what the nodes say of parts under way.
    async fn view(&self, id: SnapshotId, wait: Duration) -> Result<Option<v1::Snapshot>> {
        let found = self.cluster.look(wait, move |s| s.snapshot_named(id).map(|snapshot| public::snapshot(s, snapshot))).await?;
        let Some(mut snapshot) = found else { return Ok(None) };
        let busy = snapshot.parts.iter().any(|p| p.status() == v1::SnapshotStatus::Processing);
        let progress = if busy { self.cluster.progress(id).await } else { Default::default() };
        for part in &mut snapshot.parts {
            if part.status() == v1::SnapshotStatus::Processing
                && let Some((done, all)) = progress.get(&NodeId(part.node_id))
            {
                (part.partitions_done, part.partitions) = (*done, *all);
            }
            // After a restore the registry does not know what became of the last parts; the shelf does.
            if NodeId(part.node_id) == self.me && part.status() == v1::SnapshotStatus::Missing {
                self.parts.correct(id, part);
            }
        }
        Ok(Some(snapshot))
    }

    /// Of a snapshot that the registry does not know: what is on this node's shelf, if anything.
    fn unknown(&self, id: SnapshotId) -> v1::Snapshot {
        let mut part = v1::SnapshotPart { node_id: self.me.0, address: self.peers.me().address.clone(), ..v1::SnapshotPart::default() };
        part.set_status(v1::SnapshotStatus::Missing);
        part.reason = "this node has no part of it".into();
        self.parts.correct(id, &mut part);
        let mut snapshot = v1::Snapshot { uuid: id.to_string(), parts: vec![part], ..v1::Snapshot::default() };
        snapshot.reason = "the cluster does not know this snapshot".into();
        snapshot.set_status(v1::SnapshotStatus::Missing);
        snapshot
    }

    async fn fetch(&self, request: v1::DownloadSnapshotRequest) -> Result<ReceiverStream<Result<DownloadSnapshotResponse, Status>>> {
        let id: SnapshotId = request.uuid.parse()?;
        let node = if request.node_id == 0 { self.me } else { NodeId(request.node_id) };
        let (pieces, stream) = mpsc::channel(8);
        if node == self.me {
            let (parts, me) = (self.parts.clone(), self.me);
            tokio::task::spawn_blocking(move || send_part(&parts, me, id, request.offset, &pieces));
            return Ok(ReceiverStream::new(stream));
        }
        let address = self.cluster.look(limits::REQUEST_DEADLINE, move |s| s.node(node).map(|n| n.address.clone())).await?;
        let address = address.ok_or_else(|| Error::not_found(format!("the cluster has no node {node}")))?;
        let address = self.peers.address(node).unwrap_or(address);
        let channel = crate::peer::channel(&address).await?;
        let mut client = SnapshotServiceClient::new(channel).max_decoding_message_size(limits::MESSAGE_BYTES_MAX);
        let asked = v1::DownloadSnapshotRequest { node_id: node.0, ..request };
        let mut theirs = client.download_snapshot(asked).await.map_err(|s| wire::error_of(&s))?.into_inner();
        tokio::spawn(async move {
            while let Some(piece) = theirs.next().await {
                let end = piece.is_err();
                // Whoever downloads may have gone.
                if pieces.send(piece).await.is_err() || end {
                    return;
                }
                failpoint(Failpoint::DownloadRelayed);
            }
        });
        Ok(ReceiverStream::new(stream))
    }
}

/// Streams this node's part from a thread that may block; the channel's bound is what the reader is ahead.
fn send_part(parts: &Parts, me: NodeId, id: SnapshotId, offset: u64, pieces: &mpsc::Sender<Result<DownloadSnapshotResponse, Status>>) {
    let send = |piece| pieces.blocking_send(Ok(DownloadSnapshotResponse { piece: Some(piece) })).map_err(|_| None);
    let sent = (|| {
        let mut reader = parts.open(id, offset).map_err(Some)?;
        let total_bytes = reader.total_bytes();
        send(Piece::Header(DownloadHeader { node_id: me.0, total_bytes, offset }))?;
        failpoint(Failpoint::DownloadHeaderSent);
        while reader.catch_up(4 << 20).map_err(Some)? {
            if pieces.is_closed() {
                return Err(None);
            }
        }
        while let Some(data) = reader.next(limits::DOWNLOAD_PIECE_BYTES).map_err(Some)? {
            send(Piece::Data(data))?;
            failpoint(Failpoint::DownloadPieceSent);
        }
        let digest = reader.digest().ok_or_else(|| Some(Error::corrupt("a part ended before its end")))?;
        send(Piece::Trailer(DownloadTrailer { total_bytes, digest: digest.to_string() }))?;
        failpoint(Failpoint::DownloadTrailerSent);
        Ok(())
    })();
    // None: whoever downloaded has gone.
    if let Err(Some(e)) = sent {
        let _ = pieces.blocking_send(Err(wire::status_of(&e)));
    }
}

#[tonic::async_trait]
impl SnapshotService for SnapshotDoor {
    async fn create_snapshot(&self, request: Request<v1::CreateSnapshotRequest>) -> Result<Response<v1::CreateSnapshotResponse>, Status> {
        self.porter
            .call("CreateSnapshot", request, |request, wait| async move {
                let id = if request.request_id.is_empty() { None } else { Some(SnapshotId::from_slice(&request.request_id)?) };
                let id = self.cluster.create_snapshot(id, self.porter.clock.wall_ms(), wait).await?;
                let snapshot = self.view(id, wait).await?;
                Ok(v1::CreateSnapshotResponse { snapshot: Some(snapshot.ok_or_else(|| Error::not_found(format!("snapshot {id} was deleted meanwhile")))?) })
            })
            .await
    }

    async fn get_snapshot(&self, request: Request<v1::GetSnapshotRequest>) -> Result<Response<v1::GetSnapshotResponse>, Status> {
        self.porter
            .call("GetSnapshot", request, |request, wait| async move {
                let id: SnapshotId = request.uuid.parse()?;
                let snapshot = self.view(id, wait).await?.unwrap_or_else(|| self.unknown(id));
                Ok(v1::GetSnapshotResponse { snapshot: Some(snapshot), answered_by: self.me.0 })
            })
            .await
    }

    async fn list_snapshots(&self, request: Request<v1::ListSnapshotsRequest>) -> Result<Response<v1::ListSnapshotsResponse>, Status> {
        self.porter
            .call("ListSnapshots", request, |request, wait| async move {
                let before = parse_number_token(&request.page_token)?;
                let size = page_size(request.page_size, 100);
                let listed = self.cluster.look(wait, move |s| {
                    let older = s.snapshots().values().rev().filter(|snapshot| before.is_none_or(|x| snapshot.x.0 < x));
                    older.take(size + 1).map(|snapshot| (snapshot.x, public::snapshot(s, snapshot))).collect::<Vec<_>>()
                });
                let (listed, next_page_token) = cut_page(listed.await?, size, |(x, _)| x.to_string());
                Ok(v1::ListSnapshotsResponse { snapshots: listed.into_iter().map(|(_, s)| s).collect(), next_page_token })
            })
            .await
    }

    async fn delete_snapshot(&self, request: Request<v1::DeleteSnapshotRequest>) -> Result<Response<v1::DeleteSnapshotResponse>, Status> {
        self.porter
            .call("DeleteSnapshot", request, |request, wait| async move {
                let id: SnapshotId = request.uuid.parse()?;
                let known = self.cluster.delete_snapshot(id, wait).await?;
                failpoint(Failpoint::DeleteAgreed);
                // A part of another history is known only to the shelf that it lies on.
                if !self.parts.remove(id).await? && !known {
                    return Err(Error::not_found(format!("snapshot {id} is not known")));
                }
                Ok(v1::DeleteSnapshotResponse {})
            })
            .await
    }

    type DownloadSnapshotStream = ReceiverStream<Result<DownloadSnapshotResponse, Status>>;

    async fn download_snapshot(&self, request: Request<v1::DownloadSnapshotRequest>) -> Result<Response<Self::DownloadSnapshotStream>, Status> {
        self.porter.stream("DownloadSnapshot", self.fetch(request.into_inner()).await)
    }
}
