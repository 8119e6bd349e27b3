//! [`FileTable`]: exactly one [`File`] for a path, as long as anybody holds on to it or it has unsynced pages.
//!
//! Files that nobody maps stay known for a while, so that their cached blocks are of use to the next mapping.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;

use crate::error::Result;
use crate::file::File;
use crate::path::FilePath;
use crate::shared::Shared;
use crate::vfs::Vfs;

/// The files that are known.
#[derive(Debug)]
pub struct FileTable {
    vfs: Vfs,
    shared: Arc<Shared>,
    files: Mutex<Files>,
}

#[derive(Debug, Default)]
struct Files {
    by_path: HashMap<FilePath, Arc<File>>,
    /// With so many, those that nobody needs are forgotten. It doubles when most are needed, so that looking
    /// through them costs next to nothing a file.
    sweep_at: usize,
}

/// Keeps a file in the table as long as it lives.
#[derive(Debug)]
pub struct FileRef(Arc<File>);

impl Deref for FileRef {
    type Target = Arc<File>;

    fn deref(&self) -> &Arc<File> {
        &self.0
    }
}

impl Drop for FileRef {
    fn drop(&mut self) {
        self.0.pins.fetch_sub(1, Ordering::Release);
    }
}

impl FileTable {
    /// An empty table over `vfs`.
    pub fn new(vfs: Vfs, shared: Arc<Shared>) -> Self {
        Self { vfs, shared, files: Mutex::default() }
    }

    /// The mounts.
    pub fn vfs(&self) -> &Vfs {
        &self.vfs
    }

    /// The file of `path`, known or not.
    ///
    /// # Errors
    /// ENOENT if no mount covers the path, EINVAL if its store cannot keep the name.
    pub fn acquire(&self, path: &FilePath) -> Result<FileRef> {
        let mut files = self.files.lock();
        if let Some(file) = files.by_path.get(path) {
            return Ok(pin(file));
        }
        let location = self.vfs.locate(path)?;
        let idle_max = self.shared.limits.max_idle_files;
        if files.by_path.len() >= files.sweep_at.max(idle_max) {
            // Under the table's lock nobody can take a file that has no pins.
            files.by_path.retain(|_, file| file.pins.load(Ordering::Acquire) > 0 || !file.is_idle());
            files.sweep_at = files.by_path.len() * 2;
        }
        let file = File::new(path.clone(), location, Arc::clone(&self.shared));
        let pinned = pin(&file);
        files.by_path.insert(path.clone(), file);
        Ok(pinned)
    }

    /// The file of `path`, if it is known.
    pub fn get(&self, path: &FilePath) -> Option<FileRef> {
        self.files.lock().by_path.get(path).map(pin)
    }

    /// Every file for which `which` holds.
    pub fn select(&self, which: impl Fn(&File) -> bool) -> Vec<FileRef> {
        self.files.lock().by_path.values().filter(|file| which(file)).map(pin).collect()
    }
}

fn pin(file: &Arc<File>) -> FileRef {
    file.pins.fetch_add(1, Ordering::Relaxed);
    FileRef(Arc::clone(file))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aside::Aside;
    use crate::limits::Limits;
    use crate::vfs::Mount;
    use crate::vfs::object::ObjectLayout;

    #[test]
    fn files_that_nobody_needs_are_forgotten_and_held_ones_are_not() {
        let mount = Mount::with_store("/", Arc::new(ObjectLayout::in_memory())).unwrap();
        let limits = Limits { max_idle_files: 10, ..Limits::default() };
        let table = FileTable::new(Vfs::new(vec![mount]).unwrap(), Shared::new(limits, Aside::in_memory(), None));
        let path = |number: usize| FilePath::parse(&format!("/{number}")).unwrap();
        let held = table.acquire(&path(0)).unwrap();
        for number in 1..1000 {
            table.acquire(&path(number)).unwrap();
            assert!(table.files.lock().by_path.len() <= 10);
        }
        assert!(Arc::ptr_eq(&held, &table.acquire(&path(0)).unwrap()));
    }
}
