//! What a shell and `man` know of a program, made of its command line: completion scripts, and a
//! page for the program and each of its commands.

use std::{fs, path::Path};

use clap::Command;

use crate::base::error::{Context as _, Result};

/// A script that completes a program's command line in a shell.
pub fn completions(mut program: Command, shell: clap_complete::Shell) -> Vec<u8> {
    let name = program.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut program, name, &mut script);
    script
}

/// Writes the manual of a program into a directory, which is made if it is not there: a file for
/// `man 1` of the program and of each of its commands.
pub fn pages(program: Command, dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).at(dir.display())?;
    clap_mangen::generate_to(program, dir).at(dir.display())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::ctl::Args;

    #[test]
    fn a_manual_has_a_page_for_each_command() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("man1");
        pages(Args::command(), &out).unwrap();
        let page = |name: &str| fs::read_to_string(out.join(format!("{name}.1"))).unwrap();
        assert!(page("ddbctl").contains("ddbctl\\-snapshot(1)"), "{}", page("ddbctl"));
        assert!(page("ddbctl-snapshot-create").contains("\\-\\-wait"));
        assert!(pages(Args::command(), &out.join("ddbctl.1")).is_err(), "that is a file");
    }
}
