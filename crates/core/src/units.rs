//! Bytes, pages and blocks: ranges that cannot overflow, and their split into blocks and pages.
//!
//! A page (4 KiB) is the unit of protection, residency and dirty tracking; a block (64 KiB, 16 pages) the
//! unit of caching and of I/O. All arithmetic on offsets in this crate goes through these types.

use std::fmt;

use crate::error::{Error, Result};

/// Bytes of a page: what mmap(2) users expect on every common machine.
pub const PAGE_SIZE: u64 = 4096;
/// Bytes of a block: small enough that a random read brings little that nobody asked for, and as many pages as a
/// 16-bit mask has bits. Large reads fetch runs of blocks with one request.
pub const BLOCK_SIZE: u64 = 64 * 1024;
/// [`BLOCK_SIZE`] as a buffer length.
pub const BLOCK_LEN: usize = 64 * 1024;
/// [`PAGE_SIZE`] as a buffer length.
pub const PAGE_LEN: usize = 4096;
/// Pages of a block: as many as a [`PageMask`] has bits.
pub const PAGES_PER_BLOCK: u32 = 16;
/// No file and no mapping reaches beyond this: the largest offset that POSIX (`off_t`) can say.
pub const MAX_OFFSET: u64 = i64::MAX as u64;

/// A block of a file, counted from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockIndex(pub u64);

/// A page of a file, counted from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageIndex(pub u64);

impl BlockIndex {
    /// The block that holds the byte at `offset`.
    pub const fn of(offset: u64) -> Self {
        Self(offset / BLOCK_SIZE)
    }

    /// The bytes of this block; the last possible one is cut off at [`MAX_OFFSET`].
    pub const fn range(self) -> ByteRange {
        let start = self.0.saturating_mul(BLOCK_SIZE);
        ByteRange { start, end: start.saturating_add(BLOCK_SIZE) }
    }
}

impl PageIndex {
    /// The page that holds the byte at `offset`.
    pub const fn of(offset: u64) -> Self {
        Self(offset / PAGE_SIZE)
    }

    /// The bytes of this page.
    pub const fn range(self) -> ByteRange {
        let start = self.0.saturating_mul(PAGE_SIZE);
        ByteRange { start, end: start.saturating_add(PAGE_SIZE) }
    }
}

/// Bytes `start..end` of a file or a mapping. `start <= end` always holds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ByteRange {
    start: u64,
    end: u64,
}

impl ByteRange {
    /// `length` bytes from `offset`.
    ///
    /// # Errors
    /// [`Errno::Inval`](crate::error::Errno::Inval) for no bytes at all, or an end beyond [`MAX_OFFSET`].
    pub fn checked(offset: u64, length: u64) -> Result<Self> {
        if length == 0 {
            return Err(Error::invalid("length", "length is 0: name at least one byte").with("length", 0));
        }
        match offset.checked_add(length) {
            Some(end) if end <= MAX_OFFSET => Ok(Self { start: offset, end }),
            _ => Err(Error::invalid(
                "length",
                format!("offset {offset} + length {length} is beyond the largest offset {MAX_OFFSET}"),
            )
            .with("offset", offset)
            .with("length", length)
            .with("max", MAX_OFFSET)),
        }
    }

    /// `start..end`; empty if `end` is not behind `start`.
    pub const fn new(start: u64, end: u64) -> Self {
        Self { start, end: if end < start { start } else { end } }
    }

    /// First byte.
    pub const fn start(self) -> u64 {
        self.start
    }

    /// Behind the last byte.
    pub const fn end(self) -> u64 {
        self.end
    }

    /// Number of bytes.
    pub const fn len(self) -> u64 {
        self.end - self.start
    }

    /// Whether there is no byte in it.
    pub const fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// Whether all of `other` lies in it.
    pub const fn contains(self, other: Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }

    /// The bytes that both have; empty if there are none.
    pub fn intersect(self, other: Self) -> Self {
        Self::new(self.start.max(other.start), self.end.min(other.end))
    }

    /// Whether both have a byte in common.
    pub fn overlaps(self, other: Self) -> bool {
        !self.intersect(other).is_empty()
    }

