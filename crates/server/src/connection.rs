//! [`Connection`]: an accepted stream with what it owns: its place among the connections, and the ways in which
//! the server ends it: a client that does not speak HTTP/2 by and by, or has not yet when the server stops, and a
//! drain that is over. [`Accepted`]: one whose handshake, if it has one, is still to come. [`Peer`]: what the calls of one connection share.

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

use crate::tls::{Tls, TlsStream};
use crate::wire::Account;

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
    /// Its answers that are not sent yet.
    pub(crate) account: Account,
    /// Its other end, for the log.
    pub(crate) name: Arc<str>,
}

type Cancelled = Pin<Box<WaitForCancellationFutureOwned>>;

/// When the server stops, and when it ends what still runs then.
#[derive(Clone, Debug)]
pub(crate) struct Ends {
    /// Connections drain.
    pub(crate) stopping: CancellationToken,
    /// Connections close.
    pub(crate) closing: CancellationToken,
}

/// What is waited for before a connection is one of HTTP/2.
#[derive(Debug)]
struct Preface {
    missing: usize,
    late: Pin<Box<Sleep>>,
    /// HTTP/2 cannot be told to drain before it has begun.
    stopping: Cancelled,
}

/// A stream as it is accepted.
pub(crate) type Plain = Either<TcpStream, UnixStream>;

/// A stream that was accepted, with its place.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) stream: Plain,
    pub(crate) place: OwnedSemaphorePermit,
    /// What its handshake is made with, if it has to make one.
    pub(crate) tls: Option<Arc<Tls>>,
}

impl Accepted {
    /// The connection, after its handshake. `None`: there is none, because that failed or the server stops.
    pub(crate) async fn open(self, ends: &Ends) -> Option<Connection> {
        let Self { stream, place, tls } = self;
        let stream = match (stream, tls) {
            (Either::Left(tcp), Some(tls)) => {
                // Large, and over long before the connection is.
                let handshake = Box::pin(async move { tls.accept(tcp).await });
                Either::Right(ends.stopping.run_until_cancelled(handshake).await??)
            }
            (plain, _) => Either::Left(plain),
        };
        Some(Connection::new(stream, place, ends))
    }
}

/// A connection that speaks HTTP/2, or should.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: Either<Plain, Box<TlsStream>>,
    closed: Cancelled,
    /// Until the preface is there.
    preface: Option<Preface>,
    _place: OwnedSemaphorePermit,
}

impl Connection {
    /// A connection that holds `place` as long as it lives.
    fn new(stream: Either<Plain, Box<TlsStream>>, place: OwnedSemaphorePermit, ends: &Ends) -> Self {
        Self {
            stream,
            closed: Box::pin(ends.closing.child_token().cancelled_owned()),
            preface: Some(Preface {
                missing: PREFACE_LENGTH,
                late: Box::pin(tokio::time::sleep(PREFACE_TIME)),
                stopping: Box::pin(ends.stopping.child_token().cancelled_owned()),
            }),
            _place: place,
        }
    }

    /// What to call its other end in a log.
    pub(crate) fn peer_name(&self) -> Arc<str> {
        let tcp = match &self.stream {
            Either::Left(Either::Left(tcp)) => tcp,
            Either::Left(Either::Right(_)) => return "unix".into(),
            Either::Right(tls) => tls.get_ref().0,
        };
        tcp.peer_addr().map_or_else(|_| "gone".into(), |addr| addr.to_string().into())
    }

    fn is_preface_given_up(&mut self, cx: &mut Context<'_>) -> bool {
        self.preface.as_mut().is_some_and(|preface| {
            preface.late.as_mut().poll(cx).is_ready() || preface.stopping.as_mut().poll(cx).is_ready()
        })
    }

    fn count_preface(&mut self, read: usize) {
        if let Some(preface) = &mut self.preface {
            preface.missing = preface.missing.saturating_sub(read);
            if preface.missing == 0 {
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
            Poll::Pending if self.is_preface_given_up(cx) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
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
