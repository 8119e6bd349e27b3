//! The layout `local`: a file is one plain file in a folder of this machine.
//!
//! All work is blocking system calls, made on the runtime's threads for those. A call whose caller has gone
//! ends at its next step; a change that has passed its last check takes effect all the same.

mod disk;
mod inode;
mod copy;
mod root;
mod temp;
mod redo;
mod pending;
mod read;
mod walk;
mod write;
mod in_place;

#[cfg(test)]
mod faults;
#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod in_place_tests;
#[cfg(test)]
mod tests;

use std::io;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use cap_std::fs::MetadataExt;

use self::copy::Cancelled;
use self::disk::Disk;
use self::inode::io_fault;
use self::root::Root;
use self::temp::{Temp, remove_leftovers};
use super::fault::{StoreFault, StoreResult};
use super::store::{FileStore, Listed, Stat, Traits, Writability, WriteBack};
use super::version::Version;
use crate::units::{ByteRange, MAX_OFFSET};

/// Files as plain files in a folder.
#[derive(Debug)]
pub struct LocalLayout {
    root: Arc<Root>,
}

/// Sets its flag when the caller drops the call.
struct CancelGuard(Arc<Cancelled>);

impl Drop for CancelGuard {
    fn drop(&mut self) {
        self.0.set();
    }
}

impl LocalLayout {
    /// The folder `folder`, to be read and written. What a killed server left is finished or removed.
    ///
    /// # Errors
    /// The folder is missing, is none, or may not be opened.
    pub fn open(folder: &Path) -> io::Result<Self> {
        Ok(Self::started(Root::open(folder, false, Disk::default())?))
    }

    /// The folder `folder`, to be read only: nothing in it is touched.
    ///
    /// # Errors
    /// As [`LocalLayout::open`].
    pub fn open_read_only(folder: &Path) -> io::Result<Self> {
        Ok(Self { root: Arc::new(Root::open(folder, true, Disk::default())?) })
    }

    fn started(root: Root) -> Self {
        root.finish_all();
        remove_leftovers(&root);
        Self { root: Arc::new(root) }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Root, &Cancelled) -> StoreResult<T> + Send + 'static,
    ) -> StoreResult<T> {
        let root = Arc::clone(&self.root);
        let guard = CancelGuard(Arc::default());
        let cancelled = Arc::clone(&guard.0);
        match tokio::task::spawn_blocking(move || work(&root, &cancelled)).await {
            Ok(answer) => answer,
            Err(error) => Err(StoreFault::failed("the work on the file system was cut off", error)),
        }
    }
}

#[async_trait]
impl FileStore for LocalLayout {
    fn traits(&self) -> Traits {
        Traits { max_file_size: MAX_OFFSET, rewrites_up_to: 0 }
    }

    fn check_name(&self, _name: &str) -> StoreResult<()> {
        // Whatever a path can say, a folder keeps as it stands.
        Ok(())
    }

    async fn stat(&self, name: &str) -> StoreResult<Stat> {
        let name = name.to_owned();
        self.blocking(move |root, cancelled| root.stat(Path::new(&name), cancelled)).await
    }

    async fn read(&self, name: &str, version: &Version, range: ByteRange) -> StoreResult<Vec<Bytes>> {
        let (name, version) = (name.to_owned(), version.clone());
        self.blocking(move |root, cancelled| root.read(Path::new(&name), &version, range, cancelled)).await
    }

    async fn write_back(&self, name: &str, change: WriteBack) -> StoreResult<Stat> {
        let name = name.to_owned();
        if change.size > MAX_OFFSET {
            return Err(StoreFault::TooLarge { max: MAX_OFFSET });
        }
        self.blocking(move |root, cancelled| root.write_back(Path::new(&name), change, cancelled)).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> StoreResult<Vec<Listed>> {
        let (prefix, after) = (prefix.to_owned(), after.map(str::to_owned));
        self.blocking(move |root, cancelled| root.list(&prefix, after.as_deref(), limit, cancelled)).await
    }

    async fn remove(&self, name: &str) -> StoreResult<()> {
        let name = name.to_owned();
        self.blocking(move |root, cancelled| root.remove(Path::new(&name), cancelled)).await
    }

    async fn probe(&self) -> StoreResult<Writability> {
        self.blocking(|root, _| {
            let temp = Temp::create(root)?;
            temp.set_size(1)?;
            root.disk.sync(&temp.file).map_err(io_fault)?;
            Ok(Writability::Safe)
        })
        .await
    }

    async fn ping(&self) -> StoreResult<()> {
        self.blocking(|root, _| match root.dir.dir_metadata().map_err(io_fault)?.nlink() {
            // An open folder outlives its name.
            0 => Err(StoreFault::Failed("the mount's folder was removed".into(), None)),
            _ => Ok(()),
        })
        .await
    }
}
