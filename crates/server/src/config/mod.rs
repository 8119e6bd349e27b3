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
mod strays;
mod subjects;
mod tls;
mod metrics;
mod telemetry;
mod validated;
mod effective;
mod health;
mod asked;

pub use asked::Asked;
pub use auth::{Auth, Jwt};
pub use health::{HealthQuestion, Trust};
pub use listen::ListenAddr;
pub(crate) use listen::dialable;
pub use metrics::MetricsConfig;
pub(crate) use quantity::show_size;
pub use refusal::Refusal;
pub use sources::Env;
pub use subjects::SubjectRates;
pub use telemetry::{LogFormat, Telemetry};
pub use tls::TlsFiles;
pub use validated::{Bounds, Config, Durability};

/// A sentence for each of the environment's `names` that begins as a setting does and is none.
pub fn stray_variables(names: impl IntoIterator<Item = std::ffi::OsString>) -> Vec<String> {
    strays::strays(names.into_iter().filter_map(|name| name.into_string().ok()))
}

#[cfg(test)]
mod tests;
