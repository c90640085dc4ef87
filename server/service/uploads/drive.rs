//! One upload, from the question what the parts hold to the snapshot in the repository.
//!
//! Groups are divided into batches, and a batch is stored by one of the nodes that hold all of it.
//! The division follows from what the parts hold, so that whoever drives the same upload again
//! comes to the same batches, and finds of each what is there. If a node fails, its batches go to
//! others; a batch that nobody is left for ends the upload.
//!
//! What the nodes say they have stored is read in the repository and held against what their parts
//! hold before the snapshot is made.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::Ordering},
};

use tonic::Streaming;

use super::{Driven, Progress, Uploads, not_completed, retain::Scheduled, unknown};
use crate::{
    base::{
        crew::{self, Role, Several},
        error::{Error, Kind, Result},
        ids::{GroupId, NodeId, SnapshotId, Topology},
        limits,
    },
    cluster::{
        Node,
        snapshots::{Snapshot, Status},
    },
    faults::failpoint::{Failpoint, failpoint},
    part::{chunk::Digest, parallel},
    proto::{internal::v1 as internal, v1},
    repository::{
        commit::{Commit, Made},
        index::{Index, Place, is_name},
        manifest::{self, Group, PartOf},
        root::{Folder, Repository},
    },
    wire,
};

/// The snapshot, and where the nodes of its parts are.
struct Known {
    snapshot: Snapshot,
    nodes: BTreeMap<NodeId, Node>,
    topology: Topology,
    /// Of the run that it was taken for.
    scheduled: Option<Scheduled>,
}

/// What a node's part holds.
struct Described {
    part: PartOf,
    /// What stands for the rows of each group, and bytes of its chunks.
    groups: BTreeMap<GroupId, (Digest, u64)>,
}

/// A group, as all parts that hold it have it.
struct Wanted {
    group: GroupId,
    root: Digest,
    bytes: u64,
    holders: BTreeSet<NodeId>,
}

/// Groups that one node stores.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Batch {
    groups: Vec<GroupId>,
    bytes: u64,
    holders: BTreeSet<NodeId>,
}

/// What a node says while it stores groups.
enum News {
    Here(Progress),
    There(Box<Streaming<internal::UploadGroupsResponse>>),
}

/// What became of the batches of a round.
#[derive(Default)]
struct Round {
    stored: Vec<(usize, internal::UploadGroupsResponse)>,
    failed: BTreeMap<NodeId, Error>,
}

impl Uploads {
    pub(super) async fn drive(&self, id: SnapshotId, driven: &Arc<Driven>) -> Result<v1::Upload> {
        let known = self.settled(id, driven).await?;
        let this = self.clone();
        let repository =
            crew::blocking(Role::Repository, move || this.repository_to_add_to()).await?;
        driven.say("it asks what the parts hold");
        let described = self.described(&known, &repository).await?;
        let wanted = compared(&described, known.topology)?;
        driven.bytes.store(wanted.iter().map(|one| one.bytes).sum(), Ordering::Relaxed);
        let root = manifest::root(wanted.iter().map(|one| one.root));
        let cluster = self.shared.peers.me().identity.borrow().cluster;
        let folder = Folder { cluster, lineage: known.snapshot.lineage };
        let commit = Arc::new(Commit {
            repository: repository.clone(),
            folder,
            seq: known.snapshot.seq,
            snapshot: id,
            partitions: known.topology.partitions(),
            groups: known.topology.groups(),
            schedule: known.scheduled.as_ref().map(|of| of.id.as_str().to_owned()),
        });
        let asked = commit.clone();
        let (there, base, lost) = crew::blocking(Role::Repository, move || {
            let mut lost = Vec::new();
            match asked.there(&root)? {
                Some(there) => Ok((Some(there), None, lost)),
                None => Ok((None, asked.base(&mut lost)?, lost)),
            }
        })
        .await?;
        if let Some(there) = there {
            self.collect(&repository, folder, &known, driven).await;
            return self.told(&repository, folder, id, there).await;
        }
        let base = base.map(|base| base.seq);
        driven.say("nodes store their groups");
        let ask = Asked { id, repository: repository.clone(), base: base.map_or(0, |seq| seq.0) };
        let answers = self.stored_by_nodes(&ask, &known, &wanted, driven).await?;
        let new_bytes = answers.iter().map(|answer| answer.new_bytes).sum();
        let lost: BTreeSet<String> =
            lost.into_iter().chain(answers.iter().flat_map(|answer| answer.lost.clone())).collect();
        for what in lost {
            tracing::warn!(snapshot = %id, what, "the snapshot before cannot be read in the \
                           repository; its rows were stored again");
        }
        driven.say("it makes the snapshot");
        let places = places(&wanted, &answers)?;
        let parts = described.into_values().map(|described| described.part).collect();
        let roots: Vec<Digest> = wanted.iter().map(|one| one.root).collect();
        let into = repository.clone();
        let made = crew::blocking(Role::Repository, move || {
            let stored = read_back(&into, folder, places, &roots)?;
            failpoint(Failpoint::UploadReady);
            let made = commit.make(parts, &stored, new_bytes, base);
            failpoint(Failpoint::UploadMade);
            made
        })
        .await?;
        self.collect(&repository, folder, &known, driven).await;
        self.told(&repository, folder, id, made).await
    }

