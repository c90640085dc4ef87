//! Checks one part, a tar or an extracted directory, down to the last byte, and names everything
//! that is wrong. Changes nothing.
//!
//! Checked are: the manifest against its digest and itself; every chunk against its name, the
//! manifest and its partition; the order of rows within and across chunks; that nothing is missing
//! and nothing is there that does not belong. Problems are collected, not thrown, up to a bound;
//! further ones are counted.
//!
//! Chunks of a sealed part are opened with a recipient's identity. Without one they are compared
//! with what was stored, byte for byte, and their rows are not looked at; the report says so.
//!
//! Memory holds the manifest, two keys a chunk, and a few chunks a core, however large the part is.
//! What parts say together is the matter of `set`.

use std::{fmt, path::Path};

use serde::Serialize;

use super::{
    chunk::{ChunkHash, Digest},
    manifest::{ChunkEntry, Manifest, Owner, rfc3339},
};
use crate::{
    base::{
        error::{Error, Result},
        limits,
    },
    part::{
        directory::PartSource,
        parallel,
        seal::{Identities, Recipient},
        source::{Place, Source, TarSource},
        tar::Step,
    },
};

/// A part in which nothing is wrong, or about which at least the manifest can be believed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PartReport {
    pub path: String,
    #[serde(rename = "uuid")]
    pub snapshot: String,
    pub seq: u64,
    #[serde(rename = "cluster_id")]
    pub cluster: String,
    pub lineage: String,
    /// As text, like all nodes in what other tools may read.
    #[serde(rename = "node_id")]
    pub node: String,
    pub address: String,
    /// Since 1970.
    pub written_ms: u64,
    pub product: String,
    pub meta: bool,
    pub groups: usize,
    pub partitions: usize,
    pub rows: u64,
    /// Plain bytes.
    pub bytes: u64,
    pub chunks: usize,
    pub stored_bytes: u64,
    pub manifest_digest: Digest,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seal: Option<SealReport>,
}

/// For whom a part is sealed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SealReport {
    pub recipients: Vec<Recipient>,
    /// Whether its chunks were opened and all rows checked. If not, they were only compared with
    /// what was stored.
    pub opened: bool,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The tar or the directory.
    pub path: String,
    /// Where in the tar.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chunk: Option<ChunkHash>,
    /// Whose rows it concerns: a partition or the meta group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concerns: Option<String>,
    pub what: String,
}

/// Everything that is wrong, up to a bound.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Problems {
    pub list: Vec<Problem>,
    /// How many more there are.
    pub more: u64,
}

/// What is known of a part after looking at it. The manifest stands without its chunks. That of a
/// sealed part which was opened, and in which nothing is wrong, is as it were without a seal.
pub(super) struct Examined {
    pub(super) report: Option<PartReport>,
    pub(super) manifest: Option<Manifest>,
    pub(super) problems: Problems,
}

/// Checks one part. With identities, sealed chunks are opened; one that they do not open is a
/// problem.
pub fn verify_part(path: &Path, identities: Option<&Identities>) -> Result<PartReport, Problems> {
    let examined = examine(path, identities);
    match examined.report {
        Some(report) if examined.problems.is_empty() => Ok(report),
        _ => Err(examined.problems),
    }
}

pub(super) fn examine(path: &Path, identities: Option<&Identities>) -> Examined {
    let mut problems = Problems::default();
    let mut source = match Source::open(path) {
        Ok(source) => source,
        Err(e) => {
            problems.of_part(path, e);
            return Examined { report: None, manifest: None, problems };
        }
    };
    if let Some(Err(e)) = identities.map(|identities| source.unseal(identities)) {
        problems.of_part(path, e);
    }
    let report = PartReport::of(path, &source);
    let plan = Plan::of(&source);
    let mut check = Check {
        path: path.display().to_string(),
        plan: &plan,
        opened: vec![None; plan.manifest.chunks.len()],
        problems: &mut problems,
    };
    match &source.place {
        Place::Tar(tar) => check.tar(tar),
        Place::Directory(directory) => check.directory(directory),
    }
    check.order();
    let names: Vec<_> = check.opened.iter().flatten().map(|opened| opened.plain).collect();
    let mut manifest = source.into_manifest();
    if names.len() == manifest.chunks.len() {
        manifest.rename(&names, None);
    }
    Examined { report: Some(report), manifest: Some(without_chunks(manifest)), problems }
}

