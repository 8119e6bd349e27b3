//! A connection to a server: [`Client`], with the calls about files, and the lists.
//!
//! Cheap to clone, and meant to be: clones share the connection.

use std::time::{Duration, Instant};

use mmap_proto::{names, v1};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};

use crate::{
    caller::{Caller, Stubs},
    error::{Error, Result},
    process::{AttachOptions, Process},
    retry::Repeat,
    types::{Applied, ConflictList, ConflictPart, FileInfo, MappingInfo, Page, Pong, ProcessInfo, WaitingFile},
};

/// A connection to a server. Clones share it.
///
/// **Cancel safety**: dropping the future of a call that only asks is harmless; `truncate_file`, `remove_file`,
/// `apply_conflict` and `drop_conflict` that were cancelled may or may not have happened.
#[derive(Clone, Debug)]
pub struct Client {
    caller: Caller,
}

/// How a file's size is set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Truncate {
    /// The file must be there (`ENOENT`).
    #[default]
    Existing,
    /// A missing file is made.
    Create,
    /// The file must be missing (`EEXIST`), and is made. The only form that is not repeated by itself.
    CreateNew,
}

impl Client {
    pub(crate) fn new(caller: Caller) -> Self {
        Self { caller }
    }

    /// The same client with another deadline for each of its calls. Shares the connection.
    #[must_use]
    pub fn with_deadline(&self, deadline: Duration) -> Self {
        Self { caller: self.caller.with_deadline(deadline) }
    }

    /// Attaches a process that lives as long as the answer does. See [`Process`].
    ///
    /// Cancel safe: a process that nobody got is ended by the server after its grace time. Not repeated by itself.
    ///
    /// # Errors
    /// `EBUSY` if the pid is attached already.
    pub async fn attach(&self, options: AttachOptions) -> Result<Process> {
        Process::attach(self.caller.clone(), options).await
    }

    /// Speaks as the process `pid` without attaching it, as a user of grpcurl does. Asks nothing of the server.
    pub fn process(&self, pid: u32) -> Process {
        Process::unattached(self.caller.clone(), pid)
    }

    /// What a file is. Cancel safe; repeated by itself.
    ///
    /// # Errors
    /// `ENOENT`, `EACCES`.
    pub async fn stat_file(&self, path: impl Into<String> + Send) -> Result<FileInfo> {
        let request = v1::StatFileRequest { path: path.into() };
        let send = |stubs: Stubs, request| async move { stubs.file().stat_file(request).await };
        Ok(self.caller.call(Repeat::Idempotent, request, send).await?.into_inner().into())
    }

    /// All files whose path starts with `prefix` (a folder, or the start of a name), in the order of their paths.
    /// They are held in memory together: for very many use [`list_files_page`](Self::list_files_page).
    ///
    /// # Errors
    /// `EACCES`, and `EINVAL` for a prefix that is none.
    pub async fn list_files(&self, prefix: &str) -> Result<Vec<FileInfo>> {
        let mut files = Vec::new();
        let mut next = None;
        loop {
            let page = self.list_files_page(prefix, 0, next.as_deref()).await?;
            files.extend(page.items);
            next = page.next;
            if next.is_none() {
                return Ok(files);
            }
        }
    }

    /// One page of [`list_files`](Self::list_files). `size` 0 is the server's default; `token` is the page's before,
    /// `None` for the first. Cancel safe; repeated by itself.
    ///
    /// # Errors
    /// As [`list_files`](Self::list_files), and `EINVAL` for a token that is none.
    pub async fn list_files_page(&self, prefix: &str, size: u32, token: Option<&str>) -> Result<Page<FileInfo>> {
        let page_token = token.unwrap_or_default().to_owned();
        let request = v1::ListFilesRequest { prefix: prefix.to_owned(), page_size: size, page_token };
        let send = |stubs: Stubs, request| async move { stubs.file().list_files(request).await };
        let answer = self.caller.call(Repeat::Idempotent, request, send).await?.into_inner();
        Ok(Page::new(answer.files.into_iter().map(Into::into).collect(), answer.next_page_token))
    }