    /// Stored, in which catalogue it is listed, and what had to be made up for.
    async fn told(
        &self,
        repository: &Repository,
        folder: Folder,
        id: SnapshotId,
        made: Made,
    ) -> Result<v1::Upload> {
        for what in &made.damaged {
            tracing::warn!(snapshot = %id, what, "a catalogue of the repository was damaged; it is \
                           made again of the one before and of the snapshots that stand there");
        }
        let reason = match &made.damaged[..] {
            [] => String::new(),
            damaged => format!(
                "a catalogue of the repository was damaged, and is made again: {}",
                damaged.join("; ")
            ),
        };
        let repository = repository.clone();
        let at = crew::blocking(Role::Repository, move || repository.standing(folder)).await?;
        Ok(v1::Upload { reason, ..self.is_there(&made.snapshot, at.mark()) })
    }

    async fn collect(
        &self,
        repository: &Repository,
        folder: Folder,
        known: &Known,
        driven: &Driven,
    ) {
        if let Some(of) = &known.scheduled {
            driven.say("it is stored; what its schedule does not keep is collected");
            self.retain(repository.clone(), folder, of).await;
        }
    }

    /// The snapshot, once no part of it is being written any more.
    async fn settled(&self, id: SnapshotId, driven: &Driven) -> Result<Known> {
        let clock = self.shared.clock;
        let until = clock.now() + limits::UPLOAD_SETTLE;
        loop {
            let known = self.shared.cluster.look(limits::REQUEST_DEADLINE, move |s| {
                let snapshot = s.snapshot_named(id)?.clone();
                let (nodes, topology) = (s.nodes().clone(), s.settings().topology);
                Some(Known { snapshot, nodes, topology, scheduled: Scheduled::of(s, id) })
            });
            let known = known.await?.ok_or_else(|| unknown(id))?;
            let overall = known.snapshot.overall(known.topology);
            match overall.status {
                Status::Completed if overall.settled => return Ok(known),
                Status::Completed | Status::Processing if clock.now() < until => {}
                Status::Completed | Status::Processing => {
                    return Err(Error::unavailable(format!(
                        "parts of snapshot {id} are still being written"
                    )));
                }
                _ => return Err(not_completed(id, &overall.reason)),
            }
            driven.say("parts are still being written");
            tokio::time::sleep(limits::UPLOAD_LOOK).await;
        }
    }

