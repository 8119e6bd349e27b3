//! The journal on a disk that works, is slow or full: order, acknowledgement, back-pressure, checkpoints.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::handle::Journal;
use super::open::Opened;
use super::options::{Level, Lsn, Options};
use super::sim::{Loss, SimDisk};
use crate::error::{Errno, Error, Result};

pub(super) const SEGMENT: u64 = 4096;
pub(super) const QUEUE: u64 = 2048;

pub(super) fn options(level: Level) -> Options {
    Options { level, segment_bytes: SEGMENT, queue_bytes: QUEUE, accept_loss: false }
}

pub(super) fn open(disk: &SimDisk, options: Options) -> Result<(Journal, Opened, Vec<Vec<u8>>)> {
    let mut records = Vec::new();
    let (journal, opened) = Journal::open(Arc::new(disk.clone()), options, &mut |payload| {
        records.push(payload.to_vec());
        Ok(())
    })?;
    Ok((journal, opened, records))
}

/// Bytes of the segments that are not only kept to be used again.
fn in_use(journal: &Journal) -> u64 {
    journal.shared.space.borrow().bytes
}

/// The names of its segments.
pub(super) fn segments(disk: &SimDisk) -> Vec<String> {
    disk.files().into_keys().filter(|name| name.ends_with(".wal")).collect()
}

/// A record that says which it is, of a length that depends on it.
pub(super) fn record(number: usize) -> Vec<u8> {
    let mut payload = format!("{number} ").into_bytes();
    payload.resize(payload.len() + number * 37 % 400, b'.');
    payload
}

pub(super) async fn put(journal: &Journal, payload: &[u8]) -> Result<Lsn> {
    let room = journal.reserve(payload.len(), None).await?;
    Ok(journal.append(Some(room), |buffer| buffer.extend_from_slice(payload)))
}

/// Puts records one by one, each acknowledged before the next.
pub(super) async fn put_all(journal: &Journal, numbers: std::ops::Range<usize>) {
    for number in numbers {
        let lsn = put(journal, &record(number)).await.unwrap();
        journal.acknowledged(lsn).await.unwrap();
    }
}

pub(super) fn records(numbers: std::ops::Range<usize>) -> Vec<Vec<u8>> {
    numbers.map(record).collect()
}

#[tokio::test]
async fn records_come_back_in_order_and_whole_after_any_number_of_reopenings() {
    for level in [Level::Process, Level::Disk] {
        let disk = SimDisk::new();
        for run in 0..4 {
            let (journal, opened, found) = open(&disk, options(level)).unwrap();
            assert_eq!(found, records(0..run * 50));
            assert_eq!(opened, Opened { records: run as u64 * 50, torn_bytes: 0, damage: None });
            put_all(&journal, run * 50..(run + 1) * 50).await;
            if run % 2 == 0 {
                journal.close().await.unwrap();
            }
        }
    }
}

#[tokio::test]
async fn a_journal_in_a_real_folder_comes_back_and_frees_what_a_checkpoint_covers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let open = |found: &mut Vec<Vec<u8>>| {
        let disk = Arc::new(super::folder::Folder::open(&path).unwrap());
        let options = Options { segment_bytes: 64 << 10, queue_bytes: 16 << 10, ..options(Level::Disk) };
        Journal::open(disk, options, &mut |payload| {
            found.push(payload.to_vec());
            Ok(())
        })
    };
    let (journal, _) = open(&mut Vec::new()).unwrap();
    put_all(&journal, 0..800).await;
    let before = journal.bytes();
    journal.close().await.unwrap();
    let mut found = Vec::new();
    let (journal, opened) = open(&mut found).unwrap();
    assert_eq!((found == records(0..800), opened.torn_bytes, opened.records), (true, 0, 800));
    let mark = journal.begin_checkpoint().await.unwrap();
    put_all(&journal, 800..802).await;
    assert!(journal.end_checkpoint(mark).await.unwrap() >= before - (64 << 10));
    let on_disk: u64 = std::fs::read_dir(&path).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum();
    assert_eq!((journal.bytes(), on_disk), (128 << 10, 128 << 10));
    drop(journal);
    let mut found = Vec::new();
    open(&mut found).unwrap();
    assert_eq!(found, records(800..802));
}

