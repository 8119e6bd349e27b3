//! What the wire says, and what is kept, while a store hangs or is gone: EIO, ETIMEDOUT, EDQUOT. The store
//! is a real S3 server, stopped and continued, or ended, by signals.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::time::{Duration, Instant};

use mmap_proto::reason::Reason;
use mmap_proto::v1;
use mmap_tests::failure::{Failure, expect, failure};
use mmap_tests::mmapd::{Mmapd, Setup};
use mmap_tests::moto::Moto;
use mmap_tests::require::available;
use mmap_tests::wire::{Caller, map_request};
use tonic::Code;

/// EIO comes within the store's time limit, of which there may be a few in a row.
const EIO_DEADLINE: Duration = Duration::from_secs(30);

struct Scene {
    server: Mmapd,
    moto: Moto,
    caller: Caller,
}

impl Scene {
    async fn new(args: &[&str]) -> Option<Self> {
        let moto = available(Moto::start())?;
        let setup = Setup::new().mount("/data", &moto.mount_url("files")).envs(Moto::ENV);
        let server = setup.args(["--shutdown-timeout", "3s"]).args(args).start();
        let caller = Caller::connect(server.addr(), 1).await;
        Some(Self { server, moto, caller })
    }
}

#[tokio::test]
async fn eio_keeps_what_was_not_written_and_the_call_can_be_repeated() {
    let Some(scene) = Scene::new(&["--store-timeout", "3s"]).await else { return };
    let caller = &scene.caller;
    let id = caller.map_shared("/data/kept", 5000).await;
    caller.write(id, 4090, &b"across pages"[..]).await.unwrap();
    scene.moto.pause();
    let started = Instant::now();
    let failure = expect(Reason::Io, caller.msync(id).await);
    assert!(started.elapsed() < EIO_DEADLINE, "{:?}", started.elapsed());
    assert!(failure.has_retry_delay, "{failure:?}");
    assert_eq!(failure.value("path"), "/data/kept");
    // Unmapping cannot lose it either: the mapping stays.
    expect(Reason::Io, caller.munmap(id).await);
    assert_eq!(caller.read(id, 4090, 12).await.unwrap(), "across pages");
    assert_eq!(caller.stats(id).await.unwrap().dirty_bytes, 8192);
    scene.moto.resume();
    assert_eq!(caller.msync(id).await.unwrap().synced_bytes, 8192);
    assert_eq!(&scene.moto.object("files/kept")[4090..4102], b"across pages");
    caller.munmap(id).await.unwrap();
}

#[tokio::test]
async fn eio_is_the_answer_of_everything_that_needs_a_store_that_is_gone() {
    let Some(Scene { server, moto, caller }) = Scene::new(&["--store-timeout", "3s"]).await else { return };
    moto.python("s3.put_object(Bucket='bucket', Key='files/cold', Body=b'c' * 200000)");
    let id = caller.mmap(v1::MmapRequest { prot: 1, ..map_request("/data/cold", 200_000) }).await.unwrap().mmap_id;
    caller.read(id, 0, 10).await.unwrap();
    drop(moto);
    assert_eq!(caller.read(id, 0, 10).await.unwrap(), b"c".repeat(10), "what is in memory needs no store");
    let started = Instant::now();
    let failures: [Failure; 4] = [
        expect(Reason::Io, caller.read(id, 199_999, 1).await),
        expect(Reason::Io, caller.stat_file("/data/cold").await),
        expect(Reason::Io, caller.mmap(map_request("/data/other", 10)).await),
        expect(Reason::Io, caller.remove("/data/other").await),
    ];
    assert!(started.elapsed() < 4 * EIO_DEADLINE);
    for failure in failures {
        assert!(failure.has_retry_delay && failure.value("path").starts_with("/data/"), "{failure:?}");
    }
    assert!(server.pid() > 0);
}

