//! What a part consists of, as a text that a person can read at night with a pager: which snapshot,
//! which node, which groups at which marks, which partitions in which chunks.
//!
//! It is JSON with one line a partition and one line a chunk. The first line begins with the
//! format's number, so that a program knows what it cannot read before it reads it. The last line
//! is the blake3 of all bytes before that line. Node ids and the lineage are texts, since many
//! tools round large numbers.
//!
//! Format 2 adds `dots` to each group: the counter of the newest dot that the group had minted at
//! its mark, from which the restored group goes on. Format 3 calls the snapshot's number `seq`,
//! which was `x` before. Format 4 is that of a sealed part, and format 3 with one line more, the
//! seal: names of chunks, and with them the digests of partitions, are those of the seal. A part
//! that is not sealed has format 3.
//!
//! Whoever holds a `Manifest` that `parse` returned holds one that agrees with itself:
//! - groups, partitions, members and chunks are sorted, without duplicates;
//! - a group has exactly the partitions that the topology gives it;
//! - every chunk is named by exactly one partition or by the meta group, and is in the table; rows,
//!   bytes and digests agree with the table.
//!
//! That the chunks hold what the manifest says is not known here; see `verify`. There may be fewer
//! groups than the node had, and no meta group: a replica that did not reach its mark is not in the
//! part.

pub mod nodes;

use std::{collections::BTreeMap, fmt::Write as _};

use serde::{Deserialize, Serialize};

use self::nodes::{node_text, node_texts};
use super::{
    chunk::{self, ChunkHash, Digest, Rows},
    seal::{Keys, Seal},
};
use crate::base::{
    error::{Error, Kind, Result},
    ids::{ClusterId, GroupId, Lineage, NodeId, PartitionId, SnapshotId, SnapshotSeq, Topology},
    limits,
};

/// One node's part of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The format that it is written in; for a new one as `format_of` has it.
    pub format: u32,
    /// The version of the program that wrote it.
    pub product: String,
    pub cluster: ClusterId,
    pub lineage: Lineage,
    pub snapshot: SnapshotId,
    pub seq: SnapshotSeq,
    pub node: NodeId,
    /// Where the node was reached, for people.
    pub address: String,
    /// When it was written, milliseconds since 1970, for people.
    pub written_ms: u64,
    pub topology: Topology,
    /// None where the part is not sealed.
    pub seal: Option<Seal>,
    pub meta: Option<MetaPart>,
    pub groups: Vec<GroupPart>,
    /// Every chunk that is named above, by hash.
    pub chunks: Vec<ChunkEntry>,
}

/// The meta group's state at its mark.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetaPart {
    pub mark_index: u64,
    pub mark_term: u64,
    #[serde(with = "node_texts")]
    pub voters: Vec<NodeId>,
    #[serde(with = "node_texts")]
    pub learners: Vec<NodeId>,
    pub rows: u64,
    pub bytes: u64,
    pub digest: Digest,
    pub chunks: Vec<ChunkHash>,
}

/// A group's state at its mark.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupPart {
    pub group: GroupId,
    pub mark_index: u64,
    pub mark_term: u64,
    /// The counter of its newest dot at the mark; 0 in format 1, which does not say it.
    #[serde(default)]
    pub dots: u64,
    #[serde(with = "node_texts")]
    pub voters: Vec<NodeId>,
    #[serde(with = "node_texts")]
    pub learners: Vec<NodeId>,
    pub partitions: Vec<PartitionPart>,
}

/// A partition's rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartitionPart {
    pub id: PartitionId,
    /// Log index of the last entry that changed it; 0 if none did.
    pub data_index: u64,
    pub rows: u64,
    /// Plain bytes of its chunks.
    pub bytes: u64,
    /// As `chunk::digest` makes it.
    pub digest: Digest,
    /// In key order.
    pub chunks: Vec<ChunkHash>,
}

