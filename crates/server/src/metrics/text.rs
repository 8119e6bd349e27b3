//! [`Families`]: samples of the table's metrics, and Prometheus' text format (version 0.0.4) for them.
//!
//! Made by hand, because what is told is computed when it is asked for: a registry of a library would be one more
//! place to keep it in.

use std::fmt::Write as _;

use mmap_core::meter::{BOUNDS, Observed};

use super::table::{Kind, Metric};

/// What a metric has for one set of labels.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Number(f64),
    Histogram(Observed),
}

/// A metric with its samples: the values of its labels, in the order of their names, and what it has for them.
#[derive(Clone, Debug)]
pub(super) struct Family {
    pub(super) metric: &'static Metric,
    pub(super) samples: Vec<(Vec<String>, Value)>,
}

/// Metrics with their samples.
#[derive(Debug, Default)]
pub(super) struct Families(pub(super) Vec<Family>);

impl Families {
    /// Adds a sample. Those of one metric come one after the other.
    pub(super) fn add<const N: usize>(&mut self, metric: &'static Metric, labels: [&str; N], value: Value) {
        debug_assert_eq!(labels.len(), metric.labels.len(), "{}", metric.name);
        let sample = (labels.map(str::to_owned).to_vec(), value);
        match self.0.last_mut() {
            Some(family) if family.metric == metric => family.samples.push(sample),
            _ => self.0.push(Family { metric, samples: vec![sample] }),
        }
    }

    /// Adds a whole number, which is exact up to 2^53.
    pub(super) fn count<const N: usize>(&mut self, metric: &'static Metric, labels: [&str; N], count: u64) {
        self.add(metric, labels, Value::Number(count as f64));
    }

    /// Adds a number.
    pub(super) fn number<const N: usize>(&mut self, metric: &'static Metric, labels: [&str; N], number: f64) {
        self.add(metric, labels, Value::Number(number));
    }

    /// Adds what a histogram has seen.
    pub(super) fn histogram<const N: usize>(&mut self, metric: &'static Metric, labels: [&str; N], seen: Observed) {
        self.add(metric, labels, Value::Histogram(seen));
    }

    /// All of it as text.
    pub(super) fn text(&self) -> String {
        let mut out = String::with_capacity(64 << 10);
        for Family { metric, samples } in &self.0 {
            let Metric { name, kind, help, .. } = metric;
            // Writing to a string cannot fail.
            let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} {}\n", kind.as_str());
            for (labels, value) in samples {
                let labels: Vec<String> = metric
                    .labels
                    .iter()
                    .zip(labels)
                    .map(|(name, value)| format!("{name}=\"{}\"", escaped(value)))
                    .collect();
                match value {
                    Value::Number(number) => line(&mut out, name, "", &labels.join(","), *number),
                    Value::Histogram(seen) => histogram(&mut out, name, &labels, seen),
                }
            }
        }
        out
    }
}

fn line(out: &mut String, name: &str, suffix: &str, labels: &str, value: f64) {
    let _ = match labels {
        "" => writeln!(out, "{name}{suffix} {value}"),
        labels => writeln!(out, "{name}{suffix}{{{labels}}} {value}"),
    };
}

fn histogram(out: &mut String, name: &str, labels: &[String], seen: &Observed) {
    let bounds = BOUNDS.iter().map(|bound| bound.as_secs_f64().to_string()).chain(["+Inf".to_owned()]);
    let mut so_far = 0;
    for (bound, count) in bounds.zip(seen.buckets) {
        so_far += count;
        let labels: Vec<String> = labels.iter().cloned().chain([format!("le=\"{bound}\"")]).collect();
        line(out, name, "_bucket", &labels.join(","), so_far as f64);
    }
    let labels = labels.join(",");
    line(out, name, "_sum", &labels, seen.total.as_secs_f64());
    // Of the buckets, and not counted apart: the two must agree whatever is added meanwhile.
    line(out, name, "_count", &labels, so_far as f64);
}

/// A label's value as the format wants it.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

impl Kind {
    /// Whether a value can be one of a metric that behaves so.
    #[cfg(test)]
    pub(super) fn fits(self, value: &Value) -> bool {
        match self {
            Self::Counter | Self::Gauge => matches!(value, Value::Number(_)),
            Self::Histogram => matches!(value, Value::Histogram(_)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mmap_core::meter::Histogram;

    use super::*;
    use crate::metrics::table::{CALL_SECONDS, MOUNT_UP, UPTIME};

    #[test]
    fn samples_are_written_as_prometheus_reads_them() {
        let mut families = Families::default();
        families.number(&UPTIME, [], 1.5);
        families.count(&MOUNT_UP, ["/a\"\\\n"], 1);
        families.count(&MOUNT_UP, ["/b"], 0);
        let text = families.text();
        assert!(text.contains("# TYPE mmapd_uptime_seconds gauge\nmmapd_uptime_seconds 1.5\n"), "{text}");
        assert!(text.contains("mmapd_mount_up{mount=\"/a\\\"\\\\\\n\"} 1\nmmapd_mount_up{mount=\"/b\"} 0\n"), "{text}");
        assert_eq!(text.matches("# HELP mmapd_mount_up ").count(), 1);
    }

    #[test]
    fn a_histograms_buckets_add_up_and_its_bounds_are_seconds() {
        let histogram = Histogram::default();
        for micros in [5, 20, 20, 60_000_000] {
            histogram.observe(Duration::from_micros(micros));
        }
        let mut families = Families::default();
        families.histogram(&CALL_SECONDS, ["Mmap"], histogram.observed());
        let text = families.text();
        for line in [
            "mmapd_call_seconds_bucket{method=\"Mmap\",le=\"0.00001\"} 1",
            "mmapd_call_seconds_bucket{method=\"Mmap\",le=\"0.000025\"} 3",
            "mmapd_call_seconds_bucket{method=\"Mmap\",le=\"30\"} 3",
            "mmapd_call_seconds_bucket{method=\"Mmap\",le=\"+Inf\"} 4",
            "mmapd_call_seconds_sum{method=\"Mmap\"} 60.000045",
            "mmapd_call_seconds_count{method=\"Mmap\"} 4",
        ] {
            assert!(text.lines().any(|written| written == line), "{line} is not in\n{text}");
        }
    }
}
