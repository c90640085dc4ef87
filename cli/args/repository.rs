//! What `ddbctl repository` takes.

use std::path::PathBuf;

use clap::Subcommand;

use crate::base::ids::SnapshotId;

#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:\n  \
    ddbctl repository init /backups\n  \
    ddbctl repository import /backups parts/*.tar\n  \
    ddbctl repository list /backups\n  \
    ddbctl repository verify /backups\n  \
    ddbctl repository export /backups $uuid --output parts")]
pub enum Repository {
    /// Make a repository of a directory that is empty or not there
    Init {
        /// The directory, on a file system with hard links
        #[arg(value_name = "REPOSITORY")]
        path: PathBuf,
    },
    /// What is in it: histories, snapshots, bytes, and what interrupted imports have left
    Status {
        /// The directory
        #[arg(value_name = "REPOSITORY")]
        path: PathBuf,
    },
    /// Its snapshots, oldest first in each history
    List {
        /// The directory
        #[arg(value_name = "REPOSITORY")]
        path: PathBuf,
    },
    /// Check snapshots down to the last row; exits 6 when something is wrong
    Verify {
        /// The directory
        #[arg(value_name = "REPOSITORY")]
        path: PathBuf,
        /// Snapshots; all of them without any
        #[arg(value_name = "UUID")]
        snapshots: Vec<SnapshotId>,
        /// Only whether everything that they name is there, without opening chunks
        #[arg(long)]
        quick: bool,
    },
    /// Verify downloaded or extracted parts of one snapshot and store what is new in them
    Import {
        /// The directory
        #[arg(value_name = "REPOSITORY")]
        path: PathBuf,
        /// Tars, or directories that tars were extracted to: together they hold every partition
        #[arg(required = true, value_name = "PART")]
        parts: Vec<PathBuf>,
    },
    /// Write the parts of a snapshot as the tars that its nodes would send
    Export {
        /// The directory
        #[arg(value_name = "REPOSITORY")]
        path: PathBuf,
        /// The snapshot
        #[arg(value_name = "UUID")]
        snapshot: SnapshotId,
        /// Only this node's part
        #[arg(long, value_name = "ID", value_parser = clap::value_parser!(u64).range(1..))]
        node: Option<u64>,
        /// The directory of the tars; it must be there
        #[arg(long, value_name = "DIR", default_value = ".")]
        output: PathBuf,
    },
}
