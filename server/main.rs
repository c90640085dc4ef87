//! `devicedb`: `start` runs a node; `cluster ...` are the commands of the guide, for those who know them from the program that this one replaces.

use std::{env, ffi::OsString, io::IsTerminal as _, net::SocketAddr, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use devicedb::{
    ctl::{endpoint, guide},
    error::{Error, Kind, Result},
    node::{Node, Options},
};
use tracing_subscriber::EnvFilter;

/// A put allocates some dozens of times on its way, and the system's allocator took a sixth of its time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Threads that serve connections: one core is the engine's.
fn workers() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| (cores.get() - 1).max(1))
}

/// A distributed database for fleets of devices.
#[derive(Parser)]
#[command(name = "devicedb", version)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a node: found a cluster, join one, go on with a store, or restore an extracted part of a snapshot.
    Start(Start),
    /// The guide's commands with the guide's words: start, overview, snapshot, get_snapshot, download_snapshot and others.
    Cluster {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
        rest: Vec<OsString>,
    },
}

#[derive(clap::Args)]
pub struct Start {
    /// The directory of this node's data. Created if it is not there.
    #[arg(long, value_name = "DIR", env = "DEVICEDB_STORE")]
    store: PathBuf,
    /// Where to listen, for gRPC and HTTP alike.
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:8080", env = "DEVICEDB_LISTEN")]
    listen: SocketAddr,
    /// Where others reach this node, if that is not where it listens.
    #[arg(long, value_name = "HOST:PORT", env = "DEVICEDB_ADVERTISE", value_parser = endpoint)]
    advertise: Option<String>,
    /// A node of the cluster to join. Only an empty store joins; afterwards it is used to find the others again.
    #[arg(long, value_name = "HOST:PORT", env = "DEVICEDB_JOIN", value_parser = endpoint)]
    join: Option<String>,
    /// How many nodes hold each piece of data. Fixed when the cluster is founded.
    #[arg(long, value_name = "N", default_value_t = 3, env = "DEVICEDB_REPLICATION_FACTOR")]
    replication_factor: u32,
    /// Slices of the hash space of sites: a power of two from 64 to 65536. Fixed when the cluster is founded.
    #[arg(long, value_name = "N", default_value_t = 1024, env = "DEVICEDB_PARTITIONS")]
    partitions: u32,
    /// Raft groups that carry the partitions: a power of two. Fixed when the cluster is founded.
    #[arg(long, value_name = "N", default_value_t = 64, env = "DEVICEDB_GROUPS")]
    groups: u32,
    /// Where this node's parts of snapshots are kept. Must exist. Several nodes may share it.
    #[arg(long, value_name = "DIR", env = "DEVICEDB_SNAPSHOT_STORE")]
    snapshot_store: Option<PathBuf>,
    /// Listen beyond loopback although nothing is encrypted or authenticated.
    #[arg(long, env = "DEVICEDB_INSECURE")]
    insecure: bool,
    /// error, warn, info, debug or trace; or a filter as in `info,devicedb::peer=debug`.
    #[arg(long, value_name = "LEVEL", default_value = "info", env = "DEVICEDB_LOG")]
    log: String,
    /// Log one JSON object a line.
    #[arg(long, env = "DEVICEDB_LOG_JSON")]
    log_json: bool,
}

const FAILED: u8 = 1;
const USAGE: u8 = 2;

fn main() -> ExitCode {
    #[cfg(feature = "planted")]
    if env::args_os().nth(1).is_some_and(|arg| arg == "--failpoints") {
        return list_failpoints();
    }
    if env::args_os().nth(1).is_some_and(|arg| arg == "cluster") {
        return match guide::main(env::args_os().skip(2)) {
            guide::Outcome::Start(args) => match guide_start(args) {
                Ok((options, log)) => run(options, &log, false),
                Err(e) => fail(&e),
            },
            guide::Outcome::Done(code) => code,
        };
    }
    let Some(start) = Args::parse().start() else { return ExitCode::from(USAGE) };
    let (options, log, json) = start.options();
    run(options, &log, json)
}

impl Args {
    /// None for what is no start: the guide's commands are taken before clap sees them.
    pub fn start(self) -> Option<Start> {
        let Command::Start(start) = self.command else { return None };
        Some(start)
    }
}

impl Start {
    /// How the node is started, what it logs, and whether as JSON.
    pub fn options(self) -> (Options, String, bool) {
        let options = Options {
            store: self.store,
            listen: self.listen,
            advertise: self.advertise,
            join: self.join,
            replication_factor: self.replication_factor,
            partitions: self.partitions,
            groups: self.groups,
            snapshot_store: self.snapshot_store,
            insecure: self.insecure,
        };
        (options, self.log, self.log_json)
    }
}

/// The guide names host and port apart, and others reach the node by that name.
fn guide_start(args: guide::StartArgs) -> Result<(Options, String)> {
    let address = format!("{}:{}", args.host, args.port);
    let found = std::net::ToSocketAddrs::to_socket_addrs(&address).map_err(|e| Error::invalid(format!("-host {}: {e}", args.host)))?;
    let found: Vec<SocketAddr> = found.collect();
    let listen = found.iter().find(|a| a.is_ipv4()).or(found.first()).copied();
    let options = Options {
        store: args.store,
        listen: listen.ok_or_else(|| Error::invalid(format!("-host {} has no address", args.host)))?,
        advertise: Some(address),
        join: args.join,
        replication_factor: args.replication_factor,
        partitions: args.partitions,
        groups: args.partitions.min(64),
        snapshot_store: args.snapshot_store,
        insecure: false,
    };
    Ok((options, args.log_level))
}

/// For whoever crashes nodes on purpose: every place where one can be, one a line.
#[cfg(feature = "planted")]
fn list_failpoints() -> ExitCode {
    for point in devicedb::failpoint::Failpoint::ALL {
        println!("{:28} {}", point.name(), point.about());
    }
    ExitCode::SUCCESS
}

fn run(options: Options, log: &str, json: bool) -> ExitCode {
    #[cfg(feature = "planted")]
    if let Err(e) = devicedb::failpoint::check() {
        return fail(&e);
    }
    let filter = match EnvFilter::try_new(log) {
        Ok(filter) => filter,
        Err(e) => return fail(&Error::invalid(format!("log level {log:?}: {e}"))),
    };
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(std::io::stderr().is_terminal()).with_writer(std::io::stderr);
    if json {
        lines.json().init()
    } else {
        lines.with_target(false).init()
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(workers()).enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return fail(&Error::unavailable(format!("cannot start: {e}"))),
    };
    match runtime.block_on(serve(options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => fail(&e),
    }
}

fn fail(e: &Error) -> ExitCode {
    eprintln!("devicedb: {e}");
    ExitCode::from(if e.kind == Kind::Invalid { USAGE } else { FAILED })
}

async fn serve(options: Options) -> Result<()> {
    let mut node = tokio::select! {
        started = Node::start(options) => started?,
        // Before it serves, there is nothing to stop.
        () = asked_to_stop() => return Ok(()),
    };
    let failed = tokio::select! {
        e = node.failed() => Some(e),
        () = asked_to_stop() => None,
    };
    match failed {
        Some(e) => {
            tracing::error!(error = %e, "the node stops: its engine has ended");
            // The reason is known already.
            let _ = node.stop().await;
            Err(e)
        }
        None => {
            tracing::info!("stopping");
            node.stop().await
        }
    }
}

async fn asked_to_stop() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        return std::future::pending().await;
    };
    tokio::select! { _ = terminate.recv() => (), _ = interrupt.recv() => () }
}
