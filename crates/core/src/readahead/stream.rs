//! [`Stream`]: one reader's way through a file, and how far to read ahead of it.
//!
//! A stream goes in *steps* of `length` bytes, `stride` bytes apart: a block each where the reader leaves no gaps,
//! its own accesses where it does. The window begins small and doubles whenever the reader comes near its end.

use super::plan::Plan;
use super::{Met, Space};
use crate::units::{BLOCK_SIZE, BlockIndex, ByteRange, MAX_OFFSET};

/// The first window is twice as many blocks: 256 KiB.
const WINDOW_MIN: i64 = 2;
/// Steps with gaps between them that are read ahead at most: each is a request of its own.
const GAPPED_STEPS_MAX: i64 = 32;
/// After so many accesses that fit no stream, a stream begins small again.
const PASSED_BY_MAX: u32 = 16;
const BLOCK: i64 = BLOCK_SIZE as i64;

/// One reader's way.
#[derive(Clone, Debug)]
pub(super) struct Stream {
    /// First byte of the step that is expected next. Before the file's start if the reader came there backwards.
    next: i64,
    /// Bytes from one step to the next; negative: backwards.
    stride: i64,
    /// Bytes of a step.
    length: i64,
    /// Steps from `next` on that were asked for.
    ahead: i64,
    /// Blocks to be ahead.
    window: i64,
    /// No step begins here or behind it.
    end: i64,
    /// Misses that fitted no stream since this one was touched.
    passed_by: u32,
}

/// Whether `later` goes on where `earlier` ended; both may have a block in common.
pub(super) fn follows_forwards(earlier: ByteRange, later: ByteRange) -> bool {
    let (earlier, later) = (blocks(earlier), blocks(later));
    later.end > earlier.end && (later.start == earlier.end || later.start + 1 == earlier.end)
}

/// The same, backwards.
pub(super) fn follows_backwards(earlier: ByteRange, later: ByteRange) -> bool {
    let (earlier, later) = (blocks(earlier), blocks(later));
    later.start < earlier.start && (later.end == earlier.start || later.end == earlier.start + 1)
}

fn blocks(range: ByteRange) -> std::ops::Range<i64> {
    signed(range.start()) / BLOCK..(signed(range.end()) + BLOCK - 1) / BLOCK
}

/// No offset is larger than an `i64` holds.
fn signed(offset: u64) -> i64 {
    i64::try_from(offset).unwrap_or(i64::MAX - BLOCK).min(i64::MAX - BLOCK)
}

impl Stream {
    fn new(next: i64, stride: i64, length: i64, window: i64) -> Self {
        Self { next, stride, length, ahead: 0, window, end: signed(MAX_OFFSET), passed_by: 0 }
    }

    /// A reader that goes on behind `access`.
    pub(super) fn forwards(access: ByteRange) -> Self {
        Self::new(blocks(access).end * BLOCK, BLOCK, BLOCK, Self::first_window(access))
    }

    /// A reader that goes on before `access`.
    pub(super) fn backwards(access: ByteRange) -> Self {
        Self::new((blocks(access).start - 1) * BLOCK, -BLOCK, BLOCK, Self::first_window(access))
    }

    /// A reader that goes on `distance` bytes from the start of `access`.
    pub(super) fn strided(access: ByteRange, distance: i64) -> Self {
        let next = signed(access.start()).saturating_add(distance);
        Self::new(next, distance, signed(access.len()), Self::first_window(access))
    }

    /// A reader that will come from the start of `range` to its end.
    pub(super) fn expected(range: ByteRange, window: u64) -> Self {
        let next = blocks(range).start * BLOCK;
        Self { end: signed(range.end()), ..Self::new(next, BLOCK, BLOCK, signed(window).max(1)) }
    }

    fn first_window(access: ByteRange) -> i64 {
        WINDOW_MIN.max(signed(access.block_count()))
    }

    fn has_gaps(&self) -> bool {
        self.stride.abs() != BLOCK || self.length != BLOCK
    }

    /// Blocks that a step touches at most.
    fn step_blocks(&self) -> i64 {
        let from = if self.stride % BLOCK == 0 { self.next.rem_euclid(BLOCK) } else { BLOCK - 1 };
        (from + self.length + BLOCK - 1) / BLOCK
    }

