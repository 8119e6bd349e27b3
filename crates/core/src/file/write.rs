//! Writes: each takes effect at one instant, over its whole range, for every process.
//!
//! What is in memory is patched under the file's lock; what is missing of partly written pages is fetched with the
//! lock released, and then the attempt is made again from the start. A write is acknowledged when the journal has
//! it: [`Written`] is a write between its taking effect and that.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use smallvec::SmallVec;

use super::File;
use super::access::{Access, Attempt};
use super::state::Found;
use crate::block::{DirtyBlock, slice_padded};
use crate::budget::Reservation;
use crate::error::Result;
use crate::journal::{Lsn, Room};
use crate::overlay::{self, CowMemory};
use crate::shared::Shared;
use crate::slices::Slices;
use crate::spill::InHand;
use crate::subject::Kind;
use crate::units::{BLOCK_SIZE, BlockIndex, ByteRange, PAGE_LEN, PAGE_SIZE, PageIndex, PageMask};

/// A write that took effect. It may be answered when [`Written::wait`] has ended, not before: until then a killed
/// server would take it back.
#[derive(Debug)]
#[must_use = "a write is acknowledged only when it was waited for"]
pub struct Written {
    bytes: u64,
    pending: Option<(Arc<Shared>, Lsn)>,
}

impl Written {
    fn new(shared: &Arc<Shared>, bytes: u64, said: Lsn) -> Self {
        let pending = (!shared.is_journaled(said)).then(|| (Arc::clone(shared), said));
        Self { bytes, pending }
    }

    /// Number of bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether there may be something to wait for.
    pub fn is_pending(&self) -> bool {
        self.pending.is_some()
    }

    /// Both writes as one, to be waited for once. Both must be of one manager.
    pub fn and(mut self, mut other: Self) -> Self {
        let bytes = self.bytes.saturating_add(other.bytes);
        let said = |written: &Self| written.pending.as_ref().map(|(_, said)| *said);
        let is_later = said(&self) > said(&other);
        // The journal acknowledges in the order of its records.
        let (one, another) = (self.pending.take(), other.pending.take());
        Self { bytes, pending: if is_later { one } else { another } }
    }

    /// Waits until the journal has it, as its level says, and answers the number of bytes. Cancel safe.
    ///
    /// # Errors
    /// EIO if the journal has failed, or its disk does not answer. The bytes are there: whether they survive the
    /// server is not known.
    pub async fn wait(mut self) -> Result<u64> {
        if let Some((shared, said)) = self.pending.take() {
            shared.journaled(said).await?;
        }
        Ok(self.bytes)
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        if let Some((shared, said)) = self.pending.take() {
            shared.hurry_journal(said);
        }
    }
}

/// What a write holds while it is tried.
#[derive(Default)]
struct Means {
    memory: Reservation,
    in_hand: InHand,
    room: Option<Room>,
}

impl File {
    /// [`File::write`] without waiting: `None` if it would have to wait, or could not be written for want of memory
    /// or of room in the journal; nothing is written or counted then.
    ///
    /// # Errors
    /// EBADF if the mapping is gone, SIGBUS.
    pub fn try_write<S: AsRef<[u8]>>(
        &self,
        access: Access<'_>,
        range: ByteRange,
        data: &[S],
    ) -> Result<Option<Written>> {
        let Some(room) = self.shared.try_journal_room(&self.path, range) else { return Ok(None) };
        let mut means = Means { room, ..Means::default() };
        loop {
            match self.attempt_write(access, range, data, &mut means)? {
                Attempt::Done(said) => return Ok(Some(Written::new(&self.shared, range.len(), said))),
                Attempt::Missing(_) | Attempt::Spilled(_) => return Ok(None),
                Attempt::NeedsMemory(bytes) => {
                    drop(std::mem::take(&mut means.memory));
                    // Why not is told on the way that waits.
                    let Ok(counted) = counted(access, bytes) else { return Ok(None) };
                    let memory = match access.overlay {
                        Some(_) => self.shared.private.try_reserve(bytes),
                        None => self.shared.try_reserve_dirty(&self.parts, bytes),
                    };
                    let Some(memory) = memory else { return Ok(None) };
                    means.memory = memory.beside(counted);
                }
            }
        }
    }

