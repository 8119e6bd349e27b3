//! Messages to the core's values and back. What comes from the wire is validated here as far as it can be
//! without looking at files and mappings; what goes to the wire cannot fail.
//!
//! Invariant: whatever is malformed is refused before the core checks anybody's rights, so that EINVAL comes
//! first.

use mmap_core::error::{Error, Result};
use mmap_core::flags::{MapFlags, ProtFlags};
use mmap_core::manager::{
    Create, Exited, FileStats, MapRequest, Mapped, MappingStats, MmapId, OnChange, Page, PageRequest, Populate,
    ProcessStats, SyncRequest, SyncWait, Synced, Truncated, Unsynced, WaitingFile,
};
use mmap_core::path::FilePath;
use mmap_core::units::ByteRange;
use mmap_proto::v1;

/// Bytes of the longest name that a process can give itself.
const NAME_MAX: usize = 255;

/// A validated `MmapRead`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Read {
    pub(crate) id: MmapId,
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

pub(crate) fn mmap(request: v1::MmapRequest) -> Result<MapRequest> {
    FilePath::parse(&request.path)?;
    // Without a length the rest of the file is meant, which the core knows; one byte of it must be sayable.
    ByteRange::checked(request.offset, request.length.unwrap_or(1))?;
    Ok(MapRequest {
        path: request.path,
        offset: request.offset,
        length: request.length,
        prot: ProtFlags::from_bits(request.prot)?,
        flags: if request.shared { MapFlags::Shared } else { MapFlags::Private },
        create: if request.create { Create::IfMissing } else { Create::Never },
        populate: if request.populate { Populate::Now } else { Populate::OnDemand },
    })
}

pub(crate) fn mmap_read(request: v1::MmapReadRequest, max_message: u64) -> Result<Read> {
    let v1::MmapReadRequest { mmap_id, offset, length } = request;
    ByteRange::checked(offset, length)?;
    check_message("length", length, max_message)?;
    Ok(Read { id: MmapId(mmap_id), offset, length })
}

/// Whether a write of `length` bytes at `offset` can be one at all.
pub(crate) fn check_write(offset: u64, length: usize, max_message: u64) -> Result<()> {
    let length = u64::try_from(length).unwrap_or(u64::MAX);
    if length == 0 {
        return Err(Error::invalid("data", "there is no data: write at least one byte").with("length", 0));
    }
    check_message("data", length, max_message)?;
    ByteRange::checked(offset, length)?;
    Ok(())
}

fn check_message(field: &'static str, length: u64, max_message: u64) -> Result<()> {
    if length <= max_message {
        return Ok(());
    }
    let sentence = format!("{length} bytes are more than {max_message}, the most of one call: split it into several");
    Err(Error::invalid(field, sentence).with("length", length).with("max", max_message))
}

pub(crate) fn msync(request: v1::MsyncRequest) -> Result<(MmapId, SyncRequest)> {
    ByteRange::checked(request.offset.unwrap_or(0), request.length.unwrap_or(1))?;
    let wait = match v1::SyncMode::try_from(request.mode) {
        Ok(v1::SyncMode::Unspecified | v1::SyncMode::Sync) => SyncWait::Stored,
        Ok(v1::SyncMode::Async) => SyncWait::Started,
        Err(_) => {
            let mode = request.mode;
            let sentence = format!("mode {mode} is unknown: SYNC_MODE_SYNC is 1, SYNC_MODE_ASYNC is 2");
            return Err(Error::invalid("mode", sentence).with("mode", mode));
        }
    };
    let on_change = match (request.invalidate, request.force) {
        (false, false) => OnChange::Fail,
        (false, true) => OnChange::Force,
        (true, false) => OnChange::Invalidate,
        (true, true) => {
            let sentence = "force and invalidate exclude each other: keep the unsynced pages or give them up";
            return Err(Error::invalid("force", sentence));
        }
    };
    let (offset, length) = (request.offset, request.length);
    Ok((MmapId(request.mmap_id), SyncRequest { offset, length, wait, on_change }))
}

pub(crate) fn munmap(request: v1::MunmapRequest) -> (MmapId, Unsynced) {
    let unsynced = match (request.discard, request.force) {
        (false, false) => Unsynced::Sync,
        (false, true) => Unsynced::SyncForce,
        (true, false) => Unsynced::Discard,
        (true, true) => Unsynced::DiscardForce,
    };
    (MmapId(request.mmap_id), unsynced)
}

/// A pid in a request; `pid` is the header's, which must not say something else where `same` is asked for.
pub(crate) fn pid(pid: Option<u32>) -> Result<Option<u32>> {
    match pid {
        Some(0) => Err(Error::invalid("pid", "pid 0 is no process: name one from 1 up, or none").with("pid", 0)),
        pid => Ok(pid),
    }
}

