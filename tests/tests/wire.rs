//! Reads and writes on the wire, whatever they are made of: several blocks, pages that were written, a private
//! mapping's own, the end of the file, the largest message; through clients that take large frames and small ones.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use mmap_proto::v1;
use mmap_proto::v1::mmap_service_client::MmapServiceClient;
use mmap_tests::mmapd::{Mmapd, Setup};
use mmap_tests::raw::{self, Answer, Then, message};
use mmap_tests::shared::Shared;
use mmap_tests::wire::{Caller, map_request};
use prost::Message as _;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};

const BLOCK: usize = 64 << 10;
const LARGEST: usize = 4 << 20;

fn server() -> Arc<Mmapd> {
    static SHARED: Shared<Mmapd> = Shared::new();
    SHARED.get(|| Setup::new().args(["--memory", "256MiB"]).start())
}

/// Bytes that differ from place to place.
fn pattern(length: usize, seed: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from((at * 31 + at / 251 + seed) % 256).unwrap()).collect()
}

#[tokio::test]
async fn reads_over_blocks_show_what_was_written_wherever_they_begin_and_end() {
    let server = server();
    let caller = Caller::connect(server.addr(), 1).await;
    let size = LARGEST + 2 * BLOCK;
    let id = caller.map_shared("/blocks", size as u64).await;
    let mut expected = vec![0; size];
    for (index, (offset, length)) in
        [(0, LARGEST), (BLOCK - 1, 2), (3 * BLOCK + 100, 5000), (size - 700, 700), (BLOCK / 2, 3 * BLOCK)]
            .into_iter()
            .enumerate()
    {
        let data = pattern(length, index);
        expected[offset..offset + length].copy_from_slice(&data);
        assert_eq!(caller.write(id, offset as u64, Bytes::from(data)).await.unwrap(), length as u64);
    }
    for (offset, length) in [
        (0, 1),
        (0, LARGEST),
        (2 * BLOCK, LARGEST),
        (1, LARGEST - 1),
        (BLOCK - 1, 2),
        (BLOCK - 300, 600),
        (BLOCK - 600, 1200),
        (size - 1, 1),
        (7, 3 * BLOCK),
    ] {
        let read = caller.read(id, offset as u64, length as u64).await.unwrap();
        assert!(read == expected[offset..offset + length], "{length} bytes at {offset}");
    }
    caller.munmap(id).await.unwrap();
}

#[tokio::test]
async fn a_private_mapping_reads_its_own_pages_between_the_files() {
    let server = server();
    let caller = Caller::connect(server.addr(), 2).await;
    let size = 4 * BLOCK;
    let shared = caller.map_shared("/private", size as u64).await;
    let mut expected = pattern(size, 1);
    caller.write(shared, 0, Bytes::from(expected.clone())).await.unwrap();
    let request = v1::MmapRequest { shared: false, create: false, ..map_request("/private", size as u64) };
    let private = caller.mmap(request).await.unwrap().mmap_id;
    for offset in [10, BLOCK - 3, 2 * BLOCK + 5000] {
        let own = pattern(6, offset);
        expected[offset..offset + 6].copy_from_slice(&own);
        caller.write(private, offset as u64, Bytes::from(own)).await.unwrap();
    }
    assert!(caller.read(private, 0, size as u64).await.unwrap() == expected);
    assert!(caller.read(shared, 0, size as u64).await.unwrap() == pattern(size, 1));
    caller.munmap(private).await.unwrap();
    caller.munmap(shared).await.unwrap();
}

#[tokio::test]
async fn the_last_page_reads_zeros_behind_the_end_and_further_on_is_sigbus() {
    let server = server();
    let caller = Caller::connect(server.addr(), 3).await;
    let made = caller.map_shared("/end", 5000).await;
    caller.write(made, 0, Bytes::from(vec![9; 5000])).await.unwrap();
    let id = caller.mmap(map_request("/end", 3 * 4096)).await.unwrap().mmap_id;
    let read = caller.read(id, 4096, 4096).await.unwrap();
    assert!(read[..904].iter().all(|byte| *byte == 9) && read[904..].iter().all(|byte| *byte == 0));
    assert_eq!(caller.read(id, 8192, 1).await.unwrap_err().code(), Code::OutOfRange);
    assert_eq!(caller.write(id, 8192, &b"x"[..]).await.unwrap_err().code(), Code::OutOfRange);
}

async fn channel(server: &Mmapd, set: impl FnOnce(Endpoint) -> Endpoint) -> Channel {
    set(Endpoint::from_shared(format!("http://{}", server.addr())).unwrap()).connect().await.unwrap()
}

fn with_pid<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("mmap-pid", "4".parse().unwrap());
    request
}

