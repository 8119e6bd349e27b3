//! What [`FileState`] says in the journal of writes and mappings, and what it says again at a checkpoint. What the
//! store has is said by the methods of `state` that take it over.

use smallvec::SmallVec;

use super::registered::Registered;
use super::state::FileState;
use crate::caller::MmapId;
use crate::journal::record::BlockPages;
use crate::journal::{Lsn, Room};
use crate::units::{BlockIndex, ByteRange, PageMask};

impl FileState {
    /// Says what the pages that a write touched are now. Readers of these blocks wait for it.
    pub(super) fn say_written(&mut self, room: Option<Room>, range: ByteRange) -> Lsn {
        if self.log.is_silent() {
            return Lsn::NONE;
        }
        let lsn = {
            let written = range.blocks().filter_map(|block| {
                let pages = BlockPages::new(block, PageMask::touched(range.within(block)));
                self.dirty.get(&block).map(|dirty| (pages, dirty))
            });
            let written: SmallVec<[_; 4]> = written.collect();
            self.log.written(room, self.base.as_ref(), self.size, &written)
        };
        for block in range.blocks() {
            if let Some(dirty) = self.dirty.get_mut(&block) {
                dirty.said = lsn;
            }
        }
        lsn
    }

    /// Says again which pages of a block are unsynced.
    pub(super) fn say_block_again(&self, block: BlockIndex) -> Lsn {
        let Some(dirty) = self.dirty.get(&block) else { return Lsn::NONE };
        let pages = BlockPages::new(block, dirty.unsynced());
        self.log.written(None, self.base.as_ref(), self.size, &[(pages, dirty)])
    }

    /// Says again what the file is, which changes are on their way, and who maps it, from the mapping `from` on,
    /// `count` of them at most. Answers the last one's id.
    pub(super) fn say_again(&self, from: MmapId, count: usize) -> (Lsn, Option<MmapId>) {
        if !self.is_kept() {
            return (Lsn::NONE, None);
        }
        let mut said = self.say_content();
        let mut last = None;
        for (id, mapping) in self.mappings.range(from..).take(count) {
            (said, last) = (self.log.mapped(*id, mapping), Some(*id));
        }
        (said, last)
    }

    /// Says what the file is and which changes are on their way.
    fn say_content(&self) -> Lsn {
        // Not settled while there are attempts, though they are said next: the server may be killed between.
        let moved = self.log.moved(self.base.as_ref(), self.size, &[], self.attempts.is_empty());
        self.attempts.iter().map(|attempt| self.log.attempt(attempt.commit, attempt.size)).max().unwrap_or(moved)
    }

    /// Enters a mapping.
    pub(super) fn enter(&mut self, id: MmapId, mapping: Registered) -> Lsn {
        let first = !self.is_kept();
        let lsn = self.log.mapped(id, &mapping);
        self.mappings.insert(id, mapping);
        // From the first on the journal has to know of the file.
        if first { self.say_content() } else { lsn }
    }

    /// Takes a mapping off.
    pub(super) fn leave(&mut self, id: MmapId) -> Option<(Registered, Lsn)> {
        let mapping = self.mappings.remove(&id)?;
        Some((mapping, self.log.unmapped(id)))
    }
}
