//! Sealed parts: a part whose rows only those can read for whom it was sealed.
//!
//! A *seal* is a random key of 32 bytes, and the same key wrapped for recipients as an age file.
//! The wrapped key stands in the manifest, so a part carries all that a recipient needs. Two keys
//! are derived from the one:
//!
//! - a chunk's **name** is the keyed blake3 of its plain bytes. Without the key nobody can try out
//!   by its name what a chunk holds; equal chunks have equal names under one seal and no other.
//! - a chunk's **file** is AES-256-GCM-SIV (RFC 8452) of its zstd frame, with the first 12 bytes of
//!   the name as nonce and the name as associated data. So a file is what its name says or is not
//!   opened, and equal chunks have equal files: what did not change is stored once, and a download
//!   goes on at any byte. Another zstd may make another frame of the same chunk; then one nonce has
//!   two messages, which this cipher bears and AES-GCM does not.
//!
//! Everything else of a part is as ever and is read without a key: which groups, marks, members,
//! addresses, and how many rows and bytes. Where a chunk ends depends on rows, and rows are
//! compressed before they are sealed, so sizes tell a little. A seal is no signature: whoever has
//! the recipients' names, which are public, can seal a part of their own making.
//!
//! `age` wraps the key; `kept` keeps a node's own seal. Keys are not wiped from memory: a node that
//! seals has the plain rows there too.

pub mod age;
pub mod cipher;
pub mod kept;

use std::{fmt, fs, io::Read as _, path::Path, sync::Arc};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::{Deserialize, Serialize};

pub use self::age::{Identity, Recipient, random, unwrap, wrap};
use self::cipher::{Cipher, nonce};
use crate::base::{
    error::{Error, Result},
    limits,
};

/// How a part is sealed, as its manifest says it. Nothing of it is secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seal {
    scheme: String,
    /// For people: who can open it. Ascending, none twice.
    recipients: Vec<Recipient>,
    /// The key, as an age file in base64.
    wrapped: String,
}

/// What a seal's key opens and makes.
pub struct Keys {
    name: [u8; 32],
    cipher: Cipher,
}

/// A seal and its keys: whoever has them seals and opens.
#[derive(Clone, Debug)]
pub struct Sealing {
    pub seal: Seal,
    pub keys: Arc<Keys>,
}

/// The identities of a file, with which sealed parts are opened.
pub struct Identities {
    place: String,
    list: Vec<Identity>,
}

/// The only scheme there is.
const SCHEME: &str = "blake3-aes256gcmsiv";
const NAMES: &str = "devicedb 2026 sealed part: names of chunks";
const DATA: &str = "devicedb 2026 sealed part: files of chunks";

impl Sealing {
    /// A new seal for these recipients.
    pub fn draw(recipients: &[Recipient]) -> Result<(Sealing, [u8; 32])> {
        let key = age::random()?;
        Ok((Sealing { seal: Seal::of(&key, recipients)?, keys: Arc::new(Keys::of(&key)) }, key))
    }
}

impl Seal {
    fn of(key: &[u8; 32], recipients: &[Recipient]) -> Result<Seal> {
        let recipients = in_order(recipients)?;
        let wrapped = BASE64_STANDARD.encode(age::wrap(key, &recipients)?);
        Ok(Seal { scheme: SCHEME.into(), recipients, wrapped })
    }

    pub fn recipients(&self) -> &[Recipient] {
        &self.recipients
    }

    /// Who can open it, for a message.
    pub fn named(&self) -> String {
        named(&self.recipients)
    }

    /// A short name for a seal: parts of one seal can be compared.
    pub fn short(&self) -> String {
        blake3::hash(self.wrapped.as_bytes()).to_hex()[..8].to_owned()
    }

    /// `Corrupt` if no seal says that. Whether somebody can open it is not known here.
    pub fn check(&self) -> Result<()> {
        if self.scheme != SCHEME {
            return Err(Error::corrupt(format!(
                "it is sealed by {:?}, and this program knows {SCHEME:?}",
                self.scheme
            )));
        }
        if in_order(&self.recipients).as_ref() != Ok(&self.recipients) {
            return Err(Error::corrupt(
                "the recipients of its seal are none, too many, not in order, or one stands there \
                 twice",
            ));
        }
        self.wrapped_key().map(drop)
    }

    /// The keys, if one of the identities is a recipient's. `Conflict` if none is, `Corrupt` if the
    /// wrapped key is damaged.
    pub fn open(&self, identities: &Identities) -> Result<Arc<Keys>> {
        let key = age::unwrap(&self.wrapped_key()?, &identities.list)?.ok_or_else(|| {
            Error::conflict(format!(
                "it is sealed to {}, and {} is of {}: name the identity file of one of its \
                 recipients",
                self.named(),
                identities.place,
                named(&identities.recipients())
            ))
        })?;
        let key: [u8; 32] = key
            .try_into()
            .map_err(|_| Error::corrupt("what its seal wraps is no key of 32 bytes"))?;
        Ok(Arc::new(Keys::of(&key)))
    }

