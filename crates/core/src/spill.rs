//! [`SpillFile`]: private pages that memory has no room for, in slots of one page in a file on the local disk.
//!
//! The file has no name: it is removed as soon as it is open, so that nothing of it outlives the process. A slot
//! is free again when its last holder drops it, and used again before the file grows. Each page has a checksum,
//! kept in memory: what the disk gives back is what it was given, or an error. It does not know whose pages they
//! are. Everything here that touches the disk blocks.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;

use crate::error::{Errno, Error, Result};
use crate::units::{PAGE_LEN, PAGE_SIZE};

/// The file with the slots.
#[derive(Debug)]
pub struct SpillFile {
    file: File,
    slots: Mutex<Slots>,
    max: u32,
}

#[derive(Debug, Default)]
struct Slots {
    free: Vec<u32>,
    /// The slots below were used already.
    end: u32,
}

/// A page in the file. Dropping it frees its place.
#[derive(Debug)]
pub struct Slot {
    owner: Arc<SpillFile>,
    number: u32,
    checksum: u32,
}

impl SpillFile {
    /// A file of at most `bytes` in `folder`.
    ///
    /// # Errors
    /// EIO if it cannot be made.
    pub fn open(folder: &Path, bytes: u64) -> Result<Arc<Self>> {
        let path = folder.join("spill");
        let open = || {
            let file = File::options().create(true).truncate(true).read(true).write(true).open(&path)?;
            std::fs::remove_file(&path)?;
            Ok(file)
        };
        let file = open().map_err(|source: io::Error| {
            Error::new(Errno::Io, format!("the spill file {} cannot be made: {source}", path.display()))
                .with("path", path.display())
                .caused_by(source)
        })?;
        Ok(Self::over(file, bytes))
    }

    fn over(file: File, bytes: u64) -> Arc<Self> {
        let max = u32::try_from(bytes / PAGE_SIZE).unwrap_or(u32::MAX);
        Arc::new(Self { file, slots: Mutex::default(), max })
    }

    /// Writes a page, with zeros behind its end. Blocks.
    ///
    /// # Errors
    /// ENOMEM if the file has its size already or the disk is full; EIO.
    pub fn write(self: &Arc<Self>, page: &[u8]) -> Result<Arc<Slot>> {
        let mut whole = [0; PAGE_LEN];
        whole[..page.len()].copy_from_slice(page);
        let number = self.take().ok_or_else(|| self.full("the spill file is full"))?;
        // Made first, so that the place is free again if the write fails.
        let slot = Slot { owner: Arc::clone(self), number, checksum: crc32fast::hash(&whole) };
        match self.file.write_all_at(&whole, u64::from(number) * PAGE_SIZE) {
            Ok(()) => Ok(Arc::new(slot)),
            Err(error) if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
                Err(self.full("the disk of the state directory is full").caused_by(error))
            }
            Err(error) => Err(Error::new(Errno::Io, format!("the spill file cannot be written: {error}"))
                .with("errno", error.raw_os_error().unwrap_or_default())
                .caused_by(error)),
        }
    }

    fn take(&self) -> Option<u32> {
        let mut slots = self.slots.lock();
        slots.free.pop().or_else(|| {
            let number = slots.end;
            (number < self.max).then(|| {
                slots.end += 1;
                number
            })
        })
    }

    fn full(&self, why: &str) -> Error {
        let (used, max) = (self.used(), self.size());
        let todo = "unmap private mappings, or make room";
        Error::new(Errno::NoMem, format!("{why}, which holds {used} of at most {max} bytes of private pages: {todo}"))
            .with("limit", "private_spill")
            .with("max", max)
            .with("used", used)
    }

    /// Bytes of the pages in it.
    pub fn used(&self) -> u64 {
        let slots = self.slots.lock();
        (u64::from(slots.end) - slots.free.len() as u64) * PAGE_SIZE
    }

    /// Bytes that it may have.
    pub fn size(&self) -> u64 {
        u64::from(self.max) * PAGE_SIZE
    }
}

impl Slot {
    /// Reads the page. Blocks.
    ///
    /// # Errors
    /// EUCLEAN if the disk gives back something else than it was given, EIO.
    pub fn read(&self) -> Result<Bytes> {
        let mut page = BytesMut::zeroed(PAGE_LEN);
        let offset = u64::from(self.number) * PAGE_SIZE;
        match self.owner.file.read_exact_at(&mut page, offset) {
            Ok(()) if crc32fast::hash(&page) == self.checksum => Ok(page.freeze()),
            Ok(()) => Err(damaged(offset, "does not match its checksum")),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(damaged(offset, "is cut short")),
            Err(error) => {
                Err(Error::new(Errno::Io, format!("the spill file cannot be read: {error}")).caused_by(error))
            }
        }
    }
}

