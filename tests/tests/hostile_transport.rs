//! What no gRPC library would send: half messages, endless streams, megabytes of headers, bytes that are not
//! HTTP/2. The server answers or hangs up in bounded time, changes nothing, and goes on serving.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use mmap_tests::mmapd::{Mmapd, Setup};
use mmap_tests::raw::{self, Answer, Then, message, prefix};
use mmap_tests::shared::Shared;
use mmap_tests::wire::Caller;

const MIB: usize = 1 << 20;
/// What a server may use more after an attack than before: its own pools, not what it was sent.
const MEMORY_SLACK: u64 = 64 << 20;

fn server() -> Arc<Mmapd> {
    static SHARED: Shared<Mmapd> = Shared::new();
    SHARED.get(|| Setup::new().args(["--memory", "64MiB"]).start())
}

fn headers(more: &[(&'static str, String)]) -> HeaderMap {
    let usual = [
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("mmap-pid", "1"),
        ("mmap-capabilities", "FileRead"),
    ];
    let usual = usual.into_iter().map(|(name, value)| (name, value.to_owned()));
    let all = usual.chain(more.iter().cloned());
    all.map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(&value).unwrap())).collect()
}

async fn still_serves(server: &Mmapd) {
    let caller = Caller::connect(server.addr(), 9).await;
    let id = caller.map_shared("/still", 5).await;
    caller.write(id, 0, &b"alive"[..]).await.unwrap();
    assert_eq!(caller.read(id, 0, 5).await.unwrap(), "alive");
    caller.munmap(id).await.unwrap();
    let processes = caller.without_pid().list_processes().await.unwrap();
    assert!(processes.iter().all(|process| process.pid == 9), "an attack made a process: {processes:?}");
}

const MMAP: &str = "mmap.v1.MmapService/Mmap";
const WRITE: &str = "mmap.v1.MmapService/MmapWrite";
const ATTACH: &str = "mmap.v1.ProcessService/Attach";

#[tokio::test]
async fn half_a_message_is_not_half_obeyed() {
    let server = server();
    let whole = message(b"\x0a\x06/whole\x18\x0a\x20\x03\x30\x01");
    for method in [MMAP, WRITE, ATTACH] {
        for cut in [0, 1, 4, 5, 6, whole.len() - 1] {
            for then in [Then::End, Then::Reset] {
                let answer = raw::call(server.addr(), method, &headers(&[]), whole.slice(..cut), then).await;
                let refused = matches!(answer, Answer::Grpc(code) if code != 0);
                // Having broken its stream the client hears nothing more.
                assert!(refused || (then == Then::Reset && answer == Answer::Broken), "{method} {cut}: {answer:?}");
            }
        }
    }
    still_serves(&server).await;
}

#[tokio::test]
async fn bytes_that_are_no_message_are_refused() {
    let server = server();
    for (what, body) in [
        ("no protobuf", message(&[0xff; 100])),
        ("text that is not UTF-8", message(b"\x0a\x02\xff\xfe")),
        ("a field that is longer than its message", message(b"\x0a\xff\xff\xff\xff\x0f/x")),
        ("compressed by nothing known", [prefix(1, 3), Bytes::from_static(b"abc")].concat().into()),
        ("an unknown flag", [prefix(7, 3), Bytes::from_static(b"abc")].concat().into()),
        ("nested groups", message(&[0x0b; 10_000])),
    ] {
        let answer = raw::call(server.addr(), MMAP, &headers(&[]), body, Then::End).await;
        assert!(matches!(answer, Answer::Grpc(code) if code != 0), "{what}: {answer:?}");
    }
    let unknown = raw::call(server.addr(), "mmap.v1.MmapService/Nope", &headers(&[]), message(b""), Then::End).await;
    assert_eq!(unknown, Answer::Grpc(12));
    let mut no_grpc = headers(&[]);
    no_grpc.insert("content-type", HeaderValue::from_static("text/plain"));
    let answer = raw::call(server.addr(), MMAP, &no_grpc, message(b""), Then::End).await;
    assert!(matches!(answer, Answer::Http(400..500) | Answer::Grpc(_)), "{answer:?}");
    still_serves(&server).await;
}

