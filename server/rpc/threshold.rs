//! The threshold before the doors: what every request passes, and every answer.
//!
//! - It tells the acceptor when a connection has said a whole request, and how many are under way
//!   on it.
//! - A call that its caller may not make goes no further (`callers`). With one that goes on goes
//!   what its caller may do.
//! - A call over the limits of its client goes no further for now (`quotas`).
//! - A `grpc-timeout` that is no time is refused: to take it as none would let a caller wait who
//!   did not mean to.
//! - What tonic refuses by itself (a message that cannot be decoded or is too large, a compression
//!   that nobody speaks, a method that is not there) gets the `ErrorInfo` that every other error
//!   has, and the code that says whose mistake it is.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::http::{HeaderMap, Request, Response, StatusCode, header::CONTENT_TYPE};
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};

use super::{
    access::Access,
    audit::Audit,
    callers::{self, Call},
    parse_timeout,
    quotas::{Quotas, Weighed},
};
use crate::{
    base::error::{Error, Result},
    net::{
        acceptor::{Open, Place},
        tls::Caller,
    },
    wire,
};

const TIMEOUT: &str = "grpc-timeout";
const STATUS: &str = "grpc-status";

/// Lays the threshold before services.
#[derive(Clone)]
pub struct Threshold {
    pub access: Access,
    pub audit: Audit,
    pub quotas: Quotas,
}

/// Services beyond the threshold.
#[derive(Clone)]
pub struct Beyond<S> {
    threshold: Threshold,
    inner: S,
}

impl<S> Layer<S> for Threshold {
    type Service = Beyond<S>;

    fn layer(&self, inner: S) -> Beyond<S> {
        Beyond { threshold: self.clone(), inner }
    }
}

type Answer<B> = Pin<Box<dyn Future<Output = Result<Response<B>, Infallible>> + Send>>;

impl<S> Service<Request<Body>> for Beyond<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Answering>;
    type Error = Infallible;
    type Future = Answer<Answering>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let place = request.extensions().get::<Arc<Place>>().cloned();
        let open = place.as_ref().map(Place::open);
        let grpc = is_grpc(request.headers());
        let answering = move |response: Response<Body>, share| {
            Ok(response.map(|body| Answering { body: Weighed::answer(body, share), _open: open }))
        };
        let Threshold { access, audit, quotas } = &self.threshold;
        if let Some(place) = &place {
            place.calls(callers::kind(request.uri().path()));
        }
        let call = Call {
            caller: place.as_ref().map_or(&Caller::Nobody, |place| place.caller()),
            is_local: place.as_ref().is_some_and(|place| place.is_local()),
            headers: request.headers(),
            path: request.uri().path(),
        };
        let is_node = call.caller.is_node();
        let rights = match callers::may_call(access, call) {
            Ok(rights) => rights,
            Err(refusal) => {
                let refused = if grpc { refusal.to_grpc() } else { refusal.to_http() };
                let (audit, from) = (audit.clone(), place.as_ref().map(|p| p.address()));
                let path = request.uri().path().to_owned();
                return Box::pin(async move {
                    if refusal.is_denial() {
                        audit.denied(&path, refusal.who(), from, refusal.why()).await;
                    }
                    answering(refused, None)
                });
            }
        };
        let begun = if is_node { Ok(None) } else { quotas.begin(&rights, request.uri().path()) };
        let share = match begun {
            Ok(share) => share.map(Arc::new),
            Err(over) => {
                let refused = if grpc { over.to_grpc() } else { over.to_http() };
                return Box::pin(async { answering(refused, None) });
            }
        };
        request.extensions_mut().insert(rights);
        if grpc && let Err(e) = timeout_is_one(request.headers()) {
            let refused = wire::status_of(&e).into_http();
            return Box::pin(async { answering(refused, None) });
        }
        let request = share.iter().fold(request, |request, share| share.weigh(request));
        let request = match place.filter(|place| !place.has_said()) {
            None => request,
            // Some doors do not look for a message.
            Some(place) if request.body().is_end_stream() => {
                place.says();
                request
            }
            Some(place) => request
                .map(|body| Body::new(First { body, place, grpc, message: Message::default() })),
        };
        let answer = self.inner.call(request);
        Box::pin(async move {
            let response = answer.await?;
            answering(if grpc { explained(response) } else { response }, share)
        })
    }
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

