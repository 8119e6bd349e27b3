//! [`Disk`]: what the journal asks of the folder its segments lie in. All calls block.

use std::fmt;
use std::io;

/// A folder of files. What it says was kept or removed is so after power loss too.
pub trait Disk: fmt::Debug + Send + Sync + 'static {
    /// How a person finds the file `name`.
    fn shown(&self, name: &str) -> String;

    /// The names of all files in it.
    ///
    /// # Errors
    /// The folder cannot be read.
    fn list(&self) -> io::Result<Vec<String>>;

    /// The first bytes of a file, at most `at_most`.
    ///
    /// # Errors
    /// It cannot be read.
    fn read(&self, name: &str, at_most: u64) -> io::Result<Vec<u8>>;

    /// Makes a file of `bytes` bytes that begins with `head` and is zeros otherwise, or replaces one. Writing
    /// into it cannot meet a full disk later, as far as the file system can promise that. The file, its name
    /// included, survives power loss once it was synced. If it fails, what there is of the file is removed.
    ///
    /// # Errors
    /// [`io::ErrorKind::StorageFull`] or [`io::ErrorKind::QuotaExceeded`] if there is not enough space.
    fn create(&self, name: &str, bytes: u64, head: &[u8]) -> io::Result<Box<dyn DiskFile>>;

    /// Has the file `name` begin with `head` and be called `new`; the rest of its bytes stay. All of that survives
    /// power loss once the file was synced; until then it may have either name, and either beginning under both.
    ///
    /// # Errors
    /// The same may have happened.
    fn reuse(&self, name: &str, new: &str, head: &[u8]) -> io::Result<Box<dyn DiskFile>>;

    /// Has the present bytes of a file, and its name, survive power loss.
    ///
    /// # Errors
    /// They may not.
    fn sync(&self, name: &str) -> io::Result<()>;

    /// Keeps the present content of the file under a second name, too; fine if it is kept there already.
    ///
    /// # Errors
    /// It is not kept.
    fn keep(&self, name: &str, second: &str) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// It may still be there.
    fn remove(&self, name: &str) -> io::Result<()>;
}

/// A file that [`Disk::create`] or [`Disk::reuse`] made.
pub trait DiskFile: fmt::Debug + Send + 'static {
    /// Writes all of `bytes` at `offset`, which lie within the file.
    ///
    /// # Errors
    /// Any part of them may have been written.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Has everything written so far survive power loss, and the file's name.
    ///
    /// # Errors
    /// Any part of it may not. It must not be tried again: a system may forget what it could not write.
    fn sync(&self) -> io::Result<()>;
}
