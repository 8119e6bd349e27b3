//! [`CowMemory`]: a private mapping's own pages. Empty at first; a page is copied here on its first write. A page
//! is in memory, or in the spill file where memory is wanted for others.
//!
//! Invariants: the memory of each page in memory is reserved before it is here; a page is in one place only.
//! Locks are taken file first, then overlay. It does not know the file: whoever writes brings the page's bytes
//! along. It touches no disk: whoever needs a spilled page's bytes brings them along too.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use smallvec::SmallVec;

use crate::block::{patch, slice_padded};
use crate::budget::Reservation;
use crate::journal::Lsn;
use crate::slices::Slices;
use crate::spill::{InHand, Slot};
use crate::units::{ByteRange, PAGE_LEN, PAGE_SIZE, PageIndex};

/// Copied pages by their place in the file.
#[derive(Debug, Default)]
pub struct CowMemory {
    pages: Mutex<Pages>,
}

#[derive(Debug, Default)]
struct Pages {
    present: BTreeMap<PageIndex, Present>,
    spilled: BTreeMap<PageIndex, Spilled>,
    /// Of the present pages.
    memory: Reservation,
    /// The journal's record of the last write.
    said: Lsn,
    /// Where the search for pages to spill goes on.
    hand: Option<PageIndex>,
}

/// A page in memory.
#[derive(Debug)]
struct Present {
    data: Bytes,
    /// It was touched since the hand last came by.
    touched: bool,
}

/// A page in the spill file.
#[derive(Clone, Debug)]
pub struct Spilled {
    slot: Arc<Slot>,
    /// So many of its bytes count; behind them are zeros.
    length: usize,
}

/// A copied page as it is at one instant.
#[derive(Clone, Debug)]
pub enum OwnPage {
    /// Its bytes; zeros behind them.
    Present(Bytes),
    /// Where it is.
    Spilled(Spilled),
}

/// What a write came to.
#[derive(Debug)]
pub enum Written {
    /// It is written, and so many pages were copied or came back into memory for it; the journal's record.
    Done(u64, Lsn),
    /// Nothing is written: it needs memory for so many bytes.
    NeedsMemory(u64),
    /// Nothing is written: it needs these pages at hand.
    NeedsPages(Vec<Arc<Slot>>),
}

impl Spilled {
    /// Where it is.
    pub fn slot(&self) -> Arc<Slot> {
        Arc::clone(&self.slot)
    }

    /// Its bytes, if they are at hand; else where they are.
    pub fn bytes(&self, in_hand: &InHand) -> Result<Bytes, Arc<Slot>> {
        in_hand.get(&self.slot).map(|data| data.slice(..self.length)).ok_or_else(|| Arc::clone(&self.slot))
    }
}

impl CowMemory {
    /// Whether the page is copied.
    pub fn has(&self, page: PageIndex) -> bool {
        let pages = self.pages.lock();
        pages.present.contains_key(&page) || pages.spilled.contains_key(&page)
    }

    /// The pages of `range` that are copied, in order, all taken at one instant, and the journal's record of the
    /// last write if there are any.
    pub fn snapshot(&self, range: ByteRange) -> (Vec<(PageIndex, OwnPage)>, Lsn) {
        let (first, last) = (PageIndex::of(range.start()), PageIndex(range.end().div_ceil(PAGE_SIZE)));
        let mut pages = self.pages.lock();
        let present = pages.present.range_mut(first..last).map(|(page, own)| {
            own.touched = true;
            (*page, OwnPage::Present(own.data.clone()))
        });
        let mut own: Vec<_> = present.collect();
        if !pages.spilled.is_empty() {
            let spilled = pages.spilled.range(first..last);
            own.extend(spilled.map(|(page, spilled)| (*page, OwnPage::Spilled(spilled.clone()))));
            own.sort_unstable_by_key(|(page, _)| *page);
        }
        let said = if own.is_empty() { Lsn::NONE } else { pages.said };
        (own, said)
    }

