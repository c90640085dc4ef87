//! The tables against the contract, and each row against a message that it takes and one that it
//! does not.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use prost::Message as _;
use prost_types::{FileDescriptorSet, field_descriptor_proto::Type};

use super::{
    Facts, Judged, Objection, Replica, Verdict, command, commands, elsewhere, judge, query,
};
use crate::{
    base::{
        ids::{
            ClusterId, GroupId, Lineage, NodeId, SiteGeneration, SiteId, SnapshotId, SnapshotSeq,
            Topology,
        },
        limits,
    },
    cluster::{
        self, Node, State, level::Level, reconfigure::Membership, snapshots::Part, state::Settings,
    },
    data::{self, Bucket, Key, Query, Read},
    engine::requests::{Body as Asked, Request},
    entry::{Action, Command},
    proto::{
        self,
        internal::v1::{
            EndRequest, Forward, ForwardReply, MarkRequest, Marked, MayEnd, PeerMessage, RaftEntry,
            RaftMessage, RaftMessageType as Kind, RaftSnapshot, Release, peer_message::Body,
        },
    },
};

const ME: NodeId = NodeId(1);
const LEADER: NodeId = NodeId(2);
/// Registered, and in no group.
const IDLE: NodeId = NodeId(4);
const STRANGER: NodeId = NodeId(99);
/// Followed here, led by `LEADER`.
const FOLLOWED: GroupId = GroupId(0);
/// Led here.
const LED: GroupId = GroupId(1);
/// Held here, and no leader is heard.
const SILENT: GroupId = GroupId(2);
/// Not held here.
const ABSENT: GroupId = GroupId(3);

struct Held {
    members: Membership,
    leader: Option<NodeId>,
    follows: bool,
}

struct Scene {
    meta: State,
    held: BTreeMap<GroupId, Held>,
    asked: BTreeMap<u64, Request>,
}

fn site(group: GroupId, number: u32) -> SiteId {
    let named = (0..).map(|n| SiteId::new(format!("site {number} {n}")).unwrap());
    named.into_iter().find(|site| topology().group_of_site(site) == group).unwrap()
}

fn topology() -> Topology {
    Topology::new(64, 4).unwrap()
}

impl Scene {
    /// Snapshot 1 is over and 2 is open. Group 0's site 1 is there and site 2 is being removed.
    fn new() -> Scene {
        let node = |id, capacity_percent| Node {
            id,
            address: "a:1".into(),
            capacity_percent,
            version: String::new(),
            snapshot_store: true,
            lineage: Lineage(5),
            level: Level::own(),
            leaving: false,
            draining: false,
            certificate_name: None,
        };
        let settings =
            Settings::founding(ClusterId(uuid::Uuid::nil()), Lineage(5), 3, topology()).unwrap();
        let mut meta = State::found(settings, node(ME, 100)).unwrap();
        let [there, going] = [1, 2].map(|n| site(FOLLOWED, n));
        let generation = |n| SiteGeneration(n);
        let commands = [
            cluster::Command::AnnounceNode(node(LEADER, 100)),
            cluster::Command::AnnounceNode(node(NodeId(3), 100)),
            cluster::Command::AnnounceNode(node(IDLE, 0)),
            cluster::Command::AddSite(there.clone()),
            cluster::Command::SiteAdded { site: there, generation: generation(1) },
            cluster::Command::AddSite(going.clone()),
            cluster::Command::SiteAdded { site: going.clone(), generation: generation(2) },
            cluster::Command::RemoveSite(going),
            cluster::Command::BeginSnapshot { id: SnapshotId(uuid::Uuid::nil()), created_ms: 0 },
            cluster::Command::SealSnapshot { seq: SnapshotSeq(1) },
            cluster::Command::BeginSnapshot { id: SnapshotId(uuid::Uuid::max()), created_ms: 0 },
        ];
        commands.iter().for_each(|command| {
            assert!(meta.apply(command).reply.is_ok_and(|done| done.changed()), "{command:?}")
        });
        let members =
            Membership { voters: [ME, LEADER, NodeId(3)].into(), ..Membership::default() };
        let of = |leader, follows| Held { members: members.clone(), leader, follows };
        let held = [
            (FOLLOWED, of(Some(LEADER), true)),
            (LED, of(Some(ME), true)),
            (SILENT, of(None, false)),
            (GroupId::META, of(Some(LEADER), true)),
        ];
        let body = Asked::Propose(Command { request: None, action: Action::Mark(SnapshotSeq(1)) });
        let request = Request::sent(FOLLOWED, body, LEADER);
        Scene { meta, held: held.into(), asked: [(7, request)].into() }
    }