/// A chunk as it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChunkEntry {
    pub hash: ChunkHash,
    pub rows: u64,
    /// Plain bytes.
    pub bytes: u64,
    /// Bytes of its file: of the zstd frame, sealed where the part is.
    pub stored_bytes: u64,
    /// Blake3 of its file: some bits of a frame can change without a change of its content.
    pub stored_digest: Digest,
}

/// Who names a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    Meta,
    Partition(PartitionId),
}

/// The format of a part that is not sealed; all older ones can be read.
pub const FORMAT: u32 = 3;
/// The format of a sealed part, and the newest.
pub const SEALED: u32 = 4;
/// The first format that says how many dots a group had minted.
const WITH_DOTS: u32 = 2;
/// The first format that calls the snapshot's number `seq`; it was `x` before.
const WITH_SEQ: u32 = 3;
/// 9999-12-31T23:59:59.999Z, the last instant that RFC 3339 can write.
pub const WRITTEN_MS_MAX: u64 = 253_402_300_799_999;

/// The format in which a new part is written.
pub fn format_of(seal: Option<&Seal>) -> u32 {
    if seal.is_some() { SEALED } else { FORMAT }
}

impl Manifest {
    /// The text, and the digest that stands in its last line. `Corrupt` if the manifest does not
    /// agree with itself.
    pub fn encode(&self) -> Result<(Vec<u8>, Digest)> {
        self.check()?;
        let mut text = self.body().into_bytes();
        let digest = Digest(blake3::hash(&text).into());
        text.extend(last_line(&digest).into_bytes());
        if text.len() > limits::MANIFEST_BYTES_MAX {
            return Err(Error::exhausted(format!(
                "the manifest has {} bytes, more than the {} that can be read back",
                text.len(),
                limits::MANIFEST_BYTES_MAX
            )));
        }
        Ok((text, digest))
    }

    /// `Conflict` if it was written by a newer version, `Corrupt` if it is not what was written.
    pub fn parse(text: &[u8]) -> Result<(Manifest, Digest)> {
        Manifest::parse_text(text).map_err(|e| e.at("manifest"))
    }

    fn parse_text(text: &[u8]) -> Result<(Manifest, Digest)> {
        if text.len() > limits::MANIFEST_BYTES_MAX {
            return Err(Error::corrupt(format!(
                "it has {} bytes, more than {}",
                text.len(),
                limits::MANIFEST_BYTES_MAX
            )));
        }
        check_format(text)?;
        let digest = check_digest(text)?;
        let raw: Text = serde_json::from_slice(text).map_err(|e| {
            Error::corrupt(format!("it is not what this program writes: {e}")).with_source(e)
        })?;
        let manifest = raw.into_manifest()?;
        manifest.check()?;
        // One manifest has one text, and so one digest.
        if text.strip_prefix(manifest.body().as_bytes()) != Some(last_line(&digest).as_bytes()) {
            return Err(Error::corrupt("it is not laid out as this program writes it"));
        }
        Ok((manifest, digest))
    }

    pub fn rows(&self) -> u64 {
        self.chunks.iter().map(|c| c.rows).sum()
    }

    /// Plain bytes.
    pub fn bytes(&self) -> u64 {
        self.chunks.iter().map(|c| c.bytes).sum()
    }

    pub fn stored_bytes(&self) -> u64 {
        self.chunks.iter().map(|c| c.stored_bytes).sum()
    }

    pub fn group_ids(&self) -> impl Iterator<Item = GroupId> {
        self.groups.iter().map(|g| g.group)
    }

    pub fn group(&self, group: GroupId) -> Option<&GroupPart> {
        self.groups.binary_search_by_key(&group, |g| g.group).ok().map(|i| &self.groups[i])
    }

    pub fn partitions(&self) -> impl Iterator<Item = (&GroupPart, &PartitionPart)> {
        self.groups.iter().flat_map(|g| g.partitions.iter().map(move |p| (g, p)))
    }

    pub fn partition(&self, partition: PartitionId) -> Option<&PartitionPart> {
        let group = self.group(self.topology.group_of(partition))?;
        group.partitions.iter().find(|p| p.id == partition)
    }

