//! [`Registry`]: everything that is told, gathered when somebody asks.
//!
//! Gathering blocks (the core goes through its mappings, the state directory and `/proc` are read), so that it is
//! for a thread that may. One at a time: whoever asks meanwhile waits.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mmap_core::manager::{MmapManager, MountSnapshot, Snapshot};

use super::calls::{CODES, Calls, Operation, Rpc};
use super::process::ProcessUse;
use super::table as t;
use super::text::Families;
use crate::config::Durability;

/// Something that there may be so much of.
pub(crate) struct Limit {
    /// Its name.
    pub(crate) name: &'static str,
    /// The most.
    pub(crate) max: u64,
    /// How much there is now.
    pub(crate) used: Box<dyn Fn() -> u64 + Send + Sync>,
}

/// Whether the mount of this prefix answers.
type Answers = Box<dyn Fn(&str) -> bool + Send + Sync>;

/// Where everything that is told comes from.
pub(crate) struct Registry {
    calls: Arc<Calls>,
    manager: Arc<MmapManager>,
    limits: Vec<Limit>,
    answers: Answers,
    node: String,
    durability: Durability,
    serving: AtomicBool,
    began: (Instant, SystemTime),
    /// Held by whoever gathers.
    gathering: Arc<tokio::sync::Mutex<()>>,
}

impl Registry {
    /// Of a server that serves.
    pub(crate) fn new(
        calls: Arc<Calls>,
        manager: Arc<MmapManager>,
        limits: Vec<Limit>,
        answers: Answers,
        (node, durability): (String, Durability),
    ) -> Arc<Self> {
        let (serving, began) = (AtomicBool::new(true), (Instant::now(), SystemTime::now()));
        let gathering = Arc::default();
        Arc::new(Self { calls, manager, limits, answers, node, durability, serving, began, gathering })
    }

    /// The server stops.
    pub(crate) fn stop(&self) {
        self.serving.store(false, Ordering::Relaxed);
    }

    /// Whether the server takes calls.
    pub(crate) fn is_serving(&self) -> bool {
        self.serving.load(Ordering::Relaxed)
    }

    /// Everything as Prometheus reads it, gathered on a thread that may block.
    ///
    /// # Errors
    /// The thread's panic, as text.
    pub(crate) async fn text(self: Arc<Self>) -> Result<String, String> {
        self.gathered(|families| families.text()).await
    }

    /// Everything, gathered on a thread that may block.
    ///
    /// # Errors
    /// The thread's panic, as text.
    pub(super) async fn families(self: Arc<Self>) -> Result<Families, String> {
        self.gathered(|families| families).await
    }