pub(crate) fn attach(request: v1::AttachRequest, header: Option<u32>) -> Result<(Option<u32>, String)> {
    let wanted = pid(request.pid)?;
    if let (Some(wanted), Some(header)) = (wanted, header)
        && wanted != header
    {
        let sentence = format!("pid {wanted} and the header mmap-pid {header} differ: say one of them");
        return Err(Error::invalid("pid", sentence).with("pid", wanted).with("mmap-pid", header));
    }
    let length = request.name.len();
    if length > NAME_MAX {
        let sentence = format!("the name has {length} bytes, more than {NAME_MAX}");
        return Err(Error::invalid("name", sentence).with("length", length).with("max", NAME_MAX));
    }
    // The name is shown on people's terminals.
    if request.name.chars().any(char::is_control) {
        let shown = request.name.escape_debug().to_string();
        let sentence = format!("the name {shown} has a control character");
        return Err(Error::invalid("name", sentence).with("name", shown));
    }
    Ok((wanted, request.name))
}

pub(crate) fn truncate(request: &v1::TruncateFileRequest) -> Result<Create> {
    FilePath::parse(&request.path)?;
    match (request.create, request.exclusive) {
        (false, false) => Ok(Create::Never),
        (true, false) => Ok(Create::IfMissing),
        (true, true) => Ok(Create::Exclusive),
        (false, true) => Err(Error::invalid("exclusive", "exclusive needs create: it asks for a file to be made")),
    }
}

/// A path that the core takes as text.
pub(crate) fn path(text: String) -> Result<String> {
    FilePath::parse(&text)?;
    Ok(text)
}

pub(crate) fn page(size: u32, token: String) -> PageRequest {
    PageRequest { size, token }
}

pub(crate) fn mapped(mapped: &Mapped) -> v1::MmapResponse {
    v1::MmapResponse { mmap_id: mapped.id.0, length: mapped.length, file_size: mapped.file_size }
}

pub(crate) fn synced(synced: Synced) -> v1::MsyncResponse {
    v1::MsyncResponse { synced_bytes: synced.bytes, version: synced.version }
}

pub(crate) fn stats(stats: MappingStats) -> v1::MmapStatsResponse {
    let flags = match stats.flags {
        MapFlags::Shared => v1::Map::Shared,
        MapFlags::Private => v1::Map::Private,
    };
    let prot = v1::mmap_stats_response::Prot {
        read: stats.prot.can_read(),
        write: stats.prot.can_write(),
        exec: stats.prot.can_exec(),
    };
    v1::MmapStatsResponse {
        id: stats.id.0,
        path: stats.path,
        offset: stats.offset,
        length: stats.length,
        prot: Some(prot),
        flags: flags.into(),
        owner_pid: stats.owner_pid,
        file_size: stats.file_size,
        version: stats.version,
        resident_bytes: stats.resident_bytes,
        dirty_bytes: stats.dirty_bytes,
        private_bytes: stats.private_bytes,
        minor_faults: stats.minor_faults,
        major_faults: stats.major_faults,
    }
}

pub(crate) fn mappings(page: Page<MappingStats>) -> v1::ListMappingsResponse {
    let mappings = page.items.into_iter().map(stats).collect();
    v1::ListMappingsResponse { mappings, next_page_token: page.next }
}

pub(crate) fn exited(exited: Exited) -> v1::ExitResponse {
    v1::ExitResponse { unmapped: exited.unmapped, synced_bytes: exited.synced_bytes }
}

pub(crate) fn processes(page: Page<ProcessStats>) -> v1::ListProcessesResponse {
    let info = |process: ProcessStats| v1::ProcessInfo {
        pid: process.pid,
        name: process.name,
        mappings: process.mappings,
        attached: process.attached,
        idle_ms: millis(process.idle),
    };
    v1::ListProcessesResponse { processes: page.items.into_iter().map(info).collect(), next_page_token: page.next }
}

pub(crate) fn file(file: FileStats) -> v1::StatFileResponse {
    v1::StatFileResponse {
        path: file.path,
        size: file.size,
        version: file.version,
        modified: Some(file.modified.into()),
        mapped_by: file.mapped_by,
        dirty_bytes: file.dirty_bytes,
    }
}

pub(crate) fn waiting(page: Page<WaitingFile>) -> v1::ListWaitingResponse {
    let info = |file: WaitingFile| v1::WaitingFile {
        path: file.path,
        dirty_bytes: file.dirty_bytes,
        waiting_ms: millis(file.waiting),
        last_error: file.last_error.unwrap_or_default(),
    };
    v1::ListWaitingResponse { files: page.items.into_iter().map(info).collect(), next_page_token: page.next }
}

pub(crate) fn files(page: Page<FileStats>) -> v1::ListFilesResponse {
    v1::ListFilesResponse { files: page.items.into_iter().map(file).collect(), next_page_token: page.next }
}

pub(crate) fn truncated(truncated: Truncated) -> v1::TruncateFileResponse {
    v1::TruncateFileResponse { size: truncated.size, version: truncated.version }
}

