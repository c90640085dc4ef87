//! A part as a tar, written and read.
//!
//! The tar is `manifest.json`, then `chunks/<hash>` sorted by hash, then two empty blocks: regular
//! files only, mode 0644, user, group and time 0, and nothing that depends on the machine. So its
//! bytes follow from the manifest and the chunks: its size is known before the first byte, it is
//! the same every time, and a download goes on at any offset. `tar x` makes of it what `directory`
//! opens.
//!
//! `PartReader` streams it from a shelf. The digest is of the whole tar also when the stream began
//! at an offset: what is skipped is read and hashed.
//!
//! `PartTar` reads one that came back, without ever unpacking it. Since the manifest says what must
//! stand where, every header is compared with the one that was written; one that differs is then
//! looked at closely, only to say what it is. Whatever is not expected is a problem, and reading
//! goes on behind it where that is possible. Nothing of a tar's own claims is believed: sizes are
//! bounded by the manifest and by the file. Tars made by other programs, and pipes, are not read;
//! extract them.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Read as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use bytes::Bytes;

use super::{
    chunk::{ChunkHash, Digest},
    manifest::{ChunkEntry, Manifest},
    shelf::PartHold,
};
use crate::base::{
    error::{Context as _, Error, Result},
    limits,
};

/// What a part's tar consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    entries: Vec<Entry>,
    total_bytes: u64,
}

/// A file of the tar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    item: Item,
    bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Item {
    Manifest,
    Chunk(ChunkHash),
}

/// Streams a part's tar.
#[derive(Debug)]
pub struct PartReader {
    hold: PartHold,
    plan: Plan,
    offset: u64,
    /// How far the tar is read and hashed.
    position: u64,
    hasher: blake3::Hasher,
    /// The next segment: three an entry (header, content, padding), then the end.
    next: usize,
    segment: Segment,
}

#[derive(Debug)]
enum Segment {
    Memory(Bytes),
    Chunk { file: File, path: PathBuf, entry: ChunkEntry, left: u64, hasher: Box<blake3::Hasher> },
}

/// Reads a part's tar whose manifest is known.
#[derive(Debug)]
pub struct PartTar {
    file: File,
    file_bytes: u64,
    at: u64,
    plan: Plan,
    next: usize,
    ready: VecDeque<Step>,
    ended: bool,
}

/// What a tar has next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A chunk's stored bytes, unchecked but for their number, and where in the tar they begin.
    Chunk { hash: ChunkHash, offset: u64, data: Vec<u8> },
    /// Something is wrong there.
    Problem { offset: u64, chunk: Option<ChunkHash>, what: String },
}

const BLOCK: u64 = 512;
const END_BYTES: u64 = 2 * BLOCK;
const MANIFEST: &str = "manifest.json";

impl Plan {
    /// The plan for a manifest whose text has so many bytes.
    pub fn of(manifest: &Manifest, manifest_bytes: u64) -> Plan {
        let chunks = manifest
            .chunks
            .iter()
            .map(|c| Entry { item: Item::Chunk(c.hash), bytes: c.stored_bytes });
        let entries: Vec<Entry> =
            std::iter::once(Entry { item: Item::Manifest, bytes: manifest_bytes })
                .chain(chunks)
                .collect();
        let total_bytes =
            entries.iter().map(|e| BLOCK + e.bytes + padding(e.bytes)).sum::<u64>() + END_BYTES;
        Plan { entries, total_bytes }
    }

    /// Bytes of the whole tar.
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// Where the contents of the chunks begin, in the order of the manifest's table.
    pub fn chunk_offsets(&self) -> Vec<u64> {
        let (mut at, mut offsets) = (0, Vec::new());
        for entry in &self.entries {
            if entry.item.chunk().is_some() {
                offsets.push(at + BLOCK);
            }
            at += BLOCK + entry.bytes + padding(entry.bytes);
        }
        offsets
    }
}

