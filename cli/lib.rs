//! The command line: `ddbctl`, and the guide's client commands of `devicedb cluster`, which are a translation onto the same code.
//!
//! It speaks only the contract: of the server it imports the generated client, the bounds, the ids, the error, the clocks and the offline verification, and
//! no state. Results go to stdout, words to stderr, and the exit code tells a script what to do next (`exit`).
//!
//! Modules stand in reading order: what is said, to whom, how often; then one module for each noun of the command line; then the guide.

use std::{ffi::OsString, process::ExitCode, thread::available_parallelism};

use clap::Parser as _;

use crate::clock::{Chance, Clock};

mod text;
mod exit;
mod table;
mod output;
mod args;
mod fault;
mod retry;
mod client;
mod kv;
mod overview;
mod registry;
mod snapshot;
mod wait;
mod receive;
mod sink;
mod download;
mod verify;
mod snapshots;
pub mod bench;
mod flags;
pub mod guide;
#[cfg(test)]
mod golden;

use args::Command;
pub use args::{Args, endpoint};
use client::Client;
use exit::Failure;
use output::{Console, Farewell};

/// Runs `ddbctl` with a process's arguments, its own name first.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let parsed = Args::try_parse_from(args);
    let args = match parsed {
        Ok(args) => args,
        Err(e) => return args::explain(&e, &mut Console::open("ddbctl", output::Format::Table)),
    };
    let client = Client::new(args.endpoint.0, args.timeout.0, Clock::start(), Chance::from_entropy());
    conduct(Deed::Ctl(args.command), client, Console::open("ddbctl", args.format))
}

/// What a process was started for.
enum Deed {
    Ctl(Command),
    Guide(guide::Client),
}

impl Deed {
    /// What measures a cluster must not be what holds it up.
    fn threads(&self) -> usize {
        match self {
            Deed::Ctl(Command::Bench(_)) => available_parallelism().map_or(2, |cores| cores.get().max(2)),
            _ => 2,
        }
    }
}

/// Carries a deed out and turns its end into an exit code. An interrupt ends it at once, also while it is stuck in a write to a pipe that nobody reads.
fn conduct(deed: Deed, client: Client, console: Console) -> ExitCode {
    let farewell = console.farewell();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(deed.threads()).enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            console.finish(Err(Failure::new(exit::FAILED, format!("cannot start: {e}"), "this machine", "free threads or file descriptors")));
            return ExitCode::from(exit::FAILED);
        }
    };
    let code = runtime.block_on(async {
        let deed = tokio::spawn(perform(deed, client, console));
        tokio::select! {
            end = deed => end.unwrap_or(exit::FAILED),
            Ok(()) = tokio::signal::ctrl_c() => interrupted(&farewell),
        }
    });
    runtime.shutdown_background();
    ExitCode::from(code)
}

async fn perform(deed: Deed, mut client: Client, mut console: Console) -> u8 {
    let end = match deed {
        Deed::Ctl(command) => dispatch(command, &mut client, &mut console).await,
        Deed::Guide(command) => guide::perform(command, &mut client, &mut console).await,
    };
    console.finish(end)
}

async fn dispatch(command: Command, client: &mut Client, console: &mut Console) -> Result<(), Failure> {
    match command {
        Command::Cluster(command) => overview::cluster(command, client, console).await,
        Command::Node(command) => overview::node(command, client, console).await,
        Command::Site(command) => registry::site(command, client, console).await,
        Command::Relay(command) => registry::relay(command, client, console).await,
        Command::Get(args) => kv::get(args, client, console).await,
        Command::Put(args) => kv::put(args, client, console).await,
        Command::Delete(args) => kv::delete(args, client, console).await,
        Command::Scan(args) => kv::scan(args, client, console).await,
        Command::Snapshot(command) => snapshots::run(command, client, console).await,
        Command::Bench(command) => bench::run(command, client, console).await,
        Command::Completions { shell } => console.write(&args::completions(shell)),
    }
}

fn interrupted(farewell: &Farewell) -> u8 {
    farewell.speak();
    exit::INTERRUPTED
}
