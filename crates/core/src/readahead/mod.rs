//! Which blocks to read ahead of a mapping's readers: pure arithmetic, no I/O, no locks.
//!
//! - `plan`: what is to be read ahead now
//! - `stream`: one reader's way through the file, and its window
//!
//! A [`Patterns`] is told of accesses that missed, and of those that touched a *marker*: a block that was read
//! ahead and whose touch means that the reader keeps coming (as PG_readahead in Linux). All other hits cost
//! nothing here. Accesses that follow each other, forwards, backwards or at a constant distance, become a stream;
//! whatever fits no stream is random, and nothing is read ahead for it.
//!
//! Invariants: nothing is planned outside of the space given, nor more than the room or the window that it allows;
//! at most [`STREAMS`] streams are followed, the one touched least recently makes room.

mod plan;
mod stream;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

pub use plan::Plan;

use self::stream::{Stream, follows_backwards, follows_forwards};
use crate::units::{BLOCK_SIZE, BlockIndex, ByteRange};

/// Streams of one mapping that are followed at once.
pub const STREAMS: usize = 4;
/// Accesses that fit no stream and are remembered, to find a pattern in: two of each of four streams that begin at
/// the same time. The more there are, the sooner random ones look like a pattern.
const SEEN: usize = 8;

/// How an access met the blocks it touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Met {
    /// They were in memory, a marker among them.
    Marker,
    /// Some were missing, and on their way already.
    UnderWay,
    /// Some were missing, and nobody had asked for them.
    Missing,
}

/// Where may be read ahead, and how much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// The bytes of the file that there are and that the mapping shows.
    pub within: ByteRange,
    /// Blocks ahead of one reader at most.
    pub window_max: u64,
    /// Blocks that can be asked for now.
    pub room: u64,
}

/// What an access led to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// What to read ahead.
    pub plan: Option<Plan>,
    /// Blocks read ahead earlier that a reader came to.
    pub used: u64,
    /// Blocks read ahead earlier that no reader will come to, as far as can be told.
    pub wasted: u64,
}

/// The patterns in the accesses to one mapping.
#[derive(Debug, Default)]
pub struct Patterns {
    /// Random so far, the latest in front.
    seen: VecDeque<ByteRange>,
    /// The most recently touched in front.
    streams: VecDeque<Stream>,
}

impl Patterns {
    /// Takes note of an access.
    pub fn touch(&mut self, access: ByteRange, met: Met, space: Space) -> Outcome {
        if access.is_empty() {
            return Outcome::default();
        }
        let mut continued = self.streams.iter().enumerate();
        let continued = continued.find_map(|(index, stream)| Some((index, stream.continued_by(access, met)?)));
        if let Some((index, steps)) = continued
            && let Some(mut stream) = self.streams.remove(index)
        {
            let used = stream.advance(steps);
            let plan = stream.top_up(space);
            self.streams.push_front(stream);
            return Outcome { plan, used, wasted: 0 };
        }
        if met == Met::Marker {
            return Outcome::default();
        }
        self.streams.iter_mut().for_each(Stream::passed_by);
        let Some(stream) = self.begun_by(access) else {
            self.seen.truncate(SEEN - 1);
            self.seen.push_front(access);
            return Outcome::default();
        };
        self.follow(stream, space)
    }

    /// Somebody is going to read `range` from its start on: its window is open from the beginning.
    pub fn expect(&mut self, range: ByteRange, space: Space) -> Outcome {
        if range.is_empty() {
            return Outcome::default();
        }
        self.follow(Stream::expected(range, space.window_max), space)
    }

    /// The blocks whose touch has to be told.
    pub fn markers(&self) -> impl Iterator<Item = BlockIndex> {
        self.streams.iter().filter_map(Stream::marker)
    }

    /// Blocks read ahead that no reader came to.
    pub fn unused(&self) -> u64 {
        self.streams.iter().map(Stream::unused).sum()
    }

    fn follow(&mut self, mut stream: Stream, space: Space) -> Outcome {
        let replaced = if self.streams.len() == STREAMS { self.streams.pop_back() } else { None };
        let plan = stream.top_up(space);
        self.streams.push_front(stream);
        Outcome { plan, used: 0, wasted: replaced.map_or(0, |stream| stream.unused()) }
    }

    /// The stream that this access is one more step of, and the accesses before it forgotten.
    ///
    /// Two accesses of several blocks make a stream, of small ones it takes three (four if there are gaps between
    /// them): few enough to begin soon, and so many that random accesses hardly ever look like one.
    fn begun_by(&mut self, access: ByteRange) -> Option<Stream> {
        let large = |range: &ByteRange| range.block_count() > 1;
        let contiguous = |follows: fn(ByteRange, ByteRange) -> bool| {
            let (index, before) = self.seen.iter().enumerate().find(|(_, seen)| follows(**seen, access))?;
            let both_large = large(before) && large(&access);
            let earlier = self.seen.iter().skip(index + 1).find(|seen| follows(**seen, *before));
            (both_large || earlier.is_some()).then_some([Some(*before), earlier.copied(), None])
        };
        let (stream, steps) = if let Some(steps) = contiguous(follows_forwards) {
            (Stream::forwards(access), steps)
        } else if let Some(steps) = contiguous(follows_backwards) {
            (Stream::backwards(access), steps)
        } else {
            let (distance, steps) = self.strided(access)?;
            (Stream::strided(access, distance), steps)
        };
        self.seen.retain(|seen| !steps.contains(&Some(*seen)));
        Some(stream)
    }

    /// The distance between this access and three earlier ones, if it is the same and leaves a gap.
    fn strided(&self, access: ByteRange) -> Option<(i64, [Option<ByteRange>; 3])> {
        self.seen.iter().enumerate().find_map(|(index, last)| {
            let distance = access.start().checked_signed_diff(last.start())?;
            let is_gap = distance.unsigned_abs() >= BLOCK_SIZE.max(access.len());
            if !is_gap || last.len() != access.len() {
                return None;
            }
            // Each step older than the one behind it.
            let mut older = self.seen.iter().skip(index + 1);
            let mut before = |range: &ByteRange| {
                let start = range.start().checked_add_signed(distance.checked_neg()?)?;
                older.find(|seen| seen.start() == start && seen.len() == access.len()).copied()
            };
            let second = before(last)?;
            Some((distance, [Some(*last), Some(second), Some(before(&second)?)]))
        })
    }
}
