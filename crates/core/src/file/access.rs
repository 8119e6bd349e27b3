//! Reads: each takes effect at one instant, over its whole range. What writes have in common with them.
//!
//! What is in memory is referenced under the file's lock; what is missing is fetched with the lock released, and
//! then the attempt is made again from the start.
//!
//! A read of what was just written is answered when the journal has it: nobody is shown bytes that a killed
//! server would take back.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use tokio::time::Instant;

use super::ahead::{Begun, ReadAhead};
use super::state::{FileState, Found};
use super::{FaultCounts, File};
use crate::block::ReadBytes;
use crate::caller::MmapId;
use crate::error::{Errno, Error, Result};
use crate::journal::Lsn;
use crate::overlay::{CowMemory, OwnPage};
use crate::readahead::Met;
use crate::spill::{InHand, Slot};
use crate::subject::Account;
use crate::units::{BlockIndex, ByteRange, PageMask};

/// Who touches a file's bytes: the mapping, its own pages if it is private, its counters.
#[derive(Clone, Copy, Debug)]
pub struct Access<'a> {
    /// The mapping.
    pub id: MmapId,
    /// A private mapping's own pages.
    pub overlay: Option<&'a CowMemory>,
    /// Its subject's account, if subjects have limits.
    pub account: Option<&'a Account>,
    /// The mapping's counters.
    pub faults: &'a FaultCounts,
    /// What is read ahead of the mapping's readers.
    pub ahead: &'a ReadAhead,
    /// When the caller stops waiting.
    pub deadline: Option<Instant>,
}

/// What an attempt came to.
pub(super) enum Attempt<T> {
    Done(T),
    Missing(Vec<BlockIndex>),
    /// Own pages that are in the spill file.
    Spilled(Vec<Arc<Slot>>),
    NeedsMemory(u64),
}

impl File {
    /// [`File::read`] without waiting: `None` if it would have to wait, and nothing is counted then.
    ///
    /// # Errors
    /// SIGBUS.
    pub fn try_read(self: &Arc<Self>, access: Access<'_>, range: ByteRange) -> Result<Option<ReadBytes>> {
        let Attempt::Done((bytes, said)) = self.attempt_read(access, range, &InHand::default())? else {
            return Ok(None);
        };
        if !self.shared.is_journaled(said) {
            return Ok(None);
        }
        access.faults.minor.fetch_add(range.block_count(), Ordering::Relaxed);
        self.go_on_reading_ahead(access.ahead, range);
        Ok(Some(bytes))
    }

    /// Reads `range` of the file as the mapping sees it. Cancel safe.
    ///
    /// # Errors
    /// SIGBUS, ESTALE, EIO, EUCLEAN.
    pub async fn read(self: &Arc<Self>, access: Access<'_>, range: ByteRange) -> Result<ReadBytes> {
        // Blocks that were fetched stay reachable until the read is through.
        let (mut held, mut in_hand, mut until) = (Vec::new(), InHand::default(), None);
        loop {
            let missing = match self.attempt_read(access, range, &in_hand)? {
                Attempt::Done((bytes, said)) => {
                    if held.is_empty() {
                        access.faults.minor.fetch_add(range.block_count(), Ordering::Relaxed);
                        self.go_on_reading_ahead(access.ahead, range);
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
    fn attempt_read(
        &self,
        access: Access<'_>,
        range: ByteRange,
        in_hand: &InHand,
    ) -> Result<Attempt<(ReadBytes, Lsn)>> {
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

    /// # Errors
    /// SIGBUS if `range` reaches pages wholly beyond the end of the file.
    pub fn check_inside(&self, id: MmapId, range: ByteRange) -> Result<()> {
        self.check_end(&self.state.read(), id, range)
    }

    pub(super) fn check_end(&self, state: &FileState, id: MmapId, range: ByteRange) -> Result<()> {
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

    pub(super) fn check_registered(&self, state: &FileState, id: MmapId) -> Result<()> {
        if state.mappings.contains_key(&id) { Ok(()) } else { Err(no_such_mapping(id)) }
    }
}

/// There is no such mapping, or it is not the caller's: the same answer for both.
pub(crate) fn no_such_mapping(id: MmapId) -> Error {
    Error::new(Errno::BadF, format!("no mapping {id} of this process")).with("mmap_id", id)
}
