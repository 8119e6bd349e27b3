//! A manager with mapped, resident files to measure on.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures::StreamExt as _;
use mmap_core::flags::{MapFlags, ProtFlags};
use mmap_core::journal::{Folder, Level as JournalLevel, Options};
use mmap_core::limits::Limits;
use mmap_core::manager::{Caller, Create, MapRequest, MmapId, MmapManager, Populate, ReadBytes, Written};
use mmap_core::state::StateDir;
use mmap_core::vfs::{MountSpec, Vfs};
use tokio::runtime::{Builder, Runtime};

pub(crate) const LENGTH: u64 = 4096;
pub(crate) const FILE_SIZE: u64 = 16 << 20;

pub(crate) fn one_worker() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// Offsets that walk over the file without a pattern that a cache line would like.
pub(crate) fn offset(call: u64) -> u64 {
    call.wrapping_mul(0x9E37_79B9_7F4A_7C15) % (FILE_SIZE / LENGTH) * LENGTH
}

#[derive(Clone, Copy)]
pub(crate) enum Level {
    Memory,
    Process,
    Disk,
}

impl Level {
    pub(crate) const ALL: [Self; 3] = [Self::Memory, Self::Process, Self::Disk];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Process => "process",
            Self::Disk => "disk",
        }
    }
}

pub(crate) struct World {
    pub(crate) manager: Arc<MmapManager>,
    /// A mapping of each file, all of process 1.
    pub(crate) ids: Vec<MmapId>,
    /// Holds the journal.
    _state: tempfile::TempDir,
}

impl World {
    /// `files` files of [`FILE_SIZE`], mapped and in memory.
    pub(crate) fn new(runtime: &Runtime, level: Level, files: usize) -> Self {
        let limits = Limits::with_memory(1 << 30);
        Self::with(runtime, level, limits, (files, FILE_SIZE, Populate::Now))
    }

    /// A file of 64 MiB, of which an eighth fits into memory.
    pub(crate) fn small_cache(runtime: &Runtime) -> Self {
        let limits = Limits { max_message: 256 << 10, ..Limits::with_memory(16 << 20) };
        Self::with(runtime, Level::Memory, limits, (1, 64 << 20, Populate::OnDemand))
    }

    fn with(runtime: &Runtime, level: Level, limits: Limits, files: (usize, u64, Populate)) -> Self {
        let state = tempfile::tempdir().unwrap();
        runtime.block_on(async {
            let vfs = Vfs::open(&[MountSpec::parse("/=memory:").unwrap()], &limits).unwrap();
            let journaled = |level| Options { level, ..Options::default() };
            let options = match level {
                Level::Memory => None,
                Level::Process => Some(journaled(JournalLevel::Process)),
                Level::Disk => Some(journaled(JournalLevel::Disk)),
            };
            let manager = match options {
                None => MmapManager::open(vfs, StateDir::none(), limits).unwrap(),
                Some(options) => {
                    let disk = Arc::new(Folder::open(state.path()).unwrap());
                    MmapManager::recover(vfs, StateDir::none(), limits, disk, options).await.unwrap().0
                }
            };
            let mut ids = Vec::new();
            for file in 0..files.0 {
                ids.push(map(&manager, file, files.1, files.2).await);
            }
            Self { manager, ids, _state: state }
        })
    }

    pub(crate) fn read(&self, caller: &Caller, id: MmapId, offset: u64) -> ReadBytes {
        self.manager.try_read(caller, id, offset, LENGTH).unwrap().unwrap()
    }

    pub(crate) fn write(&self, caller: &Caller, id: MmapId, offset: u64, data: &[Bytes]) -> Written {
        self.manager.try_write(caller, id, offset, data).unwrap().unwrap()
    }

    /// Writes a second.
    pub(crate) async fn writes_in_flight(&self, calls: u64, in_flight: usize) -> f64 {
        let (caller, data) = (Caller::from(1), [Bytes::from(vec![3u8; 4096])]);
        let started = Instant::now();
        let writes = (0..calls).map(|call| {
            let (caller, data) = (&caller, &data);
            async move {
                let at = offset(call);
                let written = match self.manager.try_write(caller, self.ids[0], at, data).unwrap() {
                    Some(written) => written,
                    None => self.manager.begin_write(caller, self.ids[0], at, data).await.unwrap(),
                };
                written.wait().await.unwrap()
            }
        });
        let done = futures::stream::iter(writes).buffer_unordered(in_flight).count().await;
        f64::from(u32::try_from(done).unwrap()) / started.elapsed().as_secs_f64()
    }

    pub(crate) fn major_faults(&self) -> u64 {
        self.manager.stats(1, self.ids[0]).unwrap().major_faults
    }
}

async fn map(manager: &Arc<MmapManager>, file: usize, length: u64, populate: Populate) -> MmapId {
    let request = MapRequest {
        path: format!("/hot{file}"),
        offset: 0,
        length: Some(length),
        prot: ProtFlags::read_write(),
        flags: MapFlags::Shared,
        create: Create::IfMissing,
        populate,
    };
    manager.map(1, request).await.unwrap().id
}
