//! A crash at every step of a journal's life, with and without power loss: what was acknowledged is there.

use super::handle::Journal;
use super::options::Level;
use super::sim::{Loss, SimDisk};
use super::tests::{SEGMENT, open, options, put, record};
use crate::error::Result;

const RECORDS: usize = 70;
const CHECKPOINTS: [usize; 2] = [25, 55];
const SEEDS: u64 = 6;
const CHECKPOINT_AT: u64 = 4 * SEGMENT;
/// The records from this one on are what a checkpoint says again.
const SAID_AGAIN: usize = 45;

/// What the test knows of a run that may have been cut off: records that were acknowledged and those asked for,
/// from the last checkpoint on that is known to have ended or may have.
#[derive(Clone, Debug, Default)]
struct Known {
    acknowledged: usize,
    asked: usize,
    /// Records before this one may be gone.
    from: usize,
}

/// Puts records with checkpoints between them. At a checkpoint the live state is the number of records.
async fn run(journal: &Journal, known: &mut Known) -> Result<()> {
    // So that what a checkpoint takes off is used again.
    journal.set_checkpoint_at(CHECKPOINT_AT);
    for number in known.asked..RECORDS {
        if CHECKPOINTS.contains(&number) {
            let mark = journal.begin_checkpoint().await?;
            known.from = number;
            journal.end_checkpoint(mark).await?;
        }
        known.asked = number + 1;
        let lsn = put(journal, &record(number)).await?;
        // Some alone, some in one batch with others, which may cross the end of a segment.
        if number % 5 > 2 || number + 1 == RECORDS {
            journal.acknowledged(lsn).await?;
            known.acknowledged = number + 1;
        }
    }
    journal.close().await
}

/// Checks a folder after a crash: a contiguous run of records from at most `from` to at least `acknowledged`.
fn check(left: &SimDisk, level: Level, known: &Known, what: &str) -> usize {
    let (_, opened, found) = open(left, options(level)).unwrap_or_else(|error| panic!("{what}: {error:?}"));
    assert_eq!(opened.damage, None, "{what}");
    let numbers: Vec<usize> = found
        .iter()
        .map(|payload| {
            let text = String::from_utf8(payload.clone()).unwrap();
            let number: usize = text.split(' ').next().unwrap().parse().unwrap();
            assert_eq!(*payload, record(number), "{what}");
            number
        })
        .collect();
    let first = numbers.first().copied().unwrap_or(known.from);
    let end = first + numbers.len();
    assert_eq!(numbers, (first..end).collect::<Vec<_>>(), "{what}: a gap");
    assert!(first <= known.from, "{what}: begins at {first}, {known:?}");
    assert!(
        (known.acknowledged..=known.asked).contains(&end) || numbers.is_empty() && known.from >= known.acknowledged,
        "{what}: ends at {end}, {known:?}"
    );
    end
}

async fn crash_everywhere(level: Level, losses: impl Fn(u64) -> Vec<Loss>) -> u64 {
    for step in 1.. {
        let disk = SimDisk::new();
        disk.crash_at(step);
        let mut known = Known::default();
        let mut done = false;
        if let Ok((journal, ..)) = open(&disk, options(level)) {
            done = run(&journal, &mut known).await.is_ok();
        }
        for loss in losses(step) {
            let what = format!("{level:?}, crash at step {step}, {loss:?}");
            let left = disk.survivors(loss);
            let end = check(&left, level, &known, &what);
            // What was found once stays: another power loss right after the replay takes nothing back.
            let again = left.survivors(Loss::Power { seed: step });
            let found = Known { acknowledged: end, asked: end, from: known.from };
            assert_eq!(check(&again, level, &found, &format!("{what}, again")), end);
        }
        if done {
            assert!(disk.reuses() > 1, "no segment was used again");
            return step;
        }
    }
    0
}

#[tokio::test]
async fn at_level_disk_everything_acknowledged_survives_a_kill_and_a_power_loss_at_every_step() {
    let losses = |step| {
        let power = (0..SEEDS).map(|seed| Loss::Power { seed: step * SEEDS + seed });
        std::iter::once(Loss::Kill).chain(power).collect()
    };
    let steps = crash_everywhere(Level::Disk, losses).await;
    assert!(steps > 70, "only {steps} steps");
}

#[tokio::test]
async fn at_level_process_everything_acknowledged_survives_a_kill_at_every_step() {
    let steps = crash_everywhere(Level::Process, |_| vec![Loss::Kill]).await;
    assert!(steps > 50, "only {steps} steps");
}

