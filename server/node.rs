//! A node: builds what stands above, wires it, starts it, and stops it in the reverse order.
//!
//! Started on an empty directory a node founds a cluster, or joins one when it is told where; on an extracted part it restores it; otherwise it goes on
//! with the store it has. The port is taken before anything is changed on disk; until the doors open, a `Porch` answers there.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot, watch},
};
use tonic::service::Routes;

use crate::{
    clock::{Chance, Clock},
    cluster::Node as NodeEntry,
    cork, disk,
    driver::{self, Driver, Handle, Outlets},
    engine::{Bounds, Engine, Input, News},
    entry::Identity,
    error::{Error, Result},
    failpoint::{Failpoint, failpoint},
    http::{self, Pages},
    ids::{ClusterId, Lineage, NodeId, Topology},
    kv::Kv,
    limits,
    membership::Cluster,
    metrics::Metrics,
    parts::Parts,
    peer::{self, Me, Peers},
    porch::Porch,
    proto::{
        self,
        internal::v1::{JoinRequest, peer_service_server::PeerServiceServer},
        v1::{cluster_service_server::ClusterServiceServer, kv_service_server::KvServiceServer, snapshot_service_server::SnapshotServiceServer},
    },
    restore::{self, Holds},
    rpc::{ClusterDoor, KvDoor, PeerDoor, Porter, SnapshotDoor},
    snapshot::shelf::Shelf,
    store::{Claim, FORMAT, Store},
    wire,
};

/// How a node is started.
#[derive(Clone, Debug)]
pub struct Options {
    pub store: PathBuf,
    pub listen: SocketAddr,
    /// host:port under which others reach this node; the address it listens on if there is none.
    pub advertise: Option<String>,
    pub join: Option<String>,
    pub replication_factor: u32,
    pub partitions: u32,
    pub groups: u32,
    pub snapshot_store: Option<PathBuf>,
    /// Allows listening beyond loopback without TLS.
    pub insecure: bool,
}

/// A running node.
pub struct Node {
    pub address: String,
    pub id: NodeId,
    driver: Driver,
    handle: Handle,
    failed: oneshot::Receiver<Error>,
    peers: Peers,
    stop_server: watch::Sender<bool>,
    server: tokio::task::JoinHandle<Result<(), tonic::transport::Error>>,
    tasks: tokio::task::JoinSet<()>,
    _claim: Claim,
}

impl Node {
    pub async fn start(options: Options) -> Result<Node> {
        if !options.listen.ip().is_loopback() && !options.insecure {
            return Err(Error::invalid(format!(
                "{} can be reached from other machines, and nothing on it is encrypted or authenticated yet; listen on 127.0.0.1, or use `devicedb start --insecure`",
                options.listen
            )));
        }
        if options.listen.ip().is_unspecified() && options.advertise.is_none() {
            return Err(Error::invalid(format!("{} is no address that other nodes can reach; say --advertise HOST:PORT", options.listen)));
        }
        let listener = TcpListener::bind(options.listen).await.map_err(|e| Error::unavailable(format!("cannot listen on {}: {e}", options.listen)))?;
        let listen = listener.local_addr().map_err(|e| Error::unavailable(format!("cannot listen on {}: {e}", options.listen)))?;
        failpoint(Failpoint::PortBound);
        let address = options.advertise.clone().unwrap_or_else(|| listen.to_string());
        options.snapshot_store.as_deref().map_or(Ok(()), Shelf::check)?;
        let claim = Claim::on(&options.store)?;
        failpoint(Failpoint::StoreClaimed);
        let porch = Porch::open(listener)?;
        let (store, identity, known) = prepare(&options, &address, &porch).await?;
        run(options, porch, address, claim, store, identity, known).await
    }

    /// Waits until the node fails by itself. Its reason.
    pub async fn failed(&mut self) -> Error {
        (&mut self.failed).await.unwrap_or_else(|_| Error::unavailable("the engine has ended without a reason"))
    }

    /// Hands leadership to others, for as long as `limits::RESIGN` at the most, so that nobody has to wait for an election.
    async fn resign(&self) {
        let resigned = async {
            self.handle.input(Input::Resign)?;
            while self.handle.look(false, limits::RESIGN, |s| s.led().any(|(_, m)| m.voters.len() > 1)).await? {
                tokio::time::sleep(limits::PEER_RETRY_MIN).await;
            }
            Ok::<(), Error>(())
        };
        // Without a majority there is nobody to hand over to.
        let _ = tokio::time::timeout(limits::RESIGN, resigned).await;
    }

