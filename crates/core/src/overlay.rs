//! [`CowMemory`]: a private mapping's own pages. Empty at first; a page is copied here on its first write.
//!
//! Invariant: each page's memory is reserved before it is here. Locks are taken file first, then overlay.
//! It does not know the file: whoever writes brings the page's bytes along.

use std::collections::BTreeMap;

use bytes::Bytes;
use parking_lot::Mutex;
use smallvec::SmallVec;

use crate::block::{patch, slice_padded};
use crate::budget::Reservation;
use crate::journal::Lsn;
use crate::units::{ByteRange, PAGE_LEN, PAGE_SIZE, PageIndex};

/// Copied pages by their place in the file.
#[derive(Debug, Default)]
pub struct CowMemory {
    pages: Mutex<Pages>,
}

#[derive(Debug, Default)]
struct Pages {
    own: BTreeMap<PageIndex, Bytes>,
    memory: Reservation,
    /// The journal's record of the last write.
    said: Lsn,
}

impl CowMemory {
    /// The page's bytes if it is copied.
    pub fn get(&self, page: PageIndex) -> Option<Bytes> {
        self.pages.lock().own.get(&page).cloned()
    }

    /// The pages of `range` that are copied, all taken at one instant, and the journal's record of the last write
    /// if there are any.
    pub fn snapshot(&self, range: ByteRange) -> (Vec<(PageIndex, Bytes)>, Lsn) {
        let last = PageIndex(range.end().div_ceil(PAGE_SIZE));
        let pages = self.pages.lock();
        let first = PageIndex::of(range.start());
        let own: Vec<_> = pages.own.range(first..last).map(|(page, data)| (*page, data.clone())).collect();
        let said = if own.is_empty() { Lsn::NONE } else { pages.said };
        (own, said)
    }

    /// How many pages of `range` are not copied yet.
    pub fn missing(&self, range: ByteRange) -> u64 {
        let pages = self.pages.lock();
        range.pages().filter(|page| !pages.own.contains_key(page)).count() as u64
    }

    /// Writes `data` at the file's byte `range.start()`; `base` brings the bytes of a page that is not copied
    /// yet and is written in part. `memory` pays for new pages; what is left of it is given back. `None`,
    /// and nothing written, if it cannot pay for all of them. `say` tells the journal what the written pages are
    /// now. Answers how many pages were copied, and the journal's record.
    pub fn write(
        &self,
        range: ByteRange,
        data: &[u8],
        mut memory: Reservation,
        base: impl Fn(PageIndex) -> Bytes,
        say: Option<impl FnOnce(&[(PageIndex, Bytes)]) -> Lsn>,
    ) -> Option<(u64, Lsn)> {
        let mut pages = self.pages.lock();
        let new = range.pages().filter(|page| !pages.own.contains_key(page)).count() as u64;
        let paid = memory.split(new * PAGE_SIZE)?;
        pages.memory.merge(paid);
        let mut rest = data;
        for page in range.pages() {
            let part = range.intersect(page.range());
            // A part of a page is at most PAGE_LEN bytes.
            #[expect(clippy::cast_possible_truncation, reason = "at most PAGE_LEN")]
            let (offset, length) = ((part.start() - page.range().start()) as usize, part.len() as usize);
            let (head, tail) = rest.split_at(length);
            rest = tail;
            let own = pages.own.entry(page).or_insert_with(|| {
                if length == PAGE_LEN { Bytes::new() } else { slice_padded(&base(page), 0..PAGE_LEN) }
            });
            patch(own, offset, head);
        }
        if let Some(say) = say {
            let written: SmallVec<[_; 4]> =
                range.pages().filter_map(|page| Some((page, pages.own.get(&page)?.clone()))).collect();
            pages.said = say(&written);
        }
        Some((new, pages.said))
    }

