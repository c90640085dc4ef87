//! A running engine behind the door for peers: two nodes of three lead and follow for real, and in
//! the place of the third speaks whoever the input is.
//!
//! The input is a sequence of messages, each with who says it and to whom. Whatever they are, no
//! round fails or panics, and when they are over the two nodes elect, write, read and take a
//! snapshot as before, and sites are there or not there as the registry says.
//!
//! What is left out is what has to be believed of a node that may vote: that it was elected, and
//! whom it votes for. A member that lies about that breaks any Raft. A stranger may say that too. A
//! registered node may also ask for a site to be removed.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use devicedb::{
    base::{
        clock::Random,
        error::Result,
        ids::{
            ClusterId, GroupId, Lineage, NodeId, RequestId, SiteGeneration, SiteId, SnapshotId,
            SnapshotSeq, Topology,
        },
        limits,
    },
    cluster::{self, Node, State, level::Level, reconfigure::Membership, state::Settings},
    data::{
        self, Bucket, Key, Query, Read, Reply, Row, RowKey, SiteRow, SiteStage, Stamp, Step, Value,
        Write,
    },
    engine::{ArrivedRows, Body, Bounds, Engine, Host, Input, Job, News, RowsToSend, Token},
    entry::{Action, Command, Identity, LOG_BEGIN, Record},
    log::Log,
    proto::internal::{
        v1 as internal,
        v1::{
            Forward, PeerMessage, RaftMessage, RaftMessageType as Kind, command::Action as Wire,
            forward::Request as Asked, meta_command::Action as MetaAction, peer_message,
        },
    },
    store::{FORMAT, Store, keys},
    wire,
};
use prost::Message as _;
use tempfile::TempDir;
use uuid::Uuid;

use super::{Feed, disk::Memory};

const LINEAGE: Lineage = Lineage(5);
pub const THIRD: NodeId = NodeId(3);
/// Registered, and in no group.
const IDLE: NodeId = NodeId(4);
const STRANGER: NodeId = NodeId(99);
const SPEAKERS: [NodeId; 3] = [THIRD, IDLE, STRANGER];
const MESSAGES_MAX: usize = 40;
/// An election, and what else may have to pass.
const TICKS_MAX: u32 = 150;

thread_local! {
    static DIR: TempDir = super::directory();
}

pub fn topology() -> Topology {
    Topology::new(64, 2).expect("a shape that can be")
}

/// One that lies in the group.
pub fn site(group: GroupId) -> SiteId {
    let mut named = (0..).map(|n| SiteId::new(format!("site{n}")).expect("a plain name"));
    named.find(|site| topology().group_of_site(site) == group).expect("every group has sites")
}

fn identity(node: NodeId) -> Identity {
    Identity {
        format: FORMAT,
        node,
        cluster: ClusterId(Uuid::nil()),
        lineage: LINEAGE,
        restored_from: None,
        topology: topology(),
    }
}

/// A cluster of three, of one that holds nothing, and of a site in each group.
fn configuration() -> State {
    let node = |id, capacity_percent| Node {
        id,
        address: "a:1".into(),
        capacity_percent,
        version: String::new(),
        snapshot_store: true,
        lineage: LINEAGE,
        level: Level::own(),
        leaving: false,
        draining: false,
        certificate_name: None,
    };
    let settings = Settings::founding(ClusterId(Uuid::nil()), LINEAGE, 3, topology())
        .expect("settings that can be");
    let mut state = State::found(settings, node(NodeId(1), 100)).expect("a node that can be");
    let nodes = [(NodeId(2), 100), (THIRD, 100), (IDLE, 0)]
        .map(|(id, capacity)| cluster::Command::AnnounceNode(node(id, capacity)));
    let sites = (1..).zip(topology().group_ids()).flat_map(|(n, group)| {
        let (site, generation) = (site(group), SiteGeneration(n));
        [cluster::Command::AddSite(site.clone()), cluster::Command::SiteAdded { site, generation }]
    });
    nodes.into_iter().chain(sites).for_each(|command| drop(state.apply(&command)));
    state
}

