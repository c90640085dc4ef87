//! The gRPC services and HTTP pages, one thin file a service. A method parses, calls, converts and
//! answers; decisions are made below.
//!
//! A call ends a little before its caller's deadline (`grpc-timeout`), so that the answer can say
//! why there is no result. A call without a deadline gets `limits::REQUEST_DEADLINE`.

mod gate;
mod roles;
mod access;
mod audit;
mod callers;
mod quotas;
pub(crate) mod pulled;
mod cluster;
mod kv;
mod operations;
mod grants;
mod peer;
mod snapshot;
mod schedules;
mod threshold;
mod json;
mod console;
pub mod http;
pub mod reflection;

pub use access::Access;
pub use audit::{Audit, Subject};
pub use cluster::ClusterApi;
pub use gate::Gate;
pub use grants::AccessApi;
pub use json::Json;
pub use kv::KvApi;
pub use operations::OperationApi;
pub use peer::PeerApi;
pub use quotas::{Limits as QuotaLimits, Quotas};
pub use schedules::ScheduleApi;
pub use snapshot::SnapshotApi;
pub use threshold::Threshold;

use std::{sync::Arc, time::Duration};

use tonic::{Request, Response, Status, metadata::MetadataMap};

use crate::{
    base::{
        clock::Clock,
        crew::Crew,
        error::{Error, Result},
        limits,
        metrics::Metrics,
    },
    net::{acceptor::Place, spans::Traces, tls::Caller},
    wire,
};

/// Time, counting, and the tasks that feed streams: the same for every door.
#[derive(Clone)]
pub struct Calls {
    pub clock: Clock,
    pub metrics: Arc<Metrics>,
    pub crew: Crew,
    pub audit: Audit,
    pub traces: Traces,
}

impl Calls {
    /// Runs one call: its deadline in, its answer or error out, both counted, and noted where it
    /// changes something or is denied.
    async fn call<Q: Subject, A, F: Future<Output = Result<A>>>(
        &self,
        method: &'static str,
        request: Request<Q>,
        work: impl FnOnce(Q, Duration) -> F,
    ) -> Result<Response<A>, Status> {
        let began = self.clock.now();
        let traced = self.traces.call(method, request.metadata());
        let wait = deadline(request.metadata());
        let (noted, answer) = match self.audit.begins(method, &request).await {
            Ok(noted) => (noted, work(request.into_inner(), wait).await),
            Err(e) => (None, Err(e)),
        };
        let answer = answer.map(Response::new).map_err(|e| wire::status_of(&e));
        self.audit.ended(noted, answer.as_ref().err().cloned()).await;
        let code = answer.as_ref().map_or_else(Status::code, |_| tonic::Code::Ok);
        self.metrics.request(method, wire::code_name(code), Some(self.clock.now() - began));
        traced.answered(code);
        answer
    }

    /// Counts a stream that begins, or is refused.
    fn stream<A>(&self, method: &'static str, answer: Result<A>) -> Result<Response<A>, Status> {
        let answer = answer.map(Response::new).map_err(|e| wire::status_of(&e));
        let code = answer.as_ref().map_or_else(Status::code, |_| tonic::Code::Ok);
        self.metrics.request(method, wire::code_name(code), None);
        answer
    }
}

fn place_of<T>(request: &Request<T>) -> Option<Arc<Place>> {
    request.extensions().get::<Arc<Place>>().cloned()
}

/// The name that a node's certificate proves, where the caller has shown one.
fn name_of_node<T>(request: &Request<T>) -> Option<String> {
    name_of_node_at(&*place_of(request)?)
}

/// The same of the caller of a connection.
pub fn name_of_node_at(place: &Place) -> Option<String> {
    match place.caller() {
        Caller::Known(bearer) if bearer.is_node => Some(bearer.name.clone()),
        _ => None,
    }
}

/// How long the caller waits, less what the answer needs to get there in time.
fn deadline(metadata: &MetadataMap) -> Duration {
    let said = metadata.get("grpc-timeout").and_then(|v| v.to_str().ok()).and_then(parse_timeout);
    let early = |d: Duration| d.saturating_sub((d / 10).min(limits::DEADLINE_EARLY_MAX));
    said.map_or(limits::REQUEST_DEADLINE, early).min(limits::REQUEST_DEADLINE_MAX)
}

/// As gRPC writes it: at most eight digits and a unit.
fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let n: u64 = digits
        .parse()
        .ok()
        .filter(|_| digits.len() <= 8 && digits.bytes().all(|digit| digit.is_ascii_digit()))?;
    Some(match unit {
        "H" => Duration::from_secs(n.checked_mul(3600)?),
        "M" => Duration::from_secs(n.checked_mul(60)?),
        "S" => Duration::from_secs(n),
        "m" => Duration::from_millis(n),
        "u" => Duration::from_micros(n),
        "n" => Duration::from_nanos(n),
        _ => return None,
    })
}

/// How many of a list a page holds.
fn page_size(asked: u32, default: u32) -> usize {
    if asked == 0 { default as usize } else { asked.min(limits::PAGE_SIZE_MAX) as usize }
}

/// Cuts a list that was fetched one longer than its page, and says where the next page begins.
fn cut_page<T>(mut items: Vec<T>, size: usize, token: impl Fn(&T) -> String) -> (Vec<T>, String) {
    if items.len() <= size {
        return (items, String::new());
    }
    items.truncate(size);
    let next = items.last().map_or(String::new(), token);
    (items, next)
}

/// A page token that is a number; none for the first page.
pub fn parse_number_token(token: &str) -> Result<Option<u64>> {
    if token.is_empty() {
        return Ok(None);
    }
    token.parse().map(Some).map_err(|_| {
        Error::invalid(format!("{token:?} is not a page token that this list gave out"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_deadlines_are_kept_a_little_early() {
        let wait = |text: &str| {
            let mut metadata = MetadataMap::new();
            metadata.insert("grpc-timeout", text.parse().unwrap());
            deadline(&metadata)
        };
        assert_eq!(wait("1S"), Duration::from_millis(900));
        assert_eq!(wait("10000m"), Duration::from_millis(9800));
        assert_eq!(wait("99999999H"), limits::REQUEST_DEADLINE_MAX);
        assert_eq!(wait("1é"), limits::REQUEST_DEADLINE);
    }
}
