pub mod limits;
pub mod error;
pub mod clock;
pub mod ids;
pub mod data;

pub mod cluster;
pub mod snapshot;

pub mod proto;

#[path = "../cli/lib.rs"]
pub mod ctl;

#[cfg(test)]
mod golden;
