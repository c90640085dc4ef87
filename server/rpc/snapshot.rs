//! `devicedb.v1.SnapshotService`. Any node answers for all: parts of other nodes are fetched from
//! them.

use tokio_stream::StreamExt as _;
use tonic::{Request, Response, Status, Streaming};

use super::{
    Calls, cut_page,
    gate::cluster_header,
    name_of_node, page_size, parse_number_token,
    pulled::{Made, Pulled},
};
use crate::{
    base::{
        crew::{self, Role},
        error::{Error, Result},
        ids::{Lineage, NodeId, SnapshotId},
        limits,
    },
    cluster::state::State,
    faults::failpoint::{Failpoint, failpoint},
    net::Peers,
    part::tar::PartReader,
    proto::{
        CLUSTER_HEADER,
        v1::{
            self, DownloadHeader, DownloadSnapshotResponse, DownloadTrailer,
            download_snapshot_response::Piece, snapshot_service_client::SnapshotServiceClient,
            snapshot_service_server::SnapshotService,
        },
    },
    service::{
        admin::Cluster,
        inventory::{After, Inventory},
        parts::Parts,
        readers::{Kind, Readers, Seat},
        uploads::Uploads,
    },
    wire::{self, public},
};

pub struct SnapshotApi {
    pub cluster: Cluster,
    pub parts: Parts,
    pub inventory: Inventory,
    pub uploads: Uploads,
    pub peers: Peers,
    pub me: NodeId,
    pub readers: Readers,
    pub calls: Calls,
}

impl SnapshotApi {
    /// Describes a snapshot that the registry does not know, by what is on this node's shelf.
    async fn unknown(&self, id: SnapshotId) -> v1::Snapshot {
        let mut part = v1::SnapshotPart {
            node_id: self.me.0,
            address: self.peers.me().address.clone(),
            ..v1::SnapshotPart::default()
        };
        part.set_status(v1::SnapshotStatus::Missing);
        part.reason = "this node has no part of it".into();
        self.parts.correct(id, &mut part).await;
        let cluster_id = self.peers.me().identity.borrow().cluster.to_string();
        let mut snapshot = v1::Snapshot {
            uuid: id.to_string(),
            parts: vec![part],
            cluster_id,
            ..v1::Snapshot::default()
        };
        snapshot.reason = "the cluster does not know this snapshot".into();
        snapshot.set_status(v1::SnapshotStatus::Missing);
        snapshot
    }

    /// `name` is that of a node which passes the part on.
    async fn fetch(
        &self,
        name: Option<String>,
        request: v1::DownloadSnapshotRequest,
    ) -> Result<(Pulled<Sending, DownloadSnapshotResponse>, Seat)> {
        self.cluster.is_member(name.as_deref()).await?;
        let id: SnapshotId = request.uuid.parse()?;
        let seat = self.readers.seat(Kind::Download)?;
        let node = if request.node_id == 0 { self.me } else { NodeId(request.node_id) };
        let (role, next) = if node == self.me {
            (
                Role::Download,
                Next::Header { parts: self.parts.clone(), me: self.me, id, offset: request.offset },
            )
        } else {
            (Role::Relay, Next::Relayed(Box::new(self.relay(node, request).await?)))
        };
        let sending = Sending { readers: self.readers.clone(), next };
        Ok((Pulled::new(role, sending, |sending| Box::pin(sending.piece())), seat))
    }

    /// Asks another node for its part, at the address that this node knows by itself: what is left
    /// of a cluster without a quorum can be fetched through any node.
    async fn relay(
        &self,
        node: NodeId,
        request: v1::DownloadSnapshotRequest,
    ) -> Result<Streaming<DownloadSnapshotResponse>> {
        let known = move |s: &State| s.node(node).cloned();
        let entry = match self.cluster.view(true, limits::NODE_STATUS, known).await? {
            (Some(entry), _) => Some(entry),
            (None, _) => self.cluster.look(limits::REQUEST_DEADLINE, known).await?,
        };
        let mut entry =
            entry.ok_or_else(|| Error::not_found(format!("the cluster has no node {node}")))?;
        entry.address = self.peers.address(node).unwrap_or(entry.address);
        let channel = self.peers.me().dialler.channel(&entry, limits::RELAY_WINDOW).await?;
        let mut client = SnapshotServiceClient::new(channel)
            .max_decoding_message_size(limits::MESSAGE_BYTES_MAX);
        let mut asked = Request::new(v1::DownloadSnapshotRequest { node_id: node.0, ..request });
        // Whoever is at that address by now.
        asked
            .metadata_mut()
            .insert(CLUSTER_HEADER, cluster_header(self.peers.me().identity.borrow().cluster));
        Ok(client.download_snapshot(asked).await.map_err(|s| wire::error_of(&s))?.into_inner())
    }
}

/// A download between two pieces.
pub struct Sending {
    readers: Readers,
    next: Next,
}