    /// Writes `data`, as far as `range` goes, at the file's byte `range.start()`; `base` brings the bytes of a page that is not copied
    /// yet and is written in part, `in_hand` those of a spilled one. `memory` pays for what comes into memory;
    /// what is left of it stays the caller's. `say` tells the journal what the written pages are then. All of it
    /// is written, or nothing.
    pub fn write<S: AsRef<[u8]>>(
        &self,
        range: ByteRange,
        data: &[S],
        memory: &mut Reservation,
        in_hand: &InHand,
        base: impl Fn(PageIndex) -> Bytes,
        say: Option<impl FnOnce(&[(PageIndex, Bytes)]) -> Lsn>,
    ) -> Written {
        let mut guard = self.pages.lock();
        let pages = &mut *guard;
        let mut needed = Vec::new();
        if !pages.spilled.is_empty() {
            let partly = |page: &PageIndex| !range.contains(page.range());
            let spilled = range.pages().filter(partly).filter_map(|page| pages.spilled.get(&page));
            needed.extend(spilled.filter_map(|spilled| spilled.bytes(in_hand).err()));
        }
        if !needed.is_empty() {
            return Written::NeedsPages(needed);
        }
        let new = range.pages().filter(|page| !pages.present.contains_key(page)).count() as u64;
        let Some(paid) = memory.split(new * PAGE_SIZE) else { return Written::NeedsMemory(new * PAGE_SIZE) };
        pages.memory.merge(paid);
        let mut data = Slices::new(data);
        for page in range.pages() {
            let part = range.intersect(page.range());
            // A part of a page is at most PAGE_LEN bytes.
            #[expect(clippy::cast_possible_truncation, reason = "at most PAGE_LEN")]
            let (offset, length) = ((part.start() - page.range().start()) as usize, part.len() as usize);
            let spilled = pages.spilled.remove(&page);
            let own = pages.present.entry(page).or_insert_with(|| {
                let old = match spilled {
                    _ if length == PAGE_LEN => Bytes::new(),
                    // It was found at hand above.
                    Some(spilled) => slice_padded(&spilled.bytes(in_hand).unwrap_or_default(), 0..PAGE_LEN),
                    None => slice_padded(&base(page), 0..PAGE_LEN),
                };
                Present { data: old, touched: true }
            });
            own.touched = true;
            patch(&mut own.data, offset..offset + length, |part| data.fill(part));
        }
        if let Some(say) = say {
            let image = |page| Some((page, pages.present.get(&page)?.data.clone()));
            let written: SmallVec<[_; 4]> = range.pages().filter_map(image).collect();
            pages.said = say(&written);
        }
        Written::Done(new, pages.said)
    }

    /// Says again what the present pages are, of `count` pages from `first` on. Answers the spilled ones among
    /// them, which are to be said with [`CowMemory::say_spilled`], and where to go on.
    pub fn say_again(
        &self,
        first: PageIndex,
        count: usize,
        say: impl FnOnce(&[(PageIndex, Bytes)]) -> Lsn,
    ) -> (Vec<(PageIndex, Spilled)>, Option<PageIndex>) {
        let pages = self.pages.lock();
        let present: Vec<_> =
            pages.present.range(first..).take(count).map(|(page, own)| (*page, own.data.clone())).collect();
        let spilled: Vec<_> =
            pages.spilled.range(first..).take(count).map(|(page, own)| (*page, own.clone())).collect();
        // Where one of the two was cut off, the other may reach farther than it is known.
        let end = |cut: bool, last: Option<PageIndex>| last.filter(|_| cut).map_or(u64::MAX, |last| last.0 + 1);
        let present_end = end(present.len() == count, present.last().map(|(page, _)| *page));
        let spilled_end = end(spilled.len() == count, spilled.last().map(|(page, _)| *page));
        let next = present_end.min(spilled_end);
        let present: Vec<_> = present.into_iter().filter(|(page, _)| page.0 < next).collect();
        if !present.is_empty() {
            say(&present);
        }
        let spilled = spilled.into_iter().filter(|(page, _)| page.0 < next).collect();
        (spilled, (next != u64::MAX).then_some(PageIndex(next)))
    }

