//! Every bound in one place: what a request may hold, how long anything waits, how much memory a
//! queue takes.
//!
//! An error names the bound that a client has met; a bound that only the server meets slows the
//! server down or drops what may be lost. No duration here estimates how long work takes: each says
//! how long somebody is willing to wait. Relations that must hold between bounds are asserted
//! beside them, so a value that breaks one does not compile.
//!
//! One file a subject, in reading order: what a `request` may hold and a `cluster` may be, what the
//! `engine` and the `store` keep and wait for, how `clients` and `peers` connect and stream, what
//! `tls` waits for, how `snapshots` are taken and deleted and `schedules` kept, what the `journal`
//! writes and a service manager is told, and what `ddbctl` waits for. The figures that lay out a
//! format (the runs of pages in `store::large`) and the scales on which `ddbctl bench` draws are no
//! bounds and stand with their code.

mod request;
mod cluster;
mod engine;
mod store;
mod clients;
mod peers;
mod tls;
mod snapshots;
mod schedules;
mod journal;
mod ddbctl;

pub use self::{
    clients::*, cluster::*, ddbctl::*, engine::*, journal::*, peers::*, request::*, schedules::*,
    snapshots::*, store::*, tls::*,
};
