//! [`File`]: what all mappings of one path share, and the only place where its bytes change.
//!
//! - `flight`: a block on its way from the store
//! - `queue`: whose turn it is to change the file in its store
//! - `registered`: a mapping as its file knows it
//! - `log`: what the file says in the journal
//! - `state`: what is known of the file, under one reader-writer lock; pure
//! - `say`: what the state says in the journal of writes and mappings
//! - `observe`: asking the store what it has, and making sense of it
//! - `fetch`: bringing missing blocks in, one fetch a block
//! - `ahead`: bringing blocks in before they are asked for
//! - `access`: reads at one instant
//! - `write`: writes at one instant
//! - `commit`: write-back of a consistent cut; truncation; removal
//! - `apply`: pages that were kept aside, put onto the present content
//! - `restore`: a file after the server was away, and what a checkpoint says of it
//! - `resolve`: what to do with unsynced pages whose file changed in the store
//!
//! Invariants: the lock is held only while bytes that are in memory are copied or referenced, never across an
//! await; at most one change of the file is on its way to the store at a time (`commit` lock); locks are taken
//! in the order commit, state, overlay.

mod flight;
mod queue;
mod registered;
mod log;
mod state;
mod say;
mod observe;
mod fetch;
mod ahead;
mod access;
mod write;
mod commit;
mod apply;
mod resolve;
mod restore;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize};

use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;

pub use access::Access;
pub(crate) use access::no_such_mapping;
pub use ahead::ReadAhead;
pub use commit::{MakeFile, SyncOutcome};
pub use registered::{MapUse, Registered};
pub use write::Written;

use self::commit::Waiter;
use self::log::FileLog;
use self::queue::CommitQueue;
use self::state::FileState;
use crate::block::DirtyBlock;
use crate::caller::MmapId;
use crate::error::Result;
use crate::journal::Lsn;
use crate::path::FilePath;
use crate::shared::{MountParts, Shared};
use crate::units::{BLOCK_SIZE, ByteRange, MAX_OFFSET};
use crate::vfs::{Location, Version};

/// A file that is or was mapped. Exactly one lives for a path.
#[derive(Debug)]
pub struct File {
    path: FilePath,
    location: Location,
    shared: Arc<Shared>,
    /// What the file's mount can have.
    parts: Arc<MountParts>,
    state: RwLock<FileState>,
    /// Held by whoever changes the file in its store.
    commit: CommitQueue,
    /// Who waits for the next write-back.
    waiters: Mutex<Vec<Waiter>>,
    /// How many hold on to this file, counted by the file table under its lock.
    pub(crate) pins: AtomicUsize,
}

/// How often a mapping's accesses met the store. On a cache line of their own: who only looks at the mapping is
/// not disturbed by those who count.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct FaultCounts {
    /// Blocks that were in memory.
    pub minor: AtomicU64,
    /// Blocks that had to be waited for.
    pub major: AtomicU64,
}

/// How a mapping ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaving {
    /// Its pages were synced or given up: only what was written since may be left.
    Synced,
    /// Its pages could not be synced.
    Unsynced,
}

/// A file's figures for a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeStats {
    /// Bytes of the file.
    pub size: u64,
    /// What the store has, if it has the file.
    pub version: Option<Version>,
    /// Bytes of the range in memory, in whole pages.
    pub resident_bytes: u64,
    /// Unsynced bytes of the range, in whole pages.
    pub dirty_bytes: u64,
}

/// Every byte that a file can have.
pub const WHOLE: ByteRange = ByteRange::new(0, MAX_OFFSET);

impl File {
    /// A file of which nothing is known yet: [`File::refresh`] asks the store.
    pub fn new(path: FilePath, location: Location, shared: Arc<Shared>) -> Arc<Self> {
        let log = FileLog::new(shared.journal.clone(), path.clone());
        let state = RwLock::new(FileState::new(shared.new_content(), log));
        let parts = shared.parts_of(location.mount.prefix());
        Arc::new(Self {
            path,
            location,
            shared,
            parts,
            state,
            commit: CommitQueue::default(),
            waiters: Mutex::default(),
            pins: AtomicUsize::new(0),
        })
    }

    /// Its path.
    pub fn path(&self) -> &FilePath {
        &self.path
    }

