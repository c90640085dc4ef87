//! Valid inputs of every target, written by the product's own encoders: what mutations begin with.

mod configuration;

use bytes::Bytes;
use configuration::{changes, node, settings};
use devicedb::{
    base::{
        error::{Error, Kind},
        ids::{
            ClusterId, GroupId, Lineage, NodeId, PartitionId, RequestId, SiteGeneration, SiteId,
            SnapshotId, SnapshotSeq, Topology,
        },
    },
    cluster::{self, reconfigure::Membership},
    data::{
        self, Bucket, Context, Dot, Key, Outcome, Outcomes, Place, Remembered, Row, RowKey,
        SiteRow, SiteStage, Value, Verdict, Version, VersionVector, Versions,
    },
    entry::{Action, Command, Entry, Identity, Position, Record},
    part::{
        chunk::{self, Chunk, Chunker},
        manifest::{ChunkEntry, FORMAT, GroupPart, Manifest, MetaPart, PartitionPart},
    },
    proto::{
        internal::{
            v1 as internal,
            v1::{forward::Request, peer_message::Body},
        },
        v1,
    },
    store::{Store, keys, transfer},
    wire,
};
use prost::Message;
use uuid::Uuid;

use crate::targets::{self, pieces, words};

pub fn of(target: &str) -> Vec<Vec<u8>> {
    match target {
        "request" => requests(),
        "context" => contexts(),
        "peer" => peers(),
        "engine" => targets::engine::corpus(),
        "hello" => hellos(),
        "status" => statuses(),
        "stored" => stored(),
        "meta_rows" => meta_rows(),
        "meta_commands" => vec![pieces(meta_commands())],
        "merge" => stories(),
        "manifest" => both_ways(vec![
            include_bytes!("../golden/snapshot/manifest-1.json").to_vec(),
            include_bytes!("../golden/snapshot/manifest-4.json").to_vec(),
            part().0.encode().expect("it is whole").0,
        ]),
        "chunk" => {
            [(0, framed().1), (1, framed().0)].map(|(mode, bytes)| tagged(mode, bytes)).into()
        }
        "tar" => both_ways(vec![
            include_bytes!("../golden/snapshot/part-1.tar").to_vec(),
            include_bytes!("../golden/snapshot/part-4.tar").to_vec(),
            targets::part::streamed(part().0, &part().1),
        ]),
        "seal" => vec![
            tagged(0, include_bytes!("../golden/snapshot/age-file").to_vec()),
            tagged(1, targets::part::RECIPIENT.trim().into()),
            tagged(2, targets::part::IDENTITY.trim().into()),
        ],
        "repository" => vec![
            tagged(0, include_bytes!("../golden/repository/snapshot.json").to_vec()),
            tagged(1, include_bytes!("../golden/repository/snapshot.json").to_vec()),
            tagged(2, include_bytes!("../golden/repository/index.json").to_vec()),
            tagged(4, include_bytes!("../golden/repository/snapshot-sealed.json").to_vec()),
            tagged(5, include_bytes!("../golden/repository/snapshot-sealed.json").to_vec()),
            tagged(6, include_bytes!("../golden/repository/catalogue.json").to_vec()),
            tagged(7, include_bytes!("../golden/repository/catalogue.json").to_vec()),
            tagged(6, include_bytes!("../golden/repository/catalogue-signed.json").to_vec()),
            tagged(7, include_bytes!("../golden/repository/catalogue-signed.json").to_vec()),
            tagged(8, include_bytes!("../golden/repository/voucher.json").to_vec()),
            tagged(9, include_bytes!("../golden/repository/voucher.json").to_vec()),
        ],
        "rows" => rows(),
        "node_id" => vec![b"1\n".to_vec(), b"16681865894510149803\n".to_vec()],
        "certificate" => targets::tls::corpus(),
        "greeting" => targets::greeting::corpus(),
        "start" => lines(words::START),
        "ctl" => lines(words::CTL),
        "guide" => lines(words::GUIDE),
        other => panic!("nobody knows what {other} takes"),
    }
}

