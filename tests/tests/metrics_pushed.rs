//! Metrics that go to a collector by OTLP: what a scrape has, with its kinds and values, and the last ones at the end.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::collections::BTreeMap;
use std::time::Duration;

use mmap_tests::collector::{Collector, Measured, Taking};
use mmap_tests::mmapd::Setup;
use mmap_tests::scrape::get;
use mmap_tests::wire::{Caller, eventually};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::metrics::v1::AggregationTemporality::Cumulative;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;

const SOON: Duration = Duration::from_secs(20);

fn is(attribute: &KeyValue, (key, text): (&str, &str)) -> bool {
    let value = attribute.value.as_ref().and_then(|value| value.value.as_ref());
    attribute.key == key && value == Some(&Any::StringValue(text.to_owned()))
}

fn data<'a>(measured: &'a Measured, name: &str) -> Option<&'a Data> {
    measured.metrics.iter().find(|metric| metric.name == name)?.data.as_ref()
}

/// The unary writes that were counted as done.
fn writes(measured: &Measured) -> Option<f64> {
    let Data::Sum(sum) = data(measured, "mmapd_calls_total")? else { return None };
    let mut points = sum.data_points.iter();
    let labels = [("method", "MmapWrite"), ("code", "OK")];
    let point = points.find(|point| point.attributes.iter().zip(labels).all(|(one, label)| is(one, label)))?;
    match point.value {
        Some(Value::AsDouble(number)) if point.time_unix_nano > point.start_time_unix_nano => Some(number),
        _ => None,
    }
}

/// The unary writes whose time was taken, by the buckets, which must come to their count.
fn timed_writes(measured: &Measured) -> Option<u64> {
    let Data::Histogram(histogram) = data(measured, "mmapd_call_seconds")? else { return None };
    assert_eq!(histogram.aggregation_temporality, Cumulative as i32);
    let point = histogram.data_points.iter().find(|point| is(&point.attributes[0], ("method", "MmapWrite")))?;
    assert_eq!(point.bucket_counts.len(), point.explicit_bounds.len() + 1);
    assert_eq!(point.bucket_counts.iter().sum::<u64>(), point.count);
    assert!(point.explicit_bounds.is_sorted() && point.sum.is_some_and(|sum| sum > 0.0));
    Some(point.count)
}

const fn kind(data: &Data) -> &'static str {
    match data {
        Data::Gauge(_) => "gauge",
        Data::Sum(sum) if sum.is_monotonic && sum.aggregation_temporality == Cumulative as i32 => "counter",
        Data::Histogram(_) => "histogram",
        Data::Sum(_) | Data::ExponentialHistogram(_) | Data::Summary(_) => "something else",
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_collector_is_sent_what_a_scrape_has_and_the_last_values_at_the_end() {
    let collector = Collector::start(Taking::Spans);
    let setup = Setup::new().args(["--metrics-listen", "127.0.0.1:0", "--otlp-endpoint", &collector.endpoint()]);
    let setup = setup.args(["--otlp-metrics", "1s", "--node", "n7"]);
    let server = setup.envs([("OTEL_EXPORTER_OTLP_METRICS_HEADERS", "x-tenant=a%20b")]).start();
    let caller = Caller::connect(server.addr(), 1).await;
    let id = caller.map_shared("/known", 4096).await;
    for _ in 0..3 {
        caller.write(id, 0, vec![7; 10]).await.unwrap();
    }
    let came = eventually("three writes at the collector", SOON, async || {
        let measured = collector.measured();
        (writes(&measured) == Some(3.0)).then_some(measured)
    })
    .await;
    assert_eq!(timed_writes(&came), Some(3));
    assert_eq!(came.tenant.as_deref(), Some("a b"));
    assert_eq!(came.resource["service.name"], "mmapd");
    assert_eq!(came.resource["mmap.node"], "n7");
    let sent: BTreeMap<&str, &str> = came
        .metrics
        .iter()
        .map(|metric| (metric.name.as_str(), metric.data.as_ref().map_or("nothing", kind)))
        .collect();
    let (_, text) = get(&server.metrics_addr(), "/metrics");
    let scraped: BTreeMap<&str, &str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
    assert_eq!(sent, scraped);
    let unit = |name: &str| came.metrics.iter().find(|metric| metric.name == name).map(|metric| metric.unit.as_str());
    assert_eq!((unit("mmapd_call_seconds"), unit("mmapd_written_bytes_total")), (Some("s"), Some("By")));

    caller.write(id, 0, vec![8; 10]).await.unwrap();
    let ended = server.sigterm();
    assert!(ended.status.success(), "{}", ended.stderr);
    assert_eq!(writes(&collector.measured()), Some(4.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn metrics_that_are_not_asked_for_are_not_sent() {
    let collector = Collector::start(Taking::Spans);
    let setup = Setup::new().args(["--otlp-endpoint", &collector.endpoint(), "--otlp-metrics", "off"]);
    let server = setup.args(["--trace-sample", "1"]).start();
    let caller = Caller::connect(server.addr(), 1).await;
    caller.map_shared("/known", 4096).await;
    collector.wait_for("the call's span", |spans| (!spans.is_empty()).then_some(()));
    assert!(server.sigterm().status.success());
    assert!(collector.measured().metrics.is_empty());
}
