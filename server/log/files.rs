//! raft-engine's idea of files, on a `Disk`.
//!
//! raft-engine ends the process when a sync fails. Here it is told that all is well, and
//! `Log::write` looks at `Failed` before it says so to anyone: the node then stops with the reason.
//! A disk that has failed once is not trusted again.
//!
//! raft-engine takes the first broken record of the newest file for its torn end and cuts the file
//! off there: after a crash that is so, but a byte that was damaged long after its sync looks the
//! same, and the node would forget what it acknowledged behind it. Therefore `extent` among the
//! files says how far the newest file was synced a few seconds ago, and nothing before that is ever
//! cut off. Damage behind it is not told from a torn end.

use std::{
    io::{Error, ErrorKind, Read, Result, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use raft_engine::env::{FileSystem, Handle, Permission, WriteExt};

use crate::{
    base::{
        disk::{Disk, File},
        locks::lock,
    },
    faults::{
        failpoint::{Failpoint, failpoint},
        mutation::{Mutation, mutated},
    },
};

/// Where the log's files are.
pub struct Files {
    disk: Arc<dyn Disk>,
    failed: Failed,
    extent: Arc<Extent>,
}

/// How far the log is known to be whole.
#[derive(Debug)]
pub struct Extent {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    /// Open since the log is: a process that may open no file any more still notes what it has
    /// synced.
    file: OnceLock<Arc<dyn File>>,
    /// The newest file, and its bytes that were synced; as known when the log was opened, and as
    /// they are now.
    noted: Option<Synced>,
    now: Mutex<Option<Synced>>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Synced {
    /// Names grow with every file.
    name: String,
    bytes: u64,
}

const EXTENT: &str = "extent";
/// A name, a space, bytes, a digest of those and zeros: one sector, which a disk writes whole or
/// leaves as it was.
const EXTENT_BYTES: usize = 512;
const DIGEST_BYTES: usize = 32;

impl Extent {
    fn open(log: &Path, disk: Arc<dyn Disk>) -> Result<Extent> {
        let path = log.join(EXTENT);
        let mut sector = [0; EXTENT_BYTES];
        let noted = match disk.open(&path, false) {
            Ok(file) => (file.read(0, &mut sector)? == EXTENT_BYTES)
                .then(|| Synced::parse(&sector))
                .flatten(),
            Err(e) if e.kind() == ErrorKind::NotFound => None,
            Err(e) => return Err(e),
        };
        let noted = noted.filter(|_| !mutated(Mutation::ExtentForgotten));
        Ok(Extent { disk, path, file: OnceLock::new(), noted, now: Mutex::default() })
    }

    fn synced(&self, name: &str, bytes: u64) {
        let synced = Some(Synced { name: name.to_owned(), bytes });
        let mut now = lock(&self.now);
        *now = now.take().max(synced);
    }

    /// The file, opened by the first who asks.
    pub fn file(&self) -> Result<&Arc<dyn File>> {
        if self.file.get().is_none() {
            // Two who ask at once have opened the same.
            let _ = self.file.set(self.disk.open(&self.path, true)?);
        }
        Ok(self.file.get().expect("it was just set"))
    }

    /// Writes down, durably, how far the newest file is synced now.
    pub fn note(&self) -> Result<()> {
        let now = lock(&self.now).clone();
        let Some(now) = now else { return Ok(()) };
        let file = self.file()?;
        file.write(0, &now.sector())?;
        failpoint(Failpoint::ExtentWritten);
        file.sync()?;
        failpoint(Failpoint::ExtentSynced);
        Ok(())
    }

    /// Whether a file may be cut off there: nothing is lost that is known to have been synced.
    fn check(&self, name: &str, offset: u64) -> Result<()> {
        match &self.noted {
            Some(noted) if noted.name == name && offset < noted.bytes => Err(Error::new(
                ErrorKind::InvalidData,
                format!(
                    "{} is damaged at byte {offset}, and {} bytes of it had been synced: the node \
                     would forget what it acknowledged. Restore a part into an empty directory, or \
                     start with an empty one and --join",
                    self.path.with_file_name(name).display(),
                    noted.bytes
                ),
            )),
            _ => Ok(()),
        }
    }
}

impl Synced {
    fn sector(&self) -> [u8; EXTENT_BYTES] {
        let text = format!("{} {}\n", self.name, self.bytes);
        let mut sector = [0; EXTENT_BYTES];
        sector[..DIGEST_BYTES].copy_from_slice(blake3::hash(text.as_bytes()).as_bytes());
        sector[DIGEST_BYTES..][..text.len()].copy_from_slice(text.as_bytes());
        sector
    }

    /// Nothing where the sector is not one that was written whole: what it would have said is only
    /// not known.
    fn parse(sector: &[u8; EXTENT_BYTES]) -> Option<Synced> {
        let (digest, text) = sector.split_at(DIGEST_BYTES);
        let text = &text[..=text.iter().position(|byte| *byte == b'\n')?];
        let (name, bytes) = std::str::from_utf8(text).ok()?.trim_end().split_once(' ')?;
        (blake3::hash(text).as_bytes() == digest)
            .then_some(Synced { name: name.to_owned(), bytes: bytes.parse().ok()? })
    }
}

/// The first sync that failed.
pub type Failed = Arc<OnceLock<Error>>;

/// An open file.
pub struct Opened {
    file: Arc<dyn File>,
    failed: Failed,
    /// Its name, if it is one of the files in which entries are appended.
    appended: Option<String>,
    /// Where what this process has written ends.
    end: Arc<AtomicU64>,
    extent: Arc<Extent>,
}

impl Files {
    /// The files of a log in its directory.
    pub fn on(log: &Path, disk: Arc<dyn Disk>) -> Result<(Files, Failed, Arc<Extent>)> {
        let (failed, extent) = (Failed::default(), Arc::new(Extent::open(log, disk.clone())?));
        Ok((Files { disk, failed: failed.clone(), extent: extent.clone() }, failed, extent))
    }

    fn opened(&self, path: &Path, create: bool) -> Result<Opened> {
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .filter(|name| name.ends_with(".raftlog"));
        Ok(Opened {
            file: self.disk.open(path, create)?,
            failed: self.failed.clone(),
            appended: name.map(str::to_owned),
            end: Arc::default(),
            extent: self.extent.clone(),
        })
    }
}

/// A place in an open file.
pub struct Cursor {
    file: Arc<dyn File>,
    at: u64,
    end: Arc<AtomicU64>,
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
        Ok(Cursor { file: handle.file.clone(), at: 0, end: handle.end.clone() })
    }
    fn new_writer(&self, handle: Arc<Opened>) -> Result<Cursor> {
        Ok(Cursor { file: handle.file.clone(), at: 0, end: handle.end.clone() })
    }
}

impl Handle for Opened {
    /// Only recovery does this.
    fn truncate(&self, offset: usize) -> Result<()> {
        if let Some(name) = &self.appended {
            self.extent.check(name, offset as u64)?;
        }
        self.file.set_len(offset as u64)
    }
    fn file_size(&self) -> Result<usize> {
        self.file.size().map(|len| len as usize)
    }
    fn sync(&self) -> Result<()> {
        let end = self.end.load(Ordering::Acquire);
        match (self.file.sync(), &self.appended) {
            // Only the first one says what happened.
            (Err(e), _) => drop(self.failed.set(e)),
            (Ok(()), Some(name)) => self.extent.synced(name, end),
            (Ok(()), None) => {}
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
        self.end.fetch_max(self.at, Ordering::Release);
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
        self.at = at
            .ok_or_else(|| Error::new(ErrorKind::InvalidInput, "a seek to before the beginning"))?;
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
