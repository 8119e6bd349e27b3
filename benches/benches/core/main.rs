//! The core by itself, without a wire: `cargo bench -p mmap-benches --bench core`.
//!
//! Hot 4 KiB reads and writes beside memcpy, how they scale with threads, what a write costs at each level of
//! durability, a fault, a commit; instructions and allocations an operation, which no load of the machine disturbs.
#![allow(clippy::unwrap_used, missing_docs, reason = "a measurement that fails has to say so and end")]

mod world;
mod counts;

use std::hint::black_box;
use std::process::ExitCode;
use std::sync::Barrier;
use std::time::Instant;

use bytes::Bytes;
use mmap_benches::measure::measure;
use mmap_benches::rows::{Sample, Table, Target, Unit, Who};
use mmap_benches::topic::{self, Topic};
use mmap_core::manager::Caller;
use world::{FILE_SIZE, LENGTH, Level, World, offset, one_worker};

const CALLS: u64 = 200_000;
const WRITES: u64 = 20_000;
const MIB: u64 = 1 << 20;
const READ: &str = "try_read, referenced";

fn count(calls: u64) -> f64 {
    f64::from(u32::try_from(calls).unwrap())
}

/// So many calls one after the other: nanoseconds a call.
fn each(mut call: impl FnMut(u64)) -> Result<Sample, String> {
    measure(Unit::Nanoseconds, &[], || {
        (0..CALLS).for_each(&mut call);
        Ok(count(CALLS))
    })
}

fn hot_rows(topic: &mut Topic) {
    let runtime = one_worker();
    let world = World::new(&runtime, Level::Memory, 1);
    let _context = runtime.enter();
    let (world, caller, id) = (&world, &Caller::from(1), world.ids[0]);
    let source = vec![7u8; usize::try_from(FILE_SIZE).unwrap()];
    let mut page = vec![0u8; 4096];
    let data = Bytes::from(vec![3u8; 4096]);
    let whole = [data.clone()];
    let halves = [data.slice(..1000), data.slice(1000..)];
    let table = Table::new("hot", "Hot operations of 4 KiB in the core, one thread, level memory", Unit::Nanoseconds)
        .target(Target::at_most_alone("core hot 4 KiB read", READ, 300.0));
    let Some(mut contest) = topic.contest(table) else { return };
    contest.row("memcpy", Who::Ceiling, || {
        each(|call| {
            let start = usize::try_from(offset(call)).unwrap();
            page.copy_from_slice(black_box(&source[start..start + 4096]));
            black_box(&page);
        })
    });
    contest.row(READ, Who::Ours, || each(|call| drop(black_box(world.read(caller, id, offset(call))))));
    contest.row("read, polled once", Who::Ours, || {
        each(|call| {
            // A hot access never waits: the first poll answers.
            let read = futures::FutureExt::now_or_never(world.manager.read(1, id, offset(call), LENGTH));
            black_box(read.unwrap().unwrap());
        })
    });
    for (name, slices) in [("try_write of one slice", &whole[..]), ("try_write of two slices", &halves[..])] {
        contest
            .row(name, Who::Ours, move || each(|call| drop(black_box(world.write(caller, id, offset(call), slices)))));
    }
    contest.run();
}

/// Calls a second, of all threads together.
fn rate(threads: usize, call: impl Fn(usize, u64) + Sync) -> Result<Sample, String> {
    let barrier = Barrier::new(threads + 1);
    let calls = CALLS / 2;
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (barrier, call) = (&barrier, &call);
            scope.spawn(move || {
                barrier.wait();
                (0..calls).for_each(|number| call(thread, number));
                barrier.wait();
            });
        }
        measure(Unit::OpsPerSecond, &[], || {
            barrier.wait();
            barrier.wait();
            Ok(count(calls) * count(threads as u64))
        })
    })
}

