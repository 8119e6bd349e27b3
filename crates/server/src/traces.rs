//! [`Traces`]: which calls are followed, and the span of such a call.
//!
//! A caller that says whether it is followed itself decides for its call; of the others a part is. All is decided
//! before a call has a span, so that the rest costs one look-up of a header, and nothing at all where traces are off.
//!
//! Names are those of OpenTelemetry's conventions for RPC, and `mmap.*`. A span holds names and counts, never the bytes
//! of a file, never a token.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use mmap_core::path::PATH_MAX;
use mmap_core::trace::{TARGET, count};
use mmap_proto::names::PID;
use opentelemetry::propagation::{Extractor, TextMapPropagator as _};
use opentelemetry::trace::TraceContextExt as _;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use tracing::Span;
use tracing::field::Empty;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use uuid::Uuid;

use crate::telemetry::CALL;
use crate::telemetry::ids::Ids;

/// The header that names the caller's span.
pub(crate) const TRACE_PARENT: HeaderName = HeaderName::from_static("traceparent");
/// Characters of a method's name that are told: a caller may ask for any.
const NAME_MAX: usize = 128;

/// Which calls are followed. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Traces(Option<Arc<Sample>>);

impl Traces {
    /// Follows the part `ratio` of the calls whose callers do not decide; `None`: no call at all.
    pub(crate) fn new(ratio: Option<f64>) -> Self {
        Self(ratio.map(|ratio| Arc::new(Sample::new(ratio))))
    }

    /// The span of a call that begins now, a disabled one if it is not followed. Without a word of its caller only a
    /// call of the contract's own methods is.
    pub(crate) fn call(&self, path: &str, headers: &HeaderMap, is_own: bool) -> Span {
        let Some(sample) = &self.0 else { return Span::none() };
        match headers.get(TRACE_PARENT).and_then(is_sampled) {
            Some(true) => started(path, headers),
            None if is_own && sample.takes() => started(path, headers),
            Some(false) | None => Span::none(),
        }
    }
}

/// Takes a part of what comes, evenly.
#[derive(Debug)]
struct Sample {
    next: AtomicU64,
    /// Of 2^64.
    threshold: u64,
}

impl Sample {
    fn new(ratio: f64) -> Self {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates, which is meant")]
        let threshold = (ratio * 2f64.powi(64)) as u64;
        // Servers that start together must not take the same ones.
        Self { next: AtomicU64::new(Uuid::new_v4().as_u64_pair().1), threshold }
    }

    fn takes(&self) -> bool {
        // splitmix64: a bijection, so that every part of 2^64 calls is taken exactly.
        let mut z = self.next.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        z < self.threshold || self.threshold == u64::MAX
    }
}

/// What a `traceparent` says of whether its trace is followed; `None` if it cannot be read.
fn is_sampled(value: &HeaderValue) -> Option<bool> {
    // 00-{32 digits}-{16 digits}-{2 digits of flags}; a later version may have more behind.
    let [_, _, b'-', trace @ ..] = value.as_bytes() else { return None };
    let (trace, rest) = trace.split_at_checked(32)?;
    let (span, flags) = rest.strip_prefix(b"-")?.split_at_checked(16)?;
    let [b'-', high, low, ..] = flags else { return None };
    let digits = trace.iter().chain(span).chain([high, low]);
    let all_hex = { digits }.all(u8::is_ascii_hexdigit);
    (all_hex && trace != [b'0'; 32] && span != [b'0'; 16])
        .then(|| char::from(*low).to_digit(16).is_some_and(|low| low & 1 == 1))
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

fn parent(headers: &HeaderMap) -> opentelemetry::Context {
    TraceContextPropagator::new().extract_with_context(&opentelemetry::Context::new(), &Headers(headers))
}

/// Where a caller that does not let itself be followed is in its own trace.
pub(crate) fn callers_ids(traceparent: &HeaderValue) -> Option<Ids> {
    let headers = HeaderMap::from_iter([(TRACE_PARENT, traceparent.clone())]);
    Ids::of_context(parent(&headers).span().span_context())
}

fn started(path: &str, headers: &HeaderMap) -> Span {
    let name = path.strip_prefix('/').unwrap_or(path);
    let name = name.char_indices().nth(NAME_MAX).map_or(name, |(end, _)| &name[..end]);
    let (service, method) = name.split_once('/').unwrap_or(("", name));
    let span = tracing::info_span!(
        target: TARGET,
        parent: None,
        CALL,
        otel.name = name,
        otel.kind = "server",
        otel.status_code = Empty,
        otel.status_description = Empty,
        rpc.system = "grpc",
        rpc.service = service,
        rpc.method = method,
        rpc.grpc.status_code = Empty,
        mmap.reason = Empty,
        mmap.pid = Empty,
        mmap.mapping_id = Empty,
        mmap.path = Empty,
        mmap.offset = Empty,
        mmap.bytes = Empty,
        mmap.operations = Empty,
        mmap.operations_waited = Empty,
    );
    // Without a subscriber for spans there is none to give a parent to.
    let _ = span.set_parent(parent(headers));
    if let Some(pid) = headers.get(PID).and_then(|pid| pid.to_str().ok()?.parse::<u32>().ok()) {
        span.record("mmap.pid", i64::from(pid));
    }
    span
}

/// What a call or an operation is about, told on its span.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct About<'a> {
    /// The mapping.
    pub(crate) mapping: Option<u64>,
    /// The file.
    pub(crate) path: Option<&'a str>,
    /// Where in the mapping.
    pub(crate) offset: Option<u64>,
    /// How many bytes are read or written.
    pub(crate) bytes: Option<u64>,
}

