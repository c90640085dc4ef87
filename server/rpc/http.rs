//! HTTP/1 beside gRPC on the same port: `/metrics`, in the format that is asked for, `/healthz`
//! (the process lives), `/readyz` (this node can serve what it should hold), and the `console`.

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    http::{
        HeaderMap, StatusCode,
        header::{ACCEPT, CONTENT_TYPE},
    },
    response::IntoResponse,
    routing::get,
};

use super::console;
use crate::{
    base::{
        ids::GroupId,
        limits,
        metrics::{Format, Metrics, Process, Seen},
    },
    cluster::reconfigure::Membership,
    engine::{EngineView, driver::Handle},
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
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz));
    console::pages(router).with_state(pages)
}

async fn readyz(State(pages): State<Pages>) -> impl IntoResponse {
    match pages.cluster.unready().await {
        None => (StatusCode::OK, "ready\n".to_owned()),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")),
    }
}

async fn metrics(State(pages): State<Pages>, headers: HeaderMap) -> impl IntoResponse {
    let seen = pages.handle.look(false, limits::NODE_STATUS, |view| seen(&view)).await;
    pages.metrics.now(&seen.unwrap_or_default(), pages.log.bytes(), pages.parts.view_age());
    // A system without /proc shows none of it.
    if let Ok(process) = Process::look() {
        pages.metrics.process(&process);
    }
    let accept = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let format = Format::accepted(accept);
    ([(CONTENT_TYPE, format.content_type())], pages.metrics.text(format))
}

fn seen(view: &EngineView<'_>) -> Seen {
    let (away, wanted) = (view.away(), view.meta().settings().replication_factor as usize);
    let lacks = |(group, members): &(GroupId, &Membership)| {
        let answer = members.voters.iter().filter(|node| !away.contains(node)).count();
        // The meta group has as many as there are nodes for, up to a number of its own.
        let least = if group.is_meta() { members.voters.len() } else { wanted };
        answer < least
    };
    Seen {
        ready: view.unready().is_none(),
        groups_led: view.led().count(),
        groups_without_leader: view.leaderless().count(),
        groups_under_replicated: view.led().filter(lacks).count(),
        overlay_bytes: view.overlay_bytes(),
        silences: view.silences().collect(),
    }
}