#[tokio::test]
async fn at_level_process_a_power_loss_is_a_beginning_or_is_told() {
    let mut told = 0;
    for seed in 0..200 {
        let disk = SimDisk::new();
        let (journal, ..) = open(&disk, options(Level::Process)).unwrap();
        for number in 0..RECORDS {
            let lsn = put(&journal, &record(number)).await.unwrap();
            journal.acknowledged(lsn).await.unwrap();
        }
        match open(&disk.survivors(Loss::Power { seed }), options(Level::Process)) {
            Ok((_, _, found)) => assert_eq!(found, (0..found.len()).map(record).collect::<Vec<_>>()),
            Err(_) => told += 1,
        }
    }
    assert!(told > 0, "no seed lost a record in the middle");
}

/// Records with a checkpoint in between, and another that says the last of them again: the journal, how it called its
/// beginning before that one, and whether that one has ended.
async fn checkpointed(disk: &SimDisk) -> Option<(Journal, Option<String>, bool)> {
    let (journal, ..) = open(disk, options(Level::Process)).ok()?;
    journal.set_checkpoint_at(CHECKPOINT_AT);
    let mut before = None;
    let ended = async {
        for number in 0..SAID_AGAIN {
            if number == SAID_AGAIN / 2 {
                let mark = journal.begin_checkpoint().await?;
                journal.end_checkpoint(mark).await?;
            }
            let lsn = put(&journal, &record(number)).await?;
            journal.acknowledged(lsn).await?;
        }
        before = beginning(disk);
        let mark = journal.begin_checkpoint().await?;
        for number in SAID_AGAIN..RECORDS {
            put(&journal, &record(number)).await?;
        }
        journal.end_checkpoint(mark).await
    };
    let ended = ended.await.is_ok();
    Some((journal, before, ended))
}

fn beginning(disk: &SimDisk) -> Option<String> {
    disk.files().into_keys().find(|name| name.ends_with(".from"))
}

#[tokio::test]
async fn at_level_process_a_power_loss_during_a_checkpoint_is_told_or_takes_nothing_that_was_said_again() {
    let (mut ends, mut begun, mut told) = (0, 0, 0);
    for step in 1.. {
        let disk = SimDisk::new();
        disk.crash_at(step);
        // Kept open: closing would sync what the checkpoint left.
        let run = checkpointed(&disk).await;
        let (before, ended) = run.as_ref().map_or((None, false), |(_, before, ended)| (before.clone(), *ended));
        for seed in 0..4 * SEEDS {
            let left = disk.survivors(Loss::Power { seed: step * 4 * SEEDS + seed });
            let begins = before.is_some() && beginning(&left) != before;
            begun += u64::from(begins && !ended);
            let what = format!("crash at step {step}, seed {seed}, ended: {ended}, said so: {begins}");
            match open(&left, options(Level::Process)) {
                Err(_) => {
                    told += 1;
                    assert!(!ended && !begins, "{what}: refused");
                }
                Ok((.., found)) => {
                    let (first, last) = (found.first(), found.last());
                    let start = (0..RECORDS).find(|number| first == Some(&record(*number))).unwrap_or(RECORDS);
                    assert_eq!(found, (start..start + found.len()).map(record).collect::<Vec<_>>(), "{what}");
                    let is_whole = start <= SAID_AGAIN && last == Some(&record(RECORDS - 1));
                    assert!(is_whole || !(ended || begins), "{what}: {start}, and {} records", found.len());
                }
            }
        }
        // What comes behind its last step is the same.
        ends += u64::from(ended);
        if ends == 5 {
            assert!(disk.reuses() > 2, "no segment was used again");
            break;
        }
    }
    assert!(begun > 0 && told > 0, "{begun} between what says it and the end, {told} were told");
}

#[tokio::test]
async fn crash_after_crash_loses_nothing_that_was_acknowledged() {
    for seed in 0..200 {
        let mut disk = SimDisk::new();
        let mut known = Known::default();
        for crash in 0..8 {
            disk.crash_at(5 + (seed * 31 + crash * 17) % 60);
            if let Ok((journal, _, found)) = open(&disk, options(Level::Disk)) {
                let first = found.first().map_or(known.from, |payload| {
                    String::from_utf8_lossy(payload).split(' ').next().unwrap().parse().unwrap()
                });
                known.asked = first + found.len();
                known.acknowledged = known.asked;
                let _ = run(&journal, &mut known).await;
            }
            disk = disk.survivors(if seed % 3 == 0 { Loss::Kill } else { Loss::Power { seed: seed * 100 + crash } });
            check(&disk.survivors(Loss::Kill), Level::Disk, &known, &format!("seed {seed}, crash {crash}"));
        }
    }
}
