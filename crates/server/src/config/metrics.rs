//! [`MetricsConfig`]: where metrics are told.
//!
//! Invariant: nowhere unless it is asked for, and beyond this machine only if that was said to be wanted.

use std::net::SocketAddr;

use super::listen::ListenAddr;
use super::refusal::Refusal;
use super::sources::Settings;

/// The key of the address.
const LISTEN: &str = "metrics-listen";

/// Where metrics are told.
#[derive(Clone, Debug, Default)]
pub struct MetricsConfig {
    /// The first of these that can be bound; none: nowhere.
    pub listen: Vec<SocketAddr>,
}

impl MetricsConfig {
    /// As it is set; `insecure`: whether listening beyond this machine is wanted.
    ///
    /// # Errors
    /// What is wrong, with where it stands.
    pub(super) fn of(settings: &Settings, insecure: bool) -> Result<Self, Refusal> {
        let listen = settings.one(LISTEN, parse)?.unwrap_or_default();
        match listen.iter().find(|addr| !addr.ip().to_canonical().is_loopback()) {
            Some(addr) if !insecure => Err(settings.refuse(LISTEN, &exposed(addr))),
            _ => Ok(Self { listen }),
        }
    }
}

fn parse(text: &str) -> Result<Vec<SocketAddr>, String> {
    match ListenAddr::parse(text)? {
        ListenAddr::Tcp(addrs) => Ok(addrs),
        ListenAddr::Unix(_) => {
            Err(format!("`{text}` is a socket file, which Prometheus cannot scrape: write host:port"))
        }
    }
}

fn exposed(addr: &SocketAddr) -> String {
    format!(
        "{addr} can be reached from other machines, and metrics are told to whoever asks, unencrypted: the paths of \
         mounts, and how much is done: listen on 127.0.0.1, or add --insecure if the network is trusted"
    )
}
