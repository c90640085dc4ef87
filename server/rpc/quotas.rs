//! How much of this node one client may use, so that a client that runs wild does not use it up for
//! the others.
//!
//! - A client is an identity: what its certificate says, or its token. All its connections count
//!   together, on each node for itself. Nodes are not limited, since they work for many clients,
//!   and neither are callers without TLS where those are let in: they are nobody in particular.
//! - Calls and bytes a second are token buckets, which hold what comes in one second. A call goes
//!   on while its client's buckets are not empty, and is paid for when its size is known. So a
//!   large one is let in, and what follows it waits.
//! - A call over a limit is refused before it has any effect, with EXHAUSTED and the time after
//!   which it may come again (`google.rpc.RetryInfo`). A stream that has begun is never refused:
//!   its next piece waits until it is paid for.
//! - Scans and downloads are counted while they are open.
//!
//! Token bucket: J. Turner, "New directions in communications", IEEE Communications 24(10), 1986.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    http::{
        Request, Response, StatusCode,
        header::{HeaderValue, RETRY_AFTER},
    },
    response::IntoResponse as _,
};
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::Sleep;
use tonic::{Status, body::Body};

use super::access::Rights;
use crate::{
    base::{
        clock::Clock,
        limits,
        locks::lock,
        metrics::{Metrics, Quota},
    },
    wire,
};

/// What one client may use of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// None: as many as it likes.
    pub calls_a_second: Option<u32>,
    /// Of requests and answers together. None: as many as it likes.
    pub bytes_a_second: Option<u64>,
    /// Scans that are open at once.
    pub scans: u32,
    /// Downloads that are open at once.
    pub downloads: u32,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            calls_a_second: None,
            bytes_a_second: None,
            scans: limits::CLIENT_SCANS,
            downloads: limits::CLIENT_DOWNLOADS,
        }
    }
}

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Quotas(Arc<Inner>);

struct Inner {
    clock: Clock,
    limits: Limits,
    metrics: Arc<Metrics>,
    clients: Mutex<HashMap<String, Arc<Client>>>,
}

/// What a client uses now.
struct Client {
    used: Mutex<Used>,
}

struct Used {
    calls: Bucket,
    bytes: Bucket,
    scans: u32,
    downloads: u32,
    /// When it was last said in the log that it is over a limit.
    said: Option<Duration>,
}

/// What a call is, as far as it is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Single,
    Scan,
    Download,
}

impl Kind {
    fn of(path: &str) -> Kind {
        match path {
            "/devicedb.v1.KvService/Scan" => Kind::Scan,
            "/devicedb.v1.SnapshotService/DownloadSnapshot" => Kind::Download,
            _ => Kind::Single,
        }
    }
}

/// So much a second, and no more than one second's at once. Empty, and below, is what was used
/// ahead of its time.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    a_second: f64,
    left: f64,
    at: Duration,
}

impl Bucket {
    /// One without a rate never empties.
    fn full(a_second: Option<f64>, now: Duration) -> Bucket {
        let a_second = a_second.unwrap_or(f64::INFINITY);
        Bucket { a_second, left: a_second, at: now }
    }

    fn fill(&mut self, now: Duration) {
        let come = now.saturating_sub(self.at).as_secs_f64() * self.a_second;
        if come > 0.0 {
            self.left = (self.left + come).min(self.a_second);
            self.at = now;
        }
    }

    fn take(&mut self, amount: f64) {
        self.left -= amount;
    }

    /// How long until there is so much.
    fn wait_for(&self, amount: f64) -> Option<Duration> {
        let missing = amount - self.left;
        (missing > 0.0).then(|| Duration::from_secs_f64(missing / self.a_second))
    }

    fn is_full(&self) -> bool {
        self.left >= self.a_second
    }
}

/// A call that goes no further for now.
#[derive(Debug, PartialEq, Eq)]
pub struct Over {
    message: String,
    after: Duration,
}

impl Over {
    pub fn to_grpc(&self) -> Response<Body> {
        wire::slow_down(&self.message, self.after).into_http()
    }

    pub fn to_http(&self) -> Response<Body> {
        let answer = (StatusCode::TOO_MANY_REQUESTS, format!("{}\n", self.message));
        let mut response = answer.into_response().map(Body::new);
        let seconds = HeaderValue::from(self.after.as_secs_f64().ceil() as u64);
        response.headers_mut().insert(RETRY_AFTER, seconds);
        response
    }
}

impl Quotas {
    pub fn new(limits: Limits, clock: Clock, metrics: Arc<Metrics>) -> Quotas {
        Quotas(Arc::new(Inner { clock, limits, metrics, clients: Mutex::default() }))
    }

