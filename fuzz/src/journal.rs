//! The journal's reader. Three kinds of input, told apart by the first byte:
//!
//! - segments as they stand in the input: nothing panics, nothing on the disk changes, and memory stays within a
//!   multiple of the segments' bytes;
//! - a journal as the writer leaves it, and what disks do to one (flipped bits, torn ends, lost sectors, lost, exchanged
//!   and doubled segments): what is replayed is a run of what was written, whole and in order, from its beginning if
//!   that is there; a torn end loses exactly what it tore;
//! - records: see `records`.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use mmap_core::error::{Errno, Result};
use mmap_core::journal::forge::Forged;
use mmap_core::journal::sim::{Loss, SimDisk};
use mmap_core::journal::{Disk, Journal, Level, Options};

use crate::records::records;
use crate::take::Take;

/// Bytes of the segments: the smallest that are allowed.
const SEGMENT: usize = 4096;

/// What the list of the folder's files may take for each, and the comparison's.
const NAMED: u64 = 64;

/// Reads `bytes` as a journal.
pub fn journal(bytes: &[u8]) {
    let mut input = Take(bytes);
    match input.byte() % 3 {
        0 => raw(input),
        1 => broken(input),
        _ => records(input),
    }
}

fn options(accept_loss: bool) -> Options {
    Options { level: Level::Process, segment_bytes: SEGMENT as u64, queue_bytes: 1024, accept_loss }
}

/// What is replayed, or why nothing can be. The disk is as before.
fn replay(disk: &SimDisk, accept_loss: bool) -> Result<Vec<Vec<u8>>> {
    let before = disk.files();
    let mut found = Vec::new();
    let read = Journal::read(Arc::new(disk.clone()), options(accept_loss), &mut |record| {
        found.push(record.to_vec());
        Ok(())
    });
    assert!(disk.files() == before, "reading changed the journal");
    read.map(|_| found)
}

fn raw(mut input: Take<'_>) {
    let disk = SimDisk::new();
    let (mut given, mut files) = (0, 0);
    for number in 1.. {
        if input.is_empty() {
            break;
        }
        let bytes = input.prefixed();
        (given, files) = (given + bytes.len() as u64, files + 1);
        disk.put(&format!("{number:016x}.wal"), bytes);
    }
    for accept_loss in [false, true] {
        let mut found = Ok(Vec::new());
        let used = allocation_counter::measure(|| found = replay(&disk, accept_loss));
        // Two copies of the disk for the comparison, two segments at a time, and the records.
        let most = 8 * (given + NAMED * files) + (64 << 10);
        assert!(used.bytes_max <= most, "{} bytes for a journal of {given} in {files} files", used.bytes_max);
        match found {
            Ok(found) => assert!(found.iter().map(Vec::len).sum::<usize>() as u64 <= given),
            Err(error) => assert!(matches!(error.errno(), Errno::UClean | Errno::NotSup), "{error:?}"),
        }
    }
}

/// A journal as it was written.
struct Written {
    segments: BTreeMap<String, Vec<u8>>,
    names: Vec<String>,
    records: Vec<Vec<u8>>,
    /// Behind each record of the last segment: where it ends.
    ends: Vec<usize>,
    /// What the last segment had before.
    left: Vec<u8>,
}

/// Markers are random: nothing in the input can name them.
fn marker(input: &Take<'_>, number: u64) -> u64 {
    let mut hasher = DefaultHasher::new();
    (input.0, number).hash(&mut hasher);
    hasher.finish()
}

fn write(input: &mut Take<'_>) -> Written {
    let seed = *input;
    let count = 1 + u64::from(input.byte() % 3);
    let mut written = Written {
        segments: BTreeMap::new(),
        names: Vec::new(),
        records: Vec::new(),
        ends: Vec::new(),
        left: Vec::new(),
    };
    let (mut first, mut before) = (1, None);
    for number in 1..=count {
        let mut records = Vec::new();
        for _ in 0..=input.byte() % 6 {
            // As long as what the input has says, with a number before it, so that no two are the same.
            let len = usize::from(input.byte()) * 2;
            let record = [&(written.records.len() as u64).to_le_bytes()[..], input.bytes(len)].concat();
            written.records.push(record.clone());
            records.push(record);
        }
        let mut end = 40;
        written.ends = records
            .iter()
            .map(|record| {
                let start = end;
                end += (32 + record.len()).next_multiple_of(8);
                start + 32 + record.len()
            })
            .collect();
        let next = first + records.len() as u64;
        let left: Option<Vec<u8>> = before.filter(|_| input.byte().is_multiple_of(2));
        written.left = left.clone().unwrap_or_else(|| vec![0; SEGMENT]);
        let forged = Forged { number, marker: marker(&seed, number), first, records, bytes: SEGMENT, left };
        let (name, bytes) = forged.segment();
        (first, before) = (next, Some(bytes.clone()));
        written.names.push(name.clone());
        written.segments.insert(name, bytes);
    }
    written
}

