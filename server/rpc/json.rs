//! The contract as JSON over HTTP, for `curl`, browsers, and whatever speaks no gRPC.
//!
//! A `POST` of `application/json` to the path of a method, such as
//! `/devicedb.v1.ClusterService/GetOverview`, becomes the gRPC call that it stands for, and its
//! answer becomes JSON. That is the unary part of the [Connect protocol][connect], in the
//! [canonical JSON of protobuf][canonical], so that clients of that protocol work as well.
//!
//! - It stands before the threshold: who may call, limits of clients, deadlines and the audit log
//!   see the gRPC call, and nothing here decides about any of them.
//! - Only methods of the public contract that have one question and one answer.
//! - A field that the contract does not have is refused by name.
//! - Without TLS, a browser is answered only where it was sent to this node by an address, by
//!   `localhost`, or by the host that the node advertises. Otherwise a page of any site, whose name
//!   it gives the address of this node, could call in the name of whoever looks at it.
//!
//! [connect]: https://connectrpc.com/docs/protocol
//! [canonical]: https://protobuf.dev/programming-guides/json/

use std::{
    convert::Infallible,
    future::poll_fn,
    mem,
    net::IpAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
};

use axum::http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, ORIGIN, TE, TRANSFER_ENCODING},
    request::Parts,
};
use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use bytes::{Buf as _, Bytes, BytesMut};
use http_body::Body as HttpBody;
use prost::Message as _;
use prost_reflect::{
    DescriptorPool, DeserializeOptions, DynamicMessage, MessageDescriptor, MethodDescriptor,
};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::{sync::Semaphore, time::timeout};
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};

use crate::{
    base::{
        error::{Error, Result},
        limits,
    },
    net::{acceptor::Place, tls::Caller},
    proto, wire,
};

/// What stands before a message of gRPC: whether it is compressed, and its length.
const HEAD: usize = 5;
const CONNECT_TIMEOUT: &str = "connect-timeout-ms";

/// Lays the translation before the threshold.
#[derive(Clone)]
pub struct Json(Arc<Shared>);

struct Shared {
    contract: Contract,
    /// For questions that are large, or may be: so many come at once.
    room: Semaphore,
    /// The host that the node advertises.
    host: String,
}

impl Json {
    /// `advertised` is where others reach the node, as HOST:PORT.
    pub fn new(advertised: &str) -> Result<Json> {
        let host = host_of(advertised).to_owned();
        let (contract, room) = (Contract::read()?, Semaphore::new(limits::JSON_LARGE_MAX));
        Ok(Json(Arc::new(Shared { contract, room, host })))
    }
}

impl<S> Layer<S> for Json {
    type Service = Translated<S>;

    fn layer(&self, inner: S) -> Translated<S> {
        Translated { json: self.clone(), inner }
    }
}

/// Services that understand JSON too.
#[derive(Clone)]
pub struct Translated<S> {
    json: Json,
    inner: S,
}

type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

impl<S, B> Service<Request<Body>> for Translated<S>
where
    S: Service<Request<Body>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
    B: HttpBody<Data = Bytes, Error = Status> + Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Answer {
        if !is_json(&request) {
            let answer = self.inner.call(request);
            return Box::pin(async { Ok(answer.await?.map(Body::new)) });
        }
        // The one that is ready answers; its copy is made ready for the next call.
        let next = self.inner.clone();
        let ready = mem::replace(&mut self.inner, next);
        let shared = self.json.0.clone();
        Box::pin(async move {
            Ok(shared
                .answer(request, ready)
                .await
                .unwrap_or_else(|status| refused(&status, &shared)))
        })
    }
}

