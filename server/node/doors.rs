//! The one port: every service of the contract, of peers, and of HTTP behind it, from the moment at
//! which the node can serve until it stops.

use std::{path::PathBuf, time::Duration};

use tokio::sync::{oneshot, watch};
use tonic::{body::Body, service::Routes};
use tower::util::MapResponseLayer;

use super::services::Services;
use crate::{
    base::{
        clock::Random,
        crew::{Crew, Role},
        error::{Error, Result},
        limits,
    },
    net::acceptor::Incoming,
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
        AccessApi, Calls, ClusterApi, Gate, Json, KvApi, OperationApi, PeerApi, ScheduleApi,
        SnapshotApi, Threshold,
        http::{self, Pages},
        reflection,
    },
    service::{admin::Cluster, inventory::Inventory, kv::Kv, readers::Readers},
};

/// What peers alone ask for.
pub struct ForPeers {
    /// Where rows that come are kept until they are in place.
    pub spool: PathBuf,
    /// The plan by which this node began together with others.
    pub plan: Option<SeedPlan>,
}

/// Doors that are open.
pub struct Doors {
    /// Closes them.
    pub stop: watch::Sender<bool>,
    /// Ends with the last request.
    pub ended: oneshot::Receiver<()>,
}

impl Doors {
    /// Serves whoever comes in. Should that end by itself, the node fails.
    pub fn open(
        routes: Routes,
        incoming: Incoming,
        readers: Readers,
        (threshold, json): (Threshold, Json),
        over_tls: bool,
        crew: &Crew,
    ) -> Doors {
        let (stop, stopped) = watch::channel(false);
        let (ends, ended) = oneshot::channel();
        let age = over_tls.then(connection_age);
        crew.spawn(Role::Doors, {
            let crew = crew.clone();
            async move {
                if let Err(e) =
                    serve(incoming, routes, readers, (threshold, json), age, stopped).await
                {
                    let closed = Error::unavailable(format!("the doors have closed: {e}"));
                    crew.fail(closed.with_source(e));
                }
                drop(ends);
            }
        });
        Doors { stop, ended }
    }
}

/// Which call is answered by whom.
pub fn routes(
    services: &Services,
    for_peers: ForPeers,
    calls: &Calls,
    pages: Pages,
) -> Result<Routes> {
    let Services { me, topology, handle, peers, cluster, parts, uploads, schedules, readers } =
        services.clone();
    let calls = || calls.clone();
    let inventory = Inventory {
        cluster: cluster.clone(),
        parts: parts.clone(),
        peers: peers.clone(),
        clock: calls().clock,
    };
    let kv = KvServiceServer::new(KvApi {
        kv: Kv::new(handle.clone(), peers.clone(), topology),
        readers: readers.clone(),
        calls: calls(),
    });
    let operations =
        OperationServiceServer::new(OperationApi { cluster: cluster.clone(), calls: calls() });
    let access = AccessServiceServer::new(AccessApi { cluster: cluster.clone(), calls: calls() });
    let schedules = ScheduleServiceServer::new(ScheduleApi { schedules, calls: calls() });
    let snapshots = SnapshotServiceServer::new(SnapshotApi {
        cluster: cluster.clone(),
        parts: parts.clone(),
        inventory: inventory.clone(),
        uploads: uploads.clone(),
        peers: peers.clone(),
        me,
        readers,
        calls: calls(),
    });
    let gate = Gate::of(peers.me().identity.clone());
    let (health, health_service) = tonic_health::server::health_reporter();
    calls().crew.spawn(Role::Health, report_health(health, cluster.clone()));
    let cluster_door =
        ClusterServiceServer::new(ClusterApi { cluster: cluster.clone(), me, calls: calls() });
    let ForPeers { spool, plan } = for_peers;
    let peer_door = PeerServiceServer::new(PeerApi {
        peers,
        handle,
        cluster,
        parts,
        inventory,
        uploads,
        spool,
        plan,
        calls: calls(),
    });
    let max = limits::MESSAGE_BYTES_MAX;
    Ok(Routes::from(http::router(pages))
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
    (threshold, json): (Threshold, Json),
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
        .layer(json)
        .layer(threshold)
        .layer(MapResponseLayer::new(move |response| readers.watch(response).map(Body::new)))
        .add_routes(doors)
        .serve_with_incoming_shutdown(incoming, async move {
            // A sender that is gone stops the server as well.
            let _ = stopped.wait_for(|s| *s).await;
        })
        .await
}
