//! Connections and streams between nodes, foundings and joins, rows on their way.

use std::time::Duration;

use super::{
    ELECTION_TICKS_MAX, ENGINE_QUEUE_BYTES_MAX, ENTRY_BYTES_MAX, KEEPALIVE_EVERY, PROMISE,
    REQUEST_DEADLINE, TICK, engine::ENTRY_BYTES_LARGEST,
};

// Streams.

/// Bytes of a message between nodes. A larger one is not sent, and its stream breaks.
pub const PEER_MESSAGE_BYTES_MAX: usize = 32 << 20;
/// Bytes of queued batches at which a frame to a peer takes no further one.
pub const PEER_FRAME_BYTES: usize = 2 << 20;
/// Messages at which a frame to a peer takes no further batch.
pub const PEER_FRAME_MESSAGES_MAX: usize = 1024;
/// Bytes from which on an entry of a peer is kept in the frame that it came in, not copied out, and
/// a proposed write shares the bytes of its entry.
pub const ENTRY_SHARED_BYTES: usize = PEER_FRAME_BYTES / 8;
/// Batches queued for one peer; each flush of an engine round adds at most one. Beyond them a batch
/// is dropped.
pub const PEER_QUEUE_MAX: usize = 8192;
/// Bytes of batches queued for one peer. Beyond them a batch is dropped.
pub const PEER_QUEUE_BYTES_MAX: usize = 64 << 20;
/// Frames that a stream to a peer holds before its connection takes them.
pub const PEER_FRAMES_QUEUED: usize = 16;
/// Answers to one stream of a peer that its connection has not taken.
pub const PEER_ANSWERS_QUEUED: usize = 4;
/// Time after which a stream without messages sends an empty frame, which says that it lives.
pub const PEER_ALIVE: Duration = Duration::from_secs(1);
/// Silence after which another process of the same node may take over from one that has spoken.
pub const PEER_SILENT: Duration = Duration::from_secs(4);
/// Silence after which the engine takes a node for unreachable: the meta leader does not wait for
/// its part of a snapshot that is sealed now.
pub const SILENT: Duration = Duration::from_millis(2500);
/// Bytes of one frame of HTTP/2 that whoever has dialled a node takes: a fourth of the work for the
/// same bytes, where they are many. Nodes take frames of the usual 16 KiB from whoever dials them.
pub const FRAME_BYTES: u32 = 64 << 10;
/// Bytes that a node sends ahead on one stream to another before the other has read them.
pub const PEER_STREAM_WINDOW: u32 = 4 << 20;
/// Bytes that a node sends ahead on all streams of one connection to another together.
pub const PEER_CONNECTION_WINDOW: u32 = 8 << 20;
/// Bytes of another node's part that may come ahead while a node passes it on to a client, which
/// may be slow.
pub const RELAY_WINDOW: u32 = 1 << 20;
/// How long a node waits for a connection to another, for its hello, or for a look at its own state
/// on behalf of another node.
pub const PEER_CONNECT: Duration = Duration::from_secs(2);
/// How long the leader is asked whether the registry has a node that says hello, where this node
/// has not heard of it.
pub const HELLO_LOOK: Duration = Duration::from_secs(1);
/// Shortest pause before a node dials another again, asks again for its own entry in the registry,
/// or looks again whether it leads a group.
pub const PEER_RETRY_MIN: Duration = Duration::from_millis(50);
/// Longest pause before a node dials another again or asks again for its own entry; pauses double.
pub const PEER_RETRY_MAX: Duration = Duration::from_secs(2);
/// How long a node remembers that another cluster has looked for one of its own where it is:
/// several tries of one node.
pub const SOUGHT_FOR: Duration = Duration::from_secs(20);
/// HTTP/2 keepalive between nodes, to ping and to answer. It is shorter than `KEEPALIVE_EVERY`, so
/// that a dead node is noticed sooner than a dead client.
pub const PEER_KEEPALIVE: Duration = Duration::from_secs(5);
/// How long a node waits for another one that is to describe itself or its parts.
pub const NODE_STATUS: Duration = Duration::from_secs(1);

