//! [`Config`]: everything that can be set, validated.
//!
//! Invariants: the limits fit together; where callers are taken at their word, or tokens travel in the clear, the
//! server listens on this machine only, unless it was told that this is wanted. It opens nothing: that a folder or a port is there is for
//! those to find out who use it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mmap_core::limits::Limits;
use mmap_core::vfs::MountSpec;

use super::auth::{self, Auth};
use super::listen::ListenAddr;
use super::machine;
use super::metrics::MetricsConfig;
use super::quantity::{parse_size, parse_time, show_size};
use super::refusal::Refusal;
use super::sources::{Env, Settings};
use super::subjects::{self, SubjectRates};
use super::telemetry::Telemetry;
use super::tls::{TlsFiles, check_exposure};

/// The largest message that can be asked for: gRPC counts a message's bytes in 32 bits.
const MESSAGE_MAX: u64 = 1 << 30;
/// More threads than this run nothing faster on any machine.
const WORKERS_MAX: usize = 1024;
/// The smallest spill file that is of use.
const SPILL_MIN: u64 = 1 << 20;
/// The least default budget, for machines that are so small that a quarter is of no use.
const MEMORY_DEFAULT_MIN: u64 = 64 << 20;
/// Below the 30 s that container runtimes give between SIGTERM and SIGKILL.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(25);

/// How many of what may be there at a time.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// Connections; more are closed at once.
    pub connections: usize,
    /// Streams on a connection.
    pub streams: u32,
    /// Calls that run, of all connections; more wait.
    pub calls: usize,
    /// Calls that run, of one connection; more wait.
    pub calls_per_connection: usize,
}

/// What an acknowledged write survives before it is synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Nothing: there is no journal.
    Memory,
    /// A killed server.
    Process,
    /// Power loss.
    Disk,
}

/// How to serve.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen; never empty.
    pub listen: Vec<ListenAddr>,
    /// What to mount. Empty: the folder [`Config::default_folder`] at `/`.
    pub mounts: Vec<MountSpec>,
    /// Absolute path of the folder for what must outlive the server.
    pub state_dir: PathBuf,
    /// What an acknowledged write survives.
    pub durability: Durability,
    /// Start although the journal is damaged, with what comes before the damage.
    pub accept_journal_loss: bool,
    /// The core's limits.
    pub limits: Limits,
    /// The transport's limits.
    pub bounds: Bounds,
    /// What one subject may ask for.
    pub subject: SubjectRates,
    /// Threads that run calls.
    pub workers: usize,
    /// The serving node's name, fit for a header.
    pub node: String,
    /// Time for the end: draining and syncing.
    pub shutdown_timeout: Duration,
    /// How callers are told apart.
    pub auth: Auth,
    /// What TCP listeners speak TLS with. `None`: they do not.
    pub tls: Option<TlsFiles>,
    /// Where metrics are told.
    pub metrics: MetricsConfig,
    /// What to log, if it was set.
    pub log: Option<String>,
    /// How the log is written, and which calls are traced to where.
    pub telemetry: Telemetry,
}

impl Config {
    /// Reads flags (the program's name first), environment and file.
    ///
    /// # Errors
    /// What is wrong, with where it stands; or that help or the version was asked for.
    pub fn read(args: impl IntoIterator<Item = OsString>, env: &Env<'_>) -> Result<Self, Refusal> {
        Self::of(&Settings::read(args, env)?, env)
    }

    /// The configuration that `settings` say.
    pub(super) fn of(settings: &Settings, env: &Env<'_>) -> Result<Self, Refusal> {
        let limits = limits(settings)?;
        let listen = settings.many("listen", ListenAddr::parse)?;
        let insecure = settings.one("insecure", parse_switch)?.unwrap_or(false);
        let config = Self {
            listen: if listen.is_empty() { default_listen() } else { listen },
            mounts: settings.many("mount", |text| MountSpec::parse(text).map_err(|error| error.to_string()))?,
            state_dir: state_dir(settings, env)?,
            durability: settings.one("durability", parse_durability)?.unwrap_or(Durability::Process),
            accept_journal_loss: settings.one("accept-journal-loss", parse_switch)?.unwrap_or(false),
            limits,
            bounds: bounds(settings)?,
            subject: subjects::rates(settings)?,
            workers: settings.one("workers", parse_workers)?.unwrap_or_else(default_workers),
            node: settings.one("node", parse_node)?.unwrap_or_else(default_node),
            shutdown_timeout: settings.one("shutdown-timeout", parse_time)?.unwrap_or(SHUTDOWN_TIMEOUT),
            auth: auth::read(settings)?,
            tls: TlsFiles::read(settings)?,
            metrics: MetricsConfig::of(settings, insecure)?,
            log: settings.one("log", |text| Ok(text.to_owned()))?,
            telemetry: Telemetry::read(settings, env)?,
        };
        if !insecure {
            check_exposure(settings, &config.listen, config.tls.as_ref())?;
        }
        Ok(config)
    }

    /// The value of `key` where it is not set and comes of the machine or of other settings.
    pub(super) fn computed(&self, key: &str) -> Option<String> {
        match key {
            "memory" => Some(show_size(self.limits.memory)),
            "mount" => MountSpec::of_folder("/", &self.default_folder()).ok().map(|mount| mount.to_string()),
            "node" => Some(self.node.clone()),
            // Of a variable that other programs have too.
            "otlp-endpoint" => self.telemetry.otlp_endpoint.clone(),
            "state-dir" => Some(self.state_dir.display().to_string()),
            "workers" => Some(self.workers.to_string()),
            _ => None,
        }
    }

