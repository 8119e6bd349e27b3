//! Reading ahead of a mapping's readers: where the windows of [`readahead`](crate::readahead) meet the store.
//!
//! What is read ahead only takes memory that is free, so it never holds up a read that somebody waits for. That it
//! fails is nobody's failure but of those who came to wait for it: whoever comes later asks again.
//!
//! Invariants: nothing is read ahead while memory is short, of a file that changed in the store, or once the mapping
//! has ended; what was begun stops when the mapping ends, or when the read that began it is given up.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::File;
use crate::budget::Reservation;
use crate::readahead::{Met, Outcome, Patterns, Plan, STREAMS, Space};
use crate::units::{BLOCK_SIZE, BlockIndex, ByteRange};

/// Blocks of one request that nobody waits for yet, at most: 16 MiB. What a store does for each request is the larger
/// part of small ones; who comes to wait for a block of a large one gets it as soon as it is there, not at the end.
const RUN_MAX: u64 = 256;
/// No block is the marker.
const NOWHERE: u64 = u64::MAX;

/// What is read ahead of a mapping's readers.
#[derive(Debug)]
pub struct ReadAhead {
    /// What the mapping shows of the file.
    mapped: ByteRange,
    /// Blocks whose touch makes it go on.
    markers: [AtomicU64; STREAMS],
    progress: Mutex<Progress>,
}

#[derive(Debug, Default)]
enum Progress {
    /// Nothing missed so far.
    #[default]
    Untouched,
    Followed(Box<Followed>),
    Ended,
}

#[derive(Debug, Default)]
struct Followed {
    patterns: Patterns,
    /// Stops what was begun.
    stop: CancellationToken,
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// What a read has begun to read ahead. It stops when this is dropped, unless the read was not given up.
#[derive(Debug, Default)]
#[must_use = "dropping it stops the read-ahead"]
pub(super) struct Begun(Option<DropGuard>);

impl Begun {
    /// The read came to its end.
    pub(super) fn keep(self) {
        if let Some(guard) = self.0 {
            guard.disarm();
        }
    }
}

impl ReadAhead {
    /// Of a mapping of these bytes.
    pub fn new(mapped: ByteRange) -> Self {
        Self { mapped, markers: [const { AtomicU64::new(NOWHERE) }; STREAMS], progress: Mutex::default() }
    }

    /// Whether an access to `range` has to be told although everything was in memory.
    pub(super) fn is_marked(&self, range: ByteRange) -> bool {
        let (first, count) = (BlockIndex::of(range.start()).0, range.block_count());
        self.markers.iter().any(|marker| marker.load(Ordering::Relaxed).wrapping_sub(first) < count)
    }

    fn update(&self, change: impl FnOnce(&mut Patterns) -> Outcome) -> Option<(Outcome, CancellationToken)> {
        let mut progress = self.progress.lock();
        if matches!(*progress, Progress::Untouched) {
            *progress = Progress::Followed(Box::default());
        }
        let Progress::Followed(followed) = &mut *progress else { return None };
        let outcome = change(&mut followed.patterns);
        let found = followed.patterns.markers().map(|block| block.0).chain(std::iter::repeat(NOWHERE));
        for (marker, block) in self.markers.iter().zip(found) {
            marker.store(block, Ordering::Relaxed);
        }
        Some((outcome, followed.stop.clone()))
    }

    /// Stops for good. Answers the blocks that were read ahead in vain.
    fn end(&self) -> u64 {
        let ended = std::mem::replace(&mut *self.progress.lock(), Progress::Ended);
        for marker in &self.markers {
            marker.store(NOWHERE, Ordering::Relaxed);
        }
        match ended {
            Progress::Followed(followed) => followed.patterns.unused(),
            Progress::Untouched | Progress::Ended => 0,
        }
    }
}

impl File {
    /// Takes note of a read, and begins to read ahead of it if that is worth while.
    pub(super) fn read_on(self: &Arc<Self>, ahead: &ReadAhead, range: ByteRange, met: Met) -> Begun {
        if self.shared.limits.window_bytes() == 0 {
            return Begun::default();
        }
        let space = self.space(ahead);
        self.carry_out(ahead.update(|patterns| patterns.touch(range, met, space)))
    }

    /// Takes note of a read that found everything in memory: it costs a comparison, unless it touched a marker.
    pub(super) fn go_on_reading_ahead(self: &Arc<Self>, ahead: &ReadAhead, range: ByteRange) {
        if ahead.is_marked(range) {
            self.read_on(ahead, range, Met::Marker).keep();
        }
    }

    /// Somebody is going to read `range` from its start to its end: begins to bring it in, a window of it at first.
    pub fn will_read(self: &Arc<Self>, ahead: &ReadAhead, range: ByteRange) {
        let space = self.space(ahead);
        self.carry_out(ahead.update(|patterns| patterns.expect(range, space))).keep();
    }

    /// The mapping has ended: what is read ahead of it stops.
    pub fn stop_reading_ahead(&self, ahead: &ReadAhead) {
        self.shared.read_ahead.wasted.fetch_add(ahead.end(), Ordering::Relaxed);
    }

    fn space(&self, ahead: &ReadAhead) -> Space {
        let within = ahead.mapped.intersect(ByteRange::new(0, self.size()));
        let free = self.parts.ahead.free().min(self.parts.fetch.free());
        let room = if self.shared.is_pressed() { 0 } else { free / BLOCK_SIZE };
        Space { within, window_max: self.shared.limits.window_bytes() / BLOCK_SIZE, room }
    }

    fn carry_out(self: &Arc<Self>, update: Option<(Outcome, CancellationToken)>) -> Begun {
        let Some((outcome, stop)) = update else { return Begun::default() };
        let counts = &self.shared.read_ahead;
        counts.used.fetch_add(outcome.used, Ordering::Relaxed);
        counts.wasted.fetch_add(outcome.wasted, Ordering::Relaxed);
        let Some(plan) = outcome.plan else { return Begun::default() };
        let stop = stop.child_token();
        self.ask_ahead(&plan, &stop);
        Begun(Some(stop.drop_guard()))
    }

    /// Asks for what is missing of the plan, as far as there is memory for it now. What there is none for will be
    /// asked for by whoever needs it.
    fn ask_ahead(self: &Arc<Self>, plan: &Plan, stop: &CancellationToken) {
        // Without a runtime nothing can be begun, and nothing has to be.
        let Ok(runtime) = Handle::try_current() else { return };
        let most = (self.parts.ahead.total() / BLOCK_SIZE / 2).clamp(1, RUN_MAX);
        for blocks in plan.runs(most) {
            let bytes = (blocks.end - blocks.start) * BLOCK_SIZE;
            let taken = (self.parts.ahead.try_take(bytes), self.parts.fetch.try_take(bytes));
            let (Some(mut ahead), Some(mut fetch)) = taken else { return };
            for run in self.board_ahead(blocks) {
                let part = |memory: &mut Reservation| memory.split(run.bytes()).unwrap_or_default();
                let memory = [part(&mut ahead), part(&mut fetch)];
                let run = run.within(memory);
                let (file, stop) = (Arc::clone(self), stop.clone());
                self.shared.tasks.spawn_on(async move { stop.run_until_cancelled(file.fetch(run)).await }, &runtime);
            }
        }
    }
}
