//! What appenders and the writer share: the records that wait to be written, the space that is promised, and
//! how far the writer has come. No I/O.
//!
//! Space: with a spare segment everything outstanding fits into it, because the queue and the slack do.
//! Without one a room is given only if it fits into the current segment beside what is outstanding already
//! and the slack, which is for records that must not be refused. And rooms wait while the segments take twice what
//! asks for a checkpoint: without that, writers who are faster than the disk syncs would outrun it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::asked::{Asked, Cover, Trim};
use super::counts::JournalCounts;
use super::frame;
use super::options::{Lsn, Options};
use super::waiters::Waiters;
use crate::error::{Errno, Error, Result};

/// Segments that are begun between a checkpoint's being asked for and its end, as a rule.
const BEGUN: u64 = 3;

/// How far the writer has come.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress {
    pub(super) synced: u64,
    /// Why it writes no more.
    pub(super) ended: Option<Ended>,
}

/// Why the writer writes no more.
#[derive(Clone, Debug)]
pub(super) struct Ended {
    /// What calls answer from now on.
    pub(super) error: Error,
    /// It was closed, and has written and synced everything.
    pub(super) clean: bool,
}

/// The segments as others may know them.
#[derive(Clone, Debug, Default)]
pub(super) struct Space {
    pub(super) bytes: u64,
    /// Bytes of others that are kept to be used again.
    pub(super) free: u64,
    /// There are segments that a checkpoint could free.
    pub(super) has_old: bool,
    /// Why there is no spare.
    pub(super) trouble: Option<Error>,
    pub(super) checkpoint_at: u64,
    pub(super) ended: bool,
}

#[derive(Debug)]
struct Queue {
    /// Frames to be written.
    buffer: Vec<u8>,
    /// Where they end, if an appender did not come to its end.
    tail: usize,
    next: u64,
    /// The rooms that went into `buffer`.
    held: Option<OwnedSemaphorePermit>,
    /// Bytes of rooms that are not used yet.
    reserved: u64,
    /// Bytes of frames that are not written yet, here or at the writer.
    pending: u64,
    /// Bytes that the current segment has left, `pending` not taken off.
    left: u64,
    has_spare: bool,
    /// Bytes of the segments, and when a checkpoint is wanted.
    bytes: u64,
    checkpoint_at: u64,
    trouble: Option<Error>,
    rotate_at: Option<u64>,
    asked: Asked,
    ended: Option<Error>,
}

/// What the writer is to do.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) frames: Vec<u8>,
    pub(super) held: Option<OwnedSemaphorePermit>,
    /// The record that is to be the first of its segment, if possible.
    pub(super) rotate_at: Option<u64>,
    pub(super) asked: Asked,
}

/// How long the writer waits for so many bytes, when it could write fewer.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Linger {
    pub(super) bytes: usize,
    pub(super) time: Duration,
}

/// What the writer has done.
#[derive(Clone, Copy, Debug)]
pub(super) struct Written {
    pub(super) bytes: u64,
    pub(super) left: u64,
    pub(super) has_spare: bool,
    pub(super) acknowledged: u64,
    pub(super) synced: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) options: Options,
    queue: Mutex<Queue>,
    work: Condvar,
    permits: Arc<Semaphore>,
    /// Who waits for their record, and how far it is.
    pub(super) waiters: Waiters,
    pub(super) progress: watch::Sender<Progress>,
    pub(super) space: watch::Sender<Space>,
    /// What the writer has done.
    pub(super) counts: JournalCounts,
}

/// Room in the queue and on the disk for one record; dropping it gives the room back.
#[derive(Debug)]
pub struct Room {
    shared: Arc<Shared>,
    permit: Option<OwnedSemaphorePermit>,
    bytes: u64,
}

impl Drop for Room {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.shared.queue.lock().reserved -= self.bytes;
        }
    }
}

/// Whether a room can be given.
#[derive(Debug)]
pub(super) enum Admission {
    Given(Room),
    /// When the segments have changed it is worth asking again, with this.
    Later(OwnedSemaphorePermit),
}

