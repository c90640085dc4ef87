//! `devicedb`: `start` runs a node; `restore` makes a store of parts of a snapshot; `recover ...`
//! brings a cluster back that has lost most of its nodes; `cluster ...` are the commands of the
//! guide, for those who know them from the program that this one replaces.

#[path = "main/settings.rs"]
mod settings;
#[path = "main/start.rs"]
mod start;

use std::{
    env,
    ffi::OsString,
    fs,
    io::{IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{CommandFactory as _, Parser, Subcommand};
use devicedb::{
    base::{
        clock::{Clock, Random},
        error::{Context as _, Error, Kind, Result},
        ids::{GroupId, SnapshotId},
        journal::{self, Journal, Seldom},
    },
    boot::{
        recover::{
            self, Applied,
            choose::Terms,
            forms::{Plan, Report, parse_group},
        },
        restore::offline,
    },
    ctl::{guide, manual},
    node::{Node, Options},
    part::seal::Identities,
    signals::Signals,
};
use tracing_subscriber::{
    EnvFilter, Layer as _, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

use self::start::{Start, listening};

/// A put allocates some dozens of times on its way, and the system's allocator took a sixth of its
/// time. It is built without huge pages (`no_thp`): with them an idle node held 27 MiB where it
/// used 5, and whatever was freed in between stayed.
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
    /// Run a node: found a cluster, join one, go on with a store, or restore an extracted part of a
    /// snapshot.
    Start(Box<Start>),
    /// Make a store of downloaded or extracted parts of a snapshot, in a directory that is empty.
    /// Offline: no node may run on the directory.
    Restore(Restore),
    /// Bring a cluster back of which most nodes are lost for good. Offline: no node of it may run.
    #[command(subcommand)]
    Recover(Recover),
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Write pages for `man`, one for each command, into a directory.
    Manual {
        /// The directory. Made if it is not there.
        dir: PathBuf,
    },
    /// The guide's commands with the guide's words: start, overview, snapshot, get_snapshot,
    /// download_snapshot and others.
    Cluster {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
        rest: Vec<OsString>,
    },
}

/// A restore that needs no running node.
#[derive(clap::Args)]
#[command(
    after_help = "One part makes the store of the node that wrote it. The cluster comes back when \
                        most voters of every group are restored so and started. With \
                        --sole-survivor, parts that cover every partition make one store that \
                        holds the whole cluster. `ddbctl restore PART...` says which way the \
                        parts at hand allow.\n\nExit codes: 0 done, 1 refused or failed, 2 options \
                        that cannot work."
)]
struct Restore {
    /// Tars, or directories that tars were extracted to: parts of one snapshot, each of another
    /// node.
    #[arg(required = true, value_name = "PART")]
    parts: Vec<PathBuf>,
    /// The directory of the new store: an empty one, or one that is not there yet.
    #[arg(long, value_name = "DIR", env = "DEVICEDB_STORE")]
    store: PathBuf,
    /// Give up all other nodes of the snapshot for good: this store holds the whole cluster alone,
    /// and empty nodes that join it get their share.
    #[arg(long)]
    sole_survivor: bool,
    /// The age identity file that opens parts which are sealed.
    #[arg(long, value_name = "FILE")]
    unseal_with: Option<PathBuf>,
}

