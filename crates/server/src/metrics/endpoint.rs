//! [`Endpoint`]: `GET /metrics` and `GET /healthz` over HTTP/1.1, on a listener of its own.
//!
//! Apart from the service, so that a scrape needs no gRPC, no capabilities and no place among the calls, and so that
//! who may call need not be who may watch. Bounded: few connections, one request each, each with a time limit; a
//! client that sends its headers slowly is cut off. Its tasks end when [`Endpoint::serve`] is dropped.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::registry::Registry;

/// Connections at a time; more are closed at once. A Prometheus needs one.
const CONNECTIONS_MAX: usize = 32;
/// For a request's headers.
const HEADER_TIME: Duration = Duration::from_secs(5);
/// For a connection as a whole: as long as a scrape may take by most settings of Prometheus.
const CONNECTION_TIME: Duration = Duration::from_secs(30);
/// Bytes of a request's headers: hyper's least.
const HEADER_BYTES: usize = 8 << 10;
/// Rest after a failed accept, which would fail at once again.
const ACCEPT_REST: Duration = Duration::from_millis(100);
/// Version 0.0.4 of the text format.
const TEXT_FORMAT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
const PLAIN: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// A bound listener.
#[derive(Debug)]
pub(crate) struct Endpoint {
    listener: TcpListener,
    addr: SocketAddr,
}

impl Endpoint {
    /// Binds the first of `addrs` that can be bound.
    ///
    /// # Errors
    /// A sentence that says what is in the way.
    pub(crate) async fn bind(addrs: &[SocketAddr]) -> Result<Self, String> {
        let shown = addrs.first().map(ToString::to_string).unwrap_or_default();
        let failed = |error: std::io::Error| {
            format!("cannot listen on {shown} for metrics: {error}; choose another port with --metrics-listen")
        };
        let listener = TcpListener::bind(addrs).await.map_err(failed)?;
        let addr = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, addr })
    }

    /// Where it listens.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Tells what `registry` has, until it is dropped.
    pub(crate) async fn serve(self, registry: Arc<Registry>) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    // Dropped, which closes it: one of the others has hung, and will be cut off.
                    Ok(_) if connections.len() >= CONNECTIONS_MAX => {}
                    Ok((stream, _)) => {
                        connections.spawn(timeout(CONNECTION_TIME, serve_one(stream, Arc::clone(&registry))));
                    }
                    Err(error) => {
                        tracing::warn!("a connection for metrics could not be accepted: {error}");
                        sleep(ACCEPT_REST).await;
                    }
                },
                Some(_) = connections.join_next() => {}
            }
        }
    }
}

async fn serve_one(stream: TcpStream, registry: Arc<Registry>) {
    let answer = service_fn(move |request| answer(request, Arc::clone(&registry)));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIME).max_buf_size(HEADER_BYTES).keep_alive(false);
    if let Err(error) = http.serve_connection(TokioIo::new(stream), answer).await {
        tracing::debug!("a connection for metrics failed: {error}");
    }
}

async fn answer(request: Request<Incoming>, registry: Arc<Registry>) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => match registry.text().await {
            Ok(text) => respond(StatusCode::OK, TEXT_FORMAT, text),
            Err(error) => {
                tracing::error!("the metrics could not be gathered: {error}");
                let sentence = "the metrics could not be gathered; the server's log says why\n";
                respond(StatusCode::INTERNAL_SERVER_ERROR, PLAIN, sentence)
            }
        },
        (&Method::GET, "/healthz") if registry.is_serving() => respond(StatusCode::OK, PLAIN, "serving\n"),
        (&Method::GET, "/healthz") => respond(StatusCode::SERVICE_UNAVAILABLE, PLAIN, "stopping\n"),
        _ => respond(StatusCode::NOT_FOUND, PLAIN, "there are GET /metrics and GET /healthz\n"),
    })
}

fn respond(status: StatusCode, kind: HeaderValue, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