    async fn gathered<T: Send + 'static>(
        self: Arc<Self>,
        of: impl FnOnce(Families) -> T + Send + 'static,
    ) -> Result<T, String> {
        let turn = Arc::clone(&self.gathering).lock_owned().await;
        let gather = move || {
            // With it, so that a scrape that is given up keeps the next one waiting until it has ended.
            let _turn = turn;
            of(self.gather())
        };
        tokio::task::spawn_blocking(gather).await.map_err(|error| error.to_string())
    }

    pub(super) fn gather(&self) -> Families {
        let mut out = Families::default();
        let snapshot = self.manager.snapshot();
        self.put_server(&snapshot, &mut out);
        put_calls(&self.calls, &mut out);
        self.put_limits(&snapshot, &mut out);
        put_mappings(&snapshot, &mut out);
        self.put_unsynced(&snapshot, &mut out);
        put_stores(&snapshot.mounts, &mut out);
        put_journal(&snapshot, &mut out);
        put_process(&mut out);
        out
    }

    fn put_server(&self, snapshot: &Snapshot, out: &mut Families) {
        let (began, at) = self.began;
        out.count(&t::BUILD_INFO, [env!("CARGO_PKG_VERSION"), &self.node, level(self.durability)], 1);
        out.number(&t::START_TIME, [], at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64());
        out.number(&t::UPTIME, [], began.elapsed().as_secs_f64());
        out.count(&t::SERVING, [], u64::from(self.is_serving()));
        for mount in &snapshot.mounts {
            out.count(&t::MOUNT_UP, [&mount.prefix], u64::from((self.answers)(&mount.prefix)));
        }
    }

    fn put_limits(&self, snapshot: &Snapshot, out: &mut Families) {
        let limits = self.manager.limits();
        let in_core = [
            ("mappings", limits.max_mappings as u64, snapshot.mappings),
            ("processes", limits.max_processes as u64, snapshot.processes),
        ];
        let outside = self.limits.iter().map(|limit| (limit.name, limit.max, (limit.used)()));
        let all: Vec<(&str, u64, u64)> = in_core.into_iter().chain(outside).collect();
        for (name, max, _) in &all {
            out.count(&t::LIMIT, [name], *max);
        }
        for (name, _, used) in &all {
            out.count(&t::LIMIT_USED, [name], *used);
        }
        for share in &snapshot.shares {
            out.count(&t::MEMORY_SHARE, [share.name], share.total);
        }
        for share in &snapshot.shares {
            out.count(&t::MEMORY_USED, [share.name], share.used);
        }
        out.count(&t::MEMORY_BUDGET, [], snapshot.memory);
        out.count(&t::WAITING_WRITERS, [], snapshot.waiting_writers);
    }

    fn put_unsynced(&self, snapshot: &Snapshot, out: &mut Families) {
        let mut each = |metric, value: fn(&MountSnapshot) -> u64| {
            for mount in &snapshot.mounts {
                out.count(metric, [&mount.prefix], value(mount));
            }
        };
        each(&t::UNSYNCED_BYTES, |mount| mount.unsynced_bytes);
        each(&t::UNSYNCED_FILES, |mount| mount.unsynced_files);
        each(&t::STALE_FILES, |mount| mount.stale_files);
        each(&t::ORPHANED_FILES, |mount| mount.orphaned_files);
        each(&t::BACKLOG_FILES, |mount| mount.failing_files);
        let mut each = |metric, value: fn(&MountSnapshot) -> Duration| {
            for mount in &snapshot.mounts {
                out.number(metric, [&mount.prefix], value(mount).as_secs_f64());
            }
        };
        each(&t::UNSYNCED_AGE, |mount| mount.unsynced_age);
        each(&t::BACKLOG_SECONDS, |mount| mount.trouble);
        let (killed, power) = at_risk(self.durability, snapshot);
        out.count(&t::AT_RISK, ["kill"], killed);
        out.count(&t::AT_RISK, ["power_loss"], power);
        // A state directory that does not tell is one that nobody can look into: not a number is not zero.
        out.number(&t::CONFLICTS, [], snapshot.conflicts.map_or(f64::NAN, |count| count as f64));
        let write_backs = &snapshot.write_backs;
        out.histogram(&t::WRITE_BACK_SECONDS, [], write_backs.stored.clone());
        out.count(&t::WRITE_BACK_BYTES, [], write_backs.stored_bytes);
        out.count(&t::WRITE_BACK_FAILURES, ["conflict"], write_backs.conflicts);
        out.count(&t::WRITE_BACK_FAILURES, ["failed"], write_backs.failed);
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").finish_non_exhaustive()
    }
}

const fn level(durability: Durability) -> &'static str {
    match durability {
        Durability::Memory => "memory",
        Durability::Process => "process",
        Durability::Disk => "disk",
    }
}

/// Acknowledged bytes that would be lost if the server were killed, and if the machine lost its power: what only
/// memory has, and what the journal has not synced. A journal that has failed keeps nothing for sure.
fn at_risk(durability: Durability, snapshot: &Snapshot) -> (u64, u64) {
    let unsynced = snapshot.mounts.iter().map(|mount| mount.unsynced_bytes).sum::<u64>() + snapshot.private_bytes;
    match (durability, &snapshot.journal) {
        (_, Some(journal)) if journal.has_failed => (unsynced, unsynced),
        (_, None) | (Durability::Memory, Some(_)) => (unsynced, unsynced),
        (Durability::Process, Some(_)) => (0, unsynced),
        (Durability::Disk, Some(_)) => (0, 0),
    }
}

