//! One bench target's run: its options, its tables, its end by Ctrl-C, and where its results go.
//!
//! What was measured is kept when the run is interrupted or panics later. With `--quick` nothing of the project's
//! documents changes: the results go below `target/bench-quick`.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use tokio::signal::unix::{SignalKind, signal};

use crate::contest::{Contest, text_of};
use crate::machine;
use crate::options::Options;
use crate::results::Results;
use crate::rows::Table;

/// How often this process was asked to end.
static INTERRUPTS: AtomicUsize = AtomicUsize::new(0);

/// What is being measured.
#[derive(Debug)]
pub struct Topic {
    options: Options,
    versions: Vec<String>,
    done: Vec<Table>,
}

fn is_interrupted() -> bool {
    INTERRUPTS.load(Ordering::Relaxed) > 0
}

impl Topic {
    /// What was asked for on the command line.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Whether any table of these ids is wanted, so that what they need has to be started.
    pub fn wants_any(&self, ids: &[impl AsRef<str>]) -> bool {
        !is_interrupted() && ids.iter().any(|id| self.options.wants(id.as_ref()))
    }

    /// Begins a table; `None` if it was not asked for.
    pub fn contest(&mut self, table: Table) -> Option<Contest<'_>> {
        let is_wanted = self.wants_any(&[&table.id]);
        is_wanted.then(|| Contest::new(table, &self.options, &is_interrupted, &mut self.done))
    }

    /// Remembers which version of another program took part.
    pub fn version(&mut self, program: &str, version: &str) {
        let version = format!("{program} {version}");
        if !self.versions.contains(&version) {
            self.versions.push(version);
        }
    }

    fn publish(mut self, name: &str, title: &str) -> Result<(), String> {
        for machine in self.done.iter_mut().filter_map(|table| table.machine.as_mut()) {
            machine.versions.extend(self.versions.iter().cloned());
        }
        let docs = docs(&self.options);
        let is_whole = self.options.wanted.is_empty() && !is_interrupted();
        let mut results = Results::load(&docs)?;
        results.merge(name, title, self.done, is_whole);
        results.write(&docs)?;
        eprintln!("{name}: written into {}", docs.display());
        Ok(())
    }
}

fn docs(options: &Options) -> PathBuf {
    let workspace = machine::workspace();
    if options.is_quick { workspace.join("target/bench-quick") } else { workspace.join("docs") }
}

/// Runs the topic `name` with the arguments of this process, and writes what came of it.
pub fn run(name: &str, title: &str, measure: impl FnOnce(&mut Topic)) -> ExitCode {
    let options = match Options::read(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(why) => {
            eprintln!("{name}: {why}");
            return ExitCode::from(2);
        }
    };
    if let Err(why) = listen_for_signals() {
        eprintln!("{name}: Ctrl-C will not end it in order: {why}");
    }
    let started = Instant::now();
    let mut topic = Topic { options, versions: Vec::new(), done: Vec::new() };
    let outcome = catch_unwind(AssertUnwindSafe(|| measure(&mut topic)));
    if let Err(panic) = &outcome {
        eprintln!("{name}: {}", text_of(&**panic));
    }
    let has_panicked = outcome.is_err();
    let published = topic.publish(name, title);
    if let Err(why) = &published {
        eprintln!("{name}: the results could not be written: {why}");
    }
    eprintln!("{name}: ended after {:.0} s", started.elapsed().as_secs_f64());
    match has_panicked || published.is_err() || is_interrupted() {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    }
}

/// The first Ctrl-C or SIGTERM ends the run between two measurements; the second one at once. Servers that were
/// started end with this process in both cases.
fn listen_for_signals() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    // It lives as long as the process, as the signals' handlers do.
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        runtime.block_on(async {
            let (Ok(mut interrupt), Ok(mut terminate)) =
                (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
            else {
                return;
            };
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                if INTERRUPTS.fetch_add(1, Ordering::Relaxed) > 0 {
                    std::process::exit(130);
                }
                eprintln!("ending after this measurement; once more ends at once");
            }
        });
    })?;
    Ok(())
}
