//! Copying a file's data into its successor: only what is data, so that a sparse file of 1 TiB costs what its
//! data costs, and by the kernel where it can (a reflink on btrfs and xfs costs nothing).

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::disk::{Disk, Step};
use super::inode::{growth_fault, io_fault};
use crate::units::ByteRange;
use crate::vfs::compose::{Piece, base_size, pieces};
use crate::vfs::fault::{StoreFault, StoreResult};
use crate::vfs::store::WriteBack;

/// Bytes that are copied between two looks at whether the caller is still there.
const STEP_BYTES: u64 = 64 * 1024 * 1024;
/// The buffer where the kernel cannot copy by itself.
const BUFFER_BYTES: usize = 256 * 1024;

/// Whether the caller is gone, so that the work can end.
#[derive(Debug, Default)]
pub(super) struct Cancelled(AtomicBool);

impl Cancelled {
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(super) fn check(&self) -> StoreResult<()> {
        match self.0.load(Ordering::Relaxed) {
            false => Ok(()),
            true => Err(StoreFault::Failed("the caller has gone".into(), None)),
        }
    }
}

/// Fills `to` with the changed file's content, which is `from` patched. `to` is as long as it will be, and a hole.
pub(super) fn fill(
    disk: &Disk,
    from: Option<&File>,
    to: &File,
    change: &WriteBack,
    cancelled: &Cancelled,
) -> StoreResult<()> {
    if let Some(from) = from {
        let end = change.size.min(base_size(&change.base));
        let mut at = 0;
        while let Some(data) = next_data(from, at, end)? {
            for piece in pieces(change, data) {
                if let Piece::Base(range) = piece {
                    copy(disk, from, to, range, cancelled)?;
                }
            }
            at = data.end();
        }
    }
    for patch in &change.patches {
        cancelled.check()?;
        disk.write(to, &patch.data, patch.offset).map_err(|error| growth_fault(error, change.size))?;
    }
    Ok(())
}

/// The next range at or behind `at` that is no hole.
fn next_data(file: &File, at: u64, end: u64) -> StoreResult<Option<ByteRange>> {
    if at >= end {
        return Ok(None);
    }
    let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(start) => start,
        // Only a hole is left.
        Err(Errno::NXIO) => return Ok(None),
        // The file system does not tell holes.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some(ByteRange::new(at, end))),
        Err(error) => return Err(io_fault(error.into())),
    };
    if start >= end {
        return Ok(None);
    }
    let hole = match rustix::fs::seek(file, SeekFrom::Hole(start)) {
        Ok(hole) => hole.min(end),
        // It shrank meanwhile: the version check that follows finds out.
        Err(_) => end,
    };
    Ok((start < hole).then(|| ByteRange::new(start, hole)))
}

fn copy(disk: &Disk, from: &File, to: &File, range: ByteRange, cancelled: &Cancelled) -> StoreResult<()> {
    let (mut read_at, mut write_at) = (range.start(), range.start());
    while read_at < range.end() {
        cancelled.check()?;
        let step = usize::try_from((range.end() - read_at).min(STEP_BYTES)).unwrap_or(BUFFER_BYTES);
        let target = Step::Write(to, ByteRange::new(write_at, write_at + step as u64));
        let mut copied = Ok(0);
        let made = disk.step(target, || {
            copied = rustix::fs::copy_file_range(from, Some(&mut read_at), to, Some(&mut write_at), step);
            Ok(())
        });
        made.map_err(io_fault)?;
        match copied {
            // The base is shorter than its version says: somebody changed it.
            Ok(0) => return Err(StoreFault::Changed),
            Ok(_) => {}
            Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM | Errno::BADF) => {
                return copy_by_hand(disk, from, to, ByteRange::new(read_at, range.end()), cancelled);
            }
            Err(error) => return Err(growth_fault(error.into(), range.end())),
        }
    }
    Ok(())
}

fn copy_by_hand(disk: &Disk, from: &File, to: &File, range: ByteRange, cancelled: &Cancelled) -> StoreResult<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut at = range.start();
    while at < range.end() {
        cancelled.check()?;
        let want = usize::try_from(range.end() - at).unwrap_or(BUFFER_BYTES).min(BUFFER_BYTES);
        let Some(part) = buffer.get_mut(..want) else { break };
        let got = from.read_at(part, at).map_err(io_fault)?;
        if got == 0 {
            return Err(StoreFault::Changed);
        }
        let part = part.get(..got).unwrap_or_default();
        disk.write(to, part, at).map_err(|error| growth_fault(error, range.end()))?;
        at += got as u64;
    }
    Ok(())
}
