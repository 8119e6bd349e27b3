//! [`Push`]: metrics on their way to a collector, by OTLP over gRPC, every so often.
//!
//! What is sent are the table's metrics with the values that they had since the start (cumulative), so that a request
//! which fails costs a point of the curve and nothing else. Invariants: one request at a time, which ends within
//! [`SEND_TIME`]; nobody waits for it but the end of the server, for [`LAST_TIME`]; failures are told at most once a
//! [`SILENCE`]. Made by hand for the reason that `text` is.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, HeaderValue};
use mmap_core::meter::{BOUNDS, Observed};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as Number;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, DataPointFlags, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint,
    ResourceMetrics, ScopeMetrics, Sum,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use percent_encoding::percent_decode_str;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use super::registry::Registry;
use super::table::Kind;
use super::text::{Families, Family, Value};
use crate::telemetry::resource;

/// How long a connection may take.
const CONNECT_TIME: Duration = Duration::from_secs(2);
/// How long a request may take.
const SEND_TIME: Duration = Duration::from_secs(5);
/// How long the end of the server waits for the last one.
const LAST_TIME: Duration = Duration::from_secs(2);
/// How often it is told at most that the collector takes nothing.
const SILENCE: Duration = Duration::from_secs(60);
/// Where OpenTelemetry's programs find headers for the collector, the first one that is set.
const HEADER_VARIABLES: [&str; 2] = ["OTEL_EXPORTER_OTLP_METRICS_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"];

/// The task that sends. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Push {
    stop: CancellationToken,
    task: AbortOnDropHandle<()>,
}

impl Push {
    /// Sends what `registry` gathers to the collector at `endpoint` each `period`, as that of `node`. Needs a runtime
    /// around it; connects later.
    ///
    /// # Errors
    /// A sentence that says why that cannot be.
    pub(crate) fn start(
        registry: Arc<Registry>,
        node: &str,
        (endpoint, period): (&str, Duration),
    ) -> Result<Self, String> {
        let channel = Endpoint::from_shared(endpoint.to_owned())
            .map_err(|error| format!("metrics cannot go to {endpoint}: {error}"))?;
        let channel = channel.connect_timeout(CONNECT_TIME).timeout(SEND_TIME).connect_lazy();
        let set = |name: &&str| std::env::var(name).ok().filter(|text| !text.is_empty());
        let headers = HEADER_VARIABLES.iter().find_map(set).map(|text| parse_headers(&text)).unwrap_or_default();
        let sender = Sender {
            registry,
            resource: resource_of(node),
            began: nanos(SystemTime::now()),
            collector: MetricsServiceClient::new(channel),
            headers: MetadataMap::from_headers(headers),
            endpoint: endpoint.to_owned(),
            told: None,
        };
        let stop = CancellationToken::new();
        let task = AbortOnDropHandle::new(tokio::spawn(sender.run(period, stop.clone())));
        Ok(Self { stop, task })
    }

    /// Sends once more, what was counted until the end, and ends.
    pub(crate) async fn finish(self) {
        self.stop.cancel();
        if timeout(LAST_TIME, self.task).await.is_err() {
            tracing::warn!("metrics: the collector did not take the last ones within {LAST_TIME:?}");
        }
    }
}

struct Sender {
    registry: Arc<Registry>,
    resource: Resource,
    /// Nanoseconds since 1970.
    began: u64,
    collector: MetricsServiceClient<Channel>,
    headers: MetadataMap,
    endpoint: String,
    /// When a failure was told.
    told: Option<Instant>,
}

impl Sender {
    async fn run(mut self, period: Duration, stop: CancellationToken) {
        let mut due = interval_at(Instant::now() + period, period);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let is_last = tokio::select! {
                _ = due.tick() => false,
                () = stop.cancelled() => true,
            };
            if let Err(why) = self.send().await {
                self.tell(&why);
            }
            if is_last {
                return;
            }
        }
    }

    async fn send(&mut self) -> Result<(), String> {
        let families = Arc::clone(&self.registry).families().await?;
        let metrics = metrics(families, self.began, nanos(SystemTime::now()));
        let scope = InstrumentationScope { name: "mmapd".to_owned(), ..InstrumentationScope::default() };
        let of_scope = ScopeMetrics { scope: Some(scope), metrics, schema_url: String::new() };
        let of_resource = ResourceMetrics {
            resource: Some(self.resource.clone()),
            scope_metrics: vec![of_scope],
            schema_url: String::new(),
        };
        let request = Request::from_parts(
            self.headers.clone(),
            tonic::Extensions::default(),
            ExportMetricsServiceRequest { resource_metrics: vec![of_resource] },
        );
        match timeout(SEND_TIME, self.collector.export(request)).await {
            Ok(Ok(answer)) => match answer.into_inner().partial_success {
                Some(part) if part.rejected_data_points > 0 => {
                    Err(format!("it refused {} points: {}", part.rejected_data_points, part.error_message))
                }
                _ => Ok(()),
            },
            Ok(Err(status)) => Err(why(&status)),
            Err(_) => Err(format!("it did not answer within {} s", SEND_TIME.as_secs())),
        }
    }

    fn tell(&mut self, why: &str) {
        if self.told.is_some_and(|told| told.elapsed() < SILENCE) {
            return;
        }
        let endpoint = &self.endpoint;
        tracing::warn!("metrics did not reach the collector {endpoint}: {why}; calls are not held up");
        self.told = Some(Instant::now());
    }
}

