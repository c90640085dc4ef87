//! The cluster's configuration as its users change it and look at it: nodes, sites, relays and the
//! registry of snapshots.
//!
//! Changes go through the meta group. A site is added in two places, the registry and the group
//! that holds it, and removed from both; each step can be done again, and the meta leader finishes
//! what a crashed node has left half done.
//!
//! Lists are linearizable: they show what was acknowledged before. Only a caller that asks for what
//! this node alone knows gets that, without a quorum, and with it a word about how much it is
//! (`LocalAnswer`).

mod waits;
mod status;
mod operations;
mod access;
mod members;
mod names;

use std::{collections::BTreeMap, ops::Bound, path::PathBuf, sync::Arc, time::Duration};

use tokio::sync::Semaphore;

pub use access::TokenAsked;
pub use members::{Decommission, MoveAsked, RemovalAsked, Standing};
pub use operations::Listed;

use crate::{
    base::{
        clock::Random,
        error::{Error, Result},
        ids::{GroupId, Lineage, NodeId, PartitionId, RelayId, SiteId, SnapshotId, Topology},
        limits,
    },
    cluster::{
        self, Away, Node, State,
        access::Ticket,
        level::Level,
        sites::{Relay, Site, SiteState},
    },
    data::{self, Reply},
    engine::{Body, EngineView, driver::Handle},
    entry::Command,
    faults::failpoint::{Failpoint, failpoint},
    net::{self, Arrivals, Dialler, Peers, tls::ticket::Joiner},
    proto::{
        internal::v1::{GetNodeStatusResponse, JoinProof, LedGroup},
        v1::{LocalAnswer, Upload},
    },
    service::{
        kv::unexpected,
        voters::{VoterSet, voter_sets},
    },
};

/// The service. Cheap to clone.
#[derive(Clone)]
pub struct Cluster {
    handle: Handle,
    peers: Peers,
    /// Rows that come to this node.
    arrivals: Arrivals,
    topology: Topology,
    /// The directory of this node's data.
    store: PathBuf,
    /// Places for nodes that are being taken in.
    joining: Arc<Semaphore>,
}

/// What a node says of itself, and what the registry says of it.
#[derive(Clone, Debug)]
pub struct NodeView {
    pub node: Node,
    pub reachable: bool,
    pub ready: bool,
    /// Why it is not ready, or could not be asked; empty when it is.
    pub reason: String,
    pub groups_wanted: u32,
    pub groups_led: u32,
}

/// The cluster at a glance.
#[derive(Clone, Debug)]
pub struct Overview {
    pub settings: cluster::state::Settings,
    pub nodes: Vec<NodeView>,
    pub groups_without_leader: u32,
    pub groups_under_replicated: u32,
    pub meta_leader: Option<NodeId>,
    pub meta_under_replicated: bool,
    pub sites: u64,
    pub relays: u64,
    pub voter_sets: Vec<VoterSet>,
    /// None of what the leader was asked about.
    pub alone: Option<LocalAnswer>,
}

/// A partition and who holds it.
#[derive(Clone, Debug)]
pub struct PartitionView {
    pub id: PartitionId,
    pub group: GroupId,
    pub replicas: Vec<NodeId>,
    pub leader: Option<NodeId>,
}

/// A site as it is listed.
#[derive(Clone, Debug)]
pub struct SiteView {
    pub id: SiteId,
    pub partition: PartitionId,
    pub relays: u32,
}

impl Cluster {
    pub fn new(
        handle: Handle,
        peers: Peers,
        arrivals: Arrivals,
        topology: Topology,
        store: PathBuf,
    ) -> Cluster {
        Cluster {
            handle,
            peers,
            arrivals,
            topology,
            store,
            joining: Arc::new(Semaphore::new(limits::JOINS_AT_ONCE)),
        }
    }

    /// What this node is to others.
    pub fn me(&self) -> &net::Me {
        self.peers.me()
    }

    /// The rows that come to this node.
    pub fn arrivals(&self) -> &Arrivals {
        &self.arrivals
    }

