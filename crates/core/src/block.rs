//! A block's bytes and bits: pure, no I/O, no locks.
//!
//! Bytes are held in buffers that may be shorter than a block: what lies behind a buffer's end is zeros. So a
//! small file costs its own size, and cutting a file short is cutting its last block's buffer short.
//!
//! Invariants: in a [`DirtyBlock`] `dirty` and `writing` pages are `valid`; bytes behind the file's end are
//! zeros in every buffer (whoever writes clips to the file's size).

use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;
use tokio::time::Instant;

use crate::budget::Reservation;
use crate::journal::Lsn;
use crate::units::{BLOCK_LEN, PAGE_LEN, PageMask};

/// A block of zeros, referenced wherever zeros are read.
static ZEROS: &[u8] = &[0; BLOCK_LEN];

/// The bytes of a read: slices of resident blocks, referenced and not copied.
#[derive(Clone, Debug, Default)]
pub struct ReadBytes {
    slices: SmallVec<[Bytes; 2]>,
    len: usize,
}

impl ReadBytes {
    /// Appends a slice.
    pub fn push(&mut self, slice: Bytes) {
        if !slice.is_empty() {
            self.len += slice.len();
            self.slices.push(slice);
        }
    }

    /// Appends `part` of a block whose bytes are `data`, and zeros behind them.
    pub fn push_part(&mut self, data: &Bytes, part: std::ops::Range<usize>) {
        let end = part.end.min(data.len());
        if part.start < end {
            self.push(data.slice(part.start..end));
        }
        self.push_zeros(part.end - part.start.max(end).min(part.end));
    }

    /// Appends zeros.
    pub fn push_zeros(&mut self, mut count: usize) {
        while count > 0 {
            let step = count.min(BLOCK_LEN);
            self.push(Bytes::from_static(&ZEROS[..step]));
            count -= step;
        }
    }

    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no byte.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The slices, in order; none is empty.
    pub fn slices(&self) -> &[Bytes] {
        &self.slices
    }

    /// All bytes in one buffer: without a copy if they lie in one block.
    pub fn into_bytes(mut self) -> Bytes {
        if self.slices.len() <= 1 {
            return self.slices.pop().unwrap_or_default();
        }
        let mut all = BytesMut::with_capacity(self.len);
        for slice in &self.slices {
            all.extend_from_slice(slice);
        }
        all.freeze()
    }
}

impl<T: AsRef<[u8]> + ?Sized> PartialEq<T> for ReadBytes {
    fn eq(&self, other: &T) -> bool {
        let mut rest = other.as_ref();
        self.len == rest.len()
            && self.slices.iter().all(|slice| {
                let (head, tail) = rest.split_at(slice.len());
                rest = tail;
                head == slice
            })
    }
}

/// Has `fill` write the bytes `part` of `buffer`, which grows with zeros up to a page's end where needed. Copies
/// the buffer first if somebody else still reads it: their bytes stay as they were.
pub fn patch(buffer: &mut Bytes, part: std::ops::Range<usize>, fill: impl FnOnce(&mut [u8])) {
    let mut bytes = match std::mem::take(buffer).try_into_mut() {
        Ok(unique) => unique,
        Err(shared) => {
            let mut copy = BytesMut::with_capacity(shared.len().max(part.end.next_multiple_of(PAGE_LEN)));
            copy.extend_from_slice(&shared);
            copy
        }
    };
    if bytes.len() < part.end {
        bytes.resize(part.end.next_multiple_of(PAGE_LEN), 0);
    }
    fill(&mut bytes[part]);
    *buffer = bytes.freeze();
}

/// A block with unsynced pages, or with pages that are being written back.
#[derive(Debug)]
pub struct DirtyBlock {
    data: Bytes,
    valid: PageMask,
    dirty: PageMask,
    writing: PageMask,
    /// The journal's record of its last write.
    pub said: Lsn,
    /// When its oldest unsynced page was written.
    since: Instant,
    _memory: Reservation,
    /// Pays for the copy of a block that is written while the store still has the old one in its hands.
    copy: Option<Reservation>,
}

impl DirtyBlock {
    /// A block whose clean bytes are `clean`, or not known at all.
    pub fn new(clean: Option<Bytes>, memory: Reservation) -> Self {
        let valid = if clean.is_some() { PageMask::ALL } else { PageMask::NONE };
        Self {
            data: clean.unwrap_or_default(),
            valid,
            dirty: PageMask::NONE,
            writing: PageMask::NONE,
            said: Lsn::NONE,
            since: Instant::now(),
            _memory: memory,
            copy: None,
        }
    }

