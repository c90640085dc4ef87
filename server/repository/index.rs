//! Which chunks a group consists of, and where they lie: one zstd frame of JSON for each group.
//!
//! It has what a part's manifest has of the group's rows, and two things more. Each chunk says in
//! which segment it lies, and at which byte. And it says its first key, so that whoever looks for a
//! key opens one chunk and not all of the partition. That is the chunk's own, whatever stands
//! before it: a chunk that has not changed says the same in every snapshot.
//!
//! The group's mark and members are not here: they change with every snapshot, and a group whose
//! rows have not changed shall have the index that it had.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use zstd::zstd_safe;

use crate::{
    base::{
        error::{Error, Result},
        ids::PartitionId,
        limits,
    },
    part::{
        chunk::{self, ChunkHash, Digest},
        manifest::{ChunkEntry, Owner, PartitionPart},
    },
};

/// The rows of a group, as chunks that lie somewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Index {
    pub segments: Vec<Segment>,
    /// The meta group has one, with number 0.
    pub partitions: Vec<PartitionPart>,
    /// By hash.
    pub chunks: Vec<Located>,
}

/// Where a frame lies: an object's name in the folder, and which of its bytes. The digest is that
/// of the frame before it was sealed, if it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    pub object: String,
    pub offset: u64,
    pub bytes: u64,
    pub digest: Digest,
}

/// An object that holds chunks, by its name in the folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Segment {
    pub name: String,
    pub bytes: u64,
}

/// A chunk, and where it lies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Located {
    pub hash: ChunkHash,
    pub rows: u64,
    pub bytes: u64,
    pub stored_bytes: u64,
    pub stored_digest: Digest,
    /// The place of its segment in the list of segments.
    pub segment: usize,
    pub offset: u64,
    /// Its first key.
    #[serde(with = "hex")]
    pub first: Vec<u8>,
}

impl Located {
    pub fn entry(&self) -> ChunkEntry {
        let Located { hash, rows, bytes, stored_bytes, stored_digest, .. } = *self;
        ChunkEntry { hash, rows, bytes, stored_bytes, stored_digest }
    }
}

/// Fast enough for any disk, and a third smaller than the fastest.
const LEVEL: i32 = 3;

impl Index {
    /// The frame and its digest.
    pub fn encode(&self) -> Result<(Vec<u8>, Digest)> {
        let text = serde_json::to_vec(self).expect("texts and numbers are JSON");
        let mut compressor = zstd::bulk::Compressor::new(LEVEL)
            .map_err(|e| Error::unavailable(format!("zstd does not start: {e}")).with_source(e))?;
        let frame = compressor.compress(&text).map_err(|e| {
            Error::unavailable(format!("zstd does not compress an index: {e}")).with_source(e)
        })?;
        let digest = Digest(blake3::hash(&frame).into());
        Ok((frame, digest))
    }

    /// `Corrupt` if it is not what was written, or does not agree with itself.
    pub fn decode(frame: &[u8], place: &Place) -> Result<Index> {
        if Digest(blake3::hash(frame).into()) != place.digest {
            return Err(Error::corrupt("its bytes are not those that were written"));
        }
        let bytes = match zstd_safe::get_frame_content_size(frame) {
            Ok(Some(bytes)) if bytes <= limits::REPOSITORY_INDEX_BYTES_MAX as u64 => bytes as usize,
            _ => return Err(Error::corrupt("it does not say how large it is, or is too large")),
        };
        let text = zstd::bulk::decompress(frame, bytes)
            .map_err(|e| Error::corrupt(format!("it does not decompress: {e}")).with_source(e))?;
        let index: Index = serde_json::from_slice(&text).map_err(|e| {
            Error::corrupt(format!("it is not what this program writes: {e}")).with_source(e)
        })?;
        index.check()?;
        Ok(index)
    }

    pub fn chunk(&self, hash: ChunkHash) -> Option<&Located> {
        let at = self.chunks.binary_search_by_key(&hash, |chunk| chunk.hash).ok()?;
        Some(&self.chunks[at])
    }

