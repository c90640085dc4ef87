//! Join tokens: how a machine proves that it has one.
//!
//! The secret is a key (Ed25519), and the cluster keeps its public half. Whoever joins signs who it
//! is, and sends that: so nobody who is asked, and nobody who listens, learns the secret, whether
//! they belong to the cluster or not. What they hear is good for this process at this address,
//! under the name of its certificate, alone: a node of another cluster that is asked by mistake
//! cannot join with it in the machine's place.
//!
//! A token is a line of text: `ddbj_`, the token's id, `_`, and the secret. Whether it still holds
//! is `cluster::access`' to say.

use std::{fmt, fs::File, io::Read as _, os::unix::fs::PermissionsExt as _, path::Path};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};

use crate::{
    base::{
        error::{Context as _, Error, Result},
        ids::{NodeId, TokenId},
        limits,
    },
    proto::internal::v1::JoinProof,
};

/// What a join token begins with, so that whoever finds one knows what it is.
const PREFIX: &str = "ddbj_";
/// What is signed begins with this: a signature for anything else is none for this.
const SIGNED: &[u8] = b"devicedb join 1\0";

/// A join token with its secret.
pub struct JoinToken {
    id: TokenId,
    seed: [u8; 32],
    key: Ed25519KeyPair,
}

/// Who joins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Joiner<'a> {
    pub node: NodeId,
    /// Random, drawn when its process started.
    pub incarnation: u64,
    /// Where others reach it.
    pub address: &'a str,
    /// In its certificate; none where it has none, or has shown none.
    pub name: Option<&'a str>,
}

impl Joiner<'_> {
    fn signed(&self) -> Vec<u8> {
        let Joiner { node, incarnation, address, name } = self;
        let (numbers, bytes) = ([node.0, *incarnation, address.len() as u64], address.as_bytes());
        let numbers = numbers.map(u64::to_be_bytes).concat();
        [SIGNED, &numbers, bytes, name.unwrap_or_default().as_bytes()].concat()
    }
}

impl JoinToken {
    /// Of 32 bytes that nobody can guess.
    pub fn new(id: TokenId, seed: [u8; 32]) -> Result<JoinToken> {
        let key = Ed25519KeyPair::from_seed_unchecked(&seed)
            .map_err(|_| Error::invalid("the secret of a join token cannot be a key"))?;
        Ok(JoinToken { id, seed, key })
    }

    /// From the file that a start names. It is a secret: others must not be able to read it.
    pub fn read(path: &Path) -> Result<JoinToken> {
        let place = format!("the join token in {}", path.display());
        let file = File::open(path).at(&place)?;
        let found = file.metadata().at(&place)?;
        if found.is_file() && found.permissions().mode() & 0o077 != 0 {
            return Err(Error::invalid(format!(
                "{place}: others can read the file, and join with it: chmod 600 {}",
                path.display()
            )));
        }
        let mut text = String::new();
        let most = limits::TOKEN_SECRET_BYTES_MAX as u64;
        file.take(most).read_to_string(&mut text).at(&place)?;
        JoinToken::parse(text.trim()).map_err(|e| e.at(&place))
    }

    fn parse(text: &str) -> Result<JoinToken> {
        let parsed = text.strip_prefix(PREFIX).and_then(|rest| {
            let (id, secret) = rest.split_once('_')?;
            Some((id.parse().ok()?, URL_SAFE_NO_PAD.decode(secret).ok()?.try_into().ok()?))
        });
        let (id, seed) = parsed.ok_or_else(|| {
            Error::invalid(
                "it is none: a join token is one line, ddbj_, 8 digits, _ and a secret, as ddbctl \
                 token create NAME --join makes it",
            )
        })?;
        JoinToken::new(id, seed)
    }

    /// The token as it is handed out.
    pub fn text(&self) -> String {
        format!("{PREFIX}{}_{}", self.id, URL_SAFE_NO_PAD.encode(self.seed))
    }

    /// What the cluster keeps.
    pub fn public(&self) -> [u8; 32] {
        self.key.public_key().as_ref().try_into().expect("keys of Ed25519 are 32 bytes")
    }

