//! Life and death of an attached process: breaks, grace, loss, drop, and what becomes of its mappings.

use std::time::Duration;

use mmap_client::{AttachOptions, Client, ErrorKind, Exited, ProcessState, Reason};
use mmap_fake::fault::Fault;
use tonic::Code;

use crate::support::{attach, connect, eventually, fake, map, within};

#[tokio::test]
async fn a_process_ends_with_exit_and_says_what_that_did() {
    let fake = fake();
    let process = attach(&connect(&fake).await).await;
    let mapping = map(&process).await;
    mapping.write(0, "x").await.expect("it writes");
    assert_eq!(process.exit().await.expect("it exits"), Exited { unmapped: 1, synced_bytes: 8192 });
    assert_eq!(process.state(), ProcessState::Ended);
    assert!(process.lost().is_none());

    let error = mapping.read(0, 1).await.expect_err("the process is gone");
    assert_eq!((error.kind(), error.reason()), (ErrorKind::ProcessEnded, Some(Reason::Srch)));
    assert_eq!(fake.calls("MmapRead"), 0, "nothing is sent for a process that has ended");
    drop((mapping, process));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!((fake.calls("Exit"), fake.calls("Munmap")), (1, 0));
}

#[tokio::test]
async fn a_dropped_process_exits_and_its_writes_are_synced() {
    let fake = fake();
    let client = connect(&fake).await;
    let process = attach(&client).await;
    let mapping = map(&process).await;
    mapping.write(0, "kept").await.expect("it writes");
    drop(process);
    eventually("the process is gone", || fake.pids().is_empty()).await;
    assert_eq!(&fake.stored("/data/file").expect("it is there")[..4], b"kept");
    let error = within(async {
        loop {
            match mapping.read(0, 1).await {
                Err(error) if error.kind() == ErrorKind::ProcessEnded => return error,
                _ => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    })
    .await;
    assert_eq!(error.metadata()["pid"], "42");
}

#[tokio::test]
async fn an_exit_that_fails_leaves_the_process_and_can_be_repeated() {
    let fake = fake();
    let process = attach(&connect(&fake).await).await;
    fake.plan("Exit", Fault::Refuse(Reason::Stale, Duration::ZERO));
    assert_eq!(process.exit().await.expect_err("as planned").reason(), Some(Reason::Stale));
    assert_eq!(process.state(), ProcessState::Alive);
    process.exit_discard().await.expect("the second time");
    assert!(fake.pids().is_empty());
}

#[tokio::test]
async fn a_broken_stream_is_made_again_with_the_same_pid() {
    let fake = fake();
    let process = attach(&connect(&fake).await).await;
    let mapping = map(&process).await;
    fake.break_streams();
    eventually("it is attached again", || fake.calls("Attach") == 2 && process.state() == ProcessState::Alive).await;
    assert_eq!(fake.pids(), [42]);
    mapping.read(0, 1).await.expect("the mapping is still there");
    assert!(process.lost().is_none());
}

#[tokio::test]
async fn a_pid_that_is_still_busy_with_the_dead_stream_is_asked_for_again() {
    let fake = fake();
    // Shorter than the refusals take: EBUSY says that the process lives, so its grace has not begun.
    fake.set_grace(Duration::from_millis(100));
    let process = attach(&connect(&fake).await).await;
    for _ in 0..4 {
        fake.plan("Attach", Fault::Refuse(Reason::Busy, Duration::ZERO));
    }
    fake.break_streams();
    eventually("it is attached again", || fake.calls("Attach") == 6 && process.state() == ProcessState::Alive).await;
}

#[tokio::test]
async fn a_process_outlives_a_restart_of_its_server() {
    let mut fake = fake();
    let process = attach(&connect(&fake).await).await;
    let mapping = map(&process).await;
    fake.stop();
    eventually("the break is noticed", || process.state() == ProcessState::Reattaching).await;
    fake.restart().expect("the port is still ours");
    eventually("it is attached again", || process.state() == ProcessState::Alive).await;
    mapping.read(0, 1).await.expect("the mapping is still there");
}

#[tokio::test]
async fn a_server_that_is_away_longer_than_the_grace_time_is_waited_for() {
    let mut fake = fake();
    fake.set_grace(Duration::from_millis(100));
    let process = attach(&connect(&fake).await).await;
    let mapping = map(&process).await;
    fake.stop();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(process.state(), ProcessState::Reattaching);
    fake.restart().expect("the port is still ours");
    eventually("it is attached again", || process.state() == ProcessState::Alive).await;
    mapping.read(0, 1).await.expect("the mapping is still there");
}

#[tokio::test]
async fn a_process_is_lost_when_the_grace_time_passed() {
    let fake = fake();
    fake.set_grace(Duration::from_millis(200));
    let process = attach(&connect(&fake).await).await;
    let mapping = map(&process).await;
    for _ in 0..100 {
        fake.plan("Attach", Fault::Bare(Code::Unavailable));
    }
    fake.break_streams();
    within(process.ended()).await;
    assert_eq!(process.state(), ProcessState::Ended);
    let lost = process.lost().expect("it did not exit");
    assert!(lost.message().contains("process 42 was lost"), "{lost}");
    let error = mapping.write(0, "x").await.expect_err("there is nothing to write to");
    assert_eq!(error.kind(), ErrorKind::ProcessEnded);
    assert!(error.is_surely_without_effect());
}

#[tokio::test]
async fn a_process_that_the_server_ended_meanwhile_is_not_taken_for_the_new_one() {
    let fake = fake();
    let process = attach(&connect(&fake).await).await;
    let mapping = map(&process).await;
    fake.lose_processes();
    within(process.ended()).await;
    assert!(process.lost().is_some());
    assert_eq!(mapping.read(0, 1).await.expect_err("it is gone").kind(), ErrorKind::ProcessEnded);
}

#[tokio::test]
async fn a_mapping_that_may_be_gone_proves_nothing_about_its_process() {
    let fake = fake();
    let process = attach(&connect(&fake).await).await;
    let (unmapped, kept) = (map(&process).await, map(&process).await);
    // Unmapped at the server, but nobody here knows.
    fake.plan("Munmap", Fault::DoneThenBare(Code::Unavailable));
    let failed = unmapped.unmap().await.expect_err("the answer is lost");
    fake.break_streams();
    eventually("it is attached again", || fake.calls("Attach") == 2 && fake.calls("ListMappings") == 1).await;
    eventually("it is alive", || process.state() == ProcessState::Alive).await;
    kept.read(0, 1).await.expect("the process is what it was");
    let error = failed.mapping.read(0, 1).await.expect_err("this one is gone");
    assert_eq!(error.reason(), Some(Reason::BadF));
}

#[tokio::test]
async fn a_refusal_that_time_does_not_change_ends_the_process_at_once() {
    let fake = fake();
    fake.set_grace(Duration::from_secs(3600));
    let process = attach(&connect(&fake).await).await;
    fake.plan("Attach", Fault::Bare(Code::PermissionDenied));
    fake.break_streams();
    within(process.ended()).await;
    assert!(process.lost().is_some());
}

#[tokio::test]
async fn a_process_that_somebody_else_exits_has_ended() {
    let fake = fake();
    let client = connect(&fake).await;
    let process = attach(&client).await;
    client.process(42).exit().await.expect("it exits");
    within(process.ended()).await;
    assert!(process.lost().is_none());
    drop(process);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(fake.calls("Exit"), 1, "a process that has ended is not exited again");
}

#[tokio::test]
async fn attaching_a_pid_that_is_taken_is_told_at_once() {
    let fake = fake();
    let client = connect(&fake).await;
    let process = attach(&client).await;
    let taken = client.attach(AttachOptions { pid: Some(process.pid()), name: String::new() }).await;
    assert_eq!(taken.expect_err("it is taken").reason(), Some(Reason::Busy));
    assert_eq!(fake.calls("Attach"), 2);
}

#[tokio::test]
async fn the_server_picks_a_pid_where_none_is_wanted() {
    let fake = fake();
    let client = Client::connect(fake.address()).await.expect("it listens");
    let process = client.attach(AttachOptions::default()).await.expect("it attaches");
    assert_ne!(process.pid(), 0);
    let mapping = map(&process).await;
    mapping.read(0, 1).await.expect("it reads");
    assert_eq!(fake.last_header("MmapRead", "mmap-pid"), Some(process.pid().to_string()));
}

#[tokio::test]
async fn attach_sends_no_deadline_because_it_would_end_the_stream() {
    let fake = fake();
    let _process = attach(&connect(&fake).await).await;
    assert_eq!(fake.last_header("Attach", "grpc-timeout"), None);
}

#[tokio::test]
async fn a_dropped_mapping_is_unmapped_in_the_background() {
    let fake = fake();
    let process = attach(&connect(&fake).await).await;
    let (dropped, kept) = (map(&process).await, map(&process).await);
    dropped.write(0, "synced").await.expect("it writes");
    drop(dropped);
    eventually("it is unmapped", || fake.mapping_ids() == [kept.id()]).await;
    assert_eq!(&fake.stored("/data/file").expect("it is there")[..6], b"synced");
    kept.read(0, 1).await.expect("the other one is untouched");
}

#[tokio::test]
async fn a_dropped_mapping_whose_sync_fails_stays_until_its_process_ends() {
    let fake = fake();
    let process = attach(&connect(&fake).await).await;
    let mapping = map(&process).await;
    mapping.write(0, "x").await.expect("it writes");
    fake.plan("Munmap", Fault::Refuse(Reason::Io, Duration::ZERO));
    drop(mapping);
    eventually("it was tried", || fake.calls("Munmap") == 1).await;
    assert_eq!(process.exit().await.expect("it exits"), Exited { unmapped: 1, synced_bytes: 8192 });
}

#[tokio::test]
async fn a_process_known_by_its_pid_alone_outlives_its_handle() {
    let fake = fake();
    let client = connect(&fake).await;
    let process = client.process(7);
    let id = map(&process).await.id();
    drop(process);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!((fake.mapping_ids(), fake.pids()), (vec![id], vec![7]));
    assert_eq!((fake.calls("Munmap"), fake.calls("Exit"), fake.calls("Attach")), (0, 0, 0));
}

#[tokio::test]
async fn an_unmap_that_fails_gives_the_mapping_back() {
    let fake = fake();
    let process = attach(&connect(&fake).await).await;
    let mapping = map(&process).await;
    fake.plan("Munmap", Fault::Refuse(Reason::Stale, Duration::ZERO));
    let failed = mapping.unmap().await.expect_err("as planned");
    assert_eq!(failed.error.reason(), Some(Reason::Stale));
    failed.mapping.read(0, 1).await.expect("it is still mapped");
    failed.mapping.unmap_discard().await.expect("the second time");
    assert!(fake.mapping_ids().is_empty());
}
