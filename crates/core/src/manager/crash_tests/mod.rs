//! A crash at every step. A script of every kind of operation runs over a simulated disk under the journal and
//! a store that is kept; the world stops at step k, for each k there is; then a new manager comes up over what
//! survives, and has to show every acknowledged operation, the one that was cut off wholly or not at all, and
//! the same in the store.
//!
//! Enumerated: each operation on the journal's disk (a killed process, and power loss at level `disk` with
//! several choices of what the disk kept), each call of the store (before and after its effect; a crash, a
//! failure, a lost reply), and each disk operation of the recovery after each of these crashes.

mod blown;
mod model;
mod rig;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use self::blown::Blow;
use self::model::{Model, Op, SCRIPT};
use self::rig::{Reached, Rig, SETTLE, live, read_all};
use crate::error::Errno;
use crate::journal::Level;
use crate::journal::sim::{Loss, SimDisk};
use crate::vfs::FileStore;
use crate::vfs::chaos::{Call, ChaosStore, Fault};

/// The most steps that a script may take: an enumeration that does not end is a defect of the test.
const STEPS_MAX: u64 = 2000;
/// Choices of what a disk without power kept of what was not synced.
const POWER_SEEDS: u64 = 3;

/// A rig whose script ran over a disk that crashed at `step`; `None` if it did not come to that step.
fn crashed_at(level: Level, step: u64) -> Option<(Rig, SimDisk, Reached)> {
    let mut rig = Rig::new(level);
    let disk = SimDisk::new();
    disk.crash_at(step);
    let store = rig.with_disk(&disk, step);
    // A manager that could not even open has acknowledged nothing.
    let nothing = Reached { done: Model::new(), cut_off: None };
    let reached = live(rig.run_script(&disk, &store, 1)).unwrap_or(nothing);
    let came_to_it = disk.steps() >= step;
    came_to_it.then_some((rig, disk, reached))
}

fn every_step(mut crash: impl FnMut(u64) -> bool) -> u64 {
    let last = (1..STEPS_MAX).find(|step| !crash(*step)).expect("the script ends");
    last - 1
}

#[test]
fn a_killed_server_comes_back_with_everything_acknowledged_whatever_the_disk_was_doing() {
    let steps = every_step(|step| {
        let Some((rig, disk, reached)) = crashed_at(Level::Process, step) else { return false };
        live(rig.check(&disk.survivors(Loss::Kill), &reached, &format!("killed at step {step}, {reached:?}")));
        true
    });
    assert!(steps > SCRIPT.len() as u64, "{steps} steps are too few to be all of them");
}

#[test]
fn a_server_without_power_comes_back_with_everything_acknowledged_at_level_disk() {
    let steps = every_step(|step| {
        for seed in 0..POWER_SEEDS {
            let Some((rig, disk, reached)) = crashed_at(Level::Disk, step) else { return false };
            let survivors = disk.survivors(Loss::Power { seed: seed * STEPS_MAX + step });
            live(rig.check(&survivors, &reached, &format!("no power at step {step}, seed {seed}, {reached:?}")));
        }
        true
    });
    assert!(steps > SCRIPT.len() as u64, "{steps} steps are too few to be all of them");
}

#[test]
fn a_recovery_that_is_killed_itself_at_any_step_loses_nothing() {
    let mut recoveries = 0;
    every_step(|step| {
        let Some((rig, disk, reached)) = crashed_at(Level::Process, step) else { return false };
        let survivors = disk.survivors(Loss::Kill);
        recoveries += every_step(|recovery| {
            let disk = survivors.survivors(Loss::Kill);
            disk.crash_at(recovery);
            let opened = live(rig.open(&disk, rig.store()));
            let what = format!("killed at step {step}, and at step {recovery} of the recovery");
            let cut_off = disk.steps() >= recovery;
            drop(opened);
            if cut_off {
                live(rig.check_survivors(&disk.survivors(Loss::Kill), &reached, &what));
            }
            cut_off
        });
        true
    });
    assert!(recoveries > 100, "{recoveries} recoveries were cut off");
}

#[test]
fn a_server_that_is_killed_before_or_after_any_call_of_the_store_loses_nothing() {
    for blow in [Blow::CrashBefore, Blow::CrashAfter] {
        let calls = every_step(|call| {
            let (mut rig, disk) = (Rig::new(Level::Process), SimDisk::new());
            let store = rig.blown(call, blow);
            let reached = live(rig.run_script(&disk, &store, 1)).expect("the disk is well");
            let what = format!("{blow:?} at call {call}, {reached:?}");
            live(rig.check(&disk.survivors(Loss::Kill), &reached, &what));
            store.calls.load(Ordering::Relaxed) >= call
        });
        assert!(calls > 10, "{calls} calls are too few to be all of them");
    }
}

#[test]
fn any_call_of_the_store_may_fail_or_lose_its_answer_and_nothing_is_lost() {
    for blow in [Blow::FailBefore, Blow::FailAfter] {
        let calls = every_step(|call| {
            let (mut rig, disk) = (Rig::new(Level::Process), SimDisk::new());
            let store = rig.blown(call, blow);
            let reached = live(rig.run_script(&disk, &store, 2)).expect("the disk is well");
            let what = format!("{blow:?} at call {call}");
            assert_eq!(reached.cut_off, None, "{what}: it failed twice");
            live(rig.check(&disk.survivors(Loss::Kill), &reached, &what));
            store.calls.load(Ordering::Relaxed) >= call
        });
        assert!(calls > 10, "{calls} calls are too few to be all of them");
    }
}

