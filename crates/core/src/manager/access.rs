//! read, write and msync. Reads and writes come in two forms: one that waits for what is missing, and one that does
//! not, for who has to keep an order or would rather not make a future of what is in memory anyway.

use std::sync::Arc;

use tracing::Instrument as _;

use super::MmapManager;
use super::api::{Caller, MmapId, OnChange, SyncRequest, SyncWait, Synced};
use crate::block::ReadBytes;
use crate::error::{Error, Result};
use crate::file::{SyncOutcome, Written};
use crate::mapping::MmapEntry;
use crate::slices::total_len;
use crate::units::ByteRange;

impl MmapManager {
    /// Reads `length` bytes from `offset` of a mapping, all of them at one instant.
    ///
    /// # Errors
    /// EINVAL, EBADF, SEGV_MAPERR, SEGV_ACCERR, SIGBUS, ESTALE, EIO, EUCLEAN.
    pub async fn read(&self, caller: impl Into<Caller>, id: MmapId, offset: u64, length: u64) -> Result<ReadBytes> {
        let caller = caller.into();
        self.check_read(&caller, offset, length)?;
        let (entry, _call) = self.own_mapping(&caller, id)?;
        let range = entry.readable(offset, length)?;
        entry.file.read(entry.access(caller.deadline), range).await
    }

    /// [`MmapManager::read`] without waiting: `None` if it would have to wait, because something is not in memory,
    /// or because the journal does not have yet what was just written there.
    ///
    /// # Errors
    /// EINVAL, EBADF, SEGV_MAPERR, SEGV_ACCERR, SIGBUS.
    pub fn try_read(&self, caller: &Caller, id: MmapId, offset: u64, length: u64) -> Result<Option<ReadBytes>> {
        self.check_read(caller, offset, length)?;
        let entry = self.find_own(caller, id)?;
        entry.process.mark_call();
        let range = entry.readable(offset, length)?;
        entry.file.try_read(entry.access(caller.deadline), range)
    }

    /// The caller is going to read `length` bytes from `offset` of a mapping, from the first to the last: they are
    /// brought in ahead of it, a bounded part at a time, as it comes. A hint: nothing fails or waits for it.
    ///
    /// # Errors
    /// EINVAL, EBADF, SEGV_MAPERR, SEGV_ACCERR.
    pub fn will_read(&self, caller: impl Into<Caller>, id: MmapId, offset: u64, length: u64) -> Result<()> {
        let caller = caller.into();
        ByteRange::checked(offset, length)?;
        caller.check_process()?;
        let (entry, _call) = self.own_mapping(&caller, id)?;
        let range = entry.readable(offset, length)?;
        entry.file.will_read(entry.read_ahead(), range);
        Ok(())
    }

    /// Writes `data` at `offset` of a mapping, all of it at one instant. Answers the number of bytes.
    ///
    /// # Errors
    /// EINVAL, EBADF, SEGV_MAPERR, SEGV_ACCERR, SIGBUS, EDQUOT, ENOMEM, ESTALE, EIO, EUCLEAN. After an EIO of the
    /// journal the bytes may be there: whether they survive the server is not known.
    pub async fn write(&self, caller: impl Into<Caller>, id: MmapId, offset: u64, data: &[u8]) -> Result<u64> {
        self.begin_write(&caller.into(), id, offset, &[data]).await?.wait().await
    }

    /// Writes several slices, one behind the other and without gathering them first, at `offset` of a mapping, all
    /// of them at one instant. Answers when the write has taken effect; [`Written::wait`] then answers as
    /// [`MmapManager::write`] does. Who goes on before that can have several writes wait together.
    ///
    /// # Errors
    /// Those of [`MmapManager::write`].
    pub async fn begin_write(
        &self,
        caller: &Caller,
        id: MmapId,
        offset: u64,
        data: &[impl AsRef<[u8]> + Sync],
    ) -> Result<Written> {
        let length = total_len(data);
        self.check_write(caller, offset, length)?;
        let (entry, _call) = self.own_mapping(caller, id)?;
        let range = entry.writable(offset, length)?;
        entry.file.write(entry.access(caller.deadline), range, data).await
    }

