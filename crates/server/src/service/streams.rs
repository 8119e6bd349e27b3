//! The methods with a stream of messages, past tonic's codec as the data calls are.
//!
//! Each answers its headers at once, and the answer's body does the work. So a stream takes no place among the calls
//! that run: how many there may be is HTTP/2's bound, and one of which nothing is asked holds next to nothing.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use http::{HeaderMap, HeaderValue};
use http_body::Body;
use mmap_core::error::Result;
use tonic::Status;
use tracing::Span;

use super::ending::Ending;
use super::front::Front;
use super::pace::Pace;
use super::pipeline::Pipeline;
use super::read_stream::ReadStream;
use super::work::Work;
use super::write_stream::WriteStream;
use crate::identity::{PidHeader, caller};
use crate::layers::Call;
use crate::metrics::Rpc;
use crate::traces::{cancelled, failed, succeeded};
use crate::wire::{Account, Incoming, Segments, WireBody};

/// A method with a stream of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Streaming {
    /// `MmapReadStream`.
    Read,
    /// `MmapWriteStream`.
    Write,
    /// `MmapPipeline`.
    Pipeline,
}

impl Streaming {
    /// The method of this path, if it is one.
    pub(crate) fn of(path: &str) -> Option<Self> {
        match path.strip_prefix("/mmap.v1.MmapService/")? {
            "MmapReadStream" => Some(Self::Read),
            "MmapWriteStream" => Some(Self::Write),
            "MmapPipeline" => Some(Self::Pipeline),
            _ => None,
        }
    }

    /// As it is counted.
    pub(crate) fn rpc(self) -> Rpc {
        match self {
            Self::Read => Rpc::READ_STREAM,
            Self::Write => Rpc::WRITE_STREAM,
            Self::Pipeline => Rpc::PIPELINE,
        }
    }
}

impl Front {
    /// The body that answers `call`, which began at `since`, made with these headers on a connection with this
    /// account. From here on it is counted.
    ///
    /// # Errors
    /// EINVAL for headers that do not say who calls.
    pub(crate) fn stream<B>(
        &self,
        method: Streaming,
        (call, since): (&Call, Instant),
        (headers, requests): (&HeaderMap, Incoming<B>),
        account: Account,
        node: HeaderValue,
    ) -> Result<WireBody>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: std::fmt::Display,
    {
        let caller = caller(call.identity(), headers, PidHeader::Needed, call.deadline())?;
        // Of a pipeline each operation counts, and the stream does not.
        let running = match method {
            Streaming::Read | Streaming::Write => self.begin(&caller)?,
            Streaming::Pipeline => None,
        };
        let work = Work {
            core: self.manager.clone(),
            pace: Pace::new(self.meters.of(&caller.subject), running),
            caller,
            call: call.clone(),
            calls: self.calls.clone(),
            max_message: self.max_message,
            account,
            ending: Ending::of(call, &self.stopping),
        };
        let (span, running) = (call.span().clone(), self.calls.running(method.rpc(), since));
        Ok(match method {
            Streaming::Read => body(running.stream(ReadStream::new(work, requests)), span, node),
            Streaming::Write => body(running.stream(WriteStream::new(work, requests)), span, node),
            Streaming::Pipeline => body(running.stream(Pipeline::new(work, requests)), span, node),
        })
    }
}

fn body(
    messages: impl Stream<Item = std::result::Result<Segments, Status>> + Send + Unpin + 'static,
    span: Span,
    node: HeaderValue,
) -> WireBody {
    match span.is_disabled() {
        true => WireBody::stream(messages, node),
        false => WireBody::stream(Followed { messages, span, is_over: false }, node),
    }
}

/// A stream whose end is told on its call's span.
struct Followed<M> {
    messages: M,
    span: Span,
    is_over: bool,
}

impl<M> Stream for Followed<M>
where
    M: Stream<Item = std::result::Result<Segments, Status>> + Unpin,
{
    type Item = M::Item;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<M::Item>> {
        let this = self.get_mut();
        let next = ready!(this.span.in_scope(|| this.messages.poll_next_unpin(cx)));
        match &next {
            Some(Ok(_)) => {}
            // One that is told already stays as it is told.
            Some(Err(_)) | None if this.is_over => {}
            Some(Err(status)) => failed(&this.span, status),
            None => succeeded(&this.span),
        }
        this.is_over |= !matches!(next, Some(Ok(_)));
        Poll::Ready(next)
    }
}

impl<M> Drop for Followed<M> {
    fn drop(&mut self) {
        if !self.is_over {
            cancelled(&self.span);
        }
    }
}
