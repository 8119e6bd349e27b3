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

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let reporter = cli.reporter();
    match cli.run() {
        Ok(()) => exit::Exit::Ok.into(),
        Err(error) => reporter.report(&error).into(),
    }
}
