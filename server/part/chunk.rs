//! Runs of rows as bytes: how rows are written down, where one chunk ends and the next begins, and
//! what names it.
//!
//! A row is a key and a value, both opaque here; rows come sorted by key. The plain bytes of a
//! chunk, field by field:
//!
//! | field        | bytes        | why                                                        |
//! | ------------ | ------------ | ---------------------------------------------------------- |
//! | format       | 1            | always 1; another encoding gets another number             |
//! | then per row |              |                                                            |
//! | key length   | 1 to 4       | LEB128, shortest form, so that equal rows have equal bytes |
//! | key          | key length   | ascending from row to row, no key twice                    |
//! | value length | 1 to 4       | LEB128, likewise                                           |
//! | value        | value length | up to the next row; the last row ends with the chunk       |
//!
//! A chunk has at least one row. Its name is the blake3 of these plain bytes. On disk and on the
//! wire it is one zstd frame with content size and checksum, made in one thread at a fixed level;
//! another zstd may make another frame of the same chunk, which is why the name does not depend on
//! the frame. With the keys of a seal both are made with them; see `seal`.
//!
//! Boundaries are chosen by content: behind a row at which the chunk has at least
//! `CHUNK_BYTES_MIN`, the chunk ends if the hash of the row's key is small. How small is
//! proportional to the row's bytes, so that every byte ends a chunk with the same probability and
//! the mean is `CHUNK_BYTES_TARGET`, whatever the rows' size. A boundary thus depends only on rows,
//! not on who cuts when: the same rows give the same chunks on every node and in every snapshot,
//! and a changed row changes the chunk it lies in and seldom more than the next (Muthitacharoen,
//! Chen and Mazières 2001, with keys in place of a rolling window).
//!
//! It does not know partitions, files or manifests: who wants chunks to begin anew calls `finish`
//! in between.

use std::{borrow::Cow, fmt, ops::Range, str::FromStr, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use zstd::zstd_safe;

use super::seal::Keys;
use crate::base::{
    error::{Error, Result},
    limits,
};

/// Names a chunk: blake3 of its plain bytes, in a sealed part a keyed one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChunkHash(pub [u8; 32]);

/// Blake3 of anything else: of a partition's rows, of a manifest, of a tar.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

/// A run of rows, ready to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    pub hash: ChunkHash,
    pub rows: u64,
    /// Plain bytes.
    pub bytes: u64,
    /// What is stored: the zstd frame, sealed where there is a seal.
    pub data: Bytes,
}

/// The rows of a chunk, every one of them checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rows {
    plain: Vec<u8>,
    rows: u64,
    /// Where the last key lies.
    last: Range<usize>,
}

/// Cuts rows into chunks.
pub struct Chunker {
    bytes_min: usize,
    bytes_target: usize,
    bytes_max: usize,
    plain: Vec<u8>,
    rows: u64,
    /// The key before, across chunks.
    last: Option<Vec<u8>>,
    keys: Option<Arc<Keys>>,
    compressor: zstd::bulk::Compressor<'static>,
}

const FORMAT: u8 = 1;
/// The fastest of zstd's usual levels: a capture shall wait for the disk, not for the processor.
const LEVEL: i32 = 1;
const LENGTH_BYTES_MAX: usize = 4;
const _: () =
    assert!(limits::ROW_BYTES_MAX < 1 << (7 * LENGTH_BYTES_MAX), "a length fits its field");

/// What stands for a whole run of rows: blake3 of the chunks' names in order, and of the number of
/// rows as eight bytes, big end first. Chunks being canonical, equal rows have equal digests.
pub fn digest<'a>(chunks: impl IntoIterator<Item = &'a ChunkHash>, rows: u64) -> Digest {
    let mut hasher = blake3::Hasher::new();
    for chunk in chunks {
        hasher.update(&chunk.0);
    }
    hasher.update(&rows.to_be_bytes());
    Digest(hasher.finalize().into())
}