fn tagged(tag: u8, mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.insert(0, tag);
    bytes
}

/// As it is, and with digests put right.
fn both_ways(inputs: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    inputs.into_iter().flat_map(|bytes| [tagged(0, bytes.clone()), tagged(1, bytes)]).collect()
}

// ---- Names and small things. ----

fn site() -> SiteId {
    SiteId::new("shop").expect("a plain name")
}

fn key() -> Key {
    Key::new("door").expect("a plain name")
}

fn value(text: &str) -> Value {
    Value::new(text.to_owned()).expect("a small value")
}

fn uuid() -> Uuid {
    Uuid::from_u128(0xb54a_61d9_b64c_45e0_94b7_80c9_e36b_86fa)
}

fn topology() -> Topology {
    targets::rows::topology()
}

/// What a writer knows after it wrote beside a value of an earlier history.
fn context(bucket: Bucket) -> Bytes {
    let vector = VersionVector::from_sorted([(Lineage(3), 9), (Lineage(7), 300)]).expect("sorted");
    let plain = Context::of(vector, &site(), bucket, &key()).encode();
    let dot = [7u64.to_be_bytes(), 305u64.to_be_bytes()].concat();
    [&[2], &plain[1..5], &dot, &plain[5..]].concat().into()
}

// ---- Requests. ----

fn requests() -> Vec<Vec<u8>> {
    let (site, key) = ("shop".to_owned(), Bytes::from("door"));
    let (context, id) = (Some(context(Bucket::Default)), Bytes::copy_from_slice(uuid().as_bytes()));
    let operation = |action| v1::BatchOperation {
        key: key.clone(),
        action: Some(action),
        context: context.clone(),
        timestamp_ms: Some(5),
    };
    let operations = vec![
        operation(v1::batch_operation::Action::Put("open".into())),
        operation(v1::batch_operation::Action::Delete(true)),
    ];
    let page_token = "17".to_owned();
    let messages = [
        v1::GetRequest { site: site.clone(), bucket: 1, key: key.clone(), consistency: 2 }
            .encode_to_vec(),
        v1::ScanRequest {
            site: site.clone(),
            bucket: 3,
            prefix: "d".into(),
            after: key.clone(),
            limit: 100,
            keys_only: true,
            consistency: 1,
        }
        .encode_to_vec(),
        v1::PutRequest {
            site: site.clone(),
            bucket: 1,
            key: key.clone(),
            value: "open".into(),
            context: context.clone(),
            timestamp_ms: Some(1),
            request_id: id.clone(),
        }
        .encode_to_vec(),
        v1::DeleteRequest {
            site: site.clone(),
            bucket: 0,
            key: key.clone(),
            context: context.clone(),
            timestamp_ms: Some(1),
            request_id: id.clone(),
        }
        .encode_to_vec(),
        v1::BatchRequest { site: site.clone(), bucket: 1, operations, request_id: id.clone() }
            .encode_to_vec(),
        v1::ListNodesRequest { page_size: 10, page_token: page_token.clone(), local: false }
            .encode_to_vec(),
        v1::ListSnapshotsRequest { page_size: 10, page_token: page_token.clone(), local: true }
            .encode_to_vec(),
        v1::ListSitesRequest { page_size: 10, page_token: page_token.clone(), local: true }
            .encode_to_vec(),
        v1::ListRelaysRequest { page_size: 10, page_token, site: site.clone(), local: true }
            .encode_to_vec(),
        v1::AddRelayRequest { relay: "r1".into(), site }.encode_to_vec(),
        v1::CreateSnapshotRequest { request_id: id }.encode_to_vec(),
        v1::DownloadSnapshotRequest { uuid: uuid().to_string(), node_id: 7, offset: 512 }
            .encode_to_vec(),
        v1::GetSnapshotRequest { uuid: uuid().to_string(), local: true }.encode_to_vec(),
    ];
    (0..).zip(messages).map(|(method, message)| tagged(method, message)).collect()
}

