//! Processes: who they are, whether they live, and what they mapped.
//!
//! Invariants: a process ends exactly once (`Live → Ending → gone`, an exit that fails goes back to `Live`);
//! a mapping is added only to a process that lives, so that whoever ends it has seen all of its mappings.
//! It does not end processes: the manager does.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::caller::{MmapId, ProcessKey, Subject};
use crate::error::{Errno, Error, Result};
use crate::journal::record::{Record, Who};
use crate::journal::{Journal, Lsn};
use crate::limits::{Limits, SubjectLimits};
use crate::subject::{Account, Accounts};

/// Bytes of the longest name that a process may give itself.
const NAME_BYTES_MAX: usize = 255;

/// A caller that has mappings or is attached.
#[derive(Debug)]
pub struct Process {
    /// Who it is.
    pub key: ProcessKey,
    life: Mutex<Life>,
    running: AtomicUsize,
    /// It made a call since `last_call` was last looked at. A clock and a lock for each call would cost more than
    /// the call.
    called: AtomicBool,
    journal: Option<Journal>,
    /// Its subject's, if subjects have limits.
    pub account: Option<Arc<Account>>,
    /// Cancelled when the process is gone.
    pub gone: CancellationToken,
}

#[derive(Debug)]
struct Life {
    name: String,
    phase: Phase,
    attached: bool,
    /// When its stream broke; `None` if it never attached.
    detached_at: Option<Instant>,
    last_call: Instant,
    mappings: BTreeSet<MmapId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Live,
    Ending,
    Gone,
}

/// A call of a process, as long as it runs.
#[derive(Debug)]
pub struct CallGuard(Arc<Process>);

