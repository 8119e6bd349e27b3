//! A server that is asked to end while its store does not answer: it ends cleanly, says what waits in the journal,
//! and the next start stores it.

use std::time::Duration;

use mmap_tests::mmapctl::run;
use mmap_tests::mmapd::Mmapd;
use mmap_tests::moto::Moto;
use mmap_tests::require::available;
use mmap_tests::wire::{Caller, eventually};

use super::Place;

const PID: u32 = 7;
const SOON: Duration = Duration::from_secs(30);

fn start(moto: &Moto, place: &Place, level: &str, more: &[&str]) -> Mmapd {
    let setup = place.setup().mount("/data", &moto.mount_url("files")).envs(Moto::ENV);
    let setup = setup.args(["--durability", level, "--store-timeout", "2s", "--shutdown-timeout", "4s"]);
    setup.args(more.iter().copied()).start()
}

/// A server with an unsynced write that is ended while its store does not answer: the write's mapping.
async fn end_without_store(moto: &Moto, place: &Place, level: &str) -> u64 {
    let server = start(moto, place, level, &[]);
    let caller = Caller::connect(server.addr(), PID).await;
    let id = caller.map_shared("/data/f", 10_000).await;
    caller.write(id, 5000, &b"waits"[..]).await.unwrap();
    moto.pause();
    let ended = server.sigterm();
    assert!(ended.status.success(), "{ended:?}");
    let line = ended.stderr.lines().find(|line| line.contains("in the journal, for the next start"));
    let line = line.unwrap_or_else(|| panic!("{ended:?}"));
    assert!(line.contains("/data/f: 4096 unsynced bytes: "), "{line}");
    assert!(!ended.stderr.contains("not stored") && !ended.stderr.contains("were synced"), "{ended:?}");
    id
}

fn stored(moto: &Moto) -> Vec<u8> {
    moto.object("files/f")[5000..5005].to_vec()
}

async fn is_stored_by_an_msync_after_the_next_start(level: &str) {
    let Some(moto) = available(Moto::start()) else { return };
    let place = Place::new();
    let id = end_without_store(&moto, &place, level).await;
    // What the store was sent and did not answer may take effect now, or not: it must not look like somebody else's.
    moto.resume();
    let server = start(&moto, &place, level, &[]);
    let caller = Caller::connect(server.addr(), PID).await;
    assert_eq!(caller.read(id, 5000, 5).await.unwrap(), "waits");
    caller.msync(id).await.unwrap();
    assert_eq!(stored(&moto), b"waits");
    caller.write(id, 5000, &b"WAITS"[..]).await.unwrap();
    assert_eq!(caller.msync(id).await.unwrap().synced_bytes, 4096);
    assert_eq!(stored(&moto), b"WAITS");
    let conflicts = run(&server, ["--json", "conflicts", "list"]);
    assert!(String::from_utf8_lossy(&conflicts.stdout).contains(r#""conflicts": []"#), "{conflicts:?}");
    let ended = server.sigterm();
    assert!(ended.status.success() && !ended.stderr.contains("for the next start"), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_level_process_an_end_without_a_store_is_clean_and_msync_stores_it_after_the_next_start() {
    is_stored_by_an_msync_after_the_next_start("process").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_level_disk_an_end_without_a_store_is_clean_and_msync_stores_it_after_the_next_start() {
    is_stored_by_an_msync_after_the_next_start("disk").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waited_in_the_journal_is_stored_at_its_processs_end_when_the_store_comes_back_late() {
    let Some(moto) = available(Moto::start()) else { return };
    let place = Place::new();
    let id = end_without_store(&moto, &place, "process").await;
    // The store is still away: the server serves what it has.
    let server = start(&moto, &place, "process", &["--process-idle-timeout", "4s"]);
    let caller = Caller::connect(server.addr(), PID).await;
    assert_eq!(caller.read(id, 5000, 5).await.unwrap(), "waits");
    let admin = caller.without_pid();
    eventually("the idle process ends although its store is away", SOON, async || {
        admin.list_processes().await.unwrap().is_empty().then_some(())
    })
    .await;
    moto.resume();
    eventually("its bytes are in the store", SOON, async || {
        (admin.stat_file("/data/f").await.ok()?.dirty_bytes == 0).then_some(())
    })
    .await;
    assert_eq!(stored(&moto), b"waits");
}