fn contexts() -> Vec<Vec<u8>> {
    let of = |(number, bucket): (u8, Bucket)| {
        tagged(number, [pieces(["door"]), context(bucket).to_vec()].concat())
    };
    (0..).zip(Bucket::ALL).map(of).collect()
}

// ---- What nodes say. ----

fn commands() -> Vec<Command> {
    let context = Context::decode(&context(Bucket::Default), &site(), Bucket::Default, &key())
        .expect("it was just made");
    let step = |value: Option<Value>, stamp| data::Step {
        key: key(),
        value,
        context: Some(context.clone()),
        stamp,
    };
    let steps =
        vec![step(Some(value("open")), data::Stamp::Chosen(5)), step(None, data::Stamp::Floor(1))];
    let write = data::Write::new(site(), Bucket::Default, steps).expect("two small steps");
    let mut commands: Vec<Command> = [
        data::Command::Write(write),
        data::Command::AddSite { site: site(), generation: SiteGeneration(2) },
        data::Command::DropSite { site: site(), generation: SiteGeneration(2), rows_max: 100 },
        data::Command::SetLineage { lineage: Lineage(9) },
    ]
    .into_iter()
    .map(Command::from)
    .collect();
    commands[0].request = Some(RequestId(*uuid().as_bytes()));
    commands.push(Command { request: None, action: Action::Mark(SnapshotSeq(4)) });
    commands.push(changes().remove(0).into());
    commands
}

fn raft(kind: internal::RaftMessageType) -> internal::RaftMessage {
    let entry = |index| internal::RaftEntry {
        r#type: 1,
        term: 3,
        index,
        data: wire::encode_entry(&entry()).into(),
        ..Default::default()
    };
    let snapshot = internal::RaftSnapshot {
        index: 10,
        term: 3,
        voters: vec![1, 2],
        learners: vec![3],
        data: "name".into(),
    };
    let (appends, announces) =
        (kind == internal::RaftMessageType::Append, kind == internal::RaftMessageType::Snapshot);
    internal::RaftMessage {
        r#type: kind as i32,
        from: 1,
        to: 2,
        term: 3,
        log_term: 3,
        index: 10,
        commit: 9,
        entries: if appends { vec![entry(11), entry(12)] } else { Vec::new() },
        snapshot: announces.then_some(snapshot),
        ..Default::default()
    }
}

fn replies() -> Vec<data::Reply> {
    let view = data::KeyView {
        key: "door".into(),
        versions: versions().versions().to_vec(),
        context: context(Bucket::Default),
    };
    vec![
        data::Reply::Done { changed: true },
        data::Reply::Written(vec![data::WrittenStep {
            context: context(Bucket::Lww),
            superseded: true,
        }]),
        data::Reply::SiteDropped { more: true },
        data::Reply::Refused(Error::new(Kind::Conflict, "no")),
        data::Reply::Found(view.clone()),
        data::Reply::Page { keys: vec![view], resume: Some(key()) },
    ]
}

