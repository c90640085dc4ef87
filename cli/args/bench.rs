//! What `ddbctl bench` takes.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand, value_parser};

use crate::base::limits;

#[derive(Clone, Debug, Subcommand)]
pub enum Bench {
    /// Write random keys
    #[command(after_help = "Examples:\n  ddbctl bench put --clients 64 --seconds 30")]
    Put(Timed),
    /// Read random keys, linearizably
    Get(Timed),
    /// Read and write random keys
    #[command(after_help = "Examples:\n  \
        ddbctl bench mixed --reads 80 --rate 2000 --plot mixed.png")]
    Mixed {
        #[command(flatten)]
        timed: Timed,
        /// How many of a hundred requests read
        #[arg(
            long,
            value_name = "PERCENT",
            default_value_t = 80,
            value_parser = value_parser!(u64).range(0..=100),
        )]
        reads: u64,
    },
    /// Read rows in order from a random key on
    Scan {
        #[command(flatten)]
        timed: Timed,
        /// Rows a request
        #[arg(
            long,
            value_name = "N",
            default_value_t = 100,
            value_parser = value_parser!(u64).range(1..),
        )]
        rows: u64,
    },
    /// Write every key once, in batches, as fast as it goes
    #[command(after_help = "Examples:\n  ddbctl bench load --keys 1000000 --sites 100")]
    Load {
        #[command(flatten)]
        ground: Ground,
        /// Rows a batch; fewer where they would be more than 1 MiB
        #[arg(
            long,
            value_name = "N",
            default_value_t = 500,
            value_parser = value_parser!(u64).range(1..=limits::BATCH_STEPS_MAX as u64),
        )]
        rows: u64,
    },
    /// Write random keys, and take a snapshot meanwhile; it is deleted afterwards
    #[command(after_help = "Examples:\n  ddbctl bench snapshot --keys 1000000 --clients 16")]
    Snapshot(Timed),
    /// Remove the sites that earlier runs made and kept
    Cleanup {
        /// What their names begin with
        #[arg(long, default_value = PREFIX)]
        prefix: String,
    },
}

/// Who asks, and where the data lies.
#[derive(Clone, Debug, ClapArgs)]
pub struct Ground {
    /// Requests under way at the same time
    #[arg(
        long,
        value_name = "N",
        default_value_t = 16,
        value_parser = value_parser!(u64).range(1..=10_000),
    )]
    pub clients: u64,
    /// Connections that they share, spread over the endpoints [default: one for 16 clients, and one
    /// an endpoint]
    #[arg(long, value_name = "N", value_parser = value_parser!(u64).range(1..=1000))]
    pub connections: Option<u64>,
    /// Ask the node that led a site last, if it is among the endpoints, as the Python and Go
    /// clients do; otherwise endpoints take turns
    #[arg(long)]
    pub direct: bool,
    /// Sites that the keys lie in
    #[arg(
        long,
        value_name = "N",
        default_value_t = 16,
        value_parser = value_parser!(u64).range(1..=10_000),
    )]
    pub sites: u64,
    /// Keys in all, rounded up to the same number in every site
    #[arg(
        long,
        value_name = "N",
        default_value_t = 10_000,
        value_parser = value_parser!(u64).range(1..=1_000_000_000),
    )]
    pub keys: u64,
    /// Random bytes a value; keys have 16
    #[arg(
        long,
        value_name = "B",
        default_value_t = 100,
        value_parser = value_parser!(u64).range(..=limits::VALUE_BYTES_MAX as u64),
    )]
    pub value_bytes: u64,
    /// Names of the sites: a number behind this. Missing ones are made; one that no bench made is
    /// never touched
    #[arg(long, default_value = PREFIX)]
    pub prefix: String,
    /// Remove the sites afterwards; without it the next run finds its keys there
    #[arg(long)]
    pub cleanup: bool,
    /// Draw rate and latency over time: an SVG where the name ends in .svg, otherwise a PNG. It
    /// needs no fonts of the system
    #[arg(long, value_name = "PATH")]
    pub plot: Option<PathBuf>,
}

#[derive(Clone, Debug, ClapArgs)]
pub struct Timed {
    #[command(flatten)]
    pub ground: Ground,
    /// How long it is measured; for snapshot: how long before the snapshot
    #[arg(
        long,
        value_name = "S",
        default_value_t = 10,
        value_parser = value_parser!(u64).range(1..=86_400),
    )]
    pub seconds: u64,
    /// Requests a second, each due at its time; latency counts from then, however late it is sent.
    /// Without it each client asks when it has its answer
    #[arg(long, value_name = "R", value_parser = value_parser!(u64).range(1..=1_000_000))]
    pub rate: Option<u64>,
}

const PREFIX: &str = "bench-";