    /// How many steps on the reader is after `access`, if that is an access of this stream.
    pub(super) fn continued_by(&self, access: ByteRange, met: Met) -> Option<i64> {
        let touched = blocks(access);
        let (from, to) = if !self.has_gaps() {
            let next = self.next.div_euclid(BLOCK);
            if self.stride > 0 {
                (touched.start - next, touched.end - next)
            } else {
                (next + 1 - touched.end, next + 1 - touched.start)
            }
        } else {
            let distance = signed(access.start()).saturating_sub(self.next);
            if distance % self.stride != 0 {
                return None;
            }
            (distance / self.stride, distance / self.stride + 1)
        };
        let marked = self.marker().is_some_and(|marker| touched.contains(&signed(marker.0)));
        let reached = from <= self.ahead && to > 0;
        let fits = match met {
            Met::Marker => marked,
            Met::UnderWay => reached,
            // In the middle of what was read ahead, nothing is missing but what was dropped again: it may be anybody.
            Met::Missing => reached && (from <= 0 || to > self.ahead || marked),
        };
        (fits && to > 0).then_some(to)
    }

    /// The reader went so many steps on. Answers the blocks read ahead that it came to.
    pub(super) fn advance(&mut self, steps: i64) -> u64 {
        let used = steps.min(self.ahead);
        self.ahead -= used;
        self.next = self.next.saturating_add(self.stride.saturating_mul(steps));
        if self.passed_by > PASSED_BY_MAX {
            self.window = WINDOW_MIN;
        }
        self.passed_by = 0;
        (used * self.step_blocks()).unsigned_abs()
    }

    /// An access fitted no stream.
    pub(super) fn passed_by(&mut self) {
        self.passed_by = self.passed_by.saturating_add(1);
    }

    /// What is to be asked for now, so that there is a window ahead of the reader again.
    pub(super) fn top_up(&mut self, space: Space) -> Option<Plan> {
        let (max, room, blocks) = (signed(space.window_max), signed(space.room), self.step_blocks());
        if max < blocks || self.ahead > self.low() {
            return None;
        }
        if room < blocks {
            self.window = (self.window / 2).max(WINDOW_MIN);
            return None;
        }
        self.window = self.window.saturating_mul(2).min(max);
        let there = self.steps_within(space.within);
        let steps = self.window_steps().min(there).saturating_sub(self.ahead).min(room / blocks);
        if steps <= 0 {
            return None;
        }
        let first = self.next.saturating_add(self.stride.saturating_mul(self.ahead));
        self.ahead += steps;
        Some(Plan { first, stride: self.stride, length: self.length, steps, within: space.within })
    }

    fn window_steps(&self) -> i64 {
        let steps = (self.window / self.step_blocks()).max(1);
        if self.has_gaps() { steps.min(GAPPED_STEPS_MAX) } else { steps }
    }

    /// With no more steps than this ahead, it is time to ask for more: half of the window at once, in large requests,
    /// while the other half is still to come.
    fn low(&self) -> i64 {
        self.window_steps() / 2
    }

    /// Steps from `next` on that lie within.
    fn steps_within(&self, within: ByteRange) -> i64 {
        let (start, end) = (signed(within.start()), signed(within.end()).min(self.end));
        if self.stride > 0 {
            // A step that only begins before the mapping has bytes in it, too.
            if self.next.saturating_add(self.length) <= start { 0 } else { ceil_div(end - self.next, self.stride) }
        } else if self.next >= end {
            0
        } else {
            ceil_div(self.next.saturating_add(self.length) - start, -self.stride)
        }
        .max(0)
    }

    /// The block whose touch means that the reader has come near the end of what was read ahead, or, where no more
    /// can be read ahead, half of the way there.
    pub(super) fn marker(&self) -> Option<BlockIndex> {
        if self.ahead == 0 {
            return None;
        }
        let steps = if self.ahead > self.low() { self.ahead - self.low() } else { self.ahead / 2 };
        let position = self.next.saturating_add(self.stride.saturating_mul(steps.min(self.ahead - 1)));
        u64::try_from(position).ok().map(BlockIndex::of)
    }

    /// Blocks read ahead that the reader did not come to.
    pub(super) fn unused(&self) -> u64 {
        (self.ahead * self.step_blocks()).unsigned_abs()
    }
}

fn ceil_div(dividend: i64, divisor: i64) -> i64 {
    dividend.saturating_add(divisor - 1).div_euclid(divisor)
}