fn peers() -> Vec<Vec<u8>> {
    use internal::RaftMessageType::{Append, Heartbeat, RequestVote, Snapshot};
    let forward = |request| {
        Body::Forward(internal::Forward {
            id: 7,
            deadline_ms: 1000,
            request: Some(request),
            again: true,
        })
    };
    let query =
        |read| wire::query(&data::Query { site: site(), bucket: Bucket::Cloud, read }, true);
    let scan = data::Scan {
        prefix: data::Prefix::new("d").expect("short"),
        after: Some(key()),
        limit: 10,
        keys_only: true,
    };
    let mut bodies: Vec<Body> =
        [Append, Heartbeat, RequestVote, Snapshot].map(|kind| Body::Raft(raft(kind))).into();
    bodies
        .extend(commands().iter().map(|command| forward(Request::Command(wire::command(command)))));
    bodies.extend(
        [data::Read::Get { key: key() }, data::Read::Scan(scan)]
            .map(|read| forward(Request::Query(query(read)))),
    );
    bodies.extend(replies().iter().map(|r| {
        Body::ForwardReply(internal::ForwardReply { id: 7, leader: 2, reply: Some(wire::reply(r)) })
    }));
    bodies.push(Body::Marked(internal::Marked { seq: 4, groups: vec![0, 1] }));
    let deliver = |body| {
        let messages = vec![internal::PeerMessage { group: 1, body: Some(body) }];
        let heard =
            vec![internal::HeardNode { node_id: 3, address: "localhost:3".into(), incarnation: 9 }];
        tagged(0, internal::DeliverRequest { hello: None, messages, heard }.encode_to_vec())
    };
    let mut inputs: Vec<_> = bodies.into_iter().map(deliver).collect();
    let (node, settings) = (wire::node_record(&node(2)), wire::settings_record(&settings()));
    inputs.push(tagged(
        1,
        internal::JoinRequest { node: Some(node.clone()), protocol: 2, ..Default::default() }
            .encode_to_vec(),
    ));
    inputs.push(tagged(
        2,
        internal::JoinResponse { settings: Some(settings), nodes: vec![node], plan: None }
            .encode_to_vec(),
    ));
    let founder = Some(internal::Founder { node_id: 2, address: "a:1".into() });
    inputs.push(tagged(
        4,
        internal::PromiseFoundingRequest {
            founder: founder.clone(),
            join: vec!["a:1".into(), "b:2".into()],
        }
        .encode_to_vec(),
    ));
    let waiting = internal::WaitingNode {
        address: "a:1".into(),
        join: vec!["a:1".into(), "b:2".into()],
        founder,
        objection: String::new(),
        gathers: false,
    };
    let cluster_id = Bytes::copy_from_slice(uuid().as_bytes());
    for said in [
        internal::IntroduceResponse { node_id: 2, incarnation: 7, cluster_id, waiting: None },
        internal::IntroduceResponse {
            node_id: 2,
            incarnation: 7,
            cluster_id: Bytes::new(),
            waiting: Some(waiting),
        },
    ] {
        inputs.push(tagged(5, said.encode_to_vec()));
    }
    inputs.push(tagged(
        3,
        internal::SendRowsRequest { group: 1, rows: "rows".into(), ..Default::default() }
            .encode_to_vec(),
    ));
    inputs
}

fn identity(node: u64, lineage: u64) -> Identity {
    let restored_from = Some(SnapshotId(uuid()));
    Identity {
        format: 1,
        node: NodeId(node),
        cluster: ClusterId(uuid()),
        lineage: Lineage(lineage),
        restored_from,
        topology: topology(),
    }
}

fn hellos() -> Vec<Vec<u8>> {
    let said = internal::Hello {
        protocol: 1,
        node_id: 2,
        to: 1,
        cluster_id: Bytes::copy_from_slice(uuid().as_bytes()),
        lineage: 5,
        ..Default::default()
    };
    let of = |(one, other)| {
        pieces([
            wire::encode_identity(&identity(1, one)),
            wire::encode_identity(&identity(2, other)),
            said.encode_to_vec(),
        ])
    };
    [(5, 5), (0, 5), (5, 0), (0, 0)].into_iter().map(of).collect()
}

fn statuses() -> Vec<Vec<u8>> {
    let of = |kind| {
        let status = wire::status_of(&Error::new(kind, "what, where, what to do"));
        tagged(
            status.code() as u8,
            [pieces([status.message()]), status.details().to_vec()].concat(),
        )
    };
    Kind::ALL.into_iter().map(of).collect()
}

// ---- What is stored. ----

fn versions() -> Versions {
    let version = |counter, text| Version {
        dot: Dot { lineage: Lineage(7), counter },
        value: Some(value(text)),
        timestamp_ms: 5,
    };
    let clock = VersionVector::from_sorted([(Lineage(3), 9), (Lineage(7), 300)]).expect("sorted");
    Versions::from_parts(vec![version(299, "open"), version(300, "shut")], clock).expect("sound")
}

fn entry() -> Entry {
    Entry { seen: SnapshotSeq(3), commands: commands() }
}

