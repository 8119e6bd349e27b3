//! Reads and writes: each takes effect at one instant, over its whole range, for every process.
//!
//! What is in memory is copied or referenced under the file's lock; what is missing is fetched with the lock
//! released, and then the attempt is made again from the start.
//!
//! A write is answered when the journal has it, and so is a read of what was just written: nobody is shown
//! bytes that a killed server would take back.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use smallvec::SmallVec;
use tokio::time::Instant;

use super::ahead::Begun;
use super::state::{FileState, Found};
use super::{FaultCounts, File, ReadAhead};
use crate::block::{DirtyBlock, ReadBytes, slice_padded};
use crate::budget::Reservation;
use crate::caller::MmapId;
use crate::error::{Errno, Error, Result};
use crate::journal::{Lsn, Room};
use crate::overlay::{CowMemory, OwnPage, Written};
use crate::readahead::Met;
use crate::spill::{InHand, Slot};
use crate::units::{BLOCK_SIZE, BlockIndex, ByteRange, PAGE_LEN, PAGE_SIZE, PageIndex, PageMask};

/// Who touches a file's bytes: the mapping, its own pages if it is private, its counters.
#[derive(Clone, Copy, Debug)]
pub struct Access<'a> {
    /// The mapping.
    pub id: MmapId,
    /// A private mapping's own pages.
    pub overlay: Option<&'a CowMemory>,
    /// The mapping's counters.
    pub faults: &'a FaultCounts,
    /// What is read ahead of the mapping's readers.
    pub ahead: &'a ReadAhead,
    /// When the caller stops waiting.
    pub deadline: Option<Instant>,
}

/// What an attempt came to.
enum Attempt<T> {
    Done(T),
    Missing(Vec<BlockIndex>),
    /// Own pages that are in the spill file.
    Spilled(Vec<Arc<Slot>>),
    NeedsMemory(u64),
}

impl File {
    /// Reads `range` of the file as the mapping sees it. Cancel safe.
    ///
    /// # Errors
    /// SIGBUS, ESTALE, EIO, EUCLEAN.
    pub async fn read(self: &Arc<Self>, access: Access<'_>, range: ByteRange) -> Result<ReadBytes> {
        // Blocks that were fetched stay reachable until the read is through.
        let (mut held, mut in_hand, mut until) = (Vec::new(), InHand::default(), None);
        loop {
            let missing = match self.try_read(access, range, &in_hand)? {
                Attempt::Done((bytes, said)) => {
                    if held.is_empty() {
                        access.faults.minor.fetch_add(range.block_count(), Ordering::Relaxed);
                        if access.ahead.is_marked(range) {
                            self.read_on(access.ahead, range, Met::Marker).keep();
                        }
                    }
                    // A journal that has failed takes no more writes, but what is in memory can still be read.
                    let _ = self.shared.journaled(said).await;
                    return Ok(bytes);
                }
                Attempt::Missing(missing) => missing,
                Attempt::Spilled(slots) => {
                    in_hand.bring(slots).await?;
                    continue;
                }
                Attempt::NeedsMemory(_) => Vec::new(),
            };
            let boarded = self.board(&missing);
            let mut begun = Begun::default();
            if held.is_empty() {
                access.faults.major.fetch_add(missing.len() as u64, Ordering::Relaxed);
                access.faults.minor.fetch_add(range.block_count() - missing.len() as u64, Ordering::Relaxed);
                let met = if boarded.joined { Met::UnderWay } else { Met::Missing };
                begun = self.read_on(access.ahead, range, met);
            }
            held.extend(self.landed(boarded, *until.get_or_insert_with(|| self.patience())).await?);
            begun.keep();
        }
    }

    /// The bytes, and the latest record of the journal that tells of any of them.
    fn try_read(&self, access: Access<'_>, range: ByteRange, in_hand: &InHand) -> Result<Attempt<(ReadBytes, Lsn)>> {
        let state = self.state.read();
        self.check_end(&state, access.id, range)?;
        let mut bytes = ReadBytes::default();
        let (mut missing, mut spilled) = (Vec::new(), Vec::new());
        let (own, mut said) = access.overlay.map(|overlay| overlay.snapshot(range)).unwrap_or_default();
        let mut position = range.start();
        for (page, own) in own {
            let data = match own {
                OwnPage::Present(data) => data,
                OwnPage::Spilled(page) => page.bytes(in_hand).unwrap_or_else(|slot| {
                    spilled.push(slot);
                    Bytes::new()
                }),
            };
            let part = range.intersect(page.range());
            said = said.max(self.gather(&state, ByteRange::new(position, part.start()), &mut bytes, &mut missing));
            #[expect(clippy::cast_possible_truncation, reason = "within a page")]
            let start = (part.start() - page.range().start()) as usize;
            #[expect(clippy::cast_possible_truncation, reason = "within a page")]
            bytes.push_part(&data, start..start + part.len() as usize);
            position = part.end();
        }
        said = said.max(self.gather(&state, ByteRange::new(position, range.end()), &mut bytes, &mut missing));
        Ok(match (spilled.is_empty(), missing.is_empty()) {
            (false, _) => Attempt::Spilled(spilled),
            (true, false) => Attempt::Missing(missing),
            (true, true) => Attempt::Done((bytes, said)),
        })
    }

