//! [`BoundedStore`]: a decorator that bounds each call of a store in time, and counts it.
//!
//! It stands outermost, so that whatever lies below (retries of the store's client, a blocking disk, a test's
//! faults) cannot hold a caller longer than its limits. Retries are the client's own affair: there are none here.
//!
//! A read whose blocks land one by one has its time for each step anew. A call that runs out of time is dropped: see [`FileStore`]'s cancel safety.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::counts::{StoreCall, StoreCounts};
use super::fault::{StoreFault, StoreResult};
use super::store::{FileStore, Listed, Stat, Traits, Writability, WriteBack};
use super::version::Version;
use crate::units::ByteRange;

const MIB: u64 = 1024 * 1024;

/// What one write-back of a rewriting layout holds in memory at most: a whole file up to the largest single
/// PUT, or two parts of a larger one.
pub(crate) const WRITE_BACK_BYTES_MAX: u64 = 64 * MIB;

/// A store whose calls end within their time, and are counted.
#[derive(Debug)]
pub struct BoundedStore {
    inner: Arc<dyn FileStore>,
    /// For a call that moves few bytes.
    time: Duration,
    /// The prefix of its mount, for faults that name it.
    mount: Arc<str>,
    counts: Arc<StoreCounts>,
}

impl BoundedStore {
    /// `time` is what a call that moves few bytes may take; a write-back gets a second more for each MiB of its
    /// file.
    pub fn new(inner: Arc<dyn FileStore>, time: Duration) -> Self {
        Self { inner, time, mount: Arc::from(""), counts: Arc::default() }
    }

    /// As the store of the mount with this prefix.
    #[must_use]
    pub fn of_mount(self, prefix: &str) -> Self {
        Self { mount: Arc::from(prefix), ..self }
    }

    /// What came of its calls.
    pub fn counts(&self) -> &Arc<StoreCounts> {
        &self.counts
    }

    async fn within<T>(
        &self,
        kind: StoreCall,
        limit: Duration,
        call: impl Future<Output = StoreResult<T>> + Send,
    ) -> StoreResult<T> {
        let begun = self.counts.begin(kind);
        let answer = timed(limit, call).await.map_err(|fault| fault.of_mount(&self.mount));
        begun.ended(&answer);
        answer
    }

    /// A call that goes on as long as `landed` grows in each step of time.
    async fn within_steps(
        &self,
        landed: &AtomicU64,
        call: impl Future<Output = StoreResult<()>> + Send,
    ) -> StoreResult<()> {
        let mut call = pin!(call);
        loop {
            let before = landed.load(Ordering::Relaxed);
            match tokio::time::timeout(self.time, &mut call).await {
                Ok(answer) => return answer.map_err(|fault| fault.of_mount(&self.mount)),
                Err(_) if landed.load(Ordering::Relaxed) > before => {}
                Err(_) => return Err(StoreFault::timed_out(self.time.as_secs()).of_mount(&self.mount)),
            }
        }
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
        self.within(StoreCall::Stat, self.time, self.inner.stat(name)).await
    }

    async fn read(&self, name: &str, version: &Version, range: ByteRange) -> StoreResult<Vec<Bytes>> {
        let answer = self.within(StoreCall::Read, self.time, self.inner.read(name, version, range)).await;
        if let Ok(blocks) = &answer {
            self.counts.add_read(blocks.iter().map(|block| block.len() as u64).sum());
        }
        answer
    }

    async fn read_each(
        &self,
        name: &str,
        version: &Version,
        range: ByteRange,
        land: &mut (dyn FnMut(Bytes) + Send),
    ) -> StoreResult<()> {
        // What makes progress goes on: a large request over a slow link takes its time, block by block.
        let landed = AtomicU64::new(0);
        let mut noted = |block: Bytes| {
            landed.fetch_add(1, Ordering::Relaxed);
            self.counts.add_read(block.len() as u64);
            land(block);
        };
        let begun = self.counts.begin(StoreCall::Read);
        let answer = self.within_steps(&landed, self.inner.read_each(name, version, range, &mut noted)).await;
        begun.ended(&answer);
        answer
    }

