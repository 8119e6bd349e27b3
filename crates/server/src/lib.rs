//! mmap-server: the core's syscalls as a gRPC service. The program is `mmapd`.
//!
//! [`Server`](server::Server) binds and serves in-process, [`run`](run::run) is the program's life. The crate
//! owns the transport: configuration, identity, errors on the wire, deadlines, health, shutdown. It holds no
//! file's bytes and knows no store.
//!
//! The modules stand in dependency order: a file uses only what stands above it.

pub mod config;
pub mod telemetry;

mod auth;
mod identity;
pub mod status;

mod traces;

mod convert;
mod meter;

#[allow(dead_code, unused_imports, reason = "the streaming methods use the rest of it")]
mod wire;

mod tls;

pub mod checkup;
pub mod metrics;

mod connection;
mod layers;
mod service;

mod entry;
mod health;
mod listener;
mod transport;

pub mod opening;
pub mod server;
#[cfg(feature = "test-support")]
pub mod harness;
pub mod signals;

mod banner;
pub mod run;
