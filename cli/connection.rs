//! One connection to one endpoint: plain, or over TLS where a CA was named; and who calls.
//!
//! A token goes over TLS, or stays on this machine: whoever reads it on its way could use it.

use std::{
    fs::File,
    io::Read as _,
    net::IpAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use tonic::{
    Request,
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint},
};

use super::{
    args::Secured,
    config::{private, unreadable},
    fault::{self, Fault},
    term::exit::{self, Failure},
};
use crate::{
    base::limits,
    net::{
        cork,
        tls::{self, FaultKind, Trust, material},
    },
};

/// How connections are opened. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// None to speak plainly.
    trust: Option<Trust>,
    /// What says with a call who makes it. It is marked as a secret, and `Debug` does not tell it.
    bearer: Option<MetadataValue<Ascii>>,
}

impl Access {
    /// Reads the files that are named.
    pub fn new(named: &Secured, endpoints: &[String]) -> Result<Access, Failure> {
        fits_together(named)?;
        let bearer = named.token_file.as_deref().map(bearer).transpose()?;
        let Some(ca) = &named.ca else {
            let elsewhere = endpoints.iter().find(|endpoint| !is_here(endpoint));
            return match elsewhere.filter(|_| bearer.is_some()) {
                Some(endpoint) => Err(Failure::usage(
                    format!("a token is not sent without TLS, and {endpoint} is another machine"),
                    "name the CA that has issued for the nodes with --ca, or in the context",
                )),
                None => Ok(Access { trust: None, bearer }),
            };
        };
        let own = named.cert.as_deref().zip(named.key.as_deref());
        let config = material::client(ca, own)
            .map_err(|e| Failure::usage(e.message, "name PEM files with --ca, --cert and --key"))?;
        let trust = Trust { config, name: named.server_name.clone(), node: None };
        Ok(Access { trust: Some(trust), bearer })
    }

    /// Writes into a call who makes it.
    pub fn mark<T>(&self, request: &mut Request<T>) {
        if let Some(bearer) = &self.bearer {
            request.metadata_mut().insert("authorization", bearer.clone());
        }
    }

    /// A connection of its own; a fault that says why there is none.
    pub async fn open(&self, endpoint: &str, within: Duration) -> Result<Channel, Fault> {
        let url = Bytes::from(format!("http://{endpoint}"));
        let named = Endpoint::from_shared(url)
            .map_err(|e| Fault::refused(fault::innermost(&e)))?
            .user_agent(concat!("ddbctl/", env!("CARGO_PKG_VERSION")))
            .map_err(|e| Fault::refused(e.to_string()))?;
        let roomy = named
            .initial_stream_window_size(limits::CTL_WINDOW)
            .initial_connection_window_size(limits::CTL_WINDOW)
            .max_frame_size(limits::FRAME_BYTES);
        let opening = async {
            match &self.trust {
                None => cork::connect(&roomy).await,
                Some(trust) => tls::connect(&roomy, trust.clone()).await,
            }
        };
        match tokio::time::timeout(within, opening).await {
            Ok(Ok(channel)) => Ok(channel),
            Ok(Err(e)) => Err(match tls::Fault::behind(&e) {
                Some(fault) => Fault::not_trusted(format!("{fault}{}", hint(fault.kind))),
                None => Fault::refused(fault::innermost(&e)),
            }),
            Err(_) => {
                Err(Fault::refused(format!("no connection within {:.1} s", within.as_secs_f64())))
            }
        }
    }
}

/// A certificate goes with its key, and neither without a CA nor with a token.
fn fits_together(named: &Secured) -> Result<(), Failure> {
    let lacks = |what: String, remedy: &str| Err(Failure::usage(what, remedy));
    let told = |path: &PathBuf| path.display().to_string();
    match (&named.cert, &named.key) {
        (Some(cert), None) => {
            return lacks(format!("{} has no key", told(cert)), "name its key with --key");
        }
        (None, Some(key)) => {
            let what = format!("{} has no certificate", told(key));
            return lacks(what, "name its certificate with --cert");
        }
        _ => {}
    }
    if let (Some(cert), Some(token)) = (&named.cert, &named.token_file) {
        return lacks(
            format!("{} and {} are two callers", told(cert), told(token)),
            "leave out the certificate or the token: a call has one caller",
        );
    }
    let needs_tls =
        [("a certificate", named.cert.is_some()), ("a server's name", named.server_name.is_some())];
    match needs_tls.iter().find(|(_, is_named)| *is_named && named.ca.is_none()) {
        Some((what, _)) => lacks(
            format!("{what} is named, and no CA: without one nothing is encrypted"),
            "name the CA that has issued for the nodes with --ca, or in the context",
        ),
        None => Ok(()),
    }
}

/// The token that a file holds, as calls carry it.
fn bearer(path: &Path) -> Result<MetadataValue<Ascii>, Failure> {
    let (mut text, most) = (String::new(), limits::CTL_TOKEN_BYTES_MAX);
    let file = File::open(path).map_err(|e| unreadable(path, &e))?;
    let mode = file.metadata().map_err(|e| unreadable(path, &e))?.permissions().mode();
    private(path, mode, "it holds a token")?;
    file.take(most + 1).read_to_string(&mut text).map_err(|e| unreadable(path, &e))?;
    let token = text.trim();
    let fits = |c: char| c.is_ascii_graphic();
    if token.is_empty() || text.len() as u64 > most || !token.chars().all(fits) {
        let place = path.display().to_string();
        let remedy = "write the token there on one line, as it was given, beginning with ddb_";
        return Err(Failure::new(exit::USAGE, "it holds no token", place, remedy));
    }
    let mut bearer: MetadataValue<Ascii> =
        format!("Bearer {token}").parse().expect("graphic characters of ASCII fit in a header");
    bearer.set_sensitive(true);
    Ok(bearer)
}

/// Whether what is sent there stays on this machine.
fn is_here(endpoint: &str) -> bool {
    let host = endpoint.rsplit_once(':').map_or(endpoint, |(host, _)| host);
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.parse::<IpAddr>().map_or(host == "localhost", |ip| ip.is_loopback())
}

/// What to do about it.
fn hint(kind: FaultKind) -> &'static str {
    match kind {
        FaultKind::Plain => {
            "; leave --ca out to speak without encryption, and a context with --context ''"
        }
        FaultKind::Issuer => "; see --ca",
        FaultKind::Name => "; name it as its certificate does, or say that name with --server-name",
        FaultKind::Other => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_goes_to_this_machine_or_over_tls() {
        for here in ["127.0.0.1:80", "127.9.9.9:80", "[::1]:80", "localhost:80"] {
            assert!(is_here(here), "{here}");
        }
        for elsewhere in ["10.0.0.1:80", "[::2]:80", "localhost.example:80", "0.0.0.0:80", "db:1"] {
            assert!(!is_here(elsewhere), "{elsewhere}");
        }
    }
}
