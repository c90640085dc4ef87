//! Snapshots: the cut, parts, chunks, deletions.

use std::time::Duration;

use super::{
    CONTEXT_BYTES_MAX, KEY_BYTES_MAX, LINEAGES_MAX, NODE_STATUS, REQUEST_DEADLINE,
    SIBLINGS_BYTES_MAX, SIBLINGS_MAX, TICK, VALUE_BYTES_MAX,
};

// The cut.

/// Time after which the meta leader aborts a snapshot whose marks are not all applied.
pub const CUT_DEADLINE: Duration = Duration::from_secs(10);
/// Time after which the meta leader proposes a snapshot's outcome again when none is applied.
pub const CUT_PROPOSE_AGAIN: Duration = Duration::from_secs(1);
/// Bytes of the reason for which a snapshot or a part failed; the rest of it is cut off.
pub const REASON_BYTES_MAX: usize = 1024;

const _: () = assert!(CUT_PROPOSE_AGAIN.as_millis() < CUT_DEADLINE.as_millis());
const _: () = assert!(2 * TICK.as_millis() < CUT_PROPOSE_AGAIN.as_millis());
const _: () = assert!(
    CUT_DEADLINE.as_millis() <= REQUEST_DEADLINE.as_millis(),
    "a cut holds no write past the default deadline"
);

// Parts.

/// Ticks between two looks of a node at its own unfinished parts, and of the meta leader at those
/// of nodes that are away.
pub const PART_TICKS: u64 = 5;
/// Newest snapshots whose parts a node looks after, and deletions that it begins at one look; the
/// other deletions take their turn.
pub const PARTS_WATCHED: usize = 8;
/// Time, counted from a node's first applied mark of a snapshot, that its other groups have to
/// reach theirs. After that, once the snapshot is sealed, the part goes without groups that have
/// not.
pub const MARK_GRACE: Duration = Duration::from_secs(10);
/// Time, counted from when the meta leader misses a node (`SILENT`), after which it reports the
/// node's unfinished parts of sealed snapshots as missing.
pub const PART_GRACE: Duration = Duration::from_secs(5);
/// Pause before a node reports again on a part that the meta group could not take note of.
pub const REPORT_AGAIN: Duration = Duration::from_millis(500);
/// Niceness of the thread that captures a part: where others want every core, it gets about a tenth
/// of one.
pub const CAPTURE_NICE: i32 = 10;
/// How long a capture may hold rows as they were at the cut, which keeps the store from using space
/// again. After that the capture fails.
pub const VIEW_AGE_MAX: Duration = Duration::from_secs(600);
/// Bytes of chunks that a part's writer leaves to the kernel before it syncs them.
pub const SHELF_UNSYNCED_BYTES: u64 = 64 << 20;
/// Bytes of the file that says which node uses a directory of a snapshot store.
pub const OWNER_BYTES_MAX: u64 = 4096;
/// Bytes of a manifest that a start reads to learn which node the part is of.
pub const TRACE_BYTES: u64 = 4096;
/// Groups that a reason names; it counts the others.
pub const GROUPS_NAMED_MAX: usize = 8;
/// Problems of a part that a check names; it counts the others.
pub const PROBLEMS_MAX: usize = 100;
/// Chunks under way on each thread that reads a part: one that it works on and one that waits.
pub const CHUNKS_UNDER_WAY: usize = 2;
/// Threads that read a part; more cores would wait for the disk.
pub const CHUNK_THREADS_MAX: usize = 8;

const _: () = assert!(TICK.as_millis() * PART_TICKS as u128 <= PART_GRACE.as_millis());
const _: () = assert!(CUT_DEADLINE.as_millis() <= MARK_GRACE.as_millis(), "marks come before");
const _: () = assert!(MARK_GRACE.as_millis() < VIEW_AGE_MAX.as_millis());

// Rows, chunks and manifests.

