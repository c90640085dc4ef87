//! Which restore brings a cluster back from the parts at hand, and what it gives up.
//!
//! Pure: manifests of sound parts of one snapshot go in, each of another node. There are two ways.
//! Parts of most voters of every group bring those nodes back, each from its own part. Parts that
//! cover every partition, and the meta group, bring the cluster back on one node, the *survivor*,
//! which gets all rows whoever had them; the other nodes are given up. Nothing is missing in either
//! that was acknowledged up to the cut: every copy of a group ends at the group's mark.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use super::{
    manifest::Manifest,
    set::{lengthen, named},
};
use crate::base::ids::{GroupId, NodeId};

/// The whole cluster on one node. Parts are named by their places among those that were given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SoleSurvivor {
    /// The part whose node goes on. It has the meta group.
    pub part: usize,
    /// The part from which each data group's rows are taken.
    pub groups: BTreeMap<GroupId, usize>,
    /// The nodes that are given up.
    pub lost: BTreeSet<NodeId>,
}

/// What parts lack that would bring a cluster back together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lacking {
    /// Runs of partitions, from the first to the last of each.
    pub partitions: Vec<(u32, u32)>,
    pub meta: bool,
}

/// The survivor and the copy of each group. The node goes on whose part has the meta group and most
/// of the others. Copies of one snapshot are equal, so any serves; the survivor's own is preferred.
pub fn sole_survivor(parts: &[&Manifest]) -> Result<SoleSurvivor, Lacking> {
    let mut missing = Vec::new();
    let mut groups = BTreeMap::new();
    let share = |place: &usize| (parts[*place].groups.len(), Reverse(parts[*place].node));
    let with_meta = (0..parts.len()).filter(|place| parts[*place].meta.is_some());
    let survivor = with_meta.max_by_key(share);
    for group in parts.first().iter().flat_map(|part| part.topology.group_ids()) {
        let copy = |place: usize| {
            let copy = parts[place].group(group)?;
            let own = Some(place) == survivor;
            Some((copy.mark_term, copy.mark_index, own, Reverse(parts[place].node), place))
        };
        match (0..parts.len()).filter_map(copy).max() {
            Some((.., place)) => drop(groups.insert(group, place)),
            None => {
                let partitions = parts[0].topology.partitions_of(group);
                partitions.for_each(|partition| lengthen(&mut missing, partition));
            }
        }
    }
    match survivor {
        Some(part) if missing.is_empty() => {
            let mut lost = members(parts);
            lost.remove(&parts[part].node);
            Ok(SoleSurvivor { part, groups, lost })
        }
        survivor => Err(Lacking { partitions: missing, meta: survivor.is_none() }),
    }
}

/// All nodes of the cluster, as far as the parts say it: every node is a member of the meta group.
pub fn members(parts: &[&Manifest]) -> BTreeSet<NodeId> {
    let metas = parts.iter().filter_map(|part| part.meta.as_ref());
    let followers = metas.flat_map(|meta| meta.voters.iter().chain(&meta.learners).copied());
    followers.chain(parts.iter().map(|part| part.node)).collect()
}

/// The data groups that begin with fewer copies than they had, if only these nodes come back.
pub fn short(parts: &[&Manifest], back: &BTreeSet<NodeId>) -> usize {
    let lists = parts.iter().flat_map(|part| &part.groups);
    let voters: BTreeMap<GroupId, &[NodeId]> =
        lists.map(|group| (group.group, group.voters.as_slice())).collect();
    voters.values().filter(|voters| voters.iter().any(|node| !back.contains(node))).count()
}

