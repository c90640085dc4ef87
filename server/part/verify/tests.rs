//! Whatever is wrong with a part is found and named; nothing else is.

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::FileExt as _,
    path::PathBuf,
};

use super::*;
use crate::{
    base::ids::{NodeId, PartitionId},
    part::{
        chunk::{self, Chunk},
        manifest::{self, PartitionPart},
        sample::{self, Sample},
        tar::PartTar,
    },
};

const BLOCK: usize = 512;

fn small() -> Sample {
    Sample { groups: vec![0], rows: 6, ..Sample::new(1) }
}

/// A file that holds a tar, in a directory of its own.
fn written(tar: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("part.tar");
    fs::write(&path, tar).unwrap();
    (dir, path)
}

/// What is wrong with a tar, without its path.
fn wrong(tar: &[u8]) -> Vec<String> {
    let (_dir, path) = written(tar);
    problems(&path)
}

fn problems(path: &Path) -> Vec<String> {
    let problems = verify_part(path, None).expect_err("nothing was found");
    problems
        .list
        .iter()
        .map(|p| p.to_string().replace(&path.display().to_string(), "PART"))
        .collect()
}

/// A file of a tar: where its header begins, its name, and its whole length.
fn files(tar: &[u8]) -> Vec<(usize, String, usize)> {
    let mut archive = tar::Archive::new(tar);
    let entries = archive.entries().unwrap().map(|entry| {
        let entry = entry.unwrap();
        let length = BLOCK + (entry.size() as usize).next_multiple_of(BLOCK);
        (entry.raw_header_position() as usize, entry.path().unwrap().display().to_string(), length)
    });
    entries.collect()
}

/// An entry with whatever name, kind and claimed size.
fn entry(name: &[u8], kind: tar::EntryType, claimed: u64, content: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.as_mut_bytes()[..name.len()].copy_from_slice(name);
    header.set_entry_type(kind);
    header.set_size(claimed);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_cksum();
    let mut bytes = [header.as_bytes().as_slice(), content].concat();
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    bytes
}

fn inserted(tar: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    [&tar[..at], bytes, &tar[at..]].concat()
}

#[test]
fn a_sound_part_is_sound_as_a_tar_and_as_a_directory() {
    let sample = Sample::new(1);
    let (_dir, path) = written(&sample.tar());
    let tar = verify_part(&path, None).unwrap();
    let extracted = tempfile::tempdir().unwrap();
    sample.extract(extracted.path());
    fs::create_dir(extracted.path().join("lost+found")).unwrap();
    let directory = verify_part(extracted.path(), None).unwrap();
    assert_eq!((tar.partitions, tar.groups, tar.meta, tar.node.as_str()), (64, 8, true, "1"));
    assert_eq!(tar.rows, (0..64).map(|p| sample.rows_of(p).len() as u64).sum::<u64>() + 1);
    assert_eq!(
        PartReport { path: String::new(), ..tar },
        PartReport { path: String::new(), ..directory }
    );
    let source = Source::open(extracted.path()).unwrap();
    let rows: Vec<_> = source
        .manifest()
        .partition(PartitionId(9))
        .unwrap()
        .chunks
        .iter()
        .map(|hash| source.chunk(*hash).unwrap())
        .collect();
    let rows: Vec<sample::Row> =
        rows.iter().flat_map(|rows| rows.iter().map(|(k, v)| (k.to_vec(), v.to_vec()))).collect();
    assert_eq!(rows, sample.rows_of(9));
}

/// Its headers, its manifest and its chunks, as the first version of each format wrote them.
#[test]
fn a_tar_of_every_format_can_be_read_for_good() {
    (1..=manifest::SEALED).for_each(tar_can_be_read);
}

fn tar_can_be_read(format: u32) {
    let golden = format!("{}/tests/golden/snapshot/part-{format}.tar", env!("CARGO_MANIFEST_DIR"));
    let golden = Path::new(&golden);
    let sample = Sample { groups: vec![3], rows: 8, ..Sample::new(1) };
    if std::env::var_os("GOLDEN").is_some() && format == manifest::FORMAT && !golden.exists() {
        fs::write(golden, sample.tar()).unwrap();
    }
    let identities = Identities::read(Path::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/golden/snapshot/age-identity.txt"
    )));
    let identities = identities.unwrap();
    let report = verify_part(golden, Some(&identities)).unwrap();
    assert_eq!((report.partitions, report.meta, report.written_ms), (8, true, 1_700_000_000_123));
    let (file, text) = PartTar::open(golden).unwrap();
    let manifest = Manifest::parse(&text).unwrap().0;
    assert_eq!(manifest.format, format);
    let keys = manifest.seal.as_ref().map(|seal| seal.open(&identities).unwrap());
    let mut tar = PartTar::read(file, &manifest, text.len() as u64).unwrap();
    let mut rows = Vec::new();
    while let Some(Step::Chunk { hash, data, .. }) = tar.step().unwrap() {
        rows.extend(
            manifest
                .entry(hash)
                .unwrap()
                .open(&data, keys.as_deref())
                .unwrap()
                .iter()
                .map(|(k, v)| (k.to_vec(), v.to_vec())),
        );
    }
    rows.sort();
    let mut expected: Vec<sample::Row> = (24..32)
        .flat_map(|p| sample.rows_of(p))
        .chain([(b"settings".to_vec(), b"meta".to_vec())])
        .collect();
    expected.sort();
    assert_eq!(rows, expected);
}

