//! The words of the journal: a record's position, what acknowledged means, and the sizes.

use super::frame::HEAD;
use crate::error::{Error, Result};

/// Position of a record, counted since the journal began. Never 0 for a record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl Lsn {
    /// Before the first record: there is nothing to wait for.
    pub const NONE: Self = Self(0);
}

/// When a record is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// When write(2) has it: it survives the process.
    Process,
    /// When fdatasync(2) has returned, for many records at once: it survives power loss.
    Disk,
}

/// How a journal is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// When a record is acknowledged.
    pub level: Level,
    /// Bytes of a segment, 4 KiB to 1 GiB.
    pub segment_bytes: u64,
    /// Bytes that may wait to be written, their frames included; the largest record is that long. At most
    /// seven eighths of a segment, less 64 bytes.
    pub queue_bytes: u64,
    /// Go on although acknowledged records cannot be read: those before the damage are replayed, the damaged
    /// segments are kept under another name.
    pub accept_loss: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { level: Level::Process, segment_bytes: 16 << 20, queue_bytes: 8 << 20, accept_loss: false }
    }
}

impl Options {
    /// The longest a segment can be.
    pub(super) const SEGMENT_MAX: u64 = 1 << 30;

    /// With room for the record of a write of `bytes` bytes, whatever pages they lie on.
    #[must_use]
    pub fn for_writes_of(self, bytes: u64) -> Self {
        // The images of the pages, one more than the bytes fill, and 16 bytes beside each: see `record::room_for`.
        let record = bytes.saturating_add(bytes / 64).saturating_add(128 << 10);
        let queue_bytes = self.queue_bytes.max(record);
        // Beside the queue a segment keeps at most 1 MiB free, and its head.
        let segment_bytes = self.segment_bytes.max(queue_bytes.saturating_add(2 << 20));
        Self { queue_bytes, segment_bytes, ..self }
    }

    /// Bytes of a segment that are kept free for records that must not be refused.
    pub(super) fn slack(&self) -> u64 {
        (self.segment_bytes / 8).min(1 << 20)
    }

    pub(super) fn check(&self) -> Result<()> {
        if !(4096..=Self::SEGMENT_MAX).contains(&self.segment_bytes) {
            let message = format!("a journal segment of {} bytes is not between 4 KiB and 1 GiB", self.segment_bytes);
            return Err(Error::invalid("segment_bytes", message).with("segment_bytes", self.segment_bytes));
        }
        let max = self.segment_bytes - self.slack() - HEAD as u64;
        if !(64..=max).contains(&self.queue_bytes) {
            let message = format!(
                "a journal queue of {} bytes is not between 64 and {max} bytes, what its segments leave room for",
                self.queue_bytes
            );
            return Err(Error::invalid("queue_bytes", message).with("queue_bytes", self.queue_bytes).with("max", max));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::record::room_for;
    use crate::units::PAGE_SIZE;

    #[test]
    fn the_largest_write_fits_into_the_queue_and_the_queue_into_a_segment() {
        for bytes in [1, 4 << 20, 7 << 20, 64 << 20, 512 << 20] {
            let options = Options::default().for_writes_of(bytes);
            let record = room_for(&"x".repeat(4096), bytes.div_ceil(PAGE_SIZE) + 1) as u64;
            assert!(record + 64 <= options.queue_bytes && options.check().is_ok(), "{bytes}: {options:?}");
        }
        assert_eq!(Options::default().for_writes_of(4 << 20).segment_bytes, 16 << 20);
    }
}
