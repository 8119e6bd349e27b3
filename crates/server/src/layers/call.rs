//! [`Call`]: what is known of a call before its message is read, handed to the handler as an extension.

use std::error::Error as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use mmap_core::error::{Errno, Error, Result};
use mmap_core::manager::Foreign;
use tokio::time::Instant;
use tonic::Status;
use tracing::Span;
use uuid::Uuid;

use crate::auth::{Audited, Identity, audit};
use crate::status::{chain, fault, reason_of, to_status};
use crate::telemetry::ids::Ids;
use crate::traces::{TRACE_PARENT, callers_ids};

const TIMEOUT: &str = "grpc-timeout";

/// How much earlier than the caller's deadline the server gives up: a tenth of the time, this at most. The
/// transport's own timer stands outside and would answer without the reason.
const MARGIN_MAX: Duration = Duration::from_millis(20);

/// A call under way. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Call(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    method: String,
    deadline: Option<Instant>,
    /// A disabled one, unless it is followed.
    span: Span,
    /// What its caller says of its trace.
    traceparent: Option<HeaderValue>,
    received: AtomicBool,
    origin: Origin,
}

/// Who makes a call, and from where. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    /// Who.
    pub(crate) identity: Identity,
    /// The connection's other end.
    pub(crate) peer: Arc<str>,
}

impl Origin {
    /// Nobody, from nowhere.
    pub(crate) fn unknown() -> Self {
        Self { identity: Identity::Nobody, peer: Arc::from("") }
    }
}

impl Call {
    /// The call that begins now with these headers, and is told on `span`.
    ///
    /// # Errors
    /// [`Errno::Inval`] for a timeout that cannot be read.
    pub(crate) fn begin(method: &str, headers: &HeaderMap, origin: Origin, span: Span) -> Result<Self> {
        // A timer holds no time further away than it can count; a century is for ever.
        let deadline = timeout(headers)?.and_then(|time| Instant::now().checked_add(time - margin(time)));
        let (method, traceparent) = (method.to_owned(), headers.get(TRACE_PARENT).cloned());
        let received = AtomicBool::new(false);
        Ok(Self(Arc::new(Inner { method, deadline, span, traceparent, received, origin })))
    }

    /// The call that a request belongs to; one without headers where the request came past the guard.
    pub(crate) fn of<T>(request: &tonic::Request<T>) -> Self {
        let unguarded = || Self::failed("", &HeaderMap::new(), Origin::unknown(), Span::none());
        request.extensions().get::<Self>().cloned().unwrap_or_else(unguarded)
    }

    /// The call that begins now, past the guard's other checks, to tell its failure.
    pub(crate) fn failed(method: &str, headers: &HeaderMap, origin: Origin, span: Span) -> Self {
        let (method, traceparent) = (method.to_owned(), headers.get(TRACE_PARENT).cloned());
        Self(Arc::new(Inner { method, deadline: None, span, traceparent, received: true.into(), origin }))
    }

    /// Where it is told; a disabled one, unless it is followed.
    pub(crate) fn span(&self) -> &Span {
        &self.0.span
    }

    /// Where in which trace it is: in its own span, else in its caller's.
    fn ids(&self) -> Option<Ids> {
        Ids::of(&self.0.span).or_else(|| callers_ids(self.0.traceparent.as_ref()?))
    }

    /// The method that is called: its path.
    pub(crate) fn method(&self) -> &str {
        &self.0.method
    }

    /// Who makes it.
    pub(crate) fn identity(&self) -> &Identity {
        &self.0.origin.identity
    }

    /// When the server gives up.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.0.deadline
    }

    /// Notes that the request's message is there.
    pub(crate) fn set_received(&self) {
        self.0.received.store(true, Ordering::Relaxed);
    }

    /// Whether the request's message is there.
    pub(crate) fn is_received(&self) -> bool {
        self.0.received.load(Ordering::Relaxed)
    }

    /// Logs why the call failed, and says it as the wire does.
    pub(crate) fn fail(&self, error: &Error) -> Status {
        let method = self.0.method.as_str();
        self.audit(error);
        let (trace_id, span_id) = self.ids().map(|ids| (ids.trace, ids.span)).unzip();
        match error.errno() {
            Errno::Fault => return self.fail_by_fault(&chain(error)),
            Errno::Io | Errno::UClean => {
                tracing::warn!(method, errno = ?error.errno(), trace_id, span_id, "{}", chain(error));
            }
            Errno::Inval
            | Errno::NoEnt
            | Errno::BadF
            | Errno::Srch
            | Errno::Exist
            | Errno::Acces
            | Errno::SegvAccErr
            | Errno::SegvMapErr
            | Errno::SigBus
            | Errno::RoFs
            | Errno::Busy
            | Errno::NoMem
            | Errno::DQuot
            | Errno::Stale
            | Errno::TimedOut
            | Errno::UnAuth
            | Errno::NotSup => {
                tracing::debug!(method, errno = ?error.errno(), trace_id, span_id, "{}", chain(error));
            }
        }
        to_status(error)
    }

    /// Logs a refusal for those who watch over the server. A token that does not hold was logged at the door.
    fn audit(&self, error: &Error) {
        let is_foreign = || error.source().is_some_and(|source| source.is::<Foreign>());
        if error.errno() != Errno::Acces && (error.errno() != Errno::BadF || !is_foreign()) {
            return;
        }
        let Origin { identity, peer } = &self.0.origin;
        let (subject, key) = match identity {
            Identity::Granted(grant) => (Some(grant.subject.name()), Some(grant.key())),
            Identity::Trusted | Identity::Nobody => (None, None),
        };
        audit(Audited {
            reason: reason_of(error.errno()).as_str(),
            method: &self.0.method,
            peer,
            subject,
            key,
            path: error.details().iter().find(|(name, _)| *name == "path").map(|(_, path)| path.as_str()),
            why: &chain(error),
            ..Audited::default()
        });
    }

    /// Logs a fault of our own under the call's trace id, and says no more than that id.
    pub(crate) fn fail_by_fault(&self, what: &str) -> Status {
        let (trace_id, span_id) = self.ids().map(|ids| (ids.trace, ids.span)).unzip();
        let trace_id = trace_id.unwrap_or_else(|| Uuid::new_v4().simple().to_string());
        tracing::error!(method = self.0.method.as_str(), trace_id, span_id, "fault: {what}");
        fault(&trace_id)
    }

    /// The failure of a call that took longer than its caller waits.
    pub(crate) fn timed_out() -> Error {
        Error::new(
            Errno::TimedOut,
            "the call's deadline passed; what was not acknowledged may or may not have happened",
        )
    }
}

