//! [`ReadStream`]: `MmapReadStream`, a range in chunks, each of which is one linearizable read.
//!
//! What is in memory is read when the transport asks for it. Where a chunk has to be fetched, the next ones are asked
//! for too, [`AHEAD_MAX`] at a time, so that the store is not waited for chunk by chunk.
//!
//! Invariants: nothing is sent of a range that is not wholly inside the mapping and the file when it begins; chunks
//! come in order and without gaps; behind a failure comes none. A chunk is charged before it is read, in order:
//! one that is asked for ahead never keeps the one before it waiting.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use futures::{FutureExt as _, Stream};
use http_body::Body;
use mmap_core::error::{Error, Result};
use mmap_core::manager::{MmapId, ReadBytes};
use mmap_core::units::ByteRange;
use mmap_proto::v1;
use prost::Message as _;
use tokio::task::coop::poll_proceed;
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;

use super::work::Work;
use crate::layers::Call;
use crate::status::to_status;
use crate::wire::{Charge, Incoming, Malformed, Segments, put_chunk};

/// Bytes of a chunk where the caller leaves it to us.
const CHUNK_DEFAULT: u64 = 256 << 10;
/// Chunks that are under way together where they have to be fetched.
const AHEAD_MAX: usize = 8;
/// Bytes that these have together, unless one alone has more.
const AHEAD_BYTES: u64 = 4 << 20;
/// Bytes of chunks that are handed on together.
const BATCH_BYTES: usize = 64 << 10;

type Outcome<T> = std::result::Result<T, Status>;

/// A range on its way, in chunks.
pub(super) struct ReadStream<B> {
    work: Work,
    /// Until the request is there.
    request: Option<Incoming<B>>,
    rest: Rest,
    /// Chunks that were begun, in order.
    begun: VecDeque<Chunk>,
    /// The next chunk is counted for its subject.
    is_paid: bool,
    /// For the next chunk, where the client has too many answers to take.
    charge: Option<Pin<Box<dyn Future<Output = Charge> + Send>>>,
    is_over: bool,
    /// Why it is, where that is yet to be told.
    failure: Option<Status>,
}

/// What was not begun yet.
#[derive(Clone, Copy, Debug, Default)]
struct Rest {
    id: u64,
    offset: u64,
    end: u64,
    chunk_length: u64,
}

/// A chunk that was begun.
struct Chunk {
    offset: u64,
    charge: Charge,
    bytes: Bringing,
}

enum Bringing {
    Here(Outcome<ReadBytes>),
    OnItsWay(AbortOnDropHandle<Outcome<ReadBytes>>),
}

impl Rest {
    /// What a request asks for.
    fn of(request: &v1::MmapReadStreamRequest, max_message: u64) -> Result<Self> {
        let v1::MmapReadStreamRequest { mmap_id, offset, length, chunk_length } = *request;
        let range = ByteRange::checked(offset, length)?;
        let chunk_length = chunk_length.unwrap_or(CHUNK_DEFAULT.min(max_message));
        if !(1..=max_message).contains(&chunk_length) {
            let sentence =
                format!("a chunk of {chunk_length} bytes cannot be: ask for 1 to {max_message}, or for none");
            let error = Error::invalid("chunk_length", sentence);
            return Err(error.with("chunk_length", chunk_length).with("max", max_message));
        }
        Ok(Self { id: mmap_id, offset, end: range.end(), chunk_length })
    }

    fn next_length(&self) -> u64 {
        self.chunk_length.min(self.end - self.offset)
    }
}

impl<B> ReadStream<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: fmt::Display,
{
    /// The range that the request asks for.
    pub(super) fn new(work: Work, request: Incoming<B>) -> Self {
        let (rest, begun) = (Rest::default(), VecDeque::new());
        Self { work, request: Some(request), rest, begun, is_paid: false, charge: None, is_over: false, failure: None }
    }

    /// Waits for the request, and checks whether it can be answered at all.
    fn poll_request(&mut self, cx: &mut Context<'_>) -> Poll<Outcome<()>> {
        let Some(request) = &mut self.request else { return Poll::Ready(Ok(())) };
        let payload = ready!(request.poll_only(cx));
        self.request = None;
        Poll::Ready(match payload.and_then(|payload| Ok(v1::MmapReadStreamRequest::decode(payload)?)) {
            Ok(request) => self.open(&request),
            Err(malformed) => Err(self.unreadable(malformed)),
        })
    }

    fn unreadable(&self, malformed: Malformed) -> Status {
        malformed.into_status(self.work.max_message, |error| self.work.call.fail(error))
    }

    fn open(&mut self, request: &v1::MmapReadStreamRequest) -> Outcome<()> {
        let max_message = self.work.max_message;
        self.rest = self.work.now(|core, caller| {
            let rest = Rest::of(request, max_message)?;
            core.check_readable(caller, MmapId(rest.id), rest.offset, rest.end - rest.offset)?;
            Ok(rest)
        })?;
        Ok(())
    }

