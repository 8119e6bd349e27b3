//! mmap-token: what a token of mmapd says ([`claims`]), who may have signed it ([`keys`]), whether it holds
//! ([`KeySet::verify`](keys::KeySet::verify)), and how one is made ([`signing`]).
//!
//! A token is a JSON Web Token in its compact form (RFC 7515, RFC 7519), signed with EdDSA, ES256 or RS256. The crypto is
//! aws-lc's. Nothing here reads files, keeps tokens or knows gRPC.
//!
//! The modules stand in dependency order: a file uses only what stands above it.

mod bounds;
mod encoding;
pub mod fault;
pub mod claims;
pub mod keys;
mod verify;
mod pem;
mod jwks;
pub mod signing;

pub use bounds::{KEYS_MAX, TOKEN_MAX};
pub use claims::{Audience, Claims, PathClaim, Rights};
pub use fault::{KeyFault, TokenFault};
pub use keys::{Algorithm, KeySet, PublicKey};
pub use signing::PrivateKey;
pub use verify::{Expected, Unverified, Verified, fingerprint, now, peek};

#[cfg(test)]
mod tests;
