//! [`Entry`]: where a request comes in, and which way it takes: the data calls and the methods with a stream
//! past tonic's codec, answered at once where nothing is to be waited for; everything else through tonic's routes. The guard stands around both.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::request::Parts;
use http::{Request, Response};
use http_body::Body as HttpBody;
use http_body_util::{BodyExt as _, Limited};
use mmap_core::error::Error;
use tokio::time::timeout;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::{Code, Status};
use tower::ServiceExt as _;
use tracing::{Instrument as _, Span};

use crate::auth::{Door, Identity};
use crate::connection::Peer;
use crate::layers::{Call, Guard, Origin, catch, is_counted};
use crate::metrics::Rpc;
use crate::service::{Data, Front, Method, Progress, Streaming};
use crate::status::to_status;
use crate::traces::{Traces, failed, succeeded};
use crate::wire::{Incoming, PREFIX_LENGTH, WireBody};

/// Bytes of a refused request's message that are read and thrown away.
const UNREAD_MAX: usize = 64 << 10;
/// And the time for that.
const UNREAD_TIME: Duration = Duration::from_secs(5);

/// Where the requests of all connections come in. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Entry(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    guard: Guard,
    door: Door,
    front: Front,
    routes: Routes,
    traces: Traces,
    /// Bytes of the largest message, encoded.
    encoded_max: usize,
}

impl Entry {
    /// An entry through `door` to `routes` and, for the data calls, to `front`; messages have at most `encoded_max` bytes.
    pub(crate) fn new(
        guard: Guard,
        door: Door,
        front: Front,
        routes: Routes,
        traces: Traces,
        encoded_max: usize,
    ) -> Self {
        Self(Arc::new(Shared { guard, door, front, routes: routes.prepare(), traces, encoded_max }))
    }

    /// How many calls run that need a place.
    pub(crate) fn running_calls(&self) -> u64 {
        self.0.guard.running_calls()
    }

    /// The entry for one connection's requests.
    pub(crate) fn of(&self, peer: Peer) -> PeerEntry {
        PeerEntry { shared: self.0.clone(), peer }
    }
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Where the requests of one connection come in, whatever their bodies come from.
#[derive(Clone, Debug)]
pub(crate) struct PeerEntry {
    shared: Arc<Shared>,
    peer: Peer,
}

impl<B> hyper::service::Service<Request<B>> for PeerEntry
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::fmt::Display + Into<BoxError>,
{
    type Response = Response<WireBody>;
    type Error = Infallible;
    type Future = Answer;

    fn call(&self, request: Request<B>) -> Answer {
        let since = Instant::now();
        let (mut head, body) = request.into_parts();
        let origin = match self.origin(&mut head) {
            Ok(origin) => origin,
            Err(error) => return self.turn_away(&head, body, &error, since),
        };
        let path = head.uri.path();
        match (Method::of(path), Streaming::of(path)) {
            (Some(method), _) => self.data(method, (head, body), origin, since),
            (None, Some(method)) => self.stream(method, (&head, body), origin, since),
            (None, None) => {
                let Self { shared, peer } = self.clone();
                let running = shared.front.calls.running(Rpc::of(path), since);
                let request = Request::from_parts(head, body);
                let later = async move {
                    let response = shared.route(&peer, request, origin).await;
                    running.answered(response.headers());
                    response
                };
                Answer::Later(later.boxed())
            }
        }
    }
}

impl PeerEntry {
    /// Who makes the request. The contract's methods are for those who are let in; health and reflection for all.
    fn origin(&self, head: &mut Parts) -> Result<Origin, Error> {
        let (path, peer) = (head.uri.path(), self.peer.name.clone());
        let identity = match is_counted(path) {
            true => self.shared.door.identify(&mut head.headers, path, &peer)?,
            false => Identity::Nobody,
        };
        Ok(Origin { identity, peer })
    }

    /// The answer to who is not let in.
    fn turn_away<B>(&self, head: &Parts, body: B, error: &Error, since: Instant) -> Answer
    where
        B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    {
        let (shared, path) = (&self.shared, head.uri.path());
        let span = shared.traces.call(path, &head.headers, true);
        let refused = shared.refused((Rpc::of(path), since), &span, to_status(error));
        match (Streaming::of(path), refused) {
            (None, Answer::Now(Some(response))) => Answer::Later(after_message(body, response).boxed()),
            (_, refused) => refused,
        }
    }

