//! [`Snapshot`]: what everything together comes to, for who watches the server. Names and formats are theirs.
//!
//! It looks and changes nothing, and costs the calls nothing: it reads what they count anyway, goes through the
//! mappings and the files with unsynced pages, and asks the state directory. So it blocks, and its time grows with
//! the number of mappings. What it tells was not true at one instant: calls go on meanwhile.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::MmapManager;
use super::api::ReadAheadUse;
use crate::file::FaultCounts;
use crate::journal::JournalUse;
use crate::meter::Observed;
use crate::vfs::StoreCalls;

/// What everything together comes to.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Each share of the memory budget.
    pub shares: Vec<Share>,
    /// Bytes that all shares together come to.
    pub memory: u64,
    /// Of all mappings since the start, the ended ones included.
    pub faults: Faults,
    /// What became of what was read ahead.
    pub read_ahead: ReadAheadUse,
    /// Mappings.
    pub mappings: u64,
    /// Processes.
    pub processes: u64,
    /// Those of them that are attached.
    pub attached: u64,
    /// Bytes of private mappings' own pages, the spilled ones included.
    pub private_bytes: u64,
    /// Those of them that are in the spill file.
    pub spilled_bytes: u64,
    /// What the spill file may have.
    pub spill_max: u64,
    /// Writers that wait for unsynced bytes to be written back.
    pub waiting_writers: u64,
    /// What became of write-backs.
    pub write_backs: WriteBacks,
    /// What was kept aside; `None` if the state directory does not tell.
    pub conflicts: Option<u64>,
    /// The journal, where there is one.
    pub journal: Option<JournalUse>,
    /// Bytes of the disk of the state directory: those that are free, and all; `None` if there is none, or it does
    /// not tell.
    pub disk: Option<(u64, u64)>,
    /// Mount by mount.
    pub mounts: Vec<MountSnapshot>,
}

/// A share of the memory budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Its name.
    pub name: &'static str,
    /// Bytes that are used of it.
    pub used: u64,
    /// Bytes that there are of it.
    pub total: u64,
}

/// How often mappings' accesses met the store, in blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Blocks that were in memory.
    pub minor: u64,
    /// Blocks that had to be waited for.
    pub major: u64,
}

/// What became of write-backs that had something to store.
#[derive(Clone, Debug)]
pub struct WriteBacks {
    /// How long those took that stored it.
    pub stored: Observed,
    /// Bytes that these stored, in whole pages.
    pub stored_bytes: u64,
    /// Those whose file had changed in its store.
    pub conflicts: u64,
    /// Those that failed for another reason.
    pub failed: u64,
}

/// What a mount comes to.
#[derive(Clone, Debug)]
pub struct MountSnapshot {
    /// Its prefix.
    pub prefix: String,
    /// Bytes of its files that are not in the store, in whole pages.
    pub unsynced_bytes: u64,
    /// Files with such bytes.
    pub unsynced_files: u64,
    /// How long the oldest of them have been unsynced; zero if there are none.
    pub unsynced_age: Duration,
    /// Files with unsynced bytes whose content changed in the store.
    pub stale_files: u64,
    /// Files that ended processes left unsynced.
    pub orphaned_files: u64,
    /// Files whose last write-back failed for want of the store.
    pub failing_files: u64,
    /// How long it has not taken bytes; zero if it does.
    pub trouble: Duration,
    /// What its store was asked, and what came of it.
    pub calls: Vec<StoreCalls>,
    /// Bytes of files that came from the store.
    pub read_bytes: u64,
    /// Bytes of unsynced pages that the store has taken.
    pub written_bytes: u64,
}

/// The faults of the mappings that have ended, and what was told last.
#[derive(Debug, Default)]
pub(super) struct FaultTotals {
    ended: FaultCounts,
    told: FaultCounts,
}

impl FaultTotals {
    /// Adds those of a mapping that is in no table any more.
    pub(super) fn add(&self, (minor, major): (u64, u64)) {
        self.ended.minor.fetch_add(minor, Ordering::Relaxed);
        self.ended.major.fetch_add(major, Ordering::Relaxed);
    }

    /// These and those of the living. A mapping that ends meanwhile may be in neither: what was told before is the
    /// least, so that a count never falls.
    fn with_living(&self, minor: u64, major: u64) -> Faults {
        let minor = minor + self.ended.minor.load(Ordering::Relaxed);
        let major = major + self.ended.major.load(Ordering::Relaxed);
        Faults {
            minor: self.told.minor.fetch_max(minor, Ordering::Relaxed).max(minor),
            major: self.told.major.fetch_max(major, Ordering::Relaxed).max(major),
        }
    }
}