impl fmt::Display for Lacking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let partitions = match self.partitions.as_slice() {
            [] => None,
            [(first, last)] if first == last => {
                Some(format!("partition {first} is in none of these parts"))
            }
            runs => {
                Some(format!("partitions {} are in none of these parts", named(runs).join(", ")))
            }
        };
        let meta =
            "none of these parts has the meta group, which says what the cluster consists of";
        let told = partitions.into_iter().chain(self.meta.then(|| meta.to_owned()));
        f.write_str(&told.collect::<Vec<_>>().join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{base::ids::Topology, part::sample::Sample};

    fn part(node: u64, groups: &[u32], meta: bool) -> Manifest {
        let sample = Sample { groups: groups.to_vec(), meta, rows: 2, ..Sample::new(node) };
        sample.part().0
    }

    fn chosen(parts: &[Manifest]) -> Result<SoleSurvivor, Lacking> {
        sole_survivor(&parts.iter().collect::<Vec<_>>())
    }

    const ALL: &[u32] = &[0, 1, 2, 3, 4, 5, 6, 7];

    #[test]
    fn one_part_that_has_everything_is_enough_and_gives_up_all_other_nodes() {
        let choice = chosen(&[part(2, ALL, true)]).unwrap();
        assert_eq!(choice.part, 0);
        assert_eq!(choice.groups.len(), 8);
        let lost: Vec<NodeId> = choice.lost.into_iter().collect();
        assert_eq!(lost, [NodeId(1), NodeId(7), NodeId(u64::MAX)], "a learner is given up too");
    }

    #[test]
    fn the_node_with_the_meta_group_and_most_of_the_others_goes_on_and_its_copies_are_preferred() {
        let (few, many, without) =
            (part(1, &[0, 1, 6], true), part(2, &[1, 2, 3, 4], true), part(7, ALL, false));
        let choice = chosen(&[without.clone(), few.clone(), many.clone()]).unwrap();
        assert_eq!(choice.part, 2);
        let from: Vec<usize> = choice.groups.into_values().collect();
        assert_eq!(from, [1, 2, 2, 2, 2, 0, 1, 0], "then the copy of the lowest node");
        let other = chosen(&[many, without, few]).unwrap();
        assert_eq!(other.part, 0, "whatever order they come in");
    }

    #[test]
    fn a_copy_that_is_further_is_preferred_to_the_survivors_own() {
        let (own, mut further) = (part(1, ALL, true), part(2, &[5], false));
        further.groups[0].mark_index += 1;
        let choice = chosen(&[own, further]).unwrap();
        assert_eq!(
            (choice.part, choice.groups[&GroupId(5)], choice.groups[&GroupId(4)]),
            (0, 1, 0)
        );
    }

    #[test]
    fn what_no_part_has_is_named() {
        let lacking = |parts: &[Manifest]| chosen(parts).unwrap_err().to_string();
        assert_eq!(
            lacking(&[part(1, &[0, 1, 4], true), part(2, &[1, 5, 6], true)]),
            "partitions 16-31, 56-63 are in none of these parts"
        );
        let meta =
            "none of these parts has the meta group, which says what the cluster consists of";
        assert_eq!(lacking(&[part(1, ALL, false)]), meta);
        assert_eq!(
            lacking(&[part(1, &ALL[1..], false)]),
            format!("partitions 0-7 are in none of these parts; {meta}")
        );
        let mut single = part(1, &ALL[..7], true);
        single.topology = Topology::new(64, 64).unwrap();
        assert!(chosen(&[single]).unwrap_err().to_string().contains("partitions 7-63"));
        assert!(sole_survivor(&[]).unwrap_err().meta);
    }

    #[test]
    fn groups_count_as_short_whose_voters_do_not_all_come_back() {
        let parts = [part(1, ALL, true), part(2, &[0, 1], true)];
        let parts: Vec<&Manifest> = parts.iter().collect();
        let back = |nodes: &[u64]| nodes.iter().copied().map(NodeId).collect();
        assert_eq!(short(&parts, &back(&[1, 2])), 8);
        assert_eq!(short(&parts, &back(&[1, 2, u64::MAX])), 0);
        assert_eq!(members(&parts), back(&[1, 2, 7, u64::MAX]));
    }
}
