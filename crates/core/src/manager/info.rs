//! Stats and lists of mappings and processes. They look and change nothing, not even a process's idle time.

use std::sync::atomic::{AtomicU64, Ordering};

use super::MmapManager;
use super::api::{
    Caller, MappingStats, MemoryUse, MmapId, Page, PageRequest, ProcessKey, ProcessStats, ReadAheadUse, WaitingFile,
};
use crate::backlog::Trouble;
use crate::capability::Capability;
use crate::error::{Error, Result};
use crate::file::{File, no_such_mapping};
use crate::flags::MapFlags;
use crate::mapping::MmapEntry;
use crate::path::FilePath;
use crate::units::BLOCK_SIZE;

impl MmapManager {
    /// What a mapping is and what it costs; anybody's of a file that the caller may look at, and one's own.
    ///
    /// # Errors
    /// EINVAL, EACCES, EBADF.
    pub fn stats(&self, caller: impl Into<Caller>, id: MmapId) -> Result<MappingStats> {
        let caller = caller.into();
        caller.process()?;
        caller.capabilities.require(Capability::SystemInfo)?;
        let entry = self.mappings.get(&id).map(|entry| std::sync::Arc::clone(&entry));
        let entry = entry.filter(|entry| shows(&caller, entry));
        entry.map(|entry| mapping_stats(&entry)).ok_or_else(|| no_such_mapping(id))
    }

    /// Lists mappings in the order of their ids: those of `pid`; of the caller if `pid` is absent; of everybody
    /// if the caller names no process either. Others' mappings of files that the caller may not look at are left out.
    ///
    /// # Errors
    /// EINVAL (a token that is none), EACCES (others' mappings without SystemInfo).
    pub fn list_mappings(
        &self,
        caller: impl Into<Caller>,
        pid: Option<u32>,
        page: PageRequest,
    ) -> Result<Page<MappingStats>> {
        let caller = caller.into();
        let after = number_token(&page.token)?;
        let whose = match pid.or(caller.pid) {
            Some(0) => return Err(Error::invalid("pid", "pid is 0, which no process has").with("pid", 0)),
            Some(pid) => Some(ProcessKey { subject: caller.subject.clone(), pid }),
            None => None,
        };
        if whose.as_ref().is_none_or(|whose| !caller.is(whose)) {
            caller.capabilities.require(Capability::SystemInfo)?;
        }
        let mut ids: Vec<MmapId> = match whose {
            Some(whose) => self.processes.get(&whose).map(|process| process.mappings()).unwrap_or_default(),
            None => self.mappings.iter().map(|entry| *entry.key()).collect(),
        };
        ids.retain(|id| id.0 > after);
        ids.sort_unstable();
        let shown = |id: &MmapId| self.mappings.get(id).filter(|entry| shows(&caller, entry));
        if !caller.paths.is_all() {
            // Before the page is cut: its length must not tell of them.
            ids.retain(|id| shown(id).is_some());
        }
        let stats = |id: &MmapId| shown(id).map(|entry| mapping_stats(&entry));
        Ok(take_page(&ids, self.page_size(&page), |id| id.0, stats))
    }

    /// Lists the processes in the order of their pids.
    ///
    /// # Errors
    /// EINVAL (a token that is none), EACCES.
    pub fn list_processes(&self, caller: impl Into<Caller>, page: PageRequest) -> Result<Page<ProcessStats>> {
        let caller = caller.into();
        let after = number_token(&page.token)?;
        caller.capabilities.require(Capability::SystemInfo)?;
        let mut processes = self.processes.all();
        processes.retain(|process| u64::from(process.key.pid) > after);
        processes.sort_unstable_by(|left, right| (left.key.pid, &left.key).cmp(&(right.key.pid, &right.key)));
        let stats = |process: &std::sync::Arc<crate::process::Process>| {
            let vitals = process.vitals();
            Some(ProcessStats {
                pid: process.key.pid,
                name: vitals.name,
                mappings: vitals.mappings as u64,
                attached: vitals.attached,
                idle: vitals.idle,
            })
        };
        Ok(take_page(&processes, self.page_size(&page), |process| u64::from(process.key.pid), stats))
    }