    fn with_facts<T>(
        &self,
        from: NodeId,
        group: GroupId,
        judge: impl FnOnce(&Facts<'_>) -> T,
    ) -> T {
        let replicas = |group: GroupId| {
            let held = self.held.get(&group)?;
            let last_index = if held.members.voters.is_empty() { 0 } else { 100 };
            Some(Replica {
                members: &held.members,
                term: 7,
                last_index,
                leader: held.leader,
                leads: held.leader == Some(ME),
                follows: held.follows,
            })
        };
        let asked = |number: u64| self.asked.get(&number);
        judge(&Facts {
            me: ME,
            from,
            group,
            topology: topology(),
            meta: &self.meta,
            replica: replicas(group),
            replicas: &replicas,
            asked: &asked,
        })
    }

    fn judge(&self, from: NodeId, group: GroupId, body: Body) -> Verdict {
        let message = PeerMessage { group: group.0, body: Some(body) };
        self.with_facts(from, group, |facts| judge(facts, &message))
    }

    fn command(
        &self,
        from: NodeId,
        group: GroupId,
        asked: impl Into<Command>,
    ) -> Result<(), &'static str> {
        let asked = asked.into();
        self.with_facts(from, group, |facts| command(facts, &asked)).map_err(|objection| {
            match objection {
                Objection::Later => "later",
                Objection::Wrong(field, _) => field,
            }
        })
    }
}

