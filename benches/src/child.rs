//! A server as a child process: its output read line by line, its end waited for.
//!
//! Invariants: it is ended when its handle is dropped, by its own pid, first asked and then forced; it ends with this
//! process, however that ends (`bench-peer guard` sees to it); and Ctrl-C in a terminal does not reach it, so that it
//! is there until this process has ended in order.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long a server may take to serve.
pub const START_DEADLINE: Duration = Duration::from_secs(60);
/// How long it may take to end when asked.
const STOP_DEADLINE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(10);
/// Of what it prints, so much is kept.
const LINES_MAX: usize = 2000;

/// A program to start.
#[derive(Debug)]
pub struct Program {
    name: String,
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(String, OsString)>,
}

/// A running one.
#[derive(Debug)]
pub struct Running {
    name: String,
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

/// The folder that this benchmark's programs lie in: `target/release` or the like.
pub fn profile_dir() -> Result<PathBuf, String> {
    let exe = std::env::current_exe()
        .map_err(|error| format!("the system does not tell where this program lies: {error}"))?;
    let deps = exe.ancestors().find(|folder| folder.ends_with("deps")).unwrap_or(&exe);
    deps.parent().map(Path::to_owned).ok_or_else(|| format!("{} lies in no folder", exe.display()))
}

impl Program {
    /// The program `program`, called `name` in messages.
    pub fn new(name: &str, program: impl AsRef<OsStr>) -> Self {
        Self { name: name.to_owned(), program: program.as_ref().to_owned(), args: Vec::new(), env: Vec::new() }
    }

    /// One of this crate's own programs, with one of its roles.
    ///
    /// # Errors
    /// It is not known where they lie.
    pub fn peer(name: &str, binary: &str, role: &str) -> Result<Self, String> {
        Ok(Self::new(name, profile_dir()?.join(binary)).args([role]))
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Adds variables to its environment, which has else only what every program needs.
    #[must_use]
    pub fn envs<V: AsRef<OsStr>>(mut self, env: impl IntoIterator<Item = (&'static str, V)>) -> Self {
        self.env.extend(env.into_iter().map(|(name, value)| (name.to_owned(), value.as_ref().to_owned())));
        self
    }

    /// Starts it.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(self) -> Result<Running, String> {
        let guard = profile_dir()?.join("bench-peer");
        let failed = |error| format!("{} cannot be started: {error}", self.name);
        let mut child = Command::new(&guard)
            .arg("guard")
            .arg(&self.program)
            .args(&self.args)
            .env_clear()
            .envs(std::env::vars_os().filter(|(name, _)| ["PATH", "HOME", "TMPDIR"].iter().any(|kept| name == kept)))
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let lines = Arc::default();
        if let Some(stream) = child.stdout.take() {
            collect(stream, &lines);
        }
        if let Some(stream) = child.stderr.take() {
            collect(stream, &lines);
        }
        Ok(Running { name: self.name, child, lines })
    }
}

impl Running {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for `count` lines of which `pick` makes something.
    ///
    /// # Errors
    /// They do not come within a minute, or it ends before.
    pub fn lines<T>(&mut self, count: usize, pick: impl Fn(&str) -> Option<T>) -> Result<Vec<T>, String> {
        let name = self.name.clone();
        self.wait_for(&format!("{name} does not serve"), |lines| {
            let found: Vec<T> = lines.iter().filter_map(|line| pick(line)).take(count).collect();
            (found.len() == count).then_some(found)
        })
    }

    /// Waits until `is_ready` of the world outside.
    ///
    /// # Errors
    /// It does not become so within a minute, or the server ends before.
    pub fn until(&mut self, what: &str, is_ready: impl Fn() -> bool) -> Result<(), String> {
        self.wait_for(what, |_| is_ready().then_some(()))
    }

    fn wait_for<T>(&mut self, what: &str, ready: impl Fn(&[String]) -> Option<T>) -> Result<T, String> {
        let started = Instant::now();
        loop {
            if let Some(found) = ready(&locked(&self.lines)) {
                return Ok(found);
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                // What it printed last may still be on its way.
                std::thread::sleep(5 * POLL);
                return Err(format!("{} ended ({status}): {}", self.name, self.last_words()));
            }
            if started.elapsed() > START_DEADLINE {
                return Err(format!("{what} after {} s: {}", START_DEADLINE.as_secs(), self.last_words()));
            }
            std::thread::sleep(POLL);
        }
    }

    fn last_words(&self) -> String {
        let lines = locked(&self.lines);
        let last = lines.iter().rev().take(5).rev().map(String::as_str).collect::<Vec<_>>();
        if last.is_empty() { "it printed nothing".to_owned() } else { last.join(" / ") }
    }

    /// Asks it to end and waits; forces it where it does not.
    pub fn stop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        // Not waited for yet, so the pid is still this child's.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let started = Instant::now();
        while started.elapsed() < STOP_DEADLINE {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(POLL);
        }
        eprintln!("{} (pid {}) does not end when asked, and is forced", self.name, self.pid());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}

fn locked(lines: &Mutex<Vec<String>>) -> MutexGuard<'_, Vec<String>> {
    lines.lock().unwrap_or_else(PoisonError::into_inner)
}

fn collect(stream: impl Read + Send + 'static, lines: &Arc<Mutex<Vec<String>>>) {
    let lines = Arc::clone(lines);
    // Ends with the stream, and the stream with the child.
    std::thread::spawn(move || {
        let mut reader = BufReader::new(stream);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            let mut lines = locked(&lines);
            if lines.len() < LINES_MAX {
                lines.push(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            drop(lines);
            line.clear();
        }
    });
}

/// The program of this name on the search path, or how to get it.
///
/// # Errors
/// It is not there.
pub fn installed(name: &str, remedy: &str) -> Result<PathBuf, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file());
    found.ok_or_else(|| format!("{name} is not installed: {remedy}"))
}
