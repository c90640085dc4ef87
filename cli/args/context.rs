//! What `ddbctl context` takes.

use clap::Subcommand;

#[derive(Clone, Debug, Subcommand)]
#[command(
    after_help = "Examples:\n  ddbctl context list\n  ddbctl context use prod\n  ddbctl context \
                  show prod"
)]
pub enum Context {
    /// The contexts of the configuration file; an asterisk stands before the one that is used
    #[command(visible_alias = "ls")]
    List,
    /// Make a context the one that is used where no other is named
    Use {
        /// The context
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Say what a context names; without NAME, the one that is used
    Show {
        /// The context
        #[arg(value_name = "NAME")]
        name: Option<String>,
    },
}
