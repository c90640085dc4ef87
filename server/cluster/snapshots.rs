//! What the cluster remembers of a snapshot: its outcome, its parts, and from both whether it may
//! be called completed.
//!
//! Relies on `state` to give out numbers and to let only one be open at a time. Does not know
//! files: a part is what its node said of it. Does not know time: the meta leader decides when a
//! node has been away for too long, and reports its part missing.
//!
//! - The first outcome wins: what is sealed or aborted stays so.
//! - A part that is completed, missing or failed stays so, or a node that was away could fill its
//!   part from a later state. The one exception is an abort, which fails every part: of a snapshot
//!   that is no cut, nothing is of use.
//! - Completed parts count only once the snapshot is sealed: before that, nobody knows that all
//!   groups are marked.
//! - A snapshot that is being deleted is remembered until every node that may have a part has said
//!   that nothing of it is left. Nothing else about it changes any more.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use crate::base::{
    error::{Error, Result},
    ids::{GroupId, Lineage, NodeId, SnapshotId, SnapshotSeq, Topology},
    limits,
};

/// How far a snapshot, or a part of it, is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Processing,
    Completed,
    /// The node did not contribute its part and never will. A snapshot as a whole is never missing.
    Missing,
    Failed,
    /// Never in the registry: it says completed, and whoever looked at the disk has not found the
    /// part whole.
    Damaged,
    /// The snapshot waits until its parts are deleted. A single part is never deleting.
    Deleting,
}

/// What the meta group decided about a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Marks are being set.
    Begun,
    /// All groups are marked: there is a cut.
    Sealed,
    /// There will be none.
    Aborted,
}

/// What one node contributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    pub node: NodeId,
    pub status: Status,
    /// Why it failed or is missing.
    pub reason: String,
    /// The groups it holds when completed.
    pub groups: BTreeSet<GroupId>,
    /// Rows captured.
    pub rows: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes of chunks newly written.
    pub bytes_written: u64,
    /// Bytes of the tar.
    pub download_bytes: u64,
    /// Blake3 of the manifest, once there is one.
    pub manifest_digest: Option<[u8; 32]>,
}

/// A snapshot of the whole cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    pub id: SnapshotId,
    pub seq: SnapshotSeq,
    pub stage: Stage,
    /// Why it was aborted.
    pub reason: String,
    pub parts: BTreeMap<NodeId, Part>,
    /// Milliseconds since 1970, for people.
    pub created_ms: u64,
    /// The history it belongs to.
    pub lineage: Lineage,
    /// While it is being deleted: the nodes that may still have a part, and why they could not
    /// delete it when they tried last.
    pub deleting: Option<BTreeMap<NodeId, String>>,
}

/// A snapshot as a whole, as its record stands now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overall {
    /// Never `Missing`.
    pub status: Status,
    /// Why it failed.
    pub reason: String,
    pub partitions: u32,
    /// Partitions that at least one completed part holds.
    pub partitions_covered: u32,
    /// In how many completed parts every partition is at least.
    pub copies_min: u32,
    /// No part is being written any more.
    pub settled: bool,
}

impl Part {
    pub fn processing(node: NodeId) -> Part {
        Part {
            node,
            status: Status::Processing,
            reason: String::new(),
            groups: BTreeSet::new(),
            rows: 0,
            bytes: 0,
            bytes_written: 0,
            download_bytes: 0,
            manifest_digest: None,
        }
    }
    pub fn failed(node: NodeId, reason: impl Into<String>) -> Part {
        Part { status: Status::Failed, reason: shortened(reason.into()), ..Part::processing(node) }
    }
    /// As `looked` says of a part that the registry knows as completed.
    pub fn damaged(self, reason: impl Into<String>) -> Part {
        Part { status: Status::Damaged, reason: shortened(reason.into()), ..self }
    }
    pub fn missing(node: NodeId, reason: impl Into<String>) -> Part {
        Part { status: Status::Missing, reason: shortened(reason.into()), ..Part::processing(node) }
    }

    /// Nothing about it changes any more.
    pub fn is_final(&self) -> bool {
        self.status != Status::Processing
    }