    /// The same bytes, counted from `base` further on; cut off at [`MAX_OFFSET`].
    pub fn shifted(self, base: u64) -> Self {
        Self::new(self.start.saturating_add(base).min(MAX_OFFSET), self.end.saturating_add(base).min(MAX_OFFSET))
    }

    /// Grown to whole pages.
    pub fn page_aligned(self) -> Self {
        Self::new(self.start - self.start % PAGE_SIZE, self.end.next_multiple_of(PAGE_SIZE))
    }

    /// The blocks it touches, in order.
    pub fn blocks(self) -> impl DoubleEndedIterator<Item = BlockIndex> + Clone {
        let first = self.start / BLOCK_SIZE;
        (first..first + self.block_count()).map(BlockIndex)
    }

    /// How many blocks it touches.
    pub const fn block_count(self) -> u64 {
        if self.is_empty() { 0 } else { self.end.div_ceil(BLOCK_SIZE) - self.start / BLOCK_SIZE }
    }

    /// The pages it touches, in order.
    pub fn pages(self) -> impl DoubleEndedIterator<Item = PageIndex> + Clone {
        let first = self.start / PAGE_SIZE;
        // No page for no bytes, also where they would lie within one.
        let end = if self.is_empty() { first } else { self.end.div_ceil(PAGE_SIZE) };
        (first..end).map(PageIndex)
    }

    /// The part that lies in `block`, counted from the block's start.
    pub fn within(self, block: BlockIndex) -> std::ops::Range<usize> {
        let part = self.intersect(block.range());
        let base = block.range().start;
        // A part of a block is at most BLOCK_LEN, which every usize holds.
        #[expect(clippy::cast_possible_truncation, reason = "at most BLOCK_LEN")]
        let (start, end) = ((part.start - base.min(part.start)) as usize, (part.end - base.min(part.end)) as usize);
        start..end
    }
}

impl fmt::Debug for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.start, self.end)
    }
}

impl fmt::Display for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A set of pages of one block: bit `i` is page `i` of the block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageMask(pub u16);

impl PageMask {
    /// No page.
    pub const NONE: Self = Self(0);
    /// Every page of the block.
    pub const ALL: Self = Self(u16::MAX);

    /// The pages that the bytes `part` of a block touch.
    pub fn touched(part: std::ops::Range<usize>) -> Self {
        Self::pages(part.start / PAGE_LEN, part.end.div_ceil(PAGE_LEN))
    }

    /// The pages that the bytes `part` of a block cover wholly.
    pub fn covered(part: std::ops::Range<usize>) -> Self {
        Self::pages(part.start.div_ceil(PAGE_LEN), part.end / PAGE_LEN)
    }

    fn pages(first: usize, end: usize) -> Self {
        let end = end.min(PAGES_PER_BLOCK as usize);
        if first >= end {
            return Self::NONE;
        }
        let below = |n: usize| (1u32 << n) - 1;
        // Both are at most 2^16 - 1, because `end` is at most 16.
        #[expect(clippy::cast_possible_truncation, reason = "at most 16 bits")]
        Self((below(end) & !below(first)) as u16)
    }

    /// Pages in either.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Pages in both.
    #[must_use]
    pub const fn intersect(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Pages of this one that are not in `other`.
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether there is no page in it.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether every page of `other` is in it.
    pub const fn contains(self, other: Self) -> bool {
        other.0 & !self.0 == 0
    }

    /// Number of pages.
    pub const fn count(self) -> u32 {
        self.0.count_ones()
    }

    /// Bytes of its pages.
    pub const fn bytes(self) -> u64 {
        self.0.count_ones() as u64 * PAGE_SIZE
    }

    /// Runs of neighbouring pages, as byte ranges of the block.
    pub fn runs(self) -> impl Iterator<Item = std::ops::Range<usize>> {
        let mut bits = u32::from(self.0);
        let mut base = 0usize;
        std::iter::from_fn(move || {
            if bits == 0 {
                return None;
            }
            let skip = bits.trailing_zeros() as usize;
            let length = (bits >> skip).trailing_ones() as usize;
            let first = base + skip;
            base = first + length;
            // At most 16, so that a shift of 32 bits is always a shift.
            bits >>= skip + length;
            Some(first * PAGE_LEN..(first + length) * PAGE_LEN)
        })
    }
}

/// The pages of any number of ranges, in order and without overlaps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageSet(Vec<ByteRange>);

impl PageSet {
    /// The pages that `ranges` touch.
    pub fn of(ranges: &[ByteRange]) -> Self {
        let mut sorted: Vec<ByteRange> = ranges.iter().map(|range| range.page_aligned()).collect();
        sorted.sort_unstable();
        let mut merged: Vec<ByteRange> = Vec::new();
        for range in sorted.into_iter().filter(|range| !range.is_empty()) {
            match merged.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => merged.push(range),
            }
        }
        Self(merged)
    }