#[tokio::test]
async fn one_sync_acknowledges_all_that_wait() {
    let disk = SimDisk::new();
    let (journal, ..) = open(&disk, options(Level::Disk)).unwrap();
    // A first record keeps the writer busy while the others queue up behind it.
    disk.hold_writes(true);
    let first = put(&journal, b"first").await.unwrap();
    journal.hurry();
    while !journal.shared.writer_has_all() {
        tokio::task::yield_now().await;
    }
    let before = disk.syncs();
    let mut lsns = Vec::new();
    for number in 0..20 {
        lsns.push(put(&journal, format!("{number}").as_bytes()).await.unwrap());
    }
    assert!(!journal.is_acknowledged(first));
    disk.hold_writes(false);
    for lsn in lsns {
        journal.acknowledged(lsn).await.unwrap();
    }
    assert_eq!(disk.syncs() - before, 2);
}

#[tokio::test]
async fn level_process_syncs_only_when_asked_and_then_every_segment() {
    let disk = SimDisk::new();
    let (journal, ..) = open(&disk, options(Level::Process)).unwrap();
    put_all(&journal, 0..60).await;
    let last = put(&journal, b"last").await.unwrap();
    journal.synced(last).await.unwrap();
    journal.synced(last).await.unwrap();
    for seed in 0..50 {
        let (_, _, found) = open(&disk.survivors(Loss::Power { seed }), options(Level::Process)).unwrap();
        assert_eq!(found.len(), 61);
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_the_queue_is_served_in_order_or_told_at_the_deadline() {
    let disk = SimDisk::new();
    let (journal, ..) = open(&disk, options(Level::Process)).unwrap();
    disk.hold_writes(true);
    let full = journal.reserve(2000, None).await.unwrap();
    let late = Instant::now() + Duration::from_millis(50);
    let error = journal.reserve(100, Some(late)).await.unwrap_err();
    assert_eq!((error.errno(), Instant::now() >= late), (Errno::DQuot, true));

    let order = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let mut waiters = Vec::new();
    // The first wants much, those behind it little: they do not overtake it.
    for (number, bytes) in [(0, 1900), (1, 10), (2, 10)] {
        let (journal, order) = (journal.clone(), Arc::clone(&order));
        waiters.push(tokio::spawn(async move {
            let room = journal.reserve(bytes, None).await.unwrap();
            order.lock().push(number);
            drop(room);
        }));
        tokio::task::yield_now().await;
    }
    assert!(order.lock().is_empty());
    drop(full);
    for waiter in waiters {
        waiter.await.unwrap();
    }
    assert_eq!(*order.lock(), [0, 1, 2]);
    disk.hold_writes(false);
}

#[tokio::test]
async fn records_that_are_waited_for_together_are_written_together() {
    let disk = SimDisk::new();
    let (journal, ..) = open(&disk, options(Level::Process)).unwrap();
    put_all(&journal, 0..1).await;
    // What the writer does between two batches is done before the next is counted.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let before = disk.steps();
    let mut last = Lsn::NONE;
    for _ in 0..10 {
        last = put(&journal, &[7; 50]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(!journal.is_acknowledged(last));
    journal.acknowledged(last).await.unwrap();
    assert_eq!(disk.steps() - before, 1);
}

#[tokio::test]
async fn a_queue_full_of_what_nobody_waits_for_is_written_for_who_needs_the_room() {
    let disk = SimDisk::new();
    let (journal, ..) = open(&disk, options(Level::Process)).unwrap();
    for number in 0..100 {
        put(&journal, &record(number)).await.unwrap();
    }
    journal.hurry();
    let (_, _, found) = {
        journal.close().await.unwrap();
        open(&disk, options(Level::Process)).unwrap()
    };
    assert_eq!(found, records(0..100));
}

#[tokio::test]
async fn a_record_larger_than_the_queue_or_a_segment_is_refused_and_harms_nothing() {
    let disk = SimDisk::new();
    let (journal, ..) = open(&disk, options(Level::Disk)).unwrap();
    let error = journal.reserve(usize::try_from(QUEUE).unwrap() - 31, None).await.unwrap_err();
    assert_eq!(error.errno(), Errno::NoMem);
    assert_eq!(journal.reserve(usize::MAX, None).await.unwrap_err().errno(), Errno::NoMem);
    let lsn = journal.append(None, |buffer| buffer.resize(buffer.len() + 10_000, 1));
    assert_eq!(journal.acknowledged(lsn).await.unwrap_err().errno(), Errno::Fault);
    assert_eq!(journal.synced(lsn).await.unwrap_err().errno(), Errno::Fault);
    put_all(&journal, 0..3).await;
    journal.close().await.unwrap();
    assert_eq!(open(&disk, options(Level::Disk)).unwrap().2, records(0..3));
}

#[tokio::test]
async fn an_appender_that_panics_leaves_nothing_behind() {
    let disk = SimDisk::new();
    let (journal, ..) = open(&disk, options(Level::Disk)).unwrap();
    let appender = journal.clone();
    let task = tokio::spawn(async move {
        appender.append(None, |buffer| {
            buffer.extend_from_slice(b"half");
            panic!("as the test wants it")
        })
    });
    assert!(task.await.is_err());
    put_all(&journal, 0..3).await;
    journal.close().await.unwrap();
    assert_eq!(open(&disk, options(Level::Disk)).unwrap().2, records(0..3));
}

#[tokio::test]
async fn a_checkpoint_frees_the_segments_before_its_mark_and_no_others() {
    let disk = SimDisk::new();
    let (journal, ..) = open(&disk, options(Level::Process)).unwrap();
    journal.set_checkpoint_at(5 * SEGMENT);
    let wanted = tokio::spawn({
        let journal = journal.clone();
        async move { journal.wants_checkpoint().await }
    });
    put_all(&journal, 0..100).await;
    wanted.await.unwrap();
    let before = journal.bytes();
    assert!(before > 5 * SEGMENT);
    let mark = journal.begin_checkpoint().await.unwrap();
    put_all(&journal, 100..110).await;
    let freed = journal.end_checkpoint(mark).await.unwrap();
    assert_eq!(segments(&disk).len() as u64 * SEGMENT, journal.bytes());
    // A segment may have been added since `before`.
    assert!(freed >= before - 2 * SEGMENT && in_use(&journal) <= 3 * SEGMENT, "{before} {freed}");
    assert!(journal.bytes() <= 8 * SEGMENT);
    assert!(tokio::time::timeout(Duration::from_millis(20), journal.wants_checkpoint()).await.is_err());
    assert_eq!(open(&disk.survivors(Loss::Kill), options(Level::Process)).unwrap().2, records(100..110));
}

#[tokio::test]
async fn writers_that_outrun_the_checkpoints_wait_for_one_and_what_it_says_does_not() {
    let disk = SimDisk::new();
    let (journal, ..) = open(&disk, options(Level::Process)).unwrap();
    journal.set_checkpoint_at(2 * SEGMENT);
    let soon = || Some(Instant::now() + Duration::from_millis(300));
    let mut written = 0;
    let refused = loop {
        let room = match journal.reserve(100, soon()).await {
            Ok(room) => room,
            Err(error) => break error,
        };
        let lsn = journal.append(Some(room), |buffer| buffer.resize(buffer.len() + 100, 1));
        journal.acknowledged(lsn).await.unwrap();
        written += 100;
        assert!(written < 100 * SEGMENT, "{} bytes of segments", journal.bytes());
    };
    assert_eq!((refused.errno(), journal.bytes()), (Errno::DQuot, 5 * SEGMENT));
    let waits = tokio::spawn({
        let journal = journal.clone();
        async move { journal.reserve(100, None).await.map(drop) }
    });
    let mark = journal.begin_checkpoint().await.unwrap();
    let said = journal.append(None, |buffer| buffer.extend_from_slice(b"what holds"));
    journal.acknowledged(said).await.unwrap();
    assert!(!waits.is_finished());
    journal.end_checkpoint(mark).await.unwrap();
    waits.await.unwrap().unwrap();
    assert!(in_use(&journal) <= 3 * SEGMENT && journal.bytes() <= 5 * SEGMENT);
}

/// A disk with two segments and no room for a third.
async fn nearly_full() -> (SimDisk, Journal, usize) {
    let disk = SimDisk::new();
    disk.full_after(3 * SEGMENT);
    let (journal, ..) = open(&disk, options(Level::Disk)).unwrap();
    for number in 0.. {
        match put(&journal, &record(number)).await {
            Ok(lsn) => journal.acknowledged(lsn).await.unwrap(),
            Err(error) => {
                assert_eq!(error.errno(), Errno::DQuot, "{error:?}");
                return (disk, journal, number);
            }
        }
    }
    unreachable!("the loop has no end")
}

#[tokio::test]
async fn a_full_disk_refuses_rooms_keeps_what_was_accepted_and_takes_internal_records() {
    let (disk, journal, number) = nearly_full().await;
    assert!(number > 40, "only {number} records fit into three segments");
    let mut expected = records(0..number);
    // Down to the last room there is, so that only the slack is left.
    while let Ok(lsn) = put(&journal, b"filler").await {
        journal.acknowledged(lsn).await.unwrap();
        expected.push(b"filler".to_vec());
    }
    for _ in 0..options(Level::Disk).slack() / 40 {
        let internal = journal.append(None, |buffer| buffer.extend_from_slice(b"internal"));
        tokio::time::timeout(Duration::from_secs(10), journal.acknowledged(internal)).await.unwrap().unwrap();
        expected.push(b"internal".to_vec());
    }
    journal.wants_checkpoint().await;
    for loss in [Loss::Kill, Loss::Power { seed: 3 }] {
        assert_eq!(open(&disk.survivors(loss), options(Level::Disk)).unwrap().2, expected);
    }
}

#[tokio::test]
async fn a_checkpoint_on_a_full_disk_makes_room_again() {
    let (disk, journal, _) = nearly_full().await;
    let mark = journal.begin_checkpoint().await.unwrap();
    let live = journal.append(None, |buffer| buffer.extend_from_slice(b"live"));
    journal.acknowledged(live).await.unwrap();
    assert_eq!(journal.end_checkpoint(mark).await.unwrap(), 2 * SEGMENT);
    put_all(&journal, 0..15).await;
    journal.close().await.unwrap();
    let (_, _, found) = open(&disk, options(Level::Disk)).unwrap();
    assert_eq!(found[found.len() - 15..], records(0..15));
}

#[tokio::test]
async fn internal_records_beyond_the_slack_wait_for_space_and_are_then_written_in_order() {
    let (disk, journal, number) = nearly_full().await;
    let mut last = Lsn(0);
    for _ in 0..30 {
        last = journal.append(None, |buffer| buffer.resize(buffer.len() + 100, b'i'));
    }
    assert!(tokio::time::timeout(Duration::from_millis(50), journal.acknowledged(last)).await.is_err());
    assert_eq!(put(&journal, b"refused").await.unwrap_err().errno(), Errno::DQuot);
    disk.full_after(20 * SEGMENT);
    journal.acknowledged(last).await.unwrap();
    put_all(&journal, number..number + 5).await;
    journal.close().await.unwrap();
    let (_, _, found) = open(&disk, options(Level::Disk)).unwrap();
    let expected = records(0..number).into_iter().chain(vec![vec![b'i'; 100]; 30]);
    assert_eq!(found, expected.chain(records(number..number + 5)).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_journal_opens_on_a_full_disk_and_goes_on_when_there_is_space() {
    let (disk, journal, number) = nearly_full().await;
    drop(journal);
    let disk = disk.survivors(Loss::Kill);
    disk.full_after(3 * SEGMENT);
    let (journal, opened, _) = open(&disk, options(Level::Disk)).unwrap();
    assert_eq!(opened.records, number as u64);
    assert_eq!(put(&journal, b"refused").await.unwrap_err().errno(), Errno::DQuot);
    let waiting = journal.append(None, |buffer| buffer.extend_from_slice(b"waiting"));
    disk.full_after(20 * SEGMENT);
    journal.acknowledged(waiting).await.unwrap();
    put_all(&journal, 0..40).await;
    journal.close().await.unwrap();
    assert_eq!(open(&disk, options(Level::Disk)).unwrap().1.records, number as u64 + 41);
}

#[tokio::test]
async fn a_disk_that_is_full_although_it_was_preallocated_is_waited_out() {
    let disk = SimDisk::new();
    let (journal, ..) = open(&disk, options(Level::Disk)).unwrap();
    put_all(&journal, 0..3).await;
    disk.fail_writes(Some(io::ErrorKind::StorageFull));
    let lsn = put(&journal, &record(3)).await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(50), journal.acknowledged(lsn)).await.is_err());
    assert_eq!(put(&journal, b"refused").await.unwrap_err().errno(), Errno::DQuot);
    disk.fail_writes(None);
    journal.acknowledged(lsn).await.unwrap();
    put_all(&journal, 4..6).await;
    journal.close().await.unwrap();
    assert_eq!(open(&disk, options(Level::Disk)).unwrap().2, records(0..6));
}

async fn assert_failed(disk: &SimDisk, journal: &Journal, lsn: Lsn) -> Error {
    let error = journal.acknowledged(lsn).await.unwrap_err();
    assert_eq!(error.errno(), Errno::Io);
    disk.fail_writes(None);
    disk.fail_syncs(None);
    assert_eq!(put(journal, b"late").await.unwrap_err().errno(), Errno::Io);
    let late = journal.append(None, |buffer| buffer.push(1));
    assert_eq!(journal.acknowledged(late).await.unwrap_err().errno(), Errno::Io);
    assert_eq!(journal.begin_checkpoint().await.unwrap_err().errno(), Errno::Io);
    assert_eq!(journal.close().await.unwrap_err().errno(), Errno::Io);
    error
}

#[tokio::test]
async fn a_write_or_a_sync_that_fails_ends_the_journal_and_keeps_what_was_acknowledged() {
    for syncs in [false, true] {
        let disk = SimDisk::new();
        let (journal, ..) = open(&disk, options(Level::Disk)).unwrap();
        put_all(&journal, 0..5).await;
        let done = journal.shared.last();
        if syncs {
            disk.fail_syncs(Some(io::ErrorKind::Other));
        } else {
            disk.fail_writes(Some(io::ErrorKind::Other));
        }
        let lsn = put(&journal, b"lost").await.unwrap();
        let before = disk.syncs();
        assert_failed(&disk, &journal, lsn).await;
        assert_eq!(disk.syncs(), before, "a failed sync was tried again");
        journal.acknowledged(done).await.unwrap();
        let (_, opened, found) = open(&disk.survivors(Loss::Power { seed: 1 }), options(Level::Disk)).unwrap();
        assert_eq!((found[..5].to_vec(), opened.damage), (records(0..5), None));
    }
}

#[tokio::test]
async fn what_a_failed_replay_says_is_answered_and_nothing_is_touched() {
    let disk = SimDisk::new();
    let (journal, ..) = open(&disk, options(Level::Disk)).unwrap();
    put_all(&journal, 0..30).await;
    journal.close().await.unwrap();
    let before = disk.files();
    let error = Journal::open(Arc::new(disk.clone()), options(Level::Disk), &mut |payload| {
        if payload == record(20) { Err(Error::new(Errno::NotSup, "not this one")) } else { Ok(()) }
    });
    assert_eq!((error.unwrap_err().errno(), disk.files() == before), (Errno::NotSup, true));
}

#[tokio::test]
async fn options_that_cannot_be_kept_are_refused() {
    for (segment_bytes, queue_bytes) in [(100, 64), (2 << 30, 64), (4096, 4096), (4096, 0)] {
        let options = Options { segment_bytes, queue_bytes, ..options(Level::Disk) };
        assert_eq!(open(&SimDisk::new(), options).unwrap_err().errno(), Errno::Inval);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_tasks_at_once_lose_nothing_and_each_keeps_its_order() {
    for level in [Level::Process, Level::Disk] {
        let disk = SimDisk::new();
        let (journal, ..) = open(&disk, options(level)).unwrap();
        let tasks: Vec<_> = (0..16)
            .map(|task| {
                let journal = journal.clone();
                tokio::spawn(async move {
                    for number in 0..100 {
                        let payload = format!("{task} {number}");
                        let lsn = put(&journal, payload.as_bytes()).await.unwrap();
                        journal.acknowledged(lsn).await.unwrap();
                        if number % 25 == 24 {
                            let mark = journal.begin_checkpoint().await.unwrap();
                            drop(mark);
                        }
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        let (_, opened, found) = open(&disk.survivors(Loss::Kill), options(level)).unwrap();
        assert_eq!((opened.damage, found.len()), (None, 1600));
        for task in 0..16 {
            let prefix = format!("{task} ");
            let own: Vec<String> = found.iter().map(|payload| String::from_utf8_lossy(payload).into_owned()).collect();
            let own: Vec<&str> = own.iter().filter_map(|text| text.strip_prefix(&prefix)).collect();
            assert_eq!(own, (0..100).map(|number: i32| number.to_string()).collect::<Vec<_>>());
        }
    }
}
