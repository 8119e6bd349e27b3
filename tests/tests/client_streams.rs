//! The client library over the real server's streams: small operations of many tasks share one, large ranges have one
//! each, and whatever breaks is told as a single call would tell it.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::{join_all, try_join_all};
use futures::{TryStreamExt, stream};
use mmap_client::{AttachOptions, Client, Error, ErrorKind, Mapping, Process, Prot, Reason};
use mmap_tests::mmapd::{Mmapd, Setup};
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::transport::{Channel, Endpoint};

/// Longer than anything here takes, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A channel that counts the calls that go through it.
#[derive(Clone)]
struct Counted {
    channel: Channel,
    calls: Arc<Mutex<BTreeMap<String, usize>>>,
}

impl Counted {
    fn to(server: &Mmapd) -> Self {
        let channel = Endpoint::from_shared(format!("http://{}", server.addr())).unwrap().connect_lazy();
        Self { channel, calls: Arc::default() }
    }

    fn calls(&self, method: &str) -> usize {
        let path = format!("/mmap.v1.MmapService/{method}");
        self.calls.lock().unwrap().get(&path).copied().unwrap_or_default()
    }
}

impl Service<http::Request<Body>> for Counted {
    type Response = http::Response<Body>;
    type Error = tonic::transport::Error;
    type Future = <Channel as Service<http::Request<Body>>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.channel.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        *self.calls.lock().unwrap().entry(request.uri().path().to_owned()).or_default() += 1;
        self.channel.call(request)
    }
}

async fn attach(client: &Client) -> Process {
    client.attach(AttachOptions { pid: None, name: "streams".into() }).await.unwrap()
}

async fn map(process: &Process, path: &str, length: u64) -> Arc<Mapping> {
    Arc::new(process.map(path).length(length).prot(Prot::READ_WRITE).create().await.unwrap())
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it comes to an end")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_operations_of_all_tasks_share_a_stream_and_what_one_meets_is_its_own_affair() {
    let server = Setup::new().start();
    let counted = Counted::to(&server);
    let process = attach(&Client::builder().service(counted.clone())).await;
    let mapping = map(&process, "/shared", 64 * 5000).await;
    let tasks = (0..64u8).map(|task| {
        let mapping = Arc::clone(&mapping);
        tokio::spawn(async move {
            let at = u64::from(task) * 5000;
            for round in 0..50 {
                mapping.write(at, vec![task ^ round; 5000]).await?;
                assert_eq!(mapping.read(at, 5000).await?, vec![task ^ round; 5000], "its own writes, in its own order");
                let error = mapping.read(64 * 5000, 1).await.expect_err("outside of the mapping");
                assert_eq!((error.kind(), error.reason()), (ErrorKind::Server, Some(Reason::SegvMapErr)));
                assert_eq!(error.metadata()["offset"], (64 * 5000).to_string());
            }
            Ok::<_, Error>(())
        })
    });
    for done in within(join_all(tasks)).await {
        done.unwrap().unwrap();
    }
    assert_eq!((counted.calls("MmapPipeline"), counted.calls("MmapRead"), counted.calls("MmapWrite")), (1, 0, 0));
    mapping.msync().await.unwrap();
    let stored = std::fs::read(server.default_files().join("shared")).unwrap();
    assert!((0..64u8).all(|task| stored[usize::from(task) * 5000..][..5000].iter().all(|byte| *byte == task ^ 49)));
    process.exit().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_file_goes_both_ways_over_streams() {
    const LENGTH: usize = (24 << 20) + 4321;
    let server = Setup::new().start();
    let counted = Counted::to(&server);
    let process = attach(&Client::builder().service(counted.clone())).await;
    let mapping = map(&process, "/large", LENGTH as u64).await;
    let data: Bytes = (0..LENGTH).map(|at| u8::try_from((at ^ (at >> 8) ^ (at >> 16)) & 0xff).unwrap()).collect();
    let cuts = [0, 1, 4096, 3 << 20, 20 << 20, LENGTH];
    let pieces = cuts.windows(2).map(|cut| Ok::<_, Error>(data.slice(cut[0]..cut[1])));
    assert_eq!(within(mapping.write_stream(0, stream::iter(pieces))).await.unwrap(), LENGTH as u64);
    assert!(within(mapping.read_all(0, LENGTH)).await.unwrap() == data, "the bytes differ");
    for (offset, length, chunk) in [(1, LENGTH - 1, 65_536), (70_000, 5 << 20, 1), (0, LENGTH, 1 << 20)] {
        let length = if chunk == 1 { 2000 } else { length };
        let pieces = mapping.read_stream(offset as u64, length as u64).unwrap().chunk_length(chunk);
        let pieces: Vec<Bytes> = within(pieces.try_collect()).await.unwrap();
        assert!(pieces.concat() == data[offset..offset + length], "the bytes differ");
        assert!(pieces.iter().rev().skip(1).all(|piece| piece.len() as u64 == chunk));
    }
    assert_eq!((counted.calls("MmapReadStream"), counted.calls("MmapWriteStream")), (4, 1));
    let error = within(mapping.write_all(LENGTH as u64 - 10, data.slice(..2 << 20))).await.expect_err("too long");
    assert_eq!(error.reason(), Some(Reason::SegvMapErr));
    process.exit_discard().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_are_given_up_at_any_moment_disturb_no_other() {
    let server = Setup::new().start();
    let client = Client::connect(server.addr()).await.unwrap();
    let process = attach(&client).await;
    let mapping = map(&process, "/cut", 8 << 20).await;
    mapping.write_all(0, vec![5; 8 << 20]).await.unwrap();
    for length in [1, 4096, 64 << 10, (64 << 10) + 1, 1 << 20, 3 << 20] {
        // Each call is dropped at another moment of its way; the next ones must not notice.
        for wait in [0, 1, 3] {
            let reads = (0..40).map(|_| tokio::time::timeout(Duration::from_millis(wait), mapping.read(7, length)));
            join_all(reads).await;
        }
        let reads = within(try_join_all((0..10).map(|_| mapping.read(7, length)))).await.unwrap();
        assert!(reads.iter().all(|data| data.len() == length && data.iter().all(|byte| *byte == 5)));
    }
    process.exit().await.unwrap();
}
