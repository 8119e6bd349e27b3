//! A process's view of a range of a file: [`Mapping`], with its reads, writes and its end.
//!
//! Offsets are counted from its start. It holds no bytes: each read asks the server. One `read` or `write` is one message
//! and takes effect at one instant; the streams, `read_all` and `write_all` are several, and do not.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use futures::{Stream, TryStreamExt, stream};
use mmap_proto::v1::{self, mmap_pipeline_request::Op, mmap_pipeline_response::Result as Answer};
use tokio::time::Instant;
use tonic::Code;

use crate::{
    bulk::{self, PIECE, ReadStream, pieces},
    caller::Stubs,
    error::{Error, ErrorKind, Result},
    link::Link,
    retry::{self, Repeat},
    sync::Msync,
    types::{MappingInfo, Synced},
};

/// The longest that a server takes by default.
pub const MESSAGE_MAX: usize = 4 << 20;
const PIECES_IN_FLIGHT: usize = 4;
/// Up to here reads and writes share a stream: 64 KiB cost a third there of what a call of their own costs. Beyond,
/// the difference goes (a tenth for writes of 256 KiB), and what is large stands before what is small; so that is a
/// call of its own, over the connection for what is large.
const SMALL_MAX: usize = 64 << 10;

/// A range of a file, mapped into a process.
///
/// **Dropping** it unmaps in the background if its process is attached: unsynced shared writes are synced first,
/// and if that fails the mapping stays until its process ends, which syncs again. Use [`unmap`](Self::unmap) to
/// learn how it went. Without a background task (a process from `Client::process`)
/// a dropped mapping stays until its process ends.
///
/// **Order**: a call that is begun after another was answered comes after it. Of two that are in flight at once either
/// may come first, also if one task began them.
///
/// **Cancel safety**: dropping the future of a read, a sync or `stats` is harmless. A write or unmap that was
/// cancelled may or may not have happened.
///
/// Every call fails with [`ErrorKind::ProcessEnded`] once the process has exited or was lost.
#[derive(Debug)]
pub struct Mapping {
    link: Arc<Link>,
    id: u64,
    length: u64,
    file_size: u64,
    is_mapped: bool,
}

impl Mapping {
    pub(crate) fn new(link: Arc<Link>, answer: v1::MmapResponse) -> Self {
        link.remember(answer.mmap_id);
        Self { link, id: answer.mmap_id, length: answer.length, file_size: answer.file_size, is_mapped: true }
    }

    /// The id: never reused by its server.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The process that it belongs to.
    pub fn pid(&self) -> u32 {
        self.link.pid
    }

    /// Bytes mapped. Never 0.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Size of the file when it was mapped. [`stats`](Self::stats) tells the present one.
    pub fn file_size(&self) -> u64 {
        self.file_size
    }

    /// Reads exactly `length` bytes, all at one instant. At most [`MESSAGE_MAX`] with a server's defaults.
    ///
    /// Cancel safe; repeated by itself. The bytes are where they were received, beside those of other answers, up to
    /// 1 MiB that stays as long as one of them does: copy what you keep.
    ///
    /// # Errors
    /// `SEGV_MAPERR` outside the mapping, `SIGBUS` behind the end of the file, `SEGV_ACCERR` without [`Prot::READ`](crate::types::Prot::READ).
    pub async fn read(&self, offset: u64, length: usize) -> Result<Bytes> {
        let request = v1::MmapReadRequest { mmap_id: self.id, offset, length: length as u64 };
        let is_small = length <= SMALL_MAX;
        let data = match self.link.operate(is_small, Repeat::Idempotent, || Op::MmapRead(request)).await? {
            Some(Answer::MmapRead(answer)) => answer.data,
            Some(_) => return Err(Error::protocol("a read was answered with something else")),
            None => {
                let send = |stubs: Stubs, request| async move { stubs.mmap().mmap_read(request).await };
                let caller = self.link.alive()?.bulk();
                // In a box, so that the small ones need not carry the room for it.
                Box::pin(caller.call(Repeat::Idempotent, request, send)).await?.into_inner().data
            }
        };
        if data.len() != length {
            let answered = data.len();
            return Err(Error::protocol(format!("a read of {length} bytes was answered with {answered}")));
        }
        Ok(data)
    }

