//! Segments that a checkpoint took off and that are written again, with what they had before behind the new.

use super::frame::{ALIGN, FRAME};
use super::handle::Journal;
use super::options::Level;
use super::sim::{Loss, SimDisk};
use super::tests::{SEGMENT, open, options, put, put_all, record, records, segments};
use crate::error::Errno;

/// Records of a round, which are three segments and more.
const ROUND: usize = 45;

/// A journal of which a checkpoint took off as much as `rounds` of records, and what it holds: `last` records more.
async fn used_again(level: Level, rounds: usize, last: usize) -> (SimDisk, Journal, Vec<Vec<u8>>) {
    let disk = SimDisk::new();
    let (journal, ..) = open(&disk, options(level)).unwrap();
    journal.set_checkpoint_at(4 * SEGMENT);
    for _ in 0..rounds {
        put_all(&journal, 0..ROUND).await;
        let mark = journal.begin_checkpoint().await.unwrap();
        journal.end_checkpoint(mark).await.unwrap();
    }
    put_all(&journal, 0..last).await;
    (disk, journal, records(0..last))
}

#[tokio::test]
async fn segments_that_checkpoints_took_off_are_used_again_and_hold_only_what_is_new() {
    for level in [Level::Process, Level::Disk] {
        let (disk, journal, expected) = used_again(level, 6, ROUND).await;
        assert!(disk.reuses() >= 15, "{} times", disk.reuses());
        assert!(segments(&disk).len() <= 8, "{:?}", segments(&disk));
        assert_eq!(journal.bytes(), segments(&disk).len() as u64 * SEGMENT);
        let left = disk.survivors(Loss::Kill);
        let (again, opened, found) = open(&left, options(level)).unwrap();
        assert_eq!((found == expected, opened.torn_bytes, opened.damage), (true, 0, None));
        // What was kept for later is not: the next run may want other segments.
        assert!(segments(&left).len() <= 6, "{:?}", segments(&left));
        drop((journal, again));
    }
}

#[tokio::test]
async fn on_a_full_disk_segments_that_are_there_are_used_again() {
    let (disk, journal, _) = used_again(Level::Disk, 2, 0).await;
    disk.full_after(0);
    put_all(&journal, 0..ROUND).await;
    journal.close().await.unwrap();
    assert!(open(&disk.survivors(Loss::Kill), options(Level::Disk)).unwrap().2 == records(0..ROUND));
}

#[tokio::test]
async fn a_flipped_bit_in_a_segment_that_is_used_again_is_damage_or_a_torn_end_and_never_a_wrong_record() {
    let (disk, journal, expected) = used_again(Level::Disk, 3, ROUND).await;
    let (mut damaged, mut torn, mut harmless) = (0, 0, 0);
    for name in segments(&disk) {
        for offset in (0..usize::try_from(SEGMENT).unwrap()).step_by(7) {
            let broken = disk.survivors(Loss::Kill);
            broken.flip(&name, offset);
            match open(&broken, options(Level::Disk)) {
                Err(error) => {
                    assert_eq!(error.errno(), Errno::UClean, "{name} {offset}: {error:?}");
                    damaged += 1;
                }
                Ok((.., found)) => {
                    assert!(found == expected[..found.len()], "{name} {offset}: a wrong record");
                    assert!(found.len() + 1 >= ROUND, "{name} {offset}: {} records, and nothing said", found.len());
                    torn += u64::from(found.len() < ROUND);
                    harmless += u64::from(found.len() == ROUND);
                }
            }
        }
    }
    assert!(damaged > 1000 && torn > 0 && harmless > 0, "{damaged} {torn} {harmless}");
    drop(journal);
}

#[tokio::test]
async fn a_last_record_torn_at_any_byte_over_what_a_segment_had_before_is_dropped() {
    let (disk, journal, expected) = used_again(Level::Disk, 3, 5).await;
    let before = disk.files();
    let lsn = put(&journal, &record(5)).await.unwrap();
    journal.acknowledged(lsn).await.unwrap();
    let after = disk.files();
    let changed: Vec<_> = after.iter().filter(|(name, bytes)| before.get(*name) != Some(*bytes)).collect();
    let [(name, whole)] = changed[..] else { panic!("{} files changed", changed.len()) };
    let old = &before[name];
    let differs = |at: &usize| whole[*at] != old[*at];
    let start = (0..whole.len()).find(differs).unwrap() / ALIGN * ALIGN;
    // Without the padding.
    let end = start + FRAME + record(5).len();
    assert!(old[start..end].iter().any(|byte| *byte != 0), "there was nothing before");
    for torn in start..end {
        let mixture = [&whole[..torn], &old[torn..]].concat();
        if mixture[..end] == whole[..end] {
            continue;
        }
        let left = disk.survivors(Loss::Kill);
        left.put(name, &mixture);
        let (_, opened, found) = open(&left, options(Level::Disk)).unwrap();
        assert!(found == expected && opened.damage.is_none(), "torn at {torn} of {start} to {end}: {}", found.len());
    }
    drop(journal);
}

#[tokio::test]
async fn segments_that_somebody_took_away_hide_none_that_come_after_them() {
    let (disk, journal, _) = used_again(Level::Disk, 2, 0).await;
    journal.close().await.unwrap();
    for name in segments(&disk) {
        super::disk::Disk::remove(&disk, &name).unwrap();
    }
    let (journal, ..) = open(&disk, options(Level::Disk)).unwrap();
    put_all(&journal, 0..6 * ROUND).await;
    assert!(open(&disk.survivors(Loss::Kill), options(Level::Disk)).unwrap().2 == records(0..6 * ROUND));
}
