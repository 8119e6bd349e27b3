//! [`Guard`]: what is promised of every call, whatever its handler does.
//!
//! - Every answer carries `mmap-node`: as an initial header, and with an error, which has no body, among the
//!   trailers.
//! - The caller's deadline ends the handler's work, and the answer says ETIMEDOUT.
//! - A message that the transport cannot read, or finds too large, is the caller's mistake: EINVAL.
//! - A handler's panic ends that call alone; its text goes to the log.
//! - Of the contract's own methods at most a bounded number run, in all and of one connection; more wait a
//!   bounded time. A request whose message does not arrive gives its place back. Health and reflection are
//!   not counted, so that a busy server still answers whether it is well. Nor is a call that is answered at once:
//!   it never runs beside another.

use std::future::pending;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use mmap_core::error::{Errno, Error};
use mmap_proto::names::{ERROR_DOMAIN, NODE};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until, timeout_at};
use tonic::{Code, Status};

use super::call::Call;
use crate::connection::Peer;
use crate::traces::{failed, succeeded};
use crate::wire::WireBody;

/// The longest wait for a place among the calls that run; as long as a store may take to fail.
pub(crate) const ADMISSION_TIME: Duration = Duration::from_secs(30);
/// The longest wait for a request's message: the largest one, 4 MiB, at 70 KiB/s.
const RECEIVE_TIME: Duration = Duration::from_secs(60);

/// What stands around the calls. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Guard(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// The headers of an answer that is none of a handler behind tonic.
    headers: HeaderMap,
    node: HeaderValue,
    calls: Arc<Semaphore>,
    calls_max: usize,
    max_message: u64,
}

impl Guard {
    /// A guard that lets at most `calls` calls run, of all connections together, each with at most `max_message`
    /// bytes of data in a message.
    pub(crate) fn new(node: HeaderValue, calls: usize, max_message: u64) -> Self {
        let grpc = (CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        let headers = [grpc, (HeaderName::from_static(NODE), node.clone())].into_iter().collect();
        Self(Arc::new(Shared { headers, node, calls: Arc::new(Semaphore::new(calls)), calls_max: calls, max_message }))
    }

    /// The largest data of a message, in bytes.
    pub(crate) fn max_message(&self) -> u64 {
        self.0.max_message
    }

    /// How many calls have a place.
    pub(crate) fn running_calls(&self) -> u64 {
        self.0.calls_max.saturating_sub(self.0.calls.available_permits()) as u64
    }

    /// The serving node's name.
    pub(crate) fn node(&self) -> &HeaderValue {
        &self.0.node
    }

    /// An answer past tonic.
    pub(crate) fn answer(&self, body: WireBody) -> Response<WireBody> {
        let mut response = Response::new(body);
        *response.headers_mut() = self.0.headers.clone();
        response
    }

    /// The answer of a call that failed.
    pub(crate) fn refuse(&self, status: Status) -> Response<WireBody> {
        self.named(status.into_http())
    }

    /// Runs the handler of a call, which is of a connection's `peer`, with all that is promised of it.
    pub(crate) async fn run(
        &self,
        peer: Option<&Peer>,
        call: &Call,
        handler: impl Future<Output = Result<Response<WireBody>, Status>>,
    ) -> Response<WireBody> {
        let _places = match is_counted(call.method()) {
            true => match self.0.admit(peer, call).await {
                Ok(places) => Some(places),
                Err(error) => {
                    let status = call.fail(&error);
                    failed(call.span(), &status);
                    return self.refuse(status);
                }
            },
            false => {
                call.set_received();
                None
            }
        };
        self.run_admitted(call, handler).await
    }

    /// As [`Guard::run`], for a call that needs no place: what it waits for is on its way.
    pub(crate) async fn run_admitted(
        &self,
        call: &Call,
        handler: impl Future<Output = Result<Response<WireBody>, Status>>,
    ) -> Response<WireBody> {
        match self.0.run(call, handler).await {
            Ok(response) => {
                // A handler behind tonic tells its failure so.
                let status = match call.span().is_disabled() {
                    true => None,
                    false => Status::from_header_map(response.headers()),
                };
                match status.filter(|status| status.code() != Code::Ok) {
                    Some(status) => failed(call.span(), &status),
                    None => succeeded(call.span()),
                }
                self.named(response)
            }
            Err(status) => {
                failed(call.span(), &status);
                self.refuse(status)
            }
        }
    }

    fn named(&self, mut response: Response<WireBody>) -> Response<WireBody> {
        response.headers_mut().insert(NODE, self.0.node.clone());
        response
    }
}

impl Shared {
    async fn run(
        &self,
        call: &Call,
        handler: impl Future<Output = Result<Response<WireBody>, Status>>,
    ) -> Result<Response<WireBody>, Status> {
        let late = Instant::now() + RECEIVE_TIME;
        // The handler's state is dropped with its panic, and what it shares with others is the core's, whose
        // locks are not poisoned and whose invariants hold between statements.
        let mut handler = pin!(AssertUnwindSafe(handler).catch_unwind());
        loop {
            let receive_by = (!call.is_received()).then_some(late);
            let next = [call.deadline(), receive_by].into_iter().flatten().min();
            tokio::select! {
                biased;
                answered = &mut handler => {
                    return match answered {
                        Ok(Ok(response)) if call.is_received() => Ok(response),
                        Ok(Ok(response)) => self.without_message(response, call),
                        Ok(Err(status)) => Err(status),
                        Err(panic) => Err(call.fail_by_fault(panic_text(panic.as_ref()))),
                    };
                }
                () = wait_until(next) => {}
            }
            if call.deadline().is_some_and(|deadline| deadline <= Instant::now()) {
                return Err(call.fail(&Call::timed_out()));
            }
            if !call.is_received() {
                return Err(call.fail(&message_overdue()));
            }
        }
    }

