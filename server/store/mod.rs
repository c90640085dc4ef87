//! The state on disk: one redb file with the rows of all local groups, and how far each group is applied in the same transaction.
//!
//! - A commit is durable when it returns, and holds rows and group records together or not at all.
//! - The file is locked: a second process on the same store is told so.
//! - A store of a newer format is refused before anything is read from it.
//!
//! It knows rows as bytes under the spaces of `keys`; what they mean is said elsewhere. A view stops redb from reusing pages, so holders let go of it soon.
//! The only file that knows redb.

pub mod keys;
pub mod transfer;

use std::{
    fs::{self, File, TryLockError},
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use redb::{Database, ReadOnlyTable, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition, WriteTransaction};

use crate::{
    disk::{self, Disk},
    error::{Context, Error, Kind, Result},
    failpoint::{Failpoint, failpoint},
    ids::{GroupId, Topology},
    limits,
};

const ROWS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("rows");
const GROUPS: TableDefinition<u32, &[u8]> = TableDefinition::new("groups");
const IDENTITY: TableDefinition<&str, &[u8]> = TableDefinition::new("identity");

/// The version of what stands in a store directory.
pub const FORMAT: u32 = 1;

/// A directory that belongs to this process alone while it is held.
#[derive(Debug)]
pub struct Claim {
    pub dir: PathBuf,
    _lock: File,
}

impl Claim {
    pub fn on(dir: &Path) -> Result<Claim> {
        fs::create_dir_all(dir).at(format!("store directory {}", dir.display()))?;
        // The directory itself is locked, so that an extracted part holds nothing but itself.
        let lock = File::open(dir).at(dir.display())?;
        match lock.try_lock() {
            Ok(()) => Ok(Claim { dir: dir.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(Error::conflict(format!("store {} is in use by another devicedb process", dir.display()))),
            Err(TryLockError::Error(e)) => Err(e).at(dir.display()),
        }
    }
}

/// The redb file. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    db: Arc<Database>,
    path: Arc<PathBuf>,
}

/// What the store held at one moment.
pub struct View {
    rows: ReadOnlyTable<&'static [u8], &'static [u8]>,
    groups: ReadOnlyTable<u32, &'static [u8]>,
    path: Arc<PathBuf>,
}

/// Changes that become durable together.
pub struct Commit {
    txn: WriteTransaction,
    path: Arc<PathBuf>,
}

impl Store {
    pub fn path_in(dir: &Path) -> PathBuf {
        dir.join("state.redb")
    }

    pub fn exists(dir: &Path) -> bool {
        Store::path_in(dir).exists()
    }

    /// Makes an empty store with an identity.
    pub fn create(dir: &Path, disk: &dyn Disk, identity: &[u8]) -> Result<Store> {
        let store = Store::on(dir, disk, true)?;
        store.set_identity(identity)?;
        Ok(store)
    }

    pub fn open(dir: &Path, disk: &dyn Disk) -> Result<Store> {
        Store::on(dir, disk, false)
    }

    fn on(dir: &Path, disk: &dyn Disk, create: bool) -> Result<Store> {
        let path = Store::path_in(dir);
        let file = disk.open(&path, create).at(path.display())?;
        if !create && file.size().at(path.display())? == 0 {
            return Err(Error::corrupt(format!("{} is empty", path.display())));
        }
        let db = Database::builder().set_cache_size(limits::STORE_CACHE_BYTES).create_with_backend(Backend(file)).map_err(|e| broken(&path, e))?;
        Ok(Store { db: Arc::new(db), path: Arc::new(path) })
    }

    pub fn identity(&self) -> Result<Bytes> {
        let at = |e: redb::Error| broken(&self.path, e);
        let txn = self.db.begin_read().map_err(|e| at(e.into()))?;
        let table = txn.open_table(IDENTITY).map_err(|e| at(e.into()))?;
        let value = table.get("identity").map_err(|e| at(e.into()))?;
        value.map(|v| Bytes::copy_from_slice(v.value())).ok_or_else(|| Error::corrupt(format!("{}: the store has no identity", self.path.display())))
    }

    /// Whether a node has ever served from this store: then it has a log, and must not go on without it.
    pub fn has_served(&self) -> Result<bool> {
        let txn = self.db.begin_read().map_err(|e| broken(&self.path, e))?;
        let table = txn.open_table(IDENTITY).map_err(|e| broken(&self.path, e))?;
        Ok(table.get("served").map_err(|e| broken(&self.path, e))?.is_some())
    }

    /// Notes, durably, that a node serves from this store from now on.
    pub fn set_served(&self) -> Result<()> {
        let commit = self.begin()?;
        commit.txn.open_table(IDENTITY).map_err(|e| broken(&self.path, e))?.insert("served", &b""[..]).map_err(|e| broken(&self.path, e))?;
        commit.finish()
    }

    /// Replaces the identity, durably.
    pub fn set_identity(&self, identity: &[u8]) -> Result<()> {
        let commit = self.begin()?;
        commit.txn.open_table(IDENTITY).map_err(|e| broken(&self.path, e))?.insert("identity", identity).map_err(|e| broken(&self.path, e))?;
        commit.finish()
    }

    /// Puts a store that was made aside in place, durably: from now on the directory has one.
    pub fn put_in_place(made_in: &Path, dir: &Path) -> Result<()> {
        fs::rename(Store::path_in(made_in), Store::path_in(dir)).at(format!("putting the store in place in {}", dir.display()))?;
        failpoint(Failpoint::StoreRenamed);
        sync_dir(dir)
    }

    pub fn begin(&self) -> Result<Commit> {
        let txn = self.db.begin_write().map_err(|e| broken(&self.path, e))?;
        for opened in [txn.open_table(ROWS).map(drop), txn.open_table(GROUPS).map(drop)] {
            opened.map_err(|e| broken(&self.path, e))?;
        }
        Ok(Commit { txn, path: self.path.clone() })
    }

    pub fn view(&self) -> Result<View> {
        let txn = self.db.begin_read().map_err(|e| broken(&self.path, e))?;
        let rows = txn.open_table(ROWS).map_err(|e| broken(&self.path, e))?;
        let groups = txn.open_table(GROUPS).map_err(|e| broken(&self.path, e))?;
        Ok(View { rows, groups, path: self.path.clone() })
    }
}

/// redb's idea of a file, on a `Disk`'s. Nobody else has it open: `Claim` sees to that.
#[derive(Debug)]
struct Backend(Arc<dyn disk::File>);

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.0.size()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let read = self.0.read(offset, out)?;
        if read == out.len() { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)?;
        failpoint(Failpoint::StoreResized);
        Ok(())
    }
    fn sync_data(&self) -> io::Result<()> {
        self.0.sync()?;
        failpoint(Failpoint::StoreSynced);
        Ok(())
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)?;
        failpoint(Failpoint::StorePageWritten);
        Ok(())
    }
}

