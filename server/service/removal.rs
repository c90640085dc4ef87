//! The removal of a node that is lost, and the decommission of one that runs: what it would do, and
//! what speaks against it; and against whatever else moves groups to other nodes.
//!
//! Pure: the caller says what the meta group has agreed on and what every node says of itself at
//! this moment. The meta group carries a plan out only on the members and assignments that it was
//! made for (`cluster::Etag`), so that two removals, each of which would do alone, do not meet.
//!
//! - A group that has no leader cannot change its members: it would keep the voter that is gone for
//!   ever. So none may be without one, and nothing goes over that.
//! - A node that answers is not lost. Somebody may know better, and say so.
//! - One that does not answer cannot give away what it holds: it is removed, or comes back.
//! - A replacement takes the places of the node and no others, so it must have none of its own.
//! - What the others get has to find room on their disks, as far as what it takes now tells that.
//! - What only this node has of a snapshot is lost with its disk, or stays unlisted.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    base::{
        error::{Error, Result},
        ids::{GroupId, NodeId},
    },
    cluster::{
        self, Away, Etag, Removed, State,
        placement::Assignments,
        snapshots::{Part, Stage, Status, named_groups},
    },
};

/// Groups without a leader, the meta group among them or not: an election may mend it.
const META_QUORUM: &str = "META_QUORUM";
const GROUP_QUORUM: &str = "GROUP_QUORUM";

/// What would be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub address: String,
    pub replicas_moved: usize,
    /// Groups that have fewer replicas afterwards than they should.
    pub groups_short: usize,
    pub objections: Vec<Objection>,
    pub etag: Etag,
    /// Whose places go to others too.
    pub away: Away,
}

/// What speaks against it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Objection {
    pub code: &'static str,
    pub text: String,
    pub groups: Vec<GroupId>,
    pub weight: Weight,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// It is only said.
    Warns,
    /// It refuses the removal, unless that is forced.
    Refuses,
    /// It refuses the removal, whoever asks.
    Forbids,
}

/// How a node goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// It is lost.
    Removal,
    /// It gives away what it holds first.
    Decommission,
}

/// What nodes that answer say at this moment.
pub struct Heard {
    pub answering: BTreeSet<NodeId>,
    /// Nodes that have said nothing for long.
    pub away: Away,
    /// What nodes hold, and what they have room for.
    pub rooms: BTreeMap<NodeId, Room>,
    /// The voters of every group, as its leader has them.
    pub led: BTreeMap<GroupId, BTreeSet<NodeId>>,
}

/// A node's data groups, and the room of its store.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    pub replicas: u32,
    pub held_bytes: u64,
    pub spare_bytes: u64,
}

/// Plans how a node goes, and who takes its places, where somebody is named.
pub fn plan(
    state: &State,
    heard: &Heard,
    node: NodeId,
    by: Option<NodeId>,
    way: Way,
) -> Result<Plan> {
    let Some(entry) = state.node(node) else {
        return Err(Error::not_found(format!("there is no node {node}; see ddbctl node list")));
    };
    if let Some(by) = by {
        if !entry.leaving {
            state.may_replace(node, by)?;
        } else if state.is_spare(by) {
            return Err(Error::conflict(format!(
                "node {node} is leaving already, without a replacement: have it stay first with \
                 ddbctl node cancel {node}"
            )));
        }
    }
    let after = state.assignments_without(node, by, &heard.away);
    let wanted = state.settings().replication_factor as usize;
    let short: Vec<GroupId> = after
        .iter()
        .filter(|(group, nodes)| !group.is_meta() && nodes.len() < wanted)
        .map(|(group, _)| *group)
        .collect();
    // A cluster that is too small for its replication factor is no worse for a replacement.
    let before = |group: &GroupId| state.assignments().get(group).map_or(0, Vec::len);
    let fewer: Vec<GroupId> =
        short.iter().filter(|group| after[group].len() < before(group)).copied().collect();
    let against = [
        last_node(state, node),
        without_leader(heard, &after.keys().copied().collect::<Vec<_>>()),
        match way {
            Way::Removal => lives(heard, node),
            Way::Decommission => away(state, heard, node),
        },
        by.and_then(|by| silent_replacement(heard, by)),
        no_room(state, heard, &after).map(|full| Objection {
            weight: match way {
                // What it held is short of a replica, wherever that finds room.
                Way::Removal => Weight::Warns,
                Way::Decommission => Weight::Refuses,
            },
            ..full
        }),
        only_part(state, heard, node),
        (!fewer.is_empty()).then(|| Objection {
            code: "BELOW_REPLICATION_FACTOR",
            text: format!(
                "{} of {} groups have fewer than {wanted} replicas afterwards, until another node \
                 joins",
                fewer.len(),
                after.len() - 1
            ),
            groups: fewer,
            weight: match way {
                Way::Removal => Weight::Warns,
                Way::Decommission => Weight::Refuses,
            },
        }),
    ];
    Ok(Plan {
        address: entry.address.clone(),
        replicas_moved: state.moves_to(&after),
        groups_short: short.len(),
        objections: against.into_iter().flatten().collect(),
        etag: state.etag(),
        away: heard.away.clone(),
    })
}

