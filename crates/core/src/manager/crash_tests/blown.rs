//! [`BlownStore`]: a store one of whose calls gets a blow, and which nothing reaches once its world has stopped.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;

use crate::journal::sim::SimDisk;
use crate::units::ByteRange;
use crate::vfs::{FileStore, Listed, Stat, StoreFault, StoreResult, Traits, Version, Writability, WriteBack};

/// What happens to one call of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blow {
    /// The server is killed before the store gets the call.
    CrashBefore,
    /// The server is killed after the call took effect, before the answer.
    CrashAfter,
    /// The call fails without effect.
    FailBefore,
    /// It takes effect, and the answer is lost.
    FailAfter,
}

/// A store whose call number `at` gets the blow.
#[derive(Debug)]
pub(super) struct BlownStore {
    pub(super) inner: Arc<dyn FileStore>,
    pub(super) calls: AtomicU64,
    pub(super) at: u64,
    pub(super) blow: Blow,
    /// With it the whole world stops.
    pub(super) disk: SimDisk,
    pub(super) dead_at: Option<u64>,
    pub(super) crashed: Arc<tokio::sync::Notify>,
}

impl BlownStore {
    async fn through<T>(&self, work: impl Future<Output = StoreResult<T>> + Send) -> StoreResult<T> {
        if self.dead_at.is_some_and(|step| self.disk.steps() >= step) {
            return self.crash().await;
        }
        if self.calls.fetch_add(1, Ordering::Relaxed) + 1 != self.at {
            return work.await;
        }
        let lost = || Err(StoreFault::Failed("blown".into(), None));
        match self.blow {
            Blow::FailBefore => lost(),
            Blow::FailAfter => {
                // What it came to is what the caller does not learn.
                let _ = work.await;
                lost()
            }
            Blow::CrashBefore => self.crash().await,
            Blow::CrashAfter => {
                let _ = work.await;
                self.crash().await
            }
        }
    }

    async fn crash<T>(&self) -> T {
        self.crashed.notify_one();
        std::future::pending().await
    }
}

#[async_trait]
impl FileStore for BlownStore {
    fn traits(&self) -> Traits {
        self.inner.traits()
    }

    fn check_name(&self, name: &str) -> StoreResult<()> {
        self.inner.check_name(name)
    }

    async fn stat(&self, name: &str) -> StoreResult<Stat> {
        self.through(self.inner.stat(name)).await
    }

    async fn read(&self, name: &str, version: &Version, range: ByteRange) -> StoreResult<Vec<Bytes>> {
        self.through(self.inner.read(name, version, range)).await
    }

    async fn write_back(&self, name: &str, change: WriteBack) -> StoreResult<Stat> {
        self.through(self.inner.write_back(name, change)).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> StoreResult<Vec<Listed>> {
        self.through(self.inner.list(prefix, after, limit)).await
    }

    async fn remove(&self, name: &str) -> StoreResult<()> {
        self.through(self.inner.remove(name)).await
    }

    async fn probe(&self) -> StoreResult<Writability> {
        self.inner.probe().await
    }

    async fn ping(&self) -> StoreResult<()> {
        self.inner.ping().await
    }
}
