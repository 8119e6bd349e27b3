//! `MmapPipeline` over the wire: answers as they are ready, order where operations overlap, failures as answers.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::sync::Arc;

use mmap_proto::reason::Reason;
use mmap_proto::v1;
use mmap_proto::v1::mmap_pipeline_request::Op;
use mmap_proto::v1::mmap_pipeline_response::Result as Answer;
use mmap_tests::failure::{failure, failure_answer};
use mmap_tests::mmapd::{Mmapd, Setup};
use mmap_tests::pipe::{Pipe, data, read, status, write};
use mmap_tests::raw::{self, Then, message};
use mmap_tests::shared::Shared;
use mmap_tests::wire::{Caller, map_request};
use prost::Message as _;

const MIB: u64 = 1 << 20;

fn server() -> Arc<Mmapd> {
    static SHARED: Shared<Mmapd> = Shared::new();
    SHARED.get(|| Setup::new().args(["--memory", "256MiB"]).start())
}

/// A server, a caller of it, and a mapping of a file of its own.
async fn scene(pid: u32, length: u64) -> (Arc<Mmapd>, Caller, u64) {
    let server = server();
    let caller = Caller::connect(server.addr(), pid).await;
    let id = caller.map_shared(&format!("/pipeline-{pid}"), length).await;
    (server, caller, id)
}

#[tokio::test]
async fn every_kind_of_operation_is_answered_on_one_stream() {
    let (_server, caller, _) = scene(1, 4096).await;
    let mut pipe = Pipe::open(&caller, 16).await;
    let request = v1::MmapRequest { create: true, ..map_request("/pipeline-kinds", 3 * MIB) };
    let Answer::Mmap(mapped) = pipe.call(Op::Mmap(request)).await else { panic!("not mapped") };
    assert_eq!((mapped.length, mapped.file_size), (3 * MIB, 3 * MIB));
    let id = mapped.mmap_id;
    let wrote = pipe.call(write(id, 65_530, b"across two blocks".as_slice())).await;
    assert_eq!(wrote, Answer::MmapWrite(v1::MmapWriteResponse { written: 17 }));
    assert_eq!(data(pipe.call(read(id, 65_530, 17)).await), "across two blocks");
    let Answer::MmapStats(stats) = pipe.call(Op::MmapStats(v1::MmapStatsRequest { mmap_id: id })).await else {
        panic!("no stats")
    };
    assert_eq!((stats.id, stats.dirty_bytes), (id, 8192));
    let Answer::Msync(synced) = pipe.call(Op::Msync(v1::MsyncRequest { mmap_id: id, ..Default::default() })).await
    else {
        panic!("not synced")
    };
    assert_eq!(synced.synced_bytes, 8192);
    let Answer::Munmap(unmapped) = pipe.call(Op::Munmap(v1::MunmapRequest { mmap_id: id, ..Default::default() })).await
    else {
        panic!("not unmapped")
    };
    assert_eq!(unmapped.synced_bytes, 0);
    pipe.finish();
    assert!(pipe.try_next().await.is_none(), "it ends with OK when its requests do");
}

#[tokio::test]
async fn a_failure_is_an_answer_as_a_unary_call_has_it_and_the_stream_goes_on() {
    let (_server, caller, id) = scene(2, 4096).await;
    let mut pipe = Pipe::open(&caller, 16).await;
    for (op, reason) in [
        (read(id, 0, 0), Reason::Inval),
        (write(id, 0, b"".as_slice()), Reason::Inval),
        (read(id, 0, 5 * MIB), Reason::Inval),
        (read(id, u64::MAX, 2), Reason::Inval),
        (read(id + 1_000_000, 0, 1), Reason::BadF),
        (read(id, 4096, 1), Reason::SegvMapErr),
        (Op::Mmap(map_request("/../x", 1)), Reason::Inval),
        (Op::Mmap(map_request("/pipeline-none", 1)), Reason::NoEnt),
        (Op::Msync(v1::MsyncRequest { mmap_id: id, mode: 9, ..Default::default() }), Reason::Inval),
    ] {
        let answer = pipe.call(op.clone()).await;
        let failure = failure_answer(&status(answer));
        assert_eq!(failure.reason, reason, "{op:?}: {failure:?}");
    }
    pipe.send_tagged(77, None);
    let (tag, answer) = pipe.next().await;
    assert_eq!((tag, failure_answer(&status(answer)).reason), (77, Reason::Inval));
    let answer = pipe.call(read(id, 0, 4)).await;
    assert_eq!(data(answer), [0; 4].as_slice());
}

#[tokio::test]
async fn the_callers_tags_come_back_whatever_they_are() {
    let (_server, caller, id) = scene(3, 4096).await;
    let mut pipe = Pipe::open(&caller, 16).await;
    for tag in [0, u64::MAX, 7, 7] {
        pipe.send_tagged(tag, Some(read(id, 0, 1)));
    }
    let mut tags = Vec::new();
    for _ in 0..4 {
        tags.push(pipe.next().await.0);
    }
    tags.sort_unstable();
    assert_eq!(tags, [0, 7, 7, u64::MAX]);
}