/// Drops what only the check of the part needed.
fn without_chunks(mut manifest: Manifest) -> Manifest {
    manifest.chunks = Vec::new();
    let partitions = manifest.groups.iter_mut().flat_map(|g| &mut g.partitions);
    partitions.for_each(|p| p.chunks = Vec::new());
    manifest
}

/// What is kept of a chunk whose rows were looked at.
#[derive(Clone)]
struct Opened {
    first: Box<[u8]>,
    last: Box<[u8]>,
    /// The name that it has without a seal.
    plain: ChunkHash,
}

/// What a part should hold.
struct Plan<'a> {
    source: &'a Source,
    manifest: &'a Manifest,
    /// By the chunks' place in the manifest's table.
    owners: Vec<Owner>,
}

/// What looking at one place of a part came to.
enum Looked {
    Chunk { hash: ChunkHash, offset: Option<u64>, opened: Result<Option<Opened>> },
    Problem { offset: u64, chunk: Option<ChunkHash>, what: String },
}

struct Check<'a> {
    path: String,
    plan: &'a Plan<'a>,
    /// Each chunk that is intact and was opened, by its place in the manifest's table.
    opened: Vec<Option<Opened>>,
    problems: &'a mut Problems,
}

impl<'a> Plan<'a> {
    fn of(source: &'a Source) -> Plan<'a> {
        let manifest = source.manifest();
        let mut owners = vec![Owner::Meta; manifest.chunks.len()];
        for (owner, hash) in manifest
            .lists()
            .flat_map(|(owner, chunks)| chunks.iter().map(move |hash| (owner, *hash)))
        {
            owners[manifest
                .position(hash)
                .expect("a manifest that was parsed has its chunks in its table")] = owner;
        }
        Plan { source, manifest, owners }
    }

    fn place(&self, hash: ChunkHash) -> usize {
        self.manifest.position(hash).expect("only chunks of the manifest are read")
    }

    /// None if it cannot be opened and is as it was stored.
    fn opened(&self, hash: ChunkHash, data: &[u8]) -> Result<Option<Opened>> {
        let at = self.place(hash);
        let (entry, owner) = (&self.manifest.chunks[at], &self.owners[at]);
        if !self.source.is_open() {
            return entry.check_stored(data).map(|()| None);
        }
        let rows = entry.open(data, self.source.keys())?;
        let (first, last) = rows.ends();
        if !owner.owns(first, last) {
            return Err(Error::corrupt(format!(
                "chunk {hash} holds rows of other partitions than {owner}"
            )));
        }
        let plain = if self.source.keys().is_some() { rows.name(None) } else { hash };
        Ok(Some(Opened { first: first.into(), last: last.into(), plain }))
    }
}

impl Check<'_> {
    fn tar(&mut self, source: &TarSource) {
        let mut tar = match source.entries() {
            Ok(tar) => tar,
            Err(e) => return self.problem(None, None, e.message),
        };
        let plan = self.plan;
        let look = |step| match step {
            Step::Chunk { hash, offset, data } => {
                Looked::Chunk { hash, offset: Some(offset), opened: plan.opened(hash, &data) }
            }
            Step::Problem { offset, chunk, what } => Looked::Problem { offset, chunk, what },
        };
        let steps = std::iter::from_fn(|| tar.step().transpose());
        let noted = parallel::in_order(
            steps,
            |step| step.map(look),
            |looked| looked.map(|looked| self.note(looked)),
        );
        if let Err(e) = noted {
            self.problem(None, None, e.message);
        }
    }

    fn directory(&mut self, source: &PartSource) {
        let plan = self.plan;
        let look = |entry: &ChunkEntry| {
            let opened = source.stored(entry).and_then(|data| plan.opened(entry.hash, &data));
            Looked::Chunk { hash: entry.hash, offset: None, opened }
        };
        let noted = parallel::in_order(plan.manifest.chunks.iter(), look, |looked| {
            self.note(looked);
            Ok(())
        });
        noted.expect("noting what was seen does not fail");
        match source.extra() {
            Err(e) => self.problem(None, None, e.message),
            Ok((extra, count)) => {
                self.problems.more += count - extra.len() as u64;
                extra.iter().for_each(|path| {
                    self.problem(
                        None,
                        None,
                        format!("{} does not belong to the part", path.display()),
                    )
                });
            }
        }
    }

    fn note(&mut self, looked: Looked) {
        match looked {
            Looked::Chunk { hash, opened: Ok(opened), .. } => {
                self.opened[self.plan.place(hash)] = opened
            }
            Looked::Chunk { hash, offset, opened: Err(e) } => {
                self.problem(offset, Some(hash), e.message)
            }
            Looked::Problem { offset, chunk, what } => self.problem(Some(offset), chunk, what),
        }
    }

