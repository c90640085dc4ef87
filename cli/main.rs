//! `ddbctl`, the command line of DeviceDB. Everything it does stands in the library's module `ctl`,
//! which the guide's commands of `devicedb` use too.

use std::{env, process::ExitCode};

/// A put allocates some dozens of times on its way, and the system's allocator took a sixth of its
/// time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    devicedb::ctl::main(env::args_os())
}
