//! What `ddbctl get`, `put`, `delete` and `scan` take.

use std::{ffi::OsString, path::PathBuf};

use clap::{Args as ClapArgs, ValueEnum};
use uuid::Uuid;

use super::{CLUSTER_CONTEXT, value::Token};
use crate::proto::v1;

/// Where keys live, and how they are written on the command line.
#[derive(Clone, Debug, ClapArgs)]
pub struct Place {
    /// The site
    #[arg(long)]
    pub site: String,
    /// The bucket
    #[arg(long, default_value = "default")]
    pub bucket: Bucket,
    /// Keys and values of the command line are hex, and tables show hex
    #[arg(long)]
    pub hex: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Bucket {
    Default,
    Lww,
    Cloud,
    Local,
}

#[derive(Clone, Debug, ClapArgs)]
#[command(after_help = "Examples:\n  \
    ddbctl get --site shop-1 color\n  \
    ddbctl get --site shop-1 photo --raw > photo.jpg")]
pub struct Get {
    #[command(flatten)]
    pub place: Place,
    /// The key
    pub key: OsString,
    /// Write the value's bytes and nothing else
    #[arg(long)]
    pub raw: bool,
    /// Take what the contacted node holds, possibly old
    #[arg(long)]
    pub stale: bool,
}

#[derive(Clone, Debug, ClapArgs)]
#[command(after_help = "Examples:\n  \
    ddbctl put --site shop-1 color blue\n  \
    ddbctl put --site shop-1 photo --file photo.jpg\n  \
    ddbctl put --site shop-1 color red --context YWI= # of get -o json")]
pub struct Put {
    #[command(flatten)]
    pub place: Place,
    /// The key
    pub key: OsString,
    /// The value; - for stdin
    #[arg(
        required_unless_present = "file",
        conflicts_with = "file",
        allow_negative_numbers = true
    )]
    pub value: Option<OsString>,
    /// Take the value from a file
    #[arg(long, value_name = "PATH")]
    pub file: Option<PathBuf>,
    #[command(flatten)]
    pub write: Write,
}

#[derive(Clone, Debug, ClapArgs)]
pub struct Delete {
    #[command(flatten)]
    pub place: Place,
    /// The key
    pub key: OsString,
    #[command(flatten)]
    pub write: Write,
}

/// What every write may say.
#[derive(Clone, Debug, Default, ClapArgs)]
pub struct Write {
    /// The context of the read that this follows from (get -o json); without it, all that is there
    /// is overwritten
    #[arg(long, value_name = "BASE64")]
    pub context: Option<Token>,
    /// For lww: milliseconds since 1970; without it, newer than what is there
    #[arg(long, value_name = "MS")]
    pub timestamp_ms: Option<u64>,
    /// Repeat a write whose outcome is unknown: with the same id it has its effect once
    #[arg(long, value_name = "UUID")]
    pub request_id: Option<Uuid>,
    /// The flag `--context` of all other commands: of the two that have this name, a write keeps
    /// its own. It stands here so that clap does not hand that one down.
    #[arg(id = CLUSTER_CONTEXT, long = CLUSTER_CONTEXT, hide = true)]
    pub cluster_context: Option<String>,
}

#[derive(Clone, Debug, ClapArgs)]
#[command(after_help = "Examples:\n  \
    ddbctl scan --site shop-1 --prefix c\n  \
    ddbctl -o json scan --site shop-1 --keys-only")]
pub struct Scan {
    #[command(flatten)]
    pub place: Place,
    /// Only keys that begin so
    #[arg(long, default_value = "")]
    pub prefix: OsString,
    /// Only keys after this one
    #[arg(long, default_value = "")]
    pub after: OsString,
    /// At most so many keys
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// Leave the values out
    #[arg(long)]
    pub keys_only: bool,
    /// Take what the contacted node holds, possibly old
    #[arg(long)]
    pub stale: bool,
}

impl Bucket {
    pub fn proto(self) -> i32 {
        match self {
            Bucket::Default => v1::Bucket::Default,
            Bucket::Lww => v1::Bucket::Lww,
            Bucket::Cloud => v1::Bucket::Cloud,
            Bucket::Local => v1::Bucket::Local,
        }
        .into()
    }
}
