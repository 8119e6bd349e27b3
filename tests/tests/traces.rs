//! Traces and logs of the real server, at a collector of the tests' own: a trace that starts in a client is seen whole,
//! who decides what is recorded, and what a collector that does not do its part costs.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::process::Command;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use mmap_client::{AttachOptions, Client, Prot, TraceContext};
use mmap_proto::v1;
use mmap_tests::binaries::binary;
use mmap_tests::collector::{Collector, Seen, Taking};
use mmap_tests::mmapd::{Mmapd, Setup};
use mmap_tests::moto::Moto;
use mmap_tests::pipe;
use mmap_tests::require::available;
use mmap_tests::wire::Caller;
use opentelemetry::trace::{FutureExt as _, TraceContextExt as _, Tracer as _, TracerProvider as _};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tonic::Request;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";
const SERVER: i32 = 2;
const CLIENT: i32 = 3;

fn traced(collector: &Collector, ratio: &str) -> Setup {
    Setup::new().args(["--otlp-endpoint", &collector.endpoint(), "--trace-sample", ratio, "--node", "n7"])
}

fn traceparent(sampled: bool) -> String {
    format!("00-{TRACE}-{PARENT}-0{}", u8::from(sampled))
}

/// `request` as one of a trace.
fn with_parent<T>(mut request: Request<T>, sampled: bool) -> Request<T> {
    request.metadata_mut().insert("traceparent", traceparent(sampled).parse().unwrap());
    request
}

fn named<'a>(spans: &'a [Seen], name: &str) -> Option<&'a Seen> {
    spans.iter().find(|span| span.name == name)
}

/// Where the calling task is, as the client library's page says it.
fn current() -> Option<TraceContext> {
    let context = Context::current();
    let span = context.span().span_context().clone();
    let trace = TraceContext::new(
        u128::from_be_bytes(span.trace_id().to_bytes()),
        u64::from_be_bytes(span.span_id().to_bytes()),
        span.is_sampled(),
    );
    trace.ok().map(|trace| trace.with_state(&span.trace_state().header()))
}

/// A program with traces of its own that maps a file which is there, reads it, writes it and syncs it.
async fn client_at_work(server: &Mmapd, collector: &Collector, path: &str) {
    let exporter = SpanExporter::builder().with_tonic().with_endpoint(collector.endpoint()).build().unwrap();
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(Resource::builder_empty().with_attribute(KeyValue::new("service.name", "a client")).build())
        .build();
    let tracer = provider.tracer("test");
    let client = Client::builder().trace(current).connect(server.addr()).await.unwrap();
    let process = client.attach(AttachOptions { pid: None, name: "traced".into() }).await.unwrap();
    let mapping = process.map(path).length(4096).prot(Prot::READ_WRITE).await.unwrap();
    let spanned = |name: &'static str| Context::new().with_span(tracer.start_with_context(name, &Context::new()));
    let (read, write, sync) = (spanned("client read"), spanned("client write"), spanned("client sync"));
    mapping.read(0, 100).with_context(read.clone()).await.unwrap();
    mapping.write(0, "changed").with_context(write.clone()).await.unwrap();
    mapping.msync().with_context(sync.clone()).await.unwrap();
    for context in [read, write, sync] {
        context.span().end();
    }
    process.exit().await.unwrap();
    tokio::task::spawn_blocking(move || provider.shutdown()).await.unwrap().unwrap();
}

/// The spans from the client's down, each the parent of the next.
fn chain<'a>(spans: &'a [Seen], first: &str, below: &[&str]) -> Option<Vec<&'a Seen>> {
    let mut chain = vec![named(spans, first)?];
    for name in below {
        let above = *chain.last()?;
        chain.push(spans.iter().find(|span| span.parent == above.id && span.name == *name)?);
    }
    let (trace, one) = (&chain[0].trace, chain.iter().all(|span| span.trace == chain[0].trace));
    assert!(one && chain[0].parent.is_empty(), "{trace}: {chain:?}");
    Some(chain)
}