    /// A part that claims groups there are not is `Invalid`, and so is a completed one without its
    /// proof.
    pub fn check(&self, topology: Topology) -> Result<()> {
        if let Some(group) = self.groups.iter().find(|g| !g.is_meta() && g.0 >= topology.groups()) {
            return Err(Error::invalid(format!(
                "node {} reports group {group} in its part, but there are only {}",
                self.node,
                topology.groups()
            )));
        }
        if self.status == Status::Completed && self.manifest_digest.is_none() {
            return Err(Error::invalid(format!(
                "node {} reports a completed part without the digest of its manifest",
                self.node
            )));
        }
        Ok(())
    }
}

impl Snapshot {
    /// Begins with a part for every node; nodes without a snapshot store have failed theirs. Where
    /// that is every node, it is aborted at once.
    pub fn begin(
        id: SnapshotId,
        seq: SnapshotSeq,
        created_ms: u64,
        lineage: Lineage,
        nodes: impl Iterator<Item = (NodeId, bool)>,
    ) -> Snapshot {
        let part = |(node, has_store): (NodeId, bool)| {
            let part =
                if has_store { Part::processing(node) } else { Part::failed(node, no_store(node)) };
            (node, part)
        };
        let parts: BTreeMap<NodeId, Part> = nodes.map(part).collect();
        let mut snapshot = Snapshot {
            id,
            seq,
            stage: Stage::Begun,
            reason: String::new(),
            parts,
            created_ms,
            lineage,
            deleting: None,
        };
        if snapshot.is_settled() {
            snapshot.stage = Stage::Aborted;
            snapshot.reason =
                "no node has a snapshot store: start the nodes with --snapshot-store DIR".into();
        }
        snapshot
    }

    pub fn is_open(&self) -> bool {
        self.stage == Stage::Begun
    }

    /// Seals an open snapshot, and says whether it was open.
    pub fn seal(&mut self) -> bool {
        let open = self.is_open();
        if open {
            self.stage = Stage::Sealed;
        }
        open
    }

    /// Aborts an open snapshot with all its parts, and says whether it was open.
    pub fn abort(&mut self, reason: &str) -> bool {
        if !self.is_open() {
            return false;
        }
        self.stage = Stage::Aborted;
        self.reason = shortened(reason.into());
        for part in self
            .parts
            .values_mut()
            .filter(|p| matches!(p.status, Status::Processing | Status::Completed))
        {
            *part = Part::failed(part.node, format!("the snapshot was aborted: {reason}"));
        }
        true
    }

    /// Notes how a node's part stands, and says whether that changed anything. A part that is final
    /// stays as it is.
    ///
    /// A part of a node that was not in the cluster when the snapshot began is noted as well, so
    /// that replicas of every version agree. None reports one: the engine captures only for a node
    /// whose part the snapshot began with.
    pub fn report(&mut self, part: &Part) -> bool {
        let old = self.parts.get(&part.node);
        if self.stage == Stage::Aborted
            || self.deleting.is_some()
            || old.is_some_and(|old| old.is_final() || old == part)
        {
            return false;
        }
        self.parts
            .insert(part.node, Part { reason: shortened(part.reason.clone()), ..part.clone() });
        true
    }

    /// Begins to wait for the deletion of all parts, and says whether it had not begun before. A
    /// node may have a part if the snapshot names one, or if the node has a snapshot store now.
    pub fn begin_deletion(&mut self, nodes: impl Iterator<Item = (NodeId, bool)>) -> bool {
        if self.deleting.is_some() {
            return false;
        }
        let may_have =
            nodes.filter(|(node, has_store)| *has_store || self.parts.contains_key(node));
        self.deleting = Some(may_have.map(|(node, _)| (node, String::new())).collect());
        true
    }

    /// Notes that a node has deleted its part (an empty reason) or why it could not, and says
    /// whether that changed anything.
    pub fn report_deletion(&mut self, node: NodeId, reason: &str) -> bool {
        let Some(waited_for) = &mut self.deleting else { return false };
        if reason.is_empty() {
            return waited_for.remove(&node).is_some();
        }
        let reason = shortened(reason.into());
        waited_for
            .get_mut(&node)
            .is_some_and(|old| *old != reason && std::mem::replace(old, reason.clone()) != reason)
    }

    /// Whether its deletion waits for this node.
    pub fn awaits_deletion(&self, node: NodeId) -> bool {
        self.deleting.as_ref().is_some_and(|nodes| nodes.contains_key(&node))
    }

