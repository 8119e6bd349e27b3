//! [`Server`]: bound, then serving, then drained and shut down.
//!
//! The order at the end is the promise: health says NOT_SERVING, no new connections, running calls and
//! attached processes' streams end within a third of the time limit, then the core syncs what is unsynced.
//! Nothing here outlives [`Server::serve`].

use std::convert::Infallible;
use std::fmt;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _};
use http::HeaderValue;
use mmap_core::manager::{MmapManager, Recovered, ShutdownReport};
use mmap_proto::v1;
use mmap_proto::v1::file_service_server::FileServiceServer;
use mmap_proto::v1::mmap_service_server::MmapServiceServer;
use mmap_proto::v1::process_service_server::ProcessServiceServer;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::service::Routes;

use crate::auth::{Door, Tokens};
use crate::config::{Auth, Config};
use crate::connection::Ends;
use crate::entry::Entry;
use crate::health::{Health, MountHealth};
use crate::layers::Guard;
use crate::listener::{Listener, incoming};
use crate::meter::Meters;
use crate::metrics::{Calls, Endpoint, Limit, Push, Registry};
use crate::opening::{ServerError, open_core};
use crate::service::{Files, Front, Mmaps, Processes};
use crate::tls::Tls;
use crate::traces::Traces;
use crate::transport::Transport;

/// What a message needs beside its data: the other fields, a path of 4 KiB among them, with room to spare.
const MESSAGE_SLACK: usize = 64 * 1024;
/// Part of the memory that answers may hold which clients have not taken yet.
const UNSENT_SHARE: u64 = 4;
/// How long the start waits to learn whether files with unsynced pages changed while the server was away. What
/// is not known by then is found out while it serves.
const SETTLE_TIME: Duration = Duration::from_secs(5);
/// Share of the shutdown timeout that running calls may take: the rest is for syncing.
const DRAIN_SHARE: u32 = 3;
/// How long connections that are told to close may take: they wait for nothing but their turn.
const CLOSE_TIME: Duration = Duration::from_secs(1);
/// How much longer than its limit the core's shutdown may take before it counts as hung.
const SHUTDOWN_SLACK: Duration = Duration::from_secs(5);

/// How a server ended.
#[derive(Clone, Debug, Default)]
pub struct ExitReport {
    /// Unsynced bytes that were written back at the end, in whole pages.
    pub synced_bytes: u64,
    /// Files whose unsynced bytes could not be stored: path, bytes, why.
    pub unsynced: Vec<(String, u64, String)>,
    /// Files whose unsynced bytes are in the journal, for the next start: path, bytes, why.
    pub waiting: Vec<(String, u64, String)>,
    /// It ended before everything was known to be stored, for this reason.
    pub cut_short: Option<&'static str>,
}

impl ExitReport {
    /// Whether everything that was acknowledged is where the level of durability says.
    pub fn is_clean(&self) -> bool {
        self.unsynced.is_empty() && self.cut_short.is_none()
    }

    fn from_core(report: ShutdownReport, cut_short: Option<&'static str>) -> Self {
        let ShutdownReport { synced_bytes, unsynced, waiting } = report;
        Self { synced_bytes, unsynced, waiting, cut_short }
    }
}

/// A server that is bound: clients can connect, and are answered once it serves.
pub struct Server {
    config: Config,
    listeners: Vec<Listener>,
    tls: Option<Arc<Tls>>,
    /// Each item asks to read the TLS files again.
    hangups: BoxStream<'static, ()>,
    metrics: Option<Endpoint>,
    manager: Arc<MmapManager>,
    door: Door,
    health: Health,
    mounts: Vec<MountHealth>,
    recovered: Recovered,
}

impl Server {
    /// Takes the addresses, opens the state directory and the mounts, and asks each mount for a sign of life.
    ///
    /// # Errors
    /// What is in the way. A mount that does not answer is not: the server serves, and its health says so. One
    /// that answers, and where something else lies than the mount says, is.
    pub async fn bind(config: Config) -> Result<Self, ServerError> {
        let door = open_door(&config.auth).await?;
        let tls = match &config.tls {
            Some(files) => Some(Tls::open(files).await.map_err(ServerError::Config)?),
            None => None,
        };
        let mut listeners = Vec::new();
        for addr in &config.listen {
            let listener = Listener::bind(addr).await.map_err(ServerError::Failed)?;
            listeners.push(tls.iter().fold(listener, Listener::with_tls));
        }
        let metrics = match config.metrics.listen.as_slice() {
            [] => None,
            addrs => Some(Endpoint::bind(addrs).await.map_err(ServerError::Failed)?),
        };
        let (manager, mounts, recovered) = open_core(&config).await?;
        let health = Health::new(mounts, Arc::clone(&manager)).await;
        let mounts = health.check().await;
        if let Some(refusal) = mounts.iter().find_map(MountHealth::refusal) {
            return Err(ServerError::Config(refusal.to_owned()));
        }
        manager.settle(SETTLE_TIME).await;
        let hangups = futures::stream::pending().boxed();
        Ok(Self { config, listeners, tls, hangups, metrics, manager, door, health, mounts, recovered })
    }

