//! A failed call as the contract promises it: code, sentence, exactly one `ErrorInfo`, and what goes with it.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Debug;

use mmap_proto::names;
use mmap_proto::reason::Reason;
use tonic::{Code, Status};
use tonic_types::{ErrorDetail, StatusExt};

/// What a failed call said.
#[derive(Debug)]
pub struct Failure {
    /// Why.
    pub reason: Reason,
    /// The sentence.
    pub message: String,
    /// The sentence's values.
    pub metadata: BTreeMap<String, String>,
    /// The request's fields at fault.
    pub fields: Vec<String>,
    /// Whether it says when to try again.
    pub has_retry_delay: bool,
}

impl Failure {
    /// The value of a metadata key.
    ///
    /// # Panics
    /// If there is none.
    pub fn value(&self, key: &str) -> &str {
        self.metadata.get(key).unwrap_or_else(|| panic!("no metadata {key}: {self:?}"))
    }
}

/// What `status` says, after checking everything that holds for every error of the contract.
///
/// # Panics
/// If it is not as the contract says.
pub fn failure(status: &Status) -> Failure {
    assert!(status.metadata().contains_key(names::NODE), "no {} in the trailers: {status:?}", names::NODE);
    failure_answer(status)
}

/// As [`failure`], for one that is an answer of a pipeline and has no trailers.
///
/// # Panics
/// If it is not as the contract says.
#[expect(clippy::wildcard_enum_match_arm, reason = "whatever else there is or will be has no place here")]
pub fn failure_answer(status: &Status) -> Failure {
    let details = status.check_error_details_vec().unwrap_or_else(|error| panic!("{status:?}: {error}"));
    let mut infos = Vec::new();
    let (mut fields, mut has_retry_delay) = (Vec::new(), false);
    for detail in details {
        match detail {
            ErrorDetail::ErrorInfo(info) => infos.push(info),
            ErrorDetail::BadRequest(bad) => fields.extend(bad.field_violations.into_iter().map(|field| field.field)),
            ErrorDetail::RetryInfo(_) => has_retry_delay = true,
            other => panic!("a detail that the contract does not know: {other:?}"),
        }
    }
    assert_eq!(infos.len(), 1, "not exactly one ErrorInfo: {status:?}");
    let info = infos.remove(0);
    assert_eq!(info.domain, names::ERROR_DOMAIN, "{status:?}");
    let reason = Reason::parse(&info.reason).unwrap_or_else(|| panic!("a reason that is not in the table: {info:?}"));
    assert_eq!(status.code(), reason.code(), "{status:?}");
    let failure = Failure {
        reason,
        message: status.message().to_owned(),
        metadata: info.metadata.into_iter().collect(),
        fields,
        has_retry_delay,
    };
    check_sentence(&failure);
    for key in promised_keys(failure.reason) {
        failure.value(key);
    }
    failure
}

/// The metadata keys that docs/ERRORS.md promises always to be there: those in bold.
fn promised_keys(reason: Reason) -> impl Iterator<Item = &'static str> {
    const PAGE: &str = include_str!("../../docs/ERRORS.md");
    let begin = format!("| `{reason}` |");
    let row = PAGE.lines().find(|line| line.starts_with(&begin));
    let row = row.unwrap_or_else(|| panic!("docs/ERRORS.md has no row for {reason}"));
    row.split("**`").skip(1).filter_map(|rest| rest.split('`').next())
}

/// A sentence for a person: there, not a stop at its end, no control characters, its numbers in the metadata.
fn check_sentence(failure: &Failure) {
    let message = &failure.message;
    assert!(!message.is_empty() && !message.ends_with('.'), "{failure:?}");
    assert!(!message.contains(|c: char| c.is_control()), "{failure:?}");
    assert!(message.len() < 16 << 10, "a sentence of {} bytes", message.len());
    if failure.reason == Reason::Inval {
        assert!(!failure.fields.is_empty(), "EINVAL names the field at fault: {failure:?}");
    }
}

/// The failure of a call that has to fail for `reason`.
///
/// # Panics
/// If it succeeded, or failed for another reason.
pub fn expect<T: Debug>(reason: Reason, result: Result<T, Status>) -> Failure {
    expect_any(&[reason], result)
}

/// The failure of a call that has to fail for one of `reasons`.
///
/// # Panics
/// If it succeeded, or failed for another reason.
pub fn expect_any<T: Debug>(reasons: &[Reason], result: Result<T, Status>) -> Failure {
    match result {
        Ok(answer) => panic!("has to fail with {reasons:?}, but answered {answer:?}"),
        Err(status) => {
            let failure = failure(&status);
            assert!(reasons.contains(&failure.reason), "has to fail with {reasons:?}: {failure:?}");
            failure
        }
    }
}

/// Checks a failure that may be made by the gRPC library itself, which needs no `ErrorInfo`: then its code
/// must be one of `codes`.
///
/// # Panics
/// If it succeeded, or failed otherwise.
pub fn expect_library<T: Debug>(codes: &[Code], reason: Reason, result: Result<T, Status>) {
    match result {
        Ok(answer) => panic!("has to fail, but answered {answer:?}"),
        Err(status) if status.get_details_error_info().is_some() => {
            assert_eq!(failure(&status).reason, reason, "{status:?}");
        }
        Err(status) => {
            let codes: HashSet<Code> = codes.iter().copied().collect();
            assert!(codes.contains(&status.code()), "{status:?}");
        }
    }
}
