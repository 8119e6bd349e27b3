//! [`Served`]: a server over stores in memory, without connections, and a file that no input can name.

use std::ffi::OsString;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use mmap_core::flags::{MapFlags, ProtFlags};
use mmap_core::limits::Limits;
use mmap_core::manager::{Caller, Create, MmapId, MmapManager};
use mmap_core::state::StateDir;
use mmap_core::vfs::object::ObjectLayout;
use mmap_core::vfs::{Mount, Vfs};
use mmap_server::config::Config;
use mmap_server::harness::{Answered, Harness};

/// Bytes of the largest message.
pub(crate) const MESSAGE_MAX: u64 = 64 << 10;
/// Of each file that is there from the start. Not a whole number of pages.
pub(crate) const FILE: u64 = 9000;
/// The mount that no input names.
pub(crate) const CANARY: &str = "/canary";
/// Whose mappings no input names.
const KEEPER: u32 = 9;
/// Longer than anything waits.
const PATIENCE: Duration = Duration::from_secs(3600);

/// A server.
pub(crate) struct Served {
    pub(crate) manager: Arc<MmapManager>,
    harness: Harness,
    canary: MmapId,
    content: Vec<u8>,
}

impl Served {
    /// A new one, with the files `/a` and `/b`.
    pub(crate) async fn new() -> Self {
        let mount = |prefix| Mount::with_store(prefix, Arc::new(ObjectLayout::in_memory())).unwrap();
        let vfs = Vfs::new(vec![mount("/"), mount(CANARY)]).unwrap();
        let limits = Limits {
            max_message: MESSAGE_MAX,
            max_mappings: 64,
            // The keeper makes no calls while an attached process's stream is waited for.
            process_idle_timeout: 1000 * PATIENCE,
            ..Limits::with_memory(4 << 20)
        };
        // Read once: reading it takes longer than most calls.
        static CONFIG: OnceLock<Config> = OnceLock::new();
        let config = CONFIG.get_or_init(|| {
            let args = ["mmapd", "--state-dir", "/nowhere", "--workers", "1", "--node", "n"].map(OsString::from);
            Config { limits: limits.clone(), ..Config::read(args, &|_| None).unwrap() }
        });
        let manager = MmapManager::open(vfs, StateDir::none(), limits).unwrap();
        let harness = Harness::new(config, Arc::clone(&manager)).await.unwrap();
        let content: Vec<u8> = (0..FILE).map(|at| u8::try_from(at % 251).unwrap() | 1).collect();
        let mut canary = MmapId(0);
        for path in ["/a", "/b", "/canary/file"] {
            let (prot, flags) = (ProtFlags::read_write(), MapFlags::Shared);
            manager.truncate_file(KEEPER, path, FILE, Create::IfMissing).await.unwrap();
            canary = manager.mmap(KEEPER, path.to_owned(), 0, FILE, prot, flags).await.unwrap();
            manager.write(KEEPER, canary, 0, &content).await.unwrap();
            manager.msync(KEEPER, canary).await.unwrap();
            if !path.starts_with(CANARY) {
                manager.munmap(KEEPER, canary).await.unwrap();
            }
        }
        Self { manager, harness, canary, content }
    }

    /// Answers a request. `None` for one whose answer has no end by itself, as an attached process's.
    pub(crate) async fn call(&self, head: Request<()>, frames: Vec<Bytes>) -> Option<Answered> {
        tokio::time::timeout(PATIENCE, self.harness.call(head, frames)).await.ok()
    }

    /// What was written reads back, as far as the file reaches; behind its end there are zeros.
    pub(crate) async fn check_written(&self, pid: u32, id: u64, offset: u64, data: &[u8]) {
        let Ok(stats) = self.manager.stats(Caller::from(pid), MmapId(id)) else { return };
        if !stats.prot.can_read() {
            return;
        }
        let read = self.manager.read(pid, MmapId(id), offset, data.len() as u64).await;
        let read = read.unwrap_or_else(|error| panic!("what was written cannot be read: {error:?}")).into_bytes();
        let end = stats.file_size.saturating_sub(stats.offset + offset);
        let inside = usize::try_from(end).map_or(data.len(), |end| end.min(data.len()));
        assert!(read[..inside] == data[..inside], "what was written reads otherwise");
        assert!(read[inside..].iter().all(|byte| *byte == 0), "behind the file's end there is something");
    }

    /// What holds after each input: nobody else's bytes were touched, and memory is within its bounds.
    pub(crate) async fn check(&self) {
        let read = self.manager.read(KEEPER, self.canary, 0, FILE).await.unwrap();
        assert!(read.into_bytes() == self.content, "another process's file was changed");
        let (used, limits) = (self.manager.memory_use(), self.manager.limits());
        assert!(used.total() <= limits.memory, "{used:?}");
        assert!(used.dirty <= limits.dirty_bytes() && used.private <= limits.private_bytes(), "{used:?}");
    }
}
