//! Unit tests of read-ahead over a store that notes what it is asked for, and that can fail or hold answers back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::fault_tests::eventually;
use super::*;
use crate::flags::{MapFlags, ProtFlags};
use crate::units::{BLOCK_SIZE, ByteRange, PAGE_SIZE};
use crate::vfs::chaos::{Call, ChaosStore, Fault};
use crate::vfs::object::ObjectLayout;
use crate::vfs::{
    Base, CommitId, FileStore, Listed, Mount, Patch, Stat, StoreResult, Traits, Version, Writability, WriteBack,
};

const BLOCKS: u64 = 256;

/// Notes each range that is read, and hands blocks out one by one if it is told to.
#[derive(Debug)]
struct Noting {
    inner: Arc<ChaosStore>,
    ranges: Mutex<Vec<ByteRange>>,
    running: AtomicUsize,
    most_at_once: AtomicUsize,
    /// One permit a block, once there is a gate.
    gate: Mutex<Option<Arc<Semaphore>>>,
}

impl Noting {
    /// The blocks of each request since the last time.
    fn taken(&self) -> Vec<u64> {
        std::mem::take(&mut *self.ranges.lock()).iter().map(|range| range.block_count()).collect()
    }
}

#[async_trait]
impl FileStore for Noting {
    fn traits(&self) -> Traits {
        self.inner.traits()
    }

    fn check_name(&self, name: &str) -> StoreResult<()> {
        self.inner.check_name(name)
    }

    async fn stat(&self, name: &str) -> StoreResult<Stat> {
        self.inner.stat(name).await
    }

    async fn read(&self, name: &str, version: &Version, range: ByteRange) -> StoreResult<Vec<Bytes>> {
        self.ranges.lock().push(range);
        let running = self.running.fetch_add(1, Ordering::Relaxed) + 1;
        self.most_at_once.fetch_max(running, Ordering::Relaxed);
        let answer = self.inner.read(name, version, range).await;
        self.running.fetch_sub(1, Ordering::Relaxed);
        answer
    }

    async fn read_each(
        &self,
        name: &str,
        version: &Version,
        range: ByteRange,
        land: &mut (dyn FnMut(Bytes) + Send),
    ) -> StoreResult<()> {
        let gate = self.gate.lock().clone();
        for block in self.read(name, version, range).await? {
            if let Some(gate) = &gate {
                gate.acquire().await.unwrap().forget();
            }
            land(block);
        }
        Ok(())
    }

    async fn write_back(&self, name: &str, change: WriteBack) -> StoreResult<Stat> {
        self.inner.write_back(name, change).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> StoreResult<Vec<Listed>> {
        self.inner.list(prefix, after, limit).await
    }

    async fn remove(&self, name: &str) -> StoreResult<()> {
        self.inner.remove(name).await
    }

    async fn probe(&self) -> StoreResult<Writability> {
        self.inner.probe().await
    }

    async fn ping(&self) -> StoreResult<()> {
        self.inner.ping().await
    }
}

/// Half a window: a reader that goes on is only seen when it comes to the marker, so that what it used last is not
/// counted yet.
const HALF: u64 = 12;

/// A manager with 64 MiB: a window has 24 blocks at most, 32 of all readers are on their way, 16 in one request.
struct World {
    manager: Arc<MmapManager>,
    chaos: Arc<ChaosStore>,
    store: Arc<Noting>,
    id: MmapId,
}

impl World {
    /// A file `/f` of 256 blocks, each full of its number, mapped.
    async fn new() -> Self {
        let inner = Arc::new(ObjectLayout::in_memory());
        let data: Vec<u8> = (0..BLOCKS * BLOCK_SIZE).map(|at| u8::try_from(at / BLOCK_SIZE).unwrap()).collect();
        let patches = vec![Patch { offset: 0, data: data.into(), dirty: true }];
        let change = WriteBack { base: Base::Missing, size: BLOCKS * BLOCK_SIZE, patches, commit: CommitId::random() };
        inner.write_back("f", change).await.unwrap();
        let chaos = Arc::new(ChaosStore::new(inner));
        let store = Arc::new(Noting {
            inner: Arc::clone(&chaos),
            ranges: Mutex::default(),
            running: AtomicUsize::new(0),
            most_at_once: AtomicUsize::new(0),
            gate: Mutex::default(),
        });
        let mount = Mount::with_store("/", Arc::clone(&store) as Arc<dyn FileStore>).unwrap();
        let (vfs, limits) = (Vfs::new(vec![mount]).unwrap(), Limits::with_memory(64 << 20));
        let manager = MmapManager::open(vfs, StateDir::none(), limits).unwrap();
        let (length, prot) = (BLOCKS * BLOCK_SIZE, ProtFlags::read_write());
        let id = manager.mmap(1, "/f".into(), 0, length, prot, MapFlags::Shared).await.unwrap();
        Self { manager, chaos, store, id }
    }

