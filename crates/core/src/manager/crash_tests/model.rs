//! The script, and what there should be after each of its operations: plain byte vectors.

use std::collections::BTreeMap;

use crate::units::PAGE_LEN;

/// Bytes of the file at first.
pub(super) const SIZE: usize = 6 * PAGE_LEN + 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Map(u32),
    MapPrivate(u32),
    Write(u32, usize, u8, usize),
    WritePrivate(u32, usize, u8, usize),
    Sync(u32),
    Truncate(usize),
    Discard(u32),
    Unmap(u32),
    Exit(u32),
    Checkpoint,
}

pub(super) const SCRIPT: &[Op] = &[
    Op::Map(1),
    Op::Write(1, 10, 1, 20),
    Op::Write(1, PAGE_LEN - 5, 2, 10),
    Op::MapPrivate(2),
    Op::WritePrivate(2, PAGE_LEN - 3, 3, 6),
    Op::Sync(1),
    Op::Write(1, 0, 4, 3 * PAGE_LEN),
    Op::Checkpoint,
    Op::Truncate(4 * PAGE_LEN + 7),
    Op::WritePrivate(2, 4 * PAGE_LEN, 5, 7),
    Op::Write(1, 4 * PAGE_LEN + 1, 6, 5),
    Op::Truncate(4 * PAGE_LEN + 3),
    Op::Truncate(SIZE),
    Op::Map(3),
    Op::Write(3, 2 * PAGE_LEN, 7, PAGE_LEN),
    Op::Discard(3),
    Op::Write(1, 5 * PAGE_LEN, 8, 100),
    Op::Map(4),
    Op::Write(4, PAGE_LEN, 9, 8),
    Op::Exit(4),
    Op::Checkpoint,
    Op::Write(1, 1, 10, 1),
    Op::Unmap(1),
];

/// What there should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Model {
    pub(super) shared: Vec<u8>,
    pub(super) stored: Vec<u8>,
    pub(super) private: BTreeMap<usize, Vec<u8>>,
    pub(super) mapped: Vec<(u32, bool)>,
    pub(super) ended: Vec<u32>,
}

impl Model {
    pub(super) fn new() -> Self {
        let content = content();
        Self {
            shared: content.clone(),
            stored: content,
            private: BTreeMap::new(),
            mapped: Vec::new(),
            ended: Vec::new(),
        }
    }

    pub(super) fn apply(&mut self, op: Op) {
        match op {
            Op::Map(pid) => self.mapped.push((pid, false)),
            Op::MapPrivate(pid) => self.mapped.push((pid, true)),
            Op::Write(_, at, byte, len) => self.shared[at..at + len].fill(byte),
            Op::WritePrivate(_, at, byte, len) => {
                for n in at..at + len {
                    let page = n / PAGE_LEN;
                    let end = self.shared.len().min((page + 1) * PAGE_LEN);
                    let shared = &self.shared[page * PAGE_LEN..end];
                    self.private.entry(page).or_insert_with(|| shared.to_vec())[n % PAGE_LEN] = byte;
                }
            }
            Op::Sync(_) => self.stored.clone_from(&self.shared),
            Op::Truncate(size) => {
                self.shared.resize(size, 0);
                self.stored.resize(size, 0);
                self.private.retain(|page, _| page * PAGE_LEN < size);
                for (page, data) in &mut self.private {
                    let len = (size - page * PAGE_LEN).min(PAGE_LEN);
                    data.resize(len.min(data.len()), 0);
                    data.resize(len, 0);
                }
            }
            Op::Discard(pid) => {
                self.shared.clone_from(&self.stored);
                self.mapped.retain(|mapped| *mapped != (pid, false));
            }
            Op::Unmap(pid) | Op::Exit(pid) => {
                if op == Op::Exit(pid) {
                    self.ended.push(pid);
                }
                self.stored.clone_from(&self.shared);
                self.mapped.retain(|mapped| *mapped != (pid, false));
            }
            Op::Checkpoint => {}
        }
    }

    pub(super) fn seen_privately(&self) -> Vec<u8> {
        let mut seen = self.shared.clone();
        for (page, data) in &self.private {
            seen[page * PAGE_LEN..page * PAGE_LEN + data.len()].copy_from_slice(data);
        }
        seen
    }
}

pub(super) fn content() -> Vec<u8> {
    (0..SIZE).map(|n| u8::try_from(100 + n % 100).unwrap()).collect()
}
