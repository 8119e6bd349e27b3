//! `MmapRead` and `MmapWrite` past tonic's codec: the data stays where it is, in the frames it came in or in the
//! blocks it is read from.
//!
//! A call is first tried at once ([`Front::data_now`]), with nothing made for it but its answer; whatever stands in
//! the way of that, a failure too, is left to the way that can wait and tell ([`Front::data`]). A try changes
//! nothing unless it answers, or hands on a write that took effect and is waited for.

use std::future::poll_fn;
use std::task::{Context, Poll, Waker};

use bytes::{Buf as _, Bytes};
use http::HeaderMap;
use http_body::Body;
use mmap_core::error::{Errno, Error, Result};
use mmap_core::manager::{Caller, MmapId, ReadBytes, Written};
use mmap_proto::v1;
use prost::Message as _;
use tokio::time::timeout;
use tonic::Status;

use super::front::Front;
use crate::auth::Identity;
use crate::convert;
use crate::identity::{PidHeader, caller};
use crate::layers::{ADMISSION_TIME, Call, timeout as grpc_timeout};
use crate::metrics::Rpc;
use crate::traces::About;
use crate::wire::{Account, Charge, Incoming, Malformed, Payload, Segments, WireBody, Write, put_message, put_read};

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    Read,
    Write,
}

impl Method {
    /// The method of this path, if it is one of the two.
    pub(crate) fn of(path: &str) -> Option<Self> {
        match path.strip_prefix("/mmap.v1.MmapService/")? {
            "MmapRead" => Some(Self::Read),
            "MmapWrite" => Some(Self::Write),
            _ => None,
        }
    }

    /// As it is counted.
    pub(crate) fn rpc(self) -> Rpc {
        match self {
            Self::Read => Rpc::READ,
            Self::Write => Rpc::WRITE,
        }
    }

    fn decode(self, payload: Payload) -> std::result::Result<Message, Malformed> {
        Ok(match self {
            Self::Read => Message::Read(v1::MmapReadRequest::decode(payload)?),
            Self::Write => Message::Write(Write::decode(payload)?),
        })
    }
}

#[derive(Debug)]
enum Message {
    Read(v1::MmapReadRequest),
    Write(Write),
}

impl Message {
    /// Bytes that it reads or writes.
    fn bytes(&self) -> u64 {
        match self {
            Self::Read(read) => read.length,
            Self::Write(write) => write.data.len() as u64,
        }
    }
}

/// A call of one of the two.
#[derive(Debug)]
pub(crate) struct Data<B> {
    method: Method,
    headers: HeaderMap,
    identity: Identity,
    incoming: Incoming<B>,
    /// Once it is there.
    message: Option<Message>,
    /// It is counted for its subject.
    is_admitted: bool,
    account: Account,
}

/// How far a try came.
#[derive(Debug)]
pub(crate) enum Progress {
    /// To its answer.
    Answered(WireBody),
    /// To a write that took effect, and that the journal does not have yet.
    Written(Written),
    /// To a message that cannot be read.
    Malformed(Malformed),
    /// Nowhere.
    Waits,
}

impl<B> Data<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    /// The call of `identity` with these headers and this body, of a connection with this account.
    pub(crate) fn new(
        method: Method,
        headers: HeaderMap,
        identity: Identity,
        incoming: Incoming<B>,
        account: Account,
    ) -> Self {
        Self { method, headers, identity, incoming, message: None, is_admitted: false, account }
    }

    /// Its headers.
    pub(crate) fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// What it is about, once its message is there.
    pub(crate) fn about(&self) -> About<'_> {
        match &self.message {
            Some(Message::Read(read)) => About::part(read.mmap_id, read.offset, read.length),
            Some(Message::Write(write)) => About::part(write.mmap_id, write.offset, write.data.remaining() as u64),
            None => About::default(),
        }
    }

    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<std::result::Result<(), Malformed>> {
        if self.message.is_none() {
            let payload = std::task::ready!(self.incoming.poll_only(cx))?;
            self.message = Some(self.method.decode(payload)?);
        }
        Poll::Ready(Ok(()))
    }
}

impl Front {
    /// Tries the call without waiting.
    pub(crate) fn data_now<B>(&self, data: &mut Data<B>) -> Progress
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::fmt::Display,
    {
        // Whoever waits for the rest polls again, with a waker of its own.
        match data.poll_message(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => self.try_data(data).unwrap_or(Progress::Waits),
            Poll::Ready(Err(malformed)) => Progress::Malformed(malformed),
            Poll::Pending => Progress::Waits,
        }
    }

