//! Changing files: written beside, synced, renamed; a new size alone is set in place.
//!
//! Invariants: when a change has answered, it survives power loss (file and folder are synced); a reader sees
//! the old content or the new. Changes by servers, this one and others on the same folder, never overwrite
//! each other: from the last version check until it took effect each has its turn.
//!
//! What it cannot promise: another program that changes the file between the last version check and the
//! rename (some 10 µs) is overwritten, and one that has the file open keeps the old one. A file with several
//! hard links is parted from the others by its first change.

use std::fs::File;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{AtFlags, Gid, Uid};

use super::copy::{Cancelled, fill};
use super::inode::{Identity, growth_fault, io_fault, mark, stat_of};
use super::root::{Access, Place, Root, check_regular, sync_folder};
use super::temp::{Temp, TurnGuard};
use crate::vfs::fault::{StoreFault, StoreResult};
use crate::vfs::store::{Base, CommitId, Stat, WriteBack};
use crate::vfs::version::Version;

/// The bits of a mode that run a program as its owner.
const SET_ID_BITS: u32 = 0o6000;

impl Root {
    /// Makes the change.
    pub(super) fn write_back(&self, name: &Path, mut change: WriteBack, cancelled: &Cancelled) -> StoreResult<Stat> {
        // The base has the same bytes as the clean ones, and the kernel copies them for less.
        change.patches.retain(|patch| patch.dirty);
        let base = change.base.clone();
        match base {
            Base::Missing => self.create(name, &change, cancelled),
            Base::At { version, .. } if change.patches.is_empty() => self.resize(name, &version, &change),
            Base::At { version, .. } => self.replace(name, &version, &change, cancelled),
        }
    }

    /// Removes the file; a link is removed itself. Folders that become empty stay.
    pub(super) fn remove(&self, name: &Path) -> StoreResult<()> {
        let place = self.split(name).map_err(missing_folder)?;
        let found = place.parent.symlink_metadata(&place.file).map_err(|error| self.name_fault(name, error))?;
        if !found.is_symlink() {
            check_regular(&found)?;
        }
        let _turn = TurnGuard::take(self);
        place.parent.remove_file(&place.file).map_err(io_fault)?;
        sync_folder(&place.parent)
    }

    fn create(&self, name: &Path, change: &WriteBack, cancelled: &Cancelled) -> StoreResult<Stat> {
        let place = self.split_or_make(name)?;
        if let Ok(found) = place.parent.symlink_metadata(&place.file) {
            if found.is_dir() {
                check_regular(&found)?;
            }
            return Err(StoreFault::Exists);
        }
        let temp = Temp::create(self)?;
        temp.set_size(change.size)?;
        fill(None, &temp.file, change, cancelled)?;
        seal(&temp.file, change.commit)?;
        cancelled.check()?;
        let _turn = TurnGuard::take(self);
        let file = temp.place_new(&place)?;
        sync_folder(&place.parent)?;
        stat_of(&file)
    }

    fn replace(&self, name: &Path, version: &Version, change: &WriteBack, cancelled: &Cancelled) -> StoreResult<Stat> {
        let base = self.base_file(name, version, Access::Read)?;
        let place = self.place(name).map_err(missing_is_changed)?;
        // To rename over a file asks for no right to write it, but to change it should.
        rustix::fs::accessat(&place.parent, &place.file, rustix::fs::Access::WRITE_OK, AtFlags::EACCESS)
            .map_err(|error| missing_is_changed(io_fault(error.into())))?;
        let temp = Temp::create(self)?;
        temp.set_size(change.size)?;
        fill(Some(&base), &temp.file, change, cancelled)?;
        keep_rights(&base, &temp.file)?;
        seal(&temp.file, change.commit)?;
        cancelled.check()?;
        let _turn = TurnGuard::take(self);
        check_version(&place, version)?;
        let file = temp.replace(&place)?;
        sync_folder(&place.parent)?;
        stat_of(&file)
    }

    /// A new size and nothing else: no copy is needed, because the kernel changes a size in one step.
    fn resize(&self, name: &Path, version: &Version, change: &WriteBack) -> StoreResult<Stat> {
        let _turn = TurnGuard::take(self);
        let file = self.base_file(name, version, Access::Write)?;
        file.set_len(change.size).map_err(|error| growth_fault(error, change.size))?;
        seal(&file, change.commit)?;
        stat_of(&file)
    }

    fn base_file(&self, name: &Path, version: &Version, access: Access) -> StoreResult<File> {
        let file = self.file(name, access).map_err(missing_is_changed)?;
        match Identity::of_file(&file)?.version() == *version {
            true => Ok(file),
            false => Err(StoreFault::Changed),
        }
    }
}

fn check_version(place: &Place, version: &Version) -> StoreResult<()> {
    let found = place.parent.symlink_metadata(&place.file).map_err(|error| missing_is_changed(io_fault(error)))?;
    match Identity::of_metadata(&found).version() == *version {
        true => Ok(()),
        false => Err(StoreFault::Changed),
    }
}

/// Marks the content and makes it durable.
fn seal(file: &File, commit: CommitId) -> StoreResult<()> {
    mark(file, commit)?;
    file.sync_all().map_err(io_fault)
}

/// Gives the new file the old one's owner and mode, as far as the server's own rights reach.
fn keep_rights(old: &File, new: &File) -> StoreResult<()> {
    let (old, fresh) = (old.metadata().map_err(io_fault)?, new.metadata().map_err(io_fault)?);
    let mut mode = old.permissions().mode() & 0o7777;
    if (old.uid(), old.gid()) != (fresh.uid(), fresh.gid()) {
        let (user, group) = (Uid::from_raw(old.uid()), Gid::from_raw(old.gid()));
        if rustix::fs::fchown(new, Some(user), Some(group)).is_err() {
            // Another owner's program must not run as this one.
            mode &= !SET_ID_BITS;
        }
    }
    new.set_permissions(std::fs::Permissions::from_mode(mode)).map_err(io_fault)
}

/// A file that a change is based on and that is gone has changed.
fn missing_is_changed(fault: StoreFault) -> StoreFault {
    if matches!(fault, StoreFault::Missing) { StoreFault::Changed } else { fault }
}

/// There is no file in a folder that is none.
fn missing_folder(fault: StoreFault) -> StoreFault {
    if matches!(fault, StoreFault::BadName(_)) { StoreFault::Missing } else { fault }
}
