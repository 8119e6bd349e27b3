//! [`Work`]: what a stream works with, and how it has done what it has to wait for.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use futures::FutureExt as _;
use mmap_core::error::Result;
use mmap_core::manager::{Caller, MmapManager};
use tonic::Status;
use tracing::{Instrument as _, Span};

use super::ending::Ending;
use super::front::Core;
use super::pace::Pace;
use crate::layers::{Call, panic_text};
use crate::metrics::Calls;
use crate::wire::Account;

/// What a stream works with.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) core: Core,
    pub(super) caller: Caller,
    pub(super) call: Call,
    /// What it is counted in.
    pub(super) calls: Arc<Calls>,
    /// Largest data of one read or write, in bytes.
    pub(super) max_message: u64,
    /// Its connection's answers that are not sent yet.
    pub(super) account: Account,
    pub(super) ending: Ending,
    /// How fast it may go.
    pub(super) pace: Pace,
}

impl Work {
    /// Does what waits for nothing; a panic is a fault of it alone.
    pub(super) fn now<T>(
        &self,
        work: impl FnOnce(&MmapManager, &Caller) -> Result<T>,
    ) -> std::result::Result<T, Status> {
        // Nothing but the core's state is seen from both sides of a panic; its locks are not poisoned, and its
        // invariants hold between statements.
        told(catch_unwind(AssertUnwindSafe(|| work(&self.core, &self.caller))), &self.call)
    }

    /// As [`Work::now`], for what waits: to be run as a task, because a client that does not take its answers stops
    /// the body that owns the task, and must not stop what others wait for with it.
    pub(super) fn later<T, W>(
        &self,
        work: impl FnOnce(Core, Caller) -> W,
    ) -> impl Future<Output = std::result::Result<T, Status>> + Send + 'static
    where
        T: 'static,
        W: Future<Output = Result<T>> + Send + 'static,
    {
        self.later_in(self.call.span().clone(), work)
    }

    /// As [`Work::later`], told on a span of its own.
    pub(super) fn later_in<T, W>(
        &self,
        span: Span,
        work: impl FnOnce(Core, Caller) -> W,
    ) -> impl Future<Output = std::result::Result<T, Status>> + Send + 'static
    where
        T: 'static,
        W: Future<Output = Result<T>> + Send + 'static,
    {
        let call = self.call.clone();
        let work = AssertUnwindSafe(work(self.core.clone(), self.caller.clone())).catch_unwind();
        work.map(move |ended| told(ended, &call)).instrument(span)
    }
}

/// What work came to, its failure as the wire tells it.
fn told<T>(ended: std::thread::Result<Result<T>>, call: &Call) -> std::result::Result<T, Status> {
    match ended {
        Ok(done) => done.map_err(|error| call.fail(&error)),
        Err(panic) => Err(call.fail_by_fault(panic_text(panic.as_ref()))),
    }
}
