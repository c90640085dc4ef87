//! The parts of a snapshot, back from a repository: the tars that the nodes would send, byte for
//! byte, if they were made by one version of the program.
//!
//! A part's manifest is put together of what the repository says of the part and of its groups. Its
//! chunks are read where they lie, and each is checked before it is written. A part has its name
//! only when it is whole and on disk; nothing is overwritten.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::{
    index::Index,
    manifest::{PartOf, Snapshot},
    root::{Kept, Repository},
};
use crate::{
    base::{
        error::{Context as _, Error, Result},
        ids::{GroupId, NodeId},
    },
    part::{
        manifest::{ChunkEntry, GroupPart, Manifest, MetaPart},
        tar,
    },
};

/// A part that was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Exported {
    pub path: PathBuf,
    /// As text, like all nodes in what other tools may read.
    #[serde(rename = "node_id")]
    pub node: String,
    pub bytes: u64,
}

/// Writes the part of one node, or of all whose parts were imported, to a directory.
pub fn export(
    repository: &Repository,
    kept: &Kept,
    node: Option<NodeId>,
    dir: &Path,
) -> Result<Vec<Exported>> {
    let snapshot = &kept.snapshot;
    let wanted: Vec<&PartOf> =
        snapshot.parts.iter().filter(|part| node.is_none_or(|node| node == part.node)).collect();
    if wanted.is_empty() {
        let nodes: Vec<String> = snapshot.parts.iter().map(|part| part.node.to_string()).collect();
        return Err(Error::not_found(format!(
            "the repository has no part of that node; it has those of {}",
            nodes.join(", ")
        )));
    }
    let path =
        |part: &PartOf| dir.join(format!("snapshot-{}-{}.tar", snapshot.snapshot, part.node));
    if let Some(there) = wanted.iter().map(|part| path(part)).find(|path| path.exists()) {
        return Err(Error::conflict(format!(
            "{} is there already, and nothing is overwritten: move it away, or name another \
             directory",
            there.display()
        )));
    }
    let mut exported = Vec::new();
    for part in wanted {
        let bytes = write(repository, kept, part, &path(part))?;
        exported.push(Exported { path: path(part), node: part.node.to_string(), bytes });
    }
    Ok(exported)
}

fn write(repository: &Repository, kept: &Kept, part: &PartOf, path: &Path) -> Result<u64> {
    let (manifest, chunks) = put_together(repository, kept, part)?;
    let (text, _) = manifest.encode()?;
    let partial = PathBuf::from(format!("{}.partial", path.display()));
    let mut options = OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(&partial);
    let file = match file {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            return Err(Error::conflict(format!(
                "{} is there, of an export that is under way or was killed: remove it if none runs",
                partial.display()
            )));
        }
        file => file.at(partial.display())?,
    };
    let written = || {
        let mut out = BufWriter::new(&file);
        tar::write(&mut out, &manifest, &text, |put| {
            chunks.iter().try_for_each(|(index, at)| {
                put(repository.chunk(kept.folder, index, &index.chunks[*at])?)
            })
        })?;
        out.flush().at(partial.display())?;
        file.sync_all().at(partial.display())?;
        // Unlike a rename it does not take the place of what has come meanwhile.
        fs::hard_link(&partial, path).at(path.display())?;
        Ok(tar::Plan::of(&manifest, text.len() as u64).total_bytes())
    };
    let written = written();
    // A half of it is of no use, since an export does not go on where another one ended.
    let removed = fs::remove_file(&partial).at(partial.display());
    let bytes = written?;
    removed?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(dir).and_then(|dir| dir.sync_all()).at(dir.display())?;
    Ok(bytes)
}

type Chunks = Vec<(std::rc::Rc<Index>, usize)>;

/// The manifest of a node's part, and where the chunks of its table lie.
fn put_together(repository: &Repository, kept: &Kept, part: &PartOf) -> Result<(Manifest, Chunks)> {
    let Kept { folder, snapshot, .. } = kept;
    let Snapshot { cluster, lineage, seq, .. } = *snapshot;
    let (mut groups, mut meta, mut table) = (Vec::new(), None, Vec::new());
    let has = |group: GroupId| match group.is_meta() {
        true => part.meta,
        false => part.groups.binary_search(&group).is_ok(),
    };
    for held in snapshot.held.iter().filter(|held| has(held.group)) {
        let index = std::rc::Rc::new(repository.index(*folder, &held.index)?);
        let chunks = index.chunks.iter().enumerate();
        table.extend(chunks.map(|(at, chunk)| (chunk.entry(), (index.clone(), at))));
        let (mark_index, mark_term) = (held.mark_index, held.mark_term);
        let (voters, learners) = (held.voters.clone(), held.learners.clone());
        if !held.group.is_meta() {
            groups.push(GroupPart {
                group: held.group,
                mark_index,
                mark_term,
                dots: held.dots,
                voters,
                learners,
                partitions: index.partitions.clone(),
            });
            continue;
        }
        let [rows] = &index.partitions[..] else {
            return Err(Error::corrupt("the meta group has no single list of chunks"));
        };
        meta = Some(MetaPart {
            mark_index,
            mark_term,
            voters,
            learners,
            rows: rows.rows,
            bytes: rows.bytes,
            digest: rows.digest,
            chunks: rows.chunks.clone(),
        });
    }
    table.sort_by_key(|(entry, _)| entry.hash);
    let (chunks, places): (Vec<ChunkEntry>, Chunks) = table.into_iter().unzip();
    let manifest = Manifest {
        format: part.format,
        product: part.product.clone(),
        cluster,
        lineage,
        snapshot: snapshot.snapshot,
        seq,
        node: part.node,
        address: part.address.clone(),
        written_ms: part.written_ms,
        topology: snapshot.topology()?,
        seal: None,
        meta,
        groups,
        chunks,
    };
    Ok((manifest, places))
}
