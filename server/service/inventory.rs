//! Snapshots over all nodes: what the registry says, compared with what lies in the nodes' snapshot
//! stores.
//!
//! - A client that asks for a snapshot learns what stands on the disks now: each node looks whether
//!   the part that the registry calls completed is whole.
//! - The registry keeps a deletion pending until every node that may have a part has reported that
//!   nothing of it is left, across restarts. The client that asks for the deletion waits a moment
//!   and learns which nodes are left.
//! - A part in a snapshot store that belongs to no snapshot of the registry is an orphan: from a
//!   history before a restore, of a forgotten snapshot, or in the directory of a node that is no
//!   member any more. Orphans are listed, and deleted by name.
//!   To delete one of another history, the client also has to name the history, since a cluster of
//!   that history may live on.
//!
//! Answers name nodes that did not answer and say nothing about their parts. This service only
//! asks; `parts` handles a node's own files.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{
    base::{
        clock::Clock,
        crew::{Role, Several},
        error::{Error, Kind, Result},
        ids::{Lineage, NodeId, SnapshotId},
        limits,
    },
    cluster::{
        self, Node,
        snapshots::{Part, Snapshot, Status},
        state::Settings,
    },
    faults::failpoint::{Failpoint, failpoint},
    net::Peers,
    proto::{internal::v1 as internal, v1},
    service::{
        admin::Cluster,
        parts::{Parts, on_shelf::Removal},
    },
    wire::public,
};

/// The service. Cheap to clone.
#[derive(Clone)]
pub struct Inventory {
    pub cluster: Cluster,
    pub parts: Parts,
    pub peers: Peers,
    pub clock: Clock,
}

/// What the registry knows of a snapshot.
struct Known {
    snapshot: Snapshot,
    settings: Settings,
    nodes: BTreeMap<NodeId, Node>,
}

/// Who can read parts, as they lie on the disks of their nodes.
type Seals = BTreeMap<NodeId, v1::PartSeal>;

/// Where a page of orphans goes on: behind the part of this snapshot that lies on this node, in the
/// directory of this former one (0 for its own).
pub type After = (NodeId, NodeId, SnapshotId);

impl Inventory {
    fn me(&self) -> NodeId {
        self.peers.me().identity.borrow().node
    }
    fn lineage(&self) -> Lineage {
        self.peers.me().identity.borrow().lineage
    }

    // ---- What there is. ----

    /// A snapshot as the registry has it (`local`: as this node alone knows it), with what the
    /// nodes say of parts under way and what stands on their disks. None that it does not know.
    pub async fn snapshot(
        &self,
        id: SnapshotId,
        local: bool,
        wait: Duration,
    ) -> Result<(Option<v1::Snapshot>, Option<v1::LocalAnswer>)> {
        let (known, alone) = self.known(id, local, wait).await?;
        let Some(mut known) = known else { return Ok((None, alone)) };
        let mut seals = Seals::new();
        if self.look(&mut known, &mut seals).await {
            // Or somebody has deleted it meanwhile.
            match self.known(id, local, wait).await?.0 {
                None => return Ok((None, alone)),
                Some(now) if now.snapshot.deleting.is_some() => known = now,
                Some(_) => {}
            }
        }
        let mut snapshot = public::snapshot(&known.settings, &known.nodes, &known.snapshot);
        let busy = snapshot.parts.iter().any(|p| p.status() == v1::SnapshotStatus::Processing);
        let progress = if busy { self.cluster.progress(id).await } else { BTreeMap::new() };
        for part in &mut snapshot.parts {
            part.seal = seals.remove(&NodeId(part.node_id));
            if part.status() == v1::SnapshotStatus::Processing
                && let Some((done, all)) = progress.get(&NodeId(part.node_id))
            {
                (part.partitions_done, part.partitions) = (*done, *all);
            }
            // After a restore the registry does not know what became of the last parts; the shelf
            // does.
            if NodeId(part.node_id) == self.me() && part.status() == v1::SnapshotStatus::Missing {
                self.parts.correct(id, part).await;
            }
        }
        Ok((Some(snapshot), alone))
    }

