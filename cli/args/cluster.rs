//! What `ddbctl cluster` and `ddbctl node` take.

use clap::Subcommand;

use super::value::Span;

#[derive(Debug, Subcommand)]
pub enum Cluster {
    /// The node table, and what is wrong
    #[command(after_help = "Examples:\n  ddbctl cluster overview --partitions")]
    Overview {
        /// Also the table of partitions
        #[arg(long)]
        partitions: bool,
    },
    /// Exit 0 when every node is ready and every group is led and fully replicated
    #[command(after_help = "Examples:\n  \
        ddbctl cluster health --wait\n  \
        ddbctl cluster health --wait 10m\n  \
        ddbctl -o json cluster health")]
    Health {
        /// Look again until that is so, for this long at the most; 30s where no time is named
        #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = "30s")]
        wait: Option<Span>,
    },
    /// Found the cluster that the nodes of one --join wait for; once, at any of them. Repeating it
    /// changes nothing
    #[command(after_help = "Examples:\n  ddbctl --endpoint node1.example:8080 cluster init")]
    Init,
    /// Which version every node runs, and the end of an upgrade
    #[command(subcommand)]
    Upgrade(Upgrade),
}

#[derive(Debug, Subcommand)]
pub enum Upgrade {
    /// Every node's version, and whether the cluster uses all that they know
    #[command(after_help = "Examples:\n  ddbctl cluster upgrade status")]
    Status,
    /// Let the cluster use what all of its nodes know. No node can go back to an older version
    /// then. Repeating it changes nothing
    #[command(after_help = "Examples:\n  ddbctl cluster upgrade finalize")]
    Finalize,
}

#[derive(Debug, Subcommand)]
pub enum Node {
    /// The nodes, by id
    List,
    /// Remove a node that is lost for good: others take its places, and it never comes back. Until
    /// then it keeps its votes, and the next loss may stop the cluster. The data is copied
    /// afterwards, and cluster health --wait says when that is done
    #[command(after_help = "Examples:\n  \
        ddbctl node remove 8131915220083707319 --dry-run\n  \
        ddbctl node remove 8131915220083707319\n  \
        ddbctl cluster health --wait 10m")]
    Remove {
        /// The node's id, as ddbctl node list shows it
        #[arg(value_name = "NODE ID")]
        node: u64,
        /// Also if the node answers, or has what no other node that answers has
        #[arg(long)]
        force: bool,
        /// Only say what would be done, and what speaks against it
        #[arg(long)]
        dry_run: bool,
        /// Only if nodes and their groups are as they were when a dry run gave this etag
        #[arg(long, value_name = "ETAG", default_value = "", hide_default_value = true)]
        etag: String,
    },
}
