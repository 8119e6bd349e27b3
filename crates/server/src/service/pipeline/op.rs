//! [`Op`]: one operation of a pipeline, checked as far as it can be without looking at mappings.
//!
//! It says what the operation touches and what it costs while it is under way, and does it: at once if nothing has
//! to be waited for, else as a future. When it may begin is the pipeline's affair.

use bytes::Buf as _;
use mmap_core::error::{Error, Result};
use mmap_core::manager::{
    Caller, MapRequest, MmapId, MmapManager, OnChange, ReadBytes, SyncRequest, Unsynced, Written,
};
use mmap_proto::v1;
use mmap_proto::v1::mmap_pipeline_request::Op as Message;
use mmap_proto::v1::mmap_pipeline_response::Result as Answer;

use super::order::{Footprint, Use};
use super::request::Asked;
use crate::convert;
use crate::metrics::Operation;
use crate::service::front::Core;
use crate::traces::About;
use crate::wire::Write;

/// An operation that is not malformed.
#[derive(Debug)]
pub(super) enum Op {
    Map(MapRequest),
    Read(convert::Read),
    Write(Write),
    Sync(MmapId, SyncRequest),
    Unmap(MmapId, Unsynced),
    Stats(MmapId),
}

/// What an operation came to.
#[derive(Debug)]
pub(super) enum Done {
    Read(ReadBytes),
    /// It has taken effect. It is answered when the journal has it.
    Wrote(Written),
    Other(Answer),
}

impl Op {
    /// The operation that is asked for, if there is one and it can be done at all.
    pub(super) fn of(asked: Option<Asked>, max_message: u64) -> Result<Self> {
        let message = match asked {
            Some(Asked::Other(message)) => message,
            Some(Asked::Write(write)) => {
                convert::check_write(write.offset, write.data.remaining(), max_message)?;
                return Ok(Self::Write(write));
            }
            None => return Err(Error::invalid("op", "the request has no operation that this server knows: set op")),
        };
        match message {
            Message::Mmap(request) => Ok(Self::Map(convert::mmap(request)?)),
            Message::MmapRead(request) => Ok(Self::Read(convert::mmap_read(request, max_message)?)),
            Message::MmapWrite(v1::MmapWriteRequest { mmap_id, offset, data }) => {
                let write = Write { mmap_id, offset, data: data.into() };
                Self::of(Some(Asked::Write(write)), max_message)
            }
            Message::Msync(request) => convert::msync(request).map(|(id, request)| Self::Sync(id, request)),
            Message::Munmap(request) => {
                let (id, unsynced) = convert::munmap(request);
                Ok(Self::Unmap(id, unsynced))
            }
            Message::MmapStats(request) => Ok(Self::Stats(MmapId(request.mmap_id))),
        }
    }

    /// As it is counted.
    pub(super) fn operation(&self) -> Operation {
        match self {
            Self::Map(_) => Operation::Map,
            Self::Read(_) => Operation::Read,
            Self::Write(_) => Operation::Write,
            Self::Sync(..) => Operation::Sync,
            Self::Unmap(..) => Operation::Unmap,
            Self::Stats(_) => Operation::Stats,
        }
    }

    /// What it touches. A mapping that is yet to be made is nothing that others could name before it has ended.
    pub(super) fn footprint(&self) -> Option<Footprint> {
        match self {
            Self::Map(_) => None,
            Self::Read(read) => Some(Footprint::part(read.id, read.offset, read.length, Use::Look)),
            Self::Write(write) => {
                let length = write.data.remaining() as u64;
                Some(Footprint::part(MmapId(write.mmap_id), write.offset, length, Use::Change))
            }
            Self::Sync(id, request) => {
                // To store bytes is to look at them; to take the store's in their place is not.
                let use_ = match request.on_change {
                    OnChange::Fail => Use::Look,
                    OnChange::Force | OnChange::Invalidate => Use::Change,
                };
                let offset = request.offset.unwrap_or(0);
                Some(match request.length {
                    Some(length) => Footprint::part(*id, offset, length, use_),
                    None => Footprint::rest(*id, offset, use_),
                })
            }
            Self::Unmap(id, _) => Some(Footprint::rest(*id, 0, Use::Change)),
            Self::Stats(id) => Some(Footprint::rest(*id, 0, Use::Look)),
        }
    }

    /// Bytes that it holds while it is under way: those it brings, or those it answers.
    pub(super) fn cost(&self) -> u64 {
        match self {
            Self::Read(read) => read.length,
            Self::Write(write) => write.data.remaining() as u64,
            Self::Map(_) | Self::Sync(..) | Self::Unmap(..) | Self::Stats(_) => 0,
        }
    }

    /// What it is called, as the contract's method.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Map(_) => "Mmap",
            Self::Read(_) => "MmapRead",
            Self::Write(_) => "MmapWrite",
            Self::Sync(..) => "Msync",
            Self::Unmap(..) => "Munmap",
            Self::Stats(_) => "MmapStats",
        }
    }

    /// What it is about.
    pub(super) fn about(&self) -> About<'_> {
        match self {
            Self::Map(request) => About::path(&request.path),
            Self::Read(read) => About::part(read.id.0, read.offset, read.length),
            Self::Write(write) => About::part(write.mmap_id, write.offset, write.data.remaining() as u64),
            Self::Sync(id, request) => About { offset: request.offset, bytes: request.length, ..About::mapping(id.0) },
            Self::Unmap(id, _) | Self::Stats(id) => About::mapping(id.0),
        }
    }

    /// Does it, unless something has to be waited for.
    pub(super) fn attempt(&self, core: &MmapManager, caller: &Caller) -> Result<Option<Done>> {
        match self {
            Self::Read(read) => Ok(core.try_read(caller, read.id, read.offset, read.length)?.map(Done::Read)),
            Self::Write(write) => {
                let id = MmapId(write.mmap_id);
                Ok(core.try_write(caller, id, write.offset, write.data.slices())?.map(Done::Wrote))
            }
            Self::Stats(id) => Ok(Some(Done::Other(Answer::MmapStats(convert::stats(core.stats(caller, *id)?))))),
            Self::Map(_) | Self::Sync(..) | Self::Unmap(..) => Ok(None),
        }
    }

    /// Does it, waiting for whatever it needs.
    pub(super) async fn run(self, core: Core, caller: Caller) -> Result<Done> {
        Ok(Done::Other(match self {
            Self::Read(read) => {
                return Ok(Done::Read(core.read(caller, read.id, read.offset, read.length).await?));
            }
            Self::Write(write) => {
                let id = MmapId(write.mmap_id);
                return Ok(Done::Wrote(core.begin_write(&caller, id, write.offset, write.data.slices()).await?));
            }
            Self::Map(request) => Answer::Mmap(convert::mapped(&core.map(caller, request).await?)),
            Self::Sync(id, request) => Answer::Msync(convert::synced(core.sync(caller, id, request).await?)),
            Self::Unmap(id, unsynced) => {
                Answer::Munmap(v1::MunmapResponse { synced_bytes: core.unmap(caller, id, unsynced).await? })
            }
            Self::Stats(id) => Answer::MmapStats(convert::stats(core.stats(caller, id)?)),
        }))
    }
}
