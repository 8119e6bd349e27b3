//! The real thing beside the reference: a manager over a store that can fail, and the store's other side,
//! through which the test changes files behind the manager's back and sees what is really there.

use std::sync::Arc;

use bytes::Bytes;
use mmap_core::error::{Errno, Error};
use mmap_core::limits::Limits;
use mmap_core::manager::{MmapId, MmapManager};
use mmap_core::state::StateDir;
use mmap_core::units::ByteRange;
use mmap_core::vfs::chaos::{Call, ChaosStore, Fault};
use mmap_core::vfs::object::ObjectLayout;
use mmap_core::vfs::{Base, CommitId, FileStore, Mount, Patch, StoreFault, Vfs, WriteBack};

pub(crate) struct World {
    pub(crate) manager: Arc<MmapManager>,
    pub(crate) chaos: Arc<ChaosStore>,
    inner: Arc<ObjectLayout>,
}

/// A file's name by its number.
pub(crate) fn path(file: usize) -> String {
    format!("/f{file}")
}

impl World {
    /// The cache is so small that blocks are dropped all the time.
    pub(crate) fn new() -> Self {
        let inner = Arc::new(ObjectLayout::in_memory());
        let chaos = Arc::new(ChaosStore::new(Arc::clone(&inner) as Arc<dyn FileStore>));
        let mount = Mount::with_store("/", Arc::clone(&chaos) as Arc<dyn FileStore>).unwrap();
        let max_message = 256 * 1024;
        let limits = Limits { max_message, ..Limits::with_memory(8 * (max_message + 128 * 1024)) };
        let manager = MmapManager::open(Vfs::new(vec![mount]).unwrap(), StateDir::none(), limits).unwrap();
        Self { manager, chaos, inner }
    }

    /// What the store really has.
    pub(crate) async fn peek(&self, file: usize) -> Option<Vec<u8>> {
        let name = path(file).split_off(1);
        let stat = match self.inner.stat(&name).await {
            Ok(stat) => stat,
            Err(StoreFault::Missing) => return None,
            Err(fault) => panic!("{fault}"),
        };
        if stat.size == 0 {
            return Some(Vec::new());
        }
        let blocks = self.inner.read(&name, &stat.version, ByteRange::new(0, stat.size)).await;
        Some(blocks.unwrap().concat())
    }

    /// Somebody else writes or removes the file.
    pub(crate) async fn put(&self, file: usize, content: Option<&[u8]>) {
        let name = path(file).split_off(1);
        let base = match self.inner.stat(&name).await {
            Ok(stat) => Base::At { version: stat.version, size: stat.size },
            Err(_) => Base::Missing,
        };
        let Some(content) = content else {
            if base != Base::Missing {
                self.inner.remove(&name).await.unwrap();
            }
            return;
        };
        let patches = match content {
            [] => Vec::new(),
            content => vec![Patch { offset: 0, data: Bytes::copy_from_slice(content), dirty: true }],
        };
        let change = WriteBack { base, size: content.len() as u64, patches, commit: CommitId::random() };
        self.inner.write_back(&name, change).await.unwrap();
    }

    /// The version that the manager knows of a mapped file, and the store's real one.
    pub(crate) async fn is_behind(&self, mapping: u64, file: usize) -> bool {
        let known = self.manager.stats(1, MmapId(mapping)).unwrap().version;
        let real = self.inner.stat(&path(file)[1..]).await.map(|stat| stat.version.to_string());
        known != real.unwrap_or_default()
    }

    pub(crate) fn fail(&self, fault: Trouble) {
        let (call, fault) = match fault {
            Trouble::None => return,
            Trouble::Stat => (Call::Stat, Fault::FailBefore),
            Trouble::Read => (Call::Read, Fault::FailBefore),
            Trouble::WriteBefore => (Call::WriteBack, Fault::FailBefore),
            Trouble::WriteAfter => (Call::WriteBack, Fault::FailAfter),
        };
        self.chaos.push(call, fault);
    }
}

/// What is wrong with the store during one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    None,
    Stat,
    Read,
    WriteBefore,
    WriteAfter,
}

/// The kind of failure, for comparison.
pub(crate) fn errno<T>(result: Result<T, Error>) -> Result<T, Errno> {
    result.map_err(|error| error.errno())
}
