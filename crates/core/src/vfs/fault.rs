//! [`StoreFault`]: what can go wrong with a store, and its translation into the caller's errors.

use std::error::Error as StdError;

use super::version::Version;
use crate::error::{Errno, Error};
use crate::path::FilePath;

/// What a store answers.
pub type StoreResult<T> = Result<T, StoreFault>;

/// What went wrong with a store.
#[derive(Debug, thiserror::Error)]
pub enum StoreFault {
    /// There is no such file.
    #[error("no such file")]
    Missing,
    /// The file is there already.
    #[error("the file is there already")]
    Exists,
    /// The file is not at the version asked for.
    #[error("the file changed in the store")]
    Changed,
    /// The store cannot keep this name as it stands.
    #[error("the store cannot keep this name: {0}")]
    BadName(String),
    /// The file would be larger than the layout can write.
    #[error("larger than {max} bytes, the most that this mount can write")]
    TooLarge {
        /// The most.
        max: u64,
    },
    /// The store or the layout cannot do it.
    #[error("{0}")]
    Unsupported(String),
    /// Another server has taken the store over.
    #[error("fenced: another server has opened this mount since; restart this one or stop the other")]
    Fenced,
    /// The store refused for lack of rights.
    #[error("the store refused it for lack of rights")]
    Denied(#[source] Box<dyn StdError + Send + Sync>),
    /// The store has no room left.
    #[error("the store has no room left")]
    Full(#[source] Box<dyn StdError + Send + Sync>),
    /// What the store sent is not what it promised.
    #[error("the store sent something else than it promised: {0}")]
    Corrupt(String),
    /// It failed, or did not answer in time.
    #[error("{0}")]
    Failed(String, #[source] Option<Box<dyn StdError + Send + Sync>>),
}

impl StoreFault {
    /// A failure with its cause.
    pub fn failed(what: impl Into<String>, source: impl StdError + Send + Sync + 'static) -> Self {
        Self::Failed(what.into(), Some(Box::new(source)))
    }

    /// It did not answer in time.
    pub fn timed_out(seconds: u64) -> Self {
        Self::Failed(format!("the store did not answer within {seconds} s"), None)
    }

    /// The caller's error, for `path`.
    pub fn into_error(self, path: &FilePath) -> Error {
        let errno = match &self {
            Self::Missing => return no_such_file(path),
            Self::Changed => return changed_in_store(path, None),
            Self::Exists => Errno::Exist,
            Self::BadName(_) | Self::TooLarge { .. } => Errno::Inval,
            Self::Unsupported(_) => Errno::NotSup,
            Self::Fenced => Errno::RoFs,
            Self::Corrupt(_) => Errno::UClean,
            Self::Denied(_) | Self::Full(_) | Self::Failed(..) => Errno::Io,
        };
        let limit = if let Self::TooLarge { max } = &self { Some(*max) } else { None };
        let field = match limit {
            Some(_) => Some("size"),
            None => matches!(self, Self::BadName(_)).then_some("path"),
        };
        let message = format!("{path}: {self}");
        let mut error = match field {
            Some(field) => Error::invalid(field, message),
            None => Error::new(errno, message),
        }
        .with("path", path);
        if let Some(max) = limit {
            error = error.with("max", max);
        }
        if errno == Errno::Io {
            error = error.retry_after(std::time::Duration::from_secs(1));
        }
        error.caused_by(self)
    }
}

/// There is no file at `path`.
pub fn no_such_file(path: &FilePath) -> Error {
    Error::new(Errno::NoEnt, format!("no such file: {path}")).with("path", path)
}

/// The object of `path` is not the one that the unsynced writes are based on.
pub fn changed_in_store(path: &FilePath, base: Option<&Version>) -> Error {
    let error = Error::new(
        Errno::Stale,
        format!(
            "{path} changed in the store under unsynced writes; nothing was overwritten: sync with force to put \
             the unsynced pages onto the new content, or with invalidate to give them up"
        ),
    )
    .with("path", path);
    match base {
        Some(version) => error.with("base_version", version),
        None => error,
    }
}
