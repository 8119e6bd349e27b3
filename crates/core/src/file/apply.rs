//! Pages that were kept aside, put onto the file's present content and stored: as if somebody wrote them now and
//! synced at once, but in one change of the store, all or nothing, the file's growth included.
//!
//! The pages go from where they were kept to the store without becoming dirty pages here. So an attempt that fails
//! leaves nothing behind, and one whose answer was lost only makes what is clean in memory old.

use std::sync::Arc;

use super::File;
use super::state::Attempt;
use crate::aside::KeptRun;
use crate::error::Result;
use crate::units::{ByteRange, PageMask};
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
        let under_way = {
            let mut state = self.state.write();
            state.committing = true;
            state.remember(Attempt { commit, size, outdates: true });
            Committing(self)
        };
        let stat = store.write_back(&self.location.name, WriteBack { base, size, patches, commit }).await?;
        let version = stat.version.clone();
        self.show_runs(runs, stat, made);
        drop(under_way);
        Ok((size, version))
    }

    /// The store has the runs: from this moment on every mapping shows them.
    fn show_runs(&self, runs: &[KeptRun], stat: Stat, made: bool) {
        let mut guard = self.state.write();
        let state = &mut *guard;
        state.committing = false;
        state.attempts.clear();
        let content = self.shared.new_content();
        if made {
            state.replace(&self.shared.cache, content, Some(&stat));
        } else {
            state.drop_clean(content);
            state.advance(&self.shared.cache, stat.size, stat.version);
        }
        // A page with unsynced writes is not fetched again: the kept bytes go onto it, and it stays unsynced, so
        // that of a page which reaches farther than they do nothing is lost.
        for run in runs {
            let range = ByteRange::new(run.offset, run.offset + run.data.len() as u64);
            for block in range.blocks() {
                let Some(dirty) = state.dirty.get_mut(&block) else { continue };
                for part in PageMask::touched(range.within(block)).intersect(dirty.unsynced()).runs() {
                    let start = block.range().start();
                    let here = range.intersect(ByteRange::new(start + part.start as u64, start + part.end as u64));
                    // Both are parts of the run, whose length is a usize.
                    let at = usize::try_from(here.start() - run.offset).unwrap_or_default();
                    let length = usize::try_from(here.len()).unwrap_or_default();
                    dirty.write(here.within(block).start, &run.data[at..at + length], PageMask::NONE);
                }
            }
        }
    }
}
