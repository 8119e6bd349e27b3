//! mmapd beside going to the store directly: ranged GETs by object_store, to one `rclone serve s3` and to one folder,
//! against reads through mmapd, cold and warm. `cargo bench -p mmap-benches --bench store`.
//!
//! What the core alone does with a store is the topic `cold`. Client, mmapd and store share one machine here, so that
//! a scan through mmapd moves every byte once more than the direct one.
#![allow(missing_docs, reason = "a bench target has no users")]

mod direct;

use std::path::Path as Folder;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use mmap_benches::bucket::Bucket;
use mmap_benches::load::offset;
use mmap_benches::peers::settings::Settings;
use mmap_benches::rows::{Sample, Table, Target, Unit, Who};
use mmap_benches::s3::S3;
use mmap_benches::topic::{self, Topic};
use object_store::local::LocalFileSystem;

use self::direct::{Direct, MIB};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const FILE: &str = "big";
const WARM: &str = "warm";
/// Sizes of a GET in MiB and how many are under way: the best of them is the row.
const SHAPES: [(u64, usize); 6] = [(1, 8), (1, 32), (4, 8), (4, 16), (8, 8), (16, 4)];

fn of_s3(s3: &S3, size: u64) -> Result<Direct, String> {
    let (store, pids) = (direct::client(s3, Duration::ZERO)?, vec![s3.pid()]);
    Ok(Direct { store, name: FILE, size, pids, runtime: Settings::TUNED.runtime()? })
}

fn of_folder(folder: &Folder, size: u64) -> Result<Direct, String> {
    let store = LocalFileSystem::new_with_prefix(folder).map_err(|error| error.to_string())?;
    Ok(Direct { store: Arc::new(store), name: FILE, size, pids: Vec::new(), runtime: Settings::TUNED.runtime()? })
}

fn main() -> ExitCode {
    topic::run("store", "The store: mmapd beside asking it directly", |topic| {
        let size = if topic.options().is_quick { 64 * MIB } else { 1024 * MIB };
        let s3 = S3::start().and_then(|s3| s3.put(FILE, size).and_then(|()| s3.put(WARM, size)).map(|()| s3));
        if let Some(version) = s3.as_ref().ok().and_then(S3::version) {
            topic.version("rclone", &version);
        }
        let failed = |s3: &Result<S3, String>| s3.as_ref().err().cloned().unwrap_or_default();
        let opened = |name| s3.as_ref().map_err(Clone::clone).and_then(|s3| Bucket::open(s3, name));
        let direct = s3.as_ref().map_err(Clone::clone).and_then(|s3| of_s3(s3, size));
        if topic.wants_any(&["s3-scan", "s3-random"]) {
            let ours = Ours { cold: opened(FILE), warm: opened(WARM).and_then(warmed) };
            tables(topic, "s3", "S3 (rclone)", &ours, &direct);
        }
        if topic.wants_any(&["folder-scan", "folder-random"]) {
            let opened = |name| match &s3 {
                Ok(s3) => Bucket::folder(&s3.objects(), name),
                Err(_) => Err(failed(&s3)),
            };
            let ours = Ours { cold: opened(FILE), warm: opened(WARM).and_then(warmed) };
            let direct = s3.as_ref().map_err(Clone::clone).and_then(|s3| of_folder(&s3.objects(), size));
            tables(topic, "folder", "a folder (the page cache has it)", &ours, &direct);
        }
    })
}

/// Two servers: one that is made cold each round, and one that stays warm.
struct Ours {
    cold: Result<Bucket, String>,
    warm: Result<Bucket, String>,
}

fn warmed(bucket: Bucket) -> Result<Bucket, String> {
    bucket.scan().map(|_| bucket)
}

const COLD_ROW: &str = "mmapd, cold";
const WARM_ROW: &str = "mmapd, warm";

fn tables(topic: &mut Topic, id: &str, name: &str, ours: &Ours, direct: &Result<Direct, String>) {
    let best = "object_store, best parallel ranged GETs";
    let title = format!("Scan of 1 GiB in {name}");
    let mut table = Table::new(&format!("{id}-scan"), &title, Unit::GibPerSecond);
    if id == "s3" {
        table = table.target(Target::at_least(
            "cold scan of 1 GiB through mmapd / object_store's best",
            COLD_ROW,
            best,
            0.9,
        ));
    }
    if let Some(mut contest) = topic.contest(table) {
        contest.note(
            "each cold scan comes right after one that is not counted, because a server that works has its memory: what \
             is free for some seconds goes back to the host of a virtual machine, and to get it again took 1.7 s a GiB \
             on this one",
        );
        rows(&mut contest, ours, Bucket::scan);
        match direct {
            Ok(it) => {
                let shape = it.best(&SHAPES);
                contest.row(best, Who::Ceiling, move || it.scan(shape));
                contest.note(&format!("{} MiB each, {} under way, the best of {SHAPES:?}", shape.0, shape.1));
            }
            Err(why) => contest.gap(best, Who::Ceiling, why),
        }
        contest.run();
    }
    let (block, page) = ("object_store, GET of 64 KiB", "object_store, GET of 4 KiB");
    let title = format!("Random reads of 4 KiB of 1 GiB in {name}, 1 at a time, p50");
    let mut table = Table::new(&format!("{id}-random"), &title, Unit::Microseconds);
    if id == "s3" {
        let what = "cold random 4 KiB read through mmapd / one bare 64 KiB ranged GET, p50";
        table = table.target(Target::at_most(what, COLD_ROW, block, 1.15));
    }
    let reads = if topic.options().is_quick { 30 } else { 300 };
    if let Some(mut contest) = topic.contest(table) {
        rows(&mut contest, ours, move |bucket| bucket.random(reads));
        for (name, length) in [(block, 64 << 10), (page, 4 << 10)] {
            let mut round = 0_u64;
            match direct {
                Ok(it) => contest.row(name, Who::Ceiling, move || {
                    round += 1;
                    let place = |number| offset(round << 20 | u64::from(number), length, it.size);
                    it.random(length, (0..reads).map(place))
                }),
                Err(why) => contest.gap(name, Who::Ceiling, why),
            }
        }
        contest.run();
    }
}

fn rows<'a>(
    contest: &mut mmap_benches::contest::Contest<'a>,
    ours: &'a Ours,
    work: impl Fn(&Bucket) -> Result<Sample, String> + Copy + 'a,
) {
    match &ours.cold {
        Ok(it) => contest.row(COLD_ROW, Who::Ours, move || {
            // Once that is not counted: see the note of the scan's table.
            it.invalidate()?;
            work(it)?;
            it.invalidate()?;
            work(it)
        }),
        Err(why) => contest.gap(COLD_ROW, Who::Ours, why),
    }
    match &ours.warm {
        Ok(it) => contest.row(WARM_ROW, Who::Ours, move || work(it)),
        Err(why) => contest.gap(WARM_ROW, Who::Ours, why),
    }
}
