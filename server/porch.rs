//! What a node answers while it joins, restores a part or opens its store: that it lives, that it is not ready, and why.
//!
//! It listens on the node's own port until the doors open; then requests that it has begun are finished, and connections are closed so that clients come back
//! to the doors. A gRPC call gets UNAVAILABLE with the reason, which clients retry.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Request, State},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use tonic::{service::Routes, transport::server::TcpIncoming};

use crate::{
    error::{Context, Error, Result},
    limits, wire,
};

/// The answering machine. It stops listening when it is dropped.
pub struct Porch {
    doing: watch::Sender<String>,
    listener: std::net::TcpListener,
    stop: watch::Sender<bool>,
    server: JoinHandle<Result<(), tonic::transport::Error>>,
}

impl Porch {
    pub fn open(listener: TcpListener) -> Result<Porch> {
        let listener = listener.into_std().at("the listening socket")?;
        let again = TcpListener::from_std(listener.try_clone().at("the listening socket")?).at("the listening socket")?;
        let (doing, done) = watch::channel("starting".to_owned());
        let (stop, mut stopped) = watch::channel(false);
        let pages = Router::new().route("/healthz", get(|| async { "ok\n" })).fallback(not_yet).with_state(Arc::new(done));
        let server = tonic::transport::Server::builder()
            .accept_http1(true)
            .max_concurrent_streams(limits::CONCURRENT_STREAMS_MAX)
            .http2_max_pending_accept_reset_streams(Some(limits::RESET_STREAMS_MAX))
            .http2_max_header_list_size(limits::HEADER_LIST_BYTES_MAX)
            .add_routes(Routes::from(pages))
            .serve_with_incoming_shutdown(TcpIncoming::from(again), async move {
                // A sender that is gone stops the server as well.
                let _ = stopped.wait_for(|s| *s).await;
            });
        Ok(Porch { doing, listener, stop, server: tokio::spawn(server) })
    }

    /// Says what the node is doing, for those who ask why it is not ready.
    pub fn say(&self, doing: impl Into<String>) {
        self.doing.send_replace(doing.into());
    }

    /// Hands the port over to the doors. Connections that come meanwhile wait for them.
    pub fn leave(self) -> Result<TcpListener> {
        self.stop.send_replace(true);
        // Whoever is still being answered is not waited for.
        drop(self.server);
        TcpListener::from_std(self.listener).at("the listening socket")
    }
}

async fn not_yet(State(doing): State<Arc<watch::Receiver<String>>>, request: Request) -> Response {
    let why = doing.borrow().clone();
    let grpc = request.headers().get(CONTENT_TYPE).is_some_and(|t| t.as_bytes().starts_with(b"application/grpc"));
    if grpc {
        return wire::status_of(&Error::unavailable(format!("this node cannot serve yet: {why}; retry"))).into_http();
    }
    (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")).into_response()
}