    /// Stops serving, then everything else. What was acknowledged is on disk long before.
    pub async fn stop(mut self) -> Result<()> {
        self.resign().await;
        self.stop_server.send_replace(true);
        // Streams that do not end by themselves are cut off.
        let _ = tokio::time::timeout(limits::STOP_GRACE, &mut self.server).await;
        self.server.abort();
        self.tasks.shutdown().await;
        self.peers.stop().await;
        let driver = self.driver;
        tokio::task::spawn_blocking(move || driver.stop()).await.map_err(|e| Error::unavailable(format!("stopping: {e}")))?
    }
}

/// The store, whoever's it is, and nodes that are known from joining.
async fn prepare(options: &Options, address: &str, porch: &Porch) -> Result<(Store, Identity, Vec<NodeEntry>)> {
    let dir = options.store.clone();
    let mut known = Vec::new();
    match blocking({
        let dir = dir.clone();
        move || restore::look(&dir)
    })
    .await?
    {
        Holds::Store => {}
        Holds::Part => {
            porch.say(format!("the part in {} is being restored", dir.display()));
            blocking({
                let dir = dir.clone();
                move || restore::restore(&dir)
            })
            .await?
        }
        Holds::Nothing => match &options.join {
            Some(target) => known = join(options, target, address, porch).await?,
            None => found(options, address)?,
        },
    }
    porch.say(format!("the store in {} is being opened", dir.display()));
    let (store, identity) = blocking(move || restore::open(&dir, &disk::Machine)).await?;
    failpoint(Failpoint::StoreOpened);
    Ok((store, identity, known))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Error::unavailable(format!("a task ended unexpectedly: {e}")))?
}

fn entry(options: &Options, id: NodeId, lineage: Lineage, address: &str) -> NodeEntry {
    NodeEntry {
        id,
        address: address.to_owned(),
        capacity_percent: 100,
        version: env!("CARGO_PKG_VERSION").into(),
        snapshot_store: options.snapshot_store.is_some(),
        lineage,
    }
}

fn found(options: &Options, address: &str) -> Result<()> {
    let mut chance = Chance::from_entropy();
    let identity = Identity {
        format: FORMAT,
        node: NodeId(chance.nonzero()),
        cluster: ClusterId(chance.uuid()),
        lineage: Lineage(chance.nonzero()),
        restored_from: None,
        topology: Topology::new(options.partitions, options.groups)?,
    };
    let settings = restore::founding_settings(&identity, options.replication_factor)?;
    restore::found(&options.store, &identity, settings, entry(options, identity.node, identity.lineage, address))?;
    tracing::info!(cluster = %identity.cluster, node = %identity.node, "founded a cluster");
    Ok(())
}

async fn join(options: &Options, target: &str, address: &str, porch: &Porch) -> Result<Vec<NodeEntry>> {
    let node = restore::node_id(&options.store, || NodeId(Chance::from_entropy().nonzero()))?;
    let request = JoinRequest { node: Some(wire::node_record(&entry(options, node, Lineage::PENDING, address))), protocol: peer::PROTOCOL };
    porch.say(format!("the node asks {target} to join its cluster"));
    let mut said = String::new();
    let answer = loop {
        failpoint(Failpoint::JoinAsking);
        match peer::join(target, request.clone()).await {
            Ok(answer) => break answer,
            Err(e) if e.kind == crate::error::Kind::Unavailable || e.kind == crate::error::Kind::Unknown => {
                if e.message != said {
                    tracing::info!(%target, why = %e, "the cluster cannot be joined yet; trying again");
                    porch.say(format!("the cluster cannot be joined at {target} yet: {e}"));
                    said = e.message;
                }
                tokio::time::sleep(limits::JOIN_AGAIN).await;
            }
            Err(e) => return Err(e.at(format!("joining at {target}"))),
        }
    };
    failpoint(Failpoint::JoinAnswered);
    let settings = wire::parse_settings(answer.settings.ok_or_else(|| Error::invalid(format!("{target} has answered without settings")))?)?;
    let known = answer.nodes.into_iter().map(wire::parse_node).collect::<Result<Vec<_>>>()?;
    let identity = Identity {
        format: FORMAT,
        node,
        cluster: settings.cluster,
        lineage: settings.lineage,
        restored_from: settings.restored_from,
        topology: settings.topology,
    };
    restore::join(&options.store, &identity)?;
    tracing::info!(cluster = %identity.cluster, node = %identity.node, "joined a cluster");
    Ok(known)
}

