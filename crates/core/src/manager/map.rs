//! mmap and munmap.

use std::sync::Arc;

use super::MmapManager;
use super::api::{
    Caller, Create, MapRequest, Mapped, MmapId, Populate, ProcessKey, SyncRequest, SyncWait, Synced, Unsynced,
};
use crate::error::{Errno, Error, Result};
use crate::file::{Leaving, MakeFile};
use crate::flags::{MapFlags, ProtFlags};
use crate::journal::Lsn;
use crate::mapping::MmapEntry;
use crate::path::FilePath;
use crate::table::FileRef;
use crate::units::ByteRange;

/// How often a mapping is tried again because its file was being removed.
const REMOVALS_MAX: u32 = 8;

impl MmapManager {
    /// Maps `length` bytes of a file from `offset`: the common form of [`MmapManager::map`].
    ///
    /// # Errors
    /// Those of [`MmapManager::map`].
    pub async fn mmap(
        self: &Arc<Self>,
        caller: impl Into<Caller>,
        path: String,
        offset: u64,
        length: u64,
        prot: ProtFlags,
        flags: MapFlags,
    ) -> Result<MmapId> {
        let (create, populate) = (Create::Never, Populate::OnDemand);
        let request = MapRequest { path, offset, length: Some(length), prot, flags, create, populate };
        Ok(self.map(caller, request).await?.id)
    }

    /// Maps a range of a file into the calling process, which comes into being if it has not been there.
    ///
    /// # Errors
    /// EINVAL, EACCES, ENOENT, EROFS, ENOMEM, EBUSY (the process is ending), EIO, EUCLEAN, ESTALE.
    pub async fn map(self: &Arc<Self>, caller: impl Into<Caller>, request: MapRequest) -> Result<Mapped> {
        let caller = caller.into();
        let path = FilePath::parse(&request.path)?;
        match request.length {
            Some(length) => drop(ByteRange::checked(request.offset, length)?),
            None => drop(ByteRange::checked(request.offset, 1)?),
        }
        if request.create == Create::Exclusive {
            return Err(Error::invalid("create", "mmap cannot create exclusively: use TruncateFile"));
        }
        let owner = caller.process()?;
        caller.may_look(&path)?;
        if request.prot.can_write() || request.create == Create::IfMissing {
            caller.may_change(&path)?;
        }
        self.check_open()?;
        let _call = self.processes.get(&owner).map(|process| process.begin_call());
        let file = self.files.acquire(&path)?;
        if request.prot.can_write() && request.flags == MapFlags::Shared {
            file.require_writable().await?;
        }
        for _ in 0..REMOVALS_MAX {
            let range = self.find_range(&file, &request).await?;
            let again = self.files.acquire(&path)?;
            // A journal without room refuses a mapping before it is made.
            drop(self.shared.journal_room(&path, ByteRange::new(0, 0), caller.deadline).await?);
            if let Some((entry, said)) = self.register(again, &owner, &request, range)? {
                return self.finish_map(entry, &request, said).await;
            }
            file.changes_ended().await;
        }
        Err(Error::new(Errno::NoEnt, format!("{path} is being removed")).with("path", path))
    }

    /// The file's bytes to map, after asking the store and making the file if that is wanted.
    async fn find_range(&self, file: &FileRef, request: &MapRequest) -> Result<ByteRange> {
        let size = match (file.refresh().await?, request.create) {
            // What is mapped is what is known: with unsynced pages that may not be what the store has.
            (Some(_), _) => file.size(),
            (None, Create::IfMissing) => {
                let length = request.length.ok_or_else(|| {
                    Error::invalid("length", "a file that is to be made needs a length: there is no size to map")
                })?;
                let size = ByteRange::checked(request.offset, length)?.end();
                file.truncate(size, MakeFile::IfMissingLeave).await?.0
            }
            (None, Create::Never | Create::Exclusive) => return Err(crate::vfs::no_such_file(file.path())),
        };
        let Some(length) = request.length else {
            return match size.checked_sub(request.offset) {
                Some(left) if left > 0 => ByteRange::checked(request.offset, left),
                _ => Err(Error::invalid(
                    "length",
                    format!("nothing is left to map from offset {} of a file of {size} bytes", request.offset),
                )
                .with("offset", request.offset)
                .with("file_size", size)),
            };
        };
        ByteRange::checked(request.offset, length)
    }