impl MmapManager {
    /// What everything together comes to. Blocks.
    pub fn snapshot(&self) -> Snapshot {
        let shared = &self.shared;
        let (spilled_bytes, spill_max) = shared.private.spilled();
        let processes = self.processes.all();
        Snapshot {
            shares: self.shares(),
            memory: shared.limits.memory,
            faults: self.fault_totals(),
            read_ahead: self.read_ahead_use(),
            mappings: self.mappings.len() as u64,
            processes: processes.len() as u64,
            attached: processes.iter().filter(|process| process.vitals().attached).count() as u64,
            private_bytes: shared.private.held(),
            spilled_bytes,
            spill_max,
            waiting_writers: shared.waiting_writers() as u64,
            write_backs: self.write_backs(),
            conflicts: shared.aside.count_blocking().ok().map(|count| count as u64),
            journal: shared.journal.as_ref().map(|journal| journal.usage()),
            disk: self.state.path().and_then(|path| {
                let disk = rustix::fs::statvfs(path).ok()?;
                Some((disk.f_bavail.saturating_mul(disk.f_frsize), disk.f_blocks.saturating_mul(disk.f_frsize)))
            }),
            mounts: self.mount_snapshots(),
        }
    }

    fn shares(&self) -> Vec<Share> {
        let shared = &self.shared;
        let budget = |name, budget: &crate::budget::Budget| Share { name, used: budget.used(), total: budget.total() };
        vec![
            Share { name: "clean", used: shared.cache.weight(), total: shared.cache.capacity() },
            budget("dirty", &shared.dirty),
            Share { name: "private", used: shared.private.used(), total: shared.private.total() },
            budget("fetch", &shared.fetch),
            budget("write_back", &shared.write_back),
        ]
    }

    fn fault_totals(&self) -> Faults {
        let (mut minor, mut major) = (0, 0);
        for entry in &self.mappings {
            let faults = entry.faults();
            (minor, major) = (minor + faults.0, major + faults.1);
        }
        self.faults.with_living(minor, major)
    }

    fn write_backs(&self) -> WriteBacks {
        let counts = &self.shared.write_backs;
        WriteBacks {
            stored: counts.stored.observed(),
            stored_bytes: counts.stored_bytes.load(Ordering::Relaxed),
            conflicts: counts.conflicts.load(Ordering::Relaxed),
            failed: counts.failed.load(Ordering::Relaxed),
        }
    }

    fn mount_snapshots(&self) -> Vec<MountSnapshot> {
        let troubles = self.shared.backlog.troubles();
        let snapshot = |mount: &std::sync::Arc<crate::vfs::Mount>| {
            let (prefix, counts) = (mount.prefix(), mount.counts());
            let trouble = troubles.iter().find(|trouble| trouble.mount == prefix);
            MountSnapshot {
                prefix: prefix.to_owned(),
                unsynced_bytes: 0,
                unsynced_files: 0,
                unsynced_age: Duration::ZERO,
                stale_files: 0,
                orphaned_files: 0,
                failing_files: trouble.map_or(0, |trouble| trouble.files),
                trouble: trouble.map(|trouble| trouble.lasting).unwrap_or_default(),
                calls: counts.calls(),
                read_bytes: counts.read_bytes(),
                written_bytes: counts.written_bytes(),
            }
        };
        let mut mounts: Vec<MountSnapshot> = self.files.vfs().mounts().iter().map(snapshot).collect();
        let index: HashMap<String, usize> =
            mounts.iter().enumerate().map(|(index, mount)| (mount.prefix.clone(), index)).collect();
        for file in self.files.select(|file| file.dirty_memory() > 0 || file.has_orphans()) {
            let Some(index) = index.get(file.location().mount.prefix()) else { continue };
            let mount = &mut mounts[*index];
            let bytes = file.dirty_bytes();
            mount.unsynced_bytes += bytes;
            mount.unsynced_files += u64::from(bytes > 0);
            mount.stale_files += u64::from(file.is_stale());
            mount.orphaned_files += u64::from(file.has_orphans());
            let age = file.unsynced_since().map(|since| since.elapsed()).unwrap_or_default();
            mount.unsynced_age = mount.unsynced_age.max(age);
        }
        mounts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_faults_of_an_ended_mapping_stay_and_a_count_never_falls() {
        let totals = FaultTotals::default();
        assert_eq!(totals.with_living(5, 2), Faults { minor: 5, major: 2 });
        // It has left the table, and its counts have not come yet.
        assert_eq!(totals.with_living(0, 0), Faults { minor: 5, major: 2 });
        totals.add((5, 2));
        assert_eq!(totals.with_living(1, 0), Faults { minor: 6, major: 2 });
    }
}