    /// [`MmapManager::begin_write`] without waiting: `None` if it would have to wait for the store, for memory or
    /// for room in the journal, or would fail for want of them. Nothing is written then.
    ///
    /// # Errors
    /// EINVAL, EIO (the server is shutting down), EBADF, SEGV_MAPERR, SEGV_ACCERR, SIGBUS.
    pub fn try_write(
        &self,
        caller: &Caller,
        id: MmapId,
        offset: u64,
        data: &[impl AsRef<[u8]>],
    ) -> Result<Option<Written>> {
        let length = total_len(data);
        self.check_write(caller, offset, length)?;
        let entry = self.find_own(caller, id)?;
        entry.process.mark_call();
        let range = entry.writable(offset, length)?;
        entry.file.try_write(entry.access(caller.deadline), range, data)
    }

    /// Whether a read of any length could be done now, part after part. Nothing is read.
    ///
    /// # Errors
    /// EINVAL, EBADF, SEGV_MAPERR, SEGV_ACCERR, SIGBUS.
    pub fn check_readable(&self, caller: &Caller, id: MmapId, offset: u64, length: u64) -> Result<()> {
        ByteRange::checked(offset, length)?;
        caller.check_process()?;
        let (entry, _call) = self.own_mapping(caller, id)?;
        let range = entry.readable(offset, length)?;
        entry.file.check_inside(id, range)
    }

    fn check_read(&self, caller: &Caller, offset: u64, length: u64) -> Result<()> {
        ByteRange::checked(offset, length)?;
        self.check_message("length", length)?;
        caller.check_process()
    }

    fn check_write(&self, caller: &Caller, offset: u64, length: u64) -> Result<()> {
        if length == 0 {
            return Err(Error::invalid("data", "data is empty: write at least one byte"));
        }
        ByteRange::checked(offset, length)?;
        self.check_message("data", length)?;
        caller.check_process()?;
        self.check_open()
    }

    /// Makes the store hold every write to the range that was acknowledged before this call.
    ///
    /// # Errors
    /// EINVAL, EBADF, SEGV_MAPERR, EBUSY (invalidate), ESTALE, EROFS, ENOENT (force), EIO, EUCLEAN.
    pub async fn sync(self: &Arc<Self>, caller: impl Into<Caller>, id: MmapId, request: SyncRequest) -> Result<Synced> {
        let caller = caller.into();
        let offset = request.offset.unwrap_or(0);
        ByteRange::checked(offset, request.length.unwrap_or(1))?;
        let process = caller.process()?;
        self.check_open()?;
        let (entry, _call) = self.own_mapping(&caller, id)?;
        // From the mapping's very end there is nothing left: one byte there is outside, as it should be.
        let length = request.length.unwrap_or_else(|| entry.range.len().saturating_sub(offset).max(1));
        let range = entry.file_range(offset, length)?;
        let outcome = match (request.on_change, entry.is_shared_writable(), request.wait) {
            (OnChange::Invalidate, _, _) => entry.file.invalidate(range, process).await?,
            (_, false, _) => SyncOutcome { bytes: 0, version: entry.file.version() },
            (on_change, true, SyncWait::Stored) => sync_now(&entry, range, on_change).await?,
            (on_change, true, SyncWait::Started) => {
                let entry = Arc::clone(&entry);
                let version = entry.file.version();
                let sync = async move {
                    if let Err(error) = sync_now(&entry, range, on_change).await {
                        tracing::warn!(path = %entry.file.path(), ?error, "an asynchronous sync failed");
                    }
                };
                self.shared.tasks.spawn(sync.in_current_span());
                SyncOutcome { bytes: 0, version }
            }
        };
        Ok(Synced { bytes: outcome.bytes, version: super::api::version_text(outcome.version.as_ref()) })
    }
}

async fn sync_now(entry: &MmapEntry, range: ByteRange, on_change: OnChange) -> Result<SyncOutcome> {
    match on_change {
        OnChange::Force => entry.file.sync_force(vec![range]).await,
        OnChange::Fail | OnChange::Invalidate => entry.file.sync(vec![range]).await,
    }
}
