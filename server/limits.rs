//! Every bound in one place: what a request may hold, how long anything waits, how much memory a queue takes.
//!
//! A bound that a client can meet is refused with an error that names it; a bound that only the server meets slows it down. Nothing here is a guess at
//! how long something takes: a time is how long a caller is willing to wait.

use std::time::Duration;

// What a request may hold.

pub const KEY_BYTES_MAX: usize = 1024;
pub const VALUE_BYTES_MAX: usize = 1 << 20;
/// Concurrent values of one key. A further one is refused until somebody settles them.
pub const SIBLINGS_MAX: usize = 64;
/// Bytes of the concurrent values of one key together, so that every key can be read in one message.
pub const SIBLINGS_BYTES_MAX: usize = 4 << 20;
/// Histories that one key or context remembers. One more comes with each restore; beyond this the oldest is forgotten.
pub const LINEAGES_MAX: usize = 64;
pub const BATCH_STEPS_MAX: usize = 4096;
/// Keys and values of one batch together.
pub const BATCH_BYTES_MAX: usize = 4 << 20;
/// Ids of sites and relays.
pub const ID_BYTES_MAX: usize = 255;
pub const CONTEXT_BYTES_MAX: usize = 4096;
pub const PAGE_SIZE_MAX: u32 = 1000;

// What a cluster may be.

pub const PARTITIONS_MIN: u32 = 64;
pub const PARTITIONS_MAX: u32 = 65_536;
pub const REPLICATION_FACTOR_MAX: u32 = 7;
/// Voters of the meta group; further nodes are learners.
pub const META_VOTERS_MAX: usize = 7;
pub const NODES_MAX: usize = 1024;
/// A node's share relative to the others'.
pub const CAPACITY_PERCENT_MAX: u32 = 10_000;
/// The product version that a node says it runs.
pub const VERSION_BYTES_MAX: usize = 64;
/// Relays of one site: removing the site takes them all from it in one step of the meta group.
pub const SITE_RELAYS_MAX: usize = 16_384;
pub const ADDRESS_BYTES_MAX: usize = 261;

// What is remembered.

/// Requests that a group remembers, so that a retry is answered and not repeated.
pub const REQUESTS_REMEMBERED: u64 = 4096;
/// Snapshots that the cluster remembers; the oldest resolved ones are forgotten first.
pub const SNAPSHOTS_REMEMBERED: usize = 1000;
/// Deleted snapshots whose uuid is not taken again.
pub const SNAPSHOTS_DELETED_REMEMBERED: usize = 256;

// Raft and the engine.

pub const TICK: Duration = Duration::from_millis(100);
pub const HEARTBEAT_TICKS: usize = 2;
/// A follower stands for election after this many silent ticks at the earliest ...
pub const ELECTION_TICKS_MIN: usize = 7;
/// ... and before this many.
pub const ELECTION_TICKS_MAX: usize = 11;
/// Voters of a leader that is gone stand this many ticks apart: time for one to be elected before the next one tries.
pub const STAND_APART_TICKS: u32 = 3;
/// How long a leader may answer reads alone after a quorum heard it.
pub const LEASE: Duration = Duration::from_millis(400);
/// How long whoever heard a leader votes for no other. Longer than the lease, so that two monotonic clocks may differ in speed by a fifth; shorter than
/// the earliest election by two ticks.
pub const PROMISE: Duration = Duration::from_millis(500);
pub const RAFT_MESSAGE_BYTES_MAX: u64 = 1 << 20;
pub const RAFT_INFLIGHT_MAX: usize = 256;
/// A round of the engine takes no further orders once it has so many inputs.
pub const ROUND_INPUTS_MAX: usize = 4096;
/// Orders that may wait for the engine, a frame of a peer's messages being one; then requests are answered EXHAUSTED and peer messages are dropped.
pub const ENGINE_QUEUE_MAX: usize = 16_384;
/// Bytes of writes that are not answered, and of peers' messages that are not taken: beyond this it is the same.
pub const ENGINE_QUEUE_BYTES_MAX: usize = 128 << 20;
/// Requests of one group that may wait for a leader or the fence.
pub const WAITING_REQUESTS_MAX: usize = 16_384;
/// How often a forwarded request is sent on at once within a tick, each time to whom the last one named.
pub const FORWARD_HOPS_MAX: u32 = 3;
/// A forwarded request that got no answer is sent again after this.
pub const FORWARD_AGAIN: Duration = Duration::from_millis(1000);
/// User commands merged into one log entry.
pub const ENTRY_COMMANDS_MAX: usize = 512;
pub const ENTRY_BYTES_MAX: usize = 1 << 20;
/// A new member is promoted when it is this close to the leader.
pub const CAUGHT_UP_ENTRIES: u64 = 1000;
/// Leadership is not offered to the same end more often.
pub const HAND_OVER_AGAIN: Duration = Duration::from_secs(2);
/// A Raft snapshot that was announced and not followed by then is sent again.
pub const SNAPSHOT_FOLLOWED: Duration = Duration::from_secs(10);
/// How often, in ticks, the meta leader looks for sites that were left half added or half removed, and how many it finishes at once.
pub const SITE_TICKS: u64 = 10;
pub const SITES_AT_ONCE: usize = 16;
/// Entries of one group that are kept behind its checkpoint for followers that are a little behind.
pub const LOG_ENTRIES_KEPT: u64 = 10_000;
/// Bytes of recent entries that a group keeps in memory.
pub const LOG_CACHE_BYTES: usize = 1 << 20;