    pub fn entry(&self, hash: ChunkHash) -> Option<&ChunkEntry> {
        self.position(hash).map(|i| &self.chunks[i])
    }

    /// Where a chunk stands in the table.
    pub fn position(&self, hash: ChunkHash) -> Option<usize> {
        self.chunks.binary_search_by_key(&hash, |c| c.hash).ok()
    }

    /// The lists of chunks, with who names them.
    pub fn lists(&self) -> impl Iterator<Item = (Owner, &[ChunkHash])> {
        let meta = self.meta.iter().map(|m| (Owner::Meta, m.chunks.as_slice()));
        meta.chain(self.partitions().map(|(_, p)| (Owner::Partition(p.id), p.chunks.as_slice())))
    }

    /// Gives each chunk another name, and the manifest the seal that these names are of. `names`
    /// are in the order of the table, which is sorted anew.
    pub(super) fn rename(&mut self, names: &[ChunkHash], seal: Option<Seal>) {
        let renamed: BTreeMap<ChunkHash, ChunkHash> =
            self.chunks.iter().map(|chunk| chunk.hash).zip(names.iter().copied()).collect();
        let list = |chunks: &mut Vec<ChunkHash>, rows: u64| {
            chunks.iter_mut().for_each(|hash| *hash = renamed[hash]);
            chunk::digest(chunks.iter(), rows)
        };
        if let Some(meta) = &mut self.meta {
            meta.digest = list(&mut meta.chunks, meta.rows);
        }
        for partition in self.groups.iter_mut().flat_map(|group| &mut group.partitions) {
            partition.digest = list(&mut partition.chunks, partition.rows);
        }
        self.chunks.iter_mut().for_each(|chunk| chunk.hash = renamed[&chunk.hash]);
        self.chunks.sort_by_key(|chunk| chunk.hash);
        if seal != self.seal {
            self.format = format_of(seal.as_ref());
            self.seal = seal;
        }
    }

    /// When it was written, as RFC 3339 in UTC.
    pub fn written(&self) -> String {
        rfc3339(self.written_ms)
    }

