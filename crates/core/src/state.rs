//! [`StateDir`]: what must outlive the process. For now: the lock that keeps a second server out, the
//! high-water mark of mapping ids, and the unsynced pages that were kept aside.

use std::path::{Path, PathBuf};

use crate::error::Result;

/// An opened state directory, locked against other servers as long as it lives.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
}

impl StateDir {
    /// Opens the directory, making it if it is missing.
    ///
    /// # Errors
    /// A sentence that says what to do: it is in use by another server, not writable, or not ours.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self { path: path.to_owned() })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }
}
