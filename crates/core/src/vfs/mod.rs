//! Where files lie: mounts bind a path prefix to a store, and a [`FileStore`] is one layout of files in it.
//!
//! In dependency order. Everything above knows a store only as a [`FileStore`].

mod fault;
mod store;

pub use fault::{StoreFault, StoreResult, changed_in_store, no_such_file};
pub use store::{Base, CommitId, FileStore, Listed, Patch, Stat, Traits, Version, Writability, WriteBack};

use std::sync::Arc;

use crate::error::Result;
use crate::limits::Limits;
use crate::path::FilePath;

/// A mount as asked for: `PREFIX=URL`, the URL's query holding the options.
#[derive(Clone, Debug)]
pub struct MountSpec {}

impl MountSpec {
    /// Reads `PREFIX=URL`.
    pub fn parse(_text: &str) -> Result<Self> {
        Ok(Self {})
    }
}

/// A path prefix bound to a store.
#[derive(Debug)]
pub struct Mount {}

impl Mount {
    /// A mount of a store that is at hand, writable without a probe: for embedders and tests.
    pub fn with_store(_prefix: &str, _store: Arc<dyn FileStore>) -> Result<Self> {
        Ok(Self {})
    }
    /// Its prefix.
    pub fn prefix(&self) -> &str {
        "/"
    }
    /// Where it lies, without secrets.
    pub fn url(&self) -> &str {
        ""
    }
    /// Its store.
    pub fn store(&self) -> &Arc<dyn FileStore> {
        unreachable!()
    }
    /// EROFS on a read-only mount or one whose store is refused for writing; probes the store if it was not yet.
    pub async fn require_writable(&self) -> Result<()> {
        Ok(())
    }
    /// Asks the store for a sign of life, and probes it if it was not yet.
    pub async fn check(&self) -> Result<()> {
        Ok(())
    }
}

/// Where a path lies.
#[derive(Clone, Debug)]
pub struct Location {
    /// The mount.
    pub mount: Arc<Mount>,
    /// The file's name in the mount's store.
    pub name: String,
}

/// All mounts: the longest prefix of a path wins.
#[derive(Debug)]
pub struct Vfs {}

impl Vfs {
    /// Opens each mount.
    pub fn open(_specs: &[MountSpec], _limits: &Limits) -> Result<Self> {
        Ok(Self {})
    }
    /// Of mounts that are at hand.
    pub fn new(_mounts: Vec<Mount>) -> Result<Self> {
        Ok(Self {})
    }
    /// Where `path` lies.
    pub fn locate(&self, _path: &FilePath) -> Result<Location> {
        unreachable!()
    }
    /// The mounts, longest prefix first.
    pub fn mounts(&self) -> &[Arc<Mount>] {
        &[]
    }
    /// Files of all mounts whose paths start with `prefix` (as text; empty: all) and are greater than `after`,
    /// in the order of their paths, at most `limit`. A file that a longer mount's prefix covers is not shown.
    pub async fn list(&self, _prefix: &str, _after: Option<&str>, _limit: usize) -> Result<Vec<(FilePath, Stat)>> {
        Ok(Vec::new())
    }
}
