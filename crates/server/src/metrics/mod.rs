//! Metrics: what is counted of the calls, what is told of everything, and where it is told. In dependency order.
//!
//! - `table`: every metric once, with its type, unit, labels and meaning
//! - `calls`: the counters that calls add to
//! - `text`: samples of the table's metrics, and Prometheus' text format for them
//! - `process`: what the system says of this process
//! - `registry`: all of it gathered
//! - `endpoint`: the HTTP listener that tells it
//! - `push`: sends it to a collector
//!
//! Invariants: what a call adds is a few relaxed additions, without a lock or an allocation; everything else is
//! computed when somebody asks. No label has a value that a caller chose. A name stands in `table` and nowhere else,
//! and docs/METRICS.md is checked against it.

mod table;
mod calls;
mod text;
mod process;
mod registry;
mod endpoint;
mod push;

pub(crate) use calls::{Calls, Operation, Rpc, Tally};
pub(crate) use endpoint::Endpoint;
pub(crate) use push::Push;
pub(crate) use registry::{Limit, Registry};
pub use table::{Kind, METRICS, Metric};
