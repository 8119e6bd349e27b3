//! [`ask`]: the health of a running server, over its own protocol: what `mmapd health` does.
//!
//! It is a client, and shares nothing with the server but how files of TLS are read.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_util::either::Either;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::config::{HealthQuestion, ListenAddr, Trust};
use crate::tls::client_config;

type Stream = Either<Either<TcpStream, UnixStream>, Box<TlsStream<TcpStream>>>;

/// Asks: a sentence that says that it serves.
///
/// # Errors
/// A sentence that says why it does not, or why that is not known.
pub async fn ask(question: &HealthQuestion) -> Result<String, String> {
    let shown = Shown(question);
    let answer = tokio::time::timeout(question.timeout, exchange(question)).await;
    let status = answer.map_err(|_| format!("{shown} does not answer within {:?}", question.timeout))??;
    match status {
        ServingStatus::Serving => Ok(format!("{shown} is serving")),
        ServingStatus::NotServing => Err(format!("{shown} is not serving")),
        ServingStatus::ServiceUnknown | ServingStatus::Unknown => Err(format!("{shown} does not know how it is")),
    }
}

async fn exchange(question: &HealthQuestion) -> Result<ServingStatus, String> {
    let shown = Shown(question);
    let tls = tls(question).await?;
    // The connection is made here, where a failure is a sentence, and handed to the library, which wants a URL too.
    let stream = connect(question, tls).await.map_err(|error| format!("{shown} cannot be reached: {error}"))?;
    let mut once = Some(TokioIo::new(stream));
    let connector = tower::service_fn(move |_| {
        let stream = once.take().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected));
        std::future::ready(stream)
    });
    let failed = |error: &dyn std::error::Error| {
        let last = std::iter::successors(Some(error), |error| error.source()).last().map(ToString::to_string);
        format!("{shown} ended the connection: {}", last.unwrap_or_default())
    };
    let endpoint = Endpoint::from_static("http://localhost");
    let channel = endpoint.connect_with_connector(connector).await.map_err(|error| failed(&error))?;
    let request = HealthCheckRequest { service: question.service.clone() };
    match HealthClient::new(channel).check(request).await {
        Ok(answer) => Ok(answer.into_inner().status()),
        Err(status) if status.code() == tonic::Code::NotFound => {
            Err(format!("{shown} is none of its services: it knows mmap.v1.stores and the whole, which has no name"))
        }
        Err(status) => Err(failed(&status)),
    }
}

/// What the handshake is made with, if there is one.
async fn tls(question: &HealthQuestion) -> Result<Option<(Arc<ClientConfig>, ServerName<'static>)>, String> {
    let (authority, name) = match &question.trust {
        Trust::Plain => return Ok(None),
        Trust::Authority(file, name) => (Some(file.clone()), name.clone()),
        Trust::Own => (None, "localhost".to_owned()),
    };
    let name = ServerName::try_from(name).map_err(|error| format!("the server's name cannot be used: {error}"))?;
    let identity = question.identity.clone();
    let read = move || {
        let identity = identity.as_ref().map(|(cert, key)| (Path::new(cert), Path::new(key)));
        client_config(authority.as_deref(), identity)
    };
    let config = tokio::task::spawn_blocking(read).await.map_err(|error| error.to_string())??;
    Ok(Some((config, name)))
}

async fn connect(
    question: &HealthQuestion,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
) -> io::Result<Stream> {
    match &question.addr {
        ListenAddr::Unix(path) => Ok(Either::Left(Either::Right(UnixStream::connect(path).await?))),
        ListenAddr::Tcp(addrs) => {
            let tcp = TcpStream::connect(addrs.as_slice()).await?;
            match tls {
                None => Ok(Either::Left(Either::Left(tcp))),
                Some((config, name)) => {
                    Ok(Either::Right(Box::new(TlsConnector::from(config).connect(name, tcp).await?)))
                }
            }
        }
    }
}

/// Who is asked, in a sentence.
#[derive(Clone, Copy)]
struct Shown<'a>(&'a HealthQuestion);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.service.as_str() {
            "" => write!(f, "the server at {}", self.0.addr),
            service => write!(f, "{service} of the server at {}", self.0.addr),
        }
    }
}