    /// Lets a call of a client begin. None: nothing about it is limited.
    pub fn begin(&self, client: &Rights, path: &str) -> Result<Option<Share>, Over> {
        let Inner { clock, limits, metrics, .. } = &*self.0;
        let kind = Kind::of(path);
        let rates = limits.calls_a_second.is_some() || limits.bytes_a_second.is_some();
        if client.name.is_empty() || kind == Kind::Single && !rates {
            return Ok(None);
        }
        let now = clock.now();
        let used = self.client(&client.name, now);
        let begun = lock(&used.used).begin(kind, limits, now);
        match begun {
            Ok(()) => Ok(Some(Share { quotas: self.clone(), client: used, kind })),
            Err((quota, after)) => {
                metrics.over_quota(quota);
                let said = said(limits, kind, quota, &client.name);
                if lock(&used.used).may_say(now) {
                    tracing::warn!(client = client.name, "{said}");
                }
                Err(Over { message: format!("{said}: slow down, or ask another node"), after })
            }
        }
    }

    fn client(&self, name: &str, now: Duration) -> Arc<Client> {
        let mut clients = lock(&self.0.clients);
        if let Some(client) = clients.get(name) {
            return client.clone();
        }
        if clients.len() >= limits::IDENTITIES_REMEMBERED {
            // Whoever uses nothing is as one that has never come.
            clients
                .retain(|_, client| Arc::strong_count(client) > 1 || lock(&client.used).any(now));
        }
        if clients.len() >= limits::IDENTITIES_REMEMBERED {
            clients.retain(|_, client| Arc::strong_count(client) > 1);
        }
        let Limits { calls_a_second, bytes_a_second, .. } = self.0.limits;
        let used = Used {
            calls: Bucket::full(calls_a_second.map(f64::from), now),
            bytes: Bucket::full(bytes_a_second.map(|bytes| bytes as f64), now),
            scans: 0,
            downloads: 0,
            said: None,
        };
        let client = Arc::new(Client { used: Mutex::new(used) });
        clients.insert(name.to_owned(), client.clone());
        client
    }
}

impl Used {
    fn fill(&mut self, now: Duration) {
        self.calls.fill(now);
        self.bytes.fill(now);
    }

    /// Whether anything about it is worth remembering.
    fn any(&mut self, now: Duration) -> bool {
        self.fill(now);
        !(self.calls.is_full() && self.bytes.is_full())
    }

    /// Otherwise, which limit is reached, and after which time it may not be any more.
    fn begin(
        &mut self,
        kind: Kind,
        limits: &Limits,
        now: Duration,
    ) -> Result<(), (Quota, Duration)> {
        self.fill(now);
        if let Some(after) = self.calls.wait_for(1.0) {
            return Err((Quota::Calls, after));
        }
        if let Some(after) = self.bytes.wait_for(1.0) {
            return Err((Quota::Bytes, after));
        }
        let open = match kind {
            Kind::Single => None,
            Kind::Scan => Some((&mut self.scans, limits.scans, Quota::Scans)),
            Kind::Download => Some((&mut self.downloads, limits.downloads, Quota::Downloads)),
        };
        if let Some((open, most, quota)) = open {
            if *open >= most {
                return Err((quota, limits::CLIENT_STREAM_AGAIN));
            }
            *open += 1;
        }
        self.calls.take(1.0);
        Ok(())
    }

    fn may_say(&mut self, now: Duration) -> bool {
        let due =
            self.said.is_none_or(|at| now.saturating_sub(at) >= limits::CLIENT_OVER_QUOTA_SAID);
        if due {
            self.said = Some(now);
        }
        due
    }
}

fn said(limits: &Limits, kind: Kind, quota: Quota, name: &str) -> String {
    let Limits { calls_a_second, bytes_a_second, scans, downloads } = limits;
    match quota {
        Quota::Calls => format!(
            "{name} makes more than {} calls a second on this node (devicedb start \
             --client-calls-per-second)",
            calls_a_second.unwrap_or_default()
        ),
        Quota::Bytes => format!(
            "{name} sends and receives more than {} bytes a second on this node (devicedb start \
             --client-bytes-per-second)",
            bytes_a_second.unwrap_or_default()
        ),
        Quota::Scans | Quota::Downloads => {
            let (most, flag, streams) = match kind {
                Kind::Download => (downloads, "--client-downloads", "downloads"),
                Kind::Single | Kind::Scan => (scans, "--client-scans", "scans"),
            };
            format!(
                "{name} has {most} {streams} open on this node, and may not have more (devicedb \
                 start {flag})"
            )
        }
    }
}

