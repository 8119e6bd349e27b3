//! The caller's trace: [`TraceContext`], as the W3C's headers have it, and the hook that says which one a call is in.
//!
//! This crate knows no tracing library. A program that has one says with
//! [`ClientBuilder::trace`](crate::ClientBuilder::trace) where it is in its trace, and the server goes on from there.

use std::{fmt, str::FromStr, sync::Arc};

use tonic::metadata::{Ascii, MetadataMap, MetadataValue};

const TRACE_PARENT: &str = "traceparent";
const TRACE_STATE: &str = "tracestate";
/// Bytes of the longest `tracestate`: more is not handed on, as the W3C allows.
const STATE_MAX: usize = 512;

/// Where in which trace a program is, and whether the trace is recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext {
    parent: MetadataValue<Ascii>,
    state: Option<MetadataValue<Ascii>>,
    sampled: bool,
}

/// A text that is no `traceparent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is no traceparent: that is 00-, 32 hexadecimal digits, -, 16, -, and 2 of flags")]
pub struct NotATraceParent;

impl TraceContext {
    /// The span with these ids, in a trace that is recorded or not.
    ///
    /// # Errors
    /// An id of 0 is none.
    pub fn new(trace_id: u128, span_id: u64, sampled: bool) -> Result<Self, NotATraceParent> {
        format!("00-{trace_id:032x}-{span_id:016x}-{:02x}", u8::from(sampled)).parse()
    }

    /// With what tracing systems say of it to each other. One that cannot be a header's value is left away.
    #[must_use]
    pub fn with_state(self, state: &str) -> Self {
        let state = Some(state).filter(|state| (1..=STATE_MAX).contains(&state.len()));
        Self { state: state.and_then(|state| MetadataValue::try_from(state).ok()), ..self }
    }

    /// Whether the trace is recorded.
    pub fn is_sampled(&self) -> bool {
        self.sampled
    }

    /// Puts it among a call's headers, in the place of what stood there.
    fn put(self, headers: &mut MetadataMap) {
        headers.insert(TRACE_PARENT, self.parent);
        if let Some(state) = self.state {
            headers.insert(TRACE_STATE, state);
        }
    }
}

impl FromStr for TraceContext {
    type Err = NotATraceParent;

    /// Reads a `traceparent`, as the header and the environment variable `TRACEPARENT` have it.
    fn from_str(text: &str) -> Result<Self, NotATraceParent> {
        let parts: Vec<&str> = text.split('-').collect();
        let is_hex = |text: &str, length| {
            text.len() == length && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
        };
        let is_id = |text: &str, length| is_hex(text, length) && text.bytes().any(|byte| byte != b'0');
        match parts.as_slice() {
            ["00", trace, span, flags] if is_id(trace, 32) && is_id(span, 16) && is_hex(flags, 2) => {
                let sampled = u8::from_str_radix(flags, 16).is_ok_and(|flags| flags & 1 == 1);
                let parent = MetadataValue::try_from(text).map_err(|_| NotATraceParent)?;
                Ok(Self { parent, state: None, sampled })
            }
            _ => Err(NotATraceParent),
        }
    }
}

/// Says where the calling task is.
#[derive(Clone)]
pub(crate) struct Hook(Arc<dyn Fn() -> Option<TraceContext> + Send + Sync>);

impl Hook {
    pub(crate) fn new(hook: impl Fn() -> Option<TraceContext> + Send + Sync + 'static) -> Self {
        Self(Arc::new(hook))
    }

    /// Whether the calling task's trace is recorded.
    pub(crate) fn is_sampled(&self) -> bool {
        (self.0)().is_some_and(|context| context.is_sampled())
    }

    /// Tells a call's receiver where the calling task is.
    pub(crate) fn tell(&self, headers: &mut MetadataMap) {
        if let Some(context) = (self.0)() {
            context.put(headers);
        }
    }
}

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hook")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_traceparent_goes_out_as_it_came_in() {
        let context: TraceContext = PARENT.parse().expect("it is one");
        assert!(context.is_sampled());
        let mut headers = MetadataMap::new();
        context.clone().with_state("vendor=1").put(&mut headers);
        assert_eq!(headers.get(TRACE_PARENT).expect("it was put there"), PARENT);
        assert_eq!(headers.get(TRACE_STATE).expect("it was put there"), "vendor=1");
        let made = TraceContext::new(0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736, 0x00f0_67aa_0ba9_02b7, true);
        assert_eq!(made, Ok(context));
        assert!(!TraceContext::new(1, 1, false).expect("ids").is_sampled());
    }

    #[test]
    fn what_is_no_traceparent_is_refused() {
        let upper = PARENT.to_uppercase();
        let no_trace = PARENT.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32));
        let long = format!("{PARENT}-00");
        for text in ["", "00", &upper, &no_trace, &long, &PARENT[1..], &PARENT.replace("00-4", "ff-4")] {
            assert_eq!(text.parse::<TraceContext>(), Err(NotATraceParent), "{text}");
        }
        assert_eq!(TraceContext::new(0, 1, true), Err(NotATraceParent));
        let state = "x".repeat(STATE_MAX + 1);
        assert_eq!(TraceContext::new(1, 1, true).expect("ids").with_state(&state).state, None);
    }
}
