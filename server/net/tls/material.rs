//! A set of files that fits together: a certificate, its key, the CA that issues for all, and what
//! the CA has revoked.
//!
//! A set is used whole or not at all. It is refused, by the name of the file, when a file cannot be
//! read, when key and certificate do not belong together, when the certificate is not of the CA or
//! not valid now, and, for a node, when it is no node's: every other node would refuse it then.
//!
//! A list of revocations counts also after its own end, and a CA without a list has revoked
//! nothing: a list that comes late must not stop a cluster.

use std::{
    fmt, fs,
    io::Read as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio_rustls::rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error as TlsError,
    InconsistentKeys, RootCertStore, ServerConfig, SignatureScheme,
    client::{Resumption, WebPkiServerVerifier, danger::ServerCertVerifier},
    crypto::{CryptoProvider, ring},
    pki_types::{
        CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName, UnixTime,
        pem::PemObject,
    },
    server::{
        NoServerSessionStorage, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::{CertifiedKey, SingleCertAndKey},
    version::TLS13,
};

use super::{
    Caller,
    name::{Certificate, date},
};
use crate::base::{
    error::{Error, Result},
    limits,
    metrics::NoHandshake,
};

/// HTTP/2 for gRPC, HTTP/1.1 for the pages.
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Where the set lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    pub cert: PathBuf,
    pub key: PathBuf,
    pub ca: PathBuf,
    pub crl: Option<PathBuf>,
}

/// What the files held when they were read.
#[derive(Clone, PartialEq, Eq)]
pub struct Contents {
    cert: Vec<u8>,
    key: Vec<u8>,
    ca: Vec<u8>,
    crl: Option<Vec<u8>>,
}

impl Contents {
    /// Whether both have the same others believed.
    pub fn believes_as(&self, other: &Contents) -> bool {
        (&self.ca, &self.crl) == (&other.ca, &other.crl)
    }
}

impl Files {
    pub fn read(&self) -> Result<Contents> {
        Ok(Contents {
            cert: read(&self.cert)?,
            key: read(&self.key)?,
            ca: read(&self.ca)?,
            crl: self.crl.as_deref().map(read).transpose()?,
        })
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let (mut bytes, most) = (Vec::new(), limits::CERTIFICATE_FILE_BYTES_MAX);
    let file = fs::File::open(path).map_err(|e| unusable(path, &e))?;
    file.take(most + 1).read_to_end(&mut bytes).map_err(|e| unusable(path, &e))?;
    if bytes.len() as u64 > most {
        return Err(unusable(path, &format!("it holds more than {most} bytes")));
    }
    Ok(bytes)
}

/// Nothing that stands there can be used, whoever asks: a start is refused as one with wrong flags.
fn unusable(path: &Path, why: &dyn fmt::Display) -> Error {
    Error::invalid(format!("{}: {why}", path.display()))
}

/// What a node or a client speaks with, and by whom it believes others.
pub struct Material {
    pub server: Arc<ServerConfig>,
    pub client: Arc<ClientConfig>,
    /// Those who call.
    believes: Arc<dyn ClientCertVerifier>,
    /// Those who are called.
    believes_called: Arc<dyn ServerCertVerifier>,
    /// The first certificate of the chain: this node's.
    pub own: Certificate,
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// All certificates of a PEM file.
pub fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    let all: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|e| unusable(path, &format!("it is no PEM: {e}")))?;
    if all.is_empty() {
        return Err(unusable(path, &"no certificate stands there, in PEM"));
    }
    Ok(all)
}

fn roots(path: &Path, pem: &[u8]) -> Result<Arc<RootCertStore>> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path, pem)? {
        roots.add(certificate).map_err(|e| unusable(path, &words(&e)))?;
    }
    Ok(Arc::new(roots))
}

fn revocations(path: &Path, pem: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>> {
    let lists: Vec<_> = CertificateRevocationListDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|e| unusable(path, &format!("it is no PEM: {e}")))?;
    if lists.is_empty() {
        return Err(unusable(path, &"no list of revocations stands there, in PEM (X509 CRL)"));
    }
    Ok(lists)
}

