//! Sequences of operations on the manager, among failures of the store and changes from outside, compared with plain
//! byte vectors after each: the model test's run, with sequences that follow the code's branches.

use mmap_core::manager::{OnChange, Unsynced};

use crate::ops::{FILES, Op};
use crate::reference::PAGE;
use crate::run::Run;
use crate::take::Take;
use crate::world::Trouble;

/// Operations of a sequence.
const STEPS_MAX: usize = 64;

/// Does the operations that `bytes` say.
pub fn operations(bytes: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let mut input = Take(bytes);
        let mut run = Run::new().await;
        for _ in 0..STEPS_MAX {
            if input.is_empty() {
                break;
            }
            let trouble = trouble(&mut input);
            run.step(op(&mut input), trouble).await;
        }
    });
}

fn trouble(input: &mut Take<'_>) -> Trouble {
    match input.byte() {
        1 => Trouble::Stat,
        2 => Trouble::Read,
        3 => Trouble::WriteBefore,
        4 => Trouble::WriteAfter,
        _ => Trouble::None,
    }
}

/// A place in a file: a number of bytes near a page's border, or any.
fn position(input: &mut Take<'_>) -> usize {
    match input.byte() {
        kind @ 0..64 => usize::from(kind % 40) * PAGE + input.below(4) - 2 * usize::from(kind % 40 > 0),
        64..128 => input.below(5 * PAGE),
        _ => input.below(150_000),
    }
}

fn length(input: &mut Take<'_>) -> usize {
    1 + match input.byte() {
        0..64 => input.below(64),
        64..128 => PAGE - 1,
        128..192 => input.below(3 * PAGE),
        _ => 2 * input.below(1 << 16),
    }
}

fn op(input: &mut Take<'_>) -> Op {
    let kind = input.byte();
    let bits = input.byte();
    let mapping = usize::from(bits);
    let pid = 1 + u32::from(bits % 3);
    let file = usize::from(bits >> 2) % FILES;
    match kind % 16 {
        0 | 1 => Op::Map {
            pid,
            file,
            start: position(input),
            len: length(input),
            prot: if bits & 0x10 == 0 { 3 } else { 1 },
            shared: bits & 0x20 == 0,
            create: bits & 0x40 == 0,
            populate: bits & 0x80 != 0,
        },
        2..=4 => Op::Read { mapping, offset: position(input), len: length(input) },
        5..=8 => Op::Write { mapping, offset: position(input), len: length(input), byte: input.byte() },
        9 | 10 => {
            let range = (kind & 0x10 != 0).then(|| (position(input), length(input)));
            let on_change = match kind >> 5 {
                0..6 => OnChange::Fail,
                6 => OnChange::Force,
                _ => OnChange::Invalidate,
            };
            Op::Sync { mapping, range, on_change }
        }
        11 => {
            let how = match kind >> 5 {
                0..5 => Unsynced::Sync,
                5 => Unsynced::SyncForce,
                6 => Unsynced::Discard,
                _ => Unsynced::DiscardForce,
            };
            Op::Unmap { mapping, how }
        }
        12 => Op::Exit { pid, discard: kind >= 128 },
        13 => Op::Truncate { file, size: position(input), create: kind >= 128 },
        14 => Op::Remove { file },
        _ => {
            let content = (kind < 224).then(|| (position(input), input.byte()));
            Op::Outside { file, content }
        }
    }
}