#[tokio::test]
async fn clients_with_small_windows_and_large_ones_read_the_same() {
    let server = server();
    let caller = Caller::connect(server.addr(), 4).await;
    let id = caller.map_shared("/windows", LARGEST as u64).await;
    let expected = pattern(LARGEST, 3);
    caller.write(id, 0, Bytes::from(expected.clone())).await.unwrap();
    let small = channel(&server, |to| to.initial_stream_window_size(1000).initial_connection_window_size(65_535)).await;
    let large =
        channel(&server, |to| to.initial_stream_window_size(8 << 20).initial_connection_window_size(16 << 20)).await;
    for channel in [small, large] {
        let mut stub = MmapServiceClient::new(channel).max_decoding_message_size(2 * LARGEST);
        let calls = (0..8).map(|call| {
            let mut stub = stub.clone();
            tokio::spawn(async move {
                let length = LARGEST as u64 >> call;
                let message = v1::MmapReadRequest { mmap_id: id, offset: 0, length };
                stub.mmap_read(with_pid(message)).await.unwrap().into_inner().data
            })
        });
        for call in calls.collect::<Vec<_>>() {
            let data = call.await.unwrap();
            assert!(data == expected[..data.len()]);
        }
        let message = v1::MmapReadRequest { mmap_id: id, offset: 0, length: 10 };
        let answer = stub.mmap_read(with_pid(message)).await.unwrap();
        assert!(answer.metadata().contains_key("mmap-node"));
    }
}

fn headers() -> HeaderMap {
    [("content-type", "application/grpc"), ("te", "trailers"), ("mmap-pid", "5")]
        .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
        .into_iter()
        .collect()
}

#[tokio::test]
async fn a_data_call_with_no_message_or_two_or_with_bad_headers_is_refused() {
    let server = server();
    let caller = Caller::connect(server.addr(), 5).await;
    let id = caller.map_shared("/refused", 100).await;
    let read = message(&v1::MmapReadRequest { mmap_id: id, offset: 0, length: 10 }.encode_to_vec());
    let data = Bytes::from_static(b"twice");
    let write = message(&v1::MmapWriteRequest { mmap_id: id, offset: 0, data }.encode_to_vec());
    for (method, one) in [("mmap.v1.MmapService/MmapRead", read), ("mmap.v1.MmapService/MmapWrite", write)] {
        let two = BytesMut::from_iter([one.clone(), one.clone()].concat()).freeze();
        for body in [Bytes::new(), two] {
            assert_eq!(raw::call(server.addr(), method, &headers(), body, Then::End).await, Answer::Grpc(3));
        }
        for (name, value) in [("grpc-timeout", "soon"), ("mmap-pid", "x"), ("mmap-capabilities", "Root")] {
            let mut bad = headers();
            bad.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
            assert_eq!(raw::call(server.addr(), method, &bad, one.clone(), Then::End).await, Answer::Grpc(3), "{name}");
        }
    }
    assert_eq!(caller.read(id, 0, 5).await.unwrap(), &[0; 5][..], "a refused write wrote");
    let write = message(&v1::MmapWriteRequest { mmap_id: id, offset: 0, data: "once".into() }.encode_to_vec());
    let answer = raw::call(server.addr(), "mmap.v1.MmapService/MmapWrite", &headers(), write, Then::End).await;
    assert_eq!(answer, Answer::Grpc(0));
}

#[tokio::test]
async fn a_client_that_never_reads_holds_little_and_keeps_nobody_out() {
    let server = Setup::new().args(["--memory", "64MiB"]).start();
    let caller = Caller::connect(server.addr(), 6).await;
    let size = 512 << 20;
    let id = caller.map_shared("/unread", size).await;
    let before = server.resident_bytes();
    // No window is open for an answer, and each is of other blocks.
    let closed = channel(&server, |to| to.initial_stream_window_size(0)).await;
    let unread = (0..size / LARGEST as u64).map(|call| {
        let mut stub = MmapServiceClient::new(closed.clone());
        let message = v1::MmapReadRequest { mmap_id: id, offset: call * LARGEST as u64, length: LARGEST as u64 };
        let mut request = with_pid(message);
        request.metadata_mut().insert("mmap-pid", "6".parse().unwrap());
        tokio::spawn(async move { stub.mmap_read(request).await.map(|_| ()) })
    });
    let unread: Vec<_> = unread.collect();
    tokio::time::sleep(Duration::from_secs(3)).await;
    for call in 0..16 {
        assert_eq!(caller.read(id, call << 24, 1 << 20).await.unwrap().len(), 1 << 20, "others are kept out");
    }
    let after = server.resident_bytes();
    // Its cache and its pools, and not what the client left.
    assert!(after < before + (192 << 20), "{before} bytes before, {after} after");
    assert!(unread.iter().all(|call| !call.is_finished()), "the answers were read after all");
    unread.iter().for_each(|call| call.abort());
}

#[tokio::test]
async fn a_client_that_leaves_an_answer_for_a_minute_loses_its_connection() {
    let server = server();
    let caller = Caller::connect(server.addr(), 8).await;
    let id = caller.map_shared("/left", 100_000).await;
    let closed = channel(&server, |to| to.initial_stream_window_size(0)).await;
    let mut request = with_pid(v1::MmapReadRequest { mmap_id: id, offset: 0, length: 100_000 });
    request.metadata_mut().insert("mmap-pid", "8".parse().unwrap());
    let began = Instant::now();
    let mut stub = MmapServiceClient::new(closed);
    let left = tokio::time::timeout(Duration::from_secs(120), stub.mmap_read(request)).await;
    assert!(left.expect("its connection stays").is_err());
    assert!(began.elapsed() >= Duration::from_secs(60), "{:?}", began.elapsed());
}
