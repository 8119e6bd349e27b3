//! [`HealthQuestion`]: whom `mmapd health` asks for what.
//!
//! Without `--server` it asks the server that this very configuration would start: a container's health check has the
//! same environment as the server beside it, and so nothing to repeat.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Arg, ArgMatches, Command};

use super::keys::CONFIG;
use super::listen::{ListenAddr, dialable};
use super::quantity::parse_time;
use super::refusal::Refusal;
use super::sources::Settings;
use super::tls::TlsFiles;
use super::validated::default_listen;

/// How the server's certificate is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// It speaks no TLS.
    Plain,
    /// It must be of one of the authorities in this file, and for this name.
    Authority(PathBuf, String),
    /// Any will do: it is the server of one's own configuration, at its own address, and nothing secret is sent.
    Own,
}

/// Whom `mmapd health` asks for what.
#[derive(Clone, Debug)]
pub struct HealthQuestion {
    /// Where the server is.
    pub addr: ListenAddr,
    /// How its certificate is looked at.
    pub trust: Trust,
    /// The certificate and the key to show, if the server asks for them.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The service that is asked for; the whole where it is empty.
    pub service: String,
    /// How long all of it may take.
    pub timeout: Duration,
}

/// The arguments of `mmapd health`.
pub(super) fn health_command() -> Command {
    let arg = |name: &'static str, value, help: &'static str| Arg::new(name).long(name).value_name(value).help(help);
    // Their ids are not those of the server's own settings, which mean the other side of the connection.
    let own = |name: &'static str, id: &'static str, help| arg(name, "FILE", help).id(id);
    Command::new("health")
        .about("Ask a running server for its health: exit code 0 if it serves, 1 if not")
        .arg(arg(
            "server",
            "ADDR",
            "host:port, https://host:port or unix:/path [default: the first address to listen on \
             of the configuration; there any certificate will do]",
        ))
        .arg(arg("service", "NAME", "What to ask for, such as mmap.v1.stores [default: the whole]"))
        .arg(arg("timeout", "TIME", "How long it may take").default_value("2s"))
        .arg(own("tls-ca", "health-ca", "PEM file with the authority of the server's certificate"))
        .arg(own("tls-cert", "health-cert", "PEM file with a certificate to show [default: the server's own]"))
        .arg(own("tls-key", "health-key", "PEM file with the private key of --tls-cert"))
        .arg(
            own("tls-server-name", "health-name", "Name in the server's certificate [default: the address's host]")
                .value_name("NAME"),
        )
        .arg(arg(CONFIG, "FILE", "The server's configuration file [env: MMAPD_CONFIG]"))
}

impl HealthQuestion {
    /// The question that the arguments and the configuration ask.
    ///
    /// # Errors
    /// What is wrong with either.
    pub(super) fn read(matches: &ArgMatches, env: &dyn Fn(&str) -> Option<OsString>) -> Result<Self, Refusal> {
        let text = |id: &str| matches.get_one::<String>(id).cloned();
        let file = |id: &str| text(id).map(PathBuf::from);
        let wrong = |flag: &str, what: &str| Refusal::Wrong(format!("--{flag}: {what}"));
        let settings = Settings::of(matches, env)?;
        let files = TlsFiles::read(&settings)?;
        let (asked, is_secure) = match text("server") {
            Some(server) => {
                let (addr, is_secure) = server
                    .strip_prefix("https://")
                    .map(|rest| (rest, true))
                    .unwrap_or_else(|| (server.strip_prefix("http://").unwrap_or(&server), false));
                (addr.to_owned(), is_secure)
            }
            None => {
                let first = settings.many("listen", |text| Ok(text.to_owned()))?.into_iter().next();
                let first = first.unwrap_or_else(|| default_listen().iter().map(ToString::to_string).collect());
                let is_secure = files.is_some() && !first.starts_with("unix:");
                (first, is_secure)
            }
        };
        let addr = ListenAddr::parse(&asked).map_err(|what| wrong("server", &what))?;
        let trust = match (is_secure, file("health-ca"), text("server")) {
            (false, None, _) => Trust::Plain,
            (false, Some(_), _) => {
                return Err(wrong("tls-ca", "the address is not one of TLS: write https://host:port"));
            }
            (true, Some(ca), _) => Trust::Authority(ca, text("health-name").unwrap_or_else(|| host(&asked))),
            (true, None, None) => Trust::Own,
            (true, None, Some(_)) => return Err(wrong("server", "whose certificate is right: add --tls-ca FILE")),
        };
        let identity = match (file("health-cert"), file("health-key")) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => files.filter(|files| files.client_ca.is_some()).map(|files| (files.cert, files.key)),
            _ => return Err(wrong("tls-cert", "a certificate and its --tls-key go together: give both")),
        };
        let timeout =
            text("timeout").map(|text| parse_time(&text)).transpose().map_err(|what| wrong("timeout", &what))?;
        Ok(Self {
            addr: addr.map_tcp(dialable),
            trust,
            identity: identity.filter(|_| is_secure),
            service: text("service").unwrap_or_default(),
            timeout: timeout.unwrap_or(Duration::from_secs(2)),
        })
    }
}

/// The host of `host:port`, without the brackets of an IPv6 address.
fn host(addr: &str) -> String {
    let host = addr.rsplit_once(':').map_or(addr, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']').to_owned()
}
