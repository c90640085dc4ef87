//! What `ddbctl site` takes.

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub enum Site {
    /// Add a site; adding one that exists changes nothing
    Add {
        /// The site
        site: String,
    },
    /// Remove a site and all its data
    Remove {
        /// The site
        site: String,
    },
    /// The sites, by name
    List,
}
