//! [`MmapManager`]: the syscalls over mounted stores; the crate's face.
//!
//! - `api`: what the syscalls take and answer
//! - `map`: mmap and munmap
//! - `access`: read, write, msync
//! - `info`: stats and lists
//! - `snapshot`: what everything together comes to, for who watches the server
//! - `files`: stat, list, truncate, remove
//! - `conflicts`: list, read, apply and drop what was kept aside
//! - `life`: attach, exit, the end of processes and of the manager
//! - `checkpoint`: making the journal shorter
//! - `recover`: coming back after a kill, or after an end
//!
//! Order of checks in every call: EINVAL, EACCES, then EBADF or ENOENT, then SEGV_MAPERR, SEGV_ACCERR, SIGBUS.
//! Every call is cancel safe: one that is dropped took effect or did not, but never in part.

mod api;
mod map;
mod access;
mod info;
mod snapshot;
mod files;
mod conflicts;
mod life;
mod checkpoint;
mod recover;
#[cfg(test)]
mod mmap_tests;
#[cfg(test)]
mod fault_tests;
#[cfg(test)]
mod ahead_tests;
#[cfg(test)]
mod try_tests;
#[cfg(test)]
mod race_tests;
#[cfg(test)]
mod end_tests;
#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod pressure_tests;
#[cfg(test)]
mod conflict_tests;
#[cfg(test)]
mod subject_tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dashmap::DashMap;
use dashmap::mapref::one::Ref;
use quick_cache::DefaultHashBuilder;
use tokio_util::sync::CancellationToken;

pub use api::*;
pub use conflicts::{AppliedConflict, ConflictPage, ConflictPart, ReadConflict};
pub use life::Attachment;
pub use snapshot::{Faults, MountSnapshot, Share, Snapshot, WriteBacks};

use self::snapshot::FaultTotals;
pub use crate::block::ReadBytes;
use crate::error::{Errno, Error, Result};
pub use crate::file::Written;
use crate::file::no_such_mapping;
use crate::journal::Journal;
use crate::limits::Limits;
use crate::mapping::MmapEntry;
use crate::process::{CallGuard, ProcessTable};
use crate::shared::Shared;
use crate::spill::SpillFile;
use crate::state::StateDir;
use crate::table::FileTable;
use crate::vfs::Vfs;

/// Central manager for memory-mapped file regions.
///
/// Integrates with the VFS for file access, supports shared and private (copy-on-write) mappings, and cleans up
/// when a process ends. Its background tasks end when it is shut down or dropped.
#[derive(Debug)]
pub struct MmapManager {
    shared: Arc<Shared>,
    files: Arc<FileTable>,
    /// With the cache's fast hasher: the ids are of our own making.
    mappings: DashMap<MmapId, Arc<MmapEntry>, DefaultHashBuilder>,
    processes: ProcessTable,
    state: StateDir,
    faults: FaultTotals,
    /// No more calls.
    closed: CancellationToken,
    /// The same, for who only wants to know it: the token has a lock.
    refusing: AtomicBool,
    /// No more background work.
    stopped: CancellationToken,
}

impl MmapManager {
    /// A manager over `vfs` with default limits and nothing that outlives it: for embedders and tests. Needs a
    /// tokio runtime to run on.
    pub fn with_vfs(vfs: Vfs) -> Arc<Self> {
        Self::assemble(vfs, StateDir::none(), Limits::default(), None, None)
    }

    /// A manager over `vfs` without a journal: acknowledged writes survive nothing before they are synced
    /// (level `memory`). Needs a tokio runtime to run on.
    ///
    /// # Errors
    /// EINVAL if the limits do not fit together, EIO if the spill file cannot be made.
    pub fn open(vfs: Vfs, state: StateDir, limits: Limits) -> Result<Arc<Self>> {
        limits.check()?;
        let spill = state.spill_file(limits.private_spill)?;
        Ok(Self::assemble(vfs, state, limits, spill, None))
    }

    fn assemble(
        vfs: Vfs,
        state: StateDir,
        limits: Limits,
        spill: Option<Arc<SpillFile>>,
        journal: Option<Journal>,
    ) -> Arc<Self> {
        let processes = ProcessTable::new(journal.clone(), limits.subject.clone());
        let shared = Shared::new(limits, state.aside(), spill, journal);
        let manager = Arc::new(Self {
            files: Arc::new(FileTable::new(vfs, Arc::clone(&shared))),
            shared,
            mappings: DashMap::with_hasher_and_shard_amount(DefaultHashBuilder::default(), MAPPING_SHARDS),
            refusing: AtomicBool::new(false),
            processes,
            state,
            faults: FaultTotals::default(),
            closed: CancellationToken::new(),
            stopped: CancellationToken::new(),
        });
        manager.start();
        manager
    }

    /// The limits.
    pub fn limits(&self) -> &Limits {
        &self.shared.limits
    }

    /// The caller's mapping, and the call's mark on its process.
    fn own_mapping(&self, caller: &Caller, id: MmapId) -> Result<(Arc<MmapEntry>, CallGuard)> {
        let entry = Arc::clone(&*self.find_own(caller, id)?);
        let call = entry.process.begin_call();
        Ok((entry, call))
    }

    /// The caller's mapping, which cannot go as long as the answer is held: not across an await, then.
    fn find_own(&self, caller: &Caller, id: MmapId) -> Result<Ref<'_, MmapId, Arc<MmapEntry>>> {
        match self.mappings.get(&id) {
            Some(entry) if caller.is(entry.owner()) => Ok(entry),
            // The same answer as if it were not there; but the log may know.
            Some(entry) if entry.owner().subject != caller.subject => Err(no_such_mapping(id).caused_by(Foreign)),
            Some(_) | None => Err(no_such_mapping(id)),
        }
    }

    /// No call is begun from now on.
    fn close(&self) {
        self.refusing.store(true, Ordering::Release);
        self.closed.cancel();
    }

    fn check_open(&self) -> Result<()> {
        if self.refusing.load(Ordering::Acquire) {
            return Err(Error::new(Errno::Io, "the server is shutting down").retry_after(RESTART));
        }
        Ok(())
    }

    fn check_message(&self, field: &'static str, length: u64) -> Result<()> {
        let max = self.shared.limits.max_message;
        if length > max {
            return Err(Error::invalid(
                field,
                format!("{length} bytes are more than the largest message of {max}: use several calls"),
            )
            .with("length", length)
            .with("max", max));
        }
        Ok(())
    }
}

/// Why a mapping that is there is not the caller's: it is of another subject. Goes into the log as an error's cause, and
/// never to the caller.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the mapping is another subject's")]
pub struct Foreign;

/// More than threads, so that those at different mappings seldom meet at one lock.
const MAPPING_SHARDS: usize = 64;
/// When a server that is shutting down may be back.
const RESTART: std::time::Duration = std::time::Duration::from_secs(1);

impl Drop for MmapManager {
    fn drop(&mut self) {
        self.close();
        self.stopped.cancel();
    }
}