    /// Writes `data` at the file's byte `range.start()`; both are equally long. Bytes behind the file's end are
    /// dropped. Cancel safe: all of it is written, or nothing. Answers when it has taken effect.
    ///
    /// # Errors
    /// EBADF if the mapping is gone, SIGBUS, EDQUOT, ENOMEM, ESTALE, EIO, EUCLEAN.
    pub async fn write<S: AsRef<[u8]> + Sync>(
        self: &Arc<Self>,
        access: Access<'_>,
        range: ByteRange,
        data: &[S],
    ) -> Result<Written> {
        let (mut held, mut means, mut until) = (Vec::new(), Means::default(), None);
        loop {
            // Taken anew for each attempt: whoever waits for the store must not keep others from the journal.
            means.room = self.shared.journal_room(&self.path, range, access.deadline).await?;
            let attempt = self.attempt_write(access, range, data, &mut means)?;
            means.room = None;
            match attempt {
                Attempt::Done(said) => return Ok(Written::new(&self.shared, range.len(), said)),
                Attempt::Missing(missing) => {
                    access.faults.major.fetch_add(missing.len() as u64, Ordering::Relaxed);
                    held.extend(self.fault(&missing, *until.get_or_insert_with(|| self.patience())).await?);
                }
                Attempt::Spilled(slots) => means.in_hand.bring(slots).await?,
                Attempt::NeedsMemory(bytes) => {
                    // What is held is given back first: holding some while waiting for more could wait for ever.
                    drop(std::mem::take(&mut means.memory));
                    let counted = counted(access, bytes)?;
                    let memory = match access.overlay {
                        Some(_) => self.shared.private.reserve(bytes).await?,
                        None => self.shared.reserve_dirty(&self.parts, bytes, access.deadline).await?,
                    };
                    means.memory = memory.beside(counted);
                }
            }
        }
    }

    fn attempt_write<S: AsRef<[u8]>>(
        &self,
        access: Access<'_>,
        range: ByteRange,
        data: &[S],
        means: &mut Means,
    ) -> Result<Attempt<Lsn>> {
        match access.overlay {
            Some(overlay) => self.attempt_private(access, overlay, range, data, means),
            None => self.attempt_shared(access, range, data, means),
        }
    }

    fn attempt_shared<S: AsRef<[u8]>>(
        &self,
        access: Access<'_>,
        range: ByteRange,
        data: &[S],
        means: &mut Means,
    ) -> Result<Attempt<Lsn>> {
        let memory = &mut means.memory;
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
        let mut data = Slices::new(data);
        for (block, clean) in range.blocks().zip(clean) {
            let part = range.within(block);
            let covered = covered_pages(range, block, state.size);
            let dirty = state.dirty.entry(block).or_insert_with(|| {
                // Out of the cache, so that the block is the writer's alone and need not be copied.
                self.shared.cache.remove(state.content, block);
                DirtyBlock::new(clean, memory.split(BLOCK_SIZE).unwrap_or_default())
            });
            if dirty.needs_copy() {
                dirty.pay_for_copy(memory.split(BLOCK_SIZE).unwrap_or_default());
            }
            dirty.write(part, covered, |part| data.fill(part));
        }
        Ok(Attempt::Done(state.say_written(means.room.take(), range)))
    }

    fn attempt_private<S: AsRef<[u8]>>(
        &self,
        access: Access<'_>,
        overlay: &CowMemory,
        range: ByteRange,
        data: &[S],
        means: &mut Means,
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
        let base = |page| {
            let known = bases.iter().find(|(known, _)| *known == page);
            known.map_or_else(|| Bytes::from_static(&[0; PAGE_LEN]), |(_, bytes)| bytes.clone())
        };
        let Means { memory, in_hand, room } = means;
        let say = |pages: &[_]| state.log.copied(room.take(), access.id, pages);
        let say = (!state.log.is_silent()).then_some(say);
        Ok(match overlay.write(range, data, memory, in_hand, base, say) {
            overlay::Written::Done(copied, said) => {
                access.faults.minor.fetch_add(copied, Ordering::Relaxed);
                Attempt::Done(said)
            }
            overlay::Written::NeedsMemory(bytes) => Attempt::NeedsMemory(bytes),
            overlay::Written::NeedsPages(slots) => Attempt::Spilled(slots),
        })
    }
}

/// What the writer's subject may have of `bytes` more.
fn counted(access: Access<'_>, bytes: u64) -> Result<Option<Reservation>> {
    let kind = if access.overlay.is_some() { Kind::Private } else { Kind::Dirty };
    access.account.map_or(Ok(None), |account| account.take(kind, bytes))
}

/// The pages of `block` that a write of `range` leaves no old byte of: those wholly in it, and the file's last
/// page if the write reaches the file's end, for behind it there is nothing.
pub(super) fn covered_pages(range: ByteRange, block: BlockIndex, size: u64) -> PageMask {
    let end = if range.end() == size { size.next_multiple_of(PAGE_SIZE) } else { range.end() };
    PageMask::covered(ByteRange::new(range.start(), end).within(block))
}
