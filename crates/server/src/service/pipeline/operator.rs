//! [`Operator`]: does a pipeline's operations and gathers their answers.
//!
//! Each operation is tried at once, in the order sent. One that has to wait for something goes on in a task of its
//! own. The operator owns the tasks; dropping it ends them.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Buf as _;
use futures::FutureExt as _;
use mmap_proto::v1;
use mmap_proto::v1::mmap_pipeline_response::Result as Answer;
use prost::Message as _;
use tokio::task::JoinSet;
use tonic::Status;
use tonic_types::pb;

use super::op::{Done, Op};
use super::order::{Order, Place};
use super::request::Request;
use super::trail::{Trail, ended};
use super::unjournaled::Unjournaled;
use crate::metrics::{Operation, Tally};
use crate::service::work::Work;
use crate::wire::{Charge, Segments, put_message, put_tagged_read};

/// Operations of a stream that are under way. A bound on what one client can ask for, not a tuned number.
const IN_FLIGHT_MAX: usize = 256;
/// Bytes that these may hold; one more operation may go beyond.
const IN_FLIGHT_BYTES: u64 = 1 << 20;
/// Bytes of answers that are handed on together; one more answer may go beyond.
const BATCH_BYTES: usize = 256 << 10;

/// Operations under way, and the answers of those that are not any more.
pub(super) struct Operator {
    work: Work,
    order: Order<Task>,
    /// May begin now: those that they waited for have ended.
    freed: VecDeque<(Place, Task)>,
    running: JoinSet<Finished>,
    trail: Trail,
    unjournaled: Unjournaled,
    /// Waits until the client has taken enough answers.
    parked: Option<Parked>,
    in_flight: usize,
    in_flight_bytes: u64,
    batch: Segments,
    /// What was answered since the last batch.
    tally: Tally,
}

/// An operation and whose answer it will be.
#[derive(Debug)]
struct Task {
    tag: u64,
    op: Op,
    /// Of a read: for its answer.
    charge: Option<Charge>,
}

/// A read that may not begin yet.
struct Parked {
    tag: u64,
    op: Op,
    charge: Pin<Box<dyn Future<Output = Charge> + Send>>,
}

/// An operation that is through, but for the journal.
#[derive(Debug)]
struct Finished {
    tag: u64,
    operation: Operation,
    place: Option<Place>,
    cost: u64,
    charge: Option<Charge>,
    done: Result<Done, Status>,
}

impl Operator {
    /// Does what is asked for with `work`.
    pub(super) fn new(work: Work) -> Self {
        Self {
            trail: Trail::of(work.call.span()),
            work,
            order: Order::default(),
            freed: VecDeque::new(),
            running: JoinSet::new(),
            unjournaled: Unjournaled::default(),
            parked: None,
            in_flight: 0,
            in_flight_bytes: 0,
            batch: Segments::default(),
            tally: Tally::default(),
        }
    }

    /// What it works with.
    pub(super) fn work(&self) -> &Work {
        &self.work
    }

    /// What it works with.
    pub(super) fn work_mut(&mut self) -> &mut Work {
        &mut self.work
    }

    /// Whether one more operation may come.
    pub(super) fn has_credit(&self) -> bool {
        self.parked.is_none()
            && self.in_flight < IN_FLIGHT_MAX
            && self.in_flight_bytes < IN_FLIGHT_BYTES
            && self.batch.remaining() < BATCH_BYTES
    }

    /// Whether any operation is under way.
    pub(super) fn is_busy(&self) -> bool {
        self.in_flight > 0
    }

    /// The answers at hand, if there are any.
    pub(super) fn take_batch(&mut self) -> Option<Segments> {
        if !self.batch.has_remaining() {
            return None;
        }
        self.work.calls.add(&mut self.tally);
        Some(std::mem::take(&mut self.batch))
    }

    /// Ends whatever is under way, without an answer.
    pub(super) fn give_up(&mut self) {
        self.running = JoinSet::new();
        self.unjournaled = Unjournaled::default();
        (self.order, self.freed, self.parked) = (Order::default(), VecDeque::new(), None);
        (self.in_flight, self.in_flight_bytes) = (0, 0);
    }

    /// Does the operation of a request, or lines it up.
    pub(super) fn take(&mut self, request: Request) {
        let tag = request.tag;
        self.trail.asked();
        let op = match Op::of(request.op, self.work.max_message) {
            Ok(op) => op,
            Err(error) => {
                let status = self.work.call.fail(&error);
                return self.fail(tag, Operation::Malformed, &status);
            }
        };
        if let Err(error) = self.work.pace.admit(op.cost()) {
            let status = self.work.call.fail(&error);
            return self.fail(tag, op.operation(), &status);
        }
        self.in_flight += 1;
        self.in_flight_bytes += op.cost();
        let charge = match &op {
            Op::Read(read) => {
                let charge = self.work.account.try_charge(read.length);
                if charge.is_none() {
                    let (account, bytes) = (self.work.account.clone(), read.length);
                    let charge = async move { account.charge(bytes).await }.boxed();
                    self.parked = Some(Parked { tag, op, charge });
                    return;
                }
                charge
            }
            Op::Map(_) | Op::Write(_) | Op::Sync(..) | Op::Unmap(..) | Op::Stats(_) => None,
        };
        self.admit(Task { tag, op, charge });
    }

