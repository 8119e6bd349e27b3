//! [`Export`]: spans on their way to a collector, by OTLP over gRPC.
//!
//! Invariants: whoever ends a span waits for nothing; at most [`QUEUE_MAX`] spans wait, and more are lost; a request
//! to the collector ends in [`EXPORT_TIME`]; what was lost is counted, and told at most once a [`SILENCE`].
//!
//! Not the SDK's own batch processor: it has a thread that blocks, no limit for the last request, and tells each
//! failure.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use opentelemetry::trace::TracerProvider as _;
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _, WithTonicConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    Sampler, SdkTracer, SdkTracerProvider, Span, SpanData, SpanExporter as _, SpanProcessor,
};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::Endpoint;

/// Spans that wait to be sent: some 2 MiB.
const QUEUE_MAX: usize = 2048;
/// Spans of one request.
const BATCH_MAX: usize = 512;
/// How long spans are gathered for one request.
const PERIOD: Duration = Duration::from_secs(1);
/// How long a connection may take.
const CONNECT_TIME: Duration = Duration::from_secs(2);
/// How long a request may take, its repeats included.
const EXPORT_TIME: Duration = Duration::from_secs(5);
/// How often it is told at most that spans were lost.
const SILENCE: Duration = Duration::from_secs(60);

/// Spans on their way to a collector.
#[derive(Debug)]
pub(super) struct Export {
    provider: SdkTracerProvider,
    stop: CancellationToken,
    sender: AbortOnDropHandle<()>,
}

impl Export {
    /// Sends spans to the collector at `endpoint`, as those of `node`. Needs a runtime around it; connects later.
    ///
    /// # Errors
    /// A sentence that says why that cannot be.
    pub(super) fn start(endpoint: &str, node: &str) -> Result<Self, String> {
        let cannot = |what: &dyn fmt::Display| format!("traces cannot go to {endpoint}: {what}");
        let channel = Endpoint::from_shared(endpoint.to_owned()).map_err(|error| cannot(&error))?;
        let channel = channel.connect_timeout(CONNECT_TIME).timeout(EXPORT_TIME).connect_lazy();
        let exporter = SpanExporter::builder().with_tonic().with_channel(channel).with_timeout(EXPORT_TIME).build();
        let mut exporter = exporter.map_err(|error| cannot(&error))?;
        let resource = resource(node);
        exporter.set_resource(&resource);
        let (sender, spans) = mpsc::channel(QUEUE_MAX);
        let (lost, stop) = (Arc::new(AtomicU64::new(0)), CancellationToken::new());
        let queue = Queue { sender, lost: lost.clone() };
        // Which calls are followed is decided before they have a span.
        let provider = SdkTracerProvider::builder().with_sampler(Sampler::AlwaysOn).with_resource(resource);
        let provider = provider.with_span_processor(queue).build();
        let told = Told { endpoint: endpoint.to_owned(), lost, told: 0, last: None };
        let sender = AbortOnDropHandle::new(tokio::spawn(send(exporter, spans, stop.clone(), told)));
        Ok(Self { provider, stop, sender })
    }

    /// What makes spans.
    pub(super) fn tracer(&self) -> SdkTracer {
        self.provider.tracer("mmapd")
    }

    /// Sends what waits, for `limit` at most.
    pub(super) async fn finish(self, limit: Duration) {
        self.stop.cancel();
        if timeout(limit, self.sender).await.is_err() {
            tracing::warn!("traces: the collector did not take the last spans within {limit:?}: they are lost");
        }
    }
}

/// Who we are to a collector.
pub(crate) fn resource(node: &str) -> Resource {
    let attribute = |key, value: &str| KeyValue::new(key, value.to_owned());
    let attributes = [
        attribute("service.version", env!("CARGO_PKG_VERSION")),
        attribute("service.instance.id", node),
        attribute("mmap.node", node),
    ];
    Resource::builder().with_service_name("mmapd").with_attributes(attributes).build()
}

/// Where ended spans are put.
#[derive(Debug)]
struct Queue {
    sender: mpsc::Sender<SpanData>,
    lost: Arc<AtomicU64>,
}

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        match self.sender.try_send(span) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Closed(_)) => {
                self.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        // Sent by the task: [`Export::finish`] waits for it.
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// Sends spans as they come, until it is to stop and none is left.
async fn send(exporter: SpanExporter, mut spans: mpsc::Receiver<SpanData>, stop: CancellationToken, mut told: Told) {
    loop {
        let mut batch = Vec::new();
        gather(&mut spans, &stop, &mut batch).await;
        let (count, is_last) = (batch.len(), stop.is_cancelled() && spans.is_empty());
        if count > 0 {
            let why = match timeout(EXPORT_TIME, exporter.export(batch)).await {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some(format!("it did not answer within {} s", EXPORT_TIME.as_secs())),
            };
            told.note(if why.is_some() { count } else { 0 }, why.as_deref());
        }
        if is_last {
            return;
        }
    }
}

/// Fills `batch`: for a period, or until it is full or there is nothing to wait for.
async fn gather(spans: &mut mpsc::Receiver<SpanData>, stop: &CancellationToken, batch: &mut Vec<SpanData>) {
    let until = Instant::now() + PERIOD;
    while batch.len() < BATCH_MAX {
        let room = BATCH_MAX - batch.len();
        tokio::select! {
            biased;
            taken = spans.recv_many(batch, room) => if taken == 0 { return },
            () = stop.cancelled() => return,
            () = sleep_until(until) => return,
        }
    }
}

/// What was lost, and what was told of it.
#[derive(Debug)]
struct Told {
    endpoint: String,
    lost: Arc<AtomicU64>,
    told: u64,
    last: Option<Instant>,
}

impl Told {
    /// Notes that `count` spans were lost now; tells of all that were if it is time.
    fn note(&mut self, count: usize, why: Option<&str>) {
        let lost = self.lost.fetch_add(count as u64, Ordering::Relaxed) + count as u64;
        if lost == self.told || self.last.is_some_and(|last| last.elapsed() < SILENCE) {
            return;
        }
        let (endpoint, new) = (&self.endpoint, lost - self.told);
        let why = why.unwrap_or("it takes fewer than come");
        tracing::warn!(
            lost,
            "traces: {new} spans did not reach the collector {endpoint}: {why}; calls are not held up"
        );
        (self.told, self.last) = (lost, Some(Instant::now()));
    }
}
