//! [`Trail`]: what a stream's span tells of its operations.
//!
//! Those that are done at once are counted; one that waits has a span of its own, where the stream's call is followed.

use mmap_core::trace::{TARGET, count};
use tonic::Status;
use tracing::Span;
use tracing::field::Empty;

use super::op::Op;
use crate::traces::{failed, succeeded};

/// Operations of a stream so far. What they come to is told when it is dropped.
#[derive(Debug)]
pub(super) struct Trail {
    call: Span,
    operations: u64,
    waited: u64,
}

impl Trail {
    /// Of the stream whose call has this span.
    pub(super) fn of(call: &Span) -> Self {
        Self { call: call.clone(), operations: 0, waited: 0 }
    }

    /// One more is asked for.
    pub(super) fn asked(&mut self) {
        self.operations += 1;
    }

    /// The span of one that waits; a disabled one if the call is not followed.
    pub(super) fn waits(&mut self, op: &Op) -> Span {
        self.waited += 1;
        if self.call.is_disabled() {
            return Span::none();
        }
        let span = self.call.in_scope(|| {
            tracing::info_span!(
                target: TARGET,
                "operation",
                otel.name = op.name(),
                otel.status_code = Empty,
                otel.status_description = Empty,
                rpc.grpc.status_code = Empty,
                mmap.reason = Empty,
                mmap.mapping_id = Empty,
                mmap.path = Empty,
                mmap.offset = Empty,
                mmap.bytes = Empty,
            )
        });
        op.about().tell(&span);
        span
    }
}

impl Drop for Trail {
    fn drop(&mut self) {
        self.call.record("mmap.operations", count(self.operations));
        self.call.record("mmap.operations_waited", count(self.waited));
    }
}

/// Tells on an operation's span what it came to.
pub(super) fn ended<T>(span: &Span, done: &Result<T, Status>) {
    match done {
        Ok(_) => succeeded(span),
        Err(status) => failed(span, status),
    }
}
