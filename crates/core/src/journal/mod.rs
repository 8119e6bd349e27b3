//! The journal: a redo log of opaque records, in segments of fixed size in one folder.
//!
//! Invariants:
//! - records are replayed in the order they were appended, each whole and unchanged, without a gap;
//! - what was accepted can be written: there is a spare segment, or the accepted fits into the current one;
//! - what was acknowledged is replayed after the failure that its [`Level`] names, or its loss is reported;
//! - a segment of an earlier run is never appended to, and goes only when a later checkpoint covers it.
//!
//! What records say, and what they come to, is the concern of `record` and `replay`; the rest does not know it. A
//! record may be replayed twice, and after a checkpoint that was cut off without the ones before it, so records have
//! to be facts that can be stated again.

pub mod record;
pub mod replay;
mod frame;
mod options;
mod disk;
mod folder;
#[cfg(any(test, feature = "test-support"))]
pub mod sim;
mod beginning;
mod scan;
#[cfg(feature = "test-support")]
pub mod forge;
mod segments;
mod waiters;
mod counts;
mod asked;
mod queue;
mod writer;
mod open;
mod handle;
mod checkpoint;

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod damage_tests;
#[cfg(test)]
mod reuse_tests;
#[cfg(test)]
mod tests;

pub use checkpoint::Mark;
pub use counts::JournalUse;
pub use disk::{Disk, DiskFile};
pub use folder::Folder;
pub use handle::Journal;
pub use open::{Found, Opened};
pub use options::{Level, Lsn, Options};
pub use queue::Room;
pub use scan::Damage;