/// Bytes of a row, key included: every sibling at its largest, which is more than
/// `SIBLINGS_BYTES_MAX` lets a write make. A reader refuses a larger one.
pub const ROW_BYTES_MAX: usize = SIBLINGS_MAX * (VALUE_BYTES_MAX + 64) + 2 * KEY_BYTES_MAX;
/// Bytes of a row's key: its prefix, site, bucket and key, with what keeps them in order.
pub const ROW_KEY_BYTES_MAX: usize = 4 * KEY_BYTES_MAX;
/// Bytes of rows before which a chunk does not end by its content.
pub const CHUNK_BYTES_MIN: usize = 256 << 10;
/// Bytes of rows that chunks have on average.
pub const CHUNK_BYTES_TARGET: usize = 1 << 20;
/// Bytes of rows at which a chunk ends in any case; its last row may go beyond.
pub const CHUNK_BYTES_MAX: usize = 4 << 20;
/// Bytes that a reader decompresses of one chunk. It refuses a chunk that claims more.
pub const CHUNK_BYTES_READ_MAX: usize = CHUNK_BYTES_MAX + ROW_BYTES_MAX;
/// Bytes of a chunk as it is stored. What zstd cannot compress it lengthens by far less than the
/// MiB that is added here.
pub const CHUNK_BYTES_STORED_MAX: u64 = CHUNK_BYTES_READ_MAX as u64 + (1 << 20);
/// Bytes of a manifest; a writer refuses to make a larger one, a reader to read it.
pub const MANIFEST_BYTES_MAX: usize = 512 << 20;

// Repositories.

/// Bytes of the file that makes a directory a repository; a larger one is none.
pub const REPOSITORY_ROOT_BYTES_MAX: u64 = 4096;
/// Bytes at which a segment ends. One chunk that is larger has a segment to itself.
pub const REPOSITORY_SEGMENT_BYTES: usize = 16 << 20;
/// Segments that are made at a time; each is in memory.
pub const REPOSITORY_PUTS: usize = 4;
/// Bytes of a group's index, before and after it is compressed; a reader refuses a larger one.
pub const REPOSITORY_INDEX_BYTES_MAX: usize = 512 << 20;
/// Bytes of a catalogue: some hundred thousand snapshots of one history.
pub const CATALOGUE_BYTES_MAX: u64 = 64 << 20;
/// Catalogues of a history that are not deleted: the newest so many.
pub const CATALOGUES_KEPT: u64 = 64;
/// How often somebody else may be faster in changing a catalogue.
pub const CATALOGUE_TRIES: u32 = 64;
/// Characters in the reason of a hold.
pub const HOLD_REASON_CHARS_MAX: usize = 200;
/// How long a snapshot has to be listed before storing of an earlier one counts as given up.
pub const ABANDONED_AFTER_MS: u64 = 24 * 3_600_000;
/// How long nodes leave what they have dropped from a repository to whoever reads it.
pub const COLLECT_GRACE_MS: u64 = 24 * 3_600_000;
/// A clock that is further ahead of all that a repository holds ends no hold and no grace.
pub const CLOCK_AHEAD_MAX_MS: u64 = 8 * 24 * 3_600_000;
/// Bytes of a report of a verification or a drill.
pub const REPORT_BYTES_MAX: u64 = 1 << 20;
/// Snapshots that the report of a verification names: those that it looked at last.
pub const REPORT_SNAPSHOTS_MAX: usize = 1000;
/// Reports that are read until one can be, and those that cannot that are named.
pub const REPORTS_TRIED: usize = 32;
pub const REPORTS_NAMED_MAX: usize = 8;
/// How far a report may be dated ahead of who reads it: clocks differ, and not by more.
pub const REPORT_AHEAD_MAX_MS: u64 = 24 * 3_600_000;
/// How often a node looks at the reports in its repository, for its metrics.
pub const REPORTS_LOOK: Duration = Duration::from_secs(300);
/// Objects that are deleted at a time.
pub const REPOSITORY_DELETES: usize = 8;
/// Bytes of a name in a repository.
pub const REPOSITORY_NAME_BYTES_MAX: usize = 255;
/// Bytes of a slot that holds a repository's key. That of one recipient has some hundreds.
pub const REPOSITORY_SLOT_BYTES_MAX: u64 = 4096;
/// Bytes of a voucher, in which somebody signs what a repository is. One has some 400.
pub const REPOSITORY_VOUCHER_BYTES_MAX: u64 = 4096;
/// How long a command has to print a repository's key, and its words on stderr to be read then.
pub const REPOSITORY_KEY_COMMAND: Duration = Duration::from_secs(30);
pub const REPOSITORY_KEY_COMMAND_WORDS: Duration = Duration::from_secs(1);
/// A command ends once.
pub const REPOSITORY_KEY_COMMAND_ANSWERS: usize = 1;

// Uploads.

