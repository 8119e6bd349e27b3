//! Checkpoints: how a journal stays bounded.
//!
//! A mark is set, the owner states everything that is still true again behind it, and when that is on the disk
//! the segments wholly before the mark are taken off, oldest first. A checkpoint that is not ended costs nothing
//! but its records. That those segments are of no use any more is said by a file's name, so that they can be kept and
//! used again, and at level process need not be synced first: most of what is written there never goes to the disk.
//!
//! While a checkpoint is under way, writers may add as much again as asked for it; then they wait for its end. What it
//! says needs no room, so it never waits for itself.

use std::io;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::asked::{Cover, Trim};
use super::beginning::say_beginning;
use super::disk::Disk;
use super::handle::Journal;
use super::options::{Level, Lsn};
use super::queue::stopped;
use super::scan::{name_of, number_of};
use crate::error::{Errno, Error, Result};

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

    /// Waits until everything from the mark on that was appended so far survives power loss, then takes off the
    /// segments wholly before it: their bytes. If it is dropped, they may still be taken off.
    ///
    /// # Errors
    /// `Errno::Io` if the journal has failed or is closed, or if a segment cannot be removed.
    pub async fn end_checkpoint(&self, mark: Mark) -> Result<u64> {
        let last = self.shared.last();
        self.acknowledged(last).await?;
        let from = self.cover(&mark).await?;
        if self.shared.options.level == Level::Process {
            // The writer would hold everybody up while it syncs all that. So it is synced beside it first, and the
            // writer, whose sync is the one that counts, finds little left to do.
            if let Err(error) = self.on_disk(move |disk| sync_from(disk, from)).await {
                tracing::debug!(%error, "the journal could not be synced ahead");
            }
        }
        self.synced(last).await?;
        let said = self.on_disk(move |disk| say_beginning(disk, from)).await;
        said.map_err(|error| self.not_said(error))?;
        self.trim(&mark).await
    }

    /// The number of the first segment that is not wholly before the mark.
    async fn cover(&self, mark: &Mark) -> Result<u64> {
        let (reply, answer) = oneshot::channel();
        self.shared.ask_cover(Cover { mark: mark.0.0, reply });
        answer.await.map_err(|_unanswered| self.shared.ended().unwrap_or_else(stopped))
    }

    async fn trim(&self, mark: &Mark) -> Result<u64> {
        let (reply, answer) = oneshot::channel();
        self.shared.ask_trim(Trim { mark: mark.0.0, freed: 0, reply });
        match answer.await {
            Ok(freed) => freed,
            Err(_unanswered) => Err(self.shared.ended().unwrap_or_else(stopped)),
        }
    }

    async fn on_disk(&self, work: impl FnOnce(&dyn Disk) -> io::Result<()> + Send + 'static) -> io::Result<()> {
        let disk = Arc::clone(&self.disk);
        tokio::task::spawn_blocking(move || work(&*disk)).await.unwrap_or_else(|error| Err(io::Error::other(error)))
    }

    fn not_said(&self, error: io::Error) -> Error {
        let place = self.disk.shown("");
        let message = format!("the journal in {place} cannot be made shorter: {error}");
        Error::new(Errno::Io, message).with("folder", place).caused_by(error)
    }
}

/// Syncs the segments from this number on, in order.
fn sync_from(disk: &dyn Disk, from: u64) -> io::Result<()> {
    let names = disk.list()?;
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| number_of(name)).collect();
    numbers.retain(|number| *number >= from);
    numbers.sort_unstable();
    numbers.into_iter().try_for_each(|number| disk.sync(&name_of(number)))
}