impl Chunker {
    pub fn new() -> Result<Chunker> {
        Chunker::sized(limits::CHUNK_BYTES_MIN, limits::CHUNK_BYTES_TARGET, limits::CHUNK_BYTES_MAX)
    }

    pub(super) fn sized(
        bytes_min: usize,
        bytes_target: usize,
        bytes_max: usize,
    ) -> Result<Chunker> {
        let mut compressor = zstd::bulk::Compressor::new(LEVEL)
            .map_err(|e| Error::unavailable(format!("zstd does not start: {e}")).with_source(e))?;
        compressor.include_checksum(true).map_err(|e| {
            Error::unavailable(format!("zstd makes no checksums: {e}")).with_source(e)
        })?;
        Ok(Chunker {
            bytes_min,
            bytes_target,
            bytes_max,
            plain: vec![FORMAT],
            rows: 0,
            last: None,
            keys: None,
            compressor,
        })
    }

    /// The same chunks, sealed.
    pub fn sealed_with(self, keys: Option<Arc<Keys>>) -> Chunker {
        Chunker { keys, ..self }
    }

    /// Takes the next row and returns the chunk that it completes. `Invalid` if the row is too
    /// large, `Corrupt` if its key does not lie behind the one before.
    pub fn push(&mut self, key: &[u8], value: &[u8]) -> Result<Option<Chunk>> {
        let before = self.plain.len();
        let row_bytes =
            length_bytes(key.len()) + key.len() + length_bytes(value.len()) + value.len();
        if key.len() > limits::ROW_KEY_BYTES_MAX || row_bytes > limits::ROW_BYTES_MAX {
            return Err(Error::invalid(format!(
                "a row of {row_bytes} bytes with a key of {} is too large for a chunk: key {}",
                key.len(),
                shown(key)
            )));
        }
        if self.last.as_deref().is_some_and(|last| last >= key) {
            return Err(Error::corrupt(format!(
                "rows come out of order: key {} does not lie behind the one before it",
                shown(key)
            )));
        }
        put_length(&mut self.plain, key.len());
        self.plain.extend_from_slice(key);
        put_length(&mut self.plain, value.len());
        self.plain.extend_from_slice(value);
        debug_assert_eq!(self.plain.len(), before + row_bytes);
        self.rows += 1;
        let last = self.last.get_or_insert_default();
        last.clear();
        last.extend_from_slice(key);
        if self.ends_behind(key, row_bytes) { self.cut().map(Some) } else { Ok(None) }
    }

    /// Returns the last chunk, and begins anew: the next row may have any key.
    pub fn finish(&mut self) -> Result<Option<Chunk>> {
        self.last = None;
        if self.rows == 0 { Ok(None) } else { self.cut().map(Some) }
    }

    fn ends_behind(&self, key: &[u8], row_bytes: usize) -> bool {
        let bytes = self.plain.len();
        if bytes < self.bytes_min || bytes >= self.bytes_max {
            return bytes >= self.bytes_max;
        }
        let hash = blake3::hash(key);
        let hash = u64::from_be_bytes(
            hash.as_bytes()[..8].try_into().expect("a hash is longer than eight bytes"),
        );
        let threshold = ((row_bytes as u128) << 64) / (self.bytes_target - self.bytes_min) as u128;
        u128::from(hash) < threshold
    }

    fn cut(&mut self) -> Result<Chunk> {
        let frame = self.compressor.compress(&self.plain).map_err(|e| {
            Error::unavailable(format!("zstd does not compress a chunk: {e}")).with_source(e)
        })?;
        let hash = ChunkHash::of(&self.plain, self.keys.as_deref());
        let data = stored(hash, frame, self.keys.as_deref());
        let chunk =
            Chunk { hash, rows: self.rows, bytes: self.plain.len() as u64, data: data.into() };
        self.plain.truncate(1);
        self.rows = 0;
        Ok(chunk)
    }
}

