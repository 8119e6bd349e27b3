//! [`Aside`]: unsynced pages that can neither be stored nor dropped are kept here, for a person to decide.
//!
//! - `folder`: the files of a conflict, and what is believed of them
//!
//! A conflict is two files in the state directory's `conflicts` folder: `ID.pages`, the pages one after the
//! other, and `ID.json`, which says what they are. Nothing here is ever overwritten; what is removed was asked to be.
//! Whoever changes a conflict holds its [`Claim`], so that of an apply and a drop of the same one exactly one wins.
//! There is no limit to their number but the disk's: a page that cannot be kept stays unsynced in memory.

mod folder;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::block::slice_padded;
use crate::error::{Errno, Error, Result};
use crate::units::{PAGE_LEN, PAGE_SIZE, PageIndex};

/// Files that are no conflict's and are told of in one list at most: the folder is not theirs.
const OTHERS_MAX: usize = 100;

/// What was kept aside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflict {
    /// Names it.
    pub id: String,
    /// The file.
    pub path: String,
    /// The version that the pages were written on.
    pub base_version: String,
    /// The file's size at that version.
    pub file_size: u64,
    /// Why they could not be stored.
    pub why: String,
    /// Seconds since 1970.
    pub kept_at: u64,
    /// Where the pages lie in the file, in bytes; 4096 bytes each, in the order of `ID.pages`.
    pub offsets: Vec<u64>,
}

impl Conflict {
    /// Bytes of its pages.
    pub fn bytes(&self) -> u64 {
        self.offsets.len() as u64 * PAGE_SIZE
    }

    /// Whether `id` can be a conflict's.
    pub fn is_id(id: &str) -> bool {
        folder::is_id(id)
    }

    /// Runs of neighbours among the pages `first..end`: offset and length, cut off at the file's end.
    pub fn runs(&self, first: usize, end: usize) -> Vec<(u64, u64)> {
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for offset in self.offsets.get(first..end.min(self.offsets.len())).unwrap_or_default() {
            let length = PAGE_SIZE.min(self.file_size.saturating_sub(*offset));
            match runs.last_mut() {
                Some((start, so_far)) if *start + *so_far == *offset => *so_far += length,
                _ => runs.push((*offset, length)),
            }
        }
        runs
    }
}

/// Neighbouring pages of a conflict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptRun {
    /// Where they lie in the file.
    pub offset: u64,
    /// Their bytes, cut off at the file's end.
    pub data: Bytes,
}

/// A file in the conflicts folder that is no whole conflict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damaged {
    /// Its name in the folder.
    pub file: String,
    /// What is wrong with it, and what to do.
    pub why: String,
}

/// Some of the conflicts that are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// In the order of their ids, which is about that of time.
    pub conflicts: Vec<Conflict>,
    /// What else was found; what belongs to no conflict at all only in a list from the start.
    pub damaged: Vec<Damaged>,
    /// The last id that was looked at, if there are more.
    pub next: Option<String>,
}

/// The right to change a conflict, as long as it lives.
#[derive(Debug)]
pub struct Claim {
    claimed: Arc<Mutex<HashSet<String>>>,
    id: String,
}

impl Claim {
    /// The conflict.
    pub fn id(&self) -> &str {
        &self.id
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claimed.lock().remove(&self.id);
    }
}

/// Where conflicts go.
#[derive(Debug)]
pub struct Aside {
    place: Place,
    /// Ids that somebody changes now.
    claimed: Arc<Mutex<HashSet<String>>>,
    /// What was kept since [`Aside::watch`]; `None` before, so that nothing is gathered that nobody asks for.
    watched: Mutex<Option<Vec<Conflict>>>,
}

#[derive(Debug)]
enum Place {
    Memory(Mutex<Vec<(Conflict, Vec<Bytes>)>>),
    Folder(PathBuf),
}

/// Pages to keep aside.
#[derive(Clone, Debug)]
pub struct AsidePages {
    /// The file.
    pub path: String,
    /// The version that they were written on.
    pub base_version: String,
    /// The file's size at that version.
    pub file_size: u64,
    /// Why.
    pub why: String,
    /// The pages, in order.
    pub pages: Vec<(PageIndex, Bytes)>,
}

impl Aside {
    /// Conflicts live as long as the manager: for embedders without a state directory, and tests.
    pub fn in_memory() -> Self {
        Self::at(Place::Memory(Mutex::default()))
    }

    /// Conflicts are kept in `folder`, which is made when the first one comes.
    pub fn in_folder(folder: PathBuf) -> Self {
        Self::at(Place::Folder(folder))
    }

    fn at(place: Place) -> Self {
        Self { place, claimed: Arc::default(), watched: Mutex::default() }
    }

