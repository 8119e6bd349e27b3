//! [`BlockCache`]: clean blocks of all files, in a byte-weighted, scan-resistant cache.
//!
//! quick_cache and not foyer: this cache is memory only, and quick_cache (S3-FIFO's relative) is one crate
//! without tasks of its own; foyer's strength is its disk tier, which nothing here asks for yet.
//!
//! Invariant: only bytes that the store has are in it, so dropping any of them loses nothing. A block is known
//! by its content's id, not by its file: replacing a content makes its blocks unreachable at once, and they
//! age out. One fetch per missing block is the file's affair.

use bytes::Bytes;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};

use crate::units::{BLOCK_SIZE, BlockIndex, ByteRange, PAGE_SIZE};

/// One content of one file: changes when somebody else replaces the file in its store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ContentId(pub u64);

/// The part of a full cache through which new blocks pass: in it those stay that were read ahead, until their reader
/// comes. The library's own choice is 0.03, which is less than what is read ahead of a few readers.
const ENTRY_PART: f64 = 0.2;
/// Bytes that an entry costs beside its block: key, pointers, ghost entries; an upper estimate.
const ENTRY_OVERHEAD: u64 = 192;

#[derive(Clone, Debug)]
struct ByBytes;

impl Weighter<(ContentId, BlockIndex), Bytes> for ByBytes {
    fn weight(&self, _key: &(ContentId, BlockIndex), block: &Bytes) -> u64 {
        block.len() as u64 + ENTRY_OVERHEAD
    }
}

/// The clean blocks in memory.
#[derive(Debug)]
pub struct BlockCache {
    blocks: Cache<(ContentId, BlockIndex), Bytes, ByBytes>,
}

impl BlockCache {
    /// A cache of at most `capacity` bytes.
    pub fn new(capacity: u64) -> Self {
        let estimate = usize::try_from(capacity / BLOCK_SIZE).unwrap_or(usize::MAX).max(16);
        let mut options = OptionsBuilder::new();
        options.estimated_items_capacity(estimate).weight_capacity(capacity).hot_allocation(1.0 - ENTRY_PART);
        let blocks = match options.build() {
            Ok(options) => {
                let (hasher, lifecycle) = (DefaultHashBuilder::default(), DefaultLifecycle::default());
                Cache::with_options(options, ByBytes, hasher, lifecycle)
            }
            // Both capacities are set, which is all that it asks for.
            Err(_) => Cache::with_weighter(estimate, capacity, ByBytes),
        };
        Self { blocks }
    }

    /// The block, if it is here.
    pub fn get(&self, content: ContentId, block: BlockIndex) -> Option<Bytes> {
        self.blocks.get(&(content, block))
    }

    /// Whether the block is here. Asking does not keep it here longer.
    pub fn has(&self, content: ContentId, block: BlockIndex) -> bool {
        self.blocks.contains_key(&(content, block))
    }

    /// Keeps a clean block, dropping others for it.
    pub fn insert(&self, content: ContentId, block: BlockIndex, data: Bytes) {
        self.blocks.insert((content, block), data);
    }

    /// Takes the block out.
    pub fn remove(&self, content: ContentId, block: BlockIndex) -> Option<Bytes> {
        self.blocks.remove(&(content, block)).map(|(_, data)| data)
    }

    /// Takes every block out from `first` on.
    pub fn remove_from(&self, content: ContentId, first: BlockIndex, end: BlockIndex) {
        if end.0.saturating_sub(first.0) <= self.blocks.len() as u64 {
            for index in first.0..end.0 {
                self.remove(content, BlockIndex(index));
            }
        } else {
            self.blocks.retain(|(owner, block), _| *owner != content || *block < first);
        }
    }

    /// Bytes of `range` of a content that are here, in whole pages, blocks that `skip` names left out.
    pub fn resident_bytes(&self, content: ContentId, range: ByteRange, skip: impl Fn(BlockIndex) -> bool) -> u64 {
        let pages = |block: BlockIndex| {
            let part = range.page_aligned().intersect(block.range());
            if skip(block) { 0 } else { part.len().next_multiple_of(PAGE_SIZE) }
        };
        if range.block_count() <= self.blocks.len() as u64 {
            return range.blocks().filter(|block| self.blocks.peek(&(content, *block)).is_some()).map(pages).sum();
        }
        self.blocks.iter().filter(|((owner, _), _)| *owner == content).map(|((_, block), _)| pages(block)).sum()
    }

    /// Bytes that the blocks here cost.
    pub fn weight(&self) -> u64 {
        self.blocks.weight()
    }

    /// Bytes that they may cost.
    pub fn capacity(&self) -> u64 {
        self.blocks.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::BLOCK_LEN;

    #[test]
    fn the_cache_stays_within_its_capacity() {
        let cache = BlockCache::new(64 * BLOCK_SIZE);
        for index in 0..1000 {
            cache.insert(ContentId(1), BlockIndex(index), Bytes::from(vec![0; BLOCK_LEN]));
            assert!(cache.weight() <= cache.capacity());
        }
        assert!(cache.weight() > cache.capacity() / 2);
    }

    #[test]
    fn residency_counts_only_the_range_and_the_content_asked_for() {
        let cache = BlockCache::new(64 * BLOCK_SIZE);
        cache.insert(ContentId(1), BlockIndex(0), Bytes::from(vec![0; BLOCK_LEN]));
        cache.insert(ContentId(1), BlockIndex(5), Bytes::from(vec![0; BLOCK_LEN]));
        cache.insert(ContentId(2), BlockIndex(1), Bytes::from(vec![0; BLOCK_LEN]));
        let all = ByteRange::new(0, 1 << 40);
        assert_eq!(cache.resident_bytes(ContentId(1), all, |_| false), 2 * BLOCK_SIZE);
        assert_eq!(cache.resident_bytes(ContentId(1), ByteRange::new(1, 2), |_| false), PAGE_SIZE);
        assert_eq!(cache.resident_bytes(ContentId(1), all, |block| block.0 == 5), BLOCK_SIZE);
        cache.remove_from(ContentId(1), BlockIndex(1), BlockIndex(u64::MAX));
        assert_eq!(cache.resident_bytes(ContentId(1), all, |_| false), BLOCK_SIZE);
        assert!(cache.get(ContentId(2), BlockIndex(1)).is_some());
    }
}