    /// Bytes of all its chunks as they are stored.
    pub fn stored_bytes(&self) -> u64 {
        self.chunks.iter().map(|chunk| chunk.stored_bytes).sum()
    }

    pub fn rows(&self) -> u64 {
        self.partitions.iter().map(|partition| partition.rows).sum()
    }

    pub fn bytes(&self) -> u64 {
        self.partitions.iter().map(|partition| partition.bytes).sum()
    }

    /// Every chunk with whom it belongs to, in key order.
    pub fn in_order(&self, is_meta: bool) -> impl Iterator<Item = (Owner, &Located)> {
        self.partitions.iter().flat_map(move |partition| {
            let owner = if is_meta { Owner::Meta } else { Owner::Partition(partition.id) };
            let located =
                |hash: &ChunkHash| self.chunk(*hash).expect("an index has all chunks it names");
            partition.chunks.iter().map(move |hash| (owner, located(hash)))
        })
    }

    fn check(&self) -> Result<()> {
        if !self.chunks.is_sorted_by(|a, b| a.hash < b.hash) {
            return Err(Error::corrupt("chunks are not sorted, or one stands there twice"));
        }
        if !self.partitions.is_sorted_by(|a, b| a.id < b.id) {
            return Err(Error::corrupt("partitions are not sorted, or one stands there twice"));
        }
        if let Some(segment) = self.segments.iter().find(|segment| !is_name(&segment.name)) {
            return Err(Error::corrupt(format!("{:?} is the name of no segment", segment.name)));
        }
        for chunk in &self.chunks {
            chunk.entry().check()?;
            let end = chunk.offset.checked_add(chunk.stored_bytes);
            let segment = self.segments.get(chunk.segment);
            if segment.zip(end).is_none_or(|(segment, end)| end > segment.bytes) {
                return Err(Error::corrupt(format!("chunk {} lies in no segment", chunk.hash)));
            }
        }
        let mut named = BTreeMap::new();
        for partition in &self.partitions {
            self.check_partition(partition, &mut named)
                .map_err(|e| e.at(format_args!("partition {}", partition.id)))?;
        }
        match self.chunks.iter().find(|chunk| !named.contains_key(&chunk.hash)) {
            Some(chunk) => {
                Err(Error::corrupt(format!("chunk {} belongs to no partition", chunk.hash)))
            }
            None => Ok(()),
        }
    }

    fn check_partition(
        &self,
        partition: &PartitionPart,
        named: &mut BTreeMap<ChunkHash, PartitionId>,
    ) -> Result<()> {
        let (mut rows, mut bytes) = (0u64, 0u64);
        let mut before: Option<&Located> = None;
        for hash in &partition.chunks {
            let chunk = self
                .chunk(*hash)
                .ok_or_else(|| Error::corrupt(format!("chunk {hash} is not in its table")))?;
            if named.insert(*hash, partition.id).is_some() {
                return Err(Error::corrupt(format!("chunk {hash} is named a second time")));
            }
            if before.is_some_and(|before| before.first >= chunk.first) {
                return Err(Error::corrupt(format!(
                    "chunk {hash} begins before the one before it"
                )));
            }
            // Each is bounded and counted once, so the sums stay far from overflowing.
            rows += chunk.rows;
            bytes += chunk.bytes;
            before = Some(chunk);
        }
        let actual = (rows, bytes, chunk::digest(&partition.chunks, rows));
        if actual != (partition.rows, partition.bytes, partition.digest) {
            return Err(Error::corrupt("its rows, bytes or digest are not those of its chunks"));
        }
        Ok(())
    }
}

/// Names lead nowhere else.
pub fn is_name(name: &str) -> bool {
    let word = |word: &str| {
        !word.is_empty()
            && !word.starts_with('.')
            && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b))
    };
    name.len() <= limits::REPOSITORY_NAME_BYTES_MAX && name.split('/').all(word)
}

