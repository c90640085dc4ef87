//! The state on disk: one redb file with the rows of all local groups, and how far each group is applied in the same transaction.
//!
//! - A commit is durable when it returns, and holds rows and group records together or not at all.
//! - The file is locked: a second process on the same store is told so.
//! - A store of a newer format is refused before anything is read from it, an older one too.
//! - A page that is not what was written is never read: `Corrupt`, from then on, for whatever needs the file. A repair after a crash reads it all.
//!
//! It knows rows as bytes under the spaces of `keys`; what they mean is said elsewhere. A view stops redb from reusing pages, so holders let go of it soon.
//! The only file that knows redb.

pub mod keys;
mod pages;
pub mod transfer;

use std::{
    fs::{self, File, TryLockError},
    io,
    ops::{Bound, Range},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use redb::{Database, ReadOnlyTable, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition, WriteTransaction};

use self::pages::Pages;
use crate::{
    disk::Disk,
    error::{Context, Error, Kind, Result},
    failpoint::{Failpoint, failpoint},
    ids::{GroupId, Topology},
    limits,
};

const ROWS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("rows");
const GROUPS: TableDefinition<u32, &[u8]> = TableDefinition::new("groups");
const IDENTITY: TableDefinition<&str, &[u8]> = TableDefinition::new("identity");

/// The version of what stands in a store directory.
pub const FORMAT: u32 = 2;

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
    pages: Arc<Pages>,
}

/// What the store held at one moment.
pub struct View {
    rows: ReadOnlyTable<&'static [u8], &'static [u8]>,
    groups: ReadOnlyTable<u32, &'static [u8]>,
    pages: Arc<Pages>,
}

/// Changes that become durable together.
pub struct Commit {
    txn: WriteTransaction,
    pages: Arc<Pages>,
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
        let pages = Arc::new(Pages::open(file, &path)?);
        let mut builder = Database::builder();
        builder.set_cache_size(limits::STORE_CACHE_BYTES);
        let repaired = pages.clone();
        builder.set_repair_callback(move |_| repaired.mend(true));
        let db = builder.create_with_backend(Backend(pages.clone())).map_err(|e| broken(&pages, e))?;
        pages.mend(false);
        Ok(Store { db: Arc::new(db), pages })
    }

    pub fn identity(&self) -> Result<Bytes> {
        let at = |e: redb::Error| broken(&self.pages, e);
        let txn = self.db.begin_read().map_err(|e| at(e.into()))?;
        let table = txn.open_table(IDENTITY).map_err(|e| at(e.into()))?;
        let value = table.get("identity").map_err(|e| at(e.into()))?;
        value.map(|v| Bytes::copy_from_slice(v.value())).ok_or_else(|| Error::corrupt(format!("{}: the store has no identity", self.pages.path().display())))
    }

    /// Whether a node has ever served from this store: then it has a log, and must not go on without it.
    pub fn has_served(&self) -> Result<bool> {
        let txn = self.db.begin_read().map_err(|e| broken(&self.pages, e))?;
        let table = txn.open_table(IDENTITY).map_err(|e| broken(&self.pages, e))?;
        Ok(table.get("served").map_err(|e| broken(&self.pages, e))?.is_some())
    }

    /// Notes, durably, that a node serves from this store from now on.
    pub fn set_served(&self) -> Result<()> {
        let commit = self.begin()?;
        commit.txn.open_table(IDENTITY).map_err(|e| broken(&self.pages, e))?.insert("served", &b""[..]).map_err(|e| broken(&self.pages, e))?;
        commit.finish()
    }

    /// Replaces the identity, durably.
    pub fn set_identity(&self, identity: &[u8]) -> Result<()> {
        let commit = self.begin()?;
        commit.txn.open_table(IDENTITY).map_err(|e| broken(&self.pages, e))?.insert("identity", identity).map_err(|e| broken(&self.pages, e))?;
        commit.finish()
    }

    /// Puts a store that was made aside in place, durably: from now on the directory has one.
    pub fn put_in_place(made_in: &Path, dir: &Path) -> Result<()> {
        fs::rename(Store::path_in(made_in), Store::path_in(dir)).at(format!("putting the store in place in {}", dir.display()))?;
        failpoint(Failpoint::StoreRenamed);
        sync_dir(dir)
    }

    pub fn begin(&self) -> Result<Commit> {
        let txn = self.db.begin_write().map_err(|e| broken(&self.pages, e))?;
        for opened in [txn.open_table(ROWS).map(drop), txn.open_table(GROUPS).map(drop)] {
            opened.map_err(|e| broken(&self.pages, e))?;
        }
        Ok(Commit { txn, pages: self.pages.clone() })
    }

    pub fn view(&self) -> Result<View> {
        let txn = self.db.begin_read().map_err(|e| broken(&self.pages, e))?;
        let rows = txn.open_table(ROWS).map_err(|e| broken(&self.pages, e))?;
        let groups = txn.open_table(GROUPS).map_err(|e| broken(&self.pages, e))?;
        Ok(View { rows, groups, pages: self.pages.clone() })
    }
}