    fn body(&self) -> String {
        let mut text = String::new();
        let put = |text: &mut String, line: std::fmt::Arguments<'_>| {
            text.write_fmt(line).expect("a String takes all")
        };
        put(
            &mut text,
            format_args!("{{\"format\":{},\"product\":{},\n", self.format, json(&self.product)),
        );
        put(
            &mut text,
            format_args!("\"cluster\":\"{}\",\"lineage\":\"{}\",\n", self.cluster, self.lineage),
        );
        let seq = if self.format < WITH_SEQ { "x" } else { "seq" };
        put(
            &mut text,
            format_args!("\"snapshot\":\"{}\",\"{seq}\":{},\n", self.snapshot, self.seq),
        );
        put(
            &mut text,
            format_args!("\"node\":\"{}\",\"address\":{},\n", self.node, json(&self.address)),
        );
        put(
            &mut text,
            format_args!(
                "\"written\":\"{}\",\"written_ms\":{},\n",
                self.written(),
                self.written_ms
            ),
        );
        put(
            &mut text,
            format_args!(
                "\"partitions\":{},\"groups\":{},\n",
                self.topology.partitions(),
                self.topology.groups()
            ),
        );
        if let Some(seal) = &self.seal {
            put(&mut text, format_args!("\"seal\":{},\n", json(seal)));
        }
        put(&mut text, format_args!("\"meta\":{},\n\"parts\":[\n", json(&self.meta)));
        for (i, g) in self.groups.iter().enumerate() {
            let (voters, learners) =
                (json(&node_texts::of(&g.voters)), json(&node_texts::of(&g.learners)));
            let (group, index, term) = (g.group, g.mark_index, g.mark_term);
            put(
                &mut text,
                format_args!("{{\"group\":{group},\"mark_index\":{index},\"mark_term\":{term},"),
            );
            if self.format >= WITH_DOTS {
                put(&mut text, format_args!("\"dots\":{},", g.dots));
            }
            put(
                &mut text,
                format_args!("\"voters\":{voters},\"learners\":{learners},\"partitions\":[\n"),
            );
            put_lines(&mut text, &g.partitions);
            text.push_str(if i + 1 < self.groups.len() { "]},\n" } else { "]}\n" });
        }
        text.push_str("],\n\"chunks\":[\n");
        put_lines(&mut text, &self.chunks);
        text.push_str("],\n");
        text
    }

    fn check(&self) -> Result<()> {
        let wrong = |what: String| Err(Error::corrupt(what));
        if !(1..=SEALED).contains(&self.format) {
            return wrong(format!("this program does not write format {}", self.format));
        }
        if (self.format == SEALED) != self.seal.is_some() {
            return wrong(format!("a part is sealed in format {SEALED} and in no other"));
        }
        self.seal.as_ref().map_or(Ok(()), Seal::check)?;
        if self.node.0 == 0 || self.seq.0 == 0 {
            return wrong("no node and no snapshot has number 0".into());
        }
        if self.address.len() > limits::ADDRESS_BYTES_MAX
            || self.product.len() > limits::ID_BYTES_MAX
            || (self.address.clone() + &self.product).contains(char::is_control)
        {
            return wrong(
                "the address or the product's version is too long or holds control characters"
                    .into(),
            );
        }
        if self.written_ms > WRITTEN_MS_MAX {
            return wrong(format!("written_ms {} lies behind the year 9999", self.written_ms));
        }
        if !self.groups.is_sorted_by(|a, b| a.group < b.group) {
            return wrong("groups are not sorted, or one stands there twice".into());
        }
        if !self.chunks.is_sorted_by(|a, b| a.hash < b.hash) {
            return wrong("chunks are not sorted, or one stands there twice".into());
        }
        self.chunks.iter().try_for_each(ChunkEntry::check)?;
        let mut used = vec![false; self.chunks.len()];
        if let Some(m) = &self.meta {
            check_mark(m.mark_index, m.mark_term, &m.voters, &m.learners)
                .map_err(|e| e.at("meta group"))?;
            self.check_list(&mut used, &m.chunks, (m.rows, m.bytes, m.digest))
                .map_err(|e| e.at("meta group"))?;
        }
        for g in &self.groups {
            self.check_group(g, &mut used).map_err(|e| e.at(format_args!("group {}", g.group)))?;
        }
        match used.iter().position(|used| !used) {
            Some(i) => wrong(format!("chunk {} belongs to no partition", self.chunks[i].hash)),
            None => Ok(()),
        }
    }

    fn check_group(&self, g: &GroupPart, used: &mut [bool]) -> Result<()> {
        if g.group.0 >= self.topology.groups() {
            return Err(Error::corrupt(format!(
                "there are only {} groups",
                self.topology.groups()
            )));
        }
        check_mark(g.mark_index, g.mark_term, &g.voters, &g.learners)?;
        if self.format < WITH_DOTS && g.dots != 0 {
            return Err(Error::corrupt(format!(
                "format {} does not say how many dots it had minted",
                self.format
            )));
        }
        if !g.partitions.iter().map(|p| p.id.0).eq(self.topology.partitions_of(g.group)) {
            return Err(Error::corrupt(format!(
                "its partitions are not {:?}",
                self.topology.partitions_of(g.group)
            )));
        }
        for p in &g.partitions {
            let place = format_args!("partition {}", p.id);
            if p.data_index > g.mark_index {
                return Err(Error::corrupt(format!(
                    "it changed at {}, behind the mark at {}",
                    p.data_index, g.mark_index
                ))
                .at(place));
            }
            self.check_list(used, &p.chunks, (p.rows, p.bytes, p.digest))
                .map_err(|e| e.at(place))?;
        }
        Ok(())
    }

    /// Whether rows, bytes and digest are those of the chunks.
    fn check_list(
        &self,
        used: &mut [bool],
        chunks: &[ChunkHash],
        claimed: (u64, u64, Digest),
    ) -> Result<()> {
        let (mut rows, mut bytes) = (0u64, 0u64);
        for hash in chunks {
            let i = self.position(*hash).ok_or_else(|| {
                Error::corrupt(format!("chunk {hash} is not in the table of chunks"))
            })?;
            if std::mem::replace(&mut used[i], true) {
                return Err(Error::corrupt(format!("chunk {hash} is named a second time")));
            }
            // Each is bounded and counted once, so the sums stay far from overflowing.
            rows += self.chunks[i].rows;
            bytes += self.chunks[i].bytes;
        }
        let actual = (rows, bytes, chunk::digest(chunks, rows));
        if actual != claimed {
            let (r, b, d) = claimed;
            return Err(Error::corrupt(format!(
                "it says {r} rows, {b} bytes, digest {d}; its chunks say {rows} rows, {bytes} \
                 bytes, digest {}",
                actual.2
            )));
        }
        Ok(())
    }
}

