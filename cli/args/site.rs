//! What `ddbctl site` takes.

use clap::Subcommand;

#[derive(Clone, Debug, Subcommand)]
pub enum Site {
    /// Add a site; adding one that exists changes nothing
    Add {
        /// The site
        site: String,
    },
    /// Remove a site and all its data, for good. On a terminal it says what goes, and asks
    Remove {
        /// The site
        site: String,
        /// Ask nothing
        #[arg(long)]
        yes: bool,
    },
    /// The sites, by name
    #[command(visible_alias = "ls")]
    List,
}
