//! `ddbctl cert`: a CA for those who have none, what it issues, and what a certificate says.
//!
//! - A node's certificate holds its URI and the hosts by which it is reached; a client's holds its
//!   URI alone, which may be that of an admin. All have one domain, which stands in the CA's own
//!   certificate.
//! - Keys are readable by their owner alone, and so is the directory. Nothing is ever overwritten:
//!   a new certificate is made beside the old one, and moved over it.
//! - Certificates are valid from an hour before they are made, for machines whose clocks differ.
//!
//! It revokes nothing: who has to, needs a CA that keeps a list of what it has issued.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::Write as _,
    net::IpAddr,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};
use serde::Serialize;

use super::{
    args::Cert,
    term::{
        exit::{self, Failure},
        output::{Console, Look, View},
        text,
    },
};
use crate::{
    base::clock::Clock,
    net::tls::{Certificate, material},
};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
const CA: &str = "ca";

/// Files that were made.
#[derive(Debug, Serialize)]
struct Written {
    written: Vec<PathBuf>,
}

impl View for Written {
    fn text(&self, _: Look) -> String {
        self.written.iter().map(|path| format!("{}\n", path.display())).collect()
    }
}

/// What a certificate says.
#[derive(Debug, Serialize)]
struct Shown {
    role: &'static str,
    name: String,
    hosts: Vec<String>,
    subject: String,
    issuer: String,
    serial: String,
    valid_from_ms: u64,
    valid_until_ms: u64,
    is_valid_now: bool,
}

impl View for Shown {
    fn text(&self, _: Look) -> String {
        let Shown { role, name, subject, issuer, serial, .. } = self;
        let [from, until] = [self.valid_from_ms, self.valid_until_ms].map(text::when);
        let hosts = if self.hosts.is_empty() { "none".into() } else { self.hosts.join(", ") };
        let now = if self.is_valid_now { "" } else { "  (not valid now)" };
        format!(
            "role         {role}\nname         {name}\nhosts        {hosts}\nvalid from   \
             {from}\nvalid until  {until}{now}\nsubject      {subject}\nissuer       \
             {issuer}\nserial       {serial}\n"
        )
    }
}

pub fn run(command: Cert, console: &mut Console) -> Result<(), Failure> {
    let written = match command {
        Cert::Show { file } => return console.print(&show(&file)?),
        Cert::Init { made, domain, days } => init(&made.dir, &domain, days)?,
        Cert::Node { names, hosts, made, days } => issue(&made.dir, "node", &names, &hosts, days)?,
        Cert::Client { names, admin, made, days } => {
            issue(&made.dir, if admin { "admin" } else { "client" }, &names, &[], days)?
        }
    };
    console.print(&Written { written })
}

fn init(dir: &Path, domain: &str, days: i64) -> Result<Vec<PathBuf>, Failure> {
    let found = DirBuilder::new().mode(0o700).recursive(true).create(dir);
    found.map_err(|e| unusable(dir, &e))?;
    let key = KeyPair::generate().map_err(|e| not_made(&e))?;
    // Of its own name: CAs of one name are told apart by their signatures alone.
    let print = text::hex(&blake3::hash(key.public_key_raw()).as_bytes()[..4]);
    let mut params = params(&format!("CA {print} of {domain}"), days);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.subject_alt_names = vec![uri(&format!("spiffe://{domain}"))?];
    let secret = key.serialize_pem();
    let ca = CertifiedIssuer::self_signed(params, key).map_err(|e| not_made(&e))?;
    write_pair(dir, CA, &ca.pem(), &secret)
}

