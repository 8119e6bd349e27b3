//! [`Transport`]: accepted connections, served over HTTP/2 until the server stops and they have ended.
//!
//! It is a loop of our own around hyper, and not tonic's, because tonic's answers have to be bytes in one buffer.
//!
//! A call is polled at once, on its connection's task: one that is hot is answered without a task of its own. What
//! waits then becomes a task. What a turn of the connection brought forth is sent when the turn is over, by one
//! system call where it is small.
//!
//! Invariants: every task is the tracker's, and ends when the connections are told to close; a connection whose
//! client leaves an answer where it is for too long is closed.

use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use hyper::server::conn::http2::Builder;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Semaphore;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Bounds;
use crate::connection::{Accepted, Ends, Peer};
use crate::entry::Entry;
use crate::wire::{Account, Budget, Corked, PERIOD, STALL_TIME};

/// Bytes of a request's headers: hyper's default, and far more than the contract's headers take.
const HEADER_LIST_MAX: u32 = 16 * 1024;
/// The largest frame that a client may send: a write of 1 MiB in frames of this size is 1.5 to 2.5 times as fast as
/// in frames of 16 KiB.
const FRAME_MAX: u32 = 1 << 20;
/// Bytes that a peer may send ahead on a stream. 2 MiB a round trip of 10 ms are 200 MiB/s; more made no difference
/// on a machine of its own.
const STREAM_WINDOW: u32 = 2 << 20;
/// And on a connection: several streams that are not read for a while must not hold up the others.
const CONNECTION_WINDOW: u32 = 4 * STREAM_WINDOW;
/// Bytes of a stream's answers that the transport takes before they can be sent. What bounds them in all is the budget.
const SEND_BUFFER_MAX: usize = 1 << 20;
/// Streams that a client may break before the server has looked at them. A client with a thousand calls under way
/// may well give them all up at once; beyond that the connection is closed, against those who do it for harm.
const PENDING_RESETS_MAX: usize = 1024;
/// How often a silent connection is asked for a sign of life, and how long the sign may take. A client whose
/// machine vanished is noticed within their sum, and its processes' grace begins.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// What serves connections. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Transport {
    entry: Entry,
    budget: Arc<Budget>,
    streams: u32,
    calls_per_connection: usize,
    ends: Ends,
    tasks: TaskTracker,
}

impl Transport {
    /// A transport to `entry` within `bounds`; all answers that are not sent have at most `unsent_max` bytes.
    pub(crate) fn new(entry: Entry, bounds: &Bounds, unsent_max: u64, ends: &Ends) -> Self {
        Self {
            entry,
            budget: Budget::new(unsent_max),
            streams: bounds.streams,
            calls_per_connection: bounds.calls_per_connection,
            ends: ends.clone(),
            tasks: TaskTracker::new(),
        }
    }

    /// The bytes of all unsent answers.
    pub(crate) fn unsent(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// Serves `connections` until the server stops or there are no more, and then until all have ended.
    pub(crate) async fn serve(self, connections: impl Stream<Item = Accepted>) {
        {
            // Dropped before the drain: a port that nobody accepts on must not look open.
            let mut connections = pin!(connections.take_until(self.ends.stopping.cancelled()));
            while let Some(connection) = connections.next().await {
                self.tasks.spawn(self.clone().serve_one(connection));
            }
        }
        self.tasks.close();
        self.tasks.wait().await;
    }

    async fn serve_one(self, accepted: Accepted) {
        let Some(connection) = accepted.open(&self.ends).await else { return };
        let account = Account::new(self.budget.clone());
        let calls = Arc::new(Semaphore::new(self.calls_per_connection));
        let peer = Peer { calls, account: account.clone(), name: connection.peer_name() };
        let io = Corked::new(connection);
        let entry = self.entry.of(peer);
        let mut http = pin!(self.http2().serve_connection(TokioIo::new(io.clone()), entry));
        let mut stopping = pin!(self.ends.stopping.cancelled());
        let mut is_stopping = false;
        let mut periods = interval_at(Instant::now() + PERIOD, PERIOD);
        periods.set_missed_tick_behavior(MissedTickBehavior::Delay);
        poll_fn(|cx| {
            if !is_stopping && stopping.as_mut().poll(cx).is_ready() {
                is_stopping = true;
                http.as_mut().graceful_shutdown();
            }
            while periods.poll_tick(cx).is_ready() {
                if account.is_stalled() {
                    tracing::warn!("a client left an answer unread for {STALL_TIME:?}: its connection is closed");
                    return Poll::Ready(());
                }
            }
            match http.as_mut().poll(cx) {
                Poll::Ready(ended) => {
                    if let Err(error) = ended {
                        tracing::debug!("a connection failed: {error}");
                    }
                    Poll::Ready(())
                }
                Poll::Pending => match io.poll_uncork(cx) {
                    Poll::Ready(Err(error)) => {
                        tracing::debug!("a connection failed: {error}");
                        Poll::Ready(())
                    }
                    Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
                },
            }
        })
        .await;
    }

    fn http2(&self) -> Builder<Calls> {
        let calls = Calls { tasks: self.tasks.clone(), closing: self.ends.closing.clone() };
        let mut http2 = Builder::new(calls);
        http2
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .max_header_list_size(HEADER_LIST_MAX)
            .max_frame_size(FRAME_MAX)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER_MAX)
            .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
            .max_concurrent_streams(self.streams)
            // The contract does not have it, and a formatted date a call is not free.
            .auto_date_header(false);
        http2
    }
}

/// Runs calls: at once, and where they wait as tasks.
#[derive(Clone, Debug)]
struct Calls {
    tasks: TaskTracker,
    closing: CancellationToken,
}

impl<F> hyper::rt::Executor<F> for Calls
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, call: F) {
        let mut call = Box::pin(call);
        // The task polls it again, with a waker of its own.
        let mut cx = Context::from_waker(Waker::noop());
        // The guard catches a handler's panic; one that comes through would take the connection with it.
        let polled = std::panic::catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(&mut cx)));
        if let Ok(Poll::Pending) = polled {
            let closing = self.closing.clone();
            self.tasks.spawn(async move {
                closing.run_until_cancelled_owned(call).await;
            });
        }
    }
}
