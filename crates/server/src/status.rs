//! The core's errors on the wire: [`to_status`], and the one table from [`Errno`] to [`Reason`].
//!
//! Invariants: every status has exactly one `ErrorInfo` of domain `mmap.v1`; an `INTERNAL` one says nothing
//! of what happened inside; a status never outgrows the header lists that common clients accept.

use std::collections::HashMap;
use std::error::Error as _;

use mmap_core::error::{Errno, Error};
use mmap_proto::names::ERROR_DOMAIN;
use mmap_proto::reason::Reason;
use tonic::Status;
use tonic_types::{ErrorDetails, StatusExt as _};

/// Bytes of the longest sentence that is sent. It travels thrice (percent-encoded, in the status details and
/// in `BadRequest`); with [`VALUE_MAX`] the whole stays under the 8 KiB of headers that gRPC's C core takes.
const SENTENCE_MAX: usize = 768;
/// Bytes of the longest value in `ErrorInfo.metadata`.
const VALUE_MAX: usize = 1024;

/// The reason that an errno travels as.
pub fn reason_of(errno: Errno) -> Reason {
    match errno {
        Errno::Inval => Reason::Inval,
        Errno::NoEnt => Reason::NoEnt,
        Errno::BadF => Reason::BadF,
        Errno::Srch => Reason::Srch,
        Errno::Exist => Reason::Exist,
        Errno::Acces => Reason::Acces,
        Errno::SegvAccErr => Reason::SegvAccErr,
        Errno::SegvMapErr => Reason::SegvMapErr,
        Errno::SigBus => Reason::SigBus,
        Errno::RoFs => Reason::RoFs,
        Errno::Busy => Reason::Busy,
        Errno::NoMem => Reason::NoMem,
        Errno::DQuot => Reason::DQuot,
        Errno::Stale => Reason::Stale,
        Errno::Io => Reason::Io,
        Errno::UClean => Reason::UClean,
        Errno::TimedOut => Reason::TimedOut,
        Errno::NotSup => Reason::NotSup,
        Errno::UnAuth => Reason::UnAuth,
        Errno::Fault => Reason::Fault,
    }
}

/// The status that tells `error`. For a fault of our own use [`fault`], which names the log's entry.
pub fn to_status(error: &Error) -> Status {
    let reason = reason_of(error.errno());
    let sentence = cut(&sentence_of(error), SENTENCE_MAX);
    let metadata: HashMap<_, _> =
        error.details().iter().map(|(key, value)| ((*key).to_owned(), cut(value, VALUE_MAX))).collect();
    let mut details = ErrorDetails::new();
    details.set_error_info(reason.as_str(), ERROR_DOMAIN, metadata);
    if let Some(field) = error.field() {
        details.add_bad_request_violation(field, sentence.as_str());
    }
    if let Some(delay) = error.retry_delay() {
        details.set_retry_info(Some(delay));
    }
    Status::with_error_details(reason.code(), sentence, details)
}

/// A fault of our own: what happened stands in the log under `trace_id`, and nowhere else.
pub fn fault(trace_id: &str) -> Status {
    let sentence = format!("the server met a fault of its own; its log tells it under trace id {trace_id}");
    to_status(&Error::new(Errno::Fault, sentence).with("trace_id", trace_id))
}

/// An error with its causes, for the log.
pub fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// The sentence; for a failed store with the first cause that it does not tell itself, which helps a person.
fn sentence_of(error: &Error) -> String {
    let message = error.message();
    if error.errno() != Errno::Io {
        return message.to_owned();
    }
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        if !message.contains(&text) {
            return format!("{message}: {text}");
        }
        source = cause.source();
    }
    message.to_owned()
}

