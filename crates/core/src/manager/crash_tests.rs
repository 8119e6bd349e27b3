//! A crash at every step. A script of every kind of operation runs over a simulated disk under the journal and
//! a store that is kept; the world stops at step k, for each k there is; then a new manager comes up over what
//! survives, and has to show every acknowledged operation, the one that was cut off wholly or not at all, and
//! the same in the store.
//!
//! Enumerated: each operation on the journal's disk (a killed process, and power loss at level `disk` with
//! several choices of what the disk kept), each call of the store (before and after its effect; a crash, a
//! failure, a lost reply), and each disk operation of the recovery after each of these crashes.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::*;
use crate::flags::{MapFlags, ProtFlags};
use crate::journal::sim::{Loss, SimDisk};
use crate::journal::{Level, Options};
use crate::units::{ByteRange, PAGE_LEN, PAGE_SIZE};
use crate::vfs::object::ObjectLayout;
use crate::vfs::{
    Base, CommitId, FileStore, Listed, Mount, Patch, Stat, StoreFault, StoreResult, Traits, Version, Vfs, Writability,
    WriteBack,
};

/// The most steps that a script may take: an enumeration that does not end is a defect of the test.
const STEPS_MAX: u64 = 2000;
/// How long a recovered manager waits to hear of its store.
const SETTLE: Duration = Duration::from_secs(5);
/// Choices of what a disk without power kept of what was not synced.
const POWER_SEEDS: u64 = 3;
const SIZE: usize = 6 * PAGE_LEN + 100;

/// What happens to one call of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blow {
    /// The server is killed before the store gets the call.
    CrashBefore,
    /// The server is killed after the call took effect, before the answer.
    CrashAfter,
    /// The call fails without effect.
    FailBefore,
    /// It takes effect, and the answer is lost.
    FailAfter,
}

/// A store whose call number `at` gets the blow.
#[derive(Debug)]
struct BlownStore {
    inner: Arc<dyn FileStore>,
    calls: AtomicU64,
    at: u64,
    blow: Blow,
    crashed: Arc<tokio::sync::Notify>,
}

impl BlownStore {
    async fn through<T>(&self, work: impl Future<Output = StoreResult<T>> + Send) -> StoreResult<T> {
        if self.calls.fetch_add(1, Ordering::Relaxed) + 1 != self.at {
            return work.await;
        }
        let lost = || Err(StoreFault::Failed("blown".into(), None));
        match self.blow {
            Blow::FailBefore => lost(),
            Blow::FailAfter => {
                // What it came to is what the caller does not learn.
                let _ = work.await;
                lost()
            }
            Blow::CrashBefore => self.crash().await,
            Blow::CrashAfter => {
                let _ = work.await;
                self.crash().await
            }
        }
    }

    async fn crash<T>(&self) -> T {
        self.crashed.notify_one();
        std::future::pending().await
    }
}

#[async_trait]
impl FileStore for BlownStore {
    fn traits(&self) -> Traits {
        self.inner.traits()
    }

    fn check_name(&self, name: &str) -> StoreResult<()> {
        self.inner.check_name(name)
    }

    async fn stat(&self, name: &str) -> StoreResult<Stat> {
        self.through(self.inner.stat(name)).await
    }

    async fn read(&self, name: &str, version: &Version, range: ByteRange) -> StoreResult<Vec<Bytes>> {
        self.through(self.inner.read(name, version, range)).await
    }