    /// Looks at the meta state after everything that was acknowledged.
    pub async fn look<T: Send + 'static>(
        &self,
        wait: Duration,
        see: impl FnOnce(&State) -> T + Send + 'static,
    ) -> Result<T> {
        self.handle.look(true, wait, move |sight| see(sight.meta())).await
    }

    /// As `look`; or, `local`, at what this node has applied, with a word about how much that is.
    pub async fn view<T: Send + 'static>(
        &self,
        local: bool,
        wait: Duration,
        see: impl FnOnce(&State) -> T + Send + 'static,
    ) -> Result<(T, Option<LocalAnswer>)> {
        if !local {
            return Ok((self.look(wait, see).await?, None));
        }
        let look = move |sight: EngineView<'_>| {
            (see(sight.meta()), sight.applied(GroupId::META), sight.unready())
        };
        let (seen, applied, unready) = self.handle.look(false, wait, look).await?;
        let alone = self.alone(applied, unready);
        if applied == 0 {
            return Err(Error::unavailable(alone.reason));
        }
        Ok((seen, Some(alone)))
    }

    fn alone(&self, applied_index: u64, unready: Option<String>) -> LocalAnswer {
        let me = self.peers.me();
        LocalAnswer {
            node_id: me.identity.borrow().node.0,
            address: me.address.clone(),
            applied_index,
            reason: unready.map_or(String::new(), |why| self.missing_too(why)),
        }
    }

    /// Proposes a change of the configuration. Whether it changed anything.
    pub async fn change(&self, command: cluster::Command, wait: Duration) -> Result<bool> {
        match self.handle.request(GroupId::META, Body::Propose(command.into()), wait).await? {
            Reply::Done { changed } => Ok(changed),
            other => Err(unexpected(&other)),
        }
    }

    // ---- Nodes. ----

    /// Makes a node that asks to join one of the cluster, when whoever is called at its address is
    /// the process that asked. A member is counted on for good: one that nobody reaches would cost
    /// every group that is placed on it a replica.
    ///
    /// One that is new proves that it has a join token, where the cluster asks for one; until it
    /// has, nobody calls it. From then on it has the name that it proves, if it does.
    pub async fn take_in(
        &self,
        node: Node,
        (name, proof): (Option<String>, Option<JoinProof>),
        incarnation: u64,
        wait: Duration,
    ) -> Result<()> {
        let _place = self.joining.try_acquire().map_err(|_| {
            Error::exhausted(format!(
                "{} nodes are being taken in here already; retry",
                limits::JOINS_AT_ONCE
            ))
        })?;
        let (lineage, level) =
            self.look(wait, |s| (s.settings().lineage, s.settings().level)).await?;
        if lineage == Lineage::PENDING {
            return Err(Error::unavailable(
                "the restored nodes have not agreed on a lineage yet; retry",
            ));
        }
        let (address, shown) = (&node.address, name.as_deref());
        let joiner = Joiner { node: node.id, incarnation, address, name: shown };
        let ticket = self.ticket(&joiner, proof.as_ref(), wait).await?;
        call_back(&self.me().dialler, &node, incarnation).await?;
        failpoint(Failpoint::JoinAnnouncing);
        let certificate_name = name.filter(|_| level >= Level::ACCESS);
        self.join(Node { lineage, certificate_name, ..node }, ticket, wait).await?;
        failpoint(Failpoint::JoinAnnounced);
        Ok(())
    }

    /// Takes a node into the cluster. Members that are lost give up their places first.
    async fn join(&self, node: Node, ticket: Option<Ticket>, wait: Duration) -> Result<bool> {
        let deadline = self.handle.clock.now() + wait;
        let left = || deadline.saturating_sub(self.handle.clock.now());
        let command = if self.look(wait, |s| s.settings().level).await? < Level::DEPARTURE {
            cluster::Command::AnnounceNode(node)
        } else {
            let away = self.lost(node.id, deadline).await?;
            cluster::Command::JoinNode { node, away, ticket }
        };
        self.change(command, left()).await
    }

    /// Members that have been silent for so long that they are taken for lost. One that does not
    /// answer and has not been silent for that long is waited for, since it may only restart. One
    /// that is heard and cannot be reached from here is not lost.
    async fn lost(&self, besides: NodeId, deadline: Duration) -> Result<Away> {
        let clock = self.handle.clock;
        let left = || deadline.saturating_sub(clock.now());
        let until = clock.now() + limits::AWAY + limits::NODE_STATUS;
        loop {
            let mut nodes = self.look(left(), |s| s.nodes().clone()).await?;
            nodes.remove(&besides);
            let said = self.ask_nodes(&nodes).await;
            let silent: Away =
                said.iter().filter(|(_, said)| said.is_err()).map(|(node, _)| *node).collect();
            let away = self.away(left()).await?;
            if silent.is_subset(&away) || clock.now() >= until {
                return Ok(silent.intersection(&away).copied().collect());
            }
            tokio::time::sleep(limits::REMOVAL_LOOK).await;
        }
    }

    /// Why this node cannot or should not serve, whom it misses and where it has looked; None when
    /// it can.
    pub async fn unready(&self) -> Option<String> {
        let look = self.handle.look(false, limits::NODE_STATUS, |sight| {
            let me = sight.identity().node;
            let drained = sight.meta().node(me).is_some_and(|node| node.draining);
            let alone = sight.meta().nodes().len() == 1;
            (sight.unready(), drained.then_some(me), alone)
        });
        match look.await {
            Ok((None, Some(me), _)) => {
                Some(format!("it is drained, until ddbctl node undrain {me} has it serve again"))
            }
            Ok((None, None, alone)) => self.second(alone),
            Ok((Some(why), ..)) => Some(self.missing_too(why)),
            Err(e) => Some(self.missing_too(e.message)),
        }
    }

    fn missing_too(&self, why: String) -> String {
        self.peers.missing().map_or(why.clone(), |missing| format!("{why}; {missing}"))
    }

    /// The cluster as all have agreed that it is; or, asked for what this node alone knows, as that
    /// has it.
    pub async fn overview(&self, local: bool, wait: Duration) -> Result<Overview> {
        let me = self.peers.me().clone();
        let see = move |sight: EngineView<'_>| {
            let s = sight.meta();
            let mut nodes = s.nodes().clone();
            let this = sight.identity().node;
            if local {
                // It may not have received the cluster's configuration yet.
                nodes
                    .entry(this)
                    .or_insert_with(|| own_entry(this, &me.address, sight.identity().lineage));
            }
            (
                s.settings().clone(),
                nodes,
                s.assignments().clone(),
                s.sites().sites().len(),
                s.sites().relays().len(),
                local.then(|| (sight.applied(GroupId::META), sight.unready())),
            )
        };
        let (settings, nodes, assignments, sites, relays, alone) =
            self.handle.look(!local, wait, see).await?;
        let said = self.ask_nodes(&nodes).await;
        let answers = |n: NodeId| said.get(&n).and_then(|s| s.as_ref().ok());
        let led: BTreeMap<GroupId, (NodeId, &LedGroup)> = said
            .iter()
            .flat_map(|(n, s)| s.iter().flat_map(|s| &s.led).map(|g| (GroupId(g.group), (*n, g))))
            .collect();
        // One that votes and is gone counts, wanted or not: every majority needs more without it.
        let full = |group: &GroupId, wanted: &[NodeId]| {
            led.get(group).is_some_and(|(_, g)| {
                wanted.iter().all(|n| g.voters.contains(&n.0))
                    && g.voters.iter().all(|n| answers(NodeId(*n)).is_some())
            })
        };
        let data = || assignments.iter().filter(|(group, _)| !group.is_meta());
        let under = |group, wanted: &[NodeId]| {
            !full(group, wanted) || wanted.len() < settings.replication_factor as usize
        };
        let view = |node: &Node| {
            let status = answers(node.id);
            NodeView {
                reachable: status.is_some(),
                ready: status.is_some_and(|s| s.ready),
                reason: match &said[&node.id] {
                    Ok(status) => status.unready.clone(),
                    Err(e) => e.message.clone(),
                },
                groups_wanted: assignments
                    .iter()
                    .filter(|(g, w)| !g.is_meta() && w.contains(&node.id))
                    .count() as u32,
                groups_led: status.map_or(0, |s| {
                    s.led.iter().filter(|g| GroupId(g.group) != GroupId::META).count() as u32
                }),
                node: node.clone(),
            }
        };
        Ok(Overview {
            nodes: nodes.values().map(view).collect(),
            groups_without_leader: data().filter(|(g, _)| !led.contains_key(g)).count() as u32,
            groups_under_replicated: data().filter(|(g, wanted)| under(g, wanted)).count() as u32,
            meta_under_replicated: assignments
                .get(&GroupId::META)
                .is_none_or(|wanted| !full(&GroupId::META, wanted)),
            meta_leader: led.get(&GroupId::META).map(|(n, _)| *n),
            voter_sets: voter_sets(&assignments, &said),
            alone: alone.map(|(applied, unready)| self.alone(applied, unready)),
            sites: sites as u64,
            relays: relays as u64,
            settings,
        })
    }

    pub async fn partitions(
        &self,
        after: Option<u32>,
        count: usize,
        local: bool,
        wait: Duration,
    ) -> Result<(Vec<PartitionView>, Option<LocalAnswer>)> {
        let ((nodes, assignments), alone) =
            self.view(local, wait, |s| (s.nodes().clone(), s.assignments().clone())).await?;
        let said = self.ask_nodes(&nodes).await;
        let leader_of = |group: GroupId| {
            said.iter()
                .find(|(_, s)| s.iter().any(|s| s.led.iter().any(|g| g.group == group.0)))
                .map(|(n, _)| *n)
        };
        let leaders: BTreeMap<GroupId, Option<NodeId>> =
            self.topology.group_ids().map(|g| (g, leader_of(g))).collect();
        let first = after.map_or(0, |p| p + 1);
        let view = |p: u32| {
            let group = self.topology.group_of(PartitionId(p));
            PartitionView {
                id: PartitionId(p),
                group,
                replicas: assignments.get(&group).cloned().unwrap_or_default(),
                leader: leaders[&group],
            }
        };
        Ok(((first..self.topology.partitions()).take(count).map(view).collect(), alone))
    }

    // ---- Sites. ----

    /// Whether the site is new. When this returns, every node takes its writes.
    pub async fn add_site(&self, site: SiteId, wait: Duration) -> Result<bool> {
        let created = self.change(cluster::Command::AddSite(site.clone()), wait).await?;
        failpoint(Failpoint::SiteRegistered);
        let Some(Site { state: SiteState::Adding | SiteState::Present, generation }) =
            self.site(&site, wait).await?
        else {
            return Err(Error::conflict(format!(
                "site {:?} was removed meanwhile; try again when it is gone",
                site.as_str()
            )));
        };
        self.site_data(&site, data::Command::AddSite { site: site.clone(), generation }, wait)
            .await?;
        failpoint(Failpoint::SiteDataAdded);
        self.change(cluster::Command::SiteAdded { site, generation }, wait).await?;
        Ok(created)
    }

    /// When this returns, nothing is left of the site as it was; somebody may have added it again.
    pub async fn remove_site(&self, site: SiteId, wait: Duration) -> Result<()> {
        let deadline = self.handle.clock.now() + wait;
        self.change(cluster::Command::RemoveSite(site.clone()), wait).await?;
        failpoint(Failpoint::SiteRemoving);
        let left = deadline.saturating_sub(self.handle.clock.now());
        // The meta leader may have been quicker.
        let Some(Site { state: SiteState::Removing, generation }) = self.site(&site, left).await?
        else {
            return Ok(());
        };
        loop {
            let left = deadline.saturating_sub(self.handle.clock.now());
            let drop = data::Command::DropSite {
                site: site.clone(),
                generation,
                rows_max: limits::SITE_DROP_ROWS,
            };
            if !matches!(
                self.site_data(&site, drop, left).await?,
                Reply::SiteDropped { more: true }
            ) {
                break;
            }
        }
        failpoint(Failpoint::SiteDropped);
        let left = deadline.saturating_sub(self.handle.clock.now());
        self.change(cluster::Command::SiteRemoved { site, generation }, left).await.map(|_| ())
    }

    async fn site(&self, site: &SiteId, wait: Duration) -> Result<Option<Site>> {
        let site = site.clone();
        self.look(wait, move |state| state.sites().site(&site)).await
    }

    async fn site_data(
        &self,
        site: &SiteId,
        command: data::Command,
        wait: Duration,
    ) -> Result<Reply> {
        self.handle
            .request(self.topology.group_of_site(site), Body::Propose(Command::from(command)), wait)
            .await
    }

    pub async fn sites(
        &self,
        after: Option<SiteId>,
        count: usize,
        local: bool,
        wait: Duration,
    ) -> Result<(Vec<SiteView>, Option<LocalAnswer>)> {
        let topology = self.topology;
        self.view(local, wait, move |state| {
            let from = after.map_or(Bound::Unbounded, Bound::Excluded);
            let there = state
                .sites()
                .sites()
                .range((from, Bound::Unbounded))
                .filter(|(_, s)| s.state == SiteState::Present);
            let view = |id: &SiteId| SiteView {
                id: id.clone(),
                partition: topology.partition_of(id),
                relays: state.sites().relay_count(id) as u32,
            };
            there.take(count).map(|(id, _)| view(id)).collect()
        })
        .await
    }

    pub fn site_view(&self, id: SiteId) -> SiteView {
        SiteView { partition: self.topology.partition_of(&id), relays: 0, id }
    }

    // ---- Relays. ----

    pub async fn add_relay(&self, relay: Relay, wait: Duration) -> Result<(Relay, bool)> {
        let created = self.change(cluster::Command::AddRelay(relay.clone()), wait).await?;
        Ok((self.relay(relay.id, wait).await?, created))
    }

    pub async fn remove_relay(&self, relay: RelayId, wait: Duration) -> Result<()> {
        self.change(cluster::Command::RemoveRelay(relay), wait).await.map(|_| ())
    }

    pub async fn move_relay(&self, relay: Relay, wait: Duration) -> Result<Relay> {
        self.change(cluster::Command::MoveRelay(relay.clone()), wait).await?;
        self.relay(relay.id, wait).await
    }

    async fn relay(&self, id: RelayId, wait: Duration) -> Result<Relay> {
        let name = id.clone();
        let found = self.look(wait, move |s| s.sites().relay(&id)).await?;
        found.ok_or_else(|| {
            Error::not_found(format!("relay {:?} was removed meanwhile", name.as_str()))
        })
    }

    pub async fn relays(
        &self,
        after: Option<RelayId>,
        of: Option<SiteId>,
        count: usize,
        local: bool,
        wait: Duration,
    ) -> Result<(Vec<Relay>, Option<LocalAnswer>)> {
        self.view(local, wait, move |state| {
            let from = after.map_or(Bound::Unbounded, Bound::Excluded);
            let all = state.sites().relays().range((from, Bound::Unbounded));
            let listed = all.filter(|(_, site)| of.is_none() || **site == of);
            listed
                .take(count)
                .map(|(id, site)| Relay { id: id.clone(), site: site.clone() })
                .collect()
        })
        .await
    }

    // ---- The registry of snapshots. ----

    /// Partitions done, and partitions there are, of every node that is writing its part now.
    pub async fn progress(&self, id: SnapshotId) -> BTreeMap<NodeId, (u32, u32)> {
        let Ok(nodes) =
            self.handle.look(false, limits::NODE_STATUS, |s| s.meta().nodes().clone()).await
        else {
            return BTreeMap::new();
        };
        let said = self.ask_nodes(&nodes).await;
        let of = |s: &GetNodeStatusResponse| {
            s.parts
                .iter()
                .find(|p| p.uuid[..] == id.0.as_bytes()[..])
                .map(|p| (p.partitions_done, p.partitions))
        };
        said.into_iter().filter_map(|(n, s)| Some((n, of(&s.ok()?)?))).collect()
    }

    /// The uploads of a snapshot that nodes say they drive, or have driven.
    pub async fn uploads(&self, id: SnapshotId) -> Vec<Upload> {
        let Ok(nodes) =
            self.handle.look(false, limits::NODE_STATUS, |s| s.meta().nodes().clone()).await
        else {
            return Vec::new();
        };
        let said = self.ask_nodes(&nodes).await;
        let of = |(node, said): (NodeId, Result<GetNodeStatusResponse>)| {
            let uploads = said.ok()?.uploads;
            let told = uploads.into_iter().find(|u| u.uuid[..] == id.0.as_bytes()[..])?;
            Some(Upload {
                status: told.status as i32,
                reason: told.reason,
                bytes_done: told.bytes_done,
                bytes: told.bytes,
                node_id: node.0,
                ..Upload::default()
            })
        };
        said.into_iter().filter_map(of).collect()
    }

    /// Its name, and a word of warning where there will soon be no room for another one.
    pub async fn create_snapshot(
        &self,
        id: Option<SnapshotId>,
        created_ms: u64,
        wait: Duration,
    ) -> Result<(SnapshotId, Option<String>)> {
        let id = id.unwrap_or_else(|| SnapshotId(Random::from_entropy().uuid()));
        let warning = self.look(wait, move |s| s.room_for_snapshot(id)).await??;
        self.change(cluster::Command::BeginSnapshot { id, created_ms }, wait).await?;
        Ok((id, warning))
    }

    /// Says where this node is, until the cluster knows: its address, version and lineage may have
    /// changed with the restart.
    pub async fn announce_until_known(&self, me: Node) {
        let mut pause = limits::PEER_RETRY_MIN;
        let mut identity = self.peers.me().identity.clone();
        loop {
            let lineage = identity.borrow_and_update().lineage;
            let node = Node { lineage, ..me.clone() };
            if lineage != Lineage::PENDING {
                let id = node.id;
                let wait = limits::REQUEST_DEADLINE;
                let known = self.look(wait, move |s| (s.node(id).cloned(), s.is_idle(id))).await;
                match known {
                    Ok((Some(known), idle)) if node.is_as_known(&known) => {
                        if idle && known.capacity_percent > 0 && !known.leaving {
                            self.take_share(node).await;
                        }
                        return;
                    }
                    Ok(_) => {
                        failpoint(Failpoint::Announcing);
                        let announce = cluster::Command::AnnounceNode(node.clone());
                        match self.change(announce, wait).await {
                            Ok(_) => {
                                failpoint(Failpoint::Announced);
                                continue;
                            }
                            Err(e) => {
                                tracing::debug!(
                                    error = %e,
                                    "this node could not announce itself yet",
                                )
                            }
                        }
                    }
                    Err(e) => {
                        tracing::debug!(error = %e, "this node could not announce itself yet")
                    }
                }
            }
            // A lineage that is new is announced at once: groups take part only when it is known.
            match tokio::time::timeout(pause, identity.changed()).await {
                Ok(Ok(())) => {}
                // The engine has ended.
                Ok(Err(_)) => return,
                Err(_) => pause = (pause * 2).min(limits::PEER_RETRY_MAX),
            }
        }
    }
}