fn issue(
    dir: &Path,
    role: &str,
    names: &[String],
    hosts: &[String],
    days: i64,
) -> Result<Vec<PathBuf>, Failure> {
    let (ca_path, key_path) = (dir.join("ca.crt"), dir.join("ca.key"));
    let ca = read(&ca_path)?;
    let domain = domain(&ca_path, &ca)?;
    let key = KeyPair::from_pem(&read(&key_path)?).map_err(|e| unusable(&key_path, &e))?;
    let issuer = Issuer::from_ca_cert_pem(&ca, key).map_err(|e| unusable(&ca_path, &e))?;
    // Before the first is made, so that either all are or none.
    for path in names.iter().flat_map(|name| pair(dir, &format!("{role}-{name}"))) {
        is_free(&path)?;
    }
    let mut written = Vec::new();
    for name in names {
        let mut params = params(name, days);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if role == "node" {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        params.subject_alt_names = vec![uri(&format!("spiffe://{domain}/devicedb/{role}/{name}"))?];
        for host in hosts {
            params.subject_alt_names.push(match host.parse::<IpAddr>() {
                Ok(ip) => SanType::IpAddress(ip),
                Err(_) => SanType::DnsName(host.clone().try_into().map_err(|e| not_made(&e))?),
            });
        }
        let key = KeyPair::generate().map_err(|e| not_made(&e))?;
        let leaf = params.signed_by(&key, &issuer).map_err(|e| not_made(&e))?;
        let stem = format!("{role}-{name}");
        written.extend(write_pair(dir, &stem, &leaf.pem(), &key.serialize_pem())?);
    }
    Ok(written)
}

fn params(name: &str, days: i64) -> CertificateParams {
    let now = date_time_ymd(1970, 1, 1) + Duration::from_millis(Clock::start().wall_ms());
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = now - HOUR;
    params.not_after = now + DAY * days as u32;
    params.use_authority_key_identifier_extension = true;
    params
}

fn uri(text: &str) -> Result<SanType, Failure> {
    Ok(SanType::URI(text.to_owned().try_into().map_err(|e| not_made(&e))?))
}

/// The domain of a CA that `init` has made.
fn domain(path: &Path, pem: &str) -> Result<String, Failure> {
    let ca = parsed(path, pem.as_bytes())?;
    let domain = ca.uris.iter().find_map(|uri| uri.strip_prefix("spiffe://"));
    domain.filter(|domain| ca.is_ca && !domain.contains('/')).map(str::to_owned).ok_or_else(|| {
        Failure::usage(
            format!("{} is no CA that ddbctl cert init has made", path.display()),
            "make one with ddbctl cert init --dir DIR, or have your own CA issue",
        )
    })
}

fn parsed(path: &Path, pem: &[u8]) -> Result<Certificate, Failure> {
    let unreadable = |e: crate::base::error::Error| {
        Failure::new(exit::FAILED, e.message, path.display().to_string(), "see what the file holds")
    };
    let chain = material::certificates(path, pem).map_err(unreadable)?;
    Certificate::parse(&chain[0]).map_err(unreadable)
}

fn show(path: &Path) -> Result<Shown, Failure> {
    let pem = fs::read(path).map_err(|e| unusable(path, &e))?;
    let certificate = parsed(path, &pem)?;
    let now = (Clock::start().wall_ms() / 1000) as i64;
    let (role, name) = match certificate.bearer() {
        _ if certificate.is_ca => ("CA", certificate.uris.join(", ")),
        Ok(bearer) if bearer.is_node => ("node", bearer.name),
        Ok(bearer) if bearer.is_admin => ("admin", bearer.name),
        Ok(bearer) => ("client", bearer.name),
        Err(why) => ("nobody", why),
    };
    let ips = certificate.ips.iter().map(IpAddr::to_string);
    let ms = |at: i64| at.max(0) as u64 * 1000;
    Ok(Shown {
        role,
        name,
        hosts: certificate.dns.iter().cloned().chain(ips).collect(),
        subject: certificate.subject,
        issuer: certificate.issuer,
        serial: certificate.serial,
        valid_from_ms: ms(certificate.from),
        valid_until_ms: ms(certificate.until),
        is_valid_now: (certificate.from..=certificate.until).contains(&now),
    })
}

fn pair(dir: &Path, stem: &str) -> [PathBuf; 2] {
    [dir.join(format!("{stem}.crt")), dir.join(format!("{stem}.key"))]
}

/// Refuses a file that is there.
pub fn is_free(path: &Path) -> Result<(), Failure> {
    if path.symlink_metadata().is_ok() { Err(there(path)) } else { Ok(()) }
}

/// Writes a certificate and its key, both or, as far as this can see beforehand, neither.
fn write_pair(dir: &Path, stem: &str, crt: &str, key: &str) -> Result<Vec<PathBuf>, Failure> {
    let [crt_path, key_path] = pair(dir, stem);
    [&crt_path, &key_path].into_iter().try_for_each(|path| is_free(path))?;
    write_new(&key_path, key, 0o600)?;
    write_new(&crt_path, crt, 0o644)?;
    Ok(vec![crt_path, key_path])
}

/// Writes a file that was not there, for whom `mode` says.
pub fn write_new(path: &Path, words: &str, mode: u32) -> Result<(), Failure> {
    let made = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let written = made.and_then(|mut file| {
        file.write_all(words.as_bytes())?;
        file.sync_all()
    });
    written.map_err(|e| match e.kind() {
        std::io::ErrorKind::AlreadyExists => there(path),
        _ => unusable(path, &e),
    })
}

fn read(path: &Path) -> Result<String, Failure> {
    fs::read_to_string(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Failure::usage(
            format!("{} does not exist", path.display()),
            "make a CA with ddbctl cert init, or name its directory with --dir",
        ),
        _ => unusable(path, &e),
    })
}

fn there(path: &Path) -> Failure {
    Failure::usage(
        format!("{} is there already, and is not overwritten", path.display()),
        "move it away, or name another place",
    )
}

fn unusable(path: &Path, why: &dyn std::fmt::Display) -> Failure {
    Failure::new(
        exit::FAILED,
        why.to_string(),
        path.display().to_string(),
        "see who may read and write there",
    )
}

fn not_made(why: &dyn std::fmt::Display) -> Failure {
    Failure::new(exit::FAILED, format!("the certificate cannot be made: {why}"), "", "")
}
