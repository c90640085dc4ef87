pub mod limits;
pub mod error;
pub mod clock;
pub mod ids;
pub mod data;
pub mod cluster;
pub mod snapshot;
pub mod entry;

pub mod proto;
pub mod wire;

pub mod metrics;
pub mod store;
pub mod log;
pub mod engine;
pub mod driver;
pub mod peer;

pub mod kv;
pub mod membership;
pub mod parts;
pub mod restore;

pub mod rpc;
pub mod http;
pub mod node;

#[path = "../cli/lib.rs"]
pub mod ctl;

#[cfg(test)]
mod golden;
