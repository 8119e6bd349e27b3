//! [`Journal`]: the journal as the rest of the core has it.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::counts::JournalUse;
use super::disk::Disk;
use super::frame;
use super::open::{Found, Opened, read, start};
use super::options::{Lsn, Options};
use super::queue::{Admission, Ended, Room, Shared, Written, stopped};
use super::writer::Writer;
use crate::error::{Errno, Error, Result};

/// How long a room is waited for where the caller has no deadline.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long closing waits for the disk.
const CLOSE: Duration = Duration::from_secs(30);
/// How long dropping the last handle does, which may be on a thread that others need.
const DROP: Duration = Duration::from_millis(100);

/// A journal that is open. Cheap to clone; dropping the last clone closes it, without waiting for long.
#[derive(Clone, Debug)]
pub struct Journal {
    pub(super) shared: Arc<Shared>,
    pub(super) disk: Arc<dyn Disk>,
    thread: Arc<Thread>,
}

/// The writer thread's owner.
#[derive(Debug)]
struct Thread {
    shared: Arc<Shared>,
    handle: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.shared.ask_close();
        let Some(handle) = self.handle.get_mut().take() else { return };
        let until = std::time::Instant::now() + DROP;
        while !handle.is_finished() && std::time::Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
        if handle.is_finished() {
            // A panic of its has been told to everybody already.
            let _ = handle.join();
        } else {
            tracing::warn!("the journal is still being written");
        }
    }
}