/// How long an upload waits for parts that are being written.
pub const UPLOAD_SETTLE: Duration = Duration::from_secs(900);
pub const UPLOAD_LOOK: Duration = Duration::from_millis(500);
/// How long a node has to say what its part holds. It may have to open the repository first.
pub const UPLOAD_DESCRIBE: Duration = Duration::from_secs(60);
/// Threads that ask the repository at a time whether it has a snapshot.
pub const REPOSITORY_LOOKS: usize = 4;
/// Uploads that a node drives at a time. Beyond it they are refused.
pub const UPLOADS_AT_ONCE: usize = 4;
/// Uploads whose end a node remembers.
pub const UPLOADS_REMEMBERED: usize = 256;
/// What a node says while it stores groups; more of it is not said.
pub const UPLOAD_NEWS_QUEUE_MAX: usize = 16;

// Object stores.

/// For how long a request is repeated that may succeed the next time: where somebody waits for the
/// command, and where a node uploads.
pub const OBJECT_PATIENCE_COMMAND: Duration = Duration::from_secs(15);
pub const OBJECT_PATIENCE_NODE: Duration = Duration::from_secs(180);
/// For how long one may take, beside the time for its bytes.
pub const OBJECT_REQUEST: Duration = Duration::from_secs(30);
/// Slower than this a store is not waited for.
pub const OBJECT_BYTES_PER_SECOND_MIN: u64 = 100_000;
pub const OBJECT_CONNECT: Duration = Duration::from_secs(5);
/// A list takes as many requests as it has thousands of names.
pub const OBJECT_LIST: Duration = Duration::from_secs(3600);
/// Pauses between tries: the first, and the longest.
pub const OBJECT_PAUSE_MIN: Duration = Duration::from_millis(100);
pub const OBJECT_PAUSE_MAX: Duration = Duration::from_secs(5);
/// Answers to one question to a store.
pub const OBJECT_ANSWERS: usize = 1;
/// Characters that are shown of what a store says.
pub const OBJECT_ERROR_CHARS_MAX: usize = 300;

const _: () = assert!(CHUNK_BYTES_MIN < CHUNK_BYTES_TARGET && CHUNK_BYTES_TARGET < CHUNK_BYTES_MAX);
const _: () = assert!(ROW_BYTES_MAX > SIBLINGS_BYTES_MAX + ROW_KEY_BYTES_MAX);
const _: () = assert!(ROW_KEY_BYTES_MAX < CHUNK_BYTES_MIN);
const _: () = assert!(CONTEXT_BYTES_MAX > LINEAGES_MAX * 2 * size_of::<u64>());

// Seals.

/// Recipients of a seal. Every part says them all, and the key is wrapped for each.
pub const SEAL_RECIPIENTS_MAX: usize = 16;
/// Characters of a seal's wrapped key; a reader refuses a longer one. Sixteen recipients take a
/// quarter of it.
pub const SEAL_WRAPPED_BYTES_MAX: usize = 8 << 10;
/// Bytes of what a wrapped key may hold when it is opened; a key has 32.
pub const SEALED_SECRET_BYTES_MAX: u64 = 4096;
/// Bytes of the file that keeps a node's seal.
pub const SEAL_FILE_BYTES_MAX: u64 = 32 << 10;
/// Bytes of an identity file that are read.
pub const IDENTITY_FILE_BYTES_MAX: u64 = 64 << 10;

// Looking at parts, and deleting them.

/// Time for which a look at a part's chunks counts as new, so that clients that ask often do not
/// keep the disk busy.
pub const PART_LOOK_FRESH: Duration = Duration::from_secs(2);
/// How long an answer waits for a look at a part's chunks. A look that takes longer goes on for the
/// next client that asks.
pub const PART_LOOK: Duration = Duration::from_millis(800);
/// Looks at parts that are under way or remembered; with so many under way a further one gets
/// EXHAUSTED.
pub const PARTS_LOOKED_AT: usize = 16;

/// How many parts a node lists of those that lie in corners which other nodes have left. Each costs
/// a read of its manifest. Whoever deletes what is listed sees the rest.
pub const LEFT_PARTS_LISTED: usize = 1000;
/// Pause before a node tries again to delete a part that it could not delete.
pub const DELETE_AGAIN: Duration = Duration::from_secs(5);
/// How long `delete` waits for the nodes to delete their parts. Its answer names those that have
/// not; they go on.
pub const DELETE_WAIT: Duration = Duration::from_secs(2);
/// How often a waiting `delete` looks for the nodes' reports.
pub const DELETE_LOOK: Duration = Duration::from_millis(20);

const _: () = assert!(PART_LOOK.as_millis() < NODE_STATUS.as_millis(), "a look fits an answer");
const _: () = assert!(DELETE_LOOK.as_millis() < DELETE_WAIT.as_millis());
const _: () = assert!(DELETE_WAIT.as_millis() < REQUEST_DEADLINE.as_millis());
