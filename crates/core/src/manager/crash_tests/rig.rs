//! [`Rig`]: runs the script over a manager that can be stopped, comes up over what survived, and compares.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use super::blown::{Blow, BlownStore};
use super::model::{Model, Op, SCRIPT, SIZE, content};
use crate::error::Result;
use crate::flags::{MapFlags, ProtFlags};
use crate::journal::sim::SimDisk;
use crate::journal::{Level, Options};
use crate::limits::Limits;
use crate::manager::{Create, MmapId, MmapManager, Unsynced};
use crate::state::StateDir;
use crate::units::ByteRange;
use crate::vfs::object::ObjectLayout;
use crate::vfs::{Base, CommitId, FileStore, Mount, Patch, Vfs, WriteBack};

/// How long a recovered manager waits to hear of its store.
pub(super) const SETTLE: Duration = Duration::from_secs(5);

/// The store, which every crash leaves as it is, and what the script learned.
pub(super) struct Rig {
    pub(super) inner: Arc<ObjectLayout>,
    pub(super) level: Level,
    pub(super) ids: HashMap<(u32, bool), MmapId>,
}

/// How far the script came.
#[derive(Clone, Debug)]
pub(super) struct Reached {
    /// After everything that was acknowledged.
    pub(super) done: Model,
    /// And what was cut off.
    pub(super) cut_off: Option<Op>,
}

/// Runs a world on a runtime of its own, and drops it with everything that still runs in it: as a kill does.
pub(super) fn live<T>(world: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let result = runtime.block_on(world);
    runtime.shutdown_background();
    result
}

impl Rig {
    pub(super) fn new(level: Level) -> Self {
        live(Self::new_on_this_runtime(level))
    }

    pub(super) async fn new_on_this_runtime(level: Level) -> Self {
        let inner = Arc::new(ObjectLayout::in_memory());
        let patches = vec![Patch { offset: 0, data: content().into(), dirty: true }];
        let change = WriteBack { base: Base::Missing, size: SIZE as u64, patches, commit: CommitId::random() };
        inner.write_back("f", change).await.unwrap();
        Self { inner, level, ids: HashMap::new() }
    }

    pub(super) fn store(&self) -> Arc<dyn FileStore> {
        Arc::clone(&self.inner) as Arc<dyn FileStore>
    }

    pub(super) fn blown(&self, at: u64, blow: Blow) -> Arc<BlownStore> {
        let (disk, crashed) = (SimDisk::new(), Arc::new(tokio::sync::Notify::new()));
        Arc::new(BlownStore { inner: self.store(), calls: AtomicU64::new(0), at, blow, disk, dead_at: None, crashed })
    }

    /// A store that nothing reaches any more once the disk has crashed: the process is dead.
    pub(super) fn with_disk(&self, disk: &SimDisk, dead_at: u64) -> Arc<BlownStore> {
        let (calls, crashed) = (AtomicU64::new(0), Arc::new(tokio::sync::Notify::new()));
        let (disk, dead_at) = (disk.clone(), Some(dead_at));
        Arc::new(BlownStore { inner: self.store(), calls, at: 0, blow: Blow::FailBefore, disk, dead_at, crashed })
    }

    pub(super) async fn open(&self, disk: &SimDisk, store: Arc<dyn FileStore>) -> Result<Arc<MmapManager>> {
        let vfs = Vfs::new(vec![Mount::with_store("/", store).unwrap()]).unwrap();
        let (segment_bytes, queue_bytes) = (128 << 10, 64 << 10);
        let options = Options { level: self.level, segment_bytes, queue_bytes, ..Options::default() };
        let limits = Limits { max_message: 256 * 1024, ..Limits::with_memory(4 << 20) };
        let disk = Arc::new(disk.clone());
        Ok(MmapManager::recover(vfs, StateDir::none(), limits, disk, options).await?.0)
    }

    pub(super) async fn run(&mut self, manager: &Arc<MmapManager>, op: Op) -> Result<()> {
        let (read_write, length) = (ProtFlags::read_write(), SIZE as u64);
        match op {
            Op::Map(pid) => {
                let id = manager.mmap(pid, "/f".into(), 0, length, read_write, MapFlags::Shared).await?;
                self.ids.insert((pid, false), id);
            }
            Op::MapPrivate(pid) => {
                let id = manager.mmap(pid, "/f".into(), 0, length, read_write, MapFlags::Private).await?;
                self.ids.insert((pid, true), id);
            }
            Op::Write(pid, at, byte, len) => {
                manager.write(pid, self.ids[&(pid, false)], at as u64, &vec![byte; len]).await?;
            }
            Op::WritePrivate(pid, at, byte, len) => {
                manager.write(pid, self.ids[&(pid, true)], at as u64, &vec![byte; len]).await?;
            }
            Op::Sync(pid) => drop(manager.msync(pid, self.ids[&(pid, false)]).await?),
            Op::Truncate(size) => drop(manager.truncate_file(1, "/f", size as u64, Create::Never).await?),
            Op::Discard(pid) => drop(manager.unmap(pid, self.ids[&(pid, false)], Unsynced::DiscardForce).await?),
            Op::Unmap(pid) => drop(manager.munmap(pid, self.ids[&(pid, false)]).await?),
            Op::Exit(pid) => drop(manager.exit(pid, false).await?),
            Op::Checkpoint => drop(manager.checkpoint().await?),
        }
        Ok(())
    }

