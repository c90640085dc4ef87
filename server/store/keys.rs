//! The key spaces of a store: which bytes a row of which kind lies under.
//!
//! | first byte | then | row |
//! | --- | --- | --- |
//! | `d` | a data row's key: partition, site, bucket, key | sites and their data |
//! | `m` | a meta row's kind and name | the cluster's configuration |
//! | `p` | partition, 2 bytes | log index of the partition's last change, 8 bytes |
//! | `r` | group, 4 bytes; slot, 4 bytes | a remembered request |
//!
//! All numbers are big-endian, so that a group's rows are a few contiguous ranges: the partitions
//! of a group follow each other.

use std::ops::Range;

use crate::base::ids::{GroupId, PartitionId, Topology};

pub const DATA: u8 = b'd';
pub const META: u8 = b'm';
const PARTITION: u8 = b'p';
/// A row of a partition's last change, key and value.
pub const PARTITION_INDEX_BYTES: u64 = 11;
const REQUEST: u8 = b'r';

pub fn data(row_key: &[u8]) -> Vec<u8> {
    prefixed(DATA, row_key)
}

pub fn meta(name: &[u8]) -> Vec<u8> {
    prefixed(META, name)
}

pub fn partition_index(partition: PartitionId) -> Vec<u8> {
    prefixed(PARTITION, &(partition.0 as u16).to_be_bytes())
}

pub fn request(group: GroupId, slot: u32) -> Vec<u8> {
    let mut key = prefixed(REQUEST, &group.0.to_be_bytes());
    key.extend_from_slice(&slot.to_be_bytes());
    key
}

/// The remembered requests of a group.
pub fn requests(group: GroupId) -> Range<Vec<u8>> {
    let mut to = request(group, u32::MAX);
    to.push(0);
    request(group, 0)..to
}

/// The slot, if this is the key of a remembered request.
pub fn slot_of_request(key: &[u8]) -> Option<u32> {
    key.first().filter(|space| **space == REQUEST).and_then(|_| slot_of(key))
}

pub fn slot_of(request_key: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(request_key.get(5..9)?.try_into().ok()?))
}

/// The rows of one data partition.
pub fn partition(partition: PartitionId) -> Range<Vec<u8>> {
    between(DATA, partition.0..partition.0 + 1)
}

/// Every row that belongs to a group: what a Raft snapshot replaces as a whole.
pub fn group(topology: Topology, group: GroupId) -> Vec<Range<Vec<u8>>> {
    if group.is_meta() {
        return vec![vec![META]..vec![META + 1], requests(group)];
    }
    let partitions = topology.partitions_of(group);
    vec![between(DATA, partitions.clone()), between(PARTITION, partitions), requests(group)]
}

fn between(space: u8, partitions: Range<u32>) -> Range<Vec<u8>> {
    let from = prefixed(space, &(partitions.start as u16).to_be_bytes());
    let to = if partitions.end > u32::from(u16::MAX) {
        vec![space + 1]
    } else {
        prefixed(space, &(partitions.end as u16).to_be_bytes())
    };
    from..to
}

fn prefixed(space: u8, rest: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + rest.len());
    key.push(space);
    key.extend_from_slice(rest);
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_neighbours_touch_and_do_not_overlap() {
        let topology = Topology::new(65_536, 64).unwrap();
        for g in 0..63 {
            assert_eq!(
                group(topology, GroupId(g))[0].end,
                group(topology, GroupId(g + 1))[0].start
            );
        }
        assert_eq!(group(topology, GroupId(63))[0].end, [DATA + 1]);
        assert!(requests(GroupId::META).contains(&request(GroupId::META, u32::MAX)));
        assert_eq!(slot_of(&request(GroupId(7), 9)), Some(9));
    }
}
