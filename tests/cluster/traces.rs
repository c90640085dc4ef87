//! Traces, as a collector gets them that speaks OTLP.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use devicedb::proto::v1::{Bucket, GetRequest, PutRequest};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Code, Request, Response, Status, transport::Server};

use crate::harness::{Cluster, Options, Port, SOON, eventually, http_get, http_post, shell};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

/// Keeps what it gets: the id of the node, and its span.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<(String, Span)>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for of_node in request.into_inner().resource_spans {
            let node = text(&of_node.resource.unwrap().attributes, "service.instance.id");
            let spans = of_node.scope_spans.into_iter().flat_map(|scope| scope.spans);
            self.0.lock().unwrap().extend(spans.map(|span| (node.clone(), span)));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    async fn serve(&self, at: SocketAddr) -> (SocketAddr, JoinHandle<()>) {
        let listener = TcpListener::bind(at).await.unwrap();
        let at = listener.local_addr().unwrap();
        let server = Server::builder()
            .add_service(TraceServiceServer::new(self.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        (at, tokio::spawn(async move { server.await.unwrap() }))
    }

    /// The spans of a trace, once there are so many.
    async fn of(&self, trace: &str, count: usize) -> Vec<(String, Span)> {
        eventually("spans come", SOON, async || {
            let all = self.0.lock().unwrap().clone();
            let of: Vec<_> = all.into_iter().filter(|(_, s)| hex(&s.trace_id) == trace).collect();
            if of.len() == count { Ok(of) } else { Err(format!("{of:#?}")) }
        })
        .await
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn value(attributes: &[KeyValue], name: &str) -> Option<Value> {
    attributes.iter().find(|one| one.key == name)?.value.clone()?.value
}

fn text(attributes: &[KeyValue], name: &str) -> String {
    match value(attributes, name) {
        Some(Value::StringValue(text)) => text,
        other => panic!("{name} is {other:?}"),
    }
}

fn number(span: &Span, name: &str) -> i64 {
    match value(&span.attributes, name) {
        Some(Value::IntValue(number)) => number,
        other => panic!("{name} is {other:?}: {span:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_go_on_in_the_traces_of_their_callers_and_a_snapshot_is_one_of_its_own() {
    let collector = Collector::default();
    let (at, _serving) = collector.serve(([127, 0, 0, 1], 0).into()).await;
    let dir = tempfile::tempdir().unwrap();
    let repository = dir.path().join("repository").display().to_string();
    shell(&format!("ddbctl repository init {repository}"), SOON).await.exits(0);
    let words = ["--otlp-endpoint", &format!("http://{at}"), "--otlp-share", "0%"];
    let words = words.into_iter().chain(["--repository", &repository]);
    let extra = words.map(str::to_owned).collect();
    let cluster = Cluster::start(3, Options { extra, ..Options::default() }).await;
    let client = cluster.client();
    client.add_site("secret-site").await.unwrap();

    // A put in a trace that is recorded, a get of what is not there, and a put in one that is not.
    let traced = |flags: &str| format!("00-{TRACE}-{CALLER}-{flags}").parse().unwrap();
    let put = |flags: &str| {
        let mut request = Request::new(PutRequest {
            site: "secret-site".into(),
            bucket: Bucket::Default.into(),
            key: "secret-key".into(),
            value: "secret-value".into(),
            request_id: vec![flags.as_bytes()[1]; 16].into(),
            ..PutRequest::default()
        });
        request.metadata_mut().insert("traceparent", traced(flags));
        request
    };
    client.kv.clone().put(put("01")).await.unwrap();
    client.kv.clone().put(put("00")).await.unwrap();
    let mut get = Request::new(GetRequest {
        site: "no-site".into(),
        bucket: Bucket::Default.into(),
        key: "secret-key".into(),
        ..GetRequest::default()
    });
    get.metadata_mut().insert("traceparent", traced("01"));
    assert_eq!(client.kv.clone().get(get).await.unwrap_err().code(), Code::NotFound);
    // The same over JSON, as a browser's page or a proxy sends it.
    let headers =
        ["Content-Type: application/json", &format!("traceparent: 00-{TRACE}-{CALLER}-01")];
    let path = "/devicedb.v1.ClusterService/GetOverview";
    assert_eq!(http_post(&client.endpoint, path, &headers, "{}").await.unwrap().0, 200);

    let mut spans = collector.of(TRACE, 3).await;
    spans.sort_by(|(_, one), (_, other)| one.name.cmp(&other.name));
    let seen: Vec<_> = spans
        .iter()
        .map(|(_, span)| (span.name.as_str(), number(span, "rpc.grpc.status_code")))
        .collect();
    assert_eq!(seen, [("Get", Code::NotFound as i64), ("GetOverview", 0), ("Put", 0)]);
    let overview = client.overview().await.unwrap();
    let me = overview.nodes.iter().find(|node| node.address == client.endpoint).unwrap().id;
    for (node, span) in &spans {
        assert_eq!((node, hex(&span.parent_span_id)), (&me.to_string(), CALLER.to_owned()));
        assert_eq!(span.kind(), SpanKind::Server);
        assert!(span.end_time_unix_nano > span.start_time_unix_nano);
        // A caller that asks for what is not there is not a fault of the node.
        let failed = span.status.as_ref().is_some_and(|status| status.code() == StatusCode::Error);
        assert!(!failed, "{span:?}");
    }

    // Every node's share in a snapshot is in the trace that has its id.
    let uuid = client.complete_snapshot(SOON).await.uuid;
    cluster.nodes[0].ctl(&["snapshot", "upload", &uuid]).await.exits(0);
    let spans = collector.of(&uuid.replace('-', ""), 4).await;
    let (captures, uploads): (Vec<_>, Vec<_>) =
        spans.iter().partition(|(_, span)| span.name == "capture");
    let mut of: Vec<&String> = captures.iter().map(|(node, _)| node).collect();
    of.sort();
    let mut all: Vec<String> = overview.nodes.iter().map(|node| node.id.to_string()).collect();
    all.sort();
    assert_eq!(of, all.iter().collect::<Vec<_>>());
    assert!(captures.iter().all(|(_, span)| number(span, "devicedb.rows") > 0));
    assert_eq!((uploads.len(), uploads[0].1.name.as_str()), (1, "upload"));
    assert!(number(&uploads[0].1, "devicedb.bytes.new") > 0);

    // Nothing else has come, and nothing of what it was about.
    let all = collector.0.lock().unwrap().clone();
    assert_eq!(all.len(), 7, "{all:#?}");
    assert!(!format!("{all:?}").contains("secret"), "{all:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_costs_spans_and_nothing_else() {
    let port = Port::claim();
    let extra = ["--otlp-endpoint", &format!("http://{}", port.endpoint()), "--otlp-share", "100%"];
    let extra = extra.map(str::to_owned).to_vec();
    let options = Options { replication_factor: 1, extra, ..Options::default() };
    let mut cluster = Cluster::start(1, options).await;
    let client = cluster.client();
    client.add_site("shop").await.unwrap();
    let spans = async |outcome: &str| {
        let (_, page) = http_get(&client.endpoint, "/metrics").await.unwrap();
        let name = format!("devicedb_trace_spans_total{{outcome=\"{outcome}\"}} ");
        let told = page.lines().find_map(|line| line.strip_prefix(&name));
        told.expect("it is counted from 0 on").parse::<u64>().unwrap()
    };
    let has = async |outcome: &str| {
        eventually("spans are counted", SOON, async || match spans(outcome).await {
            0 => {
                client.put("shop", Bucket::Default, "key", "value").await.unwrap();
                Err("none so far")
            }
            count => Ok(count),
        })
        .await
    };
    has("lost").await;
    assert_eq!(spans("sent").await, 0);
    cluster.nodes[0].says("the collector takes no spans").await;

    // From when it is there, it gets them.
    let at = port.endpoint().parse().unwrap();
    let collector = Collector::default();
    let (_, serving) = collector.serve(at).await;
    has("sent").await;
    assert!(collector.0.lock().unwrap().iter().any(|(_, span)| span.name == "Put"));

    // It goes away for good, and the node stops as it always does.
    serving.abort();
    client.put("shop", Bucket::Default, "key", "value").await.unwrap();
    cluster.nodes[0].signal_to_stop();
    assert!(cluster.nodes[0].wait_ended().await.success());
}
