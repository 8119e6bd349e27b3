//! [`Material`]: certificate, key and authorities of clients, read from their files and checked to fit together.
//!
//! Invariant: who has a material has one that handshakes can be made with. What is doubtful but works (an expired
//! certificate, a key that others can read) is told as a warning.

use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio_rustls::rustls::client::verify_server_cert_signed_by_trust_anchor;
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs};
use tokio_rustls::rustls::pki_types::pem::{self, PemObject as _};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use tokio_rustls::rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use tokio_rustls::rustls::{CertificateError, Error, InconsistentKeys, RootCertStore, ServerConfig};

use crate::config::TlsFiles;

/// HTTP/2, the only protocol that is spoken.
pub(super) const ALPN_H2: &[u8] = b"h2";
/// A certificate that ends sooner is told of: renewal most often begins 30 days before, and has failed by then.
const EXPIRES_SOON: Duration = Duration::from_hours(7 * 24);
/// Bytes of a file that holds certificates or a key; whatever is larger is something else.
const FILE_MAX: u64 = 4 << 20;

/// What handshakes are made with.
#[derive(Debug)]
pub(crate) struct Material {
    pub(crate) config: Arc<ServerConfig>,
    /// What a person should look at.
    pub(crate) warnings: Vec<String>,
}

/// The files' bytes.
#[derive(Debug)]
pub(super) struct Contents {
    cert: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl Material {
    /// Reads the files and checks that they fit together. It blocks.
    ///
    /// # Errors
    /// A sentence that names the file at fault.
    pub(crate) fn read(files: &TlsFiles) -> Result<Self, String> {
        Self::of(files, &Contents::read(files)?)
    }

    /// The material that `contents` of `files` make.
    pub(super) fn of(files: &TlsFiles, contents: &Contents) -> Result<Self, String> {
        let chain = certificates(&files.cert, &contents.cert)?;
        let key = private_key(&files.key, &contents.key)?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let warnings = doubts(&chain, &provider).into_iter().map(|what| format!("{}: {what}", files.cert.display()));
        let warnings = warnings.chain(readable_by_others(&files.key)).collect();
        let wrong = |error: Error| mismatch(files, &error);
        let builder = ServerConfig::builder_with_provider(provider.clone());
        let builder = builder.with_safe_default_protocol_versions().map_err(wrong)?;
        let builder = match (&files.client_ca, &contents.client_ca) {
            (Some(file), Some(pem)) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(authorities(file, pem)?, provider).build();
                builder.with_client_cert_verifier(verifier.map_err(|error| unusable(file, &error.to_string()))?)
            }
            _ => builder.with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(chain, key).map_err(wrong)?;
        config.alpn_protocols = vec![ALPN_H2.to_vec()];
        // Connections live long, so resuming saves nothing; and a client's certificate is looked at each time.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self { config: Arc::new(config), warnings })
    }
}

impl Contents {
    pub(super) fn read(files: &TlsFiles) -> Result<Self, String> {
        let client_ca = files.client_ca.as_deref().map(bytes_of).transpose()?;
        Ok(Self { cert: bytes_of(&files.cert)?, key: bytes_of(&files.key)?, client_ca })
    }

    /// Differs where the contents differ: good enough to see a change, and holds no key.
    pub(super) fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&self.cert, &self.key, &self.client_ca).hash(&mut hasher);
        hasher.finish()
    }
}

pub(super) fn bytes_of(file: &Path) -> Result<Vec<u8>, String> {
    let cannot = |error: std::io::Error| format!("the file {} cannot be read: {error}", file.display());
    if fs::metadata(file).map_err(cannot)?.len() > FILE_MAX {
        return Err(unusable(file, "it is too large to hold certificates or a key"));
    }
    fs::read(file).map_err(cannot)
}

pub(super) fn certificates(file: &Path, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    match read {
        Ok(chain) if chain.is_empty() => Err(unusable(file, "it holds no certificate in PEM form")),
        Ok(chain) => Ok(chain),
        Err(error) => Err(unusable(file, &error.to_string())),
    }
}

pub(super) fn private_key(file: &Path, text: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(text).map_err(|error| {
        let is_missing = matches!(error, pem::Error::NoItemsFound);
        // The reason is told without what stands in the file.
        let why = if is_missing {
            "it holds no private key in PEM form without a passphrase"
        } else {
            "its PEM form is damaged"
        };
        unusable(file, why)
    })
}

pub(super) fn authorities(file: &Path, text: &[u8]) -> Result<Arc<RootCertStore>, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file, text)? {
        roots.add(certificate).map_err(|error| unusable(file, &error.to_string()))?;
    }
    Ok(Arc::new(roots))
}

fn unusable(file: &Path, why: &str) -> String {
    format!("the file {} cannot be used: {why}", file.display())
}

fn mismatch(files: &TlsFiles, error: &Error) -> String {
    let (cert, key) = (files.cert.display(), files.key.display());
    if *error == Error::InconsistentKeys(InconsistentKeys::KeyMismatch) {
        return format!(
            "the key {key} does not belong to the certificate {cert}: give the two that were made together"
        );
    }
    format!("the certificate {cert} and the key {key} cannot be used: {error}")
}

/// What is wrong with the server's own certificate, as far as that can be told without its authority.
fn doubts(chain: &[CertificateDer<'_>], provider: &CryptoProvider) -> Option<String> {
    let verdict = |time: UnixTime| -> Result<(), Error> {
        let certificate = ParsedCertificate::try_from(chain.first().ok_or(Error::NoCertificatesPresented)?)?;
        let algorithms = provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&certificate, &RootCertStore::empty(), &[], time, algorithms)
    };
    let now = UnixTime::now();
    let days = |seconds: u64| seconds / 86_400;
    match verdict(now) {
        Err(Error::InvalidCertificate(CertificateError::ExpiredContext { time, not_after })) => {
            let ago = days(time.as_secs().saturating_sub(not_after.as_secs()));
            return Some(format!("the certificate EXPIRED {ago} days ago: clients will refuse this server"));
        }
        Err(Error::InvalidCertificate(CertificateError::NotValidYetContext { .. })) => {
            return Some("the certificate is NOT VALID YET: clients will refuse this server".to_owned());
        }
        Err(Error::InvalidCertificate(CertificateError::InvalidPurposeContext { .. })) => {
            return Some("the certificate is NOT FOR SERVERS: clients will refuse this server".to_owned());
        }
        // Its authority is not known here, and need not be.
        Ok(()) | Err(_) => {}
    }
    match verdict(UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs()) + EXPIRES_SOON)) {
        Err(Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })) => {
            let left = days(not_after.as_secs().saturating_sub(now.as_secs()));
            Some(format!("the certificate expires in {left} days: replace the file, it is read again by itself"))
        }
        Ok(()) | Err(_) => None,
    }
}

fn readable_by_others(key: &Path) -> Option<String> {
    let mode = fs::metadata(key).ok()?.permissions().mode();
    (mode & 0o007 != 0).then(|| format!("every user of this machine can read the key {}: chmod 600 it", key.display()))
}
