//! Where files lie: mounts bind a path prefix to a store, and a [`FileStore`] is one layout of files in it.
//!
//! In dependency order. Everything above knows a store only as a [`FileStore`].

mod fault;
mod store;

pub use fault::{StoreFault, StoreResult, changed_in_store, no_such_file};
pub use store::{Base, CommitId, FileStore, Listed, Patch, Stat, Traits, Version, Writability, WriteBack};

/// All mounts: the longest prefix of a path wins.
#[derive(Debug)]
pub struct Vfs {}