    /// Runs of neighbouring pages, in order.
    pub fn ranges(&self) -> &[ByteRange] {
        &self.0
    }

    /// Those of its pages that lie in `block`.
    pub fn in_block(&self, block: BlockIndex) -> PageMask {
        let first = self.0.partition_point(|range| range.end <= block.range().start);
        let here = self.0[first..].iter().take_while(|range| range.start < block.range().end);
        here.fold(PageMask::NONE, |mask, range| mask.union(PageMask::touched(range.within(block))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Errno;

    #[test]
    fn a_page_set_merges_ranges_and_finds_a_blocks_pages() {
        let ranges = [(200_000, 200_001), (5, 6), (4000, 9000), (8192, 8193), (7, 7), (65_536 * 5, 65_536 * 7)];
        let set = PageSet::of(&ranges.map(|(start, end)| ByteRange::new(start, end)));
        let merged: Vec<_> = set.ranges().iter().map(|range| (range.start(), range.end())).collect();
        assert_eq!(merged, [(0, 12_288), (196_608, 200_704), (327_680, 458_752)]);
        assert_eq!(set.in_block(BlockIndex(0)), PageMask(0b111));
        assert_eq!(set.in_block(BlockIndex(3)), PageMask(0b1));
        assert_eq!([1, 2, 4, 7].map(|block| set.in_block(BlockIndex(block))), [PageMask::NONE; 4]);
        assert_eq!([5, 6].map(|block| set.in_block(BlockIndex(block))), [PageMask::ALL; 2]);
    }

    #[test]
    fn a_range_of_no_bytes_or_beyond_the_largest_offset_is_refused() {
        for (offset, length) in [(0, 0), (u64::MAX, 1), (1, u64::MAX), (MAX_OFFSET, 1), (u64::MAX, u64::MAX)] {
            assert_eq!(ByteRange::checked(offset, length).unwrap_err().errno(), Errno::Inval);
        }
        assert_eq!(ByteRange::checked(MAX_OFFSET - 1, 1).unwrap().len(), 1);
    }

    #[test]
    fn a_range_splits_into_the_parts_that_lie_in_its_blocks() {
        let range = ByteRange::checked(BLOCK_SIZE - 10, BLOCK_SIZE + 20).unwrap();
        let parts: Vec<_> = range.blocks().map(|block| (block.0, range.within(block))).collect();
        assert_eq!(parts, [(0, BLOCK_LEN - 10..BLOCK_LEN), (1, 0..BLOCK_LEN), (2, 0..10)]);
        assert_eq!(range.block_count(), 3);
        assert_eq!(range.within(BlockIndex(7)).len(), 0);
        let empty = ByteRange::new(BLOCK_SIZE + 1, BLOCK_SIZE + 1);
        assert_eq!((empty.blocks().count(), empty.pages().count(), empty.block_count()), (0, 0, 0));
    }

    #[test]
    fn masks_tell_touched_from_covered_pages() {
        assert_eq!(PageMask::touched(1..PAGE_LEN + 1), PageMask(0b11));
        assert_eq!(PageMask::covered(1..PAGE_LEN * 2), PageMask(0b10));
        assert_eq!(PageMask::covered(1..PAGE_LEN), PageMask::NONE);
        assert_eq!(PageMask::touched(0..BLOCK_LEN), PageMask::ALL);
        let runs: Vec<_> = PageMask(0b1000_0000_0110_0001).runs().collect();
        assert_eq!(runs, [0..PAGE_LEN, 5 * PAGE_LEN..7 * PAGE_LEN, 15 * PAGE_LEN..BLOCK_LEN]);
        assert!(PageMask::ALL.runs().eq(std::iter::once(0..BLOCK_LEN)));
    }
}