impl ChunkEntry {
    /// Checks a stored chunk against its entry and returns its rows. Of a sealed part it takes the
    /// keys.
    pub fn open(&self, data: &[u8], keys: Option<&Keys>) -> Result<Rows> {
        self.check_stored(data)?;
        let rows = Rows::open(self.hash, data, keys)?;
        if (rows.rows(), rows.bytes()) != (self.rows, self.bytes) {
            let what = format!(
                "chunk {} has {} rows in {} bytes, not {} in {}",
                self.hash,
                rows.rows(),
                rows.bytes(),
                self.rows,
                self.bytes
            );
            return Err(Error::corrupt(what));
        }
        Ok(rows)
    }

    /// Checks the bytes of a stored chunk without decompressing them.
    pub fn check_stored(&self, data: &[u8]) -> Result<()> {
        if data.len() as u64 != self.stored_bytes {
            return Err(Error::corrupt(format!(
                "chunk {} has {} stored bytes, not {}",
                self.hash,
                data.len(),
                self.stored_bytes
            )));
        }
        if Digest(blake3::hash(data).into()) != self.stored_digest {
            return Err(Error::corrupt(format!(
                "the stored bytes of chunk {} are not those that were written",
                self.hash
            )));
        }
        Ok(())
    }

    pub fn check(&self) -> Result<()> {
        let bytes = 1..=limits::CHUNK_BYTES_READ_MAX as u64;
        if self.rows == 0
            || self.rows > self.bytes
            || !bytes.contains(&self.bytes)
            || self.stored_bytes == 0
            || self.stored_bytes > limits::CHUNK_BYTES_STORED_MAX
        {
            return Err(Error::corrupt(format!(
                "chunk {} cannot have {} rows in {} bytes, {} stored",
                self.hash, self.rows, self.bytes, self.stored_bytes
            )));
        }
        Ok(())
    }
}

impl Owner {
    /// Whether rows from `first` to `last` may belong to it: a data row's key begins with its
    /// partition as two bytes, big end first.
    pub fn owns(self, first: &[u8], last: &[u8]) -> bool {
        match self {
            Owner::Meta => true,
            Owner::Partition(id) => u16::try_from(id.0).is_ok_and(|id| {
                first.starts_with(&id.to_be_bytes()) && last.starts_with(&id.to_be_bytes())
            }),
        }
    }
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Owner::Meta => f.write_str("the meta group"),
            Owner::Partition(id) => write!(f, "partition {id}"),
        }
    }
}

/// The manifest as its JSON has it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    format: u32,
    product: String,
    cluster: ClusterId,
    lineage: String,
    snapshot: SnapshotId,
    #[serde(alias = "x")]
    seq: SnapshotSeq,
    #[serde(with = "node_text")]
    node: NodeId,
    address: String,
    written: String,
    written_ms: u64,
    partitions: u32,
    groups: u32,
    #[serde(default)]
    seal: Option<Seal>,
    meta: Option<MetaPart>,
    parts: Vec<GroupPart>,
    chunks: Vec<ChunkEntry>,
    #[serde(rename = "digest")]
    _digest: Digest,
}