impl Cluster {
    /// This node's places may have gone to others while it was away.
    async fn take_share(&self, node: Node) {
        match self.join(node, None, limits::REQUEST_DEADLINE).await {
            Ok(false) => {}
            Ok(true) => tracing::info!("this node held nothing and gets its share of the groups"),
            Err(e) => tracing::warn!(
                error = %e,
                "this node holds nothing, and could not ask for its share of the groups; ddbctl \
                 cluster rebalance gives it one"
            ),
        }
    }
}

/// Hears from a node that asks to join, at the address where it says that it is reached.
pub async fn call_back(dialler: &Dialler, node: &Node, incarnation: u64) -> Result<()> {
    let Node { id, address, .. } = node;
    let there = dialler.introduce(address).await.map_err(|e| {
        Error::unavailable(format!(
            "node {id} says that it is reached at {address}, where it does not answer: {}. See its \
             --advertise; retry",
            e.message
        ))
    })?;
    if NodeId(there.node_id) != *id {
        return Err(Error::conflict(format!(
            "node {id} says that it is reached at {address}, where node {} answers: --advertise is \
             wrong",
            there.node_id
        )));
    }
    if there.incarnation != incarnation {
        return Err(Error::conflict(format!(
            "another process than the one that asks is node {id} at {address}: one of them was \
             started with a copied store"
        )));
    }
    Ok(())
}

/// What stands for this node where the registry does not know it yet.
fn own_entry(id: NodeId, address: &str, lineage: Lineage) -> Node {
    Node {
        id,
        address: address.to_owned(),
        capacity_percent: 100,
        version: env!("CARGO_PKG_VERSION").into(),
        snapshot_store: false,
        lineage,
        level: Level::own(),
        leaving: false,
        draining: false,
        certificate_name: None,
    }
}
