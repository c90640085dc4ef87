//! A snapshot in a repository, as a text that a person can read: whose it is, which nodes' parts it
//! was made of, each group's mark and members, and where its index lies.
//!
//! It is the commit point: made once, when everything that it names is there. Its last line is the
//! blake3 of all bytes before that line, as in a part's manifest. Readers need nothing but its name
//! to come to every row.
//!
//! `root` stands for all rows: the blake3 over the roots of all groups, the meta group last. A
//! group's root is the blake3 over its number, mark index and mark term, and over each of its
//! partitions' number, digest and rows, all as numbers of fixed size, big end first. Replicas of a
//! group have the same root, and the same cut has the same one, whoever made the snapshot of
//! whichever parts.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use uuid::Uuid;

use super::index::{Place, is_name};
use crate::{
    base::{
        error::{Error, Result},
        ids::{ClusterId, GroupId, Lineage, NodeId, SnapshotId, SnapshotSeq, Topology},
    },
    part::{
        chunk::Digest,
        manifest::{
            PartitionPart, WRITTEN_MS_MAX, check_mark,
            nodes::{node_text, node_texts},
            rfc3339,
        },
    },
};

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// First, so that a program can tell what it cannot read before it reads it.
    pub format: u32,
    /// The version of the program that made it.
    pub product: String,
    pub repository: Uuid,
    pub cluster: ClusterId,
    #[serde(with = "lineage_text")]
    pub lineage: Lineage,
    pub snapshot: SnapshotId,
    pub seq: SnapshotSeq,
    /// The schedule that it was taken for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<String>,
    /// When the last of its parts was written, for people.
    pub written: String,
    pub written_ms: u64,
    pub partitions: u32,
    pub groups: u32,
    pub rows: u64,
    /// Plain bytes.
    pub bytes: u64,
    /// Bytes of all chunks that it names.
    pub stored_bytes: u64,
    /// Bytes of those chunks that were stored for it.
    pub new_bytes: u64,
    pub root: Digest,
    pub parts: Vec<PartOf>,
    /// Data groups ascending, the meta group last.
    pub held: Vec<Group>,
}

/// A node's part, as far as it is not the groups' own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartOf {
    #[serde(with = "node_text")]
    pub node: NodeId,
    pub address: String,
    pub format: u32,
    pub product: String,
    pub written_ms: u64,
    pub meta: bool,
    pub groups: Vec<GroupId>,
}

/// A group at its mark, and where its index lies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    pub group: GroupId,
    pub mark_index: u64,
    pub mark_term: u64,
    pub dots: u64,
    #[serde(with = "node_texts")]
    pub voters: Vec<NodeId>,
    #[serde(with = "node_texts")]
    pub learners: Vec<NodeId>,
    pub index: Place,
}

/// All that can be relied on of a newer text. Before 0.1.0 was out, reports of drills had no
/// format.
#[derive(Deserialize)]
struct AnyFormat {
    #[serde(default)]
    format: u32,
}

pub const FORMAT: u32 = 1;

impl Snapshot {
    pub fn topology(&self) -> Result<Topology> {
        Topology::new(self.partitions, self.groups).map_err(|e| Error::corrupt(e.message))
    }

    pub fn group(&self, group: GroupId) -> Option<&Group> {
        self.held.iter().find(|held| held.group == group)
    }

    pub fn encode(&self) -> Result<Vec<u8>> {
        self.check()?;
        Ok(laid_out(self))
    }

    /// `Conflict` if a newer version made it, `Corrupt` if it is not what was made.
    pub fn parse(text: &[u8]) -> Result<Snapshot> {
        let whole = taken_apart(text)?;
        let snapshot: Snapshot = of_format(&whole, "made this snapshot", FORMAT)?;
        snapshot.check()?;
        // One snapshot has one text.
        if snapshot.encode()? != text {
            return Err(Error::corrupt("it is not laid out as this program writes it"));
        }
        Ok(snapshot)
    }

