//! How a failure is told: the sentence, the reason, and what to do, on standard error.
//!
//! Standard output stays what was asked for. A broken pipe is no failure: whoever reads has enough.

use std::io::{self, Write};

use anyhow::Error;
use mmap_client::{ErrorKind, Reason};
use serde_json::{Value, json};

use crate::{
    exit::{Exit, Failure, Told},
    output::Format,
};

/// Tells failures.
#[derive(Clone, Debug)]
pub(crate) struct Reporter {
    pub(crate) server: String,
    pub(crate) format: Format,
}

impl Reporter {
    /// Tells `error` and answers how to end.
    pub(crate) fn report(&self, error: &Error) -> Exit {
        if let Some(Told(exit)) = error.downcast_ref() {
            return *exit;
        }
        if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
            return Exit::Ok;
        }
        let remote = error.downcast_ref::<mmap_client::Error>();
        let exit = match (remote, error.downcast_ref::<Failure>()) {
            (Some(remote), _) => Exit::of(remote),
            (None, Some(failure)) => failure.exit,
            (None, None) => Exit::Failed,
        };
        let text = match self.format {
            Format::People => self.for_people(error, remote),
            Format::Json => self.for_programs(error, remote).to_string(),
        };
        // Where standard error is gone there is nobody left to tell.
        let _ = writeln!(io::stderr().lock(), "{text}");
        exit
    }

    fn for_people(&self, error: &Error, remote: Option<&mmap_client::Error>) -> String {
        let Some(remote) = remote else { return format!("mmapctl: {error:#}") };
        let mut text = format!("mmapctl: {}", self.sentence(error, remote));
        if remote.kind() == ErrorKind::Server {
            let name = remote.reason_name();
            let reason = if name.is_empty() { code_name(remote) } else { name.to_owned() };
            text.push_str(&format!(" ({reason})"));
        }
        if remote.kind() == ErrorKind::Connect {
            text.push_str(&format!("\n  cause: {}", remote.message()));
        }
        if let Some(hint) = hint(remote) {
            text.push_str(&format!("\n  hint: {hint}"));
        }
        text
    }

    fn sentence(&self, error: &Error, remote: &mmap_client::Error) -> String {
        match remote.kind() {
            ErrorKind::Connect => {
                let start = "start a server with `mmapd`, or name another with --server";
                let sentence = format!("cannot reach {}: {start}", self.server);
                let top = error.to_string();
                if top == remote.message() { sentence } else { format!("{top}: {sentence}") }
            }
            ErrorKind::Server
            | ErrorKind::Transport
            | ErrorKind::Deadline
            | ErrorKind::ProcessEnded
            | ErrorKind::Protocol
            | ErrorKind::Usage => outer(error, remote),
        }
    }

    fn for_programs(&self, error: &Error, remote: Option<&mmap_client::Error>) -> Value {
        let Some(remote) = remote else { return json!({"error": {"message": format!("{error:#}")}}) };
        json!({"error": {
            "message": self.sentence(error, remote),
            "reason": remote.reason_name(),
            "code": code_name(remote),
            "metadata": remote.metadata(),
        }})
    }
}

/// The gRPC code as its specification writes it: `NOT_FOUND`.
fn code_name(error: &mmap_client::Error) -> String {
    let mut name = String::new();
    for letter in format!("{:?}", error.code()).chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

/// The sentence with the contexts that commands put around it. The chain below it is the transport's own.
fn outer(error: &Error, remote: &mmap_client::Error) -> String {
    let top = error.to_string();
    if top == remote.message() { top } else { format!("{top}: {}", remote.message()) }
}

/// What to do, where the sentence alone does not say it.
fn hint(error: &mmap_client::Error) -> Option<&'static str> {
    if error.kind() == ErrorKind::Connect {
        return None;
    }
    match error.reason()? {
        // Of a conflict, which has an id and no path.
        Reason::NoEnt if error.metadata().contains_key("id") => Some("`mmapctl conflicts list` shows what there is"),
        Reason::NoEnt => Some("`mmapctl ls` shows the files there are"),
        Reason::BadF | Reason::Srch => Some("`mmapctl ps` and `mmapctl maps` show what there is"),
        Reason::Busy => Some("`mmapctl maps` shows who has it mapped"),
        Reason::Stale => Some("somebody changed the file in the store; nothing was overwritten, run it again"),
        Reason::Io => Some("the store failed; nothing that was acknowledged is lost, try again later"),
        Reason::TimedOut => Some("--timeout allows it longer"),
        Reason::Acces | Reason::UnAuth => Some("ask whoever runs the server for the right to do this"),
        Reason::RoFs => Some("the mount is read-only: write to another, or have it mounted without `ro`"),
        Reason::NoMem | Reason::DQuot => Some("a limit of the server is reached: sync, unmap, or try again later"),
        Reason::Exist => Some("`mmapctl put --force` writes over it"),
        Reason::Inval
        | Reason::SegvAccErr
        | Reason::SegvMapErr
        | Reason::SigBus
        | Reason::UClean
        | Reason::NotSup
        | Reason::Fault => None,
    }
}
