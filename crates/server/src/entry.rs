//! [`Entry`]: where a request comes in, and which way it takes: the data calls and the methods with a stream
//! past tonic's codec, answered at once where nothing is to be waited for; everything else through tonic's routes. The guard stands around both.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::{Request, Response};
use http_body::Body as HttpBody;
use http_body_util::Limited;
use tonic::body::Body;
use tonic::service::Routes;
use tower::ServiceExt as _;

use crate::connection::Peer;
use crate::layers::{Call, Guard, catch, is_counted};
use crate::service::{Data, Front, Method, Progress, Streaming};
use crate::status::to_status;
use crate::wire::{Incoming, PREFIX_LENGTH, WireBody};

/// Where the requests of all connections come in. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Entry(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    guard: Guard,
    front: Front,
    routes: Routes,
    /// Bytes of the largest message, encoded.
    encoded_max: usize,
}

impl Entry {
    /// An entry to `routes` and, for the data calls, to `front`; messages have at most `encoded_max` bytes.
    pub(crate) fn new(guard: Guard, front: Front, routes: Routes, encoded_max: usize) -> Self {
        Self(Arc::new(Shared { guard, front, routes: routes.prepare(), encoded_max }))
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
        let path = request.uri().path();
        match (Method::of(path), Streaming::of(path)) {
            (Some(method), _) => self.data(method, request),
            (None, Some(method)) => self.stream(method, request),
            (None, None) => {
                let Self { shared, peer } = self.clone();
                Answer::Later(async move { shared.route(&peer, request).await }.boxed())
            }
        }
    }
}

impl PeerEntry {
    fn data<B>(&self, method: Method, request: Request<B>) -> Answer
    where
        B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
        B::Error: std::fmt::Display,
    {
        let Self { shared, peer } = self;
        let (head, body) = request.into_parts();
        let incoming = Incoming::new(body, shared.encoded_max);
        let mut data = Data::new(method, head.headers, incoming, peer.account.clone());
        let path = head.uri.path();
        let written = match catch(|| shared.front.data_now(&mut data)) {
            Ok(Progress::Answered(body)) => return Answer::Now(Some(shared.guard.answer(body))),
            Ok(Progress::Malformed(malformed)) => {
                let call = Call::failed(path, data.headers());
                let status = malformed.into_status(shared.guard.max_message(), |error| call.fail(error));
                return Answer::Now(Some(shared.guard.refuse(status)));
            }
            Err(panic) => {
                let status = Call::failed(path, data.headers()).fail_by_fault(&panic);
                return Answer::Now(Some(shared.guard.refuse(status)));
            }
            Ok(Progress::Written(written)) => Some(written),
            Ok(Progress::Waits) => None,
        };
        let call = match Call::begin(path, data.headers()) {
            Ok(call) => call,
            Err(error) => return Answer::Now(Some(shared.guard.refuse(to_status(&error)))),
        };
        let Self { shared, peer } = self.clone();
        let later = async move {
            let Shared { guard, front, .. } = &*shared;
            match written {
                Some(written) => {
                    let answered = async { front.written(written, &call).await.map(|body| guard.answer(body)) };
                    guard.run_admitted(&call, answered).await
                }
                None => {
                    let answered = async { front.data(data, &call).await.map(|body| guard.answer(body)) };
                    guard.run(Some(&peer), &call, answered).await
                }
            }
        };
        Answer::Later(later.boxed())
    }
}

impl PeerEntry {
    fn stream<B>(&self, method: Streaming, request: Request<B>) -> Answer
    where
        B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
        B::Error: std::fmt::Display,
    {
        let Self { shared, peer } = self;
        let (head, body) = request.into_parts();
        let requests = Incoming::new(body, shared.encoded_max);
        let (account, node) = (peer.account.clone(), shared.guard.node().clone());
        let opened = Call::begin(head.uri.path(), &head.headers)
            .and_then(|call| shared.front.stream(method, &call, (&head.headers, requests), account, node));
        Answer::Now(Some(match opened {
            Ok(body) => shared.guard.answer(body),
            Err(error) => shared.guard.refuse(to_status(&error)),
        }))
    }
}

impl Shared {
    /// Answers through tonic.
    async fn route<B>(&self, peer: &Peer, mut request: Request<B>) -> Response<WireBody>
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let path = request.uri().path();
        let call = match Call::begin(path, request.headers()) {
            Ok(call) => call,
            Err(error) => return self.guard.refuse(to_status(&error)),
        };
        // Messages without end where one is asked for would be read for as long as they come.
        let is_limited = is_counted(path);
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
        self.guard.run(Some(peer), &call, handler).await
    }
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
