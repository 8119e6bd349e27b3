//! Spans of what a call waits for: the fetch of a block, the journal, the store.
//!
//! Core only names them. Whether one is wanted is the subscriber's affair: it enables [`TARGET`] below the span of a
//! call that it follows, and elsewhere not, so that nothing is formatted for a call that nobody looks at. Fields hold
//! names and counts, never a file's bytes.
//!
//! A task that works for a call is spawned with the call's span; what runs for nobody (read-ahead, write-back in the
//! background) has none.

/// The target of all spans of this project, and of nothing else.
pub const TARGET: &str = "mmap_trace";

/// A count as a span holds it: telemetry knows signed numbers only.
pub fn count(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
