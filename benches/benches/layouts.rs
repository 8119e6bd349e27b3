//! What an msync costs, in time and in bytes, over the three layouts and files of 1 MiB to 4 GiB: after a write of
//! one page at a random place, and after writes of 64 pages scattered. `cargo bench -p mmap-benches --bench layouts`.
//!
//! The layouts run in turn, several rounds, in the core without a journal and without a network: what a store far
//! away adds is the requests' round trips and the bytes' transfer, which are counted. Prints Markdown. Ends with an
//! error if 4 KiB in a file of 1 GiB upload more than 256 KiB on `log` or write more than 64 KiB on `local`.
//! `TMPDIR` says which disk; what is written there is removed.
#![allow(clippy::unwrap_used, missing_docs, reason = "a measurement that fails has to say so and end")]

mod counted;
mod machine;

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use counted::{Counted, Counts, Tally};
use mmap_core::flags::{MapFlags, ProtFlags};
use mmap_core::limits::Limits;
use mmap_core::manager::{Create, MmapId, MmapManager};
use mmap_core::state::StateDir;
use mmap_core::units::{PAGE_LEN, PAGE_SIZE};
use mmap_core::vfs::local::LocalLayout;
use mmap_core::vfs::log::{LogLayout, LogOptions};
use mmap_core::vfs::object::{ObjectLayout, ObjectOptions};
use mmap_core::vfs::{FileStore, Mount, Vfs};
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use tempfile::TempDir;
use tokio::runtime::Builder;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const SIZES: [u64; 5] = [MIB, 16 * MIB, 256 * MIB, GIB, 4 * GIB];
const ROUNDS: u64 = 41;
/// Pages of the scattered write.
const SCATTERED: u64 = 64;
/// Up to this size every page of the file is there; larger ones are holes, or zeros where a layout has no holes.
const DENSE_MAX: u64 = 16 * MIB;
/// Above it the look-alike would hold the old object, the parts and the new object: three times the file, in memory.
const OBJECT_MAX: u64 = GIB;
/// What the project promises of 4 KiB in a file of 1 GiB.
const LOG_UPLOAD_MAX: u64 = 256 * KIB;
const LOCAL_WRITE_MAX: u64 = 64 * KIB;
/// Changes over which the database's work of later is spread.
const LATER_CHANGES: u64 = 4096;

/// A layout with a file in it.
struct Peer {
    name: &'static str,
    store: Arc<dyn FileStore>,
    tally: Arc<Tally>,
    manager: Arc<MmapManager>,
    file: MmapId,
    rounds: u64,
    /// What it lies in.
    _folder: Option<TempDir>,
}

/// What one change cost.
#[derive(Clone, Copy, Debug)]
struct Sample {
    nanos: u64,
    uploaded: u64,
    fetched: u64,
    requests: u64,
    /// By this process, to any disk.
    written: u64,
}

/// Which bytes are written before the msync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    /// A whole page.
    Page,
    /// 4 KiB that lie in two pages.
    Across,
    /// Whole pages far from each other.
    Scattered,
}

impl Change {
    /// Where 4 KiB each are written, each in a part of the file of its own.
    fn offsets(self, size: u64, round: u64) -> impl Iterator<Item = u64> {
        let (pages, shift) = match self {
            Self::Page => (1, 0),
            Self::Across => (1, PAGE_SIZE / 2),
            Self::Scattered => (SCATTERED, 0),
        };
        let part = size / pages;
        (0..pages).map(move |page| page * part + place(part, round * pages + page) + shift)
    }
}

