//! How a connection is made: addresses, the settings of a channel, and the boxed service that calls go through.
//!
//! A [`Service`] hides what carries the calls (our own channel, a caller's channel, a tower stack, an
//! interceptor), so that no other type of this crate needs a parameter for it. The price is one allocation a
//! call, which a call over a socket does not notice.

use std::time::Duration;

use bytes::Bytes;
use tonic::{
    Status,
    body::Body,
    codegen::{Body as HttpBody, StdError},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};
use tower::{ServiceExt, util::BoxCloneSyncService};

use crate::{
    error::{Error, Result},
    tls::Tls,
};

/// What carries the calls. Its error is a `Status` with the transport's error as its source: a boxed `dyn Error` would
/// do, but makes futures that the compiler cannot prove to be `Send`.
pub(crate) type Service = BoxCloneSyncService<http::Request<Body>, http::Response<Body>, Status>;

/// Largest HTTP/2 frame that is taken. The default of 16 KiB costs large answers half of their speed and small ones a
/// third: each frame is a header, a wake-up and a message that is cut in two.
const FRAME_MAX: u32 = 1 << 20;
/// Stream window: a largest message in flight without waiting for a window update, and 64 MB/s over a round trip of
/// 64 ms. On the machine itself 1 MiB would do, 64 KiB halves the speed.
const STREAM_WINDOW: u32 = 4 << 20;
/// Connection window: four full streams. What is in it may have to be held in memory.
const CONNECTION_WINDOW: u32 = 16 << 20;
/// A connection that answers no ping for `KEEPALIVE_INTERVAL + KEEPALIVE_TIMEOUT` is dead: this is what ends the
/// wait for a heartbeat of an attached process when the network is gone.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// The endpoint of `address`: `host:port`, `http://…`, `https://…` or `unix:/path`. It blocks where `tls` does.
pub(crate) fn endpoint(address: &str, connect_timeout: Duration, tls: &Tls) -> Result<Endpoint> {
    let bad = |why: &str| {
        Err(Error::usage(format!("{address:?} is no address of a server: {why}; say host:port or unix:/path")))
    };
    let is_secure = address.starts_with("https:");
    if tls.is_set() && !is_secure {
        return bad("what was said about TLS needs https://host:port");
    }
    if address.strip_prefix("unix:").is_some_and(|path| path.trim_start_matches('/').is_empty()) {
        return bad("the socket's path is missing");
    }
    let has_scheme = is_secure || address.starts_with("http:") || address.starts_with("unix:");
    let uri = if has_scheme { address.to_owned() } else { format!("http://{address}") };
    let endpoint = match Endpoint::from_shared(uri) {
        Ok(endpoint) => endpoint,
        Err(_) => return bad("it cannot be read"),
    };
    if !address.starts_with("unix:") && (endpoint.uri().host().is_none_or(str::is_empty)) {
        return bad("the host is missing");
    }
    if !has_scheme && endpoint.uri().port_u16().is_none() {
        return bad("the port is missing");
    }
    let endpoint = configure(endpoint, connect_timeout);
    if is_secure { tls.secure(endpoint) } else { Ok(endpoint) }
}

fn configure(endpoint: Endpoint, connect_timeout: Duration) -> Endpoint {
    endpoint
        .connect_timeout(connect_timeout)
        // Without it a call waits for the acknowledgement of the one before: 12 calls a second.
        .tcp_nodelay(true)
        .max_frame_size(FRAME_MAX)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
}

/// Connects now, so that a wrong address is told here and not by the first call.
pub(crate) async fn connect(address: &str, endpoint: &Endpoint, connect_timeout: Duration) -> Result<Channel> {
    // The endpoint's own timeout does not cover a unix socket.
    match tokio::time::timeout(connect_timeout, endpoint.connect()).await {
        Ok(Ok(channel)) => Ok(channel),
        Ok(Err(source)) => Err(Error::connect(address, source)),
        Err(elapsed) => Err(Error::connect(address, elapsed)),
    }
}

/// Hides what `service` is.
pub(crate) fn boxed<S, B>(service: S) -> Service
where
    S: tower::Service<http::Request<Body>, Response = http::Response<B>> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
    S::Error: Into<StdError> + 'static,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<StdError>,
{
    let service = service.map_response(|response: http::Response<B>| response.map(Body::new));
    BoxCloneSyncService::new(service.map_err(|error| Status::from_error(error.into())))
}

/// `service` with `interceptor` before it.
pub(crate) fn intercepted<I>(service: Service, interceptor: I) -> Service
where
    I: Interceptor + Clone + Send + Sync + 'static,
{
    boxed(InterceptedService::new(service, interceptor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_the_server_prints_them() {
        for address in ["127.0.0.1:50051", "localhost:1", "[::1]:50051", "http://a.example:80", "unix:/run/mmapd"] {
            assert!(endpoint(address, Duration::from_secs(1), &Tls::default()).is_ok(), "{address}");
        }
    }

    #[test]
    fn a_bad_address_is_refused_with_what_to_say_instead() {
        for address in ["", ":50051", "localhost", "unix:", "unix:///", "https://", "a b:1", "http://"] {
            let error = endpoint(address, Duration::from_secs(1), &Tls::default()).expect_err(address);
            assert!(error.message().contains("host:port"), "{error}");
        }
    }

    #[test]
    fn what_is_said_about_tls_needs_an_address_of_tls_and_files_that_hold_it() {
        let mut tls = Tls::default();
        tls.add_authorities(b"nothing of the kind".to_vec());
        let plain = endpoint("127.0.0.1:1", Duration::from_secs(1), &tls).expect_err("not of TLS");
        assert!(plain.message().contains("https://"), "{plain}");
        let empty = endpoint("https://127.0.0.1:1", Duration::from_secs(1), &tls).expect_err("no certificate");
        assert!(empty.message().contains("no certificate"), "{empty}");
    }
}
