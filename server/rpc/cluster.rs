//! `devicedb.v1.ClusterService`.

use tonic::{Request, Response, Status};

use super::{Calls, cut_page, page_size, parse_number_token};
use crate::{
    base::{
        error::Result,
        ids::{NodeId, RelayId, SiteId},
        limits,
    },
    cluster::sites::Relay,
    proto::v1::{self, cluster_service_server::ClusterService},
    service::{
        admin::{Cluster, NodeView, SiteView},
        voters::VoterSet,
    },
    wire::public,
};

pub struct ClusterApi {
    pub cluster: Cluster,
    pub me: NodeId,
    pub calls: Calls,
}

fn node(view: NodeView) -> v1::Node {
    v1::Node {
        id: view.node.id.0,
        address: view.node.address,
        capacity_percent: view.node.capacity_percent,
        reachable: view.reachable,
        ready: view.ready,
        version: view.node.version,
        snapshot_store: view.node.snapshot_store,
        groups_wanted: view.groups_wanted,
        groups_led: view.groups_led,
        reason: view.reason,
    }
}

fn site(view: SiteView) -> v1::Site {
    v1::Site { id: view.id.as_str().to_owned(), partition: view.partition.0, relays: view.relays }
}

fn relay(relay: Relay) -> v1::Relay {
    v1::Relay {
        id: relay.id.as_str().to_owned(),
        site: relay.site.map_or(String::new(), |s| s.as_str().to_owned()),
    }
}

fn voter_set(set: VoterSet) -> v1::VoterSet {
    let VoterSet { voters, groups, groups_led, meta } = set;
    v1::VoterSet { voters: voters.into_iter().map(|n| n.0).collect(), groups, groups_led, meta }
}

fn parse_relay(id: String, site: String) -> Result<Relay> {
    Ok(Relay { id: RelayId::new(id)?, site: optional_site(site)? })
}

fn optional_site(site: String) -> Result<Option<SiteId>> {
    if site.is_empty() { Ok(None) } else { SiteId::new(site).map(Some) }
}

#[tonic::async_trait]
impl ClusterService for ClusterApi {
    async fn get_identity(
        &self,
        request: Request<v1::GetIdentityRequest>,
    ) -> Result<Response<v1::GetIdentityResponse>, Status> {
        self.calls
            .call("GetIdentity", request, |_, _| async move {
                let me = self.cluster.me();
                Ok(public::identity(
                    Some(&me.identity.borrow()),
                    &me.address,
                    v1::NodeState::Serving,
                    "",
                ))
            })
            .await
    }

    async fn init_cluster(
        &self,
        request: Request<v1::InitClusterRequest>,
    ) -> Result<Response<v1::InitClusterResponse>, Status> {
        self.calls
            .call("InitCluster", request, |_, _| async move {
                Ok(v1::InitClusterResponse {
                    cluster_id: self.cluster.me().identity.borrow().cluster.to_string(),
                    created: false,
                })
            })
            .await
    }

    async fn get_overview(
        &self,
        request: Request<v1::GetOverviewRequest>,
    ) -> Result<Response<v1::GetOverviewResponse>, Status> {
        self.calls
            .call("GetOverview", request, |request, wait| async move {
                let o = self.cluster.overview(request.local, wait).await?;
                Ok(v1::GetOverviewResponse {
                    cluster_id: o.settings.cluster.to_string(),
                    lineage: o.settings.lineage.to_string(),
                    replication_factor: o.settings.replication_factor,
                    partitions: o.settings.topology.partitions(),
                    groups: o.settings.topology.groups(),
                    nodes: o.nodes.into_iter().map(node).collect(),
                    groups_without_leader: o.groups_without_leader,
                    groups_under_replicated: o.groups_under_replicated,
                    meta_leader: o.meta_leader.map_or(0, |n| n.0),
                    answered_by: self.me.0,
                    sites: o.sites,
                    relays: o.relays,
                    meta_under_replicated: o.meta_under_replicated,
                    voter_sets: o.voter_sets.into_iter().map(voter_set).collect(),
                    local: o.alone,
                })
            })
            .await
    }

    async fn list_nodes(
        &self,
        request: Request<v1::ListNodesRequest>,
    ) -> Result<Response<v1::ListNodesResponse>, Status> {
        self.calls
            .call("ListNodes", request, |request, wait| async move {
                let after = parse_number_token(&request.page_token)?;
                let size = page_size(request.page_size, limits::PAGE_SIZE);
                let overview = self.cluster.overview(request.local, wait).await?;
                let nodes =
                    overview.nodes.into_iter().filter(|n| after.is_none_or(|a| n.node.id.0 > a));
                let (nodes, next_page_token) =
                    cut_page(nodes.map(node).collect(), size, |n| n.id.to_string());
                let settings = overview.settings;
                Ok(v1::ListNodesResponse {
                    nodes,
                    next_page_token,
                    cluster_id: settings.cluster.to_string(),
                    lineage: settings.lineage.to_string(),
                    local: overview.alone,
                })
            })
            .await
    }

