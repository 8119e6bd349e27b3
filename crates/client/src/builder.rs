//! Making a client: [`ClientBuilder`], its defaults, and what carries the calls.

use std::{fmt, path::PathBuf, time::Duration};

use bytes::Bytes;
use tonic::{
    body::Body,
    codegen::{Body as HttpBody, StdError},
    metadata::MetadataValue,
    service::Interceptor,
    transport::Channel,
};

use crate::{
    caller::{Caller, Settings},
    client::Client,
    error::Result,
    mapping::MESSAGE_MAX,
    retry::RetryPolicy,
    token::Token,
    transport::{self, Service},
    types::Capability,
};

/// What an answer may have beside its data: field tags, and the entries of a list's page.
const ANSWER_SLACK: usize = 64 << 10;

/// More connections than this are not made, whatever is asked for.
const CONNECTIONS_MAX: usize = 16;

type Wrap = Box<dyn Fn(Service) -> Service + Send>;

/// Settings of a client that is being made by [`Client::builder`].
#[must_use = "a builder does nothing until it connects"]
pub struct ClientBuilder {
    connect_timeout: Duration,
    deadline: Duration,
    capabilities: Vec<Capability>,
    retry: RetryPolicy,
    max_message: usize,
    connections: usize,
    token: Option<Token>,
    wraps: Vec<Wrap>,
}

impl Default for ClientBuilder {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            deadline: Duration::from_secs(30),
            capabilities: vec![Capability::FileRead, Capability::FileWrite],
            retry: RetryPolicy::default(),
            max_message: MESSAGE_MAX,
            connections: 2,
            token: None,
            wraps: Vec::new(),
        }
    }
}

impl Client {
    /// Connects to `address`, as `mmapd` prints it: `127.0.0.1:50051`, `http://…` or `unix:/path`.
    ///
    /// # Errors
    /// As [`ClientBuilder::connect`].
    pub async fn connect(address: &str) -> Result<Self> {
        Self::builder().connect(address).await
    }

    /// A client with other settings than the defaults.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    /// Uses a channel of your own, say one with TLS. See [`ClientBuilder::service`].
    pub fn from_channel(channel: Channel) -> Self {
        Self::builder().service(channel)
    }
}

impl ClientBuilder {
    /// How long making a connection may take. Default: 5 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long a call may take, its repeats included; sent as `grpc-timeout`. Default: 30 s.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// What the client claims to be allowed. Default: `FileRead` and `FileWrite`. With none the header is not sent,
    /// as a server with token authentication wants it.
    pub fn capabilities(mut self, capabilities: impl IntoIterator<Item = Capability>) -> Self {
        self.capabilities = capabilities.into_iter().collect();
        self
    }

    /// Shows this token to the server (`authorization: Bearer …`). The token says what the client may do: its
    /// [`capabilities`](Self::capabilities) are not sent beside it.
    pub fn token(mut self, token: impl AsRef<str>) -> Self {
        self.token = Some(Token::given(token.as_ref()));
        self
    }

    /// As [`token`](Self::token), from a file that is read again when it changes (it is looked at once a second at most).
    /// Put a new token there before the old one ends: then processes stay attached, and small reads and writes go on. A
    /// [`ReadStream`](crate::ReadStream) that the server ends with the old token fails, as a stream of writes does.
    pub fn token_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.token = Some(Token::file(path.into()));
        self
    }

    /// What is repeated, how often. See [`RetryPolicy`] and [`retry`](crate::retry).
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = policy;
        self
    }

    /// The largest data of one answer that is taken. Default: 4 MiB, as a server's `--max-message`.
    pub fn max_message(mut self, bytes: usize) -> Self {
        self.max_message = bytes;
        self
    }

    /// How many connections to make at most, 1 to 16. Default: 2. All but the first are made when they are needed: the last
    /// one carries what is large, so that nothing small waits behind it, and each takes the small reads and writes of
    /// a process of which 256 are under way on every one before it.
    pub fn connections(mut self, connections: usize) -> Self {
        self.connections = connections.clamp(1, CONNECTIONS_MAX);
        self
    }

    /// Lets `interceptor` see and change every call's headers: an `authorization`, a `traceparent`. The last one
    /// given is the first to run. The small reads and writes of a process share a stream, and with it its headers.
    pub fn interceptor<I>(mut self, interceptor: I) -> Self
    where
        I: Interceptor + Clone + Send + Sync + 'static,
    {
        self.wraps.push(Box::new(move |service| transport::intercepted(service, interceptor.clone())));
        self
    }

    /// Connects to `address`: `host:port`, `http://host:port` or `unix:/path`, as `mmapd` prints it.
    ///
    /// Cancel safe. Later breaks of the connection heal by themselves: the next call connects again.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::error::ErrorKind::Usage) for a bad address,
    /// [`ErrorKind::Connect`](crate::error::ErrorKind::Connect) if nobody answers there.
    pub async fn connect(self, address: &str) -> Result<Client> {
        let first = transport::connect(address, self.connect_timeout).await?;
        self.with_others(first, address)
    }

    /// As [`connect`](Self::connect), but the connection is made by the first call. Needs a tokio runtime around it.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::error::ErrorKind::Usage) for a bad address.
    pub fn connect_lazy(self, address: &str) -> Result<Client> {
        let first = transport::endpoint(address, self.connect_timeout)?.connect_lazy();
        self.with_others(first, address)
    }

    fn with_others(self, first: Channel, address: &str) -> Result<Client> {
        let endpoint = transport::endpoint(address, self.connect_timeout)?;
        let others = (1..self.connections).map(|_| endpoint.connect_lazy());
        let services = std::iter::once(first).chain(others).map(transport::boxed).collect();
        Ok(self.client(services))
    }

    /// Uses `service` to carry the calls: a tonic channel of your own (with TLS, over several servers, in memory), or
    /// any tower service over one. The connection's settings are then its affair, and there is only this one; for
    /// speed give it the frames and windows that [`connect`](Self::connect) uses: `max_frame_size` of 1 MiB, windows of
    /// 4 MiB a stream and 16 MiB a connection.
    pub fn service<S, B>(self, service: S) -> Client
    where
        S: tower::Service<http::Request<Body>, Response = http::Response<B>> + Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
        S::Error: Into<StdError> + 'static,
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<StdError>,
    {
        let service = transport::boxed(service);
        self.client(vec![service])
    }

    fn client(self, services: Vec<Service>) -> Client {
        let names: Vec<_> = self.capabilities.iter().map(|capability| capability.as_str()).collect();
        // The names are ASCII letters, so they always make a header.
        let capabilities =
            MetadataValue::try_from(names.join(",")).ok().filter(|_| !names.is_empty() && self.token.is_none());
        let settings = Settings {
            deadline: self.deadline,
            capabilities,
            token: self.token.clone(),
            retry: self.retry,
            max_answer: self.max_message.saturating_add(ANSWER_SLACK),
        };
        let wrapped = |service| self.wraps.iter().fold(service, |service, wrap| wrap(service));
        Client::new(Caller::new(services.into_iter().map(wrapped).collect(), settings))
    }
}

impl fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBuilder").field("deadline", &self.deadline).finish_non_exhaustive()
    }
}
