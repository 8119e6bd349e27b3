//! [`Shared`]: what all files of one manager share: the cache, the budgets, the limits, the tasks.
//!
//! Invariants: the budgets are the shares that [`Limits`] computes, so together they stay within its memory;
//! one of several mounts never has all of a share that a store can hold up.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use crate::aside::Aside;
use crate::backlog::{Backlog, Trouble};
use crate::budget::{Budget, Reservation};
use crate::cache::{BlockCache, ContentId};
use crate::error::{Errno, Error, Result};
use crate::journal::record::room_for;
use crate::journal::{Journal, Lsn, Room};
use crate::limits::Limits;
use crate::meter::Histogram;
use crate::path::FilePath;
use crate::private::PrivateMemory;
use crate::spill::SpillFile;
use crate::trace::TARGET;
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
    pub private: PrivateMemory,
    /// Memory of blocks on their way from the store.
    pub fetch: Budget,
    /// How much of that may be blocks that nobody waits for yet.
    pub ahead: Budget,
    /// What became of them.
    pub read_ahead: ReadAheadCounts,
    /// Memory of what write-backs hold beside the unsynced blocks.
    pub write_back: Budget,
    /// What became of write-backs.
    pub write_backs: WriteBackCounts,
    /// What could not be written back.
    pub backlog: Backlog,
    /// Where unsynced pages go that cannot be stored and must not be dropped.
    pub aside: Arc<Aside>,
    /// The record of what is acknowledged and not in the store yet; none at level `memory`.
    pub journal: Option<Journal>,
    /// Write-backs, fetches and whatever else runs beside the calls.
    pub tasks: TaskTracker,
    /// Counts the reasons to look for something to write back.
    kicks: watch::Sender<u64>,
    /// What each mount can have.
    parts: OnceLock<Vec<Arc<MountParts>>>,
    waiting_writers: AtomicUsize,
    next_content: AtomicU64,
}

/// What one mount can have of the shares that its store can hold up.
#[derive(Debug)]
pub struct MountParts {
    /// The mount's prefix.
    pub mount: String,
    /// As [`Shared::dirty`].
    pub dirty: Budget,
    /// As [`Shared::fetch`].
    pub fetch: Budget,
    /// As [`Shared::ahead`].
    pub ahead: Budget,
    /// As [`Shared::write_back`].
    pub write_back: Budget,
}

/// What became of blocks that were read ahead.
#[derive(Debug, Default)]
pub struct ReadAheadCounts {
    /// Brought before anybody asked for them.
    pub brought: AtomicU64,
    /// Asked for ahead, and a reader came to them.
    pub used: AtomicU64,
    /// Asked for ahead, and no reader came to them before their mapping ended or its pattern was forgotten.
    pub wasted: AtomicU64,
}

/// What became of write-backs that had something to store.
#[derive(Debug, Default)]
pub struct WriteBackCounts {
    /// How long those took that stored it.
    pub stored: Histogram,
    /// Bytes that these stored, in whole pages.
    pub stored_bytes: AtomicU64,
    /// The file had changed in its store.
    pub conflicts: AtomicU64,
    /// They failed for another reason.
    pub failed: AtomicU64,
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
    pub fn new(limits: Limits, aside: Aside, spill: Option<Arc<SpillFile>>, journal: Option<Journal>) -> Arc<Self> {
        Arc::new(Self {
            cache: BlockCache::new(limits.clean_bytes()),
            dirty: Budget::new(limits.dirty_bytes()),
            private: PrivateMemory::new(Budget::new(limits.private_bytes()), spill),
            fetch: Budget::new(limits.fetch_bytes()),
            ahead: Budget::new(limits.ahead_bytes()),
            read_ahead: ReadAheadCounts::default(),
            write_back: Budget::new(limits.write_back_bytes()),
            write_backs: WriteBackCounts::default(),
            backlog: Backlog::default(),
            aside: Arc::new(aside),
            journal,
            tasks: TaskTracker::new(),
            kicks: watch::Sender::new(0),
            parts: OnceLock::new(),
            waiting_writers: AtomicUsize::new(0),
            next_content: AtomicU64::new(1),
            limits,
        })
    }

