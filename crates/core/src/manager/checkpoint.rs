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
const SPARE_BYTES: u64 = 48 << 20;
/// Bytes of the records of a mapping and of its file, or of a process, at most where paths are not of unusual length.
const RECORD_BYTES: u64 = 1024;
/// Room that a server needs to start: for processes that attach, and for what syncs say.
const START_BYTES: u64 = 1 << 20;
/// The pause after a checkpoint that failed.
const BACKOFF: Duration = Duration::from_secs(1);

impl MmapManager {
    /// Says everything again and removes the journal's older part. Answers the bytes freed; 0 without a journal.
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
        journal.set_checkpoint_at(self.bytes_to_say().saturating_mul(2).saturating_add(SPARE_BYTES).max(LEAST_BYTES));
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
                journal.set_checkpoint_at(LEAST_BYTES);
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