    /// The answer to a request whose message never reached its handler: the transport made it, and says with a
    /// code of its own that the message is at fault.
    fn without_message(&self, response: Response<WireBody>, call: &Call) -> Result<Response<WireBody>, Status> {
        let status = Status::from_header_map(response.headers());
        let made = status.as_ref().map(|status| (status.code(), status.message()));
        let error = match made {
            Some((Code::OutOfRange | Code::ResourceExhausted, what)) => {
                let (max, what) = (self.max_message, what.trim_start_matches("Error, "));
                Error::invalid(
                    "message",
                    format!("the message is too large ({what}): send at most {max} bytes of data"),
                )
                .with("max", max)
            }
            Some((Code::Internal | Code::Unknown, what)) => {
                Error::invalid("message", format!("the message cannot be read: {what}"))
            }
            _ => return Ok(response),
        };
        Err(call.fail(&error))
    }

    /// A place for the call among its connection's and among all.
    async fn admit(
        &self,
        peer: Option<&Peer>,
        call: &Call,
    ) -> Result<(Option<OwnedSemaphorePermit>, OwnedSemaphorePermit), Error> {
        let latest = Instant::now() + ADMISSION_TIME;
        let until = call.deadline().map_or(latest, |deadline| deadline.min(latest));
        let places = async {
            let own = match peer {
                // The semaphores are never closed, so an error cannot come; without a place nothing is lost.
                Some(peer) => peer.calls.clone().acquire_owned().await.ok(),
                None => None,
            };
            (own, self.calls.clone().acquire_owned().await)
        };
        match timeout_at(until, places).await {
            Ok((own, Ok(shared))) => Ok((own, shared)),
            Ok((_, Err(_))) => Err(Error::new(Errno::Fault, "the semaphore of the running calls was closed")),
            Err(_) if until < latest => Err(Call::timed_out()),
            Err(_) => Err(self.overloaded()),
        }
    }

    fn overloaded(&self) -> Error {
        let (limit, waited) = (self.calls_max, ADMISSION_TIME.as_secs());
        let sentence = format!(
            "the server runs as many calls as it may ({limit}) and none ended within {waited} s: try again later"
        );
        Error::new(Errno::NoMem, sentence)
            .with("limit", "max-calls")
            .with("max", limit)
            .retry_after(Duration::from_secs(1))
    }
}

/// Runs `work`, which ends at once.
///
/// # Errors
/// The text of its panic, which is a fault of its call alone.
pub(crate) fn catch<R>(work: impl FnOnce() -> R) -> Result<R, String> {
    // As in `Shared::run`: what it leaves behind is fit for others.
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| panic_text(panic.as_ref()).to_owned())
}

/// Whether a call takes a place: the contract's methods do.
pub(crate) fn is_counted(path: &str) -> bool {
    path.strip_prefix('/').and_then(|path| path.strip_prefix(ERROR_DOMAIN)).is_some_and(|rest| rest.starts_with('.'))
}

fn message_overdue() -> Error {
    let seconds = RECEIVE_TIME.as_secs();
    Error::new(
        Errno::TimedOut,
        format!("the request's message did not arrive whole within {seconds} s; nothing was done"),
    )
    .with("seconds", seconds)
}