fn timeout_is_one(headers: &HeaderMap) -> Result<()> {
    let Some(said) = headers.get(TIMEOUT) else { return Ok(()) };
    let parsed = said.to_str().ok().and_then(parse_timeout);
    parsed.map(drop).ok_or_else(|| {
        Error::invalid(format!(
            "{TIMEOUT} {said:?} is no time: write 1 to 8 digits and one of H, M, S, m, u, n"
        ))
    })
}

/// Gives what tonic says by itself the form of what we say.
fn explained(response: Response<Body>) -> Response<Body> {
    let status = match Status::from_header_map(response.headers()) {
        Some(status) => status,
        None if response.status() == StatusCode::OK && !response.headers().contains_key(STATUS) => {
            return response;
        }
        // A page that is not there, or not for calls.
        None => Status::new(Code::Unimplemented, ""),
    };
    wire::explained(&status).map_or(response, |status| status.into_http())
}

/// An answer on its way: the request is under way until its end.
pub struct Answering {
    body: Weighed,
    _open: Option<Open>,
}

impl HttpBody for Answering {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }
    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of the first request of a connection: it is said when its message is whole, or when it
/// has ended.
struct First {
    body: Body,
    place: Arc<Place>,
    grpc: bool,
    message: Message,
}

/// How much of a gRPC message has come: a flag, four bytes of its length, and so many bytes.
#[derive(Debug, Default)]
struct Message {
    head: Vec<u8>,
    bytes: usize,
}

impl Message {
    const HEAD: usize = 5;

    /// Whether these bytes complete the message.
    fn is_whole_with(&mut self, data: &[u8]) -> bool {
        let missing = Self::HEAD - self.head.len();
        self.head.extend(data.iter().take(missing));
        self.bytes += data.len();
        match self.head[..] {
            [_, a, b, c, d] => self.bytes >= Self::HEAD + u32::from_be_bytes([a, b, c, d]) as usize,
            _ => false,
        }
    }
}

impl HttpBody for First {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let data = match &frame {
            Some(Ok(frame)) => frame.data_ref(),
            _ => None,
        };
        let whole = match data {
            Some(data) => {
                self.place.goes_on(data.len());
                self.grpc && self.message.is_whole_with(data)
            }
            None => !matches!(frame, Some(Err(_))),
        };
        if whole || self.body.is_end_stream() {
            self.place.says();
        }
        Poll::Ready(frame)
    }
    fn is_end_stream(&self) -> bool {
        let ended = self.body.is_end_stream();
        if ended {
            self.place.says();
        }
        ended
    }
    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_whole_with_its_last_byte_in_whatever_pieces_it_comes() {
        let message = [0, 0, 0, 0, 3, 7, 7, 7];
        for piece in 1..=message.len() {
            let mut coming = Message::default();
            let whole: Vec<_> =
                message.chunks(piece).map(|bytes| coming.is_whole_with(bytes)).collect();
            assert!(
                whole.iter().rev().skip(1).all(|whole| !whole) && whole.ends_with(&[true]),
                "{piece}: {whole:?}"
            );
        }
        assert!(Message::default().is_whole_with(&[0; 5]), "an empty one");
        assert!(!Message::default().is_whole_with(&[0; 4]));
    }

    #[test]
    fn a_timeout_that_is_no_time_is_refused_by_name() {
        let check = |text: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.insert(TIMEOUT, text.try_into().unwrap());
            timeout_is_one(&headers)
        };
        for fine in ["1S", "0n", "99999999H", "10000m"] {
            check(fine.as_bytes()).unwrap();
        }
        for wrong in ["-1S", "+1S", "1", "S", "", "1.5S", "999999999S", "1s", "1 S", "1\u{e9}"] {
            let e = check(wrong.as_bytes()).unwrap_err();
            assert!(e.message.contains("is no time"), "{wrong}: {e}");
        }
        assert_eq!(timeout_is_one(&HeaderMap::new()), Ok(()));
    }
}
