//! The commit: write-back of a consistent cut of the unsynced pages, conditional on the version that they are
//! based on. Also truncation and removal, which change the store in the same queue.
//!
//! Invariants: a cut is taken in one moment under the lock; readers and writers go on while it is written;
//! what is dirtied after the cut stays dirty; a commit that fails leaves every page of its cut dirty; whoever
//! waits for a write-back gets one that began after its call (concurrent callers share it).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::{Instrument as _, Span};

use super::state::{Attempt, FileState};
use super::{File, WHOLE};
use crate::block::slice_padded;
use crate::budget::Reservation;
use crate::error::{Errno, Error, Result};
use crate::journal::Lsn;
use crate::journal::record::BlockPages;
use crate::trace::TARGET;
use crate::units::{BlockIndex, ByteRange, PageMask, PageSet};
use crate::vfs::{Base, CommitId, Patch, Stat, StoreFault, StoreResult, Version, WRITE_BACK_BYTES_MAX, WriteBack};

/// How often a commit starts over because an earlier attempt of ours turned out to have taken effect.
const ROUNDS_MAX: u32 = 8;

/// What a sync did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncOutcome {
    /// Unsynced bytes that were written back, in whole pages.
    pub bytes: u64,
    /// What the store has, if it has the file.
    pub version: Option<Version>,
}

/// Somebody who waits for the next write-back.
#[derive(Debug)]
pub(super) struct Waiter {
    asked: Instant,
    ranges: Vec<ByteRange>,
    /// The wait. The commit is told below the first one's who looks at it.
    span: Span,
    reply: oneshot::Sender<Result<SyncOutcome>>,
}

/// The pages of one write-back.
#[derive(Debug, Default)]
struct Cut {
    blocks: Vec<(BlockIndex, PageMask)>,
}

impl Cut {
    /// Bytes of the cut that lie in `ranges`, in whole pages.
    fn bytes_in(&self, ranges: &[ByteRange]) -> u64 {
        let wanted = PageSet::of(ranges);
        self.blocks.iter().map(|(block, pages)| pages.intersect(wanted.in_block(*block)).bytes()).sum()
    }
}

/// Makes the pages of a cut dirty again unless the write-back succeeded, whatever becomes of it.
struct CutGuard<'a> {
    file: &'a File,
    cut: Cut,
}

impl Drop for CutGuard<'_> {
    fn drop(&mut self) {
        let mut state = self.file.state.write();
        state.committing = false;
        for (block, _) in &self.cut.blocks {
            if let Some(dirty) = state.dirty.get_mut(block) {
                dirty.abort_writing();
            }
        }
    }
}

impl File {
    /// Makes the store hold every write to `ranges` that was acknowledged before this call. Cancel safe: a
    /// write-back that was begun is finished.
    ///
    /// # Errors
    /// ESTALE, EROFS, EIO, EUCLEAN; the pages stay unsynced.
    pub async fn sync(self: &Arc<Self>, ranges: Vec<ByteRange>) -> Result<SyncOutcome> {
        let (reply, answer) = oneshot::channel();
        let span = tracing::info_span!(target: TARGET, "commit", mmap.path = %self.path);
        self.waiters.lock().push(Waiter { asked: Instant::now(), ranges, span, reply });
        let file = Arc::clone(self);
        // Whichever task gets the commit lock first serves everybody who waits by then.
        self.shared.tasks.spawn(async move { file.serve_waiters().await });
        match answer.await {
            Ok(result) => result,
            Err(_) => Err(Error::new(Errno::Fault, "an internal fault: a write-back ended without an answer")),
        }
    }

