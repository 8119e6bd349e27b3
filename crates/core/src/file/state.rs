//! [`FileState`]: what is known of a file, under its lock. Pure: no I/O, nothing awaited.
//!
//! Invariants:
//! - every clean byte in memory that is reachable under `content` equals the store's at `base`;
//! - `size` is the size of `base`: a write never changes it;
//! - a block is in `dirty` exactly while it has unsynced pages, and then it is not in the cache;
//! - `stale` holds only while there are unsynced pages;
//! - what must survive the server is said in the journal by the very method that changes it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Weak;

use bytes::Bytes;

use super::flight::Flight;
use super::log::FileLog;
use super::registered::{MapUse, Registered};
use crate::block::DirtyBlock;
use crate::cache::{BlockCache, ContentId};
use crate::caller::{MmapId, ProcessKey};
use crate::journal::Lsn;
use crate::journal::record::BlockPages;
use crate::units::{BLOCK_SIZE, BlockIndex, ByteRange, PAGE_LEN, PAGE_SIZE, PageIndex, PageMask};
use crate::vfs::{CommitId, Stat, Version};

/// Attempts whose fate is unknown that are remembered: more than a store can hold back at once.
const ATTEMPTS_MAX: usize = 64;

/// A change of the file in the store whose answer was not seen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attempt {
    pub(super) commit: CommitId,
    pub(super) size: u64,
    /// It changes bytes that memory does not have: if it took effect, what is clean in memory is old.
    pub(super) outdates: bool,
}

/// What is known of a file.
#[derive(Debug)]
pub(super) struct FileState {
    pub(super) content: ContentId,
    /// What the store had when last seen; `None` if the file was not there.
    pub(super) base: Option<Version>,
    pub(super) size: u64,
    /// Counts the changes of `base`.
    pub(super) generation: u64,
    pub(super) dirty: BTreeMap<BlockIndex, DirtyBlock>,
    pub(super) flights: HashMap<BlockIndex, Weak<Flight>>,
    pub(super) attempts: VecDeque<Attempt>,
    /// The store's content changed under unsynced pages.
    pub(super) stale: bool,
    /// A change is on its way to the store.
    pub(super) committing: bool,
    /// The file is being removed: no mapping can be made.
    pub(super) removing: bool,
    pub(super) mappings: BTreeMap<MmapId, Registered>,
    /// Ranges that processes left unsynced when they ended.
    pub(super) orphans: Vec<ByteRange>,
    /// The server was away, and it is not known yet what the store has now.
    pub(super) unsettled: bool,
    pub(super) log: FileLog,
}

/// What an observation of the store meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Observed {
    /// The store has what is known, or what we put there ourselves.
    Current,
    /// The store had something else; the file is that now.
    Replaced,
    /// The store has something else, and there are unsynced pages.
    Conflict,
    /// The observation is older than what is known: look again.
    Outdated,
    /// Perhaps our own change that is under way: look again when it has ended.
    Undecided,
}

/// Where a block's bytes are.
pub(super) enum Found<'a> {
    Dirty(&'a DirtyBlock),
    Clean(Bytes),
    Missing,
}

impl FileState {
    pub(super) fn new(content: ContentId, log: FileLog) -> Self {
        Self {
            content,
            base: None,
            size: 0,
            generation: 0,
            dirty: BTreeMap::new(),
            flights: HashMap::new(),
            attempts: VecDeque::new(),
            stale: false,
            committing: false,
            removing: false,
            mappings: BTreeMap::new(),
            orphans: Vec::new(),
            unsettled: false,
            log,
        }
    }

    /// Whether the journal has to know of the file.
    pub(super) fn is_kept(&self) -> bool {
        !self.mappings.is_empty() || !self.dirty.is_empty()
    }

    /// Behind the last page that has bytes of the file: touching a page from here on is SIGBUS.
    pub(super) fn mapped_end(&self) -> u64 {
        self.size.next_multiple_of(PAGE_SIZE)
    }