fn put_calls(calls: &Calls, out: &mut Families) {
    for rpc in Rpc::all() {
        put_codes(out, &t::CALLS, rpc.name(), calls.of_method(rpc).0);
    }
    for rpc in Rpc::all() {
        out.histogram(&t::CALL_SECONDS, [rpc.name()], calls.of_method(rpc).1);
    }
    for operation in Operation::ALL {
        put_codes(out, &t::OPERATIONS, operation.name(), calls.of_operation(operation).0);
    }
    for operation in Operation::ALL {
        out.histogram(&t::OPERATION_WAIT, [operation.name()], calls.of_operation(operation).1);
    }
    for rpc in Rpc::STREAMS {
        out.count(&t::STREAMS, [rpc.name()], calls.of_method(rpc).2);
    }
    let [read, written, connections] = calls.totals();
    out.count(&t::READ_BYTES, [], read);
    out.count(&t::WRITTEN_BYTES, [], written);
    out.count(&t::CONNECTIONS, [], connections);
}

/// Those that there are, and OK in any case, so that a rate has somewhere to begin.
fn put_codes(out: &mut Families, metric: &'static t::Metric, name: &str, codes: [u64; CODES.len()]) {
    for (code, count) in CODES.iter().zip(codes).filter(|(code, count)| *count > 0 || **code == CODES[0]) {
        out.count(metric, [name, code], count);
    }
}

fn put_mappings(snapshot: &Snapshot, out: &mut Families) {
    out.count(&t::MAPPINGS, [], snapshot.mappings);
    out.count(&t::PROCESSES, [], snapshot.processes);
    out.count(&t::ATTACHED, [], snapshot.attached);
    out.count(&t::FAULTS, ["minor"], snapshot.faults.minor);
    out.count(&t::FAULTS, ["major"], snapshot.faults.major);
    out.count(&t::READ_AHEAD, ["brought"], snapshot.read_ahead.brought);
    out.count(&t::READ_AHEAD, ["used"], snapshot.read_ahead.used);
    out.count(&t::READ_AHEAD, ["wasted"], snapshot.read_ahead.wasted);
    out.count(&t::PRIVATE_BYTES, [], snapshot.private_bytes);
    out.count(&t::SPILLED_BYTES, [], snapshot.spilled_bytes);
    out.count(&t::SPILL_MAX, [], snapshot.spill_max);
}

fn put_stores(mounts: &[MountSnapshot], out: &mut Families) {
    for mount in mounts {
        for calls in &mount.calls {
            for (outcome, count) in &calls.outcomes {
                out.count(&t::STORE_CALLS, [&mount.prefix, calls.call.as_str(), outcome.as_str()], *count);
            }
        }
    }
    for mount in mounts {
        for calls in &mount.calls {
            out.histogram(&t::STORE_SECONDS, [&mount.prefix, calls.call.as_str()], calls.took.clone());
        }
    }
    for mount in mounts {
        out.count(&t::STORE_READ, [&mount.prefix], mount.read_bytes);
    }
    for mount in mounts {
        out.count(&t::STORE_WRITTEN, [&mount.prefix], mount.written_bytes);
    }
}

fn put_journal(snapshot: &Snapshot, out: &mut Families) {
    let journal = snapshot.journal.as_ref();
    let number = |value: fn(&mmap_core::journal::JournalUse) -> u64| journal.map_or(0, value);
    out.count(&t::JOURNAL_BYTES, [], number(|journal| journal.disk_bytes));
    out.count(&t::JOURNAL_WAITING, [], number(|journal| journal.waiting_bytes));
    out.count(&t::JOURNAL_WAITING_MAX, [], number(|journal| journal.waiting_max));
    out.count(&t::JOURNAL_STUCK, [], number(|journal| u64::from(journal.is_stuck)));
    out.count(&t::JOURNAL_FAILED, [], number(|journal| u64::from(journal.has_failed)));
    out.count(&t::JOURNAL_WRITTEN, [], number(|journal| journal.written_bytes));
    let (batches, syncs) = journal.map(|journal| (journal.batches.clone(), journal.syncs.clone())).unwrap_or_default();
    out.histogram(&t::JOURNAL_WRITE_SECONDS, [], batches);
    out.histogram(&t::JOURNAL_SYNC_SECONDS, [], syncs);
    let tell = |bytes: Option<u64>| bytes.map_or(f64::NAN, |bytes| bytes as f64);
    out.number(&t::STATE_FREE, [], tell(snapshot.disk.map(|(free, _)| free)));
    out.number(&t::STATE_SIZE, [], tell(snapshot.disk.map(|(_, size)| size)));
}

