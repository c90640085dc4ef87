//! The pages of the store's file, each checked whenever it is read.
//!
//! redb follows its own checksums only when it repairs a file after a crash. A bit that rots later
//! would be served; in a key or in a branch of the tree it would make rows vanish, which no
//! checksum of a row could tell. Therefore pages lie in the file with a checksum of each, in blocks
//! of a page's size:
//!
//! | block        | bytes                    | what                                          |
//! | ------------ | ------------------------ | --------------------------------------------- |
//! | 0            | 8                        | `MAGIC`, which says that pages are checked    |
//! |              | 4 for each of 1022 pages | checksums of the pages behind it              |
//! | 1 to 1022    | 4096 each                | pages                                         |
//! | 1023, ...    |                          | checksums again, without the magic; the pages |
//!
//! A checksum is the CRC-32 that the log uses, of the page's number (8 bytes, big-endian) and the
//! page; it is stored big-endian.
//!
//! - Checksums are in memory, a thousandth of what they are of, and on disk with the next sync. A
//!   page that came from the disk and lies in a cache is not checked again, so a read that hits the
//!   cache costs nothing.
//! - A page in another's place is found, since its number counts; so is a write that the disk has
//!   lost, unless it lost the checksum's as well.
//! - A crash may leave a page and its checksum apart, but only one that was written after the last
//!   sync. Whoever follows the file's own checksums from its root, as redb does then, sees which
//!   pages count; `mend` takes their checksums from what is there.
//! - The first page is redb's header. It is written in place, so that after a crash its checksum
//!   could be right for the header before; redb's slots in it have checksums of their own.
//! - Once a page is found damaged or cannot be read, the file says so for as long as it is open.