#[test]
fn an_empty_part_is_sound_too() {
    let (_dir, path) = written(&Sample { rows: 0, meta: false, ..Sample::new(1) }.tar());
    assert_eq!(verify_part(&path, None).unwrap().chunks, 0);
}

#[test]
fn every_changed_byte_of_a_tar_is_found() {
    let tar = Sample { groups: vec![], ..small() }.tar();
    let larger = small().tar();
    for (tar, step) in [(tar, 1), (larger, 11)] {
        let (_dir, path) = written(&tar);
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        for at in (0..tar.len()).step_by(step) {
            file.write_all_at(&[tar[at] ^ (1 << (at % 8))], at as u64).unwrap();
            assert!(verify_part(&path, None).is_err(), "byte {at} of {} was changed", tar.len());
            file.write_all_at(&tar[at..=at], at as u64).unwrap();
        }
        verify_part(&path, None).unwrap();
    }
}

#[test]
fn every_bit_of_a_chunk_counts() {
    let tar = Sample { groups: vec![], ..small() }.tar();
    let (at, _, length) = files(&tar)[1].clone();
    let (_dir, path) = written(&tar);
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    for bit in 8 * (at + BLOCK)..8 * (at + length) {
        let (at, flip) = (bit / 8, 1 << (bit % 8));
        file.write_all_at(&[tar[at] ^ flip], at as u64).unwrap();
        assert!(verify_part(&path, None).is_err(), "bit {bit} was changed");
        file.write_all_at(&tar[at..=at], at as u64).unwrap();
    }
}

#[test]
fn a_tar_cut_short_anywhere_is_found() {
    let tar = small().tar();
    let (_dir, path) = written(&tar);
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    for length in
        (0..tar.len()).rev().filter(|l| l % 13 == 0 || l % 512 == 0 || l + 1100 > tar.len())
    {
        file.set_len(length as u64).unwrap();
        assert!(verify_part(&path, None).is_err(), "cut to {length} of {}", tar.len());
    }
}

