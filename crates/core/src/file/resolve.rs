//! What to do with unsynced pages whose file changed in its store: put them onto the new content, give them
//! up, or keep them aside. Nothing here drops a page that was not asked to be dropped or kept elsewhere first.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::commit::SyncOutcome;
use super::state::FileState;
use super::{File, WHOLE};
use crate::aside::AsidePages;
use crate::caller::ProcessKey;
use crate::error::{Errno, Error, Result};
use crate::journal::Lsn;
use crate::units::{ByteRange, MAX_OFFSET, PageIndex};
use crate::vfs::Stat;

/// How often a resolution starts over because the store or a writer was faster.
const TRIES_MAX: u32 = 16;

impl File {
    /// As [`File::sync`]; if the file changed in the store, all of its unsynced pages are put onto the new
    /// content first. That content's size wins: pages behind it are kept aside. Cancel safe: what was begun
    /// is finished.
    ///
    /// # Errors
    /// ENOENT if the file is gone from the store, EROFS, EIO, EUCLEAN.
    pub async fn sync_force(self: &Arc<Self>, ranges: Vec<ByteRange>) -> Result<SyncOutcome> {
        let file = Arc::clone(self);
        let work = async move { file.commit.run(file.force_holding_commit(&ranges)).await };
        self.shared.finish(work).await
    }

    async fn force_holding_commit(&self, ranges: &[ByteRange]) -> Result<SyncOutcome> {
        for _ in 0..TRIES_MAX {
            match self.sync_holding_commit(ranges).await {
                Err(error) if error.errno() == Errno::Stale => {}
                result => return result,
            }
            let Some(seen) = self.refresh_holding_commit().await? else { return Err(self.gone_error()) };
            self.rebase(&seen).await?;
        }
        Err(self.unsteady_error())
    }

    /// Puts the unsynced pages onto `seen`; those behind its end are kept aside.
    async fn rebase(&self, seen: &Stat) -> Result<()> {
        let behind = ByteRange::new(seen.size.next_multiple_of(crate::units::PAGE_SIZE), MAX_OFFSET);
        self.keep_aside(behind, "the file became shorter in its store", |state| {
            if state.stale {
                state.replace(&self.shared.cache, self.shared.new_content(), Some(seen));
            }
        })
        .await
    }

    /// Keeps the unsynced pages of `range` aside, and runs `then` under the lock in the moment in which all of
    /// them, as they are then, have been kept.
    pub(super) async fn keep_aside(&self, range: ByteRange, why: &str, then: impl Fn(&mut FileState)) -> Result<()> {
        let mut kept: BTreeMap<PageIndex, Bytes> = BTreeMap::new();
        for _ in 0..TRIES_MAX {
            let (new, base_version, file_size) = {
                let mut state = self.state.write();
                let is_new = |(page, data): &(PageIndex, Bytes)| kept.get(page) != Some(data);
                let new: Vec<_> = state.unsynced_pages(range).into_iter().filter(is_new).collect();
                if new.is_empty() {
                    then(&mut state);
                    return Ok(());
                }
                let base = state.base.as_ref().map(|version| version.as_str().to_owned()).unwrap_or_default();
                (new, base, state.size)
            };
            let pages = AsidePages {
                path: self.path.as_str().to_owned(),
                base_version,
                file_size,
                why: why.to_owned(),
                pages: new.clone(),
            };
            self.shared.aside.keep(pages).await?;
            kept.extend(new);
        }
        Err(Error::new(Errno::Io, format!("{}: its unsynced pages change faster than they can be kept", self.path))
            .with("path", &self.path))
    }

    /// Makes the next read of the file see the store. Unsynced pages of `range` are synced first; if the file
    /// changed in the store they are given up. Cancel safe: what was begun is finished.
    ///
    /// # Errors
    /// EBUSY while a process other than `process` may write any page that would be given up; ESTALE if the
    /// file changed and has unsynced pages outside of `range`; those of a sync. Nothing is given up then.
    pub async fn invalidate(self: &Arc<Self>, range: ByteRange, process: ProcessKey) -> Result<SyncOutcome> {
        let file = Arc::clone(self);
        let work = async move { file.commit.run(file.invalidate_holding_commit(range, &process)).await };
        self.shared.finish(work).await
    }

    async fn invalidate_holding_commit(&self, range: ByteRange, process: &ProcessKey) -> Result<SyncOutcome> {
        for _ in 0..TRIES_MAX {
            self.refresh_holding_commit().await?;
            if self.state.read().stale {
                let said = self.give_up(range, process)?;
                self.shared.journaled(said).await?;
                continue;
            }
            match self.sync_holding_commit(&[range]).await {
                Err(error) if error.errno() == Errno::Stale => {}
                Err(error) => return Err(error),
                Ok(synced) => {
                    self.state.write().drop_clean(self.shared.new_content());
                    return Ok(synced);
                }
            }
        }
        Err(self.unsteady_error())
    }

