//! [`Tls`]: makes handshakes, and keeps the certificates those that lie in the files.
//!
//! Invariants: a handshake has a deadline; what is read and does not fit together changes nothing; connections that
//! stand keep what they were made with.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::time::{interval, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::{Error, InvalidMessage, ServerConfig};

use super::material::{Contents, Material};
use super::refusals::Refusals;
use crate::config::TlsFiles;

/// A client's stream of plain bytes over TLS.
pub(crate) type TlsStream = tokio_rustls::server::TlsStream<TcpStream>;

/// Time for a handshake: two round trips and a signature, with much room for a slow network.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// How often the files are looked at: a few KiB from the page cache.
const LOOK_PERIOD: Duration = Duration::from_secs(2);

/// The server's side of TLS.
#[derive(Debug)]
pub(crate) struct Tls {
    files: TlsFiles,
    present: Mutex<Arc<ServerConfig>>,
    /// What was found in the files last, good or bad.
    seen: Mutex<Found>,
    refusals: Refusals,
}

/// Files' fingerprint, or why they cannot be read.
type Found = Result<u64, String>;

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// A sentence that names the file at fault.
    pub(crate) async fn open(files: &TlsFiles) -> Result<Arc<Self>, String> {
        let files = files.clone();
        blocking(move || {
            let contents = Contents::read(&files)?;
            let material = Material::of(&files, &contents)?;
            material.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
            let seen = Mutex::new(Ok(contents.fingerprint()));
            Ok(Arc::new(Self { files, present: Mutex::new(material.config), seen, refusals: Refusals::default() }))
        })
        .await
    }

    /// Makes `stream` one of TLS, or tells why not.
    pub(crate) async fn accept(&self, stream: TcpStream) -> Option<Box<TlsStream>> {
        let peer = stream.peer_addr().ok();
        let config = self.present.lock().clone();
        let why = match timeout(HANDSHAKE_TIME, TlsAcceptor::from(config).accept(stream)).await {
            Ok(Ok(stream)) => return Some(Box::new(stream)),
            // A health check of the port, or a client that thought better of it.
            Ok(Err(error)) if is_left(&error) => {
                tracing::debug!("a client left during the handshake: {error}");
                return None;
            }
            Ok(Err(error)) => sentence(&error),
            Err(_) => format!("its handshake was not done within {HANDSHAKE_TIME:?}"),
        };
        self.refusals.tell(peer, &why);
        None
    }

    /// Reads the files again when they change, and when `hangups` asks for it.
    pub(crate) async fn watch(self: &Arc<Self>, hangups: impl Stream<Item = ()> + Send) -> Infallible {
        let mut hangups = std::pin::pin!(hangups.chain(futures::stream::pending()));
        let mut looks = interval(LOOK_PERIOD);
        loop {
            let asked = tokio::select! {
                _ = looks.tick() => false,
                _ = hangups.next() => true,
            };
            let tls = self.clone();
            let outcome = blocking(move || Ok(tls.renew())).await;
            match outcome {
                Ok(false) if asked => tracing::info!("the TLS files were read again: nothing has changed"),
                Ok(_) => {}
                Err(error) => tracing::error!("the TLS files could not be looked at: {error}"),
            }
        }
    }

    /// Looks at the files: whether there was anything new in them.
    fn renew(&self) -> bool {
        let contents = Contents::read(&self.files);
        let found = contents.as_ref().map(Contents::fingerprint).map_err(Clone::clone);
        if std::mem::replace(&mut *self.seen.lock(), found.clone()) == found {
            return false;
        }
        match contents.and_then(|contents| Material::of(&self.files, &contents)) {
            Ok(Material { config, warnings }) => {
                *self.present.lock() = config;
                tracing::info!(cert = %self.files.cert.display(), "new TLS files serve from now on");
                warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
            }
            // Certificate and key are two files: between the two writes they do not fit, which the next look mends.
            Err(why) => tracing::warn!("new TLS files are not used, those before go on: {why}"),
        }
        true
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, String> + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(error.to_string()))
}

fn is_left(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}

fn sentence(error: &io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(Error::InvalidMessage(InvalidMessage::InvalidContentType)) => {
            "it does not speak TLS, and this listener speaks nothing else".to_owned()
        }
        Some(Error::NoCertificatesPresented) => "it has no certificate, and --tls-client-ca wants one".to_owned(),
        Some(other) => other.to_string(),
        None => error.to_string(),
    }
}