impl Shared {
    async fn answer<S, B>(
        &self,
        request: Request<Body>,
        mut inner: S,
    ) -> Result<Response<Body>, Status>
    where
        S: Service<Request<Body>, Response = Response<B>, Error = Infallible>,
        B: HttpBody<Data = Bytes, Error = Status>,
    {
        self.is_meant(&request).map_err(|e| wire::status_of(&e))?;
        let method = self.contract.method(request.uri().path())?;
        let (parts, body) = request.into_parts();
        let question = self.read(&parts.headers, body).await?;
        let question = parse(&method.input(), &question).map_err(|e| wire::status_of(&e))?;
        let Ok(answered) = inner.call(call(parts, &question)?).await;
        let answer = unframed(answered).await?;
        let answer = DynamicMessage::decode(method.output(), answer)
            .map_err(|e| Status::internal(format!("the answer cannot be read: {e}")))?;
        Ok(document(StatusCode::OK, &answer))
    }

    /// Refuses a browser that a page has perhaps sent here under a name of its own.
    fn is_meant(&self, request: &Request<Body>) -> Result<()> {
        let place = request.extensions().get::<Arc<Place>>();
        let plain = place.is_none_or(|place| *place.caller() == Caller::Anybody);
        let headers = request.headers();
        if !plain || !headers.contains_key(ORIGIN) {
            return Ok(());
        }
        let named = headers.get(HOST).and_then(|host| host.to_str().ok());
        let named = request.uri().authority().map(|authority| authority.as_str()).or(named);
        let host = host_of(named.unwrap_or_default());
        let is_known = host == "localhost"
            || host == self.host
            || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
        if is_known {
            return Ok(());
        }
        Err(Error::denied(format!(
            "without TLS a browser is answered at an address, at localhost, or at {}, and it was \
             sent to {host:?}",
            self.host
        )))
    }

    /// The whole body of a question.
    async fn read(&self, headers: &HeaderMap, body: Body) -> Result<Bytes, Status> {
        if let Some(encoding) = headers.get(CONTENT_ENCODING).filter(|e| *e != "identity") {
            let what = format!("the body is encoded as {encoding:?}: send it as it is");
            return Err(wire::status_of(&Error::invalid(what)));
        }
        let length = headers.get(CONTENT_LENGTH).and_then(|l| l.to_str().ok()?.parse().ok());
        let small = length.is_some_and(|length: usize| length <= limits::JSON_SMALL_BYTES);
        let _room = match small {
            true => None,
            false => {
                let room = timeout(limits::JSON_WAIT, self.room.acquire()).await;
                let full = || Error::exhausted("too many large documents come at once; retry");
                Some(room.map_err(|_| wire::status_of(&full()))?)
            }
        };
        let whole = collect(body, limits::JSON_BYTES_MAX);
        let late = |_| wire::status_of(&Error::unavailable("the document did not come in time"));
        let (whole, _) = timeout(limits::JSON_WAIT, whole).await.map_err(late)??;
        Ok(whole)
    }
}

/// The public contract.
struct Contract(DescriptorPool);

impl Contract {
    fn read() -> Result<Contract> {
        let mut pool = DescriptorPool::new();
        // What errors carry is described too.
        for described in [proto::DESCRIPTORS, tonic_types::pb::FILE_DESCRIPTOR_SET] {
            pool.decode_file_descriptor_set(described).map_err(|e| {
                Error::unavailable(format!("the contract cannot be read: {e}")).with_source(e)
            })?;
        }
        Ok(Contract(pool))
    }

    fn method(&self, path: &str) -> Result<MethodDescriptor, Status> {
        let unknown = || {
            let what = format!(
                "{path} is no method: POST to one such as /devicedb.v1.ClusterService/GetOverview"
            );
            Status::new(Code::Unimplemented, what)
        };
        let (service, method) = path.trim_start_matches('/').split_once('/').ok_or_else(unknown)?;
        let service = service.starts_with("devicedb.v1.").then_some(service);
        let service = service.and_then(|name| self.0.get_service_by_name(name));
        let method = service.and_then(|service| service.methods().find(|m| m.name() == method));
        let method = method.ok_or_else(unknown)?;
        if method.is_server_streaming() || method.is_client_streaming() {
            let what = format!("{} answers with a stream, which only gRPC has here", method.name());
            return Err(Status::new(Code::Unimplemented, what));
        }
        Ok(method)
    }