    async fn known(
        &self,
        id: SnapshotId,
        local: bool,
        wait: Duration,
    ) -> Result<(Option<Known>, Option<v1::LocalAnswer>)> {
        let known = self.cluster.view(local, wait, move |s| {
            let snapshot = s.snapshot_named(id)?.clone();
            Some(Known { snapshot, settings: s.settings().clone(), nodes: s.nodes().clone() })
        });
        known.await
    }

    /// Lets nodes look at the parts that the registry calls completed, once none is being written
    /// any more: until then somebody waits, and asks often. Whether any of them is not as it says;
    /// and what seals they have.
    async fn look(&self, known: &mut Known, seals: &mut Seals) -> bool {
        let (id, lineage) = (known.snapshot.id, known.snapshot.lineage);
        if known.snapshot.deleting.is_some()
            || !known.snapshot.overall(known.settings.topology).settled
        {
            return false;
        }
        let completed = known.snapshot.parts.values().filter(|p| p.status == Status::Completed);
        let nodes: BTreeMap<NodeId, Node> =
            completed.filter_map(|p| Some((p.node, known.nodes.get(&p.node)?.clone()))).collect();
        let said = self
            .each(&nodes, limits::NODE_STATUS, |this, node| async move {
                this.list_on(&node, Some(id)).await
            })
            .await;
        let mut differs = false;
        for (node, said) in said {
            let Some(part) = known.snapshot.parts.get_mut(&node) else { continue };
            match said {
                Ok(answer) if answer.looking => {
                    part.reason = "its node is still looking at the disk; ask again".into()
                }
                Ok(answer) => {
                    let seal = answer.parts.first().and_then(|lies| lies.seal.clone());
                    let seal = seal.map(|seal| v1::PartSeal { recipients: seal.recipients });
                    seals.extend(seal.map(|seal| (node, seal)));
                    if let Some(damage) = damage(part, lineage, &answer) {
                        *part = part.clone().damaged(damage);
                        differs = true;
                    }
                }
                Err(e) => {
                    part.reason = format!(
                        "completed when it was reported; nobody has looked at its disk now: {e}"
                    )
                }
            }
        }
        differs
    }

    /// What lies in snapshot stores and is of no snapshot that the registry knows, by node and
    /// uuid; and the nodes that did not say.
    pub async fn orphans(
        &self,
        after: Option<After>,
        count: usize,
        wait: Duration,
    ) -> Result<(Vec<v1::Orphan>, Vec<v1::UnansweredNode>)> {
        let nodes = self.cluster.look(wait, |s| s.nodes().clone()).await?;
        let said = self
            .each(&nodes, limits::NODE_STATUS, |this, node| async move {
                this.list_on(&node, None).await
            })
            .await;
        // The registry is asked last: it knows a snapshot before any part of it lies anywhere, and
        // until none does.
        let known: Vec<(SnapshotId, Lineage)> = self
            .cluster
            .look(wait, |s| s.snapshots().values().map(|s| (s.id, s.lineage)).collect())
            .await?;
        let is_known = |id: SnapshotId, lineage: Lineage| {
            known.iter().any(|(k, l)| *k == id && (*l == lineage || lineage == Lineage::PENDING))
        };
        let (mut orphans, mut unanswered) = (Vec::new(), Vec::new());
        for (node, said) in said {
            let address = public::address_of(&nodes, node);
            let parts = match said {
                Ok(answer) => answer.parts,
                Err(e) => {
                    unanswered.push(v1::UnansweredNode {
                        node_id: node.0,
                        address,
                        reason: e.message,
                    });
                    continue;
                }
            };
            for part in parts {
                let (id, lineage) = (SnapshotId::from_slice(&part.uuid)?, Lineage(part.lineage));
                let left_by = NodeId(part.left_by);
                if orphans.len() < count
                    && !is_known(id, lineage)
                    && !nodes.contains_key(&left_by)
                    && after.is_none_or(|after| (node, left_by, id) > after)
                {
                    orphans.push(v1::Orphan {
                        node_id: node.0,
                        address: address.clone(),
                        uuid: id.to_string(),
                        lineage: lineage.to_string(),
                        written_ms: part.written_ms,
                        stored_bytes: part.stored_bytes,
                        damage: part.damage,
                        left_by: left_by.0,
                    });
                }
            }
        }
        Ok((orphans, unanswered))
    }

