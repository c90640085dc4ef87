//! Compiles the contract under `proto/` into Rust, and keeps its descriptors for server reflection.
//! No protoc is needed.

use std::{env, fs, path::PathBuf};

use prost::Message as _;

const CONTRACT: &[&str] = &[
    "devicedb/v1/types.proto",
    "devicedb/v1/kv.proto",
    "devicedb/v1/cluster.proto",
    "devicedb/v1/operations.proto",
    "devicedb/v1/snapshot.proto",
    "devicedb/v1/schedule.proto",
    "devicedb/v1/access.proto",
    "devicedb/internal/v1/record.proto",
    "devicedb/internal/v1/peer.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(CONTRACT, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("contract.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .bytes(".")
        .codec_path("crate::proto::Codec")
        .compile_fds(descriptors)?;
    Ok(())
}
