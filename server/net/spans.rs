//! Traces: how long calls and snapshots took on this node, as spans of
//! [OpenTelemetry](https://opentelemetry.io/docs/specs/otel/trace/api/), sent to a collector by
//! [OTLP](https://opentelemetry.io/docs/specs/otlp/) over gRPC.
//!
//! A call goes on in the trace that its caller names in the header `traceparent`
//! ([W3C Trace Context](https://www.w3.org/TR/trace-context/)), where the caller has that recorded.
//! Of the calls that name none, a share is recorded. What nodes do for a snapshot is one trace,
//! whose id is the snapshot's: nobody has to tell another node which it is, and whoever knows the
//! snapshot finds it.
//!
//! Nothing waits for a collector, and nothing ends with it. Spans wait in a queue with a bound; one
//! that finds it full, and those that the collector does not take, are lost and counted. A span has
//! no key, no value, no name of a site, and not who called: those are in the audit log.

use std::{fmt, sync::Arc, time::Duration};

use opentelemetry::{
    Context, KeyValue, Value,
    propagation::{Extractor, TextMapPropagator as _},
    trace::{
        Span as _, SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt as _,
        TraceFlags, TraceId, TraceState, TracerProvider as _,
    },
};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    propagation::TraceContextPropagator,
    trace::{
        Sampler, SdkTracer, SdkTracerProvider, Span, SpanData, SpanExporter as _, SpanProcessor,
    },
};
use tokio::sync::mpsc;
use tonic::{Code, metadata::MetadataMap};

use crate::{
    base::{
        clock::Clock,
        crew::{Crew, Role},
        error::{Error, Result},
        ids::SnapshotId,
        limits,
        metrics::Metrics,
    },
    entry::Identity,
};

/// Where spans go.
#[derive(Clone, Debug, PartialEq)]
pub struct Collector {
    /// `http://HOST:PORT`, which speaks OTLP over gRPC.
    pub endpoint: String,
    /// Of the calls that name no trace, the share that is recorded: from 0 to 1.
    pub share: f64,
}

/// Begins spans. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Traces {
    /// None where nothing is recorded.
    tracer: Option<Arc<SdkTracer>>,
}

/// Something that takes its time, and is recorded or not.
#[derive(Debug)]
pub struct Traced(Option<Span>);

impl Traces {
    /// Records from now on, for as long as the node runs. The collector need not be there yet.
    pub fn to(
        collector: &Collector,
        identity: &Identity,
        (clock, metrics, crew): (Clock, &Arc<Metrics>, &Crew),
    ) -> Result<Traces> {
        let unusable = |e: &dyn fmt::Display| {
            Error::invalid(format!("no collector of traces can be at {}: {e}", collector.endpoint))
        };
        let exporter = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(&collector.endpoint)
            .with_timeout(limits::TRACE_PATIENCE)
            .build();
        let mut exporter = exporter.map_err(|e| unusable(&e))?;
        let resource = Resource::builder()
            .with_service_name(env!("CARGO_PKG_NAME"))
            .with_attributes([
                KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
                KeyValue::new("service.instance.id", identity.node.to_string()),
                KeyValue::new("devicedb.cluster.id", identity.cluster.to_string()),
            ])
            .build();
        exporter.set_resource(&resource);
        let (spans, waiting) = mpsc::channel(limits::TRACE_SPANS_MAX);
        let (hands_on, counted) = (Sender { exporter, clock, told: None }, metrics.clone());
        crew.spawn(Role::Traces, hands_on.run(waiting, counted));
        let provider = SdkTracerProvider::builder()
            .with_span_processor(Queue { spans, metrics: metrics.clone() })
            .with_resource(resource)
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(
                collector.share,
            ))))
            .build();
        Ok(Traces { tracer: Some(Arc::new(provider.tracer(env!("CARGO_PKG_NAME")))) })
    }

    /// A call that has come, by the name of its method.
    pub fn call(&self, method: &'static str, metadata: &MetadataMap) -> Traced {
        let Some(tracer) = &self.tracer else { return Traced(None) };
        let from =
            TraceContextPropagator::new().extract_with_context(&Context::new(), &Headers(metadata));
        let attributes = [KeyValue::new("rpc.system", "grpc"), KeyValue::new("rpc.method", method)];
        let span = SpanBuilder::from_name(method)
            .with_kind(SpanKind::Server)
            .with_attributes(attributes)
            .start_with_context(&**tracer, &from);
        Traced(Some(span))
    }

    /// A share in a snapshot, which begins.
    pub fn of_snapshot(&self, what: &'static str, id: SnapshotId) -> Traced {
        let Some(tracer) = &self.tracer else { return Traced(None) };
        // Half of the id stands for the snapshot as a whole, which no node sees.
        let (whole, _) = id.0.as_u64_pair();
        let snapshot = SpanContext::new(
            TraceId::from_bytes(id.0.into_bytes()),
            SpanId::from_bytes(whole.to_be_bytes()),
            TraceFlags::SAMPLED,
            true,
            TraceState::NONE,
        );
        let of = Context::new().with_remote_span_context(snapshot);
        let span = SpanBuilder::from_name(what)
            .with_attributes([KeyValue::new("devicedb.snapshot.id", id.to_string())])
            .start_with_context(&**tracer, &of);
        Traced(Some(span))
    }
}

