//! `ddbctl`, the command line of DeviceDB. Everything it does stands in the library's module `ctl`, which the guide's commands of `devicedb` use too.

use std::{env, process::ExitCode};

fn main() -> ExitCode {
    devicedb::ctl::main(env::args_os())
}