    /// Gives up the unsynced pages of `range` of a stale file, if that makes it whole again.
    fn give_up(&self, range: ByteRange, process: &ProcessKey) -> Result<Lsn> {
        let mut state = self.state.write();
        let range = range.page_aligned();
        if state.unsynced_bytes(WHOLE) != state.unsynced_bytes(range) {
            drop(state);
            return Err(self.stale_error());
        }
        self.check_given_up(&state, range, process)?;
        Ok(state.forget(range, |_| true))
    }

    fn check_given_up(&self, state: &FileState, range: ByteRange, process: &ProcessKey) -> Result<()> {
        let others = |(page, _): &(PageIndex, Bytes)| state.written_by_others(*page, Some(process));
        let Some((page, _)) = state.unsynced_pages(range).into_iter().find(others) else { return Ok(()) };
        let offset = page.range().start();
        Err(Error::new(
            Errno::Busy,
            format!(
                "{}: another process may have written the unsynced page at {offset}, which would be dropped",
                self.path
            ),
        )
        .with("path", &self.path)
        .with("offset", offset))
    }

    /// Whether [`File::discard`] would be allowed now.
    ///
    /// # Errors
    /// EBUSY.
    pub fn check_discard(&self, ranges: &[ByteRange], process: &ProcessKey) -> Result<()> {
        let state = self.state.read();
        ranges.iter().try_for_each(|range| self.check_given_up(&state, range.page_aligned(), process))
    }

    /// Gives up the unsynced pages of `ranges`. With `process`, not while another process may write any of
    /// them. Cancel safe: all or nothing.
    ///
    /// # Errors
    /// EBUSY.
    pub async fn discard(&self, ranges: &[ByteRange], process: Option<&ProcessKey>) -> Result<()> {
        let _commit = self.commit.turn().await;
        // An attempt of ours that landed unseen would be taken for somebody else's change once its pages are
        // given up. If the store does not answer now, that is what happens: a conflict, and nothing lost.
        if !self.state.read().attempts.is_empty()
            && let Err(error) = self.refresh_holding_commit().await
        {
            tracing::warn!(path = %self.path, ?error, "the fate of an earlier write-back is not known");
        }
        let said = {
            let mut state = self.state.write();
            for range in ranges {
                if let Some(process) = process {
                    self.check_given_up(&state, range.page_aligned(), process)?;
                }
            }
            ranges.iter().map(|range| state.forget(range.page_aligned(), |_| true)).max().unwrap_or(Lsn::NONE)
        };
        self.shared.journaled(said).await
    }

    /// Stores what ended processes left unsynced; what cannot be stored because the file changed in the store
    /// is kept aside. Pages that a living process can still sync stay with it too.
    ///
    /// # Errors
    /// Those of a sync, ESTALE excepted; what is left stays to be stored.
    pub async fn store_orphans(self: &Arc<Self>) -> Result<()> {
        let ranges = self.state.read().orphans.clone();
        if ranges.is_empty() {
            return Ok(());
        }
        match self.sync(ranges.clone()).await {
            Err(error) if error.errno() == Errno::Stale => self.set_aside(ranges.clone()).await?,
            result => drop(result?),
        }
        let mut state = self.state.write();
        let FileState { orphans, dirty, .. } = &mut *state;
        if dirty.is_empty() {
            orphans.clear();
        } else {
            // Ranges that came in since stay; one that came twice is synced twice, which costs nothing.
            orphans.drain(..ranges.len().min(orphans.len()));
        }
        Ok(())
    }

    async fn set_aside(self: &Arc<Self>, ranges: Vec<ByteRange>) -> Result<()> {
        let file = Arc::clone(self);
        let work = async move {
            let _commit = file.commit.turn().await;
            for range in ranges {
                let range = range.page_aligned();
                file.keep_aside(range, "the file changed in its store", |state| {
                    let kept: Vec<PageIndex> = state
                        .unsynced_pages(range)
                        .into_iter()
                        .map(|(page, _)| page)
                        .filter(|page| !state.written_by_others(*page, None))
                        .collect();
                    state.forget(range, |page| kept.binary_search(&page).is_ok());
                })
                .await?;
            }
            file.refresh_holding_commit().await.map(|_| ())
        };
        self.shared.finish(work).await
    }

    /// Keeps everything that is unsynced aside, because nobody will store it any more, also what is on its way
    /// to a store that does not answer. Answers the bytes.
    ///
    /// # Errors
    /// EIO if the state directory cannot take them.
    pub async fn abandon(&self, why: &str) -> Result<u64> {
        let bytes = self.dirty_bytes();
        self.keep_aside(WHOLE, why, |_| {}).await?;
        Ok(bytes)
    }
}
