//! What the fake server knows: files, processes, mappings, and the rules of the contract that clients can see.

use std::{collections::BTreeMap, time::Duration};

use mmap_proto::{reason::Reason, v1};
use tokio::sync::mpsc;
use tonic::Status;

use crate::{conflicts::Conflicts, error::refuse};

const PAGE: u64 = 4096;
/// Entries of a list's page: small, so that tests of lists see several.
const LIST_PAGE: usize = 3;

/// Where an attach stream's messages are put.
pub(crate) type Beats = mpsc::Sender<Result<v1::AttachResponse, Status>>;

#[derive(Debug, Default)]
struct File {
    data: Vec<u8>,
    stored: Vec<u8>,
    version: u64,
}

impl File {
    fn dirty_bytes(&self) -> u64 {
        if self.data == self.stored { 0 } else { (self.data.len() as u64).div_ceil(PAGE) * PAGE }
    }

    fn sync(&mut self) -> u64 {
        let synced = self.dirty_bytes();
        if synced > 0 {
            self.stored.clone_from(&self.data);
            self.version += 1;
        }
        synced
    }
}

#[derive(Debug)]
struct Mapping {
    pid: u32,
    request: v1::MmapRequest,
    length: u64,
    /// A private mapping's bytes, from its first write on.
    own: Option<Vec<u8>>,
}

#[derive(Debug, Default)]
struct Process {
    name: String,
    beats: Option<Beats>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct World {
    files: BTreeMap<String, File>,
    processes: BTreeMap<u32, Process>,
    mappings: BTreeMap<u64, Mapping>,
    conflicts: Conflicts,
    next_id: u64,
    grace: Duration,
}

impl Default for World {
    fn default() -> Self {
        Self {
            files: BTreeMap::new(),
            processes: BTreeMap::new(),
            mappings: BTreeMap::new(),
            conflicts: Conflicts::default(),
            next_id: 1,
            grace: Duration::from_secs(2),
        }
    }
}

/// What a test does to the world, behind the clients' backs.
impl World {
    pub(crate) fn put(&mut self, path: &str, bytes: Vec<u8>) {
        self.files.insert(path.to_owned(), File { stored: bytes.clone(), data: bytes, version: 1 });
    }

    pub(crate) fn stored(&self, path: &str) -> Option<Vec<u8>> {
        self.files.get(path).map(|file| file.stored.clone())
    }

    pub(crate) fn set_grace(&mut self, grace: Duration) {
        self.grace = grace;
    }

    pub(crate) fn break_streams(&mut self) {
        for process in self.processes.values_mut() {
            if let Some(beats) = process.beats.take() {
                // A full or closed stream is as good as a broken one.
                let _ = beats.try_send(Err(Status::unavailable("the stream was broken by the test")));
            }
        }
    }

    pub(crate) fn end_process(&mut self, pid: u32) -> (u64, u64) {
        self.processes.remove(&pid);
        let ids: Vec<_> = self.mappings.iter().filter(|(_, mapping)| mapping.pid == pid).map(|(id, _)| *id).collect();
        let synced = ids.iter().map(|id| self.sync(*id)).sum();
        self.mappings.retain(|_, mapping| mapping.pid != pid);
        (ids.len() as u64, synced)
    }

    pub(crate) fn pids(&self) -> Vec<u32> {
        self.processes.keys().copied().collect()
    }

    pub(crate) fn mapping_ids(&self) -> Vec<u64> {
        self.mappings.keys().copied().collect()
    }
}

/// Processes.
impl World {
    pub(crate) fn attach(
        &mut self,
        pid: Option<u32>,
        name: String,
        beats: Beats,
    ) -> Result<v1::AttachResponse, Status> {
        let pid = pid.unwrap_or_else(|| self.processes.keys().last().map_or(1, |last| last + 1));
        let process = self.processes.entry(pid).or_default();
        if process.beats.as_ref().is_some_and(|beats| !beats.is_closed()) {
            return Err(refuse(Reason::Busy, format!("pid {pid} is attached already"), &[("pid", pid.to_string())]));
        }
        *process = Process { name, beats: Some(beats) };
        Ok(v1::AttachResponse { pid, grace_ms: u64::try_from(self.grace.as_millis()).unwrap_or(u64::MAX) })
    }

