//! A part that is sealed and unsealed is the part that it was, and nothing else comes of one.

use std::{fs, path::PathBuf, slice::from_ref};

use super::*;
use crate::part::{
    sample::Sample,
    seal::{Identity, Recipient},
    set,
};

struct Held {
    dir: tempfile::TempDir,
    recipient: Recipient,
    identities: Identities,
    sealing: Sealing,
}

impl Held {
    fn new() -> Held {
        let dir = tempfile::tempdir().unwrap();
        let identity = Identity::draw();
        let file = dir.path().join("identity.txt");
        fs::write(&file, identity.reveal()).unwrap();
        let recipient = identity.recipient();
        let sealing = Sealing::draw(from_ref(&recipient)).unwrap().0;
        Held { identities: Identities::read(&file).unwrap(), dir, recipient, sealing }
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    fn sealed(&self, sample: &Sample) -> (PathBuf, Vec<u8>) {
        let plain = self.file("plain.tar", &sample.tar());
        let tar = written(&sealed(&plain, &self.sealing).unwrap());
        (self.file(&format!("{}.sealed.tar", sample.node), &tar), tar)
    }
}

fn written(part: &Resealed) -> Vec<u8> {
    let mut tar = Vec::new();
    part.write(&mut tar).unwrap();
    tar
}

#[test]
fn a_part_that_is_unsealed_is_byte_for_byte_the_part_without_a_seal() {
    let held = Held::new();
    for sample in [
        Sample::new(1),
        Sample { groups: vec![2, 5], meta: false, ..Sample::new(7) },
        Sample { rows: 0, meta: false, ..Sample::new(1) },
    ] {
        let (path, sealed) = held.sealed(&sample);
        assert_eq!(
            written(&super::sealed(&path.with_file_name("plain.tar"), &held.sealing).unwrap()),
            sealed
        );
        assert_eq!(written(&unsealed(&path, &held.identities).unwrap()), sample.tar());
        let extracted = tempfile::tempdir().unwrap();
        ::tar::Archive::new(&sealed[..]).unpack(extracted.path()).unwrap();
        let opened = unsealed(extracted.path(), &held.identities).unwrap();
        assert_eq!(written(&opened), sample.tar());
    }
}

#[test]
fn a_sealed_part_is_verified_without_a_key_and_its_rows_with_one() {
    let held = Held::new();
    let (path, tar) = held.sealed(&Sample::new(1));
    let plain = verify::verify_part(&path.with_file_name("plain.tar"), None).unwrap();
    for (identities, opened) in [(None, false), (Some(&held.identities), true)] {
        let report = verify::verify_part(&path, identities).unwrap();
        let seal = report.seal.clone().unwrap();
        assert_eq!((seal.recipients, seal.opened), (vec![held.recipient.clone()], opened));
        assert_eq!(
            (report.rows, report.bytes, report.chunks),
            (plain.rows, plain.bytes, plain.chunks)
        );
        assert!(report.to_string().contains(&held.recipient.to_string()), "{report}");
        assert_eq!(report.to_string().contains("NOT opened"), !opened, "{report}");
    }
    let other = Held::new();
    let problems = verify::verify_part(&path, Some(&other.identities)).unwrap_err();
    assert!(problems.to_string().contains(&format!("sealed to {}", held.recipient)), "{problems}");
    // Whatever of it changes is found without a key.
    for at in (0..tar.len()).step_by(997) {
        let mut changed = tar.clone();
        changed[at] ^= 0x10;
        let path = held.file("changed.tar", &changed);
        assert!(verify::verify_part(&path, None).is_err(), "byte {at} was changed");
    }
}

/// Somebody puts digests right after a change; only who opens the part finds it.
#[test]
fn a_chunk_that_was_exchanged_and_fitted_in_is_found_by_who_opens_it() {
    let held = Held::new();
    let sample = Sample { groups: vec![0], rows: 6, ..Sample::new(1) };
    let plain = held.file("plain.tar", &sample.tar());
    let mut forged = sealed(&plain, &held.sealing).unwrap();
    let entry = &mut forged.manifest.chunks[0];
    let data = vec![7; entry.stored_bytes as usize];
    entry.stored_digest = Digest(blake3::hash(&data).into());
    let (text, _) = forged.manifest.encode().unwrap();
    let (mut tar, mut first) = (Vec::new(), true);
    tar::write(&mut tar, &forged.manifest, &text, |put| {
        for (new, old) in forged.manifest.chunks.iter().zip(&forged.from) {
            let honest = restored(&forged.source, forged.to, old, new.hash)?;
            put(if std::mem::take(&mut first) { data.clone() } else { honest })?;
        }
        Ok(())
    })
    .unwrap();
    let path = held.file("forged.tar", &tar);
    verify::verify_part(&path, None).unwrap();
    let problems = verify::verify_part(&path, Some(&held.identities)).unwrap_err();
    assert!(problems.to_string().contains("its seal is broken"), "{problems}");
    let Err(Refusal::Unsound(_)) = unsealed(&path, &held.identities) else { panic!("unsealed") };
}

#[test]
fn parts_of_several_seals_fit_together_and_with_plain_ones_once_they_are_opened() {
    let held = Held::new();
    let other =
        Held { sealing: Sealing::draw(from_ref(&held.recipient)).unwrap().0, ..Held::new() };
    let paths = [
        held.sealed(&Sample::new(1)).0,
        other.sealed(&Sample::new(2)).0,
        held.file("third.tar", &Sample::new(u64::MAX).tar()),
    ];
    for identities in [None, Some(&held.identities)] {
        let report = set::verify_set(&paths, identities);
        assert!(report.sound && report.restorable, "{report}");
        assert_eq!(report.to_string().contains("were not opened"), identities.is_none());
    }
    // One of them has other rows.
    let wrong = Sample { seed: 2, ..Sample::new(2) };
    let paths = [paths[0].clone(), other.sealed(&wrong).0, paths[2].clone()];
    let report = set::verify_set(&paths, Some(&held.identities));
    assert!(!report.sound && report.to_string().contains("do not fit together"), "{report}");
}

#[test]
fn what_cannot_be_resealed_is_refused_by_name() {
    let (held, other) = (Held::new(), Held::new());
    let (path, mut tar) = held.sealed(&Sample::new(1));
    let plain = path.with_file_name("plain.tar");
    assert!(matches!(unsealed(&plain, &held.identities), Err(Refusal::Plain)));
    assert!(matches!(sealed(&path, &other.sealing), Err(Refusal::Sealed(_))));
    let Err(Refusal::Closed(e)) = unsealed(&path, &other.identities) else { panic!("opened") };
    assert!(e.message.contains(&held.recipient.to_string()), "{e}");
    let last = tar.len() - 2000;
    tar[last] ^= 1;
    let damaged = held.file("damaged.tar", &tar);
    assert!(matches!(unsealed(&damaged, &held.identities), Err(Refusal::Unsound(_))));
    assert!(matches!(unsealed(&held.file("x", b"x"), &held.identities), Err(Refusal::Failed(_))));
}

/// What the first version wrote. Names, files and the wrapped key are random but for the seal, so
/// that of the golden file is used again.
#[test]
fn the_sealed_format_is_written_as_ever() {
    let golden =
        |name: &str| format!("{}/tests/golden/snapshot/{name}", env!("CARGO_MANIFEST_DIR"));
    let identities = Identities::read(golden("age-identity.txt").as_ref()).unwrap();
    let recipient = fs::read_to_string(golden("age-recipient.txt")).unwrap();
    let held = Held::new();
    let node = 16_681_865_894_510_149_803;
    let cases = [
        ("manifest-4.json", Sample { groups: vec![0, 3], rows: 12, ..Sample::new(node) }),
        ("part-4.tar", Sample { groups: vec![3], rows: 8, ..Sample::new(1) }),
    ];
    for (name, sample) in cases {
        let (path, tar) = (PathBuf::from(golden(name)), name.ends_with(".tar"));
        let plain = held.file("plain.tar", &sample.tar());
        if std::env::var_os("GOLDEN").is_some() && !path.exists() {
            let sealing = Sealing::draw(&[recipient.trim().parse().unwrap()]).unwrap().0;
            let part = sealed(&plain, &sealing).unwrap();
            let text = part.manifest().encode().unwrap().0;
            fs::write(&path, if tar { written(&part) } else { text }).unwrap();
        }
        let text = match tar {
            true => crate::part::tar::PartTar::open(&path).unwrap().1,
            false => fs::read(&path).unwrap(),
        };
        let seal = Manifest::parse(&text).unwrap().0.seal.unwrap();
        let sealing = Sealing { keys: seal.open(&identities).unwrap(), seal };
        let again = sealed(&plain, &sealing).unwrap().manifest().encode().unwrap().0;
        // Chunks' frames may change with zstd.
        let stable = |text: Vec<u8>| {
            let text = String::from_utf8(text).unwrap();
            let kept =
                text.lines().filter(|l| !l.contains("stored_") && !l.starts_with("\"digest"));
            kept.map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(stable(again), stable(text), "{name}");
    }
}
