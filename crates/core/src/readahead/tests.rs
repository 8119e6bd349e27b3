//! Tests of the windows: readers of every kind, told to a [`Patterns`] as a file would.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::units::PAGE_SIZE;

/// A mapping whose reader never waits: what is asked for is there at once.
struct Reader {
    patterns: Patterns,
    space: Space,
    /// Blocks in memory.
    there: BTreeSet<u64>,
    /// Blocks read ahead, plan by plan.
    plans: Vec<Vec<u64>>,
    used: u64,
}

impl Reader {
    fn new(blocks: u64, window_max: u64) -> Self {
        let within = ByteRange::new(0, blocks * BLOCK_SIZE);
        let space = Space { within, window_max, room: u64::MAX };
        Self { patterns: Patterns::default(), space, there: BTreeSet::new(), plans: Vec::new(), used: 0 }
    }

    /// Reads, and tells as a file does. Answers how many blocks the read had to wait for.
    fn read(&mut self, range: ByteRange) -> usize {
        let missing: Vec<u64> =
            range.blocks().map(|block| block.0).filter(|block| !self.there.contains(block)).collect();
        let touched: Vec<u64> = range.blocks().map(|block| block.0).collect();
        let met = if !missing.is_empty() {
            Met::Missing
        } else if self.patterns.markers().any(|marker| touched.contains(&marker.0)) {
            Met::Marker
        } else {
            return 0;
        };
        self.there.extend(&missing);
        let outcome = self.patterns.touch(range, met, self.space);
        self.take(outcome);
        missing.len()
    }

    fn take(&mut self, outcome: Outcome) {
        self.used += outcome.used;
        if let Some(plan) = outcome.plan {
            let blocks: Vec<u64> = plan.runs(16).into_iter().flatten().collect();
            self.there.extend(&blocks);
            self.plans.push(blocks);
        }
    }

    fn page(&mut self, block: u64) -> usize {
        self.read(ByteRange::new(block * BLOCK_SIZE, block * BLOCK_SIZE + PAGE_SIZE))
    }

    fn pages(&mut self, blocks: impl Iterator<Item = u64>) -> usize {
        blocks.map(|block| self.page(block)).sum()
    }

    fn ahead(&self) -> Vec<u64> {
        self.plans.iter().flatten().copied().collect()
    }
}

#[test]
fn a_window_begins_small_and_doubles_up_to_its_limit() {
    let mut reader = Reader::new(10_000, 64);
    let waited: usize = (0..10_000).map(|block| reader.page(block)).sum();
    assert_eq!(waited, 3, "the third block in a row makes a stream, and then nothing is waited for");
    let sizes: Vec<usize> = reader.plans.iter().map(Vec::len).collect();
    assert_eq!(sizes[..5], [4, 7, 13, 25, 49][..]);
    let mut farthest = 3;
    for plan in &reader.plans {
        assert_eq!(plan[0], farthest, "without gaps and without repetition");
        farthest += plan.len() as u64;
    }
    assert_eq!(farthest, 10_000);
    assert_eq!((reader.used, reader.patterns.unused()), (9_997, 0));
}

#[test]
fn two_large_reads_in_a_row_are_enough_and_open_a_window_twice_as_large() {
    let mut reader = Reader::new(10_000, 256);
    let chunk = |number: u64| ByteRange::new(number * 16 * BLOCK_SIZE, (number + 1) * 16 * BLOCK_SIZE);
    assert_eq!((reader.read(chunk(0)), reader.plans.len()), (16, 0));
    assert_eq!((reader.read(chunk(1)), reader.plans.len()), (16, 1));
    assert_eq!(reader.plans[0], (32..64).collect::<Vec<_>>());
    assert_eq!((2..600).map(|number| reader.read(chunk(number))).sum::<usize>(), 0);
}

#[test]
fn a_reader_whose_reads_do_not_begin_with_a_block_is_sequential_too() {
    let mut reader = Reader::new(1000, 64);
    let length = 100_000;
    let waited: usize =
        (0..600).map(|number| reader.read(ByteRange::new(number * length, (number + 1) * length))).sum();
    assert!(waited <= 6, "{waited}");
}

#[test]
fn a_reader_that_goes_backwards_is_read_ahead_of_backwards_to_the_start() {
    let mut reader = Reader::new(1000, 64);
    let waited: usize = (0..1000).rev().map(|block| reader.page(block)).sum();
    assert_eq!(waited, 3);
    let ahead = reader.ahead();
    assert_eq!(ahead.len(), 997);
    assert_eq!(ahead.iter().min(), Some(&0));
}

#[test]
fn of_strided_reads_only_the_strided_blocks_are_read_ahead() {
    for distance in [3 * BLOCK_SIZE, 5 * BLOCK_SIZE + 12_288] {
        let mut reader = Reader::new(10_000, 256);
        let read = |number: u64| ByteRange::new(number * distance, number * distance + PAGE_SIZE);
        let waited: usize = (0..1000).map(|number| reader.read(read(number))).sum();
        assert_eq!(waited, 4, "the fourth read at one distance makes a stream");
        let strided: BTreeSet<u64> =
            (0..10_000).flat_map(|number| read(number).blocks()).map(|block| block.0).collect();
        assert!(reader.ahead().iter().all(|block| strided.contains(block)));
    }
}

