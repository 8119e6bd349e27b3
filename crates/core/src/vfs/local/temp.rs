//! Files that are written beside: [`Temp`], in the folder `.mmapd-tmp` of the mount's root.
//!
//! Invariants: a temporary file is locked (flock) as long as its writer lives and removed with it; what has
//! no lock when a mount is opened is a killed server's leftover and is removed. A second server on the same
//! folder is therefore left alone. The folder is for this user only, and never reached through a link.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use cap_std::fs::Dir;
use parking_lot::MutexGuard;
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::disk::{Disk, Step};
use super::inode::{growth_fault, io_fault};
use super::root::{Place, Root};
use crate::vfs::fault::{StoreFault, StoreResult};

/// Begins with the reserved prefix, so that no file's name can be in it.
const TEMP_FOLDER: &str = ".mmapd-tmp";

/// The right to let a change take effect: one holder at a time, in this process and among the servers on the
/// same folder.
pub(super) struct TurnGuard<'a> {
    _here: MutexGuard<'a, ()>,
    /// Its flock goes with it. None where the file system has no locks, or the folder cannot be made.
    _among_servers: Option<OwnedFd>,
}

impl<'a> TurnGuard<'a> {
    /// Waits for the turn. It is held for a few system calls, so the wait is short.
    pub(super) fn take(root: &'a Root) -> Self {
        let here = root.changes.lock();
        let folder = make_folder(root, TEMP_FOLDER, Mode::RWXU).ok();
        let locked = folder.filter(|folder| rustix::fs::flock(folder, FlockOperation::LockExclusive).is_ok());
        Self { _here: here, _among_servers: locked }
    }
}

/// A file that is being written beside; removed unless it is put in its place.
pub(super) struct Temp<'a> {
    disk: &'a Disk,
    folder: OwnedFd,
    name: String,
    pub(super) file: File,
    placed: bool,
}

impl<'a> Temp<'a> {
    /// An empty file with the rights of a new one.
    pub(super) fn create(root: &'a Root) -> StoreResult<Self> {
        Self::create_with(root, Mode::from_raw_mode(0o666))
    }

    /// An empty file with these rights, less what the process's umask takes.
    pub(super) fn create_with(root: &'a Root, mode: Mode) -> StoreResult<Self> {
        let folder = make_folder(root, TEMP_FOLDER, Mode::RWXU)?;
        let name = uuid::Uuid::new_v4().to_string();
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mut made = None;
        let create = Step::Names(&[(folder.as_fd(), Path::new(&name))]);
        let opened = root.disk.step(create, || {
            made = Some(File::from(rustix::fs::openat(&folder, &name, flags, mode)?));
            Ok(())
        });
        opened.map_err(io_fault)?;
        let file = made.ok_or_else(|| StoreFault::Failed("a temporary file was not made".into(), None))?;
        // A file system without locks only loses the protection of one server from another's cleaning.
        let _ = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
        Ok(Self { disk: &root.disk, folder, name, file, placed: false })
    }

    /// Sets the size; what is not written is a hole.
    pub(super) fn set_size(&self, size: u64) -> StoreResult<()> {
        self.disk.set_size(&self.file, size).map_err(|error| match Errno::from_io_error(&error) {
            // Linux's answer to a size beyond the file system's, on some of them.
            Some(Errno::INVAL) => StoreFault::TooLarge { max: size.saturating_sub(1) },
            _ => growth_fault(error, size),
        })
    }

    /// Puts it at `place`, over what is there.
    pub(super) fn replace(mut self, place: &Place) -> StoreResult<File> {
        let rename = || Ok(rustix::fs::renameat(&self.folder, &self.name, &place.parent, &place.file)?);
        self.disk.step(Step::Names(&self.names(place)), rename).map_err(rename_fault)?;
        self.placed = true;
        self.file.try_clone().map_err(io_fault)
    }

