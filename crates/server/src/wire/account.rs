//! [`Budget`], [`Account`] and [`Charge`]: how many bytes of answers wait to be sent.
//!
//! An answer refers to blocks, which cannot be let go before the client has taken it. So its bytes are charged,
//! before they are read, to its connection's account and to the budget of all connections, and given back when
//! the transport has written them.
//!
//! Invariants: a connection without an unsent answer is always allowed one, so that nobody can be kept out by
//! clients that do not read; beyond that one, a connection has at most its share unsent, and all together at most
//! the budget. Whoever waits for room waits for an answer of the own connection, so that only these wake it.
//!
//! An account tells when an answer has not moved for [`STALL_TIME`]. What ends then is the connection: the
//! transport has the answer, and leaves no other hold on it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

/// How long a client may leave an answer where it is: the time that it has for a request, too.
pub(crate) const STALL_TIME: Duration = Duration::from_secs(60);
/// Answers are counted by the period in which they last moved: the present one, and as many as [`STALL_TIME`] has.
const PERIODS: usize = 7;
/// How often [`Account::is_stalled`] is asked.
pub(crate) const PERIOD: Duration = Duration::from_secs(STALL_TIME.as_secs() / (PERIODS as u64 - 1));

/// A connection's part of the budget, beyond which it waits even if there is room.
const SHARES: u64 = 4;

/// The bytes of all connections' unsent answers.
#[derive(Debug)]
pub(crate) struct Budget {
    unsent: AtomicU64,
    max: u64,
}

impl Budget {
    /// A budget of `max` bytes.
    pub(crate) fn new(max: u64) -> Arc<Self> {
        Arc::new(Self { unsent: AtomicU64::new(0), max })
    }

    /// Bytes that are not sent.
    pub(crate) fn unsent(&self) -> u64 {
        self.unsent.load(Ordering::Relaxed)
    }

    /// The most.
    pub(crate) fn max(&self) -> u64 {
        self.max
    }
}

/// One connection's unsent answers. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Account(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    budget: Arc<Budget>,
    unsent: AtomicU64,
    /// Unsent bytes by the period in which they last moved.
    moved: [AtomicU64; PERIODS],
    /// The present period.
    period: AtomicUsize,
    given_back: Notify,
}

impl Account {
    /// A new connection's.
    pub(crate) fn new(budget: Arc<Budget>) -> Self {
        Self(Arc::new(Inner {
            budget,
            unsent: AtomicU64::new(0),
            moved: Default::default(),
            period: AtomicUsize::new(0),
            given_back: Notify::new(),
        }))
    }

    /// Charges an answer of `bytes`, if there is room for it now.
    pub(crate) fn try_charge(&self, bytes: u64) -> Option<Charge> {
        let Inner { budget, unsent, .. } = &*self.0;
        let own = unsent.fetch_add(bytes, Ordering::Relaxed);
        let all = budget.unsent.fetch_add(bytes, Ordering::Relaxed);
        let charge = Charge { account: self.clone(), bytes, period: None };
        let fits = own + bytes <= budget.max / SHARES && all + bytes <= budget.max;
        // Dropping a charge that is too much wakes whoever met it in passing and took it for a real one.
        (own == 0 || fits).then_some(charge)
    }

    /// Charges an answer of `bytes`, once there is room for it. To be waited for under a deadline.
    pub(crate) async fn charge(&self, bytes: u64) -> Charge {
        loop {
            let mut given_back = std::pin::pin!(self.0.given_back.notified());
            given_back.as_mut().enable();
            if let Some(charge) = self.try_charge_quietly(bytes) {
                return charge;
            }
            given_back.await;
        }
    }

    /// As [`Account::try_charge`], and wakes nobody when it fails: waiters would wake each other for ever.
    fn try_charge_quietly(&self, bytes: u64) -> Option<Charge> {
        let Inner { budget, unsent, .. } = &*self.0;
        let (own, all) = (unsent.load(Ordering::Acquire), budget.unsent.load(Ordering::Relaxed));
        let fits = own == 0 || (own + bytes <= budget.max / SHARES && all + bytes <= budget.max);
        if fits { self.try_charge(bytes) } else { None }
    }

