//! A crash at every step of a journal's life, with and without power loss: what was acknowledged is there.

use super::handle::Journal;
use super::options::Level;
use super::sim::{Loss, SimDisk};
use super::tests::{open, options, put, record};
use crate::error::Result;

const RECORDS: usize = 70;
const CHECKPOINTS: [usize; 2] = [25, 55];
const SEEDS: u64 = 6;

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
    for number in known.asked..RECORDS {
        if CHECKPOINTS.contains(&number) {
            let mark = journal.begin_checkpoint().await?;
            known.from = number;
            journal.end_checkpoint(mark).await?;
        }
        known.asked = number + 1;
        let lsn = put(journal, &record(number)).await?;
        journal.acknowledged(lsn).await?;
        known.acknowledged = number + 1;
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
    assert!(steps > 150, "only {steps} steps");
}

#[tokio::test]
async fn at_level_process_everything_acknowledged_survives_a_kill_at_every_step() {
    let steps = crash_everywhere(Level::Process, |_| vec![Loss::Kill]).await;
    assert!(steps > 100, "only {steps} steps");
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
