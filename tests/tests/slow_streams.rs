//! Pipelines and streams over a store that does not answer: what waits for it and what does not, what remains of a
//! stream that is given up meanwhile, its deadline, and the server's stop.
//!
//! Each test stops and wakes a store of its own. Until it is woken nothing that is not in memory can be answered, so
//! whatever is answered has not waited for it, however slow the machine is.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::time::Duration;

use bytes::Bytes;
use mmap_proto::reason::Reason;
use mmap_proto::v1;
use mmap_proto::v1::mmap_pipeline_request::Op;
use mmap_proto::v1::mmap_pipeline_response::Result as Answer;
use mmap_tests::failure::{expect, failure, failure_answer};
use mmap_tests::mmapd::{Mmapd, Setup};
use mmap_tests::moto::Moto;
use mmap_tests::pipe::{Pipe, data, read, status, write};
use mmap_tests::raw::{self, message, stream_headers as headers};
use mmap_tests::require::available;
use mmap_tests::wire::{Caller, eventually};
use object_store::ObjectStoreExt as _;
use prost::Message as _;
use tonic::Status;

const BLOCK: u64 = 64 << 10;
const LENGTH: u64 = 64 * BLOCK;
/// Where a block begins that is in memory; the one before it is not.
const HOT: u64 = 16 * BLOCK;
const SOON: Duration = Duration::from_secs(30);

/// A server, its store, and a mapping of which the block at [`HOT`] is in memory.
struct Scene {
    moto: Moto,
    server: Mmapd,
    caller: Caller,
    id: u64,
}

/// The file's byte at `offset`.
fn stored(offset: u64) -> u8 {
    u8::try_from(offset % 251).unwrap()
}

fn stored_range(offset: u64, length: u64) -> Vec<u8> {
    (offset..offset + length).map(stored).collect()
}

impl Scene {
    async fn new() -> Option<Self> {
        let moto = available(Moto::start())?;
        moto.store().put(&"files/slow".into(), stored_range(0, LENGTH).into()).await.unwrap();
        let setup = Setup::new().mount("/data", &moto.mount_url("files")).envs(Moto::ENV);
        let server = setup.args(["--store-timeout", "60s", "--memory", "64MiB"]).start();
        let caller = Caller::connect(server.addr(), 1).await;
        let id = caller.map_shared("/data/slow", LENGTH).await;
        caller.read(id, HOT, 1).await.unwrap();
        Some(Self { moto, server, caller, id })
    }

    /// Whether a call of the process runs, as the operator sees it.
    async fn is_busy(&self) -> bool {
        let processes = self.caller.without_pid().list_processes().await.unwrap();
        processes.iter().any(|process| process.idle_ms == 0)
    }
}

#[tokio::test]
async fn what_overlaps_a_slow_operation_waits_for_it_in_the_order_sent_and_all_else_overtakes_it() {
    let Some(scene) = Scene::new().await else { return };
    let (caller, id) = (&scene.caller, scene.id);
    let other = caller.map_shared("/data/other", BLOCK).await;
    caller.write(other, 0, stored_range(0, BLOCK)).await.unwrap();
    scene.moto.pause();
    let mut pipe = Pipe::open(caller, 64).await;
    // In part in a block that has to be fetched; those behind it would find all of theirs in memory.
    let slow = pipe.send(read(id, HOT - 100, 200));
    let first = pipe.send(write(id, HOT + 50, vec![b'1'; 100]));
    let second = pipe.send(write(id, HOT + 100, vec![b'2'; 100]));
    let between = pipe.send(read(id, HOT + 40, 200));
    let third = pipe.send(write(id, HOT + 60, vec![b'3'; 50]));
    let after = pipe.send(read(id, HOT + 40, 200));
    let others_range = pipe.send(write(id, HOT + 1000, b"another range".as_slice()));
    let stats = pipe.send(Op::MmapStats(v1::MmapStatsRequest { mmap_id: id }));
    let synced = pipe.send(Op::Msync(v1::MsyncRequest { mmap_id: id, ..Default::default() }));
    let others_mapping = pipe.send(read(other, HOT % BLOCK, 300));
    let others_write = pipe.send(write(other, 50, b"another mapping".as_slice()));
    let unmapped = pipe.send(Op::Munmap(v1::MunmapRequest { mmap_id: id, ..Default::default() }));
    let gone = pipe.send(read(id, HOT + 2000, 1));

    let mut early = pipe.collect(3).await;
    assert_eq!(early.remove(&others_range), Some(Answer::MmapWrite(v1::MmapWriteResponse { written: 13 })));
    assert_eq!(data(early.remove(&others_mapping).unwrap()), stored_range(0, 300));
    assert_eq!(early.remove(&others_write), Some(Answer::MmapWrite(v1::MmapWriteResponse { written: 15 })));
    assert_eq!(data(pipe.call(read(other, 50, 15)).await), "another mapping");

    scene.moto.resume();
    let mut late = pipe.collect(10).await;
    assert_eq!(data(late.remove(&slow).unwrap()), stored_range(HOT - 100, 200));
    let mut expected = stored_range(HOT, 300);
    expected[50..150].fill(b'1');
    expected[100..200].fill(b'2');
    assert_eq!(data(late.remove(&between).unwrap()), expected[40..240]);
    expected[60..110].fill(b'3');
    assert_eq!(data(late.remove(&after).unwrap()), expected[40..240]);
    assert_eq!(failure_answer(&status(late.remove(&gone).unwrap())).reason, Reason::BadF);
    for before in [first, second, third, stats, synced, unmapped] {
        let answer = late.remove(&before).unwrap();
        assert!(!matches!(answer, Answer::Error(_)), "{before} was not before the munmap: {answer:?}");
    }
    assert_eq!(scene.moto.object("files/slow")[usize::try_from(HOT).unwrap()..][..300], expected);
}

