//! The state on disk: one redb file with the rows of all local groups and, in the same
//! transactions, the record of how far each group is applied.
//!
//! - A commit is durable when it returns, and holds rows and group records together or not at all.
//! - A `Claim` locks the store's directory. A second process that claims it gets an error.
//! - A file without the page format of `pages` is refused before redb sees it; that includes store
//!   format 1. Any other format stands in the identity, which `boot::restore::open` reads first: it
//!   makes a store of format 2 one of format 3, and refuses a newer one.
//! - A page that is not what was written is never returned. The read fails with `Corrupt`, and so
//!   does every later use of the file. After a crash redb repairs the file by reading all of it.
//!
//! Rows are bytes under the key spaces of `keys`; `wire` knows what they mean. A view keeps redb
//! from reusing pages, so its holder drops it soon. Only this folder uses redb.

pub mod keys;
mod large;
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
use redb::{
    Database, ReadOnlyTable, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition,
    TableError, WriteTransaction,
};

use self::{large::PIECES, pages::Pages};
use crate::{
    base::{
        disk::Disk,
        error::{Context, Error, Kind, Result},
        flock::Flock,
        ids::{GroupId, Topology},
        limits,
    },
    faults::failpoint::{Failpoint, failpoint},
};

const ROWS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("rows");
const GROUPS: TableDefinition<u32, &[u8]> = TableDefinition::new("groups");
const IDENTITY: TableDefinition<&str, &[u8]> = TableDefinition::new("identity");

const PAGE_BYTES: u64 = 4096;
/// What a leaf holds of a row beside its key and value.
const ROW_BYTES: u64 = 8;

/// The version of what stands in a store directory. Since 3, large rows lie in pieces; a store of 2
/// has none that does, and becomes one of 3.
pub const FORMAT: u32 = 3;

/// A directory that belongs to this process alone while it is held.
#[derive(Debug)]
pub struct Claim {
    pub dir: PathBuf,
    _lock: Flock,
}

impl Claim {
    pub fn on(dir: &Path) -> Result<Claim> {
        fs::create_dir_all(dir).at(format!("store directory {}", dir.display()))?;
        // The directory itself is locked, so that an extracted part holds nothing but itself.
        let lock = File::open(dir).at(dir.display())?;
        match Flock::try_on(lock) {
            Ok(lock) => Ok(Claim { dir: dir.to_owned(), _lock: lock }),
            Err((_, TryLockError::WouldBlock)) => Err(Error::conflict(format!(
                "store {} is in use by another devicedb process",
                dir.display()
            ))),
            Err((_, TryLockError::Error(e))) => Err(e).at(dir.display()),
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
    rows: ByteTable,
    groups: ReadOnlyTable<u32, &'static [u8]>,
    /// The table of large rows' pieces; none before there ever was a large row.
    pieces: Option<Arc<ByteTable>>,
    pages: Arc<Pages>,
}

type ByteTable = ReadOnlyTable<&'static [u8], &'static [u8]>;

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
        builder.set_cache_size(disk.cache_bytes());
        let repaired = pages.clone();
        builder.set_repair_callback(move |_| repaired.mend(true));
        let db =
            builder.create_with_backend(Backend(pages.clone())).map_err(|e| broken(&pages, e))?;
        pages.mend(false);
        Ok(Store { db: Arc::new(db), pages })
    }

    pub fn identity(&self) -> Result<Bytes> {
        self.noted("identity")?.ok_or_else(|| {
            Error::corrupt(format!("{}: the store has no identity", self.pages.path().display()))
        })
    }

    /// Whether a node has ever served from this store: then it has a log, and must not go on
    /// without it.
    pub fn has_served(&self) -> Result<bool> {
        Ok(self.noted("served")?.is_some())
    }

    /// The note that the last recovery has left here; `boot::recover` knows what it says.
    pub fn recovery(&self) -> Result<Option<Bytes>> {
        self.noted("recovery")
    }

    fn noted(&self, name: &str) -> Result<Option<Bytes>> {
        let txn = self.db.begin_read().map_err(|e| broken(&self.pages, e))?;
        let table = txn.open_table(IDENTITY).map_err(|e| broken(&self.pages, e))?;
        let value = table.get(name).map_err(|e| broken(&self.pages, e))?;
        Ok(value.map(|note| Bytes::copy_from_slice(note.value())))
    }

    /// Notes, durably, that a node serves from this store from now on.
    pub fn set_served(&self) -> Result<()> {
        self.note("served", b"")
    }

    /// Replaces the identity, durably.
    pub fn set_identity(&self, identity: &[u8]) -> Result<()> {
        self.note("identity", identity)
    }

