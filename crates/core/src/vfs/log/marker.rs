//! The object that says that a database is ours, and of which format.
//!
//! It lies beside the database and not in it, so that it can be looked at without opening the database, which
//! would fence its writer and leave traces. Invariant: nothing is written where it says something else, or where
//! other objects lie without it.

use std::sync::Arc;

use futures::StreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutPayload};

use crate::path::RESERVED_PREFIX;
use crate::vfs::fault::{StoreFault, StoreResult};
use crate::vfs::object::fault;

const MARKER: &str = "mmapd-log";
const SAYS: &str = "mmapd log ";
/// The format of this build.
const FORMAT: u64 = 1;
/// A marker is a line; what is longer is not one.
const MARKER_MAX: u64 = 64;

/// Whether there is a database of ours at `root`.
///
/// # Errors
/// [`StoreFault::Unsupported`] with what to do if there is something else.
pub(super) async fn is_there(store: &Arc<dyn ObjectStore>, root: &Path) -> StoreResult<bool> {
    match store.get(&root.clone().join(MARKER)).await.map_err(fault) {
        Ok(found) if found.meta.size > MARKER_MAX => Err(foreign(MARKER)),
        Ok(found) => check(&found.bytes().await.map_err(fault)?).map(|()| true),
        Err(StoreFault::Missing) => nothing_there(store, root).await.map(|()| false),
        Err(other) => Err(other),
    }
}

/// Marks `root` as ours. Somebody else who does so at the same time is no obstacle.
pub(super) async fn make(store: &Arc<dyn ObjectStore>, root: &Path) -> StoreResult<()> {
    let text = PutPayload::from(format!("{SAYS}{FORMAT}\n"));
    let made = store.put_opts(&root.clone().join(MARKER), text, PutMode::Create.into()).await;
    match made.map_err(fault) {
        Ok(_) => Ok(()),
        Err(StoreFault::Exists) => is_there(store, root).await.map(|_| ()),
        Err(other) => Err(other),
    }
}

fn check(text: &[u8]) -> StoreResult<()> {
    let text = String::from_utf8_lossy(text);
    let format = text.trim_end().strip_prefix(SAYS).and_then(|format| format.parse::<u64>().ok());
    match format {
        Some(FORMAT) => Ok(()),
        Some(format) if format > FORMAT => Err(StoreFault::Unsupported(format!(
            "the database there has format {format}, and this build knows {FORMAT} at most: use the newer mmapd that \
             made it; nothing was touched"
        ))),
        Some(_) | None => Err(foreign(MARKER)),
    }
}

async fn nothing_there(store: &Arc<dyn ObjectStore>, root: &Path) -> StoreResult<()> {
    let mut objects = store.list((!root.is_root()).then_some(root));
    while let Some(object) = objects.next().await {
        let object = match object.map_err(fault) {
            Ok(object) => object,
            Err(StoreFault::Missing) => return Err(StoreFault::Failed("there is no such bucket".into(), None)),
            Err(other) => return Err(other),
        };
        // A probe may be under way.
        if !object.location.filename().is_some_and(|name| name.starts_with(RESERVED_PREFIX)) {
            return Err(foreign(object.location.as_ref()));
        }
    }
    Ok(())
}

fn foreign(what: &str) -> StoreFault {
    StoreFault::Unsupported(format!(
        "there are objects that are not of an mmapd database (the first is {}): name an empty folder for layout=log, \
         or leave the layout out to serve them as files; nothing was touched",
        what.escape_debug()
    ))
}
