//! The meta group as stories: `tests/golden/cluster`. Also the laws of its state machine.

mod rows;
mod schedules;

use rows::Stored;
use uuid::Uuid;

use crate::{
    base::{
        golden,
        ids::{
            ClusterId, GroupId, Lineage, NodeId, OperationId, RelayId, SiteGeneration, SiteId,
            SnapshotId, SnapshotSeq, TokenId, Topology,
        },
        limits,
    },
    cluster::{
        access::{Grant, Pattern, Purpose, Ticket, Token},
        command::{Applied, Away, Changed, Command, Etag, Event, Node, Outcome},
        level::Level,
        operations::{Begin, Kind, Operation, Progress},
        sites::{Relay, Site, SiteState},
        snapshots::{Part, Snapshot, Stage, Status},
        state::{Rows, Settings, State},
    },
};

fn number(word: &str) -> u64 {
    word.parse().unwrap_or_else(|_| panic!("{word} is not a number"))
}
fn site(id: &str) -> SiteId {
    SiteId::new(id).unwrap()
}
fn snapshot_id(n: u64) -> SnapshotId {
    SnapshotId(Uuid::from_u128(n.into()))
}
fn relay(id: &str, at: &str) -> Relay {
    Relay { id: RelayId::new(id).unwrap(), site: (at != "-").then(|| site(at)) }
}
fn grant(to: &str, role: &str, sites: &str) -> Grant {
    let pattern = |text: &str| Pattern::new(text).unwrap();
    Grant { identity: pattern(to), role: role.parse().unwrap(), sites: pattern(sites) }
}
fn node(id: u64, address: &str, snapshot_store: bool) -> Node {
    Node {
        id: NodeId(id),
        address: address.into(),
        capacity_percent: 100,
        version: "1.0".into(),
        snapshot_store,
        lineage: Lineage(1),
        level: Level::FIRST,
        leaving: false,
        draining: false,
        certificate_name: None,
    }
}
fn group(word: &str) -> GroupId {
    if word == "meta" { GroupId::META } else { GroupId(number(word) as u32) }
}
fn founded(nodes: u64) -> State {
    let settings = Settings::founding(
        ClusterId(Uuid::from_u128(9)),
        Lineage(1),
        3,
        Topology::new(64, 4).unwrap(),
    )
    .unwrap();
    let settings = Settings { level: Level::FIRST, ..settings };
    let mut state = State::found(settings, node(1, "node-1:8080", true)).unwrap();
    for id in 2..=nodes {
        state
            .apply(&Command::AnnounceNode(node(id, &format!("node-{id}:8080"), true)))
            .reply
            .unwrap();
    }
    state
}
fn completed(node: u64, groups: impl IntoIterator<Item = GroupId>) -> Part {
    Part {
        status: Status::Completed,
        groups: groups.into_iter().collect(),
        manifest_digest: Some([1; 32]),
        ..Part::processing(NodeId(node))
    }
}

