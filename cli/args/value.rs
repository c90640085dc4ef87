//! What a word of the command line can stand for: addresses, times, ids.

use std::{str::FromStr, time::Duration};

use crate::{
    base::{error::Error, ids::ClusterId, limits},
    ctl::term::text,
    part::seal::Recipient,
};

/// host:port, one or several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoints(pub Vec<String>);

/// A time that somebody is willing to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

/// Opaque bytes, written as base64.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token(pub Vec<u8>);

/// A node as people name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeName {
    Id(u64),
    /// Where others reach it, as HOST:PORT.
    Address(String),
}

impl FromStr for NodeName {
    type Err = String;
    fn from_str(s: &str) -> Result<NodeName, String> {
        if let Ok(id) = s.parse() {
            return Ok(NodeName::Id(id));
        }
        let address = endpoint(s).map(NodeName::Address);
        address.map_err(|_| "it is neither the id of a node nor an address, HOST:PORT".into())
    }
}

impl FromStr for Endpoints {
    type Err = String;
    fn from_str(s: &str) -> Result<Endpoints, String> {
        s.split(',').map(|one| endpoint(one.trim())).collect::<Result<_, _>>().map(Endpoints)
    }
}

/// host:port, checked.
pub fn endpoint(s: &str) -> Result<String, String> {
    let (host, port) =
        s.rsplit_once(':').ok_or_else(|| format!("{s:?} lacks a port: write HOST:PORT"))?;
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let host_fits = match bare {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c))
        }
    };
    if !host_fits {
        return Err(format!(
            "{host:?} is not a host name, an IPv4 address or an IPv6 address in brackets"
        ));
    }
    match port.parse::<u16>() {
        Ok(1..) if port.bytes().all(|b| b.is_ascii_digit()) => Ok(s.to_owned()),
        _ => Err(format!("{port:?} is not a port from 1 to 65535")),
    }
}

/// Somebody for whom something is sealed.
pub fn recipient(text: &str) -> Result<Recipient, String> {
    text.parse().map_err(|e: Error| e.message)
}

/// The id of a cluster, as `cluster health` shows it.
pub fn cluster_id(s: &str) -> Result<ClusterId, String> {
    s.parse().map(ClusterId).map_err(|_| {
        format!("{s:?} is not the id of a cluster, as in 5f1c8a9e-0b1d-4a53-9a29-6d4a3f5f0c11")
    })
}

impl FromStr for Span {
    type Err = String;
    fn from_str(s: &str) -> Result<Span, String> {
        let digits = s.find(|c: char| !c.is_ascii_digit()).unwrap_or(s.len());
        let unit_ms = match &s[digits..] {
            "ms" => 1,
            "" | "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(format!("{s:?} is not a time: write 500ms, 10s or 2m")),
        };
        let ms = s[..digits]
            .parse::<u64>()
            .ok()
            .and_then(|n| n.checked_mul(unit_ms))
            .filter(|ms| (1..=limits::CTL_SPAN_MS_MAX).contains(ms));
        ms.map(|ms| Span(Duration::from_millis(ms)))
            .ok_or_else(|| format!("{s:?} is not a time from 1ms to 7 days"))
    }
}

impl FromStr for Token {
    type Err = String;
    fn from_str(s: &str) -> Result<Token, String> {
        text::from_base64(s).map(Token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        for (s, ms) in
            [("10", 10_000), ("500ms", 500), ("10s", 10_000), ("2m", 120_000), ("1h", 3_600_000)]
        {
            assert_eq!(s.parse::<Span>().unwrap().0, Duration::from_millis(ms), "{s}");
        }
        for s in ["", "s", "-1s", "1.5s", "0", "999999999999999999999", "8000000000h", "10 s"] {
            assert!(s.parse::<Span>().is_err(), "{s:?}");
        }
    }

    #[test]
    fn endpoints_are_hosts_with_ports() {
        assert_eq!("a:1, [::1]:8080".parse::<Endpoints>().unwrap().0, ["a:1", "[::1]:8080"]);
        for s in ["", "a", "a:", ":1", "a:0", "a:+1", "::1:80", "a/b:1", "user@a:1", "a:1,"] {
            assert!(s.parse::<Endpoints>().is_err(), "{s:?}");
        }
    }
}
