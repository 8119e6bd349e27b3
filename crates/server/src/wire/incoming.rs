//! [`Incoming`]: the messages of a request's body, as slices of the frames they came in.
//!
//! Invariants: a message that says that it is too long is refused by its first five bytes; at most one message
//! and a frame are held; a body that ends within a message is an error and no message; bytes are never copied.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use http_body::Body;
use mmap_core::error::Error;
use prost::DecodeError;
use tonic::Status;

use super::payload::Payload;

/// Bytes before each message: whether it is compressed, and its length.
pub(crate) const PREFIX_LENGTH: usize = 5;

/// Why a body has no next message.
#[derive(Debug)]
pub(crate) enum Malformed {
    /// A message of so many bytes, more than it may have.
    TooLarge(usize),
    /// Compressed, which was not offered; or not a message at all.
    Flag(u8),
    /// There is no message where one is asked for.
    Missing,
    /// There are several messages where one is asked for.
    Several,
    /// It is no message of its kind.
    Undecodable(DecodeError),
    /// It ends within a message.
    Cut,
    /// The transport failed: most often the client broke the stream.
    Broken(String),
}

impl From<DecodeError> for Malformed {
    fn from(error: DecodeError) -> Self {
        Self::Undecodable(error)
    }
}

impl Malformed {
    /// The status that tells it; `data_max` is what the contract allows a message's data.
    pub(crate) fn into_status(self, data_max: u64, fail: impl FnOnce(&Error) -> Status) -> Status {
        let what = match self {
            // As the library answers it: the contract leaves it to it.
            Self::Flag(flag) => {
                let sentence = format!("the message's flag is {flag}: this server takes uncompressed messages only");
                return Status::unimplemented(sentence);
            }
            Self::TooLarge(length) => {
                let sentence =
                    format!("the message is too large (it has {length} bytes): send at most {data_max} bytes of data");
                return fail(&Error::invalid("message", sentence).with("length", length).with("max", data_max));
            }
            Self::Cut => "the stream ended within it".to_owned(),
            Self::Missing => "it is missing".to_owned(),
            Self::Several => "there is another one behind it: send one message".to_owned(),
            Self::Undecodable(error) => error.to_string(),
            Self::Broken(what) => what,
        };
        fail(&Error::invalid("message", format!("the message cannot be read: {what}")))
    }
}

/// The messages of a request's body.
#[derive(Debug)]
pub(crate) struct Incoming<B> {
    body: B,
    max: usize,
    /// What came in and was not given out.
    pending: Payload,
    /// The length of the message that is coming in, once it is known.
    length: Option<usize>,
    /// The message of a body that has to have one, once it is there.
    only: Option<Payload>,
}

