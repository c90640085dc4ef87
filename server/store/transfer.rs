//! A group's rows in a file of their own, on the way from one node to another.
//!
//! The file is the group's record, then its rows in key order, each as two lengths (4 bytes,
//! big-endian), key and value; the record has an empty key. Its blake3 travels beside it. It is
//! written by the sender so that no view of the store is held while the network is slow, and kept
//! by the receiver until Raft announces the snapshot that it belongs to. It lies on the disk of the
//! sender's own store, and is given up before it takes the last room there.

use std::{
    fs::File,
    io::{BufReader, BufWriter, Read, Write},
    path::Path,
};

use super::{Commit, View, keys};
use crate::base::{
    error::{Context, Error, Result},
    ids::{GroupId, Topology},
    limits, space,
};

/// What a row counts for beside its bytes while rows are put in place.
const ROW_BYTES: usize = 64;

/// Writes a group's record and rows. Returns the blake3 of the file. `Exhausted` where that would
/// leave too little of the disk free.
pub fn write(
    path: &Path,
    record: &[u8],
    view: &View,
    topology: Topology,
    group: GroupId,
) -> Result<[u8; 32]> {
    let file = File::create(path).at(path.display())?;
    let mut out = Hashed {
        out: BufWriter::with_capacity(limits::ROWS_FILE_BUFFER_BYTES, file),
        hash: blake3::Hasher::new(),
        spared: 0,
    };
    out.spare(path, record.len())?;
    out.row(&[], record).at(path.display())?;
    for range in keys::group(topology, group) {
        for row in view.range(&range)? {
            let (key, value) = row?;
            out.spare(path, key.len() + value.len())?;
            out.row(&key, &value).at(path.display())?;
        }
    }
    out.out.flush().at(path.display())?;
    Ok(*out.hash.finalize().as_bytes())
}

/// Reads a file to its end and returns the record that it begins with. `Corrupt` unless it could
/// have been written for this group: once its rows are being put in place, it is too late to refuse
/// them. What a row holds is for `each` to judge, which is given every one of them.
pub fn check(
    path: &Path,
    topology: Topology,
    group: GroupId,
    mut each: impl FnMut(&[u8], Vec<u8>) -> Result<()>,
) -> Result<Vec<u8>> {
    let wrong = |what: &str| {
        Error::corrupt(format!("{} is not the rows of group {group}: {what}", path.display()))
    };
    let mut rows = Rows::open(path)?;
    let (mut last, record) = rows.next().ok_or_else(|| wrong("it is empty"))??;
    if !last.is_empty() {
        return Err(wrong("it does not begin with a record"));
    }
    let ranges = keys::group(topology, group);
    for row in rows {
        let (key, value) = row?;
        if key <= last || !ranges.iter().any(|range| range.contains(&key)) {
            return Err(wrong(&format!(
                "it holds a row of another group, or out of order: {}",
                key.escape_ascii()
            )));
        }
        each(&key, value)?;
        last = key;
    }
    Ok(record)
}

/// Replaces a group's rows by those of a file that was checked.
pub fn install(path: &Path, commit: &mut Commit, topology: Topology, group: GroupId) -> Result<()> {
    commit.clear_group(topology, group)?;
    let mut rows = Rows::open(path)?.skip(1).peekable();
    while rows.peek().is_some() {
        let some = some_of(&mut rows)?;
        commit.rows(some.iter().map(|(k, v)| (k.as_slice(), Some(v.as_slice()))))?;
    }
    Ok(())
}

/// The next rows, up to the one that makes them fill a write.
fn some_of(
    rows: &mut impl Iterator<Item = Result<(Vec<u8>, Vec<u8>)>>,
) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let (mut some, mut bytes) = (Vec::new(), 0);
    while bytes < limits::ROWS_WRITE_BYTES
        && let Some(row) = rows.next()
    {
        let row = row?;
        bytes += row.0.len() + row.1.len() + ROW_BYTES;
        some.push(row);
    }
    Ok(some)
}

struct Hashed {
    out: BufWriter<File>,
    hash: blake3::Hasher,
    /// Bytes that may be written before the disk is looked at again.
    spared: usize,
}

impl Hashed {
    /// Whether the disk has room for a row, and for some more.
    fn spare(&mut self, path: &Path, bytes: usize) -> Result<()> {
        if bytes > self.spared {
            self.spared = bytes + limits::ROWS_WRITE_BYTES;
            space::spare(path.parent().unwrap_or(path), self.spared as u64)?;
        }
        self.spared -= bytes;
        Ok(())
    }

