//! Making a client: [`ClientBuilder`], its defaults, and what carries the calls.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use tonic::{
    body::Body,
    codegen::{Body as HttpBody, StdError},
    metadata::MetadataValue,
    service::Interceptor,
    transport::{Channel, Endpoint},
};

use crate::{
    caller::{Caller, Settings},
    client::Client,
    error::{Error, Result},
    mapping::MESSAGE_MAX,
    retry::RetryPolicy,
    tls::{self, Tls},
    token::Token,
    trace::{Hook, TraceContext},
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
    tls: Tls,
    trace: Option<Hook>,
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
            tls: Tls::default(),
            trace: None,
            wraps: Vec::new(),
        }
    }
}

impl Client {
    /// Connects to `address`, as `mmapd` prints it: `127.0.0.1:50051`, `https://…` or `unix:/path`.
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

    /// Uses a channel of your own. See [`ClientBuilder::service`].
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

    /// Trusts servers whose certificates are of one of the authorities in `pem`, for an address `https://…`. Without it
    /// those of the system are trusted. May be called again.
    pub fn ca_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.tls.add_authorities(pem.into());
        self
    }

    /// As [`ca_pem`](Self::ca_pem), from a file, which is read here and now.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::error::ErrorKind::Usage) if it cannot be read.
    pub fn ca_file(self, file: impl AsRef<Path>) -> Result<Self> {
        Ok(self.ca_pem(tls::read(file.as_ref())?))
    }

    /// Shows this certificate to a server that asks for one (`--tls-client-ca`): PEM, the key without a passphrase.
    pub fn identity_pem(mut self, cert: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        self.tls.set_identity(cert.into(), key.into());
        self
    }

    /// As [`identity_pem`](Self::identity_pem), from files, which are read here and now.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::error::ErrorKind::Usage) if one cannot be read.
    pub fn identity_files(self, cert: impl AsRef<Path>, key: impl AsRef<Path>) -> Result<Self> {
        Ok(self.identity_pem(tls::read(cert.as_ref())?, tls::read(key.as_ref())?))
    }

    /// Expects the server's certificate to be for `name`, where the address has another host.
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.tls.set_server_name(name.into());
        self
    }

    /// Asks `hook` before each call where the calling task is in its trace, and tells the server, which goes on from
    /// there. See [the crate's page](crate#traces). An operation of a trace that is recorded is a call of its own: the
    /// stream that small reads and writes share is nobody's.
    pub fn trace(mut self, hook: impl Fn() -> Option<TraceContext> + Send + Sync + 'static) -> Self {
        self.trace = Some(Hook::new(hook));
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

    /// Connects to `address`: `host:port`, `https://host:port` or `unix:/path`, as `mmapd` prints it.
    ///
    /// Cancel safe. Later breaks of the connection heal by themselves: the next call connects again.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::error::ErrorKind::Usage) for a bad address,
    /// [`ErrorKind::Connect`](crate::error::ErrorKind::Connect) if nobody answers there.
    pub async fn connect(self, address: &str) -> Result<Client> {
        let (at, timeout, tls) = (address.to_owned(), self.connect_timeout, self.tls.clone());
        let endpoint = match address.starts_with("https:") {
            // The system's authorities are files.
            true => tokio::task::spawn_blocking(move || transport::endpoint(&at, timeout, &tls))
                .await
                .map_err(|error| Error::usage(error.to_string()))??,
            false => transport::endpoint(&at, timeout, &tls)?,
        };
        let first = transport::connect(address, &endpoint, self.connect_timeout).await?;
        Ok(self.with_others(first, &endpoint))
    }

    /// As [`connect`](Self::connect), but the connection is made by the first call. Needs a tokio runtime around it.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::error::ErrorKind::Usage) for a bad address.
    pub fn connect_lazy(self, address: &str) -> Result<Client> {
        let endpoint = transport::endpoint(address, self.connect_timeout, &self.tls)?;
        let first = endpoint.connect_lazy();
        Ok(self.with_others(first, &endpoint))
    }

    fn with_others(self, first: Channel, endpoint: &Endpoint) -> Client {
        let others = (1..self.connections).map(|_| endpoint.connect_lazy());
        let services = std::iter::once(first).chain(others).map(transport::boxed).collect();
        self.client(services)
    }

    /// Uses `service` to carry the calls: a tonic channel of your own (over several servers, in memory), or
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
            trace: self.trace,
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
