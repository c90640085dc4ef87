//! The age file format, version 1, as far as a seal needs it: a short secret for X25519 recipients.
//!
//! The format is that of <https://age-encryption.org/v1> (C2SP, `age.md`). What is wrapped here the
//! `age` tool opens, and identities and recipients are the tool's. Of files it reads only what
//! `wrap` writes: every stanza is X25519, and the payload is one chunk. It is written here, on ring
//! and x25519-dalek, since it takes 200 lines and the crate for the whole format brings 90 others.
//!
//! No passphrases, plugins, SSH keys or post-quantum recipients, and no armour.

use std::{fmt, str::FromStr};

use base64::{Engine as _, prelude::BASE64_STANDARD_NO_PAD as BASE64};
use bech32::{Bech32, Hrp, primitives::decode::CheckedHrpstring};
use ring::{
    aead::{self, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey},
    hkdf::{self, HKDF_SHA256},
    hmac,
    rand::{SecureRandom as _, SystemRandom},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use x25519_dalek::{PublicKey, StaticSecret};

use crate::base::error::{Error, Result};

/// Somebody for whom a part is sealed: `age1...`. Ordered as its text is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Recipient {
    text: String,
    key: [u8; 32],
}

/// A recipient's secret: `AGE-SECRET-KEY-1...`.
pub struct Identity {
    secret: StaticSecret,
    recipient: Recipient,
}

const PUBLIC: Hrp = Hrp::parse_unchecked("age");
const SECRET: Hrp = Hrp::parse_unchecked("age-secret-key-");
const VERSION: &str = "age-encryption.org/v1\n";
const STANZA: &str = "-> X25519 ";
const END: &str = "---";
const X25519: &[u8] = b"age-encryption.org/v1/X25519";
const FILE_KEY_BYTES: usize = 16;
const PAYLOAD_NONCE_BYTES: usize = 16;
/// The nonce of the payload's first chunk, which is also its last.
const ONLY_CHUNK: [u8; aead::NONCE_LEN] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

/// Bytes from the operating system.
pub fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| Error::unavailable("the operating system gives no random bytes"))?;
    Ok(bytes)
}

/// An age file that holds a secret for recipients.
pub fn wrap(secret: &[u8], recipients: &[Recipient]) -> Result<Vec<u8>> {
    let file_key: [u8; FILE_KEY_BYTES] = random()?;
    let mut header = VERSION.to_owned();
    for recipient in recipients {
        let ephemeral = StaticSecret::from(random::<32>()?);
        let share = PublicKey::from(&ephemeral);
        let key = stanza_key(&ephemeral, &PublicKey::from(recipient.key), &share, recipient)
            .ok_or_else(|| Error::invalid(format!("{recipient} is no key to encrypt to")))?;
        let mut body = file_key.to_vec();
        seal(&key, [0; aead::NONCE_LEN], &mut body);
        header += &format!("{STANZA}{}\n{}\n", BASE64.encode(share), BASE64.encode(body));
    }
    header += END;
    let mac = hmac::sign(&header_key(&file_key), header.as_bytes());
    let nonce: [u8; PAYLOAD_NONCE_BYTES] = random()?;
    let mut payload = secret.to_vec();
    seal(&payload_key(&file_key, &nonce), ONLY_CHUNK, &mut payload);
    header += &format!(" {}\n", BASE64.encode(mac));
    Ok([header.as_bytes(), &nonce, &payload].concat())
}

/// The secret, if one of the identities is a recipient's. `Corrupt` if it is no such file, or not
/// what was written.
pub fn unwrap(file: &[u8], identities: &[Identity]) -> Result<Option<Vec<u8>>> {
    let Header { stanzas, authenticated, mac, payload } = Header::parse(file)
        .ok_or_else(|| Error::corrupt("its wrapped key is no age file for X25519 recipients"))?;
    let found = identities
        .iter()
        .find_map(|identity| stanzas.iter().find_map(|stanza| stanza.open(identity)));
    let Some(file_key) = found else { return Ok(None) };
    let broken = || Error::corrupt("its wrapped key was changed after it was written");
    hmac::verify(&header_key(&file_key), authenticated, &mac).map_err(|_| broken())?;
    let (nonce, sealed) = payload.split_at_checked(PAYLOAD_NONCE_BYTES).ok_or_else(broken)?;
    let secret = open(&payload_key(&file_key, nonce), ONLY_CHUNK, sealed).ok_or_else(broken)?;
    Ok(Some(secret))
}

/// What stands before the payload.
struct Header<'a> {
    stanzas: Vec<Stanza>,
    /// What the `mac` is of.
    authenticated: &'a [u8],
    mac: Vec<u8>,
    payload: &'a [u8],
}

/// The file key, wrapped for one recipient.
struct Stanza {
    share: [u8; 32],
    body: Vec<u8>,
}