    /// A detail of an error, as far as its type is known.
    fn readable(&self, detail: &Detail) -> Option<DynamicMessage> {
        let of = self.0.get_message_by_name(detail.name())?;
        DynamicMessage::decode(of, &detail.value[..]).ok()
    }
}

fn is_json(request: &Request<Body>) -> bool {
    let kind = request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let kind = kind.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    request.method() == Method::POST && kind.eq_ignore_ascii_case("application/json")
}

/// The host of HOST:PORT.
fn host_of(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    }
}

/// A message of the contract, encoded, from a document; an empty one asks for nothing in
/// particular.
fn parse(kind: &MessageDescriptor, document: &[u8]) -> Result<Vec<u8>> {
    let document = if document.trim_ascii().is_empty() { b"{}" } else { document };
    let wrong = |e: serde_json::Error| {
        Error::invalid(format!("the document is no {}: {e}", kind.full_name())).with_source(e)
    };
    let mut reader = serde_json::Deserializer::from_slice(document);
    let options = DeserializeOptions::new().deny_unknown_fields(true);
    let message = DynamicMessage::deserialize_with_options(kind.clone(), &mut reader, &options)
        .map_err(wrong)?;
    reader.end().map_err(wrong)?;
    let encoded = message.encode_to_vec();
    if encoded.len() > limits::MESSAGE_BYTES_MAX {
        return Err(Error::invalid(format!(
            "the document says more than a message may hold, {} bytes",
            limits::MESSAGE_BYTES_MAX
        )));
    }
    Ok(encoded)
}

/// The gRPC call that a question stands for: the same caller, the same connection.
fn call(mut parts: Parts, question: &[u8]) -> Result<Request<Body>, Status> {
    for dropped in [CONTENT_LENGTH, TRANSFER_ENCODING, CONTENT_ENCODING] {
        parts.headers.remove(dropped);
    }
    parts.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc+proto"));
    parts.headers.insert(TE, HeaderValue::from_static("trailers"));
    if let Some(said) = parts.headers.remove(CONNECT_TIMEOUT) {
        let is_time = said.len() <= 8 && said.as_bytes().iter().all(u8::is_ascii_digit);
        let time = said.to_str().ok().filter(|_| is_time && !said.is_empty());
        let time = time.and_then(|ms| HeaderValue::try_from(format!("{ms}m")).ok());
        let wrong = || Error::invalid(format!("{CONNECT_TIMEOUT} {said:?} is no time"));
        let time = time.ok_or_else(|| wire::status_of(&wrong()))?;
        parts.headers.insert(HeaderName::from_static("grpc-timeout"), time);
    }
    parts.version = Version::HTTP_2;
    let mut framed = BytesMut::with_capacity(HEAD + question.len());
    framed.extend_from_slice(&[0]);
    framed.extend_from_slice(&(question.len() as u32).to_be_bytes());
    framed.extend_from_slice(question);
    let body = axum::body::Body::from(framed.freeze());
    Ok(Request::from_parts(parts, Body::new(body)))
}

/// The message of a gRPC answer, or the status that it ended with.
async fn unframed<B>(answered: Response<B>) -> Result<Bytes, Status>
where
    B: HttpBody<Data = Bytes, Error = Status>,
{
    let (parts, body) = answered.into_parts();
    if let Some(status) = Status::from_header_map(&parts.headers) {
        ended_well(status)?;
    }
    let (mut message, trailers) = collect(body, usize::MAX).await?;
    if let Some(status) = trailers.as_ref().and_then(Status::from_header_map) {
        ended_well(status)?;
    }
    if message.len() < HEAD {
        return Err(Status::internal("there was no answer"));
    }
    message.advance(HEAD);
    Ok(message)
}

fn ended_well(status: Status) -> Result<(), Status> {
    if status.code() == Code::Ok { Ok(()) } else { Err(status) }
}