async fn wait_until(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => pending().await,
    }
}

/// What a panic said, for the log.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("a panic without text")
}

#[cfg(test)]
mod tests {
    use tonic_types::StatusExt as _;

    use super::super::call::Origin;
    use super::*;

    type Answered = Result<Response<WireBody>, Status>;

    fn call(path: &str, timeout: Option<&str>) -> Call {
        let timeout =
            timeout.map(|text| (HeaderName::from_static("grpc-timeout"), HeaderValue::try_from(text).unwrap()));
        Call::begin(path, &timeout.into_iter().collect(), Origin::unknown(), tracing::Span::none()).unwrap()
    }

    async fn answer<F>(guard: &Guard, call: Call, handler: fn(Call) -> F) -> Response<WireBody>
    where
        F: Future<Output = Answered>,
    {
        let response = guard.run(None, &call, handler(call.clone())).await;
        assert_eq!(response.headers()[NODE], "n1", "every answer carries the node's name");
        response
    }

    fn reason(response: &Response<WireBody>) -> (Code, String) {
        let status = Status::from_header_map(response.headers()).unwrap();
        (status.code(), status.get_error_details().error_info().unwrap().reason.clone())
    }

    fn guard(calls: usize) -> Guard {
        Guard::new(HeaderValue::from_static("n1"), calls, 4096)
    }

    async fn fine(_: Call) -> Answered {
        Ok(Response::new(WireBody::default()))
    }

    async fn stuck(call: Call) -> Answered {
        call.set_received();
        pending().await
    }

    const READ: &str = "/mmap.v1.MmapService/MmapRead";

    #[tokio::test]
    async fn an_answer_passes_with_the_nodes_name_added() {
        let response = answer(&guard(1), call(READ, None), fine).await;
        assert!(Status::from_header_map(response.headers()).is_none());
    }

    #[tokio::test]
    async fn a_panic_becomes_a_fault_without_its_text() {
        let response = answer(&guard(1), call(READ, None), |_| async { panic!("a secret") }).await;
        assert_eq!(reason(&response), (Code::Internal, "EFAULT".to_owned()));
        let status = Status::from_header_map(response.headers()).unwrap();
        assert!(!format!("{status:?}").contains("secret"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_ends_the_call_a_little_early_with_its_reason() {
        let start = Instant::now();
        let response = answer(&guard(1), call(READ, Some("1S")), stuck).await;
        assert_eq!(reason(&response), (Code::DeadlineExceeded, "ETIMEDOUT".to_owned()));
        assert!((970..=985).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_waits_for_a_place_fails_by_its_deadline_or_when_none_comes_free() {
        let guard = guard(1);
        let busy = tokio::spawn({
            let guard = guard.clone();
            async move { answer(&guard, call(READ, None), stuck).await }
        });
        tokio::task::yield_now().await;
        let late = answer(&guard, call(READ, Some("100m")), fine).await;
        assert_eq!(reason(&late), (Code::DeadlineExceeded, "ETIMEDOUT".to_owned()));
        let full = answer(&guard, call(READ, None), fine).await;
        assert_eq!(reason(&full), (Code::ResourceExhausted, "ENOMEM".to_owned()));
        let health = answer(&guard, call("/grpc.health.v1.Health/Check", None), fine).await;
        assert!(Status::from_header_map(health.headers()).is_none(), "health needs no place");
        busy.abort();
        tokio::task::yield_now().await;
        let free = answer(&guard, call(READ, None), fine).await;
        assert!(Status::from_header_map(free.headers()).is_none(), "a dropped call gives its place back");
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_never_arrives_gives_its_place_back() {
        let start = Instant::now();
        let response = answer(&guard(1), call(READ, None), |_| pending()).await;
        assert_eq!(reason(&response), (Code::DeadlineExceeded, "ETIMEDOUT".to_owned()));
        assert_eq!(start.elapsed().as_secs(), RECEIVE_TIME.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_arrived_leaves_the_handler_its_time() {
        let slow = |call: Call| async move {
            call.set_received();
            tokio::time::sleep(RECEIVE_TIME * 10).await;
            Ok(Response::new(WireBody::default()))
        };
        let response = answer(&guard(1), call(READ, None), slow).await;
        assert!(Status::from_header_map(response.headers()).is_none());
    }

    #[test]
    fn a_panic_of_a_call_that_is_answered_at_once_is_caught_with_its_text() {
        assert_eq!(catch(|| panic!("a secret")), Err::<(), _>("a secret".to_owned()));
        assert_eq!(catch(|| 1), Ok(1));
    }
}
