//! A snapshot's parts: what they consist of, where they lie, how they travel and how they are checked.
//!
//! A node's part of a snapshot is the rows of its replicas, each group's at its mark. From the inside out:
//!
//! - `cut`: when every group may be captured, and who has to wait for it; it knows neither rows nor files.
//! - `chunk`: rows of a partition, in key order, become chunks. Content chooses where one ends, and its hash names it, so that the same rows give the same chunks on
//!   every node and in every snapshot.
//! - `manifest`: the list of what a part consists of; the only thing that has to be trusted, and it carries its own digest.
//! - `shelf`: one node's finished parts on disk. Chunks that parts share are there once.
//! - `archive`: a part as a tar whose bytes are the same every time, to be streamed from any offset; and the reader of such a tar.
//! - `source`: a part as an operator has extracted it.
//! - `lanes`: many chunks are worked on at the same time, and taken in order.
//! - `verify`, `set`: check one part, and all parts of a snapshot together; name everything that is wrong, and say what the rest still covers.
//!
//! Everything here is synchronous and blocks on the disk and on the threads that `lanes` starts; who calls it from a task does so from a thread of its own. `cut`, `chunk` and `manifest` are pure.

pub mod cut;
pub mod chunk;
pub mod manifest;
pub mod shelf;
pub mod archive;
pub mod source;
pub mod lanes;
pub mod verify;
pub mod set;

#[cfg(test)]
pub mod sample;