fn command(words: &[&str]) -> Command {
    match *words {
        ["announce", id, address] => Command::AnnounceNode(node(number(id), address, true)),
        ["announce", id, address, "storeless"] => {
            Command::AnnounceNode(node(number(id), address, false))
        }
        ["add-site", id] => Command::AddSite(site(id)),
        ["site-added", id, life] => {
            Command::SiteAdded { site: site(id), generation: SiteGeneration(number(life)) }
        }
        ["remove-site", id] => Command::RemoveSite(site(id)),
        ["site-removed", id, life] => {
            Command::SiteRemoved { site: site(id), generation: SiteGeneration(number(life)) }
        }
        ["add-relay", id, at] => Command::AddRelay(relay(id, at)),
        ["remove-relay", id] => Command::RemoveRelay(RelayId::new(id).unwrap()),
        ["move-relay", id, at] => Command::MoveRelay(relay(id, at)),
        ["begin", id] => Command::BeginSnapshot { id: snapshot_id(number(id)), created_ms: 0 },
        ["seal", seq] => Command::SealSnapshot { seq: SnapshotSeq(number(seq)) },
        ["abort", seq, ref why @ ..] => {
            Command::AbortSnapshot { seq: SnapshotSeq(number(seq)), reason: why.join(" ") }
        }
        ["report", id, node, "completed", groups] => Command::ReportPart {
            id: snapshot_id(number(id)),
            part: completed(number(node), groups.split(',').map(group)),
        },
        ["report", id, node, "missing", ref why @ ..] => Command::ReportPart {
            id: snapshot_id(number(id)),
            part: Part::missing(NodeId(number(node)), why.join(" ")),
        },
        ["report", id, node, "failed", ref why @ ..] => Command::ReportPart {
            id: snapshot_id(number(id)),
            part: Part::failed(NodeId(number(node)), why.join(" ")),
        },
        ["grant", to, role, sites] => Command::AddGrant(grant(to, role, sites)),
        ["take", to, role, sites] => Command::RemoveGrant(grant(to, role, sites)),
        ["token", id, name, role] => Command::CreateToken(Token {
            id: TokenId(number(id) as u32),
            name: name.into(),
            purpose: Purpose::Calls {
                role: role.parse().unwrap(),
                sites: Pattern::any(),
                digest: [7; 32],
            },
            created_ms: 1,
            expires_ms: 2,
            lineage: Lineage(1),
        }),
        ["revoke", id] => Command::RevokeToken(TokenId(number(id) as u32)),
        ["resume", id] => Command::ResumeToken(TokenId(number(id) as u32)),
        ["forget", id] => Command::ForgetSnapshot { id: snapshot_id(number(id)) },
        ["delete", id] => Command::BeginDeletion { id: snapshot_id(number(id)), lineage: None },
        ["delete", id, "lineage", lineage] => Command::BeginDeletion {
            id: snapshot_id(number(id)),
            lineage: Some(Lineage(number(lineage))),
        },
        ["deleted", id, node, ref why @ ..] => Command::ReportDeletion {
            id: snapshot_id(number(id)),
            node: NodeId(number(node)),
            reason: why.join(" "),
        },
        ["announce", id, address, "knows", "level", level] => Command::AnnounceNode(Node {
            level: Level(number(level) as u32),
            ..node(number(id), address, true)
        }),
        ["remove", "node", id, "on", "an", "old", "plan"] => removal(number(id), Etag(0), None),
        ["decommission", id, "on", "an", "old", "plan"] => departure(number(id), Etag(0), None),
        ["cancel", "decommission", id] => {
            Command::CancelDecommission { node: NodeId(number(id)), away: Away::new() }
        }
        ["decommissioned", id] => {
            Command::Decommissioned { node: NodeId(number(id)), removed_ms: 5 }
        }
        ["capacity", id, percent] => Command::SetCapacity {
            node: NodeId(number(id)),
            percent: number(percent) as u32,
            away: Away::new(),
        },
        ["join", id, address, "while", ref away @ .., "are", "away"] => Command::JoinNode {
            node: node(number(id), address, true),
            away: away.iter().map(|id| NodeId(number(id))).collect(),
            ticket: None,
        },
        ["join", id, address, "with", "capacity", percent] => Command::JoinNode {
            node: Node {
                capacity_percent: number(percent) as u32,
                ..node(number(id), address, true)
            },
            away: Away::new(),
            ticket: None,
        },
        ["rebalance", "on", "an", "old", "plan"] => {
            Command::Rebalance { seen: Etag(0), away: Away::new() }
        }
        ["raise", "level", "to", level] => Command::RaiseLevel(Level(number(level) as u32)),
        ["operate", id, ref change @ ..] => operation(number(id), command(change)),
        ["drain", id] => {
            Command::SetDraining { node: NodeId(number(id)), draining: true, at_ms: 0 }
        }
        ["undrain", id] => {
            Command::SetDraining { node: NodeId(number(id)), draining: false, at_ms: 8 }
        }
        ["finish", id, "on", "an", "old", "plan"] => finish(number(id), Etag(0)),
        ["cancel", "operation", id] => {
            Command::CancelOperation { id: OperationId(number(id)), ended_ms: 7, away: Away::new() }
        }
        ["bind", id, name] => {
            Command::BindNode { node: NodeId(number(id)), name: name.into(), anew: false }
        }
        ["bind", id, name, "anew"] => {
            Command::BindNode { node: NodeId(number(id)), name: name.into(), anew: true }
        }
        ["join", id, address, "as", name] => Command::JoinNode {
            node: Node {
                level: Level::ACCESS,
                certificate_name: Some(name.into()),
                ..node(number(id), address, true)
            },
            away: Away::new(),
            ticket: None,
        },
        ["join", id, address, "by", "token", token, "at", ms] => Command::JoinNode {
            node: Node { level: Level::JOINS, ..node(number(id), address, true) },
            away: Away::new(),
            ticket: Some(Ticket { token: TokenId(number(token) as u32), shown_ms: number(ms) }),
        },
        ["join-token", id, name, uses] => Command::CreateToken(Token {
            id: TokenId(number(id) as u32),
            name: name.into(),
            purpose: Purpose::Joins { left: number(uses) as u32, key: [7; 32] },
            created_ms: 1,
            expires_ms: 10,
            lineage: Lineage(1),
        }),
        ["joins", "need", "a", "token"] => Command::SetJoins { need_token: true },
        ["joins", "are", "open"] => Command::SetJoins { need_token: false },
        ["establish", nonce] => Command::EstablishLineage { nonce: number(nonce) },
        _ => {
            schedules::command(words).unwrap_or_else(|| panic!("nobody knows what {words:?} means"))
        }
    }
}

