//! The core by itself, without a wire: `cargo bench -p mmap-benches --bench core`.
//!
//! Hot 4 KiB reads and writes beside memcpy, how they scale with threads, what a write costs at each level of
//! durability, a fault, a commit; instructions and allocations an operation, which no load of the machine
//! disturbs. Peers run in turn, several rounds; medians are printed. What cannot be measured is said.
#![allow(clippy::unwrap_used, missing_docs, reason = "a measurement that fails has to say so and end")]

mod world;
mod counts;

use std::hint::black_box;
use std::sync::Barrier;
use std::time::Instant;

use bytes::Bytes;
use mmap_core::manager::Caller;
use world::{FILE_SIZE, LENGTH, Level, World, offset, one_worker};

const ROUNDS: usize = 7;
const CALLS: u64 = 200_000;
const MIB: u64 = 1 << 20;

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn count(calls: u64) -> f64 {
    f64::from(u32::try_from(calls).unwrap())
}

/// Nanoseconds a call.
fn each(calls: u64, mut call: impl FnMut(u64)) -> f64 {
    let started = Instant::now();
    (0..calls).for_each(&mut call);
    started.elapsed().as_secs_f64() * 1e9 / count(calls)
}

/// What is compared in turn, `ROUNDS` times; the medians, in the order of `peers`.
fn in_turn<const N: usize>(mut peers: [&mut dyn FnMut() -> f64; N]) -> [f64; N] {
    let mut rounds = [const { Vec::new() }; N];
    for _ in 0..ROUNDS {
        for (peer, rounds) in peers.iter_mut().zip(&mut rounds) {
            rounds.push(peer());
        }
    }
    rounds.map(median)
}

fn hot_rows() {
    let runtime = one_worker();
    let world = World::new(&runtime, Level::Memory, 1);
    let _context = runtime.enter();
    let (caller, id) = (Caller::from(1), world.ids[0]);
    let source = vec![7u8; usize::try_from(FILE_SIZE).unwrap()];
    let mut target = source.clone();
    let mut page = vec![0u8; 4096];
    let data = Bytes::from(vec![3u8; 4096]);
    let pieces = [data.slice(..1000), data.slice(1000..)];
    let [copy, copy_to, read, polled, write, in_two] = in_turn([
        &mut || {
            each(CALLS, |call| {
                let start = usize::try_from(offset(call)).unwrap();
                page.copy_from_slice(black_box(&source[start..start + 4096]));
                black_box(&page);
            })
        },
        &mut || {
            each(CALLS, |call| {
                let start = usize::try_from(offset(call)).unwrap();
                target[start..start + 4096].copy_from_slice(black_box(&data));
                black_box(&target);
            })
        },
        &mut || each(CALLS, |call| drop(black_box(world.read(&caller, id, offset(call))))),
        &mut || {
            each(CALLS, |call| {
                // A hot access never waits: the first poll answers.
                let read = futures::FutureExt::now_or_never(world.manager.read(1, id, offset(call), LENGTH));
                black_box(read.unwrap().unwrap());
            })
        },
        &mut || {
            each(CALLS, |call| drop(black_box(world.write(&caller, id, offset(call), std::slice::from_ref(&data)))))
        },
        &mut || each(CALLS, |call| drop(black_box(world.write(&caller, id, offset(call), &pieces)))),
    ]);
    println!("\nhot, 4 KiB, one thread, level memory");
    println!("  {:<35} {copy:>8.0} ns", "memcpy out of the file");
    println!("  {:<35} {copy_to:>8.0} ns", "memcpy into the file");
    for (name, ns, copy) in [
        ("try_read, referenced", read, copy),
        ("read, polled once", polled, copy),
        ("try_write of one slice", write, copy_to),
        ("try_write of two slices", in_two, copy_to),
    ] {
        println!("  {name:<35} {ns:>8.0} ns   {:>6.2} x memcpy", ns / copy);
    }
}

/// Millions of calls a second, of all threads together.
fn rate(threads: usize, call: impl Fn(usize, u64) + Sync) -> f64 {
    let barrier = Barrier::new(threads + 1);
    let calls = CALLS / 2;
    let took = std::thread::scope(|scope| {
        for thread in 0..threads {
            let (barrier, call) = (&barrier, &call);
            scope.spawn(move || {
                barrier.wait();
                (0..calls).for_each(|number| call(thread, number));
                barrier.wait();
            });
        }
        barrier.wait();
        let started = Instant::now();
        barrier.wait();
        started.elapsed()
    });
    count(calls) * count(threads as u64) / took.as_secs_f64() / 1e6
}