    /// Replaces the note of the last recovery, durably.
    pub fn set_recovery(&self, note: &[u8]) -> Result<()> {
        self.note("recovery", note)
    }

    fn note(&self, name: &str, value: &[u8]) -> Result<()> {
        let mut commit = self.begin()?;
        commit.note(name, value)?;
        commit.finish()
    }

    /// Puts a store that was made aside in place, durably: from now on the directory has one.
    pub fn put_in_place(made_in: &Path, dir: &Path) -> Result<()> {
        fs::rename(Store::path_in(made_in), Store::path_in(dir))
            .at(format!("putting the store in place in {}", dir.display()))?;
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
        let pieces = match txn.open_table(PIECES) {
            Ok(pieces) => Some(Arc::new(pieces)),
            Err(TableError::TableDoesNotExist(_)) => None,
            Err(e) => return Err(broken(&self.pages, e)),
        };
        Ok(View { rows, groups, pieces, pages: self.pages.clone() })
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

/// Bytes of disk that rows take when they are loaded, if each is as long as their mean: a leaf of
/// one page holds whole rows, and a longer row has a run of pages to itself, whose number is a
/// power of two; a large one fills its pages, but for the last. Branches and checksums come to less
/// than a fiftieth of that.
pub fn room(rows: u64, bytes: u64) -> u64 {
    let row = bytes.div_ceil(rows.max(1)) + ROW_BYTES;
    let leaves = match PAGE_BYTES / row {
        0 if row >= limits::ROW_LARGE_BYTES as u64 => rows * (row + row / 256 + PAGE_BYTES),
        0 => rows * row.next_power_of_two(),
        in_each => rows.div_ceil(in_each) * PAGE_BYTES,
    };
    leaves + leaves / 50
}

/// Makes what was renamed or removed in a directory durable.
pub fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|d| d.sync_all()).at(dir.display())
}

impl Commit {
    /// Sets or deletes rows.
    pub fn rows<'a>(
        &mut self,
        rows: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>,
    ) -> Result<()> {
        let pages = self.pages.clone();
        let mut table = self.txn.open_table(ROWS).map_err(|e| broken(&pages, e))?;
        let mut pieces = self.txn.open_table(PIECES).map_err(|e| broken(&pages, e))?;
        for (key, value) in rows {
            let cut = value.is_some_and(large::is_cut);
            let before = match value {
                Some(value) if cut => {
                    let stub =
                        large::put(&mut pieces, key, value).map_err(|e| broken(&pages, e))?;
                    table.insert(key, &stub[..])
                }
                Some(value) => table.insert(key, value),
                None => table.remove(key),
            };
            let was_cut = before
                .map_err(|e| broken(&pages, e))?
                .is_some_and(|before| large::length(before.value()).is_some());
            if was_cut && !cut {
                large::remove(&mut pieces, key).map_err(|e| broken(&pages, e))?;
            }
        }
        Ok(())
    }

    /// Loads rows of one key space that come in ascending order into a gap between those that are
    /// there. They are packed into full pages as they come, which costs a fraction of finding the
    /// place of each. `Corrupt` where they are out of order, or not all in one gap.
    pub fn load<'a>(
        &mut self,
        space: u8,
        rows: impl Iterator<Item = (&'a [u8], &'a [u8])>,
    ) -> Result<()> {
        let mut rows = rows.peekable();
        let Some((first, _)) = rows.peek() else { return Ok(()) };
        let mut key = [&[space], *first].concat();
        let mut table = self.txn.open_table(ROWS).map_err(|e| broken(&self.pages, e))?;
        let mut pieces = self.txn.open_table(PIECES).map_err(|e| broken(&self.pages, e))?;
        let mut gap = table
            .lower_bound_mut(Bound::Included(key.as_slice()))
            .map_err(|e| broken(&self.pages, e))?;
        for (rest, value) in rows {
            key.truncate(1);
            key.extend_from_slice(rest);
            if large::is_cut(value) {
                let stub =
                    large::put(&mut pieces, &key, value).map_err(|e| broken(&self.pages, e))?;
                gap.insert_before(key.as_slice(), &stub[..]).map_err(|e| broken(&self.pages, e))?;
            } else {
                gap.insert_before(key.as_slice(), value).map_err(|e| broken(&self.pages, e))?;
            }
        }
        gap.close().map_err(|e| broken(&self.pages, e))
    }

    pub fn identity(&mut self, identity: &[u8]) -> Result<()> {
        self.note("identity", identity)
    }

    pub fn recovery(&mut self, note: &[u8]) -> Result<()> {
        self.note("recovery", note)
    }

    fn note(&mut self, name: &str, value: &[u8]) -> Result<()> {
        let mut table = self.txn.open_table(IDENTITY).map_err(|e| broken(&self.pages, e))?;
        table.insert(name, value).map_err(|e| broken(&self.pages, e))?;
        Ok(())
    }

    pub fn group(&mut self, group: GroupId, record: &[u8]) -> Result<()> {
        let mut table = self.txn.open_table(GROUPS).map_err(|e| broken(&self.pages, e))?;
        table.insert(group.0, record).map_err(|e| broken(&self.pages, e))?;
        Ok(())
    }

    /// Deletes all rows of a group.
    pub fn clear_group(&mut self, topology: Topology, group: GroupId) -> Result<()> {
        for table in [ROWS, PIECES] {
            let mut table = self.txn.open_table(table).map_err(|e| broken(&self.pages, e))?;
            for range in keys::group(topology, group) {
                table
                    .retain_in(range.start.as_slice()..range.end.as_slice(), |_, _| false)
                    .map_err(|e| broken(&self.pages, e))?;
            }
        }
        Ok(())
    }

    /// Durable when it returns.
    pub fn finish(self) -> Result<()> {
        self.txn.commit().map_err(|e| broken(&self.pages, e))
    }
}