impl Rows {
    /// Opens a chunk and checks all of it: its seal, if it has one, its frame, its name, every row
    /// and their order. `Corrupt` says what is wrong.
    pub fn open(hash: ChunkHash, data: &[u8], keys: Option<&Keys>) -> Result<Rows> {
        let open = || {
            let plain = decompress(&frame(hash, data, keys)?)?;
            let actual = ChunkHash::of(&plain, keys);
            if actual != hash {
                return Err(Error::corrupt(format!("its content is that of chunk {actual}")));
            }
            let (rows, last) = count_rows(&plain)?;
            Ok(Rows { plain, rows, last })
        };
        open().map_err(|e: Error| e.at(format_args!("chunk {hash}")))
    }

    /// At least 1.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Plain bytes.
    pub fn bytes(&self) -> u64 {
        self.plain.len() as u64
    }

    /// The keys of its first and its last row.
    pub fn ends(&self) -> (&[u8], &[u8]) {
        let first = self.iter().next().expect("a chunk has rows").0;
        (first, &self.plain[self.last.clone()])
    }

    /// The chunk's name under a seal, or without one.
    pub fn name(&self, keys: Option<&Keys>) -> ChunkHash {
        ChunkHash::of(&self.plain, keys)
    }

    /// Key and value, in key order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut at = 1;
        std::iter::from_fn(move || {
            if at == self.plain.len() {
                return None;
            }
            let row =
                take_row(&self.plain, at).expect("every row was read when the chunk was opened");
            at = row.end;
            Some((row.key, row.value))
        })
    }
}

/// The zstd frame of a stored chunk.
pub fn frame<'a>(hash: ChunkHash, data: &'a [u8], keys: Option<&Keys>) -> Result<Cow<'a, [u8]>> {
    keys.map_or(Ok(data.into()), |keys| keys.open(&hash.0, data).map(Cow::from))
}

/// What is stored of a chunk with this frame.
pub fn stored(hash: ChunkHash, frame: Vec<u8>, keys: Option<&Keys>) -> Vec<u8> {
    match keys {
        None => frame,
        Some(keys) => keys.seal(&hash.0, &frame),
    }
}

impl ChunkHash {
    fn of(plain: &[u8], keys: Option<&Keys>) -> ChunkHash {
        ChunkHash(keys.map_or_else(|| blake3::hash(plain).into(), |keys| keys.name(plain)))
    }
}

struct Row<'a> {
    key: &'a [u8],
    value: &'a [u8],
    key_end: usize,
    end: usize,
}

/// Accepts exactly one frame that says how large its content is, so that the bound is checked
/// before memory is taken.
fn decompress(data: &[u8]) -> Result<Vec<u8>> {
    let frame_bytes = zstd_safe::find_frame_compressed_size(data)
        .map_err(|_| Error::corrupt("it is not a whole zstd frame"))?;
    if frame_bytes != data.len() {
        return Err(Error::corrupt(format!(
            "{} bytes follow its zstd frame",
            data.len() - frame_bytes
        )));
    }
    let bytes = match zstd_safe::get_frame_content_size(data) {
        Ok(Some(bytes)) => bytes,
        Ok(None) | Err(_) => {
            return Err(Error::corrupt("its zstd frame does not say how large its content is"));
        }
    };
    if bytes > limits::CHUNK_BYTES_READ_MAX as u64 {
        return Err(Error::corrupt(format!(
            "it claims {bytes} bytes, more than the {} that a chunk can have",
            limits::CHUNK_BYTES_READ_MAX
        )));
    }
    let plain = zstd::bulk::decompress(data, bytes as usize)
        .map_err(|e| Error::corrupt(format!("it does not decompress: {e}")).with_source(e))?;
    if plain.len() as u64 != bytes {
        return Err(Error::corrupt(format!("it claims {bytes} bytes and has {}", plain.len())));
    }
    Ok(plain)
}