    // ---- Deleting. ----

    /// Deletes a snapshot, or what lies of one that the registry does not know. There an error says
    /// that nothing was deleted: `NotFound` where nothing lies anywhere.
    pub async fn delete(
        &self,
        id: SnapshotId,
        lineage: Option<Lineage>,
        wait: Duration,
    ) -> Result<v1::DeleteSnapshotResponse> {
        let (before, _) = self.known(id, false, wait).await?;
        let begun =
            self.cluster.change(cluster::Command::BeginDeletion { id, lineage }, wait).await;
        failpoint(Failpoint::DeleteAgreed);
        match (begun, before) {
            (Ok(_), Some(before)) => self.await_deletion(before, wait).await,
            // It was deleted to its end between the two looks.
            (Ok(_), None) => Ok(v1::DeleteSnapshotResponse { parts: Vec::new(), known: true }),
            (Err(e), _) if e.kind == Kind::NotFound => self.remove_unknown(id, lineage, wait).await,
            (Err(e), _) => Err(e),
        }
    }

    /// Waits a moment for the nodes: until they have deleted their parts, or said why they cannot.
    async fn await_deletion(
        &self,
        before: Known,
        wait: Duration,
    ) -> Result<v1::DeleteSnapshotResponse> {
        let id = before.snapshot.id;
        let until = self.clock.now() + limits::DELETE_WAIT.min(wait / 2);
        let waited_for = loop {
            let waited_for = self
                .cluster
                .look(wait, move |s| s.snapshot_named(id).and_then(|s| s.deleting.clone()))
                .await?
                .unwrap_or_default();
            if waited_for.values().all(|reason| !reason.is_empty()) || self.clock.now() >= until {
                break waited_for;
            }
            tokio::time::sleep(limits::DELETE_LOOK).await;
        };
        let lay = before
            .snapshot
            .parts
            .values()
            .filter(|p| p.status == Status::Completed)
            .map(|p| (p.node, (v1::PartDeletion::Deleted, String::new())));
        let mut nodes: BTreeMap<NodeId, (v1::PartDeletion, String)> = lay.collect();
        nodes.extend(
            waited_for
                .into_iter()
                .map(|(node, reason)| (node, (v1::PartDeletion::Pending, reason))),
        );
        let lineage = before.snapshot.lineage;
        let parts = nodes
            .into_iter()
            .map(|(node, (deletion, reason))| {
                deleted(&before.nodes, node, Some(lineage), deletion, reason)
            })
            .collect();
        Ok(v1::DeleteSnapshotResponse { parts, known: true })
    }

    async fn remove_unknown(
        &self,
        id: SnapshotId,
        lineage: Option<Lineage>,
        wait: Duration,
    ) -> Result<v1::DeleteSnapshotResponse> {
        let nodes = self.cluster.look(wait, |s| s.nodes().clone()).await?;
        let members: BTreeSet<NodeId> = nodes.keys().copied().collect();
        let said = self
            .each(&nodes, wait / 2, |this, node| {
                let members = members.clone();
                async move { this.remove_on(&node, id, lineage, members).await }
            })
            .await;
        let mut parts = Vec::new();
        for (node, said) in said {
            let (lineage, deletion, reason) = match said {
                Ok(Removal::Absent) => continue,
                Ok(Removal::Removed(lineage)) => {
                    (Some(lineage), v1::PartDeletion::Deleted, String::new())
                }
                Ok(Removal::Kept(lineage, why)) => (Some(lineage), v1::PartDeletion::Kept, why),
                Err(e) => (None, v1::PartDeletion::Unanswered, e.message),
            };
            parts.push(deleted(&nodes, node, lineage, deletion, reason));
        }
        let left = |which: v1::PartDeletion| {
            parts
                .iter()
                .find(|p| p.deletion() == which)
                .map(|p| format!("node {} at {}: {}", p.node_id, p.address, p.reason))
        };
        if parts.iter().any(|p| p.deletion() == v1::PartDeletion::Deleted) {
            return Ok(v1::DeleteSnapshotResponse { parts, known: false });
        }
        // Nothing was done: whoever does not read the answer must not take it for a deletion.
        Err(match (left(v1::PartDeletion::Kept), left(v1::PartDeletion::Unanswered)) {
            (Some(kept), _) => Error::conflict(format!(
                "the cluster does not know snapshot {id}, and no part of it was deleted; {kept}"
            )),
            (None, Some(silent)) => Error::unavailable(format!(
                "the cluster does not know snapshot {id}, and not every node has said whether it \
                 has a part; {silent}"
            )),
            (None, None) => Error::not_found(format!(
                "the cluster does not know snapshot {id}, and no node has a part of it"
            )),
        })
    }

