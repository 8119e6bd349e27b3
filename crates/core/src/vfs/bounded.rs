//! [`BoundedStore`]: a decorator that bounds each call of a store in time.
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

use super::fault::{StoreFault, StoreResult};
use super::store::{FileStore, Listed, Stat, Traits, Writability, WriteBack};
use super::version::Version;
use crate::units::ByteRange;

const MIB: u64 = 1024 * 1024;

/// What one write-back of a rewriting layout holds in memory at most: a whole file up to the largest single
/// PUT, or two parts of a larger one.
pub(crate) const WRITE_BACK_BYTES_MAX: u64 = 64 * MIB;

/// A store whose calls end within their time.
#[derive(Debug)]
pub struct BoundedStore {
    inner: Arc<dyn FileStore>,
    /// For a call that moves few bytes.
    time: Duration,
    /// The prefix of its mount, for faults that name it.
    mount: Arc<str>,
}

impl BoundedStore {
    /// `time` is what a call that moves few bytes may take; a write-back gets a second more for each MiB of its
    /// file.
    pub fn new(inner: Arc<dyn FileStore>, time: Duration) -> Self {
        Self { inner, time, mount: Arc::from("") }
    }

    /// As the store of the mount with this prefix.
    #[must_use]
    pub fn of_mount(self, prefix: &str) -> Self {
        Self { mount: Arc::from(prefix), ..self }
    }

    async fn within<T>(&self, call: impl Future<Output = StoreResult<T>> + Send) -> StoreResult<T> {
        timed(self.time, call).await.map_err(|fault| fault.of_mount(&self.mount))
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

    async fn read_each(
        &self,
        name: &str,
        version: &Version,
        range: ByteRange,
        land: &mut (dyn FnMut(Bytes) + Send),
    ) -> StoreResult<()> {
        self.within(self.inner.read_each(name, version, range, land)).await
    }

    async fn write_back(&self, name: &str, change: WriteBack) -> StoreResult<Stat> {
        let limit = self.time.saturating_add(Duration::from_secs(change.size / MIB));
        timed(limit, self.inner.write_back(name, change)).await.map_err(|fault| fault.of_mount(&self.mount))
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
        let store = BoundedStore::new(chaos.clone(), Duration::from_secs(30));
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
}
