//! Changing a file: one batch, all or nothing, durable when it answers.
//!
//! Only dirty pages are written, each as a record of its own: a block of 64 KiB would have to be read and written
//! whole for one page of it. Invariant: the caller holds the file's lock until the batch is durable, so that the
//! newest record is the durable one.

use std::sync::Arc;

use bytes::Bytes;
use slatedb::WriteBatch;

use super::database::Writer;
use super::record::{FileRecord, garbage_key, name_key, page_key, page_parts, page_value, pages_of};
use super::sweep::sweep_now;
use crate::units::{ByteRange, PAGE_LEN, PAGE_SIZE, PageIndex};
use crate::vfs::fault::{StoreFault, StoreResult};
use crate::vfs::store::{Base, Patch, Stat, WriteBack};

/// Cuts that a record holds at most; one more sweeps them first.
const CUTS_MAX: usize = 64;

/// Makes the change.
pub(super) async fn write_back(writer: &Arc<Writer>, name: &str, change: &WriteBack) -> StoreResult<Stat> {
    let old = base_of(writer, name, &change.base).await?;
    let mut new = match &old {
        Some(old) => old.changed(change.size, change.commit),
        None => FileRecord::made(change.size, change.commit),
    };
    let mut batch = WriteBatch::new();
    put_pages(writer, old.as_ref(), &new, &change.patches, &mut batch).await?;
    let end = pages_of(change.size);
    if let Some(old) = old.filter(|old| pages_of(old.size) > end) {
        if old.cuts.len() >= CUTS_MAX {
            sweep_now(writer, name, &old).await?;
            new.cuts.clear();
        }
        new.cut_from(end);
        batch.put(garbage_key(new.id), name);
    }
    batch.put(name_key(name), new.encode()?);
    writer.write(batch).await?;
    if !new.cuts.is_empty() {
        writer.swept.notify_one();
    }
    Ok(new.stat())
}

/// Removes the file; its pages go later.
pub(super) async fn remove(writer: &Arc<Writer>, name: &str) -> StoreResult<()> {
    let Some(file) = writer.newest(&name_key(name)).await? else { return Err(StoreFault::Missing) };
    let mut batch = WriteBatch::new();
    batch.delete(name_key(name));
    batch.put(garbage_key(FileRecord::decode(&file)?.id), name);
    writer.write(batch).await?;
    writer.swept.notify_one();
    Ok(())
}

/// The record that a change starts from, if it is what the change is based on.
async fn base_of(writer: &Writer, name: &str, base: &Base) -> StoreResult<Option<FileRecord>> {
    let found = writer.newest(&name_key(name)).await?;
    match (found.map(|value| FileRecord::decode(&value)).transpose()?, base) {
        (None, Base::Missing) => Ok(None),
        (Some(_), Base::Missing) => Err(StoreFault::Exists),
        (Some(file), Base::At { version, .. }) if file.version() == *version => Ok(Some(file)),
        (Some(_) | None, Base::At { .. }) => Err(StoreFault::Changed),
    }
}

/// A page that is being put together.
struct Page {
    index: u64,
    bytes: Vec<u8>,
}

/// Puts the dirty pages into the batch, and the page that the new end cuts in two.
async fn put_pages(
    writer: &Writer,
    old: Option<&FileRecord>,
    new: &FileRecord,
    patches: &[Patch],
    batch: &mut WriteBatch,
) -> StoreResult<()> {
    let mut open: Option<Page> = None;
    let put = |page: Page, batch: &mut WriteBatch| {
        batch.put(page_key(new.id, page.index), page_value(new.change, &page.bytes));
    };
    for patch in patches.iter().filter(|patch| patch.dirty) {
        let range = patch.range().intersect(ByteRange::new(0, new.size));
        for index in range.start() / PAGE_SIZE..pages_of(range.end()) {
            let within = PageIndex(index).range().intersect(ByteRange::new(0, new.size));
            let part = within.intersect(range);
            if open.as_ref().is_some_and(|page| page.index != index)
                && let Some(page) = open.take()
            {
                put(page, batch);
            }
            if open.is_none() {
                let bytes = if part == within { Vec::new() } else { old_page(writer, old, index).await? };
                open = Some(Page { index, bytes });
            }
            let Some(page) = &mut open else { continue };
            page.bytes.resize(length(within), 0);
            let (from, to) = (length(ByteRange::new(within.start(), part.start())), length(part));
            let taken = length(ByteRange::new(patch.offset, part.start()));
            page.bytes[from..from + to].copy_from_slice(&patch.data[taken..taken + to]);
        }
    }
    let last = new.size / PAGE_SIZE;
    let cut = length(ByteRange::new(last * PAGE_SIZE, new.size));
    let is_cut = cut > 0 && old.is_some_and(|old| old.size > new.size);
    if is_cut && open.as_ref().is_none_or(|page| page.index != last) {
        let mut bytes = old_page(writer, old, last).await?;
        if bytes.len() > cut {
            bytes.truncate(cut);
            put(Page { index: last, bytes }, batch);
        }
    }
    if let Some(page) = open {
        put(page, batch);
    }
    Ok(())
}

/// What is there of a page; what is missing is zeros.
async fn old_page(writer: &Writer, old: Option<&FileRecord>, index: u64) -> StoreResult<Vec<u8>> {
    let Some(old) = old else { return Ok(Vec::new()) };
    let Some(value) = writer.newest(&page_key(old.id, index)).await? else { return Ok(Vec::new()) };
    let (change, bytes): (u64, Bytes) = page_parts(&value)?;
    Ok(if old.is_live(index, change) { bytes.to_vec() } else { Vec::new() })
}

/// A range's length as that of a buffer.
fn length(range: ByteRange) -> usize {
    usize::try_from(range.len()).unwrap_or(PAGE_LEN)
}
