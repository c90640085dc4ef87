//! HTTP/1 beside gRPC on the same port: `/metrics`, `/healthz` (the process lives) and `/readyz`
//! (this node can serve what it should hold).

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::get,
};

use crate::{
    base::{limits, metrics::Metrics},
    engine::driver::Handle,
    log::Log,
    service::{admin::Cluster, parts::Parts},
};

/// What the pages show.
#[derive(Clone)]
pub struct Pages {
    pub handle: Handle,
    pub cluster: Cluster,
    pub parts: Parts,
    pub log: Log,
    pub metrics: Arc<Metrics>,
}

pub fn router(pages: Pages) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .with_state(pages)
}

async fn readyz(State(pages): State<Pages>) -> impl IntoResponse {
    match pages.cluster.unready().await {
        None => (StatusCode::OK, "ready\n".to_owned()),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")),
    }
}

async fn metrics(State(pages): State<Pages>) -> impl IntoResponse {
    let now = pages
        .handle
        .look(false, limits::NODE_STATUS, |s| {
            let silences: Vec<_> = s.silences().collect();
            (s.unready().is_none(), s.led().count(), s.overlay_bytes(), silences)
        })
        .await;
    let (ready, led, overlay, silences) = now.unwrap_or_default();
    pages.metrics.silent(silences);
    pages.metrics.now(ready, led, overlay, pages.log.bytes(), pages.parts.view_age());
    (
        [(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")],
        pages.metrics.text(),
    )
}
