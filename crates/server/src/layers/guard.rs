//! [`GuardLayer`]: what is promised of every call, whatever its handler does.
//!
//! - Every answer carries `mmap-node`: as an initial header, and with an error, which has no body, among the
//!   trailers.
//! - The caller's deadline ends the handler's work, and the answer says ETIMEDOUT.
//! - A message that the transport cannot read, or finds too large, is the caller's mistake: EINVAL. So are
//!   messages without end where one is asked for, which the transport would read for as long as they come.
//! - A handler's panic ends that call alone; its text goes to the log.
//! - Of the contract's own methods at most a bounded number run, in all and of one connection; more wait a
//!   bounded time. A request whose message does not arrive gives its place back. Health and reflection are
//!   not counted, so that a busy server still answers whether it is well.

use std::convert::Infallible;
use std::future::pending;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::{HeaderValue, Request, Response};
use http_body_util::Limited;
use mmap_core::error::{Errno, Error};
use mmap_proto::names::{ERROR_DOMAIN, NODE};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until, timeout_at};
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service, ServiceExt as _};

use super::call::Call;
use crate::connection::Peer;
use crate::status::to_status;

/// The longest wait for a place among the calls that run; as long as a store may take to fail.
const ADMISSION_TIME: Duration = Duration::from_secs(30);
/// The longest wait for a request's message: the largest one, 4 MiB, at 70 KiB/s.
const RECEIVE_TIME: Duration = Duration::from_secs(60);

/// Bytes before each message of a stream: whether it is compressed, and its length.
const PREFIX_LENGTH: usize = 5;

/// Puts the guard around a service.
#[derive(Clone, Debug)]
pub(crate) struct GuardLayer(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    node: HeaderValue,
    calls: Arc<Semaphore>,
    calls_max: usize,
    max_message: u64,
    /// Bytes of a request with one message, its five bytes of prefix included.
    request_max: usize,
}

impl GuardLayer {
    /// A guard that lets at most `calls` calls run, of all connections together, each with at most `max_message`
    /// bytes of data in a message of at most `encoded_max` bytes.
    pub(crate) fn new(node: HeaderValue, calls: usize, max_message: u64, encoded_max: usize) -> Self {
        let request_max = encoded_max.saturating_add(PREFIX_LENGTH);
        Self(Arc::new(Shared {
            node,
            calls: Arc::new(Semaphore::new(calls)),
            calls_max: calls,
            max_message,
            request_max,
        }))
    }
}

impl<S> Layer<S> for GuardLayer {
    type Service = Guard<S>;

    fn layer(&self, inner: S) -> Guard<S> {
        Guard { shared: self.0.clone(), inner }
    }
}

/// A service with the guard around it.
#[derive(Clone, Debug)]
pub(crate) struct Guard<S> {
    shared: Arc<Shared>,
    inner: S,
}

impl<S> Service<Request<Body>> for Guard<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // The inner service is waited for inside the call, under its deadline.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (shared, inner) = (self.shared.clone(), self.inner.clone());
        Box::pin(async move {
            let answered = match Call::begin(request.uri().path(), request.headers()) {
                Ok(call) => shared.run(inner, request, &call).await,
                Err(error) => Err(to_status(&error)),
            };
            let mut response = answered.unwrap_or_else(Status::into_http);
            response.headers_mut().insert(NODE, shared.node.clone());
            Ok(response)
        })
    }
}

