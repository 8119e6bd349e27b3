//! Attach, exit, the end of processes, and the end of the manager.
//!
//! Invariant: a process's end is clean: its shared writable mappings are synced, then everything it has is
//! dropped, once. What cannot be synced stays with its file for the write-back task.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::join_all;
use tokio::time::Instant;

use super::MmapManager;
use super::api::{Caller, Exited, MmapId, ShutdownReport};
use crate::error::{Error, Result};
use crate::file::{File, Leaving};
use crate::journal::{Journal, Lsn};
use crate::mapping::MmapEntry;
use crate::path::FilePath;
use crate::process::{Process, no_such_process};
use crate::units::ByteRange;
use crate::writeback;

/// How often processes are looked through, at most and at least.
const SWEEP_MAX: Duration = Duration::from_secs(1);
const SWEEP_MIN: Duration = Duration::from_millis(20);
/// Files of a process that are synced, and processes that are ended at shutdown, at the same time.
const AT_ONCE: usize = 16;
/// How long a store is waited for, a file, to learn why its bytes could not be stored.
const LAST_LOOK: Duration = Duration::from_millis(500);
/// Where what could not be stored is.
const KEPT: &str = "kept aside in the state directory's conflicts folder";

/// A live attachment of a process; dropping it detaches the process and starts its grace time.
#[derive(Debug)]
pub struct Attachment {
    process: Arc<Process>,
    closed: tokio_util::sync::CancellationToken,
}

impl Attachment {
    /// The process.
    pub fn pid(&self) -> u32 {
        self.process.key.pid
    }

    /// Resolves when the process has ended, or the manager shuts down. Cancel safe.
    pub async fn ended(&self) {
        tokio::select! {
            () = self.process.gone.cancelled() => {}
            () = self.closed.cancelled() => {}
        }
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        self.process.detach();
    }
}

/// What the mappings of a process have of one file.
type ByFile = HashMap<FilePath, (Arc<File>, Vec<ByteRange>)>;

impl MmapManager {
    /// Attaches a process: the pid of the request, else that of the caller, else a new one.
    ///
    /// # Errors
    /// EINVAL (two pids that differ, 0, a long name), EBUSY (attached already, or ending), ENOMEM.
    pub fn attach(&self, caller: impl Into<Caller>, wanted: Option<u32>, name: String) -> Result<Attachment> {
        let caller = caller.into();
        if wanted == Some(0) {
            return Err(Error::invalid("pid", "pid is 0, which no process has").with("pid", 0));
        }
        if let (Some(wanted), Some(header)) = (wanted, caller.pid)
            && wanted != header
        {
            return Err(Error::invalid("pid", format!("the request's pid {wanted} is not the header's {header}"))
                .with("pid", wanted)
                .with("mmap-pid", header));
        }
        self.check_open()?;
        let process = self.processes.attach(&caller.subject, wanted.or(caller.pid), name, &self.shared.limits)?;
        Ok(Attachment { process, closed: self.closed.clone() })
    }

    /// Ends the calling process: syncs its shared writable mappings, or drops their unsynced pages with
    /// `discard`, then drops everything it has. If that fails the process lives on.
    ///
    /// # Errors
    /// EINVAL, ESRCH, EBUSY (discard), ESTALE, EROFS, EIO, EUCLEAN.
    pub async fn exit(self: &Arc<Self>, caller: impl Into<Caller>, discard: bool) -> Result<Exited> {
        let caller = caller.into();
        let key = caller.process()?;
        self.check_open()?;
        let process = self.processes.get(&key).ok_or_else(|| no_such_process(&key))?;
        let ids = process.begin_end().ok_or_else(|| no_such_process(&key))?;
        let manager = Arc::clone(self);
        let work = async move {
            let entries = manager.entries(&ids);
            let done = if discard {
                manager.discard_all(&process, &entries).await.map(|()| 0)
            } else {
                manager.sync_all(&entries).await
            };
            match done {
                Ok(synced_bytes) => {
                    let said = manager.drop_process(&process, &entries, Leaving::Synced);
                    manager.shared.journaled(said).await?;
                    Ok(Exited { unmapped: entries.len() as u64, synced_bytes })
                }
                Err(error) => {
                    process.revive();
                    Err(error)
                }
            }
        };
        self.shared.finish(work).await
    }

    /// Ends a process whatever happens, as if it had died: syncs its shared writable mappings, then drops
    /// everything it has. What could not be synced is stored later. Answers how many mappings were dropped.
    pub async fn cleanup_process(&self, caller: impl Into<Caller>) -> usize {
        let caller = caller.into();
        let process = caller.process().ok().and_then(|key| self.processes.get(&key));
        match process {
            Some(process) => self.terminate(&process).await,
            None => 0,
        }
    }

