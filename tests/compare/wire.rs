//! As much of etcd's v3 API as is measured: puts, linearizable reads, transactions of puts. Names,
//! tags and types are those that etcd documents.

use bytes::Bytes;
use devicedb::proto::Codec;
use tonic::{Request, Status, client::Grpc, codegen::http::uri::PathAndQuery, transport::Channel};

#[derive(Clone, PartialEq, prost::Message)]
pub struct RangeRequest {
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// False for a linearizable read.
    #[prost(bool, tag = "7")]
    pub serializable: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct KeyValue {
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    #[prost(bytes = "bytes", tag = "5")]
    pub value: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct RangeResponse {
    #[prost(message, repeated, tag = "2")]
    pub kvs: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct PutRequest {
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct PutResponse {}

/// One arm of a oneof: on the wire that is an optional field.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RequestOp {
    #[prost(message, optional, tag = "2")]
    pub request_put: Option<PutRequest>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct TxnRequest {
    /// Done when no comparison fails, and here there is none.
    #[prost(message, repeated, tag = "2")]
    pub success: Vec<RequestOp>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct TxnResponse {
    #[prost(bool, tag = "2")]
    pub succeeded: bool,
}

pub async fn put(channel: Channel, request: Request<PutRequest>) -> Result<PutResponse, Status> {
    unary(channel, request, "/etcdserverpb.KV/Put").await
}

pub async fn range(
    channel: Channel,
    request: Request<RangeRequest>,
) -> Result<RangeResponse, Status> {
    unary(channel, request, "/etcdserverpb.KV/Range").await
}

pub async fn txn(channel: Channel, request: Request<TxnRequest>) -> Result<TxnResponse, Status> {
    unary(channel, request, "/etcdserverpb.KV/Txn").await
}

async fn unary<Q, A>(channel: Channel, request: Request<Q>, path: &'static str) -> Result<A, Status>
where
    Q: prost::Message + Send + Sync + 'static,
    A: prost::Message + Default + Send + Sync + 'static,
{
    let mut grpc = Grpc::new(channel);
    grpc.ready().await.map_err(|e| Status::unavailable(e.to_string()))?;
    Ok(grpc.unary(request, PathAndQuery::from_static(path), Codec::default()).await?.into_inner())
}
