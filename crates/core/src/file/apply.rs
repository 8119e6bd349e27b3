//! Pages that were kept aside, put onto the file's present content and stored: as if somebody wrote them now and
//! synced at once, but in one change of the store, all or nothing, the file's growth included.
//!
//! The pages go from where they were kept to the store without becoming dirty pages here. So an attempt that fails
//! leaves nothing behind, and one whose answer was lost only makes what is clean in memory old.

use std::sync::Arc;

use super::File;
use super::state::{Attempt, FileState};
use super::write::covered_pages;
use crate::aside::KeptRun;
use crate::error::Result;
use crate::journal::Lsn;
use crate::journal::record::BlockPages;
use crate::units::{BlockIndex, ByteRange, PAGE_SIZE, PageMask};
use crate::vfs::{Base, CommitId, Patch, Stat, StoreFault, StoreResult, Version, WriteBack};

/// How often it starts over because the store was faster.
const ROUNDS_MAX: u32 = 8;

/// The change is not under way any more, whatever became of it.
struct Committing<'a>(&'a File);

impl Drop for Committing<'_> {
    fn drop(&mut self) {
        self.0.state.write().committing = false;
    }
}

impl File {
    /// Stores `runs` (in order, without overlaps, within `file_size`) on top of what the store has. A shorter file
    /// grows as far as they reach, a missing one is made `file_size` bytes long. Answers its size and version.
    /// Cancel safe: what was begun is finished.
    ///
    /// # Errors
    /// ESTALE while the file has unsynced pages of an older version, EROFS, EINVAL (too large), EIO. Then the store
    /// has all of it or nothing.
    pub async fn apply(self: &Arc<Self>, runs: Vec<KeptRun>, file_size: u64) -> Result<(u64, Version)> {
        let file = Arc::clone(self);
        let work = async move { file.commit.run(file.apply_holding_commit(&runs, file_size)).await };
        self.shared.finish(work).await
    }

    async fn apply_holding_commit(&self, runs: &[KeptRun], file_size: u64) -> Result<(u64, Version)> {
        for _ in 0..ROUNDS_MAX {
            let seen = self.refresh_holding_commit().await?;
            if self.state.read().stale {
                return Err(self.stale_error());
            }
            self.require_writable().await?;
            match self.store_runs(seen, runs, file_size).await {
                Ok(done) => return Ok(done),
                Err(StoreFault::Changed | StoreFault::Missing | StoreFault::Exists) => {}
                Err(fault) => return Err(fault.into_error(&self.path)),
            }
        }
        Err(self.unsteady_error())
    }

    async fn store_runs(&self, seen: Option<Stat>, runs: &[KeptRun], file_size: u64) -> StoreResult<(u64, Version)> {
        let store = self.location.mount.store();
        let reach = runs.last().map_or(0, |run| run.offset + run.data.len() as u64);
        let (base, size) = match seen {
            Some(stat) => (Base::At { version: stat.version, size: stat.size }, stat.size.max(reach)),
            None => (Base::Missing, file_size),
        };
        let max = store.traits().max_file_size;
        if size > max {
            return Err(StoreFault::TooLarge { max });
        }
        let made = base == Base::Missing;
        let patches =
            runs.iter().map(|run| Patch { offset: run.offset, data: run.data.clone(), dirty: true }).collect();
        let commit = CommitId::random();
        let (said, under_way) = {
            let mut state = self.state.write();
            state.committing = true;
            (state.remember(Attempt { commit, size, outdates: true }), Committing(self))
        };
        self.attempt_journaled(said).await;
        let stat = store.write_back(&self.location.name, WriteBack { base, size, patches, commit }).await?;
        let version = stat.version.clone();
        let said = self.show_runs(runs, stat, made);
        drop(under_way);
        self.moved_journaled(said).await;
        Ok((size, version))
    }

    /// The store has the runs: from this moment on every mapping shows them, and unsynced writes to pages that they
    /// cover are overwritten, as by any other write.
    fn show_runs(&self, runs: &[KeptRun], stat: Stat, made: bool) -> Lsn {
        let mut guard = self.state.write();
        let state = &mut *guard;
        state.committing = false;
        state.attempts.clear();
        let content = self.shared.new_content();
        if made {
            return state.replace(&self.shared.cache, content, Some(&stat));
        }
        let mut stored = Vec::new();
        for range in runs.iter().map(range_of) {
            for block in range.blocks() {
                let Some(dirty) = state.dirty.get_mut(&block) else { continue };
                let pages = covered_pages(range, block, stat.size).intersect(dirty.unsynced());
                if pages.is_empty() {
                    continue;
                }
                dirty.forget(pages);
                stored.push(BlockPages::new(block, pages));
                if dirty.unsynced().is_empty() {
                    state.dirty.remove(&block);
                }
            }
        }
        state.drop_clean(content);
        let size = stat.size;
        let said = state.advance(&self.shared.cache, size, stat.version, &stored);
        runs.last().map_or(said, |last| said.max(patch_last_page(state, last, size)))
    }
}

/// The last page of a file that has grown since reaches farther than what was kept of it. If it has unsynced writes
/// the kept bytes go onto it and it stays unsynced, so that what lies behind them is not lost.
fn patch_last_page(state: &mut FileState, last: &KeptRun, size: u64) -> Lsn {
    let range = range_of(last);
    let start = range.end() - range.end() % PAGE_SIZE;
    let kept = ByteRange::new(start.max(range.start()), range.end());
    let block = BlockIndex::of(start);
    let page = PageMask::touched(kept.within(block));
    if kept.is_empty() || range.end() == size {
        return Lsn::NONE;
    }
    let Some(dirty) = state.dirty.get_mut(&block).filter(|dirty| dirty.unsynced().contains(page)) else {
        return Lsn::NONE;
    };
    // A part of the run, whose length is a usize.
    let at = usize::try_from(kept.start() - range.start()).unwrap_or_default();
    dirty.write(kept.within(block), PageMask::NONE, |part| part.copy_from_slice(&last.data[at..]));
    state.say_written(None, kept)
}

fn range_of(run: &KeptRun) -> ByteRange {
    ByteRange::new(run.offset, run.offset + run.data.len() as u64)
}