/// What a call uses of its client's share, until it is dropped.
pub struct Share {
    quotas: Quotas,
    client: Arc<Client>,
    kind: Kind,
}

impl Share {
    fn is_stream(&self) -> bool {
        self.kind != Kind::Single
    }

    fn counts_bytes(&self) -> bool {
        self.quotas.0.limits.bytes_a_second.is_some()
    }

    fn pay(&self, bytes: usize) {
        lock(&self.client.used).bytes.take(bytes as f64);
    }

    /// How long until what has gone out is paid for.
    fn debt(&self) -> Option<Duration> {
        let mut used = lock(&self.client.used);
        used.fill(self.quotas.0.clock.now());
        used.bytes.wait_for(0.0)
    }

    /// Has what the request brings paid for.
    pub fn weigh(self: &Arc<Self>, request: Request<Body>) -> Request<Body> {
        if !self.counts_bytes() {
            return request;
        }
        request.map(|body| Body::new(Weighed { body, pace: Some(Pace::of(self.clone())) }))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut used = lock(&self.client.used);
        match self.kind {
            Kind::Single => {}
            Kind::Scan => used.scans -= 1,
            Kind::Download => used.downloads -= 1,
        }
    }
}

/// A body that goes in or out at the speed that its client may have.
pub struct Weighed {
    body: Body,
    pace: Option<Pace>,
}

impl Weighed {
    /// An answer, which ends the call with its own end.
    pub fn answer(body: Body, share: Option<Arc<Share>>) -> Weighed {
        Weighed { body, pace: share.map(Pace::of) }
    }
}

struct Pace {
    share: Arc<Share>,
    rests: Option<Pin<Box<Sleep>>>,
}

impl Pace {
    fn of(share: Arc<Share>) -> Pace {
        Pace { share, rests: None }
    }

    fn poll_paid(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.share.counts_bytes() || !self.share.is_stream() {
            return Poll::Ready(());
        }
        loop {
            if let Some(rests) = &mut self.rests {
                ready!(rests.as_mut().poll(cx));
            }
            self.rests = self.share.debt().map(|wait| Box::pin(tokio::time::sleep(wait)));
            if self.rests.is_none() {
                return Poll::Ready(());
            }
        }
    }
}

