//! [`Ids`]: where in which trace something happened.

use std::fmt;

use opentelemetry::trace::{SpanContext, TraceContextExt as _};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// A trace and a span in it, in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ids {
    /// 32 digits.
    pub(crate) trace: String,
    /// 16 digits.
    pub(crate) span: String,
}

impl Ids {
    /// Those of a span that is followed.
    pub(crate) fn of(span: &Span) -> Option<Self> {
        if span.is_disabled() {
            return None;
        }
        Self::of_context(span.context().span().span_context())
    }

    /// Those of the span that this thread is in.
    pub(super) fn current() -> Option<Self> {
        Self::of(&Span::current())
    }

    pub(crate) fn of_context(context: &SpanContext) -> Option<Self> {
        let ids = || Self { trace: context.trace_id().to_string(), span: context.span_id().to_string() };
        context.is_valid().then(ids)
    }
}

impl fmt::Display for Ids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "trace_id={} span_id={}", self.trace, self.span)
    }
}
