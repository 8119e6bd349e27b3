//! [`JournalCounts`]: what the writer thread has written, and how long the disk took for it; [`JournalUse`]: that and
//! how the journal is now, for who watches it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::meter::{Histogram, Observed};

/// What was written so far.
#[derive(Debug, Default)]
pub(super) struct JournalCounts {
    bytes: AtomicU64,
    batches: Histogram,
    syncs: Histogram,
}

/// How a journal is, and what it has done.
#[derive(Clone, Debug)]
pub struct JournalUse {
    /// Bytes that its segments take on the disk, the spare included.
    pub disk_bytes: u64,
    /// Bytes that wait to be written.
    pub waiting_bytes: u64,
    /// The most that may wait.
    pub waiting_max: u64,
    /// It cannot make a segment, because its disk is full or does not let it.
    pub is_stuck: bool,
    /// It takes no more records.
    pub has_failed: bool,
    /// Bytes written since the start.
    pub written_bytes: u64,
    /// How long batches of records took to be written, with their sync where the level asks for one.
    pub batches: Observed,
    /// How long syncs of the disk took.
    pub syncs: Observed,
}

impl JournalCounts {
    /// A batch, or a part of one, was written.
    pub(super) fn wrote(&self, bytes: u64, took: Duration) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.batches.observe(took);
    }

    /// The disk was synced.
    pub(super) fn synced(&self, took: Duration) {
        self.syncs.observe(took);
    }

    /// What was done so far: bytes, batches and syncs.
    pub(super) fn done(&self) -> (u64, Observed, Observed) {
        (self.bytes.load(Ordering::Relaxed), self.batches.observed(), self.syncs.observed())
    }
}
