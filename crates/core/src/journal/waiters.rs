//! [`Waiters`]: who waits until a record is acknowledged, in the order of the records.
//!
//! A publication wakes those whose record it reaches, and nobody else: with one list for all, each of the writer's
//! small batches would wake every writer there is.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

/// How far it is, and who waits.
#[derive(Debug)]
pub(super) struct Waiters {
    /// Everything up to here is acknowledged.
    reached: AtomicU64,
    line: Mutex<Line>,
}

#[derive(Debug, Default)]
struct Line {
    /// By record, and then by turn.
    waiting: BTreeMap<(u64, u64), Waker>,
    next: u64,
    ended: bool,
}

/// Resolves to whether the record was acknowledged; false: nothing will be any more. Cancel safe.
#[derive(Debug)]
pub(super) struct Reached<'a> {
    waiters: &'a Waiters,
    record: u64,
    turn: Option<u64>,
}

impl Waiters {
    /// Everything up to `reached` is acknowledged already.
    pub(super) fn new(reached: u64) -> Self {
        Self { reached: AtomicU64::new(reached), line: Mutex::default() }
    }

    /// The last record that is acknowledged.
    pub(super) fn reached(&self) -> u64 {
        self.reached.load(Ordering::Acquire)
    }

    /// Waits for `record`.
    pub(super) fn wait(&self, record: u64) -> Reached<'_> {
        Reached { waiters: self, record, turn: None }
    }

    /// Everything up to `reached` is acknowledged now.
    pub(super) fn publish(&self, reached: u64) {
        // Before the line is locked: whoever gets into it later looks again, and sees it.
        self.reached.store(reached, Ordering::Release);
        let mut line = self.line.lock();
        let later = match reached.checked_add(1) {
            Some(next) => line.waiting.split_off(&(next, 0)),
            None => BTreeMap::new(),
        };
        let served = std::mem::replace(&mut line.waiting, later);
        drop(line);
        served.into_values().for_each(Waker::wake);
    }

    /// Nothing more will be acknowledged.
    pub(super) fn end(&self) {
        let mut line = self.line.lock();
        line.ended = true;
        let all = std::mem::take(&mut line.waiting);
        drop(line);
        all.into_values().for_each(Waker::wake);
    }
}

impl Future for Reached<'_> {
    type Output = bool;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<bool> {
        let Self { waiters, record, turn } = *self;
        if waiters.reached() >= record {
            return Poll::Ready(true);
        }
        let mut line = waiters.line.lock();
        if waiters.reached() >= record {
            return Poll::Ready(true);
        }
        if line.ended {
            return Poll::Ready(false);
        }
        let turn = turn.unwrap_or(line.next);
        line.next = line.next.max(turn + 1);
        line.waiting
            .entry((record, turn))
            .and_modify(|waker| waker.clone_from(cx.waker()))
            .or_insert(cx.waker().clone());
        self.turn = Some(turn);
        Poll::Pending
    }
}

impl Drop for Reached<'_> {
    fn drop(&mut self) {
        if let Some(turn) = self.turn {
            self.waiters.line.lock().waiting.remove(&(self.record, turn));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_publication_wakes_those_that_it_reaches_and_nobody_else() {
        let waiters = Waiters::new(1);
        let counts: Vec<Arc<Count>> = (0..5).map(|_| Arc::default()).collect();
        let mut waits: Vec<_> = (0..5).map(|index| Box::pin(waiters.wait(index + 1))).collect();
        let mut polls = |index: usize| {
            let waker = Waker::from(Arc::clone(&counts[index]));
            waits[index].as_mut().poll(&mut Context::from_waker(&waker))
        };
        assert_eq!(polls(0), Poll::Ready(true));
        assert!((1..5).all(|index| polls(index).is_pending() && polls(index).is_pending()));
        waiters.publish(3);
        let woken = || counts.iter().map(|count| count.0.load(Ordering::Relaxed)).collect::<Vec<_>>();
        assert_eq!(woken(), [0, 1, 1, 0, 0]);
        assert_eq!((polls(1), polls(2), polls(3)), (Poll::Ready(true), Poll::Ready(true), Poll::Pending));
        waiters.end();
        assert_eq!(woken(), [0, 1, 1, 1, 1]);
        assert_eq!((polls(2), polls(3)), (Poll::Ready(true), Poll::Ready(false)));
    }

    #[test]
    fn who_goes_away_leaves_the_line() {
        let waiters = Waiters::new(0);
        let (one, other) = (Arc::<Count>::default(), Arc::<Count>::default());
        let mut stays = Box::pin(waiters.wait(1));
        let mut goes = Box::pin(waiters.wait(1));
        assert!(stays.as_mut().poll(&mut Context::from_waker(&Waker::from(Arc::clone(&one)))).is_pending());
        assert!(goes.as_mut().poll(&mut Context::from_waker(&Waker::from(Arc::clone(&other)))).is_pending());
        drop(goes);
        assert_eq!(waiters.line.lock().waiting.len(), 1);
        waiters.publish(u64::MAX);
        assert_eq!((one.0.load(Ordering::Relaxed), other.0.load(Ordering::Relaxed)), (1, 0));
    }
}
