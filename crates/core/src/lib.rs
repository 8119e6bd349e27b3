//! mmap-core: memory-mapped files over object storage.
//!
//! [`MmapManager`](manager::MmapManager) is the crate's face: the syscalls mmap, read, write, msync, munmap
//! and stats over files that lie in mounted stores. What the crate owns is the page cache, the commit
//! protocol and the sharing. It knows no gRPC, no configuration files and no command line.
//!
//! The modules stand in dependency order: a file uses only what stands above it, and never imports through
//! the crate root. A test keeps that true.

pub mod trace;
pub mod error;
pub mod units;
pub mod limits;
pub mod capability;
pub mod path;
pub mod scope;
pub mod flags;
pub mod caller;
pub mod meter;
pub mod vfs;
pub mod budget;
pub mod subject;
pub mod journal;
pub mod backlog;
pub mod slices;
pub mod block;
pub mod cache;
pub mod spill;
pub mod overlay;
pub mod private;
pub mod aside;
pub mod state;
pub mod readahead;
pub mod shared;
pub mod file;
pub mod table;
pub mod process;
pub mod mapping;
pub mod writeback;
pub mod manager;
