//! The command line of `ddbctl` as types: what clap lets through is a command that can be tried.
//! One file a noun.

// Doc comments here are help texts, which are no HTML.
#![allow(rustdoc::invalid_html_tags)]

mod value;
mod operation;
mod cluster;
mod site;
mod relay;
mod key;
mod repository;
mod schedule;
mod kv;
mod snapshot;
mod bench;
mod cert;
mod access;
mod context;

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand, error::ErrorKind};

use super::term::{
    exit::{self, Failure},
    output::{Console, Format},
};
use crate::base::ids::ClusterId;
pub use access::{Grant, Granted, Held, Token as AccessToken, role_name};
pub use bench::{Bench, Ground, Timed};
pub use cert::Cert;
pub use cluster::{Cluster, Joins, Node, Upgrade};
pub use context::Context;
pub use key::{NodeKeys, Reading, Writing};
pub use kv::{Bucket, Delete, Get, Place, Put, Scan, Write};
pub use operation::Operation;
pub use relay::Relay;
pub use repository::{Collecting, Drill, Repository, Slots, Verifying};
pub use schedule::{Backup, BackupStatus, BackupTo, Schedule};
pub use site::Site;
pub use snapshot::{Download, Snapshot};
pub use value::{Endpoints, NodeName, Span, Token, cluster_id, endpoint};

/// The id of the flag that names a cluster.
const CLUSTER_CONTEXT: &str = "cluster-context";

/// Speaks to a DeviceDB cluster.
#[derive(Debug, Parser)]
#[command(name = "ddbctl", version, disable_help_subcommand = true, after_help = exit::help())]
pub struct Args {
    /// Nodes to speak to; the first that answers is used. Without it those of the context, and
    /// 127.0.0.1:8080 where there is none
    #[arg(long, global = true, env = "DDBCTL_ENDPOINT", value_name = "HOST:PORT[,HOST:PORT]")]
    pub endpoint: Option<Endpoints>,
    /// The context of the configuration file to use, for all that neither the command line nor the
    /// environment names; an empty name uses none. Without it the one that is current. It stands
    /// before put and delete: behind them, the context is that of a read
    #[arg(
        id = CLUSTER_CONTEXT,
        long = "context",
        global = true,
        env = "DDBCTL_CONTEXT",
        value_name = "NAME"
    )]
    pub context: Option<String>,
    /// The cluster that is meant: nodes of any other refuse the command. Without it, several
    /// endpoints are asked first whether they are of one cluster
    #[arg(
        long,
        global = true,
        env = "DDBCTL_CLUSTER_ID",
        value_name = "UUID",
        value_parser = cluster_id,
    )]
    pub cluster_id: Option<ClusterId>,
    #[command(flatten)]
    pub secured: Secured,
    /// How long a command may take, retries included: 500ms, 10s, 2m or seconds. For downloads and
    /// scans: how long it may stand still
    #[arg(long, global = true, env = "DDBCTL_TIMEOUT", default_value = "10s", value_name = "TIME")]
    pub timeout: Span,
    /// How results are written
    #[arg(
        short = 'o',
        long = "format",
        global = true,
        env = "DDBCTL_OUTPUT",
        default_value = "table",
        value_name = "FORMAT"
    )]
    pub format: Format,
    /// Say nothing on stderr but warnings and what went wrong
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Say a command that only looks again and again, every 2 s unless a time is said, until Ctrl-C
    #[arg(
        long,
        global = true,
        value_name = "TIME",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "2s"
    )]
    pub watch: Option<Span>,
    #[command(subcommand)]
    pub command: Command,
}

