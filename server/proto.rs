//! The contract as Rust types, generated from `proto/` when the project is built. By hand are only
//! the module tree and the codec.

#![allow(clippy::all, missing_docs)]

use std::marker::PhantomData;

use prost::Message;
use tonic::{
    Status,
    codec::{self, BufferSettings, EncodeBuf},
};
use tonic_prost::{ProstCodec, ProstDecoder};

use crate::base::limits;

/// Protobuf, in buffers of the size that most messages have. tonic takes 8 KiB for each message in
/// and out, which is a page fault or two a put; larger messages make room for themselves.
#[derive(Debug)]
pub struct Codec<T, U>(PhantomData<(T, U)>);

fn buffers() -> BufferSettings {
    BufferSettings::new(limits::CODEC_BUFFER_BYTES, limits::CODEC_YIELD_BYTES)
}

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Codec(PhantomData)
    }
}

impl<T: Message + Send + 'static, U: Message + Default + Send + 'static> codec::Codec
    for Codec<T, U>
{
    type Encode = T;
    type Decode = U;
    type Encoder = Encoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Encoder<T> {
        Encoder(PhantomData)
    }
    fn decoder(&mut self) -> ProstDecoder<U> {
        ProstCodec::<T, U>::raw_decoder(buffers())
    }
}

/// Protobuf into a buffer that takes the whole message at once. One that grows by doubling would
/// hold a large message up to three times while it grows, and twice while it is sent.
#[derive(Debug)]
pub struct Encoder<T>(PhantomData<T>);

impl<T: Message> codec::Encoder for Encoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.reserve(item.encoded_len());
        item.encode(buffer).map_err(|e| Status::internal(e.to_string()))
    }
    fn buffer_settings(&self) -> BufferSettings {
        buffers()
    }
}

pub mod v1 {
    tonic::include_proto!("devicedb.v1");
}

pub mod internal {
    pub mod v1 {
        tonic::include_proto!("devicedb.internal.v1");
    }
}

/// The header by which a caller says which cluster it means.
pub const CLUSTER_HEADER: &str = "devicedb-cluster-id";
/// The `ErrorInfo` reason of a call that is meant for another cluster.
pub const OTHER_CLUSTER: &str = "OTHER_CLUSTER";

/// The descriptors of the whole contract, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/contract.bin"));
