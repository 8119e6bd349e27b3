//! A child process with its output: read line by line as it comes, printed when a test fails, and ended
//! when the handle is dropped.
//!
//! Invariant: no process outlives its `Daemon`, and none is ended by anything but its own handle.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a child may take to start serving. The slowest, moto, needs 2 s on an idle core.
pub const START_DEADLINE: Duration = Duration::from_secs(60);
/// How often a child is asked whether it has ended.
const POLL: Duration = Duration::from_millis(10);

/// A running child process.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    child: Child,
    output: Arc<Output>,
}

/// One of a child's streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

#[derive(Debug, Default)]
struct Output {
    lines: Mutex<Vec<(Stream, String)>>,
    changed: Condvar,
}

impl Output {
    fn lines(&self) -> MutexGuard<'_, Vec<(Stream, String)>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Daemon {
    /// Starts `command`, which is called `name` in messages.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start(name: &str, command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{name} cannot be started: {error}: {command:?}"));
        let output = Arc::new(Output::default());
        collect(child.stdout.take().expect("the stream is piped"), Stream::Stdout, &output);
        collect(child.stderr.take().expect("the stream is piped"), Stream::Stderr, &output);
        Self { name: name.to_owned(), child, output }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `count` lines, of either stream, give a value by `pick`.
    ///
    /// # Panics
    /// If they do not come within `deadline`, or the child ends before.
    pub fn wait_for_lines<T>(&mut self, count: usize, deadline: Duration, pick: impl Fn(&str) -> Option<T>) -> Vec<T> {
        let start = Instant::now();
        loop {
            let lines = self.output.lines();
            let found: Vec<T> = lines.iter().filter_map(|(_, line)| pick(line)).take(count).collect();
            if found.len() == count {
                return found;
            }
            // The lock is dropped while waiting, so that the readers can go on.
            drop(self.output.changed.wait_timeout(lines, Duration::from_millis(50)));
            let ended = self.child.try_wait().expect("a child of this process can be waited for");
            let shown = || self.shown();
            if let Some(status) = ended {
                panic!("{} ended ({status}) before it served:\n{}", self.name, shown());
            }
            assert!(start.elapsed() < deadline, "{} does not serve after {deadline:?}:\n{}", self.name, shown());
        }
    }

    /// What it has printed to `stream` so far.
    pub fn text(&self, stream: Stream) -> String {
        let lines = self.output.lines();
        lines.iter().filter(|(of, _)| *of == stream).map(|(_, line)| format!("{line}\n")).collect()
    }

    /// Sends the signal of this name, `TERM` or the like.
    ///
    /// # Panics
    /// If there is no `kill` program or no such process.
    pub fn signal(&self, name: &str) {
        // By the program and not by a call, which would need either unsafe code or one more dependency.
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.pid().to_string()).status();
        let status = status.expect("every POSIX system has kill");
        assert!(status.success(), "{} (pid {}) cannot be sent {name}", self.name, self.pid());
    }

    /// Waits until it ends.
    ///
    /// # Panics
    /// If it still runs after `deadline`.
    pub fn wait_exit(&mut self, deadline: Duration) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("a child of this process can be waited for") {
                // The streams end with the process; their readers need a moment to say so.
                self.wait_for_readers();
                return status;
            }
            assert!(start.elapsed() < deadline, "{} still runs after {deadline:?}:\n{}", self.name, self.shown());
            std::thread::sleep(POLL);
        }
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child of this process can be waited for").is_none()
    }

    fn wait_for_readers(&self) {
        let start = Instant::now();
        // Each reader holds the output; a grandchild that keeps a stream open is not waited for.
        while Arc::strong_count(&self.output) > 1 && start.elapsed() < Duration::from_secs(2) {
            std::thread::sleep(POLL);
        }
    }

    fn shown(&self) -> String {
        self.output.lines().iter().map(|(stream, line)| format!("  {stream:?} | {line}\n")).collect()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.is_running() {
            // It may have ended by now: that is what is wanted.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            self.wait_for_readers();
            eprintln!("what {} (pid {}) printed:\n{}", self.name, self.pid(), self.shown());
        }
    }
}

fn collect(stream: impl Read + Send + 'static, of: Stream, output: &Arc<Output>) {
    let output = Arc::clone(output);
    // Ends with the stream, and the stream with the child.
    std::thread::spawn(move || {
        let mut reader = BufReader::new(stream);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            output.lines().push((of, text));
            output.changed.notify_all();
            line.clear();
        }
    });
}
