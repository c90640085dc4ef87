//! What `ddbctl relay` takes.

use clap::Subcommand;

#[derive(Clone, Debug, Subcommand)]
pub enum Relay {
    /// Register a relay
    Add {
        /// The relay
        relay: String,
        /// The site it belongs to
        #[arg(long)]
        site: Option<String>,
    },
    /// Remove a relay
    Remove {
        /// The relay
        relay: String,
    },
    /// Give a relay to another site, or to none
    #[command(after_help = "Examples:\n  \
        ddbctl relay move r1 --site shop-1\n  \
        ddbctl relay move r1 --no-site")]
    Move {
        /// The relay
        relay: String,
        /// The site it belongs to from now on
        #[arg(long, required_unless_present = "no_site", conflicts_with = "no_site")]
        site: Option<String>,
        /// It belongs to no site from now on
        #[arg(long)]
        no_site: bool,
    },
    /// The relays, by name
    #[command(visible_alias = "ls")]
    List {
        /// Only those of this site
        #[arg(long)]
        site: Option<String>,
    },
}
