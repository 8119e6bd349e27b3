//! A file after the server was away, and what a checkpoint says of it.

use std::collections::btree_map::Entry;
use std::sync::Arc;

use super::registered::{MapUse, Registered};
use super::state::Attempt;
use super::{File, WHOLE};
use crate::block::DirtyBlock;
use crate::caller::MmapId;
use crate::error::{Errno, Error, Result};
use crate::journal::replay::LiveFile;
use crate::journal::{Journal, Lsn};
use crate::overlay::Spilled;
use crate::spill::InHand;
use crate::units::{BLOCK_SIZE, BlockIndex, ByteRange, PAGE_SIZE, PageIndex, PageMask};
use crate::vfs::Stat;

/// Mappings, private pages or blocks that are said between two looks at how far the journal's writer is.
const SAID_AT_ONCE: usize = 64;

/// Whether a page's bytes are the store's at `part` of a block, of which it has `stored`; zeros are behind its end.
fn is_same(page: &[u8], stored: &[u8], part: std::ops::Range<usize>) -> bool {
    let there = stored.get(part.start.min(stored.len())..part.end.min(stored.len())).unwrap_or_default();
    let (head, tail) = page.split_at(there.len().min(page.len()));
    !there.is_empty() && head == there && tail.iter().all(|byte| *byte == 0)
}

/// Spilled pages of a private mapping.
type Pages = Vec<(PageIndex, Spilled)>;

impl File {
    /// Takes up what the file was when the server ended. Its store is asked later: see [`File::settle`].
    ///
    /// # Errors
    /// ENOMEM if the memory for unsynced pages does not suffice.
    pub fn restore(&self, live: LiveFile) -> Result<()> {
        let mut state = self.state.write();
        (state.base, state.size) = (live.version, live.size);
        state.unsettled = !live.unsynced.is_empty();
        state.attempts =
            live.attempts.into_iter().map(|(commit, size)| Attempt { commit, size, outdates: false }).collect();
        for (page, data) in live.unsynced {
            let block = BlockIndex::of(page.range().start());
            let part = page.range().within(block);
            let dirty = match state.dirty.entry(block) {
                Entry::Occupied(dirty) => dirty.into_mut(),
                Entry::Vacant(place) => {
                    let memory = self.parts.dirty.try_take(BLOCK_SIZE).ok_or_else(|| self.does_not_fit())?;
                    place.insert(DirtyBlock::new(None, memory))
                }
            };
            let written = part.start..part.start + data.len();
            dirty.write(written, PageMask::covered(part), |bytes| bytes.copy_from_slice(&data));
        }
        Ok(())
    }

    fn does_not_fit(&self) -> Error {
        Error::new(
            Errno::NoMem,
            format!(
                "the unsynced pages of {} in the journal are more than the memory for unsynced bytes: start with a \
                 larger --memory",
                self.path
            ),
        )
        .with("path", &self.path)
        .with("max", self.parts.dirty.total())
    }

    /// Takes up a mapping as it was, whatever has become of the file.
    pub fn restore_mapping(&self, id: MmapId, mapping: Registered) {
        if let MapUse::Private(overlay) = &mapping.usage {
            self.shared.private.enroll(overlay);
        }
        self.state.write().enter(id, mapping);
    }

    /// Makes unsynced pages that no mapping left will sync the write-back task's to store.
    pub fn find_orphans(&self) {
        let mut state = self.state.write();
        let orphans: Vec<_> = state
            .unsynced_pages(WHOLE)
            .into_iter()
            .map(|(page, _)| page)
            .filter(|page| !state.written_by_others(*page, None))
            .map(PageIndex::range)
            .collect();
        state.orphans.extend(crate::units::PageSet::of(&orphans).ranges());
    }

    /// Whether its store has not been asked since the server was away.
    pub fn is_unsettled(&self) -> bool {
        self.state.read().unsettled
    }

    /// Asks the store what it has since the server was away. If the file changed there, everything that is
    /// unsynced is kept aside, and the file is what the store has. Cancel safe: what was begun is finished.
    ///
    /// # Errors
    /// The store's; EIO if the state directory cannot take the pages. Then it is to be asked again.
    pub async fn settle(self: &Arc<Self>) -> Result<()> {
        if !self.is_unsettled() {
            return Ok(());
        }
        let file = Arc::clone(self);
        self.shared.finish(async move { file.commit.run(file.settle_holding_commit()).await }).await
    }

    async fn settle_holding_commit(&self) -> Result<()> {
        let seen = self.refresh_holding_commit().await?;
        if let Some(seen) = seen.filter(|_| self.is_stale()) {
            self.give_up_what_is_stored(&seen).await?;
        }
        if self.is_stale() {
            self.keep_aside(WHOLE, "the file changed in its store while the server was away", |state| {
                state.forget(WHOLE, |_| true);
            })
            .await?;
        }
        self.refresh_holding_commit().await?;
        self.state.write().unsettled = false;
        Ok(())
    }