// The store.

/// Applied rows that wait in memory for a checkpoint. A checkpoint writes every page that it touches, whole: the more rows wait, the more of them share one.
pub const OVERLAY_CHECKPOINT_BYTES: usize = 64 << 20;
/// Rows in memory at which writes wait for the checkpoint.
pub const OVERLAY_BYTES_MAX: usize = 128 << 20;
/// A checkpoint happens at least this often while there is something to write ...
pub const CHECKPOINT_AGE_MAX: Duration = Duration::from_secs(30);
/// ... and as often as this when nothing has been applied for `CHECKPOINT_QUIET`: a restart, a snapshot and a new member then find little left to write.
pub const CHECKPOINT_AGE_QUIET: Duration = Duration::from_secs(5);
pub const CHECKPOINT_QUIET: Duration = Duration::from_secs(1);
/// While rows wait for a checkpoint, how far the log is synced is noted at least this often: what is damaged before that is not taken for a torn end.
pub const EXTENT_AGE_MAX: Duration = Duration::from_secs(5);
/// How nice the store's thread is to others. Where they want every core it still has a third of the share of one of them, and when rows come faster than it
/// writes them, writes wait for it.
pub const STORE_NICE: i32 = 5;
/// In the build for simulations next to nothing, so that pages come from the disk again.
pub const STORE_CACHE_BYTES: usize = if cfg!(feature = "planted") { 32 << 10 } else { 64 << 20 };
/// Rows deleted by one log entry when a site is removed.
pub const SITE_DROP_ROWS: u32 = 4096;
/// Bytes of values at which one such entry stops. Part of what the log means: all replicas of a group have to run with the same.
pub const SITE_DROP_BYTES: usize = 16 << 20;

// Requests and streams.

pub const PAGE_ROWS_MAX: u32 = 2048;
pub const PAGE_BYTES_MAX: usize = 1 << 20;
/// Bytes of rows that are read for one page, those included that the page leaves out.
pub const PAGE_VISIT_BYTES_MAX: usize = 16 << 20;
/// How long a request waits whose caller set no deadline.
pub const REQUEST_DEADLINE: Duration = Duration::from_secs(10);
/// However long a caller would wait, the server does not hold a request longer.
pub const REQUEST_DEADLINE_MAX: Duration = Duration::from_secs(120);
/// A gRPC message, both ways: a batch, its keys and its framing.
pub const MESSAGE_BYTES_MAX: usize = 8 << 20;
pub const DOWNLOAD_PIECE_BYTES: usize = 256 << 10;
pub const CONCURRENT_STREAMS_MAX: u32 = 1024;
pub const RESET_STREAMS_MAX: usize = 100;
/// A caller's deadline is kept this much early at the most, so that the answer says why there is none.
pub const DEADLINE_EARLY_MAX: Duration = Duration::from_millis(200);
/// How long streams may go on once a node is asked to stop.
pub const STOP_GRACE: Duration = Duration::from_secs(1);
/// How long a node that is asked to stop tries to hand its leadership over.
pub const RESIGN: Duration = Duration::from_secs(1);
/// A connection that is silent is asked whether it lives, and given up without an answer.
pub const KEEPALIVE_EVERY: Duration = Duration::from_secs(20);
pub const KEEPALIVE_ANSWER: Duration = Duration::from_secs(10);
/// How often `grpc.health.v1` is brought up to date.
pub const HEALTH_EVERY: Duration = Duration::from_millis(250);
pub const HEADER_LIST_BYTES_MAX: u32 = 16 << 10;

// Peers.