    async fn serve_waiters(self: Arc<Self>) {
        let mut turn = self.commit.turn().await;
        let all = std::mem::take(&mut *self.waiters.lock());
        let mut waiters = Vec::with_capacity(all.len());
        for waiter in all {
            match turn.failure_since(waiter.asked) {
                Some(failure) => self.answer(waiter, Err(failure)),
                None => waiters.push(waiter),
            }
        }
        if waiters.is_empty() {
            return;
        }
        let ranges: Vec<ByteRange> = waiters.iter().flat_map(|waiter| waiter.ranges.iter().copied()).collect();
        let span = waiters.iter().map(|waiter| &waiter.span).find(|span| !span.is_disabled());
        let span = span.cloned().unwrap_or_else(Span::none);
        let result = self.commit_ranges(&PageSet::of(&ranges)).instrument(span).await;
        turn.note(result.as_ref().err());
        for waiter in waiters {
            self.answer(waiter, result.as_ref().map(|(cut, version)| (cut, version.clone())).map_err(Error::clone));
        }
    }

    fn answer(&self, waiter: Waiter, result: Result<(&Cut, Option<Version>)>) {
        let outcome = match result {
            Ok((cut, version)) => Ok(SyncOutcome { bytes: cut.bytes_in(&waiter.ranges), version }),
            // Others' pages could not be stored: that is no failure of who has none.
            Err(error) => self.nothing_unsynced(&PageSet::of(&waiter.ranges)).ok_or(error),
        };
        // Nobody listens any more: the write-back is done all the same.
        let _ = waiter.reply.send(outcome);
    }

    /// Syncs `ranges`, for whoever holds the commit lock.
    pub(super) async fn sync_holding_commit(&self, ranges: &[ByteRange]) -> Result<SyncOutcome> {
        let (cut, version) = self.commit_ranges(&PageSet::of(ranges)).await?;
        Ok(SyncOutcome { bytes: cut.bytes_in(ranges), version })
    }

    /// As [`File::commit_rounds`], noted for the write-back task and for people.
    async fn commit_ranges(&self, pages: &PageSet) -> Result<(Cut, Option<Version>)> {
        let started = Instant::now();
        let result = self.commit_rounds(pages).await;
        let (backlog, counts, mount) = (&self.shared.backlog, &self.shared.write_backs, &self.parts.mount);
        match &result {
            Err(error) => {
                let count = if error.errno() == Errno::Stale { &counts.conflicts } else { &counts.failed };
                count.fetch_add(1, Ordering::Relaxed);
                backlog.failed(mount, &self.path, self.dirty_bytes(), error);
            }
            // Nothing to store in one place says nothing of another where it failed.
            Ok((cut, _)) if cut.blocks.is_empty() && self.dirty_bytes() > 0 => {}
            Ok((cut, _)) => {
                if !cut.blocks.is_empty() {
                    counts.stored.observe(started.elapsed());
                    counts.stored_bytes.fetch_add(cut.bytes_in(&[WHOLE]), Ordering::Relaxed);
                }
                backlog.settled(mount, &self.path);
            }
        }
        result
    }

    /// One write-back of the unsynced ones of `pages`; repeated only where an attempt of ours was in the way.
    async fn commit_rounds(&self, pages: &PageSet) -> Result<(Cut, Option<Version>)> {
        for _ in 0..ROUNDS_MAX {
            if let Some(nothing) = self.nothing_unsynced(pages) {
                return Ok((Cut::default(), nothing.version));
            }
            let stale = self.is_stale();
            self.require_writable().await?;
            if stale {
                // It may have become what it was, or ours.
                self.refresh_holding_commit().await?;
                if self.state.read().stale {
                    return Err(self.stale_error());
                }
            }
            match self.write_cut(pages).await {
                Ok(done) => return Ok(done),
                Err(StoreFault::Changed | StoreFault::Missing | StoreFault::Exists) => {
                    self.refresh_holding_commit().await?;
                    if self.state.read().stale {
                        return Err(self.stale_error());
                    }
                }
                Err(fault) => return Err(fault.into_error(&self.path)),
            }
        }
        Err(self.unsteady_error())
    }

