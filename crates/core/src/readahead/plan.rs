//! [`Plan`]: what is to be read ahead now.

use std::ops::Range;

use crate::units::{ByteRange, MAX_OFFSET};

/// Steps of a stream that are to be read ahead, the one needed first in front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// First byte of the first step.
    pub(super) first: i64,
    /// Bytes from one step to the next.
    pub(super) stride: i64,
    /// Bytes of a step.
    pub(super) length: i64,
    /// How many.
    pub(super) steps: i64,
    /// Nothing outside of it.
    pub(super) within: ByteRange,
}

impl Plan {
    /// Its blocks as runs of at most `most` neighbours, the run needed first in front. No block comes twice.
    pub fn runs(&self, most: u64) -> Vec<Range<u64>> {
        let mut runs: Vec<Range<u64>> = Vec::new();
        for step in 0..self.steps {
            for block in self.step(step).blocks() {
                // Neighbouring steps may have a block in common.
                if runs.iter().rev().take(3).any(|run| run.contains(&block.0)) {
                    continue;
                }
                match runs.last_mut() {
                    Some(run) if run.end - run.start < most && run.end == block.0 => run.end += 1,
                    Some(run) if run.end - run.start < most && run.start == block.0 + 1 => run.start -= 1,
                    _ => runs.push(block.0..block.0 + 1),
                }
            }
        }
        runs
    }

    fn step(&self, number: i64) -> ByteRange {
        let start = self.stride.checked_mul(number).and_then(|distance| self.first.checked_add(distance));
        let start = start.and_then(|start| u64::try_from(start).ok()).unwrap_or(MAX_OFFSET);
        let end = start.saturating_add(self.length.unsigned_abs());
        ByteRange::new(start, end).intersect(self.within)
    }
}