/// Files and a name for TLS, and who calls. Their ids are not those of what commands take: a key is
/// also a key. What belongs together is checked where contexts have had their say.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Secured {
    /// The CA that has issued for the nodes, in PEM: speak TLS. Without it nothing is encrypted
    #[arg(id = "tls_ca", long = "ca", global = true, env = "DDBCTL_CA", value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// The certificate that says who you are, in PEM
    #[arg(id = "tls_cert", long = "cert", global = true, env = "DDBCTL_CERT", value_name = "FILE")]
    pub cert: Option<PathBuf>,
    /// The key of that certificate, in PEM
    #[arg(id = "tls_key", long = "key", global = true, env = "DDBCTL_KEY", value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// Whom the nodes' certificates are for, if not for the hosts in --endpoint
    #[arg(
        id = "tls_server_name",
        long = "server-name",
        global = true,
        env = "DDBCTL_SERVER_NAME",
        value_name = "NAME"
    )]
    pub server_name: Option<String>,
    /// A file that holds a token and nothing else, and that only you can read: it says who you are.
    /// The token is sent over TLS, or to this machine
    #[arg(
        id = "bearer_token_file",
        long = "token-file",
        global = true,
        env = "DDBCTL_TOKEN_FILE",
        value_name = "FILE"
    )]
    pub token_file: Option<PathBuf>,
}

#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// The cluster as a whole
    #[command(subcommand)]
    Cluster(Cluster),
    /// The cluster's nodes
    #[command(subcommand, visible_alias = "member")]
    Node(Node),
    /// What was asked of the nodes as a whole: how far it is, and why it waits
    #[command(subcommand)]
    Operation(Operation),
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
    /// Say which way back downloaded or extracted parts of one snapshot allow, step by step, and
    /// what it gives up: without a cluster, and nothing changes. Exits 6 when there is none
    #[command(after_help = "Examples:\n  ddbctl restore parts/*.tar")]
    Restore {
        /// Tars, or directories that tars were extracted to
        #[arg(required = true, value_name = "PART")]
        parts: Vec<PathBuf>,
        /// The age identity file that opens sealed parts; without it their rows are not looked at
        #[arg(long, value_name = "FILE")]
        identity: Option<PathBuf>,
    },
    /// Backups outside the cluster: each row once for all replicas and over time, without a cluster
    #[command(subcommand)]
    Repository(Repository),
    /// When the cluster takes snapshots by itself and stores them in the nodes' repository
    #[command(subcommand)]
    Schedule(Schedule),
    /// Back the cluster up into a directory, in one line for cron: snapshot, download, verify, and
    /// remove old ones. Or say how its backups stand
    #[command(after_help = "Examples:\n  ddbctl backup --to /var/backups/devicedb --keep 7\n  \
                            ddbctl backup status")]
    Backup(Backup),
    /// Certificates for nodes and clients, of a CA of your own
    #[command(subcommand)]
    Cert(Cert),
    /// Say who you are to the cluster, and what you may do
    Whoami,
    /// Who may do what, by the names in their certificates
    #[command(subcommand)]
    Grant(Grant),
    /// Tokens: what scripts prove themselves with that have no certificate
    #[command(subcommand)]
    Token(AccessToken),
    /// Clusters that you have given a name, and how they are spoken to
    #[command(subcommand)]
    Context(Context),
    /// Measure the cluster from here: rates and latencies of requests
    #[command(subcommand)]
    Bench(Bench),
    /// Print a completion script for a shell
    #[command(after_help = "Examples:\n  ddbctl completions zsh > _ddbctl")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write pages for `man`, one for each command, into a directory
    #[command(after_help = "Examples:\n  ddbctl manual ~/.local/share/man/man1")]
    Manual {
        /// The directory; made if it is not there
        dir: PathBuf,
    },
}

impl Command {
    /// Whether it shows how things are, and changes nothing.
    pub fn looks(&self) -> bool {
        match self {
            Command::Cluster(cluster) => matches!(
                cluster,
                Cluster::Overview { .. }
                    | Cluster::Health { .. }
                    | Cluster::Upgrade(Upgrade::Status)
            ),
            Command::Node(node) => matches!(node, Node::List),
            Command::Operation(operation) => {
                matches!(operation, Operation::List { .. } | Operation::Show { .. })
            }
            Command::Site(site) => matches!(site, Site::List),
            Command::Relay(relay) => matches!(relay, Relay::List { .. }),
            Command::Get(_) | Command::Whoami => true,
            Command::Snapshot(snapshot) => {
                matches!(snapshot, Snapshot::List | Snapshot::Status { .. } | Snapshot::Orphans)
            }
            Command::Schedule(schedule) => {
                matches!(schedule, Schedule::List | Schedule::Get { .. })
            }
            Command::Backup(backup) => backup.command.is_some(),
            _ => false,
        }
    }