/// What the engine says.
#[derive(Default)]
struct Said {
    now: Duration,
    sent: Vec<(NodeId, PeerMessage)>,
    answers: BTreeMap<Token, Result<Reply>>,
    jobs: VecDeque<Job>,
}

impl Host for Said {
    fn now(&self) -> Duration {
        self.now
    }
    fn send(&mut self, to: NodeId, message: PeerMessage) {
        self.sent.push((to, message));
    }
    fn flush(&mut self) {}
    fn answer(&mut self, token: Token, answer: Result<Reply>) {
        self.answers.insert(token, answer);
    }
    fn start(&mut self, job: Job) -> Result<()> {
        self.jobs.push_back(job);
        Ok(())
    }
    fn send_rows(&mut self, _: RowsToSend) {}
    fn discard(&mut self, _: ArrivedRows) {}
    fn tell(&mut self, _: News) {}
    fn adopt(&mut self, _: &Identity) -> Result<()> {
        Ok(())
    }
}

struct Process {
    engine: Engine,
    store: Store,
    log: Log,
    said: Said,
}

impl Process {
    fn open(id: NodeId, state: &State) -> Process {
        let dir = DIR.with(|dir| dir.path().join(id.to_string()));
        std::fs::create_dir_all(dir.join("log"))
            .expect("the temporary directory takes directories");
        let store = Store::create(&dir, &Memory, &wire::encode_identity(&identity(id)))
            .expect("memory takes a store");
        let members =
            Membership { voters: [NodeId(1), NodeId(2), THIRD].into(), ..Membership::default() };
        let mut commit = store.begin().expect("memory takes a commit");
        for group in topology().group_ids().chain([GroupId::META]) {
            let data = data::State { lineage: LINEAGE, ..data::State::default() };
            let record =
                Record { applied: LOG_BEGIN, members: members.clone(), data, ..Record::default() };
            commit.group(group, &wire::encode_record(&record)).expect("memory takes a record");
        }
        let mut rows: Vec<(Vec<u8>, Bytes)> = super::meta::all_rows(state)
            .into_iter()
            .map(|(name, row)| (keys::meta(&name), row.into()))
            .collect();
        for (n, group) in (1..).zip(topology().group_ids()) {
            let (site, stands) =
                (site(group), SiteRow { stage: SiteStage::Present, generation: SiteGeneration(n) });
            let key = RowKey::of_site(topology().partition_of(&site), site);
            rows.push((keys::data(&key.encode()), wire::encode_row(&Row::Site(stands))));
        }
        rows.sort();
        commit
            .rows(rows.iter().map(|(key, row)| (key.as_slice(), Some(&row[..]))))
            .expect("memory takes rows");
        commit.finish().expect("memory takes a commit");
        let log = Log::open(&dir, Arc::new(Memory)).expect("memory takes a log");
        let engine = Engine::open(
            identity(id),
            &store,
            log.clone(),
            Random::seeded(id.0),
            Duration::ZERO,
            Bounds::default(),
        )
        .expect("it was just made");
        Process { engine, store, log, said: Said::default() }
    }

    /// A round, and the jobs that it begins.
    fn round(&mut self, now: Duration, input: Input) {
        self.said.now = now;
        self.engine.round([input], &mut self.said).expect("the engine goes on");
        while let Some(job) = self.said.jobs.pop_front() {
            let finished = job.run(&self.store, &self.log, topology());
            self.engine
                .round([Input::Finished(finished)], &mut self.said)
                .expect("the engine goes on");
        }
    }
}

pub struct Pair {
    processes: [Process; 2],
    now: Duration,
    tokens: u64,
    /// What the third node was told, for who wants to answer as it would.
    pub heard: Vec<PeerMessage>,
}