    async fn list_partitions(
        &self,
        request: Request<v1::ListPartitionsRequest>,
    ) -> Result<Response<v1::ListPartitionsResponse>, Status> {
        self.calls
            .call("ListPartitions", request, |request, wait| async move {
                let after = parse_number_token(&request.page_token)?
                    .map(|p| p.min(u64::from(u32::MAX - 1)) as u32);
                let size = page_size(request.page_size, limits::PAGE_SIZE);
                let (views, local) =
                    self.cluster.partitions(after, size + 1, request.local, wait).await?;
                let partition = |p: crate::service::admin::PartitionView| v1::Partition {
                    id: p.id.0,
                    group: p.group.0,
                    replicas: p.replicas.iter().map(|n| n.0).collect(),
                    leader: p.leader.map_or(0, |n| n.0),
                };
                let (partitions, next_page_token) =
                    cut_page(views.into_iter().map(partition).collect(), size, |p| {
                        p.id.to_string()
                    });
                Ok(v1::ListPartitionsResponse { partitions, next_page_token, local })
            })
            .await
    }

    async fn add_site(
        &self,
        request: Request<v1::AddSiteRequest>,
    ) -> Result<Response<v1::AddSiteResponse>, Status> {
        self.calls
            .call("AddSite", request, |request, wait| async move {
                let id = SiteId::new(request.site)?;
                let created = self.cluster.add_site(id.clone(), wait).await?;
                Ok(v1::AddSiteResponse { site: Some(site(self.cluster.site_view(id))), created })
            })
            .await
    }

    async fn remove_site(
        &self,
        request: Request<v1::RemoveSiteRequest>,
    ) -> Result<Response<v1::RemoveSiteResponse>, Status> {
        self.calls
            .call("RemoveSite", request, |request, wait| async move {
                self.cluster.remove_site(SiteId::new(request.site)?, wait).await?;
                Ok(v1::RemoveSiteResponse {})
            })
            .await
    }

    async fn list_sites(
        &self,
        request: Request<v1::ListSitesRequest>,
    ) -> Result<Response<v1::ListSitesResponse>, Status> {
        self.calls
            .call("ListSites", request, |request, wait| async move {
                let size = page_size(request.page_size, limits::PAGE_SIZE);
                let after = optional_site(request.page_token)?;
                let (views, local) =
                    self.cluster.sites(after, size + 1, request.local, wait).await?;
                let (sites, next_page_token) =
                    cut_page(views.into_iter().map(site).collect(), size, |s| s.id.clone());
                Ok(v1::ListSitesResponse { sites, next_page_token, local })
            })
            .await
    }

    async fn add_relay(
        &self,
        request: Request<v1::AddRelayRequest>,
    ) -> Result<Response<v1::AddRelayResponse>, Status> {
        self.calls
            .call("AddRelay", request, |request, wait| async move {
                let (added, created) =
                    self.cluster.add_relay(parse_relay(request.relay, request.site)?, wait).await?;
                Ok(v1::AddRelayResponse { relay: Some(relay(added)), created })
            })
            .await
    }

    async fn remove_relay(
        &self,
        request: Request<v1::RemoveRelayRequest>,
    ) -> Result<Response<v1::RemoveRelayResponse>, Status> {
        self.calls
            .call("RemoveRelay", request, |request, wait| async move {
                self.cluster.remove_relay(RelayId::new(request.relay)?, wait).await?;
                Ok(v1::RemoveRelayResponse {})
            })
            .await
    }

    async fn move_relay(
        &self,
        request: Request<v1::MoveRelayRequest>,
    ) -> Result<Response<v1::MoveRelayResponse>, Status> {
        self.calls
            .call("MoveRelay", request, |request, wait| async move {
                let moved = self
                    .cluster
                    .move_relay(parse_relay(request.relay, request.site)?, wait)
                    .await?;
                Ok(v1::MoveRelayResponse { relay: Some(relay(moved)) })
            })
            .await
    }

    async fn list_relays(
        &self,
        request: Request<v1::ListRelaysRequest>,
    ) -> Result<Response<v1::ListRelaysResponse>, Status> {
        self.calls
            .call("ListRelays", request, |request, wait| async move {
                let size = page_size(request.page_size, limits::PAGE_SIZE);
                let after = if request.page_token.is_empty() {
                    None
                } else {
                    Some(RelayId::new(request.page_token)?)
                };
                let of = optional_site(request.site)?;
                let (listed, local) =
                    self.cluster.relays(after, of, size + 1, request.local, wait).await?;
                let (relays, next_page_token) =
                    cut_page(listed.into_iter().map(relay).collect(), size, |r| r.id.clone());
                Ok(v1::ListRelaysResponse { relays, next_page_token, local })
            })
            .await
    }
}
