//! [`Ending`]: what ends a stream that would go on: its caller's deadline, the end of its token and the server's stop.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use mmap_core::error::{Errno, Error};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::auth::{Grant, Identity};
use crate::layers::Call;

/// When a server that stops may be back.
const RESTART: Duration = Duration::from_secs(1);

/// The longest time between two looks at a token's end: the machine's clock may be set anew meanwhile.
const TOKEN_LOOK: Duration = Duration::from_mins(1);
/// And the shortest: its end is a whole second.
const TOKEN_GRAIN: Duration = Duration::from_millis(50);

/// What ends a stream. Boxed parts, because there may be many streams that wait for nothing else.
#[derive(Debug)]
pub(super) struct Ending {
    deadline: Option<Pin<Box<Sleep>>>,
    token: Option<TokenEnd>,
    stopping: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl Ending {
    /// Ends `call` at its deadline, and when `stopping` is cancelled.
    pub(super) fn of(call: &Call, stopping: &CancellationToken) -> Self {
        let deadline = call.deadline().map(|deadline| Box::pin(sleep_until(deadline)));
        let token = TokenEnd::of(call.identity());
        Self { deadline, token, stopping: Some(Box::pin(stopping.clone().cancelled_owned())) }
    }

    /// Whether the caller's time is over: whatever runs is given up.
    pub(super) fn is_late(&mut self, cx: &mut Context<'_>) -> bool {
        self.deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready())
    }

    /// Why nothing more is begun, once: the server stops, or the token has ended.
    pub(super) fn is_ending(&mut self, cx: &mut Context<'_>) -> Option<Error> {
        if let Some(token) = &mut self.token
            && let Poll::Ready(error) = Pin::new(token).poll(cx)
        {
            self.token = None;
            return Some(error);
        }
        self.is_stopping(cx).then(server_is_stopping)
    }

    /// Whether the server stops: nothing more is begun. Asked again after it was, it still says so.
    fn is_stopping(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(stopping) = &mut self.stopping else { return true };
        let stops = stopping.as_mut().poll(cx) == Poll::Ready(());
        if stops {
            self.stopping = None;
        }
        stops
    }
}

/// The end of a token that a stream was opened with: its time is over, or its key was taken away.
#[derive(Debug)]
pub(super) struct TokenEnd {
    grant: Arc<Grant>,
    expired: Pin<Box<Sleep>>,
    revoked: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl TokenEnd {
    /// That of who has one.
    pub(super) fn of(identity: &Identity) -> Option<Self> {
        let grant = match identity {
            Identity::Granted(grant) => Arc::clone(grant),
            Identity::Trusted | Identity::Nobody => return None,
        };
        let expired = Box::pin(sleep_until(Instant::now() + grant.left().min(TOKEN_LOOK)));
        let revoked = Box::pin(grant.revoked().clone().cancelled_owned());
        Some(Self { grant, expired, revoked })
    }
}

/// Resolves once, with why.
impl Future for TokenEnd {
    type Output = Error;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Error> {
        while self.expired.as_mut().poll(cx).is_ready() {
            if let Err(error) = self.grant.check() {
                return Poll::Ready(ended(&error));
            }
            // The clock of tokens may have been set back, and a far end is looked at now and then.
            let next = Instant::now() + self.grant.left().clamp(TOKEN_GRAIN, TOKEN_LOOK);
            self.expired.as_mut().reset(next);
        }
        match self.revoked.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(match self.grant.check() {
                Err(error) => ended(&error),
                // A key is revoked before it says so.
                Ok(()) => ended(&Error::new(Errno::UnAuth, "its key was taken away").with("why", "unknown-key")),
            }),
            Poll::Pending => Poll::Pending,
        }
    }
}

fn ended(error: &Error) -> Error {
    let sentence = format!(
        "the token of this stream does not hold any more: what was answered was done, nothing else was begun; open the \
         stream again with a new token ({})",
        error.message()
    );
    error.details().iter().fold(Error::new(Errno::UnAuth, sentence), |told, (key, value)| told.with(key, value))
}

/// Why a stream ends before its client has ended it.
fn server_is_stopping() -> Error {
    let sentence = "the server is stopping: what was answered was done; open the stream again when it is back";
    Error::new(Errno::Io, sentence).retry_after(RESTART)
}
