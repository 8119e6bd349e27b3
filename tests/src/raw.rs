//! A client that keeps no rule of gRPC: it sends any bytes and any headers over HTTP/2, or over bare TCP.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use mmap_proto::names;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Status;

use crate::wire::ALL;

/// How long a server may take to answer, or to give a client up.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// What a client does after its last byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Says that it was the last.
    End,
    /// Breaks the stream.
    Reset,
    /// Sends no more, and does not say so.
    Wait,
    /// Sends its bytes again and again, until the server ends the stream.
    Repeat,
}

/// How a server answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// With this `grpc-status`.
    Grpc(u32),
    /// With an HTTP status and no `grpc-status`.
    Http(u16),
    /// By breaking the stream or the connection.
    Broken,
    /// Not within the deadline.
    Silent,
}

/// The prefix of a gRPC message of `length` bytes.
pub fn prefix(compressed: u8, length: u32) -> Bytes {
    let mut bytes = BytesMut::with_capacity(5);
    bytes.put_u8(compressed);
    bytes.put_u32(length);
    bytes.freeze()
}

/// `body` as one gRPC message.
pub fn message(body: &[u8]) -> Bytes {
    let length = u32::try_from(body.len()).expect("a test's message is not that large");
    [prefix(0, length), Bytes::copy_from_slice(body)].concat().into()
}

/// Calls `method` (`mmap.v1.MmapService/Mmap`) with these headers and these bytes as its body.
///
/// # Panics
/// If the server does not take a connection at all.
pub async fn call(addr: &str, method: &str, headers: &HeaderMap, body: Bytes, then: Then) -> Answer {
    let tcp = TcpStream::connect(addr).await.unwrap_or_else(|error| panic!("{addr}: {error}"));
    let (sender, connection) = match h2::client::handshake(tcp).await {
        Ok(both) => both,
        Err(_) => return Answer::Broken,
    };
    let exchange = tokio::time::timeout(DEADLINE, exchange(sender, addr, method, headers, body, then));
    // The connection is driven here and ends with the call: whatever comes first.
    tokio::select! {
        answer = exchange => answer.map_or(Answer::Silent, Outcome::answer),
        _ = connection => Answer::Broken,
    }
}

/// Calls a method with a stream of messages, sends `body` of it and leaves the stream open; the status with which the
/// server ends it. No library looks at the deadline in the headers here but the server's.
///
/// # Panics
/// If the server does not end it with a status.
pub async fn status(addr: &str, method: &str, headers: &HeaderMap, body: Bytes) -> Status {
    let tcp = TcpStream::connect(addr).await.unwrap_or_else(|error| panic!("{addr}: {error}"));
    let (sender, connection) = h2::client::handshake(tcp).await.expect("the server speaks HTTP/2");
    let exchange = tokio::time::timeout(DEADLINE, exchange(sender, addr, method, headers, body, Then::Wait));
    let outcome = tokio::select! {
        outcome = exchange => outcome.unwrap_or_else(|_| panic!("{method} does not end within {DEADLINE:?}")),
        ended = connection => panic!("{method}: the connection ended: {ended:?}"),
    };
    let status = outcome.0.as_ref().and_then(|(_, last)| Status::from_header_map(last));
    status.unwrap_or_else(|| panic!("{method} ended without a status: {outcome:?}"))
}

/// The headers of a call with all capabilities by the process `pid`, with this deadline as the wire has it.
///
/// # Panics
/// If they are no headers.
pub fn stream_headers(pid: &str, timeout: &str) -> HeaderMap {
    let fixed = [("content-type", "application/grpc"), ("te", "trailers")];
    let own = [(names::PID, pid), (names::CAPABILITIES, ALL), ("grpc-timeout", timeout)];
    let header = |(name, value): (&str, &str)| -> (HeaderName, HeaderValue) {
        (name.parse().expect("the name of a header"), value.parse().expect("the value of a header"))
    };
    fixed.into_iter().chain(own).map(header).collect()
}

/// How an exchange ended: the HTTP status and the last headers, or broken off.
#[derive(Debug)]
struct Outcome(Option<(u16, HeaderMap)>);

impl Outcome {
    fn answer(self) -> Answer {
        match self.0 {
            Some((http, last)) => grpc_status(&last).map_or(Answer::Http(http), Answer::Grpc),
            None => Answer::Broken,
        }
    }
}

async fn exchange(
    sender: SendRequest<Bytes>,
    addr: &str,
    method: &str,
    headers: &HeaderMap,
    body: Bytes,
    then: Then,
) -> Outcome {
    let mut request = Request::post(format!("http://{addr}/{method}"));
    if let Some(all) = request.headers_mut() {
        all.extend(headers.clone());
    }
    let request = request.body(()).expect("a test's method fits in a URL");
    let Ok(mut sender) = sender.ready().await else { return Outcome(None) };
    let Ok((response, mut stream)) = sender.send_request(request, false) else { return Outcome(None) };
    let sending = async {
        let mut sent = stream.send_data(body.clone(), then == Then::End);
        while then == Then::Repeat && sent.is_ok() {
            stream.reserve_capacity(body.len());
            if !matches!(std::future::poll_fn(|cx| stream.poll_capacity(cx)).await, Some(Ok(_))) {
                break;
            }
            sent = stream.send_data(body.clone(), false);
        }
        if then == Then::Reset {
            stream.send_reset(h2::Reason::CANCEL);
        }
        // The stream must not be dropped while the answer is awaited: that would reset it.
        std::future::pending::<Outcome>().await
    };
    tokio::select! {
        answer = receive(response) => answer,
        answer = sending => answer,
    }
}

async fn receive(response: h2::client::ResponseFuture) -> Outcome {
    let Ok(response) = response.await else { return Outcome(None) };
    let (head, mut body) = response.into_parts();
    let http = head.status.as_u16();
    if grpc_status(&head.headers).is_some() {
        return Outcome(Some((http, head.headers)));
    }
    while let Some(chunk) = body.data().await {
        if chunk.is_err() {
            return Outcome(None);
        }
    }
    match body.trailers().await {
        Ok(trailers) => Outcome(Some((http, trailers.unwrap_or_default()))),
        Err(_) => Outcome(None),
    }
}

fn grpc_status(headers: &HeaderMap) -> Option<u32> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

/// Sends bytes that are not HTTP/2, and waits until the server gives the connection up.
///
/// # Errors
/// If it does not within the deadline.
pub async fn send_garbage(addr: &str, bytes: &[u8]) -> Result<(), String> {
    let mut tcp = TcpStream::connect(addr).await.map_err(|error| error.to_string())?;
    // The server may close while it is sent to: that is what is waited for.
    let _ = tcp.write_all(bytes).await;
    let mut rest = Vec::new();
    match tokio::time::timeout(DEADLINE, tcp.read_to_end(&mut rest)).await {
        Ok(_) => Ok(()),
        Err(_) => Err(format!("the connection stays open for {DEADLINE:?}")),
    }
}
