//! The journal under 64 tasks with 4 KiB records, beside the bare system calls in batches of 64.
//! `cargo bench -p mmap-benches --bench journal`.
//!
//! 16 MiB of records stay live: at each checkpoint they are stated again, as the server states its unsynced
//! pages. The peers run in turn, several rounds; the medians are printed. `TMPDIR` says which disk.
#![allow(clippy::unwrap_used, missing_docs, reason = "a measurement that fails has to say so and end")]

mod load;

use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use load::{Cost, RECORD, TASKS, record};
use mmap_core::journal::{Folder, Journal, Level, Options};
use tokio::runtime::{Builder, Runtime};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROUNDS: usize = 5;
const LIVE: u64 = 4096;
const CHECKPOINT_AT: u64 = 96 << 20;

async fn put(journal: &Journal, number: u64) {
    let record = record(number);
    let room = journal.reserve(record.len(), None).await.unwrap();
    let lsn = journal.append(Some(room), |buffer| buffer.extend_from_slice(&record));
    journal.acknowledged(lsn).await.unwrap();
}

/// States the live records again whenever the journal has grown too large.
async fn checkpoints(journal: Journal) {
    journal.set_checkpoint_at(CHECKPOINT_AT);
    loop {
        journal.wants_checkpoint().await;
        let mark = journal.begin_checkpoint().await.unwrap();
        let payload = record(0);
        for _ in 0..LIVE {
            let room = journal.reserve(payload.len(), None).await.unwrap();
            journal.append(Some(room), |buffer| buffer.extend_from_slice(&payload));
        }
        journal.end_checkpoint(mark).await.unwrap();
    }
}

fn ours(runtime: &Runtime, folder: &Path, level: Level, records: u64) -> Cost {
    let disk = Arc::new(Folder::open(folder).unwrap());
    let options = Options { level, ..Options::default() };
    let (journal, _) = Journal::open(disk, options, &mut |_| Ok(())).unwrap();
    let checkpoints = runtime.spawn(checkpoints(journal.clone()));
    let shared = journal.clone();
    let cost = load::round(runtime, records, move |number| {
        let journal = shared.clone();
        async move { put(&journal, number).await }
    });
    checkpoints.abort();
    runtime.block_on(journal.close()).unwrap();
    cost
}

/// Batches of 64 records written and synced by one thread into space that was there before: records a second.
fn bare(folder: &Path, level: Level, records: u64) -> f64 {
    let file = std::fs::File::create_new(folder.join("bare")).unwrap();
    let batch: Vec<u8> = (0..TASKS).flat_map(record).collect();
    let batches = records / TASKS;
    for number in 0..batches {
        file.write_all_at(&vec![0; batch.len()], number * batch.len() as u64).unwrap();
    }
    file.sync_all().unwrap();
    let started = Instant::now();
    for number in 0..batches {
        file.write_all_at(&batch, number * batch.len() as u64).unwrap();
        if level == Level::Disk {
            file.sync_data().unwrap();
        }
    }
    let rate = f64::from(u32::try_from(batches * TASKS).unwrap()) / started.elapsed().as_secs_f64();
    std::fs::remove_file(folder.join("bare")).unwrap();
    rate
}

fn main() {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    println!("{TASKS} tasks, records of {RECORD} bytes, {ROUNDS} rounds, medians");
    for (name, level, records) in [("process", Level::Process, 60_000), ("disk", Level::Disk, 12_000)] {
        let (mut costs, mut rates) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let folder = tempfile::tempdir().unwrap();
            rates.push(bare(folder.path(), level, records));
            costs.push(ours(&runtime, &folder.path().join("journal"), level, records));
        }
        rates.sort_by(f64::total_cmp);
        println!("{:<44} {:>9.0} /s", format!("bare write(2), level {name}"), rates[ROUNDS / 2]);
        load::print(&format!("journal, level {name}"), &costs);
    }
}
