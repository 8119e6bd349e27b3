//! Reading: what is durable, of one version, without waiting for anybody who writes.
//!
//! Invariant: a file's record is looked at before its pages and again after them. Both times it is at the version
//! asked for, so nothing that was read in between is of another: versions never come again.

use std::ops::Bound;

use bytes::Bytes;

use super::database::{Database, next};
use super::record::{FileRecord, NAMES_END, name_key, name_of, page_key, page_of, page_parts, pages_of};
use crate::units::{BLOCK_SIZE, ByteRange, PAGE_SIZE, PageIndex};
use crate::vfs::fault::{StoreFault, StoreResult};
use crate::vfs::store::{Listed, Stat};
use crate::vfs::version::Version;

/// What a page costs in a table beside its bytes, generously.
const RECORD_BYTES: u64 = 128;
/// Fetched at a time for a list.
const LIST_BYTES: usize = 64 * 1024;

pub(super) async fn stat(database: &Database, name: &str) -> StoreResult<Stat> {
    Ok(record(database, name).await?.stat())
}

/// See [`FileStore::read`](crate::vfs::store::FileStore::read).
pub(super) async fn read(
    database: &Database,
    name: &str,
    version: &Version,
    range: ByteRange,
) -> StoreResult<Vec<Bytes>> {
    let file = record_at(database, name, version).await?;
    if range.end() > file.size {
        return Err(StoreFault::Changed);
    }
    let mut blocks: Vec<Vec<u8>> = range.blocks().map(|block| vec![0; range.within(block).len()]).collect();
    fill(database, &file, range, &mut blocks).await?;
    record_at(database, name, version).await?;
    Ok(blocks.into_iter().map(Bytes::from).collect())
}

async fn fill(database: &Database, file: &FileRecord, range: ByteRange, blocks: &mut [Vec<u8>]) -> StoreResult<()> {
    if range.is_empty() {
        return Ok(());
    }
    let (first, end) = (range.start() / PAGE_SIZE, pages_of(range.end()));
    let bytes = (end - first).saturating_mul(PAGE_SIZE + RECORD_BYTES);
    let keys = page_key(file.id, first)..page_key(file.id, end);
    let Some(mut pages) = database.scan(keys, usize::try_from(bytes).unwrap_or(usize::MAX)).await? else {
        return Err(StoreFault::Missing);
    };
    while let Some(found) = next(&mut pages).await? {
        let page = page_of(&found.key)?;
        let (change, bytes) = page_parts(&found.value)?;
        if file.is_live(page, change) {
            place(range, page, &bytes, blocks);
        }
    }
    Ok(())
}

/// Copies what `range` has of a page to where it belongs. A range begins with a block, so pages lie within blocks.
fn place(range: ByteRange, page: u64, bytes: &[u8], blocks: &mut [Vec<u8>]) {
    let start = PageIndex(page).range().start();
    let here = ByteRange::new(start, start + bytes.len() as u64).intersect(range);
    let block = here.start() / BLOCK_SIZE - range.start() / BLOCK_SIZE;
    let Some(block) = usize::try_from(block).ok().and_then(|block| blocks.get_mut(block)) else { return };
    let within = here.start() % BLOCK_SIZE;
    let (Ok(from), Ok(length)) = (usize::try_from(within), usize::try_from(here.len())) else { return };
    if let (Some(to), Some(bytes)) = (block.get_mut(from..from + length), bytes.get(..length)) {
        to.copy_from_slice(bytes);
    }
}

/// See [`FileStore::list`](crate::vfs::store::FileStore::list).
pub(super) async fn list(
    database: &Database,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
) -> StoreResult<Vec<Listed>> {
    let mut found = Vec::new();
    let from = match after {
        Some(after) if after >= prefix => Bound::Excluded(name_key(after)),
        Some(_) | None => Bound::Included(name_key(prefix)),
    };
    let to = Bound::Excluded(vec![NAMES_END]);
    let Some(mut files) = database.scan((from, to), LIST_BYTES).await? else { return Ok(found) };
    while found.len() < limit
        && let Some(file) = next(&mut files).await?
    {
        let name = name_of(&file.key)?;
        if !name.starts_with(prefix) {
            break;
        }
        let stat = Stat { commit: None, ..FileRecord::decode(&file.value)?.stat() };
        found.push(Listed { name, stat });
    }
    Ok(found)
}

async fn record(database: &Database, name: &str) -> StoreResult<FileRecord> {
    match database.get(&name_key(name)).await? {
        Some(value) => FileRecord::decode(&value),
        None => Err(StoreFault::Missing),
    }
}

async fn record_at(database: &Database, name: &str, version: &Version) -> StoreResult<FileRecord> {
    let file = record(database, name).await?;
    if file.version() == *version { Ok(file) } else { Err(StoreFault::Changed) }
}
