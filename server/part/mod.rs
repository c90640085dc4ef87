//! Parts of snapshots: their format, where they lie, how they travel and how they are checked.
//!
//! A node's part of a snapshot holds the rows of its replicas, each group's as of its mark. From
//! the inside out:
//!
//! - `seal`: keys that hide what chunks hold, and for whom they are wrapped. Parts need not be
//!   sealed.
//! - `chunk`: the rows of a partition, in key order, become chunks. Content decides where a chunk
//!   ends, and the chunk is named by its hash, so equal rows give equal chunks on every node and in
//!   every snapshot.
//! - `manifest`: the list of what a part consists of. A reader has to trust nothing but the
//!   manifest, which carries its own digest.
//! - `shelf`: one node's finished parts on disk. Parts share chunks, and each chunk is stored once.
//! - `traces`: what a snapshot store says of its earlier users, for a start that is about to found.
//! - `tar`: a part as a tar with the same bytes every time, to be streamed from any offset; and the
//!   reader of such a tar.
//! - `directory`: a part as an operator has extracted it.
//! - `source`: a part of either kind, with its chunks in any order.
//! - `parallel`: works on many chunks at once and hands on the results in order.
//! - `verify`, `set`: check one part, or all parts of a snapshot together. They name everything
//!   that is wrong and say what the rest still covers.
//! - `reseal`: a part under another seal, or under none.
//! - `ways`: which restore brings the cluster back from the parts at hand, and what it gives up.
//!
//! All of it is synchronous and blocks on the disk and on the threads of `parallel`; a task calls
//! it from a thread of its own. `chunk` and `manifest` are pure. The folder imports `base` and
//! `faults` only, so that a program that reads parts can take it whole.

pub mod seal;
pub mod chunk;
pub mod manifest;
pub mod shelf;
pub mod traces;
pub mod tar;
pub mod directory;
pub mod source;
pub mod parallel;
pub mod verify;
pub mod set;
pub mod reseal;
pub mod ways;

#[cfg(test)]
pub mod sample;
