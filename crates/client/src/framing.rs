//! gRPC's framing of messages, without copying what need not be copied: [`append`] for what is sent, [`Messages`]
//! for what comes.
//!
//! A message that lies within one DATA frame is a slice of that frame; only one that spans frames is gathered. No
//! length that came over the wire is believed beyond the largest message: more is an error, never an allocation.
//! It knows no compression (none is asked for), and nothing of what the messages say.

use std::{future::poll_fn, pin::Pin};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use http_body::Body as _;
use mmap_proto::names;
use prost::{Message, encoding::WireType};
use tonic::{
    Code, Status,
    body::Body,
    metadata::{Ascii, MetadataMap, MetadataValue},
};

use crate::error::{Error, ErrorKind, Result};

/// Before each message: a byte that says whether it is compressed, and its length in four.
pub(crate) const PREFIX: usize = 5;
/// The longest that a varint is.
const VARINT_MAX: usize = 10;

/// Appends `message` with its prefix. It must be shorter than 4 GiB, as everything that this crate sends is.
pub(crate) fn append(out: &mut BytesMut, message: &impl Message) {
    let length = message.encoded_len();
    out.reserve(PREFIX + length);
    append_prefix(out, length);
    message.encode(out).expect("a BytesMut has room for whatever was reserved");
}

/// Appends the prefix of a message of `length` bytes.
pub(crate) fn append_prefix(out: &mut BytesMut, length: usize) {
    out.put_u8(0);
    out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
}

/// A message but for its last field, number `field`, of which `length` bytes are to follow: so they need not be copied.
pub(crate) fn head(rest: &impl Message, field: u32, length: usize) -> BytesMut {
    let mut out = BytesMut::with_capacity(rest.encoded_len() + 2 * VARINT_MAX);
    rest.encode(&mut out).expect("a BytesMut has room for whatever comes");
    prost::encoding::encode_key(field, WireType::LengthDelimited, &mut out);
    prost::encoding::encode_varint(length as u64, &mut out);
    out
}

/// The messages of an answer, as they come.
#[derive(Debug)]
pub(crate) struct Messages {
    body: Body,
    /// What is left of the DATA frame that came last.
    frame: Bytes,
    /// The start of a message that goes on in the next frame, with its prefix.
    partial: BytesMut,
    message_max: usize,
    node: Option<MetadataValue<Ascii>>,
    /// The headers had the status already, and it was OK.
    is_over: bool,
}

impl Messages {
    /// # Errors
    /// A response that is a refusal, with the status that it says.
    pub(crate) fn new(response: http::Response<Body>, message_max: usize) -> Result<Self> {
        let (parts, body) = response.into_parts();
        let status = status_of(&parts.headers);
        if parts.status != StatusCode::OK {
            return Err(Error::from(status.unwrap_or_else(|| status_of_http(parts.status))));
        }
        if let Some(status) = status.as_ref().filter(|status| status.code() != Code::Ok) {
            return Err(Error::from(status.clone()));
        }
        let node = MetadataMap::from_headers(parts.headers).get(names::NODE).cloned();
        let (frame, partial) = (Bytes::new(), BytesMut::new());
        Ok(Self { body, frame, partial, message_max, node, is_over: status.is_some() })
    }

    /// The node that answers, if it said.
    pub(crate) fn node(&self) -> Option<&MetadataValue<Ascii>> {
        self.node.as_ref()
    }

