//! [`BoundedStore`]: a decorator that bounds each call of a store in time, and its write-backs in memory.
//!
//! It stands outermost, so that whatever lies below (retries of the store's client, a blocking disk, a test's
//! faults) cannot hold a caller longer than its limits. Retries are the client's own affair: there are none here.
//!
//! A call that runs out of time is dropped: see [`FileStore`]'s cancel safety.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::fault::{StoreFault, StoreResult};
use super::store::{FileStore, Listed, Stat, Traits, Writability, WriteBack};
use super::version::Version;
use crate::units::ByteRange;

const MIB: u64 = 1024 * 1024;

/// What one write-back of a rewriting layout holds in memory at most: a whole file up to the largest single
/// PUT, or a part of a larger one.
pub(super) const WRITE_BACK_BYTES_MAX: u64 = 64 * MIB;

/// A store whose calls end within their time.
#[derive(Debug)]
pub struct BoundedStore {
    inner: Arc<dyn FileStore>,
    /// For a call that moves few bytes.
    time: Duration,
    /// Room for write-backs, in MiB. First come, first served.
    room: Semaphore,
    room_mib: u32,
}

impl BoundedStore {
    /// `time` is what a call that moves few bytes may take; a write-back gets a second more for each MiB
    /// of its file. `write_bytes` is what all write-backs together may hold in memory, if the layout
    /// rewrites files; it is taken for at least one write-back.
    pub fn new(inner: Arc<dyn FileStore>, time: Duration, write_bytes: u64) -> Self {
        let room_mib = u32::try_from(write_bytes.max(WRITE_BACK_BYTES_MAX) / MIB).unwrap_or(u32::MAX);
        // A semaphore holds at most usize::MAX / 8 permits, which a u32 is below on 64 bits.
        let room = Semaphore::new(usize::try_from(room_mib).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS));
        Self { inner, time, room, room_mib }
    }

    async fn within<T>(&self, call: impl Future<Output = StoreResult<T>> + Send) -> StoreResult<T> {
        timed(self.time, call).await
    }

    /// Waits for room. Each holder has a time limit of its own, so the wait ends.
    async fn admit(&self, change: &WriteBack) -> StoreResult<Option<SemaphorePermit<'_>>> {
        if self.inner.traits().rewrites_up_to == 0 {
            return Ok(None);
        }
        let mib = change.size.min(WRITE_BACK_BYTES_MAX).div_ceil(MIB).max(1);
        let mib = u32::try_from(mib).unwrap_or(u32::MAX).min(self.room_mib);
        let permit = self.room.acquire_many(mib).await;
        permit.map(Some).map_err(|closed| StoreFault::failed("the store is closed", closed))
    }
}

async fn timed<T>(limit: Duration, call: impl Future<Output = StoreResult<T>> + Send) -> StoreResult<T> {
    match tokio::time::timeout(limit, call).await {
        Ok(answer) => answer,
        Err(_) => Err(StoreFault::timed_out(limit.as_secs())),
    }
}

#[async_trait]
impl FileStore for BoundedStore {
    fn traits(&self) -> Traits {
        self.inner.traits()
    }

    fn check_name(&self, name: &str) -> StoreResult<()> {
        self.inner.check_name(name)
    }

    async fn stat(&self, name: &str) -> StoreResult<Stat> {
        self.within(self.inner.stat(name)).await
    }

    async fn read(&self, name: &str, version: &Version, range: ByteRange) -> StoreResult<Vec<Bytes>> {
        self.within(self.inner.read(name, version, range)).await
    }

    async fn write_back(&self, name: &str, change: WriteBack) -> StoreResult<Stat> {
        let limit = self.time.saturating_add(Duration::from_secs(change.size / MIB));
        let _room = self.admit(&change).await?;
        timed(limit, self.inner.write_back(name, change)).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> StoreResult<Vec<Listed>> {
        self.within(self.inner.list(prefix, after, limit)).await
    }

    async fn remove(&self, name: &str) -> StoreResult<()> {
        self.within(self.inner.remove(name)).await
    }

    async fn probe(&self) -> StoreResult<Writability> {
        self.within(self.inner.probe()).await
    }

    async fn ping(&self) -> StoreResult<()> {
        self.within(self.inner.ping()).await
    }

    async fn close(&self) -> StoreResult<()> {
        self.within(self.inner.close()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vfs::chaos::{Call, ChaosStore, Fault};
    use crate::vfs::object::ObjectLayout;
    use crate::vfs::store::{Base, CommitId};

    #[tokio::test(start_paused = true)]
    async fn a_store_that_hangs_fails_after_its_time_and_not_before() {
        let chaos = Arc::new(ChaosStore::new(Arc::new(ObjectLayout::in_memory())));
        let store = BoundedStore::new(chaos.clone(), Duration::from_secs(30), 0);
        let started = tokio::time::Instant::now();
        chaos.push(Call::Stat, Fault::Hang);
        let error = store.stat("a").await.expect_err("it hangs");
        assert!(matches!(&error, StoreFault::Failed(what, _) if what.contains("30 s")), "{error}");
        assert_eq!(started.elapsed().as_secs(), 30);

        chaos.push(Call::WriteBack, Fault::Hang);
        let (base, commit) = (Base::Missing, CommitId::random());
        let change = WriteBack { base, size: 5 * MIB, patches: Vec::new(), commit };
        assert!(matches!(store.write_back("a", change).await, Err(StoreFault::Failed(..))));
        assert_eq!(started.elapsed().as_secs(), 30 + 35);
    }

    #[tokio::test(start_paused = true)]
    async fn write_backs_that_do_not_fit_the_memory_wait_for_each_other() {
        let chaos = Arc::new(ChaosStore::new(Arc::new(ObjectLayout::in_memory())));
        let store = Arc::new(BoundedStore::new(chaos.clone(), Duration::from_secs(30), 64 * MIB));
        chaos.push(Call::WriteBack, Fault::Delay(Duration::from_secs(10)));
        chaos.push(Call::WriteBack, Fault::Delay(Duration::from_secs(10)));
        let change =
            || WriteBack { base: Base::Missing, size: 40 * MIB, patches: Vec::new(), commit: CommitId::random() };
        let started = tokio::time::Instant::now();
        let (first, second) = tokio::join!(store.write_back("a", change()), store.write_back("b", change()));
        assert!(first.is_ok() && second.is_ok());
        assert_eq!(started.elapsed().as_secs(), 20);
    }
}