impl Shared {
    async fn run<S>(&self, inner: S, mut request: Request<Body>, call: &Call) -> Result<Response<Body>, Status>
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    {
        let counted = is_counted(request.uri().path());
        let peer = request.extensions().get::<Peer>().cloned();
        let _places =
            if counted { Some(self.admit(peer, call).await.map_err(|error| call.fail(&error))?) } else { None };
        if !counted {
            call.set_received();
        }
        if counted && !is_client_streaming(request.uri().path()) {
            request = request.map(|body| Body::new(Limited::new(body, self.request_max)));
        }
        request.extensions_mut().insert(call.clone());
        let late = Instant::now() + RECEIVE_TIME;
        // The handler's state is dropped with its panic, and what it shares with others is the core's, whose
        // locks are not poisoned and whose invariants hold between statements.
        let mut handler = pin!(AssertUnwindSafe(inner.oneshot(request)).catch_unwind());
        loop {
            let receive_by = (!call.is_received()).then_some(late);
            let next = [call.deadline(), receive_by].into_iter().flatten().min();
            tokio::select! {
                biased;
                answered = &mut handler => {
                    return match answered {
                        Ok(Ok(response)) if call.is_received() => Ok(response),
                        Ok(Ok(response)) => self.without_message(response, call),
                        Ok(Err(never)) => match never {},
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
    fn without_message(&self, response: Response<Body>, call: &Call) -> Result<Response<Body>, Status> {
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
        peer: Option<Peer>,
        call: &Call,
    ) -> Result<(Option<OwnedSemaphorePermit>, OwnedSemaphorePermit), Error> {
        let latest = Instant::now() + ADMISSION_TIME;
        let until = call.deadline().map_or(latest, |deadline| deadline.min(latest));
        let places = async {
            let own = match peer {
                // The semaphores are never closed, so an error cannot come; without a place nothing is lost.
                Some(peer) => peer.calls.acquire_owned().await.ok(),
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

/// Whether a call takes a place: the contract's methods do.
fn is_counted(path: &str) -> bool {
    path.strip_prefix('/').and_then(|path| path.strip_prefix(ERROR_DOMAIN)).is_some_and(|rest| rest.starts_with('.'))
}

/// Whether a method takes a stream of messages: then they may be many.
fn is_client_streaming(path: &str) -> bool {
    path.ends_with("/MmapWriteStream") || path.ends_with("/MmapPipeline")
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

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("a panic without text")
}

#[cfg(test)]
mod tests {
    use tonic_types::StatusExt as _;
    use tower::service_fn;

    use super::*;

    fn request(path: &str, timeout: Option<&str>) -> Request<Body> {
        let mut request = Request::builder().uri(format!("http://server{path}"));
        if let Some(timeout) = timeout {
            request = request.header("grpc-timeout", timeout);
        }
        request.body(Body::empty()).unwrap()
    }

    async fn answer<F>(layer: &GuardLayer, request: Request<Body>, handler: fn(Request<Body>) -> F) -> Response<Body>
    where
        F: Future<Output = Result<Response<Body>, Infallible>> + Send + 'static,
    {
        let response = layer.layer(service_fn(handler)).oneshot(request).await.unwrap();
        assert_eq!(response.headers()[NODE], "n1", "every answer carries the node's name");
        response
    }

    fn reason(response: &Response<Body>) -> (Code, String) {
        let status = Status::from_header_map(response.headers()).unwrap();
        (status.code(), status.get_error_details().error_info().unwrap().reason.clone())
    }

    fn layer(calls: usize) -> GuardLayer {
        GuardLayer::new(HeaderValue::from_static("n1"), calls, 4096, 8192)
    }

    async fn fine(_: Request<Body>) -> Result<Response<Body>, Infallible> {
        Ok(Response::new(Body::empty()))
    }

    async fn stuck(request: Request<Body>) -> Result<Response<Body>, Infallible> {
        if let Some(call) = request.extensions().get::<Call>() {
            call.set_received();
        }
        pending().await
    }

    const READ: &str = "/mmap.v1.MmapService/MmapRead";

    #[tokio::test]
    async fn an_answer_passes_with_the_nodes_name_added() {
        let response = answer(&layer(1), request(READ, None), fine).await;
        assert!(Status::from_header_map(response.headers()).is_none());
    }

    #[tokio::test]
    async fn a_panic_becomes_a_fault_without_its_text() {
        let response = answer(&layer(1), request(READ, None), |_| async { panic!("a secret") }).await;
        assert_eq!(reason(&response), (Code::Internal, "EFAULT".to_owned()));
        let status = Status::from_header_map(response.headers()).unwrap();
        assert!(!format!("{status:?}").contains("secret"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_ends_the_call_a_little_early_with_its_reason() {
        let start = Instant::now();
        let response = answer(&layer(1), request(READ, Some("1S")), stuck).await;
        assert_eq!(reason(&response), (Code::DeadlineExceeded, "ETIMEDOUT".to_owned()));
        assert!((970..=985).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_waits_for_a_place_fails_by_its_deadline_or_when_none_comes_free() {
        let layer = layer(1);
        let busy = tokio::spawn({
            let layer = layer.clone();
            async move { answer(&layer, request(READ, None), stuck).await }
        });
        tokio::task::yield_now().await;
        let late = answer(&layer, request(READ, Some("100m")), fine).await;
        assert_eq!(reason(&late), (Code::DeadlineExceeded, "ETIMEDOUT".to_owned()));
        let full = answer(&layer, request(READ, None), fine).await;
        assert_eq!(reason(&full), (Code::ResourceExhausted, "ENOMEM".to_owned()));
        let health = answer(&layer, request("/grpc.health.v1.Health/Check", None), fine).await;
        assert!(Status::from_header_map(health.headers()).is_none(), "health needs no place");
        busy.abort();
        tokio::task::yield_now().await;
        let free = answer(&layer, request(READ, None), fine).await;
        assert!(Status::from_header_map(free.headers()).is_none(), "a dropped call gives its place back");
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_never_arrives_gives_its_place_back() {
        let start = Instant::now();
        let response = answer(&layer(1), request(READ, None), |_| pending()).await;
        assert_eq!(reason(&response), (Code::DeadlineExceeded, "ETIMEDOUT".to_owned()));
        assert_eq!(start.elapsed().as_secs(), RECEIVE_TIME.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_arrived_leaves_the_handler_its_time() {
        let slow = |request: Request<Body>| async move {
            request.extensions().get::<Call>().expect("the guard put it there").set_received();
            tokio::time::sleep(RECEIVE_TIME * 10).await;
            Ok(Response::new(Body::empty()))
        };
        let response = answer(&layer(1), request(READ, None), slow).await;
        assert!(Status::from_header_map(response.headers()).is_none());
    }

    #[tokio::test]
    async fn a_timeout_that_cannot_be_read_is_refused() {
        let response = answer(&layer(1), request(READ, Some("soon")), fine).await;
        assert_eq!(reason(&response), (Code::InvalidArgument, "EINVAL".to_owned()));
    }
}
