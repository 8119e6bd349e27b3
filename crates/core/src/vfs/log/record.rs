//! What stands in the database: its keys, a file's record, a page's record. Pure, no I/O.
//!
//! | key | value |
//! |---|---|
//! | `n`, name | the file's [`FileRecord`], as JSON. Keys are in the order of names, so a list is a range scan |
//! | `p`, file id, page (big endian) | the number of the change that wrote it, then the page's bytes |
//! | `g`, file id | the name: pages of this file may be dead, and the sweep looks at them |
//!
//! Invariants: a file id is made anew whenever a file is made, so pages of a removed file never show in the next
//! of its name. A page record never holds bytes behind the end that its file had when it was written; what is
//! missing of it reads as zeros. A page is dead if a [`Cut`] behind its change covers it.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::units::{PAGE_LEN, PAGE_SIZE};
use crate::vfs::fault::{StoreFault, StoreResult};
use crate::vfs::store::{CommitId, Stat};
use crate::vfs::version::Version;

const NAME: u8 = b'n';
/// Behind all names.
pub(super) const NAMES_END: u8 = NAME + 1;
const PAGE: u8 = b'p';
const GARBAGE: u8 = b'g';
/// Bytes of the change's number in front of a page.
const TAG_LEN: usize = 8;

/// The key of a file's record.
pub(super) fn name_key(name: &str) -> Vec<u8> {
    [&[NAME], name.as_bytes()].concat()
}

/// The name in a key of a file's record.
pub(super) fn name_of(key: &[u8]) -> StoreResult<String> {
    match key {
        [NAME, name @ ..] => String::from_utf8(name.to_vec()).map_err(|_| corrupt("a name that is not UTF-8")),
        _ => Err(corrupt("a key out of order")),
    }
}

/// The key of one page of a file.
pub(super) fn page_key(id: Uuid, page: u64) -> Vec<u8> {
    [&[PAGE], id.as_bytes().as_slice(), &page.to_be_bytes()].concat()
}

/// The page in a page's key.
pub(super) fn page_of(key: &[u8]) -> StoreResult<u64> {
    match key.last_chunk() {
        Some(page) if key.len() == 1 + 16 + 8 => Ok(u64::from_be_bytes(*page)),
        Some(_) | None => Err(corrupt("a page's key of another length")),
    }
}

/// The key that tells the sweep of a file.
pub(super) fn garbage_key(id: Uuid) -> Vec<u8> {
    [&[GARBAGE], id.as_bytes().as_slice()].concat()
}

/// The keys of all files that the sweep has to look at.
pub(super) fn garbage_keys() -> std::ops::Range<Vec<u8>> {
    vec![GARBAGE]..vec![GARBAGE + 1]
}

/// The file in a key of [`garbage_keys`].
pub(super) fn garbage_of(key: &[u8]) -> StoreResult<Uuid> {
    let id = key.get(1..).and_then(|id| Uuid::from_slice(id).ok());
    id.ok_or_else(|| corrupt("a file id of another length"))
}

/// A page record: the change that writes it, and the page's bytes, at most a page.
pub(super) fn page_value(change: u64, bytes: &[u8]) -> Vec<u8> {
    [change.to_le_bytes().as_slice(), bytes].concat()
}

/// A page record taken apart.
pub(super) fn page_parts(value: &Bytes) -> StoreResult<(u64, Bytes)> {
    match value.first_chunk::<TAG_LEN>() {
        Some(change) if value.len() <= TAG_LEN + PAGE_LEN => Ok((u64::from_le_bytes(*change), value.slice(TAG_LEN..))),
        Some(_) | None => Err(corrupt("a page of another length")),
    }
}

/// The pages of a file of `size` bytes.
pub(super) fn pages_of(size: u64) -> u64 {
    size.div_ceil(PAGE_SIZE)
}

/// Pages from `page` on that were written before the change are dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Cut {
    pub(super) page: u64,
    pub(super) change: u64,
}

