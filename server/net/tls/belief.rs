//! Whether the other side of a connection that stands is believed still.
//!
//! A handshake believes by the files of its moment. When other CAs or other revocations are in use,
//! every connection asks again, at its next read or at once where it is idle, and ends if the
//! answer is no. Nothing else is asked again: a certificate that was replaced is no reason.

use std::{
    io::{Error as IoError, ErrorKind, IoSlice, Result as IoResult},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::watch,
};
use tokio_rustls::{
    client::TlsStream,
    rustls::pki_types::{CertificateDer, ServerName},
};

use super::{Caller, Tls};

/// What was believed of the other side.
pub struct Belief {
    tls: Tls,
    chain: Vec<CertificateDer<'static>>,
    /// By which name it was dialled, if it was.
    dialled: Option<ServerName<'static>>,
    turns: watch::Receiver<()>,
    /// Ends when others are believed than before.
    turn: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Belief {
    /// What the other side has shown, and by which name it was dialled. `turns` was taken before it
    /// was judged, so that nothing is missed.
    pub fn new(
        tls: Tls,
        chain: &[CertificateDer<'_>],
        dialled: Option<ServerName<'static>>,
        turns: watch::Receiver<()>,
    ) -> Belief {
        let chain = chain.iter().map(|one| one.clone().into_owned()).collect();
        let turn = next(turns.clone());
        Belief { tls, chain, dialled, turns, turn }
    }

    /// Whether there is something to ask.
    pub fn is_asked(&self) -> bool {
        self.turns.has_changed().unwrap_or_default()
    }

    /// Looks whether there is something to ask, and asks; wakes the task when there will be.
    pub fn holds(&mut self, cx: &mut Context<'_>) -> IoResult<()> {
        while self.turn.as_mut().poll(cx).is_ready() {
            self.turns.mark_unchanged();
            self.turn = next(self.turns.clone());
            self.judge().map_err(|why| {
                let whose = self.whose();
                tracing::warn!(whose, why, "a connection ends: its certificate is not believed");
                IoError::new(ErrorKind::ConnectionAborted, why)
            })?;
        }
        Ok(())
    }

    fn judge(&self) -> Result<(), String> {
        let (material, now) = (self.tls.material(), self.tls.now_ms());
        match &self.dialled {
            Some(name) => material.judge_called(&self.chain, name, now),
            None => match material.judge(&self.chain, now) {
                Ok(Caller::Known(_)) => Ok(()),
                Ok(_) => Err("the certificate names nobody".into()),
                Err((why, _)) => Err(why),
            },
        }
    }

    fn whose(&self) -> String {
        let shown = self.chain.first().and_then(|shown| super::Certificate::parse(shown).ok());
        let bearer = shown.and_then(|shown| shown.bearer().ok());
        bearer.map_or("nobody".into(), |bearer| bearer.name)
    }
}

fn next(mut turns: watch::Receiver<()>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(async move {
        if turns.changed().await.is_err() {
            // The node stops, and nothing changes any more.
            std::future::pending::<()>().await;
        }
    })
}

/// A connection that was dialled, for as long as the other side is believed.
pub struct Believing {
    stream: TlsStream<TcpStream>,
    /// None where nobody watches the files.
    belief: Option<Belief>,
}

impl Believing {
    pub fn new(stream: TlsStream<TcpStream>, belief: Option<Belief>) -> Believing {
        Believing { stream, belief }
    }
}

impl AsyncRead for Believing {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<IoResult<()>> {
        let Believing { stream, belief } = &mut *self;
        let Some(belief) = belief else { return Pin::new(stream).poll_read(cx, into) };
        if belief.is_asked() {
            belief.holds(cx)?;
        }
        let read = Pin::new(stream).poll_read(cx, into);
        if read.is_pending() {
            belief.holds(cx)?;
        }
        read
    }
}

impl AsyncWrite for Believing {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<IoResult<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<IoResult<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<IoResult<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<IoResult<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