impl View {
    /// Fails once any read of the store's file has failed, whoever it was for: `Corrupt` if a page
    /// was not what was written.
    pub fn whole(&self) -> Result<()> {
        self.pages.whole()
    }

    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        let value = self.rows.get(key).map_err(|e| broken(&self.pages, e))?;
        value.map(|stored| self.row(key, stored.value())).transpose()
    }

    fn row(&self, key: &[u8], stored: &[u8]) -> Result<Bytes> {
        row(self.pieces.as_deref(), &self.pages, key, stored)
    }

    pub fn range(&self, range: &Range<Vec<u8>>) -> Result<Rows> {
        if range.start >= range.end {
            return Ok(Rows { rows: None, pieces: None, pages: self.pages.clone() });
        }
        let rows = self
            .rows
            .range(range.start.as_slice()..range.end.as_slice())
            .map_err(|e| broken(&self.pages, e))?;
        Ok(Rows { rows: Some(rows), pieces: self.pieces.clone(), pages: self.pages.clone() })
    }

    /// Shows the rows of a range in key order, without a copy of any but the large ones.
    pub fn each(
        &self,
        range: &Range<Vec<u8>>,
        mut see: impl FnMut(&[u8], &[u8]) -> Result<()>,
    ) -> Result<()> {
        let rows = self
            .rows
            .range(range.start.as_slice()..range.end.as_slice())
            .map_err(|e| broken(&self.pages, e))?;
        for row in rows {
            let (key, value) = row.map_err(|e| broken(&self.pages, e))?;
            match large::length(value.value()) {
                Some(_) => see(key.value(), &self.row(key.value(), value.value())?)?,
                None => see(key.value(), value.value())?,
            }
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
    pieces: Option<Arc<ByteTable>>,
    pages: Arc<Pages>,
}

impl Iterator for Rows {
    type Item = Result<(Vec<u8>, Bytes)>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = self.rows.as_mut()?.next()?;
        Some(item.map_err(|e| broken(&self.pages, e)).and_then(|(key, value)| {
            let row = row(self.pieces.as_deref(), &self.pages, key.value(), value.value())?;
            Ok((key.value().to_vec(), row))
        }))
    }
}

/// A row as it was written, from what is stored where it is.
fn row(pieces: Option<&ByteTable>, pages: &Pages, key: &[u8], stored: &[u8]) -> Result<Bytes> {
    let Some(bytes) = large::length(stored) else { return Ok(Bytes::copy_from_slice(stored)) };
    large::whole(pieces, key, bytes).map_err(|broke| match broke {
        large::Broken::Storage(e) => broken(pages, e),
        large::Broken::Missing => {
            pages.whole().err().unwrap_or_else(|| large::missing(key).at(pages.path().display()))
        }
    })
}

fn broken(pages: &Pages, e: impl Into<redb::Error>) -> Error {
    // redb goes on with other words once a read has failed.
    if let Err(e) = pages.whole() {
        return e;
    }
    let e = e.into();
    let kind = match &e {
        redb::Error::DatabaseAlreadyOpen => Kind::Conflict,
        redb::Error::Corrupted(_)
        | redb::Error::UpgradeRequired(_)
        | redb::Error::TableDoesNotExist(_)
        | redb::Error::UnorderedKey => Kind::Corrupt,
        redb::Error::Io(io) => match io.kind() {
            io::ErrorKind::StorageFull => Kind::Exhausted,
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => Kind::Corrupt,
            _ => Kind::Unavailable,
        },
        _ => Kind::Unavailable,
    };
    Error::new(kind, format!("{}: {e}", pages.path().display())).with_source(e)
}

#[cfg(test)]
pub mod tests;
