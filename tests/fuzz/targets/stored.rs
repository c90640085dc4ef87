//! What stands in a store and in a log, row by row: it reads back as what it was, or is called
//! damaged.

use bytes::Bytes;
use devicedb::{
    base::error::{Error, Kind, Result},
    data::RowKey,
    wire,
};

/// The first byte chooses the kind of row.
pub fn stored(input: &[u8]) -> bool {
    let Some((kind, bytes)) = input.split_first() else { return false };
    match kind % 5 {
        0 => row(bytes),
        1 => reads_back(bytes, wire::decode_remembered, |r| wire::encode_remembered(r).to_vec()),
        2 => reads_back(bytes, wire::decode_record, wire::encode_record),
        3 => reads_back(bytes, wire::decode_identity, wire::encode_identity),
        _ => reads_back(bytes, entry, wire::encode_entry),
    }
}

/// What may have come from a newer version is told from what no version reads; either way it is not
/// taken.
fn entry(bytes: &[u8]) -> Result<devicedb::entry::Entry> {
    let entry = wire::decode_entry(&Bytes::copy_from_slice(bytes));
    let newer = entry
        .as_ref()
        .is_err_and(|e| e.kind == Kind::Conflict && e.message.contains("upgrade this node"));
    if newer { Err(Error::corrupt("written by a newer version")) } else { entry }
}

/// A data row under its key.
fn row(input: &[u8]) -> bool {
    let mut feed = super::Feed(input);
    let name = feed.piece();
    let key = match RowKey::decode(name) {
        Ok(key) => key,
        Err(e) => return damaged(&e),
    };
    assert_eq!(key.encode(), name, "two spellings of one row key");
    reads_back(
        feed.0,
        |b| wire::decode_row(&key.place, &Bytes::copy_from_slice(b)),
        |row| wire::encode_row(row).to_vec(),
    )
}

fn reads_back<T: PartialEq + std::fmt::Debug>(
    bytes: &[u8],
    decode: impl Fn(&[u8]) -> Result<T>,
    encode: impl Fn(&T) -> Vec<u8>,
) -> bool {
    match decode(bytes) {
        Ok(value) => {
            let written = encode(&value);
            let again = decode(&written).expect("what was read can be written and read again");
            assert_eq!((&again, encode(&again)), (&value, written));
            true
        }
        Err(e) => damaged(&e),
    }
}

fn damaged(e: &Error) -> bool {
    assert_eq!(e.kind, Kind::Corrupt, "damage on disk is called {e:?}");
    false
}
