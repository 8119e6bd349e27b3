//! [`TracedStore`]: a decorator that tells each request as a span of the call that makes it.
//!
//! It stands outermost, so that a span's time is what the caller waited. A request is one call of [`FileStore`]: a
//! write-back of many parts is one. It changes and delays nothing, and a request of no call that is followed costs the
//! question whether it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use tracing::field::Empty;
use tracing::{Instrument as _, Span};

use super::fault::{StoreFault, StoreResult};
use super::store::{FileStore, Listed, Stat, Traits, Writability, WriteBack};
use super::version::Version;
use crate::trace::{TARGET, count};
use crate::units::ByteRange;

/// A store whose requests are told.
#[derive(Debug)]
pub(super) struct TracedStore {
    inner: Arc<dyn FileStore>,
    /// The prefix of its mount.
    mount: String,
}

/// The span of a request of this kind for an object.
macro_rules! request {
    ($store:expr, $kind:literal, $object:expr) => {
        tracing::info_span!(
            target: TARGET,
            "store",
            otel.name = concat!("store.", $kind),
            otel.kind = "client",
            otel.status_code = Empty,
            mmap.store.kind = $kind,
            mmap.store.mount = $store.mount.as_str(),
            mmap.store.object = $object,
            mmap.store.offset = Empty,
            mmap.store.bytes = Empty,
            mmap.store.outcome = Empty,
        )
    };
}

impl TracedStore {
    /// `inner` as the store of the mount with this prefix.
    pub(super) fn new(inner: Arc<dyn FileStore>, mount: &str) -> Self {
        Self { inner, mount: mount.to_owned() }
    }
}

/// Makes the request within its span, and notes there what came of it.
async fn told<T>(span: Span, request: impl Future<Output = StoreResult<T>> + Send) -> StoreResult<T> {
    let answer = request.instrument(span.clone()).await;
    if !span.is_disabled() {
        span.record("mmap.store.outcome", answer.as_ref().map_or_else(outcome, |_| "ok"));
        if answer.as_ref().is_err_and(is_failure) {
            span.record("otel.status_code", "ERROR");
        }
    }
    answer
}

/// A fault in a word.
fn outcome(fault: &StoreFault) -> &'static str {
    match fault {
        StoreFault::Missing => "missing",
        StoreFault::Exists => "exists",
        StoreFault::Changed => "changed",
        StoreFault::BadName(_) => "bad-name",
        StoreFault::TooLarge { .. } => "too-large",
        StoreFault::Unsupported(_) => "unsupported",
        StoreFault::Fenced { .. } => "fenced",
        StoreFault::Denied(_) => "denied",
        StoreFault::Full(_) => "full",
        StoreFault::Corrupt(_) => "corrupt",
        StoreFault::Failed(..) => "failed",
    }
}

/// Whether the store is at fault: that a file is missing or has changed is an answer like others.
fn is_failure(fault: &StoreFault) -> bool {
    !matches!(fault, StoreFault::Missing | StoreFault::Exists | StoreFault::Changed | StoreFault::BadName(_))
}

fn record_range(span: &Span, range: ByteRange) {
    span.record("mmap.store.offset", count(range.start()));
    span.record("mmap.store.bytes", count(range.len()));
}

#[async_trait]
impl FileStore for TracedStore {
    fn traits(&self) -> Traits {
        self.inner.traits()
    }

    fn check_name(&self, name: &str) -> StoreResult<()> {
        self.inner.check_name(name)
    }

    async fn stat(&self, name: &str) -> StoreResult<Stat> {
        told(request!(self, "stat", name), self.inner.stat(name)).await
    }

    async fn read(&self, name: &str, version: &Version, range: ByteRange) -> StoreResult<Vec<Bytes>> {
        let span = request!(self, "read", name);
        record_range(&span, range);
        told(span, self.inner.read(name, version, range)).await
    }

    async fn read_each(
        &self,
        name: &str,
        version: &Version,
        range: ByteRange,
        land: &mut (dyn FnMut(Bytes) + Send),
    ) -> StoreResult<()> {
        let span = request!(self, "read", name);
        if span.is_disabled() {
            return self.inner.read_each(name, version, range, land).await;
        }
        record_range(&span, range);
        // What came, also where the request fails later.
        let bytes = AtomicU64::new(0);
        let mut counted = |block: Bytes| {
            bytes.fetch_add(block.len() as u64, Ordering::Relaxed);
            land(block);
        };
        let answer = told(span.clone(), self.inner.read_each(name, version, range, &mut counted)).await;
        span.record("mmap.store.bytes", count(bytes.load(Ordering::Relaxed)));
        answer
    }

    async fn write_back(&self, name: &str, change: WriteBack) -> StoreResult<Stat> {
        let span = request!(self, "write_back", name);
        if !span.is_disabled() {
            let dirty = change.patches.iter().filter(|patch| patch.dirty);
            span.record("mmap.store.bytes", count(dirty.map(|patch| patch.data.len() as u64).sum()));
        }
        told(span, self.inner.write_back(name, change)).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> StoreResult<Vec<Listed>> {
        told(request!(self, "list", prefix), self.inner.list(prefix, after, limit)).await
    }

    async fn remove(&self, name: &str) -> StoreResult<()> {
        told(request!(self, "remove", name), self.inner.remove(name)).await
    }

    async fn probe(&self) -> StoreResult<Writability> {
        told(request!(self, "probe", ""), self.inner.probe()).await
    }

    async fn ping(&self) -> StoreResult<()> {
        told(request!(self, "ping", ""), self.inner.ping()).await
    }

    async fn close(&self) -> StoreResult<()> {
        self.inner.close().await
    }
}
