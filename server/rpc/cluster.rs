//! `devicedb.v1.ClusterService`.

use tonic::{Request, Response, Status};

use super::{Calls, cut_page, page_size, parse_number_token};
use crate::{
    base::{
        error::{Error, Result},
        ids::{NodeId, OperationId, RelayId, SiteId},
        limits,
    },
    cluster::{Etag, sites::Relay},
    proto::v1::{self, cluster_service_server::ClusterService},
    service::{
        admin::{Cluster, MoveAsked, NodeView, RemovalAsked, SiteView, Standing},
        removal::{Objection, Plan, Weight},
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
        leaving: view.node.leaving,
        draining: view.node.draining,
        certificate_name: view.node.certificate_name.unwrap_or_default(),
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
                    joins_need_token: o.settings.joins_need_token,
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

    async fn get_upgrade(
        &self,
        request: Request<v1::GetUpgradeRequest>,
    ) -> Result<Response<v1::GetUpgradeResponse>, Status> {
        self.calls
            .call("GetUpgrade", request, |_, wait| async move {
                let (level, nodes) = self.cluster.versions(wait).await?;
                let levels = || nodes.iter().map(|node| node.level.0);
                Ok(v1::GetUpgradeResponse {
                    level: level.0,
                    known_to_all: levels().min().unwrap_or(level.0),
                    newest: levels().max().unwrap_or(level.0),
                    nodes: nodes
                        .iter()
                        .map(|node| v1::NodeVersion {
                            node_id: node.id.0,
                            address: node.address.clone(),
                            version: node.version.clone(),
                            level: node.level.0,
                        })
                        .collect(),
                })
            })
            .await
    }

    async fn finalize_upgrade(
        &self,
        request: Request<v1::FinalizeUpgradeRequest>,
    ) -> Result<Response<v1::FinalizeUpgradeResponse>, Status> {
        self.calls
            .call("FinalizeUpgrade", request, |_, wait| async move {
                let (level, raised) = self.cluster.finalize_upgrade(wait).await?;
                Ok(v1::FinalizeUpgradeResponse { level: level.0, raised })
            })
            .await
    }

    async fn remove_node(
        &self,
        request: Request<v1::RemoveNodeRequest>,
    ) -> Result<Response<v1::RemoveNodeResponse>, Status> {
        self.calls
            .call("RemoveNode", request, |request, wait| async move {
                let v1::RemoveNodeRequest { node_id, force, validate_only, etag, replacement_id } =
                    request;
                let by = (replacement_id > 0).then_some(NodeId(replacement_id));
                let asked = RemovalAsked { force, validate_only, etag: parse_etag(&etag)?, by };
                let (plan, removed, operation) =
                    self.cluster.remove_node(NodeId(node_id), asked, wait).await?;
                let operation_id = operation_id(operation);
                Ok(v1::RemoveNodeResponse { plan: Some(removal_plan(plan)), removed, operation_id })
            })
            .await
    }

    async fn decommission_node(
        &self,
        request: Request<v1::DecommissionNodeRequest>,
    ) -> Result<Response<v1::DecommissionNodeResponse>, Status> {
        self.calls
            .call("DecommissionNode", request, |request, wait| async move {
                let v1::DecommissionNodeRequest {
                    node_id,
                    force,
                    validate_only,
                    etag,
                    replacement_id,
                } = request;
                let by = (replacement_id > 0).then_some(NodeId(replacement_id));
                let asked = RemovalAsked { force, validate_only, etag: parse_etag(&etag)?, by };
                let seen = self.cluster.decommission_node(NodeId(node_id), asked, wait).await?;
                let state = match seen.standing {
                    Standing::Stays => v1::DecommissionState::Stays,
                    Standing::Leaving => v1::DecommissionState::Leaving,
                    Standing::Gone => v1::DecommissionState::Gone,
                };
                Ok(v1::DecommissionNodeResponse {
                    plan: Some(removal_plan(seen.plan)),
                    state: state as i32,
                    replicas_left: seen.replicas_left,
                    waits: seen.waits,
                    operation_id: operation_id(seen.operation),
                })
            })
            .await
    }

    async fn cancel_decommission(
        &self,
        request: Request<v1::CancelDecommissionRequest>,
    ) -> Result<Response<v1::CancelDecommissionResponse>, Status> {
        self.calls
            .call("CancelDecommission", request, |request, wait| async move {
                let node = NodeId(request.node_id);
                let (cancelled, operation) = self.cluster.cancel_decommission(node, wait).await?;
                let operation_id = operation_id(operation);
                Ok(v1::CancelDecommissionResponse { cancelled, operation_id })
            })
            .await
    }

    async fn set_capacity(
        &self,
        request: Request<v1::SetCapacityRequest>,
    ) -> Result<Response<v1::SetCapacityResponse>, Status> {
        self.calls
            .call("SetCapacity", request, |request, wait| async move {
                let v1::SetCapacityRequest { node_id, capacity_percent, validate_only, force } =
                    request;
                let asked = MoveAsked { force, validate_only, etag: None };
                let share =
                    self.cluster.set_capacity(NodeId(node_id), capacity_percent, asked, wait);
                let share = share.await?;
                Ok(v1::SetCapacityResponse {
                    replicas_moved: share.replicas_moved as u32,
                    changed: share.changed,
                    operation_id: operation_id(share.operation),
                    objections: share.objections.into_iter().map(objection).collect(),
                })
            })
            .await
    }

    async fn set_certificate_name(
        &self,
        request: Request<v1::SetCertificateNameRequest>,
    ) -> Result<Response<v1::SetCertificateNameResponse>, Status> {
        self.calls
            .call("SetCertificateName", request, |request, wait| async move {
                let v1::SetCertificateNameRequest { node_id, certificate_name } = request;
                let node = NodeId(node_id);
                let changed =
                    self.cluster.set_certificate_name(node, certificate_name, wait).await?;
                Ok(v1::SetCertificateNameResponse { changed })
            })
            .await
    }

    async fn rebalance(
        &self,
        request: Request<v1::RebalanceRequest>,
    ) -> Result<Response<v1::RebalanceResponse>, Status> {
        self.calls
            .call("Rebalance", request, |request, wait| async move {
                let v1::RebalanceRequest { validate_only, etag, force } = request;
                let asked = MoveAsked { force, validate_only, etag: parse_etag(&etag)? };
                let done = self.cluster.rebalance(asked, wait).await?;
                Ok(v1::RebalanceResponse {
                    replicas_moved: done.replicas_moved as u32,
                    groups_changed: done.groups_changed as u32,
                    changed: done.changed,
                    away: done.away.iter().map(|node| node.0).collect(),
                    etag: etag_text(done.etag),
                    operation_id: operation_id(done.operation),
                    objections: done.objections.into_iter().map(objection).collect(),
                })
            })
            .await
    }

    async fn drain_node(
        &self,
        request: Request<v1::DrainNodeRequest>,
    ) -> Result<Response<v1::DrainNodeResponse>, Status> {
        self.calls
            .call("DrainNode", request, |request, wait| async move {
                let (changed, operation) =
                    self.cluster.drain(NodeId(request.node_id), wait).await?;
                let operation_id = operation_id(operation);
                Ok(v1::DrainNodeResponse { changed, operation_id })
            })
            .await
    }

    async fn undrain_node(
        &self,
        request: Request<v1::UndrainNodeRequest>,
    ) -> Result<Response<v1::UndrainNodeResponse>, Status> {
        self.calls
            .call("UndrainNode", request, |request, wait| async move {
                let changed = self.cluster.undrain(NodeId(request.node_id), wait).await?;
                Ok(v1::UndrainNodeResponse { changed })
            })
            .await
    }
}

fn operation_id(operation: Option<OperationId>) -> String {
    operation.map_or(String::new(), |id| id.to_string())
}

fn parse_etag(etag: &str) -> Result<Option<Etag>> {
    if etag.is_empty() {
        return Ok(None);
    }
    let number = u64::from_str_radix(etag, 16).map_err(|e| {
        Error::invalid(format!("{etag:?} is no etag that a plan has named: {e}")).with_source(e)
    })?;
    Ok(Some(Etag(number)))
}

fn etag_text(etag: Etag) -> String {
    format!("{:016x}", etag.0)
}

fn objection(objection: Objection) -> v1::Objection {
    v1::Objection {
        refuses: objection.weight != Weight::Warns,
        forcible: objection.weight == Weight::Refuses,
        code: objection.code.to_owned(),
        text: objection.text,
        groups: objection.groups.iter().map(|group| group.0).collect(),
    }
}

fn removal_plan(plan: Plan) -> v1::RemovalPlan {
    v1::RemovalPlan {
        address: plan.address,
        replicas_moved: plan.replicas_moved as u32,
        groups_short: plan.groups_short as u32,
        objections: plan.objections.into_iter().map(objection).collect(),
        etag: etag_text(plan.etag),
    }
}
