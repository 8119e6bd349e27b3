//! The table of `retry`: what is repeated by itself is counted at the server.

use std::time::{Duration, Instant};

use mmap_client::{Client, Error, ErrorKind, Mapping, Process, Reason, RetryPolicy, Truncate};
use mmap_fake::{Fake, fault::Fault};
use tonic::Code;

use crate::support::{attach, builder, connect, eventually, fake, map, within};

/// What a table's row needs.
struct Scene {
    fake: Fake,
    client: Client,
    process: Process,
    mapping: Mapping,
}

async fn scene() -> Scene {
    let fake = fake();
    let client = connect(&fake).await;
    let process = attach(&client).await;
    let mapping = map(&process).await;
    Scene { fake, client, process, mapping }
}

const IDEMPOTENT: [&str; 9] = [
    "MmapRead",
    "MmapStats",
    "Msync",
    "ListMappings",
    "ListProcesses",
    "ListWaiting",
    "StatFile",
    "ListFiles",
    "TruncateFile",
];

async fn call_idempotent(scene: &Scene, method: &str) -> Result<(), Error> {
    let Scene { client, mapping, .. } = scene;
    match method {
        "MmapRead" => mapping.read(0, 10).await.map(|_| ()),
        "MmapStats" => mapping.stats().await.map(|_| ()),
        "Msync" => mapping.msync().await.map(|_| ()),
        "ListMappings" => client.list_mappings(None, None).await.map(|_| ()),
        "ListProcesses" => client.list_processes(None).await.map(|_| ()),
        "ListWaiting" => client.list_waiting(None).await.map(|_| ()),
        "StatFile" => client.stat_file("/data/file").await.map(|_| ()),
        "ListFiles" => client.list_files("").await.map(|_| ()),
        "TruncateFile" => client.truncate_file("/data/file", 8192, Truncate::Create).await.map(|_| ()),
        other => panic!("{other} is not in the table"),
    }
}

#[tokio::test]
async fn an_idempotent_call_is_repeated_while_the_server_is_unavailable() {
    let scene = scene().await;
    for method in IDEMPOTENT {
        scene.fake.plan(method, Fault::Refuse(Reason::Io, Duration::ZERO));
        scene.fake.plan(method, Fault::Bare(Code::Unavailable));
        call_idempotent(&scene, method).await.unwrap_or_else(|error| panic!("{method}: {error}"));
        assert_eq!(scene.fake.calls(method), 3, "{method}");
    }
}

#[tokio::test]
async fn an_idempotent_call_is_not_repeated_for_other_failures() {
    let scene = scene().await;
    for method in IDEMPOTENT {
        scene.fake.plan(method, Fault::Refuse(Reason::Stale, Duration::ZERO));
        let error = call_idempotent(&scene, method).await.expect_err(method);
        assert_eq!(error.reason(), Some(Reason::Stale), "{method}");
        assert_eq!(scene.fake.calls(method), 1, "{method}");
    }
}

const OTHERS: [&str; 7] = ["MmapWrite", "Mmap", "Msync", "TruncateFile", "RemoveFile", "Exit", "Munmap"];

/// The forms of the calls that are never repeated once they were sent.
async fn call_other(scene: &mut Scene, method: &str) -> Result<(), Error> {
    let Scene { client, process, mapping, .. } = scene;
    match method {
        "MmapWrite" => mapping.write(0, "x").await,
        "Mmap" => process.map("/data/file").await.map(|_| ()),
        "Msync" => mapping.sync().force().await.map(|_| ()),
        "TruncateFile" => client.truncate_file("/data/new", 1, Truncate::CreateNew).await.map(|_| ()),
        "RemoveFile" => client.remove_file("/data/file").await,
        "Exit" => process.exit().await.map(|_| ()),
        "Munmap" => {
            let own = map(process).await;
            own.unmap().await.map(|_| ()).map_err(|failed| failed.error.clone())
        }
        other => panic!("{other} is not in the table"),
    }
}

#[tokio::test]
async fn what_may_have_happened_is_never_repeated() {
    for method in OTHERS {
        let mut scene = scene().await;
        let before = scene.fake.calls(method);
        scene.fake.plan(method, Fault::Bare(Code::Unavailable));
        let error = call_other(&mut scene, method).await.expect_err(method);
        assert_eq!((error.kind(), error.code()), (ErrorKind::Server, Code::Unavailable), "{method}");
        assert!(!error.is_surely_without_effect(), "{method}");
        // A failed unmap's mapping was dropped above, and goes to the background: that is another call.
        let calls = scene.fake.calls(method) - before;
        assert!(calls == 1 || method == "Munmap", "{method} was called {calls} times");
    }
}

