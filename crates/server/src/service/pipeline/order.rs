//! The order of a pipeline's operations: [`Order`]. Pure.
//!
//! Two operations overlap if they touch a common byte of one mapping and one of them changes what the other
//! sees. Invariant: an operation begins when no earlier one that it overlaps is pending; nothing else waits,
//! and those that become free do so in the order sent. What is pending is told by `T`, which an operation
//! leaves here while it waits.

use mmap_core::manager::MmapId;
use smallvec::SmallVec;

/// The bytes of a mapping that an operation touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Footprint {
    id: MmapId,
    start: u64,
    end: u64,
    use_: Use,
}

/// What an operation does to the bytes that it touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// It looks at them, or stores them as they are.
    Look,
    /// It changes them, or what a look at them answers.
    Change,
}

impl Footprint {
    /// `length` bytes from `offset` of a mapping; a range that cannot be is cut at the end of all offsets.
    pub(super) fn part(id: MmapId, offset: u64, length: u64, use_: Use) -> Self {
        Self { id, start: offset, end: offset.saturating_add(length), use_ }
    }

    /// From `offset` to the end of a mapping.
    pub(super) fn rest(id: MmapId, offset: u64, use_: Use) -> Self {
        Self { id, start: offset, end: u64::MAX, use_ }
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.id == other.id
            && self.start < other.end
            && other.start < self.end
            && (self.use_ == Use::Change || other.use_ == Use::Change)
    }
}

/// An operation that is pending: its place in the order sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place(u64);

#[derive(Debug)]
struct Pending<T> {
    place: Place,
    footprint: Footprint,
    /// Earlier ones that it overlaps.
    before: usize,
    waiting: Option<T>,
}

/// The operations that are pending, in the order sent.
///
/// A list and not an index: it is empty while everything is in memory, and the credit bounds it.
#[derive(Debug)]
pub(super) struct Order<T> {
    pending: Vec<Pending<T>>,
    next: u64,
}

impl<T> Default for Order<T> {
    fn default() -> Self {
        Self { pending: Vec::new(), next: 0 }
    }
}

impl<T> Order<T> {
    /// Whether an operation may begin now.
    pub(super) fn is_free(&self, footprint: &Footprint) -> bool {
        self.pending.iter().all(|earlier| !earlier.footprint.overlaps(footprint))
    }

    /// Notes an operation that has begun.
    pub(super) fn begun(&mut self, footprint: Footprint) -> Place {
        debug_assert!(self.is_free(&footprint), "{footprint:?} begins before its turn");
        self.push(footprint, 0, None)
    }

    /// Keeps an operation until those that it overlaps have ended.
    pub(super) fn wait(&mut self, footprint: Footprint, operation: T) {
        let before = self.pending.iter().filter(|earlier| earlier.footprint.overlaps(&footprint)).count();
        self.push(footprint, before, Some(operation));
    }

    /// Notes that an operation has taken effect. Answers those that may begin now, in the order sent, each of
    /// which is pending at its place.
    pub(super) fn ended(&mut self, place: Place) -> SmallVec<[(Place, T); 2]> {
        let Some(index) = self.pending.iter().position(|pending| pending.place == place) else {
            return SmallVec::new();
        };
        let ended = self.pending.remove(index);
        let mut free = SmallVec::new();
        for later in &mut self.pending[index..] {
            if later.footprint.overlaps(&ended.footprint) {
                later.before -= 1;
                if later.before == 0
                    && let Some(operation) = later.waiting.take()
                {
                    free.push((later.place, operation));
                }
            }
        }
        free
    }