fn removal(node: u64, seen: Etag, by: Option<u64>) -> Command {
    let (node, by) = (NodeId(node), by.map(NodeId));
    Command::RemoveNode { node, removed_ms: 5, seen, by, away: Away::new() }
}

fn departure(node: u64, seen: Etag, by: Option<u64>) -> Command {
    Command::Decommission { node: NodeId(node), seen, by: by.map(NodeId), away: Away::new() }
}

fn operation(id: u64, change: Command) -> Command {
    let (id, gives_up) = (OperationId(id), Vec::new());
    let begin = Begin { id, began_ms: 3, forced: false, gives_up };
    Command::Operate { begin, change: Box::new(change) }
}

fn finish(id: u64, seen: Etag) -> Command {
    Command::FinishOperation { id: OperationId(id), ended_ms: 6, seen }
}

fn act(state: &mut State, line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words[..] {
        ["operate", id, "remove", "node", node] => {
            told(state.apply(&operation(number(id), removal(number(node), state.etag(), None))))
        }
        ["operate", id, "decommission", node] => {
            told(state.apply(&operation(number(id), departure(number(node), state.etag(), None))))
        }
        ["operate", id, "decommission", node, "by", by] => {
            let change = departure(number(node), state.etag(), Some(number(by)));
            told(state.apply(&operation(number(id), change)))
        }
        ["operate", id, "rebalance", "while", ref away @ .., "are", "away"] => {
            let away = away.iter().map(|id| NodeId(number(id))).collect();
            let change = Command::Rebalance { seen: state.etag(), away };
            told(state.apply(&operation(number(id), change)))
        }
        ["finish", id] => told(state.apply(&finish(number(id), state.etag()))),
        ["access"] => {
            let access = state.access();
            let grants = access
                .grants()
                .iter()
                .map(|g| format!("  {} is {} of {}\n", g.identity, g.role, g.sites));
            let now = state.settings().lineage;
            let tokens = access.tokens().values().map(|t| {
                let how = if t.lineage == now { "holds" } else { "is suspended" };
                let what = match &t.purpose {
                    Purpose::Calls { role, .. } => role.to_string(),
                    Purpose::Joins { left, .. } => format!("for {left} machines that join"),
                };
                format!("  token {} is {what} and {how}\n", t.name)
            });
            grants.chain(tokens).collect()
        }
        ["schedules"] => schedules::told(state),
        ["operations"] => state.operations().values().map(remembered).collect(),
        ["nodes"] => state
            .nodes()
            .values()
            .map(|n| {
                let leaving = if n.leaving { ", leaving" } else { "" };
                let drained = if n.draining { ", drained" } else { "" };
                let named = n.certificate_name.as_ref().map(|name| format!(", named {name}"));
                let (store, named) = (n.snapshot_store, named.unwrap_or_default());
                format!("  {} at {}, store: {store}{leaving}{drained}{named}\n", n.id, n.address)
            })
            .collect(),
        ["assignments"] => state
            .assignments()
            .iter()
            .map(|(g, nodes)| format!("  group {g}: {}\n", listed(nodes)))
            .collect(),
        ["level"] => format!("  level {}", state.settings().level),
        ["sites"] => state
            .sites()
            .sites()
            .iter()
            .map(|(s, how)| {
                format!("{}, {} relays\n", standing(s, how), state.sites().relay_count(s))
            })
            .collect(),
        ["unfinished"] => {
            state.unfinished_sites(10).iter().map(|(s, how)| standing(s, how) + "\n").collect()
        }
        ["snapshots"] => state.snapshots().values().map(|s| shown(state, s)).collect(),
        ["restored", id] => match state.clone().restored(snapshot_id(number(id))) {
            Ok(restored) => {
                *state = restored;
                format!(
                    "  lineage {}, begun {}, resolved {}",
                    state.settings().lineage,
                    state.settings().begun,
                    state.settings().resolved
                )
            }
            Err(e) => format!("  refused, {:?}: {e}", e.kind),
        },
        ["remove", "node", id] => told(state.apply(&removal(number(id), state.etag(), None))),
        ["remove", "node", id, "by", by] => {
            told(state.apply(&removal(number(id), state.etag(), Some(number(by)))))
        }
        ["decommission", id] => told(state.apply(&departure(number(id), state.etag(), None))),
        ["decommission", id, "by", by] => {
            told(state.apply(&departure(number(id), state.etag(), Some(number(by)))))
        }
        ["rebalance", "while", ref away @ .., "are", "away"] => {
            let away = away.iter().map(|id| NodeId(number(id))).collect();
            told(state.apply(&Command::Rebalance { seen: state.etag(), away }))
        }
        _ => told(state.apply(&command(&words))),
    }
}

