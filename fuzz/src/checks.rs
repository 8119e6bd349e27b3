//! What holds of every answer: a status, and with a failure its one reason, as the contract says.

use bytes::{Buf as _, Bytes};
use mmap_proto::names;
use mmap_proto::reason::Reason;
use mmap_server::harness::Answered;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// The answer's messages, or its failure.
pub(crate) fn outcome(answered: &Answered) -> Result<Vec<Bytes>, Status> {
    let headers = answered.trailers.as_ref().unwrap_or(&answered.headers);
    assert!(answered.headers.contains_key(names::NODE), "no name of the node: {answered:?}");
    let status = Status::from_header_map(headers).unwrap_or_else(|| panic!("an answer without a status: {answered:?}"));
    if status.code() == Code::Ok {
        return Ok(messages(&answered.data));
    }
    check(&status);
    Err(status)
}

/// The messages of a body.
pub(crate) fn messages(body: &[u8]) -> Vec<Bytes> {
    let (mut body, mut messages) = (Bytes::copy_from_slice(body), Vec::new());
    while !body.is_empty() {
        assert_eq!(body.get_u8(), 0, "an answer's message is not compressed");
        let len = body.get_u32() as usize;
        messages.push(body.split_to(len));
    }
    messages
}

/// A failure has a sentence and one reason of the contract's table, and is no fault of the server's own.
pub(crate) fn check(status: &Status) {
    assert!(!matches!(status.code(), Code::Internal | Code::Unknown | Code::DataLoss), "{status:?}");
    assert!(!status.message().is_empty() && !status.message().contains(char::is_control), "{status:?}");
    if status.details().is_empty() {
        // The library's own.
        assert!(matches!(status.code(), Code::Unimplemented | Code::ResourceExhausted | Code::Cancelled), "{status:?}");
        return;
    }
    let details = status.check_error_details_vec().unwrap_or_else(|error| panic!("{status:?}: {error}"));
    let infos = details.iter().filter_map(|detail| {
        let tonic_types::ErrorDetail::ErrorInfo(info) = detail else { return None };
        Some(info)
    });
    let [info] = infos.collect::<Vec<_>>()[..] else { panic!("not exactly one ErrorInfo: {status:?}") };
    let reason = Reason::parse(&info.reason).unwrap_or_else(|| panic!("an unknown reason: {status:?}"));
    assert_eq!((info.domain.as_str(), status.code()), (names::ERROR_DOMAIN, reason.code()), "{status:?}");
}
