//! The store: rows that wait for a checkpoint, and the disk beneath.

use std::time::Duration;

use super::{ROW_BYTES_MAX, VALUE_BYTES_MAX};

/// Bytes of applied rows in memory at which a checkpoint begins. A checkpoint writes every page
/// that it touches, whole: the more rows wait, the more of them share a page.
pub const OVERLAY_CHECKPOINT_BYTES: usize = 64 << 20;
/// Bytes of applied rows in memory above which writes wait for the checkpoint.
pub const OVERLAY_BYTES_MAX: usize = 128 << 20;
/// Bytes of sealed rows in memory, those that only a capture still holds among them, above which
/// captures fail: as much as waits for the store at most, what one snapshot has frozen of it, and
/// once more. One snapshot alone never comes to it, however fast rows are written.
pub const LAYER_BYTES_MAX: usize = 3 * OVERLAY_BYTES_MAX;
/// Bytes from which on a row shares a page with no other one: the store keeps it in pieces, and in
/// memory it weighs `ROW_LARGE_WEIGHT` times its size.
pub const ROW_LARGE_BYTES: usize = 32 << 10;
/// How many times its size a row of `ROW_LARGE_BYTES` weighs in memory, since waiting does not make
/// its pages cheaper.
pub const ROW_LARGE_WEIGHT: usize = 8;
/// Time since the last checkpoint after which another one begins, while rows keep coming.
pub const CHECKPOINT_AGE_MAX: Duration = Duration::from_secs(30);
/// Time since the last checkpoint after which a quiet node (`CHECKPOINT_QUIET`) writes the rows
/// that wait, so that a restart, a snapshot or a new member finds little left to write.
pub const CHECKPOINT_AGE_QUIET: Duration = Duration::from_secs(5);
/// Time after which a node counts as quiet when its rows in memory have not changed.
pub const CHECKPOINT_QUIET: Duration = Duration::from_secs(1);
/// While rows wait for a checkpoint, time after which a node notes again how far its log is synced.
/// Damage before that place is reported as such, and not taken for a torn end.
pub const EXTENT_AGE_MAX: Duration = Duration::from_secs(5);
/// Niceness of the store's thread. Where others want every core, it still gets a third of the share
/// of one of them.
pub const STORE_NICE: i32 = 5;
/// Bytes of pages that redb caches, where the disk below does not say otherwise.
pub const STORE_CACHE_BYTES: usize = 48 << 20;
/// Bytes of a group's rows that the store puts in place at once when they come from another node.
pub const ROWS_WRITE_BYTES: usize = 1 << 20;
/// Bytes that are read or written at once in a file of a group's rows.
pub const ROWS_FILE_BUFFER_BYTES: usize = 256 << 10;
/// Bytes of zeros that are written at once where a file is allocated.
pub const ALLOCATE_BYTES: usize = 64 << 10;

/// Bytes that stay free on a large disk. Below them a node writes no parts of snapshots and no rows
/// for other nodes, which can wait or be elsewhere. On a small disk a tenth stays free.
pub const DISK_FLOOR_BYTES_MAX: u64 = 1 << 30;
/// How often a node measures how much is free on its disks.
pub const DISK_LOOK_EVERY: Duration = Duration::from_secs(5);
/// Bytes that a restored store takes beside its rows, with the log that its start begins.
pub const RESTORE_ROOM_BYTES: u64 = 4 << 20;
/// Foreign files that a refusal names when a directory should hold this program's only; it counts
/// the others.
pub const STRANGERS_TOLD_MAX: usize = 5;

const _: () = assert!(OVERLAY_CHECKPOINT_BYTES < OVERLAY_BYTES_MAX, "a checkpoint begins in time");
const _: () = assert!(ROW_LARGE_WEIGHT * VALUE_BYTES_MAX < OVERLAY_CHECKPOINT_BYTES);
const _: () = assert!(ROW_LARGE_BYTES < ROW_BYTES_MAX);
const _: () = assert!(CHECKPOINT_QUIET.as_millis() < CHECKPOINT_AGE_QUIET.as_millis());
const _: () = assert!(CHECKPOINT_AGE_QUIET.as_millis() < CHECKPOINT_AGE_MAX.as_millis());
const _: () = assert!(EXTENT_AGE_MAX.as_millis() < CHECKPOINT_AGE_MAX.as_millis());
