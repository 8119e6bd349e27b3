//! The contract's services: thin handlers over the core. In dependency order.
//!
//! Deadlines, panics and the node's name are the guard's affair, around all of this.

mod told;
mod front;

mod ending;
mod attach;
mod conflicts;
mod data;
mod file;

mod pace;
mod work;
mod pipeline;
mod read_stream;
mod write_stream;
mod streams;

mod mmap;
mod process;

pub(crate) use data::{Data, Method, Progress};
pub(crate) use file::Files;
pub(crate) use front::Front;
pub(crate) use mmap::Mmaps;
pub(crate) use process::Processes;
pub(crate) use streams::Streaming;
