//! The sweep: deletes the pages of removed files and those behind cuts, a piece at a time, so that to truncate or
//! remove a file costs the same whatever its size.
//!
//! What is to be swept stands in the database, written with the change that made it so: a crash forgets nothing.
//! Invariant: a page is deleted only under its file's lock, and only if it is dead for the file's record.

use std::sync::Arc;
use std::time::Duration;

use slatedb::WriteBatch;
use uuid::Uuid;

use super::database::{Database, Writer, next};
use super::locks::Locks;
use super::record::{FileRecord, garbage_key, garbage_keys, garbage_of, name_key, page_key, page_of, page_parts};
use crate::units::PAGE_LEN;
use crate::vfs::fault::{StoreFault, StoreResult};

/// Pages that are looked at in one piece: 2 MiB are read, which a write-back of the file waits for at most.
const PIECE: usize = 512;
/// After a failure.
const PAUSE: Duration = Duration::from_secs(5);
/// Between two pieces, so that the sweep is never all that the store has to do.
const BREATH: Duration = Duration::from_millis(5);

/// Sweeps, and makes tables, until the writer is closed.
pub(super) async fn run(locks: Arc<Locks>, writer: Arc<Writer>) {
    let work = async {
        loop {
            match sweep_all(&locks, &writer).await {
                Ok(()) => writer.swept.notified().await,
                Err(StoreFault::Fenced) => return,
                Err(error) => {
                    tracing::debug!(%error, "the sweep is tried again");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        () = work => {}
        () = writer.stop.cancelled() => {}
    }
}

async fn sweep_all(locks: &Locks, writer: &Arc<Writer>) -> StoreResult<()> {
    writer.make_table_if_due().await?;
    let database = Database::Writer(Arc::clone(writer));
    let Some(mut files) = database.scan(garbage_keys(), 1).await? else { return Ok(()) };
    while let Some(file) = next(&mut files).await? {
        let id = garbage_of(&file.key)?;
        let name = String::from_utf8_lossy(&file.value).into_owned();
        sweep_file(locks, writer, id, &name).await?;
    }
    Ok(())
}

async fn sweep_file(locks: &Locks, writer: &Arc<Writer>, id: Uuid, name: &str) -> StoreResult<()> {
    let mut pass: Option<Pass> = None;
    loop {
        let lock = locks.lock(name).await;
        let file = match writer.newest(&name_key(name)).await? {
            Some(value) => Some(FileRecord::decode(&value)?).filter(|file| file.id == id),
            None => None,
        };
        let here = pass.take().unwrap_or_else(|| Pass::of(file.as_ref()));
        match sweep_piece(writer, id, name, file, here).await? {
            Some(rest) => pass = Some(rest),
            None => return Ok(()),
        }
        drop(lock);
        tokio::time::sleep(BREATH).await;
    }
}

/// Sweeps all of a file that has its lock held, because its record is full of cuts.
pub(super) async fn sweep_now(writer: &Arc<Writer>, name: &str, file: &FileRecord) -> StoreResult<()> {
    let mut pass = Pass::of(Some(file));
    while let Some(rest) = sweep_piece(writer, file.id, name, Some(file.clone()), pass).await? {
        pass = rest;
    }
    Ok(())
}

/// One way through a file's pages.
struct Pass {
    /// The next page to look at.
    page: u64,
    /// Cuts up to this change are swept by it.
    change: u64,
}

impl Pass {
    fn of(file: Option<&FileRecord>) -> Self {
        match file.and_then(|file| Some((file.cuts.first()?.page, file.cuts.last()?.change))) {
            Some((page, change)) => Self { page, change },
            // Nothing is dead, or everything is.
            None => Self { page: if file.is_some() { u64::MAX } else { 0 }, change: 0 },
        }
    }
}

/// Deletes the dead pages of one piece; answers the rest, or nothing if it is all done.
async fn sweep_piece(
    writer: &Arc<Writer>,
    id: Uuid,
    name: &str,
    file: Option<FileRecord>,
    pass: Pass,
) -> StoreResult<Option<Pass>> {
    let database = Database::Writer(Arc::clone(writer));
    let keys = page_key(id, pass.page)..=page_key(id, u64::MAX);
    let Some(mut pages) = database.scan(keys, PIECE * PAGE_LEN / 4).await? else { return Ok(None) };
    let mut batch = WriteBatch::new();
    let mut seen = 0;
    let mut rest = None;
    while let Some(found) = next(&mut pages).await? {
        let page = page_of(&found.key)?;
        if seen == PIECE {
            rest = Some(Pass { page, change: pass.change });
            break;
        }
        seen += 1;
        let (change, _) = page_parts(&found.value)?;
        if file.as_ref().is_none_or(|file| !file.is_live(page, change)) {
            batch.delete(&found.key);
        }
    }
    if rest.is_none() {
        match file {
            None => batch.delete(garbage_key(id)),
            Some(mut file) => {
                file.cuts.retain(|cut| cut.change > pass.change);
                if file.cuts.is_empty() {
                    batch.delete(garbage_key(id));
                } else {
                    // The file was cut again meanwhile.
                    rest = Some(Pass::of(Some(&file)));
                }
                batch.put(name_key(name), file.encode()?);
            }
        }
    }
    if !batch.is_empty() {
        writer.write(batch).await?;
    }
    Ok(rest)
}
