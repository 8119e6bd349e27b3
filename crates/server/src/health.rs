//! [`Health`]: `grpc.health.v1` for the whole and for each service. SERVING only while every mount answers.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::join_all;
use mmap_core::error::Errno;
use mmap_core::vfs::Mount;
use mmap_proto::v1::file_service_server::SERVICE_NAME as FILE_SERVICE;
use mmap_proto::v1::mmap_service_server::SERVICE_NAME as MMAP_SERVICE;
use mmap_proto::v1::process_service_server::SERVICE_NAME as PROCESS_SERVICE;
use tokio::time::{sleep, timeout};
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

/// Tells how the service is.
#[derive(Debug)]
pub(crate) struct Health {
    mounts: Vec<Arc<Mount>>,
    reporter: HealthReporter,
    well: AtomicBool,
}

impl Health {
    /// The health of a server with these mounts; nothing is serving yet.
    pub(crate) async fn new(mounts: Vec<Arc<Mount>>) -> Self {
        let health = Self { mounts, reporter: HealthReporter::new(), well: AtomicBool::new(true) };
        health.set(ServingStatus::NotServing).await;
        health
    }

    /// The service that answers.
    pub(crate) fn service(&self) -> HealthServer<HealthService> {
        HealthServer::new(HealthService::from_health_reporter(self.reporter.clone()))
    }

    /// Asks every mount, tells the outcome, and answers how each is.
    pub(crate) async fn check(&self) -> Vec<MountHealth> {
        let mounts = join_all(self.mounts.iter().map(|mount| ask(mount))).await;
        let silent: Vec<String> =
            mounts.iter().filter(|mount| mount.trouble.is_some()).map(ToString::to_string).collect();
        let well = silent.is_empty();
        // Told once, when it changes: a store that is away for an hour is not 720 lines of log.
        if self.well.swap(well, Ordering::Relaxed) != well {
            match well {
                true => tracing::info!("every mount answers again"),
                false => tracing::error!("not serving until every mount answers: {}", silent.join("; ")),
            }
        }
        self.set(if well { ServingStatus::Serving } else { ServingStatus::NotServing }).await;
        mounts
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
        self.set(ServingStatus::NotServing).await;
    }

    /// Ends the streams of those that watch, which would hold up the drain.
    pub(crate) async fn end(mut self) {
        for name in NAMES {
            self.reporter.clear_service_status(name).await;
        }
    }

    async fn set(&self, status: ServingStatus) {
        for name in NAMES {
            self.reporter.set_service_status(name, status).await;
        }
    }
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
