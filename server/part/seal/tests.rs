//! What is sealed is opened by its recipients and by nobody else, and a changed bit anywhere is
//! found.

use std::{fs, slice::from_ref};

use super::*;
use crate::base::error::Kind;

fn key(n: u8) -> [u8; 32] {
    [n; 32]
}

fn drawn() -> (Recipient, Identities) {
    let identity = Identity::draw();
    (identity.recipient(), Identities { place: "id.txt".into(), list: vec![identity] })
}

fn sealing(recipients: &[Recipient]) -> Sealing {
    Sealing::draw(recipients).unwrap().0
}

/// From Python: blake3.blake3(key, derive_key_context=...), blake3(plain, key=...), and
/// cryptography's AESGCMSIV. Whoever writes another reader starts with these.
#[test]
fn names_and_files_are_what_the_page_on_formats_says() {
    let keys = Keys::of(&key(7));
    let name = keys.name(b"plain bytes");
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(hex(&name), "397081a1e7b64b9af828dab3e91375f7dfdedab953d3e6032110be6f7b35c019");
    let file = keys.seal(&name, b"a frame");
    assert_eq!(hex(&file), "a4e98f7d64e58d1ae85a1e4165fcf0a6d19a830c31a216");
    assert_eq!(keys.open(&name, &file).unwrap(), b"a frame");
}

#[test]
fn equal_chunks_are_equal_under_one_seal_and_have_nothing_in_common_under_two() {
    let (one, other) = (Keys::of(&key(1)), Keys::of(&key(2)));
    let name = one.name(b"rows");
    assert_eq!(name, one.name(b"rows"));
    assert_eq!(one.seal(&name, b"frame"), one.seal(&name, b"frame"));
    assert_ne!(name, other.name(b"rows"));
    assert_ne!(name, *blake3::hash(b"rows").as_bytes());
    assert_ne!(one.seal(&name, b"frame"), other.seal(&name, b"frame"));
}

#[test]
fn a_changed_bit_of_a_file_or_its_name_is_found_and_so_is_a_file_under_another_name() {
    let keys = Keys::of(&key(3));
    let name = keys.name(b"rows");
    let file = keys.seal(&name, b"a frame of some length");
    for bit in 0..8 * file.len() {
        let mut changed = file.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(keys.open(&name, &changed).unwrap_err().kind, Kind::Corrupt, "bit {bit}");
    }
    for bit in 0..8 * name.len() {
        let mut other = name;
        other[bit / 8] ^= 1 << (bit % 8);
        assert!(keys.open(&other, &file).is_err(), "bit {bit} of the name");
    }
    for length in 0..file.len() {
        assert!(keys.open(&name, &file[..length]).is_err(), "cut to {length}");
    }
}

#[test]
fn every_recipient_opens_a_seal_and_nobody_else_does() {
    let ((anna, annas), (bert, berts), (_, others)) = (drawn(), drawn(), drawn());
    let sealing = sealing(&[anna.clone(), bert.clone(), anna.clone()]);
    let name = sealing.keys.name(b"rows");
    for identities in [&annas, &berts] {
        let keys = sealing.seal.open(identities).unwrap();
        assert_eq!(keys.name(b"rows"), name);
    }
    let e = sealing.seal.open(&others).unwrap_err();
    assert_eq!(e.kind, Kind::Conflict);
    let mut both = [anna.to_string(), bert.to_string()];
    both.sort();
    assert!(e.message.contains(&format!("sealed to {}, and id.txt", both.join(", "))), "{e}");
}

#[test]
fn a_seal_that_was_changed_is_not_opened() {
    let (anna, annas) = drawn();
    let seal = sealing(&[anna]).seal;
    let wrapped = BASE64_STANDARD.decode(&seal.wrapped).unwrap();
    for bit in 0..8 * wrapped.len() {
        let mut changed = wrapped.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let changed = Seal { wrapped: BASE64_STANDARD.encode(changed), ..seal.clone() };
        assert!(changed.open(&annas).is_err(), "bit {bit} was changed");
    }
    for length in 0..wrapped.len() {
        let cut = Seal { wrapped: BASE64_STANDARD.encode(&wrapped[..length]), ..seal.clone() };
        assert!(cut.open(&annas).is_err(), "cut to {length}");
    }
}

#[test]
fn what_no_seal_says_is_refused() {
    let (anna, _) = drawn();
    let seal = sealing(from_ref(&anna)).seal;
    seal.check().unwrap();
    let refused = |seal: Seal| seal.check().unwrap_err();
    assert!(refused(Seal { scheme: "rot13".into(), ..seal.clone() }).message.contains("\"rot13\""));
    let twice = vec![anna.clone(), anna];
    assert!(refused(Seal { recipients: twice, ..seal.clone() }).message.contains("twice"));
    assert!(refused(Seal { recipients: vec![], ..seal.clone() }).message.contains("none"));
    for wrapped in ["%".into(), "A".repeat(limits::SEAL_WRAPPED_BYTES_MAX + 4)] {
        assert!(refused(Seal { wrapped, ..seal.clone() }).message.contains("wrapped key"));
    }
    let many: Vec<Recipient> = (0..=limits::SEAL_RECIPIENTS_MAX).map(|_| drawn().0).collect();
    assert_eq!(Sealing::draw(&many).unwrap_err().kind, Kind::Invalid);
    // The most that a seal can have fits what readers take.
    sealing(&many[1..]).seal.check().unwrap();
}

