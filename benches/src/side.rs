//! A server with its clients connected over both transports, so that a benchmark only says what they do.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mmap_client::{Client, Mapping, Prot};
use tokio::runtime::Runtime;
use tonic::transport::Channel;

use crate::load::{self, FILE, Mapped};
use crate::measure::measure;
use crate::options::Options;
use crate::peers::settings::Settings;
use crate::rows::{Sample, Unit};
use crate::servers::{MEMORY, Server, Transport};

/// Beyond its time a round may take this long before it counts as failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a round of small operations lasts.
pub fn round_time(options: &Options) -> Duration {
    Duration::from_millis(if options.is_quick { 80 } else { 400 })
}

/// Runs a future with a limit on its time.
///
/// # Errors
/// Its own, and that it takes too long.
pub fn within<T>(runtime: &Runtime, work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let limited = async { tokio::time::timeout(PATIENCE, work).await };
    runtime.block_on(limited).unwrap_or_else(|_| Err(format!("it takes longer than {} s", PATIENCE.as_secs())))
}

/// A gRPC server and channels to it.
#[derive(Debug)]
pub struct Side {
    /// The server.
    pub server: Server,
    /// What the clients run on.
    pub runtime: Runtime,
    channels: [Channel; 2],
}

impl Side {
    /// Connects to a server with these settings.
    ///
    /// # Errors
    /// It does not answer.
    pub fn of(server: Server, settings: Settings) -> Result<Self, String> {
        let runtime = settings.runtime()?;
        let connect = |transport| within(&runtime, settings.connect(server.address(transport)));
        let channels = [connect(Transport::Tcp)?, connect(Transport::Unix)?];
        Ok(Self { server, runtime, channels })
    }

    /// A bare tonic server with clients of the same settings.
    ///
    /// # Errors
    /// It does not start.
    pub fn bare(settings: Settings) -> Result<Self, String> {
        Self::of(Server::echo(settings)?, settings)
    }

    /// The channel of a transport.
    pub fn channel(&self, transport: Transport) -> &Channel {
        match transport {
            Transport::Tcp => &self.channels[0],
            Transport::Unix => &self.channels[1],
        }
    }

    /// A round of small operations: `work` gets the moment at which to stop.
    ///
    /// # Errors
    /// Those of the work.
    pub fn small<W: Future<Output = Result<f64, String>>>(
        &self,
        time: Duration,
        work: impl FnOnce(Instant) -> W,
    ) -> Result<Sample, String> {
        measure(Unit::OpsPerSecond, &[self.server.pid()], || within(&self.runtime, work(Instant::now() + time)))
    }

    /// A round that moves some MiB.
    ///
    /// # Errors
    /// Those of the work.
    pub fn large(&self, work: impl Future<Output = Result<f64, String>>) -> Result<Sample, String> {
        measure(Unit::GibPerSecond, &[self.server.pid()], || within(&self.runtime, work))
    }
}

/// mmapd with a file of 16 MiB in memory, mapped through the stub and through the client library.
#[derive(Debug)]
pub struct Ours {
    /// The server and the stubs' channels.
    pub side: Side,
    /// The file as the stubs know it.
    pub file: Mapped,
    mappings: [Arc<Mapping>; 2],
}

impl Ours {
    /// Starts a server over a store in memory, at this level of durability.
    ///
    /// # Errors
    /// It does not start, or does not do what it should.
    pub fn start(durability: &str) -> Result<Self, String> {
        let args = ["--mount", "/=memory:", "--memory", MEMORY, "--durability", durability];
        let side = Side::of(Server::mmapd(&args, &[])?, Settings::TUNED)?;
        let file = within(&side.runtime, load::map(side.channel(Transport::Tcp), "/hot", FILE))?;
        let map = |transport| within(&side.runtime, map(side.server.address(transport), "/hot", FILE)).map(Arc::new);
        let mappings = [map(Transport::Tcp)?, map(Transport::Unix)?];
        Ok(Self { side, file, mappings })
    }

    /// Another file, of `length` bytes, through the client library.
    ///
    /// # Errors
    /// It cannot be mapped.
    pub fn map(&self, transport: Transport, path: &str, length: u64) -> Result<Mapping, String> {
        within(&self.side.runtime, map(self.side.server.address(transport), path, length))
    }

    /// The file through the client library.
    pub fn mapping(&self, transport: Transport) -> &Arc<Mapping> {
        match transport {
            Transport::Tcp => &self.mappings[0],
            Transport::Unix => &self.mappings[1],
        }
    }
}

async fn map(address: &str, path: &str, length: u64) -> Result<Mapping, String> {
    let said = |error: mmap_client::Error| error.to_string();
    let client = Client::connect(address).await.map_err(said)?;
    let process = client.process(1);
    process.map(path).length(length).prot(Prot::READ_WRITE).shared().await.map_err(said)
}