#[test]
fn hostile_tars_are_refused_and_what_is_hostile_is_named() {
    let tar = small().tar();
    let (second, name, length) = files(&tar)[1].clone();
    let end = tar.len() - 2 * BLOCK;
    use tar::EntryType as Kind;
    let cases: Vec<(&str, &[u8], Kind, u64)> = vec![
        ("the file \"/etc/passwd\" does not belong to the part", b"/etc/passwd", Kind::Regular, 4),
        ("the file \"../../x\" does not belong to the part", b"../../x", Kind::Regular, 4),
        ("the file \"chunks/../x\" does not belong to the part", b"chunks/../x", Kind::Regular, 4),
        (
            "the file \"manifest.json\" does not belong to the part",
            b"manifest.json",
            Kind::Regular,
            4,
        ),
        (
            "the symbolic link \"chunks/link\" does not belong to the part",
            b"chunks/link",
            Kind::Symlink,
            0,
        ),
        ("the hard link \"link\" does not belong to the part", b"link", Kind::Link, 0),
        ("the directory \"chunks/\" does not belong to the part", b"chunks/", Kind::Directory, 0),
        ("the entry of another kind \"fifo\" does not belong to the part", b"fifo", Kind::Fifo, 0),
        (
            "the entry of another kind \"././@LongLink\" does not belong to the part",
            b"././@LongLink",
            Kind::GNULongName,
            4,
        ),
        ("the entry of another kind \"pax\" does not belong to the part", b"pax", Kind::XHeader, 4),
        ("the file \"\\x1b[2J\" does not belong to the part", b"\x1b[2J", Kind::Regular, 4),
        (
            "the file \"huge\" is said to have more bytes than the file",
            b"huge",
            Kind::Regular,
            1 << 40,
        ),
        (
            "the file \"most\" is said to have more bytes than the file",
            b"most",
            Kind::Regular,
            u64::MAX,
        ),
    ];
    for (what, name, kind, claimed) in cases {
        let content: &[u8] = if claimed == 4 { b"evil" } else { b"" };
        for at in [second, second + length, end] {
            let found = wrong(&inserted(&tar, at, &entry(name, kind, claimed, content)));
            assert!(
                found.iter().any(|p| p.contains(what) && p.contains(&format!("byte {at}"))),
                "{what}: {found:?}"
            );
            assert!(found.len() <= 2, "what is right was taken for wrong: {found:?}");
        }
    }
    let twice = inserted(&tar, second + length, &tar[second..second + length]);
    assert_eq!(
        wrong(&twice),
        [format!(
            "PART, byte {}: the file \"{name}\" does not belong to the part",
            second + length
        )]
    );
    let hidden = [&tar[..end], &[0; 3 * BLOCK], &entry(b"x", Kind::Regular, 4, b"evil")].concat();
    assert_eq!(
        wrong(&hidden),
        [format!("PART, byte {}: 1536 bytes stand behind its end", tar.len())]
    );
    let first = inserted(&tar, 0, &entry(b"/etc/passwd", Kind::Regular, 4, b"evil"));
    assert_eq!(
        wrong(&first),
        ["PART: it does not begin with manifest.json but with the file \"/etc/passwd\""]
    );
    let linked = entry(b"manifest.json", Kind::Symlink, 0, b"");
    assert_eq!(
        wrong(&linked),
        ["PART: it does not begin with manifest.json but with the symbolic link \"manifest.json\""]
    );
    assert_eq!(
        wrong(&entry(b"manifest.json", Kind::Regular, 500 << 20, b"{")),
        ["PART: it ends within its manifest"]
    );
    assert!(
        wrong(&entry(b"manifest.json", Kind::Regular, 1 << 40, b"{"))[0]
            .contains("does not begin with")
    );
    assert_eq!(wrong(&[7; 2048]), ["PART: it is not a tar"]);
}

#[test]
fn chunks_missing_or_out_of_place_in_a_tar_are_named() {
    let tar = small().tar();
    let files = files(&tar);
    let (at, name, length) = files[2].clone();
    let without = [&tar[..at], &tar[at + length..]].concat();
    let found = wrong(&without);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].contains(&format!("{name} is missing here, the first of 1 that are")),
        "{found:?}"
    );
    let (last, name, _) = files.last().unwrap().clone();
    let found = wrong(&[&tar[..last], &[0; 2 * BLOCK]].concat());
    assert!(
        found[0].contains(&format!(
            "an empty block stands where {name} should stand; 1 files are missing"
        )),
        "{found:?}"
    );
    let other_size = [
        &tar[..at],
        &entry(files[2].1.as_bytes(), tar::EntryType::Regular, 3, b"abc"),
        &tar[at + length..],
    ]
    .concat();
    assert!(wrong(&other_size)[0].contains("has 3 bytes, not"));
}

#[test]
fn whatever_is_wrong_in_a_directory_is_named_and_all_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    small().extract(path);
    let manifest = small().part().0;
    let chunk = |i: usize| path.join("chunks").join(manifest.chunks[i].hash.to_string());
    fs::remove_file(chunk(0)).unwrap();
    fs::write(chunk(1), b"short").unwrap();
    let mut data = fs::read(chunk(2)).unwrap();
    data[9] ^= 1;
    fs::write(chunk(2), data).unwrap();
    let target = path.join("elsewhere");
    fs::rename(chunk(3), &target).unwrap();
    std::os::unix::fs::symlink(&target, chunk(3)).unwrap();
    fs::write(path.join("chunks/extra"), b"").unwrap();
    let found = problems(path);
    let hash = |i: usize| manifest.chunks[i].hash;
    let expected = [
        format!("PART/chunks/{}: this chunk is missing", hash(0)),
        format!("chunk {} has 5 stored bytes, not {}", hash(1), manifest.chunks[1].stored_bytes),
        format!("the stored bytes of chunk {} are not those that were written", hash(2)),
        format!("PART/chunks/{} is not a regular file", hash(3)),
        "PART/chunks/extra does not belong to the part".into(),
        "PART/elsewhere does not belong to the part".into(),
    ];
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.contains(&expected), "{found} instead of {expected}");
    }
    assert!(found[0].contains("PART, partition "), "{}", found[0]);
}

