//! Connections that go out over TLS, and what went wrong with one in words.
//!
//! The other side is verified in the handshake: its issuer, its dates, and that its certificate is
//! for the host that was dialled, or for the name that stands in for it. A node also asks that it
//! be a node.

use std::{
    fmt,
    sync::{Arc, Mutex},
};

use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    rustls::{
        AlertDescription, CertificateError, ClientConfig, Error as TlsError, InvalidMessage,
        pki_types::ServerName,
    },
};
use tonic::{
    codegen::http::Uri,
    transport::{Channel, Endpoint, Error as TransportError},
};

use super::{
    Tls,
    belief::{Belief, Believing},
    material,
    name::Certificate,
};
use crate::{base::locks::lock, net::cork::Corked};

/// By what a side that dials believes the other, and what it shows itself.
#[derive(Clone)]
pub struct Trust {
    pub config: Arc<ClientConfig>,
    /// Whom the certificate has to be for, if not for the host that is dialled.
    pub name: Option<String>,
    /// Where it has to be a node's.
    pub node: Option<Noted>,
}

/// What a node does with the name of another one that it dials: it notes it, and believes it for as
/// long as its own files say so.
#[derive(Clone)]
pub struct Noted {
    pub shown: Shown,
    pub tls: Tls,
}

/// The name that the other side has proved last: a connection that breaks is opened again by
/// itself. None as long as nothing was proved.
pub type Shown = Arc<Mutex<Option<String>>>;

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Why there is no connection over TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub kind: FaultKind,
    message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// The other side does not speak TLS.
    Plain,
    /// Its certificate is of a CA that is not trusted.
    Issuer,
    /// Its certificate is for another host.
    Name,
    /// Its certificate is not believed for another reason, or the handshake failed.
    Other,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}

impl Fault {
    fn new(kind: FaultKind, message: impl Into<String>) -> Fault {
        Fault { kind, message: message.into() }
    }

    /// The one behind an error of a connection, if TLS is what went wrong.
    pub fn behind<'a>(e: &'a (dyn std::error::Error + 'static)) -> Option<&'a Fault> {
        std::iter::successors(Some(e), |e| (*e).source()).find_map(|e| e.downcast_ref())
    }

    fn of(e: &std::io::Error) -> Fault {
        let Some(tls) = e.get_ref().and_then(|inner| inner.downcast_ref::<TlsError>()) else {
            return Fault::new(FaultKind::Other, format!("the TLS handshake broke off: {e}"));
        };
        use CertificateError as C;
        let kind = match tls {
            TlsError::InvalidMessage(InvalidMessage::InvalidContentType)
            | TlsError::AlertReceived(AlertDescription::UnexpectedMessage) => {
                return Fault::new(FaultKind::Plain, "what listens there does not speak TLS");
            }
            TlsError::InvalidCertificate(C::UnknownIssuer | C::BadSignature) => FaultKind::Issuer,
            TlsError::InvalidCertificate(C::NotValidForName | C::NotValidForNameContext { .. }) => {
                FaultKind::Name
            }
            _ => FaultKind::Other,
        };
        let words = material::words(tls);
        let whose = match tls {
            TlsError::InvalidCertificate(_) => format!("the node is not believed: {words}"),
            _ => format!("the TLS handshake failed: {words}"),
        };
        Fault::new(kind, whose)
    }
}

/// Alerts by which the other side says, in or right behind the handshake, that it does not believe
/// who dials. It has read no request then.
const REFUSALS: [AlertDescription; 9] = [
    AlertDescription::AccessDenied,
    AlertDescription::BadCertificate,
    AlertDescription::CertificateExpired,
    AlertDescription::CertificateRequired,
    AlertDescription::CertificateRevoked,
    AlertDescription::CertificateUnknown,
    AlertDescription::HandshakeFailure,
    AlertDescription::UnknownCA,
    AlertDescription::UnsupportedCertificate,
];

/// Whether a connection broke because the other side does not believe who dials: what it is told by
/// is the text, since HTTP/2 keeps no more of an error. A node says so in its answer instead; this
/// is what a proxy does where TLS ends.
pub fn is_refusal(words: &str) -> bool {
    REFUSALS.iter().any(|alert| TlsError::AlertReceived(*alert).to_string() == words)
}

/// Opens a corked connection over TLS to an endpoint.
pub async fn connect(endpoint: &Endpoint, trust: Trust) -> Result<Channel, TransportError> {
    let open = move |to: Uri| {
        let trust = trust.clone();
        async move { open(&to, trust).await }
    };
    endpoint.connect_with_connector(tower::service_fn(open)).await
}

/// A [`Fault`], or what the system says.
type AnyError = Box<dyn std::error::Error + Send + Sync>;

async fn open(to: &Uri, trust: Trust) -> Result<TokioIo<Corked<Believing>>, AnyError> {
    let host = to.host().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let named = trust.name.as_deref().unwrap_or(bare).to_owned();
    let no_name = format!("{named:?} is no name that a certificate could be for");
    let name = ServerName::try_from(named).map_err(|_| Fault::new(FaultKind::Name, no_name))?;
    let dialled = name.clone();
    let turns = trust.node.as_ref().map(|noted| noted.tls.turns());
    let stream = TcpStream::connect((bare, to.port_u16().unwrap_or(443))).await?;
    stream.set_nodelay(true)?;
    let stream =
        TlsConnector::from(trust.config).connect(name, stream).await.map_err(|e| Fault::of(&e))?;
    let mut belief = None;
    if let Some((Noted { shown: hears, tls }, turns)) = trust.node.zip(turns) {
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let shown = chain.first();
        let bearer = shown.and_then(|shown| Certificate::parse(shown).ok()?.bearer().ok());
        let (is_node, name) =
            bearer.map_or((false, "nobody".into()), |bearer| (bearer.is_node, bearer.name));
        if !is_node {
            return Err(Fault::new(
                FaultKind::Other,
                format!("what listens there is no node: its certificate is {name}'s"),
            )
            .into());
        }
        *lock(&hears) = Some(name);
        belief = Some(Belief::new(tls, chain, Some(dialled), turns));
    }
    Ok(TokioIo::new(Corked::new(Believing::new(stream, belief))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alerts_about_the_certificate_are_refusals_and_others_are_broken_connections() {
        for words in ["CertificateRequired", "CertificateUnknown", "UnknownCA"] {
            assert!(is_refusal(&format!("received fatal alert: {words}")), "{words}");
        }
        for words in ["received fatal alert: InternalError", "connection closed", ""] {
            assert!(!is_refusal(words), "{words}");
        }
    }
}
