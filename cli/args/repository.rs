//! What `ddbctl repository` takes.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{
    Reading, Writing,
    value::{Span, recipient},
};
use crate::{
    base::{ids::SnapshotId, limits},
    part::{manifest::WRITTEN_MS_MAX, seal::Recipient},
    repository::{adopt::Named, collect::Keep, points::Point, verify::Percent},
};

const COLLECT: &str = "A snapshot that goes is gone at once for whoever lists. Its objects are \
                       deleted by the first collection after the grace, so say it regularly: a \
                       collection with nothing to do changes nothing.";
const DRILL: &str = "The node listens on the loopback alone, joins nobody, and writes to no \
                     repository. It ends with the drill, whatever ends that, and the directory is \
                     emptied: by the next drill in it where this one was killed.\n\n\
                     Examples:\n  ddbctl repository drill /backups --scratch drill --rto 15m";
const VERIFY: &str = "Which chunks --sample opens follows from the day, in UTC, and from their \
                      names alone. Of 100 / PERCENT days in a row, rounded up, each chunk is \
                      opened on one at least. A day that is left out leaves its chunks for the \
                      next round.\n\n\
                      Examples:\n  ddbctl repository verify /backups --sample 10 --keep-report";
const REPAIR: &str = "What stands there and is whole is listed. A snapshot that the missing \
                      catalogue alone had dropped comes back: drop it again.";

const ADOPT: &str = "From then on nothing is stored for the lost cluster, and whoever keeps rules \
                     for the other one keeps them for both. It is for good: say it when the lost \
                     cluster does not come back. The cluster that adopts needs one snapshot here, \
                     or its lineage has to be named.\n\n\
                     Examples:\n  ddbctl repository adopt /backups $lost --by $cluster";
const SIGN: &str = "You answer for what is stored there by then: verify it first. Who has signed \
                    it before has to be trusted: that is how one key takes the place of another.\
                    \n\nExamples:\n  \
                    ddbctl repository sign /backups --signing-key-file signing.key";

