//! Connections and streams of clients, and how long a node waits for them.

use std::time::Duration;

use super::{MESSAGE_BYTES_MAX, NODE_STATUS, PEER_CONNECT};

// Requests.

/// Deadline of a request whose caller set none, and of what a node asks on its own behalf.
pub const REQUEST_DEADLINE: Duration = Duration::from_secs(10);
/// Longest time that the server holds a request, whatever deadline its caller set.
pub const REQUEST_DEADLINE_MAX: Duration = Duration::from_secs(120);
/// Time by which the server at most ends a request before its caller's deadline, so that its answer
/// can say what was wrong. It is a tenth of the deadline where that is less.
pub const DEADLINE_EARLY_MAX: Duration = Duration::from_millis(200);
/// Bytes of a call's buffer when it begins; larger messages make room for themselves.
pub const CODEC_BUFFER_BYTES: usize = 512;
/// Bytes of encoded messages at which tonic hands them to the connection.
pub const CODEC_YIELD_BYTES: usize = 32 << 10;

const _: () = assert!(REQUEST_DEADLINE.as_millis() <= REQUEST_DEADLINE_MAX.as_millis());
const _: () = assert!(DEADLINE_EARLY_MAX.as_millis() < REQUEST_DEADLINE.as_millis());

// Connections.

/// Connections to one node, fewer where the process may not open so many files. Beyond them a new
/// one takes the place of a silent or idle one, or is closed.
pub const CONNECTIONS_MAX: usize = 16_384;
/// Files that connections leave to the log, the store, snapshots and streams to other nodes. Where
/// the process may open fewer than twice as many, connections leave half of them.
pub const FILES_RESERVED: u64 = 2048;
/// Time within which a connection has to send its first whole request, or is closed.
pub const FIRST_REQUEST: Duration = Duration::from_secs(10);
/// Speed of a first request, in bytes a second: for each byte of it that arrives, `FIRST_REQUEST`
/// grows by the time that the byte takes at this speed.
pub const FIRST_REQUEST_BYTES_A_SECOND: u64 = 32 << 10;
/// Idle time after which a connection may lose its place to a new one.
pub const CONNECTION_SPARE: Duration = Duration::from_secs(10);
/// Pause after an accept that failed.
pub const ACCEPT_AGAIN: Duration = Duration::from_millis(50);
/// How often a node with certificates says who comes without TLS.
pub const PLAIN_TOLD_EVERY: Duration = Duration::from_secs(60);
/// Addresses of such callers that are told apart from one time to the next, and that are named.
pub const PLAIN_ADDRESSES_REMEMBERED: usize = 1024;
pub const PLAIN_ADDRESSES_NAMED: usize = 8;
/// Silence after which a node pings an HTTP/2 connection.
pub const KEEPALIVE_EVERY: Duration = Duration::from_secs(20);
/// Time that a pinged HTTP/2 connection has to answer before the node closes it.
pub const KEEPALIVE_ANSWER: Duration = Duration::from_secs(10);
/// Bytes of a request's headers; h2 refuses a request with more.
pub const HEADER_LIST_BYTES_MAX: u32 = 16 << 10;
/// Streams of one HTTP/2 connection that may be open at once; its client waits with more.
pub const CONCURRENT_STREAMS_MAX: u32 = 1024;
/// Streams that a client has opened and reset before the server took them. One more ends the
/// connection.
pub const RESET_STREAMS_MAX: usize = 100;
/// Bytes that a client may send ahead on one stream before the node has read them.
pub const CLIENT_STREAM_WINDOW: u32 = 4 << 20;
/// Bytes that a client may send ahead on all streams of one connection together.
pub const CLIENT_CONNECTION_WINDOW: u32 = 16 << 20;
/// How often a node brings `grpc.health.v1` up to date.
pub const HEALTH_EVERY: Duration = Duration::from_millis(250);
/// How long streams may go on after a node was asked to stop.
pub const STOP_GRACE: Duration = Duration::from_secs(1);
/// How long a node that was asked to stop waits for other nodes to take its leaderships.
pub const RESIGN: Duration = Duration::from_secs(1);

const _: () = assert!(FIRST_REQUEST.as_millis() > PEER_CONNECT.as_millis(), "a hello comes first");
const _: () = assert!(
    MESSAGE_BYTES_MAX as u64 / FIRST_REQUEST_BYTES_A_SECOND > FIRST_REQUEST.as_secs(),
    "the largest message may take longer than the wait for its beginning"
);
const _: () = assert!(PLAIN_ADDRESSES_NAMED < PLAIN_ADDRESSES_REMEMBERED);
const _: () = assert!(CLIENT_STREAM_WINDOW <= CLIENT_CONNECTION_WINDOW);
const _: () = assert!(HEALTH_EVERY.as_millis() < NODE_STATUS.as_millis());