fn standing(id: &SiteId, site: &Site) -> String {
    format!("  {id}: {:?}, generation {}", site.state, site.generation)
}

fn listed(nodes: &[NodeId]) -> String {
    nodes.iter().map(NodeId::to_string).collect::<Vec<_>>().join(" ")
}

fn remembered(operation: &Operation) -> String {
    let Operation { id, kind, progress, node, by, began_ms, ended_ms, replicas, .. } = operation;
    let node = node.map_or(String::new(), |node| format!(" of node {node}"));
    let by = by.map_or(String::new(), |by| format!(" by node {by}"));
    format!(
        "  {id}: {kind:?}{node}{by}, {replicas} replicas, {progress:?}, {began_ms} to {ended_ms}\n"
    )
}

fn shown(state: &State, snapshot: &Snapshot) -> String {
    let all = state.overall(snapshot);
    let mut text =
        format!("  {} (x = {}): {:?}, {:?}", snapshot.id, snapshot.seq, snapshot.stage, all.status);
    text += &format!(
        ", {}/{} partitions, {} copies, settled: {}\n",
        all.partitions_covered, all.partitions, all.copies_min, all.settled
    );
    if !all.reason.is_empty() {
        text += &format!("    because {}\n", all.reason);
    }
    for part in snapshot.parts.values() {
        text += &format!("    node {}: {:?} {}\n", part.node, part.status, part.reason);
    }
    text
}

fn told(applied: Applied) -> String {
    let mut text = match &applied.reply {
        Ok(Outcome::Done { changed }) => format!("  done, changed: {changed}\n"),
        Ok(Outcome::Relay { relay, changed }) => format!(
            "  {} belongs to {:?}, changed: {changed}\n",
            relay.id,
            relay.site.as_ref().map(SiteId::as_str)
        ),
        Ok(Outcome::Snapshot { snapshot, changed }) => {
            format!("  snapshot {} is {:?}, changed: {changed}\n", snapshot.id, snapshot.stage)
        }
        Err(e) => format!("  refused, {:?}: {e}\n", e.kind),
    };
    if !applied.changed.is_empty() {
        text += &format!("  rows: {:?}\n", applied.changed);
    }
    if !applied.events.is_empty() {
        text += &format!("  events: {:?}\n", applied.events);
    }
    text
}

#[test]
fn the_stories_of_the_cluster_are_as_they_were() {
    golden::play("cluster", || {
        let mut state = founded(1);
        move |line: &str| act(&mut state, line)
    });
}

#[test]
fn a_late_drop_does_not_touch_a_later_life_of_the_site() {
    let mut state = founded(1);
    let mut told = |line: &str| {
        state.apply(&command(&line.split(' ').collect::<Vec<_>>())).reply.unwrap().changed()
    };
    assert!(
        ["add-site s", "site-added s 1", "remove-site s", "site-removed s 1", "add-site s"]
            .into_iter()
            .all(&mut told)
    );
    assert!(!told("site-added s 1"));
    assert!(told("site-added s 2") && told("remove-site s"));
    assert!(!told("site-removed s 1"));
    let removing = Site { state: SiteState::Removing, generation: SiteGeneration(2) };
    assert_eq!(state.sites().site(&site("s")), Some(removing));
    assert!(
        state
            .apply(&Command::SiteRemoved { site: site("s"), generation: SiteGeneration(2) })
            .reply
            .unwrap()
            .changed()
    );
    assert_eq!(state.sites().site(&site("s")), None);
}

