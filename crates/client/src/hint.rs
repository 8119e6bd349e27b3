//! What to do about a connection that failed in its TLS handshake: the libraries say what happened, not what to change.

use std::{error::Error as StdError, io};

use tokio_rustls::rustls::{CertificateError, Error};

/// What a person can do about `error`, if anything is known.
pub(crate) fn hint(error: &(dyn StdError + 'static)) -> Option<&'static str> {
    let error = std::iter::successors(Some(error), |error: &&'_ (dyn StdError + 'static)| (*error).source());
    error.filter_map(|error| error.downcast_ref::<io::Error>()).find_map(of_io)
}

fn of_io(error: &io::Error) -> Option<&'static str> {
    // An I/O error shows what it holds, and does not name it as its cause.
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(error) => of_tls(error),
        None => (error.kind() == io::ErrorKind::UnexpectedEof && error.to_string().contains("tls"))
            .then_some("the server may speak no TLS: try the address without https://"),
    }
}

fn of_tls(error: &Error) -> Option<&'static str> {
    if matches!(error, Error::InvalidMessage(_)) {
        return Some("the server seems to speak no TLS: try the address without https://");
    }
    if matches!(error, Error::AlertReceived(_)) {
        return Some("the server wants another client certificate, or one at all: give one of an authority it knows");
    }
    let Error::InvalidCertificate(why) = error else { return None };
    // A bad signature: an authority of the same name with another key, as after it was made anew.
    if matches!(why, CertificateError::UnknownIssuer | CertificateError::BadSignature) {
        return Some("the authority of the server's certificate is not known here: give its file");
    }
    if matches!(why, CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }) {
        return Some("the certificate is for another name: dial the server by that, or say which name to expect");
    }
    None
}