    // ---- Asking nodes. ----

    async fn each<T: Send + 'static, F: Future<Output = Result<T>> + Send + 'static>(
        &self,
        nodes: &BTreeMap<NodeId, Node>,
        most: Duration,
        ask: impl Fn(Inventory, Node) -> F,
    ) -> BTreeMap<NodeId, Result<T>> {
        let asked: Vec<_> = nodes
            .iter()
            .map(|(id, node)| {
                let id = *id;
                let address = self.peers.address(id).unwrap_or_else(|| node.address.clone());
                let there = Node { address: address.clone(), ..node.clone() };
                let answer = ask(self.clone(), there);
                async move {
                    let late = |_| Err(Error::unavailable(format!("{address} does not answer")));
                    (id, tokio::time::timeout(most, answer).await.unwrap_or_else(late))
                }
            })
            .collect();
        let panicked = |id: &NodeId| {
            (*id, Err(Error::unavailable("asking the node has failed; see this node's log")))
        };
        let mut said: BTreeMap<_, _> = nodes.keys().map(panicked).collect();
        let mut asked = Several::begin(Role::Ask, asked);
        while let Some((id, answer)) = asked.next().await {
            said.insert(id, answer);
        }
        said
    }

    /// The parts that lie on a node; with a snapshot only that one, looked at. A node without a
    /// snapshot store has none.
    async fn list_on(
        &self,
        node: &Node,
        id: Option<SnapshotId>,
    ) -> Result<internal::ListPartsResponse> {
        if node.id == self.me() {
            return self.list_here(id).await;
        }
        let request = internal::ListPartsRequest {
            uuid: id.map_or_else(Default::default, |id| id.0.as_bytes().to_vec().into()),
        };
        let answer = self.peers.me().dialler.list_parts(node, request).await?;
        if (NodeId(answer.node_id), Lineage(answer.lineage)) != (node.id, self.lineage()) {
            return Err(Error::conflict(format!(
                "{} is node {} of lineage {} now",
                node.address,
                answer.node_id,
                Lineage(answer.lineage)
            )));
        }
        Ok(answer)
    }

    pub async fn list_here(&self, id: Option<SnapshotId>) -> Result<internal::ListPartsResponse> {
        let (node_id, lineage) = (self.me().0, self.lineage().0);
        if !self.parts.has_store() {
            return Ok(internal::ListPartsResponse {
                node_id,
                lineage,
                storeless: true,
                ..Default::default()
            });
        }
        match id {
            Some(id) => Ok(internal::ListPartsResponse {
                node_id,
                lineage,
                ..self.parts.looked_at(id).await?
            }),
            None => Ok(internal::ListPartsResponse {
                node_id,
                lineage,
                parts: self.parts.listed(self.members().await?).await?,
                ..Default::default()
            }),
        }
    }

    /// The members as this node knows them.
    async fn members(&self) -> Result<BTreeSet<NodeId>> {
        let members = |s: &cluster::state::State| s.nodes().keys().copied().collect();
        self.cluster.view(true, limits::NODE_STATUS, members).await.map(|(members, _)| members)
    }

