//! Configuration: raw texts from flags, environment and file go in, one validated [`Config`] comes out, and
//! nothing behind this door parses or checks a setting again. In dependency order.

mod keys;
mod listen;
mod machine;
mod mounts;
mod quantity;
mod refusal;
mod sources;
mod subjects;
mod validated;

pub use listen::ListenAddr;
pub(crate) use quantity::show_size;
pub use refusal::Refusal;
pub use subjects::SubjectRates;
pub use validated::{Bounds, Config, Durability, Env};

#[cfg(test)]
mod tests;