    /// Says again what a spilled page is, unless it was written or cut since.
    pub fn say_spilled(
        &self,
        page: PageIndex,
        spilled: &Spilled,
        in_hand: &InHand,
        say: impl FnOnce(&[(PageIndex, Bytes)]) -> Lsn,
    ) {
        let pages = self.pages.lock();
        let same = |now: &Spilled| Arc::ptr_eq(&now.slot, &spilled.slot) && now.length == spilled.length;
        if pages.spilled.get(&page).is_some_and(same)
            && let Ok(data) = spilled.bytes(in_hand)
        {
            say(&[(page, data)]);
        }
    }

    /// Puts a page back as it was before the server was away; `memory` pays for it.
    pub fn restore(&self, page: PageIndex, data: Bytes, memory: Reservation) {
        let mut pages = self.pages.lock();
        pages.memory.merge(memory);
        pages.present.insert(page, Present { data, touched: false });
    }

    /// Drops what lies behind `size`: pages wholly behind it, and the rest of the page that it cuts.
    pub fn truncate(&self, size: u64) {
        let mut pages = self.pages.lock();
        let first_gone = PageIndex(size.div_ceil(PAGE_SIZE));
        let dropped = pages.present.split_off(&first_gone);
        pages.spilled.split_off(&first_gone);
        let freed = pages.memory.split(dropped.len() as u64 * PAGE_SIZE);
        drop(freed);
        let keep = (size % PAGE_SIZE) as usize;
        if keep != 0 {
            let cut = PageIndex::of(size);
            if let Some(page) = pages.present.get_mut(&cut) {
                page.data.truncate(keep);
            } else if let Some(page) = pages.spilled.get_mut(&cut) {
                page.length = page.length.min(keep);
            }
        }
    }

    /// Up to `count` pages to spill: present ones that were not touched since the hand last came by, which goes
    /// round at most twice.
    pub fn victims(&self, count: usize) -> Vec<(PageIndex, Bytes)> {
        let mut guard = self.pages.lock();
        let Pages { present, hand, .. } = &mut *guard;
        let mut victims = Vec::new();
        // Two rounds, and the two turns in which it begins anew.
        for _ in 0..2 * present.len() + 2 {
            if victims.len() == count {
                break;
            }
            let ahead = hand.map_or(Unbounded, Excluded);
            let Some((page, own)) = present.range_mut((ahead, Unbounded)).next() else {
                *hand = None;
                continue;
            };
            *hand = Some(*page);
            if !own.touched {
                victims.push((*page, own.data.clone()));
            }
            // One that was chosen is not chosen again in this round.
            own.touched = !own.touched;
        }
        victims
    }

    /// The page is in the spill file, if it is still as it was when it was chosen: then its memory is free.
    pub fn spill(&self, page: PageIndex, chosen: &Bytes, slot: Arc<Slot>) {
        let mut pages = self.pages.lock();
        // While `chosen` is held, whoever writes the page copies it: another buffer.
        let same = |own: &Present| own.data.as_ptr() == chosen.as_ptr() && own.data.len() == chosen.len();
        if pages.present.get(&page).is_some_and(same) {
            pages.present.remove(&page);
            pages.spilled.insert(page, Spilled { slot, length: chosen.len() });
            let freed = pages.memory.split(PAGE_SIZE);
            drop(freed);
        }
    }

    /// Bytes of the copied pages, wherever they are.
    pub fn bytes(&self) -> u64 {
        let pages = self.pages.lock();
        (pages.present.len() + pages.spilled.len()) as u64 * PAGE_SIZE
    }