    /// Reads a page of the block, and checks it.
    async fn page(&self, block: u64) {
        let bytes = self.manager.read(1, self.id, block * BLOCK_SIZE + PAGE_SIZE, PAGE_SIZE).await.unwrap();
        assert_eq!(bytes, [u8::try_from(block).unwrap(); 4096]);
    }

    fn script(&self, faults: &[Fault]) {
        faults.iter().for_each(|fault| self.chaos.push(Call::Read, *fault));
    }

    /// Waits until nothing is on its way.
    async fn quiet(&self) {
        eventually("nothing is on its way", || self.manager.shared.fetch.used() == 0).await;
    }

    fn used(&self) -> [u64; 3] {
        let ReadAheadUse { brought, used, wasted } = self.manager.read_ahead_use();
        [brought, used, wasted].map(|bytes| bytes / BLOCK_SIZE)
    }
}

#[tokio::test]
async fn a_scans_requests_are_large_and_few_and_run_side_by_side() {
    let world = World::new().await;
    world.script(&[Fault::Delay(Duration::from_millis(2)); 100]);
    for block in 0..BLOCKS {
        world.page(block).await;
    }
    let requests = world.store.taken();
    assert_eq!(requests.iter().sum::<u64>(), BLOCKS, "each block once");
    assert!(requests.len() <= 80 && requests.iter().max().unwrap() >= &4, "{requests:?}");
    assert!(world.store.most_at_once.load(Ordering::Relaxed) >= 2);
    assert_eq!(world.used(), [BLOCKS - 3, BLOCKS - 3, 0]);
}

#[tokio::test]
async fn random_reads_fetch_one_block_each() {
    let world = World::new().await;
    for number in 0..100u64 {
        world.page(number * number * 37 % 251).await;
    }
    world.quiet().await;
    assert!(world.store.taken().iter().all(|blocks| *blocks == 1));
    assert_eq!(world.used(), [0; 3]);
}

#[tokio::test]
async fn strided_reads_fetch_the_strided_blocks_and_no_others() {
    let world = World::new().await;
    for number in 0..50 {
        world.page(5 * number).await;
    }
    world.quiet().await;
    let ranges = std::mem::take(&mut *world.store.ranges.lock());
    assert!(ranges.iter().all(|range| range.block_count() == 1 && range.start() % (5 * BLOCK_SIZE) == 0));
    assert!(ranges.len() <= 52);
    assert!(world.manager.stats(1, world.id).unwrap().major_faults <= 50);
    assert!(world.used()[1] >= 40, "{:?}", world.used());
}

#[tokio::test]
async fn two_scans_of_one_mapping_that_take_turns_are_both_recognised() {
    let world = World::new().await;
    for at in 0..100 {
        world.page(at).await;
        world.page(255 - at).await;
    }
    world.quiet().await;
    let [brought, used, _] = world.used();
    assert!(brought >= 2 * 97, "{brought}");
    assert!(used >= 2 * (97 - HALF), "{used}");
}

#[tokio::test]
async fn nothing_is_read_ahead_while_unsynced_bytes_press() {
    let world = World::new().await;
    let dirty = &world.manager.shared.dirty;
    let pressing = dirty.try_take(dirty.total() / 2 + BLOCK_SIZE).unwrap();
    for block in 0..20 {
        world.page(block).await;
    }
    assert_eq!(world.store.taken(), [1; 20]);
    drop(pressing);
    for block in 20..60 {
        world.page(block).await;
    }
    let [brought, used, _] = world.used();
    assert!(brought >= 37 && used >= 37 - HALF, "{brought} {used}");
}

#[tokio::test]
async fn a_read_that_somebody_waits_for_overtakes_what_is_read_ahead() {
    let world = World::new().await;
    world.script(&[Fault::Pass, Fault::Pass, Fault::Pass, Fault::Hang]);
    for block in 0..3 {
        world.page(block).await;
    }
    eventually("the read-ahead hangs", || world.chaos.hanging() == 1).await;
    let all = world.manager.shared.ahead.try_take(world.manager.shared.ahead.free()).unwrap();
    let large = world.manager.read(1, world.id, 100 * BLOCK_SIZE, 30 * BLOCK_SIZE);
    tokio::time::timeout(Duration::from_secs(5), large).await.expect("it does not wait").unwrap();
    drop(all);
    world.chaos.release();
    world.page(3).await;
}

#[tokio::test]
async fn what_could_not_be_read_ahead_is_asked_for_again_and_nobodys_error() {
    let world = World::new().await;
    world.script(&[Fault::Pass, Fault::Pass, Fault::Pass, Fault::FailBefore]);
    for block in 0..3 {
        world.page(block).await;
    }
    eventually("it was asked for", || world.chaos.calls(Call::Read) == 4).await;
    world.quiet().await;
    for block in 3..20 {
        world.page(block).await;
    }
}

#[tokio::test]
async fn what_is_read_ahead_stops_when_its_mapping_ends() {
    let world = World::new().await;
    world.script(&[Fault::Hang; 2]);
    world.manager.will_read(1, world.id, 0, BLOCKS * BLOCK_SIZE).unwrap();
    eventually("the read-ahead hangs", || world.chaos.hanging() == 2).await;
    world.manager.munmap(1, world.id).await.unwrap();
    eventually("it has stopped", || world.chaos.hanging() == 0).await;
    assert_eq!((world.manager.shared.fetch.used(), world.used()), (0, [0, 0, 24]));
}

#[tokio::test]
async fn what_is_read_ahead_stops_when_the_read_that_began_it_is_given_up() {
    let world = World::new().await;
    world.script(&[Fault::Pass, Fault::Pass, Fault::Hang, Fault::Hang]);
    world.page(0).await;
    world.page(1).await;
    let (manager, id) = (Arc::clone(&world.manager), world.id);
    let read = tokio::spawn(async move { manager.read(1, id, 2 * BLOCK_SIZE, 1).await });
    eventually("both hang", || world.chaos.hanging() == 2).await;
    read.abort();
    // The block that was waited for is still fetched, as of any read that is given up.
    eventually("one has stopped", || world.chaos.hanging() == 1).await;
    world.chaos.release();
    world.page(2).await;
    world.page(3).await;
}

#[tokio::test]
async fn what_a_truncation_overtakes_is_not_brought() {
    let world = World::new().await;
    world.script(&[Fault::HangAfter; 2]);
    world.manager.will_read(1, world.id, 0, BLOCKS * BLOCK_SIZE).unwrap();
    eventually("the answers are held back", || world.chaos.hanging() == 2).await;
    world.manager.truncate_file(1, "/f", 4 * BLOCK_SIZE, Create::Never).await.unwrap();
    world.manager.truncate_file(1, "/f", BLOCKS * BLOCK_SIZE, Create::Never).await.unwrap();
    world.chaos.release();
    world.quiet().await;
    world.page(3).await;
    let behind = world.manager.read(1, world.id, 5 * BLOCK_SIZE, 1).await.unwrap();
    assert_eq!(behind, [0]);
}

#[tokio::test]
async fn a_reader_waits_for_its_block_and_not_for_the_rest_of_the_request() {
    let world = World::new().await;
    let gate = Arc::new(Semaphore::new(1));
    *world.store.gate.lock() = Some(Arc::clone(&gate));
    world.manager.will_read(1, world.id, 0, 8 * BLOCK_SIZE).unwrap();
    let first = tokio::time::timeout(Duration::from_secs(5), world.page(0));
    first.await.expect("the first block is there before the others");
    let second = tokio::time::timeout(Duration::from_millis(50), world.page(1));
    assert!(second.await.is_err());
    gate.add_permits(100);
    world.page(7).await;
    assert_eq!(world.store.taken(), [8]);
}

#[tokio::test]
async fn a_hint_brings_a_window_and_no_more_until_the_reader_comes() {
    let world = World::new().await;
    world.manager.will_read(1, world.id, 10 * BLOCK_SIZE, 100 * BLOCK_SIZE).unwrap();
    world.quiet().await;
    assert_eq!(world.store.taken(), [16, 8]);
    for block in 10..110 {
        world.page(block).await;
    }
    world.quiet().await;
    assert_eq!(world.store.taken().iter().sum::<u64>(), 100 - 24, "and nothing behind its end");
    assert_eq!(world.used(), [100, 100, 0]);
}

#[tokio::test]
async fn populate_asks_for_several_runs_side_by_side() {
    let world = World::new().await;
    world.script(&[Fault::Delay(Duration::from_millis(5)); 20]);
    let request = MapRequest {
        path: "/f".into(),
        offset: 0,
        length: Some(BLOCKS * BLOCK_SIZE),
        prot: ProtFlags::PROT_READ,
        flags: MapFlags::Shared,
        create: Create::Never,
        populate: Populate::Now,
    };
    let mapped = world.manager.map(1, request).await.unwrap();
    assert_eq!(world.manager.stats(1, mapped.id).unwrap().resident_bytes, BLOCKS * BLOCK_SIZE);
    assert_eq!(world.store.taken(), [16; 16]);
    assert!(world.store.most_at_once.load(Ordering::Relaxed) >= 2);
    assert!(world.manager.shared.ahead.used() == 0);
}