    /// Whether it speaks to no cluster, so that nothing has to be known of one.
    pub fn is_local(&self) -> bool {
        match self {
            Command::Restore { .. }
            | Command::Repository(_)
            | Command::Cert(_)
            | Command::Context(_)
            | Command::Completions { .. }
            | Command::Manual { .. } => true,
            Command::Snapshot(snapshot) => snapshot.is_local(),
            _ => false,
        }
    }
}

/// What people say by habit as clap has it: `help snapshot create` is `snapshot create --help`, and
/// `version` is `--version`.
pub fn by_habit(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut args: Vec<OsString> = args.into_iter().collect();
    match args.get(1).and_then(|word| word.to_str()) {
        Some("help") => {
            args.remove(1);
            args.push("--help".into());
        }
        Some("version") if args.len() == 2 => args[1] = "--version".into(),
        _ => {}
    }
    args
}

/// Help and version go to stdout; anything else is a line about what is wrong with the command
/// line.
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
    let usage =
        rendered.split("\n\nUsage: ").nth(1).and_then(|rest| rest.lines().next()).map(str::trim);
    usage.map_or("see --help".to_owned(), |usage| {
        format!("it is used as `{}`; see --help", without_common(usage))
    })
}

/// A usage without the options of every command: clap shows those that the environment has set, as
/// if they were needed.
fn without_common(usage: &str) -> String {
    const COMMON: [&str; 9] = [
        "--endpoint",
        "--context",
        "--cluster-id",
        "--ca",
        "--cert",
        "--key",
        "--server-name",
        "--token-file",
        "--timeout",
    ];
    let mut words = usage.split(' ');
    let mut kept = Vec::new();
    while let Some(word) = words.next() {
        if COMMON.contains(&word) {
            words.next();
        } else {
            kept.push(word);
        }
    }
    kept.join(" ")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(line: &str) -> Result<Args, clap::Error> {
        Args::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn habits_are_understood() {
        let said = |line: &str| {
            let words = by_habit(line.split(' ').map(OsString::from));
            Args::try_parse_from(words).map(drop).map_err(|e| e.kind())
        };
        for line in ["ddbctl help", "ddbctl help snapshot create", "ddbctl help backup"] {
            assert_eq!(said(line), Err(ErrorKind::DisplayHelp), "{line}");
        }
        assert_eq!(said("ddbctl version"), Err(ErrorKind::DisplayVersion));
        for line in ["ddbctl member ls", "ddbctl snapshot ls", "ddbctl site ls", "ddbctl token ls"]
        {
            assert_eq!(said(line), Ok(()), "{line}");
        }
        assert_eq!(said("ddbctl get --site s help"), Ok(()));
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
            "ddbctl cluster init --endpoint a:1",
            "ddbctl cluster upgrade status",
            "ddbctl cluster upgrade finalize",
            "ddbctl node list -o yaml",
            "ddbctl node remove 7 --dry-run -o json",
            "ddbctl node remove 7 --force --etag 00c0ffee00c0ffee",
            "ddbctl node remove 7 --wait --wait-timeout 5m",
            "ddbctl node drain 7 --wait",
            "ddbctl node undrain 7",
            "ddbctl operation list --running --node 7",
            "ddbctl operation show 8e1d0c5b7a3f9246",
            "ddbctl operation wait 8e1d0c5b7a3f9246 --wait-timeout 5m",
            "ddbctl operation cancel 8e1d0c5b7a3f9246",
            "ddbctl node list --cluster-id 5f1c8a9e-0b1d-4a53-9a29-6d4a3f5f0c11",
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
            "ddbctl snapshot status b54a61d9-b64c-45e0-94b7-80c9e36b86fa --node \
             18446744073709551615",
            "ddbctl snapshot download b54a61d9-b64c-45e0-94b7-80c9e36b86fa --all --output dir \
             --resume",
            "ddbctl snapshot download b54a61d9-b64c-45e0-94b7-80c9e36b86fa --output -",
            "ddbctl snapshot verify a.tar b.tar",
            "ddbctl snapshot delete b54a61d9-b64c-45e0-94b7-80c9e36b86fa --lineage \
             00c0ffee00c0ffee",
            "ddbctl snapshot orphans",
            "ddbctl schedule create daily --cron @daily --keep last=24,daily=30",
            "ddbctl schedule create often --cron @hourly --start-deadline 30m --replace",
            "ddbctl schedule list -o json",
            "ddbctl schedule get hourly",
            "ddbctl schedule pause hourly",
            "ddbctl schedule resume hourly",
            "ddbctl schedule run hourly --wait --wait-timeout 5m",
            "ddbctl schedule delete hourly",
            "ddbctl backup status",
            "ddbctl whoami -o json",
            "ddbctl grant add spiffe://acme/ns/shop/sa/till writer --sites shop-*",
            "ddbctl grant remove spiffe://acme/* viewer",
            "ddbctl grant list",
            "ddbctl token create nightly backup --days 30 --file nightly.token",
            "ddbctl token list",
            "ddbctl token revoke 0badcafe",
            "ddbctl token resume --all",
            "ddbctl cert client ops --admin",
            "ddbctl restore a.tar b -o json",
            "ddbctl bench put --clients 64 --connections 8 --seconds 5 --sites 4 --keys 1000 \
             --value-bytes 0 --cleanup",
            "ddbctl bench get --rate 5000 --direct --prefix mine- --plot latency.svg",
            "ddbctl bench mixed --reads 0 -o json",
            "ddbctl bench scan --rows 1000",
            "ddbctl bench load --keys 1000000 --rows 4096",
            "ddbctl bench snapshot --endpoint a:1,b:2",
            "ddbctl bench cleanup --prefix mine-",
            "ddbctl completions bash",
            "ddbctl --context prod --token-file t node list",
            "ddbctl context list",
            "ddbctl context use prod",
            "ddbctl context show",
            "ddbctl context show prod -o json",
        ] {
            assert!(parse(line).is_ok(), "{line}: {}", parse(line).unwrap_err());
        }
    }

    #[test]
    fn a_write_tells_the_context_of_a_cluster_from_that_of_a_read() {
        let args = parse("ddbctl --context prod put --site s k v --context YWI=").unwrap();
        let Command::Put(put) = args.command else { panic!("{:?}", args.command) };
        assert_eq!(args.context.as_deref(), Some("prod"));
        assert_eq!(put.write.context, Some(Token(b"ab".to_vec())));
        let args = parse("ddbctl delete --site s k --context YWI=").unwrap();
        assert_eq!(args.context, None);
        let args = parse("ddbctl node list --context prod").unwrap();
        assert_eq!(args.context.as_deref(), Some("prod"));
    }

    #[test]
    fn what_cannot_work_is_refused_in_one_line() {
        let mut story = String::new();
        for line in [
            "ddbctl snapshot status nonsense",
            "ddbctl snapshot download b54a61d9-b64c-45e0-94b7-80c9e36b86fa --all --node 5",
            "ddbctl snapshot verify",
            "ddbctl snapshot delete b54a61d9-b64c-45e0-94b7-80c9e36b86fa --lineage c0ffee",
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
            "ddbctl node list --cluster-id 5f1c",
            "ddbctl nodes list",
            "ddbctl node remove",
            "ddbctl node remove node-7",
            "ddbctl node remove 7 --dry-run --wait",
            "ddbctl operation show 7",
            "ddbctl schedule create hourly",
            "ddbctl schedule create --cron @hourly",
            "ddbctl schedule create hourly --cron @hourly --start-deadline soon",
            "ddbctl schedule run",
            "ddbctl grant add a* root",
            "ddbctl grant add a",
            "ddbctl token create nightly",
            "ddbctl token create nightly backup --days 0",
            "ddbctl token revoke 7",
            "ddbctl token resume",
            "ddbctl token resume 0badcafe --all",
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
}
