//! [`MmapEntry`]: one memory mapping. Immutable but for its counters and, if it is private, its own pages.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::Instant;

use crate::caller::{MmapId, ProcessKey};
use crate::error::{Errno, Error, Result};
use crate::file::{Access, FaultCounts, MapUse, ReadAhead, Registered};
use crate::flags::{MapFlags, ProtFlags};
use crate::overlay::CowMemory;
use crate::process::Process;
use crate::table::FileRef;
use crate::units::ByteRange;

/// A process's view of a range of one file.
#[derive(Debug)]
pub struct MmapEntry {
    /// Its id.
    pub id: MmapId,
    /// Whose it is.
    pub process: Arc<Process>,
    /// The file.
    pub file: FileRef,
    /// The file's bytes that it maps.
    pub range: ByteRange,
    /// What its owner may do.
    pub prot: ProtFlags,
    overlay: Option<Arc<CowMemory>>,
    faults: FaultCounts,
    ahead: ReadAhead,
}

impl MmapEntry {
    /// A mapping of `range` of `file`.
    pub fn new(
        id: MmapId,
        process: Arc<Process>,
        file: FileRef,
        range: ByteRange,
        prot: ProtFlags,
        flags: MapFlags,
    ) -> Self {
        let overlay = match flags {
            MapFlags::Shared => None,
            MapFlags::Private => Some(Arc::default()),
        };
        let (faults, ahead) = (FaultCounts::default(), ReadAhead::new(range));
        Self { id, process, file, range, prot, overlay, faults, ahead }
    }

    /// Whose it is.
    pub fn owner(&self) -> &ProcessKey {
        &self.process.key
    }

    /// As its file knows it.
    pub fn registered(&self) -> Registered {
        let usage = match &self.overlay {
            Some(overlay) => MapUse::Private(Arc::clone(overlay)),
            None if self.prot.can_write() => MapUse::SharedWritable,
            None => MapUse::SharedReadOnly,
        };
        Registered { range: self.range, owner: self.owner().clone(), prot: self.prot, usage }
    }

    /// Shared or private.
    pub fn flags(&self) -> MapFlags {
        if self.overlay.is_some() { MapFlags::Private } else { MapFlags::Shared }
    }

    /// Whether its writes reach the file.
    pub fn is_shared_writable(&self) -> bool {
        self.overlay.is_none() && self.prot.can_write()
    }

    /// A private mapping's own pages.
    pub fn overlay(&self) -> Option<&CowMemory> {
        self.overlay.as_deref()
    }

    /// How it touches its file.
    pub fn access(&self, deadline: Option<Instant>) -> Access<'_> {
        Access {
            id: self.id,
            overlay: self.overlay.as_deref(),
            account: self.process.account.as_deref(),
            faults: &self.faults,
            ahead: &self.ahead,
            deadline,
        }
    }

    /// What is read ahead of its readers.
    pub fn read_ahead(&self) -> &ReadAhead {
        &self.ahead
    }

    /// Bytes of a private mapping's own pages.
    pub fn private_bytes(&self) -> u64 {
        self.overlay.as_ref().map_or(0, |overlay| overlay.bytes())
    }

    /// Minor and major faults.
    pub fn faults(&self) -> (u64, u64) {
        (self.faults.minor.load(Ordering::Relaxed), self.faults.major.load(Ordering::Relaxed))
    }

    /// The file's bytes that `length` bytes from `offset` of the mapping are.
    ///
    /// # Errors
    /// EINVAL for no bytes or an overflow, SEGV_MAPERR if they are not wholly inside the mapping.
    pub fn file_range(&self, offset: u64, length: u64) -> Result<ByteRange> {
        let range = ByteRange::checked(offset, length)?;
        if range.end() <= self.range.len() {
            return Ok(range.shifted(self.range.start()));
        }
        Err(Error::new(
            Errno::SegvMapErr,
            format!("bytes {range} are not wholly inside mapping {}, which has {} bytes", self.id, self.range.len()),
        )
        .with("mmap_id", self.id)
        .with("offset", offset)
        .with("length", length)
        .with("mapping_length", self.range.len()))
    }

    /// The file's bytes that are to be read.
    ///
    /// # Errors
    /// Those of [`MmapEntry::file_range`], then SEGV_ACCERR if its protection does not allow reading.
    pub fn readable(&self, offset: u64, length: u64) -> Result<ByteRange> {
        let range = self.file_range(offset, length)?;
        self.check_readable()?;
        Ok(range)
    }

    /// The file's bytes that are to be written.
    ///
    /// # Errors
    /// Those of [`MmapEntry::file_range`], then SEGV_ACCERR if its protection does not allow writing.
    pub fn writable(&self, offset: u64, length: u64) -> Result<ByteRange> {
        let range = self.file_range(offset, length)?;
        self.check_writable()?;
        Ok(range)
    }

    /// # Errors
    /// SEGV_ACCERR if its protection does not allow reading.
    fn check_readable(&self) -> Result<()> {
        if self.prot.can_read() { Ok(()) } else { Err(self.forbidden("reading")) }
    }

    /// # Errors
    /// SEGV_ACCERR if its protection does not allow writing.
    fn check_writable(&self) -> Result<()> {
        if self.prot.can_write() { Ok(()) } else { Err(self.forbidden("writing")) }
    }

    fn forbidden(&self, access: &'static str) -> Error {
        let prot = self.prot.bits();
        Error::new(Errno::SegvAccErr, format!("mapping {} does not allow {access}: its prot is {prot}", self.id))
            .with("mmap_id", self.id)
            .with("access", access)
            .with("prot", prot)
    }
}
