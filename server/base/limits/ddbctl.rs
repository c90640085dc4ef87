//! What `ddbctl` takes and waits for.

use std::time::Duration;

use super::{MESSAGE_BYTES_MAX, ROW_BYTES_MAX};

/// How long an attempt to connect may take, so that an address that swallows packets does not eat
/// the whole deadline.
pub const CTL_CONNECT: Duration = Duration::from_secs(3);
/// How long an endpoint has to say which cluster it belongs to, so that one that is stopped does
/// not hold up every command.
pub const CTL_INTRODUCTION: Duration = Duration::from_secs(1);
/// Bytes of an answer: a row of every sibling at its largest, and what frames it.
pub const CTL_ANSWER_BYTES_MAX: usize = ROW_BYTES_MAX + (1 << 20);
/// Bytes that a node may send ahead, so that a download over a long line does not wait for a round
/// trip with every piece.
pub const CTL_WINDOW: u32 = 4 << 20;
/// Bytes of a file that `ddbctl` reads and hashes at once before it goes on with a download.
pub const CTL_HASH_BYTES: usize = 1 << 20;
/// Links that `ddbctl` follows to one file, as the kernel bounds them.
pub const CTL_LINKS_MAX: usize = 40;
/// Bytes of the file with `ddbctl`'s contexts; hundreds of clusters take less.
pub const CTL_CONFIG_BYTES_MAX: u64 = 1 << 20;
/// Bytes of a file that holds one token.
pub const CTL_TOKEN_BYTES_MAX: u64 = 4096;
/// Longest time, in milliseconds, that an option of `ddbctl` takes: seven days.
pub const CTL_SPAN_MS_MAX: u64 = 7 * 86_400_000;
/// Deadline of a command of the guide (`devicedb cluster`) that names none.
pub const GUIDE_TIMEOUT: Duration = Duration::from_secs(10);

/// Rounds over all endpoints after which a command gives up when none could ever be connected to.
pub const CTL_ROUNDS_REFUSED: usize = 3;
/// Times since the last progress that a server may ask a command to slow down before it gives up.
pub const CTL_SLOWER_MAX: usize = 5;
/// Shortest pause before the second round over all endpoints.
pub const CTL_RETRY_MIN: Duration = Duration::from_millis(50);
/// Longest pause between two rounds over all endpoints; the pauses double.
pub const CTL_RETRY_MAX: Duration = Duration::from_secs(1);
/// Time that has to be left for another attempt. With less, `ddbctl` tells what was said last.
pub const CTL_ATTEMPT_MIN: Duration = Duration::from_millis(100);

/// How long an interrupt waits for a command to take away what it made.
pub const CTL_TIDY: Duration = Duration::from_secs(10);
/// How long one question of a drill may take before it is asked again.
pub const DRILL_ASK: Duration = Duration::from_secs(5);
/// Pause between two looks at the node of a drill.
pub const DRILL_LOOK: Duration = Duration::from_millis(100);
/// Bytes of the end of what the node of a drill says that are kept, to tell why it ended.
pub const DRILL_SAID_BYTES: usize = 16 << 10;
/// How long the last words of a node that has ended may be on their way.
pub const DRILL_LAST_WORDS: Duration = Duration::from_secs(1);
/// Names that a drill tries for its directory: another one may just remove what it makes.
pub const DRILL_NAMES: usize = 10;
/// Keys that a drill reads of each site.
pub const DRILL_KEYS: u64 = 100;
/// First pause between two looks at a snapshot that `ddbctl` waits for.
pub const CTL_LOOK_MIN: Duration = Duration::from_millis(20);
/// Longest pause between two looks at a snapshot; each pause is a fifth longer than the one before.
pub const CTL_LOOK_MAX: Duration = Duration::from_secs(1);
/// How late a schedule may be before `ddbctl` says that nobody runs it: elections are over by then.
pub const CTL_SCHEDULE_LATE: Duration = Duration::from_secs(120);
/// Longest time in which `ddbctl` wants an answer of the meta group's leader before it asks each
/// endpoint for what that knows by itself; half of `--timeout` where that is shorter. An election
/// takes less.
pub const CTL_AGREEMENT: Duration = Duration::from_secs(3);
/// Different losses that `cluster health` tells apart, and nodes that it names in each; the rest is
/// counted.
pub const CTL_OUTLOOK_CLAUSES: usize = 3;
pub const CTL_OUTLOOK_NODES: usize = 4;
/// Pause between two looks of `cluster health --wait`.
pub const CTL_HEALTH_LOOK: Duration = Duration::from_millis(200);

/// How long `ddbctl bench` waits for a connection that it measures over.
pub const BENCH_CONNECT: Duration = Duration::from_secs(3);
/// How often `ddbctl bench` draws its progress.
pub const BENCH_DRAW: Duration = Duration::from_millis(200);
/// Pause before `ddbctl bench` fills a site again after an attempt that failed.
pub const BENCH_AGAIN: Duration = Duration::from_millis(50);
/// Pause between two looks at a snapshot that `ddbctl bench` measures.
pub const BENCH_LOOK: Duration = Duration::from_millis(10);
/// Time that a snapshot which `ddbctl bench` measures may take; one that takes longer fails it.
pub const BENCH_SNAPSHOT_MAX: Duration = Duration::from_secs(3600);

/// How long what a backup takes out of a repository stays there, for whoever reads it.
pub const BACKUP_GRACE_MS: u64 = 24 * 3_600_000;
const _: () = assert!(CTL_ANSWER_BYTES_MAX >= MESSAGE_BYTES_MAX, "no answer is too large");
const _: () = assert!(CTL_RETRY_MIN.as_millis() < CTL_RETRY_MAX.as_millis());
const _: () = assert!(CTL_LOOK_MIN.as_millis() < CTL_LOOK_MAX.as_millis());