/// Writes the tar of a part whose manifest has this text. `chunk` gives the stored bytes of each
/// chunk, in the order of the manifest's table.
pub fn write(
    out: &mut impl io::Write,
    manifest: &Manifest,
    text: &[u8],
    mut chunks: impl FnMut(&mut dyn FnMut(Vec<u8>) -> Result<()>) -> Result<()>,
) -> Result<()> {
    let plan = Plan::of(manifest, text.len() as u64);
    let mut entries = plan.entries.iter();
    let mut put = |content: &[u8]| {
        let entry = entries.next().ok_or_else(|| Error::corrupt("a part has too many chunks"))?;
        out.write_all(header(entry).as_bytes())
            .and_then(|()| out.write_all(content))
            .and_then(|()| out.write_all(&vec![0; padding(entry.bytes) as usize]))
            .at("writing the tar")
    };
    put(text)?;
    chunks(&mut |content| put(&content))?;
    out.write_all(&[0; END_BYTES as usize]).at("writing the tar")
}

impl PartReader {
    /// Begins at an offset; `Invalid` if the tar is shorter.
    pub fn open(hold: PartHold, offset: u64) -> Result<PartReader> {
        let plan = Plan::of(hold.manifest(), hold.text().len() as u64);
        if offset > plan.total_bytes {
            return Err(Error::invalid(format!(
                "offset {offset} lies behind the end of the part, which has {} bytes",
                plan.total_bytes
            )));
        }
        let segment = Segment::Memory(Bytes::new());
        Ok(PartReader {
            hold,
            plan,
            offset,
            position: 0,
            hasher: blake3::Hasher::new(),
            next: 0,
            segment,
        })
    }

    pub fn total_bytes(&self) -> u64 {
        self.plan.total_bytes
    }

    /// Hashes some of what lies before the offset; true while more is left. `next` does all that is
    /// left at once: who wants to be interrupted calls this first.
    pub fn catch_up(&mut self, bytes_max: usize) -> Result<bool> {
        let left = self.offset.saturating_sub(self.position);
        if left > 0 {
            self.produce(bytes_max.min(usize::try_from(left).unwrap_or(usize::MAX)))?;
        }
        Ok(self.position < self.offset)
    }

    /// The next piece, of at most so many bytes; `None` at the end. `Corrupt`, naming the file, if
    /// a chunk is not what was written.
    pub fn next(&mut self, bytes_max: usize) -> Result<Option<Bytes>> {
        while self.catch_up(limits::DOWNLOAD_PIECE_BYTES)? {}
        self.produce(bytes_max)
    }

    /// Blake3 of the whole tar, once all of it was read.
    pub fn digest(&self) -> Option<Digest> {
        (self.position == self.plan.total_bytes).then(|| Digest(self.hasher.finalize().into()))
    }

    fn produce(&mut self, bytes_max: usize) -> Result<Option<Bytes>> {
        while self.segment.is_empty() {
            match self.segment_at(self.next)? {
                Some(segment) => self.segment = segment,
                None => return Ok(None),
            }
            self.next += 1;
        }
        let piece = self.segment.take(bytes_max.max(1))?;
        self.hasher.update(&piece);
        self.position += piece.len() as u64;
        Ok(Some(piece))
    }

    fn segment_at(&self, i: usize) -> Result<Option<Segment>> {
        let Some(entry) = self.plan.entries.get(i / 3) else {
            let end = i == 3 * self.plan.entries.len();
            return Ok(end.then(|| Segment::Memory(vec![0; END_BYTES as usize].into())));
        };
        let segment = match (i % 3, entry.item) {
            (0, _) => Segment::Memory(header(entry).as_bytes().to_vec().into()),
            (1, Item::Manifest) => Segment::Memory(self.hold.text().to_vec().into()),
            (1, Item::Chunk(hash)) => {
                let entry = *self.hold.manifest().entry(hash).expect("the plan is the manifest's");
                let (file, path) = self.hold.open(&entry)?;
                Segment::Chunk {
                    file,
                    path,
                    entry,
                    left: entry.stored_bytes,
                    hasher: Box::default(),
                }
            }
            _ => Segment::Memory(vec![0; padding(entry.bytes) as usize].into()),
        };
        Ok(Some(segment))
    }
}

