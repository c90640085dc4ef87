//! What a certificate says: whose it is, from when until when, and for which hosts.
//!
//! - The name is the URI among the alternative names, or else the first DNS name among them. A
//!   common name is no name: every CA writes what it likes there.
//! - `spiffe://DOMAIN/devicedb/node/NAME` is a node, of whatever domain, and
//!   `spiffe://DOMAIN/devicedb/admin/NAME` is a client that may do everything. Everything else is a
//!   client that may do what the cluster grants it.
//! - A wildcard is nobody's name.
//! - Two URIs would be two names, and are refused, as SPIFFE has it.
//!
//! Nothing here says whether a certificate is to be believed.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use x509_parser::prelude::{ASN1Time, FromDer as _, GeneralName, X509Certificate};

use crate::base::{
    error::{Error, Result},
    limits,
};

/// What stands in a certificate, as far as anything here depends on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    pub uris: Vec<String>,
    pub dns: Vec<String>,
    pub ips: Vec<IpAddr>,
    /// For people only.
    pub subject: String,
    pub issuer: String,
    pub serial: String,
    /// Unix times.
    pub from: i64,
    pub until: i64,
    pub is_ca: bool,
}

/// Who has proved to be whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bearer {
    pub name: String,
    pub is_node: bool,
    pub is_admin: bool,
    /// Unix time at which the certificate ends.
    pub until: i64,
}

impl Certificate {
    pub fn parse(der: &[u8]) -> Result<Certificate> {
        let unreadable = |e: &dyn fmt::Display| {
            Error::invalid(format!("what should be a certificate cannot be read: {e}"))
        };
        let (_, read) = X509Certificate::from_der(der).map_err(|e| unreadable(&e))?;
        let mut certificate = Certificate {
            uris: Vec::new(),
            dns: Vec::new(),
            ips: Vec::new(),
            subject: read.subject().to_string(),
            issuer: read.issuer().to_string(),
            serial: read.raw_serial_as_string(),
            from: read.validity().not_before.timestamp(),
            until: read.validity().not_after.timestamp(),
            is_ca: read.is_ca(),
        };
        let names = read.subject_alternative_name().map_err(|e| unreadable(&e))?;
        for name in names.iter().flat_map(|names| &names.value.general_names) {
            match name {
                GeneralName::URI(uri) => certificate.uris.push((*uri).to_owned()),
                GeneralName::DNSName(dns) => certificate.dns.push((*dns).to_owned()),
                GeneralName::IPAddress(bytes) => certificate.ips.extend(ip(bytes)),
                _ => {}
            }
        }
        Ok(certificate)
    }

    /// Who the bearer is; the error says why it is nobody.
    pub fn bearer(&self) -> Result<Bearer, String> {
        match (&self.uris[..], &self.dns[..]) {
            ([uri], _) => Bearer::of(uri, self.until).checked(),
            // Whatever it looks like: only a URI makes somebody more than a client.
            ([], [dns, ..]) => {
                let name = dns.clone();
                Bearer { name, is_node: false, is_admin: false, until: self.until }.checked()
            }
            ([], []) => Err("it names nobody: neither a URI nor a DNS name stands among its \
                             alternative names, and a common name is no identity"
                .to_owned()),
            (uris, _) => Err(format!("it names several: {}", uris.join(", "))),
        }
    }
}

impl Bearer {
    /// Whoever bears a URI.
    pub fn of(name: &str, until: i64) -> Bearer {
        let (is_node, is_admin) = (is_node(name), is_of(name, "admin"));
        Bearer { name: name.to_owned(), is_node, is_admin, until }
    }

    /// Refuses names that are none.
    fn checked(self) -> Result<Bearer, String> {
        let (name, most) = (&self.name, limits::CERTIFICATE_NAME_BYTES_MAX);
        if name.contains('*') {
            return Err(format!("{name} is a pattern, and no name of anybody"));
        }
        if !(1..=most).contains(&name.len()) {
            let found = name.len();
            return Err(format!("its name has {found} bytes: a name has 1 to {most}"));
        }
        Ok(self)
    }
}