/// Inspect the store of every node that is left, make one plan of all reports, and apply it to
/// each of these stores. Then start the nodes.
#[derive(Subcommand)]
#[command(
    after_help = "Exit codes: 0 done, 1 refused or failed, 2 options or files that cannot work."
)]
enum Recover {
    /// Say as JSON what a store holds, which stays as it is.
    Inspect {
        /// The directory of a node that is left.
        #[arg(long, value_name = "DIR", env = "DEVICEDB_STORE")]
        store: PathBuf,
    },
    /// Make a plan of the reports of all nodes that are left: JSON on stdout, and for people on
    /// stderr what is kept and what may be missing. Touches no store.
    Plan {
        /// What `recover inspect` has said of each store.
        #[arg(required = true, value_name = "REPORT")]
        reports: Vec<PathBuf>,
        /// Groups of which none of the stores has a copy, and which may begin empty: all data of
        /// their sites is lost.
        #[arg(long, value_name = "N,...", value_delimiter = ',', value_parser = parse_group)]
        give_up_groups: Vec<GroupId>,
    },
    /// Make of a store what the plan says. What it held and the plan does not keep is gone for
    /// good; repeat it after an interruption.
    Apply {
        /// The plan. Every store needs the same one.
        #[arg(value_name = "PLAN")]
        plan: PathBuf,
        /// The directory of a node that is left.
        #[arg(long, value_name = "DIR", env = "DEVICEDB_STORE")]
        store: PathBuf,
        /// The first 8 characters of the cluster's id, for scripts. Without it they are asked for.
        #[arg(long, value_name = "ID")]
        confirm: Option<String>,
    },
}

const STOPPED: u8 = 0;
const FAILED: u8 = 1;
const USAGE: u8 = 2;

fn main() -> ExitCode {
    // What a node makes holds all data, or keys: it is for its owner alone, 0600 and 0700.
    rustix::process::umask(rustix::fs::Mode::from_bits_retain(0o077));
    #[cfg(feature = "fault-injection")]
    if env::args_os().nth(1).is_some_and(|arg| arg == "--failpoints") {
        return ended(say(devicedb::faults::failpoint::listed()));
    }
    if env::args_os().nth(1).is_some_and(|arg| arg == "cluster") {
        return match guide::main(env::args_os().skip(2)) {
            guide::Outcome::Start(args) => match guide_start(args) {
                Ok((options, log)) => run(options, &log, false),
                Err(e) => refuse(&e),
            },
            guide::Outcome::Done(code) => code,
        };
    }
    let words = match settings::beside(&Args::command(), env::args_os().collect()) {
        Ok(words) => words,
        Err(e) => return refuse(&e),
    };
    let args = match Args::parse_from(words) {
        Args { command: Command::Recover(command) } => return ended(recover(command)),
        Args { command: Command::Restore(command) } => return ended(restore(command)),
        Args { command: Command::Completions { shell } } => {
            return ended(say(manual::completions(Args::command(), shell)));
        }
        Args { command: Command::Manual { dir } } => {
            return ended(manual::pages(Args::command(), &dir));
        }
        args => args,
    };
    let Some(start) = args.start() else { return ExitCode::from(USAGE) };
    let (options, log, json) = start.options();
    run(options, &log, json)
}

impl Args {
    /// `None` unless the subcommand is `start`. The guide's commands never come here: `main` takes
    /// them before clap.
    pub fn start(self) -> Option<Start> {
        let Command::Start(start) = self.command else { return None };
        Some(*start)
    }
}

/// The guide names host and port apart, and others reach the node by that name.
fn guide_start(args: guide::StartArgs) -> Result<(Options, String)> {
    let address = format!("{}:{}", args.host, args.port);
    let listen =
        listening(&address).map_err(|why| Error::invalid(format!("-host {}: {why}", args.host)))?;
    let options = Options {
        advertise: Some(address),
        // As the guide has it.
        found: args.join.is_empty(),
        join: args.join,
        replication_factor: args.replication_factor,
        partitions: args.partitions,
        groups: args.partitions.min(64),
        snapshot_store: args.snapshot_store,
        replacement: args.replacement,
        ..Options::plain(args.store, listen)
    };
    Ok((options, args.log_level))
}