impl Segment {
    fn is_empty(&self) -> bool {
        match self {
            Segment::Memory(bytes) => bytes.is_empty(),
            Segment::Chunk { left, .. } => *left == 0,
        }
    }

    /// A chunk's last piece is not given out unless all of the chunk is what was written.
    fn take(&mut self, bytes_max: usize) -> Result<Bytes> {
        match self {
            Segment::Memory(bytes) => Ok(bytes.split_to(bytes_max.min(bytes.len()))),
            Segment::Chunk { file, path, entry, left, hasher } => {
                let mut piece =
                    vec![0; usize::try_from(*left).unwrap_or(usize::MAX).min(bytes_max)];
                file.read_exact(&mut piece).at(path.display())?;
                hasher.update(&piece);
                *left -= piece.len() as u64;
                if *left == 0 && Digest(hasher.finalize().into()) != entry.stored_digest {
                    return Err(Error::corrupt(format!(
                        "{}: the bytes of this chunk are not those that were written",
                        path.display()
                    )));
                }
                Ok(piece.into())
            }
        }
    }
}

impl PartTar {
    /// Opens a tar and reads its first entry, which must be the manifest. Returns the manifest's
    /// text; `read` takes the manifest that it parses to.
    pub fn open(path: &Path) -> Result<(File, Vec<u8>)> {
        let file = File::open(path).at(path.display())?;
        let read = || {
            let mut block = [0; BLOCK as usize];
            whole(file.read_exact_at(&mut block, 0), "it is too short for a part")?;
            let looked = Looked::at(&block).ok_or_else(|| Error::corrupt("it is not a tar"))?;
            if looked.name != MANIFEST.as_bytes()
                || !looked.regular
                || looked.bytes > limits::MANIFEST_BYTES_MAX as u64
            {
                return Err(Error::corrupt(format!(
                    "it does not begin with {MANIFEST} but with {looked}"
                )));
            }
            // Bounded by the file, since a vector of the claimed size would be taken before a byte
            // was read.
            let mut text = vec![0; looked.bytes.min(file.metadata().at("size")?.len()) as usize];
            whole(file.read_exact_at(&mut text, BLOCK), "it ends within its manifest")?;
            Ok(text)
        };
        let text = read().map_err(|e| e.at(path.display()))?;
        Ok((file, text))
    }

    /// Reads the entries of a tar that `open` opened, from the first on.
    pub fn read(file: File, manifest: &Manifest, manifest_bytes: u64) -> Result<PartTar> {
        let file_bytes = file.metadata().at("size of the tar")?.len();
        let plan = Plan::of(manifest, manifest_bytes);
        Ok(PartTar { file, file_bytes, at: 0, plan, next: 0, ready: VecDeque::new(), ended: false })
    }

    /// The next chunk or problem; `None` once the whole file was looked at. Every chunk that is not
    /// returned was a problem.
    pub fn step(&mut self) -> Result<Option<Step>> {
        while self.ready.is_empty() && !self.ended {
            match self.plan.entries.get(self.next) {
                Some(entry) => self.read_entry(*entry)?,
                None => self.read_end()?,
            }
        }
        Ok(self.ready.pop_front())
    }