/// A chain with its key.
fn certified(cert: (&Path, &[u8]), key: (&Path, &[u8])) -> Result<Arc<CertifiedKey>> {
    let chain = certificates(cert.0, cert.1)?;
    let secret = PrivateKeyDer::from_pem_slice(key.1)
        .map_err(|e| unusable(key.0, &format!("no private key stands there, in PEM: {e}")))?;
    let secret = provider()
        .key_provider
        .load_private_key(secret)
        .map_err(|e| unusable(key.0, &words(&e)))?;
    let certified = CertifiedKey::new(chain, secret);
    match certified.keys_match() {
        Ok(()) | Err(TlsError::InconsistentKeys(InconsistentKeys::Unknown)) => {}
        Err(TlsError::InconsistentKeys(_)) => {
            return Err(unusable(key.0, &format!("it is not the key of {}", cert.0.display())));
        }
        Err(e) => return Err(unusable(cert.0, &words(&e))),
    }
    Ok(Arc::new(certified))
}

/// Who is believed that is dialled: those whom a CA has issued for.
fn believed(
    ca: &Path,
    roots: Arc<RootCertStore>,
    revoked: Vec<CertificateRevocationListDer<'static>>,
) -> Result<Arc<WebPkiServerVerifier>> {
    WebPkiServerVerifier::builder_with_provider(roots, provider())
        .with_crls(revoked)
        .allow_unknown_revocation_status()
        .build()
        .map_err(|e| unusable(ca, &e))
}

/// How to dial those who are believed, with a certificate of one's own or without.
fn dialling(
    ca: &Path,
    believes: Arc<WebPkiServerVerifier>,
    own: Option<Arc<CertifiedKey>>,
) -> Result<ClientConfig> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(|e| unusable(ca, &words(&e)))?
        .with_webpki_verifier(believes);
    let mut config = match own {
        None => config.with_no_client_auth(),
        Some(own) => config.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own))),
    };
    config.alpn_protocols = vec![ALPN[0].to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// How a client dials that names files for it.
pub fn client(ca: &Path, own: Option<(&Path, &Path)>) -> Result<Arc<ClientConfig>> {
    let own = match own {
        None => None,
        Some((cert, key)) => Some(certified((cert, &read(cert)?), (key, &read(key)?))?),
    };
    let believes = believed(ca, roots(ca, &read(ca)?)?, Vec::new())?;
    dialling(ca, believes, own).map(Arc::new)
}

impl Material {
    /// A node's set, at this Unix time in milliseconds.
    pub fn new(files: &Files, contents: &Contents, now_ms: u64) -> Result<Material> {
        let own = certified((&files.cert, &contents.cert), (&files.key, &contents.key))?;
        let roots = roots(&files.ca, &contents.ca)?;
        let revoked = match (&files.crl, &contents.crl) {
            (Some(path), Some(pem)) => revocations(path, pem)?,
            _ => Vec::new(),
        };
        let list = files.crl.as_deref().unwrap_or(&files.ca);
        let believes = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider())
            .with_crls(revoked.clone())
            .allow_unknown_revocation_status()
            .build()
            .map_err(|e| unusable(list, &e))?;
        let mut server = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(|e| unusable(&files.cert, &words(&e)))?
            .with_client_cert_verifier(Arc::new(HoldsItsKey(believes.clone())))
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(own.clone())));
        server.alpn_protocols = ALPN.map(<[u8]>::to_vec).to_vec();
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        let chain = own.cert.clone();
        let believes_called = believed(list, roots, revoked)?;
        let client = dialling(list, believes_called.clone(), Some(own))?;
        let material = Material {
            server: Arc::new(server),
            client: Arc::new(client),
            believes,
            believes_called,
            own: Certificate::parse(&chain[0]).map_err(|e| e.at(files.cert.display()))?,
        };
        match material.judge(&chain, now_ms) {
            Ok(Caller::Known(bearer)) if bearer.is_node => Ok(material),
            Ok(_) => Err(unusable(
                &files.cert,
                &"it is no node's, and every other node would refuse it: a node's alternative \
                  names hold one URI, spiffe://DOMAIN/devicedb/node/NAME",
            )),
            Err((why, _)) => Err(unusable(&files.cert, &why)),
        }
    }

    /// Why the chain of a node that was dialled by this name is not believed, if it is not.
    pub fn judge_called(
        &self,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now_ms: u64,
    ) -> Result<(), String> {
        let Some((first, others)) = chain.split_first() else {
            return Err("no certificate was shown".into());
        };
        let now = UnixTime::since_unix_epoch(Duration::from_millis(now_ms));
        let judged = self.believes_called.verify_server_cert(first, others, name, &[], now);
        judged.map(drop).map_err(|e| words(&e))
    }

    /// Who shows this chain; or why it is not believed.
    pub fn judge(
        &self,
        chain: &[CertificateDer<'_>],
        now_ms: u64,
    ) -> Result<Caller, (String, NoHandshake)> {
        let Some((first, others)) = chain.split_first() else { return Ok(Caller::Nobody) };
        let now = UnixTime::since_unix_epoch(Duration::from_millis(now_ms));
        self.believes
            .verify_client_cert(first, others, now)
            .map_err(|e| (words(&e), kind_of(&e)))?;
        let certificate = Certificate::parse(first).map_err(|e| (e.message, NoHandshake::Unfit))?;
        let bearer = certificate.bearer().map_err(|why| {
            (format!("the certificate is of no use here: {why}"), NoHandshake::Unfit)
        })?;
        Ok(Caller::Known(bearer))
    }
}

