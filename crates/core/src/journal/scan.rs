//! Reading a journal from its first segment to its end, and telling a torn end from damage.
//!
//! The records' chain is followed by their positions: from a segment to the first later one whose first frame
//! is the next record. Where the chain ends something may lie behind: what a crash left half written, or
//! records that can no longer be reached because the one before them is damaged. It is damage if anything
//! there says that the missing record had been acknowledged; otherwise it is the torn end that a crash leaves.
//!
//! It changes nothing on the disk.

use std::io;

use super::beginning::beginning_of;
use super::disk::Disk;
use super::frame::{ALIGN, Frame, HEAD, Head, HeadRead, last_begun};
use super::options::{Lsn, Options};
use crate::error::{Errno, Error, Result};

const SUFFIX: &str = ".wal";
const KEPT: &str = ".damaged";

/// The name of segment `number`.
pub(super) fn name_of(number: u64) -> String {
    format!("{number:016x}{SUFFIX}")
}

/// The name under which a damaged segment is kept.
pub(super) fn kept_name_of(number: u64) -> String {
    format!("{}{KEPT}", name_of(number))
}

pub(super) fn number_of(name: &str) -> Option<u64> {
    let number = u64::from_str_radix(name.strip_suffix(SUFFIX)?, 16).ok()?;
    (name_of(number) == name).then_some(number)
}

/// Acknowledged records that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The segment in which the chain of records ends.
    pub segment: String,
    /// Where in it.
    pub offset: u64,
    /// The first record that is lost.
    pub lost: Lsn,
    /// Bytes behind it that were not recovered.
    pub bytes: u64,
}

/// What a journal's segments hold.
#[derive(Debug)]
pub(super) struct Scan {
    /// Segments with records of the chain, oldest first, with their bytes.
    pub(super) live: Vec<(u64, u64)>,
    /// Segments of no use: never written, behind a torn end, or covered by a checkpoint.
    pub(super) useless: Vec<u64>,
    /// The number of the first segment that counts.
    pub(super) first_number: u64,
    /// The number of the next segment.
    pub(super) next_number: u64,
    /// The next record's position.
    pub(super) next: u64,
    /// Records replayed.
    pub(super) records: u64,
    /// Bytes behind the last record, if they are no damage.
    pub(super) torn_bytes: u64,
    /// And if they are.
    pub(super) damage: Option<Damage>,
    /// The segments with damage in them or behind it.
    pub(super) damaged: Vec<u64>,
    /// Those of them that are of no use when they are kept under another name.
    pub(super) dead: Vec<u64>,
}

struct Segment {
    number: u64,
    /// None if it cannot be read.
    head: Option<Head>,
    foreign: bool,
    /// It was to be used again; what it has is from before.
    is_left: bool,
    bytes: Vec<u8>,
}

/// Where the chain ends.
struct End {
    index: usize,
    offset: usize,
    segment: Segment,
}

struct Walk<'a> {
    disk: &'a dyn Disk,
    /// Those that no checkpoint covers.
    numbers: Vec<u64>,
    live: Vec<(u64, u64)>,
    /// Segments that are no part of the chain.
    passed: Vec<u64>,
    /// The next record of the chain; none before the first.
    expected: Option<u64>,
    records: u64,
}

/// Reads the journal and hands each record to `replay`.
///
/// # Errors
/// A segment that cannot be read, of a later format, or (unless its loss is accepted) not ours; and whatever
/// `replay` answers.
pub(super) fn scan(disk: &dyn Disk, accept_loss: bool, replay: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<Scan> {
    let names = disk.list().map_err(|source| unreadable(disk.shown(""), source))?;
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| number_of(name)).collect();
    numbers.sort_unstable();
    let kept = names.iter().filter_map(|name| number_of(name.strip_suffix(KEPT)?)).max();
    let said = names.iter().filter_map(|name| beginning_of(name)).max();
    // Also behind what the beginning was called: a later segment of that number would hide those before it.
    let last = numbers.last().copied().max(kept).max(said).unwrap_or(0);
    let next_number = last.checked_add(1).ok_or_else(|| not_ours(disk, last))?;
    // Where that segment is missing something else happened than what the file was made for: all that is there counts.
    let covered = said.and_then(|said| numbers.binary_search(&said).ok()).unwrap_or(0);
    let (passed, numbers) = (numbers[..covered].to_vec(), numbers.split_off(covered));
    let mut walk = Walk { disk, numbers, live: Vec::new(), passed, expected: None, records: 0 };
    walk.check_heads(accept_loss)?;
    let mut end = None;
    let mut at = walk.load_from(0, Segment::holds_something)?;
    while let Some((index, segment)) = at {
        let offset = walk.follow(&segment, replay)?;
        let next = walk.expected;
        if next.is_some() {
            walk.live.push((segment.number, segment.bytes.len() as u64));
        } else {
            walk.passed.push(segment.number);
        }
        at = walk.load_from(index + 1, |segment| next.is_some_and(|next| segment.starts_with(next)))?;
        end = Some(End { index, offset, segment });
    }
    walk.judge(end, next_number)
}

