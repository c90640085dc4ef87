//! The command line of `ddbctl` as types: what clap lets through is a command that can be tried.

use std::{ffi::OsString, path::PathBuf, process::ExitCode, str::FromStr, time::Duration};

use clap::{Args as ClapArgs, CommandFactory as _, Parser, Subcommand, ValueEnum, error::ErrorKind};
use uuid::Uuid;

use super::{
    exit::{self, Failure},
    output::{Console, Format},
    text,
};
use crate::{ids::SnapshotId, proto::v1};

mod bench;
pub use bench::{Bench, Ground, Timed};

/// Speaks to a DeviceDB cluster.
#[derive(Debug, Parser)]
#[command(name = "ddbctl", version, disable_help_subcommand = true, after_help = EXITS)]
pub struct Args {
    /// Nodes to speak to; the first that answers is used
    #[arg(long, global = true, env = "DDBCTL_ENDPOINT", default_value = "127.0.0.1:8080", value_name = "HOST:PORT[,HOST:PORT]")]
    pub endpoint: Endpoints,
    /// How long a command may take, retries included: 500ms, 10s, 2m or seconds. For downloads and scans: how long it may stand still
    #[arg(long, global = true, env = "DDBCTL_TIMEOUT", default_value = "10s", value_name = "TIME")]
    pub timeout: Span,
    /// How results are written
    #[arg(short = 'o', long = "format", global = true, env = "DDBCTL_OUTPUT", default_value = "table", value_name = "FORMAT")]
    pub format: Format,
    #[command(subcommand)]
    pub command: Command,
}

const EXITS: &str = "Exit codes: 0 ok, 1 failed, 2 usage, 3 unreachable or timed out, 4 not permitted, 5 not found or precondition, \
                     6 verification failed, 130 interrupted.";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// The cluster as a whole
    #[command(subcommand)]
    Cluster(Cluster),
    /// Its nodes
    #[command(subcommand)]
    Node(Node),
    /// Sites: isolated databases
    #[command(subcommand)]
    Site(Site),
    /// Relays: edge gateways that belong to a site
    #[command(subcommand)]
    Relay(Relay),
    /// Read a key; a missing one exits 5
    Get(Get),
    /// Write a key
    Put(Put),
    /// Delete a key
    Delete(Delete),
    /// List the keys with a prefix in order: key, tab, value; with -o json one object a line
    Scan(Scan),
    /// Consistent snapshots of the whole cluster
    #[command(subcommand)]
    Snapshot(Snapshot),
    /// Measure the cluster from here: rates and latencies of requests
    #[command(subcommand)]
    Bench(Bench),
    /// Print a completion script for a shell
    Completions { shell: clap_complete::Shell },
}

#[derive(Debug, Subcommand)]
pub enum Cluster {
    /// The node table, and what is wrong
    Overview {
        /// Also the table of partitions
        #[arg(long)]
        partitions: bool,
    },
    /// Exit 0 when every node is ready and every group is led and fully replicated
    Health,
}

#[derive(Debug, Subcommand)]
pub enum Node {
    /// The nodes, by id
    List,
}

#[derive(Debug, Subcommand)]
pub enum Site {
    /// Add a site; adding one that exists changes nothing
    Add { site: String },
    /// Remove a site and all its data
    Remove { site: String },
    /// The sites, by name
    List,
}

#[derive(Debug, Subcommand)]
pub enum Relay {
    /// Register a relay
    Add {
        relay: String,
        /// The site it belongs to
        #[arg(long)]
        site: Option<String>,
    },
    /// Remove a relay
    Remove { relay: String },
    /// Give a relay to another site, or to none
    Move {
        relay: String,
        #[arg(long, required_unless_present = "no_site", conflicts_with = "no_site")]
        site: Option<String>,
        #[arg(long)]
        no_site: bool,
    },
    /// The relays, by name
    List {
        /// Only those of this site
        #[arg(long)]
        site: Option<String>,
    },
}

