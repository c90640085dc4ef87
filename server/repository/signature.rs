//! Keys that sign, and signatures: ed25519 (RFC 8032), by the crate `ring`.
//!
//! A signing key is drawn once and kept by whoever may say what is in a repository. Its public key
//! is a word that everybody may know, and that readers name as the one they trust. A signature is
//! for one kind of text: the kind stands in front of what is signed, so none passes for another.

use std::{fmt, str::FromStr};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{
    base::error::{Error, Result},
    part::seal::random,
};

/// Whose signature it is: `ed25519-` and 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 32]);

/// Under a text of one kind.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature([u8; 64]);

/// What signs. It is a secret, which no message repeats.
pub struct SigningKey {
    seed: [u8; 32],
    pair: Ed25519KeyPair,
}

/// What a signature is under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Catalogue,
    Voucher,
}

const PUBLIC: &str = "ed25519-";
const SECRET: &str = "DEVICEDB-SIGNING-KEY-";

impl Kind {
    fn before(self) -> &'static str {
        match self {
            Kind::Catalogue => "devicedb 2026 signed repository: catalogue\n",
            Kind::Voucher => "devicedb 2026 signed repository: voucher\n",
        }
    }
}

impl PublicKey {
    /// Whether the owner of the key has signed this text.
    pub fn has_signed(&self, kind: Kind, text: &[u8], signature: &Signature) -> bool {
        let signed = [kind.before().as_bytes(), text].concat();
        UnparsedPublicKey::new(&ED25519, self.0).verify(&signed, &signature.0).is_ok()
    }
}

impl SigningKey {
    pub fn draw() -> Result<SigningKey> {
        random().map(SigningKey::of)
    }

    pub fn of(seed: [u8; 32]) -> SigningKey {
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).expect("any 32 bytes are a seed");
        SigningKey { seed, pair }
    }

    /// Of a file as `reveal` writes it. What begins with # is for people.
    pub fn parse(text: &str) -> Option<SigningKey> {
        let mut lines = text.lines().map(str::trim);
        let mut words = lines.by_ref().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let (word, more) = (words.next()?, words.next());
        let seed = from_hex(word.strip_prefix(SECRET)?)?;
        more.is_none().then(|| SigningKey::of(seed))
    }

    /// The key itself, for the file that keeps it.
    pub fn reveal(&self) -> String {
        format!("# public key: {}\n{SECRET}{}\n", self.public(), to_hex(&self.seed))
    }

    pub fn public(&self) -> PublicKey {
        let bytes = self.pair.public_key().as_ref();
        PublicKey(bytes.try_into().expect("a public key has 32 bytes"))
    }

    pub fn sign(&self, kind: Kind, text: &[u8]) -> Signature {
        let signature = self.pair.sign(&[kind.before().as_bytes(), text].concat());
        Signature(signature.as_ref().try_into().expect("a signature has 64 bytes"))
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.public())
    }
}

impl FromStr for PublicKey {
    type Err = Error;

    /// The message does not repeat the text: it may be a secret.
    fn from_str(text: &str) -> Result<PublicKey> {
        let key = text.strip_prefix(PUBLIC).and_then(from_hex).map(PublicKey);
        key.filter(|key| key.to_string() == text).ok_or_else(|| {
            Error::invalid(format!(
                "that is no public key: one is {PUBLIC} and 64 small hex digits, as ddbctl \
                 repository keygen prints it"
            ))
        })
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PUBLIC}{}", to_hex(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<PublicKey, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(|e: Error| de::Error::custom(e.message))
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64_STANDARD.encode(self.0))
    }
}

impl Serialize for Signature {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64_STANDARD.encode(self.0))
    }
}

impl<'de> Deserialize<'de> for Signature {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Signature, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = BASE64_STANDARD.decode(text).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(Signature).ok_or_else(|| de::Error::custom("a signature is 64 bytes in base64"))
    }
}

fn to_hex(bytes: &[u8; 32]) -> String {
    blake3::Hash::from_bytes(*bytes).to_hex().to_string()
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    blake3::Hash::from_hex(text).ok().map(|bytes| *bytes.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8032, section 7.1, test 1: the seed and its public key.
    #[test]
    fn a_key_is_that_of_the_standard() {
        let seed = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
        let public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
        let key = SigningKey::of(from_hex(seed).unwrap());
        assert_eq!(key.public().to_string(), format!("{PUBLIC}{public}"));
    }

    #[test]
    fn a_signature_is_for_one_key_one_kind_and_one_text() {
        let (key, other) = (SigningKey::of([1; 32]), SigningKey::of([2; 32]));
        let signature = key.sign(Kind::Catalogue, b"text");
        assert_eq!(signature, key.sign(Kind::Catalogue, b"text"), "it follows from the text");
        assert!(key.public().has_signed(Kind::Catalogue, b"text", &signature));
        assert!(!key.public().has_signed(Kind::Voucher, b"text", &signature));
        assert!(!key.public().has_signed(Kind::Catalogue, b"texts", &signature));
        assert!(!other.public().has_signed(Kind::Catalogue, b"text", &signature));
        for at in 0..64 {
            let mut flipped = signature;
            flipped.0[at] ^= 1;
            assert!(!key.public().has_signed(Kind::Catalogue, b"text", &flipped), "byte {at}");
        }
    }

    #[test]
    fn keys_come_back_as_they_were_written_and_nothing_else_is_one() {
        let key = SigningKey::draw().unwrap();
        let text = key.reveal();
        assert_eq!(SigningKey::parse(&text).unwrap().public(), key.public());
        let public = key.public().to_string();
        assert_eq!(public.parse::<PublicKey>(), Ok(key.public()));
        assert!(!format!("{key:?}").contains(&to_hex(&key.seed)), "no message says the secret");
        for no in ["", "# public key", &public, &text.repeat(2), &text[..text.len() - 3]] {
            assert!(SigningKey::parse(no).is_none(), "{no}");
        }
        let secret = text.lines().nth(1).unwrap();
        for no in ["", "ed25519-", &public[..70], &public.to_uppercase(), secret] {
            let e = no.parse::<PublicKey>().unwrap_err();
            assert!(!e.message.contains(&to_hex(&key.seed)), "{e}");
        }
    }
}
