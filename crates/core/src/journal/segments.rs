//! [`Chain`]: the segments on the disk, oldest to newest, and the spare. The writer's alone.
//!
//! It writes where it is told to and syncs when it is told to; what may be written is decided elsewhere.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use super::disk::{Disk, DiskFile};
use super::frame::{HEAD, Head, peek, seal};
use super::options::{Level, Options};
use super::scan::name_of;

/// A segment that is not written any more.
#[derive(Debug)]
struct Old {
    number: u64,
    bytes: u64,
    /// Its first record; 0 for one of an earlier run.
    first: u64,
    /// If it has bytes that were not synced.
    unsynced: Option<Box<dyn DiskFile>>,
}

#[derive(Debug)]
struct Segment {
    number: u64,
    marker: u64,
    file: Box<dyn DiskFile>,
    /// Where the next frame goes.
    end: u64,
    first: Option<u64>,
    synced: bool,
}

/// The segments of a journal.
#[derive(Debug)]
pub(super) struct Chain {
    disk: Arc<dyn Disk>,
    segment_bytes: u64,
    /// Segments are synced when they are made, so that a power loss leaves their heads.
    durable: bool,
    next_number: u64,
    old: VecDeque<Old>,
    current: Option<Segment>,
    spare: Option<Segment>,
    /// Segments of lower numbers are not worth a sync.
    covered: u64,
    /// Segments of no use, kept to be used again: writing where a file has its blocks, and where the page cache has its
    /// pages, takes a fraction of the time.
    free: Vec<u64>,
}

impl Chain {
    /// The chain behind the segments of earlier runs, given by number and bytes.
    pub(super) fn new(disk: Arc<dyn Disk>, options: &Options, next_number: u64, live: &[(u64, u64)]) -> Self {
        let old = live.iter().map(|&(number, bytes)| Old { number, bytes, first: 0, unsynced: None }).collect();
        Self {
            disk,
            segment_bytes: options.segment_bytes,
            durable: options.level == Level::Disk,
            next_number,
            old,
            current: None,
            spare: None,
            covered: 0,
            free: Vec::new(),
        }
    }

    /// Makes the segment that is missing: the current one, else the spare.
    pub(super) fn make(&mut self, acknowledged: u64) -> io::Result<()> {
        let (number, marker) = (self.next_number, uuid::Uuid::new_v4().as_u64_pair().0);
        let name = name_of(number);
        let file = self.take_file(&name, Head { number, marker, acknowledged, is_reused: false })?;
        if self.durable {
            file.sync().inspect_err(|_| drop(self.disk.remove(&name)))?;
        }
        // Numbers cannot run out: 2^64 segments have never been written.
        self.next_number = number.saturating_add(1);
        let segment = Segment { number, marker, file, end: HEAD as u64, first: None, synced: self.durable };
        if self.current.is_none() {
            self.current = Some(segment);
        } else {
            self.spare = Some(segment);
        }
        Ok(())
    }

    /// A segment that is kept to be used again, or a new one.
    fn take_file(&mut self, name: &str, head: Head) -> io::Result<Box<dyn DiskFile>> {
        if let Some(free) = self.free.pop() {
            match self.disk.reuse(&name_of(free), name, &Head { is_reused: true, ..head }.encode()) {
                Ok(file) => return Ok(file),
                Err(error) => tracing::debug!(%error, free, "a segment cannot be used again"),
            }
        }
        self.disk.create(name, self.segment_bytes, &head.encode())
    }

    pub(super) fn has_spare(&self) -> bool {
        self.spare.is_some()
    }

    /// Bytes that the current segment has left.
    pub(super) fn left(&self) -> u64 {
        self.current.as_ref().map_or(0, |current| self.segment_bytes - current.end)
    }

    /// Whether the current segment has a record.
    pub(super) fn has_begun(&self) -> bool {
        self.current.as_ref().is_some_and(|current| current.first.is_some())
    }

    /// Bytes of the segments that are kept to be used again.
    pub(super) fn free_bytes(&self) -> u64 {
        self.free.len() as u64 * self.segment_bytes
    }