    /// Where the journal lies.
    pub fn journal_folder(&self) -> PathBuf {
        self.state_dir.join("journal")
    }

    /// The folder that is served at `/` when nothing is mounted.
    pub fn default_folder(&self) -> PathBuf {
        self.state_dir.join("files")
    }
}

pub(super) fn default_listen() -> Vec<ListenAddr> {
    vec![ListenAddr::Tcp(vec![([127, 0, 0, 1], 50051).into()])]
}

fn limits(settings: &Settings) -> Result<Limits, Refusal> {
    let defaults = Limits::default();
    let quarter = machine::memory().map_or(defaults.memory, |total| (total / 4).max(MEMORY_DEFAULT_MIN));
    let limits = Limits {
        memory: settings.one("memory", parse_size)?.unwrap_or(quarter),
        private_spill: settings.one("private-spill", parse_spill)?.unwrap_or(defaults.private_spill),
        max_message: settings.one("max-message", parse_message)?.unwrap_or(defaults.max_message),
        max_mappings: settings.one("max-mappings", parse_count)?.unwrap_or(defaults.max_mappings),
        max_mappings_per_process: settings
            .one("max-mappings-per-process", parse_count)?
            .unwrap_or(defaults.max_mappings_per_process),
        max_processes: settings.one("max-processes", parse_count)?.unwrap_or(defaults.max_processes),
        process_grace: settings.one("process-grace", parse_time)?.unwrap_or(defaults.process_grace),
        process_idle_timeout: settings
            .one("process-idle-timeout", parse_time)?
            .unwrap_or(defaults.process_idle_timeout),
        store_timeout: settings.one("store-timeout", parse_time)?.unwrap_or(defaults.store_timeout),
        subject: subjects::limits(settings)?,
        ..defaults
    };
    // Which flag is at fault is a matter of taste: the sentence names both, and the budget is the one to grow.
    limits.check().map_err(|error| settings.refuse("memory", error.message()))?;
    Ok(limits)
}

fn bounds(settings: &Settings) -> Result<Bounds, Refusal> {
    // 1024 calls of a few KiB each are what two cores keep busy with; 256 leave room for other connections.
    Ok(Bounds {
        connections: settings.one("max-connections", parse_count)?.unwrap_or(1024),
        streams: settings.one("max-streams", parse_count)?.unwrap_or(1024),
        calls: settings.one("max-calls", parse_count)?.unwrap_or(1024),
        calls_per_connection: settings.one("max-calls-per-connection", parse_count)?.unwrap_or(256),
    })
}

fn state_dir(settings: &Settings, env: &Env<'_>) -> Result<PathBuf, Refusal> {
    let path = match settings.one("state-dir", |text| Ok(PathBuf::from(text)))? {
        Some(path) => path,
        None => machine::data_dir(env).map(|dir| dir.join("mmapd")).ok_or_else(|| {
            Refusal::Wrong("neither XDG_DATA_HOME nor HOME is set: say with --state-dir where the state lies".into())
        })?,
    };
    std::path::absolute(Path::new(&path)).map_err(|error| settings.refuse("state-dir", &error.to_string()))
}

fn parse_durability(text: &str) -> Result<Durability, String> {
    match text {
        "memory" => Ok(Durability::Memory),
        "process" => Ok(Durability::Process),
        "disk" => Ok(Durability::Disk),
        _ => Err(format!("`{text}` is not a level: it is one of memory, process, disk")),
    }
}

/// `off` is 0 bytes. Anything below a batch of pages would be full at once.
fn parse_spill(text: &str) -> Result<u64, String> {
    match text {
        "off" => Ok(0),
        _ => match parse_size(text)? {
            size if (1..SPILL_MIN).contains(&size) => Err(format!("`{text}` is less than 1MiB, the least: or say off")),
            size => Ok(size),
        },
    }
}

fn parse_message(text: &str) -> Result<u64, String> {
    match parse_size(text)? {
        0 => Err("a largest message of no bytes serves nobody".to_owned()),
        size if size > MESSAGE_MAX => Err(format!("`{text}` is more than 1GiB, the most that a message can have")),
        size => Ok(size),
    }
}

fn parse_count<T: TryFrom<u64>>(text: &str) -> Result<T, String> {
    // A semaphore holds at most usize::MAX / 8 permits; no count here means anything near that.
    let count = text.parse::<u64>().ok().filter(|count| (1..=u64::from(u32::MAX)).contains(count));
    let refuse = || format!("`{text}` is not a count: write a whole number from 1 to {}", u32::MAX);
    count.and_then(|count| T::try_from(count).ok()).ok_or_else(refuse)
}

fn parse_workers(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(count) if (1..=WORKERS_MAX).contains(&count) => Ok(count),
        Ok(_) | Err(_) => Err(format!("`{text}` is not a number of threads: write one from 1 to {WORKERS_MAX}")),
    }
}

/// One core is left to who calls, to the journal and to the kernel's share of the network. On two cores one worker
/// answers 1.3 to 1.9 times as many small calls as two, which wake each other for each of them.
fn default_workers() -> usize {
    machine::cores().saturating_sub(1).clamp(1, WORKERS_MAX)
}

fn parse_switch(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err(format!("`{text}` is neither true nor false")),
    }
}

fn parse_node(text: &str) -> Result<String, String> {
    if (1..=255).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(text.to_owned());
    }
    Err(format!("`{}` is not a node's name: 1 to 255 visible ASCII characters without spaces", text.escape_debug()))
}

fn default_node() -> String {
    machine::host_name().and_then(|name| parse_node(&name).ok()).unwrap_or_else(|| "mmapd".to_owned())
}
