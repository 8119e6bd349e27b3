//! What the syscalls take and answer: plain values, no behaviour.

use std::time::{Duration, SystemTime};

pub use crate::caller::{Caller, MmapId, ProcessKey, Subject};
use crate::flags::{MapFlags, ProtFlags};

/// What to map, and how.
#[derive(Clone, Debug)]
pub struct MapRequest {
    /// The file's path, not yet validated.
    pub path: String,
    /// First byte of the file.
    pub offset: u64,
    /// Bytes; to the end of the file if absent.
    pub length: Option<u64>,
    /// What the mapping's owner may do.
    pub prot: ProtFlags,
    /// Shared or private.
    pub flags: MapFlags,
    /// What to do if the file is missing.
    pub create: Create,
    /// When to fault pages in.
    pub populate: Populate,
}

/// What to do if the file is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Create {
    /// Fail with ENOENT.
    Never,
    /// Make it.
    IfMissing,
    /// Make it, and fail with EEXIST if it is there. Not for mmap.
    Exclusive,
}

/// When to fault a mapping's pages in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Populate {
    /// When they are touched.
    OnDemand,
    /// Before mmap answers.
    Now,
}

/// A new mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// Its id.
    pub id: MmapId,
    /// Bytes mapped.
    pub length: u64,
    /// Bytes of the file.
    pub file_size: u64,
}

/// Whether msync waits for the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncWait {
    /// Answer when the store holds the writes.
    Stored,
    /// Start the write-back and answer at once.
    Started,
}

/// What msync does about a file that changed in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnChange {
    /// Fail with ESTALE and keep both contents.
    Fail,
    /// Put the unsynced pages onto the new content.
    Force,
    /// Give the unsynced pages up. Clean pages are dropped in any case, so that the next read sees the store.
    Invalidate,
}

/// How to sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncRequest {
    /// First byte of the mapping; 0 if absent.
    pub offset: Option<u64>,
    /// Bytes; to the end of the mapping if absent.
    pub length: Option<u64>,
    /// Whether to wait.
    pub wait: SyncWait,
    /// What to do about a change in the store.
    pub on_change: OnChange,
}

impl Default for SyncRequest {
    fn default() -> Self {
        Self { offset: None, length: None, wait: SyncWait::Stored, on_change: OnChange::Fail }
    }
}

/// What msync did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Synced {
    /// Unsynced bytes of the range that were written back, in whole pages.
    pub bytes: u64,
    /// The file's version in the store, opaque; empty if the file is gone from it.
    pub version: String,
}

/// What munmap does with unsynced pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsynced {
    /// Sync them.
    Sync,
    /// Sync them, and put them onto the store's content if that has changed.
    SyncForce,
    /// Drop them; EBUSY while another process has a writable shared mapping over any of them.
    Discard,
    /// Drop them in any case.
    DiscardForce,
}

/// What a mapping is and what it costs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappingStats {
    /// Its id.
    pub id: MmapId,
    /// The file.
    pub path: String,
    /// First byte of the file mapped.
    pub offset: u64,
    /// Bytes mapped.
    pub length: u64,
    /// What its owner may do.
    pub prot: ProtFlags,
    /// Shared or private.
    pub flags: MapFlags,
    /// The process that it belongs to.
    pub owner_pid: u32,
    /// Bytes of the file.
    pub file_size: u64,
    /// The file's version in the store, opaque; empty if the file is gone from it.
    pub version: String,
    /// Bytes of its range in memory, in whole pages.
    pub resident_bytes: u64,
    /// Unsynced bytes of its range, in whole pages.
    pub dirty_bytes: u64,
    /// Bytes of its own pages.
    pub private_bytes: u64,
    /// Block accesses that found the block in memory, and first writes to a private page.
    pub minor_faults: u64,
    /// Block accesses that had to wait for the store.
    pub major_faults: u64,
}

