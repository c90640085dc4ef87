//! What `ddbctl cert` takes.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Clone, Debug, Subcommand)]
#[command(
    after_help = "Examples:\n  ddbctl cert init\n  ddbctl cert node a b c --host 127.0.0.1\n  \
                  ddbctl cert client ops --admin\n  ddbctl cert show certs/node-a.crt"
)]
pub enum Cert {
    /// Make a CA of your own: ca.crt, which everybody gets, and ca.key, which nobody gets
    Init {
        #[command(flatten)]
        made: Made,
        /// The name that stands in all its certificates, as in spiffe://NAME/devicedb/node/a
        #[arg(long, value_name = "NAME", default_value = "devicedb", value_parser = word)]
        domain: String,
        /// For how many days it is valid
        #[arg(long, value_name = "DAYS", default_value_t = 3650, value_parser = days())]
        days: i64,
    },
    /// Make certificates for nodes: node-NAME.crt and node-NAME.key
    Node {
        /// A name for each node
        #[arg(required = true, value_name = "NAME", value_parser = word)]
        names: Vec<String>,
        /// A host by which nodes and clients reach these nodes: a DNS name or an IP address
        #[arg(long = "host", required = true, value_name = "HOST", value_parser = host)]
        hosts: Vec<String>,
        #[command(flatten)]
        made: Made,
        /// For how many days they are valid
        #[arg(long, value_name = "DAYS", default_value_t = 90, value_parser = days())]
        days: i64,
    },
    /// Make certificates for clients: client-NAME.crt and client-NAME.key, or admin-NAME.crt and
    /// admin-NAME.key
    Client {
        /// A name for each client
        #[arg(required = true, value_name = "NAME", value_parser = word)]
        names: Vec<String>,
        /// They may do everything. Without it they may do what ddbctl grant gives them
        #[arg(long)]
        admin: bool,
        #[command(flatten)]
        made: Made,
        /// For how many days they are valid
        #[arg(long, value_name = "DAYS", default_value_t = 90, value_parser = days())]
        days: i64,
    },
    /// Say whose a certificate is, for which hosts, and until when
    Show {
        /// The certificate, in PEM
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

#[derive(Args, Clone, Debug)]
pub struct Made {
    /// The directory of the CA and of what it issues
    #[arg(long, value_name = "DIR", default_value = "certs")]
    pub dir: PathBuf,
}

fn days() -> clap::builder::RangedI64ValueParser<i64> {
    clap::value_parser!(i64).range(1..=36_500)
}

/// A piece of a URI and of a file's name.
fn word(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || ['-', '_', '.'].contains(&c);
    let begins = text.starts_with(|c: char| c.is_ascii_alphanumeric());
    if begins && text.len() <= 64 && text.chars().all(fits) {
        Ok(text.to_owned())
    } else {
        Err("1 to 64 letters, digits, '-', '_' and '.', beginning with a letter or digit".into())
    }
}

fn host(text: &str) -> Result<String, String> {
    let labels = || {
        text.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
        })
    };
    if text.parse::<std::net::IpAddr>().is_ok() || (text.len() <= 253 && labels()) {
        Ok(text.to_owned())
    } else {
        Err("a DNS name or an IP address, without a port".into())
    }
}