fn why(status: &Status) -> String {
    if status.code() == Code::Unimplemented {
        return "it takes no metrics; --otlp-metrics off sends none".to_owned();
    }
    format!("{:?}: {}", status.code(), status.message())
}

fn resource_of(node: &str) -> Resource {
    let attributes = resource(node).iter().map(|(key, value)| attribute(key.as_str(), &value.as_str())).collect();
    Resource { attributes, ..Resource::default() }
}

fn attribute(key: &str, value: &str) -> KeyValue {
    let value = Some(AnyValue { value: Some(Any::StringValue(value.to_owned())) });
    KeyValue { key: key.to_owned(), value, ..KeyValue::default() }
}

fn nanos(time: SystemTime) -> u64 {
    u64::try_from(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos()).unwrap_or(u64::MAX)
}

/// `key=value,key=value`, with percent signs for what cannot stand there. What cannot be a header is passed over.
fn parse_headers(text: &str) -> HeaderMap {
    let header = |pair: &str| {
        let (name, value) = pair.split_once('=')?;
        let value = percent_decode_str(value.trim()).decode_utf8().ok()?;
        Some((name.trim().parse::<HeaderName>().ok()?, HeaderValue::from_str(&value).ok()?))
    };
    text.split(',').filter_map(header).collect()
}

fn metrics(families: Families, began: u64, now: u64) -> Vec<Metric> {
    families.0.into_iter().map(|family| metric(family, began, now)).collect()
}

fn metric(Family { metric, samples }: Family, began: u64, now: u64) -> Metric {
    let (mut numbers, mut histograms) = (Vec::new(), Vec::new());
    for (labels, value) in samples {
        let attributes = metric.labels.iter().zip(&labels).map(|(name, value)| attribute(name, value)).collect();
        match value {
            Value::Number(number) => numbers.push(point(attributes, number, (began, now))),
            Value::Histogram(seen) => histograms.push(histogram(attributes, &seen, (began, now))),
        }
    }
    let cumulative = AggregationTemporality::Cumulative as i32;
    let data = match metric.kind {
        Kind::Gauge => Data::Gauge(Gauge { data_points: numbers }),
        Kind::Counter => {
            Data::Sum(Sum { data_points: numbers, aggregation_temporality: cumulative, is_monotonic: true })
        }
        Kind::Histogram => Data::Histogram(Histogram { data_points: histograms, aggregation_temporality: cumulative }),
    };
    Metric {
        name: metric.name.to_owned(),
        description: metric.help.to_owned(),
        unit: unit(metric.unit).to_owned(),
        data: Some(data),
        ..Metric::default()
    }
}

/// The unit as UCUM writes it, which OpenTelemetry asks for; what only counts has none.
fn unit(unit: &str) -> &'static str {
    match unit {
        "bytes" => "By",
        "seconds" | "seconds since 1970" => "s",
        _ => "",
    }
}

fn point(attributes: Vec<KeyValue>, number: f64, (began, now): (u64, u64)) -> NumberDataPoint {
    let unknown = number.is_nan();
    NumberDataPoint {
        attributes,
        start_time_unix_nano: began,
        time_unix_nano: now,
        flags: if unknown { DataPointFlags::NoRecordedValueMask as u32 } else { 0 },
        value: (!unknown).then_some(Number::AsDouble(number)),
        exemplars: Vec::new(),
    }
}

fn histogram(attributes: Vec<KeyValue>, seen: &Observed, (began, now): (u64, u64)) -> HistogramDataPoint {
    HistogramDataPoint {
        attributes,
        start_time_unix_nano: began,
        time_unix_nano: now,
        count: seen.buckets.iter().sum(),
        sum: Some(seen.total.as_secs_f64()),
        bucket_counts: seen.buckets.to_vec(),
        explicit_bounds: BOUNDS.iter().map(Duration::as_secs_f64).collect(),
        ..HistogramDataPoint::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_opentelemetry_writes_them_and_what_is_none_is_passed_over() {
        let headers = parse_headers("authorization=Bearer%20abc, x-tenant = 7 ,no header=1,alone,bad=%0a");
        assert_eq!(headers.len(), 2);
        assert_eq!(headers["authorization"], "Bearer abc");
        assert_eq!(headers["x-tenant"], "7");
        assert!(parse_headers("").is_empty());
    }

    #[test]
    fn a_number_that_is_not_known_is_a_point_without_a_value() {
        let unknown = point(Vec::new(), f64::NAN, (1, 2));
        assert_eq!((unknown.value, unknown.flags), (None, 1));
        let known = point(Vec::new(), 0.5, (1, 2));
        assert_eq!((known.value, known.flags), (Some(Number::AsDouble(0.5)), 0));
    }
}
