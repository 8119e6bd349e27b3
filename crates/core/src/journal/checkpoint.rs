//! Checkpoints: how a journal stays bounded.
//!
//! A mark is set, the owner states everything that is still true again behind it, and when that is on the disk
//! the segments wholly before the mark are removed, oldest first. A checkpoint that is not ended costs nothing
//! but its records. While one is under way, writers may add as much again as asked for it; then they wait for its
//! end. What a checkpoint says needs no room, so it never waits for itself.

use std::io;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::handle::Journal;
use super::options::{Level, Lsn};
use super::queue::{Trim, stopped};
use super::scan::number_of;
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

    /// How many bytes of segments are too many. Above twice as many, rooms wait for a checkpoint.
    pub fn set_checkpoint_at(&self, bytes: u64) {
        self.shared.set_checkpoint_at(bytes);
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
        let last = self.shared.last();
        self.sync_ahead(last).await?;
        self.synced(last).await?;
        let (reply, answer) = oneshot::channel();
        self.shared.ask_trim(Trim { mark: mark.0.0, freed: 0, reply });
        match answer.await {
            Ok(freed) => freed,
            Err(_unanswered) => Err(self.shared.ended().unwrap_or_else(stopped)),
        }
    }

    /// At level process the writer would hold everybody up while it syncs what has gathered since the last
    /// checkpoint. So that is synced beside it first, and the writer, whose sync is the one that counts, finds
    /// little left to do.
    async fn sync_ahead(&self, last: Lsn) -> Result<()> {
        if self.shared.options.level == Level::Disk {
            return Ok(());
        }
        self.acknowledged(last).await?;
        let disk = Arc::clone(&self.disk);
        let ahead = tokio::task::spawn_blocking(move || {
            for name in disk.list()?.iter().filter(|name| number_of(name).is_some()) {
                disk.sync(name)?;
            }
            io::Result::Ok(())
        });
        if let Ok(Err(error)) = ahead.await {
            tracing::debug!(%error, "the journal could not be synced ahead");
        }
        Ok(())
    }
}
