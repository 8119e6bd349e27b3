//! [`PrivateKey`]: makes tokens. For the tools of operators and for tests; a server never has one.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::{Value, json};

use crate::claims::Claims;
use crate::encoding::encode;
use crate::fault::KeyFault;
use crate::keys::Algorithm;

/// Characters of a line of PEM.
const PEM_LINE: usize = 64;

/// A key that signs tokens.
pub struct PrivateKey(Kind);

enum Kind {
    Ed25519(Ed25519KeyPair),
    P256(EcdsaKeyPair),
    Rsa(RsaKeyPair),
}

impl PrivateKey {
    /// A new Ed25519 key, and its PEM.
    ///
    /// # Errors
    /// The crypto library has no random numbers.
    pub fn generate() -> Result<(Self, String), KeyFault> {
        let pair = Ed25519KeyPair::generate().map_err(|_| KeyFault::Crypto("no key could be made"))?;
        let der = pair.to_pkcs8v1().map_err(|_| KeyFault::Crypto("the key could not be written"))?;
        Ok((Self(Kind::Ed25519(pair)), pem("PRIVATE KEY", der.as_ref())))
    }

    /// A key in PEM (PKCS #8): Ed25519, P-256 or RSA.
    ///
    /// # Errors
    /// It is none of these.
    pub fn from_pem(text: &str) -> Result<Self, KeyFault> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(text.as_bytes()).map_err(|_| {
            KeyFault::Unreadable("there is no block PRIVATE KEY (PKCS #8) in it; openssl pkcs8 -topk8 makes one".into())
        })?;
        let der = der.secret_pkcs8_der();
        if let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der) {
            return Ok(Self(Kind::Ed25519(pair)));
        }
        if let Ok(pair) = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der) {
            return Ok(Self(Kind::P256(pair)));
        }
        match RsaKeyPair::from_pkcs8(der) {
            Ok(pair) => Ok(Self(Kind::Rsa(pair))),
            Err(_) => {
                Err(KeyFault::Malformed("in PEM".to_owned(), "it is not Ed25519, P-256 or RSA of 2048 bits or more"))
            }
        }
    }

    /// What it signs with.
    pub fn algorithm(&self) -> Algorithm {
        match &self.0 {
            Kind::Ed25519(_) => Algorithm::EdDsa,
            Kind::P256(_) => Algorithm::Es256,
            Kind::Rsa(_) => Algorithm::Rs256,
        }
    }

    /// Its public half in PEM.
    ///
    /// # Errors
    /// The crypto library refused.
    pub fn public_pem(&self) -> Result<String, KeyFault> {
        let der = match &self.0 {
            Kind::Ed25519(pair) => pair.public_key().as_der(),
            Kind::P256(pair) => pair.public_key().as_der(),
            Kind::Rsa(pair) => pair.public_key().as_der(),
        };
        let der = der.map_err(|_| KeyFault::Crypto("the public key could not be written"))?;
        Ok(pem("PUBLIC KEY", der.as_ref()))
    }

    /// Its public half as a JWK, under `id`, else under its thumbprint (RFC 7638).
    ///
    /// # Errors
    /// It is an RSA key, whose numbers the crypto library does not tell: use its PEM.
    pub fn public_jwk(&self, id: Option<&str>) -> Result<Value, KeyFault> {
        let mut jwk = match &self.0 {
            Kind::Ed25519(pair) => json!({"crv": "Ed25519", "kty": "OKP", "x": encode(pair.public_key().as_ref())}),
            Kind::P256(pair) => {
                let point = pair.public_key().as_ref();
                let (x, y) = point.get(1..).and_then(|both| both.split_at_checked(32)).unwrap_or_default();
                json!({"crv": "P-256", "kty": "EC", "x": encode(x), "y": encode(y)})
            }
            Kind::Rsa(_) => return Err(KeyFault::Crypto("an RSA key has no JWK here, use its public key in PEM")),
        };
        // The members that make the thumbprint, in their order and without spaces: as serde_json sorts and writes them.
        let thumbprint = encode(digest(&SHA256, jwk.to_string().as_bytes()));
        jwk["kid"] = json!(id.unwrap_or(&thumbprint));
        jwk["alg"] = json!(self.algorithm().as_str());
        jwk["use"] = json!("sig");
        Ok(jwk)
    }

    /// A token that says `claims`, naming the key `id`.
    ///
    /// # Errors
    /// The claims are not ones that a server would take, or the crypto library refused.
    pub fn mint(&self, id: Option<&str>, claims: &Claims) -> Result<String, KeyFault> {
        claims.check().map_err(KeyFault::Claims)?;
        let claims = serde_json::to_value(claims).map_err(|_| KeyFault::Crypto("the claims cannot be written"))?;
        let mut header = json!({"alg": self.algorithm().as_str(), "typ": "JWT"});
        if let Some(id) = id {
            header["kid"] = json!(id);
        }
        self.sign(&header, &claims)
    }

    /// A token with any header and claims: for those who test servers.
    ///
    /// # Errors
    /// The crypto library refused.
    pub fn sign(&self, header: &Value, claims: &Value) -> Result<String, KeyFault> {
        let message = format!("{}.{}", encode(header.to_string()), encode(claims.to_string()));
        let refused = |_| KeyFault::Crypto("it could not sign");
        let signature = match &self.0 {
            Kind::Ed25519(pair) => pair.sign(message.as_bytes()).as_ref().to_vec(),
            Kind::P256(pair) => pair.sign(&SystemRandom::new(), message.as_bytes()).map_err(refused)?.as_ref().to_vec(),
            Kind::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                let random = SystemRandom::new();
                pair.sign(&RSA_PKCS1_SHA256, &random, message.as_bytes(), &mut signature).map_err(refused)?;
                signature
            }
        };
        Ok(format!("{message}.{}", encode(signature)))
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PrivateKey").field(&self.algorithm()).finish()
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines = text.as_bytes().chunks(PEM_LINE).map(|line| String::from_utf8_lossy(line) + "\n");
    format!("-----BEGIN {label}-----\n{}-----END {label}-----\n", lines.collect::<String>())
}
