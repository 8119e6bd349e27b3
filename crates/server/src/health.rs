//! [`Health`]: `grpc.health.v1`: whether the server serves, and whether its stores take and give bytes.
//!
//! - `` (the whole) and each service: SERVING from the start to the stop. A load balancer takes out of rotation
//!   what is NOT_SERVING; a store in trouble is no reason for that, since what is in memory is served, other
//!   mounts are, and no other server has the unsynced bytes.
//! - `mmap.v1.stores`: NOT_SERVING while any store is in trouble: degraded, for whoever is to be woken.
//! - `mmap.v1.store:/prefix`: the same for the mount of that prefix.
//!
//! A store is in trouble while it does not answer, or while what it did not take waits for it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use mmap_core::error::Errno;
use mmap_core::manager::MmapManager;
use mmap_core::vfs::Mount;
use mmap_proto::v1::file_service_server::SERVICE_NAME as FILE_SERVICE;
use mmap_proto::v1::mmap_service_server::SERVICE_NAME as MMAP_SERVICE;
use mmap_proto::v1::process_service_server::SERVICE_NAME as PROCESS_SERVICE;
use tokio::time::{Instant, sleep, timeout};
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};

/// The whole, and each service.
const NAMES: [&str; 4] = ["", MMAP_SERVICE, PROCESS_SERVICE, FILE_SERVICE];
/// Between two checks: a request a mount, cheap enough for a store that charges by the request (about 520,000
/// a month), quick enough for who waits for the service to come back.
const PERIOD: Duration = Duration::from_secs(5);
/// A mount that takes longer than this to answer does not serve anybody well.
const CHECK_TIME: Duration = Duration::from_secs(5);

/// Degraded: a store is in trouble.
const STORES: &str = "mmap.v1.stores";

/// Tells how the service is.
#[derive(Debug)]
pub(crate) struct Health {
    mounts: Vec<Arc<Mount>>,
    manager: Arc<MmapManager>,
    reporter: HealthReporter,
    /// The mounts that did not answer when they were asked last, and since when.
    silent: Arc<Mutex<BTreeMap<String, Instant>>>,
}

impl Health {
    /// The health of a server with these mounts; nothing is serving yet.
    pub(crate) async fn new(mounts: Vec<Arc<Mount>>, manager: Arc<MmapManager>) -> Self {
        let health = Self { mounts, manager, reporter: HealthReporter::new(), silent: Arc::default() };
        health.set_all(ServingStatus::NotServing).await;
        health
    }

    /// The service that answers.
    pub(crate) fn service(&self) -> HealthServer<HealthService> {
        HealthServer::new(HealthService::from_health_reporter(self.reporter.clone()))
    }

    /// Asks every mount, tells the outcome, and answers how each is.
    pub(crate) async fn check(&self) -> Vec<MountHealth> {
        let mounts = join_all(self.mounts.iter().map(|mount| ask(mount))).await;
        mounts.iter().for_each(|mount| self.tell(mount));
        let waiting = self.manager.troubles();
        let mut well = true;
        for mount in &mounts {
            let works = mount.trouble.is_none() && !waiting.iter().any(|trouble| trouble.mount == mount.prefix);
            well &= works;
            self.reporter.set_service_status(store_name(&mount.prefix), status(works)).await;
        }
        self.reporter.set_service_status(STORES, status(well)).await;
        for name in NAMES {
            self.reporter.set_service_status(name, ServingStatus::Serving).await;
        }
        mounts
    }

    /// Told when it changes: a store that is away for an hour is not 720 lines of log.
    fn tell(&self, mount: &MountHealth) {
        let mut silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        match (&mount.trouble, silent.get(&mount.prefix)) {
            (Some(_), None) => {
                tracing::warn!("degraded: a store does not answer; what is in memory is served: {mount}");
                silent.insert(mount.prefix.clone(), Instant::now());
            }
            (None, Some(since)) => {
                let seconds = since.elapsed().as_secs();
                tracing::info!(mount = mount.prefix, seconds, "the store answers again");
                silent.remove(&mount.prefix);
            }
            (Some(_), Some(_)) | (None, None) => {}
        }
    }

    /// Whether the mount of this prefix answered when it was asked last.
    pub(crate) fn answers(&self) -> impl Fn(&str) -> bool + Send + Sync + use<> {
        let silent = Arc::clone(&self.silent);
        move |prefix| !silent.lock().unwrap_or_else(PoisonError::into_inner).contains_key(prefix)
    }

    /// Checks again and again.
    pub(crate) async fn watch(&self) -> Infallible {
        loop {
            sleep(PERIOD).await;
            self.check().await;
        }
    }

    /// Tells that the server stops, also those that watch.
    pub(crate) async fn stop(&self) {
        self.set_all(ServingStatus::NotServing).await;
    }

    /// Ends the streams of those that watch, which would hold up the drain.
    pub(crate) async fn end(mut self) {
        for name in self.names() {
            self.reporter.clear_service_status(&name).await;
        }
    }

    async fn set_all(&self, status: ServingStatus) {
        for name in self.names() {
            self.reporter.set_service_status(name, status).await;
        }
    }

    fn names(&self) -> Vec<String> {
        let stores = self.mounts.iter().map(|mount| store_name(mount.prefix()));
        NAMES.into_iter().chain([STORES]).map(str::to_owned).chain(stores).collect()
    }
}

fn store_name(prefix: &str) -> String {
    format!("mmap.v1.store:{prefix}")
}

fn status(works: bool) -> ServingStatus {
    if works { ServingStatus::Serving } else { ServingStatus::NotServing }
}

/// How a mount is.
#[derive(Clone, Debug)]
pub(crate) struct MountHealth {
    prefix: String,
    url: String,
    /// Why it does not answer.
    trouble: Option<String>,
    /// It answered, and can never be served: what lies there is not what the mount says.
    refused: bool,
}

impl MountHealth {
    /// Why it can never be served, if so.
    pub(crate) fn refusal(&self) -> Option<&str> {
        self.trouble.as_deref().filter(|_| self.refused)
    }
}

impl fmt::Display for MountHealth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}", self.prefix, self.url)?;
        match &self.trouble {
            Some(why) => write!(f, " ({why})"),
            None => Ok(()),
        }
    }
}

async fn ask(mount: &Mount) -> MountHealth {
    let (trouble, refused) = match timeout(CHECK_TIME, mount.check()).await {
        Ok(Ok(())) => (None, false),
        Ok(Err(error)) => (Some(error.message().to_owned()), error.errno() == Errno::NotSup),
        Err(_) => (Some(format!("no answer within {} s", CHECK_TIME.as_secs())), false),
    };
    MountHealth { prefix: mount.prefix().to_owned(), url: mount.url().to_owned(), trouble, refused }
}
