//! The writer thread: takes what is queued, writes it at once, syncs it if asked, and says so; between two
//! batches it makes the spare segment or takes an old one off.
//!
//! A full disk is waited out: the batch stays until there is space. Any other failure to write, or to make a
//! segment when there is none left, and any to sync, ends the journal for good: after a failed write or sync
//! nobody knows what the disk has.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::OwnedSemaphorePermit;

use super::asked::{Asked, Trim};
use super::frame::peek;
use super::options::Level;
use super::queue::{Ended, Linger, Shared, Work, Written, stopped};
use super::segments::Chain;
use crate::error::{Errno, Error, Result};

/// The longest that a sync waits for more to sync.
const LINGER: Duration = Duration::from_millis(1);
/// How often a full disk is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Frames on their way to the disk.
#[derive(Debug, Default)]
struct Batch {
    frames: Vec<u8>,
    /// Where those begin that are not written yet.
    at: usize,
    held: Option<OwnedSemaphorePermit>,
    rotate_at: Option<u64>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Writer {
    shared: Arc<Shared>,
    chain: Chain,
    /// Where the segments lie, for sentences.
    place: String,
    batch: Batch,
    trims: VecDeque<Trim>,
    /// The last record written.
    written: u64,
    synced: u64,
    sync_to: u64,
    /// How long the last sync took.
    sync_time: Duration,
    /// Why there is no space, and when to look again.
    trouble: Option<(Error, Instant)>,
    /// There is no space in the current segment's own file.
    stuck: bool,
    closing: bool,
}

/// Tells everybody that the writer has ended, however it did.
struct EndGuard(Arc<Shared>, Option<Ended>);

impl Drop for EndGuard {
    fn drop(&mut self) {
        let ended = self.1.take().unwrap_or_else(|| Ended {
            error: Error::new(Errno::Io, "the journal's writer has failed: restart the server"),
            clean: false,
        });
        self.0.end(ended);
    }
}

/// Whether there is no space, which may pass.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, chain: Chain, place: String, written: u64, synced: u64) -> Self {
        Self {
            shared,
            chain,
            place,
            batch: Batch::default(),
            trims: VecDeque::new(),
            written,
            synced,
            sync_to: 0,
            sync_time: Duration::ZERO,
            trouble: None,
            stuck: false,
            closing: false,
        }
    }

    /// Works until the journal is closed or fails.
    pub(super) fn run(mut self) {
        let mut guard = EndGuard(Arc::clone(&self.shared), None);
        self.publish_space();
        let ended = match self.work() {
            Ok(()) => Ended { error: stopped(), clean: true },
            Err(error) => {
                tracing::error!(?error, "the journal takes no more records");
                Ended { error, clean: false }
            }
        };
        guard.1 = Some(ended);
    }

    fn work(&mut self) -> Result<()> {
        loop {
            self.write_batch()?;
            self.sync_if_asked()?;
            self.make_spare();
            self.retire_one();
            if self.batch.at < self.batch.frames.len() {
                self.wait_for_space()?;
            } else if self.closing {
                return Ok(());
            } else {
                self.take_work();
            }
        }
    }

    fn take_work(&mut self) {
        let mut buffer = std::mem::take(&mut self.batch.frames);
        let linger = self.linger(buffer.len());
        buffer.clear();
        let retry = self.trouble.as_ref().map(|(_, retry)| *retry);
        let work = self.shared.next_work(buffer, self.synced, !self.trims.is_empty(), retry, linger);
        let Work { frames, held, rotate_at, asked } = work;
        self.batch = Batch { frames, at: 0, held, rotate_at };
        self.note(asked);
    }

    fn note(&mut self, asked: Asked) {
        let Asked { sync_to, covers, trims, closing } = asked;
        (self.sync_to, self.closing) = (sync_to, closing);
        self.trims.extend(trims);
        for cover in covers {
            let from = self.chain.cover(cover.mark);
            // A checkpoint that nobody waits for any more is not ended.
            if cover.reply.send(from).is_err() {
                self.chain.uncover();
            }
        }
        if closing {
            self.chain.uncover();
        }
    }

    /// Those whose records were just acknowledged together ask again within moments. A sync for the first of
    /// them alone would hold all others up, so it waits for half of them, if that is short beside a sync.
    fn linger(&self, bytes: usize) -> Linger {
        match self.shared.options.level {
            Level::Process => Linger::default(),
            Level::Disk => Linger { bytes: bytes / 2, time: (self.sync_time / 8).min(LINGER) },
        }
    }

    /// Takes nothing but what may free space, or the end.
    fn wait_for_space(&mut self) -> Result<()> {
        let Some((error, retry)) = &self.trouble else { return Ok(()) };
        if self.closing {
            return Err(error.clone());
        }
        if self.trims.is_empty() {
            // What is not written cannot be synced.
            let synced = if self.written > self.synced { self.synced } else { u64::MAX };
            self.shared.wait_for_space(synced, *retry);
        }
        let asked = self.shared.take_asked();
        self.note(asked);
        Ok(())
    }

    /// Writes the batch as far as there is space.
    fn write_batch(&mut self) -> Result<()> {
        let (from, started) = (self.batch.at, Instant::now());
        self.stuck = false;
        while self.batch.at < self.batch.frames.len() && !self.stuck {
            let run = self.next_run();
            if run == 0 {
                if !self.next_segment()? {
                    break;
                }
            } else if !self.write_run(run)? {
                self.stuck = true;
            }
        }
        if self.shared.options.level == Level::Disk && self.batch.at > from {
            self.sync()?;
        }
        let wrote = (self.batch.at - from) as u64;
        if wrote > 0 {
            self.shared.counts.wrote(wrote, started.elapsed());
        }
        self.publish(wrote);
        if self.batch.at == self.batch.frames.len() {
            // Only now, after the space was published: who waits in line is let in by what is true then.
            self.batch.held = None;
        }
        Ok(())
    }

    /// Bytes of the next frames that go into the current segment.
    fn next_run(&self) -> usize {
        let rest = &self.batch.frames[self.batch.at..];
        let left = usize::try_from(self.chain.left()).unwrap_or(usize::MAX);
        let mut run = 0;
        while let Some((lsn, size)) = peek(&rest[run..]) {
            let begins_segment = self.batch.rotate_at == Some(lsn) && self.chain.has_spare();
            let on_its_own = run == 0 && !self.chain.has_begun();
            if size > left - run || (begins_segment && !on_its_own) {
                break;
            }
            run += size;
        }
        run
    }

    /// Goes on to the next segment; false if the disk is full.
    fn next_segment(&mut self) -> Result<bool> {
        if self.chain.rotate() {
            self.publish_space();
            return Ok(true);
        }
        self.try_make();
        match &self.trouble {
            None => Ok(true),
            Some((error, _)) if error.errno() == Errno::DQuot => Ok(false),
            Some((error, _)) => Err(error.clone()),
        }
    }

    /// False if the disk is full.
    fn write_run(&mut self, run: usize) -> Result<bool> {
        let (at, acknowledged) = (self.batch.at, self.shared.acknowledged());
        let frames = &mut self.batch.frames[at..at + run];
        match self.chain.write(frames, acknowledged) {
            Ok(()) => {
                self.written += count(frames);
                self.batch.at += run;
                Ok(true)
            }
            Err(error) if is_full(&error) => {
                self.trouble = Some((self.no_space(error), Instant::now() + RETRY));
                self.publish_space();
                Ok(false)
            }
            Err(error) => Err(self.failed("written", error)),
        }
    }

    fn sync_if_asked(&mut self) -> Result<()> {
        if self.sync_to > self.synced && self.written > self.synced {
            self.sync()?;
            self.publish(0);
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<()> {
        let started = Instant::now();
        self.chain.sync().map_err(|error| self.failed("synced", error))?;
        self.sync_time = started.elapsed();
        self.shared.counts.synced(self.sync_time);
        self.synced = self.written;
        Ok(())
    }

    fn make_spare(&mut self) {
        if self.chain.has_spare() {
            if !self.stuck && self.trouble.take().is_some() {
                self.publish_space();
            }
            return;
        }
        let due = self.trouble.as_ref().is_none_or(|(_, retry)| *retry <= Instant::now());
        if due && !self.closing {
            self.try_make();
            // Where there was no current segment either, that one was made first.
            while self.trouble.is_none() && !self.chain.has_spare() {
                self.try_make();
            }
        }
    }

    fn try_make(&mut self) {
        self.trouble = match self.chain.make(self.shared.acknowledged()) {
            Ok(()) => None,
            Err(error) => Some((self.no_space(error), Instant::now() + RETRY)),
        };
        self.publish(0);
        self.publish_space();
    }

    /// Takes one segment of the oldest trim off, or answers the trim.
    fn retire_one(&mut self) {
        let Some(mut trim) = self.trims.pop_front() else { return };
        match self.chain.retire_oldest(trim.mark, self.shared.keep_at_most()) {
            Ok(0) => drop(trim.reply.send(Ok(trim.freed))),
            Ok(freed) => {
                trim.freed += freed;
                self.trims.push_front(trim);
                if let Some((_, retry)) = &mut self.trouble {
                    *retry = Instant::now();
                }
                self.publish_space();
            }
            Err(error) => {
                let message = format!("an old journal segment in {} cannot be removed: {error}", self.place);
                drop(trim.reply.send(Err(Error::new(Errno::Io, message).with("folder", &self.place).caused_by(error))));
            }
        }
    }

    fn publish(&self, bytes: u64) {
        let acknowledged = match self.shared.options.level {
            Level::Process => self.written,
            Level::Disk => self.synced,
        };
        self.shared.publish(Written {
            bytes,
            left: if self.stuck { 0 } else { self.chain.left() },
            has_spare: self.chain.has_spare() && !self.stuck,
            acknowledged,
            synced: self.synced,
        });
    }

    fn publish_space(&self) {
        let trouble = self.trouble.as_ref().map(|(error, _)| error.clone());
        self.shared.publish_space((self.chain.bytes(), self.chain.free_bytes()), self.chain.has_old(), trouble);
    }

    fn no_space(&self, error: io::Error) -> Error {
        let (errno, message) = if is_full(&error) {
            let message =
                format!("the journal's disk is full: free some space in {}, or sync what is dirty", self.place);
            (Errno::DQuot, message)
        } else {
            (Errno::Io, format!("the journal in {} cannot make a segment: {error}", self.place))
        };
        tracing::warn!(%error, folder = self.place, "the journal has no spare segment");
        // All that its segments could get is all there is.
        let bytes = self.chain.bytes() + self.chain.free_bytes();
        let error = Error::new(errno, message).with("folder", &self.place).retry_after(RETRY).caused_by(error);
        error.with("limit", "journal").with("max", bytes).with("used", bytes)
    }

    fn failed(&self, what: &str, error: io::Error) -> Error {
        let message = format!(
            "the journal in {} could not be {what} ({error}) and takes no more records: mend its disk and restart the \
             server",
            self.place
        );
        Error::new(Errno::Io, message).with("folder", &self.place).caused_by(error)
    }
}

fn count(frames: &[u8]) -> u64 {
    let (mut count, mut at) = (0, 0);
    while let Some((_, size)) = peek(&frames[at..]) {
        (count, at) = (count + 1, at + size);
    }
    count
}
