//! [`Ending`]: what ends a stream that would go on: its caller's deadline and the server's stop.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use mmap_core::error::{Errno, Error};
use tokio::time::{Sleep, sleep_until};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::layers::Call;

/// When a server that stops may be back.
const RESTART: Duration = Duration::from_secs(1);

/// What ends a stream. Boxed parts, because there may be many streams that wait for nothing else.
#[derive(Debug)]
pub(super) struct Ending {
    deadline: Option<Pin<Box<Sleep>>>,
    stopping: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl Ending {
    /// Ends `call` at its deadline, and when `stopping` is cancelled.
    pub(super) fn of(call: &Call, stopping: &CancellationToken) -> Self {
        let deadline = call.deadline().map(|deadline| Box::pin(sleep_until(deadline)));
        Self { deadline, stopping: Some(Box::pin(stopping.clone().cancelled_owned())) }
    }

    /// Whether the caller's time is over: whatever runs is given up.
    pub(super) fn is_late(&mut self, cx: &mut Context<'_>) -> bool {
        self.deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready())
    }

    /// Whether the server stops: nothing more is begun. Asked again after it was, it still says so.
    pub(super) fn is_stopping(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(stopping) = &mut self.stopping else { return true };
        let stops = stopping.as_mut().poll(cx) == Poll::Ready(());
        if stops {
            self.stopping = None;
        }
        stops
    }
}

/// Why a stream ends before its client has ended it.
pub(super) fn server_is_stopping() -> Error {
    let sentence = "the server is stopping: what was answered was done; open the stream again when it is back";
    Error::new(Errno::Io, sentence).retry_after(RESTART)
}
