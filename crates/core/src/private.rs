//! [`PrivateMemory`]: memory of private pages, and what happens when it is used up: pages go to the spill file, or
//! the write is refused.
//!
//! Which pages go: overlays take turns, and of each one those that were not touched for a round (a clock with
//! second chances). One eviction runs at a time; it writes to the disk with no lock held, and a page that is
//! written meanwhile stays in memory.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::budget::{Budget, Reservation};
use crate::error::{Errno, Error, Result};
use crate::overlay::CowMemory;
use crate::spill::{SpillFile, blocking};
use crate::units::{PAGE_SIZE, PageIndex};

/// Pages that are spilled at once at least: 256 KiB, so that the disk's cost a request is shared.
const BATCH_MIN: usize = 64;
/// How long the disk may take for a batch, those before it in line included.
const SPILL_TIME: Duration = Duration::from_secs(25);

/// Memory of private pages.
#[derive(Debug)]
pub struct PrivateMemory {
    budget: Budget,
    spill: Option<Spill>,
}

#[derive(Debug)]
struct Spill {
    file: Arc<SpillFile>,
    /// Whose pages can be spilled, whose turn it is in front.
    overlays: Mutex<VecDeque<Weak<CowMemory>>>,
    evicting: tokio::sync::Mutex<()>,
}

/// A page that is to be spilled.
struct Victim {
    overlay: Arc<CowMemory>,
    page: PageIndex,
    data: Bytes,
}

impl PrivateMemory {
    /// `budget` for pages in memory; more go to `file`, if there is one.
    pub fn new(budget: Budget, file: Option<Arc<SpillFile>>) -> Self {
        let spill = |file| Spill { file, overlays: Mutex::default(), evicting: tokio::sync::Mutex::default() };
        Self { budget, spill: file.map(spill) }
    }

    /// Bytes of the pages in memory.
    pub fn used(&self) -> u64 {
        self.budget.used()
    }

    /// Bytes of all pages, the spilled ones included.
    pub fn held(&self) -> u64 {
        self.budget.used() + self.spill.as_ref().map_or(0, |spill| spill.file.used())
    }

    /// Bytes that there may be in memory.
    pub fn total(&self) -> u64 {
        self.budget.total()
    }

    /// Bytes of the pages in the spill file, and how many there may be.
    pub fn spilled(&self) -> (u64, u64) {
        self.spill.as_ref().map_or((0, 0), |spill| (spill.file.used(), spill.file.size()))
    }

    /// From now on its pages can be spilled, as long as it lives.
    pub fn enroll(&self, overlay: &Arc<CowMemory>) {
        if let Some(spill) = &self.spill {
            spill.overlays.lock().push_back(Arc::downgrade(overlay));
        }
    }

    /// Memory for `bytes`, if there is enough.
    pub fn try_reserve(&self, bytes: u64) -> Option<Reservation> {
        self.budget.try_take(bytes)
    }

    /// Memory for `bytes`, made by spilling pages if there is not enough. Cancel safe.
    ///
    /// # Errors
    /// ENOMEM if there is none to be had; EIO, EUCLEAN of the disk.
    pub async fn reserve(&self, bytes: u64) -> Result<Reservation> {
        if let Some(memory) = self.try_reserve(bytes) {
            return Ok(memory);
        }
        let Some(spill) = &self.spill else { return Err(self.full()) };
        let make_room = async {
            let _turn = spill.evicting.lock().await;
            loop {
                let pages = usize::try_from(bytes / PAGE_SIZE).unwrap_or(usize::MAX).max(BATCH_MIN);
                // Whoever had the turn before may have made room enough; a batch that fails makes some, too.
                let evicted = match self.budget.try_take(bytes) {
                    Some(memory) => return Ok(memory),
                    None => spill.evict(pages).await,
                };
                match (self.budget.try_take(bytes), evicted) {
                    (Some(memory), _) => return Ok(memory),
                    (None, Ok(0)) => return Err(self.full()),
                    (None, evicted) => evicted?,
                };
            }
        };
        let out_of_time = |_| {
            let sentence = format!("the disk of the state directory took no pages within {} s", SPILL_TIME.as_secs());
            Error::new(Errno::Io, sentence).retry_after(Duration::from_secs(1))
        };
        tokio::time::timeout(SPILL_TIME, make_room).await.map_err(out_of_time)?
    }

