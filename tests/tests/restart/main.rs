//! A server that ends, by SIGKILL or cleanly, and starts again on its state directory: what its clients, its files,
//! its store and its disk meet then.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod program;
mod forgotten;
mod changed;
mod away;
mod small_disk;
mod full_disk;
mod bounded;

use std::path::{Path, PathBuf};

use mmap_tests::mmapd::Setup;
use tempfile::TempDir;

const PAGE: usize = 4096;

/// A state directory and a folder that is mounted at `/`, both of which outlive servers.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("files")).unwrap();
        Self { folder }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn state(&self) -> PathBuf {
        self.path().join("state")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path().join("files").join(name)
    }

    fn content(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.file(name)).unwrap()
    }

    /// A server of the state directory.
    fn setup(&self) -> Setup {
        Setup::new().state_dir(&self.state())
    }

    /// A server of the state directory and the folder.
    fn folder_setup(&self) -> Setup {
        self.setup().mount("/", &format!("file://{}", self.path().join("files").display()))
    }
}