/// Where keys live, and how they are written on the command line.
#[derive(Clone, Debug, ClapArgs)]
pub struct Place {
    /// The site
    #[arg(long)]
    pub site: String,
    /// The bucket
    #[arg(long, default_value = "default")]
    pub bucket: Bucket,
    /// Keys and values of the command line are hex, and tables show hex
    #[arg(long)]
    pub hex: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Bucket {
    Default,
    Lww,
    Cloud,
    Local,
}

#[derive(Debug, ClapArgs)]
pub struct Get {
    #[command(flatten)]
    pub place: Place,
    pub key: OsString,
    /// Write the value's bytes and nothing else
    #[arg(long)]
    pub raw: bool,
    /// Take what the contacted node holds, possibly old
    #[arg(long)]
    pub stale: bool,
}

#[derive(Debug, ClapArgs)]
pub struct Put {
    #[command(flatten)]
    pub place: Place,
    pub key: OsString,
    /// The value; - for stdin
    #[arg(required_unless_present = "file", conflicts_with = "file", allow_negative_numbers = true)]
    pub value: Option<OsString>,
    /// Take the value from a file
    #[arg(long, value_name = "PATH")]
    pub file: Option<PathBuf>,
    #[command(flatten)]
    pub write: Write,
}

#[derive(Debug, ClapArgs)]
pub struct Delete {
    #[command(flatten)]
    pub place: Place,
    pub key: OsString,
    #[command(flatten)]
    pub write: Write,
}

/// What every write may say.
#[derive(Clone, Debug, Default, ClapArgs)]
pub struct Write {
    /// The context of the read that this follows from (get -o json); without it, all that is there is overwritten
    #[arg(long, value_name = "BASE64")]
    pub context: Option<Token>,
    /// For lww: milliseconds since 1970; without it, newer than what is there
    #[arg(long, value_name = "MS")]
    pub timestamp_ms: Option<u64>,
    /// Repeat a write whose outcome is unknown: with the same id it has its effect once
    #[arg(long, value_name = "UUID")]
    pub request_id: Option<Uuid>,
}

#[derive(Debug, ClapArgs)]
pub struct Scan {
    #[command(flatten)]
    pub place: Place,
    /// Only keys that begin so
    #[arg(long, default_value = "")]
    pub prefix: OsString,
    /// Only keys after this one
    #[arg(long, default_value = "")]
    pub after: OsString,
    /// At most so many keys
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// Leave the values out
    #[arg(long)]
    pub keys_only: bool,
    /// Take what the contacted node holds, possibly old
    #[arg(long)]
    pub stale: bool,
}

#[derive(Debug, Subcommand)]
pub enum Snapshot {
    /// Take a snapshot
    Create {
        /// Wait until no part is being written any more
        #[arg(long)]
        wait: bool,
        /// Wait no longer than this; the snapshot goes on
        #[arg(long, value_name = "TIME", requires = "wait")]
        wait_timeout: Option<Span>,
        /// The snapshot's name, to repeat a request whose outcome is unknown
        #[arg(long)]
        uuid: Option<SnapshotId>,
    },
    /// How far a snapshot is; exits 5 when it is missing, 1 when it failed
    Status {
        uuid: SnapshotId,
        /// Only this node's part
        #[arg(long, value_name = "ID")]
        node: Option<u64>,
    },
    /// The snapshots, newest first
    List,
    /// Fetch the part of the node that answers, of another one, or all of them
    Download(Download),
    /// Check downloaded or extracted parts of one snapshot, without a cluster
    Verify {
        #[arg(required = true, value_name = "PATH")]
        paths: Vec<PathBuf>,
    },
    /// Delete a snapshot on every node
    Delete { uuid: SnapshotId },
}

#[derive(Debug, ClapArgs)]
pub struct Download {
    pub uuid: SnapshotId,
    /// The part of this node
    #[arg(long, value_name = "ID", conflicts_with = "all", value_parser = clap::value_parser!(u64).range(1..))]
    pub node: Option<u64>,
    /// Every completed part, each to snapshot-<uuid>-<node id>.tar
    #[arg(long)]
    pub all: bool,
    /// A file, a directory, or - for stdout; stdout by default, with --all the current directory
    #[arg(long, value_name = "PATH")]
    pub output: Option<PathBuf>,
    /// Go on with what an earlier download left
    #[arg(long)]
    pub resume: bool,
    /// With --all: parts that are fetched at the same time, each from its own node if --endpoint names it
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..))]
    pub parallel: u16,
}