fn margin(time: Duration) -> Duration {
    (time / 10).min(MARGIN_MAX)
}

/// The caller's timeout: at most 8 digits and a unit, as the gRPC protocol says.
pub(crate) fn timeout(headers: &HeaderMap) -> Result<Option<Duration>> {
    let Some(value) = headers.get(TIMEOUT) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number = digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse::<u64>().ok()).flatten();
    let time = match (number, &text[digits.len()..]) {
        (Some(_), _) if digits.len() > 8 => None,
        (Some(number), "H") => Some(Duration::from_secs(number * 3600)),
        (Some(number), "M") => Some(Duration::from_secs(number * 60)),
        (Some(number), "S") => Some(Duration::from_secs(number)),
        (Some(number), "m") => Some(Duration::from_millis(number)),
        (Some(number), "u") => Some(Duration::from_micros(number)),
        (Some(number), "n") => Some(Duration::from_nanos(number)),
        _ => None,
    };
    if time.is_none() {
        let shown: String =
            value.as_bytes().iter().take(64).flat_map(|byte| byte.escape_ascii()).map(char::from).collect();
        let sentence = format!("grpc-timeout `{shown}` cannot be read: write up to 8 digits and one of H M S m u n");
        return Err(Error::invalid(TIMEOUT, sentence).with(TIMEOUT, shown));
    }
    Ok(time)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(name: &'static str, value: &[u8]) -> HeaderMap {
        HeaderMap::from_iter([(http::HeaderName::from_static(name), HeaderValue::from_bytes(value).unwrap())])
    }

    #[test]
    fn a_timeout_is_read_in_every_unit() {
        for (text, ms) in
            [("1H", 3_600_000), ("2M", 120_000), ("3S", 3000), ("4m", 4), ("5000u", 5), ("6000000n", 6), ("0S", 0)]
        {
            assert_eq!(timeout(&headers(TIMEOUT, text.as_bytes())).unwrap(), Some(Duration::from_millis(ms)));
        }
        assert_eq!(timeout(&headers(TIMEOUT, b"99999999H")).unwrap(), Some(Duration::from_secs(99_999_999 * 3600)));
        assert_eq!(timeout(&HeaderMap::new()).unwrap(), None);
    }

    #[test]
    fn a_timeout_that_cannot_be_read_is_refused_and_not_ignored() {
        for value in [&b""[..], b"S", b"10", b"10s", b"-1S", b"1.5S", b"123456789S", b"1SS", b"1S1S", b"\xff"] {
            let error = timeout(&headers(TIMEOUT, value)).unwrap_err();
            assert_eq!((error.errno(), error.field()), (Errno::Inval, Some(TIMEOUT)), "{value:?}");
        }
    }

    #[test]
    fn the_server_gives_up_a_little_earlier_than_the_caller() {
        assert_eq!(margin(Duration::from_millis(50)), Duration::from_millis(5));
        assert_eq!(margin(Duration::from_secs(50)), MARGIN_MAX);
        assert_eq!(margin(Duration::ZERO), Duration::ZERO);
    }

    #[test]
    fn a_fault_is_told_under_the_callers_trace_id() {
        let id = "4bf92f3577b34da6a3ce929d0e0e4736";
        let parent = format!("00-{id}-00f067aa0ba902b7-01");
        let traceparent = headers("traceparent", parent.as_bytes());
        let call = Call::begin("/x", &traceparent, Origin::unknown(), Span::none()).unwrap();
        let status = call.fail(&Error::new(Errno::Fault, "a secret"));
        assert!(status.message().contains(id) && !status.message().contains("secret"));
        let call = Call::begin("/x", &headers("traceparent", b"00-xyz-1-01"), Origin::unknown(), Span::none()).unwrap();
        assert!(!call.fail_by_fault("a secret").message().contains("xyz"));
    }
}
