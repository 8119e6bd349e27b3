//! Changing files: written beside, synced, renamed.
//!
//! Invariants: when a change has answered, it survives power loss (file and folder are synced); a reader sees
//! the old content or the new. Changes by servers, this one and others on the same folder, never overwrite
//! each other: from the last version check until it took effect each has its turn.
//!
//! What it cannot promise: another program that changes the file between the last version check and the
//! rename (some 10 µs) is overwritten, and one that has the file open keeps the old one. A file with several
//! hard links is parted from the others by its first change.

use std::fs::File;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use cap_std::fs::MetadataExt as _;
use rustix::fs::{AtFlags, Gid, Uid};

use super::copy::{Cancelled, fill};
use super::disk::Step;
use super::inode::{Identity, io_fault, mark, stat_of};
use super::root::{Access, Place, Root, check_regular};
use super::temp::{Temp, TurnGuard};
use crate::vfs::fault::{StoreFault, StoreResult};
use crate::vfs::store::{CommitId, Stat, WriteBack};
use crate::vfs::version::Version;

/// The bits of a mode that run a program as its owner.
const SET_ID_BITS: u32 = 0o6000;

impl Root {
    /// Removes the file; a link is removed itself. Folders that become empty stay.
    pub(super) fn remove(&self, name: &Path, cancelled: &Cancelled) -> StoreResult<()> {
        let place = self.split(name).map_err(missing_folder)?;
        loop {
            let found = place.parent.symlink_metadata(&place.file).map_err(|error| self.name_fault(name, error))?;
            if !found.is_symlink() {
                check_regular(&found)?;
                // A half-done file may have other names.
                self.settle(name, found.ino(), cancelled)?;
            }
            let _turn = TurnGuard::take(self);
            if found.is_symlink() || !self.is_pending(found.ino())? {
                self.disk.unlink(&place.parent, &place.file).map_err(io_fault)?;
                return self.disk.sync_folder(&place.parent).map_err(io_fault);
            }
        }
    }

    /// Makes the file.
    pub(super) fn create(&self, name: &Path, change: &WriteBack, cancelled: &Cancelled) -> StoreResult<Stat> {
        let place = self.split_or_make(name)?;
        if let Ok(found) = place.parent.symlink_metadata(&place.file) {
            if found.is_dir() {
                check_regular(&found)?;
            }
            return Err(StoreFault::Exists);
        }
        let temp = Temp::create(self)?;
        temp.set_size(change.size)?;
        fill(&self.disk, None, &temp.file, change, cancelled)?;
        self.seal(&temp.file, change.commit)?;
        cancelled.check()?;
        let _turn = TurnGuard::take(self);
        let file = temp.place_new(&place)?;
        self.disk.sync_folder(&place.parent).map_err(io_fault)?;
        stat_of(&file)
    }

    /// Puts the changed file in the place of the one at `version`.
    pub(super) fn replace(
        &self,
        name: &Path,
        version: &Version,
        change: &WriteBack,
        cancelled: &Cancelled,
    ) -> StoreResult<Stat> {
        let base = self.base_file(name, version, Access::Read, cancelled)?;
        let place = self.place(name).map_err(missing_is_changed)?;
        // To rename over a file asks for no right to write it, but to change it should.
        rustix::fs::accessat(&place.parent, &place.file, rustix::fs::Access::WRITE_OK, AtFlags::EACCESS)
            .map_err(|error| missing_is_changed(io_fault(error.into())))?;
        let temp = Temp::create(self)?;
        temp.set_size(change.size)?;
        fill(&self.disk, Some(&base), &temp.file, change, cancelled)?;
        let rights = || keep_rights(&base, &temp.file);
        self.disk.step(Step::Inode(&temp.file), rights).map_err(io_fault)?;
        self.seal(&temp.file, change.commit)?;
        cancelled.check()?;
        let _turn = TurnGuard::take(self);
        self.check_version(&place, version)?;
        let file = temp.replace(&place)?;
        self.disk.sync_folder(&place.parent).map_err(io_fault)?;
        stat_of(&file)
    }

    /// The file, if it is at `version`.
    pub(super) fn base_file(
        &self,
        name: &Path,
        version: &Version,
        access: Access,
        cancelled: &Cancelled,
    ) -> StoreResult<File> {
        let file = self.file(name, access).map_err(missing_is_changed)?;
        self.settle(name, Identity::of_file(&file)?.inode, cancelled)?;
        match Identity::of_file(&file)?.version() == *version {
            true => Ok(file),
            false => Err(StoreFault::Changed),
        }
    }

    /// Whether what is at `place` is at `version`, and no change of it is sure to take place already.
    pub(super) fn check_version(&self, place: &Place, version: &Version) -> StoreResult<()> {
        let found = place.parent.symlink_metadata(&place.file).map_err(|error| missing_is_changed(io_fault(error)))?;
        let found = Identity::of_metadata(&found);
        match found.version() == *version && !self.is_pending(found.inode)? {
            true => Ok(()),
            false => Err(StoreFault::Changed),
        }
    }

    /// Marks the content and makes it durable.
    fn seal(&self, file: &File, commit: CommitId) -> StoreResult<()> {
        mark(&self.disk, file, commit)?;
        self.disk.sync(file).map_err(io_fault)
    }
}

/// Gives the new file the old one's owner and mode, as far as the server's own rights reach.
fn keep_rights(old: &File, new: &File) -> io::Result<()> {
    let (old, fresh) = (old.metadata()?, new.metadata()?);
    let mut mode = old.permissions().mode() & 0o7777;
    if (old.uid(), old.gid()) != (fresh.uid(), fresh.gid()) {
        let (user, group) = (Uid::from_raw(old.uid()), Gid::from_raw(old.gid()));
        if rustix::fs::fchown(new, Some(user), Some(group)).is_err() {
            // Another owner's program must not run as this one.
            mode &= !SET_ID_BITS;
        }
    }
    new.set_permissions(std::fs::Permissions::from_mode(mode))
}

/// A file that a change is based on and that is gone has changed.
pub(super) fn missing_is_changed(fault: StoreFault) -> StoreFault {
    if matches!(fault, StoreFault::Missing) { StoreFault::Changed } else { fault }
}

/// There is no file in a folder that is none.
fn missing_folder(fault: StoreFault) -> StoreFault {
    if matches!(fault, StoreFault::BadName(_)) { StoreFault::Missing } else { fault }
}