    async fn write_back(&self, name: &str, change: WriteBack) -> StoreResult<Stat> {
        let limit = self.time.saturating_add(Duration::from_secs(change.size / MIB));
        let dirty = change.patches.iter().filter(|patch| patch.dirty).map(|patch| patch.data.len() as u64).sum();
        let answer = self.within(StoreCall::Write, limit, self.inner.write_back(name, change)).await;
        if answer.is_ok() {
            self.counts.add_written(dirty);
        }
        answer
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> StoreResult<Vec<Listed>> {
        self.within(StoreCall::List, self.time, self.inner.list(prefix, after, limit)).await
    }

    async fn remove(&self, name: &str) -> StoreResult<()> {
        self.within(StoreCall::Remove, self.time, self.inner.remove(name)).await
    }

    async fn probe(&self) -> StoreResult<Writability> {
        self.within(StoreCall::Probe, self.time, self.inner.probe()).await
    }

    async fn ping(&self) -> StoreResult<()> {
        self.within(StoreCall::Ping, self.time, self.inner.ping()).await
    }

    async fn close(&self) -> StoreResult<()> {
        timed(self.time, self.inner.close()).await.map_err(|fault| fault.of_mount(&self.mount))
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

    /// A store whose blocks come one by one, each after some seconds.
    #[derive(Debug)]
    struct Trickling(ObjectLayout, &'static [u64]);

    #[async_trait]
    impl FileStore for Trickling {
        fn traits(&self) -> Traits {
            self.0.traits()
        }

        fn check_name(&self, name: &str) -> StoreResult<()> {
            self.0.check_name(name)
        }

        async fn stat(&self, name: &str) -> StoreResult<Stat> {
            self.0.stat(name).await
        }

        async fn read(&self, name: &str, version: &Version, range: ByteRange) -> StoreResult<Vec<Bytes>> {
            self.0.read(name, version, range).await
        }

        async fn read_each(
            &self,
            _: &str,
            _: &Version,
            _: ByteRange,
            land: &mut (dyn FnMut(Bytes) + Send),
        ) -> StoreResult<()> {
            for seconds in self.1 {
                tokio::time::sleep(Duration::from_secs(*seconds)).await;
                land(Bytes::new());
            }
            Ok(())
        }

        async fn write_back(&self, name: &str, change: WriteBack) -> StoreResult<Stat> {
            self.0.write_back(name, change).await
        }

        async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> StoreResult<Vec<Listed>> {
            self.0.list(prefix, after, limit).await
        }

        async fn remove(&self, name: &str) -> StoreResult<()> {
            self.0.remove(name).await
        }

        async fn probe(&self) -> StoreResult<Writability> {
            self.0.probe().await
        }

        async fn ping(&self) -> StoreResult<()> {
            self.0.ping().await
        }

        async fn close(&self) -> StoreResult<()> {
            self.0.close().await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_that_makes_progress_takes_its_time_and_one_that_stands_still_does_not() {
        for (pauses, is_whole) in [(&[20, 20, 20, 20][..], true), (&[20, 100], false)] {
            let store =
                BoundedStore::new(Arc::new(Trickling(ObjectLayout::in_memory(), pauses)), Duration::from_secs(30));
            let (started, mut landed) = (tokio::time::Instant::now(), 0);
            let read = store.read_each("a", &Version::new("1"), ByteRange::new(0, 1), &mut |_| landed += 1).await;
            assert_eq!((read.is_ok(), landed), (is_whole, if is_whole { 4 } else { 1 }), "{read:?}");
            assert!(is_whole || started.elapsed().as_secs() <= 80, "{:?}", started.elapsed());
        }
    }
}
