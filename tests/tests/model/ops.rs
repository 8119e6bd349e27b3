//! The operations of a sequence.

use mmap_core::manager::{OnChange, Unsynced};

/// Files of a sequence.
pub(crate) const FILES: usize = 4;

/// One operation; mappings are named by their place in the list of those that live.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Map { pid: u32, file: usize, start: usize, len: usize, prot: u32, shared: bool, create: bool, populate: bool },
    Read { mapping: usize, offset: usize, len: usize },
    Write { mapping: usize, offset: usize, len: usize, byte: u8 },
    Sync { mapping: usize, range: Option<(usize, usize)>, on_change: OnChange },
    Unmap { mapping: usize, how: Unsynced },
    Exit { pid: u32, discard: bool },
    Truncate { file: usize, size: usize, create: bool },
    Remove { file: usize },
    Outside { file: usize, content: Option<(usize, u8)> },
}