#[tokio::test]
async fn streams_that_are_dropped_in_the_middle_of_a_slow_operation_leave_nothing() {
    let Some(scene) = Scene::new().await else { return };
    let (caller, id) = (&scene.caller, scene.id);
    scene.moto.pause();
    // More than a connection may have of answers that are not sent, were any of them kept.
    for _ in 0..40 {
        let mut pipe = Pipe::open(caller, 8).await;
        pipe.send(read(id, HOT + BLOCK - 100, 10 * BLOCK));
        // Waits for it, and is never done.
        pipe.send(write(id, HOT + BLOCK - 50, vec![b'!'; 20]));
        let hot = pipe.send(read(id, HOT, 10));
        let (tag, answer) = pipe.next().await;
        assert_eq!((tag, data(answer)), (hot, stored_range(HOT, 10).into()), "those before it are under way");

        let request = v1::MmapReadStreamRequest { mmap_id: id, offset: HOT, length: 40 * BLOCK, chunk_length: None };
        let mut service = caller.mmap_service();
        let stream = service.mmap_read_stream(caller.request(request)).await.unwrap();
        let (mut writes, sent) = futures::channel::mpsc::channel(1);
        writes.try_send(v1::MmapWriteStreamRequest { mmap_id: id, offset: 3 * BLOCK + 10, data: "!".into() }).unwrap();
        let mut service = caller.mmap_service();
        let writing = service.mmap_write_stream(caller.request(sent));
        let given_up = tokio::time::timeout(Duration::from_millis(20), writing).await;
        assert!(given_up.is_err(), "a write to a block that is not there was answered");
        // A client's stream lasts as long as what it sends from.
        drop(writes);
        drop((pipe, stream));
    }
    // The store still does not answer: what was under way was not waited for, it was ended.
    eventually("no call of the process runs", SOON, async || (!scene.is_busy().await).then_some(())).await;
    let mut pipe = Pipe::open(caller, 8).await;
    assert_eq!(data(pipe.call(read(id, HOT, 100)).await), stored_range(HOT, 100));
    assert_eq!(caller.munmap(id).await.unwrap(), 0, "nothing was written");
    assert_eq!(caller.exit(true).await.unwrap().unmapped, 0);
    assert_eq!(caller.without_pid().list_processes().await.unwrap(), []);
    drop(pipe);

    scene.moto.resume();
    let again = Caller::connect(scene.server.addr(), 2).await;
    let id = again.map_shared("/data/slow", LENGTH).await;
    assert_eq!(again.read(id, HOT, 30 * BLOCK).await.unwrap(), stored_range(HOT, 30 * BLOCK));
    assert_eq!(again.read(id, 3 * BLOCK, 100).await.unwrap(), stored_range(3 * BLOCK, 100));
    // The connections are of this runtime, and are closed by it meanwhile.
    let ended = tokio::task::spawn_blocking(move || scene.server.sigterm()).await.unwrap();
    assert!(ended.status.success() && !ended.stderr.contains("calls still run"), "{}", ended.stderr);
}

