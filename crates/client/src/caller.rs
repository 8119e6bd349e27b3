//! Who calls and how: [`Caller`] puts headers and a deadline on a call, sends it and repeats it where that is safe.
//!
//! Every unary call of this crate goes through [`Caller::call`], so that no call is without a deadline.

use std::{future::Future, sync::Arc, time::Duration};

use mmap_proto::{names, v1};
use tokio::time::Instant;
use tonic::{
    Code, Request, Response, Status,
    metadata::{Ascii, MetadataValue},
};
use tonic_health::pb::health_client::HealthClient;
use v1::{
    file_service_client::FileServiceClient, mmap_service_client::MmapServiceClient,
    process_service_client::ProcessServiceClient,
};

use crate::{
    error::{Error, ErrorKind, Result},
    retry::{self, Repeat, RetryPolicy},
    transport::Service,
};

/// A deadline beyond this is none: a clock cannot overflow, and the header's eight digits hold it.
const DEADLINE_MAX: Duration = Duration::from_hours(365 * 24);

/// What is the same for every call of a client.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// For a call with all of its repeats.
    pub(crate) deadline: Duration,
    /// The value of `mmap-capabilities`; `None` sends no such header.
    pub(crate) capabilities: Option<MetadataValue<Ascii>>,
    pub(crate) retry: RetryPolicy,
    /// The largest answer that is taken, in encoded bytes.
    pub(crate) max_answer: usize,
}

/// A service with the identity that its calls carry. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    service: Service,
    settings: Arc<Settings>,
    pid: Option<u32>,
}

impl Caller {
    pub(crate) fn new(service: Service, settings: Settings) -> Self {
        Self { service, settings: Arc::new(settings), pid: None }
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The same caller speaking as the process `pid`.
    pub(crate) fn with_pid(&self, pid: u32) -> Self {
        Self { pid: Some(pid), ..self.clone() }
    }

    /// The same caller with another deadline for each call.
    pub(crate) fn with_deadline(&self, deadline: Duration) -> Self {
        let settings = Settings { deadline, ..Settings::clone(&self.settings) };
        Self { settings: Arc::new(settings), ..self.clone() }
    }

    /// Sends `message` by `send`, repeating it as `repeat` allows, until the deadline.
    pub(crate) async fn call<Q, R, F, Fut>(&self, repeat: Repeat, message: Q, send: F) -> Result<Response<R>>
    where
        Q: Clone + Send + Sync,
        R: Send,
        F: Fn(Stubs, Request<Q>) -> Fut + Send + Sync,
        Fut: Future<Output = std::result::Result<Response<R>, Status>> + Send,
    {
        let allowed = self.settings.deadline.min(DEADLINE_MAX);
        let deadline = Instant::now() + allowed;
        retry::run(self.settings.retry, repeat, deadline, || async {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::deadline(allowed));
            }
            let mut request = self.request(message.clone());
            request.set_timeout(left);
            match tokio::time::timeout(left, send(self.stubs(), request)).await {
                Ok(Ok(answer)) => Ok(answer),
                Ok(Err(status)) => {
                    let error = Error::from(status);
                    Err(if is_late(&error, deadline) { Error::deadline(allowed) } else { error })
                }
                Err(_) => Err(Error::deadline(allowed)),
            }
        })
        .await
    }

    /// `message` with the headers that say who calls, and no deadline.
    pub(crate) fn request<Q>(&self, message: Q) -> Request<Q> {
        let mut request = Request::new(message);
        if let Some(pid) = self.pid {
            request.metadata_mut().insert(names::PID, MetadataValue::from(pid));
        }
        if let Some(capabilities) = &self.settings.capabilities {
            request.metadata_mut().insert(names::CAPABILITIES, capabilities.clone());
        }
        request
    }

    pub(crate) fn stubs(&self) -> Stubs {
        Stubs { service: self.service.clone(), max_answer: self.settings.max_answer }
    }
}

/// Whether it is our deadline that ended the call, whoever noticed: tonic's channel, or tonic's server, which answers
/// a bare CANCELLED. An answer with a reason is the server's own and stays as it is.
fn is_late(error: &Error, deadline: Instant) -> bool {
    // Timers have a grain of 1 ms, and the header's value is cut off to it.
    let is_due = Instant::now() + Duration::from_millis(5) >= deadline;
    let is_bare = error.kind() == ErrorKind::Server && error.reason().is_none();
    error.kind() == ErrorKind::Deadline
        || (is_bare && error.code() == Code::DeadlineExceeded)
        || (is_bare && error.code() == Code::Cancelled && is_due)
}

/// The generated clients, made where they are used.
pub(crate) struct Stubs {
    service: Service,
    max_answer: usize,
}

impl Stubs {
    pub(crate) fn mmap(self) -> MmapServiceClient<Service> {
        MmapServiceClient::new(self.service).max_decoding_message_size(self.max_answer)
    }

    pub(crate) fn process(self) -> ProcessServiceClient<Service> {
        ProcessServiceClient::new(self.service).max_decoding_message_size(self.max_answer)
    }

    pub(crate) fn file(self) -> FileServiceClient<Service> {
        FileServiceClient::new(self.service).max_decoding_message_size(self.max_answer)
    }

    pub(crate) fn health(self) -> HealthClient<Service> {
        HealthClient::new(self.service)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_deadline_is_told_as_one_whoever_noticed_it() {
        let due = Instant::now();
        let far = due + Duration::from_mins(1);
        let bare = |code| Error::from(Status::new(code, "Timeout expired"));
        assert!(is_late(&bare(Code::Cancelled), due));
        assert!(!is_late(&bare(Code::Cancelled), far), "somebody else cancelled it");
        assert!(is_late(&bare(Code::DeadlineExceeded), far));
        assert!(!is_late(&bare(Code::Unavailable), due), "a failure at the last moment is still that failure");
        assert!(is_late(&Error::from(Status::from_error(Box::new(tonic::TimeoutExpired(())))), far));
    }
}
