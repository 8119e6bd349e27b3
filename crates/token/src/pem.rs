//! Public keys in PEM: blocks of `PUBLIC KEY`, as `openssl pkey -pubout` writes them. They have no ids.

use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject as _;

use crate::fault::KeyFault;
use crate::keys::PublicKey;

pub(crate) fn public_keys(text: &str) -> Result<Vec<PublicKey>, KeyFault> {
    if text.contains("PRIVATE KEY-----") {
        return Err(KeyFault::Secret);
    }
    let blocks = SubjectPublicKeyInfoDer::pem_slice_iter(text.as_bytes());
    let keys = blocks.enumerate().map(|(index, der)| {
        let der = der.map_err(|error| KeyFault::Unreadable(format!("{error:?}")))?;
        public_key(&der, index + 1)
    });
    let keys: Vec<_> = keys.collect::<Result<_, _>>()?;
    if keys.is_empty() {
        return Err(KeyFault::Unreadable("there is no block PUBLIC KEY in it".to_owned()));
    }
    Ok(keys)
}

fn public_key(der: &[u8], number: usize) -> Result<PublicKey, KeyFault> {
    // What kind it is stands in it, so that at most one of them takes it.
    if let Some(key) = PublicKey::ed25519(None, der).or_else(|| PublicKey::p256(None, der)) {
        return Ok(key);
    }
    PublicKey::rsa(None, der)
        .unwrap_or_else(|| Err(KeyFault::Malformed(format!("number {number}"), "it is not Ed25519, P-256 or RSA")))
}
