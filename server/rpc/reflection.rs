//! Server reflection, by which tools call the services without files: `grpc.reflection.v1`, and
//! `v1alpha` for the older ones. It describes the contract, health, itself, and what errors carry.

use tonic_reflection::{
    pb,
    server::{Builder, v1, v1alpha},
};

use crate::{
    base::error::{Error, Result},
    proto,
};

fn described() -> Builder<'static> {
    Builder::configure()
        .include_reflection_service(false)
        .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(pb::v1::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(pb::v1alpha::FILE_DESCRIPTOR_SET)
}

fn failed(e: tonic_reflection::server::Error) -> Error {
    Error::unavailable(format!("server reflection: {e}")).with_source(e)
}

pub fn current() -> Result<v1::ServerReflectionServer<impl v1::ServerReflection>> {
    described().build_v1().map_err(failed)
}

pub fn older() -> Result<v1alpha::ServerReflectionServer<impl v1alpha::ServerReflection>> {
    described().build_v1alpha().map_err(failed)
}
