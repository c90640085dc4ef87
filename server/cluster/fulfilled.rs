//! Whether what operators have asked for has come true, and what is missing: by the members that
//! the groups' leaders have, whoever has asked them.
//!
//! Pure. `operations` says who compares, and when.

use std::collections::BTreeMap;

use super::{
    operations::{Kind, Operation},
    placement::Assignments,
    reconfigure::Membership,
    state::State,
};
use crate::{
    base::ids::{GroupId, NodeId},
    faults::mutation::{Mutation, mutated},
};

/// Who leads each group, and the members that the leader has.
pub type Led = BTreeMap<GroupId, (NodeId, Membership)>;

/// Whether an operation has come true that does not end by itself.
pub fn is_over(operation: &Operation, state: &State, led: &Led) -> bool {
    if operation.kind == Kind::Drain {
        let led_by_another = |group: &GroupId| {
            led.get(group).is_some_and(|(leader, _)| Some(*leader) != operation.node)
        };
        return state.assignments().keys().all(led_by_another);
    }
    !state.ends_by_itself(operation) && rests(state, led)
}

/// Whether every group has a leader, and just the members that it should have.
fn rests(state: &State, led: &Led) -> bool {
    if mutated(Mutation::FinishedEarly) {
        return true;
    }
    state.assignments().keys().all(|group| {
        let wanted = state.wanted(*group);
        led.get(group).is_some_and(|(_, members)| {
            members.voters == wanted.voters.iter().copied().collect()
                && members.learners.is_subset(&wanted.learners)
        })
    })
}

/// Data groups and the nodes that should vote there and do not, as far as their leaders say. Of a
/// group without a leader nothing is known, and it counts as whole.
pub fn gaps(assignments: &Assignments, led: &Led) -> Vec<(GroupId, NodeId)> {
    let data = led.iter().filter(|(group, _)| !group.is_meta());
    data.flat_map(|(group, (_, members))| {
        let wanted = assignments.get(group).into_iter().flatten();
        wanted.filter(|node| !members.voters.contains(node)).map(|node| (*group, *node))
    })
    .collect()
}