/// At most `max` bytes of `text`; what was cut off is marked.
fn cut(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.to_owned();
    }
    const MARK: &str = "...";
    let end = (0..=max - MARK.len()).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    format!("{}{MARK}", &text[..end])
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tonic::Code;

    use super::*;

    const ERRNOS: &[(Errno, &str, Code)] = &[
        (Errno::Inval, "EINVAL", Code::InvalidArgument),
        (Errno::NoEnt, "ENOENT", Code::NotFound),
        (Errno::BadF, "EBADF", Code::NotFound),
        (Errno::Srch, "ESRCH", Code::NotFound),
        (Errno::Exist, "EEXIST", Code::AlreadyExists),
        (Errno::Acces, "EACCES", Code::PermissionDenied),
        (Errno::SegvAccErr, "SEGV_ACCERR", Code::PermissionDenied),
        (Errno::SegvMapErr, "SEGV_MAPERR", Code::OutOfRange),
        (Errno::SigBus, "SIGBUS", Code::OutOfRange),
        (Errno::RoFs, "EROFS", Code::FailedPrecondition),
        (Errno::Busy, "EBUSY", Code::FailedPrecondition),
        (Errno::NoMem, "ENOMEM", Code::ResourceExhausted),
        (Errno::DQuot, "EDQUOT", Code::ResourceExhausted),
        (Errno::Stale, "ESTALE", Code::Aborted),
        (Errno::Io, "EIO", Code::Unavailable),
        (Errno::UClean, "EUCLEAN", Code::DataLoss),
        (Errno::TimedOut, "ETIMEDOUT", Code::DeadlineExceeded),
        (Errno::NotSup, "ENOTSUP", Code::Unimplemented),
        (Errno::UnAuth, "EUNAUTH", Code::Unauthenticated),
        (Errno::Fault, "EFAULT", Code::Internal),
    ];

    #[test]
    fn every_errno_travels_as_the_contracts_reason_and_code() {
        for (errno, name, code) in ERRNOS {
            let status = to_status(&Error::new(*errno, "a sentence").with("key", 7));
            assert_eq!((status.code(), status.message()), (*code, "a sentence"));
            let details = status.get_error_details();
            let info = details.error_info().unwrap();
            assert_eq!((info.reason.as_str(), info.domain.as_str()), (*name, "mmap.v1"));
            assert_eq!(info.metadata.get("key").map(String::as_str), Some("7"));
            assert!(details.retry_info().is_none() && details.bad_request().is_none());
        }
    }

    #[test]
    fn every_reason_is_some_errnos() {
        let reached: Vec<_> = ERRNOS.iter().map(|(errno, ..)| reason_of(*errno)).collect();
        assert_eq!(reached, Reason::ALL);
    }

    #[test]
    fn a_malformed_request_names_its_field_and_a_retry_its_delay() {
        let details = to_status(&Error::invalid("length", "length is 0")).get_error_details();
        let violations = &details.bad_request().unwrap().field_violations;
        assert_eq!((violations[0].field.as_str(), violations[0].description.as_str()), ("length", "length is 0"));
        let busy = Error::new(Errno::Io, "later").retry_after(Duration::from_secs(2));
        let details = to_status(&busy).get_error_details();
        assert_eq!(details.retry_info().unwrap().retry_delay, Some(Duration::from_secs(2)));
    }

    #[test]
    fn a_failed_store_tells_its_first_cause_once_and_others_tell_none() {
        let cause = || std::io::Error::other("connection refused");
        let told = to_status(&Error::new(Errno::Io, "the store failed").caused_by(cause()));
        assert_eq!(told.message(), "the store failed: connection refused");
        let once = to_status(&Error::new(Errno::Io, "the store failed: connection refused").caused_by(cause()));
        assert_eq!(once.message(), "the store failed: connection refused");
        let untold = Error::new(Errno::Stale, "changed").caused_by(cause());
        assert_eq!(to_status(&untold).message(), "changed");
        assert_eq!(chain(&untold), "changed: connection refused");
    }

    #[test]
    fn the_longest_sentence_fits_into_common_header_limits() {
        let path = "ü".repeat(4096);
        let error = Error::invalid("path", format!("the path {path} is bad")).with("path", &path);
        let status = to_status(&error);
        let headers = status.into_http::<()>();
        let size: usize = headers.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
        assert!(size < 8 * 1024, "{size} bytes of headers");
    }

    #[test]
    fn a_fault_names_the_logs_entry_only() {
        let status = fault("abc");
        assert_eq!(status.code(), Code::Internal);
        assert!(status.message().ends_with("trace id abc"));
        assert_eq!(status.get_error_details().error_info().unwrap().metadata["trace_id"], "abc");
    }
}