/// What a download sends next.
enum Next {
    Header {
        parts: Parts,
        me: NodeId,
        id: SnapshotId,
        offset: u64,
    },
    /// What lies before its offset is read, for the digest.
    CatchUp(Box<PartReader>),
    Data(Box<PartReader>),
    /// The trailer was sent.
    End,
    /// Whatever another node sends next.
    Relayed(Box<Streaming<DownloadSnapshotResponse>>),
}

impl Sending {
    async fn piece(self) -> Made<Sending, DownloadSnapshotResponse> {
        let Sending { readers, next } = self;
        let made = match next {
            Next::End => {
                failpoint(Failpoint::DownloadTrailerSent);
                return (None, None);
            }
            Next::Relayed(theirs) => relayed(&readers, theirs).await,
            next => read(&readers, next).await,
        };
        match made {
            Ok((piece, Some(next))) => (piece.map(Ok), Some(Sending { readers, next })),
            Ok((piece, None)) => (piece.map(Ok), None),
            Err(status) => (Some(Err(status)), None),
        }
    }
}

/// A piece, if there is one now, and what comes next.
type Then = (Option<DownloadSnapshotResponse>, Option<Next>);

/// The next piece of another node's part, when there is room for it.
async fn relayed(
    readers: &Readers,
    mut theirs: Box<Streaming<DownloadSnapshotResponse>>,
) -> Result<Then, Status> {
    readers.room(limits::READER_WAIT).await.map_err(|e| wire::status_of(&e))?;
    let Some(piece) = theirs.next().await else { return Ok((None, None)) };
    failpoint(Failpoint::DownloadRelayed);
    Ok((Some(piece?), Some(Next::Relayed(theirs))))
}

/// The next piece of this node's part. Reading waits for the disk, on a thread that may, and only
/// while the client waits for it.
async fn read(readers: &Readers, next: Next) -> Result<Then, Status> {
    let _turn = readers.turn(Kind::Download).await.map_err(|e| wire::status_of(&e))?;
    let (piece, next) = crew::blocking(Role::Download, move || next.read())
        .await
        .map_err(|e| wire::status_of(&e))?;
    Ok((piece, Some(next)))
}

impl Next {
    /// Reads what comes next of this node's part. Without a piece there is more to read before it.
    fn read(self) -> Result<(Option<DownloadSnapshotResponse>, Next)> {
        let piece = |piece| Some(DownloadSnapshotResponse { piece: Some(piece) });
        match self {
            Next::Header { parts, me, id, offset } => {
                let reader = parts.open(id, offset)?;
                let header =
                    DownloadHeader { node_id: me.0, total_bytes: reader.total_bytes(), offset };
                Ok((piece(Piece::Header(header)), Next::CatchUp(Box::new(reader))))
            }
            Next::CatchUp(mut reader) => {
                failpoint(Failpoint::DownloadHeaderSent);
                let more = reader.catch_up(limits::DOWNLOAD_CATCH_UP_BYTES)?;
                Ok((None, if more { Next::CatchUp(reader) } else { Next::Data(reader) }))
            }
            Next::Data(mut reader) => {
                if let Some(data) = reader.next(limits::DOWNLOAD_PIECE_BYTES)? {
                    failpoint(Failpoint::DownloadPieceSent);
                    return Ok((piece(Piece::Data(data)), Next::Data(reader)));
                }
                let digest =
                    reader.digest().ok_or_else(|| Error::corrupt("a part ended before its end"))?;
                let trailer = DownloadTrailer {
                    total_bytes: reader.total_bytes(),
                    digest: digest.to_string(),
                };
                Ok((piece(Piece::Trailer(trailer)), Next::End))
            }
            next @ (Next::End | Next::Relayed(_)) => Ok((None, next)),
        }
    }
}

/// A page token of orphans; none for the first page.
fn parse_after(token: &str) -> Result<Option<After>> {
    if token.is_empty() {
        return Ok(None);
    }
    let after = token
        .split_once(':')
        .and_then(|(node, rest)| Some((node, rest.split_once(':')?)))
        .and_then(|(node, (left_by, uuid))| {
            let id = |text: &str| text.parse().ok().map(NodeId);
            Some((id(node)?, id(left_by)?, uuid.parse().ok()?))
        });
    after.map(Some).ok_or_else(|| {
        Error::invalid(format!("{token:?} is not a page token that this list gave out"))
    })
}

#[tonic::async_trait]
impl SnapshotService for SnapshotApi {
    async fn create_snapshot(
        &self,
        request: Request<v1::CreateSnapshotRequest>,
    ) -> Result<Response<v1::CreateSnapshotResponse>, Status> {
        self.calls
            .call("CreateSnapshot", request, |request, wait| async move {
                let id = if request.request_id.is_empty() {
                    None
                } else {
                    Some(SnapshotId::from_slice(&request.request_id)?)
                };
                let (id, warning) =
                    self.cluster.create_snapshot(id, self.calls.clock.wall_ms(), wait).await?;
                let (snapshot, _) = self.inventory.snapshot(id, false, wait).await?;
                let snapshot = snapshot.ok_or_else(|| {
                    Error::not_found(format!("snapshot {id} was deleted meanwhile"))
                })?;
                Ok(v1::CreateSnapshotResponse {
                    snapshot: Some(snapshot),
                    warning: warning.unwrap_or_default(),
                })
            })
            .await
    }