/// redb's idea of a file. Nobody else has it open: `Claim` sees to that.
#[derive(Debug)]
struct Backend(Arc<Pages>);

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.bytes())
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
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
        let mut table = self.txn.open_table(ROWS).map_err(|e| broken(&self.pages, e))?;
        for (key, value) in rows {
            match value {
                Some(value) => table.insert(key, value).map(drop),
                None => table.remove(key).map(drop),
            }
            .map_err(|e| broken(&self.pages, e))?;
        }
        Ok(())
    }

    /// Loads rows of one key space that come in ascending order into a gap between those that are there. They are packed into full pages as they come, which costs a
    /// fraction of finding the place of each. `Corrupt` where they are out of order, or not all in one gap.
    pub fn load<'a>(&mut self, space: u8, rows: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Result<()> {
        let mut rows = rows.peekable();
        let Some((first, _)) = rows.peek() else { return Ok(()) };
        let mut key = [&[space], *first].concat();
        let mut table = self.txn.open_table(ROWS).map_err(|e| broken(&self.pages, e))?;
        let mut gap = table.lower_bound_mut(Bound::Included(key.as_slice())).map_err(|e| broken(&self.pages, e))?;
        for (rest, value) in rows {
            key.truncate(1);
            key.extend_from_slice(rest);
            gap.insert_before(key.as_slice(), value).map_err(|e| broken(&self.pages, e))?;
        }
        gap.close().map_err(|e| broken(&self.pages, e))
    }

    pub fn group(&mut self, group: GroupId, record: &[u8]) -> Result<()> {
        let mut table = self.txn.open_table(GROUPS).map_err(|e| broken(&self.pages, e))?;
        table.insert(group.0, record).map_err(|e| broken(&self.pages, e))?;
        Ok(())
    }

    /// Deletes all rows of a group, before others take their place.
    pub fn clear_group(&mut self, topology: Topology, group: GroupId) -> Result<()> {
        let mut table = self.txn.open_table(ROWS).map_err(|e| broken(&self.pages, e))?;
        for range in keys::group(topology, group) {
            table.retain_in(range.start.as_slice()..range.end.as_slice(), |_, _| false).map_err(|e| broken(&self.pages, e))?;
        }
        Ok(())
    }

    /// Durable when it returns.
    pub fn finish(self) -> Result<()> {
        self.txn.commit().map_err(|e| broken(&self.pages, e))
    }
}

impl View {
    /// Fails once any read of the store's file has failed, whoever it was for: `Corrupt` if a page was not what was written.
    pub fn whole(&self) -> Result<()> {
        self.pages.whole()
    }

    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        let value = self.rows.get(key).map_err(|e| broken(&self.pages, e))?;
        Ok(value.map(|v| Bytes::copy_from_slice(v.value())))
    }

    pub fn range(&self, range: &Range<Vec<u8>>) -> Result<Rows> {
        if range.start >= range.end {
            return Ok(Rows { rows: None, pages: self.pages.clone() });
        }
        let rows = self.rows.range(range.start.as_slice()..range.end.as_slice()).map_err(|e| broken(&self.pages, e))?;
        Ok(Rows { rows: Some(rows), pages: self.pages.clone() })
    }

    /// Shows the rows of a range in key order, without a copy of any.
    pub fn each(&self, range: &Range<Vec<u8>>, mut see: impl FnMut(&[u8], &[u8]) -> Result<()>) -> Result<()> {
        let rows = self.rows.range(range.start.as_slice()..range.end.as_slice()).map_err(|e| broken(&self.pages, e))?;
        for row in rows {
            let (key, value) = row.map_err(|e| broken(&self.pages, e))?;
            see(key.value(), value.value())?;
        }
        Ok(())
    }

    pub fn group(&self, group: GroupId) -> Result<Option<Bytes>> {
        let value = self.groups.get(group.0).map_err(|e| broken(&self.pages, e))?;
        Ok(value.map(|v| Bytes::copy_from_slice(v.value())))
    }

    pub fn groups(&self) -> Result<Vec<(GroupId, Bytes)>> {
        let all = self.groups.iter().map_err(|e| broken(&self.pages, e))?;
        all.map(|item| {
            let (group, record) = item.map_err(|e| broken(&self.pages, e))?;
            Ok((GroupId(group.value()), Bytes::copy_from_slice(record.value())))
        })
        .collect()
    }
}

/// Rows of a range in key order.
pub struct Rows {
    rows: Option<redb::Range<'static, &'static [u8], &'static [u8]>>,
    pages: Arc<Pages>,
}

impl Iterator for Rows {
    type Item = Result<(Vec<u8>, Bytes)>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = self.rows.as_mut()?.next()?;
        Some(item.map(|(k, v)| (k.value().to_vec(), Bytes::copy_from_slice(v.value()))).map_err(|e| broken(&self.pages, e)))
    }
}