#[tokio::test]
async fn etimedout_is_the_servers_answer_when_the_callers_deadline_passes() {
    let Some(scene) = Scene::new(&["--store-timeout", "20s"]).await else { return };
    let id = scene.caller.map_shared("/data/slow", 100).await;
    scene.caller.write(id, 0, &b"slow"[..]).await.unwrap();
    scene.moto.pause();
    // The server answers a little before the deadline, and the client's library gives up at it: on a busy
    // machine the library may be first, and then it is tried again with more time.
    let mut answered = false;
    for millis in [500, 1000, 2000, 4000] {
        let hurried = scene.caller.with_timeout(Duration::from_millis(millis));
        let started = Instant::now();
        let status = hurried.msync(id).await.unwrap_err();
        assert!(started.elapsed() < Duration::from_millis(millis + 1000), "{:?}", started.elapsed());
        if status.code() == Code::DeadlineExceeded && !status.details().is_empty() {
            assert_eq!(failure(&status).reason, Reason::TimedOut);
            answered = true;
            break;
        }
    }
    assert!(answered, "the server's own answer never came");
    // Whether it happened is open; that it can be done is not.
    scene.moto.resume();
    scene.caller.msync(id).await.unwrap();
    assert_eq!(&scene.moto.object("files/slow")[..4], b"slow");
}

#[tokio::test]
async fn edquot_comes_when_unsynced_bytes_cannot_be_written_back_and_nothing_is_lost() {
    // A quarter of 64 MiB may be unsynced.
    let Some(scene) = Scene::new(&["--store-timeout", "3s", "--memory", "64MiB"]).await else { return };
    let caller = &scene.caller;
    let id = caller.map_shared("/data/flood", 32 << 20).await;
    scene.moto.pause();
    let mebibyte = |index: u8| vec![index + 1; 1 << 20];
    let mut written = 0;
    let failure = loop {
        assert!(written < 17, "more than a quarter of the budget is unsynced");
        match caller.write(id, u64::from(written) << 20, mebibyte(written)).await {
            Ok(_) => written += 1,
            Err(status) => break failure(&status),
        }
    };
    assert_eq!(failure.reason, Reason::DQuot, "{failure:?}");
    assert_eq!(failure.value("max"), (16_u64 << 20).to_string(), "{failure:?}");
    assert!(written >= 8, "refused after {written} MiB");
    for index in 0..written {
        let read = caller.read(id, u64::from(index) << 20, 1 << 20).await.unwrap();
        assert!(read == mebibyte(index), "MiB {index} is lost");
    }
    scene.moto.resume();
    caller.msync(id).await.unwrap();
    caller.write(id, 0, mebibyte(42)).await.unwrap();
    caller.msync(id).await.unwrap();
    let object = scene.moto.object("files/flood");
    assert_eq!(object.len(), 32 << 20);
    assert!(object[..1 << 20] == mebibyte(42) && object[1 << 20..2 << 20] == mebibyte(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn calls_that_wait_for_each_other_at_a_silent_store_all_end_within_its_time() {
    let limit = Duration::from_secs(4);
    let Some(scene) = Scene::new(&["--store-timeout", "4s"]).await else { return };
    let caller = &scene.caller;
    let id = caller.map_shared("/data/queue", 100).await;
    caller.write(id, 0, &b"kept"[..]).await.unwrap();
    scene.moto.pause();
    let started = Instant::now();
    // Each begins while the one before it waits for the store.
    let later = |index: u64| tokio::time::sleep(Duration::from_millis(200 * index));
    let truncate = v1::TruncateFileRequest { path: "/data/queue".into(), size: 9, ..Default::default() };
    let force = v1::MsyncRequest { mmap_id: id, force: true, ..Default::default() };
    let results = tokio::join!(
        async { caller.msync(id).await.map(|_| ()) },
        async { (later(1).await, caller.truncate(truncate).await.map(|_| ())).1 },
        async { (later(2).await, caller.msync_with(force).await.map(|_| ())).1 },
        async { (later(3).await, caller.msync(id).await.map(|_| ())).1 },
        async { (later(4).await, caller.munmap(id).await.map(|_| ())).1 },
        async { (later(5).await, caller.exit(false).await.map(|_| ())).1 },
    );
    assert!(started.elapsed() < limit + Duration::from_secs(3), "{:?}", started.elapsed());
    for result in [results.0, results.1, results.2, results.3, results.4, results.5] {
        assert!(expect(Reason::Io, result).has_retry_delay);
    }
    assert_eq!(caller.stats(id).await.unwrap().dirty_bytes, 4096);
    scene.moto.resume();
    assert_eq!(caller.msync(id).await.unwrap().synced_bytes, 4096);
    assert_eq!(&scene.moto.object("files/queue")[..4], b"kept");
}