    pub(crate) fn exit(&mut self, pid: u32, discard: bool) -> Result<v1::ExitResponse, Status> {
        if !self.processes.contains_key(&pid) {
            return Err(refuse(Reason::Srch, format!("there is no process {pid}"), &[("pid", pid.to_string())]));
        }
        if discard {
            for mapping in self.mappings.values().filter(|mapping| mapping.pid == pid) {
                if let Some(file) = self.files.get_mut(&mapping.request.path) {
                    file.data.clone_from(&file.stored);
                }
            }
        }
        let (unmapped, synced_bytes) = self.end_process(pid);
        Ok(v1::ExitResponse { unmapped, synced_bytes })
    }

    pub(crate) fn list_processes(&self, token: &str) -> v1::ListProcessesResponse {
        let after: u32 = token.parse().unwrap_or_default();
        let info = |(pid, process): (&u32, &Process)| v1::ProcessInfo {
            pid: *pid,
            name: process.name.clone(),
            mappings: self.mappings.values().filter(|mapping| mapping.pid == *pid).count() as u64,
            attached: process.beats.as_ref().is_some_and(|beats| !beats.is_closed()),
            idle_ms: 1500,
        };
        let processes: Vec<_> =
            self.processes.iter().filter(|(pid, _)| **pid > after).map(info).take(LIST_PAGE).collect();
        let next_page_token = next(&processes, |last: &v1::ProcessInfo| last.pid.to_string());
        v1::ListProcessesResponse { processes, next_page_token }
    }
}

/// Mappings.
impl World {
    pub(crate) fn map(&mut self, pid: u32, request: v1::MmapRequest) -> Result<v1::MmapResponse, Status> {
        if request.create && !self.files.contains_key(&request.path) {
            let size = request.offset + request.length.unwrap_or_default();
            let data = vec![0; usize::try_from(size).unwrap_or_default()];
            self.files.insert(request.path.clone(), File { stored: data.clone(), data, version: 1 });
        }
        let file = self.file(&request.path)?;
        let file_size = file.data.len() as u64;
        let length = request.length.unwrap_or_else(|| file_size.saturating_sub(request.offset));
        if length == 0 {
            return Err(refuse(Reason::Inval, "nothing is left to map", &[("length", "0".to_owned())]));
        }
        self.processes.entry(pid).or_default();
        let mmap_id = self.next_id;
        self.next_id += 1;
        self.mappings.insert(mmap_id, Mapping { pid, request, length, own: None });
        Ok(v1::MmapResponse { mmap_id, length, file_size })
    }

    pub(crate) fn read(&self, pid: u32, request: &v1::MmapReadRequest) -> Result<Vec<u8>, Status> {
        let v1::MmapReadRequest { mmap_id, offset, length } = *request;
        let (mapping, start, end) = self.access(pid, mmap_id, offset, length, 1)?;
        if let Some(own) = &mapping.own {
            return Ok(own[index(offset)..index(offset + length)].to_vec());
        }
        let data = &self.file(&mapping.request.path)?.data;
        Ok((start..end).map(|at| data.get(index(at)).copied().unwrap_or_default()).collect())
    }

    pub(crate) fn write(&mut self, pid: u32, request: &v1::MmapWriteRequest) -> Result<u64, Status> {
        let length = request.data.len() as u64;
        let (mapping, start, _) = self.access(pid, request.mmap_id, request.offset, length, 2)?;
        let (path, is_shared) = (mapping.request.path.clone(), mapping.request.shared);
        if is_shared {
            let file = self.files.entry(path).or_default();
            for (at, byte) in (start..).zip(&request.data) {
                if let Some(place) = file.data.get_mut(index(at)) {
                    *place = *byte;
                }
            }
            return Ok(length);
        }
        let (first, total) = (mapping.request.offset, mapping.length);
        let file = self.file(&path)?.data.clone();
        let own = |at: u64| file.get(index(first + at)).copied().unwrap_or_default();
        if let Some(mapping) = self.mappings.get_mut(&request.mmap_id) {
            let own = mapping.own.get_or_insert_with(|| (0..total).map(own).collect());
            own[index(request.offset)..index(request.offset + length)].copy_from_slice(&request.data);
        }
        Ok(length)
    }

    pub(crate) fn msync(&mut self, pid: u32, mmap_id: u64) -> Result<v1::MsyncResponse, Status> {
        self.mapping(pid, mmap_id)?;
        let synced_bytes = self.sync(mmap_id);
        let path = &self.mapping(pid, mmap_id)?.request.path;
        Ok(v1::MsyncResponse { synced_bytes, version: self.file(path)?.version.to_string() })
    }

