//! Changes in place that are not finished: whose they are, and finishing those of a killed server.
//!
//! A change in place has its redo record in the folder `.mmapd-redo` of the mount's root, by the number of the
//! file's inode, from the moment it is sure to take place until it has. So a file is as its version says only
//! while it has no record; and since the record lies beside the files, whatever server opens the folder next,
//! or looks at the file, finishes it.
//!
//! Invariants: a record is locked (flock) as long as the process lives that works on it. It is applied only to
//! the very file that it was made for, and never once the file bears its mark: then the change was complete,
//! and what came later is somebody else's. Its removal is durable before the change answers.
//!
//! What it cannot promise: what another program writes into a half-done file before it is finished is lost
//! where the change writes too. A half-done file that was moved is finished when it is next asked for.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::copy::Cancelled;
use super::inode::{Identity, growth_fault, io_fault, last_commit, mark};
use super::redo::{RedoHead, birth, read_redo, replay_redo};
use super::root::{Access, Root};
use super::temp::{make_folder, open_folder};
use crate::vfs::fault::{StoreFault, StoreResult};

/// Begins with the reserved prefix, so that no file's name can be in it.
const REDO_FOLDER: &str = ".mmapd-redo";
/// Between two looks at whether another's change has finished: it takes some milliseconds, or seconds if large.
const PAUSE_FIRST: Duration = Duration::from_millis(1);
const PAUSE_LONGEST: Duration = Duration::from_millis(20);

/// Whose a record is.
enum Claim {
    /// Nobody's any more: it is not there.
    Gone,
    /// A living process works on it.
    Taken,
    /// It was left by a dead one, and is locked for us as long as the file is open.
    Ours(File),
}

/// A record's name.
pub(super) fn redo_name(inode: u64) -> PathBuf {
    format!("{inode:x}").into()
}

/// The folder of the records. Others may look whether there is one, and not into them.
pub(super) fn redo_folder(root: &Root) -> StoreResult<OwnedFd> {
    make_folder(root, REDO_FOLDER, Mode::from_raw_mode(0o755))
}

impl Root {
    /// Whether a change in place of the file is not finished.
    pub(super) fn is_pending(&self, inode: u64) -> StoreResult<bool> {
        let path = Path::new(REDO_FOLDER).join(redo_name(inode));
        match rustix::fs::statat(&self.dir, path, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(io_fault(error.into())),
        }
    }

    /// Waits until nobody changes the file `name` in place, and finishes what a killed server began.
    pub(super) fn settle(&self, name: &Path, inode: u64, cancelled: &Cancelled) -> StoreResult<()> {
        let mut pause = PAUSE_FIRST;
        while self.is_pending(inode)? {
            match self.claim(inode)? {
                Claim::Gone => {}
                Claim::Ours(record) => return self.finish(&record, name, inode),
                Claim::Taken => {
                    cancelled.check()?;
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(PAUSE_LONGEST);
                }
            }
        }
        Ok(())
    }

    /// Finishes what killed servers began. What cannot be finished now stays until its file is asked for.
    pub(super) fn finish_all(&self) {
        let Ok(Some(folder)) = open_folder(&self.dir, REDO_FOLDER) else { return };
        let Ok(entries) = rustix::fs::Dir::read_from(&folder) else { return };
        for entry in entries.flatten() {
            let text = OsStr::from_bytes(entry.file_name().to_bytes()).to_str();
            let Some(inode) = text.and_then(|text| u64::from_str_radix(text, 16).ok()) else { continue };
            let Ok(Claim::Ours(record)) = self.claim(inode) else { continue };
            let finished = read_redo(&record).and_then(|head| self.finish(&record, &head.name, inode));
            match finished {
                Ok(()) => tracing::info!(inode, "finished a change that a killed server left half-done"),
                Err(fault) => tracing::warn!(%fault, inode, "a half-done change could not be finished yet"),
            }
        }
    }

    fn claim(&self, inode: u64) -> StoreResult<Claim> {
        if self.flights.lock().iter().any(|flight| flight.inode == inode) {
            return Ok(Claim::Taken);
        }
        let Some(folder) = open_folder(&self.dir, REDO_FOLDER)? else { return Ok(Claim::Gone) };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let record = match rustix::fs::openat(&folder, redo_name(inode), flags, Mode::empty()) {
            Ok(record) => File::from(record),
            Err(Errno::NOENT) => return Ok(Claim::Gone),
            Err(error) => return Err(io_fault(error.into())),
        };
        // Any other error: a file system without locks is for one server at a time, and this one is not at it.
        if rustix::fs::flock(&record, FlockOperation::NonBlockingLockExclusive) == Err(Errno::WOULDBLOCK) {
            return Ok(Claim::Taken);
        }
        // It may have been finished between its opening and its lock, and another put in its place.
        let found = rustix::fs::statat(&folder, redo_name(inode), AtFlags::SYMLINK_NOFOLLOW);
        let same = found.is_ok_and(|found| Identity::of_file(&record).is_ok_and(|ours| ours.inode == found.st_ino));
        Ok(if same { Claim::Ours(record) } else { Claim::Gone })
    }

    /// Finishes the change of a record that is locked for us, on the file that `name` leads to.
    fn finish(&self, record: &File, name: &Path, inode: u64) -> StoreResult<()> {
        if self.read_only {
            return Err(StoreFault::Failed(
                "a change of the file was cut off half-way: mount the folder for writing once, so that it is finished"
                    .into(),
                None,
            ));
        }
        let head = read_redo(record)?;
        let file = self.file(name, Access::Write)?;
        if head.inode != inode || Identity::of_file(&file)?.inode != inode {
            return Err(StoreFault::Failed(
                format!("{} is another file than the one that was half-changed", name.display()),
                None,
            ));
        }
        if last_commit(&file) != Some(head.commit) {
            if is_of(&head, &file)? {
                let write = |file: &File| {
                    replay_redo(record, |offset, data| {
                        self.disk.write(file, data, offset).map_err(|error| growth_fault(error, head.size))
                    })
                };
                self.apply(&file, &head, write)?;
            } else {
                tracing::warn!(inode, name = %name.display(), "a half-done change is dropped: its file was replaced");
            }
        }
        self.drop_record(inode)
    }

    /// Brings a file from before or amid the change to after it, and marks it; durable when it answers.
    pub(super) fn apply(
        &self,
        file: &File,
        head: &RedoHead,
        write: impl FnOnce(&File) -> StoreResult<()>,
    ) -> StoreResult<()> {
        let grow = |error| growth_fault(error, head.size);
        // First if it grows, so that the size is never another than that before or after.
        if head.size > head.old_size {
            self.disk.set_size(file, head.size).map_err(grow)?;
        }
        write(file)?;
        if head.size < head.old_size {
            self.disk.set_size(file, head.size).map_err(grow)?;
        }
        // The mark says that all of it is on the disk, so it must not get there first.
        self.disk.sync(file).map_err(io_fault)?;
        mark(&self.disk, file, head.commit)?;
        self.disk.sync(file).map_err(io_fault)
    }

    /// Removes the record of a change that has taken place.
    pub(super) fn drop_record(&self, inode: u64) -> StoreResult<()> {
        let folder = redo_folder(self)?;
        self.disk.unlink(&folder, &redo_name(inode)).map_err(io_fault)?;
        self.disk.sync_folder(&folder).map_err(io_fault)
    }
}

/// Whether it is the file that the record is of, before or amid the change.
fn is_of(head: &RedoHead, file: &File) -> StoreResult<bool> {
    let size = Identity::of_file(file)?.size;
    Ok(birth(file)? == head.born && (size == head.old_size || size == head.size))
}