fn data_rows() -> Vec<(RowKey, Row)> {
    let at =
        RowKey { partition: topology().partition_of(&site()), site: site(), place: Place::Site };
    let of_key = RowKey { place: Place::Key { bucket: Bucket::Default, key: key() }, ..at.clone() };
    vec![
        (at, Row::Site(SiteRow { stage: SiteStage::Present, generation: SiteGeneration(2) })),
        (of_key, Row::Key(versions())),
    ]
}

fn record() -> Record {
    Record {
        applied: Position { index: 400, term: 3 },
        members: Membership { voters: [NodeId(1), NodeId(2)].into(), learners: [NodeId(3)].into() },
        mark: SnapshotSeq(4),
        mark_at: Position { index: 390, term: 3 },
        data: data::State { lineage: Lineage(7), dots: 300, requests: 70 },
    }
}

fn stored() -> Vec<Vec<u8>> {
    let outcomes = Outcomes::pack(&[Outcome::Sole, Outcome::Beside, Outcome::Kept]);
    let verdicts = [
        Verdict::Written { lineage: Lineage(7), first: 299, outcomes },
        Verdict::NoSite,
        Verdict::TooManySiblings { step: 2 },
    ];
    let remembered = |verdict| {
        wire::encode_remembered(&Remembered {
            request: RequestId(*uuid().as_bytes()),
            fingerprint: 9,
            verdict,
        })
        .to_vec()
    };
    let mut inputs: Vec<_> = data_rows()
        .iter()
        .map(|(key, row)| {
            tagged(0, [pieces([key.encode()]), wire::encode_row(row).to_vec()].concat())
        })
        .collect();
    inputs.extend(verdicts.map(|verdict| tagged(1, remembered(verdict))));
    inputs.push(tagged(2, wire::encode_record(&record())));
    inputs.push(tagged(3, wire::encode_identity(&identity(1, 5))));
    inputs.push(tagged(4, wire::encode_entry(&entry())));
    inputs
}

fn meta_commands() -> Vec<Vec<u8>> {
    changes().iter().map(|command| wire::meta_command(command).encode_to_vec()).collect()
}

/// The rows at several moments of that life, and what comes then.
fn meta_rows() -> Vec<Vec<u8>> {
    let commands = changes();
    let at = |moment: usize| {
        let mut state = cluster::State::found(settings(), node(1)).expect("a node that can be");
        commands[..moment].iter().for_each(|command| drop(state.apply(command)));
        let rows = targets::meta::all_rows(&state).into_iter().flat_map(|(name, row)| [name, row]);
        pieces(rows.chain([Vec::new()]).chain(meta_commands().drain(moment..)))
    };
    [0, 6, 9, 16, 22].map(at).into()
}

// ---- Parts and files. ----

fn framed() -> (Vec<u8>, Vec<u8>) {
    let mut chunker = Chunker::new().expect("zstd starts");
    for (key, row) in data_rows() {
        chunker.push(&key.encode(), &wire::encode_row(&row)).expect("small rows in order");
    }
    let chunk = chunker.finish().expect("zstd compresses").expect("there are rows");
    (
        zstd::bulk::decompress(&chunk.data, chunk.bytes as usize).expect("it was just made"),
        chunk.data.to_vec(),
    )
}

