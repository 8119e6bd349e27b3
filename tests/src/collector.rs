//! A collector of the tests' own: it takes OTLP over gRPC on a free loopback port and keeps the spans and the latest
//! metrics, or takes none.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{ExportMetricsServiceRequest, ExportMetricsServiceResponse};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::metrics::v1::Metric;
use opentelemetry_proto::tonic::trace::v1 as otlp;
use tokio::sync::oneshot;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

/// How long spans may take to arrive: they are gathered for a second.
const DEADLINE: Duration = Duration::from_secs(30);

/// What becomes of what is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taking {
    /// It is kept.
    Spans,
    /// It is never answered.
    Nothing,
    /// It is refused.
    Refusing,
}

/// A span as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// What it is called.
    pub name: String,
    /// The trace, in hexadecimal.
    pub trace: String,
    /// The span, in hexadecimal.
    pub id: String,
    /// Its parent, in hexadecimal; empty for none.
    pub parent: String,
    /// As OTLP numbers it: 2 is a server's, 3 a client's.
    pub kind: i32,
    /// What tracing systems say of it to each other.
    pub state: String,
    /// Whether it is one of an error.
    pub is_error: bool,
    /// What it tells, each value as a text.
    pub attributes: BTreeMap<String, String>,
    /// Who sent it, each value as a text.
    pub resource: BTreeMap<String, String>,
}

impl Seen {
    /// The attribute of this name; empty if there is none.
    pub fn attribute(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }
}

/// A request with metrics as it came.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// Who sent it, each value as a text.
    pub resource: BTreeMap<String, String>,
    /// What it has.
    pub metrics: Vec<Metric>,
    /// The header `x-tenant`, which a test may have it sent with.
    pub tenant: Option<String>,
}

#[derive(Clone, Debug, Default)]
struct Kept(Arc<Mutex<Vec<Seen>>>, Arc<Mutex<Measured>>);

impl Kept {
    fn spans(&self) -> MutexGuard<'_, Vec<Seen>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn measured(&self) -> MutexGuard<'_, Measured> {
        self.1.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running collector. It ends when this is dropped.
#[derive(Debug)]
pub struct Collector {
    addr: SocketAddr,
    kept: Kept,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Collector {
    /// Starts one on a free port.
    ///
    /// # Panics
    /// If there is none.
    pub fn start(taking: Taking) -> Self {
        let kept = Kept::default();
        let (stop, stopped) = oneshot::channel();
        let (bound, addr) = std::sync::mpsc::sync_channel(1);
        let service = Service { taking, kept: kept.clone() };
        let (traces, metrics) = (TraceServiceServer::new(service.clone()), MetricsServiceServer::new(service));
        // A thread of its own, so that a test may block.
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime can be made").block_on(async {
                let incoming = TcpIncoming::bind(([127, 0, 0, 1], 0).into()).expect("there is a free port");
                bound.send(incoming.local_addr().expect("it is bound")).expect("it is waited for");
                let served = Server::builder().add_service(traces).add_service(metrics).serve_with_incoming(incoming);
                // Dropped at once, with its connections, as one that is killed.
                tokio::select! {
                    served = served => served.expect("it serves"),
                    _ = stopped => {}
                }
            });
        });
        let addr = addr.recv().expect("the thread binds it");
        Self { addr, kept, stop: Some(stop), thread: Some(thread) }
    }

    /// Where it takes spans, as `--otlp-endpoint` has it.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// What came so far.
    pub fn spans(&self) -> Vec<Seen> {
        self.kept.spans().clone()
    }

    /// The metrics that came last.
    pub fn measured(&self) -> Measured {
        self.kept.measured().clone()
    }

    /// Waits until what came gives a value by `pick`.
    ///
    /// # Panics
    /// If it does not within half a minute; `what` says what was waited for.
    pub fn wait_for<T>(&self, what: &str, pick: impl Fn(&[Seen]) -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            let spans = self.spans();
            if let Some(value) = pick(&spans) {
                return value;
            }
            assert!(start.elapsed() < DEADLINE, "{what} did not come; what came is {spans:#?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        if let (Some(stop), Some(thread)) = (self.stop.take(), self.thread.take()) {
            // It may have ended by a panic of its own, which its thread has told.
            let _ = stop.send(());
            let _ = thread.join();
        }
    }
}

#[derive(Clone, Debug)]
struct Service {
    taking: Taking,
    kept: Kept,
}

#[tonic::async_trait]
impl TraceService for Service {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        match self.taking {
            Taking::Spans => {}
            Taking::Nothing => std::future::pending().await,
            Taking::Refusing => return Err(Status::permission_denied("not from you")),
        }
        for of_resource in request.into_inner().resource_spans {
            let resource = of_resource.resource.map(|resource| texts(resource.attributes)).unwrap_or_default();
            for of_scope in of_resource.scope_spans {
                self.kept.spans().extend(of_scope.spans.into_iter().map(|span| seen(span, &resource)));
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Service {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        match self.taking {
            Taking::Spans => {}
            Taking::Nothing => std::future::pending().await,
            Taking::Refusing => return Err(Status::permission_denied("not from you")),
        }
        let tenant = request.metadata().get("x-tenant").and_then(|tenant| Some(tenant.to_str().ok()?.to_owned()));
        for of_resource in request.into_inner().resource_metrics {
            let resource = of_resource.resource.map(|resource| texts(resource.attributes)).unwrap_or_default();
            let metrics = of_resource.scope_metrics.into_iter().flat_map(|of_scope| of_scope.metrics).collect();
            *self.kept.measured() = Measured { resource, metrics, tenant: tenant.clone() };
        }
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

fn seen(span: otlp::Span, resource: &BTreeMap<String, String>) -> Seen {
    Seen {
        name: span.name,
        trace: hex(&span.trace_id),
        id: hex(&span.span_id),
        parent: hex(&span.parent_span_id),
        kind: span.kind,
        state: span.trace_state,
        is_error: span.status.is_some_and(|status| status.code == otlp::status::StatusCode::Error as i32),
        attributes: texts(span.attributes),
        resource: resource.clone(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn texts(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |value: Option<Value>| match value {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    };
    attributes.into_iter().map(|pair| (pair.key, text(pair.value.and_then(|value| value.value)))).collect()
}