const _: () = assert!(
    PEER_MESSAGE_BYTES_MAX > PEER_FRAME_BYTES + ENTRY_BYTES_LARGEST,
    "a frame holds the largest entry behind others"
);
const _: () = assert!(ENTRY_BYTES_MAX < PEER_FRAME_BYTES, "most entries share a frame");
const _: () = assert!(PEER_QUEUE_BYTES_MAX >= PEER_MESSAGE_BYTES_MAX);
const _: () = assert!(ENGINE_QUEUE_BYTES_MAX >= PEER_MESSAGE_BYTES_MAX);
const _: () = assert!(2 * PEER_ALIVE.as_millis() < SILENT.as_millis(), "a lost word is no silence");
const _: () = assert!(2 * PEER_ALIVE.as_millis() < PEER_SILENT.as_millis());
const _: () = assert!(
    SILENT.as_millis() > 2 * TICK.as_millis() * ELECTION_TICKS_MAX as u128,
    "a node that elects leaders is not silent"
);
const _: () = assert!(PEER_SILENT.as_millis() > PROMISE.as_millis());
const _: () = assert!(HELLO_LOOK.as_millis() < PEER_CONNECT.as_millis(), "the hello is answered");
const _: () = assert!(RELAY_WINDOW <= PEER_STREAM_WINDOW);
const _: () = assert!(PEER_STREAM_WINDOW <= PEER_CONNECTION_WINDOW);
const _: () = assert!(PEER_RETRY_MIN.as_millis() < PEER_RETRY_MAX.as_millis());
const _: () =
    assert!(PEER_RETRY_MAX.as_millis() + PEER_CONNECT.as_millis() < SOUGHT_FOR.as_millis());
const _: () = assert!(PEER_KEEPALIVE.as_millis() < KEEPALIVE_EVERY.as_millis());

// Who is where.

/// Addresses at which a node looks for another one. Beyond them it forgets the one that it heard of
/// longest ago, but not the registry's.
pub const PLACES_MAX: usize = 4;
/// How often a node asks who is at an address of its `--join` while no stream leads there.
pub const MEET_AGAIN: Duration = Duration::from_millis(500);
/// Nodes that `/readyz` names when this node looks for them; it counts the others.
pub const SOUGHT_TOLD_MAX: usize = 8;

// Foundings and joins.

/// Addresses in one `--join`; a start with more is refused.
pub const JOIN_ADDRESSES_MAX: usize = 64;
/// First pause of a node that waits for a cluster before it asks the nodes of its `--join` again,
/// and the pause after what they say has changed.
pub const JOIN_AGAIN_MIN: Duration = Duration::from_millis(200);
/// Longest pause of a node that waits for a cluster; its pauses double while nothing changes.
pub const JOIN_AGAIN_MAX: Duration = Duration::from_secs(2);
/// How long a node has been silent whose places go to others first when groups are placed: one that
/// only restarts is back sooner.
pub const AWAY: Duration = Duration::from_secs(5);
/// Nodes that one node takes in at once, each of which it calls back; a further one gets EXHAUSTED.
pub const JOINS_AT_ONCE: usize = 16;
/// How long a node waits for another's durable promise to leave the founding to it: a write and its
/// sync.
pub const PROMISE_FOUNDING: Duration = Duration::from_secs(5);
/// How long a node that gathers the first nodes of a cluster holds the question of one of them
/// while others are missing; then that one asks again.
pub const GATHER_HOLD: Duration = Duration::from_secs(4);
/// How long a node counts as there that asks no more.
pub const GATHER_FRESH: Duration = Duration::from_secs(3);
/// How often the node that gathers looks whether some are gone.
pub const GATHER_LOOK: Duration = Duration::from_millis(500);