// Streams to readers.

/// Scans that may be open on one node; a further one gets EXHAUSTED.
pub const SCANS_MAX: usize = 512;
/// Downloads that may be open on one node; a further one gets EXHAUSTED.
pub const DOWNLOADS_MAX: usize = 64;
/// Scans that one client may have open on one node, unless the node is told otherwise.
pub const CLIENT_SCANS: u32 = 64;
/// Downloads that one client may have open on one node, unless the node is told otherwise.
pub const CLIENT_DOWNLOADS: u32 = 8;
/// Least bytes a second that a client may be limited to: with fewer, each of its streams would move
/// so seldom that its reader would pass for one that has stalled.
pub const CLIENT_BYTES_A_SECOND_MIN: u64 = 1 << 20;
/// When a client may come again that has too many streams open: nobody knows when one ends.
pub const CLIENT_STREAM_AGAIN: Duration = Duration::from_secs(1);
/// How often the log says at most that a client is over a limit.
pub const CLIENT_OVER_QUOTA_SAID: Duration = Duration::from_secs(60);
/// Scans, and as many downloads, that may make their next piece at once: a page of rows, or a piece
/// that is read from a disk. Others wait for their turn, up to `READER_WAIT`.
pub const READER_TURNS: usize = 16;
/// Bytes of answers that clients have not taken. Above them no stream makes another piece.
pub const READERS_BYTES_MAX: usize = 128 << 20;
/// Bytes of a piece in which a large answer goes to its connection.
pub const READER_PIECE_BYTES: usize = 64 << 10;
/// Pieces of one answer that its connection holds at once.
pub const READER_PIECES: usize = 4;
/// How long a stream waits for its turn or for room under `READERS_BYTES_MAX`; then it gets
/// EXHAUSTED.
pub const READER_WAIT: Duration = Duration::from_secs(10);
/// Time after which a stream is ended when its client has taken nothing of it.
pub const READER_STALL: Duration = Duration::from_secs(300);
/// The time after which a stalled stream is ended while others wait for room or were refused.
pub const READER_STALL_PRESSED: Duration = Duration::from_secs(30);
/// How often a node looks for streams whose clients have stalled.
pub const READERS_LOOK: Duration = Duration::from_secs(1);
/// Bytes of a part in one message of a download.
pub const DOWNLOAD_PIECE_BYTES: usize = 256 << 10;
/// Bytes before a download's offset that a node hashes in one turn; between turns it sees whether
/// the client is still there.
pub const DOWNLOAD_CATCH_UP_BYTES: usize = 4 << 20;

const _: () = assert!(
    READER_TURNS * MESSAGE_BYTES_MAX <= READERS_BYTES_MAX,
    "what is being made is never more than what may lie there"
);
const _: () = assert!(READER_PIECES * READER_PIECE_BYTES < READERS_BYTES_MAX / SCANS_MAX * 2);
const _: () = assert!(READERS_LOOK.as_millis() < READER_STALL_PRESSED.as_millis());
const _: () = assert!(READER_STALL_PRESSED.as_millis() < READER_STALL.as_millis());
const _: () = assert!(
    READER_WAIT.as_millis() < READER_STALL_PRESSED.as_millis(),
    "who waits is refused before who stalls is ended"
);
/// Bytes of a document that asks for something in JSON: base64 and quotes make a message larger.
pub const JSON_BYTES_MAX: usize = 3 * MESSAGE_BYTES_MAX / 2;
/// Bytes of a document that is read at once, whoever else reads one.
pub const JSON_SMALL_BYTES: usize = 64 << 10;
/// Larger documents that are read at the same time.
pub const JSON_LARGE_MAX: usize = 4;
/// How long a document may take to come, and may wait until it is read.
pub const JSON_WAIT: Duration = Duration::from_secs(10);

const _: () = assert!(JSON_BYTES_MAX > MESSAGE_BYTES_MAX / 3 * 4, "base64 takes a third more");
const _: () = assert!(DOWNLOAD_PIECE_BYTES < MESSAGE_BYTES_MAX);
const _: () =
    assert!(CLIENT_SCANS as usize <= SCANS_MAX && CLIENT_DOWNLOADS as usize <= DOWNLOADS_MAX);
const _: () = assert!(
    CLIENT_BYTES_A_SECOND_MIN * READER_STALL_PRESSED.as_secs()
        > (CLIENT_SCANS + CLIENT_DOWNLOADS) as u64 * READER_PIECE_BYTES as u64,
    "all streams of a limited client move before they pass for stalled ones"
);
