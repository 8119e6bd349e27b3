//! What calls take and answer: capabilities, protections, and the facts about files, mappings and processes.
//!
//! These are this crate's own types, so that a change of the generated code is no change for callers. The
//! conversions from the wire cannot fail: whatever the server sent has a meaning here.

use std::{
    fmt,
    ops::BitOr,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use mmap_proto::v1;

/// A right that a client claims (a server in `trust` mode takes its word).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Capability {
    /// Map, stat and list files.
    FileRead,
    /// Map files for writing, make, truncate and remove them.
    FileWrite,
    /// See mappings' statistics, other processes' mappings, and the list of processes.
    SystemInfo,
}

impl Capability {
    /// Its name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::FileRead => "FileRead",
            Self::FileWrite => "FileWrite",
            Self::SystemInfo => "SystemInfo",
        }
    }
}

/// What accesses a mapping allows: a set of [`READ`](Self::READ), [`WRITE`](Self::WRITE), [`EXEC`](Self::EXEC).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Prot(u32);

impl Prot {
    /// No access.
    pub const NONE: Self = Self(0);
    /// Reading.
    pub const READ: Self = Self(1);
    /// Writing.
    pub const WRITE: Self = Self(2);
    /// Executing: told back in the statistics, nothing else.
    pub const EXEC: Self = Self(4);
    /// Reading and writing.
    pub const READ_WRITE: Self = Self(3);

    /// The bits as the contract has them.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Whether every access of `other` is allowed.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl BitOr for Prot {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// As in `/proc/PID/maps`: `rw-`.
impl fmt::Display for Prot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (bit, letter) in [(Self::READ, "r"), (Self::WRITE, "w"), (Self::EXEC, "x")] {
            f.write_str(if self.contains(bit) { letter } else { "-" })?;
        }
        Ok(())
    }
}

/// Who sees a mapping's writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sharing {
    /// Every process that maps the file; they are synced to it.
    Shared,
    /// This mapping alone; they never reach the file.
    Private,
}

/// One page of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// The entries, in the list's order.
    pub items: Vec<T>,
    /// What to ask the next page with; `None` at the end.
    pub next: Option<String>,
}

impl<T> Page<T> {
    pub(crate) fn new(items: Vec<T>, next_page_token: String) -> Self {
        Self { items, next: Some(next_page_token).filter(|token| !token.is_empty()) }
    }
}

/// A file in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileInfo {
    /// Its path.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Opaque: two that are equal mean the same content.
    pub version: String,
    /// When the store's content last changed, if the store says.
    pub modified: Option<SystemTime>,
    /// How many mappings there are of it on this server.
    pub mapped_by: u64,
    /// Its unsynced bytes on this server, in whole pages.
    pub dirty_bytes: u64,
}

impl From<v1::StatFileResponse> for FileInfo {
    fn from(wire: v1::StatFileResponse) -> Self {
        Self {
            path: wire.path,
            size: wire.size,
            version: wire.version,
            // A time that SystemTime cannot hold is no time.
            modified: wire.modified.and_then(|time| SystemTime::try_from(time).ok()),
            mapped_by: wire.mapped_by,
            dirty_bytes: wire.dirty_bytes,
        }
    }
}

/// What a mapping is and what it costs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappingInfo {
    /// Its id.
    pub id: u64,
    /// The file's path.
    pub path: String,
    /// First byte of the file mapped.
    pub offset: u64,
    /// Bytes mapped.
    pub length: u64,
    /// What an access may do.
    pub prot: Prot,
    /// Shared or private.
    pub sharing: Sharing,
    /// The process that it belongs to.
    pub owner_pid: u32,
    /// Size of the file in bytes.
    pub file_size: u64,
    /// The file's version in the store.
    pub version: String,
    /// Bytes of the range in memory, in whole pages.
    pub resident_bytes: u64,
    /// Unsynced bytes of the range, in whole pages.
    pub dirty_bytes: u64,
    /// Bytes of a private mapping's own pages.
    pub private_bytes: u64,
    /// Accesses that found their block in memory.
    pub minor_faults: u64,
    /// Accesses that had to wait for the store.
    pub major_faults: u64,
}

impl From<v1::MmapStatsResponse> for MappingInfo {
    fn from(wire: v1::MmapStatsResponse) -> Self {
        let sharing = match wire.flags() {
            v1::Map::Shared => Sharing::Shared,
            v1::Map::Private | v1::Map::Unspecified => Sharing::Private,
        };
        let prot = wire.prot.unwrap_or_default();
        let bit = |set, bit: Prot| if set { bit } else { Prot::NONE };
        Self {
            id: wire.id,
            path: wire.path,
            offset: wire.offset,
            length: wire.length,
            prot: bit(prot.read, Prot::READ) | bit(prot.write, Prot::WRITE) | bit(prot.exec, Prot::EXEC),
            sharing,
            owner_pid: wire.owner_pid,
            file_size: wire.file_size,
            version: wire.version,
            resident_bytes: wire.resident_bytes,
            dirty_bytes: wire.dirty_bytes,
            private_bytes: wire.private_bytes,
            minor_faults: wire.minor_faults,
            major_faults: wire.major_faults,
        }
    }
}

