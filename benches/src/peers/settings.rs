//! How a tonic server and its clients are set: the same value on both sides.

use serde::{Deserialize, Serialize};
use tokio::runtime::{Builder, Runtime};
use tonic::transport::{Channel, Endpoint, Server};

const KIB: u32 = 1 << 10;
const MIB: u32 = 1 << 20;

/// Which memory allocator the server's process has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Allocator {
    /// That of the C library.
    System,
    /// mimalloc.
    Mimalloc,
}

/// Transport settings; `None` is the library's default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Threads of the runtime; 0 is tokio's default, one a core.
    pub workers: usize,
    /// Largest HTTP/2 frame.
    pub frame: Option<u32>,
    /// Flow-control windows of a stream and of the connection.
    pub windows: Option<(u32, u32)>,
    /// `TCP_NODELAY`.
    pub nodelay: bool,
    /// Of the server.
    pub allocator: Allocator,
}

impl Settings {
    /// What tonic, tokio and the C library do when nothing is set.
    pub const DEFAULTS: Self =
        Self { workers: 0, frame: None, windows: None, nodelay: true, allocator: Allocator::System };

    /// What measurement found best (see the `knobs` tables).
    pub const TUNED: Self = Self {
        workers: 1,
        frame: Some(MIB),
        windows: Some((4 * MIB, 16 * MIB)),
        nodelay: true,
        allocator: Allocator::Mimalloc,
    };

    /// The same with windows of this many KiB, of a stream and of the connection.
    #[must_use]
    pub const fn with_windows(self, kib: u32) -> Self {
        Self { windows: Some((kib * KIB, kib * KIB)), ..self }
    }

    /// The program that serves with these settings.
    pub fn binary(self) -> &'static str {
        match self.allocator {
            Allocator::System => "bench-peer-system",
            Allocator::Mimalloc => "bench-peer",
        }
    }

    /// A runtime with these many threads.
    ///
    /// # Errors
    /// The system gives no threads.
    pub fn runtime(self) -> Result<Runtime, String> {
        let mut builder = Builder::new_multi_thread();
        if self.workers > 0 {
            builder.worker_threads(self.workers);
        }
        builder.enable_all().build().map_err(|error| format!("no runtime: {error}"))
    }

    /// A tonic server that is set so. `TCP_NODELAY` is set where it listens.
    pub fn server(self) -> Server {
        let (stream, connection) = self.windows.unzip();
        Server::builder()
            .max_frame_size(self.frame)
            .initial_stream_window_size(stream)
            .initial_connection_window_size(connection)
    }

    /// A connection that is set so, to `127.0.0.1:PORT` or `unix:/path`.
    ///
    /// # Errors
    /// Nobody answers there.
    pub async fn connect(self, address: &str) -> Result<Channel, String> {
        let uri = if address.starts_with("unix:") { address.to_owned() } else { format!("http://{address}") };
        let (stream, connection) = self.windows.unzip();
        let endpoint = Endpoint::from_shared(uri)
            .map_err(|error| format!("{address}: {error}"))?
            .tcp_nodelay(self.nodelay)
            .max_frame_size(self.frame)
            .initial_stream_window_size(stream)
            .initial_connection_window_size(connection);
        endpoint.connect().await.map_err(|error| format!("{address}: {error}"))
    }
}
