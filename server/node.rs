//! A node: builds what stands above, wires it, starts it, and stops it in the reverse order.
//!
//! `boot::arrival` decides where the store comes from. A start takes the port before it changes
//! anything on disk; until the services are ready, a `StartingServer` answers there.

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    net::TcpListener,
    sync::{Notify, mpsc, oneshot, watch},
};
use tonic::{body::Body, service::Routes};
use tower::util::MapResponseLayer;

use crate::{
    base::{
        clock::{Clock, Random},
        crew::{self, Crew, Role},
        disk,
        error::{Error, Result},
        ids::{NodeId, Topology},
        limits,
        metrics::Metrics,
        pace::Paced,
        space::Space,
    },
    boot::{
        arrival::{self, Arrival, Arrived, blocking},
        restore::{self, plan::Plan},
        starting::StartingServer,
    },
    cluster::{Node as NodeEntry, Removed},
    engine::{
        Bounds, Engine, Input, News,
        driver::{self, Driver, Handle, Outlets},
    },
    faults::failpoint::{Failpoint, failpoint},
    net::{
        Arrivals, Dialler, Me, Peers,
        acceptor::{self, Guests, Incoming},
        tls::Tls,
    },
    part::seal::kept,
    proto::{
        internal::v1::{SeedPlan, peer_service_server::PeerServiceServer},
        v1::{
            access_service_server::AccessServiceServer,
            cluster_service_server::ClusterServiceServer, kv_service_server::KvServiceServer,
            operation_service_server::OperationServiceServer,
            schedule_service_server::ScheduleServiceServer,
            snapshot_service_server::SnapshotServiceServer,
        },
    },
    rpc::{
        Access, AccessApi, Audit, Calls, ClusterApi, Gate, KvApi, OperationApi, PeerApi, Quotas,
        ScheduleApi, SnapshotApi, Threshold,
        http::{self, Pages},
        reflection,
    },
    service::{
        admin::Cluster,
        inventory::Inventory,
        kv::Kv,
        parts::{self, Directories, Parts},
        readers::Readers,
        schedules::Schedules,
        uploads::Uploads,
    },
    store::Claim,
};

pub use crate::boot::arrival::Options;

/// What a node stands on before it has a store.
struct Ground {
    clock: Clock,
    metrics: Arc<Metrics>,
    crew: Crew,
    guests: Guests,
    tls: Option<Tls>,
    threshold: Threshold,
}

impl Ground {
    fn new(options: &Options) -> Result<Ground> {
        let setup = &options.tls;
        let (clock, metrics) = (Clock::start(), Arc::new(Metrics::default()));
        let open = |files| Tls::open(setup.mode(), files, clock, metrics.clone());
        let tls = setup.files()?.map(open).transpose()?;
        let files = acceptor::open_files();
        let connections = acceptor::connections_of(files);
        tracing::debug!(
            files,
            connections,
            "what this process may open, and how many connections that leaves room for"
        );
        let guests = Guests::new(connections, clock, metrics.clone(), tls.clone());
        let access = Access::new(clock, options.admins.clone());
        let crew = Crew::default();
        let audit = match &options.audit_log {
            None => Audit::default(),
            Some(dir) => Audit::open(dir, clock, metrics.clone(), &crew)?,
        };
        let quotas = Quotas::new(options.quotas, clock, metrics.clone());
        let threshold = Threshold { access, audit, quotas };
        Ok(Ground { clock, metrics, crew, guests, tls, threshold })
    }
}

/// A running node.
pub struct Node {
    pub address: String,
    pub id: NodeId,
    driver: Driver,
    handle: Handle,
    crew: Crew,
    peers: Peers,
    stop_server: watch::Sender<bool>,
    /// Ends with the server.
    server: oneshot::Receiver<()>,
    _claim: Claim,
}