    fn read_entry(&mut self, expected: Entry) -> Result<()> {
        let Some(block) = self.block()? else {
            self.end_early("it ends");
            return Ok(());
        };
        if block == *header(&expected).as_bytes() {
            return self.read_content(expected);
        }
        if block == [0; BLOCK as usize] {
            self.end_early("an empty block stands");
            return Ok(());
        }
        let name = expected.item.name();
        let Some(looked) = Looked::at(&block) else {
            self.problem(
                self.at,
                expected.item.chunk(),
                format!("the header of {name} is damaged"),
            );
            return self.read_content(expected);
        };
        if looked.name == name.as_bytes() && looked.regular && looked.bytes == expected.bytes {
            self.problem(
                self.at,
                expected.item.chunk(),
                format!("the header of {name} is not as it was written"),
            );
            return self.read_content(expected);
        }
        if looked.regular && looked.name == name.as_bytes() {
            self.problem(
                self.at,
                expected.item.chunk(),
                format!("{name} has {} bytes, not {}", looked.bytes, expected.bytes),
            );
            self.next += 1;
        } else if let Some(i) = self.position_of(&looked) {
            self.problem(
                self.at,
                expected.item.chunk(),
                format!("{name} is missing here, the first of {} that are", i - self.next),
            );
            self.next = i;
            return Ok(());
        } else {
            self.problem(self.at, None, format!("{looked} does not belong to the part"));
        }
        self.skip(&looked);
        Ok(())
    }

    /// Reads what follows a header, wherever the header was right.
    fn read_content(&mut self, expected: Entry) -> Result<()> {
        let offset = self.at + BLOCK;
        let end = offset + expected.bytes + padding(expected.bytes);
        if end > self.file_bytes {
            self.problem(
                offset,
                expected.item.chunk(),
                format!("it ends within {}", expected.item.name()),
            );
            self.next += 1;
            self.at = self.file_bytes;
            return Ok(());
        }
        if let Item::Chunk(hash) = expected.item {
            let data = self.bytes_at(offset, expected.bytes)?;
            self.ready.push_back(Step::Chunk { hash, offset, data });
        }
        if self
            .bytes_at(offset + expected.bytes, padding(expected.bytes))?
            .iter()
            .any(|byte| *byte != 0)
        {
            self.problem(
                offset + expected.bytes,
                expected.item.chunk(),
                format!("what fills the block behind {} is not empty", expected.item.name()),
            );
        }
        self.at = end;
        self.next += 1;
        Ok(())
    }

    fn read_end(&mut self) -> Result<()> {
        let Some(block) = self.block()? else {
            self.problem(self.file_bytes, None, "it lacks the two empty blocks at its end".into());
            self.ended = true;
            return Ok(());
        };
        if let Some(looked) = Looked::at(&block) {
            self.problem(self.at, None, format!("{looked} does not belong to the part"));
            self.skip(&looked);
            return Ok(());
        }
        self.ended = true;
        let left = self.file_bytes - self.at;
        if left < END_BYTES {
            self.problem(self.file_bytes, None, "it lacks the two empty blocks at its end".into());
        } else if left > END_BYTES {
            self.problem(
                self.at + END_BYTES,
                None,
                format!("{} bytes stand behind its end", left - END_BYTES),
            );
        }
        if self.bytes_at(self.at, left.min(END_BYTES))?.iter().any(|byte| *byte != 0) {
            self.problem(self.at, None, "the two blocks at its end are not empty".into());
        }
        Ok(())
    }

    fn end_early(&mut self, how: &str) {
        let first = self.plan.entries[self.next].item;
        let missing = self.plan.entries.len() - self.next;
        self.problem(
            self.at,
            first.chunk(),
            format!("{how} where {} should stand; {missing} files are missing", first.name()),
        );
        self.ended = true;
    }

    /// Goes behind an entry of which nothing is wanted. One that claims more than the file has is
    /// taken for a header without content.
    fn skip(&mut self, looked: &Looked) {
        let end = looked
            .bytes
            .checked_add(padding(looked.bytes))
            .and_then(|bytes| bytes.checked_add(self.at + BLOCK));
        match end.filter(|end| *end <= self.file_bytes) {
            Some(end) => self.at = end,
            None => {
                self.problem(
                    self.at,
                    None,
                    format!("{looked} is said to have more bytes than the file"),
                );
                self.at += BLOCK;
            }
        }
    }

