//! What a request is about, as the audit log names it. Keys and values are never named.

use crate::{
    base::ids::SnapshotId,
    proto::{
        internal::v1 as internal,
        v1::{
            AddGrantRequest, AddRelayRequest, AddSiteRequest, BatchRequest,
            CancelDecommissionRequest, CancelOperationRequest, CreateSnapshotRequest,
            CreateTokenRequest, DecommissionNodeRequest, DeleteRequest, DeleteScheduleRequest,
            DeleteSnapshotRequest, DownloadSnapshotRequest, DrainNodeRequest,
            FinalizeUpgradeRequest, GetIdentityRequest, GetOperationRequest, GetOverviewRequest,
            GetRequest, GetScheduleRequest, GetSnapshotRequest, GetUpgradeRequest, Grant,
            InitClusterRequest, ListGrantsRequest, ListNodesRequest, ListOperationsRequest,
            ListOrphansRequest, ListPartitionsRequest, ListRelaysRequest, ListSchedulesRequest,
            ListSitesRequest, ListSnapshotsRequest, ListTokensRequest, MoveRelayRequest,
            PauseScheduleRequest, PutRequest, PutScheduleRequest, RebalanceRequest,
            RemoveGrantRequest, RemoveNodeRequest, RemoveRelayRequest, RemoveSiteRequest,
            ResumeScheduleRequest, ResumeTokenRequest, RevokeTokenRequest, Role,
            RunScheduleRequest, ScanRequest, SetCapacityRequest, SetCertificateNameRequest,
            SetJoinsRequest, UndrainNodeRequest, UploadSnapshotRequest, WaitOperationRequest,
            WhoAmIRequest,
        },
    },
};

pub trait Subject {
    /// Empty for the cluster as a whole.
    fn subject(&self) -> String {
        String::new()
    }

    /// In hexadecimal; empty where there is none.
    fn request_id(&self) -> String {
        String::new()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

macro_rules! silent {
    ($($request:ty),* $(,)?) => { $(impl Subject for $request {})* };
}

macro_rules! of_sites {
    ($($request:ty),* $(,)?) => { $(impl Subject for $request {
        fn subject(&self) -> String {
            format!("site {}", self.site)
        }
        fn request_id(&self) -> String {
            hex(&self.request_id)
        }
    })* };
}

macro_rules! subjects {
    ($($request:ty: $this:ident => $words:expr),* $(,)?) => { $(impl Subject for $request {
        fn subject(&self) -> String {
            let $this = self;
            $words
        }
    })* };
}

silent! {
    GetIdentityRequest, GetOverviewRequest, GetUpgradeRequest, ListGrantsRequest,
    ListNodesRequest, ListOperationsRequest, ListOrphansRequest, ListPartitionsRequest,
    ListRelaysRequest, ListSitesRequest, ListSnapshotsRequest, ListTokensRequest, WhoAmIRequest,
    GetOperationRequest, WaitOperationRequest, GetSnapshotRequest, InitClusterRequest,
    GetScheduleRequest, ListSchedulesRequest,
    FinalizeUpgradeRequest, internal::GetNodeStatusRequest, internal::IntroduceRequest,
    internal::PromiseFoundingRequest, internal::FoundClusterRequest, internal::ListPartsRequest,
    internal::RemovePartRequest, internal::DescribePartRequest, internal::UploadGroupsRequest,
}

of_sites! { PutRequest, DeleteRequest, BatchRequest }

subjects! {
    internal::JoinRequest: r => {
        let by = r.proof.as_ref().map_or(String::new(), |proof| {
            format!(", by join token {:08x}", proof.token_id)
        });
        r.node.as_ref().map_or(String::new(), |n| format!("node {} at {}{by}", n.id, n.address))
    },
    GetRequest: r => format!("site {}", r.site),
    ScanRequest: r => format!("site {}", r.site),
    AddSiteRequest: r => format!("site {}", r.site),
    RemoveSiteRequest: r => format!("site {}", r.site),
    AddRelayRequest: r => relay(&r.relay, &r.site),
    MoveRelayRequest: r => relay(&r.relay, &r.site),
    RemoveRelayRequest: r => format!("relay {}", r.relay),
    RemoveNodeRequest: r => node(r.node_id, r.validate_only),
    DecommissionNodeRequest: r => node(r.node_id, r.validate_only),
    CancelDecommissionRequest: r => node(r.node_id, false),
    SetCapacityRequest: r => {
        format!("{} to {} %", node(r.node_id, r.validate_only), r.capacity_percent)
    },
    SetCertificateNameRequest: r => {
        format!("{}, {}", node(r.node_id, false), r.certificate_name)
    },
    DrainNodeRequest: r => node(r.node_id, false),
    UndrainNodeRequest: r => node(r.node_id, false),
    RebalanceRequest: r => if r.validate_only { "only looked at".into() } else { String::new() },
    CancelOperationRequest: r => format!("operation {}", r.id),
    DeleteSnapshotRequest: r => format!("snapshot {}", r.uuid),
    UploadSnapshotRequest: r => format!("snapshot {}", r.uuid),
    internal::StoreSnapshotRequest: r => {
        SnapshotId::from_slice(&r.uuid).map_or(String::new(), |id| format!("snapshot {id}"))
    },
    internal::VerifyRepositoryRequest: r => {
        SnapshotId::from_slice(&r.uuid).map_or(String::new(), |id| format!("run {id}"))
    },
    DownloadSnapshotRequest: r => format!("snapshot {}, node {}", r.uuid, r.node_id),
    AddGrantRequest: r => grant(r.grant.as_ref()),
    RemoveGrantRequest: r => grant(r.grant.as_ref()),
    CreateTokenRequest: r => {
        match r.joins {
            0 => format!("token {}, {}{}", r.name, named(r.role()), of(&r.sites)),
            joins => format!("join token {}, for {joins}", r.name),
        }
    },
    SetJoinsRequest: r => {
        if r.need_token { "only with a join token" } else { "open" }.to_owned()
    },
    RevokeTokenRequest: r => format!("token {}", r.id),
    PutScheduleRequest: r => format!("schedule {}, {}", r.name, r.cron),
    DeleteScheduleRequest: r => format!("schedule {}", r.name),
    PauseScheduleRequest: r => format!("schedule {}", r.name),
    ResumeScheduleRequest: r => format!("schedule {}", r.name),
    RunScheduleRequest: r => format!("schedule {}", r.name),
    ResumeTokenRequest: r => format!("token {}", r.id),
}

impl Subject for CreateSnapshotRequest {
    fn request_id(&self) -> String {
        hex(&self.request_id)
    }
}

fn relay(relay: &str, site: &str) -> String {
    if site.is_empty() { format!("relay {relay}") } else { format!("relay {relay}, site {site}") }
}

fn node(id: u64, only_looked_at: bool) -> String {
    format!("node {id}{}", if only_looked_at { ", only looked at" } else { "" })
}

fn of(sites: &str) -> String {
    if sites.is_empty() || sites == "*" { String::new() } else { format!(" of {sites}") }
}

fn named(role: Role) -> String {
    role.as_str_name().trim_start_matches("ROLE_").to_lowercase()
}

fn grant(grant: Option<&Grant>) -> String {
    grant.map_or(String::new(), |grant| {
        format!("{}{} to {}", named(grant.role()), of(&grant.sites), grant.identity)
    })
}
