//! Ranges of any length, over a stream each: [`ReadStream`], and `write`.
//!
//! Both go over the connection for what is large. A stream has no deadline as a whole; each of its pieces has one. A
//! read whose stream breaks goes on at the byte that it had reached; a write is never repeated.

use std::{
    collections::VecDeque,
    fmt,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures::{
    Stream, StreamExt as _,
    stream::{self, BoxStream},
};
use http_body::Frame;
use mmap_proto::v1;
use prost::Message as _;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout, timeout_at},
};
use tonic::{Code, Status, body::Body};

use crate::{
    caller::Stubs,
    error::{Error, ErrorKind, Result},
    framing::{self, Messages},
    link::Link,
    retry::{self, Repeat},
};

/// Length of what is asked for or sent at a time: a quarter of the largest message, so that no single one keeps a
/// connection for long.
pub const PIECE: usize = 1 << 20;
/// Messages that wait to be sent: one on its way, and one that is ready then.
const WAITING_MAX: usize = 2;

/// A range of a mapping that is being read, piece by piece and in order: see `Mapping::read_stream`.
#[must_use = "nothing is read until it is polled"]
pub struct ReadStream<'a> {
    rest: Option<Rest<'a>>,
    pieces: Option<BoxStream<'a, Result<Bytes>>>,
}

/// What is left to read.
#[derive(Clone, Copy)]
struct Rest<'a> {
    link: &'a Link,
    mmap_id: u64,
    at: u64,
    end: u64,
    chunk_length: Option<u64>,
}

impl<'a> ReadStream<'a> {
    pub(crate) fn new(link: &'a Link, mmap_id: u64, offset: u64, length: u64) -> Result<Self> {
        let Some(end) = offset.checked_add(length) else {
            return Err(Error::usage(format!("offset {offset} and length {length} together are beyond 2^64")));
        };
        Ok(Self { rest: Some(Rest { link, mmap_id, at: offset, end, chunk_length: None }), pieces: None })
    }

    /// Bytes a piece, the last one excepted; each is read at one instant. Without it the server chooses. Has no effect
    /// once the stream was polled.
    pub fn chunk_length(mut self, bytes: u64) -> Self {
        if let Some(rest) = &mut self.rest {
            rest.chunk_length = Some(bytes);
        }
        self
    }
}

impl Stream for ReadStream<'_> {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes>>> {
        if let Some(rest) = self.rest.take() {
            self.pieces = Some(stream::try_unfold((rest, None), next).boxed());
        }
        self.pieces.as_mut().map_or(Poll::Ready(None), |pieces| pieces.poll_next_unpin(cx))
    }
}

impl fmt::Debug for ReadStream<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadStream").finish_non_exhaustive()
    }
}

type Reading<'a> = (Rest<'a>, Option<Messages>);

/// The next piece, over the stream that stands, or over a new one.
async fn next((mut rest, open): Reading<'_>) -> Result<Option<(Bytes, Reading<'_>)>> {
    if rest.at == rest.end {
        return Ok(None);
    }
    let caller = &rest.link.caller;
    let (allowed, policy) = (caller.allowed(), caller.settings().retry);
    let due = Instant::now() + allowed;
    let late = |_| Error::deadline(allowed);
    let broken = match open {
        None => None,
        Some(mut messages) => match timeout_at(due, rest.piece(&mut messages)).await.map_err(late)? {
            Ok(piece) => {
                rest.at += piece.len() as u64;
                return Ok(Some((piece, (rest, Some(messages)))));
            }
            Err(error) if retry::is_repeatable(Repeat::Idempotent, &error) => Some(error),
            Err(error) => return Err(error),
        },
    };
    let begin = || async { timeout_at(due, rest.begin()).await.map_err(late)? };
    let (piece, messages) = match broken {
        None => retry::run(policy, Repeat::Idempotent, due, begin).await?,
        Some(error) => retry::resume(policy, Repeat::Idempotent, due, error, begin).await?,
    };
    rest.at += piece.len() as u64;
    Ok(Some((piece, (rest, messages))))
}

impl Rest<'_> {
    /// Asks for all that is left, and reads the first piece. A server without streams is asked for one piece.
    async fn begin(&self) -> Result<(Bytes, Option<Messages>)> {
        let Self { mmap_id, at: offset, end, chunk_length, .. } = *self;
        let length = end - offset;
        let mut request = BytesMut::new();
        framing::append(&mut request, &v1::MmapReadStreamRequest { mmap_id, offset, length, chunk_length });
        let body = Body::new(Once(Some(request.freeze())));
        let caller = self.link.alive()?.bulk();
        let begun = async {
            let mut messages = caller.open("MmapReadStream", body).await?;
            Ok::<_, Error>((self.piece(&mut messages).await?, Some(messages)))
        };
        match begun.await {
            Err(error) if error.code() == Code::Unimplemented => {
                let length = length.min(chunk_length.unwrap_or(PIECE as u64));
                let request = v1::MmapReadRequest { mmap_id, offset, length };
                let read = |stubs: Stubs, request| async move { stubs.mmap().mmap_read(request).await };
                let data = caller.call(Repeat::Idempotent, request, read).await?.into_inner().data;
                Ok((self.checked(offset, data)?, None))
            }
            begun => begun,
        }
    }

    async fn piece(&self, messages: &mut Messages) -> Result<Bytes> {
        let Some(message) = messages.next().await? else {
            let (at, end) = (self.at, self.end);
            let message = format!("the stream of a read ended at byte {at}, before its end at {end}");
            return Err(Error::new(ErrorKind::Transport, Code::Unavailable, message));
        };
        let piece = v1::MmapReadStreamResponse::decode(message)
            .map_err(|error| Error::protocol(format!("a piece of a read cannot be read: {error}")))?;
        self.checked(piece.offset, piece.data)
    }

    fn checked(&self, offset: u64, data: Bytes) -> Result<Bytes> {
        if offset != self.at || data.is_empty() || data.len() as u64 > self.end - self.at {
            let (at, end, length) = (self.at, self.end, data.len());
            let message = format!("a read from {at} to {end} was answered with {length} bytes at {offset}");
            return Err(Error::protocol(message));
        }
        Ok(data)
    }
}

