//! Which method is for whom: one table for the whole contract, deny by default.
//!
//! An admin may make every call that is not between nodes. A method without a row is for admins
//! alone; a test refuses to let one be without. `docs/security.md` shows this table, written from
//! it.

use crate::cluster::access::Role;

/// For whom a method is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whom {
    /// Also for callers that have not proved to be anybody.
    Everybody,
    /// For whoever has proved to be somebody, with any role or none.
    Known,
    /// For nodes, and nobody else.
    Nodes,
    /// For those roles, and admins.
    Roles(&'static [Role]),
}

/// What a method changes, for the audit log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changes {
    Nothing,
    Data,
    /// What the cluster is, or who has all of its data.
    Cluster,
}

/// A service, methods of it, for whom they are, and what they change.
pub struct Row {
    pub service: &'static str,
    pub methods: &'static [&'static str],
    pub whom: Whom,
    pub changes: Changes,
}

const fn row(
    service: &'static str,
    methods: &'static [&'static str],
    whom: Whom,
    changes: Changes,
) -> Row {
    Row { service, methods, whom, changes }
}

const KV: &str = "devicedb.v1.KvService";
const CLUSTER: &str = "devicedb.v1.ClusterService";
const OPERATIONS: &str = "devicedb.v1.OperationService";
const SNAPSHOTS: &str = "devicedb.v1.SnapshotService";
const SCHEDULES: &str = "devicedb.v1.ScheduleService";
const ACCESS: &str = "devicedb.v1.AccessService";
const HEALTH: &str = "grpc.health.v1.Health";
const REFLECTION: &str = "grpc.reflection.v1.ServerReflection";
const OLDER_REFLECTION: &str = "grpc.reflection.v1alpha.ServerReflection";
const BETWEEN_NODES: &str = "devicedb.internal.v1.PeerService";

const READ: Whom = Whom::Roles(&[Role::Reader, Role::Writer]);
const WRITE: Whom = Whom::Roles(&[Role::Writer]);
const LOOK: Whom = Whom::Roles(&[Role::Viewer, Role::Backup, Role::Pruner, Role::Operator]);
const OPERATE: Whom = Whom::Roles(&[Role::Operator]);
const ADMIN: Whom = Whom::Roles(&[]);

/// The busiest first.
pub const TABLE: &[Row] = &[
    row(KV, &["Get", "Scan"], READ, Changes::Nothing),
    row(KV, &["Put", "Delete", "Batch"], WRITE, Changes::Data),
    row(CLUSTER, &["GetIdentity"], Whom::Known, Changes::Nothing),
    row(
        CLUSTER,
        &["GetOverview", "ListNodes", "ListPartitions", "ListSites", "ListRelays", "GetUpgrade"],
        LOOK,
        Changes::Nothing,
    ),
    row(
        CLUSTER,
        &["AddSite", "RemoveSite", "AddRelay", "RemoveRelay", "MoveRelay"],
        OPERATE,
        Changes::Cluster,
    ),
    row(
        CLUSTER,
        &[
            "InitCluster",
            "FinalizeUpgrade",
            "RemoveNode",
            "DecommissionNode",
            "CancelDecommission",
            "SetCapacity",
            "SetCertificateName",
            "Rebalance",
            "DrainNode",
            "UndrainNode",
        ],
        OPERATE,
        Changes::Cluster,
    ),
    row(OPERATIONS, &["GetOperation", "ListOperations", "WaitOperation"], LOOK, Changes::Nothing),
    row(OPERATIONS, &["CancelOperation"], OPERATE, Changes::Cluster),
    row(SNAPSHOTS, &["GetSnapshot", "ListSnapshots", "ListOrphans"], LOOK, Changes::Nothing),
    row(
        SNAPSHOTS,
        &["CreateSnapshot", "UploadSnapshot"],
        Whom::Roles(&[Role::Backup, Role::Operator]),
        Changes::Cluster,
    ),
    row(SNAPSHOTS, &["DownloadSnapshot"], Whom::Roles(&[Role::Backup]), Changes::Cluster),
    row(SNAPSHOTS, &["DeleteSnapshot"], Whom::Roles(&[Role::Pruner]), Changes::Cluster),
    row(SCHEDULES, &["GetSchedule", "ListSchedules"], LOOK, Changes::Nothing),
    row(
        SCHEDULES,
        &["PutSchedule", "DeleteSchedule", "PauseSchedule", "ResumeSchedule", "RunSchedule"],
        OPERATE,
        Changes::Cluster,
    ),
    row(ACCESS, &["ListGrants", "ListTokens"], ADMIN, Changes::Nothing),
    row(ACCESS, &["WhoAmI"], Whom::Known, Changes::Nothing),
    row(
        ACCESS,
        &["AddGrant", "RemoveGrant", "CreateToken", "RevokeToken", "ResumeToken", "SetJoins"],
        ADMIN,
        Changes::Cluster,
    ),
    row(HEALTH, &["Check", "Watch", "List"], Whom::Everybody, Changes::Nothing),
    row(REFLECTION, &["ServerReflectionInfo"], Whom::Known, Changes::Nothing),
    row(OLDER_REFLECTION, &["ServerReflectionInfo"], Whom::Known, Changes::Nothing),
    row(BETWEEN_NODES, &["Join"], Whom::Nodes, Changes::Cluster),
    row(
        BETWEEN_NODES,
        &[
            "Deliver",
            "SendRows",
            "GetNodeStatus",
            "Introduce",
            "PromiseFounding",
            "FoundCluster",
            "ListParts",
            "RemovePart",
            "DescribePart",
            "UploadGroups",
            "StoreSnapshot",
            "VerifyRepository",
        ],
        Whom::Nodes,
        Changes::Nothing,
    ),
];

