//! Opening a journal: replay, then new segments behind the old ones.
//!
//! Nothing on the disk changes before every record was replayed. What was replayed is synced before anything
//! is written behind it, so that a later power loss cannot take it back. The first thing written is a mark: the
//! next start sees by it where this run began, whatever lies torn before it.

use std::sync::Arc;

use super::beginning::say_beginning;
use super::disk::Disk;
use super::frame;
use super::options::{Lsn, Options};
use super::scan::{Damage, Scan, kept_name_of, name_of, scan};
use super::segments::Chain;
use super::writer::is_full;
use crate::error::{Errno, Error, Result};

/// What was found when a journal was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Records replayed.
    pub records: u64,
    /// Bytes behind the last one: what was being written when the last run was cut off.
    pub torn_bytes: u64,
    /// The loss that was accepted.
    pub damage: Option<Damage>,
}

/// The segments to go on with.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) chain: Chain,
    /// The last record that is on the disk, and synced.
    pub(super) written: Lsn,
    pub(super) opened: Opened,
}

fn failed(disk: &dyn Disk, what: &str, name: &str, source: std::io::Error) -> Error {
    let shown = disk.shown(name);
    let message = format!("journal {shown} cannot be {what}: {source}; free its disk or mend it, and start again");
    Error::new(Errno::Io, message).with("path", shown).caused_by(source)
}

/// A journal that was replayed and not changed yet.
#[derive(Debug)]
pub struct Found {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) options: Options,
    scan: Scan,
}

/// Replays. Changes nothing on the disk.
pub(super) fn read(
    disk: Arc<dyn Disk>,
    options: Options,
    replay: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<Found> {
    options.check()?;
    let scan = scan(&*disk, options.accept_loss, replay)?;
    match &scan.damage {
        Some(damage) if !options.accept_loss => Err(damage.error(&*disk)),
        Some(_) | None => Ok(Found { disk, options, scan }),
    }
}

/// Prepares.
pub(super) fn start(found: Found) -> Result<Start> {
    let Found { disk, options, scan } = found;
    if let Some(damage) = &scan.damage {
        tracing::error!(?damage, "acknowledged records are lost, as was accepted");
    } else if scan.torn_bytes > 0 {
        tracing::info!(bytes = scan.torn_bytes, "the journal's last write was cut off; it was not acknowledged");
    }
    secure(&*disk, &scan)?;
    let mut chain = Chain::new(Arc::clone(&disk), &options, scan.next_number, &scan.live);
    let written = begin(&*disk, &mut chain, &scan)?;
    for &number in &scan.dead {
        disk.remove(&name_of(number)).map_err(|source| failed(&*disk, "removed", &name_of(number), source))?;
    }
    let opened = Opened { records: scan.records, torn_bytes: scan.torn_bytes, damage: scan.damage };
    Ok(Start { chain, written, opened })
}

/// Has what is there survive, and makes room.
fn secure(disk: &dyn Disk, scan: &Scan) -> Result<()> {
    for &number in &scan.damaged {
        let name = name_of(number);
        disk.keep(&name, &kept_name_of(number)).map_err(|source| failed(disk, "kept", &name, source))?;
    }
    for &(number, _) in &scan.live {
        let name = name_of(number);
        disk.sync(&name).map_err(|source| failed(disk, "synced", &name, source))?;
    }
    // At once: a later scan could take what lies behind a torn end for the journal's beginning.
    for &number in &scan.useless {
        let name = name_of(number);
        disk.remove(&name).map_err(|source| failed(disk, "removed", &name, source))?;
    }
    say_beginning(disk, scan.first_number).map_err(|source| failed(disk, "continued", "", source))
}

/// Begins this run's first segment with a mark. On a full disk that waits until there is space, unless the
/// mark is what a loss is accepted by.
fn begin(disk: &dyn Disk, chain: &mut Chain, scan: &Scan) -> Result<Lsn> {
    let before = scan.next - 1;
    if let Err(error) = chain.make(before) {
        if scan.damage.is_some() || !is_full(&error) {
            return Err(failed(disk, "continued", "", error));
        }
        tracing::warn!(%error, "the journal cannot make a segment yet");
        return Ok(Lsn(before));
    }
    let mut mark = Vec::new();
    // A mark has no payload that could be too large.
    frame::push(&mut mark, scan.next, |_| {});
    chain.write(&mut mark, before).and_then(|()| chain.sync()).map_err(|error| failed(disk, "written", "", error))?;
    if let Err(error) = chain.make(scan.next) {
        tracing::warn!(%error, "the journal has no spare segment yet");
    }
    Ok(Lsn(scan.next))
}
