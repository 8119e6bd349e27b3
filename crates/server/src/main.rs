//! mmapd: memory-mapped files as a gRPC service. This file is the table of contents; the library does the work.

use std::process::ExitCode;
use std::time::Duration;

use mmap_server::config::{Config, Refusal};
use mmap_server::opening::ServerError;
use mmap_server::run::run;
use mmap_server::{signals, telemetry};

// Blocks of 64 KiB come and go at a high rate in several threads, which the system's allocator holds on to.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// It failed, or something could not be stored.
const FAILED: u8 = 1;
/// The configuration is wrong.
const WRONG: u8 = 2;

fn main() -> ExitCode {
    let config = match Config::read(std::env::args_os(), &|name| std::env::var_os(name)) {
        Ok(config) => config,
        // Help and version are answers, too: clap knows where each is printed and what its code is.
        Err(Refusal::CommandLine(answer)) => answer.exit(),
        Err(Refusal::Wrong(sentence)) => return refuse(&sentence, WRONG),
    };
    match serve(config) {
        Ok(code) => code,
        Err(error) => {
            let code = match error.downcast_ref::<ServerError>() {
                Some(ServerError::Config(_)) => WRONG,
                Some(ServerError::Failed(_)) | None => FAILED,
            };
            refuse(&format!("{error:#}"), code)
        }
    }
}

fn serve(config: Config) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(config.workers).enable_all().build()?;
    let report = runtime.block_on(async {
        let telemetry = telemetry::init(&config).map_err(ServerError::Config)?;
        let report = run(config, signals::stops()?).await;
        telemetry.finish().await;
        anyhow::Ok(report?)
    });
    // A blocking call into a store that hangs must not hold up the end: what it was to store is told already.
    runtime.shutdown_timeout(Duration::from_secs(1));
    Ok(if report?.is_clean() { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

fn refuse(sentence: &str, code: u8) -> ExitCode {
    eprintln!("mmapd: {sentence}");
    ExitCode::from(code)
}
