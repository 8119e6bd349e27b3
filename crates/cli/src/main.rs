//! `mmapctl`: remote memory-mapped files for people and scripts.
//!
//! This file is the table of contents: what is shared, then one file a command (or a small family). Each command's
//! file has its arguments, with the help that people read, and its `run`.

// In dependency order: a module uses only what stands above it.
mod exit;
mod units;
mod output;
mod report;
mod context;
mod transfer;
mod migrate;
mod commands;
mod cli;

use std::process::ExitCode;

use clap::Parser;

// Pieces of a megabyte come and go with every file that is copied: the system's allocator gives them back to the kernel
// and faults them in again, which halves the speed.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let reporter = cli.reporter();
    match cli.run() {
        Ok(()) => exit::Exit::Ok.into(),
        Err(error) => reporter.report(&error).into(),
    }
}
