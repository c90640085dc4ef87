//! Who votes in which groups, put together from what the nodes say: the facts from which a reader
//! tells what works and what the next loss would stop.
//!
//! A group's leader knows its voters. Without a leader, the replica that has applied most of the
//! group's log knows them best. Where no replica answers, the voters that the cluster wants are the
//! best guess: a group is moved one voter at a time, so the two differ only while it moves.
//!
//! Pure: asks nobody, and judges nothing.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    base::{
        error::Result,
        ids::{GroupId, NodeId},
    },
    cluster::placement::Assignments,
    proto::internal::v1::GetNodeStatusResponse,
};

/// Groups in which the same nodes vote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VoterSet {
    pub voters: BTreeSet<NodeId>,
    pub groups: u32,
    /// Of these, those that a node leads that has answered.
    pub groups_led: u32,
    /// Whether this is the meta group, which shares its set with no other.
    pub meta: bool,
}

/// What every node has said of itself, or why it has not.
pub type Said = BTreeMap<NodeId, Result<GetNodeStatusResponse>>;

/// The sets of all groups that are assigned, the meta group's first.
pub fn voter_sets(assignments: &Assignments, said: &Said) -> Vec<VoterSet> {
    let (mut led, mut leaderless) = (BTreeMap::new(), BTreeMap::new());
    for answer in said.values().flatten() {
        for group in &answer.led {
            led.insert(GroupId(group.group), &group.voters);
        }
        for group in &answer.leaderless {
            let told = (group.applied_index, &group.voters);
            let best = leaderless.entry(GroupId(group.group)).or_insert(told);
            *best = (*best).max(told);
        }
    }
    let mut counted: BTreeMap<(bool, BTreeSet<NodeId>), (u32, u32)> = BTreeMap::new();
    for (group, wanted) in assignments {
        let by_leader = led.get(group).copied();
        let told = by_leader.or_else(|| leaderless.get(group).map(|(_, voters)| *voters));
        let voters = match told {
            Some(voters) => voters.iter().map(|n| NodeId(*n)).collect(),
            None => wanted.iter().copied().collect(),
        };
        let (groups, groups_led) = counted.entry((!group.is_meta(), voters)).or_default();
        *groups += 1;
        *groups_led += u32::from(by_leader.is_some());
    }
    counted
        .into_iter()
        .map(|((data, voters), (groups, groups_led))| VoterSet {
            voters,
            groups,
            groups_led,
            meta: !data,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        base::error::Error,
        proto::internal::v1::{LeaderlessGroup, LedGroup},
    };

    fn led(group: GroupId, voters: &[u64]) -> LedGroup {
        LedGroup { group: group.0, voters: voters.into(), learners: vec![9], wait: None }
    }

    fn leaderless(group: u32, applied_index: u64, voters: &[u64]) -> LeaderlessGroup {
        LeaderlessGroup { group, voters: voters.into(), applied_index }
    }

    fn set(meta: bool, voters: &[u64], groups: u32, groups_led: u32) -> VoterSet {
        let voters = voters.iter().map(|n| NodeId(*n)).collect();
        VoterSet { voters, groups, groups_led, meta }
    }

    #[test]
    fn a_leader_is_believed_before_a_replica_and_a_replica_before_the_plan() {
        let wanted = |nodes: [u64; 3]| nodes.map(NodeId).to_vec();
        let assignments: Assignments = [
            (GroupId::META, wanted([1, 2, 3])),
            (GroupId(0), wanted([1, 2, 3])),
            (GroupId(1), wanted([3, 2, 1])),
            (GroupId(2), wanted([2, 3, 4])),
            (GroupId(3), wanted([2, 3, 4])),
        ]
        .into();
        let first = GetNodeStatusResponse {
            led: vec![led(GroupId::META, &[1, 2, 3]), led(GroupId(0), &[1, 2])],
            leaderless: vec![leaderless(1, 7, &[1, 2]), leaderless(2, 9, &[2, 3, 4])],
            ..Default::default()
        };
        let second = GetNodeStatusResponse {
            leaderless: vec![
                leaderless(0, 99, &[1, 2, 3]),
                leaderless(1, 8, &[1, 2, 3]),
                leaderless(2, 8, &[1, 2, 3]),
            ],
            ..Default::default()
        };
        let said: Said = [
            (NodeId(1), Ok(first)),
            (NodeId(2), Ok(second)),
            (NodeId(3), Err(Error::unavailable("Connection refused"))),
        ]
        .into();
        assert_eq!(
            voter_sets(&assignments, &said),
            [
                set(true, &[1, 2, 3], 1, 1),
                set(false, &[1, 2], 1, 1),
                set(false, &[1, 2, 3], 1, 0),
                set(false, &[2, 3, 4], 2, 0),
            ]
        );
        assert!(voter_sets(&Assignments::new(), &said).is_empty());
    }
}
