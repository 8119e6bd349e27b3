//! EUCLEAN over the wire: a store that sends fewer or more bytes than it was asked for, or others, is found out,
//! nothing is handed out or written, and what it sends once it is honest is taken.
//!
//! The store is an S3 of the test's own: one object, served over HTTP on a loopback port, with a lie on demand.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use mmap_proto::reason::Reason;
use mmap_proto::v1;
use mmap_tests::failure::{Failure, expect};
use mmap_tests::mmapd::{Mmapd, Setup};
use mmap_tests::moto::Moto;
use mmap_tests::wire::{Caller, map_request};

/// Bytes of the object: three blocks of 64 KiB and a bit.
const SIZE: usize = 200_000;
/// A client that is silent for this long is given up.
const SILENCE: Duration = Duration::from_secs(10);

/// What the answer to a GET is like. Its headers always fit together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lie {
    /// As it should be.
    None,
    /// The right Content-Range over fewer bytes, with their Content-Length.
    Short,
    /// The right Content-Range over no bytes at all.
    Empty,
    /// The right Content-Range over more bytes.
    Long,
}

#[derive(Debug)]
struct Shown {
    lie: Lie,
    /// Methods and paths of the requests that would have changed something.
    changes: Vec<String>,
    over: bool,
}

/// The store; ends with its handle.
struct LyingStore {
    addr: SocketAddr,
    shown: Arc<Mutex<Shown>>,
    thread: Option<JoinHandle<()>>,
}

impl LyingStore {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let shown = Arc::new(Mutex::new(Shown { lie: Lie::None, changes: Vec::new(), over: false }));
        let state = Arc::clone(&shown);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if state.lock().unwrap().over {
                    return;
                }
                // A client that goes away in the middle ends its own exchange only.
                let _ = exchange(&stream, &state);
            }
        });
        Self { addr, shown, thread: Some(thread) }
    }

    fn lie(&self, lie: Lie) {
        self.shown.lock().unwrap().lie = lie;
    }

    fn changes(&self) -> Vec<String> {
        self.shown.lock().unwrap().changes.clone()
    }
}

impl Drop for LyingStore {
    fn drop(&mut self) {
        self.shown.lock().unwrap().over = true;
        // Wakes the thread up, so that it sees that it is over.
        drop(TcpStream::connect(self.addr));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn content() -> Vec<u8> {
    (0..SIZE).map(|index| u8::try_from(index % 251).unwrap()).collect()
}

/// One request and its answer, after which the connection closes.
fn exchange(stream: &TcpStream, shown: &Mutex<Shown>) -> std::io::Result<()> {
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_write_timeout(Some(SILENCE))?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let request = line.trim().to_owned();
    let (mut range, mut length) = (None, 0_u64);
    loop {
        line.clear();
        if reader.read_line(&mut line)? <= 2 {
            break;
        }
        let (name, value) = line.split_once(':').unwrap_or_default();
        match name.to_ascii_lowercase().as_str() {
            "range" => range = parse_range(value.trim()),
            "content-length" => length = value.trim().parse().unwrap_or_default(),
            _ => {}
        }
    }
    std::io::copy(&mut reader.take(length), &mut std::io::sink())?;
    let answer = answer(&request, range, shown);
    let mut writer = stream;
    writer.write_all(&answer)
}

fn parse_range(value: &str) -> Option<(usize, usize)> {
    let (first, last) = value.strip_prefix("bytes=")?.split_once('-')?;
    Some((first.parse().ok()?, last.parse::<usize>().ok()? + 1))
}

fn answer(request: &str, range: Option<(usize, usize)>, shown: &Mutex<Shown>) -> Vec<u8> {
    let is_object = request.contains("/bucket/files/object");
    let mut shown = shown.lock().unwrap();
    match (request.split(' ').next(), is_object) {
        (Some("HEAD"), true) => head("200 OK", SIZE, ""),
        (Some("GET"), true) => {
            let (start, end) = range.map_or((0, SIZE), |(start, end)| (start, end.min(SIZE)));
            let content = content();
            let body = match shown.lie {
                Lie::None => content[start..end].to_vec(),
                Lie::Short => content[start..end - 1].to_vec(),
                Lie::Empty => Vec::new(),
                Lie::Long => [&content[start..end], b"more"].concat(),
            };
            let range = format!("Content-Range: bytes {start}-{}/{SIZE}\r\n", end - 1);
            [head("206 Partial Content", body.len(), &range), body].concat()
        }
        (Some("HEAD"), false) => head("404 Not Found", 0, ""),
        (Some("GET"), false) => {
            // A list, of nothing.
            let body = b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>";
            [head("200 OK", body.len(), ""), body.to_vec()].concat()
        }
        _ => {
            shown.changes.push(request.to_owned());
            head("403 Forbidden", 0, "")
        }
    }
}

fn head(status: &str, length: usize, more: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nETag: \"one\"\r\n\
         Last-Modified: Wed, 21 Oct 2015 07:28:00 GMT\r\nConnection: close\r\n{more}\r\n"
    )
    .into_bytes()
}

struct Scene {
    store: LyingStore,
    _server: Mmapd,
    caller: Caller,
}

impl Scene {
    async fn new() -> Self {
        let store = LyingStore::start();
        // Not probed, so that whatever would change the store is the test's own doing.
        let url = format!("s3://bucket/files?endpoint=http://{}&region=r&allow_http&unsafe-overwrite", store.addr);
        let server = Setup::new().mount("/data", &url).envs(Moto::ENV).args(["--store-timeout", "5s"]).start();
        let caller = Caller::connect(server.addr(), 1).await;
        Self { store, _server: server, caller }
    }