impl Node {
    /// `asked` changes when somebody wants the certificates to be read again.
    pub async fn start(options: Options, asked: watch::Receiver<u64>) -> Result<Node> {
        options.check()?;
        let ground = Ground::new(&options)?;
        let listener = TcpListener::bind(options.listen).await.map_err(|e| {
            Error::unavailable(format!("cannot listen on {}: {e}", options.listen)).with_source(e)
        })?;
        let listen = listener.local_addr().map_err(|e| {
            Error::unavailable(format!("cannot listen on {}: {e}", options.listen)).with_source(e)
        })?;
        failpoint(Failpoint::PortBound);
        let address = options.advertise.clone().unwrap_or_else(|| listen.to_string());
        let claim = Claim::on(&options.store)?;
        failpoint(Failpoint::StoreClaimed);
        if let Some(tls) = ground.tls.clone() {
            ground.crew.spawn(Role::Certificates, tls.keep_fresh(asked));
        }
        ground.crew.spawn(Role::Certificates, ground.guests.clone().tell_plain_callers());
        let dialler = Dialler::new(ground.tls.clone());
        let porch = StartingServer::open(
            listener,
            &address,
            &ground.guests,
            &ground.threshold,
            &ground.crew,
        )?;
        let incarnation = Random::from_entropy().nonzero();
        let started = async {
            let arrival = Arrival {
                options: &options,
                address: &address,
                incarnation,
                porch: &porch,
                dialler: &dialler,
            };
            let arrived = arrival.prepare().await?;
            let me = (address.clone(), incarnation, dialler.clone());
            run(&options, &ground, porch, me, claim, arrived).await
        };
        tokio::select! { started = started => started, e = ground.crew.failed() => Err(e) }
    }

    /// Waits until the node fails by itself. Its reason.
    pub async fn failed(&self) -> Error {
        self.crew.failed().await
    }

    /// Waits until the node has left its cluster, as it was told to.
    pub async fn departed(&self) {
        self.crew.departed().await
    }