    /// When its oldest unsynced page was written.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// Whether writing to it now would copy it, because it is being written back: the copy is to be paid for
    /// with [`DirtyBlock::pay_for_copy`].
    pub fn needs_copy(&self) -> bool {
        !self.writing.is_empty() && self.copy.is_none()
    }

    /// Memory for the copy, until the write-back has ended.
    pub fn pay_for_copy(&mut self, memory: Reservation) {
        self.copy = Some(memory);
    }

    /// The bytes. Only `valid` pages mean anything.
    pub fn data(&self) -> &Bytes {
        &self.data
    }

    /// Pages whose bytes are known.
    pub fn valid(&self) -> PageMask {
        self.valid
    }

    /// Pages that the store does not have yet, those being written back included.
    pub fn unsynced(&self) -> PageMask {
        self.dirty.union(self.writing)
    }

    /// Pages that are known and the same in the store.
    pub fn clean(&self) -> PageMask {
        self.valid.minus(self.unsynced())
    }

    /// Has `fill` write the bytes `part`. Pages written only in part must be valid; `covered` are those written
    /// wholly.
    pub fn write(&mut self, part: std::ops::Range<usize>, covered: PageMask, fill: impl FnOnce(&mut [u8])) {
        let touched = PageMask::touched(part.clone());
        debug_assert!(self.valid.union(covered).contains(touched), "a partly written page must be valid");
        patch(&mut self.data, part, fill);
        self.valid = self.valid.union(touched);
        self.dirty = self.dirty.union(touched);
    }

    /// Takes pages that are not valid from the store's bytes.
    pub fn fill(&mut self, clean: &Bytes) {
        let missing = PageMask::ALL.minus(self.valid);
        for run in missing.runs() {
            let end = run.end.min(clean.len());
            if run.start < end {
                patch(&mut self.data, run.start..end, |page| page.copy_from_slice(&clean[run.start..end]));
            }
            if end.max(run.start) < self.data.len().min(run.end) {
                let behind = end.max(run.start)..self.data.len().min(run.end);
                patch(&mut self.data, behind, |rest| rest.fill(0));
            }
        }
        self.valid = PageMask::ALL;
    }

    /// Marks the dirty pages among `pages` as being written back, and says which they are.
    pub fn begin_writing(&mut self, pages: PageMask) -> PageMask {
        let cut = self.dirty.intersect(pages);
        self.writing = self.writing.union(cut);
        self.dirty = self.dirty.minus(cut);
        cut
    }

    /// The pages being written back are in the store. Answers those of them that were not written since.
    pub fn end_writing(&mut self) -> PageMask {
        self.copy = None;
        // What was written since the cut is younger than the cut, and this is the least that is known of it.
        self.since = Instant::now();
        std::mem::take(&mut self.writing).minus(self.dirty)
    }

    /// The pages being written back did not reach the store: they are dirty again.
    pub fn abort_writing(&mut self) {
        self.dirty = self.unsynced();
        self.writing = PageMask::NONE;
        self.copy = None;
    }

    /// Gives unsynced `pages` up: their bytes are not known any more.
    pub fn forget(&mut self, pages: PageMask) {
        let given_up = pages.intersect(self.unsynced());
        self.dirty = self.dirty.minus(given_up);
        self.writing = self.writing.minus(given_up);
        self.valid = self.valid.minus(given_up);
    }

    /// Keeps only the unsynced pages: the others' bytes are not known any more.
    pub fn forget_clean(&mut self) {
        self.valid = self.unsynced();
    }

    /// Cuts the block after `length` bytes: what lies behind is zeros, and not unsynced any more.
    pub fn truncate(&mut self, length: usize) {
        let behind = PageMask::covered(length.next_multiple_of(PAGE_LEN)..BLOCK_LEN);
        self.data.truncate(length);
        self.dirty = self.dirty.minus(behind);
        self.writing = self.writing.minus(behind);
        self.valid = self.valid.union(behind);
    }

    /// The bytes of `run`, zeros behind the buffer's end included.
    pub fn slice(&self, run: std::ops::Range<usize>) -> Bytes {
        slice_padded(&self.data, run)
    }
}

