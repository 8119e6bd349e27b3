//! Instructions an operation, counted by callgrind, and allocations an operation.

use std::process::Command;

use bytes::Bytes;
use mmap_benches::rows::{Sample, Table, Target, Unit, Who};
use mmap_benches::topic::Topic;
use mmap_core::manager::Caller;

use crate::world::{Level, World, offset, one_worker};

/// The argument that makes this program do nothing but hot calls.
pub(crate) const CHILD: &str = "--hot-calls";
/// What callgrind counts: the difference of two runs is calls and nothing else.
const CALLS: [u64; 2] = [2_000, 12_000];

#[inline(never)]
fn toggled_calls(world: &World, writes: bool, calls: u64) {
    let (caller, id) = (Caller::from(1), world.ids[0]);
    let data = [Bytes::from(vec![3u8; 4096])];
    for call in 0..calls {
        if writes {
            drop(std::hint::black_box(world.write(&caller, id, offset(call), &data)));
        } else {
            drop(std::hint::black_box(world.read(&caller, id, offset(call))));
        }
    }
}

/// For callgrind.
pub(crate) fn run_hot_calls(kind: &str, calls: u64) {
    let runtime = one_worker();
    let world = World::new(&runtime, Level::Memory, 1);
    let _context = runtime.enter();
    toggled_calls(&world, kind == "write", calls);
}

/// Instructions of this thread in [`toggled_calls`], or why they are not known.
fn instructions(kind: &str, calls: u64) -> Result<u64, String> {
    let this = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--collect-atstart=no"]);
    valgrind.arg("--toggle-collect=*toggled_calls*").arg(this).args([CHILD, kind, &calls.to_string()]);
    let output =
        valgrind.output().map_err(|error| format!("valgrind cannot be started: {error}; apt-get install valgrind"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let collected = said.lines().find_map(|line| line.split("Collected :").nth(1)?.trim().parse().ok());
    collected.ok_or_else(|| format!("valgrind said nothing of use: {}", said.lines().last().unwrap_or_default()))
}

/// Allocations of a thousand calls, after as many that were not counted.
fn allocations(kind: &str) -> f64 {
    let runtime = one_worker();
    let world = World::new(&runtime, Level::Memory, 1);
    let _context = runtime.enter();
    toggled_calls(&world, kind == "write", 10_000);
    let counted = allocation_counter::measure(|| toggled_calls(&world, kind == "write", 1_000));
    // The caller's data is one, and what refers to it another.
    (f64::from(u32::try_from(counted.count_total).unwrap()) / 1e3).floor()
}

pub(crate) fn rows(topic: &mut Topic) {
    let table = Table::new("allocations", "Allocations of a hot operation of 4 KiB in the core", Unit::Count);
    if let Some(mut contest) = topic.contest(table) {
        for kind in ["read", "write"] {
            contest.row(kind, Who::Ours, move || Ok(Sample::of(allocations(kind))));
        }
        contest.at_most_rounds(1);
        contest.run_without_warm_up();
    }
    let table = Table::new("instructions", "Instructions of a hot operation of 4 KiB in the core", Unit::Instructions)
        .note("Counted by callgrind. A write copies 4 KiB.")
        .target(Target::at_most_alone("core hot 4 KiB read, instructions", "read", 2000.0));
    if let Some(mut contest) = topic.contest(table) {
        for kind in ["read", "write"] {
            contest.row(kind, Who::Ours, move || {
                let [few, many] = [instructions(kind, CALLS[0])?, instructions(kind, CALLS[1])?];
                let each = many.saturating_sub(few) / (CALLS[1] - CALLS[0]);
                Ok(Sample::of(f64::from(u32::try_from(each).map_err(|error| error.to_string())?)))
            });
        }
        // The same program counts the same each time.
        contest.at_most_rounds(1);
        contest.run_without_warm_up();
    }
}