impl Plan {
    /// For a node that was removed before.
    pub fn of_nothing(removed: &Removed, etag: Etag) -> Plan {
        let address = removed.address.clone();
        Plan {
            address,
            replicas_moved: 0,
            groups_short: 0,
            objections: Vec::new(),
            etag,
            away: Away::new(),
        }
    }

    /// Whether groups have no leader, which an election may change soon.
    pub fn lacks_leaders(&self) -> bool {
        self.objections.iter().any(|o| [META_QUORUM, GROUP_QUORUM].contains(&o.code))
    }

    /// Why it is not carried out; None when it may be.
    pub fn refusal(&self, node: NodeId, way: Way, force: bool) -> Option<Error> {
        let gone = match way {
            Way::Removal => "removed",
            Way::Decommission => "decommissioned",
        };
        refusal(&format!("node {node} is not {gone}"), &self.objections, force)
    }
}

/// What is not done, and why; None when it may be.
pub fn refusal(what: &str, objections: &[Objection], force: bool) -> Option<Error> {
    let refuses = |objection: &&Objection| match objection.weight {
        Weight::Warns => false,
        Weight::Refuses => !force,
        Weight::Forbids => true,
    };
    let why: Vec<&str> = objections.iter().filter(refuses).map(|o| o.text.as_str()).collect();
    (!why.is_empty()).then(|| Error::conflict(format!("{what}: {}", why.join("; "))))
}

fn last_node(state: &State, node: NodeId) -> Option<Objection> {
    let stays = |(id, other): (&NodeId, &cluster::Node)| *id != node && !other.leaving;
    (!state.nodes().iter().any(stays)).then(|| Objection {
        code: "LAST_NODE",
        text: format!("node {node} is the last one of its cluster that stays"),
        groups: Vec::new(),
        weight: Weight::Forbids,
    })
}

fn without_leader(heard: &Heard, groups: &[GroupId]) -> Option<Objection> {
    let unled: Vec<GroupId> =
        groups.iter().copied().filter(|group| !heard.led.contains_key(group)).collect();
    (!unled.is_empty()).then(|| Objection {
        code: if unled.contains(&GroupId::META) { META_QUORUM } else { GROUP_QUORUM },
        text: format!(
            "{} without a leader cannot let go of a replica: most of the nodes that hold them have \
             to be there",
            named_groups(&unled)
        ),
        groups: unled,
        weight: Weight::Forbids,
    })
}

/// It answers, or it alone votes in a group, so that it must be there.
fn lives(heard: &Heard, node: NodeId) -> Option<Objection> {
    let alone: Vec<GroupId> = heard
        .led
        .iter()
        .filter(|(_, voters)| voters.iter().all(|voter| *voter == node))
        .map(|(group, _)| *group)
        .collect();
    if !alone.is_empty() {
        return Some(Objection {
            code: "LAST_REPLICA",
            text: format!(
                "node {node} alone holds {}: their data would be lost",
                named_groups(&alone)
            ),
            groups: alone,
            weight: Weight::Forbids,
        });
    }
    heard.answering.contains(&node).then(|| Objection {
        code: "NODE_LIVES",
        text: format!(
            "node {node} answers: stop it for good first, or remove it all the same with --force"
        ),
        groups: Vec::new(),
        weight: Weight::Refuses,
    })
}