impl Drop for CallGuard {
    fn drop(&mut self) {
        self.0.mark_call();
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A process's figures.
#[derive(Clone, Debug)]
pub struct Vitals {
    /// What it called itself.
    pub name: String,
    /// How many mappings it has.
    pub mappings: usize,
    /// It is attached now.
    pub attached: bool,
    /// Since its last call.
    pub idle: Duration,
}

impl Process {
    fn new(key: ProcessKey, journal: Option<Journal>, account: Option<Arc<Account>>) -> Arc<Self> {
        let life = Life {
            name: String::new(),
            phase: Phase::Live,
            attached: false,
            detached_at: None,
            last_call: Instant::now(),
            mappings: BTreeSet::new(),
        };
        let (running, called, gone) = (AtomicUsize::new(0), AtomicBool::new(false), CancellationToken::new());
        Arc::new(Self { key, life: Mutex::new(life), running, called, journal, account, gone })
    }

    /// Says in the journal that it lives, if it does.
    pub fn say(&self) {
        self.say_life(&self.life.lock());
    }

    fn say_life(&self, life: &Life) {
        let Some(journal) = &self.journal else { return };
        if life.phase != Phase::Gone {
            let leased = life.attached || life.detached_at.is_some();
            let record = Record::Process { who: self.who(), name: life.name.as_str().into(), leased };
            journal.append(None, |out| record.write_head(out));
        }
    }

    fn who(&self) -> Who<'_> {
        Who { subject: self.key.subject.name().into(), pid: self.key.pid }
    }

    /// It makes a call that does not wait, or ends one that did.
    pub fn mark_call(&self) {
        // Read first: a line that is only read stays in every core's cache.
        if !self.called.load(Ordering::Relaxed) {
            self.called.store(true, Ordering::Relaxed);
        }
    }

    /// Since its last call, as exactly as somebody looks: the manager does so all the time.
    fn idle(&self, life: &mut Life) -> Duration {
        if self.called.swap(false, Ordering::Relaxed) || self.running.load(Ordering::Relaxed) > 0 {
            life.last_call = Instant::now();
        }
        life.last_call.elapsed()
    }

    /// Counts a call as running.
    pub fn begin_call(self: &Arc<Self>) -> CallGuard {
        self.running.fetch_add(1, Ordering::Relaxed);
        CallGuard(Arc::clone(self))
    }

    /// Adds a mapping.
    ///
    /// # Errors
    /// EBUSY if the process is ending, ENOMEM at its limit or its subject's.
    pub fn add_mapping(&self, id: MmapId, limits: &Limits) -> Result<()> {
        self.count_mapping(id, limits, Account::add_mapping)
    }

    /// Adds a mapping as it was before the server was away.
    ///
    /// # Errors
    /// ENOMEM at its limit; its subject's does not count.
    pub fn restore_mapping(&self, id: MmapId, limits: &Limits) -> Result<()> {
        let count = |account: &Account| {
            account.restore_mapping();
            Ok(())
        };
        self.count_mapping(id, limits, count)
    }

    fn count_mapping(&self, id: MmapId, limits: &Limits, count: impl FnOnce(&Account) -> Result<()>) -> Result<()> {
        let mut life = self.life.lock();
        if life.phase != Phase::Live {
            return Err(ending(&self.key));
        }
        let max = limits.max_mappings_per_process;
        if life.mappings.len() >= max {
            let pid = self.key.pid;
            return Err(Error::new(Errno::NoMem, format!("process {pid} has {max} mappings, the most it may have"))
                .with("limit", "max_mappings_per_process")
                .with("max", max)
                .with("pid", pid));
        }
        if let Some(account) = &self.account {
            count(account)?;
        }
        life.mappings.insert(id);
        Ok(())
    }

    /// # Errors
    /// EBUSY if it is ending.
    pub fn check_live(&self) -> Result<()> {
        if self.life.lock().phase == Phase::Live { Ok(()) } else { Err(ending(&self.key)) }
    }

    /// Takes a mapping off its list.
    pub fn remove_mapping(&self, id: MmapId) {
        if self.life.lock().mappings.remove(&id)
            && let Some(account) = &self.account
        {
            account.remove_mapping();
        }
    }

    /// Its mappings, in the order of their ids.
    pub fn mappings(&self) -> Vec<MmapId> {
        self.life.lock().mappings.iter().copied().collect()
    }

    /// Begins its end, for one caller only: its mappings, or `None` if somebody else is ending it.
    pub fn begin_end(&self) -> Option<Vec<MmapId>> {
        let mut life = self.life.lock();
        if life.phase != Phase::Live {
            return None;
        }
        life.phase = Phase::Ending;
        Some(life.mappings.iter().copied().collect())
    }

    /// Its end failed: it lives on.
    pub fn revive(&self) {
        self.life.lock().phase = Phase::Live;
    }

    /// Its figures.
    pub fn vitals(&self) -> Vitals {
        let mut life = self.life.lock();
        let idle = self.idle(&mut life);
        Vitals { name: life.name.clone(), mappings: life.mappings.len(), attached: life.attached, idle }
    }

    fn attach(&self, name: String) -> Result<()> {
        let mut life = self.life.lock();
        if life.phase != Phase::Live {
            return Err(ending(&self.key));
        }
        if life.attached {
            let pid = self.key.pid;
            return Err(Error::new(Errno::Busy, format!("process {pid} is attached already, by another stream"))
                .with("pid", pid));
        }
        life.attached = true;
        life.name = name;
        life.last_call = Instant::now();
        self.say_life(&life);
        Ok(())
    }

    /// Its stream broke: its grace time begins.
    pub fn detach(&self) {
        let mut life = self.life.lock();
        life.attached = false;
        life.detached_at = Some(Instant::now());
    }

    /// Whether it has outlived its grace time, or its idle time if it never attached.
    fn is_expired(&self, limits: &Limits) -> bool {
        let mut life = self.life.lock();
        // Looked at in any case, so that its idle time is known.
        let idle = self.idle(&mut life);
        if life.phase != Phase::Live || life.attached {
            return false;
        }
        match life.detached_at {
            Some(since) => since.elapsed() >= limits.process_grace,
            None => idle >= limits.process_idle_timeout,
        }
    }
}

fn ending(key: &ProcessKey) -> Error {
    Error::new(Errno::Busy, format!("process {} is ending: use another pid, or try again", key.pid))
        .with("pid", key.pid)
        .retry_after(Duration::from_millis(100))
}

/// There is no such process.
pub fn no_such_process(key: &ProcessKey) -> Error {
    Error::new(Errno::Srch, format!("no process {}", key.pid)).with("pid", key.pid)
}

/// The processes that live.
#[derive(Debug, Default)]
pub struct ProcessTable {
    processes: DashMap<ProcessKey, Arc<Process>>,
    journal: Option<Journal>,
    accounts: Accounts,
}

impl ProcessTable {
    /// An empty one, which says in the journal who lives.
    pub fn new(journal: Option<Journal>, limits: SubjectLimits) -> Self {
        Self { processes: DashMap::new(), journal, accounts: Accounts::new(limits) }
    }

