//! [`StateDir`]: what must outlive the server's process. The lock that keeps a second server out, the
//! high-water mark of mapping ids, and the place of unsynced pages that were kept aside.
//!
//! Files: `lock` (held with flock(2)), `format` (whose directory this is), `next-mmap-id`, `conflicts/`.

use std::fs::{File, TryLockError};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use crate::aside::Aside;
use crate::caller::MmapId;
use crate::error::{Errno, Error, Result};

/// What `format` says.
const FORMAT: &str = "mmapd state 1\n";
/// Ids that are reserved at once: a crash skips at most this many, a reservation costs one fsync.
const ID_BATCH: u64 = 1 << 16;

/// An opened state directory, locked against other servers as long as it lives; or none, for embedders whose
/// mappings need not outlive them.
#[derive(Debug)]
pub struct StateDir {
    folder: Option<PathBuf>,
    ids: Mutex<Ids>,
    _lock: Option<File>,
}

#[derive(Debug)]
struct Ids {
    next: u64,
    reserved_to: u64,
}

impl StateDir {
    /// Opens the directory, making it if it is missing.
    ///
    /// # Errors
    /// A sentence that says what to do: it is in use by another server, not writable, or not ours. Nothing is
    /// changed then.
    pub fn open(folder: &Path) -> Result<Self> {
        let shown = folder.display();
        let refuse = |source: std::io::Error| unusable(folder, source);
        std::fs::create_dir_all(folder).map_err(refuse)?;
        let lock = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(folder.join("lock"))
            .map_err(refuse)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::new(
                    Errno::Busy,
                    format!(
                        "state directory {shown} is in use by another server: stop that one, or name another directory"
                    ),
                )
                .with("state_dir", shown));
            }
            Err(TryLockError::Error(source)) => return Err(refuse(source)),
        }
        check_format(folder, refuse)?;
        let next = read_next_id(folder)?;
        let state = Self {
            folder: Some(folder.to_owned()),
            ids: Mutex::new(Ids { next, reserved_to: next }),
            _lock: Some(lock),
        };
        state.reserve(&mut state.ids.lock())?;
        Ok(state)
    }

    /// No directory: ids begin at 1, conflicts are kept in memory.
    pub fn none() -> Self {
        Self { folder: None, ids: Mutex::new(Ids { next: 1, reserved_to: u64::MAX }), _lock: None }
    }

    /// Never answers `id` or one before it any more: it is a mapping's that came back.
    pub fn pass(&self, id: MmapId) {
        let mut ids = self.ids.lock();
        ids.next = ids.next.max(id.0.saturating_add(1));
    }

    /// The directory, if there is one.
    pub fn path(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// Where conflicts go.
    pub fn aside(&self) -> Aside {
        self.folder.as_ref().map_or_else(Aside::in_memory, |folder| Aside::in_folder(folder.join("conflicts")))
    }

    /// An id that was never used. Once in 65,536 calls it writes to the disk.
    ///
    /// # Errors
    /// EIO if the directory cannot take the reservation.
    pub fn new_id(&self) -> Result<MmapId> {
        let mut ids = self.ids.lock();
        if ids.next >= ids.reserved_to {
            self.reserve(&mut ids)?;
        }
        let id = ids.next;
        ids.next += 1;
        Ok(MmapId(id))
    }

    /// Gives unused reserved ids back: for a clean end.
    ///
    /// # Errors
    /// EIO; then the next start skips them.
    pub fn close(&self) -> Result<()> {
        let mut ids = self.ids.lock();
        let next = ids.next;
        self.write_next(next)?;
        ids.reserved_to = next;
        Ok(())
    }

    fn reserve(&self, ids: &mut Ids) -> Result<()> {
        let reserved_to = ids.next.saturating_add(ID_BATCH);
        self.write_next(reserved_to)?;
        ids.reserved_to = reserved_to;
        Ok(())
    }

    fn write_next(&self, next: u64) -> Result<()> {
        let Some(folder) = &self.folder else { return Ok(()) };
        write_whole(&folder.join("next-mmap-id"), format!("{next}\n").as_bytes())
            .map_err(|source| unusable(folder, source))
    }
}

fn unusable(folder: &Path, source: std::io::Error) -> Error {
    Error::new(Errno::Io, format!("state directory {}: {}", folder.display(), what_failed(&source)))
        .with("state_dir", folder.display())
        .caused_by(source)
}