    /// The same server, which reads its files of certificates and keys again at each item of `hangups`, too, and not only
    /// when they change.
    #[must_use]
    pub fn with_hangups(mut self, hangups: impl Stream<Item = ()> + Send + 'static) -> Self {
        self.hangups = hangups.boxed();
        self
    }

    /// The addresses that clients can dial, as they are asked for.
    pub fn addrs(&self) -> Vec<String> {
        self.listeners.iter().map(|listener| listener.addr().to_owned()).collect()
    }

    /// Where metrics are told, if they are.
    pub fn metrics_addr(&self) -> Option<std::net::SocketAddr> {
        self.metrics.as_ref().map(Endpoint::addr)
    }

    /// How the mounts were at the start.
    pub(crate) fn mounts(&self) -> &[MountHealth] {
        &self.mounts
    }

    /// What came back from an earlier run.
    pub(crate) fn recovered(&self) -> &Recovered {
        &self.recovered
    }

    /// How it is configured.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Serves until the first item of `stops`, then ends cleanly; a second item cuts the end short. A stream
    /// that is over asks for nothing more.
    ///
    /// # Errors
    /// What kept it from serving.
    pub async fn serve(self, stops: impl Stream<Item = ()> + Send) -> Result<ExitReport, ServerError> {
        let Self { config, listeners, tls, hangups, metrics, manager, door, health, .. } = self;
        let ends = Ends { stopping: CancellationToken::new(), closing: CancellationToken::new() };
        let Ends { stopping, closing } = &ends;
        // Whoever drops this future, too, closes the connections.
        let _closed = closing.clone().drop_guard();
        let mut stops = std::pin::pin!(stops.chain(futures::stream::pending()));

        let calls = Calls::new();
        let entry = entry(&config, (&manager, &calls), &door, &health, stopping)?;
        let places = Arc::new(Semaphore::new(config.bounds.connections));
        let counted = calls.clone();
        let connections = incoming(listeners, &places).inspect(move |_| counted.connected());
        let transport = Transport::new(entry.clone(), &config.bounds, config.limits.memory / UNSENT_SHARE, &ends);
        let about = (config.node.clone(), config.durability);
        let limits = limits(&config, &places, entry, &transport);
        let registry = Registry::new(calls, manager.clone(), limits, Box::new(health.answers()), about);
        let _metrics = metrics.map(|endpoint| tell_metrics(endpoint, &registry));
        let push = push_metrics(&config, &registry)?;
        let serving = transport.serve(connections);
        let mut serving = Box::pin(serving);
        tokio::select! {
            () = &mut serving => {
                let report = shut_down(&manager, config.shutdown_timeout).await;
                let why = "no more connections come in";
                return Err(ServerError::Failed(format!("the server cannot go on: {why}; at the end: {report:?}")));
            }
            never = health.watch() => match never {},
            never = watch(tls.as_ref(), &door, hangups) => match never {},
            _ = stops.next() => {}
        }

        let end = Instant::now() + config.shutdown_timeout;
        tracing::info!("stopping: draining running calls, then syncing; a second signal ends at once");
        registry.stop();
        health.stop().await;
        stopping.cancel();
        let drain = async {
            health.end().await;
            timeout(config.shutdown_timeout / DRAIN_SHARE, serving).await.is_ok()
        };
        let drained = tokio::select! {
            drained = drain => drained,
            _ = stops.next() => return Ok(give_up(&manager).await),
        };
        if !drained {
            tracing::warn!("some calls still run: they are ended");
        }
        closing.cancel();
        all_closed(&places, config.bounds.connections).await;
        let report = tokio::select! {
            report = shut_down(&manager, end.saturating_duration_since(Instant::now())) => report,
            _ = stops.next() => give_up(&manager).await,
        };
        if let Some(push) = push {
            push.finish().await;
        }
        Ok(report)
    }
}

/// Keeps the certificates, and the keys of tokens, those of their files.
async fn watch(tls: Option<&Arc<Tls>>, door: &Door, hangups: BoxStream<'static, ()>) -> Infallible {
    let nudged = door.clone();
    let mut hangups = hangups.inspect(move |()| nudged.look_again()).boxed();
    let certificates = async {
        match tls {
            Some(tls) => tls.watch(hangups).await,
            None => {
                while hangups.next().await.is_some() {}
                pending().await
            }
        }
    };
    tokio::select! {
        never = certificates => never,
        never = door.watch() => never,
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("config", &self.config).finish_non_exhaustive()
    }
}

/// Tells metrics until this is dropped.
fn tell_metrics(endpoint: Endpoint, registry: &Arc<Registry>) -> AbortOnDropHandle<()> {
    tracing::info!("mmapd metrics on {}", endpoint.addr());
    AbortOnDropHandle::new(tokio::spawn(endpoint.serve(registry.clone())))
}