impl Journal {
    /// Hands every record there is to `replay`, in order, and opens the journal behind them. Blocks. What
    /// `replay` has built is to be thrown away on an error: damage may be found behind what was replayed.
    ///
    /// # Errors
    /// What `replay` answers; `Errno::UClean` for acknowledged records that cannot be read (unless that is
    /// accepted) and for a segment that is none; `Errno::NotSup` for a later format; `Errno::Io`; nothing was
    /// changed on the disk in the first three cases.
    pub fn open(
        disk: Arc<dyn Disk>,
        options: Options,
        replay: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<(Self, Opened)> {
        Self::begin(Self::read(disk, options, replay)?)
    }

    /// The first half of [`Journal::open`], for who has to look at what was replayed before anything is changed on
    /// the disk.
    ///
    /// # Errors
    /// As [`Journal::open`]; nothing was changed on the disk.
    pub fn read(disk: Arc<dyn Disk>, options: Options, replay: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<Found> {
        read(disk, options, replay)
    }

    /// The second half: goes on behind what was found. Blocks.
    ///
    /// # Errors
    /// `Errno::Io`.
    pub fn begin(found: Found) -> Result<(Self, Opened)> {
        let (disk, options) = (Arc::clone(&found.disk), found.options.clone());
        let place = disk.shown("");
        let start = start(found)?;
        let written = start.written.0;
        let shared = Arc::new(Shared::new(
            options,
            written + 1,
            Written {
                bytes: 0,
                left: start.chain.left(),
                has_spare: start.chain.has_spare(),
                acknowledged: written,
                synced: written,
            },
        ));
        shared.publish_space((start.chain.bytes(), 0), start.chain.has_old(), None);
        let writer = Writer::new(Arc::clone(&shared), start.chain, place, written, written);
        let handle =
            std::thread::Builder::new().name("journal".to_owned()).spawn(|| writer.run()).map_err(|error| {
                Error::new(Errno::Io, format!("the journal's thread cannot be started: {error}")).caused_by(error)
            })?;
        let thread = Arc::new(Thread { shared: Arc::clone(&shared), handle: Mutex::new(Some(handle)) });
        Ok((Self { shared, disk, thread }, start.opened))
    }

    /// Room for a record of `bytes` bytes. Waits in line while too much waits to be written, until `deadline`,
    /// or 30 s where there is none. Cancel safe.
    ///
    /// # Errors
    /// `Errno::DQuot` if the disk is full and what was preallocated is used up, or if it is so slow that the
    /// deadline passes, with what waits to be written or with a checkpoint; what was accepted before is not affected.
    /// `Errno::NoMem` if no record may be that large, `Errno::Io` if the journal has failed or is closed.
    pub async fn reserve(&self, bytes: usize, deadline: Option<Instant>) -> Result<Room> {
        let size = frame::size_of(bytes) as u64;
        let max = self.shared.options.queue_bytes;
        let permits = u32::try_from(size).ok().filter(|_| size <= max).ok_or_else(|| too_large(bytes, max))?;
        // Without a timer where there is nothing to wait for.
        if let Some(room) = self.try_reserve(bytes) {
            return Ok(room);
        }
        let started = Instant::now();
        let deadline = deadline.unwrap_or(started + PATIENCE);
        match tokio::time::timeout_at(deadline, self.wait_for_room(permits)).await {
            Ok(room) => room,
            Err(_elapsed) => Err(self.no_room(bytes, started.elapsed())),
        }
    }

    /// [`Journal::reserve`] without waiting: `None` where it would have to wait, or fail.
    pub fn try_reserve(&self, bytes: usize) -> Option<Room> {
        let permit = self.shared.try_line_up(u32::try_from(frame::size_of(bytes)).ok()?)?;
        match self.shared.admit(permit) {
            Ok(Admission::Given(room)) => Some(room),
            Ok(Admission::Later(_)) | Err(_) => None,
        }
    }

    async fn wait_for_room(&self, permits: u32) -> Result<Room> {
        let mut permit = self.shared.line_up(permits).await?;
        let mut space = None;
        loop {
            permit = match self.shared.admit(permit)? {
                Admission::Given(room) => return Ok(room),
                Admission::Later(permit) => permit,
            };
            // The first time round it only marks where to look from, and asks again.
            match &mut space {
                None => space = Some(self.shared.space.subscribe()),
                // It cannot fail: this handle has the sender.
                Some(space) => space.changed().await.map_err(|_| stopped())?,
            }
        }
    }

    /// Whether there is room for `bytes` in any number of records, as far as is known. It holds none of it.
    ///
    /// # Errors
    /// As [`Journal::reserve`].
    pub async fn check_room(&self, bytes: u64) -> Result<()> {
        let started = Instant::now();
        let mut space = self.shared.space.subscribe();
        let waiting = async {
            while !self.shared.has_room(bytes)? {
                // It cannot fail: this handle has the sender.
                space.changed().await.map_err(|_| stopped())?;
            }
            Ok(())
        };
        match tokio::time::timeout_at(started + PATIENCE, waiting).await {
            Ok(result) => result,
            Err(_elapsed) => Err(self.no_room(usize::try_from(bytes).unwrap_or(usize::MAX), started.elapsed())),
        }
    }

    fn no_room(&self, bytes: usize, waited: Duration) -> Error {
        if let Some(trouble) = self.shared.space.borrow().trouble.clone() {
            return trouble;
        }
        let (is_behind, most) = self.shared.behind();
        let queue_bytes = self.shared.options.queue_bytes;
        let (limit, max, used, what) = match is_behind {
            true => ("journal", most, self.shared.space.borrow().bytes, "the journal has"),
            false => ("journal_queue", queue_bytes, queue_bytes, "there wait to be written"),
        };
        let message = format!(
            "the journal's disk is too slow: there was no room for {bytes} bytes in {} ms because {what} {used} bytes; \
             write less at a time, sync what is dirty, or use a faster disk",
            waited.as_millis(),
        );
        Error::new(Errno::DQuot, message)
            .with("bytes", bytes)
            .with("waited_ms", waited.as_millis())
            .with("limit", limit)
            .with("max", max)
            .with("used", used)
            .retry_after(Duration::from_secs(1))
    }

    /// Queues the record that `write` puts at the end of the buffer: one copy, no I/O, no waiting for any. The
    /// order of calls is the order of records. `write` only adds, and at least one byte; it runs under the
    /// journal's lock.
    ///
    /// Without a room it is for small records that must not be refused; a part of each segment is kept free for
    /// them, and when that is used up on a full disk they wait in memory.
    ///
    /// A record with a room is written when somebody waits for it, or for a later one, or [`Journal::hurry`] is
    /// called; others at once, with all before them.
    pub fn append(&self, room: Option<Room>, write: impl FnOnce(&mut Vec<u8>)) -> Lsn {
        self.shared.append(room, write)
    }

    /// Has everything that was appended written now, if nobody waits for it.
    pub fn hurry(&self) {
        self.shared.wake_writer();
    }

    /// Whether the record is as durable as the level says.
    pub fn is_acknowledged(&self, lsn: Lsn) -> bool {
        lsn.0 <= self.shared.acknowledged()
    }

    /// Resolves when the record is as durable as the level says. Cancel safe; a disk that does not answer holds
    /// it up for good, so bound it.
    ///
    /// # Errors
    /// `Errno::Io` if the journal failed or was closed before.
    pub async fn acknowledged(&self, lsn: Lsn) -> Result<()> {
        if lsn.0 == u64::MAX {
            return Err(self.unwritten());
        }
        if !self.is_acknowledged(lsn) {
            self.hurry();
        }
        if self.shared.waiters.wait(lsn.0).await { Ok(()) } else { Err(self.shared.ended().unwrap_or_else(stopped)) }
    }

    /// Resolves when the record survives power loss, whatever the level. Cancel safe; bound it.
    ///
    /// # Errors
    /// As [`Journal::acknowledged`].
    pub async fn synced(&self, lsn: Lsn) -> Result<()> {
        if lsn.0 > self.shared.progress.borrow().synced {
            // Of a record that does not exist there is nothing to sync.
            self.shared.ask_sync(lsn.min(self.shared.last()));
        }
        if lsn.0 == u64::MAX {
            return Err(self.unwritten());
        }
        let mut progress = self.shared.progress.subscribe();
        let found = progress.wait_for(|progress| progress.synced >= lsn.0 || progress.ended.is_some()).await;
        // It cannot fail: this handle has the sender.
        let found = found.map_err(|_| stopped())?;
        match &found.ended {
            Some(ended) if found.synced < lsn.0 => Err(ended.error.clone()),
            _ => Ok(()),
        }
    }

    /// Why a record is none.
    fn unwritten(&self) -> Error {
        self.shared.ended().unwrap_or_else(|| {
            Error::new(Errno::Fault, "a record was not written because it is larger than a journal segment")
        })
    }

    /// Bytes that the journal's segments take on the disk, the spare and those that are kept to be used again included.
    pub fn bytes(&self) -> u64 {
        let space = self.shared.space.borrow();
        space.bytes + space.free
    }

    /// Bytes of a segment.
    pub fn segment_bytes(&self) -> u64 {
        self.shared.options.segment_bytes
    }

    /// How it is, and what it has done.
    pub fn usage(&self) -> JournalUse {
        let (written_bytes, batches, syncs) = self.shared.counts.done();
        let (waiting_bytes, is_stuck) = self.shared.waiting();
        JournalUse {
            disk_bytes: self.bytes(),
            waiting_bytes,
            waiting_max: self.shared.options.queue_bytes,
            is_stuck,
            has_failed: self.shared.ended().is_some(),
            written_bytes,
            batches,
            syncs,
        }
    }

    /// Writes and syncs everything that was appended, and ends the journal: whatever is appended later is not
    /// written.
    ///
    /// # Errors
    /// `Errno::Io` if not everything could be written or synced within 30 s, or the journal had failed.
    pub async fn close(&self) -> Result<()> {
        self.shared.ask_close();
        let mut progress = self.shared.progress.subscribe();
        let end = progress.wait_for(|progress| progress.ended.is_some());
        let ended = match tokio::time::timeout(CLOSE, end).await {
            // It cannot fail: this handle has the sender.
            Ok(progress) => progress.map_err(|_| stopped())?.ended.clone(),
            Err(_elapsed) => {
                let message = "the journal's disk has not answered in 30 s: what was written last may be lost";
                return Err(Error::new(Errno::Io, message));
            }
        };
        match ended {
            Some(Ended { error, clean: false }) => Err(error),
            Some(Ended { clean: true, .. }) | None => {
                // It has nothing left to do but to close its files.
                let Some(handle) = self.thread.handle.lock().take() else { return Ok(()) };
                let joined = tokio::task::spawn_blocking(move || handle.join()).await;
                joined.map_err(|_| stopped())?.map_err(|_| stopped())
            }
        }
    }
}

fn too_large(bytes: usize, max: u64) -> Error {
    let message =
        format!("a record of {bytes} bytes is larger than the journal's queue of {max} bytes: write less at a time");
    Error::new(Errno::NoMem, message).with("limit", "journal_queue_bytes").with("bytes", bytes).with("max", max)
}