/// Makes what was renamed or removed in a directory durable.
pub fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|d| d.sync_all()).at(dir.display())
}

impl Commit {
    /// Sets or deletes rows.
    pub fn rows<'a>(&mut self, rows: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>) -> Result<()> {
        let mut table = self.txn.open_table(ROWS).map_err(|e| broken(&self.path, e))?;
        for (key, value) in rows {
            match value {
                Some(value) => table.insert(key, value).map(drop),
                None => table.remove(key).map(drop),
            }
            .map_err(|e| broken(&self.path, e))?;
        }
        Ok(())
    }

    pub fn group(&mut self, group: GroupId, record: &[u8]) -> Result<()> {
        let mut table = self.txn.open_table(GROUPS).map_err(|e| broken(&self.path, e))?;
        table.insert(group.0, record).map_err(|e| broken(&self.path, e))?;
        Ok(())
    }

    /// Deletes all rows of a group, before others take their place.
    pub fn clear_group(&mut self, topology: Topology, group: GroupId) -> Result<()> {
        let mut table = self.txn.open_table(ROWS).map_err(|e| broken(&self.path, e))?;
        for range in keys::group(topology, group) {
            table.retain_in(range.start.as_slice()..range.end.as_slice(), |_, _| false).map_err(|e| broken(&self.path, e))?;
        }
        Ok(())
    }

    /// Durable when it returns.
    pub fn finish(self) -> Result<()> {
        self.txn.commit().map_err(|e| broken(&self.path, e))
    }
}