    async fn write_back(&self, name: &str, change: WriteBack) -> StoreResult<Stat> {
        self.through(self.inner.write_back(name, change)).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> StoreResult<Vec<Listed>> {
        self.through(self.inner.list(prefix, after, limit)).await
    }

    async fn remove(&self, name: &str) -> StoreResult<()> {
        self.through(self.inner.remove(name)).await
    }

    async fn probe(&self) -> StoreResult<Writability> {
        self.inner.probe().await
    }

    async fn ping(&self) -> StoreResult<()> {
        self.inner.ping().await
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Map(u32),
    MapPrivate(u32),
    Write(u32, usize, u8, usize),
    WritePrivate(u32, usize, u8, usize),
    Sync(u32),
    Truncate(usize),
    Discard(u32),
    Unmap(u32),
    Exit(u32),
    Checkpoint,
}

const SCRIPT: &[Op] = &[
    Op::Map(1),
    Op::Write(1, 10, 1, 20),
    Op::Write(1, PAGE_LEN - 5, 2, 10),
    Op::MapPrivate(2),
    Op::WritePrivate(2, PAGE_LEN - 3, 3, 6),
    Op::Sync(1),
    Op::Write(1, 0, 4, 3 * PAGE_LEN),
    Op::Checkpoint,
    Op::Truncate(4 * PAGE_LEN + 7),
    Op::WritePrivate(2, 4 * PAGE_LEN, 5, 7),
    Op::Write(1, 4 * PAGE_LEN + 1, 6, 5),
    Op::Truncate(4 * PAGE_LEN + 3),
    Op::Truncate(SIZE),
    Op::Map(3),
    Op::Write(3, 2 * PAGE_LEN, 7, PAGE_LEN),
    Op::Discard(3),
    Op::Write(1, 5 * PAGE_LEN, 8, 100),
    Op::Map(4),
    Op::Write(4, PAGE_LEN, 9, 8),
    Op::Exit(4),
    Op::Checkpoint,
    Op::Write(1, 1, 10, 1),
    Op::Unmap(1),
];

/// What there should be.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Model {
    shared: Vec<u8>,
    stored: Vec<u8>,
    private: BTreeMap<usize, Vec<u8>>,
    mapped: Vec<(u32, bool)>,
}

impl Model {
    fn new() -> Self {
        let content = content();
        Self { shared: content.clone(), stored: content, private: BTreeMap::new(), mapped: Vec::new() }
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Map(pid) => self.mapped.push((pid, false)),
            Op::MapPrivate(pid) => self.mapped.push((pid, true)),
            Op::Write(_, at, byte, len) => self.shared[at..at + len].fill(byte),
            Op::WritePrivate(_, at, byte, len) => {
                for n in at..at + len {
                    let page = n / PAGE_LEN;
                    let end = self.shared.len().min((page + 1) * PAGE_LEN);
                    let shared = &self.shared[page * PAGE_LEN..end];
                    self.private.entry(page).or_insert_with(|| shared.to_vec())[n % PAGE_LEN] = byte;
                }
            }
            Op::Sync(_) => self.stored.clone_from(&self.shared),
            Op::Truncate(size) => {
                self.shared.resize(size, 0);
                self.stored.resize(size, 0);
                self.private.retain(|page, _| page * PAGE_LEN < size);
                for (page, data) in &mut self.private {
                    let len = (size - page * PAGE_LEN).min(PAGE_LEN);
                    data.resize(len.min(data.len()), 0);
                    data.resize(len, 0);
                }
            }
            Op::Discard(pid) => {
                self.shared.clone_from(&self.stored);
                self.mapped.retain(|mapped| *mapped != (pid, false));
            }
            Op::Unmap(pid) | Op::Exit(pid) => {
                self.stored.clone_from(&self.shared);
                self.mapped.retain(|mapped| *mapped != (pid, false));
            }
            Op::Checkpoint => {}
        }
    }

    fn seen_privately(&self) -> Vec<u8> {
        let mut seen = self.shared.clone();
        for (page, data) in &self.private {
            seen[page * PAGE_LEN..page * PAGE_LEN + data.len()].copy_from_slice(data);
        }
        seen
    }
}

fn content() -> Vec<u8> {
    (0..SIZE).map(|n| u8::try_from(100 + n % 100).unwrap()).collect()
}

/// The store, which every crash leaves as it is, and what the script learned.
struct Rig {
    inner: Arc<ObjectLayout>,
    level: Level,
    ids: HashMap<(u32, bool), MmapId>,
}

/// How far the script came.
#[derive(Clone, Debug)]
struct Reached {
    /// After everything that was acknowledged.
    done: Model,
    /// And what was cut off.
    cut_off: Option<Op>,
}

/// Runs a world on a runtime of its own, and drops it with everything that still runs in it: as a kill does.
fn live<T>(world: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let result = runtime.block_on(world);
    runtime.shutdown_background();
    result
}

impl Rig {
    fn new(level: Level) -> Self {
        let inner = Arc::new(ObjectLayout::in_memory());
        let patches = vec![Patch { offset: 0, data: content().into(), dirty: true }];
        let change = WriteBack { base: Base::Missing, size: SIZE as u64, patches, commit: CommitId::random() };
        live(inner.write_back("f", change)).unwrap();
        Self { inner, level, ids: HashMap::new() }
    }

    fn store(&self) -> Arc<dyn FileStore> {
        Arc::clone(&self.inner) as Arc<dyn FileStore>
    }

    fn blown(&self, at: u64, blow: Blow) -> Arc<BlownStore> {
        let crashed = Arc::new(tokio::sync::Notify::new());
        Arc::new(BlownStore { inner: self.store(), calls: AtomicU64::new(0), at, blow, crashed })
    }

    async fn open(&self, disk: &SimDisk, store: Arc<dyn FileStore>) -> Result<Arc<MmapManager>> {
        let vfs = Vfs::new(vec![Mount::with_store("/", store).unwrap()]).unwrap();
        let (segment_bytes, queue_bytes) = (128 << 10, 64 << 10);
        let options = Options { level: self.level, segment_bytes, queue_bytes, ..Options::default() };
        let limits = Limits { max_message: 256 * 1024, ..Limits::with_memory(4 << 20) };
        let disk = Arc::new(disk.clone());
        Ok(MmapManager::recover(vfs, StateDir::none(), limits, disk, options).await?.0)
    }