    /// What every completed part holds, of the nodes that say so.
    async fn described(
        &self,
        known: &Known,
        repository: &Repository,
    ) -> Result<BTreeMap<NodeId, Described>> {
        let (id, me, lineage) = (known.snapshot.id, self.me(), self.lineage());
        let completed = known.snapshot.parts.values().filter(|p| p.status == Status::Completed);
        let asked: Vec<_> = completed
            .map(|part| {
                let (this, node) = (self.clone(), part.node);
                let member = self.member(known, node);
                async move {
                    let request = internal::DescribePartRequest {
                        uuid: id.0.as_bytes().to_vec().into(),
                        node_id: node.0,
                        lineage: lineage.0,
                    };
                    let answer = async {
                        if node == me {
                            return this.describe(request).await;
                        }
                        let dialler = &this.shared.peers.me().dialler;
                        dialler.describe_part(&member?, request).await
                    };
                    let answer = tokio::time::timeout(limits::UPLOAD_DESCRIBE, answer).await;
                    let late = |_| Err(Error::unavailable("it does not answer"));
                    (node, answer.unwrap_or_else(late))
                }
            })
            .collect();
        let mut described = BTreeMap::new();
        let mut asked = Several::begin(Role::Ask, asked);
        while let Some((node, answer)) = asked.next().await {
            let answer = match answer {
                Ok(answer) => answer,
                Err(e) => {
                    tracing::warn!(snapshot = %id, node = node.0, error = %e, "this node stores \
                                   nothing of the snapshot, and its part cannot be exported");
                    continue;
                }
            };
            if answer.repository[..] != repository.id.as_bytes()[..] {
                return Err(Error::conflict(format!(
                    "node {node} names another repository than node {me} does with {}: start all \
                     with the same --repository",
                    repository.store.place()
                )));
            }
            described.insert(node, parse_described(node, answer)?);
        }
        Ok(described)
    }

    /// A member, and where it is.
    fn member(&self, known: &Known, node: NodeId) -> Result<Node> {
        let listed = known.nodes.get(&node).cloned();
        let listed =
            listed.ok_or_else(|| Error::not_found(format!("node {node} has left the cluster")))?;
        let address = self.shared.peers.address(node).unwrap_or(listed.address);
        Ok(Node { address, ..listed })
    }

    /// Has every group stored.
    async fn stored_by_nodes(
        &self,
        ask: &Asked,
        known: &Known,
        wanted: &[Wanted],
        driven: &Arc<Driven>,
    ) -> Result<Vec<internal::UploadGroupsResponse>> {
        let batches = batches(wanted);
        let mut answers = BTreeMap::new();
        let mut failed: BTreeMap<NodeId, Error> = BTreeMap::new();
        while answers.len() < batches.len() {
            let open = (0..batches.len()).filter(|nth| !answers.contains_key(nth));
            let dealt = deal(&batches, open, &failed)?;
            let round = self.round(ask, known, &batches, dealt, driven).await;
            answers.extend(round.stored);
            for (node, e) in &round.failed {
                tracing::warn!(snapshot = %ask.id, node = node.0, error = %e, "this node could \
                               not store its groups; others are asked");
            }
            failed.extend(round.failed);
        }
        Ok(answers.into_values().collect())
    }

    async fn round(
        &self,
        ask: &Asked,
        known: &Known,
        batches: &[Batch],
        dealt: BTreeMap<NodeId, Vec<usize>>,
        driven: &Arc<Driven>,
    ) -> Round {
        let nodes: Vec<_> = dealt
            .into_iter()
            .map(|(node, nths)| {
                let (this, ask, driven) = (self.clone(), ask.clone(), driven.clone());
                let member = self.member(known, node);
                let own: Vec<(usize, Batch)> =
                    nths.into_iter().map(|nth| (nth, batches[nth].clone())).collect();
                async move {
                    let mut stored = Vec::new();
                    for (nth, batch) in own {
                        match this.batch(&ask, node, member.clone(), &batch, &driven).await {
                            Ok(answer) => stored.push((nth, answer)),
                            Err(e) => return (node, stored, Some(e)),
                        }
                    }
                    (node, stored, None)
                }
            })
            .collect();
        let mut round = Round::default();
        let mut under_way = Several::begin(Role::Ask, nodes);
        while let Some((node, stored, e)) = under_way.next().await {
            round.stored.extend(stored);
            round.failed.extend(e.map(|e| (node, e)));
        }
        round
    }