/// A page of a list, and where the next one begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// Its entries.
    pub items: Vec<T>,
    /// Opaque; empty at the end.
    pub next: String,
}

/// Which page of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageRequest {
    /// Entries; 0 means the default.
    pub size: u32,
    /// The last answer's `next`; empty for the first page.
    pub token: String,
}

/// What an exit did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exited {
    /// Mappings that were dropped.
    pub unmapped: u64,
    /// Unsynced bytes that were written back, in whole pages.
    pub synced_bytes: u64,
}

/// A process in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessStats {
    /// Its pid.
    pub pid: u32,
    /// What it called itself when it attached.
    pub name: String,
    /// How many mappings it has.
    pub mappings: u64,
    /// It is attached now.
    pub attached: bool,
    /// Since its last call; zero while a call runs.
    pub idle: Duration,
}

/// A file, mapped or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileStats {
    /// Its path.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Opaque.
    pub version: String,
    /// When its content last changed.
    pub modified: SystemTime,
    /// Mappings of it.
    pub mapped_by: u64,
    /// Unsynced bytes of it, in whole pages.
    pub dirty_bytes: u64,
}

/// What is used of each share of the memory budget, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryUse {
    /// Clean blocks.
    pub clean: u64,
    /// Blocks with unsynced pages, and their copies while they are written back.
    pub dirty: u64,
    /// Private pages in memory.
    pub private: u64,
    /// Blocks on their way from the stores.
    pub fetch: u64,
    /// What write-backs hold beside the unsynced blocks.
    pub write_back: u64,
}

impl MemoryUse {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.clean + self.dirty + self.private + self.fetch + self.write_back
    }
}

/// What became of what was read ahead, in bytes of whole blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadAheadUse {
    /// Brought before anybody asked for it.
    pub brought: u64,
    /// Asked for ahead, and a reader came to it.
    pub used: u64,
    /// Asked for ahead, and no reader came to it before its mapping ended or the reader's pattern was forgotten.
    pub wasted: u64,
}

/// A file with bytes that are not in the store yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitingFile {
    /// Its path.
    pub path: String,
    /// Unsynced bytes of it, in whole pages.
    pub dirty_bytes: u64,
    /// Since the oldest of them was written, or last written back.
    pub waiting: Duration,
    /// Why the last write-back failed, if it did.
    pub last_error: Option<String>,
}

/// What a truncation made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Truncated {
    /// Bytes.
    pub size: u64,
    /// Opaque.
    pub version: String,
}

/// What is left when a manager shuts down.
#[derive(Clone, Debug, Default)]
pub struct ShutdownReport {
    /// Unsynced bytes that were written back, in whole pages.
    pub synced_bytes: u64,
    /// Files whose unsynced bytes could not be stored: path, bytes, why.
    pub unsynced: Vec<(String, u64, String)>,
    /// Files whose unsynced bytes are in the journal, for the next start: path, bytes, why.
    pub waiting: Vec<(String, u64, String)>,
}

/// What a manager took up from its journal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Records that were replayed.
    pub records: u64,
    /// Bytes behind the last record that were not acknowledged to anybody, and are passed over.
    pub torn_bytes: u64,
    /// What of the acknowledged could not be read, if its loss was accepted.
    pub damage: Option<String>,
    /// Processes that live.
    pub processes: usize,
    /// Mappings that are there.
    pub mappings: usize,
    /// Bytes that are not synced yet.
    pub unsynced_bytes: u64,
}

/// How a mount is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountStatus {
    /// Its prefix, `/` or without a `/` at the end.
    pub prefix: String,
    /// Where it lies, without secrets.
    pub url: String,
    /// `Ok` if the store answers, else why not.
    pub answer: std::result::Result<(), String>,
}

/// A version as the caller sees it: empty if the file is gone from its store.
pub(super) fn version_text(version: Option<&crate::vfs::Version>) -> String {
    version.map(|version| version.as_str().to_owned()).unwrap_or_default()
}