    /// Keeps pages aside; they are durable when it answers.
    ///
    /// # Errors
    /// [`Errno::Io`] if the state directory cannot take them.
    pub async fn keep(&self, kept: AsidePages) -> Result<Conflict> {
        let kept_at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let conflict = Conflict {
            id: format!("{kept_at}-{}", uuid::Uuid::new_v4().simple()),
            path: kept.path,
            base_version: kept.base_version,
            file_size: kept.file_size,
            why: kept.why,
            kept_at,
            offsets: kept.pages.iter().map(|(page, _)| page.range().start()).collect(),
        };
        // While it is being written it is no leftover.
        let claim = self.claim(&conflict.id)?;
        let pages: Vec<Bytes> = kept.pages.into_iter().map(|(_, data)| slice_padded(&data, 0..PAGE_LEN)).collect();
        match &self.place {
            Place::Memory(kept) => kept.lock().push((conflict.clone(), pages)),
            Place::Folder(folder) => {
                let (folder, written) = (folder.clone(), conflict.clone());
                blocking(move || {
                    let _until_written = claim;
                    folder::write(&folder, &written, &pages).map_err(|source| cannot_keep(&written, source))
                })
                .await?;
            }
        }
        let count = conflict.offsets.len();
        tracing::warn!(path = %conflict.path, id = %conflict.id, pages = count, why = %conflict.why,
            "unsynced pages were kept aside as a conflict");
        if let Some(watched) = &mut *self.watched.lock() {
            watched.push(conflict.clone());
        }
        Ok(conflict)
    }

    /// Notes every conflict from here on, until [`Aside::watched`].
    pub fn watch(&self) {
        *self.watched.lock() = Some(Vec::new());
    }

    /// What was kept since [`Aside::watch`].
    pub fn watched(&self) -> Vec<Conflict> {
        self.watched.lock().take().unwrap_or_default()
    }

    /// The right to change the conflict `id`, whether it is there or not.
    ///
    /// # Errors
    /// [`Errno::Busy`] while somebody else has it.
    pub fn claim(&self, id: &str) -> Result<Claim> {
        if !self.claimed.lock().insert(id.to_owned()) {
            let sentence = format!("conflict {id} is being applied or dropped by another call");
            return Err(Error::new(Errno::Busy, sentence).with("id", id));
        }
        Ok(Claim { claimed: Arc::clone(&self.claimed), id: id.to_owned() })
    }

    /// At most `limit` conflicts whose ids are greater than `after`. What is damaged hides nothing else. Blocks.
    ///
    /// # Errors
    /// [`Errno::Io`] if the folder cannot be read.
    pub fn list_blocking(&self, after: Option<&str>, limit: usize) -> Result<Listing> {
        let mut listing = Listing::default();
        let ids = match &self.place {
            Place::Memory(kept) => kept.lock().iter().map(|(conflict, _)| conflict.id.clone()).collect(),
            Place::Folder(folder) => {
                let names = folder::names(folder).map_err(|source| cannot_list(folder, source))?;
                if after.is_none() {
                    let others = names.others.iter().filter(|name| !self.is_claimed(name));
                    listing.damaged = others.filter_map(|name| folder::judge(folder, name)).take(OTHERS_MAX).collect();
                }
                names.ids
            }
        };
        let mut rest = ids.into_iter().filter(|id| after.is_none_or(|after| id.as_str() > after));
        for id in rest.by_ref().take(limit) {
            match describe_blocking(&self.place, &id) {
                Ok(conflict) => listing.conflicts.push(conflict),
                // It was removed meanwhile.
                Err(error) if error.errno() == Errno::NoEnt => {}
                Err(error) => {
                    listing.damaged.push(Damaged { file: format!("{id}.json"), why: error.message().to_owned() });
                }
            }
            listing.next = Some(id);
        }
        if rest.next().is_none() {
            listing.next = None;
        }
        Ok(listing)
    }

    /// How many conflicts there are. Blocks.
    ///
    /// # Errors
    /// [`Errno::Io`] if the folder cannot be read.
    pub fn count_blocking(&self) -> Result<usize> {
        match &self.place {
            Place::Memory(kept) => Ok(kept.lock().len()),
            Place::Folder(folder) => {
                folder::names(folder).map(|names| names.ids.len()).map_err(|source| cannot_list(folder, source))
            }
        }
    }

    /// As [`Aside::list_blocking`], without blocking.
    ///
    /// # Errors
    /// As there.
    pub async fn list(self: &Arc<Self>, after: Option<String>, limit: usize) -> Result<Listing> {
        let aside = Arc::clone(self);
        blocking(move || aside.list_blocking(after.as_deref(), limit)).await
    }

    /// Whether a file belongs to a conflict that is being kept or removed.
    fn is_claimed(&self, name: &str) -> bool {
        name.split('.').next().is_some_and(|id| self.claimed.lock().contains(id))
    }