    /// Begins the next chunks, as far as that is of use.
    fn begin(&mut self, cx: &mut Context<'_>) {
        while self.rest.offset < self.rest.end && self.wants_more() {
            let length = self.rest.next_length();
            if !self.is_paid {
                let Poll::Ready(()) = self.work.pace.poll_spend(cx, length) else { return };
                self.is_paid = true;
            }
            let charge = match (&mut self.charge, self.work.account.try_charge(length)) {
                (None, Some(charge)) => charge,
                // A chunk that was begun wakes whoever waits for room when it is sent.
                (None, None) if !self.begun.is_empty() => return,
                (waiting, _) => {
                    let account = self.work.account.clone();
                    let waiting = waiting.get_or_insert_with(|| async move { account.charge(length).await }.boxed());
                    let Poll::Ready(charge) = waiting.poll_unpin(cx) else { return };
                    self.charge = None;
                    charge
                }
            };
            let Rest { id, offset, .. } = self.rest;
            let bytes = match self.work.now(|core, caller| core.try_read(caller, MmapId(id), offset, length)) {
                Ok(Some(bytes)) => Bringing::Here(Ok(bytes)),
                Err(status) => Bringing::Here(Err(status)),
                Ok(None) => {
                    let read = self
                        .work
                        .later(|core, caller| async move { core.read(caller, MmapId(id), offset, length).await });
                    Bringing::OnItsWay(AbortOnDropHandle::new(tokio::spawn(read)))
                }
            };
            self.rest.offset += length;
            self.is_paid = false;
            self.begun.push_back(Chunk { offset, charge, bytes });
        }
    }

    fn wants_more(&self) -> bool {
        let is_fetching = self.begun.iter().any(|chunk| matches!(chunk.bytes, Bringing::OnItsWay(_)));
        let ahead = (self.begun.len() as u64 + 1) * self.rest.chunk_length;
        self.begun.is_empty() || (is_fetching && self.begun.len() < AHEAD_MAX && ahead <= AHEAD_BYTES)
    }

    /// The next chunk; `None` behind the last one.
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Outcome<(u64, ReadBytes, Charge)>>> {
        ready!(self.poll_request(cx))?;
        self.begin(cx);
        let Some(chunk) = self.begun.front_mut() else {
            return if self.rest.offset < self.rest.end { Poll::Pending } else { Poll::Ready(None) };
        };
        if let Bringing::OnItsWay(task) = &mut chunk.bytes {
            let joined = ready!(task.poll_unpin(cx));
            // Nobody aborts it, and a panic is caught inside.
            let ended = joined.unwrap_or_else(|error| Err(self.work.call.fail_by_fault(&error.to_string())));
            chunk.bytes = Bringing::Here(ended);
        }
        Poll::Ready(self.begun.pop_front().and_then(|Chunk { offset, charge, bytes }| match bytes {
            Bringing::Here(bytes) => Some(bytes.map(|bytes| (offset, bytes, charge))),
            Bringing::OnItsWay(_) => None,
        }))
    }

    /// Ends everything that is under way.
    fn fail(&mut self, status: Status) {
        (self.is_over, self.failure) = (true, Some(status));
        self.begun.clear();
        (self.charge, self.request) = (None, None);
    }
}

impl<B> Stream for ReadStream<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: fmt::Display,
{
    type Item = Outcome<Segments>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if !this.is_over && this.work.ending.is_late(cx) {
            this.fail(this.work.call.fail(&Call::timed_out()));
        }
        if !this.is_over
            && let Some(why) = this.work.ending.is_ending(cx)
        {
            // Not a failure to be logged, although it travels as one.
            this.fail(to_status(&why));
        }
        let mut batch = Segments::default();
        while !this.is_over && batch.remaining() < BATCH_BYTES {
            // Everything may be there at once, and others want their turn.
            let Poll::Ready(turn) = poll_proceed(cx) else { break };
            let Poll::Ready(next) = this.poll_chunk(cx) else { break };
            turn.made_progress();
            match next {
                Some(Ok((offset, bytes, charge))) => {
                    this.work.calls.read(bytes.len() as u64);
                    put_chunk(&mut batch, offset, &bytes);
                    batch.hold(charge);
                }
                Some(Err(status)) => this.fail(status),
                None => this.is_over = true,
            }
        }
        match (batch.has_remaining(), this.is_over) {
            (true, _) => Poll::Ready(Some(Ok(batch))),
            (false, true) => Poll::Ready(this.failure.take().map(Err)),
            (false, false) => Poll::Pending,
        }
    }
}

impl<B> fmt::Debug for ReadStream<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadStream").field("rest", &self.rest).field("begun", &self.begun.len()).finish_non_exhaustive()
    }
}
