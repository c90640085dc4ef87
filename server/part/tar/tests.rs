//! What the tar of a part is, byte for byte, and how a download of it goes on.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::{
    base::error::Kind,
    part::{
        sample::{LINEAGE, Sample, owner, snapshot},
        shelf::Shelf,
    },
};

fn shelf(sample: &Sample) -> (tempfile::TempDir, Arc<Shelf>) {
    let store = tempfile::tempdir().unwrap();
    let shelf = Shelf::open(store.path(), &owner(1)).unwrap();
    sample.shelve(&shelf);
    (store, shelf)
}

fn small() -> Sample {
    Sample { groups: vec![0], rows: 6, ..Sample::new(1) }
}

fn read(shelf: &Arc<Shelf>, offset: u64, piece: usize) -> Result<(Vec<u8>, Digest)> {
    let mut reader = PartReader::open(shelf.hold(snapshot(1))?, offset)?;
    let mut tar = Vec::new();
    while let Some(bytes) = reader.next(piece)? {
        assert!((1..=piece).contains(&bytes.len()));
        tar.extend_from_slice(&bytes);
    }
    Ok((tar, reader.digest().expect("all of it was read")))
}

#[test]
fn the_size_is_known_before_the_first_byte_and_the_bytes_are_the_same_every_time() {
    let (_store, shelf) = shelf(&small());
    let hold = shelf.hold(snapshot(1)).unwrap();
    let total = Plan::of(hold.manifest(), hold.text().len() as u64).total_bytes();
    let (tar, digest) = read(&shelf, 0, 1000).unwrap();
    assert_eq!(tar.len() as u64, total);
    assert_eq!(digest, Digest(blake3::hash(&tar).into()));
    let (_other, again) = super::tests::shelf(&small());
    assert_eq!(read(&again, 0, 1 << 20).unwrap(), (tar, digest));
}

#[test]
fn headers_are_written_as_ever() {
    let header = header(&Entry { item: Item::Manifest, bytes: 1234 });
    let fields =
        [0..14, 100..108, 108..116, 116..124, 124..136, 136..148, 148..156, 156..158, 257..265]
            .map(|range| header.as_bytes()[range].escape_ascii().to_string());
    let zero = "\\x00";
    let expected = [
        "manifest.json",
        "0000644",
        "0000000",
        "0000000",
        "00000002322",
        "00000000000",
        "0010445",
        "0",
        "ustar",
    ]
    .map(|field| field.to_owned() + zero);
    assert_eq!(fields[..8], expected[..8]);
    assert_eq!(fields[8], expected[8].clone() + "00");
    assert!(
        header.as_bytes()[265..].iter().chain(&header.as_bytes()[14..100]).all(|byte| *byte == 0)
    );
}

#[test]
fn other_programs_can_list_and_extract_it() {
    let (store, shelf) = shelf(&small());
    let (tar, _) = read(&shelf, 0, 1 << 20).unwrap();
    let path = store.path().join("part.tar");
    std::fs::write(&path, tar).unwrap();
    let extracted = store.path().join("extracted");
    std::fs::create_dir(&extracted).unwrap();
    let status = std::process::Command::new("tar")
        .arg("xf")
        .arg(&path)
        .arg("-C")
        .arg(&extracted)
        .status()
        .unwrap();
    assert!(status.success());
    let report = crate::part::verify::verify_part(&extracted, None).unwrap();
    assert_eq!(report.manifest_digest, shelf.hold(snapshot(1)).unwrap().digest());
}

#[test]
fn a_download_goes_on_at_any_offset_with_the_same_digest() {
    let (_store, shelf) = shelf(&Sample { groups: vec![], ..small() });
    let (tar, digest) = read(&shelf, 0, 1 << 20).unwrap();
    for offset in 0..=tar.len() {
        assert_eq!(
            read(&shelf, offset as u64, 1 + offset % 700).unwrap(),
            (tar[offset..].to_vec(), digest),
            "at {offset}"
        );
    }
    assert_eq!(read(&shelf, tar.len() as u64 + 1, 100).unwrap_err().kind, Kind::Invalid);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn pieces_of_any_size_make_the_same_tar(piece in 1usize..3000, offset in 0u64..20_000) {
        let (_store, shelf) = shelf(&small());
        let (tar, digest) = read(&shelf, 0, 1 << 20).unwrap();
        let offset = offset.min(tar.len() as u64);
        prop_assert_eq!(
            read(&shelf, offset, piece).unwrap(),
            (tar[offset as usize..].to_vec(), digest)
        );
    }
}

#[test]
fn what_is_skipped_can_be_caught_up_with_in_steps() {
    let (_store, shelf) = shelf(&small());
    let (tar, _) = read(&shelf, 0, 1 << 20).unwrap();
    let mut reader = PartReader::open(shelf.hold(snapshot(1)).unwrap(), 5000).unwrap();
    let mut steps = 1;
    while reader.catch_up(512).unwrap() {
        steps += 1;
    }
    assert!(steps >= 10, "{steps} steps");
    assert_eq!(reader.next(100).unwrap().unwrap(), tar[5000..5100]);
    assert_eq!(reader.digest(), None);
}

#[test]
fn a_deleted_part_is_streamed_to_its_end() {
    let (_store, shelf) = shelf(&small());
    let (tar, digest) = read(&shelf, 0, 1 << 20).unwrap();
    let mut reader = PartReader::open(shelf.hold(snapshot(1)).unwrap(), 0).unwrap();
    let mut streamed = reader.next(100).unwrap().unwrap().to_vec();
    assert!(shelf.delete(snapshot(1), LINEAGE).unwrap());
    while let Some(bytes) = reader.next(4096).unwrap() {
        streamed.extend_from_slice(&bytes);
    }
    assert_eq!((streamed, reader.digest()), (tar, Some(digest)));
}

#[test]
fn a_chunk_that_is_not_what_was_written_ends_the_stream_by_name() {
    for damage in 0..3 {
        let (store, shelf) = shelf(&small());
        let entry = shelf.manifest(snapshot(1)).unwrap().chunks[1];
        let name = entry.hash.to_string();
        let path = store.path().join("node-1/chunks").join(&name[..2]).join(&name);
        let mut data = std::fs::read(&path).unwrap();
        match damage {
            0 => data[10] ^= 1,
            1 => drop(data.pop()),
            _ => std::fs::remove_file(&path).unwrap(),
        }
        if damage < 2 {
            std::fs::write(&path, data).unwrap();
        }
        let error = read(&shelf, 0, 64).unwrap_err();
        assert_eq!(error.kind, Kind::Corrupt);
        assert!(error.message.contains(&name), "{error}");
        assert!(read(&shelf, 9000, 64).is_err(), "what is skipped is not looked at");
    }
}
