//! A connection that came in, from its first byte on: plain or TLS, and who calls.
//!
//! The first byte decides: 0x16 begins a TLS record, and no HTTP. All of it happens where the
//! connection is read, on the task that serves it, so one that is slow delays no other. Without
//! certificates a node answers TLS with an alert, which says to every TLS client that this is none.

use std::{
    io::{Error as IoError, ErrorKind, IoSlice, Result as IoResult},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{Caller, Tls, belief::Belief};
use crate::{
    base::{limits, metrics::NoHandshake},
    net::cork::Corked,
};

/// The first byte of a TLS connection: a record that holds a handshake.
const HANDSHAKE_RECORD: u8 = 0x16;
/// A fatal alert, `unexpected_message`: what came is no part of what is spoken here.
const NO_TLS_HERE: [u8; 7] = [21, 3, 3, 0, 2, 2, 10];

/// A connection as it came, or inside TLS.
#[derive(Debug)]
pub enum Line {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

type Greeting = Pin<Box<dyn Future<Output = IoResult<(Line, Option<Known>)>> + Send>>;

/// A caller with a certificate that is believed: for how long it is valid, and what was believed.
type Known = (Duration, Belief);

/// A connection that is greeted when it is first read. Corked above TLS, so that a record holds all
/// that is said together.
pub struct Greeted {
    state: State,
    /// The first ends with the certificate of the other side.
    known: Option<(Pin<Box<Sleep>>, Belief)>,
}

enum State {
    Greeting(Greeting),
    Open(Corked<Line>),
    /// The greeting has failed, and said so.
    Over,
}

impl Greeted {
    /// `found` hears who calls, before anything is read.
    pub fn new(
        stream: TcpStream,
        tls: Option<Tls>,
        found: impl FnOnce(Caller) + Send + 'static,
    ) -> Greeted {
        let greeting = async move {
            let Some(tls) = tls else {
                let line = without_certificates(stream).await?;
                found(Caller::Anybody);
                return Ok((line, None));
            };
            let greeted = timeout(limits::HANDSHAKE, greet(stream, &tls)).await;
            let (line, caller, belief) = greeted.unwrap_or_else(|_| {
                tls.metrics().handshake_failed(NoHandshake::Late);
                Err(IoError::new(ErrorKind::TimedOut, "no handshake was done in time"))
            })?;
            let known = match (&caller, belief) {
                (Caller::Known(bearer), Some(belief)) => {
                    // It is valid to the end of its last second.
                    let ends = Duration::from_secs(bearer.until.max(0) as u64 + 1);
                    Some((ends.saturating_sub(Duration::from_millis(tls.now_ms())), belief))
                }
                _ => None,
            };
            found(caller);
            Ok((line, known))
        };
        Greeted { state: State::Greeting(Box::pin(greeting)), known: None }
    }

    fn open(&mut self, cx: &mut Context<'_>) -> Poll<IoResult<&mut Corked<Line>>> {
        if let State::Greeting(greeting) = &mut self.state {
            match ready!(greeting.as_mut().poll(cx)) {
                Ok((line, known)) => {
                    self.known = known.map(|(left, belief)| (Box::pin(sleep(left)), belief));
                    self.state = State::Open(Corked::new(line));
                }
                Err(e) => {
                    self.state = State::Over;
                    return Poll::Ready(Err(e));
                }
            }
        }
        match &mut self.state {
            State::Open(line) => Poll::Ready(Ok(line)),
            _ => Poll::Ready(Err(ErrorKind::NotConnected.into())),
        }
    }

    /// Looks whether the other side's certificate has ended, or is not believed any more.
    fn is_believed(&mut self, cx: &mut Context<'_>) -> IoResult<()> {
        let Some((until, belief)) = &mut self.known else { return Ok(()) };
        let believed = match until.as_mut().poll(cx) {
            Poll::Pending => belief.holds(cx),
            Poll::Ready(()) => {
                Err(IoError::new(ErrorKind::ConnectionAborted, "the certificate has expired"))
            }
        };
        believed.inspect_err(|_| {
            self.known = None;
            self.state = State::Over;
        })
    }
}

/// The first byte, which stays to be read; none at the end of the connection.
async fn first(stream: &TcpStream) -> IoResult<Option<u8>> {
    let mut byte = [0];
    Ok((stream.peek(&mut byte).await? == 1).then_some(byte[0]))
}

async fn without_certificates(mut stream: TcpStream) -> IoResult<Line> {
    if first(&stream).await? != Some(HANDSHAKE_RECORD) {
        return Ok(Line::Plain(stream));
    }
    let mut hello = vec![0; limits::HELLO_BYTES];
    // What is left unread would reset the connection under the answer.
    let _ = stream.read(&mut hello).await?;
    stream.write_all(&NO_TLS_HERE).await?;
    stream.shutdown().await?;
    Err(IoError::new(ErrorKind::InvalidData, "TLS was spoken to a node without certificates"))
}

async fn greet(stream: TcpStream, tls: &Tls) -> IoResult<(Line, Caller, Option<Belief>)> {
    if first(&stream).await? != Some(HANDSHAKE_RECORD) {
        let caller = if tls.is_required() { Caller::Plain } else { Caller::Anybody };
        return Ok((Line::Plain(stream), caller, None));
    }
    let (_under_way, leave) = tls.begin();
    let turns = tls.turns();
    let material = tls.material();
    let accepted = tokio::select! {
        accepted = TlsAcceptor::from(material.server.clone()).accept(stream) => accepted,
        _ = leave => {
            tls.metrics().handshake_failed(NoHandshake::Room);
            return Err(IoError::new(ErrorKind::ConnectionAborted, "too many handshakes"));
        }
    };
    let stream = accepted.inspect_err(|_| tls.metrics().handshake_failed(NoHandshake::Broken))?;
    tls.metrics().handshake_done();
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let caller = material.judge(chain, tls.now_ms()).unwrap_or_else(|(why, kind)| {
        tls.metrics().handshake_failed(kind);
        Caller::Refused(why)
    });
    let belief = Belief::new(tls.clone(), chain, None, turns);
    Ok((Line::Tls(Box::new(stream)), caller, Some(belief)))
}

impl AsyncRead for Greeted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<IoResult<()>> {
        if self.known.as_ref().is_some_and(|(_, belief)| belief.is_asked()) {
            self.is_believed(cx)?;
        }
        let read = Pin::new(ready!(self.open(cx))?).poll_read(cx, into);
        if read.is_pending() {
            self.is_believed(cx)?;
        }
        read
    }
}

impl AsyncWrite for Greeted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<IoResult<usize>> {
        Pin::new(ready!(self.open(cx))?).poll_write(cx, bytes)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<IoResult<usize>> {
        Pin::new(ready!(self.open(cx))?).poll_write_vectored(cx, bytes)
    }
    /// Both kinds of lines are.
    fn is_write_vectored(&self) -> bool {
        true
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<IoResult<()>> {
        match &mut self.state {
            State::Open(line) => Pin::new(line).poll_flush(cx),
            // Nothing was written yet.
            _ => Poll::Ready(Ok(())),
        }
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<IoResult<()>> {
        match &mut self.state {
            State::Open(line) => Pin::new(line).poll_shutdown(cx),
            // It is dropped, and closed with that.
            _ => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncRead for Line {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<IoResult<()>> {
        match self.get_mut() {
            Line::Plain(stream) => Pin::new(stream).poll_read(cx, into),
            Line::Tls(stream) => Pin::new(stream).poll_read(cx, into),
        }
    }
}

impl AsyncWrite for Line {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<IoResult<usize>> {
        match self.get_mut() {
            Line::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Line::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<IoResult<usize>> {
        match self.get_mut() {
            Line::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bytes),
            Line::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bytes),
        }
    }
    fn is_write_vectored(&self) -> bool {
        match self {
            Line::Plain(stream) => stream.is_write_vectored(),
            Line::Tls(stream) => stream.is_write_vectored(),
        }
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<IoResult<()>> {
        match self.get_mut() {
            Line::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Line::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<IoResult<()>> {
        match self.get_mut() {
            Line::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Line::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