    pub(crate) fn unmap(&mut self, pid: u32, request: v1::MunmapRequest) -> Result<v1::MunmapResponse, Status> {
        let path = self.mapping(pid, request.mmap_id)?.request.path.clone();
        let mut synced_bytes = 0;
        if request.discard {
            if let Some(file) = self.files.get_mut(&path) {
                file.data.clone_from(&file.stored);
            }
        } else {
            synced_bytes = self.sync(request.mmap_id);
        }
        self.mappings.remove(&request.mmap_id);
        Ok(v1::MunmapResponse { synced_bytes })
    }

    pub(crate) fn stats(&self, id: u64) -> Result<v1::MmapStatsResponse, Status> {
        let mapping = self.mappings.get(&id).ok_or_else(|| no_mapping(id))?;
        let file = self.file(&mapping.request.path)?;
        let bit = |bit| mapping.request.prot & bit != 0;
        Ok(v1::MmapStatsResponse {
            id,
            path: mapping.request.path.clone(),
            offset: mapping.request.offset,
            length: mapping.length,
            prot: Some(v1::mmap_stats_response::Prot { read: bit(1), write: bit(2), exec: bit(4) }),
            flags: if mapping.request.shared { v1::Map::Shared } else { v1::Map::Private }.into(),
            owner_pid: mapping.pid,
            file_size: file.data.len() as u64,
            version: file.version.to_string(),
            resident_bytes: mapping.length.div_ceil(PAGE) * PAGE,
            dirty_bytes: file.dirty_bytes(),
            private_bytes: mapping.own.as_ref().map_or(0, |own| own.len() as u64),
            minor_faults: 7,
            major_faults: 1,
        })
    }

    pub(crate) fn list_mappings(
        &self,
        request: &v1::ListMappingsRequest,
        own: Option<u32>,
    ) -> Result<v1::ListMappingsResponse, Status> {
        let after: u64 = request.page_token.parse().unwrap_or_default();
        let pid = request.pid.or(own);
        let ids = self.mappings.iter().filter(|(id, mapping)| **id > after && pid.is_none_or(|pid| pid == mapping.pid));
        let mappings = ids.take(LIST_PAGE).map(|(id, _)| self.stats(*id)).collect::<Result<Vec<_>, _>>()?;
        let next_page_token = next(&mappings, |last: &v1::MmapStatsResponse| last.id.to_string());
        Ok(v1::ListMappingsResponse { mappings, next_page_token })
    }

    fn mapping(&self, pid: u32, id: u64) -> Result<&Mapping, Status> {
        self.mappings.get(&id).filter(|mapping| mapping.pid == pid).ok_or_else(|| no_mapping(id))
    }

    /// The mapping and the file's range that an access of it means, if the access is allowed.
    fn access(&self, pid: u32, id: u64, offset: u64, length: u64, bit: u32) -> Result<(&Mapping, u64, u64), Status> {
        let values = || [("mmap_id", id.to_string()), ("offset", offset.to_string()), ("length", length.to_string())];
        if length == 0 {
            return Err(refuse(Reason::Inval, "length is 0", &values()));
        }
        let mapping = self.mapping(pid, id)?;
        let end = offset.saturating_add(length);
        if end > mapping.length {
            return Err(refuse(
                Reason::SegvMapErr,
                format!("mapping {id} is {} bytes long", mapping.length),
                &values(),
            ));
        }
        if mapping.request.prot & bit == 0 {
            return Err(refuse(Reason::SegvAccErr, format!("mapping {id} does not allow it"), &values()));
        }
        let size = self.file(&mapping.request.path)?.data.len() as u64;
        let end = mapping.request.offset + end;
        if end > size.div_ceil(PAGE) * PAGE {
            return Err(refuse(Reason::SigBus, format!("the file ends at {size}"), &values()));
        }
        Ok((mapping, mapping.request.offset + offset, end))
    }

    fn sync(&mut self, id: u64) -> u64 {
        let Some(mapping) = self.mappings.get(&id).filter(|mapping| mapping.request.shared) else { return 0 };
        self.files.get_mut(&mapping.request.path).map_or(0, File::sync)
    }
}

/// Files.
impl World {
    fn file(&self, path: &str) -> Result<&File, Status> {
        let missing = || refuse(Reason::NoEnt, format!("there is no file {path}"), &[("path", path.to_owned())]);
        self.files.get(path).ok_or_else(missing)
    }

