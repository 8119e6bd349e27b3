//! The layout `log`: files as pages in a SlateDB database in the bucket or folder of the mount.
//!
//! A change costs what is dirty, whatever the file's size: one object of the log, written only if no other writer
//! has taken the database over, which makes it durable and all or nothing. What was never written is not stored.
//! One server writes a database at a time: the one that opened it last.
//!
//! It knows nothing of blocks in memory, and caches no file data.

mod cache;
mod locks;
mod marker;
mod options;
mod database;
mod record;
mod read;
mod sweep;
mod commit;
mod open;

#[cfg(test)]
mod counted;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use object_store::ObjectStore;
use object_store::memory::InMemory;
use object_store::path::Path;

use self::open::Shelf;
pub use self::options::LogOptions;
use super::fault::{StoreFault, StoreResult};
use super::store::{FileStore, Listed, Stat, Traits, Writability, WriteBack};
use super::version::Version;
use crate::units::{ByteRange, MAX_OFFSET};

/// What a change may take beside its bytes. Below the 30 s in which a caller is promised the answer.
const CHANGE_TIME: Duration = Duration::from_secs(25);
/// Bytes of a change that take a second more.
const BYTES_PER_SECOND: u64 = 1024 * 1024;

/// Files as pages in a database.
pub struct LogLayout {
    shelf: Arc<Shelf>,
}

impl LogLayout {
    /// The database at `root` of `store`; nothing is asked of it yet. Not in a folder that anybody else writes.
    pub fn new(store: Arc<dyn ObjectStore>, root: Path, read_only: bool, options: LogOptions) -> Self {
        Self { shelf: Arc::new(Shelf::new(store, root, read_only, options)) }
    }

    /// A new, empty database in memory.
    pub fn in_memory() -> Self {
        Self::new(Arc::new(InMemory::new()), Path::ROOT, false, LogOptions::default())
    }

    /// Runs a change to its end, also when its caller has left: the lock of its file is held until then.
    async fn run<T: Send + 'static>(
        &self,
        name: &str,
        bytes: u64,
        change: impl Future<Output = StoreResult<T>> + Send + 'static,
    ) -> StoreResult<T> {
        let limit = CHANGE_TIME + Duration::from_secs(bytes / BYTES_PER_SECOND);
        let guarded = async {
            let lock = self.shelf.locks.lock(name).await;
            let task = self.shelf.tasks.spawn(async move {
                let _lock = lock;
                change.await
            });
            task.await.map_err(|error| StoreFault::failed("the change was ended", error))?
        };
        match tokio::time::timeout(limit, guarded).await {
            Ok(outcome) => outcome,
            Err(_) => Err(StoreFault::timed_out(limit.as_secs())),
        }
    }
}

impl fmt::Debug for LogLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LogLayout").field(&self.shelf.objects).finish()
    }
}

#[async_trait]
impl FileStore for LogLayout {
    fn traits(&self) -> Traits {
        Traits { max_file_size: MAX_OFFSET, rewrites_up_to: 0 }
    }

    fn check_name(&self, _: &str) -> StoreResult<()> {
        // A name is a key's bytes: there is none that it could not keep.
        Ok(())
    }

    async fn stat(&self, name: &str) -> StoreResult<Stat> {
        read::stat(&self.shelf.database().await?, name).await
    }

    async fn read(&self, name: &str, version: &Version, range: ByteRange) -> StoreResult<Vec<Bytes>> {
        read::read(&self.shelf.database().await?, name, version, range).await
    }

    async fn write_back(&self, name: &str, change: WriteBack) -> StoreResult<Stat> {
        if change.size > MAX_OFFSET {
            return Err(StoreFault::TooLarge { max: MAX_OFFSET });
        }
        let writer = self.shelf.writer().await?;
        let bytes = change.patches.iter().filter(|patch| patch.dirty).map(|patch| patch.data.len() as u64).sum();
        let file = name.to_owned();
        self.run(name, bytes, async move { commit::write_back(&writer, &file, &change).await }).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> StoreResult<Vec<Listed>> {
        read::list(&self.shelf.database().await?, prefix, after, limit).await
    }

    async fn remove(&self, name: &str) -> StoreResult<()> {
        let writer = self.shelf.writer().await?;
        let file = name.to_owned();
        self.run(name, 0, async move { commit::remove(&writer, &file).await }).await
    }

    async fn probe(&self) -> StoreResult<Writability> {
        self.shelf.verdict().await
    }

    async fn ping(&self) -> StoreResult<()> {
        self.shelf.objects.ping().await?;
        self.shelf.database().await.map(|_| ())
    }

    async fn close(&self) -> StoreResult<()> {
        self.shelf.close().await
    }
}