    /// Says again what the pages from `first` on are, `count` of them at most. Answers where to go on.
    pub fn say_again(
        &self,
        first: PageIndex,
        count: usize,
        say: impl FnOnce(&[(PageIndex, Bytes)]) -> Lsn,
    ) -> Option<PageIndex> {
        let pages = self.pages.lock();
        let some: Vec<_> = pages.own.range(first..).take(count).map(|(page, data)| (*page, data.clone())).collect();
        let (last, _) = some.last()?;
        say(&some);
        Some(PageIndex(last.0 + 1))
    }

    /// Puts a page back as it was before the server was away; `memory` pays for it.
    pub fn restore(&self, page: PageIndex, data: Bytes, memory: Reservation) {
        let mut pages = self.pages.lock();
        pages.memory.merge(memory);
        pages.own.insert(page, data);
    }

    /// Drops what lies behind `size`: pages wholly behind it, and the rest of the page that it cuts.
    pub fn truncate(&self, size: u64) {
        let mut pages = self.pages.lock();
        let dropped = pages.own.split_off(&PageIndex(size.div_ceil(PAGE_SIZE)));
        let freed = pages.memory.split(dropped.len() as u64 * PAGE_SIZE);
        drop(freed);
        let keep = (size % PAGE_SIZE) as usize;
        if keep != 0
            && let Some(page) = pages.own.get_mut(&PageIndex::of(size))
        {
            page.truncate(keep);
        }
    }

    /// Bytes of the copied pages.
    pub fn bytes(&self) -> u64 {
        self.pages.lock().own.len() as u64 * PAGE_SIZE
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Budget;

    /// No journal.
    const SILENT: Option<fn(&[(PageIndex, Bytes)]) -> Lsn> = None;

    #[test]
    fn mmap_private_page_is_copied_on_its_first_write_only() {
        let budget = Budget::new(10 * PAGE_SIZE);
        let overlay = CowMemory::default();
        let base = |_| Bytes::from_static(&[1; PAGE_LEN]);
        let range = ByteRange::new(PAGE_SIZE - 1, PAGE_SIZE + 1);
        let copied = overlay
            .write(range, &[8, 9], budget.try_take(2 * PAGE_SIZE).unwrap(), base, SILENT)
            .map(|(copied, _)| copied);
        assert_eq!((copied, overlay.bytes(), budget.used()), (Some(2), 2 * PAGE_SIZE, 2 * PAGE_SIZE));
        assert_eq!(overlay.get(PageIndex(0)).unwrap()[PAGE_LEN - 2..], [1, 8]);
        assert_eq!(overlay.get(PageIndex(1)).unwrap()[..2], [9, 1]);
        let again =
            overlay.write(range, &[5, 6], Reservation::default(), |_| unreachable!(), SILENT).map(|(copied, _)| copied);
        assert_eq!((again, budget.used()), (Some(0), 2 * PAGE_SIZE));
    }

    #[test]
    fn a_write_that_cannot_pay_for_its_pages_changes_nothing() {
        let budget = Budget::new(10 * PAGE_SIZE);
        let overlay = CowMemory::default();
        let range = ByteRange::new(0, 2 * PAGE_SIZE);
        let paid = budget.try_take(PAGE_SIZE).unwrap();
        assert_eq!(overlay.write(range, &[1; 2 * PAGE_LEN], paid, |_| Bytes::new(), SILENT), None);
        assert_eq!((overlay.bytes(), budget.used()), (0, 0));
    }

    #[test]
    fn truncation_drops_pages_behind_the_end_and_frees_their_memory() {
        let budget = Budget::new(10 * PAGE_SIZE);
        let overlay = CowMemory::default();
        let paid = budget.try_take(3 * PAGE_SIZE).unwrap();
        overlay.write(ByteRange::new(0, 3 * PAGE_SIZE), &[7; 3 * PAGE_LEN], paid, |_| Bytes::new(), SILENT);
        overlay.truncate(PAGE_SIZE + 3);
        assert_eq!((overlay.bytes(), budget.used()), (2 * PAGE_SIZE, 2 * PAGE_SIZE));
        assert_eq!(slice_padded(&overlay.get(PageIndex(1)).unwrap(), 2..5)[..], [7, 0, 0]);
    }
}
