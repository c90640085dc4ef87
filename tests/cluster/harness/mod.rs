//! What tests on real processes stand on: nodes that are really started, killed and paused, clients
//! that really connect, facts that are waited for.
//!
//! Relies on the two binaries and on the contract in `devicedb::proto`; it looks into no store and
//! into no module that a client could not reach. It never sleeps for a guess: it waits for a fact,
//! with a bound, and says what it saw last.

mod certificates;
mod client;
mod cluster;
mod node;
mod objects;
mod ports;
mod process;
mod writer;

pub use certificates::Certificates;
pub use client::{Client, put_request, reason};
pub use cluster::{Cluster, Options, SnapshotStore};
pub use node::{Node, ddbctl};
pub use objects::ObjectStore;
pub use ports::Port;
pub use process::{Ran, binary, ended, run, shell};
pub use writer::{Ledger, Writer};

use std::{fmt::Display, time::Duration};

use devicedb::base::clock::Clock;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    time::{sleep, timeout},
};

/// How long a machine that is busy with other tests may take for what a free one does at once.
pub const SOON: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Waits until `look` finds the fact, and gives it back. `look` says with its error what it saw
/// instead; that is reported when the bound is reached.
pub async fn eventually<T, S: Display>(
    what: &str,
    bound: Duration,
    mut look: impl AsyncFnMut() -> Result<T, S>,
) -> T {
    let clock = Clock::start();
    let mut seen = "nothing: the first look did not come back".to_string();
    loop {
        let left = bound.saturating_sub(clock.now());
        match timeout(left, look()).await {
            Ok(Ok(fact)) => return fact,
            Ok(Err(instead)) => seen = instead.to_string(),
            Err(_) => {}
        }
        assert!(clock.now() < bound, "{what}: not within {bound:?}; last seen: {seen}");
        sleep(LOOK_AGAIN).await;
    }
}

/// One GET over HTTP/1.1: the status and the body.
pub async fn http_get(address: &str, path: &str) -> std::io::Result<(u16, String)> {
    http_over(TcpStream::connect(address).await?, address, path).await
}

/// One POST over HTTP/1.1, with further headers; a `Host` among them stands in place of the
/// address.
#[allow(dead_code, reason = "not every test that uses the harness posts")]
pub async fn http_post(
    address: &str,
    path: &str,
    headers: &[&str],
    body: &str,
) -> std::io::Result<(u16, String)> {
    let host = match headers.iter().any(|header| header.starts_with("Host: ")) {
        true => String::new(),
        false => format!("Host: {address}\r\n"),
    };
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    let length = body.len();
    let request = format!(
        "POST {path} HTTP/1.1\r\n{host}{headers}Content-Length: {length}\r\nConnection: \
         close\r\n\r\n{body}"
    );
    http_said(TcpStream::connect(address).await?, &request, address, path).await
}

/// A GET over a connection that is made already.
async fn http_over(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    address: &str,
    path: &str,
) -> std::io::Result<(u16, String)> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    http_said(stream, &request, address, path).await
}

async fn http_said(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    request: &str,
    address: &str,
    path: &str,
) -> std::io::Result<(u16, String)> {
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| {
        std::io::Error::other(format!("{address} answered {path} with no HTTP: {head:?}"))
    })?;
    Ok((status, body.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    #[should_panic(expected = "the moon is full: not within 60ms; last seen: half of it")]
    async fn a_wait_for_what_never_comes_ends_and_says_what_it_saw() {
        eventually("the moon is full", Duration::from_millis(60), async || {
            Err::<(), _>("half of it")
        })
        .await;
    }

    #[test]
    fn a_port_has_one_owner_at_a_time() {
        let ports: Vec<_> = (0..50).map(|_| Port::claim()).collect();
        let numbers: std::collections::BTreeSet<_> = ports.iter().map(|port| port.number).collect();
        assert_eq!(numbers.len(), ports.len());
    }

    #[tokio::test]
    #[should_panic(expected = "did not end within 60ms")]
    async fn a_command_that_hangs_is_killed_and_named() {
        shell("echo begun; sleep 600 | cat", Duration::from_millis(60)).await;
    }

    #[tokio::test]
    async fn a_command_tells_its_code_and_both_its_outputs() {
        shell("echo out; echo err >&2; exit 5", SOON).await.exits(5).says("out").says("err");
    }
}
