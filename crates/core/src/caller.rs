//! Who calls, and the names of what calls are about: [`Caller`], [`ProcessKey`], [`MmapId`].

use std::fmt;
use std::sync::Arc;

use tokio::time::Instant;

use crate::capability::{Capability, CapabilitySet};
use crate::error::{Error, Result};
use crate::path::FilePath;
use crate::scope::{PathScope, Rights};

/// A mapping's id: not 0, never reused in the life of the state directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MmapId(pub u64);

impl fmt::Display for MmapId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Who pids belong to. Callers that are not told apart share [`Subject::LOCAL`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Subject(Option<Arc<str>>);

impl Subject {
    /// Everybody, where identities are not checked.
    pub const LOCAL: Self = Self(None);

    /// A subject by its name, which is not empty.
    pub fn named(name: &str) -> Self {
        Self(Some(name.into()))
    }

    /// Its name, empty for [`Subject::LOCAL`].
    pub fn name(&self) -> &str {
        self.0.as_deref().unwrap_or_default()
    }
}

/// A process: a pid that belongs to a subject. The same pid of another subject is another process.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProcessKey {
    /// Whose.
    pub subject: Subject,
    /// Not 0.
    pub pid: u32,
}

/// Who makes a call, and what the caller may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Whose processes.
    pub subject: Subject,
    /// The calling process, if the call names one. Not 0.
    pub pid: Option<u32>,
    /// What it may do.
    pub capabilities: CapabilitySet,
    /// Which files it may do it to.
    pub paths: PathScope,
    /// When the caller stops waiting, if it says so. A writer that waits for memory learns why before that.
    pub deadline: Option<Instant>,
}

impl Caller {
    /// The calling process.
    ///
    /// # Errors
    /// [`Errno::Inval`](crate::error::Errno::Inval) if the call does not name one.
    pub fn process(&self) -> Result<ProcessKey> {
        match self.pid {
            Some(pid) => Ok(ProcessKey { subject: self.subject.clone(), pid }),
            None => Err(Error::invalid("mmap-pid", "the call does not say which process makes it: send mmap-pid")),
        }
    }

    /// # Errors
    /// [`Errno::Inval`](crate::error::Errno::Inval) if the call does not name its process.
    pub fn check_process(&self) -> Result<()> {
        match self.pid {
            Some(_) => Ok(()),
            None => self.process().map(drop),
        }
    }

    /// Whether it may look at this file. Every method that takes a path asks this or [`Caller::may_change`].
    ///
    /// # Errors
    /// [`Errno::Acces`](crate::error::Errno::Acces).
    pub fn may_look(&self, path: &FilePath) -> Result<()> {
        self.capabilities.require(Capability::FileRead)?;
        self.paths.require(path, Rights::Read)
    }

    /// Whether it may change this file.
    ///
    /// # Errors
    /// [`Errno::Acces`](crate::error::Errno::Acces).
    pub fn may_change(&self, path: &FilePath) -> Result<()> {
        self.capabilities.require(Capability::FileWrite)?;
        self.paths.require(path, Rights::ReadWrite)
    }

    /// Whether lists show it what is about this file.
    pub fn sees(&self, path: &str) -> bool {
        self.paths.covers(path, Rights::Read)
    }

    /// Whether `key` is the calling process.
    pub fn is(&self, key: &ProcessKey) -> bool {
        self.pid == Some(key.pid) && self.subject == key.subject
    }
}

/// An embedder's own process: a local pid that may do everything.
impl From<u32> for Caller {
    fn from(pid: u32) -> Self {
        Self {
            subject: Subject::LOCAL,
            pid: Some(pid),
            capabilities: CapabilitySet::ALL,
            paths: PathScope::ALL,
            deadline: None,
        }
    }
}

impl From<&Self> for Caller {
    fn from(caller: &Self) -> Self {
        caller.clone()
    }
}
