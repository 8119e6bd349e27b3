//! `MmapPipeline`: many operations on one stream. In dependency order.
//!
//! The answer's body drives everything: it reads requests, has their operations done, and hands batches of answers
//! on. Dropping it ends all of it.
//!
//! Credit: requests are read while fewer than a bounded number of operations are under way, which hold less than a
//! bounded number of bytes, while the batch of answers at hand is not full, and while the connection may have more
//! answers unsent. Otherwise they are left where they are, and HTTP/2's window stops the client. The transport asks
//! for a batch only when the last one is on its way; so the stream of a client that never reads stands still, with
//! what these bounds allow.

mod order;

mod request;

mod op;

mod trail;

mod unjournaled;

mod operator;

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::Stream;
use http_body::Body;
use tokio::task::coop::poll_proceed;
use tonic::Status;

use self::operator::Operator;
use self::request::Request;
use super::work::Work;
use crate::layers::Call;
use crate::status::to_status;
use crate::wire::{Incoming, Malformed, Segments};

/// A pipeline: batches of answers, as they are ready.
#[derive(Debug)]
pub(super) struct Pipeline<B> {
    /// `None` when there are no more, or no more are wanted.
    requests: Option<Incoming<B>>,
    operator: Operator,
    /// How the stream ends once what is under way has; `None` for OK.
    end: Option<Status>,
    is_over: bool,
}

impl<B> Pipeline<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: fmt::Display,
{
    /// The pipeline that `requests` ask for.
    pub(super) fn new(work: Work, requests: Incoming<B>) -> Self {
        Self { requests: Some(requests), operator: Operator::new(work), end: None, is_over: false }
    }

    fn read_requests(&mut self, cx: &mut Context<'_>) {
        while self.operator.has_credit() {
            let Some(requests) = &mut self.requests else { return };
            // Everything may be there at once, and others want their turn.
            let Poll::Ready(turn) = poll_proceed(cx) else { return };
            let Poll::Ready(next) = requests.poll_next(cx) else { return };
            turn.made_progress();
            let read = match next {
                Some(Ok(payload)) => Request::decode(payload).map_err(Malformed::from),
                Some(Err(malformed)) => Err(malformed),
                None => {
                    self.requests = None;
                    return;
                }
            };
            match read {
                Ok(request) => self.operator.take(request),
                Err(malformed) => {
                    let max = self.operator.work().max_message;
                    return self.read_no_more(|call| malformed.into_status(max, |error| call.fail(error)));
                }
            }
        }
    }

    /// Ends the stream with an error once what is under way has ended.
    fn read_no_more(&mut self, why: impl FnOnce(&Call) -> Status) {
        self.requests = None;
        self.end = Some(why(&self.operator.work().call));
    }
}

impl<B> Stream for Pipeline<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: fmt::Display,
{
    type Item = Result<Segments, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.is_over {
            return Poll::Ready(None);
        }
        let ending = &mut this.operator.work_mut().ending;
        if ending.is_late(cx) {
            this.read_no_more(|call| call.fail(&Call::timed_out()));
            this.is_over = true;
            this.operator.give_up();
            return Poll::Ready(this.end.take().map(Err));
        }
        if this.requests.is_some()
            && let Some(why) = ending.is_ending(cx)
        {
            // Not a failure to be logged, although it travels as one.
            this.read_no_more(|_| to_status(&why));
        }
        this.operator.collect(cx);
        this.read_requests(cx);
        // What was begun just now is asked once, so that its end wakes this task.
        this.operator.collect(cx);
        if let Some(batch) = this.operator.take_batch() {
            return Poll::Ready(Some(Ok(batch)));
        }
        if this.requests.is_some() || this.operator.is_busy() {
            return Poll::Pending;
        }
        this.is_over = true;
        Poll::Ready(this.end.take().map(Err))
    }
}
