//! [`Harness`]: the server behind its connections, for tests that speak no HTTP/2: a request's frames go in, the
//! answer's bytes come out. What a connection does (framing, flow control, limits of streams) is not in it, and callers
//! are taken at their word.

use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use http::{HeaderMap, Request};
use http_body::Body as _;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::service::Service as _;
use mmap_core::manager::MmapManager;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::auth::Door;
use crate::config::Config;
use crate::connection::Peer;
use crate::entry::PeerEntry;
use crate::health::Health;
use crate::metrics::Calls;
use crate::opening::ServerError;
use crate::server::entry;
use crate::wire::{Account, Budget};

/// A server without connections.
#[derive(Debug)]
pub struct Harness {
    entry: PeerEntry,
    stopping: CancellationToken,
}

/// What a request came to.
#[derive(Clone, Debug)]
pub struct Answered {
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub data: Vec<u8>,
    /// Its trailers, if it had a body.
    pub trailers: Option<HeaderMap>,
}

impl Harness {
    /// Serves from `manager` as `config` says.
    ///
    /// # Errors
    /// What kept it from being put together.
    pub async fn new(config: &Config, manager: Arc<MmapManager>) -> Result<Self, ServerError> {
        let stopping = CancellationToken::new();
        let health = Health::new(Vec::new(), Arc::clone(&manager)).await;
        let entry = entry(config, (&manager, &Calls::new()), &Door::Open, &health, &stopping)?;
        let account = Account::new(Budget::new(config.limits.memory));
        let peer = Peer {
            calls: Arc::new(Semaphore::new(config.bounds.calls_per_connection)),
            account,
            name: "nobody".into(),
        };
        Ok(Self { entry: entry.of(peer), stopping })
    }

    /// Answers the request that has this head, and whose body comes in these frames.
    pub async fn call(&self, head: Request<()>, frames: Vec<Bytes>) -> Answered {
        let frames = frames.into_iter().map(|data| Ok::<_, std::convert::Infallible>(http_body::Frame::data(data)));
        let body = StreamBody::new(futures::stream::iter(frames));
        let answered = match self.entry.call(head.map(|()| body)).await {
            Ok(answered) => answered,
            Err(never) => match never {},
        };
        let (head, mut body) = answered.into_parts();
        let (mut data, mut trailers) = (Vec::new(), None);
        // A body that fails ends there, as it does on a connection: without trailers.
        while !body.is_end_stream()
            && let Some(Ok(frame)) = body.frame().await
        {
            match frame.into_data() {
                Ok(mut part) => data.extend_from_slice(&part.copy_to_bytes(part.remaining())),
                Err(frame) => trailers = frame.into_trailers().ok(),
            }
        }
        Answered { headers: head.headers, data, trailers }
    }
}

impl Drop for Harness {
    fn drop(&mut self) {
        self.stopping.cancel();
    }
}
