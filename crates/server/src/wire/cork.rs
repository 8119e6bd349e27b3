//! [`Corked`]: a connection that holds back small writes until it is told that no more come for now.
//!
//! HTTP/2's library writes each larger frame by a system call of its own, and the trailers by another. For an
//! answer of 4 KiB these cost more than all else together. So what is small is copied here and sent with what
//! comes next, by one call; what is large is sent from where it lies, by the call that it would have made anyway.
//! Where much comes in and goes out in one turn, what is held is sent on the way, so that the client is at work on it
//! while the rest is served.
//!
//! Invariants: bytes leave in the order they came; at most [`HELD_MAX`] bytes are held; whoever drives the
//! connection calls [`Corked::poll_uncork`] before it rests, so that nothing stays behind.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes up to which a write is copied: about what a system call costs.
const COPY_MAX: usize = 16 * 1024;
/// The most bytes held back.
const HELD_MAX: usize = 128 * 1024;
/// Small writes after which what is held is sent before more is read. Of 64 unary writes in flight over a unix socket
/// 77,000 a second were served when all answers went out together, and 109,000 so; with 8, reads became slower.
const WRITES_MAX: usize = 32;

/// A connection that is corked. Its clones are the same connection.
#[derive(Debug)]
pub(crate) struct Corked<T>(Arc<Mutex<Inner<T>>>);

#[derive(Debug)]
struct Inner<T> {
    io: T,
    held: BytesMut,
    /// Writes that went into it since it was sent.
    writes: usize,
}

impl<T> Corked<T> {
    /// Corks `io`.
    pub(crate) fn new(io: T) -> Self {
        Self(Arc::new(Mutex::new(Inner { io, held: BytesMut::new(), writes: 0 })))
    }
}

impl<T> Clone for Corked<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: AsyncWrite + Unpin> Corked<T> {
    /// Sends what is held.
    pub(crate) fn poll_uncork(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.lock().poll_uncork(cx)
    }
}

impl<T: AsyncWrite + Unpin> Inner<T> {
    fn poll_uncork(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writes = 0;
        while !self.held.is_empty() {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, &self.held))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.held.advance(written);
        }
        // Below TLS there is a buffer of its own, with what the socket did not take.
        Pin::new(&mut self.io).poll_flush(cx)
    }

    /// Sends what is held and, by the same call, `slices`: answers how many bytes of these.
    fn poll_write_behind(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        loop {
            if self.held.is_empty() {
                return Pin::new(&mut self.io).poll_write_vectored(cx, slices);
            }
            let written = {
                let held = [IoSlice::new(&self.held)].into_iter();
                let all: SmallVec<[IoSlice<'_>; 96]> = held.chain(slices.iter().copied()).collect();
                ready!(Pin::new(&mut self.io).poll_write_vectored(cx, &all))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let held = self.held.len();
            self.held.advance(written.min(held));
            if written > held {
                return Poll::Ready(Ok(written - held));
            }
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Corked<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.0.lock();
        // What the socket does not take now is sent with what comes next.
        if inner.writes >= WRITES_MAX
            && let Poll::Ready(Err(error)) = inner.poll_uncork(cx)
        {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut inner.io).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Corked<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.0.lock();
        let length = slices.iter().map(|slice| slice.len()).sum();
        if length > COPY_MAX || inner.held.len() + length > HELD_MAX {
            return inner.poll_write_behind(cx, slices);
        }
        inner.writes += 1;
        for slice in slices {
            inner.held.extend_from_slice(slice);
        }
        Poll::Ready(Ok(length))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The library flushes after each of its turns; one that drives the connection knows when they are over.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.0.lock();
        ready!(inner.poll_uncork(cx))?;
        Pin::new(&mut inner.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn small_writes_leave_together_and_not_before_they_are_let() {
        let (near, mut far) = tokio::io::duplex(HELD_MAX);
        let mut corked = Corked::new(near);
        for _ in 0..3 {
            corked.write_all(b"abc").await.unwrap();
            corked.flush().await.unwrap();
        }
        let mut bytes = [0; 20];
        assert!(futures::FutureExt::now_or_never(far.read(&mut bytes)).is_none());
        poll_fn(|cx| corked.poll_uncork(cx)).await.unwrap();
        assert_eq!(far.read(&mut bytes).await.unwrap(), 9);
    }

    #[tokio::test]
    async fn many_small_writes_leave_before_more_is_read() {
        let (near, mut far) = tokio::io::duplex(HELD_MAX);
        let mut corked = Corked::new(near);
        let mut bytes = [0; 200];
        for written in 1..=WRITES_MAX {
            corked.write_all(b"abc").await.unwrap();
            assert!(futures::FutureExt::now_or_never(corked.read(&mut [0; 1])).is_none());
            let left = futures::FutureExt::now_or_never(far.read(&mut bytes)).map(Result::unwrap);
            assert_eq!(left, (written == WRITES_MAX).then_some(3 * WRITES_MAX));
        }
    }

    proptest! {
        #[test]
        fn bytes_leave_in_the_order_they_came_through_a_narrow_pipe(
            writes in proptest::collection::vec((prop_oneof![1usize..100, COPY_MAX - 1..3 * COPY_MAX], any::<bool>()), 1..30),
            narrow in 1usize..70_000,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let (near, mut far) = tokio::io::duplex(narrow);
                let mut corked = Corked::new(near);
                let mut sent = Vec::new();
                let sending = async {
                    for (length, uncork) in writes {
                        let bytes: Vec<u8> = (0..=255).cycle().skip(sent.len() % 7).take(length).collect();
                        corked.write_all(&bytes).await.unwrap();
                        sent.extend(bytes);
                        if uncork {
                            poll_fn(|cx| corked.poll_uncork(cx)).await.unwrap();
                        }
                        assert!(corked.0.lock().held.len() <= HELD_MAX);
                    }
                    corked.shutdown().await.unwrap();
                    sent
                };
                let mut received = Vec::new();
                let (sent, _) = tokio::join!(sending, far.read_to_end(&mut received));
                prop_assert!(sent == received);
                Ok(())
            })?;
        }
    }
}
