//! What to do about a connection that failed in its TLS handshake: the libraries say what happened, not what to change.

use std::{error::Error as StdError, io};

use tokio_rustls::rustls::{CertificateError, Error};

/// What a person can do about `error`, if anything is known.
pub(crate) fn hint(error: &(dyn StdError + 'static)) -> Option<&'static str> {
    io_errors(error).find_map(of_io)
}

/// The same for a new connection with TLS. A server without it closes when it has read the beginning of a handshake,
/// and what of that it has not read makes a reset of the close, now and then (RFC 1122, 4.2.2.13).
pub(crate) fn hint_of_new(error: &(dyn StdError + 'static)) -> Option<&'static str> {
    let is_reset = |error: &io::Error| error.kind() == io::ErrorKind::ConnectionReset;
    hint(error).or_else(|| io_errors(error).any(is_reset).then_some(NO_TLS))
}

const NO_TLS: &str = "the server may speak no TLS: try the address without https://";

fn io_errors<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a io::Error> {
    let causes = std::iter::successors(Some(error), |error: &&'a (dyn StdError + 'static)| (*error).source());
    causes.filter_map(|error| error.downcast_ref::<io::Error>())
}

fn of_io(error: &io::Error) -> Option<&'static str> {
    // An I/O error shows what it holds, and does not name it as its cause.
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(error) => of_tls(error),
        None => (error.kind() == io::ErrorKind::UnexpectedEof && error.to_string().contains("tls")).then_some(NO_TLS),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_of_a_new_connection_may_come_of_a_server_without_tls() {
        let reset = io::Error::from(io::ErrorKind::ConnectionReset);
        assert_eq!((hint(&reset), hint_of_new(&reset)), (None, Some(NO_TLS)));
        assert_eq!(hint_of_new(&io::Error::from(io::ErrorKind::ConnectionRefused)), None);
    }
}
