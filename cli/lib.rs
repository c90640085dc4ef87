//! The command line: `ddbctl`, and the guide's client commands of `devicedb cluster`, which are a
//! translation onto the same code.
//!
//! It talks to nodes through the contract only. From the server it imports the generated client,
//! connections and TLS, the bounds, ids, error, locks and clocks, and the offline verification of
//! parts; it shares no state with a node. Results go to stdout, messages to stderr, and the exit
//! code tells a script what to do next (`exit`).
//!
//! Modules stand in reading order: output, endpoints and retries; then one module for each noun of
//! the command line; then the guide.

use std::{ffi::OsString, process::ExitCode, thread::available_parallelism, time::Duration};

use clap::{CommandFactory as _, Parser as _};

use crate::base::{
    clock::{Clock, Random},
    limits,
};

mod term;
mod args;
mod config;
mod fault;
mod retry;
mod connection;
mod identity;
mod client;
mod kv;
mod upgrade;
mod joins;
mod outlook;
mod picture;
mod operation;
mod removal;
mod departure;
mod cluster;
mod node;
mod site;
mod relay;
mod cert;
mod snapshot;
mod restore;
mod place;
mod care;
mod drill;
mod repository;
mod schedule;
mod backup;
mod access;
mod context;
pub mod bench;
pub mod manual;
mod watch;
mod flags;
pub mod guide;
#[cfg(test)]
mod golden;

use args::Command;
pub use args::{Args, NodeKeys, endpoint};
use client::Client;
pub use config::nearest;
use connection::Access;
pub use term::exit::CODES as EXIT_CODES;
use term::{
    exit::{self, Failure},
    interrupts::Interrupts,
    output::{Console, Format},
};

/// Where a node listens unless it is told otherwise.
const AT_HOME: &str = "127.0.0.1:8080";

/// Runs `ddbctl` with a process's arguments, its own name first.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let parsed = Args::try_parse_from(args::by_habit(args));
    let mut args = match parsed {
        Ok(args) => args,
        Err(e) => return args::explain(&e, &mut Console::open("ddbctl", Format::Table)),
    };
    let mut console = Console::open("ddbctl", args.format);
    if args.quiet {
        console.hush();
    }
    let (endpoints, access) = match reach(&mut args) {
        Ok(reached) => reached,
        Err(failure) => {
            console.complain(&failure);
            return ExitCode::from(failure.exit);
        }
    };
    let client = Client::new(
        endpoints,
        access,
        args.cluster_id,
        args.timeout.0,
        Clock::start(),
        Random::from_entropy(),
    );
    let every = args.watch.map(|span| span.0);
    run_job(Job::Ctl(args.command, args.context, every), client, console)
}

/// Whom it speaks to, and how: by the command line, the environment, the context, in this order.
fn reach(args: &mut Args) -> Result<(Vec<String>, Access), Failure> {
    let mut endpoints = args.endpoint.take();
    let local = args.command.is_local();
    if !local {
        config::complete(args.context.as_deref(), &mut endpoints, &mut args.secured)?;
    }
    let endpoints = endpoints.map_or_else(|| vec![AT_HOME.to_owned()], |named| named.0);
    let access = match local {
        true => Access::default(),
        false => Access::new(&args.secured, &endpoints)?,
    };
    Ok((endpoints, access))
}

/// What a process was started for.
enum Job {
    /// With the context that was named, and how often it is said.
    Ctl(Command, Option<String>, Option<Duration>),
    Guide(guide::Client),
}

impl Job {
    /// What measures a cluster must not be what holds it up.
    fn threads(&self) -> usize {
        match self {
            Job::Ctl(Command::Bench(_), ..) => {
                available_parallelism().map_or(2, |cores| cores.get().max(2))
            }
            _ => 2,
        }
    }
}

/// Carries a deed out and turns its end into an exit code. An interrupt ends it at once, also while
/// it is stuck in a write to a pipe that nobody reads.
fn run_job(deed: Job, client: Client, console: Console) -> ExitCode {
    let farewell = console.farewell();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(deed.threads())
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(e) => {
            console.finish(Err(Failure::new(
                exit::FAILED,
                format!("cannot start: {e}"),
                "this machine",
                "free threads or file descriptors",
            )));
            return ExitCode::from(exit::FAILED);
        }
    };
    let code = runtime.block_on(async {
        let mut interrupts = Interrupts::hear();
        let mut deed = tokio::spawn(perform(deed, client, console));
        let code = tokio::select! {
            end = &mut deed => return end.unwrap_or(exit::FAILED),
            code = interrupts.next() => code,
        };
        if farewell.tidies() {
            deed.abort();
            // Who says it twice does not want to wait.
            tokio::select! {
                _ = tokio::time::timeout(limits::CTL_TIDY, deed) => {}
                _ = interrupts.next() => {}
            }
        }
        farewell.speak();
        code
    });
    runtime.shutdown_background();
    ExitCode::from(code)
}

async fn perform(deed: Job, mut client: Client, mut console: Console) -> u8 {
    let end = match deed {
        Job::Ctl(command, context, None) => {
            dispatch(command, context.as_deref(), &mut client, &mut console).await
        }
        Job::Ctl(command, context, Some(every)) => {
            watch::watch(&command, every, context.as_deref(), &mut client, &mut console).await
        }
        Job::Guide(command) => guide::perform(command, &mut client, &mut console).await,
    };
    console.finish(end)
}

async fn dispatch(
    command: Command,
    context: Option<&str>,
    client: &mut Client,
    console: &mut Console,
) -> Result<(), Failure> {
    match command {
        Command::Cluster(command) => cluster::run(command, client, console).await,
        Command::Node(command) => node::run(command, client, console).await,
        Command::Operation(command) => operation::run(command, client, console).await,
        Command::Site(command) => site::run(command, client, console).await,
        Command::Relay(command) => relay::run(command, client, console).await,
        Command::Get(args) => kv::get(args, client, console).await,
        Command::Put(args) => kv::put(args, client, console).await,
        Command::Delete(args) => kv::delete(args, client, console).await,
        Command::Scan(args) => kv::scan(args, client, console).await,
        Command::Snapshot(args::Snapshot::Restore { parts }) if !parts.is_empty() => {
            restore::run(&parts, None, console)
        }
        Command::Snapshot(command) => snapshot::run(command, client, console).await,
        Command::Restore { parts, identity } => restore::run(&parts, identity.as_deref(), console),
        Command::Repository(command) => repository::run(command, console).await,
        Command::Schedule(command) => schedule::run(command, client, console).await,
        Command::Backup(args::Backup { command: Some(status), .. }) => {
            schedule::backup(status, client, console).await
        }
        Command::Backup(args::Backup { to, .. }) => backup::run(to, client, console).await,
        Command::Cert(command) => cert::run(command, console),
        Command::Whoami => access::whoami(client, console).await,
        Command::Grant(command) => access::grants(command, client, console).await,
        Command::Token(command) => access::tokens(command, client, console).await,
        Command::Context(command) => context::run(command, context, console),
        Command::Bench(command) => bench::run(command, client, console).await,
        Command::Completions { shell } => {
            console.write(&manual::completions(Args::command(), shell))
        }
        Command::Manual { dir } => manual::pages(Args::command(), &dir).map_err(|e| {
            let what = format!("cannot write the manual: {}", e.message);
            Failure::new(exit::FAILED, what, "", "name a directory in which you may write")
        }),
    }
}
