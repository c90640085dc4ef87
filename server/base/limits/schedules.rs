//! Backups on a schedule.

use std::time::Duration;

use super::{REQUEST_DEADLINE, SNAPSHOTS_WARNED};

/// Schedules that a cluster keeps: every node looks at all of them each second.
pub const SCHEDULES_MAX: usize = 64;
/// Characters of a schedule's cron expression; a longer one is none that somebody reads.
pub const CRON_BYTES_MAX: usize = 256;
/// Days ahead within which something that recurs is looked for: February 29 comes back after eight
/// years at the latest, and every weekday of it within forty.
pub const CRON_DAYS_LOOKED: u64 = 41 * 366;
/// Days back within which runs that have been missed are counted.
pub const CRON_DAYS_COUNTED: u64 = 10 * 366;
/// The shortest time between two runs of `every`, and the longest.
pub const EVERY_MIN: Duration = Duration::from_secs(60);
pub const EVERY_MAX: Duration = Duration::from_secs(366 * 24 * 3600);
/// The same in tests.
#[cfg(feature = "fault-injection")]
pub const EVERY_MIN_IN_TESTS: Duration = Duration::from_secs(1);
/// How many snapshots a rule of retention keeps of one kind.
pub const KEEP_MAX: u32 = 100_000;
/// For how long a rule of retention keeps all of them: a hundred years.
pub const KEEP_WITHIN_MAX: Duration = Duration::from_secs(36_525 * 24 * 3600);

/// How late a run may begin where nobody has said it: half of the time to the next one, and at most
/// so much.
pub const START_DEADLINE_USUAL_MAX: Duration = Duration::from_secs(3600);
pub const START_DEADLINE_MIN: Duration = Duration::from_secs(1);
pub const START_DEADLINE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// How far the last run may lie ahead of the clock: two nodes' clocks differ by less. Beyond it,
/// the clock has gone back, and runs are planned anew.
pub const SCHEDULE_CLOCK_BACK: Duration = Duration::from_secs(600);
/// Runs that were missed at one go from which on a schedule says that the clock may have gone
/// ahead.
pub const SCHEDULE_MISSED_TOLD: u64 = 3;
/// Snapshots of a schedule that are not in the repository and stay on the nodes' shelves: the
/// newest ones.
pub const SCHEDULED_UNSTORED_KEPT: usize = 2;

/// How often the node that leads the meta group looks at what is due.
pub const SCHEDULE_LOOK: Duration = Duration::from_secs(1);
/// How long a run waits for a snapshot that somebody else takes, and for a majority.
pub const SCHEDULED_SNAPSHOT_WAIT: Duration = Duration::from_secs(300);
/// How often one run begins to upload its snapshot or to verify, and the pause before each further
/// time.
pub const SCHEDULED_UPLOADS: usize = 3;
pub const SCHEDULED_UPLOAD_AGAIN: Duration = Duration::from_secs(5);

/// Verifications that a cluster carries out at a time.
pub const VERIFICATIONS_AT_ONCE: usize = 1;
/// Bytes that a node reads in a second while it verifies: its work for clients comes first. A lower
/// `--repository-rate` holds too.
pub const VERIFY_BYTES_PER_SECOND: u64 = 64 << 20;
/// A verification that nobody has asked about for so long is given up.
pub const VERIFY_ABANDONED: Duration = Duration::from_secs(15);

const _: () = assert!(SCHEDULE_LOOK.as_millis() * 4 < VERIFY_ABANDONED.as_millis());
const _: () = assert!(SCHEDULED_UPLOAD_AGAIN.as_millis() < VERIFY_ABANDONED.as_millis());
const _: () = assert!(SCHEDULED_UNSTORED_KEPT * SCHEDULES_MAX < SNAPSHOTS_WARNED);
const _: () = assert!(REQUEST_DEADLINE.as_millis() < SCHEDULED_SNAPSHOT_WAIT.as_millis());
const _: () = assert!(SCHEDULE_LOOK.as_millis() <= START_DEADLINE_MIN.as_millis());