impl Shared {
    /// A queue whose next record is `next`, with everything before it written and synced.
    pub(super) fn new(options: Options, next: u64, written: Written) -> Self {
        let queue = Queue {
            buffer: Vec::new(),
            tail: 0,
            next,
            held: None,
            reserved: 0,
            pending: 0,
            left: written.left,
            has_spare: written.has_spare,
            bytes: 0,
            checkpoint_at: u64::MAX,
            trouble: None,
            rotate_at: None,
            asked: Asked::default(),
            ended: None,
        };
        let progress = Progress { synced: written.synced, ended: None };
        let permits = usize::try_from(options.queue_bytes).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Self {
            options,
            queue: Mutex::new(queue),
            work: Condvar::new(),
            permits: Arc::new(Semaphore::new(permits)),
            waiters: Waiters::new(written.acknowledged),
            progress: watch::Sender::new(progress),
            space: watch::Sender::new(Space { checkpoint_at: u64::MAX, ..Space::default() }),
            counts: JournalCounts::default(),
        }
    }

    /// Takes the room's share of the queue, waiting in line for it. Cancel safe.
    pub(super) async fn line_up(&self, bytes: u32) -> Result<OwnedSemaphorePermit> {
        self.wake_writer();
        match Arc::clone(&self.permits).acquire_many_owned(bytes).await {
            Ok(permit) => Ok(permit),
            Err(_closed) => Err(self.ended().unwrap_or_else(stopped)),
        }
    }

