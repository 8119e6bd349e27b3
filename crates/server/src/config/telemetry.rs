//! [`Telemetry`]: how the log is written, which calls are traced to where, and where metrics go.
//!
//! Neither traces nor metrics are sent unless a collector is named: by our own setting, else by the variables that
//! OpenTelemetry's programs share. Nothing is connected to here.

use std::time::Duration;

use http::Uri;
use http::uri::Scheme;

use super::quantity::parse_time;
use super::refusal::Refusal;
use super::sources::{Env, Settings};

/// Calls without a parent that are traced, where nothing else is said: enough to see what is slow, few enough to be
/// free.
const SAMPLE: f64 = 0.01;
/// How often metrics go, where nothing else is said: OpenTelemetry's own default.
const METRICS_PERIOD: Duration = Duration::from_secs(60);
/// More often is work without news.
const METRICS_PERIOD_MIN: Duration = Duration::from_secs(1);
/// Where OpenTelemetry's programs look, for their traces and for all.
const TRACES_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
const METRICS_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT";
const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// How the log's lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Human,
    /// An object a line.
    Json,
}

/// What is told of the server's work, and to whom.
#[derive(Clone, Debug, PartialEq)]
pub struct Telemetry {
    /// How the log's lines look.
    pub log_format: LogFormat,
    /// The collector that traces go to, as `http://host:port`. `None`: there are no traces.
    pub otlp_endpoint: Option<String>,
    /// The part of the calls without a parent that is traced, 0 to 1.
    pub trace_sample: f64,
    /// The collector that metrics go to, and how often. `None`: they are not sent.
    pub otlp_metrics: Option<(String, Duration)>,
}

impl Telemetry {
    /// Reads the settings.
    ///
    /// # Errors
    /// What is wrong, with where it stands.
    pub(super) fn read(settings: &Settings, env: &Env<'_>) -> Result<Self, Refusal> {
        let (otlp_endpoint, metrics_endpoint) = match settings.one("otlp-endpoint", parse_endpoint)? {
            Some(endpoint) => (endpoint.clone(), endpoint),
            None => (shared_endpoint(env, TRACES_ENDPOINT)?, shared_endpoint(env, METRICS_ENDPOINT)?),
        };
        let period = settings.one("otlp-metrics", parse_period)?.unwrap_or(Some(METRICS_PERIOD));
        Ok(Self {
            log_format: settings.one("log-format", parse_format)?.unwrap_or_default(),
            otlp_endpoint,
            trace_sample: settings.one("trace-sample", parse_ratio)?.unwrap_or(SAMPLE),
            otlp_metrics: metrics_endpoint.zip(period),
        })
    }
}

/// What the variables of all programs say: `first`, else the one for everything. An empty one is one that is not set.
fn shared_endpoint(env: &Env<'_>, first: &str) -> Result<Option<String>, Refusal> {
    let set = |name: &str| env(name).filter(|value| !value.is_empty()).map(|value| (name.to_owned(), value));
    let Some((name, value)) = set(first).or_else(|| set(ENDPOINT)) else { return Ok(None) };
    parse_endpoint(&value.to_string_lossy()).map_err(|sentence| Refusal::Wrong(format!("{name}: {sentence}")))
}

/// `off` is none, whatever the variables say.
fn parse_endpoint(text: &str) -> Result<Option<String>, String> {
    if text == "off" {
        return Ok(None);
    }
    let full = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let uri: Uri = full.parse().map_err(|_| not_an_endpoint(text))?;
    match uri.scheme() {
        Some(scheme) if *scheme == Scheme::HTTP => {}
        Some(scheme) if *scheme == Scheme::HTTPS => {
            return Err(format!(
                "`{text}` asks for TLS, which is not spoken to a collector: name a collector on this machine or in this pod, \
                 which sends them on"
            ));
        }
        _ => return Err(not_an_endpoint(text)),
    }
    let is_bare = uri.path_and_query().is_none_or(|rest| rest == "/");
    match uri.authority() {
        Some(authority) if is_bare && !authority.host().is_empty() && !authority.as_str().contains('@') => {
            Ok(Some(format!("http://{authority}")))
        }
        _ => Err(not_an_endpoint(text)),
    }
}

fn not_an_endpoint(text: &str) -> String {
    let text = text.escape_debug();
    format!("`{text}` is not a collector's address: write http://host:port, where it takes OTLP over gRPC, or off")
}

/// `off` is none.
fn parse_period(text: &str) -> Result<Option<Duration>, String> {
    match text {
        "off" => Ok(None),
        _ => match parse_time(text)? {
            period if period < METRICS_PERIOD_MIN => Err(format!("`{text}` is too often: write 1s or more, or off")),
            period => Ok(Some(period)),
        },
    }
}

fn parse_ratio(text: &str) -> Result<f64, String> {
    let ratio = text.parse::<f64>().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
    ratio.ok_or_else(|| format!("`{text}` is not a part of the calls: write a number from 0 to 1, such as 0.01"))
}

fn parse_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "human" => Ok(LogFormat::Human),
        "json" => Ok(LogFormat::Json),
        _ => Err(format!("`{text}` is not a format of the log: it is one of human, json")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_is_a_host_with_a_port_and_nothing_more() {
        for (text, endpoint) in [
            ("http://127.0.0.1:4317", Some("http://127.0.0.1:4317")),
            ("http://otel:4317/", Some("http://otel:4317")),
            ("collector:4317", Some("http://collector:4317")),
            ("http://[::1]:4317", Some("http://[::1]:4317")),
            ("off", None),
        ] {
            assert_eq!(parse_endpoint(text), Ok(endpoint.map(str::to_owned)), "{text}");
        }
        for text in ["", "http://", "ftp://a:1", "http://a:1/v1/traces", "http://user:secret@a:1", "a b:1", "http://:1"]
        {
            assert!(parse_endpoint(text).is_err_and(|sentence| sentence.contains("http://host:port")), "{text}");
        }
        assert!(parse_endpoint("https://a:4317").is_err_and(|sentence| sentence.contains("TLS")));
    }

    #[test]
    fn metrics_go_once_a_second_at_most_or_not_at_all() {
        assert_eq!(parse_period("10s"), Ok(Some(Duration::from_secs(10))));
        assert_eq!(parse_period("off"), Ok(None));
        for text in ["", "0s", "999ms", "often"] {
            assert!(parse_period(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_ratio_is_between_0_and_1() {
        for (text, ratio) in [("0", 0.0), ("1", 1.0), ("0.25", 0.25), ("1e-3", 0.001)] {
            assert_eq!(parse_ratio(text), Ok(ratio));
        }
        for text in ["", "-0.1", "1.1", "NaN", "inf", "1%"] {
            assert!(parse_ratio(text).is_err(), "{text}");
        }
    }
}
