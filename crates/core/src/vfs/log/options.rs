//! [`LogOptions`] and the database's settings: how much memory it takes, how often it cleans up.
//!
//! The memory of one mount beyond `--memory`: up to 64 MiB of changes that are not in tables yet
//! ([`UNFLUSHED_MAX`]), of which the table being filled is 8 MiB; 16 MiB of indexes; and, while a compaction
//! runs, 2 MiB for each of its at most 9 inputs and a table's part being uploaded.

use std::time::Duration;

use slatedb::config::{
    CompactionWorkerOptions, CompactorOptions, DbReaderOptions, GarbageCollectorDirectoryOptions,
    GarbageCollectorOptions, Settings,
};

const MIB: usize = 1024 * 1024;

/// Changes in memory that no table holds yet. Above it writers wait.
const UNFLUSHED_MAX: usize = 64 * MIB;
/// Changes that become a table. Read back when the database is opened, so not too many.
const TABLE_BYTES: usize = 8 * MIB;
/// Changes that become a table even if they are small: each may be an object of the log, and the next opening
/// has to read them all.
pub(super) const CHANGES_PER_TABLE: u64 = 512;
/// The largest table that a compaction makes.
const COMPACTED_TABLE_BYTES: usize = 64 * MIB;
const COMPACTION_FETCH: usize = MIB;
/// Indexes, filters and blocks of records.
pub(super) const CACHE_BYTES: u64 = 16 * 1024 * 1024;
/// How often a reader looks for what the writer has made since. Below the minimal age of what is removed.
const READER_POLL: Duration = Duration::from_secs(1);

/// What differs between production and tests.
#[derive(Clone, Copy, Debug)]
pub struct LogOptions {
    /// How often objects that nothing refers to any more are looked for.
    pub collect_every: Duration,
    /// How long such an object is kept: for readers that still look at it.
    pub keep: Duration,
    /// How often tables are looked at for merging, and whether another writer took over.
    pub poll: Duration,
    /// Whether the store can overwrite on condition (If-Match). A folder cannot.
    pub has_if_match: bool,
}

impl Default for LogOptions {
    fn default() -> Self {
        let (collect_every, keep) = (Duration::from_mins(1), Duration::from_mins(2));
        Self { collect_every, keep, poll: Duration::from_secs(1), has_if_match: true }
    }
}

impl LogOptions {
    /// The settings of the database. Pages are written as they are: what they hold is not known to compress.
    pub(super) fn settings(&self) -> Settings {
        Settings {
            // Every change is flushed by who makes it; this is for the sweep's.
            flush_interval: Some(Duration::from_secs(1)),
            manifest_poll_interval: self.poll,
            max_unflushed_bytes: UNFLUSHED_MAX,
            l0_sst_size_bytes: TABLE_BYTES,
            l0_flush_parallelism: 2,
            compression_codec: None,
            compactor_options: Some(self.compactor()),
            garbage_collector_options: Some(self.collector()),
            ..Settings::default()
        }
    }

    fn compactor(&self) -> CompactorOptions {
        CompactorOptions {
            poll_interval: self.poll,
            max_concurrent_compactions: 1,
            checkpoint_lifetime: self.keep,
            worker: Some(CompactionWorkerOptions {
                max_concurrent_compactions: 1,
                compactions_poll_interval: self.poll,
                max_sst_size: COMPACTED_TABLE_BYTES,
                max_fetch_tasks: 2,
                bytes_to_fetch: COMPACTION_FETCH,
                max_subcompactions: 1,
                ..CompactionWorkerOptions::default()
            }),
            ..CompactorOptions::default()
        }
    }

    /// What fences a writer is an empty object in the log, and is never removed.
    fn collector(&self) -> GarbageCollectorOptions {
        let every =
            GarbageCollectorDirectoryOptions { interval: Some(self.collect_every), min_age: self.keep, dry_run: false };
        GarbageCollectorOptions {
            manifest_options: Some(every),
            wal_options: Some(every),
            wal_fence_options: None,
            compacted_options: Some(every),
            compactions_options: Some(every),
            detach_options: None,
            boundary_files_enabled: self.has_if_match,
            ..GarbageCollectorOptions::default()
        }
    }

    pub(super) fn reader(&self) -> DbReaderOptions {
        DbReaderOptions {
            manifest_poll_interval: READER_POLL.min(self.poll),
            max_memtable_bytes: TABLE_BYTES as u64,
            ..DbReaderOptions::default()
        }
    }
}