    pub(crate) fn stat(&self, path: &str) -> Result<v1::StatFileResponse, Status> {
        let file = self.file(path)?;
        Ok(v1::StatFileResponse {
            path: path.to_owned(),
            size: file.data.len() as u64,
            version: file.version.to_string(),
            modified: Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 0 }),
            mapped_by: self.mappings.values().filter(|mapping| mapping.request.path == path).count() as u64,
            dirty_bytes: file.dirty_bytes(),
        })
    }

    pub(crate) fn list_files(&self, request: &v1::ListFilesRequest) -> Result<v1::ListFilesResponse, Status> {
        let paths = self.files.keys().filter(|path| path.starts_with(&request.prefix) && **path > request.page_token);
        let files = paths.take(LIST_PAGE).map(|path| self.stat(path)).collect::<Result<Vec<_>, _>>()?;
        let next_page_token = next(&files, |last: &v1::StatFileResponse| last.path.clone());
        Ok(v1::ListFilesResponse { files, next_page_token })
    }

    /// Each file with unsynced bytes, the last write-back of which failed.
    pub(crate) fn list_waiting(&self, token: &str) -> v1::ListWaitingResponse {
        let waiting = self.files.iter().filter(|(path, file)| path.as_str() > token && file.dirty_bytes() > 0);
        let info = |(path, file): (&String, &File)| v1::WaitingFile {
            path: path.clone(),
            dirty_bytes: file.dirty_bytes(),
            waiting_ms: 90_000,
            last_error: "the store is away".to_owned(),
        };
        let files: Vec<_> = waiting.map(info).take(LIST_PAGE).collect();
        let next_page_token = next(&files, |last: &v1::WaitingFile| last.path.clone());
        v1::ListWaitingResponse { files, next_page_token }
    }

    pub(crate) fn truncate(&mut self, request: v1::TruncateFileRequest) -> Result<v1::TruncateFileResponse, Status> {
        let v1::TruncateFileRequest { path, size, create, exclusive } = request;
        match (self.files.contains_key(&path), create, exclusive) {
            (true, _, true) => {
                return Err(refuse(Reason::Exist, format!("{path} is there already"), &[("path", path)]));
            }
            (false, false, _) => {
                self.file(&path)?;
            }
            _ => {}
        }
        let file = self.files.entry(path).or_default();
        file.data.resize(index(size), 0);
        file.stored.resize(index(size), 0);
        file.version += 1;
        Ok(v1::TruncateFileResponse { size, version: file.version.to_string() })
    }

    pub(crate) fn remove(&mut self, path: &str) -> Result<v1::RemoveFileResponse, Status> {
        self.file(path)?;
        if self.mappings.values().any(|mapping| mapping.request.path == path) {
            return Err(refuse(Reason::Busy, format!("{path} is mapped"), &[("path", path.to_owned())]));
        }
        self.files.remove(path);
        Ok(v1::RemoveFileResponse {})
    }
}

/// Conflicts.
impl World {
    pub(crate) fn put_conflict(&mut self, id: &str, path: &str, offset: u64, data: Vec<u8>) {
        self.conflicts.put(id, path, offset, data);
    }

    pub(crate) fn put_damaged_conflict(&mut self, file: &str) {
        self.conflicts.put_damaged(file);
    }

    pub(crate) fn list_conflicts(&self, token: &str) -> v1::ListConflictsResponse {
        self.conflicts.list(token, LIST_PAGE)
    }

    pub(crate) fn read_conflict(&self, request: &v1::ReadConflictRequest) -> Result<v1::ReadConflictResponse, Status> {
        self.conflicts.read(request)
    }

    pub(crate) fn apply_conflict(&mut self, id: &str) -> Result<v1::ApplyConflictResponse, Status> {
        let (path, offset, data) = self.conflicts.take(id)?;
        let file = self.files.entry(path.clone()).or_default();
        let end = index(offset) + data.len();
        for content in [&mut file.data, &mut file.stored] {
            content.resize(content.len().max(end), 0);
            content[index(offset)..end].copy_from_slice(&data);
        }
        file.version += 1;
        let (size, version) = (file.data.len() as u64, file.version.to_string());
        Ok(v1::ApplyConflictResponse { path, size, version, applied_bytes: data.len() as u64 })
    }

    pub(crate) fn drop_conflict(&mut self, id: &str) -> Result<v1::DropConflictResponse, Status> {
        self.conflicts.take(id).map(|_| v1::DropConflictResponse {})
    }
}

fn no_mapping(id: u64) -> Status {
    refuse(Reason::BadF, format!("this process has no mapping {id}"), &[("mmap_id", id.to_string())])
}

/// A full page may have a next one; an empty next page ends the list as well.
fn next<T>(page: &[T], token: impl Fn(&T) -> String) -> String {
    page.last().filter(|_| page.len() == LIST_PAGE).map(token).unwrap_or_default()
}

/// Offsets of byte vectors that exist fit.
fn index(at: u64) -> usize {
    usize::try_from(at).unwrap_or(usize::MAX)
}
