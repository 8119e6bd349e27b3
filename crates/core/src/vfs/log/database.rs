//! [`Database`]: the database of a mount as it is open now, for writing or for reading, and what its errors mean.
//!
//! Invariants: reads see what is durable and nothing else, so that what a `stat` reports survives a crash. A write
//! is durable when [`Writer::write`] answers; writers of several files share one object of the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use slatedb::config::{DurabilityLevel, FlushOptions, FlushType, ReadOptions, ScanOptions};
use slatedb::{ByteRangeBounds, CloseReason, Db, DbIterator, DbReader, Error, ErrorKind, KeyValue, WriteBatch};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::options::CHANGES_PER_TABLE;
use crate::vfs::fault::{StoreFault, StoreResult};

/// The database, open for writing: there is one such in the world.
pub(super) struct Writer {
    pub(super) db: Db,
    /// Held while the log is written.
    flush: tokio::sync::Mutex<()>,
    /// Changes since the last table was asked for.
    changes: AtomicU64,
    /// There is something to sweep, or a table is due.
    pub(super) swept: Notify,
    /// Ends the sweep.
    pub(super) stop: CancellationToken,
}

/// The database as it is open now.
#[derive(Clone)]
pub(super) enum Database {
    Writer(Arc<Writer>),
    /// Follows what the writer makes.
    Reader(Arc<DbReader>),
    /// There is none yet, and it is not ours to make it.
    Nothing,
}

impl Writer {
    pub(super) fn new(db: Db) -> Self {
        let (flush, changes) = (tokio::sync::Mutex::new(()), AtomicU64::new(0));
        Self { db, flush, changes, swept: Notify::new(), stop: CancellationToken::new() }
    }

    /// A key's value, durable or not: for whoever keeps others from changing it.
    pub(super) async fn newest(&self, key: &[u8]) -> StoreResult<Option<Bytes>> {
        self.db.get(key).await.map_err(fault)
    }

    /// All or nothing, and durable when it answers.
    pub(super) async fn write(&self, batch: WriteBatch) -> StoreResult<()> {
        let written = self.db.write(batch).await.map_err(fault)?;
        if self.changes.fetch_add(1, Ordering::Relaxed) + 1 == CHANGES_PER_TABLE {
            self.swept.notify_one();
        }
        // Whoever comes here while the log is written waits, and the next flush takes all that came meanwhile.
        let _turn = self.flush.lock().await;
        if self.db.status().durable_seq >= written.seqnum() {
            return Ok(());
        }
        self.db.flush().await.map_err(fault)
    }

    /// Makes a table of what the log holds if there are many changes, so that the next opening is quick and the
    /// log can be cut.
    pub(super) async fn make_table_if_due(&self) -> StoreResult<()> {
        if self.changes.load(Ordering::Relaxed) < CHANGES_PER_TABLE {
            return Ok(());
        }
        self.changes.store(0, Ordering::Relaxed);
        self.db.flush_with_options(FlushOptions { flush_type: FlushType::MemTable }).await.map_err(fault)
    }
}

impl Database {
    /// A key's value.
    pub(super) async fn get(&self, key: &[u8]) -> StoreResult<Option<Bytes>> {
        let durable = ReadOptions::default().with_durability_filter(DurabilityLevel::Remote);
        match self {
            Self::Writer(writer) => writer.db.get_with_options(key, &durable).await.map_err(fault),
            Self::Reader(reader) => reader.get(key).await.map_err(fault),
            Self::Nothing => Ok(None),
        }
    }

    /// The pairs of a range of keys, in order, fetched about `bytes` at a time.
    pub(super) async fn scan(
        &self,
        keys: impl ByteRangeBounds + Send,
        bytes: usize,
    ) -> StoreResult<Option<DbIterator>> {
        let durable = ScanOptions::default().with_durability_filter(DurabilityLevel::Remote);
        let durable = durable.with_read_ahead_bytes(bytes);
        match self {
            Self::Writer(writer) => writer.db.scan_with_options(keys, &durable).await.map(Some).map_err(fault),
            Self::Reader(reader) => {
                let all = durable.with_durability_filter(DurabilityLevel::Memory);
                reader.scan_with_options(keys, &all).await.map(Some).map_err(fault)
            }
            Self::Nothing => Ok(None),
        }
    }

    /// Why it is no longer of use, if so.
    pub(super) fn closed(&self) -> Option<CloseReason> {
        match self {
            Self::Writer(writer) => writer.db.status().close_reason,
            Self::Reader(reader) => reader.status().close_reason,
            Self::Nothing => None,
        }
    }

    /// Which of the database's writers this is, if it is one.
    pub(super) fn epoch(&self) -> Option<u64> {
        match self {
            Self::Writer(writer) => Some(writer.db.manifest().writer_epoch()),
            Self::Reader(_) | Self::Nothing => None,
        }
    }

    /// Ends its tasks. What was answered as durable needs nothing more.
    pub(super) async fn close(&self) -> StoreResult<()> {
        match self {
            Self::Writer(writer) => {
                writer.stop.cancel();
                writer.db.close().await.map_err(fault)
            }
            Self::Reader(reader) => reader.close().await.map_err(fault),
            Self::Nothing => Ok(()),
        }
    }
}

/// The next pair of a scan.
pub(super) async fn next(scan: &mut DbIterator) -> StoreResult<Option<KeyValue>> {
    scan.next().await.map_err(fault)
}

/// What the database's error means.
pub(super) fn fault(error: Error) -> StoreFault {
    let what = error.to_string();
    match error.kind() {
        ErrorKind::Closed(CloseReason::Fenced) => StoreFault::Fenced,
        ErrorKind::Data if !is_gone(&error) => StoreFault::Corrupt(what),
        ErrorKind::Data
        | ErrorKind::Closed(_)
        | ErrorKind::Unavailable
        | ErrorKind::Transaction
        | ErrorKind::Invalid
        | ErrorKind::Internal
        | _ => StoreFault::failed(format!("the database failed: {what}"), error),
    }
}

/// Whether an object is missing: one that was removed while this was about to read it, which is worth another try.
fn is_gone(error: &Error) -> bool {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = source {
        let shared = error.downcast_ref::<Arc<object_store::Error>>().map(AsRef::as_ref);
        if let Some(object_store::Error::NotFound { .. }) = shared.or_else(|| error.downcast_ref()) {
            return true;
        }
        source = error.source();
    }
    false
}