    /// Has a node store a batch.
    async fn batch(
        &self,
        ask: &Asked,
        node: NodeId,
        member: Result<Node>,
        batch: &Batch,
        driven: &Driven,
    ) -> Result<internal::UploadGroupsResponse> {
        let request = internal::UploadGroupsRequest {
            uuid: ask.id.0.as_bytes().to_vec().into(),
            node_id: node.0,
            lineage: self.lineage().0,
            repository: ask.repository.id.as_bytes().to_vec().into(),
            groups: batch.groups.iter().map(|group| group.0).collect(),
            base: ask.base,
        };
        let mut news = if node == self.me() {
            News::Here(self.store_groups(request).await?)
        } else {
            let dialler = &self.shared.peers.me().dialler;
            News::There(Box::new(dialler.upload_groups(&member?, request).await?))
        };
        let mut counted = 0;
        let mut count = |bytes: u64| {
            driven.done.fetch_add(bytes.saturating_sub(counted), Ordering::Relaxed);
            counted = counted.max(bytes);
        };
        let ended = loop {
            match news.next().await {
                None => break Err(Error::unavailable("it ended before it had stored its groups")),
                Some(Err(e)) => break Err(e),
                Some(Ok(answer)) if answer.groups.is_empty() => {
                    count(answer.bytes_done.min(batch.bytes))
                }
                Some(Ok(answer)) => break Ok(answer),
            }
        };
        match &ended {
            Ok(_) => count(batch.bytes),
            Err(_) => {
                driven.done.fetch_sub(counted, Ordering::Relaxed);
            }
        }
        ended
    }
}

impl News {
    async fn next(&mut self) -> Option<Result<internal::UploadGroupsResponse>> {
        match self {
            News::Here(progress) => progress.recv().await,
            News::There(stream) => {
                stream.message().await.map_err(|s| wire::error_of(&s)).transpose()
            }
        }
    }
}

/// What all nodes are asked.
#[derive(Clone)]
struct Asked {
    id: SnapshotId,
    repository: Repository,
    base: u64,
}

fn parse_described(node: NodeId, answer: internal::DescribePartResponse) -> Result<Described> {
    let mut groups = BTreeMap::new();
    for described in &answer.groups {
        let bytes = (parse_digest(&described.root)?, described.stored_bytes);
        groups.insert(GroupId(described.group), bytes);
    }
    let part = PartOf {
        node,
        address: answer.address,
        format: answer.format,
        product: answer.product,
        written_ms: answer.written_ms,
        meta: groups.contains_key(&GroupId::META),
        groups: groups.keys().copied().filter(|group| !group.is_meta()).collect(),
    };
    Ok(Described { part, groups })
}

fn parse_digest(bytes: &[u8]) -> Result<Digest> {
    let bytes = bytes.try_into().map_err(|_| Error::invalid("a digest has 32 bytes"))?;
    Ok(Digest(bytes))
}

/// Every group, the meta group last. `Corrupt` if parts differ in one, `Unavailable` if nobody has
/// it.
fn compared(described: &BTreeMap<NodeId, Described>, topology: Topology) -> Result<Vec<Wanted>> {
    let wanted = topology.group_ids().chain([GroupId::META]).map(|group| {
        let mut one: Option<Wanted> = None;
        for (node, described) in described {
            let Some((root, bytes)) = described.groups.get(&group) else { continue };
            let one = one.get_or_insert_with(|| Wanted {
                group,
                root: *root,
                bytes: *bytes,
                holders: BTreeSet::new(),
            });
            if one.root != *root {
                return Err(Error::corrupt(format!(
                    "replicas differ: group {group} is not the same in the part of node {node} as \
                     in those of {}; nothing was stored. Verify the parts, and report this",
                    named(&one.holders)
                )));
            }
            one.holders.insert(*node);
        }
        one.ok_or_else(|| {
            Error::unavailable(format!(
                "no node that can reach the repository has group {group}; their logs say why"
            ))
        })
    });
    wanted.collect()
}

fn named(nodes: &BTreeSet<NodeId>) -> String {
    let names: Vec<String> = nodes.iter().map(NodeId::to_string).collect();
    format!("node {}", names.join(" and "))
}

