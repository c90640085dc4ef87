//! A sealed snapshot: what everybody may know of it, and the rest under the seal.
//!
//! A sealed repository shall be looked at without its key: which snapshots of which clusters are
//! there, of which time, how large, of which nodes. That is the cover. Everything else of the
//! snapshot (roots, marks, members, addresses, places) stands in its text as an open repository has
//! it (`manifest`), and that text lies sealed in the cover.
//!
//! The seal is bound to the cover, and the text has to say the same: whoever has the key knows that
//! nobody has changed the cover. Whoever has not only knows that nobody did so by accident.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    manifest::{Snapshot, laid_out, lineage_text, of_format, taken_apart},
    vault::Vault,
};
use crate::{
    base::{
        error::{Error, Result},
        ids::{ClusterId, Lineage, NodeId, SnapshotId, SnapshotSeq},
    },
    part::manifest::nodes::node_texts,
};

/// What everybody may know of a snapshot. Of a sealed one nothing of it is proved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cover {
    /// First, so that a program can tell what it cannot read before it reads it.
    pub format: u32,
    pub repository: Uuid,
    pub cluster: ClusterId,
    #[serde(with = "lineage_text")]
    pub lineage: Lineage,
    pub snapshot: SnapshotId,
    pub seq: SnapshotSeq,
    /// The schedule that it was taken for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<String>,
    pub written: String,
    pub written_ms: u64,
    pub partitions: u32,
    pub groups: u32,
    pub rows: u64,
    pub bytes: u64,
    pub stored_bytes: u64,
    pub new_bytes: u64,
    /// Whose parts it was made of.
    #[serde(with = "node_texts")]
    pub nodes: Vec<NodeId>,
    /// The sealed text in base64; empty where the snapshot is not sealed.
    sealed: String,
}

const FORMAT: u32 = 1;

impl Cover {
    pub fn of(snapshot: &Snapshot) -> Cover {
        Cover {
            format: FORMAT,
            repository: snapshot.repository,
            cluster: snapshot.cluster,
            lineage: snapshot.lineage,
            snapshot: snapshot.snapshot,
            seq: snapshot.seq,
            schedule: snapshot.schedule.clone(),
            written: snapshot.written.clone(),
            written_ms: snapshot.written_ms,
            partitions: snapshot.partitions,
            groups: snapshot.groups,
            rows: snapshot.rows,
            bytes: snapshot.bytes,
            stored_bytes: snapshot.stored_bytes,
            new_bytes: snapshot.new_bytes,
            nodes: snapshot.parts.iter().map(|part| part.node).collect(),
            sealed: String::new(),
        }
    }

    /// The text of a sealed snapshot.
    pub fn seal(snapshot: &Snapshot, vault: &Vault) -> Result<Vec<u8>> {
        let cover = Cover::of(snapshot);
        let sealed = vault.seal_snapshot(&cover.bound(), &snapshot.encode()?);
        Ok(Cover { sealed: BASE64_STANDARD.encode(sealed), ..cover }.encode())
    }

    fn encode(&self) -> Vec<u8> {
        laid_out(self)
    }

    /// `Conflict` if a newer version made it, `Corrupt` if it is not what was made.
    pub fn parse(text: &[u8]) -> Result<Cover> {
        let whole = taken_apart(text)?;
        let cover: Cover = of_format(&whole, "sealed this snapshot", FORMAT)?;
        // One cover has one text.
        if cover.encode() != text {
            return Err(Error::corrupt("it is not laid out as this program writes it"));
        }
        Ok(cover)
    }

    /// The snapshot under it. `Corrupt` if it is not what was sealed.
    pub fn open(&self, vault: &Vault) -> Result<Snapshot> {
        let sealed = BASE64_STANDARD.decode(&self.sealed);
        let sealed = sealed.map_err(|_| Error::corrupt("what is sealed in it is no base64"))?;
        let snapshot = Snapshot::parse(&vault.open_snapshot(&self.bound(), &sealed)?)?;
        if Cover::of(&snapshot).bound() != self.bound() {
            return Err(Error::corrupt("what is sealed in it says something else than its cover"));
        }
        Ok(snapshot)
    }

    fn bound(&self) -> Vec<u8> {
        let cover = Cover { sealed: String::new(), ..self.clone() };
        serde_json::to_vec(&cover).expect("texts and numbers are JSON")
    }
}
