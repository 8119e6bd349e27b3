//! Cold reads in the core alone: a file in `rclone serve s3` that nothing is in memory of, beside object_store's own
//! ranged GETs to the same server with the same client, in this process. `cargo bench -p mmap-benches --bench cold`.
//!
//! The same over the wire is the topic `store`. Each round of ours has a manager of its own, which has nothing in
//! memory: making it and ending it is not measured.
#![allow(missing_docs, reason = "a bench target has no users")]

mod direct;

use std::cell::Cell;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mmap_benches::measure::measure;
use mmap_benches::peers::settings::Settings;
use mmap_benches::rows::{Sample, Table, Target, Unit, Who};
use mmap_benches::s3::S3;
use mmap_benches::side::within;
use mmap_benches::stats::quantile;
use mmap_benches::topic::{self, Topic};
use mmap_core::flags::{MapFlags, ProtFlags};
use mmap_core::limits::Limits;
use mmap_core::manager::{MmapId, MmapManager};
use mmap_core::state::StateDir;
use mmap_core::vfs::object::{ObjectLayout, ObjectOptions};
use mmap_core::vfs::{Mount, Vfs};
use object_store::path::Path;

use self::direct::{Direct, MIB, on_worker};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const FILE: &str = "big";
const KIB: u64 = 1 << 10;
const BLOCK: u64 = 64 * KIB;
/// Sizes of a GET in MiB and how many are under way: the best of them is the row.
const SHAPES: [(u64, usize); 7] = [(1, 8), (4, 4), (4, 8), (8, 2), (8, 4), (16, 2), (16, 4)];
/// The same for a store that answers late.
const LATE_SHAPES: [(u64, usize); 5] = [(1, 32), (4, 8), (4, 16), (8, 8), (16, 4)];
/// How late.
const LATE: Duration = Duration::from_millis(20);
/// The readers of a scan: what each read asks for, and whether it said first what it is going to read.
const READERS: [(u64, bool); 4] = [(64 * KIB, false), (256 * KIB, false), (MIB, false), (MIB, true)];
const BEST: &str = "object_store, best parallel ranged GETs";