    /// Puts it at `place`, where nothing may be.
    pub(super) fn place_new(mut self, place: &Place) -> StoreResult<File> {
        let (folder, name) = (&self.folder, &self.name);
        let rename =
            || match rustix::fs::renameat_with(folder, name, &place.parent, &place.file, RenameFlags::NOREPLACE) {
                Ok(()) => Ok(()),
                // The file system does not have it: link(2) does not replace either.
                Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                    rustix::fs::linkat(folder, name, &place.parent, &place.file, AtFlags::empty())?;
                    Ok(rustix::fs::unlinkat(folder, name, AtFlags::empty())?)
                }
                Err(error) => Err(error.into()),
            };
        self.disk.step(Step::Names(&self.names(place)), rename).map_err(rename_fault)?;
        self.placed = true;
        self.file.try_clone().map_err(io_fault)
    }

    fn names<'b>(&'b self, place: &'b Place) -> [(BorrowedFd<'b>, &'b Path); 2] {
        [(self.folder.as_fd(), Path::new(&self.name)), (place.parent.as_fd(), &place.file)]
    }
}

impl Drop for Temp<'_> {
    fn drop(&mut self) {
        if !self.placed
            && let Err(error) = self.disk.unlink(&self.folder, Path::new(&self.name))
        {
            tracing::debug!(%error, name = self.name, "a temporary file could not be removed");
        }
    }
}

/// Removes a killed server's leftovers. What cannot be removed stays and costs its space: that is no reason
/// not to serve.
pub(super) fn remove_leftovers(root: &Root) {
    let Ok(Some(folder)) = open_folder(&root.dir, TEMP_FOLDER) else { return };
    let Ok(entries) = rustix::fs::Dir::read_from(&folder) else { return };
    for entry in entries.flatten() {
        if matches!(entry.file_name().to_bytes(), b"." | b"..") {
            continue;
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let Ok(file) = rustix::fs::openat(&folder, entry.file_name(), flags, Mode::empty()) else { continue };
        if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            continue;
        }
        let name = Path::new(OsStr::from_bytes(entry.file_name().to_bytes()));
        match root.disk.unlink(&folder, name) {
            Ok(()) => tracing::info!(name = ?entry.file_name(), "removed a temporary file that a killed server left"),
            Err(error) => tracing::warn!(%error, name = ?entry.file_name(), "a leftover could not be removed"),
        }
    }
}

/// The server's own folder `name`, made if it is missing.
pub(super) fn make_folder(root: &Root, name: &str, mode: Mode) -> StoreResult<OwnedFd> {
    // Two tries: another server may remove or make it in between.
    for _ in 0..2 {
        if let Some(folder) = open_folder(&root.dir, name)? {
            return Ok(folder);
        }
        match root.disk.make_folder(&root.dir, Path::new(name), mode) {
            Ok(()) => root.disk.sync_folder(&root.dir).map_err(io_fault)?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(io_fault(error)),
        }
    }
    Err(StoreFault::Failed(format!("the folder {name} vanishes as soon as it is made"), None))
}

/// The server's own folder `name`, if it is there; never reached through a link.
pub(super) fn open_folder(root: &Dir, name: &str) -> StoreResult<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(root, name, flags, Mode::empty()) {
        Ok(folder) => Ok(Some(folder)),
        Err(Errno::NOENT) => Ok(None),
        Err(Errno::LOOP | Errno::NOTDIR) => {
            Err(StoreFault::Failed(format!("{name} in the mount's folder is not a folder: remove it"), None))
        }
        Err(error) => Err(errno_fault(error)),
    }
}

fn rename_fault(error: io::Error) -> StoreFault {
    match Errno::from_io_error(&error) {
        Some(Errno::XDEV) => StoreFault::Unsupported(
            "the file lies on another file system than the mount's folder: mount that file system by itself".into(),
        ),
        Some(Errno::ISDIR | Errno::NOTDIR) => StoreFault::BadName("it is a folder: name a file in it".into()),
        _ => io_fault(error),
    }
}

fn errno_fault(error: Errno) -> StoreFault {
    io_fault(io::Error::from(error))
}