    fn admit(&mut self, task: Task) {
        let footprint = task.op.footprint();
        match footprint {
            Some(footprint) if !self.order.is_free(&footprint) => self.order.wait(footprint, task),
            _ => {
                if let Some(task) = self.attempt(task, None) {
                    let place = footprint.map(|footprint| self.order.begun(footprint));
                    self.spawn(task, place);
                }
            }
        }
    }

    /// Takes up what has ended, and begins what waited for it.
    pub(super) fn collect(&mut self, cx: &mut Context<'_>) {
        while let Poll::Ready(Some(joined)) = self.running.poll_join_next(cx) {
            match joined {
                Ok(finished) => self.finish(finished),
                // Nobody aborts them, and a panic is caught inside.
                Err(error) => tracing::error!("an operation of a pipeline ended without an answer: {error}"),
            }
            while let Some((place, task)) = self.freed.pop_front() {
                if let Some(task) = self.attempt(task, Some(place)) {
                    self.spawn(task, Some(place));
                }
            }
        }
        while let Poll::Ready((group, result)) = self.unjournaled.poll_next(cx) {
            let failed = result.err().map(|error| self.work.call.fail(&error));
            for (tag, written) in group {
                self.in_flight -= 1;
                match &failed {
                    None => self.answer_write(tag, written),
                    Some(status) => self.fail(tag, Operation::Write, status),
                }
            }
        }
        if let Some(mut parked) = self.parked.take() {
            match parked.charge.poll_unpin(cx) {
                Poll::Ready(charge) => {
                    self.admit(Task { tag: parked.tag, op: parked.op, charge: Some(charge) });
                }
                Poll::Pending => self.parked = Some(parked),
            }
        }
    }

    /// Does an operation if nothing has to be waited for; otherwise it is given back.
    fn attempt(&mut self, task: Task, place: Option<Place>) -> Option<Task> {
        let done = match self.work.now(|core, caller| task.op.attempt(core, caller)) {
            Ok(None) => return Some(task),
            Ok(Some(done)) => Ok(done),
            Err(status) => Err(status),
        };
        let Task { tag, op, charge } = task;
        self.finish(Finished { tag, operation: op.operation(), place, cost: op.cost(), charge, done });
        None
    }

    fn spawn(&mut self, Task { tag, op, charge }: Task, place: Option<Place>) {
        let (cost, operation, since, calls) = (op.cost(), op.operation(), Instant::now(), self.work.calls.clone());
        let running = match self.work.pace.begin() {
            Ok(running) => running,
            Err(error) => {
                let done = Err(self.work.call.fail(&error));
                return self.finish(Finished { tag, operation, place, cost, charge, done });
            }
        };
        let span = self.trail.waits(&op);
        let waiting = self.work.later_in(span.clone(), |core, caller| op.run(core, caller));
        self.running.spawn(waiting.map(move |done| {
            drop(running);
            calls.operation_waited(operation, since.elapsed());
            ended(&span, &done);
            Finished { tag, operation, place, cost, charge, done }
        }));
    }

    /// Answers an operation that is through, and frees those that waited for it.
    fn finish(&mut self, Finished { tag, operation, place, cost, charge, done }: Finished) {
        self.in_flight_bytes -= cost;
        if let Some(place) = place {
            self.freed.extend(self.order.ended(place));
        }
        match done {
            Ok(Done::Wrote(written)) if written.is_pending() => return self.unjournaled.push(tag, written),
            Ok(Done::Wrote(written)) => self.answer_write(tag, written.bytes()),
            Ok(Done::Read(bytes)) => {
                self.tally.read(bytes.len() as u64);
                put_tagged_read(&mut self.batch, tag, &bytes);
                if let Some(charge) = charge {
                    self.batch.hold(charge);
                }
            }
            Ok(Done::Other(answer)) => {
                self.tally.done(operation);
                self.answer(tag, answer);
            }
            Err(status) => self.fail(tag, operation, &status),
        }
        self.in_flight -= 1;
    }

    fn answer_write(&mut self, tag: u64, written: u64) {
        self.tally.wrote(written);
        self.answer(tag, Answer::MmapWrite(v1::MmapWriteResponse { written }));
    }

    /// A failure as an answer: the details of a unary call's status are all of it, encoded.
    fn fail(&mut self, tag: u64, operation: Operation, status: &Status) {
        self.work.calls.operation_failed(operation, status.code());
        let message = pb::Status::decode(status.details()).unwrap_or_else(|_| pb::Status {
            code: status.code().into(),
            message: status.message().to_owned(),
            details: Vec::new(),
        });
        self.answer(tag, Answer::Error(message));
    }

    fn answer(&mut self, tag: u64, answer: Answer) {
        put_message(&mut self.batch, &v1::MmapPipelineResponse { tag, result: Some(answer) });
    }
}

impl fmt::Debug for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Operator").field("in_flight", &self.in_flight).finish_non_exhaustive()
    }
}
