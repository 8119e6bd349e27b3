//! `MmapReadStream` and `MmapWriteStream` over the wire: ranges of any length, chunk by chunk.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::stream;
use mmap_proto::reason::Reason;
use mmap_proto::v1;
use mmap_tests::failure::{Failure, expect, failure};
use mmap_tests::mmapd::{Mmapd, Setup};
use mmap_tests::pipe::{self, Pipe};
use mmap_tests::raw::{self, Answer, Then, message};
use mmap_tests::shared::Shared;
use mmap_tests::wire::Caller;
use prost::Message as _;
use tonic::Status;

const MIB: u64 = 1 << 20;

fn server() -> Arc<Mmapd> {
    static SHARED: Shared<Mmapd> = Shared::new();
    SHARED.get(|| Setup::new().args(["--memory", "128MiB"]).start())
}

/// A server, a caller of it, and a mapping of a file of its own.
async fn scene(pid: u32, length: u64) -> (Arc<Mmapd>, Caller, u64) {
    let server = server();
    let caller = Caller::connect(server.addr(), pid).await;
    let id = caller.map_shared(&format!("/streams-{pid}"), length).await;
    (server, caller, id)
}

/// All chunks of a range, and how it ended.
async fn chunks(caller: &Caller, request: v1::MmapReadStreamRequest) -> (Vec<(u64, Bytes)>, Result<(), Status>) {
    let mut all = Vec::new();
    let mut stream = match caller.mmap_service().mmap_read_stream(caller.request(request)).await {
        Ok(response) => response.into_inner(),
        Err(status) => return (all, Err(status)),
    };
    loop {
        match tokio::time::timeout(Duration::from_secs(60), stream.message()).await.unwrap() {
            Ok(Some(chunk)) => all.push((chunk.offset, chunk.data)),
            Ok(None) => return (all, Ok(())),
            Err(status) => return (all, Err(status)),
        }
    }
}

fn range(mmap_id: u64, offset: u64, length: u64, chunk_length: Option<u64>) -> v1::MmapReadStreamRequest {
    v1::MmapReadStreamRequest { mmap_id, offset, length, chunk_length }
}

/// Writes `messages` as one stream.
async fn write_all(caller: &Caller, messages: Vec<v1::MmapWriteStreamRequest>) -> Result<u64, Status> {
    let sent = caller.request(stream::iter(messages));
    Ok(caller.mmap_service().mmap_write_stream(sent).await?.into_inner().written)
}

