//! [`Chain`]: the segments on the disk, oldest to newest, and the spare. The writer's alone.
//!
//! It writes where it is told to and syncs when it is told to; what may be written is decided elsewhere.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use super::disk::{Disk, DiskFile};
use super::frame::{HEAD, Head, peek, seal};
use super::scan::name_of;

/// A segment that is not written any more.
#[derive(Debug)]
struct Old {
    number: u64,
    bytes: u64,
    /// Its first record; 0 for one of an earlier run.
    first: u64,
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
    next_number: u64,
    old: VecDeque<Old>,
    current: Option<Segment>,
    spare: Option<Segment>,
    /// Files of old segments that have bytes which were not synced.
    unsynced: Vec<Box<dyn DiskFile>>,
}

impl Chain {
    /// The chain behind the segments of earlier runs, given by number and bytes.
    pub(super) fn new(disk: Arc<dyn Disk>, segment_bytes: u64, next_number: u64, live: &[(u64, u64)]) -> Self {
        let old = live.iter().map(|&(number, bytes)| Old { number, bytes, first: 0 }).collect();
        Self { disk, segment_bytes, next_number, old, current: None, spare: None, unsynced: Vec::new() }
    }

    /// Makes the segment that is missing: the current one, else the spare.
    pub(super) fn make(&mut self, acknowledged: u64) -> io::Result<()> {
        let (number, marker) = (self.next_number, uuid::Uuid::new_v4().as_u64_pair().0);
        let head = Head { number, marker, acknowledged }.encode();
        let file = self.disk.create(&name_of(number), self.segment_bytes, &head)?;
        // Numbers cannot run out: 2^64 segments have never been written.
        self.next_number = number.saturating_add(1);
        let segment = Segment { number, marker, file, end: HEAD as u64, first: None, synced: true };
        if self.current.is_none() {
            self.current = Some(segment);
        } else {
            self.spare = Some(segment);
        }
        Ok(())
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

    /// Bytes of all segments.
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
            if !current.synced {
                self.unsynced.push(current.file);
            }
            let first = current.first.unwrap_or(u64::MAX);
            self.old.push_back(Old { number: current.number, bytes: self.segment_bytes, first });
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

    /// Has everything written so far survive power loss.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        for file in &self.unsynced {
            file.sync()?;
        }
        self.unsynced.clear();
        match &mut self.current {
            Some(current) if !current.synced => {
                current.file.sync()?;
                current.synced = true;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Removes the oldest segment if all its records lie before `mark`: the bytes freed, 0 if there is none.
    pub(super) fn remove_oldest(&mut self, mark: u64) -> io::Result<u64> {
        let Some(oldest) = self.old.front() else { return Ok(0) };
        let next = match self.old.get(1) {
            Some(next) => next.first,
            None => self.current.as_ref().and_then(|current| current.first).unwrap_or(u64::MAX),
        };
        if next > mark {
            return Ok(0);
        }
        match self.disk.remove(&name_of(oldest.number)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        Ok(self.old.pop_front().map_or(0, |oldest| oldest.bytes))
    }
}