impl Walk<'_> {
    fn check_heads(&self, accept_loss: bool) -> Result<()> {
        for &number in &self.numbers {
            match Head::read(&self.read(number, HEAD as u64)?) {
                HeadRead::Newer(version) => return Err(newer(self.disk, number, version)),
                HeadRead::Foreign if !accept_loss => return Err(not_ours(self.disk, number)),
                HeadRead::Foreign | HeadRead::Valid(_) | HeadRead::Bad => {}
            }
        }
        Ok(())
    }

    fn read(&self, number: u64, at_most: u64) -> Result<Vec<u8>> {
        let name = name_of(number);
        self.disk.read(&name, at_most).map_err(|source| unreadable(self.disk.shown(&name), source))
    }

    fn load(&self, number: u64) -> Result<Segment> {
        let bytes = self.read(number, Options::SEGMENT_MAX)?;
        let mut segment = Segment { number, head: None, foreign: false, is_left: false, bytes };
        match Head::read(&segment.bytes) {
            HeadRead::Valid(head) if head.number == number => segment.head = Some(head),
            // A power loss took its new head, which is synced before anything that level disk writes behind it. It is
            // renamed then: with the segment that the head is of still there, it is a copy of that.
            HeadRead::Valid(head) => {
                segment.is_left = head.number < number && self.numbers.binary_search(&head.number).is_err();
            }
            HeadRead::Foreign => segment.foreign = true,
            HeadRead::Newer(_) | HeadRead::Bad => {}
        }
        Ok(segment)
    }

    /// The first segment from `index` on that `is_it`.
    fn load_from(&mut self, index: usize, is_it: impl Fn(&Segment) -> bool) -> Result<Option<(usize, Segment)>> {
        for index in index..self.numbers.len() {
            let segment = self.load(self.numbers[index])?;
            if is_it(&segment) {
                return Ok(Some((index, segment)));
            }
            self.passed.push(segment.number);
        }
        Ok(None)
    }

    /// Replays the records of `segment` that continue the chain; where they end.
    fn follow(&mut self, segment: &Segment, replay: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<usize> {
        let mut offset = HEAD;
        while let Some(frame) = segment.frame(offset) {
            let Some(next) = frame.lsn.checked_add(1) else { break };
            if self.expected.is_some_and(|expected| frame.lsn != expected) {
                break;
            }
            if !frame.payload.is_empty() {
                replay(frame.payload)?;
                self.records += 1;
            }
            self.expected = Some(next);
            offset += frame.size;
        }
        Ok(offset)
    }

    fn judge(self, end: Option<End>, next_number: u64) -> Result<Scan> {
        let next = self.expected.unwrap_or(1);
        let mut rest = Rest { lost: next, bytes: 0, acknowledged: false };
        let mut damaged = Vec::new();
        let mut place = (self.numbers.first().copied().unwrap_or(0), 0);
        // Where no record was found, even the first segment's head says whether there should have been one.
        let mut behind = 0;
        if let (Some(end), Some(_)) = (&end, self.expected) {
            rest.look_at(&end.segment, end.offset);
            damaged.push(end.segment.number);
            place = (end.segment.number, end.offset);
            behind = end.index + 1;
        }
        let recovered = damaged.len();
        for &number in &self.numbers[behind..] {
            let segment = self.load(number)?;
            rest.look_at_all(&segment);
            if segment.holds_something() {
                damaged.push(number);
            }
        }
        let damage = rest.acknowledged.then(|| Damage {
            segment: name_of(place.0),
            offset: place.1 as u64,
            lost: Lsn(next),
            bytes: rest.bytes,
        });
        if damage.is_none() {
            damaged.clear();
        }
        let dead: Vec<u64> = damaged.iter().copied().skip(recovered).collect();
        Ok(Scan {
            live: self.live,
            useless: self.passed.into_iter().filter(|number| !dead.contains(number)).collect(),
            first_number: self.numbers.first().copied().unwrap_or(next_number),
            next_number,
            next,
            records: self.records,
            torn_bytes: if damage.is_none() { rest.bytes } else { 0 },
            damage,
            damaged,
            dead,
        })
    }
}