    /// Enters the mapping everywhere, or nowhere. `None`: the file is being removed.
    fn register(
        &self,
        file: FileRef,
        owner: &ProcessKey,
        request: &MapRequest,
        range: ByteRange,
    ) -> Result<Option<(Arc<MmapEntry>, Lsn)>> {
        let max = self.shared.limits.max_mappings;
        if self.mappings.len() >= max {
            return Err(Error::new(Errno::NoMem, format!("there are {max} mappings, the most this server serves"))
                .with("limit", "max_mappings")
                .with("max", max));
        }
        if request.populate == Populate::Now {
            self.check_populate(range.intersect(ByteRange::new(0, file.size())).len())?;
        }
        let id = self.state.new_id()?;
        let process = self.processes.get_or_create(owner, &self.shared.limits)?;
        process.add_mapping(id, &self.shared.limits)?;
        let entry = Arc::new(MmapEntry::new(id, Arc::clone(&process), file, range, request.prot, request.flags));
        let Some(said) = entry.file.register(id, entry.registered()) else {
            process.remove_mapping(id);
            return Ok(None);
        };
        self.mappings.insert(id, Arc::clone(&entry));
        // Whoever began to end the process before the mapping could be found would leave it behind.
        if let Err(ending) = process.check_live() {
            self.drop_mapping(&entry, Leaving::Synced);
            return Err(ending);
        }
        Ok(Some((entry, said)))
    }

    fn check_populate(&self, bytes: u64) -> Result<()> {
        let max = self.shared.cache.capacity();
        if bytes <= max {
            return Ok(());
        }
        Err(Error::new(Errno::NoMem, format!("populate of {bytes} bytes is more than the cache holds ({max})"))
            .with("limit", "clean_bytes")
            .with("length", bytes)
            .with("max", max))
    }

    async fn finish_map(&self, entry: Arc<MmapEntry>, request: &MapRequest, said: Lsn) -> Result<Mapped> {
        // A caller that goes away before it learns the id would leave a mapping that nobody knows.
        let undo = UndoGuard { manager: self, entry: Some(&entry) };
        if request.populate == Populate::Now {
            entry.file.populate(entry.range).await?;
        }
        self.shared.journaled(said).await?;
        undo.keep();
        Ok(Mapped { id: entry.id, length: entry.range.len(), file_size: entry.file.size() })
    }

    /// Takes a mapping off every list.
    pub(super) fn drop_mapping(&self, entry: &MmapEntry, leaving: Leaving) -> Lsn {
        let said = entry.file.unregister(entry.id, leaving);
        entry.file.stop_reading_ahead(entry.read_ahead());
        if self.mappings.remove(&entry.id).is_some() {
            self.faults.add(entry.faults());
        }
        entry.process.remove_mapping(entry.id);
        said
    }

    /// Unmaps, after syncing what a shared writable mapping left unsynced. Answers the bytes synced.
    ///
    /// # Errors
    /// Those of [`MmapManager::unmap`].
    pub async fn munmap(self: &Arc<Self>, caller: impl Into<Caller>, id: MmapId) -> Result<u64> {
        self.unmap(caller, id, Unsynced::Sync).await
    }

    /// Unmaps. Answers the bytes synced. If the sync fails the mapping stays.
    ///
    /// # Errors
    /// EINVAL, EBADF, EBUSY (discard), ESTALE, EROFS, EIO, EUCLEAN.
    pub async fn unmap(self: &Arc<Self>, caller: impl Into<Caller>, id: MmapId, unsynced: Unsynced) -> Result<u64> {
        let caller = caller.into();
        let process = caller.process()?;
        self.check_open()?;
        let (entry, _call) = self.own_mapping(&caller, id)?;
        let mut synced = 0;
        if entry.is_shared_writable() {
            let file = &entry.file;
            match unsynced {
                Unsynced::Sync => synced = file.sync(vec![entry.range]).await?.bytes,
                Unsynced::SyncForce => synced = file.sync_force(vec![entry.range]).await?.bytes,
                Unsynced::Discard => file.discard(&[entry.range], Some(&process)).await?,
                Unsynced::DiscardForce => file.discard(&[entry.range], None).await?,
            }
        }
        let said = self.drop_mapping(&entry, Leaving::Synced);
        self.shared.journaled(said).await?;
        Ok(synced)
    }

    /// Syncs a whole mapping: the common form of [`MmapManager::sync`].
    ///
    /// # Errors
    /// Those of [`MmapManager::sync`].
    pub async fn msync(self: &Arc<Self>, caller: impl Into<Caller>, id: MmapId) -> Result<Synced> {
        self.sync(caller, id, SyncRequest { wait: SyncWait::Stored, ..SyncRequest::default() }).await
    }
}

/// Takes a new mapping back unless it is kept.
struct UndoGuard<'a> {
    manager: &'a MmapManager,
    entry: Option<&'a Arc<MmapEntry>>,
}

impl UndoGuard<'_> {
    fn keep(mut self) {
        self.entry = None;
    }
}

impl Drop for UndoGuard<'_> {
    fn drop(&mut self) {
        if let Some(entry) = self.entry {
            self.manager.drop_mapping(entry, Leaving::Synced);
        }
    }
}