    /// Lists the files with bytes that are not in the store yet and that the caller may look at, in the order of their
    /// paths. No store is asked.
    ///
    /// # Errors
    /// EINVAL (a token that is none), EACCES.
    pub fn list_waiting(&self, caller: impl Into<Caller>, page: PageRequest) -> Result<Page<WaitingFile>> {
        let caller = caller.into();
        let after = match page.token.as_str() {
            "" => None,
            token => Some(FilePath::parse(token).map_err(|_| bad_token(token))?),
        };
        caller.capabilities.require(Capability::SystemInfo)?;
        let is_shown = |file: &File| {
            file.dirty_memory() > 0
                && after.as_ref().is_none_or(|after| file.path() > after)
                && caller.sees(file.path().as_str())
        };
        let mut files = self.files.select(is_shown);
        files.sort_unstable_by(|left, right| left.path().cmp(right.path()));
        let size = self.page_size(&page);
        let next = match files.get(size.saturating_sub(1)) {
            Some(last) if files.len() > size => last.path().as_str().to_owned(),
            _ => String::new(),
        };
        let backlog = &self.shared.backlog;
        let waiting = files.iter().take(size).map(|file| WaitingFile {
            path: file.path().as_str().to_owned(),
            dirty_bytes: file.dirty_bytes(),
            waiting: file.unsynced_since().map(|since| since.elapsed()).unwrap_or_default(),
            last_error: backlog
                .error(file.location().mount.prefix(), file.path())
                .map(|error| error.message().to_owned()),
        });
        Ok(Page { items: waiting.collect(), next })
    }

    /// What is used of the memory budget now.
    pub fn memory_use(&self) -> MemoryUse {
        let shared = &self.shared;
        MemoryUse {
            clean: shared.cache.weight(),
            dirty: shared.dirty.used(),
            private: shared.private.used(),
            fetch: shared.fetch.used(),
            write_back: shared.write_back.used(),
        }
    }

    /// What became of what was read ahead, in bytes, since the manager began.
    pub fn read_ahead_use(&self) -> ReadAheadUse {
        let counts = &self.shared.read_ahead;
        let bytes = |blocks: &AtomicU64| blocks.load(Ordering::Relaxed).saturating_mul(BLOCK_SIZE);
        ReadAheadUse { brought: bytes(&counts.brought), used: bytes(&counts.used), wasted: bytes(&counts.wasted) }
    }

    /// The mounts that do not take their bytes: a write-back failed, and what is to be stored waits.
    pub fn troubles(&self) -> Vec<Trouble> {
        self.shared.backlog.troubles()
    }

    pub(super) fn page_size(&self, page: &PageRequest) -> usize {
        let limits = &self.shared.limits;
        match page.size {
            0 => limits.list_page_default,
            size => usize::try_from(size).unwrap_or(usize::MAX).min(limits.list_page_max),
        }
    }
}

/// The first `size` entries; the token of the next page is the last one's number. An entry that has gone since
/// the list was taken is left out.
fn take_page<T, U>(all: &[T], size: usize, number: impl Fn(&T) -> u64, show: impl Fn(&T) -> Option<U>) -> Page<U> {
    let shown = &all[..size.min(all.len())];
    let next = match shown.last() {
        Some(last) if shown.len() < all.len() => number(last).to_string(),
        _ => String::new(),
    };
    Page { items: shown.iter().filter_map(show).collect(), next }
}

fn number_token(token: &str) -> Result<u64> {
    if token.is_empty() { Ok(0) } else { token.parse().map_err(|_| bad_token(token)) }
}

/// A page token that no list gave out.
pub(super) fn bad_token(token: &str) -> Error {
    let shown: String = token.escape_debug().take(100).collect();
    Error::invalid("page_token", format!("page_token {shown} is not one that a list answered"))
        .with("page_token", shown)
}

/// Whether the caller is shown this mapping, given that it may see mappings of others at all.
fn shows(caller: &Caller, entry: &MmapEntry) -> bool {
    caller.is(entry.owner()) || caller.sees(entry.file.path().as_str())
}

fn mapping_stats(entry: &MmapEntry) -> MappingStats {
    let range = entry.file.range_stats(entry.range);
    let private_bytes = entry.private_bytes();
    let private = entry.flags() == MapFlags::Private;
    let (minor_faults, major_faults) = entry.faults();
    MappingStats {
        id: entry.id,
        path: entry.file.path().as_str().to_owned(),
        offset: entry.range.start(),
        length: entry.range.len(),
        prot: entry.prot,
        flags: entry.flags(),
        owner_pid: entry.owner().pid,
        file_size: range.size,
        version: super::api::version_text(range.version.as_ref()),
        resident_bytes: if private { private_bytes } else { range.resident_bytes },
        dirty_bytes: if private { 0 } else { range.dirty_bytes },
        private_bytes,
        minor_faults,
        major_faults,
    }
}