    async fn terminate(&self, process: &Arc<Process>) -> usize {
        let Some(ids) = process.begin_end() else { return 0 };
        let entries = self.entries(&ids);
        let leaving = match self.sync_all(&entries).await {
            Ok(_) => Leaving::Synced,
            Err(error) => {
                let pid = process.key.pid;
                tracing::warn!(pid, ?error, "an ended process's writes are not stored yet; they will be");
                Leaving::Unsynced
            }
        };
        self.drop_process(process, &entries, leaving);
        tracing::info!(pid = process.key.pid, mappings = entries.len(), "process ended");
        entries.len()
    }

    fn entries(&self, ids: &[MmapId]) -> Vec<Arc<MmapEntry>> {
        ids.iter().filter_map(|id| self.mappings.get(id).map(|entry| Arc::clone(&entry))).collect()
    }

    fn drop_process(&self, process: &Arc<Process>, entries: &[Arc<MmapEntry>], leaving: Leaving) -> Lsn {
        for entry in entries {
            self.drop_mapping(entry, leaving);
        }
        self.processes.bury(process)
    }

    /// One write-back a file; all are tried, the first failure is told.
    async fn sync_all(&self, entries: &[Arc<MmapEntry>]) -> Result<u64> {
        let files = shared_ranges(entries).into_values();
        let syncs = files.map(|(file, ranges)| async move { file.sync(ranges).await });
        let outcomes: Vec<_> = futures::stream::iter(syncs).buffer_unordered(AT_ONCE).collect().await;
        outcomes.into_iter().try_fold(0, |bytes, outcome| Ok(bytes + outcome?.bytes))
    }

    /// Nothing is dropped of any file if another process may have written to one of them.
    async fn discard_all(&self, process: &Process, entries: &[Arc<MmapEntry>]) -> Result<()> {
        let files = shared_ranges(entries);
        for (file, ranges) in files.values() {
            file.check_discard(ranges, &process.key)?;
        }
        for (file, ranges) in files.into_values() {
            file.discard(&ranges, Some(&process.key)).await?;
        }
        Ok(())
    }

    /// Starts the background tasks: the write-back task, and the one that ends forgotten processes.
    pub(super) fn start(self: &Arc<Self>) {
        let (files, shared) = (Arc::clone(&self.files), Arc::clone(&self.shared));
        self.shared.tasks.spawn(writeback::run(files, shared, self.stopped.clone()));
        self.shared.tasks.spawn(sweep(Arc::downgrade(self), self.stopped.clone(), self.sweep_period()));
    }

    fn sweep_period(&self) -> Duration {
        let limits = &self.shared.limits;
        (limits.process_grace.min(limits.process_idle_timeout) / 4).clamp(SWEEP_MIN, SWEEP_MAX)
    }

    /// Stores every unsynced byte within `limit`, and says what could not be stored. With a journal that stays
    /// there, and processes and mappings live on: the next start takes them up. Without one every process ends,
    /// and what could not be stored is kept aside in the state directory. Calls that come later fail.
    /// Attachments end.
    pub async fn shutdown(self: &Arc<Self>, limit: Duration) -> ShutdownReport {
        let deadline = Instant::now() + limit;
        self.close();
        for entry in &self.mappings {
            entry.file.stop_reading_ahead(entry.read_ahead());
        }
        let report = match self.shared.journal.clone() {
            Some(journal) => self.shut_down_to_journal(&journal, deadline).await,
            None => self.shut_down_for_good(deadline).await,
        };
        // Nothing that was acknowledged waits for it: a store that does not answer any more is left as it is.
        let stores = self.files.vfs().mounts().iter().map(|mount| mount.store().close());
        let _in_time = tokio::time::timeout_at(deadline.max(Instant::now() + LAST_LOOK), join_all(stores)).await;
        if let Err(error) = self.state.close() {
            tracing::warn!(?error, "mapping ids were not given back; the next start skips some");
        }
        report
    }

