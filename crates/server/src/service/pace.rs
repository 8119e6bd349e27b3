//! [`Pace`]: how fast a stream may go for its subject's limits. Chunks wait, where single operations are refused: a
//! stream that had to be begun anew each time would never come to its end.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use mmap_core::error::Result;
use tokio::time::{Sleep, sleep};

use crate::meter::{Meter, Running};

/// How fast a stream may go.
#[derive(Default)]
pub(super) struct Pace {
    meter: Option<Arc<Meter>>,
    /// Its place among the running calls, for a stream that counts as one.
    _running: Option<Running>,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Pace {
    /// The pace of a stream of the subject that has this meter.
    pub(super) fn new(meter: Option<Arc<Meter>>, running: Option<Running>) -> Self {
        Self { meter, _running: running, pause: None }
    }

    /// Waits until a chunk of `bytes` may go on, and counts it.
    pub(super) fn poll_spend(&mut self, cx: &mut Context<'_>, bytes: u64) -> Poll<()> {
        let Some(meter) = &self.meter else { return Poll::Ready(()) };
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            match meter.spend(bytes) {
                Ok(()) => return Poll::Ready(()),
                Err(wait) => self.pause = Some(Box::pin(sleep(wait))),
            }
        }
    }

    /// Counts an operation of `bytes`.
    ///
    /// # Errors
    /// ENOMEM over a rate.
    pub(super) fn admit(&self, bytes: u64) -> Result<()> {
        self.meter.as_ref().map_or(Ok(()), |meter| meter.admit(bytes))
    }

    /// Counts an operation that runs.
    ///
    /// # Errors
    /// ENOMEM if there are as many as may be.
    pub(super) fn begin(&self) -> Result<Option<Running>> {
        self.meter.as_ref().map(Meter::begin).transpose()
    }
}

impl fmt::Debug for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pace").field("meter", &self.meter).finish_non_exhaustive()
    }
}