    /// What a sync of `pages` comes to if none of them is unsynced.
    fn nothing_unsynced(&self, pages: &PageSet) -> Option<SyncOutcome> {
        let state = self.state.read();
        let clean = pages.ranges().iter().all(|range| state.unsynced_in(*range).next().is_none());
        clean.then(|| SyncOutcome { bytes: 0, version: state.base.clone() })
    }

    /// Takes a cut and writes it back.
    async fn write_cut(&self, pages: &PageSet) -> StoreResult<(Cut, Option<Version>)> {
        let traits = self.location.mount.store().traits();
        // Before the cut is taken: from then on its blocks are copied when they are written.
        let _room = self.room_for(self.clean_bytes(pages)).await;
        let ((change, said), mut guard) = {
            let mut state = self.state.write();
            let Some(version) = state.base.clone() else { return Err(StoreFault::Missing) };
            let (cut, patches) = self.take_cut(&mut state, pages, traits.rewrites_up_to);
            let base = Base::At { version, size: state.size };
            (self.begin(&mut state, base, None, patches), CutGuard { file: self, cut })
        };
        self.attempt_journaled(said).await;
        let stat = self.location.mount.store().write_back(&self.location.name, change).await?;
        let cut = std::mem::take(&mut guard.cut);
        let version = stat.version.clone();
        let said = {
            let mut state = self.state.write();
            state.committing = false;
            self.end_cut(&mut state, &cut, stat)
        };
        drop(guard);
        self.moved_journaled(said).await;
        Ok((cut, Some(version)))
    }

    /// Before the store is asked: a server that is killed after that must know its own change again. A journal that
    /// has failed is no reason not to store what is unsynced, but one to hurry.
    pub(super) async fn attempt_journaled(&self, said: Lsn) {
        if let Err(error) = self.shared.journaled(said).await {
            tracing::warn!(path = %self.path, ?error, "the journal has failed; what is unsynced is stored all the same");
        }
    }

    /// The store has the change, whether the journal learns of it or not: without it the next server takes pages
    /// for unsynced that are not, and finds out from the attempt's mark.
    pub(super) async fn moved_journaled(&self, said: Lsn) {
        if let Err(error) = self.shared.journaled(said).await {
            tracing::warn!(path = %self.path, ?error, "the journal did not learn that a change is in the store");
        }
    }

    /// Bytes of the file beside the unsynced ones of `pages`.
    fn clean_bytes(&self, pages: &PageSet) -> u64 {
        let state = self.state.read();
        let unsynced: u64 = pages.ranges().iter().map(|range| state.unsynced_bytes(*range)).sum();
        state.size.saturating_sub(unsynced)
    }

    /// Memory for what the store puts together beside the unsynced bytes, which are paid for already: the rest
    /// of a file that is rewritten, or the parts of a larger one. Each holder has a time limit of its own, so the
    /// wait ends.
    async fn room_for(&self, bytes: u64) -> Reservation {
        match self.location.mount.store().traits().rewrites_up_to {
            0 => Reservation::default(),
            _ => self.parts.write_back.take(bytes.min(WRITE_BACK_BYTES_MAX)).await,
        }
    }

    /// Marks a change as under way and remembers it until its fate is known.
    fn begin(&self, state: &mut FileState, base: Base, size: Option<u64>, patches: Vec<Patch>) -> (WriteBack, Lsn) {
        let commit = CommitId::random();
        let size = size.unwrap_or(state.size);
        state.committing = true;
        // Whatever is clean in memory when a file is made belonged to one that is gone.
        let said = state.remember(Attempt { commit, size, outdates: base == Base::Missing });
        (WriteBack { base, size, patches, commit }, said)
    }

