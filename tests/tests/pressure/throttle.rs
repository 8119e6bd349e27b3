//! Slow stores: one for a manager in this process, and a proxy that makes a real one slow.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use mmap_core::units::ByteRange;
use mmap_core::vfs::{FileStore, Listed, Stat, StoreResult, Traits, Version, Writability, WriteBack};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

/// So many bytes a second, whoever asks.
#[derive(Debug)]
struct Throttle {
    bytes_per_second: u64,
    /// When everything that was let through so far is through.
    free_at: Mutex<Option<Instant>>,
}

impl Throttle {
    fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second, free_at: Mutex::new(None) }
    }

    async fn pass(&self, bytes: u64) {
        let time = Duration::from_micros(bytes * 1_000_000 / self.bytes_per_second);
        let until = {
            let mut free_at = self.free_at.lock().await;
            let now = Instant::now();
            let until = free_at.unwrap_or(now).max(now) + time;
            *free_at = Some(until);
            until
        };
        sleep_until(until).await;
    }
}

/// A store that takes so many unsynced bytes a second, over all of its files.
#[derive(Debug)]
pub(crate) struct SlowStore {
    inner: Arc<dyn FileStore>,
    throttle: Throttle,
}

impl SlowStore {
    pub(crate) fn new(inner: Arc<dyn FileStore>, bytes_per_second: u64) -> Self {
        Self { inner, throttle: Throttle::new(bytes_per_second) }
    }
}

#[async_trait]
impl FileStore for SlowStore {
    fn traits(&self) -> Traits {
        self.inner.traits()
    }

    fn check_name(&self, name: &str) -> StoreResult<()> {
        self.inner.check_name(name)
    }

    async fn stat(&self, name: &str) -> StoreResult<Stat> {
        self.inner.stat(name).await
    }

    async fn read(&self, name: &str, version: &Version, range: ByteRange) -> StoreResult<Vec<Bytes>> {
        self.inner.read(name, version, range).await
    }

    async fn write_back(&self, name: &str, change: WriteBack) -> StoreResult<Stat> {
        let unsynced = change.patches.iter().filter(|patch| patch.dirty).map(|patch| patch.range().len()).sum();
        self.throttle.pass(unsynced).await;
        self.inner.write_back(name, change).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> StoreResult<Vec<Listed>> {
        self.inner.list(prefix, after, limit).await
    }

    async fn remove(&self, name: &str) -> StoreResult<()> {
        self.inner.remove(name).await
    }

    async fn probe(&self) -> StoreResult<Writability> {
        self.inner.probe().await
    }

    async fn ping(&self) -> StoreResult<()> {
        self.inner.ping().await
    }
}

/// Hands connections on to a server, so many bytes a second on their way to it.
#[derive(Debug)]
pub(crate) struct SlowProxy {
    addr: String,
    accepting: JoinHandle<()>,
}

impl SlowProxy {
    /// A proxy of the server at `endpoint` (`http://host:port`), as long as it lives.
    pub(crate) async fn start(endpoint: &str, bytes_per_second: u64) -> Self {
        let upstream = endpoint.trim_start_matches("http://").trim_end_matches('/').to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let throttle = Arc::new(Throttle::new(bytes_per_second));
        let accepting = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let Ok((client, _)) = listener.accept().await else { return };
                let (upstream, throttle) = (upstream.clone(), Arc::clone(&throttle));
                connections.spawn(async move {
                    // A connection that breaks is the client's to make again.
                    let _ = hand_on(client, &upstream, &throttle).await;
                });
            }
        });
        Self { addr, accepting }
    }

    pub(crate) fn addr(&self) -> &str {
        &self.addr
    }
}

impl Drop for SlowProxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn hand_on(client: TcpStream, upstream: &str, throttle: &Throttle) -> std::io::Result<()> {
    let server = TcpStream::connect(upstream).await?;
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let upwards = async {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let read = from_client.read(&mut buffer).await?;
            if read == 0 {
                return to_server.shutdown().await;
            }
            throttle.pass(read as u64).await;
            to_server.write_all(&buffer[..read]).await?;
        }
    };
    let downwards = async {
        copy(&mut from_server, &mut to_client).await?;
        to_client.shutdown().await
    };
    tokio::try_join!(upwards, downwards).map(|_| ())
}