/// How long the removal of a node waits for leaders of the groups that it led: somebody may say it
/// at once when the node is lost.
pub const REMOVAL_ELECTIONS: Duration = Duration::from_secs(5);
/// How often it looks whether they have one.
pub const REMOVAL_LOOK: Duration = Duration::from_millis(200);
/// How often the node that leads the meta group looks whether operations have come true.
pub const OPERATION_LOOK: Duration = Duration::from_millis(500);
/// How long one call waits for an operation at the most; its caller asks again.
pub const OPERATION_WAIT: Duration = Duration::from_secs(60);
/// Reasons to wait that are told of one operation; of the others, how many there are.
pub const OPERATION_WAITS_TOLD: usize = 100;

const _: () = assert!(AWAY.as_millis() >= 2 * SILENT.as_millis());
const _: () = assert!(JOIN_AGAIN_MIN.as_millis() < JOIN_AGAIN_MAX.as_millis());
const _: () = assert!(REMOVAL_ELECTIONS.as_millis() >= 2 * SILENT.as_millis());
const _: () = assert!(PROMISE_FOUNDING.as_millis() < REQUEST_DEADLINE.as_millis());
const _: () = assert!(
    GATHER_HOLD.as_millis() + 2 * NODE_STATUS.as_millis() < REQUEST_DEADLINE.as_millis(),
    "who is called back first still hears why it waits"
);
const _: () =
    assert!(GATHER_FRESH.as_millis() > (JOIN_AGAIN_MIN.as_millis() + 2 * NODE_STATUS.as_millis()));

// Rows of a group on their way to a replica.

/// Transfers of rows that one node sends at once, each of which first copies a group to a file.
pub const ROWS_AT_ONCE: usize = 4;
/// Transfers of rows that one node takes at once; others wait for their place. As many as one
/// sender sends, so that several senders together are no faster than the disk that they fill.
pub const ROWS_IN_AT_ONCE: usize = 4;
/// How long a node says that it had no room for a group's rows: longer than it takes the sender to
/// try again.
pub const ROWS_REFUSED_TOLD: Duration = Duration::from_secs(15);
/// Files of rows that a node keeps for one group until Raft announces them; the oldest is dropped.
pub const ROWS_KEPT: usize = 2;
/// Bytes of rows in one message.
pub const ROWS_PIECE_BYTES: usize = 1 << 20;
/// Messages of rows that a sender holds before its connection takes them.
pub const ROWS_PIECES_QUEUED: usize = 4;
/// How long a receiver of rows waits for the next message before the transfer fails.
pub const ROWS_PIECE: Duration = Duration::from_secs(30);
/// How long rows may wait for their place at a receiver, or move no further, before the transfer
/// fails. How long it takes in all has no bound, since its bytes have none.
pub const ROWS_STALLED: Duration = Duration::from_secs(600);
/// How long the engine waits between two tries to hear how a transfer has ended, while its queue is
/// full.
pub const ROWS_SENT_AGAIN: Duration = Duration::from_millis(100);
/// Bytes of rows that a node sends a second, and that it takes, unless it is started with another
/// rate: about half of what a plain SSD writes, since every row is written twice, to a file and to
/// the store.
pub const MOVE_BYTES_A_SECOND: u64 = 64 << 20;
/// The lowest rate: below it a receiver might take the pause between two messages for an end.
pub const MOVE_BYTES_A_SECOND_MIN: u64 = 1 << 20;

const _: () = assert!(ROWS_PIECE_BYTES < PEER_MESSAGE_BYTES_MAX);
const _: () = assert!(ROWS_PIECE.as_millis() < ROWS_STALLED.as_millis());
const _: () = assert!(
    2 * (ROWS_AT_ONCE * ROWS_PIECE_BYTES) as u64 <= MOVE_BYTES_A_SECOND_MIN * ROWS_PIECE.as_secs(),
    "transfers that share the lowest rate still send each message in time"
);
