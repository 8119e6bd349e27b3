//! The layout `object`: a file is one plain object that any other tool reads.
//!
//! A change rewrites the whole object: up to a size with one conditional PUT, above it in parts. Content type
//! and user metadata of an object that others wrote are kept; object tags and storage class are not.

mod options;
mod completion;
mod repeat;
mod bucket;
mod list;
mod probe;
mod read;
mod write;
mod parts;

#[cfg(test)]
mod lookalike;
#[cfg(test)]
mod memory_tests;
#[cfg(test)]
mod tests;

pub(super) use completion::condition_of;
pub use options::{Conditions, Identity, ObjectOptions};

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use object_store::ObjectStore;
use object_store::memory::InMemory;
use object_store::path::Path;

pub(in crate::vfs) use self::bucket::fault;
use self::bucket::{Bucket, delete};
use self::options::MEMORY_FILE_MAX;
use super::fault::{StoreFault, StoreResult};
use super::store::{FileStore, Listed, Stat, Traits, Writability, WriteBack};
use super::version::Version;
use crate::path::PATH_MAX;
use crate::units::ByteRange;

/// Files as plain objects under one prefix of a store.
#[derive(Debug)]
pub struct ObjectLayout {
    bucket: Bucket,
}

impl ObjectLayout {
    /// The objects of `store` whose keys begin with `root` and a `/`, or all if it is empty.
    pub fn new(store: Arc<dyn ObjectStore>, root: Path, options: ObjectOptions) -> Self {
        Self { bucket: Bucket::new(store, root, options) }
    }

    /// As [`FileStore::probe`], for who only ever makes objects and overwrites none.
    pub(in crate::vfs) async fn probe_create(&self) -> StoreResult<Writability> {
        self.bucket.probe_create().await
    }

    /// A new, empty store in memory.
    pub fn in_memory() -> Self {
        let options = ObjectOptions { max_file_size: MEMORY_FILE_MAX, key_max: PATH_MAX, ..ObjectOptions::default() };
        Self::new(Arc::new(InMemory::new()), Path::ROOT, options)
    }
}

#[async_trait]
impl FileStore for ObjectLayout {
    fn traits(&self) -> Traits {
        let max_file_size = self.bucket.options.max_file_size;
        // Above it only parts of the file are in memory, and patches for all of it would not be.
        Traits { max_file_size, rewrites_up_to: self.bucket.options.single_put_max.min(max_file_size) }
    }

    fn check_name(&self, name: &str) -> StoreResult<()> {
        self.bucket.path(name).map(|_| ())
    }

    async fn stat(&self, name: &str) -> StoreResult<Stat> {
        self.bucket.head(&self.bucket.path(name)?).await
    }

    async fn read(&self, name: &str, version: &Version, range: ByteRange) -> StoreResult<Vec<Bytes>> {
        self.bucket.read_blocks(&self.bucket.path(name)?, version, range).await
    }

    async fn read_each(
        &self,
        name: &str,
        version: &Version,
        range: ByteRange,
        land: &mut (dyn FnMut(Bytes) + Send),
    ) -> StoreResult<()> {
        self.bucket.each_block(&self.bucket.path(name)?, version, range, land).await
    }

    async fn write_back(&self, name: &str, change: WriteBack) -> StoreResult<Stat> {
        let path = self.bucket.path(name)?;
        let ObjectOptions { max_file_size, single_put_max, .. } = self.bucket.options;
        if change.size > max_file_size {
            return Err(StoreFault::TooLarge { max: max_file_size });
        }
        if change.size <= single_put_max {
            self.bucket.put_whole(&path, &change).await
        } else {
            self.bucket.put_parts(&path, &change).await
        }
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> StoreResult<Vec<Listed>> {
        self.bucket.list_names(prefix, after, limit).await
    }

    async fn remove(&self, name: &str) -> StoreResult<()> {
        let path = self.bucket.path(name)?;
        // Removing what is not there succeeds on most stores, so it is asked for first.
        self.bucket.head(&path).await?;
        delete(&self.bucket.store, &path).await
    }

    async fn probe(&self) -> StoreResult<Writability> {
        self.bucket.probe_conditions().await
    }

    async fn ping(&self) -> StoreResult<()> {
        // The list of what lies behind the greatest name: one request, an empty answer, and unlike a HEAD it
        // tells a missing bucket from a missing object.
        let end = self.bucket.path("\u{10FFFF}")?;
        let root = (!self.bucket.root.is_root()).then_some(&self.bucket.root);
        match self.bucket.store.list_with_offset(root, &end).next().await.transpose().map_err(fault) {
            Ok(_) => Ok(()),
            Err(StoreFault::Missing) => Err(StoreFault::Failed("there is no such bucket".into(), None)),
            Err(other) => Err(other),
        }
    }
}
