//! Changing a large file in place: d dirty bytes cost d bytes written twice, whatever the file's size.
//!
//! The bytes are first written beside, as a redo record, and synced. Once the record has its name and its
//! folder is synced, the change is sure to take place: now, or when a killed server's folder is next opened.
//! Then the bytes are written into the file, the file is synced, marked, synced again, and the record removed.
//!
//! Invariants: a change that has not got so far leaves no trace in the file; one that failed later is finished
//! by whoever looks at the file next. Whoever reads through this layout sees the old content or the new.
//!
//! What it cannot promise: another program that reads the file while it is written sees some of both.

use std::fs::File;
use std::num::NonZeroU64;
use std::path::Path;
use std::sync::Arc;

use cap_std::fs::Dir;
use rustix::fs::{Advice, Mode};

use super::copy::Cancelled;
use super::inode::{Identity, growth_fault, io_fault, stat_of};
use super::pending::{redo_folder, redo_name};
use super::redo::{RedoHead, birth, write_redo};
use super::root::{Access, Flight, Place, Root};
use super::temp::{Temp, TurnGuard};
use super::write::missing_is_changed;
use crate::units::{ByteRange, MAX_OFFSET};
use crate::vfs::compose::base_size;
use crate::vfs::fault::{StoreFault, StoreResult};
use crate::vfs::store::{Base, Patch, Stat, WriteBack};
use crate::vfs::version::Version;

/// The largest piece in which Linux caches a file.
const FOLIO_BYTES: u64 = 2 * 1024 * 1024;

/// Takes the flight out of the list of those under way.
struct FlightGuard<'a> {
    root: &'a Root,
    flight: Arc<Flight>,
}

impl<'a> FlightGuard<'a> {
    fn new(root: &'a Root, inode: u64, version: &Version, change: &WriteBack) -> Self {
        let (old, new) = (base_size(&change.base), change.size);
        let mut changes: Vec<ByteRange> = change.patches.iter().map(Patch::range).collect();
        if old != new {
            let from = old.min(new);
            changes.retain(|range| range.start() < from);
            changes.push(ByteRange::new(from.max(changes.last().map_or(0, |last| last.end())), MAX_OFFSET));
        }
        let flight = Arc::new(Flight { inode, base: version.clone(), changes });
        root.flights.lock().push(Arc::clone(&flight));
        Self { root, flight }
    }
}

impl Drop for FlightGuard<'_> {
    fn drop(&mut self) {
        self.root.flights.lock().retain(|flight| !Arc::ptr_eq(flight, &self.flight));
    }
}

impl Root {
    /// Makes the change, of a large file in place.
    pub(super) fn write_back(&self, name: &Path, mut change: WriteBack, cancelled: &Cancelled) -> StoreResult<Stat> {
        // The base has the same bytes as the clean ones, and the kernel copies them for less.
        change.patches.retain(|patch| patch.dirty);
        let base = change.base.clone();
        match base {
            Base::Missing => self.create(name, &change, cancelled),
            Base::At { version, size } if size.min(change.size) > self.rewrite_max => {
                self.change_in_place(name, &version, &change, cancelled)
            }
            Base::At { version, .. } => self.replace(name, &version, &change, cancelled),
        }
    }

    fn change_in_place(
        &self,
        name: &Path,
        version: &Version,
        change: &WriteBack,
        cancelled: &Cancelled,
    ) -> StoreResult<Stat> {
        let file = self.base_file(name, version, Access::Write, cancelled)?;
        let inode = Identity::of_file(&file)?.inode;
        let (old_size, size, commit) = (base_size(&change.base), change.size, change.commit);
        let head = RedoHead { inode, born: birth(&file)?, old_size, size, commit, name: name.to_owned() };
        // The bytes may be for fewer eyes than the folder.
        let record = Temp::create_with(self, Mode::RUSR | Mode::WUSR)?;
        write_redo(&self.disk, &record.file, &head, &change.patches, cancelled)?;
        self.disk.sync(&record.file).map_err(io_fault)?;
        check_room(&record, change)?;
        let folder = redo_folder(self)?;
        let parent = Dir::from_std_file(folder.try_clone().map_err(io_fault)?.into());
        let place = self.place(name).map_err(missing_is_changed)?;
        cancelled.check()?;
        let (_locked, flight) = {
            let _turn = TurnGuard::take(self);
            self.check_version(&place, version)?;
            let locked = record.place_new(&Place { parent, file: redo_name(inode) })?;
            (locked, FlightGuard::new(self, inode, version, change))
        };
        // From here on it takes place, whatever becomes of this call or this process.
        self.disk.sync_folder(&folder).map_err(io_fault)?;
        self.apply(&file, &head, |file| {
            let mut forgotten = 0;
            for patch in &change.patches {
                forgotten = forget(file, patch.range(), forgotten);
                self.disk.write(file, &patch.data, patch.offset).map_err(|error| growth_fault(error, size))?;
            }
            Ok(())
        })?;
        // Its last reader must not take somebody else's next change for this one.
        drop(flight);
        self.drop_record(inode)?;
        stat_of(&file)
    }
}

/// Has the kernel forget what it has cached around the range, behind `from`; answers up to where. It caches in
/// pieces of up to [`FOLIO_BYTES`] and counts the whole piece as unsynced when a byte of it is written: 4 KiB
/// would weigh 2 MiB in what it allows to be unsynced, and in what a process is said to have written.
fn forget(file: &File, range: ByteRange, from: u64) -> u64 {
    let start = (range.start() / FOLIO_BYTES * FOLIO_BYTES).max(from);
    let end = range.end().next_multiple_of(FOLIO_BYTES);
    if let Some(length) = end.checked_sub(start).and_then(NonZeroU64::new) {
        // Advice: without it the change is the same.
        let _ = rustix::fs::fadvise(file, start, Some(length), Advice::DontNeed);
    }
    end.max(from)
}

/// A change that is sure to take place must have the room for it: what it writes may lie in holes.
fn check_room(record: &Temp<'_>, change: &WriteBack) -> StoreResult<()> {
    let Ok(system) = rustix::fs::fstatvfs(&record.file) else { return Ok(()) };
    let free = system.f_bavail.saturating_mul(system.f_frsize);
    let wanted: u64 = change.patches.iter().map(|patch| patch.range().len()).sum();
    // A file system that counts no blocks says 0 of 0.
    if system.f_blocks == 0 || free >= wanted {
        return Ok(());
    }
    let error = std::io::Error::from(rustix::io::Errno::NOSPC);
    Err(StoreFault::Full(Box::new(error)))
}
