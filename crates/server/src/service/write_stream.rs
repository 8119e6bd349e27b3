//! [`WriteStream`]: `MmapWriteStream`, each message of which is one write, and whose answer is their sum.
//!
//! Writes take effect one after the other, as they come in. The journal is waited for once, at the end: how far the
//! writes may be ahead of it is its own bound. A message that does not come in whole is no write.
//!
//! Invariant: a failure says how many bytes are known to have been written before it: those that the journal has,
//! where it is waited for. So it is told when the journal has answered, and says 0 if that failed or came too late.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::{FutureExt as _, Stream};
use http_body::Body;
use mmap_core::error::{Error, Result};
use mmap_core::manager::{MmapId, Written};
use mmap_proto::v1;
use tokio::task::coop::poll_proceed;
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;

use super::work::Work;
use crate::convert;
use crate::layers::Call;
use crate::status::to_status;
use crate::wire::{Incoming, Malformed, Segments, Write, put_message};

type Outcome<T> = std::result::Result<T, Status>;

/// Writes as they come in.
pub(super) struct WriteStream<B> {
    work: Work,
    /// `None` when there are no more, or no more are wanted.
    requests: Option<Incoming<B>>,
    /// The mapping that the last message named.
    mmap_id: u64,
    /// Bytes that have taken effect.
    written: u64,
    /// Bytes that are not counted for the subject yet.
    unpaid: u64,
    /// A write that waits for something.
    running: Option<AbortOnDropHandle<Outcome<Written>>>,
    /// Of all writes together: what the journal does not have yet.
    pending: Option<Written>,
    journal: Option<Pin<Box<dyn Future<Output = Result<u64>> + Send>>>,
    failure: Option<Status>,
    is_over: bool,
}

impl<B> WriteStream<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: fmt::Display,
{
    /// The writes that `requests` bring.
    pub(super) fn new(work: Work, requests: Incoming<B>) -> Self {
        Self {
            work,
            requests: Some(requests),
            mmap_id: 0,
            written: 0,
            unpaid: 0,
            running: None,
            pending: None,
            journal: None,
            failure: None,
            is_over: false,
        }
    }

    /// Does the writes that come in, to their end.
    fn poll_writes(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if let Some(task) = &mut self.running {
                let joined = ready!(task.poll_unpin(cx));
                self.running = None;
                // Nobody aborts it, and a panic is caught inside.
                let ended = joined.unwrap_or_else(|error| Err(self.work.call.fail_by_fault(&error.to_string())));
                match ended {
                    Ok(written) => self.add(written),
                    Err(status) => self.fail(status),
                }
            }
            // What the last message brought is paid before the next one is taken.
            ready!(self.work.pace.poll_spend(cx, self.unpaid));
            self.unpaid = 0;
            let Some(requests) = &mut self.requests else { return Poll::Ready(()) };
            // Everything may be there at once, and others want their turn.
            let turn = ready!(poll_proceed(cx));
            let next = ready!(requests.poll_next(cx));
            turn.made_progress();
            let message = match next {
                Some(Ok(payload)) => Write::decode(payload).map_err(Malformed::from),
                Some(Err(malformed)) => Err(malformed),
                None => {
                    self.requests = None;
                    return Poll::Ready(());
                }
            };
            match message {
                Ok(write) => self.write(write),
                Err(malformed) => {
                    let (max, written) = (self.work.max_message, self.written);
                    let fail = |error: &Error| self.work.call.fail(&error.clone().with("written", written));
                    self.fail(malformed.into_status(max, fail));
                }
            }
        }
    }

    fn write(&mut self, mut write: Write) {
        if write.mmap_id != 0 {
            self.mmap_id = write.mmap_id;
        }
        write.mmap_id = self.mmap_id;
        self.unpaid = write.data.len() as u64;
        let (max_message, before) = (self.work.max_message, self.written);
        let id = MmapId(write.mmap_id);
        let tried = self.work.now(|core, caller| {
            let tried =
                check(&write, max_message).and_then(|()| core.try_write(caller, id, write.offset, write.data.slices()));
            tried.map_err(|error| error.with("written", before))
        });
        match tried {
            Ok(Some(written)) => self.add(written),
            Ok(None) => {
                let task = self.work.later(|core, caller| async move {
                    let written = core.begin_write(&caller, id, write.offset, write.data.slices()).await;
                    written.map_err(|error| error.with("written", before))
                });
                self.running = Some(AbortOnDropHandle::new(tokio::spawn(task)));
            }
            Err(status) => self.fail(status),
        }
    }

    fn add(&mut self, written: Written) {
        self.written += written.bytes();
        self.work.calls.written(written.bytes());
        self.pending = Some(match self.pending.take() {
            Some(earlier) => earlier.and(written),
            None => written,
        });
    }

    /// Takes no more; the first failure is the one that is told.
    fn fail(&mut self, status: Status) {
        self.requests = None;
        self.failure.get_or_insert(status);
    }

    /// Waits for the journal, and for what it failed at.
    fn poll_journal(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(written) = self.pending.take() {
            self.journal = Some(written.wait().boxed());
        }
        if let Some(journal) = &mut self.journal {
            let journaled = ready!(journal.poll_unpin(cx));
            self.journal = None;
            if let Err(error) = journaled {
                self.failure = Some(self.work.call.fail(&error.with("written", 0)));
            }
        }
        Poll::Ready(())
    }

    fn answer(&self) -> Segments {
        let mut answer = Segments::default();
        put_message(&mut answer, &v1::MmapWriteStreamResponse { written: self.written });
        answer
    }
}

/// Whether a write can be one at all.
fn check(write: &Write, max_message: u64) -> Result<()> {
    if write.mmap_id == 0 {
        return Err(Error::invalid("mmap_id", "the first message names no mapping: set its mmap_id"));
    }
    convert::check_write(write.offset, write.data.len(), max_message)
}

impl<B> Stream for WriteStream<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: fmt::Display,
{
    type Item = Outcome<Segments>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.is_over {
            return Poll::Ready(None);
        }
        if this.work.ending.is_late(cx) {
            // Of several writes that wait for the journal together it is not known which ones it has.
            let waits = this.journal.is_some() || this.pending.as_ref().is_some_and(Written::is_pending);
            let known = if waits { 0 } else { this.written };
            this.is_over = true;
            (this.requests, this.running, this.pending, this.journal) = (None, None, None, None);
            return Poll::Ready(Some(Err(this.work.call.fail(&Call::timed_out().with("written", known)))));
        }
        if this.requests.is_some()
            && let Some(why) = this.work.ending.is_ending(cx)
        {
            // Not a failure to be logged, although it travels as one.
            this.fail(to_status(&why.with("written", this.written)));
        }
        ready!(this.poll_writes(cx));
        ready!(this.poll_journal(cx));
        this.is_over = true;
        Poll::Ready(Some(match this.failure.take() {
            Some(status) => Err(status),
            None => Ok(this.answer()),
        }))
    }
}

impl<B> fmt::Debug for WriteStream<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriteStream").field("written", &self.written).finish_non_exhaustive()
    }
}
