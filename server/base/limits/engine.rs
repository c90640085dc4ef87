//! Raft and the engine's loop: ticks, elections, leases, queues, entries, logs.

use std::time::Duration;

use super::{
    BATCH_BYTES_MAX, BATCH_STEPS_MAX, CONTEXT_BYTES_MAX, MESSAGE_BYTES_MAX, REQUEST_DEADLINE,
    request::FRAMING_BYTES,
};

// Time.

/// How often the engine ticks. A round that takes longer delays the tick; missed ticks are not made
/// up for.
pub const TICK: Duration = Duration::from_millis(100);
/// Ticks between two heartbeats of a leader.
pub const HEARTBEAT_TICKS: usize = 2;
/// Silent ticks after which a follower stands for election at the earliest.
pub const ELECTION_TICKS_MIN: usize = 7;
/// Silent ticks before which a follower stands for election at the latest: each draws a number from
/// `ELECTION_TICKS_MIN` up to, and without, this one.
pub const ELECTION_TICKS_MAX: usize = 11;
/// Ticks between the candidacies of two voters of a group whose leader's process has gone, or that
/// was just restored, so that one can be elected before the next one tries.
pub const STAND_APART_TICKS: u32 = 3;
/// How long a leader answers reads alone after it sent the heartbeats that a quorum has answered.
pub const LEASE: Duration = Duration::from_millis(400);
/// How long a replica that has heard a leader votes for no other candidate.
pub const PROMISE: Duration = Duration::from_millis(500);
/// Ticks after which a replica asks the meta leader again for the index of a read.
pub const READ_AGAIN_TICKS: u32 = 3;
/// Time after which a node sends an unanswered forwarded request again.
pub const FORWARD_AGAIN: Duration = Duration::from_secs(1);
/// Minimum time between two leadership transfers of one group.
pub const HAND_OVER_AGAIN: Duration = Duration::from_secs(2);
/// How long a leader waits for a member to install the rows that it has received. Then it reports
/// the Raft snapshot as failed to raft-rs, which asks for another one.
pub const SNAPSHOT_FOLLOWED: Duration = Duration::from_secs(10);

const TICK_MS: u128 = TICK.as_millis();
const _: () = assert!(
    PROMISE.as_millis() * 5 >= LEASE.as_millis() * 6,
    "a promise outlasts a lease where two clocks differ in speed by a fifth"
);
const _: () = assert!(
    PROMISE.as_millis() + 2 * TICK_MS <= TICK_MS * ELECTION_TICKS_MIN as u128,
    "a promise is over two ticks before the earliest election"
);
const _: () = assert!(
    2 * HEARTBEAT_TICKS as u128 * TICK_MS < PROMISE.as_millis(),
    "one lost heartbeat breaks no promise"
);
const _: () = assert!(2 * HEARTBEAT_TICKS < ELECTION_TICKS_MIN);
const _: () = assert!(ELECTION_TICKS_MIN < ELECTION_TICKS_MAX, "candidates can draw");
const _: () = assert!(FORWARD_AGAIN.as_millis() * 2 < REQUEST_DEADLINE.as_millis());

// Queues.

/// Inputs after which a round of the engine takes no further orders from its queue.
pub const ROUND_INPUTS_MAX: usize = 4096;
/// Orders in the engine's queue; a frame of a peer's messages is one. When it is full, requests get
/// EXHAUSTED and peers' frames are dropped.
pub const ENGINE_QUEUE_MAX: usize = 16_384;
/// Bytes of unanswered writes, and as many of peers' messages that the engine has not taken yet.
/// Above them writes get EXHAUSTED and peers' frames are dropped, as when the queue is full.
pub const ENGINE_QUEUE_BYTES_MAX: usize = 128 << 20;
/// Commands that wait in one group for a leader's proposal or for the fence of a snapshot; a
/// further one gets EXHAUSTED.
pub const WAITING_REQUESTS_MAX: usize = 16_384;
/// Times per tick that a node forwards one request at once, each time to the leader that the last
/// answer named. After that the request waits for the next tick.
pub const FORWARD_HOPS_MAX: u32 = 3;
/// Jobs in the store thread's queue beside one installation or end for each data group: a
/// checkpoint, two purges, a note of the log's extent, and the installation of the meta group. The
/// engine never has more under way, so it never waits for this queue.
pub const STORE_JOBS: usize = 5;
/// Ticks between two questions of a node whether its replicas that are left over may end.
pub const END_TICKS: u64 = 10;
/// News (addresses, snapshots, rows to send) that the engine has told and the node's tasks have not
/// taken. When this queue is full, the engine waits.
pub const NEWS_QUEUE_MAX: usize = 4096;
/// Sites that the meta leader begins to finish at once: sites that were left half added or half
/// removed.
pub const SITES_AT_ONCE: usize = 16;
/// Ticks between two searches of the meta leader for sites that are half added or half removed.
pub const SITE_TICKS: u64 = 10;
/// Rows that one log entry deletes while a site is removed; a leader proposes the next entry until
/// none is left.
pub const SITE_DROP_ROWS: u32 = 4096;
/// Bytes of rows at which an entry that removes a site's rows stops early. It is part of what the
/// log means: replicas of one group that ran with different values would hold different rows.
pub const SITE_DROP_BYTES: usize = 16 << 20;

