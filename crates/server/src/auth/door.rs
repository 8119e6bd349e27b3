//! [`Door`]: what of a request's headers says who calls.
//!
//! Invariants: every request of the contract's own methods comes through here before anything else looks at it; with
//! tokens nothing but a token gives anything; behind the door no header has the token any more.

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use mmap_core::error::{Errno, Error, Result};
use mmap_proto::names::CAPABILITIES;
use mmap_proto::reason::Reason;

use super::audit::{Audited, audit};
use super::tokens::{Grant, Tokens};

/// Who calls, before it is known which process.
#[derive(Clone, Debug)]
pub(crate) enum Identity {
    /// Whoever the headers say: callers are taken at their word.
    Trusted,
    /// Whom a token names.
    Granted(Arc<Grant>),
    /// Nobody: a request that needs no identity, or has none that holds.
    Nobody,
}

/// How requests are let in. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) enum Door {
    /// Everybody is.
    Open,
    /// Who has a token.
    Tokens(Arc<Tokens>),
}

impl Door {
    /// Has the files of keys looked at now.
    pub(crate) fn look_again(&self) {
        match self {
            Self::Open => {}
            Self::Tokens(tokens) => tokens.look_again(),
        }
    }

    /// Keeps the keys those of their files.
    pub(crate) async fn watch(&self) -> Infallible {
        match self {
            Self::Open => pending().await,
            Self::Tokens(tokens) => tokens.watch().await,
        }
    }

    /// Who makes the request with these headers to `method`, from `peer`. Takes the token out of them.
    ///
    /// # Errors
    /// EUNAUTH, or EINVAL for a header that has no place beside tokens.
    pub(crate) fn identify(&self, headers: &mut HeaderMap, method: &str, peer: &str) -> Result<Identity> {
        let tokens = match self {
            Self::Open => return Ok(Identity::Trusted),
            Self::Tokens(tokens) => tokens,
        };
        let granted = bearer(headers).and_then(|token| match headers.contains_key(CAPABILITIES) {
            true => Err(no_place()),
            false => tokens.grant(token),
        });
        if let Err(error) = &granted {
            tell(headers, method, peer, error);
        }
        headers.remove(AUTHORIZATION);
        granted.map(Identity::Granted)
    }
}

/// The token of the headers.
fn bearer(headers: &HeaderMap) -> Result<&str> {
    let malformed = |what| Error::new(Errno::UnAuth, what).with("why", "header");
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else {
        let sentence = "there is no token: send the header authorization: Bearer <token>";
        return Err(Error::new(Errno::UnAuth, sentence).with("why", "missing"));
    };
    if values.next().is_some() {
        return Err(malformed("there are several authorization headers: send one"));
    }
    let text = value.to_str().map_err(|_| malformed("the authorization header is not ASCII"))?;
    match text.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(token.trim_matches(' ')),
        Some(_) | None => Err(malformed("the authorization header is not of the form Bearer <token>")),
    }
}

fn no_place() -> Error {
    Error::invalid(
        CAPABILITIES,
        "mmap-capabilities has no place beside tokens, which say what the caller may do: leave the header out",
    )
}

fn tell(headers: &HeaderMap, method: &str, peer: &str, error: &Error) {
    let reason = if error.errno() == Errno::Inval { Reason::Inval } else { Reason::UnAuth };
    // What it says of itself, believed by nobody, helps to find whose it is.
    let claimed = bearer(headers).ok().and_then(|token| mmap_token::peek(token).ok());
    audit(Audited {
        reason: reason.as_str(),
        method,
        peer,
        claimed_subject: claimed.as_ref().map(|claimed| claimed.claims.sub.as_str()),
        claimed_key: claimed.as_ref().and_then(|claimed| claimed.key_id.as_deref()),
        why: error.message(),
        ..Audited::default()
    });
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn why(value: &[u8]) -> String {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_bytes(value).unwrap());
        bearer(&headers).map_or_else(|error| error.message().to_owned(), str::to_owned)
    }

    #[test]
    fn a_token_comes_as_the_contract_says() {
        for value in ["Bearer abc", "bearer abc", "BEARER  abc "] {
            assert_eq!(why(value.as_bytes()), "abc");
        }
        for value in [&b""[..], b"abc", b"Basic abc", b"Bearerabc", b"Bearer\tabc", b"Bearer \xff"] {
            assert!(why(value).contains("authorization header"), "{value:?}");
        }
        assert!(bearer(&HeaderMap::new()).unwrap_err().message().contains("no token"));
    }

    #[test]
    fn two_tokens_are_none() {
        let mut headers = HeaderMap::new();
        headers.append(AUTHORIZATION, HeaderValue::from_static("Bearer a"));
        headers.append(AUTHORIZATION, HeaderValue::from_static("Bearer b"));
        assert!(bearer(&headers).unwrap_err().message().contains("several"));
    }
}
