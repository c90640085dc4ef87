//! What other nodes send: messages of all kinds, the hello that comes first, and the errors in
//! their answers.

use bytes::Bytes;
use devicedb::{
    base::{
        error::Kind,
        ids::{NodeId, SnapshotSeq},
    },
    boot::waiting::{self, Newcomer, Waiting},
    cluster::level::Level,
    entry::{Entry, Identity},
    net::{Dialler, PROTOCOLS, Verdict, judge},
    proto::internal::v1::{
        DeliverRequest, Hello, IntroduceResponse, JoinRequest, JoinResponse, NodeRecord,
        PeerMessage, PromiseFoundingRequest, SendRowsRequest, SettingsRecord,
        forward::Request,
        peer_message::Body::{Forward, ForwardReply, Raft},
    },
    wire,
};
use prost::Message as _;
use tonic::{Code, Status};

/// The first byte chooses the call.
pub fn message(input: &[u8]) -> bool {
    let Some((call, bytes)) = input.split_first() else { return false };
    let bytes = Bytes::copy_from_slice(bytes);
    match call % 6 {
        0 => DeliverRequest::decode(bytes).is_ok_and(|r| {
            r.messages.into_iter().map(delivered).collect::<Vec<_>>().into_iter().all(|taken| taken)
        }),
        1 => JoinRequest::decode(bytes).is_ok_and(|r| r.node.is_some_and(node)),
        2 => JoinResponse::decode(bytes)
            .is_ok_and(|r| r.settings.is_some_and(settings) && r.nodes.into_iter().all(node)),
        3 => SendRowsRequest::decode(bytes).is_ok(),
        4 => PromiseFoundingRequest::decode(bytes).is_ok_and(|r| promised(&r)),
        _ => IntroduceResponse::decode(bytes).is_ok_and(introduced),
    }
}

/// Whether a node that waits would promise that. It keeps its promises in a directory that is not
/// there, and so keeps none.
fn promised(request: &PromiseFoundingRequest) -> bool {
    let waiting =
        Waiting::new(newcomer(request.join.iter().cloned().collect()), Dialler::default());
    match request.founder.as_ref().map(|founder| waiting.promise(founder, &request.join)) {
        Some(Err(e)) => e.kind == Kind::NotFound || invalid_or_conflict(&e),
        _ => false,
    }
}

/// Whether a node that waits could go on with what one of its `--join` says.
fn introduced(said: IntroduceResponse) -> bool {
    let heard = [("a:1".to_owned(), Ok(said))].into();
    waiting::step(&newcomer(["a:1".to_owned(), "b:2".to_owned()].into()), &heard).is_ok()
}

fn newcomer(join: std::collections::BTreeSet<String>) -> Newcomer {
    Newcomer {
        node: NodeId(2),
        incarnation: 7,
        address: "a:1".into(),
        dir: "/nowhere/at/all".into(),
        join,
        objection: None,
    }
}

fn invalid_or_conflict(e: &devicedb::base::error::Error) -> bool {
    assert!(
        matches!(e.kind, Kind::Invalid | Kind::Conflict),
        "a promise is refused as {:?}: {e}",
        e.kind
    );
    false
}

/// Whether the engine would look at it.
fn delivered(message: PeerMessage) -> bool {
    match message.body {
        Some(Raft(raft)) => wire::parse_raft(raft.clone())
            .map(|parsed| {
                assert_eq!(
                    wire::raft(parsed, raft.tenure),
                    raft,
                    "a message of Raft comes out changed"
                )
            })
            .is_some(),
        Some(Forward(forward)) => match forward.request {
            Some(Request::Command(command)) => match wire::parse_command(command) {
                Ok(command) => {
                    assert!(
                        wire::command_bytes(&command)
                            < devicedb::base::limits::PEER_MESSAGE_BYTES_MAX
                    );
                    let entry = Entry { seen: SnapshotSeq(forward.id), commands: vec![command] };
                    assert_eq!(
                        wire::decode_entry(&wire::encode_entry(&entry).into()),
                        Ok(entry),
                        "what was proposed is not what is applied"
                    );
                    true
                }
                Err(e) => invalid(&e),
            },
            Some(Request::Query(query)) => match wire::parse_query(query) {
                Ok((query, stale)) => {
                    assert_eq!(wire::parse_query(wire::query(&query, stale)), Ok((query, stale)));
                    true
                }
                Err(e) => invalid(&e),
            },
            None => false,
        },
        Some(ForwardReply(answer)) => match answer.reply.map(wire::parse_reply) {
            Some(Ok(reply)) => {
                assert_eq!(
                    wire::parse_reply(wire::reply(&reply)),
                    Ok(reply),
                    "an answer comes out changed"
                );
                true
            }
            Some(Err(e)) => {
                assert_eq!(
                    e.kind,
                    Kind::Unknown,
                    "nobody can say what an answer that cannot be read means: {e}"
                );
                false
            }
            None => true,
        },
        _ => true,
    }
}

