//! The files below the log and the store: every byte that a node acknowledges goes through here.
//! `Machine` is the machine's own disk; a simulator puts another one in its place, which forgets
//! what was not synced, tears writes and fails.
//!
//! Files are written at places, never appended to. What was written is durable when `sync` returns,
//! and may be there in any part before.

use std::{fmt::Debug, fs, io, os::unix::fs::FileExt as _, path::Path, sync::Arc};

use crate::base::limits;

pub trait Disk: Debug + Send + Sync {
    fn open(&self, path: &Path, create: bool) -> io::Result<Arc<dyn File>>;
    fn delete(&self, path: &Path) -> io::Result<()>;
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// How much of what it holds a store may keep in memory. A simulator keeps next to nothing, so
    /// that pages come from its disk again.
    fn cache_bytes(&self) -> usize {
        limits::STORE_CACHE_BYTES
    }
}

pub trait File: Debug + Send + Sync {
    fn size(&self) -> io::Result<u64>;
    /// As many bytes as there are, up to as many as fit.
    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<usize>;
    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// New bytes are zero.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Takes room for a run of bytes, so that writing them does not fail for lack of it. Bytes that
    /// are new are zero.
    fn allocate(&self, offset: u64, bytes: u64) -> io::Result<()>;
    fn sync(&self) -> io::Result<()>;
}

/// The machine's own disk.
#[derive(Clone, Copy, Debug)]
pub struct Machine;

impl Disk for Machine {
    fn open(&self, path: &Path, create: bool) -> io::Result<Arc<dyn File>> {
        let file =
            fs::File::options().read(true).write(true).create(create).truncate(false).open(path)?;
        Ok(Arc::new(file))
    }
    fn delete(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }
}

impl File for fs::File {
    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < into.len() {
            match self.read_at(&mut into[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }
    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        fs::File::set_len(self, len)
    }
    /// Zeros are written, not only promised: a sync of what is written there later has no size and
    /// no extent to make durable, which takes most file systems a second write, or a commit of
    /// their journal.
    fn allocate(&self, offset: u64, bytes: u64) -> io::Result<()> {
        match rustix::fs::fallocate(self, rustix::fs::FallocateFlags::empty(), offset, bytes) {
            // Then a write may fail for lack of room, which ends the node as well.
            Err(rustix::io::Errno::OPNOTSUPP) => return Ok(()),
            done => done?,
        }
        let zeros = [0; limits::ALLOCATE_BYTES];
        let end = offset + bytes;
        (offset..end).step_by(zeros.len()).try_for_each(|at| {
            self.write_all_at(&zeros[..zeros.len().min((end - at) as usize)], at)
        })
    }
    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}
