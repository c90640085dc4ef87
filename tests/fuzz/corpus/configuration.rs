//! The configuration's commands in an order that makes sense.

use devicedb::{
    base::ids::{
        ClusterId, GroupId, Lineage, NodeId, OperationId, RelayId, ScheduleId, SiteGeneration,
        SiteId, SnapshotId, SnapshotSeq, TokenId,
    },
    cluster::{
        self, Node,
        access::{Grant, Pattern, Purpose, Role, Ticket, Token},
        operations::Begin,
        schedule::{Decision, Definition, Run, Task},
        sites::Relay,
        snapshots::Part,
        state::Settings,
    },
};
use uuid::Uuid;

use super::{site, topology, uuid};

pub fn node(id: u64) -> Node {
    Node {
        id: NodeId(id),
        address: format!("node-{id}:8080"),
        capacity_percent: 100,
        version: "0.1.0".into(),
        snapshot_store: id != 3,
        lineage: Lineage(5),
        level: cluster::level::Level::own(),
        leaving: false,
        draining: false,
        certificate_name: None,
    }
}

pub fn settings() -> Settings {
    Settings::founding(ClusterId(uuid()), Lineage(5), 2, topology()).expect("settings that can be")
}

/// A cluster's life: nodes, sites, relays, two snapshots.
pub fn changes() -> Vec<cluster::Command> {
    use cluster::Command::*;
    let shed = SiteId::new("shed").expect("plain");
    let relay = |id: &str, site| Relay { id: RelayId::new(id).expect("plain"), site };
    let id = SnapshotId(uuid());
    let part = Part {
        status: cluster::snapshots::Status::Completed,
        groups: topology().group_ids().chain([GroupId::META]).collect(),
        rows: 100,
        manifest_digest: Some([7; 32]),
        ..Part::processing(NodeId(1))
    };
    let operated = |id, change| {
        let gives_up = vec!["a replica more".into()];
        let begin = Begin { id: OperationId(id), began_ms: 3, forced: true, gives_up };
        Operate { begin, change: Box::new(change) }
    };
    let pattern = |text: &str| Pattern::new(text).expect("one that can be");
    let grant =
        Grant { identity: pattern("spiffe://a/*"), role: Role::Reader, sites: pattern("sh*") };
    let token = Token {
        id: TokenId(7),
        name: "nightly".into(),
        purpose: Purpose::Calls { role: Role::Backup, sites: Pattern::any(), digest: [7; 32] },
        created_ms: 1,
        expires_ms: 2,
        lineage: Lineage(5),
    };
    let joins = Token {
        id: TokenId(8),
        name: "rack-7".into(),
        purpose: Purpose::Joins { left: 2, key: [8; 32] },
        expires_ms: 9,
        ..token.clone()
    };
    let [hourly, daily] = ["hourly", "daily"].map(|id| ScheduleId::new(id).expect("plain"));
    let cron = "15 */2 * * MON-FRI".parse().expect("one that comes true");
    let task = Task::Backup { keep: "last=2,within=7d".parse().ok() };
    let definition = Definition { cron, task, start_deadline_ms: Some(60_000) };
    let task = Task::Verify("10%".parse().expect("a share"));
    let verified = Definition { task, ..definition.clone() };
    let checked = ScheduleId::new("checked").expect("plain");
    let run = Run { snapshot: id, planned_ms: 8, began_ms: 9, by_hand: false };
    let decision = Decision {
        id: hourly.clone(),
        seen_ms: 7,
        decided_ms: 8,
        missed: 1,
        skipped: 2,
        note: "odd".into(),
        run: Some(run),
    };
    vec![
        AnnounceNode(node(2)),
        AddSite(site()),
        SiteAdded { site: site(), generation: SiteGeneration(1) },
        AddSite(shed.clone()),
        AddRelay(relay("r1", Some(site()))),
        AddRelay(relay("r2", None)),
        MoveRelay(relay("r2", Some(site()))),
        AnnounceNode(node(3)),
        RaiseLevel(cluster::level::Level::own()),
        SetCapacity { node: NodeId(3), percent: 50, away: [NodeId(2)].into() },
        SetDraining { node: NodeId(3), draining: true, at_ms: 4 },
        operated(7, SetDraining { node: NodeId(2), draining: true, at_ms: 4 }),
        operated(8, SetCapacity { node: NodeId(3), percent: 70, away: cluster::Away::new() }),
        FinishOperation { id: OperationId(8), ended_ms: 9, seen: cluster::Etag(1) },
        AddGrant(grant.clone()),
        CreateToken(token),
        ResumeToken(TokenId(7)),
        CancelOperation { id: OperationId(7), ended_ms: 9, away: [NodeId(2)].into() },
        BindNode { node: NodeId(3), name: "spiffe://acme/devicedb/node/c".into(), anew: true },
        CreateToken(joins),
        SetJoins { need_token: true },
        PutSchedule { id: hourly.clone(), definition, at_ms: 5, replace: false },
        PutSchedule { id: checked, definition: verified, at_ms: 5, replace: false },
        PauseSchedule { id: hourly.clone(), paused: true, at_ms: 6 },
        PauseSchedule { id: hourly.clone(), paused: false, at_ms: 7 },
        DecideRun(decision),
        EndRun { id: hourly.clone(), snapshot: id, ended_ms: 9, reason: "no".into() },
        RunSchedule { id: hourly.clone(), run: Run { by_hand: true, ..run } },
        DeleteSchedule(daily),
        RevokeToken(TokenId(7)),
        RemoveGrant(grant),
        CancelDecommission { node: NodeId(3), away: cluster::Away::new() },
        JoinNode {
            node: node(4),
            away: [NodeId(2)].into(),
            ticket: Some(Ticket { token: TokenId(8), shown_ms: 2 }),
        },
        BeginSnapshot { id, created_ms: 1_700_000_000_123 },
        SealSnapshot { seq: SnapshotSeq(1) },
        ReportPart { id, part },
        RemoveSite(site()),
        SiteRemoved { site: site(), generation: SiteGeneration(1) },
        RemoveRelay(RelayId::new("r1").expect("plain")),
        BeginSnapshot { id: SnapshotId(Uuid::nil()), created_ms: 2 },
        AbortSnapshot { seq: SnapshotSeq(2), reason: "it took too long".into() },
        BeginDeletion { id, lineage: None },
        ReportDeletion { id, node: NodeId(1), reason: "Read-only file system".into() },
        ReportDeletion { id, node: NodeId(1), reason: String::new() },
        ForgetSnapshot { id: SnapshotId(Uuid::nil()) },
        EstablishLineage { nonce: 9 },
    ]
}