    /// As [`read`](Self::read), into a buffer. On an error the buffer is as it was.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub async fn read_into(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        buffer.copy_from_slice(&self.read(offset, buffer.len()).await?);
        Ok(())
    }

    /// Reads `length` bytes from `offset` on as a stream of pieces, in order and without gaps, of any length. Each piece is
    /// read at one instant, the whole is not: a writer may come between. Nothing is read for a length of 0.
    ///
    /// Cancel safe. The client's deadline is for each piece. A stream that breaks is made again by itself, and goes on
    /// at the byte that it had reached; after an error it ends.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let server = mmap_fake::Fake::start()?;
    /// # let client = mmap_client::Client::connect(server.address()).await?;
    /// # let process = client.process(7);
    /// # server.put_file("/data/large", vec![7; 3 << 20]);
    /// use futures::TryStreamExt as _;
    ///
    /// let mapping = process.map("/data/large").await?;
    /// let mut pieces = mapping.read_stream(0, mapping.length())?;
    /// let mut sum = 0;
    /// while let Some(piece) = pieces.try_next().await? {
    ///     sum += piece.len() as u64;
    /// }
    /// assert_eq!(sum, mapping.length());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for a range beyond 2^64; in the stream, those of [`read`](Self::read).
    pub fn read_stream(&self, offset: u64, length: u64) -> Result<ReadStream<'_>> {
        ReadStream::new(&self.link, self.id, offset, length)
    }

    /// Reads `length` bytes of any number: up to [`PIECE`] as [`read`](Self::read) does, more as
    /// [`read_stream`](Self::read_stream), and then not at one instant. Nothing is read for a length of 0.
    ///
    /// Cancel safe; repeated by itself from where it broke.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub async fn read_all(&self, offset: u64, length: usize) -> Result<Vec<u8>> {
        let mut pieces = self.read_stream(offset, length as u64)?;
        if (1..=PIECE).contains(&length) {
            return Ok(self.read(offset, length).await?.into());
        }
        let mut data = Vec::with_capacity(length);
        while let Some(piece) = pieces.try_next().await? {
            data.extend_from_slice(&piece);
        }
        Ok(data)
    }

    /// Writes all of `data` at one instant. At most [`MESSAGE_MAX`] with a server's defaults.
    ///
    /// Not cancel safe: it may or may not have happened. Never repeated once it was sent; after an error of
    /// unknown fate it is safe to write the same bytes again if nobody else writes the range.
    ///
    /// # Errors
    /// Those of [`read`](Self::read), `SEGV_ACCERR` without [`Prot::WRITE`](crate::types::Prot::WRITE), and `EDQUOT`, `ENOMEM` at a limit.
    pub async fn write(&self, offset: u64, data: impl Into<Bytes> + Send) -> Result<()> {
        let data = data.into();
        let length = data.len() as u64;
        let request = v1::MmapWriteRequest { mmap_id: self.id, offset, data };
        let is_small = request.data.len() <= SMALL_MAX;
        let written = match self.link.operate(is_small, Repeat::Unsent, || Op::MmapWrite(request.clone())).await? {
            Some(Answer::MmapWrite(answer)) => answer.written,
            Some(_) => return Err(Error::protocol("a write was answered with something else")),
            None => {
                let send = |stubs: Stubs, request| async move { stubs.mmap().mmap_write(request).await };
                let caller = self.link.alive()?.bulk();
                Box::pin(caller.call(Repeat::Unsent, request, send)).await?.into_inner().written
            }
        };
        if written != length {
            return Err(Error::protocol(format!("a write of {length} bytes was answered with {written} written")));
        }
        Ok(())
    }

    /// Writes `pieces` one after the other from `offset` on, and answers how many bytes that were. Each is written at
    /// one instant (in several, if it is longer than [`PIECE`]), the whole is not.
    ///
    /// Not cancel safe, and never repeated: after an error, also one of `pieces`, everything up to some byte may have
    /// been written. The client's deadline is for each piece to be taken, and for the answer at the end.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let server = mmap_fake::Fake::start()?;
    /// # let client = mmap_client::Client::connect(server.address()).await?;
    /// # let process = client.process(7);
    /// use futures::stream;
    /// use mmap_client::{Error, Prot};
    ///
    /// let mapping = process.map("/data/text").length(64).prot(Prot::READ_WRITE).create().await?;
    /// let pieces = stream::iter(["to be ", "or not ", "to be"]).map(|piece| Ok::<_, Error>(piece.into()));
    /// # use futures::StreamExt as _;
    /// assert_eq!(mapping.write_stream(0, pieces).await?, 18);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// Those of [`write`](Self::write), `ENOTSUP` where the server has no streams, and the first error of `pieces`.
    pub async fn write_stream<E>(
        &self,
        offset: u64,
        pieces: impl Stream<Item = std::result::Result<Bytes, E>> + Send,
    ) -> std::result::Result<u64, E>
    where
        E: From<Error>,
    {
        bulk::write(&self.link, self.id, offset, pieces).await
    }

    /// Writes `data` of any length: up to [`PIECE`] as [`write`](Self::write) does, more in pieces. After an error any
    /// of the pieces may have been written, in any order.
    ///
    /// Not cancel safe, and not at one instant. Repeated by itself if nothing was sent yet.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub async fn write_all(&self, offset: u64, data: impl Into<Bytes> + Send) -> Result<()> {
        let data = data.into();
        let pieces = pieces(offset, data.len())?;
        if data.len() <= PIECE {
            return if data.is_empty() { Ok(()) } else { self.write(offset, data).await };
        }
        let caller = self.link.alive()?;
        let due = Instant::now() + caller.allowed();
        let write = || self.write_stream(offset, stream::iter([Ok(data.clone())]));
        match retry::run(caller.settings().retry, Repeat::Unsent, due, write).await {
            Err(error) if error.code() == Code::Unimplemented => {}
            written => return written.map(|_| ()),
        }
        let writes = pieces.map(|(at, length)| {
            // Both are below the data's length, which is a usize.
            let start = usize::try_from(at - offset).unwrap_or(usize::MAX);
            Ok((at, data.slice(start..start + length)))
        });
        stream::iter(writes).try_for_each_concurrent(PIECES_IN_FLIGHT, |(at, piece)| self.write(at, piece)).await
    }

    /// Makes the store hold every write of the mapping that was acknowledged before. Shorthand for
    /// [`sync`](Self::sync) without options.
    ///
    /// Cancel safe (the sync may still happen); repeated by itself.
    ///
    /// # Errors
    /// `ESTALE` if the object changed in the store: nothing was overwritten.
    pub async fn msync(&self) -> Result<Synced> {
        self.sync().await
    }

    /// A sync with options: see [`Msync`]. Await it to run it.
    pub fn sync(&self) -> Msync<'_> {
        Msync::new(&self.link, self.id)
    }

    /// What the mapping is and costs. Needs [`Capability::SystemInfo`](crate::types::Capability::SystemInfo).
    ///
    /// Cancel safe; repeated by itself.
    ///
    /// # Errors
    /// `EACCES` without the capability.
    pub async fn stats(&self) -> Result<MappingInfo> {
        let request = v1::MmapStatsRequest { mmap_id: self.id };
        let send = |stubs: Stubs, request| async move { stubs.mmap().mmap_stats(request).await };
        Ok(self.link.alive()?.call(Repeat::Idempotent, request, send).await?.into_inner().into())
    }

    /// Syncs and unmaps. Answers how many bytes were written back, in whole pages.
    ///
    /// Not cancel safe: it may or may not have happened (if not, the drop does it in the background).
    ///
    /// # Errors
    /// If the sync fails the mapping stays, and is given back in the error.
    pub async fn unmap(self) -> std::result::Result<u64, UnmapError> {
        self.unmap_with(UnmapOptions::default()).await
    }

    /// Unmaps and gives up what is unsynced in its range, also what other processes wrote there.
    ///
    /// # Errors
    /// `EBUSY` while another process has a writable shared mapping over such bytes; the mapping is given back.
    pub async fn unmap_discard(self) -> std::result::Result<(), UnmapError> {
        self.unmap_with(UnmapOptions { discard: true, force: false }).await.map(|_| ())
    }

    /// As [`unmap`](Self::unmap), with options.
    ///
    /// # Errors
    /// If it fails the mapping stays, and is given back in the error.
    pub async fn unmap_with(mut self, options: UnmapOptions) -> std::result::Result<u64, UnmapError> {
        let UnmapOptions { discard, force } = options;
        let request = v1::MunmapRequest { mmap_id: self.id, discard, force };
        let send = |stubs: Stubs, request| async move { stubs.mmap().munmap(request).await };
        // Before the call and not after: a mapping that may be gone proves nothing about its process.
        self.link.forget(self.id);
        let answer = match self.link.alive() {
            Ok(caller) => caller.call(Repeat::Unsent, request, send).await,
            Err(error) => Err(error),
        };
        match answer {
            Ok(answer) => {
                self.is_mapped = false;
                Ok(answer.into_inner().synced_bytes)
            }
            Err(error) => {
                if error.kind() == ErrorKind::Server && error.reason().is_some() {
                    self.link.remember(self.id);
                }
                Err(UnmapError { mapping: self, error })
            }
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.is_mapped {
            self.link.drop_mapping(self.id);
        }
    }
}

/// How a mapping ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnmapOptions {
    /// Give up what is unsynced in the range instead of syncing it.
    pub discard: bool,
    /// With `discard`: also while others map those bytes for writing. Without: as [`Msync::force`].
    pub force: bool,
}

/// An unmap that failed. The mapping is in it, to try again; dropping it leaves that to the background.
#[derive(Debug)]
pub struct UnmapError {
    /// The mapping, still mapped as far as anybody knows.
    pub mapping: Mapping,
    /// Why.
    pub error: Error,
}

impl fmt::Display for UnmapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.error, f)
    }
}

impl std::error::Error for UnmapError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}

impl From<UnmapError> for Error {
    fn from(failed: UnmapError) -> Self {
        failed.error
    }
}
