//! The methods with a stream of messages, past tonic's codec as the data calls are.
//!
//! Each answers its headers at once, and the answer's body does the work. So a stream takes no place among the calls
//! that run: how many there may be is HTTP/2's bound, and one of which nothing is asked holds next to nothing.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body::Body;
use mmap_core::error::Result;

use super::ending::Ending;
use super::front::Front;
use super::pace::Pace;
use super::pipeline::Pipeline;
use super::read_stream::ReadStream;
use super::work::Work;
use super::write_stream::WriteStream;
use crate::identity::{PidHeader, caller};
use crate::layers::Call;
use crate::wire::{Account, Incoming, WireBody};

/// A method with a stream of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Streaming {
    /// `MmapReadStream`.
    Read,
    /// `MmapWriteStream`.
    Write,
    /// `MmapPipeline`.
    Pipeline,
}

impl Streaming {
    /// The method of this path, if it is one.
    pub(crate) fn of(path: &str) -> Option<Self> {
        match path.strip_prefix("/mmap.v1.MmapService/")? {
            "MmapReadStream" => Some(Self::Read),
            "MmapWriteStream" => Some(Self::Write),
            "MmapPipeline" => Some(Self::Pipeline),
            _ => None,
        }
    }
}

impl Front {
    /// The body that answers `call`, made with these headers on a connection with this account.
    ///
    /// # Errors
    /// EINVAL for headers that do not say who calls.
    pub(crate) fn stream<B>(
        &self,
        method: Streaming,
        call: &Call,
        (headers, requests): (&HeaderMap, Incoming<B>),
        account: Account,
        node: HeaderValue,
    ) -> Result<WireBody>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: std::fmt::Display,
    {
        let caller = caller(headers, PidHeader::Needed, call.deadline())?;
        // Of a pipeline each operation counts, and the stream does not.
        let running = match method {
            Streaming::Read | Streaming::Write => self.begin(&caller)?,
            Streaming::Pipeline => None,
        };
        let work = Work {
            core: self.manager.clone(),
            pace: Pace::new(self.meters.of(&caller.subject), running),
            caller,
            call: call.clone(),
            max_message: self.max_message,
            account,
            ending: Ending::of(call, &self.stopping),
        };
        Ok(match method {
            Streaming::Read => WireBody::stream(ReadStream::new(work, requests), node),
            Streaming::Write => WireBody::stream(WriteStream::new(work, requests), node),
            Streaming::Pipeline => WireBody::stream(Pipeline::new(work, requests), node),
        })
    }
}
