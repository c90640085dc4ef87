//! What `ddbctl whoami`, `ddbctl grant` and `ddbctl token` take.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::{
    base::ids::TokenId,
    cluster::access::{Pattern, Role},
};

/// What is given to whom.
#[derive(Args, Clone, Debug)]
pub struct Granted {
    /// The identity, as ddbctl whoami says it; or the beginning of some with * behind it
    #[arg(value_name = "IDENTITY", value_parser = pattern)]
    pub identity: Pattern,
    #[command(flatten)]
    pub held: Held,
}

#[derive(Args, Clone, Debug)]
pub struct Held {
    /// reader, writer, viewer, backup, pruner or operator
    #[arg(value_name = "ROLE", value_parser = role)]
    pub role: Role,
    /// A site, or the beginning of some with * behind it; for readers and writers
    #[arg(long, value_name = "SITES", default_value = "*", value_parser = pattern)]
    pub sites: Pattern,
}

#[derive(Debug, Subcommand)]
#[command(
    after_help = "Examples:\n  ddbctl grant add spiffe://acme/ns/shop/sa/till writer --sites \
                  shop-1\n  ddbctl grant add 'spiffe://acme/ns/backup/*' backup\n  ddbctl grant list"
)]
pub enum Grant {
    /// Give a role to everybody of an identity, or of all that begin so. Nodes know within a second
    Add(Granted),
    /// Take it away again; said word for word
    Remove(Granted),
    /// All grants, by identity
    List,
}

#[derive(Debug, Subcommand)]
#[command(
    after_help = "Examples:\n  ddbctl token create nightly backup --file /etc/devicedb/nightly\n  \
                  ddbctl token list\n  ddbctl token revoke 0badcafe\n  ddbctl token resume --all"
)]
pub enum Token {
    /// Make a token for a script. Its secret is shown once, and kept nowhere
    Create {
        /// A name for people, and for the log of who did what
        #[arg(value_name = "NAME")]
        name: String,
        #[command(flatten)]
        held: Held,
        /// For how many days it is valid
        #[arg(
            long,
            value_name = "DAYS",
            default_value_t = 90,
            value_parser = clap::value_parser!(u64).range(1..=366)
        )]
        days: u64,
        /// Write the secret to this new file, which only you can read, instead of stdout
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// All tokens, by name
    List,
    /// End a token
    Revoke {
        /// The token's id, as ddbctl token list shows it
        #[arg(value_name = "ID")]
        id: TokenId,
    },
    /// Have a token hold again that a restore has suspended
    Resume {
        /// The token's id, as ddbctl token list shows it
        #[arg(value_name = "ID", required_unless_present = "all")]
        id: Option<TokenId>,
        /// All that are suspended. Look at ddbctl token list first: one that was revoked after the
        /// snapshot is among them
        #[arg(long, conflicts_with = "id")]
        all: bool,
    },
}

fn pattern(text: &str) -> Result<Pattern, String> {
    Pattern::new(text).map_err(|e| e.message)
}

fn role(text: &str) -> Result<Role, String> {
    text.parse::<Role>().map_err(|e| e.message)
}
