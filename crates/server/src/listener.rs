//! [`Listener`]: a bound socket, and the stream of connections that come in through several of them.
//!
//! Invariants: a socket file that somebody answers on is never taken away; ours is removed with the listener,
//! unless it is no longer ours; it can be opened by its owner only, from its first moment on.

use std::fs::{self, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::{BoxStream, SelectAll, select_all, unfold};
use rustix::net::sockopt::set_socket_send_buffer_size;
use tokio::net::{TcpListener, UnixListener, UnixSocket};
use tokio::sync::Semaphore;
use tokio_util::either::Either;

use crate::config::{ListenAddr, dialable};
use crate::connection::{Accepted, Plain};
use crate::tls::Tls;

/// Connections that wait to be accepted; the kernel's own limit is most often higher.
const BACKLOG: u32 = 1024;
/// Bytes that a unix socket takes before its reader has to run. The kernel's default, 208 KiB with its own overhead,
/// is less than 64 answers of 4 KiB: both sides would wake each other up in the middle of every batch.
const UNIX_SEND_BUFFER: usize = 1 << 20;
/// Rest after a failed accept. It fails for lack of file descriptors, most often, and would at once again.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// A bound socket.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: Socket,
    addr: String,
    /// What its clients' handshakes are made with, if they speak TLS.
    tls: Option<Arc<Tls>>,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

/// A socket file of ours, removed when this is dropped.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl Listener {
    /// Binds `addr`.
    ///
    /// # Errors
    /// A sentence that says what is in the way and how to choose another address.
    pub(crate) async fn bind(addr: &ListenAddr) -> Result<Self, String> {
        match addr {
            ListenAddr::Tcp(addrs) => Self::bind_tcp(addrs).await.map_err(|error| in_the_way(addr, &error)),
            ListenAddr::Unix(path) => Self::bind_unix(path),
        }
    }

    /// The same listener, which speaks TLS if it is one of TCP.
    pub(crate) fn with_tls(mut self, tls: &Arc<Tls>) -> Self {
        if matches!(self.socket, Socket::Tcp(_)) {
            self.addr = format!("https://{}", self.addr);
            self.tls = Some(tls.clone());
        }
        self
    }

    /// The address as a client dials it.
    pub(crate) fn addr(&self) -> &str {
        &self.addr
    }

    async fn bind_tcp(addrs: &[SocketAddr]) -> io::Result<Self> {
        let listener = TcpListener::bind(addrs).await?;
        let addr = dialable(listener.local_addr()?).to_string();
        Ok(Self { socket: Socket::Tcp(listener), addr, tls: None })
    }

    fn bind_unix(path: &Path) -> Result<Self, String> {
        let shown = path.display();
        let failed = |error: io::Error| match error.kind() == io::ErrorKind::NotFound {
            true => format!("cannot listen on unix:{shown}: its folder is not there, make it first"),
            false => format!("cannot listen on unix:{shown}: {error}"),
        };
        remove_stale(path)?;
        let socket = UnixSocket::new_stream().map_err(failed)?;
        socket.bind(path).map_err(failed)?;
        // Between bind and listen nobody can connect, so that there is no moment with wider rights.
        let file = SocketFile::claim(path).map_err(failed)?;
        let listener = socket.listen(BACKLOG).map_err(failed)?;
        Ok(Self { socket: Socket::Unix(listener, file), addr: format!("unix:{shown}"), tls: None })
    }

    async fn accept(&self) -> io::Result<Plain> {
        match &self.socket {
            Socket::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // Answers are small and waited for: none is held back to be sent with the next.
                stream.set_nodelay(true)?;
                Ok(Either::Left(stream))
            }
            Socket::Unix(listener, _file) => {
                let (stream, _) = listener.accept().await?;
                // A preference: the kernel caps it at net.core.wmem_max, and works with less.
                if let Err(error) = set_socket_send_buffer_size(&stream, UNIX_SEND_BUFFER) {
                    tracing::debug!("the send buffer of a unix socket keeps its size: {error}");
                }
                Ok(Either::Right(stream))
            }
        }
    }
}

/// Why a port cannot be had, and what to do.
fn in_the_way(addr: &ListenAddr, error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::AddrInUse {
        return format!(
            "{addr} is in use by another program: stop it, or choose another port with --listen 127.0.0.1:0"
        );
    }
    if error.kind() == io::ErrorKind::PermissionDenied {
        return format!("{addr} may not be used by this user: choose a port from 1024 up with --listen");
    }
    format!("cannot listen on {addr}: {error}")
}

