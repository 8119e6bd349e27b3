//! [`Shared`]: what all files of one manager share: the cache, the budgets, the limits, the tasks.
//!
//! Invariant: the budgets are the shares that [`Limits`] computes, so together they stay within its memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::aside::Aside;
use crate::budget::{Budget, Reservation};
use crate::cache::{BlockCache, ContentId};
use crate::error::{Errno, Error, Result};
use crate::journal::record::room_for;
use crate::journal::{Journal, Lsn, Room};
use crate::limits::Limits;
use crate::path::FilePath;
use crate::units::{ByteRange, PAGE_SIZE};

/// What all files share.
#[derive(Debug)]
pub struct Shared {
    /// Every bound.
    pub limits: Limits,
    /// Clean blocks.
    pub cache: BlockCache,
    /// Memory of blocks with unsynced pages.
    pub dirty: Budget,
    /// Memory of private mappings' own pages.
    pub private: Budget,
    /// Memory of blocks on their way from and to the store.
    pub inflight: Budget,
    /// Where unsynced pages go that cannot be stored and must not be dropped.
    pub aside: Arc<Aside>,
    /// The record of what is acknowledged and not in the store yet; none at level `memory`.
    pub journal: Option<Journal>,
    /// Write-backs, fetches and whatever else runs beside the calls.
    pub tasks: TaskTracker,
    /// Wakes the write-back task.
    pub kick: Notify,
    waiting_writers: AtomicUsize,
    next_content: AtomicU64,
}

/// Counts a writer that waits for memory, as long as it lives.
struct WaitingGuard<'a>(&'a AtomicUsize);

impl Drop for WaitingGuard<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Shared {
    /// For a manager with these limits.
    pub fn new(limits: Limits, aside: Aside, journal: Option<Journal>) -> Arc<Self> {
        Arc::new(Self {
            cache: BlockCache::new(limits.clean_bytes()),
            dirty: Budget::new(limits.dirty_bytes()),
            private: Budget::new(limits.private_bytes()),
            inflight: Budget::new(limits.inflight_bytes()),
            aside: Arc::new(aside),
            journal,
            tasks: TaskTracker::new(),
            kick: Notify::new(),
            waiting_writers: AtomicUsize::new(0),
            next_content: AtomicU64::new(1),
            limits,
        })
    }

    /// An id that no content had before.
    pub fn new_content(&self) -> ContentId {
        ContentId(self.next_content.fetch_add(1, Ordering::Relaxed))
    }

    /// Waits until the journal has the record, as its level says. Cancel safe.
    ///
    /// # Errors
    /// [`Errno::Io`] if the journal has failed.
    pub async fn journaled(&self, said: Lsn) -> Result<()> {
        match &self.journal {
            Some(journal) if !journal.is_acknowledged(said) => journal.acknowledged(said).await,
            Some(_) | None => Ok(()),
        }
    }

    /// Room in the journal for a write of `range`. Cancel safe.
    ///
    /// # Errors
    /// [`Errno::DQuot`] if its disk is full, [`Errno::Io`] if it has failed.
    pub async fn journal_room(
        &self,
        path: &FilePath,
        range: ByteRange,
        deadline: Option<Instant>,
    ) -> Result<Option<Room>> {
        let Some(journal) = &self.journal else { return Ok(None) };
        let pages = range.page_aligned().len() / PAGE_SIZE;
        journal.reserve(room_for(path.as_str(), pages), deadline).await.map(Some)
    }

    /// Whether writers wait for dirty pages to be written back.
    pub fn under_pressure(&self) -> bool {
        self.waiting_writers.load(Ordering::Relaxed) > 0
    }

    /// Memory for `bytes` of blocks that become dirty. Over the limit the writer waits in line for write-back,
    /// until nine tenths of its own deadline have passed (the rest is for the answer), or the store's time
    /// limit where it has none.
    ///
    /// # Errors
    /// [`Errno::DQuot`].
    pub async fn reserve_dirty(&self, bytes: u64, deadline: Option<Instant>) -> Result<Reservation> {
        if let Some(memory) = self.dirty.try_take(bytes) {
            return Ok(memory);
        }
        self.waiting_writers.fetch_add(1, Ordering::Relaxed);
        let _waiting = WaitingGuard(&self.waiting_writers);
        self.kick.notify_one();
        let left = deadline.map_or(self.limits.store_timeout, |deadline| {
            deadline.saturating_duration_since(Instant::now()).mul_f32(0.9)
        });
        tokio::time::timeout(left, self.dirty.take(bytes)).await.map_err(|_| self.dirty_is_full())
    }

    /// Memory for `bytes` of blocks that are dirty already, when the server was away.
    ///
    /// # Errors
    /// [`Errno::DQuot`].
    pub fn take_dirty(&self, bytes: u64) -> Result<Reservation> {
        self.dirty.try_take(bytes).ok_or_else(|| self.dirty_is_full())
    }

    fn dirty_is_full(&self) -> Error {
        Error::new(
            Errno::DQuot,
            format!(
                "unsynced bytes are at their limit of {} and could not be written back in time: sync, or raise \
                 the memory budget",
                self.dirty.total()
            ),
        )
        .with("limit", "dirty_bytes")
        .with("max", self.dirty.total())
        .with("used", self.dirty.used())
        .retry_after(Duration::from_secs(1))
    }

    /// Memory for `bytes` of private pages.
    ///
    /// # Errors
    /// [`Errno::NoMem`].
    pub fn reserve_private(&self, bytes: u64) -> Result<Reservation> {
        self.private.try_take(bytes).ok_or_else(|| {
            Error::new(
                Errno::NoMem,
                format!(
                    "private pages are at their limit of {} bytes: unmap private mappings, or raise the memory budget",
                    self.private.total()
                ),
            )
            .with("limit", "private_bytes")
            .with("max", self.private.total())
            .with("used", self.private.used())
        })
    }

    /// Runs `work` to its end, also when the caller goes away. Cancel safe: what was begun is finished.
    ///
    /// # Errors
    /// Those of `work`; [`Errno::Fault`] if it panicked.
    pub async fn finish<T: Send + 'static>(&self, work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
        match self.tasks.spawn(work).await {
            Ok(result) => result,
            Err(failure) => {
                tracing::error!(%failure, "a task of the core failed");
                Err(Error::new(Errno::Fault, "an internal fault; it is in the server's log"))
            }
        }
    }
}