impl Peer {
    async fn open(
        name: &'static str,
        store: Arc<dyn FileStore>,
        tally: Arc<Tally>,
        folder: Option<TempDir>,
        size: u64,
    ) -> Self {
        let vfs = Vfs::new(vec![Mount::with_store("/", Arc::clone(&store)).unwrap()]).unwrap();
        let manager = MmapManager::open(vfs, StateDir::none(), Limits::default()).unwrap();
        manager.truncate_file(1, "/f", size, Create::IfMissing).await.unwrap();
        let (prot, flags) = (ProtFlags::read_write(), MapFlags::Shared);
        let file = manager.mmap(1, "/f".to_owned(), 0, size, prot, flags).await.unwrap();
        if size <= DENSE_MAX {
            let data = vec![5; usize::try_from(MIB).unwrap()];
            for offset in (0..size).step_by(data.len()) {
                manager.write(1, file, offset, &data).await.unwrap();
            }
            manager.msync(1, file).await.unwrap();
        }
        let rounds = if name == OBJECT && size > 16 * MIB { 5 } else { ROUNDS };
        Self { name, store, tally, manager, file, rounds, _folder: folder }
    }

    async fn object(size: u64) -> Self {
        let (store, tally) = Counted::over(Arc::new(InMemory::new()));
        let store = Arc::new(ObjectLayout::new(store, Path::ROOT, ObjectOptions::default()));
        Self::open(OBJECT, store, tally, None, size).await
    }

    async fn local(size: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(LocalLayout::open(folder.path()).unwrap());
        Self::open(LOCAL, store, Arc::default(), Some(folder), size).await
    }

    /// As a mount of a folder opens it: each object is fsynced.
    async fn log_in_folder(size: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let objects = LocalFileSystem::new_with_prefix(folder.path()).unwrap().with_fsync(true);
        let options = LogOptions { has_if_match: false, ..LogOptions::default() };
        Self::log("log, folder", Arc::new(objects), options, Some(folder), size).await
    }

    async fn log_in_memory(size: u64) -> Self {
        Self::log("log, memory", Arc::new(InMemory::new()), LogOptions::default(), None, size).await
    }

    async fn log(
        name: &'static str,
        objects: Arc<dyn ObjectStore>,
        options: LogOptions,
        folder: Option<TempDir>,
        size: u64,
    ) -> Self {
        let (objects, tally) = Counted::over(objects);
        let store = Arc::new(LogLayout::new(objects, Path::ROOT, false, options));
        Self::open(name, store, tally, folder, size).await
    }

    /// One change and its msync.
    async fn change(&self, size: u64, change: Change, round: u64) -> Sample {
        let data = [u8::try_from(round % 251).unwrap(); PAGE_LEN];
        let (counts, written, started) = (self.tally.now(), written_bytes(), Instant::now());
        for offset in change.offsets(size, round) {
            self.manager.write(1, self.file, offset, &data).await.unwrap();
        }
        let synced = self.manager.msync(1, self.file).await.unwrap();
        let nanos = u64::try_from(started.elapsed().as_nanos()).unwrap();
        assert!(synced.bytes >= PAGE_SIZE, "the change was stored already");
        let (Counts { uploaded, fetched, requests }, now) = (self.tally.now(), written_bytes());
        Sample {
            nanos,
            uploaded: uploaded - counts.uploaded,
            fetched: fetched - counts.fetched,
            requests: requests - counts.requests,
            written: now - written,
        }
    }

    async fn close(self) {
        let report = self.manager.shutdown(Duration::from_secs(30)).await;
        assert!(report.unsynced.is_empty(), "{report:?}");
        self.store.close().await.unwrap();
    }
}

const OBJECT: &str = "object, memory";
const LOCAL: &str = "local, folder";
const BARE: &str = "bare pwrite, fdatasync";

/// The same pages written into a plain file in place and synced, which promises nothing: what the disk takes.
fn bare(file: &File, size: u64, change: Change, round: u64) -> Sample {
    let (written, started) = (written_bytes(), Instant::now());
    for offset in change.offsets(size, round) {
        file.write_all_at(&[1; PAGE_LEN], offset).unwrap();
    }
    file.sync_data().unwrap();
    let nanos = u64::try_from(started.elapsed().as_nanos()).unwrap();
    Sample { nanos, uploaded: 0, fetched: 0, requests: 0, written: written_bytes() - written }
}