/// Lets everybody through a handshake who holds the key of the certificate that they show.
/// [`Material::judge`] decides behind it what that certificate is worth.
#[derive(Debug)]
struct HoldsItsKey(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for HoldsItsKey {
    fn client_auth_mandatory(&self) -> bool {
        false
    }
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }
    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, TlsError> {
        Ok(ClientCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<tokio_rustls::rustls::client::danger::HandshakeSignatureValid, TlsError> {
        self.0.verify_tls12_signature(message, certificate, signed)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<tokio_rustls::rustls::client::danger::HandshakeSignatureValid, TlsError> {
        self.0.verify_tls13_signature(message, certificate, signed)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// What is wrong with the other side, or with a file, in words.
pub fn words(e: &TlsError) -> String {
    use CertificateError as C;
    let TlsError::InvalidCertificate(certificate) = e else { return e.to_string() };
    match certificate {
        C::ExpiredContext { not_after, .. } => {
            format!("the certificate has expired, on {}", date(not_after.as_secs() as i64))
        }
        C::Expired => "the certificate has expired".into(),
        C::NotValidYetContext { not_before, .. } => format!(
            "the certificate is not valid before {}: see the clocks",
            date(not_before.as_secs() as i64)
        ),
        C::NotValidYet => "the certificate is not valid yet: see the clocks".into(),
        C::Revoked => "the certificate has been revoked".into(),
        C::UnknownIssuer => "the certificate is of another CA than the trusted ones".into(),
        C::NotValidForNameContext { expected, presented } => {
            let hosts: Vec<&str> = presented.iter().filter_map(|name| host(name)).collect();
            let for_whom = if hosts.is_empty() { "no host".to_owned() } else { hosts.join(", ") };
            format!("the certificate is not for {}, but for {for_whom}", expected.to_str())
        }
        C::NotValidForName => "the certificate is for another host".into(),
        C::InvalidPurpose | C::InvalidPurposeContext { .. } => {
            "the certificate is not for this use: see its extended key usage".into()
        }
        C::BadSignature => {
            "the certificate is not signed by the trusted CA, but by another of the same name"
                .into()
        }
        C::BadEncoding => "the certificate cannot be read".into(),
        other => format!("the certificate cannot be believed: {other}"),
    }
}

/// A host among the names that rustls shows: `DnsName("a.example")`, `IpAddress(10.0.0.1)`.
fn host(name: &str) -> Option<&str> {
    let inner = name.strip_prefix("DnsName(").or_else(|| name.strip_prefix("IpAddress("))?;
    Some(inner.trim_end_matches(')').trim_matches('"'))
}

fn kind_of(e: &TlsError) -> NoHandshake {
    use CertificateError as C;
    match e {
        TlsError::InvalidCertificate(
            C::Expired | C::ExpiredContext { .. } | C::NotValidYet | C::NotValidYetContext { .. },
        ) => NoHandshake::Dates,
        TlsError::InvalidCertificate(C::UnknownIssuer | C::BadSignature) => NoHandshake::Issuer,
        TlsError::InvalidCertificate(C::Revoked) => NoHandshake::Revoked,
        _ => NoHandshake::Unfit,
    }
}
