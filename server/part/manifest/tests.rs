//! One manifest has one text, every format is read for good, and what does not agree with itself is
//! refused.

use proptest::prelude::*;

use super::*;
use crate::part::sample::Sample;

/// What each format's first version wrote.
fn golden(format: u32) -> String {
    format!("{}/tests/golden/snapshot/manifest-{format}.json", env!("CARGO_MANIFEST_DIR"))
}

fn sample() -> Manifest {
    Sample { groups: vec![0, 3], rows: 12, ..Sample::new(16_681_865_894_510_149_803) }.part().0
}

/// A manifest whose digest is right, whatever else is wrong with it.
fn resealed(text: &str) -> Vec<u8> {
    let body = &text[..text.rfind("\"digest\"").unwrap()];
    (body.to_owned() + &last_line(&Digest(blake3::hash(body.as_bytes()).into()))).into_bytes()
}

#[test]
fn every_format_can_be_read_for_good() {
    for format in 1..=SEALED {
        let text = std::fs::read(golden(format)).expect("the golden file is part of the tree");
        let (manifest, digest) = Manifest::parse(&text).unwrap();
        assert_eq!(
            (manifest.format, manifest.groups[1].dots),
            (format, if format == 1 { 0 } else { 1003 })
        );
        // A part that is passed on is passed on as it was written.
        assert_eq!(manifest.encode().unwrap(), (text, digest));
    }
    let (manifest, digest) = Manifest::parse(&std::fs::read(golden(1)).unwrap()).unwrap();
    assert_eq!(
        digest.to_string(),
        "f20305fa240f6e6a5c1ab65461e0440129a7c121280ed188a95721048eace944"
    );
    assert_eq!(
        (manifest.node, manifest.seq, manifest.lineage),
        (NodeId(16_681_865_894_510_149_803), SnapshotSeq(1), Lineage(0xABCD))
    );
    assert_eq!(
        (manifest.group_ids().collect::<Vec<_>>(), manifest.partitions().count()),
        (vec![GroupId(0), GroupId(3)], 16)
    );
    assert_eq!(
        manifest.meta.as_ref().map(|m| (m.mark_index, m.learners.clone())),
        Some((50, vec![NodeId(7)]))
    );
    assert_eq!(
        manifest.partition(PartitionId(25)).unwrap().rows,
        manifest.groups[1].partitions[1].rows
    );
}

#[test]
fn the_newest_format_is_written_as_ever() {
    let ((text, _), path) = (sample().encode().unwrap(), golden(FORMAT));
    if std::env::var_os("GOLDEN").is_some() && !std::path::Path::new(&path).exists() {
        std::fs::write(&path, &text).unwrap();
    }
    // Chunks' frames may change with zstd, and with them only their sizes and digests in the table.
    let stable = |text: &str| {
        text.lines()
            .filter(|l| !l.contains("stored_") && !l.starts_with("\"digest\""))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        stable(std::str::from_utf8(&text).unwrap()),
        stable(&std::fs::read_to_string(path).unwrap())
    );
}

#[test]
fn what_was_written_is_read() {
    for manifest in [
        sample(),
        Sample::new(1).part().0,
        Sample { groups: vec![], meta: false, ..Sample::new(1) }.part().0,
    ] {
        let (text, digest) = manifest.encode().unwrap();
        assert_eq!(Manifest::parse(&text).unwrap(), (manifest, digest));
        serde_json::from_slice::<serde_json::Value>(&text).expect("other tools can read it");
    }
}

#[test]
fn any_changed_or_missing_byte_is_found() {
    let (text, _) =
        Sample { groups: vec![0], rows: 3, ..Sample::new(1) }.part().0.encode().unwrap();
    for at in 0..text.len() {
        let mut changed = text.clone();
        changed[at] ^= 1 << (at % 8);
        assert!(Manifest::parse(&changed).is_err(), "byte {at} was changed");
        assert!(Manifest::parse(&text[..at]).is_err(), "cut at {at}");
    }
}

#[test]
fn a_newer_format_is_a_conflict_that_says_so() {
    let text = String::from_utf8(sample().encode().unwrap().0).unwrap();
    let newer = resealed(&text.replacen("\"format\":3", "\"format\":5", 1));
    let error = Manifest::parse(&newer).unwrap_err();
    assert_eq!(error.kind, Kind::Conflict);
    assert_eq!(
        error.message,
        "manifest: this part was written by a newer version: format 5, this program reads up to 4; \
         use a newer program"
    );
    assert_eq!(
        Manifest::parse(b"{\"format\":7,never seen before").unwrap_err().kind,
        Kind::Conflict
    );
}