mod hex {
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        use std::fmt::Write as _;
        let mut text = String::with_capacity(2 * bytes.len());
        for byte in bytes {
            write!(text, "{byte:02x}").expect("a String takes all");
        }
        serializer.serialize_str(&text)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digit = |byte: u8| (byte as char).to_digit(16).map(|digit| digit as u8);
        let pair = |pair: &[u8]| match pair {
            [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
            _ => None,
        };
        let bytes: Option<Vec<u8>> = text.as_bytes().chunks(2).map(pair).collect();
        bytes.ok_or_else(|| de::Error::custom(format!("{text:?} is no hex")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::part::sample;

    /// An index of one partition whose chunks lie in one segment.
    pub fn index(seed: u64) -> Index {
        let rows = sample::Sample { rows: 200, seed, ..sample::Sample::new(1) }.rows_of(3);
        let chunks = sample::chunks_of(&rows);
        let (mut located, mut offset) = (Vec::new(), 0);
        for (number, chunk) in chunks.iter().enumerate() {
            let ChunkEntry { hash, rows, bytes, stored_bytes, stored_digest } =
                sample::entry(chunk);
            let first = vec![0, 3, number as u8];
            let segment = 0;
            located.push(Located {
                hash,
                rows,
                bytes,
                stored_bytes,
                stored_digest,
                segment,
                offset,
                first,
            });
            offset += stored_bytes;
        }
        located.sort_by_key(|chunk| chunk.hash);
        let names: Vec<ChunkHash> = chunks.iter().map(|chunk| chunk.hash).collect();
        let rows = chunks.iter().map(|chunk| chunk.rows).sum();
        let partition = PartitionPart {
            id: PartitionId(3),
            data_index: 9,
            rows,
            bytes: chunks.iter().map(|chunk| chunk.bytes).sum(),
            digest: chunk::digest(&names, rows),
            chunks: names,
        };
        let segments = vec![Segment { name: "g/1".into(), bytes: offset }];
        Index { segments, partitions: vec![partition], chunks: located }
    }

    fn place(frame: &[u8], digest: Digest) -> Place {
        Place { object: "i/1".into(), offset: 0, bytes: frame.len() as u64, digest }
    }

    #[test]
    fn an_index_comes_back_as_it_was_and_in_no_other_way() {
        let index = index(1);
        assert!(index.chunks.len() > 5);
        let (frame, digest) = index.encode().unwrap();
        assert_eq!(Index::decode(&frame, &place(&frame, digest)), Ok(index));
        for at in 0..frame.len() {
            let mut flipped = frame.clone();
            flipped[at] ^= 1;
            assert!(Index::decode(&flipped, &place(&flipped, digest)).is_err());
            assert!(Index::decode(&frame[..at], &place(&frame, digest)).is_err());
        }
    }

    #[test]
    fn an_index_that_does_not_agree_with_itself_is_refused() {
        let told = |change: &dyn Fn(&mut Index)| {
            let mut index = index(1);
            change(&mut index);
            let (frame, digest) = index.encode().unwrap();
            Index::decode(&frame, &place(&frame, digest)).unwrap_err().message
        };
        type Lie<'a> = (&'a dyn Fn(&mut Index), &'a str);
        let lies: [Lie<'_>; 9] = [
            (&|i| i.segments[0].name = "../g".into(), "is the name of no segment"),
            (&|i| i.segments[0].name.clear(), "is the name of no segment"),
            (&|i| i.chunks.swap(0, 1), "not sorted"),
            (&|i| i.chunks[0].offset += 1 << 20, "lies in no segment"),
            (&|i| i.chunks[0].segment = 1, "lies in no segment"),
            (&|i| i.chunks[0].offset = u64::MAX, "lies in no segment"),
            (&|i| i.partitions[0].chunks.truncate(3), "are not those of its chunks"),
            (&|i| i.partitions[0].rows += 1, "are not those of its chunks"),
            (&|i| i.chunks.iter_mut().for_each(|c| c.first = vec![1]), "begins before"),
        ];
        for (lie, says) in lies {
            let message = told(lie);
            assert!(message.contains(says), "{message}");
        }
    }
}