#[tokio::test]
async fn a_stop_lets_operations_that_run_end_and_ends_their_streams_with_a_reason() {
    let Some(scene) = Scene::new().await else { return };
    let (caller, id) = (&scene.caller, scene.id);
    scene.moto.pause();
    let mut pipe = Pipe::open(caller, 8).await;
    let slow = pipe.send(read(id, HOT + BLOCK - 100, 200));
    let overlapping = pipe.send(write(id, HOT + BLOCK - 50, b"in line".as_slice()));
    assert_eq!(data(pipe.call(read(id, HOT, 10)).await), stored_range(HOT, 10));
    let (mut writes, sent) = futures::channel::mpsc::channel(4);
    writes.try_send(v1::MmapWriteStreamRequest { mmap_id: id, offset: HOT, data: "hot".into() }).unwrap();
    let mut service = caller.mmap_service();
    let sent = caller.request(sent);
    let writing = tokio::spawn(async move { service.mmap_write_stream(sent).await.map(tonic::Response::into_inner) });
    eventually("the first write of the stream has taken effect", SOON, async || {
        (caller.read(id, HOT, 3).await.unwrap() == "hot").then_some(())
    })
    .await;

    let mut idle = Pipe::open(caller, 1).await;
    let server = scene.server;
    let stopping = tokio::task::spawn_blocking(move || server.sigterm());
    let ended = failure(&idle.try_next().await.unwrap().unwrap_err());
    assert!(ended.reason == Reason::Io && ended.has_retry_delay, "{ended:?}");
    let ended = expect(Reason::Io, writing.await.unwrap());
    assert!(ended.has_retry_delay && ended.value("written") == "3", "{ended:?}");
    scene.moto.resume();
    let mut answers = pipe.collect(2).await;
    assert_eq!(data(answers.remove(&slow).unwrap()), stored_range(HOT + BLOCK - 100, 200));
    assert!(answers.contains_key(&overlapping), "what was taken is answered, done or not");
    let ended = failure(&pipe.try_next().await.unwrap().unwrap_err());
    assert!(ended.reason == Reason::Io && ended.has_retry_delay, "{ended:?}");
    let ended = stopping.await.unwrap();
    assert!(ended.status.success() && !ended.stderr.contains("calls still run"), "{ended:?}");
}

#[tokio::test]
async fn a_deadline_ends_operations_and_streams_that_wait_for_the_store() {
    let Some(scene) = Scene::new().await else { return };
    let id = scene.id;
    scene.moto.pause();
    let ended = |method: &'static str, message: Bytes| {
        let addr = scene.server.addr();
        async move { raw::status(addr, &format!("mmap.v1.MmapService/{method}"), &headers("1", "1500m"), message).await }
    };
    let slow = |tag| v1::MmapPipelineRequest { tag, op: Some(read(id, HOT + BLOCK, 10)) };
    let pipeline = ended("MmapPipeline", message(&slow(1).encode_to_vec()));
    let range = v1::MmapReadStreamRequest { mmap_id: id, offset: HOT, length: 9 * BLOCK, chunk_length: None };
    let reading = ended("MmapReadStream", message(&range.encode_to_vec()));
    let hot = v1::MmapWriteStreamRequest { mmap_id: id, offset: HOT, data: "hot".into() };
    let cold = v1::MmapWriteStreamRequest { mmap_id: id, offset: HOT + 30 * BLOCK, data: "cold".into() };
    let both = [message(&hot.encode_to_vec()), message(&cold.encode_to_vec())].concat();
    let writing = ended("MmapWriteStream", both.into());
    for status in <[Status; 3]>::from(tokio::join!(pipeline, reading, writing)) {
        assert_eq!(failure(&status).reason, Reason::TimedOut);
    }
    eventually("no call of the process runs", SOON, async || (!scene.is_busy().await).then_some(())).await;
    scene.moto.resume();
    assert_eq!(scene.caller.read(id, HOT, 3).await.unwrap(), "hot");
    let there = scene.caller.read(id, HOT + 30 * BLOCK, 4).await.unwrap();
    assert_eq!(there, stored_range(HOT + 30 * BLOCK, 4), "a write that was given up is not made later");
}
