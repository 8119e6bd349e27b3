//! Why a token does not hold ([`TokenFault`]), and why a key is none ([`KeyFault`]). What is said never quotes a token.

/// Why a token does not hold. The text is a phrase about the token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenFault {
    /// Longer than any that is looked at.
    #[error("it has {0} bytes, more than {max}", max = crate::bounds::TOKEN_MAX)]
    TooLong(usize),
    /// Not three parts of base64url.
    #[error("it is not three parts of base64url with dots between them")]
    NotAToken,
    /// Its header is not one.
    #[error("its header cannot be read")]
    Header,
    /// The header asks for something that has to be understood, and is not.
    #[error("its header has critical extensions (crit), which this server does not know")]
    Critical,
    /// None of those that are taken.
    #[error("its algorithm is not EdDSA, ES256 or RS256")]
    Algorithm,
    /// No key of this id, or none without one.
    #[error("it is signed by a key that this server does not know")]
    UnknownKey,
    /// The key that it names is for another algorithm.
    #[error("its algorithm is not that of the key that it names")]
    KeyConfusion,
    /// The signature is not the key's.
    #[error("its signature is wrong")]
    Signature,
    /// It does not say what a token has to say, or says it wrongly.
    #[error("its claims cannot be read: {0}")]
    Claims(String),
    /// A claim is missing.
    #[error("it has no {0}")]
    Missing(&'static str),
    /// Past its end.
    #[error("it expired {0} s ago")]
    Expired(u64),
    /// Before its beginning.
    #[error("it is not valid before {0} s from now")]
    NotYet(u64),
    /// For others.
    #[error("it is meant for another audience")]
    Audience,
    /// By others.
    #[error("it is from another issuer")]
    Issuer,
}

impl TokenFault {
    /// A word for programs.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::TooLong(_) => "too-long",
            Self::NotAToken => "not-a-token",
            Self::Header => "header",
            Self::Critical => "critical",
            Self::Algorithm => "algorithm",
            Self::UnknownKey => "unknown-key",
            Self::KeyConfusion => "key-confusion",
            Self::Signature => "signature",
            Self::Claims(_) => "claims",
            Self::Missing(_) => "missing-claim",
            Self::Expired(_) => "expired",
            Self::NotYet(_) => "not-yet",
            Self::Audience => "audience",
            Self::Issuer => "issuer",
        }
    }
}

/// Why a key cannot be used. The text is a sentence without its place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyFault {
    /// Neither form.
    #[error("it is neither a JWKS nor public keys in PEM: {0}")]
    Unreadable(String),
    /// A secret where public keys belong.
    #[error("it holds a private or secret key: give the server the public ones only")]
    Secret,
    /// A key that is malformed.
    #[error("the key {0} is malformed: {1}")]
    Malformed(String, &'static str),
    /// Short enough to be broken.
    #[error("the RSA key {0} has less than 2048 bits: make a longer one, or an Ed25519 key")]
    Weak(String),
    /// No key that could sign a token.
    #[error("it has no key for EdDSA, ES256 or RS256")]
    None,
    /// More than are looked through.
    #[error("there are {0} keys, more than {max}", max = crate::bounds::KEYS_MAX)]
    TooMany(usize),
    /// Two keys that could be meant by one id.
    #[error("two different keys have the id {0}")]
    Twice(String),
    /// What is to be signed is nothing that a server would take.
    #[error("such a token would be refused: {0}")]
    Claims(String),
    /// The crypto failed.
    #[error("the crypto library refused: {0}")]
    Crypto(&'static str),
}
