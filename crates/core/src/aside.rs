//! [`Aside`]: unsynced pages that can neither be stored nor dropped are kept here, for a person to decide.
//!
//! A conflict is two files in the state directory's `conflicts` folder: `ID.pages`, the pages one after the
//! other, and `ID.json`, which says what they are; the second is written last, so a conflict that has it is
//! whole. Nothing here is ever overwritten or removed.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::block::slice_padded;
use crate::error::{Errno, Error, Result};
use crate::units::{PAGE_LEN, PAGE_SIZE, PageIndex};

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
}

/// Where conflicts go.
#[derive(Debug)]
pub struct Aside {
    place: Place,
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
        Self { place: Place::Memory(Mutex::default()), watched: Mutex::default() }
    }

    /// Conflicts are kept in `folder`, which is made when the first one comes.
    pub fn in_folder(folder: PathBuf) -> Self {
        Self { place: Place::Folder(folder), watched: Mutex::default() }
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
        let pages: Vec<Bytes> = kept.pages.into_iter().map(|(_, data)| slice_padded(&data, 0..PAGE_LEN)).collect();
        match &self.place {
            Place::Memory(kept) => kept.lock().push((conflict.clone(), pages)),
            Place::Folder(folder) => {
                let (folder, written) = (folder.clone(), conflict.clone());
                let work = tokio::task::spawn_blocking(move || write_conflict(&folder, &written, &pages));
                let result = work.await.unwrap_or_else(|failure| Err(std::io::Error::other(failure)));
                result.map_err(|source| cannot_keep(&conflict, source))?;
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

    /// Every conflict that is kept, in no particular order.
    ///
    /// # Errors
    /// [`Errno::Io`] if the folder cannot be read.
    pub fn list(&self) -> Result<Vec<Conflict>> {
        match &self.place {
            Place::Memory(kept) => Ok(kept.lock().iter().map(|(conflict, _)| conflict.clone()).collect()),
            Place::Folder(folder) => read_conflicts(folder)
                .map_err(|source| Error::new(Errno::Io, format!("cannot read {}", folder.display())).caused_by(source)),
        }
    }
}

fn cannot_keep(conflict: &Conflict, source: std::io::Error) -> Error {
    Error::new(Errno::Io, format!("{}: cannot keep its unsynced pages aside in the state directory", conflict.path))
        .with("path", &conflict.path)
        .caused_by(source)
}

fn write_conflict(folder: &Path, conflict: &Conflict, pages: &[Bytes]) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let mut data = std::fs::File::create_new(folder.join(format!("{}.pages", conflict.id)))?;
    for page in pages {
        data.write_all(page)?;
    }
    data.sync_all()?;
    let text = serde_json::to_vec_pretty(conflict)?;
    let beside = folder.join(format!("{}.json.new", conflict.id));
    let mut description = std::fs::File::create_new(&beside)?;
    description.write_all(&text)?;
    description.sync_all()?;
    std::fs::rename(&beside, folder.join(format!("{}.json", conflict.id)))?;
    std::fs::File::open(folder)?.sync_all()
}

fn read_conflicts(folder: &Path) -> std::io::Result<Vec<Conflict>> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut conflicts = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            conflicts.push(serde_json::from_slice(&std::fs::read(&path)?)?);
        }
    }
    Ok(conflicts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_conflict_in_a_folder_is_found_again_with_its_pages() {
        let folder = tempfile::tempdir().unwrap();
        let aside = Aside::in_folder(folder.path().join("conflicts"));
        assert_eq!(aside.list().unwrap(), []);
        let pages = vec![(PageIndex(3), Bytes::from_static(b"abc"))];
        let kept =
            AsidePages { path: "/f".into(), base_version: "v1".into(), file_size: 20_000, why: "test".into(), pages };
        let conflict = aside.keep(kept).await.unwrap();
        assert_eq!(aside.list().unwrap(), std::slice::from_ref(&conflict));
        assert_eq!(conflict.offsets, [3 * 4096]);
        let data = std::fs::read(folder.path().join("conflicts").join(format!("{}.pages", conflict.id))).unwrap();
        assert_eq!((data.len(), &data[..4]), (PAGE_LEN, &b"abc\0"[..]));
    }
}
