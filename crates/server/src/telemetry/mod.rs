//! What is told of the server's work: the log, on standard error, and traces, to a collector. Neither ever holds the
//! bytes of a file or a token.
//!
//! Only the program calls [`init`]: an embedder of the library has a subscriber of its own. In dependency order.

pub(crate) mod ids;

mod export;
mod format;

use std::io::IsTerminal as _;
use std::time::Duration;

use mmap_core::trace::TARGET;
use tracing::subscriber::Interest;
use tracing::{Metadata, Subscriber};
use tracing_subscriber::filter::{DynFilterFn, LevelFilter};
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry};

use self::export::Export;
pub(crate) use self::export::resource;
use self::format::{Human, Json};
use crate::config::{Config, LogFormat};

/// What is logged where nothing else is asked for. Each retry of a store is news for who looks for it only:
/// what comes of them is logged here.
const DEFAULT_FILTER: &str = "info,object_store=warn";
/// How long the end waits for the collector.
const FLUSH_TIME: Duration = Duration::from_secs(2);

/// The span of a call: the only one of [`TARGET`] that needs none around it.
pub(crate) const CALL: &str = "call";

/// What was started, to be finished at the end.
#[derive(Debug)]
#[must_use = "spans that wait are sent by `finish`"]
pub struct Telemetry(Option<Export>);

impl Telemetry {
    /// Sends the spans that wait, within 2 s.
    pub async fn finish(self) {
        if let Some(export) = self.0 {
            export.finish(FLUSH_TIME).await;
        }
    }
}

/// Starts logging and tracing as configured; the log's filter is RUST_LOG where none is set. Needs a runtime around it.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn init(config: &Config) -> Result<Telemetry, String> {
    let filter = configured(config.log.as_deref())?;
    let format = config.telemetry.log_format;
    let export = config.telemetry.otlp_endpoint.as_deref();
    let export = export.map(|endpoint| Export::start(endpoint, &config.node)).transpose()?;
    let started = match &export {
        None => tracing_subscriber::registry().with(log(format, filter)).try_init(),
        Some(export) => {
            let spans = tracing_opentelemetry::layer()
                .with_tracer(export.tracer())
                .with_location(false)
                .with_threads(false)
                .with_level(false)
                .with_target(false)
                .with_tracked_inactivity(false)
                .with_context_activation(false)
                .with_filter(followed());
            tracing_subscriber::registry().with(spans).with(log(format, filter)).try_init()
        }
    };
    started.map_err(|error| format!("logging cannot start: {error}"))?;
    Ok(Telemetry(export))
}

/// Reads the log's filter and starts nothing.
///
/// # Errors
/// A sentence that says what is wrong with it.
pub fn check(log: Option<&str>) -> Result<(), String> {
    configured(log).map(|_| ())
}

fn configured(log: Option<&str>) -> Result<EnvFilter, String> {
    let from_env = std::env::var(EnvFilter::DEFAULT_ENV).ok().filter(|text| !text.is_empty());
    filter(log.or(from_env.as_deref()).unwrap_or(DEFAULT_FILTER))
}

/// What is logged. Spans are for traces: a line has their ids, and not their fields.
fn filter(text: &str) -> Result<EnvFilter, String> {
    let cannot = |error: &dyn std::fmt::Display| {
        format!("the log filter `{text}` cannot be read: {error}; write for example info")
    };
    let filter = EnvFilter::builder().parse(text).map_err(|error| cannot(&error))?;
    let no_spans = format!("{TARGET}=off").parse().map_err(|error| cannot(&error))?;
    Ok(filter.add_directive(no_spans))
}

fn log<S>(format: LogFormat, filter: EnvFilter) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
{
    let ansi = std::io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    match format {
        LogFormat::Human => lines.with_ansi(ansi).event_format(Human::new(ansi)).with_filter(filter).boxed(),
        LogFormat::Json => lines.with_ansi(false).event_format(Json).with_filter(filter).boxed(),
    }
}

type Enabled = fn(&Metadata<'_>, &Context<'_, Registry>) -> bool;
type Callsite = fn(&'static Metadata<'static>) -> Interest;

/// Lets the spans of calls through, and below them all others of ours: what is done for no call that is followed has
/// no span, and costs one look at the thread's current one.
fn followed() -> DynFilterFn<Registry, Enabled, Callsite> {
    fn is_ours(metadata: &Metadata<'_>) -> bool {
        metadata.is_span() && metadata.target() == TARGET
    }
    let enabled: Enabled =
        |metadata, cx| is_ours(metadata) && (metadata.name() == CALL || cx.lookup_current().is_some());
    let callsite: Callsite = |metadata| if is_ours(metadata) { Interest::sometimes() } else { Interest::never() };
    DynFilterFn::new(enabled).with_callsite_filter(callsite).with_max_level_hint(LevelFilter::INFO)
}
