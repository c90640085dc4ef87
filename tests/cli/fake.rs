//! A server that does what a test tells it, for faults that a real one cannot easily be brought to
//! commit.
//!
//! It answers from scripts, one entry a call, the last one again and again, and keeps what it was
//! asked.

use std::{
    collections::VecDeque,
    net::{SocketAddr, TcpListener},
    pin::Pin,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use devicedb::proto::v1::{
    self, download_snapshot_response::Piece, kv_service_server::KvService,
    kv_service_server::KvServiceServer, snapshot_service_server::SnapshotService,
    snapshot_service_server::SnapshotServiceServer,
};
use tokio_stream::{Stream, StreamExt as _, wrappers::TcpListenerStream};
use tonic::{Code, Request, Response, Status, transport::Server};
use tonic_types::{ErrorDetails, StatusExt as _};

pub type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What a stream sends, and how it ends.
#[derive(Clone)]
pub struct Flow<T> {
    pub pieces: Vec<T>,
    pub then: End,
}

#[derive(Clone)]
pub enum End {
    Close,
    Hang,
    Fail(Status),
}

#[derive(Default)]
pub struct Script {
    pub puts: VecDeque<Result<v1::PutResponse, Status>>,
    pub gets: VecDeque<Result<v1::GetResponse, Status>>,
    /// After so many gets it answers none any more.
    pub gets_answered: Option<usize>,
    pub scans: VecDeque<Flow<v1::ScanResponse>>,
    pub snapshots: VecDeque<Result<v1::Snapshot, Status>>,
    pub deletions: VecDeque<Result<(), Status>>,
    /// What is said when an upload is begun.
    pub uploads: VecDeque<Result<v1::Upload, Status>>,
    /// The tar that is downloaded from the offset asked for; `downloads` says how far and how it
    /// ends.
    pub tar: Vec<u8>,
    pub downloads: VecDeque<Download>,
}

/// How one download goes: so many bytes from where it begins, then an end.
#[derive(Clone)]
pub enum Download {
    Whole,
    /// The trailer says that these were other bytes.
    WrongDigest,
    /// So many bytes, then this.
    Cut(usize, End),
    Refuse(Status),
}

#[derive(Default)]
pub struct Seen {
    pub request_ids: Vec<Bytes>,
    pub gets: usize,
    /// What each of those said of who asks.
    pub callers: Vec<Option<String>>,
    pub scans: Vec<v1::ScanRequest>,
    pub downloads: Vec<v1::DownloadSnapshotRequest>,
}

#[derive(Clone, Default)]
pub struct Fake {
    pub script: Arc<Mutex<Script>>,
    pub seen: Arc<Mutex<Seen>>,
}

/// A fake that runs until it is dropped.
pub struct Running {
    pub address: SocketAddr,
    pub seen: Arc<Mutex<Seen>>,
    _runtime: tokio::runtime::Runtime,
}

pub const NODE: u64 = 16681865894510149803;

/// A status of ours, with its reason.
pub fn refusal(code: Code, reason: &str, message: &str) -> Status {
    Status::with_error_details(code, message, ErrorDetails::with_error_info(reason, "devicedb", []))
}

impl Fake {
    pub fn run(script: Script) -> Running {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Fake::run_on(listener, script)
    }

    pub fn run_on(listener: TcpListener, script: Script) -> Running {
        let fake = Fake { script: Arc::new(Mutex::new(script)), seen: Arc::default() };
        let (address, seen) = (listener.local_addr().unwrap(), fake.seen.clone());
        listener.set_nonblocking(true).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        runtime.spawn(async move {
            let incoming =
                TcpListenerStream::new(tokio::net::TcpListener::from_std(listener).unwrap());
            let services = Server::builder()
                .add_service(KvServiceServer::new(fake.clone()))
                .add_service(SnapshotServiceServer::new(fake));
            services.serve_with_incoming(incoming).await.unwrap();
        });
        Running { address, seen, _runtime: runtime }
    }

    fn next<T: Clone>(&self, of: impl Fn(&mut Script) -> &mut VecDeque<T>) -> T {
        let mut script = self.script.lock().unwrap();
        let entries = of(&mut script);
        if entries.len() > 1 {
            entries.pop_front().unwrap()
        } else {
            entries.front().cloned().expect("the test wrote a script for this call")
        }
    }
}

fn flow<T: Send + 'static>(flow: Flow<T>) -> Streamed<T> {
    let pieces = tokio_stream::iter(flow.pieces.into_iter().map(Ok));
    match flow.then {
        End::Close => Box::pin(pieces),
        End::Fail(status) => Box::pin(pieces.chain(tokio_stream::once(Err(status)))),
        End::Hang => Box::pin(pieces.chain(tokio_stream::pending())),
    }
}

#[tonic::async_trait]
impl KvService for Fake {
    type ScanStream = Streamed<v1::ScanResponse>;