/// Whether a URI is a node's.
pub fn is_node(uri: &str) -> bool {
    is_of(uri, "node")
}

fn is_of(uri: &str, kind: &str) -> bool {
    let path = uri.strip_prefix("spiffe://").and_then(|rest| rest.split_once('/'));
    path.is_some_and(|(domain, path)| {
        !domain.is_empty()
            && path
                .strip_prefix("devicedb/")
                .and_then(|rest| rest.strip_prefix(kind)?.strip_prefix('/'))
                .is_some_and(|name| !name.is_empty() && !name.contains('/'))
    })
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(bytes).map(|four| IpAddr::V4(Ipv4Addr::from(four)));
    let sixteen = || <[u8; 16]>::try_from(bytes).map(|many| IpAddr::V6(Ipv6Addr::from(many)));
    four.or_else(|_| sixteen()).ok()
}

/// A Unix time as people read it.
pub fn date(at: i64) -> String {
    ASN1Time::from_timestamp(at).map_or_else(|_| format!("{at} s after 1970"), |t| t.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(uris: &[&str], dns: &[&str]) -> Certificate {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Certificate {
            uris: owned(uris),
            dns: owned(dns),
            ips: Vec::new(),
            subject: "CN=root".into(),
            issuer: "CN=root".into(),
            serial: "01".into(),
            from: 0,
            until: 1,
            is_ca: false,
        }
    }

    #[test]
    fn a_name_is_the_uri_or_else_the_dns_name_and_never_the_common_name() {
        let mut story = String::new();
        for (uris, dns) in [
            (&["spiffe://acme/devicedb/node/a"][..], &["a.example"][..]),
            (&["spiffe://devicedb/devicedb/client/ops"], &[]),
            (&["spiffe://acme/ns/backup/sa/nightly"], &["b.example"]),
            (&["spiffe://acme/devicedb/node/"], &[]),
            (&["spiffe:///devicedb/node/a"], &[]),
            (&["spiffe://acme/devicedb/node/a/b"], &[]),
            (&["https://acme/devicedb/node/a"], &[]),
            (&["spiffe://acme/devicedb/admin/ops"], &[]),
            (&["spiffe://acme/devicedb/admin"], &[]),
            (&["spiffe://acme/devicedb/administrator/a"], &[]),
            (&[], &["spiffe://acme/devicedb/admin/ops"]),
            (&["spiffe://acme/devicedb/node/*"], &[]),
            (&[], &["*.example"]),
            (&[], &["c.example", "d.example"]),
            (&[], &[]),
            (&["spiffe://acme/devicedb/node/a", "spiffe://acme/devicedb/client/a"], &[]),
        ] {
            let told = match named(uris, dns).bearer() {
                Ok(Bearer { name, is_node: true, .. }) => format!("node {name}"),
                Ok(Bearer { name, is_admin: true, .. }) => format!("admin {name}"),
                Ok(Bearer { name, .. }) => format!("client {name}"),
                Err(why) => why.split(':').next().unwrap_or_default().to_owned(),
            };
            story += &format!("{told}\n");
        }
        assert_eq!(
            story,
            "node spiffe://acme/devicedb/node/a\n\
             client spiffe://devicedb/devicedb/client/ops\n\
             client spiffe://acme/ns/backup/sa/nightly\n\
             client spiffe://acme/devicedb/node/\n\
             client spiffe:///devicedb/node/a\n\
             client spiffe://acme/devicedb/node/a/b\n\
             client https://acme/devicedb/node/a\n\
             admin spiffe://acme/devicedb/admin/ops\n\
             client spiffe://acme/devicedb/admin\n\
             client spiffe://acme/devicedb/administrator/a\n\
             client spiffe://acme/devicedb/admin/ops\n\
             spiffe\n\
             *.example is a pattern, and no name of anybody\n\
             client c.example\n\
             it names nobody\n\
             it names several\n"
        );
    }

    #[test]
    fn what_is_no_certificate_is_an_error() {
        assert!(Certificate::parse(b"").is_err());
        assert!(Certificate::parse(&[0x30, 0x82, 0xff, 0xff]).is_err());
    }
}
