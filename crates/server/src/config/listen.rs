//! [`ListenAddr`]: where the server listens, as it is asked for.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

/// Bytes of the longest path that fits in a `sockaddr_un` beside its terminating NUL.
const UNIX_PATH_MAX: usize = 107;

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddr {
    /// The first of these that can be bound: what one `host:port` resolved to.
    Tcp(Vec<SocketAddr>),
    /// A socket file.
    Unix(PathBuf),
}

impl ListenAddr {
    /// Reads `host:port` or `unix:/path`; a host name is resolved.
    ///
    /// # Errors
    /// A sentence that says how an address is written.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:") {
            // gRPC's names for sockets allow both `unix:/path` and `unix:///path`.
            Some(path) => Self::unix(text, path.strip_prefix("//").unwrap_or(path)),
            None => Self::tcp(text),
        }
    }

    fn unix(text: &str, path: &str) -> Result<Self, String> {
        if !path.starts_with('/') || path.ends_with('/') || path.contains('\0') {
            return Err(format!("`{text}` is not an address: a socket is written unix:/path/of/the.sock"));
        }
        if path.len() > UNIX_PATH_MAX {
            return Err(format!(
                "the socket path of `{text}` has more than {UNIX_PATH_MAX} bytes: choose a shorter one"
            ));
        }
        Ok(Self::Unix(Path::new(path).to_owned()))
    }

    fn tcp(text: &str) -> Result<Self, String> {
        let well_formed =
            text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
        if !well_formed {
            return Err(format!("`{text}` is not an address: write host:port (127.0.0.1:50051) or unix:/path"));
        }
        match text.to_socket_addrs().map(Iterator::collect::<Vec<_>>) {
            Ok(addrs) if !addrs.is_empty() => Ok(Self::Tcp(addrs)),
            Ok(_) => Err(format!("`{text}` has no address: check the host's name")),
            Err(error) => Err(format!("`{text}` cannot be resolved: {error}")),
        }
    }

    /// The same with each address of TCP changed by `change`.
    pub(super) fn map_tcp(self, change: impl Fn(SocketAddr) -> SocketAddr) -> Self {
        match self {
            Self::Tcp(addrs) => Self::Tcp(addrs.into_iter().map(change).collect()),
            Self::Unix(path) => Self::Unix(path),
        }
    }

    /// Whether only programs of this machine can reach it.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(addrs) => addrs.iter().all(|addr| addr.ip().to_canonical().is_loopback()),
            Self::Unix(_) => true,
        }
    }
}

/// What a client on this machine dials to reach a socket that is bound to `addr`.
pub(crate) fn dialable(addr: SocketAddr) -> SocketAddr {
    match addr {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => (Ipv4Addr::LOCALHOST, v4.port()).into(),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => (Ipv6Addr::LOCALHOST, v6.port()).into(),
        SocketAddr::V4(_) | SocketAddr::V6(_) => addr,
    }
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addrs) => match addrs.first() {
                Some(addr) => addr.fmt(f),
                None => f.write_str("nowhere"),
            },
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_host_and_port_or_a_socket_file() {
        assert_eq!(ListenAddr::parse("127.0.0.1:0").unwrap().to_string(), "127.0.0.1:0");
        assert_eq!(ListenAddr::parse("[::1]:50051").unwrap().to_string(), "[::1]:50051");
        assert!(ListenAddr::parse("localhost:50051").unwrap().is_local());
        for text in ["unix:/run/m.sock", "unix:///run/m.sock"] {
            assert_eq!(ListenAddr::parse(text).unwrap(), ListenAddr::Unix("/run/m.sock".into()));
        }
    }

    #[test]
    fn the_address_told_is_one_that_a_client_can_dial() {
        for (bound, told) in [("0.0.0.0:5", "127.0.0.1:5"), ("[::]:5", "[::1]:5"), ("10.0.0.1:5", "10.0.0.1:5")] {
            assert_eq!(dialable(bound.parse().unwrap()).to_string(), told);
        }
    }

    #[test]
    fn what_is_not_an_address_is_refused() {
        let long = format!("unix:/{}", "x".repeat(UNIX_PATH_MAX));
        for text in [
            "",
            "50051",
            ":50051",
            "127.0.0.1",
            "127.0.0.1:",
            "127.0.0.1:70000",
            "unix:",
            "unix:m.sock",
            "unix:/m/",
            &long,
        ] {
            assert!(ListenAddr::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn only_loopback_and_sockets_are_local() {
        for (text, local) in [
            ("127.0.0.1:1", true),
            ("127.9.9.9:1", true),
            ("[::1]:1", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("unix:/m.sock", true),
            ("0.0.0.0:1", false),
            ("[::]:1", false),
            ("10.0.0.1:1", false),
        ] {
            assert_eq!(ListenAddr::parse(text).unwrap().is_local(), local, "{text}");
        }
    }
}