    fn full(&self) -> Error {
        let (max, used) = (self.budget.total(), self.budget.used());
        let sentence = format!(
            "private pages are at their limit of {max} bytes: unmap private mappings, raise the memory budget, or \
             let them go to the disk with --private-spill"
        );
        Error::new(Errno::NoMem, sentence).with("limit", "private_bytes").with("max", max).with("used", used)
    }
}

impl Spill {
    /// Spills about `count` pages. Answers how many were tried.
    async fn evict(&self, count: usize) -> Result<usize> {
        let victims = self.choose(count);
        let (tried, file) = (victims.len(), Arc::clone(&self.file));
        let write = move || {
            for Victim { overlay, page, data } in victims {
                overlay.spill(page, &data, file.write(&data)?);
            }
            Ok(tried)
        };
        blocking(write).await
    }

    fn choose(&self, count: usize) -> Vec<Victim> {
        let mut overlays = self.overlays.lock();
        let mut victims = Vec::new();
        for _ in 0..overlays.len() {
            let Some(weak) = overlays.pop_front() else { break };
            let Some(overlay) = weak.upgrade() else { continue };
            let chosen = overlay.victims(count - victims.len());
            victims.extend(chosen.into_iter().map(|(page, data)| Victim { overlay: Arc::clone(&overlay), page, data }));
            overlays.push_back(weak);
            if victims.len() >= count {
                break;
            }
        }
        victims
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Lsn;
    use crate::overlay::{OwnPage, Written};
    use crate::spill::InHand;
    use crate::units::{ByteRange, PAGE_LEN};

    /// No journal.
    const SILENT: Option<Say> = None;
    type Say = fn(&[(PageIndex, Bytes)]) -> Lsn;

    async fn write(memory: &PrivateMemory, overlay: &CowMemory, page: u64) -> Result<()> {
        let mut paid = memory.reserve(PAGE_SIZE).await?;
        let fill = u8::try_from(page % 256).unwrap();
        let range = ByteRange::new(page * PAGE_SIZE, (page + 1) * PAGE_SIZE);
        let done = overlay.write(range, &[[fill; PAGE_LEN]], &mut paid, &InHand::default(), |_| unreachable!(), SILENT);
        assert!(matches!(done, Written::Done(1, _)));
        Ok(())
    }

    #[tokio::test]
    async fn without_a_spill_file_what_is_over_the_limit_is_refused() {
        let memory = PrivateMemory::new(Budget::new(PAGE_SIZE), None);
        let _held = memory.reserve(PAGE_SIZE).await.unwrap();
        let error = memory.reserve(PAGE_SIZE).await.unwrap_err();
        assert_eq!(error.errno(), Errno::NoMem);
        assert!(error.message().contains("--private-spill"), "{error}");
    }

    #[tokio::test]
    async fn pages_over_the_limit_go_to_the_disk_until_that_is_used_up_too() {
        let folder = tempfile::tempdir().unwrap();
        let file = SpillFile::open(folder.path(), 300 * PAGE_SIZE).unwrap();
        let memory = PrivateMemory::new(Budget::new(100 * PAGE_SIZE), Some(Arc::clone(&file)));
        let overlays: [Arc<CowMemory>; 3] = Default::default();
        overlays.iter().for_each(|overlay| memory.enroll(overlay));
        let mut written = 0;
        let error = loop {
            match write(&memory, &overlays[usize::try_from(written % 3).unwrap()], written / 3).await {
                Ok(()) => written += 1,
                Err(error) => break error,
            }
            assert!(memory.used() <= 100 * PAGE_SIZE);
        };
        assert_eq!((error.errno(), written), (Errno::NoMem, 400));
        assert!(error.message().contains("spill file is full"), "{error}");
        for overlay in &overlays {
            for (page, own) in overlay.snapshot(ByteRange::new(0, 400 * PAGE_SIZE)).0 {
                let mut in_hand = InHand::default();
                let data = match own {
                    OwnPage::Present(data) => data,
                    OwnPage::Spilled(spilled) => {
                        in_hand.bring(vec![spilled.bytes(&in_hand).unwrap_err()]).await.unwrap();
                        spilled.bytes(&in_hand).unwrap()
                    }
                };
                assert_eq!(data[7], u8::try_from(page.0 % 256).unwrap());
            }
        }
        drop(overlays);
        assert_eq!((file.used(), memory.used()), (0, 0));
    }
}
