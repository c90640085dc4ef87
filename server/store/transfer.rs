//! A group's rows in a file of their own, on the way from one node to another.
//!
//! The file is the group's record, then its rows in key order, each as two lengths (4 bytes, big-endian), key and value; the record has an empty key. Its
//! blake3 travels beside it. It is written by the sender so that no view of the store is held while the network is slow, and kept by the receiver until
//! Raft announces the snapshot that it belongs to.

use std::{
    fs::File,
    io::{BufReader, BufWriter, Read, Write},
    path::Path,
};

use super::{Commit, View, keys};
use crate::{
    error::{Context, Error, Result},
    ids::{GroupId, Topology},
    limits,
};

/// Writes a group's record and rows. Returns the blake3 of the file.
pub fn write(path: &Path, record: &[u8], view: &View, topology: Topology, group: GroupId) -> Result<[u8; 32]> {
    let file = File::create(path).at(path.display())?;
    let mut out = Hashed { out: BufWriter::with_capacity(1 << 18, file), hash: blake3::Hasher::new() };
    out.row(&[], record).at(path.display())?;
    for range in keys::group(topology, group) {
        for row in view.range(&range)? {
            let (key, value) = row?;
            out.row(&key, &value).at(path.display())?;
        }
    }
    out.out.flush().at(path.display())?;
    Ok(*out.hash.finalize().as_bytes())
}

/// The record that a file begins with.
pub fn record(path: &Path) -> Result<Vec<u8>> {
    let mut rows = Rows::open(path)?;
    match rows.next() {
        Some(row) => row.map(|(_, record)| record),
        None => Err(Error::corrupt(format!("{} is empty", path.display()))),
    }
}

/// Replaces a group's rows by those of a file.
pub fn install(path: &Path, commit: &mut Commit, topology: Topology, group: GroupId) -> Result<()> {
    commit.clear_group(topology, group)?;
    let mut rows = Rows::open(path)?.skip(1).peekable();
    while rows.peek().is_some() {
        let some = rows.by_ref().take(4096).collect::<Result<Vec<_>>>()?;
        commit.rows(some.iter().map(|(k, v)| (k.as_slice(), Some(v.as_slice()))))?;
    }
    Ok(())
}

struct Hashed {
    out: BufWriter<File>,
    hash: blake3::Hasher,
}

impl Hashed {
    fn row(&mut self, key: &[u8], value: &[u8]) -> std::io::Result<()> {
        for bytes in [&(key.len() as u32).to_be_bytes()[..], &(value.len() as u32).to_be_bytes(), key, value] {
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
        Ok(Rows { file: BufReader::with_capacity(1 << 18, file), left, path: path.display().to_string() })
    }

    fn row(&mut self) -> Result<(Vec<u8>, Vec<u8>)> {
        let mut lengths = [0; 8];
        self.file.read_exact(&mut lengths).at(&self.path)?;
        let length = |at: usize| u32::from_be_bytes(lengths[at..at + 4].try_into().expect("four of eight bytes")) as usize;
        let (key, value) = (length(0), length(4));
        self.left = self.left.checked_sub(8 + (key + value) as u64).ok_or_else(|| Error::corrupt(format!("{} ends within a row", self.path)))?;
        if key + value > limits::ROW_BYTES_MAX {
            return Err(Error::corrupt(format!("{} holds a row of {} bytes", self.path, key + value)));
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