fn invalid(e: &devicedb::base::error::Error) -> bool {
    assert_eq!(e.kind, Kind::Invalid, "a peer's mistake is called {e:?}");
    false
}

/// The first level is written by leaving it out.
fn written(level: u32) -> u32 {
    if level == 1 { 0 } else { level }
}

fn node(record: NodeRecord) -> bool {
    match wire::parse_node(record.clone()) {
        Ok(node) => {
            let level = written(record.level);
            assert_eq!(wire::node_record(&node), NodeRecord { level, ..record });
            true
        }
        Err(e) => invalid(&e),
    }
}

fn settings(record: SettingsRecord) -> bool {
    match wire::parse_settings(record.clone()) {
        Ok(settings) => {
            let level = written(record.level);
            assert_eq!(wire::settings_record(&settings), SettingsRecord { level, ..record });
            assert!(
                (1..=devicedb::base::limits::REPLICATION_FACTOR_MAX)
                    .contains(&settings.replication_factor),
                "nothing can be placed {settings:?}"
            );
            true
        }
        // A newer version's, which this node cannot read.
        Err(e) if e.kind == Kind::Conflict => {
            assert!(Level(record.level) > Level::own(), "{e:?}");
            false
        }
        Err(e) => invalid(&e),
    }
}

/// Two nodes judge each other's hello: they come to the same end.
pub fn hello(input: &[u8]) -> bool {
    let mut feed = super::Feed(input);
    let (Ok(one), Ok(other)) =
        (wire::decode_identity(feed.piece()), wire::decode_identity(feed.piece()))
    else {
        return false;
    };
    let Ok(said) = Hello::decode(feed.piece()) else { return false };
    judge(&one, &said);
    let [first, second] = [judge(&one, &hello_of(&other)), judge(&other, &hello_of(&one))];
    let agree = match (&first, &second) {
        (Verdict::Welcome, Verdict::Welcome) => {
            (one.cluster, one.lineage, one.restored_from)
                == (other.cluster, other.lineage, other.restored_from)
        }
        (Verdict::Newcomer, Verdict::Adopt(lineage)) => *lineage == one.lineage,
        (Verdict::Adopt(lineage), Verdict::Newcomer) => *lineage == other.lineage,
        (Verdict::Refuse(_), Verdict::Refuse(_)) => true,
        _ => false,
    };
    assert!(agree, "{first:?} and {second:?}");
    !matches!(first, Verdict::Refuse(_))
}

fn hello_of(identity: &Identity) -> Hello {
    Hello {
        protocol: *PROTOCOLS.end(),
        node_id: identity.node.0,
        cluster_id: Bytes::copy_from_slice(identity.cluster.0.as_bytes()),
        lineage: identity.lineage.0,
        restored_from: identity
            .restored_from
            .map_or(Bytes::new(), |id| Bytes::copy_from_slice(id.0.as_bytes())),
        ..Hello::default()
    }
}

/// What another node has told: a code, words, and details that nobody has checked.
pub fn status(input: &[u8]) -> bool {
    let mut feed = super::Feed(input);
    let code = Code::from_i32(i32::from(feed.byte()));
    let words = String::from_utf8_lossy(feed.piece()).into_owned();
    let error = wire::error_of(&Status::with_details(code, &words, Bytes::copy_from_slice(feed.0)));
    assert_eq!(error.message, words);
    assert_eq!(
        wire::error_of(&wire::status_of(&error)),
        error,
        "an error changes from node to node"
    );
    !feed.is_empty()
}
