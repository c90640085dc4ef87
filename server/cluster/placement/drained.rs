//! Nodes that are drained keep what they hold and get nothing more, as far as there are others.

use std::collections::{BTreeMap, BTreeSet};

use super::{Assignments, weights};
use crate::base::ids::NodeId;

/// Takes back what a placement would give to drained nodes. A replica that would have gone there
/// stays where it is; one that has to go somewhere goes to the node that holds least of its share.
pub fn give_nothing(
    drained: &BTreeSet<NodeId>,
    capacities: &BTreeMap<NodeId, u32>,
    old: &Assignments,
    mut new: Assignments,
) -> Assignments {
    let weights = weights(capacities);
    let mut held: BTreeMap<NodeId, u64> = BTreeMap::new();
    new.values().flatten().for_each(|node| *held.entry(*node).or_default() += 1);
    for (group, nodes) in &mut new {
        let had = old.get(group).map_or(&[][..], Vec::as_slice);
        for at in 0..nodes.len() {
            let node = nodes[at];
            if !drained.contains(&node) || had.contains(&node) {
                continue;
            }
            let may = |other: &&NodeId| weights.contains_key(other) && !nodes.contains(other);
            let share = |other: &&NodeId| {
                let holds = held.get(other).copied().unwrap_or_default();
                (holds * 1_000_000 / weights[other], **other)
            };
            let stays = had.iter().find(may);
            let takes = || {
                weights
                    .keys()
                    .filter(|other| !drained.contains(other))
                    .filter(may)
                    .min_by_key(share)
            };
            if let Some(other) = stays.or_else(takes).copied() {
                nodes[at] = other;
                *held.entry(node).or_default() -= 1;
                *held.entry(other).or_default() += 1;
            }
        }
    }
    new
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::GroupId;

    fn placed(groups: &[(u32, &[u64])]) -> Assignments {
        let nodes = |ids: &[u64]| ids.iter().copied().map(NodeId).collect();
        groups.iter().map(|(group, ids)| (GroupId(*group), nodes(ids))).collect()
    }

    #[test]
    fn what_would_go_to_a_drained_node_stays_or_goes_to_whoever_holds_least() {
        let capacities = (1..=4).map(|id| (NodeId(id), 100)).collect();
        let drained = BTreeSet::from([NodeId(1)]);
        let old = placed(&[(0, &[2, 3]), (1, &[2, 9]), (2, &[1, 2])]);
        // A move from 3 to 1, the place of a node that is gone, and what 1 has already.
        let new = placed(&[(0, &[1, 2]), (1, &[2, 1]), (2, &[1, 2])]);
        let kept = give_nothing(&drained, &capacities, &old, new);
        assert_eq!(kept, placed(&[(0, &[3, 2]), (1, &[2, 4]), (2, &[1, 2])]));
    }

    #[test]
    fn a_drained_node_gets_what_no_other_node_can_hold() {
        let capacities = (1..=2).map(|id| (NodeId(id), 100)).collect();
        let drained = BTreeSet::from([NodeId(1)]);
        let (old, new) = (placed(&[(0, &[2, 9])]), placed(&[(0, &[2, 1])]));
        assert_eq!(give_nothing(&drained, &capacities, &old, new.clone()), new);
    }
}
