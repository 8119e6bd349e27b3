//! Which process calls, and with which rights: an [`Identity`] and request headers to [`Caller`].
//!
//! It checks how the headers are written; whether the caller may do what it asks for is the core's affair. Where callers
//! are taken at their word, their capabilities stand in a header; else all rights are the token's.

use http::HeaderMap;
use mmap_core::capability::{Capability, CapabilitySet};
use mmap_core::error::{Errno, Error, Result};
use mmap_core::manager::{Caller, Subject};
use mmap_core::scope::PathScope;
use mmap_proto::names::{CAPABILITIES, PID};
use tokio::time::Instant;

use crate::auth::Identity;

/// Bytes of a header's value that are quoted in an error.
const QUOTE_MAX: usize = 64;

/// Whether a call needs to say which process makes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PidHeader {
    /// It touches a process's mappings.
    Needed,
    /// It works without one.
    Optional,
}

/// The caller who has this identity and these headers, and waits until `deadline`.
///
/// # Errors
/// [`Errno::Inval`] for a header that is malformed, or missing although needed; [`Errno::UnAuth`] for nobody.
pub(crate) fn caller(
    identity: &Identity,
    headers: &HeaderMap,
    pid_header: PidHeader,
    deadline: Option<Instant>,
) -> Result<Caller> {
    let pid = pid(headers)?;
    if pid.is_none() && pid_header == PidHeader::Needed {
        return Err(Error::invalid(PID, "this call needs the header mmap-pid: the calling process, from 1 up"));
    }
    Ok(match identity {
        Identity::Trusted => {
            let (subject, capabilities, paths) = (Subject::LOCAL, capabilities(headers)?, PathScope::ALL);
            Caller { subject, pid, capabilities, paths, deadline }
        }
        Identity::Granted(grant) => {
            let (subject, capabilities, paths) = (grant.subject.clone(), grant.capabilities, grant.paths.clone());
            Caller { subject, pid, capabilities, paths, deadline }
        }
        Identity::Nobody => return Err(Error::new(Errno::UnAuth, "it is not known who calls").with("why", "missing")),
    })
}

fn pid(headers: &HeaderMap) -> Result<Option<u32>> {
    let mut values = headers.get_all(PID).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let refuse = |shown: String| {
        let sentence = format!("mmap-pid `{shown}` is not a process: write one decimal number from 1 to {}", u32::MAX);
        Err(Error::invalid(PID, sentence).with(PID, shown))
    };
    if values.next().is_some() {
        return refuse("repeated".to_owned());
    }
    let text = value.to_str().unwrap_or_default();
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse::<u32>() {
        Ok(pid) if digits && pid != 0 => Ok(Some(pid)),
        _ => refuse(quote(value.as_bytes())),
    }
}

fn capabilities(headers: &HeaderMap) -> Result<CapabilitySet> {
    let mut set = CapabilitySet::default();
    for value in headers.get_all(CAPABILITIES) {
        let Ok(text) = value.to_str() else { return Err(unknown(value.as_bytes())) };
        // An empty header, or a comma too many, names nothing.
        for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            set = set.with(Capability::parse(name).ok_or_else(|| unknown(name.as_bytes()))?);
        }
    }
    Ok(set)
}

fn unknown(name: &[u8]) -> Error {
    let known = Capability::ALL.map(Capability::as_str).join(", ");
    let shown = quote(name);
    Error::invalid(CAPABILITIES, format!("`{shown}` is not a capability: the known ones are {known}"))
        .with("capability", shown)
        .with("known", known)
}

/// The start of a header's value, escaped: a hostile one must not forge log lines or terminal sequences.
fn quote(value: &[u8]) -> String {
    let shown = value[..value.len().min(QUOTE_MAX)].escape_ascii();
    if value.len() > QUOTE_MAX { format!("{shown}...") } else { shown.to_string() }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn metadata(headers: &[(&'static str, &[u8])]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_bytes(value).unwrap());
        }
        map
    }

    fn read(headers: &[(&'static str, &[u8])]) -> Result<Caller> {
        caller(&Identity::Trusted, &metadata(headers), PidHeader::Optional, None)
    }

    #[test]
    fn a_pid_is_a_decimal_number_that_is_not_0() {
        for (text, pid) in [("1", 1), ("42", 42), ("007", 7), ("4294967295", u32::MAX)] {
            assert_eq!(read(&[(PID, text.as_bytes())]).unwrap().pid, Some(pid));
        }
        assert_eq!(read(&[]).unwrap().pid, None);
    }

    #[test]
    fn a_malformed_pid_is_refused_with_its_field_and_value() {
        for value in
            [&b"0"[..], b"", b"-1", b"+1", b" 1 2", b"1.0", b"0x1", b"4294967296", b"\xff\xfe", b"99999999999999999999"]
        {
            let error = read(&[(PID, value)]).unwrap_err();
            assert_eq!((error.errno(), error.field()), (Errno::Inval, Some(PID)), "{value:?}");
            assert_eq!(error.details(), [(PID, value.escape_ascii().to_string())]);
        }
        assert_eq!(read(&[(PID, b"1"), (PID, b"1")]).unwrap_err().errno(), Errno::Inval);
    }

    #[test]
    fn a_call_that_needs_a_pid_is_refused_without_one() {
        let error = caller(&Identity::Trusted, &metadata(&[]), PidHeader::Needed, None).unwrap_err();
        assert_eq!((error.errno(), error.field()), (Errno::Inval, Some(PID)));
        assert!(caller(&Identity::Trusted, &metadata(&[(PID, b"1")]), PidHeader::Needed, None).is_ok());
    }

    #[test]
    fn capabilities_add_up_over_commas_spaces_and_repeated_headers() {
        let set =
            read(&[(CAPABILITIES, b" FileRead ,SystemInfo,"), (CAPABILITIES, b"FileWrite")]).unwrap().capabilities;
        assert_eq!(set, CapabilitySet::ALL);
        let set = read(&[(CAPABILITIES, b"FileRead")]).unwrap().capabilities;
        assert!(set.has(Capability::FileRead) && !set.has(Capability::FileWrite));
        assert_eq!(read(&[(CAPABILITIES, b"")]).unwrap().capabilities, CapabilitySet::default());
    }

    #[test]
    fn an_unknown_capability_is_refused_naming_the_known_ones() {
        let long = [b'x'; 4096];
        for value in [&b"fileread"[..], b"FileRead FileWrite", b"Root", b"FileRead,\xff", b"*", &long] {
            let error = read(&[(CAPABILITIES, value)]).unwrap_err();
            assert_eq!((error.errno(), error.field()), (Errno::Inval, Some(CAPABILITIES)));
            assert!(error.message().contains("FileRead, FileWrite, SystemInfo"));
            assert!(error.message().len() < 256 && error.message().is_ascii());
        }
    }

    #[test]
    fn nobody_is_refused_whatever_the_headers_say() {
        let headers = metadata(&[(PID, b"1"), (CAPABILITIES, b"FileRead")]);
        let error = caller(&Identity::Nobody, &headers, PidHeader::Needed, None).unwrap_err();
        assert_eq!(error.errno(), Errno::UnAuth);
    }

    #[test]
    fn a_token_is_not_looked_at_where_callers_are_trusted() {
        assert!(read(&[("authorization", b"Bearer garbage"), (PID, b"1")]).is_ok());
    }
}
