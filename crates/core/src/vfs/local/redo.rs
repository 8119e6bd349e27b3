//! A redo record: what a change in place is going to write, so that whoever finds the file half-done finishes it.
//!
//! On the disk, numbers with their low byte first: `MMAPREDO`, format (u32), inode, birth of the inode in ns
//! since the epoch (0: not known), size before, size after (each u64), commit (16 bytes), length of the name
//! (u32), name, number of patches (u64), then of each patch its offset and length (u64) and its bytes; last a
//! CRC-32 of all that. Later formats change the number.
//!
//! Invariants: a record is put in its place only when it is whole and synced, so one that does not add up was
//! damaged afterwards and is applied by nobody. Both ways stream: memory does not grow with the patches.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::copy::Cancelled;
use super::disk::Disk;
use super::inode::io_fault;
use crate::path::PATH_MAX;
use crate::units::MAX_OFFSET;
use crate::vfs::fault::{StoreFault, StoreResult};
use crate::vfs::store::{CommitId, Patch};

const MAGIC: [u8; 8] = *b"MMAPREDO";
const FORMAT: u32 = 1;
/// Bytes that go through memory at a time.
const CHUNK_BYTES: usize = 256 * 1024;

/// Which change of which file it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RedoHead {
    pub(super) inode: u64,
    pub(super) born: u64,
    pub(super) old_size: u64,
    pub(super) size: u64,
    pub(super) commit: CommitId,
    /// By which the change was asked for.
    pub(super) name: PathBuf,
}

/// When the inode came into being, 0 if the file system does not tell: a number that is used again does not
/// have the birth of the one before.
pub(super) fn birth(file: &File) -> StoreResult<u64> {
    let born = file.metadata().map_err(io_fault)?.created().ok();
    let since = born.and_then(|born| born.duration_since(SystemTime::UNIX_EPOCH).ok());
    Ok(since.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or_default()))
}

/// Writes a record, which is not synced yet.
pub(super) fn write_redo(
    disk: &Disk,
    file: &File,
    head: &RedoHead,
    patches: &[Patch],
    cancelled: &Cancelled,
) -> StoreResult<()> {
    let mut writer = Writer { disk, file, at: 0, buffer: Vec::with_capacity(CHUNK_BYTES), crc: Default::default() };
    let name = head.name.as_os_str().as_bytes();
    let length = u32::try_from(name.len()).map_err(|_| StoreFault::BadName("it is too long".into()))?;
    writer.push(&MAGIC)?;
    writer.push(&FORMAT.to_le_bytes())?;
    for number in [head.inode, head.born, head.old_size, head.size] {
        writer.push(&number.to_le_bytes())?;
    }
    writer.push(head.commit.0.as_bytes())?;
    writer.push(&length.to_le_bytes())?;
    writer.push(name)?;
    writer.push(&(patches.len() as u64).to_le_bytes())?;
    for patch in patches {
        cancelled.check()?;
        writer.push(&patch.offset.to_le_bytes())?;
        writer.push(&(patch.data.len() as u64).to_le_bytes())?;
        writer.push(&patch.data)?;
    }
    let crc = writer.crc.clone().finalize();
    writer.push(&crc.to_le_bytes())?;
    writer.flush()
}

struct Writer<'a> {
    disk: &'a Disk,
    file: &'a File,
    at: u64,
    buffer: Vec<u8>,
    crc: crc32fast::Hasher,
}

impl Writer<'_> {
    fn push(&mut self, bytes: &[u8]) -> StoreResult<()> {
        self.crc.update(bytes);
        for part in bytes.chunks(CHUNK_BYTES) {
            if self.buffer.len() + part.len() > CHUNK_BYTES {
                self.flush()?;
            }
            self.buffer.extend_from_slice(part);
        }
        Ok(())
    }

    fn flush(&mut self) -> StoreResult<()> {
        self.disk.write(self.file, &self.buffer, self.at).map_err(io_fault)?;
        self.at += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

/// Reads a whole record and checks it.
pub(super) fn read_redo(record: &File) -> StoreResult<RedoHead> {
    Reader::start(record)?.run(|_, _| Ok(()))
}

/// Hands over the bytes of a record that [`read_redo`] has found whole.
pub(super) fn replay_redo(record: &File, each: impl FnMut(u64, &[u8]) -> StoreResult<()>) -> StoreResult<()> {
    Reader::start(record)?.run(each).map(|_| ())
}

struct Reader<'a> {
    record: BufReader<&'a File>,
    crc: crc32fast::Hasher,
}

impl<'a> Reader<'a> {
    fn start(record: &'a File) -> StoreResult<Self> {
        let mut record = BufReader::new(record);
        record.rewind().map_err(io_fault)?;
        Ok(Self { record, crc: Default::default() })
    }

    fn run(mut self, mut each: impl FnMut(u64, &[u8]) -> StoreResult<()>) -> StoreResult<RedoHead> {
        let head = self.head()?;
        let mut buffer = vec![0; CHUNK_BYTES];
        let mut end = 0;
        for _ in 0..self.u64()? {
            let (offset, length) = (self.u64()?, self.u64()?);
            let patch_end = offset.checked_add(length).filter(|end| *end <= head.size);
            let patch_end = patch_end.filter(|_| offset >= end).ok_or_else(damaged)?;
            let mut at = offset;
            while at < patch_end {
                let want = usize::try_from(patch_end - at).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
                let part = buffer.get_mut(..want).ok_or_else(damaged)?;
                self.fill(part)?;
                each(at, part)?;
                at += want as u64;
            }
            end = patch_end;
        }
        let wanted = self.crc.clone().finalize();
        let found = u32::from_le_bytes(self.array()?);
        let mut more = [0];
        let over = self.record.read(&mut more).map_err(io_fault)? == 0;
        if found == wanted && over { Ok(head) } else { Err(damaged()) }
    }

    fn head(&mut self) -> StoreResult<RedoHead> {
        if self.array()? != MAGIC {
            return Err(damaged());
        }
        let format = u32::from_le_bytes(self.array()?);
        if format != FORMAT {
            return Err(StoreFault::Unsupported(format!(
                "a change of the file is half-done, and its redo record has the format {format}, which this version \
                 does not know: start the newer mmapd that wrote it"
            )));
        }
        let (inode, born, old_size, size) = (self.u64()?, self.u64()?, self.u64()?, self.u64()?);
        let commit = CommitId(uuid::Uuid::from_bytes(self.array()?));
        let length = usize::try_from(u32::from_le_bytes(self.array()?)).unwrap_or(usize::MAX);
        if length > PATH_MAX || size > MAX_OFFSET {
            return Err(damaged());
        }
        let mut name = vec![0; length];
        self.fill(&mut name)?;
        let name = Path::new(std::ffi::OsStr::from_bytes(&name)).to_owned();
        Ok(RedoHead { inode, born, old_size, size, commit, name })
    }

    fn fill(&mut self, bytes: &mut [u8]) -> StoreResult<()> {
        self.record
            .read_exact(bytes)
            .map_err(|error| if error.kind() == io::ErrorKind::UnexpectedEof { damaged() } else { io_fault(error) })?;
        self.crc.update(bytes);
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> StoreResult<[u8; N]> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn u64(&mut self) -> StoreResult<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }
}

fn damaged() -> StoreFault {
    StoreFault::Corrupt(
        "a change of the file is half-done, and its redo record is damaged: restore the file, then remove the record \
         from the folder .mmapd-redo of the mount"
            .into(),
    )
}
