//! Keys as JSON Web Key Sets (RFC 7517) have them.
//!
//! As the RFC asks, keys of kinds that are not known, and those for encryption, are passed over: an identity provider's
//! set may have some. One of a known kind that is malformed, weak or secret is an error: somebody meant it to be used.

use serde::Deserialize;

use crate::encoding::decode;
use crate::fault::KeyFault;
use crate::keys::{KeySet, PublicKey};

#[derive(Deserialize)]
struct Set {
    keys: Vec<Jwk>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    alg: Option<String>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    n: Option<String>,
    e: Option<String>,
    /// Of a private key.
    d: Option<serde::de::IgnoredAny>,
    /// Of a secret one.
    k: Option<serde::de::IgnoredAny>,
}

impl KeySet {
    /// The keys of a file: a JWKS, or public keys in PEM.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn read(text: &str) -> Result<Vec<PublicKey>, KeyFault> {
        let keys = if text.trim_start().starts_with('{') { of_jwks(text)? } else { crate::pem::public_keys(text)? };
        if keys.is_empty() { Err(KeyFault::None) } else { Ok(keys) }
    }
}

fn of_jwks(text: &str) -> Result<Vec<PublicKey>, KeyFault> {
    let set: Set = serde_json::from_str(text).map_err(|error| KeyFault::Unreadable(error.to_string()))?;
    set.keys.into_iter().filter_map(|jwk| key_of(jwk).transpose()).collect()
}

/// `None`: it is for something else.
fn key_of(jwk: Jwk) -> Result<Option<PublicKey>, KeyFault> {
    if jwk.d.is_some() || jwk.k.is_some() || jwk.kty == "oct" {
        return Err(KeyFault::Secret);
    }
    if jwk.purpose.as_ref().is_some_and(|purpose| purpose != "sig") {
        return Ok(None);
    }
    let name = jwk.kid.as_deref().unwrap_or("without an id").escape_default().take(64).collect::<String>();
    let malformed = |what| KeyFault::Malformed(name.clone(), what);
    let part = |text: &Option<String>, what| {
        text.as_deref().and_then(decode).ok_or_else(|| KeyFault::Malformed(name.clone(), what))
    };
    let key = match (jwk.kty.as_str(), jwk.crv.as_deref(), jwk.alg.as_deref()) {
        ("OKP", Some("Ed25519"), None | Some("EdDSA" | "Ed25519")) => {
            let x = part(&jwk.x, "x is not base64url")?;
            let key = (x.len() == 32).then(|| PublicKey::ed25519(jwk.kid, &x)).flatten();
            key.ok_or_else(|| malformed("x is no point of Ed25519"))?
        }
        ("EC", Some("P-256"), None | Some("ES256")) => {
            let (x, y) = (part(&jwk.x, "x is not base64url")?, part(&jwk.y, "y is not base64url")?);
            let point = [&[4], x.as_slice(), y.as_slice()].concat();
            let key = (x.len() == 32 && y.len() == 32).then(|| PublicKey::p256(jwk.kid, &point)).flatten();
            key.ok_or_else(|| malformed("x and y are no point of P-256"))?
        }
        ("RSA", _, None | Some("RS256")) => {
            let (n, e) = (part(&jwk.n, "n is not base64url")?, part(&jwk.e, "e is not base64url")?);
            PublicKey::rsa_of(jwk.kid, &n, &e).ok_or_else(|| malformed("n and e are no RSA key"))??
        }
        _ => return Ok(None),
    };
    Ok(Some(key))
}
