//! The vault of a sealed repository: what is stored there says nothing to whoever has not the key.
//!
//! A sealed repository has one key of 32 random bytes. Three keys are derived from it: one makes
//! names and nonces, one seals chunks, and one seals what says where chunks are, which are indexes
//! and snapshots. The cipher is that of sealed parts (`part::seal::cipher`).
//!
//! - **What is sealed follows from what is in it.** A chunk's nonce follows from its hash, that of
//!   an index from the digest of its frame. So whoever stores the same rows, on any node and after
//!   any crash, comes to the same names and bytes, and finds what is there.
//! - **It is bound to what it is for.** The associated data are the repository's id, the kind, and
//!   the hash, digest or cover. So no sealed thing passes for another one, here or elsewhere. It
//!   may lie anywhere: nothing binds a chunk to its segment.
//! - **Names say nothing.** A name that follows from content is a keyed hash, so that nobody can
//!   try out whether some content is there. Hashes of content stand in what is sealed alone.
//!
//! What everybody sees: how many objects there are and how large, when they were made, and the
//! cover of each snapshot (`cover`). Rows are compressed before they are sealed, so sizes tell a
//! little. Nothing here is a signature: whoever may write can remove objects, and put back those of
//! before. Keys are not wiped from memory: the plain rows are there too.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    base::error::{Error, Result},
    part::{
        chunk::{ChunkHash, Digest},
        seal::{
            cipher::{Cipher, NONCE_BYTES, TAG_BYTES, nonce},
            random,
        },
    },
};

/// The key of a repository.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; 32]);

/// How a repository is sealed, as it says itself. Nothing of it is secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scheme {
    cipher: String,
    /// Tells the key from every other.
    check: Digest,
}

/// What a key seals and opens in one repository.
pub struct Vault {
    repository: Uuid,
    names: [u8; 32],
    chunks: Cipher,
    places: Cipher,
}

/// By how much what is sealed is longer, if its nonce does not lie with it.
pub const OVERHEAD: u64 = TAG_BYTES as u64;
/// The only cipher there is.
const CIPHER: &str = "blake3-aes256gcmsiv";
const NAMES: &str = "devicedb 2026 sealed repository: names and nonces";
const CHUNKS: &str = "devicedb 2026 sealed repository: chunks";
const PLACES: &str = "devicedb 2026 sealed repository: indexes and snapshots";
const CHECK: &str = "devicedb 2026 sealed repository: check of the key";

impl Secret {
    pub fn draw() -> Result<Secret> {
        random().map(Secret)
    }

    pub fn of(bytes: [u8; 32]) -> Secret {
        Secret(bytes)
    }

    /// Of 64 hex digits, and white space around them.
    pub fn parse(text: &str) -> Option<Secret> {
        blake3::Hash::from_hex(text.trim()).ok().map(|key| Secret(*key.as_bytes()))
    }