    /// [`Shared::line_up`] without waiting: nobody gets ahead of those who wait.
    pub(super) fn try_line_up(&self, bytes: u32) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.permits).try_acquire_many_owned(bytes).ok()
    }

    /// Gives a room if there is space on the disk.
    ///
    /// # Errors
    /// There is none, or the journal has ended.
    pub(super) fn admit(self: &Arc<Self>, permit: OwnedSemaphorePermit) -> Result<Admission> {
        let bytes = permit.num_permits() as u64;
        let mut queue = self.queue.lock();
        if let Some(error) = &queue.ended {
            return Err(error.clone());
        }
        let needed = queue.reserved + queue.pending + bytes + self.options.slack();
        if !queue.is_behind() && (queue.has_spare || needed <= queue.left) {
            queue.reserved += bytes;
            return Ok(Admission::Given(Room { shared: Arc::clone(self), permit: Some(permit), bytes }));
        }
        match &queue.trouble {
            Some(error) => Err(error.clone()),
            None => Ok(Admission::Later(permit)),
        }
    }

    /// Whether `bytes` in any number of records can be written; false: ask again when the segments have changed. It
    /// fails when the disk is full and what was preallocated does not suffice, or the journal has ended.
    pub(super) fn has_room(&self, bytes: u64) -> Result<bool> {
        let queue = self.queue.lock();
        let fits = queue.reserved + queue.pending + bytes <= queue.left;
        match queue.ended.as_ref().or(queue.trouble.as_ref().filter(|_| !fits)) {
            Some(error) => Err(error.clone()),
            None => Ok(fits || queue.has_spare),
        }
    }

    /// Queues a record. One that has a room leaves the writer asleep: see [`Shared::wake_writer`].
    pub(super) fn append(&self, room: Option<Room>, write: impl FnOnce(&mut Vec<u8>)) -> Lsn {
        let is_waited_for = room.is_some();
        let (permit, bytes) = room.map_or((None, 0), |mut room| (room.permit.take(), std::mem::take(&mut room.bytes)));
        let mut queue = self.queue.lock();
        queue.reserved -= bytes;
        let lsn = queue.push(write, self.options.segment_bytes);
        match (&mut queue.held, permit) {
            (Some(held), Some(permit)) => held.merge(permit),
            (held @ None, permit) => *held = permit,
            (Some(_), None) => {}
        }
        drop(queue);
        if !is_waited_for {
            self.wake_writer();
        }
        lsn
    }

    /// Lets the writer look at the queue. Whoever waits for a record, or for room, calls it once it has nothing more
    /// to add: one that woke for each record wrote them one by one, at two changes of context each.
    pub(super) fn wake_writer(&self) {
        self.work.notify_one();
    }

    /// Queues a mark that begins a segment, if possible.
    pub(super) fn mark(&self) -> Result<Lsn> {
        let mut queue = self.queue.lock();
        if let Some(error) = &queue.ended {
            return Err(error.clone());
        }
        let lsn = queue.push(|_| {}, self.options.segment_bytes);
        queue.rotate_at = Some(lsn.0);
        drop(queue);
        self.work.notify_one();
        Ok(lsn)
    }

    /// The last record queued.
    pub(super) fn last(&self) -> Lsn {
        Lsn(self.queue.lock().next - 1)
    }

    pub(super) fn ask_sync(&self, lsn: Lsn) {
        let mut queue = self.queue.lock();
        queue.asked.sync_to = queue.asked.sync_to.max(lsn.0);
        drop(queue);
        self.work.notify_one();
    }

    pub(super) fn ask_cover(&self, cover: Cover) {
        self.ask(|asked| asked.covers.push(cover));
    }

    pub(super) fn ask_trim(&self, trim: Trim) {
        self.ask(|asked| asked.trims.push(trim));
    }

    fn ask(&self, ask: impl FnOnce(&mut Asked)) {
        let mut queue = self.queue.lock();
        // After the end nobody would answer: dropping it tells the caller.
        if queue.ended.is_none() {
            ask(&mut queue.asked);
        }
        drop(queue);
        self.work.notify_one();
    }

    /// Has the writer write and sync everything, with a mark behind it, and end.
    pub(super) fn ask_close(&self) {
        let mut queue = self.queue.lock();
        if queue.ended.is_none() && !queue.asked.closing {
            let lsn = queue.push(|_| {}, self.options.segment_bytes);
            queue.asked.sync_to = lsn.0;
            queue.asked.closing = true;
        }
        drop(queue);
        self.work.notify_one();
    }

    pub(super) fn acknowledged(&self) -> u64 {
        self.waiters.reached()
    }

    /// Whether everything queued was taken by the writer.
    #[cfg(test)]
    pub(super) fn writer_has_all(&self) -> bool {
        self.queue.lock().tail == 0
    }

    /// Bytes that wait to be written, and whether there is no room for a segment.
    pub(super) fn waiting(&self) -> (u64, bool) {
        let queue = self.queue.lock();
        (queue.pending, queue.trouble.is_some())
    }

    pub(super) fn ended(&self) -> Option<Error> {
        self.queue.lock().ended.clone()
    }

    /// For the writer: what is to be done, waiting for something unless `busy`, until `retry`; and then, if it
    /// is less than `linger` says, so long for more. `buffer` is used for the next frames.
    pub(super) fn next_work(
        &self,
        buffer: Vec<u8>,
        synced: u64,
        busy: bool,
        retry: Option<Instant>,
        linger: Linger,
    ) -> Work {
        let mut queue = self.queue.lock();
        while !busy && !queue.has_work(synced) {
            match retry {
                Some(retry) if self.work.wait_until(&mut queue, retry).timed_out() => break,
                Some(_) => {}
                None => self.work.wait(&mut queue),
            }
        }
        if queue.tail > 0 && queue.tail < linger.bytes && !queue.asked.closing {
            MutexGuard::unlocked(&mut queue, || std::thread::sleep(linger.time));
        }
        queue.take_work(buffer)
    }

    /// For the writer that has no space: waits until `until`, or until there is something else to do.
    pub(super) fn wait_for_space(&self, synced: u64, until: Instant) {
        let mut queue = self.queue.lock();
        while !queue.asked.is_more_than(synced) {
            if self.work.wait_until(&mut queue, until).timed_out() {
                break;
            }
        }
    }

    /// For the writer that has no space: what to do beside writing.
    pub(super) fn take_asked(&self) -> Asked {
        self.queue.lock().asked.take()
    }

    /// For the writer: what was done.
    pub(super) fn publish(&self, written: Written) {
        let mut queue = self.queue.lock();
        queue.pending -= written.bytes;
        queue.left = written.left;
        queue.has_spare = written.has_spare;
        drop(queue);
        self.waiters.publish(written.acknowledged);
        self.progress.send_if_modified(|progress| {
            let news = progress.synced != written.synced;
            progress.synced = written.synced;
            news
        });
    }

    /// For the writer: the segments have changed.
    pub(super) fn publish_space(&self, (bytes, free): (u64, u64), has_old: bool, trouble: Option<Error>) {
        let mut queue = self.queue.lock();
        queue.trouble.clone_from(&trouble);
        queue.bytes = bytes;
        drop(queue);
        self.space.send_modify(|space| {
            (space.bytes, space.free) = (bytes, free);
            (space.has_old, space.trouble) = (has_old, trouble);
        });
    }

    /// How many bytes of segments are too many.
    pub(super) fn set_checkpoint_at(&self, bytes: u64) {
        self.queue.lock().checkpoint_at = bytes;
        self.space.send_modify(|space| space.checkpoint_at = bytes);
    }

    /// For the writer: bytes that all segments may have for some of them to be kept. That is what they have by the end
    /// of a checkpoint: what asks for it, and the segments that it, and what comes meanwhile, begins.
    pub(super) fn keep_at_most(&self) -> u64 {
        match self.queue.lock().checkpoint_at {
            u64::MAX => 0,
            bytes => bytes.saturating_add(self.options.segment_bytes.saturating_mul(BEGUN)),
        }
    }

    /// Whether rooms wait for a checkpoint, and for how many bytes of segments they do.
    pub(super) fn behind(&self) -> (bool, u64) {
        let queue = self.queue.lock();
        (queue.is_behind(), queue.most())
    }

    /// For the writer: nothing more will be written.
    pub(super) fn end(&self, ended: Ended) {
        let mut queue = self.queue.lock();
        queue.ended = Some(ended.error.clone());
        queue.buffer = Vec::new();
        queue.tail = 0;
        queue.held = None;
        let unanswered = queue.asked.take();
        drop(queue);
        drop(unanswered);
        self.permits.close();
        self.space.send_modify(|space| space.ended = true);
        self.progress.send_modify(|progress| progress.ended = Some(ended));
        self.waiters.end();
    }
}

