//! Errors as the contract has them, made from a reason, a sentence and its values.

use std::{collections::HashMap, time::Duration};

use mmap_proto::{names, reason::Reason};
use tonic::Status;
use tonic_types::{ErrorDetails, StatusExt};

/// `reason` with its sentence and values.
pub(crate) fn refuse(reason: Reason, message: impl Into<String>, values: &[(&str, String)]) -> Status {
    Status::with_error_details(reason.code(), message, info(reason, values))
}

/// As [`refuse`], worth repeating after `delay`.
pub(crate) fn refuse_for(reason: Reason, message: impl Into<String>, delay: Duration) -> Status {
    let mut details = info(reason, &[]);
    details.set_retry_info(Some(delay));
    Status::with_error_details(reason.code(), message, details)
}

fn info(reason: Reason, values: &[(&str, String)]) -> ErrorDetails {
    let values: HashMap<_, _> = values.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
    ErrorDetails::with_error_info(reason.as_str(), names::ERROR_DOMAIN, values)
}