impl<'a> About<'a> {
    /// A part of a mapping.
    pub(crate) fn part(mapping: u64, offset: u64, bytes: u64) -> Self {
        Self { mapping: Some(mapping), offset: Some(offset), bytes: Some(bytes), path: None }
    }

    /// A mapping.
    pub(crate) fn mapping(id: u64) -> Self {
        Self { mapping: Some(id), ..Self::default() }
    }

    /// A file.
    pub(crate) fn path(path: &'a str) -> Self {
        Self { path: Some(path), ..Self::default() }
    }

    /// Tells it on `span`.
    pub(crate) fn tell(self, span: &Span) {
        if span.is_disabled() {
            return;
        }
        let Self { mapping, path, offset, bytes } = self;
        for (name, value) in [("mmap.mapping_id", mapping), ("mmap.offset", offset), ("mmap.bytes", bytes)] {
            if let Some(value) = value {
                span.record(name, count(value));
            }
        }
        // A longer one is none.
        if let Some(path) = path.filter(|path| path.len() <= PATH_MAX) {
            span.record("mmap.path", path);
        }
    }
}

/// Tells on `span` that its call or operation succeeded.
pub(crate) fn succeeded(span: &Span) {
    span.record("rpc.grpc.status_code", 0_i64);
}

/// Tells on `span` how its call or operation failed.
pub(crate) fn failed(span: &Span, status: &Status) {
    if span.is_disabled() {
        return;
    }
    span.record("rpc.grpc.status_code", i64::from(i32::from(status.code())));
    if let Some(info) = status.get_error_details().error_info() {
        span.record("mmap.reason", info.reason.as_str());
    }
    if is_servers_fault(status.code()) {
        span.record("otel.status_code", "ERROR");
        span.record("otel.status_description", status.message());
    }
}

/// Tells on `span` that nobody waits for its call any more.
pub(crate) fn cancelled(span: &Span) {
    span.record("rpc.grpc.status_code", i64::from(i32::from(Code::Cancelled)));
}

/// Whether a server's span is one of an error, as the conventions for gRPC have it: the caller's mistakes are none.
fn is_servers_fault(code: Code) -> bool {
    match code {
        Code::Unknown
        | Code::DeadlineExceeded
        | Code::Unimplemented
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss => true,
        Code::Ok
        | Code::Cancelled
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unauthenticated => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn sampled(text: &str) -> Option<bool> {
        is_sampled(&HeaderValue::from_str(text).unwrap())
    }

    #[test]
    fn a_caller_decides_by_the_lowest_flag() {
        assert_eq!(sampled(SAMPLED), Some(true));
        for (flags, decided) in [("00", false), ("01", true), ("02", false), ("03", true), ("ff", true), ("fe", false)]
        {
            assert_eq!(sampled(&SAMPLED.replace("-01", &format!("-{flags}"))), Some(decided), "{flags}");
        }
    }

    #[test]
    fn a_parent_that_cannot_be_read_is_none() {
        let zeros = "00-00000000000000000000000000000000-00f067aa0ba902b7-01";
        let no_span = "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01";
        for text in ["", "00", "garbage", &SAMPLED[..54], &SAMPLED.replace('4', "g"), zeros, no_span] {
            assert_eq!(sampled(text), None, "{text}");
        }
    }

    #[test]
    fn a_part_of_the_calls_is_taken() {
        for (ratio, least, most) in [(0.0, 0, 0), (0.01, 800, 1200), (0.5, 49_000, 51_000), (1.0, 100_000, 100_000)] {
            let sample = Sample::new(ratio);
            let taken = (0..100_000).filter(|_| sample.takes()).count();
            assert!((least..=most).contains(&taken), "{taken} of 100000 at {ratio}");
        }
    }

    #[test]
    fn where_traces_are_off_no_header_is_looked_at() {
        let headers = HeaderMap::from_iter([(TRACE_PARENT, HeaderValue::from_static(SAMPLED))]);
        assert!(Traces::new(None).call("/mmap.v1.MmapService/MmapRead", &headers, true).is_none());
    }

    #[test]
    fn a_callers_ids_are_those_of_its_header() {
        let ids = callers_ids(&HeaderValue::from_static(SAMPLED)).unwrap();
        assert_eq!((ids.trace.as_str(), ids.span.as_str()), ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"));
        assert_eq!(callers_ids(&HeaderValue::from_static("garbage")), None);
    }
}