    /// Appends the shared bytes of `range`, or names the blocks that are missing.
    fn gather(&self, state: &FileState, range: ByteRange, bytes: &mut ReadBytes, missing: &mut Vec<BlockIndex>) -> Lsn {
        let mut said = Lsn::NONE;
        for block in range.blocks() {
            let part = range.within(block);
            match state.find(&self.shared.cache, block, PageMask::touched(part.clone())) {
                Found::Dirty(dirty) => {
                    said = said.max(dirty.said);
                    bytes.push_part(dirty.data(), part);
                }
                Found::Clean(data) => bytes.push_part(&data, part),
                // A private mapping's own pages split a range, so that a block may come up twice.
                Found::Missing if missing.last() == Some(&block) => {}
                Found::Missing => missing.push(block),
            }
        }
        said
    }

    /// Writes `data` at the file's byte `range.start()`. Bytes behind the file's end are dropped. Cancel safe:
    /// all of it is written, or nothing.
    ///
    /// # Errors
    /// EBADF if the mapping is gone, SIGBUS, EDQUOT, ENOMEM, ESTALE, EIO, EUCLEAN. After an EIO of the journal the
    /// bytes may be there: whether they survive the server is not known.
    pub async fn write(self: &Arc<Self>, access: Access<'_>, range: ByteRange, data: &[u8]) -> Result<()> {
        let (mut held, mut in_hand, mut until) = (Vec::new(), InHand::default(), None);
        let mut memory = Reservation::default();
        loop {
            // Taken anew for each attempt: whoever waits for the store must not keep others from the journal.
            let room = self.shared.journal_room(&self.path, range, access.deadline).await?;
            let attempt = match access.overlay {
                Some(overlay) => self.try_write_private(access, overlay, range, data, (&mut memory, &in_hand, room))?,
                None => self.try_write_shared(access, range, data, &mut memory, room)?,
            };
            match attempt {
                Attempt::Done(said) => return self.shared.journaled(said).await,
                Attempt::Missing(missing) => {
                    access.faults.major.fetch_add(missing.len() as u64, Ordering::Relaxed);
                    held.extend(self.fault(&missing, *until.get_or_insert_with(|| self.patience())).await?);
                }
                Attempt::Spilled(slots) => in_hand.bring(slots).await?,
                Attempt::NeedsMemory(bytes) => {
                    // What is held is given back first: holding some while waiting for more could wait for ever.
                    drop(std::mem::take(&mut memory));
                    memory = match access.overlay {
                        Some(_) => self.shared.private.reserve(bytes).await?,
                        None => self.shared.reserve_dirty(&self.parts, bytes, access.deadline).await?,
                    };
                }
            }
        }
    }

    fn try_write_shared(
        &self,
        access: Access<'_>,
        range: ByteRange,
        data: &[u8],
        memory: &mut Reservation,
        room: Option<Room>,
    ) -> Result<Attempt<Lsn>> {
        let mut guard = self.state.write();
        let state = &mut *guard;
        self.check_end(state, access.id, range)?;
        self.check_registered(state, access.id)?;
        let range = range.intersect(ByteRange::new(0, state.size));
        let (mut clean, mut missing, mut new) = (SmallVec::<[Option<Bytes>; 4]>::new(), Vec::new(), 0u64);
        for block in range.blocks() {
            let covered = covered_pages(range, block, state.size);
            let touched = PageMask::touched(range.within(block));
            if let Some(dirty) = state.dirty.get(&block) {
                if !dirty.valid().union(covered).contains(touched) {
                    missing.push(block);
                }
                new += u64::from(dirty.needs_copy());
                clean.push(None);
                continue;
            }
            new += 1;
            let bytes = state.find_clean(&self.shared.cache, block);
            if bytes.is_none() && !covered.contains(touched) {
                missing.push(block);
            }
            clean.push(bytes);
        }
        if !missing.is_empty() {
            return Ok(Attempt::Missing(missing));
        }
        if memory.bytes() < new * BLOCK_SIZE {
            return Ok(Attempt::NeedsMemory(new * BLOCK_SIZE));
        }
        access.faults.minor.fetch_add(range.block_count(), Ordering::Relaxed);
        let mut rest = data;
        for (block, clean) in range.blocks().zip(clean) {
            let part = range.within(block);
            let (head, tail) = rest.split_at(part.len());
            rest = tail;
            let covered = covered_pages(range, block, state.size);
            let dirty = state.dirty.entry(block).or_insert_with(|| {
                // Out of the cache, so that the block is the writer's alone and need not be copied.
                self.shared.cache.remove(state.content, block);
                DirtyBlock::new(clean, memory.split(BLOCK_SIZE).unwrap_or_default())
            });
            if dirty.needs_copy() {
                dirty.pay_for_copy(memory.split(BLOCK_SIZE).unwrap_or_default());
            }
            dirty.write(part.start, head, covered);
        }
        Ok(Attempt::Done(state.say_written(room, range)))
    }

