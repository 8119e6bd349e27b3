//! Every way a call can fail: [`Error`], read back from what came over the wire.
//!
//! It keeps apart what a caller has to keep apart: a server that answered no ([`ErrorKind::Server`]), a server
//! that surely never saw the call ([`ErrorKind::Connect`]), and a call whose fate is unknown
//! ([`ErrorKind::Transport`], [`ErrorKind::Deadline`]). A reason that this build does not know keeps its text.
//! It decides nothing: what is repeated is the affair of `retry`.

use std::{collections::BTreeMap, error::Error as StdError, fmt, sync::Arc, time::Duration};

use mmap_proto::{names, reason::Reason};
use tonic::{Code, ConnectError, Status, TimeoutExpired};
use tonic_types::StatusExt;

use crate::hint::{hint, hint_of_new};

/// What a call of this crate answers.
pub type Result<T> = std::result::Result<T, Error>;

/// Where a call failed, and so what is known about its effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The server answered with an error: see [`Error::reason`].
    Server,
    /// No connection could be made: the server never saw the call.
    Connect,
    /// The connection failed while the call ran: it may or may not have happened.
    Transport,
    /// The call's deadline passed on this side: it may or may not have happened.
    Deadline,
    /// The process that the call belongs to has ended; nothing was sent.
    ProcessEnded,
    /// The server's answer breaks the contract.
    Protocol,
    /// The caller's own mistake, found before anything was sent: a bad address, a value no header can carry.
    Usage,
}

/// A field of the request that the server refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The field's name in the proto file.
    pub field: String,
    /// What is wrong with it.
    pub description: String,
}

/// Why a call failed. Cheap to clone.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

struct Inner {
    kind: ErrorKind,
    code: Code,
    reason: Option<Reason>,
    reason_name: String,
    message: String,
    metadata: BTreeMap<String, String>,
    violations: Vec<Violation>,
    retry_delay: Option<Duration>,
    node: Option<String>,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl Error {
    /// The server's reason. `None`: it gave none, or one that this build does not know
    /// ([`reason_name`](Self::reason_name) has its text).
    pub fn reason(&self) -> Option<Reason> {
        self.0.reason
    }

    /// The reason's text as it came, empty if there was none.
    pub fn reason_name(&self) -> &str {
        &self.0.reason_name
    }

    /// Where it failed.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The gRPC code.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// The sentence for a person.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The sentence's values by name.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.0.metadata
    }

    /// The request's fields at fault, for `EINVAL`.
    pub fn violations(&self) -> &[Violation] {
        &self.0.violations
    }

    /// How long to wait before the same call is worth repeating, if the server said that it is.
    pub fn retry_delay(&self) -> Option<Duration> {
        self.0.retry_delay
    }

    /// The name of the node that answered.
    pub fn node(&self) -> Option<&str> {
        self.0.node.as_deref()
    }

    /// Whether the call surely had no effect: it was never sent, or the server refused it with a reason that it gives
    /// before it does anything. `false` means "not known".
    pub fn is_surely_without_effect(&self) -> bool {
        match self.0.kind {
            ErrorKind::Connect | ErrorKind::ProcessEnded | ErrorKind::Usage => true,
            ErrorKind::Server => self.0.reason.is_some_and(is_told_first),
            ErrorKind::Transport | ErrorKind::Deadline | ErrorKind::Protocol => false,
        }
    }