/// How many rows there are, all of them in order, and where the last key lies.
fn count_rows(plain: &[u8]) -> Result<(u64, Range<usize>)> {
    match plain {
        [] => return Err(Error::corrupt("it is empty")),
        [FORMAT] => return Err(Error::corrupt("it has no rows")),
        [FORMAT, ..] => {}
        [format, ..] => {
            return Err(Error::corrupt(format!(
                "it has format {format}; this program reads {FORMAT}"
            )));
        }
    }
    let (mut at, mut rows, mut last) = (1, 0, 0..0);
    while at < plain.len() {
        let place = |what: &str| Error::corrupt(format!("row {rows} at byte {at}: {what}"));
        let row = take_row(plain, at).map_err(place)?;
        if rows > 0 && plain[last] >= *row.key {
            return Err(place("its key does not lie behind the one before it"));
        }
        last = row.key_end - row.key.len()..row.key_end;
        at = row.end;
        rows += 1;
    }
    Ok((rows, last))
}

fn take_row(plain: &[u8], at: usize) -> Result<Row<'_>, &'static str> {
    let (key, key_end) = take_bytes(plain, at)?;
    if key.len() > limits::ROW_KEY_BYTES_MAX {
        return Err("its key is too long");
    }
    let (value, end) = take_bytes(plain, key_end)?;
    Ok(Row { key, value, key_end, end })
}

fn take_bytes(plain: &[u8], at: usize) -> Result<(&[u8], usize), &'static str> {
    let mut length = 0;
    for i in 0..LENGTH_BYTES_MAX {
        let byte = *plain.get(at + i).ok_or("it ends within a length")?;
        length |= usize::from(byte & 0x7F) << (7 * i);
        if byte & 0x80 != 0 {
            continue;
        }
        if byte == 0 && i > 0 {
            return Err("a length is longer than it need be");
        }
        let begin = at + i + 1;
        return Ok((
            plain.get(begin..begin + length).ok_or("it ends within a key or value")?,
            begin + length,
        ));
    }
    Err("a length has more than four bytes")
}

fn put_length(plain: &mut Vec<u8>, mut length: usize) {
    while length >= 0x80 {
        plain.push(length as u8 | 0x80);
        length >>= 7;
    }
    plain.push(length as u8);
}

fn length_bytes(length: usize) -> usize {
    1 + (1..LENGTH_BYTES_MAX).filter(|i| length >> (7 * i) > 0).count()
}

/// The beginning of a key, for a message.
fn shown(key: &[u8]) -> String {
    format!("\"{}\"", key[..key.len().min(64)].escape_ascii())
}

fn write_hex(hash: &[u8; 32], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    hash.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

/// 64 lower-case digits and nothing else, so that a hash has one spelling.
fn read_hex(text: &str) -> Result<[u8; 32]> {
    let digit = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    let bytes: Option<Vec<u8>> = text
        .as_bytes()
        .chunks(2)
        .map(|pair| Some(digit(pair[0])? << 4 | digit(*pair.get(1)?)?))
        .collect();
    bytes.and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| {
        Error::invalid(format!("a hash is 64 digits of lower-case hex, not {text:?}"))
    })
}

