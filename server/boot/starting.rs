//! What a node answers while it joins, restores a part or opens its store: that it lives, that it
//! is not ready, and why.
//!
//! It listens on the node's own port until the services are ready. Then it finishes the requests
//! that it has begun and closes connections, so that clients come back to the services. A node that
//! waits for a cluster says who it is, promises, and can be told to found; one that founds together
//! with others takes them in; any other gRPC call gets UNAVAILABLE with the reason, which clients
//! retry. The reason that peers get leaves out what other nodes have told this one: two nodes that
//! wait for each other would make it longer each round. Nor does it say how far a restore is, which
//! would be news for their logs each time.

use std::sync::{Arc, OnceLock};

use axum::{
    Router,
    extract::{Request, State},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::{net::TcpListener, sync::watch};
use tonic::{server::Grpc, service::Routes};

use crate::{
    base::{
        crew::{self, Crew, Role},
        error::{Context, Error, Result},
        limits,
    },
    boot::{gathering::Gathering, waiting::Waiting},
    entry::Identity,
    net::acceptor::{Guests, Place},
    proto::{
        CLUSTER_HEADER, Codec,
        internal::v1::{
            FoundClusterRequest, FoundClusterResponse, IntroduceRequest, JoinRequest,
            PromiseFoundingRequest, PromiseFoundingResponse,
        },
        v1::{
            GetIdentityRequest, GetIdentityResponse, InitClusterRequest, InitClusterResponse,
            NodeState,
        },
    },
    rpc::{self, Audit, Subject, Threshold},
    wire::{self, public},
};

/// The answering machine. It stops listening when it is dropped.
pub struct StartingServer {
    doing: watch::Sender<Doing>,
    guest: Arc<OnceLock<Arc<Waiting>>>,
    host: Arc<OnceLock<Arc<Gathering>>>,
    listener: std::net::TcpListener,
    stop: watch::Sender<bool>,
}

impl StartingServer {
    /// `address` is where others reach the node.
    pub fn open(
        listener: TcpListener,
        address: &str,
        guests: &Guests,
        threshold: &Threshold,
        crew: &Crew,
    ) -> Result<StartingServer> {
        let listener = listener.into_std().at("the listening socket")?;
        let again = TcpListener::from_std(listener.try_clone().at("the listening socket")?)
            .at("the listening socket")?;
        let begin =
            Doing { state: NodeState::Opening, words: "starting".to_owned(), identity: None };
        let (doing, done) = watch::channel(begin);
        let (stop, mut stopped) = watch::channel(false);
        let (guest, host) = <(Arc<OnceLock<_>>, Arc<OnceLock<_>>)>::default();
        let inside = Inside {
            doing: done,
            guest: guest.clone(),
            host: host.clone(),
            address: address.into(),
            audit: threshold.audit.clone(),
        };
        let pages = Router::new()
            .route("/healthz", get(|| async { "ok\n" }))
            .fallback(answer)
            .with_state(inside);
        let server = tonic::transport::Server::builder()
            .accept_http1(true)
            .max_concurrent_streams(limits::CONCURRENT_STREAMS_MAX)
            .http2_max_pending_accept_reset_streams(Some(limits::RESET_STREAMS_MAX))
            .http2_max_header_list_size(limits::HEADER_LIST_BYTES_MAX)
            .layer(threshold.clone())
            .add_routes(Routes::from(pages))
            .serve_with_incoming_shutdown(guests.incoming(again), async move {
                // A sender that is gone stops the server as well.
                let _ = stopped.wait_for(|s| *s).await;
            });
        crew.spawn(Role::StartingServer, {
            let crew = crew.clone();
            async move {
                if let Err(e) = server.await {
                    crew.fail(
                        Error::unavailable(format!("the porch has closed: {e}")).with_source(e),
                    );
                }
            }
        });
        Ok(StartingServer { doing, guest, host, listener, stop })
    }

    /// Says what the node is doing, for those who ask why it is not ready.
    pub fn say(&self, state: NodeState, words: impl Into<String>) {
        say(&self.doing, state, words.into());
    }

    /// The same, from a thread that works on it.
    pub fn teller(&self) -> impl Fn(NodeState, String) + Send + 'static {
        let doing = self.doing.clone();
        move |state, words| say(&doing, state, words)
    }

    /// What the node is doing, until it serves.
    pub fn doing(&self) -> watch::Receiver<Doing> {
        self.doing.subscribe()
    }

    /// Says from now on which cluster the node belongs to.
    pub fn belongs(&self, identity: &Identity) {
        self.doing.send_modify(|doing| doing.identity = Some(identity.clone()));
    }

    /// Lets a node that waits for a cluster answer for itself from now on.
    pub fn seat(&self, waiting: Arc<Waiting>) {
        // A start waits once.
        let _ = self.guest.set(waiting);
    }

    /// Lets nodes come that are to begin a cluster together with this one, which founds.
    pub fn gather(&self, gathering: Arc<Gathering>) {
        // A start founds once.
        let _ = self.host.set(gathering);
    }

    /// Hands the port over to the doors. Connections that come meanwhile wait for them.
    pub fn leave(self) -> Result<TcpListener> {
        // Whoever is still being answered is not waited for.
        self.stop.send_replace(true);
        TcpListener::from_std(self.listener).at("the listening socket")
    }
}

fn say(doing: &watch::Sender<Doing>, state: NodeState, words: String) {
    doing.send_modify(|doing| (doing.state, doing.words) = (state, words));
}

