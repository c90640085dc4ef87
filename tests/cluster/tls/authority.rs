//! Certificates of every kind, the wrong ones among them.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use devicedb::base::clock::Clock;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer,
    DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair,
    RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};

const DAY: i64 = 24 * 3600;

pub struct Authority {
    dir: PathBuf,
    ca: CertifiedIssuer<'static, KeyPair>,
    pub ca_path: PathBuf,
}

/// What a certificate is to say.
#[derive(Clone)]
pub struct Leaf {
    pub uris: Vec<String>,
    pub hosts: Vec<String>,
    /// Seconds from now.
    pub from: i64,
    pub until: i64,
    pub serial: u64,
    pub is_ca: bool,
    pub uses: Vec<ExtendedKeyUsagePurpose>,
}

/// A certificate and its key.
#[derive(Clone, Debug)]
pub struct Issued {
    pub cert: PathBuf,
    pub key: PathBuf,
    pub der: Vec<u8>,
}

impl Leaf {
    pub fn node(name: &str) -> Leaf {
        Leaf {
            uris: vec![format!("spiffe://acme/devicedb/node/{name}")],
            hosts: vec!["127.0.0.1".into()],
            uses: vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth],
            ..Leaf::client(name)
        }
    }

    pub fn admin(name: &str) -> Leaf {
        Leaf { uris: vec![format!("spiffe://acme/devicedb/admin/{name}")], ..Leaf::client(name) }
    }

    pub fn client(name: &str) -> Leaf {
        Leaf {
            uris: vec![format!("spiffe://acme/devicedb/client/{name}")],
            hosts: Vec::new(),
            from: -DAY,
            until: 30 * DAY,
            serial: devicedb::base::clock::Random::from_entropy().next_u64() >> 1,
            is_ca: false,
            uses: vec![ExtendedKeyUsagePurpose::ClientAuth],
        }
    }
}

fn at(seconds_from_now: i64) -> i64 {
    (Clock::start().wall_ms() / 1000) as i64 + seconds_from_now
}

macro_rules! date {
    ($seconds:expr) => {
        date_time_ymd(1970, 1, 1) + Duration::from_secs(at($seconds) as u64)
    };
}

impl Authority {
    pub fn new(dir: &Path, name: &str) -> Authority {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let dir = dir.join(name);
        fs::create_dir(&dir).unwrap();
        let ca_path = dir.join("ca.crt");
        fs::write(&ca_path, ca.pem()).unwrap();
        Authority { dir, ca, ca_path }
    }

    /// Issues it to `stem.crt` and `stem.key`, over what was there: the certificate first.
    pub fn issue(&self, stem: &str, leaf: &Leaf) -> Issued {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "a common name");
        params.not_before = date!(leaf.from);
        params.not_after = date!(leaf.until);
        params.serial_number = Some(SerialNumber::from(leaf.serial));
        params.is_ca = if leaf.is_ca {
            IsCa::Ca(BasicConstraints::Constrained(0))
        } else {
            IsCa::ExplicitNoCa
        };
        params.extended_key_usages = leaf.uses.clone();
        params.use_authority_key_identifier_extension = true;
        let uris = leaf.uris.iter().map(|uri| SanType::URI(uri.clone().try_into().unwrap()));
        let hosts = leaf.hosts.iter().map(|host| match host.parse() {
            Ok(ip) => SanType::IpAddress(ip),
            Err(_) => SanType::DnsName(host.clone().try_into().unwrap()),
        });
        params.subject_alt_names = uris.chain(hosts).collect();
        let key = KeyPair::generate().unwrap();
        let made = params.signed_by(&key, &self.ca).unwrap();
        let issued = Issued {
            cert: self.dir.join(format!("{stem}.crt")),
            key: self.dir.join(format!("{stem}.key")),
            der: made.der().to_vec(),
        };
        fs::write(&issued.cert, made.pem()).unwrap();
        fs::write(&issued.key, key.serialize_pem()).unwrap();
        issued
    }

    /// The list of what it has revoked.
    pub fn revoke(&self, serials: &[u64]) -> PathBuf {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date!(-DAY),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date!(-DAY),
            next_update: date!(DAY),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let path = self.dir.join("revoked.pem");
        fs::write(&path, list.signed_by(&self.ca).unwrap().pem().unwrap()).unwrap();
        path
    }

    /// The words of a start for a node with these.
    pub fn words(&self, issued: &Issued) -> Vec<String> {
        [("--tls-cert", &issued.cert), ("--tls-key", &issued.key), ("--tls-ca", &self.ca_path)]
            .into_iter()
            .flat_map(|(flag, path)| [flag.to_owned(), path.display().to_string()])
            .collect()
    }

    /// The words for `ddbctl` with these.
    pub fn ctl_words(&self, issued: &Issued) -> Vec<String> {
        [("--cert", &issued.cert), ("--key", &issued.key), ("--ca", &self.ca_path)]
            .into_iter()
            .flat_map(|(flag, path)| [flag.to_owned(), path.display().to_string()])
            .collect()
    }
}