/// The start of a page within so many bytes, not the last one, without a pattern.
fn place(size: u64, number: u64) -> u64 {
    let mixed = (number + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed ^ (mixed >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9) % (size / PAGE_SIZE - 1) * PAGE_SIZE
}

/// What this process has had written to disks.
fn written_bytes() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap();
    io.lines().find_map(|line| line.strip_prefix("write_bytes: ")).unwrap().parse().unwrap()
}

/// The middle value, and the one that a twentieth is greater than.
fn middle_and_p95(samples: &[Sample], column: fn(&Sample) -> u64) -> [u64; 2] {
    let mut values: Vec<u64> = samples.iter().map(column).collect();
    values.sort_unstable();
    let last = values.len() - 1;
    [values[values.len() / 2], values[(values.len() * 95).div_ceil(100).min(last)]]
}

#[allow(clippy::cast_precision_loss, reason = "a measurement of some digits")]
fn tenths(dividend: u64, divisor: u64) -> String {
    format!("{:.1}", dividend as f64 / divisor as f64)
}

fn size_text(size: u64) -> String {
    if size < GIB { format!("{} MiB", size / MIB) } else { format!("{} GiB", size / GIB) }
}

fn print_head(change: &str) {
    println!("\n### {change}\n");
    println!(
        "| file | layout | time, median ms | p95 ms | uploaded KiB | p95 KiB | requests | fetched KiB | to the disk KiB |"
    );
    println!("|---|---|--:|--:|--:|--:|--:|--:|--:|");
}

fn row(size: u64, name: &str, samples: &[Sample]) -> String {
    let [time, slow] = middle_and_p95(samples, |sample| sample.nanos / 1000);
    let [uploaded, most] = middle_and_p95(samples, |sample| sample.uploaded);
    let [requests, _] = middle_and_p95(samples, |sample| sample.requests);
    let [fetched, _] = middle_and_p95(samples, |sample| sample.fetched);
    let [written, _] = middle_and_p95(samples, |sample| sample.written);
    let kib = |bytes| tenths(bytes, KIB);
    // A folder is asked by system calls, which are no requests.
    let of_store = |text: String| if [LOCAL, BARE].contains(&name) { "–".to_owned() } else { text };
    format!(
        "| {} | {} | {} | {} | {} | {} | {} | {} | {} |",
        size_text(size),
        name,
        tenths(time, 1000),
        tenths(slow, 1000),
        of_store(kib(uploaded)),
        of_store(kib(most)),
        of_store(requests.to_string()),
        of_store(kib(fetched)),
        kib(written)
    )
}

/// All layouts in turn, round by round: the rows of one size, for one page and for the scattered ones.
async fn rows(size: u64) -> [Vec<String>; 2] {
    let mut peers = vec![Peer::local(size).await, Peer::log_in_folder(size).await, Peer::log_in_memory(size).await];
    if size <= OBJECT_MAX {
        peers.insert(0, Peer::object(size).await);
    }
    let plain = tempfile::tempfile().unwrap();
    plain.set_len(size).unwrap();
    let mut tables = [Vec::new(), Vec::new()];
    for (table, change) in tables.iter_mut().zip([Change::Page, Change::Scattered]) {
        if size > OBJECT_MAX {
            let (file, three) = (size_text(size), size_text(3 * size));
            table.push(format!("| {file} | {OBJECT} | not run: it would hold {three} in memory | | | | | | |"));
        }
        let mut samples = vec![Vec::new(); peers.len()];
        let mut bares = Vec::new();
        // The first is not counted: it finds nothing warm.
        for round in 0..=ROUNDS {
            bares.extend((round > 0).then(|| bare(&plain, size, change, round)));
            for (peer, samples) in peers.iter().zip(&mut samples) {
                if round <= peer.rounds {
                    let sample =
                        peer.change(size, change, round + ROUNDS * 2 * u64::from(change == Change::Page)).await;
                    samples.extend((round > 0).then_some(sample));
                }
            }
        }
        table.extend(peers.iter().zip(&samples).map(|(peer, samples)| row(size, peer.name, samples)));
        table.push(row(size, BARE, &bares));
    }
    for peer in peers {
        peer.close().await;
    }
    tables
}