    /// Runs the script until an operation fails `tries` times, or the store is told to crash.
    pub(super) async fn run_script(
        &mut self,
        disk: &SimDisk,
        store: &Arc<BlownStore>,
        tries: usize,
    ) -> Option<Reached> {
        let crashed = Arc::clone(&store.crashed);
        let manager = self.open(disk, Arc::clone(store) as Arc<dyn FileStore>).await.ok()?;
        let mut done = Model::new();
        'script: for op in SCRIPT {
            for _ in 0..tries {
                let outcome = tokio::select! {
                    biased;
                    () = crashed.notified() => break,
                    outcome = self.run(&manager, *op) => outcome,
                };
                if outcome.is_ok() {
                    done.apply(*op);
                    continue 'script;
                }
            }
            return Some(Reached { done, cut_off: Some(*op) });
        }
        Some(Reached { done, cut_off: None })
    }

    pub(super) async fn stored(&self) -> Vec<u8> {
        let stat = self.inner.stat("f").await.unwrap();
        self.inner.read("f", &stat.version, ByteRange::new(0, stat.size)).await.unwrap().concat()
    }

    /// Comes up over what survived, compares everything with what there may be, and syncs it.
    pub(super) async fn check(&self, disk: &SimDisk, reached: &Reached, what: &str) {
        let (manager, shared, seen) = self.check_survivors(disk, reached, what).await;
        manager.msync(9, shared).await.unwrap_or_else(|error| panic!("{what}: {error:?}"));
        assert!(self.stored().await == seen, "{what}: what is synced after it is not what was seen");
    }

    pub(super) async fn check_survivors(
        &self,
        disk: &SimDisk,
        reached: &Reached,
        what: &str,
    ) -> (Arc<MmapManager>, MmapId, Vec<u8>) {
        let done = &reached.done;
        let mut after = done.clone();
        reached.cut_off.into_iter().for_each(|op| after.apply(op));
        let stored = self.stored().await;
        assert!(stored == done.stored || stored == after.stored, "{what}: the store has a mixture");
        let manager = self.open(disk, self.store()).await.unwrap_or_else(|error| panic!("{what}: {error:?}"));
        manager.settle(SETTLE).await;
        assert_eq!(manager.conflicts().unwrap(), [], "{what}: a conflict with ourselves");
        for mapped in done.mapped.iter().filter(|mapped| after.mapped.contains(mapped)) {
            assert!(manager.mappings.contains_key(&self.ids[mapped]), "{what}: {mapped:?} is gone");
        }
        for (mapped, id) in self.ids.iter().filter(|(mapped, _)| !done.mapped.contains(mapped)) {
            let is_back = manager.mappings.contains_key(id) && !after.mapped.contains(mapped);
            assert!(!is_back, "{what}: {mapped:?} had ended, and is back");
        }
        let ended =
            done.ended.iter().find(|pid| manager.processes.all().iter().any(|process| process.key.pid == **pid));
        assert_eq!(ended, None, "{what}: a process that had ended is back");
        let shared = manager.mmap(9, "/f".into(), 0, SIZE as u64, ProtFlags::read_write(), MapFlags::Shared).await;
        let shared = shared.unwrap_or_else(|error| panic!("{what}: {error:?}"));
        let seen = read_all(&manager, 9, shared).await;
        assert!(seen == done.shared || seen == after.shared, "{what}: neither before nor after what was cut off");
        if done.mapped.contains(&(2, true)) {
            let own = read_all(&manager, 2, self.ids[&(2, true)]).await;
            let expected = [done.seen_privately(), after.seen_privately()];
            assert!(expected.contains(&own), "{what}: the private mapping's pages");
        }
        (manager, shared, seen)
    }
}

pub(super) async fn read_all(manager: &Arc<MmapManager>, pid: u32, id: MmapId) -> Vec<u8> {
    let size = manager.stats(pid, id).unwrap().file_size;
    manager.read(pid, id, 0, size.min(SIZE as u64)).await.unwrap().into_bytes().to_vec()
}
