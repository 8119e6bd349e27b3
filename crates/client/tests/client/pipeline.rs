//! Small reads and writes of many tasks over shared streams: what one of them meets is its own affair.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::join_all;
use mmap_client::{Error, ErrorKind, Mapping, Process, Prot, Reason};
use mmap_fake::{Fake, fault::Fault};
use tonic::Code;

use crate::support::{attach, builder, connect, eventually, fake, map, within};

/// Operations on a stream at a time.
const PLACES: usize = 256;

struct Scene {
    fake: Fake,
    _process: Process,
    mapping: Arc<Mapping>,
}

async fn scene() -> Scene {
    scene_within(Duration::from_secs(30)).await
}

async fn scene_within(deadline: Duration) -> Scene {
    let fake = fake();
    let process = attach(&connect(&fake).await.with_deadline(deadline)).await;
    let mapping = Arc::new(map(&process).await);
    Scene { fake, _process: process, mapping }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tasks_share_one_stream() {
    let scene = scene().await;
    let tasks = (0..64u8).map(|task| {
        let mapping = Arc::clone(&scene.mapping);
        tokio::spawn(async move {
            let at = u64::from(task) * 100;
            for round in 0..20 {
                mapping.write(at, vec![task ^ round; 100]).await?;
                assert_eq!(mapping.read(at, 100).await?, vec![task ^ round; 100]);
            }
            Ok::<_, Error>(())
        })
    });
    for done in within(join_all(tasks)).await {
        done.expect("no panic").expect("no error");
    }
    assert_eq!((scene.fake.calls("MmapRead"), scene.fake.calls("MmapWrite")), (1280, 1280));
    assert_eq!(scene.fake.calls("MmapPipeline"), 1);
    assert_eq!(scene.fake.last_header("MmapPipeline", "mmap-pid").as_deref(), Some("42"));
    let claimed = scene.fake.last_header("MmapPipeline", "mmap-capabilities");
    assert_eq!(claimed.as_deref(), Some("FileRead,FileWrite,SystemInfo"));
    assert_eq!(scene.fake.last_header("MmapPipeline", "grpc-timeout"), None, "it would end the stream");
}

#[tokio::test]
async fn an_error_answers_only_its_operation() {
    let scene = scene().await;
    let reads = (0..20).map(|at| scene.mapping.read(if at % 5 == 0 { 8192 } else { at }, 1));
    for (at, read) in within(join_all(reads)).await.into_iter().enumerate() {
        match read {
            Ok(data) => assert!(at % 5 != 0 && data == "\0", "{at}"),
            Err(error) => assert_eq!((at % 5, error.reason()), (0, Some(Reason::SegvMapErr))),
        }
    }
    assert_eq!(scene.fake.calls("MmapPipeline"), 1);
}

#[tokio::test]
async fn an_operation_that_hangs_holds_up_no_other_and_is_late_alone() {
    let scene = scene_within(Duration::from_millis(300)).await;
    scene.fake.plan("MmapRead", Fault::Hang);
    let start = Instant::now();
    let hanging = scene.mapping.read(0, 1);
    let others = async {
        eventually("it is there", || scene.fake.calls("MmapRead") == 1).await;
        for _ in 0..100 {
            scene.mapping.read(1, 1).await.expect("it is answered");
        }
        start.elapsed()
    };
    let (late, others) = within(async { tokio::join!(hanging, others) }).await;
    let error = late.expect_err("it hangs");
    assert_eq!((error.kind(), error.reason()), (ErrorKind::Deadline, Some(Reason::TimedOut)));
    assert!((Duration::from_millis(290)..Duration::from_secs(5)).contains(&start.elapsed()));
    assert!(others < start.elapsed());
    assert_eq!((scene.fake.calls("MmapRead"), scene.fake.calls("MmapPipeline")), (101, 1));
}

#[tokio::test]
async fn operations_that_nobody_waits_for_any_more_give_their_places_back() {
    let scene = scene().await;
    for round in 1..=8 {
        let cancelled = (0..PLACES).map(|_| tokio::time::timeout(Duration::ZERO, scene.mapping.read(0, 1)));
        let cancelled = within(join_all(cancelled)).await;
        assert!(cancelled.iter().any(Result::is_err), "none was cancelled");
        eventually("they were sent all the same", || scene.fake.calls("MmapRead") >= round * PLACES).await;
    }
    assert_eq!(within(scene.mapping.read(0, 1)).await.expect("there is room"), "\0");
    assert!(scene.fake.calls("MmapPipeline") <= 2, "the second one takes what the first has no place for");
}

#[tokio::test]
async fn another_stream_is_made_when_one_is_full_and_then_one_waits_in_line() {
    let scene = scene_within(Duration::from_secs(2)).await;
    for _ in 0..2 * PLACES {
        scene.fake.plan("MmapRead", Fault::Hang);
    }
    let all = within(join_all((0..2 * PLACES + 50).map(|_| scene.mapping.read(0, 1)))).await;
    assert_eq!(scene.fake.calls("MmapPipeline"), 2);
    assert_eq!(scene.fake.calls("MmapRead"), 2 * PLACES, "those in line were never sent");
    for late in all {
        assert_eq!(late.expect_err("no answer").kind(), ErrorKind::Deadline);
    }
}

#[tokio::test]
async fn a_stream_that_breaks_is_made_again_and_its_reads_go_on() {
    let scene = scene().await;
    scene.fake.plan("MmapPipeline", Fault::Cut(3, Reason::Io));
    for read in within(join_all((0..10).map(|at| scene.mapping.read(at, 1)))).await {
        assert_eq!(read.expect("it is repeated"), "\0");
    }
    assert_eq!(scene.fake.calls("MmapPipeline"), 2);

    scene.fake.plan("MmapPipeline", Fault::Cut(0, Reason::Io));
    let own = scene_like(&scene).await;
    let error = own.1.write(0, "x").await.expect_err("its fate is unknown");
    assert_eq!((error.kind(), error.is_surely_without_effect()), (ErrorKind::Transport, false));
    assert!(scene.fake.calls("MmapWrite") <= 1, "it is not repeated");
    own.1.write(0, "y").await.expect("the next one makes a new stream");
    assert_eq!(scene.mapping.read(0, 1).await.expect("it reads"), "y");
}

/// Another process on the same fake.
async fn scene_like(scene: &Scene) -> (Process, Mapping) {
    let process = connect(&scene.fake).await.process(7);
    let mapping = process.map("/data/file").prot(Prot::READ_WRITE).await.expect("it maps");
    (process, mapping)
}

#[tokio::test]
async fn of_writes_that_a_break_meets_the_unsent_are_repeated_and_the_others_told_as_unknown() {
    const LENGTH: usize = 64 << 10;
    let mut fake = fake();
    let process = attach(&connect(&fake).await).await;
    fake.put_file("/data/large", vec![0; 128 * LENGTH]);
    let mapping = process.map("/data/large").prot(Prot::READ_WRITE).await.expect("it maps");
    // It takes the stream and reads nothing, so that most of 8 MiB find no room in the transport.
    fake.plan("MmapPipeline", Fault::Hang);
    let writes = join_all((0..128).map(|at| mapping.write(at * LENGTH as u64, vec![1; LENGTH])));
    let cut = async {
        eventually("the stream is there", || fake.calls("MmapPipeline") == 1).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        fake.stop();
        fake.restart().expect("the port is still ours");
    };
    let (written, ()) = within(Box::pin(async { tokio::join!(writes, cut) })).await;
    let (done, unknown): (Vec<_>, Vec<_>) = written.into_iter().partition(Result::is_ok);
    assert!(!done.is_empty() && !unknown.is_empty(), "{} done, {} unknown", done.len(), unknown.len());
    for unknown in unknown {
        assert_eq!(unknown.expect_err("it is one").kind(), ErrorKind::Transport);
    }
    assert_eq!(fake.calls("MmapWrite"), done.len());
    let data = mapping.read_all(0, 128 * LENGTH).await.expect("it reads");
    assert_eq!(data.iter().filter(|byte| **byte == 1).count(), done.len() * LENGTH);
}

#[tokio::test]
async fn a_server_without_the_pipeline_is_asked_once_and_then_called() {
    for fault in [Fault::Bare(Code::Unimplemented), Fault::Refuse(Reason::NotSup, Duration::ZERO)] {
        let scene = scene().await;
        scene.fake.plan("MmapPipeline", fault);
        let (write, read) = tokio::join!(scene.mapping.write(0, "x"), scene.mapping.read(1, 1));
        write.expect("it is called by itself");
        read.expect("it is called by itself");
        assert_eq!(scene.mapping.read(0, 1).await.expect("it reads"), "x");
        assert_eq!((scene.fake.calls("MmapRead"), scene.fake.calls("MmapWrite")), (2, 1));
        assert_eq!(scene.fake.calls("MmapPipeline"), 1);
        assert!(scene.fake.last_header("MmapRead", "grpc-timeout").is_some());
    }
}

#[tokio::test]
async fn a_stream_that_is_refused_tells_why_and_is_asked_for_again() {
    let scene = scene().await;
    scene.fake.plan("MmapPipeline", Fault::Refuse(Reason::Acces, Duration::ZERO));
    let error = scene.mapping.read(0, 1).await.expect_err("it is refused");
    assert_eq!((error.kind(), error.reason()), (ErrorKind::Server, Some(Reason::Acces)));
    scene.mapping.read(0, 1).await.expect("nothing is planned any more");
    scene.fake.plan("MmapPipeline", Fault::Refuse(Reason::Io, Duration::ZERO));
    let own = scene_like(&scene).await;
    own.1.read(0, 1).await.expect("it is repeated");
    assert_eq!(scene.fake.calls("MmapPipeline"), 4);
}

#[tokio::test]
async fn an_answer_that_is_wrong_is_told_and_breaks_nothing_else() {
    let scene = scene().await;
    scene.fake.plan("MmapPipeline", Fault::Garble);
    scene.fake.plan("MmapRead", Fault::Garble);
    let (short, right) = within(async { tokio::join!(scene.mapping.read(0, 5), scene.mapping.read(0, 5)) }).await;
    let error = short.expect_err("it has four bytes");
    assert_eq!(error.kind(), ErrorKind::Protocol);
    assert!(error.message().contains("5 bytes was answered with 4"), "{error}");
    assert_eq!(right.expect("answers to nobody are passed over"), "\0\0\0\0\0");
    assert_eq!((scene.fake.calls("MmapRead"), scene.fake.calls("MmapPipeline")), (2, 1));
}

#[tokio::test]
async fn large_ones_go_beside_the_stream_and_hold_up_no_small_one() {
    let fake = fake();
    fake.put_file("/data/large", vec![3; 8 << 20]);
    for connections in [1, 2, 3] {
        let client = builder().connections(connections).connect(fake.address()).await.expect("it listens");
        let process = client.process(7);
        let mapping = process.map("/data/large").prot(Prot::READ_WRITE).await.expect("it maps");
        let calls = fake.calls("MmapRead");
        fake.plan("MmapRead", Fault::Hang);
        let large = tokio::time::timeout(Duration::from_millis(300), mapping.read(0, 4 << 20));
        let small = async {
            eventually("it is there", || fake.calls("MmapRead") == calls + 1).await;
            for at in 0..50 {
                assert_eq!(mapping.read(at, 1).await.expect("it reads"), "\x03");
            }
        };
        let (large, ()) = within(async { tokio::join!(large, small) }).await;
        large.expect_err("it hangs");
        assert_eq!(mapping.read(0, 4 << 20).await.expect("it reads").len(), 4 << 20);
        let is_shared = fake.last_peer("MmapRead") == fake.last_peer("MmapPipeline");
        assert!(fake.last_peer("MmapRead").is_some());
        assert_eq!(is_shared, connections == 1);
    }
    assert_eq!(fake.calls("MmapPipeline"), 3);
}

#[tokio::test]
async fn the_operations_of_a_process_that_exits_are_told_so() {
    let scene = scene().await;
    scene.mapping.read(0, 1).await.expect("it reads");
    scene.fake.plan("MmapRead", Fault::Hang);
    let hanging = scene.mapping.read(0, 1);
    let exit = async {
        eventually("it is there", || scene.fake.calls("MmapRead") == 2).await;
        scene._process.exit().await.expect("it exits");
        // Its stream goes on for it, until it breaks.
        scene.fake.calls("MmapPipeline")
    };
    tokio::select! {
        read = hanging => panic!("nobody answers it: {read:?}"),
        streams = exit => assert_eq!(streams, 1),
    }
    let error = scene.mapping.read(0, 1).await.expect_err("it has exited");
    assert_eq!(error.kind(), ErrorKind::ProcessEnded);
    assert_eq!(scene.fake.calls("MmapPipeline"), 1);
}