/// What rounds of the engine had to say to one peer, each as one.
pub const PEER_QUEUE_MAX: usize = 8192;
/// A frame and the largest log entry behind it: a batch with a context for every step.
pub const PEER_MESSAGE_BYTES_MAX: usize = 32 << 20;
pub const PEER_FRAME_BYTES: usize = 2 << 20;
pub const PEER_FRAME_MESSAGES_MAX: usize = 1024;
/// Messages to one node that wait for its stream.
pub const PEER_QUEUE_BYTES_MAX: usize = 64 << 20;
/// A stream on which nothing else is said says that it lives.
pub const PEER_ALIVE: Duration = Duration::from_secs(1);
/// A process that has said nothing for this long gives its place to another one of the same node.
pub const PEER_SILENT: Duration = Duration::from_secs(4);
pub const PEER_CONNECT: Duration = Duration::from_secs(2);
pub const PEER_RETRY_MIN: Duration = Duration::from_millis(50);
pub const PEER_RETRY_MAX: Duration = Duration::from_secs(2);
/// The same between nodes, where a dead one has to be noticed sooner.
pub const PEER_KEEPALIVE: Duration = Duration::from_secs(5);
/// How long a node waits before it asks again to join.
pub const JOIN_AGAIN: Duration = Duration::from_millis(300);
/// What the engine tells the rest of the node and is not taken yet.
pub const NEWS_QUEUE_MAX: usize = 4096;
/// How long a node waits for another when it describes the cluster.
pub const NODE_STATUS: Duration = Duration::from_secs(1);
/// Rows of groups that are on their way from one node at once: each is a copy of the group on disk.
pub const ROWS_AT_ONCE: usize = 4;
/// Rows that have arrived for a group and are not announced; the oldest are dropped first.
pub const ROWS_KEPT: usize = 2;
/// How long a receiver of rows waits for the next piece.
pub const ROWS_PIECE: Duration = Duration::from_secs(30);
/// One group's rows on their way to a replica.
pub const SEND_ROWS: Duration = Duration::from_secs(600);

// Snapshots.

/// A snapshot whose marks are not all applied by then is aborted.
pub const CUT_DEADLINE: Duration = Duration::from_secs(10);
/// How long the meta leader waits for the outcome it proposed before it proposes it again.
pub const CUT_PROPOSE_AGAIN: Duration = Duration::from_secs(1);
/// Why a part or a snapshot failed; the rest is cut off.
pub const REASON_BYTES_MAX: usize = 1024;
/// How often, in ticks, nodes look after parts that are not finished.
pub const PART_TICKS: u64 = 5;
/// The newest snapshots are looked after, no others.
pub const PARTS_WATCHED: usize = 8;
/// How long a node waits for its last groups to reach their mark once the snapshot is sealed; those that do not are not in its part.
pub const MARK_GRACE: Duration = Duration::from_secs(10);
/// A part that has not been reported this long after the last sign of its node is given up.
pub const PART_GRACE: Duration = Duration::from_secs(5);
/// A node that has said nothing for this long when a snapshot is sealed is not waited for.
pub const SILENT: Duration = Duration::from_millis(2500);
pub const CHUNK_BYTES_MIN: usize = 256 << 10;
pub const CHUNK_BYTES_TARGET: usize = 1 << 20;
pub const CHUNK_BYTES_MAX: usize = 4 << 20;
/// A chunk may pass CHUNK_BYTES_MAX by one row; nothing larger is ever decompressed.
pub const CHUNK_BYTES_READ_MAX: usize = CHUNK_BYTES_MAX + ROW_BYTES_MAX;
/// A row: every sibling at its largest.
pub const ROW_BYTES_MAX: usize = SIBLINGS_MAX * (VALUE_BYTES_MAX + 64) + 2 * KEY_BYTES_MAX;
/// A row's key: its prefix, site, bucket and key, with room for what keeps them in order.
pub const ROW_KEY_BYTES_MAX: usize = 4 * KEY_BYTES_MAX;
pub const MANIFEST_BYTES_MAX: usize = 512 << 20;
/// Bytes of chunks that a part's writer leaves to the kernel before it waits for the disk.
pub const SHELF_UNSYNCED_BYTES: u64 = 64 << 20;
/// Problems of a part that are told one by one; further ones are counted.
pub const PROBLEMS_MAX: usize = 100;
/// How long a node waits before it reports again on a part that the cluster could not note.
pub const REPORT_AGAIN: Duration = Duration::from_millis(500);
/// How nice a capture is to other work: this is about a tenth of a core's share.
pub const CAPTURE_NICE: i32 = 10;
/// The longest a read view of the store may be held while rows are copied; then the capture fails.
pub const VIEW_AGE_MAX: Duration = Duration::from_secs(600);