impl Segment {
    fn holds_something(&self) -> bool {
        self.foreign || self.content_end(HEAD) > HEAD
    }

    /// Where what was written behind `offset` ends: behind the last byte that is not zero, or where others are left
    /// from an earlier use, behind the last frame that was begun.
    fn content_end(&self, offset: usize) -> usize {
        match &self.head {
            _ if self.is_left => offset,
            Some(head) if head.is_reused => last_begun(&self.bytes, offset, head.marker).unwrap_or(offset),
            Some(_) | None => self.bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1),
        }
    }

    fn frame(&self, offset: usize) -> Option<Frame<'_>> {
        Frame::read(self.bytes.get(offset..)?, self.head?.marker)
    }

    fn starts_with(&self, lsn: u64) -> bool {
        self.frame(HEAD).is_some_and(|frame| frame.lsn == lsn)
    }
}

/// What lies behind the end of the chain.
struct Rest {
    /// The record that the chain lacks.
    lost: u64,
    bytes: u64,
    /// Whether anything says that it had been acknowledged.
    acknowledged: bool,
}

impl Rest {
    fn look_at_all(&mut self, segment: &Segment) {
        self.acknowledged |= segment.head.is_some_and(|head| head.acknowledged >= self.lost);
        self.look_at(segment, HEAD);
    }

    /// Looks for frames at any place from `offset` on.
    fn look_at(&mut self, segment: &Segment, offset: usize) {
        self.bytes += segment.content_end(offset).saturating_sub(offset) as u64;
        if segment.head.is_none() {
            // At level disk a head is synced before anything is written behind it, so this one was damaged
            // later; at level process it was, or a power loss took it, which is told as well.
            self.acknowledged |= segment.holds_something();
        }
        let mut at = offset;
        while !self.acknowledged && at < segment.bytes.len() {
            at += match segment.frame(at) {
                Some(frame) => {
                    self.acknowledged = frame.acknowledged >= self.lost;
                    frame.size
                }
                None => ALIGN,
            };
        }
    }
}

impl Damage {
    /// As the error of who has not accepted the loss.
    pub(super) fn error(&self, disk: &dyn Disk) -> Error {
        let segment = disk.shown(&self.segment);
        let message = format!(
            "journal segment {segment} is damaged at offset {}: record {} was acknowledged and cannot be read, and {} \
             bytes with it; restore the segment, or start with --accept-journal-loss to recover everything before \
             it and keep the damaged segments as *{KEPT} in the same folder",
            self.offset, self.lost.0, self.bytes
        );
        Error::new(Errno::UClean, message)
            .with("segment", segment)
            .with("offset", self.offset)
            .with("record", self.lost.0)
            .with("bytes", self.bytes)
    }
}

fn unreadable(shown: String, source: io::Error) -> Error {
    let message = format!("journal {shown} cannot be read: {source}; give this user access to it, or restore it");
    Error::new(Errno::Io, message).with("path", shown).caused_by(source)
}

fn newer(disk: &dyn Disk, number: u64, version: u32) -> Error {
    let shown = disk.shown(&name_of(number));
    let message = format!(
        "journal segment {shown} has format {version}, which this version does not know: start the version that wrote \
             it, or one at least as new"
    );
    Error::new(Errno::NotSup, message).with("segment", shown).with("format", version)
}

fn not_ours(disk: &dyn Disk, number: u64) -> Error {
    let shown = disk.shown(&name_of(number));
    let message = format!(
        "{shown} is no journal segment of mmapd: move it out of the folder, restore it, or start with \
             --accept-journal-loss to keep it under another name and recover what lies before it"
    );
    Error::new(Errno::UClean, message).with("segment", shown)
}