#[test]
fn only_resolved_snapshots_are_forgotten_and_the_oldest_first() {
    let mut state = founded(1);
    let most = limits::SNAPSHOTS_REMEMBERED as u64;
    for seq in 1..=most {
        state.apply(&Command::BeginSnapshot { id: snapshot_id(seq), created_ms: 0 });
        state.apply(&Command::SealSnapshot { seq: SnapshotSeq(seq) });
    }
    state.apply(&Command::BeginSnapshot { id: snapshot_id(most + 1), created_ms: 0 });
    assert_eq!(state.snapshots().len() as u64, most + 1);
    let sealed = state.apply(&Command::SealSnapshot { seq: SnapshotSeq(most + 1) });
    assert!(sealed.changed.contains(&Changed::Snapshot(SnapshotSeq(1))));
    assert_eq!(sealed.events, [Event::SnapshotSealed(SnapshotSeq(most + 1))]);
    assert_eq!(
        state.snapshots().first_key_value().map(|(seq, s)| (seq.0, s.stage)),
        Some((2, Stage::Sealed))
    );
}

#[test]
fn whoever_takes_a_snapshot_is_warned_before_there_is_no_room_and_refused_when_there_is_none() {
    let mut state = founded(1);
    let take = |state: &mut State, n: usize| {
        let id = snapshot_id(n as u64);
        let room = state.room_for_snapshot(id);
        state.apply(&Command::BeginSnapshot { id, created_ms: 0 }).reply.unwrap();
        state.apply(&Command::SealSnapshot { seq: state.settings().begun }).reply.unwrap();
        room
    };
    let rooms: Vec<_> = (1..=limits::SNAPSHOTS_REMEMBERED).map(|n| take(&mut state, n)).collect();
    assert!(rooms[..limits::SNAPSHOTS_WARNED].iter().all(|room| *room == Ok(None)));
    assert!(
        rooms[limits::SNAPSHOTS_WARNED..]
            .iter()
            .all(|room| matches!(room, Ok(Some(warning)) if warning.contains("at most 1000")))
    );
    let full = state.room_for_snapshot(snapshot_id(5000)).unwrap_err();
    assert!(
        full.kind == crate::base::error::Kind::Conflict
            && full.message.ends_with(&format!("the oldest is {}", snapshot_id(1))),
        "{full}"
    );
    // One that is there is only named once more, and a deleted one makes room.
    assert_eq!(state.room_for_snapshot(snapshot_id(7)), Ok(None));
    state.apply(&Command::BeginDeletion { id: snapshot_id(1), lineage: None }).reply.unwrap();
    state
        .apply(&Command::ReportDeletion {
            id: snapshot_id(1),
            node: NodeId(1),
            reason: String::new(),
        })
        .reply
        .unwrap();
    assert!(matches!(state.room_for_snapshot(snapshot_id(5000)), Ok(Some(_))));
}

#[test]
fn a_deletion_does_not_wait_for_a_node_that_is_not_there() {
    let mut state = founded(2);
    let id = snapshot_id(7);
    for command in [
        Command::BeginSnapshot { id, created_ms: 0 },
        Command::SealSnapshot { seq: SnapshotSeq(1) },
        Command::BeginDeletion { id, lineage: None },
    ] {
        state.apply(&command).reply.unwrap();
    }
    // As after the removal of node 2.
    let mut rows = Stored::of(&state).0;
    rows.nodes.retain(|n| n.id == NodeId(1));
    rows.assignments.iter_mut().for_each(|(_, nodes)| nodes.retain(|n| *n == NodeId(1)));
    let mut state = State::from_rows(rows).unwrap();
    assert!(
        state
            .apply(&Command::ReportDeletion { id, node: NodeId(1), reason: String::new() })
            .reply
            .unwrap()
            .changed()
    );
    assert_eq!(state.snapshot_named(id), None);
}

#[test]
fn a_deleted_snapshot_is_not_taken_again_by_a_request_that_comes_late() {
    let mut state = founded(1);
    let id = snapshot_id(7);
    let begin = Command::BeginSnapshot { id, created_ms: 0 };
    state.apply(&begin).reply.unwrap();
    state.apply(&Command::SealSnapshot { seq: SnapshotSeq(1) }).reply.unwrap();
    state.apply(&Command::BeginDeletion { id, lineage: None }).reply.unwrap();
    let late = state.apply(&begin).reply.unwrap_err();
    assert!(
        late.message.ends_with("is being deleted; take another one under a new uuid"),
        "{late}"
    );
    state
        .apply(&Command::ReportDeletion { id, node: NodeId(1), reason: String::new() })
        .reply
        .unwrap();
    let late = state.apply(&begin).reply.unwrap_err();
    assert!(late.message.ends_with("was deleted; take another one under a new uuid"), "{late}");
    assert!(state.snapshots().is_empty());
}