    /// Counts the call for its subject, once.
    fn admit<B>(&self, data: &mut Data<B>, caller: &Caller) -> Result<()> {
        if let (false, Some(meter)) = (data.is_admitted, self.meters.of(&caller.subject)) {
            meter.admit(data.message.as_ref().map_or(0, Message::bytes))?;
            data.is_admitted = true;
        }
        Ok(())
    }

    fn try_data<B>(&self, data: &mut Data<B>) -> Option<Progress> {
        // Nothing is waited for, so that a deadline has to be readable and no more.
        grpc_timeout(&data.headers).ok()?;
        let caller = caller(&data.identity, &data.headers, PidHeader::Needed, None).ok()?;
        self.admit(data, &caller).ok()?;
        match data.message.as_ref()? {
            Message::Read(request) => {
                let read = convert::mmap_read(*request, self.max_message).ok()?;
                let charge = data.account.try_charge(read.length)?;
                let bytes = self.manager.try_read(&caller, read.id, read.offset, read.length).ok()??;
                self.calls.read(read.length);
                Some(Progress::Answered(read_answer(&bytes, charge)))
            }
            Message::Write(Write { mmap_id, offset, data }) => {
                convert::check_write(*offset, data.len(), self.max_message).ok()?;
                let written = self.manager.try_write(&caller, MmapId(*mmap_id), *offset, data.slices()).ok()??;
                self.calls.written(written.bytes());
                Some(match written.is_pending() {
                    true => Progress::Written(written),
                    false => Progress::Answered(write_answer(written.bytes())),
                })
            }
        }
    }

    /// Answers the call, or tells why not.
    pub(crate) async fn data<B>(&self, mut data: Data<B>, call: &Call) -> std::result::Result<WireBody, Status>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::fmt::Display,
    {
        if let Err(malformed) = poll_fn(|cx| data.poll_message(cx)).await {
            call.set_received();
            return Err(malformed.into_status(self.max_message, |error| call.fail(error)));
        }
        call.set_received();
        data.about().tell(call.span());
        self.wait_data(data, call).await.map_err(|error| call.fail(&error))
    }

    async fn wait_data<B>(&self, mut data: Data<B>, call: &Call) -> Result<WireBody> {
        let caller = caller(&data.identity, &data.headers, PidHeader::Needed, call.deadline())?;
        self.admit(&mut data, &caller)?;
        let _running = self.meters.of(&caller.subject).map(|meter| meter.begin()).transpose()?;
        match data.message {
            Some(Message::Read(request)) => {
                let read = convert::mmap_read(request, self.max_message)?;
                let charge = charge(&data.account, read.length).await?;
                let bytes = self.manager.read(caller, read.id, read.offset, read.length).await?;
                self.calls.read(read.length);
                Ok(read_answer(&bytes, charge))
            }
            Some(Message::Write(Write { mmap_id, offset, data })) => {
                convert::check_write(offset, data.len(), self.max_message)?;
                let written = self.manager.begin_write(&caller, MmapId(mmap_id), offset, data.slices()).await?;
                self.calls.written(written.bytes());
                Ok(write_answer(written.wait().await?))
            }
            None => Err(Error::new(Errno::Fault, "a call was answered before its message was there")),
        }
    }

    /// Answers a write that took effect, once the journal has it.
    pub(crate) async fn written(&self, written: Written, call: &Call) -> std::result::Result<WireBody, Status> {
        call.set_received();
        written.wait().await.map(write_answer).map_err(|error| call.fail(&error))
    }
}

fn read_answer(bytes: &ReadBytes, charge: Charge) -> WireBody {
    let mut out = Segments::default();
    put_read(&mut out, bytes);
    out.hold(charge);
    WireBody::one(out)
}

fn write_answer(written: u64) -> WireBody {
    let mut out = Segments::default();
    put_message(&mut out, &v1::MmapWriteResponse { written });
    WireBody::one(out)
}

/// Room for an answer, once the client has taken enough of those before it.
async fn charge(account: &Account, bytes: u64) -> Result<Charge> {
    timeout(ADMISSION_TIME, account.charge(bytes)).await.map_err(|_| {
        let waited = ADMISSION_TIME.as_secs();
        let sentence = format!(
            "the answers that this connection has not taken yet are as many as they may be, and it took none within \
             {waited} s: read them first"
        );
        Error::new(Errno::NoMem, sentence).with("limit", "unsent answers").with("bytes", bytes)
    })
}
