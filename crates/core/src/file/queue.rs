//! [`CommitQueue`]: one change of a file at a time on its way to the store, first come, first served.
//!
//! Invariant: whoever waits behind a change that a silent store holds up is told of its failure when it fails,
//! and does not begin to wait for the same store anew: otherwise the tenth in line would learn after ten of the
//! store's time limits what is known after one.

use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard};
use tokio::time::Instant;

use crate::error::{Errno, Error, Result};

/// Who waited less than this was not held up and tries by itself: the store may be back.
const HELD_UP: Duration = Duration::from_secs(1);

/// The queue of a file's changes; holds the last failure of the store, and when it was told.
#[derive(Debug, Default)]
pub(super) struct CommitQueue(Mutex<Option<(Instant, Error)>>);

/// The right to change the file in its store.
#[derive(Debug)]
pub(super) struct Turn<'a>(MutexGuard<'a, Option<(Instant, Error)>>);

impl CommitQueue {
    /// Waits for the turn.
    pub(super) async fn turn(&self) -> Turn<'_> {
        Turn(self.0.lock().await)
    }

    /// Waits for the turn and changes the file.
    ///
    /// # Errors
    /// Those of `change`; EIO of a change before it that held this one up.
    pub(super) async fn run<T>(&self, change: impl Future<Output = Result<T>>) -> Result<T> {
        let asked = Instant::now();
        let mut turn = self.turn().await;
        match turn.failure_since(asked) {
            Some(failure) => Err(failure),
            None => {
                let result = change.await;
                turn.note(result.as_ref().err());
                result
            }
        }
    }
}

impl Turn<'_> {
    /// The failure that answers who asked at `asked` too.
    pub(super) fn failure_since(&self, asked: Instant) -> Option<Error> {
        let (when, error) = self.0.as_ref()?;
        (*when > asked && asked.elapsed() >= HELD_UP).then(|| error.clone())
    }

    /// Remembers how a change ended, for those who wait.
    pub(super) fn note(&mut self, error: Option<&Error>) {
        let failure = error.filter(|error| error.errno() == Errno::Io);
        *self.0 = failure.map(|error| (Instant::now(), error.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn failing(time: Duration) -> Result<()> {
        tokio::time::sleep(time).await;
        Err(Error::new(Errno::Io, "the store is silent"))
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_held_up_by_a_failure_shares_it_and_who_comes_later_tries_anew() {
        let queue = CommitQueue::default();
        let long = Duration::from_secs(30);
        let started = Instant::now();
        let never_run = async { panic!("it waits for the store once more") };
        let (first, second) = tokio::join!(queue.run(failing(long)), queue.run::<()>(never_run));
        assert_eq!((first.unwrap_err().errno(), second.unwrap_err().errno()), (Errno::Io, Errno::Io));
        assert_eq!(started.elapsed(), long);
        queue.run(async { Ok(()) }).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_quick_failure_is_its_callers_own() {
        let queue = CommitQueue::default();
        let quick = Duration::from_millis(100);
        let (first, second) = tokio::join!(queue.run(failing(quick)), queue.run(async { Ok(()) }));
        assert_eq!(first.unwrap_err().errno(), Errno::Io);
        second.unwrap();
    }
}