    async fn get(
        &self,
        request: Request<v1::GetRequest>,
    ) -> Result<Response<v1::GetResponse>, Status> {
        let asked = {
            let mut seen = self.seen.lock().unwrap();
            seen.gets += 1;
            let caller = request.metadata().get("authorization");
            seen.callers.push(caller.map(|caller| caller.to_str().unwrap().to_owned()));
            seen.gets
        };
        let answered = self.script.lock().unwrap().gets_answered;
        if answered.is_some_and(|answered| asked > answered) {
            std::future::pending::<()>().await;
        }
        self.next(|script| &mut script.gets).map(Response::new)
    }
    async fn put(
        &self,
        request: Request<v1::PutRequest>,
    ) -> Result<Response<v1::PutResponse>, Status> {
        self.seen.lock().unwrap().request_ids.push(request.into_inner().request_id);
        self.next(|script| &mut script.puts).map(Response::new)
    }
    async fn delete(
        &self,
        _: Request<v1::DeleteRequest>,
    ) -> Result<Response<v1::DeleteResponse>, Status> {
        Err(Status::unimplemented("not played"))
    }
    async fn batch(
        &self,
        _: Request<v1::BatchRequest>,
    ) -> Result<Response<v1::BatchResponse>, Status> {
        Err(Status::unimplemented("not played"))
    }
    async fn scan(
        &self,
        request: Request<v1::ScanRequest>,
    ) -> Result<Response<Self::ScanStream>, Status> {
        self.seen.lock().unwrap().scans.push(request.into_inner());
        Ok(Response::new(flow(self.next(|script| &mut script.scans))))
    }
}

#[tonic::async_trait]
impl SnapshotService for Fake {
    type DownloadSnapshotStream = Streamed<v1::DownloadSnapshotResponse>;

    async fn create_snapshot(
        &self,
        request: Request<v1::CreateSnapshotRequest>,
    ) -> Result<Response<v1::CreateSnapshotResponse>, Status> {
        let id = request.into_inner().request_id;
        self.seen.lock().unwrap().request_ids.push(id.clone());
        let mut snapshot = self.next(|script| &mut script.snapshots)?;
        snapshot.uuid = uuid::Uuid::from_slice(&id).unwrap().to_string();
        Ok(Response::new(v1::CreateSnapshotResponse {
            snapshot: Some(snapshot),
            warning: String::new(),
        }))
    }
    async fn get_snapshot(
        &self,
        _: Request<v1::GetSnapshotRequest>,
    ) -> Result<Response<v1::GetSnapshotResponse>, Status> {
        let snapshot = self.next(|script| &mut script.snapshots)?;
        Ok(Response::new(v1::GetSnapshotResponse {
            snapshot: Some(snapshot),
            answered_by: NODE,
            local: None,
        }))
    }
    async fn list_snapshots(
        &self,
        _: Request<v1::ListSnapshotsRequest>,
    ) -> Result<Response<v1::ListSnapshotsResponse>, Status> {
        Ok(Response::new(v1::ListSnapshotsResponse {
            snapshots: vec![],
            next_page_token: "the same for ever".into(),
            cluster_id: String::new(),
            local: None,
        }))
    }
    async fn delete_snapshot(
        &self,
        _: Request<v1::DeleteSnapshotRequest>,
    ) -> Result<Response<v1::DeleteSnapshotResponse>, Status> {
        let known = v1::DeleteSnapshotResponse { parts: vec![], known: true };
        self.next(|script| &mut script.deletions).map(|()| Response::new(known))
    }
    async fn upload_snapshot(
        &self,
        _: Request<v1::UploadSnapshotRequest>,
    ) -> Result<Response<v1::UploadSnapshotResponse>, Status> {
        let upload = Some(self.next(|script| &mut script.uploads)?);
        Ok(Response::new(v1::UploadSnapshotResponse { upload }))
    }
    async fn list_orphans(
        &self,
        _: Request<v1::ListOrphansRequest>,
    ) -> Result<Response<v1::ListOrphansResponse>, Status> {
        Ok(Response::new(v1::ListOrphansResponse::default()))
    }
    async fn download_snapshot(
        &self,
        request: Request<v1::DownloadSnapshotRequest>,
    ) -> Result<Response<Self::DownloadSnapshotStream>, Status> {
        let request = request.into_inner();
        self.seen.lock().unwrap().downloads.push(request.clone());
        let how = self.next(|script| &mut script.downloads);
        let tar = self.script.lock().unwrap().tar.clone();
        let node_id = if request.node_id == 0 { NODE } else { request.node_id };
        download(how, &tar, node_id, request.offset).map(|pieces| Response::new(flow(pieces)))
    }
}

fn download(
    how: Download,
    tar: &[u8],
    node_id: u64,
    offset: u64,
) -> Result<Flow<v1::DownloadSnapshotResponse>, Status> {
    let total_bytes = tar.len() as u64;
    let rest = &tar[(offset as usize).min(tar.len())..];
    let trailer = |of: &[u8]| {
        Piece::Trailer(v1::DownloadTrailer {
            total_bytes,
            digest: blake3::hash(of).to_hex().to_string(),
        })
    };
    let (sent, trailer, then) = match how {
        Download::Refuse(status) => return Err(status),
        Download::Whole => (rest, Some(trailer(tar)), End::Close),
        Download::WrongDigest => (rest, Some(trailer(b"other bytes")), End::Close),
        Download::Cut(after, then) => (&rest[..after.min(rest.len())], None, then),
    };
    let header = Piece::Header(v1::DownloadHeader { node_id, total_bytes, offset });
    let data = sent.chunks(64 << 10).map(|bytes| Piece::Data(Bytes::copy_from_slice(bytes)));
    let pieces = std::iter::once(header)
        .chain(data)
        .chain(trailer)
        .map(|piece| v1::DownloadSnapshotResponse { piece: Some(piece) })
        .collect();
    Ok(Flow { pieces, then })
}
