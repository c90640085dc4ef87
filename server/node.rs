//! A node: builds what stands above, wires it, starts it, and stops it in the reverse order.
//!
//! `boot::arrival` decides where the store comes from. A start takes the port before it changes
//! anything on disk; until the services are ready, a `StartingServer` answers there.

mod services;
mod duties;
mod doors;
mod supervision;

use std::sync::Arc;

use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
};

use self::{
    doors::{Doors, ForPeers},
    duties::Heard,
    services::Services,
};

use crate::{
    base::{
        clock::{Clock, Random},
        crew::{self, Crew, Role},
        disk,
        error::{Error, Result},
        ids::NodeId,
        limits,
        metrics::Metrics,
        pace::Paced,
    },
    boot::{
        arrival::{self, Arrival, Arrived, blocking},
        restore::{self, plan::Plan},
        starting::StartingServer,
    },
    cluster::{Node as NodeEntry, Removed},
    engine::{
        Bounds, Engine, Input,
        driver::{self, Driver, Handle, Outlets},
    },
    entry::Identity,
    faults::failpoint::{Failpoint, failpoint},
    log::Log,
    net::{
        Dialler, Me, Peers,
        acceptor::{self, Guests},
        spans::Traces,
        tls::Tls,
    },
    part::seal::kept,
    proto::internal::v1::SeedPlan,
    rpc::{Access, Audit, Calls, Json, Quotas, Threshold, http::Pages},
    service::parts::{self, Directories},
    store::{Claim, Store},
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
    doors: Doors,
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
        ground.crew.spawn(Role::Manager, supervision::starting(porch.doing()));
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
            assemble(&options, &ground, porch, me, claim, arrived).await
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
        supervision::stopping();
        self.resign().await;
        self.doors.stop.send_replace(true);
        // Streams that do not end by themselves are cut off.
        let _ = tokio::time::timeout(limits::STOP_GRACE, &mut self.doors.ended).await;
        self.crew.stop().await;
        self.peers.stop();
        let driver = self.driver;
        crew::blocking(Role::Stop, move || driver.stop()).await
    }
}

/// Builds a node from its store upwards, and lets whoever waits at its port in.
async fn assemble(
    options: &Options,
    ground: &Ground,
    porch: StartingServer,
    (address, incarnation, dialler): (String, u64, Dialler),
    claim: Claim,
    arrived: Arrived,
) -> Result<Node> {
    let Arrived { store, identity, known } = arrived;
    let Ground { clock, metrics, crew, guests, tls, threshold } = ground;
    let clock = *clock;

    // What lies in its directories.
    let directories = open_directories(options, &identity, &address).await?;
    let for_peers = ForPeers { spool: restore::spool(&options.store)?, plan: plan(options).await? };
    let (log, engine) = open_engine(options, &identity, &store, clock).await?;
    let removed: Vec<NodeId> = engine.meta().removed().keys().copied().collect();
    if removed.contains(&identity.node) {
        return Err(Error::conflict(Removed::refusal(identity.node)));
    }
    let access = &threshold.access;
    access.granted(engine.meta().access().clone(), engine.meta().settings().lineage);

    // The engine, and those that it speaks to.
    let (identity_tx, identity_rx) = watch::channel(identity.clone());
    let me = Me { identity: identity_rx.clone(), address: address.clone(), incarnation, dialler };
    let pace = Paced::new(options.move_rate, clock);
    let peers = Peers::new(me, for_peers.spool.clone(), pace, metrics.clone(), crew.clone());
    let seen: Vec<NodeEntry> = engine.meta().nodes().values().cloned().chain(known).collect();
    let (outlets, heard) = outlets(&peers, identity_tx);
    let (driver, handle) =
        driver::start(engine, store, log.clone(), clock, outlets, metrics.clone(), crew)?;
    failpoint(Failpoint::ThreadsStarted);
    peers.connect(handle.clone());
    removed.iter().for_each(|node| peers.remove(*node));
    seen.iter().for_each(|node| peers.listed(node.id, &node.address));

    // What it offers, and what it does by itself.
    let traces = match &options.collector {
        None => Traces::default(),
        Some(collector) => Traces::to(collector, &identity, (clock, metrics, crew))?,
    };
    let services = Services::new(
        options,
        identity_rx,
        directories,
        (handle.clone(), peers.clone()),
        (clock, metrics, crew, &traces),
    );
    let entry = arrival::entry(options, identity.node, identity.lineage, &address);
    duties::begin(options, &services, access, entry, heard, (metrics, crew));

    // Its port.
    let pages = Pages {
        handle: handle.clone(),
        cluster: services.cluster.clone(),
        parts: services.parts.clone(),
        log,
        metrics: metrics.clone(),
    };
    let audit = threshold.audit.clone();
    let calls = Calls { clock, metrics: metrics.clone(), crew: crew.clone(), audit, traces };
    let routes = doors::routes(&services, for_peers, &calls, pages)?;
    failpoint(Failpoint::DoorsOpening);
    let incoming = guests.incoming(porch.leave()?);
    let (readers, before) = (services.readers, (threshold.clone(), Json::new(&address)?));
    let doors = Doors::open(routes, incoming, readers, before, tls.is_some(), crew);
    tracing::info!(node = %identity.node, %address, version = env!("CARGO_PKG_VERSION"), "serving");
    let words = format!("serving at {address} as node {}", identity.node);
    crew.spawn(Role::Manager, supervision::serving(handle.clone(), words));
    let (id, crew) = (identity.node, crew.clone());
    Ok(Node { address, id, driver, handle, crew, peers, doors, _claim: claim })
}

/// The snapshot store, where there is one, and how parts are sealed.
async fn open_directories(
    options: &Options,
    identity: &Identity,
    address: &str,
) -> Result<Directories> {
    let store = options.store.clone();
    let snapshot_store = match options.snapshot_store.clone() {
        None => None,
        Some(dir) => {
            let (store, identity, address) = (store.clone(), identity.clone(), address.to_owned());
            let open =
                move || parts::open_shelf(&store, &dir, &identity, &address).map(|it| (dir, it));
            Some(crew::blocking(Role::Start, open).await?)
        }
    };
    let (dir, recipients) = (store.clone(), options.seal_to.clone());
    let sealing = blocking(move || kept::seal(&dir, &recipients)).await?;
    Ok(Directories { store, snapshot_store, sealing })
}

/// The plan by which this node began together with others, if it did. Nobody but those that have
/// not begun needs it.
async fn plan(options: &Options) -> Result<Option<SeedPlan>> {
    let dir = options.store.clone();
    let read =
        move || Ok(Plan::kept(&dir).inspect_err(|e| tracing::warn!(error = %e)).ok().flatten());
    Ok(blocking(read).await?.map(|plan| plan.record()))
}

async fn open_engine(
    options: &Options,
    identity: &Identity,
    store: &Store,
    clock: Clock,
) -> Result<(Log, Engine)> {
    let (dir, identity, store) = (options.store.clone(), identity.clone(), store.clone());
    blocking(move || {
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
    })
    .await
}

/// Where the engine's words go, and what the node hears of them.
fn outlets(peers: &Peers, identity: watch::Sender<Identity>) -> (Outlets, Heard) {
    let (rows_tx, rows) = mpsc::channel(limits::NEWS_QUEUE_MAX);
    let (news_tx, news) = mpsc::channel(limits::NEWS_QUEUE_MAX);
    let peers = peers.clone();
    let outlets = Outlets {
        peers: Box::new(move |to, messages| peers.send(to, messages)),
        rows: rows_tx,
        news: news_tx,
        identity,
    };
    (outlets, Heard { news, rows })
}
