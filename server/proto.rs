//! The contract as Rust types, generated from `proto/` when the project is built. Nothing here is written by hand but the module tree.

#![allow(clippy::all, missing_docs)]

pub mod v1 {
    tonic::include_proto!("devicedb.v1");
}

pub mod internal {
    pub mod v1 {
        tonic::include_proto!("devicedb.internal.v1");
    }
}

/// The descriptors of the whole contract, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/contract.bin"));
