//! [`Tls`]: whom a client trusts, and who it is, when it speaks TLS.

use std::{fmt, path::Path};

use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use crate::error::{Error, Result};

/// See the module.
#[derive(Clone, Default)]
pub(crate) struct Tls {
    authorities: Vec<Certificate>,
    identity: Option<Identity>,
    server_name: Option<String>,
}

impl Tls {
    /// Trusts the authorities in `pem`, and no longer those of the system.
    pub(crate) fn add_authorities(&mut self, pem: Vec<u8>) {
        self.authorities.push(Certificate::from_pem(pem));
    }

    /// Shows this certificate to a server that asks for one.
    pub(crate) fn set_identity(&mut self, cert_pem: Vec<u8>, key_pem: Vec<u8>) {
        self.identity = Some(Identity::from_pem(cert_pem, key_pem));
    }

    /// Expects a certificate of this name, and not of the address's host.
    pub(crate) fn set_server_name(&mut self, name: String) {
        self.server_name = Some(name);
    }

    /// Whether anything was said about it.
    pub(crate) fn is_set(&self) -> bool {
        !self.authorities.is_empty() || self.identity.is_some() || self.server_name.is_some()
    }

    /// `endpoint` over TLS. It blocks where it reads the system's authorities.
    ///
    /// # Errors
    /// Usage: what was given cannot be used.
    pub(crate) fn secure(&self, endpoint: Endpoint) -> Result<Endpoint> {
        let mut config = ClientTlsConfig::new().ca_certificates(self.authorities.iter().cloned());
        if self.authorities.is_empty() {
            config = config.with_native_roots();
        }
        if let Some(authority) = self.authorities.iter().find(|authority| !holds_certificate(authority)) {
            let bytes = authority.as_ref().len();
            return Err(Error::usage(format!(
                "the authorities' file ({bytes} bytes) holds no certificate in PEM form"
            )));
        }
        if let Some(identity) = &self.identity {
            config = config.identity(identity.clone());
        }
        if let Some(name) = &self.server_name {
            config = config.domain_name(name);
        }
        endpoint
            .tls_config(config)
            .map_err(|error| Error::usage(format!("TLS cannot be set up: {}", crate::error::innermost(&error))))
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the key.
        f.debug_struct("Tls").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

fn holds_certificate(pem: &Certificate) -> bool {
    let mark = b"-----BEGIN CERTIFICATE-----";
    pem.as_ref().windows(mark.len()).any(|window| window == mark)
}

/// A file's bytes.
///
/// # Errors
/// Usage: it cannot be read.
pub(crate) fn read(file: &Path) -> Result<Vec<u8>> {
    std::fs::read(file).map_err(|error| Error::usage(format!("{} cannot be read: {error}", file.display())))
}
