//! What `ddbctl repository` takes.

use std::path::PathBuf;

use clap::Subcommand;

use crate::base::ids::SnapshotId;

#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:\n  \
    ddbctl repository init /backups\n  \
    ddbctl repository init s3://backups/devicedb\n  \
    ddbctl repository import /backups parts/*.tar\n  \
    ddbctl repository list /backups\n  \
    ddbctl repository verify /backups\n  \
    ddbctl repository export /backups $uuid --output parts")]
pub enum Repository {
    /// Make a repository of a place that is empty
    Init {
        /// A directory, on a file system with hard links; or s3://BUCKET/PREFIX,
        /// az://CONTAINER/PREFIX, gs://BUCKET/PREFIX, with credentials from the environment
        #[arg(value_name = "REPOSITORY")]
        place: String,
    },
    /// What is in it: histories, snapshots, bytes, and what interrupted imports have left
    Status {
        /// The directory, or where it lies in an object store
        #[arg(value_name = "REPOSITORY")]
        place: String,
    },
    /// Its snapshots, oldest first in each history
    List {
        /// The directory, or where it lies in an object store
        #[arg(value_name = "REPOSITORY")]
        place: String,
    },
    /// Check snapshots down to the last row; exits 6 when something is wrong
    Verify {
        /// The directory, or where it lies in an object store
        #[arg(value_name = "REPOSITORY")]
        place: String,
        /// Snapshots; all of them without any
        #[arg(value_name = "UUID")]
        snapshots: Vec<SnapshotId>,
        /// Only whether everything that they name is there, without opening chunks
        #[arg(long)]
        quick: bool,
    },
    /// Verify downloaded or extracted parts of one snapshot and store what is new in them
    Import {
        /// The directory, or where it lies in an object store
        #[arg(value_name = "REPOSITORY")]
        place: String,
        /// Tars, or directories that tars were extracted to: together they hold every partition
        #[arg(required = true, value_name = "PART")]
        parts: Vec<PathBuf>,
    },
    /// Write the parts of a snapshot as the tars that its nodes would send
    Export {
        /// The directory, or where it lies in an object store
        #[arg(value_name = "REPOSITORY")]
        place: String,
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