    pub fn prove(&self, joiner: &Joiner<'_>) -> JoinProof {
        let signature = self.key.sign(&joiner.signed()).as_ref().to_vec().into();
        let name = joiner.name.unwrap_or_default().to_owned();
        JoinProof { token_id: self.id.0, signature, name }
    }
}

/// Never the secret.
impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken({})", self.id)
    }
}

/// Whether somebody has signed this who has the token of this public key. A joiner that has shown
/// no certificate may have one that it could not show, where TLS is optional.
pub fn is_proved(public: &[u8; 32], proof: &JoinProof, joiner: &Joiner<'_>) -> bool {
    if joiner.name.is_some_and(|name| name != proof.name) {
        return false;
    }
    let signed = Joiner { name: Some(&proof.name), ..*joiner }.signed();
    UnparsedPublicKey::new(&ED25519, public).verify(&signed, &proof.signature).is_ok()
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::OpenOptionsExt as _};

    use super::*;

    const JOINER: Joiner<'_> =
        Joiner { node: NodeId(7), incarnation: 9, address: "c:8080", name: Some("c") };

    fn token(seed: u8) -> JoinToken {
        JoinToken::new(TokenId(0x0bad_cafe), [seed; 32]).unwrap()
    }

    #[test]
    fn who_has_the_token_proves_it_for_one_process_at_one_address_and_shows_no_secret() {
        let mine = token(1);
        let proof = mine.prove(&JOINER);
        assert!(is_proved(&mine.public(), &proof, &JOINER));
        assert!(!is_proved(&token(2).public(), &proof, &JOINER), "another token");
        for other in [
            Joiner { node: NodeId(8), ..JOINER },
            Joiner { incarnation: 8, ..JOINER },
            Joiner { address: "d:8080", ..JOINER },
            Joiner { address: "c:808", name: Some("0c"), ..JOINER },
            Joiner { name: Some("d"), ..JOINER },
            Joiner { name: Some(""), ..JOINER },
        ] {
            assert!(!is_proved(&mine.public(), &proof, &other), "{other:?}");
        }
        assert!(is_proved(&mine.public(), &proof, &Joiner { name: None, ..JOINER }));
        let renamed = JoinProof { name: "d".into(), ..proof.clone() };
        let as_named = Joiner { name: Some("d"), ..JOINER };
        assert!(!is_proved(&mine.public(), &renamed, &as_named), "a name that was not signed");
        for length in [0, 63, 64] {
            let forged = JoinProof { signature: vec![0; length].into(), ..proof.clone() };
            assert!(!is_proved(&mine.public(), &forged, &JOINER));
        }
        let secret = URL_SAFE_NO_PAD.encode([1; 32]);
        assert!(mine.text().ends_with(&secret) && !format!("{mine:?}").contains(&secret));
        let sent = prost::Message::encode_to_vec(&proof);
        assert!(!sent.windows(32).any(|bytes| bytes == [1; 32]));
    }

    #[test]
    fn a_token_comes_out_of_its_file_as_it_was_handed_out_and_nothing_else_does() {
        let dir = tempfile::tempdir().unwrap();
        let write = |text: &str, mode: u32| {
            let path = dir.path().join("token");
            let _ = fs::remove_file(&path);
            let mut options = fs::OpenOptions::new();
            let mut file = options.write(true).create_new(true).mode(mode).open(&path).unwrap();
            std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
            JoinToken::read(&path)
        };
        let text = token(3).text();
        assert_eq!(write(&format!("{text}\n"), 0o600).unwrap().public(), token(3).public());
        let told = write(&text, 0o644).unwrap_err().message;
        assert!(told.contains("chmod 600"), "{told}");
        for wrong in ["", "ddb_0badcafe_x", &text[..40], &format!("{text}{text}"), "ddbj_0_x"] {
            let told = write(wrong, 0o600).unwrap_err().message;
            assert!(told.contains("it is none") && !told.contains("ddb_"), "{told}");
        }
        let told = JoinToken::read(&dir.path().join("none")).unwrap_err().message;
        assert!(told.contains("none: "), "{told}");
    }
}