fn assert_whole(collector: &Collector, mount: &str, object: &str) {
    let read = "mmap.v1.MmapService/MmapRead";
    collector.wait_for("a read, from the client to the store", |spans| {
        let chain = chain(spans, "client read", &[read, "fault", "store.read"])?;
        let [client, server, fault, store] = chain.as_slice() else { return None };
        assert_eq!(client.resource["service.name"], "a client");
        let expected = [("service.name", "mmapd"), ("service.instance.id", "n7"), ("mmap.node", "n7")];
        assert!(expected.iter().all(|(key, value)| server.resource[*key] == *value), "{:?}", server.resource);
        assert_eq!(server.resource["service.version"], env!("CARGO_PKG_VERSION"));
        assert_eq!((server.kind, server.is_error, server.attribute("rpc.system")), (SERVER, false, "grpc"));
        assert_eq!(server.attribute("rpc.service"), "mmap.v1.MmapService");
        assert_eq!((server.attribute("rpc.method"), server.attribute("rpc.grpc.status_code")), ("MmapRead", "0"));
        assert_eq!((server.attribute("mmap.bytes"), server.attribute("mmap.offset")), ("100", "0"));
        assert!(!server.attribute("mmap.mapping_id").is_empty() && !server.attribute("mmap.pid").is_empty());
        assert_eq!((fault.attribute("mmap.blocks"), fault.attribute("mmap.path").is_empty()), ("1", false));
        assert_eq!((store.kind, store.attribute("mmap.store.kind")), (CLIENT, "read"));
        assert_eq!((store.attribute("mmap.store.mount"), store.attribute("mmap.store.object")), (mount, object));
        assert_eq!((store.attribute("mmap.store.bytes"), store.attribute("mmap.store.outcome")), ("5000", "ok"));
        Some(())
    });
    collector.wait_for("a sync, from the client to the store", |spans| {
        let chain = chain(spans, "client sync", &["mmap.v1.MmapService/Msync", "commit", "store.write_back"])?;
        let store = chain.last()?;
        assert_eq!((store.attribute("mmap.store.bytes"), store.attribute("mmap.store.outcome")), ("4096", "ok"));
        Some(())
    });
    collector.wait_for("a write", |spans| chain(spans, "client write", &["mmap.v1.MmapService/MmapWrite"]).map(drop));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_that_starts_in_a_client_is_seen_whole_over_a_folder() {
    let collector = Collector::start(Taking::Spans);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), [7; 5000]).unwrap();
    let server = traced(&collector, "0").mount("/srv", &format!("file://{}", folder.path().display())).start();
    client_at_work(&server, &collector, "/srv/file").await;
    assert_whole(&collector, "/srv", "file");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_that_starts_in_a_client_is_seen_whole_over_s3() {
    let Some(moto) = available(Moto::shared()) else { return };
    moto.python(&format!("s3.put_object(Bucket={:?}, Key='traced/file', Body=b'7' * 5000)", Moto::BUCKET));
    let collector = Collector::start(Taking::Spans);
    let server = traced(&collector, "0").mount("/s3", &moto.mount_url("traced")).envs(Moto::ENV).start();
    client_at_work(&server, &collector, "/s3/file").await;
    assert_whole(&collector, "/s3", "file");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_caller_that_is_not_recorded_leaves_nothing_and_a_recorded_one_all() {
    let collector = Collector::start(Taking::Spans);
    let server = traced(&collector, "1").start();
    let caller = Caller::connect(server.addr(), 5).await;
    let stat = || caller.request(v1::StatFileRequest { path: "/missing".into() });
    for _ in 0..20 {
        caller.file_service().stat_file(with_parent(stat(), false)).await.unwrap_err();
    }
    let mut last = with_parent(stat(), true);
    last.metadata_mut().insert("tracestate", "vendor=x".parse().unwrap());
    caller.file_service().stat_file(last).await.unwrap_err();
    server.sigterm();
    let spans = collector.spans();
    let calls: Vec<&Seen> = spans.iter().filter(|span| span.kind == SERVER).collect();
    assert_eq!(calls.len(), 1, "{spans:#?}");
    let call = calls[0];
    assert_eq!((call.trace.as_str(), call.parent.as_str(), call.state.as_str()), (TRACE, PARENT, "vendor=x"));
    assert_eq!((call.attribute("mmap.reason"), call.attribute("rpc.grpc.status_code")), ("ENOENT", "5"));
    assert_eq!((call.is_error, call.attribute("mmap.path")), (false, "/missing"), "a caller's mistake is no error");
    let store = named(&spans, "store.stat").unwrap();
    assert_eq!((&store.parent, store.attribute("mmap.store.outcome")), (&call.id, "missing"));
    assert!(spans.iter().all(|span| span.trace == TRACE), "{spans:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn of_the_others_a_ratio_of_0_takes_none_and_of_1_every_one() {
    for (ratio, expected) in [("0", 0), ("1", 52)] {
        let collector = Collector::start(Taking::Spans);
        let server = traced(&collector, ratio).start();
        let caller = Caller::connect(server.addr(), 5).await;
        let id = caller.map_shared("/file", 4096).await;
        caller.write(id, 0, "x").await.unwrap();
        for _ in 0..50 {
            caller.read(id, 0, 1).await.unwrap();
        }
        assert!(server.sigterm().status.success());
        let spans = collector.spans();
        let calls: Vec<&Seen> = spans.iter().filter(|span| span.kind == SERVER).collect();
        assert_eq!(calls.len(), expected, "{spans:#?}");
        assert!(calls.iter().all(|call| call.parent.is_empty() && call.attribute("mmap.pid") == "5"));
        assert!(ratio == "1" || spans.is_empty(), "what no call waits for is not told: {spans:#?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_streams_span_counts_what_was_done_at_once_and_has_what_waited_below_it() {
    let collector = Collector::start(Taking::Spans);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), [7; 200_000]).unwrap();
    let server = traced(&collector, "0").mount("/", &format!("file://{}", folder.path().display())).start();
    let caller = Caller::connect(server.addr(), 5).await;
    let id = caller.map_shared("/file", 200_000).await;
    let mut ops = vec![pipe::read(id, 150_000, 10)];
    ops.extend((0..30).map(|at| pipe::read(id, 150_000 + at, 10)));
    let (mut sender, receiver) = futures::channel::mpsc::channel(1);
    let request = with_parent(caller.request(receiver), true);
    let mut answers = caller.mmap_service().mmap_pipeline(request).await.unwrap().into_inner();
    for (tag, op) in (1..).zip(ops) {
        sender.try_send(v1::MmapPipelineRequest { tag, op: Some(op) }).unwrap();
        answers.next().await.unwrap().unwrap();
    }
    sender.close_channel();
    assert!(answers.next().await.is_none());
    collector.wait_for("the stream", |spans| {
        let stream = named(spans, "mmap.v1.MmapService/MmapPipeline")?;
        assert_eq!((stream.trace.as_str(), stream.parent.as_str()), (TRACE, PARENT));
        assert_eq!((stream.attribute("mmap.operations"), stream.attribute("mmap.operations_waited")), ("31", "1"));
        assert_eq!(stream.attribute("rpc.grpc.status_code"), "0");
        let below: Vec<&Seen> = spans.iter().filter(|span| span.parent == stream.id).collect();
        let [read] = below.as_slice() else { panic!("one operation waited: {below:#?}") };
        assert_eq!((read.name.as_str(), read.attribute("mmap.bytes")), ("MmapRead", "10"));
        assert_eq!((read.attribute("mmap.offset"), read.attribute("rpc.grpc.status_code")), ("150000", "0"));
        let fault = spans.iter().find(|span| span.parent == read.id)?;
        assert_eq!((fault.name.as_str(), &fault.trace), ("fault", &stream.trace));
        Some(())
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn mmapctl_goes_on_with_the_trace_of_its_environment() {
    let collector = Collector::start(Taking::Spans);
    let server = traced(&collector, "0").start();
    let local = server.folder().join("local");
    std::fs::write(&local, [1; 10_000]).unwrap();
    let run = |sampled| {
        let mut command = Command::new(binary("mmapctl"));
        command.args(["--server", server.addr(), "put", "--force", local.to_str().unwrap(), "/there"]);
        let output = command.env("TRACEPARENT", sampled).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    run("garbage".to_owned());
    run(traceparent(false));
    assert!(collector.spans().is_empty());
    run(traceparent(true));
    collector.wait_for("the calls of mmapctl", |spans| {
        named(spans, "store.write_back")?;
        let calls: Vec<&Seen> = spans.iter().filter(|span| span.kind == SERVER).collect();
        let right = |call: &&Seen| call.trace == TRACE && call.parent == PARENT;
        (calls.len() > 2 && calls.iter().all(right)).then_some(())
    });
}

/// How long a thousand reads take, all of them recorded.
async fn a_thousand_reads(server: &Mmapd) -> Duration {
    let caller = Caller::connect(server.addr(), 5).await;
    let id = caller.map_shared("/file", 4096).await;
    let start = Instant::now();
    for _ in 0..1000 {
        caller.read(id, 0, 100).await.unwrap();
    }
    start.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_collector_that_does_not_do_its_part_holds_nothing_up() {
    let (hanging, refusing) = (Collector::start(Taking::Nothing), Collector::start(Taking::Refusing));
    let dying = Collector::start(Taking::Spans);
    let gone = Collector::start(Taking::Spans).endpoint();
    let plain = Setup::new().args(["--otlp-endpoint", "off"]).start();
    let servers = [hanging.endpoint(), refusing.endpoint(), dying.endpoint(), gone]
        .map(|endpoint| Setup::new().args(["--otlp-endpoint", &endpoint, "--trace-sample", "1"]).start());
    let mut dying = Some(dying);
    for server in servers {
        a_thousand_reads(&server).await;
        // From here on the last requests have failed, or hang.
        drop(dying.take());
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let (without, with) = (a_thousand_reads(&plain).await, a_thousand_reads(&server).await);
        // What a span costs, and a busy machine, not what a collector that is waited for would.
        assert!(with < without * 4 + Duration::from_secs(2), "{with:?} with traces, {without:?} without");
        let start = Instant::now();
        let ended = server.sigterm();
        assert!(ended.status.success(), "{}", ended.stderr);
        assert!(start.elapsed() < Duration::from_secs(8), "the end took {:?}", start.elapsed());
        for what in ["traces: ", "metrics"] {
            let about = |line: &&str| line.contains(what) && line.contains("did not");
            let told = ended.stderr.lines().filter(about).count();
            assert!((1..=2).contains(&told), "{what}: {}", ended.stderr);
        }
    }
}

/// Where nobody listens, so that whatever is asked of it fails soon.
fn away() -> Setup {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("s3://bucket/x?endpoint=http://127.0.0.1:{port}&region=us-east-1&allow_http");
    Setup::new().mount("/away", &url).envs(Moto::ENV).args(["--store-timeout", "1s"])
}

/// A call that fails because its store does, and the lines about it.
async fn lines_of_a_failure(setup: Setup, sampled: bool) -> Vec<String> {
    let server = setup.start();
    let caller = Caller::connect(server.addr(), 5).await;
    let request = caller.request(v1::StatFileRequest { path: "/away/file".into() });
    let failed = caller.file_service().stat_file(with_parent(request, sampled)).await.unwrap_err();
    assert_eq!(failed.code(), tonic::Code::Unavailable);
    let ended = server.sigterm();
    let about = |line: &&str| line.contains("StatFile");
    let lines: Vec<String> = ended.stderr.lines().filter(about).map(str::to_owned).collect();
    assert!(!lines.is_empty(), "{}", ended.stderr);
    lines
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_line_about_a_call_has_the_ids_of_its_trace() {
    let collector = Collector::start(Taking::Spans);
    let recorded = ["--otlp-endpoint", &collector.endpoint(), "--log-format", "json"];
    for line in lines_of_a_failure(away().args(recorded), true).await {
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&line["level"], &line["trace_id"]), (&"WARN".into(), &TRACE.into()), "{line}");
        assert!(line["message"].as_str().is_some_and(|message| message.contains("/away")), "{line}");
        assert_eq!(line["fields"]["method"], "/mmap.v1.FileService/StatFile");
        collector.wait_for("the call", |spans| {
            let call = named(spans, "mmap.v1.FileService/StatFile")?;
            assert_eq!((line["span_id"].as_str(), call.is_error), (Some(call.id.as_str()), true));
            assert_eq!(call.attribute("mmap.reason"), "EIO");
            Some(())
        });
    }
    for line in lines_of_a_failure(away().args(["--log-format", "json"]), false).await {
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&line["trace_id"], &line["span_id"]), (&TRACE.into(), &PARENT.into()), "the caller's: {line}");
    }
    for line in lines_of_a_failure(away(), true).await {
        assert!(line.contains(TRACE) && line.contains("WARN") && !line.starts_with('{'), "{line}");
    }
}

const PAYLOAD: &str = "payload-that-nobody-may-log";
const TOKEN: &str = "token-that-nobody-may-log";

/// Writes, reads and syncs recognisable bytes in all the ways there are, with a recognisable token.
async fn secrets_at_work(server: &Mmapd, path: &str) {
    let caller = Caller::connect(server.addr(), 5).await;
    let secret = |mut request: Request<()>| {
        request.metadata_mut().insert("authorization", format!("Bearer {TOKEN}").parse().unwrap());
        request.metadata_mut().insert("traceparent", traceparent(true).parse().unwrap());
        Ok(request)
    };
    let client = Client::builder().interceptor(secret).connect(server.addr()).await.unwrap();
    let process = client.attach(AttachOptions { pid: None, name: "secret".into() }).await.unwrap();
    let mapping = process.map(path).length(200_000).prot(Prot::READ_WRITE).create().await.unwrap();
    let whole = PAYLOAD.repeat(200_000 / PAYLOAD.len());
    mapping.write(0, PAYLOAD).await.unwrap();
    assert_eq!(mapping.read(0, PAYLOAD.len()).await.unwrap(), PAYLOAD);
    mapping.write(0, whole.clone()).await.unwrap();
    mapping.msync().await.unwrap();
    assert_eq!(mapping.read_all(0, whole.len()).await.unwrap(), whole.as_bytes());
    // A failure, and a request that cannot be read, by calls of their own.
    mapping.read(1 << 40, 10).await.unwrap_err();
    let id = caller.map_shared("/mem/other", 4096).await;
    caller.write(id, 4090, PAYLOAD).await.unwrap_err();
    caller.write(id, 0, PAYLOAD).await.unwrap();
    process.exit().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn neither_bytes_nor_tokens_are_logged_or_traced_at_any_level() {
    let Some(moto) = available(Moto::shared()) else { return };
    for format in ["human", "json"] {
        let collector = Collector::start(Taking::Spans);
        let setup = traced(&collector, "1").args(["--log", "trace", "--log-format", format]);
        let url = moto.mount_url(&format!("secret-{format}"));
        let key = "secret-key-that-nobody-may-log";
        let server = setup.mount("/s3", &url).mount("/mem", "memory:");
        let server = server.envs([("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", key)]).start();
        secrets_at_work(&server, "/s3/file").await;
        let ended = server.sigterm();
        assert!(ended.status.success());
        let told = format!("{} {:?}", ended.stderr, collector.spans());
        assert!(told.contains("TRACE") && told.contains("MmapWrite"), "everything is logged and traced");
        let decimal = format!("{:?}", PAYLOAD.as_bytes());
        for secret in [&PAYLOAD[..12], &TOKEN[..12], &key[..12], decimal.trim_matches(['[', ']']), "Signature="] {
            let line = told.lines().find(|line| line.contains(secret));
            assert_eq!(line, None, "{secret} is told");
        }
    }
}