fn what_failed(source: &std::io::Error) -> String {
    use std::io::ErrorKind;
    let is = |kinds: &[ErrorKind]| kinds.contains(&source.kind());
    if is(&[ErrorKind::PermissionDenied, ErrorKind::ReadOnlyFilesystem]) {
        "it cannot be written: give this user write access, or name another with --state-dir".to_owned()
    } else if is(&[ErrorKind::StorageFull, ErrorKind::QuotaExceeded]) {
        "its disk is full: free some space".to_owned()
    } else if is(&[ErrorKind::NotADirectory, ErrorKind::AlreadyExists]) {
        "it is not a directory: name another with --state-dir".to_owned()
    } else {
        source.to_string()
    }
}

fn check_format(folder: &Path, refuse: impl FnOnce(std::io::Error) -> Error) -> Result<()> {
    let path = folder.join("format");
    match std::fs::read_to_string(&path) {
        Ok(text) if text == FORMAT => Ok(()),
        Ok(text) => Err(Error::new(
            Errno::NotSup,
            format!(
                "state directory {} has the format {:?}, which this version does not know: use the version that made \
                 it, or name another directory",
                folder.display(),
                text.trim().chars().take(40).collect::<String>()
            ),
        )
        .with("state_dir", folder.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            write_whole(&path, FORMAT.as_bytes()).map_err(refuse)
        }
        Err(error) => Err(refuse(error)),
    }
}

fn read_next_id(folder: &Path) -> Result<u64> {
    let path = folder.join("next-mmap-id");
    let damaged = |what: String| {
        Error::new(
            Errno::UClean,
            format!(
                "{} is damaged ({what}): restore it, or write a number into it that no mapping had",
                path.display()
            ),
        )
        .with("path", path.display())
    };
    match std::fs::read_to_string(&path) {
        Ok(text) => match text.trim().parse::<u64>() {
            Ok(next) if next > 0 && next < u64::MAX - ID_BATCH => Ok(next),
            Ok(next) => Err(damaged(format!("it says {next}"))),
            Err(error) => Err(damaged(error.to_string())),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(1),
        Err(error) => Err(damaged(error.to_string())),
    }
}

/// Puts a small file in place as a whole: a crash leaves the old one or the new.
fn write_whole(path: &Path, data: &[u8]) -> std::io::Result<()> {
    let beside = path.with_extension("new");
    let mut file = File::create(&beside)?;
    file.write_all(data)?;
    file.sync_all()?;
    std::fs::rename(&beside, path)?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_never_used_twice_across_a_crash_or_a_clean_end() {
        let folder = tempfile::tempdir().unwrap();
        let crashed = StateDir::open(folder.path()).unwrap();
        assert_eq!((crashed.new_id().unwrap(), crashed.new_id().unwrap()), (MmapId(1), MmapId(2)));
        drop(crashed);
        let clean = StateDir::open(folder.path()).unwrap();
        let id = clean.new_id().unwrap();
        assert!(id > MmapId(2));
        clean.close().unwrap();
        drop(clean);
        assert_eq!(StateDir::open(folder.path()).unwrap().new_id().unwrap(), MmapId(id.0 + 1));
    }

    #[test]
    fn an_id_drawn_after_a_clean_end_is_not_used_again_either() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path()).unwrap();
        state.close().unwrap();
        let late = state.new_id().unwrap();
        drop(state);
        assert!(StateDir::open(folder.path()).unwrap().new_id().unwrap() > late);
    }

    #[test]
    fn a_second_server_is_kept_out() {
        let folder = tempfile::tempdir().unwrap();
        let _first = StateDir::open(folder.path()).unwrap();
        assert_eq!(StateDir::open(folder.path()).unwrap_err().errno(), Errno::Busy);
    }

    #[test]
    fn a_directory_of_another_format_or_a_damaged_one_is_refused_untouched() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("format"), "mmapd state 99\n").unwrap();
        assert_eq!(StateDir::open(folder.path()).unwrap_err().errno(), Errno::NotSup);
        std::fs::write(folder.path().join("format"), FORMAT).unwrap();
        std::fs::write(folder.path().join("next-mmap-id"), "seven").unwrap();
        assert_eq!(StateDir::open(folder.path()).unwrap_err().errno(), Errno::UClean);
        assert_eq!(std::fs::read(folder.path().join("next-mmap-id")).unwrap(), b"seven");
    }
}