    /// Bytes of all other segments.
    pub(super) fn bytes(&self) -> u64 {
        let new = u64::from(self.current.is_some()) + u64::from(self.spare.is_some());
        self.old.iter().map(|old| old.bytes).sum::<u64>() + new * self.segment_bytes
    }

    /// Whether there is a segment that a checkpoint could free.
    pub(super) fn has_old(&self) -> bool {
        !self.old.is_empty()
    }

    /// Takes the spare as the current segment; false if there is none.
    pub(super) fn rotate(&mut self) -> bool {
        let Some(spare) = self.spare.take() else { return false };
        if let Some(current) = self.current.replace(spare) {
            let first = current.first.unwrap_or(u64::MAX);
            let unsynced = (!current.synced).then_some(current.file);
            self.old.push_back(Old { number: current.number, bytes: self.segment_bytes, first, unsynced });
        }
        true
    }

    /// Completes and writes `frames`, which fit into the current segment. Trying again after an error writes
    /// the same place.
    pub(super) fn write(&mut self, frames: &mut [u8], acknowledged: u64) -> io::Result<()> {
        let Some(current) = &mut self.current else { return Err(io::ErrorKind::StorageFull.into()) };
        let first = peek(frames).map(|(lsn, _)| lsn);
        let mut at = 0;
        while let Some((_, size)) = peek(&frames[at..]) {
            seal(&mut frames[at..at + size], current.marker, acknowledged);
            at += size;
        }
        current.synced = false;
        current.file.write_at(current.end, frames)?;
        current.end += frames.len() as u64;
        current.first = current.first.or(first);
        Ok(())
    }

    /// Has everything written so far survive power loss, but for what is covered.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        for old in self.old.iter_mut().filter(|old| old.number >= self.covered) {
            if let Some(file) = &old.unsynced {
                file.sync()?;
            }
            old.unsynced = None;
        }
        match &mut self.current {
            Some(current) if !current.synced => {
                current.file.sync()?;
                current.synced = true;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// What lies wholly before `mark` is said again behind it: the number of the first segment that does not. The
    /// older ones are not synced any more.
    pub(super) fn cover(&mut self, mark: u64) -> u64 {
        let before = (0..self.old.len()).take_while(|index| self.lies_before(*index, mark)).count();
        let current = || self.current.as_ref().map_or(self.next_number, |current| current.number);
        self.covered = self.old.get(before).map_or_else(current, |old| old.number);
        self.covered
    }

    /// Every segment is worth a sync again: perhaps nobody will remove those that were covered.
    pub(super) fn uncover(&mut self) {
        self.covered = 0;
    }

    /// Whether all records of an old segment lie before `mark`.
    fn lies_before(&self, index: usize, mark: u64) -> bool {
        let next = match self.old.get(index + 1) {
            Some(next) => Some(next.first),
            None => self.current.as_ref().and_then(|current| current.first),
        };
        next.is_some_and(|next| next <= mark)
    }

    /// Takes the oldest segment off the chain if all its records lie before `mark`: its bytes, 0 if there is none. It
    /// is kept to be used again if all segments take no more than `at_most` bytes when the others before the mark are
    /// taken off, too; who lets that be has said that the journal begins behind them.
    pub(super) fn retire_oldest(&mut self, mark: u64, at_most: u64) -> io::Result<u64> {
        let Some(oldest) = self.old.front().filter(|_| self.lies_before(0, mark)) else { return Ok(0) };
        let (number, bytes) = (oldest.number, oldest.bytes);
        let before = (0..self.old.len()).take_while(|index| self.lies_before(*index, mark));
        let others: u64 = before.map(|index| self.old[index].bytes).sum();
        let kept = self.bytes() - others + self.free_bytes() + bytes;
        if bytes == self.segment_bytes && kept <= at_most {
            self.free.push(number);
        } else {
            match self.disk.remove(&name_of(number)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        self.old.pop_front();
        Ok(bytes)
    }
}