#[tokio::test]
async fn a_message_that_is_too_large_is_refused_before_it_is_taken_in() {
    let server = server();
    let before = server.resident_bytes();
    for length in [5 << 20, 1 << 30, u32::MAX] {
        let body = [prefix(0, length), vec![0x0a; MIB].into()].concat().into();
        let answer = raw::call(server.addr(), WRITE, &headers(&[]), body, Then::Repeat).await;
        // EINVAL, or the library's RESOURCE_EXHAUSTED.
        assert!(matches!(answer, Answer::Grpc(3 | 8)), "{length}: {answer:?}");
    }
    // 10 MB of path, wholly sent.
    let path = "/0123456789abcde".repeat(640 << 10);
    let mut body = vec![0x0a];
    let mut rest = path.len();
    while rest >= 0x80 {
        body.push(u8::try_from(rest & 0x7f).unwrap() | 0x80);
        rest >>= 7;
    }
    body.push(u8::try_from(rest).unwrap());
    body.extend(path.as_bytes());
    let answer = raw::call(server.addr(), MMAP, &headers(&[]), message(&body), Then::End).await;
    assert!(matches!(answer, Answer::Grpc(3 | 8)), "{answer:?}");
    let after = server.resident_bytes();
    assert!(after < before + MEMORY_SLACK, "{before} bytes before, {after} after");
    still_serves(&server).await;
}

#[tokio::test]
async fn an_endless_stream_does_not_run_forever_or_fill_the_memory() {
    let server = server();
    let before = server.resident_bytes();
    // Messages without end to methods that take one, each a request to list files.
    let many: Bytes = message(b"").repeat(20_000).into();
    for method in ["mmap.v1.FileService/ListFiles", ATTACH] {
        let answer = raw::call(server.addr(), method, &headers(&[]), many.clone(), Then::Repeat).await;
        assert_ne!(answer, Answer::Silent, "{method}");
    }
    let method = "mmap.v1.MmapService/MmapWriteStream";
    let answer = raw::call(server.addr(), method, &headers(&[]), many.clone(), Then::Repeat).await;
    assert_ne!(answer, Answer::Silent, "{method}");
    // A pipeline has a right to be endless. This client makes no room for answers, so it comes to stand still.
    let (method, headers) = ("mmap.v1.MmapService/MmapPipeline", headers(&[]));
    let endless = raw::call(server.addr(), method, &headers, many, Then::Repeat);
    let ended = tokio::time::timeout(Duration::from_secs(3), endless).await;
    assert!(ended.is_err(), "a failed operation has to be an answer, not the stream's end: {ended:?}");
    let after = server.resident_bytes();
    assert!(after < before + MEMORY_SLACK, "{before} bytes before, {after} after");
    still_serves(&server).await;
}

#[tokio::test]
async fn a_megabyte_of_headers_is_refused() {
    let server = server();
    let body = message(b"\x0a\x02/x\x18\x0a\x20\x01");
    let one = headers(&[("mmap-capabilities", "FileRead,".repeat(MIB / 9))]);
    let many: HeaderMap = (0..20_000)
        .map(|index| (HeaderName::try_from(format!("x-{index}")).unwrap(), HeaderValue::from_static("filler")))
        .chain(headers(&[]).into_iter().map(|(name, value)| (name.unwrap(), value)))
        .collect();
    for headers in [one, many] {
        let answer = raw::call(server.addr(), MMAP, &headers, body.clone(), Then::End).await;
        assert!(!matches!(answer, Answer::Grpc(0) | Answer::Http(200) | Answer::Silent), "{answer:?}");
    }
    still_serves(&server).await;
}

#[tokio::test]
async fn bytes_that_are_not_http2_end_their_connection() {
    let server = server();
    for garbage in [
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(),
        vec![0; 1000],
        vec![0xff; 1000],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff".to_vec(),
    ] {
        raw::send_garbage(server.addr(), &garbage).await.unwrap();
    }
    still_serves(&server).await;
}

#[tokio::test]
async fn connections_that_say_nothing_do_not_keep_others_out() {
    let server = server();
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(tokio::net::TcpStream::connect(server.addr()).await.unwrap());
    }
    still_serves(&server).await;
    drop(silent);
}
