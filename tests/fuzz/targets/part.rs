//! A part of a snapshot as it comes back from wherever it was kept: its manifest, its chunks, its
//! tar.
//!
//! Digests would stop nearly every mutation at the first look. So an input says with its first byte
//! whether it is taken as it is, or with digests and checksums put right: what lies behind them has
//! to stand alone.

use std::{fs, sync::Arc};

use devicedb::{
    base::{error::Kind, limits},
    part::{
        chunk::{Chunk, ChunkHash, Chunker, Rows},
        manifest::Manifest,
        seal::{Identity, Recipient, age},
        shelf::{Owner, Shelf},
        tar::{PartReader, PartTar, Step},
        verify,
    },
};
use tempfile::TempDir;

const AS_IT_IS: u8 = 0;
const BLOCK: usize = 512;

/// A text that is taken is the one that is written of what it says.
pub fn manifest(input: &[u8]) -> bool {
    let Some((mode, text)) = input.split_first() else { return false };
    let text = if *mode == AS_IT_IS { text.to_vec() } else { resealed(text) };
    match Manifest::parse(&text) {
        Ok((manifest, digest)) => {
            assert_eq!(manifest.encode(), Ok((text, digest)), "two spellings of one manifest");
            for (_, chunks) in manifest.lists() {
                assert!(
                    chunks
                        .iter()
                        .all(|hash| manifest.entry(*hash).is_some_and(|e| e.hash == *hash)),
                    "a chunk that no table has"
                );
            }
            assert_eq!(
                manifest.lists().map(|(_, chunks)| chunks.len()).sum::<usize>(),
                manifest.chunks.len(),
                "a chunk that nobody names"
            );
            for (group, partition) in manifest.partitions() {
                assert_eq!(
                    (manifest.group(group.group), manifest.partition(partition.id)),
                    (Some(group), Some(partition))
                );
                assert_eq!(manifest.topology.group_of(partition.id), group.group);
            }
            true
        }
        Err(e) => {
            assert!(matches!(e.kind, Kind::Corrupt | Kind::Conflict), "{e:?}");
            false
        }
    }
}

/// The text with the digest that belongs to it.
fn resealed(text: &[u8]) -> Vec<u8> {
    let mark = b"\"digest\":\"";
    let at = text.windows(mark.len()).rposition(|w| w == mark).unwrap_or(text.len());
    let digest = blake3::hash(&text[..at]);
    [&text[..at], format!("\"digest\":\"{digest}\"}}\n").as_bytes()].concat()
}

/// A frame, or the plain bytes of one. Rows that are taken make the chunk that they were taken
/// from.
pub fn chunk(input: &[u8]) -> bool {
    let Some((mode, bytes)) = input.split_first() else { return false };
    let frame = if *mode == AS_IT_IS {
        bytes.to_vec()
    } else {
        zstd::bulk::compress(bytes, 1).expect("anything can be compressed")
    };
    // Whoever makes a frame also names it. The limit is the reader's own: what is larger it has to
    // refuse, whatever the name.
    let plain = zstd::bulk::decompress(
        &frame,
        limits::CHUNK_BYTES_READ_MAX.min(frame.len().saturating_mul(4096)),
    )
    .unwrap_or_default();
    let hash = ChunkHash(blake3::hash(&plain).into());
    match Rows::open(hash, &frame, None) {
        Ok(rows) => {
            assert_eq!(
                (rows.bytes(), rows.iter().count() as u64),
                (plain.len() as u64, rows.rows())
            );
            assert!(plain.len() <= limits::CHUNK_BYTES_READ_MAX && rows.rows() > 0);
            if plain.len() < limits::CHUNK_BYTES_MIN {
                let mut chunker = Chunker::new().expect("zstd starts");
                let cut = rows
                    .iter()
                    .map(|(key, value)| chunker.push(key, value))
                    .collect::<Result<Vec<_>, _>>();
                assert!(
                    cut.expect("rows that were taken can be written").iter().all(Option::is_none),
                    "it is too small to be cut"
                );
                let again = chunker.finish().expect("zstd compresses").expect("there is a row");
                assert_eq!(
                    (again.hash, again.rows, again.bytes),
                    (hash, rows.rows(), rows.bytes()),
                    "equal rows make two chunks"
                );
                assert_eq!(Rows::open(again.hash, &again.data, None), Ok(rows));
            }
            assert!(
                Rows::open(ChunkHash([7; 32]), &frame, None).is_err(),
                "it is taken under another name"
            );
            true
        }
        Err(e) => {
            assert_eq!(e.kind, Kind::Corrupt);
            false
        }
    }
}

pub const IDENTITY: &str = include_str!("../../golden/snapshot/age-identity.txt");
pub const RECIPIENT: &str = include_str!("../../golden/snapshot/age-recipient.txt");

