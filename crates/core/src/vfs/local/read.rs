//! Reading ranges of one version of a file.
//!
//! Invariant: the version is the one asked for before the first byte was read and after the last.

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
    pub(super) fn stat(&self, name: &Path) -> StoreResult<Stat> {
        stat_of(&self.file(name, Access::Read)?)
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
        let check = || match Identity::of_file(&file)?.version() == *version {
            true => Ok(()),
            false => Err(StoreFault::Changed),
        };
        check()?;
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