    fn wrapped_key(&self) -> Result<Vec<u8>> {
        let wrapped = match self.wrapped.len() <= limits::SEAL_WRAPPED_BYTES_MAX {
            true => BASE64_STANDARD.decode(&self.wrapped).ok(),
            false => None,
        };
        wrapped.ok_or_else(|| Error::corrupt("the wrapped key of its seal is no base64, or long"))
    }
}

/// Ascending, none twice; `Invalid` if there are none or too many.
pub fn in_order(recipients: &[Recipient]) -> Result<Vec<Recipient>> {
    let mut sorted = recipients.to_vec();
    sorted.sort();
    sorted.dedup();
    if (1..=limits::SEAL_RECIPIENTS_MAX).contains(&sorted.len()) {
        return Ok(sorted);
    }
    Err(Error::invalid(format!(
        "a seal has 1 to {} recipients, not {}",
        limits::SEAL_RECIPIENTS_MAX,
        sorted.len()
    )))
}

/// Recipients for a message.
pub fn named(recipients: &[Recipient]) -> String {
    recipients.iter().map(Recipient::to_string).collect::<Vec<_>>().join(", ")
}

impl Keys {
    fn of(key: &[u8; 32]) -> Keys {
        let (name, data) = (blake3::derive_key(NAMES, key), blake3::derive_key(DATA, key));
        Keys { name, cipher: Cipher::new(&data) }
    }

    /// The name of a chunk with these plain bytes.
    pub fn name(&self, plain: &[u8]) -> [u8; 32] {
        blake3::keyed_hash(&self.name, plain).into()
    }

    /// The file of a chunk, 16 bytes longer than its frame.
    pub fn seal(&self, name: &[u8; 32], frame: &[u8]) -> Vec<u8> {
        self.cipher.seal(nonce(name), name, frame)
    }

    /// The frame of a chunk. `Corrupt` if the file is not what this name had under this seal.
    pub fn open(&self, name: &[u8; 32], stored: &[u8]) -> Result<Vec<u8>> {
        self.cipher
            .open(nonce(name), name, stored)
            .ok_or_else(|| Error::corrupt("its seal is broken: it is not what was sealed"))
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys")
    }
}

impl Identities {
    /// Reads an identity file as age-keygen and `ddbctl snapshot keygen` write it. `Invalid` if it
    /// is none. No message repeats what stands in it.
    pub fn read(path: &Path) -> Result<Identities> {
        let place = path.display().to_string();
        let mut text = String::new();
        let read = fs::File::open(path)
            .and_then(|file| file.take(limits::IDENTITY_FILE_BYTES_MAX).read_to_string(&mut text));
        read.map_err(|e| unusable(&place, &format!("cannot be read: {e}")).with_source(e))?;
        Identities::parse(place, &text)
    }

    /// Those of the text of an identity file.
    pub fn parse(place: String, text: &str) -> Result<Identities> {
        let unusable = |what: String| unusable(&place, &what);
        if text.starts_with("age-encryption.org/") || text.starts_with("-----BEGIN AGE ENCRYPTED") {
            return Err(unusable(
                "is locked with a passphrase: age -d opens it, and its plain text is wanted here"
                    .into(),
            ));
        }
        let lines = text.lines().enumerate().map(|(nth, line)| (nth + 1, line.trim()));
        let list = lines
            .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
            .map(|(nth, line)| {
                line.parse().map_err(|_| {
                    unusable(format!("has no X25519 identity, AGE-SECRET-KEY-1..., in line {nth}"))
                })
            })
            .collect::<Result<Vec<Identity>>>()?;
        match list.is_empty() {
            true => Err(unusable("holds no identity, AGE-SECRET-KEY-1...".into())),
            false => Ok(Identities { place, list }),
        }
    }

    /// To whom something has to be sealed for these to open it.
    pub fn recipients(&self) -> Vec<Recipient> {
        self.list.iter().map(Identity::recipient).collect()
    }

    /// What an age file holds, if it is for one of them. `Corrupt` if it is damaged.
    pub fn unwrap(&self, file: &[u8]) -> Result<Option<Vec<u8>>> {
        age::unwrap(file, &self.list)
    }
}

fn unusable(place: &str, what: &str) -> Error {
    Error::invalid(format!("identity file {place} {what}"))
}

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identities of {}", self.place)
    }
}

#[cfg(test)]
mod tests;