    async fn map(&self) -> u64 {
        self.caller.mmap(map_request("/data/object", SIZE as u64)).await.unwrap().mmap_id
    }
}

fn check(failure: &Failure) {
    assert_eq!(failure.value("path"), "/data/object");
    assert!(!failure.has_retry_delay, "repeating it is not promised to help: {failure:?}");
}

#[tokio::test]
async fn bytes_of_another_length_than_asked_for_are_euclean_and_nothing_changes() {
    let scene = Scene::new().await;
    let caller = &scene.caller;
    let id = scene.map().await;
    for lie in [Lie::Short, Lie::Empty, Lie::Long] {
        scene.store.lie(lie);
        check(&expect(Reason::UClean, caller.read(id, 0, 10).await));
        // The rest of the page has to be fetched.
        check(&expect(Reason::UClean, caller.write(id, 70_000, &b"part of a page"[..]).await));
        let populate = v1::MmapRequest { populate: true, ..map_request("/data/object", SIZE as u64) };
        check(&expect(Reason::UClean, caller.mmap(populate).await));
        let stats = caller.stats(id).await.unwrap();
        assert_eq!((stats.resident_bytes, stats.dirty_bytes), (0, 0), "{lie:?}");
        assert_eq!(caller.list_mappings(None).await.unwrap().len(), 1, "what could not be populated is not mapped");
        assert_eq!(caller.msync(id).await.unwrap().synced_bytes, 0);
    }
    // Nothing of the lies was kept.
    scene.store.lie(Lie::None);
    assert!(caller.read(id, 0, SIZE as u64).await.unwrap() == content());
    caller.munmap(id).await.unwrap();
    assert_eq!(scene.store.changes(), [""; 0]);
}

#[tokio::test]
async fn a_write_back_that_would_store_a_lie_is_euclean_and_keeps_its_pages() {
    let scene = Scene::new().await;
    let caller = &scene.caller;
    let id = scene.map().await;
    scene.store.lie(Lie::Short);
    // A whole page needs nothing of the old content; the object that is to be written does.
    caller.write(id, 4096, vec![7; 4096]).await.unwrap();
    check(&expect(Reason::UClean, caller.msync(id).await));
    check(&expect(Reason::UClean, caller.munmap(id).await));
    check(&expect(Reason::UClean, caller.exit(false).await));
    let truncate = v1::TruncateFileRequest { path: "/data/object".into(), size: 100_000, ..Default::default() };
    check(&expect(Reason::UClean, caller.truncate(truncate).await));
    let stats = caller.stats(id).await.unwrap();
    assert_eq!((stats.dirty_bytes, stats.file_size), (4096, SIZE as u64));
    assert_eq!(caller.read(id, 4096, 4096).await.unwrap(), vec![7; 4096]);
    assert_eq!(scene.store.changes(), [""; 0], "nothing was written to the store");
    assert_eq!(caller.exit(true).await.unwrap().unmapped, 1);
}
