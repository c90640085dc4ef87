//! A client of one node, for tests: every call has a deadline, and gives back what the contract
//! says.

use std::time::Duration;

use bytes::Bytes;
use devicedb::{
    base::clock::Random,
    proto::v1::{
        cluster_service_client::ClusterServiceClient, download_snapshot_response::Piece,
        kv_service_client::KvServiceClient, operation_service_client::OperationServiceClient,
        snapshot_service_client::SnapshotServiceClient, *,
    },
};
use tonic::{
    Code, Request, Status,
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt as _;

use super::eventually;

const DEADLINE: Duration = Duration::from_secs(10);
const STREAM_DEADLINE: Duration = Duration::from_secs(120);
const MESSAGE_BYTES: usize = 16 << 20;

#[derive(Clone)]
pub struct Client {
    pub kv: KvServiceClient<Channel>,
    pub cluster: ClusterServiceClient<Channel>,
    pub snapshots: SnapshotServiceClient<Channel>,
    pub operations: OperationServiceClient<Channel>,
    pub endpoint: String,
    deadline: Duration,
}

/// All of a download that came.
#[derive(Debug, Default)]
pub struct Downloaded {
    pub header: Option<DownloadHeader>,
    pub data: Vec<u8>,
    /// Absent when the stream was cut short.
    pub trailer: Option<DownloadTrailer>,
}

impl Client {
    /// Connects when it is first used, and again whenever the connection is lost.
    pub fn to(endpoint: &str) -> Client {
        let channel = Endpoint::from_shared(format!("http://{endpoint}"))
            .unwrap()
            .connect_timeout(Duration::from_secs(2))
            .connect_lazy();
        Client::through(channel, endpoint)
    }

    /// Over a connection that is made already, as one with certificates.
    pub fn through(channel: Channel, endpoint: &str) -> Client {
        Client {
            kv: KvServiceClient::new(channel.clone())
                .max_decoding_message_size(MESSAGE_BYTES)
                .max_encoding_message_size(MESSAGE_BYTES),
            cluster: ClusterServiceClient::new(channel.clone()),
            operations: OperationServiceClient::new(channel.clone()),
            snapshots: SnapshotServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES),
            endpoint: endpoint.to_string(),
            deadline: DEADLINE,
        }
    }

    pub fn with_deadline(mut self, deadline: Duration) -> Client {
        self.deadline = deadline;
        self
    }

    fn request<T>(&self, message: T) -> Request<T> {
        within(self.deadline, message)
    }

    // Data.

    pub async fn put(
        &self,
        site: &str,
        bucket: Bucket,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> Result<PutResponse, Status> {
        self.put_request(put_request(site, bucket, key, value)).await
    }

    pub async fn put_request(&self, put: PutRequest) -> Result<PutResponse, Status> {
        Ok(self.kv.clone().put(self.request(put)).await?.into_inner())
    }

    pub async fn get(
        &self,
        site: &str,
        bucket: Bucket,
        key: impl AsRef<[u8]>,
    ) -> Result<GetResponse, Status> {
        let get = GetRequest {
            site: site.into(),
            bucket: bucket.into(),
            key: owned(key),
            consistency: Consistency::Linearizable.into(),
        };
        Ok(self.kv.clone().get(self.request(get)).await?.into_inner())
    }

    /// The values of a key, sorted; none where it does not exist.
    pub async fn values(
        &self,
        site: &str,
        bucket: Bucket,
        key: impl AsRef<[u8]>,
    ) -> Result<Vec<Bytes>, Status> {
        Ok(sorted(self.get(site, bucket, key).await?.siblings))
    }

    pub async fn delete(
        &self,
        site: &str,
        bucket: Bucket,
        key: impl AsRef<[u8]>,
    ) -> Result<DeleteResponse, Status> {
        let delete = DeleteRequest {
            site: site.into(),
            bucket: bucket.into(),
            key: owned(key),
            context: None,
            timestamp_ms: None,
            request_id: request_id(),
        };
        Ok(self.kv.clone().delete(self.request(delete)).await?.into_inner())
    }

    pub async fn batch(
        &self,
        site: &str,
        bucket: Bucket,
        operations: Vec<BatchOperation>,
    ) -> Result<BatchResponse, Status> {
        self.batch_request(BatchRequest {
            site: site.into(),
            bucket: bucket.into(),
            operations,
            request_id: request_id(),
        })
        .await
    }

    pub async fn batch_request(&self, batch: BatchRequest) -> Result<BatchResponse, Status> {
        Ok(self.kv.clone().batch(self.request(batch)).await?.into_inner())
    }

    /// All keys with a prefix, in the order they came.
    pub async fn scan(
        &self,
        site: &str,
        bucket: Bucket,
        prefix: impl AsRef<[u8]>,
    ) -> Result<Vec<(Bytes, Vec<Bytes>)>, Status> {
        let prefix = owned(prefix);
        self.scan_request(ScanRequest {
            site: site.into(),
            bucket: bucket.into(),
            prefix,
            ..ScanRequest::default()
        })
        .await
    }

    pub async fn scan_request(
        &self,
        scan: ScanRequest,
    ) -> Result<Vec<(Bytes, Vec<Bytes>)>, Status> {
        let mut pages = self.kv.clone().scan(within(STREAM_DEADLINE, scan)).await?.into_inner();
        let mut all = Vec::new();
        while let Some(page) = pages.message().await? {
            all.extend(page.entries.into_iter().map(|entry| (entry.key, sorted(entry.siblings))));
        }
        Ok(all)
    }

    // The cluster.

    pub async fn add_site(&self, site: &str) -> Result<AddSiteResponse, Status> {
        Ok(self
            .cluster
            .clone()
            .add_site(self.request(AddSiteRequest { site: site.into() }))
            .await?
            .into_inner())
    }

    pub async fn remove_site(&self, site: &str) -> Result<(), Status> {
        self.cluster
            .clone()
            .remove_site(self.request(RemoveSiteRequest { site: site.into() }))
            .await
            .map(drop)
    }

    pub async fn sites(&self) -> Result<Vec<String>, Status> {
        let mut all = Vec::new();
        let mut page_token = String::new();
        loop {
            let page = self
                .cluster
                .clone()
                .list_sites(self.request(ListSitesRequest { page_token, ..Default::default() }))
                .await?
                .into_inner();
            all.extend(page.sites.into_iter().map(|site| site.id));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(all);
            }
        }
    }

    pub async fn init_cluster(&self) -> Result<InitClusterResponse, Status> {
        Ok(self
            .cluster
            .clone()
            .init_cluster(self.request(InitClusterRequest {}))
            .await?
            .into_inner())
    }

    pub async fn overview(&self) -> Result<GetOverviewResponse, Status> {
        Ok(self
            .cluster
            .clone()
            .get_overview(self.request(GetOverviewRequest::default()))
            .await?
            .into_inner())
    }

    pub async fn operation(&self, id: &str) -> Result<Operation, Status> {
        let request = self.request(GetOperationRequest { id: id.to_owned() });
        let answer = self.operations.clone().get_operation(request).await?.into_inner();
        Ok(answer.operation.expect("an answer has one"))
    }

    /// The cluster as the one node has it that is asked.
    pub async fn local_overview(&self) -> Result<GetOverviewResponse, Status> {
        Ok(self
            .cluster
            .clone()
            .get_overview(self.request(GetOverviewRequest { local: true }))
            .await?
            .into_inner())
    }

    pub async fn partitions(&self) -> Result<Vec<Partition>, Status> {
        let mut all = Vec::new();
        let mut page_token = String::new();
        loop {
            let page = self
                .cluster
                .clone()
                .list_partitions(
                    self.request(ListPartitionsRequest { page_token, ..Default::default() }),
                )
                .await?
                .into_inner();
            all.extend(page.partitions);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(all);
            }
        }
    }

    // Snapshots.

    pub async fn create_snapshot(&self) -> Result<Snapshot, Status> {
        self.create_snapshot_named(request_id()).await
    }

    /// A retry with the same name means the same snapshot.
    pub async fn create_snapshot_named(&self, request_id: Bytes) -> Result<Snapshot, Status> {
        let create = CreateSnapshotRequest { request_id };
        Ok(told(
            self.snapshots
                .clone()
                .create_snapshot(self.request(create))
                .await?
                .into_inner()
                .snapshot,
        ))
    }

    pub async fn snapshot(&self, uuid: &str) -> Result<Snapshot, Status> {
        let get = GetSnapshotRequest { uuid: uuid.into(), local: false };
        Ok(told(
            self.snapshots.clone().get_snapshot(self.request(get)).await?.into_inner().snapshot,
        ))
    }

    /// Waits until the snapshot and all its parts are not `PROCESSING` any more.
    pub async fn snapshot_resolved(&self, uuid: &str, bound: Duration) -> Snapshot {
        eventually(&format!("snapshot {uuid} is resolved"), bound, async || {
            let snapshot = self.snapshot(uuid).await.map_err(|e| e.to_string())?;
            let open = snapshot.status() == SnapshotStatus::Processing
                || snapshot.parts.iter().any(|part| part.status() == SnapshotStatus::Processing);
            if open { Err(format!("{snapshot:#?}")) } else { Ok(snapshot) }
        })
        .await
    }

    /// Waits until nothing is left of a snapshot whose deletion was asked for: the answer comes
    /// earlier where a node takes its time.
    pub async fn snapshot_deleted(&self, uuid: &str, bound: Duration) {
        eventually(&format!("snapshot {uuid} is deleted everywhere"), bound, async || {
            let seen = self.snapshot(uuid).await.map_err(|e| e.to_string())?;
            if seen.status() == SnapshotStatus::Missing {
                Ok(())
            } else {
                Err(format!("{seen:#?}"))
            }
        })
        .await
    }

    /// Takes a snapshot that must become complete in every part.
    pub async fn complete_snapshot(&self, bound: Duration) -> Snapshot {
        let begun = self.create_snapshot().await.unwrap();
        let snapshot = self.snapshot_resolved(&begun.uuid, bound).await;
        let complete = snapshot.parts.iter().all(|part| part.status() == SnapshotStatus::Completed);
        assert!(
            complete && snapshot.status() == SnapshotStatus::Completed,
            "the snapshot is not complete: {snapshot:#?}"
        );
        snapshot
    }

    pub async fn snapshots(&self) -> Result<Vec<Snapshot>, Status> {
        let list = ListSnapshotsRequest { page_size: 1000, ..Default::default() };
        Ok(self.snapshots.clone().list_snapshots(self.request(list)).await?.into_inner().snapshots)
    }

    pub async fn upload_snapshot(&self, uuid: &str) -> Result<Upload, Status> {
        let request = self.request(UploadSnapshotRequest { uuid: uuid.into() });
        let answer = self.snapshots.clone().upload_snapshot(request).await?.into_inner();
        Ok(answer.upload.expect("every answer says how far it is"))
    }

    pub async fn delete_snapshot(&self, uuid: &str) -> Result<(), Status> {
        self.snapshots
            .clone()
            .delete_snapshot(
                self.request(DeleteSnapshotRequest { uuid: uuid.into(), lineage: String::new() }),
            )
            .await
            .map(drop)
    }

    /// Streams a part; what came before an error is given back with it.
    pub async fn download(
        &self,
        uuid: &str,
        node_id: u64,
        offset: u64,
    ) -> (Downloaded, Result<(), Status>) {
        let mut downloaded = Downloaded::default();
        let download = DownloadSnapshotRequest { uuid: uuid.into(), node_id, offset };
        let outcome = async {
            let mut pieces = self
                .snapshots
                .clone()
                .download_snapshot(within(STREAM_DEADLINE, download))
                .await?
                .into_inner();
            while let Some(message) = pieces.message().await? {
                match message.piece {
                    Some(Piece::Header(header)) => downloaded.header = Some(header),
                    Some(Piece::Data(data)) => downloaded.data.extend_from_slice(&data),
                    Some(Piece::Trailer(trailer)) => downloaded.trailer = Some(trailer),
                    None => panic!("a piece without content"),
                }
            }
            Ok(())
        };
        let outcome = outcome.await;
        (downloaded, outcome)
    }
}

