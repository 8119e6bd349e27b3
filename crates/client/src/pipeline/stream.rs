//! One `MmapPipeline` stream: [`Stream`], which any number of tasks share.
//!
//! A caller writes its operation into the stream's buffer itself and is woken by its answer: an operation costs no
//! task, no allocation and no timer of its own. What is left is one task a stream (the *driver*), which opens the
//! stream, hands out answers and looks at the deadlines; it is owned by the `Stream` and ends with it. A stream that
//! ended stays ended; whoever holds it makes another one.
//!
//! Operations that are ready together go out together: the sender lets everybody run who can run before it looks into
//! the buffer, unless there is one operation alone.

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http_body::Frame;
use mmap_proto::{
    names,
    reason::Reason,
    v1::{self, mmap_pipeline_request::Op, mmap_pipeline_response::Result as Answer},
};
use prost::Message as _;
use tokio::{
    sync::{Notify, Semaphore, SemaphorePermit, TryAcquireError},
    task::AbortHandle,
    time::Instant,
};
use tonic::{
    Code, Status,
    body::Body,
    metadata::{Ascii, MetadataValue},
};

use super::slots::{Answered, Freed, Outcome, SLOTS_MAX, Slots};
use crate::{
    caller::Caller,
    error::{Error, ErrorKind, Result},
    framing::Messages,
};

const METHOD: &str = "MmapPipeline";

/// See the module. Dropping it ends the stream.
#[derive(Debug)]
pub(super) struct Stream {
    core: Arc<Core>,
    driver: AbortHandle,
}

#[derive(Debug)]
struct Core {
    /// One permit a free slot; closed when the stream has ended.
    places: Semaphore,
    /// Held for single operations, and for the copy of what is sent; never across an await.
    slots: Mutex<Slots>,
    /// An operation is due before the time that the driver waits for.
    earlier: Notify,
}

/// Whether there was a place for an operation.
pub(super) enum Place<'a> {
    Free(SemaphorePermit<'a>),
    /// All are taken.
    Full,
    /// The stream has ended.
    Gone,
}

impl Stream {
    pub(super) fn open(caller: Caller) -> Self {
        let core =
            Arc::new(Core { places: Semaphore::new(SLOTS_MAX), slots: Mutex::default(), earlier: Notify::new() });
        let driver = tokio::spawn(drive(Arc::clone(&core), caller)).abort_handle();
        Self { core, driver }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.core.places.is_closed()
    }

    pub(super) fn place(&self) -> Place<'_> {
        match self.core.places.try_acquire() {
            Ok(place) => Place::Free(place),
            Err(TryAcquireError::NoPermits) => Place::Full,
            Err(TryAcquireError::Closed) => Place::Gone,
        }
    }

    /// Waits for a place, in line.
    pub(super) async fn wait_for_place(&self) -> Place<'_> {
        self.core.places.acquire().await.map_or(Place::Gone, Place::Free)
    }

    /// Does `op` in the place that was got. `None`: the stream ended before it took the operation.
    pub(super) async fn run(&self, place: SemaphorePermit<'_>, op: Op, due: Instant) -> Option<Outcome> {
        let submitted = self.core.slots().submit(op, due)?;
        // Given back by whoever frees the slot.
        place.forget();
        let waiting = Waiting { core: &self.core, index: submitted.index, is_over: false };
        if let Some(sender) = submitted.sender {
            sender.wake();
        }
        if submitted.is_earliest {
            self.core.earlier.notify_one();
        }
        Some(waiting.await)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Core {
    fn slots(&self) -> MutexGuard<'_, Slots> {
        // Slots are whole between any two operations on them.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn release(&self, freed: Freed) {
        if freed.0 {
            self.places.add_permits(1);
        }
    }

    /// Ends the stream and whatever waits for it.
    fn end(&self, sent: impl Fn() -> Outcome, unsent: impl Fn() -> Outcome) {
        let mut wakers = Vec::new();
        self.places.close();
        self.slots().end(&mut wakers, sent, unsent);
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// An operation that waits for its end. Dropping it before leaves the slot to the answer.
struct Waiting<'a> {
    core: &'a Core,
    index: usize,
    is_over: bool,
}

impl Future for Waiting<'_> {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let ended = self.core.slots().poll_outcome(self.index, cx);
        ended.map(|(outcome, freed)| {
            self.is_over = true;
            self.core.release(freed);
            outcome
        })
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            let freed = self.core.slots().abandon(self.index);
            self.core.release(freed);
        }
    }
}

/// The request's body: what the callers wrote.
struct Outgoing {
    core: Arc<Core>,
    /// Everybody else had a turn since there is something to send.
    has_waited: bool,
}

