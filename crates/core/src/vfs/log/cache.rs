//! [`IndexCache`]: the part of the database's tables that is looked at again and again, in bounded memory.
//!
//! The database asks for an index, a filter and some data blocks on every lookup. File data has a cache of its
//! own above the store and passes this one by: scans are not cached.

use async_trait::async_trait;
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use slatedb::Error;
use slatedb::db_cache::{CachedEntry, CachedKey, DbCache};

/// What an entry costs beside its bytes: its key and its place in the cache.
const ENTRY_BYTES: u64 = 200;
/// Bytes of an entry on average: an index or a filter has some KiB, a block 16 KiB.
const AVERAGE_BYTES: u64 = 8 * 1024;

#[derive(Clone)]
struct ByBytes;

impl Weighter<CachedKey, CachedEntry> for ByBytes {
    fn weight(&self, _: &CachedKey, entry: &CachedEntry) -> u64 {
        entry.size() as u64 + ENTRY_BYTES
    }
}

pub(super) struct IndexCache(Cache<CachedKey, CachedEntry, ByBytes>);

impl IndexCache {
    /// A cache of `bytes` at most.
    pub(super) fn new(bytes: u64) -> Self {
        let entries = usize::try_from(bytes / AVERAGE_BYTES).unwrap_or(usize::MAX);
        Self(Cache::with_weighter(entries, bytes, ByBytes))
    }

    fn get(&self, key: &CachedKey) -> Option<CachedEntry> {
        self.0.get(key)
    }
}

#[async_trait]
impl DbCache for IndexCache {
    async fn get_block(&self, key: &CachedKey) -> Result<Option<CachedEntry>, Error> {
        Ok(self.get(key))
    }

    async fn get_index(&self, key: &CachedKey) -> Result<Option<CachedEntry>, Error> {
        Ok(self.get(key))
    }

    async fn get_filter(&self, key: &CachedKey) -> Result<Option<CachedEntry>, Error> {
        Ok(self.get(key))
    }

    async fn get_stats(&self, key: &CachedKey) -> Result<Option<CachedEntry>, Error> {
        Ok(self.get(key))
    }

    async fn insert(&self, key: CachedKey, value: CachedEntry) {
        self.0.insert(key, value);
    }

    async fn remove(&self, key: &CachedKey) {
        self.0.remove(key);
    }

    fn entry_count(&self) -> u64 {
        self.0.len() as u64
    }
}