    async fn remove_on(
        &self,
        node: &Node,
        id: SnapshotId,
        lineage: Option<Lineage>,
        members: BTreeSet<NodeId>,
    ) -> Result<Removal> {
        if node.id == self.me() {
            return self.remove_here(id, lineage, members).await;
        }
        let answer = self
            .peers
            .me()
            .dialler
            .remove_part(
                node,
                internal::RemovePartRequest {
                    uuid: id.0.as_bytes().to_vec().into(),
                    node_id: node.id.0,
                    present: self.lineage().0,
                    lineage: lineage.unwrap_or_default().0,
                    named: lineage.is_some(),
                    members: members.iter().map(|node| node.0).collect(),
                },
            )
            .await?;
        let wrote = Lineage(answer.lineage);
        Ok(match (answer.removed, answer.kept.is_empty()) {
            (true, _) => Removal::Removed(wrote),
            (false, false) => Removal::Kept(wrote, answer.kept),
            (false, true) => Removal::Absent,
        })
    }

    async fn remove_here(
        &self,
        id: SnapshotId,
        lineage: Option<Lineage>,
        members: BTreeSet<NodeId>,
    ) -> Result<Removal> {
        if !self.parts.has_store() {
            return Ok(Removal::Absent);
        }
        self.parts.remove_unknown(id, lineage, members).await
    }

    /// What another node asks of this one. `Conflict` where it means another node, or lives in
    /// another history.
    pub async fn remove_asked(
        &self,
        asked: internal::RemovePartRequest,
    ) -> Result<internal::RemovePartResponse> {
        if (NodeId(asked.node_id), Lineage(asked.present)) != (self.me(), self.lineage()) {
            return Err(Error::conflict(format!(
                "this is node {} of lineage {}, not node {} of lineage {}",
                self.me(),
                self.lineage(),
                asked.node_id,
                Lineage(asked.present)
            )));
        }
        let lineage = asked.named.then_some(Lineage(asked.lineage));
        let members = asked.members.iter().copied().map(NodeId).collect();
        let removal = self.remove_here(SnapshotId::from_slice(&asked.uuid)?, lineage, members);
        Ok(match removal.await? {
            Removal::Absent => internal::RemovePartResponse::default(),
            Removal::Removed(wrote) => internal::RemovePartResponse {
                removed: true,
                lineage: wrote.0,
                ..Default::default()
            },
            Removal::Kept(wrote, kept) => {
                internal::RemovePartResponse { kept, lineage: wrote.0, ..Default::default() }
            }
        })
    }
}

/// What a node has found instead of the part that the registry knows.
fn damage(part: &Part, lineage: Lineage, found: &internal::ListPartsResponse) -> Option<String> {
    if found.storeless {
        return Some(format!(
            "node {} has no snapshot store now: start it with the --snapshot-store that holds the \
             part",
            part.node
        ));
    }
    let Some(lies) = found.parts.first() else {
        return Some(format!(
            "the snapshot store of node {} has no part of it any more",
            part.node
        ));
    };
    if !lies.damage.is_empty() {
        return Some(lies.damage.clone());
    }
    if Lineage(lies.lineage) != lineage {
        return Some(format!(
            "what lies in the snapshot store of node {} is a part of lineage {}, not {lineage}",
            part.node,
            Lineage(lies.lineage)
        ));
    }
    let same = part.manifest_digest.is_none_or(|digest| digest[..] == lies.manifest_digest[..]);
    (!same).then(|| {
        format!(
            "what lies in the snapshot store of node {} is not the part that was reported: its \
             manifest is another",
            part.node
        )
    })
}

fn deleted(
    nodes: &BTreeMap<NodeId, Node>,
    node: NodeId,
    lineage: Option<Lineage>,
    deletion: v1::PartDeletion,
    reason: String,
) -> v1::DeletedPart {
    let lineage = lineage.map_or_else(String::new, |l| l.to_string());
    v1::DeletedPart {
        node_id: node.0,
        address: public::address_of(nodes, node),
        lineage,
        deletion: deletion.into(),
        reason,
    }
}