impl Text {
    fn into_manifest(self) -> Result<Manifest> {
        if self.written_ms > WRITTEN_MS_MAX || self.written != rfc3339(self.written_ms) {
            return Err(Error::corrupt(format!(
                "written {:?} and written_ms {} are two instants",
                self.written, self.written_ms
            )));
        }
        let topology =
            Topology::new(self.partitions, self.groups).map_err(|e| Error::corrupt(e.message))?;
        Ok(Manifest {
            format: self.format,
            product: self.product,
            cluster: self.cluster,
            lineage: parse_lineage(&self.lineage)?,
            snapshot: self.snapshot,
            seq: self.seq,
            node: self.node,
            address: self.address,
            written_ms: self.written_ms,
            topology,
            seal: self.seal,
            meta: self.meta,
            groups: self.parts,
            chunks: self.chunks,
        })
    }
}

fn parse_lineage(text: &str) -> Result<Lineage> {
    let lineage = u64::from_str_radix(text, 16)
        .map(Lineage)
        .ok()
        .filter(|lineage| lineage.to_string() == text);
    lineage.ok_or_else(|| {
        Error::corrupt(format!("lineage {text:?} is not 16 digits of lower-case hex"))
    })
}

/// Looks at the number alone, since nothing else of a newer format can be relied on.
fn check_format(text: &[u8]) -> Result<()> {
    let digits =
        text.strip_prefix(b"{\"format\":").and_then(|rest| rest.split(|c| *c == b',').next());
    let format =
        digits.and_then(|d| std::str::from_utf8(d).ok()).and_then(|d| d.parse::<u32>().ok());
    match format {
        None | Some(0) => Err(Error::corrupt("it does not begin as the manifest of a part begins")),
        Some(n) if n > SEALED => Err(Error::new(
            Kind::Conflict,
            format!(
                "this part was written by a newer version: format {n}, this program reads up to \
                 {SEALED}; use a newer program"
            ),
        )),
        Some(_) => Ok(()),
    }
}

fn check_digest(text: &[u8]) -> Result<Digest> {
    let length = last_line(&Digest([0; 32])).len();
    let (body, line) =
        text.split_at_checked(text.len().saturating_sub(length)).unwrap_or((text, &[]));
    let digest = Digest(blake3::hash(body).into());
    if line == last_line(&digest).as_bytes() {
        return Ok(digest);
    }
    Err(Error::corrupt(
        "its digest, in its last line, is not that of the lines before: it was changed or cut \
         short after it was written",
    ))
}

fn last_line(digest: &Digest) -> String {
    format!("\"digest\":\"{digest}\"}}\n")
}

pub fn check_mark(index: u64, term: u64, voters: &[NodeId], learners: &[NodeId]) -> Result<()> {
    if index == 0 || term == 0 {
        return Err(Error::corrupt("no mark stands at index or term 0"));
    }
    let sorted =
        |nodes: &[NodeId]| nodes.is_sorted_by(|a, b| a < b) && nodes.first() != Some(&NodeId(0));
    if voters.is_empty()
        || !sorted(voters)
        || !sorted(learners)
        || learners.iter().any(|l| voters.binary_search(l).is_ok())
    {
        return Err(Error::corrupt(
            "its members are not sorted, stand there twice, or lack voters",
        ));
    }
    Ok(())
}

fn put_lines<T: Serialize>(text: &mut String, items: &[T]) {
    for (i, item) in items.iter().enumerate() {
        text.push_str(&json(item));
        text.push_str(if i + 1 < items.len() { ",\n" } else { "\n" });
    }
}

fn json<T: Serialize + ?Sized>(value: &T) -> String {
    serde_json::to_string(value).expect("texts, numbers and lists of them are always JSON")
}

/// The Gregorian calendar, counted in years that begin in March so that the leap day comes last
/// (Hinnant, "chrono-compatible low-level date algorithms").
pub fn rfc3339(ms: u64) -> String {
    let (days, ms) = (ms / 86_400_000, ms % 86_400_000);
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", ms % 1000)
}

#[cfg(test)]
mod tests;