impl Queue {
    /// Bytes of segments above which rooms wait for a checkpoint.
    fn most(&self) -> u64 {
        self.checkpoint_at.saturating_mul(2)
    }

    fn is_behind(&self) -> bool {
        self.bytes > self.most()
    }

    fn push(&mut self, write: impl FnOnce(&mut Vec<u8>), segment_bytes: u64) -> Lsn {
        let lsn = self.next;
        if self.ended.is_some() {
            // It will not be acknowledged.
            return Lsn(u64::MAX);
        }
        // An appender that panicked has left half a frame behind.
        self.buffer.truncate(self.tail);
        match frame::push(&mut self.buffer, lsn, write) {
            Some(size) if size as u64 + frame::HEAD as u64 <= segment_bytes => {
                self.tail = self.buffer.len();
                self.pending += size as u64;
                self.next += 1;
                Lsn(lsn)
            }
            _ => {
                self.buffer.truncate(self.tail);
                tracing::error!(segment_bytes, "a record larger than a journal segment was dropped");
                Lsn(u64::MAX)
            }
        }
    }

    fn has_work(&self, synced: u64) -> bool {
        self.tail > 0 || self.asked.is_more_than(synced)
    }

    fn take_work(&mut self, buffer: Vec<u8>) -> Work {
        self.buffer.truncate(self.tail);
        self.tail = 0;
        Work {
            frames: std::mem::replace(&mut self.buffer, buffer),
            held: self.held.take(),
            rotate_at: self.rotate_at.take(),
            asked: self.asked.take(),
        }
    }
}

/// The answer of a journal that was closed.
pub(super) fn stopped() -> Error {
    Error::new(Errno::Io, "the journal is closed: the server is stopping, try again when it is back")
}
