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

/// A service, methods of it, and for whom they are.
pub struct Row {
    pub service: &'static str,
    pub methods: &'static [&'static str],
    pub whom: Whom,
}

const fn row(service: &'static str, methods: &'static [&'static str], whom: Whom) -> Row {
    Row { service, methods, whom }
}

const KV: &str = "devicedb.v1.KvService";
const CLUSTER: &str = "devicedb.v1.ClusterService";
const OPERATIONS: &str = "devicedb.v1.OperationService";
const SNAPSHOTS: &str = "devicedb.v1.SnapshotService";
const ACCESS: &str = "devicedb.v1.AccessService";
const HEALTH: &str = "grpc.health.v1.Health";
const BETWEEN_NODES: &str = "devicedb.internal.v1.PeerService";

const READ: Whom = Whom::Roles(&[Role::Reader, Role::Writer]);
const WRITE: Whom = Whom::Roles(&[Role::Writer]);
const LOOK: Whom = Whom::Roles(&[Role::Viewer, Role::Backup, Role::Pruner, Role::Operator]);
const OPERATE: Whom = Whom::Roles(&[Role::Operator]);
const ADMIN: Whom = Whom::Roles(&[]);

/// The busiest first.
pub const TABLE: &[Row] = &[
    row(KV, &["Get", "Scan"], READ),
    row(KV, &["Put", "Delete", "Batch"], WRITE),
    row(CLUSTER, &["GetIdentity"], Whom::Known),
    row(
        CLUSTER,
        &["GetOverview", "ListNodes", "ListPartitions", "ListSites", "ListRelays", "GetUpgrade"],
        LOOK,
    ),
    row(CLUSTER, &["AddSite", "RemoveSite", "AddRelay", "RemoveRelay", "MoveRelay"], OPERATE),
    row(
        CLUSTER,
        &[
            "InitCluster",
            "FinalizeUpgrade",
            "RemoveNode",
            "DecommissionNode",
            "CancelDecommission",
            "SetCapacity",
            "Rebalance",
            "DrainNode",
            "UndrainNode",
        ],
        OPERATE,
    ),
    row(OPERATIONS, &["GetOperation", "ListOperations", "WaitOperation"], LOOK),
    row(OPERATIONS, &["CancelOperation"], OPERATE),
    row(SNAPSHOTS, &["GetSnapshot", "ListSnapshots", "ListOrphans"], LOOK),
    row(SNAPSHOTS, &["CreateSnapshot"], Whom::Roles(&[Role::Backup, Role::Operator])),
    row(SNAPSHOTS, &["DownloadSnapshot"], Whom::Roles(&[Role::Backup])),
    row(SNAPSHOTS, &["DeleteSnapshot"], Whom::Roles(&[Role::Pruner])),
    row(ACCESS, &["WhoAmI"], Whom::Known),
    row(
        ACCESS,
        &[
            "AddGrant",
            "RemoveGrant",
            "ListGrants",
            "CreateToken",
            "ListTokens",
            "RevokeToken",
            "ResumeToken",
        ],
        ADMIN,
    ),
    row(HEALTH, &["Check", "Watch", "List"], Whom::Everybody),
    row("grpc.reflection.v1.ServerReflection", &["ServerReflectionInfo"], Whom::Known),
    row(
        BETWEEN_NODES,
        &[
            "Deliver",
            "Join",
            "SendRows",
            "GetNodeStatus",
            "Introduce",
            "PromiseFounding",
            "FoundCluster",
            "ListParts",
            "RemovePart",
        ],
        Whom::Nodes,
    ),
];

/// Pages beside the contract.
pub const PAGES: &[(&str, Whom)] =
    &[("/healthz", Whom::Everybody), ("/readyz", Whom::Everybody), ("/metrics", LOOK)];

/// For whom a path is. Whatever is not in the tables is for admins, or for nodes where it is
/// between nodes.
pub fn whom(path: &str) -> Whom {
    let Some((service, method)) = path.strip_prefix('/').and_then(|path| path.split_once('/'))
    else {
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
        assert!(contract.len() > 40, "{}", contract.len());
    }

    #[test]
    fn what_is_in_no_table_is_for_admins_or_between_nodes() {
        for path in ["/x", "/devicedb.v1.KvService/Drop", "/devicedb.v2.KvService/Get", "", "/"] {
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
        for (what, whom) in rows.chain(pages).filter(|(_, whom)| *whom != Whom::Nodes) {
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