    /// Where it lies.
    pub fn location(&self) -> &Location {
        &self.location
    }

    /// What its mount can have of the shares of memory.
    pub fn parts(&self) -> &MountParts {
        &self.parts
    }

    /// Bytes of the file.
    pub fn size(&self) -> u64 {
        self.state.read().size
    }

    /// What the store had when last seen, if it had the file.
    pub fn version(&self) -> Option<Version> {
        self.state.read().base.clone()
    }

    /// Makes a mapping known, if the file is there, and says so in the journal. `None`: it is being removed, or gone; look again once
    /// [`File::changes_ended`].
    pub fn register(&self, id: MmapId, mapping: Registered) -> Option<Lsn> {
        let mut state = self.state.write();
        let open = !state.removing && state.base.is_some();
        if open && let MapUse::Private(overlay) = &mapping.usage {
            self.shared.private.enroll(overlay);
        }
        open.then(|| state.enter(id, mapping))
    }

    /// Waits until the change that is on its way to the store, if any, has ended.
    pub async fn changes_ended(&self) {
        drop(self.commit.turn().await);
    }

    /// Forgets a mapping: its writes are refused from now on. What it leaves unsynced and nobody else will
    /// sync becomes the write-back task's to store.
    pub fn unregister(&self, id: MmapId, leaving: Leaving) -> Lsn {
        let mut state = self.state.write();
        let Some((mapping, said)) = state.leave(id) else { return Lsn::NONE };
        if !matches!(mapping.usage, MapUse::SharedWritable) {
            return said;
        }
        let left = state.unsynced_pages(mapping.range.page_aligned());
        let orphaned = match leaving {
            Leaving::Synced => left.iter().any(|(page, _)| !state.written_by_others(*page, None)),
            Leaving::Unsynced => !left.is_empty(),
        };
        if orphaned {
            state.orphans.push(mapping.range.page_aligned());
            self.shared.kick();
        }
        said
    }

    /// Whether there is something for the write-back task to do: ended processes left something to store, or the
    /// store has not been asked since the server was away.
    pub fn has_orphans(&self) -> bool {
        let state = self.state.read();
        !state.orphans.is_empty() || state.unsettled
    }

    /// How many mappings there are of it.
    pub fn mapped_by(&self) -> usize {
        self.state.read().mappings.len()
    }

    /// Unsynced bytes of it, in whole pages.
    pub fn dirty_bytes(&self) -> u64 {
        self.state.read().unsynced_bytes(WHOLE)
    }

    /// Memory of its blocks with unsynced pages: what writing it back makes free.
    pub fn dirty_memory(&self) -> u64 {
        self.state.read().dirty.len() as u64 * BLOCK_SIZE
    }

    /// When its oldest unsynced page was written, if there is one.
    pub fn unsynced_since(&self) -> Option<Instant> {
        self.state.read().dirty.values().map(DirtyBlock::since).min()
    }

    /// Whether the store has something else than the unsynced pages are based on.
    pub fn is_stale(&self) -> bool {
        self.state.read().stale
    }

    /// # Errors
    /// EROFS if its mount cannot be written, EIO if its store does not say.
    pub async fn require_writable(&self) -> Result<()> {
        self.location.mount.require_writable().await.map_err(|error| error.with("path", &self.path))
    }

    /// Whether nothing would be lost by forgetting it.
    pub fn is_idle(&self) -> bool {
        let state = self.state.read();
        state.mappings.is_empty() && state.dirty.is_empty() && state.orphans.is_empty() && !state.committing
    }

    /// Its figures for `range`.
    pub fn range_stats(&self, range: ByteRange) -> RangeStats {
        let state = self.state.read();
        let range = range.intersect(ByteRange::new(0, state.mapped_end()));
        let dirty: u64 = state
            .dirty
            .iter()
            .map(|(block, dirty)| {
                let touched = crate::units::PageMask::touched(range.within(*block));
                dirty.valid().intersect(touched).bytes()
            })
            .sum();
        let is_dirty = |block| state.dirty.contains_key(&block);
        let clean = self.shared.cache.resident_bytes(state.content, range, is_dirty);
        RangeStats {
            size: state.size,
            version: state.base.clone(),
            resident_bytes: clean + dirty,
            dirty_bytes: state.unsynced_bytes(range),
        }
    }
}