const _: () = assert!(ENGINE_QUEUE_BYTES_MAX > MESSAGE_BYTES_MAX);
const _: () = assert!(WAITING_REQUESTS_MAX >= ENTRY_COMMANDS_MAX);

// Entries and logs.

/// User commands in one log entry.
pub const ENTRY_COMMANDS_MAX: usize = 512;
/// Bytes of commands at which an entry takes no further one; the last one may go beyond.
pub const ENTRY_BYTES_MAX: usize = 1 << 20;
/// Bytes of the largest entry: full but for one byte, and then the largest batch, with a context
/// for every step and what protobuf writes around each.
pub(super) const ENTRY_BYTES_LARGEST: usize =
    ENTRY_BYTES_MAX + BATCH_BYTES_MAX + BATCH_STEPS_MAX * (CONTEXT_BYTES_MAX + FRAMING_BYTES);
/// Bytes of entries in one Raft message; a larger entry makes a message alone.
pub const RAFT_MESSAGE_BYTES_MAX: u64 = 1 << 20;
/// Entries in one Raft message that a peer may send: each takes at least four bytes.
pub const RAFT_ENTRIES_MAX: usize = RAFT_MESSAGE_BYTES_MAX as usize / 4 + 1;
/// Unacknowledged append messages of a leader to one follower.
pub const RAFT_INFLIGHT_MAX: usize = 256;
/// Bytes of the context in a Raft message, which names a round of reads, rows, or an election.
pub const RAFT_NAME_BYTES_MAX: usize = 16;
/// Bytes of committed entries that raft-rs hands out for one group at once.
pub const APPLY_BYTES_MAX: u64 = 16 << 20;
/// Bytes of gathered entries at which the engine writes the log within a round. What is gathered
/// is in memory three times more: encoded, compressed, and as room to grow.
pub const LOG_WRITE_BYTES: usize = 1 << 20;
/// Bytes of recent entries that a group keeps in memory for members that lack them; older ones are
/// read from the log.
pub const LOG_CACHE_BYTES: usize = 1 << 20;
/// Bytes of recent entries, those included that are not applied here, beyond which a group keeps
/// none for its own use either.
pub const LOG_CACHE_BYTES_MAX: usize = APPLY_BYTES_MAX as usize;
/// Bytes of recent entries above which a group keeps only those in memory that are not applied here
/// or that a present member lacks, and `LOG_CACHE_LEFT_BYTES` of others.
pub const LOG_CACHE_APPLIED_BYTES: usize = 256 << 10;
/// Bytes of applied entries that a group leaves in memory when it drops some.
pub const LOG_CACHE_LEFT_BYTES: usize = 64 << 10;
/// Entries of a group that its log keeps behind the checkpoint, for followers that lag a little.
pub const LOG_ENTRIES_KEPT: u64 = 10_000;
/// Bytes of entries behind the checkpoint beyond which a group's log keeps only what a present
/// member still lacks. A member that lacks more is sent rows.
pub const LOG_BYTES_KEPT: u64 = 2 << 20;
/// Bytes of entries between two places at which a group's log may be cut off.
pub const LOG_BYTES_STEP: u64 = LOG_BYTES_KEPT / 8;
/// Entries that a learner may lack when its leader promotes it to a voter.
pub const CAUGHT_UP_ENTRIES: u64 = 1000;

const _: () = assert!(ENTRY_BYTES_MAX as u64 <= RAFT_MESSAGE_BYTES_MAX);
const _: () = assert!(LOG_CACHE_LEFT_BYTES < LOG_CACHE_APPLIED_BYTES);
const _: () = assert!(LOG_CACHE_APPLIED_BYTES < LOG_CACHE_BYTES);
const _: () = assert!(LOG_CACHE_BYTES < LOG_CACHE_BYTES_MAX);
const _: () = assert!(RAFT_NAME_BYTES_MAX == 2 * size_of::<u64>(), "a node's id and a number");
const _: () = assert!(CAUGHT_UP_ENTRIES < LOG_ENTRIES_KEPT, "who is promoted needs no rows");
const _: () = assert!(LOG_BYTES_STEP > 0 && LOG_BYTES_KEPT.is_multiple_of(LOG_BYTES_STEP));

// What other nodes may count.

/// Terms, log indexes and counters of other nodes stay below this, so that adding one never
/// overflows. Nothing that counts elections, entries or snapshots one by one comes near it.
pub const COUNT_MAX: u64 = 1 << 62;
/// How far a peer's term may be ahead of the group's term here. At some ticks an election, a node
/// would have to be away for ten years of nothing but elections to meet it; a peer that may speak
/// for the group would need a billion messages to bring the term to `COUNT_MAX`.
pub const TERM_STEP_MAX: u64 = 1 << 32;
/// How far the number of a peer's snapshot may be ahead of the newest one here. Only one snapshot
/// is open at a time, so that a number further ahead is not just news.
pub const SNAPSHOT_STEP_MAX: u64 = 1 << 32;
/// Minimum time between two lines of the log about refused messages of peers; those in between are
/// counted.
pub const REFUSALS_TOLD_EVERY: Duration = Duration::from_secs(1);

const _: () = assert!(TERM_STEP_MAX < COUNT_MAX && COUNT_MAX.checked_add(TERM_STEP_MAX).is_some());
