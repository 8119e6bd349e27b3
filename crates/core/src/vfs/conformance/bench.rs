//! [`Bench`]: a store on the bench, and the steps that every promise's test is made of.

use bytes::Bytes;

use crate::units::ByteRange;
use crate::vfs::fault::StoreFault;
use crate::vfs::store::{Base, CommitId, FileStore, Patch, Stat, WriteBack};

/// A store, and a second handle of the same place that plays the outside writer.
#[derive(Debug)]
pub struct Bench<'a> {
    /// The store that is held against its promises.
    pub store: &'a dyn FileStore,
    /// The outside writer's handle.
    pub other: &'a dyn FileStore,
    prefix: String,
}

impl<'a> Bench<'a> {
    /// The suite works under names that begin with `prefix` (empty, or with a `/` at its end).
    pub fn new(store: &'a dyn FileStore, other: &'a dyn FileStore, prefix: &str) -> Self {
        Self { store, other, prefix: prefix.to_owned() }
    }

    /// A name that nobody else uses.
    pub(super) fn name(&self, what: &str) -> String {
        format!("{}{}/{what}", self.prefix, uuid::Uuid::new_v4())
    }

    /// Makes a file of these bytes.
    pub(super) async fn make(&self, name: &str, content: &[u8]) -> Stat {
        let made = self.store.write_back(name, whole(Base::Missing, content)).await;
        let stat = made.unwrap_or_else(|fault| panic!("{name} is made: {fault:?}"));
        assert_eq!(stat.size, content.len() as u64, "the size of {name}");
        stat
    }

    /// Replaces a file's whole content by the outside writer.
    pub(super) async fn intrude(&self, name: &str, content: &[u8]) -> Stat {
        let now = self.other.stat(name).await.expect("the outside writer sees the file");
        let changed = self.other.write_back(name, whole(at(&now), content)).await;
        changed.expect("the outside writer changes the file")
    }

    /// The whole content at the present version.
    pub(super) async fn content(&self, name: &str) -> Vec<u8> {
        let stat = self.store.stat(name).await.unwrap_or_else(|fault| panic!("{name} is there: {fault:?}"));
        self.content_at(name, &stat).await
    }

    pub(super) async fn content_at(&self, name: &str, stat: &Stat) -> Vec<u8> {
        let range = ByteRange::new(0, stat.size);
        let blocks = self.store.read(name, &stat.version, range).await;
        blocks.unwrap_or_else(|fault| panic!("{name} is read: {fault:?}")).concat()
    }

    pub(super) async fn remove(&self, name: &str) {
        self.store.remove(name).await.unwrap_or_else(|fault| panic!("{name} is removed: {fault:?}"));
    }
}

/// The base that a stat tells of.
pub(super) fn at(stat: &Stat) -> Base {
    Base::At { version: stat.version.clone(), size: stat.size }
}

/// A change to exactly these bytes.
pub(super) fn whole(base: Base, content: &[u8]) -> WriteBack {
    let patches = match content {
        [] => Vec::new(),
        content => vec![dirty(0, content)],
    };
    WriteBack { base, size: content.len() as u64, patches, commit: CommitId::random() }
}

pub(super) fn dirty(offset: u64, data: &[u8]) -> Patch {
    Patch { offset, data: Bytes::copy_from_slice(data), dirty: true }
}

/// Bytes that differ from place to place and from seed to seed.
pub(super) fn pattern(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|n| (n % 251).to_le_bytes()[0].wrapping_add(seed)).collect()
}

pub(super) fn is_missing(fault: &StoreFault) -> bool {
    matches!(fault, StoreFault::Missing)
}

pub(super) fn is_changed(fault: &StoreFault) -> bool {
    matches!(fault, StoreFault::Changed)
}
