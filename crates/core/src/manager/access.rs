//! read, write and msync.

use std::sync::Arc;

use super::MmapManager;
use super::api::{Caller, MmapId, OnChange, SyncRequest, SyncWait, Synced};
use crate::block::ReadBytes;
use crate::error::{Error, Result};
use crate::file::SyncOutcome;
use crate::mapping::MmapEntry;
use crate::units::ByteRange;

impl MmapManager {
    /// Reads `length` bytes from `offset` of a mapping, all of them at one instant.
    ///
    /// # Errors
    /// EINVAL, EBADF, SEGV_MAPERR, SEGV_ACCERR, SIGBUS, ESTALE, EIO, EUCLEAN.
    pub async fn read(&self, caller: impl Into<Caller>, id: MmapId, offset: u64, length: u64) -> Result<ReadBytes> {
        let caller = caller.into();
        ByteRange::checked(offset, length)?;
        self.check_message("length", length)?;
        caller.process()?;
        let (entry, _call) = self.own_mapping(&caller, id)?;
        let range = entry.file_range(offset, length)?;
        entry.check_readable()?;
        entry.file.read(entry.access(caller.deadline), range).await
    }

    /// The caller is going to read `length` bytes from `offset` of a mapping, from the first to the last: they are
    /// brought in ahead of it, a bounded part at a time, as it comes. A hint: nothing fails or waits for it.
    ///
    /// # Errors
    /// EINVAL, EBADF, SEGV_MAPERR, SEGV_ACCERR.
    pub fn will_read(&self, caller: impl Into<Caller>, id: MmapId, offset: u64, length: u64) -> Result<()> {
        let caller = caller.into();
        ByteRange::checked(offset, length)?;
        caller.process()?;
        let (entry, _call) = self.own_mapping(&caller, id)?;
        let range = entry.file_range(offset, length)?;
        entry.check_readable()?;
        entry.file.will_read(entry.read_ahead(), range);
        Ok(())
    }

    /// Writes `data` at `offset` of a mapping, all of it at one instant. Answers the number of bytes.
    ///
    /// # Errors
    /// EINVAL, EBADF, SEGV_MAPERR, SEGV_ACCERR, SIGBUS, EDQUOT, ENOMEM, ESTALE, EIO, EUCLEAN.
    pub async fn write(&self, caller: impl Into<Caller>, id: MmapId, offset: u64, data: &[u8]) -> Result<u64> {
        let caller = caller.into();
        let length = data.len() as u64;
        if length == 0 {
            return Err(Error::invalid("data", "data is empty: write at least one byte"));
        }
        ByteRange::checked(offset, length)?;
        self.check_message("data", length)?;
        caller.process()?;
        self.check_open()?;
        let (entry, _call) = self.own_mapping(&caller, id)?;
        let range = entry.file_range(offset, length)?;
        entry.check_writable()?;
        entry.file.write(entry.access(caller.deadline), range, data).await?;
        Ok(length)
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
                self.shared.tasks.spawn(async move {
                    if let Err(error) = sync_now(&entry, range, on_change).await {
                        tracing::warn!(path = %entry.file.path(), ?error, "an asynchronous sync failed");
                    }
                });
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