    /// Unsynced pages that the store has just so are no conflict: they were stored, and the journal did not learn
    /// of it, because its disk failed or lost power.
    async fn give_up_what_is_stored(&self, seen: &Stat) -> Result<()> {
        let blocks: Vec<BlockIndex> = self.state.read().unsynced_in(WHOLE).map(|(block, ..)| block).collect();
        for block in blocks {
            let range = block.range().intersect(ByteRange::new(0, seen.size));
            if range.is_empty() {
                continue;
            }
            let stored = self.location.mount.store().read(&self.location.name, &seen.version, range).await;
            let stored = stored.map_err(|fault| fault.into_error(&self.path))?.concat();
            let mut state = self.state.write();
            let same: Vec<PageIndex> = state
                .unsynced_pages(block.range())
                .into_iter()
                .filter(|(page, data)| is_same(data, &stored, page.range().within(block)))
                .map(|(page, _)| page)
                .collect();
            state.forget(block.range(), |page| same.contains(&page));
        }
        Ok(())
    }

    /// Says in the journal everything that holds, a piece at a time.
    ///
    /// # Errors
    /// EIO if the journal has failed, EDQUOT if its disk is full.
    pub async fn say_again(&self, journal: &Journal) -> Result<()> {
        let mut next = Some(MmapId(0));
        while let Some(from) = next {
            let (said, last) = self.state.read().say_again(from, SAID_AT_ONCE);
            journal.acknowledged(said).await?;
            next = last.map(|last| MmapId(last.0 + 1));
        }
        let (blocks, private): (Vec<BlockIndex>, Vec<MmapId>) = {
            let state = self.state.read();
            let private =
                |(id, mapping): (&MmapId, &Registered)| matches!(mapping.usage, MapUse::Private(_)).then_some(*id);
            (state.dirty.keys().copied().collect(), state.mappings.iter().filter_map(private).collect())
        };
        // One at a time: a block that is clean by now needs no word, and one that became dirty has its own.
        for some in blocks.chunks(SAID_AT_ONCE / 16) {
            has_room(journal, some.len() as u64 * BLOCK_SIZE).await?;
            let said = some.iter().map(|block| self.state.read().say_block_again(*block)).max();
            journal.acknowledged(said.unwrap_or(Lsn::NONE)).await?;
        }
        for id in private {
            self.say_private_again(journal, id).await?;
        }
        Ok(())
    }

    async fn say_private_again(&self, journal: &Journal, id: MmapId) -> Result<()> {
        let mut next = Some(PageIndex(0));
        while let Some(from) = next {
            has_room(journal, SAID_AT_ONCE as u64 * PAGE_SIZE).await?;
            let Some((said, spilled, more)) = self.say_present_again(id, from) else { break };
            journal.acknowledged(said).await?;
            if !spilled.is_empty() {
                self.say_spilled_again(journal, id, spilled).await?;
            }
            next = more;
        }
        Ok(())
    }

    /// `None`: the mapping is gone.
    fn say_present_again(&self, id: MmapId, from: PageIndex) -> Option<(Lsn, Pages, Option<PageIndex>)> {
        let state = self.state.read();
        let Registered { usage: MapUse::Private(overlay), .. } = state.mappings.get(&id)? else { return None };
        let mut said = Lsn::NONE;
        let (spilled, next) = overlay.say_again(from, SAID_AT_ONCE, |pages| {
            said = state.log.copied(None, id, pages);
            said
        });
        Some((said, spilled, next))
    }

    async fn say_spilled_again(&self, journal: &Journal, id: MmapId, spilled: Pages) -> Result<()> {
        let mut in_hand = InHand::default();
        in_hand.bring(spilled.iter().map(|(_, page)| page.slot()).collect()).await?;
        let mut said = Lsn::NONE;
        {
            let state = self.state.read();
            let Some(Registered { usage: MapUse::Private(overlay), .. }) = state.mappings.get(&id) else {
                return Ok(());
            };
            for (page, spilled) in &spilled {
                overlay.say_spilled(*page, spilled, &in_hand, |pages| {
                    said = state.log.copied(None, id, pages);
                    said
                });
            }
        }
        journal.acknowledged(said).await
    }
}

/// Whether the journal has room for `bytes` of pages, and for as much again: the records of syncs, which make what
/// holds less, must not wait behind a checkpoint that the disk has no room for.
///
/// # Errors
/// EDQUOT if its disk is full.
async fn has_room(journal: &Journal, bytes: u64) -> Result<()> {
    journal.check_room(bytes.saturating_mul(2)).await
}