    pub(crate) fn new(kind: ErrorKind, code: Code, message: impl Into<String>) -> Self {
        Self(Arc::new(Inner {
            kind,
            code,
            reason: None,
            reason_name: String::new(),
            message: message.into(),
            metadata: BTreeMap::new(),
            violations: Vec::new(),
            retry_delay: None,
            node: None,
            source: None,
        }))
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Usage, Code::InvalidArgument, message).with_reason(Reason::Inval)
    }

    pub(crate) fn protocol(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Protocol, Code::Internal, message)
    }

    /// The call's own clock ran out; the reason is the one that the server would have given.
    pub(crate) fn deadline(after: Duration) -> Self {
        let message =
            format!("no answer within {after:?}: what was asked may or may not have happened, ask again to find out");
        Self::new(ErrorKind::Deadline, Code::DeadlineExceeded, message).with_reason(Reason::TimedOut)
    }

    /// The process is gone; the reason is the one that the server would give.
    pub(crate) fn process_ended(message: impl Into<String>, pid: u32) -> Self {
        let error = Self::new(ErrorKind::ProcessEnded, Code::NotFound, message).with_reason(Reason::Srch);
        error.edit(|inner| {
            inner.metadata.insert("pid".to_owned(), pid.to_string());
        })
    }

    pub(crate) fn connect(endpoint: &str, source: impl StdError + Send + Sync + 'static) -> Self {
        let hint = if endpoint.starts_with("https://") { hint_of_new(&source) } else { hint(&source) };
        let message = format!("cannot connect to {endpoint}: {}", with_hint(innermost(&source), hint));
        let error = Self::new(ErrorKind::Connect, Code::Unavailable, message);
        error.edit(|inner| inner.source = Some(Arc::new(source)))
    }

    fn with_reason(self, reason: Reason) -> Self {
        self.edit(|inner| {
            inner.reason = Some(reason);
            inner.reason_name = reason.as_str().to_owned();
        })
    }

    /// Only called while nobody else holds a clone, right after `new`.
    fn edit(mut self, change: impl FnOnce(&mut Inner)) -> Self {
        if let Some(inner) = Arc::get_mut(&mut self.0) {
            change(inner);
        }
        self
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        // A status that came over the wire has no source; one that the transport made up does.
        if let Some(source) = status.source() {
            let message = explained(source);
            if has_cause::<TimeoutExpired>(source) {
                return Self::new(ErrorKind::Deadline, Code::DeadlineExceeded, "the call's deadline passed")
                    .with_reason(Reason::TimedOut);
            }
            let (kind, message) = if has_cause::<ConnectError>(source) {
                (ErrorKind::Connect, format!("cannot connect to the server: {message}"))
            } else {
                (ErrorKind::Transport, format!("the connection failed during the call: {message}"))
            };
            return Self::new(kind, Code::Unavailable, message).edit(|inner| inner.source = Some(Arc::new(status)));
        }
        Self::new(ErrorKind::Server, status.code(), sentence(&status)).edit(|inner| read_details(inner, &status))
    }
}

fn sentence(status: &Status) -> String {
    if status.message().is_empty() { status.code().description().to_lowercase() } else { status.message().to_owned() }
}

fn read_details(inner: &mut Inner, status: &Status) {
    let details = status.get_error_details();
    if let Some(info) = details.error_info() {
        // Another domain's reason may have the same name and mean something else.
        if info.domain == names::ERROR_DOMAIN {
            inner.reason = Reason::parse(&info.reason);
        }
        inner.reason_name.clone_from(&info.reason);
        inner.metadata = info.metadata.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
    }
    if let Some(request) = details.bad_request() {
        let violation =
            |v: &tonic_types::FieldViolation| Violation { field: v.field.clone(), description: v.description.clone() };
        inner.violations = request.field_violations.iter().map(violation).collect();
    }
    inner.retry_delay = details.retry_info().and_then(|retry| retry.retry_delay);
    inner.node = status.metadata().get(names::NODE).and_then(|node| node.to_str().ok()).map(str::to_owned);
}

/// `error`, its cause, the cause of that, and so on.
fn causes<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn StdError + 'static)| (*error).source())
}

/// Reasons that come before any effect. The others can end a call half-way: an `Exit` that synced one file of two.
fn is_told_first(reason: Reason) -> bool {
    match reason {
        Reason::Inval
        | Reason::NoEnt
        | Reason::BadF
        | Reason::Srch
        | Reason::Exist
        | Reason::Acces
        | Reason::SegvAccErr
        | Reason::SegvMapErr
        | Reason::SigBus
        | Reason::NotSup
        | Reason::UnAuth => true,
        Reason::RoFs
        | Reason::Busy
        | Reason::NoMem
        | Reason::DQuot
        | Reason::Stale
        | Reason::Io
        | Reason::UClean
        | Reason::TimedOut
        | Reason::Fault => false,
    }
}

