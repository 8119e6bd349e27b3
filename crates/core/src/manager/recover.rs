//! Coming back: a manager over the journal of one that was killed, or ended.
//!
//! Invariants: processes, mappings and unsynced pages are as they were when last acknowledged, before the first
//! call is served; no store is needed for that. Nothing of the old journal is removed before all of it is
//! said anew. If anything cannot be taken up, the start fails with a sentence, and the journal stays.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use tokio::time::Instant;

use super::MmapManager;
use super::api::Recovered;
use crate::caller::MmapId;
use crate::error::{Errno, Error, Result};
use crate::journal::replay::{LiveMapping, Survivors};
use crate::journal::{Damage, Disk, Journal, Opened, Options};
use crate::limits::Limits;
use crate::mapping::MmapEntry;
use crate::state::StateDir;
use crate::units::{BLOCK_SIZE, BlockIndex, PAGE_SIZE};
use crate::vfs::Vfs;

/// Files whose stores are asked at the same time.
const AT_ONCE: usize = 16;

impl MmapManager {
    /// A manager that takes up where the journal on `disk` ends, and goes on writing it. Needs a tokio runtime.
    ///
    /// # Errors
    /// A sentence that says what to do: the journal is damaged, of a newer format, or needs a mount or memory
    /// that is not there. The journal stays as it is then.
    pub async fn recover(
        vfs: Vfs,
        state: StateDir,
        limits: Limits,
        disk: Arc<dyn Disk>,
        options: Options,
    ) -> Result<(Arc<Self>, Recovered)> {
        limits.check()?;
        let opening = tokio::task::spawn_blocking(move || replay(disk, options)).await;
        let (journal, opened, survivors) = opening.unwrap_or_else(|failure| {
            Err(Error::new(Errno::Fault, "an internal fault: the journal's replay broke off").caused_by(failure))
        })?;
        let recovered = report(&survivors, &opened);
        fits(&survivors, &limits)?;
        let manager = Self::assemble(vfs, state, limits, Some(journal));
        manager.restore(survivors)?;
        manager.checkpoint().await?;
        manager.start_checkpoints();
        Ok((manager, recovered))
    }

    fn restore(self: &Arc<Self>, survivors: Survivors) -> Result<()> {
        let mut held = Vec::with_capacity(survivors.files.len());
        for (path, live) in survivors.files {
            let bytes = live.unsynced.len() as u64 * PAGE_SIZE;
            let file = self.files.acquire(&path).map_err(|error| unreachable_file(&error, path.as_str(), bytes))?;
            file.restore(live)?;
            held.push(file);
        }
        for (key, live) in survivors.processes {
            self.processes.restore(key, live.name, live.leased);
        }
        for (id, live) in survivors.mappings {
            self.restore_mapping(id, live)?;
        }
        for file in &held {
            file.find_orphans();
        }
        self.shared.kick.notify_one();
        Ok(())
    }

    fn restore_mapping(&self, id: MmapId, live: LiveMapping) -> Result<()> {
        self.state.pass(id);
        let process = self.processes.get_or_create(&live.owner, &self.shared.limits)?;
        process.add_mapping(id, &self.shared.limits)?;
        let bytes = live.own.len() as u64 * PAGE_SIZE;
        let file =
            self.files.acquire(&live.path).map_err(|error| unreachable_file(&error, live.path.as_str(), bytes))?;
        let entry = Arc::new(MmapEntry::new(id, live.owner, file, live.range, live.prot, live.flags));
        if let Some(overlay) = entry.overlay() {
            for (page, data) in live.own {
                overlay.restore(page, data, self.shared.reserve_private(PAGE_SIZE)?);
            }
        }
        entry.file.restore_mapping(id, entry.registered());
        self.mappings.insert(id, entry);
        Ok(())
    }

    /// Waits until it is known of every file whether its store changed while the server was away, for `limit`
    /// at most; the write-back task goes on asking. What was unsynced of files that changed is kept aside.
    pub async fn settle(&self, limit: Duration) {
        let files = self.files.select(|file| file.is_unsettled());
        let settling = futures::stream::iter(files).for_each_concurrent(AT_ONCE, |file| async move {
            if let Err(error) = file.settle().await {
                tracing::warn!(path = %file.path(), ?error, "whether it changed meanwhile is not known yet");
            }
        });
        let deadline = Instant::now() + limit;
        let _in_time = tokio::time::timeout_at(deadline, settling).await;
    }
}

fn replay(disk: Arc<dyn Disk>, options: Options) -> Result<(Journal, Opened, Survivors)> {
    let mut survivors = Survivors::default();
    let (journal, opened) = Journal::open(disk, options, &mut |record| survivors.apply(record))?;
    survivors.finish();
    Ok((journal, opened, survivors))
}

fn report(survivors: &Survivors, opened: &Opened) -> Recovered {
    let unsynced: usize = survivors.files.values().map(|file| file.unsynced.len()).sum();
    Recovered {
        records: opened.records,
        torn_bytes: opened.torn_bytes,
        damage: opened.damage.as_ref().map(|damage| {
            let Damage { segment, offset, bytes, .. } = damage;
            format!("{bytes} bytes of the journal from byte {offset} of {segment} on could not be read")
        }),
        processes: survivors.processes.len(),
        mappings: survivors.mappings.len(),
        unsynced_bytes: unsynced as u64 * PAGE_SIZE,
    }
}

/// Whether the memory budget holds what is to be restored.
fn fits(survivors: &Survivors, limits: &Limits) -> Result<()> {
    let blocks: u64 = survivors
        .files
        .values()
        .map(|file| {
            let mut blocks: Vec<_> = file.unsynced.keys().map(|page| BlockIndex::of(page.range().start())).collect();
            blocks.dedup();
            blocks.len() as u64
        })
        .sum();
    let own: usize = survivors.mappings.values().map(|mapping| mapping.own.len()).sum();
    let (dirty, private) = (blocks * BLOCK_SIZE, own as u64 * PAGE_SIZE);
    if dirty <= limits.dirty_bytes() && private <= limits.private_bytes() {
        return Ok(());
    }
    let (share, whole) = (limits.dirty_bytes().max(1), limits.memory);
    let needed =
        (dirty.saturating_mul(whole) / share).max(private.saturating_mul(whole) / limits.private_bytes().max(1));
    Err(Error::new(
        Errno::NoMem,
        format!(
            "the journal holds {dirty} bytes of unsynced blocks and {private} bytes of private pages, for which a \
             memory budget of {whole} bytes is too small: start with --memory {}MiB or more",
            needed.div_ceil(1 << 20) + 1
        ),
    )
    .with("dirty_bytes", dirty)
    .with("private_bytes", private)
    .with("memory", whole))
}

fn unreachable_file(error: &Error, path: &str, bytes: u64) -> Error {
    Error::new(
        error.errno(),
        format!(
            "the journal holds {bytes} unsynced bytes and mappings of {path}, which cannot be served: {}; mount its \
             store as before",
            error.message()
        ),
    )
    .with("path", path)
    .with("bytes", bytes)
}