/// A process of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessInfo {
    /// Its pid.
    pub pid: u32,
    /// The name it gave itself, or empty.
    pub name: String,
    /// How many mappings it has.
    pub mappings: u64,
    /// Whether it is attached to a stream now.
    pub attached: bool,
    /// Time since its last call.
    pub idle: Duration,
}

impl From<v1::ProcessInfo> for ProcessInfo {
    fn from(wire: v1::ProcessInfo) -> Self {
        Self {
            pid: wire.pid,
            name: wire.name,
            mappings: wire.mappings,
            attached: wire.attached,
            idle: Duration::from_millis(wire.idle_ms),
        }
    }
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
    /// Why the last write-back failed, as a sentence; empty if it did not fail or there was none.
    pub last_error: String,
}

impl From<v1::WaitingFile> for WaitingFile {
    fn from(wire: v1::WaitingFile) -> Self {
        Self {
            path: wire.path,
            dirty_bytes: wire.dirty_bytes,
            waiting: Duration::from_millis(wire.waiting_ms),
            last_error: wire.last_error,
        }
    }
}

/// Unsynced pages that the server kept aside, because they could be neither stored nor dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConflictInfo {
    /// Names it.
    pub id: String,
    /// The file.
    pub path: String,
    /// The file's version that the pages were written on, or empty.
    pub base_version: String,
    /// The file's size at that version.
    pub file_size: u64,
    /// Why they could not be stored.
    pub why: String,
    /// When they were kept, if the server says.
    pub kept_at: Option<SystemTime>,
    /// What is kept, in whole pages.
    pub bytes: u64,
}

impl From<v1::Conflict> for ConflictInfo {
    fn from(wire: v1::Conflict) -> Self {
        Self {
            id: wire.id,
            path: wire.path,
            base_version: wire.base_version,
            file_size: wire.file_size,
            why: wire.why,
            kept_at: wire.kept_at.and_then(|time| SystemTime::try_from(time).ok()),
            bytes: wire.bytes,
        }
    }
}

/// One page of the list of conflicts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConflictList {
    /// In the order of their ids, which is about that of time.
    pub conflicts: Vec<ConflictInfo>,
    /// Files among them that are no whole conflict: name, and what is wrong.
    pub damaged: Vec<(String, String)>,
    /// What to ask the next page with; `None` at the end.
    pub next: Option<String>,
}

/// Some pages of a conflict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConflictPart {
    /// What it is.
    pub conflict: ConflictInfo,
    /// Neighbouring pages, in the order of their offsets.
    pub ranges: Vec<ConflictRange>,
    /// Where to go on; `None` at the end.
    pub next_offset: Option<u64>,
}

/// Neighbouring pages of a conflict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConflictRange {
    /// Where they lie in the file.
    pub offset: u64,
    /// How many bytes they have.
    pub length: u64,
    /// The bytes; empty where only the ranges were asked for.
    pub data: Bytes,
}

impl From<v1::ConflictRange> for ConflictRange {
    fn from(wire: v1::ConflictRange) -> Self {
        Self { offset: wire.offset, length: wire.length, data: wire.data }
    }
}

/// What an apply of a conflict made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The file.
    pub path: String,
    /// Its size in bytes now.
    pub size: u64,
    /// Its version in the store now.
    pub version: String,
    /// Bytes that were put onto it.
    pub bytes: u64,
}

/// What a sync did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Synced {
    /// Bytes that this call's commit wrote back, in whole pages.
    pub bytes: u64,
    /// The file's version in the store now.
    pub version: String,
}

/// What became of a process that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exited {
    /// Mappings that were dropped.
    pub unmapped: u64,
    /// Bytes that were written back, in whole pages.
    pub synced_bytes: u64,
}

/// What a server that answers says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pong {
    /// From the question to its answer.
    pub round_trip: Duration,
    /// Whether it serves: its mounts answer, and it is not shutting down.
    pub serving: bool,
    /// The node's name, if it said.
    pub node: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_protection_reads_as_in_proc_maps() {
        assert_eq!(Prot::READ_WRITE.to_string(), "rw-");
        assert_eq!((Prot::READ | Prot::EXEC).to_string(), "r-x");
        assert_eq!(Prot::NONE.to_string(), "---");
        assert_eq!(Prot::READ | Prot::WRITE, Prot::READ_WRITE);
    }

    #[test]
    fn a_time_that_cannot_be_held_is_left_out() {
        let time = |seconds| v1::StatFileResponse {
            modified: Some(prost_types::Timestamp { seconds, nanos: 0 }),
            ..v1::StatFileResponse::default()
        };
        assert_eq!(FileInfo::from(time(0)).modified, Some(SystemTime::UNIX_EPOCH));
        assert_eq!(FileInfo::from(time(i64::MIN)).modified, None);
    }

    #[test]
    fn an_empty_token_is_the_end_of_a_list() {
        assert_eq!(Page::new(vec![1], String::new()).next, None);
        assert_eq!(Page::new(vec![1], "t".to_owned()).next.as_deref(), Some("t"));
    }
}
