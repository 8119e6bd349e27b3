//! mmapd: memory-mapped files as a gRPC service. This file is the table of contents; the library does the work.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use mmap_server::checkup;
use mmap_server::config::{Asked, Config, HealthQuestion, Refusal, stray_variables};
use mmap_server::opening::{ServerError, check_files};
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
    let asked = match Asked::read(std::env::args_os(), &|name| std::env::var_os(name)) {
        Ok(asked) => asked,
        // Help and version are answers, too: clap knows where each is printed and what its code is.
        Err(Refusal::CommandLine(answer)) => answer.exit(),
        Err(Refusal::Wrong(sentence)) => return refuse(&sentence, WRONG),
    };
    let strays = stray_variables(std::env::vars_os().map(|(name, _)| name));
    match asked {
        Asked::Health(question) => health(&question),
        Asked::Check(config, text) => {
            strays.iter().for_each(|stray| eprintln!("mmapd: warning: {stray}"));
            check(&config, &text)
        }
        Asked::Serve(config) => served(*config, &strays),
    }
}

/// Tells how it would serve, and finds out what a start would refuse, as far as that touches nothing.
fn check(config: &Config, text: &str) -> ExitCode {
    match telemetry::check(config.log.as_deref()).and_then(|()| check_files(config)) {
        Ok(warnings) => {
            warnings.iter().for_each(|warning| eprintln!("mmapd: warning: {warning}"));
            // A reader that has seen enough is no failure.
            let _ = std::io::stdout().lock().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(sentence) => refuse(&sentence, WRONG),
    }
}

fn health(question: &HealthQuestion) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(checkup::ask(question)),
        Err(error) => Err(format!("it cannot be asked: {error}")),
    };
    match outcome {
        Ok(sentence) => {
            println!("{sentence}");
            ExitCode::SUCCESS
        }
        Err(sentence) => refuse(&sentence, FAILED),
    }
}

fn served(config: Config, strays: &[String]) -> ExitCode {
    match serve(config, strays) {
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

fn serve(config: Config, strays: &[String]) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(config.workers).enable_all().build()?;
    let report = runtime.block_on(async {
        let telemetry = telemetry::init(&config).map_err(ServerError::Config)?;
        strays.iter().for_each(|stray| tracing::warn!("{stray}"));
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