    /// Where the pages `touched` of a block are.
    pub(super) fn find(&self, cache: &BlockCache, block: BlockIndex, touched: PageMask) -> Found<'_> {
        if !self.dirty.is_empty()
            && let Some(dirty) = self.dirty.get(&block)
        {
            return if dirty.valid().contains(touched) { Found::Dirty(dirty) } else { Found::Missing };
        }
        self.find_clean(cache, block).map_or(Found::Missing, Found::Clean)
    }

    /// The clean bytes of a block that is not dirty.
    pub(super) fn find_clean(&self, cache: &BlockCache, block: BlockIndex) -> Option<Bytes> {
        let landed = || self.flights.get(&block).and_then(Weak::upgrade).and_then(|flight| flight.block());
        cache.get(self.content, block).or_else(landed)
    }

    /// Unsynced pages of `range`, block by block.
    pub(super) fn unsynced_in(&self, range: ByteRange) -> impl Iterator<Item = (BlockIndex, &DirtyBlock, PageMask)> {
        let last = BlockIndex(range.end().div_ceil(BLOCK_SIZE));
        let first = BlockIndex::of(range.start()).min(last);
        self.dirty.range(first..last).filter_map(move |(block, dirty)| {
            let pages = dirty.unsynced().intersect(PageMask::touched(range.within(*block)));
            (!pages.is_empty()).then_some((*block, dirty, pages))
        })
    }

    /// Unsynced bytes of `range`, in whole pages.
    pub(super) fn unsynced_bytes(&self, range: ByteRange) -> u64 {
        self.unsynced_in(range).map(|(_, _, pages)| pages.bytes()).sum()
    }

    /// Unsynced pages of `range` with their bytes.
    pub(super) fn unsynced_pages(&self, range: ByteRange) -> Vec<(PageIndex, Bytes)> {
        let mut pages = Vec::new();
        for (block, dirty, mask) in self.unsynced_in(range) {
            for page in (0..16u64).filter(|page| mask.0 & (1 << page) != 0) {
                #[expect(clippy::cast_possible_truncation, reason = "below 16")]
                let start = page as usize * PAGE_LEN;
                pages.push((PageIndex(block.0 * 16 + page), dirty.slice(start..start + PAGE_LEN)));
            }
        }
        pages
    }

    /// Whether a process other than `process` may write the page through a shared mapping.
    pub(super) fn written_by_others(&self, page: PageIndex, process: Option<&ProcessKey>) -> bool {
        self.mappings.values().any(|mapping| {
            matches!(mapping.usage, MapUse::SharedWritable)
                && process != Some(&mapping.owner)
                && mapping.range.page_aligned().overlaps(page.range())
        })
    }

    /// Gives up the unsynced pages of `range` for which `which` holds; the next access fetches the store's.
    pub(super) fn forget(&mut self, range: ByteRange, which: impl Fn(PageIndex) -> bool) -> Lsn {
        let doomed: Vec<(BlockIndex, PageMask)> = self
            .unsynced_in(range)
            .map(|(block, _, mask)| {
                let chosen = (0..16u16).filter(|bit| mask.0 & (1 << bit) != 0);
                let chosen = chosen.filter(|bit| which(PageIndex(block.0 * 16 + u64::from(*bit))));
                (block, PageMask(chosen.fold(0, |bits, bit| bits | 1 << bit)))
            })
            .collect();
        let given_up: Vec<BlockPages> = doomed.iter().map(|(block, pages)| BlockPages::new(*block, *pages)).collect();
        let lsn = if self.is_kept() { self.log.given_up(&given_up) } else { Lsn::NONE };
        for (block, pages) in doomed {
            self.recall(block);
            if let Some(dirty) = self.dirty.get_mut(&block) {
                dirty.forget(pages);
                if dirty.unsynced().is_empty() {
                    self.dirty.remove(&block);
                }
            }
        }
        // An attempt that still lands would bring back what was given up: it is not ours any more.
        self.attempts.clear();
        self.stale &= !self.dirty.is_empty();
        lsn
    }

    pub(super) fn recall(&mut self, block: BlockIndex) {
        if let Some(flight) = self.flights.remove(&block).and_then(|flight| flight.upgrade()) {
            flight.recall();
        }
    }

    fn recall_from(&mut self, first: BlockIndex) {
        let blocks: Vec<_> = self.flights.keys().filter(|block| **block >= first).copied().collect();
        for block in blocks {
            self.recall(block);
        }
    }

    /// Moves the line behind which there is nothing: pages behind a nearer end are dropped, unsynced and
    /// private ones too; behind a farther one zeros appear.
    fn resize(&mut self, cache: &BlockCache, size: u64) {
        let old = std::mem::replace(&mut self.size, size);
        if size >= old {
            return;
        }
        let cut = BlockIndex::of(size);
        let keep = (size % BLOCK_SIZE) as usize;
        self.recall_from(cut);
        let first_gone = BlockIndex(size.div_ceil(BLOCK_SIZE));
        self.dirty.split_off(&first_gone);
        cache.remove_from(self.content, first_gone, BlockIndex(old.div_ceil(BLOCK_SIZE)));
        if keep != 0 {
            if let Some(dirty) = self.dirty.get_mut(&cut) {
                dirty.truncate(keep);
                if dirty.unsynced().is_empty() {
                    self.dirty.remove(&cut);
                }
            } else if let Some(mut clean) = cache.remove(self.content, cut) {
                clean.truncate(keep);
                cache.insert(self.content, cut, clean);
            }
        }
        for mapping in self.mappings.values() {
            if let MapUse::Private(overlay) = &mapping.usage {
                overlay.truncate(size);
            }
        }
        self.stale &= !self.dirty.is_empty();
    }

    /// Takes over what the store has, where that may be somebody else's.
    pub(super) fn replace(&mut self, cache: &BlockCache, content: ContentId, seen: Option<&Stat>) -> Lsn {
        let kept = self.is_kept();
        self.resize(cache, seen.map_or(0, |stat| stat.size));
        self.drop_clean(content);
        self.base = seen.map(|stat| stat.version.clone());
        self.generation += 1;
        self.attempts.clear();
        self.stale = false;
        if kept { self.log.moved(self.base.as_ref(), self.size, &[], true) } else { Lsn::NONE }
    }

    /// Makes every clean byte in memory unreachable.
    pub(super) fn drop_clean(&mut self, content: ContentId) {
        self.recall_from(BlockIndex(0));
        self.content = content;
        for dirty in self.dirty.values_mut() {
            dirty.forget_clean();
        }
    }

    /// Takes over a version that we made ourselves, and that has `stored` of the unsynced pages.
    pub(super) fn advance(&mut self, cache: &BlockCache, size: u64, version: Version, stored: &[BlockPages]) -> Lsn {
        let kept = self.is_kept() || !stored.is_empty();
        self.resize(cache, size);
        self.base = Some(version);
        self.generation += 1;
        self.stale = false;
        if !kept {
            return Lsn::NONE;
        }
        self.log.moved(self.base.as_ref(), self.size, stored, self.attempts.is_empty())
    }

    /// Remembers an attempt until its fate is known.
    pub(super) fn remember(&mut self, attempt: Attempt) -> Lsn {
        if self.attempts.len() == ATTEMPTS_MAX {
            self.attempts.pop_front();
        }
        self.attempts.push_back(attempt);
        if self.is_kept() { self.log.attempt(attempt.commit, attempt.size) } else { Lsn::NONE }
    }

    /// Makes sense of what the store has. `generation` is what it was before the store was asked; `content` is
    /// a new id, used if the content is replaced.
    pub(super) fn observe(
        &mut self,
        cache: &BlockCache,
        seen: Option<&Stat>,
        generation: u64,
        content: ContentId,
    ) -> Observed {
        if generation != self.generation {
            return Observed::Outdated;
        }
        if seen.map(|stat| &stat.version) == self.base.as_ref() {
            self.stale = false;
            return Observed::Current;
        }
        let ours = |stat: &&Stat| self.attempts.iter().rev().find(|attempt| Some(attempt.commit) == stat.commit);
        if let Some((stat, attempt)) = seen.and_then(|stat| ours(&stat).map(|attempt| (stat, *attempt))) {
            self.advance(cache, attempt.size, stat.version.clone(), &[]);
            if attempt.outdates {
                self.drop_clean(content);
            }
            return Observed::Current;
        }
        if self.committing {
            return Observed::Undecided;
        }
        if self.dirty.is_empty() {
            self.replace(cache, content, seen);
            return Observed::Replaced;
        }
        self.stale = true;
        Observed::Conflict
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Reservation;

    const OURS: CommitId = CommitId(uuid::Uuid::from_u128(1));

    /// A file of one unsynced page at version `one`, with an attempt to store it whose answer was not seen.
    fn attempted() -> FileState {
        let log = FileLog::new(None, crate::path::FilePath::parse("/f").unwrap());
        let mut state = FileState::new(ContentId(1), log);
        (state.base, state.size) = (Some(Version::new("one")), PAGE_SIZE);
        let mut block = DirtyBlock::new(None, Reservation::default());
        block.write(0..PAGE_LEN, PageMask(1), |page| page.fill(1));
        state.dirty.insert(BlockIndex(0), block);
        state.remember(Attempt { commit: OURS, size: PAGE_SIZE, outdates: false });
        state
    }

    fn stat(version: &str, commit: Option<CommitId>) -> Stat {
        Stat { size: PAGE_SIZE, version: Version::new(version), modified: std::time::SystemTime::UNIX_EPOCH, commit }
    }

    #[test]
    fn an_attempt_that_lands_late_is_ours_until_its_pages_are_given_up() {
        let cache = BlockCache::new(1 << 20);
        let landed = stat("two", Some(OURS));
        let mut kept = attempted();
        assert_eq!(kept.observe(&cache, Some(&landed), 0, ContentId(2)), Observed::Current);
        assert_eq!((kept.content, kept.base), (ContentId(1), Some(Version::new("two"))));
        let mut given_up = attempted();
        given_up.forget(ByteRange::new(0, PAGE_SIZE), |_| true);
        assert_eq!(given_up.observe(&cache, Some(&landed), 0, ContentId(2)), Observed::Replaced);
        assert_eq!(given_up.content, ContentId(2));
    }

    #[test]
    fn what_a_store_without_marks_shows_during_a_change_of_ours_is_not_taken_for_somebody_elses() {
        let cache = BlockCache::new(1 << 20);
        let mut state = attempted();
        state.committing = true;
        assert_eq!(state.observe(&cache, Some(&stat("two", None)), 0, ContentId(2)), Observed::Undecided);
        state.committing = false;
        assert_eq!(state.observe(&cache, Some(&stat("two", None)), 0, ContentId(2)), Observed::Conflict);
        assert!(state.stale);
    }

    #[test]
    fn an_observation_that_a_change_overtook_is_thrown_away() {
        let cache = BlockCache::new(1 << 20);
        let mut state = attempted();
        state.advance(&cache, PAGE_SIZE, Version::new("two"), &[]);
        assert_eq!(state.observe(&cache, Some(&stat("one", None)), 0, ContentId(2)), Observed::Outdated);
        assert_eq!((state.base, state.stale), (Some(Version::new("two")), false));
    }
}