#[tokio::test]
async fn overlapping_operations_take_effect_in_the_order_sent() {
    let (_server, caller, id) = scene(4, 64 * 1024).await;
    let mut pipe = Pipe::open(&caller, 4096).await;
    for round in 0..200_u64 {
        let byte = u8::try_from(round).unwrap();
        pipe.send_tagged(2 * round, Some(write(id, round, vec![byte; 5000])));
        pipe.send_tagged(2 * round + 1, Some(read(id, round + 10, 4000)));
    }
    let mut answers = pipe.collect(400).await;
    for round in 0..200_u64 {
        let byte = u8::try_from(round).unwrap();
        let wrote = answers.remove(&(2 * round)).unwrap();
        assert_eq!(wrote, Answer::MmapWrite(v1::MmapWriteResponse { written: 5000 }));
        assert_eq!(data(answers.remove(&(2 * round + 1)).unwrap()), vec![byte; 4000], "{round}");
    }
}

#[tokio::test]
async fn a_stream_that_is_cut_in_the_middle_of_a_message_does_nothing_of_it_and_all_before_it() {
    let (server, caller, id) = scene(5, 4096).await;
    let headers = [("content-type", "application/grpc"), ("te", "trailers"), ("mmap-pid", "5")];
    let headers = headers.into_iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
    let encoded = |tag, offset, data: &'static str| {
        let op = Some(write(id, offset, data));
        message(&v1::MmapPipelineRequest { tag, op }.encode_to_vec())
    };
    let (whole, cut) = (encoded(1, 0, "whole"), encoded(2, 100, "in part"));
    for end in 1..cut.len() {
        let body = [whole.clone(), cut.slice(..end)].concat().into();
        let answer = raw::call(server.addr(), "mmap.v1.MmapService/MmapPipeline", &headers, body, Then::End).await;
        assert_eq!(answer, raw::Answer::Grpc(3), "cut at {end}");
    }
    assert_eq!(caller.read(id, 0, 5).await.unwrap(), "whole");
    assert_eq!(caller.read(id, 100, 7).await.unwrap(), [0; 7].as_slice());
}

#[tokio::test]
async fn a_client_that_never_reads_costs_bounded_memory_and_others_nothing() {
    let server = Setup::new().args(["--memory", "64MiB"]).start();
    let caller = Caller::connect(server.addr(), 1).await;
    let id = caller.map_shared("/never", MIB).await;
    caller.write(id, 0, vec![7; 1 << 20]).await.unwrap();
    let other = Caller::connect(server.addr(), 2).await;
    let others = other.map_shared("/other", MIB).await;
    let before = server.resident_bytes();
    let mut pipes = Vec::new();
    for _ in 0..8 {
        // Each asks for 20 MiB on the connection of `caller`.
        let mut pipe = Pipe::open(&caller, 2000).await;
        for _ in 0..20 {
            pipe.send(read(id, 0, MIB));
        }
        pipes.push(pipe);
    }
    for round in 0..200 {
        assert_eq!(other.read(others, round, 10).await.unwrap(), [0; 10].as_slice());
    }
    let after = server.resident_bytes();
    assert!(after < before + 64 * MIB, "{before} bytes before, {after} after");
    // Whoever reads after all gets everything. All at once: unread answers fill the window that they share.
    let answers = futures::future::join_all(pipes.iter_mut().map(|pipe| pipe.collect(20)));
    assert!(answers.await.iter().all(|answers| answers.len() == 20));
}

#[tokio::test]
async fn thousands_of_open_streams_hold_next_to_nothing_and_others_are_served() {
    const CONNECTIONS: usize = 20;
    const STREAMS: usize = 500;
    let server = Setup::new().args(["--memory", "64MiB"]).start();
    let caller = Caller::connect(server.addr(), 1).await;
    let id = caller.map_shared("/many", 4096).await;
    let before = server.resident_bytes();
    let mut pipes = Vec::new();
    for _ in 0..CONNECTIONS {
        let connected = Caller::connect(server.addr(), 1).await;
        for _ in 0..STREAMS {
            pipes.push(Pipe::open(&connected, 1).await);
        }
    }
    let after = server.resident_bytes();
    let each = (after - before) / (CONNECTIONS * STREAMS) as u64;
    eprintln!("{each} bytes for each of {} open streams", pipes.len());
    assert!(each < 8 << 10, "{each} bytes an idle stream");
    assert_eq!(caller.read(id, 0, 1).await.unwrap(), [0; 1].as_slice());
    for pipe in pipes.iter_mut().step_by(997) {
        assert_eq!(data(pipe.call(read(id, 0, 4)).await), [0; 4].as_slice());
    }
}

#[tokio::test]
async fn a_stop_ends_an_idle_pipeline_with_a_reason_to_come_back() {
    let server = Setup::new().start();
    let caller = Caller::connect(server.addr(), 1).await;
    let id = caller.map_shared("/stopped", 4096).await;
    let mut pipe = Pipe::open(&caller, 4).await;
    pipe.call(write(id, 0, b"x".as_slice())).await;
    let stopped = tokio::task::spawn_blocking(move || server.sigterm());
    let status = pipe.try_next().await.unwrap().unwrap_err();
    assert_eq!(failure(&status).reason, Reason::Io);
    assert!(stopped.await.unwrap().status.success());
}
