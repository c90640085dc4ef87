//! Keys of recipients, and a short secret that is wrapped for them: the age file format, by the
//! crate `age`.
//!
//! What is wrapped here the `age` tool opens, and identities and recipients are the tool's: those
//! of X25519, `age1...` and `AGE-SECRET-KEY-1...`. No passphrases, plugins, SSH keys or
//! post-quantum recipients, and no armour.

use std::{
    fmt,
    io::{Read as _, Write as _},
    str::FromStr,
};

use age::{DecryptError, Decryptor, Encryptor, secrecy::ExposeSecret as _, x25519};
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::base::{
    error::{Error, Result},
    limits,
};

/// Somebody for whom a part is sealed: `age1...`. Ordered as its text is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Recipient {
    text: String,
}

/// A recipient's secret: `AGE-SECRET-KEY-1...`.
pub struct Identity(x25519::Identity);

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
    let keys: Vec<x25519::Recipient> = recipients.iter().map(Recipient::key).collect();
    let unusable = |e: &dyn fmt::Display| {
        Error::invalid(format!("the recipients are no keys to encrypt to: {e}"))
    };
    let to = keys.iter().map(|key| key as &dyn age::Recipient);
    let encryptor = Encryptor::with_recipients(to).map_err(|e| unusable(&e))?;
    let mut file = Vec::new();
    let mut writer = encryptor.wrap_output(&mut file).map_err(|e| unusable(&e))?;
    writer.write_all(secret).and_then(|()| writer.finish()).map_err(|e| unusable(&e))?;
    Ok(file)
}

/// The secret, if one of the identities is a recipient's. `Corrupt` if it is no such file, or not
/// what was written.
pub fn unwrap(file: &[u8], identities: &[Identity]) -> Result<Option<Vec<u8>>> {
    let broken = |e: DecryptError| {
        let what = format!("its wrapped key was changed after it was written: {e}");
        Error::corrupt(what).with_source(e)
    };
    let decryptor = Decryptor::new_buffered(file).map_err(broken)?;
    let with = identities.iter().map(|Identity(secret)| secret as &dyn age::Identity);
    let reader = match decryptor.decrypt(with) {
        Ok(reader) => reader,
        Err(DecryptError::NoMatchingKeys) => return Ok(None),
        Err(e) => return Err(broken(e)),
    };
    let mut secret = Vec::new();
    let read = reader.take(limits::SEALED_SECRET_BYTES_MAX).read_to_end(&mut secret);
    read.map_err(|e| broken(DecryptError::Io(e)))?;
    Ok(Some(secret))
}

impl Recipient {
    fn key(&self) -> x25519::Recipient {
        self.text.parse().expect("its text was parsed when it was made")
    }
}

impl FromStr for Recipient {
    type Err = Error;

    fn from_str(text: &str) -> Result<Recipient> {
        let key = text.parse().ok().filter(|key: &x25519::Recipient| key.to_string() == text);
        key.map(|key| Recipient { text: key.to_string() }).ok_or_else(|| {
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
    /// A new one.
    pub fn draw() -> Identity {
        Identity(x25519::Identity::generate())
    }

    pub fn recipient(&self) -> Recipient {
        Recipient { text: self.0.to_public().to_string() }
    }

    /// The secret itself, for the file that keeps it.
    pub fn reveal(&self) -> String {
        self.0.to_string().expose_secret().to_owned()
    }
}

impl FromStr for Identity {
    type Err = Error;

    /// The message does not repeat the text.
    fn from_str(text: &str) -> Result<Identity> {
        let identity = text.parse().ok().map(Identity).filter(|i| i.reveal() == text);
        identity.ok_or_else(|| Error::invalid("it is no X25519 identity, AGE-SECRET-KEY-1..."))
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity of {}", self.recipient())
    }
}