    /// The dirty ones of `wanted` with their bytes; where the store rewrites the whole file anyway, also the
    /// clean pages that are in memory.
    fn take_cut(&self, state: &mut FileState, wanted: &PageSet, rewrites_up_to: u64) -> (Cut, Vec<Patch>) {
        let (size, content) = (state.size, state.content);
        let mut cut = Cut::default();
        let mut patches = Vec::new();
        let whole = size <= rewrites_up_to;
        for (block, dirty) in &mut state.dirty {
            let pages = dirty.begin_writing(wanted.in_block(*block));
            if !pages.is_empty() {
                cut.blocks.push((*block, pages));
            }
            let data = |run| dirty.slice(run);
            push_patches(&mut patches, *block, pages, size, true, data);
            if whole {
                push_patches(&mut patches, *block, dirty.clean(), size, false, data);
            }
        }
        if whole {
            for block in ByteRange::new(0, size).blocks().filter(|block| !state.dirty.contains_key(block)) {
                if let Some(clean) = self.shared.cache.get(content, block) {
                    let data = |run| slice_padded(&clean, run);
                    push_patches(&mut patches, block, PageMask::ALL, size, false, data);
                }
            }
        }
        patches.sort_unstable_by_key(|patch| patch.offset);
        (cut, patches)
    }

    /// The store has the cut: pages that were not written since are clean.
    fn end_cut(&self, state: &mut FileState, cut: &Cut, stat: Stat) -> Lsn {
        state.attempts.clear();
        let mut stored = Vec::with_capacity(cut.blocks.len());
        for (block, _) in &cut.blocks {
            state.recall(*block);
            let Some(dirty) = state.dirty.get_mut(block) else { continue };
            stored.push(BlockPages::new(*block, dirty.end_writing()));
            if dirty.unsynced().is_empty()
                && let Some(clean) = state.dirty.remove(block)
                && clean.valid() == PageMask::ALL
            {
                self.shared.cache.insert(state.content, *block, clean.data().clone());
            }
        }
        state.advance(&self.shared.cache, stat.size, stat.version, &stored)
    }

    /// Sets the file's size, making it if it is missing and `make` says so. It is in the store when this
    /// answers, and nothing else of what is unsynced. Cancel safe: what was begun is finished.
    ///
    /// # Errors
    /// ENOENT, EEXIST, EROFS, ESTALE, EINVAL (too large), EIO.
    pub async fn truncate(self: &Arc<Self>, size: u64, make: MakeFile) -> Result<(u64, Version)> {
        let file = Arc::clone(self);
        let work = async move { file.commit.run(file.truncate_holding_commit(size, make)).await };
        self.shared.finish(work).await
    }

    async fn truncate_holding_commit(&self, size: u64, make: MakeFile) -> Result<(u64, Version)> {
        for _ in 0..ROUNDS_MAX {
            let seen = self.refresh_holding_commit().await?;
            let base = match (&seen, make) {
                (Some(_), MakeFile::Exclusive) => return Err(exists(&self.path)),
                (Some(stat), MakeFile::IfMissingLeave) => return Ok((stat.size, stat.version.clone())),
                (None, MakeFile::Never) => return Err(self.gone_error()),
                (None, _) => Base::Missing,
                (Some(stat), _) => Base::At { version: stat.version.clone(), size: stat.size },
            };
            if matches!(base, Base::At { .. }) && self.state.read().stale {
                return Err(self.stale_error());
            }
            // Also where there is nothing to do: whether a mount can be written is no matter of sizes.
            self.require_writable().await?;
            if let Some(stat) = seen.filter(|stat| stat.size == size) {
                return Ok((size, stat.version));
            }
            match self.write_size(base, size).await {
                Ok(version) => return Ok((size, version)),
                Err(StoreFault::Changed | StoreFault::Missing | StoreFault::Exists) => {}
                Err(fault) => return Err(fault.into_error(&self.path)),
            }
        }
        Err(self.unsteady_error())
    }

