//! What `ddbctl cluster` and `ddbctl node` take.

use clap::{Subcommand, ValueEnum};

use super::{
    operation::Wait,
    value::{NodeName, Span},
};
use crate::base::limits::CAPACITY_PERCENT_MAX;

#[derive(Clone, Debug, Subcommand)]
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
    /// Place all groups anew on the nodes that live, with as few moves as possible. Where all is
    /// well nothing moves
    #[command(
        after_help = "Examples:\n  ddbctl cluster rebalance --dry-run\n  ddbctl cluster rebalance"
    )]
    Rebalance {
        /// Only say what would move, and what speaks against it
        #[arg(long, conflicts_with = "wait")]
        dry_run: bool,
        /// Also if nodes get more than they have room for
        #[arg(long)]
        force: bool,
        /// Only if nodes and their groups are as they were when a dry run gave this etag
        #[arg(long, value_name = "ETAG", default_value = "", hide_default_value = true)]
        etag: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// Which version every node runs, and the end of an upgrade
    #[command(subcommand)]
    Upgrade(Upgrade),
    /// Whether machines need a join token to become nodes, and have it so. Nodes that are members
    /// stay what they are
    #[command(
        after_help = "Examples:\n  ddbctl cluster joins\n  ddbctl cluster joins token\n  ddbctl \
                      token create rack-7 --join --uses 3 --file rack-7.join"
    )]
    Joins {
        /// Have it so from now on; without it, say how it is
        #[arg(value_name = "HOW")]
        how: Option<Joins>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Joins {
    /// Only machines with a join token
    Token,
    /// Every machine that may speak to nodes
    Open,
}

#[derive(Clone, Debug, Subcommand)]
pub enum Upgrade {
    /// Every node's version, and whether the cluster uses all that they know
    #[command(after_help = "Examples:\n  ddbctl cluster upgrade status")]
    Status,
    /// Let the cluster use what all of its nodes know. No node can go back to an older version
    /// then. Repeating it changes nothing
    #[command(after_help = "Examples:\n  ddbctl cluster upgrade finalize")]
    Finalize,
}

#[derive(Clone, Debug, Subcommand)]
pub enum Node {
    /// The nodes, by id
    #[command(visible_alias = "ls")]
    List,
    /// Remove a node that is lost for good: others take its places, and it never comes back. Until
    /// then it keeps its votes, and the next loss may stop the cluster. The data is copied
    /// afterwards, and --wait waits for that
    #[command(after_help = "Examples:\n  \
        ddbctl node remove 8131915220083707319 --dry-run\n  \
        ddbctl node remove 8131915220083707319 --wait --wait-timeout 30m")]
    Remove {
        /// The node: its id or its address, as ddbctl node list shows them
        #[arg(value_name = "NODE")]
        node: NodeName,
        /// Also if the node answers, or has what no other node that answers has
        #[arg(long)]
        force: bool,
        /// Only say what would be done, and what speaks against it
        #[arg(long, conflicts_with = "wait")]
        dry_run: bool,
        /// Only if nodes and their groups are as they were when a dry run gave this etag
        #[arg(long, value_name = "ETAG", default_value = "", hide_default_value = true)]
        etag: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// Have a node leave that runs: what it holds goes to others first, then its process ends with
    /// 0. It goes on whether anybody waits or not; asking again says how far it is
    #[command(after_help = "Examples:\n  \
        ddbctl node decommission 8131915220083707319 --dry-run\n  \
        ddbctl node decommission 8131915220083707319 --wait --wait-timeout 30m")]
    Decommission {
        /// The node: its id or its address, as ddbctl node list shows them
        #[arg(value_name = "NODE")]
        node: NodeName,
        /// Also if the others hold fewer copies afterwards than they should, or if only this node
        /// has a part of a snapshot
        #[arg(long)]
        force: bool,
        /// Only say what would be done, what speaks against it, and how far it is
        #[arg(long, conflicts_with = "wait")]
        dry_run: bool,
        /// Only if nodes and their groups are as they were when a dry run gave this etag
        #[arg(long, value_name = "ETAG", default_value = "", hide_default_value = true)]
        etag: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// Have a node take the places of another one, all of them and no others, so that nothing else
    /// moves. The replacement was started with --replacement. A node that runs leaves as in a
    /// decommission; one that does not answer is removed for good
    #[command(after_help = "Examples:\n  \
        ddbctl node replace 8131915220083707319 2779162084423051042 --dry-run\n  \
        ddbctl node replace 8131915220083707319 2779162084423051042 --wait")]
    Replace {
        /// The node that goes: its id or its address, as ddbctl node list shows them
        #[arg(value_name = "NODE")]
        node: NodeName,
        /// The node that takes its places
        #[arg(value_name = "REPLACEMENT")]
        replacement: NodeName,
        /// Also if only the node that goes has a part of a snapshot
        #[arg(long)]
        force: bool,
        /// Only say what would be done, what speaks against it, and how far it is
        #[arg(long, conflicts_with = "wait")]
        dry_run: bool,
        /// Only if nodes and their groups are as they were when a dry run gave this etag
        #[arg(long, value_name = "ETAG", default_value = "", hide_default_value = true)]
        etag: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// Have a node stay that is leaving
    #[command(after_help = "Examples:\n  ddbctl node cancel 8131915220083707319")]
    Cancel {
        /// The node: its id or its address, as ddbctl node list shows them
        #[arg(value_name = "NODE")]
        node: NodeName,
    },
    /// Change a node's share of the groups, or the name of its certificate
    #[command(
        after_help = "Examples:\n  ddbctl node set 8131915220083707319 --capacity 50\n  ddbctl \
                      node set 8131915220083707319 --certificate-name \
                      spiffe://acme/devicedb/node/b"
    )]
    Set {
        /// The node: its id or its address, as ddbctl node list shows them
        #[arg(value_name = "NODE")]
        node: NodeName,
        /// Its share relative to the others: 100 is usual, and 0 holds nothing
        #[arg(
            long,
            value_name = "PERCENT",
            value_parser = clap::value_parser!(u32).range(0..=i64::from(CAPACITY_PERCENT_MAX)),
            required_unless_present = "certificate_name",
        )]
        capacity: Option<u32>,
        /// The name of the certificate with which it is started next, as ddbctl cert show says it:
        /// other nodes believe no other one
        #[arg(
            long,
            value_name = "NAME",
            conflicts_with_all = ["capacity", "dry_run", "force", "wait"],
        )]
        certificate_name: Option<String>,
        /// Only say how many replicas would move, and what speaks against it
        #[arg(long, conflicts_with = "wait")]
        dry_run: bool,
        /// Also if nodes get more than they have room for
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        wait: Wait,
    },
    /// Have a node lead nothing and get no further replicas, before maintenance, say. It keeps what
    /// it holds and goes on voting, its /readyz says that it is not ready, and a restart changes
    /// nothing of that: undrain ends it
    #[command(after_help = "Examples:\n  ddbctl node drain 8131915220083707319 --wait")]
    Drain {
        /// The node: its id or its address, as ddbctl node list shows them
        #[arg(value_name = "NODE")]
        node: NodeName,
        #[command(flatten)]
        wait: Wait,
    },
    /// Have a node that was drained be as any other again
    #[command(after_help = "Examples:\n  ddbctl node undrain 8131915220083707319")]
    Undrain {
        /// The node: its id or its address, as ddbctl node list shows them
        #[arg(value_name = "NODE")]
        node: NodeName,
    },
}