    /// Sets a file's size; it is in the store when this answers. Answers the file's new version.
    ///
    /// Not cancel safe. Repeated by itself unless it must make the file.
    ///
    /// # Errors
    /// `ENOENT`, `EEXIST`, `EROFS`, `ESTALE`.
    pub async fn truncate_file(&self, path: impl Into<String> + Send, size: u64, how: Truncate) -> Result<String> {
        let (create, exclusive) = match how {
            Truncate::Existing => (false, false),
            Truncate::Create => (true, false),
            Truncate::CreateNew => (true, true),
        };
        let repeat = if exclusive { Repeat::Unsent } else { Repeat::Idempotent };
        let request = v1::TruncateFileRequest { path: path.into(), size, create, exclusive };
        let send = |stubs: Stubs, request| async move { stubs.file().truncate_file(request).await };
        Ok(self.caller.call(repeat, request, send).await?.into_inner().version)
    }

    /// Removes a file. Not cancel safe, and not repeated by itself.
    ///
    /// # Errors
    /// `ENOENT`, `EBUSY` while it is mapped.
    pub async fn remove_file(&self, path: impl Into<String> + Send) -> Result<()> {
        let request = v1::RemoveFileRequest { path: path.into() };
        let send = |stubs: Stubs, request| async move { stubs.file().remove_file(request).await };
        self.caller.call(Repeat::Unsent, request, send).await.map(|_| ())
    }

    /// One page of the conflicts that the server keeps, `size` and `token` as in
    /// [`list_files_page`](Self::list_files_page). Cancel safe; repeated by itself.
    ///
    /// # Errors
    /// `EACCES`, `EIO`, and `EINVAL` for a token that is none.
    pub async fn list_conflicts(&self, size: u32, token: Option<&str>) -> Result<ConflictList> {
        let request = v1::ListConflictsRequest { page_size: size, page_token: token.unwrap_or_default().to_owned() };
        let send = |stubs: Stubs, request| async move { stubs.file().list_conflicts(request).await };
        let answer = self.caller.call(Repeat::Idempotent, request, send).await?.into_inner();
        let page = Page::new(answer.conflicts.into_iter().map(Into::into).collect(), answer.next_page_token);
        let damaged = answer.damaged.into_iter().map(|damaged| (damaged.file, damaged.why)).collect();
        Ok(ConflictList { conflicts: page.items, damaged, next: page.next })
    }

    /// The pages of a conflict from `offset` of its file on, as many as one answer takes. Cancel safe; repeated by
    /// itself.
    ///
    /// # Errors
    /// `ENOENT`, `EACCES`, and `EUCLEAN` for a damaged one.
    pub async fn read_conflict(&self, id: impl Into<String> + Send, offset: u64) -> Result<ConflictPart> {
        self.conflict_part(id.into(), offset, false).await
    }

    /// As [`read_conflict`](Self::read_conflict), but only where the pages lie, without their bytes.
    ///
    /// # Errors
    /// As [`read_conflict`](Self::read_conflict).
    pub async fn conflict_ranges(&self, id: impl Into<String> + Send, offset: u64) -> Result<ConflictPart> {
        self.conflict_part(id.into(), offset, true).await
    }

    async fn conflict_part(&self, id: String, offset: u64, ranges_only: bool) -> Result<ConflictPart> {
        let request = v1::ReadConflictRequest { id, offset, length: None, ranges_only };
        let send = |stubs: Stubs, request| async move { stubs.file().read_conflict(request).await };
        let answer = self.caller.call(Repeat::Idempotent, request, send).await?.into_inner();
        let conflict = answer.conflict.ok_or_else(|| Error::protocol("a conflict was read without its description"))?;
        let ranges = answer.ranges.into_iter().map(Into::into).collect();
        Ok(ConflictPart { conflict: conflict.into(), ranges, next_offset: answer.next_offset })
    }