fn broken(mut input: Take<'_>) {
    let written = write(&mut input);
    let disk = SimDisk::new();
    let mut segments = written.segments.clone();
    let harm = input.byte() % 5;
    if harm == 1 {
        return torn(&written, &mut input);
    }
    for _ in 0..harm {
        break_it(&mut segments, &written, &mut input);
    }
    for (name, bytes) in &segments {
        disk.put(name, bytes);
    }
    for accept_loss in [false, true] {
        let found = match replay(&disk, accept_loss) {
            Ok(found) => found,
            Err(error) => {
                assert!(harm > 0 && matches!(error.errno(), Errno::UClean | Errno::NotSup), "{error:?}");
                continue;
            }
        };
        let start = found.first().and_then(|first| written.records.iter().position(|record| record == first));
        let start = start.unwrap_or(0);
        let expected = written.records.get(start..start + found.len());
        assert!(expected == Some(&found[..]), "{} records were made up or out of order", found.len());
        let first = &written.names[0];
        if segments.get(first) == written.segments.get(first) {
            assert!(start == 0 && !found.is_empty(), "the beginning is there, and {start} records were passed over");
        }
        if harm == 0 {
            assert_eq!(found.len(), written.records.len());
        }
        if input.byte() == 7 {
            goes_on(&disk, accept_loss, &found);
        }
    }
}

/// Does to the segments one thing that disks do.
fn break_it(segments: &mut BTreeMap<String, Vec<u8>>, written: &Written, input: &mut Take<'_>) {
    let kind = input.byte() % 6;
    let name = &written.names[input.below(written.names.len())];
    let other = &written.names[input.below(written.names.len())];
    let at = input.below(SEGMENT);
    let Some(bytes) = segments.get_mut(name) else { return };
    let at = at.min(bytes.len().saturating_sub(1));
    match kind {
        0 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << (input.byte() % 8);
            }
        }
        1 => bytes[at..].fill(0),
        2 => bytes.truncate(at),
        3 => {
            let end = bytes.len().min(at / 512 * 512 + 512);
            bytes[at / 512 * 512..end].fill(0);
        }
        4 => drop(segments.remove(name)),
        _ => {
            if let Some(double) = segments.get(other).cloned() {
                segments.insert(name.clone(), double);
            }
        }
    }
}

/// The last segment's end was being written.
fn torn(written: &Written, input: &mut Take<'_>) {
    let disk = SimDisk::new();
    let mut segments = written.segments.clone();
    let last = written.names.last().unwrap();
    let bytes = segments.get_mut(last).unwrap();
    // Behind its head, which is there before anything is written behind it.
    let at = 40 + input.below(bytes.len() - 40);
    let cut_off = input.byte().is_multiple_of(2);
    if cut_off {
        bytes.truncate(at);
    } else {
        bytes[at..].copy_from_slice(&written.left[at..]);
    }
    // What was torn may have ended in what was there before, so that nothing of it is lost.
    let whole = |&&end: &&usize| end <= at || (!cut_off && written.segments[last][at..end] == written.left[at..end]);
    let kept = written.records.len() - written.ends.len() + written.ends.iter().take_while(whole).count();
    for (name, bytes) in &segments {
        disk.put(name, bytes);
    }
    let found = replay(&disk, false).unwrap_or_else(|error| panic!("torn at {at}: {error}"));
    assert!(found == written.records[..kept], "torn at {at}: {} of {kept} records", found.len());
}

/// Opened for writing and opened again, the journal says the same.
fn goes_on(disk: &SimDisk, accept_loss: bool, found: &[Vec<u8>]) {
    let disk = disk.survivors(Loss::Kill);
    let opened = Journal::open(Arc::new(disk.clone()) as Arc<dyn Disk>, options(accept_loss), &mut |_| Ok(()));
    drop(opened.unwrap());
    let again = replay(&disk.survivors(Loss::Power { seed: 1 }), false).unwrap();
    assert!(again == found, "{} records, and {} after the next start", found.len(), again.len());
}
