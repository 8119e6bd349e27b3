//! Files that are written beside: [`Temp`], in the folder `.mmapd-tmp` of the mount's root.
//!
//! Invariants: a temporary file is locked (flock) as long as its writer lives and removed with it; what has
//! no lock when a mount is opened is a killed server's leftover and is removed. A second server on the same
//! folder is therefore left alone. The folder is for this user only, and never reached through a link.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use cap_std::fs::Dir;
use parking_lot::MutexGuard;
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

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
        let folder = temp_folder(&root.dir).ok();
        let locked = folder.filter(|folder| rustix::fs::flock(folder, FlockOperation::LockExclusive).is_ok());
        Self { _here: here, _among_servers: locked }
    }
}

/// A file that is being written beside; removed unless it is put in its place.
pub(super) struct Temp {
    folder: OwnedFd,
    name: String,
    pub(super) file: File,
    placed: bool,
}

impl Temp {
    /// An empty file with the rights of a new one.
    pub(super) fn create(root: &Root) -> StoreResult<Self> {
        let folder = temp_folder(&root.dir)?;
        let name = uuid::Uuid::new_v4().to_string();
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&folder, &name, flags, Mode::from_raw_mode(0o666)).map_err(errno_fault)?;
        // A file system without locks only loses the protection of one server from another's cleaning.
        let _ = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
        Ok(Self { folder, name, file: file.into(), placed: false })
    }

    /// Sets the size; what is not written is a hole.
    pub(super) fn set_size(&self, size: u64) -> StoreResult<()> {
        self.file.set_len(size).map_err(|error| match Errno::from_io_error(&error) {
            // Linux's answer to a size beyond the file system's, on some of them.
            Some(Errno::INVAL) => StoreFault::TooLarge { max: size.saturating_sub(1) },
            _ => growth_fault(error, size),
        })
    }

    /// Puts it at `place`, over what is there.
    pub(super) fn replace(mut self, place: &Place) -> StoreResult<File> {
        rustix::fs::renameat(&self.folder, &self.name, &place.parent, &place.file).map_err(rename_fault)?;
        self.placed = true;
        self.file.try_clone().map_err(io_fault)
    }

    /// Puts it at `place`, where nothing may be.
    pub(super) fn place_new(mut self, place: &Place) -> StoreResult<File> {
        let (folder, name) = (&self.folder, &self.name);
        match rustix::fs::renameat_with(folder, name, &place.parent, &place.file, RenameFlags::NOREPLACE) {
            Ok(()) => self.placed = true,
            // The file system does not have it: link(2) does not replace either. The temporary name goes
            // with `self`.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                rustix::fs::linkat(folder, name, &place.parent, &place.file, AtFlags::empty()).map_err(rename_fault)?;
                rustix::fs::unlinkat(folder, name, AtFlags::empty()).map_err(errno_fault)?;
                self.placed = true;
            }
            Err(error) => return Err(rename_fault(error)),
        }
        self.file.try_clone().map_err(io_fault)
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        if !self.placed
            && let Err(error) = rustix::fs::unlinkat(&self.folder, &self.name, AtFlags::empty())
        {
            tracing::debug!(%error, name = self.name, "a temporary file could not be removed");
        }
    }
}

/// Removes a killed server's leftovers. What cannot be removed stays and costs its space: that is no reason
/// not to serve.
pub(super) fn remove_leftovers(root: &Root) {
    let Ok(Some(folder)) = open_folder(&root.dir) else { return };
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
        match rustix::fs::unlinkat(&folder, entry.file_name(), AtFlags::empty()) {
            Ok(()) => tracing::info!(name = ?entry.file_name(), "removed a temporary file that a killed server left"),
            Err(error) => tracing::warn!(%error, name = ?entry.file_name(), "a leftover could not be removed"),
        }
    }
}

fn temp_folder(root: &Dir) -> StoreResult<OwnedFd> {
    // Two tries: another server may remove or make it in between.
    for _ in 0..2 {
        if let Some(folder) = open_folder(root)? {
            return Ok(folder);
        }
        match rustix::fs::mkdirat(root, TEMP_FOLDER, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(errno_fault(error)),
        }
    }
    Err(StoreFault::Failed(format!("the folder {TEMP_FOLDER} vanishes as soon as it is made"), None))
}

fn open_folder(root: &Dir) -> StoreResult<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(root, TEMP_FOLDER, flags, Mode::empty()) {
        Ok(folder) => Ok(Some(folder)),
        Err(Errno::NOENT) => Ok(None),
        Err(Errno::LOOP | Errno::NOTDIR) => {
            Err(StoreFault::Failed(format!("{TEMP_FOLDER} in the mount's folder is not a folder: remove it"), None))
        }
        Err(error) => Err(errno_fault(error)),
    }
}

fn rename_fault(error: Errno) -> StoreFault {
    match error {
        Errno::XDEV => StoreFault::Unsupported(
            "the file lies on another file system than the mount's folder: mount that file system by itself".into(),
        ),
        Errno::ISDIR | Errno::NOTDIR => StoreFault::BadName("it is a folder: name a file in it".into()),
        other => errno_fault(other),
    }
}

fn errno_fault(error: Errno) -> StoreFault {
    io_fault(io::Error::from(error))
}
