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
use prost::Message;
use tonic::{
    Code, Status,
    body::Body,
    metadata::{Ascii, MetadataMap, MetadataValue},
};

use crate::error::{Error, ErrorKind, Result};

/// Before each message: a byte that says whether it is compressed, and its length in four.
pub(crate) const PREFIX: usize = 5;

/// Appends `message` with its prefix. It must be shorter than 4 GiB, as everything that this crate sends is.
pub(crate) fn append(out: &mut BytesMut, message: &impl Message) {
    let length = message.encoded_len();
    out.reserve(PREFIX + length);
    out.put_u8(0);
    out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    message.encode(out).expect("a BytesMut has room for whatever was reserved");
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
