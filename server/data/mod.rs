//! The data of a group: keys, their concurrent values, and the state machine that a group's log
//! drives.
//!
//! Everything here decides and does nothing: no files, no network, no time, no chance. The same
//! commands in the same order give the same rows and the same replies on every replica, which is
//! all that Raft needs. The trait `Rows` stands for the rows; the engine implements it over the
//! store, and tests use a map.
//!
//! In reading order: `bucket` (how conflicts are settled), `key` (names of rows and their order),
//! `version` (dots and version vectors), `context` (what a reader hands back), `command` (requests
//! and replies), `siblings` (what a write does to one key), `window` (remembered requests), `query`
//! (reads), `machine` (the group).
//!
//! Marks, `seen` and the fence of snapshots are not here: the engine checks them before it calls
//! `apply`. Nothing is forwarded or retried here either.

mod bucket;
mod key;
mod version;
mod context;
mod command;
mod siblings;
mod window;
mod query;
mod machine;
#[cfg(test)]
pub(crate) mod memory;
#[cfg(test)]
mod story;
#[cfg(test)]
mod laws;

pub use bucket::{Bucket, Conflicts};
pub use command::{Command, KeyView, Query, Read, Reply, Scan, Stamp, Step, Write, WrittenStep};
pub use context::Context;
pub use key::{Key, Place, Prefix, RowKey, Value, partition_range};
pub use machine::{Machine, State};
pub use siblings::{Outcome, Versions};
pub use version::{Dot, Version, VersionVector};
pub use window::{Outcomes, Remembered, Verdict};

use crate::base::{error::Result, ids::SiteGeneration};

/// What stands under a `RowKey`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Row {
    Site(SiteRow),
    Key(Versions),
}

/// A site's own row. It outlives the site, so that a late command for a life that is over does
/// nothing: a few bytes a removed site, for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SiteRow {
    pub stage: SiteStage,
    /// The life of the site that this is.
    pub generation: SiteGeneration,
}

/// How far a site's life is in the group that holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SiteStage {
    /// It is read and written.
    Present,
    /// Rows are left, and nobody sees them.
    Removing,
    Removed,
}

/// The rows of a group. An error means that the disk failed: the node stops, it does not guess.
pub trait Rows {
    fn get(&self, key: &RowKey) -> Result<Option<Row>>;

    /// `None` deletes.
    fn set(&mut self, key: &RowKey, row: Option<Row>) -> Result<()>;

    /// Shows the rows whose encoded keys lie in `from..to`, in order, until `each` answers false.
    fn visit(
        &self,
        from: &[u8],
        to: &[u8],
        each: &mut dyn FnMut(RowKey, Row) -> Result<bool>,
    ) -> Result<()>;
}
