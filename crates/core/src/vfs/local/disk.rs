//! [`Disk`]: the one way by which this layout changes anything in its folder.
//!
//! Invariant: whatever a change writes, syncs, names or removes is one step here, so that a test can stop the
//! process before each of them, and can lose what was not synced. In a server it is the system call itself.
//! What is only read does not go through here.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
#[cfg(test)]
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, OFlags};

use crate::units::ByteRange;

/// What a step changes or makes durable.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(test), expect(dead_code, reason = "only a test looks at what a step is"))]
pub(super) enum Step<'a> {
    /// Bytes of a file.
    Write(&'a File, ByteRange),
    /// Size, times, rights or attributes of a file.
    Inode(&'a File),
    /// What names lead to, each in its folder.
    Names(&'a [(BorrowedFd<'a>, &'a Path)]),
    /// The file, durable from now on.
    Sync(&'a File),
    /// The folder's names, durable from now on.
    SyncFolder(BorrowedFd<'a>),
}

/// Stands between a step and the disk.
#[cfg(test)]
pub(super) trait Interpose: std::fmt::Debug + Send + Sync {
    /// Makes the step, or does not.
    fn step(&self, step: Step<'_>, make: &mut dyn FnMut() -> io::Result<()>) -> io::Result<()>;
}

/// The way to the disk.
#[derive(Debug, Default)]
pub(super) struct Disk {
    #[cfg(test)]
    pub(super) interposed: Option<Arc<dyn Interpose>>,
}

impl Disk {
    /// Makes a step.
    #[cfg_attr(not(test), expect(clippy::unused_self, reason = "a test's disk is asked first"))]
    pub(super) fn step(&self, step: Step<'_>, mut make: impl FnMut() -> io::Result<()>) -> io::Result<()> {
        #[cfg(test)]
        if let Some(interposed) = &self.interposed {
            return interposed.step(step, &mut make);
        }
        let _ = step;
        make()
    }

    pub(super) fn write(&self, file: &File, data: &[u8], offset: u64) -> io::Result<()> {
        let range = ByteRange::new(offset, offset + data.len() as u64);
        self.step(Step::Write(file, range), || file.write_all_at(data, offset))
    }

    pub(super) fn set_size(&self, file: &File, size: u64) -> io::Result<()> {
        self.step(Step::Inode(file), || file.set_len(size))
    }

    pub(super) fn sync(&self, file: &File) -> io::Result<()> {
        self.step(Step::Sync(file), || file.sync_all())
    }

    /// Makes the folder's names durable.
    pub(super) fn sync_folder(&self, folder: impl AsFd) -> io::Result<()> {
        self.step(Step::SyncFolder(folder.as_fd()), || {
            // A folder may be opened for its path only, which cannot be synced: it is opened again.
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let readable = rustix::fs::openat(&folder, ".", flags, Mode::empty())?;
            Ok(rustix::fs::fsync(readable)?)
        })
    }

    pub(super) fn make_folder(&self, above: impl AsFd, name: &Path, mode: Mode) -> io::Result<()> {
        self.step(Step::Names(&[(above.as_fd(), name)]), || Ok(rustix::fs::mkdirat(&above, name, mode)?))
    }

    pub(super) fn unlink(&self, folder: impl AsFd, name: &Path) -> io::Result<()> {
        let unlink = || Ok(rustix::fs::unlinkat(&folder, name, AtFlags::empty())?);
        self.step(Step::Names(&[(folder.as_fd(), name)]), unlink)
    }
}