    /// Ends a period, and says whether an answer has not moved for [`STALL_TIME`]. To be asked every [`PERIOD`].
    pub(crate) fn is_stalled(&self) -> bool {
        let Inner { moved, period, .. } = &*self.0;
        let next = (period.load(Ordering::Relaxed) + 1) % PERIODS;
        let is_stalled = moved[next].load(Ordering::Relaxed) > 0;
        period.store(next, Ordering::Relaxed);
        is_stalled
    }
}

/// Bytes of an answer that is not wholly sent. Dropping it gives them back.
#[derive(Debug)]
pub(crate) struct Charge {
    account: Account,
    bytes: u64,
    /// When the answer last moved; `None` before the transport has it: what is read slowly is not left lying.
    period: Option<usize>,
}

impl Charge {
    /// Makes `other`, of the same connection, part of this one.
    pub(super) fn absorb(&mut self, mut other: Self) {
        if let Some(period) = self.period {
            other.move_to(period);
        }
        self.bytes += std::mem::take(&mut other.bytes);
    }

    /// Notes that the transport has it, or that some of it was sent.
    pub(super) fn set_moved(&mut self) {
        let period = self.account.0.period.load(Ordering::Relaxed);
        self.move_to(period);
    }

    fn move_to(&mut self, period: usize) {
        if self.period != Some(period) {
            self.account.0.moved[period].fetch_add(self.bytes, Ordering::Relaxed);
            if let Some(before) = self.period.replace(period) {
                self.account.0.moved[before].fetch_sub(self.bytes, Ordering::Relaxed);
            }
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if self.bytes > 0 {
            let Inner { budget, unsent, moved, given_back, .. } = &*self.account.0;
            if let Some(period) = self.period {
                moved[period].fetch_sub(self.bytes, Ordering::Relaxed);
            }
            budget.unsent.fetch_sub(self.bytes, Ordering::Relaxed);
            unsent.fetch_sub(self.bytes, Ordering::Release);
            given_back.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::FutureExt as _;
    use tokio::time::timeout;

    use super::*;

    #[test]
    fn a_connection_without_an_unsent_answer_is_always_allowed_one() {
        let budget = Budget::new(80);
        let (greedy, modest) = (Account::new(budget.clone()), Account::new(budget));
        let held = greedy.try_charge(1000).expect("the first is always allowed");
        assert!(greedy.try_charge(1).is_none(), "a second one is not, as long as the budget is used up");
        assert!(modest.try_charge(1000).is_some());
        drop(held);
        assert!(greedy.try_charge(1).is_some());
    }

    #[test]
    fn a_connection_gets_its_share_and_not_the_whole_budget() {
        let budget = Budget::new(40);
        let account = Account::new(budget.clone());
        let held: Vec<_> = std::iter::from_fn(|| account.try_charge(2)).take(100).collect();
        assert_eq!(held.len(), 5);
        let absorb = |mut whole: Charge, part| {
            whole.absorb(part);
            whole
        };
        let whole = held.into_iter().reduce(absorb).unwrap();
        assert_eq!(budget.unsent.load(Ordering::Relaxed), 10);
        drop(whole);
        assert_eq!(budget.unsent.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn a_waiting_answer_goes_on_when_another_of_its_connection_was_sent() {
        let account = Account::new(Budget::new(40));
        let held = account.try_charge(10).unwrap();
        let mut waiting = Box::pin(account.charge(10));
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(held);
        timeout(Duration::from_secs(5), waiting).await.expect("nobody woke it");
    }

    #[test]
    fn an_answer_that_does_not_move_for_its_time_is_found_and_one_that_moves_is_not() {
        let account = Account::new(Budget::new(80));
        let mut charge = account.try_charge(10).unwrap();
        let mut periods = 0;
        for _ in 0..3 * PERIODS {
            charge.set_moved();
            assert!(!account.is_stalled());
        }
        charge.set_moved();
        while !account.is_stalled() {
            periods += 1;
        }
        // It may have moved at the end of the first of these periods.
        assert_eq!(PERIOD * periods, STALL_TIME);
        drop(charge);
        assert!((0..2 * PERIODS).all(|_| !account.is_stalled()), "an answer that was sent is forgotten");
    }
}
