//! Whether a token holds: signature first, then what it says.
//!
//! Invariants: the algorithm is the key's, never the header's choice; nothing of a token is believed before its
//! signature is checked, except which key to try; work and memory are bounded by [`TOKEN_MAX`].

use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use serde::Deserialize;

use crate::bounds::TOKEN_MAX;
use crate::claims::Claims;
use crate::encoding::decode;
use crate::fault::TokenFault;
use crate::keys::{Algorithm, KeySet};

/// What is expected of a token beside its signature.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    /// One of these has to be among its audience; not checked if there are none.
    pub audiences: Vec<String>,
    /// One of these has to have made it; not checked if there are none.
    pub issuers: Vec<String>,
    /// How far clocks may be apart.
    pub leeway: Duration,
}

/// A token that holds.
#[derive(Clone, Debug)]
pub struct Verified {
    /// What it says.
    pub claims: Claims,
    /// The place of its key in the set.
    pub key: usize,
    /// From when on it does not hold any more: its `exp` and the leeway.
    pub until: u64,
}

/// What a token says, whoever made it.
#[derive(Clone, Debug)]
pub struct Unverified {
    /// How it claims to be signed.
    pub algorithm: String,
    /// The id of the key that it names.
    pub key_id: Option<String>,
    /// What it says.
    pub claims: Claims,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    crit: Option<serde_json::Value>,
}

struct Parts<'a> {
    message: &'a str,
    header: Header,
    payload: &'a str,
    signature: Vec<u8>,
}

/// Seconds since 1970.
pub fn now() -> u64 {
    // A clock before 1970 is no reason to take a token: everything is yet to come then.
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// What a token can be told by without keeping it: its SHA-256.
pub fn fingerprint(token: &[u8]) -> [u8; 32] {
    let mut print = [0; 32];
    // SHA-256 has 32 bytes; zip would notice no other length, and there is none.
    print.iter_mut().zip(digest(&SHA256, token).as_ref()).for_each(|(to, from)| *to = *from);
    print
}

/// Reads a token without checking it: for people, never to decide anything.
///
/// # Errors
/// It is none.
pub fn peek(token: &str) -> Result<Unverified, TokenFault> {
    let Parts { header, payload, .. } = split(token)?;
    Ok(Unverified { algorithm: header.alg, key_id: header.kid, claims: claims(payload)? })
}

impl KeySet {
    /// Checks a token at the time `now`, in seconds since 1970.
    ///
    /// # Errors
    /// Why it does not hold.
    pub fn verify(&self, token: &str, expected: &Expected, now: u64) -> Result<Verified, TokenFault> {
        let parts = split(token)?;
        let algorithm = Algorithm::parse(&parts.header.alg).ok_or(TokenFault::Algorithm)?;
        if parts.header.crit.is_some() {
            return Err(TokenFault::Critical);
        }
        let key = self.key_of(&parts, algorithm)?;
        let claims = claims(parts.payload)?;
        let until = check(&claims, expected, now)?;
        Ok(Verified { claims, key, until })
    }

    /// The key that has signed.
    fn key_of(&self, parts: &Parts<'_>, algorithm: Algorithm) -> Result<usize, TokenFault> {
        let named = parts.header.kid.as_deref();
        let has_named = named.is_some_and(|id| self.keys.iter().any(|key| key.id() == Some(id)));
        let is_meant = |id: Option<&str>| match (named, id) {
            // A key in PEM has no id, and may be anybody's.
            (Some(named), Some(id)) => named == id,
            (Some(_), None) => !has_named,
            (None, _) => true,
        };
        let mut fault = TokenFault::UnknownKey;
        for (place, key) in self.keys.iter().enumerate().filter(|(_, key)| is_meant(key.id())) {
            if key.algorithm() != algorithm {
                if has_named && fault == TokenFault::UnknownKey {
                    fault = TokenFault::KeyConfusion;
                }
            } else if key.has_signed(parts.message.as_bytes(), &parts.signature) {
                return Ok(place);
            } else {
                fault = TokenFault::Signature;
            }
        }
        Err(fault)
    }
}

fn split(token: &str) -> Result<Parts<'_>, TokenFault> {
    if token.len() > TOKEN_MAX {
        return Err(TokenFault::TooLong(token.len()));
    }
    let (message, signature) = token.rsplit_once('.').ok_or(TokenFault::NotAToken)?;
    let (header, payload) = message.split_once('.').ok_or(TokenFault::NotAToken)?;
    let signature = decode(signature).ok_or(TokenFault::NotAToken)?;
    let header = decode(header).ok_or(TokenFault::NotAToken)?;
    let header = serde_json::from_slice(&header).map_err(|_| TokenFault::Header)?;
    Ok(Parts { message, header, payload, signature })
}

fn claims(payload: &str) -> Result<Claims, TokenFault> {
    let payload = decode(payload).ok_or(TokenFault::NotAToken)?;
    let claims: Claims = serde_json::from_slice(&payload).map_err(|error| {
        // Which claim is missing is worth a word; what stands in the others is not for an error's text.
        let text = error.to_string();
        match ["sub", "exp"].into_iter().find(|name| text.starts_with(&format!("missing field `{name}`"))) {
            Some(name) => TokenFault::Missing(name),
            None => TokenFault::Claims(format!("byte {} is not as it should be", error.column())),
        }
    })?;
    claims.check().map_err(TokenFault::Claims)?;
    Ok(claims)
}

fn check(claims: &Claims, expected: &Expected, now: u64) -> Result<u64, TokenFault> {
    let leeway = expected.leeway.as_secs();
    let until = claims.exp.saturating_add(leeway);
    if now >= until {
        return Err(TokenFault::Expired(now - claims.exp));
    }
    if let Some(from) = claims.nbf
        && from > now.saturating_add(leeway)
    {
        return Err(TokenFault::NotYet(from - now));
    }
    if !expected.audiences.is_empty() {
        let audience = claims.aud.as_ref().ok_or(TokenFault::Missing("aud"))?;
        if !expected.audiences.iter().any(|name| audience.has(name)) {
            return Err(TokenFault::Audience);
        }
    }
    if !expected.issuers.is_empty() {
        let issuer = claims.iss.as_ref().ok_or(TokenFault::Missing("iss"))?;
        if !expected.issuers.contains(issuer) {
            return Err(TokenFault::Issuer);
        }
    }
    Ok(until)
}
