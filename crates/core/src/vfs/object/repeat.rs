//! When a request that failed at once is made again. Most repetitions are the client's own; these are of what it
//! does not dare to repeat: a conditional PUT or a DELETE whose answer is lost, and what was refused because
//! another change was under way.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio::time::Instant;

use crate::vfs::fault::{StoreFault, StoreResult};

const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(2);
const REPETITIONS: usize = 6;
/// Nothing is repeated later than this: a store that the client has tried for long has had its chance.
const REPEAT_TIME: Duration = Duration::from_secs(8);

/// The repetitions of one request.
pub(super) struct Repetitions {
    started: Instant,
    waits: ExponentialBackoff,
}

impl Repetitions {
    pub(super) fn new() -> Self {
        let waits = ExponentialBuilder::default().with_min_delay(FIRST_WAIT).with_max_delay(LONGEST_WAIT);
        Self { started: Instant::now(), waits: waits.with_max_times(REPETITIONS).with_jitter().build() }
    }

    /// Waits until it is time for the next one; whether there is one.
    pub(super) async fn next(&mut self) -> bool {
        match self.waits.next() {
            Some(wait) if self.started.elapsed() + wait < REPEAT_TIME => {
                tokio::time::sleep(wait).await;
                true
            }
            _ => false,
        }
    }
}

/// What `request` comes to, which may as well be made twice.
pub(super) async fn repeated<T, F>(request: impl Fn() -> F + Send) -> StoreResult<T>
where
    T: Send,
    F: Future<Output = StoreResult<T>> + Send,
{
    let mut repetitions = Repetitions::new();
    loop {
        match request().await {
            Err(StoreFault::Failed(..)) if repetitions.next().await => {}
            answer => return answer,
        }
    }
}