/// 4 KiB in a file of 1 GiB, nothing else running: the most that any change cost.
async fn check() {
    println!("\n### The promise: 4 KiB written at a random place of 1 GiB, then msync; the most of {ROUNDS} changes\n");
    println!("| layout | the 4 KiB are | uploaded KiB | to the disk KiB | allowed KiB |\n|---|---|--:|--:|--:|");
    let mut kept = true;
    for number in 0..3 {
        let peer = match number {
            0 => Peer::local(GIB).await,
            1 => Peer::log_in_folder(GIB).await,
            _ => Peer::log_in_memory(GIB).await,
        };
        for (change, what) in [(Change::Page, "one page"), (Change::Across, "in two pages")] {
            let (mut uploaded, mut written) = (0, 0);
            for round in 0..ROUNDS {
                let sample = peer.change(GIB, change, round + ROUNDS * u64::from(change == Change::Page)).await;
                (uploaded, written) = (uploaded.max(sample.uploaded), written.max(sample.written));
            }
            let (most, allowed) =
                if peer.name == LOCAL { (written, LOCAL_WRITE_MAX) } else { (uploaded, LOG_UPLOAD_MAX) };
            kept &= most <= allowed;
            let [uploaded, written, allowed] = [uploaded, written, allowed].map(|bytes| tenths(bytes, KIB));
            println!("| {} | {what} | {uploaded} | {written} | {allowed} |", peer.name);
        }
        peer.close().await;
    }
    assert!(kept, "a change cost more than is allowed");
}

/// What `log` uploads later, when it makes tables of its changes and merges them, spread over the changes.
async fn later() {
    let peer = Peer::log_in_memory(GIB).await;
    let start = peer.tally.now();
    let mut samples = Vec::new();
    for round in 0..LATER_CHANGES {
        samples.push(peer.change(GIB, Change::Page, round).await);
    }
    // Tables are looked at once a second.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let all = peer.tally.now();
    let [one, _] = middle_and_p95(&samples, |sample| sample.uploaded);
    let (bytes, requests) = (all.uploaded - start.uploaded, all.requests - start.requests);
    println!(
        "\n`log`, {LATER_CHANGES} changes of one page each, one after the other: a change uploads {} KiB before it \
         answers (median); all that was uploaded, with the tables made and merged meanwhile and 5 s later, is {} KiB \
         and {} requests a change.",
        tenths(one, KIB),
        tenths(bytes, LATER_CHANGES * KIB),
        tenths(requests, LATER_CHANGES)
    );
    peer.close().await;
}

fn print_setting() {
    println!("{}", machine::describe(&std::env::temp_dir()));
    println!(
        "{ROUNDS} rounds, the layouts in turn; `{OBJECT}` 5 rounds above 16 MiB (its p95 is the slowest). No journal, \
         no network. `{OBJECT}` is an object store in memory (moto copies whole objects in Python, which would be \
         the time measured), `log, folder` and `{LOCAL}` fsync. Files up to 16 MiB are \
         full and in memory, larger ones are holes at first. Bytes and requests are medians; those of `log` hold what \
         its background work did meanwhile."
    );
}

async fn measure() {
    check().await;
    let (mut pages, mut scattered) = (Vec::new(), Vec::new());
    for size in SIZES {
        let [one, many] = rows(size).await;
        pages.extend(one);
        scattered.extend(many);
    }
    for (what, rows) in [("One page", pages), ("64 pages, scattered", scattered)] {
        print_head(&format!("{what}, then msync"));
        for row in rows {
            println!("{row}");
        }
    }
    later().await;
}

fn main() {
    print_setting();
    Builder::new_multi_thread().enable_all().build().unwrap().block_on(measure());
}
