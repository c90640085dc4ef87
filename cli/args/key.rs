//! How a command line names the keys of a repository, of `ddbctl repository` and `devicedb start`:
//! the one that opens it, the one that signs, and those whose signatures are believed.

use std::{ffi::OsString, path::PathBuf};

use clap::Args as ClapArgs;

use crate::repository::{
    key::KeySource,
    signature::PublicKey,
    trust::{Access, Mark, SigningSource, Trust},
};

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

/// What opens a repository, and whom somebody believes who reads it.
#[derive(Clone, Debug, ClapArgs)]
pub struct Reading {
    #[command(flatten)]
    pub key: RepositoryKey,
    /// Believe only what the owner of this key has signed, as ddbctl repository keygen prints it:
    /// that it is the repository, and what it holds. Several times, or several divided by commas
    #[arg(
        long,
        value_name = "KEY",
        env = "DEVICEDB_REPOSITORY_TRUSTED_KEYS",
        value_delimiter = ','
    )]
    pub trusted_key: Vec<PublicKey>,
    /// Take an older catalogue that is signed where the newest is damaged, or not signed by a
    /// trusted key. What was stored, dropped or held since is not known then
    #[arg(long)]
    pub older_catalogue: bool,
    /// Refuse a history that has not come to this catalogue, as uploads, imports and ddbctl
    /// repository status print it: it was led back. Several times, or several divided by commas
    #[arg(long, value_name = "CLUSTER/LINEAGE/N", value_delimiter = ',')]
    pub at_least_catalogue: Vec<Mark>,
}

/// The same, and what signs.
#[derive(Clone, Debug, ClapArgs)]
pub struct Writing {
    #[command(flatten)]
    pub reading: Reading,
    /// The file of the key that signs what is added, if the repository is signed. Only its owner
    /// may be able to read it. The variable DEVICEDB_REPOSITORY_SIGNING_KEY may hold the key
    /// instead. Its own signatures are believed
    #[arg(long, value_name = "FILE", env = "DEVICEDB_REPOSITORY_SIGNING_KEY_FILE")]
    pub signing_key_file: Option<PathBuf>,
}

/// What a node has of these.
#[derive(Clone, Debug, ClapArgs)]
pub struct NodeKeys {
    #[command(flatten)]
    pub reading: Reading,
    /// The file of the key that signs what this node uploads, if the repository is signed. Only its
    /// owner may be able to read it. The variable DEVICEDB_REPOSITORY_SIGNING_KEY may hold the key
    /// instead. Its own signatures are believed
    #[arg(long, value_name = "FILE", env = "DEVICEDB_REPOSITORY_SIGNING_KEY_FILE")]
    pub repository_signing_key_file: Option<PathBuf>,
}

impl RepositoryKey {
    /// As it is named here, or else in the environment.
    pub fn key(self) -> KeySource {
        KeySource::named(self.repository_key_file, self.repository_key_command)
    }
}

impl Reading {
    fn signing(self, signing: SigningSource) -> Access {
        let Reading { key, trusted_key, older_catalogue, at_least_catalogue } = self;
        let trust = Trust::new(signing, trusted_key, older_catalogue, at_least_catalogue);
        Access { key: key.key(), trust }
    }

    /// The words that say the same to a node, but for what stands in the environment.
    pub fn words(&self) -> Vec<OsString> {
        let mut words: Vec<OsString> = Vec::new();
        let mut say = |flag: &str, value: OsString| words.extend([flag.into(), value]);
        if let Some(file) = &self.key.repository_key_file {
            say("--repository-key-file", file.into());
        }
        if let Some(command) = &self.key.repository_key_command {
            say("--repository-key-command", command.into());
        }
        self.trusted_key.iter().for_each(|key| say("--trusted-key", key.to_string().into()));
        let marks = self.at_least_catalogue.iter();
        marks.for_each(|mark| say("--at-least-catalogue", mark.to_string().into()));
        if self.older_catalogue {
            words.push("--older-catalogue".into());
        }
        words
    }
}

impl From<Reading> for Access {
    fn from(reading: Reading) -> Access {
        reading.signing(SigningSource::Nowhere)
    }
}

impl From<Writing> for Access {
    fn from(writing: Writing) -> Access {
        writing.reading.signing(SigningSource::named(writing.signing_key_file))
    }
}

impl NodeKeys {
    /// As they are named here, or else in the environment.
    pub fn access(self) -> Access {
        self.reading.signing(SigningSource::named(self.repository_signing_key_file))
    }
}
