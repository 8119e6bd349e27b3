//! What an inode says of a file: its version, its stat, and the commit that made its content.
//!
//! A version is inode, mtime, ctime and size. The kernel's own times are as coarse as its clock tick (1 to 4 ms
//! before Linux 6.13), and a freed inode's number is soon used again, so each change of ours is given an mtime of
//! its own, to the nanosecond: no two of them look alike, and neither does what another program makes of one
//! within the tick. What a version cannot see: two changes by other programs within one tick that leave the size.
//!
//! The commit is kept in an extended attribute together with the mtime and the size that it belongs to, so
//! that a later change by another program, which leaves the attribute standing, is not taken for ours. A file
//! system without such attributes keeps no commits.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use super::disk::{Disk, Step};
use crate::vfs::fault::{StoreFault, StoreResult};
use crate::vfs::store::{CommitId, Stat};
use crate::vfs::version::Version;

const COMMIT_ATTRIBUTE: &str = "user.mmapd.commit";

/// What a version is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) inode: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
    pub(super) size: u64,
}

impl Identity {
    pub(super) fn of_file(file: &File) -> StoreResult<Self> {
        let metadata = file.metadata().map_err(io_fault)?;
        Ok(Self {
            inode: metadata.ino(),
            mtime: (metadata.mtime(), metadata.mtime_nsec()),
            ctime: (metadata.ctime(), metadata.ctime_nsec()),
            size: metadata.len(),
        })
    }

    pub(super) fn of_metadata(metadata: &cap_std::fs::Metadata) -> Self {
        use cap_std::fs::MetadataExt as _;
        Self {
            inode: metadata.ino(),
            mtime: (metadata.mtime(), metadata.mtime_nsec()),
            ctime: (metadata.ctime(), metadata.ctime_nsec()),
            size: metadata.len(),
        }
    }

    pub(super) fn version(&self) -> Version {
        let Self { inode, mtime, ctime, size } = self;
        Version::new(format!("{inode:x}-{}.{}-{}.{}-{size:x}", mtime.0, mtime.1, ctime.0, ctime.1))
    }

    /// Without a commit.
    pub(super) fn stat(&self) -> Stat {
        Stat { size: self.size, version: self.version(), modified: self.modified(), commit: None }
    }

    fn modified(&self) -> SystemTime {
        let nanos = Duration::from_nanos(u64::try_from(self.mtime.1).unwrap_or_default());
        let seconds = Duration::from_secs(self.mtime.0.unsigned_abs());
        let start = SystemTime::UNIX_EPOCH;
        let second = if self.mtime.0 < 0 { start.checked_sub(seconds) } else { start.checked_add(seconds) };
        second.and_then(|second| second.checked_add(nanos)).unwrap_or(start)
    }

    fn seal(&self, commit: CommitId) -> String {
        format!("{} {}.{} {}", commit.0, self.mtime.0, self.mtime.1, self.size)
    }
}

/// The file as it is now, with its commit.
pub(super) fn stat_of(file: &File) -> StoreResult<Stat> {
    let identity = Identity::of_file(file)?;
    let sealed = seal_of(file).filter(|(commit, text)| identity.seal(*commit) == *text);
    Ok(Stat { commit: sealed.map(|(commit, _)| commit), ..identity.stat() })
}

/// The last commit that marked the file, whatever other programs did to it since.
pub(super) fn last_commit(file: &File) -> Option<CommitId> {
    seal_of(file).map(|(commit, _)| commit)
}

fn seal_of(file: &File) -> Option<(CommitId, String)> {
    let mut value = [0_u8; 256];
    let length = rustix::fs::fgetxattr(file, COMMIT_ATTRIBUTE, &mut value[..]).ok()?;
    let text = std::str::from_utf8(value.get(..length)?).ok()?;
    let commit = uuid::Uuid::parse_str(text.split(' ').next()?).ok()?;
    Some((CommitId(commit), text.to_owned()))
}

/// Gives the file's present content an mtime of its own and marks it with its commit, where the file system can.
/// Nothing may be written to it afterwards.
pub(super) fn mark(disk: &Disk, file: &File, commit: CommitId) -> StoreResult<()> {
    // Only the file's owner may set its times; with the kernel's own it is as safe as anybody's change.
    let time = SystemTime::UNIX_EPOCH + unique_time();
    if let Err(error) = disk.step(Step::Inode(file), || file.set_modified(time)) {
        tracing::debug!(%error, "a change is not given a time of its own");
    }
    let seal = Identity::of_file(file)?.seal(commit);
    let set = || Ok(rustix::fs::fsetxattr(file, COMMIT_ATTRIBUTE, seal.as_bytes(), XattrFlags::empty())?);
    if let Err(error) = disk.step(Step::Inode(file), set) {
        tracing::debug!(%error, "the file system keeps no extended attributes, so a commit is not marked");
    }
    Ok(())
}

/// The time since the epoch, never the same twice in this process.
fn unique_time() -> Duration {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX - 1);
    let last = LAST.fetch_max(now, Ordering::Relaxed);
    if last < now {
        return Duration::from_nanos(now);
    }
    Duration::from_nanos(LAST.fetch_add(1, Ordering::Relaxed).saturating_add(1))
}

/// What the system's error means, where nothing more is known.
pub(super) fn io_fault(error: io::Error) -> StoreFault {
    match Errno::from_io_error(&error) {
        Some(Errno::NOENT) => StoreFault::Missing,
        Some(Errno::EXIST) => StoreFault::Exists,
        Some(Errno::NOSPC | Errno::DQUOT) => StoreFault::Full(Box::new(error)),
        Some(Errno::ACCESS | Errno::PERM | Errno::ROFS) => StoreFault::Denied(Box::new(error)),
        Some(Errno::NAMETOOLONG) => StoreFault::BadName("it is longer than the file system takes".into()),
        Some(Errno::LOOP) => StoreFault::BadName("it leads through too many symbolic links".into()),
        _ => StoreFault::Failed(format!("the file system failed: {error}"), Some(Box::new(error))),
    }
}

/// As [`io_fault`], for a call that makes a file of `size` bytes.
pub(super) fn growth_fault(error: io::Error, size: u64) -> StoreFault {
    match Errno::from_io_error(&error) {
        // The file system does not say how much it takes, only that this is more.
        Some(Errno::FBIG) => StoreFault::TooLarge { max: size.saturating_sub(1) },
        _ => io_fault(error),
    }
}
