//! The write-back task: stores what ended processes left unsynced, and makes room when unsynced bytes are over
//! their soft limit or writers wait.
//!
//! Invariants: it never gives up (what fails is tried again with back-off, each file on its own, until it is
//! stored or kept aside); a mount whose store fails or hangs holds up no other mount; it does not write back
//! what a living process may still sync while unsynced bytes are within their soft limit.
//!
//! Over the limit the file that has been unsynced longest goes first (as in Linux): what was not written for
//! long is the least likely to be written again soon, so that storing it now is not in vain; and nobody's bytes
//! wait for ever behind a busier file's.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::join_all;
use futures::stream::FuturesUnordered;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::error::Result;
use crate::file::{File, WHOLE};
use crate::path::FilePath;
use crate::shared::Shared;
use crate::table::{FileRef, FileTable};
use crate::vfs::Mount;

/// Files of a mount that are written back at the same time.
const FILES_AT_ONCE: usize = 4;
/// Between two looks for something to do, so that a busy writer's kicks cost next to nothing.
const LOOK_PAUSE: Duration = Duration::from_millis(10);
/// How soon it is noticed that a file that failed has nothing to store any more.
const SETTLE_TIME: Duration = Duration::from_secs(5);

/// Runs until `closing` is cancelled.
pub async fn run(files: Arc<FileTable>, shared: Arc<Shared>, closing: CancellationToken) {
    let mounts = files.vfs().mounts().iter().map(|mount| serve(&files, &shared, mount));
    tokio::select! {
        () = closing.cancelled() => {}
        _ = join_all(mounts) => {}
    }
}

/// Writes one mount's files back, for ever.
async fn serve(files: &FileTable, shared: &Shared, mount: &Arc<Mount>) {
    let mut kicks = shared.kicks();
    let mut running = FuturesUnordered::new();
    // The memory of the files that are being written back.
    let mut busy: HashMap<FilePath, u64> = HashMap::new();
    loop {
        kicks.mark_unchanged();
        let chosen = choose(files, shared, mount, &busy);
        for file in chosen.files {
            busy.insert(file.path().clone(), file.dirty_memory());
            running.push(async move {
                store_one(&file, shared).await;
                file.path().clone()
            });
        }
        let look = async {
            tokio::time::sleep(LOOK_PAUSE).await;
            tokio::select! {
                _ = kicks.changed() => {}
                () = sleep_until(chosen.look_again) => {}
            }
        };
        tokio::select! {
            Some(path) = running.next() => {
                busy.remove(&path);
            }
            () = look, if busy.len() < FILES_AT_ONCE => {}
        }
    }
}

async fn sleep_until(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => std::future::pending().await,
    }
}

/// What to write back now, and when to look again if nothing happens.
struct Chosen {
    files: Vec<FileRef>,
    look_again: Option<Instant>,
}

/// What ended processes left; over the soft limit also what has been unsynced longest, as much as is over it;
/// while writers wait, as much as there is.
fn choose(files: &FileTable, shared: &Shared, mount: &Mount, busy: &HashMap<FilePath, u64>) -> Chosen {
    let now = Instant::now();
    let mut chosen = Chosen { files: Vec::new(), look_again: settle(files, shared, mount, now) };
    let free = FILES_AT_ONCE.saturating_sub(busy.len());
    let on_its_way: u64 = busy.values().sum();
    let mut excess = match shared.writers_wait() {
        true => u64::MAX,
        false => shared.dirty_excess().saturating_sub(on_its_way),
    };
    if free == 0 {
        return chosen;
    }
    let is_candidate = |file: &File| {
        file.location().mount.prefix() == mount.prefix()
            && !busy.contains_key(file.path())
            && (file.has_orphans() || (excess > 0 && file.dirty_memory() > 0))
    };
    let mut candidates = files.select(is_candidate);
    candidates.sort_by_cached_key(|file| (!file.has_orphans(), file.unsynced_since()));
    for file in candidates {
        let due = shared.backlog.next_try(mount.prefix(), file.path()).filter(|due| *due > now);
        if let Some(due) = due {
            chosen.look_again = Some(chosen.look_again.map_or(due, |earlier| earlier.min(due)));
        } else if chosen.files.len() < free && (excess > 0 || file.has_orphans()) {
            excess = excess.saturating_sub(file.dirty_memory());
            chosen.files.push(file);
        }
    }
    chosen
}

/// Strikes files off the backlog that have nothing to store any more, because it was given up or dropped.
/// Answers when to look again, if some are left.
fn settle(files: &FileTable, shared: &Shared, mount: &Mount, now: Instant) -> Option<Instant> {
    let failing = shared.backlog.failing(mount.prefix());
    for path in &failing {
        if files.get(path).is_none_or(|file| file.dirty_bytes() == 0 && !file.has_orphans()) {
            shared.backlog.settled(mount.prefix(), path);
        }
    }
    (!failing.is_empty()).then(|| now + SETTLE_TIME)
}

/// Writes back what ended processes left, and what is in the way of writers.
async fn store_one(file: &FileRef, shared: &Shared) {
    let mut result = store_orphans(file, shared).await;
    if result.is_ok() && (shared.writers_wait() || shared.dirty_excess() > 0) {
        result = file.sync(vec![WHOLE]).await.map(|_| ());
    }
    if let Err(error) = result {
        tracing::debug!(path = %file.path(), ?error, "a write-back failed; it will be tried again");
    }
}

/// Writes back everything that is unsynced of a file, at the end.
///
/// # Errors
/// Those of a sync.
pub async fn store_whole(file: &FileRef, shared: &Shared) -> Result<()> {
    store_orphans(file, shared).await?;
    file.sync(vec![WHOLE]).await.map(|_| ())
}

/// As [`File::settle`] and [`File::store_orphans`]; a failure is in the backlog, also that of keeping pages aside.
async fn store_orphans(file: &FileRef, shared: &Shared) -> Result<()> {
    let result = match file.settle().await {
        Ok(()) => file.store_orphans().await,
        Err(error) => Err(error),
    };
    if let Err(error) = &result {
        let mount = file.location().mount.prefix();
        if shared.backlog.next_try(mount, file.path()).is_none_or(|due| due <= Instant::now()) {
            shared.backlog.failed(mount, file.path(), file.dirty_bytes(), error);
        }
    }
    result
}

/// One round over everything that ended processes left, each mount on its own. Answers how many files failed.
pub async fn store_all(files: &FileTable, shared: &Shared) -> usize {
    let rounds = files.vfs().mounts().iter().map(|mount| {
        let left = files.select(|file| file.has_orphans() && file.location().mount.prefix() == mount.prefix());
        let outcomes =
            futures::stream::iter(left).map(|file| async move { store_orphans(&file, shared).await.is_ok() });
        outcomes.buffer_unordered(FILES_AT_ONCE).filter(|stored| std::future::ready(!stored)).count()
    });
    join_all(rounds).await.into_iter().sum()
}