    /// The next message; `None` at the end of an answer whose status is OK. Cancel safe.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if let Some(message) = self.buffered()? {
                return Ok(Some(message));
            }
            if !self.more().await? {
                return Ok(None);
            }
        }
    }

    /// The next message that is here already in full.
    pub(crate) fn buffered(&mut self) -> Result<Option<Bytes>> {
        if self.partial.is_empty() {
            if self.frame.is_empty() {
                return Ok(None);
            }
            let whole = if self.frame.len() < PREFIX { usize::MAX } else { PREFIX + self.length(&self.frame)? };
            if self.frame.len() >= whole {
                let mut message = self.frame.split_to(whole);
                message.advance(PREFIX);
                return Ok(Some(message));
            }
        }
        self.gather()
    }

    /// Moves what belongs to the message that began in an earlier frame, or does not end in this one.
    fn gather(&mut self) -> Result<Option<Bytes>> {
        loop {
            let has_prefix = self.partial.len() >= PREFIX;
            let whole = if has_prefix { PREFIX + self.length(&self.partial)? } else { PREFIX };
            self.partial.reserve(whole - self.partial.len());
            let part = self.frame.split_to(self.frame.len().min(whole - self.partial.len()));
            self.partial.extend_from_slice(&part);
            if self.partial.len() < whole {
                return Ok(None);
            }
            if has_prefix {
                let mut message = std::mem::take(&mut self.partial).freeze();
                message.advance(PREFIX);
                return Ok(Some(message));
            }
        }
    }

    /// The length that a prefix tells.
    fn length(&self, mut prefix: &[u8]) -> Result<usize> {
        if prefix.get_u8() != 0 {
            return Err(Error::protocol("the server compressed a message though it was not asked to"));
        }
        let length = usize::try_from(prefix.get_u32()).unwrap_or(usize::MAX);
        if length > self.message_max {
            let most = self.message_max;
            return Err(Error::protocol(format!(
                "the server sent a message of {length} bytes, over the limit of {most}"
            )));
        }
        Ok(length)
    }

    /// Waits for the next DATA frame. `false`: there is none, and the status is OK. Cancel safe.
    pub(crate) async fn more(&mut self) -> Result<bool> {
        loop {
            let Some(frame) = poll_fn(|cx| Pin::new(&mut self.body).poll_frame(cx)).await else {
                return if self.is_over { Ok(false) } else { Err(cut("it ended without a status")) };
            };
            let trailers = match frame.map_err(Error::from)?.into_data() {
                Ok(data) if data.is_empty() => continue,
                Ok(data) => {
                    self.frame = data;
                    return Ok(true);
                }
                Err(frame) => frame.into_trailers().unwrap_or_default(),
            };
            return match status_of(&trailers) {
                Some(status) if status.code() != Code::Ok => Err(Error::from(status)),
                Some(_) if self.partial.is_empty() => Ok(false),
                Some(_) => Err(cut("it ended within a message")),
                None => Err(cut("it ended without a status")),
            };
        }
    }
}

fn cut(why: &str) -> Error {
    Error::new(ErrorKind::Transport, Code::Unavailable, format!("the answer was cut off: {why}"))
}

/// The status that headers or trailers tell.
fn status_of(headers: &HeaderMap) -> Option<Status> {
    const DETAILS: &str = "grpc-status-details-bin";
    headers.get("grpc-status")?;
    let mut metadata = MetadataMap::from_headers(headers.clone());
    // tonic panics at details that are no base64.
    if metadata.get_bin(DETAILS).is_some_and(|details| details.to_bytes().is_err()) {
        metadata.remove_bin(DETAILS);
    }
    Status::from_header_map(&metadata.into_headers())
}

/// What a proxy means that speaks no gRPC: gRPC's own table.
fn status_of_http(status: StatusCode) -> Status {
    let code = match status {
        StatusCode::BAD_REQUEST => Code::Internal,
        StatusCode::UNAUTHORIZED => Code::Unauthenticated,
        StatusCode::FORBIDDEN => Code::PermissionDenied,
        StatusCode::NOT_FOUND => Code::Unimplemented,
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => Code::Unavailable,
        _ => Code::Unknown,
    };
    Status::new(code, format!("the answer is no gRPC but HTTP status {status}"))
}

#[cfg(test)]
mod tests {
    use std::{
        collections::VecDeque,
        task::{Context, Poll},
    };

    use http_body::Frame;
    use mmap_proto::v1::{MmapReadResponse, MmapWriteRequest};

    use super::*;

    struct Frames(VecDeque<Frame<Bytes>>);

    impl http_body::Body for Frames {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<std::result::Result<Frame<Bytes>, Status>>> {
            Poll::Ready(self.0.pop_front().map(Ok))
        }
    }

    fn trailers(status: &'static str) -> Frame<Bytes> {
        Frame::trailers(
            [(http::HeaderName::from_static("grpc-status"), http::HeaderValue::from_static(status))]
                .into_iter()
                .collect(),
        )
    }

    fn messages(data: Vec<Bytes>, last: Option<Frame<Bytes>>) -> Messages {
        let frames = data.into_iter().map(Frame::data).chain(last).collect();
        Messages::new(http::Response::new(Body::new(Frames(frames))), 1000).expect("it is no refusal")
    }