/// The reason of an error's `google.rpc.ErrorInfo`; empty where it has none.
pub fn reason(status: &Status) -> String {
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}

/// Whether an error says that a retry with the same request id may help.
pub fn may_be_retried(status: &Status) -> bool {
    let answered =
        ["UNAVAILABLE", "UNKNOWN_OUTCOME", "EXHAUSTED"].contains(&reason(status).as_str());
    // What never reached a server carries no reason, and what broke on the way has a source.
    let broke = std::error::Error::source(status).is_some();
    answered
        || broke
        || matches!(
            status.code(),
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown
        )
}

pub fn put_request(
    site: &str,
    bucket: Bucket,
    key: impl AsRef<[u8]>,
    value: impl AsRef<[u8]>,
) -> PutRequest {
    PutRequest {
        site: site.into(),
        bucket: bucket.into(),
        key: owned(key),
        value: owned(value),
        context: None,
        timestamp_ms: None,
        request_id: request_id(),
    }
}

pub fn request_id() -> Bytes {
    owned(Random::from_entropy().uuid().as_bytes())
}

fn owned(bytes: impl AsRef<[u8]>) -> Bytes {
    Bytes::copy_from_slice(bytes.as_ref())
}

fn sorted(siblings: Vec<Sibling>) -> Vec<Bytes> {
    let mut values: Vec<_> = siblings.into_iter().map(|sibling| sibling.value).collect();
    values.sort();
    values
}

fn told(snapshot: Option<Snapshot>) -> Snapshot {
    snapshot.expect("an answer about a snapshot holds it")
}

fn within<T>(deadline: Duration, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(deadline);
    request
}
