//! What nodes say of themselves at this moment.

use std::collections::{BTreeMap, BTreeSet};

use super::{Cluster, waits::group_wait};
use crate::{
    base::{
        crew::{self, Role, Several},
        error::{Context as _, Error, Result},
        ids::{GroupId, NodeId},
        limits,
        space::Space,
    },
    cluster::{Node, State, reconfigure::Membership},
    engine::EngineView,
    net::Dialler,
    proto::internal::v1::{GetNodeStatusResponse, LeaderlessGroup, LedGroup, Room},
    store::Store,
};

impl Cluster {
    /// What every node says of itself within `limits::NODE_STATUS`, or why it says nothing.
    pub(super) async fn ask_nodes(
        &self,
        nodes: &BTreeMap<NodeId, Node>,
    ) -> BTreeMap<NodeId, Result<GetNodeStatusResponse>> {
        let me = self.peers.me().identity.borrow().node;
        let ask = |(id, node): (NodeId, Node)| {
            let (this, own) = (self.clone(), id == me);
            let address = self.peers.address(id).unwrap_or_else(|| node.address.clone());
            let node = Node { address: address.clone(), ..node };
            async move {
                let answer = async {
                    if own {
                        this.own_status().await
                    } else {
                        ask_node(&this.me().dialler, &node).await
                    }
                };
                let answer = tokio::time::timeout(limits::NODE_STATUS, answer).await;
                (
                    id,
                    answer.unwrap_or_else(|_| {
                        Err(Error::unavailable(format!(
                            "{address} does not answer within {:?}",
                            limits::NODE_STATUS
                        )))
                    }),
                )
            }
        };
        let unasked = || Err(Error::unavailable("it could not be asked; the log says why"));
        let mut said: BTreeMap<_, _> = nodes.keys().map(|id| (*id, unasked())).collect();
        let mut asked = Several::begin(Role::Ask, nodes.clone().into_iter().map(ask));
        while let Some((id, answer)) = asked.next().await {
            said.insert(id, answer);
        }
        said
    }

    /// Looks at the meta state as this node has applied it, where it leads the meta group.
    pub async fn look_as_leader<T: Send + 'static>(
        &self,
        see: impl FnOnce(&State) -> T + Send + 'static,
    ) -> Result<Option<T>> {
        let look = move |sight: EngineView<'_>| {
            let leads = sight.led().any(|(group, _)| group.is_meta());
            leads.then(|| see(sight.meta()))
        };
        self.handle.look(false, limits::NODE_STATUS, look).await
    }

    /// A member, with the address at which it was heard last.
    pub fn where_it_is(&self, listed: Node) -> Node {
        let address = self.peers.address(listed.id).unwrap_or_else(|| listed.address.clone());
        Node { address, ..listed }
    }

    /// Where the other nodes that answer have their repository.
    pub async fn repositories(&self) -> Result<BTreeMap<NodeId, String>> {
        Ok(self
            .with_repositories()
            .await?
            .into_iter()
            .map(|(id, said)| (id, said.repository))
            .collect())
    }

    /// What the other nodes say that answer and have a repository.
    pub async fn with_repositories(&self) -> Result<BTreeMap<NodeId, GetNodeStatusResponse>> {
        let me = self.peers.me().identity.borrow().node;
        let look = self.handle.look(false, limits::NODE_STATUS, |s| s.meta().nodes().clone());
        let mut nodes = look.await?;
        nodes.remove(&me);
        let said = self.ask_nodes(&nodes).await;
        let has_one = |(node, said): (NodeId, Result<GetNodeStatusResponse>)| {
            Some((node, said.ok()?)).filter(|(_, said)| !said.repository.is_empty())
        };
        Ok(said.into_iter().filter_map(has_one).collect())
    }

    /// What says that this node, where it is alone in its cluster, has founded a second one.
    pub(super) fn second(&self, alone: bool) -> Option<String> {
        self.peers.sought(self.handle.clock.now()).filter(|_| alone)
    }

    /// What this node knows of itself.
    pub async fn own_status(&self) -> Result<GetNodeStatusResponse> {
        let (hello, heard) = (self.peers.me().hello(NodeId(0)), self.peers.speaking());
        let seen = self.handle.look(false, limits::NODE_STATUS, |sight| {
            let ids = |set: &BTreeSet<NodeId>| set.iter().map(|n| n.0).collect();
            let led = sight.led().map(|(group, members): (GroupId, &Membership)| LedGroup {
                group: group.0,
                voters: ids(&members.voters),
                learners: ids(&members.learners),
                wait: sight.wait_of(group).map(group_wait),
            });
            let leaderless = sight.leaderless().map(|(group, voters, applied_index)| {
                LeaderlessGroup { group: group.0, voters: ids(voters), applied_index }
            });
            let replicas = sight.replicas() as u32;
            let alone = sight.meta().nodes().len() == 1;
            (led.collect(), leaderless.collect(), sight.unready(), replicas, alone)
        });
        let (led, leaderless, unready, replicas, alone) = seen.await?;
        let unready = unready.or_else(|| self.second(alone));
        let (incoming, incoming_bytes_per_s) = self.arrivals.tell(self.handle.clock.now());
        Ok(GetNodeStatusResponse {
            node_id: hello.node_id,
            ready: unready.is_none(),
            version: env!("CARGO_PKG_VERSION").into(),
            led,
            leaderless,
            parts: Vec::new(),
            uploads: Vec::new(),
            repository: String::new(),
            verification: None,
            drill: None,
            heard,
            unready: unready.map_or(String::new(), |why| self.missing_too(why)),
            hello: Some(hello),
            replicas,
            room: self.room().await,
            incoming,
            incoming_bytes_per_s,
        })
    }

    /// What the store takes of its disk, and what it may still take; none where that cannot be
    /// said.
    async fn room(&self) -> Option<Room> {
        let store = self.store.clone();
        let look = move || {
            let space = Space::of(&store)?;
            let held = std::fs::metadata(Store::path_in(&store)).at(store.display())?.len();
            Ok(Room { held_bytes: held, spare_bytes: space.free.saturating_sub(space.floor()) })
        };
        crew::blocking(Role::DiskLook, look)
            .await
            .inspect_err(|e| tracing::debug!(error = %e, "the room of the store is not known"))
            .ok()
    }
}

async fn ask_node(dialler: &Dialler, node: &Node) -> Result<GetNodeStatusResponse> {
    let (status, address) = (dialler.status(node).await?, &node.address);
    if NodeId(status.node_id) != node.id {
        return Err(Error::conflict(format!("{address}: node {} is there now", status.node_id)));
    }
    Ok(status)
}