    fn push(&mut self, footprint: Footprint, before: usize, waiting: Option<T>) -> Place {
        let place = Place(self.next);
        self.next += 1;
        self.pending.push(Pending { place, footprint, before, waiting });
        place
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: MmapId = MmapId(1);
    const B: MmapId = MmapId(2);

    fn look(offset: u64, length: u64) -> Footprint {
        Footprint::part(A, offset, length, Use::Look)
    }

    fn change(offset: u64, length: u64) -> Footprint {
        Footprint::part(A, offset, length, Use::Change)
    }

    #[test]
    fn reads_overlap_nothing_but_changes() {
        assert!(!look(0, 10).overlaps(&look(0, 10)));
        assert!(look(0, 10).overlaps(&change(9, 1)) && change(9, 1).overlaps(&look(0, 10)));
        assert!(change(0, 1).overlaps(&change(0, 1)));
        assert!(!change(0, 10).overlaps(&change(10, 1)), "neighbours do not touch");
        assert!(!change(0, 10).overlaps(&Footprint::part(B, 0, 10, Use::Change)), "other mappings are others'");
    }

    #[test]
    fn a_range_without_an_end_overlaps_all_that_follows() {
        let rest = Footprint::rest(A, 100, Use::Change);
        assert!(rest.overlaps(&look(u64::MAX - 1, 1)) && !rest.overlaps(&look(99, 1)));
        assert!(change(u64::MAX - 5, u64::MAX).overlaps(&look(u64::MAX - 1, 1)), "cut, not wrapped around");
    }

    #[test]
    fn who_overlaps_waits_for_all_earlier_ones_and_others_do_not() {
        let mut order = Order::default();
        let (first, second) = (order.begun(look(0, 10)), order.begun(look(5, 10)));
        assert!(!order.is_free(&change(8, 1)) && order.is_free(&look(8, 1)) && order.is_free(&change(15, 1)));
        order.wait(change(8, 1), 'w');
        assert!(!order.is_free(&look(8, 1)), "a later one does not overtake who waits");
        order.wait(look(8, 1), 'r');
        assert!(order.ended(first).is_empty());
        let free = order.ended(second);
        assert_eq!(free.iter().map(|(_, operation)| *operation).collect::<Vec<_>>(), ['w']);
        let free = order.ended(free[0].0);
        assert_eq!(free.iter().map(|(_, operation)| *operation).collect::<Vec<_>>(), ['r']);
        assert!(order.ended(free[0].0).is_empty() && order.pending.is_empty());
        assert!(order.ended(free[0].0).is_empty(), "an end that was told before changes nothing");
    }

    proptest::proptest! {
        /// Whatever ends in whatever order: two that overlap begin in the order sent and never run together, and
        /// whoever overlaps nothing earlier that is pending runs.
        #[test]
        fn overlapping_operations_run_one_after_another_in_the_order_sent(
            sent in proptest::collection::vec((0..2u64, 0..8u64, 1..4u64, proptest::bool::ANY), 1..40),
            ends in proptest::collection::vec(0..40usize, 80),
        ) {
            let prints: Vec<_> = sent.iter().map(|&(id, offset, length, change)| {
                Footprint::part(MmapId(id), offset, length, if change { Use::Change } else { Use::Look })
            }).collect();
            let (mut order, mut running, mut begun) = (Order::default(), Vec::new(), Vec::new());
            let mut ends = ends.into_iter();
            let mut todo = prints.iter().enumerate();
            loop {
                match todo.next() {
                    Some((index, print)) if order.is_free(print) => {
                        running.push((order.begun(*print), index));
                        begun.push(index);
                    }
                    Some((index, print)) => order.wait(*print, index),
                    None if running.is_empty() => break,
                    None => {}
                }
                for (at, (_, one)) in running.iter().enumerate() {
                    assert!(running[at + 1..].iter().all(|(_, other)| !prints[*one].overlaps(&prints[*other])));
                }
                let Some(end) = ends.next().map(|end| end % running.len().max(1)) else { break };
                if end < running.len() {
                    let (place, _) = running.remove(end);
                    for (place, index) in order.ended(place) {
                        running.push((place, index));
                        begun.push(index);
                    }
                }
            }
            while let Some((place, _)) = running.pop() {
                for (place, index) in order.ended(place) {
                    running.push((place, index));
                    begun.push(index);
                }
            }
            let mut sorted = begun.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..prints.len()).collect::<Vec<_>>(), "each began exactly once");
            for (at, one) in begun.iter().enumerate() {
                assert!(begun[at + 1..].iter().all(|other| other > one || !prints[*one].overlaps(&prints[*other])));
            }
        }
    }
}