/// A file as the database knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileRecord {
    pub(super) id: Uuid,
    /// The number of its last change, from 1.
    pub(super) change: u64,
    pub(super) size: u64,
    /// The attempt that made the last change.
    commit: Uuid,
    /// Of the last change, in microseconds since 1970.
    modified: u64,
    /// In the order of their changes, which is that of their pages too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) cuts: Vec<Cut>,
}

impl FileRecord {
    /// A file that is made by its first change.
    pub(super) fn made(size: u64, commit: CommitId) -> Self {
        Self { id: Uuid::new_v4(), change: 1, size, commit: commit.0, modified: now(), cuts: Vec::new() }
    }

    /// The same file after its next change.
    pub(super) fn changed(&self, size: u64, commit: CommitId) -> Self {
        let (change, cuts) = (self.change + 1, self.cuts.clone());
        Self { id: self.id, change, size, commit: commit.0, modified: now(), cuts }
    }

    /// Kills the pages from `page` on that earlier changes wrote. Cuts that this one covers are dropped.
    pub(super) fn cut_from(&mut self, page: u64) {
        self.cuts.retain(|cut| cut.page < page);
        self.cuts.push(Cut { page, change: self.change });
    }

    /// Whether what `change` wrote to `page` is still there.
    pub(super) fn is_live(&self, page: u64, change: u64) -> bool {
        !self.cuts.iter().any(|cut| page >= cut.page && change < cut.change)
    }

    /// The attempt's id makes it unique also where a change was never acknowledged and its number came again.
    pub(super) fn version(&self) -> Version {
        Version::new(format!("{}-{}", self.change, self.commit.simple()))
    }

    pub(super) fn stat(&self) -> Stat {
        let modified = SystemTime::UNIX_EPOCH.checked_add(Duration::from_micros(self.modified));
        let modified = modified.unwrap_or(SystemTime::UNIX_EPOCH);
        Stat { size: self.size, version: self.version(), modified, commit: Some(CommitId(self.commit)) }
    }

    pub(super) fn encode(&self) -> StoreResult<Vec<u8>> {
        serde_json::to_vec(self).map_err(|error| StoreFault::failed("a file's record cannot be written", error))
    }

    pub(super) fn decode(value: &[u8]) -> StoreResult<Self> {
        serde_json::from_slice(value).map_err(|error| corrupt(&format!("a file's record that cannot be read: {error}")))
    }
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

fn corrupt(what: &str) -> StoreFault {
    StoreFault::Corrupt(format!("the database holds {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_kills_what_was_written_before_it_and_nothing_else() {
        let mut file = FileRecord::made(100, CommitId::random());
        file.change = 5;
        file.cut_from(10);
        assert!(file.is_live(9, 1) && !file.is_live(10, 4) && file.is_live(10, 5) && file.is_live(11, 6));
        file.change = 7;
        file.cut_from(20);
        assert_eq!(file.cuts.len(), 2);
        assert!(!file.is_live(15, 4) && file.is_live(15, 5) && !file.is_live(20, 6));
        file.change = 8;
        file.cut_from(3);
        assert_eq!(file.cuts, [Cut { page: 3, change: 8 }], "it covers the others");
    }

    #[test]
    fn what_is_written_is_read_back_and_what_is_not_ours_is_refused() {
        let mut file = FileRecord::made(7, CommitId::random());
        file.cut_from(2);
        let text = file.encode().expect("it is written");
        assert_eq!(FileRecord::decode(&text).expect("it is read"), file);
        assert!(FileRecord::decode(b"{}").is_err() && FileRecord::decode(&text[1..]).is_err());
        let page = Bytes::from(page_value(9, b"bytes"));
        assert_eq!(page_parts(&page).expect("a page"), (9, Bytes::from_static(b"bytes")));
        assert!(page_parts(&page.slice(..7)).is_err() && page_parts(&vec![0; PAGE_LEN + 9].into()).is_err());
        assert_eq!(page_of(&page_key(file.id, u64::MAX)).expect("a page"), u64::MAX);
        assert_eq!(garbage_of(&garbage_key(file.id)).expect("a file"), file.id);
        assert!(page_of(b"p").is_err() && garbage_of(b"gg").is_err() && name_of(b"x").is_err());
    }
}