impl<'a> Header<'a> {
    fn parse(file: &'a [u8]) -> Option<Header<'a>> {
        let mut rest = file.strip_prefix(VERSION.as_bytes())?;
        let mut stanzas = Vec::new();
        while let Some(stanza) = rest.strip_prefix(STANZA.as_bytes()) {
            let (share, after) = line(stanza)?;
            let (body, after) = line(after)?;
            stanzas.push(Stanza { share: share.try_into().ok()?, body });
            rest = after;
        }
        let after = rest.strip_prefix(END.as_bytes())?;
        let authenticated = &file[..file.len() - after.len()];
        let (mac, payload) = line(after.strip_prefix(b" ")?)?;
        (!stanzas.is_empty()).then_some(Header { stanzas, authenticated, mac, payload })
    }
}

/// A line of base64, and what follows it.
fn line(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let end = text.iter().position(|byte| *byte == b'\n')?;
    Some((BASE64.decode(&text[..end]).ok()?, &text[end + 1..]))
}

impl Stanza {
    fn open(&self, identity: &Identity) -> Option<Vec<u8>> {
        let share = PublicKey::from(self.share);
        let key = stanza_key(&identity.secret, &share, &share, &identity.recipient)?;
        let file_key = open(&key, [0; aead::NONCE_LEN], &self.body)?;
        (file_key.len() == FILE_KEY_BYTES).then_some(file_key)
    }
}

/// None where the two keys make no secret, as points of low order do not.
fn stanza_key(
    secret: &StaticSecret,
    public: &PublicKey,
    share: &PublicKey,
    recipient: &Recipient,
) -> Option<LessSafeKey> {
    let shared = secret.diffie_hellman(public);
    let salt = [share.as_bytes().as_slice(), &recipient.key].concat();
    shared.was_contributory().then(|| cipher(&salt, shared.as_bytes(), X25519))
}

fn payload_key(file_key: &[u8], nonce: &[u8]) -> LessSafeKey {
    cipher(nonce, file_key, b"payload")
}

fn cipher(salt: &[u8], secret: &[u8], info: &[u8]) -> LessSafeKey {
    let derived = hkdf::Salt::new(HKDF_SHA256, salt).extract(secret);
    let info = [info];
    let key = derived.expand(&info, &CHACHA20_POLY1305).expect("HKDF makes keys of 32 bytes");
    LessSafeKey::new(UnboundKey::from(key))
}

fn header_key(file_key: &[u8]) -> hmac::Key {
    let derived = hkdf::Salt::new(HKDF_SHA256, &[]).extract(file_key);
    let key = derived.expand(&[b"header"], hmac::HMAC_SHA256).expect("HKDF makes keys of 32 bytes");
    hmac::Key::from(key)
}

fn seal(key: &LessSafeKey, nonce: [u8; aead::NONCE_LEN], data: &mut Vec<u8>) {
    let nonce = Nonce::assume_unique_for_key(nonce);
    key.seal_in_place_append_tag(nonce, Aad::empty(), data).expect("a short text can be sealed");
}

fn open(key: &LessSafeKey, nonce: [u8; aead::NONCE_LEN], sealed: &[u8]) -> Option<Vec<u8>> {
    let mut data = sealed.to_vec();
    let nonce = Nonce::assume_unique_for_key(nonce);
    let plain = key.open_in_place(nonce, Aad::empty(), &mut data).ok()?.len();
    data.truncate(plain);
    Some(data)
}

impl Recipient {
    fn of(key: [u8; 32]) -> Recipient {
        let text = bech32::encode::<Bech32>(PUBLIC, &key).expect("32 bytes fit Bech32");
        Recipient { text, key }
    }
}

impl FromStr for Recipient {
    type Err = Error;

    fn from_str(text: &str) -> Result<Recipient> {
        let recipient = decoded(text, PUBLIC).map(Recipient::of).filter(|r| r.text == text);
        recipient.ok_or_else(|| {
            Error::invalid(format!(
                "{text:?} is no recipient: one of X25519 is age1 and 58 small letters and digits, \
                 as ddbctl snapshot keygen and age-keygen print it"
            ))
        })
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for Recipient {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Recipient {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Recipient, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(|e: Error| de::Error::custom(e.message))
    }
}

impl Identity {
    fn of(key: [u8; 32]) -> Identity {
        let secret = StaticSecret::from(key);
        let recipient = Recipient::of(PublicKey::from(&secret).to_bytes());
        Identity { secret, recipient }
    }

    /// A new one.
    pub fn draw() -> Result<Identity> {
        random().map(Identity::of)
    }

    pub fn recipient(&self) -> Recipient {
        self.recipient.clone()
    }

    /// The secret itself, for the file that keeps it.
    pub fn reveal(&self) -> String {
        let text = bech32::encode::<Bech32>(SECRET, self.secret.as_bytes());
        text.expect("32 bytes fit Bech32").to_uppercase()
    }
}

impl FromStr for Identity {
    type Err = Error;

    /// The message does not repeat the text.
    fn from_str(text: &str) -> Result<Identity> {
        let identity = decoded(text, SECRET).map(Identity::of).filter(|i| i.reveal() == text);
        identity.ok_or_else(|| Error::invalid("it is no X25519 identity, AGE-SECRET-KEY-1..."))
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity of {}", self.recipient)
    }
}

fn decoded(text: &str, of: Hrp) -> Option<[u8; 32]> {
    let checked = CheckedHrpstring::new::<Bech32>(text).ok()?;
    let bytes: Vec<u8> = (checked.hrp() == of).then(|| checked.byte_iter().collect())?;
    bytes.try_into().ok()
}
