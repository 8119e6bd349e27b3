//! How a process ends: its stream broken by SIGKILL, by `Exit`, or by idling; and that it ends cleanly,
//! its bytes in the store and its mappings gone.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use mmap_proto::reason::Reason;
use mmap_proto::v1;
use mmap_tests::daemon::{Daemon, START_DEADLINE};
use mmap_tests::failure;
use mmap_tests::mmapd::{Mmapd, Setup};
use mmap_tests::wire::{Caller, eventually};

const GRACE: Duration = Duration::from_secs(2);
/// What the cleanup may take beyond the grace time, on a machine that does other things too.
const SLACK: Duration = Duration::from_secs(10);

fn server(folder: &Path) -> Mmapd {
    Setup::new()
        .mount("/", &format!("file://{}", folder.display()))
        .args(["--process-grace", "2s", "--process-idle-timeout", "3s"])
        .start()
}

/// A child process that attaches as `pid`, maps `/shared`, writes at `offset`, says `written`, and waits.
fn writer(server: &Mmapd, pid: u32, offset: u64) -> Daemon {
    // The test's own executable is the helper: its test `helper_that_waits_to_be_killed` does the work.
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "helper_that_waits_to_be_killed", "--nocapture"]);
    command.env("MMAP_TEST_HELPER", format!("{} {pid} {offset}", server.addr()));
    let mut child = Daemon::start("attached client", &mut command);
    child.wait_for_lines(1, START_DEADLINE, |line| line.contains("written").then_some(()));
    child
}

/// Not a test of its own: with the variable set it is the client that another test kills.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn helper_that_waits_to_be_killed() {
    let Ok(task) = std::env::var("MMAP_TEST_HELPER") else { return };
    let parts: Vec<&str> = task.split(' ').collect();
    let (pid, offset) = (parts[1].parse().unwrap(), parts[2].parse().unwrap());
    let caller = Caller::connect(parts[0], pid).await;
    let request = v1::AttachRequest { name: "doomed".to_owned(), ..Default::default() };
    let stream = caller.process_service().attach(caller.request(request)).await.unwrap();
    let mut stream = stream.into_inner();
    assert_eq!(stream.message().await.unwrap().unwrap().grace_ms, u64::try_from(GRACE.as_millis()).unwrap());
    let id = caller.map_shared("/shared", 100_000).await;
    caller.write(id, offset, &b"last words"[..]).await.unwrap();
    println!("written");
    // It ends by being killed, or here: the deadline keeps it from outliving a test that failed.
    tokio::time::sleep(Duration::from_secs(120)).await;
    drop(stream);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_killed_client_is_cleaned_up_within_the_grace_time_and_its_bytes_are_in_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(folder.path());
    let admin = Caller::connect(server.addr(), 1).await.without_pid();
    let mut child = writer(&server, 41, 70_000);
    let processes = admin.list_processes().await.unwrap();
    let doomed = processes.iter().find(|process| process.pid == 41).unwrap();
    assert_eq!((doomed.name.as_str(), doomed.mappings, doomed.attached), ("doomed", 1, true));
    let file = folder.path().join("shared");
    assert_eq!(std::fs::read(&file).unwrap(), vec![0; 100_000], "nothing is synced before the end");

    child.signal("KILL");
    let killed = Instant::now();
    child.wait_exit(SLACK);
    eventually("the process is gone", GRACE + SLACK, async || {
        let processes = admin.list_processes().await.unwrap();
        processes.iter().all(|process| process.pid != 41).then_some(())
    })
    .await;
    assert!(killed.elapsed() >= GRACE - Duration::from_millis(200), "it had {GRACE:?} to come back");
    assert_eq!(admin.list_mappings(None).await.unwrap(), []);
    let bytes = std::fs::read(&file).unwrap();
    assert_eq!(&bytes[70_000..70_010], b"last words");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_process_that_attaches_again_within_the_grace_time_keeps_its_mappings() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(folder.path());
    let mut child = writer(&server, 42, 0);
    let caller = Caller::connect(server.addr(), 42).await;
    let attach = async || caller.process_service().attach(caller.request(v1::AttachRequest::default())).await;
    failure::expect(Reason::Busy, attach().await.map(|_| ()));
    child.signal("KILL");
    child.wait_exit(SLACK);
    let stream = eventually("the broken stream is noticed", GRACE, async || attach().await.ok()).await;
    let mut stream = stream.into_inner();
    stream.message().await.unwrap().unwrap();
    tokio::time::sleep(GRACE * 2).await;
    let mappings = caller.list_mappings(None).await.unwrap();
    assert_eq!(mappings.len(), 1, "{mappings:?}");
    assert_eq!(caller.read(mappings[0].id, 0, 10).await.unwrap(), "last words");

    let exited = caller.exit(false).await.unwrap();
    assert_eq!((exited.unmapped, exited.synced_bytes), (1, 4096));
    // Heartbeats may be under way; then the stream ends with OK.
    while stream.message().await.unwrap().is_some() {}
    failure::expect(Reason::Srch, caller.exit(false).await);
    assert_eq!(&std::fs::read(folder.path().join("shared")).unwrap()[..10], b"last words");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_process_that_never_attached_ends_when_it_idles() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(folder.path());
    let caller = Caller::connect(server.addr(), 43).await;
    let id = caller.map_shared("/idle", 10).await;
    caller.write(id, 0, &b"idle bytes"[..]).await.unwrap();
    // Calls keep it alive beyond its idle time of 3 s.
    for _ in 0..8 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        caller.read(id, 0, 1).await.unwrap();
    }
    let admin = caller.without_pid();
    eventually("the idle process is gone", Duration::from_secs(3) + SLACK, async || {
        admin.list_processes().await.unwrap().is_empty().then_some(())
    })
    .await;
    assert_eq!(std::fs::read(folder.path().join("idle")).unwrap(), b"idle bytes");
    failure::expect(Reason::BadF, caller.read(id, 0, 1).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_exit_that_discards_leaves_the_file_alone() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(folder.path());
    let caller = Caller::connect(server.addr(), 44).await;
    let id = caller.map_shared("/discarded", 10).await;
    caller.write(id, 0, &b"unwanted"[..]).await.unwrap();
    let exited = caller.exit(true).await.unwrap();
    assert_eq!((exited.unmapped, exited.synced_bytes), (1, 0));
    assert_eq!(std::fs::read(folder.path().join("discarded")).unwrap(), [0; 10]);
    let again = caller.map_shared("/discarded", 10).await;
    assert_eq!(caller.read(again, 0, 10).await.unwrap(), [0; 10].as_slice());
}