/// All bytes of a body, and its trailers.
async fn collect<B>(body: B, most: usize) -> Result<(Bytes, Option<HeaderMap>), Status>
where
    B: HttpBody<Data = Bytes, Error = Status>,
{
    let (mut body, mut bytes, mut trailers) = (pin!(body), BytesMut::new(), None);
    while let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        match frame?.into_data() {
            Ok(data) if bytes.len() + data.len() > most => {
                let what = format!("the document has more than {most} bytes");
                return Err(wire::status_of(&Error::invalid(what)));
            }
            Ok(data) => bytes.extend_from_slice(&data),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    Ok((bytes.freeze(), trailers))
}

fn document(code: StatusCode, what: &impl Serialize) -> Response<Body> {
    let mut text = serde_json::to_vec(what).unwrap_or_else(|_| b"{}".to_vec());
    text.push(b'\n');
    let mut response = Response::new(Body::new(axum::body::Body::from(text)));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// `google.rpc.Status`, as far as it matters here.
#[derive(Clone, PartialEq, prost::Message)]
struct Rich {
    #[prost(message, repeated, tag = "3")]
    details: Vec<Detail>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, prost::Message)]
struct Detail {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

impl Detail {
    fn name(&self) -> &str {
        self.type_url.rsplit('/').next().unwrap_or_default()
    }
}

/// An error as the protocol has it: a code in words, what went wrong, and what gRPC tells besides.
fn refused(status: &Status, shared: &Shared) -> Response<Body> {
    let rich = Rich::decode(status.details()).unwrap_or_default();
    let detail = |detail: &Detail| {
        let mut told =
            json!({ "type": detail.name(), "value": STANDARD_NO_PAD.encode(&detail.value) });
        if let Some(readable) = shared.contract.readable(detail)
            && let Ok(readable) = serde_json::to_value(&readable)
        {
            told["debug"] = readable;
        }
        told
    };
    let details: Vec<Value> = rich.details.iter().map(detail).collect();
    let (http, code) = named(status.code());
    document(http, &json!({ "code": code, "message": status.message(), "details": details }))
}

/// A code's status of HTTP, and its name in documents.
fn named(code: Code) -> (StatusCode, &'static str) {
    match code {
        Code::Ok => (StatusCode::OK, "ok"),
        Code::Cancelled => (StatusCode::REQUEST_TIMEOUT, "canceled"),
        Code::Unknown => (StatusCode::INTERNAL_SERVER_ERROR, "unknown"),
        Code::InvalidArgument => (StatusCode::BAD_REQUEST, "invalid_argument"),
        Code::DeadlineExceeded => (StatusCode::GATEWAY_TIMEOUT, "deadline_exceeded"),
        Code::NotFound => (StatusCode::NOT_FOUND, "not_found"),
        Code::AlreadyExists => (StatusCode::CONFLICT, "already_exists"),
        Code::PermissionDenied => (StatusCode::FORBIDDEN, "permission_denied"),
        Code::ResourceExhausted => (StatusCode::TOO_MANY_REQUESTS, "resource_exhausted"),
        Code::FailedPrecondition => (StatusCode::BAD_REQUEST, "failed_precondition"),
        Code::Aborted => (StatusCode::CONFLICT, "aborted"),
        Code::OutOfRange => (StatusCode::BAD_REQUEST, "out_of_range"),
        Code::Unimplemented => (StatusCode::NOT_IMPLEMENTED, "unimplemented"),
        Code::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
        Code::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        Code::DataLoss => (StatusCode::INTERNAL_SERVER_ERROR, "data_loss"),
        Code::Unauthenticated => (StatusCode::UNAUTHORIZED, "unauthenticated"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared() -> Shared {
        let Json(shared) = Json::new("db1.example:8080").unwrap();
        Arc::into_inner(shared).unwrap()
    }

    #[test]
    fn every_public_method_with_one_answer_is_found_and_no_other() {
        let contract = Contract::read().unwrap();
        let mut streams = Vec::new();
        for service in contract.0.services().filter(|s| s.package_name() == "devicedb.v1") {
            for method in service.methods() {
                let path = format!("/{}/{}", service.full_name(), method.name());
                match contract.method(&path) {
                    Ok(found) => assert_eq!(found, method),
                    Err(status) => {
                        assert!(status.message().contains("stream"), "{path}: {status}");
                        streams.push(method.name().to_owned());
                    }
                }
            }
        }
        streams.sort();
        assert_eq!(streams, ["DownloadSnapshot", "Scan"]);
        for path in [
            "/",
            "/metrics",
            "/devicedb.v1.KvService",
            "/devicedb.v1.KvService/Nothing",
            "/devicedb.internal.v1.PeerService/Join",
            "/grpc.health.v1.Health/Check",
        ] {
            let status = contract.method(path).unwrap_err();
            assert!(status.message().contains("is no method"), "{path}: {status}");
        }
    }

    #[test]
    fn documents_are_read_as_the_contract_has_them_and_wrong_ones_are_told_where() {
        let contract = Contract::read().unwrap();
        let put = contract.method("/devicedb.v1.KvService/Put").unwrap().input();
        let read = |text: &str| parse(&put, text.as_bytes());
        let encoded = read(r#"{"site": "s", "key": "aw==", "value": "dg=="}"#).unwrap();
        let there = proto::v1::PutRequest::decode(&encoded[..]).unwrap();
        assert_eq!(
            (&there.site[..], &there.key[..], &there.value[..]),
            ("s", &b"k"[..], &b"v"[..])
        );
        assert_eq!(read("").unwrap(), read(" {} ").unwrap());
        for (text, why) in [
            (r#"{"sight": "s"}"#, "sight"),
            (r#"{"site": 7}"#, "line 1"),
            (r#"{"site": "s"} {}"#, "trailing"),
            ("{", "EOF"),
            ("[]", "PutRequest"),
            (r#"{"key": "?"}"#, "base64"),
        ] {
            let e = read(text).unwrap_err();
            assert!(e.message.contains(why), "{text}: {e}");
        }
        assert_eq!(host_of("a.example:80"), "a.example");
        assert_eq!(host_of("[::1]:80"), "[::1]");
        assert_eq!(host_of("[::1]"), "[::1]");
    }

    #[test]
    fn a_browser_without_tls_is_answered_only_where_it_was_meant_to_go() {
        let shared = shared();
        let asked = |host: &str, origin: Option<&str>| {
            let mut request = Request::builder().method("POST").header(HOST, host);
            if let Some(origin) = origin {
                request = request.header(ORIGIN, origin);
            }
            shared.is_meant(&request.body(Body::default()).unwrap()).is_ok()
        };
        for host in ["127.0.0.1:8080", "[::1]:8080", "localhost:8080", "localhost", "db1.example:1"]
        {
            assert!(asked(host, Some("http://whoever.example")), "{host}");
        }
        for host in ["evil.example:8080", "localhost.evil.example", "db1.example.evil", ""] {
            assert!(!asked(host, Some("http://evil.example:8080")), "{host}");
            assert!(asked(host, None), "it is no browser: {host}");
        }
    }

    #[test]
    fn an_error_says_what_grpc_says() {
        let status = wire::status_of(&Error::not_found("there is no site"));
        let response = refused(&status, &shared());
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
        let body = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (bytes, _) = body.block_on(collect(response.into_body(), 10_000)).unwrap();
        let told: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(
            (&told["code"], &told["message"]),
            (&json!("not_found"), &json!("there is no site"))
        );
        let detail = &told["details"][0];
        assert_eq!(detail["type"], "google.rpc.ErrorInfo");
        assert_eq!(detail["debug"]["domain"], "devicedb");
        assert_eq!(detail["debug"]["reason"], "NOT_FOUND");
    }
}
