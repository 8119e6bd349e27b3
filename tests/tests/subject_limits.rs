//! Limits per subject over the wire. Callers that are taken at their word are one subject, so that the limits hold for
//! all of them together; that one subject's use leaves another's alone is tested where subjects can be named, in the
//! core (`manager/subject_tests.rs`) and in the server (`meter.rs`).
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use mmap_proto::reason::Reason;
use mmap_proto::v1::mmap_pipeline_response::Result as Answer;
use mmap_tests::failure::{Failure, expect, failure_answer};
use mmap_tests::mmapd::{Mmapd, Setup};
use mmap_tests::pipe::{Pipe, read, status, write};
use mmap_tests::wire::{Caller, map_request};

const MIB: u64 = 1 << 20;

fn server(args: &[&str]) -> Mmapd {
    Setup::new().args(args).start()
}

fn refused(failure: &Failure, limit: &str) {
    assert_eq!((failure.value("limit"), failure.has_retry_delay), (limit, true), "{failure:?}");
}

#[tokio::test]
async fn mappings_and_unsynced_bytes_of_all_callers_together_have_their_limits() {
    let server = server(&["--subject-mappings", "2", "--subject-dirty", "5MiB"]);
    let caller = Caller::connect(server.addr(), 1).await;
    let id = caller.map_shared("/a", 16 * MIB).await;
    let other = caller.with_pid(2);
    let second = other.map_shared("/a", 16 * MIB).await;
    refused(&expect(Reason::NoMem, caller.mmap(map_request("/a", MIB)).await), "subject_mappings");
    caller.write(id, 0, vec![1; 4 << 20]).await.unwrap();
    refused(&expect(Reason::DQuot, other.write(second, 4 * MIB, vec![1; 2 << 20]).await), "subject_dirty");
    caller.msync(id).await.unwrap();
    other.write(second, 4 * MIB, vec![1; 2 << 20]).await.unwrap();
    other.munmap(second).await.unwrap();
    caller.mmap(map_request("/a", MIB)).await.unwrap();
}

#[tokio::test]
async fn calls_over_the_rate_are_refused_whether_they_are_piped_or_not_and_pass_later() {
    let server = server(&["--subject-calls-per-second", "20"]);
    let caller = Caller::connect(server.addr(), 1).await;
    let id = caller.map_shared("/a", MIB).await;
    let mut pipe = Pipe::open(&caller, 256).await;
    for _ in 0..200 {
        pipe.send(read(id, 0, 10));
    }
    let answers = pipe.collect(200).await;
    let refusals: Vec<_> = answers.into_values().filter(|answer| matches!(answer, Answer::Error(_))).collect();
    // 200 are sent at once; however slow the machine, it does not take the 8 s in which they would all pass.
    assert!(!refusals.is_empty(), "200 operations at once of 20 a second");
    for answer in refusals {
        let failure = failure_answer(&status(answer));
        assert_eq!(failure.reason, Reason::NoMem);
        refused(&failure, "subject-calls-per-second");
    }
    let mut refusals = 0;
    while let Err(status) = caller.read(id, 0, 10).await {
        refused(&expect(Reason::NoMem, Err::<(), _>(status)), "subject-calls-per-second");
        refusals += 1;
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        assert!(refusals < 1000, "nothing passes any more");
    }
}

#[tokio::test]
async fn a_stream_is_slowed_to_the_rate_of_bytes_and_not_refused() {
    let server = server(&["--subject-bytes-per-second", "4MiB"]);
    let caller = Caller::connect(server.addr(), 1).await;
    let id = caller.map_shared("/a", 8 * MIB).await;
    let started = std::time::Instant::now();
    let request = mmap_proto::v1::MmapReadStreamRequest { mmap_id: id, offset: 0, length: 8 * MIB, chunk_length: None };
    let mut stream = caller.mmap_service().mmap_read_stream(caller.request(request)).await.unwrap().into_inner();
    let mut bytes = 0;
    while let Some(chunk) = stream.message().await.unwrap() {
        bytes += chunk.data.len() as u64;
    }
    // A second's worth is there at once; the rest has to come in.
    assert_eq!(bytes, 8 * MIB);
    assert!(started.elapsed() >= std::time::Duration::from_millis(900), "{:?}", started.elapsed());
    let mut pipe = Pipe::open(&caller, 16).await;
    for _ in 0..3 {
        pipe.send(write(id, 0, vec![1; 3 << 20]));
    }
    let answers = pipe.collect(3).await.into_values();
    assert!(answers.filter(|answer| matches!(answer, Answer::Error(_))).count() > 0, "single operations are refused");
}