    /// Whether the rows of one chunk lie behind those of the chunk before.
    fn order(&mut self) {
        let manifest = self.plan.manifest;
        for pair in manifest.lists().flat_map(|(_, chunks)| chunks.windows(2)) {
            let opened = |hash| manifest.position(hash).and_then(|i| self.opened[i].as_ref());
            if let (Some(before), Some(behind)) = (opened(pair[0]), opened(pair[1]))
                && before.last >= behind.first
            {
                self.problem(
                    None,
                    Some(pair[1]),
                    format!(
                        "the rows of chunk {} do not lie behind those of chunk {}",
                        pair[1], pair[0]
                    ),
                );
            }
        }
    }

    fn problem(&mut self, offset: Option<u64>, chunk: Option<ChunkHash>, what: String) {
        let concerns = chunk
            .and_then(|hash| self.plan.manifest.position(hash))
            .map(|i| self.plan.owners[i].to_string());
        self.problems.push(Problem { path: self.path.clone(), offset, chunk, concerns, what });
    }
}

impl PartReport {
    fn of(path: &Path, source: &Source) -> PartReport {
        let manifest = source.manifest();
        let seal = manifest.seal.as_ref().map(|seal| SealReport {
            recipients: seal.recipients().to_vec(),
            opened: source.is_open(),
        });
        PartReport {
            path: path.display().to_string(),
            snapshot: manifest.snapshot.to_string(),
            seq: manifest.seq.0,
            cluster: manifest.cluster.to_string(),
            lineage: manifest.lineage.to_string(),
            node: manifest.node.to_string(),
            address: manifest.address.clone(),
            written_ms: manifest.written_ms,
            product: manifest.product.clone(),
            meta: manifest.meta.is_some(),
            groups: manifest.groups.len(),
            partitions: manifest.partitions().count(),
            rows: manifest.rows(),
            bytes: manifest.bytes(),
            chunks: manifest.chunks.len(),
            stored_bytes: manifest.stored_bytes(),
            manifest_digest: source.digest(),
            seal,
        }
    }
}

impl Problems {
    pub fn is_empty(&self) -> bool {
        self.count() == 0
    }

    pub fn count(&self) -> u64 {
        self.list.len() as u64 + self.more
    }

    pub(super) fn fmt_indented(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return Ok(());
        }
        self.to_string().lines().try_for_each(|line| writeln!(f, "  {line}"))
    }

    /// Something about a part as a whole.
    fn of_part(&mut self, path: &Path, e: Error) {
        let path = path.display().to_string();
        self.push(Problem { path, offset: None, chunk: None, concerns: None, what: e.message });
    }

    pub(super) fn push(&mut self, problem: Problem) {
        if self.list.len() < limits::PROBLEMS_MAX {
            self.list.push(problem)
        } else {
            self.more += 1
        }
    }
}

impl fmt::Display for PartReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PartReport {
            path,
            snapshot,
            node,
            address,
            written_ms,
            groups,
            partitions,
            rows,
            bytes,
            chunks,
            ..
        } = self;
        let meta = if self.meta { "with" } else { "WITHOUT" };
        let written = rfc3339(*written_ms);
        write!(f, "{path}: snapshot {snapshot}, node {node} ({address}), written {written}: ")?;
        write!(
            f,
            "{partitions} partitions of {groups} groups, {meta} the meta group, {rows} rows, \
             {bytes} bytes, {chunks} chunks"
        )?;
        let Some(SealReport { recipients, opened }) = &self.seal else { return Ok(()) };
        let to: Vec<String> = recipients.iter().map(Recipient::to_string).collect();
        let opened = if *opened { "opened" } else { "NOT opened: its rows were not looked at" };
        write!(f, ", sealed to {} and {opened}", to.join(", "))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)?;
        if let Some(offset) = self.offset {
            write!(f, ", byte {offset}")?;
        }
        if let Some(concerns) = &self.concerns {
            write!(f, ", {concerns}")?;
        }
        write!(f, ": {}", self.what.strip_prefix(&format!("{}: ", self.path)).unwrap_or(&self.what))
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.list.iter().enumerate() {
            write!(f, "{}{problem}", if i > 0 { "\n" } else { "" })?;
        }
        if self.more > 0 { write!(f, "\nand {} more problems", self.more) } else { Ok(()) }
    }
}

impl std::error::Error for Problems {}

#[cfg(test)]
mod tests;
