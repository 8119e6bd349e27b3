//! The checkpoint: everything that holds is said again, so that the journal's older part can go.
//!
//! Invariant: what is said again is said under the lock under which it changes, so the journal's order stays the
//! order of the changes, and calls go on meanwhile. What is created or changed during a checkpoint is said by
//! itself, behind the mark. Tables are filled before the journal is told, so whoever is not found in a table
//! has not been said before the mark.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::MmapManager;
use crate::error::{Errno, Result};
use crate::journal::Journal;

/// The journal may always grow to this many bytes before it is worth going through everything.
const LEAST_BYTES: u64 = 64 << 20;
/// What is there beside what holds: the segments that are begun, and the spare.
const SPARE_SEGMENTS: u64 = 3;
/// Bytes of the records of a mapping and of its file, or of a process, at most where paths are not of unusual length.
const RECORD_BYTES: u64 = 1024;
/// Room that a server needs to start: for processes that attach, and for what syncs say.
const START_BYTES: u64 = 1 << 20;
/// The pause after a checkpoint that failed.
const BACKOFF: Duration = Duration::from_secs(1);

impl MmapManager {
    /// Says everything again and takes off the journal's older part. Answers that part's bytes; 0 without a journal.
    ///
    /// # Errors
    /// EIO if the journal has failed, EDQUOT if its disk has no room to say everything again.
    pub async fn checkpoint(&self) -> Result<u64> {
        let Some(journal) = &self.shared.journal else { return Ok(0) };
        // On a full disk what is said again must fit into what is left: half of it would only use that up, and the
        // records of the syncs that make it less would wait behind it.
        journal.check_room(self.bytes_to_say()).await?;
        let mark = journal.begin_checkpoint().await?;
        for process in self.processes.all() {
            process.say();
        }
        for file in self.files.select(|_| true) {
            file.say_again(journal).await?;
        }
        let freed = journal.end_checkpoint(mark).await?;
        // The next one when twice as much is there as holds now: saying it again costs at most as much as was
        // written since. What others wrote meanwhile does not count: with it, a journal that is written faster than
        // checkpoints end would be let grow more each time.
        journal.set_checkpoint_at(next_at(self.bytes_to_say(), journal.segment_bytes()));
        tracing::debug!(freed, left = journal.bytes(), "journal checkpoint");
        Ok(freed)
    }

    /// The one at the start. Where the disk has no room to say everything a second time, the earlier run's segments
    /// stay for now: what can be synced will be, and is then less.
    ///
    /// # Errors
    /// EIO if the journal has failed, EDQUOT if its disk does not even have room for what a sync says.
    pub(super) async fn first_checkpoint(&self) -> Result<()> {
        let Some(journal) = &self.shared.journal else { return Ok(()) };
        match self.checkpoint().await {
            Err(error) if error.errno() == Errno::DQuot => {
                journal.check_room(START_BYTES).await?;
                tracing::warn!(?error, "the journal could not be made shorter at the start; it will be tried again");
                journal.set_checkpoint_at(next_at(0, journal.segment_bytes()));
                Ok(())
            }
            result => result.map(drop),
        }
    }

    /// Bytes that everything that holds takes in the journal, at most, while nothing changes.
    fn bytes_to_say(&self) -> u64 {
        let (pages, records) = (self.unsynced_bytes() + self.shared.private.held(), self.mappings.len());
        pages + pages / 16 + (records + self.processes.all().len()) as u64 * RECORD_BYTES + RECORD_BYTES
    }

    /// Starts the task that makes checkpoints when the journal asks for one.
    pub(super) fn start_checkpoints(self: &Arc<Self>) {
        if let Some(journal) = &self.shared.journal {
            let (manager, journal, stopped) = (Arc::downgrade(self), journal.clone(), self.stopped.clone());
            self.shared.tasks.spawn(checkpoints(manager, journal, stopped));
        }
    }
}

/// The bytes of segments that ask for the next checkpoint, where `holds` bytes hold. Never so few that the journal
/// has them with nothing in it, which would ask again at once, and for ever.
fn next_at(holds: u64, segment_bytes: u64) -> u64 {
    let spare = segment_bytes.saturating_mul(SPARE_SEGMENTS);
    holds.saturating_mul(2).saturating_add(spare).max(LEAST_BYTES)
}

async fn checkpoints(manager: Weak<MmapManager>, journal: Journal, stopped: tokio_util::sync::CancellationToken) {
    loop {
        tokio::select! {
            () = stopped.cancelled() => return,
            () = journal.wants_checkpoint() => {}
        }
        let Some(manager) = manager.upgrade() else { return };
        if let Err(error) = manager.checkpoint().await {
            tracing::warn!(?error, "the journal could not be made shorter; it will be tried again");
            tokio::select! {
                () = stopped.cancelled() => return,
                () = tokio::time::sleep(BACKOFF) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_with_nothing_in_it_asks_for_no_checkpoint_however_long_its_segments_are() {
        for segment_bytes in [16 << 20, 600 << 20, 1 << 30] {
            // One that is begun, and the spare.
            assert!(next_at(0, segment_bytes) > 2 * segment_bytes);
        }
        assert_eq!(next_at(0, 16 << 20), LEAST_BYTES);
        assert_eq!(next_at(100 << 20, 16 << 20), 248 << 20);
    }
}