async fn run(options: Options, porch: Porch, address: String, claim: Claim, store: Store, identity: Identity, known: Vec<NodeEntry>) -> Result<Node> {
    let clock = Clock::start();
    let metrics = Arc::new(Metrics::default());
    let spool = restore::spool(&options.store)?;
    let (identity_tx, identity_rx) = watch::channel(identity.clone());
    let me = Me { identity: identity_rx.clone(), address: address.clone(), incarnation: Chance::from_entropy().nonzero() };
    let peers = Peers::new(me, spool.clone(), metrics.clone());

    let (log, engine) = blocking({
        let (dir, identity, store) = (options.store.clone(), identity.clone(), store.clone());
        move || {
            let served = store.has_served()?;
            let log = restore::open_log(&dir, Arc::new(disk::Machine), &store)?;
            let mut engine = Engine::open(identity, &store, log.clone(), Chance::from_entropy(), clock.now(), Bounds::default())?;
            if !served {
                engine.begins_anew();
            }
            Ok((log, engine))
        }
    })
    .await?;
    let mut seen: Vec<NodeEntry> = engine.meta().nodes().values().cloned().collect();
    seen.extend(known);

    let (rows_tx, mut rows) = mpsc::channel(limits::NEWS_QUEUE_MAX);
    let (news_tx, mut news) = mpsc::channel(limits::NEWS_QUEUE_MAX);
    let outlets = Outlets {
        peers: {
            let peers = peers.clone();
            Box::new(move |to, messages| peers.send(to, messages))
        },
        rows: rows_tx,
        news: news_tx,
        identity: identity_tx,
    };
    let (driver, handle, failed) = driver::start(engine, store, log.clone(), clock, outlets, metrics.clone())?;
    failpoint(Failpoint::ThreadsStarted);
    peers.connect(handle.clone());
    for node in &seen {
        peers.learn(node.id, &node.address);
    }

    let cluster = Cluster::new(handle.clone(), peers.clone(), identity.topology);
    let parts = Parts::new(identity.node, options.snapshot_store.as_deref(), identity_rx, address.clone(), clock, cluster.clone(), metrics.clone())?;
    let mut tasks = tokio::task::JoinSet::new();
    let (snapshots_tx, snapshots) = mpsc::channel(limits::NEWS_QUEUE_MAX);
    tasks.spawn(parts.clone().run(snapshots));
    tasks.spawn({
        let peers = peers.clone();
        async move {
            while let Some(news) = news.recv().await {
                match news {
                    News::Nodes(nodes) => nodes.iter().for_each(|(id, address)| peers.learn(*id, address)),
                    // The service ends only with this task.
                    News::Snapshot(news) => drop(snapshots_tx.send(*news).await),
                    News::Leader { group, leader } => tracing::debug!(%group, ?leader, "a group's leader"),
                    News::Held(_) | News::Logged { .. } => {}
                }
            }
        }
    });
    tasks.spawn({
        let peers = peers.clone();
        async move {
            while let Some(rows) = rows.recv().await {
                peers.send_rows(rows);
            }
        }
    });
    tasks.spawn({
        let (cluster, entry) = (cluster.clone(), entry(&options, identity.node, identity.lineage, &address));
        async move { cluster.announce_until_known(entry).await }
    });
    if let Some(target) = options.join.clone() {
        tasks.spawn(meet(target, peers.clone()));
    }

    let (stop_server, stopped) = watch::channel(false);
    let pages = Pages { handle: handle.clone(), peers: peers.clone(), parts: parts.clone(), log, metrics: metrics.clone() };
    let doors = doors(&handle, &peers, &cluster, &parts, identity.node, identity.topology, Porter { clock, metrics }, &pages, spool, &mut tasks)?;
    failpoint(Failpoint::DoorsOpening);
    let server = tokio::spawn(serve(porch.leave()?, doors, stopped));
    tracing::info!(node = %identity.node, %address, version = env!("CARGO_PKG_VERSION"), "serving");
    Ok(Node { address, id: identity.node, driver, handle, failed, peers, stop_server, server, tasks, _claim: claim })
}

