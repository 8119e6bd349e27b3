//! Where files lie: mounts bind a path prefix to a store, and a [`FileStore`] is one layout of files in it.
//!
//! In dependency order. Everything above knows a store only as a [`FileStore`].

mod version;
mod fault;
mod store;
mod counts;

#[cfg(any(test, feature = "test-support"))]
pub mod chaos;
#[cfg(any(test, feature = "test-support"))]
pub mod conformance;
mod bounded;
mod traced;
mod compose;
pub mod local;
pub mod object;
pub mod log;
mod spec;
mod partial;
mod backend;
mod mount;
mod table;

pub use bounded::BoundedStore;
pub(crate) use bounded::WRITE_BACK_BYTES_MAX;
pub use counts::{Outcome, StoreCall, StoreCalls, StoreCounts};
pub use fault::{StoreFault, StoreResult, changed_in_store, no_such_file};
pub use mount::Mount;
pub use spec::MountSpec;
pub use store::{Base, CommitId, FileStore, Listed, Patch, Stat, Traits, Writability, WriteBack};
pub use table::{Location, Vfs};
pub use version::Version;
