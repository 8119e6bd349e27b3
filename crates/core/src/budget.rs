//! [`Budget`]: a share of the memory budget, taken before memory is allocated and given back by dropping.
//!
//! Waiting is fair (first come, first served: tokio's semaphore), so that a large taker is not starved by
//! small ones. A budget can lie within another: what is taken of it is taken of both, so that one of several
//! takers cannot have all of what they share. It does not know what the memory is for.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::units::PAGE_SIZE;

/// A share of the memory budget, counted in pages.
#[derive(Clone, Debug)]
pub struct Budget {
    pages: Arc<Semaphore>,
    total: u32,
    /// The budget that this one lies within.
    outer: Option<Arc<Semaphore>>,
}

/// Memory taken from a [`Budget`]; dropping it gives the memory back.
#[derive(Debug, Default)]
pub struct Reservation {
    own: Option<OwnedSemaphorePermit>,
    outer: Option<OwnedSemaphorePermit>,
    /// What was taken for the same memory of another budget, that of whoever it is for.
    beside: Option<OwnedSemaphorePermit>,
}

impl Budget {
    /// A share of `bytes`, rounded down to whole pages.
    pub fn new(bytes: u64) -> Self {
        let total = u32::try_from(bytes / PAGE_SIZE).unwrap_or(u32::MAX);
        Self { pages: Arc::new(Semaphore::new(total as usize)), total, outer: None }
    }

    /// At most `bytes` of this budget, which others take of too.
    pub fn part(&self, bytes: u64) -> Self {
        Self { outer: Some(Arc::clone(&self.pages)), ..Self::new(bytes.min(self.total())) }
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
        let pages = self.pages_of(bytes);
        let own = Arc::clone(&self.pages).try_acquire_many_owned(pages).ok()?;
        let outer = match &self.outer {
            Some(outer) => Some(Arc::clone(outer).try_acquire_many_owned(pages).ok()?),
            None => None,
        };
        Some(Reservation { own: Some(own), outer, beside: None })
    }

    /// Takes memory for `bytes`, waiting in line until there is enough. Cancel safe: nothing is taken.
    pub async fn take(&self, bytes: u64) -> Reservation {
        if bytes == 0 {
            return Reservation::default();
        }
        let pages = self.pages_of(bytes);
        // A semaphore is never closed, so acquiring cannot fail; if it could, being unaccounted is harmless.
        let own = Arc::clone(&self.pages).acquire_many_owned(pages).await.ok();
        let outer = match &self.outer {
            Some(outer) => Arc::clone(outer).acquire_many_owned(pages).await.ok(),
            None => None,
        };
        Reservation { own, outer, beside: None }
    }

    /// Bytes taken now.
    pub fn used(&self) -> u64 {
        (self.total as u64).saturating_sub(self.pages.available_permits() as u64) * PAGE_SIZE
    }

    /// Bytes that could be taken now.
    pub fn free(&self) -> u64 {
        let outer = self.outer.as_ref().map_or(usize::MAX, |outer| outer.available_permits());
        self.pages.available_permits().min(outer) as u64 * PAGE_SIZE
    }

    /// Bytes in all.
    pub fn total(&self) -> u64 {
        u64::from(self.total) * PAGE_SIZE
    }
}

impl Reservation {
    /// The same memory, for which `other` was taken too; both are given back together.
    #[must_use]
    pub fn beside(self, other: Option<Self>) -> Self {
        Self { beside: other.and_then(|other| other.own), ..self }
    }

    /// Splits memory for `bytes` off, if it has that much.
    pub fn split(&mut self, bytes: u64) -> Option<Self> {
        if bytes == 0 {
            return Some(Self::default());
        }
        let pages = usize::try_from(bytes.div_ceil(PAGE_SIZE)).ok()?;
        let own = self.own.as_mut()?.split(pages)?;
        // Both hold the same number, so the second can be split if the first could.
        let outer = self.outer.as_mut().and_then(|outer| outer.split(pages));
        let beside = self.beside.as_mut().and_then(|beside| beside.split(pages));
        Some(Self { own: Some(own), outer, beside })
    }

    /// Adds another reservation of the same budget.
    pub fn merge(&mut self, other: Self) {
        join(&mut self.own, other.own);
        join(&mut self.outer, other.outer);
        join(&mut self.beside, other.beside);
    }

    /// Bytes it holds.
    pub fn bytes(&self) -> u64 {
        self.own.as_ref().map_or(0, |permit| permit.num_permits() as u64 * PAGE_SIZE)
    }
}

fn join(mine: &mut Option<OwnedSemaphorePermit>, theirs: Option<OwnedSemaphorePermit>) {
    match (mine, theirs) {
        (Some(mine), Some(theirs)) => mine.merge(theirs),
        (mine @ None, theirs) => *mine = theirs,
        (Some(_), None) => {}
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
    #[test]
    fn a_part_is_taken_of_both_and_leaves_the_rest_to_others() {
        let whole = Budget::new(10 * PAGE_SIZE);
        let (greedy, modest) = (whole.part(7 * PAGE_SIZE), whole.part(7 * PAGE_SIZE));
        let mut held = greedy.try_take(7 * PAGE_SIZE).unwrap();
        assert!(greedy.try_take(PAGE_SIZE).is_none());
        let other = modest.try_take(3 * PAGE_SIZE).unwrap();
        assert!(modest.try_take(PAGE_SIZE).is_none(), "the whole is used up");
        assert_eq!(modest.used(), 3 * PAGE_SIZE, "what could not be had of the whole is given back to the part");
        let split = held.split(2 * PAGE_SIZE).unwrap();
        drop(split);
        assert_eq!((whole.used(), greedy.used()), (8 * PAGE_SIZE, 5 * PAGE_SIZE));
        held.merge(greedy.try_take(PAGE_SIZE).unwrap());
        drop((held, other));
        assert_eq!((whole.used(), greedy.used(), modest.used()), (0, 0, 0));
    }

    #[test]
    fn what_was_taken_beside_is_split_and_given_back_with_the_memory() {
        let (whole, own) = (Budget::new(10 * PAGE_SIZE), Budget::new(5 * PAGE_SIZE));
        let taken = own.try_take(4 * PAGE_SIZE);
        let mut memory = whole.try_take(4 * PAGE_SIZE).unwrap().beside(taken);
        let part = memory.split(3 * PAGE_SIZE).unwrap();
        drop(memory);
        assert_eq!((whole.used(), own.used()), (3 * PAGE_SIZE, 3 * PAGE_SIZE));
        drop(part);
        assert_eq!((whole.used(), own.used()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_memory_is_served_in_line() {
        let budget = Budget::new(4 * PAGE_SIZE);
        let held = budget.take(4 * PAGE_SIZE).await;
        let served = parking_lot::Mutex::new(Vec::new());
        let waiter = |number: usize, pages: u64| {
            let (budget, served) = (&budget, &served);
            async move {
                let taken = budget.take(pages * PAGE_SIZE).await;
                served.lock().push(number);
                drop(taken);
            }
        };
        let free = async {
            tokio::task::yield_now().await;
            assert!(budget.try_take(PAGE_SIZE).is_none());
            drop(held);
            assert!(budget.try_take(PAGE_SIZE).is_none(), "nobody gets ahead of those who wait");
        };
        tokio::join!(waiter(1, 4), waiter(2, 1), waiter(3, 4), waiter(4, 1), free);
        assert_eq!(*served.lock(), [1, 2, 3, 4]);
    }
}
