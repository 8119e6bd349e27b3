//! Finding out whether a store honours conditions, by trying them on an object of its own.
//!
//! The object's name begins with the reserved prefix, so it cannot be taken for a file; it is removed in any
//! case, also when the call is dropped.

use std::sync::Arc;
use std::time::Duration;

use object_store::path::Path;
use object_store::{ObjectStore, PutMode, PutPayload, PutResult, UpdateVersion};
use tokio_util::task::TaskTracker;

use super::bucket::{Bucket, delete, fault};
use crate::path::RESERVED_PREFIX;
use crate::vfs::fault::{StoreFault, StoreResult};
use crate::vfs::store::Writability;

/// What removing the probe's object may take after its call was dropped.
const REMOVE_TIME: Duration = Duration::from_secs(30);

/// The probe's object, removed when it goes out of scope.
struct ProbeGuard<'a> {
    store: &'a Arc<dyn ObjectStore>,
    cleanups: &'a TaskTracker,
    path: Option<Path>,
}

impl Drop for ProbeGuard<'_> {
    fn drop(&mut self) {
        let Some(path) = self.path.take() else { return };
        let store = Arc::clone(self.store);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let remove = async move {
                let removed = tokio::time::timeout(REMOVE_TIME, delete(&store, &path)).await;
                if !matches!(removed, Ok(Ok(()))) {
                    tracing::warn!(%path, "the probe's object could not be removed");
                }
            };
            self.cleanups.spawn_on(remove, &runtime);
        }
    }
}

impl Bucket {
    /// Whether the store honours every condition.
    pub(super) async fn probe_conditions(&self) -> StoreResult<Writability> {
        self.probe(true).await
    }

    /// Whether the store honours the condition that there is no object yet.
    pub(super) async fn probe_create(&self) -> StoreResult<Writability> {
        self.probe(false).await
    }

    async fn probe(&self, overwrites: bool) -> StoreResult<Writability> {
        let path = self.path(&format!("{RESERVED_PREFIX}probe-{}", uuid::Uuid::new_v4()))?;
        let mut guard = ProbeGuard { store: &self.store, cleanups: &self.cleanups, path: Some(path.clone()) };
        let verdict = match try_create(&self.store, &path).await {
            Ok(Tried::Honoured(first)) if overwrites => try_update(&self.store, &path, first).await,
            Ok(Tried::Honoured(_)) => Ok(Writability::Safe),
            Ok(Tried::Unsafe(verdict)) => Ok(verdict),
            Err(fault) => Err(fault),
        };
        let removed = delete(&self.store, &path).await;
        if removed.is_ok() {
            guard.path = None;
        }
        let verdict = verdict?;
        removed?;
        Ok(verdict)
    }
}

/// What became of making an object that is there.
enum Tried {
    /// It was refused; this is the object.
    Honoured(PutResult),
    Unsafe(Writability),
}

async fn put(
    store: &Arc<dyn ObjectStore>,
    path: &Path,
    content: &'static [u8],
    mode: PutMode,
) -> StoreResult<PutResult> {
    store.put_opts(path, PutPayload::from_static(content), mode.into()).await.map_err(fault)
}

fn no(reason: &str) -> Writability {
    Writability::Unsafe(reason.to_owned())
}

async fn try_create(store: &Arc<dyn ObjectStore>, path: &Path) -> StoreResult<Tried> {
    let first = match put(store, path, b"first", PutMode::Create).await {
        Ok(made) => made,
        Err(StoreFault::Unsupported(_)) => return Ok(Tried::Unsafe(no("it takes no conditional writes"))),
        // An object can be put wherever there is a bucket.
        Err(StoreFault::Missing) => return Err(StoreFault::Failed("there is no such bucket".into(), None)),
        Err(other) => return Err(other),
    };
    match put(store, path, b"second", PutMode::Create).await {
        Err(StoreFault::Exists) => Ok(Tried::Honoured(first)),
        Ok(_) => {
            let reason = "it overwrites an object that it is told only to create (it ignores If-None-Match)";
            Ok(Tried::Unsafe(no(reason)))
        }
        Err(other) => Err(other),
    }
}

async fn try_update(store: &Arc<dyn ObjectStore>, path: &Path, first: PutResult) -> StoreResult<Writability> {
    let Some(first) = tag(first) else {
        return Ok(no("it gives its objects no e_tag, so changes by others cannot be noticed"));
    };
    let second = match put(store, path, b"third", PutMode::Update(first.clone())).await {
        Ok(made) => made,
        Err(StoreFault::Unsupported(_)) => return Ok(no("it takes no conditional writes")),
        Err(StoreFault::Changed | StoreFault::Exists) => {
            return Ok(no("it refuses a conditional write whose condition holds"));
        }
        Err(other) => return Err(other),
    };
    if tag(second).is_none_or(|second| second == first) {
        return Ok(no("it gives a changed object no new e_tag, so changes by others cannot be noticed"));
    }
    match put(store, path, b"fourth", PutMode::Update(first)).await {
        Err(StoreFault::Changed) => Ok(Writability::Safe),
        Ok(_) => Ok(no("it overwrites an object that has changed since (it ignores If-Match)")),
        Err(other) => Err(other),
    }
}

fn tag(put: PutResult) -> Option<UpdateVersion> {
    put.e_tag.is_some().then(|| put.into())
}
