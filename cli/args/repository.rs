//! What `ddbctl repository` takes.

use std::path::PathBuf;

use clap::Subcommand;

use super::{RepositoryKey, value::recipient};
use crate::{base::ids::SnapshotId, part::seal::Recipient};

#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:\n  \
    ddbctl repository init /backups\n  \
    ddbctl repository init s3://backups/devicedb --recipient $recipient\n  \
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
        /// Seal it: only who has its key can read what is stored. The key is drawn, and this
        /// recipient's age identity opens it; several times, or several divided by commas
        #[arg(
            long,
            value_name = "age1...",
            value_delimiter = ',',
            value_parser = recipient,
        )]
        recipient: Vec<Recipient>,
        /// The same for every recipient in a file, one a line, as age has it
        #[arg(long, value_name = "FILE")]
        recipients_file: Option<PathBuf>,
        /// Seal it with the key in this file, 64 hex digits, which you keep yourself: without
        /// recipients nothing else opens the repository. The variable DEVICEDB_REPOSITORY_KEY may
        /// hold it instead
        #[arg(long, value_name = "FILE")]
        key_file: Option<PathBuf>,
    },
    /// What is in it: histories, snapshots, bytes, and what interrupted imports have left
    Status {
        /// The directory, or where it lies in an object store
        #[arg(value_name = "REPOSITORY")]
        place: String,
        #[command(flatten)]
        key: RepositoryKey,
    },
    /// Its snapshots, oldest first in each history
    List {
        /// The directory, or where it lies in an object store
        #[arg(value_name = "REPOSITORY")]
        place: String,
        #[command(flatten)]
        key: RepositoryKey,
    },
    /// Check snapshots down to the last row; exits 6 when something is wrong
    Verify {
        /// The directory, or where it lies in an object store
        #[arg(value_name = "REPOSITORY")]
        place: String,
        #[command(flatten)]
        key: RepositoryKey,
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
        #[command(flatten)]
        key: RepositoryKey,
        /// Tars, or directories that tars were extracted to: together they hold every partition
        #[arg(required = true, value_name = "PART")]
        parts: Vec<PathBuf>,
    },
    /// Write the parts of a snapshot as the tars that its nodes would send
    Export {
        /// The directory, or where it lies in an object store
        #[arg(value_name = "REPOSITORY")]
        place: String,
        #[command(flatten)]
        key: RepositoryKey,
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
    /// Who can open a sealed repository
    #[command(subcommand)]
    Key(Slots),
}

#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:\n  \
    ddbctl repository key list /backups\n  \
    ddbctl repository key add-recipient /backups $recipient --repository-key-file identity.txt\n  \
    ddbctl repository key export /backups --output key.hex --repository-key-file identity.txt")]
pub enum Slots {
    /// The recipients whose age identities open it. Needs no key
    List {
        /// The directory, or where it lies in an object store
        #[arg(value_name = "REPOSITORY")]
        place: String,
    },
    /// Let one more age identity open it. What is stored stays as it is
    AddRecipient {
        /// The directory, or where it lies in an object store
        #[arg(value_name = "REPOSITORY")]
        place: String,
        /// Whose identity it is, as ddbctl snapshot keygen and age-keygen print it
        #[arg(value_name = "age1...", value_parser = recipient)]
        recipient: Recipient,
        #[command(flatten)]
        key: RepositoryKey,
    },
    /// Take the slot of a recipient away. The key stays: who has had it can use it on
    RemoveRecipient {
        /// The directory, or where it lies in an object store
        #[arg(value_name = "REPOSITORY")]
        place: String,
        /// Whose identity it is
        #[arg(value_name = "age1...", value_parser = recipient)]
        recipient: Recipient,
        #[command(flatten)]
        key: RepositoryKey,
    },
    /// Write the key itself to a file, to keep it elsewhere or to give it to nodes
    Export {
        /// The directory, or where it lies in an object store
        #[arg(value_name = "REPOSITORY")]
        place: String,
        /// The file to make; only you can read it
        #[arg(long, value_name = "FILE")]
        output: PathBuf,
        #[command(flatten)]
        key: RepositoryKey,
    },
}
