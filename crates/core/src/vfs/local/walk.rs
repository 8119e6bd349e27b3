//! Listing a folder's files in the byte order of their whole names, in bounded memory.
//!
//! A folder `a` is sorted as `a/`, because that is how the names in it begin: `a.` < `a/b` < `a0`. Of each
//! folder on the way only the next [`BATCH`] entries are held, and of a larger one the rest is found by
//! reading it again. What changes meanwhile may or may not be shown.
//!
//! Folders are not descended through symbolic links, so a walk ends. Names that no path can say, and folders
//! that may not be read, are left out.

use std::collections::BinaryHeap;
use std::collections::VecDeque;
use std::io;
use std::path::Path;

use cap_std::fs::DirEntry;

use super::copy::Cancelled;
use super::inode::Identity;
use super::root::Root;
use crate::path::{PATH_MAX, check_segment};
use crate::vfs::fault::{StoreFault, StoreResult};
use crate::vfs::store::{Listed, Stat};

/// Entries of one folder that are held at a time: 4096 names of 255 bytes are 1 MiB.
const BATCH: usize = 4096;

/// What is asked for.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    prefix: &'a str,
    after: Option<&'a str>,
}

/// A folder on the way.
struct Level {
    /// Its name and a `/`; empty for the root.
    path: String,
    /// The next entries, in order; those of folders end with a `/`.
    entries: VecDeque<String>,
    /// There may be more behind the last of them.
    truncated: bool,
    /// The last entry taken.
    last: Option<String>,
}

impl Root {
    /// As [`FileStore::list`](crate::vfs::FileStore::list).
    pub(super) fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        cancelled: &Cancelled,
    ) -> StoreResult<Vec<Listed>> {
        let wanted = Wanted { prefix, after };
        let mut found = Vec::new();
        let mut levels = vec![self.level(String::new(), wanted)?];
        while found.len() < limit
            && let Some(level) = levels.last_mut()
        {
            cancelled.check()?;
            let Some(name) = level.entries.pop_front() else {
                if level.truncated {
                    let (path, last) = (std::mem::take(&mut level.path), level.last.take());
                    *level = self.refill(path, last, wanted)?;
                } else {
                    levels.pop();
                }
                continue;
            };
            level.last = Some(name.clone());
            if name.ends_with('/') {
                let below = self.level(name, wanted)?;
                levels.push(below);
            } else if let Some(file) = self.listed(name, cancelled)? {
                found.push(file);
            }
        }
        Ok(found)
    }

    fn level(&self, path: String, wanted: Wanted<'_>) -> StoreResult<Level> {
        self.refill(path, None, wanted)
    }

    /// The next entries of the folder `path` behind `last`.
    fn refill(&self, path: String, last: Option<String>, wanted: Wanted<'_>) -> StoreResult<Level> {
        let mut entries = BinaryHeap::new();
        let mut truncated = false;
        let folder = self.folder(Path::new(path.trim_end_matches('/')));
        let listing = match folder {
            Ok(folder) => folder.entries(),
            // It went away meanwhile, or is not for this server.
            Err(fault) if is_no_file(&fault) && !path.is_empty() => {
                return Ok(Level { path, entries: VecDeque::new(), truncated: false, last: None });
            }
            Err(other) => return Err(other),
        };
        let listing = listing.map_err(super::inode::io_fault)?;
        for entry in listing {
            let entry = entry.map_err(super::inode::io_fault)?;
            let Some(name) = entry_name(&path, &entry) else { continue };
            if last.as_ref().is_some_and(|last| name <= *last) || !wanted.has(&name) {
                continue;
            }
            entries.push(name);
            if entries.len() > BATCH {
                entries.pop();
                truncated = true;
            }
        }
        Ok(Level { path, entries: entries.into_sorted_vec().into(), truncated, last })
    }

    fn listed(&self, name: String, cancelled: &Cancelled) -> StoreResult<Option<Listed>> {
        match self.dir.metadata(&name) {
            Ok(metadata) if metadata.is_file() => {
                let found = Identity::of_metadata(&metadata);
                let settled = match self.is_pending(found.inode)? {
                    true => self.stat(Path::new(&name), cancelled).ok(),
                    false => None,
                };
                // What cannot be finished now is shown as it is: to read it says why.
                let stat = settled.map_or_else(|| found.stat(), |stat| Stat { commit: None, ..stat });
                Ok(Some(Listed { stat, name }))
            }
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            // A link that leads out or nowhere is no file; anything else is the file system failing.
            Err(error) => {
                let fault = self.name_fault(Path::new(&name), error);
                if is_no_file(&fault) { Ok(None) } else { Err(fault) }
            }
        }
    }
}

/// Whether there is nothing to show: it is gone, is no file, or is not for this server.
fn is_no_file(fault: &StoreFault) -> bool {
    matches!(fault, StoreFault::Missing | StoreFault::BadName(_) | StoreFault::Denied(_))
}

/// The whole name of an entry, with a `/` at the end for a folder; none if no path can say it.
fn entry_name(path: &str, entry: &DirEntry) -> Option<String> {
    let name = entry.file_name();
    let name = name.to_str()?;
    check_segment(name).ok()?;
    let kind = entry.file_type().ok()?;
    let slash = if kind.is_dir() { "/" } else { "" };
    let whole = format!("{path}{name}{slash}");
    (whole.len() <= PATH_MAX).then_some(whole)
}

impl Wanted<'_> {
    /// Whether the entry, or anything in it, belongs to the answer.
    fn has(self, name: &str) -> bool {
        if name.ends_with('/') {
            let behind = self.after.is_none_or(|after| after < name || after.starts_with(name));
            behind && (name.starts_with(self.prefix) || self.prefix.starts_with(name))
        } else {
            self.after.is_none_or(|after| after < name) && name.starts_with(self.prefix)
        }
    }
}
