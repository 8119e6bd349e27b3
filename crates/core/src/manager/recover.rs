//! Coming back: a manager over the journal of one that was killed, or ended.
//!
//! Invariants: processes, mappings and unsynced pages are as they were when last acknowledged, before the first
//! call is served; no store is needed for that. Nothing of the old journal is removed before all of it is
//! said anew. If anything cannot be taken up, the start fails with a sentence, and the journal stays.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use tokio::time::Instant;

use super::MmapManager;
use super::api::Recovered;
use crate::caller::MmapId;
use crate::error::{Errno, Error, Result};
use crate::journal::replay::{LiveMapping, Survivors};
use crate::journal::{Damage, Disk, Found, Journal, Opened, Options};
use crate::limits::Limits;
use crate::mapping::MmapEntry;
use crate::state::StateDir;
use crate::subject::Kind;
use crate::units::{BLOCK_SIZE, BlockIndex, PAGE_SIZE};
use crate::vfs::Vfs;

/// Files whose stores are asked at the same time.
const AT_ONCE: usize = 16;
const MIB: u64 = 1 << 20;

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
        let (found, survivors) = blocking(move || replay(disk, options)).await?;
        // Whatever is in the way is found before anything is changed.
        is_reachable(&survivors, &vfs)?;
        fits(&survivors, &vfs, &limits)?;
        let (journal, opened) = blocking(move || Journal::begin(found)).await?;
        let recovered = report(&survivors, &opened);
        let spill = state.spill_file(limits.private_spill)?;
        let manager = Self::assemble(vfs, state, limits, spill, Some(journal));
        manager.restore(survivors).await?;
        manager.first_checkpoint().await?;
        manager.start_checkpoints();
        Ok((manager, recovered))
    }

    async fn restore(self: &Arc<Self>, survivors: Survivors) -> Result<()> {
        let mut held = Vec::with_capacity(survivors.files.len());
        for (path, live) in survivors.files {
            let file = self.files.acquire(&path)?;
            file.restore(live)?;
            held.push(file);
        }
        for (key, live) in survivors.processes {
            self.processes.restore(key, live.name, live.leased);
        }
        for (id, live) in survivors.mappings {
            self.restore_mapping(id, live).await?;
        }
        for file in &held {
            file.find_orphans();
        }
        self.shared.kick();
        Ok(())
    }

    async fn restore_mapping(&self, id: MmapId, live: LiveMapping) -> Result<()> {
        self.state.pass(id);
        let process = self.processes.get_or_create(&live.owner, &self.shared.limits)?;
        process.restore_mapping(id, &self.shared.limits)?;
        let file = self.files.acquire(&live.path)?;
        let entry = Arc::new(MmapEntry::new(id, process, file, live.range, live.prot, live.flags));
        entry.file.restore_mapping(id, entry.registered());
        if let Some(overlay) = entry.overlay() {
            let account = entry.process.account.as_deref();
            for (page, data) in live.own {
                let counted = account.and_then(|account| account.take(Kind::Private, PAGE_SIZE).ok().flatten());
                overlay.restore(page, data, self.shared.private.reserve(PAGE_SIZE).await?.beside(counted));
            }
        }
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

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|failure| {
        Err(Error::new(Errno::Fault, "an internal fault: the journal's replay broke off").caused_by(failure))
    })
}

fn replay(disk: Arc<dyn Disk>, options: Options) -> Result<(Found, Survivors)> {
    let mut survivors = Survivors::default();
    let found = Journal::read(disk, options, &mut |record| survivors.apply(record))?;
    survivors.finish();
    Ok((found, survivors))
}

/// Whether there is a mount for every file.
fn is_reachable(survivors: &Survivors, vfs: &Vfs) -> Result<()> {
    for (path, file) in &survivors.files {
        let bytes = file.unsynced.len() as u64 * PAGE_SIZE;
        vfs.locate(path).map_err(|error| unreachable_file(&error, path.as_str(), bytes))?;
    }
    for LiveMapping { path, own, .. } in survivors.mappings.values() {
        let bytes = own.len() as u64 * PAGE_SIZE;
        vfs.locate(path).map_err(|error| unreachable_file(&error, path.as_str(), bytes))?;
    }
    Ok(())
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
fn fits(survivors: &Survivors, vfs: &Vfs, limits: &Limits) -> Result<()> {
    let (mut dirty, mut by_mount) = (0, HashMap::new());
    for (path, file) in &survivors.files {
        let mut blocks: Vec<_> = file.unsynced.keys().map(|page| BlockIndex::of(page.range().start())).collect();
        blocks.dedup();
        let bytes = blocks.len() as u64 * BLOCK_SIZE;
        dirty += bytes;
        *by_mount.entry(vfs.locate(path)?.mount.prefix().to_owned()).or_insert(0) += bytes;
    }
    let of_a_mount = by_mount.into_values().max().unwrap_or(0);
    let own: usize = survivors.mappings.values().map(|mapping| mapping.own.len()).sum();
    let private = own as u64 * PAGE_SIZE;
    let several = vfs.mounts().len() > 1;
    let suffices = |memory: u64| {
        let limits = Limits { memory, ..limits.clone() };
        let share = limits.dirty_bytes();
        let part = if several { Limits::mount_part(share) } else { share };
        dirty <= share && of_a_mount <= part && private <= limits.private_bytes().saturating_add(limits.private_spill)
    };
    let whole = limits.memory;
    if suffices(whole) {
        return Ok(());
    }
    // The shares are parts of the whole, so it is enough at twice, or at twice that, or ...; then the least.
    let mut needed = whole.div_ceil(MIB).max(1);
    while !suffices(needed.saturating_mul(MIB)) && needed < u64::MAX / MIB {
        needed = needed.saturating_mul(2);
    }
    let (mut least, mut most) = (needed / 2, needed);
    while least + 1 < most {
        let middle = least.midpoint(most);
        *(if suffices(middle.saturating_mul(MIB)) { &mut most } else { &mut least }) = middle;
    }
    Err(Error::new(
        Errno::NoMem,
        format!(
            "the journal holds {dirty} bytes of unsynced blocks and {private} bytes of private pages, for which a \
             memory budget of {whole} bytes is too small: start with --memory {most}MiB or more"
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
