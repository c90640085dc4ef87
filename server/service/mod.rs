//! What a node does for its callers, without the wire: rows of sites, the registry of nodes and
//! sites, this node's parts, snapshots over all nodes and when they are taken, and the answers that
//! wait for slow readers.
//!
//! A service takes what `wire` has parsed, asks the engine or other nodes, and answers in domain
//! types or, where a list is long, in the contract's. It knows no gRPC service; `rpc` stands in
//! front of it.

pub mod kv;
pub mod removal;
pub mod voters;
pub mod admin;
pub mod parts;
pub mod inventory;
pub mod uploads;
pub mod schedules;
pub mod readers;