/// Made by `age-keygen` and `age -r` of the age tool, version 1.2.1.
#[test]
fn what_the_age_tool_has_made_is_read() {
    let identity: Identity =
        include_str!("../../../tests/golden/snapshot/age-identity.txt").trim().parse().unwrap();
    let recipient = include_str!("../../../tests/golden/snapshot/age-recipient.txt").trim();
    assert_eq!(identity.recipient().to_string(), recipient);
    let file = include_bytes!("../../../tests/golden/snapshot/age-file");
    assert_eq!(age::unwrap(file, &[identity]), Ok(Some(b"a secret of the age tool\n".to_vec())));
}

#[test]
fn words_that_are_no_recipient_and_no_identity_are_refused_without_being_repeated() {
    let (anna, _) = drawn();
    let anna = anna.to_string();
    let mut mistyped = anna.clone().into_bytes();
    mistyped[20] = if mistyped[20] == b'q' { b'p' } else { b'q' };
    let mistyped = String::from_utf8(mistyped).unwrap();
    for wrong in ["", "age1", "anna@example.com", &anna.to_uppercase(), &anna[..61], &mistyped] {
        let e = wrong.parse::<Recipient>().unwrap_err();
        assert!(e.message.contains("is no recipient"), "{e}");
    }
    let secret = Identity::draw().reveal();
    assert!(secret.parse::<Recipient>().is_err());
    assert_eq!(secret.parse::<Identity>().unwrap().reveal(), secret);
    for wrong in [&secret.to_lowercase(), &secret[..73], &anna] {
        let e = wrong.parse::<Identity>().unwrap_err();
        assert!(!e.message.contains(wrong), "{e}");
    }
}

#[test]
fn an_identity_file_is_read_as_age_reads_it_and_what_is_none_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("identity.txt");
    let read = |text: &str| {
        fs::write(&path, text).unwrap();
        Identities::read(&path)
    };
    let [one, other] = [0, 1].map(|_| Identity::draw());
    let both = format!("# mine\n{}\r\n\n  {}\n# end", one.reveal(), other.reveal());
    let found: Vec<Recipient> = read(&both).unwrap().list.iter().map(Identity::recipient).collect();
    assert_eq!(found, [one.recipient(), other.recipient()]);
    let cases = [
        ("# nothing\n", "holds no identity"),
        ("# a\nAGE-SECRET-KEY-1QQQ\n", "AGE-SECRET-KEY-1..., in line 2"),
        ("age-encryption.org/v1\n-> scrypt x 18\n", "locked with a passphrase"),
        ("-----BEGIN AGE ENCRYPTED FILE-----\n", "locked with a passphrase"),
    ];
    for (text, says) in cases {
        let e = read(text).unwrap_err();
        assert_eq!(e.kind, Kind::Invalid);
        assert!(e.message.contains(says) && e.message.contains("identity.txt"), "{e}");
        assert!(!e.message.contains("1QQQ"), "{e}");
    }
    assert!(Identities::read(&dir.path().join("gone")).unwrap_err().message.contains("cannot be"));
}

#[test]
fn a_nodes_seal_stays_until_it_has_other_recipients() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let ((anna, _), (bert, _)) = (drawn(), drawn());
    let of = |recipients: &[Recipient]| kept::seal(dir.path(), recipients).unwrap();
    assert!(of(&[]).is_none() && !dir.path().join(kept::FILE).exists());
    fs::write(dir.path().join(kept::ASIDE), "cut short").unwrap();
    let first = of(&[anna.clone(), bert.clone()]).unwrap();
    let mode = fs::metadata(dir.path().join(kept::FILE)).unwrap().permissions().mode();
    assert_eq!((mode & 0o777, dir.path().join(kept::ASIDE).exists()), (0o600, false));
    assert!(of(&[]).is_none());
    let again = of(&[bert, anna.clone()]).unwrap();
    assert_eq!((&again.seal, again.keys.name(b"x")), (&first.seal, first.keys.name(b"x")));
    let other = of(from_ref(&anna)).unwrap();
    assert_ne!(other.keys.name(b"x"), first.keys.name(b"x"));

    for damaged in ["", "{}", &"x".repeat(limits::SEAL_FILE_BYTES_MAX as usize + 1)] {
        fs::write(dir.path().join(kept::FILE), damaged).unwrap();
        let e = kept::seal(dir.path(), from_ref(&anna)).unwrap_err();
        assert_eq!(e.kind, Kind::Corrupt);
        assert!(e.message.contains("seal.json") && e.message.contains("remove it"), "{e}");
    }
}