/// Two groups and the configuration, with rows in three partitions.
fn part() -> (Manifest, Vec<Chunk>) {
    let mut chunks: Vec<Chunk> = Vec::new();
    let mut run = |rows: &[(Vec<u8>, Vec<u8>)]| {
        let mut chunker = Chunker::new().expect("zstd starts");
        rows.iter()
            .for_each(|(key, row)| drop(chunker.push(key, row).expect("small rows in order")));
        let made = chunker.finish().expect("zstd compresses");
        let (rows, bytes) = (made.iter().map(|c| c.rows).sum(), made.iter().map(|c| c.bytes).sum());
        let names: Vec<_> = made.iter().map(|c| c.hash).collect();
        chunks.extend(made);
        (rows, bytes, chunk::digest(&names, rows), names)
    };
    let members = vec![NodeId(1), NodeId(u64::MAX)];
    let mut group = |id: u32| {
        let partition = |id: u32| {
            let key = |n: u8| [&(id as u16).to_be_bytes()[..], b"shop\0\x01key-", &[n]].concat();
            let (rows, bytes, digest, chunks) =
                run(&(0..id as u8 % 5).map(|n| (key(n), vec![n; 40])).collect::<Vec<_>>());
            PartitionPart { id: PartitionId(id), data_index: 7, rows, bytes, digest, chunks }
        };
        let partitions = topology().partitions_of(GroupId(id)).map(partition).collect();
        GroupPart {
            group: GroupId(id),
            mark_index: 100,
            mark_term: 2,
            dots: 300,
            voters: members.clone(),
            learners: vec![NodeId(3)],
            partitions,
        }
    };
    let groups = vec![group(0), group(3)];
    let (rows, bytes, digest, names) =
        run(&[(b"s".to_vec(), wire::settings_record(&settings()).encode_to_vec())]);
    let meta = MetaPart {
        mark_index: 50,
        mark_term: 3,
        voters: members.clone(),
        learners: vec![],
        rows,
        bytes,
        digest,
        chunks: names,
    };
    let entry = |c: &Chunk| {
        let stored_digest = chunk::Digest(blake3::hash(&c.data).into());
        ChunkEntry {
            hash: c.hash,
            rows: c.rows,
            bytes: c.bytes,
            stored_bytes: c.data.len() as u64,
            stored_digest,
        }
    };
    let mut table: Vec<_> = chunks.iter().map(entry).collect();
    table.sort_by_key(|c| c.hash);
    let manifest = Manifest {
        format: FORMAT,
        product: "0.1.0".into(),
        cluster: ClusterId(uuid()),
        lineage: Lineage(0xABCD),
        snapshot: SnapshotId(uuid()),
        seq: SnapshotSeq(1),
        node: NodeId(1),
        address: "127.0.0.1:8080".into(),
        written_ms: 1_700_000_000_123,
        topology: topology(),
        seal: None,
        meta: Some(meta),
        groups,
        chunks: table,
    };
    (manifest, chunks)
}

/// Each group's rows as they are sent.
fn rows() -> Vec<Vec<u8>> {
    let dir = targets::directory();
    let path = dir.path().join("rows");
    let store =
        Store::create(dir.path(), &targets::disk::Memory, b"me").expect("memory takes a store");
    let mut commit = store.begin().expect("memory takes a commit");
    for group in targets::rows::GROUPS {
        let in_each = keys::group(topology(), group)
            .into_iter()
            .flat_map(|range| [b"1", b"2"].map(|n| [&range.start[..], n].concat()));
        let in_each: Vec<_> = in_each.collect();
        commit
            .rows(in_each.iter().map(|key| (key.as_slice(), Some(&b"row"[..]))))
            .expect("memory takes rows");
    }
    commit.finish().expect("memory takes a commit");
    let view = store.view().expect("it is there");
    let sent = |(number, group)| {
        transfer::write(&path, &wire::encode_record(&record()), &view, topology(), group)
            .expect("the temporary directory takes files");
        tagged(number, std::fs::read(&path).expect("it was just written"))
    };
    (0..).zip(targets::rows::GROUPS).map(sent).collect()
}

// ---- Stories and command lines. ----

/// Acts: what, bucket, key, then what a write takes.
fn stories() -> Vec<Vec<u8>> {
    let writes = |bucket: u8| {
        [
            9, bucket, 0, 0, 9, bucket, 0, 1, 0, bucket, 0, 9, bucket, 0, 2, 4, bucket, 0, 3, 1,
            bucket, 0, 0, 9, bucket, 1, 130, 5,
        ]
    };
    vec![
        writes(0).to_vec(),
        writes(1).to_vec(),
        [writes(0), writes(2)].concat(),
        [&writes(0)[..], &[2, 0, 0], &writes(0)].concat(),
    ]
}

/// Words apart become lines.
fn lines(all: &[&str]) -> Vec<Vec<u8>> {
    all.iter().map(|line| line.replace(' ', "\n").into_bytes()).collect()
}