#[test]
fn any_call_of_the_store_may_fail_while_the_server_comes_back() {
    let mut recoveries = 0;
    for blow in [Blow::CrashBefore, Blow::CrashAfter] {
        every_step(|call| {
            let (mut rig, disk) = (Rig::new(Level::Process), SimDisk::new());
            let store = rig.blown(call, blow);
            let reached = live(rig.run_script(&disk, &store, 1)).expect("the disk is well");
            let survivors = disk.survivors(Loss::Kill);
            recoveries += every_step(|failing| {
                let (disk, store) = (survivors.survivors(Loss::Kill), rig.blown(failing, Blow::FailBefore));
                live(async {
                    let manager = rig.open(&disk, Arc::clone(&store) as Arc<dyn FileStore>).await.unwrap();
                    manager.settle(SETTLE).await;
                });
                let what = format!("{blow:?} at call {call}, and no answer to call {failing} of the recovery");
                live(rig.check_survivors(&disk.survivors(Loss::Kill), &reached, &what));
                store.calls.load(Ordering::Relaxed) >= failing
            });
            store.calls.load(Ordering::Relaxed) >= call
        });
    }
    assert!(recoveries > 10, "{recoveries} calls of recoveries failed");
}

#[tokio::test]
async fn a_journal_that_fails_takes_no_writes_and_what_is_unsynced_can_still_be_read_and_stored() {
    let (mut rig, disk) = (Rig::new_on_this_runtime(Level::Process).await, SimDisk::new());
    let manager = rig.open(&disk, rig.store()).await.unwrap();
    let mut model = Model::new();
    for op in [Op::Map(1), Op::Write(1, 10, 1, 20)] {
        rig.run(&manager, op).await.unwrap();
        model.apply(op);
    }
    disk.fail_writes(Some(std::io::ErrorKind::Other));
    let id = rig.ids[&(1, false)];
    assert_eq!(manager.write(1, id, 9000, b"met the failure").await.unwrap_err().errno(), Errno::Io);
    assert_eq!(manager.write(1, id, 5000, b"refused").await.unwrap_err().errno(), Errno::Io);
    let seen = read_all(&manager, 1, id).await;
    assert_eq!((&seen[10..30], &seen[5000..5007]), (&[1; 20][..], &model.shared[5000..5007]));
    rig.run(&manager, Op::Sync(1)).await.unwrap();
    assert_eq!(rig.stored().await, seen);
    drop(manager);
    // The journal did not learn of the sync: what it holds is stored already, and no conflict.
    let back = rig.open(&disk.survivors(Loss::Kill), rig.store()).await.unwrap();
    back.settle(SETTLE).await;
    assert_eq!(back.conflicts().unwrap(), []);
    assert_eq!((read_all(&back, 1, id).await, rig.stored().await), (seen.clone(), seen));
}

#[tokio::test]
async fn nobody_is_shown_a_write_that_the_journal_does_not_have_yet() {
    let (mut rig, disk) = (Rig::new_on_this_runtime(Level::Process).await, SimDisk::new());
    let manager = rig.open(&disk, rig.store()).await.unwrap();
    for op in [Op::Map(1), Op::Map(3), Op::MapPrivate(2), Op::Write(1, 0, 1, 10)] {
        rig.run(&manager, op).await.unwrap();
    }
    let (writer, reader, private) = (rig.ids[&(1, false)], rig.ids[&(3, false)], rig.ids[&(2, true)]);
    disk.hold_writes(true);
    let write = async {
        let written = tokio::join!(manager.write(1, writer, 0, b"new"), manager.write(2, private, 20_000, b"own"));
        assert!(written.0.is_ok() && written.1.is_ok(), "{written:?}");
    };
    let look = async {
        let held = std::time::Duration::from_millis(200);
        while manager.stats(2, private).unwrap().private_bytes == 0 {
            tokio::task::yield_now().await;
        }
        let shared = tokio::time::timeout(held, manager.read(3, reader, 0, 3)).await;
        let own = tokio::time::timeout(held, manager.read(2, private, 20_000, 3)).await;
        assert!(shared.is_err() && own.is_err(), "{shared:?} {own:?}: a kill now would take it back");
        disk.hold_writes(false);
        assert_eq!(manager.read(3, reader, 0, 3).await.unwrap(), b"new");
        assert_eq!(manager.read(2, private, 20_000, 3).await.unwrap(), b"own");
    };
    tokio::join!(write, look);
}

#[tokio::test]
async fn what_an_ended_process_left_unsynced_is_stored_by_the_server_that_comes_back() {
    let (mut rig, disk) = (Rig::new_on_this_runtime(Level::Process).await, SimDisk::new());
    let chaos = Arc::new(ChaosStore::new(rig.store()));
    let manager = rig.open(&disk, Arc::clone(&chaos) as Arc<dyn FileStore>).await.unwrap();
    for op in [Op::Map(1), Op::Write(1, 10, 7, 20)] {
        rig.run(&manager, op).await.unwrap();
    }
    for _ in 0..100 {
        chaos.push(Call::WriteBack, Fault::FailBefore);
    }
    assert_eq!(manager.cleanup_process(1).await, 1);
    // Nobody waits for the record of its end: without it, it would be there again, with its grace time anew.
    manager.checkpoint().await.unwrap();
    let survivors = disk.survivors(Loss::Kill);
    drop(manager);
    let back = rig.open(&survivors, rig.store()).await.unwrap();
    for _ in 0..500 {
        if rig.stored().await[10..30] == [7; 20] {
            assert!(back.processes.all().is_empty(), "it had ended");
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("not stored within 5 s");
}
