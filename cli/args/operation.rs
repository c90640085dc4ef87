//! What `ddbctl operation` takes, and how commands that begin operations are told to wait.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::value::Span;
use crate::base::ids::OperationId;

/// Whether the command waits for the end of what it begins.
#[derive(Clone, Debug, Args)]
pub struct Wait {
    /// Wait until it is done, and say meanwhile how far it is and why it waits. Asked again, the
    /// command goes on waiting for the same operation
    #[arg(long)]
    wait: bool,
    /// Wait no longer than this; the operation goes on
    #[arg(long, value_name = "TIME", requires = "wait", default_value = "1h")]
    wait_timeout: Span,
}

impl Wait {
    /// For how long; None to leave it when it has begun.
    pub fn most(&self) -> Option<Duration> {
        self.wait.then_some(self.wait_timeout.0)
    }
}

#[derive(Clone, Debug, Subcommand)]
pub enum Operation {
    /// The operations, the newest first: those that run, and those that ended last
    #[command(after_help = "Examples:\n  \
        ddbctl operation list\n  \
        ddbctl operation list --running -o json")]
    #[command(visible_alias = "ls")]
    List {
        /// Only those that run
        #[arg(long)]
        running: bool,
        /// Only those of this node
        #[arg(long, value_name = "NODE ID")]
        node: Option<u64>,
    },
    /// How far an operation is, and why it waits
    #[command(after_help = "Examples:\n  ddbctl operation show 8e1d0c5b7a3f9246")]
    Show {
        /// The operation's id, as ddbctl operation list shows it
        #[arg(value_name = "ID")]
        id: OperationId,
    },
    /// Wait until an operation has ended, and say meanwhile how far it is and why it waits. Exits 1
    /// when it was cancelled, and 3 when the time is over first
    #[command(after_help = "Examples:\n  \
        ddbctl operation wait 8e1d0c5b7a3f9246 --wait-timeout 30m")]
    Wait {
        /// The operation's id, as ddbctl operation list shows it
        #[arg(value_name = "ID")]
        id: OperationId,
        /// Wait no longer than this; the operation goes on
        #[arg(long, value_name = "TIME", default_value = "1h")]
        wait_timeout: Span,
    },
    /// Take an operation back: a node that is leaving stays, one that is drained leads again, and a
    /// capacity becomes what it was. What cannot be taken back is refused
    #[command(after_help = "Examples:\n  ddbctl operation cancel 8e1d0c5b7a3f9246")]
    Cancel {
        /// The operation's id, as ddbctl operation list shows it
        #[arg(value_name = "ID")]
        id: OperationId,
    },
}