impl Traced {
    /// Something that is known of it by now.
    pub fn note(&mut self, name: &'static str, value: impl Into<Value>) {
        if let Some(span) = &mut self.0 {
            span.set_attribute(KeyValue::new(name, value));
        }
    }

    /// Its end as a call. Only what a server is to blame for is an error.
    pub fn answered(mut self, code: Code) {
        self.note("rpc.grpc.status_code", code as i64);
        let blamed = [
            Code::Unknown,
            Code::DeadlineExceeded,
            Code::Unimplemented,
            Code::Internal,
            Code::Unavailable,
            Code::DataLoss,
        ];
        self.ended(match blamed.contains(&code) {
            true => Err(format!("{code:?}")),
            false => Ok(()),
        });
    }

    /// Its end, and why it failed if it has.
    pub fn ended(self, how: Result<(), String>) {
        let Some(mut span) = self.0 else { return };
        if let Err(why) = how {
            span.set_status(Status::error(why));
        }
        span.end();
    }
}

/// A call's headers, as the propagator reads them.
struct Headers<'a>(&'a MetadataMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        Vec::new()
    }
}

/// Takes spans that have ended.
#[derive(Debug)]
struct Queue {
    spans: mpsc::Sender<SpanData>,
    metrics: Arc<Metrics>,
}

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if self.spans.try_send(span).is_err() {
            self.metrics.spans(1, false);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// Hands spans on to the collector.
struct Sender {
    exporter: SpanExporter,
    clock: Clock,
    /// When the log was last told that the collector does not take any.
    told: Option<Duration>,
}

impl Sender {
    async fn run(mut self, mut waiting: mpsc::Receiver<SpanData>, metrics: Arc<Metrics>) {
        let mut batch = Vec::new();
        while waiting.recv_many(&mut batch, limits::TRACE_BATCH_SPANS).await > 0 {
            if batch.len() < limits::TRACE_BATCH_SPANS {
                // A call is not worth a message of its own.
                tokio::time::sleep(limits::TRACE_LINGER).await;
                let more = std::iter::from_fn(|| waiting.try_recv().ok());
                let room = limits::TRACE_BATCH_SPANS - batch.len();
                batch.extend(more.take(room));
            }
            let count = batch.len() as u64;
            let taken = self.exporter.export(std::mem::take(&mut batch)).await;
            metrics.spans(count, taken.is_ok());
            match taken {
                Ok(()) => self.told = None,
                Err(e) => self.complain(count, &e),
            }
        }
    }

    fn complain(&mut self, count: u64, why: &dyn fmt::Display) {
        let now = self.clock.now();
        if self.told.is_none_or(|told| now - told > limits::TRACE_TOLD_EVERY) {
            self.told = Some(now);
            tracing::warn!(spans = count, error = %why, "the collector takes no spans");
        }
    }
}