    fn check(&self) -> Result<()> {
        let wrong = |what: &str| Err(Error::corrupt(what));
        let topology = self.topology()?;
        if self.format == 0 || self.seq.0 == 0 {
            return wrong("no format and no snapshot has number 0");
        }
        if self.parts.iter().any(|part| part.written_ms > WRITTEN_MS_MAX)
            || self.written_ms > WRITTEN_MS_MAX
            || self.written != rfc3339(self.written_ms)
        {
            return wrong("written and written_ms are two instants, or lie behind the year 9999");
        }
        let groups = self.held.iter().map(|held| held.group);
        if !groups.eq(topology.group_ids().chain([GroupId::META])) {
            return wrong("it does not hold each group once, in order, and the meta group last");
        }
        for held in &self.held {
            check_mark(held.mark_index, held.mark_term, &held.voters, &held.learners)
                .map_err(|e| e.at(format_args!("group {}", held.group)))?;
            if !is_name(&held.index.object)
                || held.index.offset.checked_add(held.index.bytes).is_none()
            {
                return wrong("the place of an index is none");
            }
        }
        if !self.parts.is_sorted_by(|a, b| a.node < b.node) || self.parts.is_empty() {
            return wrong("its parts are not sorted, stand there twice, or there are none");
        }
        for part in &self.parts {
            if !part.groups.is_sorted_by(|a, b| a < b)
                || part.groups.last().is_some_and(|last| last.0 >= self.groups)
            {
                return wrong("the groups of a part are not sorted, or not of this cluster");
            }
        }
        Ok(())
    }
}

/// Stands for the rows of a group at its mark; see the module.
pub fn group_root(held: &Group, partitions: &[PartitionPart]) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&held.group.0.to_be_bytes());
    hasher.update(&held.mark_index.to_be_bytes());
    hasher.update(&held.mark_term.to_be_bytes());
    for partition in partitions {
        hasher.update(&partition.id.0.to_be_bytes());
        hasher.update(&partition.digest.0);
        hasher.update(&partition.rows.to_be_bytes());
    }
    Digest(hasher.finalize().into())
}

/// Stands for all rows of a snapshot, by the roots of its groups in order.
pub fn root(groups: impl Iterator<Item = Digest>) -> Digest {
    let mut hasher = blake3::Hasher::new();
    for Digest(root) in groups {
        hasher.update(&root);
    }
    Digest(hasher.finalize().into())
}

/// A line for each field, and the digest of all lines in the last one.
pub(super) fn laid_out<T: Serialize>(fields: &T) -> Vec<u8> {
    let text = serde_json::to_string_pretty(fields).expect("texts and numbers are JSON");
    let body = text.strip_suffix("\n}").expect("it is an object with fields").to_owned() + ",\n";
    let digest = Digest(blake3::hash(body.as_bytes()).into());
    (body + &last_line(&digest)).into_bytes()
}

/// What a text in JSON says, once its format is known to be one that this program reads: a newer
/// one is told as that, and not as garbled. `Conflict` if a newer version made it, `Corrupt` if it
/// is not what was made.
pub(super) fn of_format<T: DeserializeOwned>(text: &[u8], what: &str, newest: u32) -> Result<T> {
    let garbled = |e: serde_json::Error| {
        Error::corrupt(format!("it is not what this program writes: {e}")).with_source(e)
    };
    let AnyFormat { format } = serde_json::from_slice(text).map_err(garbled)?;
    if format > newest {
        return Err(Error::conflict(format!(
            "a newer version {what}: format {format}, this program reads up to {newest}; \
             use a newer program"
        )));
    }
    serde_json::from_slice(text).map_err(garbled)
}

/// The fields of such a text as JSON, if they are those of its digest.
pub(super) fn taken_apart(text: &[u8]) -> Result<Vec<u8>> {
    let length = last_line(&Digest([0; 32])).len();
    let split = text.split_at_checked(text.len().saturating_sub(length));
    let (body, line) = split.unwrap_or((text, &[]));
    if line != last_line(&Digest(blake3::hash(body).into())).as_bytes() {
        return Err(Error::corrupt(
            "its digest, in its last line, is not that of the lines before: it was changed or cut \
             short after it was written",
        ));
    }
    // The digest is no field: without its line the text is whole again.
    let body = body.strip_suffix(b",\n").unwrap_or(body);
    Ok([body, b"\n}"].concat())
}

fn last_line(digest: &Digest) -> String {
    format!("  \"digest\": \"{digest}\"\n}}\n")
}

pub(super) mod lineage_text {
    use serde::{Deserialize, Deserializer, Serializer, de};

    use crate::base::ids::Lineage;

    pub fn serialize<S: Serializer>(lineage: &Lineage, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&lineage.to_string())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Lineage, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|_| de::Error::custom(format!("{text:?} is no lineage")))
    }
}
