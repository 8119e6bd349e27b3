//! What a journal makes of bytes that are torn, flipped, foreign or missing.

use super::handle::Journal;
use super::options::{Level, Options};
use super::sim::{Loss, SimDisk};
use super::tests::{open, options, put_all, record, segments};
use crate::error::Errno;

/// A journal of `count` records that was killed, and its records.
async fn killed(count: usize) -> (SimDisk, Vec<Vec<u8>>) {
    let disk = SimDisk::new();
    let (journal, ..) = open(&disk, options(Level::Disk)).unwrap();
    put_all(&journal, 0..count).await;
    (disk.survivors(Loss::Kill), (0..count).map(record).collect())
}

fn accepting() -> Options {
    Options { accept_loss: true, ..options(Level::Process) }
}

/// Opens a copy, checks that what comes back is a beginning of `expected`; how many, or None for damage.
fn recovered(disk: &SimDisk, expected: &[Vec<u8>]) -> Option<usize> {
    let disk = disk.survivors(Loss::Kill);
    let before = disk.files();
    match open(&disk, options(Level::Process)) {
        Ok((_, opened, found)) => {
            assert_eq!((found.as_slice(), opened.damage), (&expected[..found.len()], None));
            Some(found.len())
        }
        Err(error) => {
            assert_eq!(error.errno(), Errno::UClean, "{error:?}");
            assert!(error.message().contains("--accept-journal-loss"), "{error}");
            assert!(!error.message().contains("  "), "{error}");
            assert!(disk.files() == before, "a refused journal was touched");
            None
        }
    }
}

#[tokio::test]
async fn a_last_record_torn_at_any_byte_is_dropped_and_everything_before_it_is_there() {
    let (disk, records) = killed(6).await;
    let (name, whole) = disk.files().into_iter().next().unwrap();
    let end = whole.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let last = record(5).len() + super::frame::FRAME;
    for torn in end - last..end {
        let mut bytes = whole.clone();
        bytes[torn..].fill(0);
        disk.put(&name, &bytes);
        assert_eq!(recovered(&disk, &records), Some(5), "torn at {torn} of {end}");
        // Cut off, not zeros: as on a file system that did not preallocate.
        disk.put(&name, &whole[..torn]);
        assert_eq!(recovered(&disk, &records), Some(5), "cut off at {torn} of {end}");
    }
    disk.put(&name, &whole);
    assert_eq!(recovered(&disk, &records), Some(6));
}

#[tokio::test]
async fn torn_bytes_are_counted_once_and_later_runs_go_on_behind_them() {
    let (disk, records) = killed(6).await;
    let (name, whole) = disk.files().into_iter().next().unwrap();
    let end = whole.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    disk.put(&name, &whole[..end - 10]);
    let (journal, opened, found) = open(&disk, options(Level::Process)).unwrap();
    assert_eq!((found.len(), opened.torn_bytes), (5, (record(5).len() + 32 - 10) as u64));
    put_all(&journal, 5..9).await;
    drop(journal);
    let (journal, opened, found) = open(&disk.survivors(Loss::Kill), options(Level::Process)).unwrap();
    let expected: Vec<_> = (0..9).map(record).collect();
    assert_eq!((found, opened.torn_bytes, opened.damage), (expected, 0, None));
    drop((journal, records));
}

#[tokio::test]
async fn a_flipped_bit_is_damage_or_a_torn_end_and_never_a_wrong_record() {
    let (disk, records) = killed(50).await;
    let files = disk.files();
    assert!(files.len() >= 4, "{} segments", files.len());
    let (mut damaged, mut torn, mut harmless) = (0, 0, 0);
    for (name, bytes) in &files {
        for offset in (0..bytes.len()).step_by(7) {
            let broken = disk.survivors(Loss::Kill);
            broken.flip(name, offset);
            match recovered(&broken, &records) {
                None => damaged += 1,
                // Padding, and the zeros behind the end.
                Some(50) => harmless += 1,
                Some(found) => {
                    // Only what nothing came after can be taken for torn.
                    assert_eq!(found, 49, "{name} {offset}");
                    torn += 1;
                }
            }
        }
    }
    assert!(damaged > 1000 && torn > 0 && harmless > 0, "{damaged} {torn} {harmless}");
}