fn pattern(length: usize) -> Bytes {
    let mut bytes = BytesMut::with_capacity(length + 8);
    for number in (0_u64..).take_while(|number| number * 8 < length as u64) {
        bytes.put_u64(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    }
    bytes.truncate(length);
    bytes.freeze()
}

#[tokio::test]
async fn what_a_stream_writes_a_stream_reads() {
    let (_server, caller, id) = scene(1, 9 * MIB).await;
    let data = pattern(9 * 1024 * 1024 - 100);
    let messages = data.chunks(700_001).enumerate().map(|(index, part)| v1::MmapWriteStreamRequest {
        // A later message may leave the mapping out.
        mmap_id: if index == 0 { id } else { 0 },
        offset: 100 + index as u64 * 700_001,
        data: Bytes::copy_from_slice(part),
    });
    assert_eq!(write_all(&caller, messages.collect()).await.unwrap(), data.len() as u64);
    for chunk_length in [None, Some(4 * MIB), Some(100_000)] {
        let (all, end) = chunks(&caller, range(id, 100, data.len() as u64, chunk_length)).await;
        end.unwrap();
        let mut position = 100;
        for (offset, part) in &all {
            assert_eq!(*offset, position, "in order and without gaps");
            assert!(!part.is_empty() && chunk_length.is_none_or(|most| part.len() as u64 <= most));
            position += part.len() as u64;
        }
        let flat: Vec<u8> = all.iter().flat_map(|(_, part)| part.to_vec()).collect();
        assert!(flat == data, "{chunk_length:?}: other bytes came back");
    }
}

#[tokio::test]
async fn a_chunk_has_from_one_byte_to_the_largest_message() {
    let (_server, caller, id) = scene(2, 4096).await;
    caller.write(id, 0, pattern(3000)).await.unwrap();
    let (all, end) = chunks(&caller, range(id, 0, 3000, Some(1))).await;
    end.unwrap();
    assert_eq!(all.len(), 3000);
    let flat: Vec<u8> = all.iter().flat_map(|(_, part)| part.to_vec()).collect();
    assert!(flat == pattern(3000));
    for chunk_length in [0, 4 * MIB + 1, u64::MAX] {
        let (all, end) = chunks(&caller, range(id, 0, 10, Some(chunk_length))).await;
        let failure = expect(Reason::Inval, end);
        assert!(all.is_empty() && failure.fields == ["chunk_length"], "{chunk_length}: {failure:?}");
    }
}

#[tokio::test]
async fn a_range_that_is_not_wholly_there_sends_no_byte() {
    let (_server, caller, id) = scene(3, 4 * MIB).await;
    let truncate = v1::TruncateFileRequest { path: "/streams-3".into(), size: 2 * MIB, ..Default::default() };
    caller.truncate(truncate).await.unwrap();
    for (request, reason) in [
        (range(id, 0, 0, None), Reason::Inval),
        (range(id, u64::MAX, 2, None), Reason::Inval),
        (range(id, 0, u64::MAX, None), Reason::Inval),
        (range(id, 0, 1 << 62, None), Reason::SegvMapErr),
        (range(id, 3 * MIB, MIB + 1, None), Reason::SegvMapErr),
        (range(id, 0, 4 * MIB, None), Reason::SigBus),
        (range(id + 1_000_000, 0, 1, None), Reason::BadF),
    ] {
        let (all, end) = chunks(&caller, request).await;
        assert!(all.is_empty(), "{request:?}");
        expect(reason, end);
    }
}

#[tokio::test]
async fn a_file_that_is_truncated_while_it_is_streamed_is_sigbus_behind_the_chunks_before() {
    let (_server, caller, id) = scene(4, 64 * MIB).await;
    let request = caller.request(range(id, 0, 64 * MIB, Some(64 << 10)));
    let mut stream = caller.mmap_service().mmap_read_stream(request).await.unwrap().into_inner();
    let first = stream.message().await.unwrap().unwrap();
    assert_eq!((first.offset, first.data.len()), (0, 64 << 10));
    // What the transport holds by now is far less than what is still to come.
    let truncate = v1::TruncateFileRequest { path: "/streams-4".into(), size: MIB, ..Default::default() };
    Caller::connect(server().addr(), 5).await.truncate(truncate).await.unwrap();
    let mut position = first.data.len() as u64;
    let end = loop {
        match stream.message().await {
            Ok(Some(chunk)) => {
                assert_eq!(chunk.offset, position);
                position += chunk.data.len() as u64;
            }
            Ok(None) => panic!("all {position} bytes came, although most of them are gone"),
            Err(status) => break status,
        }
    };
    assert_eq!(failure(&end).reason, Reason::SigBus);
    assert!((MIB..64 * MIB).contains(&position), "{position}");
}

#[tokio::test]
async fn the_first_failed_write_ends_a_stream_and_says_what_was_written() {
    let (_server, caller, id) = scene(6, 8192).await;
    let write = |offset, data: &'static str| v1::MmapWriteStreamRequest { mmap_id: id, offset, data: data.into() };
    let failed = write_all(&caller, vec![write(0, "abc"), write(10, "defg"), write(8190, "over"), write(20, "no")]);
    let failure: Failure = expect(Reason::SegvMapErr, failed.await);
    assert_eq!(failure.value("written"), "7");
    assert_eq!(caller.read(id, 0, 22).await.unwrap(), b"abc\0\0\0\0\0\0\0defg\0\0\0\0\0\0\0\0".as_slice());
    let empty = expect(Reason::Inval, write_all(&caller, vec![write(0, "")]).await);
    assert_eq!((empty.fields, empty.metadata["written"].as_str()), (vec!["data".to_owned()], "0"));
    assert_eq!(write_all(&caller, Vec::new()).await.unwrap(), 0, "no write is no failure");
}

#[tokio::test]
async fn a_stream_that_is_cut_in_the_middle_of_a_message_writes_nothing_of_it() {
    let (server, caller, id) = scene(7, 4096).await;
    let headers = [("content-type", "application/grpc"), ("te", "trailers"), ("mmap-pid", "7")];
    let headers = headers.into_iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
    let encoded = |offset, data: &'static str| {
        message(&v1::MmapWriteStreamRequest { mmap_id: id, offset, data: data.into() }.encode_to_vec())
    };
    let (whole, cut) = (encoded(0, "whole"), encoded(100, "in part"));
    for end in 1..cut.len() {
        let body = [whole.clone(), cut.slice(..end)].concat().into();
        let answer = raw::call(server.addr(), "mmap.v1.MmapService/MmapWriteStream", &headers, body, Then::End).await;
        assert_eq!(answer, Answer::Grpc(3), "cut at {end}");
    }
    assert_eq!(caller.read(id, 0, 5).await.unwrap(), "whole");
    assert_eq!(caller.read(id, 100, 7).await.unwrap(), [0; 7].as_slice());
}

#[tokio::test]
async fn a_deadline_ends_a_stream_with_its_reason() {
    let (server, caller, id) = scene(8, 4096).await;
    let headers = raw::stream_headers("8", "1500m");
    let ended = |method: &'static str, body: Bytes| {
        let (server, headers) = (&server, &headers);
        async move { failure(&raw::status(server.addr(), &format!("mmap.v1.MmapService/{method}"), headers, body).await) }
    };
    let write = v1::MmapWriteStreamRequest { mmap_id: id, offset: 0, data: "x".into() };
    let (writing, reading, idle) = tokio::join!(
        ended("MmapWriteStream", message(&write.encode_to_vec())),
        // Of the one request not all comes.
        ended("MmapReadStream", message(&range(id, 0, 1, None).encode_to_vec()).slice(..6)),
        ended("MmapPipeline", Bytes::new()),
    );
    assert_eq!([writing.reason, reading.reason, idle.reason], [Reason::TimedOut; 3]);
    // The journal is waited for at the end, which did not come; it may have the write, or not.
    assert!(["0", "1"].contains(&writing.value("written")), "{writing:?}");
    assert_eq!(caller.read(id, 0, 1).await.unwrap(), "x", "what was written before stays");
}