    /// Puts a conflict's pages onto its file's present content, stores that in one change, and removes the conflict.
    ///
    /// Not cancel safe, and not repeated by itself, because a second attempt could not tell success from `ENOENT`.
    /// Safe to repeat: applied twice is the same.
    ///
    /// # Errors
    /// `ENOENT`, `EBUSY`, `ESTALE`, `EROFS`, `EUCLEAN`, `EIO`; the conflict stays.
    pub async fn apply_conflict(&self, id: impl Into<String> + Send) -> Result<Applied> {
        let request = v1::ApplyConflictRequest { id: id.into() };
        let send = |stubs: Stubs, request| async move { stubs.file().apply_conflict(request).await };
        let answer = self.caller.call(Repeat::Unsent, request, send).await?.into_inner();
        let v1::ApplyConflictResponse { path, size, version, applied_bytes } = answer;
        Ok(Applied { path, size, version, bytes: applied_bytes })
    }

    /// Removes a conflict: its bytes are gone for good. Not cancel safe, and not repeated by itself.
    ///
    /// # Errors
    /// `ENOENT`, `EBUSY`, `EIO`.
    pub async fn drop_conflict(&self, id: impl Into<String> + Send) -> Result<()> {
        let request = v1::DropConflictRequest { id: id.into() };
        let send = |stubs: Stubs, request| async move { stubs.file().drop_conflict(request).await };
        self.caller.call(Repeat::Unsent, request, send).await.map(|_| ())
    }

    /// A page of the mappings of the process `pid`, or of all. Needs
    /// [`Capability::SystemInfo`](crate::types::Capability::SystemInfo); a process's own are had without it by
    /// [`Process::mappings`]. Cancel safe; repeated by itself.
    ///
    /// # Errors
    /// `EACCES` without the capability.
    pub async fn list_mappings(&self, pid: Option<u32>, token: Option<&str>) -> Result<Page<MappingInfo>> {
        let request = v1::ListMappingsRequest { pid, page_size: 0, page_token: token.unwrap_or_default().to_owned() };
        let send = |stubs: Stubs, request| async move { stubs.mmap().list_mappings(request).await };
        let answer = self.caller.call(Repeat::Idempotent, request, send).await?.into_inner();
        Ok(Page::new(answer.mappings.into_iter().map(Into::into).collect(), answer.next_page_token))
    }

    /// A page of the server's processes. Needs [`Capability::SystemInfo`](crate::types::Capability::SystemInfo).
    /// Cancel safe; repeated by itself.
    ///
    /// # Errors
    /// `EACCES` without the capability.
    pub async fn list_processes(&self, token: Option<&str>) -> Result<Page<ProcessInfo>> {
        let request = v1::ListProcessesRequest { page_size: 0, page_token: token.unwrap_or_default().to_owned() };
        let send = |stubs: Stubs, request| async move { stubs.process().list_processes(request).await };
        let answer = self.caller.call(Repeat::Idempotent, request, send).await?.into_inner();
        Ok(Page::new(answer.processes.into_iter().map(Into::into).collect(), answer.next_page_token))
    }

    /// A page of the files with bytes that are not in the store yet. Needs
    /// [`Capability::SystemInfo`](crate::types::Capability::SystemInfo). Cancel safe; repeated by itself.
    ///
    /// # Errors
    /// `EACCES` without the capability.
    pub async fn list_waiting(&self, token: Option<&str>) -> Result<Page<WaitingFile>> {
        let request = v1::ListWaitingRequest { page_size: 0, page_token: token.unwrap_or_default().to_owned() };
        let send = |stubs: Stubs, request| async move { stubs.file().list_waiting(request).await };
        let answer = self.caller.call(Repeat::Idempotent, request, send).await?.into_inner();
        Ok(Page::new(answer.files.into_iter().map(Into::into).collect(), answer.next_page_token))
    }

    /// Asks the server's health service how it is, and how long the way there and back takes. Cancel safe; repeated
    /// by itself (the time is then that of all attempts).
    ///
    /// # Errors
    /// Whatever keeps it from answering.
    pub async fn ping(&self) -> Result<Pong> {
        let request = HealthCheckRequest { service: String::new() };
        let send = |stubs: Stubs, request| async move { stubs.health().check(request).await };
        let start = Instant::now();
        let answer = self.caller.call(Repeat::Idempotent, request, send).await?;
        let round_trip = start.elapsed();
        let node = answer.metadata().get(names::NODE).and_then(|node| node.to_str().ok()).map(str::to_owned);
        let serving = answer.get_ref().status() == ServingStatus::Serving;
        Ok(Pong { round_trip, serving, node })
    }
}