fn run(options: Options, log: &str, json: bool) -> ExitCode {
    #[cfg(feature = "fault-injection")]
    if let Err(e) = devicedb::faults::failpoint::check() {
        return refuse(&e);
    }
    // The library below the log says at each start what it does to its files.
    let told = if log.contains("raft_engine") {
        log.to_owned()
    } else {
        format!("raft_engine=warn,{log}")
    };
    let filter = match EnvFilter::try_new(&told) {
        Ok(filter) => filter,
        Err(e) => return refuse(&Error::invalid(format!("log level {log:?}: {e}")).with_source(e)),
    };
    let seldom = Seldom::by(Clock::start());
    let journal = match Journal::start(seldom.clone()) {
        Ok(journal) => journal,
        Err(e) => return refuse(&e),
    };
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(journal.clone())
        .log_internal_errors(false);
    let lines = if json { lines.json().boxed() } else { lines.with_target(false).boxed() };
    tracing_subscriber::registry().with(filter).with(seldom).with(lines).init();
    journal::tell_of_panics();
    let ended = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers())
        .enable_all()
        .build()
    {
        Ok(runtime) => {
            let ended = runtime.block_on(serve(options));
            // What is still under way is not waited for: a node that stops has waited, and one that
            // ends at once is as one that was killed.
            runtime.shutdown_background();
            ended
        }
        Err(e) => Err(Error::unavailable(format!("cannot start: {e}")).with_source(e)),
    };
    let code = ended.unwrap_or_else(|e| {
        journal.say(&format!("devicedb: {e}"));
        code_of(&e)
    });
    journal.flush();
    ExitCode::from(code)
}

/// Says why there is no start, before there is a journal to say it.
fn refuse(e: &Error) -> ExitCode {
    // Where nobody reads, the exit code is all there is.
    let _ = writeln!(std::io::stderr(), "devicedb: {e}");
    ExitCode::from(code_of(e))
}

/// How a command ends that starts no node.
fn ended(end: Result<()>) -> ExitCode {
    end.map_or_else(|e| refuse(&e), |()| ExitCode::SUCCESS)
}

fn code_of(e: &Error) -> u8 {
    if e.kind == Kind::Invalid { USAGE } else { FAILED }
}

fn restore(Restore { parts, store, sole_survivor, unseal_with }: Restore) -> Result<()> {
    #[cfg(feature = "fault-injection")]
    devicedb::faults::failpoint::check()?;
    let dir = store.display();
    let identities = unseal_with.map(|file| Identities::read(&file)).transpose()?;
    if sole_survivor {
        let terms = offline::Terms {
            id: SnapshotId(Random::from_entropy().uuid()),
            at_ms: Clock::start().wall_ms(),
        };
        let plan = offline::plan(&parts, &store, identities.as_ref(), &terms)?;
        tell(plan.told());
        plan.carry_out()?;
        tell(&format!(
            "{dir} holds the whole cluster as node {}. Start it here, and empty nodes elsewhere \
             until {} serve in all:\n  devicedb start --store {dir} --listen ADDRESS\n  devicedb \
             start --store EMPTY --listen ADDRESS --join ADDRESS",
            plan.node(),
            counted(plan.replication_factor(), "node")
        ));
        return Ok(());
    }
    let [part] = &parts[..] else {
        return Err(Error::invalid(format!(
            "{} parts are named, and nothing says what to make of them. If most voters of every \
             group have a part, restore each part into a directory of its own, with one part a \
             command, and start all nodes. If not, --sole-survivor makes one store of them all \
             and gives the other nodes up. ddbctl restore PART... says which way they allow",
            parts.len()
        )));
    };
    let node = offline::one(part, &store, identities.as_ref())?;
    tell(&format!(
        "{dir} holds what node {node} had of the snapshot. When most voters of every group are \
         restored from their parts, start them all:\n  devicedb start --store {dir} --listen \
         ADDRESS --join ADDRESS,..."
    ));
    Ok(())
}