fn has_cause<E: StdError + 'static>(error: &(dyn StdError + 'static)) -> bool {
    causes(error).any(|error| error.is::<E>())
}

/// The last cause: "connection refused" says more than the "transport error" around it.
pub(crate) fn innermost(error: &(dyn StdError + 'static)) -> String {
    causes(error).last().unwrap_or(error).to_string()
}

/// The last cause, and what to do about it where that is known.
fn explained(error: &(dyn StdError + 'static)) -> String {
    with_hint(innermost(error), hint(error))
}

fn with_hint(cause: String, hint: Option<&str>) -> String {
    match hint {
        Some(hint) => format!("{cause}: {hint}"),
        None => cause,
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { kind, code, reason_name, message, metadata, .. } = &*self.0;
        write!(f, "{kind:?} {code:?} {reason_name}: {message} {metadata:?}")
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic_types::ErrorDetails;

    use super::*;

    fn stale(domain: &str, reason: &str) -> Status {
        let metadata = HashMap::from([("path".to_owned(), "/a".to_owned())]);
        let mut details = ErrorDetails::with_error_info(reason, domain, metadata);
        details.set_retry_info(Some(Duration::from_millis(250)));
        details.add_bad_request_violation("path", "is not absolute");
        Status::with_error_details(Code::Aborted, "the file changed", details)
    }

    #[test]
    fn an_error_carries_all_that_the_server_said() {
        let error = Error::from(stale("mmap.v1", "ESTALE"));
        assert_eq!(error.kind(), ErrorKind::Server);
        assert_eq!(error.reason(), Some(Reason::Stale));
        assert_eq!(error.code(), Code::Aborted);
        assert_eq!(error.to_string(), "the file changed");
        assert_eq!(error.metadata()["path"], "/a");
        assert_eq!(error.retry_delay(), Some(Duration::from_millis(250)));
        assert_eq!(error.violations()[0].field, "path");
        assert!(!error.is_surely_without_effect(), "other files may have been synced before this one");
    }

    #[test]
    fn a_refusal_that_comes_first_had_no_effect() {
        assert!(Error::from(stale("mmap.v1", "EBADF")).is_surely_without_effect());
        assert!(!Error::from(stale("mmap.v1", "EIO")).is_surely_without_effect());
        assert!(Error::usage("no address").is_surely_without_effect());
        assert!(!Error::deadline(Duration::from_secs(1)).is_surely_without_effect());
    }

    #[test]
    fn an_unknown_reason_keeps_its_text_and_parses_to_none() {
        let error = Error::from(stale("mmap.v1", "ENEW"));
        assert_eq!((error.reason(), error.reason_name()), (None, "ENEW"));
        assert!(!error.is_surely_without_effect());
    }

    #[test]
    fn a_reason_of_another_domain_is_not_ours() {
        let error = Error::from(stale("example.org", "ESTALE"));
        assert_eq!((error.reason(), error.reason_name()), (None, "ESTALE"));
    }

    #[test]
    fn a_bare_status_has_a_sentence_all_the_same() {
        let error = Error::from(Status::new(Code::Unimplemented, ""));
        assert_eq!(error.reason(), None);
        assert!(!error.message().is_empty());
    }

    #[test]
    fn undecodable_details_are_left_out_and_do_no_harm() {
        let status = Status::with_details(Code::Aborted, "broken", bytes::Bytes::from_static(b"\xff\xff\xff"));
        let error = Error::from(status);
        assert_eq!((error.reason(), error.message()), (None, "broken"));
    }

    #[test]
    fn a_status_made_by_the_transport_is_told_from_the_servers() {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let error = Error::from(Status::from_error(Box::new(ConnectError(Box::new(refused)))));
        assert_eq!(error.kind(), ErrorKind::Connect);
        let error = Error::from(Status::from_error(Box::new(TimeoutExpired(()))));
        assert_eq!((error.kind(), error.reason()), (ErrorKind::Deadline, Some(Reason::TimedOut)));
        let error = Error::from(Status::from_error(Box::new(std::io::Error::other("reset"))));
        assert_eq!((error.kind(), error.code()), (ErrorKind::Transport, Code::Unavailable));
    }
}