#[test]
fn a_manifest_that_does_not_agree_with_itself_is_refused() {
    type Change = fn(&mut Manifest);
    let cases: [(&str, Change); 22] = [
        ("no node and no snapshot has number 0", |m| m.node = NodeId(0)),
        ("no node and no snapshot has number 0", |m| m.seq = SnapshotSeq(0)),
        ("the address", |m| m.address = "a\nb".into()),
        ("behind the year 9999", |m| m.written_ms = u64::MAX),
        ("groups are not sorted", |m| m.groups.swap(0, 1)),
        ("groups are not sorted", |m| m.groups[1] = m.groups[0].clone()),
        ("chunks are not sorted", |m| m.chunks.swap(0, 1)),
        ("chunks are not sorted", |m| m.chunks.insert(0, m.chunks[0])),
        ("cannot have 0 rows", |m| m.chunks[0].rows = 0),
        ("cannot have", |m| m.chunks[0].bytes = u64::MAX),
        ("cannot have", |m| m.chunks[0].stored_bytes = u64::MAX),
        ("group 9: there are only 8 groups", |m| m.groups[1].group = GroupId(9)),
        ("group 4: its partitions are not 32..40", |m| m.groups[1].group = GroupId(4)),
        ("group 0: its partitions are not 0..8", |m| drop(m.groups[0].partitions.pop())),
        ("group 0: no mark stands at index or term 0", |m| m.groups[0].mark_index = 0),
        ("group 0: its members", |m| m.groups[0].voters.reverse()),
        ("group 0: its members", |m| m.groups[0].learners = vec![NodeId(1)]),
        ("meta group: its members", |m| m.meta.as_mut().unwrap().voters.clear()),
        ("partition 0: it changed at 101, behind the mark at 100", |m| {
            m.groups[0].partitions[0].data_index = 101
        }),
        ("is not in the table of chunks", |m| m.chunks.truncate(1)),
        ("meta group: it says 9 rows", |m| m.meta.as_mut().unwrap().rows = 9),
        ("is named a second time", |m| {
            let chunks = m.groups[0].partitions[2].chunks.clone();
            m.groups[0].partitions[3].chunks = chunks;
        }),
    ];
    for (what, change) in cases {
        let mut manifest = sample();
        change(&mut manifest);
        let written = manifest.encode().unwrap_err();
        assert!(written.message.contains(what), "{what}: {written}");
        let text = manifest.body();
        let read = Manifest::parse(&resealed(&(text + "\"digest\""))).unwrap_err();
        assert!(read.message.contains(what) || manifest.written_ms == u64::MAX, "{what}: {read}");
        assert_eq!(read.kind, Kind::Corrupt);
    }
    let in_format = |format| Manifest { format, ..sample() }.encode().unwrap_err().message;
    assert!(in_format(0).contains("this program does not write format 0"));
    assert!(in_format(1).contains("group 0: format 1 does not say how many dots it had minted"));
    let mut manifest = sample();
    manifest.meta = None;
    assert!(manifest.encode().unwrap_err().message.contains("belongs to no partition"));
}

#[test]
fn texts_that_this_program_does_not_write_are_refused() {
    let text = String::from_utf8(sample().encode().unwrap().0).unwrap();
    for (from, to) in [
        ("\"node\":\"1", "\"node\":\"01"),
        ("\"voters\":[\"1\"", "\"voters\":[\"+1\""),
        ("\"lineage\":\"00", "\"lineage\":\"+0"),
        ("\"partitions\":64", "\"partitions\":63"),
        ("\"seq\":1", "\"seq\":1,\"y\":2"),
        ("\"seq\":1", "\"seq\":1,\"seq\":1"),
        ("\"seq\":1", "\"seq\":-1"),
        ("\"dots\":1000,", ""),
        ("\"format\":3", "\"format\":1"),
        ("\"seq\":1", "\"seq\": 1"),
        ("\"address\":\"1", "\"address\":\"\\u0031"),
        ("\"parts\":[\n", "\"parts\":["),
        ("\n\"digest\"", "\n \"digest\""),
        ("\"written\":\"2023", "\"written\":\"2024"),
    ] {
        assert!(text.contains(from), "{from} shows nothing");
        let error = Manifest::parse(&resealed(&text.replacen(from, to, 1))).unwrap_err();
        assert_eq!(error.kind, Kind::Corrupt, "{to}: {error}");
    }
}

#[test]
fn instants_are_written_as_the_calendar_has_them() {
    for (ms, text) in [
        (0, "1970-01-01T00:00:00.000Z"),
        (951_782_400_000, "2000-02-29T00:00:00.000Z"),
        (951_868_799_999, "2000-02-29T23:59:59.999Z"),
        (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        (1_700_000_000_123, "2023-11-14T22:13:20.123Z"),
        (1_735_689_599_000, "2024-12-31T23:59:59.000Z"),
        (WRITTEN_MS_MAX, "9999-12-31T23:59:59.999Z"),
    ] {
        assert_eq!(rfc3339(ms), text);
    }
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(
        at in 0usize..4000,
        with in "[\\[\\]{}\",:0-9a-f-]{0,6}",
        length in 0usize..20,
    ) {
        let text = String::from_utf8(
            Sample { groups: vec![0], rows: 3, ..Sample::new(1) }.part().0.encode().unwrap().0,
        )
        .unwrap();
        let (at, end) = (at.min(text.len() - 90), (at + length).min(text.len() - 80));
        let changed = resealed(&format!("{}{with}{}", &text[..at], &text[end.max(at)..]));
        let _ = Manifest::parse(&changed);
    }
}