    /// The key itself, for the file that keeps it: 64 hex digits and a line end.
    pub fn reveal(&self) -> String {
        format!("{}\n", blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Scheme {
    pub fn of(key: &Secret, repository: Uuid) -> Scheme {
        let check = blake3::derive_key(CHECK, &key.0);
        let check = blake3::keyed_hash(&check, repository.as_bytes());
        Scheme { cipher: CIPHER.into(), check: Digest(check.into()) }
    }

    /// `Conflict` if it is one of a newer program.
    pub fn check(&self) -> Result<()> {
        if self.cipher == CIPHER {
            return Ok(());
        }
        Err(Error::conflict(format!(
            "it is sealed by {:?}, and this program knows {CIPHER:?}: use a newer program",
            self.cipher
        )))
    }

    /// What the key opens, if it is that of the repository.
    pub fn vault(&self, key: &Secret, repository: Uuid) -> Option<Vault> {
        (Scheme::of(key, repository) == *self).then(|| Vault::new(key, repository))
    }
}

impl Vault {
    fn new(key: &Secret, repository: Uuid) -> Vault {
        let derived = |context| blake3::derive_key(context, &key.0);
        Vault {
            repository,
            names: derived(NAMES),
            chunks: Cipher::new(&derived(CHUNKS)),
            places: Cipher::new(&derived(PLACES)),
        }
    }

    /// What a digest becomes in a name that everybody sees.
    pub fn veiled(&self, content: &Digest) -> Digest {
        Digest(self.keyed(&[b"name", &content.0]))
    }

    /// A chunk's frame, which is `OVERHEAD` longer then.
    pub fn seal_chunk(&self, hash: ChunkHash, frame: &[u8]) -> Vec<u8> {
        let kind = b"chunk";
        self.chunks.seal(nonce(&self.keyed(&[kind, &hash.0])), &self.bound(kind, &hash.0), frame)
    }

    /// `Corrupt` if it is not the chunk of that hash.
    pub fn open_chunk(&self, hash: ChunkHash, sealed: &[u8]) -> Result<Vec<u8>> {
        let (kind, hash) = (b"chunk", hash.0);
        let opened =
            self.chunks.open(nonce(&self.keyed(&[kind, &hash])), &self.bound(kind, &hash), sealed);
        opened.ok_or_else(broken)
    }

    /// An index's frame by its digest, `OVERHEAD` longer.
    pub fn seal_index(&self, digest: &Digest, frame: &[u8]) -> Vec<u8> {
        let (kind, digest) = (b"index", &digest.0);
        self.places.seal(nonce(&self.keyed(&[kind, digest])), &self.bound(kind, digest), frame)
    }

    /// `Corrupt` if it is not the index of that digest.
    pub fn open_index(&self, digest: &Digest, sealed: &[u8]) -> Result<Vec<u8>> {
        let (kind, digest) = (b"index", &digest.0);
        let opened = self.places.open(
            nonce(&self.keyed(&[kind, digest])),
            &self.bound(kind, digest),
            sealed,
        );
        opened.ok_or_else(broken)
    }

    /// What stands in a snapshot, bound to its cover. The nonce lies before it, since nothing else
    /// says it.
    pub fn seal_snapshot(&self, cover: &[u8], text: &[u8]) -> Vec<u8> {
        let (kind, length) = (b"snapshot", cover.len() as u64);
        let nonce = nonce(&self.keyed(&[kind, &length.to_be_bytes(), cover, text]));
        let sealed = self.places.seal(nonce, &self.bound(kind, cover), text);
        [&nonce[..], &sealed].concat()
    }

    /// `Corrupt` if it was not sealed under that cover.
    pub fn open_snapshot(&self, cover: &[u8], sealed: &[u8]) -> Result<Vec<u8>> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_BYTES>().ok_or_else(broken)?;
        self.places.open(*nonce, &self.bound(b"snapshot", cover), sealed).ok_or_else(broken)
    }

    fn keyed(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_keyed(&self.names);
        for part in parts {
            hasher.update(part);
        }
        hasher.finalize().into()
    }

    /// What a sealed thing is bound to: no two kinds begin alike.
    fn bound(&self, kind: &[u8], identity: &[u8]) -> Vec<u8> {
        [&self.repository.as_bytes()[..], kind, b":", identity].concat()
    }
}

fn broken() -> Error {
    Error::corrupt("its seal is broken: it is not what was sealed under this key")
}

/// Never the key.
impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Vault({})", self.repository)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vault(key: u8, repository: u128) -> Vault {
        Vault::new(&Secret([key; 32]), Uuid::from_u128(repository))
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Others can try their reader with these; docs/formats.md has them.
    #[test]
    fn what_is_sealed_is_what_the_page_on_formats_says() {
        let vault = vault(7, 1);
        let (hash, digest) = (ChunkHash([1; 32]), Digest([2; 32]));
        let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/formats.md");
        let page = std::fs::read_to_string(page).unwrap();
        let made = [
            hex(&vault.veiled(&digest).0),
            hex(&vault.seal_chunk(hash, b"a frame")),
            hex(&vault.seal_index(&digest, b"a frame")),
            hex(&vault.seal_snapshot(b"a cover", b"a text")),
            hex(&Scheme::of(&Secret([7; 32]), Uuid::from_u128(1)).check.0),
        ];
        let missing: Vec<_> = made.iter().filter(|made| !page.contains(*made)).collect();
        assert!(missing.is_empty(), "not on the page: {missing:#?}");
    }

    #[test]
    fn nothing_sealed_passes_for_anything_else() {
        let (one, other_key, other_place) = (vault(1, 1), vault(2, 1), vault(1, 2));
        let (hash, digest) = (ChunkHash([5; 32]), Digest([5; 32]));
        let chunk = one.seal_chunk(hash, b"a frame");
        assert_eq!(chunk.len() as u64, 7 + OVERHEAD);
        assert_eq!(one.open_chunk(hash, &chunk), Ok(b"a frame".to_vec()));
        let index = one.seal_index(&digest, b"a frame");
        assert_eq!(one.open_index(&digest, &index), Ok(b"a frame".to_vec()));
        let snapshot = one.seal_snapshot(b"a cover", b"a text");
        assert_eq!(one.open_snapshot(b"a cover", &snapshot), Ok(b"a text".to_vec()));
        for stranger in [&other_key, &other_place] {
            stranger.open_chunk(hash, &chunk).unwrap_err();
            stranger.open_index(&digest, &index).unwrap_err();
            stranger.open_snapshot(b"a cover", &snapshot).unwrap_err();
        }
        assert_ne!(one.veiled(&digest), other_key.veiled(&digest));
        one.open_chunk(ChunkHash([6; 32]), &chunk).unwrap_err();
        one.open_index(&digest, &chunk).unwrap_err();
        one.open_chunk(hash, &index).unwrap_err();
        one.open_snapshot(b"a covey", &snapshot).unwrap_err();
        for length in 0..snapshot.len() {
            one.open_snapshot(b"a cover", &snapshot[..length]).unwrap_err();
        }
    }

    #[test]
    fn a_key_is_64_hex_digits_and_shows_itself_to_nobody() {
        let key = Secret::draw().unwrap();
        assert_eq!(Secret::parse(&key.reveal()), Some(key.clone()));
        assert_eq!(Secret::parse(&format!(" {}\n\n", key.reveal())), Some(key.clone()));
        for wrong in ["", "12", &key.reveal()[1..], "AGE-SECRET-KEY-1", &"g".repeat(64)] {
            assert_eq!(Secret::parse(wrong), None, "{wrong}");
        }
        let scheme = Scheme::of(&key, Uuid::from_u128(1));
        let opened = scheme.vault(&key, Uuid::from_u128(1)).unwrap();
        for shown in [format!("{key:?}"), format!("{scheme:?}"), format!("{opened:?}")] {
            assert!(!shown.contains(&key.reveal()[..16]), "{shown}");
        }
        assert!(scheme.vault(&key, Uuid::from_u128(2)).is_none());
        assert!(scheme.vault(&Secret::draw().unwrap(), Uuid::from_u128(1)).is_none());
    }
}
