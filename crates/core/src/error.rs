//! Every way a call can fail: [`Error`], with an [`Errno`] from a closed set.
//!
//! The sentence is for a person and says what to do; each value in it stands in `details` too, for programs.
//! `Errno` is closed so that a transport can map it by one exhaustive match. Errors are values: they are
//! logged where they are handled, not here.

use std::{borrow::Cow, fmt, sync::Arc, time::Duration};

/// What kind of failure it is, named after the POSIX error or signal that an mmap(2) user would meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Errno {
    /// The request is malformed.
    Inval,
    /// No such file.
    NoEnt,
    /// No such mapping, or it belongs to another process.
    BadF,
    /// No such process.
    Srch,
    /// Create-only, and the file is there.
    Exist,
    /// A capability is missing, or the right to a path.
    Acces,
    /// The mapping's protection forbids the access.
    SegvAccErr,
    /// The range is not wholly inside the mapping.
    SegvMapErr,
    /// The range reaches pages wholly beyond the end of the file.
    SigBus,
    /// The mount is read-only.
    RoFs,
    /// The operation needs something that is still in use.
    Busy,
    /// A memory, mapping or process limit is reached.
    NoMem,
    /// Unsynced bytes are at their limit and could not be written back in time.
    DQuot,
    /// The object changed in the store under unsynced writes; nothing was overwritten.
    Stale,
    /// The store failed after its retries; what was not written stays.
    Io,
    /// Bytes read do not match their checksum or length.
    UClean,
    /// The caller's deadline passed.
    TimedOut,
    /// This mount or build does not have it.
    NotSup,
    /// The caller is not who it has to be. The transport's own: the core takes callers as they are.
    UnAuth,
    /// A fault of our own.
    Fault,
}

/// Why a call failed. Cheap to clone: several waiters may get the same failure.
#[derive(Clone)]
pub struct Error(Box<Inner>);

#[derive(Clone)]
struct Inner {
    errno: Errno,
    message: Cow<'static, str>,
    details: Vec<(&'static str, String)>,
    field: Option<&'static str>,
    retry_after: Option<Duration>,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

/// What a call of this crate answers.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A failure with its sentence: lower case, no full stop.
    pub fn new(errno: Errno, message: impl Into<Cow<'static, str>>) -> Self {
        let message = message.into();
        Self(Box::new(Inner { errno, message, details: Vec::new(), field: None, retry_after: None, source: None }))
    }

    /// A malformed request; `field` is the request's field that is at fault.
    pub fn invalid(field: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        let mut error = Self::new(Errno::Inval, message);
        error.0.field = Some(field);
        error
    }

    /// Adds a value of the sentence under a name that programs can rely on.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl fmt::Display) -> Self {
        self.0.details.push((key, value.to_string()));
        self
    }

    /// Adds what caused it.
    #[must_use]
    pub fn caused_by(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.0.source = Some(Arc::new(source));
        self
    }

    /// Says that the same call may succeed after `delay`.
    #[must_use]
    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.0.retry_after = Some(delay);
        self
    }

    /// The kind of failure.
    pub fn errno(&self) -> Errno {
        self.0.errno
    }

    /// The sentence, without its causes.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The sentence's values by name, in the order they were added.
    pub fn details(&self) -> &[(&'static str, String)] {
        &self.0.details
    }

    /// The request's field at fault, for [`Errno::Inval`].
    pub fn field(&self) -> Option<&'static str> {
        self.0.field
    }

    /// How long to wait before the same call is worth repeating, if it is.
    pub fn retry_delay(&self) -> Option<Duration> {
        self.0.retry_after
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.0.errno, self.0.message)?;
        for (key, value) in &self.0.details {
            write!(f, " {key}={value}")?;
        }
        match &self.0.source {
            Some(source) => write!(f, " (caused by: {source})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn std::error::Error + 'static))
    }
}