/// The node itself is away, or others are: meanwhile no replica goes from where it is.
fn away(state: &State, heard: &Heard, node: NodeId) -> Option<Objection> {
    if !heard.answering.contains(&node) {
        return Some(Objection {
            code: "NODE_AWAY",
            text: format!(
                "node {node} does not answer, and has to give away what it holds: bring it back, \
                 or take it out with ddbctl node remove if it is lost"
            ),
            groups: Vec::new(),
            weight: Weight::Forbids,
        });
    }
    let others: Vec<String> = state
        .nodes()
        .keys()
        .filter(|other| !heard.answering.contains(other))
        .map(NodeId::to_string)
        .collect();
    (!others.is_empty()).then(|| Objection {
        code: "OTHERS_AWAY",
        text: format!(
            "{} {} answer: groups that {} wait until then",
            named(&others),
            if others.len() == 1 { "does not" } else { "do not" },
            if others.len() == 1 { "it holds" } else { "they hold" },
        ),
        groups: Vec::new(),
        weight: Weight::Warns,
    })
}

/// Nodes get more than they have room for. A replica is taken for as large as those of the node
/// that has the largest on average.
pub fn no_room(state: &State, heard: &Heard, after: &Assignments) -> Option<Objection> {
    let rooms = heard.rooms.values().filter(|room| room.replicas > 0);
    let replica_bytes = rooms.map(|room| room.held_bytes / u64::from(room.replicas)).max()?;
    let mut gains: BTreeMap<NodeId, Vec<GroupId>> = BTreeMap::new();
    for (group, nodes) in after.iter().filter(|(group, _)| !group.is_meta()) {
        let before = state.assignments().get(group);
        for node in nodes.iter().filter(|node| before.is_none_or(|b| !b.contains(node))) {
            gains.entry(*node).or_default().push(*group);
        }
    }
    let full = gains.iter().filter_map(|(node, groups)| {
        let (spare, bytes) =
            (heard.rooms.get(node)?.spare_bytes, replica_bytes.saturating_mul(groups.len() as u64));
        let text = format!(
            "node {node} has room for {spare} bytes, and gets about {bytes} with {} replicas",
            groups.len()
        );
        (spare < bytes).then_some((text, groups.clone()))
    });
    let (texts, groups): (Vec<String>, Vec<Vec<GroupId>>) = full.unzip();
    (!texts.is_empty()).then(|| Objection {
        code: "NO_ROOM",
        text: texts.join("; "),
        groups: groups.concat(),
        weight: Weight::Refuses,
    })
}

fn silent_replacement(heard: &Heard, by: NodeId) -> Option<Objection> {
    (!heard.answering.contains(&by)).then(|| Objection {
        code: "REPLACEMENT_AWAY",
        text: format!("node {by}, which shall take its places, does not answer"),
        groups: Vec::new(),
        weight: Weight::Forbids,
    })
}

fn named(nodes: &[String]) -> String {
    format!("{} {}", if nodes.len() == 1 { "node" } else { "nodes" }, nodes.join(", "))
}

