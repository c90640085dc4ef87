//! What a repository says of itself: the texts of a snapshot, also a sealed one, of a catalogue,
//! also a signed one, and of a voucher, and the index of a group.
//!
//! As with parts, digests would stop nearly every mutation at the first look: an input says with
//! its first byte whether it is taken as it is, or with its digest put right.

use devicedb::{
    base::error::Kind,
    part::chunk::Digest,
    repository::{
        catalogue::Catalogue,
        cover::Cover,
        index::{Index, Place, is_name},
        manifest::Snapshot,
        signature::SigningKey,
        trust::Voucher,
        vault::{Scheme, Secret},
    },
};

/// What is taken is the one spelling of what it says, and leads nowhere else.
pub fn repository(input: &[u8]) -> bool {
    let Some((mode, bytes)) = input.split_first() else { return false };
    match mode % 10 {
        0 => snapshot(bytes),
        1 => snapshot(&put_right(bytes)),
        2 => index(&zstd::bulk::compress(bytes, 1).expect("anything can be compressed")),
        3 => index(bytes),
        4 => cover(bytes),
        5 => cover(&put_right(bytes)),
        6 => catalogue(bytes),
        7 => catalogue(&put_right(bytes)),
        8 => voucher(bytes),
        _ => voucher(&put_right(bytes)),
    }
}

fn snapshot(text: &[u8]) -> bool {
    match Snapshot::parse(text) {
        Ok(snapshot) => {
            assert_eq!(snapshot.encode().as_deref(), Ok(text), "two spellings of one snapshot");
            assert!(snapshot.held.iter().all(|held| is_name(&held.index.object)));
            true
        }
        Err(e) => {
            assert!(matches!(e.kind, Kind::Corrupt | Kind::Conflict), "{e:?}");
            false
        }
    }
}

fn catalogue(text: &[u8]) -> bool {
    match Catalogue::parse(text) {
        Ok(catalogue) => {
            assert_eq!(catalogue.encode().as_deref(), Ok(text), "two spellings of one catalogue");
            for entry in &catalogue.snapshots {
                assert!(is_name(&entry.object) && !catalogue.is_void(entry.seq));
                assert_eq!(catalogue.entry(entry.seq), Some(entry));
            }
            is_signed_and_unsigned(catalogue);
            true
        }
        Err(e) => {
            assert!(matches!(e.kind, Kind::Corrupt | Kind::Conflict), "{e:?}");
            false
        }
    }
}

/// Signed by another key it says the same, in the one spelling of it.
fn is_signed_and_unsigned(catalogue: Catalogue) {
    let key = SigningKey::of([7; 32]);
    let signed = catalogue.clone().signed(&key);
    let text = signed.encode().expect("it is as it was");
    assert_eq!(Catalogue::parse(&text), Ok(signed.clone()));
    let Catalogue { format, signer, signature, .. } = catalogue;
    assert_eq!(Catalogue { format, signer, signature, ..signed }, catalogue);
}

/// Nobody but the owner of the key makes one.
fn voucher(text: &[u8]) -> bool {
    match Voucher::parse(text) {
        Ok(_) => {
            let golden = include_bytes!("../../golden/repository/voucher.json");
            assert_eq!(text, golden, "somebody has signed another one");
            true
        }
        Err(e) => {
            assert!(matches!(e.kind, Kind::Corrupt | Kind::Conflict), "{e:?}");
            false
        }
    }
}

/// The snapshot under a cover is the one that was sealed under it, or it does not come out.
fn cover(text: &[u8]) -> bool {
    let cover = match Cover::parse(text) {
        Ok(cover) => cover,
        Err(e) => {
            assert!(matches!(e.kind, Kind::Corrupt | Kind::Conflict), "{e:?}");
            return false;
        }
    };
    let (key, repository) = (Secret::of([7; 32]), cover.repository);
    let vault = Scheme::of(&key, repository).vault(&key, repository).expect("it is its own");
    match cover.open(&vault) {
        Ok(snapshot) => {
            let sealed = Cover::seal(&snapshot, &vault);
            assert_eq!(sealed.as_deref(), Ok(text), "two spellings of one sealed snapshot");
        }
        Err(e) => assert!(matches!(e.kind, Kind::Corrupt | Kind::Conflict), "{e:?}"),
    }
    true
}

/// The text with the digest that belongs to it.
fn put_right(text: &[u8]) -> Vec<u8> {
    let mark = b"  \"digest\": \"";
    let at = text.windows(mark.len()).rposition(|w| w == mark).unwrap_or(text.len());
    let digest = blake3::hash(&text[..at]);
    [&text[..at], format!("  \"digest\": \"{digest}\"\n}}\n").as_bytes()].concat()
}

fn index(frame: &[u8]) -> bool {
    let digest = Digest(blake3::hash(frame).into());
    let place = Place { object: "i/1".into(), offset: 0, bytes: frame.len() as u64, digest };
    match Index::decode(frame, &place) {
        Ok(index) => {
            // Whoever looks for a chunk that is named finds it, within its segment.
            for (_, chunk) in index.in_order(false) {
                let segment = &index.segments[chunk.segment];
                assert!(is_name(&segment.name));
                assert!(chunk.offset + chunk.stored_bytes <= segment.bytes);
                assert_eq!(index.chunk(chunk.hash), Some(chunk));
            }
            let named: usize = index.partitions.iter().map(|part| part.chunks.len()).sum();
            assert_eq!(named, index.chunks.len(), "a chunk that nobody names");
            true
        }
        Err(e) => {
            assert_eq!(e.kind, Kind::Corrupt, "{e:?}");
            false
        }
    }
}
