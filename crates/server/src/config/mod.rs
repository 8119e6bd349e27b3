//! Configuration: raw texts from flags, environment and file go in, one validated [`Config`] comes out, and
//! nothing behind this door parses or checks a setting again. In dependency order.

mod keys;
mod listen;
mod machine;
mod mounts;
mod quantity;
mod refusal;
mod sources;
mod auth;
mod validated;

pub use auth::{Auth, Jwt};
pub use listen::ListenAddr;
pub(crate) use quantity::show_size;
pub use refusal::Refusal;
pub use validated::{Bounds, Config, Durability, Env};

#[cfg(test)]
mod tests;