/// Groups of the same nodes together, so many that each node has some and that what is lost with
/// one of them is little.
fn batches(wanted: &[Wanted]) -> Vec<Batch> {
    let all: u64 = wanted.iter().map(|one| one.bytes).sum();
    let nodes: BTreeSet<NodeId> =
        wanted.iter().flat_map(|one| one.holders.iter().copied()).collect();
    let segment = limits::REPOSITORY_SEGMENT_BYTES as u64;
    let target = (all / (2 * nodes.len().max(1) as u64)).clamp(segment, 8 * segment);
    let mut by_holders: BTreeMap<&BTreeSet<NodeId>, Vec<Batch>> = BTreeMap::new();
    for one in wanted {
        let of = by_holders.entry(&one.holders).or_default();
        match of.last_mut().filter(|batch| batch.bytes + one.bytes <= target) {
            Some(batch) => {
                batch.bytes += one.bytes;
                batch.groups.push(one.group);
            }
            None => of.push(Batch {
                groups: vec![one.group],
                bytes: one.bytes,
                holders: one.holders.clone(),
            }),
        }
    }
    by_holders.into_values().flatten().collect()
}

/// Gives each batch to one of its holders, the largest first, each to whom has the least.
fn deal(
    batches: &[Batch],
    open: impl Iterator<Item = usize>,
    failed: &BTreeMap<NodeId, Error>,
) -> Result<BTreeMap<NodeId, Vec<usize>>> {
    let mut open: Vec<usize> = open.collect();
    open.sort_by_key(|nth| (std::cmp::Reverse(batches[*nth].bytes), *nth));
    let mut load: BTreeMap<NodeId, u64> = BTreeMap::new();
    let mut dealt: BTreeMap<NodeId, Vec<usize>> = BTreeMap::new();
    for nth in open {
        let batch = &batches[nth];
        let left = batch.holders.iter().filter(|node| !failed.contains_key(node));
        let least = left.min_by_key(|node| (load.get(node).copied().unwrap_or(0), **node));
        let Some(node) = least else { return Err(nobody_left(batch, failed)) };
        *load.entry(*node).or_default() += batch.bytes.max(1);
        dealt.entry(*node).or_default().push(nth);
    }
    Ok(dealt)
}

fn nobody_left(batch: &Batch, failed: &BTreeMap<NodeId, Error>) -> Error {
    let why = batch.holders.iter().filter_map(|node| {
        let e = failed.get(node)?;
        Some(format!("node {node}: {e}"))
    });
    let kind = batch.holders.iter().filter_map(|node| Some(failed.get(node)?.kind)).next();
    let groups = match &batch.groups[..] {
        [one] => format!("group {one}"),
        several => format!("group {} and {} more", several[0], several.len() - 1),
    };
    let why = why.collect::<Vec<_>>().join("; ");
    Error::new(kind.unwrap_or(Kind::Unavailable), format!("nobody could store {groups}: {why}"))
}

/// Where each group is, in order.
fn places(wanted: &[Wanted], answers: &[internal::UploadGroupsResponse]) -> Result<Vec<Group>> {
    let mut stored: BTreeMap<GroupId, Group> = BTreeMap::new();
    for group in answers.iter().flat_map(|answer| &answer.groups) {
        if !is_name(&group.object) {
            return Err(Error::invalid(format!("{:?} is the name of no object", group.object)));
        }
        let place = Place {
            object: group.object.clone(),
            offset: group.offset,
            bytes: group.bytes,
            digest: parse_digest(&group.digest)?,
        };
        let id = GroupId(group.group);
        stored.insert(
            id,
            Group {
                group: id,
                mark_index: group.mark_index,
                mark_term: group.mark_term,
                dots: group.dots,
                voters: group.voters.iter().map(|node| NodeId(*node)).collect(),
                learners: group.learners.iter().map(|node| NodeId(*node)).collect(),
                index: place,
            },
        );
    }
    let missing =
        |group| Error::unavailable(format!("a node did not say where it has stored group {group}"));
    wanted.iter().map(|w| stored.remove(&w.group).ok_or_else(|| missing(w.group))).collect()
}

