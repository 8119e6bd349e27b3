//! [`MmapManager`]: the syscalls over mounted stores.

mod api;

pub use api::*;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::error::{Errno, Error, Result};
use crate::flags::{MapFlags, ProtFlags};

/// Central manager for memory-mapped file regions.
#[derive(Debug)]
pub struct MmapManager {}

fn later<T>() -> Result<T> {
    Err(Error::new(Errno::NotSup, "not yet"))
}

/// The bytes of a read: slices of resident blocks, referenced and not copied.
#[derive(Clone, Debug, Default)]
pub struct ReadBytes(Vec<Bytes>);

impl ReadBytes {
    /// All bytes in one buffer: without a copy if they lie in one block.
    pub fn into_bytes(self) -> Bytes {
        self.0.concat().into()
    }
}

/// A live attachment of a process; dropping it detaches the process and starts its grace time.
#[derive(Debug)]
pub struct Attachment {}

impl Attachment {
    /// The process.
    pub fn pid(&self) -> u32 {
        0
    }

    /// Resolves when the process has ended (by exit, or because the manager shuts down). Cancel safe.
    pub async fn ended(&self) {}
}

impl MmapManager {
    /// Seed form of [`MmapManager::map`].
    pub async fn mmap(
        &self,
        caller: impl Into<Caller>,
        path: String,
        offset: u64,
        length: u64,
        prot: ProtFlags,
        flags: MapFlags,
    ) -> Result<MmapId> {
        let _ = (caller.into(), path, offset, length, prot, flags);
        later()
    }
    /// Maps.
    pub async fn map(&self, caller: impl Into<Caller>, request: MapRequest) -> Result<Mapped> {
        let _ = (caller.into(), request);
        later()
    }
    /// Reads.
    pub async fn read(&self, caller: impl Into<Caller>, id: MmapId, offset: u64, length: u64) -> Result<ReadBytes> {
        let _ = (caller.into(), id, offset, length);
        later()
    }
    /// Writes; answers the number of bytes.
    pub async fn write(&self, caller: impl Into<Caller>, id: MmapId, offset: u64, data: &[u8]) -> Result<u64> {
        let _ = (caller.into(), id, offset, data);
        later()
    }
    /// Syncs the whole mapping: seed form.
    pub async fn msync(&self, caller: impl Into<Caller>, id: MmapId) -> Result<Synced> {
        self.sync(caller, id, SyncRequest::default()).await
    }
    /// Syncs.
    pub async fn sync(&self, caller: impl Into<Caller>, id: MmapId, request: SyncRequest) -> Result<Synced> {
        let _ = (caller.into(), id, request);
        later()
    }
    /// Unmaps, syncing: seed form. Answers synced bytes.
    pub async fn munmap(&self, caller: impl Into<Caller>, id: MmapId) -> Result<u64> {
        self.unmap(caller, id, Unsynced::Sync).await
    }
    /// Unmaps. Answers synced bytes.
    pub async fn unmap(&self, caller: impl Into<Caller>, id: MmapId, unsynced: Unsynced) -> Result<u64> {
        let _ = (caller.into(), id, unsynced);
        later()
    }
    /// Stats.
    pub fn stats(&self, caller: impl Into<Caller>, id: MmapId) -> Result<MappingStats> {
        let _ = (caller.into(), id);
        later()
    }
    /// Lists mappings (of `pid`, or as the contract says if absent).
    pub fn list_mappings(
        &self,
        caller: impl Into<Caller>,
        pid: Option<u32>,
        page: PageRequest,
    ) -> Result<Page<MappingStats>> {
        let _ = (caller.into(), pid, page);
        later()
    }
    /// Attaches. `wanted` is the request's pid; the caller's pid is the header's.
    pub fn attach(&self, caller: impl Into<Caller>, wanted: Option<u32>, name: String) -> Result<Attachment> {
        let _ = (caller.into(), wanted, name);
        later()
    }
    /// Ends the calling process.
    pub async fn exit(&self, caller: impl Into<Caller>, discard: bool) -> Result<Exited> {
        let _ = (caller.into(), discard);
        later()
    }
    /// Lists processes.
    pub fn list_processes(&self, caller: impl Into<Caller>, page: PageRequest) -> Result<Page<ProcessStats>> {
        let _ = (caller.into(), page);
        later()
    }
    /// Stats a file.
    pub async fn stat_file(&self, caller: impl Into<Caller>, path: &str) -> Result<FileStats> {
        let _ = (caller.into(), path);
        later()
    }
    /// Lists files.
    pub async fn list_files(
        &self,
        caller: impl Into<Caller>,
        prefix: &str,
        page: PageRequest,
    ) -> Result<Page<FileStats>> {
        let _ = (caller.into(), prefix, page);
        later()
    }
    /// Truncates.
    pub async fn truncate_file(
        &self,
        caller: impl Into<Caller>,
        path: &str,
        size: u64,
        create: Create,
    ) -> Result<Truncated> {
        let _ = (caller.into(), path, size, create);
        later()
    }
    /// Removes.
    pub async fn remove_file(&self, caller: impl Into<Caller>, path: &str) -> Result<()> {
        let _ = (caller.into(), path);
        later()
    }
    /// How the mounts are: asks each store for a sign of life, and probes those that were not probed yet.
    pub async fn check_mounts(&self) -> Vec<MountStatus> {
        Vec::new()
    }
    /// Ends every process, syncs every file with unsynced bytes within `limit`, and says what could not be synced.
    /// Calls that come later fail.
    pub async fn shutdown(&self, limit: Duration) -> ShutdownReport {
        let _ = limit;
        ShutdownReport::default()
    }
    /// The limits.
    pub fn limits(&self) -> &crate::limits::Limits {
        unreachable!()
    }
}

/// The constructor the server uses.
pub fn open(vfs: crate::vfs::Vfs, state: crate::state::StateDir, limits: crate::limits::Limits) -> Arc<MmapManager> {
    let _ = (vfs, state, limits);
    Arc::new(MmapManager {})
}