#[test]
fn problems_are_told_up_to_a_bound_and_counted_behind_it() {
    let dir = tempfile::tempdir().unwrap();
    Sample::new(1).extract(dir.path());
    let chunks = Sample::new(1).part().0.chunks.len() as u64;
    fs::remove_dir_all(dir.path().join("chunks")).unwrap();
    (0..300).for_each(|n| fs::write(dir.path().join(format!("extra-{n}")), b"").unwrap());
    let problems = verify_part(dir.path(), None).unwrap_err();
    assert_eq!(problems.list.len(), limits::PROBLEMS_MAX);
    assert_eq!(problems.count(), chunks + 300);
    assert!(problems.to_string().ends_with(&format!("and {} more problems", problems.more)));
}

#[test]
fn what_is_no_part_at_all_is_said_plainly() {
    let dir = tempfile::tempdir().unwrap();
    assert!(problems(&dir.path().join("absent"))[0].contains("it cannot be read"));
    assert!(problems(dir.path())[0].contains("manifest.json"));
    assert!(wrong(b"")[0].contains("too short"));
    assert_eq!(problems(Path::new("/dev/null")), ["PART: it is neither a tar nor a directory"]);
}

/// A part whose manifest is right about chunks that no node would have written.
fn with_partition(partition: u32, chunks: Vec<Chunk>) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let sample = Sample { rows: 0, ..small() };
    sample.extract(dir.path());
    let mut manifest = sample.part().0;
    let names: Vec<ChunkHash> = chunks.iter().map(|c| c.hash).collect();
    let (rows, bytes) = (chunks.iter().map(|c| c.rows).sum(), chunks.iter().map(|c| c.bytes).sum());
    let id = PartitionId(partition);
    manifest.groups[0].partitions[partition as usize] = PartitionPart {
        id,
        data_index: 1,
        rows,
        bytes,
        digest: chunk::digest(&names, rows),
        chunks: names,
    };
    manifest.chunks.extend(chunks.iter().map(sample::entry));
    manifest.chunks.sort_by_key(|c| c.hash);
    for chunk in chunks {
        fs::write(dir.path().join("chunks").join(chunk.hash.to_string()), &chunk.data).unwrap();
    }
    fs::write(dir.path().join("manifest.json"), manifest.encode().unwrap().0).unwrap();
    dir
}

#[test]
fn rows_of_another_partition_are_found() {
    for key in [b"\0\x02a".as_slice(), b"\0\x03z"] {
        let rows: Vec<sample::Row> =
            [b"\0\x03a".as_slice(), key].iter().map(|k| (k.to_vec(), vec![1; 10])).collect();
        let mut rows = rows;
        rows.sort();
        let dir = with_partition(3, sample::chunks_of(&rows));
        match verify_part(dir.path(), None) {
            Ok(_) => assert_eq!(key, b"\0\x03z"),
            Err(problems) => assert!(
                problems.to_string().contains("holds rows of other partitions than partition 3"),
                "{problems}"
            ),
        }
    }
}

#[test]
fn chunks_whose_rows_overlap_are_found() {
    let chunk = |keys: &[&[u8]]| {
        sample::chunks_of(&keys.iter().map(|k| (k.to_vec(), vec![])).collect::<Vec<_>>()).remove(0)
    };
    let dir =
        with_partition(3, vec![chunk(&[b"\0\x03a", b"\0\x03m"]), chunk(&[b"\0\x03m", b"\0\x03z"])]);
    assert!(problems(dir.path())[0].contains("do not lie behind those of chunk"));
    let dir =
        with_partition(3, vec![chunk(&[b"\0\x03a", b"\0\x03m"]), chunk(&[b"\0\x03n", b"\0\x03z"])]);
    verify_part(dir.path(), None).unwrap();
}

#[test]
fn a_part_of_another_format_is_refused_as_newer() {
    let (text, _) = small().part().0.encode().unwrap();
    let text = String::from_utf8(text).unwrap().replacen("\"format\":3", "\"format\":5", 1);
    let found = wrong(&entry(
        b"manifest.json",
        tar::EntryType::Regular,
        text.len() as u64,
        text.as_bytes(),
    ));
    assert!(found[0].contains("written by a newer version: format 5"), "{found:?}");
}

#[test]
fn verifying_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    small().extract(dir.path());
    let look = || {
        let mut paths: Vec<_> = [dir.path().to_owned(), dir.path().join("chunks")]
            .iter()
            .flat_map(|d| fs::read_dir(d).unwrap())
            .map(|e| e.unwrap().path())
            .collect();
        paths.sort();
        paths
            .into_iter()
            .map(|p| (fs::metadata(&p).unwrap().modified().unwrap(), p))
            .collect::<Vec<_>>()
    };
    let before = look();
    verify_part(dir.path(), None).unwrap();
    assert_eq!(look(), before);
    assert_eq!(NodeId(1), PartSource::open(dir.path()).unwrap().manifest().node);
}