use std::{
    collections::BTreeSet,
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::{
    base::{
        disk::File,
        error::{Context, Error, Result},
        locks::lock,
    },
    faults::{
        failpoint::{Failpoint, failpoint},
        mutation::{Mutation, mutated},
    },
};

const PAGE: u64 = 4096;
const MAGIC: [u8; 8] = *b"ddbpage2";
/// What stood there before pages were checked.
const UNCHECKED: [u8; 4] = *b"redb";
const SUM_BYTES: usize = 4;
/// Pages behind a block of checksums.
const GROUP: u64 = (PAGE - MAGIC.len() as u64) / SUM_BYTES as u64;

/// An open file of pages.
#[derive(Debug)]
pub struct Pages {
    file: Arc<dyn File>,
    path: PathBuf,
    sums: Mutex<Sums>,
    mending: AtomicBool,
    failed: OnceLock<Error>,
}

#[derive(Debug, Default)]
struct Sums {
    /// The checksum of each page.
    of: Vec<u32>,
    /// The groups that are not on disk as they are here.
    changed: BTreeSet<u64>,
}

impl Pages {
    /// An empty file becomes one of no pages.
    pub fn open(file: Arc<dyn File>, path: &Path) -> Result<Pages> {
        let blocks = file.size().at(path.display())? / PAGE;
        let groups = blocks.div_ceil(GROUP + 1);
        let mut of = Vec::with_capacity((blocks - groups) as usize);
        for group in 0..groups {
            let mut block = [0; PAGE as usize];
            read_whole(&*file, group * (GROUP + 1) * PAGE, &mut block).at(path.display())?;
            if group == 0 && block[..MAGIC.len()] != MAGIC {
                return Err(foreign(path, &block));
            }
            let left = (blocks - groups) as usize - of.len();
            of.extend(
                block[MAGIC.len()..]
                    .chunks_exact(SUM_BYTES)
                    .take(left)
                    .map(|sum| u32::from_be_bytes(sum.try_into().expect("four bytes"))),
            );
        }
        let sums = Mutex::new(Sums { of, changed: BTreeSet::new() });
        Ok(Pages {
            file,
            path: path.to_owned(),
            sums,
            mending: AtomicBool::new(false),
            failed: OnceLock::new(),
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of all pages together.
    pub fn bytes(&self) -> u64 {
        self.lock().of.len() as u64 * PAGE
    }

    /// The first read that failed: `Corrupt` if a page was not what was written.
    pub fn whole(&self) -> Result<()> {
        self.failed.get().map_or(Ok(()), |e| Err(e.clone()))
    }

    /// Says whether redb repairs the file. While it does, a page that does not match its checksum
    /// gets a new checksum instead of an error.
    pub fn mend(&self, mending: bool) {
        self.mending.store(mending, Ordering::Release);
    }

    pub fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.read_checked(offset, out).inspect_err(|e| {
            let failed: Result<()> =
                Err(io::Error::new(e.kind(), e.to_string())).at(self.path.display());
            // Only the first one says what happened.
            failed.err().map(|e| self.failed.set(e));
        })
    }

    fn read_checked(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if in_header(offset, out.len()) {
            return read_whole(&*self.file, PAGE + offset, out);
        }
        let first = whole(offset, out.len())?;
        for (place, range) in stretches(first, out.len()) {
            read_whole(&*self.file, place, &mut out[range])?;
        }
        let read: Vec<u32> = sums(first, out).collect();
        let mut sums = self.lock();
        for (page, read) in (first..).zip(read) {
            let wrong = sums.of.get(page as usize) != Some(&read);
            if wrong && self.mending.load(Ordering::Acquire) {
                sums.set(page, read);
            } else if wrong && !mutated(Mutation::PagesUnchecked) {
                return Err(damaged(page));
            }
        }
        Ok(())
    }

    pub fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if in_header(offset, data.len()) {
            return self.file.write(PAGE + offset, data);
        }
        let first = whole(offset, data.len())?;
        for (place, range) in stretches(first, data.len()) {
            self.file.write(place, &data[range])?;
        }
        let written: Vec<u32> = sums(first, data).collect();
        let mut sums = self.lock();
        (first..).zip(written).for_each(|(page, sum)| sums.set(page, sum));
        Ok(())
    }

    pub fn set_len(&self, len: u64) -> io::Result<()> {
        let mut sums = self.lock();
        let pages = whole(len, 0)?;
        let groups = pages.div_ceil(GROUP);
        self.file.set_len((pages + groups) * PAGE)?;
        let before = sums.of.len() as u64;
        sums.of.resize(pages as usize, 0);
        sums.changed.extend(before / GROUP..groups);
        sums.changed.retain(|group| *group < groups);
        Ok(())
    }

    pub fn sync(&self) -> io::Result<()> {
        let mut sums = self.lock();
        for group in sums.changed.clone() {
            self.file.write(group * (GROUP + 1) * PAGE, &sums.block(group))?;
            failpoint(Failpoint::StoreSumsWritten);
        }
        // Should the sync fail, redb asks for nothing any more.
        sums.changed.clear();
        drop(sums);
        self.file.sync()
    }

    fn lock(&self) -> MutexGuard<'_, Sums> {
        lock(&self.sums)
    }
}

impl Sums {
    fn set(&mut self, page: u64, sum: u32) {
        if let Some(of) = self.of.get_mut(page as usize) {
            *of = sum;
            self.changed.insert(page / GROUP);
        }
    }

    fn block(&self, group: u64) -> Vec<u8> {
        let from = (group * GROUP) as usize;
        let to = self.of.len().min(from + GROUP as usize);
        let mut block = Vec::with_capacity(PAGE as usize);
        block.extend(if group == 0 { MAGIC } else { [0; MAGIC.len()] });
        block.extend(self.of[from..to].iter().flat_map(|sum| sum.to_be_bytes()));
        block.resize(PAGE as usize, 0);
        block
    }
}

fn foreign(path: &Path, block: &[u8]) -> Error {
    if block.starts_with(&UNCHECKED) {
        return Error::conflict(format!(
            "{} was written by an older version, which kept no checksums of its pages. Take a \
             snapshot with that version, and restore its parts with this one",
            path.display()
        ));
    }
    Error::corrupt(format!(
        "{} is damaged, or was not written by DeviceDB: it does not begin as a store does",
        path.display()
    ))
}

fn damaged(page: u64) -> io::Error {
    let place = place_of(page);
    let text = format!(
        "page {page}, at byte {place}, is damaged: it is not what was written there. Nothing of \
         the store is served. Restore a part into an empty directory, or start with an empty one \
         and --join"
    );
    io::Error::new(io::ErrorKind::InvalidData, text)
}

fn in_header(offset: u64, bytes: usize) -> bool {
    offset + bytes as u64 <= PAGE
}

/// The page that a run of whole pages begins with.
fn whole(offset: u64, bytes: usize) -> io::Result<u64> {
    if offset.is_multiple_of(PAGE) && (bytes as u64).is_multiple_of(PAGE) {
        return Ok(offset / PAGE);
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("{bytes} bytes at {offset} are not whole pages of {PAGE} bytes"),
    ))
}

fn place_of(page: u64) -> u64 {
    (page + page / GROUP + 1) * PAGE
}

