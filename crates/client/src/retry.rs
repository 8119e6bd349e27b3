//! What is repeated by itself, how often and how fast: one rule, `is_repeatable`, and its bounds.
//!
//! | call | the server surely never saw it | `UNAVAILABLE`, or the connection broke during the call | anything else |
//! |---|---|---|---|
//! | read, stats, stat, list, read of a conflict, ping, plain msync, truncate without `exclusive` | repeated | repeated | never |
//! | write, mmap, unmap, exit, remove, apply, drop, truncate with `exclusive`, msync with `invalidate` or `force` | repeated | never: its fate is unknown | never |
//!
//! Repeating is bounded twice: by [`RetryPolicy::repeats_max`], and by the call's deadline, which covers all of
//! its attempts. A repeat that would start behind the deadline is not waited for: the last error is the answer.
//! A `RetryInfo` of the server makes a wait longer, never shorter.

use std::{future::Future, time::Duration};

use backon::{ExponentialBuilder, Retryable};
use futures::future::{Either, ready};
use tokio::time::Instant;
use tonic::Code;

use crate::error::{Error, ErrorKind, Result};

/// How often and how fast a call is repeated that is safe to repeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Repeats of one call at most, its first attempt not counted. 0: never repeat.
    pub repeats_max: usize,
    /// The first wait; each is twice the one before, and up to as long again at random, so that many clients
    /// of a server that comes back do not come back together.
    pub delay_min: Duration,
    /// The longest wait before that random part.
    pub delay_max: Duration,
}

impl RetryPolicy {
    /// Never repeats anything.
    pub const NEVER: Self = Self { repeats_max: 0, delay_min: Duration::ZERO, delay_max: Duration::ZERO };
}

impl Default for RetryPolicy {
    /// 50, 100, 200, 400, 800, 1600, 2000, 2000 ms: 7 s in all, as long as a server takes to restart.
    fn default() -> Self {
        Self { repeats_max: 8, delay_min: Duration::from_millis(50), delay_max: Duration::from_secs(2) }
    }
}

/// Which failures of a call may be repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// Doing it twice is doing it once.
    Idempotent,
    /// Only if the server surely never saw it.
    Unsent,
}

/// The table above.
pub(crate) fn is_repeatable(repeat: Repeat, error: &Error) -> bool {
    match error.kind() {
        ErrorKind::Connect => true,
        ErrorKind::Transport => repeat == Repeat::Idempotent,
        ErrorKind::Server => repeat == Repeat::Idempotent && error.code() == Code::Unavailable,
        ErrorKind::Deadline | ErrorKind::ProcessEnded | ErrorKind::Protocol | ErrorKind::Usage => false,
    }
}

/// Runs `attempt` until it succeeds, fails in a way that is not to be repeated, or a bound is reached.
pub(crate) async fn run<T, F, Fut>(policy: RetryPolicy, repeat: Repeat, deadline: Instant, attempt: F) -> Result<T>
where
    F: FnMut() -> Fut + Send,
    Fut: Future<Output = Result<T>> + Send,
{
    let backoff = ExponentialBuilder::default()
        .with_min_delay(policy.delay_min)
        .with_max_delay(policy.delay_max)
        .with_max_times(policy.repeats_max)
        .with_jitter();
    attempt
        .retry(backoff)
        .sleep(tokio::time::sleep)
        .when(|error| is_repeatable(repeat, error))
        .adjust(|error: &Error, delay| {
            let delay = delay?.max(error.retry_delay().unwrap_or_default());
            let in_time = Instant::now().checked_add(delay).is_some_and(|start| start < deadline);
            in_time.then_some(delay)
        })
        .notify(|error, delay| tracing::debug!(%error, ?delay, "repeating a call"))
        .await
}

/// As [`run`], where the first attempt was made already and failed with `first`.
pub(crate) async fn resume<T, F, Fut>(
    policy: RetryPolicy,
    repeat: Repeat,
    deadline: Instant,
    first: Error,
    mut attempt: F,
) -> Result<T>
where
    F: FnMut() -> Fut + Send,
    Fut: Future<Output = Result<T>> + Send,
    T: Send,
{
    let mut first = Some(first);
    run(policy, repeat, deadline, || match first.take() {
        Some(first) => Either::Left(ready(Err(first))),
        None => Either::Right(attempt()),
    })
    .await
}

#[cfg(test)]
mod tests {
    use tonic::Status;

    use super::*;

    #[test]
    fn only_what_is_safe_is_repeated() {
        let unavailable = Error::from(Status::unavailable("store down"));
        let refused = Error::from(Status::not_found("no such file"));
        let unsent = Error::new(ErrorKind::Connect, Code::Unavailable, "refused");
        let broken = Error::new(ErrorKind::Transport, Code::Unavailable, "reset");
        let late = Error::deadline(Duration::from_secs(1));
        for (error, idempotent, other) in [
            (&unavailable, true, false),
            (&refused, false, false),
            (&unsent, true, true),
            (&broken, true, false),
            (&late, false, false),
        ] {
            assert_eq!(is_repeatable(Repeat::Idempotent, error), idempotent, "{error:?}");
            assert_eq!(is_repeatable(Repeat::Unsent, error), other, "{error:?}");
        }
    }
}
