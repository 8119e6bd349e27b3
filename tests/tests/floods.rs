//! Many connections, slow ones, and streams that are broken as fast as they are opened: others are served meanwhile,
//! and afterwards everybody is.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use mmap_tests::certs::{Authority, Valid};
use mmap_tests::mmapd::{Mmapd, Setup};
use mmap_tests::require::available;
use mmap_tests::wire::{Caller, eventually};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// What somebody who is served meanwhile waits for a call at most, on a machine that is busy otherwise.
const SERVED: Duration = Duration::from_secs(5);
/// Time for a handshake and for HTTP/2's first bytes is 10 s each; the rest is for a busy machine.
const GIVEN_UP: Duration = Duration::from_secs(35);

/// A caller who was there before, with a mapping, and what its slowest call took.
struct Bystander {
    caller: Caller,
    mapping: u64,
    slowest: Duration,
}

impl Bystander {
    async fn of(addr: &str) -> Self {
        let caller = Caller::connect(addr, 7).await;
        let mapping = caller.map_shared("/bystander", 4096).await;
        caller.write(mapping, 0, &b"here"[..]).await.unwrap();
        Self { caller, mapping, slowest: Duration::ZERO }
    }

    async fn is_served(&mut self) {
        let start = Instant::now();
        let read = tokio::time::timeout(SERVED, self.caller.read(self.mapping, 0, 4)).await;
        assert_eq!(read.expect("a bystander is served").unwrap(), "here");
        self.slowest = self.slowest.max(start.elapsed());
    }
}

fn open_files(server: &Mmapd) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap().count()
}

/// Whether the other side has hung up.
async fn is_closed(tcp: &mut TcpStream, within: Duration) -> bool {
    let mut bytes = [0; 4096];
    let ended = async { while !matches!(tcp.read(&mut bytes).await, Ok(0) | Err(_)) {} };
    tokio::time::timeout(within, ended).await.is_ok()
}

#[tokio::test]
async fn ten_thousand_connections_are_bounded_and_do_not_touch_who_is_served() {
    let places = 100;
    let server = Setup::new().args(["--max-connections", "100"]).start();
    let mut bystander = Bystander::of(server.addr()).await;
    let before = server.resident_bytes();
    let mut silent = Vec::new();
    for opened in 0..10_000 {
        let tcp = TcpStream::connect(server.addr()).await.unwrap();
        // The first ones take all places; who comes later is hung up on, and is held no longer than that takes.
        if opened < 2 * places {
            silent.push(tcp);
        }
        if opened % 500 == 0 {
            bystander.is_served().await;
        }
    }
    assert!(open_files(&server) < places + 100, "{} files are open", open_files(&server));
    let grown = server.resident_bytes().saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes more after 10,000 connections");
    drop(silent);
    let again = async || {
        let mut tcp = TcpStream::connect(server.addr()).await.ok()?;
        (!is_closed(&mut tcp, Duration::from_millis(300)).await).then_some(())
    };
    eventually("there are places again", GIVEN_UP, again).await;
    bystander.is_served().await;
    Caller::connect(server.addr(), 8).await.map_shared("/after", 4096).await;
    eprintln!("bystander's slowest call {:?}, server grew by {} KiB", bystander.slowest, grown >> 10);
}

#[tokio::test]
async fn handshakes_that_never_end_are_given_up_and_hold_up_nobody() {
    let Some(authority) = available(Authority::new()) else { return };
    let setup = Setup::new().args(authority.issue("server", Valid::Days(30)).server_args());
    let socket = format!("unix:{}", setup.folder().join("m.sock").display());
    let server = setup.args(["--max-connections", "300"]).listen("127.0.0.1:0").listen(&socket).start();
    let addr = server.addr().strip_prefix("https://").unwrap().to_owned();
    let mut bystander = Bystander::of(&socket).await;
    let mut slow = Vec::new();
    for attempt in 0..200 {
        let mut tcp = TcpStream::connect(&addr).await.unwrap();
        // Nothing at all, or the beginning of a ClientHello of 512 bytes.
        if attempt % 2 == 0 {
            tcp.write_all(&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc]).await.unwrap();
        }
        slow.push(tcp);
    }
    let client = mmap_client::Client::builder().ca_file(authority.ca()).unwrap();
    let start = Instant::now();
    assert!(client.connect(server.addr()).await.unwrap().ping().await.unwrap().serving);
    let handshake = start.elapsed();
    bystander.is_served().await;
    for tcp in &mut slow {
        assert!(is_closed(tcp, GIVEN_UP).await, "a handshake is waited for for ever");
    }
    assert!(start.elapsed() < GIVEN_UP, "{:?}", start.elapsed());
    bystander.is_served().await;
    eprintln!("a handshake beside 200 slow ones took {handshake:?}; all were given up after {:?}", start.elapsed());
}

#[tokio::test]
async fn headers_that_never_end_are_given_up_and_hold_up_nobody() {
    let server = Setup::new().start();
    let mut bystander = Bystander::of(server.addr()).await;
    let mut slow = Vec::new();
    for _ in 0..100 {
        let mut tcp = TcpStream::connect(server.addr()).await.unwrap();
        // A preface, settings, and a HEADERS frame without its end: 2 bytes of a block that is to go on.
        tcp.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        tcp.write_all(b"\0\0\x02\x01\0\0\0\0\x01\x83\x86").await.unwrap();
        slow.push(tcp);
    }
    bystander.is_served().await;
    // No ping is answered either: within two times 10 s each is taken for dead.
    for tcp in &mut slow {
        assert!(is_closed(tcp, GIVEN_UP).await, "headers are waited for for ever");
    }
    bystander.is_served().await;
}

#[tokio::test]
async fn streams_that_are_broken_as_fast_as_they_are_opened_do_not_touch_who_is_served() {
    let server = Setup::new().start();
    let mut bystander = Bystander::of(server.addr()).await;
    let before = server.resident_bytes();
    let attack = async {
        let mut broken = 0;
        // Who is hung up on comes again.
        while broken < 50_000 {
            let tcp = TcpStream::connect(server.addr()).await.unwrap();
            let Ok((mut sender, connection)) = h2::client::handshake(tcp).await else { continue };
            let driven = tokio::spawn(connection);
            for _ in 0..5_000 {
                let request = Request::post("http://localhost/mmap.v1.FileService/ListFiles").body(()).unwrap();
                let Ok(ready) = sender.ready().await else { break };
                sender = ready;
                let Ok((_, mut stream)) = sender.send_request(request, false) else { break };
                let _ = stream.send_data(Bytes::from_static(&[0, 0, 0, 0, 0]), false);
                stream.send_reset(h2::Reason::CANCEL);
                broken += 1;
                if broken % 50 == 0 {
                    tokio::task::yield_now().await;
                }
            }
            driven.abort();
            broken += 100;
        }
    };
    let watch = async {
        loop {
            bystander.is_served().await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        () = attack => {}
        () = watch => {}
    }
    bystander.is_served().await;
    let grown = server.resident_bytes().saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes more after the flood");
    eprintln!("bystander's slowest call {:?}, server grew by {} KiB", bystander.slowest, grown >> 10);
}