    fn make(&self, key: ProcessKey) -> Arc<Process> {
        let account = self.accounts.of(&key.subject);
        Process::new(key, self.journal.clone(), account)
    }

    /// Takes up a process as it was before the server was away. Its grace or idle time starts anew.
    pub fn restore(&self, key: ProcessKey, name: String, leased: bool) -> Arc<Process> {
        let process = self.make(key.clone());
        {
            let mut life = process.life.lock();
            life.name = name;
            life.detached_at = leased.then(Instant::now);
        }
        self.processes.insert(key, Arc::clone(&process));
        process
    }

    /// The process, if it lives.
    pub fn get(&self, key: &ProcessKey) -> Option<Arc<Process>> {
        self.processes.get(key).map(|process| Arc::clone(&process))
    }

    /// The process, which comes into being if there is none.
    ///
    /// # Errors
    /// ENOMEM at the limit of processes.
    pub fn get_or_create(&self, key: &ProcessKey, limits: &Limits) -> Result<Arc<Process>> {
        if let Some(process) = self.get(key) {
            return Ok(process);
        }
        let max = limits.max_processes;
        // Counted before the entry is locked, because counting locks every shard in turn.
        if self.processes.len() >= max {
            return Err(Error::new(Errno::NoMem, format!("there are {max} processes, the most this server serves"))
                .with("limit", "max_processes")
                .with("max", max));
        }
        // In the table first, in the journal then: a checkpoint between the two finds it in the table.
        let process = match self.processes.entry(key.clone()) {
            Entry::Occupied(entry) => return Ok(Arc::clone(entry.get())),
            Entry::Vacant(entry) => Arc::clone(&entry.insert(self.make(key.clone()))),
        };
        process.say();
        Ok(process)
    }

    /// Attaches `key`, or a pid that nobody has if it is absent.
    ///
    /// # Errors
    /// EINVAL for a long name, EBUSY if the pid is attached or ending, ENOMEM at the limit of processes.
    pub fn attach(&self, subject: &Subject, pid: Option<u32>, name: String, limits: &Limits) -> Result<Arc<Process>> {
        let length = name.len();
        if length > NAME_BYTES_MAX {
            return Err(Error::invalid("name", format!("name has {length} bytes, more than {NAME_BYTES_MAX}"))
                .with("length", length)
                .with("max", NAME_BYTES_MAX));
        }
        let key = ProcessKey { subject: subject.clone(), pid: pid.unwrap_or_else(|| self.unused_pid(subject)) };
        let process = self.get_or_create(&key, limits)?;
        process.attach(name)?;
        Ok(process)
    }

    /// A pid that nobody has, of the upper half: people who choose their own use small ones.
    fn unused_pid(&self, subject: &Subject) -> u32 {
        loop {
            let [a, b, c, d, ..] = *uuid::Uuid::new_v4().as_bytes();
            let pid = u32::from_be_bytes([a | 0x80, b, c, d]);
            if !self.processes.contains_key(&ProcessKey { subject: subject.clone(), pid }) {
                return pid;
            }
        }
    }

    /// Takes a process whose end has begun off the table, and says so in the journal. Its pid is free again.
    pub fn bury(&self, process: &Process) -> Lsn {
        let said = {
            let mut life = process.life.lock();
            life.phase = Phase::Gone;
            let gone = Record::ProcessGone { who: process.who() };
            self.journal.as_ref().map_or(Lsn::NONE, |journal| journal.append(None, |out| gone.write_head(out)))
        };
        self.processes.remove(&process.key);
        process.gone.cancel();
        said
    }

    /// Every process.
    pub fn all(&self) -> Vec<Arc<Process>> {
        self.processes.iter().map(|process| Arc::clone(&process)).collect()
    }

    /// Those that have outlived their grace or idle time.
    pub fn expired(&self, limits: &Limits) -> Vec<Arc<Process>> {
        self.all().into_iter().filter(|process| process.is_expired(limits)).collect()
    }
}