    fn data<B>(&self, method: Method, (head, body): (Parts, B), origin: Origin, since: Instant) -> Answer
    where
        B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
        B::Error: std::fmt::Display,
    {
        let Self { shared, peer } = self;
        let incoming = Incoming::new(body, shared.encoded_max);
        let mut data = Data::new(method, head.headers, origin.identity.clone(), incoming, peer.account.clone());
        let (path, calls, rpc) = (head.uri.path(), &shared.front.calls, method.rpc());
        let span = shared.traces.call(path, data.headers(), true);
        let tried = span.in_scope(|| catch(|| shared.front.data_now(&mut data)));
        data.about().tell(&span);
        let written = match tried {
            Ok(Progress::Answered(body)) => {
                calls.ended(rpc, Code::Ok, since);
                succeeded(&span);
                return Answer::Now(Some(shared.guard.answer(body)));
            }
            Ok(Progress::Malformed(malformed)) => {
                let call = Call::failed(path, data.headers(), origin, span);
                let status = malformed.into_status(shared.guard.max_message(), |error| call.fail(error));
                return shared.refused((rpc, since), call.span(), status);
            }
            Err(panic) => {
                let call = Call::failed(path, data.headers(), origin, span);
                return shared.refused((rpc, since), call.span(), call.fail_by_fault(&panic));
            }
            Ok(Progress::Written(written)) => Some(written),
            Ok(Progress::Waits) => None,
        };
        let call = match Call::begin(path, data.headers(), origin, span.clone()) {
            Ok(call) => call,
            Err(error) => return shared.refused((rpc, since), &span, to_status(&error)),
        };
        let running = calls.running(rpc, since);
        let Self { shared, peer } = self.clone();
        let later = async move {
            let Shared { guard, front, .. } = &*shared;
            let response = match written {
                Some(written) => {
                    let answered = async { front.written(written, &call).await.map(|body| guard.answer(body)) };
                    guard.run_admitted(&call, answered).await
                }
                None => {
                    let answered = async { front.data(data, &call).await.map(|body| guard.answer(body)) };
                    guard.run(Some(&peer), &call, answered).await
                }
            };
            running.answered(response.headers());
            response
        };
        Answer::Later(later.instrument(span).boxed())
    }
}

impl PeerEntry {
    fn stream<B>(&self, method: Streaming, (head, body): (&Parts, B), origin: Origin, since: Instant) -> Answer
    where
        B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
        B::Error: std::fmt::Display,
    {
        let Self { shared, peer } = self;
        let requests = Incoming::new(body, shared.encoded_max);
        let (account, node) = (peer.account.clone(), shared.guard.node().clone());
        let span = shared.traces.call(head.uri.path(), &head.headers, true);
        let opened = Call::begin(head.uri.path(), &head.headers, origin, span.clone())
            .and_then(|call| shared.front.stream(method, (&call, since), (&head.headers, requests), account, node));
        match opened {
            Ok(body) => Answer::Now(Some(shared.guard.answer(body))),
            Err(error) => shared.refused((method.rpc(), since), &span, to_status(&error)),
        }
    }
}

impl Shared {
    /// The answer of a call that failed at once.
    fn refused(&self, (rpc, since): (Rpc, Instant), span: &Span, status: Status) -> Answer {
        self.front.calls.ended(rpc, status.code(), since);
        failed(span, &status);
        Answer::Now(Some(self.guard.refuse(status)))
    }

    /// Answers through tonic.
    async fn route<B>(&self, peer: &Peer, mut request: Request<B>, origin: Origin) -> Response<WireBody>
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let path = request.uri().path();
        // Messages without end where one is asked for would be read for as long as they come.
        let is_limited = is_counted(path);
        let span = self.traces.call(path, request.headers(), is_limited);
        let call = match Call::begin(path, request.headers(), origin, span.clone()) {
            Ok(call) => call,
            Err(error) => {
                let status = to_status(&error);
                failed(&span, &status);
                return self.guard.refuse(status);
            }
        };
        request.extensions_mut().insert(call.clone());
        let request = request.map(|body| match is_limited {
            true => Body::new(Limited::new(body, self.encoded_max.saturating_add(PREFIX_LENGTH))),
            false => Body::new(body),
        });
        let routes = self.routes.clone();
        let handler = async {
            match routes.oneshot(request).await {
                Ok(response) => Ok(response.map(WireBody::from)),
                Err(never) => match never {},
            }
        };
        self.guard.run(Some(peer), &call, handler).instrument(span).await
    }
}

/// Answers a request that is refused unread once its message is there, if that is small and comes soon. A message that
/// comes after the answer counts as the server's own breaking of a stream, and of these a connection, which callers may
/// share, has a bounded number in its life.
async fn after_message<B>(mut body: B, response: Response<WireBody>) -> Response<WireBody>
where
    B: HttpBody<Data = Bytes> + Unpin,
{
    let message = async {
        let mut left = UNREAD_MAX;
        while let Some(Ok(frame)) = body.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(1, |data| data.len().max(1)));
            if left == 0 {
                break;
            }
        }
    };
    // Whether it came or not, the answer is the same.
    let _in_time = timeout(UNREAD_TIME, message).await;
    response
}

/// An answer, there or on its way.
#[expect(clippy::large_enum_variant, reason = "the large one is the hot one: a box for it would cost each such call")]
pub(crate) enum Answer {
    Now(Option<Response<WireBody>>),
    Later(BoxFuture<'static, Response<WireBody>>),
}

impl Future for Answer {
    type Output = Result<Response<WireBody>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            // A future that has answered is not asked again; one that is asked has no second answer.
            Self::Now(response) => response.take().map_or(Poll::Pending, |response| Poll::Ready(Ok(response))),
            Self::Later(later) => later.poll_unpin(cx).map(Ok),
        }
    }
}
