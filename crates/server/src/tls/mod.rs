//! TLS below HTTP/2: what makes a connection one of TLS, and its renewal while the server runs.
//!
//! In dependency order: the files become one [`Material`]; [`Tls`] makes handshakes with the present one, and replaces
//! it.

mod material;
mod refusals;
mod handshakes;
mod outward;

pub(crate) use handshakes::{Tls, TlsStream};
pub(crate) use material::Material;
pub(crate) use outward::client_config;