    async fn get_snapshot(
        &self,
        request: Request<v1::GetSnapshotRequest>,
    ) -> Result<Response<v1::GetSnapshotResponse>, Status> {
        self.calls
            .call("GetSnapshot", request, |request, wait| async move {
                let id: SnapshotId = request.uuid.parse()?;
                let (known, local) = self.inventory.snapshot(id, request.local, wait).await?;
                let mut snapshot = match known {
                    Some(snapshot) => snapshot,
                    None => self.unknown(id).await,
                };
                let is_known = snapshot.status() != v1::SnapshotStatus::Missing;
                if is_known && self.uploads.are_possible() {
                    snapshot.upload = Some(self.uploads.state(id).await?);
                }
                let (snapshot, answered_by) = (Some(snapshot), self.me.0);
                Ok(v1::GetSnapshotResponse { snapshot, answered_by, local })
            })
            .await
    }

    async fn list_snapshots(
        &self,
        request: Request<v1::ListSnapshotsRequest>,
    ) -> Result<Response<v1::ListSnapshotsResponse>, Status> {
        self.calls
            .call("ListSnapshots", request, |request, wait| async move {
                let before = parse_number_token(&request.page_token)?;
                let size = page_size(request.page_size, limits::SNAPSHOTS_PAGE_SIZE);
                let listed = self.cluster.view(request.local, wait, move |s| {
                    let older = s
                        .snapshots()
                        .values()
                        .rev()
                        .filter(|snapshot| before.is_none_or(|seq| snapshot.seq.0 < seq));
                    older
                        .take(size + 1)
                        .map(|snapshot| {
                            (snapshot.seq, public::snapshot(s.settings(), s.nodes(), snapshot))
                        })
                        .collect::<Vec<_>>()
                });
                let (listed, local) = listed.await?;
                let (listed, next_page_token) = cut_page(listed, size, |(seq, _)| seq.to_string());
                let cluster_id = self.peers.me().identity.borrow().cluster.to_string();
                Ok(v1::ListSnapshotsResponse {
                    snapshots: listed.into_iter().map(|(_, s)| s).collect(),
                    next_page_token,
                    cluster_id,
                    local,
                })
            })
            .await
    }

    async fn delete_snapshot(
        &self,
        request: Request<v1::DeleteSnapshotRequest>,
    ) -> Result<Response<v1::DeleteSnapshotResponse>, Status> {
        self.calls
            .call("DeleteSnapshot", request, |request, wait| async move {
                let id: SnapshotId = request.uuid.parse()?;
                let lineage = if request.lineage.is_empty() {
                    None
                } else {
                    Some(request.lineage.parse::<Lineage>()?)
                };
                self.inventory.delete(id, lineage, wait).await
            })
            .await
    }

    async fn upload_snapshot(
        &self,
        request: Request<v1::UploadSnapshotRequest>,
    ) -> Result<Response<v1::UploadSnapshotResponse>, Status> {
        self.calls
            .call("UploadSnapshot", request, |request, wait| async move {
                let upload = Some(self.uploads.begin(request.uuid.parse()?, wait).await?);
                Ok(v1::UploadSnapshotResponse { upload })
            })
            .await
    }

    async fn list_orphans(
        &self,
        request: Request<v1::ListOrphansRequest>,
    ) -> Result<Response<v1::ListOrphansResponse>, Status> {
        self.calls
            .call("ListOrphans", request, |request, wait| async move {
                let after = parse_after(&request.page_token)?;
                let size = page_size(request.page_size, limits::SNAPSHOTS_PAGE_SIZE);
                let (orphans, unanswered) = self.inventory.orphans(after, size + 1, wait).await?;
                let (orphans, next_page_token) = cut_page(orphans, size, |orphan| {
                    format!("{}:{}:{}", orphan.node_id, orphan.left_by, orphan.uuid)
                });
                Ok(v1::ListOrphansResponse { orphans, next_page_token, unanswered })
            })
            .await
    }

    type DownloadSnapshotStream = Pulled<Sending, DownloadSnapshotResponse>;

    async fn download_snapshot(
        &self,
        request: Request<v1::DownloadSnapshotRequest>,
    ) -> Result<Response<Self::DownloadSnapshotStream>, Status> {
        let name = name_of_node(&request);
        let (noted, begun) = match self.calls.audit.begins("DownloadSnapshot", &request).await {
            Ok(noted) => (noted, self.fetch(name, request.into_inner()).await),
            Err(e) => (None, Err(e)),
        };
        let (begun, seat) = match begun {
            Ok((pieces, seat)) => (Ok(pieces), Some(seat)),
            Err(e) => (Err(e), None),
        };
        // How far it comes depends on whoever reads it.
        let mut pieces = self.calls.stream("DownloadSnapshot", begun);
        let refused = pieces.as_ref().err().cloned();
        self.calls.audit.ended(noted, refused).await;
        if let (Ok(pieces), Some(seat)) = (&mut pieces, seat) {
            pieces.extensions_mut().insert(seat);
        }
        pieces
    }
}
