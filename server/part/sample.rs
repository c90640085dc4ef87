//! Small parts for tests: a cluster of 64 partitions in 8 groups, whose rows follow from a seed.

use std::{path::Path, sync::Arc};

use super::{
    chunk::{self, Chunk, ChunkHash, Chunker, Digest},
    manifest::{ChunkEntry, FORMAT, GroupPart, Manifest, MetaPart, PartitionPart},
    shelf::{Finished, Owner, PartWriter, Shelf},
    tar::PartReader,
};
use crate::base::{
    clock::Random,
    ids::{ClusterId, GroupId, Lineage, NodeId, PartitionId, SnapshotId, SnapshotSeq, Topology},
};

pub type Row = (Vec<u8>, Vec<u8>);

pub fn topology() -> Topology {
    Topology::new(64, 8).unwrap()
}

/// The history that every sample is of.
pub const LINEAGE: Lineage = Lineage(0xABCD);

/// The owner of a node's corner, as samples have it.
pub fn owner(node: u64) -> Owner {
    Owner {
        cluster: ClusterId(Random::seeded(99).uuid()),
        lineage: LINEAGE,
        node: NodeId(node),
        address: format!("node-{node}:8080"),
    }
}

pub fn snapshot(n: u64) -> SnapshotId {
    SnapshotId(Random::seeded(n).uuid())
}

/// Which part is to be made; the same fields make the same part.
#[derive(Clone)]
pub struct Sample {
    pub node: NodeId,
    pub snapshot: SnapshotId,
    pub seq: u64,
    pub groups: Vec<u32>,
    pub meta: bool,
    /// Every partition has up to so many rows.
    pub rows: u64,
    /// Rows of the partitions below 4 follow from this, those of the others from nothing.
    pub seed: u64,
}

impl Sample {
    pub fn new(node: u64) -> Sample {
        Sample {
            node: NodeId(node),
            snapshot: snapshot(1),
            seq: 1,
            groups: (0..8).collect(),
            meta: true,
            rows: 30,
            seed: 1,
        }
    }

    pub fn rows_of(&self, partition: u32) -> Vec<Row> {
        let mut rng =
            Random::seeded(u64::from(partition) << 32 | if partition < 4 { self.seed } else { 0 });
        let rows = if self.rows == 0 { 0 } else { rng.below(self.rows) };
        let row = |i| {
            let key =
                [&(partition as u16).to_be_bytes(), format!("site/key-{i:06}").as_bytes()].concat();
            (key, rng.next_u64().to_string().into_bytes())
        };
        (0..rows).map(row).collect()
    }

    /// The part's manifest and its chunks.
    pub fn part(&self) -> (Manifest, Vec<Chunk>) {
        let mut chunks = Vec::new();
        let mut list = |rows: Vec<Row>| {
            let new = chunks_of(&rows);
            let names: Vec<ChunkHash> = new.iter().map(|c| c.hash).collect();
            let (rows, bytes) =
                (new.iter().map(|c| c.rows).sum(), new.iter().map(|c| c.bytes).sum());
            chunks.extend(new);
            (rows, bytes, chunk::digest(&names, rows), names)
        };
        let mut partition = |id: u32| {
            let (rows, bytes, digest, chunks) = list(self.rows_of(id));
            PartitionPart { id: PartitionId(id), data_index: 0, rows, bytes, digest, chunks }
        };
        let members = vec![NodeId(1), NodeId(2), NodeId(u64::MAX)];
        let group = |&id: &u32| GroupPart {
            group: GroupId(id),
            mark_index: 100 + u64::from(id),
            mark_term: 2,
            dots: 1000 + u64::from(id),
            voters: members.clone(),
            learners: vec![],
            partitions: topology().partitions_of(GroupId(id)).map(&mut partition).collect(),
        };
        let groups = self.groups.iter().map(group).collect();
        let (rows, bytes, digest, names) = list(vec![(b"settings".to_vec(), b"meta".to_vec())]);
        let meta = MetaPart {
            mark_index: 50,
            mark_term: 3,
            voters: members,
            learners: vec![NodeId(7)],
            rows,
            bytes,
            digest,
            chunks: names,
        };
        if !self.meta {
            chunks.pop();
        }
        let mut manifest = Manifest {
            format: FORMAT,
            product: "0.1.0".into(),
            cluster: ClusterId(Random::seeded(99).uuid()),
            lineage: LINEAGE,
            snapshot: self.snapshot,
            seq: SnapshotSeq(self.seq),
            node: self.node,
            address: "127.0.0.1:8080".into(),
            written_ms: 1_700_000_000_123,
            topology: topology(),
            seal: None,
            meta: self.meta.then_some(meta),
            groups,
            chunks: chunks.iter().map(entry).collect(),
        };
        manifest.chunks.sort_by_key(|c| c.hash);
        (manifest, chunks)
    }

    /// Writes the part to a shelf.
    pub fn shelve(&self, shelf: &Arc<Shelf>) -> Finished {
        let mut writer = shelf.begin(self.snapshot).unwrap();
        self.fill(&mut writer);
        writer.finish(self.part().0).unwrap()
    }

    pub fn fill(&self, writer: &mut PartWriter) {
        for chunk in self.part().1 {
            writer.chunk(&chunk).unwrap();
        }
    }

    /// The part as a node streams it.
    pub fn tar(&self) -> Vec<u8> {
        let store = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(store.path(), &owner(self.node.0)).unwrap();
        self.shelve(&shelf);
        let mut reader = PartReader::open(shelf.hold(self.snapshot).unwrap(), 0).unwrap();
        let mut tar = Vec::new();
        while let Some(bytes) = reader.next(1 << 20).unwrap() {
            tar.extend_from_slice(&bytes);
        }
        tar
    }

    /// Writes the part as an operator would have extracted it.
    pub fn extract(&self, dir: &Path) {
        let (manifest, chunks) = self.part();
        std::fs::create_dir_all(dir.join("chunks")).unwrap();
        std::fs::write(dir.join("manifest.json"), manifest.encode().unwrap().0).unwrap();
        for chunk in chunks {
            std::fs::write(dir.join("chunks").join(chunk.hash.to_string()), &chunk.data).unwrap();
        }
    }
}

pub fn chunks_of(rows: &[Row]) -> Vec<Chunk> {
    let mut chunker = Chunker::sized(128, 256, 512).unwrap();
    let mut chunks: Vec<Chunk> =
        rows.iter().filter_map(|(key, value)| chunker.push(key, value).unwrap()).collect();
    chunks.extend(chunker.finish().unwrap());
    chunks
}

pub fn entry(chunk: &Chunk) -> ChunkEntry {
    let stored_digest = Digest(blake3::hash(&chunk.data).into());
    ChunkEntry {
        hash: chunk.hash,
        rows: chunk.rows,
        bytes: chunk.bytes,
        stored_bytes: chunk.data.len() as u64,
        stored_digest,
    }
}
