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
    pub(super) async fn probe_conditions(&self) -> StoreResult<Writability> {
        let path = self.path(&format!("{RESERVED_PREFIX}probe-{}", uuid::Uuid::new_v4()))?;
        let mut guard = ProbeGuard { store: &self.store, cleanups: &self.cleanups, path: Some(path.clone()) };
        let verdict = try_conditions(&self.store, &path).await;
        let removed = delete(&self.store, &path).await;
        if removed.is_ok() {
            guard.path = None;
        }
        let verdict = verdict?;
        removed?;
        Ok(verdict)
    }
}

async fn try_conditions(store: &Arc<dyn ObjectStore>, path: &Path) -> StoreResult<Writability> {
    let put = |content: &'static [u8], mode| async move {
        store.put_opts(path, PutPayload::from_static(content), PutMode::into(mode)).await.map_err(fault)
    };
    let no = |reason: &str| Ok(Writability::Unsafe(reason.to_owned()));
    let first = match put(b"first", PutMode::Create).await {
        Ok(made) => made,
        Err(StoreFault::Unsupported(_)) => return no("it takes no conditional writes"),
        // An object can be put wherever there is a bucket.
        Err(StoreFault::Missing) => return Err(StoreFault::Failed("there is no such bucket".into(), None)),
        Err(other) => return Err(other),
    };
    match put(b"second", PutMode::Create).await {
        Err(StoreFault::Exists) => {}
        Ok(_) => return no("it overwrites an object that it is told only to create (it ignores If-None-Match)"),
        Err(other) => return Err(other),
    }
    let Some(first) = tag(first) else {
        return no("it gives its objects no e_tag, so changes by others cannot be noticed");
    };
    let second = match put(b"third", PutMode::Update(first.clone())).await {
        Ok(made) => made,
        Err(StoreFault::Unsupported(_)) => return no("it takes no conditional writes"),
        Err(StoreFault::Changed | StoreFault::Exists) => {
            return no("it refuses a conditional write whose condition holds");
        }
        Err(other) => return Err(other),
    };
    if tag(second).is_none_or(|second| second == first) {
        return no("it gives a changed object no new e_tag, so changes by others cannot be noticed");
    }
    match put(b"fourth", PutMode::Update(first)).await {
        Err(StoreFault::Changed) => Ok(Writability::Safe),
        Ok(_) => no("it overwrites an object that has changed since (it ignores If-Match)"),
        Err(other) => Err(other),
    }
}

fn tag(put: PutResult) -> Option<UpdateVersion> {
    put.e_tag.is_some().then(|| put.into())
}
