//! [`Folder`]: a journal's files in a folder of this machine.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::disk::{Disk, DiskFile};

/// Zeros are written in pieces of this size.
const ZEROS: usize = 1 << 20;

/// A folder as a [`Disk`]. It is the caller's to lock it against other servers.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// Kept open: what happens in it is synced through this.
    folder: Arc<File>,
}

impl Folder {
    /// Opens the folder, making it if it is missing.
    ///
    /// # Errors
    /// It cannot be made or opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        if !path.is_dir() {
            fs::create_dir_all(path)?;
            if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                File::open(parent)?.sync_all()?;
            }
        }
        Ok(Self { path: path.to_owned(), folder: Arc::new(File::open(path)?) })
    }

    fn make(&self, path: &Path, bytes: u64, head: &[u8]) -> io::Result<File> {
        let file = File::options().write(true).create(true).truncate(true).open(path)?;
        match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes) {
            Ok(()) => {}
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => write_zeros(&file, bytes)?,
            Err(errno) => return Err(errno.into()),
        }
        file.write_all_at(head, 0)?;
        Ok(file)
    }

    fn unsynced(&self, file: File) -> Box<dyn DiskFile> {
        Box::new(FolderFile { file, folder: Mutex::new(Some(Arc::clone(&self.folder))) })
    }
}

fn write_zeros(file: &File, bytes: u64) -> io::Result<()> {
    let zeros = vec![0; ZEROS];
    let mut offset = 0;
    while offset < bytes {
        let length = usize::try_from(bytes - offset).unwrap_or(ZEROS).min(ZEROS);
        file.write_all_at(&zeros[..length], offset)?;
        offset += length as u64;
    }
    Ok(())
}

impl Disk for Folder {
    fn shown(&self, name: &str) -> String {
        self.path.join(name).display().to_string()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            // A name that is not UTF-8 is none of ours.
            names.extend(entry?.file_name().into_string());
        }
        Ok(names)
    }

    fn read(&self, name: &str, at_most: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(self.path.join(name))?.take(at_most).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn create(&self, name: &str, bytes: u64, head: &[u8]) -> io::Result<Box<dyn DiskFile>> {
        let path = self.path.join(name);
        match self.make(&path, bytes, head) {
            Ok(file) => Ok(self.unsynced(file)),
            Err(error) => {
                // What is left of it would only take space; the error that matters is the first one.
                let _ = fs::remove_file(&path);
                Err(error)
            }
        }
    }

    fn reuse(&self, name: &str, new: &str, head: &[u8]) -> io::Result<Box<dyn DiskFile>> {
        let path = self.path.join(name);
        let file = File::options().write(true).open(&path)?;
        file.write_all_at(head, 0)?;
        fs::rename(&path, self.path.join(new))?;
        Ok(self.unsynced(file))
    }

    fn sync(&self, name: &str) -> io::Result<()> {
        File::open(self.path.join(name))?.sync_all()?;
        self.folder.sync_all()
    }

    fn keep(&self, name: &str, second: &str) -> io::Result<()> {
        let (from, to) = (self.path.join(name), self.path.join(second));
        match fs::hard_link(&from, &to) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
            Err(_) => {
                // A file system without links. Under a third name first, so that a copy that is there is whole.
                let beside = self.path.join(format!("{second}.new"));
                fs::copy(&from, &beside)?;
                File::open(&beside)?.sync_all()?;
                fs::rename(&beside, &to)?;
            }
            Ok(()) => {}
        }
        self.folder.sync_all()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))?;
        self.folder.sync_all()
    }
}

#[derive(Debug)]
struct FolderFile {
    file: File,
    /// Until it was synced.
    folder: Mutex<Option<Arc<File>>>,
}

impl DiskFile for FolderFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()?;
        let mut folder = self.folder.lock();
        if let Some(unsynced) = &*folder {
            unsynced.sync_all()?;
            *folder = None;
        }
        Ok(())
    }
}
