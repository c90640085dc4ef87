//! raft-engine's idea of files, on a `Disk`.

use std::{
    io::{Error, ErrorKind, Read, Result, Seek, SeekFrom, Write},
    path::Path,
    sync::Arc,
};

use raft_engine::env::{FileSystem, Handle, Permission, WriteExt};

use crate::disk::{Disk, File};

/// Where the log's files are.
pub struct Files(pub Arc<dyn Disk>);

/// An open file.
pub struct Opened(Arc<dyn File>);

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
        self.0.open(path.as_ref(), true).map(Opened)
    }
    fn open<P: AsRef<Path>>(&self, path: P, _: Permission) -> Result<Opened> {
        self.0.open(path.as_ref(), false).map(Opened)
    }
    fn delete<P: AsRef<Path>>(&self, path: P) -> Result<()> {
        self.0.delete(path.as_ref())
    }
    fn rename<P: AsRef<Path>>(&self, from: P, to: P) -> Result<()> {
        self.0.rename(from.as_ref(), to.as_ref())
    }
    fn new_reader(&self, handle: Arc<Opened>) -> Result<Cursor> {
        Ok(Cursor { file: handle.0.clone(), at: 0 })
    }
    fn new_writer(&self, handle: Arc<Opened>) -> Result<Cursor> {
        Ok(Cursor { file: handle.0.clone(), at: 0 })
    }
}

impl Handle for Opened {
    fn truncate(&self, offset: usize) -> Result<()> {
        self.0.set_len(offset as u64)
    }
    fn file_size(&self) -> Result<usize> {
        self.0.len().map(|len| len as usize)
    }
    fn sync(&self) -> Result<()> {
        self.0.sync()
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
            SeekFrom::End(by) => self.file.len()?.checked_add_signed(by),
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
        self.file.allocate(offset as u64, size as u64)
    }
}
