//! The names of things: a newtype for every id, so that no two of them can be mistaken for each
//! other.
//!
//! Ids are parsed here and nowhere else, so every `SiteId` is valid.
//! `Topology` says which partition and group a site lies in; it is fixed when the cluster is
//! founded.

use std::{fmt, ops::Range, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::base::{
    error::{Error, Result},
    limits,
};

/// A node, random and never 0. Also its id in every Raft group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NodeId(pub u64);

/// A Raft group. Data groups are 0..G, the meta group is the largest number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct GroupId(pub u32);

/// A slice of the hash space of sites.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PartitionId(pub u32);

/// A tenant's database: 1 to 255 bytes of UTF-8 without control characters.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SiteId(String);

/// An edge gateway; the same alphabet as sites.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RelayId(String);

/// One life of a site, from when it is added until nothing of it is left: a site that is added
/// again has a greater one. 0 for sites of before they were counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SiteGeneration(pub u64);

/// A snapshot's public name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SnapshotId(pub Uuid);

/// A snapshot's number in its history: only ever grows. 0 stands for none.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
pub struct SnapshotSeq(pub u64);

/// The history a cluster's logs belong to. 0 while nodes fresh from a restore have not agreed on
/// one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lineage(pub u64);

/// The cluster, drawn when it was founded; a restore keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ClusterId(pub Uuid);

/// What operators have asked of the members as a whole: random, drawn by whoever asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OperationId(pub u64);

/// A script's proof of who it is: random, drawn by the node that makes it. Shown as 8 digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TokenId(pub u32);

/// A schedule's name; the same alphabet as sites.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ScheduleId(String);

/// A write, drawn by the client that asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub [u8; 16]);

impl GroupId {
    pub const META: GroupId = GroupId(u32::MAX);

    pub fn is_meta(self) -> bool {
        self == GroupId::META
    }
}

impl Lineage {
    pub const PENDING: Lineage = Lineage(0);

    /// The history that begins when a cluster restored from a snapshot agrees on a nonce. Never
    /// `PENDING`.
    pub fn derive(restored_from: SnapshotId, nonce: u64) -> Lineage {
        let mut hasher = blake3::Hasher::new();
        hasher.update(restored_from.0.as_bytes());
        hasher.update(&nonce.to_be_bytes());
        Lineage(first_u64(hasher.finalize().as_bytes()).max(1))
    }
}

impl SiteId {
    pub fn new(id: impl Into<String>) -> Result<SiteId> {
        checked_id("site", id.into()).map(SiteId)
    }
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl RelayId {
    pub fn new(id: impl Into<String>) -> Result<RelayId> {
        checked_id("relay", id.into()).map(RelayId)
    }
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl ScheduleId {
    pub fn new(id: impl Into<String>) -> Result<ScheduleId> {
        checked_id("schedule", id.into()).map(ScheduleId)
    }
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl SnapshotId {
    /// The snapshot that a schedule of a history takes for an instant. Whoever runs it, and however
    /// often, it is this one. Another history has others: nodes may still hold the old one's parts.
    pub fn of_run(
        cluster: ClusterId,
        lineage: Lineage,
        schedule: &ScheduleId,
        planned_ms: u64,
    ) -> SnapshotId {
        let mut hasher = blake3::Hasher::new_derive_key("devicedb 2026 scheduled snapshot");
        hasher.update(cluster.0.as_bytes());
        hasher.update(&lineage.0.to_be_bytes());
        hasher.update(&planned_ms.to_be_bytes());
        hasher.update(schedule.as_str().as_bytes());
        let hash = hasher.finalize();
        let bytes = hash.as_bytes()[..16].try_into().expect("a hash is longer than that");
        SnapshotId(uuid::Builder::from_custom_bytes(bytes).into_uuid())
    }

    pub fn from_slice(bytes: &[u8]) -> Result<SnapshotId> {
        let bytes = Uuid::from_slice(bytes).map_err(|_| {
            Error::invalid(format!("a snapshot id is 16 bytes, not {}", bytes.len()))
        })?;
        Ok(SnapshotId(bytes))
    }
}

impl FromStr for OperationId {
    type Err = Error;
    fn from_str(text: &str) -> Result<OperationId> {
        let digits = text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let number = u64::from_str_radix(text, 16).ok().filter(|n| digits && *n > 0);
        number.map(OperationId).ok_or_else(|| {
            Error::invalid(format!(
                "{text:?} is not the id of an operation, which is 16 hexadecimal digits; see \
                 ddbctl operation list"
            ))
        })
    }
}

impl FromStr for TokenId {
    type Err = Error;
    fn from_str(text: &str) -> Result<TokenId> {
        let digits = text.len() == 8 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let number = u32::from_str_radix(text, 16).ok().filter(|n| digits && *n > 0);
        number.map(TokenId).ok_or_else(|| {
            Error::invalid(format!(
                "{text:?} is not the id of a token, which is 8 hexadecimal digits; see ddbctl \
                 token list"
            ))
        })
    }
}

impl FromStr for SnapshotId {
    type Err = Error;
    fn from_str(s: &str) -> Result<SnapshotId> {
        let uuid = Uuid::try_parse(s).map_err(|e| {
            Error::invalid(format!("{s:?} is not a snapshot uuid: {e}")).with_source(e)
        })?;
        Ok(SnapshotId(uuid))
    }
}

impl FromStr for Lineage {
    type Err = Error;
    fn from_str(s: &str) -> Result<Lineage> {
        let hex = s.len() == 16 && s.bytes().all(|b| b.is_ascii_hexdigit());
        let number = if hex { u64::from_str_radix(s, 16).ok() } else { None };
        number.map(Lineage).ok_or_else(|| {
            Error::invalid(format!("{s:?} is not a lineage, which is 16 hex digits"))
        })
    }
}

impl RequestId {
    /// Empty is a request without a name.
    pub fn from_slice(bytes: &[u8]) -> Result<Option<RequestId>> {
        match bytes.len() {
            0 => Ok(None),
            16 => Ok(Some(RequestId(bytes.try_into().expect("its length was just matched")))),
            n => Err(Error::invalid(format!("a request id is 16 bytes or empty, not {n}"))),
        }
    }
}

fn checked_id(what: &str, id: String) -> Result<String> {
    if id.is_empty() {
        return Err(Error::invalid(format!("a {what} id must not be empty")));
    }
    if id.len() > limits::ID_BYTES_MAX {
        return Err(Error::invalid(format!(
            "a {what} id is at most {} bytes, not {}",
            limits::ID_BYTES_MAX,
            id.len()
        )));
    }
    if let Some(c) = id.chars().find(|c| c.is_control()) {
        return Err(Error::invalid(format!(
            "a {what} id must not hold control characters, as {c:?} in {id:?}"
        )));
    }
    Ok(id)
}

fn first_u64(hash: &[u8; 32]) -> u64 {
    u64::from_be_bytes(hash[..8].try_into().expect("a hash is longer than eight bytes"))
}

macro_rules! displays {
    ($($t:ident),* => $f:literal) => { $(impl fmt::Display for $t {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { write!(f, $f, self.0) }
    })* };
}
displays! { NodeId, PartitionId, SiteId, RelayId, SnapshotId, ScheduleId => "{}" }
displays! { SnapshotSeq, SiteGeneration, ClusterId => "{}" }
displays! { Lineage, OperationId => "{:016x}" }
displays! { TokenId => "{:08x}" }

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_meta() { f.write_str("meta") } else { write!(f, "{}", self.0) }
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Uuid::from_bytes(self.0).fmt(f)
    }
}

/// How sites map to partitions and partitions to groups.
///
/// - `partitions` and `groups` are powers of two, and `groups <= partitions`.
/// - A group carries `partitions / groups` consecutive partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topology {
    partitions: u32,
    groups: u32,
}

impl Topology {
    pub fn new(partitions: u32, groups: u32) -> Result<Topology> {
        let range = limits::PARTITIONS_MIN..=limits::PARTITIONS_MAX;
        if !partitions.is_power_of_two() || !range.contains(&partitions) {
            return Err(Error::invalid(format!(
                "partitions must be a power of two from {} to {}, not {partitions}",
                limits::PARTITIONS_MIN,
                limits::PARTITIONS_MAX
            )));
        }
        if !groups.is_power_of_two() || groups > partitions {
            return Err(Error::invalid(format!(
                "groups must be a power of two of at most {partitions} partitions, not {groups}"
            )));
        }
        Ok(Topology { partitions, groups })
    }
    pub fn partitions(self) -> u32 {
        self.partitions
    }
    pub fn groups(self) -> u32 {
        self.groups
    }

    /// The data groups, without the meta group.
    pub fn group_ids(self) -> impl Iterator<Item = GroupId> {
        (0..self.groups).map(GroupId)
    }

    pub fn has(self, group: GroupId) -> bool {
        group.is_meta() || group.0 < self.groups
    }

    /// The top bits of a hash of the site's id.
    pub fn partition_of(self, site: &SiteId) -> PartitionId {
        let hash = first_u64(blake3::hash(site.as_str().as_bytes()).as_bytes());
        PartitionId((hash >> (64 - self.partitions.trailing_zeros())) as u32)
    }
    pub fn group_of(self, partition: PartitionId) -> GroupId {
        GroupId(partition.0 / (self.partitions / self.groups))
    }
    pub fn group_of_site(self, site: &SiteId) -> GroupId {
        self.group_of(self.partition_of(site))
    }

    /// The partitions that a data group carries; none for the meta group.
    pub fn partitions_of(self, group: GroupId) -> Range<u32> {
        let each = self.partitions / self.groups;
        if group.is_meta() { 0..0 } else { group.0 * each..(group.0 + 1) * each }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_partition_lies_in_exactly_one_group() {
        let topology = Topology::new(1024, 64).unwrap();
        for partition in 0..1024 {
            let holders: Vec<_> = topology
                .group_ids()
                .filter(|g| topology.partitions_of(*g).contains(&partition))
                .collect();
            assert_eq!(holders, [topology.group_of(PartitionId(partition))]);
        }
    }

    #[test]
    fn sites_may_be_named_as_users_name_them() {
        for id in ["a", "shop 7/floor & 2", "größe", "a=b?c#d"] {
            assert_eq!(SiteId::new(id).unwrap().as_str(), id);
        }
        for id in ["", "a\0b", "line\nbreak"] {
            assert!(SiteId::new(id).is_err(), "{id:?}");
        }
        assert!(SiteId::new("x".repeat(255)).is_ok());
        assert!(SiteId::new("x".repeat(256)).is_err());
    }

    #[test]
    fn shapes_that_cannot_be_are_refused() {
        for (partitions, groups) in
            [(1000, 64), (32, 32), (131_072, 64), (1024, 0), (1024, 48), (64, 128)]
        {
            assert!(Topology::new(partitions, groups).is_err(), "{partitions} {groups}");
        }
    }
}