#[tokio::test]
async fn a_write_stream_that_waits_for_no_journal_says_at_its_deadline_all_that_it_wrote() {
    let server = Setup::new().args(["--durability", "memory"]).start();
    let id = Caller::connect(server.addr(), 1).await.map_shared("/unjournaled", 4096).await;
    let write = |offset, data: &'static str| {
        message(&v1::MmapWriteStreamRequest { mmap_id: id, offset, data: data.into() }.encode_to_vec())
    };
    let body = [write(0, "one"), write(10, "three")].concat().into();
    let headers = raw::stream_headers("1", "1500m");
    let ended = failure(&raw::status(server.addr(), "mmap.v1.MmapService/MmapWriteStream", &headers, body).await);
    assert_eq!((ended.reason, ended.value("written")), (Reason::TimedOut, "8"));
}

/// The half of a connection that is read, of which nothing is heard until it is let.
struct Muffled(tokio::net::tcp::OwnedReadHalf, Arc<AtomicBool>);

impl tokio::io::AsyncRead for Muffled {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.1.load(Ordering::Relaxed) { Pin::new(&mut self.0).poll_read(cx, buf) } else { Poll::Pending }
    }
}

#[tokio::test]
async fn streams_beyond_those_a_connection_may_have_are_refused_as_not_begun_and_the_others_go_on() {
    const MOST: usize = 4;
    let server = Setup::new().args(["--max-streams", "4"]).start();
    let caller = Caller::connect(server.addr(), 1).await;
    let id = caller.map_shared("/few", 4096).await;
    caller.write(id, 0, pattern(100)).await.unwrap();
    let (from, to) = tokio::net::TcpStream::connect(server.addr()).await.unwrap().into_split();
    let hears = Arc::new(AtomicBool::new(false));
    let io = tokio::io::join(Muffled(from, Arc::clone(&hears)), to);
    let hasty: Result<(h2::client::SendRequest<Bytes>, _), _> = h2::client::handshake(io).await;
    let (mut sender, mut connection) = hasty.unwrap();
    let mut opened = Vec::new();
    for _ in 0..3 * MOST {
        let mut request = http::Request::post(format!("http://{}/mmap.v1.MmapService/MmapReadStream", server.addr()));
        request.headers_mut().unwrap().extend(raw::stream_headers("1", "60S"));
        opened.push(sender.send_request(request.body(()).unwrap(), false).unwrap());
        sender = sender.ready().await.unwrap();
    }
    // They are sent before it hears how many there may be.
    assert!(futures::poll!(&mut connection).is_pending());
    hears.store(true, Ordering::Relaxed);
    let request = message(&range(id, 0, 100, None).encode_to_vec());
    let outcomes = async {
        let (mut served, mut refused) = (Vec::new(), 0);
        for (response, sending) in opened {
            match response.await {
                Ok(response) => served.push((response.into_body(), sending)),
                Err(error) => {
                    assert_eq!(error.reason(), Some(h2::Reason::REFUSED_STREAM), "it may be sent again: {error:?}");
                    refused += 1;
                }
            }
        }
        assert_eq!((served.len(), refused), (MOST, 2 * MOST));
        assert_eq!(caller.read(id, 0, 100).await.unwrap(), pattern(100), "another connection goes on");
        for (mut body, mut sending) in served {
            sending.send_data(request.clone(), true).unwrap();
            let answer = body.data().await.unwrap().unwrap();
            assert!(answer.ends_with(&pattern(100)), "so do those that were not refused");
        }
    };
    tokio::select! {
        done = tokio::time::timeout(Duration::from_secs(60), outcomes) => done.unwrap(),
        ended = connection => panic!("the whole connection was given up: {ended:?}"),
    }
}

#[tokio::test]
async fn a_client_that_keeps_to_the_number_of_streams_waits_for_one_of_its_own_to_end() {
    let server = Setup::new().args(["--max-streams", "3"]).start();
    let caller = Caller::connect(server.addr(), 1).await;
    let id = caller.map_shared("/few", 4096).await;
    let mut pipes = Vec::new();
    for _ in 0..3 {
        let mut pipe = Pipe::open(&caller, 4).await;
        pipe.call(pipe::read(id, 0, 1)).await;
        pipes.push(pipe);
    }
    let mut waiting = std::pin::pin!(caller.read(id, 0, 1));
    assert!(futures::poll!(waiting.as_mut()).is_pending());
    for pipe in &mut pipes {
        assert_eq!(pipe::data(pipe.call(pipe::read(id, 0, 4)).await), [0; 4].as_slice());
    }
    assert!(futures::poll!(waiting.as_mut()).is_pending(), "there are as many as there may be");
    drop(pipes.pop());
    assert_eq!(waiting.await.unwrap(), [0; 1].as_slice());
}
