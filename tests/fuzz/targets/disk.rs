//! A disk in memory, so that a store costs microseconds: it keeps everything, at once, and never
//! fails.

use std::{
    io,
    path::Path,
    sync::{Arc, Mutex},
};

use devicedb::base::disk::{Disk, File};

/// Every file that is opened is a new one.
#[derive(Debug)]
pub struct Memory;

#[derive(Debug, Default)]
struct Bytes(Mutex<Vec<u8>>);

impl Disk for Memory {
    fn open(&self, _: &Path, _: bool) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(Bytes::default()))
    }
    fn delete(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
    fn rename(&self, _: &Path, _: &Path) -> io::Result<()> {
        Ok(())
    }
}

impl Bytes {
    fn with<T>(&self, work: impl FnOnce(&mut Vec<u8>) -> T) -> io::Result<T> {
        Ok(work(&mut self.0.lock().expect("nobody panics while holding it")))
    }
}

impl File for Bytes {
    fn size(&self) -> io::Result<u64> {
        self.with(|bytes| bytes.len() as u64)
    }
    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        self.with(|bytes| {
            let from = bytes.get(offset as usize..).unwrap_or_default();
            let count = from.len().min(into.len());
            into[..count].copy_from_slice(&from[..count]);
            count
        })
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.with(|bytes| {
            let end = offset as usize + data.len();
            bytes.resize(bytes.len().max(end), 0);
            bytes[offset as usize..end].copy_from_slice(data);
        })
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.with(|bytes| bytes.resize(len as usize, 0))
    }
    fn allocate(&self, offset: u64, more: u64) -> io::Result<()> {
        self.with(|bytes| bytes.resize(bytes.len().max((offset + more) as usize), 0))
    }
    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}
