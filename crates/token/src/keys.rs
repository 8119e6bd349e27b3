//! [`KeySet`]: the public keys that tokens may be signed with.
//!
//! Invariant: a key is for one algorithm, which follows from its kind. What a token's header says never changes it.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rsa::PublicEncryptingKey;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents,
};

use crate::bounds::KEYS_MAX;
use crate::fault::KeyFault;

/// How a token is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// Ed25519.
    EdDsa,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// RSA (PKCS #1 v1.5) with SHA-256.
    Rs256,
}

impl Algorithm {
    /// Its name in a header.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EdDsa => "EdDSA",
            Self::Es256 => "ES256",
            Self::Rs256 => "RS256",
        }
    }

    pub(crate) fn parse(name: &str) -> Option<Self> {
        [Self::EdDsa, Self::Es256, Self::Rs256].into_iter().find(|algorithm| algorithm.as_str() == name)
    }
}

/// A key that tokens may be signed with.
#[derive(Clone)]
pub struct PublicKey {
    id: Option<String>,
    algorithm: Algorithm,
    key: ParsedPublicKey,
}

impl PublicKey {
    /// Ed25519, from its 32 bytes or its DER.
    pub(crate) fn ed25519(id: Option<String>, bytes: &[u8]) -> Option<Self> {
        Some(Self { id, algorithm: Algorithm::EdDsa, key: ParsedPublicKey::new(&ED25519, bytes).ok()? })
    }

    /// P-256, from its uncompressed point or its DER.
    pub(crate) fn p256(id: Option<String>, bytes: &[u8]) -> Option<Self> {
        Some(Self { id, algorithm: Algorithm::Es256, key: ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, bytes).ok()? })
    }

    /// RSA, from its DER.
    pub(crate) fn rsa(id: Option<String>, der: &[u8]) -> Option<Result<Self, KeyFault>> {
        Some(Self::of_rsa(id, ParsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, der).ok()?))
    }

    /// RSA, from its numbers, big-endian.
    pub(crate) fn rsa_of(id: Option<String>, n: &[u8], e: &[u8]) -> Option<Result<Self, KeyFault>> {
        let key = RsaPublicKeyComponents { n, e }.to_parsed_public_key(&RSA_PKCS1_2048_8192_SHA256).ok()?;
        Some(Self::of_rsa(id, key))
    }

    fn of_rsa(id: Option<String>, key: ParsedPublicKey) -> Result<Self, KeyFault> {
        let key = Self { id, algorithm: Algorithm::Rs256, key };
        // It takes 2048 to 8192 bits and nothing else.
        match PublicEncryptingKey::from_der(key.key.as_ref()) {
            Ok(_) => Ok(key),
            Err(_) => Err(KeyFault::Weak(key.name())),
        }
    }

    /// The id that tokens name it by.
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// What it is for.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// What to call it in a log: its id, else the beginning of its hash.
    pub fn name(&self) -> String {
        match &self.id {
            Some(id) => id.escape_default().take(64).collect(),
            None => {
                digest(&SHA256, self.key.as_ref()).as_ref().iter().take(6).map(|byte| format!("{byte:02x}")).collect()
            }
        }
    }

    /// Whether both are the same key under the same id.
    pub fn is(&self, other: &Self) -> bool {
        self.id == other.id && self.algorithm == other.algorithm && self.key.as_ref() == other.key.as_ref()
    }

    pub(crate) fn has_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        self.key.verify_sig(message, signature).is_ok()
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.algorithm.as_str(), self.name())
    }
}

/// The keys that tokens may be signed with.
#[derive(Clone, Debug, Default)]
pub struct KeySet {
    pub(crate) keys: Vec<PublicKey>,
}

impl KeySet {
    /// The keys, each once.
    ///
    /// # Errors
    /// There are too many, or two with one id.
    pub fn of(keys: impl IntoIterator<Item = PublicKey>) -> Result<Self, KeyFault> {
        let mut set = Self::default();
        for key in keys {
            if set.keys.iter().any(|known| known.is(&key)) {
                continue;
            }
            if key.id.is_some() && set.keys.iter().any(|known| known.id == key.id) {
                return Err(KeyFault::Twice(key.name()));
            }
            set.keys.push(key);
        }
        if set.keys.len() > KEYS_MAX {
            return Err(KeyFault::TooMany(set.keys.len()));
        }
        Ok(set)
    }

    /// The keys, in their order.
    pub fn keys(&self) -> &[PublicKey] {
        &self.keys
    }
}