fn broken(pages: &Pages, e: impl Into<redb::Error>) -> Error {
    // redb goes on with other words once a read has failed.
    if let Err(e) = pages.whole() {
        return e;
    }
    let e = e.into();
    let kind = match &e {
        redb::Error::DatabaseAlreadyOpen => Kind::Conflict,
        redb::Error::Corrupted(_) | redb::Error::UpgradeRequired(_) | redb::Error::TableDoesNotExist(_) | redb::Error::UnorderedKey => Kind::Corrupt,
        redb::Error::Io(io) => match io.kind() {
            io::ErrorKind::StorageFull => Kind::Exhausted,
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => Kind::Corrupt,
            _ => Kind::Unavailable,
        },
        _ => Kind::Unavailable,
    };
    Error::new(kind, format!("{}: {e}", pages.path().display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk;

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
    fn rows_that_are_loaded_lie_where_inserted_ones_would_and_must_come_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(dir.path(), &disk::Machine, b"me").unwrap();
        let keys: Vec<Vec<u8>> = (0..5000u32).map(|n| n.to_be_bytes().to_vec()).collect();
        let some = |range: Range<usize>| keys[range].iter().map(|k| (k.as_slice(), &b"v"[..]));
        let mut commit = store.begin().unwrap();
        commit.rows([(&b"c"[..], Some(&b"1"[..])), (b"m", Some(b"2"))].into_iter()).unwrap();
        commit.load(keys::DATA, some(0..3000)).unwrap();
        commit.load(keys::DATA, some(3000..5000)).unwrap();
        commit.load(keys::DATA, some(0..0)).unwrap();
        assert_eq!(commit.load(keys::DATA, some(4999..5000)).unwrap_err().kind, Kind::Corrupt);
        assert_eq!(commit.load(keys::DATA, some(7..8).chain(some(6..7))).unwrap_err().kind, Kind::Corrupt);
        commit.finish().unwrap();
        let all: Vec<Vec<u8>> = store.view().unwrap().range(&(vec![0]..vec![255])).unwrap().map(|row| row.unwrap().0).collect();
        let expected = [b"c".to_vec()].into_iter().chain(keys.iter().map(|k| self::keys::data(k))).chain([b"m".to_vec()]);
        assert_eq!(all, expected.collect::<Vec<_>>());
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

    /// A store of some rows, closed as a node that stops closes it, or left as one that is killed leaves it; and its rows after each commit.
    fn filled(dir: &Path, killed: bool) -> Vec<Vec<(Vec<u8>, Bytes)>> {
        let store = Store::create(dir, &disk::Machine, b"me").unwrap();
        let row = |n: u32| (keys::data(format!("{:05}", n * 7919 % 10_000).as_bytes()), Bytes::from(vec![n as u8; (n * 13 % 700) as usize]));
        let mut rows: Vec<_> = (0..600).map(row).collect();
        rows.push((keys::data(b"large"), Bytes::from(vec![9; 20_000])));
        let mut after = Vec::new();
        for (turn, some) in rows.chunks(200).enumerate() {
            let mut commit = store.begin().unwrap();
            commit.rows(some.iter().map(|(key, value)| (key.as_slice(), Some(value.as_ref())))).unwrap();
            commit.group(GroupId(3), b"three").unwrap();
            commit.finish().unwrap();
            let mut so_far = rows[..turn * 200 + some.len()].to_vec();
            so_far.sort();
            after.push(so_far);
        }
        if killed {
            std::fs::copy(Store::path_in(dir), dir.join("killed")).unwrap();
            drop(store);
            std::fs::rename(dir.join("killed"), Store::path_in(dir)).unwrap();
        }
        after
    }

    fn all_of(dir: &Path) -> Result<Vec<(Vec<u8>, Bytes)>> {
        let store = Store::open(dir, &disk::Machine)?;
        let view = store.view()?;
        assert_eq!(store.identity()?, "me");
        assert_eq!(view.group(GroupId(3))?.unwrap(), "three");
        let rows = view.range(&(vec![keys::DATA]..vec![keys::DATA + 1]))?.collect::<Result<Vec<_>>>();
        assert_eq!(rows.is_err(), view.whole().is_err());
        rows
    }

    #[test]
    fn a_bit_that_rots_in_any_page_is_noticed_or_of_no_account() {
        for killed in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let (after, path) = (filled(dir.path(), killed), Store::path_in(dir.path()));
            let whole = std::fs::read(&path).unwrap();
            let used: Vec<usize> = (0..whole.len() / 4096).filter(|block| *block != 1 && whole[block * 4096..][..4096].iter().any(|byte| *byte != 0)).collect();
            let mut noticed = 0;
            for (turn, block) in used.iter().enumerate() {
                let mut rotten = whole.clone();
                rotten[block * 4096 + turn * 1237 % 4096] ^= 1 << (turn % 8);
                std::fs::write(&path, rotten).unwrap();
                match all_of(dir.path()) {
                    // A repair that finds the last commit damaged takes it for one that the crash tore, and goes back to the one before.
                    Ok(read) => assert!(after[after.len() - 1 - usize::from(killed)..].contains(&read), "block {block}"),
                    Err(e) => {
                        assert_eq!(e.kind, Kind::Corrupt, "block {block}: {e}");
                        assert!(e.message.contains(&path.display().to_string()), "{e}");
                        noticed += 1;
                    }
                }
            }
            assert!(noticed > used.len() / 4, "{noticed} of {}", used.len());
        }
    }
}