    /// The conflict `id`.
    ///
    /// # Errors
    /// [`Errno::NoEnt`], [`Errno::UClean`] if it is damaged, [`Errno::Io`].
    pub async fn get(self: &Arc<Self>, id: &str) -> Result<Conflict> {
        let (aside, id) = (Arc::clone(self), id.to_owned());
        blocking(move || describe_blocking(&aside.place, &id)).await
    }

    /// The bytes of the pages `first..end` of a conflict, neighbours together.
    ///
    /// # Errors
    /// [`Errno::UClean`] if they are damaged, [`Errno::Io`].
    pub async fn read(self: &Arc<Self>, conflict: &Conflict, first: usize, end: usize) -> Result<Vec<KeptRun>> {
        let (aside, conflict) = (Arc::clone(self), conflict.clone());
        blocking(move || match &aside.place {
            Place::Memory(kept) => {
                let kept = kept.lock();
                let found = kept.iter().find(|(known, _)| known.id == conflict.id);
                let (_, pages) = found.ok_or_else(|| no_such_conflict(&conflict.id))?;
                let all: BytesMut = pages.iter().take(end).skip(first).flatten().copied().collect();
                let mut all = all.freeze();
                let cut = |(offset, length): (u64, u64)| {
                    let data = all.split_to(usize::try_from(length).unwrap_or_default().min(all.len()));
                    KeptRun { offset, data }
                };
                Ok(conflict.runs(first, end).into_iter().map(cut).collect())
            }
            Place::Folder(folder) => folder::read(folder, &conflict, first, end),
        })
        .await
    }

    /// Removes a conflict, durably.
    ///
    /// # Errors
    /// [`Errno::Io`] if the state directory cannot be written; then it may be there or not.
    pub async fn remove(self: &Arc<Self>, claim: &Claim) -> Result<()> {
        let (aside, id) = (Arc::clone(self), claim.id.clone());
        blocking(move || match &aside.place {
            Place::Memory(kept) => {
                kept.lock().retain(|(conflict, _)| conflict.id != id);
                Ok(())
            }
            Place::Folder(folder) => folder::remove(folder, &id).map_err(|source| {
                let sentence = format!("conflict {id} cannot be removed from the state directory");
                Error::new(Errno::Io, sentence).with("id", &id).caused_by(source)
            }),
        })
        .await
    }
}

fn describe_blocking(place: &Place, id: &str) -> Result<Conflict> {
    match place {
        _ if !folder::is_id(id) => Err(no_such_conflict(id)),
        Place::Memory(kept) => {
            let kept = kept.lock();
            let found = kept.iter().find(|(conflict, _)| conflict.id == id);
            found.map(|(conflict, _)| conflict.clone()).ok_or_else(|| no_such_conflict(id))
        }
        Place::Folder(folder) => folder::describe(folder, id),
    }
}

/// Runs `work` where blocking is allowed.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|failure| {
        tracing::error!(%failure, "a task of the core failed");
        Err(Error::new(Errno::Fault, "an internal fault; it is in the server's log"))
    })
}

/// There is no such conflict: it never was, or it has been applied or dropped.
pub fn no_such_conflict(id: &str) -> Error {
    let shown: String = id.escape_debug().take(100).collect();
    let sentence =
        format!("no such conflict: {shown}; it may have been applied or dropped, ListConflicts shows what is left");
    Error::new(Errno::NoEnt, sentence).with("path", format!("conflicts/{shown}")).with("id", shown)
}

fn cannot_list(folder: &std::path::Path, source: std::io::Error) -> Error {
    Error::new(Errno::Io, format!("cannot read {}", folder.display())).caused_by(source)
}

fn cannot_keep(conflict: &Conflict, source: std::io::Error) -> Error {
    Error::new(Errno::Io, format!("{}: cannot keep its unsynced pages aside in the state directory", conflict.path))
        .with("path", &conflict.path)
        .caused_by(source)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_conflict_in_a_folder_is_found_again_with_its_pages() {
        let folder = tempfile::tempdir().unwrap();
        let aside = Aside::in_folder(folder.path().join("conflicts"));
        assert_eq!(aside.list_blocking(None, 10).unwrap().conflicts, []);
        let pages = vec![(PageIndex(3), Bytes::from_static(b"abc"))];
        let kept =
            AsidePages { path: "/f".into(), base_version: "v1".into(), file_size: 20_000, why: "test".into(), pages };
        let conflict = aside.keep(kept).await.unwrap();
        assert_eq!(aside.list_blocking(None, 10).unwrap().conflicts, std::slice::from_ref(&conflict));
        assert_eq!(conflict.offsets, [3 * 4096]);
        let data = std::fs::read(folder.path().join("conflicts").join(format!("{}.pages", conflict.id))).unwrap();
        assert_eq!((data.len(), &data[..4]), (PAGE_LEN, &b"abc\0"[..]));
    }
}