/// host:port, one or several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoints(pub Vec<String>);

/// A time that somebody is willing to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

/// Opaque bytes, written as base64.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token(pub Vec<u8>);

impl FromStr for Endpoints {
    type Err = String;
    fn from_str(s: &str) -> Result<Endpoints, String> {
        s.split(',').map(|one| endpoint(one.trim())).collect::<Result<_, _>>().map(Endpoints)
    }
}

/// host:port, checked.
pub fn endpoint(s: &str) -> Result<String, String> {
    let (host, port) = s.rsplit_once(':').ok_or_else(|| format!("{s:?} lacks a port: write HOST:PORT"))?;
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let host_fits = match bare {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c)),
    };
    if !host_fits {
        return Err(format!("{host:?} is not a host name, an IPv4 address or an IPv6 address in brackets"));
    }
    match port.parse::<u16>() {
        Ok(1..) if port.bytes().all(|b| b.is_ascii_digit()) => Ok(s.to_owned()),
        _ => Err(format!("{port:?} is not a port from 1 to 65535")),
    }
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
        let ms = s[..digits].parse::<u64>().ok().and_then(|n| n.checked_mul(unit_ms)).filter(|ms| (1..=SPAN_MS_MAX).contains(ms));
        ms.map(|ms| Span(Duration::from_millis(ms))).ok_or_else(|| format!("{s:?} is not a time from 1ms to 7 days"))
    }
}

const SPAN_MS_MAX: u64 = 7 * 86_400_000;

impl FromStr for Token {
    type Err = String;
    fn from_str(s: &str) -> Result<Token, String> {
        text::from_base64(s).map(Token)
    }
}

impl Bucket {
    pub fn proto(self) -> i32 {
        match self {
            Bucket::Default => v1::Bucket::Default,
            Bucket::Lww => v1::Bucket::Lww,
            Bucket::Cloud => v1::Bucket::Cloud,
            Bucket::Local => v1::Bucket::Local,
        }
        .into()
    }
}

/// Help and version go to stdout; anything else is a line about what is wrong with the command line.
pub fn explain(e: &clap::Error, console: &mut Console) -> ExitCode {
    if matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        let end = console.write(e.render().to_string().as_bytes());
        return ExitCode::from(end.map_or_else(|failure| failure.exit, |()| exit::OK));
    }
    let failure = if e.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        console.say(e.render().to_string().trim_end());
        Failure::usage("a command is missing", "see above")
    } else {
        let rendered = e.render().to_string();
        Failure::usage(sentence(&rendered), remedy(&rendered))
    };
    console.complain(&failure);
    ExitCode::from(exit::USAGE)
}

/// Clap's paragraphs as one line: what is wrong, without the usage below it.
fn sentence(rendered: &str) -> String {
    let told = rendered.split("\n\nUsage:").next().unwrap_or_default();
    let told = told.split("\n\nFor more information").next().unwrap_or_default();
    let lines: Vec<&str> = told.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.join(" ").trim_start_matches("error: ").to_owned()
}

/// How the command is used, where clap knows which one was meant.
fn remedy(rendered: &str) -> String {
    let usage = rendered.split("\n\nUsage: ").nth(1).and_then(|rest| rest.lines().next()).map(str::trim);
    usage.map_or("see --help".to_owned(), |usage| format!("it is used as `{usage}`; see --help"))
}

