//! [`WireBody`]: an answer's body, of whatever kind it is.
//!
//! Invariants: an answer that begins ends in trailers, with its error or with OK; what is ready of a stream goes
//! into one frame, up to [`FRAME_MAX`].

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Buf as _;
use futures::Stream;
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::{Body, Frame, SizeHint};
use mmap_proto::names::NODE;
use tonic::Status;

use super::segments::Segments;

/// Bytes of a stream that are given to the transport at once: the frames that HTTP/2 makes of them are as large as
/// the client takes them.
const FRAME_MAX: usize = 256 * 1024;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// An answer's body.
pub(crate) struct WireBody(Kind);

/// The messages of a stream, framed.
type Messages = Pin<Box<dyn Stream<Item = Result<Segments, Status>> + Send>>;

enum Kind {
    /// Of a handler behind tonic's codec.
    Passed(tonic::body::Body),
    One(Segments),
    Stream {
        messages: Messages,
        node: HeaderValue,
        /// What ended it, behind what came before.
        end: Option<Result<(), Status>>,
    },
    /// Trailers are next.
    Over(HeaderMap),
    Empty,
}

impl WireBody {
    /// One message.
    pub(crate) fn one(message: Segments) -> Self {
        Self(Kind::One(message))
    }

    /// A stream of messages, by the node of this name; an error ends it.
    pub(crate) fn stream(
        messages: impl Stream<Item = Result<Segments, Status>> + Send + 'static,
        node: HeaderValue,
    ) -> Self {
        Self(Kind::Stream { messages: Box::pin(messages), node, end: None })
    }
}

impl fmt::Debug for WireBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WireBody").finish_non_exhaustive()
    }
}

impl Default for WireBody {
    /// A body without a byte, as an error has it: its status stands in the headers.
    fn default() -> Self {
        Self(Kind::Empty)
    }
}

impl From<tonic::body::Body> for WireBody {
    fn from(body: tonic::body::Body) -> Self {
        Self(if body.is_end_stream() { Kind::Empty } else { Kind::Passed(body) })
    }
}

impl Body for WireBody {
    type Data = Segments;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Segments>, Status>>> {
        let this = self.get_mut();
        match &mut this.0 {
            Kind::Passed(body) => Pin::new(body).poll_frame(cx).map_ok(|frame| {
                frame.map_data(|data| {
                    let mut segments = Segments::default();
                    segments.push(data);
                    segments
                })
            }),
            Kind::One(message) => {
                let message = std::mem::take(message);
                this.0 = Kind::Over(ok());
                Poll::Ready(Some(Ok(Frame::data(message))))
            }
            Kind::Stream { messages, node, end } => {
                let ready = gather(messages.as_mut(), end, cx);
                if ready.has_remaining() {
                    return Poll::Ready(Some(Ok(Frame::data(ready))));
                }
                let Some(end) = end.take() else { return Poll::Pending };
                this.0 = Kind::Over(end.map_or_else(|status| failed(&status, node), |()| ok()));
                Pin::new(this).poll_frame(cx)
            }
            Kind::Over(trailers) => {
                let trailers = std::mem::take(trailers);
                this.0 = Kind::Empty;
                Poll::Ready(Some(Ok(Frame::trailers(trailers))))
            }
            Kind::Empty => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Passed(body) => body.is_end_stream(),
            Kind::Empty => true,
            Kind::One(_) | Kind::Stream { .. } | Kind::Over(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        // No length in the headers: gRPC has it before each message.
        SizeHint::default()
    }
}

/// What is ready of `messages`, up to [`FRAME_MAX`] or their end, which is noted.
fn gather(
    mut messages: Pin<&mut (dyn Stream<Item = Result<Segments, Status>> + Send)>,
    end: &mut Option<Result<(), Status>>,
    cx: &mut Context<'_>,
) -> Segments {
    let mut ready = Segments::default();
    while end.is_none() && ready.remaining() < FRAME_MAX {
        match messages.as_mut().poll_next(cx) {
            Poll::Pending => break,
            Poll::Ready(Some(Ok(message))) => ready.append(message),
            Poll::Ready(Some(Err(status))) => *end = Some(Err(status)),
            Poll::Ready(None) => *end = Some(Ok(())),
        }
    }
    ready
}

fn ok() -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert(GRPC_STATUS, HeaderValue::from_static("0"));
    trailers
}

fn failed(status: &Status, node: &HeaderValue) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    if status.add_header(&mut trailers).is_err() {
        // The status cannot be said in headers, which none of ours cannot: its code can.
        trailers.insert(GRPC_STATUS, HeaderValue::from(status.code() as i32));
    }
    trailers.insert(NODE, node.clone());
    trailers
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures::stream;
    use http_body_util::BodyExt as _;
    use tonic::Code;

    use super::*;

    fn message(bytes: &'static [u8]) -> Segments {
        let mut segments = Segments::default();
        segments.push(Bytes::from_static(bytes));
        segments
    }

    /// The lengths of the data frames, and the trailers.
    async fn frames(mut body: WireBody) -> (Vec<usize>, Option<HeaderMap>) {
        let (mut lengths, mut trailers) = (Vec::new(), None);
        while let Some(frame) = body.frame().await {
            assert!(trailers.is_none(), "nothing comes behind the trailers");
            match frame.unwrap().into_data() {
                Ok(data) => lengths.push(data.remaining()),
                Err(frame) => trailers = Some(frame.into_trailers().unwrap()),
            }
        }
        assert!(body.is_end_stream());
        (lengths, trailers)
    }

    fn node() -> HeaderValue {
        HeaderValue::from_static("n1")
    }

    #[tokio::test]
    async fn one_message_ends_in_ok() {
        let (lengths, trailers) = frames(WireBody::one(message(b"abc"))).await;
        assert_eq!((lengths, trailers), (vec![3], Some(ok())));
    }

    #[tokio::test]
    async fn what_is_ready_of_a_stream_goes_into_one_frame() {
        let many = stream::iter((0..100).map(|_| Ok(message(&[1; 1000]))));
        let (lengths, trailers) = frames(WireBody::stream(many, node())).await;
        assert_eq!((lengths, trailers), (vec![100_000], Some(ok())));
        let more = stream::iter((0..1000).map(|_| Ok(message(&[1; 1000]))));
        let (lengths, _) = frames(WireBody::stream(more, node())).await;
        assert_eq!(lengths.iter().sum::<usize>(), 1_000_000);
        assert!(lengths.iter().all(|length| *length < FRAME_MAX + 1000), "{lengths:?}");
        let (lengths, trailers) = frames(WireBody::stream(stream::empty(), node())).await;
        assert_eq!((lengths, trailers), (vec![], Some(ok())));
    }

    #[tokio::test]
    async fn an_error_ends_a_stream_behind_what_came_before_it() {
        let failing = stream::iter([Ok(message(b"abc")), Err(Status::data_loss("gone")), Ok(message(b"never"))]);
        let (lengths, trailers) = frames(WireBody::stream(failing, node())).await;
        let trailers = trailers.unwrap();
        assert_eq!((lengths, &trailers[NODE]), (vec![3], &node()));
        let status = Status::from_header_map(&trailers).unwrap();
        assert_eq!((status.code(), status.message()), (Code::DataLoss, "gone"));
    }

    #[tokio::test]
    async fn a_handlers_body_is_passed_on() {
        let whole = http_body_util::Full::new(Bytes::from_static(b"abcd"));
        let (lengths, _) = frames(tonic::body::Body::new(whole).into()).await;
        assert_eq!(lengths, [4]);
        assert!(WireBody::from(tonic::body::Body::empty()).is_end_stream());
    }
}