    /// Bytes of those in memory.
    pub fn bytes_in_memory(&self) -> u64 {
        self.pages.lock().present.len() as u64 * PAGE_SIZE
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::budget::Budget;
    use crate::spill::SpillFile;

    /// No journal.
    const SILENT: Option<Say> = None;
    type Say = fn(&[(PageIndex, Bytes)]) -> Lsn;

    fn write(overlay: &CowMemory, range: ByteRange, data: &[u8], memory: Reservation) -> Written {
        let mut memory = memory;
        overlay.write(range, &[data], &mut memory, &InHand::default(), |_| Bytes::from_static(&[1; PAGE_LEN]), SILENT)
    }

    fn present(overlay: &CowMemory, page: u64) -> Bytes {
        match overlay.snapshot(PageIndex(page).range()).0.pop() {
            Some((_, OwnPage::Present(data))) => slice_padded(&data, 0..PAGE_LEN),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn mmap_private_page_is_copied_on_its_first_write_only() {
        let budget = Budget::new(10 * PAGE_SIZE);
        let overlay = CowMemory::default();
        let range = ByteRange::new(PAGE_SIZE - 1, PAGE_SIZE + 1);
        let copied = write(&overlay, range, &[8, 9], budget.try_take(2 * PAGE_SIZE).unwrap());
        assert!(matches!(copied, Written::Done(2, _)));
        assert_eq!((overlay.bytes(), budget.used()), (2 * PAGE_SIZE, 2 * PAGE_SIZE));
        assert_eq!(present(&overlay, 0)[PAGE_LEN - 2..], [1, 8]);
        assert_eq!(present(&overlay, 1)[..2], [9, 1]);
        let base = |_| unreachable!();
        let again = overlay.write(range, &[[5, 6]], &mut Reservation::default(), &InHand::default(), base, SILENT);
        assert!(matches!(again, Written::Done(0, _)));
        assert_eq!(budget.used(), 2 * PAGE_SIZE);
    }

    #[test]
    fn a_write_that_cannot_pay_for_its_pages_changes_nothing() {
        let budget = Budget::new(10 * PAGE_SIZE);
        let overlay = CowMemory::default();
        let range = ByteRange::new(0, 2 * PAGE_SIZE);
        let paid = budget.try_take(PAGE_SIZE).unwrap();
        let refused = write(&overlay, range, &[1; 2 * PAGE_LEN], paid);
        assert!(matches!(refused, Written::NeedsMemory(bytes) if bytes == 2 * PAGE_SIZE));
        assert_eq!((overlay.bytes(), budget.used()), (0, 0));
    }

    #[test]
    fn truncation_drops_pages_behind_the_end_and_frees_their_memory() {
        let budget = Budget::new(10 * PAGE_SIZE);
        let overlay = CowMemory::default();
        let paid = budget.try_take(3 * PAGE_SIZE).unwrap();
        write(&overlay, ByteRange::new(0, 3 * PAGE_SIZE), &[7; 3 * PAGE_LEN], paid);
        overlay.truncate(PAGE_SIZE + 3);
        assert_eq!((overlay.bytes(), budget.used()), (2 * PAGE_SIZE, 2 * PAGE_SIZE));
        assert_eq!(present(&overlay, 1)[2..5], [7, 0, 0]);
    }

    #[test]
    fn pages_that_are_touched_are_spilled_after_those_that_are_not() {
        let budget = Budget::new(10 * PAGE_SIZE);
        let overlay = CowMemory::default();
        let paid = budget.try_take(4 * PAGE_SIZE).unwrap();
        write(&overlay, ByteRange::new(0, 4 * PAGE_SIZE), &[7; 4 * PAGE_LEN], paid);
        let places = |victims: Vec<(PageIndex, Bytes)>| victims.iter().map(|(page, _)| page.0).collect::<Vec<_>>();
        assert_eq!(places(overlay.victims(1)), [0], "once round, all of them were touched");
        present(&overlay, 1);
        assert_eq!(places(overlay.victims(2)), [2, 3]);
        assert_eq!(places(overlay.victims(9)).len(), 4, "each once");
    }

    #[test]
    fn a_page_that_is_written_while_it_is_spilled_stays_in_memory() {
        let folder = tempfile::tempdir().unwrap();
        let spill = SpillFile::open(folder.path(), 10 * PAGE_SIZE).unwrap();
        let budget = Budget::new(10 * PAGE_SIZE);
        let overlay = CowMemory::default();
        let range = ByteRange::new(0, PAGE_SIZE);
        write(&overlay, range, &[7; PAGE_LEN], budget.try_take(PAGE_SIZE).unwrap());
        let (page, data) = overlay.victims(1).pop().unwrap();
        let slot = spill.write(&data).unwrap();
        write(&overlay, ByteRange::new(0, 1), &[8], Reservation::default());
        overlay.spill(page, &data, slot);
        assert_eq!((present(&overlay, 0)[0], spill.used(), budget.used()), (8, 0, PAGE_SIZE));
    }

    #[derive(Clone, Debug)]
    enum Op {
        Write { start: usize, length: usize, fill: u8 },
        Read,
        Spill(usize),
        Truncate(usize),
    }

    const SIZE: usize = 6 * PAGE_LEN;

    fn op() -> impl Strategy<Value = Op> {
        let write = (0..SIZE, 1..2 * PAGE_LEN, 2u8..255);
        prop_oneof![
            4 => write.prop_map(|(start, length, fill)| Op::Write { start, length: length.min(SIZE - start), fill }),
            2 => Just(Op::Read),
            3 => (0usize..5).prop_map(Op::Spill),
            1 => (0..SIZE).prop_map(Op::Truncate),
        ]
    }

    /// The bytes of every copied page; `spill` brings those that are not in memory.
    fn check(overlay: &CowMemory, model: &BTreeMap<usize, Vec<u8>>) {
        let all = overlay.snapshot(ByteRange::new(0, SIZE as u64));
        let mut found = BTreeMap::new();
        for (page, own) in all.0 {
            let data = match own {
                OwnPage::Present(data) => data,
                OwnPage::Spilled(spilled) => spilled.slot.read().unwrap().slice(..spilled.length),
            };
            found.insert(usize::try_from(page.0).unwrap(), slice_padded(&data, 0..PAGE_LEN).to_vec());
        }
        assert!(found == *model, "the pages differ");
    }

    proptest! {
        #[test]
        fn spilled_or_not_the_pages_are_what_was_written(ops in proptest::collection::vec(op(), 1..40)) {
            let folder = tempfile::tempdir().unwrap();
            let spill = SpillFile::open(folder.path(), 64 * PAGE_SIZE).unwrap();
            let budget = Budget::new(64 * PAGE_SIZE);
            let overlay = CowMemory::default();
            let mut model: BTreeMap<usize, Vec<u8>> = BTreeMap::new();
            for op in ops {
                match op {
                    Op::Write { start, length, fill } => {
                        let range = ByteRange::new(start as u64, (start + length) as u64);
                        let (data, mut memory, mut in_hand) = (vec![fill; length], Reservation::default(), InHand::default());
                        loop {
                            let base = |_| Bytes::from_static(&[1; PAGE_LEN]);
                            match overlay.write(range, &[&data], &mut memory, &in_hand, base, SILENT) {
                                Written::Done(..) => break,
                                Written::NeedsMemory(bytes) => memory = budget.try_take(bytes).unwrap(),
                                Written::NeedsPages(slots) => {
                                    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                                    runtime.block_on(in_hand.bring(slots)).unwrap();
                                }
                            }
                        }
                        for at in start..start + length {
                            model.entry(at / PAGE_LEN).or_insert_with(|| vec![1; PAGE_LEN])[at % PAGE_LEN] = fill;
                        }
                    }
                    Op::Read => check(&overlay, &model),
                    Op::Spill(count) => {
                        for (page, data) in overlay.victims(count) {
                            overlay.spill(page, &data, spill.write(&data).unwrap());
                        }
                    }
                    Op::Truncate(size) => {
                        overlay.truncate(size as u64);
                        model.retain(|page, _| page * PAGE_LEN < size);
                        if let Some(page) = model.get_mut(&(size / PAGE_LEN)) {
                            page[size % PAGE_LEN..].fill(0);
                        }
                    }
                }
                prop_assert_eq!(budget.used(), overlay.bytes_in_memory());
                prop_assert_eq!(spill.used(), overlay.bytes() - overlay.bytes_in_memory());
            }
            check(&overlay, &model);
        }
    }
}
