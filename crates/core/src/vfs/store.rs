//! [`FileStore`]: what the core asks of a place that holds files, whatever their layout there.
//!
//! Invariants that each layout keeps, and the conformance suite checks:
//! - a reader of the store sees the old content of a file or the new, never a mixture;
//! - a change is made only if the file is still at the version that the change is based on;
//! - an answer of [`FileStore::read`] holds bytes of exactly the version asked for;
//! - each call ends within its layout's time limit, with an error if the store does not answer.
//!
//! A store knows nothing of mappings, caches or dirty pages.

use std::fmt;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;

use super::fault::StoreResult;
use super::version::Version;
use crate::units::ByteRange;

/// The mark of one attempt to change a file. A store that can keeps it beside the content, so that an
/// attempt whose answer was lost is not taken for somebody else's change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CommitId(pub uuid::Uuid);

impl CommitId {
    /// A new one.
    pub fn random() -> Self {
        Self(uuid::Uuid::new_v4())
    }
}

/// A file as the store knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Bytes.
    pub size: u64,
    /// Of the content.
    pub version: Version,
    /// When the content last changed.
    pub modified: SystemTime,
    /// The attempt that made this content, where the store keeps it.
    pub commit: Option<CommitId>,
}

/// A file in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name in the store, without a leading `/`.
    pub name: String,
    /// What the store knows of it; `commit` is not filled in.
    pub stat: Stat,
}

/// What a change starts from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Base {
    /// The file is missing and is to be made: [`StoreFault::Exists`](super::StoreFault::Exists) if it is there.
    Missing,
    /// The file is at this version and has this size: [`StoreFault::Changed`](super::StoreFault::Changed) if not.
    At {
        /// The version.
        version: Version,
        /// Its bytes.
        size: u64,
    },
}

/// Bytes whose content at the end of a change is known here.
#[derive(Clone, Debug)]
pub struct Patch {
    /// First byte in the file.
    pub offset: u64,
    /// The bytes.
    pub data: Bytes,
    /// False: the base has the same bytes, and `data` only saves the store from reading them.
    pub dirty: bool,
}

impl Patch {
    /// The bytes it covers.
    pub fn range(&self) -> ByteRange {
        ByteRange::new(self.offset, self.offset + self.data.len() as u64)
    }
}

/// One change of a file's content and size, all or nothing.
#[derive(Clone, Debug)]
pub struct WriteBack {
    /// What it starts from.
    pub base: Base,
    /// The file's size afterwards. What lies behind the base's end and in no patch is zeros.
    pub size: u64,
    /// In order, without overlaps, none beyond `size`.
    pub patches: Vec<Patch>,
    /// The attempt.
    pub commit: CommitId,
}

/// What a layout can do, known without asking the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traits {
    /// Largest file it can write, in bytes. Larger ones may be there to be read.
    pub max_file_size: u64,
    /// Up to this size a change rewrites the whole file, so that clean patches save it reads. 0: never.
    pub rewrites_up_to: u64,
}

/// Whether a store may be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Writability {
    /// It honours preconditions.
    Safe,
    /// It does not, for this reason: writing would overwrite others' changes silently.
    Unsafe(String),
}

/// A place that holds files. Names have no leading `/` and are validated paths otherwise.
///
/// Cancel safety: a dropped call may or may not have taken effect, but never in part.
#[async_trait]
pub trait FileStore: fmt::Debug + Send + Sync + 'static {
    /// What it can do.
    fn traits(&self) -> Traits;

    /// Whether the store can keep this name as it stands.
    ///
    /// # Errors
    /// [`StoreFault::BadName`](super::StoreFault::BadName).
    fn check_name(&self, name: &str) -> StoreResult<()>;

    /// The file as it is now.
    async fn stat(&self, name: &str) -> StoreResult<Stat>;

    /// The bytes `range` of the file at `version`: one buffer a block, each an allocation of its own, so
    /// that a cached block does not keep its neighbours in memory. `range` starts at a block's start and
    /// lies within the file; the last buffer ends where `range` ends.
    async fn read(&self, name: &str, version: &Version, range: ByteRange) -> StoreResult<Vec<Bytes>>;

    /// As [`FileStore::read`], each buffer handed to `land`, in order, as soon as it is known to be right: also where
    /// the call fails later.
    async fn read_each(
        &self,
        name: &str,
        version: &Version,
        range: ByteRange,
        land: &mut (dyn FnMut(Bytes) + Send),
    ) -> StoreResult<()> {
        self.read(name, version, range).await?.into_iter().for_each(land);
        Ok(())
    }

    /// Makes the change; durable when it answers.
    async fn write_back(&self, name: &str, change: WriteBack) -> StoreResult<Stat>;

    /// Files whose names start with `prefix` (as text) and are greater than `after`, in the order of their
    /// names compared as bytes, at most `limit`.
    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> StoreResult<Vec<Listed>>;

    /// Removes the file.
    async fn remove(&self, name: &str) -> StoreResult<()>;

    /// Finds out whether writing is safe, by writing an object whose name cannot be a file's and removing it.
    async fn probe(&self) -> StoreResult<Writability>;

    /// A cheap sign of life.
    async fn ping(&self) -> StoreResult<()>;

    /// Ends what runs in the background; nothing is asked of the store afterwards. What a write-back answered as
    /// durable is durable without it.
    async fn close(&self) -> StoreResult<()> {
        Ok(())
    }
}