impl HttpBody for Weighed {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(pace) = &mut self.pace {
            ready!(pace.poll_paid(cx));
        }
        let polled = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(pace) = &self.pace
            && let Some(Ok(frame)) = &polled
            && let Some(data) = frame.data_ref()
        {
            pace.share.pay(data.len());
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;
    use tonic_types::StatusExt as _;

    use super::*;

    const PUT: &str = "/devicedb.v1.KvService/Put";
    const SCAN: &str = "/devicedb.v1.KvService/Scan";
    const DOWNLOAD: &str = "/devicedb.v1.SnapshotService/DownloadSnapshot";

    fn quotas(limits: Limits) -> Quotas {
        Quotas::new(limits, Clock::start(), Arc::default())
    }

    fn named(name: &str) -> Rights {
        Rights::none(name)
    }

    #[test]
    fn a_bucket_holds_a_second_and_fills_as_time_goes_by() {
        let at = Duration::from_millis;
        let mut bucket = Bucket::full(Some(10.0), at(0));
        for _ in 0..10 {
            assert_eq!(bucket.wait_for(1.0), None);
            bucket.take(1.0);
        }
        assert_eq!(bucket.wait_for(1.0), Some(at(100)));
        bucket.fill(at(50));
        assert_eq!(bucket.wait_for(1.0), Some(at(50)));
        bucket.fill(at(100));
        assert_eq!(bucket.wait_for(1.0), None);
        // Twice as much as there is: it is let in, and paid for afterwards.
        bucket.fill(at(5000));
        bucket.take(20.0);
        assert_eq!(bucket.wait_for(1.0), Some(at(1100)));
        // A clock that stands fills nothing, and one that seems to go back takes nothing.
        bucket.fill(at(5000));
        bucket.fill(at(4000));
        assert_eq!(bucket.wait_for(1.0), Some(at(1100)));
        let mut endless = Bucket::full(None, at(0));
        endless.take(1e18);
        endless.fill(at(1));
        assert_eq!(endless.wait_for(1.0), None);
        assert!(endless.is_full());
    }

    #[test]
    fn a_client_over_its_calls_is_told_when_to_come_again_and_others_are_not_held_up() {
        let quotas = quotas(Limits { calls_a_second: Some(1), ..Limits::default() });
        let (one, other) = (named("one"), named("other"));
        quotas.begin(&one, PUT).unwrap();
        // So far ahead of its time that no pause of the machine makes up for it.
        lock(&quotas.client("one", quotas.0.clock.now()).used).calls.take(99.0);
        let over = quotas.begin(&one, PUT).map(drop).unwrap_err();
        assert!(over.message.starts_with("one makes more than 1 calls a second"), "{over:?}");
        let status = Status::from_header_map(over.to_grpc().headers()).unwrap();
        assert_eq!(status.code(), Code::ResourceExhausted);
        let after = status.get_details_retry_info().unwrap().retry_delay.unwrap();
        assert!(after > Duration::from_secs(50) && after <= Duration::from_secs(100), "{after:?}");
        assert_eq!(status.get_details_error_info().unwrap().reason, "EXHAUSTED");
        let page = over.to_http();
        assert_eq!(page.status(), StatusCode::TOO_MANY_REQUESTS);
        let seconds = page.headers()[RETRY_AFTER].to_str().unwrap().parse::<u64>().unwrap();
        assert_eq!(seconds, after.as_secs_f64().ceil() as u64);
        quotas.begin(&other, PUT).unwrap();
    }

    #[test]
    fn streams_are_counted_while_they_are_open_and_by_kind() {
        let quotas = quotas(Limits { scans: 2, downloads: 1, ..Limits::default() });
        let one = named("one");
        let mut open = vec![quotas.begin(&one, SCAN).unwrap(), quotas.begin(&one, SCAN).unwrap()];
        let over = quotas.begin(&one, SCAN).map(drop).unwrap_err();
        assert!(over.message.contains("has 2 scans open on this node"), "{over:?}");
        open.push(quotas.begin(&one, DOWNLOAD).unwrap());
        let over = quotas.begin(&one, DOWNLOAD).map(drop).unwrap_err();
        assert!(over.message.contains("--client-downloads"), "{over:?}");
        assert!(quotas.begin(&one, PUT).unwrap().is_none(), "it is not limited at all");
        quotas.begin(&named("other"), SCAN).unwrap();
        open.remove(0);
        quotas.begin(&one, SCAN).unwrap();
    }

    #[test]
    fn nobody_in_particular_is_not_limited() {
        let limits = Limits { calls_a_second: Some(1), scans: 1, ..Limits::default() };
        let quotas = quotas(limits);
        for _ in 0..10 {
            assert!(quotas.begin(&Rights::of_anybody(), SCAN).unwrap().is_none());
        }
    }

    #[test]
    fn clients_that_use_nothing_are_forgotten_and_those_that_do_are_not() {
        let quotas = quotas(Limits { scans: 1, ..Limits::default() });
        let reads = named("reads");
        let open = quotas.begin(&reads, SCAN).unwrap();
        for number in 0..2 * limits::IDENTITIES_REMEMBERED {
            quotas.begin(&named(&number.to_string()), SCAN).unwrap();
        }
        assert!(lock(&quotas.0.clients).len() <= limits::IDENTITIES_REMEMBERED);
        assert!(quotas.begin(&reads, SCAN).is_err(), "it is remembered");
        drop(open);
        quotas.begin(&reads, SCAN).unwrap();
    }

    #[tokio::test]
    async fn a_stream_goes_on_as_fast_as_it_is_paid_for_and_a_single_answer_at_once() {
        let bytes = limits::CLIENT_BYTES_A_SECOND_MIN;
        for (path, waits) in [(SCAN, true), (PUT, false)] {
            let limits = Limits { bytes_a_second: Some(bytes), ..Limits::default() };
            let quotas = quotas(limits);
            let share = quotas.begin(&named("one"), path).unwrap().map(Arc::new);
            let body = Body::new(axum::body::Body::from(vec![7; 2 * bytes as usize]));
            let mut answer = Weighed::answer(body, share);
            let mut next =
                async || std::future::poll_fn(|cx| Pin::new(&mut answer).poll_frame(cx)).await;
            let frame = next().await.unwrap().unwrap();
            assert_eq!(frame.data_ref().map(Bytes::len), Some(2 * bytes as usize));
            // The buckets have the machine's clock: no pause of it makes up for so much.
            let now = quotas.0.clock.now();
            lock(&quotas.client("one", now).used).bytes.take(100.0 * bytes as f64);
            let ended = tokio::time::timeout(Duration::from_millis(1), next()).await;
            assert_eq!(ended.is_err(), waits, "{path}");
            let over = quotas.begin(&named("one"), PUT).map(drop).unwrap_err();
            assert!(over.message.contains("bytes a second"), "{over:?}");
            assert!(over.after > Duration::from_secs(50), "{over:?}");
        }
    }
}