/// Learns who is at an address that an operator gave, so that nodes find each other again after all addresses have changed.
async fn meet(target: String, peers: Peers) {
    loop {
        if let Ok(status) = peer::status(&target).await {
            return peers.learn(NodeId(status.node_id), &target);
        }
        tokio::time::sleep(limits::PEER_RETRY_MAX).await;
    }
}

#[allow(clippy::too_many_arguments)]
fn doors(
    handle: &Handle,
    peers: &Peers,
    cluster: &Cluster,
    parts: &Parts,
    me: NodeId,
    topology: Topology,
    porter: Porter,
    pages: &Pages,
    spool: PathBuf,
    tasks: &mut tokio::task::JoinSet<()>,
) -> Result<Routes> {
    let kv = KvServiceServer::new(KvDoor { kv: Kv::new(handle.clone(), peers.clone(), topology), porter: porter.clone() });
    let cluster_door = ClusterServiceServer::new(ClusterDoor { cluster: cluster.clone(), me, porter: porter.clone() });
    let snapshots =
        SnapshotServiceServer::new(SnapshotDoor { cluster: cluster.clone(), parts: parts.clone(), peers: peers.clone(), me, porter: porter.clone() });
    let peer_door =
        PeerServiceServer::new(PeerDoor { peers: peers.clone(), handle: handle.clone(), cluster: cluster.clone(), parts: parts.clone(), spool, porter });
    let (health, health_service) = tonic_health::server::health_reporter();
    tasks.spawn(report_health(health, pages.clone()));
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
    let reflection = reflection.build_v1().map_err(|e| Error::unavailable(format!("server reflection: {e}")))?;
    let max = limits::MESSAGE_BYTES_MAX;
    Ok(Routes::from(http::router(pages.clone()))
        .add_service(kv.max_decoding_message_size(max).max_encoding_message_size(max))
        .add_service(cluster_door.max_decoding_message_size(max).max_encoding_message_size(max))
        .add_service(snapshots.max_decoding_message_size(max).max_encoding_message_size(max))
        .add_service(peer_door.max_decoding_message_size(limits::PEER_MESSAGE_BYTES_MAX).max_encoding_message_size(limits::PEER_MESSAGE_BYTES_MAX))
        .add_service(health_service)
        .add_service(reflection))
}

/// Keeps `grpc.health.v1` at what `/readyz` says, overall and for every public service.
async fn report_health(health: tonic_health::server::HealthReporter, pages: Pages) {
    use tonic_health::ServingStatus::{NotServing, Serving};
    const SERVICES: [&str; 4] = ["", "devicedb.v1.KvService", "devicedb.v1.ClusterService", "devicedb.v1.SnapshotService"];
    loop {
        let status = if pages.unready().await.is_none() { Serving } else { NotServing };
        for service in SERVICES {
            health.set_service_status(service, status).await;
        }
        tokio::time::sleep(limits::HEALTH_EVERY).await;
    }
}

/// The builder's own `tcp_nodelay` holds only for listeners that it binds itself; without it, an answer of several writes waits for a delayed ACK.
async fn serve(listener: TcpListener, doors: Routes, mut stopped: watch::Receiver<bool>) -> Result<(), tonic::transport::Error> {
    tonic::transport::Server::builder()
        .accept_http1(true)
        .max_concurrent_streams(limits::CONCURRENT_STREAMS_MAX)
        .http2_max_pending_accept_reset_streams(Some(limits::RESET_STREAMS_MAX))
        .http2_max_header_list_size(limits::HEADER_LIST_BYTES_MAX)
        .http2_keepalive_interval(Some(limits::KEEPALIVE_EVERY))
        .http2_keepalive_timeout(Some(limits::KEEPALIVE_ANSWER))
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(16 << 20)
        .add_routes(doors)
        .serve_with_incoming_shutdown(cork::incoming(listener), async move {
            // A sender that is gone stops the server as well.
            let _ = stopped.wait_for(|s| *s).await;
        })
        .await
}