/// What a method changes, by its name alone: all names differ.
pub fn changes(method: &str) -> Changes {
    let found = TABLE.iter().find(|row| row.methods.contains(&method));
    found.map_or(Changes::Cluster, |row| row.changes)
}

/// Pages beside the contract.
pub const PAGES: &[(&str, Whom)] = &[
    ("/healthz", Whom::Everybody),
    ("/readyz", Whom::Everybody),
    ("/metrics", LOOK),
    // The console's page and files, which hold nothing of the cluster.
    ("/", Whom::Everybody),
    ("/console", Whom::Everybody),
    ("/console/app.js", Whom::Everybody),
    ("/console/style.css", Whom::Everybody),
];

/// For whom a path is. Whatever is not in the tables is for admins, or for nodes where it is
/// between nodes.
pub fn whom(path: &str) -> Whom {
    let call = path.strip_prefix('/').and_then(|path| path.split_once('/'));
    // Services have a package.
    let Some((service, method)) = call.filter(|(service, _)| service.contains('.')) else {
        return PAGES.iter().find(|(page, _)| *page == path).map_or(ADMIN, |(_, whom)| *whom);
    };
    let of = TABLE.iter().filter(|row| row.service == service);
    let found = of.clone().find(|row| row.methods.contains(&method)).map(|row| row.whom);
    found.unwrap_or(if service.starts_with("devicedb.internal.") { Whom::Nodes } else { ADMIN })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{base::golden, proto};

    /// Every method of the contract.
    fn contract() -> Vec<(String, String)> {
        let all = <prost_types::FileDescriptorSet as prost::Message>::decode(proto::DESCRIPTORS)
            .expect("the contract is compiled in");
        let services = all
            .file
            .iter()
            .flat_map(|file| file.service.iter().map(move |service| (file.package(), service)));
        services
            .flat_map(|(package, service)| {
                let name = format!("{package}.{}", service.name());
                service.method.iter().map(move |m| (name.clone(), m.name().to_owned()))
            })
            .collect()
    }

    #[test]
    fn every_method_of_the_contract_has_one_row_and_every_row_a_method() {
        let contract = contract();
        for (service, method) in &contract {
            let rows = TABLE
                .iter()
                .filter(|row| row.service == service && row.methods.contains(&method.as_str()));
            assert_eq!(rows.count(), 1, "{service}/{method}");
        }
        for row in TABLE.iter().filter(|row| row.service.starts_with("devicedb.")) {
            for method in row.methods {
                let is_there = contract.iter().any(|(s, m)| s == row.service && m == method);
                assert!(is_there, "{}/{method} is in the table alone", row.service);
            }
        }
        let mut names: Vec<_> = contract.iter().map(|(_, method)| method).collect();
        names.sort();
        assert!(names.is_sorted_by(|a, b| a < b), "one name, two methods: {names:?}");
        assert!(contract.len() > 40, "{}", contract.len());
    }

    #[test]
    fn what_is_in_no_table_is_for_admins_or_between_nodes() {
        for path in
            ["/x", "/devicedb.v1.KvService/Drop", "/devicedb.v2.KvService/Get", "", "/console/x"]
        {
            assert_eq!(whom(path), ADMIN, "{path:?}");
        }
        assert_eq!(whom("/devicedb.internal.v2.PeerService/Deliver"), Whom::Nodes);
        assert_eq!(whom("/healthz"), Whom::Everybody);
    }

    /// The table of the documents.
    fn table() -> String {
        let mut text = "| method |".to_owned();
        let shown = Role::ALL;
        shown.iter().for_each(|role| text += &format!(" {role} |"));
        text += "\n| --- |";
        shown.iter().for_each(|_| text += " :-: |");
        text.push('\n');
        let pages = PAGES.iter().map(|(page, whom)| (format!("`{page}`"), *whom));
        let rows = TABLE.iter().map(|row| {
            let service = row.service.rsplit('.').next().unwrap_or_default();
            let methods: Vec<String> = row.methods.iter().map(|m| format!("`{m}`")).collect();
            (format!("{service}: {}", methods.join(", ")), row.whom)
        });
        let mut shown_rows: Vec<_> =
            rows.chain(pages).filter(|(_, whom)| *whom != Whom::Nodes).collect();
        // One service has an older name.
        shown_rows.dedup();
        for (what, whom) in shown_rows {
            text += &format!("| {what} |");
            for role in shown {
                let cell = match whom {
                    Whom::Everybody | Whom::Known => "yes",
                    Whom::Roles(roles) if !roles.contains(&role) && role != Role::Admin => "",
                    _ if role.is_of_sites() => "its sites",
                    _ => "yes",
                };
                text += &format!(" {cell} |");
            }
            text.push('\n');
        }
        text
    }

    #[test]
    fn the_documents_show_this_table() {
        golden::table("docs/security.md", "roles", &table());
    }
}
