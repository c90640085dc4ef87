//! What `devicedb start` takes, and what a node is told of it.

use std::{
    net::{SocketAddr, ToSocketAddrs as _},
    path::PathBuf,
};

use devicedb::{
    base::limits,
    boot::restore::plan::Order,
    cluster::access::Pattern,
    ctl::{NodeKeys, endpoint},
    net::{
        spans::Collector,
        tls::{Mode, Setup},
    },
    node::Options,
    part::seal::Recipient,
    repository::{points::Point, trust::Access},
    rpc::QuotaLimits,
    service::uploads::Place,
};

/// Where a node listens. Of a name's addresses the first of IPv4, which others dial first too.
pub fn listening(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let (host, port) = text.rsplit_once(':').ok_or("it lacks a port: write HOST:PORT")?;
    let port: u16 = port.parse().map_err(|_| format!("{port:?} is not a port"))?;
    if host.is_empty() {
        return Err(format!(
            "it lacks an address: 127.0.0.1:{port} is for this machine alone, 0.0.0.0:{port} for \
             others too"
        ));
    }
    let found =
        (host, port).to_socket_addrs().map_err(|e| format!("{host} has no address: {e}"))?;
    let found: Vec<SocketAddr> = found.collect();
    let first = found.iter().find(|address| address.is_ipv4()).or(found.first());
    first.copied().ok_or_else(|| format!("{host} has no address"))
}