    fn try_write_private(
        &self,
        access: Access<'_>,
        overlay: &CowMemory,
        range: ByteRange,
        data: &[u8],
        (memory, in_hand, room): (&mut Reservation, &InHand, Option<Room>),
    ) -> Result<Attempt<Lsn>> {
        let state = self.state.read();
        self.check_end(&state, access.id, range)?;
        self.check_registered(&state, access.id)?;
        let range = range.intersect(ByteRange::new(0, state.size));
        let (mut bases, mut missing) = (SmallVec::<[(PageIndex, Bytes); 2]>::new(), Vec::new());
        // Only the first and the last page can be written in part.
        let mut edges: SmallVec<[PageIndex; 2]> = range.pages().next().into_iter().collect();
        edges.extend(range.pages().next_back().filter(|last| Some(last) != edges.first()));
        for page in edges {
            if range.contains(page.range()) || overlay.has(page) {
                continue;
            }
            let block = BlockIndex::of(page.range().start());
            let part = page.range().within(block);
            match state.find(&self.shared.cache, block, PageMask::touched(part.clone())) {
                Found::Dirty(dirty) => bases.push((page, dirty.slice(part))),
                Found::Clean(clean) => bases.push((page, slice_padded(&clean, part))),
                Found::Missing => missing.push(block),
            }
        }
        if !missing.is_empty() {
            missing.dedup();
            return Ok(Attempt::Missing(missing));
        }
        let data = &data[..usize::try_from(range.len()).unwrap_or(data.len()).min(data.len())];
        let base = |page| {
            let known = bases.iter().find(|(known, _)| *known == page);
            known.map_or_else(|| Bytes::from_static(&[0; PAGE_LEN]), |(_, bytes)| bytes.clone())
        };
        let say = |pages: &[_]| state.log.copied(room, access.id, pages);
        let say = (!state.log.is_silent()).then_some(say);
        Ok(match overlay.write(range, data, memory, in_hand, base, say) {
            Written::Done(copied, said) => {
                access.faults.minor.fetch_add(copied, Ordering::Relaxed);
                Attempt::Done(said)
            }
            Written::NeedsMemory(bytes) => Attempt::NeedsMemory(bytes),
            Written::NeedsPages(slots) => Attempt::Spilled(slots),
        })
    }

    fn check_end(&self, state: &FileState, id: MmapId, range: ByteRange) -> Result<()> {
        if range.end() <= state.mapped_end() {
            return Ok(());
        }
        let (path, size) = (&self.path, state.size);
        Err(Error::new(
            Errno::SigBus,
            format!("bytes {range} of {path} reach pages wholly beyond the end of the file, which has {size} bytes"),
        )
        .with("mmap_id", id)
        .with("path", path)
        .with("offset", range.start())
        .with("end", range.end())
        .with("file_size", size))
    }

    fn check_registered(&self, state: &FileState, id: MmapId) -> Result<()> {
        if state.mappings.contains_key(&id) { Ok(()) } else { Err(no_such_mapping(id)) }
    }
}

/// The pages of `block` that a write of `range` leaves no old byte of: those wholly in it, and the file's last
/// page if the write reaches the file's end, for behind it there is nothing.
pub(super) fn covered_pages(range: ByteRange, block: BlockIndex, size: u64) -> PageMask {
    let end = if range.end() == size { size.next_multiple_of(PAGE_SIZE) } else { range.end() };
    PageMask::covered(ByteRange::new(range.start(), end).within(block))
}

/// There is no such mapping, or it is not the caller's: the same answer for both.
pub(crate) fn no_such_mapping(id: MmapId) -> Error {
    Error::new(Errno::BadF, format!("no mapping {id} of this process")).with("mmap_id", id)
}
