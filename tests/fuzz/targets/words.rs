//! Command lines: words into a plan of what to do, or an answer that says what is wrong. Nothing is
//! carried out.
//!
//! What may be said by an environment variable is read by the same parsers as the flag of that
//! name, so the words stand for both.

use std::{ffi::OsString, os::unix::ffi::OsStringExt as _};

use clap::Parser as _;
use devicedb::{
    base::{
        ids::{ClusterId, Lineage, Topology},
        limits,
    },
    cluster::state::Settings,
    ctl::{self, guide},
};

/// A binary's own arguments are in no library.
#[allow(dead_code)]
#[path = "../../../server/main.rs"]
mod server;

/// One word a line, as a process gets them: any bytes but NUL.
fn words(first: &'static str, input: &[u8]) -> Vec<OsString> {
    let lines = input
        .split(|b| *b == b'\n')
        .map(|line| OsString::from_vec(line.iter().copied().filter(|b| *b != 0).collect()));
    std::iter::once(first.into()).chain(lines).collect()
}

/// `devicedb ...`: a node would start with these options.
pub fn start(input: &[u8]) -> bool {
    let parsed = server::Args::try_parse_from(words("devicedb", input));
    let start = match parsed.map(server::Args::start) {
        Ok(Some(start)) => start,
        Ok(None) => return false,
        Err(e) => return explained(&e),
    };
    let (options, log, _) = start.options();
    for address in options.advertise.iter().chain(&options.join) {
        endpoint(address);
    }
    let shape = Topology::new(options.partitions, options.groups);
    let founding = shape.and_then(|shape| {
        Settings::founding(
            ClusterId(uuid::Uuid::nil()),
            Lineage(1),
            options.replication_factor,
            shape,
        )
    });
    if let Ok(settings) = &founding {
        let (partitions, groups) = (settings.topology.partitions(), settings.topology.groups());
        assert!(
            partitions.is_multiple_of(groups)
                && (limits::PARTITIONS_MIN..=limits::PARTITIONS_MAX).contains(&partitions)
        );
        assert_eq!(
            settings.topology.group_ids().flat_map(|g| settings.topology.partitions_of(g)).count(),
            partitions as usize
        );
    }
    founding.is_ok() && tracing_subscriber::EnvFilter::try_new(&log).is_ok()
}

/// `ddbctl ...`
pub fn ctl(input: &[u8]) -> bool {
    match ctl::Args::try_parse_from(words("ddbctl", input)) {
        Ok(args) => {
            if let Some(endpoints) = args.endpoint {
                assert!(!endpoints.0.is_empty());
                endpoints.0.iter().for_each(|address| endpoint(address));
            }
            assert!(!args.timeout.0.is_zero() && args.timeout.0.as_secs() <= 7 * 86_400);
            true
        }
        Err(e) => explained(&e),
    }
}

/// `devicedb cluster ...`
pub fn guide(input: &[u8]) -> bool {
    match guide::parse(&words("", input)[1..]) {
        Ok(guide::Command::Start(start)) => start.join.iter().for_each(|address| endpoint(address)),
        Ok(guide::Command::Client(client)) => endpoint(client.endpoint()),
        Ok(guide::Command::Help) => {}
        Err(failure) => {
            let said = failure.to_string();
            assert!(
                !said.is_empty() && !said.contains(char::is_control),
                "a mistake is told in one line: {said:?}"
            );
            return false;
        }
    }
    true
}

/// Someone reads it, so there is something to read.
fn explained(e: &clap::Error) -> bool {
    assert!(!e.render().to_string().trim().is_empty());
    false
}

fn endpoint(address: &str) {
    assert_eq!(ctl::endpoint(address).as_deref(), Ok(address));
    assert!(
        tonic::transport::Endpoint::from_shared(format!("http://{address}")).is_ok(),
        "{address:?} passed for an address"
    );
}

/// What `devicedb` is started with, words apart.
pub const START: &[&str] = &[
    "start --store d",
    "start --store d --found --replication-factor 1",
    "start --store d --join a:1,b:2,[::1]:3 --join c:4",
    "start --store d --listen 127.0.0.1:80 --advertise a.example:8080 --join [::1]:80 \
     --replication-factor 7 --partitions 64 --groups 64",
    "start --store=d --snapshot-store s --insecure --log info,devicedb::net=debug --log-json \
     --partitions=65536 --groups=1 --tls optional --tls-cert c --tls-key k --tls-ca a \
     --admin a,b*",
    "start --store d --unseal-with f --snapshot-store s --seal-to \
     age1ffthqg7gprqv9pt2rwagvkn2q0ffqarh4xgrega20zm070xwkecqzq5jmg",
];

/// What `ddbctl` is called with.
pub const CTL: &[&str] = &[
    "cluster overview --partitions --endpoint a:1,[::1]:2 --timeout 500ms -o json",
    "relay move r1 --no-site --timeout 2h",
    "put --site s --bucket lww k -5 --timestamp-ms 5 --request-id \
     b54a61d9-b64c-45e0-94b7-80c9e36b86fa",
    "delete --site s k --context YWI= --hex",
    "scan --site s --prefix a --after ab --limit 5 --keys-only --stale",
    "snapshot create --wait --wait-timeout 7m --uuid b54a61d9-b64c-45e0-94b7-80c9e36b86fa",
    "snapshot download b54a61d9-b64c-45e0-94b7-80c9e36b86fa --node 18446744073709551615 --output - \
     --resume",
    "snapshot verify a.tar b.tar",
    "snapshot unseal a.tar --identity i --output o",
    "completions bash",
    "grant add spiffe://a/* writer --sites sh*",
    "token create nightly backup --days 30 --file f",
    "cert node a b --host h --host ::1 --days 9 --dir d",
];

/// What the guide calls `devicedb` with.
pub const GUIDE: &[&str] = &[
    "start -store d -host localhost -port 8080 -join a:1 -replication_factor 3 -partitions=1024 \
     -snapshot_store s -log_level info",
    "get_snapshot -uuid b54a61d9-b64c-45e0-94b7-80c9e36b86fa -host ::1 -port 1",
    "move_relay --relay r --site s",
    "put -site s -bucket lww -key k -value v -context YWI=",
    "get_matches -site s -prefix p",
    "delete -site s -key k",
    "-help",
];