fn damaged(offset: u64, how: &str) -> Error {
    let sentence = format!("a private page in the spill file {how}: the disk of the state directory is not sound");
    Error::new(Errno::UClean, sentence).with("spill_offset", offset)
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.owner.slots.lock().free.push(self.number);
    }
}

/// Spilled pages whose bytes an attempt has at hand.
#[derive(Debug, Default)]
pub struct InHand(HashMap<u32, (Arc<Slot>, Bytes)>);

impl InHand {
    /// The slot's bytes, if they are at hand.
    pub fn get(&self, slot: &Slot) -> Option<&Bytes> {
        // A slot at hand is not free, so its number is nobody else's.
        self.0.get(&slot.number).map(|(_, data)| data)
    }

    /// Reads slots from the disk. Cancel safe.
    ///
    /// # Errors
    /// Those of [`Slot::read`].
    pub async fn bring(&mut self, slots: Vec<Arc<Slot>>) -> Result<()> {
        let read = move || slots.into_iter().map(|slot| slot.read().map(|data| (slot, data))).collect::<Result<_>>();
        let brought: Vec<(Arc<Slot>, Bytes)> = blocking(read).await?;
        self.0.extend(brought.into_iter().map(|(slot, data)| (slot.number, (slot, data))));
        Ok(())
    }
}

/// Runs disk work where it holds up nobody. Cancel safe: it is finished, and its result dropped.
///
/// # Errors
/// Those of `work`; [`Errno::Fault`] if it panicked.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|failure| {
        tracing::error!(%failure, "work on the spill file failed");
        Err(Error::new(Errno::Fault, "an internal fault; it is in the server's log"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spill(pages: u64) -> Arc<SpillFile> {
        SpillFile::over(tempfile::tempfile().unwrap(), pages * PAGE_SIZE)
    }

    #[test]
    fn a_page_is_read_back_with_zeros_behind_its_end() {
        let slot = spill(4).write(b"short").unwrap();
        let page = slot.read().unwrap();
        assert_eq!((page.len(), &page[..6]), (PAGE_LEN, &b"short\0"[..]));
    }

    #[test]
    fn a_place_that_is_free_again_is_used_before_the_file_grows() {
        let spill = spill(2);
        let first = spill.write(&[1; PAGE_LEN]).unwrap();
        let second = spill.write(&[2; PAGE_LEN]).unwrap();
        let error = spill.write(&[3; PAGE_LEN]).unwrap_err();
        assert_eq!((error.errno(), spill.used()), (Errno::NoMem, 2 * PAGE_SIZE));
        drop(first);
        let third = spill.write(&[3; PAGE_LEN]).unwrap();
        assert_eq!((second.read().unwrap()[0], third.read().unwrap()[0]), (2, 3));
        assert_eq!(spill.file.metadata().unwrap().len(), 2 * PAGE_SIZE);
        drop((second, third));
        assert_eq!(spill.used(), 0);
    }

    #[test]
    fn a_flipped_bit_and_a_cut_file_are_found() {
        let spill = spill(2);
        let slot = spill.write(&[1; PAGE_LEN]).unwrap();
        spill.file.write_all_at(&[3], 100).unwrap();
        assert_eq!(slot.read().unwrap_err().errno(), Errno::UClean);
        spill.file.set_len(1000).unwrap();
        assert_eq!(slot.read().unwrap_err().errno(), Errno::UClean);
    }

    #[test]
    fn a_full_disk_is_a_sentence_and_its_place_is_free_again() {
        // Every write to it fails for want of space.
        let full = File::options().read(true).write(true).open("/dev/full").unwrap();
        let spill = SpillFile::over(full, 10 * PAGE_SIZE);
        let error = spill.write(&[1; PAGE_LEN]).unwrap_err();
        assert_eq!((error.errno(), spill.used()), (Errno::NoMem, 0));
        assert!(error.message().contains("disk of the state directory is full"), "{error}");
    }

    #[test]
    fn the_file_has_no_name_and_a_leftover_is_no_hindrance() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("spill"), "left over").unwrap();
        let spill = SpillFile::open(folder.path(), PAGE_SIZE).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        assert_eq!(spill.write(&[7; PAGE_LEN]).unwrap().read().unwrap()[0], 7);
        let error = SpillFile::open(&folder.path().join("missing"), PAGE_SIZE).unwrap_err();
        assert_eq!(error.errno(), Errno::Io);
    }
}