    fn encoded(parts: &[&'static [u8]]) -> Bytes {
        let mut out = BytesMut::new();
        for data in parts {
            append(&mut out, &MmapReadResponse { data: Bytes::from_static(data) });
        }
        out.freeze()
    }

    async fn all(mut messages: Messages) -> Result<Vec<Bytes>> {
        let mut out = Vec::new();
        while let Some(message) = messages.next().await? {
            out.push(MmapReadResponse::decode(message).expect("it is whole").data);
        }
        Ok(out)
    }

    #[tokio::test]
    async fn messages_come_out_whole_wherever_frames_cut_them() {
        let parts: [&[u8]; 4] = [b"one", b"", b"three three", b"4"];
        let bytes = encoded(&parts);
        for first in 0..=bytes.len() {
            for second in first..=bytes.len() {
                let data = vec![bytes.slice(..first), bytes.slice(first..second), bytes.slice(second..)];
                assert_eq!(all(messages(data, Some(trailers("0")))).await.expect("they are whole"), parts);
            }
        }
        let single = bytes.iter().map(|byte| Bytes::from(vec![*byte])).collect();
        assert_eq!(all(messages(single, Some(trailers("0")))).await.expect("they are whole"), parts);
    }

    #[tokio::test]
    async fn a_message_within_a_frame_is_not_copied() {
        let bytes = encoded(&[b"first", b"second"]);
        let frame = bytes.as_ptr_range();
        for data in all(messages(vec![bytes], Some(trailers("0")))).await.expect("they are whole") {
            assert!(frame.contains(&data.as_ptr()));
        }
    }

    #[tokio::test]
    async fn an_answer_that_is_cut_off_is_an_error() {
        let bytes = encoded(&[b"some data"]);
        for end in 1..bytes.len() {
            let error = all(messages(vec![bytes.slice(..end)], Some(trailers("0")))).await.expect_err("it is cut");
            assert_eq!(error.kind(), ErrorKind::Transport);
        }
        for last in [None, Some(Frame::trailers(HeaderMap::new()))] {
            let error = all(messages(vec![bytes.clone()], last)).await.expect_err("there is no status");
            assert_eq!(error.kind(), ErrorKind::Transport);
        }
        let error = all(messages(vec![bytes], Some(trailers("10")))).await.expect_err("it is aborted");
        assert_eq!((error.kind(), error.code()), (ErrorKind::Server, Code::Aborted));
    }

    #[tokio::test]
    async fn a_length_or_a_flag_that_cannot_be_is_an_error_before_anything_is_allocated() {
        for prefix in [[0, 0xff, 0xff, 0xff, 0xff], [0, 0, 0, 3, 0xe9], [1, 0, 0, 0, 1]] {
            for cut in 0..5 {
                let bytes = Bytes::from(prefix.to_vec());
                let error = all(messages(vec![bytes.slice(..cut), bytes.slice(cut..)], None)).await.expect_err("no");
                assert_eq!(error.kind(), ErrorKind::Protocol);
            }
        }
    }

    #[test]
    fn a_refusal_is_told_with_its_status_and_never_a_panic() {
        let refused = |http: u16, headers: &[(&'static str, &'static str)]| {
            let mut response = http::Response::new(Body::empty());
            *response.status_mut() = StatusCode::from_u16(http).expect("it is one");
            for (name, value) in headers {
                response.headers_mut().insert(*name, http::HeaderValue::from_static(value));
            }
            Messages::new(response, 1000).map(|_| ()).map_err(|error| error.code())
        };
        assert_eq!(refused(200, &[("grpc-status", "12")]), Err(Code::Unimplemented));
        assert_eq!(refused(404, &[]), Err(Code::Unimplemented));
        assert_eq!(refused(503, &[]), Err(Code::Unavailable));
        assert_eq!(refused(418, &[("grpc-status", "7")]), Err(Code::PermissionDenied));
        assert_eq!(
            refused(200, &[("grpc-status", "5"), ("grpc-status-details-bin", "!no base64!")]),
            Err(Code::NotFound)
        );
        assert_eq!(refused(200, &[("grpc-status", "0")]), Ok(()));
    }

    #[test]
    fn a_head_and_its_data_are_the_message() {
        for length in [0, 1, 127, 128, 70_000] {
            let data = Bytes::from(vec![7; length]);
            let whole = MmapWriteRequest { mmap_id: 300, offset: 1 << 40, data: data.clone() };
            let rest = MmapWriteRequest { data: Bytes::new(), ..whole.clone() };
            let mut parts = head(&rest, 3, length);
            parts.extend_from_slice(&data);
            assert_eq!(MmapWriteRequest::decode(parts.freeze()).expect("it is one"), whole);
        }
    }
}