    async fn write_size(&self, base: Base, size: u64) -> StoreResult<Version> {
        let store = self.location.mount.store();
        let max = store.traits().max_file_size;
        if size > max {
            return Err(StoreFault::TooLarge { max });
        }
        let made = matches!(base, Base::Missing);
        let _room = self.room_for(size.min(self.size())).await;
        let ((change, said), guard) = {
            let mut state = self.state.write();
            (self.begin(&mut state, base, Some(size), Vec::new()), CutGuard { file: self, cut: Cut::default() })
        };
        self.attempt_journaled(said).await;
        let stat = store.write_back(&self.location.name, change).await?;
        let version = stat.version.clone();
        let said = {
            let mut state = self.state.write();
            state.committing = false;
            state.attempts.clear();
            if made {
                // Whatever was clean before belonged to a file that is gone.
                state.replace(&self.shared.cache, self.shared.new_content(), Some(&stat))
            } else {
                state.advance(&self.shared.cache, stat.size, stat.version, &[])
            }
        };
        drop(guard);
        self.moved_journaled(said).await;
        Ok(version)
    }

    /// Removes the file from the store. Cancel safe: what was begun is finished.
    ///
    /// # Errors
    /// EBUSY while it is mapped or has unsynced pages, ENOENT, EROFS, EIO.
    pub async fn remove(self: &Arc<Self>) -> Result<()> {
        let file = Arc::clone(self);
        let work = async move { file.commit.run(file.remove_holding_commit()).await };
        self.shared.finish(work).await
    }

    async fn remove_holding_commit(&self) -> Result<()> {
        if self.refresh_holding_commit().await?.is_none() {
            return Err(self.gone_error());
        }
        self.require_writable().await?;
        let _closed = self.close_to_mappings()?;
        let removed = self.location.mount.store().remove(&self.location.name).await;
        removed.map_err(|fault| fault.into_error(&self.path))?;
        self.refresh_holding_commit().await.map(|_| ())
    }

    /// Lets no mapping be made until the guard is dropped.
    fn close_to_mappings(&self) -> Result<ClosedGuard<'_>> {
        let (path, mut state) = (&self.path, self.state.write());
        let (mapped_by, dirty) = (state.mappings.len(), state.unsynced_bytes(WHOLE));
        if mapped_by > 0 {
            return Err(Error::new(Errno::Busy, format!("{path} is mapped by {mapped_by} mappings: unmap it first"))
                .with("path", path)
                .with("mapped_by", mapped_by));
        }
        if dirty > 0 {
            return Err(Error::new(
                Errno::Busy,
                format!("{path} has {dirty} unsynced bytes of ended processes that wait to be stored"),
            )
            .with("path", path)
            .with("dirty_bytes", dirty));
        }
        state.removing = true;
        Ok(ClosedGuard(self))
    }
}

/// While it lives, the file is being removed and no mapping of it can be made.
struct ClosedGuard<'a>(&'a File);

impl Drop for ClosedGuard<'_> {
    fn drop(&mut self) {
        self.0.state.write().removing = false;
    }
}

/// What [`File::truncate`] does about a missing file, and about one that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MakeFile {
    /// ENOENT if it is missing.
    Never,
    /// Make it; resize it if it is there.
    IfMissing,
    /// Make it; leave it alone if it is there.
    IfMissingLeave,
    /// Make it; EEXIST if it is there.
    Exclusive,
}

fn exists(path: &crate::path::FilePath) -> Error {
    Error::new(Errno::Exist, format!("{path} is there already")).with("path", path)
}

fn push_patches(
    patches: &mut Vec<Patch>,
    block: BlockIndex,
    pages: PageMask,
    size: u64,
    dirty: bool,
    data: impl Fn(std::ops::Range<usize>) -> Bytes,
) {
    let start = block.range().start();
    for run in pages.runs() {
        let bytes = ByteRange::new(start + run.start as u64, (start + run.end as u64).min(size));
        if !bytes.is_empty() {
            patches.push(Patch { offset: bytes.start(), data: data(bytes.within(block)), dirty });
        }
    }
}