/// A wrapped key, a recipient or an identity. Whatever is opened is the very file that was written,
/// and words that are taken have one spelling.
pub fn seal(input: &[u8]) -> bool {
    let Some((mode, bytes)) = input.split_first() else { return false };
    let text = String::from_utf8_lossy(bytes);
    match mode % 3 {
        0 => {
            let identity = IDENTITY.trim().parse::<Identity>().expect("it is a golden file");
            match age::unwrap(bytes, &[identity]) {
                Ok(None) => false,
                Ok(Some(secret)) => {
                    let golden = include_bytes!("../../golden/snapshot/age-file");
                    assert_eq!((bytes, secret.len()), (&golden[..], 25));
                    true
                }
                Err(e) => {
                    assert_eq!(e.kind, Kind::Corrupt);
                    false
                }
            }
        }
        1 => text.parse::<Recipient>().is_ok_and(|recipient| {
            assert_eq!(recipient.to_string(), text);
            true
        }),
        _ => text.parse::<Identity>().is_ok_and(|identity| {
            assert_eq!(identity.reveal(), text);
            true
        }),
    }
}

thread_local! {
    static DIR: TempDir = super::directory();
}

/// A tar that is taken is, byte for byte, the one that this program would send of that part;
/// reading it leaves everything as it was.
pub fn tar(input: &[u8]) -> bool {
    let Some((mode, tar)) = input.split_first() else { return false };
    let tar = if *mode == AS_IT_IS { tar.to_vec() } else { righted(tar) };
    DIR.with(|dir| {
        let path = dir.path().join("part.tar");
        fs::write(&path, &tar).expect("the temporary directory takes files");
        let verified = verify::verify_part(&path, None);
        let left: Vec<_> = fs::read_dir(dir.path())
            .expect("it is there")
            .map(|entry| entry.expect("it can be read").file_name())
            .collect();
        assert_eq!(left, ["part.tar"], "reading a tar wrote something");
        assert_eq!(fs::read(&path).expect("it is there"), tar, "reading a tar changed it");
        match verified {
            Ok(report) => {
                let (sent, digest) = sent(&path);
                assert_eq!(digest, report.manifest_digest.to_string());
                assert_eq!(sent, tar, "two tars of one part");
                true
            }
            Err(problems) => {
                assert!(!problems.list.is_empty() && problems.list.len() <= limits::PROBLEMS_MAX);
                false
            }
        }
    })
}

/// What a node sends that has this part on its shelf, and the digest of its manifest.
fn sent(path: &std::path::Path) -> (Vec<u8>, String) {
    let (file, text) = PartTar::open(path).expect("it was verified");
    let (manifest, digest) = Manifest::parse(&text).expect("it was verified");
    let mut tar = PartTar::read(file, &manifest, text.len() as u64).expect("it was verified");
    let mut chunks = Vec::new();
    while let Some(step) = tar.step().expect("it was verified") {
        let Step::Chunk { hash, data, .. } = step else { panic!("verified, and yet {step:?}") };
        let entry = manifest.entry(hash).expect("it was verified");
        chunks.push(Chunk { hash, rows: entry.rows, bytes: entry.bytes, data: data.into() });
    }
    (streamed(manifest, &chunks), digest.to_string())
}

/// The tar of a part, as a download brings it.
pub fn streamed(manifest: Manifest, chunks: &[Chunk]) -> Vec<u8> {
    let dir = super::directory();
    let snapshot = manifest.snapshot;
    let owner = Owner {
        cluster: manifest.cluster,
        lineage: manifest.lineage,
        node: manifest.node,
        address: String::new(),
    };
    let shelf: Arc<Shelf> = Shelf::open(dir.path(), &owner).expect("a shelf can be made");
    let mut writer = shelf.begin(snapshot).expect("the shelf is empty");
    for chunk in chunks {
        writer.chunk(chunk).expect("the shelf takes chunks");
    }
    writer.finish(manifest).expect("the part is whole");
    let mut reader = PartReader::open(shelf.hold(snapshot).expect("it was just finished"), 0)
        .expect("it has a beginning");
    let mut tar = Vec::new();
    while let Some(piece) = reader.next(limits::DOWNLOAD_PIECE_BYTES).expect("the part is whole") {
        tar.extend_from_slice(&piece);
    }
    tar
}

/// The tar with the digest of its manifest and the checksums of its headers put right, as far as it
/// can be walked.
fn righted(tar: &[u8]) -> Vec<u8> {
    let mut tar = tar.to_vec();
    let mut at = 0;
    while at + BLOCK <= tar.len() && tar[at..at + BLOCK] != [0; BLOCK] {
        let header = tar::Header::from_byte_slice(&tar[at..at + BLOCK]);
        let bytes = header.entry_size().unwrap_or(0).min(tar.len() as u64) as usize;
        let mut header = header.clone();
        header.set_cksum();
        tar[at..at + BLOCK].copy_from_slice(header.as_bytes());
        let content = at + BLOCK..(at + BLOCK + bytes).min(tar.len());
        if at == 0 {
            let text = resealed(&tar[content.clone()]);
            if text.len() == content.len() {
                tar[content].copy_from_slice(&text);
            }
        }
        at += BLOCK + bytes.next_multiple_of(BLOCK);
    }
    tar
}