    /// Hands leadership to others, for as long as `limits::RESIGN` at the most, so that nobody has
    /// to wait for an election.
    async fn resign(&self) {
        let resigned = async {
            self.handle.input(Input::Resign)?;
            while self
                .handle
                .look(false, limits::RESIGN, |s| s.led().any(|(_, m)| m.voters.len() > 1))
                .await?
            {
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
        self.crew.stop().await;
        self.peers.stop();
        let driver = self.driver;
        crew::blocking(Role::Stop, move || driver.stop()).await
    }
}

async fn run(
    options: &Options,
    ground: &Ground,
    porch: StartingServer,
    (address, incarnation, dialler): (String, u64, Dialler),
    claim: Claim,
    arrived: Arrived,
) -> Result<Node> {
    let Arrived { store, identity, known } = arrived;
    let Ground { clock, metrics, crew, guests, tls, threshold } = ground;
    let Threshold { access, audit, .. } = &threshold;
    let clock = *clock;
    let shelf = match options.snapshot_store.clone() {
        None => None,
        Some(dir) => {
            let (store, identity, address) =
                (options.store.clone(), identity.clone(), address.clone());
            Some(
                crew::blocking(Role::Start, move || {
                    parts::open_shelf(&store, &dir, &identity, &address).map(|shelf| (dir, shelf))
                })
                .await?,
            )
        }
    };
    let sealing = blocking({
        let (dir, recipients) = (options.store.clone(), options.seal_to.clone());
        move || kept::seal(&dir, &recipients)
    })
    .await?;
    let spool = restore::spool(&options.store)?;
    let plan = blocking({
        let dir = options.store.clone();
        // Nobody but those that have not begun needs it.
        move || Ok(Plan::kept(&dir).inspect_err(|e| tracing::warn!(error = %e)).ok().flatten())
    })
    .await?;
    let plan = plan.map(|plan| plan.record());
    let (identity_tx, identity_rx) = watch::channel(identity.clone());
    let me = Me { identity: identity_rx.clone(), address: address.clone(), incarnation, dialler };
    let pace = Paced::new(options.move_rate, clock);
    let peers = Peers::new(me, spool.clone(), pace, metrics.clone(), crew.clone());

    let (log, engine) = blocking({
        let (dir, identity, store) = (options.store.clone(), identity.clone(), store.clone());
        move || {
            let served = store.has_served()?;
            let log = restore::open_log(&dir, Arc::new(disk::Machine), &store)?;
            let mut engine = Engine::open(
                identity,
                &store,
                log.clone(),
                Random::from_entropy(),
                clock.now(),
                Bounds::default(),
            )?;
            if !served {
                engine.begins_anew();
            }
            Ok((log, engine))
        }
    })
    .await?;
    let mut seen: Vec<NodeEntry> = engine.meta().nodes().values().cloned().collect();
    seen.extend(known);
    access.granted(engine.meta().access().clone(), engine.meta().settings().lineage);
    let removed: Vec<NodeId> = engine.meta().removed().keys().copied().collect();
    if removed.contains(&identity.node) {
        return Err(Error::conflict(Removed::refusal(identity.node)));
    }

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
    let (driver, handle) =
        driver::start(engine, store, log.clone(), clock, outlets, metrics.clone(), crew)?;
    failpoint(Failpoint::ThreadsStarted);
    peers.connect(handle.clone());
    removed.iter().for_each(|node| peers.remove(*node));
    for node in &seen {
        peers.listed(node.id, &node.address);
    }

    let arrivals = Arrivals::new(options.move_rate, clock);
    let cluster = Cluster::new(
        handle.clone(),
        peers.clone(),
        arrivals,
        identity.topology,
        options.store.clone(),
    );
    let directories = Directories { store: options.store.clone(), snapshot_store: shelf, sealing };
    let parts = Parts::new(
        identity.node,
        directories,
        identity_rx,
        address.clone(),
        clock,
        cluster.clone(),
        metrics.clone(),
        crew.clone(),
    );
    let uploads = Uploads::new(
        options.repository.clone(),
        cluster.clone(),
        parts.clone(),
        peers.clone(),
        clock,
        metrics.clone(),
        crew.clone(),
    );
    crew.spawn(Role::Repository, uploads.clone().watch());
    let schedules =
        Schedules::new(cluster.clone(), uploads.clone(), clock, metrics.clone(), crew.clone());
    crew.spawn(Role::Schedules, schedules.clone().tend());
    crew.spawn(Role::Disk, watch_disk("store", options.store.clone(), metrics.clone()));
    if let Some(dir) = options.snapshot_store.clone() {
        crew.spawn(Role::Disk, watch_disk("snapshot_store", dir, metrics.clone()));
    }
    let (snapshots_tx, snapshots) = mpsc::channel(limits::NEWS_QUEUE_MAX);
    crew.spawn(Role::Parts, parts.clone().run(snapshots));
    let departs = Arc::new(Notify::new());
    crew.spawn(Role::News, {
        let (peers, departs, me) = (peers.clone(), departs.clone(), identity.node);
        let access = access.clone();
        async move {
            while let Some(news) = news.recv().await {
                match news {
                    News::Nodes(nodes) => {
                        nodes.iter().for_each(|(id, address)| peers.listed(*id, address))
                    }
                    News::Removed(nodes) if nodes.contains(&me) => peers.is_out(),
                    News::Access(granted, lineage) => access.granted(*granted, lineage),
                    News::Departs => departs.notify_one(),
                    News::Removed(nodes) => nodes.iter().for_each(|id| peers.remove(*id)),
                    // The service ends only with this task.
                    News::Snapshot(news) => drop(snapshots_tx.send(*news).await),
                    News::Leader { group, leader } => {
                        tracing::debug!(%group, ?leader, "a group's leader")
                    }
                    News::Held(_)
                    | News::Logged { .. }
                    | News::Refused { .. }
                    | News::Ended { .. }
                    | News::Skipped { .. } => {}
                }
            }
        }
    });
    crew.spawn(Role::Rows, {
        let peers = peers.clone();
        async move {
            while let Some(rows) = rows.recv().await {
                peers.send_rows(rows);
            }
        }
    });
    crew.spawn(Role::Announce, access.clone().become_current(cluster.clone()));
    crew.spawn(Role::Announce, {
        let (cluster, entry) =
            (cluster.clone(), arrival::entry(options, identity.node, identity.lineage, &address));
        async move { cluster.announce_until_known(entry).await }
    });
    crew.spawn(Role::Announce, {
        let cluster = cluster.clone();
        async move {
            loop {
                departs.notified().await;
                cluster.depart().await;
            }
        }
    });
    crew.spawn(Role::Operations, {
        let cluster = cluster.clone();
        async move { cluster.tend_operations().await }
    });
    for target in options.join.clone() {
        let peers = peers.clone();
        crew.spawn(Role::Meet, async move { peers.meet(target).await });
    }

    let (stop_server, stopped) = watch::channel(false);
    let readers = Readers::new(clock);
    crew.spawn(Role::Readers, readers.clone().run());
    let pages = Pages {
        handle: handle.clone(),
        cluster: cluster.clone(),
        parts: parts.clone(),
        log,
        metrics: metrics.clone(),
    };
    let calls = Calls { clock, metrics: metrics.clone(), crew: crew.clone(), audit: audit.clone() };
    let doors = doors(
        &handle,
        &peers,
        &cluster,
        &parts,
        (&uploads, schedules),
        &readers,
        identity.node,
        identity.topology,
        calls,
        &pages,
        spool,
        plan,
    )?;
    failpoint(Failpoint::DoorsOpening);
    let (ends, server) = oneshot::channel();
    crew.spawn(Role::Doors, {
        let crew = crew.clone();
        let threshold = threshold.clone();
        let incoming = guests.incoming(porch.leave()?);
        let age = tls.is_some().then(connection_age);
        async move {
            if let Err(e) = serve(incoming, doors, readers, threshold, age, stopped).await {
                crew.fail(Error::unavailable(format!("the doors have closed: {e}")).with_source(e));
            }
            drop(ends);
        }
    });
    tracing::info!(node = %identity.node, %address, version = env!("CARGO_PKG_VERSION"), "serving");
    Ok(Node {
        address,
        id: identity.node,
        driver,
        handle,
        crew: crew.clone(),
        peers,
        stop_server,
        server,
        _claim: claim,
    })
}

/// Says for `/metrics` what is free where a directory lies, and in the log when that comes to its
/// floor. Each has its own task: a disk that does not answer holds up nothing else.
async fn watch_disk(what: &'static str, dir: PathBuf, metrics: Arc<Metrics>) {
    let mut low = false;
    loop {
        let looked = dir.clone();
        if let Ok(space) = crew::blocking(Role::DiskLook, move || Space::of(&looked)).await {
            let (Space { free, .. }, floor) = (space, space.floor());
            metrics.disk(what, free, floor);
            if low != (free < floor) {
                low = !low;
                match low {
                    true => {
                        tracing::warn!(
                            what,
                            dir = %dir.display(),
                            free,
                            floor,
                            "a disk is nearly full: no parts and no rows for others are written to \
                             it",
                        )
                    }
                    false => {
                        tracing::info!(
                            what,
                            dir = %dir.display(),
                            free,
                            floor,
                            "a disk has room again",
                        )
                    }
                }
            }
        }
        tokio::time::sleep(limits::DISK_LOOK_EVERY).await;
    }
}

#[allow(clippy::too_many_arguments)]
fn doors(
    handle: &Handle,
    peers: &Peers,
    cluster: &Cluster,
    parts: &Parts,
    (uploads, schedules): (&Uploads, Schedules),
    readers: &Readers,
    me: NodeId,
    topology: Topology,
    calls: Calls,
    pages: &Pages,
    spool: PathBuf,
    plan: Option<SeedPlan>,
) -> Result<Routes> {
    let crew = calls.crew.clone();
    let kv = Kv::new(handle.clone(), peers.clone(), topology);
    let kv = KvServiceServer::new(KvApi { kv, readers: readers.clone(), calls: calls.clone() });
    let cluster_door = ClusterServiceServer::new(ClusterApi {
        cluster: cluster.clone(),
        me,
        calls: calls.clone(),
    });
    let operations = OperationServiceServer::new(OperationApi {
        cluster: cluster.clone(),
        calls: calls.clone(),
    });
    let schedules = ScheduleServiceServer::new(ScheduleApi { schedules, calls: calls.clone() });
    let access =
        AccessServiceServer::new(AccessApi { cluster: cluster.clone(), calls: calls.clone() });
    let inventory = Inventory {
        cluster: cluster.clone(),
        parts: parts.clone(),
        peers: peers.clone(),
        clock: calls.clock,
    };
    let snapshots = SnapshotServiceServer::new(SnapshotApi {
        cluster: cluster.clone(),
        parts: parts.clone(),
        inventory: inventory.clone(),
        uploads: uploads.clone(),
        peers: peers.clone(),
        me,
        readers: readers.clone(),
        calls: calls.clone(),
    });
    let peer_door = PeerServiceServer::new(PeerApi {
        peers: peers.clone(),
        handle: handle.clone(),
        cluster: cluster.clone(),
        parts: parts.clone(),
        inventory,
        uploads: uploads.clone(),
        spool,
        plan,
        calls,
    });
    let gate = Gate::of(peers.me().identity.clone());
    let (health, health_service) = tonic_health::server::health_reporter();
    crew.spawn(Role::Health, report_health(health, cluster.clone()));
    let max = limits::MESSAGE_BYTES_MAX;
    Ok(Routes::from(http::router(pages.clone()))
        .add_service(gate.before(kv.max_decoding_message_size(max).max_encoding_message_size(max)))
        .add_service(
            gate.before(cluster_door.max_decoding_message_size(max).max_encoding_message_size(max)),
        )
        .add_service(
            gate.before(operations.max_decoding_message_size(max).max_encoding_message_size(max)),
        )
        .add_service(
            gate.before(access.max_decoding_message_size(max).max_encoding_message_size(max)),
        )
        .add_service(
            gate.before(schedules.max_decoding_message_size(max).max_encoding_message_size(max)),
        )
        .add_service(
            gate.before(snapshots.max_decoding_message_size(max).max_encoding_message_size(max)),
        )
        .add_service(
            peer_door
                .max_decoding_message_size(limits::PEER_MESSAGE_BYTES_MAX)
                .max_encoding_message_size(limits::PEER_MESSAGE_BYTES_MAX),
        )
        .add_service(health_service)
        .add_service(reflection::current()?)
        .add_service(reflection::older()?))
}

/// Keeps `grpc.health.v1` at what `/readyz` says, overall and for every public service.
async fn report_health(health: tonic_health::server::HealthReporter, cluster: Cluster) {
    use tonic_health::ServingStatus::{NotServing, Serving};
    const SERVICES: [&str; 7] = [
        "",
        "devicedb.v1.AccessService",
        "devicedb.v1.KvService",
        "devicedb.v1.ClusterService",
        "devicedb.v1.OperationService",
        "devicedb.v1.ScheduleService",
        "devicedb.v1.SnapshotService",
    ];
    loop {
        let status = if cluster.unready().await.is_none() { Serving } else { NotServing };
        for service in SERVICES {
            health.set_service_status(service, status).await;
        }
        tokio::time::sleep(limits::HEALTH_EVERY).await;
    }
}

/// After how long this node asks for another connection.
fn connection_age() -> Duration {
    let jitter = limits::CONNECTION_AGE_JITTER.as_millis() as u64;
    limits::CONNECTION_AGE + Duration::from_millis(Random::from_entropy().below(jitter))
}

async fn serve(
    incoming: Incoming,
    doors: Routes,
    readers: Readers,
    threshold: Threshold,
    age: Option<Duration>,
    mut stopped: watch::Receiver<bool>,
) -> Result<(), tonic::transport::Error> {
    let mut server = tonic::transport::Server::builder();
    if let Some(age) = age {
        server = server.max_connection_age(age);
    }
    server
        .accept_http1(true)
        .max_concurrent_streams(limits::CONCURRENT_STREAMS_MAX)
        .http2_max_pending_accept_reset_streams(Some(limits::RESET_STREAMS_MAX))
        .http2_max_header_list_size(limits::HEADER_LIST_BYTES_MAX)
        .http2_keepalive_interval(Some(limits::KEEPALIVE_EVERY))
        .http2_keepalive_timeout(Some(limits::KEEPALIVE_ANSWER))
        .initial_stream_window_size(limits::CLIENT_STREAM_WINDOW)
        .initial_connection_window_size(limits::CLIENT_CONNECTION_WINDOW)
        .layer(threshold)
        .layer(MapResponseLayer::new(move |response| readers.watch(response).map(Body::new)))
        .add_routes(doors)
        .serve_with_incoming_shutdown(incoming, async move {
            // A sender that is gone stops the server as well.
            let _ = stopped.wait_for(|s| *s).await;
        })
        .await
}