/// As a node of this version would say it.
fn raft(kind: Kind, from: NodeId) -> RaftMessage {
    let entry =
        |index, data: Bytes| RaftEntry { r#type: 1, term: 7, index, data, context: Bytes::new() };
    let asks = |node: NodeId| RaftEntry {
        r#type: 1,
        data: [node.0.to_be_bytes(), 9u64.to_be_bytes()].concat().into(),
        ..RaftEntry::default()
    };
    let mut message = RaftMessage {
        r#type: kind as i32,
        from: from.0,
        to: ME.0,
        term: 7,
        log_term: 7,
        index: 100,
        commit: 100,
        ..RaftMessage::default()
    };
    match kind {
        Kind::Append => {
            message.entries = vec![entry(101, Bytes::new()), entry(102, "entry".into())]
        }
        Kind::ReadIndex => {
            (message.term, message.log_term, message.commit, message.entries) =
                (0, 0, 0, vec![asks(from)])
        }
        Kind::ReadIndexResponse => message.entries = vec![asks(ME)],
        Kind::Snapshot => {
            message.snapshot = Some(RaftSnapshot {
                index: 100,
                term: 7,
                voters: vec![1, 2],
                learners: vec![3],
                data: "a name".into(),
            });
        }
        Kind::Heartbeat => message.context = Bytes::from_static(&[0; 16]),
        _ => {}
    }
    message
}

const KINDS: [Kind; 12] = [
    Kind::Append,
    Kind::AppendResponse,
    Kind::RequestVote,
    Kind::RequestVoteResponse,
    Kind::Snapshot,
    Kind::Heartbeat,
    Kind::HeartbeatResponse,
    Kind::TimeoutNow,
    Kind::ReadIndex,
    Kind::ReadIndexResponse,
    Kind::RequestPreVote,
    Kind::RequestPreVoteResponse,
];

type Change = fn(&mut RaftMessage);

/// What is no message of a node that is well: the field, a kind of message, and what is wrong with
/// it.
const WRONG: &[(&str, Kind, Change)] = &[
    ("RaftMessage.type", Kind::Append, |m| m.r#type = 0),
    ("RaftMessage.type", Kind::Append, |m| m.r#type = 77),
    ("RaftMessage.type", Kind::TransferLeader, |_| ()),
    ("RaftMessage.from", Kind::Append, |m| m.from = 3),
    ("RaftMessage.to", Kind::Append, |m| m.to = 3),
    ("RaftMessage.term", Kind::Append, |m| m.term = u64::MAX),
    ("RaftMessage.term", Kind::Heartbeat, |m| m.term = u64::MAX),
    ("RaftMessage.term", Kind::Heartbeat, |m| m.term = 8 + limits::TERM_STEP_MAX),
    ("RaftMessage.term", Kind::Heartbeat, |m| m.term = 0),
    ("RaftMessage.term", Kind::AppendResponse, |m| m.term = 0),
    ("RaftMessage.term", Kind::RequestVote, |m| m.term = u64::MAX),
    ("RaftMessage.term", Kind::RequestPreVoteResponse, |m| m.term = u64::MAX),
    ("RaftMessage.term", Kind::ReadIndex, |m| m.term = 7),
    ("RaftMessage.log_term", Kind::Append, |m| m.log_term = 8),
    ("RaftMessage.index", Kind::Append, |m| m.index = u64::MAX),
    ("RaftMessage.index", Kind::RequestVote, |m| m.index = u64::MAX),
    ("RaftMessage.index", Kind::ReadIndexResponse, |m| m.index = u64::MAX),
    ("RaftMessage.entries", Kind::Append, |m| {
        m.entries = vec![m.entries[0].clone(); limits::RAFT_ENTRIES_MAX + 1]
    }),
    ("RaftMessage.entries", Kind::ReadIndex, |m| m.entries.clear()),
    ("RaftMessage.entries", Kind::Heartbeat, |m| m.entries = vec![RaftEntry::default()]),
    ("RaftMessage.commit", Kind::Heartbeat, |m| m.commit = 101),
    ("RaftMessage.commit", Kind::RequestVote, |m| m.commit = u64::MAX),
    ("RaftMessage.commit_term", Kind::RequestVote, |m| m.commit_term = 8),
    ("RaftMessage.snapshot", Kind::Snapshot, |m| m.snapshot = None),
    ("RaftMessage.snapshot", Kind::Append, |m| m.snapshot = Some(RaftSnapshot::default())),
    ("RaftMessage.request_snapshot", Kind::AppendResponse, |m| m.request_snapshot = 5),
    ("RaftMessage.reject_hint", Kind::AppendResponse, |m| m.reject_hint = u64::MAX),
    ("RaftMessage.context", Kind::Heartbeat, |m| m.context = vec![0; 17].into()),
    ("RaftMessage.tenure", Kind::AppendResponse, |m| m.tenure = u64::MAX),
    ("RaftMessage.priority", Kind::RequestVote, |m| m.priority = 1),
    ("RaftEntry.type", Kind::Append, |m| m.entries[0].r#type = 0),
    ("RaftEntry.type", Kind::ReadIndex, |m| m.entries[0].r#type = 2),
    ("RaftEntry.term", Kind::Append, |m| m.entries[0].term = 0),
    ("RaftEntry.term", Kind::Append, |m| m.entries[1].term = 8),
    ("RaftEntry.index", Kind::Append, |m| m.entries[0].index = 102),
    ("RaftEntry.index", Kind::Append, |m| m.entries[1].index = 103),
    ("RaftEntry.data", Kind::ReadIndex, |m| m.entries[0].data = vec![9; 16].into()),
    ("RaftEntry.data", Kind::ReadIndexResponse, |m| m.entries[0].data = Bytes::new()),
    ("RaftEntry.context", Kind::Append, |m| m.entries[0].context = "context".into()),
    ("RaftSnapshot.index", Kind::Snapshot, |m| changed(m, |s| s.index = 0)),
    ("RaftSnapshot.index", Kind::Snapshot, |m| changed(m, |s| s.index = u64::MAX)),
    ("RaftSnapshot.term", Kind::Snapshot, |m| changed(m, |s| s.term = 8)),
    ("RaftSnapshot.voters", Kind::Snapshot, |m| changed(m, |s| s.voters.clear())),
    ("RaftSnapshot.voters", Kind::Snapshot, |m| changed(m, |s| s.voters.push(0))),
    ("RaftSnapshot.learners", Kind::Snapshot, |m| changed(m, |s| s.learners.push(1))),
    ("RaftSnapshot.data", Kind::Snapshot, |m| changed(m, |s| s.data = Bytes::new())),
];

fn changed(message: &mut RaftMessage, change: fn(&mut RaftSnapshot)) {
    change(message.snapshot.as_mut().unwrap());
}

/// The same for the others, with who says it and of which group.
fn wrong_others() -> Vec<(&'static str, NodeId, GroupId, Body)> {
    let meta = GroupId::META;
    let may_end = |term, index| Body::MayEnd(MayEnd { id: 9, term, index });
    let reply = |id, leader| Body::ForwardReply(ForwardReply { id, leader, reply: None });
    vec![
        ("PeerMessage.group", LEADER, GroupId(4), Body::Raft(raft(Kind::Append, LEADER))),
        ("PeerMessage.group", LEADER, FOLLOWED, Body::Release(Release { seq: 2 })),
        ("Forward.id", STRANGER, FOLLOWED, Body::Forward(Forward::default())),
        ("ForwardReply.id", NodeId(3), FOLLOWED, reply(7, 0)),
        ("ForwardReply.id", LEADER, LED, reply(7, 0)),
        ("MarkRequest.seq", LEADER, meta, Body::MarkRequest(MarkRequest { seq: 0 })),
        ("MarkRequest.seq", LEADER, meta, Body::MarkRequest(MarkRequest { seq: u64::MAX })),
        ("MarkRequest.seq", STRANGER, meta, Body::MarkRequest(MarkRequest { seq: 2 })),
        ("Marked.seq", LEADER, meta, Body::Marked(Marked { seq: u64::MAX, groups: vec![0] })),
        ("Marked.seq", STRANGER, meta, Body::Marked(Marked { seq: 2, groups: vec![0] })),
        ("Marked.groups", LEADER, meta, Body::Marked(Marked { seq: 2, groups: vec![4] })),
        ("Marked.groups", LEADER, meta, Body::Marked(Marked { seq: 2, groups: vec![0; 6] })),
        ("EndRequest.id", STRANGER, FOLLOWED, Body::EndRequest(EndRequest { id: 9 })),
        ("MayEnd.id", STRANGER, FOLLOWED, may_end(7, 100)),
        ("MayEnd.term", LEADER, FOLLOWED, may_end(0, 100)),
        ("MayEnd.term", LEADER, FOLLOWED, may_end(u64::MAX, 100)),
        ("MayEnd.index", LEADER, FOLLOWED, may_end(7, u64::MAX)),
        ("Release.seq", LEADER, meta, Body::Release(Release { seq: u64::MAX })),
        ("Release.seq", STRANGER, meta, Body::Release(Release { seq: 2 })),
    ]
}

#[test]
fn every_field_of_what_nodes_say_to_each_other_has_a_row() {
    let contract = FileDescriptorSet::decode(proto::DESCRIPTORS).unwrap();
    let file = |name: &str| contract.file.iter().find(|f| f.name().ends_with(name)).unwrap();
    let logged = ["Command", "AddSiteData", "DropSiteData", "Mark", "SetLineage", "MetaCommand"];
    let said = file("internal/v1/peer.proto").message_type.iter();
    let said = said.chain(
        file("internal/v1/record.proto").message_type.iter().filter(|m| logged.contains(&m.name())),
    );
    let fields: BTreeSet<String> = said
        .flat_map(|m| m.field.iter().map(move |f| format!("{}.{}", m.name(), f.name())))
        .collect();
    assert!(
        fields.len() > 100
            && contract.file.iter().any(|f| f
                .message_type
                .iter()
                .any(|m| m.field.iter().any(|f| f.r#type() == Type::Message)))
    );

    let engine = super::RAFT.iter().map(|r| (r.field, r.rule)).chain(
        super::FORWARD.iter().chain(super::ENDINGS).chain(super::MARKS).map(|r| (r.field, r.rule)),
    );
    let engine = engine.chain(super::REPLY.iter().map(|r| (r.field, r.rule)));
    let rows: Vec<(&str, &str)> = engine
        .chain(commands::RULES.iter().copied())
        .chain(elsewhere::FIELDS.iter().copied())
        .collect();
    let named: BTreeSet<String> = rows.iter().map(|(field, _)| (*field).to_owned()).collect();
    assert_eq!(
        fields.difference(&named).collect::<Vec<_>>(),
        Vec::<&String>::new(),
        "nobody says who may say these, and within what bounds"
    );
    assert_eq!(
        named.difference(&fields).collect::<Vec<_>>(),
        Vec::<&String>::new(),
        "the contract has no such fields"
    );
    assert_eq!(named.len(), rows.len(), "a field has two rows");
    assert!(rows.iter().all(|(_, rule)| !rule.is_empty()));
}

#[test]
fn what_nodes_that_are_well_say_is_taken() {
    let scene = Scene::new();
    for kind in KINDS {
        let group =
            if matches!(kind, Kind::ReadIndex | Kind::AppendResponse | Kind::HeartbeatResponse) {
                LED
            } else {
                FOLLOWED
            };
        assert_eq!(
            scene.judge(LEADER, group, Body::Raft(raft(kind, LEADER))),
            Verdict::Take,
            "{kind:?}"
        );
    }
    let marked = Body::Marked(Marked { seq: 2, groups: vec![0, 1] });
    let bodies = [
        Body::MarkRequest(MarkRequest { seq: 2 }),
        Body::MarkRequest(MarkRequest { seq: 3 }),
        marked,
        Body::Release(Release { seq: 2 }),
    ];
    for body in bodies {
        assert_eq!(scene.judge(LEADER, GroupId::META, body.clone()), Verdict::Take, "{body:?}");
    }
    assert_eq!(scene.judge(IDLE, ABSENT, Body::Forward(Forward::default())), Verdict::Take);
    assert_eq!(
        scene.judge(
            LEADER,
            FOLLOWED,
            Body::ForwardReply(ForwardReply { id: 7, leader: 3, reply: None })
        ),
        Verdict::Take
    );
    // A node moves on by elections, or was away for many.
    let later = RaftMessage { term: 7 + limits::TERM_STEP_MAX, ..raft(Kind::Heartbeat, NodeId(3)) };
    assert_eq!(scene.judge(NodeId(3), FOLLOWED, Body::Raft(later)), Verdict::Take);
}

#[test]
fn every_row_refuses_what_no_node_that_is_well_says() {
    let scene = Scene::new();
    let mut tried = BTreeSet::new();
    for (field, kind, change) in WRONG {
        let mut message = raft(*kind, LEADER);
        change(&mut message);
        assert_eq!(
            scene.judge(LEADER, FOLLOWED, Body::Raft(message.clone())),
            Verdict::Refuse(field),
            "{message:?}"
        );
        tried.insert(*field);
    }
    for (field, from, group, body) in wrong_others() {
        assert_eq!(
            scene.judge(from, group, body.clone()),
            Verdict::Refuse(field),
            "{body:?} of {from}"
        );
        tried.insert(field);
    }
    // What a leader is told of its own log.
    for (index, verdict) in [(100, Verdict::Take), (101, Verdict::Refuse("RaftMessage.index"))] {
        let told = RaftMessage { index, ..raft(Kind::AppendResponse, LEADER) };
        assert_eq!(scene.judge(LEADER, LED, Body::Raft(told)), verdict);
    }
    // An answer that names a node that nobody knows leads nowhere; it may be one that has just
    // come.
    assert_eq!(
        scene.judge(
            LEADER,
            FOLLOWED,
            Body::ForwardReply(ForwardReply { id: 7, leader: 99, reply: None })
        ),
        Verdict::Later
    );
    tried.insert("ForwardReply.leader");
    let rows = super::RAFT
        .iter()
        .map(|r| r.field)
        .chain(super::FORWARD.iter().chain(super::ENDINGS).chain(super::MARKS).map(|r| r.field))
        .chain(super::REPLY.iter().map(|r| r.field));
    assert_eq!(
        rows.filter(|field| !tried.contains(field)).collect::<Vec<_>>(),
        Vec::<&str>::new(),
        "rows that are not tried"
    );
}

#[test]
fn nobody_is_believed_beyond_what_it_is_to_a_group() {
    let scene = Scene::new();
    let says = |scene: &Scene, kind, from: NodeId, group| {
        scene.judge(from, group, Body::Raft(raft(kind, from)))
    };
    let refused = Verdict::Refuse("RaftMessage.from");
    for kind in
        [Kind::Append, Kind::Heartbeat, Kind::Snapshot, Kind::RequestVote, Kind::RequestPreVote]
    {
        assert_eq!(says(&scene, kind, STRANGER, FOLLOWED), refused, "{kind:?}");
        assert_eq!(says(&scene, kind, STRANGER, SILENT), refused, "{kind:?}");
        assert_eq!(says(&scene, kind, STRANGER, GroupId::META), refused, "{kind:?}");
        let elected = RaftMessage { term: 8, ..raft(kind, IDLE) };
        assert_eq!(
            scene.judge(IDLE, FOLLOWED, Body::Raft(elected)),
            Verdict::Later,
            "a leader is heard: {kind:?}"
        );
        assert_eq!(
            says(&scene, kind, IDLE, SILENT),
            Verdict::Take,
            "members may have changed: {kind:?}"
        );
    }
    for kind in
        [Kind::AppendResponse, Kind::HeartbeatResponse, Kind::RequestVoteResponse, Kind::ReadIndex]
    {
        assert_eq!(says(&scene, kind, STRANGER, LED), refused, "{kind:?}");
    }
    for kind in [Kind::TimeoutNow, Kind::ReadIndexResponse] {
        assert_eq!(says(&scene, kind, NodeId(3), FOLLOWED), refused, "another one leads: {kind:?}");
        assert_eq!(says(&scene, kind, NodeId(3), SILENT), Verdict::Later, "{kind:?}");
    }
    for kind in [Kind::Append, Kind::Heartbeat, Kind::Snapshot] {
        assert_eq!(
            says(&scene, kind, NodeId(3), FOLLOWED),
            refused,
            "another one was elected in this term: {kind:?}"
        );
        let elected = RaftMessage { term: 8, ..raft(kind, NodeId(3)) };
        assert_eq!(
            scene.judge(NodeId(3), FOLLOWED, Body::Raft(elected)),
            Verdict::Take,
            "{kind:?}"
        );
    }
    // In place of a leader that lives.
    let stands = |from: NodeId| RaftMessage {
        context: "CampaignTransfer".into(),
        ..raft(Kind::RequestVote, from)
    };
    assert_eq!(scene.judge(NodeId(3), FOLLOWED, Body::Raft(stands(NodeId(3)))), Verdict::Take);
    // One that may have become a member meanwhile.
    assert_eq!(scene.judge(IDLE, SILENT, Body::Raft(stands(IDLE))), Verdict::Later);
    // Who has led a group until now may say so late, and is not believed.
    for (from, group) in [(LEADER, GroupId::META), (IDLE, FOLLOWED)] {
        let marked = Marked { seq: 2, groups: vec![group.0] };
        assert_eq!(scene.judge(from, GroupId::META, Body::Marked(marked)), Verdict::Later);
    }
    // Whoever holds a group may ask whether it should, and hears nothing that it did not ask for.
    let asks = Body::EndRequest(EndRequest { id: 9 });
    assert_eq!(scene.judge(IDLE, FOLLOWED, asks), Verdict::Take);
    let may = Body::MayEnd(MayEnd { id: 9, term: 7, index: 100 });
    for from in [LEADER, IDLE] {
        assert_eq!(scene.judge(from, FOLLOWED, may.clone()), Verdict::Later, "it is assigned here");
    }
    // Who asks for marks and releases leads the meta group.
    for body in [Body::MarkRequest(MarkRequest { seq: 2 }), Body::Release(Release { seq: 2 })] {
        assert_eq!(scene.judge(NodeId(3), GroupId::META, body), Verdict::Later);
    }
}

#[test]
fn a_node_that_was_away_learns_from_a_leader_that_it_has_never_heard_of() {
    let mut scene = Scene::new();
    let meta = scene.held.get_mut(&GroupId::META).unwrap();
    (meta.leader, meta.follows) = (None, false);
    let says = |scene: &Scene, group| {
        scene.judge(STRANGER, group, Body::Raft(raft(Kind::Append, STRANGER)))
    };
    assert_eq!(says(&scene, GroupId::META), Verdict::Take);
    assert_eq!(says(&scene, SILENT), Verdict::Later, "the meta group comes first");
    // It goes on to follow the one that it has found.
    let meta = scene.held.get_mut(&GroupId::META).unwrap();
    (meta.leader, meta.follows) = (Some(STRANGER), true);
    assert_eq!(says(&scene, GroupId::META), Verdict::Take);
}

#[test]
fn a_node_that_knows_nothing_yet_takes_a_group_only_behind_a_snapshot_of_one_that_may_hold_it() {
    let mut scene = Scene::new();
    let append = |from: NodeId, index| {
        Body::Raft(RaftMessage { index, entries: Vec::new(), ..raft(Kind::Append, from) })
    };
    assert_eq!(scene.judge(LEADER, ABSENT, append(LEADER, 100)), Verdict::Take);
    assert_eq!(
        scene.judge(LEADER, ABSENT, append(LEADER, 0)),
        Verdict::Refuse("RaftMessage.index")
    );
    scene.meta = State::unknown(scene.meta.settings().clone());
    scene.held.clear();
    for group in [GroupId::META, FOLLOWED] {
        assert_eq!(scene.judge(STRANGER, group, append(STRANGER, 100)), Verdict::Take);
    }
}

#[test]
fn a_command_is_proposed_only_where_it_can_be_applied_and_by_whom_it_may_be_asked_for() {
    let scene = Scene::new();
    let [there, going, elsewhere] = [site(FOLLOWED, 1), site(FOLLOWED, 2), site(LED, 1)];
    let drop = |site: &SiteId, generation, rows_max| data::Command::DropSite {
        site: site.clone(),
        generation: SiteGeneration(generation),
        rows_max,
    };
    let add = |site: &SiteId, generation| data::Command::AddSite {
        site: site.clone(),
        generation: SiteGeneration(generation),
    };
    let mark = || Command { request: None, action: Action::Mark(SnapshotSeq(2)) };
    let meta = GroupId::META;
    let data: Vec<(Command, Result<(), &str>)> = vec![
        (add(&there, 1).into(), Ok(())),
        (add(&there, 2).into(), Err("later")),
        (add(&site(FOLLOWED, 9), 2).into(), Err("AddSiteData.generation")),
        (add(&site(FOLLOWED, 9), 3).into(), Err("later")),
        (add(&elsewhere, 1).into(), Err("AddSiteData.site")),
        (add(&there, u64::MAX).into(), Err("AddSiteData.generation")),
        (drop(&going, 2, 100).into(), Ok(())),
        (drop(&site(FOLLOWED, 9), 2, 100).into(), Ok(())),
        (drop(&there, 1, 100).into(), Err("later")),
        (drop(&there, u64::MAX, 100).into(), Err("DropSiteData.generation")),
        (drop(&going, 2, 0).into(), Err("DropSiteData.rows_max")),
        (drop(&going, 2, u32::MAX).into(), Err("DropSiteData.rows_max")),
        (drop(&elsewhere, 1, 100).into(), Err("DropSiteData.site")),
        (data::Command::SetLineage { lineage: Lineage(9) }.into(), Err("Command.set_lineage")),
        (mark(), Err("Command.mark")),
        (cluster::Command::AddSite(there.clone()).into(), Err("Command.meta")),
    ];
    for (asked, expected) in data {
        assert_eq!(scene.command(LEADER, FOLLOWED, asked.clone()), expected, "{asked:?}");
    }
    let node =
        |lineage| Node { lineage: Lineage(lineage), ..scene.meta.node(LEADER).unwrap().clone() };
    let report = |part| cluster::Command::ReportPart { id: SnapshotId(uuid::Uuid::nil()), part };
    let gone = |node| cluster::Command::ReportDeletion {
        id: SnapshotId(uuid::Uuid::nil()),
        node,
        reason: String::new(),
    };
    let configuration: Vec<(Command, Result<(), &str>)> = vec![
        (cluster::Command::AddSite(there.clone()).into(), Ok(())),
        (cluster::Command::AnnounceNode(node(5)).into(), Ok(())),
        (cluster::Command::AnnounceNode(node(6)).into(), Err("later")),
        (report(Part::processing(LEADER)).into(), Ok(())),
        (report(Part::processing(ME)).into(), Err("MetaCommand.report_part")),
        (gone(LEADER).into(), Ok(())),
        (gone(ME).into(), Err("MetaCommand.report_deletion")),
        (
            cluster::Command::SealSnapshot { seq: SnapshotSeq(2) }.into(),
            Err("MetaCommand.seal_snapshot"),
        ),
        (
            cluster::Command::AbortSnapshot { seq: SnapshotSeq(2), reason: String::new() }.into(),
            Err("MetaCommand.abort_snapshot"),
        ),
        (
            cluster::Command::EstablishLineage { nonce: 1 }.into(),
            Err("MetaCommand.establish_lineage"),
        ),
        (mark(), Err("Command.mark")),
        (add(&there, 1).into(), Err("Command.add_site_data")),
        (drop(&there, 1, 100).into(), Err("Command.drop_site_data")),
    ];
    for (asked, expected) in configuration {
        assert_eq!(scene.command(LEADER, meta, asked.clone()), expected, "{asked:?}");
    }
    let read = |site: SiteId| Query {
        site,
        bucket: Bucket::Default,
        read: Read::Get { key: Key::new("k").unwrap() },
    };
    let ask = |group, site: &SiteId| {
        scene.with_facts(LEADER, group, |facts| query(facts, &read(site.clone()))).is_ok()
    };
    assert_eq!(
        [ask(FOLLOWED, &there), ask(FOLLOWED, &elsewhere), ask(meta, &there)],
        [true, false, false]
    );
}

#[test]
fn rows_come_from_who_may_lead_and_mark_nothing_that_was_not_begun() {
    let scene = Scene::new();
    let may = |from, group| scene.with_facts(from, group, super::rows).is_ok();
    assert_eq!(
        [may(LEADER, ABSENT), may(STRANGER, ABSENT), may(IDLE, FOLLOWED), may(LEADER, GroupId(4))],
        [true, false, false, false]
    );
    let taken = |change: fn(&mut crate::entry::Record)| {
        let mut record = crate::entry::Record {
            applied: crate::entry::Position { index: 100, term: 7 },
            mark: SnapshotSeq(2),
            ..Default::default()
        };
        change(&mut record);
        scene.with_facts(LEADER, ABSENT, |facts| super::record(facts, &record)).is_ok()
    };
    assert!(taken(|_| ()));
    let newer = crate::entry::Record {
        applied: crate::entry::Position { index: 100, term: 7 },
        mark: SnapshotSeq(3),
        ..Default::default()
    };
    assert!(
        scene.with_facts(LEADER, GroupId::META, |facts| super::record(facts, &newer)).is_ok(),
        "it is these rows that say what was begun"
    );
    assert!(!taken(|r| r.mark = SnapshotSeq(3)));
    assert!(!taken(|r| r.applied.index = u64::MAX));
    assert!(!taken(|r| r.applied.index = 0));
    assert!(!taken(|r| r.data.dots = u64::MAX));
    assert_eq!(super::only_if(true), Judged::Fine);
}
