//! What an exit code says: [`Exit`], and which failure ends with which.
//!
//! The codes are a promise to scripts: `--help` lists them. Codes are never given a new meaning.

use std::{fmt, process::ExitCode};

use mmap_client::{Error, ErrorKind, Reason};

/// How mmapctl ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It did what was asked.
    Ok = 0,
    /// It failed, for none of the reasons below.
    Failed = 1,
    /// The arguments are wrong; clap ends with the same code.
    Usage = 2,
    /// No such file, mapping or process.
    NotFound = 3,
    /// The caller may not do this.
    Refused = 4,
    /// Something else is in the way.
    Conflict = 5,
    /// No server, no store, or no answer in time: try again later.
    Unavailable = 6,
}

/// For `--help`.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed for another reason than these
  2  usage: the arguments are wrong (EINVAL)
  3  not found: no such file, mapping or process (ENOENT, EBADF, ESRCH)
  4  refused (EACCES, EROFS, EUNAUTH, SEGV_ACCERR)
  5  conflict: it is there, in use, or was changed by others (EEXIST, EBUSY, ESTALE)
  6  unavailable: no server, a failing store, or no answer in time (EIO, ETIMEDOUT)";

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl Exit {
    /// How a failed call ends.
    pub(crate) fn of(error: &Error) -> Self {
        match error.kind() {
            ErrorKind::Connect | ErrorKind::Transport | ErrorKind::Deadline | ErrorKind::ProcessEnded => {
                Self::Unavailable
            }
            ErrorKind::Usage => Self::Usage,
            ErrorKind::Protocol => Self::Failed,
            ErrorKind::Server => error.reason().map_or_else(|| Self::of_code(error), Self::of_reason),
        }
    }

    fn of_reason(reason: Reason) -> Self {
        match reason {
            Reason::Inval => Self::Usage,
            Reason::NoEnt | Reason::BadF | Reason::Srch => Self::NotFound,
            Reason::Acces | Reason::RoFs | Reason::UnAuth | Reason::SegvAccErr => Self::Refused,
            Reason::Stale | Reason::Exist | Reason::Busy => Self::Conflict,
            Reason::Io | Reason::TimedOut => Self::Unavailable,
            Reason::SegvMapErr
            | Reason::SigBus
            | Reason::NoMem
            | Reason::DQuot
            | Reason::UClean
            | Reason::NotSup
            | Reason::Fault => Self::Failed,
        }
    }

    /// An answer without a reason: a proxy's, or another program's than mmapd.
    fn of_code(error: &Error) -> Self {
        let alike = Reason::ALL.iter().find(|reason| reason.code() == error.code());
        alike.map_or(Self::Failed, |reason| Self::of_reason(*reason))
    }
}

/// A failure of mmapctl's own, with its exit code.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, message: message.into() }
    }

    pub(crate) fn conflict(message: impl Into<String>) -> Self {
        Self { exit: Exit::Conflict, message: message.into() }
    }

    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self { exit: Exit::Failed, message: message.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// Failures that were told one by one already; what is left is how to end.
#[derive(Debug)]
pub(crate) struct Told(pub(crate) Exit);

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("some of it failed")
    }
}

impl std::error::Error for Told {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_exit_code_stands_in_the_help() {
        for (code, reasons) in [
            (Exit::Usage, vec![Reason::Inval]),
            (Exit::NotFound, vec![Reason::NoEnt, Reason::BadF, Reason::Srch]),
            (Exit::Refused, vec![Reason::Acces, Reason::RoFs, Reason::UnAuth, Reason::SegvAccErr]),
            (Exit::Conflict, vec![Reason::Exist, Reason::Busy, Reason::Stale]),
            (Exit::Unavailable, vec![Reason::Io, Reason::TimedOut]),
        ] {
            let line = EXIT_CODES.lines().find(|line| line.trim().starts_with(&(code as u8).to_string()));
            let line = line.expect("the code has a line");
            for reason in reasons {
                assert_eq!(Exit::of_reason(reason), code);
                assert!(line.contains(reason.as_str()), "{reason} is missing in {line:?}");
            }
        }
    }
}