/// Sends metrics to the collector, if there is one for them.
fn push_metrics(config: &Config, registry: &Arc<Registry>) -> Result<Option<Push>, ServerError> {
    let collector = config.telemetry.otlp_metrics.as_ref();
    let start =
        |(endpoint, period): &(String, Duration)| Push::start(registry.clone(), &config.node, (endpoint, *period));
    collector.map(start).transpose().map_err(ServerError::Config)
}

/// What there may be so much of outside of the core.
fn limits(config: &Config, places: &Arc<Semaphore>, entry: Entry, transport: &Transport) -> Vec<Limit> {
    let (connections, places) = (config.bounds.connections, places.clone());
    let taken = move || connections.saturating_sub(places.available_permits()) as u64;
    let unsent = transport.unsent().clone();
    vec![
        Limit { name: "connections", max: connections as u64, used: Box::new(taken) },
        Limit { name: "calls", max: config.bounds.calls as u64, used: Box::new(move || entry.running_calls()) },
        Limit { name: "unsent_answer_bytes", max: unsent.max(), used: Box::new(move || unsent.unsent()) },
    ]
}

/// Waits a little until the connections have given their places back, and with that all that they held.
async fn all_closed(places: &Semaphore, connections: usize) {
    let all = u32::try_from(connections).unwrap_or(u32::MAX);
    if timeout(CLOSE_TIME, places.acquire_many(all)).await.is_err() {
        tracing::warn!("some connections are still closing");
    }
}

/// Ends the core within `limit`.
async fn shut_down(manager: &Arc<MmapManager>, limit: Duration) -> ExitReport {
    match timeout(limit + SHUTDOWN_SLACK, manager.shutdown(limit)).await {
        Ok(report) => ExitReport::from_core(report, None),
        Err(_) => ExitReport { cut_short: Some("syncing did not end within its time"), ..ExitReport::default() },
    }
}

/// Ends at once, with what is lost by that.
async fn give_up(manager: &Arc<MmapManager>) -> ExitReport {
    let cut_short = Some("a second signal ended it before everything was synced");
    match timeout(Duration::from_secs(1), manager.shutdown(Duration::ZERO)).await {
        Ok(report) => ExitReport::from_core(report, cut_short),
        Err(_) => ExitReport { cut_short, ..ExitReport::default() },
    }
}

/// What lets callers in. The files of keys are read off the runtime's threads.
async fn open_door(auth: &Auth) -> Result<Door, ServerError> {
    let jwt = match auth {
        Auth::Trust => return Ok(Door::Open),
        Auth::Jwt(jwt) => jwt.clone(),
    };
    match tokio::task::spawn_blocking(move || Tokens::open(&jwt)).await {
        Ok(Ok(tokens)) => Ok(Door::Tokens(Arc::new(tokens))),
        Ok(Err(sentence)) => Err(ServerError::Config(sentence)),
        Err(failure) => Err(ServerError::Failed(format!("the files of keys could not be read: {failure}"))),
    }
}

/// Where requests come in, as configured.
pub(crate) fn entry(
    config: &Config,
    (manager, calls): (&Arc<MmapManager>, &Arc<Calls>),
    door: &Door,
    health: &Health,
    stopping: &CancellationToken,
) -> Result<Entry, ServerError> {
    let internal = |what: &str| ServerError::Failed(format!("the server cannot be put together: {what}"));
    let encoded_max = encoded_max(config).map_err(|error| internal(&error))?;
    let node = HeaderValue::from_str(&config.node).map_err(|error| internal(&error.to_string()))?;
    let front = Front {
        manager: manager.clone(),
        meters: Meters::new(&config.subject),
        calls: calls.clone(),
        max_message: config.limits.max_message,
        grace: config.limits.process_grace,
        stopping: stopping.clone(),
    };
    let routes = routes(&front, encoded_max, health).map_err(|error| internal(&error))?;
    let guard = Guard::new(node, config.bounds.calls, config.limits.max_message);
    let telemetry = &config.telemetry;
    let traces = Traces::new(telemetry.otlp_endpoint.as_ref().map(|_| telemetry.trace_sample));
    Ok(Entry::new(guard, door.clone(), front, routes, traces, encoded_max))
}

/// Bytes of the largest message: its data and what it needs beside it.
fn encoded_max(config: &Config) -> Result<usize, String> {
    let data_max = usize::try_from(config.limits.max_message).map_err(|error| error.to_string())?;
    Ok(data_max.saturating_add(MESSAGE_SLACK))
}

fn routes(front: &Front, max: usize, health: &Health) -> Result<Routes, String> {
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(v1::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    Ok(Routes::new(MmapServiceServer::new(Mmaps(front.clone())).max_decoding_message_size(max))
        .add_service(ProcessServiceServer::new(Processes(front.clone())).max_decoding_message_size(max))
        .add_service(FileServiceServer::new(Files(front.clone())).max_decoding_message_size(max))
        .add_service(health.service())
        .add_service(reflection().build_v1().map_err(|error| error.to_string())?)
        .add_service(reflection().build_v1alpha().map_err(|error| error.to_string())?))
}