fn counted(count: u32, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

fn recover(command: Recover) -> Result<()> {
    #[cfg(feature = "fault-injection")]
    devicedb::faults::failpoint::check()?;
    let read = |path: &Path| fs::read(path).at(path.display());
    match command {
        Recover::Inspect { store } => say(&recover::inspect(&store)?.encode()?),
        Recover::Plan { reports, give_up_groups } => {
            let report =
                |path: &PathBuf| Report::parse(&read(path)?).map_err(|e| e.at(path.display()));
            let reports = reports.iter().map(report).collect::<Result<Vec<_>>>()?;
            let terms = Terms {
                give_up: give_up_groups.into_iter().collect(),
                id: SnapshotId(Random::from_entropy().uuid()),
                at_ms: Clock::start().wall_ms(),
            };
            let (plan, told) = recover::plan(&reports, &terms)?;
            tell(&told);
            say(&plan.encode()?)
        }
        Recover::Apply { plan: path, store, confirm } => {
            let plan = Plan::parse(&read(&path)?).map_err(|e| e.at(path.display()))?;
            match recover::apply(&plan, &store, || confirmed(&plan, &store, confirm))? {
                Applied::Now => tell(&format!(
                    "{} is recovered by plan {}. The plan is for {} in all: when each of them is \
                     recovered, start their nodes",
                    store.display(),
                    plan.id,
                    counted(plan.survivors.len() as u32, "store")
                )),
                Applied::Before => {
                    tell(&format!("{} was recovered by plan {} before", store.display(), plan.id))
                }
            }
            Ok(())
        }
    }
}

/// What is asked of people before a store changes for good.
fn confirmed(plan: &Plan, store: &Path, given: Option<String>) -> Result<()> {
    let id = plan.history.short();
    let typed = match given {
        Some(given) => given,
        None if std::io::stdin().is_terminal() => {
            tell(&format!(
                "This plan gives up {} of {} nodes for good, and {} changes for good. Type the \
                 first 8 characters of the cluster's id ({id}) to go on:",
                plan.lost.len(),
                plan.lost.len() + plan.survivors.len(),
                store.display()
            ));
            let mut line = String::new();
            std::io::stdin().read_line(&mut line).at("reading what is typed")?;
            line
        }
        None => {
            return Err(Error::invalid(format!(
                "nothing was changed: nobody can be asked here. Say --confirm {id}, the first 8 \
                 characters of the id of cluster {}",
                plan.history.cluster
            )));
        }
    };
    match typed.trim() == id {
        true => Ok(()),
        false => Err(Error::invalid(format!(
            "nothing was changed: {:?} is not {id}, the first 8 characters of the id of cluster {}",
            typed.trim(),
            plan.history.cluster
        ))),
    }
}

/// To stdout; a reader that is gone is told by the exit code.
fn say(text: impl AsRef<[u8]>) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_ref()).and_then(|()| out.flush()).at("writing to stdout")
}

/// To people.
fn tell(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

async fn serve(options: Options) -> Result<u8> {
    let mut signals = Signals::hear(options.end_with_stdin)?;
    let asked = signals.hangups();
    let node = tokio::select! {
        started = Node::start(options, asked) => started?,
        // Before it serves, there is nothing to stop.
        _ = signals.asked_to_stop() => return Ok(STOPPED),
    };
    if std::io::stderr().is_terminal() {
        tracing::info!("next: ddbctl --endpoint {} cluster health", node.address);
    }
    let failed = tokio::select! {
        e = node.failed() => Some(e),
        () = node.departed() => {
            tracing::info!(
                node = %node.id,
                "the node is decommissioned: others hold all that it held. Its store may be deleted"
            );
            None
        }
        _ = signals.asked_to_stop() => None,
    };
    match &failed {
        Some(e) => tracing::error!(error = %e, "the node stops: it cannot go on"),
        None => tracing::info!("stopping"),
    }
    let stopped = tokio::select! {
        stopped = node.stop() => stopped,
        code = signals.asked_to_stop() => {
            tracing::warn!("asked again: the node ends without stopping");
            return Ok(code);
        }
    };
    // The reason is known already.
    failed.map_or(stopped.map(|()| STOPPED), Err)
}
