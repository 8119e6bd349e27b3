//! Reading ranges of one version of a file.
//!
//! Invariant: the version is the one asked for before the first byte was read and after the last, and no change
//! in place was under way; or one is, from that version, that leaves the bytes as they were. So a read never
//! waits for a change.

use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use bytes::Bytes;

use super::copy::Cancelled;
use super::inode::{Identity, io_fault, stat_of};
use super::root::{Access, Root};
use crate::units::ByteRange;
use crate::vfs::fault::{StoreFault, StoreResult};
use crate::vfs::store::Stat;
use crate::vfs::version::Version;

impl Root {
    /// The file as it is now.
    pub(super) fn stat(&self, name: &Path, cancelled: &Cancelled) -> StoreResult<Stat> {
        let file = self.file(name, Access::Read)?;
        let inode = Identity::of_file(&file)?.inode;
        loop {
            self.settle(name, inode, cancelled)?;
            let stat = stat_of(&file)?;
            // A change in place may have begun meanwhile.
            if !self.is_pending(inode)? && stat_of(&file)? == stat {
                return Ok(stat);
            }
            cancelled.check()?;
        }
    }

    /// The bytes `range`, one buffer a block.
    pub(super) fn read(
        &self,
        name: &Path,
        version: &Version,
        range: ByteRange,
        cancelled: &Cancelled,
    ) -> StoreResult<Vec<Bytes>> {
        let file = self.file(name, Access::Read)?;
        let inode = Identity::of_file(&file)?.inode;
        let flight = self.flight_beside(inode, version, range);
        let is_at = || Ok(Identity::of_file(&file)?.version() == *version);
        if flight.is_none() && !is_at()? {
            return Err(StoreFault::Changed);
        }
        // Asked in this order: a change that ended before the first question has given the file another version.
        let check = || {
            let beside = flight.as_ref().is_some_and(|flight| self.is_in_flight(flight));
            if beside || (!self.is_pending(inode)? && is_at()?) { Ok(()) } else { Err(StoreFault::Changed) }
        };
        let mut blocks = Vec::with_capacity(usize::try_from(range.block_count()).unwrap_or_default());
        for block in range.blocks() {
            cancelled.check()?;
            let mut buffer = vec![0; range.within(block).len()];
            let start = block.range().intersect(range).start();
            if let Err(error) = file.read_exact_at(&mut buffer, start) {
                check()?;
                let ended = error.kind() == io::ErrorKind::UnexpectedEof;
                return Err(if ended {
                    StoreFault::Corrupt(format!("the file ends before the bytes {range} do"))
                } else {
                    io_fault(error)
                });
            }
            blocks.push(buffer.into());
        }
        check()?;
        Ok(blocks)
    }
}
