//! Fixtures of the tests of the whole: real servers, real stores and foreign programs, started on free
//! loopback ports and ended when their handle is dropped.
//!
//! Invariants: nothing listens beyond loopback, every wait has a deadline, no process outlives its handle,
//! and a component that is missing is never passed over in silence.
//!
//! The modules stand in dependency order: a file uses only what stands above it.

pub mod require;

pub mod paths;

pub mod shared;

pub mod random;

pub mod daemon;

pub mod collector;

pub mod venv;

pub mod certs;

pub mod moto;

pub mod rclone;

pub mod docker;

pub mod binaries;

pub mod mmapd;

pub mod mmapctl;

pub mod wire;

pub mod scrape;

pub mod prometheus;

pub mod pipe;

pub mod raw;

pub mod failure;

pub mod snapshot;

pub mod readme;

pub mod history;

pub mod slots;

pub mod rooms;