    async fn shut_down_to_journal(self: &Arc<Self>, journal: &Journal, deadline: Instant) -> ShutdownReport {
        let before = self.unsynced_bytes();
        let storing = async {
            let files = self.files.select(|file| file.dirty_bytes() > 0);
            let store = |file| async move { writeback::store_whole(&file, &self.shared).await };
            futures::stream::iter(files).map(store).buffer_unordered(AT_ONCE).count().await;
            // So that the next start has less to read; without it nothing is lost.
            if let Err(error) = self.checkpoint().await {
                tracing::warn!(?error, "the journal could not be made shorter");
            }
        };
        let _in_time = tokio::time::timeout_at(deadline, storing).await;
        self.stopped.cancel();
        let mut report = ShutdownReport { synced_bytes: before, ..ShutdownReport::default() };
        for file in self.files.select(|file| file.dirty_bytes() > 0) {
            let (path, bytes, why) = (file.path().as_str().to_owned(), file.dirty_bytes(), why_unsynced(&file).await);
            report.synced_bytes = report.synced_bytes.saturating_sub(bytes);
            report.waiting.push((path, bytes, why));
        }
        if let Err(error) = journal.close().await {
            tracing::error!(?error, "the journal could not be closed");
            let told =
                |(path, bytes, why)| (path, bytes, format!("{why}; and the journal failed: {}", error.message()));
            report.unsynced = std::mem::take(&mut report.waiting).into_iter().map(told).collect();
        }
        report
    }

    async fn shut_down_for_good(self: &Arc<Self>, deadline: Instant) -> ShutdownReport {
        let before = self.unsynced_bytes();
        self.shared.aside.watch();
        let _ = tokio::time::timeout_at(deadline, self.store_everything()).await;
        self.stopped.cancel();
        let mut report = ShutdownReport { synced_bytes: before, ..ShutdownReport::default() };
        // Kept is not stored: whoever ends the server has to know of it.
        for conflict in self.shared.aside.watched() {
            let bytes = conflict.bytes();
            report.synced_bytes = report.synced_bytes.saturating_sub(bytes);
            report.unsynced.push((conflict.path, bytes, format!("{}; {KEPT}", conflict.why)));
        }
        for file in self.files.select(|file| file.dirty_bytes() > 0) {
            let why = why_unsynced(&file).await;
            let (bytes, kept) = (file.dirty_bytes(), file.abandon("the server shut down").await);
            let why = match kept {
                Ok(_) => format!("{why}; {KEPT}"),
                Err(error) => format!("{why}; and {}", error.message()),
            };
            report.synced_bytes = report.synced_bytes.saturating_sub(bytes);
            report.unsynced.push((file.path().as_str().to_owned(), bytes, why));
        }
        report
    }

    pub(super) fn unsynced_bytes(&self) -> u64 {
        self.files.select(|_| true).iter().map(|file| file.dirty_bytes()).sum()
    }

    async fn store_everything(self: &Arc<Self>) {
        let ends = self.processes.all().into_iter().map(|process| {
            let manager = Arc::clone(self);
            async move { manager.terminate(&process).await }
        });
        futures::stream::iter(ends).buffer_unordered(AT_ONCE).for_each(|_| std::future::ready(())).await;
        let mut pause = SWEEP_MIN;
        while writeback::store_all(&self.files, &self.shared).await > 0 {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(SWEEP_MAX);
        }
    }
}

/// Why a file still has unsynced bytes.
async fn why_unsynced(file: &File) -> String {
    match tokio::time::timeout(LAST_LOOK, file.refresh()).await {
        Ok(Ok(_)) if file.is_stale() => "the file changed in its store".to_owned(),
        Ok(Ok(_)) => "there was not enough time".to_owned(),
        Ok(Err(error)) => error.message().to_owned(),
        Err(_) => "its store does not answer".to_owned(),
    }
}

/// What the shared writable mappings among `entries` have of each file.
fn shared_ranges(entries: &[Arc<MmapEntry>]) -> ByFile {
    let mut files: ByFile = HashMap::new();
    for entry in entries.iter().filter(|entry| entry.is_shared_writable()) {
        let file: &Arc<File> = &entry.file;
        files.entry(file.path().clone()).or_insert_with(|| (Arc::clone(file), Vec::new())).1.push(entry.range);
    }
    files
}

/// Ends processes that have outlived their grace or idle time, as long as the manager lives.
async fn sweep(manager: Weak<MmapManager>, stopped: tokio_util::sync::CancellationToken, period: Duration) {
    loop {
        tokio::select! {
            () = stopped.cancelled() => return,
            () = tokio::time::sleep(period) => {}
        }
        let Some(manager) = manager.upgrade() else { return };
        // At the end all streams break; who lives on in the journal must not be ended for that.
        if manager.closed.is_cancelled() {
            return;
        }
        for process in manager.processes.expired(&manager.shared.limits) {
            let ending = Arc::clone(&manager);
            manager.shared.tasks.spawn(async move { ending.terminate(&process).await });
        }
    }
}
