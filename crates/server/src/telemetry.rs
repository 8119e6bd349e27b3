//! The log: human-readable lines on standard error. What is logged never holds the bytes of a file.
//!
//! Only the program calls this: an embedder of the library has a subscriber of its own.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

/// What is logged where nothing else is asked for. Each retry of a store is news for who looks for it only:
/// what comes of them is logged here.
const DEFAULT_FILTER: &str = "info,object_store=warn";

/// Starts logging by `filter`, else by RUST_LOG.
///
/// # Errors
/// A sentence that says what is wrong with the filter.
pub fn init(filter: Option<&str>) -> Result<(), String> {
    let filter = read(filter)?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .try_init()
        .map_err(|error| format!("logging cannot start: {error}"))
}

/// Reads the filter and starts nothing.
///
/// # Errors
/// As [`init`], for the filter.
pub fn check(filter: Option<&str>) -> Result<(), String> {
    read(filter).map(|_| ())
}

fn read(filter: Option<&str>) -> Result<EnvFilter, String> {
    let from_env = std::env::var(EnvFilter::DEFAULT_ENV).ok().filter(|text| !text.is_empty());
    let text = filter.or(from_env.as_deref()).unwrap_or(DEFAULT_FILTER);
    EnvFilter::builder()
        .parse(text)
        .map_err(|error| format!("the log filter `{text}` cannot be read: {error}; write for example info"))
}
