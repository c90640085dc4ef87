//! A connection that writes once for everything that becomes ready together.
//!
//! HTTP/2 writes to the socket as soon as one of its streams has something to say. Where one event
//! makes many streams ready (a sync that finishes fifty puts, a read that brings fifty requests)
//! that is a system call, a segment and a wakeup of the other side for each, and costs more than
//! the answers. A corked connection lets every task that is ready now run before it writes: the
//! first write after a flush gives way once, and its own task comes back at the end of the
//! scheduler's queue. Nothing waits for a timer; where nobody else is ready it goes out at once.

use std::{
    io::{IoSlice, Result},
    pin::Pin,
    task::{Context, Poll, ready},
};

use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tonic::{
    codegen::http::Uri,
    transport::{Channel, Endpoint, server::Connected},
};

/// See the module.
#[derive(Debug)]
pub struct Corked<S> {
    stream: S,
    /// Whether it has let other tasks run since the last flush.
    gave_way: bool,
}

impl<S> Corked<S> {
    pub fn new(stream: S) -> Corked<S> {
        Corked { stream, gave_way: false }
    }

    fn give_way(&mut self, cx: &Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.gave_way, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Opens a corked connection to an endpoint.
pub async fn connect(endpoint: &Endpoint) -> std::result::Result<Channel, tonic::transport::Error> {
    let open = |to: Uri| async move {
        let at = format!("{}:{}", to.host().unwrap_or_default(), to.port_u16().unwrap_or(80));
        let stream = TcpStream::connect(at).await?;
        stream.set_nodelay(true)?;
        Ok::<_, std::io::Error>(TokioIo::new(Corked::new(stream)))
    };
    endpoint.connect_with_connector(tower::service_fn(open)).await
}

impl<S: Connected> Connected for Corked<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> S::ConnectInfo {
        self.stream.connect_info()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Corked<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Corked<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize>> {
        ready!(self.give_way(cx));
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        ready!(self.give_way(cx));
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.gave_way = false;
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::base::polled::Polled;

    #[tokio::test]
    async fn everything_arrives_in_order_and_a_flush_lets_the_next_write_wait_again() {
        let (near, mut far) = tokio::io::duplex(64);
        let mut corked = Corked::new(near);
        let mut waits = 0;
        for piece in [&b"one "[..], b"two ", b"three"] {
            let mut writing = Polled::new(corked.write_all(piece));
            while writing.poll().is_pending() {
                assert!(writing.is_woken(), "nothing else would go on with it");
                waits += 1;
            }
            drop(writing);
            if piece == b"two " {
                corked.flush().await.unwrap();
            }
        }
        drop(corked);
        let mut all = String::new();
        far.read_to_string(&mut all).await.unwrap();
        assert_eq!((all.as_str(), waits), ("one two three", 2));
    }
}
