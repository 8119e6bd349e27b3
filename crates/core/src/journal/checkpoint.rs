//! Checkpoints: how a journal stays bounded.
//!
//! A mark is set, the owner states everything that is still true again behind it, and when that is on the disk
//! the segments wholly before the mark are removed, oldest first. A checkpoint that is not ended costs nothing
//! but its records.

use tokio::sync::oneshot;

use super::handle::Journal;
use super::options::Lsn;
use super::queue::{Trim, stopped};
use crate::error::Result;

/// Where a checkpoint begins.
#[derive(Debug)]
#[must_use = "a checkpoint frees space when it is ended"]
pub struct Mark(Lsn);

impl Journal {
    /// Resolves when the segments take more than what [`Journal::set_checkpoint_at`] said, or when the disk is
    /// full and there are segments that a checkpoint could free. It resolves again as long as that is so: who
    /// could not change it should wait before asking again. Never resolves when the journal has ended.
    pub async fn wants_checkpoint(&self) {
        let mut space = self.shared.space.subscribe();
        let wanted = space.wait_for(|space| {
            !space.ended && (space.bytes > space.checkpoint_at || (space.trouble.is_some() && space.has_old))
        });
        // It cannot fail: this handle has the sender.
        let _ = wanted.await;
    }

    /// How many bytes of segments are too many.
    pub fn set_checkpoint_at(&self, bytes: u64) {
        self.shared.space.send_modify(|space| space.checkpoint_at = bytes);
    }

    /// Sets the mark. If there is a spare segment the mark begins it; otherwise it stays in the current one,
    /// which is then not freed.
    ///
    /// # Errors
    /// `Errno::Io` if the journal has failed or is closed.
    pub async fn begin_checkpoint(&self) -> Result<Mark> {
        self.shared.mark().map(Mark)
    }

    /// Waits until everything appended so far survives power loss, then removes the segments wholly before the
    /// mark: the bytes freed. If it is dropped, the removal may still happen.
    ///
    /// # Errors
    /// `Errno::Io` if the journal has failed or is closed, or if a segment cannot be removed.
    pub async fn end_checkpoint(&self, mark: Mark) -> Result<u64> {
        self.synced(self.shared.last()).await?;
        let (reply, answer) = oneshot::channel();
        self.shared.ask_trim(Trim { mark: mark.0.0, freed: 0, reply });
        match answer.await {
            Ok(freed) => freed,
            Err(_unanswered) => Err(self.shared.ended().unwrap_or_else(stopped)),
        }
    }
}
