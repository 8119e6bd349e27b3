//! Metrics over the wire: a scrape tells what was done, and the real Prometheus has data for each query of the
//! dashboard and each alert after a workload that touches everything.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use mmap_proto::v1;
use mmap_proto::v1::mmap_pipeline_request::Op;
use mmap_tests::mmapd::{Mmapd, Setup};
use mmap_tests::moto::Moto;
use mmap_tests::paths;
use mmap_tests::pipe::{self, Pipe};
use mmap_tests::prometheus::{Prometheus, SCRAPED};
use mmap_tests::require::available;
use mmap_tests::scrape::{Scrape, get, request, try_get};
use mmap_tests::wire::{Caller, eventually, map_request};
use object_store::ObjectStoreExt as _;
use serde_json::Value;
use tonic::Code;

/// Where the picture of the dashboard is to be drawn, if it is; the workload then takes its time.
const PICTURE: &str = "MMAP_DASHBOARD";
const PAGE: usize = 4096;

fn setup() -> Setup {
    Setup::new().args(["--metrics-listen", "127.0.0.1:0"])
}

fn deploy(path: &str) -> PathBuf {
    paths::workspace().join("deploy").join(path)
}

#[tokio::test]
async fn a_scrape_after_known_calls_shows_what_they_did() {
    let server = setup().start();
    let addr = server.metrics_addr();
    let caller = Caller::connect(server.addr(), 1).await;
    let id = caller.map_shared("/known", 4 << 20).await;
    for _ in 0..5 {
        caller.write(id, 0, vec![7; PAGE]).await.unwrap();
    }
    for _ in 0..7 {
        caller.read(id, 0, 100).await.unwrap();
    }
    assert_eq!(caller.read(id + 1, 0, 1).await.unwrap_err().code(), Code::NotFound);
    let mut pipe = Pipe::open(&caller, 16).await;
    for _ in 0..4 {
        pipe.send(pipe::read(id, 0, 10));
    }
    pipe.send(pipe::write(id, 9000, vec![1; 3]));
    pipe.send(Op::MmapStats(v1::MmapStatsRequest { mmap_id: id + 1 }));
    for _ in 0..6 {
        pipe.next().await;
    }
    let before = Scrape::of(&addr);
    for (series, value) in [
        ("mmapd_calls_total{method=\"Mmap\",code=\"OK\"}", 1.0),
        ("mmapd_calls_total{method=\"MmapWrite\",code=\"OK\"}", 5.0),
        ("mmapd_calls_total{method=\"MmapRead\",code=\"OK\"}", 7.0),
        ("mmapd_calls_total{method=\"MmapRead\",code=\"NOT_FOUND\"}", 1.0),
        ("mmapd_calls_total{method=\"MmapPipeline\",code=\"OK\"}", 0.0),
        ("mmapd_call_seconds_count{method=\"MmapRead\"}", 8.0),
        ("mmapd_pipeline_operations_total{operation=\"mmap_read\",code=\"OK\"}", 4.0),
        ("mmapd_pipeline_operations_total{operation=\"mmap_write\",code=\"OK\"}", 1.0),
        ("mmapd_pipeline_operations_total{operation=\"mmap_stats\",code=\"NOT_FOUND\"}", 1.0),
        ("mmapd_streams{method=\"MmapPipeline\"}", 1.0),
        ("mmapd_read_bytes_total", 740.0),
        ("mmapd_written_bytes_total", (5 * PAGE + 3) as f64),
        ("mmapd_mappings", 1.0),
        ("mmapd_processes", 1.0),
        ("mmapd_limit_used{limit=\"mappings\"}", 1.0),
        ("mmapd_unsynced_bytes{mount=\"/\"}", (2 * PAGE) as f64),
        ("mmapd_at_risk_bytes{event=\"kill\"}", 0.0),
        ("mmapd_at_risk_bytes{event=\"power_loss\"}", (2 * PAGE) as f64),
        ("mmapd_write_back_seconds_count", 0.0),
        ("mmapd_store_written_bytes_total{mount=\"/\"}", 0.0),
        ("mmapd_mount_up{mount=\"/\"}", 1.0),
    ] {
        assert_eq!(before.value(series), value, "{series}");
    }
    assert!(before.value("mmapd_unsynced_age_seconds{mount=\"/\"}") > 0.0);
    assert!(before.value("mmapd_journal_written_bytes_total") > (6 * PAGE) as f64, "a page for each write");
    drop(pipe);
    assert_eq!(caller.msync(id).await.unwrap().synced_bytes, (2 * PAGE) as u64);
    caller.munmap(id).await.unwrap();
    let after = Scrape::of(&addr);
    for (series, value) in [
        ("mmapd_unsynced_bytes{mount=\"/\"}", 0.0),
        ("mmapd_at_risk_bytes{event=\"power_loss\"}", 0.0),
        ("mmapd_write_back_seconds_count", 1.0),
        ("mmapd_write_back_bytes_total", (2 * PAGE) as f64),
        ("mmapd_store_written_bytes_total{mount=\"/\"}", (2 * PAGE) as f64),
        ("mmapd_mappings", 0.0),
    ] {
        assert_eq!(after.value(series), value, "{series}");
    }
    for kind in ["minor", "major"] {
        let series = format!("mmapd_faults_total{{kind=\"{kind}\"}}");
        assert!(after.value(&series) >= before.value(&series), "{kind}: those of an ended mapping stay");
    }
    eventually("the pipeline is over", Duration::from_secs(10), async || {
        (Scrape::of(&addr).value("mmapd_streams{method=\"MmapPipeline\"}") == 0.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_endpoint_answers_what_it_has_and_bounds_its_callers() {
    let server = setup().start();
    let addr = server.metrics_addr();
    assert_eq!(get(&addr, "/healthz"), (200, "serving\n".to_owned()));
    for target in ["/", "/metric", "/metrics/", "/healthz/x"] {
        assert_eq!(get(&addr, target).0, 404, "{target}");
    }
    assert_eq!(request(&addr, "POST /metrics HTTP/1.0\r\nContent-Length: 0\r\n\r\n").0, 404);
    // As many as there may be, none of which says anything: they are cut off, and then others are served.
    let started = Instant::now();
    let idle: Vec<_> = (0..40).map(|_| std::net::TcpStream::connect(&addr).unwrap()).collect();
    eventually("others are served", Duration::from_secs(20), async || {
        try_get(&addr, "/healthz").is_ok_and(|(status, _)| status == 200).then_some(())
    })
    .await;
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    drop(idle);
    assert!(server.sigterm().status.success());
}

#[tokio::test]
async fn health_says_that_the_server_stops_while_it_drains() {
    let Some(moto) = available(Moto::start()) else { return };
    let server = setup().mount("/s3", &moto.mount_url("drain")).envs(Moto::ENV).start();
    let addr = server.metrics_addr();
    let caller = Caller::connect(server.addr(), 1).await;
    let id = caller.map_shared("/s3/file", 100).await;
    caller.write(id, 0, &b"unsynced"[..]).await.unwrap();
    moto.pause();
    let stopping = std::thread::spawn(move || server.sigterm());
    eventually("it says so", Duration::from_secs(10), async || {
        try_get(&addr, "/healthz").is_ok_and(|(status, _)| status == 503).then_some(())
    })
    .await;
    assert!(Scrape::of(&addr).value("mmapd_serving") == 0.0);
    moto.resume();
    assert!(stopping.join().unwrap().status.success());
}

#[tokio::test]
async fn prometheus_has_data_for_every_query_of_the_dashboard_and_every_alert() {
    let Some(moto) = available(Moto::start()) else { return };
    let server = setup().mount("/", "memory:").mount("/s3", &moto.mount_url("files")).envs(Moto::ENV);
    let server = server.args(["--memory", "128MiB"]).start();
    let addr = server.metrics_addr();
    let Some(prometheus) = available(Prometheus::start(&deploy("prometheus"), &addr)) else { return };
    let picture = std::env::var_os(PICTURE).map(PathBuf::from);
    let lasting = Duration::from_secs(if picture.is_some() { 120 } else { 8 });
    work(&server, &moto, lasting, picture.is_some()).await;
    tokio::time::sleep(SCRAPED).await;

    let mut wanting = Vec::new();
    let queries = dashboard_queries();
    assert!(queries.len() > 40, "{}", queries.len());
    for (panel, query) in &queries {
        match prometheus.query(query) {
            Ok(values) if values.iter().any(|value| !value.is_nan()) => {}
            Ok(values) => wanting.push(format!("{panel}: no data: {values:?}: {query}")),
            Err(error) => wanting.push(format!("{panel}: {error}: {query}")),
        }
    }
    let rules = prometheus.rules().unwrap();
    assert!(rules.len() > 10, "{rules:?}");
    for [name, query, health, error] in &rules {
        // What the alert looks at, without the bound that it has for it.
        let operators = [" == ", " > ", " < "];
        let bound = operators.iter().filter_map(|operator| query.rfind(operator)).max().unwrap_or(query.len());
        let seen = prometheus.query(&query[..bound]);
        if health != "ok" || !seen.as_ref().is_ok_and(|values| values.iter().any(|value| !value.is_nan())) {
            wanting.push(format!("{name}: {health} {error} {seen:?}: {query}"));
        }
    }
    assert!(wanting.is_empty(), "\n{}", wanting.join("\n"));
    let drawn = draw(&prometheus, picture);
    for title in titles() {
        assert!(drawn.contains(&title.replace('&', "&amp;")), "{title} is not drawn");
    }
    assert!(!drawn.contains("no data"), "each panel that has a query has data");
}

/// Draws the dashboard from what Prometheus has, and answers the drawing.
fn draw(prometheus: &Prometheus, picture: Option<PathBuf>) -> String {
    let folder = tempfile::tempdir().unwrap();
    let seconds = if picture.is_some() { "150" } else { "30" };
    let path = picture.unwrap_or_else(|| folder.path().join("dashboard.svg"));
    let mut command = Command::new("python3");
    command.arg(deploy("grafana/render")).arg(deploy("grafana/dashboards/mmapd.json"));
    let status = command.args([&prometheus.url(), "--seconds", seconds, "--out"]).arg(&path).status().unwrap();
    assert!(status.success(), "{status}");
    std::fs::read_to_string(path).unwrap()
}

fn dashboard() -> Value {
    let text = std::fs::read_to_string(deploy("grafana/dashboards/mmapd.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// The panels' queries as Grafana would send them, each with its panel's title.
fn dashboard_queries() -> Vec<(String, String)> {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap();
    let queries = panels.iter().flat_map(|panel| {
        let title = panel["title"].as_str().unwrap().to_owned();
        let targets = panel["targets"].as_array().cloned().unwrap_or_default();
        targets.into_iter().map(move |target| (title.clone(), target["expr"].as_str().unwrap().to_owned()))
    });
    let filled = |query: String| query.replace("$instance", ".*").replace("$__rate_interval", "30s");
    queries.map(|(title, query)| (title, filled(query))).collect()
}

fn titles() -> BTreeSet<String> {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap();
    panels.iter().map(|panel| panel["title"].as_str().unwrap().to_owned()).collect()
}

/// Touches everything that is counted, again and again for some time.
async fn work(server: &Mmapd, moto: &Moto, lasting: Duration, stop_the_store: bool) {
    let caller = Caller::connect(server.addr(), 1).await;
    let mut service = caller.process_service();
    let attach = v1::AttachRequest { pid: Some(1), name: "worker".into() };
    let mut attached = service.attach(caller.request(attach)).await.unwrap().into_inner();
    assert_eq!(attached.next().await.unwrap().unwrap().pid, 1);
    let (local, s3) = (caller.map_shared("/local", 8 << 20).await, caller.map_shared("/s3/file", 2 << 20).await);
    let private = v1::MmapRequest { shared: false, ..map_request("/local", 1 << 20) };
    let private = caller.mmap(private).await.unwrap().mmap_id;
    // All of it in memory, so that a store that stops holds nobody up.
    caller.read(s3, 0, 2 << 20).await.unwrap();
    // What only the store has, to be read for the first time.
    let cold = object_store::path::Path::from("files/cold");
    moto.store().put(&cold, vec![1; 4 << 20].into()).await.unwrap();
    let (started, mut round, mut is_stopped) = (Instant::now(), 0u64, false);
    while started.elapsed() < lasting {
        let offset = round * 4096 % (512 << 10);
        unary(&caller, [local, s3, private], offset).await;
        streams(&caller, local, offset).await;
        let is_time = started.elapsed() > lasting / 2 && started.elapsed() < lasting / 2 + Duration::from_secs(15);
        if stop_the_store && is_time != is_stopped {
            is_stopped = is_time;
            if is_stopped { moto.pause() } else { moto.resume() }
        }
        if !is_stopped {
            stores(&caller, moto, [local, s3], round).await;
        }
        round += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Left as it is: unsynced, and in conflict.
    caller.write(local, 0, vec![1; 3 * PAGE]).await.unwrap();
    let mut pipe = Pipe::open(&caller, 4).await;
    pipe.send(Op::Msync(v1::MsyncRequest { mmap_id: s3, ..Default::default() }));
    pipe.next().await;
}

async fn unary(caller: &Caller, [local, s3, private]: [u64; 3], offset: u64) {
    for id in [local, s3, private] {
        caller.write(id, offset, vec![3; 2 * PAGE]).await.unwrap();
        caller.read(id, offset, 64 << 10).await.unwrap();
        caller.stats(id).await.unwrap();
    }
    assert!(caller.read(1 << 40, 0, 1).await.is_err() && caller.read(local, 1 << 40, 1).await.is_err());
    caller.list_mappings(None).await.unwrap();
    caller.list_processes().await.unwrap();
}

async fn streams(caller: &Caller, id: u64, offset: u64) {
    let mut pipe = Pipe::open(caller, 64).await;
    for step in 0..30 {
        let offset = offset + step * 100;
        pipe.send(pipe::read(id, offset, 4096));
        pipe.send(pipe::write(id, offset, vec![5; 100]));
    }
    for _ in 0..60 {
        pipe.next().await;
    }
    let read = v1::MmapReadStreamRequest { mmap_id: id, offset: 0, length: 1 << 20, chunk_length: None };
    let mut chunks = caller.mmap_service().mmap_read_stream(caller.request(read)).await.unwrap().into_inner();
    while let Some(chunk) = chunks.next().await {
        chunk.unwrap();
    }
    let writes = [0, 1].map(|part| v1::MmapWriteStreamRequest { mmap_id: id, offset: part, data: vec![9; 10].into() });
    caller.mmap_service().mmap_write_stream(caller.request(futures::stream::iter(writes))).await.unwrap();
}

/// What needs the stores: syncs, a file that is read for the first time, one that changes under its writer.
async fn stores(caller: &Caller, moto: &Moto, [local, s3]: [u64; 2], round: u64) {
    caller.msync(local).await.unwrap();
    caller.msync(s3).await.unwrap();
    caller.stat_file("/s3/file").await.unwrap();
    let cold = caller.mmap(v1::MmapRequest { prot: 1, ..map_request("/s3/cold", 4 << 20) }).await.unwrap().mmap_id;
    for step in 0..16 {
        caller.read(cold, step * (256 << 10), 256 << 10).await.unwrap();
    }
    let drop_pages = v1::MsyncRequest { mmap_id: cold, invalidate: true, ..Default::default() };
    caller.msync_with(drop_pages).await.unwrap();
    caller.munmap(cold).await.unwrap();
    if round.is_multiple_of(20) {
        let name = format!("changed-{round}");
        let id = caller.map_shared(&format!("/s3/{name}"), 100).await;
        caller.write(id, 0, &b"mine"[..]).await.unwrap();
        let key = object_store::path::Path::from(format!("files/{name}"));
        moto.store().put(&key, b"theirs".to_vec().into()).await.unwrap();
        assert_eq!(caller.msync(id).await.unwrap_err().code(), Code::Aborted);
        caller.munmap_with(v1::MunmapRequest { mmap_id: id, discard: true, force: true }).await.unwrap();
    }
}
