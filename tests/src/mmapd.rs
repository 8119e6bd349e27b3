//! The real `mmapd` as a fixture: started on a free loopback port with a state directory, a home and a
//! clean environment of its own.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use tempfile::TempDir;

use crate::binaries;
use crate::daemon::{Daemon, START_DEADLINE, Stream};

/// What every listener's line begins with.
const LISTENING: &str = "mmapd listening on ";
/// How long an orderly end may take.
const STOP_DEADLINE: Duration = Duration::from_secs(60);

/// How to start a server.
#[derive(Debug)]
pub struct Setup {
    args: Vec<OsString>,
    env: Vec<(String, OsString)>,
    listeners: usize,
    folder: TempDir,
    state_dir: Option<PathBuf>,
}

/// A running server.
#[derive(Debug)]
pub struct Mmapd {
    daemon: Daemon,
    addrs: Vec<String>,
    folder: TempDir,
    state_dir: PathBuf,
}

impl Setup {
    /// One TCP listener on a free port, and the embedded default folder.
    ///
    /// # Panics
    /// If no temporary folder can be made.
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("mmapd-test-").tempdir();
        let folder = folder.expect("the temporary folder can be written");
        Self { args: Vec::new(), env: Vec::new(), listeners: 0, folder, state_dir: None }
    }

    /// The folder of this server's own: removed with the server.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Adds variables to the environment.
    #[must_use]
    pub fn envs<V: Into<OsString>>(mut self, env: impl IntoIterator<Item = (&'static str, V)>) -> Self {
        self.env.extend(env.into_iter().map(|(name, value)| (name.to_owned(), value.into())));
        self
    }

    /// Listens here instead of on a free port; may be called again.
    #[must_use]
    pub fn listen(mut self, address: &str) -> Self {
        self.listeners += 1;
        self.args(["--listen", address])
    }

    /// Mounts `url` at `prefix`.
    #[must_use]
    pub fn mount(self, prefix: &str, url: &str) -> Self {
        self.args(["--mount".to_owned(), format!("{prefix}={url}")])
    }

    /// Uses a state directory that outlives the server.
    #[must_use]
    pub fn state_dir(mut self, folder: &Path) -> Self {
        self.state_dir = Some(folder.to_owned());
        self
    }

    /// The command, for servers that are not expected to serve.
    pub fn command(&self) -> Command {
        let mut command = Command::new(binaries::binary("mmapd"));
        command.env_clear();
        // Not more than a program needs: a developer's own MMAPD_ and AWS_ variables must not change a test.
        command.envs(std::env::vars_os().filter(|(name, _)| name == "PATH" || name == "RUST_BACKTRACE"));
        command.env("HOME", self.folder.path().join("home"));
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command.current_dir(self.folder.path()).args(&self.args);
        if self.listeners == 0 {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        command.arg("--state-dir").arg(self.state());
        command
    }

    fn state(&self) -> PathBuf {
        self.state_dir.clone().unwrap_or_else(|| self.folder.path().join("state"))
    }

    /// Starts the server and waits until it serves.
    ///
    /// # Panics
    /// If it does not serve within a minute.
    pub fn start(self) -> Mmapd {
        let mut daemon = Daemon::start("mmapd", &mut self.command());
        let addrs = daemon.wait_for_lines(self.listeners.max(1), START_DEADLINE, |line| {
            line.strip_prefix(LISTENING).map(str::to_owned)
        });
        let state_dir = self.state();
        Mmapd { daemon, addrs, folder: self.folder, state_dir }
    }

    /// Runs a server that is expected to end by itself.
    ///
    /// # Panics
    /// If it has not ended after `deadline`.
    pub fn run_to_end(self, deadline: Duration) -> Ended {
        let mut daemon = Daemon::start("mmapd", &mut self.command());
        let status = daemon.wait_exit(deadline);
        Ended { status, stdout: daemon.text(Stream::Stdout), stderr: daemon.text(Stream::Stderr) }
    }
}

impl Default for Setup {
    fn default() -> Self {
        Self::new()
    }
}

/// A server that has ended.
#[derive(Debug)]
pub struct Ended {
    /// How.
    pub status: ExitStatus,
    /// What it printed.
    pub stdout: String,
    /// What it logged.
    pub stderr: String,
}

impl Mmapd {
    /// Where it listens first, as a client can dial it.
    pub fn addr(&self) -> &str {
        &self.addrs[0]
    }

    /// Everywhere it listens.
    pub fn addrs(&self) -> &[String] {
        &self.addrs
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.daemon.pid()
    }

    /// Its state directory.
    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// The folder of its own: holds its state and home unless other ones were given.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The folder that holds the files of a server without mounts.
    pub fn default_files(&self) -> PathBuf {
        self.state_dir.join("files")
    }

    /// Where it tells its metrics, which it says in its log.
    ///
    /// # Panics
    /// If it does not.
    pub fn metrics_addr(&self) -> String {
        let started = std::time::Instant::now();
        loop {
            let log = self.stderr();
            let said = log.lines().find_map(|line| line.split_once("mmapd metrics on ")?.1.split(['"', ' ']).next());
            if let Some(addr) = said {
                return addr.to_owned();
            }
            assert!(started.elapsed() < START_DEADLINE, "the server tells no metrics:\n{log}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// What it has logged so far.
    pub fn stderr(&self) -> String {
        self.daemon.text(Stream::Stderr)
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.daemon.is_running()
    }

    /// Bytes of its resident memory.
    ///
    /// # Panics
    /// If the system does not tell.
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()));
        let status = status.expect("Linux tells a process's status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a running process has VmRSS");
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("VmRSS is a number of kB");
        kib * 1024
    }

    /// Sends it the signal of this name, `HUP` or the like.
    pub fn signal(&self, name: &str) {
        self.daemon.signal(name);
    }

    /// Asks it to end, and waits until it has.
    pub fn sigterm(mut self) -> Ended {
        self.daemon.signal("TERM");
        let status = self.daemon.wait_exit(STOP_DEADLINE);
        Ended { status, stdout: self.daemon.text(Stream::Stdout), stderr: self.daemon.text(Stream::Stderr) }
    }

    /// Ends it without a chance to do anything.
    pub fn sigkill(mut self) -> Ended {
        self.daemon.signal("KILL");
        let status = self.daemon.wait_exit(STOP_DEADLINE);
        Ended { status, stdout: self.daemon.text(Stream::Stdout), stderr: self.daemon.text(Stream::Stderr) }
    }
}
