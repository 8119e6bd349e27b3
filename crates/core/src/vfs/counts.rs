//! [`StoreCounts`]: what a mount's store was asked, what came of it, how long that took and how many bytes it moved.
//!
//! It counts calls of a [`FileStore`](super::FileStore), not requests on a network: one call may take several of
//! these, or a retry. Plain atomics; it decides nothing.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::fault::{StoreFault, StoreResult};
use crate::meter::{Histogram, Observed};

/// What a store is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreCall {
    /// What it knows of a file.
    Stat,
    /// Bytes.
    Read,
    /// A change.
    Write,
    /// Names.
    List,
    /// To remove a file.
    Remove,
    /// Whether it can be written safely.
    Probe,
    /// A sign of life.
    Ping,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done.
    Ok,
    /// There is no such file.
    Missing,
    /// The file is not what the call was made for: it changed, or is there already.
    Conflict,
    /// It will not do it: a name, a size, rights, no room, fenced.
    Refused,
    /// It sent something else than it promised.
    Corrupt,
    /// It failed, or did not answer in time.
    Failed,
    /// Nobody waited for the answer any more.
    Dropped,
}

impl StoreCall {
    /// All of them.
    pub const ALL: [Self; 7] = [Self::Stat, Self::Read, Self::Write, Self::List, Self::Remove, Self::Probe, Self::Ping];

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stat => "stat",
            Self::Read => "read",
            Self::Write => "write",
            Self::List => "list",
            Self::Remove => "remove",
            Self::Probe => "probe",
            Self::Ping => "ping",
        }
    }
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Ok, Self::Missing, Self::Conflict, Self::Refused, Self::Corrupt, Self::Failed, Self::Dropped];

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Missing => "missing",
            Self::Conflict => "conflict",
            Self::Refused => "refused",
            Self::Corrupt => "corrupt",
            Self::Failed => "failed",
            Self::Dropped => "dropped",
        }
    }

    fn of<T>(answer: &StoreResult<T>) -> Self {
        match answer {
            Ok(_) => Self::Ok,
            Err(StoreFault::Missing) => Self::Missing,
            Err(StoreFault::Exists | StoreFault::Changed) => Self::Conflict,
            Err(
                StoreFault::BadName(_)
                | StoreFault::TooLarge { .. }
                | StoreFault::Unsupported(_)
                | StoreFault::Fenced { .. }
                | StoreFault::Denied(_)
                | StoreFault::Full(_),
            ) => Self::Refused,
            Err(StoreFault::Corrupt(_)) => Self::Corrupt,
            Err(StoreFault::Failed(..)) => Self::Failed,
        }
    }
}

/// What became of the calls of one kind.
#[derive(Debug, Default)]
struct Calls {
    outcomes: [AtomicU64; Outcome::ALL.len()],
    took: Histogram,
}

/// The counts of one store.
#[derive(Debug, Default)]
pub struct StoreCounts {
    calls: [Calls; StoreCall::ALL.len()],
    read_bytes: AtomicU64,
    written_bytes: AtomicU64,
}

/// What became of the calls of one kind so far.
#[derive(Clone, Debug)]
pub struct StoreCalls {
    /// The kind.
    pub call: StoreCall,
    /// How many came to each end.
    pub outcomes: [(Outcome, u64); Outcome::ALL.len()],
    /// How long those took that were waited for.
    pub took: Observed,
}

/// A call that was begun; dropping it before it has ended counts it as dropped.
#[derive(Debug)]
pub(super) struct Begun<'a> {
    calls: &'a Calls,
    since: Instant,
    outcome: Outcome,
}

impl StoreCounts {
    /// Counts a call when what it answers ends.
    pub(super) fn begin(&self, call: StoreCall) -> Begun<'_> {
        Begun { calls: &self.calls[call as usize], since: Instant::now(), outcome: Outcome::Dropped }
    }

    /// Bytes came from the store.
    pub(super) fn add_read(&self, bytes: u64) {
        self.read_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The store has taken bytes.
    pub(super) fn add_written(&self, bytes: u64) {
        self.written_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// What became of the calls so far, kind by kind.
    pub fn calls(&self) -> Vec<StoreCalls> {
        let of = |call: StoreCall| {
            let calls = &self.calls[call as usize];
            let outcomes = Outcome::ALL.map(|outcome| {
                let count = calls.outcomes[outcome as usize].load(Ordering::Relaxed);
                (outcome, count)
            });
            StoreCalls { call, outcomes, took: calls.took.observed() }
        };
        StoreCall::ALL.map(of).into()
    }

    /// Bytes of files that came from the store.
    pub fn read_bytes(&self) -> u64 {
        self.read_bytes.load(Ordering::Relaxed)
    }

    /// Bytes of unsynced pages that the store has taken. What a layout moves beside them is not known here.
    pub fn written_bytes(&self) -> u64 {
        self.written_bytes.load(Ordering::Relaxed)
    }
}

impl Begun<'_> {
    /// It was answered.
    pub(super) fn ended<T>(mut self, answer: &StoreResult<T>) {
        self.outcome = Outcome::of(answer);
        self.calls.took.observe(self.since.elapsed());
    }
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        self.calls.outcomes[self.outcome as usize].fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_counted_once_by_what_came_of_it() {
        let counts = StoreCounts::default();
        counts.begin(StoreCall::Stat).ended(&Ok(()));
        counts.begin(StoreCall::Stat).ended::<()>(&Err(StoreFault::Changed));
        counts.begin(StoreCall::Stat).ended::<()>(&Err(StoreFault::timed_out(1)));
        drop(counts.begin(StoreCall::Stat));
        let all = counts.calls();
        let stat = &all[StoreCall::Stat as usize];
        let seen: Vec<_> = stat.outcomes.iter().filter(|(_, count)| *count > 0).collect();
        let expected = [(Outcome::Ok, 1), (Outcome::Conflict, 1), (Outcome::Failed, 1), (Outcome::Dropped, 1)];
        assert_eq!(seen, expected.iter().collect::<Vec<_>>());
        assert_eq!(stat.took.count(), 3, "how long a dropped one would have taken is not known");
        assert!(all.iter().enumerate().all(|(index, calls)| calls.call as usize == index));
    }
}
