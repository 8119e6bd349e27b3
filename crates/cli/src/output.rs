//! What goes to standard output: lines for people, or one JSON document with the proto's field names.
//!
//! Writing never panics: a reader that has enough (`mmapctl ls | head`) is an `io::Error`, which ends the program
//! quietly.

use std::io::{self, Write};

use anyhow::Result;
use mmap_client::{FileInfo, MappingInfo, ProcessInfo, Prot, Sharing, WaitingFile};
use serde::Serialize;

use crate::units;

/// Who reads the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    People,
    Json,
}

/// Writes one line.
pub(crate) fn line(text: &str) -> Result<()> {
    Ok(writeln!(io::stdout().lock(), "{text}")?)
}

/// Writes one JSON document, and ends its line.
pub(crate) fn json(value: &impl Serialize) -> Result<()> {
    line(&serde_json::to_string_pretty(value)?)
}

/// A file as `StatFileResponse` has it.
#[derive(Serialize)]
pub(crate) struct FileRow {
    path: String,
    size: u64,
    version: String,
    modified: Option<String>,
    mapped_by: u64,
    dirty_bytes: u64,
}

impl From<FileInfo> for FileRow {
    fn from(file: FileInfo) -> Self {
        let FileInfo { path, size, version, modified, mapped_by, dirty_bytes } = file;
        Self { path, size, version, modified: modified.and_then(units::rfc3339), mapped_by, dirty_bytes }
    }
}

/// A mapping as `MmapStatsResponse` has it.
#[derive(Serialize)]
pub(crate) struct MappingRow {
    id: u64,
    path: String,
    offset: u64,
    length: u64,
    prot: ProtRow,
    flags: &'static str,
    owner_pid: u32,
    file_size: u64,
    version: String,
    resident_bytes: u64,
    dirty_bytes: u64,
    private_bytes: u64,
    minor_faults: u64,
    major_faults: u64,
}

#[derive(Serialize)]
struct ProtRow {
    read: bool,
    write: bool,
    exec: bool,
}

impl From<MappingInfo> for MappingRow {
    fn from(mapping: MappingInfo) -> Self {
        let has = |prot| mapping.prot.contains(prot);
        Self {
            id: mapping.id,
            prot: ProtRow { read: has(Prot::READ), write: has(Prot::WRITE), exec: has(Prot::EXEC) },
            flags: match mapping.sharing {
                Sharing::Shared => "MAP_SHARED",
                Sharing::Private => "MAP_PRIVATE",
            },
            path: mapping.path,
            offset: mapping.offset,
            length: mapping.length,
            owner_pid: mapping.owner_pid,
            file_size: mapping.file_size,
            version: mapping.version,
            resident_bytes: mapping.resident_bytes,
            dirty_bytes: mapping.dirty_bytes,
            private_bytes: mapping.private_bytes,
            minor_faults: mapping.minor_faults,
            major_faults: mapping.major_faults,
        }
    }
}

/// A process as `ProcessInfo` has it.
#[derive(Serialize)]
pub(crate) struct ProcessRow {
    pid: u32,
    name: String,
    mappings: u64,
    attached: bool,
    idle_ms: u64,
}

impl From<ProcessInfo> for ProcessRow {
    fn from(process: ProcessInfo) -> Self {
        let ProcessInfo { pid, name, mappings, attached, idle } = process;
        Self { pid, name, mappings, attached, idle_ms: u64::try_from(idle.as_millis()).unwrap_or(u64::MAX) }
    }
}

/// A file as `WaitingFile` has it.
#[derive(Serialize)]
pub(crate) struct WaitingRow {
    path: String,
    dirty_bytes: u64,
    waiting_ms: u64,
    last_error: String,
}

impl From<WaitingFile> for WaitingRow {
    fn from(file: WaitingFile) -> Self {
        let WaitingFile { path, dirty_bytes, waiting, last_error } = file;
        Self { path, dirty_bytes, waiting_ms: u64::try_from(waiting.as_millis()).unwrap_or(u64::MAX), last_error }
    }
}
