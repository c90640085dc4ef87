//! What `ddbctl snapshot` takes.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};

use super::value::{Span, recipient};
use crate::{
    base::ids::{Lineage, SnapshotId},
    part::seal::Recipient,
};

#[derive(Clone, Debug, Subcommand)]
pub enum Snapshot {
    /// Take a snapshot
    #[command(after_help = "Examples:\n  \
        ddbctl snapshot create --wait --wait-timeout 2m\n  \
        ddbctl snapshot create --upload")]
    Create {
        /// Wait until no part is being written any more
        #[arg(long)]
        wait: bool,
        /// Wait, have the nodes store it in their repository, and wait for that too
        #[arg(long)]
        upload: bool,
        /// Wait no longer than this; the snapshot goes on
        #[arg(long, value_name = "TIME", default_value = "1h")]
        wait_timeout: Span,
        /// The snapshot's name, to repeat a request whose outcome is unknown
        #[arg(long)]
        uuid: Option<SnapshotId>,
    },
    /// Have the nodes store a completed snapshot in their repository, and wait until it is there.
    /// What an interrupted upload has stored is not sent again
    #[command(after_help = "Examples:\n  ddbctl snapshot upload $uuid")]
    Upload {
        /// The snapshot
        uuid: SnapshotId,
        /// Wait no longer than this; the upload goes on
        #[arg(long, value_name = "TIME", default_value = "24h")]
        wait_timeout: Span,
    },
    /// How far a snapshot is, and whether its parts are whole on disk; exits 5 when it is missing
    /// or being deleted, 1 when it failed, 6 when it is damaged
    Status {
        /// The snapshot
        uuid: SnapshotId,
        /// Only this node's part
        #[arg(long, value_name = "ID")]
        node: Option<u64>,
    },
    /// The snapshots, newest first
    #[command(visible_alias = "ls")]
    List,
    /// Where those who know other databases look for the way back: `ddbctl restore`
    #[command(hide = true)]
    Restore {
        /// Parts
        #[arg(value_name = "PART")]
        parts: Vec<PathBuf>,
    },
    /// Where they look for a backup in a file: `ddbctl backup`
    #[command(hide = true)]
    Save {
        /// What they say further
        #[arg(value_name = "FILE")]
        rest: Vec<String>,
    },
    /// Fetch the part of the node that answers, of another one, or all of them
    Download(Download),
    /// Check downloaded or extracted parts of one snapshot, without a cluster
    #[command(after_help = "Examples:\n  \
        ddbctl snapshot verify parts/*.tar\n  \
        ddbctl snapshot verify --identity identity.txt sealed/*.tar")]
    Verify {
        /// Tars, or directories that tars were extracted to
        #[arg(required = true, value_name = "PATH")]
        paths: Vec<PathBuf>,
        /// The age identity file that opens sealed parts. Without it their chunks are compared with
        /// what was stored, and their rows are not looked at
        #[arg(long, value_name = "FILE")]
        identity: Option<PathBuf>,
    },
    /// Make an age identity file, which opens sealed parts, and print its recipient, to whom they
    /// are sealed
    #[command(after_help = "Examples:\n  ddbctl snapshot keygen --output identity.txt")]
    Keygen {
        /// The file to make; only you can read it
        #[arg(long, value_name = "FILE")]
        output: PathBuf,
    },
    /// Seal parts: only who has a recipient's identity file can read the rows of what is made. The
    /// parts are verified first, and stay as they are
    #[command(after_help = "Examples:\n  \
        ddbctl snapshot seal parts/*.tar --to $recipient --output sealed")]
    Seal {
        /// Tars, or directories that tars were extracted to
        #[arg(required = true, value_name = "PART")]
        paths: Vec<PathBuf>,
        /// Who can open them, as keygen prints it; several times, or several divided by commas
        #[arg(
            long,
            required = true,
            value_name = "age1...",
            value_delimiter = ',',
            value_parser = recipient,
        )]
        to: Vec<Recipient>,
        /// The tar to make; a directory for snapshot-UUID-NODE.tar if there are several
        #[arg(long, value_name = "PATH")]
        output: PathBuf,
    },
    /// Open sealed parts: what is made are, byte for byte, the parts that nodes write without a
    /// seal. The sealed ones are verified first, and stay as they are
    #[command(after_help = "Examples:\n  \
        ddbctl snapshot unseal sealed/*.tar --identity identity.txt --output parts")]
    Unseal {
        /// Tars, or directories that tars were extracted to
        #[arg(required = true, value_name = "PART")]
        paths: Vec<PathBuf>,
        /// The age identity file of a recipient
        #[arg(long, value_name = "FILE")]
        identity: PathBuf,
        /// The tar to make; a directory for snapshot-UUID-NODE.tar if there are several
        #[arg(long, value_name = "PATH")]
        output: PathBuf,
    },
    /// Delete a snapshot on every node, or what lies of one that the cluster does not know
    Delete {
        /// The snapshot
        uuid: SnapshotId,
        /// The history that wrote it, where that is not the cluster's present one: a cluster of
        /// that history may live on
        #[arg(long)]
        lineage: Option<Lineage>,
    },
    /// The parts in the nodes' snapshot stores that are of no snapshot that the cluster knows
    Orphans,
}

impl Snapshot {
    /// Whether it speaks to no cluster.
    pub fn is_local(&self) -> bool {
        use Snapshot::*;
        matches!(
            self,
            Verify { .. }
                | Keygen { .. }
                | Seal { .. }
                | Unseal { .. }
                | Restore { .. }
                | Save { .. }
        )
    }
}

#[derive(Clone, Debug, ClapArgs)]
#[command(after_help = "Examples:\n  \
    ddbctl snapshot download $uuid > part.tar\n  \
    ddbctl snapshot download $uuid --all --output parts\n  \
    ddbctl snapshot download $uuid --all --output parts --resume")]
pub struct Download {
    /// The snapshot
    pub uuid: SnapshotId,
    /// The part of this node
    #[arg(
        long,
        value_name = "ID",
        conflicts_with = "all",
        value_parser = clap::value_parser!(u64).range(1..),
    )]
    pub node: Option<u64>,
    /// Every completed part, each to snapshot-UUID-NODE.tar
    #[arg(long)]
    pub all: bool,
    /// A file, a directory, or - for stdout; stdout by default, with --all the current directory
    #[arg(long, value_name = "PATH")]
    pub output: Option<PathBuf>,
    /// Go on with what an earlier download left
    #[arg(long)]
    pub resume: bool,
    /// With --all: parts that are fetched at the same time, each from its own node if --endpoint
    /// names it
    #[arg(
        long,
        value_name = "N",
        default_value_t = 4,
        value_parser = clap::value_parser!(u16).range(1..),
    )]
    pub parallel: u16,
}
