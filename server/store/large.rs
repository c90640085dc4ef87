//! Rows that are larger than a few pages, in pieces that fill pages.
//!
//! redb gives a row that does not fit a page a run of pages whose number is a power of two, and
//! writes it whole again when a neighbour comes: a row of 1 MiB and a few bytes takes 2 MiB, and
//! once more as much while its neighbour is written. So such a row lies in a table of its own, in
//! pieces, under its key with the piece's number (4 bytes, big-endian) behind it. Each piece fills
//! a run of pages, but for the last. Where the row would be stands `MARK` and the row's length (4
//! bytes, big-endian).
//!
//! `MARK` begins no other row: neither a message of protobuf nor the number of a log entry can
//! begin with it. One that did would be cut as well, whatever its size.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use redb::{ReadOnlyTable, Table, TableDefinition};

use crate::base::{
    error::{Error, Result},
    limits,
};

pub const PIECES: TableDefinition<&[u8], &[u8]> = TableDefinition::new("pieces");

const MARK: u8 = 0xff;
const STUB_BYTES: usize = 5;
/// The runs of pages that pieces fill, the largest first.
const RUNS: [usize; 4] = [64 << 10, 32 << 10, 16 << 10, 8 << 10];
/// What redb keeps in a page beside its one key and value.
const PAGE_OVERHEAD: usize = 16;
const NUMBER_BYTES: usize = 4;

/// What stands where a row is that was cut.
pub type Stub = [u8; STUB_BYTES];

pub fn is_cut(row: &[u8]) -> bool {
    row.len() >= limits::ROW_LARGE_BYTES || row.first() == Some(&MARK)
}

/// The length of the row that a stub stands for; none if it is a row.
pub fn length(stored: &[u8]) -> Option<usize> {
    let stub: &Stub = stored.try_into().ok().filter(|stub: &&Stub| stub[0] == MARK)?;
    Some(u32::from_be_bytes([stub[1], stub[2], stub[3], stub[4]]) as usize)
}

fn stub(row: &[u8]) -> Stub {
    let [a, b, c, d] = (row.len() as u32).to_be_bytes();
    [MARK, a, b, c, d]
}

/// Where a row is cut.
fn cuts(key_bytes: usize, row_bytes: usize) -> impl Iterator<Item = Range<usize>> {
    let mut from = 0;
    std::iter::from_fn(move || {
        let left = row_bytes - from;
        let fills = RUNS
            .iter()
            .map(|run| run.saturating_sub(PAGE_OVERHEAD + key_bytes + NUMBER_BYTES))
            .find(|room| *room > 0 && *room <= left);
        let piece = from..from + fills.unwrap_or(left);
        from = piece.end;
        (!piece.is_empty()).then_some(piece)
    })
}

/// The name of a piece, for one after the other.
struct Name(Vec<u8>);

impl Name {
    fn of(key: &[u8]) -> Name {
        Name([key, &[0; NUMBER_BYTES]].concat())
    }

    fn piece(&mut self, number: u32) -> &[u8] {
        let at = self.0.len() - NUMBER_BYTES;
        self.0[at..].copy_from_slice(&number.to_be_bytes());
        &self.0
    }
}

/// Puts the pieces of a row in place of those that its key had. What to put where the row would be.
pub fn put(
    table: &mut Table<'_, &'static [u8], &'static [u8]>,
    key: &[u8],
    row: &[u8],
) -> Result<Stub, redb::StorageError> {
    let mut name = Name::of(key);
    let mut number = 0;
    for cut in cuts(key.len(), row.len()) {
        table.insert(name.piece(number), &row[cut])?;
        number += 1;
    }
    remove_from(table, name, number)?;
    Ok(stub(row))
}

/// Removes the pieces of a key.
pub fn remove(
    table: &mut Table<'_, &'static [u8], &'static [u8]>,
    key: &[u8],
) -> Result<(), redb::StorageError> {
    remove_from(table, Name::of(key), 0)
}

/// Pieces have numbers without a gap.
fn remove_from(
    table: &mut Table<'_, &'static [u8], &'static [u8]>,
    mut name: Name,
    first: u32,
) -> Result<(), redb::StorageError> {
    let mut number = first;
    while table.remove(name.piece(number))?.is_some() {
        number += 1;
    }
    Ok(())
}

/// Puts a row together again.
pub fn whole(
    table: Option<&ReadOnlyTable<&'static [u8], &'static [u8]>>,
    key: &[u8],
    bytes: usize,
) -> Result<Bytes, Broken> {
    let (mut row, mut name) = (BytesMut::with_capacity(bytes), Name::of(key));
    for number in 0.. {
        if row.len() >= bytes {
            break;
        }
        let piece = table.map(|table| table.get(name.piece(number))).transpose()?.flatten();
        row.extend_from_slice(piece.ok_or(Broken::Missing)?.value());
    }
    if row.len() == bytes { Ok(row.freeze()) } else { Err(Broken::Missing) }
}

/// Why a row cannot be put together.
pub enum Broken {
    Storage(redb::StorageError),
    /// Its pieces are not what its stub says.
    Missing,
}

impl From<redb::StorageError> for Broken {
    fn from(e: redb::StorageError) -> Broken {
        Broken::Storage(e)
    }
}

pub fn missing(key: &[u8]) -> Error {
    Error::corrupt(format!("the pieces of row {} are not all there", key.escape_ascii()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_fill_runs_of_pages_whatever_the_row_and_its_key() {
        for key in [1, 20, 1100, 4096, 9000, 70_000] {
            for row in [1, 4000, 32 << 10, 40_000, 65_536, 100_000, (1 << 20) + 60, 5 << 20] {
                let cuts: Vec<_> = cuts(key, row).collect();
                assert_eq!(cuts.iter().map(ExactSizeIterator::len).sum::<usize>(), row);
                assert!(cuts.windows(2).all(|two| two[0].end == two[1].start));
                let (last, full) = cuts.split_last().unwrap();
                assert!(last.len() <= RUNS[0] || key > 60_000);
                let beside = PAGE_OVERHEAD + key + NUMBER_BYTES;
                assert!(full.iter().all(|cut| RUNS.contains(&(cut.len() + beside))), "{key} {row}");
            }
        }
    }

    #[test]
    fn a_stub_is_no_row_and_a_row_is_no_stub() {
        assert_eq!(length(&stub(&[7; 70_000])), Some(70_000));
        for row in [&b""[..], b"\x0a\x01\x02\x03\x04", &[0; STUB_BYTES]] {
            assert!(length(row).is_none() && !is_cut(row));
        }
        assert!(is_cut(&[MARK, 0, 0, 0, 9]) && is_cut(&vec![0; limits::ROW_LARGE_BYTES]));
    }
}
