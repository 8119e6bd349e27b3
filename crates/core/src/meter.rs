//! [`Histogram`]: how long things took, in plain atomics that whoever measures adds to and anybody may read.
//!
//! It knows no format and no names: what is told of it, and how, is the affair of who asks. An observation is three
//! relaxed additions; what is read while others add may lack the latest of them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The upper bounds of all buckets but the last, which has none: from what a hot call takes to what a store may.
pub const BOUNDS: [Duration; 20] = [
    Duration::from_micros(10),
    Duration::from_micros(25),
    Duration::from_micros(50),
    Duration::from_micros(100),
    Duration::from_micros(250),
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_micros(2500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_millis(2500),
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_secs(30),
];

/// Buckets: one more than there are bounds.
const BUCKETS: usize = BOUNDS.len() + 1;

/// How long things took.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    nanos: AtomicU64,
}

/// What a [`Histogram`] has seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// How many fell in each bucket: up to the bound of the same index, and behind the one before it.
    pub buckets: [u64; BUCKETS],
    /// Of all together.
    pub total: Duration,
}

impl Histogram {
    /// Adds one.
    pub fn observe(&self, took: Duration) {
        let bucket = BOUNDS.partition_point(|bound| *bound < took);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.nanos.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// What it has seen so far.
    pub fn observed(&self) -> Observed {
        let buckets = std::array::from_fn(|bucket| self.buckets[bucket].load(Ordering::Relaxed));
        Observed { buckets, total: Duration::from_nanos(self.nanos.load(Ordering::Relaxed)) }
    }
}

impl Observed {
    /// How many.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_observation_falls_into_the_first_bucket_whose_bound_it_does_not_exceed() {
        let histogram = Histogram::default();
        for micros in [0, 10, 11, 1000, 30_000_000, 30_000_001] {
            histogram.observe(Duration::from_micros(micros));
        }
        let seen = histogram.observed();
        let filled: Vec<_> = seen.buckets.iter().enumerate().filter(|(_, count)| **count > 0).collect();
        assert_eq!(filled, [(0, &2), (1, &1), (6, &1), (19, &1), (20, &1)]);
        assert_eq!((seen.count(), seen.total), (6, Duration::from_micros(60_001_022)));
    }

    #[test]
    fn the_bounds_grow() {
        assert!(BOUNDS.is_sorted_by(|less, more| less < more));
    }
}