/// Removes the socket file of a server that is gone.
fn remove_stale(path: &Path) -> Result<(), String> {
    let shown = path.display();
    match fs::symlink_metadata(path) {
        Err(_) => return Ok(()),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(format!("{shown} is there and is no socket: remove it, or choose another path with --listen"));
        }
        Ok(_) => {}
    }
    match StdUnixStream::connect(path) {
        Ok(_) => Err(format!("another server answers on unix:{shown}: stop it, or choose another path with --listen")),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(|error| format!("the stale socket {shown} cannot be removed: {error}"))
        }
        Err(error) => Err(format!("whether a server answers on unix:{shown} cannot be found out: {error}")),
    }
}

impl SocketFile {
    fn claim(path: &Path) -> io::Result<Self> {
        fs::set_permissions(path, Permissions::from_mode(0o600))?;
        let metadata = fs::symlink_metadata(path)?;
        Ok(Self { path: path.to_owned(), identity: (metadata.dev(), metadata.ino()) })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == self.identity);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!("the socket {} cannot be removed: {error}", self.path.display());
        }
    }
}

/// The connections that come in through `listeners`, each with one of `places`. Handshakes are the affair of who takes
/// them: one that is slow must not hold up the next. Dropping the stream closes the listeners.
pub(crate) fn incoming(listeners: Vec<Listener>, places: &Arc<Semaphore>) -> SelectAll<BoxStream<'static, Accepted>> {
    select_all(listeners.into_iter().map(|listener| {
        let door = Door { listener, places: places.clone() };
        unfold(door, |door| async move { Some((door.next().await, door)) }).boxed()
    }))
}

/// Where connections come in, and what each is given.
struct Door {
    listener: Listener,
    places: Arc<Semaphore>,
}

impl Door {
    async fn next(&self) -> Accepted {
        let mut full = false;
        loop {
            let stream = match self.listener.accept().await {
                Ok(stream) => stream,
                Err(error) => {
                    tracing::warn!(listener = self.listener.addr(), "a connection could not be accepted: {error}");
                    tokio::time::sleep(ACCEPT_REST).await;
                    continue;
                }
            };
            match self.places.clone().try_acquire_owned() {
                Ok(place) => return Accepted { stream, place, tls: self.listener.tls.clone() },
                // Closed at once, and not left waiting: the client learns that it has to go elsewhere.
                Err(_) if !full => tracing::warn!("as many connections as there may be: closing new ones"),
                Err(_) => {}
            }
            full = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_in_use_is_told_with_the_way_out() {
        let first = Listener::bind(&ListenAddr::parse("127.0.0.1:0").unwrap()).await.unwrap();
        let sentence = Listener::bind(&ListenAddr::parse(first.addr()).unwrap()).await.unwrap_err();
        assert!(sentence.contains(first.addr()) && sentence.contains("--listen"), "{sentence}");
    }

    #[tokio::test]
    async fn a_socket_is_the_owners_alone_and_goes_with_its_listener() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.sock");
        let listener = Listener::bind(&ListenAddr::Unix(path.clone())).await.unwrap();
        assert_eq!(listener.addr(), format!("unix:{}", path.display()));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        drop(listener);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "the standard library leaves the file behind");
        let live = Listener::bind(&ListenAddr::Unix(path.clone())).await.unwrap();
        let sentence = Listener::bind(&ListenAddr::Unix(path.clone())).await.unwrap_err();
        assert!(sentence.contains("another server answers"), "{sentence}");
        assert!(path.exists());
        drop(live);
    }

    #[tokio::test]
    async fn what_is_no_socket_or_no_longer_ours_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.sock");
        fs::write(&path, "precious").unwrap();
        assert!(Listener::bind(&ListenAddr::Unix(path.clone())).await.unwrap_err().contains("no socket"));
        let nowhere = ListenAddr::Unix(dir.path().join("nowhere/m.sock"));
        assert!(Listener::bind(&nowhere).await.unwrap_err().contains("make it first"));
        fs::remove_file(&path).unwrap();
        let listener = Listener::bind(&ListenAddr::Unix(path.clone())).await.unwrap();
        let kept = dir.path().join("kept");
        fs::rename(&path, kept).unwrap();
        fs::write(&path, "precious").unwrap();
        drop(listener);
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }
}
