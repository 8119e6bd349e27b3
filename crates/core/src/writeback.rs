//! The write-back task: stores what ended processes left unsynced, and makes room for writers that wait.
//!
//! It never gives up: what fails is tried again with back-off until it is stored or kept aside. It does not
//! write back what a living process may still sync, unless writers wait for memory.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use tokio_util::sync::CancellationToken;

use crate::file::WHOLE;
use crate::shared::Shared;
use crate::table::{FileRef, FileTable};

/// Files that are written back at the same time.
const FILES_AT_ONCE: usize = 4;
/// The first pause after a failure; each further one is twice as long.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// The longest pause.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// Runs until `closing` is cancelled.
pub async fn run(files: Arc<FileTable>, shared: Arc<Shared>, closing: CancellationToken) {
    let mut backoff = BACKOFF_MIN;
    let mut again = false;
    loop {
        let pause = if again { backoff } else { Duration::MAX };
        tokio::select! {
            () = closing.cancelled() => return,
            () = shared.kick.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
        again = tokio::select! {
            () = closing.cancelled() => return,
            failed = store_all(&files, &shared) => failed > 0 || shared.under_pressure(),
        };
        backoff = if again { (backoff * 2).min(BACKOFF_MAX) } else { BACKOFF_MIN };
    }
}

/// One round: everything that ended processes left and, under pressure, everything that is unsynced. Answers
/// how many files failed.
pub async fn store_all(files: &FileTable, shared: &Shared) -> usize {
    let pressure = shared.under_pressure();
    let chosen = files.select(|file| file.has_orphans() || file.is_unsettled() || (pressure && file.dirty_bytes() > 0));
    let outcomes = futures::stream::iter(chosen).map(|file| store_one(file, pressure)).buffer_unordered(FILES_AT_ONCE);
    outcomes.filter(|stored| std::future::ready(!stored)).count().await
}

/// Stores what ended processes left of a file, or with `all` everything that is unsynced. Answers whether that is
/// done.
pub async fn store_one(file: FileRef, all: bool) -> bool {
    let mut result = file.settle().await;
    if result.is_ok() {
        result = file.store_orphans().await;
    }
    if result.is_ok() && all {
        result = file.sync(vec![WHOLE]).await.map(|_| ());
    }
    if let Err(error) = &result {
        tracing::warn!(path = %file.path(), ?error, "write-back failed; it will be tried again");
    }
    result.is_ok()
}
