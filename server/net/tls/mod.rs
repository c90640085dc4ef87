//! TLS on the one port, for those who come in and for those who go out: the only door to rustls.
//!
//! - TLS 1.3 alone, h2 and http/1.1 by ALPN. Nothing is resumed and nothing is sent early, so every
//!   connection has proved anew who it is by the files of now.
//! - The handshake proves that the other side holds the key of its certificate. What that
//!   certificate makes of it, a [`Caller`], is decided right behind the handshake by rustls' own
//!   verifier: so a caller that is not believed hears why, in the answer to its first call, where a
//!   TLS alert would have one number. A connection without a certificate, or with one that is not
//!   believed, is nobody: `rpc::callers` lets it see whether the node lives, and no more.
//! - Who goes out verifies the other side in the handshake: its issuer, its dates, and that it is
//!   for the host that was dialled. Nodes also ask of whom they dial that it is a node.
//! - A node is told from a client by the URI in its certificate ([`name`]).
//!
//! Files, in reading order: `name` (what a certificate says), `material` (a set of files that fits
//! together), `keys` (the set in use, read again when it changes), `belief` (whether who is
//! connected is believed still), `greet` (incoming), `dial` (outgoing), `ticket` (join tokens).
//! Which node of the registry a certificate's name belongs to is looked at where nodes greet each
//! other (`net::handshake`).

pub mod name;
pub mod material;
mod keys;
mod belief;
mod greet;
mod dial;
pub mod ticket;

pub use dial::{Fault, FaultKind, Noted, Shown, Trust, connect, is_refusal};
pub use greet::{Greeted, Line};
pub use keys::Tls;
pub use material::Files;
pub use name::{Bearer, Certificate};

use std::{fmt, path::PathBuf, str::FromStr};

use tokio_rustls::rustls::crypto::ring;

use crate::base::error::{Error, Result};

/// Who takes and speaks TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Nobody.
    Off,
    /// Those who do; others come in as they did before.
    Optional,
    /// Everybody.
    Required,
}

impl Mode {
    const ALL: [(Mode, &str); 3] =
        [(Mode::Off, "off"), (Mode::Optional, "optional"), (Mode::Required, "required")];
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Mode, String> {
        let found = Mode::ALL.iter().find(|(_, name)| *name == text);
        found.map(|(mode, _)| *mode).ok_or_else(|| "off, optional or required".to_owned())
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Mode::ALL
            .iter()
            .find(|(mode, _)| mode == self)
            .map_or(Ok(()), |(_, name)| f.write_str(name))
    }
}

/// What a start says of TLS, as it was said.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    pub mode: Option<Mode>,
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
    pub ca: Option<PathBuf>,
    pub crl: Option<PathBuf>,
}

impl Setup {
    /// Files alone mean that TLS is required; without a word there is none.
    pub fn mode(&self) -> Mode {
        let files = [&self.cert, &self.key, &self.ca, &self.crl].iter().any(|file| file.is_some());
        self.mode.unwrap_or(if files { Mode::Required } else { Mode::Off })
    }

    /// The files, where there is to be TLS; refused unless all are named that are needed.
    pub fn files(&self) -> Result<Option<Files>> {
        let mode = self.mode();
        if mode == Mode::Off {
            return Ok(None);
        }
        let (Some(cert), Some(key), Some(ca)) = (&self.cert, &self.key, &self.ca) else {
            return Err(Error::invalid(format!(
                "TLS is {mode}, and needs three files: --tls-cert and --tls-key of this node, and \
                 --tls-ca that issues for nodes and clients. `ddbctl cert` makes them"
            )));
        };
        Ok(Some(Files {
            cert: cert.clone(),
            key: key.clone(),
            ca: ca.clone(),
            crl: self.crl.clone(),
        }))
    }
}

/// Who is at the other end of a connection that came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// It speaks no TLS, and nobody has to: it may do everything.
    Anybody,
    /// It speaks no TLS to a node that requires it.
    Plain,
    /// It speaks TLS and shows no certificate.
    Nobody,
    /// It shows a certificate that is not believed, for this reason.
    Refused(String),
    Known(Bearer),
}

impl Caller {
    pub fn is_node(&self) -> bool {
        matches!(self, Caller::Known(bearer) if bearer.is_node)
    }
}

/// Bytes for a secret, from the operating system.
pub fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    let filled = ring::default_provider().secure_random.fill(&mut bytes);
    filled.map(|()| bytes).map_err(|_| {
        Error::unavailable("the operating system gives no random bytes; see the machine's log")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_mean_required_and_a_mode_without_files_is_refused() {
        let some = |word: &str| Some(PathBuf::from(word));
        let all =
            Setup { mode: None, cert: some("cert"), key: some("key"), ca: some("ca"), crl: None };
        assert_eq!((Setup::default().mode(), all.mode()), (Mode::Off, Mode::Required));
        assert_eq!(Setup::default().files(), Ok(None));
        assert!(all.files().is_ok_and(|files| files.is_some()));
        let off = Setup { mode: Some(Mode::Off), ..all.clone() };
        assert_eq!(off.files(), Ok(None));
        for mode in [Mode::Optional, Mode::Required] {
            let bare = Setup { mode: Some(mode), ..Setup::default() };
            let e = bare.files().unwrap_err();
            assert!(e.message.contains("--tls-cert") && e.message.contains("--tls-ca"), "{e}");
            assert_eq!(mode.to_string().parse(), Ok(mode));
        }
        let half = Setup { key: None, ..all };
        assert!(half.files().is_err());
        assert!("on".parse::<Mode>().is_err());
    }
}
