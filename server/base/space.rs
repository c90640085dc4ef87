//! How much room a disk has, and how much of it stays free.
//!
//! A store shares its disk with files that could as well wait or be elsewhere: parts of snapshots,
//! and rows on their way to other nodes. Their writers keep a floor of space free (`Space::floor`),
//! so that they never fill the disk: they fail with the reason, while logs and stores, which keep
//! no floor, go on. Replication would not help, since all nodes' disks tend to fill alike.
//!
//! The floor holds on every disk that such files are written to, even if no store is known to lie
//! there: file systems that look separate may share their space. A writer looks up the free space
//! before each write and reserves nothing, so several writers together may pass the floor by one
//! write each.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

use crate::base::{
    error::{Context as _, Error, Result},
    limits,
};

/// What the file system of a directory has, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Bytes that a user other than root may still write.
    pub free: u64,
    pub total: u64,
}

impl Space {
    const ENDLESS: Space = Space { free: i64::MAX as u64, total: i64::MAX as u64 };

    pub fn of(dir: &Path) -> Result<Space> {
        let stat = rustix::fs::statvfs(dir).map_err(std::io::Error::from).at(dir.display())?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        // Some file systems of networks say nothing at all.
        let silent = stat.f_blocks == 0;
        Ok(if silent {
            Space::ENDLESS
        } else {
            Space { free: bytes(stat.f_bavail), total: bytes(stat.f_blocks) }
        })
    }

    /// The bytes that are kept free: a tenth, and on large disks no more than
    /// `DISK_FLOOR_BYTES_MAX`.
    pub fn floor(self) -> u64 {
        (self.total / 10).min(limits::DISK_FLOOR_BYTES_MAX)
    }

    /// `Exhausted` unless so many bytes more leave the floor free.
    pub fn spare(self, bytes: u64) -> Result<()> {
        let (free, floor) = (self.free, self.floor());
        if free >= floor.saturating_add(bytes) {
            return Ok(());
        }
        let more =
            if bytes > 0 { format!(", {bytes} more are to be written") } else { String::new() };
        Err(Error::exhausted(format!(
            "{free} bytes are free{more}, and {floor} are kept free for the stores of nodes"
        )))
    }
}

/// Whether two directories lie on one file system. Not where one of them cannot be looked at.
pub fn shared(one: &Path, other: &Path) -> bool {
    let disk = |dir: &Path| fs::metadata(dir).map(|m| m.dev());
    matches!((disk(one), disk(other)), (Ok(one), Ok(other)) if one == other)
}

/// `Exhausted`, with the directory, unless so many bytes more leave the floor of its disk free.
pub fn spare(dir: &Path, bytes: u64) -> Result<()> {
    Space::of(dir)?.spare(bytes).map_err(|e| e.at(dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::Kind;

    #[test]
    fn the_floor_is_a_tenth_of_a_small_disk_and_bounded_on_a_large_one() {
        let floor = |total| Space { free: 0, total }.floor();
        assert_eq!(
            [floor(0), floor(4 << 20), floor(1 << 40)],
            [0, (4 << 20) / 10, limits::DISK_FLOOR_BYTES_MAX]
        );
    }

    #[test]
    fn what_would_eat_the_floor_is_refused_with_all_that_the_operator_needs_to_know() {
        let space = Space { free: 150, total: 1000 };
        assert_eq!(space.spare(50), Ok(()));
        let refused = space.spare(51).unwrap_err();
        assert_eq!(refused.kind, Kind::Exhausted);
        assert_eq!(
            refused.message,
            "150 bytes are free, 51 more are to be written, and 100 are kept free for the stores \
             of nodes"
        );
        let low = Space { free: 99, ..space }.spare(0).unwrap_err();
        assert_eq!(low.message, "99 bytes are free, and 100 are kept free for the stores of nodes");
        assert!(space.spare(u64::MAX).is_err());
        let here = Space::of(Path::new("/")).unwrap();
        assert!(here.total > 0 && here.free <= here.total, "{here:?}");
        let refused = spare(Path::new("/"), u64::MAX).unwrap_err();
        assert!(refused.message.starts_with("/: "), "{refused}");
        assert!(
            shared(Path::new("/"), Path::new("/"))
                && !shared(Path::new("/"), Path::new("/nowhere"))
                && !shared(Path::new("/"), Path::new("/proc"))
        );
    }
}