#[derive(clap::Args)]
#[command(
    after_help = "Exit codes: 0 asked to stop or decommissioned, 1 failed, 2 options that cannot \
                        work; 130 or 143 asked to stop twice."
)]
pub struct Start {
    /// A file of settings: what is said neither here nor in the environment. TOML, with the names
    /// of these flags.
    #[arg(long, value_name = "FILE", env = "DEVICEDB_CONFIG")]
    config: Option<PathBuf>,
    /// The directory of this node's data. Created if it is not there.
    #[arg(long, value_name = "DIR", env = "DEVICEDB_STORE")]
    store: PathBuf,
    /// Where to listen, for gRPC and HTTP alike: an address of this machine, or a name that has
    /// one.
    #[arg(
        long,
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:8080",
        env = "DEVICEDB_LISTEN",
        value_parser = listening,
    )]
    listen: SocketAddr,
    /// Where others reach this node, if that is not where it listens.
    #[arg(long, value_name = "HOST:PORT", env = "DEVICEDB_ADVERTISE", value_parser = endpoint)]
    advertise: Option<String>,
    /// Found a cluster with this node as its first. Said once, by hand: in a unit file it founds a
    /// second cluster when the disk is lost.
    #[arg(long, conflicts_with = "join")]
    found: bool,
    #[command(flatten)]
    seed: Seed,
    /// Nodes of the cluster to join, this one perhaps among them. An empty store waits until one of
    /// them belongs to a cluster, or until `ddbctl cluster init` is said to one of them. Afterwards
    /// they are used to find the others again.
    #[arg(
        long,
        value_name = "HOST:PORT,...",
        env = "DEVICEDB_JOIN",
        value_delimiter = ',',
        value_parser = endpoint,
    )]
    join: Vec<String>,
    /// The file of the join token by which this machine becomes a node, where the cluster asks for
    /// one. `ddbctl token create` makes it. Only an empty store heeds it.
    #[arg(long, value_name = "FILE", env = "DEVICEDB_JOIN_TOKEN", requires = "join")]
    join_token: Option<PathBuf>,
    /// How many nodes hold each piece of data. Fixed when the cluster is founded.
    #[arg(long, value_name = "N", default_value_t = 3, env = "DEVICEDB_REPLICATION_FACTOR")]
    replication_factor: u32,
    /// Slices of the hash space of sites: a power of two from 64 to 65536. Fixed when the cluster
    /// is founded.
    #[arg(long, value_name = "N", default_value_t = 1024, env = "DEVICEDB_PARTITIONS")]
    partitions: u32,
    /// Raft groups that carry the partitions: a power of two. Fixed when the cluster is founded.
    #[arg(long, value_name = "N", default_value_t = 64, env = "DEVICEDB_GROUPS")]
    groups: u32,
    /// Bytes a second of replicas that move: this node sends at most so many, and takes so many.
    #[arg(
        long,
        value_name = "BYTES",
        env = "DEVICEDB_MOVE_RATE",
        default_value_t = limits::MOVE_BYTES_A_SECOND,
        value_parser = clap::value_parser!(u64).range(limits::MOVE_BYTES_A_SECOND_MIN..),
    )]
    move_rate: u64,
    /// Where this node's parts of snapshots are kept. Must exist. Several nodes may share it.
    #[arg(long, value_name = "DIR", env = "DEVICEDB_SNAPSHOT_STORE")]
    snapshot_store: Option<PathBuf>,
    /// The repository that snapshots are uploaded to: a directory, s3://BUCKET/PREFIX,
    /// az://CONTAINER/PREFIX or gs://BUCKET/PREFIX, made by `ddbctl repository init`. All nodes
    /// name the same. Credentials come from the environment.
    #[arg(long, value_name = "PLACE", env = "DEVICEDB_REPOSITORY", requires = "snapshot_store")]
    repository: Option<String>,
    /// Bytes a second that this node sends to the repository at most. Without it there is no bound.
    #[arg(
        long,
        value_name = "BYTES",
        env = "DEVICEDB_REPOSITORY_RATE",
        requires = "repository",
        value_parser = clap::value_parser!(u64).range(1..),
    )]
    repository_rate: Option<u64>,
    #[command(flatten)]
    keys: NodeKeys,
    /// Seal the parts that are kept there: only who has the identity of this recipient can read
    /// their rows. As `ddbctl snapshot keygen` or age-keygen prints it; may be said several times,
    /// or several divided by commas.
    #[arg(
        long,
        value_name = "age1...",
        env = "DEVICEDB_SEAL_TO",
        value_delimiter = ',',
        requires = "snapshot_store"
    )]
    seal_to: Vec<Recipient>,
    /// The age identity file that opens the sealed part in the store directory. It is read for its
    /// restore alone, and not kept.
    #[arg(long, value_name = "FILE")]
    unseal_with: Option<PathBuf>,
    /// Join without a share of the groups, to take the places of another node: `ddbctl node
    /// replace`. Only an empty store heeds it.
    #[arg(long, conflicts_with = "found", requires = "join")]
    replacement: bool,
    #[command(flatten)]
    tls: Tls,
    #[command(flatten)]
    quotas: Quotas,
    /// Listen beyond loopback although TLS is off or optional, and whoever reaches the node may do
    /// everything.
    #[arg(long, env = "DEVICEDB_INSECURE")]
    insecure: bool,
    /// Note who has changed something or was not let, one JSON object a line, in files of this
    /// directory. Calls that change the cluster are refused while that cannot be written.
    #[arg(long, value_name = "DIR", env = "DEVICEDB_AUDIT_LOG")]
    audit_log: Option<PathBuf>,
    #[command(flatten)]
    traces: Traces,
    /// End when standard input does, a pipe whose other end the program has that started the node.
    #[arg(long, hide = true)]
    end_with_stdin: bool,
    /// error, warn, info, debug or trace; or a filter as in `info,devicedb::net=debug`.
    #[arg(long, value_name = "LEVEL", default_value = "info", env = "DEVICEDB_LOG")]
    log: String,
    /// Log one JSON object a line.
    #[arg(long, env = "DEVICEDB_LOG_JSON")]
    log_json: bool,
}

/// A new cluster that begins with a snapshot.
#[derive(clap::Args)]
struct Seed {
    /// Found a new cluster of a snapshot in this repository, with this node as its first. Others
    /// join it with empty stores. Said once, by hand, and to one node alone, or see --expect-nodes.
    #[arg(long, value_name = "PLACE", conflicts_with_all = ["found", "replacement", "unseal_with"])]
    restore_from: Option<String>,
    /// The snapshot: latest, a uuid, or a time as 2026-01-31T12:00:00Z for the last one that was
    /// written by then. Without it: latest.
    #[arg(long, value_name = "POINT", requires = "restore_from")]
    point: Option<Point>,
    /// Take only these sites of the snapshot: names, or beginnings of names with * behind them. May
    /// be said several times, or several divided by commas.
    #[arg(long, value_name = "SITE", requires = "restore_from", value_delimiter = ',')]
    sites: Vec<Pattern>,
    /// Begin with so many nodes at once, each of which loads its share. All say the same, and all
    /// but one name that one, which founds, in --join
    #[arg(long, value_name = "N", default_value_t = 1, requires = "restore_from")]
    expect_nodes: u32,
}

impl Seed {
    fn order(self, access: Access) -> Option<Order> {
        let Seed { restore_from, point, sites, expect_nodes: nodes } = self;
        let point = point.unwrap_or(Point::Latest);
        restore_from.map(|place| Order { place, access, point, sites, nodes })
    }
}