impl<B> Incoming<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    /// The messages of `body`, each of at most `max` bytes.
    pub(crate) fn new(body: B, max: usize) -> Self {
        Self { body, max, pending: Payload::default(), length: None, only: None }
    }

    /// The next message; `None` behind the last one. Cancel safe. Not to be asked again after an error.
    pub(crate) async fn next(&mut self) -> Option<Result<Payload, Malformed>> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// See [`Incoming::next`].
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Payload, Malformed>>> {
        loop {
            match self.take() {
                Ok(None) => {}
                Ok(Some(message)) => return Poll::Ready(Some(Ok(message))),
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    // Trailers of a request say nothing.
                    if let Ok(data) = frame.into_data() {
                        self.pending.push(data);
                    }
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(Malformed::Broken(error.to_string())))),
                None if self.pending.has_remaining() || self.length.is_some() => {
                    return Poll::Ready(Some(Err(Malformed::Cut)));
                }
                None => return Poll::Ready(None),
            }
        }
    }

    /// The message of a body that has to have exactly one. Cancel safe. Not to be asked again after its answer.
    pub(crate) fn poll_only(&mut self, cx: &mut Context<'_>) -> Poll<Result<Payload, Malformed>> {
        if self.only.is_none() {
            match ready!(self.poll_next(cx)) {
                Some(Ok(message)) => self.only = Some(message),
                Some(Err(error)) => return Poll::Ready(Err(error)),
                None => return Poll::Ready(Err(Malformed::Missing)),
            }
        }
        // Only the end says that it was all of it, and not half of what the client meant to say.
        match ready!(self.poll_next(cx)) {
            None => Poll::Ready(self.only.take().ok_or(Malformed::Missing)),
            Some(Ok(_)) => Poll::Ready(Err(Malformed::Several)),
            Some(Err(error)) => Poll::Ready(Err(error)),
        }
    }

    /// The next message, if all of it is there.
    fn take(&mut self) -> Result<Option<Payload>, Malformed> {
        let length = match self.length {
            Some(length) => length,
            None if self.pending.remaining() < PREFIX_LENGTH => return Ok(None),
            None => self.take_prefix()?,
        };
        self.length = Some(length);
        if self.pending.remaining() < length {
            return Ok(None);
        }
        self.length = None;
        Ok(Some(self.pending.split_to(length)))
    }

    fn take_prefix(&mut self) -> Result<usize, Malformed> {
        let flag = self.pending.get_u8();
        // A length that does not fit is too large all the same.
        let length = usize::try_from(self.pending.get_u32()).unwrap_or(usize::MAX);
        if flag != 0 {
            return Err(Malformed::Flag(flag));
        }
        if length > self.max {
            return Err(Malformed::TooLarge(length));
        }
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures::FutureExt as _;
    use futures::stream::{self, StreamExt as _};
    use http_body::Frame;
    use http_body_util::StreamBody;

    use super::*;

    fn body(frames: Vec<Bytes>) -> impl Body<Data = Bytes, Error = Infallible> + Unpin {
        StreamBody::new(stream::iter(frames.into_iter().map(|data| Ok(Frame::data(data)))))
    }

    fn all<B>(body: B, max: usize) -> Result<Vec<Payload>, Malformed>
    where
        B: Body<Data = Bytes, Error = Infallible> + Unpin,
    {
        let mut incoming = Incoming::new(body, max);
        let mut messages = Vec::new();
        while let Some(message) = incoming.next().now_or_never().expect("all frames are there") {
            messages.push(message?);
        }
        Ok(messages)
    }

    fn message(data: &[u8]) -> Vec<u8> {
        let length = u32::try_from(data.len()).unwrap().to_be_bytes();
        [&[0], &length[..], data].concat()
    }

    fn three() -> Bytes {
        [message(b"first"), message(b""), message(b"the third")].concat().into()
    }

    #[test]
    fn messages_come_out_whole_however_the_frames_are_cut() {
        let bytes = three();
        for first in 0..=bytes.len() {
            for second in first..=bytes.len() {
                let frames = vec![bytes.slice(..first), bytes.slice(first..second), bytes.slice(second..)];
                let messages = all(body(frames), 9).unwrap();
                let flat: Vec<_> = messages.iter().map(|message| message.slices().concat()).collect();
                assert_eq!(flat, [&b"first"[..], b"", b"the third"], "cut at {first} and {second}");
            }
        }
    }

    #[test]
    fn a_body_that_ends_within_a_message_is_an_error_after_the_whole_ones() {
        let bytes = three();
        let ends = [0, 10, 15, 29];
        for end in 0..=bytes.len() {
            let mut incoming = Incoming::new(body(vec![bytes.slice(..end)]), 9);
            let mut whole = 0;
            let last = loop {
                match incoming.next().now_or_never().expect("all frames are there") {
                    Some(Ok(_)) => whole += 1,
                    last => break last,
                }
            };
            assert_eq!(whole, ends[1..].iter().filter(|whole| **whole <= end).count());
            assert_eq!(matches!(last, Some(Err(Malformed::Cut))), !ends.contains(&end), "{end}: {last:?}");
        }
    }

    #[test]
    fn a_body_that_has_to_have_one_message_has_neither_none_nor_two() {
        let one = |bytes: Vec<u8>| {
            let mut incoming = Incoming::new(body(vec![bytes.into()]), 9);
            poll_fn(|cx| incoming.poll_only(cx)).now_or_never().expect("all frames are there")
        };
        assert_eq!(one(message(b"one")).unwrap().slices().concat(), b"one");
        assert!(one(message(b"")).unwrap().slices().is_empty());
        assert!(matches!(one(Vec::new()), Err(Malformed::Missing)));
        assert!(matches!(one(three().to_vec()), Err(Malformed::Several)));
        assert!(matches!(one([message(b"one"), vec![0]].concat()), Err(Malformed::Cut)));
    }

    #[test]
    fn a_message_in_one_frame_is_not_copied() {
        let bytes = Bytes::from(message(&[7; 100]));
        let messages = all(body(vec![bytes.clone()]), 100).unwrap();
        assert_eq!(messages[0].slices()[0].as_ptr(), bytes[PREFIX_LENGTH..].as_ptr());
    }

    #[test]
    fn what_is_too_large_or_flagged_is_refused_by_its_first_bytes() {
        let endless = stream::repeat(Bytes::from(vec![0; 1000]));
        for (prefix, large) in [([0, 0, 0, 0, 10], true), ([0, 0xff, 0xff, 0xff, 0xff], true), ([1, 0, 0, 0, 3], false)]
        {
            let frames = stream::iter([Bytes::copy_from_slice(&prefix)]).chain(endless.clone());
            let body = StreamBody::new(frames.map(|data| Ok::<_, Infallible>(Frame::data(data))));
            let error = all(body, 9).unwrap_err();
            assert_eq!(matches!(error, Malformed::TooLarge(_)), large, "{error:?}");
            assert_eq!(matches!(error, Malformed::Flag(1)), !large, "{error:?}");
        }
    }
}