fn thread_rows() {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let runtime = one_worker();
    let world = World::new(&runtime, Level::Memory, cores);
    let _context = runtime.enter();
    let data = Bytes::from(vec![3u8; 4096]);
    println!("\nscaling, million calls a second (and times one thread)");
    println!("  {:<28} {:>8} {:>20} {:>20}", "", "1 thread", format!("{cores} threads,"), format!("{cores} threads,"));
    println!("  {:<28} {:>8} {:>20} {:>20}", "", "", "a file each", "one file");
    for (name, writes) in [("try_read", false), ("try_write", true)] {
        let call = |file: usize, seed: usize, call: u64| {
            let (file, caller) = (world.ids[file], Caller::from(1));
            let at = offset(call + seed as u64 * 7_777);
            if writes {
                drop(black_box(world.write(&caller, file, at, std::slice::from_ref(&data))));
            } else {
                drop(black_box(world.read(&caller, file, at)));
            }
        };
        let [one, own, shared] = in_turn([
            &mut || rate(1, |thread, number| call(thread, thread, number)),
            &mut || rate(cores, |thread, number| call(thread, thread, number)),
            &mut || rate(cores, |thread, number| call(0, thread, number)),
        ]);
        let (own_factor, shared_factor) = (own / one, shared / one);
        println!("  {name:<28} {one:>8.2} {own:>12.2} ({own_factor:>4.2}x) {shared:>12.2} ({shared_factor:>4.2}x)");
    }
}

fn level_rows() {
    let runtime = one_worker();
    let worlds = Level::ALL.map(|level| World::new(&runtime, level, 1));
    let mut rates = Level::ALL.map(|_| Vec::new());
    for _ in 0..ROUNDS {
        for (world, rates) in worlds.iter().zip(&mut rates) {
            rates.push(runtime.block_on(world.writes_in_flight(20_000, 64)));
        }
    }
    println!("\nwrites of 4 KiB, 64 in flight, by level");
    let rates = rates.map(median);
    for (level, rate) in Level::ALL.iter().zip(rates) {
        println!("  {:<28} {:>12.0} a second   {:>6.2} of memory", level.name(), rate, rate / rates[0]);
    }
}

fn store_rows() {
    let runtime = one_worker();
    let world = World::small_cache(&runtime);
    let (id, blocks) = (world.ids[0], 64 * MIB / 65_536);
    let at = |call: u64| call.wrapping_mul(0x9E37_79B9_7F4A_7C15) % blocks * 65_536;
    let mut reads = 0;
    let fault = median(
        (0..ROUNDS)
            .map(|_| {
                let before = world.major_faults();
                let took = each(2_000, |_| {
                    reads += 1;
                    drop(black_box(runtime.block_on(world.manager.read(1, id, at(reads), LENGTH)).unwrap()));
                });
                took * 2_000.0 / count(world.major_faults() - before)
            })
            .collect(),
    );
    println!("\nwith the store memory:");
    println!("  random 4 KiB read that faults its block, in turn      {:>9.2} us a fault", fault / 1e3);
    let commit = median(
        (0..ROUNDS)
            .map(|round| {
                let data = vec![u8::try_from(round).unwrap(); 4096];
                runtime.block_on(world.manager.write(1, id, 4096, &data)).unwrap();
                each(1, |_| drop(runtime.block_on(world.manager.msync(1, id)).unwrap()))
            })
            .collect(),
    );
    println!("  msync of 1 page of 64 MiB, layout object (one PUT)    {:>9.2} ms", commit / 1e6);
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    // Under callgrind this program runs itself, to do nothing but hot calls.
    if let [_, mode, kind, calls] = args.as_slice()
        && mode == counts::CHILD
    {
        return counts::run_hot_calls(kind, calls.parse().unwrap());
    }
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("{cores} cores, {}, {ROUNDS} rounds, medians; load average {}", std::env::consts::ARCH, load.trim());
    counts::rows();
    hot_rows();
    thread_rows();
    level_rows();
    store_rows();
}