    async fn run(&mut self, manager: &Arc<MmapManager>, op: Op) -> Result<()> {
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
    async fn run_script(&mut self, disk: &SimDisk, store: &Arc<BlownStore>, tries: usize) -> Option<Reached> {
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

    async fn stored(&self) -> Vec<u8> {
        let stat = self.inner.stat("f").await.unwrap();
        self.inner.read("f", &stat.version, ByteRange::new(0, stat.size)).await.unwrap().concat()
    }

    /// Comes up over what survived, compares everything with what there may be, and syncs it.
    async fn check(&self, disk: &SimDisk, reached: &Reached, what: &str) {
        let (manager, shared, seen) = self.check_survivors(disk, reached, what).await;
        manager.msync(9, shared).await.unwrap_or_else(|error| panic!("{what}: {error:?}"));
        assert!(self.stored().await == seen, "{what}: what is synced after it is not what was seen");
    }

    async fn check_survivors(
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

async fn read_all(manager: &Arc<MmapManager>, pid: u32, id: MmapId) -> Vec<u8> {
    let size = manager.stats(pid, id).unwrap().file_size;
    manager.read(pid, id, 0, size.min(SIZE as u64)).await.unwrap().into_bytes().to_vec()
}

/// A rig whose script ran over a disk that crashed at `step`; `None` if it did not come to that step.
fn crashed_at(level: Level, step: u64) -> Option<(Rig, SimDisk, Reached)> {
    let mut rig = Rig::new(level);
    let disk = SimDisk::new();
    disk.crash_at(step);
    let never = rig.blown(0, Blow::FailBefore);
    // A manager that could not even open has acknowledged nothing.
    let nothing = Reached { done: Model::new(), cut_off: None };
    let reached = live(rig.run_script(&disk, &never, 1)).unwrap_or(nothing);
    let came_to_it = disk.steps() >= step;
    came_to_it.then_some((rig, disk, reached))
}

fn every_step(mut crash: impl FnMut(u64) -> bool) -> u64 {
    let last = (1..STEPS_MAX).find(|step| !crash(*step)).expect("the script ends");
    last - 1
}

#[test]
fn a_killed_server_comes_back_with_everything_acknowledged_whatever_the_disk_was_doing() {
    let steps = every_step(|step| {
        let Some((rig, disk, reached)) = crashed_at(Level::Process, step) else { return false };
        live(rig.check(&disk.survivors(Loss::Kill), &reached, &format!("killed at step {step}, {reached:?}")));
        true
    });
    assert!(steps > SCRIPT.len() as u64, "{steps} steps are too few to be all of them");
}

#[test]
fn a_server_without_power_comes_back_with_everything_acknowledged_at_level_disk() {
    let steps = every_step(|step| {
        for seed in 0..POWER_SEEDS {
            let Some((rig, disk, reached)) = crashed_at(Level::Disk, step) else { return false };
            let survivors = disk.survivors(Loss::Power { seed: seed * STEPS_MAX + step });
            live(rig.check(&survivors, &reached, &format!("no power at step {step}, seed {seed}, {reached:?}")));
        }
        true
    });
    assert!(steps > SCRIPT.len() as u64, "{steps} steps are too few to be all of them");
}

#[test]
fn a_recovery_that_is_killed_itself_at_any_step_loses_nothing() {
    let mut recoveries = 0;
    every_step(|step| {
        let Some((rig, disk, reached)) = crashed_at(Level::Process, step) else { return false };
        let survivors = disk.survivors(Loss::Kill);
        recoveries += every_step(|recovery| {
            let disk = survivors.survivors(Loss::Kill);
            disk.crash_at(recovery);
            let opened = live(rig.open(&disk, rig.store()));
            let what = format!("killed at step {step}, and at step {recovery} of the recovery");
            let cut_off = disk.steps() >= recovery;
            drop(opened);
            if cut_off {
                live(rig.check_survivors(&disk.survivors(Loss::Kill), &reached, &what));
            }
            cut_off
        });
        true
    });
    assert!(recoveries > 100, "{recoveries} recoveries were cut off");
}

#[test]
fn a_server_that_is_killed_before_or_after_any_call_of_the_store_loses_nothing() {
    for blow in [Blow::CrashBefore, Blow::CrashAfter] {
        let calls = every_step(|call| {
            let (mut rig, disk) = (Rig::new(Level::Process), SimDisk::new());
            let store = rig.blown(call, blow);
            let reached = live(rig.run_script(&disk, &store, 1)).expect("the disk is well");
            let what = format!("{blow:?} at call {call}, {reached:?}");
            live(rig.check(&disk.survivors(Loss::Kill), &reached, &what));
            store.calls.load(Ordering::Relaxed) >= call
        });
        assert!(calls > 15, "{calls} calls are too few to be all of them");
    }
}

#[test]
fn any_call_of_the_store_may_fail_or_lose_its_answer_and_nothing_is_lost() {
    for blow in [Blow::FailBefore, Blow::FailAfter] {
        let calls = every_step(|call| {
            let (mut rig, disk) = (Rig::new(Level::Process), SimDisk::new());
            let store = rig.blown(call, blow);
            let reached = live(rig.run_script(&disk, &store, 2)).expect("the disk is well");
            let what = format!("{blow:?} at call {call}");
            assert_eq!(reached.cut_off, None, "{what}: it failed twice");
            live(rig.check(&disk.survivors(Loss::Kill), &reached, &what));
            store.calls.load(Ordering::Relaxed) >= call
        });
        assert!(calls > 15, "{calls} calls are too few to be all of them");
    }
}
