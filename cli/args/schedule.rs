//! What `ddbctl schedule` and `ddbctl backup` take.

use std::path::PathBuf;

use clap::{Subcommand, value_parser};

use super::{key::Writing, value::Span};
use crate::{base::ids::SnapshotId, repository::verify::Extent};

#[derive(Clone, Debug, Subcommand)]
#[command(after_help = "Examples:\n  \
    ddbctl schedule create hourly --cron @hourly --keep last=24,daily=30\n  \
    ddbctl schedule create nightly --cron @daily --start-deadline 30m\n  \
    ddbctl schedule create checked --cron @daily --verify 10%\n  \
    ddbctl schedule list\n  \
    ddbctl schedule run hourly --wait")]
pub enum Schedule {
    /// Have the cluster take a snapshot and store it, or verify the repository, whenever it is due,
    /// in UTC
    Create {
        /// A name for it
        #[arg(value_name = "NAME")]
        name: String,
        /// When it is due: minute, hour, day, month and weekday as cron has them; @hourly, @daily,
        /// @weekly or @monthly; or every with a time, as in 'every 15m'
        #[arg(long, value_name = "CRON")]
        cron: String,
        /// How long its snapshots are to stay in the repository: last=24,hourly=48,daily=30,
        /// weekly=8,monthly=12,yearly=3,within=7d, or some of these. Without it, for always
        #[arg(long, value_name = "RULES", default_value = "")]
        keep: String,
        /// Take no snapshot, and verify so much of the repository: quick, for whether everything is
        /// there; 10%, for the chunks whose turn it is that day; whole. The report stays in the
        /// repository
        #[arg(long, value_name = "DEPTH", conflicts_with = "keep")]
        verify: Option<Extent>,
        /// How late a run may begin that could not begin in time: 30m, 2h. Without it half of the
        /// time to the next one, and at most an hour
        #[arg(long, value_name = "TIME")]
        start_deadline: Option<Span>,
        /// Change the schedule of that name, if there is another one
        #[arg(long)]
        replace: bool,
    },
    /// All schedules: when each had its last good backup, when the next is due, and what is wrong
    #[command(visible_alias = "ls")]
    List,
    /// A schedule, and what has become of its runs
    Get {
        /// Its name
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Have nothing be due any more, until resume
    Pause {
        /// Its name
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Have it go on; what would have been due meanwhile is not made up for
    Resume {
        /// Its name
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Begin a run now; where one is under way, that is it
    Run {
        /// Its name
        #[arg(value_name = "NAME")]
        name: String,
        /// Wait until its snapshot is in the repository, or that is verified; exits 1 when the run
        /// fails, also because something is damaged
        #[arg(long)]
        wait: bool,
        /// For how long
        #[arg(long, value_name = "TIME", default_value = "1h", requires = "wait")]
        wait_timeout: Span,
    },
    /// End it. Its snapshots stay
    Delete {
        /// Its name
        #[arg(value_name = "NAME")]
        name: String,
    },
}

/// Backs the cluster up, or says how its backups stand.
#[derive(Clone, Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Backup {
    #[command(subcommand)]
    pub command: Option<BackupStatus>,
    #[command(flatten)]
    pub to: BackupTo,
}

/// A backup of the whole cluster in a directory.
#[derive(Clone, Debug, clap::Args)]
pub struct BackupTo {
    /// The directory that backups are kept in; it is made if it does not exist. Each is a directory
    /// TIME-UUID with a verified tar for each node. Or a repository, a directory or in an object
    /// store, which keeps no row twice
    #[arg(long, value_name = "PLACE", required = true)]
    pub to: Option<PathBuf>,
    #[command(flatten)]
    pub key: Writing,
    /// Where the parts lie meanwhile that go into a repository. Without it: where temporary files
    /// do
    #[arg(long, value_name = "DIR")]
    pub scratch: Option<PathBuf>,
    /// How many backups of this cluster and history are kept; older ones are removed, here and in
    /// the cluster
    #[arg(long, value_name = "N", default_value = "7", value_parser = keep)]
    pub keep: usize,
    /// Go on with the snapshot of a run that was interrupted
    #[arg(long, value_name = "UUID")]
    pub uuid: Option<SnapshotId>,
    /// This backup holds less than half of what an earlier one holds, and that is right
    #[arg(long)]
    pub accept_smaller: bool,
    /// How long to wait for the snapshot
    #[arg(long, value_name = "TIME", default_value = "1h")]
    pub wait_timeout: Span,
    /// How many parts are fetched at the same time
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = value_parser!(u8).range(1..))]
    pub parallel: u8,
}

fn keep(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("it is a number from 1 on".into()),
        Ok(count) => Ok(count),
    }
}

#[derive(Clone, Debug, Subcommand)]
pub enum BackupStatus {
    /// On one screen: where backups go, and of each schedule the last good one and its age, the
    /// last failure, and the next
    Status,
}