fn said(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// A manager that has nothing in memory, and the whole file mapped.
async fn mapped(direct: &Direct) -> Result<(Arc<MmapManager>, MmapId), String> {
    let store = ObjectLayout::new(Arc::clone(&direct.store), Path::ROOT, ObjectOptions::default());
    let mount = Mount::with_store("/", Arc::new(store)).map_err(said)?;
    let vfs = Vfs::new(vec![mount]).map_err(said)?;
    let manager = MmapManager::open(vfs, StateDir::none(), Limits::default()).map_err(said)?;
    let name = format!("/{}", direct.name);
    let id = manager.mmap(1, name, 0, direct.size, ProtFlags::PROT_READ, MapFlags::Shared).await.map_err(said)?;
    Ok((manager, id))
}

/// One reader from the first byte to the last.
fn scan(direct: &Direct, chunk: u64, is_hinted: bool) -> Result<Sample, String> {
    let (manager, id) = within(&direct.runtime, mapped(direct))?;
    let (reader, size) = (Arc::clone(&manager), direct.size);
    let sample = measure(Unit::GibPerSecond, &direct.pids, || {
        on_worker(&direct.runtime, async move {
            let manager = reader;
            if is_hinted {
                manager.will_read(1, id, 0, size).map_err(said)?;
            }
            for offset in (0..size).step_by(usize::try_from(chunk).map_err(said)?) {
                let got = manager.read(1, id, offset, chunk).await.map_err(said)?;
                if got.len() as u64 != chunk {
                    return Err(format!("a read of {chunk} bytes was answered with {}", got.len()));
                }
            }
            Ok(u32::try_from(size / MIB).map_or(f64::NAN, f64::from))
        })
    })?;
    if std::env::var_os("COLD_NOTES").is_some() {
        let faults = manager.stats(1, id).map_err(said)?.major_faults;
        eprintln!("    {faults} of {} blocks were waited for; {:?}", direct.size / BLOCK, manager.read_ahead_use());
    }
    within(&direct.runtime, async { manager.munmap(1, id).await.map_err(said) })?;
    Ok(sample)
}

/// Reads of 4 KiB in these blocks: the median in microseconds.
fn random(direct: &Direct, blocks: &[u64]) -> Result<Sample, String> {
    let (manager, id) = within(&direct.runtime, mapped(direct))?;
    let (blocks, mut times) = (blocks.to_vec(), Vec::new());
    let sample = measure(Unit::Microseconds, &direct.pids, || {
        times = on_worker(&direct.runtime, async move {
            let mut times = Vec::with_capacity(blocks.len());
            for block in blocks {
                let asked = Instant::now();
                manager.read(1, id, block * BLOCK + 8192, 4096).await.map_err(said)?;
                times.push(asked.elapsed().as_secs_f64() * 1e6);
            }
            Ok(times)
        })?;
        Ok(u32::try_from(times.len()).map_or(f64::NAN, f64::from))
    })?;
    Ok(Sample { value: quantile(&mut times, 500).unwrap_or(f64::NAN), ..sample })
}

/// All blocks of a file, each once, in an order without a pattern that read-ahead could find.
struct Shuffled {
    blocks: Vec<u64>,
    next: Cell<usize>,
}

impl Shuffled {
    fn of(size: u64) -> Self {
        let mut blocks: Vec<u64> = (0..size / BLOCK).collect();
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        for last in (1..blocks.len()).rev() {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let other = state % (last as u64 + 1);
            blocks.swap(last, usize::try_from(other).unwrap_or(last));
        }
        Self { blocks, next: Cell::new(0) }
    }

    /// Some that were not taken before.
    fn take(&self, count: usize) -> Result<&[u64], String> {
        let start = self.next.replace(self.next.get() + count);
        self.blocks.get(start..start + count).ok_or_else(|| "the file has no more blocks, so many rounds".to_owned())
    }
}

fn main() -> ExitCode {
    topic::run("cold", "Cold reads: the core beside object_store", |topic| {
        let size = if topic.options().is_quick { 128 * MIB } else { 1024 * MIB };
        let s3 = S3::start().and_then(|s3| s3.put(FILE, size).map(|()| s3));
        if let Some(version) = s3.as_ref().ok().and_then(S3::version) {
            topic.version("rclone", &version);
        }
        let asked = |late| {
            let s3 = s3.as_ref().map_err(Clone::clone)?;
            let runtime = Settings::DEFAULTS.runtime()?;
            Ok(Direct { store: direct::client(s3, late)?, name: FILE, size, pids: vec![s3.pid()], runtime })
        };
        let (direct, late) = (asked(Duration::ZERO), asked(LATE));
        let title = format!("Cold scan of {} MiB in S3 (rclone) by the core", size / MIB);
        scans(topic, Table::new("cold-scan", &title, Unit::GibPerSecond), &direct, &SHAPES);
        let title = format!("The same, each answer {} ms late", LATE.as_millis());
        scans(topic, Table::new("cold-scan-late", &title, Unit::GibPerSecond), &late, &LATE_SHAPES);
        randoms(topic, &direct);
    })
}

fn scans(topic: &mut Topic, table: Table, direct: &Result<Direct, String>, shapes: &'static [(u64, usize)]) {
    let name = |(chunk, is_hinted): (u64, bool)| {
        format!("the core, reads of {} KiB{}", chunk / KIB, if is_hinted { ", will_read" } else { "" })
    };
    let mut table = table;
    for reader in READERS {
        let what = format!("{} / object_store's best", name(reader));
        table = table.target(Target::at_least(&what, &name(reader), BEST, 0.9));
    }
    let Some(mut contest) = topic.contest(table) else { return };
    match direct {
        Ok(it) => {
            for reader in READERS {
                contest.row(&name(reader), Who::Ours, move || scan(it, reader.0, reader.1));
            }
            let shape = it.best(shapes);
            contest.row(BEST, Who::Ceiling, move || it.scan(shape));
            contest.note(&format!("{} MiB each, {} under way, the best of {shapes:?}", shape.0, shape.1));
        }
        Err(why) => {
            READERS.iter().for_each(|reader| contest.gap(&name(*reader), Who::Ours, why));
            contest.gap(BEST, Who::Ceiling, why);
        }
    }
    contest.run();
}

fn randoms(topic: &mut Topic, direct: &Result<Direct, String>) {
    let (ours, block) = ("the core, cold read of 4 KiB", "object_store, GET of 64 KiB");
    let table =
        Table::new("cold-random", "Cold random reads of 4 KiB by the core, 1 at a time, p50", Unit::Microseconds)
            .target(Target::at_most("cold random 4 KiB read / one bare 64 KiB ranged GET, p50", ours, block, 1.15));
    let reads = if topic.options().is_quick { 100 } else { 600 };
    let blocks = direct.as_ref().map_or_else(|_| Shuffled::of(0), |it| Shuffled::of(it.size));
    let Some(mut contest) = topic.contest(table) else { return };
    match direct {
        Ok(it) => {
            contest.row(ours, Who::Ours, || random(it, blocks.take(reads)?));
            contest
                .row(block, Who::Ceiling, || it.random(BLOCK, blocks.take(reads)?.iter().map(|block| block * BLOCK)));
        }
        Err(why) => {
            contest.gap(ours, Who::Ours, why);
            contest.gap(block, Who::Ceiling, why);
        }
    }
    contest.run();
}