pub fn completions(shell: clap_complete::Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "ddbctl", &mut script);
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args, clap::Error> {
        Args::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_definition_holds_together() {
        Args::command().debug_assert();
    }

    #[test]
    fn what_the_manual_shows_is_understood() {
        for line in [
            "ddbctl cluster overview --partitions",
            "ddbctl cluster health --endpoint a:1,b:2 --timeout 500ms -o json",
            "ddbctl node list -o yaml",
            "ddbctl site add shop-1",
            "ddbctl relay add r1 --site shop-1",
            "ddbctl relay move r1 --no-site",
            "ddbctl relay move r1 --site s",
            "ddbctl relay list --site s",
            "ddbctl get --site s k --raw",
            "ddbctl put --site s --bucket lww k -",
            "ddbctl put --site s k -5",
            "ddbctl put --site s k --file /tmp/v --timestamp-ms 5",
            "ddbctl delete --site s k --context YWI=",
            "ddbctl scan --site s --prefix a --after ab --limit 5 --keys-only",
            "ddbctl snapshot create --wait --wait-timeout 2m",
            "ddbctl snapshot status b54a61d9-b64c-45e0-94b7-80c9e36b86fa --node 18446744073709551615",
            "ddbctl snapshot download b54a61d9-b64c-45e0-94b7-80c9e36b86fa --all --output dir --resume",
            "ddbctl snapshot download b54a61d9-b64c-45e0-94b7-80c9e36b86fa --output -",
            "ddbctl snapshot verify a.tar b.tar",
            "ddbctl bench put --clients 64 --connections 8 --seconds 5 --sites 4 --keys 1000 --value-bytes 0 --cleanup",
            "ddbctl bench get --rate 5000 --direct --prefix mine- --plot latency.svg",
            "ddbctl bench mixed --reads 0 -o json",
            "ddbctl bench scan --rows 1000",
            "ddbctl bench load --keys 1000000 --rows 4096",
            "ddbctl bench snapshot --endpoint a:1,b:2",
            "ddbctl bench cleanup --prefix mine-",
            "ddbctl completions bash",
        ] {
            assert!(parse(line).is_ok(), "{line}: {}", parse(line).unwrap_err());
        }
    }

    #[test]
    fn what_cannot_work_is_refused_in_one_line() {
        let mut story = String::new();
        for line in [
            "ddbctl snapshot status nonsense",
            "ddbctl snapshot download b54a61d9-b64c-45e0-94b7-80c9e36b86fa --all --node 5",
            "ddbctl snapshot verify",
            "ddbctl get --site s",
            "ddbctl get k",
            "ddbctl put --site s k",
            "ddbctl put --site s k v --file f",
            "ddbctl put --site s k v --bucket nope",
            "ddbctl put --site s k v --context *",
            "ddbctl relay move r1",
            "ddbctl scan --site s --limit 0",
            "ddbctl node list --timeout 0",
            "ddbctl node list --timeout soon",
            "ddbctl node list --endpoint localhost",
            "ddbctl node list --endpoint a:1,b:99999",
            "ddbctl node list --endpoint http://a:1",
            "ddbctl node list -o xml",
            "ddbctl nodes list",
            "ddbctl bench",
            "ddbctl bench puts",
            "ddbctl bench put --clients 0",
            "ddbctl bench put --rate 0",
            "ddbctl bench put --seconds 1.5",
            "ddbctl bench put --value-bytes 1048577",
            "ddbctl bench put --rows 5",
            "ddbctl bench mixed --reads 101",
            "ddbctl bench load --seconds 5",
            "ddbctl bench load --rows 4097",
        ] {
            let e = parse(line).unwrap_err();
            story += &format!("{line}\n  {}\n", sentence(&e.render().to_string()));
        }
        crate::ctl::golden::check("usage.txt", &story);
    }

    #[test]
    fn times_are_read_as_people_write_them() {
        for (s, ms) in [("10", 10_000), ("500ms", 500), ("10s", 10_000), ("2m", 120_000), ("1h", 3_600_000)] {
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