impl Pair {
    pub fn new() -> Pair {
        let state = configuration();
        let mut pair = Pair {
            processes: [NodeId(1), NodeId(2)].map(|id| Process::open(id, &state)),
            now: Duration::ZERO,
            tokens: 0,
            heard: Vec::new(),
        };
        let leads = |pair: &mut Pair| {
            topology().group_ids().chain([GroupId::META]).all(|group| pair.leader(group).is_some())
        };
        (0..TICKS_MAX).find(|_| {
            pair.tick();
            leads(&mut pair)
        });
        assert!(leads(&mut pair), "two of three elect");
        pair
    }

    fn index(node: NodeId) -> usize {
        node.0 as usize - 1
    }

    /// Who leads a group, if somebody does and the other one knows.
    fn leader(&mut self, group: GroupId) -> Option<NodeId> {
        let now = self.now;
        let seen = self.processes.each_mut().map(|process| {
            let (tell, told) = std::sync::mpsc::sync_channel(1);
            let see = Box::new(move |sight: Result<devicedb::engine::EngineView<'_>>| {
                tell.send(sight.expect("it asks nobody").leader(group)).expect("it is waited for");
            });
            process.round(
                now,
                Input::Inspection(devicedb::engine::Inspection {
                    linearizable: false,
                    deadline: Duration::MAX,
                    see,
                }),
            );
            told.recv().expect("a look is answered at once")
        });
        seen[0].filter(|leader| seen[1] == Some(*leader) && *leader != THIRD)
    }

    /// Has a node take something, and carries what follows from it between the two.
    fn take(&mut self, node: NodeId, input: Input) {
        self.processes[Pair::index(node)].round(self.now, input);
        let mut busy = true;
        while busy {
            busy = false;
            for from in [NodeId(1), NodeId(2)] {
                for (to, message) in
                    std::mem::take(&mut self.processes[Pair::index(from)].said.sent)
                {
                    if to.0 <= 2 {
                        busy = true;
                        self.processes[Pair::index(to)]
                            .round(self.now, Input::Peer { from, message: Box::new(message) });
                    } else if to == THIRD {
                        self.heard.push(message);
                    }
                }
            }
        }
    }

    pub fn tick(&mut self) {
        self.now += limits::TICK;
        self.take(NodeId(1), Input::Tick);
        self.take(NodeId(2), Input::Tick);
    }

    /// Asks a node, and waits until it is answered well.
    fn ask(&mut self, node: NodeId, group: GroupId, body: Body) -> Reply {
        for _ in 0..TICKS_MAX {
            self.tokens += 1;
            let token = Token(self.tokens);
            self.take(
                node,
                Input::Request {
                    token,
                    group,
                    body: body.clone(),
                    deadline: self.now + 20 * limits::TICK,
                },
            );
            for _ in 0..=20 {
                match self.processes[Pair::index(node)].said.answers.remove(&token) {
                    Some(Ok(reply)) => return reply,
                    Some(Err(_)) => {
                        self.tick();
                        break;
                    }
                    None => self.tick(),
                }
            }
        }
        panic!("group {group} does not answer {body:?} any more");
    }

    /// Whether it must be believed of a node that is registered: what Raft builds on, and what
    /// users may ask for.
    fn is_sworn(&self, to: NodeId, from: NodeId, message: &PeerMessage) -> bool {
        match &message.body {
            Some(peer_message::Body::Forward(forward)) => {
                let Some(Asked::Command(command)) = &forward.request else { return false };
                let Some(Wire::Meta(meta)) = &command.action else { return false };
                matches!(meta.action, Some(MetaAction::RemoveSite(_)))
            }
            Some(peer_message::Body::Raft(raft)) => {
                let term = self.processes[Pair::index(to)]
                    .engine
                    .term(GroupId(message.group))
                    .unwrap_or(0);
                let claims = (term..=term + limits::TERM_STEP_MAX).contains(&raft.term);
                let may_vote = from != STRANGER || message.group == GroupId::META.0;
                may_vote
                    && match raft.r#type() {
                        Kind::Append | Kind::Heartbeat | Kind::Snapshot => claims,
                        Kind::RequestVoteResponse | Kind::RequestPreVoteResponse => true,
                        Kind::RequestVote | Kind::RequestPreVote => raft.commit > 0,
                        _ => false,
                    }
            }
            _ => false,
        }
    }

    fn serves(&mut self, round: u64) {
        for group in topology().group_ids() {
            let (site, key) = (site(group), Key::new(format!("key{round}")).expect("a plain name"));
            let step = Step {
                key: key.clone(),
                value: Some(Value::new("value").expect("a small value")),
                context: None,
                stamp: Stamp::Floor(1),
            };
            let write =
                Write::new(site.clone(), Bucket::Default, vec![step]).expect("a small write");
            let request =
                RequestId(((u128::from(round) << 64) | (u128::from(group.0) + 1)).to_be_bytes());
            let write = Command {
                request: Some(request),
                action: Action::Data(data::Command::Write(write)),
            };
            assert!(matches!(self.ask(NodeId(1), group, Body::Propose(write)), Reply::Written(_)));
            let query = Query { site, bucket: Bucket::Default, read: Read::Get { key } };
            let Reply::Found(found) =
                self.ask(NodeId(2), group, Body::Read { query, stale: false })
            else {
                panic!("a key is looked for")
            };
            assert_eq!(found.versions.len(), 1, "what was written is read");
        }
        let id = SnapshotId(Uuid::from_u128(u128::from(round) + 1));
        self.ask(
            NodeId(2),
            GroupId::META,
            Body::Propose(cluster::Command::BeginSnapshot { id, created_ms: 0 }.into()),
        );
        let sealed = |pair: &Pair| {
            pair.processes.iter().all(|p| {
                p.engine
                    .meta()
                    .snapshot_named(id)
                    .is_some_and(|s| s.stage == cluster::snapshots::Stage::Sealed)
            })
        };
        let over = (0..TICKS_MAX).any(|_| {
            self.tick();
            sealed(self)
        });
        assert!(
            over,
            "a snapshot is not sealed any more: {:?}",
            self.processes[0].engine.meta().snapshot_named(id)
        );
    }

    fn has_kept(&self) {
        for process in &self.processes {
            let meta = process.engine.meta();
            assert_eq!(
                meta.sites()
                    .sites()
                    .keys()
                    .filter(|s| topology().group_ids().any(|g| site(g) == **s))
                    .count(),
                2,
                "a site is gone"
            );
            assert!(meta.settings().begun < SnapshotSeq(1 << 32), "a number has jumped");
        }
    }
}