#[tokio::test]
async fn after_a_clean_end_or_a_restart_a_flipped_bit_in_any_record_is_damage() {
    for clean in [true, false] {
        let disk = SimDisk::new();
        let (journal, ..) = open(&disk, options(Level::Process)).unwrap();
        put_all(&journal, 0..6).await;
        if clean {
            journal.close().await.unwrap();
        }
        drop(journal);
        if !clean {
            drop(open(&disk, options(Level::Process)).unwrap());
        }
        let (name, _) = disk.files().into_iter().next().unwrap();
        let mut offset = super::frame::HEAD + super::frame::FRAME;
        for number in 0..6 {
            let broken = disk.survivors(Loss::Kill);
            broken.flip(&name, offset + 40);
            assert_eq!(recovered(&broken, &[]), None, "record {number}");
            offset += super::frame::size_of(record(number).len());
        }
    }
}

#[tokio::test]
async fn an_accepted_loss_recovers_what_lies_before_and_keeps_the_damaged_segments() {
    let (disk, records) = killed(50).await;
    let before = disk.files();
    let names = segments(&disk);
    disk.flip(&names[1], 1500);
    let error = open(&disk, options(Level::Process)).unwrap_err();
    assert!(error.message().contains(&names[1]), "{error}");
    let (journal, opened, found) = open(&disk, accepting()).unwrap();
    let damage = opened.damage.unwrap();
    assert_eq!((&damage.segment, damage.lost.0), (&names[1], found.len() as u64 + 2));
    assert!(damage.offset <= 1500 && damage.bytes > 0);
    assert!(found.len() > 10 && found.len() < 49 && found[..] == records[..found.len()]);
    put_all(&journal, 0..30).await;
    journal.close().await.unwrap();

    let files = disk.files();
    assert!(files.contains_key(&names[1]) && !files.contains_key(&names[2]), "{:?}", files.keys());
    for name in &names[1..] {
        let kept = files.get(&format!("{name}.damaged"));
        // The unused spare is not worth keeping.
        assert_eq!(kept.is_some(), before[name][super::frame::HEAD..].iter().any(|byte| *byte != 0));
    }
    // From now on it is a journal like any other.
    let (_, opened, again) = open(&disk, options(Level::Process)).unwrap();
    let expected: Vec<_> = found.into_iter().chain((0..30).map(record)).collect();
    assert_eq!((again, opened.damage), (expected, None));
}

#[tokio::test]
async fn a_loss_that_is_accepted_survives_a_crash_at_every_step_of_accepting_it() {
    let (disk, records) = killed(50).await;
    let name = segments(&disk).swap_remove(1);
    disk.flip(&name, 1500);
    let found = open(&disk.survivors(Loss::Kill), accepting()).unwrap().2;
    assert!(found[..] == records[..found.len()]);
    for step in 1.. {
        let crashing = disk.survivors(Loss::Kill);
        crashing.crash_at(step);
        let opened = open(&crashing, accepting());
        let done = opened.is_ok() && crashing.steps() < step;
        drop(opened);
        for loss in [Loss::Kill, Loss::Power { seed: step }] {
            let left = crashing.survivors(loss);
            assert!(open(&left, accepting()).unwrap().2 == found, "step {step} {loss:?}");
            assert!(open(&left, options(Level::Process)).unwrap().2 == found, "step {step} {loss:?}, again");
        }
        if done {
            assert!(step > 10, "only {step} steps");
            break;
        }
    }
}