    /// Where a file that comes too early should have stood.
    fn position_of(&self, looked: &Looked) -> Option<usize> {
        let hash: ChunkHash =
            std::str::from_utf8(looked.name.strip_prefix(b"chunks/")?).ok()?.parse().ok()?;
        let ahead = &self.plan.entries[self.next + 1..];
        // Behind the manifest, entries are sorted by hash.
        let ahead_of_manifest = ahead.binary_search_by_key(&Some(hash), |e| e.item.chunk()).ok()?;
        looked.regular.then_some(self.next + 1 + ahead_of_manifest)
    }

    /// The block at hand, if there is a whole one.
    fn block(&self) -> Result<Option<[u8; BLOCK as usize]>> {
        if self.at + BLOCK > self.file_bytes {
            return Ok(None);
        }
        let mut block = [0; BLOCK as usize];
        self.file.read_exact_at(&mut block, self.at).at(format_args!("byte {}", self.at))?;
        Ok(Some(block))
    }

    fn bytes_at(&self, offset: u64, bytes: u64) -> Result<Vec<u8>> {
        let mut data = vec![0; bytes as usize];
        self.file.read_exact_at(&mut data, offset).at(format_args!("byte {offset}"))?;
        Ok(data)
    }

    fn problem(&mut self, offset: u64, chunk: Option<ChunkHash>, what: String) {
        self.ready.push_back(Step::Problem { offset, chunk, what });
    }
}

impl Item {
    fn name(self) -> String {
        match self {
            Item::Manifest => MANIFEST.into(),
            Item::Chunk(hash) => format!("chunks/{hash}"),
        }
    }

    fn chunk(self) -> Option<ChunkHash> {
        match self {
            Item::Manifest => None,
            Item::Chunk(hash) => Some(hash),
        }
    }
}

/// A header whose checksum is right, as far as it is looked at.
#[derive(Debug)]
struct Looked {
    name: Vec<u8>,
    kind: tar::EntryType,
    regular: bool,
    bytes: u64,
}

impl Looked {
    fn at(block: &[u8; BLOCK as usize]) -> Option<Looked> {
        let header = tar::Header::from_byte_slice(block);
        let sum: u32 = block
            .iter()
            .enumerate()
            .map(|(i, byte)| if (148..156).contains(&i) { 32 } else { u32::from(*byte) })
            .sum();
        if header.cksum().ok()? != sum || *block == [0; BLOCK as usize] {
            return None;
        }
        let kind = header.entry_type();
        // `entry_size` is what the header says, whatever extensions before it may have said: those
        // are entries of their own here, and do not belong to a part.
        Some(Looked {
            name: header.path_bytes().into_owned(),
            kind,
            regular: kind.is_file(),
            bytes: header.entry_size().unwrap_or(u64::MAX),
        })
    }
}

impl std::fmt::Display for Looked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match self.kind {
            tar::EntryType::Regular => "file",
            tar::EntryType::Link => "hard link",
            tar::EntryType::Symlink => "symbolic link",
            tar::EntryType::Directory => "directory",
            _ => "entry of another kind",
        };
        write!(f, "the {kind} \"{}\"", self.name.escape_ascii())
    }
}

fn header(entry: &Entry) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_path(entry.item.name()).expect("a short path of plain letters fits a header");
    header.set_size(entry.bytes);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    header
}

/// What fills the last block of a content.
fn padding(bytes: u64) -> u64 {
    bytes.wrapping_neg() % BLOCK
}

fn whole(read: io::Result<()>, otherwise: &str) -> Result<()> {
    match read {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Err(Error::corrupt(otherwise)),
        read => read.at("it cannot be read"),
    }
}

#[cfg(test)]
mod tests;