/// Writes `pieces` one after the other from `offset` on, and answers how many bytes that were.
pub(crate) async fn write<E>(
    link: &Link,
    mmap_id: u64,
    offset: u64,
    pieces: impl Stream<Item = std::result::Result<Bytes, E>> + Send,
) -> std::result::Result<u64, E>
where
    E: From<Error>,
{
    let caller = link.alive()?.bulk();
    let allowed = caller.allowed();
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    let mut answer = pin!(async {
        let mut messages =
            caller.open("MmapWriteStream", Body::new(Writes { receiver, parts: VecDeque::new() })).await?;
        let message =
            messages.next().await?.ok_or_else(|| Error::protocol("a write stream ended without an answer"))?;
        let answer = v1::MmapWriteStreamResponse::decode(message);
        Ok(answer.map_err(|error| Error::protocol(format!("a write's answer cannot be read: {error}")))?.written)
    });
    let sent = tokio::select! {
        biased;
        // Before its end: it is an error, or the server counts differently.
        early = &mut answer => {
            let written = early.map_err(E::from)?;
            let message = format!("a stream of writes was answered with {written} written before it ended");
            return Err(Error::protocol(message).into());
        }
        sent = feed(sender, mmap_id, offset, pieces, allowed) => sent?,
    };
    let written: Result<u64> = timeout(allowed, answer).await.unwrap_or_else(|_| Err(Error::deadline(allowed)));
    let written = written?;
    match sent {
        Some(sent) if sent == written => Ok(written),
        _ => {
            Err(Error::protocol(format!("a stream of writes was answered with {written} written, not {sent:?}")).into())
        }
    }
}

/// Sends the pieces. `None`: the transport takes no more, and its answer says why.
async fn feed<E: From<Error>>(
    sender: mpsc::Sender<[Bytes; 2]>,
    mmap_id: u64,
    offset: u64,
    pieces: impl Stream<Item = std::result::Result<Bytes, E>> + Send,
    allowed: Duration,
) -> std::result::Result<Option<u64>, E> {
    let mut pieces = pin!(pieces);
    let mut at = offset;
    while let Some(piece) = pieces.next().await {
        let mut piece = piece?;
        while !piece.is_empty() {
            let data = piece.split_to(piece.len().min(PIECE));
            let length = data.len() as u64;
            let sending = sender.send(message(mmap_id, at, data));
            match timeout(allowed, sending).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Ok(None),
                Err(_) => return Err(Error::deadline(allowed).into()),
            }
            let beyond = || Error::usage(format!("what is written from {offset} on goes beyond 2^64"));
            at = at.checked_add(length).ok_or_else(beyond)?;
        }
    }
    Ok(Some(at - offset))
}

/// A message in two parts, so that its data is not copied.
fn message(mmap_id: u64, offset: u64, data: Bytes) -> [Bytes; 2] {
    let head = framing::head(&v1::MmapWriteStreamRequest { mmap_id, offset, data: Bytes::new() }, DATA, data.len());
    let mut start = BytesMut::with_capacity(framing::PREFIX + head.len());
    framing::append_prefix(&mut start, head.len() + data.len());
    start.extend_from_slice(&head);
    [start.freeze(), data]
}

/// The number of `MmapWriteStreamRequest`'s field for the data.
const DATA: u32 = 3;

/// A body of one frame.
struct Once(Option<Bytes>);

impl http_body::Body for Once {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, Status>>> {
        Poll::Ready(self.0.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }
}

/// A body of the messages that come.
struct Writes {
    receiver: mpsc::Receiver<[Bytes; 2]>,
    parts: VecDeque<Bytes>,
}

impl http_body::Body for Writes {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, Status>>> {
        if self.parts.is_empty() {
            match ready!(self.receiver.poll_recv(cx)) {
                Some(parts) => self.parts.extend(parts),
                None => return Poll::Ready(None),
            }
        }
        Poll::Ready(self.parts.pop_front().map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// `length` bytes from `offset` on as (start, length) of at most [`PIECE`] each.
pub(crate) fn pieces(offset: u64, length: usize) -> Result<impl Iterator<Item = (u64, usize)>> {
    if offset.checked_add(length as u64).is_none() {
        return Err(Error::usage(format!("offset {offset} and length {length} together are beyond 2^64")));
    }
    Ok((0..length).step_by(PIECE).map(move |start| (offset + start as u64, PIECE.min(length - start))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_a_range_without_gap_or_overlap() {
        for length in [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 7] {
            let mut next = 100;
            for (start, length) in pieces(100, length).expect("in range") {
                assert_eq!(start, next);
                assert!((1..=PIECE).contains(&length));
                next += length as u64;
            }
            assert_eq!(next, 100 + length as u64);
        }
    }

    #[test]
    fn a_range_beyond_the_largest_offset_is_refused_before_anything_is_sent() {
        assert!(pieces(u64::MAX, 2).is_err());
        assert!(pieces(u64::MAX - 2, 2).is_ok());
    }
}