#[tokio::test]
async fn damage_before_the_first_record_is_told_and_can_be_accepted() {
    let (disk, _) = killed(20).await;
    let name = disk.files().into_keys().next().unwrap();
    for offset in [20, 45] {
        let broken = disk.survivors(Loss::Kill);
        broken.flip(&name, offset);
        assert_eq!(recovered(&broken, &[]), None);
        let (journal, opened, found) = open(&broken, accepting()).unwrap();
        assert!(opened.damage.is_some_and(|damage| damage.segment == name) && found.is_empty());
        put_all(&journal, 0..3).await;
        drop(journal);
        assert_eq!(open(&broken, options(Level::Process)).unwrap().2.len(), 3);
    }
}

#[tokio::test]
async fn a_missing_segment_is_damage_unless_it_is_the_first() {
    let (disk, records) = killed(80).await;
    let names = segments(&disk);
    // The last is the spare, the one before it the current one.
    for (index, name) in names[..names.len() - 2].iter().enumerate() {
        let broken = disk.survivors(Loss::Kill);
        super::disk::Disk::remove(&broken, name).unwrap();
        if index == 0 {
            let (_, opened, found) = open(&broken, options(Level::Process)).unwrap();
            assert_eq!((found.last(), opened.damage), (records.last(), None));
        } else {
            assert_eq!(recovered(&broken, &records), None, "{name}");
        }
    }
}

#[tokio::test]
async fn a_segment_with_the_bytes_of_another_is_damage() {
    let (disk, _) = killed(50).await;
    let files = disk.files();
    // Without the spare, whose head would tell of what is lost.
    let mut names = segments(&disk);
    super::disk::Disk::remove(&disk, &names.pop().unwrap()).unwrap();
    for target in &names[1..] {
        for source in names.iter().filter(|source| *source != target) {
            let broken = disk.survivors(Loss::Kill);
            broken.put(target, &files[source]);
            assert_eq!(recovered(&broken, &[]), None, "{source} over {target}");
        }
    }
}

#[tokio::test]
async fn a_newer_format_and_a_foreign_file_are_refused_untouched() {
    let (disk, records) = killed(5).await;
    let (name, mut bytes) = disk.files().into_iter().next().unwrap();
    let later = "0000000000000007.wal";
    disk.put(later, b"#!/bin/sh\n");
    assert_eq!(recovered(&disk, &records), None);
    let (journal, opened, found) = open(&disk, accepting()).unwrap();
    assert_eq!((found.len(), opened.damage.is_some()), (5, true));
    drop(journal);
    assert_eq!(disk.files()[&format!("{later}.damaged")], b"#!/bin/sh\n");
    // A later format may lay the rest out as it likes; head and checksum stay.
    bytes[8] = 3;
    let crc = crc32fast::hash(&[&bytes[..12], &bytes[16..super::frame::HEAD]].concat());
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    disk.put(&name, &bytes);
    let before = disk.files();
    for options in [options(Level::Process), accepting()] {
        let error = open(&disk, options).unwrap_err();
        assert_eq!((error.errno(), error.message().contains("format 3")), (Errno::NotSup, true));
    }
    assert!(disk.files() == before);
}

#[tokio::test]
async fn other_files_in_the_folder_are_left_alone() {
    let disk = SimDisk::new();
    for name in ["notes.txt", "1.wal", "000000000000000A.wal", "0000000000000001.wal.bak"] {
        disk.put(name, b"mine");
    }
    let (journal, ..) = open(&disk, options(Level::Process)).unwrap();
    put_all(&journal, 0..3).await;
    drop::<Journal>(journal);
    assert_eq!(disk.files().values().filter(|bytes| *bytes == b"mine").count(), 4);
}

#[tokio::test]
async fn records_that_only_the_spare_segment_knows_of_are_missed() {
    let (disk, _) = killed(5).await;
    let first = disk.files().into_keys().next().unwrap();
    super::disk::Disk::remove(&disk, &first).unwrap();
    assert_eq!(recovered(&disk, &[]), None);
    let (journal, opened, _) = open(&disk, accepting()).unwrap();
    assert!(opened.damage.is_some());
    put_all(&journal, 0..2).await;
    journal.close().await.unwrap();
    assert_eq!(open(&disk, options(Level::Process)).unwrap().2.len(), 2);
}