/// Messages as pieces, each behind a byte that says who speaks to whom.
pub fn engine(input: &[u8]) -> bool {
    let mut pair = Pair::new();
    let (mut feed, mut all) = (Feed(input), true);
    for _ in 0..MESSAGES_MAX {
        if feed.is_empty() {
            break;
        }
        let choice = feed.byte();
        let (from, to) = (
            SPEAKERS[usize::from(choice >> 1) % SPEAKERS.len()],
            NodeId(1 + u64::from(choice & 1)),
        );
        let Ok(message) = PeerMessage::decode(Bytes::copy_from_slice(feed.piece())) else {
            all = false;
            continue;
        };
        if !pair.is_sworn(to, from, &message) {
            pair.take(to, Input::Peer { from, message: Box::new(message) });
        }
        if choice & 0x80 != 0 {
            pair.tick();
        }
    }
    pair.serves(0);
    pair.has_kept();
    all
}

/// What the third node hears, as if it said it; what it would answer; and what nodes gone wrong
/// have said.
pub fn corpus() -> Vec<Vec<u8>> {
    let heard: Vec<PeerMessage> = {
        let mut pair = Pair::new();
        pair.serves(0);
        std::mem::take(&mut pair.heard)
    };
    let mut kinds: BTreeMap<(u32, String), PeerMessage> = BTreeMap::new();
    for message in heard {
        let kind = match &message.body {
            Some(peer_message::Body::Raft(raft)) => {
                format!("{:?} {}", raft.r#type(), raft.entries.len().min(2))
            }
            other => format!("{other:?}").chars().take_while(|c| *c != ' ').collect(),
        };
        kinds.insert((message.group, kind), message);
    }
    let mut said: Vec<PeerMessage> = kinds.into_values().map(turned).collect();
    let replies = [
        Kind::AppendResponse,
        Kind::HeartbeatResponse,
        Kind::RequestVoteResponse,
        Kind::TimeoutNow,
        Kind::TransferLeader,
        Kind::ReadIndex,
    ];
    for kind in replies {
        let raft = RaftMessage {
            r#type: kind as i32,
            from: THIRD.0,
            to: 1,
            term: 6,
            index: 8,
            commit: 8,
            ..RaftMessage::default()
        };
        said.extend([0, 1, GroupId::META.0].map(|group| PeerMessage {
            group,
            body: Some(peer_message::Body::Raft(raft.clone())),
        }));
    }
    let forward = |group: GroupId, action| {
        let command = internal::Command { request_id: Bytes::new(), action: Some(action) };
        let forward = Forward {
            id: 7,
            deadline_ms: 1000,
            request: Some(Asked::Command(command)),
            ..Forward::default()
        };
        PeerMessage { group: group.0, body: Some(peer_message::Body::Forward(forward)) }
    };
    for group in topology().group_ids() {
        let site = site(group).as_str().to_owned();
        let meta = internal::MetaCommand {
            operation: None,
            ticket: None,
            away: Vec::new(),
            action: Some(MetaAction::AddSite("ghost".into())),
            site_generation: 0,
        };
        let actions = [
            Wire::Mark(internal::Mark { seq: u64::MAX }),
            Wire::SetLineage(internal::SetLineage { lineage: 9 }),
            Wire::DropSiteData(internal::DropSiteData {
                site: site.clone(),
                rows_max: 100,
                generation: 1 + u64::from(group.0),
            }),
            Wire::AddSiteData(internal::AddSiteData { site, generation: 9 }),
            Wire::Meta(meta),
        ];
        said.extend(
            actions.into_iter().flat_map(|action| {
                [forward(group, action.clone()), forward(GroupId::META, action)]
            }),
        );
    }
    let sealed = MetaAction::SealSnapshot(internal::SealSnapshot { seq: 1 });
    said.push(forward(
        GroupId::META,
        Wire::Meta(internal::MetaCommand {
            operation: None,
            ticket: None,
            action: Some(sealed),
            site_generation: 0,
            away: Vec::new(),
        }),
    ));
    said.push(PeerMessage {
        group: GroupId::META.0,
        body: Some(peer_message::Body::Release(internal::Release { seq: 1 })),
    });
    let mut hostile = said.clone();
    for message in &mut hostile {
        if let Some(peer_message::Body::Raft(raft)) = &mut message.body {
            raft.term = u64::MAX;
        }
    }
    let piece = |(number, message): (usize, &PeerMessage)| {
        let choice = (number as u8 % 6) | if number % 4 == 0 { 0x80 } else { 0 };
        [vec![choice], super::pieces([message.encode_to_vec()])].concat()
    };
    let inputs = |messages: &[PeerMessage]| {
        messages
            .chunks(12)
            .map(|some| some.iter().enumerate().flat_map(piece).collect())
            .collect::<Vec<_>>()
    };
    [inputs(&said), inputs(&hostile)].concat()
}

/// What was said to the third node, said by it to the first.
fn turned(mut message: PeerMessage) -> PeerMessage {
    if let Some(peer_message::Body::Raft(raft)) = &mut message.body {
        (raft.from, raft.to) = (THIRD.0, 1);
    }
    message
}
