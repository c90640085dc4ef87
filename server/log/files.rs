//! raft-engine's idea of files, on a `Disk`.
//!
//! raft-engine ends the process when a sync fails. Here it is told that all is well, and `Log::write` looks at `Failed` before it says so to anyone: the node
//! then stops with the reason. A disk that has failed once is not trusted again.

use std::{
    io::{Error, ErrorKind, Read, Result, Seek, SeekFrom, Write},
    path::Path,
    sync::{Arc, OnceLock},
};

use raft_engine::env::{FileSystem, Handle, Permission, WriteExt};

use crate::{
    disk::{Disk, File},
    failpoint::{Failpoint, failpoint},
};

/// Where the log's files are.
pub struct Files {
    disk: Arc<dyn Disk>,
    failed: Failed,
}

/// The first sync that failed.
pub type Failed = Arc<OnceLock<Error>>;

/// An open file.
pub struct Opened {
    file: Arc<dyn File>,
    failed: Failed,
}

impl Files {
    pub fn on(disk: Arc<dyn Disk>) -> (Files, Failed) {
        let failed = Failed::default();
        (Files { disk, failed: failed.clone() }, failed)
    }

    fn opened(&self, path: &Path, create: bool) -> Result<Opened> {
        Ok(Opened { file: self.disk.open(path, create)?, failed: self.failed.clone() })
    }
}

/// A place in an open file.
pub struct Cursor {
    file: Arc<dyn File>,
    at: u64,
}

impl FileSystem for Files {
    type Handle = Opened;
    type Reader = Cursor;
    type Writer = Cursor;

    fn create<P: AsRef<Path>>(&self, path: P) -> Result<Opened> {
        let made = self.opened(path.as_ref(), true)?;
        failpoint(Failpoint::LogFileMade);
        Ok(made)
    }
    fn open<P: AsRef<Path>>(&self, path: P, _: Permission) -> Result<Opened> {
        self.opened(path.as_ref(), false)
    }
    fn delete<P: AsRef<Path>>(&self, path: P) -> Result<()> {
        self.disk.delete(path.as_ref())
    }
    fn rename<P: AsRef<Path>>(&self, from: P, to: P) -> Result<()> {
        self.disk.rename(from.as_ref(), to.as_ref())
    }
    fn new_reader(&self, handle: Arc<Opened>) -> Result<Cursor> {
        Ok(Cursor { file: handle.file.clone(), at: 0 })
    }
    fn new_writer(&self, handle: Arc<Opened>) -> Result<Cursor> {
        Ok(Cursor { file: handle.file.clone(), at: 0 })
    }
}

impl Handle for Opened {
    fn truncate(&self, offset: usize) -> Result<()> {
        self.file.set_len(offset as u64)
    }
    fn file_size(&self) -> Result<usize> {
        self.file.size().map(|len| len as usize)
    }
    fn sync(&self) -> Result<()> {
        if let Err(e) = self.file.sync() {
            // Only the first one says what happened.
            let _ = self.failed.set(e);
        }
        failpoint(Failpoint::LogSynced);
        Ok(())
    }
}

impl Read for Cursor {
    fn read(&mut self, into: &mut [u8]) -> Result<usize> {
        let read = self.file.read(self.at, into)?;
        self.at += read as u64;
        Ok(read)
    }
}

impl Write for Cursor {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        self.file.write(self.at, bytes)?;
        failpoint(Failpoint::LogBytesWritten);
        self.at += bytes.len() as u64;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

impl Seek for Cursor {
    fn seek(&mut self, to: SeekFrom) -> Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.file.size()?.checked_add_signed(by),
        };
        self.at = at.ok_or_else(|| Error::new(ErrorKind::InvalidInput, "a seek to before the beginning"))?;
        Ok(self.at)
    }
}

impl WriteExt for Cursor {
    fn truncate(&mut self, offset: usize) -> Result<()> {
        self.file.set_len(offset as u64)?;
        self.at = offset as u64;
        Ok(())
    }
    fn allocate(&mut self, offset: usize, size: usize) -> Result<()> {
        self.file.allocate(offset as u64, size as u64)?;
        failpoint(Failpoint::LogRoomTaken);
        Ok(())
    }
}