impl View {
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        let value = self.rows.get(key).map_err(|e| broken(&self.path, e))?;
        Ok(value.map(|v| Bytes::copy_from_slice(v.value())))
    }

    pub fn range(&self, range: &Range<Vec<u8>>) -> Result<Rows> {
        if range.start >= range.end {
            return Ok(Rows { rows: None, path: self.path.clone() });
        }
        let rows = self.rows.range(range.start.as_slice()..range.end.as_slice()).map_err(|e| broken(&self.path, e))?;
        Ok(Rows { rows: Some(rows), path: self.path.clone() })
    }

    pub fn group(&self, group: GroupId) -> Result<Option<Bytes>> {
        let value = self.groups.get(group.0).map_err(|e| broken(&self.path, e))?;
        Ok(value.map(|v| Bytes::copy_from_slice(v.value())))
    }

    pub fn groups(&self) -> Result<Vec<(GroupId, Bytes)>> {
        let all = self.groups.iter().map_err(|e| broken(&self.path, e))?;
        all.map(|item| {
            let (group, record) = item.map_err(|e| broken(&self.path, e))?;
            Ok((GroupId(group.value()), Bytes::copy_from_slice(record.value())))
        })
        .collect()
    }
}

/// Rows of a range in key order.
pub struct Rows {
    rows: Option<redb::Range<'static, &'static [u8], &'static [u8]>>,
    path: Arc<PathBuf>,
}

impl Iterator for Rows {
    type Item = Result<(Vec<u8>, Bytes)>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = self.rows.as_mut()?.next()?;
        Some(item.map(|(k, v)| (k.value().to_vec(), Bytes::copy_from_slice(v.value()))).map_err(|e| broken(&self.path, e)))
    }
}

fn broken(path: &Path, e: impl Into<redb::Error>) -> Error {
    let e = e.into();
    let kind = match &e {
        redb::Error::DatabaseAlreadyOpen => Kind::Conflict,
        redb::Error::Corrupted(_) | redb::Error::UpgradeRequired(_) | redb::Error::TableDoesNotExist(_) => Kind::Corrupt,
        redb::Error::Io(io) if io.kind() == std::io::ErrorKind::StorageFull => Kind::Exhausted,
        _ => Kind::Unavailable,
    };
    Error::new(kind, format!("{}: {e}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_group_records_are_committed_together_and_found_again() {
        let dir = tempfile::tempdir().unwrap();
        {
            let store = Store::create(dir.path(), &disk::Machine, b"me").unwrap();
            let mut commit = store.begin().unwrap();
            commit.rows([(&b"da"[..], Some(&b"1"[..])), (b"db", Some(b"2")), (b"da", None)].into_iter()).unwrap();
            commit.group(GroupId(3), b"three").unwrap();
            commit.finish().unwrap();
        }
        let store = Store::open(dir.path(), &disk::Machine).unwrap();
        let view = store.view().unwrap();
        assert_eq!(store.identity().unwrap(), "me");
        assert_eq!(view.get(b"da").unwrap(), None);
        assert_eq!(view.get(b"db").unwrap().unwrap(), "2");
        assert_eq!(view.group(GroupId(3)).unwrap().unwrap(), "three");
        let all: Vec<_> = view.range(&(b"d".to_vec()..b"e".to_vec())).unwrap().map(Result::unwrap).collect();
        assert_eq!(all, [(b"db".to_vec(), Bytes::from("2"))]);
    }

    #[test]
    fn a_second_process_on_a_store_is_told_so() {
        let dir = tempfile::tempdir().unwrap();
        let _first = Claim::on(dir.path()).unwrap();
        let second = Claim::on(dir.path()).unwrap_err();
        assert_eq!(second.kind, Kind::Conflict);
        assert!(second.message.contains("in use by another devicedb process"), "{second}");
    }

    #[test]
    fn clearing_a_group_leaves_its_neighbours() {
        let dir = tempfile::tempdir().unwrap();
        let topology = Topology::new(64, 32).unwrap();
        let store = Store::create(dir.path(), &disk::Machine, b"me").unwrap();
        let row = |p: u16| keys::data(&[&p.to_be_bytes()[..], b"site\0\x01k"].concat());
        let mut commit = store.begin().unwrap();
        let rows: Vec<_> = (0..6).map(row).collect();
        commit.rows(rows.iter().map(|k| (k.as_slice(), Some(&b"v"[..])))).unwrap();
        commit.clear_group(topology, GroupId(1)).unwrap();
        commit.finish().unwrap();
        let view = store.view().unwrap();
        let left: Vec<bool> = rows.iter().map(|k| view.get(k).unwrap().is_some()).collect();
        assert_eq!(left, [true, true, false, false, true, true]);
    }
}
