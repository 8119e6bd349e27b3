//! [`Connection`]: an accepted stream with what it owns: its place among the connections, its share of calls,
//! and the two ways in which the server ends it (a client that never speaks HTTP/2, and a drain that is over).

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tokio_util::either::Either;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

/// Bytes that a client sends before anything else: HTTP/2's connection preface. Keepalive pings watch over
/// the connection from there on.
const PREFACE_LENGTH: usize = 24;
/// Time for the preface. It is sent without waiting for anything, so that a few round trips are plenty.
const PREFACE_TIME: Duration = Duration::from_secs(10);

/// What every call of one connection shares.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    /// A permit for each call that runs.
    pub(crate) calls: Arc<Semaphore>,
}

/// A connection that was accepted.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: Either<TcpStream, UnixStream>,
    peer: Peer,
    closed: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Until the preface is there: when it is late, and how much of it is missing.
    preface: Option<(Pin<Box<Sleep>>, usize)>,
    _place: OwnedSemaphorePermit,
}

impl Connection {
    /// A connection that holds `place` as long as it lives, and ends when `close` is cancelled.
    pub(crate) fn new(
        stream: Either<TcpStream, UnixStream>,
        place: OwnedSemaphorePermit,
        calls: usize,
        close: &CancellationToken,
    ) -> Self {
        Self {
            stream,
            peer: Peer { calls: Arc::new(Semaphore::new(calls)) },
            closed: Box::pin(close.child_token().cancelled_owned()),
            preface: Some((Box::pin(tokio::time::sleep(PREFACE_TIME)), PREFACE_LENGTH)),
            _place: place,
        }
    }

    fn is_preface_late(&mut self, cx: &mut Context<'_>) -> bool {
        self.preface.as_mut().is_some_and(|(late, _)| late.as_mut().poll(cx).is_ready())
    }

    fn count_preface(&mut self, read: usize) {
        if let Some((_, missing)) = &mut self.preface {
            *missing = missing.saturating_sub(read);
            if *missing == 0 {
                self.preface = None;
            }
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.closed.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let filled = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        match polled {
            Poll::Pending if self.is_preface_late(cx) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
            Poll::Ready(read) => {
                self.count_preface(buf.filled().len() - filled);
                Poll::Ready(read)
            }
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}