/// What is known on the porch of what goes on inside.
#[derive(Clone)]
struct Inside {
    doing: watch::Receiver<Doing>,
    guest: Arc<OnceLock<Arc<Waiting>>>,
    host: Arc<OnceLock<Arc<Gathering>>>,
    address: Arc<str>,
    audit: Audit,
}

/// What the node does, as far as it has come.
pub struct Doing {
    state: NodeState,
    pub words: String,
    identity: Option<Identity>,
}

impl Inside {
    fn identity(&self) -> GetIdentityResponse {
        let doing = self.doing.borrow();
        let mut answer =
            public::identity(doing.identity.as_ref(), &self.address, doing.state, &doing.words);
        if let Some(waiting) = self.guest.get() {
            answer.node_id = waiting.node().0;
        }
        answer
    }
}

async fn answer(State(inside): State<Inside>, request: Request) -> Response {
    let audit = inside.audit.clone();
    match (inside.guest.get().cloned(), request.uri().path()) {
        (_, "/devicedb.v1.ClusterService/GetIdentity") => {
            unary(&audit, "GetIdentity", request, |_: GetIdentityRequest| async move {
                Ok(inside.identity())
            })
            .await
        }
        (Some(node), "/devicedb.internal.v1.PeerService/Introduce") => {
            let gathers = inside.host.get().is_some();
            let introduce = |_: IntroduceRequest| async move {
                let mut answer = node.introduce()?;
                answer.waiting.iter_mut().for_each(|waiting| waiting.gathers = gathers);
                Ok(answer)
            };
            unary(&audit, "Introduce", request, introduce).await
        }
        (_, "/devicedb.internal.v1.PeerService/Join") if inside.host.get().is_some() => {
            let place = request.extensions().get::<Arc<Place>>();
            let name = place.and_then(|place| rpc::name_of_node_at(place));
            let host = inside.host.get().cloned();
            let join = |asked: JoinRequest| async move {
                match host {
                    Some(host) => host.attend(asked, name).await,
                    None => Err(Error::unavailable("it gathers nobody; retry")),
                }
            };
            unary(&audit, "Join", request, join).await
        }
        (Some(node), "/devicedb.internal.v1.PeerService/PromiseFounding") => {
            unary(&audit, "PromiseFounding", request, |asked| promise(node, asked)).await
        }
        (Some(node), "/devicedb.internal.v1.PeerService/FoundCluster") => {
            let found = |_: FoundClusterRequest| async move {
                let there = node.found().await?;
                Ok(FoundClusterResponse {
                    cluster_id: there.cluster.0.as_bytes().to_vec().into(),
                    created: there.created,
                })
            };
            unary(&audit, "FoundCluster", request, found).await
        }
        (Some(node), "/devicedb.v1.ClusterService/InitCluster") => {
            let meant = request.headers().get(CLUSTER_HEADER).cloned();
            let init = |_: InitClusterRequest| async move {
                if let Some(cluster) = meant {
                    return Err(Error::conflict(format!(
                        "the call is for cluster {cluster:?}, and this node belongs to none: a new \
                         cluster has another id"
                    )));
                }
                let there = node.init().await?;
                Ok(InitClusterResponse {
                    cluster_id: there.cluster.to_string(),
                    created: there.created,
                })
            };
            unary(&audit, "InitCluster", request, init).await
        }
        (guest, path) => {
            let to_a_peer = path.starts_with("/devicedb.internal.");
            let doing = inside.doing.borrow();
            let why = match doing.state {
                _ if to_a_peer && guest.is_some() => "it waits for a cluster itself".to_owned(),
                NodeState::Restoring if to_a_peer => "it restores a snapshot".to_owned(),
                _ => doing.words.clone(),
            };
            drop(doing);
            not_yet(&why, &request)
        }
    }
}

async fn promise(
    node: Arc<Waiting>,
    asked: PromiseFoundingRequest,
) -> Result<PromiseFoundingResponse> {
    let founder = asked
        .founder
        .ok_or_else(|| Error::invalid("whoever wants to found has to say who it is"))?;
    crew::blocking(Role::Start, move || node.promise(&founder, &asked.join))
        .await
        .map(|()| PromiseFoundingResponse {})
}

fn not_yet(why: &str, request: &Request) -> Response {
    let grpc = request
        .headers()
        .get(CONTENT_TYPE)
        .is_some_and(|t| t.as_bytes().starts_with(b"application/grpc"));
    if grpc {
        return wire::status_of(&Error::unavailable(format!(
            "this node cannot serve yet: {why}; retry"
        )))
        .into_http();
    }
    (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")).into_response()
}

/// One question, one answer, in gRPC; noted where it changes something or is denied.
async fn unary<Q, A, F>(
    audit: &Audit,
    method: &'static str,
    request: Request,
    work: impl FnOnce(Q) -> F + Send,
) -> Response
where
    Q: prost::Message + Default + Subject + Send + Sync + 'static,
    A: prost::Message + Send + 'static,
    F: Future<Output = Result<A>> + Send,
{
    let mut work = Some(work);
    let service = tower::service_fn(|asked: tonic::Request<Q>| {
        let work = work.take().expect("a request is one question");
        async move {
            let (noted, answer) = match audit.begins(method, &asked).await {
                Ok(noted) => (noted, work(asked.into_inner()).await),
                Err(e) => (None, Err(e)),
            };
            let answer = answer.map(tonic::Response::new).map_err(|e| wire::status_of(&e));
            audit.ended(noted, answer.as_ref().err().cloned()).await;
            answer
        }
    });
    Grpc::new(Codec::<A, Q>::default()).unary(service, request).await.map(axum::body::Body::new)
}