/// Who has to speak TLS, and with which certificates.
#[derive(clap::Args)]
struct Tls {
    /// off, optional or required: whether others have to speak TLS to this node, and it to other
    /// nodes. Without it: required where there are certificates, or else off.
    #[arg(long = "tls", value_name = "MODE", env = "DEVICEDB_TLS")]
    mode: Option<Mode>,
    /// This node's certificate, with those that lead to the CA, in PEM. Like the other files it is
    /// read again when it changes, and on SIGHUP.
    #[arg(
        long = "tls-cert",
        value_name = "FILE",
        env = "DEVICEDB_TLS_CERT",
        requires_all = ["key", "ca"],
    )]
    cert: Option<PathBuf>,
    /// The key of that certificate, in PEM.
    #[arg(long = "tls-key", value_name = "FILE", env = "DEVICEDB_TLS_KEY", requires = "cert")]
    key: Option<PathBuf>,
    /// The certificates of the CAs that issue for nodes and clients, in PEM.
    #[arg(long = "tls-ca", value_name = "FILE", env = "DEVICEDB_TLS_CA", requires = "cert")]
    ca: Option<PathBuf>,
    /// What these CAs have revoked, in PEM.
    #[arg(long = "tls-crl", value_name = "FILE", env = "DEVICEDB_TLS_CRL", requires = "cert")]
    crl: Option<PathBuf>,
    /// An identity that may do everything, beside those whose certificates say so; or the beginning
    /// of some with * behind it. May be said several times, or several divided by commas.
    #[arg(
        long = "admin",
        value_name = "IDENTITY",
        env = "DEVICEDB_ADMIN",
        value_delimiter = ',',
        requires = "cert"
    )]
    admins: Vec<Pattern>,
}

/// What each client may use of the node: an identity, whatever it connects with.
#[derive(clap::Args)]
struct Quotas {
    /// Calls that one client may make a second, on this node. More are refused, with the time after
    /// which to come again. Without it: as many as it likes.
    #[arg(
        long = "client-calls-per-second",
        value_name = "N",
        env = "DEVICEDB_CLIENT_CALLS_PER_SECOND",
        value_parser = clap::value_parser!(u32).range(1..),
    )]
    calls: Option<u32>,
    /// Bytes of requests and answers of one client a second, on this node, at least 1048576.
    /// Calls beyond them are refused, scans and downloads that are open slow down. Without it: as
    /// many as it likes.
    #[arg(
        long = "client-bytes-per-second",
        value_name = "N",
        env = "DEVICEDB_CLIENT_BYTES_PER_SECOND",
        value_parser = clap::value_parser!(u64).range(limits::CLIENT_BYTES_A_SECOND_MIN..),
    )]
    bytes: Option<u64>,
    /// Scans that one client may have open on this node.
    #[arg(
        long = "client-scans",
        value_name = "N",
        default_value_t = limits::CLIENT_SCANS,
        env = "DEVICEDB_CLIENT_SCANS",
        value_parser = clap::value_parser!(u32).range(1..=limits::SCANS_MAX as i64),
    )]
    scans: u32,
    /// Downloads of parts of snapshots that one client may have open on this node.
    #[arg(
        long = "client-downloads",
        value_name = "N",
        default_value_t = limits::CLIENT_DOWNLOADS,
        env = "DEVICEDB_CLIENT_DOWNLOADS",
        value_parser = clap::value_parser!(u32).range(1..=limits::DOWNLOADS_MAX as i64),
    )]
    downloads: u32,
}

/// Who is told how long things take.
#[derive(clap::Args)]
struct Traces {
    /// Send spans of traces to this collector, http://HOST:PORT, by OTLP over gRPC. Calls go on in
    /// the traces that their callers name in `traceparent`; a snapshot is a trace of its own.
    #[arg(
        long = "otlp-endpoint",
        value_name = "URL",
        env = "DEVICEDB_OTLP_ENDPOINT",
        value_parser = collector_at,
    )]
    endpoint: Option<String>,
    /// Of the calls that name no trace, how many begin one: from 0% to 100%.
    #[arg(
        long = "otlp-share",
        value_name = "PERCENT",
        default_value = "1%",
        env = "DEVICEDB_OTLP_SHARE",
        value_parser = share,
    )]
    share: f64,
}

impl Traces {
    fn collector(self) -> Option<Collector> {
        let Traces { endpoint, share } = self;
        endpoint.map(|endpoint| Collector { endpoint, share })
    }
}