/// The bytes of `run` of a block's buffer: a reference, or a padded copy where the buffer ends within.
pub fn slice_padded(data: &Bytes, run: std::ops::Range<usize>) -> Bytes {
    if run.end <= data.len() {
        return data.slice(run);
    }
    if run.start >= data.len() {
        return Bytes::from_static(&ZEROS[..run.len()]);
    }
    let mut padded = BytesMut::with_capacity(run.len());
    padded.extend_from_slice(&data[run.start..]);
    padded.resize(run.len(), 0);
    padded.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(clean: Option<&[u8]>) -> DirtyBlock {
        DirtyBlock::new(clean.map(Bytes::copy_from_slice), Reservation::default())
    }

    fn write(block: &mut DirtyBlock, offset: usize, data: &[u8], covered: PageMask) {
        block.write(offset..offset + data.len(), covered, |part| part.copy_from_slice(data));
    }

    #[test]
    fn a_reader_keeps_its_bytes_when_the_block_is_patched() {
        let mut buffer = Bytes::from(vec![1; PAGE_LEN]);
        let reader = buffer.slice(0..4);
        patch(&mut buffer, 0..2, |part| part.fill(9));
        assert_eq!((&reader[..], &buffer[..3]), (&[1, 1, 1, 1][..], &[9, 9, 1][..]));
    }

    #[test]
    fn a_patch_of_bytes_nobody_reads_copies_nothing() {
        let mut buffer = Bytes::from(vec![1; PAGE_LEN]);
        let before = buffer.as_ptr();
        patch(&mut buffer, 5..6, |part| part.fill(2));
        assert_eq!(buffer.as_ptr(), before);
    }

    #[test]
    fn bytes_behind_a_short_buffer_read_as_zeros() {
        let mut read = ReadBytes::default();
        read.push_part(&Bytes::from_static(b"abc"), 1..6);
        assert_eq!(read, b"bc\0\0\0");
        assert_eq!(read.len(), 5);
        let mut behind = ReadBytes::default();
        behind.push_part(&Bytes::from_static(b"abc"), 10..12);
        assert_eq!(behind, b"\0\0");
        assert_eq!(slice_padded(&Bytes::from_static(b"abc"), 2..4)[..], b"c\0"[..]);
    }

    #[test]
    fn filling_touches_only_pages_that_are_not_valid() {
        let mut block = block(None);
        write(&mut block, PAGE_LEN, &[7; PAGE_LEN], PageMask(0b10));
        block.fill(&Bytes::from(vec![3; 3 * PAGE_LEN - 1]));
        assert_eq!(block.valid(), PageMask::ALL);
        assert_eq!(block.slice(PAGE_LEN - 1..PAGE_LEN + 1)[..], [3, 7]);
        assert_eq!(block.slice(2 * PAGE_LEN - 1..2 * PAGE_LEN + 1)[..], [7, 3]);
        assert_eq!(block.slice(3 * PAGE_LEN - 2..3 * PAGE_LEN + 1)[..], [3, 0, 0]);
        assert_eq!(block.unsynced(), PageMask(0b10));
    }

    #[test]
    fn filling_zeroes_what_an_older_buffer_held_behind_the_stores_end() {
        let mut block = block(Some(&[5; 2 * PAGE_LEN]));
        write(&mut block, 0, &[6], PageMask::NONE);
        block.forget_clean();
        block.fill(&Bytes::from(vec![3; 10]));
        assert_eq!(block.slice(0..1)[..], [6]);
        assert_eq!(block.slice(PAGE_LEN..PAGE_LEN + 2)[..], [0, 0]);
    }

    #[test]
    fn a_page_written_during_write_back_stays_dirty() {
        let mut block = block(Some(&[0; BLOCK_LEN]));
        write(&mut block, 0, &[1], PageMask::NONE);
        assert_eq!(block.begin_writing(PageMask::ALL), PageMask(1));
        write(&mut block, 1, &[2], PageMask::NONE);
        block.end_writing();
        assert_eq!(block.unsynced(), PageMask(1));
        block.begin_writing(PageMask::ALL);
        block.abort_writing();
        assert_eq!(block.begin_writing(PageMask::ALL), PageMask(1));
    }

    #[test]
    fn truncation_drops_unsynced_pages_behind_the_end_and_zeroes_the_rest() {
        let mut block = block(Some(&[4; BLOCK_LEN]));
        write(&mut block, 0, &[1; BLOCK_LEN], PageMask::ALL);
        block.truncate(PAGE_LEN + 1);
        assert_eq!(block.unsynced(), PageMask(0b11));
        assert_eq!(block.slice(PAGE_LEN..PAGE_LEN + 3)[..], [1, 0, 0]);
        assert_eq!(block.valid(), PageMask::ALL);
    }
}
