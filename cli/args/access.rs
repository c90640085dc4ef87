//! What `ddbctl whoami`, `ddbctl grant` and `ddbctl token` take.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::value::Span;
use crate::{
    base::{ids::TokenId, limits::NODES_MAX},
    proto::v1::Role,
};

/// What is given to whom.
#[derive(Args, Clone, Debug)]
pub struct Granted {
    /// The identity, as ddbctl whoami says it; or the beginning of some with * behind it
    #[arg(value_name = "IDENTITY")]
    pub identity: String,
    #[command(flatten)]
    pub held: Held,
}

#[derive(Args, Clone, Debug)]
pub struct Held {
    /// reader, writer, viewer, backup, pruner or operator
    #[arg(value_name = "ROLE", value_parser = role)]
    pub role: Role,
    /// A site, or the beginning of some with * behind it; for readers and writers
    #[arg(long, value_name = "SITES", default_value = "*")]
    pub sites: String,
}

#[derive(Clone, Debug, Subcommand)]
#[command(
    after_help = "Examples:\n  ddbctl grant add spiffe://acme/ns/shop/sa/till writer --sites \
                  shop-1\n  ddbctl grant add 'spiffe://acme/ns/backup/*' backup\n  ddbctl \
                  grant list"
)]
pub enum Grant {
    /// Give a role to everybody of an identity, or of all that begin so. All nodes know within a
    /// second
    Add(Granted),
    /// Take it away again; said word for word
    Remove(Granted),
    /// All grants, by identity
    #[command(visible_alias = "ls")]
    List,
}

#[derive(Clone, Debug, Subcommand)]
#[command(
    after_help = "Examples:\n  ddbctl token create nightly backup --file /etc/devicedb/nightly\n  \
                  ddbctl token create rack-7 --join --uses 3 --file rack-7.join\n  \
                  ddbctl token list\n  ddbctl token revoke 0badcafe\n  ddbctl token resume --all"
)]
pub enum Token {
    /// Make a token for a script, or one by which machines join. Its secret is shown once, and kept
    /// nowhere
    Create {
        /// A name for people, and for the log of who did what
        #[arg(value_name = "NAME")]
        name: String,
        /// reader, writer, viewer, backup, pruner or operator
        #[arg(
            value_name = "ROLE",
            value_parser = role,
            required_unless_present = "join",
            conflicts_with = "join",
        )]
        role: Option<Role>,
        /// A site, or the beginning of some with * behind it; for readers and writers
        #[arg(long, value_name = "SITES", default_value = "*", conflicts_with = "join")]
        sites: String,
        /// A join token: it makes no calls, and machines become nodes by it where ddbctl cluster
        /// joins asks for one
        #[arg(long)]
        join: bool,
        /// How many machines may join by it
        #[arg(
            long,
            value_name = "N",
            default_value_t = 1,
            requires = "join",
            value_parser = clap::value_parser!(u32).range(1..=i64::from(NODES_MAX as u32)),
        )]
        uses: u32,
        /// For how many days it is valid: 90 where nothing is said, and for a join token an hour
        #[arg(
            long,
            value_name = "DAYS",
            value_parser = clap::value_parser!(u64).range(1..=366),
        )]
        days: Option<u64>,
        /// For how long it is valid, where that is less than a day or a few: 1h, 30m
        #[arg(long, value_name = "TIME", conflicts_with = "days")]
        expires: Option<Span>,
        /// Write the secret to this new file, which only you can read, instead of stdout
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// All tokens, by name
    #[command(visible_alias = "ls")]
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

/// As the contract names them, without what it writes before each.
pub fn role_name(role: Role) -> String {
    role.as_str_name().trim_start_matches("ROLE_").to_lowercase()
}

fn role(text: &str) -> Result<Role, String> {
    let all: Vec<Role> = (1..).map_while(|number| Role::try_from(number).ok()).collect();
    all.iter().copied().find(|role| role_name(*role) == text).ok_or_else(|| {
        let names: Vec<String> = all.into_iter().map(role_name).collect();
        format!("there are {}", names.join(", "))
    })
}
