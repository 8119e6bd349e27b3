//! What a process, its mappings and its background task share: [`Link`], with the process's state.
//!
//! Invariants: once ended, a process stays ended. `mappings` holds only ids that the server surely still had when
//! they were put there, so that one of them missing proves that the process was ended behind our back.

use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

use mmap_proto::v1::{mmap_pipeline_request::Op, mmap_pipeline_response::Result as Answer};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use crate::{
    caller::Caller,
    error::{Error, Result},
    pipeline::Pipeline,
    retry::{self, Repeat},
};

/// How a process is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProcessState {
    /// The server keeps it: its stream stands, or it never had one.
    Alive,
    /// Its stream broke and is being made again. Calls go on meanwhile.
    Reattaching,
    /// It exited, or it was lost.
    Ended,
}

/// How a process ended.
#[derive(Clone, Debug)]
pub(crate) enum End {
    /// By an `Exit`, of ours or of somebody else.
    Exited,
    /// Its stream could not be made again in time, or the server had already ended it.
    Lost(Error),
}

#[derive(Clone, Debug)]
enum State {
    Alive,
    Reattaching,
    Ended(End),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) caller: Caller,
    pub(crate) pid: u32,
    state: watch::Sender<State>,
    /// A std mutex: it is held for single operations, never across an await.
    mappings: Mutex<BTreeSet<u64>>,
    pipeline: Pipeline,
    /// Where dropped mappings go; `None` for a process that has no background task.
    dropped: Option<mpsc::Sender<u64>>,
}

impl Link {
    pub(crate) fn new(caller: Caller, pid: u32, dropped: Option<mpsc::Sender<u64>>) -> Self {
        let caller = caller.with_pid(pid);
        let pipeline = Pipeline::new(caller.connections());
        Self { caller, pid, state: watch::Sender::new(State::Alive), mappings: Mutex::default(), pipeline, dropped }
    }

    pub(crate) fn state(&self) -> ProcessState {
        match &*self.state.borrow() {
            State::Alive => ProcessState::Alive,
            State::Reattaching => ProcessState::Reattaching,
            State::Ended(_) => ProcessState::Ended,
        }
    }

    /// Why it was lost, if it was.
    pub(crate) fn lost(&self) -> Option<Error> {
        match &*self.state.borrow() {
            State::Ended(End::Lost(error)) => Some(error.clone()),
            State::Ended(End::Exited) | State::Alive | State::Reattaching => None,
        }
    }

    /// The caller, unless the process has ended.
    pub(crate) fn alive(&self) -> Result<&Caller> {
        match &*self.state.borrow() {
            State::Alive | State::Reattaching => Ok(&self.caller),
            State::Ended(End::Lost(error)) => Err(error.clone()),
            State::Ended(End::Exited) => {
                let pid = self.pid;
                Err(Error::process_ended(format!("process {pid} has exited: attach a new one"), pid))
            }
        }
    }

    /// Does a small operation over the process's pipeline, repeating it as `repeat` allows. `None`: it is not small, its
    /// trace is recorded, or the server has no pipeline, and the operation is to be called by itself.
    pub(crate) async fn operate(
        &self,
        is_small: bool,
        repeat: Repeat,
        op: impl Fn() -> Op + Send + Sync,
    ) -> Result<Option<Answer>> {
        if !is_small {
            return Ok(None);
        }
        let caller = self.alive()?;
        // The stream is everybody's, and its headers are of no trace.
        if caller.is_sampled() {
            return Ok(None);
        }
        let allowed = caller.allowed();
        if allowed.is_zero() {
            return Err(Error::deadline(allowed));
        }
        let due = Instant::now() + allowed;
        match self.pipeline.run(caller, op(), due, allowed).await {
            // Only a failure pays for what repeating takes.
            Err(error) if retry::is_repeatable(repeat, &error) => {
                let again = || async { self.pipeline.run(self.alive()?, op(), due, allowed).await };
                Box::pin(retry::resume(caller.settings().retry, repeat, due, error, again)).await
            }
            ended => ended,
        }
    }

    /// Waits until the process has ended. Cancel safe.
    pub(crate) async fn ended(&self) {
        let mut state = self.state.subscribe();
        // The sender is a field of self, so the wait cannot fail.
        let _ = state.wait_for(|state| matches!(state, State::Ended(_))).await;
    }

    pub(crate) fn set_attached(&self, attached: bool) {
        self.change(if attached { State::Alive } else { State::Reattaching });
    }

    pub(crate) fn end(&self, end: End) {
        self.change(State::Ended(end));
        self.pipeline.close();
    }

    fn change(&self, next: State) {
        self.state.send_if_modified(|state| {
            let open = !matches!(state, State::Ended(_));
            if open {
                *state = next;
            }
            open
        });
    }

    pub(crate) fn remember(&self, id: u64) {
        self.mappings().insert(id);
    }

    pub(crate) fn forget(&self, id: u64) {
        self.mappings().remove(&id);
    }

    pub(crate) fn remembers(&self, id: u64) -> bool {
        self.mappings().contains(&id)
    }

    /// The oldest mapping that the server should still have.
    pub(crate) fn oldest_mapping(&self) -> Option<u64> {
        self.mappings().first().copied()
    }

    fn mappings(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        // A set of numbers is whole after any panic.
        self.mappings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands a dropped mapping to the background task. Where there is none, or it is far behind, the mapping
    /// stays until its process ends.
    pub(crate) fn drop_mapping(&self, id: u64) {
        self.forget(id);
        if let Some(dropped) = &self.dropped
            && dropped.try_send(id).is_err()
        {
            tracing::debug!(pid = self.pid, id, "a dropped mapping stays until its process ends");
        }
    }
}
