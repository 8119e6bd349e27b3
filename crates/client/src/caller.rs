//! Who calls and how: [`Caller`] puts headers and a deadline on a call, sends it and repeats it where that is safe.
//!
//! Every unary call of this crate goes through [`Caller::call`], so that no call is without a deadline.

use std::{future::Future, sync::Arc, time::Duration};

use http::{HeaderValue, header};
use mmap_proto::{names, v1};
use tokio::time::Instant;
use tonic::{
    Code, GrpcMethod, Request, Response, Status,
    body::Body,
    metadata::{Ascii, MetadataValue},
};
use tonic_health::pb::health_client::HealthClient;
use tower::ServiceExt as _;
use v1::{
    file_service_client::FileServiceClient, mmap_service_client::MmapServiceClient,
    process_service_client::ProcessServiceClient,
};

use crate::{
    error::{Error, ErrorKind, Result},
    framing::Messages,
    retry::{self, Repeat, RetryPolicy},
    token::Token,
    trace::Hook,
    transport::Service,
};

/// Whose methods are called past the generated clients.
const SERVICE_NAME: &str = "mmap.v1.MmapService";
/// A deadline beyond this is none: a clock cannot overflow, and the header's eight digits hold it.
const DEADLINE_MAX: Duration = Duration::from_hours(365 * 24);

/// What is the same for every call of a client.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// For a call with all of its repeats.
    pub(crate) deadline: Duration,
    /// The value of `mmap-capabilities`; `None` sends no such header.
    pub(crate) capabilities: Option<MetadataValue<Ascii>>,
    /// In whose stead capabilities are not sent.
    pub(crate) token: Option<Token>,
    pub(crate) retry: RetryPolicy,
    /// Says where in its trace a caller is.
    pub(crate) trace: Option<Hook>,
    /// The largest answer that is taken, in encoded bytes.
    pub(crate) max_answer: usize,
}

/// Services with the identity that their calls carry. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// One a connection, at least one.
    services: Arc<[Service]>,
    /// Which one of them carries the calls.
    connection: usize,
    settings: Arc<Settings>,
    pid: Option<u32>,
}

impl Caller {
    /// `services` has at least one: the first carries the calls.
    pub(crate) fn new(services: Vec<Service>, settings: Settings) -> Self {
        Self { services: services.into(), connection: 0, settings: Arc::new(settings), pid: None }
    }

    pub(crate) fn connections(&self) -> usize {
        self.services.len()
    }

    /// The same caller over another connection.
    pub(crate) fn over(&self, connection: usize) -> Self {
        Self { connection: connection.min(self.services.len() - 1), ..self.clone() }
    }

    /// The same caller over the last connection, for what is large: a small call would have to wait until megabytes
    /// before it have gone through the socket.
    pub(crate) fn bulk(&self) -> Self {
        self.over(usize::MAX)
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Whether a token that is refused may be followed by one that is not.
    pub(crate) fn renews_token(&self) -> bool {
        self.settings.token.as_ref().is_some_and(Token::is_renewed)
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

    /// The same caller without a trace: for what many share.
    pub(crate) fn untraced(&self) -> Self {
        let settings = Settings { trace: None, ..Settings::clone(&self.settings) };
        Self { settings: Arc::new(settings), ..self.clone() }
    }

    /// Whether the calling task's trace is recorded.
    pub(crate) fn is_sampled(&self) -> bool {
        self.settings.trace.as_ref().is_some_and(Hook::is_sampled)
    }

    /// Sends `message` by `send`, repeating it as `repeat` allows, until the deadline.
    pub(crate) async fn call<Q, R, F, Fut>(&self, repeat: Repeat, message: Q, send: F) -> Result<Response<R>>
    where
        Q: Clone + Send + Sync,
        R: Send,
        F: Fn(Stubs, Request<Q>) -> Fut + Send + Sync,
        Fut: Future<Output = std::result::Result<Response<R>, Status>> + Send,
    {
        let allowed = self.allowed();
        let deadline = Instant::now() + allowed;
        retry::run(self.settings.retry, repeat, deadline, || async {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::deadline(allowed));
            }
            let mut request = self.request(message.clone()).await?;
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
    pub(crate) async fn request<Q: Send>(&self, message: Q) -> Result<Request<Q>> {
        let mut request = Request::new(message);
        if let Some(pid) = self.pid {
            request.metadata_mut().insert(names::PID, MetadataValue::from(pid));
        }
        if let Some(capabilities) = &self.settings.capabilities {
            request.metadata_mut().insert(names::CAPABILITIES, capabilities.clone());
        }
        if let Some(trace) = &self.settings.trace {
            trace.tell(request.metadata_mut());
        }
        if let Some(token) = &self.settings.token {
            request.metadata_mut().as_mut().insert(header::AUTHORIZATION, token.value().await?);
        }
        Ok(request)
    }

    /// How long a call may take with all of its repeats.
    pub(crate) fn allowed(&self) -> Duration {
        self.settings.deadline.min(DEADLINE_MAX)
    }

    /// Opens a stream of `MmapService` that sends `body`. Without a deadline: that is the affair of who reads it.
    pub(crate) async fn open(&self, method: &'static str, body: Body) -> Result<Messages> {
        let (metadata, _, body) = self.request(body).await?.into_parts();
        let mut request = http::Request::new(body);
        *request.method_mut() = http::Method::POST;
        *request.version_mut() = http::Version::HTTP_2;
        let uri = format!("/{SERVICE_NAME}/{method}").try_into();
        *request.uri_mut() = uri.map_err(|_| Error::usage(format!("{method} is no method's name")))?;
        *request.headers_mut() = metadata.into_headers();
        request.headers_mut().insert(header::TE, HeaderValue::from_static("trailers"));
        request.headers_mut().insert(header::CONTENT_TYPE, tonic::metadata::GRPC_CONTENT_TYPE);
        request.extensions_mut().insert(GrpcMethod::new(SERVICE_NAME, method));
        let service = self.services[self.connection].clone();
        Messages::new(service.oneshot(request).await?, self.settings.max_answer)
    }

    pub(crate) fn stubs(&self) -> Stubs {
        Stubs { service: self.services[self.connection].clone(), max_answer: self.settings.max_answer }
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
