//! The doors for people and their tools, on the port that gRPC has: `/metrics`, `/healthz`, `/readyz`.
//!
//! - `/healthz` says that the process lives; a supervisor restarts it when it does not.
//! - `/readyz` says that it can serve all it holds, or with 503 what it waits for; a balancer sends requests elsewhere meanwhile.
//! - Everything else is answered in the caller's own protocol: gRPC with UNIMPLEMENTED, HTTP with 404.

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{
        StatusCode,
        header::{self, HeaderValue},
    },
    response::{IntoResponse, Response},
    routing::get,
};
use tonic::Status;

use crate::metrics::Metrics;

const TEXT: &str = "text/plain; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Adds the HTTP doors to the routes of the gRPC services (`tonic::service::Routes::into_axum_router`), whose own fallback they replace.
pub fn beside(grpc: Router, metrics: Arc<Metrics>) -> Router {
    let doors = Router::new().route("/metrics", get(exposition)).route("/healthz", get(health)).route("/readyz", get(readiness)).with_state(metrics);
    grpc.reset_fallback().merge(doors).fallback(nothing_here)
}

async fn exposition(State(metrics): State<Arc<Metrics>>) -> Response {
    answer(StatusCode::OK, OPEN_METRICS, metrics.exposition())
}

async fn health() -> Response {
    answer(StatusCode::OK, TEXT, "alive\n".to_string())
}

async fn readiness(State(metrics): State<Arc<Metrics>>) -> Response {
    match metrics.readiness.reason() {
        None => answer(StatusCode::OK, TEXT, "ready\n".to_string()),
        Some(reason) => answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("not ready: {reason}\n")),
    }
}

async fn nothing_here(request: Request) -> Response {
    let path = request.uri().path();
    let content_type = request.headers().get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    if content_type.starts_with(b"application/grpc") {
        return Status::unimplemented(format!("this node serves no method {path}")).into_http::<Body>();
    }
    answer(StatusCode::NOT_FOUND, TEXT, format!("nothing is served at {path}; there are /metrics, /healthz, /readyz and gRPC\n"))
}

fn answer(status: StatusCode, content_type: &'static str, body: String) -> Response {
    (status, [(header::CONTENT_TYPE, content_type)], body).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tower::Service as _;

    async fn ask(metrics: &Arc<Metrics>, method: &str, path: &str, content_type: &str) -> Response {
        let grpc = tonic::service::Routes::builder().routes().into_axum_router();
        let request = Request::builder().method(method).uri(path).header(header::CONTENT_TYPE, content_type).body(Body::empty()).unwrap();
        beside(grpc, metrics.clone()).call(request).await.unwrap()
    }

    async fn get(metrics: &Arc<Metrics>, path: &str) -> (u16, String) {
        let response = ask(metrics, "GET", path, "").await;
        let status = response.status().as_u16();
        let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn a_node_lives_before_it_is_ready_and_says_what_it_waits_for() {
        let metrics = Metrics::new();
        assert_eq!(get(&metrics, "/healthz").await, (200, "alive\n".into()));
        metrics.readiness.waits_for("group 7 has no leader");
        assert_eq!(get(&metrics, "/readyz").await, (503, "not ready: group 7 has no leader\n".into()));
        metrics.readiness.ready();
        assert_eq!(get(&metrics, "/readyz").await, (200, "ready\n".into()));
    }

    #[tokio::test]
    async fn metrics_come_as_open_metrics_text() {
        let metrics = Metrics::new();
        let response = ask(&metrics, "GET", "/metrics", "").await;
        assert_eq!(response.headers()[header::CONTENT_TYPE], OPEN_METRICS);
        let (status, body) = get(&metrics, "/metrics").await;
        assert_eq!(status, 200);
        assert!(body.contains("# TYPE devicedb_ready gauge\n"), "{body}");
    }

    #[tokio::test]
    async fn what_is_not_there_is_refused_in_the_callers_protocol() {
        let metrics = Metrics::new();
        let (status, body) = get(&metrics, "/console").await;
        assert_eq!(status, 404);
        assert!(body.contains("/console"), "{body}");
        assert_eq!(ask(&metrics, "POST", "/metrics", "").await.status(), StatusCode::METHOD_NOT_ALLOWED);
        let grpc = ask(&metrics, "POST", "/devicedb.v1.KvService/Fly", "application/grpc").await;
        assert_eq!((grpc.status().as_u16(), grpc.headers()["grpc-status"].to_str().unwrap()), (200, "12"), "UNIMPLEMENTED");
    }
}