    /// Completed when sealed and every group, the meta group too, is in a completed part; failed
    /// when that cannot become true any more.
    pub fn overall(&self, topology: Topology) -> Overall {
        let copies = self.copies(topology);
        let per_group = topology.partitions() / topology.groups();
        let data = || copies.iter().filter(|(group, _)| !group.is_meta()).map(|(_, n)| *n);
        let (status, reason) = self.status(&copies);
        Overall {
            status,
            reason,
            partitions: topology.partitions(),
            partitions_covered: data().filter(|n| *n > 0).count() as u32 * per_group,
            copies_min: data().min().unwrap_or(0),
            settled: self.is_settled(),
        }
    }

    fn is_settled(&self) -> bool {
        self.parts.values().all(Part::is_final)
    }

    /// In how many completed parts each group is. None counts before the seal.
    fn copies(&self, topology: Topology) -> BTreeMap<GroupId, u32> {
        let mut copies: BTreeMap<GroupId, u32> =
            topology.group_ids().chain([GroupId::META]).map(|g| (g, 0)).collect();
        let counting = self
            .parts
            .values()
            .filter(|p| self.stage == Stage::Sealed && p.status == Status::Completed);
        for group in counting.flat_map(|p| &p.groups) {
            if let Some(n) = copies.get_mut(group) {
                *n += 1;
            }
        }
        copies
    }

    fn status(&self, copies: &BTreeMap<GroupId, u32>) -> (Status, String) {
        let uncovered: Vec<GroupId> =
            copies.iter().filter(|(_, n)| **n == 0).map(|(g, _)| *g).collect();
        if let Some(waited_for) = &self.deleting {
            return (Status::Deleting, why_not_deleted(waited_for));
        }
        match self.stage {
            Stage::Begun => (Status::Processing, String::new()),
            Stage::Aborted => (Status::Failed, self.reason.clone()),
            Stage::Sealed if uncovered.is_empty() => (Status::Completed, String::new()),
            Stage::Sealed if !self.is_settled() => (Status::Processing, String::new()),
            Stage::Sealed if self.parts.values().any(|p| p.status == Status::Damaged) => {
                (Status::Damaged, self.why_uncovered(&uncovered))
            }
            Stage::Sealed => (Status::Failed, self.why_uncovered(&uncovered)),
        }
    }

    fn why_uncovered(&self, uncovered: &[GroupId]) -> String {
        let mut why = format!("no completed part holds {}", named_groups(uncovered));
        for part in self.parts.values().filter(|p| p.status != Status::Completed) {
            let _ = write!(why, "; node {}: {}", part.node, part.reason);
        }
        shortened(why)
    }
}

/// For people: the first few by name, the others by number.
pub fn named_groups(groups: &[GroupId]) -> String {
    let names: Vec<String> =
        groups.iter().take(limits::GROUPS_NAMED_MAX).map(GroupId::to_string).collect();
    let (noun, more) = (
        if groups.len() == 1 { "group" } else { "groups" },
        groups.len().saturating_sub(limits::GROUPS_NAMED_MAX),
    );
    if more > 0 {
        format!("{noun} {} and {more} more", names.join(", "))
    } else {
        format!("{noun} {}", names.join(", "))
    }
}

fn why_not_deleted(waited_for: &BTreeMap<NodeId, String>) -> String {
    let of = |(node, reason): (&NodeId, &String)| {
        let why = if reason.is_empty() { "has not said yet that its part is gone" } else { reason };
        format!("node {node}: {why}")
    };
    shortened(waited_for.iter().map(of).collect::<Vec<_>>().join("; "))
}

fn no_store(node: NodeId) -> String {
    format!("node {node} has no snapshot store: start it with --snapshot-store DIR")
}

