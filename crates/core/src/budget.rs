//! [`Budget`]: a share of the memory budget, taken before memory is allocated and given back by dropping.
//!
//! Waiting is fair (first come, first served: tokio's semaphore), so that a large taker is not starved by
//! small ones. It does not know what the memory is for.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::units::PAGE_SIZE;

/// A share of the memory budget, counted in pages.
#[derive(Clone, Debug)]
pub struct Budget {
    pages: Arc<Semaphore>,
    total: u32,
}

/// Memory taken from a [`Budget`]; dropping it gives the memory back.
#[derive(Debug, Default)]
pub struct Reservation(Option<OwnedSemaphorePermit>);

impl Budget {
    /// A share of `bytes`, rounded down to whole pages.
    pub fn new(bytes: u64) -> Self {
        let total = u32::try_from(bytes / PAGE_SIZE).unwrap_or(u32::MAX);
        Self { pages: Arc::new(Semaphore::new(total as usize)), total }
    }

    fn pages_of(&self, bytes: u64) -> u32 {
        // More than everything is asked for as everything: the caller's own limits keep requests below that.
        u32::try_from(bytes.div_ceil(PAGE_SIZE)).unwrap_or(u32::MAX).min(self.total)
    }

    /// Takes memory for `bytes`, or nothing if there is not enough.
    pub fn try_take(&self, bytes: u64) -> Option<Reservation> {
        if bytes == 0 {
            return Some(Reservation::default());
        }
        let permit = Arc::clone(&self.pages).try_acquire_many_owned(self.pages_of(bytes)).ok()?;
        Some(Reservation(Some(permit)))
    }

    /// Takes memory for `bytes`, waiting in line until there is enough. Cancel safe: nothing is taken.
    pub async fn take(&self, bytes: u64) -> Reservation {
        if bytes == 0 {
            return Reservation::default();
        }
        // The semaphore is never closed, so acquiring cannot fail; if it could, being unaccounted is harmless.
        Reservation(Arc::clone(&self.pages).acquire_many_owned(self.pages_of(bytes)).await.ok())
    }

    /// Bytes taken now.
    pub fn used(&self) -> u64 {
        (self.total as u64).saturating_sub(self.pages.available_permits() as u64) * PAGE_SIZE
    }

    /// Bytes in all.
    pub fn total(&self) -> u64 {
        u64::from(self.total) * PAGE_SIZE
    }
}

impl Reservation {
    /// Splits memory for `bytes` off, if it has that much.
    pub fn split(&mut self, bytes: u64) -> Option<Self> {
        if bytes == 0 {
            return Some(Self::default());
        }
        let pages = usize::try_from(bytes.div_ceil(PAGE_SIZE)).ok()?;
        self.0.as_mut()?.split(pages).map(|permit| Self(Some(permit)))
    }

    /// Adds another reservation of the same budget.
    pub fn merge(&mut self, other: Self) {
        match (&mut self.0, other.0) {
            (Some(mine), Some(theirs)) => mine.merge(theirs),
            (mine @ None, theirs) => *mine = theirs,
            (Some(_), None) => {}
        }
    }

    /// Bytes it holds.
    pub fn bytes(&self) -> u64 {
        self.0.as_ref().map_or(0, |permit| permit.num_permits() as u64 * PAGE_SIZE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_comes_back_when_a_reservation_is_dropped() {
        let budget = Budget::new(10 * PAGE_SIZE);
        let mut first = budget.try_take(6 * PAGE_SIZE).unwrap();
        assert!(budget.try_take(5 * PAGE_SIZE).is_none());
        let part = first.split(2 * PAGE_SIZE).unwrap();
        assert_eq!((first.bytes(), part.bytes(), budget.used()), (4 * PAGE_SIZE, 2 * PAGE_SIZE, 6 * PAGE_SIZE));
        drop(first);
        assert_eq!(budget.used(), 2 * PAGE_SIZE);
        drop(part);
        assert_eq!(budget.used(), 0);
    }
}