/// Where a collector is. Spans hold nothing that is a secret, and a collector that speaks TLS alone
/// is reached through one beside the node.
fn collector_at(text: &str) -> Result<String, String> {
    let wanted = "write http://HOST:PORT, where OTLP is spoken over gRPC: mostly port 4317";
    let at = text.strip_prefix("http://").ok_or_else(|| match text.starts_with("https://") {
        true => "TLS is not spoken to collectors: name one on this machine that does".to_owned(),
        false => wanted.to_owned(),
    })?;
    let at = at.strip_suffix('/').unwrap_or(at);
    endpoint(at).map_err(|e| format!("{e}; {wanted}"))?;
    Ok(format!("http://{at}"))
}

/// From 0% to 100%, as a share of one.
fn share(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').and_then(|number| number.parse::<f64>().ok());
    let percent = number.filter(|percent| (0.0..=100.0).contains(percent));
    Ok(percent.ok_or("write a number from 0 to 100 with % behind it, as in 1%")? / 100.0)
}

impl Quotas {
    fn limits(self) -> QuotaLimits {
        let Quotas { calls, bytes, scans, downloads } = self;
        QuotaLimits { calls_a_second: calls, bytes_a_second: bytes, scans, downloads }
    }
}

impl Tls {
    fn setup(self) -> (Setup, Vec<Pattern>) {
        let Tls { mode, cert, key, ca, crl, admins } = self;
        (Setup { mode, cert, key, ca, crl }, admins)
    }
}

impl Start {
    /// How the node is started, what it logs, and whether as JSON.
    pub fn options(self) -> (Options, String, bool) {
        // What the file says stands on the command line by now.
        let Start { config: _, .. } = &self;
        let ((tls, admins), access) = (self.tls.setup(), self.keys.access());
        let options = Options {
            store: self.store,
            listen: self.listen,
            advertise: self.advertise,
            found: self.found,
            restore_from: self.seed.order(access.clone()),
            join: self.join,
            join_token: self.join_token,
            replication_factor: self.replication_factor,
            partitions: self.partitions,
            groups: self.groups,
            move_rate: self.move_rate,
            snapshot_store: self.snapshot_store,
            repository: self.repository.map(|at| Place::new(at, self.repository_rate, access)),
            seal_to: self.seal_to,
            unseal_with: self.unseal_with,
            replacement: self.replacement,
            insecure: self.insecure,
            tls,
            admins,
            quotas: self.quotas.limits(),
            audit_log: self.audit_log,
            collector: self.traces.collector(),
            end_with_stdin: self.end_with_stdin,
        };
        (options, self.log, self.log_json)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_is_named_by_its_address_and_calls_by_their_share() {
        for (text, told) in [
            ("http://127.0.0.1:4317", Ok("http://127.0.0.1:4317")),
            ("http://collector.monitoring:4317/", Ok("http://collector.monitoring:4317")),
            ("https://collector:4317", Err("TLS is not spoken")),
            ("collector:4317", Err("write http://HOST:PORT")),
            ("http://collector", Err("write http://HOST:PORT")),
            ("http://collector:4318/v1/traces", Err("write http://HOST:PORT")),
        ] {
            match (collector_at(text), told) {
                (Ok(at), Ok(wanted)) => assert_eq!(at, wanted),
                (Err(e), Err(why)) => assert!(e.contains(why), "{text}: {e}"),
                (other, _) => panic!("{text}: {other:?}"),
            }
        }
        for (text, told) in [("1%", Some(0.01)), ("0%", Some(0.0)), ("100%", Some(1.0))] {
            assert_eq!(share(text).ok(), told, "{text}");
        }
        for text in ["0.01", "101%", "-1%", "NaN%", "%", "some%"] {
            assert!(share(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_node_listens_at_an_address_or_a_name_and_says_what_is_wrong_with_others() {
        for (text, address) in [
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("[::1]:80", "[::1]:80"),
            ("localhost:80", "127.0.0.1:80"),
        ] {
            assert_eq!(listening(text), Ok(address.parse().unwrap()), "{text}");
        }
        for (text, why) in [
            ("localhost", "lacks a port"),
            (":80", "127.0.0.1:80 is for this machine alone"),
            ("localhost:http", "\"http\" is not a port"),
            ("localhost:65536", "\"65536\" is not a port"),
        ] {
            let said = listening(text).unwrap_err();
            assert!(said.contains(why), "{text}: {said}");
        }
    }
}
