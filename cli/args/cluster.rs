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
}

#[derive(Debug, Subcommand)]
pub enum Node {
    /// The nodes, by id
    List,
}
