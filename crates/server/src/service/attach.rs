//! The stream of an attached process: the first message at once, then heartbeats.
//!
//! Invariant: the stream owns the attachment. Whatever ends it (the process's exit, a broken connection, a
//! client that went away, the server's stop) drops the attachment, and with that the process's grace begins.

use std::time::Duration;

use futures::StreamExt as _;
use futures::future::ready;
use futures::stream::{BoxStream, once, unfold};
use mmap_core::error::{Errno, Error};
use mmap_core::manager::Attachment;
use mmap_proto::v1::AttachResponse;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::ending::TokenEnd;
use crate::convert::millis;
use crate::layers::Call;
use crate::status::to_status;

/// Heartbeats come no faster than this, however short the grace is: they cost a wake-up a process.
const BEAT_MIN: Duration = Duration::from_millis(200);
/// And no slower than this, so that a client soon notices that its server is gone.
const BEAT_MAX: Duration = Duration::from_secs(10);

/// An attached process on its stream.
struct Attached {
    attachment: Attachment,
    beat: AttachResponse,
    period: Duration,
    call: Call,
    token: Option<TokenEnd>,
    stopping: CancellationToken,
}

enum Event {
    Beat,
    Ended,
    Stopping,
    Unauthorized(Error),
    TimedOut,
}

/// The stream of `attachment`; ends with an error when `stopping` is cancelled.
pub(super) fn attached(
    attachment: Attachment,
    grace: Duration,
    call: Call,
    stopping: CancellationToken,
) -> BoxStream<'static, Result<AttachResponse, Status>> {
    let beat = AttachResponse { pid: attachment.pid(), grace_ms: millis(grace) };
    let attached =
        Attached { attachment, beat, period: beat_period(grace), token: TokenEnd::of(call.identity()), call, stopping };
    let first = once(ready(Ok(beat)));
    let rest = unfold(Some(attached), |attached| async move {
        let mut attached = attached?;
        match attached.next().await {
            Event::Beat => Some((Ok(attached.beat), Some(attached))),
            Event::Ended => None,
            // Not a failure to be logged, although it travels as one: the client has to know that this is not
            // the answer to an exit.
            Event::Stopping => Some((Err(to_status(&server_is_stopping())), None)),
            Event::Unauthorized(why) => Some((Err(to_status(&why)), None)),
            Event::TimedOut => Some((Err(attached.call.fail(&Call::timed_out())), None)),
        }
    });
    first.chain(rest).boxed()
}

/// Three heartbeats in the grace time: a client that missed two can still attach again.
fn beat_period(grace: Duration) -> Duration {
    (grace / 3).clamp(BEAT_MIN, BEAT_MAX)
}

impl Attached {
    async fn next(&mut self) -> Event {
        let token = async {
            match &mut self.token {
                Some(token) => token.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.attachment.ended() => Event::Ended,
            () = self.stopping.cancelled() => Event::Stopping,
            why = token => Event::Unauthorized(why),
            () = deadline(&self.call) => Event::TimedOut,
            () = sleep(self.period) => Event::Beat,
        }
    }
}

async fn deadline(call: &Call) {
    // Without a deadline a far one: the heartbeat comes first in any case.
    sleep_until(call.deadline().unwrap_or_else(|| Instant::now() + BEAT_MAX * 2)).await;
}

fn server_is_stopping() -> Error {
    Error::new(Errno::Io, "the server is stopping; it syncs what this process wrote: attach again when it is back")
        .retry_after(Duration::from_secs(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heartbeat_comes_thrice_in_the_grace_time_within_bounds() {
        assert_eq!(beat_period(Duration::from_secs(9)), Duration::from_secs(3));
        assert_eq!(beat_period(Duration::ZERO), BEAT_MIN);
        assert_eq!(beat_period(Duration::from_hours(1)), BEAT_MAX);
    }
}