/// Of a node that is gone nothing can be downloaded any more, so that is only said.
fn only_part(state: &State, heard: &Heard, node: NodeId) -> Option<Objection> {
    let mut groups = BTreeSet::new();
    let mut snapshots = Vec::new();
    for snapshot in state.snapshots().values() {
        let completed = |part: &&Part| part.status == Status::Completed;
        let own = snapshot.parts.get(&node).filter(completed);
        let Some(own) = own.filter(|_| snapshot.stage == Stage::Sealed) else { continue };
        let elsewhere: BTreeSet<GroupId> = snapshot
            .parts
            .values()
            .filter(completed)
            .filter(|part| part.node != node)
            .flat_map(|part| part.groups.iter().copied())
            .collect();
        let only: Vec<GroupId> = own.groups.difference(&elsewhere).copied().collect();
        if !only.is_empty() {
            snapshots.push(snapshot.id.to_string());
            groups.extend(only);
        }
    }
    let answers = heard.answering.contains(&node);
    (!snapshots.is_empty()).then(|| Objection {
        code: "ONLY_PART",
        text: format!(
            "the only completed part of {} in {} {} is on node {node}{}",
            named_groups(&groups.iter().copied().collect::<Vec<_>>()),
            if snapshots.len() == 1 { "snapshot" } else { "snapshots" },
            snapshots.join(", "),
            if answers { ": download it first" } else { "" }
        ),
        groups: groups.into_iter().collect(),
        weight: if answers { Weight::Refuses } else { Weight::Warns },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        base::ids::{ClusterId, Lineage, SnapshotId, SnapshotSeq, Topology},
        cluster::{Command, level::Level, state::Settings},
    };

    fn state(nodes: u64) -> State {
        let node = |id| cluster::Node {
            id: NodeId(id),
            address: format!("node-{id}:8080"),
            capacity_percent: 100,
            version: String::new(),
            snapshot_store: true,
            lineage: Lineage(1),
            level: Level::own(),
            leaving: false,
            draining: false,
            certificate_name: None,
        };
        let topology = Topology::new(64, 4).unwrap();
        let settings =
            Settings::founding(ClusterId(uuid::Uuid::nil()), Lineage(1), 3, topology).unwrap();
        let mut state = State::found(settings, node(1)).unwrap();
        (2..=nodes).for_each(|id| drop(state.apply(&Command::AnnounceNode(node(id)))));
        state
    }

    /// Every group is led and has the voters that it should have.
    fn heard(state: &State, answering: impl IntoIterator<Item = u64>) -> Heard {
        let voters = |nodes: &Vec<NodeId>| nodes.iter().copied().collect();
        Heard {
            answering: answering.into_iter().map(NodeId).collect(),
            away: Away::new(),
            rooms: BTreeMap::new(),
            led: state.assignments().iter().map(|(g, nodes)| (*g, voters(nodes))).collect(),
        }
    }

    fn objections(plan: &Plan) -> Vec<(&'static str, Weight)> {
        plan.objections.iter().map(|o| (o.code, o.weight)).collect()
    }

    #[test]
    fn a_lost_node_of_four_goes_and_its_places_are_taken() {
        let state = state(4);
        let plan = plan(&state, &heard(&state, [1, 2, 4]), NodeId(3), None, Way::Removal).unwrap();
        let held =
            |node| state.assignments().values().filter(|n| n.contains(&NodeId(node))).count();
        assert_eq!(objections(&plan), []);
        assert_eq!(plan.refusal(NodeId(3), Way::Removal, false), None);
        assert_eq!((plan.replicas_moved, plan.groups_short), (held(3), 0));
    }

    #[test]
    fn two_nodes_that_are_left_are_short_of_replicas_and_that_is_said() {
        let state = state(3);
        let plan = plan(&state, &heard(&state, [1, 2]), NodeId(3), None, Way::Removal).unwrap();
        assert_eq!(objections(&plan), [("BELOW_REPLICATION_FACTOR", Weight::Warns)]);
        assert_eq!((plan.replicas_moved, plan.groups_short), (0, 4));
        assert_eq!(plan.refusal(NodeId(3), Way::Removal, false), None);
    }

    #[test]
    fn what_the_others_get_has_to_find_room_on_their_disks() {
        let state = state(4);
        let mut heard = heard(&state, [1, 2, 3, 4]);
        let held =
            |node| state.assignments().values().filter(|n| n.contains(&NodeId(node))).count();
        let gets = held(3) as u64;
        let room = |spare_bytes| Room { replicas: 2, held_bytes: 200, spare_bytes };
        heard.rooms = (1..=4).map(|node| (NodeId(node), room(100 * gets))).collect();
        let way = Way::Decommission;
        let planned =
            |heard: &Heard, way| plan(&state, heard, NodeId(3), None, way).unwrap().objections;
        assert_eq!(planned(&heard, way), []);
        heard.rooms = (1..=4).map(|node| (NodeId(node), room(99))).collect();
        let full = planned(&heard, way);
        assert_eq!((full[0].code, full[0].weight), ("NO_ROOM", Weight::Refuses));
        assert!(full[0].text.contains("has room for 99 bytes, and gets about"), "{full:?}");
        // What is lost has to find room all the same; that it may not is only said.
        heard.answering.remove(&NodeId(3));
        heard.rooms.remove(&NodeId(3));
        assert_eq!(planned(&heard, Way::Removal)[0].weight, Weight::Warns);
    }

    #[test]
    fn a_node_that_answers_goes_only_by_force_and_one_that_must_be_there_never() {
        let state = state(4);
        let mut all = heard(&state, [1, 2, 3, 4]);
        let answers = plan(&state, &all, NodeId(3), None, Way::Removal).unwrap();
        assert_eq!(objections(&answers), [("NODE_LIVES", Weight::Refuses)]);
        assert!(
            answers
                .refusal(NodeId(3), Way::Removal, false)
                .unwrap()
                .message
                .contains("node 3 answers")
        );
        assert_eq!(answers.refusal(NodeId(3), Way::Removal, true), None);

        all.led.insert(GroupId(2), BTreeSet::from([NodeId(3)]));
        let alone = plan(&state, &all, NodeId(3), None, Way::Removal).unwrap();
        assert_eq!(objections(&alone), [("LAST_REPLICA", Weight::Forbids)]);
        assert!(!alone.lacks_leaders());
        assert!(alone.refusal(NodeId(3), Way::Removal, true).is_some());

        let mut unled = heard(&state, [1, 2]);
        unled.led.remove(&GroupId(1));
        let stuck = plan(&state, &unled, NodeId(3), None, Way::Removal).unwrap();
        assert_eq!(objections(&stuck), [("GROUP_QUORUM", Weight::Forbids)]);
        assert!(stuck.lacks_leaders());
        assert_eq!(stuck.objections[0].groups, [GroupId(1)]);
        unled.led.remove(&GroupId::META);
        assert_eq!(
            objections(&plan(&state, &unled, NodeId(3), None, Way::Removal).unwrap()),
            [("META_QUORUM", Weight::Forbids)]
        );
    }

    #[test]
    fn a_node_is_decommissioned_where_the_others_can_hold_what_it_has() {
        let decommission = |state: &State, answering: &[u64], node| {
            let heard = heard(state, answering.iter().copied());
            plan(state, &heard, NodeId(node), None, Way::Decommission).unwrap()
        };
        let (three, four) = (state(3), state(4));
        let plan = decommission(&four, &[1, 2, 3, 4], 3);
        let held = |n| four.assignments().values().filter(|all| all.contains(&NodeId(n))).count();
        assert_eq!((objections(&plan), plan.replicas_moved), (vec![], held(3)));

        let short = decommission(&three, &[1, 2, 3], 3);
        assert_eq!(objections(&short), [("BELOW_REPLICATION_FACTOR", Weight::Refuses)]);
        let refused = short.refusal(NodeId(3), Way::Decommission, false).unwrap();
        assert!(refused.message.starts_with("node 3 is not decommissioned: 4 of 4 groups"));
        assert_eq!(short.refusal(NodeId(3), Way::Decommission, true), None);

        let away = decommission(&four, &[1, 2, 4], 3);
        assert_eq!(objections(&away), [("NODE_AWAY", Weight::Forbids)]);
        let others = decommission(&four, &[2, 3, 4], 3);
        assert_eq!(objections(&others), [("OTHERS_AWAY", Weight::Warns)]);
        assert_eq!(
            others.objections[0].text,
            "node 1 does not answer: groups that it holds wait until then"
        );
    }

    #[test]
    fn the_last_node_stays_and_one_that_is_not_there_is_named() {
        let state = state(1);
        let plan = |node| plan(&state, &heard(&state, []), NodeId(node), None, Way::Removal);
        let last = plan(1).unwrap();
        assert!(last.objections.iter().any(|o| o.code == "LAST_NODE"), "{last:?}");
        assert!(last.refusal(NodeId(1), Way::Removal, true).is_some());
        assert!(plan(9).unwrap_err().message.contains("there is no node 9"));
    }

    #[test]
    fn the_only_part_of_a_snapshot_is_downloaded_first_while_that_is_possible() {
        let mut state = state(4);
        let id = SnapshotId(uuid::Uuid::from_u128(7));
        let part = |node, groups: &[u32]| Command::ReportPart {
            id,
            part: Part {
                status: Status::Completed,
                groups: groups.iter().map(|g| GroupId(*g)).collect(),
                manifest_digest: Some([1; 32]),
                ..Part::processing(NodeId(node))
            },
        };
        for command in [
            Command::BeginSnapshot { id, created_ms: 0 },
            Command::SealSnapshot { seq: SnapshotSeq(1) },
            part(1, &[0, 1]),
            part(2, &[1, 2]),
            part(3, &[2, 3]),
        ] {
            state.apply(&command).reply.unwrap();
        }
        let only = |answering: &[u64], node| {
            let plan = plan(
                &state,
                &heard(&state, answering.iter().copied()),
                NodeId(node),
                None,
                Way::Removal,
            );
            plan.unwrap().objections.into_iter().find(|o| o.code == "ONLY_PART")
        };
        let lost = only(&[1, 2, 4], 3).unwrap();
        assert_eq!((lost.weight, lost.groups), (Weight::Warns, vec![GroupId(3)]));
        let there = only(&[1, 2, 3, 4], 3).unwrap();
        assert_eq!(there.weight, Weight::Refuses);
        assert!(there.text.ends_with(&format!("{id} is on node 3: download it first")));
        assert_eq!(only(&[1, 3, 4], 2), None, "the others have all that it has");
    }
}