#[derive(Clone, Debug, Subcommand)]
#[command(after_help = "Examples:\n  \
    ddbctl repository init /backups\n  \
    ddbctl repository init s3://backups/devicedb --recipient $recipient\n  \
    ddbctl repository import /backups parts/*.tar\n  \
    ddbctl repository list /backups\n  \
    ddbctl repository verify /backups\n  \
    ddbctl repository collect /backups --keep last=24,daily=30,monthly=12 --dry-run\n  \
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
        key: Reading,
    },
    /// Its snapshots, oldest first in each history
    #[command(visible_alias = "ls")]
    List {
        /// The directory, or where it lies in an object store
        #[arg(value_name = "REPOSITORY")]
        place: String,
        #[command(flatten)]
        key: Reading,
    },
    /// Check snapshots down to the last row; exits 6 when something is wrong
    #[command(after_help = VERIFY)]
    Verify {
        /// The directory, or where it lies in an object store
        #[arg(value_name = "REPOSITORY")]
        place: String,
        #[command(flatten)]
        key: Reading,
        #[command(flatten)]
        order: Verifying,
    },
    /// Verify downloaded or extracted parts of one snapshot and store what is new in them
    Import {
        /// The directory, or where it lies in an object store
        #[arg(value_name = "REPOSITORY")]
        place: String,
        #[command(flatten)]
        key: Writing,
        /// Tars, or directories that tars were extracted to: together they hold every partition
        #[arg(required = true, value_name = "PART")]
        parts: Vec<PathBuf>,
    },
    /// Keep what rules say, and delete what nothing refers to any more
    #[command(after_help = COLLECT)]
    Collect {
        /// The directory, or where it lies in an object store
        #[arg(value_name = "REPOSITORY")]
        place: String,
        #[command(flatten)]
        key: Writing,
        /// What stays, as last=24,hourly=48,daily=30,weekly=8,monthly=12,yearly=3,within=7d: all
        /// that any of them keeps. Without it every snapshot stays, and left-overs go
        #[arg(long, value_name = "RULES")]
        keep: Option<Keep>,
        /// The rules are for the snapshots of this schedule alone
        #[arg(long, value_name = "NAME", requires = "keep")]
        schedule: Option<String>,
        #[command(flatten)]
        how: Collecting,
    },
    /// Take snapshots out, whatever rules say
    Drop {
        /// The directory, or where it lies in an object store
        #[arg(value_name = "REPOSITORY")]
        place: String,
        #[command(flatten)]
        key: Writing,
        /// The snapshots
        #[arg(required = true, value_name = "UUID")]
        snapshots: Vec<SnapshotId>,
        #[command(flatten)]
        how: Collecting,
    },
    /// Keep a snapshot whatever rules say
    Hold {
        /// The directory, or where it lies in an object store
        #[arg(value_name = "REPOSITORY")]
        place: String,
        #[command(flatten)]
        key: Writing,
        /// The snapshot
        #[arg(value_name = "UUID")]
        snapshot: SnapshotId,
        /// Why, for whoever wants to delete it
        #[arg(long, value_name = "TEXT", value_parser = reason)]
        reason: String,
        /// Until then, as 2027-01-31T12:00:00Z; without it until it is released
        #[arg(long, value_name = "TIME", value_parser = instant)]
        until: Option<u64>,
    },
    /// End the hold of a snapshot
    Release {
        /// The directory, or where it lies in an object store
        #[arg(value_name = "REPOSITORY")]
        place: String,
        #[command(flatten)]
        key: Writing,
        /// The snapshot
        #[arg(value_name = "UUID")]
        snapshot: SnapshotId,
    },
    /// Rehearse the restore: a node of a new cluster starts from it on this machine, and what it
    /// holds is compared with what is stored; exits 6 when the drill does not pass
    #[command(after_help = DRILL)]
    Drill(Drill),
    /// List snapshots again whose catalogue is damaged or missing
    #[command(after_help = REPAIR)]
    Repair {
        /// The directory, or where it lies in an object store
        #[arg(value_name = "REPOSITORY")]
        place: String,
        #[command(flatten)]
        key: Writing,
    },
    /// Have a cluster take over what a lost one has stored: its snapshots and holds stay, and count
    /// as that cluster's own
    #[command(after_help = ADOPT)]
    Adopt {
        /// The directory, or where it lies in an object store
        #[arg(value_name = "REPOSITORY")]
        place: String,
        #[command(flatten)]
        key: Writing,
        /// The lost cluster's id, for all of its histories, or one of them as CLUSTER/LINEAGE
        #[arg(value_name = "CLUSTER")]
        lost: Named,
        /// The id of the cluster that goes on in its place, or one of its histories
        #[arg(long, value_name = "CLUSTER")]
        by: Named,
    },
    /// Make a key that signs what is stored, and print its public key, which readers trust
    #[command(after_help = "Examples:\n  ddbctl repository keygen --output signing.key")]
    Keygen {
        /// The file to make; only you can read it
        #[arg(long, value_name = "FILE")]
        output: PathBuf,
    },
    /// Sign it, from what is there now on: afterwards nobody adds to it without the key
    #[command(after_help = SIGN)]
    Sign {
        /// The directory, or where it lies in an object store
        #[arg(value_name = "REPOSITORY")]
        place: String,
        #[command(flatten)]
        key: Writing,
    },
    /// Write the parts of a snapshot as the tars that its nodes would send
    Export {
        /// The directory, or where it lies in an object store
        #[arg(value_name = "REPOSITORY")]
        place: String,
        #[command(flatten)]
        key: Reading,
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

#[derive(Clone, Debug, Subcommand)]
#[command(after_help = "Examples:\n  \
    ddbctl repository key list /backups\n  \
    ddbctl repository key add-recipient /backups $recipient --repository-key-file identity.txt\n  \
    ddbctl repository key export /backups --output key.hex --repository-key-file identity.txt")]
pub enum Slots {
    /// The recipients whose age identities open it. Needs no key
    #[command(visible_alias = "ls")]
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
        key: Reading,
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
        key: Reading,
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
        key: Reading,
    },
}

/// How much is verified.
#[derive(Clone, Debug, Args)]
pub struct Verifying {
    /// Snapshots; all of them without any
    #[arg(value_name = "UUID")]
    pub snapshots: Vec<SnapshotId>,
    /// Only whether everything that they name is there, without opening chunks
    #[arg(long)]
    pub quick: bool,
    /// Open only the chunks whose turn it is today, so many percent of all: said each day with 10,
    /// it opens every chunk within 10 days
    #[arg(long, value_name = "PERCENT", conflicts_with = "quick")]
    pub sample: Option<Percent>,
    /// Keep the report in the repository, where `status` shows the newest of all snapshots
    #[arg(long)]
    pub keep_report: bool,
}

/// A rehearsal.
#[derive(Clone, Debug, Args)]
pub struct Drill {
    /// The directory, or where it lies in an object store
    #[arg(value_name = "REPOSITORY")]
    pub place: String,
    #[command(flatten)]
    pub key: Reading,
    /// A directory for the node that is empty or not there, or has nothing but other drills in it.
    /// Its disk needs room for all rows
    #[arg(long, value_name = "DIR")]
    pub scratch: PathBuf,
    /// What is restored: latest, the uuid of a snapshot, or a time
    #[arg(long, value_name = "POINT")]
    pub point: Option<Point>,
    /// It does not pass if more than this would be lost: the age of the snapshot
    #[arg(long, value_name = "TIME")]
    pub rpo: Option<Span>,
    /// It does not pass if it takes longer until every site can be read
    #[arg(long, value_name = "TIME")]
    pub rto: Option<Span>,
    /// It is given up after so long
    #[arg(long, value_name = "TIME", default_value = "1h")]
    pub limit: Span,
    /// A command that has to succeed as well; DDBCTL_ENDPOINT says where the node is
    #[arg(long, value_name = "COMMAND")]
    pub check: Option<String>,
    /// Keep the report in the repository, where `status` shows the newest
    #[arg(long)]
    pub keep_report: bool,
    /// The program devicedb, where it does not lie beside this one
    #[arg(long, value_name = "FILE")]
    pub devicedb: Option<PathBuf>,
}

/// How snapshots are taken out.
#[derive(Clone, Debug, Args)]
pub struct Collecting {
    /// How long what is dropped stays, for whoever reads it
    #[arg(long, value_name = "TIME", default_value = "24h")]
    pub grace: Span,
    /// Say what would be, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// This machine's clock is right, though far ahead of all that is stored
    #[arg(long)]
    pub trust_clock: bool,
}

/// Milliseconds since 1970.
fn instant(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(Point::Time(ms)) if ms <= WRITTEN_MS_MAX => Ok(ms),
        _ => Err(format!("{text:?} is not a time with its zone, as 2026-01-31T12:00:00Z")),
    }
}

fn reason(text: &str) -> Result<String, String> {
    let length = text.chars().count();
    match length {
        1..=limits::HOLD_REASON_CHARS_MAX if !text.chars().any(char::is_control) => {
            Ok(text.to_owned())
        }
        _ => Err(format!(
            "a reason is one line of 1 to {} characters",
            limits::HOLD_REASON_CHARS_MAX
        )),
    }
}