#[tokio::test]
async fn a_write_whose_answer_is_lost_is_done_once_and_told_as_unknown() {
    let scene = scene().await;
    scene.fake.plan("MmapWrite", Fault::DoneThenBare(Code::Unavailable));
    let error = scene.mapping.write(0, "x").await.expect_err("the answer is lost");
    assert!(!error.is_surely_without_effect());
    assert_eq!(scene.fake.calls("MmapWrite"), 1);
    assert_eq!(scene.mapping.read(0, 1).await.expect("it reads"), "x");
}

#[tokio::test]
async fn a_call_that_never_reached_the_server_is_repeated_whatever_it_is() {
    let mut scene = scene().await;
    scene.fake.stop();
    // So that the write meets a refused connection, and not one that dies under it.
    eventually("the connection is known to be gone", || scene.process.state() != mmap_client::ProcessState::Alive)
        .await;
    let write = async { scene.mapping.write(0, "x").await };
    let restart = async {
        tokio::time::sleep(Duration::from_millis(150)).await;
        scene.fake.restart().expect("the port is still ours");
    };
    let (written, ()) = within(async { tokio::join!(write, restart) }).await;
    written.expect("the server came back");
    assert_eq!(scene.fake.calls("MmapWrite"), 1);
}

#[tokio::test]
async fn a_write_whose_connection_breaks_is_not_repeated_and_a_read_is() {
    let mut scene = scene().await;
    scene.fake.plan("MmapWrite", Fault::Hang);
    scene.fake.plan("MmapRead", Fault::Hang);
    let write = scene.mapping.write(0, "x");
    let read = scene.mapping.read(0, 1);
    let cut = async {
        eventually("both calls are there", || scene.fake.calls("MmapWrite") + scene.fake.calls("MmapRead") == 2).await;
        scene.fake.stop();
        scene.fake.restart().expect("the port is still ours");
    };
    let (written, read, ()) = within(Box::pin(async { tokio::join!(write, read, cut) })).await;
    assert_eq!(written.expect_err("its fate is unknown").kind(), ErrorKind::Transport);
    assert_eq!(read.expect("it is repeated"), "\0");
    assert_eq!((scene.fake.calls("MmapWrite"), scene.fake.calls("MmapRead")), (1, 2));
}

#[tokio::test]
async fn a_repeat_waits_as_long_as_the_server_asks_for() {
    let scene = scene().await;
    scene.fake.plan("StatFile", Fault::Refuse(Reason::Io, Duration::from_millis(400)));
    let start = Instant::now();
    scene.client.stat_file("/data/file").await.expect("the second time");
    assert!(start.elapsed() >= Duration::from_millis(400));
}

#[tokio::test]
async fn repeats_end_with_the_deadline_and_the_last_error_is_told() {
    let scene = scene().await;
    for _ in 0..100 {
        scene.fake.plan("StatFile", Fault::Refuse(Reason::Io, Duration::from_millis(100)));
    }
    let start = Instant::now();
    let hurried = scene.client.with_deadline(Duration::from_millis(350));
    let error = hurried.stat_file("/data/file").await.expect_err("it fails each time");
    assert_eq!(error.reason(), Some(Reason::Io));
    assert!(start.elapsed() < Duration::from_millis(350), "it does not wait for what cannot start in time");
    assert!((2..=4).contains(&scene.fake.calls("StatFile")));
}

#[tokio::test]
async fn repeats_have_a_largest_number() {
    let fake = fake();
    let policy = RetryPolicy { repeats_max: 2, delay_min: Duration::ZERO, delay_max: Duration::ZERO };
    let client = builder().retry(policy).connect(fake.address()).await.expect("it listens");
    for _ in 0..100 {
        fake.plan("StatFile", Fault::Bare(Code::Unavailable));
    }
    client.stat_file("/a").await.expect_err("it fails each time");
    assert_eq!(fake.calls("StatFile"), 3);

    let never = builder().retry(RetryPolicy::NEVER).connect(fake.address()).await.expect("it listens");
    never.stat_file("/a").await.expect_err("it fails");
    assert_eq!(fake.calls("StatFile"), 4);
}