/// Where a run of pages lies: its stretches between blocks of checksums, as a place in the file and
/// a range of the run.
fn stretches(first: u64, bytes: usize) -> impl Iterator<Item = (u64, Range<usize>)> {
    let (mut page, mut from) = (first, 0);
    std::iter::from_fn(move || {
        let to = bytes.min(from + ((GROUP - page % GROUP) * PAGE) as usize);
        let stretch = (place_of(page), from..to);
        page += (to - from) as u64 / PAGE;
        let empty = from == to;
        from = to;
        (!empty).then_some(stretch)
    })
}

fn sums(first: u64, bytes: &[u8]) -> impl Iterator<Item = u32> {
    (first..).zip(bytes.chunks_exact(PAGE as usize)).map(|(number, page)| {
        let mut sum = crc32fast::Hasher::new();
        sum.update(&number.to_be_bytes());
        sum.update(page);
        sum.finalize()
    })
}

fn read_whole(file: &dyn File, offset: u64, out: &mut [u8]) -> io::Result<()> {
    let read = file.read(offset, out)?;
    if read == out.len() { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::base::{
        disk::{Disk as _, Machine},
        error::Kind,
    };

    fn opened(path: &Path) -> Pages {
        Pages::open(Machine.open(path, true).unwrap(), path).unwrap()
    }

    fn page(byte: u8) -> Vec<u8> {
        vec![byte; PAGE as usize]
    }

    #[test]
    fn runs_of_pages_are_read_back_across_checksums_after_growing_and_shrinking() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pages");
        let pages = opened(&path);
        let run: Vec<u8> = (0..2 * GROUP + 20).flat_map(|n| page(n as u8)).collect();
        pages.set_len(PAGE + run.len() as u64).unwrap();
        pages.write(0, b"header").unwrap();
        pages.write(PAGE, &run).unwrap();
        pages.sync().unwrap();
        pages.set_len((GROUP + 10) * PAGE).unwrap();
        pages.sync().unwrap();
        drop(pages);
        let pages = opened(&path);
        assert_eq!(pages.bytes(), (GROUP + 10) * PAGE);
        let mut read = vec![0; (20 * PAGE) as usize];
        pages.read((GROUP - 10) * PAGE, &mut read).unwrap();
        assert!(read == run[((GROUP - 11) * PAGE) as usize..][..read.len()]);
        let mut header = [0; 6];
        pages.read(0, &mut header).unwrap();
        assert_eq!(&header, b"header");
        assert_eq!(
            pages.read(GROUP * PAGE, &mut read).unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
        assert_eq!(
            pages.read(PAGE + 1, &mut read).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
    }

    #[test]
    fn a_page_that_is_not_what_was_written_is_never_read_unless_it_is_mended() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pages");
        let pages = opened(&path);
        pages.set_len(4 * PAGE).unwrap();
        (1..4).for_each(|n| pages.write(n * PAGE, &page(n as u8)).unwrap());
        pages.sync().unwrap();
        drop(pages);
        let whole = fs::read(&path).unwrap();
        let read =
            |damaged: &[u8], n: u64, mend: bool| {
                fs::write(&path, damaged).unwrap();
                let (pages, mut out) = (opened(&path), page(0));
                pages.mend(mend);
                let read = pages.read(n * PAGE, &mut out);
                assert_eq!(
                    read.is_err(),
                    pages.whole().is_err_and(|e| e.kind == Kind::Corrupt
                        && e.message.contains(&path.display().to_string()))
                );
                read.map(|()| out[0])
            };
        assert_eq!(read(&whole, 2, false).unwrap(), 2);
        let place = place_of(2) as usize;
        for at in [place, place + PAGE as usize - 1, MAGIC.len() + 2 * SUM_BYTES] {
            let mut rotten = whole.clone();
            rotten[at] ^= 1;
            let e = read(&rotten, 2, false).unwrap_err();
            assert_eq!(e.kind(), io::ErrorKind::InvalidData);
            assert!(e.to_string().contains(&format!("page 2, at byte {place}, is damaged")), "{e}");
            assert_eq!(read(&rotten, 3, false).unwrap(), 3);
            read(&rotten, 2, true).unwrap();
        }
        let mut swapped = whole.clone();
        swapped.copy_within(place..place + 2 * PAGE as usize, place - PAGE as usize);
        assert!(read(&swapped, 2, false).is_err(), "a page in another's place");
    }

    #[test]
    fn a_file_that_is_no_such_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pages");
        let refused = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            Pages::open(Machine.open(&path, false).unwrap(), &path).unwrap_err()
        };
        let mut older = page(0);
        older[..4].copy_from_slice(b"redb");
        let older = refused(&older);
        assert_eq!(older.kind, Kind::Conflict);
        assert!(older.message.contains("written by an older version"), "{older}");
        assert_eq!(refused(&page(7)).kind, Kind::Corrupt);
    }
}
