//! One line of a catalogue: a snapshot that is there, and what is decided about it.
//!
//! It names the snapshot's object and the digest of its bytes, so that whoever believes the
//! catalogue can prove the snapshot. The rest is what lists and rules need without reading any
//! snapshot: its times, how much it has, which schedule it was taken for, and whether somebody
//! holds it. The hold stands nowhere else in the repository but in the catalogue before
//! (`collect::hold`).

use serde::{Deserialize, Serialize};

use super::cover::Cover;
use crate::{
    base::ids::{SnapshotId, SnapshotSeq},
    part::{chunk::Digest, manifest::rfc3339},
};

/// A snapshot that is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    pub seq: SnapshotSeq,
    pub snapshot: SnapshotId,
    /// The snapshot's object in the folder, and the digest of its bytes.
    pub object: String,
    pub digest: Digest,
    pub written_ms: u64,
    /// When it was listed, by the clock of who did.
    pub listed_ms: u64,
    pub rows: u64,
    pub stored_bytes: u64,
    pub new_bytes: u64,
    /// The schedule that it was taken for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<Hold>,
}

/// Somebody wants it kept, whatever the rules say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hold {
    pub reason: String,
    /// Milliseconds since 1970; without it until somebody ends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<u64>,
}

impl Entry {
    pub fn of(snapshot: &Cover, object: &str, digest: Digest, listed_ms: u64) -> Entry {
        Entry {
            seq: snapshot.seq,
            snapshot: snapshot.snapshot,
            object: object.to_owned(),
            digest,
            written_ms: snapshot.written_ms,
            listed_ms,
            rows: snapshot.rows,
            stored_bytes: snapshot.stored_bytes,
            new_bytes: snapshot.new_bytes,
            schedule: snapshot.schedule.clone(),
            hold: None,
        }
    }

    /// By its uuid and its time.
    pub fn named(&self) -> String {
        format!("{}, written {}", self.snapshot, rfc3339(self.written_ms))
    }
}
