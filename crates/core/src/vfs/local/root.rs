//! [`Root`]: the mount's folder, and how a name in it is opened.
//!
//! Invariants: no name leads out of the folder, whatever symbolic links lie in it and however they change
//! meanwhile (cap-std resolves beneath the folder); links that stay inside are followed. Only regular files
//! are files: a folder, a pipe, a device or a link that leads out or nowhere is refused by name.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cap_std::ambient_authority;
use cap_std::fs::{Dir, Metadata, OpenOptions, OpenOptionsExt};
use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::disk::Disk;
use super::inode::io_fault;
use crate::units::ByteRange;
use crate::vfs::fault::{StoreFault, StoreResult};
use crate::vfs::version::Version;

/// Up to here a change writes the whole file beside and renames it, which leaves other readers the old content
/// or the new at any moment. At 1 GB/s it costs 8 ms.
const REWRITE_MAX: u64 = 8 * 1024 * 1024;

/// The mount's folder.
#[derive(Debug)]
pub(super) struct Root {
    pub(super) dir: Dir,
    pub(super) disk: Disk,
    /// Nothing in the folder is touched.
    pub(super) read_only: bool,
    /// A change of a file that is larger than this, before and after, is made in place.
    pub(super) rewrite_max: u64,
    /// Held from a change's last version check until it took effect, so that two changes cannot both pass the
    /// check. Not an async lock: it is held for a few system calls on a thread that may block.
    pub(super) changes: Mutex<()>,
    /// The changes in place that are under way here.
    pub(super) flights: Mutex<Vec<Arc<Flight>>>,
}

/// A change in place that is under way: what it leaves as it was can be read meanwhile.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) inode: u64,
    pub(super) base: Version,
    /// What it changes, in order; the last one reaches to the end of any file if the size changes.
    pub(super) changes: Vec<ByteRange>,
}

impl Flight {
    fn leaves(&self, range: ByteRange) -> bool {
        let first = self.changes.partition_point(|change| change.end() <= range.start());
        self.changes.get(first).is_none_or(|change| change.start() >= range.end())
    }
}

/// Where a name's file lies once links are followed.
pub(super) struct Place {
    pub(super) parent: Dir,
    pub(super) file: PathBuf,
}

/// What a file is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

impl Root {
    pub(super) fn open(folder: &Path, read_only: bool, disk: Disk) -> io::Result<Self> {
        let dir = Dir::open_ambient_dir(folder, ambient_authority())?;
        let rewrite_max = REWRITE_MAX;
        Ok(Self { dir, disk, read_only, rewrite_max, changes: Mutex::default(), flights: Mutex::default() })
    }

    /// The change in place that is under way from `version` of the file, if it leaves the bytes `range` alone.
    pub(super) fn flight_beside(&self, inode: u64, version: &Version, range: ByteRange) -> Option<Arc<Flight>> {
        let flights = self.flights.lock();
        let beside = |flight: &&Arc<Flight>| flight.inode == inode && flight.base == *version && flight.leaves(range);
        flights.iter().find(beside).cloned()
    }

    /// Whether it is still under way.
    pub(super) fn is_in_flight(&self, flight: &Arc<Flight>) -> bool {
        self.flights.lock().iter().any(|other| Arc::ptr_eq(other, flight))
    }

    /// The regular file `name`.
    pub(super) fn file(&self, name: &Path, access: Access) -> StoreResult<File> {
        // Looked at first, because to open a device can have effects.
        check_regular(&self.dir.metadata(name).map_err(|error| self.name_fault(name, error))?)?;
        let mut options = OpenOptions::new();
        // A pipe that takes the file's place meanwhile must not block the thread.
        options.read(true).write(access == Access::Write).custom_flags(OFlags::NONBLOCK.bits().cast_signed());
        let file = self.dir.open_with(name, &options).map_err(|error| self.name_fault(name, error))?.into_std();
        if file.metadata().map_err(io_fault)?.is_file() { Ok(file) } else { Err(not_a_file()) }
    }

    /// Where the present file `name` lies, links followed.
    pub(super) fn place(&self, name: &Path) -> StoreResult<Place> {
        let real = self.dir.canonicalize(name).map_err(|error| self.name_fault(name, error))?;
        self.split(&real)
    }

    /// Where the file `name` lies or is to lie, its last link not followed.
    pub(super) fn split(&self, name: &Path) -> StoreResult<Place> {
        let file = name.file_name().ok_or_else(not_a_file)?.into();
        Ok(Place { parent: self.folder(parent_of(name))?, file })
    }

    /// As [`Root::split`]; the folders above are made if they are missing, and synced.
    pub(super) fn split_or_make(&self, name: &Path) -> StoreResult<Place> {
        match self.split(name) {
            Err(StoreFault::Missing) => {}
            place => return place,
        }
        let mut made = PathBuf::new();
        for part in parent_of(name) {
            let above = self.folder(&made)?;
            match self.disk.make_folder(&above, Path::new(part), Mode::from_raw_mode(0o777)) {
                Ok(()) => self.disk.sync_folder(&above).map_err(io_fault)?,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(io_fault(error)),
            }
            made.push(part);
        }
        self.split(name)
    }

    /// The folder `name`, the mount's own for an empty one.
    pub(super) fn folder(&self, name: &Path) -> StoreResult<Dir> {
        if name.as_os_str().is_empty() {
            return self.dir.try_clone().map_err(io_fault);
        }
        self.dir.open_dir(name).map_err(|error| match Errno::from_io_error(&error) {
            Some(Errno::NOTDIR) => StoreFault::BadName("a part of it is a file and not a folder".into()),
            _ => self.name_fault(name, error),
        })
    }

    /// What an error on the way to `name` means.
    pub(super) fn name_fault(&self, name: &Path, error: io::Error) -> StoreFault {
        let is_link = || self.dir.symlink_metadata(name).is_ok_and(|metadata| metadata.is_symlink());
        match (Errno::from_io_error(&error), error.kind()) {
            // cap-std's own refusal has no errno.
            (None, io::ErrorKind::PermissionDenied) | (Some(Errno::XDEV), _) => {
                StoreFault::BadName("it leads out of the mount's folder through a symbolic link".into())
            }
            (Some(Errno::NOENT), _) if is_link() => {
                StoreFault::BadName("it is a symbolic link that leads nowhere".into())
            }
            (Some(Errno::NOTDIR), _) => StoreFault::Missing,
            _ => io_fault(error),
        }
    }
}

/// Whether it is a file at all.
pub(super) fn check_regular(metadata: &Metadata) -> StoreResult<()> {
    if metadata.is_dir() {
        return Err(StoreFault::BadName("it is a folder: name a file in it".into()));
    }
    if metadata.is_file() { Ok(()) } else { Err(not_a_file()) }
}

fn not_a_file() -> StoreFault {
    StoreFault::BadName("it is no regular file".into())
}

fn parent_of(name: &Path) -> &Path {
    name.parent().unwrap_or_else(|| Path::new(""))
}