fn put_process(out: &mut Families) {
    let process = ProcessUse::now();
    out.count(&t::PROCESS_RESIDENT, [], process.resident_bytes);
    out.number(&t::PROCESS_CPU, [], process.cpu_seconds);
    out.count(&t::PROCESS_FDS, [], process.open_fds);
    out.count(&t::PROCESS_FDS_MAX, [], process.max_fds);
    out.count(&t::PROCESS_THREADS, [], process.threads);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use mmap_core::vfs::object::ObjectLayout;
    use mmap_core::vfs::{Mount, Vfs};

    use super::*;

    fn registry() -> Arc<Registry> {
        let mount = Mount::with_store("/", Arc::new(ObjectLayout::in_memory())).unwrap();
        let manager = MmapManager::with_vfs(Vfs::new(vec![mount]).unwrap());
        let limit = Limit { name: "connections", max: 7, used: Box::new(|| 3) };
        let about = ("n1".to_owned(), Durability::Memory);
        Registry::new(Calls::new(), manager, vec![limit], Box::new(|_| true), about)
    }

    #[tokio::test]
    async fn every_metric_of_the_table_is_told_and_no_other() {
        let families = registry().gather();
        let told: Vec<&str> = families.0.iter().map(|family| family.metric.name).collect();
        let unique: BTreeSet<&str> = told.iter().copied().collect();
        assert_eq!(unique.len(), told.len(), "the samples of one metric stand together: {told:?}");
        assert_eq!(unique, t::METRICS.iter().map(|metric| metric.name).collect());
        for family in &families.0 {
            let fits = |(labels, value): &(Vec<String>, _)| {
                labels.len() == family.metric.labels.len() && family.metric.kind.fits(value)
            };
            assert!(!family.samples.is_empty() && family.samples.iter().all(fits), "{}", family.metric.name);
        }
    }

    #[tokio::test]
    async fn the_text_has_the_limits_and_says_whether_it_serves() {
        let registry = registry();
        let text = Arc::clone(&registry).text().await.unwrap();
        for line in
            ["mmapd_limit{limit=\"connections\"} 7", "mmapd_limit_used{limit=\"connections\"} 3", "mmapd_serving 1"]
        {
            assert!(text.lines().any(|written| written == line), "{line} is not in\n{text}");
        }
        registry.stop();
        assert!(registry.text().await.unwrap().contains("\nmmapd_serving 0\n"));
    }

    #[tokio::test]
    async fn what_would_be_lost_depends_on_the_level() {
        let mut snapshot = registry().manager.snapshot();
        snapshot.private_bytes = 4096;
        assert_eq!(at_risk(Durability::Memory, &snapshot), (4096, 4096));
        let journal = mmap_core::journal::JournalUse {
            disk_bytes: 0,
            waiting_bytes: 0,
            waiting_max: 0,
            is_stuck: false,
            has_failed: false,
            written_bytes: 0,
            batches: Default::default(),
            syncs: Default::default(),
        };
        snapshot.journal = Some(journal.clone());
        assert_eq!(at_risk(Durability::Process, &snapshot), (0, 4096));
        assert_eq!(at_risk(Durability::Disk, &snapshot), (0, 0));
        snapshot.journal = Some(mmap_core::journal::JournalUse { has_failed: true, ..journal });
        assert_eq!(at_risk(Durability::Disk, &snapshot), (4096, 4096));
    }
}
