//! Processes that do not come back after their server did: their grace or idle time starts anew, and at its end they
//! end as any process does, their writes in the store.

use std::time::{Duration, Instant};

use mmap_proto::v1;
use mmap_tests::mmapd::{Ended, Mmapd};
use mmap_tests::wire::{Caller, eventually};

use super::Place;

const TIME: Duration = Duration::from_secs(3);
/// What the cleanup may take beyond it, on a machine that does other things too.
const SLACK: Duration = Duration::from_secs(20);

/// A process with an unsynced write whose time is 3 s, an end of its server for longer than that, and a start.
async fn is_ended_a_whole_time_after_the_start(flag: &str, attached: bool, end: impl Fn(Mmapd) -> Ended) {
    let place = Place::new();
    let start = || place.folder_setup().args([flag, "3s"]).start();
    let server = start();
    let caller = Caller::connect(server.addr(), 7).await;
    let stream = match attached {
        true => Some(caller.process_service().attach(caller.request(v1::AttachRequest::default())).await.unwrap()),
        false => None,
    };
    let id = caller.map_shared("/f", 100).await;
    caller.write(id, 0, &b"not forgotten"[..]).await.unwrap();
    end(server);
    drop(stream);
    tokio::time::sleep(TIME + Duration::from_millis(500)).await;

    let begun = Instant::now();
    let server = start();
    let admin = Caller::connect(server.addr(), 1).await.without_pid();
    let processes = admin.list_processes().await.unwrap();
    let found: Vec<_> = processes.iter().map(|one| (one.pid, one.mappings, one.attached)).collect();
    assert_eq!(found, [(7, 1, false)], "its time starts anew");
    assert_eq!(admin.list_mappings(Some(7)).await.unwrap()[0].id, id);
    eventually("the process is ended", TIME + SLACK, async || {
        admin.list_processes().await.unwrap().is_empty().then_some(())
    })
    .await;
    assert!(begun.elapsed() >= TIME, "after {:?}", begun.elapsed());
    assert_eq!(admin.list_mappings(None).await.unwrap(), []);
    assert_eq!(&place.content("f")[..13], b"not forgotten");
    server.sigkill();
    let server = start();
    let admin = Caller::connect(server.addr(), 1).await.without_pid();
    assert!(admin.list_processes().await.unwrap().is_empty(), "a process ends once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_grace_time_of_a_killed_servers_process_starts_anew() {
    is_ended_a_whole_time_after_the_start("--process-grace", true, Mmapd::sigkill).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_grace_time_of_a_stopped_servers_process_starts_anew() {
    is_ended_a_whole_time_after_the_start("--process-grace", true, Mmapd::sigterm).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_idle_time_of_a_process_that_never_attached_starts_anew() {
    is_ended_a_whole_time_after_the_start("--process-idle-timeout", false, Mmapd::sigkill).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_idle_time_of_a_stopped_servers_process_starts_anew() {
    is_ended_a_whole_time_after_the_start("--process-idle-timeout", false, Mmapd::sigterm).await;
}