impl http_body::Body for Outgoing {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, Status>>> {
        let mut slots = self.core.slots();
        if slots.has_unsent() && slots.is_busy() && !self.has_waited {
            drop(slots);
            self.has_waited = true;
            // The first poll asks the runtime to poll this task again once all others had their turn.
            let _ = pin!(tokio::task::yield_now()).poll(cx);
            return Poll::Pending;
        }
        let unsent = slots.poll_unsent(cx);
        drop(slots);
        self.has_waited = false;
        unsent.map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// The driver. Should it be dropped half-way, with its runtime or with the stream, nobody waits for ever.
async fn drive(core: Arc<Core>, caller: Caller) {
    let mut ending = Ending { core: &core, has_begun: false, error: None };
    let error = tokio::select! {
        biased;
        error = receive(&core, &caller, &mut ending.has_begun) => error,
        error = watch(&core) => error,
    };
    tracing::debug!(%error, "a pipeline ended");
    ending.error = Some(error);
}

/// Tells everybody how the stream ended, whatever the way.
struct Ending<'a> {
    core: &'a Core,
    /// The server took the stream.
    has_begun: bool,
    error: Option<Error>,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        let transport = |message| Error::new(ErrorKind::Transport, Code::Unavailable, message);
        let error = self.error.take().unwrap_or_else(|| transport("its task was stopped".to_owned()));
        if !self.has_begun && error.code() == Code::Unimplemented {
            return self.core.end(|| Outcome::NotSupported, || Outcome::NotSupported);
        }
        if !self.has_begun && matches!(error.kind(), ErrorKind::Server | ErrorKind::Connect) {
            return self.core.end(|| Outcome::Failed(error.clone()), || Outcome::Failed(error.clone()));
        }
        // A server that ends a stream for its token has answered all that it had begun.
        let is_unbegun = error.reason() == Some(Reason::UnAuth);
        let sent = transport(format!("the stream of operations broke: {}", error.message()));
        let message = format!("the stream of operations broke before this one was sent: {}", error.message());
        let unsent = Error::new(ErrorKind::Connect, Code::Unavailable, message);
        let sent = if is_unbegun { unsent.clone() } else { sent };
        self.core.end(|| Outcome::Failed(sent.clone()), || Outcome::Failed(unsent.clone()));
    }
}

/// Opens the stream and hands out its answers, until it ends.
async fn receive(core: &Arc<Core>, caller: &Caller, has_begun: &mut bool) -> Error {
    let outgoing = Outgoing { core: Arc::clone(core), has_waited: false };
    let mut messages = match caller.open(METHOD, Body::new(outgoing)).await {
        Ok(messages) => messages,
        Err(error) => return error,
    };
    *has_begun = true;
    let node = messages.node().cloned();
    let (mut answers, mut wakers) = (Vec::new(), Vec::new());
    loop {
        match messages.more().await {
            Ok(true) => {}
            Ok(false) => return Error::protocol("the server ended it"),
            Err(error) => return error,
        }
        let read = read(&mut messages, node.as_ref(), &mut answers);
        let mut freed = 0;
        let mut slots = core.slots();
        for (tag, outcome) in answers.drain(..) {
            match slots.answer(tag, outcome, &mut wakers) {
                Answered::Kept => {}
                Answered::Freed => freed += 1,
                Answered::Unasked => tracing::warn!(tag, "the server answered what nobody asked"),
            }
        }
        drop(slots);
        core.places.add_permits(freed);
        wakers.drain(..).for_each(Waker::wake);
        if let Err(error) = read {
            return error;
        }
    }
}

/// Reads what is there of answers.
fn read(messages: &mut Messages, node: Option<&MetadataValue<Ascii>>, answers: &mut Vec<(u64, Outcome)>) -> Result<()> {
    while let Some(message) = messages.buffered()? {
        let decoded = v1::MmapPipelineResponse::decode(message);
        let answer =
            decoded.map_err(|error| Error::protocol(format!("the server's answer cannot be read: {error}")))?;
        let outcome = match answer.result {
            Some(Answer::Error(status)) => Outcome::Failed(failure(status, node)),
            Some(answer) => Outcome::Answer(answer),
            None => Outcome::Failed(Error::protocol("the server answered an operation with nothing")),
        };
        answers.push((answer.tag, outcome));
    }
    Ok(())
}

/// The error that a unary call would have had.
fn failure(status: tonic_types::pb::Status, node: Option<&MetadataValue<Ascii>>) -> Error {
    let (code, message) = (Code::from_i32(status.code), status.message.clone());
    let mut status = Status::with_details(code, message, status.encode_to_vec().into());
    if let Some(node) = node {
        status.metadata_mut().insert(names::NODE, node.clone());
    }
    Error::from(status)
}

/// Looks at the deadlines, until the server has lost an operation.
async fn watch(core: &Core) -> Error {
    let mut wakers = Vec::new();
    loop {
        let due = core.slots().expire(Instant::now(), &mut wakers);
        wakers.drain(..).for_each(Waker::wake);
        if due.is_silent {
            return Error::protocol("the server left an operation without an answer");
        }
        match due.next {
            // An operation that is due earlier, or the time.
            Some(at) => drop(tokio::time::timeout_at(at, core.earlier.notified()).await),
            None => core.earlier.notified().await,
        }
    }
}
