//! How a command line names the key of a repository, of `ddbctl repository` and `devicedb start`.

use std::path::PathBuf;

use clap::Args as ClapArgs;

use crate::repository::key::KeySource;

/// Where the key of a sealed repository is found.
#[derive(Clone, Debug, ClapArgs)]
pub struct RepositoryKey {
    /// The file that opens the repository, if it is sealed: its key, 64 hex digits, or an age
    /// identity file of one of its recipients. Only its owner may be able to read it. The variable
    /// DEVICEDB_REPOSITORY_KEY may hold the key instead
    #[arg(
        long,
        value_name = "FILE",
        env = "DEVICEDB_REPOSITORY_KEY_FILE",
        conflicts_with = "repository_key_command"
    )]
    pub repository_key_file: Option<PathBuf>,
    /// A command that prints that key, run by a shell: for vaults that keep it
    #[arg(long, value_name = "COMMAND", env = "DEVICEDB_REPOSITORY_KEY_COMMAND")]
    pub repository_key_command: Option<String>,
}

impl RepositoryKey {
    /// As it is named here, or else in the environment.
    pub fn key(self) -> KeySource {
        KeySource::named(self.repository_key_file, self.repository_key_command)
    }
}