    fn row(&mut self, key: &[u8], value: &[u8]) -> std::io::Result<()> {
        for bytes in
            [&(key.len() as u32).to_be_bytes()[..], &(value.len() as u32).to_be_bytes(), key, value]
        {
            self.hash.update(bytes);
            self.out.write_all(bytes)?;
        }
        Ok(())
    }
}

struct Rows {
    file: BufReader<File>,
    left: u64,
    path: String,
}

impl Rows {
    fn open(path: &Path) -> Result<Rows> {
        let file = File::open(path).at(path.display())?;
        let left = file.metadata().at(path.display())?.len();
        Ok(Rows {
            file: BufReader::with_capacity(limits::ROWS_FILE_BUFFER_BYTES, file),
            left,
            path: path.display().to_string(),
        })
    }

    fn row(&mut self) -> Result<(Vec<u8>, Vec<u8>)> {
        let mut lengths = [0; 8];
        self.file.read_exact(&mut lengths).at(&self.path)?;
        let length = |at: usize| {
            u32::from_be_bytes(lengths[at..at + 4].try_into().expect("four of eight bytes"))
                as usize
        };
        let (key, value) = (length(0), length(4));
        self.left = self
            .left
            .checked_sub(8 + (key + value) as u64)
            .ok_or_else(|| Error::corrupt(format!("{} ends within a row", self.path)))?;
        if key + value > limits::ROW_BYTES_MAX {
            return Err(Error::corrupt(format!(
                "{} holds a row of {} bytes",
                self.path,
                key + value
            )));
        }
        let (mut k, mut v) = (vec![0; key], vec![0; value]);
        self.file.read_exact(&mut k).at(&self.path)?;
        self.file.read_exact(&mut v).at(&self.path)?;
        Ok((k, v))
    }
}

impl Iterator for Rows {
    type Item = Result<(Vec<u8>, Vec<u8>)>;

    fn next(&mut self) -> Option<Self::Item> {
        (self.left > 0).then(|| self.row())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        base::{disk, error::Kind},
        store::Store,
    };

    #[test]
    fn rows_are_taken_only_for_the_group_that_they_are_of_and_whole() {
        let (dir, topology) = (tempfile::tempdir().unwrap(), Topology::new(64, 32).unwrap());
        let (path, store) =
            (dir.path().join("rows"), Store::create(dir.path(), &disk::Machine, b"me").unwrap());
        let mut commit = store.begin().unwrap();
        let keys = [&[b'd', 0, 2][..], &[b'd', 0, 3], &[b'd', 0, 4]];
        commit.rows(keys.iter().map(|key| (*key, Some(&b"row"[..])))).unwrap();
        commit.finish().unwrap();
        write(&path, b"record", &store.view().unwrap(), topology, GroupId(1)).unwrap();
        assert_eq!(check(&path, topology, GroupId(1), |_, _| Ok(())).unwrap(), b"record");
        let damaged = |text: Vec<u8>| {
            std::fs::write(&path, text).unwrap();
            check(&path, topology, GroupId(1), |_, _| Ok(())).unwrap_err().kind
        };
        let whole = std::fs::read(&path).unwrap();
        let (head, row) = (14, 14);
        assert_eq!(whole.len(), head + 2 * row);
        let twice = [&whole[..head + row], &whole[head..]].concat();
        let mut foreign = whole.clone();
        foreign[head + row + 10] = 4;
        for text in
            [Vec::new(), whole[..whole.len() - 1].to_vec(), whole[head..].to_vec(), twice, foreign]
        {
            assert_eq!(damaged(text), Kind::Corrupt);
        }
    }

    #[test]
    fn large_rows_are_put_in_place_a_few_at_a_time() {
        let row = |bytes: usize| move |n: u32| Ok((n.to_be_bytes().to_vec(), vec![0; bytes]));
        let mut large = (0..5000).map(row(limits::ROWS_WRITE_BYTES / 4));
        assert_eq!(some_of(&mut large).unwrap().len(), 4);
        let mut small = (0..5000).map(row(0));
        let taken: Vec<usize> =
            std::iter::from_fn(|| Some(some_of(&mut small).unwrap().len()).filter(|n| *n > 0))
                .collect();
        assert_eq!(taken.iter().sum::<usize>(), 5000);
        assert!(taken[0] > 4000, "{taken:?}");
    }
}