macro_rules! in_hex {
    ($($t:ident),*) => { $(
        impl fmt::Display for $t {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { write_hex(&self.0, f) }
        }
        impl fmt::Debug for $t {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { write_hex(&self.0, f) }
        }
        impl FromStr for $t {
            type Err = Error;
            fn from_str(text: &str) -> Result<$t> { read_hex(text).map($t) }
        }
        impl Serialize for $t {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $t {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$t, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    )* };
}
in_hex! { ChunkHash, Digest }

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashSet};

    use proptest::prelude::*;

    use super::*;
    use crate::base::clock::Random;

    type Table = BTreeMap<Vec<u8>, Vec<u8>>;

    fn small() -> Chunker {
        Chunker::sized(256, 1024, 4096).unwrap()
    }

    fn cut(chunker: &mut Chunker, rows: &Table) -> Vec<Chunk> {
        let mut chunks: Vec<_> =
            rows.iter().filter_map(|(key, value)| chunker.push(key, value).unwrap()).collect();
        chunks.extend(chunker.finish().unwrap());
        chunks
    }

    fn back(chunks: &[Chunk]) -> Table {
        let open = |chunk: &Chunk| {
            let rows = Rows::open(chunk.hash, &chunk.data, None).unwrap();
            assert_eq!((rows.rows(), rows.bytes()), (chunk.rows, chunk.bytes));
            let keys: Vec<_> = rows.iter().map(|(key, _)| key).collect();
            assert_eq!(rows.ends(), (keys[0], keys[keys.len() - 1]));
            rows.iter().map(|(key, value)| (key.to_vec(), value.to_vec())).collect::<Vec<_>>()
        };
        chunks.iter().flat_map(open).collect()
    }

    fn seeded(seed: u64, rows: u64) -> Table {
        let mut rng = Random::seeded(seed);
        (0..rows)
            .map(|_| (rng.next_u64().to_be_bytes().to_vec(), vec![7; rng.below(60) as usize]))
            .collect()
    }

    /// A frame whose content is not necessarily that of a chunk, under its right name.
    fn framed(plain: &[u8]) -> (ChunkHash, Vec<u8>) {
        (ChunkHash(blake3::hash(plain).into()), zstd::bulk::compress(plain, LEVEL).unwrap())
    }

    proptest! {
        #[test]
        fn rows_come_back_from_chunks_as_they_were(
            rows in prop::collection::btree_map(
                prop::collection::vec(any::<u8>(), 0..40),
                prop::collection::vec(any::<u8>(), 0..400),
                0..200,
            ),
        ) {
            let mut chunker = small();
            let chunks = cut(&mut chunker, &rows);
            prop_assert_eq!(back(&chunks), rows.clone());
            prop_assert_eq!(
                chunks,
                cut(&mut chunker, &rows),
                "the same rows gave other chunks the second time"
            );
        }

        #[test]
        fn no_bytes_make_the_reader_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            framed_too in any::<bool>(),
        ) {
            let plain: Vec<u8> = std::iter::once(FORMAT).chain(bytes.iter().copied()).collect();
            let (hash, data) = framed(&plain);
            let _ = Rows::open(hash, if framed_too { &data } else { &bytes }, None);
        }
    }

    #[test]
    fn a_row_gained_or_lost_changes_only_chunks_near_it() {
        let rows = seeded(1, 4000);
        let mut chunker = small();
        let before: HashSet<ChunkHash> = cut(&mut chunker, &rows).iter().map(|c| c.hash).collect();
        assert!(before.len() > 100, "{} chunks show nothing", before.len());
        for (seed, key) in rows.keys().step_by(97).enumerate() {
            let mut lost = rows.clone();
            lost.remove(key);
            let mut gained = rows.clone();
            gained.insert(key.iter().copied().chain([0]).collect(), vec![9; 10 + seed]);
            for changed in [lost, gained] {
                let new = cut(&mut chunker, &changed)
                    .iter()
                    .filter(|c| !before.contains(&c.hash))
                    .count();
                assert!((1..=8).contains(&new), "{new} chunks are new");
            }
        }
    }

    #[test]
    fn chunks_are_near_their_target_whatever_the_size_of_rows() {
        for value_bytes in [1, 30, 100] {
            let rows: Table = seeded(2, 20_000 / (1 + value_bytes as u64 / 20))
                .into_keys()
                .map(|key| (key, vec![0; value_bytes]))
                .collect();
            let chunks = cut(&mut small(), &rows);
            let mean = chunks.iter().map(|c| c.bytes).sum::<u64>() / chunks.len() as u64;
            assert!((800..1250).contains(&mean), "mean {mean} with values of {value_bytes} bytes");
            assert!(
                chunks.iter().all(|c| c.bytes < 4096 + value_bytes as u64 + 10),
                "a chunk passed its bound by more than a row"
            );
            assert!(
                chunks.iter().rev().skip(1).all(|c| c.bytes >= 256),
                "a chunk that is not the last is too small"
            );
        }
    }

    #[test]
    fn a_chunk_is_written_the_same_way_for_good() {
        let mut chunker = Chunker::new().unwrap();
        assert_eq!(chunker.push(b"a", b"one").unwrap(), None);
        assert_eq!(chunker.push(b"b", &[b'x'; 200]).unwrap(), None);
        let chunk = chunker.finish().unwrap().unwrap();
        let plain = [b"\x01\x01a\x03one\x01b\xc8\x01".as_slice(), &[b'x'; 200]].concat();
        assert_eq!(zstd::bulk::decompress(&chunk.data, 1000).unwrap(), plain);
        assert_eq!(
            chunk.hash.to_string(),
            "bcc13e9465ee1edc0689522a842854b7cd87709b0d43b56ca5c83f7cbf04deef"
        );
        assert_eq!(chunk.hash.to_string().parse::<ChunkHash>().unwrap(), chunk.hash);
    }

    #[test]
    fn the_largest_row_fits_a_chunk_and_a_larger_one_is_refused() {
        let mut chunker = Chunker::new().unwrap();
        let value = vec![0; limits::ROW_BYTES_MAX - 1 - 1 - 4];
        let chunk = chunker.push(b"k", &value).unwrap().expect("it passes the bound of a chunk");
        assert_eq!(
            Rows::open(chunk.hash, &chunk.data, None).unwrap().iter().next().unwrap().1.len(),
            value.len()
        );
        let value = vec![0; limits::ROW_BYTES_MAX];
        assert_eq!(chunker.push(b"l", &value).unwrap_err().kind, crate::base::error::Kind::Invalid);
    }

    #[test]
    fn rows_out_of_order_are_refused_by_the_writer() {
        let mut chunker = Chunker::new().unwrap();
        chunker.push(b"b", b"").unwrap();
        assert!(chunker.push(b"b", b"").is_err());
        assert!(chunker.push(b"a", b"").is_err());
        chunker.finish().unwrap();
        assert!(chunker.push(b"a", b"").is_ok(), "a new run may begin anywhere");
    }

    #[test]
    fn what_is_no_chunk_is_named() {
        let cases: [(&[u8], &str); 10] = [
            (b"", "it is empty"),
            (b"\x01", "it has no rows"),
            (b"\x02\x01a\x00", "it has format 2; this program reads 1"),
            (b"\x01\x01a", "row 0 at byte 1: it ends within a length"),
            (b"\x01\x05a", "row 0 at byte 1: it ends within a key or value"),
            (
                b"\x01\x01b\x00\x01a\x00",
                "row 1 at byte 4: its key does not lie behind the one before it",
            ),
            (
                b"\x01\x01a\x00\x01a\x00",
                "row 1 at byte 4: its key does not lie behind the one before it",
            ),
            (b"\x01\x81\x00a\x00", "row 0 at byte 1: a length is longer than it need be"),
            (
                b"\x01\xff\xff\xff\xff\x01a\x00",
                "row 0 at byte 1: a length has more than four bytes",
            ),
            (b"\x01\xff\xff\xff\x7f", "row 0 at byte 1: it ends within a key or value"),
        ];
        for (plain, what) in cases {
            let (hash, data) = framed(plain);
            assert_eq!(
                Rows::open(hash, &data, None).unwrap_err().message,
                format!("chunk {hash}: {what}")
            );
        }
    }

    #[test]
    fn frames_that_lie_are_refused_before_memory_is_taken() {
        let (hash, data) = framed(&vec![0; limits::CHUNK_BYTES_READ_MAX + 1]);
        assert!(Rows::open(hash, &data, None).unwrap_err().message.contains("more than the"));
        let (hash, mut data) = framed(b"\x01\x01a\x00");
        data.extend([0x50, 0x2A, 0x4D, 0x18, 0, 0, 0, 0]);
        assert!(
            Rows::open(hash, &data, None)
                .unwrap_err()
                .message
                .contains("8 bytes follow its zstd frame")
        );
        let other = ChunkHash([0; 32]);
        assert!(
            Rows::open(other, &framed(b"\x01\x01a\x00").1, None)
                .unwrap_err()
                .message
                .contains("its content is that of chunk")
        );
    }
}
