//! One run over a tree: file by file, in order; one that fails does not stop the others, a server that is gone does.

use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use indicatif::ProgressBar;
use mmap_client::Process;
use serde::Serialize;

use super::{
    place::{Found, Identity, Place, Reader, pieces},
    record::{Record, Stage},
    target::{Maker, Plan, Target},
};
use crate::{
    context::Context,
    exit::{Exit, Failure},
    transfer::IN_FLIGHT,
};

/// What can be left out where it is zeros.
const PAGE: usize = 4096;
/// A file is synced so often at least, in bytes. A layout that rewrites whole files pays for each sync with all of it.
const SYNC_MIN: u64 = 64 << 20;
/// And so often at most, whatever its size.
const SYNCS_MAX: u64 = 8;

/// What is wanted of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish {
    pub(crate) force: bool,
    pub(crate) verify: bool,
    pub(crate) remove_source: bool,
}

/// A file that was copied.
#[derive(Debug, Serialize)]
pub(crate) struct Copied {
    pub(crate) path: String,
    pub(crate) size: u64,
    pub(crate) version: String,
}

/// How a run went.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) copied: Vec<Copied>,
    /// Files that an earlier run had copied.
    pub(crate) skipped: u64,
    pub(crate) failed: Vec<String>,
    /// Bytes that were written: zeros and what was there already are not.
    pub(crate) written: u64,
    pub(crate) first_failure: Option<Exit>,
}

/// See the module.
pub(crate) struct Run<'a> {
    pub(crate) context: &'a Context,
    pub(crate) process: &'a Process,
    pub(crate) source: Place,
    pub(crate) target: Place,
    pub(crate) wish: Wish,
    pub(crate) record: &'a mut Record,
    pub(crate) bar: &'a ProgressBar,
}

impl Run<'_> {
    pub(crate) async fn all(&mut self, found: Found) -> Outcome {
        let mut outcome = Outcome::default();
        for (name, why) in found.refused {
            self.failed(&mut outcome, name, Failure::failed(why).into());
        }
        for name in found.names {
            match self.one(&name, &mut outcome).await {
                Ok(Some(copied)) => outcome.copied.push(copied),
                Ok(None) => outcome.skipped += 1,
                Err(error) => {
                    let exit = self.failed(&mut outcome, name, error);
                    if exit == Exit::Unavailable {
                        // The others would meet the same; the same command goes on here.
                        break;
                    }
                }
            }
        }
        outcome
    }

    fn failed(&self, outcome: &mut Outcome, name: String, error: anyhow::Error) -> Exit {
        let error = error.context(name.escape_debug().to_string());
        let exit = self.bar.suspend(|| self.context.reporter.report(&error));
        outcome.failed.push(name);
        outcome.first_failure.get_or_insert(exit);
        exit
    }

    /// `None`: it was copied before.
    async fn one(&mut self, name: &str, outcome: &mut Outcome) -> Result<Option<Copied>> {
        let client = self.context.client.clone();
        let Some(source) = self.source.identify(&client, name).await? else {
            return Err(Failure::conflict("it is gone from the source").into());
        };
        if source.is_unsynced {
            return Err(Failure::conflict("it has unsynced writes at the source: sync or wait for them first").into());
        }
        let (process, place, store_timeout) = (self.process, self.target.clone(), self.context.store_timeout());
        let maker = Maker { client: &client, process, place: &place, force: self.wish.force, store_timeout };
        let (mut target, from, is_blank) = match maker.prepare(name, &source, self.record).await? {
            Plan::Skip => {
                self.bar.inc(source.size);
                if self.wish.remove_source {
                    self.remove_source(name, &source).await?;
                }
                return Ok(None);
            }
            Plan::Copy { target, from, is_blank } => (target, from, is_blank),
        };
        self.bar.set_message(name.to_owned());
        self.bar.inc(from);
        let reader = self.source.open(self.process, name, source.size).await?;
        let copied = self.fill(name, &source, &reader, &mut target, from, is_blank, outcome).await;
        let closed = reader.close().await;
        match copied {
            Ok(true) => {}
            Ok(false) => {
                target.undo(&client).await?;
                self.record.note(name, &source.version, Stage::Forgotten)?;
                return Err(Failure::conflict("it was changed while it was copied: what was copied is removed").into());
            }
            Err(error) => {
                target.keep();
                return Err(error);
            }
        }
        let path = target.shown();
        let made = target.finish(&client, source.size).await?;
        self.record.note(name, &source.version, Stage::Done { version: made.version.clone() })?;
        closed?;
        if self.wish.remove_source {
            self.remove_source(name, &source).await?;
        }
        Ok(Some(Copied { path, size: made.size, version: made.version }))
    }

    /// Copies and syncs the bytes from `from` on. False: the source is not what it was.
    #[expect(clippy::too_many_arguments, reason = "the parts of one copy, each used once")]
    async fn fill(
        &mut self,
        name: &str,
        source: &Identity,
        reader: &Reader,
        target: &mut Target,
        from: u64,
        is_blank: bool,
        outcome: &mut Outcome,
    ) -> Result<bool> {
        let step = SYNC_MIN.max(source.size.div_ceil(SYNCS_MAX));
        let mut at = from;
        loop {
            let end = source.size.min(at.saturating_add(step));
            outcome.written += self.copy(reader, target, at, end, is_blank).await?;
            at = end;
            let version = target.sync().await?;
            if !self.is_as_it_was(name, source).await? {
                return Ok(false);
            }
            self.record.note(name, &source.version, Stage::Made { upto: at, version })?;
            if at >= source.size {
                break;
            }
        }
        if self.wish.verify {
            target.look_anew().await?;
            self.verify(reader, target, source.size).await?;
            return self.is_as_it_was(name, source).await;
        }
        Ok(true)
    }

    async fn is_as_it_was(&self, name: &str, source: &Identity) -> Result<bool> {
        Ok(self.source.identify(&self.context.client, name).await?.as_ref() == Some(source))
    }

    /// Reads in order, and writes several pieces at a time. Answers how many bytes had to be written.
    async fn copy(&self, reader: &Reader, target: &Target, at: u64, end: u64, is_blank: bool) -> Result<u64> {
        let mut at = at;
        let copies = reader.pieces(at, end)?.map_ok(|new| {
            let start = at;
            at += new.len() as u64;
            async move {
                let old = if is_blank { None } else { Some(target.read(start, new.len()).await?) };
                let mut written = 0;
                for (within, run) in changes(&new, old.as_ref()) {
                    written += run.len() as u64;
                    target.write(start + within as u64, run).await?;
                }
                self.bar.inc(new.len() as u64);
                anyhow::Ok(written)
            }
        });
        copies.try_buffer_unordered(IN_FLIGHT).try_fold(0, |sum, written| async move { Ok(sum + written) }).await
    }

    async fn verify(&self, reader: &Reader, target: &Target, size: u64) -> Result<()> {
        let compares = pieces(0, size).map(|(at, length)| async move {
            let (one, other) = futures::try_join!(reader.read(at, length), target.read(at, length))?;
            if one != other {
                let message = format!("what was stored differs from the source within {length} bytes at {at}");
                return Err(Failure::failed(message).into());
            }
            anyhow::Ok(())
        });
        stream::iter(compares).buffer_unordered(IN_FLIGHT).try_for_each(|()| async { Ok(()) }).await
    }

    async fn remove_source(&self, name: &str, source: &Identity) -> Result<()> {
        if !self.is_as_it_was(name, source).await? {
            return Err(Failure::conflict("it was changed after it was copied: it is not removed").into());
        }
        self.source.remove(&self.context.client, name).await
    }
}