    /// An id that no content had before.
    pub fn new_content(&self) -> ContentId {
        ContentId(self.next_content.fetch_add(1, Ordering::Relaxed))
    }

    /// Whether the journal has the record, as its level says; so it is without a journal.
    pub fn is_journaled(&self, said: Lsn) -> bool {
        self.journal.as_ref().is_none_or(|journal| journal.is_acknowledged(said))
    }

    /// Sees to it that the journal gets the record, although nobody waits for that.
    pub fn hurry_journal(&self, said: Lsn) {
        if let Some(journal) = self.journal.as_ref().filter(|journal| !journal.is_acknowledged(said)) {
            journal.hurry();
        }
    }

    /// Waits until the journal has the record, as its level says. Cancel safe.
    ///
    /// # Errors
    /// [`Errno::Io`] if the journal has failed, or its disk does not answer within the time of a store.
    pub async fn journaled(&self, said: Lsn) -> Result<()> {
        let Some(journal) = self.journal.as_ref().filter(|journal| !journal.is_acknowledged(said)) else {
            return Ok(());
        };
        let limit = self.limits.store_timeout;
        let span = tracing::info_span!(target: TARGET, "journal.wait");
        tokio::time::timeout(limit, journal.acknowledged(said)).instrument(span).await.unwrap_or_else(|_| {
            let sentence = format!("the journal's disk did not answer within {} s", limit.as_secs());
            Err(Error::new(Errno::Io, sentence).retry_after(Duration::from_secs(1)))
        })
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

    /// [`Shared::journal_room`] without waiting: `None` where it would have to wait, or fail.
    pub fn try_journal_room(&self, path: &FilePath, range: ByteRange) -> Option<Option<Room>> {
        let Some(journal) = &self.journal else { return Some(None) };
        let pages = range.page_aligned().len() / PAGE_SIZE;
        journal.try_reserve(room_for(path.as_str(), pages)).map(Some)
    }

    /// Divides the shares among mounts: the only one can have everything; of several each can have three quarters
    /// of a share that is taken bit by bit, and an equal part of the one for write-backs, which take much at once.
    pub fn divide<'a>(&self, prefixes: impl Iterator<Item = &'a str>) {
        let prefixes: Vec<&str> = prefixes.collect();
        let part = |share: &Budget| match prefixes.len() {
            0 | 1 => share.clone(),
            _ => share.part(Limits::mount_part(share.total())),
        };
        let parts = prefixes.iter().map(|prefix| {
            let (dirty, fetch, ahead) = (part(&self.dirty), part(&self.fetch), part(&self.ahead));
            let write_back = self.write_back.part(self.write_back.total() / prefixes.len() as u64);
            Arc::new(MountParts { mount: (*prefix).to_owned(), dirty, fetch, ahead, write_back })
        });
        self.parts.get_or_init(|| parts.collect());
    }

    /// What the mount can have.
    pub fn parts_of(&self, mount: &str) -> Arc<MountParts> {
        let known = self.parts.get().into_iter().flatten().find(|parts| parts.mount == mount);
        known.map_or_else(
            || {
                let (dirty, fetch, ahead) = (self.dirty.clone(), self.fetch.clone(), self.ahead.clone());
                let write_back = self.write_back.clone();
                Arc::new(MountParts { mount: mount.to_owned(), dirty, fetch, ahead, write_back })
            },
            Arc::clone,
        )
    }

    /// There may be something to write back.
    pub fn kick(&self) {
        self.kicks.send_modify(|kicks| *kicks = kicks.wrapping_add(1));
    }

    /// Changes with each [`Shared::kick`].
    pub fn kicks(&self) -> watch::Receiver<u64> {
        self.kicks.subscribe()
    }

    /// How many writers wait for unsynced bytes to be written back.
    pub fn waiting_writers(&self) -> usize {
        self.waiting_writers.load(Ordering::Relaxed)
    }

