//! docs/METRICS.md tells the truth: its rows are the metrics of the code, in order and in both directions; and
//! dashboards and alerts ask for nothing that there is not.

use std::collections::BTreeSet;

use mmap_server::metrics::METRICS;

const PAGE: &str = include_str!("../../../docs/METRICS.md");
const DASHBOARD: &str = include_str!("../../../deploy/grafana/dashboards/mmapd.json");
const ALERTS: &str = include_str!("../../../deploy/prometheus/alerts.yml");

/// Columns of the page's tables: metric, type, unit, labels, meaning, what to do when it is bad.
const COLUMNS: usize = 6;

fn rows(page: &str) -> Vec<Vec<&str>> {
    let lines = page.lines().filter(|line| line.starts_with("| `mmapd_")).map(|line| line.trim_matches('|'));
    lines.map(|line| line.split('|').map(str::trim).collect()).collect()
}

/// The names of metrics in `text`, without what a histogram's series add to its name.
fn asked_for(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let names = words.filter(|word| word.starts_with("mmapd_"));
    let base = |name: &str| {
        ["_bucket", "_sum", "_count"]
            .iter()
            .filter_map(|suffix| name.strip_suffix(suffix))
            .find(|base| METRICS.iter().any(|metric| metric.name == *base))
            .unwrap_or(name)
            .to_owned()
    };
    names.map(base).collect()
}

#[test]
fn the_page_has_every_metric_as_the_code_has_it_in_its_order() {
    let written: Vec<[String; 5]> = rows(PAGE)
        .iter()
        .map(|cells| {
            assert_eq!(cells.len(), COLUMNS, "{cells:?}");
            assert!(cells[5].len() > 10, "{} does not say what to do", cells[0]);
            std::array::from_fn(|column| cells[column].to_owned())
        })
        .collect();
    let in_code: Vec<[String; 5]> = METRICS
        .iter()
        .map(|metric| {
            let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
            let name = format!("`{}`", metric.name);
            let kind = metric.kind.as_str().to_owned();
            [name, kind, metric.unit.to_owned(), labels.join(", "), metric.help.to_owned()]
        })
        .collect();
    for (page, code) in written.iter().zip(&in_code) {
        assert_eq!(page, code);
    }
    assert_eq!(written.len(), in_code.len(), "rows of the page, and metrics of the code");
}

#[test]
fn dashboard_and_alerts_ask_for_metrics_that_there_are() {
    let known: BTreeSet<String> = METRICS.iter().map(|metric| metric.name.to_owned()).collect();
    for text in [DASHBOARD, ALERTS] {
        let asked = asked_for(text);
        assert!(asked.len() > 10, "{asked:?}");
        let unknown: Vec<_> = asked.difference(&known).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
    }
}

#[test]
fn every_alert_is_on_the_page() {
    let alerts: Vec<&str> = ALERTS.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() > 10, "{alerts:?}");
    for alert in alerts {
        assert!(PAGE.contains(&format!("`{alert}`")), "{alert} is not on the page");
    }
}

#[test]
fn the_reading_of_the_files_can_fail() {
    assert_eq!(rows("| `mmapd_x` | gauge | 1 | | what | do |\n| other | row |\n")[0][..2], ["`mmapd_x`", "gauge"]);
    let asked = asked_for("rate(mmapd_call_seconds_bucket[5m]) / mmapd_nothing_count{a=\"b\"}");
    assert_eq!(asked.into_iter().collect::<Vec<_>>(), ["mmapd_call_seconds", "mmapd_nothing_count"]);
}