/// Runs of pages of `new` that differ from `old`, or from zeros.
fn changes(new: &Bytes, old: Option<&Bytes>) -> Vec<(usize, Bytes)> {
    let mut runs: Vec<std::ops::Range<usize>> = Vec::new();
    for start in (0..new.len()).step_by(PAGE) {
        let page = start..new.len().min(start + PAGE);
        let is_same = match old {
            Some(old) => old.get(page.clone()) == Some(&new[page.clone()]),
            None => new[page.clone()].iter().all(|byte| *byte == 0),
        };
        match runs.last_mut() {
            _ if is_same => {}
            Some(run) if run.end == page.start => run.end = page.end,
            _ => runs.push(page),
        }
    }
    runs.into_iter().map(|run| (run.start, new.slice(run))).collect()
}

/// For a person: how fast it went.
pub(crate) fn rate(bytes: u64, time: Duration) -> u64 {
    u64::try_from(u128::from(bytes) * 1000 / time.as_millis().max(1)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pages_that_differ_are_written() {
        let mut new = vec![0; 5 * PAGE + 7];
        (new[PAGE], new[2 * PAGE], new[5 * PAGE + 6]) = (1, 1, 1);
        let new = Bytes::from(new);
        let spans = |old: Option<&Bytes>| -> Vec<_> {
            changes(&new, old).into_iter().map(|(start, run)| (start, run.len())).collect()
        };
        assert_eq!(spans(None), [(PAGE, 2 * PAGE), (5 * PAGE, 7)]);
        assert_eq!(spans(Some(&new.clone())), []);
        let mut other = new.to_vec();
        other[0] = 9;
        assert_eq!(spans(Some(&Bytes::from(other))), [(0, PAGE)]);
        assert_eq!(spans(Some(&Bytes::new())), [(0, 5 * PAGE + 7)]);
    }
}
