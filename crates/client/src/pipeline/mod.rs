//! A process's operations over shared streams: [`Pipeline`].
//!
//! Many tasks that each await one small operation at a time get the speed of a stream: their operations share
//! `MmapPipeline` streams, which carry the process's identity in their headers. The first is opened by the first
//! operation, and a further one, over another connection, when all places of those before are taken. A stream that
//! ends is made again by the next operation. A server without the pipeline is asked once, and then never again.
//!
//! Operations that are in flight at the same time have no order among each other; one that is begun after another's
//! answer comes after it, whichever streams they take.

mod slots;
mod stream;

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use mmap_proto::v1::{mmap_pipeline_request::Op, mmap_pipeline_response::Result as Answer};
use tokio::time::{Instant, timeout_at};
use tonic::Code;

use self::{
    slots::Outcome,
    stream::{Place, Stream},
};
use crate::{
    caller::Caller,
    error::{Error, ErrorKind, Result},
};

/// See the module.
#[derive(Debug)]
pub(crate) struct Pipeline {
    /// One a connection. A std mutex: held to look at what is there.
    streams: Box<[Mutex<Option<Arc<Stream>>>]>,
    /// The server has none.
    is_missing: AtomicBool,
    /// Whose turn it is to be waited for when all are full.
    turn: AtomicUsize,
}

impl Pipeline {
    pub(crate) fn new(connections: usize) -> Self {
        let streams = (0..connections.max(1)).map(|_| Mutex::default()).collect();
        Self { streams, is_missing: AtomicBool::new(false), turn: AtomicUsize::new(0) }
    }

    /// Does `op` once, until `due`, which is `allowed` from its beginning. `None`: the server has no pipeline, and has
    /// done nothing. `caller` is who the operation is for: always the same process.
    pub(crate) async fn run(&self, caller: &Caller, op: Op, due: Instant, allowed: Duration) -> Result<Option<Answer>> {
        if self.is_missing.load(Ordering::Relaxed) {
            return Ok(None);
        }
        for (connection, stream) in self.streams.iter().enumerate() {
            let stream = current(stream, caller, connection);
            match stream.place() {
                Place::Free(place) => return self.outcome(stream.run(place, op, due).await, allowed),
                Place::Full => {}
                Place::Gone => return Err(gone()),
            }
        }
        let connection = self.turn.fetch_add(1, Ordering::Relaxed) % self.streams.len();
        let stream = current(&self.streams[connection], caller, connection);
        match timeout_at(due, stream.wait_for_place()).await {
            Ok(Place::Free(place)) => self.outcome(stream.run(place, op, due).await, allowed),
            Ok(Place::Full | Place::Gone) => Err(gone()),
            Err(_) => Err(Error::deadline(allowed)),
        }
    }

    fn outcome(&self, outcome: Option<Outcome>, allowed: Duration) -> Result<Option<Answer>> {
        match outcome {
            Some(Outcome::Answer(answer)) => Ok(Some(answer)),
            Some(Outcome::Failed(error)) => Err(error),
            Some(Outcome::Late) => Err(Error::deadline(allowed)),
            Some(Outcome::NotSupported) => {
                self.is_missing.store(true, Ordering::Relaxed);
                Ok(None)
            }
            None => Err(gone()),
        }
    }

    /// Lets the streams go: each ends with the last operation that is on it.
    pub(crate) fn close(&self) {
        for stream in &self.streams {
            drop(stream.lock().unwrap_or_else(PoisonError::into_inner).take());
        }
    }
}

/// The stream over a connection, made if there is none that goes on.
fn current(stream: &Mutex<Option<Arc<Stream>>>, caller: &Caller, connection: usize) -> Arc<Stream> {
    let mut stream = stream.lock().unwrap_or_else(PoisonError::into_inner);
    match &*stream {
        Some(stream) if !stream.has_ended() => Arc::clone(stream),
        _ => Arc::clone(stream.insert(Arc::new(Stream::open(caller.untraced().over(connection))))),
    }
}

/// The stream ended at the moment that it was wanted.
fn gone() -> Error {
    Error::new(ErrorKind::Connect, Code::Unavailable, "the stream of operations ended before this one was sent")
}