/// The groups with their indexes, as they are in the repository.
fn read_back(
    repository: &Repository,
    folder: Folder,
    groups: Vec<Group>,
    roots: &[Digest],
) -> Result<Vec<(Group, Index)>> {
    let mut stored = Vec::with_capacity(groups.len());
    let read = |group: Group| -> Result<(Group, Index)> {
        let index = repository.index(folder, &group.index)?;
        Ok((group, index))
    };
    parallel::in_order(groups.into_iter(), read, |read| {
        let (group, index) = read?;
        if manifest::group_root(&group, &index.partitions) != roots[stored.len()] {
            return Err(Error::corrupt(format!(
                "group {} is not in the repository as it is in the parts",
                group.group
            )));
        }
        stored.push((group, index));
        Ok(())
    })?;
    Ok(stored)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(group: u32, bytes: u64, holders: &[u64]) -> Wanted {
        let holders = holders.iter().map(|node| NodeId(*node)).collect();
        Wanted { group: GroupId(group), root: Digest([group as u8; 32]), bytes, holders }
    }

    #[test]
    fn every_group_is_in_one_batch_and_every_node_has_some() {
        let segment = limits::REPOSITORY_SEGMENT_BYTES as u64;
        let all: Vec<Wanted> =
            (0..64).map(|group| wanted(group, segment / 2, &[1, 2, 3])).collect();
        let made = batches(&all);
        let groups: Vec<GroupId> = made.iter().flat_map(|batch| batch.groups.clone()).collect();
        assert_eq!(groups, (0..64).map(GroupId).collect::<Vec<_>>());
        let dealt = deal(&made, 0..made.len(), &BTreeMap::new()).unwrap();
        let load =
            |node: &u64| -> u64 { dealt[&NodeId(*node)].iter().map(|nth| made[*nth].bytes).sum() };
        let loads: Vec<u64> = [1, 2, 3].iter().map(load).collect();
        assert_eq!(loads.iter().sum::<u64>(), 32 * segment);
        let (least, most) = (loads.iter().min().unwrap(), loads.iter().max().unwrap());
        assert!(most - least <= made[0].bytes, "{loads:?}");
    }

    #[test]
    fn a_batch_lies_whole_with_each_of_its_nodes() {
        let all = [wanted(0, 1, &[1, 2]), wanted(1, 1, &[2, 3]), wanted(2, 1, &[1, 2])];
        let made = batches(&all);
        assert_eq!(made.len(), 2);
        assert_eq!(made[0].groups, [GroupId(0), GroupId(2)]);
        assert_eq!(made[1].groups, [GroupId(1)]);
    }

    #[test]
    fn what_a_node_could_not_store_others_do_and_nobody_left_is_said_with_all_reasons() {
        let all = [wanted(0, 5, &[1, 2]), wanted(1, 5, &[2, 3])];
        let made = batches(&all);
        let mut failed = BTreeMap::from([(NodeId(2), Error::unavailable("its disk is gone"))]);
        let dealt = deal(&made, 0..2, &failed).unwrap();
        assert_eq!(dealt.keys().copied().collect::<Vec<_>>(), [NodeId(1), NodeId(3)]);
        failed.insert(NodeId(3), Error::unavailable("it does not answer"));
        let e = deal(&made, 0..2, &failed).unwrap_err();
        assert_eq!(
            e.message,
            "nobody could store group 1: node 2: its disk is gone; node 3: it does not answer"
        );
    }

    #[test]
    fn replicas_that_differ_are_named_and_so_is_a_group_that_nobody_has() {
        let topology = Topology::new(64, 1).unwrap();
        let described = |node: u64, byte: u8, meta: bool| {
            let part = PartOf {
                node: NodeId(node),
                address: "a:1".into(),
                format: 3,
                product: "1".into(),
                written_ms: 1,
                meta,
                groups: vec![GroupId(0)],
            };
            let mut groups = BTreeMap::from([(GroupId(0), (Digest([byte; 32]), 7))]);
            if meta {
                groups.insert(GroupId::META, (Digest([9; 32]), 1));
            }
            (NodeId(node), Described { part, groups })
        };
        let alike = BTreeMap::from([described(1, 1, true), described(2, 1, true)]);
        let found = compared(&alike, topology).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].holders.len(), 2);
        let differ = BTreeMap::from([described(1, 1, true), described(2, 2, true)]);
        let e = compared(&differ, topology).map(|_| ()).unwrap_err();
        assert!(
            e.kind == Kind::Corrupt && e.message.contains("node 2 as in those of node 1"),
            "{e}"
        );
        let e = compared(&BTreeMap::from([described(1, 1, false)]), topology).map(|_| ());
        let e = e.unwrap_err();
        assert!(e.message.contains("has group meta"), "{e}");
    }
}
