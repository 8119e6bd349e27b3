//! Readers beside writers that are faster than the store: 4 KiB reads, idle and while a hundred writers offer
//! ten times what the store takes. `cargo bench -p mmap-benches --bench pressure`.
//!
//! What counts is the ratio of the p99s: at most 3 is the aim. Hot reads are of blocks that writers change,
//! cold ones of a file that no block of is in memory, its store's own time included.
#![allow(clippy::unwrap_used, missing_docs, reason = "a measurement that fails has to say so and end")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use mmap_core::flags::{MapFlags, ProtFlags};
use mmap_core::limits::Limits;
use mmap_core::manager::{Create, MmapId, MmapManager, OnChange, SyncRequest};
use mmap_core::state::StateDir;
use mmap_core::units::ByteRange;
use mmap_core::vfs::object::ObjectLayout;
use mmap_core::vfs::{FileStore, Listed, Mount, Stat, StoreResult, Traits, Version, Vfs, Writability, WriteBack};
use tokio::runtime::Builder;
use tokio::sync::Mutex;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const WRITERS: u64 = 100;
const FILES: u64 = 20;
const FILE_SIZE: u64 = 4 << 20;
const PIECE: u64 = 16 << 10;
const PHASE: Duration = Duration::from_secs(5);
/// What the store takes in a second, and what the writers offer.
const STORE_RATE: u64 = 20 << 20;
const OFFERED: u64 = 10 * STORE_RATE;
/// What a request to the store takes at least, as one in a rack nearby.
const STORE_TIME: Duration = Duration::from_millis(2);

/// A store in memory that answers as one on a network would.
#[derive(Debug)]
struct Slow {
    inner: ObjectLayout,
    taking: Mutex<()>,
    taken: AtomicU64,
}

#[async_trait]
impl FileStore for Slow {
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
        tokio::time::sleep(STORE_TIME).await;
        self.inner.read(name, version, range).await
    }

    async fn write_back(&self, name: &str, change: WriteBack) -> StoreResult<Stat> {
        let unsynced: u64 = change.patches.iter().filter(|patch| patch.dirty).map(|patch| patch.range().len()).sum();
        {
            let _turn = self.taking.lock().await;
            tokio::time::sleep(STORE_TIME + Duration::from_micros(unsynced * 1_000_000 / STORE_RATE)).await;
        }
        self.taken.fetch_add(unsynced, Ordering::Relaxed);
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

async fn map(manager: &Arc<MmapManager>, path: &str) -> MmapId {
    manager.truncate_file(1, path, FILE_SIZE, Create::IfMissing).await.unwrap();
    manager.mmap(1, path.to_owned(), 0, FILE_SIZE, ProtFlags::read_write(), MapFlags::Shared).await.unwrap()
}

/// Places without a pattern.
fn somewhere(call: u64, length: u64) -> u64 {
    call.wrapping_mul(0x9E37_79B9_7F4A_7C15) % (FILE_SIZE / length) * length
}

/// The times of hot and of cold reads of one phase.
async fn readers(manager: &Arc<MmapManager>, hot: &[MmapId], cold: MmapId) -> [Vec<Duration>; 2] {
    let started = Instant::now();
    let (mut hots, mut colds) = (Vec::new(), Vec::new());
    let drop_clean = SyncRequest { on_change: OnChange::Invalidate, ..SyncRequest::default() };
    for call in 0u64.. {
        if started.elapsed() > PHASE {
            break;
        }
        let id = hot[usize::try_from(call).unwrap() % hot.len()];
        hots.push(timed(manager, id, somewhere(call, 4096)).await);
        if call % 20 == 0 {
            manager.sync(1, cold, drop_clean).await.unwrap();
            colds.push(timed(manager, cold, somewhere(call, 4096)).await);
        }
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
    [hots, colds]
}

async fn timed(manager: &Arc<MmapManager>, id: MmapId, offset: u64) -> Duration {
    let started = Instant::now();
    manager.read(1, id, offset, 4096).await.unwrap();
    started.elapsed()
}

fn quantile(times: &mut [Duration], per_thousand: usize) -> f64 {
    times.sort_unstable();
    times[times.len() * per_thousand / 1000].as_secs_f64() * 1e6
}

/// Each offers its part of what all offer, and is held up by the limit of unsynced bytes.
async fn write(manager: Arc<MmapManager>, id: MmapId, number: u64, stop: Arc<AtomicBool>) {
    let pause = Duration::from_micros(PIECE * WRITERS * 1_000_000 / OFFERED);
    let data = vec![9; usize::try_from(PIECE).unwrap()];
    let mut call = number << 20;
    while !stop.load(Ordering::Relaxed) {
        call += 1;
        manager.write(1, id, somewhere(call, PIECE), &data).await.unwrap();
        tokio::time::sleep(pause).await;
    }
}

async fn measure() {
    let store = Slow { inner: ObjectLayout::in_memory(), taking: Mutex::new(()), taken: AtomicU64::new(0) };
    let store = Arc::new(store);
    let vfs = Vfs::new(vec![Mount::with_store("/", Arc::clone(&store) as Arc<dyn FileStore>).unwrap()]).unwrap();
    let manager = MmapManager::open(vfs, StateDir::none(), Limits::with_memory(128 << 20)).unwrap();
    let mut files = Vec::new();
    for number in 0..FILES {
        files.push(map(&manager, &format!("/{number}")).await);
    }
    let cold = map(&manager, "/cold").await;
    // Few enough that what readers want stays in the cache.
    let hot = &files[..4];
    for id in hot {
        for offset in (0..FILE_SIZE).step_by(1 << 20) {
            manager.read(1, *id, offset, 1 << 20).await.unwrap();
        }
    }
    let [mut idle_hot, mut idle_cold] = readers(&manager, hot, cold).await;
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..WRITERS)
        .map(|number| {
            let id = files[usize::try_from(number % FILES).unwrap()];
            tokio::spawn(write(Arc::clone(&manager), id, number, Arc::clone(&stop)))
        })
        .collect();
    // Until the limit is reached: from then on writers wait.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let taken = store.taken.load(Ordering::Relaxed);
    let [mut busy_hot, mut busy_cold] = readers(&manager, hot, cold).await;
    let taken = store.taken.load(Ordering::Relaxed) - taken;
    println!("unsynced memory {} of {} KiB", manager.memory_use().dirty >> 10, manager.limits().dirty_bytes() >> 10);
    println!("the store took {} KiB/s", (taken >> 10) / PHASE.as_secs());
    for (name, idle, busy) in [("hot", &mut idle_hot, &mut busy_hot), ("cold", &mut idle_cold, &mut busy_cold)] {
        let reads = busy.len();
        for (label, part) in [("p50", 500), ("p99", 990)] {
            let (idle, busy) = (quantile(idle, part), quantile(busy, part));
            println!(
                "{name:<4} read of 4 KiB, {label}: idle {idle:>8.1} us, under pressure {busy:>8.1} us, {:>5.2} x ({reads} reads)",
                busy / idle
            );
        }
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
}

fn main() {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    println!("{cores} cores, {}, {WRITERS} writers", std::env::consts::ARCH);
    Builder::new_multi_thread().enable_all().build().unwrap().block_on(measure());
}