fn thread_rows(topic: &mut Topic) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let runtime = one_worker();
    let world = World::new(&runtime, Level::Memory, cores);
    let _context = runtime.enter();
    let (world, data) = (&world, &[Bytes::from(vec![3u8; 4096])]);
    for (id, title, writes) in [("threads-read", "reads", false), ("threads-write", "writes", true)] {
        let title = format!("Hot {title} of 4 KiB in the core by threads");
        let Some(mut contest) = topic.contest(Table::new(id, &title, Unit::OpsPerSecond)) else { continue };
        let call = move |file: usize, seed: usize, call: u64| {
            let (file, caller) = (world.ids[file], Caller::from(1));
            let at = offset(call + seed as u64 * 7_777);
            if writes {
                drop(black_box(world.write(&caller, file, at, data)));
            } else {
                drop(black_box(world.read(&caller, file, at)));
            }
        };
        contest.row("1 thread", Who::Ours, move || rate(1, |thread, number| call(thread, thread, number)));
        let own = format!("{cores} threads, a file each");
        contest.row(&own, Who::Ours, move || rate(cores, |thread, number| call(thread, thread, number)));
        let shared = format!("{cores} threads, one file");
        contest.row(&shared, Who::Ours, move || rate(cores, |thread, number| call(0, thread, number)));
        contest.run();
    }
}

fn level_rows(topic: &mut Topic) {
    let table = Table::new("levels", "Writes of 4 KiB in the core at each level, 64 in flight", Unit::OpsPerSecond);
    let runtime = one_worker();
    let worlds = Level::ALL.map(|level| (level, World::new(&runtime, level, 1)));
    let Some(mut contest) = topic.contest(table) else { return };
    for (level, world) in &worlds {
        contest.row(level.name(), Who::Ours, || {
            measure(Unit::OpsPerSecond, &[], || {
                runtime.block_on(world.writes_in_flight(WRITES, 64));
                Ok(count(WRITES))
            })
        });
    }
    contest.run();
}

fn store_rows(topic: &mut Topic) {
    let runtime = one_worker();
    let world = World::small_cache(&runtime);
    let (id, blocks) = (world.ids[0], 64 * MIB / 65_536);
    let at = |call: u64| call.wrapping_mul(0x9E37_79B9_7F4A_7C15) % blocks * 65_536;
    let mut reads = 0;
    let title = "A random 4 KiB read that faults its block from a store in memory";
    if let Some(mut contest) = topic.contest(Table::new("fault", title, Unit::Microseconds)) {
        contest.row("fault", Who::Ours, || {
            let (before, started) = (world.major_faults(), Instant::now());
            let sample = measure(Unit::Microseconds, &[], || {
                for _ in 0..2_000 {
                    reads += 1;
                    drop(black_box(runtime.block_on(world.manager.read(1, id, at(reads), LENGTH)).unwrap()));
                }
                Ok(2_000.0)
            })?;
            // Some of the blocks were still there: what the others took.
            let value = started.elapsed().as_secs_f64() * 1e6 / count(world.major_faults() - before);
            Ok(Sample { value, ..sample })
        });
        contest.run();
    }
    let title = "Msync of 1 page of a file of 64 MiB, layout object (one PUT) in memory";
    if let Some(mut contest) = topic.contest(Table::new("commit", title, Unit::Milliseconds)) {
        let mut round = 0u8;
        contest.row("msync", Who::Ours, || {
            round = round.wrapping_add(1);
            runtime.block_on(world.manager.write(1, id, 4096, &[round; 4096])).unwrap();
            measure(Unit::Milliseconds, &[], || {
                runtime.block_on(world.manager.msync(1, id)).unwrap();
                Ok(1.0)
            })
        });
        contest.run();
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    // Under callgrind this program runs itself, to do nothing but hot calls.
    if let [_, mode, kind, calls] = args.as_slice()
        && mode == counts::CHILD
    {
        counts::run_hot_calls(kind, calls.parse().unwrap());
        return ExitCode::SUCCESS;
    }
    topic::run("core", "The core by itself", |topic| {
        counts::rows(topic);
        hot_rows(topic);
        thread_rows(topic);
        level_rows(topic);
        store_rows(topic);
    })
}
