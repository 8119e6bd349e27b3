//! [`TlsFiles`]: which files make TCP listeners speak TLS; and the rule of who may be listened to without it.
//!
//! It says where the files are. Whether they can be read and fit together is found out by who reads them.

use std::path::PathBuf;

use super::listen::ListenAddr;
use super::refusal::Refusal;
use super::sources::Settings;

/// The files of a server that speaks TLS: PEM, each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate first, then those that lead to its authority.
    pub cert: PathBuf,
    /// The certificate's private key.
    pub key: PathBuf,
    /// The authorities of clients: who has no certificate of one of them is refused. `None`: nobody is asked.
    pub client_ca: Option<PathBuf>,
}

impl TlsFiles {
    /// The files that are set, if any.
    ///
    /// # Errors
    /// One of them is set without another that it needs.
    pub(super) fn read(settings: &Settings) -> Result<Option<Self>, Refusal> {
        let file = |key| settings.one(key, |path| Ok(PathBuf::from(path)));
        match (file("tls-cert")?, file("tls-key")?, file("tls-client-ca")?) {
            (Some(cert), Some(key), client_ca) => Ok(Some(Self { cert, key, client_ca })),
            (None, None, None) => Ok(None),
            (Some(_), None, _) => Err(settings.refuse("tls-cert", "a certificate needs its key: add --tls-key FILE")),
            (None, Some(_), _) => Err(settings.refuse("tls-key", "a key needs its certificate: add --tls-cert FILE")),
            (None, None, Some(_)) => Err(settings.refuse(
                "tls-client-ca",
                "clients show certificates over TLS only: add --tls-cert FILE and --tls-key FILE",
            )),
        }
    }
}

/// Refuses to be reached from other machines by callers who are taken at their word, or without TLS.
pub(super) fn check_exposure(
    settings: &Settings,
    listen: &[ListenAddr],
    tls: Option<&TlsFiles>,
) -> Result<(), Refusal> {
    let Some(addr) = listen.iter().find(|addr| !addr.is_local()) else { return Ok(()) };
    let is_trusting = settings.one("auth", |mode| Ok(mode == "trust"))?.unwrap_or(true);
    let why = match (is_trusting, tls) {
        (true, _) => "with --auth trust whoever reaches it may do everything",
        (false, None) => "without TLS whoever sits between reads the tokens: add --tls-cert and --tls-key",
        (false, Some(_)) => return Ok(()),
    };
    Err(settings.refuse(
        "listen",
        &format!(
            "{addr} can be reached from other machines, and {why}; listen on 127.0.0.1 or unix:/path, or add \
             --insecure if the network is trusted"
        ),
    ))
}