#[test]
fn what_a_user_asks_for_is_fenced_and_what_opens_the_fence_is_not() {
    let fenced = [
        "add-site s",
        "site-added s 1",
        "remove-site s",
        "site-removed s 1",
        "add-relay r s",
        "move-relay r s",
        "remove-relay r",
        "delete 1",
        "forget 1",
        "deleted 1 1",
    ];
    let free = ["begin 1", "seal 1", "abort 1 late", "announce 1 here:1", "establish 1"];
    let is_user = |line: &&str| command(&line.split(' ').collect::<Vec<_>>()).is_user();
    assert!(fenced.iter().all(is_user) && is_user(&"report 1 1 missing away"));
    assert!(!free.iter().any(is_user));
}

#[test]
fn rows_that_contradict_each_other_are_refused() {
    let good = Stored::of(&founded(3)).0;
    assert!(State::from_rows(good.clone()).is_ok());
    let without_node = Rows { nodes: good.nodes[1..].to_vec(), ..good.clone() };
    let without_meta = Rows { assignments: good.assignments[..4].to_vec(), ..good.clone() };
    let fewer = Topology::new(64, 2).unwrap();
    let stray =
        Rows { settings: Settings { topology: fewer, ..good.settings.clone() }, ..good.clone() };
    let begun = Rows {
        settings: Settings { begun: SnapshotSeq(1), ..good.settings.clone() },
        ..good.clone()
    };
    let unborn = Site { state: SiteState::Present, generation: SiteGeneration(1) };
    let early_site = Rows { sites: vec![(site("s"), unborn)], ..good.clone() };
    let lost_site = Rows { relays: vec![relay("r", "nowhere")], ..good };
    for rows in [without_node, without_meta, stray, begun, early_site, lost_site] {
        assert_eq!(State::from_rows(rows).unwrap_err().kind, crate::base::error::Kind::Corrupt);
    }
}

#[test]
fn nodes_that_announce_nonsense_are_refused() {
    let mut state = founded(1);
    let good = node(2, "node-2:8080", true);
    for bad in [
        Node { id: NodeId(0), ..good.clone() },
        Node { address: String::new(), ..good.clone() },
        Node { address: "x".repeat(limits::ADDRESS_BYTES_MAX + 1), ..good.clone() },
        Node { capacity_percent: limits::CAPACITY_PERCENT_MAX + 1, ..good.clone() },
        Node { version: "1".repeat(limits::VERSION_BYTES_MAX + 1), ..good.clone() },
    ] {
        assert!(state.apply(&Command::AnnounceNode(bad)).reply.is_err());
    }
    assert!(state.apply(&Command::AnnounceNode(good)).reply.is_ok());
}

#[test]
fn the_operations_that_ended_first_are_forgotten_and_those_that_run_never() {
    let mut state = founded(3);
    let mut asked = |id: u64, change: Command| {
        state.apply(&operation(id, change)).reply.unwrap();
    };
    let drain = |node| Command::SetDraining { node: NodeId(node), draining: true, at_ms: 0 };
    asked(1, drain(3));
    let most = limits::OPERATIONS_REMEMBERED as u64;
    for id in 2..most + 10 {
        let percent = 100 + (id % 2) as u32;
        asked(id, Command::SetCapacity { node: NodeId(2), percent, away: Away::new() });
    }
    let kept: Vec<u64> = state.operations().keys().map(|id| id.0).collect();
    let expected: Vec<u64> = [1].into_iter().chain(11..most + 10).collect();
    assert_eq!(kept, expected);
    let running = state.running_on(NodeId(3)).unwrap();
    assert_eq!((running.kind, running.progress), (Kind::Drain, Progress::Running));
}

#[test]
fn two_operations_that_run_for_one_node_contradict_each_other() {
    let mut state = founded(3);
    let change = Command::SetDraining { node: NodeId(3), draining: true, at_ms: 0 };
    state.apply(&operation(1, change)).reply.unwrap();
    let mut rows = Stored::of(&state).0;
    assert_eq!(State::from_rows(rows.clone()).as_ref(), Ok(&state));
    rows.operations.push(Operation { id: OperationId(2), ..rows.operations[0].clone() });
    let refused = State::from_rows(rows).unwrap_err();
    assert!(refused.message.contains("operation 0000000000000002 runs beside"), "{refused}");
}