#[test]
fn interleaved_readers_are_followed_each_by_itself() {
    let mut reader = Reader::new(100_000, 64);
    let waited: usize =
        (0..1000).flat_map(|at| [at, 30_000 + at, 60_000 - at, 70_000 + 3 * at]).map(|block| reader.page(block)).sum();
    assert_eq!(waited, 3 + 3 + 3 + 4);
}

#[test]
fn random_reads_have_nothing_read_ahead() {
    let mut reader = Reader::new(1 << 20, 256);
    let mut mixed = 1u64;
    for _ in 0..10_000 {
        mixed = mixed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        reader.page(mixed >> 44);
    }
    assert!(reader.ahead().is_empty());
}

#[test]
fn a_stream_begins_small_again_after_random_reads() {
    let mut reader = Reader::new(1 << 20, 256);
    reader.pages(0..2000);
    assert!(reader.plans.last().is_some_and(|plan| plan.len() >= 64));
    reader.pages((0..20).map(|number| 500_000 + number * number * 7));
    let plans = reader.plans.len();
    reader.pages(2000..2600);
    // What was ahead already is more than a small window: nothing more for a while, then small ones.
    let next = reader.plans.get(plans).map(Vec::len);
    assert!(next.is_some_and(|blocks| blocks <= 16), "{next:?}");
}

#[test]
fn without_room_nothing_is_read_ahead_and_with_room_again_it_goes_on() {
    let mut reader = Reader::new(10_000, 64);
    reader.pages(0..100);
    reader.space.room = 0;
    let plans = reader.plans.len();
    reader.pages(100..500);
    assert_eq!(reader.plans.len(), plans);
    reader.space.room = 1000;
    let waited: usize = (500..1000).map(|block| reader.page(block)).sum();
    assert_eq!(waited, 1);
}

#[test]
fn an_expected_range_is_read_ahead_from_its_start_and_never_beyond_its_end() {
    let mut reader = Reader::new(10_000, 64);
    let range = ByteRange::new(5 * BLOCK_SIZE + 1, 300 * BLOCK_SIZE - 1);
    let outcome = reader.patterns.expect(range, reader.space);
    reader.take(outcome);
    assert_eq!(reader.ahead(), (5..69).collect::<Vec<_>>());
    assert_eq!((5..300).map(|block| reader.page(block)).sum::<usize>(), 0);
    assert_eq!(reader.ahead(), (5..300).collect::<Vec<_>>());
}

#[test]
fn a_fifth_stream_takes_the_place_of_the_one_touched_least_recently() {
    let mut reader = Reader::new(1 << 20, 64);
    for stream in 0..5 {
        reader.pages((0..10).map(|at| stream * 1000 + at));
    }
    assert_eq!(reader.patterns.streams.len(), STREAMS);
    // Ten blocks were read and more were ahead.
    assert_eq!((10..15).map(|at| reader.page(4000 + at)).sum::<usize>(), 0);
}

fn accesses() -> impl Strategy<Value = (u64, u64, Met)> {
    let met = prop_oneof![Just(Met::Marker), Just(Met::UnderWay), Just(Met::Missing)];
    let offset = prop_oneof![0..200u64, 0..1u64 << 30, (0..40u64).prop_map(|block| block * BLOCK_SIZE)];
    (offset, 1..300_000u64, met)
}

proptest! {
    #[test]
    fn nothing_is_planned_beyond_the_space_the_window_or_the_room(
        accesses in prop::collection::vec((accesses(), 0..500u64), 1..200),
        (start, length, window_max) in (0..1u64 << 22, 1..1u64 << 24, 0..300u64),
    ) {
        let within = ByteRange::new(start, start + length);
        let mut patterns = Patterns::default();
        for ((offset, length, met), room) in accesses {
            let space = Space { within, window_max, room };
            let access = ByteRange::new(offset, offset + length);
            let outcome = if length % 17 == 0 { patterns.expect(access, space) } else { patterns.touch(access, met, space) };
            let Some(plan) = outcome.plan else { continue };
            let runs = plan.runs(16);
            let blocks: Vec<u64> = runs.iter().cloned().flatten().collect();
            prop_assert!(!blocks.is_empty() && blocks.len() as u64 <= room.min(window_max));
            prop_assert!(runs.iter().all(|run| run.end - run.start <= 16));
            prop_assert_eq!(blocks.iter().collect::<BTreeSet<_>>().len(), blocks.len());
            prop_assert!(blocks.iter().all(|block| BlockIndex(*block).range().overlaps(within)));
            prop_assert!(patterns.streams.len() <= STREAMS && patterns.seen.len() <= SEEN);
        }
    }

    #[test]
    fn a_sequential_reader_waits_only_until_it_is_recognised(start in 0..1000u64, pages in 1..40u64, window in 8..300u64) {
        let mut reader = Reader::new(5000, window);
        let length = pages * PAGE_SIZE;
        let mut waited = 0;
        for number in 0..1000 {
            let at = start * PAGE_SIZE + number * length;
            waited += usize::from(reader.read(ByteRange::new(at, at + length)) > 0);
        }
        prop_assert!(waited <= 4, "{waited}");
    }
}