/// Whole milliseconds.
pub(crate) fn millis(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use mmap_core::error::Errno;

    use super::*;

    fn refused<T: std::fmt::Debug>(result: Result<T>, field: &str) {
        let error = result.unwrap_err();
        assert_eq!((error.errno(), error.field()), (Errno::Inval, Some(field)), "{error:?}");
    }

    fn mmap_request() -> v1::MmapRequest {
        v1::MmapRequest { path: "/a".into(), length: Some(4096), prot: 3, shared: true, ..Default::default() }
    }

    #[test]
    fn a_map_request_becomes_the_cores() {
        let request = mmap(v1::MmapRequest { create: true, populate: true, ..mmap_request() }).unwrap();
        assert_eq!((request.path.as_str(), request.offset, request.length), ("/a", 0, Some(4096)));
        assert_eq!((request.prot, request.flags), (ProtFlags::read_write(), MapFlags::Shared));
        assert_eq!((request.create, request.populate), (Create::IfMissing, Populate::Now));
        let request = mmap(v1::MmapRequest { shared: false, length: None, ..mmap_request() }).unwrap();
        assert_eq!((request.flags, request.length, request.create), (MapFlags::Private, None, Create::Never));
    }

    #[test]
    fn a_malformed_map_request_is_refused_by_field() {
        refused(mmap(v1::MmapRequest { path: "/../etc/passwd".into(), ..mmap_request() }), "path");
        refused(mmap(v1::MmapRequest { path: String::new(), ..mmap_request() }), "path");
        refused(mmap(v1::MmapRequest { prot: 8, ..mmap_request() }), "prot");
        refused(mmap(v1::MmapRequest { length: Some(0), ..mmap_request() }), "length");
        refused(mmap(v1::MmapRequest { offset: u64::MAX, ..mmap_request() }), "length");
        refused(mmap(v1::MmapRequest { offset: u64::MAX, length: None, ..mmap_request() }), "length");
        refused(mmap(v1::MmapRequest { length: Some(u64::MAX), ..mmap_request() }), "length");
    }

    #[test]
    fn a_read_or_write_over_the_largest_message_is_refused_with_the_limit() {
        let read = |length| mmap_read(v1::MmapReadRequest { mmap_id: 1, offset: 0, length }, 4096);
        assert_eq!(read(4096).unwrap(), Read { id: MmapId(1), offset: 0, length: 4096 });
        refused(read(0), "length");
        assert!(read(4097).unwrap_err().details().contains(&("max", "4096".to_owned())));
        assert!(check_write(0, 4096, 4096).is_ok());
        refused(check_write(0, 4097, 4096), "data");
        refused(check_write(0, 0, 4096), "data");
        refused(check_write(u64::MAX, 1, 4096), "length");
    }

    #[test]
    fn a_sync_request_says_one_thing_about_changes_and_a_known_mode() {
        let base = v1::MsyncRequest { mmap_id: 7, ..Default::default() };
        assert_eq!(msync(base).unwrap(), (MmapId(7), SyncRequest::default()));
        let started = msync(v1::MsyncRequest { mode: 2, force: true, ..base }).unwrap().1;
        assert_eq!((started.wait, started.on_change), (SyncWait::Started, OnChange::Force));
        refused(msync(v1::MsyncRequest { mode: 3, ..base }), "mode");
        refused(msync(v1::MsyncRequest { mode: -1, ..base }), "mode");
        refused(msync(v1::MsyncRequest { force: true, invalidate: true, ..base }), "force");
        refused(msync(v1::MsyncRequest { length: Some(0), ..base }), "length");
        refused(msync(v1::MsyncRequest { offset: Some(u64::MAX), ..base }), "length");
    }

    #[test]
    fn an_attach_names_one_pid_and_a_name_that_a_terminal_can_show() {
        let request = |pid, name: &str| v1::AttachRequest { pid, name: name.into() };
        assert_eq!(attach(request(Some(5), "a"), Some(5)).unwrap(), (Some(5), "a".to_owned()));
        assert_eq!(attach(request(None, ""), Some(5)).unwrap().0, None);
        refused(attach(request(Some(5), "a"), Some(6)), "pid");
        refused(attach(request(Some(0), "a"), None), "pid");
        refused(attach(request(None, &"x".repeat(256)), None), "name");
        refused(attach(request(None, "\u{1b}[2J"), None), "name");
    }

    #[test]
    fn an_exclusive_truncation_needs_create() {
        let request = |create, exclusive| v1::TruncateFileRequest { path: "/a".into(), size: 1, create, exclusive };
        assert_eq!(truncate(&request(true, true)).unwrap(), Create::Exclusive);
        assert_eq!(truncate(&request(true, false)).unwrap(), Create::IfMissing);
        refused(truncate(&request(false, true)), "exclusive");
    }

    #[test]
    fn a_files_time_becomes_a_timestamp_also_before_the_epoch() {
        let stats = |modified| FileStats {
            path: "/a".into(),
            size: 1,
            version: "v".into(),
            modified,
            mapped_by: 2,
            dirty_bytes: 3,
        };
        let later = file(stats(UNIX_EPOCH + Duration::from_millis(1500))).modified.unwrap();
        assert_eq!((later.seconds, later.nanos), (1, 500_000_000));
        let earlier = file(stats(UNIX_EPOCH - Duration::from_millis(500))).modified.unwrap();
        assert_eq!((earlier.seconds, earlier.nanos), (-1, 500_000_000));
    }
}