/// As much of it as is kept.
pub(super) fn shortened(mut reason: String) -> String {
    let mut end = reason.len().min(limits::REASON_BYTES_MAX);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    reason.truncate(end);
    reason
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn topology() -> Topology {
        Topology::new(64, 4).unwrap()
    }
    fn begun(nodes: u64) -> Snapshot {
        Snapshot::begin(
            SnapshotId(Uuid::from_u128(1)),
            SnapshotSeq(1),
            0,
            Lineage(1),
            (1..=nodes).map(|n| (NodeId(n), true)),
        )
    }
    fn completed(node: u64, groups: &[u32]) -> Part {
        Part {
            status: Status::Completed,
            groups: groups.iter().map(|g| GroupId(*g)).collect(),
            manifest_digest: Some([7; 32]),
            ..Part::processing(NodeId(node))
        }
    }
    const META: u32 = GroupId::META.0;

    fn a_part() -> impl Strategy<Value = Part> {
        let groups = prop::collection::btree_set(prop_oneof![0..4u32, Just(META)], 0..5);
        (1..4u64, 0..4, groups).prop_map(|(node, status, groups)| match status {
            0 => Part::processing(NodeId(node)),
            1 => Part::missing(NodeId(node), "away"),
            2 => Part::failed(NodeId(node), "full disk"),
            _ => completed(node, &groups.into_iter().collect::<Vec<_>>()),
        })
    }

    proptest! {
        /// The status is told again from its definition, partition by partition.
        #[test]
        fn a_snapshot_is_completed_exactly_when_it_is_sealed_and_every_group_is_in_a_completed_part(
            parts in prop::collection::vec(a_part(), 0..8),
            outcome in 0..3,
        ) {
            let mut snapshot = begun(3);
            let mut final_once = BTreeMap::new();
            for (n, part) in parts.iter().enumerate() {
                if n == 3 && outcome > 0 {
                    snapshot.seal();
                }
                snapshot.report(part);
                for part in snapshot.parts.values().filter(|p| p.is_final()) {
                    prop_assert_eq!(
                        final_once.entry(part.node).or_insert_with(|| part.clone()),
                        part
                    );
                }
            }
            if outcome == 2 {
                snapshot.abort("late");
            }
            let overall = snapshot.overall(topology());
            let holders = |g: GroupId| {
                snapshot
                    .parts
                    .values()
                    .filter(|p| p.status == Status::Completed && p.groups.contains(&g))
                    .count()
            };
            let all_held = topology().group_ids().chain([GroupId::META]).all(|g| holders(g) > 0);
            prop_assert_eq!(
                overall.status == Status::Completed,
                snapshot.stage == Stage::Sealed && all_held
            );
            prop_assert_eq!(overall.status == Status::Failed, !overall.reason.is_empty());
            let failed = snapshot.stage == Stage::Aborted
                || (snapshot.stage == Stage::Sealed && overall.settled && !all_held);
            prop_assert_eq!(overall.status == Status::Failed, failed);
            if snapshot.stage == Stage::Sealed {
                let covered = (0..64)
                    .filter(|p| holders(topology().group_of(crate::base::ids::PartitionId(*p))) > 0)
                    .count();
                prop_assert_eq!(overall.partitions_covered as usize, covered);
            }
        }
    }

    #[test]
    fn a_part_that_was_missing_stays_missing_when_its_node_comes_back() {
        let mut snapshot = begun(2);
        snapshot.seal();
        assert!(snapshot.report(&Part::missing(NodeId(2), "away for 20 s")));
        assert!(!snapshot.report(&completed(2, &[0, 1, 2, 3, META])));
        assert_eq!(snapshot.parts[&NodeId(2)].status, Status::Missing);
    }

    #[test]
    fn without_the_meta_group_nothing_is_completed() {
        let mut snapshot = begun(1);
        snapshot.seal();
        snapshot.report(&completed(1, &[0, 1, 2, 3]));
        let overall = snapshot.overall(topology());
        assert_eq!(
            (overall.status, overall.reason.as_str()),
            (Status::Failed, "no completed part holds group meta")
        );
        assert_eq!((overall.partitions_covered, overall.copies_min), (64, 1));
    }

    #[test]
    fn an_abort_leaves_no_part_that_looks_completed() {
        let mut snapshot = begun(2);
        snapshot.report(&completed(1, &[0, 1, 2, 3, META]));
        assert!(snapshot.abort("too late"));
        assert!(!snapshot.seal());
        assert!(snapshot.parts.values().all(|p| p.status == Status::Failed));
        assert!(!snapshot.report(&completed(2, &[0, 1, 2, 3, META])));
        assert_eq!(snapshot.overall(topology()).status, Status::Failed);
    }

    #[test]
    fn a_reason_is_cut_off_between_characters() {
        let part = Part::failed(NodeId(1), "ü".repeat(limits::REASON_BYTES_MAX));
        assert_eq!(part.reason, "ü".repeat(limits::REASON_BYTES_MAX / 2));
        assert_eq!(shortened(format!("x{}", part.reason)).len(), limits::REASON_BYTES_MAX - 1);
    }
}
