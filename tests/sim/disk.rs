//! A disk that forgets what was not synced.
//!
//! Files are real files in a temporary directory, so that whatever reads them by itself finds them;
//! this stands in front and remembers how to undo every write since the file's last sync. A crash
//! undoes them all and then lets a part of them happen after all: whole writes, or pieces of them
//! in units of a sector. Names (creating, renaming, deleting) are durable at once: what is tested
//! is what the log and the store do with their files.
//!
//! It fails on demand: after so many operations with an error, which stands for a process that is
//! killed between two writes as well as for a broken disk; for lack of space; and slowly.

use std::{
    cell::Cell,
    collections::BTreeMap,
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use devicedb::base::{
    clock::Random,
    disk::{Disk, File},
};

const SECTOR: u64 = 512;

thread_local! {
    /// How much of a store this thread's nodes keep in memory: next to nothing, so that pages come
    /// from the disk again.
    pub static CACHE_BYTES: Cell<usize> = const { Cell::new(32 << 10) };
}

#[derive(Clone, Debug)]
pub struct SimDisk {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    rng: Random,
    unsynced: BTreeMap<PathBuf, Vec<Undo>>,
    files: BTreeMap<PathBuf, Arc<fs::File>>,
    /// Operations left until the next one fails, and all after it.
    fails_in: Option<u64>,
    failed: bool,
    /// The process is gone: what its remains still do has no effect.
    gone: bool,
    full: bool,
    /// For lack of space, since the last crash.
    refused: bool,
    /// What a sync takes.
    sync: Duration,
    /// What syncs have taken since somebody asked.
    spent: Duration,
    /// Of every write and sync.
    trace: DefaultHasher,
    operations: u64,
}

/// A write that a crash may take back.
#[derive(Debug)]
enum Undo {
    Write { offset: u64, before: Vec<u8>, len_before: u64, after: Vec<u8> },
    Len { before: u64, cut_off: Vec<u8>, after: u64 },
}

#[derive(Debug)]
struct Opened {
    path: PathBuf,
    file: Arc<fs::File>,
    disk: SimDisk,
}

impl SimDisk {
    pub fn new(seed: u64) -> SimDisk {
        let inner = Inner {
            rng: Random::seeded(seed),
            unsynced: BTreeMap::new(),
            files: BTreeMap::new(),
            fails_in: None,
            failed: false,
            gone: false,
            full: false,
            refused: false,
            sync: Duration::from_micros(500),
            spent: Duration::ZERO,
            trace: DefaultHasher::new(),
            operations: 0,
        };
        SimDisk { inner: Arc::new(Mutex::new(inner)) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no disk operation panics")
    }

    /// The operation after so many fails, and every one after that.
    pub fn fail_in(&self, operations: u64) {
        self.lock().fails_in = Some(operations);
    }
    pub fn set_full(&self, full: bool) {
        self.lock().full = full;
    }
    /// It does not fail by itself any more.
    pub fn heal(&self) {
        let mut inner = self.lock();
        (inner.fails_in, inner.full) = (None, false);
    }
    pub fn set_sync(&self, takes: Duration) {
        self.lock().sync = takes;
    }
    /// Nothing that the process still does, as its remains are dropped, reaches it any more.
    pub fn cut_off(&self) {
        self.lock().gone = true;
    }
    /// Whether it has failed a process since the last crash.
    pub fn has_failed(&self) -> bool {
        let inner = self.lock();
        inner.failed || inner.refused
    }
    pub fn take_spent(&self) -> Duration {
        std::mem::take(&mut self.lock().spent)
    }
    pub fn spent(&self) -> Duration {
        self.lock().spent
    }
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }
    pub fn trace(&self) -> u64 {
        self.lock().trace.finish()
    }

    /// The power goes: what was not synced is there in part, or not. Then the disk works again.
    pub fn crash(&self) {
        let mut inner = self.lock();
        let unsynced = std::mem::take(&mut inner.unsynced);
        // Some crashes lose nothing, as when only the process is killed, some lose all, most
        // something.
        let kept_percent = [100, 100, 0, 50, 80][inner.rng.below(5) as usize];
        for (path, undos) in unsynced {
            let Some(file) = inner.files.get(&path).cloned() else { continue };
            for undo in undos.iter().rev() {
                undo.take_back(&file).expect("a temporary file can be written");
            }
            for undo in &undos {
                let keep = inner.rng.below(100) < kept_percent;
                let torn = !keep && kept_percent > 0 && inner.rng.below(3) == 0;
                undo.happen(&file, keep, torn, &mut inner.rng)
                    .expect("a temporary file can be written");
            }
        }
        inner.files.clear();
        (inner.fails_in, inner.failed, inner.gone, inner.full, inner.refused) =
            (None, false, false, false, false);
        inner.spent = Duration::ZERO;
    }
}

impl Inner {
    /// Whether an operation has its effect.
    fn operate(&mut self, what: &str, offset: u64, bytes: &[u8]) -> io::Result<bool> {
        if self.gone {
            return Ok(false);
        }
        if let Some(left) = &mut self.fails_in {
            if *left == 0 {
                self.failed = true;
            }
            *left = left.saturating_sub(1);
        }
        if self.failed {
            return Err(io::Error::other("the simulated disk has failed"));
        }
        if self.full && what != "sync" {
            self.refused = true;
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.operations += 1;
        (what, offset, bytes).hash(&mut self.trace);
        Ok(true)
    }
}

impl Undo {
    fn take_back(&self, file: &fs::File) -> io::Result<()> {
        match self {
            Undo::Write { offset, before, len_before, .. } => {
                file.write_all_at(before, *offset)?;
                file.set_len(*len_before)
            }
            Undo::Len { before, cut_off, after } => {
                file.set_len(*before)?;
                if after < before { file.write_all_at(cut_off, *after) } else { Ok(()) }
            }
        }
    }

    fn happen(&self, file: &fs::File, whole: bool, torn: bool, rng: &mut Random) -> io::Result<()> {
        match self {
            Undo::Write { offset, after, .. } if whole => file.write_all_at(after, *offset),
            Undo::Write { offset, after, .. } if torn => {
                // From the beginning up to the end of some sector.
                let to = (offset + rng.below(after.len() as u64 + 1)) / SECTOR * SECTOR;
                file.write_all_at(&after[..to.saturating_sub(*offset) as usize], *offset)
            }
            Undo::Len { after, .. } if whole => file.set_len(*after),
            _ => Ok(()),
        }
    }
}

impl Disk for SimDisk {
    fn cache_bytes(&self) -> usize {
        CACHE_BYTES.get()
    }
    fn open(&self, path: &Path, create: bool) -> io::Result<Arc<dyn File>> {
        let mut inner = self.lock();
        inner.operate("open", 0, &[])?;
        let file = match inner.files.get(path) {
            Some(file) => file.clone(),
            None => {
                let file = Arc::new(
                    fs::File::options()
                        .read(true)
                        .write(true)
                        .create(create)
                        .truncate(false)
                        .open(path)?,
                );
                inner.files.insert(path.to_owned(), file.clone());
                file
            }
        };
        Ok(Arc::new(Opened { path: path.to_owned(), file, disk: self.clone() }))
    }
    fn delete(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.lock();
        if !inner.operate("delete", 0, &[])? {
            return Ok(());
        }
        inner.unsynced.remove(path);
        inner.files.remove(path);
        fs::remove_file(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut inner = self.lock();
        if !inner.operate("rename", 0, &[])? {
            return Ok(());
        }
        fs::rename(from, to)?;
        for name in [from, to] {
            let (undos, file) = (inner.unsynced.remove(name), inner.files.remove(name));
            if name == from {
                inner.unsynced.extend(undos.map(|undos| (to.to_owned(), undos)));
                inner.files.extend(file.map(|file| (to.to_owned(), file)));
            }
        }
        Ok(())
    }
}

impl File for Opened {
    fn size(&self) -> io::Result<u64> {
        self.disk.lock().alive()?;
        Ok(self.file.metadata()?.len())
    }
    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        self.disk.lock().alive()?;
        File::read(&*self.file, offset, into)
    }
    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut inner = self.disk.lock();
        if !inner.operate("write", offset, bytes)? {
            return Ok(());
        }
        let len_before = self.file.metadata()?.len();
        let mut before = vec![0; bytes.len().min(len_before.saturating_sub(offset) as usize)];
        self.file.read_exact_at(&mut before, offset)?;
        self.file.write_all_at(bytes, offset)?;
        let undo = Undo::Write { offset, before, len_before, after: bytes.to_vec() };
        inner.unsynced.entry(self.path.clone()).or_default().push(undo);
        Ok(())
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut inner = self.disk.lock();
        if !inner.operate("length", len, &[])? {
            return Ok(());
        }
        let before = self.file.metadata()?.len();
        let mut cut_off = vec![0; before.saturating_sub(len) as usize];
        self.file.read_exact_at(&mut cut_off, len.min(before))?;
        self.file.set_len(len)?;
        inner.unsynced.entry(self.path.clone()).or_default().push(Undo::Len {
            before,
            cut_off,
            after: len,
        });
        Ok(())
    }
    fn allocate(&self, offset: u64, bytes: u64) -> io::Result<()> {
        if self.size()? < offset + bytes { self.set_len(offset + bytes) } else { Ok(()) }
    }
    fn sync(&self) -> io::Result<()> {
        let mut inner = self.disk.lock();
        if !inner.operate("sync", 0, &[])? {
            return Ok(());
        }
        inner.unsynced.remove(&self.path);
        let takes = inner.sync;
        inner.spent += takes;
        Ok(())
    }
}

impl Inner {
    fn alive(&self) -> io::Result<()> {
        if self.failed && !self.gone {
            Err(io::Error::other("the simulated disk has failed"))
        } else {
            Ok(())
        }
    }
}