    /// Whether writers wait for unsynced bytes to be written back.
    pub fn writers_wait(&self) -> bool {
        self.waiting_writers.load(Ordering::Relaxed) > 0
    }

    /// Bytes of blocks with unsynced pages over the soft limit.
    pub fn dirty_excess(&self) -> u64 {
        self.dirty.used().saturating_sub(self.limits.dirty_soft_bytes())
    }

    /// Whether memory is short, so that nothing should be brought that nobody waits for.
    pub fn is_pressed(&self) -> bool {
        self.writers_wait() || self.dirty_excess() > 0
    }

    /// Memory for `bytes` of a mount's blocks that become dirty. Over the soft limit write-back begins; at the
    /// hard one the writer waits in line for it, until nine tenths of its own deadline have passed (the rest is
    /// for the answer), or the store's time limit where it has none.
    ///
    /// # Errors
    /// [`Errno::DQuot`].
    pub async fn reserve_dirty(
        &self,
        parts: &MountParts,
        bytes: u64,
        deadline: Option<Instant>,
    ) -> Result<Reservation> {
        if let Some(memory) = self.try_reserve_dirty(parts, bytes) {
            return Ok(memory);
        }
        self.waiting_writers.fetch_add(1, Ordering::Relaxed);
        let _waiting = WaitingGuard(&self.waiting_writers);
        self.kick();
        let left = deadline.map_or(self.limits.store_timeout, |deadline| {
            deadline.saturating_duration_since(Instant::now()).mul_f32(0.9)
        });
        let taken = tokio::time::timeout(left, parts.dirty.take(bytes)).await;
        let memory = taken.map_err(|_| self.over_quota(parts))?;
        if self.dirty_excess() > 0 {
            self.kick();
        }
        Ok(memory)
    }

    /// [`Shared::reserve_dirty`] without waiting.
    pub fn try_reserve_dirty(&self, parts: &MountParts, bytes: u64) -> Option<Reservation> {
        let memory = parts.dirty.try_take(bytes)?;
        if self.dirty_excess() > 0 {
            self.kick();
        }
        Some(memory)
    }

    /// Why a writer got no memory in time, and whose fault that is.
    fn over_quota(&self, parts: &MountParts) -> Error {
        let (used, max) = (self.dirty.used(), self.dirty.total());
        let mut sentence = format!("unsynced bytes are at their limit of {max} and could not be written back in time");
        // The mount that failed; while none has failed yet, the one whose bytes are in the way.
        let troubles = self.backlog.troubles();
        let trouble = troubles.iter().find(|trouble| trouble.mount == parts.mount).or(troubles.first());
        let all = self.parts.get().into_iter().flatten();
        let largest = all.max_by_key(|parts| parts.dirty.used()).map_or(parts.mount.as_str(), |parts| &parts.mount);
        let culprit = trouble.map_or(largest, |trouble| trouble.mount.as_str());
        match trouble {
            Some(Trouble { mount, error, lasting, .. }) => sentence.push_str(&format!(
                ": the mount {mount} has not taken its bytes for {} s ({error}); try again when its store is back",
                lasting.as_secs()
            )),
            None => sentence.push_str(&format!(
                ": most of them wait for the mount {culprit}; sync more often, or raise the memory budget"
            )),
        }
        let error = Error::new(Errno::DQuot, sentence).with("limit", "dirty_bytes").with("max", max).with("used", used);
        error.with("mount", culprit).retry_after(Duration::from_secs(1))
    }

    /// Runs `work` to its end, also when the caller goes away. Cancel safe: what was begun is finished.
    ///
    /// # Errors
    /// Those of `work`; [`Errno::Fault`] if it panicked.
    pub async fn finish<T: Send + 'static>(&self, work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
        match self.tasks.spawn(work.in_current_span()).await {
            Ok(result) => result,
            Err(failure) => {
                tracing::error!(%failure, "a task of the core failed");
                Err(Error::new(Errno::Fault, "an internal fault; it is in the server's log"))
            }
        }
    }
}
